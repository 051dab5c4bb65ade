"""Kinds of local traffic: pools, their members, nodes and monitors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emulator.errors import refused
from emulator.folders import demand_folder, has_folder
from emulator.monitors import MONITOR_KINDS, demand_monitors, monitor_rule
from emulator.names import FullPath, Place, full_path, is_address, split_member
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

    def path_of(self, segment: str) -> FullPath:
        """Read a name; a service in it is shown as its number: `10.0.0.1:https` is `:443`."""
        path = full_path(segment)
        try:
            node, port = split_member(path.name)
        except ValueError:
            return path
        mark = path.name[len(node)]
        return FullPath(path.partition, path.sub_path, f"{node}{mark}{port}")

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
        is_name = values["address"] in ("any", "any6") and "tmName" in body.get("fqdn", {})
        if not is_name and not is_address(str(values["address"])):
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


LTM_KINDS = (
    PoolKind("ltm/pool", "Pool", POOL_FIELDS, "members"),
    MemberKind("ltm/pool/*/members", "Pool Member", MEMBER_FIELDS),
    NodeKind("ltm/node", "Node", NODE_FIELDS),
    *MONITOR_KINDS,
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
