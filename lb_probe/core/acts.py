"""What each of the operator's verbs makes of the saved state: values in, values out.

`plan` judges the gates of `core.resume` and builds the next `Saved`; the controller saves it,
publishes it and reads it back. Nothing here moves traffic by itself, and no verb but `resume` and
`swap-roles` arms automation again.

Source: DESIGN sections 3 and 6; guide lines 222 and 226; X1, X4, X5, X13, X16.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from shlex import quote

from lb_probe.core.model import Change, Gate, Group, Hold, Role, Saved, agreed
from lb_probe.core.resume import GATES, World, judge, paste

VERBS = tuple(GATES)
MOVING = ("resume", "failover", "switchover")


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asked for.

    Attributes:
        to: Node for failover; None for the verb's own choice.
        until_wall: When a hold is due, UTC seconds since 1970.
        override: Gates to open at the operator's risk.
        attest: Gates the operator vouches for, with the words.
    """

    verb: str
    actor: str
    reason: str
    at_wall: float
    to: str | None = None
    until_wall: float = 0.0
    hands_off: bool = False
    override: frozenset[str] = frozenset()
    attest: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done.

    Attributes:
        saved: The next state; None where nothing would be saved (republish).
        closed: Gates that neither passed nor were opened; empty when the plan may go ahead.
        paste: The line that would do it; empty where nothing is closed.
        warnings: What an operator should know before saying yes.
    """

    verb: str
    source: str | None
    target: str | None
    gates: tuple[Gate, ...]
    closed: tuple[Gate, ...]
    paste: str
    saved: Saved | None
    warnings: tuple[str, ...] = ()


def target_of(request: Request, group: Group, world_assigned: str | None) -> str | None:
    """Return the node this verb would send traffic to; None for verbs that move none."""
    if request.verb == "resume":
        return group.primary
    if request.verb in ("failover", "switchover"):
        return request.to or group.candidate
    if request.verb == "swap-roles":
        moved = world_assigned not in (None, group.primary)
        return world_assigned if moved else group.candidate
    return None


def plan(request: Request, world: World) -> Plan:
    """Judge the gates and build the next state.

    Args:
        world: With `target` as `target_of` gives it.
    """
    gates = tuple(_opened(gate, request) for gate in judge(request.verb, world))
    closed = tuple(gate for gate in gates if not gate.passed)
    line = paste(request.verb, world, gates, _said(request)) if closed else ""
    after = None if request.verb == "republish" else _NEXT[request.verb](request, world)
    if after is not None:
        change = Change(
            kind=_kind(request, world),
            source=world.saved.assigned,
            target=after.assigned,
            at_wall=request.at_wall,
            actor=request.actor,
            reason=request.reason,
            evidence=(world.loss,) if world.loss and request.verb in MOVING else (),
            notes=_notes(request, gates),
        )
        after = replace(after, generation=world.saved.generation + 1, last_change=change)
    target = after.assigned if after else world.saved.assigned
    return Plan(request.verb, world.saved.assigned, target, gates, closed, line, after)


def _said(request: Request) -> str:
    """Return the reason and the gates an operator opened already, as words of a command line."""
    words = [f"--reason {quote(request.reason)}"]
    words += [f"--override {quote(name)}" for name in sorted(request.override)]
    words += [f"--attest {quote(f'{gate}={text}')}" for gate, text in request.attest.items()]
    return " ".join(words)


def _opened(gate: Gate, request: Request) -> Gate:
    if gate.passed:
        return gate
    if gate.open_with == "attest" and request.attest.get(gate.id):
        return replace(gate, passed=True, found=f"{request.actor}: {request.attest[gate.id]}")
    if gate.open_with and gate.id in request.override:
        return replace(gate, passed=True, found=f"overridden by {request.actor}; {gate.found}")
    return gate


def _notes(request: Request, gates: tuple[Gate, ...]) -> Mapping[str, str]:
    ids = {gate.id for gate in gates}
    notes = {f"override {name}": request.reason for name in sorted(request.override & ids)}
    notes |= {f"attest {name}": text for name, text in request.attest.items() if name in ids}
    return notes


def _kind(request: Request, world: World) -> str:
    if request.verb == "failover" and world.target == world.group.primary:
        return "assign"
    return request.verb


def _resume(request: Request, world: World) -> Saved:
    return replace(world.saved, assigned=world.group.primary, latched=False, acked=None)


def _move(request: Request, world: World) -> Saved:
    latched = world.saved.latched or world.target != world.group.primary
    return replace(world.saved, assigned=world.target, latched=latched, acked=None)


def _hold(request: Request, world: World) -> Saved:
    hold = Hold(request.actor, request.reason, request.until_wall, request.hands_off)
    return replace(world.saved, hold=hold)


def _release(request: Request, world: World) -> Saved:
    return replace(world.saved, hold=None)


def _swap_roles(request: Request, world: World) -> Saved:
    old, new = world.group.primary, str(world.target)
    roles = {node.name: node.role for node in world.group.nodes}
    roles |= {old: Role.SECONDARY, new: Role.PRIMARY}
    latched = world.saved.assigned != new  # with the traffic it is at home; else it stays moved
    return replace(world.saved, roles=roles, latched=latched, acked=None)


def _ack(request: Request, world: World) -> Saved:
    return replace(world.saved, acked=f"{request.actor}: {request.reason}")


def _accept(request: Request, world: World) -> Saved:
    said = [a.seen for a in world.adapters if a.seen is not None]
    node = agreed(said) or world.saved.assigned
    latched = world.saved.latched or node != world.group.primary
    return replace(world.saved, assigned=node, latched=latched, acked=None)


_NEXT: Mapping[str, Callable[[Request, World], Saved]] = {
    "resume": _resume,
    "failover": _move,
    "switchover": _move,
    "hold": _hold,
    "release": _release,
    "swap-roles": _swap_roles,
    "ack": _ack,
    "accept": _accept,
}


def fail_over(
    saved: Saved, target: str, *, at_wall: float, rule: str, condition: str, why: tuple[str, ...]
) -> Saved:
    """Return the state after the rule moved traffic to `target`: latched, one generation on."""
    change = Change(
        kind="failover",
        source=saved.assigned,
        target=target,
        at_wall=at_wall,
        actor="lb-probe",
        reason="the Primary's probe fails and the Secondary says Mode: Standby",
        rule=rule,
        condition=condition,
        evidence=why,
    )
    return replace(
        saved,
        assigned=target,
        latched=True,
        acked=None,
        generation=saved.generation + 1,
        last_change=change,
    )


def by_itself(
    saved: Saved, kind: str, assigned: str | None, latched: bool, at_wall: float, reason: str
) -> Saved:
    """Return the state after the prober itself took note of something at start."""
    change = Change(kind, saved.assigned, assigned, at_wall, "lb-probe", reason)
    return replace(
        saved,
        assigned=assigned,
        latched=latched,
        generation=saved.generation + 1,
        last_change=change,
    )


def drop_roles(saved: Saved, at_wall: float) -> Saved:
    """Return the state after the file came to agree with the roles that swap-roles saved."""
    change = Change(
        "roles-agreed", saved.assigned, saved.assigned, at_wall, "lb-probe", "the file agrees"
    )
    return replace(saved, roles=None, generation=saved.generation + 1, last_change=change)


def lapse_hold(saved: Saved, at_wall: float) -> Saved:
    """Return the state after a hold that was due ended in condition `normal`."""
    change = Change(
        "hold-lapsed", saved.assigned, saved.assigned, at_wall, "lb-probe", "due, and all is normal"
    )
    return replace(saved, hold=None, generation=saved.generation + 1, last_change=change)
