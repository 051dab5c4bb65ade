"""What a unit says of itself under /mgmt/tm/sys, /cm and /util."""

from typing import TYPE_CHECKING, Any

from emulator.errors import not_found, not_registered, refused
from emulator.names import Place, link_of, numbers
from emulator.pair import failover_line, stats_of
from emulator.shell import Shell

if TYPE_CHECKING:
    from emulator.unit import Unit

Json = dict[str, Any]
FIRST_WITH_READY = (13, 1)
MODULES = ("afm", "apm", "asm", "avr", "gtm", "ilx", "lc", "ltm", "pem", "vcmp")


class System:
    """The parts of a unit that are no objects of the configuration."""

    def __init__(self, unit: "Unit") -> None:
        self._unit = unit
        self._shell = Shell(unit)
        self.levels = dict.fromkeys(MODULES, "none") | {"gtm": "nominal", "ltm": "nominal"}
        self._tasks: list[str] = []

    def answer(self, method: str, rest: Place, body: Any) -> Json | None:
        """Return the answer, or None where this is about objects."""
        match rest:
            case ("sys",):
                return self._reference("sys", "sys", "db", "provision", "version")
            case ("sys", "config"):
                return self._config(method, body)
            case ("task", "sys", "config", *number):
                return self._task(method, tuple(number), body)
            case ("util", "bash"):
                return self._shell.answer(method, body)
            case ("sys", "failover"):
                pair = self._unit.pair
                is_read = method == "GET"
                return failover_line(self._unit) if is_read else pair.force(self._unit, body)
            case ("cm",) if method == "POST":
                return self._unit.pair.command(self._unit, body)
            case ("sys" | "cm", *_) if method == "GET":
                return self._look(rest)
            case _:
                return None

    def _look(self, rest: Place) -> Json | None:
        is_up = self._unit.condition.value != "mcpd-starting"
        match rest:
            case ("sys", "provision", *name):
                return self._provision(tuple(name))
            case ("sys", "version"):
                return self._version()
            case ("sys", "ready") if numbers(self._unit.version) >= FIRST_WITH_READY:
                return self._ready(is_up)
            case ("sys", "mcp-state"):
                return self._mcp_state(is_up)
            case ("sys" | "cm", "available"):
                return {}
            case ("cm", "failover-status" | "sync-status") if not is_up:
                place = ("cm", rest[1])
                return {
                    k: v
                    for k, v in stats_of(place, self._unit.version, {}).items()
                    if k != "entries"
                }
            case ("cm", "failover-status"):
                return self._unit.pair.failover_answer(self._unit)
            case ("cm", "sync-status"):
                return self._unit.pair.sync_answer(self._unit)
            case ("cm", "device" | "device-group" | "traffic-group" as word, *name):
                return self._items(word, tuple(name))
            case _:
                return None

    def _reference(self, kind: str, *names: str) -> Json:
        version = self._unit.version
        links = [{"reference": {"link": link_of((kind, name), version)}} for name in names[1:]]
        return {
            "kind": f"tm:{kind}:{kind}collectionstate",
            "selfLink": link_of((kind,), version),
            "items": links,
        }

    def _listed(self, place: Place, items: list[Json]) -> Json:
        return {
            "kind": f"tm:{':'.join(place)}:{place[-1]}collectionstate",
            "selfLink": link_of(place, self._unit.version),
            "items": items,
        }

    # ------------------------------------------------------------ sys
    def _provision(self, name: Place) -> Json:
        items = [
            {
                "kind": "tm:sys:provision:provisionstate",
                "name": module,
                "fullPath": module,
                "generation": 1,
                "selfLink": link_of(("sys", "provision", module), self._unit.version),
                "cpuRatio": 0,
                "diskRatio": 0,
                "level": level,
                "memoryRatio": 0,
            }
            for module, level in self.levels.items()
        ]
        if not name:
            return self._listed(("sys", "provision"), items)
        for item in items:
            if item["name"] == name[0]:
                return item
        raise not_found("provision module", name[0])

    def _version(self) -> Json:
        words = {
            "Build": "0.0.2",
            "Date": "Wed Nov 20 04:12:33 PST 2024",
            "Edition": "Point Release 2",
            "Product": "BIG-IP",
            "Title": "Main Package",
            "Version": self._unit.version,
        }
        entries = {key: {"description": value} for key, value in words.items()}
        return stats_of(("sys", "version"), self._unit.version, entries)

    def _ready(self, is_up: bool) -> Json:
        is_licensed = self._unit.condition.value != "unlicensed"
        entries: Json = {
            "configReady": {"description": "yes" if is_up else "no"},
            "licenseReady": {"description": "yes" if is_licensed else "no"},
            "provisionReady": {"description": "yes" if is_up else "no"},
        }
        return stats_of(("sys", "ready"), self._unit.version, entries)

    def _mcp_state(self, is_up: bool) -> Json:
        entries: Json = {
            "endPlatformIdReceived": {"description": "true"},
            "lastLoad": {"description": "full-config-load-succeed"},
            "phase": {"description": "running" if is_up else "initialized"},
        }
        return stats_of(("sys", "mcp-state"), self._unit.version, entries)

    # ------------------------------------------------------------ save
    def _config(self, method: str, body: Any) -> Json:
        command = body.get("command") if isinstance(body, dict) else None
        if method != "POST" or command not in ("save", "load"):
            raise refused(400, "one or more properties must be specified")
        self._unit.save() if command == "save" else self._unit.load()
        return {"kind": f"tm:sys:config:{command}state", **body}

    def _task(self, method: str, number: Place, body: Any) -> Json:
        if method == "POST" and not number:
            if not isinstance(body, dict) or body.get("command") != "save":
                raise refused(400, "one or more properties must be specified")
            self._tasks.append("STARTED")
            place = ("task", "sys", "config", str(len(self._tasks)))
            return {
                "_taskId": len(self._tasks),
                "_taskState": "STARTED",
                "command": "save",
                "kind": "tm:task:sys:config:configstate",
                "selfLink": link_of(place, self._unit.version),
            }
        at = int(number[0]) if number and number[0].isdecimal() else 0
        if not 0 < at <= len(self._tasks):
            raise refused(404, f"Object not found - {'/'.join(number)}", 1)
        if method == "PUT":
            self._unit.save()
            self._tasks[at - 1] = "COMPLETED"
            return {"code": 202, "message": "Task will execute asynchronously.", "errorStack": []}
        return {"_taskId": at, "_taskState": self._tasks[at - 1], "command": "save"}

    # ------------------------------------------------------------ cm
    def _items(self, word: str, name: Place) -> Json:
        items = {
            "device": self._unit.pair.devices,
            "device-group": self._unit.pair.groups,
            "traffic-group": self._traffic_groups,
        }[word](self._unit)
        if not name:
            return self._listed(("cm", word), items)
        wanted = name[0] if name[0].startswith("/") else f"/Common/{name[0]}"
        for item in items:
            if item["fullPath"] == wanted:
                if len(name) == 1:
                    return item
                if name[1:] == ("stats",) or name[1:] == ("devices",):
                    return self._listed(("cm", word), [])
                raise not_registered("/tm/cm/" + "/".join(name))
        raise not_found(word.replace("-", " "), wanted)

    def _traffic_groups(self, unit: "Unit") -> list[Json]:
        return [
            {
                "kind": "tm:cm:traffic-group:traffic-groupstate",
                "name": "traffic-group-1",
                "partition": "Common",
                "fullPath": "/Common/traffic-group-1",
                "generation": 1,
                "selfLink": link_of(
                    ("cm", "traffic-group", "/Common/traffic-group-1"), unit.version
                ),
                "autoFailbackEnabled": "false",
                "haLoadFactor": 1,
                "mac": "none",
                "isFloating": "true",
                "unitId": 1,
            }
        ]
