"""The gates of the operator's verbs: each judges one condition, all are told at once (X5).

`GATES` says which verb asks what. A gate that does not pass refuses the verb, unless the operator
opens it by name: `--override GATE` takes the risk, `--attest GATE=TEXT` vouches for what cannot be
seen from here. Some open to neither, and name the line that helps instead.

Source: guide line 222; R55, R58, X1, X5, X8, X11, X13; DESIGN sections 5 and 6.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.model import Gate, Group, Mode, Page, Saved, Seen, Serving, agreed


@dataclass(frozen=True, slots=True)
class AdapterView:
    """What is known of one load balancer when an operator asks.

    Attributes:
        seen: What it says; None where it cannot be read.
        yielded: Somebody else writes there and we stopped.
        detail: Why it cannot be read; empty when it can.
    """

    name: str
    seen: Seen | None
    yielded: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class World:
    """Everything a gate may look at.

    Attributes:
        group: With the roles that are in force.
        target: The node the verb would send traffic to; None for verbs that move none.
        now: Monotonic seconds.
        agents: What agents vouch for, by gate; empty where no agent says anything.
        doubts: Why agents do not vouch for a gate; empty where no agent says anything.
        loss: What a move to the target at this moment would leave behind; empty where not known.
    """

    group: Group
    saved: Saved
    evidence: Evidence
    adapters: tuple[AdapterView, ...]
    target: str | None
    now: float
    agents: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)
    loss: str = ""


def _act(world: World) -> Gate:
    line = f"lb-probe publish {world.group.name} --to {world.target} --offline --reason '...'"
    return Gate(
        "act",
        world.group.act,
        "`act: true`" if world.group.act else "`act: false`: this group is only observed",
        "`act: true` in probes.yaml",
        open_with="",
        instead="" if world.target is None else line,
    )


def _hands_off(world: World) -> Gate:
    hold = world.saved.hold
    on = hold is not None and hold.hands_off
    found = f"hold with hands off by {hold.by}: {hold.reason}" if hold and on else "no such hold"
    line = f"lb-probe release {world.group.name} --reason '...'"
    return Gate("hands-off", not on, found, "no hold with --hands-off", "", line)


def _moved(world: World) -> Gate:
    name, group = world.group.name, world.group
    off = world.saved.assigned is not None and (
        world.saved.latched or world.saved.assigned != group.primary
    )
    if world.saved.assigned is None:
        found = "nobody has the traffic yet"
        line = f"lb-probe failover {name} --to {group.primary} --reason '...'"
    else:
        found = f"traffic is on {world.saved.assigned}" + (
            ", latched" if world.saved.latched else ""
        )
        line = f"lb-probe status {name}"
    wanted = f"traffic moved off {group.primary}"
    return Gate("moved", off, found if off else f"{found}; nothing to resume", wanted, "", line)


def _primary_serving(world: World) -> Gate:
    group = world.group
    page = world.evidence.page(group.primary, Page.STATUS)
    fresh = ev.is_fresh(page.last, world.now, group.max_age_s)
    passed = fresh and page.passes >= group.rise
    return Gate(
        "primary-serving",
        passed,
        f"{group.primary}: {describe(world, group.primary, Page.STATUS)}",
        f"{group.rise} good answers in a row of its status page, the last at most"
        f" {group.max_age_s:g}s old",
    )


def _single_primary(world: World) -> Gate:
    group = world.group
    modes = {n: ev.mode(world.evidence, group, n, world.now) for n in group.names}
    others = [n for n in group.names if n != group.primary and modes[n] is Mode.PRIMARY]
    # A Primary whose hastatus is silent must not be a deadlock: only two that say so refuse.
    both = modes[group.primary] is Mode.PRIMARY and bool(others)
    said = ", ".join(f"{n} says {modes[n].value}" for n in group.names)
    wanted = f"at most one node that says Mode: Primary (make {', '.join(others)} a Secondary)"
    return Gate("single-primary", not both, said, wanted if both else "at most one Mode: Primary")


def _vouched(gate: str, what: str) -> Callable[[World], Gate]:
    def judge(world: World) -> Gate:
        word, primary, at = world.agents.get(gate, ""), world.group.primary, world.saved.assigned
        other = world.group.candidate if at in (None, primary) else at
        return Gate(
            gate,
            bool(word),
            word or world.doubts.get(gate) or "no agent vouches for it",
            f"{what.format(primary=primary, other=other)}: an agent's evidence, or your word",
            open_with="attest",
        )

    return judge


_synced = _vouched("synced", "a sync of {primary} from {other} after the move")
_same_version = _vouched("same-version", "the same software version on {primary} and {other}")


def _adapters_reachable(world: World) -> Gate:
    bad = [a for a in world.adapters if a.seen is None or a.yielded]
    told = "; ".join(
        f"{a.name}: somebody else writes there (say accept or republish)"
        if a.yielded
        else f"{a.name}: {a.detail or 'not read yet'}"
        for a in bad
    )
    names = ", ".join(a.name for a in world.adapters) or "no load balancers"
    wanted = "every load balancer reachable, and ours alone"
    return Gate("adapters-reachable", not bad, told or f"reachable: {names}", wanted)


def _elsewhere(world: World) -> Gate:
    at = world.saved.assigned
    line = f"lb-probe republish {world.group.name} --reason '...'"
    found = f"traffic is on {at or 'no node yet'}"
    return Gate(
        "elsewhere", at != world.target, found, f"traffic not yet on {world.target}", "", line
    )


def _not_a_resume(world: World) -> Gate:
    back = world.target == world.group.primary and world.saved.assigned is not None
    line = f"lb-probe resume {world.group.name} --reason '...'"
    found = "this would bring traffic back to the Primary" if back else "not a way back"
    return Gate("not-a-resume", not back, found, "resume, which has gates of its own", "", line)


def _target_ready(world: World) -> Gate:
    node = str(world.target)
    says = ev.mode(world.evidence, world.group, node, world.now)
    serves = ev.served(world.evidence, world.group, node, world.now) is Serving.YES
    found = f"{node}: status {describe(world, node, Page.STATUS)}; it says mode {says.value}"
    wanted = "a good status page, or Mode: Standby or Primary in a fresh answer"
    return Gate("target-ready", serves or says is not Mode.UNKNOWN, found, wanted)


def _on_primary(world: World) -> Gate:
    passed = world.saved.assigned == world.group.primary and not world.saved.latched
    is_there = world.saved.assigned == world.target
    line = f"lb-probe failover {world.group.name} --reason '...'"
    line = f"lb-probe status {world.group.name}" if is_there else line
    found = f"traffic is on {world.saved.assigned or 'no node yet'}"
    if world.saved.latched:
        found += ", latched"
    wanted = f"traffic on {world.group.primary}, not latched"
    return Gate("on-primary", passed, found, wanted, "", line)


def _standby_ready(world: World) -> Gate:
    node = str(world.target)
    says = ev.mode(world.evidence, world.group, node, world.now)
    wanted = f"{node} says Mode: Standby in a fresh answer"
    found = f"{node} says {says.value} ({describe(world, node, Page.HASTATUS)})"
    return Gate("standby-ready", says is Mode.STANDBY, found, wanted)


def _roles_observed(world: World) -> Gate:
    group = world.group
    new, old = str(world.target), group.primary
    modes = {n: ev.mode(world.evidence, group, n, world.now) for n in (new, old)}
    contradicts = modes[new] is Mode.STANDBY or modes[old] is Mode.PRIMARY
    found = f"{new} says {modes[new].value}, {old} says {modes[old].value}"
    wanted = f"nodes that do not contradict the swap: {new} Primary, {old} Standby"
    return Gate("roles-observed", not contradicts, found, wanted)


def _assigned(world: World) -> Gate:
    at = world.saved.assigned
    line = f"lb-probe failover {world.group.name} --to {world.group.primary} --reason '...'"
    found = f"traffic is on {at}" if at else "nobody has the traffic yet"
    return Gate("assigned", at is not None, found, "a node with the traffic", "", line)


def _seen_agree(world: World) -> Gate:
    said = [a.seen for a in world.adapters if a.seen is not None]
    passed = len(said) == len(world.adapters) and agreed(said) is not None
    found = ", ".join(
        f"{a.name}: {(a.seen.node or 'no one node') if a.seen else 'cannot be read'}"
        for a in world.adapters
    )
    line = f"lb-probe republish {world.group.name} --reason '...'"
    if world.saved.assigned is None:
        line = f"lb-probe failover {world.group.name} --to {world.group.primary} --reason '...'"
    elif not world.adapters:
        line = f"lb-probe status {world.group.name}"  # there is nothing to take over, or to write
    wanted = "all load balancers agree on one node"
    return Gate("seen-agree", passed, found or "no load balancers", wanted, "", line)


def _held(world: World) -> Gate:
    hold = world.saved.hold
    found = f"hold by {hold.by}: {hold.reason}" if hold else "no hold is on; nothing to release"
    line = f"lb-probe status {world.group.name}"
    return Gate("held", hold is not None, found, "a hold", "", line)


REQUIRABLE: Mapping[str, Callable[[World], Gate]] = {
    "primary-serving": _primary_serving,
    "single-primary": _single_primary,
    "synced": _synced,
    "same-version": _same_version,
    "adapters-reachable": _adapters_reachable,
}
_WRITES = (_act, _hands_off)

GATES: Mapping[str, tuple[Callable[[World], Gate], ...]] = {
    "resume": (_moved, *_WRITES, _adapters_reachable),  # and what `resume.require` adds
    "failover": (_elsewhere, _not_a_resume, *_WRITES, _target_ready),
    "switchover": (_on_primary, *_WRITES, _primary_serving, _standby_ready, _adapters_reachable),
    "swap-roles": (_assigned, _roles_observed),
    "accept": (_seen_agree,),
    "republish": (_assigned, *_WRITES),
    "hold": (),
    "release": (_held,),
    "ack": (),
}


def judge(verb: str, world: World) -> tuple[Gate, ...]:
    """Judge every gate of this verb; each gate once, in the order of the table."""
    gates = GATES[verb]
    if verb == "resume":
        wanted = [REQUIRABLE[name] for name in world.group.require]
        gates = tuple(dict.fromkeys((*gates, *wanted)))
    return tuple(gate(world) for gate in gates)


def paste(verb: str, world: World, gates: tuple[Gate, ...], said: str = "--reason '...'") -> str:
    """Return the one line to paste after a refusal: what opens every closed gate, or helps instead.

    Args:
        said: The options the operator gave already, as they stand in a line.

    >>> from lb_probe.core.model import Node, Role
    >>> group = Group("epmm", (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True)))
    >>> world = World(group, Saved(), Evidence(0.0), (), "a", 0.0)
    >>> paste("resume", world, (Gate("synced", False, "", "", open_with="attest"),))
    "lb-probe resume epmm --reason '...' --attest synced='Completed HH:MMZ'"
    """
    closed = [gate for gate in gates if not gate.passed]
    for gate in closed:
        if not gate.open_with:
            return gate.instead
    words = [f"lb-probe {verb} {world.group.name}"]
    if verb == "failover" and world.target != world.group.candidate:
        words.append(f"--to {world.target}")
    words.append(said)
    for gate in closed:
        is_override = gate.open_with == "override"
        word = "Completed HH:MMZ" if gate.id == "synced" else "..."
        words.append(f"--override {gate.id}" if is_override else f"--attest {gate.id}='{word}'")
    return " ".join(words)


def describe(world: World, node: str, page: Page) -> str:
    """Say in a few words what a page's evidence is: verdict, row of answers, age."""
    known = world.evidence.page(node, page)
    if known.last is None:
        return "never probed"
    age = f"{world.now - known.last.started_at:.1f}s ago"
    if known.passes:
        return f"{known.passes} good in a row, last {age}"
    return f"{known.fails} failed in a row, last {age}"
