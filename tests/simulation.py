"""Random histories against the real core and controller, on a virtual clock.

Each seed makes a world (nodes, load balancers, a store, one prober, one operator) and a plan of
faults: nodes die, hang, come back, promote themselves too early; the prober's own link is cut; load
balancers restart and forget, are changed by hand, answer late or with unknown outcome; the store
fills up; the prober is killed between any two awaits; its loop stalls; the clock jumps; an operator
acts at bad moments. `Judge` watches every effect from outside and knows nothing of the core.

    python tests/simulation.py [SEEDS] [FIRST]      all cores; the first failure, made small
"""

import asyncio
import heapq
import itertools
import logging
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from lb_probe.controller import Ask, Controller, Setup
from lb_probe.core.model import (
    Event,
    Failed,
    Group,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Role,
    Saved,
    Seen,
)
from lb_probe.ports import Conflict, LbProbeError, PublishError, Record, StoreError, Unreachable

A, B = "a", "b"
FAULTS_FROM_S, FAULTS_TO_S, END_S = 4.0, 18.0, 25.0


class BrokenError(AssertionError):
    """An invariant does not hold; the text says which."""


# ------------------------------------------------------------------ time
class Clock:
    """Clock port and the simulation's agenda in one."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.offset = 1_700_000_000.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), do))

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self.at(self.now + seconds, lambda: future.done() or future.set_result(None))
        await future

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        future = asyncio.get_running_loop().create_future()
        self.at(self.now + seconds, lambda: future.done() or future.set_result(None))
        event._waiters.append(future)  # as Event.wait does, without a task for each
        try:
            await future
        finally:
            event._waiters.remove(future)
        return event.is_set()

    async def run_until(self, end: float) -> None:
        await _settle()
        while self._agenda and self._agenda[0][0] <= end:
            when, _, do = heapq.heappop(self._agenda)
            self.now = max(self.now, when)
            do()
            await _settle()
        self.now = max(self.now, end)


async def _settle() -> None:
    """Let every task run until all of them wait."""
    ready = asyncio.get_running_loop()._ready
    await asyncio.sleep(0)
    while ready:
        await asyncio.sleep(0)


# ------------------------------------------------------------------ what a plan says
@dataclass(frozen=True)
class Step:
    """One thing that happens, at seconds after the beginning."""

    at: float
    what: str
    args: tuple[object, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:6.2f}  {self.what} {' '.join(str(a) for a in self.args)}".rstrip()


@dataclass(frozen=True)
class Plan:
    """Everything that is not the core's choice."""

    seed: int
    confirm_s: float
    fall: int
    balancers: int
    opens: bool  # a restarted load balancer sends traffic to `a` until told
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        head = (
            f"# seed {self.seed}: confirm {self.confirm_s}s, fall {self.fall},"
            f" {self.balancers} load balancers, {'open' if self.opens else 'closed'} until told"
        )
        return "\n".join([head, *(str(step) for step in self.steps)])


NODE_STEPS = ("dies", "returns", "hangs", "breaks", "promotes", "stands-by", "says-odd")
VERBS = ("resume", "failover", "switchover", "hold", "release", "swap-roles", "accept", "republish")


def make_plan(seed: int) -> Plan:
    rng = random.Random(seed)
    steps = []
    for _ in range(rng.randint(2, 8)):
        at = rng.uniform(FAULTS_FROM_S, FAULTS_TO_S)
        steps += _fault(rng, at)
    return Plan(
        seed,
        confirm_s=rng.choice((0.01, 0.6, 1.5)),
        fall=rng.choice((2, 3)),
        balancers=rng.choice((1, 1, 2)),
        opens=rng.random() < 0.2,
        steps=tuple(sorted(steps, key=lambda step: step.at)),
    )


def _fault(rng: random.Random, at: float) -> list[Step]:
    kind = rng.choices(
        ("node", "primary", "link", "lb", "prober", "store", "time", "operator", "probe"),
        (3, 5, 2, 3, 3, 1, 1, 3, 1),
    )[0]
    later = at + rng.uniform(0.1, 6.0)
    if kind == "node":
        return [Step(at, "node", (rng.choice((A, B)), rng.choice(NODE_STEPS)))]
    if kind == "primary":
        down = rng.choice(("dies", "hangs", "breaks"))
        up = [Step(later, "node", (A, "returns"))] if rng.random() < 0.6 else []
        return [Step(at, "node", (A, down)), *up]
    if kind == "link":
        return [Step(at, "link", ("cut",)), Step(later, "link", ("back",))]
    if kind == "lb":
        which = rng.randrange(2)
        does = rng.choice(("restarts", "set", "down", "unknown", "slow", "refuses"))
        undo = [] if does in ("restarts", "set") else [Step(later, "lb", (which, "up"))]
        arg = rng.choice(((A,), (B,), (), (A, B)))
        return [Step(at, "lb", (which, does, *arg)), *undo]
    if kind == "prober":
        if rng.random() < 0.5:
            return [Step(at, "prober", ("kill",)), Step(later, "prober", ("start",))]
        # Killed at one of the next effects, whatever it is.
        return [
            Step(at, "prober", ("die-at", rng.randint(1, 12))),
            Step(later, "prober", ("start",)),
        ]
    if kind == "store":
        return [Step(at, "store", ("full",)), Step(later, "store", ("works",))]
    if kind == "time":
        if rng.random() < 0.5:
            return [Step(at, "jump", (rng.choice((-3600.0, -5.0, 5.0, 86400.0)),))]
        return [Step(at, "stall", (rng.uniform(0.3, 5.0),))]
    if kind == "operator":
        verb = rng.choice(VERBS)
        return [Step(at, "operator", (verb, rng.choice((A, B)), rng.random() < 0.5))]
    return [Step(at, "lossy", (rng.uniform(0.1, 0.6),)), Step(later, "lossy", (0.0,))]


# ------------------------------------------------------------------ the modelled parts
@dataclass
class ModelNode:
    name: str
    mode: str
    state: str = "up"

    def answer(self, page: Page) -> Passed | Failed:
        if self.state == "dead":
            return Failed(Phase.CONNECT_REFUSED, "refused")
        if self.state == "hung":
            return Failed(Phase.TIMEOUT, "timeout")
        if self.state == "broken":
            return Failed(Phase.STATUS, "503")
        if page is Page.HASTATUS:
            words = {"primary": Mode.PRIMARY, "standby": Mode.STANDBY}
            return Passed(mode=words.get(self.mode, Mode.UNKNOWN))
        return Passed() if self.mode == "primary" else Failed(Phase.STATUS, "503")


@dataclass
class ModelBalancer:
    name: str
    configured: frozenset[str]
    chosen: set[str] = field(default_factory=set)
    run: int = 1
    mood: str = "up"  # up, down, unknown (applies, then no answer), slow, refuses


class Disk:
    """Store port: what was committed stays, whatever happens to the prober."""

    def __init__(self, world: "Simulation") -> None:
        self._world = world
        self.saved: dict[str, Saved] = {}
        self.records: list[Record] = []
        self.is_full = False

    async def load(self):
        await self._world.effect()
        return dict(self.saved)

    async def commit(self, group, saved, *, expect, record):
        await self._world.effect()
        self._refuse_when_full()
        before = self.saved.get(group, Saved())
        if before.generation != expect:
            raise Conflict("changed", before.generation)
        self._world.judge.committed(before, saved, record)
        self.saved[group] = replace(saved, confirmed=before.confirmed)
        self.records.append(record)
        await self._world.effect()  # durable, and the prober may die before it knows

    async def confirm(self, group, adapter, generation):
        await self._world.effect()
        self._refuse_when_full()
        saved = self.saved[group]
        self.saved[group] = replace(saved, confirmed={**saved.confirmed, adapter: generation})

    async def rename(self, old, new):
        raise AssertionError("nothing was renamed")

    async def note(self, record):
        await self._world.effect()

    async def note_all(self, records):
        await self._world.effect()

    async def history(self, group=None, limit=100):
        return self.records[-limit:]

    async def test_write(self):
        await self._world.effect()
        self._refuse_when_full()

    def _refuse_when_full(self) -> None:
        if self.is_full:
            raise StoreError("the disk is full")


class Wire:
    """Publisher port over a ModelBalancer."""

    type = "model"

    def __init__(self, world: "Simulation", balancer: ModelBalancer) -> None:
        self.name = balancer.name
        self._world = world
        self._balancer = balancer

    async def publish(self, node: str) -> None:
        await self._world.effect()
        mood = self._balancer.mood
        if mood == "down":
            raise Unreachable("refused")
        if mood == "refuses":
            raise PublishError("no such server")
        if mood == "slow":
            await self._world.clock.sleep(0.7)
            await self._world.effect()
        self._world.judge.published(node)
        self._balancer.chosen = {node}
        await self._world.effect()
        if mood == "unknown":
            raise PublishError("no answer; outcome unknown")

    async def read_back(self) -> Seen:
        await self._world.effect()
        if self._balancer.mood == "down":
            raise Unreachable("refused")
        if self._balancer.mood == "slow":
            await self._world.clock.sleep(0.7)
        chosen = tuple(sorted(self._balancer.chosen))
        node = chosen[0] if len(chosen) == 1 else None
        return Seen(node, chosen, node is not None, f"run-{self._balancer.run}")

    def commands(self, node: str) -> list[str]:
        return []


# ------------------------------------------------------------------ the judge
class Judge:
    """Watches every effect and knows the rules only from the guide.

    Raises BrokenError where X1, X3, X4, X16, X19, X22, "save before publish" or "generations grow"
    is broken.
    """

    def __init__(self, world: "Simulation") -> None:
        self._world = world
        self.seen: list[Observation] = []
        self.floor = 0.0
        self._assigned: list[tuple[float, str | None]] = []
        self.automatic = 0
        self._generations: set[int] = set()

    def _broken(self, text: str) -> None:
        raise BrokenError(f"{self._world.clock.now - 1000.0:.2f}: {text}")

    def prober_started(self) -> None:
        self.seen.clear()
        self.floor = self._world.clock.now

    def heard(self, event: Event) -> None:
        if event.name in ("prober.stalled", "prober.rejoined", "clock.jumped"):
            self.floor = self._world.clock.now

    def published(self, node: str) -> None:
        """Only what is saved may be published; one older word may still be on its way."""
        now = self._world.clock.now
        said = [n for at, n in self._assigned if now - at <= 2.0] + [
            n for _, n in self._assigned[-1:]
        ]
        recent = [
            n for (at, n), (ended, _) in itertools.pairwise(self._assigned) if now - ended <= 2.0
        ]
        if node not in said + recent:
            self._broken(f"published {node}, which is not what is saved")

    def committed(self, before: Saved, after: Saved, record: Record) -> None:
        now, by_itself = self._world.clock.now, after.last_change.actor == "lb-probe"
        kind = record.kind
        if after.generation != before.generation + 1 or after.generation in self._generations:
            self._broken(f"generation {before.generation} -> {after.generation}")
        self._generations.add(after.generation)
        if record.generation != after.generation:
            self._broken("a change without its own history record")
        moved = before.assigned is not None and after.assigned != before.assigned
        home = self._world.home(before)
        if by_itself and moved and after.assigned == home:
            self._broken(f"X1: back to the Primary by {kind}")
        if by_itself and before.latched and not after.latched:
            self._broken(f"X1: the latch was dropped by {kind}")
        if by_itself and before.hold is not None and after.hold is None and kind != "hold-lapsed":
            self._broken(f"X4: the hold was dropped by {kind}")
        if by_itself and kind == "failover":
            self._automatic(before, after)
        elif by_itself and moved and kind != "adopt":
            self._broken(f"moved by itself by {kind}")
        self._assigned.append((now, after.assigned))
        if moved or before.roles != after.roles or (before.hold and not after.hold):
            self.floor = now

    def _automatic(self, before: Saved, after: Saved) -> None:
        self.automatic += 1
        world, now = self._world, self._world.clock.now
        home = world.home(before)
        if before.assigned != home or before.latched:
            self._broken("X16: an automatic failover while one is latched")
        if before.hold is not None:
            self._broken("X4: an automatic failover under a hold")
        plan, group = world.plan, world.group
        other = B if home == A else A
        begins, words = self.floor, []
        for seen in self.seen:
            if (seen.node, seen.page) == (other, Page.HASTATUS):
                if isinstance(seen.outcome, Passed) and not (words and words[-1][1]):
                    begins = max(begins, seen.ended_at)
                words.append((seen, isinstance(seen.outcome, Passed)))
        row: list[Observation] = []
        for seen in self.seen:
            if (seen.node, seen.page) == (home, Page.STATUS):
                row = [*row, seen] if isinstance(seen.outcome, Failed) else []
        row = [seen for seen in row if seen.started_at >= begins]
        if len(row) < plan.fall:
            self._broken(f"X19: {len(row)} failures count, {plan.fall} are needed")
        if row[-1].ended_at - row[0].started_at < plan.confirm_s:
            self._broken("confirm: the Primary failed for too short a time")
        if now - row[-1].started_at > group.max_age_s:
            self._broken("X19: the Primary's last reading is stale")
        last = words[-1][0] if words else None
        if last is None or not isinstance(last.outcome, Passed):
            self._broken("X22: the Secondary's last probe failed")
        elif last.outcome.mode is not Mode.STANDBY:
            self._broken(f"X22: the Secondary said {last.outcome.mode}")
        elif now - last.started_at > group.max_age_s or last.started_at < row[0].started_at:
            self._broken("X19: the Secondary's reading is too old")


# ------------------------------------------------------------------ the world
class Simulation:
    """One seed, from start to the quiet after the last fault."""

    interval_s, recheck_s, timeout_s = 1.0, 0.25, 0.6

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed ^ 0x5EED)
        self.clock = Clock()
        self.judge = Judge(self)
        names = [f"lb{n}" for n in range(plan.balancers)]
        nodes = (Node(A, Role.PRIMARY), Node(B, Role.SECONDARY, candidate=True))
        self.group = Group(
            "g",
            nodes,
            adapters=tuple(names),
            fall=plan.fall,
            confirm_s=plan.confirm_s,
            max_age_s=2.2,
            serving_deadline_s=5.0,
        )
        opens = frozenset({A} if plan.opens else ())
        self.balancers = [ModelBalancer(n, opens, {A}) for n in names]
        self.nodes = {A: ModelNode(A, "primary"), B: ModelNode(B, "standby")}
        self.disk = Disk(self)
        self.is_linked = True
        self.loss = 0.0
        self.controller: Controller | None = None
        self._life = 0  # counts probers; an effect of a dead one goes nowhere
        self._die_in: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._lives: dict[object, int] = {}
        self._due: dict[tuple[str, Page], tuple[float, float]] = {}
        self._failing: dict[tuple[str, Page], int] = {}
        self.acting: set[asyncio.Task[None]] = set()

    def home(self, saved: Saved) -> str:
        roles = saved.roles or {}
        return B if roles.get(B) is Role.PRIMARY else A

    # -------------------------------------------------------------- effects and death
    async def effect(self) -> None:
        """A moment between two effects: here the prober may die."""
        life = self._life
        await asyncio.sleep(0)
        if self._die_in is not None and self.controller is not None:
            self._die_in -= 1
            if self._die_in <= 0:
                self._kill()
        if life != self._life:
            await asyncio.get_running_loop().create_future()  # dead: never goes on

    def _kill(self) -> None:
        self._life += 1
        self._die_in = None
        self.controller = None
        for task in self._tasks:
            task.cancel()

    def _start(self) -> None:
        if self.controller is not None:
            return
        life = self._life
        controller = self.controller = Controller(
            [Setup(self.group, tuple(Wire(self, b) for b in self.balancers))],
            self.disk,
            self.clock,
            self,
            quicken=self._quicken,
        )
        self.judge.prober_started()

        async def live() -> None:
            await controller.start()
            if self._life == life:
                for i, key in enumerate((n, p) for n in (A, B) for p in Page):
                    self._plan_probe(key, self.clock.now + 0.05 + 0.17 * i, life)
                await controller.run()

        self._tasks.append(asyncio.ensure_future(live()))

    def emit(self, event: Event) -> None:
        self.judge.heard(event)

    # -------------------------------------------------------------- probes
    def _plan_probe(self, key: tuple[str, Page], at: float, life: int) -> None:
        started = self._due.get(key, (0.0, 0.0))[1]
        self._due[key] = (at, started)
        self.clock.at(at, lambda: self._begin(key, at, life))

    def _begin(self, key: tuple[str, Page], at: float, life: int) -> None:
        if life != self._life or self._due[key][0] != at:
            return
        started = self.clock.now
        self._due[key] = (float("inf"), started)  # in flight
        outcome = self.nodes[key[0]].answer(key[1])
        if not self.is_linked or self.rng.random() < self.loss:
            outcome = Failed(Phase.CONNECT_TIMEOUT, "no connection")
        hangs = isinstance(outcome, Failed) and outcome.phase in (
            Phase.TIMEOUT,
            Phase.CONNECT_TIMEOUT,
        )
        took = self.timeout_s if hangs else self.rng.uniform(0.002, 0.04)
        self.clock.at(started + took, lambda: self._end(key, started, outcome, life))

    def _end(self, key: tuple[str, Page], started: float, outcome: object, life: int) -> None:
        if life != self._life or self.controller is None:
            return
        node, page = key
        seen = Observation(node, page, started, self.clock.now, outcome)
        self._failing[key] = self._failing.get(key, 0) + 1 if isinstance(outcome, Failed) else 0
        stalls_before = self.judge.floor
        self.judge.seen.append(seen)
        self.controller.observe("g", seen)
        assert self.judge.floor >= stalls_before
        quick = 0 < self._failing[key] < self.plan.fall
        quick = quick or self.controller.is_hurried("g", node, page)
        pause = self.recheck_s if quick else self.interval_s
        self._plan_probe(key, max(started + pause, self.clock.now), life)

    def _quicken(self, name: str) -> None:
        for key, (at, started) in self._due.items():
            soon = max(started + self.recheck_s, self.clock.now)
            if soon < at < float("inf") and self.controller.is_hurried(name, *key):
                self._plan_probe(key, soon, self._life)

    # -------------------------------------------------------------- faults
    def do(self, step: Step) -> None:
        getattr(self, f"_do_{step.what}")(*step.args)

    def _do_node(self, name: str, does: str) -> None:
        node = self.nodes[name]
        states = {"dies": "dead", "returns": "up", "hangs": "hung", "breaks": "broken"}
        modes = {"promotes": "primary", "stands-by": "standby", "says-odd": "odd"}
        node.state = states.get(does, node.state)
        node.mode = modes.get(does, node.mode)

    def _do_link(self, word: str) -> None:
        self.is_linked = word == "back"

    def _do_lb(self, which: int, does: str, *chosen: str) -> None:
        balancer = self.balancers[which % len(self.balancers)]
        if does == "restarts":
            balancer.run += 1
            balancer.chosen = set(balancer.configured)
        elif does == "set":
            balancer.chosen = set(chosen)
        else:
            balancer.mood = does

    def _do_prober(self, word: str, effects: int = 0) -> None:
        if word == "kill" and self.controller is not None:
            self._kill()
        elif word == "die-at":
            self._die_in = effects
        elif word == "start":
            self._die_in = None
            self._start()

    def _do_store(self, word: str) -> None:
        self.disk.is_full = word == "full"

    def _do_jump(self, seconds: float) -> None:
        self.clock.offset += seconds

    def _do_stall(self, seconds: float) -> None:
        self.clock.now += seconds  # what was due meanwhile comes late, all at once

    def _do_lossy(self, share: float) -> None:
        self.loss = share

    def _do_operator(self, verb: str, node: str, bold: bool) -> None:
        if self.controller is None or not self.controller._groups:
            return
        gates = {"resume": {"primary-serving", "single-primary", "adapters-reachable"}}
        gates["failover"] = {"target-ready"}
        gates["switchover"] = {"primary-serving", "standby-ready", "adapters-reachable"}
        gates["swap-roles"] = {"roles-observed"}
        ask = Ask(
            verb,
            "ops",
            "because",
            to=node if verb == "failover" else None,
            hold_s=3.0 if verb == "hold" else None,
            override=frozenset(gates.get(verb, ())) if bold else frozenset(),
            attest={"synced": "yes"} if verb == "resume" else {},
        )
        task = asyncio.ensure_future(self._act(self.controller, ask))
        self.acting.add(task)
        self._tasks.append(task)
        task.add_done_callback(self.acting.discard)

    async def _act(self, controller: Controller, ask: Ask) -> None:
        with suppress(LbProbeError):
            await controller.act("g", ask)

    # -------------------------------------------------------------- from start to quiet
    async def run(self) -> int:
        """Play the plan; return the number of automatic failovers.

        Raises:
            BrokenError: An invariant does not hold.
        """
        began = self.clock.now
        try:
            self._start()
            for step in self.plan.steps:
                await self._until(began + step.at)
                self.do(step)
            await self._until(began + FAULTS_TO_S + 6.1)
            self._heal()
            await self._until(began + FAULTS_TO_S + END_S - FAULTS_TO_S + 6.1)
            self._judge_quiet()
        finally:
            self._life += 1
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        return self.judge.automatic

    async def _until(self, end: float) -> None:
        await self.clock.run_until(end)
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise _innermost(task.exception())

    def _heal(self) -> None:
        """End every fault; hands that moved a load balancer stay away."""
        self.is_linked, self.loss, self.disk.is_full, self._die_in = True, 0.0, False, None
        for balancer in self.balancers:
            balancer.mood = "up"
        self._start()

    def _judge_quiet(self) -> None:
        """After the last fault every load balancer equals what is wanted, or has yielded."""
        view = self.controller.view("g")
        saved = self.disk.saved.get("g", Saved())
        if view.saved.generation != saved.generation:
            raise BrokenError(f"runs on {view.saved.generation}, saved is {saved.generation}")
        if len(self.disk.records) != saved.generation:
            raise BrokenError(f"{len(self.disk.records)} records of {saved.generation} changes")
        if saved.assigned is None or (saved.hold and saved.hold.hands_off):
            return
        for adapter, balancer in zip(view.adapters, self.balancers, strict=True):
            if not adapter.yielded and balancer.chosen != {saved.assigned}:
                raise BrokenError(f"{balancer.name} is on {balancer.chosen}, not {saved.assigned}")


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# ------------------------------------------------------------------ many seeds
def play(plan: Plan) -> str:
    """Return what is broken under this plan, in words; empty when nothing is."""
    try:
        _loop().run_until_complete(Simulation(plan).run())
    except BrokenError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


_LOOPS: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    if not _LOOPS:
        logging.disable(logging.CRITICAL)
        _LOOPS.append(asyncio.new_event_loop())
    return _LOOPS[0]


def shrink(plan: Plan) -> Plan:
    """Drop steps for as long as something stays broken."""
    changed = True
    while changed:
        changed = False
        for i in range(len(plan.steps)):
            smaller = replace(plan, steps=plan.steps[:i] + plan.steps[i + 1 :])
            if play(smaller):
                plan, changed = smaller, True
                break
    return plan


def check(seed: int) -> tuple[int, str]:
    return seed, play(make_plan(seed))


def run_many(seeds: range) -> tuple[int, str]:
    """Play many seeds on all cores; return the first broken one and why, or (-1, "")."""
    cores = len(os.sched_getaffinity(0))
    # Forked workers would share the parent's loop and plugins; a fresh start is worth its second.
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for seed, broken in pool.imap(check, seeds, chunksize=100):
            if broken:
                pool.terminate()
                return seed, broken
    return -1, ""


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began = time.perf_counter()
    seed, broken = run_many(range(first, first + count))
    took = time.perf_counter() - began
    if seed < 0:
        print(f"{count} seeds from {first}, nothing broken; {count / took:.0f} seeds a second")
        return 0
    plan = shrink(make_plan(seed))
    print(f"seed {seed}: {broken}\nmade small: {play(plan)}\n{plan}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
