"""The gates of a sync: each judges one condition, all are told at once (X5).

`GATES` says which kind of run asks what: `manual` is an operator's command, `schedule` runs with
nobody there. An operator opens a gate by name where that can be right; the rest open to nobody, and
name the line that helps instead. Nothing that is unknown passes (X22).

Source: guide lines 316-323, 381-393, 422; R12, R18, R66, R69, R71, R83, R87, R92, R121, R122.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lb_probe.core.data_lineage import Lineage, Order, Verdict, compare
from lb_probe.core.model import Gate, Mode
from lb_probe.core.peer_report import PeerReport
from lb_probe.core.sync_schedule import spell

Kind = Literal["manual", "schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncWorld:
    """Everything a gate of a sync may look at.

    Attributes:
        node: The node that would be written over.
        peer: The one it copies from, by configuration.
        source: The one that was asked for.
        addresses: What else the peer may be called.
        mode: The node's own.
        holds_traffic: Whether clients are believed to be sent here; None for nobody says.
        silent_s: How long ago the prober said that and fell silent; None while it speaks.
        lineage: What its data contains.
        running: The run that is under way, or what an older one left; empty where none is.
        unrecordable: Why a run could not be put on record; empty where it can.
        report: What the peer says of itself; None where it cannot be had.
        why_not: Why it cannot be had.
        version: The application's release here; empty where it cannot be told.
        version_fault: Why it cannot be told.
        ha_on: Whether HA is enabled.
        good_by_hand: Whether a manual run has succeeded since this node was last Primary.
        salvages: There is a command that saves what is about to be lost.
        scheduler_stopped: Why the schedule does not run though HA is on; empty while it does.
    """

    node: str
    peer: str
    source: str
    addresses: tuple[str, ...] = ()
    mode: Mode
    holds_traffic: bool | None = None
    silent_s: float | None = None
    lineage: Lineage
    running: str = ""
    unrecordable: str = ""
    report: PeerReport | None
    why_not: str = ""
    version: str
    version_fault: str = ""
    ha_on: bool = True
    good_by_hand: bool = True
    salvages: bool = False
    scheduler_stopped: str = ""


def _line(world: SyncWorld, words: str) -> str:
    return f"lb-probe agent {words} --node {world.node} --reason '...'"


# ------------------------------------------------------------------ this node
def _standby(world: SyncWorld) -> Gate:
    passed = world.mode is Mode.STANDBY
    found = f"{world.node} is in mode {world.mode.value}"
    wanted = "a Standby: only a Standby copies (R66)"
    return Gate("standby", passed, found, wanted, "", _line(world, "failover mode secondary"))


def _no_traffic(world: SyncWorld) -> Gate:
    found = {
        True: f"clients are sent to {world.node}",
        False: f"no clients are sent to {world.node}",
        None: "nobody says that clients are sent here",
    }[world.holds_traffic]
    wanted = "a node without traffic: what clients write here would be lost (R122)"
    if world.holds_traffic and world.silent_s is not None:
        # Nobody can say better any more: a person may.
        found += f", as the prober said {world.silent_s:.0f}s ago; it is silent since"
        return Gate("no-traffic", False, found, wanted)
    return Gate("no-traffic", not world.holds_traffic, found, wanted, "", "")


def _alone(world: SyncWorld) -> Gate:
    line = f"lb-probe agent sync history --node {world.node}"
    return Gate("alone", not world.running, world.running or "no run is under way", "", "", line)


def _on_record(world: SyncWorld) -> Gate:
    found = world.unrecordable or "runs can be put on record"
    return Gate("on-record", not world.unrecordable, found, "a history that takes it", "", "")


def _known_source(world: SyncWorld) -> Gate:
    known = (world.peer, *world.addresses)
    found = f"asked to copy from {world.source}"
    wanted = f"the trusted peer of {world.node}: {' or '.join(known)}"
    line = _line(world, f"failover sync {world.peer}")
    return Gate("known-source", world.source in known, found, wanted, "", line)


# ------------------------------------------------------------------ the node it copies from
def _peer_answers(world: SyncWorld) -> Gate:
    report, peer = world.report, world.peer
    found = world.why_not or f"{peer} answers"
    if report is not None and report.node != peer:
        found = f"{report.node} answers in the place of {peer}"
    passed = report is not None and report.node == peer
    line = f"lb-probe agent test-connection --node {world.node}"
    return Gate("peer-answers", passed, found, f"an answer of the agent of {peer}", "", line)


def _source_has_data(world: SyncWorld) -> Gate:
    report, peer = world.report, world.peer
    wanted = f"{peer} with good data: a Primary, or a Standby whose last sync was good"
    if report is None or report.mode is None:
        return Gate("source-has-data", False, f"nothing is known of {peer}", wanted)
    found = f"{peer} is in mode {report.mode.value}"
    if report.quarantine:
        return Gate("source-has-data", False, f"{peer} is quarantined: {report.quarantine}", wanted)
    if report.mode is Mode.PRIMARY:
        return Gate("source-has-data", True, found, wanted)
    if report.data_suspect or report.data_suspect is None:
        doubt = report.data_suspect or "nobody says whether its data is whole"
        return Gate("source-has-data", False, f"{found}; {doubt}", wanted)
    has = report.last_good_sync is not None
    found += "; its last sync was good" if has else "; it has had no good sync"
    return Gate("source-has-data", has, found, wanted)


def _source_at_rest(world: SyncWorld) -> Gate:
    report, peer = world.report, world.peer
    busy = report.is_syncing if report is not None else None
    found = {
        True: f"{peer} is being written to by a sync of its own",
        False: f"no sync into {peer} is under way",
        None: f"nobody says whether {peer} is being written to",
    }[busy]
    return Gate("source-at-rest", busy is False, found, f"no sync into {peer} under way (R38)")


def _same_version(world: SyncWorld) -> Gate:
    there = world.report.version if world.report is not None else None
    here = world.version
    found = f"{world.node} has {here or 'no known version'}"
    if world.version_fault:
        found += f" ({world.version_fault})"
    found += f", {world.peer} has {there or 'no known version'}"
    wanted = "the same software version on both (R92)"
    line = f"lb-probe agent status --node {world.node}"
    return Gate("same-version", bool(here) and here == there, found, wanted, "", line)


# ------------------------------------------------------------------ the direction
def lineage_of(report: PeerReport) -> Lineage:
    """Return what a peer says that its data contains."""
    fork = report.data_fork or (0.0, 0.0)
    return Lineage(report.data_reign or 0.0, report.data_until or 0.0, *fork)


def judged(here: Lineage, report: PeerReport | None) -> Verdict:
    """Judge whether the data of a peer may replace the one here."""
    if report is None:
        return Verdict(Order.UNKNOWN)
    return compare(here, lineage_of(report), there_reigns=report.mode is Mode.PRIMARY)


def _not_newer_here(world: SyncWorld) -> Gate:
    there = lineage_of(world.report) if world.report is not None else Lineage()
    order = judged(world.lineage, world.report).order
    found = {
        Order.OLDER: f"the data of {world.node} is no newer than that of {world.peer}",
        Order.NEWER: f"{world.node} has newer data ({_told(world.lineage)}) than {world.peer}"
        f" ({_told(there)})",
        Order.UNKNOWN: f"nobody says how old the data of {world.peer} is",
    }[order]
    wanted = f"data at {world.peer} that is newer than here (R122)"
    return Gate("not-newer-here", order is Order.OLDER, found, wanted)


def _told(lineage: Lineage) -> str:
    return f"of the time as Primary from {spell(lineage.reign)}, until {spell(lineage.until)}"


def loss(world: SyncWorld) -> str:
    """Say which writes are gone after this sync; empty where none are known to be."""
    lost = judged(world.lineage, world.report).lost
    if lost is None:
        return ""
    began = f"from {spell(lost[0])} " if lost[0] else ""
    return (
        f"what {world.node} wrote as Primary {began}until {spell(lost[1])} at most is not on"
        f" {world.peer} and is lost by this sync"
    )


def _loss_accepted(world: SyncWorld) -> Gate:
    """By hand: nothing is lost, or it is saved first, or an operator says so by name."""
    found = loss(world)
    if found and world.salvages:
        return Gate("loss-accepted", True, f"{found} (salvage_command saves it first)", "")
    wanted = "no writes that only this node has, or a salvage_command"
    return Gate("loss-accepted", not found, found or "nothing is lost", wanted)


def _nothing_lost(world: SyncWorld) -> Gate:
    found = loss(world)
    line = _line(world, f"failover sync {world.peer}")
    wanted = "no writes that only this node has; else an operator copies by hand once"
    return Gate("nothing-lost", not found, found or "nothing is lost", wanted, "", line)


# ------------------------------------------------------------------ the schedule
def _ha_enabled(world: SyncWorld) -> Gate:
    found = "HA is enabled" if world.ha_on else "HA is disabled"
    return Gate("ha-enabled", world.ha_on, found, "HA enabled", "", _line(world, "ha enable"))


def _scheduler_on(world: SyncWorld) -> Gate:
    found = world.scheduler_stopped or "the schedule runs"
    line = _line(world, "ha enable")
    return Gate("scheduler-on", not world.scheduler_stopped, found, "a schedule on", "", line)


def _by_hand_first(world: SyncWorld) -> Gate:
    found = "a manual sync was good" if world.good_by_hand else "no manual sync has been good yet"
    wanted = "one good manual sync since this node was last Primary (R87)"
    line = _line(world, "sync now")
    return Gate("by-hand-first", world.good_by_hand, found, wanted, "", line)


_ALWAYS = (
    _standby,
    _no_traffic,
    _alone,
    _on_record,
    _known_source,
    _peer_answers,
    _source_has_data,
    _source_at_rest,
    _same_version,
    _not_newer_here,
)
GATES: Mapping[Kind, tuple[Callable[[SyncWorld], Gate], ...]] = {
    "manual": (*_ALWAYS, _loss_accepted),
    "schedule": (_ha_enabled, _scheduler_on, *_ALWAYS, _by_hand_first, _nothing_lost),
}


def judge(kind: Kind, world: SyncWorld) -> tuple[Gate, ...]:
    """Judge every gate of this kind of run, in the order of the table."""
    return tuple(gate(world) for gate in GATES[kind])


def closed(gates: tuple[Gate, ...], override: tuple[str, ...] = ()) -> tuple[Gate, ...]:
    """Return the gates that neither pass nor are opened by name."""
    return tuple(
        gate
        for gate in gates
        if not gate.passed and not (gate.open_with == "override" and gate.id in override)
    )


def paste(node: str, gates: tuple[Gate, ...]) -> str:
    """Return the one line that opens every closed gate, or that helps instead; empty for none.

    >>> paste("b", (Gate("not-newer-here", False, "", ""),))
    "lb-probe agent sync now --node b --reason '...' --override not-newer-here"
    """
    shut = closed(gates)
    for gate in shut:
        if not gate.open_with:
            return gate.instead
    words = " ".join(f"--override {gate.id}" for gate in shut)
    return f"lb-probe agent sync now --node {node} --reason '...' {words}"
