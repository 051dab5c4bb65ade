"""A real HAProxy on loopback, small named backends, and a server that answers anything."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from haproxy_desk import BINARIES
from loopback import Behaviour, listening, port_of, tell

HEAD = """
global
    stats socket {folder}/admin.sock mode 600 level admin expose-fd listeners
    stats socket {folder}/operator.sock mode 600 level operator
    stats socket {folder}/numbered.sock mode 600 level admin severity-output number
    stats socket fd@{tcp_fd} level admin
    stats maxconn 60
    hard-stop-after 60s
defaults
    mode http
    option abortonclose
    timeout connect 1s
    timeout client 60s
    timeout server 60s
frontend service
    bind {folder}/service.sock
"""
CONFIG = (
    HEAD
    + """\
    default_backend epmm
backend epmm
    server a 127.0.0.1:{port_a} disabled
    server b 127.0.0.1:{port_b} disabled {check_b}
    server spare 127.0.0.1:{port_a} disabled
backend second
    server a 127.0.0.1:{port_a} disabled
    server b 127.0.0.1:{port_b} disabled
"""
)

MAP_CONFIG = (
    HEAD
    + """\
    use_backend pool_%[str(epmm),map({folder}/active.map,none)]
frontend second
    bind {folder}/second.sock
    use_backend pool_%[str(epmm-9997),map({folder}/active.map,none)]
backend pool_a
    server a 127.0.0.1:{port_a}
backend pool_b
    server b 127.0.0.1:{port_b} {check_b}
"""
)
MAP = """# who has the traffic
other a

epmm none   # not told yet
epmm-9997 none
"""


class HaproxyProcess:
    """One HAProxy, in a short folder: a socket path has 108 bytes.

    `start` and `stop` may be called in turn; `close` ends what runs and removes the folder.

    Args:
        is_plain: Without a master: a reload starts another process, which ends the first.
    """

    def __init__(
        self,
        binary: str,
        port_a: int,
        port_b: int,
        check_b: str = "",
        config: str = CONFIG,
        *,
        is_plain: bool = False,
    ) -> None:
        self._is_plain = is_plain
        self._before: list[subprocess.Popen[bytes]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="hap", dir="/tmp"))
        self.admin = self.folder / "admin.sock"
        self.operator = self.folder / "operator.sock"
        self.numbered = self.folder / "numbered.sock"
        self.master = self.folder / "master.sock"
        self.map = self.folder / "active.map"
        self.map.write_text(MAP)
        self._log = self.folder / "log"
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        # Inherited, so that no port is chosen first and lost to somebody else before the start.
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.tcp: tuple[str, int] = self._tcp.getsockname()
        self._config = self.folder / "haproxy.cfg"
        self._config.write_text(
            config.format(
                folder=self.folder,
                tcp_fd=self._tcp.fileno(),
                port_a=port_a,
                port_b=port_b,
                check_b=check_b,
            )
        )

    async def start(self) -> None:
        """Start it and wait until it answers on its socket and may be reloaded."""
        self._process = self._spawn()
        await self._until(lambda info: "Stopping: 0\n" in info and self._hears_signals())

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        how = [] if self._is_plain else ["-W", "-S", str(self.master)]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._binary, *how, "-db", "-f", str(self._config), *words],
                stdout=log,
                stderr=log,
                pass_fds=[self._tcp.fileno()],
            )

    async def reload(self) -> None:
        """Reload it and wait until the new process answers."""
        before = self.pid
        self.begin_reload()
        await self._until(
            lambda info: (
                f"Pid: {before}\n" not in info and "Stopping: 0\n" in info and self._hears_signals()
            )
        )

    def begin_reload(self) -> None:
        """Tell the master, or start the process that takes over, and wait for nothing."""
        assert self._process is not None
        if self._is_plain:
            self._before.append(self._process)
            self._process = self._spawn("-x", str(self.admin), "-sf", str(self._process.pid))
        else:
            self._process.send_signal(signal.SIGUSR2)

    def stop(self) -> None:
        """End master and workers at once."""
        for process in (*self._before, self._process):
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        self._process = None
        self._before.clear()

    def close(self) -> None:
        """End it and leave nothing behind."""
        self.stop()
        self._tcp.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Pid of the worker that answers now."""
        line = next(x for x in self.tell("show info").split("\n") if x.startswith("Pid: "))
        return int(line.removeprefix("Pid: "))

    @contextlib.asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Stop the worker in its tracks, as a hung one is, and let it go on afterwards."""
        worker = self.pid
        os.kill(worker, signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                while True:
                    if _is_frozen(worker):
                        break
                    await asyncio.sleep(0.01)
            yield
        finally:
            os.kill(worker, signal.SIGCONT)

    def tell(self, line: str) -> str:
        """Send one line by hand, as an administrator would, and return the answer."""
        return tell(self.admin, line)

    async def ask_service(self, name: str = "service.sock", path: str = "/") -> str:
        """Return the name of the backend that a client of the service reaches, or the status."""
        reader, writer = await asyncio.open_unix_connection(str(self.folder / name))
        try:
            head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            answer = (await asyncio.wait_for(reader.read(), 10)).decode()
        finally:
            writer.close()
            await writer.wait_closed()
        head, _, body = answer.partition("\r\n\r\n")
        status = head.split(" ")[1]
        return body if status == "200" else status

    def _hears_signals(self) -> bool:
        # The worker answers before its master, which starts itself anew, listens for SIGUSR2:
        # one sent in between is lost without a trace.
        assert self._process is not None
        if self._is_plain:
            return True
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            return True
        caught = next(x for x in status.read_text().split("\n") if x.startswith("SigCgt:"))
        return bool(int(caught.removeprefix("SigCgt:"), 16) >> (signal.SIGUSR2 - 1) & 1)

    async def _until(self, is_there: Callable[[str], bool]) -> None:
        assert self._process is not None
        try:
            async with asyncio.timeout(20):
                while self._process.poll() is None:
                    with contextlib.suppress(OSError):
                        if is_there(self.tell("show info")):
                            return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        raise AssertionError(f"not in the state wanted; its log: {self._log.read_text()}")


def _is_frozen(pid: int) -> bool:
    # Each thread stops at its own time, and one is enough to answer.
    stats = [(t / "stat").read_text() for t in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


@pytest.fixture(params=BINARIES)
def haproxy_binary(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def nodes() -> AsyncIterator[dict[str, asyncio.Server]]:
    """Two servers that answer their name, keep a connection, and never answer `GET /hang`."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(listening(_named(name))) for name in ("a", "b")
        }


def _named(name: str) -> Behaviour:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"GET /hang"):
                await reader.read()
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode())
            await writer.drain()

    return answer


@pytest.fixture
async def haproxy(
    haproxy_binary: str, nodes: dict[str, asyncio.Server]
) -> AsyncIterator[HaproxyProcess]:
    """A HAProxy whose servers are disabled until somebody says ready."""
    process = HaproxyProcess(haproxy_binary, port_of(nodes["a"]), port_of(nodes["b"]))
    try:
        await process.start()
        yield process
    finally:
        process.close()


@pytest.fixture
def make_haproxy(haproxy_binary: str) -> Iterator[Callable[[str], HaproxyProcess]]:
    """Makes a HAProxy of any configuration, not started, whose nodes are not there."""
    with contextlib.ExitStack() as stack:

        def make(config: str) -> HaproxyProcess:
            process = HaproxyProcess(haproxy_binary, 9, 9, config=config)
            stack.callback(process.close)
            return process

        yield make


@pytest.fixture
async def map_haproxy(
    haproxy_binary: str, nodes: dict[str, asyncio.Server]
) -> AsyncIterator[HaproxyProcess]:
    """A HAProxy whose map names the backend; the file says `none`."""
    process = HaproxyProcess(
        haproxy_binary, port_of(nodes["a"]), port_of(nodes["b"]), config=MAP_CONFIG
    )
    try:
        await process.start()
        yield process
    finally:
        process.close()


@pytest.fixture
def make_serving_haproxy(
    haproxy_binary: str, nodes: dict[str, asyncio.Server]
) -> Iterator[Callable[..., HaproxyProcess]]:
    """Makes a HAProxy of a style, not started, in front of the nodes."""
    with contextlib.ExitStack() as stack:

        def make(
            style: str, *, is_plain: bool = False, nodes: dict[str, asyncio.Server] = nodes
        ) -> HaproxyProcess:
            config = MAP_CONFIG if style == "map" else CONFIG
            ports = port_of(nodes["a"]), port_of(nodes["b"])
            process = HaproxyProcess(haproxy_binary, *ports, config=config, is_plain=is_plain)
            stack.callback(process.close)
            return process

        yield make


@pytest.fixture
async def checking_map_haproxy(
    haproxy_binary: str, nodes: dict[str, asyncio.Server]
) -> AsyncIterator[HaproxyProcess]:
    """The same, with a health check of its own on b."""
    check = "check inter 50ms fall 2 rise 2"
    process = HaproxyProcess(
        haproxy_binary, port_of(nodes["a"]), port_of(nodes["b"]), check, config=MAP_CONFIG
    )
    try:
        await process.start()
        yield process
    finally:
        process.close()


@pytest.fixture
async def checking_haproxy(
    haproxy_binary: str, nodes: dict[str, asyncio.Server]
) -> AsyncIterator[HaproxyProcess]:
    """The same, with a health check of its own on b."""
    process = HaproxyProcess(
        haproxy_binary, port_of(nodes["a"]), port_of(nodes["b"]), "check inter 50ms fall 1 rise 1"
    )
    try:
        await process.start()
        yield process
    finally:
        process.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hap", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


Serve = Callable[[Behaviour], contextlib.AbstractAsyncContextManager[Path]]


@pytest.fixture
def serve(short_folder: Path) -> Serve:
    """Serve a UNIX socket with any behaviour at all; what still runs at the end is cancelled."""

    @contextlib.asynccontextmanager
    async def serving(behaviour: Behaviour) -> AsyncIterator[Path]:
        path = short_folder / f"{os.urandom(4).hex()}.sock"
        async with listening(behaviour, path=str(path)):
            yield path
        path.unlink(missing_ok=True)

    return serving
