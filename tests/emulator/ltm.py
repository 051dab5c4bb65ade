"""Kinds of local traffic: pools, their members, nodes and monitors."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from emulator.errors import Refusal, not_found, refused
from emulator.names import Place, full_path, is_address, split_member
from emulator.schema import (
    READ_ONLY,
    TEXT,
    Field,
    Kind,
    Write,
    number,
    switch,
    words,
)

if TYPE_CHECKING:
    from emulator.configuration import Configuration

POOL: Place = ("ltm", "pool")
NODE: Place = ("ltm", "node")
MONITOR: Place = ("ltm", "monitor")

ADMIN_STATE = {
    "session": words("user-enabled", "user-disabled"),
    "state": words("user-up", "user-down"),
}
"""All that may be written of a state. What GET shows for it is another word."""

MEMBER_FIELDS = {
    "address": Field(write=Write.CREATE),
    "connectionLimit": number(0),
    "description": TEXT,
    "dynamicRatio": number(1, 1, 65535),
    "ephemeral": Field("false", write=Write.NEVER),
    "fqdn": Field({"autopopulate": "disabled"}, write=Write.CREATE),
    "inheritProfile": switch("enabled", "disabled"),
    "logging": switch("disabled", "enabled"),
    "monitor": Field("default"),
    "priorityGroup": number(0, 0, 65535),
    "rateLimit": Field("disabled"),
    "ratio": number(1, 1, 65535),
    **ADMIN_STATE,
}

POOL_FIELDS = {
    "allowNat": switch("yes", "no"),
    "allowSnat": switch("yes", "no"),
    "description": TEXT,
    "gatewayFailsafeDevice": TEXT,
    "ignorePersistedWeight": switch("disabled", "enabled"),
    "ipTosToClient": Field("pass-through"),
    "ipTosToServer": Field("pass-through"),
    "linkQosToClient": Field("pass-through"),
    "linkQosToServer": Field("pass-through"),
    "loadBalancingMode": words(
        "round-robin",
        *("ratio-member", "ratio-node", "ratio-session", "ratio-least-connections-member"),
        *("ratio-least-connections-node", "least-connections-member", "least-connections-node"),
        *("least-sessions", "observed-member", "observed-node", "predictive-member"),
        *("predictive-node", "dynamic-ratio-member", "dynamic-ratio-node", "fastest-node"),
        *("fastest-app-response", "weighted-least-connections-member"),
        "weighted-least-connections-node",
    ),
    "members": Field(),
    "metadata": Field(),
    "minActiveMembers": number(0, 0, 65535),
    "minUpMembers": number(0, 0, 65535),
    "minUpMembersAction": words("failover", "reboot", "restart-all"),
    "minUpMembersChecking": switch("disabled", "enabled"),
    "monitor": TEXT,
    "profiles": TEXT,
    "queueDepthLimit": number(0),
    "queueOnConnectionLimit": switch("disabled", "enabled"),
    "queueTimeLimit": number(0),
    "reselectTries": number(0, 0, 65535),
    "serviceDownAction": words("none", "reset", "drop", "reselect"),
    "slowRampTime": number(10, 0, 65535),
}

NODE_FIELDS = {
    "address": Field(write=Write.CREATE),
    "connectionLimit": number(0),
    "description": TEXT,
    "dynamicRatio": number(1, 1, 65535),
    "ephemeral": Field("false", write=Write.NEVER),
    "fqdn": Field(
        {
            "addressFamily": "ipv4",
            "autopopulate": "disabled",
            "downInterval": 5,
            "interval": "3600",
        },
        write=Write.CREATE,
    ),
    "logging": switch("disabled", "enabled"),
    "metadata": Field(),
    "monitor": Field("default"),
    "rateLimit": Field("disabled"),
    "ratio": number(1, 1, 65535),
    **ADMIN_STATE,
}

MONITOR_FIELDS = {
    "adaptive": switch("disabled", "enabled"),
    "adaptiveDivergenceType": Field(),
    "adaptiveDivergenceValue": number(25),
    "adaptiveLimit": number(200),
    "adaptiveSamplingTimespan": number(300),
    "defaultsFrom": Field(write=Write.CREATE),
    "description": TEXT,
    "destination": Field("*:*"),
    "interval": number(5, 1, 86400),
    "ipDscp": number(0, 0, 63),
    "manualResume": switch("disabled", "enabled"),
    "timeUntilUp": number(0),
    "timeout": number(16, 1, 86400),
    "transparent": switch("disabled", "enabled"),
    "upInterval": number(0),
}
TEXT_MONITOR_FIELDS = MONITOR_FIELDS | {
    "recv": TEXT,
    "recvDisable": TEXT,
    "reverse": switch("disabled", "enabled"),
    "send": TEXT,
}
HTTP_MONITOR_FIELDS = TEXT_MONITOR_FIELDS | {
    "password": TEXT,
    "send": Field("GET /\\r\\n"),
    "username": TEXT,
}
HTTPS_MONITOR_FIELDS = HTTP_MONITOR_FIELDS | {
    "cert": TEXT,
    "cipherlist": Field("DEFAULT"),
    "compatibility": switch("enabled", "disabled"),
    "key": TEXT,
    "sniServerName": TEXT,
    "sslProfile": TEXT,
}


class PoolKind(Kind):
    """A pool; its body may bring the members along, and a PATCH of those replaces them all."""

    def cleaned(self, values: Mapping[str, Any], verb: Write) -> dict[str, Any]:
        out = super().cleaned(values, verb)
        out.pop("members", None)
        if "monitor" in out:
            out["monitor"] = monitor_rule(str(out["monitor"]))
        return out

    def check(self, config: "Configuration", place: Place) -> None:
        demand_folder(config, place[-1])
        demand_monitors(config, config.objects[place].get("monitor", "none"))

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        for member in body.get("members", ()):
            config.create((*place, "members"), _as_member(member))

    def changed(
        self,
        config: "Configuration",
        place: Place,
        before: Mapping[str, Any],
        body: Mapping[str, Any],
    ) -> None:
        members = (*place, "members")
        if before.get("monitor") != config.objects[place].get("monitor"):
            for member in config.children(members):
                config.note("monitor", member)
        if "members" in body:
            for member in config.children(members):
                config.delete(member)
            for member in body["members"]:
                config.note("readded", config.create(members, _as_member(member)))


def _as_member(member: Any) -> Mapping[str, Any]:
    return member if isinstance(member, Mapping) else {"name": str(member)}


class MemberKind(Kind):
    """A member of a pool. Its node is made with it where it is missing."""

    def default_partition(self, parent: Place) -> str:
        return full_path(parent[-2]).partition

    def shown(self, place: Place) -> str:
        """Return pool, node and port, as errors name a member: separated by blanks."""
        path = full_path(place[-1])
        try:
            node, port = split_member(path.name)
        except ValueError:
            return f"{place[-3]} {path}"
        return f"{place[-3]} /{path.partition}/{node} {port}"

    def cleaned(self, values: Mapping[str, Any], verb: Write) -> dict[str, Any]:
        out = super().cleaned(values, verb)
        if "monitor" in out:
            out["monitor"] = monitor_rule(str(out["monitor"]))
        if "rateLimit" in out:
            out["rateLimit"] = str(out["rateLimit"])
        return out

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        path = full_path(place[-1])
        try:
            node, port = split_member(path.name)
        except ValueError:
            raise refused(400, _no_port(path.name)) from None
        if not has_folder(config, place[-1]) or not has_folder(config, place[-3]):
            shown = f"{place[-3]} /{path.partition}/{node} {port}"
            text = f"Can't associate Pool Member ({shown}) folder does not exist"
            raise refused(400, f"01070734:3: Configuration error: {text}", 3)
        values = config.objects[place]
        values["address"] = _node_of(config, path.partition, node, values.get("address"))

    def check(self, config: "Configuration", place: Place) -> None:
        demand_monitors(config, config.objects[place]["monitor"])

    def changed(
        self,
        config: "Configuration",
        place: Place,
        before: Mapping[str, Any],
        body: Mapping[str, Any],
    ) -> None:
        after = config.objects[place]
        if before["monitor"] != after["monitor"]:
            config.note("monitor", place)
        note_admin_state(config, place, before, after, body)


def note_admin_state(
    config: "Configuration",
    place: Place,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    body: Mapping[str, Any],
) -> None:
    """Note what a write of session and state means for the monitors and for manual resume."""
    if before["state"] == "user-down" and after["state"] == "user-up":
        config.note("raised", place)
    if (after["session"], after["state"]) == ("user-enabled", "user-up"):
        if (before["session"], before["state"]) != ("user-enabled", "user-up"):
            config.note("enabled", place)
        elif "session" in body or "state" in body:
            config.note("enabled again", place)


def _no_port(name: str) -> str:
    return (
        f"A port number or service name is missing for {name}. Please specify a port number or "
        f"service name using the syntax {name}:<port>."
    )


def _node_of(config: "Configuration", partition: str, node: str, address: Any) -> str:
    """Return the address of a member's node, which is made where it is missing."""
    place = (*NODE, f"/{partition}/{node}")
    common = (*NODE, f"/Common/{node}")
    for there in (place, common):
        if there in config.objects:
            return str(config.objects[there].get("address", "any6"))
    wanted = str(address) if address else node
    if not is_address(wanted):
        raise refused(
            400, f"01020059:3: IP Address :: is invalid, must not be all zeros ({node}).", 3
        )
    config.create(NODE, {"name": node, "partition": partition, "address": wanted})
    return wanted


class NodeKind(Kind):
    """A node; it cannot go while a pool has it."""

    def cleaned(self, values: Mapping[str, Any], verb: Write) -> dict[str, Any]:
        return super().cleaned({k: v for k, v in values.items() if k != "fqdn"}, verb)

    def check(self, config: "Configuration", place: Place) -> None:
        demand_folder(config, place[-1])
        monitor = config.objects[place]["monitor"]
        if monitor not in ("default", "none"):
            demand_monitors(config, monitor)

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        values = config.objects[place]
        if "address" not in values:
            raise refused(400, "one or more properties must be specified")
        if not is_address(str(values["address"])):
            raise refused(400, f'invalid property value "address":"{values["address"]}"')

    def deleting(self, config: "Configuration", place: Place) -> None:
        for pool in config.children(POOL):
            for member in config.children((*pool, "members")):
                if node_place(member) == place:
                    text = f"'{place[-1]}' is referenced by a member of pool '{pool[-1]}'."
                    raise refused(400, f"01070110:3: Node address {text}", 3)


def node_place(member: Place) -> Place:
    """Return the place of the node that a member of a pool belongs to."""
    path = full_path(member[-1])
    return (*NODE, f"/{path.partition}/{split_member(path.name)[0]}")


class MonitorKind(Kind):
    """A monitor; the built-in one of its type is its parent."""

    def check(self, config: "Configuration", place: Place) -> None:
        demand_folder(config, place[-1])

    def created(self, config: "Configuration", place: Place, body: Mapping[str, Any]) -> None:
        config.objects[place].setdefault("defaultsFrom", f"/Common/{place[-2].replace('-', '_')}")

    def deleting(self, config: "Configuration", place: Place) -> None:
        for other, values in config.objects.items():
            if place[-1] in names_in(str(values.get("monitor", ""))):
                text = f"Monitor {place[-1]} is in use."
                raise refused(400, f"01070083:3: {text} ({other[-1]})", 3)


# ------------------------------------------------------------ monitors
def monitor_rule(text: str) -> str:
    """Return a monitor rule as the device keeps it: full names, braces (ID645289), one blank."""
    names = [str(full_path(name)) for name in names_in(text)]
    if not names:
        return text.strip()
    if found := re.match(r"\s*min\s+(\d+)\s+of\s", text):
        return f"min {found[1]} of {{ {' '.join(names)} }}"
    return " and ".join(names)


def names_in(text: str) -> list[str]:
    """Return the names of monitors in a rule; `default` and `none` name none."""
    bare = re.sub(r"^\s*min\s+\d+\s+of\s", " ", text)
    return [w for w in re.findall(r"[^\s{}]+", bare) if w not in ("and", "default", "none")]


def monitors_of(config: "Configuration", rule: str) -> Iterator[Place]:
    for name in names_in(rule):
        for place in config.objects:
            if place[:-2] == MONITOR and place[-1] == name:
                yield place


def demand_monitors(config: "Configuration", rule: str) -> None:
    found = {place[-1] for place in monitors_of(config, rule)}
    for name in names_in(rule):
        if name not in found:
            raise not_found("monitor rule", name)


# ------------------------------------------------------------ folders
def has_folder(config: "Configuration", name: str) -> bool:
    path = full_path(name)
    if path.partition != "Common" and ("auth", "partition", path.partition) not in config.objects:
        return False
    folder = f"/{path.partition}/{path.sub_path}"
    return not path.sub_path or ("sys", "folder", folder) in config.objects


def demand_folder(config: "Configuration", name: str) -> None:
    if not has_folder(config, name):
        raise no_folder(name)


def no_folder(name: str) -> Refusal:
    path = full_path(name)
    folder = "/".join(("", path.partition, *filter(None, (path.sub_path,))))
    return refused(400, f"The requested folder ({folder}) was not found.")


LTM_KINDS = (
    PoolKind("ltm/pool", "Pool", POOL_FIELDS, "members"),
    MemberKind("ltm/pool/*/members", "Pool Member", MEMBER_FIELDS),
    NodeKind("ltm/node", "Node", NODE_FIELDS),
    *(
        MonitorKind(f"ltm/monitor/{word}", "Monitor", fields)
        for word, fields in {
            "gateway-icmp": MONITOR_FIELDS,
            "http": HTTP_MONITOR_FIELDS,
            "https": HTTPS_MONITOR_FIELDS,
            "tcp": TEXT_MONITOR_FIELDS,
            "tcp-half-open": MONITOR_FIELDS,
        }.items()
    ),
    Kind("ltm/data-group/internal", "Class", {"description": TEXT, "records": TEXT, "type": TEXT}),
    Kind(
        "ltm/virtual",
        "Virtual Server",
        {
            "destination": TEXT,
            "pool": TEXT,
            "ipProtocol": TEXT,
            "enabled": Field(True),
            "mask": TEXT,
            "source": TEXT,
            "description": TEXT,
            "ephemeral": READ_ONLY,
        },
    ),
)
