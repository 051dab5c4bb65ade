"""How far a node's clock is from UTC: a real chronyd, and answers that say no time."""

import asyncio
import struct

import pytest
from time_server import chronyd

from lb_probe.agent import utc
from lb_probe.agent.node import Node
from lb_probe.agent.ntp import _PACKET, NtpError, ask
from lb_probe.agent.utc import Kept, Utc, UtcSettings, kernel_word
from lb_probe.clock import SystemClock
from lb_probe.core.clock_offset import Limits
from lb_probe.core.model import Role
from lb_probe.render.agent import agent_block
from lb_probe.render.text import Look


class SetClock(SystemClock):
    """The system's clock, set wrong by so much."""

    ahead_s = 0.0

    def wall(self):
        return super().wall() + self.ahead_s


@pytest.fixture
async def node(serve):
    async with serve(Role.SECONDARY) as served:
        clock = SetClock()
        yield Node(
            "b",
            Role.SECONDARY,
            state=served.state,
            checks=served.checks,
            pages=served.pages,
            clock=clock,
            sink=served.sink,
        )


async def test_a_clock_that_is_set_wrong_is_measured_told_and_shown(node, sink, eventually):
    """R11: a warning above 1 s, an error above 5 s, the bound shown with it."""
    async with chronyd() as port:
        limits = Limits(warn_s=1.0, error_s=5.0)
        part = Utc(node, UtcSettings(server=("127.0.0.1", port), limits=limits))

        async def is_known():
            await part.look()
            return part.status()["offset_s"] is not None

        await eventually(is_known)  # it has to start
        found = []
        for ahead_s in (0.0, -2.0, 10.0, 0.25):
            node.clock.ahead_s = ahead_s
            await part.look()
            status = part.status()
            assert status["offset_s"] == pytest.approx(ahead_s, abs=status["bound_s"] + 0.01)
            assert status["bound_s"] < 1.0
            found.append(status["severity"])
    assert found == ["ok", "warning", "error", "ok"]
    (apart,) = sink.named("agent.utc-apart")
    assert apart.fields["detail"].startswith("this node's clock is +10.0")
    assert len(sink.named("agent.utc-near")) == 1
    node.clock.ahead_s = 10.0
    gauges = {one.name: one.value for one in part.gauges()}
    assert gauges["utc_offset_seconds"] == pytest.approx(0.25, abs=0.1)
    # A server that fell silent says nothing of our clock, and opens no alarm.
    await part.look()
    assert part.status()["severity"] == "unknown"
    assert "wanted a time server" in part.status()["detail"]
    assert len(sink.named("agent.utc-apart")) == 1


def packet(first=0x24, stratum=2, stamp=None, heard=0, answered=0):
    def answer(asked):
        ours = asked[40:48] if stamp is None else struct.pack(">Q", stamp)
        origin = struct.unpack(">Q", ours)[0]
        return _PACKET.pack(first, stratum, 0, 0, 0, 0, 0, 0, origin, heard, answered)

    return answer


class Server(asyncio.DatagramProtocol):
    def __init__(self, answer):
        self._answer = answer

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, addr):
        self._transport.sendto(self._answer(data), addr)


async def test_a_time_server_that_falls_silent_ends_no_alarm(node, sink):
    """R11: what is over is said once it is known to be over."""
    speaks = []

    def answer(asked):
        if not speaks:
            return b""
        stamp = int((SystemClock().wall() + 2_208_988_800) * 2**32)
        return packet(heard=stamp, answered=stamp)(asked)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Server(answer), local_addr=("127.0.0.1", 0)
    )
    address = transport.get_extra_info("sockname")
    part = Utc(node, UtcSettings(server=address, timeout_s=0.2))
    told = []
    try:
        for node.clock.ahead_s, speaks[:] in ((10.0, [1]), (10.0, []), (0.0, [])):
            await part.look()
            told.append(part.status()["severity"])
            assert len(sink.named("agent.utc-apart")) == 1
            assert not sink.named("agent.utc-near")
        speaks.append(1)
        await part.look()
    finally:
        transport.close()
    assert [*told, part.status()["severity"]] == ["error", "unknown", "unknown", "ok"]
    assert len(sink.named("agent.utc-near")) == 1
    severities = [event.fields["severity"] for event in sink.named("agent.utc-judged")]
    assert severities == ["error", "ok"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (packet(stamp=7), "found no answer of 127.0.0.1"),  # who made it did not see the question
        (lambda asked: b"x", "found no answer of 127.0.0.1"),
        (lambda asked: asked, "found no answer of 127.0.0.1"),  # an echo
        (packet(first=0x23), "found an answer of mode 3; wanted a server's"),
        (packet(stratum=0), "not synchronised (stratum 0)"),
        (packet(first=0xE4), "not synchronised (stratum 2)"),
        (packet(stratum=16), "not synchronised (stratum 16)"),
    ],
    ids=["unasked", "short", "echo", "client", "kiss", "warning", "unsynchronised"],
)
async def test_an_answer_that_says_no_time_is_none(answer, found):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Server(answer), local_addr=("127.0.0.1", 0)
    )
    try:
        with pytest.raises(NtpError) as caught:
            await ask("127.0.0.1", transport.get_extra_info("sockname")[1], SystemClock(), 0.2)
    finally:
        transport.close()
    assert found in str(caught.value)


@pytest.mark.parametrize("wall", [1_790_000_000.0, 2_085_978_495.0, 2_085_978_497.0, 2.2e9])
async def test_the_era_that_begins_in_2036_makes_no_difference(wall):
    class Then(SystemClock):
        def wall(self):
            return wall

    stamp = int((wall + 2_208_988_800) * 2**32) % 2**64
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Server(packet(heard=stamp, answered=stamp)), local_addr=("127.0.0.1", 0)
    )
    try:
        stamps = await ask("127.0.0.1", transport.get_extra_info("sockname")[1], Then(), 5.0)
    finally:
        transport.close()
    assert stamps.heard_at == pytest.approx(wall, abs=0.001)


def test_the_kernel_says_who_keeps_the_clock(monkeypatch):
    found = kernel_word()
    assert found is None or isinstance(found.is_kept, bool)

    class Libc:
        status, maxerror_us, result = 0, 12_000, 0

        def adjtimex(self, timex):
            struct.pack_into("=qqi", timex, 24, self.maxerror_us, 0, self.status)
            return self.result

    libc = Libc()
    monkeypatch.setattr(utc.ctypes, "CDLL", lambda name: libc)
    assert kernel_word() == Kept(True, 0.012)
    libc.status = 0x40
    assert kernel_word() == Kept(False, None)
    libc.result = -1
    assert kernel_word() is None


def test_it_is_shown_with_its_bound():
    def shown(**said):
        answer = {
            "utc": {"offset_s": None, "detail": "", "kept": None, "kept_within_s": None} | said
        }
        return [line for line in agent_block(answer, Look()) if line.startswith("  clock:")]

    measured = {"offset_s": 2.0, "bound_s": 0.01, "severity": "warning", "kept": False}
    assert shown(**measured) == ["  clock: +2.000s from UTC, known to 0.010s; KEPT BY NOTHING"]
    assert shown(kept=True, kept_within_s=0.012, detail="no time_server is configured") == [
        "  clock: not compared with UTC: no time_server is configured;"
        " kept by something, within 0.012s as that says"
    ]
