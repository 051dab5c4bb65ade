"""Random histories against the real core, controller and reconcilers, on a virtual clock.

Each seed makes a world (two nodes, load balancers, a store, one prober, one operator) and a plan
of faults, see `simulation_plan`. `simulation_judge` watches every effect from outside. In one seed
of fifty the store is the real one, on disk, and must tell the same as the model beside it.

    python tests/simulation.py [SEEDS] [FIRST]      all cores; the first failure, made small
    python tests/simulation.py --returns [SEEDS]    the prober's own link comes and goes
    python tests/simulation.py --replay FILE        what happens under a plan that was kept
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from simulation_clock import BEGIN, Clock
from simulation_judge import BrokenError, Judge, home_of
from simulation_plan import (
    PAGES,
    QUIET_S,
    RETURNS,
    A,
    B,
    Plan,
    Step,
    make_plan,
    make_returns,
    parse,
)

from lb_probe.controller import Ask, Controller, OfflineNote, Setup
from lb_probe.core.model import (
    Event,
    Failed,
    Group,
    Hold,
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
from lb_probe.store import sqlite

HOLD_S, SLOW_S, HUNG_S = 3.0, 0.7, 4.0
PASSED, ERROR = Passed(), Failed(Phase.STATUS, "503")
REFUSED = Failed(Phase.CONNECT_REFUSED, "refused")
HUNG = Failed(Phase.TIMEOUT, "timeout")
LOST = Failed(Phase.CONNECT_TIMEOUT, "no connection")
SAYS = {"primary": Passed(Mode.PRIMARY), "standby": Passed(Mode.STANDBY)}
GATES = {
    "resume": {"primary-serving", "single-primary", "adapters-reachable"},
    "failover": {"target-ready"},
    "switchover": {"primary-serving", "standby-ready", "adapters-reachable"},
    "swap-roles": {"roles-observed"},
}


# ------------------------------------------------------------------ the modelled parts
@dataclass
class ModelNode:
    name: str
    mode: str
    state: str = "up"  # dead, hung, broken; dark: no status page; mute: no hastatus page

    def answer(self, page: Page) -> Passed | Failed:
        if self.state == "dead":
            return REFUSED
        if self.state == "hung":
            return HUNG
        if self.state == "broken":
            return ERROR
        if page is Page.HASTATUS:
            return ERROR if self.state == "mute" else SAYS.get(self.mode, Passed(Mode.UNKNOWN))
        return PASSED if self.mode == "primary" and self.state != "dark" else ERROR


@dataclass
class ModelBalancer:
    name: str
    configured: frozenset[str]
    chosen: set[str] = field(default_factory=set)
    run: int = 1
    # down; hangs; slow; refuses; unknown (applies, then no answer); deaf (agrees, does nothing)
    mood: str = "up"


class Disk:
    """Store port: what was committed stays, whatever happens to the prober."""

    def __init__(self, world: "Simulation") -> None:
        self._world = world
        self.mood = "works"
        self.saved: dict[str, Saved] = {}
        self.records: list[Record] = []

    async def opened(self) -> None:
        """A prober starts."""

    def lose(self) -> None:
        self.saved, self.records = {}, []

    async def load(self):
        await self._world.effect()
        return dict(self.saved)

    async def commit(self, group, saved, *, expect, record):
        await self._world.effect()
        before = self.saved.get(group, Saved())
        if before.generation == expect:
            self._world.judge.committing(before, saved, record)
        await self._take()
        if self.saved.get(group, Saved()).generation != expect:
            raise Conflict("changed", before.generation)
        await self._write(group, saved, expect, record)
        self._world.judge.committed(before, saved)
        self.saved[group] = replace(saved, confirmed=before.confirmed)
        self.records.append(record)
        await self._world.effect()  # durable, and the prober may die before it knows

    async def confirm(self, group, adapter, generation):
        await self._world.effect()
        self._world.judge.confirmed(adapter, generation)
        await self._take()
        saved = self.saved[group]
        self.saved[group] = replace(saved, confirmed={**saved.confirmed, adapter: generation})

    async def rename(self, old, new):
        raise AssertionError("nothing was renamed")

    async def note(self, record):
        await self._world.effect()
        await self._take()

    async def note_all(self, records):
        await self._world.effect()
        await self._take()

    async def history(self, group=None, limit=100):
        return self.records[-limit:]

    async def test_write(self):
        await self._world.effect()
        await self._take()

    async def _take(self) -> None:
        if self.mood == "full":
            raise StoreError("the disk is full")
        if self.mood == "slow":
            await self._world.clock.sleep(self._world.rng.uniform(0.1, 1.5))

    async def _write(self, group: str, saved: Saved, expect: int, record: Record) -> None:
        """Where a real store would be asked."""

    async def close(self) -> None:
        """The world ends."""


class RealDisk(Disk):
    """The same with lb_probe's own store beside it, which must agree at every start."""

    def __init__(self, world: "Simulation", folder: Path) -> None:
        super().__init__(world)
        self._folder = folder
        self._lost = 0
        self._store: sqlite.SqliteStore | None = None

    async def opened(self) -> None:
        await self.close()
        path = self._folder / f"state-{self._lost}.db"
        if not path.exists():
            sqlite.init(path)
        self._store = await self._world.clock.outside(sqlite.SqliteStore.open(path))

    async def close(self) -> None:
        if self._store is not None:
            await self._world.clock.outside(self._store.close())
        self._store = None

    def lose(self) -> None:
        super().lose()
        self._lost += 1

    async def load(self):
        told, known = await self._world.clock.outside(self._store.load()), await super().load()
        if told != known:
            raise BrokenError(f"the store says {told}, saved was {known}")
        return told

    async def confirm(self, group, adapter, generation):
        await super().confirm(group, adapter, generation)
        await self._world.clock.outside(self._store.confirm(group, adapter, generation))

    async def _write(self, group: str, saved: Saved, expect: int, record: Record) -> None:
        commit = self._store.commit(group, saved, expect=expect, record=record)
        await self._world.clock.outside(commit)


class Wire:
    """Publisher port over a ModelBalancer."""

    type = "model"

    def __init__(self, world: "Simulation", balancer: ModelBalancer) -> None:
        self.name = balancer.name
        self._world = world
        self._balancer = balancer

    async def publish(self, node: str) -> None:
        await self._world.effect()
        self._world.judge.published(self.name, node)
        await self._reach()
        balancer = self._balancer
        if balancer.mood == "refuses":
            raise PublishError("no such server")
        await self._world.effect()
        if balancer.mood != "deaf":
            balancer.chosen = {node}
        await self._world.effect()
        if balancer.mood == "unknown":
            raise PublishError("no answer; outcome unknown")

    async def read_back(self) -> Seen:
        await self._world.effect()
        try:
            await self._reach()
        except Unreachable:
            self._world.judge.read(self.name, None)
            raise
        chosen = tuple(sorted(self._balancer.chosen))
        node = chosen[0] if len(chosen) == 1 else None
        seen = Seen(node, chosen, node is not None, f"run-{self._balancer.run}")
        self._world.judge.read(self.name, seen)
        return seen

    async def _reach(self) -> None:
        mood = self._balancer.mood
        if mood == "down":
            raise Unreachable("refused")
        if mood in ("slow", "hangs"):
            await self._world.clock.sleep(SLOW_S if mood == "slow" else HUNG_S)
        if mood == "hangs":
            raise Unreachable("no answer")

    def commands(self, node: str) -> list[str]:
        return []


# ------------------------------------------------------------------ the world
NODE_STATES = {
    "dies": "dead",
    "returns": "up",
    "hangs": "hung",
    "breaks": "broken",
    "goes-dark": "dark",
    "goes-mute": "mute",
}
NODE_MODES = {"promotes": "primary", "stands-by": "standby", "says-odd": "odd"}


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
        self._due: dict[tuple[str, Page], tuple[float, float]] = {}
        self._failing: dict[tuple[str, Page], int] = {}
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
            quicken=self._quicken,
        )
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
        for i, key in enumerate((n, p) for n in (A, B) for p in Page):
            self._plan_probe(key, self.clock.now + 0.05 + 0.17 * i, life)
        if self.plan.references:
            self._refer(life)
        await controller.run()

    def emit(self, event: Event) -> None:
        if self._tell is not None and event.name != "probe.done":
            words = " ".join(f"{k}={v}" for k, v in event.fields.items() if v not in (None, ""))
            self._say(f"  {event.name} {words}")

    def _say(self, text: str) -> None:
        if self._tell is not None:
            self._tell(f"{self.clock.now - BEGIN:8.3f}  {text}".rstrip())

    # -------------------------------------------------------------- probes
    def _plan_probe(self, key: tuple[str, Page], at: float, life: int) -> None:
        started = self._due.get(key, (0.0, 0.0))[1]
        self._due[key] = (at, started)
        self.clock.at(at, self._begin, key, at, life)

    def _begin(self, key: tuple[str, Page], at: float, life: int) -> None:
        if life != self._life or self._due[key][0] != at:
            return
        started = self.clock.now
        self._due[key] = (float("inf"), started)  # in flight
        outcome = self._cut and self._cut_off(f"{key[0]}/{key[1].value}")
        if not outcome:
            is_lost = self._loss and self.rng.random() < self._loss
            outcome = LOST if is_lost else self.nodes[key[0]].answer(key[1])
        hangs = outcome is LOST or outcome is HUNG
        ended = started + (self.timeout_s if hangs else self.rng.uniform(0.002, 0.04))
        delay = self._delays.pop(f"{key[0]}/{key[1].value}", None)
        if delay is None:
            self.clock.at(ended, self._end, key, Observation(*key, started, ended, outcome), life)
        else:
            self._delay(key, Observation(*key, started, ended, outcome), life, *delay)

    def _delay(self, key, seen: Observation, life: int, how: str, seconds: float) -> None:
        """Deliver it late; `stuck` probes the page no more until then."""
        late = seen.ended_at + seconds
        if how == "stuck":
            self.clock.at(late, self._end, key, replace(seen, ended_at=late), life)
            return
        self.clock.at(late, self._deliver, seen, life)
        self._plan_probe(key, seen.ended_at + self.recheck_s, life)

    def _cut_off(self, name: str) -> Failed | None:
        node = name.partition("/")[0]
        return self._cut.get(name) or self._cut.get(node)

    def _deliver(self, seen: Observation, life: int) -> None:
        if life == self._life and self.controller is not None:
            if seen.ended_at < self.clock.now:  # the loop was away, or it came late
                seen = replace(seen, ended_at=self.clock.now)
            self.judge.observed(seen)
            self.controller.observe("g", seen)

    def _end(self, key: tuple[str, Page], seen: Observation, life: int) -> None:
        if life != self._life or self.controller is None:
            return
        failed = isinstance(seen.outcome, Failed)
        self._failing[key] = self._failing.get(key, 0) + 1 if failed else 0
        self._deliver(seen, life)
        quick = 0 < self._failing[key] < self.plan.fall
        quick = quick or self.controller.is_hurried("g", *key)
        pause = self.recheck_s if quick else self.interval_s
        self._plan_probe(key, max(seen.started_at + pause, self.clock.now), life)

    def _quicken(self, name: str) -> None:
        for key, (at, started) in self._due.items():
            soon = max(started + self.recheck_s, self.clock.now)
            if soon < at < float("inf") and self.controller.is_hurried(name, *key):
                self._plan_probe(key, soon, self._life)

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


# ------------------------------------------------------------------ many seeds
def play(plan: Plan, tell: Callable[[str], None] | None = None) -> tuple[int, str]:
    """Return the number of automatic failovers, and what is broken, in words; "" for nothing."""
    logging.disable(logging.CRITICAL)
    random.seed(plan.seed)  # the pauses between two tries
    with tempfile.TemporaryDirectory() if plan.sqlite else suppress() as folder:
        simulation = Simulation(plan, Path(folder) if folder else None, tell)
        try:
            return simulation.run(), ""
        except BrokenError as error:
            return simulation.judge.automatic, str(error)
        except Exception as error:
            return simulation.judge.automatic, f"{type(error).__name__}: {error}"


def shrink(plan: Plan) -> Plan:
    """Drop steps for as long as something stays broken."""
    i = len(plan.steps) - 1
    while i >= 0:
        smaller = replace(plan, steps=plan.steps[:i] + plan.steps[i + 1 :])
        if play(smaller)[1]:
            plan, i = smaller, len(smaller.steps)
        i -= 1
    return plan


def check(seed: int) -> tuple[int, int, str]:
    return seed, *play(make_plan(seed))


def check_returns(seed: int) -> tuple[int, int, str]:
    """Play a link that comes and goes between healthy nodes; a failover is a fault here."""
    failovers, broken = play(make_returns(seed))
    return seed, failovers, broken or ("a false failover" if failovers else "")


@dataclass(frozen=True)
class Result:
    """What many seeds came to.

    Attributes:
        seed: The first broken one; None when nothing is.
        failovers: Automatic ones, up to there.
    """

    played: int
    failovers: int
    seconds: float
    seed: int | None = None
    broken: str = ""

    @property
    def rate(self) -> float:
        return self.played / self.seconds


def run_many(seeds: range, one: Callable[[int], tuple[int, int, str]] = check) -> Result:
    """Play many seeds on all cores, until the first broken one."""
    began, played, failovers = time.perf_counter(), 0, 0
    cores = len(os.sched_getaffinity(0))
    chunk = max(1, min(100, len(seeds) // cores // 4))
    # Forked workers would share the parent's loop and plugins; a fresh start is worth its second.
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for seed, made, broken in pool.imap(one, seeds, chunksize=chunk):
            played, failovers = played + 1, failovers + made
            if broken:
                pool.terminate()
                return Result(played, failovers, time.perf_counter() - began, seed, broken)
    return Result(played, failovers, time.perf_counter() - began)


def report(plan: Plan, broken: str) -> str:
    """Return a failing plan as small as it gets, and what happens under it."""
    small, lines = shrink(plan), []
    found = play(small, lines.append)[1]
    told = "\n".join(f"# {line}" for line in lines)
    return f"# {broken}\n# made small: {found}\n{small}\n#\n{told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="?", type=int, default=10_000)
    parser.add_argument("first", nargs="?", type=int, default=0)
    parser.add_argument("--returns", action="store_true", help=f"{RETURNS} returns of a link each")
    parser.add_argument("--no-report", action="store_true", help="name the seed and stop")
    parser.add_argument("--replay", type=Path, help="a plan that was kept")
    given = parser.parse_args()
    if given.replay:
        _, broken = play(parse(given.replay.read_text()), print)
        print(broken or "nothing is broken")
        return bool(broken)
    make, one = (make_returns, check_returns) if given.returns else (make_plan, check)
    result = run_many(range(given.first, given.first + given.seeds), one)
    print(
        f"{result.played} seeds from {given.first} in {result.seconds:.1f}s, {result.rate:.0f} a"
        f" second, {result.failovers} automatic failovers"
    )
    if result.seed is None:
        print("nothing is broken")
        return 0
    print(f"BROKEN seed {result.seed}: {result.broken}")
    if not given.no_report:
        print(report(make(result.seed), result.broken))
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
