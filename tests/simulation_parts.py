"""The modelled parts of a simulated world: nodes, load balancers, and the store on a disk.

They do as they are told and decide nothing; each passes `effect` on the way, where the prober may
die, and tells the judge what is done to it.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from simulation_judge import BrokenError

from lb_probe.core.model import Failed, Mode, Page, Passed, Phase, Saved, Seen
from lb_probe.ports import Conflict, PublishError, Record, StoreError, Unreachable
from lb_probe.store import sqlite

if TYPE_CHECKING:
    from simulation_world import Simulation

SLOW_S, HUNG_S = 0.7, 4.0
PASSED, ERROR = Passed(), Failed(Phase.STATUS, "503")
REFUSED = Failed(Phase.CONNECT_REFUSED, "refused")
HUNG = Failed(Phase.TIMEOUT, "timeout")
LOST = Failed(Phase.CONNECT_TIMEOUT, "no connection")
SAYS = {"primary": Passed(Mode.PRIMARY), "standby": Passed(Mode.STANDBY)}
NODE_STATES = {
    "dies": "dead",
    "returns": "up",
    "hangs": "hung",
    "breaks": "broken",
    "goes-dark": "dark",
    "goes-mute": "mute",
}
NODE_MODES = {"promotes": "primary", "stands-by": "standby", "says-odd": "odd"}


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
        self._world.judge.committed(before, saved)
        kept = self.saved.get(group, before).confirmed  # one may have come in while it was slow
        self.saved[group] = replace(saved, confirmed=kept)
        self.records.append(record)
        await self._write(group, saved, expect, record)
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
        await self._surely(self._store.confirm(group, adapter, generation))

    async def _write(self, group: str, saved: Saved, expect: int, record: Record) -> None:
        await self._surely(self._store.commit(group, saved, expect=expect, record=record))

    async def _surely(self, work: Awaitable[None]) -> None:
        """Bring the store to what the model has, though another task ends the prober just now."""
        await asyncio.shield(asyncio.ensure_future(self._world.clock.outside(work)))


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
            self._world.judge.landed(self.name)
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
