"""Why a group is as it is, in words for someone woken at night.

First who has the traffic and why; then what each column of the table rests on; then what would have
to happen for an automatic failover, and when at the earliest; then the way back.

Source: DESIGN section 6; X5, X14.
"""

from lb_probe.core import evidence as ev
from lb_probe.core.model import (
    Automation,
    Failed,
    Gate,
    Mode,
    Observation,
    Page,
    Primary,
    Secondary,
    Traffic,
)
from lb_probe.core.timing import detection, lints
from lb_probe.core.view import View, iso, reason


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
    if view.roles_swapped:
        parts += ["", "Roles: as swap-roles saved them; probes.yaml does not agree yet."]
    if view.saved.hold:
        hold = view.saved.hold
        parts += ["", f"Hold by {hold.by} until {iso(hold.until_wall)}: {hold.reason}"]
    parts += ["", "An automatic failover:", *(f"  {text}" for text in outlook(view))]
    warnings = [lint.text for lint in lints(view.timing)] if view.timing else []
    if warnings:
        parts += ["", "Times:", *(f"  {text}" for text in warnings)]
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


# ------------------------------------------------------------------ what could happen next
BRAKES = {
    "hold": "a hold is on; end it with release",
    "act": "`act: false`: this group is only observed",
    "one-shot": "latched: one automatic failover per incident; resume or swap-roles arms it again",
    "limit": "failovers_per_minute is reached; it eases within a minute",
    "store-not-writable": "the store takes no writes, and what cannot be saved is not made",
}


def outlook(view: View) -> list[str]:
    """Say what is missing for an automatic failover, and when it could happen at the earliest."""
    situation, group = view.decision.situation, view.group
    if situation.traffic is Traffic.UNASSIGNED:
        return ["not before an operator has said who gets the traffic"]
    if situation.traffic is Traffic.MOVED:
        return ["none: traffic is off the Primary already, and nothing moves it back by itself"]
    lines = [BRAKES.get(name, name) for name in view.decision.blocked]
    if situation.automation is Automation.ISOLATED:
        lines.append("the prober is cut off from everything: it takes that for its own fault")
    if situation.secondary is not Secondary.STANDBY:
        lines.append(
            f"{group.candidate} does not say Mode: Standby ({situation.secondary.value});"
            f" failures of {group.primary} count only from when it answers"
        )
    if lines:
        return [f"cannot happen now: {line}" for line in lines]
    if situation.primary is Primary.FAIL:
        return ["the rule holds: it is being made"]
    return [_earliest(view)]


def _earliest(view: View) -> str:
    group = view.group
    page = view.evidence.page(group.primary, Page.STATUS)
    if not page.fails:
        if view.timing is None:
            return f"when {group.primary} fails {group.fall} times over {group.confirm_s:g}s"
        window = detection(view.timing, hangs=False)
        return f"{window} after {group.primary} began to fail, for as long as it fails"
    left = max(0, group.fall - page.counted)
    ran = view.now - page.counted_since if page.counted else 0.0
    confirm = max(0.0, group.confirm_s - ran)
    recheck = view.timing.recheck_s if view.timing else 0.0
    return (
        f"{group.primary} must go on failing: {page.counted} of {group.fall} failures count,"
        f" {min(ran, group.confirm_s):.1f}s of confirm {group.confirm_s:g}s have passed;"
        f" at the earliest in {max(confirm, left * recheck):.1f}s"
    )
