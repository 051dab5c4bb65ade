"""One simulated world: the real controller between modelled parts, driven by a plan.

The prober lives and dies here; probes, reference targets, faults and operators come from the plan
at its times. Nothing here judges: `simulation_judge` does.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from simulation_clock import BEGIN, Clock
from simulation_judge import Judge, home_of
from simulation_parts import (
    HUNG,
    LOST,
    NODE_MODES,
    NODE_STATES,
    REFUSED,
    Disk,
    ModelBalancer,
    ModelNode,
    RealDisk,
    Wire,
)
from simulation_plan import (
    PAGES,
    QUIET_S,
    A,
    B,
    Plan,
    Step,
)

from lb_probe.controller import Ask, Controller, OfflineNote, Setup
from lb_probe.core.model import (
    Event,
    Failed,
    Group,
    Hold,
    Node,
    Observation,
    Page,
    Role,
    Saved,
)
from lb_probe.ports import LbProbeError, StoreError
from lb_probe.prober.schedule import Pace, Schedule
from lb_probe.prober.target import Target

HOLD_S = 3.0
GATES = {
    "resume": {"primary-serving", "single-primary", "adapters-reachable"},
    "failover": {"target-ready"},
    "switchover": {"primary-serving", "standby-ready", "adapters-reachable"},
    "swap-roles": {"roles-observed"},
}


@dataclass
class _Probe:
    """One probe under way; `told_after_s` is how long its answer lies about before it is told."""

    is_dropped: bool = False
    told_after_s: float = 0.0

    def cancel(self) -> None:
        self.is_dropped = True


# ------------------------------------------------------------------ the world
class Simulation:
    """One plan, from start to the quiet after the last fault.

    Args:
        folder: Where a real store may live.
        tell: Takes each line of what happens.
    """

    interval_s, recheck_s, timeout_s = 1.0, 0.25, 0.6

    def __init__(
        self, plan: Plan, folder: Path | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed ^ 0x5EED)
        self.clock = Clock()
        self.judge = Judge(self)
        self._tell = tell
        names = tuple(f"lb{n}" for n in range(plan.balancers))
        self.group = Group(
            "g",
            (Node(A, Role.PRIMARY), Node(B, Role.SECONDARY, candidate=True)),
            act=plan.act,
            adapters=names,
            fall=plan.fall,
            confirm_s=plan.confirm_s,
            max_age_s=2.2,
            serving_deadline_s=5.0,
        )
        opens = frozenset({A} if plan.opens else ())
        self.balancers = [ModelBalancer(n, opens, {A}) for n in names]
        self.nodes = {A: ModelNode(A, "primary"), B: ModelNode(B, "standby")}
        self.disk = RealDisk(self, folder) if plan.sqlite and folder else Disk(self)
        self.note: OfflineNote | None = None
        self.controller: Controller | None = None
        self._cut: dict[str, Failed] = {}  # what the prober cannot reach, and how that looks
        self._loss = 0.0
        self._delays: dict[str, tuple[str, float]] = {}
        self._life = 0  # counts probers; an effect of a dead one goes nowhere
        self._is_up = False
        self._die_in: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._untold: dict[Observation, float] = {}
        self._generation_seen = 0
        self._due_holds: dict[str, tuple[int, float]] = {}
        self._due_by_wall = 0.0

    # -------------------------------------------------------------- what the judge asks
    def home(self, saved: Saved) -> str:
        return home_of(saved, self.group.primary)

    def due_at(self, hold: Hold) -> float:
        """Return when a hold is due, monotonic; a prober that starts knows only wall time."""
        life, due_at = self._due_holds[hold.by]
        return due_at if life == self._life else hold.until_wall - self._due_by_wall

    def is_failing(self, home: str) -> bool:
        """Tell whether the rule should hold, by what the nodes really do since the last fault."""
        if not self.plan.act or {s.what for s in self.plan.steps} & {"store", "late", "stuck"}:
            return False
        node, other = self.nodes[home], self.nodes[B if home == A else A]
        is_down = node.state in ("dead", "hung", "broken", "dark")
        return is_down and other.state in ("up", "dark") and other.mode == "standby"

    # -------------------------------------------------------------- effects and death
    async def effect(self) -> None:
        """A moment between two effects: here the prober may die."""
        life = self._life
        await asyncio.sleep(0)
        if self._die_in is not None and self._is_up:
            self._die_in -= 1
            if self._die_in <= 0:
                self._kill()
        if life != self._life:
            await self.clock.create_future()  # dead: never goes on

    def _kill(self) -> None:
        self._life += 1
        self._die_in = None
        self._is_up = False
        self.controller = None
        for task in self._tasks:
            task.cancel()

    def _start(self) -> None:
        if self._is_up:
            return
        self._life += 1
        self._is_up = True
        self._due_by_wall = self.clock.offset
        self.judge.prober_started()
        self._tasks.append(self.clock.create_task(self._live(self._life)))

    async def _live(self, life: int) -> None:
        await self.disk.opened()
        controller = Controller(
            [Setup(self.group, tuple(Wire(self, b) for b in self.balancers))],
            self.disk,
            self.clock,
            self,
            quicken=lambda name: schedule.quicken(name),
        )
        schedule = self._schedule(controller, life)
        try:
            await controller.start({"g": self.note} if self.note else None)
        except StoreError:  # it ends, and is started again
            self._kill()
            self.clock.at(self.clock.now + 1.0, self._start)
            return
        if life != self._life:
            return
        self.note = None
        self.controller = controller
        self.judge.believes(controller.view("g").saved)
        self._tasks.append(self.clock.create_task(schedule.run()))
        if self.plan.references:
            self.clock.at(self.clock.now + 0.13, self._refer, life)
        await controller.run()

    def emit(self, event: Event) -> None:
        self.judge.told(event)
        if self._tell is not None and event.name != "probe.done":
            words = " ".join(f"{k}={v}" for k, v in event.fields.items() if v not in (None, ""))
            self._say(f"  {event.name} {words}")

    def _say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(f"{self.clock.now - BEGIN:8.3f}  {text}".rstrip())

    # -------------------------------------------------------------- probes
    def _schedule(self, controller: Controller, life: int) -> Schedule:
        pace = Pace(self.interval_s, self.recheck_s, self.plan.fall)
        pages = [(name, page) for name in (A, B) for page in Page]
        return Schedule(
            [
                (Target("g", *p, "http", "::1", 1, "/", timeout_s=self.timeout_s), pace)
                for p in pages
            ],
            report=partial(self._report, life),
            hurry=controller.is_hurried,
            doubt=controller.doubt,
            stalled=controller.stalled,
            clock=self.clock.monotonic,
            rng=self.rng,
            start=partial(self._begin, life),
        )

    def _begin(self, life: int, target: Target, done: Callable[[Observation], None]) -> _Probe:
        node, page = target.node, target.page
        outcome = self._cut and self._cut_off(f"{node}/{page.value}")
        if not outcome:
            is_lost = self._loss and self.rng.random() < self._loss
            outcome = LOST if is_lost else self.nodes[node].answer(page)
        hangs = outcome is LOST or outcome is HUNG
        started, probe = self.clock.now, _Probe()
        ended = started + (self.timeout_s if hangs else self.rng.uniform(0.002, 0.04))
        how, seconds = self._delays.pop(f"{node}/{page.value}", ("", 0.0))
        if how == "stuck":
            ended += seconds
        elif how == "late":
            probe.told_after_s = seconds
        seen = Observation(node, page, started, ended, outcome)
        self.clock.at(ended, self._end, life, probe, done, seen)
        return probe

    def _end(
        self, life: int, probe: _Probe, done: Callable[[Observation], None], seen: Observation
    ) -> None:
        if life != self._life or probe.is_dropped:
            return
        seen = self._as_of_now(seen)
        if probe.told_after_s:
            self._untold[seen] = probe.told_after_s
        done(seen)

    def _report(self, life: int, name: str, seen: Observation) -> None:
        """Take a result of the schedule; one that is to come late is told later."""
        later_s = self._untold.pop(seen, None)
        if later_s is None:
            self._deliver(seen, life)
        else:
            self.clock.at(self.clock.now + later_s, self._deliver, seen, life)

    def _as_of_now(self, seen: Observation) -> Observation:
        """The loop was away, or it came late."""
        return replace(seen, ended_at=self.clock.now) if seen.ended_at < self.clock.now else seen

    def _cut_off(self, name: str) -> Failed | None:
        node = name.partition("/")[0]
        return self._cut.get(name) or self._cut.get(node)

    def _deliver(self, seen: Observation, life: int) -> None:
        if life == self._life and self.controller is not None:
            seen = self._as_of_now(seen)
            self.judge.observed(seen)
            self.controller.observe("g", seen)

    def _refer(self, life: int) -> None:
        """Ask the reference targets, once a second."""
        if life != self._life or self.controller is None:
            return
        answers = {"gateway": "references" not in self._cut}
        self.judge.references(answers)
        self.controller.references(answers)
        self.clock.at(self.clock.now + 1.0, self._refer, life)

    # -------------------------------------------------------------- faults
    def do(self, step: Step) -> None:
        self._say(f"{step.what} {' '.join(str(a) for a in step.args)}")
        getattr(self, f"_do_{step.what}")(*step.args)

    def _do_node(self, name: str, does: str) -> None:
        node = self.nodes[name]
        node.state = NODE_STATES.get(does, node.state)
        node.mode = NODE_MODES.get(does, node.mode)

    def _do_link(self, word: str, what: str) -> None:
        for name in (A, B, *PAGES, "references") if what == "all" else (what,):
            if word == "back":
                self._cut.pop(name, None)
                self._cut.pop(name.partition("/")[0], None)
            else:
                self._cut[name] = LOST if word == "cut" else REFUSED

    def _do_lb(self, which: int, does: str, *chosen: str) -> None:
        balancer = self.balancers[which % len(self.balancers)]
        if does == "restarts":
            balancer.run += 1
            balancer.chosen = set(balancer.configured)
            self.judge.balancer_restarted(balancer.name)
        elif does == "set":
            balancer.chosen = set(chosen)
            self.judge.hand_moved(balancer.name)
        else:
            balancer.mood = does

    def _do_prober(self, word: str, arg: object = None) -> None:
        if word == "start":
            self._die_in = None
            self._start()
        elif word == "die-at":
            self._die_in = arg
        elif word == "file-agrees":
            self._rewrite_file()
        else:
            self._kill()
            if word == "lose":
                self.disk.lose()
                self.judge.store_lost()
            elif word == "offline":
                self._break_glass(arg)

    def _rewrite_file(self) -> None:
        """The file comes to say what swap-roles saved; the prober reads it when it starts."""
        self._kill()
        home = self.home(self.disk.saved.get("g", Saved()))
        roles = {A: Role.SECONDARY, B: Role.SECONDARY, home: Role.PRIMARY}
        nodes = [Node(n, r, candidate=r is Role.SECONDARY) for n, r in roles.items()]
        self.group = replace(self.group, nodes=tuple(nodes))

    def _break_glass(self, node: str) -> None:
        for balancer in self.balancers:
            balancer.chosen = {node}
        self.note = OfflineNote(node, "ops", "the prober is gone", self.clock.wall())

    def _do_store(self, word: str) -> None:
        self.disk.mood = word

    def _do_jump(self, seconds: float) -> None:
        before = self.clock.offset
        self.clock.offset += seconds
        self.judge.clock_jumped(before)

    def _do_stall(self, seconds: float) -> None:
        self.clock.now += seconds  # what was due meanwhile comes late, all at once
        if seconds > 1.25:
            self.judge.evidence_was_missed()

    def _do_lossy(self, share: float) -> None:
        self._loss = share

    def _do_late(self, page: str, seconds: float) -> None:
        self._delays[page] = ("late", seconds)

    def _do_stuck(self, page: str, seconds: float) -> None:
        self._delays[page] = ("stuck", seconds)

    def _do_operator(self, verb: str, node: str, *flags: str) -> None:
        if self.controller is None:
            return
        now = self.controller.view("g").saved.generation
        actor = f"ops-{len(self._tasks)}"
        ask = Ask(
            verb,
            actor,
            "because",
            to=node if verb == "failover" else None,
            hold_s=HOLD_S if verb == "hold" else None,
            hands_off=verb == "hold" and "hands-off" in flags,
            override=frozenset(GATES.get(verb, ()) if "bold" in flags else ()),
            attest={"synced": "yes"} if verb == "resume" and "unsynced" not in flags else {},
            generation=max(now - 1, 0) if "stale" in flags else None,
        )
        self._due_holds[actor] = (self._life, self.clock.now + HOLD_S)
        self.judge.asked(ask)
        self._tasks.append(self.clock.create_task(self._act(self.controller, ask)))

    async def _act(self, controller: Controller, ask: Ask) -> None:
        try:
            await controller.act("g", ask)
        except LbProbeError as error:
            self._say(f"  {ask.verb}: {error}")

    # -------------------------------------------------------------- from start to quiet
    def run(self) -> int:
        """Play the plan; return the number of automatic failovers.

        Raises:
            BrokenError: An invariant does not hold.
        """
        try:
            self._start()
            for step in self.plan.steps:
                self._until(BEGIN + step.at)
                self.do(step)
            self._until(BEGIN + self.plan.heals_at)
            self._heal()
            self._until(self.clock.now + QUIET_S)
            self.judge.at_rest()
        finally:
            self._end_all()
        return self.judge.automatic

    def _end_all(self) -> None:
        self._kill()
        closing = self.clock.create_task(self.disk.close())
        self.clock.go_on(self.clock.now)
        for task in [*self._tasks, closing]:
            if task.done() and not task.cancelled():
                task.exception()  # looked at, so asyncio does not complain
        self.clock.close()

    def _until(self, end: float) -> None:
        self.clock.go_on(end)
        if self.judge.verdict is not None:
            raise self.judge.verdict
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise _innermost(task.exception())

    def _heal(self) -> None:
        """End every fault of others; nodes stay as they are, hands stay away."""
        self._say("all else is well again")
        self._cut.clear()
        self._delays.clear()
        self._loss, self.disk.mood, self._die_in = 0.0, "works", None
        for balancer in self.balancers:
            balancer.mood = "up"
        self._start()


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
