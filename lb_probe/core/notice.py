"""What people are told: the classes of events, and one message before it has a form.

A `Notice` is composed once, when the thing happens, and stays as it is however often it has to be
sent; `events.outbox` brings it to the channels. Its `key` names it for ever: the same thing told
again, by a process that was killed in between, has the same key and is told once.

Source: R93-R97; STYLE ("a message says what was found, what was wanted, what to do next").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

TITLE_CHARS = 200
TEXT_CHARS = 2000


class Severity(Enum):
    """Whether somebody is to be woken."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class Stage(Enum):
    """What a notice does to its alarm: what is open stays open until something says it is over."""

    OPEN = "open"
    SEEN = "seen"
    OVER = "over"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class EventClass:
    """One class of events, by which channels choose.

    Attributes:
        about: What it tells, for the docs and for `check`.
        runbook: Heading of `docs/runbook.md` where a notice names none of its own.
        by: Who tells it: prober or agent.
    """

    name: str
    severity: Severity
    about: str
    runbook: str = ""
    by: str = "prober"


_C, _W, _I = Severity.CRITICAL, Severity.WARNING, Severity.INFO

# fmt: off
_ROWS = (
    # Of the prober: R97's FAILED_OVER, BLOCKED_*, NOT_PROMOTED, PRIMARY_RETURNED, DUAL_PRIMARY, ...
    EventClass("failed-over",        _C, "traffic was moved off a node, by itself or by an operator", "failed-over"),
    EventClass("blocked",            _C, "the Primary failed and nothing moves; or nobody has the traffic", "primary-down-and-nothing-moves"),
    EventClass("not-serving",        _C, "the node with the traffic does not serve", "not-serving"),
    EventClass("prober",             _C, "the prober was down, is cut off, or cannot save", "prober-absent"),
    EventClass("primary-returned",   _W, "the Primary is well again and traffic is elsewhere", "primary-returned"),
    EventClass("dual-primary",       _W, "both nodes say Primary, or roles were swapped without us", "dual-primary"),
    EventClass("unprotected",        _W, "no node stands by", "unprotected"),
    EventClass("node-out",           _W, "active-active: a node was taken out or put in", "some-out"),
    EventClass("drift",              _W, "a load balancer does not do what it should", "load-balancer-out-of-sync"),
    EventClass("hold-expiring",      _W, "a hold is nearly due, or due and still on", "hold-expiring"),
    EventClass("latched-reminder",   _W, "traffic is still off the Primary", "latched-for-long"),
    EventClass("certificate",        _W, "a node's certificate expires soon", "certificate-expiring"),
    EventClass("resumed",            _I, "traffic is back on the Primary, or roles were swapped"),
    EventClass("acknowledged",       _I, "somebody has seen it"),
    EventClass("hold",               _I, "a hold began or ended", "hold-expiring"),
    # Of an agent: R97's SYNC_*, RPO_EXCEEDED, CLOCK, VERSION, TRUST; R95's "becomes primary".
    EventClass("promoted",           _C, "a node made itself, or was made, Primary", by="agent"),
    EventClass("heartbeat",          _C, "the Secondary does not reach the Primary", by="agent"),
    EventClass("quarantined",        _W, "a node came back and is kept out until somebody decides", by="agent"),
    EventClass("sync-failed",        _W, "a synchronization failed, or was left out", by="agent"),
    EventClass("rpo-exceeded",       _W, "the last good synchronization is too old", by="agent"),
    EventClass("clock",              _W, "the clocks of two nodes differ", by="agent"),
    EventClass("version",            _W, "the software versions of two nodes differ", by="agent"),
    EventClass("trust",              _W, "two nodes do not reach or do not trust each other", by="agent"),
    EventClass("parity",             _W, "two nodes differ in what they have or reach", by="agent"),
    EventClass("client-connections", _I, "client connections of a node were disabled or enabled", by="agent"),
    EventClass("sync-completed",     _I, "a synchronization completed", by="agent"),
    EventClass("test",               _I, "`lb-probe notify test`; every channel takes it"),
)
# fmt: on
CLASSES: Mapping[str, EventClass] = {row.name: row for row in _ROWS}
# What a channel tells where the file does not say: everything but what comes every hour (R94).
USUAL: tuple[str, ...] = tuple(name for name in CLASSES if name not in ("sync-completed", "test"))


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell people. Only `key`, `event_class`, `title` and `at_wall` must be given.

    Attributes:
        key: Names it for ever; a second one with the same key is not told.
        event_class: A name of `CLASSES`.
        title: What happened, one line that begins with the group or node.
        at_wall: When it happened, UTC seconds since 1970.
        stage: What it does to `alarm`.
        alarm: What stays open until it is over, the same text from OPEN to OVER; empty for NOTE.
        replaces: The alarm that ends because this one began: it got worse.
        severity: Where it differs from its class's own.
        group: Notices of one group reach a channel in their order; empty for the whole process.
        node: The node it is about, where it is about one.
        why: What it rests on.
        now: What is the case now: who has the traffic, who serves.
        safe: What can be left until morning, and what must not be done.
        do: What to do next, with the lines to type.
        runbook: Heading of `docs/runbook.md`; its class's own when empty.
    """

    key: str
    event_class: str
    title: str
    at_wall: float
    stage: Stage = Stage.NOTE
    alarm: str = ""
    replaces: str = ""
    severity: Severity | None = None
    group: str = ""
    node: str = ""
    why: str = ""
    now: str = ""
    safe: str = ""
    do: str = ""
    runbook: str = ""

    @property
    def gravity(self) -> Severity:
        """How grave it is; what is over, or was seen, wakes nobody."""
        return Severity.INFO if self.stage in (Stage.OVER, Stage.SEEN) else self.weight

    @property
    def weight(self) -> Severity:
        """How grave what it is about is, or was: who heard of it hears of its end."""
        return self.severity or CLASSES[self.event_class].severity

    @property
    def heading(self) -> str:
        """Where the runbook says more; empty where it has nothing."""
        return self.runbook or CLASSES[self.event_class].runbook


def one_line(text: str, chars: int = TITLE_CHARS) -> str:
    r"""Return a text as one printable line of at most so many characters.

    Names and reasons are other people's words: no header and no line may begin in one.

    >>> one_line("epmm\r\nBcc: eve@example.com\x1b[31m", 24)
    'epmm Bcc: eve@example...'
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= chars else f"{plain[: chars - 3]}..."


def said(wall: float) -> str:
    """Return UTC seconds since 1970 as people read them in a message.

    >>> said(0.0)
    '1970-01-01 00:00:00 UTC'
    """
    return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M:%S} UTC"


def lines_of(notice: Notice, link: str = "") -> list[str]:
    """Return the message under its title, one part a line, in the order of the questions asked.

    Args:
        link: Where the runbook says more.
    """
    parts = (
        ("When", said(notice.at_wall)),
        ("Why", notice.why),
        ("Now", notice.now),
        ("Safe", notice.safe),
        ("Do", notice.do),
        ("More", link),
    )
    return [f"{name + ':':<6}{one_line(text, TEXT_CHARS)}" for name, text in parts if text]
