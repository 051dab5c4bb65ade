"""Where a group begins when the prober starts: what was saved, or what the load balancers say.

The prober never asserts what it does not know. A saved change that not every adapter confirmed is
finished; otherwise the saved word stands, save for one case: saved and confirmed on the Primary,
while every readable load balancer agrees on another node, somebody moved traffic without us (X18).

Source: DESIGN section 1, "Start"; X1, X18.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lb_probe.core.model import Group, Saved, Seen, agreed


@dataclass(frozen=True, slots=True)
class Beginning:
    """How one group begins.

    Attributes:
        kind: `keep`, `finish`, `adopt` (take over what is seen), `assign` (nothing saved and no
            load balancer to ask) or `unassigned`.
        node: The node with the traffic; None when unassigned.
        latched: Whether only resume or swap-roles ends it.
        reason: One sentence for people.
    """

    kind: str
    node: str | None
    latched: bool
    reason: str


def begin(group: Group, saved: Saved | None, seen: Mapping[str, Seen | None]) -> Beginning:
    """Say where this group begins.

    Args:
        group: With the roles that are in force.
        saved: What the store holds; None when it never heard of this group.
        seen: For each adapter what it says; None where it cannot be read.
    """
    if saved is None or saved.assigned is None:
        return _nothing_saved(group, seen)
    if saved.assigned not in group.names:  # refused by `topology_faults`, unless overridden
        found = _nothing_saved(group, seen)
        why = f"{saved.assigned}, which had the traffic, is gone from the file; {found.reason}"
        return replace(found, latched=found.latched or saved.latched, reason=why)
    behind = [name for name in group.adapters if saved.confirmed.get(name, -1) < saved.generation]
    if behind:
        reason = f"generation {saved.generation} is not confirmed by {', '.join(behind)}"
        return Beginning("finish", saved.assigned, saved.latched, f"{reason}; finishing it")
    elsewhere = agreed([s for s in seen.values() if s is not None])
    if saved.assigned == group.primary and elsewhere not in (None, group.primary):
        reason = f"every readable load balancer sends traffic to {elsewhere}, not to us"
        return Beginning("adopt", elsewhere, True, f"{reason}: adopted and latched")
    return Beginning("keep", saved.assigned, saved.latched, "as it was saved")


def _nothing_saved(group: Group, seen: Mapping[str, Seen | None]) -> Beginning:
    if not group.adapters:
        return Beginning("assign", group.primary, False, "no load balancers: the Primary")
    unreadable = [name for name in group.adapters if seen.get(name) is None]
    if unreadable:
        return _unassigned(f"cannot read {', '.join(unreadable)}")
    said_by = {name: s for name, s in seen.items() if s is not None}
    node = agreed(list(said_by.values()))
    if node is None:
        said = ", ".join(f"{name}: {s.word}" for name, s in said_by.items())
        return _unassigned(f"the load balancers name no one node ({said})")
    latched = node != group.primary
    return Beginning("adopt", node, latched, f"all load balancers send traffic to {node}")


def _unassigned(why: str) -> Beginning:
    return Beginning("unassigned", None, False, f"nobody is known to have it: {why}")


def topology_faults(
    saved: Mapping[str, Saved],
    groups: Mapping[str, Group],
    fingerprints: Mapping[str, Mapping[str, str]],
    allowed: frozenset[str] = frozenset(),
) -> list[str]:
    """List what a changed probes.yaml would do to traffic behind our back; empty when nothing.

    Args:
        saved: By the group's present name (a rename by `was` is already followed).
        fingerprints: For each group and node, in lines `place=server`, where traffic for that
            node would really go.
        allowed: Groups for which an operator overrode this by name.
    """
    faults = []
    for name, state in saved.items():
        if name in allowed or state.assigned is None:
            continue
        group = groups.get(name)
        if group is None:
            if state.latched:
                faults.append(
                    f"group {name} is latched on {state.assigned} and is gone from the file; put"
                    f" it back, say `was: {name}` in its new name, or {_override(name)}"
                )
        elif state.assigned not in group.names:
            faults.append(
                f"group {name}: node {state.assigned} has the traffic and is gone from the file;"
                f" put it back, or {_override(name)}"
            )
        elif points_elsewhere(state.fingerprint, fingerprints[name].get(state.assigned, "")):
            faults.append(
                f"group {name}: node {state.assigned} has the traffic and now points to another"
                f" server; put the old address and mapping back, or {_override(name)}"
            )
    return faults


def _override(name: str) -> str:
    return f"say that it is meant: lb-probe prober --override {name}"


def points_elsewhere(before: str, after: str) -> bool:
    r"""Tell whether a place named in both now stands for another server.

    A load balancer that came or went does not count: traffic for the node goes where it went.

    >>> points_elsewhere("url=192.0.2.1:443\nedge=a", "url=192.0.2.1:443\nedge-2=b")
    False
    >>> points_elsewhere("url=192.0.2.1:443", "url=192.0.2.9:443")
    True
    """
    old, new = _places(before), _places(after)
    return any(old[place] != new[place] for place in old.keys() & new.keys())


def _places(fingerprint: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in fingerprint.splitlines())
    return {place: server for place, _, server in pairs}
