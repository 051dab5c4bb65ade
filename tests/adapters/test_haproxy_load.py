"""Traffic moves under load: no client is refused, and none reaches the old node afterwards."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from haproxy_desk import NODES, Kept, Load, edge_of
from loopback import Behaviour, listening

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers
from lb_probe.reconcile import Fence

PATIENT_S = 20.0
CLIENTS = 32
MOVES = 10


async def move_to_and_fro(load: Load, edge: HaproxyServers | HaproxyMap) -> dict[int, str]:
    """Return which node each step's requests must have reached."""
    wanted = {}
    async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(load.client())
        await load.some(CLIENTS)
        for i in range(MOVES):
            node = ("epmm-b", "epmm-a")[i % 2]
            load.step += 1  # while it moves either node may answer
            await edge.publish(node)
            assert (await edge.read_back()).node == node
            load.step += 1
            wanted[load.step] = NODES[node]
            await load.some(2 * CLIENTS)
        load.stop()
    return wanted


Make = Callable[[Any, Any], tuple[Any, HaproxyServers | HaproxyMap]]


@pytest.fixture(params=["server", "map", "map with its file"])
def moving(request: pytest.FixtureRequest, haproxy: Any, map_haproxy: Any) -> Any:
    if request.param == "server":
        device = Device(haproxy.admin, timeout_s=PATIENT_S)
        return haproxy, HaproxyServers("edge", device, "epmm", NODES)
    device = Device(map_haproxy.admin, timeout_s=PATIENT_S)
    file = map_haproxy.map if request.param == "map with its file" else None
    edge = HaproxyMap("edge", device, str(map_haproxy.map), "epmm", NODES, local_file=file)
    return map_haproxy, edge


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "close"])
async def test_no_client_is_refused_and_none_reaches_the_old_node(moving, keep_alive):
    proxy, edge = moving
    await edge.publish("epmm-a")
    load = Load(proxy.folder / "service.sock", keep_alive=keep_alive)

    wanted = await move_to_and_fro(load, edge)

    assert {answer for _, answer in load.answers} == {"a", "b"}  # no 503, none cut off
    assert {(step, name) for step, name in load.answers if step in wanted} == set(wanted.items())


async def test_several_backends_move_in_one_line(haproxy):
    edge = HaproxyServers("edge", haproxy.admin, ["epmm", "second"], NODES, timeout_s=PATIENT_S)
    assert edge.commands("epmm-b") == [
        "set server epmm/b state ready;set server epmm/a state maint;"
        "set server second/b state ready;set server second/a state maint"
    ]

    await edge.publish("epmm-b")
    seen = await edge.read_back()
    assert (seen.node, seen.usable, seen.detail) == ("epmm-b", True, "")

    haproxy.tell("set server second/b state maint")
    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (None, ("epmm-b",))
    assert "neither epmm-a (maintenance) nor epmm-b (maintenance) is ready" in seen.detail

    haproxy.tell("set server second/a state ready")
    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (None, ("epmm-a", "epmm-b"))


async def test_nobody_and_all_of_several_can_be_published(haproxy):
    edge = HaproxyServers("edge", haproxy.admin, "epmm", NODES, timeout_s=PATIENT_S)

    await edge.publish_all(frozenset(NODES))
    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (None, ("epmm-a", "epmm-b"))
    assert {await haproxy.ask_service() for _ in range(4)} == {"a", "b"}

    await edge.publish_all(frozenset({"epmm-b"}))
    assert (await edge.read_back()).node == "epmm-b"

    await edge.publish_nobody()
    assert (await edge.read_back()).chosen == ()
    assert await haproxy.ask_service() == "503"


async def test_health_is_told_for_servers_with_a_check_of_their_own(checking_haproxy, nodes):
    edge = HaproxyServers("edge", checking_haproxy.admin, "epmm", NODES, timeout_s=PATIENT_S)
    assert (await edge.read_back()).health == {}  # in maintenance nothing is checked

    await edge.publish("epmm-b")
    async with asyncio.timeout(20):
        while True:
            health = (await edge.read_back()).health
            if health["epmm-b"].is_sure:
                break
            await asyncio.sleep(0.01)

    assert health.keys() == {"epmm-b"}
    assert (health["epmm-b"].up, health["epmm-b"].detail) == (True, "UP, L4OK")


# ------------------------------------------------------------------ planned
class Work:
    """Nodes that take their time; `crossings` counts what began while another node worked."""

    def __init__(self) -> None:
        self.running = {"a": 0, "b": 0}
        self.begun = {"a": 0, "b": 0}
        self.crossings = 0
        self.slow_ends = asyncio.Event()

    def at(self, name: str) -> Behaviour:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.begun[name] += 1
                self.running[name] += 1
                self.crossings += all(self.running.values())
                if head.startswith(b"GET /slow"):
                    await self.slow_ends.wait()
                await asyncio.sleep(0.008)
                self.running[name] -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode())
                await writer.drain()

        return answer


def switch_over(everybody: list[Kept], node: str) -> None:
    fence = Fence([kept.edge.name for kept in everybody], time.monotonic() + PATIENT_S)
    for kept in everybody:
        kept.want(node, fence)


async def test_switchover_of_several_haproxys_never_has_two_nodes_at_work(make_serving_haproxy):
    """X3 and X13, under load: all close, what is under way ends, then the new node.

    A slow request, which a reload left in a worker that leaves, is waited for as well.
    """
    work, loads, everybody = Work(), [], []
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(55))
        nodes = {n: await stack.enter_async_context(listening(work.at(n))) for n in "ab"}
        for style in ("server", "map"):
            proxy = make_serving_haproxy(style, nodes=nodes)
            await proxy.start()
            service = proxy.folder / "service.sock"
            loads += [Load(service, keep_alive=keep_alive) for keep_alive in (True, False)]
            kept = Kept(edge_of(proxy, style, f"edge-{style}", master=proxy.master))
            everybody.append(await stack.enter_async_context(kept.running()))
            kept.want("epmm-a")
            await kept.confirmed.wait()
        clients = await stack.enter_async_context(asyncio.TaskGroup())
        slow = clients.create_task(proxy.ask_service(path="/slow"))
        async with asyncio.timeout(PATIENT_S):
            while not work.running["a"]:  # noqa: ASYNC110 - the node sends no event
                await asyncio.sleep(0.01)
        await proxy.reload()
        for load in loads:
            for _ in range(CLIENTS // len(loads)):
                clients.create_task(load.client())
            await load.some(CLIENTS)

        switch_over(everybody, "epmm-b")
        await asyncio.sleep(0.5)  # all but one have ended, and that one is seen by the master alone
        assert work.running == {"a": 1, "b": 0}
        work.slow_ends.set()
        for kept in everybody:
            await kept.confirmed.wait()
        await asyncio.gather(*(load.some(CLIENTS) for load in loads))

        begun = work.begun["b"]
        switch_over(everybody, "epmm-a")
        for kept in everybody:
            await kept.confirmed.wait()
        assert begun < (begun := work.begun["b"])
        await asyncio.gather(*(load.some(CLIENTS) for load in loads))
        for load in loads:
            load.stop()

    assert (work.crossings, work.begun["b"]) == (0, begun)
    assert slow.result() == "a"
    assert {name for load in loads for _, name in load.answers} == {"a", "b", "503"}
    assert [len(kept.named("publish.closed")) for kept in everybody] == [2, 2]
