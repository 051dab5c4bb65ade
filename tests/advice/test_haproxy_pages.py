"""HAProxy as the only client of our agents' pages: both strings, both expectations."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback import listening, port_of

from lb_probe.advice.haproxy_lines import Choices
from lb_probe.advice.haproxy_pages import ABLE, SERVING, SERVING_AND_MORE, pages_text
from lb_probe.agent.check import CommandCheck
from lb_probe.agent.checks import Checks
from lb_probe.agent.pages import Pages
from lb_probe.agent.state import StateFile
from lb_probe.clock import SystemClock
from lb_probe.config import load
from lb_probe.core.model import Mode, Page, Role


@dataclass
class Agent:
    """The pages of one node; it is healthy while `alive` exists."""

    alive: Path
    state: StateFile
    pages: Pages
    port: int

    async def lives(self) -> None:
        """Come to life and wait until the page says so.

        A first check that meets ERROR would take the node out for good: see the printed comment.
        """
        self.alive.touch()
        async with asyncio.timeout(20):
            while self.pages.view(Page.HASTATUS).code != 200:  # noqa: ASYNC110 - it sends no event
                await asyncio.sleep(0.01)

    def says(self, mode: Mode) -> None:
        self.state.change(mode, cause="operator", by="", reason="", now_wall=1.0)


@contextlib.asynccontextmanager
async def agent(folder: Path, role: Role) -> AsyncIterator[Agent]:
    alive, clock = folder / f"{role.value}.alive", SystemClock()
    check = CommandCheck(
        name="alive", argv=("/usr/bin/test", "-e", str(alive)), interval_s=0.05, fall=1, rise=1
    )
    with StateFile(folder / f"{role.value}.json", node="n", role=role, now_wall=0.0) as state:
        checks = Checks([check], clock)
        pages = Pages(state, checks, clock)
        _, port = await pages.start("127.0.0.1", 0)
        tasks = [asyncio.ensure_future(checks.run()), asyncio.ensure_future(pages.run())]
        node = Agent(alive, state, pages, port)
        try:
            await node.lives()
            yield node
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await pages.stop()


Arrange = Callable[[], contextlib.AbstractAsyncContextManager[tuple[Agent, Agent, str]]]


@pytest.fixture
def arrange(haproxy, nodes, tmp_path) -> Arrange:
    """Two agents, two applications, and the printed configuration that puts them together."""

    @contextlib.asynccontextmanager
    async def start() -> AsyncIterator[tuple[Agent, Agent, str]]:
        async with agent(tmp_path, Role.PRIMARY) as a, agent(tmp_path, Role.SECONDARY) as b:
            path = tmp_path / "probes.yaml"
            path.write_text(
                "version: 1\ngroups:\n  - name: epmm\n    act: true\n    nodes:\n"
                f"      - {{name: a, role: primary, url: http://127.0.0.1:{a.port}, agent:"
                f" {{listen: 127.0.0.1:{a.port}, control: a.sock}}}}\n"
                f"      - {{name: b, role: secondary, url: http://127.0.0.1:{b.port}, agent:"
                f" {{listen: 127.0.0.1:{b.port}, control: b.sock}}}}\n"
            )
            (group,) = load(path).groups
            text = pages_text(group, Choices(listen=(str(haproxy.front),), mode="http"))
            text = text.replace("/run/haproxy/admin.sock", str(haproxy.admin))
            for name, node in zip("ab", nodes, strict=True):
                text = text.replace(f"{name} 127.0.0.1:443", f"{name} 127.0.0.1:{node.port}")
            yield a, b, text.replace("inter 1s", "inter 50ms")

    return start


async def test_failed_over_promoted_and_returned_it_stays_until_told(haproxy, arrange, eventually):
    async with arrange() as (a, b, text):
        haproxy.check(text)
        await haproxy.start(text)

        async def is_a() -> bool:
            return await haproxy.ask_service() == "a"

        async def is_b() -> bool:
            return await haproxy.ask_service() == "b"

        await eventually(is_a)
        a.alive.unlink()
        await eventually(is_b)

        b.says(Mode.PRIMARY)  # promoted: the page changes its word, and it must stay in
        page = "epmm-secondary-page"
        seen = set()
        for _ in range(60):
            seen.add(haproxy.tell(f"show stat {page} 4 -1").split("\n")[1].split(",")[17])
            await asyncio.sleep(0.02)
        assert seen == {"UP"}
        await a.lives()
        for _ in range(60):
            assert await haproxy.ask_service() == "b"
            await asyncio.sleep(0.02)

        haproxy.tell("set server epmm-primary-page/a health up")  # the line that is printed
        await eventually(is_a)
        assert "set server epmm-primary-page/a health up" in text


async def test_it_forgets_on_a_restart_as_the_printed_warning_says(haproxy, arrange, eventually):
    async with arrange() as (a, _, text):
        await haproxy.start(text)
        a.alive.unlink()

        async def is_b() -> bool:
            return await haproxy.ask_service() == "b"

        await eventually(is_b)
        await a.lives()
        haproxy.kill()
        await haproxy.start()

        async def is_a() -> bool:
            return await haproxy.ask_service() == "a"

        await eventually(is_a)
        assert "FORGETS a failover" in text


TRAPS = [
    # what the page says, an expectation, whether it takes the page
    ("MOBILEIRON-STATUS: OK\n", f"rstring {SERVING}", True),
    ("MOBILEIRON-STATUS: OK", f"rstring {SERVING}", True),
    ("MOBILEIRON-STATUS: OKAY\n", f"rstring {SERVING}", False),
    ("MOBILEIRON-STATUS: OK (Mode: Standby)\n", f"rstring {SERVING}", False),
    ("MOBILEIRON-STATUS: ERROR\n", f"rstring {SERVING}", False),
    ("MOBILEIRON-STATUS: OK (Mode: Standby)\n", f"rstring {ABLE}", True),
    ("MOBILEIRON-STATUS: OK (Mode: Primary)\n", f"rstring {ABLE}", True),
    ("MOBILEIRON-STATUS: OK (Mode: Active)\n", f"rstring {ABLE}", False),
    ("MOBILEIRON-STATUS: OK\n", f"rstring {ABLE}", False),
    ("MOBILEIRON-STATUS: OK\ntheConnectorNameString=x;\n", f"rstring {SERVING}", False),
    ("MOBILEIRON-STATUS: OK\ntheConnectorNameString=x;\n", f"rstring {SERVING_AND_MORE}", True),
    ("MOBILEIRON-STATUS: OK", f"rstring {SERVING_AND_MORE}", True),
    ("MOBILEIRON-STATUS: OKAY\n", f"rstring {SERVING_AND_MORE}", False),
    ("MOBILEIRON-STATUS: OK (Mode: Standby)\n", f"rstring {SERVING_AND_MORE}", False),
    # why it is not simpler
    ("MOBILEIRON-STATUS: OKAY\n", "string 'MOBILEIRON-STATUS: OK'", True),
    ("MOBILEIRON-STATUS: OK (Mode: Standby)\n", "string 'MOBILEIRON-STATUS: OK'", True),
    (
        "MOBILEIRON-STATUS: OK (Mode: Standby)\n",
        "rstring 'MOBILEIRON-STATUS: OK (Mode: Standby)'",
        False,
    ),
    (
        "MOBILEIRON-STATUS: OK (Mode: Standby)\n",
        "string 'MOBILEIRON-STATUS: OK (Mode: Standby)'",
        True,
    ),
    (
        "MOBILEIRON-STATUS: OK (Mode: Primary)\n",
        "string 'MOBILEIRON-STATUS: OK (Mode: Standby)'",
        False,
    ),
]


async def test_each_expectation_takes_what_it_should_and_the_simpler_ones_do_not(
    haproxy, eventually
):
    async with contextlib.AsyncExitStack() as stack:
        lines = ["global", f"    stats socket {haproxy.admin} mode 600 level admin"]
        for number, (body, expect, _) in enumerate(TRAPS):
            port = await stack.enter_async_context(fixed_page(body))
            lines += [
                f"backend p{number}",
                "    mode http",
                "    timeout connect 2s",
                "    timeout server 2s",
                "    option httpchk GET /",
                f"    http-check expect {expect}",
                f"    server s 127.0.0.1:{port} check inter 100ms fall 1 rise 1",
            ]
        await haproxy.start("\n".join(lines) + "\n")

        async def all_are_checked() -> bool:
            rows = haproxy.tell("show stat -1 4 -1").strip().split("\n")[1:]
            return all(row.split(",")[36].removeprefix("* ").startswith("L7") for row in rows)

        await eventually(all_are_checked)
        rows = [row.split(",") for row in haproxy.tell("show stat -1 4 -1").split("\n") if row]
        found = {row[0]: row[17] == "UP" for row in rows if row[1] == "s"}
        assert found == {f"p{number}": takes for number, (_, _, takes) in enumerate(TRAPS)}


@contextlib.asynccontextmanager
async def fixed_page(body: str) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()

    async with listening(answer) as server:
        yield port_of(server)


def test_a_group_without_a_candidate_is_refused(make_group):
    group = make_group()
    alone = group.model_copy(update={"nodes": group.nodes[:1]})
    with pytest.raises(ValueError, match="epmm is no pair"):
        pages_text(alone)


def test_pages_behind_tls_are_asked_by_the_shared_name(make_group):
    text = pages_text(make_group(each=", tls: {server_name: epmm.example.com}"))
    assert "uri /status/status.html ver HTTP/1.1 hdr Host epmm.example.com" in text
    assert "192.0.2.11:443 ssl verify required ca-file @system-ca" in text
    with pytest.raises(ValueError, match="no name for its certificate"):
        pages_text(make_group())
