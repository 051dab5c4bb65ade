"""A small world on a virtual clock: the real core and controller between modelled nodes, load
balancers and a modelled store.

Nothing here decides anything. Nodes answer their pages, load balancers remember and forget, the
store keeps what was committed; time passes only in `advance`.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from lb_probe.controller import Controller, OfflineNote, Setup
from lb_probe.core.model import (
    Event,
    Failed,
    Group,
    Health,
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
from lb_probe.core.timing import Timing
from lb_probe.core.witness import Witness
from lb_probe.history import QUIET
from lb_probe.ports import (
    WHOLE,
    Conflict,
    PublishError,
    Record,
    Span,
    StoreError,
    Unreachable,
)

STEP_S = 0.05


class VirtualClock:
    """Clock port whose time passes only in `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.offset = 1_767_225_600.0  # 2026-01-01T00:00:00Z at monotonic 0
        self._timers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), future))
        await future

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        tasks = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.sleep(seconds))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        return event.is_set()

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end + 1e-9:
            at, _, future = heapq.heappop(self._timers)
            self.now = max(self.now, at)
            if not future.done():
                future.set_result(None)
            await settle()
        self.now = end
        await settle()


async def settle() -> None:
    """Let every task run until all of them wait."""
    ready = asyncio.get_running_loop()._ready
    while True:
        await asyncio.sleep(0)
        if not ready:
            return


@dataclass
class ModelNode:
    """A server that serves the two pages."""

    name: str
    mode: str = "primary"
    # up, dead (refused), hung (timeout), broken (answers ERROR), unasked (this machine cannot)
    state: str = "up"
    is_hastatus_silent: bool = False
    serves: str = "as Primary"  # also: always, never

    def answer(self, page: Page) -> Passed | Failed:
        if self.state == "dead":
            return Failed(Phase.CONNECT_REFUSED, "connection refused")
        if self.state == "hung":
            return Failed(Phase.TIMEOUT, "no answer in 1s")
        if self.state == "unasked":
            return Failed(Phase.LOCAL, "this machine could not connect: Too many open files")
        if self.state == "broken":
            return Failed(Phase.STATUS, "503 Service Unavailable")
        if page is Page.HASTATUS:
            if self.is_hastatus_silent:
                return Failed(Phase.STATUS, "404 Not Found")
            words = {"primary": Mode.PRIMARY, "standby": Mode.STANDBY}
            return Passed(mode=words.get(self.mode, Mode.UNKNOWN))
        if self.serves == "always" or (self.serves == "as Primary" and self.mode == "primary"):
            return Passed()
        return Failed(Phase.STATUS, "503 Service Unavailable")


@dataclass
class ModelBalancer:
    """A load balancer with two servers that forgets at a restart."""

    name: str
    chosen: set[str] = field(default_factory=set)
    configured: frozenset[str] = frozenset()
    run: int = 1
    is_up: bool = True
    is_deaf: bool = False  # accepts a publication and does nothing
    written: list[str] = field(default_factory=list)
    health: dict[str, Health] = field(default_factory=dict)  # by its own checks
    in_flight: dict[str, int] = field(default_factory=dict)
    owner: str = ""

    def restart(self) -> None:
        self.run += 1
        self.chosen = set(self.configured)


@dataclass
class Trap:
    """Stops a prober for good right before it saves, publishes or confirms."""

    before: str = ""

    async def pass_by(self, step: str) -> None:
        if step == self.before:
            await asyncio.get_running_loop().create_future()


class ModelPublisher:
    """Publisher port over a ModelBalancer."""

    type = "model"

    def __init__(self, balancer: ModelBalancer, trap: Trap) -> None:
        self.name = balancer.name
        self._balancer = balancer
        self._trap = trap
        self.owner = ""

    async def publish_nobody(self) -> None:
        if not self._balancer.is_up:
            raise Unreachable(f"{self.name}: connection refused")
        self._balancer.chosen = set()

    async def in_flight(self) -> dict[str, int]:
        return self._balancer.in_flight

    async def publish(self, node: str) -> None:
        await self._trap.pass_by("publish")
        if not self._balancer.is_up:
            raise Unreachable(f"{self.name}: connection refused")
        self._balancer.written.append(node)
        if not self._balancer.is_deaf:
            self._balancer.chosen = {node}
            self._balancer.owner = self.owner

    async def read_back(self) -> Seen:
        if not self._balancer.is_up:
            raise Unreachable(f"{self.name}: connection refused")
        chosen = tuple(sorted(self._balancer.chosen))
        node = chosen[0] if len(chosen) == 1 else None
        return Seen(
            node,
            chosen,
            usable=node is not None,
            instance=f"run-{self._balancer.run}",
            health=dict(self._balancer.health),
            owner=self._balancer.owner,
        )

    def commands(self, node: str) -> list[str]:
        return [f"use {node}"]


class ModelStore:
    """Store port in memory; survives the prober, as a disk does."""

    def __init__(self) -> None:
        self.saved: dict[str, Saved] = {}
        self.records: list[Record] = []
        self.is_full = False
        self.trap = Trap()

    def _write(self) -> None:
        if self.is_full:
            raise StoreError("the disk is full; make room")

    async def load(self) -> dict[str, Saved]:
        return dict(self.saved)

    async def commit(self, group: str, saved: Saved, *, expect: int, record: Record) -> None:
        await self.trap.pass_by("save")
        self._write()
        found = self.saved.get(group, Saved()).generation
        if found != expect:
            raise Conflict(f"found generation {found}, wanted {expect}", found)
        confirmed = self.saved.get(group, Saved()).confirmed
        self.saved[group] = replace(saved, confirmed=confirmed)
        self.records.append(record)

    async def rename(self, old: str, new: str) -> None:
        self._write()
        self.saved[new] = self.saved.pop(old)

    async def confirm(self, group: str, adapter: str, generation: int) -> None:
        await self.trap.pass_by("confirm")
        self._write()
        saved = self.saved[group]
        self.saved[group] = replace(saved, confirmed={**saved.confirmed, adapter: generation})

    async def note(self, record: Record) -> None:
        self._write()
        self.records.append(record)

    async def note_all(self, records: Sequence[Record]) -> None:
        self._write()
        self.records += records

    async def history(
        self, group: str | None = None, limit: int = 100, span: Span = WHOLE
    ) -> list[Record]:
        numbered = [replace(r, number=n) for n, r in enumerate(self.records, start=1)]
        found = [
            r
            for r in numbered
            if (group is None or r.group in (group, ""))
            and (span.everything or r.kind not in QUIET)
            and (span.before is None or r.number < span.before)
            and (span.since is None or r.at_wall >= span.since)
        ]
        return found[-limit:]

    async def test_write(self) -> None:
        self._write()


@dataclass
class _Due:
    node: str
    page: Page
    at: float
    started: float = 0.0
    ends: float = 0.0
    under_way: Passed | Failed | None = None
    fails: int = 0


class World:
    """Two or more nodes, load balancers, one prober, one operator.

    Args:
        events: Called with every event of this group or of the process, but `probe.done`.
        neighbours: Names of further groups over the same nodes, without load balancers.
    """

    def __init__(
        self,
        group: Group,
        balancers: dict[str, ModelBalancer],
        events: Callable[[Event], None],
        neighbours: tuple[str, ...] = (),
    ) -> None:
        self.clock = VirtualClock()
        self.store = ModelStore()
        self.group = group
        self.neighbours = neighbours
        self.limit: int | None = None
        self.was: str | None = None
        self.timing: Timing | None = None  # of this group, for explanations
        self.witness = "off"
        self.drain_s = 0.0
        self.signature = ""
        self.servers: dict[str, str] = {}  # by node: where it moved, in the file
        self.balancers = balancers
        self.nodes = {
            n.name: ModelNode(n.name, "primary" if n.role is Role.PRIMARY else "standby")
            for n in group.nodes
        }
        self.is_linked = True
        self.references: bool | None = None
        self.interval_s, self.recheck_s, self.timeout_s = 1.0, 0.25, 1.0
        self.controller: Controller | None = None
        self.setups: list[Setup] = []
        self.notes: dict[str, OfflineNote] = {}
        self._events = events
        self._task: asyncio.Task[None] | None = None
        self._due: list[_Due] = []

    def emit(self, event: Event) -> None:
        if event.name != "probe.done" and event.group in ("", self.group.name):
            self._events(event)

    async def start_prober(self, allowed: frozenset[str] = frozenset()) -> None:
        self.store.trap = Trap()
        publishers = tuple(ModelPublisher(b, self.store.trap) for b in self.balancers.values())
        servers = {name: f"server-{name}" for name in self.group.names} | self.servers
        prints = {name: f"url={server}" for name, server in servers.items()}
        self.setups = [
            *(Setup(replace(self.group, name=name, adapters=())) for name in self.neighbours),
            Setup(
                self.group,
                publishers,
                prints,
                self.was,
                self.timing,
                tuple(Witness(b, self.witness) for b in self.balancers if self.witness != "off"),
                self.drain_s,
            ),
        ]
        controller = Controller(
            self.setups,
            self.store,
            self.clock,
            self,
            failovers_per_minute=self.limit,
            quicken=self._quicken,
            signature=self.signature,
        )
        start = asyncio.ensure_future(controller.start(self.notes, allowed))
        while not start.done():
            await self.clock.advance(STEP_S)
        start.result()
        self.controller = controller
        self.notes = {}
        self._task = asyncio.ensure_future(self.controller.run())
        self._due = [
            _Due(node, page, self.clock.now + 0.1 * i)
            for i, (node, page) in enumerate(_pages(self.nodes))
        ]
        await settle()

    async def kill_prober(self) -> None:
        """As SIGKILL: nothing gets a chance to finish."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = self.controller = None

    async def advance(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-9:
            await self.clock.advance(min(STEP_S, end - self.clock.now))
            if self._task is not None and self._task.done():
                self._task.result()
            if self.controller is not None:
                self._probe()

    def _probe(self) -> None:
        if self.references is not None:
            alive = self.references and self.is_linked
            self.controller.references({"reference": alive})
        for due in self._due:
            if due.under_way is None and due.at <= self.clock.now:
                self._begin(due)
            if due.under_way is not None and due.ends <= self.clock.now:
                self._end(due, due.under_way)

    def _begin(self, due: _Due) -> None:
        outcome = self.nodes[due.node].answer(due.page)
        if not self.is_linked:
            outcome = Failed(Phase.CONNECT_TIMEOUT, "no connection in 1s")
        hangs = isinstance(outcome, Failed) and outcome.phase in (
            Phase.TIMEOUT,
            Phase.CONNECT_TIMEOUT,
        )
        due.started = self.clock.now
        due.ends = due.started + (self.timeout_s if hangs else 0.0)
        due.under_way = outcome

    def _end(self, due: _Due, outcome: Passed | Failed) -> None:
        due.under_way = None
        due.fails = due.fails + 1 if isinstance(outcome, Failed) else 0
        seen = Observation(due.node, due.page, due.started, self.clock.now, outcome)
        for setup in self.setups:
            self.controller.observe(setup.group.name, seen)
        hurried = self.controller.is_hurried(self.group.name, due.node, due.page)
        quick = 0 < due.fails < self.group.fall or hurried
        pause = self.recheck_s if quick else self.interval_s
        due.at = max(due.started + pause, self.clock.now)

    def _quicken(self, name: str) -> None:
        for due in self._due if name == self.group.name else ():
            if self.controller and self.controller.is_hurried(name, due.node, due.page):
                due.at = min(due.at, max(due.started + self.recheck_s, self.clock.now))

    @property
    def traffic(self) -> dict[str, str]:
        """Where each load balancer really sends traffic."""
        return {
            name: "+".join(sorted(b.chosen)) or "nowhere" if b.is_up else "down"
            for name, b in self.balancers.items()
        }


def _pages(nodes: dict[str, ModelNode]) -> Iterator[tuple[str, Page]]:
    for name in nodes:
        for page in Page:
            yield name, page


@asynccontextmanager
async def world_of(group: Group, balancers: dict[str, ModelBalancer], events=lambda event: None):
    """A world that is gone afterwards, tasks included."""
    world = World(group, balancers, events)
    try:
        yield world
    finally:
        await world.kill_prober()


def pair(**changes: object) -> Group:
    """The usual group: `a` Primary, `b` Secondary, one load balancer."""
    nodes = (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True))
    return replace(Group("epmm", nodes, adapters=("edge",)), **changes)


__all__ = ["ModelBalancer", "ModelNode", "ModelStore", "PublishError", "World", "pair", "world_of"]
