"""Plain connections, on both event loops."""

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest
from raw_server import on_both_loops

from lb_probe.core.model import Failed, Page, Passed, Phase
from lb_probe.prober.http_probe import Target, probe
from lb_probe.prober.link import connect_failed
from lb_probe.prober.tcp_probe import connect_failure, connects


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def listening():
    """A port that takes connections; nobody accepts them."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port():
    """A port where nobody listens; bound, so that nobody else gets it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def blackhole():
    """A port that answers no connection request: its queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        time.sleep(0.05)  # the kernel fills the queue by itself; there is no event for it
        yield server.getsockname()[1]


@on_both_loops
async def test_a_listening_port_connects(listening):
    assert await connects("127.0.0.1", listening, 5.0)
    assert await connect_failure("localhost", listening, 5.0) is None


@on_both_loops
async def test_a_closed_port_is_refused_at_once(closed_port):
    failed = await connect_failure("127.0.0.1", closed_port, 20.0)
    assert failed == Failed(Phase.CONNECT_REFUSED, "Connection refused")
    assert not await connects("127.0.0.1", closed_port, 20.0)


@on_both_loops
async def test_a_blackhole_ends_with_the_deadline(blackhole):
    started = time.monotonic()
    failed = await connect_failure("127.0.0.1", blackhole, 0.2)
    assert failed == Failed(Phase.CONNECT_TIMEOUT, "no connection within 0.2s")
    assert time.monotonic() - started >= 0.199


@on_both_loops
async def test_an_impossible_name_fails_as_a_name():
    for name in ("", "a..b", "x" * 64 + ".invalid", "nobody.invalid"):
        failed = await connect_failure(name or "\x00", 1, 20.0)
        assert failed is not None
        assert failed.phase is Phase.NAME


@on_both_loops
async def test_an_unreachable_network_counts_as_refused():
    # A limited broadcast address takes no TCP connection on any machine.
    failed = await connect_failure("255.255.255.255", 1, 20.0)
    assert failed is not None
    assert failed.phase is Phase.CONNECT_REFUSED


def tcp(port, host="127.0.0.1", **more):
    return Target("g", "a", Page.STATUS, "tcp", host, port, "", **{"timeout_s": 20.0} | more)


@on_both_loops
async def test_a_node_without_pages_passes_when_it_takes_a_connection(listening, closed_port):
    seen = await probe(tcp(listening), clock=time.monotonic)
    assert (seen.node, seen.page, seen.outcome) == ("a", Page.STATUS, Passed())
    assert (seen.code, seen.head, seen.body_sha256) == (None, "", "")
    seen = await probe(tcp(closed_port), clock=time.monotonic)
    assert seen.outcome == Failed(Phase.CONNECT_REFUSED, "Connection refused")


@on_both_loops
async def test_the_second_family_is_used_where_the_first_refuses(listening, closed_port):
    endpoints = [
        (socket.AF_INET, ("127.0.0.1", closed_port)),
        (socket.AF_INET, ("127.0.0.1", listening)),
    ]
    asked = tcp(1, "node.invalid")
    seen = await probe(asked, clock=time.monotonic, resolve=lambda *_: endpoints)
    assert seen.outcome == Passed()
    seen = await probe(asked, clock=time.monotonic, resolve=lambda *_: endpoints[:1])
    assert seen.outcome == Failed(Phase.CONNECT_REFUSED, "Connection refused")


@on_both_loops
async def test_the_connection_comes_from_the_source_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert (
            await probe(tcp(port, source="127.0.0.7"), clock=time.monotonic)
        ).outcome == Passed()
        taken, peer = server.accept()
        taken.close()
    assert peer[0] == "127.0.0.7"


@pytest.mark.parametrize("source", ["192.0.2.77", "::1"])
@on_both_loops
async def test_a_source_address_that_is_not_ours_fails_and_is_named(listening, source):
    seen = await probe(tcp(listening, source=source), clock=time.monotonic)
    assert seen.outcome.phase is Phase.LOCAL
    assert f"source {source}: " in seen.outcome.detail


@on_both_loops
async def test_no_descriptor_stays_open(listening, closed_port, blackhole):
    async def all_ways():
        await connects("127.0.0.1", listening, 5.0)
        await connects("127.0.0.1", closed_port, 5.0)
        await connects("127.0.0.1", blackhole, 0.01)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await connects("127.0.0.1", blackhole, 5.0)

    await all_ways()
    before = open_descriptors()
    for _ in range(3):
        await all_ways()
    assert open_descriptors() == before


def test_a_kernel_that_gives_up_first_is_a_timeout_too():
    assert connect_failed(TimeoutError(110, "x")).phase is Phase.CONNECT_TIMEOUT
    assert connect_failed(OSError(113, "x")) == Failed(Phase.CONNECT_REFUSED, "No route to host")
    assert connect_failed(OSError("no address")) == Failed(Phase.CONNECT_REFUSED, "no address")
