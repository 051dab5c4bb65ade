"""One group as people and programs see it: a view, its JSON, its explanation in words.

Source: DESIGN sections 6 and 7; X5, X14.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence, PageEvidence
from lb_probe.core.model import (
    Automation,
    Change,
    Decision,
    Failed,
    Gate,
    Group,
    Hold,
    Mode,
    Observation,
    Page,
    Saved,
    Seen,
    Serving,
)


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One load balancer of one group, as shown.

    Attributes:
        seen: What it says; None where it cannot be read.
        yielded: Somebody else writes there and we stopped.
    """

    name: str
    type: str
    wanted: str | None
    seen: Seen | None
    yielded: bool
    in_sync: bool
    detail: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is shown of one group, taken at one moment.

    Attributes:
        group: With the roles that are in force.
        roles_swapped: The roles differ from the file's.
        now: Monotonic seconds of the moment.
    """

    group: Group
    saved: Saved
    decision: Decision
    evidence: Evidence
    adapters: tuple[AdapterStatus, ...]
    roles_swapped: bool
    now: float


def iso(wall: float) -> str:
    """Return UTC seconds since 1970 as ISO-8601.

    >>> iso(0.0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def as_json(view: View) -> dict[str, object]:
    """Return the group as the API of DESIGN section 7 gives it."""
    saved, group = view.saved, view.group
    return {
        "name": group.name,
        "policy": "manual-resume",
        "act": group.act,
        "assigned": saved.assigned,
        "latched": saved.latched,
        "condition": view.decision.condition,
        "rule": view.decision.rule,
        "reason": reason(view),
        "blocked": list(view.decision.blocked),
        "hold": _hold(saved.hold),
        "acked": saved.acked,
        "generation": saved.generation,
        "roles_swapped": view.roles_swapped,
        "nodes": [_node(view, name) for name in group.names],
        "adapters": [_adapter(adapter) for adapter in view.adapters],
        "last_change": _change(saved.last_change),
    }


def _hold(hold: Hold | None) -> dict[str, object] | None:
    if hold is None:
        return None
    return {
        "by": hold.by,
        "reason": hold.reason,
        "until": iso(hold.until_wall),
        "hands_off": hold.hands_off,
    }


_SERVING = {Serving.YES: "ok", Serving.NO: "fail"}


def serving_word(view: View, name: str) -> str:
    """Return ok, fail or unknown for a node's status page."""
    return _SERVING.get(ev.served(view.evidence, view.group, name, view.now), "unknown")


def mode_word(view: View, name: str) -> str:
    """Return primary, standby or unknown for a node's hastatus page."""
    return ev.mode(view.evidence, view.group, name, view.now).value


def _node(view: View, name: str) -> dict[str, object]:
    node = next(n for n in view.group.nodes if n.name == name)
    probes = {page.value: _probe(view.evidence.page(name, page), view.now) for page in Page}
    return {
        "name": name,
        "role": node.role.value,
        "candidate": node.candidate,
        "serving": serving_word(view, name),
        "mode": mode_word(view, name),
        "probes": probes,
    }


def _probe(page: PageEvidence, now: float) -> dict[str, object]:
    last = page.last
    if last is None:
        return {}
    failed = isinstance(last.outcome, Failed)
    return {
        "result": "failed" if failed else "ok",
        "phase": last.outcome.phase.value if isinstance(last.outcome, Failed) else None,
        "detail": last.outcome.detail,
        "duration_s": round(last.ended_at - last.started_at, 6),
        "age_s": round(now - last.started_at, 3),
        "in_a_row": page.fails if failed else page.passes,
    }


def _adapter(adapter: AdapterStatus) -> dict[str, object]:
    return {
        "name": adapter.name,
        "type": adapter.type,
        "wanted": adapter.wanted,
        "seen": adapter.seen.node if adapter.seen else None,
        "usable": adapter.seen.usable if adapter.seen else None,
        "in_sync": adapter.in_sync,
        "foreign_writer": adapter.yielded,
        "detail": adapter.detail,
    }


def _change(change: Change | None) -> dict[str, object] | None:
    if change is None:
        return None
    return {
        "kind": change.kind,
        "from": change.source,
        "to": change.target,
        "at": iso(change.at_wall),
        "actor": change.actor,
        "reason": change.reason,
        "rule": change.rule,
        "evidence": list(change.evidence),
        "notes": dict(change.notes),
    }


def gate_json(gate: Gate) -> dict[str, object]:
    """Return one gate as refusals and plans show it."""
    return {"id": gate.id, "passed": gate.passed, "found": gate.found, "wanted": gate.wanted}


_REASONS: Mapping[str, str] = {
    "normal": "{primary} serves and {secondary} stands by",
    "confirming": "no verdict yet",
    "unprotected": "{primary} serves; no standby behind it",
    "dual-primary": "{primary} serves, and {secondary} says Primary too: nobody stands by",
    "role-mismatch": "{primary} says Standby: roles were swapped without us",
    "failing-over": "traffic goes to {secondary}",
    "failover-blocked": "{primary} failed and {secondary} stands by; blocked by {blocked}",
    "promoted-early": "{primary} failed and {secondary} already says Primary: an operator decides",
    "no-standby": "{primary} failed, and {secondary} does not answer",
    "unknown-mode": "{primary} failed, and {secondary} says a mode nobody documented",
    "failed-over": "{traffic} serves; {primary} is not ok",
    "primary-returned": "{traffic} serves; {primary} is back; resume is yours",
    "not-serving": "{traffic} has the traffic, answers, and does not serve",
    "secondary-down": "{traffic} has the traffic and is down; {primary} may serve: resume is yours",
    "all-down": "neither {traffic} nor {primary} serves",
    "prober-isolated": "nothing answers at all: it is us, nothing moves",
    "unassigned": "nobody has said which node gets the traffic: failover --to NODE",
}


def reason(view: View) -> str:
    """Return one sentence: what is the case and whose turn it is."""
    group = view.group
    return _REASONS[view.decision.condition].format(
        primary=group.primary,
        secondary=ev.watched(group, view.saved.assigned),
        traffic=view.saved.assigned or "no node",
        blocked=", ".join(view.decision.blocked) or "nothing",
    )


def headline(view: View) -> str:
    """Return the first line of an explanation."""
    at = view.saved.assigned or "no node"
    latch = ", latched: awaiting manual resume" if view.saved.latched else ""
    return f"{view.group.name}: {view.decision.condition}. Traffic is on {at}{latch}."


def explain(view: View, gates: tuple[Gate, ...] = (), line: str = "") -> str:
    """Explain a group in words for someone woken at night.

    Args:
        gates: The gates of resume, where traffic is off the Primary.
        line: The line that would resume it.
    """
    situation = view.decision.situation
    parts = [headline(view), f"Why: {reason(view)} (rule {view.decision.rule}).", "", "Columns:"]
    columns = (
        ("traffic", situation.traffic.value, f"saved generation {view.saved.generation}"),
        ("primary", situation.primary.value, _told(view, view.group.primary, Page.STATUS)),
        ("says", situation.says.value, _told(view, view.group.primary, Page.HASTATUS)),
        ("secondary", situation.secondary.value, _told(view, _watched(view), Page.HASTATUS)),
        ("serving", situation.serving.value, _told(view, _watched(view), Page.STATUS)),
        ("automation", situation.automation.value, _brakes(view)),
    )
    parts += [f"  {name:<10}  {value:<12}  {why}" for name, value, why in columns]
    parts += ["", "Load balancers:", *_balancers(view)]
    if view.saved.hold:
        hold = view.saved.hold
        parts += ["", f"Hold by {hold.by} until {iso(hold.until_wall)}: {hold.reason}"]
    if gates:
        parts += ["", "To resume:"]
        parts += [f"  [{'ok' if g.passed else 'no'}] {g.id}: {g.found}" for g in gates]
        parts += [f"  {line}"] if line else []
    return "\n".join(parts) + "\n"


def _watched(view: View) -> str:
    return ev.watched(view.group, view.saved.assigned)


def _told(view: View, node: str, page: Page) -> str:
    known = view.evidence.page(node, page)
    if known.last is None:
        return f"{node}: never probed"
    age = f"{view.now - known.last.started_at:.1f}s ago"
    return f"{node}: {_said(known.last)}, {known.fails or known.passes} in a row, last {age}"


def _said(last: Observation) -> str:
    if isinstance(last.outcome, Failed):
        return f"failed in phase {last.outcome.phase.value} ({last.outcome.detail})"
    mode = last.outcome.mode
    return "good" if mode is None else f"says {mode.value}" if mode is not Mode.UNKNOWN else "odd"


def _brakes(view: View) -> str:
    if view.decision.situation.automation is Automation.ISOLATED:
        return "the prober is cut off"
    return ", ".join(view.decision.blocked) or "nothing in the way"


def _balancers(view: View) -> list[str]:
    if not view.adapters:
        return ["  none: decisions are saved and shown only"]
    lines = []
    for adapter in view.adapters:
        seen = (adapter.seen.node or "no one node") if adapter.seen else "unreadable"
        state = "in sync" if adapter.in_sync else "NOT in sync"
        if adapter.yielded:
            state = "foreign-writer: accept or republish"
        lines.append(
            f"  {adapter.name}: wanted {adapter.wanted or 'none'}, seen {seen}, {state}."
            f" {adapter.detail}".rstrip()
        )
    return lines
