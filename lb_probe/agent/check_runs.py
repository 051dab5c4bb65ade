"""One run of a check, of each kind: None passed, a sentence failed; nothing here raises.

What asks the kernel of files may hang for as long as a dead file server does: it runs in a thread
that nobody waits for, and the next run fails while that has not come back.
"""

import asyncio
import contextlib
import os
import pwd
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from lb_probe.agent.check import (
    Check,
    CommandCheck,
    DiskCheck,
    HttpCheck,
    ProcessCheck,
    SystemdCheck,
    TcpCheck,
)
from lb_probe.program import Program

if TYPE_CHECKING:
    from aiohttp import ClientSession

Run = Callable[[], Awaitable[str | None]]

_BODY_CAP = 64 * 1024
_DETAIL_CHARS = 200
_WORD_BYTES = 4096  # of a command line: its first word fits, or is no path
# A unit that reloads goes on serving.
_ACTIVE = frozenset({"active", "reloading"})


@contextlib.asynccontextmanager
async def runs_of(checks: Iterable[Check]) -> AsyncIterator[list[Run]]:
    """Yield for each check what runs it once."""
    checks = tuple(checks)
    async with contextlib.AsyncExitStack() as stack:
        session: ClientSession | None = None
        if any(isinstance(check, HttpCheck) for check in checks):
            session = await stack.enter_async_context(_http_session())
        yield [_guarded(check, _run(check, session)) for check in checks]


def _run(check: Check, session: "ClientSession | None") -> Run:
    match check:
        case HttpCheck():
            assert session is not None
            return lambda: _ask_http(check, session)
        case TcpCheck():
            return lambda: _connect(check)
        case CommandCheck():
            program = Program(check.argv, check.timeout_s, is_silent=True)
            return lambda: _run_command(program, check.timeout_s)
        case SystemdCheck():
            argv = ("systemctl", "show", "--property=ActiveState,SubState", "--", check.unit)
            asking = Program(argv, check.timeout_s)
            return lambda: _ask_systemd(check.unit, asking)
        case DiskCheck():
            return _Beside(lambda: _look_at_disk(check)).run
        case ProcessCheck():
            return _Beside(lambda: _count_processes(check)).run


def _guarded(check: Check, run: Run) -> Run:
    """Give a run its deadline and turn whatever it raises into a sentence."""

    async def attempt() -> str | None:
        try:
            # Programs have the same deadline by themselves: they are killed first, and wait.
            spare_s = 5.0 if isinstance(check, CommandCheck | SystemdCheck) else 0.0
            async with asyncio.timeout(check.timeout_s + spare_s):
                return await run()
        except TimeoutError:
            return f"no answer within {check.timeout_s:g}s"
        except Exception as error:  # a check is somebody else's world: whatever it does, it failed
            return _printable(f"{type(error).__name__}: {error}")

    return attempt


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:_DETAIL_CHARS])


# ------------------------------------------------------------------ http and tcp
def _http_session() -> "ClientSession":
    import aiohttp  # 200 ms that an agent without HTTP checks does not pay

    return aiohttp.ClientSession(
        # A re-used connection is silently tried twice, which hides a failure.
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        # The deadline is ours, around the whole run: aiohttp rounds its own up to whole seconds.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        headers={"User-Agent": "lb-probe-agent", "Accept-Encoding": "identity"},
    )


async def _ask_http(check: HttpCheck, session: "ClientSession") -> str | None:
    async with session.get(check.url, allow_redirects=False) as response:
        if response.status != check.expect_status:
            return f"found status {response.status}; wanted {check.expect_status}"
        if check.expect is None:
            return None
        body = bytearray()
        while len(body) < _BODY_CAP:
            chunk = await response.content.read(_BODY_CAP - len(body))
            if not chunk:
                break
            body += chunk
    if check.expect.encode() in body:
        return None
    return _printable(f"{check.expect!r} is not in the first {len(body)} bytes of the body")


async def _run_tcp(check: TcpCheck) -> str | None:
    _, writer = await asyncio.open_connection(check.host, check.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None


async def _connect(check: TcpCheck) -> str | None:
    _, writer = await asyncio.open_connection(check.host, check.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return None


# ------------------------------------------------------------------ programs
async def _run_command(program: Program, timeout_s: float) -> str | None:
    status = (await program.run()).status
    if status is None:
        return f"did not end within {timeout_s:g}s and was killed"
    if status < 0:
        return f"ended by signal {-status}"
    return f"found exit status {status}; wanted 0" if status else None


async def _ask_systemd(unit: str, asking: Program) -> str | None:
    ended = await asking.run()
    if ended.fault:
        return _printable(f"systemctl show: {ended.fault}: {ended.last_words}")
    lines = ended.out.decode(errors="replace").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    state = found.get("ActiveState", "")
    if state in _ACTIVE:
        return None
    said = f"{state} ({found.get('SubState', '')})" if state else "no ActiveState"
    return _printable(f"unit {unit}: found {said}; wanted active")


# ------------------------------------------------------------------ what may hang in the kernel
class _Beside:
    """Runs something that blocks in a thread of its own, and never twice at a time.

    The thread is nobody's: an agent that stops does not wait for it.
    """

    def __init__(self, look: Callable[[], str | None]) -> None:
        self._look = look
        self._running: threading.Thread | None = None

    async def run(self) -> str | None:
        if self._running is not None and self._running.is_alive():
            return "the run before this one has not come back"
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str | None] = loop.create_future()

        def tell(found: str | None) -> None:
            if not ended.done():
                ended.set_result(found)

        def work() -> None:
            try:
                found = self._look()
            except Exception as error:
                found = _printable(f"{type(error).__name__}: {error}")
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
                loop.call_soon_threadsafe(tell, found)

        self._running = threading.Thread(target=work, daemon=True)
        self._running.start()
        return await ended


def _look_at_disk(check: DiskCheck) -> str | None:
    found = os.statvfs(check.path)
    if found.f_flag & os.ST_RDONLY:
        return _printable(f"{check.path}: mounted read-only; wanted to write there")
    free = found.f_bavail * found.f_frsize
    # Of what ordinary users may fill: the reserve of root is in neither.
    usable = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
    percent = 100 * free / usable if usable else 0.0
    if percent < check.min_free_percent or free < check.min_free_bytes:
        wanted = [f"{check.min_free_percent:g}%"] if check.min_free_percent else []
        wanted += [f"{check.min_free_bytes} bytes"] if check.min_free_bytes else []
        said = f"{percent:.1f}% free ({free} bytes); wanted {' and '.join(wanted)}"
        return _printable(f"{check.path}: {said}")
    if found.f_files and not found.f_favail:
        return _printable(f"{check.path}: no inode free; wanted to make files there")
    return None


def _count_processes(check: ProcessCheck) -> str | None:
    uid = None if check.user is None else pwd.getpwnam(check.user).pw_uid
    program, count = os.fsencode(check.program), 0
    # Thousands of processes are looked at while the pages answer: no object for each, and a stop
    # as soon as it is clear.
    with os.scandir(b"/proc") as entries:
        for entry in entries:
            count += entry.name.isdigit() and _is_one(entry, program, uid)
            if count >= check.at_least:
                return None
    return _printable(f"found {count} of {check.program}; wanted {check.at_least} or more")


def _is_one(entry: os.DirEntry[bytes], program: bytes, uid: int | None) -> bool:
    """Tell whether this is the folder of a living process of the program."""
    try:
        if uid is not None and entry.stat().st_uid != uid:
            return False
        file = os.open(entry.path + b"/cmdline", os.O_RDONLY)
        try:
            word = os.read(file, _WORD_BYTES).partition(b"\0")[0]
        finally:
            os.close(file)
        if not word or word.rpartition(b"/")[2] != program:
            image = os.readlink(entry.path + b"/exe")  # noqa: PTH115 # no Path takes bytes
            return image.rpartition(b"/")[2] == program
        # A dead one has no command line any more: it did not come so far.
        return True
    except OSError:
        return False  # it ended meanwhile, or it is not ours to look into
