"""The operator's commands, judged: what was asked, whether it can be understood, what it would do.

Source: DESIGN section 6; X5, X14.
"""

from dataclasses import replace

from lb_probe.controller.group import Runtime
from lb_probe.core import acts
from lb_probe.core import evidence as ev
from lb_probe.core.model import (
    Decision,
    Mode,
    Primary,
    Secondary,
    Traffic,
)
from lb_probe.core.resume import paste
from lb_probe.core.view import iso
from lb_probe.ports import Invalid
from lb_probe.tending.desk import Ask, refuse_outdated, refuse_unclear


def plan(runtime: Runtime, ask: Ask, decision: Decision, now: float, wall: float) -> acts.Plan:
    """Judge an operator's command and say what it would do; changes nothing.

    Args:
        decision: What the table says now.

    Raises:
        NotFound: No such verb.
        Invalid: The command cannot be understood.
        Conflict: The generation is not the one the operator looked at.
    """
    refuse_outdated(runtime.name, ask, runtime.saved.generation)
    request = _request(runtime, ask, wall)
    target = acts.target_of(request, runtime.group, runtime.saved.assigned)
    world = runtime.world(target, now, wall)
    found = acts.plan(request, world)
    known = {gate.id for gate in found.gates}
    strange = sorted((ask.override | ask.attest.keys()) - known)
    if strange:
        words = ", ".join(sorted(known)) or "none"
        raise Invalid(f"{ask.verb} has no gate {', '.join(strange)}; its gates are: {words}")
    return replace(found, warnings=_warnings(runtime, ask.verb, decision, now))


def resume_gates(runtime: Runtime, now: float, wall: float) -> acts.Plan:
    """Judge `resume` as nobody, for explanations; changes nothing."""
    request = acts.Request("resume", "nobody", "looking", wall)
    world = runtime.world(runtime.group.primary, now, wall)
    found = acts.plan(request, world)
    return replace(found, paste=paste("resume", world, found.gates))


def _request(runtime: Runtime, ask: Ask, wall: float) -> acts.Request:
    group = runtime.group
    refuse_unclear(ask, acts.VERBS)
    copied = [text for text in ask.attest.values() if _is_blank_form(text)]
    if copied:
        raise Invalid(f"found the form's own words {copied[0]!r}; put yours in their place")
    if ask.to is not None and ask.to not in group.names:
        names = ", ".join(group.names)
        raise Invalid(f"group {group.name} has no node {ask.to}; its nodes are {names}")
    if ask.to is not None and ask.verb != "failover":
        raise Invalid(f"{ask.verb} takes no node; only failover does")
    if ask.verb == "hold" and not (ask.hold_s and ask.hold_s > 0):
        raise Invalid("found no time; a hold needs `for`, as 2h: a forgotten hold is no failover")
    return acts.Request(
        verb=ask.verb,
        actor=ask.actor,
        reason=ask.reason.strip(),
        at_wall=wall,
        to=ask.to,
        until_wall=wall + (ask.hold_s or 0.0),
        hands_off=ask.hands_off,
        override=ask.override,
        attest=ask.attest,
    )


def _warnings(runtime: Runtime, verb: str, decision: Decision, now: float) -> tuple[str, ...]:
    situation = decision.situation
    failing = situation.primary is Primary.FAIL and situation.secondary is Secondary.STANDBY
    if verb == "release" and failing and situation.traffic is Traffic.PRIMARY:
        group = runtime.group
        return (
            f"{group.primary} fails and {group.candidate} stands by: without the hold traffic"
            f" moves after {group.fall} more failures over {group.confirm_s:g}s",
        )
    if verb == "swap-roles":
        modes = {ev.mode(runtime.evidence, runtime.group, n, now) for n in runtime.group.names}
        if modes == {Mode.UNKNOWN}:
            return ("no node says which mode it is in: nothing seen here speaks for the swap",)
    hold = runtime.saved.hold
    if verb == "hold" and hold is not None:
        return (f"replaces the hold by {hold.by} until {iso(hold.until_wall)}: {hold.reason}",)
    return ()


def _is_blank_form(text: str) -> bool:
    """Tell whether an operator pasted a refusal's line without filling it in: nobody's word."""
    return "HH:MM" in text or text.strip() == "..."
