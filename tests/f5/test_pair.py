"""Two units: who is active, what reaches the peer, and what a reboot loses."""

from typing import Any

import pytest
from emulator import Condition, Emulator
from rest_client import ENABLED, NEW, OFFLINE, OLD, Rest

SYNC = {"command": "run", "utilCmdArgs": "config-sync to-group dg1"}
SAVE = {"command": "save"}


async def entries(rest: Rest, path: str) -> Any:
    answer = await rest.get(path)
    (entry,) = answer["entries"].values()
    return entry["nestedStats"]["entries"]


async def says(rest: Rest, path: str) -> str:
    words: dict[str, dict[str, str]] = await entries(rest, path)
    return words["status"]["description"]


async def test_each_unit_knows_itself(bigip: Emulator, units: tuple[Rest, Rest]) -> None:
    """Facts 6: a unit's own status, and its opinion of the other."""
    a, b = units
    assert [await says(u, "cm/failover-status") for u in units] == ["ACTIVE", "STANDBY"]
    bigip.unit(0).fail_over()
    assert [await says(u, "cm/failover-status") for u in units] == ["STANDBY", "ACTIVE"]
    devices = (await a.get("cm/device"))["items"]
    assert [(d["selfDevice"], d["failoverState"]) for d in devices] == [
        ("true", "standby"),
        ("false", "active"),
    ]
    bigip.shared.is_linked = False
    assert (await b.get("cm/device"))["items"][0]["failoverState"] == "unknown"


async def test_a_unit_that_is_forced_offline_says_neither_word(bigip: Emulator, rest: Rest) -> None:
    bigip.unit(0).is_forced_offline = True
    assert await says(rest, "cm/failover-status") == "FORCED OFFLINE"


@pytest.mark.parametrize(
    "words",
    [
        "config-sync to-group dg1",
        "config-sync force-full-load-push to-group dg1",
        "config-sync to-group dg1 force-full-load-push",
    ],
)
async def test_a_write_reaches_the_peer_by_a_sync_only(
    bigip: Emulator, units: tuple[Rest, Rest], words: str
) -> None:
    """Facts 6: `Changes Pending` on both, then `Not All Devices Synced`, then `In Sync`."""
    a, b = units
    bigip.shared.sync_s = 10
    assert await says(a, "cm/sync-status") == "In Sync"
    await a.patch(OLD, OFFLINE)
    await a.patch(NEW, ENABLED)
    assert [await says(u, "cm/sync-status") for u in units] == ["Changes Pending"] * 2
    details = str(await entries(a, "cm/sync-status"))
    assert "Recommended action: Synchronize bigip-a.example.com to group dg1" in details
    assert await b.states(OLD) == ("up", "monitor-enabled")
    assert (await a.ask("POST", "cm", {"command": "run", "utilCmdArgs": words})).status == 200
    assert await says(b, "cm/sync-status") == "Not All Devices Synced"
    bigip.clock.advance(10)
    assert [await says(u, "cm/sync-status") for u in units] == ["In Sync"] * 2
    assert await b.states(OLD) == ("user-down", "user-disabled")
    assert (await b.states(NEW))[1] == "monitor-enabled"


async def test_a_sync_overwrites_what_the_peer_was_told(
    bigip: Emulator, units: tuple[Rest, Rest]
) -> None:
    a, b = units
    await b.patch(OLD, {"ratio": 9})
    await a.ask("POST", "cm", SYNC)
    bigip.clock.advance(1)
    assert (await b.get(OLD))["ratio"] == 1


async def test_a_sync_may_do_nothing_and_say_nothing(
    bigip: Emulator, units: tuple[Rest, Rest]
) -> None:
    """Facts 6: it fails silently now and then; a second try takes."""
    a, b = units
    bigip.shared.loses_syncs = 1
    await a.patch(OLD, OFFLINE)
    for status in ("Changes Pending", "In Sync"):
        assert (await a.ask("POST", "cm", SYNC)).status == 200
        bigip.clock.advance(1)
        assert await says(a, "cm/sync-status") == status
    assert await b.states(OLD) == ("user-down", "user-disabled")


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "off"])
async def test_a_peer_that_is_not_there_is_not_synced(
    bigip: Emulator, units: tuple[Rest, Rest], is_cut: bool
) -> None:
    a, _ = units
    if is_cut:
        bigip.shared.is_linked = False
    else:
        bigip.unit(1).condition = Condition.OFF
    await a.patch(OLD, OFFLINE)
    await a.ask("POST", "cm", SYNC)
    bigip.clock.advance(1)
    assert await says(a, "cm/sync-status") == "Disconnected"
    assert bigip.unit(1).member("/Common/epmm", "/Common/192.0.2.10:443")["state"] == "up"


async def test_a_sync_to_a_group_that_is_not_there(rest: Rest) -> None:
    answer = await rest.ask("POST", "cm", SYNC | {"utilCmdArgs": "config-sync to-group dg2"})
    assert answer.message.startswith("01020036:3: The requested device group (/Common/dg2)")
    wrong = await rest.ask("POST", "cm", SYNC | {"utilCmdArgs": "config-sync"})
    assert wrong.status == 400


@pytest.mark.parametrize("way", ["command", "task", "bash", None])
async def test_a_reboot_loses_what_was_not_saved(
    bigip: Emulator, units: tuple[Rest, Rest], way: str | None
) -> None:
    """Facts 6: an unsaved flip and a reboot put the old primary back."""
    a, _ = units
    await a.patch(OLD, OFFLINE)
    await a.patch(NEW, ENABLED)
    match way:
        case "command":
            assert (await a.ask("POST", "sys/config", SAVE)).body["command"] == "save"
        case "task":
            number = (await a.ask("POST", "task/sys/config", SAVE)).body["_taskId"]
            path = f"task/sys/config/{number}"
            assert (await a.ask("PUT", path, {"_taskState": "VALIDATING"})).status == 202
            assert (await a.get(path))["_taskState"] == "COMPLETED"
        case "bash":
            await a.login("admin")
            line = {"command": "run", "utilCmdArgs": "-c 'tmsh save sys config'"}
            assert (await a.ask("POST", "util/bash", line)).status == 200
    bigip.unit(0).reboot()
    assert [unit.is_active for unit in bigip.units] == [False, True]
    assert (await a.ask("GET", OLD)).status == 401  # tokens are gone, too
    await a.login()
    bigip.clock.advance(1)
    kept = [("user-down", "user-disabled"), ("up", "monitor-enabled")]
    lost = [("up", "monitor-enabled"), ("user-down", "user-disabled")]
    assert [await a.states(OLD), await a.states(NEW)] == (kept if way else lost)


@pytest.mark.parametrize("is_saved", [False, True])
async def test_whether_the_peer_saves_what_was_synced_may_be_chosen(
    bigip: Emulator, units: tuple[Rest, Rest], is_saved: bool
) -> None:
    """Unknown of the device; the harder way is the emulator's."""
    a, b = units
    bigip.shared.is_saved_by_sync = is_saved
    await a.patch(OLD, OFFLINE)
    await a.ask("POST", "cm", SYNC)
    bigip.clock.advance(1)
    assert await b.states(OLD) == ("user-down", "user-disabled")
    bigip.unit(1).reboot()
    await b.login()
    assert (await b.states(OLD))[1] == ("user-disabled" if is_saved else "monitor-enabled")


async def test_what_monitors_found_is_each_units_own(
    bigip: Emulator, units: tuple[Rest, Rest]
) -> None:
    """Facts 6: a latch of manual resume is not synced, and a reboot forgets it."""
    a, b = units
    bigip.configure("POST", "ltm/monitor/https", {"name": "epmm", "manualResume": "enabled"})
    bigip.configure("PATCH", "ltm/pool/epmm", {"monitor": "/Common/epmm"})
    bigip.world.set("192.0.2.10:443", False)
    bigip.clock.advance(1)
    assert await a.states(OLD) == await b.states(OLD) == ("down", "monitor-enabled")
    bigip.world.set("192.0.2.10:443", True)
    await a.patch(OLD, ENABLED)
    bigip.clock.advance(1)
    assert [(await u.states(OLD))[0] for u in units] == ["up", "down"]
    bigip.unit(1).reboot()
    await b.login()
    bigip.clock.advance(1)
    assert await b.states(OLD) == ("up", "monitor-enabled")


async def test_a_unit_is_told_to_give_way_and_comes_back(
    bigip: Emulator, units: tuple[Rest, Rest]
) -> None:
    """The command of tmsh's `run sys failover`, as F5's own tests use it."""
    a, b = units
    for body, states in [
        ({"standby": True}, ["STANDBY", "ACTIVE"]),
        ({"utilCmdArgs": "offline"}, ["FORCED OFFLINE", "ACTIVE"]),
        ({"online": True}, ["STANDBY", "ACTIVE"]),
    ]:
        answer = await a.ask("POST", "sys/failover", {"command": "run"} | body)
        assert answer.status == 200
        assert [await says(u, "cm/failover-status") for u in units] == states
    await b.ask("POST", "sys/failover", {"command": "run", "standby": True})
    assert [unit.is_active for unit in bigip.units] == [True, False]
    raw = (await a.get("sys/failover"))["apiRawValues"]["apiAnonymous"]
    assert raw.startswith("Failover active")


async def test_a_group_may_sync_by_itself(bigip: Emulator, units: tuple[Rest, Rest]) -> None:
    a, b = units
    bigip.shared.is_auto_sync = True
    assert (await a.get("cm/device-group/dg1"))["autoSync"] == "enabled"
    await a.patch(OLD, OFFLINE)
    bigip.clock.advance(1)
    assert await b.states(OLD) == ("user-down", "user-disabled")
    assert await says(a, "cm/sync-status") == "In Sync"


async def test_loading_brings_back_what_was_saved(rest: Rest) -> None:
    await rest.patch(OLD, OFFLINE)
    assert (await rest.ask("POST", "sys/config", {"command": "load"})).status == 200
    assert (await rest.states(OLD))[1] == "monitor-enabled"
