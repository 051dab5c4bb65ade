"""Why a group is as it is, in words for someone woken at night.

First who has the traffic, why, and what to do next; then what each column of the table rests on;
then what is missing for an automatic failover, and when at the earliest; then the way back.

Source: DESIGN section 6; X5, X14.
"""

import math
from collections.abc import Mapping

from lb_probe.core import agents
from lb_probe.core import evidence as ev
from lb_probe.core.evidence import PageEvidence
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
from lb_probe.core.timing import Timing, Window, detection, lints
from lb_probe.core.view import View, iso, reason, warnings

_ROUNDING_S = 1e-6


def headline(view: View) -> str:
    """Return the first line of an explanation."""
    at = view.saved.assigned or "no node"
    latch = ", latched: awaiting manual resume" if view.saved.latched else ""
    elsewhere = "; ".join(
        f"{a.name} sends it to {a.seen.node or 'no one node'}"
        for a in view.adapters
        if view.saved.assigned and a.seen is not None and a.seen.node != view.saved.assigned
    )
    but = f", but {elsewhere}" if elsewhere else ""
    return f"{view.group.name}: {view.decision.condition}. Traffic is on {at}{latch}{but}."


def explain(view: View, gates: tuple[Gate, ...] = (), line: str = "") -> str:
    """Explain a group in words for someone woken at night.

    Args:
        gates: The gates of resume, where traffic is off the Primary.
        line: The line that would resume it.
    """
    situation = view.decision.situation
    parts = [headline(view), f"Why: {reason(view)} (rule {view.decision.rule})."]
    parts += [f"Next: {next_step(view)}.", "", "Columns:"]
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
    said = agents.lines(view.group, view.agents, view.now)
    if said:
        parts += ["", "Agents:", *(f"  {text}" for text in said), *_loss(view)]
    if view.roles_swapped:
        parts += ["", "Roles: as swap-roles saved them; probes.yaml does not agree yet."]
    if view.saved.hold:
        hold = view.saved.hold
        hands = ", hands off: nothing is written" if hold.hands_off else ""
        parts += ["", f"Hold by {hold.by} until {iso(hold.until_wall)}{hands}: {hold.reason}"]
    parts += ["", "An automatic failover:", *(f"  {text}" for text in outlook(view))]
    found = warnings(view)
    if found:
        parts += ["", "To see to:", *(f"  {text}" for text in found)]
    times = [lint.text for lint in lints(view.timing)] if view.timing else []
    if times:
        parts += ["", "Times:", *(f"  {text}" for text in times)]
    if gates:
        parts += ["", "To resume:"]
        parts += [_gate(gate) for gate in gates]
        parts += [f"  {_before(gates)}", f"    {line}"] if line else []
    return "\n".join(parts) + "\n"


def _loss(view: View) -> list[str]:
    """Say what was left behind by the move that is in force, or would be by one now."""
    change = view.saved.last_change
    told = change.evidence if change is not None and change.target != change.source else ()
    if lost := [f"  {text}" for text in told if text.startswith(agents.LOSS)]:
        return lost
    if view.saved.latched:
        text = agents.left_behind(view.saved, view.agents, view.group.primary)
        return [f"  {text}"] if text else []
    if view.wall is None:
        return []
    text = agents.loss(view.group, view.group.candidate, view.agents, view.now, view.wall)
    return [f"  if traffic moved now: {text}"] if text else []


def _gate(gate: Gate) -> str:
    if gate.passed:
        return f"  [ok] {gate.id}: {gate.found}"
    return f"  [no] {gate.id}: {gate.found}; wanted: {gate.wanted}"


def _before(gates: tuple[Gate, ...]) -> str:
    """Say how the line to paste is meant: opening a gate by hand is nobody's first step."""
    closed = [gate for gate in gates if not gate.passed]
    if not closed:
        return "Every gate is open:"
    if any(not gate.open_with for gate in closed):
        return "A gate that nothing opens is closed; this helps:"
    if all(gate.open_with == "attest" for gate in closed):
        return "Once it is so, say it:"
    return "See to what is missing first. At your own risk, this opens every closed gate:"


def _watched(view: View) -> str:
    return ev.watched(view.group, view.saved.assigned)


def _told(view: View, node: str, page: Page) -> str:
    known = view.evidence.page(node, page)
    if known.last is None:
        return f"{node}: never probed"
    age = f"{view.now - known.last.started_at:.1f}s ago"
    return f"{node}: {_said(known.last)}, {known.fails or known.passes} in a row, last {age}"


def seen_of(view: View) -> str:
    """Return what the two pages say that decide, in one sentence."""
    primary = _told(view, view.group.primary, Page.STATUS)
    return f"{primary}; {_told(view, _watched(view), Page.HASTATUS)}"


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
        elif adapter.wanted is None:
            state = "nothing is written"
        lines.append(
            f"  {adapter.name}: wanted {adapter.wanted or 'none'}, seen {seen}, {state}."
            f" {adapter.detail}".rstrip()
        )
    return lines


# ------------------------------------------------------------------ whose turn it is
# The words of the runbook in docs/operations.md, short.
_NEXT: Mapping[str, str] = {
    "confirming": "wait some seconds; if it stays, the ages below tell who is not reached; what"
    " could follow by itself stands there too",
    "unprotected": "repair {secondary}: if {primary} fails now, it is an outage",
    "dual-primary": "do not move traffic; make {secondary} a Standby again",
    "role-mismatch": "undo the swap on the nodes, or make it ours: {verb} swap-roles {name} {why}",
    "failing-over": "see that {target} is promoted and serves",
    "promoted-early": "make sure that {primary} is down, then: {verb} failover {name} {why}",
    "no-standby": "repair {primary} or {secondary}, what comes back sooner",
    "unknown-mode": "read what {secondary} says: {verb} probe {name}/{secondary}; then decide on:"
    " {verb} failover {name} {why}",
    "failed-over": "{verb} ack {name} {why}; repair {primary}, in daylight; then resume",
    "primary-returned": "sync {primary} from {traffic}, then resume, as below",
    "not-serving": "promote {traffic} and see to its application; or resume if {primary} is well",
    "secondary-down": "repair {traffic}; or resume, if what was not synced may be lost",
    "all-down": "repair {traffic} first, its data is newer; or {primary}, then resume",
    "prober-isolated": "repair the network of this prober",
    "unassigned": "see below where the load balancers send traffic, then: {verb} failover {name}"
    " --to {primary} {why}",
}
# A verb that moves traffic is refused then.
_ONLY_OBSERVED = (
    "take what the load balancers do, as below, where they name one node: {verb} accept {name}"
    " {why}; or say `act: true` in probes.yaml"
)
_WATCHFUL: Mapping[str, str] = {  # all is normal, and a failover would not be made by itself
    "hold": "end the hold when the work is done: {verb} release {name} {why}",
    "act": "nothing to do; it is only observed",
    "one-shot": "resume, as below: until then nothing moves by itself if {primary} fails",
    "limit": "nothing to do, it eases within a minute",
    "store-not-writable": "make room for the store: until then nothing moves by itself",
    "lb-disagrees": "nothing to do",
}
_BLOCKED: Mapping[str, str] = {
    "store-not-writable": "make room for the store, it goes on by itself; or, with the prober"
    " stopped: {verb} publish {name} --to {secondary} --offline {why}",
    "act": "repair {primary}; or, with the prober stopped: {verb} publish {name} --to {secondary}"
    " --offline {why}",
    "hands-off": "repair {primary}; or end the hold: {verb} release {name} {why}",
    "lb-disagrees": "look from another place whether {primary} serves: if it does, repair the way"
    " from this prober to it; if it does not: {verb} failover {name} {why}",
    "": "repair {primary}, or move by hand: {verb} failover {name} {why}",
}


def next_step(view: View) -> str:
    """Say what a person does now, with the line to type where there is one."""
    group, condition = view.group, view.decision.condition
    texts = _balancers_step(view)
    if condition == "failover-blocked":
        texts.append(_BLOCKED[_obstacle(view)])
    elif condition == "unassigned" and "act" in view.decision.blocked:
        texts.append(_ONLY_OBSERVED)
    elif condition == "normal":
        texts += [_WATCHFUL[name] for name in view.decision.blocked]
    else:
        texts.append(_NEXT[condition])
    return "; ".join(texts or ["nothing to do"]).format(
        name=group.name,
        primary=group.primary,
        secondary=group.candidate,
        traffic=view.saved.assigned or "no node",
        target=_watched(view),
        verb="lb-probe",
        why="--reason '...'",
    )


def _obstacle(view: View) -> str:
    """Return the brake that decides what a person does next; empty where it is an ordinary one."""
    hold = view.saved.hold
    for name in ("store-not-writable", "act"):
        if name in view.decision.blocked:
            return name
    if hold is not None and hold.hands_off:
        return "hands-off"
    return "lb-disagrees" if "lb-disagrees" in view.decision.blocked else ""


def _balancers_step(view: View) -> list[str]:
    foreign = ", ".join(a.name for a in view.adapters if a.yielded)
    unread = ", ".join(a.name for a in view.adapters if a.seen is None)
    steps = []
    if foreign:
        steps.append(
            f"find who else writes to {foreign}, then: {{verb}} accept or republish {{name}}"
        )
    if unread:
        steps.append(f"see why {unread} cannot be read")
    return steps


# ------------------------------------------------------------------ what could happen by itself
_BRAKES: Mapping[str, str] = {
    "hold": "a hold is on; release ends it, and only failures after that count",
    "act": "`act: false` in probes.yaml: this group is only observed",
    "one-shot": "latched: one automatic failover per incident; resume or swap-roles arms it again",
    "limit": "failovers_per_minute is reached; it eases within a minute",
    "store-not-writable": "the store takes no writes, and what cannot be saved is not made",
    "lb-disagrees": "a load balancer that checks {primary} itself sees it up",
}


def outlook(view: View) -> list[str]:
    """Say what is missing for an automatic failover, and when it could happen at the earliest."""
    situation = view.decision.situation
    if situation.traffic is Traffic.UNASSIGNED:
        return ["not before an operator has said who gets the traffic"]
    if situation.traffic is Traffic.MOVED:
        return ["none: traffic is off the Primary already, and nothing moves it back by itself"]
    lines = [_BRAKES[name].format(primary=view.group.primary) for name in view.decision.blocked]
    lines += view.objections
    if situation.automation is Automation.ISOLATED:
        lines.append("the prober is cut off; only failures after that count")
    lines += _no_standby(view)
    if lines:
        return [f"cannot happen now: {line}" for line in lines]
    if situation.primary is Primary.FAIL:
        return [_imminent(view), *_followers(view)]
    return [_earliest(view), *_followers(view)]


def _followers(view: View) -> list[str]:
    """Say how much later clients follow than a DNS record does."""
    if view.timing is None or view.timing.ttl_s is None:
        return []
    return [
        f"clients follow up to {view.timing.ttl_s:g}s after the move, some later: resolvers keep"
        " the old address that long (`ttl`)"
    ]


def _no_standby(view: View) -> list[str]:
    secondary, group = view.decision.situation.secondary, view.group
    if secondary is Secondary.STANDBY:
        return []
    page = view.evidence.page(group.candidate, Page.HASTATUS)
    if secondary is Secondary.STALE and page.passes:
        return []  # it answers; the next answer is newer than the failures
    return [
        f"{group.candidate} does not say Mode: Standby ({secondary.value}); once it answers, only"
        f" failures of {group.primary} after that count"
        if page.fails or page.last is None
        else f"{group.candidate} does not say Mode: Standby ({secondary.value})"
    ]


def _imminent(view: View) -> str:
    if view.decision.situation.secondary is Secondary.STANDBY:
        return "the rule holds: it is being made"
    return f"as soon as {view.group.candidate} says Mode: Standby once more; it is being asked"


def _earliest(view: View) -> str:
    group, timing = view.group, view.timing
    page = view.evidence.page(group.primary, Page.STATUS)
    if timing is None:
        return f"when {group.primary} fails {group.fall} times over {group.confirm_s:g}s"
    if not page.fails:
        either = [detection(timing, hangs) for hangs in (False, True)]
        least_s = min(window.least_s for window in either)
        most_s = max((w.most_s for w in either if w.most_s < math.inf), default=math.inf)
        window = Window(least_s, most_s)
        return f"{window} after {group.primary} begins to fail, if it goes on failing"
    soonest_s, as_now_s = _verdict_in(view, timing)
    later = f"; failing as it does now, in {as_now_s:.1f}s" if as_now_s > soonest_s + 0.1 else ""
    ran_s = min(view.now - page.counted_since, group.confirm_s) if page.counted else 0.0
    return (
        f"at the earliest in {soonest_s:.1f}s, if {group.primary} goes on failing{later}"
        f" (failures that count: {page.counted}, needed {group.fall};"
        f" `confirm`: {ran_s:.1f}s of {group.confirm_s:g}s)"
    )


def _verdict_in(view: View, timing: Timing) -> tuple[float, float]:
    """Return seconds until the Primary can count as failed, if every probe of it fails.

    At the earliest, however long a probe takes; and where each takes as long as the last one did.
    """
    group, page = view.group, view.evidence.page(view.group.primary, Page.STATUS)
    assert page.last is not None
    ended, since = _fallen(page, group.fall, timing, took_s=0.0)
    soonest = max(ended, since + group.confirm_s)
    took_s = page.last.ended_at - page.last.started_at
    ended, since = _fallen(page, group.fall, timing, took_s)
    step_s = max(timing.interval_s, took_s)
    steps = max(0, math.ceil((since + group.confirm_s - ended - _ROUNDING_S) / step_s))
    return max(0.0, soonest - view.now), max(0.0, ended + steps * step_s - view.now)


def _fallen(page: PageEvidence, fall: int, timing: Timing, took_s: float) -> tuple[float, float]:
    """Return when the last needed failure will have ended, and when the first that counts began.

    Follows `prober.schedule`: a probe every `recheck` until `fall` failures, then every `interval`.
    """
    assert page.last is not None
    started, ended, since = page.last.started_at, page.last.ended_at, page.counted_since
    for fails in range(page.fails, page.fails + fall - page.counted):
        pause_s = timing.recheck_s if fails < fall else timing.interval_s
        started = max(started + pause_s, ended)
        ended = started + took_s
        since = since or started
    return ended, since
