"""One group as people and programs see it, taken at one moment, and its JSON.

Source: DESIGN sections 6 and 7; X5, X14.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lb_probe.core import agents as ag
from lb_probe.core import evidence as ev
from lb_probe.core.agents import Agents
from lb_probe.core.evidence import Evidence, PageEvidence
from lb_probe.core.model import (
    Change,
    Decision,
    Failed,
    Gate,
    Group,
    Hold,
    Mode,
    Page,
    Saved,
    Seen,
    Serving,
)
from lb_probe.core.moments import iso as iso
from lb_probe.core.timing import Timing

CERTIFICATE_S = 21 * 86_400.0  # an expiry that is nearer is told


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One load balancer of one group, as shown.

    Attributes:
        seen: What it says; None where it cannot be read.
        yielded: Somebody else writes there and we stopped.
        restarts: How often it was seen to restart or reload since the prober started.
    """

    name: str
    type: str
    wanted: str | None
    seen: Seen | None
    yielded: bool
    in_sync: bool
    detail: str
    restarts: int = 0

    def told(self, cure: str) -> str:
        """Return its words; a load balancer that somebody else writes to says so first.

        Args:
            cure: The verbs that end it.
        """
        word = f"foreign-writer: {cure}" if self.yielded else ""
        return "; ".join(text for text in (word, self.detail) if text)


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is shown of one group, taken at one moment.

    Attributes:
        group: With the roles that are in force.
        roles_swapped: The roles differ from the file's.
        now: Monotonic seconds of the moment.
        timing: Its times, for what could happen next; None where nobody told them.
        wall: The same moment, UTC seconds since 1970; None leaves certificates unjudged.
        objections: What load balancers say that see the Primary up while we do not.
        agents: What the agents of its nodes said last; empty where there are none.
        interruption: What lately made old failures worth nothing; empty after a while.
    """

    group: Group
    saved: Saved
    decision: Decision
    evidence: Evidence
    adapters: tuple[AdapterStatus, ...]
    roles_swapped: bool
    now: float
    timing: Timing | None = None
    wall: float | None = None
    objections: tuple[str, ...] = ()
    agents: Agents = field(default_factory=dict)
    interruption: str = ""

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name


def as_json(view: View) -> dict[str, object]:
    """Return the group as the API of DESIGN section 7 gives it."""
    saved, group = view.saved, view.group
    agents = ag.as_json(group, view.agents, view.now)
    return {
        "name": view.name,
        "policy": "manual-resume",
        "act": group.act,
        "assigned": saved.assigned,
        "latched": saved.latched,
        "condition": view.decision.condition,
        "rule": view.decision.rule,
        "reason": reason(view),
        "blocked": list(view.decision.blocked),
        "objections": list(view.objections),
        "warnings": warnings(view),
        "hold": hold_json(saved.hold),
        "acked": saved.acked,
        "generation": saved.generation,
        "roles_swapped": view.roles_swapped,
        "nodes": [_node(view, name) for name in group.names],
        "adapters": [_adapter(adapter) for adapter in view.adapters],
        "last_change": change_json(saved.last_change),
    } | ({"agents": agents} if agents else {})


def hold_json(hold: Hold | None) -> dict[str, object] | None:
    """Return a hold as the API shows it."""
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
    probes = {page.value: probe_json(view.evidence.page(name, page), view.now) for page in Page}
    until = certificate_until(view.evidence, name)
    return {
        "name": name,
        "role": node.role.value,
        "candidate": node.candidate,
        "serving": serving_word(view, name),
        "mode": mode_word(view, name),
        "certificate_until": None if until is None else iso(until),
        "probes": probes,
    }


def certificate_until(evidence: Evidence, name: str) -> float | None:
    """Return when a node's certificate expires, UTC seconds since 1970, by its latest probes."""
    lasts = [evidence.page(name, page).last for page in Page]
    known = [last for last in lasts if last is not None and last.certificate_until is not None]
    return max(known, key=lambda last: last.started_at).certificate_until if known else None


def certificate_warnings(evidence: Evidence, nodes: Sequence[str], wall: float | None) -> list[str]:
    """Say which certificates expire soon; nothing where no wall time is known."""
    lines = []
    for name in nodes:
        until = certificate_until(evidence, name)
        if until is None or wall is None or until - wall > CERTIFICATE_S:
            continue
        days = (until - wall) / 86_400
        word = f"expires in {days:.0f} days" if days > 0 else "has expired"
        lines.append(f"{name}: its certificate {word} ({iso(until)}); renew it")
    return lines


def second_primaries(view: View) -> list[str]:
    """Return further nodes, no half of the pair, that say Primary without the traffic (R37).

    No column of the table looks at them: nothing moves there by itself.
    """
    others = set(view.group.names) - {view.group.primary, view.group.candidate, view.saved.assigned}
    return [name for name in view.group.names if name in others and _says_primary(view, name)]


def _says_primary(view: View, name: str) -> bool:
    return ev.mode(view.evidence, view.group, name, view.now) is Mode.PRIMARY


def warnings(view: View) -> list[str]:
    """Say what should be seen to though it changes no condition: certificates, load balancers."""
    lines = certificate_warnings(view.evidence, view.group.names, view.wall)
    for adapter in view.adapters:
        if adapter.seen is None:
            continue
        if adapter.in_sync and adapter.seen.usable is False:
            lines.append(
                f"{adapter.name}: {adapter.seen.node} is assigned and gets no traffic there;"
                f" {adapter.detail}"
            )
        if adapter.seen.unsettled:
            lines.append(f"{adapter.name}: traffic is as asked, but {adapter.seen.unsettled}")
        lines += [f"{adapter.name}: {sentence}" for sentence in adapter.seen.leaving]
    lines += [
        f"{name}: says Primary, and {view.saved.assigned or 'no node'} has the traffic: its data"
        " goes its own way; make it stand by"
        for name in second_primaries(view)
    ]
    if text := ag.turned_away(view.saved.assigned, view.agents, view.now):
        lines.append(text)
    return [*lines, view.interruption] if view.interruption else lines


def probe_json(page: PageEvidence, now: float) -> dict[str, object]:
    """Return what a page said last; empty where it was never asked."""
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
    seen = adapter.seen
    return {
        "name": adapter.name,
        "type": adapter.type,
        "wanted": adapter.wanted,
        "seen": seen.node if seen else None,
        "usable": seen.usable if seen else None,
        "in_sync": adapter.in_sync,
        "foreign_writer": adapter.yielded,
        "detail": adapter.told("accept or republish"),
        "version": seen.version or None if seen else None,
        "uptime_s": seen.uptime_s if seen else None,
        "restarts": adapter.restarts,
        "owner": seen.owner or None if seen else None,
    }


def change_json(change: Change | None) -> dict[str, object] | None:
    """Return the last change as the API shows it."""
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
