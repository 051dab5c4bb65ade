"""The agent-check adapter: asked by real HAProxys, and by strangers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_probe.adapters import agent_check
from lb_probe.adapters.agent_check import AgentCheck
from lb_probe.ports import PublishError

NODES = {"epmm-a": "pool/a", "epmm-b": "pool/b"}

CONFIG = """
global
    stats socket {folder}/admin.sock mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend service
    bind {folder}/service.sock
    default_backend pool
backend pool
    default-server agent-check agent-inter 50ms agent-addr 127.0.0.1 agent-port {port_a}
    server a 127.0.0.1:9 agent-send "pool/a\\n"
    server b 127.0.0.1:9 agent-send "pool/b\\n"
    server c 127.0.0.1:9 agent-send "pool/c\\n"
"""


def adapter(**changes: Any) -> AgentCheck:
    wanted: dict[str, Any] = {"listen": ("127.0.0.1", 0), "nodes": NODES} | changes
    return AgentCheck("agent", **wanted)


@contextlib.asynccontextmanager
async def listening(**changes: Any) -> AsyncIterator[AgentCheck]:
    agent = adapter(**changes)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.close()


async def ask(agent: AgentCheck, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*agent.address)
    try:
        writer.write(sent)
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_it_may_be_closed_twice_at_once():
    async with listening() as agent:
        await asyncio.gather(agent.close(), agent.close())
        with pytest.raises(PublishError, match="nobody listens"):
            await agent.read_back()


# ------------------------------------------------------------------ what is answered
async def test_whole_state_is_in_every_answer():
    async with listening() as agent:
        assert await ask(agent, b"pool/a\n") == b"down #nobody is assigned\n"

        await agent.publish("epmm-b")
        assert await ask(agent, b"pool/a\n") == b"down #not assigned\n"
        assert await ask(agent, b"pool/b\n") == b"up ready 100%\n"
        assert await ask(agent, b"pool/b\r\n") == b"up ready 100%\n"
        assert await ask(agent, b"pool/c\n") == b"down #unknown pool/c\n"

        await agent.publish_nobody()
        assert await ask(agent, b"pool/b\n") == b"down #nobody is assigned\n"


async def test_line_that_comes_in_pieces_is_put_together():
    async with listening() as agent:
        await agent.publish("epmm-b")
        reader, writer = await asyncio.open_connection(*agent.address)
        for byte in b"pool/b\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await reader.read() == b"up ready 100%\n"
        writer.close()
        await writer.wait_closed()


async def test_read_back_tells_who_asked_last():
    async with listening() as agent:
        seen = await agent.read_back()
        assert (seen.node, seen.chosen, seen.usable) == (None, (), None)
        assert "nobody was assigned since its start" in seen.detail
        assert "nobody asked for epmm-a yet" in seen.detail

        await agent.publish("epmm-a")
        await ask(agent, b"pool/a\n")
        await ask(agent, b"x\x1b[2J\n")

        seen = await agent.read_back()
        assert (seen.node, seen.chosen) == ("epmm-a", ("epmm-a",))
        assert "127.0.0.1 asked for epmm-a 0." in seen.detail
        assert "nobody asked for epmm-b since the last publication" in seen.detail
        assert "127.0.0.1 asked for x??2J: compare `agent-send`" in seen.detail


async def test_what_nobody_can_ask_is_refused():
    agent = adapter()
    for act in (agent.publish("epmm-a"), agent.publish_nobody(), agent.read_back()):
        with pytest.raises(PublishError, match=r"nobody listens on 127\.0\.0\.1:0"):
            await act
    async with listening() as agent:
        with pytest.raises(PublishError, match="no word is known for zz; wanted one of epmm-a"):
            await agent.publish("zz")


def test_commands_are_the_answers():
    assert adapter().commands("epmm-b") == [
        "to 'pool/a' answer `down #not assigned`",
        "to 'pool/b' answer `up ready 100%`",
    ]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({}, "at least one"),
        ({"epmm-a": "a", "epmm-b": "a"}, "its own word"),
        ({"epmm-a": "a b"}, "word of epmm-a is 'a b'"),
        ({"epmm-a": "a\n"}, "word of epmm-a"),
        ({"epmm-a": ""}, "word of epmm-a"),
    ],
)
def test_words_that_a_line_cannot_carry_are_refused_at_once(nodes, words):
    with pytest.raises(ValueError, match=words):
        adapter(nodes=nodes)


# ------------------------------------------------------------------ strangers
@pytest.mark.parametrize("sent", [b"x" * 300, b"x" * 100_000, b"\x00" * 257])
async def test_line_without_an_end_is_cut_off(sent):
    async with listening(deadline_s=30) as agent:
        assert await ask(agent, sent) == b""


async def test_silent_client_costs_one_deadline_and_is_told():
    async with listening(deadline_s=0.2) as agent:
        assert await ask(agent, b"pool/a") == b""

        assert (
            "127.0.0.1 sent no word within 0.2s: set `agent-send`"
            in (await agent.read_back()).detail
        )


async def test_crowd_of_silent_clients_leaves_room_for_one_that_asks(monkeypatch):
    monkeypatch.setattr(agent_check, "_MOST", 8)
    async with listening(deadline_s=60) as agent, contextlib.AsyncExitStack() as stack:
        await agent.publish("epmm-b")
        for _ in range(200):
            _, writer = await asyncio.open_connection(*agent.address)
            stack.push_async_callback(_close, writer)

        assert await ask(agent, b"pool/b\n") == b"up ready 100%\n"
        assert len(agent._open) <= 8


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@settings(deadline=None, max_examples=300)
@given(raw=st.binary(max_size=200))
async def test_no_question_gets_more_than_one_line_or_an_up_that_is_not_its_own(raw):
    agent = adapter()
    agent._assigned = "epmm-b"

    answer = agent.answer(raw, "somebody")

    assert answer.count(b"\n") == 1
    assert answer.endswith(b"\n")
    assert answer.startswith((b"down #", b"up ready 100%\n"))
    assert answer.startswith(b"up") == (raw.strip(b"\r\n \t") == b"pool/b")
    assert answer.decode("ascii").strip().isprintable()


# ------------------------------------------------------------------ a real HAProxy
async def states(haproxy: Any, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """Wait until HAProxy's servers are as wanted; return their states."""
    async with asyncio.timeout(20):
        while True:
            rows = (
                (await asyncio.to_thread(haproxy.tell, "show stat pool 4 -1")).strip().split("\n")
            )
            at = rows[0].split(",").index("status")
            found = {row.split(",")[1]: row.split(",")[at] for row in rows[1:]}
            # A server without a check of its own is `no check` while it is up.
            found = {name: word.replace("no check", "UP") for name, word in found.items()}
            if wanted(found):
                return found
            await asyncio.sleep(0.02)


async def test_haproxy_does_as_it_is_answered_and_again_after_a_reload(make_haproxy):
    async with listening() as agent:
        haproxy = make_haproxy(CONFIG.replace("{port_a}", str(agent.address[1])))
        await haproxy.start()
        down = {"a": "DOWN (agent)", "b": "DOWN (agent)", "c": "DOWN (agent)"}
        await states(haproxy, lambda found: found == down)

        await agent.publish("epmm-b")
        await states(haproxy, lambda found: found == down | {"b": "UP"})
        seen = await agent.read_back()
        assert "127.0.0.1 asked for epmm-b" in seen.detail

        await asyncio.to_thread(haproxy.tell, "set server pool/b state maint")
        await states(haproxy, lambda found: found["b"] == "UP")  # `ready` clears it

        await haproxy.reload()
        await states(haproxy, lambda found: found == down | {"b": "UP"})

        await agent.publish("epmm-a")
        await states(haproxy, lambda found: found == down | {"a": "UP"})
