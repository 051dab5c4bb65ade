"""What the members of a pool say, compared by meaning; pure.

A member is never read as it was written: `user-up` comes back as up, down, checking or unchecked.

Source: tmsh reference, "ltm pool" (session, state); K13310; DESIGN section 3 (usable).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lb_probe.adapters.icontrol import Json
from lb_probe.adapters.icontrol.answers import number, word
from lb_probe.core.model import Seen

ENABLE: Json = {"state": "user-up", "session": "user-enabled"}
# Not `user-disabled` alone: clients that a persistence record knows would still come as new ones.
FORCE_OFFLINE: Json = {"state": "user-down", "session": "user-disabled"}
# The last one is the monitor's word (`recv-disable`) and not an administrator's.
_ENABLED = ("user-enabled", "monitor-enabled", "monitor-disabled")
_USABLE = {"up": True, "unchecked": True, "fqdn-up": True, "down": False, "fqdn-down": False}


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as one unit has it.

    Attributes:
        members: By full path, as the unit gives them.
        least: Its minActiveMembers; above 0 priority groups are on.
        monitor: Its monitor rule, as the unit words it.
        version: Of the unit.
    """

    members: Mapping[str, Json]
    least: int = 0
    monitor: str = ""
    version: str = ""

    @classmethod
    def of(cls, pool: Json, members: list[Json], version: str) -> "PoolState":
        """Read a pool and its members."""
        # Early versions answer for a member that is not there, without an address.
        found = {str(m.get("fullPath")): m for m in members if m.get("address")}
        least = pool.get("minActiveMembers")
        return cls(
            found,
            least if type(least) is int else 0,
            str(pool.get("monitor") or ""),
            version,
        )

    @property
    def obstacle(self) -> str:
        """Why traffic would move back by itself; empty where it would not."""
        if self.least <= 0:
            return ""
        return (
            f"minActiveMembers is {self.least}: with priority groups the pool moves traffic back by"
            " itself, so nothing is published; set it to 0 (min-active-members 0)"
        )


def meaning(member: Json) -> str:
    """Return enabled, disabled or offline, whatever way the unit says it.

    >>> meaning({"state": "down", "session": "monitor-enabled"})
    'enabled'
    """
    state, session = member.get("state"), member.get("session")
    if state == "user-down":
        return "offline"
    return "enabled" if session in _ENABLED else "disabled"


def is_usable(member: Json) -> bool | None:
    """Tell whether its own monitor lets an enabled member have traffic; None while it checks."""
    if member.get("session") == "monitor-disabled":
        return False
    return _USABLE.get(str(member.get("state")))


def is_held_down(member: Json) -> bool:
    """Tell whether it is enabled and its own monitor keeps traffic from it."""
    return meaning(member) == "enabled" and is_usable(member) is False


def missing(state: PoolState, nodes: Mapping[str, str]) -> list[str]:
    """Return the members that a pool should have and has not."""
    return [member for member in nodes.values() if member not in state.members]


def read(state: PoolState, nodes: Mapping[str, str]) -> Seen:
    """Return what the pool does; every node's member must be in it."""
    words = {node: meaning(state.members[member]) for node, member in nodes.items()}
    chosen = tuple(node for node, said in words.items() if said != "offline")
    only = chosen[0] if len(chosen) == 1 and words[chosen[0]] == "enabled" else None
    said = [state.obstacle]
    said += [
        f"{nodes[node]} is disabled and not offline: clients with a persistence record still"
        " reach it"
        for node, text in words.items()
        if text == "disabled"
    ]
    said += [
        f"{member} is enabled and in no node of probes.yaml: it gets traffic too"
        for member, item in state.members.items()
        if member not in nodes.values() and meaning(item) == "enabled"
    ]
    usable = None
    if only is not None:
        found = state.members[nodes[only]]
        usable = is_usable(found)
        if usable is False:
            said.append(
                f"its own monitor holds {nodes[only]} down; where the monitor has manual resume it"
                " stays so until an enable: republish sends one"
            )
        elif str(found.get("state")).endswith("checking"):
            said.append(f"the monitor of {nodes[only]} has not answered yet")
    return Seen(
        only,
        chosen,
        usable=usable,
        detail="; ".join(text for text in said if text),
        version=state.version,
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """What the statistics say of one member.

    Attributes:
        connections: On the server's side, now.
        obstacle: Why it would get no traffic though it is enabled; empty where it would.
    """

    connections: int = 0
    obstacle: str = ""

    @classmethod
    def of(cls, values: Json) -> "Counted":
        """Read one entry of `members/stats`."""
        enabled = word(values, "status.enabledState")
        available = word(values, "status.availabilityState")
        reason = word(values, "status.statusReason")
        obstacle = ""
        if "parent" in enabled:
            obstacle = "its node (ltm node) is disabled"
        elif enabled == "enabled" and available in ("offline", "unavailable"):
            obstacle = reason or available
        return cls(number(values, "serverside.curConns"), obstacle)
