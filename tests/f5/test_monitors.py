"""Monitors that look at real pages, with the strings that people write and what they match."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from emulator import Emulator
from emulator.probes import Prober, matches
from loopback import listening, port_of

OK = b"MOBILEIRON-STATUS: OK"
STANDBY = b"MOBILEIRON-STATUS: OK (Mode: Standby)"
PRIMARY = b"MOBILEIRON-STATUS: OK (Mode: Primary)"


@pytest.mark.parametrize(
    ("recv", "page", "is_found"),
    [
        ("MOBILEIRON-STATUS: OK", OK, True),
        ("MOBILEIRON-STATUS: OK", STANDBY, True),  # a prefix of it
        ("MOBILEIRON-STATUS: OK (Mode: Standby)", STANDBY, False),  # a group, not parentheses
        (r"MOBILEIRON-STATUS: OK \(Mode: Standby\)", STANDBY, True),
        (r"MOBILEIRON-STATUS: OK \(Mode: Standby\)", PRIMARY, False),
        ("", b"anything", True),
        ("late", b"x" * 5120 + b"late", False),
    ],
)
def test_what_a_receive_string_matches(recv: str, page: bytes, is_found: bool) -> None:
    """Facts 7: it is a search for a POSIX ERE in the first 5,120 bytes."""
    assert matches(recv, page) is is_found


class Node:
    """A node that answers with a page and keeps the connection open."""

    def __init__(self) -> None:
        self.page = OK
        self.asked: list[bytes] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        length = f"Content-Length: {len(self.page)}"
        writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode() + self.page)
        await writer.drain()
        await reader.read()


@pytest.fixture
async def node() -> AsyncIterator[tuple[Node, int]]:
    there = Node()
    async with listening(there.answer) as server:
        yield there, port_of(server)


async def test_a_monitor_looks_and_the_member_shows_what_it_saw(
    node: tuple[Node, int],
) -> None:
    """A member is down after as many failures as fit into the timeout, and up after one success."""
    there, port = node
    emulator = Emulator.pair(monitor_s=0)
    monitor = {"name": "m", "recv": "STATUS: OK", "send": r"GET /status/status.html\r\n"}
    emulator.configure("POST", "ltm/monitor/http", monitor | {"interval": 5, "timeout": 11})
    emulator.add_pool("/Common/p", f"127.0.0.1:{port}", monitor="m")
    prober = Prober(emulator, patience_s=0.05)

    async def states_after_looks(times: int) -> list[str]:
        seen = []
        for _ in range(times):
            await prober.look()
            member = emulator.unit(1).member("/Common/p", f"/Common/127.0.0.1:{port}")
            seen.append(member["state"])
        return seen

    assert await states_after_looks(1) == ["up"]
    there.page = b"MOBILEIRON-STATUS: ERROR"
    assert await states_after_looks(3) == ["up", "up", "down"]
    there.page = OK
    assert await states_after_looks(1) == ["up"]
    assert there.asked[0] == b"GET /status/status.html\r\n\r\n"
