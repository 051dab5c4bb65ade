"""A pool of a BIG-IP: the member with the traffic is enabled, all others are forced offline.

Both are changed in one transaction with nothing else in it, on the unit that is active. Where its
answer is lost, the members are read and tell. Nothing is compared as it was written, but by what it
means.

Source: DESIGN section 1; iControl REST user guide (transactions); K13310; X2, X3.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from lb_probe.adapters.f5_ltm import members, monitors
from lb_probe.adapters.f5_ltm.members import Counted, PoolState
from lb_probe.adapters.icontrol import Icontrol, Json, Missing, Unit, Units
from lb_probe.adapters.icontrol.adapter import POLL_S, Change, Doubtful
from lb_probe.adapters.icontrol.answers import entries, items_of, member_of, version_of
from lb_probe.adapters.icontrol.beside import Question
from lb_probe.adapters.icontrol.follow_up import Step
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError

FRESH_S = 0.5  # a reading that a move may go by
COUNT_S = 4.0  # between two looks at the statistics
FLIGHT_S = 0.2
VERIFY_S = 10.0  # for units that sync by themselves
VERIFY_POLL_S = 0.5
LOOK_AGAIN_S = 5.0
LOOK_S = 60.0  # between two looks at monitors and peers

_Counts = tuple[float, Mapping[str, Counted]]  # when it was asked, and each member's numbers


class F5Ltm(Icontrol):
    """One pool of BIG-IP LTM, on an active/standby pair or a single unit.

    Raises:
        ValueError: No node, or one member for two nodes.
    """

    type = "f5-ltm"

    def __init__(
        self,
        name: str,
        units: Units,
        pool: str,
        nodes: Mapping[str, str],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__(name, units, pool, nodes, poll_s=poll_s)
        if len(set(nodes.values())) < len(nodes):
            raise ValueError(f"nodes are {dict(nodes)}; give each a member of its own")
        self._moved_at = self._flight_at = 0.0
        self._fresh: tuple[float, Unit, PoolState] | None = None  # what was read last, and when
        self._changed_at: float | None = None  # our last write; None where it was another process
        self._arrived_at: float | None = None  # when the peers were seen to have it
        self._counts: Question[_Counts] = Question(self._count, units.beside)
        self._look: Question[Sequence[str]] = Question(self._look_around, units.beside)
        self._counted_at = self._looked_at = -LOOK_S

    # -------------------------------------------------------------- Publisher
    async def publish(self, node: str) -> None:
        """Enable this node's member and force all others offline.

        Raises:
            Unreachable: No unit answers.
            PublishError: Refused, or not carried out; of an answer that was lost it is read what
                came of it.
        """
        self._member(node)
        await self._move(frozenset({node}))

    async def publish_nobody(self) -> None:
        """Force every member offline.

        Raises:
            Unreachable, PublishError: As `publish`.
        """
        await self._move(frozenset())

    async def read_back(self) -> Seen:
        """Ask the active unit what is in force.

        Raises:
            Unreachable: No unit answers.
            PublishError: None is active, or the pool has not the members that it should have.
        """
        with self._named():
            unit, state = await self._read()
            self._fresh = asyncio.get_running_loop().time(), unit, state
            seen = self._with_counts(members.read(state, self._nodes))
        return replace(
            seen,
            instance=f"{unit.host}#{unit.runs}",
            detail=self._told(seen, self._remarks()),
            unsettled=self._follow_up.trouble,
        )

    async def in_flight(self) -> Mapping[str, int]:
        """Return the connections that each member still has.

        Raises:
            PublishError: It cannot be told.
        """
        now = asyncio.get_running_loop().time()
        wait_s, self._flight_at = self._flight_at + FLIGHT_S - now, now
        await asyncio.sleep(max(0.0, wait_s))  # who drains asks without a pause
        with self._named():
            _, counts = await self._count()
        return {node: counts.get(m, Counted()).connections for node, m in self._nodes.items()}

    def commands(self, node: str) -> list[str]:
        """Return lines for the shell of the active unit that do what `publish(node)` does.

        Raises:
            PublishError: No member is known for it.
        """
        self._member(node)
        words = " ".join(
            f"{member} {{ state {body['state']} session {body['session']} }}"
            for member, body in self._bodies(frozenset({node}))
        )
        lines = [
            f"tmsh modify ltm pool {self._pool} members modify {{ {words} }}",
            "tmsh save sys config",
        ]
        if self._units.device_group:
            lines.append(f"tmsh run cm config-sync to-group {self._units.device_group}")
        return lines

    async def examine(self) -> list[str]:
        """Return what would not work, or would work against us; changes nothing."""
        told = []
        for unit in self._units.all:
            try:
                await unit.get("tm", "cm", "failover-status")
            except PublishError as error:
                told.append(str(error))
        try:
            unit = await self._units.active()
            state = await self._fetched(unit)
        except PublishError as error:
            return [*told, *_new(told, [str(error)])]
        if absent := members.missing(state, self._nodes):
            return [*told, self._lacks(unit, state, absent)]
        seen = members.read(state, self._nodes)
        try:
            around = [*await self._look_around(), *await self._latches(unit, state)]
        except PublishError as error:
            around = [str(error)]
        told += _new(told, around)
        return [*told, *([seen.detail] if seen.detail else [])]

    # -------------------------------------------------------------- a move
    def _bodies(self, chosen: frozenset[str]) -> list[tuple[str, Json]]:
        """Return what to write to each member; what comes in first."""
        order = sorted(self._nodes.items(), key=lambda item: item[0] not in chosen)
        return [(m, members.ENABLE if n in chosen else members.FORCE_OFFLINE) for n, m in order]

    def _path(self, member: str) -> tuple[str, ...]:
        return ("tm", "ltm", "pool", self._pool, "members", member)

    async def _move(self, chosen: frozenset[str]) -> None:
        changes: list[Change] = [(self._path(m), body) for m, body in self._bodies(chosen)]
        with self._named():
            async with self._writing:
                unit, state = await self._just_read()
                if state.obstacle:
                    raise PublishError(f"{unit.host}: {self._pool}: {state.obstacle}")
                self._follow_up.owe()
                await self._release(unit, state, chosen)
                self._changed_at = self._arrived_at = None
                try:
                    await self._commit(unit, changes)
                except Doubtful as error:
                    await self._resolve(unit, chosen, error)
                self._moved_at = self._changed_at = asyncio.get_running_loop().time()

    async def _release(self, unit: Unit, state: PoolState, chosen: frozenset[str]) -> None:
        """Force offline first what is enabled and held down: manual resume may latch it.

        It gets no traffic, so nothing is lost; an enable of what is enabled may not be one.
        """
        for node in chosen:
            if members.is_held_down(state.members[self._nodes[node]]):
                path = self._path(self._nodes[node])
                await unit.ask("PATCH", *path, body=members.FORCE_OFFLINE)

    async def _resolve(self, unit: Unit, chosen: frozenset[str], error: Doubtful) -> None:
        """Find out by reading what came of a transaction whose answer was lost.

        Raises:
            PublishError: It was not carried out, or not yet, or that cannot be read either.
        """
        try:
            state = await self._state(unit)
        except PublishError as other:
            text = "the move was sent; whether it was carried out is read next"
            raise PublishError(f"{error}; {text} ({other})") from error
        seen = members.read(state, self._nodes)
        is_done = set(seen.chosen) == chosen and (not chosen or seen.node is not None)
        if not is_done:
            raise PublishError(f"{error}; read after that: {seen.word}, not carried out") from error

    # -------------------------------------------------------------- reading
    async def _just_read(self) -> tuple[Unit, PoolState]:
        """Return what was read a moment ago, or read: a reconciler has just done so."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None and asyncio.get_running_loop().time() - fresh[0] < FRESH_S:
            return fresh[1:]
        return await self._read()

    async def _read(self) -> tuple[Unit, PoolState]:
        """Return the active unit and its pool; both are asked for at once, of the one from before.

        Raises:
            Unreachable, PublishError: No unit is active; or as `_state`.
        """
        guessed = self._units.last
        guess = self._units.beside.start(self._fetched(guessed))
        try:
            unit = await self._units.active()
            if unit is guessed:
                return unit, await self._state(unit, guess)
        finally:
            guess.cancel()
        return unit, await self._state(unit)

    async def _state(
        self, unit: Unit, asked: "asyncio.Future[PoolState | PublishError] | None" = None
    ) -> PoolState:
        """Return the pool, with every member that it should have.

        Args:
            asked: The answer to come, where the unit has been asked.

        Raises:
            Unreachable, PublishError: No answer; or there is no such pool or member, believed the
                second time only.
        """
        try:
            state = await self._fetched(unit) if asked is None else await asked
            if isinstance(state, PublishError):
                raise state
            if absent := members.missing(state, self._nodes):
                raise Missing(self._lacks(unit, state, absent))
        except Missing as error:
            await self._not_found(unit, error)
        self._found()
        return state

    async def _fetched(self, unit: Unit) -> PoolState:
        path = ("tm", "ltm", "pool", self._pool)
        pool = await unit.get(*path, expandSubcollections="true")
        found = items_of(pool.get("membersReference"))
        if not found:  # none, or a version that does not expand
            found = items_of(await unit.get(*path, "members"))
        return PoolState.of(pool, found, version_of(pool))

    def _lacks(self, unit: Unit, state: PoolState, absent: Sequence[str]) -> str:
        has = ", ".join(state.members) or "none"
        return f"{unit.host}: {self._pool} has no member {', '.join(absent)}; it has {has}"

    async def _count(self) -> _Counts:
        asked = asyncio.get_running_loop().time()
        unit = await self._units.active()
        stats = await unit.get("tm", "ltm", "pool", self._pool, "members", "stats")
        return asked, {member_of(key): Counted.of(values) for key, values in entries(stats)}

    def _with_counts(self, seen: Seen) -> Seen:
        """Add what the statistics say, where they were asked after the last move."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= COUNT_S or self._moved_at >= self._counted_at:
            self._counted_at = now
            self._counts.put()
        last = self._counts.last
        if not isinstance(last, tuple) or last[0] <= self._moved_at:
            return seen
        counts = {node: last[1].get(m, Counted()) for node, m in self._nodes.items()}
        flight = {node: counted.connections for node, counted in counts.items()}
        obstacle = counts[seen.node].obstacle if seen.node else ""
        if not obstacle or seen.usable is False:
            return replace(seen, in_flight=flight)
        text = f"{self._nodes[str(seen.node)]}: {obstacle}"
        detail = "; ".join(t for t in (seen.detail, text) if t)
        return replace(seen, in_flight=flight, usable=False, detail=detail)

    # -------------------------------------------------------------- monitors and peers
    def _remarks(self) -> Sequence[str]:
        """Return what the last look around found, and begin another where it is time."""
        now = asyncio.get_running_loop().time()
        last = self._look.last
        is_blind = isinstance(last, PublishError)
        if now - self._looked_at >= (LOOK_AGAIN_S if is_blind else LOOK_S):
            self._looked_at = now
            self._look.put()
        return () if last is None or isinstance(last, PublishError) else last

    async def _look_around(self) -> Sequence[str]:
        unit = await self._units.active()
        state = await self._fetched(unit)
        told = [
            f"monitor {name}: {text}"
            for name, found in (await self._monitors(unit, state)).items()
            for text in monitors.traps(found)
        ]
        if not self._follow_up.trouble:
            told += [
                f"{text}: it would go there when the units change places; republish brings it over"
                for text in await self._differing(unit)
            ]
        return told

    async def _latches(self, unit: Unit, state: PoolState) -> list[str]:
        return [
            f"monitor {name} has manual resume: a node that it took down for a moment stays down"
            " until republish; lb-probe never resumes by itself, so it is not needed"
            for name, found in (await self._monitors(unit, state)).items()
            if found.get("manualResume") == "enabled"
        ]

    async def _monitors(self, unit: Unit, state: PoolState) -> dict[str, Json]:
        rules = [state.monitor, *(str(m.get("monitor")) for m in state.members.values())]
        names = dict.fromkeys(name for rule in rules for name in monitors.names(rule))
        return {name: await self._monitor(unit, name) for name in names}

    async def _monitor(self, unit: Unit, name: str) -> Json:
        for kind in monitors.KINDS:
            try:
                return await unit.get("tm", "ltm", "monitor", kind, name)
            except Missing:
                continue
        return {}

    async def _differing(self, unit: Unit) -> list[str]:
        """Return a sentence for each peer whose members say something else."""
        ours = members.read(await self._state(unit), self._nodes)
        told = []
        for peer in self._units.peers(unit):
            try:
                state = await self._fetched(peer)
            except PublishError as error:
                told.append(f"it cannot be told what {peer.host} has: {error}")
                continue
            if members.missing(state, self._nodes):
                told.append(f"{peer.host} lacks members of {self._pool}")
                continue
            theirs = members.read(state, self._nodes)
            if theirs.chosen != ours.chosen or theirs.node != ours.node:
                told.append(f"{peer.host} has {theirs.word}, {unit.host} has {ours.word}")
        return told

    # -------------------------------------------------------------- after a move
    def _steps(self) -> Sequence[Step]:
        steps: list[Step] = [("the save", self._save)]
        if len(self._units.all) > 1:
            if self._units.device_group:
                steps.append(("config-sync", self._sync))
            steps += [("the look at the peer", self._verify), ("the peer's save", self._save_peers)]
        elif self._units.device_group:
            steps.append(("config-sync", self._sync))
        return steps

    async def _save(self) -> None:
        await (await self._units.active()).save(self._changed_at)

    async def _sync(self) -> None:
        """Push to the group what a peer has not: a push overwrites what others did there."""
        unit = await self._units.active()
        if len(self._units.all) > 1 and not await self._differing(unit):
            return
        await self._units.sync(unit, partial(self._agree, unit), self._changed_at)

    async def _agree(self, unit: Unit) -> bool:
        return len(self._units.all) > 1 and not await self._differing(unit)

    async def _verify(self) -> None:
        now = asyncio.get_running_loop().time
        end = now() + VERIFY_S
        unit = await self._units.active()
        while told := await self._differing(unit):
            if now() >= end:
                raise PublishError("; ".join(told))
            await asyncio.sleep(VERIFY_POLL_S)
        self._arrived_at = now()
        self._looked_at = -LOOK_S

    async def _save_peers(self) -> None:
        for peer in self._units.peers(await self._units.active()):
            await peer.save(self._arrived_at)


def _new(told: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the texts that do not only repeat what was told."""
    return [text for text in texts if not any(one in text for one in told)]
