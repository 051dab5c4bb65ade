"""The loop of active-active groups: evidence in; decision, a line of history, publish, read back.

The sibling of `controller`, with the same outward form. It is so much smaller because nothing is
latched: which nodes are in is no promise that must outlive the process. A prober that starts takes
over what the load balancers do and the table goes on from there. Only an operator's hold and ack
are saved.

Effects have one order. A line of history is durable before any load balancer hears of a change:
else a crash between the two would leave a change that nobody can explain. Publishing and reading
back belong to `reconcile`; a set of nodes is one word there (`pool_view.word_of`).

Source: DESIGN sections 1 and 4; REQUIREMENTS R39-R41, X4, X10, X15, X19.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from lb_probe.core import active_active, acts
from lb_probe.core import evidence as ev
from lb_probe.core.active_active import Action, Pool, PoolDecision, Verdict
from lb_probe.core.evidence import Evidence
from lb_probe.core.model import Automation, Change, Event, Gate, Observation, Page, Saved, Seen
from lb_probe.core.pool_view import POLICY, PoolView, row_of, set_of, word_of
from lb_probe.core.resume import World
from lb_probe.core.view import AdapterStatus
from lb_probe.ports import (
    Clock,
    Conflict,
    EventSink,
    Invalid,
    NotFound,
    Record,
    Refused,
    Store,
    StoreError,
)
from lb_probe.reconcile import Reconciler, Wanted
from lb_probe.recorder import Recorder
from lb_probe.recorder import state as recorded

TICK_S = 0.25
STALL_S = 1.0  # a loop that was away this long has missed evidence
CLOCK_JUMP_S = 2.0
FIRST_LOOK_S = 3.0
SETTLE_S = 3.0
STORE_RETRY_S = 5.0
ISOLATION_GROUPS = 3  # without reference targets it takes this many groups to blame ourselves
VERBS = ("hold", "release", "ack", "republish")  # the others move or resume one node's traffic
LAPSES_IN = ("all-in", "some-out")  # where the end of a hold changes nothing


@runtime_checkable
class SetPublisher(Protocol):
    """One load balancer as one active-active group uses it.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.
    """

    name: str
    type: str

    async def publish_all(self, nodes: frozenset[str]) -> None:
        """Ask for exactly these nodes; return when the load balancer accepted it.

        Where it takes several steps nodes come in before others go out, so that at no moment
        nobody is in. `nodes` is never empty.

        Raises:
            PublishError: Not accepted, or it cannot be told.
        """

    async def read_back(self) -> Seen:
        """Ask, on a fresh connection, what is in force; `chosen` is what counts.

        Raises:
            Unreachable: No answer within the adapter's own deadline.
            PublishError: An answer that cannot be believed.
        """

    def commands_all(self, nodes: frozenset[str]) -> list[str]:
        """Return the literal commands that `publish_all(nodes)` would send."""


class Command(Protocol):
    """What is needed of an operator's command; the controller's `Ask` is one."""

    @property
    def verb(self) -> str:
        """One of `acts.VERBS`."""

    @property
    def actor(self) -> str:
        """Who asks."""

    @property
    def reason(self) -> str:
        """Why; kept in the history."""

    @property
    def to(self) -> str | None:
        """A node; no verb takes one here."""

    @property
    def hold_s(self) -> float | None:
        """Seconds a hold lasts."""

    @property
    def hands_off(self) -> bool:
        """Whether a hold stops repairs too."""

    @property
    def override(self) -> frozenset[str]:
        """Gates to open at the operator's risk."""

    @property
    def attest(self) -> Mapping[str, str]:
        """Gates the operator vouches for."""

    @property
    def generation(self) -> int | None:
        """Generation the operator looked at; None does not compare."""


@dataclass(frozen=True, slots=True)
class PoolSetup:
    """One active-active group as it is wired.

    Attributes:
        was: The group's former name.
    """

    pool: Pool
    publishers: tuple[SetPublisher, ...] = ()
    was: str | None = None


class _AsOne:
    """A SetPublisher as the Publisher of one word, so that one reconciler serves both policies."""

    def __init__(self, publisher: SetPublisher) -> None:
        self.name = publisher.name
        self.type = publisher.type
        self._publisher = publisher

    async def publish(self, node: str) -> None:
        await self._publisher.publish_all(set_of(node))

    async def read_back(self) -> Seen:
        seen = await self._publisher.read_back()
        return replace(seen, node=word_of(frozenset(seen.chosen)))

    def commands(self, node: str) -> list[str]:
        return self._publisher.commands_all(set_of(node))


class _Runtime:
    """One group while the process runs."""

    def __init__(self, setup: PoolSetup, saved: Saved, now: float) -> None:
        self.pool = setup.pool
        self.saved = saved
        self.evidence = Evidence(floor=now)
        self.members = frozenset[str]()
        self.disputed = frozenset[str]()
        self.turn = 0  # grows with every change of the nodes: what a reconciler takes for ours
        self.reconcilers: list[Reconciler] = []
        self.lock = asyncio.Lock()
        self.is_changing = False
        self.hold_due_at: float | None = None
        self.is_overdue_told = False
        self.changed = asyncio.Event()
        self.decision: PoolDecision | None = None
        self.last_change = saved.last_change
        self.tasks: list[asyncio.Task[None]] = []


class PoolController:
    """Keeps every healthy node of every active-active group in.

    Args:
        recorder: The one of this process; who flushes it is not our matter.
        cut_off: For each group of other policies whether no target of it answers; counted with
            our own where there are no reference targets.
    """

    def __init__(
        self,
        setups: Sequence[PoolSetup],
        store: Store,
        clock: Clock,
        events: EventSink,
        recorder: Recorder,
        *,
        cut_off: Callable[[], Sequence[bool]] = tuple,
    ) -> None:
        self._setups = {setup.pool.name: setup for setup in setups}
        self._store = store
        self._clock = clock
        self._events = events
        self._recorder = recorder
        self._cut_off_elsewhere = cut_off
        self._groups: dict[str, _Runtime] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._references: Mapping[str, bool] = {}
        self._isolated = False
        self.is_store_writable = True
        self._store_broke = asyncio.Event()
        self._ticked_at = clock.monotonic()
        self._wall_offset = clock.wall() - clock.monotonic()

    # -------------------------------------------------------------- start
    async def start(self) -> None:
        """Load holds and take over what the load balancers do.

        Raises:
            StoreError: The store cannot be read or written.
        """
        await self._begin_all(list(self._setups))

    async def _begin_all(self, names: Sequence[str]) -> None:
        saved = dict(await self._store.load())
        for name in names:
            was = self._setups[name].was
            if was is not None and was in saved and name not in saved:
                await self._store.rename(was, name)
                saved[name] = saved.pop(was)
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(self._begin(self._setups[name], saved.get(name, Saved())))

    async def swap(self, setups: Sequence[PoolSetup], kept: frozenset[str]) -> None:
        """Serve these groups from now on; those in `kept` feel nothing of it.

        Raises:
            StoreError: The store cannot be read or written.
        """
        new = {setup.pool.name: setup for setup in setups}
        self._setups = {name: self._setups[name] if name in kept else new[name] for name in new}
        for name, runtime in list(self._groups.items()):
            if name not in kept:
                async with runtime.lock:  # a change under way comes to its end first
                    del self._groups[name]
                for task in runtime.tasks:
                    task.cancel()
                await asyncio.gather(*runtime.tasks, return_exceptions=True)
        fresh = [name for name in new if name not in kept]
        await self._begin_all(fresh)
        for name in fresh:
            self._tend(self._groups[name])

    def _tend(self, runtime: _Runtime) -> None:
        """Let the load balancers of a group follow from now on."""
        if self._tasks is not None:
            runtime.tasks = [self._tasks.create_task(r.run()) for r in runtime.reconcilers]

    async def _begin(self, setup: PoolSetup, saved: Saved) -> None:
        name = setup.pool.name
        # What another policy saved under this name means nothing here.
        saved = replace(saved, assigned=None, latched=False, roles=None)
        runtime = self._groups[name] = _Runtime(setup, saved, self._clock.monotonic())
        runtime.reconcilers = [self._reconciler(runtime, p) for p in setup.publishers]
        looks = await asyncio.gather(*(r.first_look(FIRST_LOOK_S) for r in runtime.reconcilers))
        names = [r.publisher.name for r in runtime.reconcilers]
        start = active_active.adopt(setup.pool, dict(zip(names, map(_chosen, looks), strict=True)))
        runtime.members, runtime.disputed = start.members, start.disputed
        self._apply(runtime, saved)
        fields = {"how": "adopt", "reason": start.reason}
        to = word_of(start.members)
        self._recorder.note("began", name, saved.generation, **fields, to=to, **recorded(saved))
        self._emit("group.started", name, node=to, **fields)
        self._evaluate(runtime)

    def _reconciler(self, runtime: _Runtime, publisher: SetPublisher) -> Reconciler:
        async def confirm(adapter: str, turn: int) -> bool:
            return True  # the next start adopts what is there: nothing to remember

        return Reconciler(
            runtime.pool.name,
            _AsOne(publisher),
            self._clock,
            self._events,
            confirm=confirm,
            confirmed=-1,
            changed=runtime.changed.set,
        )

    async def run(self) -> None:
        """Reconcile, watch and carry out until cancelled.

        Raises:
            ExceptionGroup: A part broke a promise; the process ends and is started again.
        """
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._ticked_at = self._clock.monotonic()
            for runtime in self._groups.values():
                self._tend(runtime)
            tasks.create_task(self._watch_store())
            while True:
                await self._clock.sleep(TICK_S)
                self.tick()

    # -------------------------------------------------------------- evidence in
    def observe(self, name: str, observation: Observation) -> None:
        """Take one finished probe; a decision it completes is carried out at once."""
        runtime = self._groups[name]
        self._notice_stall()
        runtime.evidence = active_active.fold(runtime.evidence, observation, runtime.pool)
        self._emit("probe.done", name, observation=observation)
        self._recorder.observe(name, observation, runtime.saved.generation)
        self._evaluate(runtime)

    def references(self, answers: Mapping[str, bool]) -> None:
        """Take what the reference targets answered: all silent means it is us."""
        self._references = answers
        self._notice_isolation()

    def stalled(self, seconds: float) -> None:
        """Take note that probes started late, by so many seconds: evidence was missed."""
        self._discount()  # the controller beside us, on the same loop, tells it

    def tick(self) -> None:
        """Look at what changes by time alone: stalls, clock jumps, isolation, age, due holds."""
        self._notice_stall()
        offset = self._clock.wall() - self._clock.monotonic()
        if abs(offset - self._wall_offset) > CLOCK_JUMP_S:
            self._wall_offset = offset
            self._discount()
        self._notice_isolation()
        for runtime in self._groups.values():
            self._evaluate(runtime)
            self._notice_due_hold(runtime)

    def cut_off(self) -> list[bool]:
        """Tell for each group whether no node of it answers at all."""
        groups = self._groups.values()
        return [active_active.is_cut_off(r.evidence, r.pool) for r in groups]

    def _notice_stall(self) -> None:
        now = self._clock.monotonic()
        away, self._ticked_at = now - self._ticked_at, now
        if away > STALL_S + TICK_S:
            self.stalled(away)

    def _notice_isolation(self) -> None:
        if self._references:
            isolated = not any(self._references.values())
        else:
            groups = [*self.cut_off(), *self._cut_off_elsewhere()]
            isolated = len(groups) >= ISOLATION_GROUPS and all(groups)
        if self._isolated and not isolated:
            self._discount()
        self._isolated = isolated

    def _discount(self) -> None:
        """Let no failure from before this moment count (X19)."""
        for runtime in self._groups.values():
            runtime.evidence = ev.raise_floor(runtime.evidence, self._clock.monotonic())

    # -------------------------------------------------------------- decision
    def _evaluate(self, runtime: _Runtime) -> None:
        self._follow(runtime)
        before, decision = runtime.decision, self._decide(runtime)
        runtime.decision = decision
        if decision.condition == "all-in" and runtime.saved.acked is not None:
            runtime.saved = replace(runtime.saved, acked=None)  # that incident is over
        if before is None or before.condition != decision.condition:
            self._tell_condition(runtime, before, decision)
        if self._is_due(runtime, decision):
            self._soon(runtime, self._change)

    def _follow(self, runtime: _Runtime) -> None:
        """Under `act: false` somebody else decides: what is in is what the load balancers say."""
        looks = {r.publisher.name: _chosen(r.seen) for r in runtime.reconcilers if r.seen}
        if looks and not runtime.pool.act:
            runtime.members = active_active.adopt(runtime.pool, looks).members

    def _tell_condition(
        self, runtime: _Runtime, before: PoolDecision | None, after: PoolDecision
    ) -> None:
        name, brakes = runtime.pool.name, ",".join(after.blocked)
        fields = {"condition": after.condition, "rule": after.rule, "brakes": brakes}
        self._emit("group.condition", name, **fields)
        self._recorder.note(
            "condition",
            name,
            runtime.saved.generation,
            **{"from": before.condition if before else None},
            to=after.condition,
            rule=after.rule,
            blocked=list(after.blocked),
        )

    def _decide(self, runtime: _Runtime) -> PoolDecision:
        brakes = self._brakes(runtime)
        automation = Automation.BLOCKED if brakes else Automation.ARMED
        if self._isolated:
            automation = Automation.ISOLATED
        now = self._clock.monotonic()
        return active_active.decide(
            runtime.pool, runtime.members, runtime.evidence, automation, now, brakes
        )

    def _brakes(self, runtime: _Runtime) -> tuple[str, ...]:
        brakes = {
            "hold": runtime.saved.hold is not None,
            "act": not runtime.pool.act,
            "store-not-writable": not self.is_store_writable,
        }
        return tuple(name for name, is_on in brakes.items() if is_on)

    def _still_disputed(self, runtime: _Runtime, decision: PoolDecision) -> frozenset[str]:
        """Return the nodes whose dispute this decision does not settle."""
        if decision.automation is not Automation.ARMED:
            return runtime.disputed
        health = {found.node: found.situation.health for found in decision.nodes}
        return frozenset(n for n in runtime.disputed if health[n] is Verdict.UNKNOWN)

    def _is_due(self, runtime: _Runtime, decision: PoolDecision) -> bool:
        is_settled = self._still_disputed(runtime, decision) != runtime.disputed
        return is_settled or decision.members != runtime.members

    def _soon(self, runtime: _Runtime, work: Callable[[_Runtime], object]) -> None:
        if self._tasks is None or runtime.is_changing:
            return
        runtime.is_changing = True
        self._tasks.create_task(self._alone(runtime, work))

    async def _alone(self, runtime: _Runtime, work: Callable[[_Runtime], object]) -> None:
        try:
            async with runtime.lock:
                if self._is_served(runtime):
                    await work(runtime)  # type: ignore[misc]
        except StoreError as error:
            await self._not_saved(runtime, error)
        finally:
            runtime.is_changing = False
        self._evaluate(runtime)

    def _is_served(self, runtime: _Runtime) -> bool:
        """Tell whether a reload has not taken this group away, or made it anew."""
        return self._groups.get(runtime.pool.name) is runtime

    # -------------------------------------------------------------- note, then publish
    async def _change(self, runtime: _Runtime) -> None:
        decision = self._decide(runtime)  # again: an operator may have acted in between
        if not self._is_due(runtime, decision):
            return
        decided_at, disputed = self._clock.monotonic(), self._still_disputed(runtime, decision)
        changes = self._changes(runtime, decision)
        if changes:
            # Before traffic: a crash right after this line is explained by the next start.
            name, saved = runtime.pool.name, runtime.saved
            await self._store.note_all([self._record(name, saved, c) for c in changes])
            runtime.last_change = changes[-1]
            runtime.saved = replace(runtime.saved, acked=None)  # of what was the case before
        runtime.members, runtime.disputed = decision.members, disputed
        runtime.turn += 1
        self._want(runtime, decided_at)
        for change in changes:
            self._tell_change(runtime, change)

    def _changes(self, runtime: _Runtime, decision: PoolDecision) -> list[Change]:
        """Return one change for each node that goes in or out, in the order they are made."""
        changes, members, now = [], set(runtime.members), self._clock.monotonic()
        acting = [found for found in decision.nodes if found.rule.action is not Action.NONE]
        for found in sorted(acting, key=lambda f: f.rule.action is Action.TAKE_OUT):
            source = word_of(frozenset(members))
            is_in = found.rule.action is Action.PUT_IN
            members ^= {found.node}
            page = runtime.evidence.page(found.node, Page.STATUS)
            changes.append(
                Change(
                    kind=found.rule.action.value,
                    source=source,
                    target=word_of(frozenset(members)),
                    at_wall=self._clock.wall(),
                    actor="lb-probe",
                    reason=f"{found.node} serves again" if is_in else f"{found.node} fails",
                    rule=found.rule.id,
                    condition=decision.condition,
                    evidence=(f"{found.node} status: {row_of(page, now)}",),
                )
            )
        return changes

    def _record(self, name: str, saved: Saved, change: Change) -> Record:
        details = {
            "from": change.source,
            "to": change.target,
            "actor": change.actor,
            "reason": change.reason,
            "rule": change.rule,
            "evidence": list(change.evidence),
            "notes": dict(change.notes),
            **recorded(saved),
            **self._recorder.stamp(),
        }
        return Record(name, change.kind, change.at_wall, saved.generation, details)

    def _want(self, runtime: _Runtime, decided_at: float = 0.0) -> None:
        hold = runtime.saved.hold
        may_write = runtime.pool.act and not (hold is not None and hold.hands_off)
        # In dispute nothing is published: else a node that one prober took out a moment before it
        # died would come back at its load balancer, failing or not.
        word = None if runtime.disputed else word_of(runtime.members)
        for reconciler in runtime.reconcilers:
            reconciler.want(Wanted(word, runtime.turn, may_write, decided_at))

    async def _save(self, runtime: _Runtime, state: Saved) -> None:
        """Make a hold or an ack durable, then act by it.

        Raises:
            StoreError: Not saved, and so not in force.
        """
        change, name = state.last_change, runtime.pool.name
        assert change is not None
        state = replace(state, assigned=None)
        record = self._record(name, state, change)
        await self._store.commit(name, state, expect=runtime.saved.generation, record=record)
        runtime.last_change = change
        self._apply(runtime, state)
        self._tell_change(runtime, change)

    def _tell_change(self, runtime: _Runtime, change: Change) -> None:
        self._emit(
            f"group.{change.kind}",
            runtime.pool.name,
            reason=change.reason,
            generation=runtime.saved.generation,
            actor=change.actor,
            **{"from": change.source, "to": change.target},
        )

    def _apply(self, runtime: _Runtime, state: Saved) -> None:
        """Take a saved state into force and tell the reconcilers."""
        before, now, hold = runtime.saved, self._clock.monotonic(), state.hold
        runtime.saved = state
        if before.hold is not None and hold is None:
            runtime.evidence = ev.raise_floor(runtime.evidence, now)  # fresh failures only (R109)
        if hold is None:
            runtime.hold_due_at = None
        elif runtime.hold_due_at is None or hold != before.hold:
            # Once for each hold: the wall clock may jump later (X20). A new one runs from its own
            # beginning; one found at start goes by the wall clock.
            change = state.last_change if hold != before.hold else None
            since = change.at_wall if change is not None else self._clock.wall()
            runtime.hold_due_at = now + hold.until_wall - since
            runtime.is_overdue_told = False
        self._want(runtime)

    async def _not_saved(self, runtime: _Runtime, error: StoreError) -> None:
        try:
            if isinstance(error, Conflict):
                # Somebody else saved a hold or an ack, or our own outcome was unknown.
                saved = (await self._store.load()).get(runtime.pool.name, Saved())
                self._apply(runtime, replace(saved, assigned=None, latched=False, roles=None))
                return
        except StoreError as unreadable:
            error = unreadable
        self._store_failed(error)

    def _store_failed(self, error: StoreError) -> None:
        if self.is_store_writable:  # the same failure again is told once
            self._emit("store.failed", detail=str(error))
        self.is_store_writable = False
        self._store_broke.set()

    async def _watch_store(self) -> None:
        """Find out when a store that failed works again; a whole one is tested elsewhere."""
        while True:
            await self._store_broke.wait()
            await self._clock.sleep(STORE_RETRY_S)
            try:
                await self._store.test_write()
            except StoreError as error:
                self._store_failed(error)
            else:
                self.is_store_writable = True
                self._store_broke.clear()
                self._emit("store.recovered")

    # -------------------------------------------------------------- holds
    def _notice_due_hold(self, runtime: _Runtime) -> None:
        due, decision = runtime.hold_due_at, runtime.decision
        if due is None or decision is None or self._clock.monotonic() < due:
            return
        if decision.condition in LAPSES_IN:
            self._soon(runtime, self._lapse)
        elif decision.condition != "confirming" and not runtime.is_overdue_told:
            runtime.is_overdue_told = True
            self._emit("hold.overdue", runtime.pool.name, condition=decision.condition)

    async def _lapse(self, runtime: _Runtime) -> None:
        due = runtime.hold_due_at  # again: an operator may have set another hold in between
        if due is None or self._clock.monotonic() < due:
            return
        if self._decide(runtime).condition in LAPSES_IN:
            state = acts.lapse_hold(self._worded(runtime), self._clock.wall())
            await self._save(runtime, state)

    def _worded(self, runtime: _Runtime) -> Saved:
        """Return what is saved as `core.acts` wants it: with who has the traffic, in a word."""
        return replace(runtime.saved, assigned=word_of(runtime.members))

    # -------------------------------------------------------------- the operator
    def plan(self, name: str, ask: Command) -> acts.Plan:
        """Judge an operator's command and say what it would do; changes nothing.

        Raises:
            NotFound: No such group or verb.
            Invalid: The command cannot be understood.
            Conflict: The generation is not the one the operator looked at.
        """
        runtime = self._find(name)
        found = runtime.saved.generation
        if ask.generation is not None and ask.generation != found:
            raise Conflict(
                f"group {name} is at generation {found}, you looked at {ask.generation}:"
                f" it changed since; look again (lb-probe status {name})",
                found,
            )
        request = self._request(name, ask)
        saved = self._worded(runtime)
        if ask.verb not in VERBS or ask.verb == "republish":
            gates = self._gates(runtime, ask.verb)
            closed = tuple(gate for gate in gates if not gate.passed)
            line = closed[0].instead if closed else ""
            at = saved.assigned
            plan = acts.Plan(ask.verb, at, at, gates, closed, line, None)
        else:
            now = self._clock.monotonic()
            world = World(runtime.pool.numbers, saved, runtime.evidence, (), None, now)
            plan = acts.plan(request, world)
        if strange := sorted((ask.override | ask.attest.keys()) - {g.id for g in plan.gates}):
            raise Invalid(f"{ask.verb} of an {POLICY} group has no gate {', '.join(strange)}")
        return replace(plan, warnings=self._warnings(runtime, ask.verb))

    def _request(self, name: str, ask: Command) -> acts.Request:
        if ask.verb not in acts.VERBS:
            raise NotFound(f"no verb {ask.verb}; use one of {', '.join(VERBS)}")
        if not ask.reason.strip():
            raise Invalid("found no reason; say why, it is kept in the history")
        if ask.to is not None and ask.verb in VERBS:
            raise Invalid(f"{ask.verb} takes no node; group {name} is {POLICY}")
        if ask.verb == "hold" and not (ask.hold_s and ask.hold_s > 0):
            raise Invalid("found no time; a hold needs `for`, as 2h: a forgotten hold is no rule")
        wall = self._clock.wall()
        until = wall + (ask.hold_s or 0.0)
        reason = ask.reason.strip()
        return acts.Request(ask.verb, ask.actor, reason, wall, None, until, ask.hands_off)

    def _gates(self, runtime: _Runtime, verb: str) -> tuple[Gate, ...]:
        name, hold = runtime.pool.name, runtime.saved.hold
        if verb not in VERBS:
            found = f"group {name} is {POLICY}: every healthy node is in and returns by itself"
            wanted = f"a group of policy manual-resume; here you may {', '.join(VERBS)}"
            return (Gate("policy", False, found, wanted, "", f"lb-probe status {name}"),)
        is_off = hold is not None and hold.hands_off
        by = f"hold with hands off by {hold.by}: {hold.reason}" if hold and is_off else "none"
        line = f"lb-probe release {name} --reason '...'"
        act = f"`act: {str(runtime.pool.act).lower()}`"
        return (
            Gate("act", runtime.pool.act, act, "`act: true` in probes.yaml", ""),
            Gate("hands-off", not is_off, by, "no hold with --hands-off", "", line),
        )

    def _warnings(self, runtime: _Runtime, verb: str) -> tuple[str, ...]:
        wished, hold = self._decide(runtime).wished, runtime.saved.hold
        if verb == "release" and hold is not None and wished != runtime.members:
            now, then = word_of(runtime.members), word_of(wished)
            return (f"without the hold {then} would be in, now {now}",)
        if verb == "hold" and hold is not None:
            return (f"replaces the hold by {hold.by}: {hold.reason}",)
        return ()

    def commands(self, name: str, word: str | None) -> list[str]:
        """Return the literal commands that would bring in the nodes of this word, as `a+b`."""
        publishers = [r.publisher for r in self._find(name).reconcilers] if word else []
        return [f"{p.name}: {line}" for p in publishers for line in p.commands(word or "")]

    async def act(self, name: str, ask: Command) -> PoolView:
        """Carry out an operator's command; waits a little for the load balancers to follow.

        Raises:
            NotFound, Invalid, Conflict: As `plan`.
            Refused: A gate is closed, or the verb means nothing under this policy.
            StoreError: Not saved, and so not done.
        """
        runtime = self._find(name)
        async with runtime.lock:
            if not self._is_served(runtime):
                raise Invalid(f"group {name} was reloaded at this moment; nothing was done: repeat")
            plan = self.plan(name, ask)
            if plan.closed:
                gates = ", ".join(gate.id for gate in plan.closed)
                self._emit("act.refused", name, verb=ask.verb, actor=ask.actor, gates=gates)
                found = "; ".join(gate.found for gate in plan.closed)
                raise Refused(f"{ask.verb} of {name} refused: {found}", plan.gates, plan.paste)
            try:
                await self._do(runtime, ask, plan)
            except StoreError as error:
                await self._not_saved(runtime, error)
                raise
        self._evaluate(runtime)
        await self._settle(runtime)
        return self.view(name)

    async def _do(self, runtime: _Runtime, ask: Command, plan: acts.Plan) -> None:
        if plan.saved is not None:
            await self._save(runtime, plan.saved)
            return
        reason, at = ask.reason.strip(), plan.target
        change = Change(ask.verb, at, at, self._clock.wall(), ask.actor, reason)
        await self._store.note(self._record(runtime.pool.name, runtime.saved, change))
        self._tell_change(runtime, change)
        for reconciler in runtime.reconcilers:
            reconciler.take_back()

    async def _settle(self, runtime: _Runtime) -> None:
        """Wait until every load balancer follows or cannot; at most `SETTLE_S`."""
        end = self._clock.monotonic() + SETTLE_S
        while True:
            runtime.changed.clear()
            left = end - self._clock.monotonic()
            waiting = [
                r
                for r in runtime.reconcilers
                if r.wanted.may_write and r.wanted.node and not r.view.yielded and not r.is_in_sync
            ]
            if not waiting or left <= 0:
                return
            await self._clock.wait(runtime.changed, left)

    # -------------------------------------------------------------- looking
    @property
    def names(self) -> tuple[str, ...]:
        """Names of all groups, in the order of the file."""
        return tuple(self._setups)

    def _find(self, name: str) -> _Runtime:
        try:
            return self._groups[name]
        except KeyError:
            names = ", ".join(self._setups) or "none"
            raise NotFound(f"no group {name}; the groups are: {names}") from None

    def view(self, name: str) -> PoolView:
        """Return everything that is shown of one group, as of now.

        Raises:
            NotFound: No such group.
        """
        runtime = self._find(name)
        adapters = tuple(
            AdapterStatus(
                name=r.publisher.name,
                type=r.publisher.type,
                wanted=r.wanted.node,
                seen=r.seen,
                yielded=r.view.yielded,
                in_sync=r.is_in_sync,
                detail=r.detail,
            )
            for r in runtime.reconcilers
        )
        return PoolView(
            pool=runtime.pool,
            saved=runtime.saved,
            members=runtime.members,
            disputed=runtime.disputed,
            decision=self._decide(runtime),
            evidence=runtime.evidence,
            adapters=adapters,
            last_change=runtime.last_change,
            now=self._clock.monotonic(),
            wall=self._clock.wall(),
        )

    def _emit(self, name: str, group: str = "", **fields: object) -> None:
        self._events.emit(Event(name, group, fields))


def _chosen(seen: Seen | None) -> frozenset[str] | None:
    return None if seen is None else frozenset(seen.chosen)
