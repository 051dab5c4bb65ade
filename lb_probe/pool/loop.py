"""The loop of active-active groups: evidence in; decision, a line of history, publish, read back.

The sibling of `controller`; what both do alike is in `tending`. It is so much smaller because
nothing is latched: which nodes are in is no promise that must outlive the process. A prober that
starts takes over what the load balancers do and the table goes on from there. Only an operator's
hold and ack are saved.

Effects have one order. A line of history is durable before any load balancer hears of a change:
else a crash between the two would leave a change that nobody can explain. Publishing and reading
back belong to `reconcile`; a set of nodes is one word there (`pool_view.word_of`).

Source: DESIGN sections 1 and 4; REQUIREMENTS R39-R41, X4, X10, X15, X19.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from lb_probe.core import active_active, acts
from lb_probe.core import evidence as ev
from lb_probe.core.active_active import Action, PoolDecision, Verdict
from lb_probe.core.model import Automation, Change, Observation, Page, Saved
from lb_probe.core.pool_view import PoolView, row_of, word_of
from lb_probe.pool import desk
from lb_probe.pool.group import AsOne, PoolRuntime, PoolSetup, SetPublisher
from lb_probe.ports import Clock, EventSink, Store
from lb_probe.reconcile import Reconciler, Wanted
from lb_probe.recorder import Recorder
from lb_probe.recorder import state as recorded
from lb_probe.tending.desk import Ask
from lb_probe.tending.loop import FIRST_LOOK_S, TICK_S, Loop
from lb_probe.tending.store_watch import StoreWatch
from lb_probe.tending.vantage import Vantage


class PoolController(Loop[PoolSetup, PoolRuntime, PoolView]):
    """Keeps every healthy node of every active-active group in.

    Args:
        recorder: The one of this process; who flushes it is not our matter.
        cut_off: For each group of other policies whether no target of it answers; counted with
            our own where there are no reference targets.
    """

    LAPSES_IN = frozenset({"all-in", "some-out"})

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
        super().__init__(setups, store, clock, events, recorder)
        self._keeping = StoreWatch(store, clock, note=_untold, emit=self._emit, test_s=None)
        self._vantage = Vantage(
            self._groups,
            clock,
            tick_s=TICK_S,
            note=_untold,
            emit=_untold,
            cut_off=cut_off,
        )

    # -------------------------------------------------------------- start
    async def start(self) -> None:
        """Load holds and take over what the load balancers do.

        Raises:
            StoreError: The store cannot be read or written.
        """
        await self._begin_all(list(self._setups), self._begin)

    async def _begin(self, setup: PoolSetup, saved: Saved | None) -> None:
        name, state = setup.name, _ours(saved or Saved())
        runtime = self._groups[name] = PoolRuntime(setup, state, self._clock.monotonic())
        runtime.reconcilers = [self._reconciler(runtime, p) for p in setup.publishers]
        async with runtime.lock:  # an operator waits until it is known where it begins
            await self._find_out(runtime)

    async def _find_out(self, runtime: PoolRuntime) -> None:
        name, state = runtime.name, runtime.saved
        looks = await asyncio.gather(*(r.first_look(FIRST_LOOK_S) for r in runtime.reconcilers))
        names = [r.publisher.name for r in runtime.reconcilers]
        start = runtime.adopted(dict(zip(names, looks, strict=True)))
        runtime.members, runtime.disputed = start.members, start.disputed
        self._apply(runtime, state)
        fields = {"how": "adopt", "reason": start.reason}
        to = word_of(start.members)
        self.recorder.note("began", name, state.generation, **fields, to=to, **recorded(state))
        self._emit("group.started", name, node=to, **fields)
        self._evaluate(runtime)

    def _reconciler(self, runtime: PoolRuntime, publisher: SetPublisher) -> Reconciler:
        async def confirm(adapter: str, turn: int) -> bool:
            return True  # the next start adopts what is there: nothing to remember

        return Reconciler(
            runtime.name,
            AsOne(publisher),
            self._clock,
            self._events,
            confirm=confirm,
            confirmed=-1,
            changed=runtime.changed.set,
        )

    # -------------------------------------------------------------- evidence in
    def observe(self, name: str, observation: Observation) -> None:
        """Take one finished probe; a decision it completes is carried out at once."""
        runtime = self._groups[name]
        self._vantage.notice_stall()
        runtime.evidence = active_active.fold(runtime.evidence, observation, runtime.pool)
        self._emit("probe.done", name, observation=observation)
        self.recorder.observe(name, observation, runtime.saved.generation)
        if ev.is_own_failure(observation):
            self._vantage.impaired(runtime, observation.outcome.detail)
        self._evaluate(runtime)

    def tick(self) -> None:
        """Look at what changes by time alone: stalls, clock jumps, isolation, age, due holds."""
        self._vantage.notice_stall()
        self._vantage.notice_jump()
        self._vantage.notice_isolation()
        for runtime in self._groups.values():
            self._evaluate(runtime)
            self._notice_due_hold(runtime)

    # -------------------------------------------------------------- decision
    def _evaluate(self, runtime: PoolRuntime) -> None:
        self._follow(runtime)
        before, decision = runtime.decision, self._decide(runtime)
        runtime.decision = decision
        if decision.condition == "all-in" and runtime.saved.acked is not None:
            runtime.saved = replace(runtime.saved, acked=None)  # that incident is over
        if before is None or before.condition != decision.condition:
            self._tell_condition(runtime, before, decision)
        if self._is_due(runtime, decision):
            self._soon(runtime, self._change)

    def _follow(self, runtime: PoolRuntime) -> None:
        """Under `act: false` somebody else decides: what is in is what the load balancers say."""
        looks = {r.publisher.name: r.seen for r in runtime.reconcilers if r.seen}
        if looks and not runtime.pool.act:
            runtime.members = runtime.adopted(looks).members

    def _decide(self, runtime: PoolRuntime) -> PoolDecision:
        brakes = self._brakes(runtime)
        automation = Automation.BLOCKED if brakes else Automation.ARMED
        if self._vantage.is_isolated:
            automation = Automation.ISOLATED
        now = self._clock.monotonic()
        return active_active.decide(
            runtime.pool, runtime.members, runtime.evidence, automation, now, brakes
        )

    def _brakes(self, runtime: PoolRuntime) -> tuple[str, ...]:
        brakes = {
            "hold": runtime.saved.hold is not None,
            "act": not runtime.pool.act,
            "store-not-writable": not self._keeping.is_writable,
        }
        return tuple(name for name, is_on in brakes.items() if is_on)

    def _still_disputed(self, runtime: PoolRuntime, decision: PoolDecision) -> frozenset[str]:
        """Return the nodes whose dispute this decision does not settle."""
        if decision.automation is not Automation.ARMED:
            return runtime.disputed
        health = {found.node: found.situation.health for found in decision.nodes}
        return frozenset(n for n in runtime.disputed if health[n] is Verdict.UNKNOWN)

    def _is_due(self, runtime: PoolRuntime, decision: PoolDecision) -> bool:
        is_settled = self._still_disputed(runtime, decision) != runtime.disputed
        return is_settled or decision.members != runtime.members

    async def _alone(
        self, runtime: PoolRuntime, work: Callable[[PoolRuntime], Awaitable[None]]
    ) -> None:
        await super()._alone(runtime, work)
        if self._is_served(runtime):  # else it would be asked again for ever
            self._evaluate(runtime)  # what came up meanwhile was not begun

    # -------------------------------------------------------------- note, then publish
    async def _change(self, runtime: PoolRuntime) -> None:
        decision = self._decide(runtime)  # again: an operator may have acted in between
        if not self._is_due(runtime, decision):
            return
        decided_at, disputed = self._clock.monotonic(), self._still_disputed(runtime, decision)
        changes = self._changes(runtime, decision)
        if changes:
            # Before traffic: a crash right after this line is explained by the next start.
            await self._note(runtime, changes)
            runtime.last_change = changes[-1]
            runtime.saved = replace(runtime.saved, acked=None)  # of what was the case before
        runtime.members, runtime.disputed = decision.members, disputed
        runtime.turn += 1
        self._want(runtime, decided_at)
        for change in changes:
            self._tell_change(runtime, change)

    def _changes(self, runtime: PoolRuntime, decision: PoolDecision) -> list[Change]:
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

    async def _note(self, runtime: PoolRuntime, changes: Sequence[Change]) -> None:
        """Keep changes in the history that change nothing saved.

        Raises:
            StoreError: Not kept; nothing was published either.
        """
        name, saved = runtime.name, runtime.saved
        await self._store.note_all([self.recorder.record(name, c, saved) for c in changes])

    def _want(self, runtime: PoolRuntime, decided_at: float = 0.0) -> None:
        hold = runtime.saved.hold
        may_write = runtime.pool.act and not (hold is not None and hold.hands_off)
        # In dispute nothing is published: else a node that one prober took out a moment before it
        # died would come back at its load balancer, failing or not.
        word = None if runtime.disputed else word_of(runtime.members)
        for reconciler in runtime.reconcilers:
            reconciler.want(Wanted(word, runtime.turn, may_write, decided_at))

    async def _save(self, runtime: PoolRuntime, state: Saved) -> None:
        """Make a hold or an ack durable, then act by it.

        Raises:
            StoreError: Not saved, and so not in force.
        """
        change, name = state.last_change, runtime.name
        assert change is not None
        state = replace(state, assigned=None)
        record = self.recorder.record(name, change, state)
        await self._store.commit(name, state, expect=runtime.saved.generation, record=record)
        runtime.last_change = change
        self._apply(runtime, state)
        self._tell_change(runtime, change)

    def _apply(self, runtime: PoolRuntime, state: Saved) -> None:
        """Take a saved state into force and tell the reconcilers."""
        before, runtime.saved = runtime.saved, state
        if before.hold is not None and state.hold is None:
            now = self._clock.monotonic()
            runtime.evidence = ev.raise_floor(runtime.evidence, now)  # fresh failures only (R109)
        self._reckon_hold(runtime, before)
        self._want(runtime)

    def _take_over(self, runtime: PoolRuntime, saved: Saved) -> None:
        self._apply(runtime, _ours(saved))

    # -------------------------------------------------------------- the operator
    def plan(self, name: str, ask: Ask) -> acts.Plan:
        """Judge an operator's command and say what it would do; changes nothing.

        Raises:
            NotFound: No such group or verb.
            Invalid: The command cannot be understood.
            Conflict: The generation is not the one the operator looked at.
        """
        runtime, now = self._find(name), self._clock.monotonic()
        return desk.plan(runtime, ask, self._decide(runtime), now, self._clock.wall())

    def commands(self, name: str, word: str | None) -> list[str]:
        """Return the literal commands that would bring in the nodes of this word, as `a+b`."""
        publishers = [r.publisher for r in self._find(name).reconcilers] if word else []
        return [f"{p.name}: {line}" for p in publishers for line in p.commands(word or "")]

    def _why_refused(self, plan: acts.Plan) -> str:
        return f": {'; '.join(gate.found for gate in plan.closed)}"

    async def _do(self, runtime: PoolRuntime, ask: Ask, plan: acts.Plan) -> None:
        if plan.saved is not None:
            await self._save(runtime, plan.saved)
            return
        reason, at = ask.reason.strip(), plan.target
        change = Change(ask.verb, at, at, self._clock.wall(), ask.actor, reason)
        await self._note(runtime, [change])
        self._tell_change(runtime, change)
        for reconciler in runtime.reconcilers:
            reconciler.take_back()

    # -------------------------------------------------------------- looking
    def _shown(self, runtime: PoolRuntime) -> PoolView:
        return runtime.shown(self._decide(runtime), self._clock.monotonic(), self._clock.wall())


def _ours(saved: Saved) -> Saved:
    """Return of a saved state what means something here; another policy may have saved it."""
    return replace(saved, assigned=None, latched=False, roles=None)


def _untold(*_: object, **fields: object) -> None:
    """Say nothing: the controller beside us, on the same loop, tells it."""
