"""When something is told: once when it begins, once when it is over, and not each time it flickers.

What is the matter now (`Matter`) is compared with what was told (`Told`). Both are values; what was
told is kept on disk with the messages, so a prober that starts again does not say it again. Bad
news waits only for its own `settle_s`. Good news waits longer the more often it turned out wrong.

Source: R97; REQUIREMENTS "quiet duplicates"; DESIGN section 1 (values in, values out).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lb_probe.core.notice import CLASSES, Notice, Severity, Stage

CALM_S = 60.0  # something must be over for so long before that is told
LONGEST_CALM_S = 3600.0
FORGET_S = 3600.0  # what has been over for so long begins anew, as if it had never been
_GRAVITY = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


@dataclass(frozen=True, slots=True)
class Matter:
    """Something that is the matter now.

    Attributes:
        topic: What it is about; of one topic one thing is told at a time.
        word: What exactly; another word is news.
        settle_s: Seconds it must last before it is told.
        is_meant: Somebody's work looks like this: no news, but no end of what was told either.
        ended: The title once it is over.
        title: The rest is as in `Notice`.
    """

    topic: str
    word: str
    event_class: str
    title: str
    settle_s: float = 0.0
    is_meant: bool = False
    ended: str = ""
    severity: Severity | None = None
    node: str = ""
    why: str = ""
    now: str = ""
    safe: str = ""
    do: str = ""
    runbook: str = ""

    @property
    def gravity(self) -> Severity:
        """How grave it is."""
        return self.severity or CLASSES[self.event_class].severity


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that was told and is not over.

    Attributes:
        key: Names it to channels that keep track (`Notice.alarm`).
        notices: How often it was told.
        ended: The title once it is over.
    """

    key: str
    word: str
    event_class: str
    severity: Severity
    at_wall: float
    notices: int = 1
    ended: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a topic that is over.

    Attributes:
        opened: How many alarms it ever had; numbers the next one.
        returns: How often it came back soon after it was over.
    """

    opened: int = 0
    returns: int = 0
    over_wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """What people know of one group; kept on disk.

    Attributes:
        reminded_wall: When somebody was last told that traffic is off the Primary.
        is_awaited: A move was told, and not yet that the node serves.
    """

    alarms: Mapping[str, Alarm] = field(default_factory=dict)
    past: Mapping[str, Past] = field(default_factory=dict)
    reminded_wall: float = 0.0
    is_awaited: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks, and who speaks.

    Attributes:
        teller: Begins every key: one word for this prober's store, the same for ever.
        group: Empty for the process as a whole.
    """

    now: float
    wall: float
    teller: str
    group: str = ""


Pending = Mapping[str, tuple[str, float]]  # topic: what it turns into, and since when (monotonic)


def judge(
    told: Told, pending: Pending, matters: Sequence[Matter], at: Moment, kept: frozenset[str]
) -> tuple[Told, Pending, list[Notice]]:
    """Compare what is the matter with what was told.

    Args:
        pending: What the last call returned; empty after a start.
        kept: Topics that nothing here ends now: they are begun and ended by what is on record, or
            nobody knows whether they are over.

    Returns:
        What is known then, what waits to be told, and what is to be told now.
    """
    waits: dict[str, tuple[str, float]] = {}
    notices: list[Notice] = []
    known = {topic: alarm.word for topic, alarm in told.alarms.items()}
    found = {m.topic: m for m in matters if not m.is_meant or known.get(m.topic) == m.word}
    for topic in [*found, *(t for t in told.alarms if t not in found and t not in kept)]:
        matter, alarm = found.get(topic), told.alarms.get(topic)
        if matter is not None and alarm is not None and alarm.word == matter.word:
            continue
        word = matter.word if matter else ""
        before = pending.get(topic)
        since = before[1] if before is not None and before[0] == word else at.now
        if at.now - since < _patience_s(told, topic, matter):
            waits[topic] = word, since
        elif matter is not None:
            told, notice = opened(told, matter, at)
            notices.append(notice)
        else:
            told, notice = closed(told, topic, at)
            notices.append(notice)
    return told, waits, notices


def _patience_s(told: Told, topic: str, matter: Matter | None) -> float:
    """Return the seconds for which a change must last before it is told."""
    past, alarm = told.past.get(topic, Past()), told.alarms.get(topic)
    calm_s = min(CALM_S * 2.0 ** min(past.returns, 10), LONGEST_CALM_S)
    if matter is None:
        return calm_s
    if alarm is not None and _GRAVITY[matter.gravity] <= _GRAVITY[alarm.severity]:
        return max(matter.settle_s, CALM_S / 4)  # somebody is awake already
    return matter.settle_s


def opened(told: Told, matter: Matter, at: Moment) -> tuple[Told, Notice]:
    """Tell that something is the matter; a graver class is a new alarm, which wakes again."""
    topic, alarm = matter.topic, told.alarms.get(matter.topic)
    past = told.past.get(topic, Past())
    replaces = ""
    if alarm is not None and alarm.event_class == matter.event_class:
        notices = alarm.notices + 1
        alarm = replace(alarm, word=matter.word, ended=matter.ended, notices=notices)
    else:
        replaces = alarm.key if alarm is not None else ""
        soon = at.wall - past.over_wall < FORGET_S and past.opened > 0
        past = replace(past, opened=past.opened + 1, returns=past.returns + 1 if soon else 0)
        alarm = Alarm(
            key="/".join((at.teller, at.group, topic, str(past.opened))),
            word=matter.word,
            event_class=matter.event_class,
            severity=matter.gravity,
            at_wall=at.wall,
            ended=matter.ended,
            node=matter.node,
        )
    notice = Notice(
        key=f"{alarm.key}/{alarm.notices}",
        event_class=matter.event_class,
        title=matter.title,
        at_wall=at.wall,
        stage=Stage.OPEN,
        alarm=alarm.key,
        replaces=replaces,
        severity=matter.severity,
        group=at.group,
        node=matter.node,
        why=matter.why,
        now=matter.now,
        safe=matter.safe,
        do=matter.do,
        runbook=matter.runbook,
    )
    told = replace(told, alarms={**told.alarms, topic: alarm}, past={**told.past, topic: past})
    return told, notice


def closed(
    told: Told, topic: str, at: Moment, *, title: str = "", why: str = "", event_class: str = ""
) -> tuple[Told, Notice]:
    """Tell that something is over.

    Args:
        title: What is told instead of what the alarm foresaw.
        event_class: Who is told, where that is not the alarm's own class.
    """
    alarm = told.alarms[topic]
    past = replace(told.past.get(topic, Past()), over_wall=at.wall)
    notice = Notice(
        key=f"{alarm.key}/over",
        event_class=event_class or alarm.event_class,
        title=title or alarm.ended or f"{at.group or at.teller}: over: {alarm.word}",
        at_wall=at.wall,
        stage=Stage.OVER,
        alarm=alarm.key,
        severity=alarm.severity,
        group=at.group,
        node=alarm.node,
        why=why,
    )
    alarms = {name: other for name, other in told.alarms.items() if name != topic}
    return replace(told, alarms=alarms, past={**told.past, topic: past}), notice
