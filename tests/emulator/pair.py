"""Two units as a pair: which is active, what is synced to the peer, and what is not.

A write on either unit makes `Changes Pending` on both. `config-sync to-group` copies the running
configuration to the peer some time later; whatever the peer had is gone. Configuration of DNS goes
to the peer by itself.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emulator.clock import DeviceClock
from emulator.configuration import Configuration
from emulator.errors import not_found, refused
from emulator.names import Place, link_of

if TYPE_CHECKING:
    from emulator.unit import Unit

Json = dict[str, Any]
SYNC = re.compile(
    r"config-sync (?:force-full-load-push )?(to|from)-group (\S+)(?: force-full-load-push)?"
)
COLORS = {
    "In Sync": "green",
    "Changes Pending": "yellow",
    "Not All Devices Synced": "yellow",
    "Disconnected": "red",
    "Standalone": "gray",
    "ACTIVE": "green",
    "STANDBY": "gray",
    "FORCED OFFLINE": "blue",
}


@dataclass
class _Copying:
    """A sync under way."""

    source: "Unit"
    due: float
    is_dns: bool


@dataclass
class Pair:
    """What the units share.

    Attributes:
        sync_s: How long a sync takes.
        dns_sync_s: How long until a change of DNS is on the peer.
        is_saved_by_sync: The peer saves what it was given. Unknown of the device; the harder way
            is the default.
        is_auto_sync: The group syncs by itself; nobody has to ask for it.
        loses_syncs: So many syncs are answered with 200 and do nothing.
        is_linked: The units reach each other.
    """

    clock: DeviceClock
    group: str = "dg1"
    sync_s: float = 0.05
    dns_sync_s: float = 0.05
    is_saved_by_sync: bool = False
    is_auto_sync: bool = False
    loses_syncs: int = 0
    is_linked: bool = True
    units: list["Unit"] = field(default_factory=list)
    syncs: int = 0
    _pending: bool = False
    _copying: list[_Copying] = field(default_factory=list)

    def peers(self, unit: "Unit") -> list["Unit"]:
        return [other for other in self.units if other is not unit]

    # ------------------------------------------------------------ who is active
    def settle(self) -> None:
        """Finish the syncs that are due."""
        for copying in list(self._copying):
            if self.clock.now() >= copying.due:
                self._copying.remove(copying)
                self._copy(copying)

    def _copy(self, copying: _Copying) -> None:
        if not self.is_linked:
            return
        for peer in self.peers(copying.source):
            if not peer.is_there:
                return
            running = copying.source.running
            peer.adopt(merged(peer.running, running, is_dns=copying.is_dns))
            if self.is_saved_by_sync or copying.is_dns:
                peer.save()
        if not copying.is_dns:
            self._pending = False

    def wrote(self, unit: "Unit", places: set[Place]) -> None:
        """Take note of a write; DNS is on its way at once, everything else waits for a sync."""
        if any(place[0] == "gtm" for place in places):
            self._copying.append(_Copying(unit, self.clock.now() + self.dns_sync_s, is_dns=True))
        if any(place[0] != "gtm" for place in places):
            self._pending = True
            if self.is_auto_sync:
                self._copying.append(_Copying(unit, self.clock.now() + self.sync_s, is_dns=False))

    # ------------------------------------------------------------ requests
    def command(self, unit: "Unit", body: Any) -> Json:
        """Answer POST /mgmt/tm/cm."""
        words = body.get("utilCmdArgs", "") if isinstance(body, dict) else ""
        found = SYNC.fullmatch(str(words).strip())
        if not isinstance(body, dict) or body.get("command") != "run" or not found:
            raise refused(400, f'invalid property value "utilCmdArgs":"{words}"')
        direction, group = found[1], found[2]
        if group.removeprefix("/Common/") != self.group or len(self.units) < 2:
            raise not_found("device group", f"/Common/{group.removeprefix('/Common/')}")
        self.syncs += 1
        if self.loses_syncs:
            self.loses_syncs -= 1
        else:
            source = unit if direction == "to" else self.peers(unit)[0]
            self._copying.append(_Copying(source, self.clock.now() + self.sync_s, is_dns=False))
        return {"kind": "tm:cm:runstate", **body}

    def force(self, unit: "Unit", body: Any) -> Json:
        """Answer POST /mgmt/tm/sys/failover: a unit gives way, goes offline, or comes back."""
        given = body if isinstance(body, dict) else {}
        words = {
            key for key in ("standby", "offline", "online") if given.get(key, False) is not False
        }
        words |= set(str(given.get("utilCmdArgs", "")).split()[:1])
        if given.get("command") != "run" or len(words) != 1:
            raise refused(400, "one or more properties must be specified")
        unit.is_forced_offline = words == {"offline"}
        if words != {"online"}:
            unit.fail_over()
        elif not any(other.is_active for other in self.units):
            unit.is_active = True
        return {"kind": "tm:sys:failover:runstate", **given}

    def sync_status(self) -> str:
        if len(self.units) < 2:
            return "Standalone"
        if not self.is_linked or not all(unit.is_there for unit in self.units):
            return "Disconnected"
        if any(not copying.is_dns for copying in self._copying):
            return "Not All Devices Synced"
        return "Changes Pending" if self._pending else "In Sync"

    def sync_answer(self, unit: "Unit") -> Json:
        """Answer GET /mgmt/tm/cm/sync-status."""
        status = self.sync_status()
        details = [f"{other.name}: connected" for other in self.peers(unit)]
        if status == "Changes Pending":
            action = f"Recommended action: Synchronize {unit.name} to group {self.group}"
            details = [
                f"{self.group} ({status}): There is a possible change conflict",
                f" - {action}",
            ]
        inner = {
            f"https://localhost/mgmt/tm/cm/syncStatus/0/details/{at}": {
                "nestedStats": {"entries": {"details": {"description": line}}}
            }
            for at, line in enumerate(details)
        }
        mode = "standalone" if status == "Standalone" else "high-availability"
        entries: Json = {
            "color": {"description": COLORS[status]},
            "https://localhost/mgmt/tm/cm/syncStatus/0/details": {
                "nestedStats": {"entries": inner}
            },
            "mode": {"description": mode},
            "status": {"description": status},
            "summary": {"description": details[0] if details else " "},
        }
        return stats_of(("cm", "sync-status"), unit.version, entries)

    def failover_answer(self, unit: "Unit") -> Json:
        """Answer GET /mgmt/tm/cm/failover-status: the unit's own view of itself."""
        state = unit.failover_state
        inner = {
            "https://localhost/mgmt/tm/cm/failoverStatus/0/details/0": {
                "nestedStats": {
                    "entries": {
                        "details": {"description": f"{state.lower()} for /Common/traffic-group-1"}
                    }
                }
            }
        }
        entries: Json = {
            "color": {"description": COLORS[state]},
            "https://localhost/mgmt/tm/cm/failoverStatus/0/details": {
                "nestedStats": {"entries": inner}
            },
            "status": {"description": state},
            "summary": {"description": f"1/1 {state.lower()}"},
        }
        return stats_of(("cm", "failover-status"), unit.version, entries)

    def devices(self, unit: "Unit") -> list[Json]:
        """Return the items of /mgmt/tm/cm/device: a peer's state is this unit's opinion of it."""
        out = []
        for each in self.units:
            state = each.failover_state.lower().replace(" ", "-")
            if each is not unit and not (each.is_there and self.is_linked):
                state = "unknown"
            out.append(
                {
                    "kind": "tm:cm:device:devicestate",
                    "name": each.name,
                    "partition": "Common",
                    "fullPath": f"/Common/{each.name}",
                    "generation": 1,
                    "selfLink": link_of(("cm", "device", f"/Common/{each.name}"), unit.version),
                    "baseMac": "fa:16:3e:00:00:01",
                    "build": "0.0.2",
                    "configsyncIp": each.address,
                    "failoverState": state,
                    "hostname": each.name,
                    "managementIp": each.address,
                    "selfDevice": "true" if each is unit else "false",
                    "version": each.version,
                }
            )
        return out

    def groups(self, unit: "Unit") -> list[Json]:
        """Return the items of /mgmt/tm/cm/device-group."""
        if len(self.units) < 2:
            return []
        place = ("cm", "device-group", f"/Common/{self.group}")
        return [
            {
                "kind": "tm:cm:device-group:device-groupstate",
                "name": self.group,
                "partition": "Common",
                "fullPath": f"/Common/{self.group}",
                "generation": 1,
                "selfLink": link_of(place, unit.version),
                "asmSync": "disabled",
                "autoSync": "enabled" if self.is_auto_sync else "disabled",
                "fullLoadOnSync": "false",
                "incrementalConfigSyncSizeMax": 1024,
                "networkFailover": "enabled",
                "saveOnAutoSync": "false",
                "type": "sync-failover",
                "devicesReference": {
                    "link": link_of((*place, "devices"), unit.version),
                    "isSubcollection": True,
                },
            }
        ]


def merged(old: Configuration, new: Configuration, *, is_dns: bool) -> Configuration:
    """Return the old configuration with the new one's DNS, or with all the rest of it."""
    out = old.copy()
    out.objects = {k: v for k, v in out.objects.items() if (k[0] == "gtm") != is_dns}
    for place, values in new.copy().objects.items():
        if (place[0] == "gtm") == is_dns:
            out.objects[place] = values
    out.generation += 1
    out.generations = {p: old.generations.get(p, out.generation) for p in out.objects}
    return out


def failover_line(unit: "Unit") -> Json:
    """Answer GET /mgmt/tm/sys/failover: one line, as tmsh prints it."""
    word = unit.failover_state.lower().replace(" ", "_")
    return {
        "kind": "tm:sys:failover:failoverstats",
        "selfLink": link_of(("sys", "failover"), unit.version),
        "apiRawValues": {"apiAnonymous": f"Failover {word} for 0d 01:00:00\n"},
    }


def stats_of(place: Place, version: str, entries: Json) -> Json:
    """Return statistics with one entry, as `cm` and `sys` give them."""
    name = place[-1]
    key = link_of((*place, "0"), version).partition("?")[0]
    return {
        "kind": f"tm:{':'.join(place)}:{name}stats",
        "selfLink": link_of(place, version),
        "entries": {key: {"nestedStats": {"entries": entries}}},
    }
