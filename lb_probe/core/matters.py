"""What of a group is worth telling, in words for someone woken at night.

Moves and holds come from what is on record (`told_of`): they are saved with the decision, so none
is missed and none is told before it is true. Everything else is read off what is shown of a group
now (`of_pair`, `of_pool`): a prober that starts again finds it again.

Source: R97; docs/runbook.md, whose words these are, short; X14.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lb_probe.core import pool_view
from lb_probe.core.evidence import Evidence
from lb_probe.core.explain import headline, next_step, seen_of
from lb_probe.core.model import Page, Passed
from lb_probe.core.notice import Notice, Severity, Stage, said
from lb_probe.core.pool_view import PoolView
from lb_probe.core.telling import Matter, Moment, Told, closed, opened
from lb_probe.core.view import (
    AdapterStatus,
    View,
    certificate_until,
    iso,
    reason,
    second_primaries,
)

MOVED = "moved"  # the topic that is begun and ended by what is on record
HOLD_WARNING_S = 900.0
DAY_S = 86_400.0
CERTIFICATE_DAYS = (21, 7, 2)
# Under a hold these are what the work looks like (facts: both nodes say Primary in an upgrade).
_MEANT = frozenset({"dual-primary", "unprotected", "role-mismatch", "some-out", "in-blocked"})
_C, _W, _I = Severity.CRITICAL, Severity.WARNING, Severity.INFO


@dataclass(frozen=True, slots=True)
class Row:
    """How one condition is told.

    Attributes:
        settle_s: Seconds it must last; what has a verdict behind it waits no longer.
    """

    event_class: str
    settle_s: float
    title: str
    safe: str
    ended: str = "normal again"
    runbook: str = ""
    severity: Severity | None = None


_WAIT = "users wait"
_SERVED = "users are served by {traffic}"
# What is the case is not known yet, or not from here: what people were told stands meanwhile.
_UNKNOWN = frozenset({"confirming", "failing-over", "prober-isolated"})
# Conditions that are not here are told by nobody: they last seconds, or are what is on record.
CONDITIONS: Mapping[str, Row] = {
    "failover-blocked": Row(
        "blocked",
        2.0,
        "{primary} failed and nothing moves: blocked by {blocked}",
        f"{_WAIT}; nothing moves before the brake is off or you move it by hand",
        runbook="failover-blocked",
    ),
    "promoted-early": Row(
        "blocked",
        2.0,
        "{primary} failed and {secondary} already says Primary: nothing moves",
        f"{_WAIT}; make sure that {{primary}} is really down before you move traffic",
    ),
    "no-standby": Row(
        "blocked",
        2.0,
        "{primary} failed and {secondary} does not answer: nothing moves",
        f"{_WAIT}; there is no node to move to: what comes back first serves",
    ),
    "unknown-mode": Row(
        "blocked",
        2.0,
        "{primary} failed and {secondary} says a mode nobody documented: nothing moves",
        f"{_WAIT}; lb-probe does not guess what {{secondary}} means, a person must read it",
    ),
    "unassigned": Row(
        "blocked",
        5.0,
        "nobody has said which node gets the traffic",
        "each load balancer goes on as it is; nothing is published before somebody says it",
        "traffic has a node",
        runbook="unassigned",
    ),
    "not-serving": Row(
        "not-serving",
        2.0,
        "{traffic} has the traffic and does not serve",
        f"{_WAIT}; nothing moves back by itself",
        "the node with the traffic serves",
    ),
    "secondary-down": Row(
        "not-serving",
        2.0,
        "{traffic} has the traffic and is down",
        f"{_WAIT}; {{primary}} may serve, with older data: a resume is yours",
        "the node with the traffic serves",
    ),
    "all-down": Row(
        "not-serving",
        2.0,
        "neither {traffic} nor {primary} serves",
        f"{_WAIT}; the newer data is on {{traffic}}: repair it first",
        "the node with the traffic serves",
    ),
    "primary-returned": Row(
        "primary-returned",
        30.0,
        "{primary} is back; traffic stays on {traffic}",
        f"{_SERVED}; this can wait for daylight. {{primary}} has old data: keep clients off it, and"
        " do not make {traffic} a Standby before {primary} was synced from it",
        "the Primary is gone again, or has the traffic",
    ),
    "dual-primary": Row(
        "dual-primary",
        30.0,
        "{primary} and {secondary} both say Primary",
        f"{_SERVED}; do not move traffic",
        runbook="dual-primary",
    ),
    "role-mismatch": Row(
        "dual-primary",
        30.0,
        "{primary} says Standby: roles were swapped without us",
        f"{_SERVED}; nothing moves while the roles disagree",
        runbook="role-mismatch",
    ),
    "unprotected": Row(
        "unprotected",
        60.0,
        "no node stands by behind {primary}",
        f"{_SERVED}; if {{primary}} fails now, it is an outage",
        "a node stands by again",
    ),
    "panic": Row(
        "not-serving",
        15.0,
        "more nodes fail than may go out: some that fail have traffic",
        "some users wait; lb-probe takes no further node out",
        "the nodes that are in serve",
        runbook="panic",
    ),
    "out-blocked": Row(
        "blocked",
        15.0,
        "a node fails and stays in: blocked by {blocked}",
        "some users wait",
        "the nodes that are in serve",
        runbook="out-blocked",
    ),
    "in-blocked": Row(
        "node-out",
        600.0,
        "a node serves again and stays out: blocked by {blocked}",
        "users are served by the others",
        "every node that serves is in",
        runbook="in-blocked",
    ),
}


# ------------------------------------------------------------------ what is the matter now
def of_pair(view: View, resume: str = "") -> list[Matter]:
    """Return what is the matter with a group of policy manual-resume.

    Args:
        resume: The line that would resume it, where nothing stands against that.
    """
    group, saved = view.group, view.saved
    words = {
        "group": group.name,
        "primary": group.primary,
        "secondary": group.candidate,
        "traffic": saved.assigned or "no node",
        "blocked": ", ".join(view.decision.blocked) or "nothing",
    }
    found = _condition(
        view.decision.condition, view.decision.blocked, words, is_held=saved.hold is not None
    )
    told = [
        replace(
            matter,
            why=f"{reason(view)} (rule {view.decision.rule}); {seen_of(view)}",
            now=headline(view),
            do=what_to_do(view, resume),
        )
        for matter in found
    ]
    told += [_second_primary(view, node) for node in second_primaries(view)]
    may_write = group.act and not (saved.hold is not None and saved.hold.hands_off)
    told += _balancers(group.name, view.adapters, may_write=may_write)
    if view.wall is not None:
        if saved.hold is not None:
            told += _hold(view, view.wall)
        for node in group.names:
            until = certificate_until(view.evidence, node)
            told += _certificate(
                group.name, node, until, view.wall, "on the Primary it moves traffic"
            )
    return told


def of_pool(view: PoolView) -> list[Matter]:
    """Return what is the matter with an active-active group."""
    words = {"group": view.name, "blocked": ", ".join(view.decision.blocked) or "nothing"}
    found = _condition(view.condition, view.decision.blocked, words, is_held=view.hold is not None)
    told = [
        replace(
            matter,
            why=pool_view.reason(view),
            now=pool_view.explain(view).partition("\n")[0],
            do=f"{pool_view.next_step(view)}; lb-probe explain {view.name}",
        )
        for matter in found
    ]
    may_write = view.act and not (view.hold is not None and view.hold.hands_off)
    told += _balancers(view.name, view.adapters, may_write=may_write)
    if view.wall is not None:
        for node in view.pool.nodes:
            until = certificate_until(view.evidence, node)
            told += _certificate(view.name, node, until, view.wall, "the node goes out")
    return told


def unknown_of(view: View | PoolView) -> frozenset[str]:
    """Return the topics of which nobody can tell now whether they are over."""
    if isinstance(view, PoolView):
        condition, nodes = view.condition, view.pool.nodes
    else:
        condition, nodes = view.decision.condition, view.group.names
    found = {f"certificate/{n}" for n in nodes if _shows_no_certificate(view.evidence, n)}
    # Where nothing is to be written nobody wants it to follow; but it has not begun to.
    found |= {f"drift/{one.name}" for one in view.adapters if not one.in_sync}
    return frozenset(found | ({"condition"} if condition in _UNKNOWN else set()))


def _shows_no_certificate(evidence: Evidence, node: str) -> bool:
    """Tell whether no connection to a node was made that could show one."""
    lasts = [evidence.page(node, page).last for page in Page]
    answers = any(last is not None and isinstance(last.outcome, Passed) for last in lasts)
    return not answers and certificate_until(evidence, node) is None


def what_to_do(view: View, resume: str = "") -> str:
    """Return what a person does next, with the lines to type, for a text that stands alone."""
    step = re.sub(r", as below|(?<=see) below", "", next_step(view))
    line = f"{':' if step.endswith('then resume') else '; to resume:'} {resume}" if resume else ""
    return f"{step}{line}; all of it: lb-probe explain {view.name}"


def _condition(
    condition: str, blocked: tuple[str, ...], words: Mapping[str, str], *, is_held: bool
) -> list[Matter]:
    row = CONDITIONS.get(condition)
    if row is None:
        return []
    severity = row.severity
    if condition == "failover-blocked" and {"hold", "act"} & set(blocked):
        severity = _W  # somebody meant it so
    name = words["group"]
    return [
        Matter(
            topic="condition",
            # The same failure behind another brake is news; a brake of a pool flickers.
            word=f"{condition} ({words['blocked']})" if "{blocked}" in row.title else condition,
            event_class=row.event_class,
            title=f"{name}: {row.title.format(**words)}",
            settle_s=row.settle_s,
            is_meant=is_held and condition in _MEANT,
            ended=f"{name}: {row.ended.format(**words)}",
            severity=severity,
            safe=row.safe.format(**words),
            runbook=row.runbook,
        )
    ]


def _second_primary(view: View, node: str) -> Matter:
    """Tell of a further site that took itself for the Primary, though the pair serves (R37)."""
    name, traffic = view.name, view.saved.assigned or "no node"
    return Matter(
        topic=f"site/{node}",
        word="says-primary",
        event_class="dual-primary",
        title=f"{name}: {node} says Primary too, and {traffic} has the traffic",
        settle_s=30.0,
        is_meant=view.saved.hold is not None,
        ended=f"{name}: {node} says Primary no more, or has the traffic",
        node=node,
        why=f"{node} is no half of the pair; it copies from one that it could not reach, perhaps",
        now=headline(view),
        safe=f"nothing moves to {node} by itself; what is written there is lost when it is synced",
        do=f"make {node} stand by, and let it copy again; all of it: lb-probe explain {name}",
        runbook="dual-primary",
    )


def _balancers(group: str, adapters: tuple[AdapterStatus, ...], *, may_write: bool) -> list[Matter]:
    return [m for adapter in adapters if (m := _balancer(group, adapter, may_write)) is not None]


def _balancer(group: str, adapter: AdapterStatus, may_write: bool) -> Matter | None:
    name, seen = adapter.name, adapter.seen
    does = seen.word if seen is not None else "unreadable"
    matter = Matter(
        topic=f"drift/{name}",
        word="out-of-sync",
        event_class="drift",
        title=f"{group}: {name} does not follow: wanted {adapter.wanted}, seen {does}",
        settle_s=60.0,
        ended=f"{group}: {name} does what it should again",
        why=adapter.detail,
        safe="the other load balancers are right; users behind this one may reach the old node",
        do=f"see why it does not follow; it is tried for ever. All of it: lb-probe explain {group}",
    )
    if adapter.yielded:
        return replace(
            matter,
            word="foreign-writer",
            title=f"{group}: somebody else writes to {name}; lb-probe stopped writing there",
            settle_s=0.0,
            severity=_C,
            safe=f"{name} sends traffic to {does}, wanted {adapter.wanted}; nothing is repaired",
            do="find who else writes there; then, if what is seen is right:"
            f" lb-probe accept {group} --reason '...'; if what is saved is right:"
            f" lb-probe republish {group} --reason '...'",
            runbook="foreign-writer",
        )
    if adapter.wanted is None or not may_write:
        return None
    if not adapter.in_sync:
        return matter
    if seen is not None and seen.usable is False:
        return replace(
            matter,
            word="unusable",
            title=f"{group}: {name} is told right and its own check holds {does} down",
            safe="users behind this one may wait",
            do=f"does {does} answer on that port from there? All of it: lb-probe explain {group}",
            runbook="load-balancer-holds-the-node-down",
        )
    if seen is not None and seen.unsettled:
        return replace(
            matter,
            word="unsettled",
            title=f"{group}: {name} sends traffic to {does}, and may forget it",
            why=seen.unsettled,
            safe=f"users are served as asked; a restart or a takeover of {name} could undo it",
            do=f"see what it says; it is tried for ever. All of it: lb-probe explain {group}",
            runbook="move-not-settled",
        )
    if seen is not None and seen.leaving:
        return replace(
            matter,
            word="left-behind",
            title=f"{group}: {name} still has users on another node than {does}, in a process that"
            " a reload left behind",
            settle_s=120.0,
            why="; ".join(seen.leaving),
            safe=f"whoever comes now is served by {does}; what is open stays on the old node",
            do="end them: shutdown_sessions and master: in probes.yaml do it at the next move, and"
            f" hard-stop-after in HAProxy's file by itself. All of it: lb-probe explain {group}",
            runbook="users-left-behind",
        )
    return None


def _hold(view: View, wall: float) -> list[Matter]:
    hold, name = view.saved.hold, view.name
    assert hold is not None
    if wall < hold.until_wall - HOLD_WARNING_S:
        return []
    is_due = wall >= hold.until_wall
    word = "due, and stays on" if is_due else f"due at {said(hold.until_wall)}"
    return [
        Matter(
            topic="hold",
            word=word,
            event_class="hold-expiring",
            title=f"{name}: the hold by {hold.by} is {word}",
            settle_s=60.0 if is_due else 0.0,  # one that lapses in `normal` does so by then
            ended=f"{name}: the hold has ended, or runs on",
            why=f"{hold.by} said: {hold.reason}",
            now=headline(view),
            safe="while it is on no failover is made; due, it lapses only in condition normal",
            do=f"work done: lb-probe release {name} --reason '...'; not done:"
            f" lb-probe hold {name} --for 2h --reason '...'",
        )
    ]


def _certificate(
    group: str, node: str, until: float | None, wall: float, then: str
) -> list[Matter]:
    if until is None:
        return []
    left = (until - wall) / DAY_S
    near = [days for days in CERTIFICATE_DAYS if left <= days]
    if not near:
        return []
    word = f"expires within {near[-1]} days" if left > 0 else "has expired"
    return [
        Matter(
            topic=f"certificate/{node}",
            word=word,
            event_class="certificate",
            title=f"{group}: the certificate of {node} {word}",
            settle_s=30.0,
            ended=f"{group}: the certificate of {node} was renewed",
            severity=_C if near[-1] == CERTIFICATE_DAYS[-1] else _W,
            node=node,
            why=f"it is good until {iso(until)}",
            safe=f"an expired certificate is a failed probe: {then}",
            do=f"renew it on {node}; with a pinned `fingerprint` change that at the same time",
        )
    ]


# ------------------------------------------------------------------ what is on record
@dataclass(frozen=True, slots=True)
class Entry:
    """One change as the history keeps it; see `ports.Record`."""

    number: int
    kind: str
    at_wall: float
    details: Mapping[str, object]

    def text(self, key: str) -> str:
        """Return one detail as text; empty where there is none."""
        value = self.details.get(key)
        return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Words:
    """What a group looks like when its change is told; empty where it is gone.

    Attributes:
        serves: The node with the traffic is known to serve.
    """

    now: str = ""
    do: str = ""
    serves: bool = True


def told_of(told: Told, entry: Entry, at: Moment, words: Words) -> tuple[Told, list[Notice]]:
    """Return what is known of a group, and told, after one change that is on record."""
    source, target = entry.text("from"), entry.text("to")
    if entry.kind in ("resume", "swap-roles") and MOVED in told.alarms:
        return _came_home(told, entry, at, words)
    is_move = bool(source and target and source != target) and entry.kind not in _POOL
    if is_move and entry.details.get("latched") is True:
        return _moved(told, entry, at, words)
    if is_move and MOVED in told.alarms:  # back on the Primary, and no resume
        return _came_home(told, entry, at, words)
    return told, [_note(told, entry, at, words)] if entry.kind in _NOTES else []


def _by(entry: Entry) -> str:
    actor = entry.text("actor")
    return "by itself" if actor in ("", "lb-probe") else f"by {actor}"


def _why(entry: Entry) -> str:
    evidence = entry.details.get("evidence")
    lines = [str(line) for line in evidence] if isinstance(evidence, (list, tuple)) else []
    rule = [f"rule {entry.text('rule')}"] if entry.text("rule") else []
    notes = entry.details.get("notes")
    said_too = [f"{k}: {v}" for k, v in notes.items()] if isinstance(notes, Mapping) else []
    return "; ".join([entry.text("reason"), *lines, *rule, *said_too]).strip("; ")


_POOL = frozenset({"take-out", "put-in"})  # nodes of equal rank, several at once
_MOVES: Mapping[str, str] = {
    "failover": "failed over from {source} to {target} {by}",
    "switchover": "traffic was moved as planned from {source} to {target} {by}",
    "accept": "{actor} accepted that traffic is on {target}, not on {source}",
    "adopt": "traffic was found on {target}, not on {source}: somebody moved it meanwhile",
    "offline": "traffic was moved from {source} to {target} without the prober (publish --offline)",
}


def _moved(told: Told, entry: Entry, at: Moment, words: Words) -> tuple[Told, list[Notice]]:
    source, target = entry.text("from"), entry.text("to")
    is_automatic = entry.kind == "failover" and _by(entry) == "by itself"
    title = _MOVES.get(entry.kind, "traffic was moved from {source} to {target} {by}").format(
        source=source, target=target, by=_by(entry), actor=entry.text("actor")
    )
    matter = Matter(
        topic=MOVED,
        word=target,
        event_class="failed-over",
        title=f"{at.group}: {title}",
        # Whoever moved it by hand is awake.
        severity=_C if is_automatic else _W if entry.kind in ("adopt", "offline") else _I,
        node=target,
        why=_why(entry),
        now=words.now,
        safe=f"nothing moves back by itself: the repair of {source} can wait for daylight once"
        f" {target} serves. Do not make {target} a Standby before {source} was synced from it",
        do=words.do,
    )
    told, notice = opened(told, matter, replace(at, wall=entry.at_wall))
    told = replace(told, reminded_wall=entry.at_wall, is_awaited=not words.serves)
    return told, [notice]


def arrived(told: Told, view: View, at: Moment) -> tuple[Told, list[Notice]]:
    """Say that the node serves to which traffic was moved, where the move was told without that."""
    if not told.is_awaited or "condition" in told.alarms:  # that it does not was told, then
        return replace(told, is_awaited=False), []
    if view.decision.condition not in ("failed-over", "primary-returned"):
        return told, []
    alarm = told.alarms.get(MOVED)
    notice = Notice(
        key=f"{alarm.key if alarm else at.teller}/{at.group}/serves/{round(at.wall)}",
        event_class="failed-over",
        title=f"{at.group}: {view.saved.assigned} serves",
        at_wall=at.wall,
        severity=_I,
        group=at.group,
        why=seen_of(view),
        now=headline(view),
        safe=f"users are served by {view.saved.assigned}; the rest can wait for daylight",
    )
    return replace(told, is_awaited=False), [notice]


def _came_home(told: Told, entry: Entry, at: Moment, words: Words) -> tuple[Told, list[Notice]]:
    target, name = entry.text("to"), at.group
    title = f"{name}: resumed on {target} {_by(entry)}"
    if entry.kind == "swap-roles":
        title = f"{name}: roles were swapped {_by(entry)}; {target} keeps the traffic"
    moment = replace(at, wall=entry.at_wall)
    told, notice = closed(told, MOVED, moment, title=title, why=_why(entry), event_class="resumed")
    # That the Primary is back is what the resume was for: no news that this is over.
    back = told.alarms.get("condition")
    is_back = back is not None and back.event_class == "primary-returned"
    alarms = {t: a for t, a in told.alarms.items() if not (is_back and t == "condition")}
    notice = replace(
        notice,
        now=words.now,
        safe="automatic failover is armed again",
        replaces=back.key if is_back and back is not None else "",
    )
    return replace(told, alarms=alarms, reminded_wall=0.0, is_awaited=False), [notice]


# kind: its class, its title, what it means.
_NOTES: Mapping[str, tuple[str, str, str]] = {
    "hold": ("hold", "{by} holds automatic moves until {until}", "no failover is made meanwhile"),
    "release": ("hold", "{by} ended the hold", "failures from before do not count"),
    "hold-lapsed": ("hold", "the hold was due and has ended", "failures from before do not count"),
    "ack": ("acknowledged", "{by} has seen it", "it arms nothing, and moves nothing"),
    "accept": ("drift", "{by} accepted what the load balancers do", ""),
    "republish": ("drift", "{by} had the saved word published again", ""),
    "resume": ("resumed", "resumed by {by}", "automatic failover is armed"),
    "swap-roles": ("resumed", "roles were swapped by {by}", "automatic failover is armed"),
    "take-out": ("node-out", "{gone} was taken out", "the others have its traffic"),
    "put-in": ("node-out", "{back} is in again", ""),
}


def _note(told: Told, entry: Entry, at: Moment, words: Words) -> Notice:
    event_class, title, safe = _NOTES[entry.kind]
    hold = entry.details.get("hold")
    until = str(hold.get("until", "")) if isinstance(hold, Mapping) else ""
    before, after = (set(entry.text(key).split("+")) for key in ("from", "to"))
    text = title.format(
        by=entry.text("actor") or "somebody",
        until=until[:16].replace("T", " ") + "Z" if until else "its time",
        gone=", ".join(sorted(before - after)) or entry.text("from"),
        back=", ".join(sorted(after - before)) or entry.text("to"),
    )
    alarm = told.alarms.get(MOVED) or told.alarms.get("condition")
    is_ack = entry.kind == "ack" and alarm is not None
    return Notice(
        # The number alone could come twice: an older copy of the store may be put in place.
        key=f"{at.teller}/{entry.number}/{round(entry.at_wall * 1000)}",
        event_class=event_class,
        title=f"{at.group}: {text}",
        at_wall=entry.at_wall,
        stage=Stage.SEEN if is_ack else Stage.NOTE,
        alarm=alarm.key if is_ack and alarm is not None else "",
        severity=_I if event_class == "drift" or entry.kind == "put-in" else None,
        group=at.group,
        why=_why(entry),
        now=words.now,
        safe=safe,
    )


def reminder(
    told: Told, view: View, at: Moment, remind_s: float, resume: str
) -> tuple[Told, list[Notice]]:
    """Say again that traffic is off the Primary, where nothing was heard of it for so long."""
    group, saved, change = view.group, view.saved, view.saved.last_change
    heard_wall = max(told.reminded_wall, change.at_wall if change else 0.0)
    if not saved.latched or at.wall - heard_wall < remind_s:
        return told, []
    alarm = told.alarms.get(MOVED)
    since = f", moved {said(alarm.at_wall)}" if alarm is not None else ""
    notice = Notice(
        key=f"{at.teller}/{at.group}/{MOVED}/reminder/{int(at.wall // 60)}",
        event_class="latched-reminder",
        title=f"{group.name}: traffic is still on {saved.assigned}, not on {group.primary}{since}",
        at_wall=at.wall,
        stage=Stage.OPEN if alarm is not None else Stage.NOTE,
        alarm=alarm.key if alarm is not None else "",
        group=group.name,
        why="nobody has resumed",
        now=headline(view),
        safe="one automatic failover per incident: until somebody resumes, the next failure is an"
        " outage",
        do=what_to_do(view, resume),
    )
    return replace(told, reminded_wall=at.wall), [notice]
