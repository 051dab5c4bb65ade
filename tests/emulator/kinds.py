"""All collections that this device has; what is not here is not registered."""

from collections.abc import Mapping
from typing import Any

from emulator.gtm import GTM_KINDS
from emulator.ltm import LTM_KINDS
from emulator.names import FullPath, Place
from emulator.schema import TEXT, Field, Kind, Write, number


class PlainKind(Kind):
    """Something whose name has no partition: a partition, a tunnel's profile."""

    def path_of(self, segment: str) -> FullPath:
        return FullPath("", "", segment)

    def path_from(self, parent: Place, values: Mapping[str, Any]) -> FullPath:
        return FullPath("", "", str(values["name"]))


class VariableKind(PlainKind):
    """A variable of the database: only its value may be written, the rest is ignored."""

    def read_only(self, key: str, value: Any, out: dict[str, Any]) -> None:
        """Ignore it: clients send variables back as they read them."""

    def cleaned(self, values: Mapping[str, Any], verb: Write) -> dict[str, Any]:
        out = super().cleaned(values, verb)
        if isinstance(value := out.get("value"), bool):
            out["value"] = str(value).lower()
        return out


VARIABLE_FIELDS = {
    "defaultValue": Field("false", write=Write.NEVER),
    "scfConfig": Field("true", write=Write.NEVER),
    "value": TEXT,
    "valueRange": Field("false true", write=Write.NEVER),
}

KINDS = (
    *LTM_KINDS,
    *GTM_KINDS,
    PlainKind(
        "auth/partition",
        "partition",
        {"description": TEXT, "defaultRouteDomain": number(0, 0, 65534)},
    ),
    Kind("sys/folder", "folder", {"description": TEXT, "deviceGroup": TEXT, "trafficGroup": TEXT}),
    VariableKind("sys/db", "DB variable", VARIABLE_FIELDS),
    Kind("net/tunnels/gre", "GRE profile", {"description": TEXT, "defaultsFrom": Field()}),
    Kind("net/tunnels/ipip", "IPIP profile", {"description": TEXT, "defaultsFrom": Field()}),
)

BUILT_IN: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("auth/partition", "Common", {}),
    ("ltm/monitor/gateway-icmp", "gateway_icmp", {}),
    ("ltm/monitor/http", "http", {}),
    ("ltm/monitor/https", "https", {}),
    ("ltm/monitor/tcp", "tcp", {}),
    ("ltm/monitor/tcp-half-open", "tcp_half_open", {}),
    ("net/tunnels/gre", "gre", {}),
    ("net/tunnels/ipip", "ipip", {}),
    ("sys/db", "config.allow.rfc3927", {"value": "disable"}),
    ("sys/db", "iptunnel.configsync", {"value": "disable"}),
    ("sys/db", "license.operational", {"value": "true"}),
    ("sys/db", "setup.run", {"value": "false"}),
)
"""What a device has before anybody configures it."""
