"""One active-active group as people and programs see it, taken at one moment, and its JSON.

The same keys as a group of policy `manual-resume` has, as far as they mean something: nobody is
`assigned` alone and nothing is ever latched; `in` says which nodes get traffic.

Source: DESIGN section 7; `core.view` is the sibling for the other policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lb_probe.core.active_active import NodeDecision, Place, Pool, PoolDecision, Verdict
from lb_probe.core.evidence import Evidence, PageEvidence
from lb_probe.core.model import Change, Failed, Hold, Page, Saved
from lb_probe.core.view import (
    AdapterStatus,
    certificate_until,
    certificate_warnings,
    change_json,
    hold_json,
    iso,
    probe_json,
)

POLICY = "active-active"


@dataclass(frozen=True, slots=True)
class PoolView:
    """Everything that is shown of one active-active group, taken at one moment.

    Attributes:
        saved: Hold, ack and generation; the nodes that are in are not saved.
        members: Nodes that get traffic by our own word.
        disputed: Nodes about which the load balancers differed at start and nobody has judged
            yet; until then nothing is published.
        last_change: The latest of all changes, by operators or by the table.
        now: Monotonic seconds of the moment.
        wall: The same moment, UTC seconds since 1970; None leaves certificates unjudged.
    """

    pool: Pool
    saved: Saved
    members: frozenset[str]
    disputed: frozenset[str]
    decision: PoolDecision
    evidence: Evidence
    adapters: tuple[AdapterStatus, ...]
    last_change: Change | None
    now: float
    wall: float | None = None

    @property
    def name(self) -> str:
        """The group's name."""
        return self.pool.name

    @property
    def policy(self) -> str:
        """The policy's word in probes.yaml."""
        return POLICY

    @property
    def act(self) -> bool:
        """Whether anything is published at all."""
        return self.pool.act

    @property
    def condition(self) -> str:
        """The gravest condition of its nodes."""
        return self.decision.condition

    @property
    def hold(self) -> Hold | None:
        """The operator's switch, where it is on."""
        return self.saved.hold

    @property
    def generation(self) -> int:
        """Grows with every hold, release and ack; an operator's compare-and-set."""
        return self.saved.generation


def word_of(nodes: frozenset[str]) -> str | None:
    """Return a set of nodes as one word; None for the empty set, which is never published.

    >>> word_of(frozenset({"gw-2", "gw-1"}))
    'gw-1+gw-2'
    """
    return "+".join(sorted(nodes)) or None


def set_of(word: str) -> frozenset[str]:
    """Return the set of nodes that `word_of` made this word of; no node's name has a plus."""
    return frozenset(word.split("+"))


def as_json(view: PoolView) -> dict[str, object]:
    """Return the group in the form of DESIGN section 7."""
    return {
        "name": view.name,
        "policy": POLICY,
        "act": view.act,
        "assigned": None,
        "in": [node for node in view.pool.nodes if node in view.members],
        "latched": False,
        "condition": view.condition,
        "rule": view.decision.rule,
        "reason": reason(view),
        "blocked": list(view.decision.blocked),
        "warnings": warnings(view),
        "hold": hold_json(view.hold),
        "acked": view.saved.acked,
        "generation": view.generation,
        "roles_swapped": False,
        "panic_threshold": view.pool.panic_percent,
        "nodes": [_node(view, decision) for decision in view.decision.nodes],
        "adapters": [_adapter(view, adapter) for adapter in view.adapters],
        "last_change": change_json(view.last_change),
    }


def warnings(view: PoolView) -> list[str]:
    """Say what should be seen to though it changes no condition: certificates."""
    return certificate_warnings(view.evidence, view.pool.nodes, view.wall)


def _node(view: PoolView, found: NodeDecision) -> dict[str, object]:
    page = view.evidence.page(found.node, Page.STATUS)
    until = certificate_until(view.evidence, found.node)
    return {
        "name": found.node,
        "role": "member",
        "candidate": False,
        "in": found.node in view.members,
        "rule": found.rule.id,
        "why": why(view, found),
        "serving": found.situation.health.value,
        "mode": "unknown",
        "certificate_until": None if until is None else iso(until),
        "probes": {Page.STATUS.value: probe_json(page, view.now)},
    }


def _adapter(view: PoolView, adapter: AdapterStatus) -> dict[str, object]:
    return {
        "name": adapter.name,
        "type": adapter.type,
        "wanted": sorted(set_of(adapter.wanted)) if adapter.wanted else None,
        "seen": sorted(adapter.seen.chosen) if adapter.seen else None,
        "usable": adapter.seen.usable if adapter.seen else None,
        "in_sync": adapter.in_sync,
        "foreign_writer": adapter.yielded,
        "detail": adapter.told("republish"),
    }


# ------------------------------------------------------------------ sentences
_REASONS: Mapping[str, str] = {
    "all-in": "every node is in and serves",
    "confirming": "every node is in; no verdict yet on {unknown}",
    "some-out": "in: {members}; out: {out}",
    "out-blocked": "fails and stays in: {failing}; blocked by {blocked}",
    "in-blocked": "serves again and stays out: {back}; blocked by {blocked}",
    "panic": "fails and stays in: {failing}; at least {floor} of {all} nodes stay in",
    "prober-isolated": "nothing answers at all: it is us, nothing changes",
}


def reason(view: PoolView) -> str:
    """Return one sentence: what is the case."""
    names = view.pool.nodes
    found = {n.node: n.situation.health for n in view.decision.nodes}
    inside = [n for n in names if n in view.members]
    outside = [n for n in names if n not in view.members]
    text = _REASONS[view.condition].format(
        members=_list(inside),
        out=_list(outside),
        failing=_list([n for n in inside if found[n] is Verdict.FAIL]),
        back=_list([n for n in outside if found[n] is Verdict.OK]),
        unknown=_list([n for n in inside if found[n] is Verdict.UNKNOWN]),
        blocked=_list(view.decision.blocked),
        floor=view.pool.floor,
        all=len(names),
    )
    if view.disputed:
        differ = _list(sorted(view.disputed))
        text += f"; nothing is published before {differ} is judged: the load balancers differ"
    return text


def _list(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


_WHYS: Mapping[str, str] = {
    "N1": "serves",
    "N2": "no verdict: stays as it is",
    "N3": "fails: is taken out",
    "N4": "fails, stays in: {blocked}",
    "N5": "fails, stays in: {floor} of {all} stay in whatever happens",
    "N6": "serves again: is put in",
    "N7": "serves again, stays out: {blocked}",
    "N8": "out until {rise} probes in a row pass",
    "I1": "the prober is cut off: stays as it is",
}


def why(view: PoolView, found: NodeDecision) -> str:
    """Return one sentence: why this node is where it is, and what its page said last."""
    text = _WHYS[found.rule.id].format(
        blocked=_list(view.decision.blocked),
        floor=view.pool.floor,
        all=len(view.pool.nodes),
        rise=view.pool.rise,
    )
    page = view.evidence.page(found.node, Page.STATUS)
    if found.situation.health is Verdict.OK and found.situation.place is Place.IN:
        return text
    return f"{text}; {row_of(page, view.now)}"


def row_of(page: PageEvidence, now: float) -> str:
    """Return one sentence: what a status page said last, and how often in a row.

    Args:
        now: Monotonic seconds.
    """
    last = page.last
    if last is None:
        return "not probed yet"
    age = f"{max(0.0, now - last.started_at):.1f}s ago"
    if not isinstance(last.outcome, Failed):
        return f"{page.passes} passed in a row, last {age}"
    phase, detail = last.outcome.phase.value, last.outcome.detail
    return f"{page.fails} failed in a row, last {age} in phase {phase}: {detail}"


# ------------------------------------------------------------------ an explanation
_NEXT: Mapping[str, str] = {
    "all-in": "nothing",
    "confirming": "wait some seconds; if it stays, see which node below is not probed",
    "some-out": "repair what is out; it comes back by itself after {rise} good probes in a row",
    "out-blocked": "{brakes}; until then what fails has traffic",
    "in-blocked": "{brakes}; until then what serves again has none",
    "panic": "look first whether it is us (an expired certificate, a changed page, the path):"
    " lb-probe probe {name}/NODE; then repair the nodes",
    "prober-isolated": "repair the prober's network; old failures will not count",
}
_RELEASES: Mapping[str, str] = {
    "hold": "to end the hold: lb-probe release {name} --reason 'why'",
    "act": "`act: false` in probes.yaml only observes; `act: true` would act",
    "store-not-writable": "give the store room, disk or permissions; then it goes on by itself",
}


def next_step(view: PoolView) -> str:
    """Return what an operator would do next, as a clause."""
    brakes = "; ".join(_RELEASES[brake].format(name=view.name) for brake in view.decision.blocked)
    step = _NEXT[view.condition].format(name=view.name, rise=view.pool.rise, brakes=brakes)
    foreign = _list([a.name for a in view.adapters if a.yielded])
    if foreign != "none":
        step += f"; find who else writes to {foreign}, then: lb-probe republish {view.name}"
    return step


def explain(view: PoolView) -> str:
    """Explain a group in words for someone woken at night."""
    inside = [n for n in view.pool.nodes if n in view.members]
    width = max(len(name) for name in view.pool.nodes)
    parts = [
        f"{view.name}: {view.condition}. Traffic is on {_list(inside)}.",
        f"Why: {reason(view)} (rule {view.decision.rule}).",
        f"Next: {next_step(view)}.",
        "",
        "Nodes:",
        *[
            f"  {found.node:<{width}}  {'in' if found.node in view.members else 'out':<3}"
            f"  {why(view, found)}"
            for found in view.decision.nodes
        ],
        "",
        "Load balancers:",
        *(map(_told, view.adapters) if view.adapters else ["  none: decisions are shown only"]),
    ]
    if view.hold:
        hands = ", hands off: nothing is written" if view.hold.hands_off else ""
        until = iso(view.hold.until_wall)
        parts += ["", f"Hold by {view.hold.by} until {until}{hands}: {view.hold.reason}"]
    if found := warnings(view):
        parts += ["", "To see to:", *(f"  {text}" for text in found)]
    at_least = f"at least {view.pool.floor} of {len(view.pool.nodes)} stay in"
    parts += ["", f"Nodes go out and come back by themselves; {at_least}, whatever happens."]
    return "\n".join(parts) + "\n"


def _told(adapter: AdapterStatus) -> str:
    seen = _list(sorted(adapter.seen.chosen)) if adapter.seen else "unreadable"
    wanted = _list(sorted(set_of(adapter.wanted))) if adapter.wanted else "none"
    state = "in sync" if adapter.in_sync else "NOT in sync"
    if adapter.yielded:
        state = "foreign-writer: republish"
    elif adapter.wanted is None:
        state = "nothing is written"
    line = f"  {adapter.name}: wanted {wanted}, seen {seen}, {state}. {adapter.detail}"
    return line.rstrip()
