"""The operator's commands, judged: what a group of equals takes, and what means nothing there.

Source: DESIGN sections 4 and 6; X4, X5, X10.
"""

from dataclasses import replace

from lb_probe.core import acts
from lb_probe.core.active_active import PoolDecision
from lb_probe.core.model import Gate
from lb_probe.core.pool_view import POLICY, word_of
from lb_probe.core.resume import World
from lb_probe.pool.group import PoolRuntime
from lb_probe.ports import Invalid
from lb_probe.tending.desk import Ask, refuse_outdated, refuse_unclear

VERBS = ("hold", "release", "ack", "republish")  # the others move or resume one node's traffic


def plan(
    runtime: PoolRuntime, ask: Ask, decision: PoolDecision, now: float, wall: float
) -> acts.Plan:
    """Judge an operator's command and say what it would do; changes nothing.

    Args:
        decision: What the table says now.

    Raises:
        NotFound: No such verb.
        Invalid: The command cannot be understood.
        Conflict: The generation is not the one the operator looked at.
    """
    refuse_outdated(runtime.name, ask, runtime.saved.generation)
    request = _request(runtime.name, ask, wall)
    saved = runtime.worded
    if ask.verb not in VERBS or ask.verb == "republish":
        gates = _gates(runtime, ask.verb)
        closed = tuple(gate for gate in gates if not gate.passed)
        line = closed[0].instead if closed else ""
        at = saved.assigned
        found = acts.Plan(ask.verb, at, at, gates, closed, line, None)
    else:
        world = World(runtime.pool.numbers, saved, runtime.evidence, (), None, now)
        found = acts.plan(request, world)
    if strange := sorted((ask.override | ask.attest.keys()) - {g.id for g in found.gates}):
        raise Invalid(f"{ask.verb} of an {POLICY} group has no gate {', '.join(strange)}")
    return replace(found, warnings=_warnings(runtime, ask.verb, decision))


def _request(name: str, ask: Ask, wall: float) -> acts.Request:
    refuse_unclear(ask, VERBS)
    if ask.to is not None and ask.verb in VERBS:
        raise Invalid(f"{ask.verb} takes no node; group {name} is {POLICY}")
    if ask.verb == "hold" and not (ask.hold_s and ask.hold_s > 0):
        raise Invalid("found no time; a hold needs `for`, as 2h: a forgotten hold is no rule")
    until = wall + (ask.hold_s or 0.0)
    reason = ask.reason.strip()
    return acts.Request(ask.verb, ask.actor, reason, wall, None, until, ask.hands_off)


def _gates(runtime: PoolRuntime, verb: str) -> tuple[Gate, ...]:
    name, hold = runtime.name, runtime.saved.hold
    if verb not in VERBS:
        found = f"group {name} is {POLICY}: every healthy node is in and returns by itself"
        wanted = f"a group of policy manual-resume; here you may {', '.join(VERBS)}"
        return (Gate("policy", False, found, wanted, "", f"lb-probe status {name}"),)
    is_off = hold is not None and hold.hands_off
    by = f"hold with hands off by {hold.by}: {hold.reason}" if hold and is_off else "none"
    line = f"lb-probe release {name} --reason '...'"
    act = f"`act: {str(runtime.pool.act).lower()}`"
    return (
        Gate("act", runtime.pool.act, act, "`act: true` in probes.yaml", ""),
        Gate("hands-off", not is_off, by, "no hold with --hands-off", "", line),
    )


def _warnings(runtime: PoolRuntime, verb: str, decision: PoolDecision) -> tuple[str, ...]:
    wished, hold = decision.wished, runtime.saved.hold
    if verb == "release" and hold is not None and wished != runtime.members:
        now, then = word_of(runtime.members), word_of(wished)
        return (f"without the hold {then} would be in, now {now}",)
    if verb == "hold" and hold is not None:
        return (f"replaces the hold by {hold.by}: {hold.reason}",)
    return ()
