"""The whole agent from start to drain."""

import asyncio
import os
import socket
from contextlib import asynccontextmanager

import pytest

from lb_probe.agent import daemon
from lb_probe.agent.check import TcpCheck
from lb_probe.agent.pages import ListenError
from lb_probe.agent.state import StateError, StateFile
from lb_probe.core.model import Role


class Agent:
    """`daemon.run` in a task, with what a test wants to know of it."""

    def __init__(
        self, folder, clock, sink, role=Role.PRIMARY, checks=(), port=0, drain_s=0.0, **more
    ):
        self.control = folder / "agent.sock"
        self.sink = sink
        self.stop = asyncio.Event()
        setup = daemon.Setup(
            node="a",
            role=role,
            listen=("127.0.0.1", port),
            control=self.control,
            state=folder / "agent.json",
            checks=checks,
            drain_s=drain_s,
            **more,
        )
        self.task = asyncio.ensure_future(daemon.run(setup, clock, self.stop, sink))

    @property
    def port(self):
        return int(self.sink.named("agent.started")[-1].fields["listen"].rpartition(":")[2])

    async def get(self, path):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer.rpartition(b"\r\n\r\n")[2].decode().strip()


@pytest.fixture
def agent(tmp_path, clock, sink, eventually):
    @asynccontextmanager
    async def start(**kwargs):
        one = Agent(tmp_path, clock, sink, **kwargs)
        try:
            already = len(sink.named("agent.started"))
            await eventually(lambda: one.task.done() or len(sink.named("agent.started")) > already)
            if one.task.done():
                one.task.result()
            yield one
        finally:
            one.stop.set()
            await asyncio.gather(one.task, return_exceptions=True)

    return start


async def test_an_agent_starts_serves_changes_mode_and_keeps_it(agent, eventually, call):
    async def says(one, text):
        return await one.get("/hastatus.html") == text

    async with agent(role=Role.SECONDARY) as one:
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: OK (Mode: Standby)"))
        await call(one.control, {"command": "failover-mode", "mode": "primary", "reason": "x"})
        assert await one.get("/hastatus.html") == "MOBILEIRON-STATUS: OK (Mode: Primary)"
    async with agent(role=Role.SECONDARY) as again:
        await eventually(lambda: says(again, "MOBILEIRON-STATUS: OK (Mode: Primary)"))
        assert (await call(again.control, {"command": "status"}))["cause"] == "operator"


async def test_stopping_drains_first_and_leaves_nothing_behind(
    agent, eventually, clock, tmp_path, call
):
    async with agent(drain_s=600) as one:
        await eventually(lambda: one.sink.named("agent.page-changed") != [])
        port = one.port
        one.stop.set()
        await eventually(lambda: len(one.sink.named("agent.page-changed")) == 4)
        assert await one.get("/status/status.html") == "MOBILEIRON-STATUS: ERROR"
        status = await call(one.control, {"command": "status"})
        assert status["pages"]["hastatus"]["reasons"] == ["the agent is stopping"]
        assert not one.task.done()
        clock.jumped_s = 601
        await asyncio.wait_for(one.task, 20)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not one.control.exists()
    names = [event.name for event in one.sink.events]
    assert (names[0], names[-1]) == ("agent.started", "agent.stopped")
    StateFile(tmp_path / "agent.json", node="a", role=Role.PRIMARY, now_wall=0).close()


async def test_a_cancelled_agent_ends_at_once_and_leaves_nothing_behind(agent, tmp_path):
    async with agent(drain_s=600) as one:
        port = one.port
        one.stop.set()
        await asyncio.sleep(0)
        one.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(one.task, 20)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not one.control.exists()
    StateFile(tmp_path / "agent.json", node="a", role=Role.PRIMARY, now_wall=0).close()


async def test_a_second_agent_is_refused_and_does_not_disturb_the_first(agent, call):
    async with agent() as one:
        with pytest.raises(StateError, match=f"pid {os.getpid()}"):
            async with agent():
                pass
        assert (await call(one.control, {"command": "status"}))["node"] == "a"


async def test_a_taken_port_is_refused_and_gives_everything_back(agent, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError):
        async with agent(port=taken.getsockname()[1]):
            pass
    assert not (tmp_path / "agent.sock").exists()
    async with agent():
        pass


async def test_a_failing_check_turns_the_pages_and_its_return_turns_them_back(agent, eventually):
    async def says(one, text):
        return await one.get("/status/status.html") == text

    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    check = TcpCheck("app", "127.0.0.1", port, interval_s=0.05, timeout_s=20, max_age_s=20)
    async with agent(checks=[check]) as one:
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: OK"))
        server.close()
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: ERROR"))
        server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", port)
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: OK"))
    server.close()
    changes = [
        e.fields for e in one.sink.named("agent.page-changed") if e.fields["page"] == "status"
    ]
    assert [change["to"] for change in changes[:3]] == [
        "MOBILEIRON-STATUS: OK",
        "MOBILEIRON-STATUS: ERROR",
        "MOBILEIRON-STATUS: OK",
    ]
    assert "ConnectionRefusedError" in changes[1]["reasons"][0]
