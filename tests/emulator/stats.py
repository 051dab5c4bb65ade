"""Statistics: what `/stats` says of pools, members and DNS pools, as nested entries by full URL."""

from collections.abc import Callable
from typing import Any

from emulator.configuration import Configuration, kind_of
from emulator.health import Health, is_member
from emulator.ltm import NODE, POOL
from emulator.names import Place, full_path, gtm_member_path, link_of, split_member
from emulator.render import Json, node_state

NO_ANSWER = "No successful responses received before deadline"
REASONS = {
    "up": ("available", "Pool member is available"),
    "checking": (
        "unknown",
        "Pool member service checking is enabled, but result is not available yet",
    ),
    "unchecked": ("unknown", "Pool member does not have service checking enabled"),
}
POOL_UNKNOWN = (
    "The children pool member(s) either don't have service checking enabled, or service check "
    "results are not available yet"
)
NODE_UNKNOWN = "Node address does not have service checking enabled"
COUNTERS = ("bitsIn", "bitsOut", "maxConns", "pktsIn", "pktsOut", "totConns")


def text(value: str) -> Json:
    return {"description": value}


def count(value: int) -> Json:
    return {"value": value}


class Statistics:
    """Makes the statistics of one unit.

    Attributes:
        connections: Open connections by member; a test puts them there, and forced offline leaves
            them, as the device does.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.connections: dict[str, int] = {}

    def answer(self, config: Configuration, health: Health, place: Place, *, whole: bool) -> Json:
        """Return the statistics of an object, or of a whole collection."""
        places = list(config.children(place)) if whole else [place]
        config.demand(place, whole=whole)
        stem = kind_of((*place, "x") if whole else place).stem
        return {
            "kind": f"{stem}{'collectionstats' if whole else 'stats'}",
            "generation": config.generation,
            "selfLink": link_of((*place, "stats"), self.version),
            "entries": {
                self._key(each): {"nestedStats": self._nested(config, health, each, stem)}
                for each in places
            },
        }

    def _key(self, place: Place) -> str:
        """Return the URL of an entry. Those of DNS have an order and a suffix of their own."""
        if place[0] == "gtm" and is_member(place):
            server, _, virtual = gtm_member_path(place[-1]).name.partition(":")
            place = (*place[:-1], f"{virtual}:{server}")
        elif place[:2] == ("gtm", "pool"):
            place = (*place, f"{place[-1]}:{place[2].upper()}")
        return link_of((*place, "stats"), self.version).partition("?")[0]

    def _nested(self, config: Configuration, health: Health, place: Place, stem: str) -> Json:
        make: Callable[[Configuration, Health, Place], Json]
        if place[:2] == NODE:
            make = self._node
        elif place[:2] == POOL:
            make = self._member if is_member(place) else self._pool
        else:
            make = self._dns_member if is_member(place) else self._dns_pool
        link = self._key(place) + f"?ver={self.version}"
        return {"kind": f"{stem}stats", "selfLink": link, "entries": make(config, health, place)}

    # ------------------------------------------------------------ local traffic
    def _member(self, config: Configuration, health: Health, place: Place) -> Json:
        values = config.objects[place]
        path = full_path(place[-1])
        node, port = split_member(path.name)
        availability, reason = member_availability(config, health, place)
        open_now = self.connections.get(place[-1], 0)
        return {
            "addr": text(values["address"]),
            **{f"connq.{name}": count(0) for name in ("ageEdm", "ageEma", "ageHead", "ageMax")},
            "connq.depth": count(0),
            "connq.serviced": count(0),
            "curSessions": count(0),
            "monitorRule": text(_rule(health, place, values["monitor"])),
            "monitorStatus": text(_monitor_status(health, place, values["state"])),
            "nodeName": text(f"/{path.partition}/{node}"),
            "poolName": text(place[2]),
            "port": count(port),
            **{f"serverside.{name}": count(0) for name in COUNTERS},
            "serverside.curConns": count(open_now),
            "sessionStatus": text(_session_status(config, place)),
            "status.availabilityState": text(availability),
            "status.enabledState": text(_enabled_state(config, health, place)),
            "status.statusReason": text(reason),
            "totRequests": count(0),
        }

    def _pool(self, config: Configuration, health: Health, place: Place) -> Json:
        members = list(config.children((*place, "members")))
        found = {member_availability(config, health, member)[0] for member in members}
        availability, reason = "unknown", POOL_UNKNOWN
        if "available" in found:
            availability, reason = "available", "The pool is available"
        elif found == {"offline"}:
            availability, reason = "offline", "The children pool member(s) are down"
        usable = [m for m in members if is_usable(config, health, m)]
        return {
            "activeMemberCnt": count(len(usable)),
            "availableMemberCnt": count(len(usable)),
            "curSessions": count(0),
            "memberCnt": count(len(members)),
            "minActiveMembers": count(config.objects[place]["minActiveMembers"]),
            "monitorRule": text(config.objects[place].get("monitor", "none")),
            **{f"serverside.{name}": count(0) for name in COUNTERS},
            "serverside.curConns": count(sum(self.connections.get(m[-1], 0) for m in members)),
            "status.availabilityState": text(availability),
            "status.enabledState": text("enabled"),
            "status.statusReason": text(reason),
            "tmName": text(place[-1]),
            "totRequests": count(0),
        }

    def _node(self, config: Configuration, health: Health, place: Place) -> Json:
        values = config.objects[place]
        is_down = values["state"] == "user-down"
        return {
            "addr": text(values["address"]),
            "curSessions": count(0),
            "monitorRule": text("none"),
            "monitorStatus": text("forced-down" if is_down else "unchecked"),
            **{f"serverside.{name}": count(0) for name in COUNTERS},
            "serverside.curConns": count(0),
            "sessionStatus": text(values["session"].removeprefix("user-")),
            "status.availabilityState": text("offline" if is_down else "unknown"),
            "status.enabledState": text(values["session"].removeprefix("user-")),
            "status.statusReason": text("Forced down" if is_down else NODE_UNKNOWN),
            "tmName": text(place[-1]),
        }

    # ------------------------------------------------------------ DNS
    def _dns_member(self, config: Configuration, health: Health, place: Place) -> Json:
        server, _, virtual = place[-1].removeprefix("/Common/").partition(":")
        availability, reason = dns_availability(config, health, place)
        is_enabled = config.objects[place]["enabled"]
        return {
            "alternate": count(0),
            "fallback": count(0),
            "poolName": text(place[-3]),
            "poolType": text(place[2].upper()),
            "preferred": count(0),
            "serverName": text(f"/Common/{server}"),
            "status.availabilityState": text(availability),
            "status.enabledState": text("enabled" if is_enabled else "disabled"),
            "status.statusReason": text(reason),
            "vsName": text(virtual),
        }

    def _dns_pool(self, config: Configuration, health: Health, place: Place) -> Json:
        if place[:2] != ("gtm", "pool"):
            return {}
        found = [
            dns_availability(config, health, member)[0]
            for member in config.children((*place, "members"))
            if config.objects[member]["enabled"]
        ]
        availability, reason = "offline", "No enabled pool members available"
        if "available" in found:
            availability, reason = "available", "Available"
        elif "unknown" in found:
            availability, reason = "unknown", "Checking"
        is_enabled = config.objects[place]["enabled"]
        return {
            "alternate": count(0),
            "dropped": count(0),
            "fallback": count(0),
            "poolType": text(place[2].upper()),
            "preferred": count(0),
            "returnFromDns": count(0),
            "returnToDns": count(0),
            "status.availabilityState": text(availability),
            "status.enabledState": text("enabled" if is_enabled else "disabled"),
            "status.statusReason": text(reason),
            "tmName": text(place[-1]),
        }


# ---------------------------------------------------------------- what the words mean
def _rule(health: Health, place: Place, own: Any) -> str:
    rule = health.rule(place)
    if rule in ("none", ""):
        return "none"
    return f"{rule} ({'pool' if own == 'default' else 'pool member'} monitor)"


def _monitor_status(health: Health, place: Place, state: str) -> str:
    if state == "user-down":
        return "forced-down"
    return health.word(place)


def _session_status(config: Configuration, place: Place) -> str:
    if config.objects[place]["session"] == "user-disabled":
        return "user-disabled"
    return "addr-disabled" if _is_node_off(config, place) else "enabled"


def _enabled_state(config: Configuration, health: Health, place: Place) -> str:
    if config.objects[place]["session"] == "user-disabled" or health.is_drained(place):
        return "disabled"
    return "disabled-by-parent" if _is_node_off(config, place) else "enabled"


def _is_node_off(config: Configuration, place: Place) -> bool:
    node = node_state(config, place)
    return (node["session"], node["state"]) != ("user-enabled", "user-up")


def member_availability(config: Configuration, health: Health, place: Place) -> tuple[str, str]:
    """Return availability of an LTM member and the reason, in the device's words."""
    values = config.objects[place]
    if values["state"] == "user-down" or node_state(config, place)["state"] == "user-down":
        return "offline", "Forced down"
    word = health.word(place)
    if word == "down":
        rule = health.rule(place)
        return "offline", f"{rule}: {NO_ANSWER}. @2026/11/28 12:00:00. "
    availability, reason = REASONS[word]
    if values["session"] == "user-disabled" and word == "up":
        reason += ", user disabled"
    return availability, reason


def dns_availability(config: Configuration, health: Health, place: Place) -> tuple[str, str]:
    """Return availability of a member of a DNS pool, and the reason."""
    match health.word(place):
        case "down":
            return "offline", f"Monitor {health.rule(place)}: no reply from big3d: timed out"
        case "checking" | "unchecked":
            return "unknown", "Checking"
        case _:
            return "available", " "


def is_usable(config: Configuration, health: Health, place: Place) -> bool:
    """Tell whether a member may be given new connections."""
    availability, _ = member_availability(config, health, place)
    return availability != "offline" and _enabled_state(config, health, place) == "enabled"
