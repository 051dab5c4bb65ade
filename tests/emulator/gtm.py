"""Kinds of BIG-IP DNS: data centres, servers with their virtual servers, pools, wide IPs.

`enabled` and `disabled` are flags of tmsh's: exactly one is shown, and its value is true. A false
flag counts as absent, so a body of `{"enabled": false}` says nothing at all.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emulator.errors import Refusal, not_found, refused
from emulator.folders import demand_folder
from emulator.names import FullPath, Place, gtm_member_path
from emulator.schema import TEXT, Field, Kind, Write, number, switch, words

if TYPE_CHECKING:
    from emulator.configuration import Configuration

ADDRESS_RECORDS = ("a", "aaaa")
NAME_RECORDS = ("cname", "mx", "naptr", "srv")

FLAGS = {"enabled": Field(), "disabled": Field()}

LIMITS = {
    field: value
    for name in ("Bps", "Connections", "Pps")
    for field, value in (
        (f"limitMax{name}", number(0)),
        (f"limitMax{name}Status", switch("disabled", "enabled")),
    )
}

METHODS = (
    *("completion-rate", "cpu", "drop-packet", "fewest-hops", "kilobytes-per-second"),
    *("least-connections", "lowest-round-trip-time", "packet-rate", "quality-of-service"),
    *("ratio", "static-persistence", "topology", "virtual-server-capacity"),
    *("virtual-server-score", "global-availability"),
)
METHOD = words("round-robin", "none", "fallback-ip", "return-to-dns", *METHODS)

POOL_FIELDS = {
    "alternateMode": METHOD,
    "description": TEXT,
    "dynamicRatio": switch("disabled", "enabled"),
    **FLAGS,
    "fallbackIp": Field("any"),
    "fallbackMode": words("return-to-dns", "none", "fallback-ip", "round-robin", *METHODS),
    "limitMaxBps": number(0),
    "limitMaxBpsStatus": switch("disabled", "enabled"),
    "limitMaxConnections": number(0),
    "limitMaxConnectionsStatus": switch("disabled", "enabled"),
    "limitMaxPps": number(0),
    "limitMaxPpsStatus": switch("disabled", "enabled"),
    "loadBalancingMode": METHOD,
    "manualResume": switch("disabled", "enabled"),
    "maxAnswersReturned": number(1, 1, 500),
    "members": Field(),
    "metadata": Field(),
    "monitor": Field("default"),
    "qosHitRatio": number(5),
    "qosHops": number(0),
    "qosKilobytesSecond": number(3),
    "qosLcs": number(30),
    "qosPacketRate": number(1),
    "qosRtt": number(50),
    "qosTopology": number(0),
    "qosVsCapacity": number(0),
    "qosVsScore": number(0),
    "ttl": number(30, 0, 4294967295),
    "verifyMemberAvailability": switch("enabled", "disabled"),
}
MEMBER_FIELDS = {
    "description": TEXT,
    **FLAGS,
    **LIMITS,
    "memberOrder": number(0, 0, 65535),
    "monitor": Field("default"),
    "ratio": number(1, 0, 65535),
}
NAME_MEMBER_FIELDS = {
    "description": TEXT,
    **FLAGS,
    "flags": TEXT,
    "memberOrder": number(0, 0, 65535),
    "order": number(10, 0, 65535),
    "port": Field(),
    "preference": number(10, 0, 65535),
    "priority": number(10, 0, 65535),
    "ratio": number(1, 0, 65535),
    "service": TEXT,
    "staticTarget": switch("no", "yes"),
    "weight": number(10, 0, 65535),
}
SERVER_FIELDS = {
    "addresses": Field(),
    "datacenter": TEXT,
    "description": TEXT,
    "devices": Field(),
    **FLAGS,
    "exposeRouteDomains": switch("no", "yes"),
    "iqAllowPath": switch("yes", "no"),
    "iqAllowServiceCheck": switch("yes", "no"),
    "iqAllowSnmp": switch("yes", "no"),
    "limitCpuUsage": number(0),
    "limitCpuUsageStatus": switch("disabled", "enabled"),
    "limitMemAvail": number(0),
    "limitMemAvailStatus": switch("disabled", "enabled"),
    **LIMITS,
    "linkDiscovery": words("disabled", "enabled", "enabled-no-delete"),
    "metadata": Field(),
    "monitor": TEXT,
    "product": Field("bigip"),
    "proberFallback": Field("inherit"),
    "proberPool": TEXT,
    "proberPreference": Field("inherit"),
    "virtualServerDiscovery": words("disabled", "enabled", "enabled-no-delete"),
    "virtualServers": Field(),
}
VIRTUAL_FIELDS = {
    "description": TEXT,
    "destination": TEXT,
    **FLAGS,
    **LIMITS,
    "explicitLinkName": Field("none"),
    "ltmVirtualServer": TEXT,
    "monitor": TEXT,
    "translationAddress": Field("none"),
    "translationPort": Field(0),
    "dependsOn": Field(),
}
WIDEIP_FIELDS = {
    "aliases": Field(),
    "description": TEXT,
    **FLAGS,
    "failureRcode": Field("noerror"),
    "failureRcodeResponse": switch("disabled", "enabled"),
    "failureRcodeTtl": number(0),
    "lastResortPool": Field(""),
    "loadBalancingDecisionLogVerbosity": Field(),
    "metadata": Field(),
    "minimalResponse": switch("enabled", "disabled"),
    "persistCidrIpv4": number(32),
    "persistCidrIpv6": number(128),
    "persistence": switch("disabled", "enabled"),
    "poolLbMode": METHOD,
    "pools": Field(),
    "rules": Field(),
    "topologyPreferEdns0ClientSubnet": switch("disabled", "enabled"),
    "ttlPersistence": number(3600),
}
DATACENTER_FIELDS = {
    "contact": TEXT,
    "description": TEXT,
    **FLAGS,
    "location": TEXT,
    "metadata": Field(),
    "proberFallback": Field("any-available"),
    "proberPool": TEXT,
    "proberPreference": Field("inside-datacenter"),
}


class FlaggedKind(Kind):
    """Whatever is either enabled or disabled."""

    def defaults(self) -> dict[str, Any]:
        return super().defaults() | {"enabled": True}

    def cleaned(self, values: Mapping[str, Any], verb: Write) -> dict[str, Any]:
        given = {flag: values[flag] for flag in FLAGS if flag in values}
        rest = {key: value for key, value in values.items() if key not in given}
        out = super().cleaned(rest, verb)
        wanted = [flag for flag, value in given.items() if value is True]
        if len(wanted) == 2:
            raise refused(400, '"enabled" and "disabled" may not be specified together')
        if wanted:
            out["enabled"] = wanted[0] == "enabled"
        if isinstance(monitor := out.get("monitor"), str):
            out["monitor"] = monitor.strip()
        return out

    def rendered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        out = super().rendered(values)
        is_enabled = out.pop("enabled")
        if str(out.get("monitor", "")).startswith("/"):
            out["monitor"] += " "  # the device's, and nobody else's
        return out | {"enabled" if is_enabled else "disabled": True}

    def check(self, config: "Configuration", place: Place) -> None:
        demand_folder(config, place[-1])


class ServerKind(FlaggedKind):
    """A server: a BIG-IP, or some other host, with an address and a data centre."""

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        values = config.objects[place]
        center = values.get("datacenter")
        if not center:
            text = "Server must have a datacenter"
            raise refused(400, f"01020057:3: {text} ({place[-1]}).", 3)
        center = center if str(center).startswith("/") else f"/Common/{center}"
        if ("gtm", "datacenter", center) not in config.objects:
            raise not_found("Data Center", center)
        values["datacenter"] = center
        for virtual in values.pop("virtualServers", None) or ():
            config.create((*place, "virtual-servers"), virtual)

    def deleting(self, config: "Configuration", place: Place) -> None:
        take_out(config, place)


class VirtualKind(FlaggedKind):
    """A virtual server of a server. Its name has no partition, and may be full of slashes."""

    def path_of(self, segment: str) -> FullPath:
        return FullPath("", "", segment)

    def path_from(self, parent: Place, values: Mapping[str, Any]) -> FullPath:
        return FullPath("", "", str(values["name"]))

    def missing(self, place: Place) -> Refusal:
        return refused(404, f"Object not found - {place[-3]}:{place[-1]}", 1)

    def check(self, config: "Configuration", place: Place) -> None:
        if "destination" not in config.objects[place]:
            raise refused(400, "one or more properties must be specified")

    def deleting(self, config: "Configuration", place: Place) -> None:
        """Take it out of the pools that have it."""
        take_out(config, place)


def take_out(config: "Configuration", gone: Place) -> None:
    """Delete the members of pools that are a virtual server, or one of a server."""
    for place in list(config.objects):
        is_member = place[:2] == ("gtm", "pool") and place[2] in ADDRESS_RECORDS and len(place) == 6
        if is_member and virtual_of(gtm_member_path(place[-1]))[: len(gone)] == gone:
            config.delete(place)


class MemberKind(FlaggedKind):
    """A member of a pool: `server:virtual-server`, always in Common. It must exist as both."""

    def path_of(self, segment: str) -> FullPath:
        return gtm_member_path(segment)

    def path_from(self, parent: Place, values: Mapping[str, Any]) -> FullPath:
        name = str(values["name"])
        folder = values.get("subPath")
        return gtm_member_path(f"{folder}/{name}" if folder else name)

    def missing(self, place: Place) -> Refusal:
        return refused(404, f"Object not found - {place[-1]}", 1)

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        virtual = virtual_of(gtm_member_path(place[-1]))
        if virtual not in config.objects:
            text = f"The requested GTM Virtual Server ({virtual[-1]} {virtual[2]}) was not found."
            raise refused(404, f"01020036:3: {text}", 3)
        if "memberOrder" not in body:
            order = sum(1 for _ in config.children(place[:-1])) - 1
            config.objects[place]["memberOrder"] = order

    def changed(
        self,
        config: "Configuration",
        place: Place,
        before: Mapping[str, Any],
        body: Mapping[str, Any],
    ) -> None:
        if config.objects[place]["enabled"]:
            config.note("enabled again" if before["enabled"] else "enabled", place)

    def check(self, config: "Configuration", place: Place) -> None:
        """Partition and folder are its server's, which exists."""


def virtual_of(member: FullPath) -> Place:
    """Return the place of the virtual server that a member is."""
    whole = str(member).removeprefix(f"/{member.partition}/")
    server, _, virtual = whole.partition(":")
    return ("gtm", "server", f"/{member.partition}/{server}", "virtual-servers", virtual)


class NameMemberKind(FlaggedKind):
    """A member of a pool of names: a wide IP, or any name where it is static."""

    def path_of(self, segment: str) -> FullPath:
        return FullPath("", "", segment)

    def path_from(self, parent: Place, values: Mapping[str, Any]) -> FullPath:
        return FullPath("", "", str(values["name"]))

    def check(self, config: "Configuration", place: Place) -> None:
        is_there = any(
            other[:2] == ("gtm", "wideip") and other[-1] == f"/Common/{place[-1]}"
            for other in config.objects
        )
        if not is_there and config.objects[place]["staticTarget"] == "no":
            raise not_found("Wide IP", f"/Common/{place[-1]}")


class PoolKind(FlaggedKind):
    """A pool of one type of record."""

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        for member in config.objects[place].pop("members", None) or ():
            values = member if isinstance(member, Mapping) else {"name": str(member)}
            config.create((*place, "members"), values)

    def changed(
        self,
        config: "Configuration",
        place: Place,
        before: Mapping[str, Any],
        body: Mapping[str, Any],
    ) -> None:
        members = config.objects[place].pop("members", None)
        if members is None:
            return
        for member in config.children((*place, "members")):
            config.delete(member)
        for member in members:
            values = member if isinstance(member, Mapping) else {"name": str(member)}
            config.create((*place, "members"), values)


class WideIpKind(FlaggedKind):
    """A name that is answered from pools."""

    def check(self, config: "Configuration", place: Place) -> None:
        super().check(config, place)
        if "." not in place[-1]:
            text = f"Wide IP name ({place[-1]}) must be a fully qualified domain name"
            raise refused(400, f"01020058:3: {text}.", 3)
        for pool in config.objects[place].get("pools", ()):
            name = pool["name"] if isinstance(pool, Mapping) else str(pool)
            partition = pool.get("partition", "Common") if isinstance(pool, Mapping) else "Common"
            full = name if name.startswith("/") else f"/{partition}/{name}"
            if ("gtm", "pool", place[2], full) not in config.objects:
                raise not_found("GTM Pool", full)


GTM_KINDS = (
    FlaggedKind("gtm/datacenter", "Data Center", DATACENTER_FIELDS),
    ServerKind("gtm/server", "Server", SERVER_FIELDS, "virtual-servers"),
    VirtualKind("gtm/server/*/virtual-servers", "Virtual Server", VIRTUAL_FIELDS),
    *(
        kind
        for record in (*ADDRESS_RECORDS, *NAME_RECORDS)
        for kind in (
            PoolKind(f"gtm/pool/{record}", "Pool", POOL_FIELDS, "members"),
            WideIpKind(f"gtm/wideip/{record}", "Wide IP", WIDEIP_FIELDS),
        )
    ),
    *(
        MemberKind(f"gtm/pool/{record}/*/members", "Pool Member", MEMBER_FIELDS)
        for record in ADDRESS_RECORDS
    ),
    *(
        NameMemberKind(f"gtm/pool/{record}/*/members", "Pool Member", NAME_MEMBER_FIELDS)
        for record in NAME_RECORDS
    ),
)
