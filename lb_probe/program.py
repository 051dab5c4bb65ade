"""One run of a program: no shell, a time limit, and nothing of it left behind.

It has a session and a process group of its own. The whole group is killed when the program ends or
its time is over; a child that makes another session for itself is not followed, and one that became
another user cannot be killed: then no other run is started before it has ended.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

MAX_OUTPUT_BYTES = 64 * 1024
LINE_CHARS = 1000
_CHUNK = 64 * 1024
# Whoever prints more is not read line by line any more: of each chunk the last one counts.
_MANY_LINES = 10_000
_LAST_READS = 16  # a pipe holds 64 KiB, unless the program made it larger
_KILLED_S = 1.0  # after SIGKILL; one in the kernel's hands may take for ever


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        status: Exit status, or minus the signal that ended it; None where its time was over.
        out: Standard output, cut at the limit.
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
    ) -> Ended:
        """Run it once with this on its standard input.

        Args:
            environment: All of it; None is ours without our own settings.
            on_line: Called with each line of standard output, made safe to print.

        Raises:
            OSError: It cannot be started; BlockingIOError where an earlier run has not ended.
        """
        if self._stuck is not None and self._stuck.poll() is None:
            raise BlockingIOError(f"an earlier run (pid {self._stuck.pid}) cannot be ended")
        self._stuck = None
        given = clean_environment() if environment is None else environment
        process = _spawn(self.argv, given, text, is_silent=self._is_silent)
        ended = asyncio.Event()
        with contextlib.ExitStack() as stack:
            out, err = bytearray(), bytearray()
            stack.enter_context(_watched(process, ended))
            if process.stdout is not None and process.stderr is not None:
                stack.enter_context(process.stdout)
                stack.enter_context(process.stderr)
                lines = _Lines(on_line) if on_line is not None else None
                out = stack.enter_context(collected(process.stdout, lines))
                err = stack.enter_context(collected(process.stderr))
            is_late = not await self._end(process, ended)
        status = None if is_late else process.wait()
        limit = MAX_OUTPUT_BYTES
        is_cut = max(len(out), len(err)) > limit
        return Ended(status, bytes(out[:limit]), bytes(err[:limit]), is_cut)

    async def _end(self, process: subprocess.Popen[bytes], ended: asyncio.Event) -> bool:
        """Wait for its end, or make it; tell whether it came in time."""
        try:
            in_time = await _came(ended, self._timeout_s)
        finally:
            # Before it is reaped: until then its number cannot mean anybody else.
            _kill_group(process)
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
    """Cuts what comes into lines; a flood of them is thinned out, so that it costs no more."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""
        self._count = 0

    def feed(self, chunk: bytes) -> None:
        *whole, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest[:LINE_CHARS]
        if self._count >= _MANY_LINES:
            whole = whole[-1:]
        self._count += len(whole)
        for line in whole:
            self._tell(_printable(line[:LINE_CHARS]))

    def end(self) -> None:
        if self._rest:
            self._tell(_printable(self._rest))


def _spawn(
    argv: Sequence[str], environment: Mapping[str, str], text: bytes, *, is_silent: bool
) -> subprocess.Popen[bytes]:
    out = subprocess.DEVNULL if is_silent else subprocess.PIPE
    # A file and no pipe: a program that reads nothing cannot hold us up.
    with os.fdopen(os.memfd_create("stdin"), "w+b") as given:
        given.write(text)
        given.seek(0)
        return subprocess.Popen(  # noqa: S603 - argv is the operator's own configuration, no shell
            argv,
            stdin=given,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=dict(environment),
        )


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
        _kill_group(process)
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
def collected(pipe: IO[bytes], lines: _Lines | None = None) -> Iterator[bytearray]:
    """Yield what comes, up to one byte over the limit; read on and throw away beyond."""
    loop, fd, got = asyncio.get_running_loop(), pipe.fileno(), bytearray()
    os.set_blocking(fd, False)

    def read() -> bool:
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            loop.remove_reader(fd)
        got.extend(chunk[: max(0, MAX_OUTPUT_BYTES + 1 - len(got))])
        if lines is not None:
            lines.feed(chunk)
        return bool(chunk)

    loop.add_reader(fd, read)
    try:
        yield got
    finally:
        loop.remove_reader(fd)
        # What it said last. A child that lives on may hold the pipe open and go on talking.
        for _ in range(_LAST_READS):
            if not read():
                break
        if lines is not None:
            lines.end()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
