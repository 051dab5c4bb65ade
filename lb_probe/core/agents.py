"""What the agents of a pair say to the prober: a second opinion, what they vouch for, what is lost.

An agent never decides for the prober: its word opens the gates `synced` and `same-version` of an
operator's verb, and is shown beside what the probes see. What is old, or was not said, vouches for
nothing (X22).

Source: R28, R55, R98; X7, X8; facts/epmm.md 3.1 (data-loss window).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lb_probe.core.data_lineage import Lineage
from lb_probe.core.model import Group, Mode, Saved
from lb_probe.core.moments import iso
from lb_probe.core.peer_report import PeerReport

MAX_AGE_S = 15.0
LOSS = "data-loss window"  # how every sentence about it begins


@dataclass(frozen=True, slots=True)
class Heard:
    """What one node's agent said last.

    Attributes:
        at: When it was asked, monotonic seconds.
        fault: Why the last question got no answer; empty where it did.
        challenge: What the next word to it is sealed over; empty where it takes none.
    """

    report: PeerReport | None
    at: float
    fault: str = ""
    challenge: str = field(default="", repr=False)


Agents = Mapping[str, Heard]


@dataclass(frozen=True, slots=True)
class Word:
    """What agents say of one gate.

    Attributes:
        passed: They vouch for it.
        text: What they say, or why they do not vouch.
    """

    passed: bool
    text: str


def fresh(agents: Agents, node: str, now: float) -> PeerReport | None:
    """Return what the agent of a node says, unless that is too old to rest on."""
    heard = agents.get(node)
    if heard is None or heard.report is None or now - heard.at > MAX_AGE_S:
        return None
    return heard.report


# ------------------------------------------------------------------ the gates
def words(group: Group, saved: Saved, agents: Agents, now: float) -> Mapping[str, Word]:
    """Return what the agents say of each gate that they may vouch for; nothing without agents."""
    if not agents:
        return {}
    primary = group.primary
    other = group.candidate if saved.assigned in (None, primary) else str(saved.assigned)
    here, there = fresh(agents, primary, now), fresh(agents, other, now)
    silent = [name for name, report in ((primary, here), (other, there)) if report is None]
    if here is None or there is None:
        told = Word(False, f"no fresh word from the agent of {' and of '.join(silent)}")
        return {"synced": told, "same-version": told}
    return {"synced": _synced(saved, here, there), "same-version": _same_version(here, there)}


def _same_version(here: PeerReport, there: PeerReport) -> Word:
    known = bool(here.version) and bool(there.version)
    text = f"{here.node} has {here.version or 'no known version'}"
    text += f", {there.node} has {there.version or 'no known version'}"
    return Word(known and here.version == there.version, text)


def _synced(saved: Saved, here: PeerReport, there: PeerReport) -> Word:
    """Judge whether the Primary copied from the other node after traffic had moved there."""
    if here.is_syncing:
        return Word(False, f"a sync into {here.node} runs")
    if here.data_suspect:
        return Word(False, f"the data of {here.node} is suspect: {here.data_suspect}")
    if here.last_good_sync is None:
        return Word(False, f"{here.node} has never been synced completely")
    began, ended = here.last_good_sync
    text = f"{here.node} was synced completely, {iso(began)} to {iso(ended)}"
    moved_at = _moved_at(saved, there)
    if moved_at is not None and began < moved_at:
        return Word(False, f"{text}, begun before the move at {iso(moved_at)}")
    if not _has_reign(_lineage(here), _lineage(there)):
        return Word(False, f"{text}, but not from {there.node} since that became Primary")
    return Word(True, text)


def _moved_at(saved: Saved, there: PeerReport) -> float | None:
    """Return when traffic moved to the node that has it, UTC seconds; None where nobody knows.

    An ack or a hold is a later change than the move: then it is when that node became Primary.
    """
    change = saved.last_change
    if change is not None and change.target != change.source:
        return change.at_wall
    return there.promoted_at


def _has_reign(here: Lineage, there: Lineage) -> bool:
    """Tell whether the copy here contains something of the other one's time as Primary.

    It still does after it was made Primary itself: then that is what it began from.
    """
    return there.is_known and there.reign in (here.reign, here.fork_reign)


def _lineage(report: PeerReport) -> Lineage:
    fork = report.data_fork or (0.0, 0.0)
    return Lineage(report.data_reign or 0.0, report.data_until or 0.0, *fork)


# ------------------------------------------------------------------ the loss
def loss(group: Group, target: str, agents: Agents, now: float, wall: float) -> str:
    """Say what a move to `target` at this moment leaves behind; empty without an agent there."""
    if target not in agents or target == group.primary:
        return ""
    report = fresh(agents, target, now)
    sync = report.last_good_sync if report is not None else None
    if report is not None and report.data_suspect:
        return f"{LOSS} not known: the data of {target} is suspect: {report.data_suspect}"
    if sync is None:
        return f"{LOSS} not known: nobody says when {target} was last synced"
    window_s = max(0.0, wall - sync[0])
    return (
        f"{LOSS} {_span(window_s)}: {target} was last synced completely from"
        f" {iso(sync[0])} to {iso(sync[1])}; what {group.primary} took in after {iso(sync[0])}"
        " may be missing there"
    )


def left_behind(saved: Saved, agents: Agents, home: str) -> str:
    """Say what the move in force left behind; empty where traffic is at home, or nobody knows.

    Its record says so too, but for a person who moved it past a silent agent. What the agent of
    the node with the traffic said last is enough, however old: a Primary is not synced.

    Args:
        home: The Primary.
    """
    heard = agents.get(saved.assigned or "")
    if saved.assigned == home or heard is None or heard.report is None:
        return ""
    sync, moved_at = heard.report.last_good_sync, _moved_at(saved, heard.report)
    if moved_at is None:
        return ""
    if sync is None:
        return f"{LOSS} not known: nobody says when {saved.assigned} was last synced"
    return (
        f"{LOSS} {_span(max(0.0, moved_at - sync[0]))}: {saved.assigned} was last synced completely"
        f" from {iso(sync[0])} to {iso(sync[1])}, and traffic moved at {iso(moved_at)}; what {home}"
        " took in between may be missing there"
    )


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


# ------------------------------------------------------------------ what is shown
_THEN = {
    "keep-in-standby": "stays in Standby then",
    "flip-then-promote": "promotes itself once traffic is here",
    "promote-by-itself": "then promotes itself, wherever the traffic is",
}
_HEARTBEAT = {
    "ok": "reaches {peer}",
    "failing": "begins to lose {peer}",
    "failed": "does not reach {peer}",
    "off": "is off",
    "waiting": "has not asked yet",
}


def lines(group: Group, agents: Agents, now: float) -> list[str]:
    """Return a line for each agent: its heartbeat's opinion, its mode, its last good sync."""
    return [_line(group, name, agents[name], now) for name in group.names if name in agents]


def _line(group: Group, name: str, heard: Heard, now: float) -> str:
    report = heard.report
    if report is None:
        return f"{name}: has not been heard; {heard.fault or 'not asked yet'}"
    age_s = now - heard.at
    said = [f"{age_s:.0f}s ago" if age_s <= MAX_AGE_S else f"OLD, {age_s:.0f}s ago"]
    said.append(f"{report.state or 'unknown'} (mode {_mode(report)})")
    if report.quarantine:
        said.append(f"quarantined: {report.quarantine}")
    if report.takes_clients is False:
        said.append("TURNS NEW CLIENTS AWAY")
    if report.heartbeat:
        peer = next((n for n in (group.primary, group.candidate) if n != name), "its peer")
        said.append(f"heartbeat {_HEARTBEAT.get(report.heartbeat, 'is odd').format(peer=peer)}")
    if report.mode is Mode.STANDBY and report.then in _THEN:
        said.append(_THEN[report.then])
    if report.data_suspect:
        said.append(f"data suspect: {report.data_suspect}")
    elif report.last_good_sync:
        said.append(f"last good sync {iso(report.last_good_sync[1])}")
    if report.version:
        said.append(f"version {report.version}")
    if heard.fault:
        said.append(heard.fault)
    return f"{name}: {', '.join(said)}"


def _mode(report: PeerReport) -> str:
    return report.mode.value if isinstance(report.mode, Mode) else "unknown"


def turned_away(assigned: str | None, agents: Agents, now: float) -> str:
    """Say that the node with the traffic lets no new clients in; empty where it does (R123)."""
    report = fresh(agents, assigned or "", now)
    if report is None or report.takes_clients is not False:
        return ""
    return (
        f"{assigned} has the traffic and turns new clients away; when that is over:"
        f" lb-probe agent failover client-connection enable --node {assigned}"
    )


def as_json(group: Group, agents: Agents, now: float) -> list[dict[str, object]]:
    """Return what every agent said, as the API shows it."""
    shown: list[dict[str, object]] = []
    for name in group.names:
        heard = agents.get(name)
        if heard is None:
            continue
        document = heard.report.document() if heard.report is not None else {"node": name}
        document.pop("version_of_report", None)
        shown.append(document | {"age_s": round(now - heard.at, 3), "fault": heard.fault})
    return shown
