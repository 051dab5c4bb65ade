"""HAProxy's map style against real HAProxys: the file first, then one command."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from lb_probe.adapters.haproxy import HaproxyMap, map_file
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable

NODES = {"epmm-a": "a", "epmm-b": "b"}
PATIENT_S = 20.0


def edge(haproxy: Any, socket: Any = None, **changes: Any) -> HaproxyMap:
    wanted: dict[str, Any] = {
        "map_file": str(haproxy.map),
        "keys": ["epmm"],
        "nodes": NODES,
        "timeout_s": PATIENT_S,
        "local_file": haproxy.map,
    } | changes
    return HaproxyMap("edge-1", socket or haproxy.admin, **wanted)


async def until(adapter: HaproxyMap, is_there: Any) -> Seen:
    async with asyncio.timeout(20):
        while True:
            if is_there(seen := await adapter.read_back()):
                return seen
            await asyncio.sleep(0.02)


# ------------------------------------------------------------------ publish and read back
async def test_service_stays_closed_until_it_is_told(map_haproxy):
    seen = await edge(map_haproxy).read_back()

    assert (seen.node, seen.chosen, seen.usable) == (None, (), None)
    assert seen.detail == "epmm is none   # not told yet in the map; wanted one of a and b"
    assert await map_haproxy.ask_service() == "503"


async def test_published_node_alone_gets_the_traffic(map_haproxy):
    adapter = edge(map_haproxy)
    for node, name in (("epmm-a", "a"), ("epmm-b", "b"), ("epmm-b", "b"), ("epmm-a", "a")):
        await adapter.publish(node)

        seen = await adapter.read_back()
        assert (seen.node, seen.chosen, seen.usable, seen.detail) == (node, (node,), True, "")
        assert {await map_haproxy.ask_service() for _ in range(4)} == {name}
    assert await map_haproxy.ask_service("second.sock") == "503"


async def test_read_back_tells_version_uptime_and_run(map_haproxy):
    seen = await edge(map_haproxy).read_back()

    assert seen.version.startswith("2.")
    assert seen.uptime_s is not None
    assert 0 <= seen.uptime_s < 600
    assert seen.instance.startswith(f"{map_haproxy.pid}@")


async def test_nobody_is_published_for_a_switchover_without_overlap(map_haproxy):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-a")

    await adapter.publish_nobody()

    seen = await adapter.read_back()
    assert (seen.node, seen.chosen) == (None, ())
    assert seen.detail == "nobody has the traffic: epmm is none"
    assert await map_haproxy.ask_service() == "503"
    assert "\nepmm none\n" in map_haproxy.map.read_text()


async def test_several_keys_move_together(map_haproxy):
    adapter = edge(map_haproxy, keys=["epmm", "epmm-9997"])

    await adapter.publish("epmm-b")

    assert (await adapter.read_back()).node == "epmm-b"
    assert await map_haproxy.ask_service() == await map_haproxy.ask_service("second.sock") == "b"


async def test_keys_that_disagree_are_no_assignment(map_haproxy):
    adapter = edge(map_haproxy, keys=["epmm", "epmm-9997"])
    await adapter.publish("epmm-b")

    map_haproxy.tell(f"set map {map_haproxy.map} epmm-9997 a")

    seen = await adapter.read_back()
    assert (seen.node, seen.chosen) == (None, ("epmm-a", "epmm-b"))
    assert "epmm is b and epmm-9997 is a: wanted the same for all of them" in seen.detail


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("zz", "epmm is zz in the map; wanted one of a and b"),
        ("none", "nobody has the traffic: epmm is none"),
    ],
)
async def test_value_of_no_node_is_told(map_haproxy, value, words):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-b")

    map_haproxy.tell(f"set map {map_haproxy.map} epmm {value}")

    seen = await adapter.read_back()
    assert (seen.node, seen.chosen, seen.usable) == (None, (), None)
    assert words in seen.detail


async def test_missing_key_is_told_and_added_by_the_next_publication(map_haproxy):
    adapter = edge(map_haproxy, keys=["epmm", "epmm-9997"])
    map_haproxy.tell(f"del map {map_haproxy.map} epmm-9997")
    before = await adapter.read_back()

    await adapter.publish("epmm-b")

    after = await adapter.read_back()
    assert "epmm-9997 is not in the map: HAProxy does as for `none`" in before.detail
    assert (after.node, after.detail) == ("epmm-b", "")
    assert map_haproxy.tell(f"show map {map_haproxy.map}").count(" epmm-9997 ") == 1


async def test_key_that_is_there_twice_is_told_and_still_moves(map_haproxy):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-a")
    map_haproxy.tell(f"add map {map_haproxy.map} epmm b")

    seen = await adapter.read_back()
    assert (seen.node, seen.chosen) == (None, ("epmm-a", "epmm-b"))
    assert "epmm is 2 times in the map, as a and b: somebody said `add map`" in seen.detail

    await adapter.publish("epmm-b")
    seen = await adapter.read_back()
    assert seen.node == "epmm-b"
    assert "epmm is 2 times in the map, as b and b" in seen.detail
    assert await map_haproxy.ask_service() == "b"


async def test_wrong_map_is_named(map_haproxy):
    adapter = edge(map_haproxy, map_file="/etc/haproxy/other.map")

    with pytest.raises(PublishError, match=r"Unknown map identifier.*compare `map_file`"):
        await adapter.read_back()
    with pytest.raises(PublishError, match=r"Unknown map identifier.*compare `map_file`"):
        await adapter.publish("epmm-a")


async def test_wrong_socket_is_named_and_the_file_is_right_all_the_same(map_haproxy):
    adapter = edge(map_haproxy, socket=map_haproxy.folder / "none.sock")

    with pytest.raises(Unreachable, match=r"there is no such socket.*nothing was sent"):
        await adapter.publish("epmm-a")

    assert "\nepmm a\n" in map_haproxy.map.read_text()


async def test_socket_that_numbers_its_messages_works_too(map_haproxy):
    adapter = edge(map_haproxy, socket=map_haproxy.numbered, owner="prober-1")

    await adapter.publish("epmm-b")

    seen = await adapter.read_back()
    assert (seen.node, seen.owner) == ("epmm-b", "prober-1")


async def test_publications_that_cross_leave_one_entry_of_each_key(map_haproxy):
    map_haproxy.tell(f"del map {map_haproxy.map} epmm")
    adapter = edge(map_haproxy)

    async with asyncio.TaskGroup() as tasks:
        for i in range(100):
            tasks.create_task(adapter.publish(("epmm-a", "epmm-b")[i % 2]))

    assert (await adapter.read_back()).node in NODES
    assert map_haproxy.tell(f"show map {map_haproxy.map}").count(" epmm ") == 1


def test_commands_are_what_is_written_and_sent():
    adapter = HaproxyMap(
        "edge-1", Path("/x"), "/m", ["epmm", "tcp"], NODES, local_file=Path("/m"), owner="p1:7"
    )

    assert adapter.commands("epmm-b") == [
        "# first, in /m: epmm b, tcp b, epmm:owner p1:7, tcp:owner p1:7",
        "set map /m epmm b;set map /m tcp b;set map /m epmm:owner p1:7;set map /m tcp:owner p1:7",
    ]
    with pytest.raises(PublishError, match="no server is known for zz"):
        adapter.commands("zz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keys": ["ep mm"]}, "key is 'ep mm'"),
        ({"keys": []}, "keys are"),
        ({"keys": ["a", "a"]}, "name each once"),
        ({"map_file": "/a b"}, "map_file is '/a b'"),
        ({"map_file": "/a;b"}, "map_file is"),
        ({"map_file": "/a\\b"}, "map_file is"),
        ({"nodes": {"epmm-a": "none"}}, "closes the service"),
        ({"nodes": {"epmm-a": "a", "epmm-b": "a"}}, "its own"),
        ({"nodes": {"epmm-a": "a\nx"}}, "value of epmm-a"),
        ({"owner": "a;b"}, "owner is"),
        ({"backend_prefix": "p p"}, "backend_prefix is"),
        ({"shutdown_sessions_after_s": -1}, "shutdown_sessions_after_s is -1"),
    ],
)
def test_what_haproxy_cannot_have_is_refused_at_once(changes, words):
    wanted: dict[str, Any] = {"map_file": "/m", "keys": ["epmm"], "nodes": NODES} | changes
    with pytest.raises(ValueError, match=words):
        HaproxyMap("edge-1", Path("/x"), **wanted)


# ------------------------------------------------------------------ owner
async def test_owner_is_left_in_map_and_file_and_told(map_haproxy):
    adapter = edge(map_haproxy, owner="prober-1:7")
    await adapter.publish("epmm-a")
    adapter.owner = "prober-1:8"
    await adapter.publish("epmm-b")

    other = await edge(map_haproxy, owner="prober-2").read_back()

    assert (other.node, other.owner) == ("epmm-b", "prober-1:8")
    assert "\nepmm:owner prober-1:8\n" in map_haproxy.map.read_text()
    await map_haproxy.reload()
    assert (await adapter.read_back()).owner == "prober-1:8"


# ------------------------------------------------------------------ restarts
@pytest.mark.parametrize("how", ["reload", "restart"])
async def test_decision_in_the_file_survives(map_haproxy, how):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-b")
    before = await adapter.read_back()

    if how == "reload":
        await map_haproxy.reload()
    else:
        map_haproxy.stop()
        await map_haproxy.start()

    after = await adapter.read_back()
    assert (after.node, after.usable, after.detail) == ("epmm-b", True, "")
    assert after.instance != before.instance
    assert await map_haproxy.ask_service() == "b"


async def test_without_a_local_file_a_restart_closes_and_says_so(map_haproxy):
    map_haproxy.map.write_text("epmm none\n")
    await map_haproxy.reload()
    adapter = edge(map_haproxy, local_file=None)
    await adapter.publish("epmm-b")
    assert (await adapter.read_back()).node == "epmm-b"

    await map_haproxy.reload()

    seen = await adapter.read_back()
    assert (seen.node, seen.detail) == (None, "nobody has the traffic: epmm is none")
    assert map_haproxy.map.read_text() == "epmm none\n"


async def test_file_that_opens_the_service_before_it_is_told_is_noticed(map_haproxy):
    map_haproxy.map.write_text("epmm a\n")
    adapter = edge(map_haproxy, local_file=None)
    await adapter.publish("epmm-b")
    await adapter.read_back()

    await map_haproxy.reload()

    seen = await adapter.read_back()
    assert seen.node == "epmm-a"
    assert "said epmm a before it was told: write `none` there" in seen.detail
    await adapter.publish("epmm-b")
    assert "write `none` there" in (await adapter.read_back()).detail


async def test_publisher_killed_between_file_and_haproxy_leaves_the_file_right(
    map_haproxy, monkeypatch
):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-a")

    async def die(line: str) -> bytes:
        raise asyncio.CancelledError

    monkeypatch.setattr(adapter._device, "change", die)
    with pytest.raises(asyncio.CancelledError):
        await adapter.publish("epmm-b")

    assert "\nepmm b\n" in map_haproxy.map.read_text()
    seen = await adapter.read_back()
    assert seen.node == "epmm-a"
    assert f"epmm is a in HAProxy and b in {map_haproxy.map}" in seen.detail
    await map_haproxy.reload()
    assert await map_haproxy.ask_service() == "b"


# ------------------------------------------------------------------ the file
async def test_publication_that_a_power_cut_may_undo_is_none(map_haproxy, monkeypatch):
    """Users are on the new node already, and it is tried again until the disk has it."""
    adapter = edge(map_haproxy)
    real = map_file._sync_folder

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(map_file, "_sync_folder", fail)
    with pytest.raises(PublishError, match="a power cut may bring the old assignment back"):
        await adapter.publish("epmm-b")
    assert (await adapter.read_back()).node == "epmm-b"
    assert await map_haproxy.ask_service() == "b"
    monkeypatch.setattr(map_file, "_sync_folder", real)
    await adapter.publish("epmm-b")


async def test_all_that_is_not_ours_in_the_file_stays(map_haproxy):
    map_haproxy.map.chmod(0o640)
    os.chown(map_haproxy.map, 0, 65534) if os.geteuid() == 0 else None
    before = map_haproxy.map.stat()

    await edge(map_haproxy, keys=["epmm", "new"]).publish("epmm-b")

    after = map_haproxy.map.stat()
    assert map_haproxy.map.read_text() == (
        "# who has the traffic\nother a\n\nepmm b\nepmm-9997 none\nnew b\n"
    )
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert after.st_ino != before.st_ino
    assert [p.name for p in map_haproxy.folder.glob("*.lb-probe")] == []


async def test_local_file_that_disagrees_is_shown_and_written_next_time(map_haproxy):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-b")
    map_haproxy.map.write_text("epmm a\n")

    seen = await adapter.read_back()
    await adapter.publish("epmm-b")

    assert seen.node == "epmm-b"
    assert f"epmm is b in HAProxy and a in {map_haproxy.map}: a restart would follow" in seen.detail
    assert map_haproxy.map.read_text() == "epmm b\n"
    assert (await adapter.read_back()).detail == ""


async def test_file_that_cannot_be_written_stops_before_haproxy_is_told(map_haproxy):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-a")
    map_haproxy.map.rename(map_haproxy.folder / "elsewhere")

    with pytest.raises(PublishError, match=r"does not exist.*nothing was sent") as caught:
        await adapter.publish("epmm-b")

    assert not isinstance(caught.value, Unreachable)
    seen = await adapter.read_back()
    assert seen.node == "epmm-a"
    assert f"local file {map_haproxy.map} cannot be read" in seen.detail


# ------------------------------------------------------------------ what users get
async def test_chosen_node_that_haproxys_own_check_holds_down_is_not_usable(
    checking_map_haproxy, nodes
):
    adapter = edge(checking_map_haproxy)
    await adapter.publish("epmm-b")
    seen = await until(adapter, lambda s: s.health["epmm-b"].is_sure)
    assert (seen.health["epmm-b"].up, seen.health["epmm-b"].detail) == (True, "UP, L4OK")
    assert "epmm-a" not in seen.health  # it has no check
    assert seen.usable is True

    nodes["b"].close()
    await nodes["b"].wait_closed()

    seen = await until(adapter, lambda s: s.usable is False and s.health["epmm-b"].is_sure)
    assert seen.node == "epmm-b"
    assert (seen.health["epmm-b"].up, seen.health["epmm-b"].detail) == (False, "DOWN, L4CON")
    assert "no server of pool_b takes traffic (b: HAProxy's own check holds it" in seen.detail


async def test_chosen_node_in_maintenance_is_not_usable_and_its_check_is_left_out(
    checking_map_haproxy,
):
    adapter = edge(checking_map_haproxy)
    await adapter.publish("epmm-b")

    checking_map_haproxy.tell("set server pool_b/b state maint")

    seen = await adapter.read_back()
    assert (seen.node, seen.usable, seen.health) == ("epmm-b", False, {})
    assert "no server of pool_b takes traffic (b: maintenance)" in seen.detail


async def test_backend_that_does_not_exist_is_told_and_not_judged(map_haproxy):
    adapter = edge(map_haproxy, nodes={"epmm-a": "a", "epmm-b": "c"})

    await adapter.publish("epmm-b")

    seen = await adapter.read_back()
    assert (seen.node, seen.usable) == ("epmm-b", None)
    assert "nothing is known of backend pool_c (found 'Can't find backend.'" in seen.detail
    assert await map_haproxy.ask_service() == "503"


async def test_in_flight_counts_what_is_on_the_node(map_haproxy):
    adapter = edge(map_haproxy)
    await adapter.publish("epmm-a")
    _, writer = await asyncio.open_unix_connection(str(map_haproxy.folder / "service.sock"))
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    async with asyncio.timeout(20):
        while True:
            found = await adapter.in_flight()
            if found == {"epmm-a": 1, "epmm-b": 0}:
                break
            await asyncio.sleep(0.02)
    writer.close()
    await writer.wait_closed()
