"""The loop under every policy: groups come and go; the table's and operators' changes take turns.

What a policy decides, saves and publishes is its own: `controller`, `pool`. Here is what holds
under each of them. Changes of a group are made one after the other, under its lock; one that cannot
be saved is not made; a group that a reload took away is changed no more; a hold ends when it is due
only where its end changes nothing.

Source: DESIGN section 1; X4, X5, X20.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from lb_probe.core import acts
from lb_probe.core.model import Change, Event, Hold, Saved
from lb_probe.ports import (
    Clock,
    Conflict,
    EventSink,
    Invalid,
    NotFound,
    Refused,
    Store,
    StoreError,
)
from lb_probe.reconcile import Fence
from lb_probe.recorder import Recorder
from lb_probe.tending.desk import Ask
from lb_probe.tending.group import Judged, Tended, Wired
from lb_probe.tending.store_watch import StoreWatch
from lb_probe.tending.vantage import Vantage

TICK_S = 0.25
FIRST_LOOK_S = 3.0
SETTLE_S = 3.0

S = TypeVar("S", bound=Wired)
R = TypeVar("R", bound=Tended)
V = TypeVar("V")
Begin = Callable[[S, Saved | None], Coroutine[Any, Any, None]]


class Loop(ABC, Generic[S, R, V]):
    """Runs the groups of one policy: wired as S, tended as R, shown as V.

    Attributes:
        LAPSES_IN: Conditions in which a hold that is due ends by itself.
        recorder: Keeps what happened until the store takes it.
    """

    LAPSES_IN: frozenset[str]
    _keeping: StoreWatch
    _vantage: Vantage

    def __init__(
        self,
        setups: Sequence[S],
        store: Store,
        clock: Clock,
        events: EventSink,
        recorder: Recorder,
    ) -> None:
        self._setups = {setup.name: setup for setup in setups}
        self._store = store
        self._clock = clock
        self._events = events
        self.recorder = recorder
        self._groups: dict[str, R] = {}
        self._tasks: asyncio.TaskGroup | None = None

    # -------------------------------------------------------------- what each policy says itself
    @abstractmethod
    async def _begin(self, setup: S, saved: Saved | None) -> None:
        """Take a group in, and find out where it begins; its lock is held until that is known."""

    @abstractmethod
    def tick(self) -> None:
        """Look at what changes by time alone: stalls, clock jumps, isolation, age, due holds."""

    @abstractmethod
    def _decide(self, runtime: R) -> Judged:
        """Ask the table what is the case now."""

    @abstractmethod
    def _evaluate(self, runtime: R) -> None:
        """Decide, tell what is new of it, and have it carried out."""

    @abstractmethod
    async def _save(self, runtime: R, state: Saved) -> None:
        """Make a state durable, then act by it."""

    @abstractmethod
    def _take_over(self, runtime: R, saved: Saved) -> None:
        """Act by what is on disk, which is newer than what is in force."""

    @abstractmethod
    async def _do(self, runtime: R, ask: Ask, plan: acts.Plan) -> Fence | None:
        """Carry out a command that passed; return where load balancers wait for each other."""

    @abstractmethod
    def plan(self, name: str, ask: Ask) -> acts.Plan:
        """Judge an operator's command and say what it would do; changes nothing.

        Raises:
            NotFound: No such group or verb.
            Invalid: The command cannot be understood.
            Conflict: The generation is not the one the operator looked at.
        """

    @abstractmethod
    def _shown(self, runtime: R) -> V:
        """Return everything that is shown of a group, as of now."""

    def _chores(self) -> list[Coroutine[Any, Any, None]]:
        """Return what runs beside the loop for as long as it does."""
        return [self._keeping.watch()]

    def _why_refused(self, plan: acts.Plan) -> str:
        """Return the end of what an operator is told of closed gates."""
        return f" by {_ids(plan)}"

    # -------------------------------------------------------------- groups come and go
    async def _begin_all(self, names: Iterable[str], begin: Begin[S]) -> None:
        """Take these groups in, all at once.

        Raises:
            StoreError: The store cannot be read or written.
        """
        saved = await self._renamed(names)
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in names:
                    tasks.create_task(begin(self._setups[name], saved.get(name)))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one store: the others say the same

    async def _renamed(self, names: Iterable[str]) -> Mapping[str, Saved]:
        """Return what is saved, by the present names."""
        saved = dict(await self._store.load())
        for name in names:
            was = self._setups[name].was
            if was is not None and was in saved and name not in saved:
                await self._store.rename(was, name)
                saved[name] = saved.pop(was)
        return saved

    async def swap(self, setups: Sequence[S], kept: frozenset[str]) -> None:
        """Serve these groups from now on; those in `kept` feel nothing of it.

        The others begin as after a start: no failure from before counts, and what is saved stands.

        Raises:
            StoreError: The store cannot be read or written.
        """
        new = {setup.name: setup for setup in setups}
        self._setups = {name: self._setups[name] if name in kept else new[name] for name in new}
        for name, runtime in list(self._groups.items()):
            if name not in kept:
                async with runtime.lock:  # a move under way comes to its end first
                    del self._groups[name]
                for task in runtime.tasks:
                    task.cancel()
                await asyncio.gather(*runtime.tasks, return_exceptions=True)
        self._vantage.regrouped()
        fresh = [name for name in new if name not in kept]
        await self._begin_all(fresh, self._begin)
        for name in fresh:
            self._tend(self._groups[name])

    def _tend(self, runtime: R) -> None:
        """Let the load balancers of a group follow from now on."""
        if self._tasks is not None:
            runtime.tasks = [self._tasks.create_task(r.run()) for r in runtime.reconcilers]

    def _is_served(self, runtime: R) -> bool:
        """Tell whether a reload has not taken this group away, or made it anew."""
        return self._groups.get(runtime.name) is runtime

    async def run(self) -> None:
        """Reconcile, watch and carry out until cancelled.

        Raises:
            ExceptionGroup: A part broke a promise; the process ends and is started again.
        """
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._vantage.begin()
            for runtime in self._groups.values():
                self._tend(runtime)
            for chore in self._chores():
                tasks.create_task(chore)
            while True:
                await self._clock.sleep(TICK_S)
                self.tick()

    # -------------------------------------------------------------- what we see from here
    def references(self, answers: Mapping[str, bool]) -> None:
        """Take what the reference targets answered: all silent means it is us."""
        self._vantage.references(answers)

    def stalled(self, seconds: float) -> None:
        """Take note that probes started late, by so many seconds: evidence was missed."""
        self._vantage.stalled(seconds)

    def cut_off(self) -> list[bool]:
        """Tell whether none of our groups is reached; nothing where there is no group."""
        return self._vantage.cut_off()

    @property
    def impairment(self) -> str:
        """Why this machine cannot make probes at the moment; empty where it can."""
        return self._vantage.impairment

    @property
    def is_store_writable(self) -> bool:
        """Whether the store took the last write."""
        return self._keeping.is_writable

    # -------------------------------------------------------------- by itself
    def _soon(self, runtime: R, work: Callable[[R], Awaitable[None]]) -> None:
        """Have a change made, unless one is being made already."""
        if self._tasks is None or runtime.is_changing:
            return
        runtime.is_changing = True
        self._tasks.create_task(self._alone(runtime, work))

    async def _alone(self, runtime: R, work: Callable[[R], Awaitable[None]]) -> None:
        try:
            async with runtime.lock:
                if self._is_served(runtime):
                    await self._tried(runtime, work)
        finally:
            runtime.is_changing = False

    async def _tried(self, runtime: R, work: Callable[[R], Awaitable[None]]) -> None:
        try:
            await work(runtime)
        except StoreError as error:
            await self._not_saved(runtime, error)

    async def _not_saved(self, runtime: R, error: StoreError) -> None:
        """Find out what is saved then; the lock is held, or what is read could be old by now."""
        try:
            if isinstance(error, Conflict):
                await self._reload(runtime)
                return
        except StoreError as unreadable:
            error = unreadable
        self._keeping.failed(error)

    async def _reload(self, runtime: R) -> None:
        """Take over what is on disk: somebody saved there, or our own outcome was unknown.

        Raises:
            StoreError: It cannot be read, or is older than what is in force.
        """
        name, ours = runtime.name, runtime.saved.generation
        saved = (await self._store.load()).get(name, Saved())
        if saved.generation < ours:
            raise StoreError(
                f"the store holds generation {saved.generation} of group {name}, older than"
                f" {ours}, which is in force: an older copy took its place; restart the prober"
            )
        if saved.generation > ours:
            self._take_over(runtime, saved)

    # -------------------------------------------------------------- holds
    def _reckon_hold(self, runtime: R, before: Saved) -> None:
        """Work out when the hold of a state is due that has just come into force."""
        state = runtime.saved
        if state.hold is None:
            runtime.hold_due_at = None
        elif runtime.hold_due_at is None or state.hold != before.hold:
            # Once for each hold: the wall clock may have jumped since (X20).
            left_s = self._left_s(state, state.hold, is_new=state.hold != before.hold)
            runtime.hold_due_at = self._clock.monotonic() + left_s
            runtime.is_overdue_told = False

    def _left_s(self, state: Saved, hold: Hold, *, is_new: bool) -> float:
        """Return the seconds a hold has left; only one found at start goes by the wall clock.

        A new one runs from its own beginning: the clock may have jumped while it was saved. And
        the wall clock is the one of our own beginning: it may have jumped while we looked around.
        """
        change = state.last_change
        if is_new and change is not None and change.kind == "hold":
            return hold.until_wall - change.at_wall
        return self._vantage.left_s(hold.until_wall)

    def _notice_due_hold(self, runtime: R) -> None:
        due = runtime.hold_due_at
        if due is None or self._clock.monotonic() < due:
            return
        if runtime.decision is None or runtime.decision.condition == "confirming":
            return  # no verdict yet; it is looked at again at the next tick
        if runtime.decision.condition in self.LAPSES_IN:
            self._soon(runtime, self._lapse)
        elif not runtime.is_overdue_told:
            runtime.is_overdue_told = True
            self._emit("hold.overdue", runtime.name, condition=runtime.decision.condition)

    async def _lapse(self, runtime: R) -> None:
        due = runtime.hold_due_at  # again: an operator may have set another hold in between
        if due is None or self._clock.monotonic() < due:
            return
        if self._decide(runtime).condition in self.LAPSES_IN:
            await self._save(runtime, acts.lapse_hold(runtime.worded, self._clock.wall()))

    # -------------------------------------------------------------- the operator
    async def act(self, name: str, ask: Ask) -> V:
        """Carry out an operator's command; waits a little for the load balancers to follow.

        Raises:
            NotFound, Invalid, Conflict: As `plan`.
            Refused: A gate is closed; lists every gate and the line to paste.
            StoreError: Not saved, and so not done.
        """
        runtime = self._find(name)
        async with runtime.lock:
            if not self._is_served(runtime):
                raise Invalid(f"group {name} was reloaded at this moment; nothing was done: repeat")
            plan = self.plan(name, ask)
            if plan.closed:
                self._emit("act.refused", name, verb=ask.verb, actor=ask.actor, gates=_ids(plan))
                why = self._why_refused(plan)
                raise Refused(f"{ask.verb} of {name} refused{why}", plan.gates, plan.paste)
            try:
                fence = await self._do(runtime, ask, plan)
            except StoreError as error:
                await self._not_saved(runtime, error)
                raise
        self._evaluate(runtime)
        await self._settle(runtime, fence)
        return self._shown(runtime)  # also where a reload took it away meanwhile: it was done

    async def _settle(self, runtime: R, fence: Fence | None) -> None:
        """Wait until every load balancer follows or cannot; at most `SETTLE_S`, and for a fence."""
        now = self._clock.monotonic()
        end = now + SETTLE_S + (fence.left_s(now) if fence else 0.0)
        while True:
            runtime.changed.clear()
            left = end - self._clock.monotonic()
            if left <= 0 or runtime.is_followed:
                return
            await self._clock.wait(runtime.changed, left)

    # -------------------------------------------------------------- looking and telling
    @property
    def names(self) -> tuple[str, ...]:
        """Names of all groups, in the order of the file."""
        return tuple(self._setups)

    def view(self, name: str) -> V:
        """Return everything that is shown of one group, as of now.

        Raises:
            NotFound: No such group.
        """
        return self._shown(self._find(name))

    def _find(self, name: str) -> R:
        try:
            return self._groups[name]
        except KeyError:
            names = ", ".join(self._setups) or "none"
            raise NotFound(f"no group {name}; the groups are: {names}") from None

    def _tell_condition(self, runtime: R, before: Judged | None, after: Judged) -> None:
        brakes = ",".join(after.blocked)
        fields = {"condition": after.condition, "rule": after.rule, "brakes": brakes}
        self._emit("group.condition", runtime.name, **fields)
        self.recorder.note(
            "condition",
            runtime.name,
            runtime.saved.generation,
            **{"from": before.condition if before else None},
            to=after.condition,
            rule=after.rule,
            blocked=list(after.blocked),
        )

    def _tell_change(self, runtime: R, change: Change) -> None:
        fields = {"from": change.source, "to": change.target, "actor": change.actor}
        self._emit(
            f"group.{change.kind}",
            runtime.name,
            reason=change.reason,
            generation=runtime.saved.generation,
            **fields,
        )

    def _emit(self, name: str, group: str = "", **fields: object) -> None:
        self._events.emit(Event(name, group, fields))


def _ids(plan: acts.Plan) -> str:
    return ", ".join(gate.id for gate in plan.closed)
