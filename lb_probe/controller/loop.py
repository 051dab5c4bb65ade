"""The loop: evidence in; decision, save, publish, read back, event out.

Effects have one order. A change is saved before any load balancer hears of it: a crash between the
two leaves the group latched and the next start finishes the work; in the other order traffic would
be moved by nobody. Publishing and reading back belong to `reconcile`, which never stops; what holds
under every policy to `tending`.

Source: DESIGN section 1; guide lines 216-222; X1-X22.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lb_probe.controller import desk
from lb_probe.controller.beginning import begun, refuse_unfit
from lb_probe.controller.group import OfflineNote, Runtime, Setup, came_to_wait
from lb_probe.controller.judgement import Judgement
from lb_probe.controller.keeping import Keeping
from lb_probe.core import acts, calm
from lb_probe.core import evidence as ev
from lb_probe.core.agents import Heard
from lb_probe.core.holds import Holds, holds
from lb_probe.core.model import Action, Decision, Event, Observation, Page, Saved, Serving
from lb_probe.core.start import begin
from lb_probe.core.view import View
from lb_probe.ports import (
    WHOLE,
    Clock,
    EventSink,
    Publisher,
    Record,
    Span,
    Store,
    StoreError,
)
from lb_probe.reconcile import Fence, Reconciler, Wanted
from lb_probe.recorder import Recorder
from lb_probe.recorder import state as recorded
from lb_probe.tending.desk import Ask
from lb_probe.tending.loop import FIRST_LOOK_S, TICK_S, Loop
from lb_probe.tending.vantage import Vantage

MAKING_S = 1.0  # a group whose move is being made is looked at by time alone no more often


class Controller(Loop[Setup, Runtime, View]):
    """Carries out decisions in the one safe order.

    Args:
        quicken: Asks the schedule to probe a group's doubtful pages sooner.
        failovers_per_minute: Ceiling on automatic failovers over all groups; None for none.
        signature: Who we are, left where a load balancer has room for it (X21).
        cut_off: For each group of another policy whether no target of it answers; counted with
            our own where there are no reference targets.
    """

    LAPSES_IN = frozenset({"normal"})
    _keeping: Keeping

    def __init__(
        self,
        setups: Sequence[Setup],
        store: Store,
        clock: Clock,
        events: EventSink,
        *,
        failovers_per_minute: int | None = None,
        quicken: Callable[[str], None] = lambda group: None,
        signature: str = "",
        cut_off: Callable[[], Sequence[bool]] = tuple,
    ) -> None:
        recorder = Recorder(clock)
        super().__init__(setups, store, clock, events, recorder)
        self._quicken = quicken
        self._signature = signature
        self._keeping = Keeping(store, clock, recorder, self._emit)
        self._vantage = Vantage(
            self._groups,
            clock,
            tick_s=TICK_S,
            note=recorder.note,
            emit=self._emit,
            cut_off=cut_off,
        )
        self.judgement = Judgement(
            clock, recorder, self._keeping, self._vantage, failovers_per_minute
        )

    # -------------------------------------------------------------- start
    async def start(
        self,
        notes: Mapping[str, OfflineNote] | None = None,
        allowed: frozenset[str] = frozenset(),
    ) -> None:
        """Load what was saved and find out where each group begins.

        Args:
            notes: What break-glass left behind, by group.
            allowed: Groups whose changed topology an operator overrode by name.

        Raises:
            StoreError: The store cannot be read or written.
            Invalid: The file changed what a latched group or the node with the traffic is.
        """
        left = notes or {}
        refuse_unfit(await self._store.load(), list(self._setups.values()), left, allowed)
        self.recorder.note("started")
        await self._begin_all(
            list(self._setups),
            lambda setup, saved: self._begin(setup, saved, left.get(setup.name)),
        )

    async def judge(self, setups: Sequence[Setup]) -> None:
        """Find out whether `swap` would take these groups; changes nothing.

        Raises:
            StoreError: The store cannot be read.
            Invalid: The file changed what a latched group or the node with the traffic is.
        """
        refuse_unfit(await self._store.load(), setups, {}, frozenset())

    async def swap(self, setups: Sequence[Setup], kept: frozenset[str]) -> None:
        """Serve these groups from now on; those in `kept` feel nothing of it.

        Raises:
            StoreError, Invalid: As `judge`; nothing was changed then.
        """
        await self.judge(setups)
        await super().swap(setups, kept)

    async def _begin(
        self, setup: Setup, saved: Saved | None, note: OfflineNote | None = None
    ) -> None:
        now, name = self._clock.monotonic(), setup.name
        runtime = Runtime(setup, saved or Saved(), now)
        runtime.reconcilers = [self._reconciler(runtime, p) for p in setup.publishers]
        self._groups[name] = runtime
        async with runtime.lock:  # an operator waits until it is known where it begins
            await self._find_out(runtime, saved, note, now)

    async def _find_out(
        self, runtime: Runtime, saved: Saved | None, note: OfflineNote | None, now: float
    ) -> None:
        name, setup = runtime.name, runtime.setup
        looks = await asyncio.gather(*(r.first_look(FIRST_LOOK_S) for r in runtime.reconcilers))
        seen = {r.publisher.name: s for r, s in zip(runtime.reconcilers, looks, strict=True)}
        start = begin(runtime.group, saved, seen)
        state = begun(runtime, start, note, self._clock.wall())
        if runtime.saved.roles and runtime.group.nodes == setup.group.nodes:
            # The file agrees with what swap-roles saved: one change says this and what else began.
            dropped = acts.drop_roles(runtime.saved, self._clock.wall())
            state = dropped if state is None else replace(state, roles=None)
        if state is not None:
            await self._save(runtime, state)
        else:
            self._apply(runtime, runtime.saved, decided_at=0.0)
            if start.kind == "finish" and start.node != runtime.group.primary:
                runtime.evidence = replace(runtime.evidence, moved_at=now)
        self._emit("group.started", name, how=start.kind, node=start.node, reason=start.reason)
        fields = {"how": start.kind, "reason": start.reason, "to": runtime.saved.assigned}
        generation, now_saved = runtime.saved.generation, recorded(runtime.saved)
        self.recorder.note("began", name, generation, **fields, **now_saved)
        self._evaluate(runtime)

    def _reconciler(self, runtime: Runtime, publisher: Publisher) -> Reconciler:
        async def confirm(adapter: str, generation: int) -> bool:
            try:
                await self._store.confirm(runtime.name, adapter, generation)
            except StoreError as error:
                self._keeping.failed(error)
                return False
            confirmed = {**runtime.saved.confirmed, adapter: generation}
            runtime.saved = replace(runtime.saved, confirmed=confirmed)
            return True

        return Reconciler(
            runtime.name,
            publisher,
            self._clock,
            self._events,
            confirm=confirm,
            confirmed=runtime.saved.confirmed.get(publisher.name, -1),
            changed=runtime.changed.set,
            signature=self._signature,
            elsewhere=runtime.setup.elsewhere.get(publisher.name, frozenset()),
        )

    def _chores(self) -> list[Coroutine[Any, Any, None]]:
        return [*super()._chores(), self._keeping.record(self._is_changing)]

    def _is_changing(self) -> bool:
        return any(runtime.is_changing for runtime in self._groups.values())

    async def close(self) -> None:
        """Note that the prober stops, and save what still waits; after `run` has ended."""
        self.recorder.note("stopped")
        await self._keeping.flush()

    # -------------------------------------------------------------- evidence in
    def hear(self, name: str, node: str, heard: Heard) -> None:
        """Take what the agent of a node said; it decides nothing."""
        runtime = self._groups.get(name)
        if runtime is not None and node in runtime.group.names:
            runtime.heard[node] = heard

    def holds(self, name: str, node: str) -> Holds:
        """Return whether a node has the traffic, for its agent; cheap."""
        runtime = self._groups.get(name)
        if runtime is None:
            return Holds.UNKNOWN  # a reload took it away, or it is a group of equals
        return holds(node, runtime.saved, (one.seen for one in runtime.reconcilers))

    def observe(self, name: str, observation: Observation) -> None:
        """Take one finished probe; a decision it completes is carried out at once."""
        runtime, now = self._groups[name], self._vantage.notice_stall()
        before, group = runtime.evidence, runtime.group
        runtime.evidence = ev.fold(before, observation, group, runtime.watched)
        self._events.emit(Event("probe.done", name, {"observation": observation}))
        self.recorder.observe(name, observation, runtime.saved.generation)
        if ev.is_own_failure(observation):
            self._vantage.impaired(runtime, observation.outcome.detail)
        look, decision = runtime.look, runtime.decision
        if (
            look is not None
            and decision is not None
            and look.evidence is before
            and not self.judgement.is_outdated(look, runtime.saved, now)
            and (
                (observation.node, observation.page) not in runtime.pages_read
                or calm.is_plain(before, observation, group, decision, now)
            )
        ):
            look.evidence = runtime.evidence
        else:
            self._evaluate(runtime)

    def doubt(self, name: str, node: str, page: Page, is_on: bool) -> None:
        """Note that a probe of this page is overdue, or no more so: evidence of nothing."""
        overdue = self._groups[name].overdue
        (overdue.add if is_on else overdue.discard)((node, page))

    def is_hurried(self, name: str, node: str, page: Page) -> bool:
        """Tell whether this page should be probed at `recheck`, though it did not fail."""
        runtime = self._groups[name]
        if page is not Page.HASTATUS or node != runtime.watched:
            return False
        return runtime.wants_word(self._clock.monotonic())

    def tick(self) -> None:
        """Look at what changes by time alone: stalls, clock jumps, isolation, age, due holds."""
        self._vantage.notice_stall()
        self._vantage.notice_jump()
        self._vantage.notice_isolation()
        now = self._clock.monotonic()
        for runtime in self._groups.values():
            look = runtime.look
            if (
                look is None
                or look.evidence is not runtime.evidence
                or self.judgement.is_outdated(look, runtime.saved, now)
            ):
                self._evaluate(runtime)
            self._notice_due_hold(runtime)

    # -------------------------------------------------------------- decision
    def _decide(self, runtime: Runtime) -> Decision:
        return self.judgement.decide(runtime)

    def _evaluate(self, runtime: Runtime) -> None:
        before, now = runtime.decision, self._clock.monotonic()
        decision = runtime.decision = self._decide(runtime)
        if decision.situation.serving is Serving.YES:
            runtime.evidence = ev.arrived(runtime.evidence)
        look = runtime.look = self.judgement.look(runtime, decision, now)
        if before is None or before.condition != decision.condition:
            self._tell_condition(runtime, before, decision)
        if decision.action is Action.FAIL_OVER:
            self._soon(runtime, self._fail_over)
            if runtime.is_changing:  # it decides once more by itself, at its own moment
                look.until = now + MAKING_S
        elif decision.action is Action.REPROBE or ev.is_doubtful(
            runtime.evidence, runtime.group, now
        ):
            self._quicken(runtime.name)
        self.judgement.ask_witnesses(runtime, now)

    async def _fail_over(self, runtime: Runtime) -> None:
        self._vantage.notice_stall()  # one since the decision has made its evidence worthless
        decision = self._decide(runtime)  # again: an operator may have acted in between
        if decision.action is not Action.FAIL_OVER:
            return
        decided_at, at_wall = self._clock.monotonic(), self._clock.wall()
        self.judgement.count(decided_at)
        state = acts.fail_over(
            runtime.saved,
            runtime.group.candidate,
            at_wall=at_wall,
            rule=decision.rule,
            condition=decision.condition,
            why=runtime.why(decided_at, at_wall),
        )
        try:
            await self._save(runtime, state, decided_at)
        except StoreError:
            self.judgement.forget(decided_at)
            raise

    # -------------------------------------------------------------- save, then publish
    async def _save(
        self,
        runtime: Runtime,
        state: Saved,
        decided_at: float = 0.0,
        fence: Fence | None = None,
    ) -> None:
        """Make `state` durable, then let the reconcilers publish it.

        Args:
            fence: Where all load balancers close first.

        Raises:
            StoreError: Not saved; nothing was published either.
        """
        change, prints, before = state.last_change, runtime.setup.fingerprints, runtime.saved
        assert change is not None
        state = replace(state, fingerprint=prints.get(state.assigned or "", ""))
        record = self.recorder.record(runtime.name, change, state)
        # Before traffic: a crash right after this line leaves us latched, not lost.
        await self._store.commit(runtime.name, state, expect=before.generation, record=record)
        state = replace(state, confirmed=runtime.saved.confirmed)
        is_move = state.assigned != runtime.saved.assigned  # a hold is no publication to be timed
        self._apply(runtime, state, decided_at if is_move else 0.0, fence)
        self._tell_change(runtime, change)

    def _apply(
        self, runtime: Runtime, state: Saved, decided_at: float, fence: Fence | None = None
    ) -> None:
        """Take a saved state into force and tell the reconcilers."""
        before, now = runtime.saved, self._clock.monotonic()
        runtime.follow(state)
        if state.assigned != before.assigned or state.roles != before.roles:
            moved_at = now if came_to_wait(before, state, runtime.group) else None
            runtime.evidence = replace(ev.raise_floor(runtime.evidence, now), moved_at=moved_at)
        is_armed_again = before.latched and not state.latched
        if is_armed_again or (before.hold is not None and state.hold is None):
            runtime.evidence = ev.raise_floor(runtime.evidence, now)  # fresh failures only (R109)
        self._reckon_hold(runtime, before)
        may_write = runtime.group.act and not (state.hold is not None and state.hold.hands_off)
        for reconciler in runtime.reconcilers:
            reconciler.want(Wanted(state.assigned, state.generation, may_write, decided_at, fence))

    def _take_over(self, runtime: Runtime, saved: Saved) -> None:
        self._apply(runtime, saved, decided_at=0.0)

    # -------------------------------------------------------------- the operator
    def plan(self, name: str, ask: Ask) -> acts.Plan:
        """Judge an operator's command and say what it would do; changes nothing.

        Raises:
            NotFound: No such group.
            Invalid: The command cannot be understood.
            Conflict: The generation is not the one the operator looked at.
        """
        runtime, now = self._find(name), self._clock.monotonic()
        return desk.plan(runtime, ask, self._decide(runtime), now, self._clock.wall())

    def resume_gates(self, name: str) -> acts.Plan:
        """Judge `resume` as nobody, for explanations; changes nothing."""
        return desk.resume_gates(self._find(name), self._clock.monotonic(), self._clock.wall())

    def commands(self, name: str, node: str | None) -> list[str]:
        """Return the literal commands that would bring traffic to `node`."""
        if node is None:
            return []
        runtime, lines = self._find(name), []
        for publisher in (reconciler.publisher for reconciler in runtime.reconcilers):
            is_elsewhere = node in runtime.setup.elsewhere.get(publisher.name, ())
            nothing = f"# nothing here: another tier brings traffic to {node}"
            said = [nothing] if is_elsewhere else publisher.commands(node)
            lines += [f"{publisher.name}: {line}" for line in said]
        return lines

    async def _do(self, runtime: Runtime, ask: Ask, plan: acts.Plan) -> Fence | None:
        fence = self._fence(runtime, ask.verb)
        if plan.saved is not None:
            await self._save(runtime, plan.saved, self._clock.monotonic(), fence)
        else:
            await self._note_by_hand(runtime, ask)
        if ask.verb in ("accept", "republish"):
            for reconciler in runtime.reconcilers:
                reconciler.take_back()
        return fence

    def _fence(self, runtime: Runtime, verb: str) -> Fence | None:
        """Return where a planned move waits until no load balancer has anything under way."""
        seconds = runtime.setup.drain_s
        if verb != "switchover" or not seconds:
            return None
        writing = [r.publisher.name for r in runtime.reconcilers if not r.view.yielded]
        return Fence(writing, self._clock.monotonic() + seconds)

    async def _note_by_hand(self, runtime: Runtime, ask: Ask) -> None:
        """Keep in the history who asked for what changes nothing saved (R125)."""
        saved, name = runtime.saved, runtime.name
        fields: dict[str, object] = {"to": saved.assigned, "actor": ask.actor, "reason": ask.reason}
        details = {**fields, **self.recorder.stamp()}
        await self._store.note(
            Record(name, ask.verb, self._clock.wall(), saved.generation, details)
        )
        self._emit(f"group.{ask.verb}", name, **fields)

    # -------------------------------------------------------------- looking
    @property
    def wall(self) -> float:
        """UTC seconds since 1970, for times that are counted back from now."""
        return self._clock.wall()

    def _shown(self, runtime: Runtime) -> View:
        return runtime.shown(self._decide(runtime), self._clock.monotonic(), self._clock.wall())

    def views(self, names: Iterable[str] | None = None) -> tuple[View, ...]:
        """Return what is shown of groups, by their last decision: at most a tick old, and cheap.

        Args:
            names: Those wanted; one that is gone is left out. All of them when None.
        """
        now, wall = self._clock.monotonic(), self._clock.wall()
        found = map(self._groups.get, self._groups if names is None else names)
        shown = [r.shown(r.decision or self._decide(r), now, wall) for r in found if r is not None]
        return tuple(shown)

    async def history(self, name: str | None, limit: int, span: Span = WHOLE) -> list[Record]:
        """Return the newest records of a span, newest last.

        Raises:
            NotFound: No such group.
            StoreError: The store cannot be read.
        """
        if name is not None:
            self._find(name)
        return await self._store.history(name, limit, span)
