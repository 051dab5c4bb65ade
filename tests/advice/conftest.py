"""Real HAProxys with any configuration, two named nodes, and groups read from a probes.yaml."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from haproxy_desk import BINARIES
from loopback import listening, port_of, tell

from lb_probe.config import GroupConfig, load


class Runner:
    """HAProxy of one version in a folder of its own; starts and ends processes of it.

    Attributes:
        folder: Short, because a socket's path has 108 bytes; removed at the end.
        front: A UNIX socket that a frontend may bind: no port is chosen and lost.
    """

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.folder = Path(tempfile.mkdtemp(prefix="adv", dir="/tmp"))
        self.admin = self.folder / "admin.sock"
        self.front = self.folder / "front.sock"
        self.master = self.folder / "master.sock"
        self.file = self.folder / "haproxy.cfg"
        self.log = self.folder / "log"
        self._running: subprocess.Popen[bytes] | None = None

    def check(self, text: str) -> None:
        """Let HAProxy itself judge a configuration; it must have nothing to say."""
        self.file.write_text(text)
        done = subprocess.run(
            [self.binary, "-c", "-f", str(self.file)], capture_output=True, text=True, timeout=30
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{said}\n{text}"
        assert "[WARNING]" not in said, f"{said}\n{text}"

    async def start(self, text: str | None = None) -> None:
        """Start it with a configuration, or the last one, and wait until it answers."""
        if text is not None:
            self.file.write_text(text)
        self._running = self._spawn()
        said = ""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if "Stopping: 0\n" in (said := self.tell("show info")):
                    return
            except OSError as exc:
                said = str(exc)
            assert self._running.poll() is None, self.log.read_text()
            await asyncio.sleep(0.02)
        raise AssertionError(f"{said}; its log: {self.log.read_text()}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self.binary, "-W", "-S", str(self.master), "-db", "-f", str(self.file)],
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End worker and master at once, as a crash does."""
        if self._running is None:
            return
        with contextlib.suppress(OSError, StopIteration):
            info = self.tell("show info").split("\n")
            worker = next(int(line[5:]) for line in info if line.startswith("Pid: "))
            os.kill(worker, signal.SIGKILL)
        self._running.kill()
        self._running.wait(10)
        self._running = None

    def reload(self) -> None:
        """Ask the master to reload; the old worker stays while it has connections."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            for _ in range(1000):  # a master that has just started anew does not listen yet
                with contextlib.suppress(ConnectionRefusedError):
                    sock.connect(str(self.master))
                    break
                time.sleep(0.02)
            sock.sendall(b"reload\n")
            with contextlib.suppress(OSError):  # 2.6 closes it, 2.8 says how it went
                sock.recv(4096)

    def close(self) -> None:
        """End it and leave nothing behind."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tell(self, line: str) -> str:
        """Send one line by hand and return the answer."""
        return tell(self.admin, line)

    async def ask(self, line: str) -> str:
        """The same, as the advice asks."""
        return await asyncio.to_thread(self.tell, line)

    async def ask_service(self, where: Path | tuple[str, int] | None = None) -> str:
        """Return the name of the node that a client reaches, the status, or `closed`."""
        where = where or self.front
        if isinstance(where, Path):
            reader, writer = await asyncio.open_unix_connection(str(where))
        else:
            reader, writer = await asyncio.open_connection(*where)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = (await asyncio.wait_for(reader.read(), 20)).decode()
        except ConnectionError:
            return "closed"
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if not answer:
            return "closed"
        head, _, body = answer.partition("\r\n\r\n")
        status = head.split(" ")[1]
        return body if status == "200" else status


@pytest.fixture(params=BINARIES)
def haproxy(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """A HAProxy to start; every test runs with each version that is here."""
    runner = Runner(request.param)
    yield runner
    runner.close()


class Node:
    """A server that answers its name and counts its clients' requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; a check only connects."""
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n"
        writer.write(head + self.name.encode())
        await writer.drain()

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["Node"]:
        """Serve on an address."""
        async with listening(self.answer, host, port) as server:
            self.port = port_of(server)
            yield self


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, a and b, each on a port of its own."""
    async with Node("a").serving() as a, Node("b").serving() as b:
        yield a, b


@pytest.fixture
def make_node() -> type[Node]:
    """More nodes."""
    return Node


MakeGroup = Callable[..., GroupConfig]


@pytest.fixture
def make_group(tmp_path: Path) -> MakeGroup:
    """Read a group as the program does: two urls and the text of one adapter."""

    def make(
        adapter: str = "",
        a: str = "https://192.0.2.10",
        b: str = "https://192.0.2.11",
        each: str = "",
    ) -> GroupConfig:
        text = (
            "version: 1\ngroups:\n  - name: epmm\n    act: true\n    nodes:\n"
            f'      - {{name: epmm-a, role: primary, url: "{a}"{each}}}\n'
            f'      - {{name: epmm-b, role: secondary, url: "{b}"{each}}}\n'
        )
        if adapter:
            text += "    adapters:\n" + "".join(
                f"      {line}\n" for line in adapter.strip("\n").split("\n")
            )
        path = tmp_path / "probes.yaml"
        path.write_text(text)
        return load(path, as_="client").groups[0]

    return make


Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Wait until something is so."""

    async def wait(is_so: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await is_so():  # noqa: ASYNC110 - HAProxy sends no event
                await asyncio.sleep(0.02)

    return wait
