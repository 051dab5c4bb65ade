"""One run of a program of the operator's: no shell, a time limit, its lines as they come.

It has a session and a process group of its own. When its time is over, or whoever waits for it is
cancelled, the group is told to end (SIGTERM) and killed a while later; when the program itself has
ended, what it left in its group is killed at once. A child that makes another session for itself
is not followed: `keep_fds` is there to notice it.

Its output is read at 2 MB a second at most. One that floods is slowed down by its own pipe until
its time is over; the agent's pages are not.

The standard input is empty. Settings of ours (LB_PROBE_*) may hold a token and are not passed on.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

# Two megabytes or 32,000 lines a second: a breath between keeps the pages' answers prompt.
_CHUNK = 4096
_LINES_AT_ONCE = 64
_PAUSE_S = 0.002
_LINE_BYTES = 4096
_TAIL_LINES = 20
_TAIL_CHARS = 200
_REST_S = 5.0
_KILLED_S = 5.0  # after SIGKILL; one in the kernel's hands may take for ever


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        status: Exit status; None where a signal ended it or its time was over.
        signal: What ended it; None where nothing did, or its time was over.
        timed_out: Its time was over.
        tail: Its last lines, both outputs together, made safe to show.
    """

    status: int | None
    signal: int | None = None
    timed_out: bool = False
    tail: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """Why it was not a plain end with status 0; empty where it was."""
        if self.timed_out:
            return "its time was over and it was ended"
        if self.signal is not None:
            return f"ended by signal {self.signal}"
        return f"exit status {self.status}" if self.status else ""


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    keep_fds: Sequence[int] = (),
    stop_s: float = 0.0,
) -> Ended:
    """Run it once and return how it ended.

    Args:
        argv: Program first; no shell reads it.
        timeout_s: For the run as a whole.
        env: Added to our own environment, for this program.
        on_line: Called with each line of either output, cut at 4096 bytes.
        keep_fds: Files that it and all its children hold open.
        stop_s: From SIGTERM to SIGKILL when its time is over; 0 kills at once.

    Raises:
        OSError: It cannot be started.
    """
    process = _spawn(argv, env or {}, keep_fds)
    assert process.stdout is not None
    ended = asyncio.Event()
    lines = _Lines(process.stdout, on_line)
    with process.stdout, _watched(process, ended), lines.read():
        in_time = False
        try:
            in_time = await _came(ended, timeout_s)
        finally:
            if not in_time and stop_s and not ended.is_set():
                _tell_group(process, signal.SIGTERM)
                await _came(ended, stop_s)
            # Before it is reaped: until then its number cannot mean anybody else.
            _tell_group(process, signal.SIGKILL)
            if await _came(ended, _KILLED_S):
                process.wait()
        await lines.rest()
    code = process.returncode
    if not in_time or code is None:
        return Ended(None, timed_out=True, tail=lines.tail)
    return Ended(None, -code, tail=lines.tail) if code < 0 else Ended(code, tail=lines.tail)


def _spawn(
    argv: Sequence[str], env: Mapping[str, str], keep_fds: Sequence[int]
) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LB_PROBE_")}
    return subprocess.Popen(  # noqa: S603 - argv is the operator's own configuration, no shell
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment | dict(env),
        pass_fds=tuple(keep_fds),
    )


class _Lines:
    """What a program prints, as lines, at a bounded speed."""

    def __init__(self, pipe: IO[bytes], on_line: Callable[[str], None] | None) -> None:
        self._fd = pipe.fileno()
        self._on_line = on_line
        self._begun = b""
        self._waiting: deque[bytes] = deque()
        self._last: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._pause: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()  # nothing more is there just now
        self._is_over = False

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, safe to show."""
        return tuple(_printable(line) for line in self._last)

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Read while the block lasts."""
        os.set_blocking(self._fd, False)
        self._go_on()
        try:
            yield
        finally:
            if self._pause is not None:
                self._pause.cancel()
            asyncio.get_running_loop().remove_reader(self._fd)
            self._told(self._begun)

    async def rest(self) -> None:
        """Wait until what it said last is read; a child that goes on talking is left alone."""
        if not self._is_over:
            self._idle.clear()
            self._go_on()
            await _came(self._idle, _REST_S)

    def _go_on(self) -> None:
        """Tell some lines, read on where none wait, and take a breath where there is more."""
        if self._pause is not None:
            self._pause.cancel()
        for _ in range(min(len(self._waiting), _LINES_AT_ONCE)):
            self._told(self._waiting.popleft())
        loop = asyncio.get_running_loop()
        taken = None if self._waiting else self._take()
        if self._waiting or taken == _CHUNK:
            loop.remove_reader(self._fd)
            self._pause = loop.call_later(_PAUSE_S, self._go_on)
            return
        if taken:
            self._pause = loop.call_later(0, self._go_on)
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
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return None
        first, *others = chunk.split(b"\n")
        self._begun += first[: _LINE_BYTES - len(self._begun)]
        for part in others:
            self._waiting.append(self._begun)
            self._begun = part[:_LINE_BYTES]
        return len(chunk)

    def _told(self, line: bytes) -> None:
        line = line.rstrip(b"\r")
        if not line:
            return
        self._last.append(line[: 4 * _TAIL_CHARS])
        if self._on_line is not None:
            self._on_line(line.decode("utf-8", "replace"))


def _printable(line: bytes) -> str:
    text = line.decode("utf-8", "replace")[:_TAIL_CHARS]
    return "".join(char if char.isprintable() else "?" for char in text)


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


def _tell_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # PermissionError: the program became another user; it ends by itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
