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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

MAX_OUTPUT_BYTES = 64 * 1024
_CHUNK = 64 * 1024
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


class Program:
    """A program that is run again and again, never beside one that will not end.

    Args:
        argv: Program first; no shell reads it.
        timeout_s: For a run as a whole.
    """

    def __init__(self, argv: Sequence[str], timeout_s: float) -> None:
        self.argv = tuple(argv)
        self._timeout_s = timeout_s
        self._stuck: subprocess.Popen[bytes] | None = None

    async def run(self, environment: Mapping[str, str], text: bytes) -> Ended:
        """Run it once with this environment and this on its standard input.

        Raises:
            OSError: It cannot be started; BlockingIOError where an earlier run has not ended.
        """
        if self._stuck is not None and self._stuck.poll() is None:
            raise BlockingIOError(f"an earlier run (pid {self._stuck.pid}) cannot be ended")
        self._stuck = None
        process = _spawn(self.argv, environment, text)
        assert process.stdout is not None
        assert process.stderr is not None
        ended = asyncio.Event()
        with process.stdout, process.stderr, _watched(process, ended):
            with collected(process.stdout) as out, collected(process.stderr) as err:
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


def _spawn(
    argv: Sequence[str], environment: Mapping[str, str], text: bytes
) -> subprocess.Popen[bytes]:
    # A file and no pipe: a program that reads nothing cannot hold us up.
    with os.fdopen(os.memfd_create("stdin"), "w+b") as given:
        given.write(text)
        given.seek(0)
        return subprocess.Popen(  # noqa: S603 - argv is the operator's own configuration, no shell
            argv,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
def collected(pipe: IO[bytes]) -> Iterator[bytearray]:
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
        return bool(chunk)

    loop.add_reader(fd, read)
    try:
        yield got
    finally:
        loop.remove_reader(fd)
        # What it said last. A child that lives on may hold the pipe open and go on talking.
        while len(got) <= MAX_OUTPUT_BYTES and read():
            pass


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
