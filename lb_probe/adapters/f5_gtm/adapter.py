"""A pool of BIG-IP DNS: the member with the traffic is enabled, all others are disabled.

Every unit of a sync group answers clients, so each is read. One takes the change and tells the
others by itself; one that has not followed within some seconds is written to directly.

What DNS cannot do: clients keep the old answer for the pool's ttl and longer, and connections stay
where they are. Nothing can be closed either, so a planned switchover has no gap here.

Source: DESIGN section 1; BIG-IP DNS concepts (synchronization); X2 (read back).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lb_probe.adapters.f5_gtm import members
from lb_probe.adapters.f5_gtm.members import PoolState
from lb_probe.adapters.icontrol import Icontrol, Missing, Unit, Units
from lb_probe.adapters.icontrol.adapter import POLL_S, Change, Doubtful
from lb_probe.adapters.icontrol.answers import items_of
from lb_probe.adapters.icontrol.beside import Question
from lb_probe.adapters.icontrol.follow_up import Step
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable

FIRST_S = 2.0  # for the first answer of all
SOON_S = 0.3  # more than its usual time: one that hangs delays no reading longer
USUAL = 3  # times its last answer's time, for a unit that is far away
FRESH_S = 0.5  # a reading that a move may go by
LAG_S = 10.0  # a unit may take so long to follow the one that was written to
FOLLOW_POLL_S = 0.5
HAND_S = 1.0  # a reading waits so long for units that differ, and not by our doing
HAND_POLL_S = 0.1

Answer = PoolState | PublishError


class _Source:
    """One unit as readings use it.

    Attributes:
        question: What it has; one that hangs has it open for many readings.
        patience_s: How long a reading waits for it that already has another's answer; 0 for one
            that was silent the last time.
    """

    def __init__(self, unit: Unit, question: Question[PoolState]) -> None:
        self.unit = unit
        self.question = question
        self.patience_s = FIRST_S

    def note(self, asked: "asyncio.Future[Answer]", took_s: float) -> Answer:
        """Return what came of it, and remember whether to wait for it the next time."""
        if not asked.done():
            self.patience_s = 0.0
            return Unreachable(f"{self.unit.host}: no answer yet")
        answer = asked.result()
        is_silent = isinstance(answer, Unreachable)
        self.patience_s = 0.0 if is_silent else SOON_S + USUAL * took_s
        return answer


@dataclass(frozen=True, slots=True)
class _Told:
    """The last publication: which member, on which unit, and until when others may lag."""

    member: str
    host: str
    until: float


class F5Gtm(Icontrol):
    """One pool of BIG-IP DNS on one unit or the units of a sync group.

    Args:
        kind: Of the pool: a or aaaa.
    """

    type = "f5-gtm"

    def __init__(
        self,
        name: str,
        units: Units,
        pool: str,
        nodes: Mapping[str, str],
        *,
        kind: str = "a",
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__(name, units, pool, nodes, poll_s=poll_s)
        self._path = ("tm", "gtm", "pool", kind, pool)
        self._kind = kind
        self._sources = [
            _Source(unit, Question(partial(self._fetched, unit), units.beside))
            for unit in units.all
        ]
        self._told_last = _Told("", "", 0.0)
        self._fresh: tuple[float, Mapping[Unit, PoolState]] | None = None  # what was read, and when
        self._differ_since: float | None = None
        self._changed_at: float | None = None  # when all units were last seen to change

    # -------------------------------------------------------------- Publisher
    async def publish(self, node: str) -> None:
        """Enable this node's member and disable all others, on one unit.

        Raises:
            Unreachable: No unit answers.
            PublishError: Refused, or not carried out; of an answer that was lost it is read what
                came of it.
        """
        member = self._member(node)
        with self._named():
            async with self._writing:
                unit, state = await self._to_write(member)
                now = asyncio.get_running_loop().time()
                self._follow_up.owe()
                if members.is_held_down(state, member):  # manualResume latches it: see republish
                    await unit.ask("PATCH", *self._path, "members", member, body=members.DISABLE)
                try:
                    await self._commit(unit, self._changes(member))
                except Doubtful as error:
                    await self._resolve(unit, member, error)
                self._told_last = _Told(member, unit.host, now + LAG_S)
                self._changed_at = asyncio.get_running_loop().time()

    async def read_back(self) -> Seen:
        """Ask every unit which member is answered with.

        One that does not answer is told in `Seen.detail` and not waited for the next time.

        Raises:
            Unreachable: No unit answers.
            PublishError: The pool has not the members that it should have.
        """
        with self._named():
            good, silent = await self._good()
            while self._is_under_way(good):
                await asyncio.sleep(HAND_POLL_S)
                good, silent = await self._good()
            self._fresh = asyncio.get_running_loop().time(), good
            seen = self._agreed(good)
        return replace(
            seen,
            instance="+".join(f"{unit.host}#{unit.runs}" for unit in self._units.all),
            detail=self._told(seen, silent),
            unsettled=self._follow_up.trouble,
        )

    def commands(self, node: str) -> list[str]:
        """Return lines for the shell of one unit that do what `publish(node)` does.

        Raises:
            PublishError: No member is known for it.
        """
        wanted = self._member(node)
        words = " ".join(
            f"{path[-1]} {{ {'enabled' if body == members.ENABLE else 'disabled'} }}"
            for path, body in self._changes(wanted)
        )
        return [
            f"tmsh modify gtm pool {self._kind} {self._pool} members modify {{ {words} }}",
            "tmsh save sys config",
        ]

    async def examine(self) -> list[str]:
        """Return what would not work, or would work against us; changes nothing."""
        told = []
        for unit in self._units.all:
            try:
                state = await self._fetched(unit)
            except PublishError as error:
                told.append(str(error))
                continue
            detail = members.read(state, self._nodes).detail
            told += [f"{unit.host}: {detail}"] if detail else []
        return told

    # -------------------------------------------------------------- a move
    def _changes(self, wanted: str) -> list[Change]:
        """Return what to write to each member; what comes in first."""
        paths = sorted(dict.fromkeys(self._nodes.values()), key=lambda path: path != wanted)
        return [
            ((*self._path, "members", path), members.ENABLE if path == wanted else members.DISABLE)
            for path in paths
        ]

    async def _to_write(self, member: str) -> tuple[Unit, PoolState]:
        """Return the unit to write to.

        The one from before while others may still follow it: a change on another one would race
        with what is on its way. After that the first that does something else, or else the first.
        """
        fresh, self._fresh = self._fresh, None
        if fresh is not None and asyncio.get_running_loop().time() - fresh[0] < FRESH_S:
            good = fresh[1]  # a reconciler has just read
        else:
            good, _ = await self._good()
        last, now = self._told_last, asyncio.get_running_loop().time()
        for unit, state in good.items():
            if unit.host == last.host and now < last.until:
                return unit, state
        lags = [unit for unit in good if members.chosen(good[unit], self._nodes) != {member}]
        unit = (lags or list(good))[0]
        return unit, good[unit]

    async def _resolve(self, unit: Unit, member: str, error: Doubtful) -> None:
        """Find out by reading what came of a transaction whose answer was lost.

        Raises:
            PublishError: It was not carried out, or not yet, or that cannot be read either.
        """
        try:
            state = await self._fetched(unit)
        except PublishError as other:
            text = "the move was sent; whether it was carried out is read next"
            raise PublishError(f"{error}; {text} ({other})") from error
        if members.chosen(state, self._nodes) != frozenset({member}):
            raise PublishError(
                f"{error}; read after that: {members.read(state, self._nodes).word}, not carried"
                " out"
            ) from error

    # -------------------------------------------------------------- reading
    async def _read_all(self) -> list[tuple[Unit, Answer]]:
        """Ask every unit; where one has answered, another that hangs is not waited for long."""
        now = asyncio.get_running_loop().time
        began, took = now(), dict[_Source, float]()
        asked = {source: source.question.put() for source in self._sources}
        while len(took) < len(asked):
            took |= {s: now() - began for s, a in asked.items() if a.done() and s not in took}
            late = [source for source in asked if source not in took]
            has_one = any(isinstance(asked[source].result(), PoolState) for source in took)
            left_s = max((began + source.patience_s - now() for source in late), default=0.0)
            if not late or (has_one and left_s <= 0):
                break
            await asyncio.wait(
                [asked[source] for source in late],
                timeout=left_s if has_one else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        return [(s.unit, s.note(a, took.get(s, 0.0))) for s, a in asked.items()]

    async def _fetched(self, unit: Unit) -> PoolState:
        pool, found, stats = await asyncio.gather(
            unit.get(*self._path),
            unit.get(*self._path, "members"),
            unit.get(*self._path, "members", "stats"),
        )
        state = PoolState.of(pool, items_of(found), stats)
        if absent := members.missing(state, self._nodes):
            has = ", ".join(state.enabled) or "none"
            raise Missing(
                f"{unit.host}: {self._pool} has no member {', '.join(absent)}; it has {has}"
            )
        return state

    async def _good(self) -> tuple[dict[Unit, PoolState], list[str]]:
        """Return what each unit has, and why the others say nothing.

        Raises:
            Unreachable: None answers.
            PublishError: None has the pool; believed the second time only.
        """
        answers = await self._read_all()
        good = {unit: found for unit, found in answers if isinstance(found, PoolState)}
        errors = [(unit, found) for unit, found in answers if isinstance(found, PublishError)]
        told = list(dict.fromkeys(str(error) for _, error in errors))
        if good:
            self._found()
            return good, told
        for unit, error in errors:
            if isinstance(error, Missing):
                await self._not_found(unit, error)
        if all(isinstance(error, Unreachable) for _, error in errors):
            raise Unreachable("; ".join(told))
        raise PublishError("; ".join(told))

    # -------------------------------------------------------------- several units
    def _differ(self, good: Mapping[Unit, PoolState]) -> bool:
        return len({members.chosen(state, self._nodes) for state in good.values()}) > 1

    def _leads(self, good: Mapping[Unit, PoolState]) -> Unit | None:
        """Return the unit that was written to last, while others may still follow it."""
        last, now = self._told_last, asyncio.get_running_loop().time()
        return next(
            (
                unit
                for unit, state in good.items()
                if unit.host == last.host
                and now < last.until
                and members.chosen(state, self._nodes) == {last.member}
            ),
            None,
        )

    def _is_under_way(self, good: Mapping[Unit, PoolState]) -> bool:
        """Tell whether it is worth a moment: what somebody else changed is on its way to others."""
        now = asyncio.get_running_loop().time()
        if not self._differ(good) or self._leads(good) is not None:
            self._differ_since = None
            return False
        self._differ_since = self._differ_since or now
        return now - self._differ_since < HAND_S

    def _agreed(self, good: Mapping[Unit, PoolState]) -> Seen:
        """Return what all units do; one that may still follow our last change is told only."""
        seen = {unit: members.read(state, self._nodes) for unit, state in good.items()}
        first = next(iter(seen.values()))
        if not self._differ(good):
            return first
        told = "; ".join(f"{unit.host} says {each.word}" for unit, each in seen.items())
        leader = self._leads(good)
        if leader is not None:
            text = f"{told}: the others follow within {LAG_S:.0f}s"
            return replace(seen[leader], detail=text)
        named = {node for each in seen.values() for node in each.chosen}
        chosen = tuple(node for node in self._nodes if node in named)
        return replace(first, node=None, also=(), usable=None, chosen=chosen, detail=told)

    # -------------------------------------------------------------- after a move
    def _steps(self) -> Sequence[Step]:
        steps: list[Step] = [("the save", self._save)]
        if len(self._units.all) > 1:
            steps = [("the look at the other units", self._verify), *steps]
        return steps

    async def _verify(self) -> None:
        now = asyncio.get_running_loop().time
        end = now() + LAG_S
        while True:
            good, silent = await self._good()
            if not silent and not self._differ(good):
                self._changed_at = self._changed_at and now()
                return
            if now() >= end:
                raise PublishError("; ".join(silent) or "they do not all follow yet")
            await asyncio.sleep(FOLLOW_POLL_S)

    async def _save(self) -> None:
        """Save on every unit: each keeps its own configuration on disk."""
        done = await asyncio.gather(
            *(unit.save(self._changed_at) for unit in self._units.all), return_exceptions=True
        )
        for failed in done:
            if isinstance(failed, BaseException):
                raise failed
