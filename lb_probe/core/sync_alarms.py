"""What about a node's replication an operator has to look at, in the order of urgency.

An alarm stands until its cause is gone; `sync ack` ends only those that tell of a run (R16). Old
data is an alarm whether a schedule runs or not: a schedule that is off by mistake is how data grows
old unseen.

Source: guide lines 76-78, 328, 421; R16, R18, R24, R92, R121; facts/epmm.md 8 and 9.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lb_probe.core.model import Mode
from lb_probe.core.sync_advice import Advice
from lb_probe.core.sync_schedule import ALARM_AFTER_SKIPS, spell, spell_span

OVERDUE_TIMES = 2.0  # Run Every, where nothing else is configured


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFacts:
    """What is known of a node's replication.

    Attributes:
        now: UTC seconds since 1970, as are all moments.
        suspect: Why the data cannot be trusted; empty while it can.
        data_until: Up to when the data contains what its source had; 0 where nobody knows.
        overdue_s: Data older than this is an alarm; None where nothing says.
        bad: The newest run that was not good and that no good one followed: its result, its
            sentence and the gates that kept it back. None where there is none, or it was acked.
        skips: Slots skipped since a run last fitted.
        stopped: Why the schedule does not run though HA is on; empty while it does.
        unrecordable: Why runs cannot be put on record; empty while they can.
    """

    mode: Mode
    now: float
    suspect: str = ""
    data_until: float = 0.0
    overdue_s: float | None = None
    bad: tuple[str, str, tuple[str, ...]] | None = None
    skips: int = 0
    stopped: str = ""
    unrecordable: str = ""
    advice: Advice | None = None


def _data_suspect(facts: SyncFacts) -> str:
    return facts.suspect


def _overdue(facts: SyncFacts) -> str:
    if facts.mode is not Mode.STANDBY or facts.overdue_s is None or not facts.data_until:
        return ""
    age = facts.now - facts.data_until
    if age <= facts.overdue_s:
        return ""
    return (
        f"the data is as of {spell(facts.data_until)}, {spell_span(age)} old;"
        f" wanted at most {spell_span(facts.overdue_s)}"
    )


def _version_mismatch(facts: SyncFacts) -> str:
    if facts.bad is None or "same-version" not in facts.bad[2]:
        return ""
    return facts.bad[1]


def _failed(facts: SyncFacts) -> str:
    if facts.bad is None or "same-version" in facts.bad[2]:
        return ""
    result, detail, _ = facts.bad
    return f"{result}: {detail}"


def _overlap(facts: SyncFacts) -> str:
    if facts.skips < ALARM_AFTER_SKIPS:
        return ""
    return f"{facts.skips} slots were skipped because a sync still ran; make Run Every longer"


def _stopped(facts: SyncFacts) -> str:
    return facts.stopped


def _unrecordable(facts: SyncFacts) -> str:
    return facts.unrecordable


def _tight(facts: SyncFacts) -> str:
    return facts.advice.text if facts.advice is not None and facts.advice.is_tight else ""


ALARMS: Mapping[str, Callable[[SyncFacts], str]] = {
    "data-suspect": _data_suspect,
    "sync-overdue": _overdue,
    "version-mismatch": _version_mismatch,
    "sync-failed": _failed,
    "sync-overlap": _overlap,
    "scheduler-stopped": _stopped,
    "sync-unrecordable": _unrecordable,
    "sync-tight": _tight,
}


def raised(facts: SyncFacts) -> dict[str, str]:
    """Return every alarm that stands, with a sentence each.

    >>> raised(SyncFacts(mode=Mode.STANDBY, now=9000.0, data_until=600.0, overdue_s=7200.0))
    {'sync-overdue': 'the data is as of 1970-01-01 00:10Z, 2h 20min old; wanted at most 2h'}
    """
    found = ((name, alarm(facts)) for name, alarm in ALARMS.items())
    return {name: text for name, text in found if text}
