"""Monitors: what they are, and the rules by which pools and members name them."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from emulator.errors import not_found, refused
from emulator.folders import demand_folder
from emulator.names import Place, full_path
from emulator.schema import TEXT, Field, Kind, Write, number, switch

if TYPE_CHECKING:
    from emulator.configuration import Configuration

MONITOR: Place = ("ltm", "monitor")

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


MONITOR_KINDS = (
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
)
