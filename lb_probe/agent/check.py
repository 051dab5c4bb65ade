"""What a check of a node is, and what it says: values only."""

import math
from dataclasses import dataclass, field

from lb_probe.core.model import Page

BOTH_PAGES = frozenset(Page)


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
        pages: The pages it decides; both unless an application does not run on a Standby. None
            of them makes a check informative: it is shown, and decides nothing.
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

    `lb_probe.program` says what becomes of its children.
    """

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SystemdCheck(Pace):
    """Ask systemd for the state of this unit; `active` passes, and so does a reload."""

    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class DiskCheck(Pace):
    """Look at the file system that holds this path: room, inodes, and whether it takes writes.

    Attributes:
        min_free_percent: Least room left for us, of all there is for us.
        min_free_bytes: Least room in bytes; both must hold.
    """

    name: str
    path: str
    min_free_percent: float = 0.0
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ProcessCheck(Pace):
    """Count the processes of this program; a dead one that nobody reaped is none.

    Attributes:
        program: The file name of the executable, or of the first word of the command line.
        user: Whose processes count; None for everybody's.
    """

    name: str
    program: str
    at_least: int = 1
    user: str | None = None


Check = HttpCheck | TcpCheck | CommandCheck | SystemdCheck | DiskCheck | ProcessCheck


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
