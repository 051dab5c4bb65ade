"""What the members of a pool of BIG-IP DNS say; pure.

`enabled` and `disabled` are flags: exactly one of them is there, with the value true, and one that
is written as false counts as left out. So `{"enabled": false}` does nothing and is never sent.

Source: tmsh reference, "gtm pool a" (enabled, disabled, manual-resume, ttl).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lb_probe.adapters.icontrol import Json
from lb_probe.adapters.icontrol.answers import entries, version_of, word
from lb_probe.core.model import Seen

ENABLE: Json = {"enabled": True}
DISABLE: Json = {"disabled": True}
LONG_TTL_S = 60
_USABLE = {"available": True, "offline": False, "unavailable": False}


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as one unit has it.

    Attributes:
        enabled: By full path, whether each member is.
        available: By full path, what its monitor says; left out where nobody asked.
        reasons: By full path, why.
        is_latching: A member that goes down stays down until a hand enables it.
        ttl_s: How long resolvers keep an answer.
        version: Of the unit.
    """

    enabled: Mapping[str, bool]
    available: Mapping[str, str]
    reasons: Mapping[str, str]
    is_latching: bool = False
    ttl_s: int = 30
    version: str = ""

    @classmethod
    def of(cls, pool: Json, members: list[Json], stats: Json) -> "PoolState":
        """Read a pool, its members and their statistics."""
        enabled = {str(m.get("fullPath")): m.get("enabled") is True for m in members}
        found = {}
        for _, values in entries(stats):
            # The key of an entry has the two names the other way round: these fields are plain.
            server, virtual = word(values, "serverName"), word(values, "vsName")
            for path in enabled:
                if path == f"{server}:{virtual}" or path == f"/Common/{server}:{virtual}":
                    found[path] = values
        ttl = pool.get("ttl")
        return cls(
            enabled,
            {path: word(values, "status.availabilityState") for path, values in found.items()},
            {path: word(values, "status.statusReason") for path, values in found.items()},
            pool.get("manualResume") == "enabled",
            ttl if type(ttl) is int else 30,
            version_of(pool),
        )


def missing(state: PoolState, nodes: Mapping[str, str]) -> list[str]:
    """Return the members that a pool should have and has not."""
    return list(dict.fromkeys(m for m in nodes.values() if m not in state.enabled))


def is_held_down(state: PoolState, member: str) -> bool:
    """Tell whether it is enabled and its own monitor keeps it out of the answers."""
    return state.enabled[member] and _USABLE.get(state.available.get(member, "")) is False


def chosen(state: PoolState, nodes: Mapping[str, str]) -> frozenset[str]:
    """Return our members that are enabled."""
    return frozenset(m for m in nodes.values() if state.enabled[m])


def read(state: PoolState, nodes: Mapping[str, str]) -> Seen:
    """Return what the pool does; every node's member must be in it.

    Nodes with one member are told apart by nobody here: the first stands for them all.
    """
    members = chosen(state, nodes)
    named = tuple(node for node, member in nodes.items() if member in members)
    only = next(iter(members)) if len(members) == 1 else None
    usable = None if only is None else _USABLE.get(state.available.get(only, ""))
    return Seen(
        named[0] if only else None,
        named,
        also=named[1:] if only else (),
        usable=usable,
        detail="; ".join(_said(state, nodes, only, usable=usable)),
        version=state.version,
    )


def _said(
    state: PoolState, nodes: Mapping[str, str], only: str | None, *, usable: bool | None
) -> list[str]:
    told = [
        f"{member} is enabled and in no node of probes.yaml: it is answered with too"
        for member, is_enabled in state.enabled.items()
        if is_enabled and member not in nodes.values()
    ]
    if only is not None and usable is False:
        told.append(f"{only} is enabled and not answered with: {state.reasons.get(only, '')}")
    if state.is_latching:
        told.append(
            "manualResume is on: a member that went down stays down until it is enabled, which"
            " republish does"
        )
    if state.ttl_s > LONG_TTL_S:
        told.append(f"the pool's ttl is {state.ttl_s}s: resolvers keep the old answer that long")
    return told
