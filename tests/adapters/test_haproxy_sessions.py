"""Sessions that stay behind: on a node that lost the traffic, and in a worker that leaves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers
from lb_probe.ports import PublishError

NODES = {"epmm-a": "a", "epmm-b": "b"}
PATIENT_S = 20.0

Edge = HaproxyServers | HaproxyMap


@pytest.fixture(params=["server", "map"])
def style(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(style: str) -> Any:
    """Makes an adapter of this style."""

    def adapter(proxy: Any, device: Device, **changes: Any) -> Edge:
        if style == "server":
            return HaproxyServers("edge-1", device, "epmm", NODES, **changes)
        return HaproxyMap(
            "edge-1", device, str(proxy.map), "epmm", NODES, local_file=proxy.map, **changes
        )

    return adapter


@pytest.fixture
async def proxy(style: str, haproxy: Any, map_haproxy: Any) -> Any:
    return haproxy if style == "server" else map_haproxy


class Client:
    """A client whose request the node never answers; `ended` is set when HAProxy ends it."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def hanging(self, proxy: Any, edge: Edge, node: str) -> AsyncIterator["Client"]:
        before = (await edge.in_flight())[node]
        path = str(proxy.folder / "service.sock")
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")

        async def listen() -> None:
            with contextlib.suppress(OSError):
                await reader.read(100)
            self.ended.set()

        listening = asyncio.create_task(listen())
        try:
            async with asyncio.timeout(20):
                while True:
                    if (await edge.in_flight())[node] > before:
                        break
                    await asyncio.sleep(0.02)
            yield self
        finally:
            listening.cancel()
            writer.close()
            await writer.wait_closed()


async def read_until(edge: Edge, is_there: Any) -> Any:
    async with asyncio.timeout(20):
        while True:
            if is_there(seen := await edge.read_back()):
                return seen
            await asyncio.sleep(0.05)


async def test_old_sessions_are_ended_when_they_are_due_and_no_others(proxy, make):
    edge = make(proxy, Device(proxy.admin, timeout_s=PATIENT_S), shutdown_sessions_after_s=0.0)
    await edge.publish("epmm-a")
    async with Client().hanging(proxy, edge, "epmm-a") as old:
        await edge.publish("epmm-b")
        assert not old.ended.is_set()
        async with Client().hanging(proxy, edge, "epmm-b") as new:
            await edge.read_back()
            async with asyncio.timeout(20):
                await old.ended.wait()

            assert await edge.in_flight() == {"epmm-a": 0, "epmm-b": 1}
            await edge.read_back()
            assert not new.ended.is_set()


async def test_old_sessions_are_ended_by_the_feed(proxy, make):
    device = Device(proxy.admin, timeout_s=PATIENT_S, poll_s=0.02)
    edge = make(proxy, device, shutdown_sessions_after_s=0.1)
    edge.watch(lambda _: None)
    await edge.publish("epmm-a")
    hanging = Client().hanging(proxy, edge, "epmm-a")
    async with hanging as old, asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        feed = tasks.create_task(device.run())
        await edge.publish("epmm-b")
        await old.ended.wait()
        feed.cancel()


@pytest.mark.parametrize("after_s", [None, 1000.0])
async def test_old_sessions_are_left_alone_before_that(proxy, make, after_s):
    edge = make(proxy, Device(proxy.admin, timeout_s=PATIENT_S), shutdown_sessions_after_s=after_s)
    await edge.publish("epmm-a")
    async with Client().hanging(proxy, edge, "epmm-a") as old:
        await edge.publish("epmm-b")
        for _ in range(3):
            await edge.read_back()

        assert await edge.in_flight() == {"epmm-a": 1, "epmm-b": 0}
        assert not old.ended.is_set()


async def test_sessions_that_could_not_be_ended_are_told_and_tried_again(proxy, make, monkeypatch):
    device = Device(proxy.admin, timeout_s=PATIENT_S)
    edge = make(proxy, device, shutdown_sessions_after_s=0.0)
    await edge.publish("epmm-a")
    async with Client().hanging(proxy, edge, "epmm-a") as old:
        await edge.publish("epmm-b")

        async def refuse(line: str) -> bytes:
            return b"Permission denied\n\n" * (line.count(";") + 1)

        with monkeypatch.context() as patched:
            patched.setattr(device, "change", refuse)
            await edge.read_back()
        seen = await edge.read_back()

        assert "sessions of other nodes could not be ended" in seen.detail
        seen = await read_until(edge, lambda seen: old.ended.is_set() and not seen.detail)
        assert seen.node == "epmm-b"


async def test_leaving_worker_with_sessions_on_another_node_is_shown(proxy, make):
    device = Device(proxy.admin, timeout_s=PATIENT_S, master=proxy.master)
    edge = make(proxy, device)
    await edge.publish("epmm-a")
    worker = proxy.pid
    async with Client().hanging(proxy, edge, "epmm-a") as old:
        await proxy.reload()
        await edge.publish("epmm-b")

        seen = await read_until(edge, lambda seen: seen.leaving)

        assert seen.node == "epmm-b"
        assert seen.leaving == (
            f"worker {worker} leaves after a reload and still has sessions on epmm-a",
        )
        assert "reloads: 1" in seen.detail
        await edge.publish("epmm-a")
        assert (await edge.read_back()).leaving == ()  # they are where they should be
        assert not old.ended.is_set()
    await edge.publish("epmm-b")
    await read_until(edge, lambda seen: not seen.leaving)


async def test_sessions_of_a_leaving_worker_are_ended_through_the_master_and_no_others(proxy, make):
    device = Device(proxy.admin, timeout_s=PATIENT_S, master=proxy.master)
    edge = make(proxy, device, shutdown_sessions_after_s=0.0)
    await edge.publish("epmm-a")
    async with Client().hanging(proxy, edge, "epmm-a") as old:
        await edge.publish("epmm-b")
        async with Client().hanging(proxy, edge, "epmm-b") as new:
            await proxy.reload()  # both stay in the worker that leaves
            await edge.publish("epmm-b")

            await read_until(edge, lambda _: old.ended.is_set())
            seen = await read_until(edge, lambda seen: not seen.leaving)

            assert seen.node == "epmm-b"
            assert not new.ended.is_set()


async def test_trouble_with_a_leaving_worker_is_told_no_longer_than_it_lasts(
    proxy, make, monkeypatch
):
    device = Device(proxy.admin, timeout_s=PATIENT_S, master=proxy.master)
    edge = make(proxy, device, shutdown_sessions_after_s=0.0)
    await edge.publish("epmm-a")
    async with Client().hanging(proxy, edge, "epmm-a") as old:
        await edge.publish("epmm-b")
        await read_until(edge, lambda _: old.ended.is_set())
    async with Client().hanging(proxy, edge, "epmm-b"):
        await proxy.reload()
        await edge.publish("epmm-b")

        async def refuse(*_: Any) -> int:
            raise PublishError("no")

        monkeypatch.setattr(device._master, "end", refuse)
        await read_until(edge, lambda seen: "could not be ended" in seen.detail)
        monkeypatch.undo()
    await read_until(edge, lambda seen: "could not be ended" not in seen.detail)


async def test_master_that_cannot_be_asked_is_told_and_stops_nothing(proxy, make):
    device = Device(proxy.admin, timeout_s=PATIENT_S, master=proxy.folder / "none.sock")
    edge = make(proxy, device)
    await edge.publish("epmm-a")

    seen = await edge.read_back()

    assert seen.node == "epmm-a"
    assert "the master at " in seen.detail
    assert "there is no such socket" in seen.detail


async def test_sessions_of_a_node_that_somebody_else_chose_since_are_not_ended(proxy, make, style):
    edge = make(proxy, Device(proxy.admin, timeout_s=PATIENT_S), shutdown_sessions_after_s=0.0)
    await edge.publish("epmm-a")
    async with Client().hanging(proxy, edge, "epmm-a") as old:
        await edge.publish("epmm-b")
        if style == "map":
            proxy.tell(f"set map {proxy.map} epmm a")
        else:
            proxy.tell("set server epmm/a state ready;set server epmm/b state maint")
        for _ in range(3):
            assert (await edge.read_back()).node == "epmm-a"

        assert await edge.in_flight() == {"epmm-a": 1, "epmm-b": 0}
        assert not old.ended.is_set()
