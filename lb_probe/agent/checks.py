"""The checks behind the pages: is the application on this node well, and how old is that answer.

Each check runs by itself at its own interval, under its own deadline, and never beside itself.
A check that fails is a value with a sentence; none of them can end the agent.
"""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lb_probe.core.model import Page
from lb_probe.ports import Clock

if TYPE_CHECKING:
    from aiohttp import ClientSession

BOTH_PAGES = frozenset(Page)
_BODY_CAP = 64 * 1024
_DETAIL_CHARS = 200


# ------------------------------------------------------------------ what is configured
@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a check runs and how its runs become a verdict.

    Attributes:
        interval_s: Seconds from the start of one run to the start of the next; a run that takes
            longer is followed by the next at once.
        timeout_s: Deadline of one whole run in seconds.
        fall: Failed runs in a row before a passing check counts as failing.
        rise: Passed runs in a row before a failing check counts as passing.
        max_age_s: Oldest usable verdict in seconds, counted from the start of its run; exactly
            this old is fresh. Less than `interval_s + timeout_s` goes stale between two slow runs.
        pages: The pages it decides; both unless an application does not run on a Standby.
    """

    interval_s: float = 1.0
    timeout_s: float = 1.0
    fall: int = 3
    rise: int = 2
    max_age_s: float = 3.0
    pages: frozenset[Page] = field(default=BOTH_PAGES)

    def __post_init__(self) -> None:
        for name in ("interval_s", "timeout_s", "max_age_s"):
            seconds = getattr(self, name)
            if not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"{name} is {seconds}; use a number above 0")
        if self.fall < 1 or self.rise < 1:
            raise ValueError(f"fall is {self.fall}, rise is {self.rise}; use 1 or more")


@dataclass(frozen=True, slots=True)
class HttpCheck(Pace):
    """GET this URL on a fresh connection; redirects are not followed.

    Attributes:
        expect: Text that must be in the first 64 KiB of the body; None does not read it.
    """

    name: str
    url: str
    expect_status: int = 200
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class TcpCheck(Pace):
    """Connect to this port; nothing is sent."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class CommandCheck(Pace):
    """Run this program without a shell; exit status 0 passes, its output is thrown away.

    It gets a session and process group of its own, and the whole group is killed when the program
    ends or its deadline passes. A child that makes another session for itself is not followed.
    """

    name: str
    argv: tuple[str, ...]


Check = HttpCheck | TcpCheck | CommandCheck


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check says now.

    Attributes:
        passing: None before the first run has ended.
        age_s: Seconds since the run behind it began; None before the first.
        is_stale: Older than the check's limit: counts as failing whatever `passing` says.
        detail: What the last run found; empty when all is plain.
    """

    name: str
    passing: bool | None
    age_s: float | None
    is_stale: bool
    detail: str
    pages: frozenset[Page]


# ------------------------------------------------------------------ runs become a verdict
class _Record:
    """One check's runs so far."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.passing: bool | None = None
        self.detail = ""
        self._started_at: float | None = None
        self._last: bool | None = None
        self._streak = 0

    def fold(self, failure: str | None, started_at: float) -> None:
        """Take one run: None passed, a sentence failed. The first run decides alone."""
        passed = failure is None
        self._streak = self._streak + 1 if passed is self._last else 1
        self._last = passed
        self._started_at = started_at
        needed = self.check.rise if passed else self.check.fall
        if self.passing is None or self._streak >= needed:
            self.passing = passed
        self.detail = failure or ""
        if passed and not self.passing:
            self.detail = f"passed {self._streak} of {needed} times in a row"

    def fresh_until(self) -> float:
        if self._started_at is None:
            return -math.inf
        return self._started_at + self.check.max_age_s

    def verdict(self, now: float) -> Verdict:
        began = self._started_at
        return Verdict(
            name=self.check.name,
            passing=self.passing,
            age_s=None if began is None else max(0.0, now - began),
            is_stale=began is not None and now > self.fresh_until(),
            detail=self.detail,
            pages=self.check.pages,
        )

    def complaint(self, now: float) -> str | None:
        """Say why this check stands in the way; None when it does not."""
        verdict = self.verdict(now)
        if verdict.age_s is None:
            return f"check {verdict.name}: no verdict yet"
        if verdict.is_stale:
            limit = self.check.max_age_s
            return f"check {verdict.name}: last run is {verdict.age_s:.1f}s old, limit {limit:g}s"
        if not verdict.passing:
            return f"check {verdict.name}: {verdict.detail}"
        return None


class Checks:
    """All checks of one node. Without any, a node is well while its agent runs."""

    def __init__(self, checks: Iterable[Check], clock: Clock) -> None:
        """Prepare them; `run` runs them.

        Raises:
            ValueError: Two checks have one name.
        """
        self._records = [_Record(check) for check in checks]
        names = [record.check.name for record in self._records]
        if len(set(names)) != len(names):
            raise ValueError(f"checks {', '.join(names)} share a name; give each its own")
        self._clock = clock

    async def run(self) -> None:
        """Run every check at its interval until cancelled; then no process of theirs is left."""
        async with contextlib.AsyncExitStack() as stack:
            session: ClientSession | None = None
            if any(isinstance(record.check, HttpCheck) for record in self._records):
                session = await stack.enter_async_context(_http_session())
            async with asyncio.TaskGroup() as tasks:
                for record in self._records:
                    tasks.create_task(self._repeat(record, session), name=record.check.name)
                await asyncio.Event().wait()  # without checks too: a part that ends has failed

    def healthy(self, page: Page, now: float) -> tuple[bool, list[str]]:
        """Tell whether the checks of this page pass and are fresh, and what stands in the way."""
        complaints = (record.complaint(now) for record in self._of(page))
        reasons = [reason for reason in complaints if reason is not None]
        return not reasons, reasons

    def fresh_until(self, page: Page) -> float:
        """Return the last moment (monotonic seconds) at which none of its verdicts is stale."""
        return min((record.fresh_until() for record in self._of(page)), default=math.inf)

    def verdicts(self, now: float) -> list[Verdict]:
        """Return what every check says, in the order of the configuration."""
        return [record.verdict(now) for record in self._records]

    def _of(self, page: Page) -> Iterator[_Record]:
        return (record for record in self._records if page in record.check.pages)

    async def _repeat(self, record: _Record, session: "ClientSession | None") -> None:
        while True:
            started_at = self._clock.monotonic()
            failure = await _attempt(record.check, session)
            record.fold(failure, started_at)
            due = started_at + record.check.interval_s
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))


# ------------------------------------------------------------------ one run
async def _attempt(check: Check, session: "ClientSession | None") -> str | None:
    """Run once; None passed, a sentence failed."""
    try:
        if isinstance(check, CommandCheck):
            return await _run_command(check)
        async with asyncio.timeout(check.timeout_s):
            if isinstance(check, TcpCheck):
                return await _run_tcp(check)
            assert session is not None
            return await _run_http(check, session)
    except TimeoutError:
        return f"no answer within {check.timeout_s:g}s"
    except Exception as error:  # a check is somebody else's world: whatever it does, it failed
        return _printable(f"{type(error).__name__}: {error}")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:_DETAIL_CHARS])


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


async def _run_http(check: HttpCheck, session: "ClientSession") -> str | None:
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


async def _run_command(check: CommandCheck) -> str | None:
    process = _spawn(check.argv)
    ended = asyncio.Event()
    with _watch(process, ended):
        try:
            async with asyncio.timeout(check.timeout_s):
                await ended.wait()
        except TimeoutError:
            return f"did not end within {check.timeout_s:g}s and was killed"
        finally:
            # Before the program is reaped: until then its number cannot mean anybody else.
            _kill_group(process)
            # A program that cannot be killed keeps its check here, which then goes stale.
            await ended.wait()
            status = _reap(process)
    if status < 0:
        return f"ended by signal {-status}"
    return f"found exit status {status}; wanted 0" if status else None


def _spawn(argv: tuple[str, ...]) -> subprocess.Popen[bytes]:
    # Our own settings may hold a token; a check has no use for them.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LB_PROBE_")}
    return subprocess.Popen(  # noqa: S603 - argv is the operator's own configuration, no shell
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )


@contextlib.contextmanager
def _watch(process: subprocess.Popen[bytes], ended: asyncio.Event) -> Iterator[None]:
    """Set `ended` when the program has ended and is not yet reaped."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        _kill_group(process)
        _reap(process)
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


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # PermissionError: the program became another user; it ends by itself or its check goes stale.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[bytes]) -> int:
    return process.wait()
