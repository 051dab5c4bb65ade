"""Plain connections, on both event loops."""

import asyncio
import contextlib
import inspect
import socket
import time
from pathlib import Path

import pytest
import uvloop

from lb_probe.core.model import Failed, Phase
from lb_probe.prober.tcp_probe import (
    NameFailedError,
    connect_failed,
    connect_failure,
    connects,
    dial,
    literal,
    lookup,
)


def on_both_loops(test):
    """Run an async test once on asyncio's loop and once on uvloop."""

    def run(loop_factory, **fixtures):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**fixtures))

    parameter = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([parameter, *inspect.signature(test).parameters.values()])
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(run)


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


@on_both_loops
async def test_the_second_family_is_used_where_the_first_refuses(listening, closed_port):
    endpoints = [
        (socket.AF_INET, ("127.0.0.1", closed_port)),
        (socket.AF_INET, ("127.0.0.1", listening)),
    ]
    with await dial(endpoints) as sock:
        assert sock.getpeername()[1] == listening
    with pytest.raises(ConnectionRefusedError):
        await dial(endpoints[:1])
    with pytest.raises(OSError, match="no address"):
        await dial([])


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


@on_both_loops
async def test_a_name_gives_one_address_of_each_family():
    loop = asyncio.get_running_loop()
    found = [
        (socket.AF_INET6, 1, 6, "", ("::1", 80, 0, 0)),
        (socket.AF_INET6, 1, 6, "", ("::2", 80, 0, 0)),
        (socket.AF_INET, 1, 6, "", ("127.0.0.1", 80)),
    ]

    class Resolver:
        async def getaddrinfo(self, *args, **more):
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", Resolver)
        endpoints = await lookup("example.invalid", 80)
    assert endpoints == ((socket.AF_INET6, found[0][4]), (socket.AF_INET, found[2][4]))
    assert asyncio.get_running_loop() is loop


def test_addresses_are_not_looked_up():
    assert literal("127.0.0.1", 80) == (socket.AF_INET, ("127.0.0.1", 80))
    assert literal("::1", 80) == (socket.AF_INET6, ("::1", 80, 0, 0))
    assert literal("fe80::1%7", 80) == (socket.AF_INET6, ("fe80::1", 80, 0, 7))
    lo = socket.if_nametoindex("lo")
    assert literal("fe80::1%lo", 80) == (socket.AF_INET6, ("fe80::1", 80, 0, lo))
    assert literal("localhost", 80) is None


async def test_an_unknown_interface_fails_as_a_name():
    with pytest.raises(NameFailedError, match="nosuch0"):
        await lookup("fe80::1%nosuch0", 80)


def test_a_kernel_that_gives_up_first_is_a_timeout_too():
    assert connect_failed(TimeoutError(110, "x")).phase is Phase.CONNECT_TIMEOUT
    assert connect_failed(OSError(113, "x")) == Failed(Phase.CONNECT_REFUSED, "No route to host")
    assert connect_failed(OSError("no address")) == Failed(Phase.CONNECT_REFUSED, "no address")
