"""The loop: evidence in; decision, save, publish, read back, event out.

Effects have one order. A change is saved before any load balancer hears of it: a crash between the
two leaves the group latched and the next start finishes the work; in the other order traffic would
be moved by nobody. Publishing and reading back belong to `reconcile`, which never stops.

Source: DESIGN section 1; guide lines 216-222; X1-X22.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from lb_probe.controller import desk
from lb_probe.controller.beginning import begun, judged
from lb_probe.controller.group import Ask, Look, OfflineNote, Runtime, Setup, came_to_wait
from lb_probe.controller.keeping import Keeping
from lb_probe.controller.vantage import Vantage
from lb_probe.core import acts, calm
from lb_probe.core import evidence as ev
from lb_probe.core.agents import Heard
from lb_probe.core.failover import decide
from lb_probe.core.model import (
    Action,
    Automation,
    Decision,
    Event,
    Hold,
    Observation,
    Page,
    Saved,
    Serving,
    Traffic,
)
from lb_probe.core.start import begin
from lb_probe.core.view import View
from lb_probe.core.witness import Statement, objections
from lb_probe.ports import (
    WHOLE,
    Clock,
    Conflict,
    EventSink,
    Invalid,
    NotFound,
    Publisher,
    Record,
    Refused,
    Span,
    Store,
    StoreError,
)
from lb_probe.reconcile import Fence, Reconciler, Wanted
from lb_probe.recorder import Recorder
from lb_probe.recorder import state as recorded

TICK_S = 0.25
MAKING_S = 1.0  # a group whose move is being made is looked at by time alone no more often
FIRST_LOOK_S = 3.0
SETTLE_S = 3.0
WITNESS_S = 0.5  # while the Primary fails, a load balancer that may contradict is asked so often


class Controller:
    """Carries out decisions in the one safe order.

    Args:
        quicken: Asks the schedule to probe a group's doubtful pages sooner.
        failovers_per_minute: Ceiling on automatic failovers over all groups; None for none.
        signature: Who we are, left where a load balancer has room for it (X21).
        cut_off: For each group of another policy whether no target of it answers; counted with
            our own where there are no reference targets.
    """

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
        self._setups = {setup.group.name: setup for setup in setups}
        self._store = store
        self._clock = clock
        self._events = events
        self.failovers_per_minute = failovers_per_minute
        self._quicken = quicken
        self._signature = signature
        self._groups: dict[str, Runtime] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._failovers: deque[float] = deque()
        self._recorder = self.recorder = Recorder(clock)
        self._keeping = Keeping(store, clock, self._recorder, self._emit)
        self._vantage = Vantage(
            self._groups,
            clock,
            self._recorder,
            tick_s=TICK_S,
            emit=self._emit,
            cut_off=cut_off,
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
        saved = judged(await self._store.load(), self._setups, notes or {}, allowed)
        self._recorder.note("started")
        await self._begin_all(list(self._setups), saved, notes or {})

    async def _begin_all(
        self, names: Sequence[str], saved: Mapping[str, Saved], notes: Mapping[str, OfflineNote]
    ) -> None:
        stored = await self._store.load()
        for name in names:
            was = self._setups[name].was
            if was is not None and was in stored and name not in stored:
                await self._store.rename(was, name)
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in names:
                    begun = self._begin(self._setups[name], saved.get(name), notes.get(name))
                    tasks.create_task(begun)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one store: the others say the same

    async def judge(self, setups: Sequence[Setup]) -> None:
        """Find out whether `swap` would take these groups; changes nothing.

        Raises:
            StoreError: The store cannot be read.
            Invalid: The file changed what a latched group or the node with the traffic is.
        """
        judged(
            await self._store.load(),
            {setup.group.name: setup for setup in setups},
            {},
            frozenset(),
        )

    async def swap(self, setups: Sequence[Setup], kept: frozenset[str]) -> None:
        """Serve these groups from now on; those in `kept` feel nothing of it.

        The others begin as after a start: no failure from before counts, and what is saved stands.

        Raises:
            StoreError, Invalid: As `judge`; nothing was changed then.
        """
        new = {setup.group.name: setup for setup in setups}
        saved = judged(await self._store.load(), new, {}, frozenset())
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
        await self._begin_all(fresh, saved, {})
        for name in fresh:
            self._tend(self._groups[name])

    def _tend(self, runtime: Runtime) -> None:
        """Let the load balancers of a group follow from now on."""
        if self._tasks is not None:
            runtime.tasks = [self._tasks.create_task(r.run()) for r in runtime.reconcilers]

    async def _begin(self, setup: Setup, saved: Saved | None, note: OfflineNote | None) -> None:
        now, name = self._clock.monotonic(), setup.group.name
        runtime = Runtime(setup, saved or Saved(), now)
        runtime.reconcilers = [self._reconciler(runtime, p) for p in setup.publishers]
        self._groups[name] = runtime
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
        self._recorder.note("began", name, generation, **fields, **now_saved)
        self._evaluate(runtime)

    def _reconciler(self, runtime: Runtime, publisher: Publisher) -> Reconciler:
        name = runtime.setup.group.name

        async def confirm(adapter: str, generation: int) -> bool:
            try:
                await self._store.confirm(name, adapter, generation)
            except StoreError as error:
                self._keeping.failed(error)
                return False
            confirmed = {**runtime.saved.confirmed, adapter: generation}
            runtime.saved = replace(runtime.saved, confirmed=confirmed)
            return True

        return Reconciler(
            name,
            publisher,
            self._clock,
            self._events,
            confirm=confirm,
            confirmed=runtime.saved.confirmed.get(publisher.name, -1),
            changed=runtime.changed.set,
            signature=self._signature,
            elsewhere=runtime.setup.elsewhere.get(publisher.name, frozenset()),
        )

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
            tasks.create_task(self._keeping.watch())
            tasks.create_task(self._keeping.record(self._is_moving))
            while True:
                await self._clock.sleep(TICK_S)
                self.tick()

    # -------------------------------------------------------------- evidence in
    def hear(self, name: str, node: str, heard: Heard) -> None:
        """Take what the agent of a node said; it decides nothing."""
        runtime = self._groups.get(name)
        if runtime is not None and node in runtime.group.names:
            runtime.heard[node] = heard

    def observe(self, name: str, observation: Observation) -> None:
        """Take one finished probe; a decision it completes is carried out at once."""
        runtime, now = self._groups[name], self._vantage.notice_stall()
        before, group = runtime.evidence, runtime.group
        runtime.evidence = ev.fold(before, observation, group, runtime.watched)
        self._events.emit(Event("probe.done", name, {"observation": observation}))
        self._recorder.observe(name, observation, runtime.saved.generation)
        look, decision = runtime.look, runtime.decision
        if (
            look is not None
            and decision is not None
            and look.evidence is before
            and not self._is_outdated(look, runtime.saved, now)
            and (
                (observation.node, observation.page) not in runtime.pages_read
                or calm.is_plain(before, observation, group, decision, now)
            )
        ):
            look.evidence = runtime.evidence
        else:
            self._evaluate(runtime)

    def references(self, answers: Mapping[str, bool]) -> None:
        """Take what the reference targets answered: all silent means it is us."""
        self._vantage.references(answers)

    def stalled(self, seconds: float) -> None:
        """Take note that probes started late: evidence was missed."""
        self._vantage.stalled(seconds)

    def doubt(self, name: str, node: str, page: Page, is_on: bool) -> None:
        """Note that a probe of this page is overdue, or no more so: evidence of nothing."""
        overdue = self._groups[name].overdue
        (overdue.add if is_on else overdue.discard)((node, page))

    def is_hurried(self, name: str, node: str, page: Page) -> bool:
        """Tell whether this page should be probed at `recheck`, though it did not fail.

        While the Primary is doubtful, or overdue, the Secondary's word must be newer than the
        doubt.
        """
        runtime = self._groups[name]
        if page is not Page.HASTATUS or node != runtime.watched:
            return False
        if runtime.traffic is not Traffic.PRIMARY:
            return False
        if (runtime.group.primary, Page.STATUS) in runtime.overdue:
            return True
        now = self._clock.monotonic()
        if ev.is_doubtful(runtime.evidence, runtime.group, now):
            return True
        decision = runtime.decision
        return decision is not None and decision.action is Action.REPROBE

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
                or self._is_outdated(look, runtime.saved, now)
            ):
                self._evaluate(runtime)
            self._notice_due_hold(runtime)

    def _is_outdated(self, look: Look, saved: Saved, now: float) -> bool:
        """Tell whether anything but the evidence has changed since a look at a group."""
        return (
            now >= look.until
            or look.saved is not saved
            or look.is_isolated is not self._vantage.is_isolated
            or look.is_store_writable is not self._keeping.is_writable
            # A ceiling that was reached is left again by time alone.
            or (self.failovers_per_minute is not None and bool(self._failovers or look.failovers))
        )

    def cut_off(self) -> list[bool]:
        """Tell whether none of our groups is reached; nothing where there is no group."""
        return self._vantage.cut_off()

    # -------------------------------------------------------------- decision
    def _evaluate(self, runtime: Runtime) -> None:
        before, now = runtime.decision, self._clock.monotonic()
        decision = runtime.decision = self._decide(runtime)
        if decision.situation.serving is Serving.YES:
            runtime.evidence = ev.arrived(runtime.evidence)
        runtime.look = Look(
            runtime.evidence,
            runtime.saved,
            self._vantage.is_isolated,
            self._keeping.is_writable,
            len(self._failovers),
            # An objection ages, and is renewed or not: it is looked at each time.
            -math.inf
            if runtime.objections
            else calm.quiet_until(runtime.evidence, runtime.group, decision, now),
        )
        if before is None or before.condition != decision.condition:
            brakes = ",".join(decision.blocked)
            fields = {"condition": decision.condition, "rule": decision.rule, "brakes": brakes}
            self._emit("group.condition", runtime.group.name, **fields)
            self._note_condition(runtime, before, decision)
        if decision.action is Action.FAIL_OVER:
            self._soon(runtime, self._fail_over)
            if runtime.is_moving:  # it decides once more by itself, at its own moment
                runtime.look.until = now + MAKING_S
        elif decision.action is Action.REPROBE or ev.is_doubtful(
            runtime.evidence, runtime.group, now
        ):
            self._quicken(runtime.group.name)
        self._ask_witnesses(runtime, now)

    def _ask_witnesses(self, runtime: Runtime, now: float) -> None:
        """Have the load balancers look that may contradict a failing Primary, often enough."""
        if not runtime.is_contestable:
            return
        names = {witness.adapter for witness in runtime.setup.witnesses}
        for reconciler in runtime.reconcilers:
            if reconciler.publisher.name in names and now - reconciler.seen_at >= WITNESS_S:
                reconciler.look()

    def _heed_witnesses(self, runtime: Runtime, now: float) -> None:
        """Take what the load balancers say of a Primary that fails (X7)."""
        if not runtime.is_contestable:
            runtime.objections = {}  # with the fault they end by themselves, and in a replay too
            return
        looks = {r.publisher.name: (r.seen, r.seen_at) for r in runtime.reconcilers}
        told = [Statement(w, *looks[w.adapter]) for w in runtime.setup.witnesses]
        found = objections(runtime.evidence, runtime.group, told, now)
        if found.keys() != runtime.objections.keys():
            name, generation = runtime.group.name, runtime.saved.generation
            self._recorder.note("witness", name, generation, adapters=sorted(found))
        runtime.objections = found

    def _note_condition(self, runtime: Runtime, before: Decision | None, after: Decision) -> None:
        self._recorder.note(
            "condition",
            runtime.group.name,
            runtime.saved.generation,
            **{"from": before.condition if before else None},
            to=after.condition,
            rule=after.rule,
            blocked=list(after.blocked),
        )

    def _decide(self, runtime: Runtime) -> Decision:
        self._heed_witnesses(runtime, self._clock.monotonic())
        brakes = self._brakes(runtime)
        automation = Automation.BLOCKED if brakes else Automation.ARMED
        if self._vantage.is_isolated:
            automation = Automation.ISOLATED
        situation = ev.situation(
            runtime.evidence,
            runtime.group,
            runtime.saved.assigned,
            automation,
            self._clock.monotonic(),
        )
        before = runtime.decision
        if before is not None and before.blocked == brakes and before.situation == situation:
            return before
        return decide(situation, brakes)

    def _brakes(self, runtime: Runtime) -> tuple[str, ...]:
        limit = self.failovers_per_minute
        now = self._clock.monotonic() if self._failovers else 0.0
        while self._failovers and now - self._failovers[0] >= 60.0:
            self._failovers.popleft()
        brakes = {
            "hold": runtime.saved.hold is not None,
            "act": not runtime.group.act,
            "one-shot": runtime.saved.latched,
            "limit": limit is not None and len(self._failovers) >= limit,
            "store-not-writable": not self._keeping.is_writable,
            "lb-disagrees": bool(runtime.objections),
        }
        return tuple(name for name, is_on in brakes.items() if is_on)

    def _soon(self, runtime: Runtime, work: Callable[[Runtime], object]) -> None:
        if self._tasks is None or runtime.is_moving:
            return
        runtime.is_moving = True
        self._tasks.create_task(self._alone(runtime, work))

    async def _alone(self, runtime: Runtime, work: Callable[[Runtime], object]) -> None:
        try:
            async with runtime.lock:
                if self._is_served(runtime):
                    await work(runtime)  # type: ignore[misc]
        except StoreError as error:
            await self._not_saved(runtime, error)
        finally:
            runtime.is_moving = False

    def _is_served(self, runtime: Runtime) -> bool:
        """Tell whether a reload has not taken this group away, or made it anew."""
        return self._groups.get(runtime.setup.group.name) is runtime

    async def _not_saved(self, runtime: Runtime, error: StoreError) -> None:
        try:
            if isinstance(error, Conflict):
                await self._reload(runtime)
                return
        except StoreError as unreadable:
            error = unreadable
        self._keeping.failed(error)

    async def _fail_over(self, runtime: Runtime) -> None:
        self._vantage.notice_stall()  # one since the decision has made its evidence worthless
        decision = self._decide(runtime)  # again: an operator may have acted in between
        if decision.action is not Action.FAIL_OVER:
            return
        group, decided_at = runtime.group, self._clock.monotonic()
        self._failovers.append(decided_at)  # before the save: no other group slips past meanwhile
        at_wall = self._clock.wall()
        state = acts.fail_over(
            runtime.saved,
            group.candidate,
            at_wall=at_wall,
            rule=decision.rule,
            condition=decision.condition,
            why=runtime.why(decided_at, at_wall),
        )
        try:
            await self._save(runtime, state, decided_at)
        except StoreError:
            if decided_at in self._failovers:
                self._failovers.remove(decided_at)  # not made, so not counted
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
        assert state.last_change is not None
        prints = runtime.setup.fingerprints
        state = replace(state, fingerprint=prints.get(state.assigned or "", ""))
        change = state.last_change
        assert change is not None
        record = Record(
            runtime.group.name,
            change.kind,
            change.at_wall,
            state.generation,
            {
                "from": change.source,
                "to": change.target,
                "actor": change.actor,
                "reason": change.reason,
                "rule": change.rule,
                "evidence": list(change.evidence),
                "notes": dict(change.notes),
                **recorded(state),
                **self._recorder.stamp(),
            },
        )
        # Before traffic: a crash right after this line leaves us latched, not lost.
        await self._store.commit(
            runtime.group.name, state, expect=runtime.saved.generation, record=record
        )
        state = replace(state, confirmed=runtime.saved.confirmed)
        is_move = state.assigned != runtime.saved.assigned  # a hold is no publication to be timed
        self._apply(runtime, state, decided_at if is_move else 0.0, fence)
        fields = {"from": change.source, "to": change.target, "actor": change.actor}
        self._emit(
            f"group.{change.kind}",
            runtime.group.name,
            reason=change.reason,
            generation=state.generation,
            **fields,
        )

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
        if state.hold is None:
            runtime.hold_due_at = None
        elif runtime.hold_due_at is None or state.hold != before.hold:
            # Once for each hold: the wall clock may have jumped since (X20).
            is_new = state.hold != before.hold
            runtime.hold_due_at = now + self._left_s(state, state.hold, is_new=is_new)
            runtime.is_overdue_told = False
        may_write = runtime.group.act and not (state.hold is not None and state.hold.hands_off)
        for reconciler in runtime.reconcilers:
            reconciler.want(Wanted(state.assigned, state.generation, may_write, decided_at, fence))

    def _left_s(self, state: Saved, hold: Hold, *, is_new: bool) -> float:
        """Return the seconds a hold has left; only one found at start goes by the wall clock.

        A new one runs from its own beginning: the clock may have jumped while it was saved. And
        the wall clock is the one of our own beginning: it may have jumped while we looked around.
        """
        change = state.last_change
        if is_new and change is not None and change.kind == "hold":
            return hold.until_wall - change.at_wall
        return self._vantage.left_s(hold.until_wall)

    async def _reload(self, runtime: Runtime) -> None:
        """Take over what is on disk: somebody saved there, or our own outcome was unknown."""
        name, ours = runtime.group.name, runtime.saved.generation
        saved = (await self._store.load()).get(name, Saved())
        if saved.generation < ours:
            raise StoreError(
                f"the store holds generation {saved.generation} of group {name}, older than"
                f" {ours}, which is in force: an older copy took its place; restart the prober"
            )
        if saved.generation > ours:
            self._apply(runtime, saved, decided_at=0.0)

    # -------------------------------------------------------------- holds and the store
    def _notice_due_hold(self, runtime: Runtime) -> None:
        due = runtime.hold_due_at
        if due is None or self._clock.monotonic() < due:
            return
        if runtime.decision is None or runtime.decision.condition == "confirming":
            return  # no verdict yet; it is looked at again at the next tick
        if runtime.decision.condition == "normal":
            self._soon(runtime, self._lapse)
        elif not runtime.is_overdue_told:
            runtime.is_overdue_told = True
            condition = runtime.decision.condition
            self._emit("hold.overdue", runtime.group.name, condition=condition)

    async def _lapse(self, runtime: Runtime) -> None:
        due = runtime.hold_due_at  # again: an operator may have set another hold in between
        if due is None or self._clock.monotonic() < due:
            return
        if self._decide(runtime).condition == "normal":
            await self._save(runtime, acts.lapse_hold(runtime.saved, self._clock.wall()))

    async def close(self) -> None:
        """Note that the prober stops, and save what still waits; after `run` has ended."""
        self._recorder.note("stopped")
        await self._keeping.flush()

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

    async def act(self, name: str, ask: Ask) -> View:
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
                closed = ", ".join(gate.id for gate in plan.closed)
                self._emit("act.refused", name, verb=ask.verb, actor=ask.actor, gates=closed)
                raise Refused(f"{ask.verb} of {name} refused by {closed}", plan.gates, plan.paste)
            fence = self._fence(runtime, ask.verb)
            if plan.saved is not None:
                await self._save_by_hand(runtime, plan.saved, fence)
            else:
                await self._note_by_hand(runtime, ask)
            if ask.verb in ("accept", "republish"):
                for reconciler in runtime.reconcilers:
                    reconciler.take_back()
        self._evaluate(runtime)
        await self._settle(runtime, fence)
        return self.view(name)

    def _fence(self, runtime: Runtime, verb: str) -> Fence | None:
        """Return where a planned move waits until no load balancer has anything under way."""
        seconds = runtime.setup.drain_s
        if verb != "switchover" or not seconds:
            return None
        writing = [r.publisher.name for r in runtime.reconcilers if not r.view.yielded]
        return Fence(writing, self._clock.monotonic() + seconds)

    async def _save_by_hand(self, runtime: Runtime, state: Saved, fence: Fence | None) -> None:
        try:
            await self._save(runtime, state, self._clock.monotonic(), fence)
        except StoreError as error:
            await self._not_saved(runtime, error)
            raise

    async def _note_by_hand(self, runtime: Runtime, ask: Ask) -> None:
        """Keep in the history who asked for what changes nothing saved (R125)."""
        saved, name = runtime.saved, runtime.group.name
        fields: dict[str, object] = {"to": saved.assigned, "actor": ask.actor, "reason": ask.reason}
        details = {**fields, **self._recorder.stamp()}
        record = Record(name, ask.verb, self._clock.wall(), saved.generation, details)
        try:
            await self._store.note(record)
        except StoreError as error:
            self._keeping.failed(error)
            raise
        self._emit(f"group.{ask.verb}", name, **fields)

    async def _settle(self, runtime: Runtime, fence: Fence | None) -> None:
        """Wait until every load balancer follows or cannot; at most `SETTLE_S`, and for a fence."""
        now = self._clock.monotonic()
        end = now + SETTLE_S + (fence.left_s(now) if fence else 0.0)
        while True:
            runtime.changed.clear()
            left = end - self._clock.monotonic()
            waiting = [
                r
                for r in runtime.reconcilers
                if r.wanted.may_write
                and not r.view.yielded
                and (r.confirmed < runtime.saved.generation or not r.is_in_sync)
            ]
            if not waiting or left <= 0 or runtime.saved.assigned is None:
                return
            await self._clock.wait(runtime.changed, left)

    # -------------------------------------------------------------- looking
    @property
    def names(self) -> tuple[str, ...]:
        """Names of all groups, in the order of the file."""
        return tuple(self._setups)

    @property
    def wall(self) -> float:
        """UTC seconds since 1970, for times that are counted back from now."""
        return self._clock.wall()

    @property
    def is_store_writable(self) -> bool:
        """Whether the store took the last write."""
        return self._keeping.is_writable

    def _is_moving(self) -> bool:
        return any(runtime.is_moving for runtime in self._groups.values())

    def _find(self, name: str) -> Runtime:
        try:
            return self._groups[name]
        except KeyError:
            names = ", ".join(self._setups) or "none"
            raise NotFound(f"no group {name}; the groups are: {names}") from None

    def view(self, name: str) -> View:
        """Return everything that is shown of one group, as of now.

        Raises:
            NotFound: No such group.
        """
        runtime = self._find(name)
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

    def resume_gates(self, name: str) -> acts.Plan:
        """Judge `resume` as nobody, for explanations; changes nothing."""
        return desk.resume_gates(self._find(name), self._clock.monotonic(), self._clock.wall())

    async def history(self, name: str | None, limit: int, span: Span = WHOLE) -> list[Record]:
        """Return the newest records of a span, newest last.

        Raises:
            NotFound: No such group.
            StoreError: The store cannot be read.
        """
        if name is not None:
            self._find(name)
        return await self._store.history(name, limit, span)

    def _emit(self, name: str, group: str = "", **fields: object) -> None:
        self._events.emit(Event(name, group, fields))
