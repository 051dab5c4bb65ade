"""Members of LTM: what is written, what is read back in other words, and what is refused."""

from typing import Any

import pytest
from emulator import Emulator
from emulator.traffic import eligible
from rest_client import DRAINED, ENABLED, NEW, OFFLINE, OLD, POOL, Rest

PLAIN = "ltm/pool/~Common~plain"
BARE = f"{PLAIN}/members/~Common~192.0.2.20:80"
HTTPS = "ltm/monitor/https/~Common~epmm"


@pytest.fixture
def plain(bigip: Emulator) -> Emulator:
    """Adds a pool without monitors, as facts of unmonitored members need."""
    bigip.add_pool("/Common/plain", "192.0.2.20:80", "192.0.2.21:80")
    return bigip


@pytest.mark.parametrize(
    ("body", "bare", "monitored", "words"),
    [
        (ENABLED, ("unchecked", "user-enabled"), ("up", "monitor-enabled"),
         ("available", "enabled", "Pool member is available")),
        (DRAINED, ("unchecked", "user-disabled"), ("up", "user-disabled"),
         ("available", "disabled", "Pool member is available, user disabled")),
        (OFFLINE, ("user-down", "user-disabled"), ("user-down", "user-disabled"),
         ("offline", "disabled", "Forced down")),
    ],
    ids=["enable", "disable", "forced-offline"],
)  # fmt: skip
async def test_nothing_is_read_back_as_it_was_written(
    plain: Emulator, rest: Rest, body: Any, bare: Any, monitored: Any, words: tuple[str, ...]
) -> None:
    """Facts 2: the table of what is written and what GET says, and the statistics beside it."""
    for path in (BARE, OLD):
        await rest.patch(path, body)
    plain.clock.advance(1)
    assert await rest.states(BARE) == bare
    assert await rest.states(OLD) == monitored
    seen = await rest.status(OLD)
    names = ("availabilityState", "enabledState", "statusReason")
    assert tuple(seen[f"status.{name}"] for name in names) == words


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"state": "up"}, 'invalid property value "state":"up"'),
        ({"session": "monitor-enabled"}, 'invalid property value "session":"monitor-enabled"'),
        ({"ratio": 0}, 'invalid property value "ratio":"0"'),
        ({"priorityGroup": "high"}, 'invalid property value "priorityGroup":"high"'),
        ({}, "one or more properties must be specified"),
        ({"name": "192.0.2.10:443"}, "one or more properties must be specified"),
        ({"colour": "green"}, '"colour" unknown property'),
        ({"ephemeral": "false"}, '"ephemeral" is read-only'),
        ({"description": "<b>old</b>"}, "HTML Tag-like Content in the Request URL/Body"),
        ({"address": "192.0.2.9"}, '"address" may not be specified in the context of the "modify"'),
        ({"monitor": "/Common/nothing"}, "01020036:3: The requested monitor rule ("),
    ],
)  # fmt: skip
async def test_what_the_device_refuses_is_refused(rest: Rest, body: Any, message: str) -> None:
    """Facts 2 and 5; and nothing of a refused body is applied."""
    before = await rest.get(OLD)
    answer = await rest.ask("PATCH", OLD, {"description": "half"} | body if body else body)
    if "name" not in body:
        assert answer.status in (400, 404)
        assert answer.body["code"] == answer.status
        assert answer.body["errorStack"] == []
        assert answer.message.startswith(message)
        assert await rest.get(OLD) == before
    alone = await rest.ask("PATCH", OLD, body)
    assert alone.message.startswith(message)


async def test_a_member_that_was_fetched_cannot_be_put_back(rest: Rest) -> None:
    """Facts 2: PUT of what GET said is refused; PUT of less resets the rest."""
    member = await rest.get(OLD)
    assert (await rest.ask("PUT", OLD, member)).status == 400
    await rest.patch(OLD, {"ratio": 5, **OFFLINE})
    answer = await rest.ask("PUT", OLD, {"description": "new"})
    assert (answer.body["ratio"], answer.body["description"]) == (1, "new")
    assert (answer.body["state"], answer.body["session"]) == ("checking", "monitor-enabled")


async def test_a_list_of_members_replaces_them_and_believes_them_up(
    bigip: Emulator, rest: Rest
) -> None:
    """Facts 2: members that came in a PATCH of their pool are up before anybody looked."""
    bigip.world.set("192.0.2.10:443", False)
    bigip.clock.advance(1)
    assert await rest.states(OLD) == ("down", "monitor-enabled")
    await rest.patch(POOL, {"members": ["192.0.2.10:443"]})
    assert await rest.states(OLD) == ("up", "monitor-enabled")
    assert (await rest.ask("GET", NEW)).status == 404
    bigip.clock.advance(1)
    assert await rest.states(OLD) == ("down", "monitor-enabled")


async def test_a_member_is_checking_until_its_monitor_has_looked(
    bigip: Emulator, rest: Rest
) -> None:
    bigip.world.monitor_s = 5.0
    await rest.patch(NEW, ENABLED)
    assert await rest.states(NEW) == ("checking", "monitor-enabled")
    assert (await rest.status(NEW))["status.availabilityState"] == "unknown"
    bigip.clock.advance(5)
    assert await rest.states(NEW) == ("up", "monitor-enabled")


@pytest.mark.parametrize("is_strict", [False, True])
async def test_manual_resume_holds_a_member_down_until_it_is_enabled(
    bigip: Emulator, rest: Rest, is_strict: bool
) -> None:
    """Facts 7: a green monitor does not lift it; forced offline and then enabled always does.

    Whether enabling an enabled member lifts it nobody knows: both answers can be had.
    """
    bigip.configure("POST", "ltm/monitor/https", {"name": "epmm", "manualResume": "enabled"})
    bigip.configure("PATCH", POOL, {"monitor": "/Common/epmm"})
    bigip.unit(0).health.is_latch_strict = is_strict
    bigip.world.set("192.0.2.10:443", False)
    bigip.clock.advance(1)
    bigip.world.set("192.0.2.10:443", True)
    bigip.clock.advance(1)
    assert await rest.states(OLD) == ("down", "monitor-enabled")
    await rest.patch(OLD, ENABLED)
    bigip.clock.advance(1)
    assert (await rest.states(OLD))[0] == ("down" if is_strict else "up")
    await rest.patch(OLD, OFFLINE)
    await rest.patch(OLD, ENABLED)
    bigip.clock.advance(1)
    assert await rest.states(OLD) == ("up", "monitor-enabled")


async def test_a_disabled_node_disables_its_members(rest: Rest) -> None:
    await rest.patch("ltm/node/~Common~192.0.2.10", {"session": "user-disabled"})
    seen = await rest.status(OLD)
    assert seen["status.enabledState"] == "disabled-by-parent"
    assert seen["sessionStatus"] == "addr-disabled"
    answer = await rest.ask("DELETE", "ltm/node/~Common~192.0.2.10")
    assert answer.message.startswith("01070110:3: Node address '/Common/192.0.2.10' is referenced")


async def test_who_gets_new_connections(bigip: Emulator, rest: Rest) -> None:
    """Facts 2 and 10: a disabled member keeps its persistent clients, an offline one nobody."""
    unit = bigip.unit(0)
    old, new = "/Common/192.0.2.10:443", "/Common/192.0.2.11:443"
    assert eligible(unit, "/Common/epmm") == [old]
    await rest.patch(OLD, DRAINED)
    await rest.patch(NEW, ENABLED)
    assert eligible(unit, "/Common/epmm") == [new]
    assert eligible(unit, "/Common/epmm", persistent_to=old) == [old]
    await rest.patch(OLD, OFFLINE)
    assert eligible(unit, "/Common/epmm", persistent_to=old) == [new]


async def test_priority_groups_give_traffic_back_by_themselves(bigip: Emulator, rest: Rest) -> None:
    """Facts 2: the way in which a pool breaks the guide's rule 4 without anybody writing."""
    unit, old, new = bigip.unit(0), "/Common/192.0.2.10:443", "/Common/192.0.2.11:443"
    await rest.patch(NEW, ENABLED)
    bigip.clock.advance(1)
    assert eligible(unit, "/Common/epmm") == [old, new]
    await rest.patch(POOL, {"minActiveMembers": 1})
    await rest.patch(OLD, {"priorityGroup": 10})
    assert eligible(unit, "/Common/epmm") == [old]
    bigip.world.set("192.0.2.10:443", False)
    bigip.clock.advance(1)
    assert eligible(unit, "/Common/epmm") == [new]
    bigip.world.set("192.0.2.10:443", True)
    bigip.clock.advance(1)
    assert eligible(unit, "/Common/epmm") == [old]


async def test_a_pool_and_its_members_are_made_and_deleted(rest: Rest) -> None:
    """Facts 5 and ID645289: the answers of creating, twice, in no folder, and deleting."""
    body = {"name": "p", "monitor": "min 1 of http https", "members": [{"name": "1.1.1.1:80"}]}
    made = await rest.ask("POST", "ltm/pool", body)
    assert (made.status, made.body["monitor"]) == (200, "min 1 of { /Common/http /Common/https }")
    again = await rest.ask("POST", "ltm/pool/p/members", {"name": "1.1.1.1:80"})
    shown = "Pool Member (/Common/p /Common/1.1.1.1 80)"
    assert again.message == f"01020066:3: The requested {shown} already exists in partition Common."
    assert again.status == 409
    outside = await rest.ask("POST", "ltm/pool", {"name": "p", "partition": "T"})
    assert outside.message == "The requested folder (/T) was not found."
    assert (await rest.ask("DELETE", "ltm/pool/~Common~p")).status == 200
    gone = await rest.ask("GET", "ltm/pool/~Common~p/members/~Common~1.1.1.1:80")
    assert gone.message == "01020036:3: The requested Pool (/Common/p) was not found."
    missing = await rest.ask("GET", f"{POOL}/members/~Common~9.9.9.9:1")
    assert missing.message == (
        "01020036:3: The requested Pool Member (/Common/epmm /Common/9.9.9.9 1) was not found."
    )


async def test_monitors_that_are_in_use_stay(rest: Rest) -> None:
    await rest.ask("POST", "ltm/monitor/https", {"name": "epmm", "recv": "OK"})
    await rest.patch(POOL, {"monitor": "epmm"})
    assert (await rest.ask("DELETE", HTTPS)).status == 400
    await rest.patch(POOL, {"monitor": "none"})
    assert "monitor" not in await rest.get(POOL)
    assert await rest.states(OLD) == ("unchecked", "user-enabled")
    assert (await rest.ask("DELETE", HTTPS)).status == 200


async def test_a_monitor_may_drain_a_member(bigip: Emulator, rest: Rest) -> None:
    """Facts 2: `recvDisable` makes a session of `monitor-disabled`; no new client goes there."""
    bigip.world.set("192.0.2.10:443", "drained")
    bigip.clock.advance(1)
    assert await rest.states(OLD) == ("up", "monitor-disabled")
    assert eligible(bigip.unit(0), "/Common/epmm") == []
    assert (await rest.status(OLD))["status.enabledState"] == "disabled"


async def test_connections_outlive_forced_offline(bigip: Emulator, rest: Rest) -> None:
    bigip.unit(0).stats.connections["/Common/192.0.2.10:443"] = 5
    await rest.patch(OLD, OFFLINE)
    entries = (await rest.get(f"{OLD}/stats"))["entries"]
    (entry,) = entries.values()
    assert entry["nestedStats"]["entries"]["serverside.curConns"]["value"] == 5
