"""One run of a program: no shell, a time limit, and nothing of it left behind.

It has a session and a process group of its own. The whole group is killed when the program ends or
its time is over; a child that makes another session for itself is not followed, and one that became
another user cannot be killed: then no other run is started before it has ended. `keep_fds` is how a
child that got away can be noticed.

What it prints is read at a bounded speed once it prints much. A flood slows down the program that
makes it, by its own pipe, until its time is over; it does not slow down whoever else uses the loop.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Self

MAX_OUTPUT_BYTES = 64 * 1024
LINE_CHARS = 1000
LAST_LINES = 20
_CHUNK = 64 * 1024
_BREATH_S = 0.005  # between two chunks of what is thrown away: 13 MB a second
# Lines cost more: 2 MB or 32,000 lines a second, and 64 of them at a time.
_LINES_CHUNK = 4096
_LINES_AT_ONCE = 64
_LINES_BREATH_S = 0.002
_LAST_READS = 16  # a pipe holds 64 KiB, unless the program made it larger
_LAST_LINES_S = 5.0  # for the lines that are in the pipe when a program has ended
_KILLED_S = 1.0  # after SIGKILL; one in the kernel's hands may take for ever


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        status: Exit status, or minus the signal that ended it; None where its time was over.
        out: Standard output, cut at the limit; its last lines where they were told one by one.
        err: Standard error, cut at the limit.
        is_cut: It printed more than the limit.
    """

    status: int | None
    out: bytes
    err: bytes
    is_cut: bool

    @property
    def fault(self) -> str:
        """Why it is no success, in words; empty where it ended with 0."""
        if self.status is None:
            return "it did not end in time and was killed"
        if self.status < 0:
            return f"it ended by signal {-self.status}"
        return f"it ended with exit status {self.status}" if self.status else ""

    @property
    def last_words(self) -> str:
        """The last line it printed, where it complains first, made safe to print."""
        said = (self.err.strip() or self.out.strip()).rpartition(b"\n")[2]
        return _printable(said[-LINE_CHARS:])


class Program:
    """A program that is run again and again, never beside one that will not end.

    Args:
        argv: Program first; no shell reads it.
        timeout_s: For a run as a whole.
        is_silent: Its output is thrown away.
    """

    def __init__(self, argv: Sequence[str], timeout_s: float, *, is_silent: bool = False) -> None:
        self.argv = tuple(argv)
        self._timeout_s = timeout_s
        self._is_silent = is_silent
        self._stuck: subprocess.Popen[bytes] | None = None

    async def run(
        self,
        environment: Mapping[str, str] | None = None,
        text: bytes = b"",
        on_line: Callable[[str], None] | None = None,
        *,
        joins: bool = False,
        keep_fds: Sequence[int] = (),
        stop_s: float = 0.0,
    ) -> Ended:
        """Run it once with this on its standard input.

        Args:
            environment: All of it; None is ours without our own settings.
            on_line: Called with each line of standard output, made safe to print.
            joins: Standard error goes where standard output goes.
            keep_fds: Files that it, and every child of it that does not close them, holds open.
            stop_s: When its time is over, or whoever waits is cancelled: from SIGTERM to SIGKILL.

        Raises:
            OSError: It cannot be started; BlockingIOError where an earlier run has not ended.
        """
        if self._stuck is not None and self._stuck.poll() is None:
            raise BlockingIOError(f"an earlier run (pid {self._stuck.pid}) cannot be ended")
        self._stuck = None
        given = clean_environment() if environment is None else environment
        errors = subprocess.STDOUT if joins else subprocess.PIPE
        process = self._spawn(given, text, errors, keep_fds)
        ended = asyncio.Event()
        with contextlib.ExitStack() as stack:
            out, err = bytearray(), bytearray()
            lines: _Lines | None = None
            stack.enter_context(_watched(process, ended))
            if process.stderr is not None:
                err = stack.enter_context(collected(stack.enter_context(process.stderr)))
            if process.stdout is not None:
                pipe = stack.enter_context(process.stdout)
                if on_line is None:
                    out = stack.enter_context(collected(pipe))
                else:
                    lines = stack.enter_context(_Lines(pipe, on_line))
            is_late = not await self._end(process, ended, stop_s)
            if lines is not None:
                await lines.rest()
        status = None if is_late else process.wait()
        limit = MAX_OUTPUT_BYTES
        is_cut = max(len(out), len(err), lines.count if lines else 0) > limit
        said = lines.last if lines else bytes(out[:limit])
        return Ended(status, said, bytes(err[:limit]), is_cut)

    def _spawn(
        self, environment: Mapping[str, str], text: bytes, errors: int, keep_fds: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        # A file and no pipe: a program that reads nothing cannot hold us up.
        with os.fdopen(os.memfd_create("stdin"), "w+b") as given:
            given.write(text)
            given.seek(0)
            return subprocess.Popen(  # noqa: S603 - the operator's own configuration, no shell
                self.argv,
                stdin=given,
                stdout=subprocess.DEVNULL if self._is_silent else subprocess.PIPE,
                stderr=subprocess.DEVNULL if self._is_silent else errors,
                start_new_session=True,
                env=dict(environment),
                pass_fds=tuple(keep_fds),
            )

    async def _end(
        self, process: subprocess.Popen[bytes], ended: asyncio.Event, stop_s: float
    ) -> bool:
        """Wait for its end, or make it; tell whether it came in time."""
        in_time = False
        try:
            in_time = await _came(ended, self._timeout_s)
        finally:
            if not in_time and stop_s:
                _tell_group(process, signal.SIGTERM)
                await _came(ended, stop_s)
            # Before it is reaped: until then its number cannot mean anybody else.
            _tell_group(process, signal.SIGKILL)
            if await _came(ended, _KILLED_S):
                process.wait()
            else:
                self._stuck = process
        return in_time


def clean_environment() -> dict[str, str]:
    """Return our environment without our own settings: they may hold a token."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LB_PROBE_")}


def _printable(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip("\r\n")
    return "".join(char if char.isprintable() else "?" for char in text)


class _Lines:
    """What a program prints, told line by line at a bounded speed.

    Attributes:
        count: Bytes so far.
    """

    def __init__(self, pipe: IO[bytes], tell: Callable[[str], None]) -> None:
        self.count = 0
        self._fd = pipe.fileno()
        self._tell = tell
        self._begun = b""
        self._waiting: deque[bytes] = deque()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._pause: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()  # nothing more is there just now
        self._is_over = False

    @property
    def last(self) -> bytes:
        """The last lines."""
        return "\n".join(self._last).encode()

    def __enter__(self) -> Self:
        os.set_blocking(self._fd, False)
        self._go_on()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._fd)

    async def rest(self) -> None:
        """Wait until what it said last is told; a child that goes on talking is left alone."""
        if not self._is_over:
            self._idle.clear()
            self._go_on()
            await _came(self._idle, _LAST_LINES_S)
        if self._begun:
            self._told(self._begun)

    def _go_on(self) -> None:
        """Tell some lines, read on where none wait, and take a breath where there is more."""
        loop = asyncio.get_running_loop()
        if self._pause is not None:
            self._pause.cancel()
        for _ in range(min(len(self._waiting), _LINES_AT_ONCE)):
            self._told(self._waiting.popleft())
        taken = None if self._waiting else self._take()
        if self._waiting or taken:
            is_much = bool(self._waiting) or taken == _LINES_CHUNK
            loop.remove_reader(self._fd)
            self._pause = loop.call_later(_LINES_BREATH_S if is_much else 0, self._go_on)
            return
        self._idle.set()
        self._is_over = taken == 0
        if self._is_over:
            loop.remove_reader(self._fd)
        else:
            loop.add_reader(self._fd, self._go_on)

    def _take(self) -> int | None:
        """Take what is there; return how much, 0 at the end, None for nothing just now."""
        try:
            chunk = os.read(self._fd, _LINES_CHUNK)
        except BlockingIOError:
            return None
        self.count += len(chunk)
        first, *others = chunk.split(b"\n")
        self._begun += first[: LINE_CHARS - len(self._begun)]
        for part in others:
            self._waiting.append(self._begun)
            self._begun = part[:LINE_CHARS]
        return len(chunk)

    def _told(self, line: bytes) -> None:
        text = _printable(line)
        self._last.append(text)
        self._tell(text)


async def _came(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


@contextlib.contextmanager
def _watched(process: subprocess.Popen[bytes], ended: asyncio.Event) -> Iterator[None]:
    """Set `ended` when the program has ended and is not yet reaped."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        _tell_group(process, signal.SIGKILL)
        process.wait()
        raise

    def fire() -> None:
        loop.remove_reader(pidfd)
        ended.set()

    loop.add_reader(pidfd, fire)
    try:
        yield
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


@contextlib.contextmanager
def collected(pipe: IO[bytes]) -> Iterator[bytearray]:
    """Yield what comes, up to one byte over the limit; read on slowly and throw away beyond."""
    loop, fd, got = asyncio.get_running_loop(), pipe.fileno(), bytearray()
    pause: asyncio.TimerHandle | None = None
    os.set_blocking(fd, False)

    def read() -> bool:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            loop.remove_reader(fd)
        got.extend(chunk[: max(0, MAX_OUTPUT_BYTES + 1 - len(got))])
        return bool(chunk)

    def fire() -> None:
        nonlocal pause
        if read() and len(got) > MAX_OUTPUT_BYTES:
            loop.remove_reader(fd)
            pause = loop.call_later(_BREATH_S, loop.add_reader, fd, fire)

    loop.add_reader(fd, fire)
    try:
        yield got
    finally:
        if pause is not None:
            pause.cancel()
        loop.remove_reader(fd)
        # What it said last. A child that lives on may hold the pipe open and go on talking.
        for _ in range(_LAST_READS):
            if not read():
                break


def _tell_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
