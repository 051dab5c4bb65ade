"""Traffic moves under load: no client is refused, and none reaches the old node afterwards."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers

NODES = {"epmm-a": "a", "epmm-b": "b"}
PATIENT_S = 20.0
CLIENTS = 32
MOVES = 10


class Load:
    """Clients that ask without pause.

    `answers` holds for each request its step, None where it took two, and what it got.
    """

    def __init__(self, service: Path, *, keep_alive: bool) -> None:
        self._service = str(service)
        self._keep_alive = keep_alive
        self._is_over = False
        self._answered = asyncio.Semaphore(0)
        self.step = 0
        self.answers: list[tuple[int | None, str]] = []

    async def client(self) -> None:
        while not self._is_over:
            reader, writer = await asyncio.open_unix_connection(self._service)
            try:
                while not self._is_over:
                    step = self.step
                    name = await self._ask(reader, writer)
                    self.answers.append((step if step == self.step else None, name))
                    self._answered.release()
                    if not self._keep_alive:
                        break
            finally:
                writer.close()
                await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        word = "keep-alive" if self._keep_alive else "close"
        writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: {word}\r\n\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return "closed"
        if " 200 " not in head:
            return head.split(" ")[1]
        return (await reader.readexactly(1)).decode()

    async def some(self, count: int) -> None:
        """Wait until so many more requests are answered."""
        while not self._answered.locked():
            await self._answered.acquire()
        for _ in range(count):
            await self._answered.acquire()

    def stop(self) -> None:
        self._is_over = True


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
