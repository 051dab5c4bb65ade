"""The servers of tests leave nothing behind for the garbage collector of a later test."""

import asyncio
import gc
import socket
import warnings
from contextlib import ExitStack

import pytest
from loopback import listening, port_of

from lb_probe.listening import end_listening


async def stay(reader, writer):
    await reader.read()


async def fill(reader, writer):
    writer.write(b"x" * (1 << 24))  # more than a client takes that never reads
    await writer.drain()


async def leave(reader, writer):
    writer.write(b"x" * (1 << 24))


@pytest.mark.parametrize("behave", [stay, fill, leave])
def test_server_that_ended_leaves_no_connection_though_its_clients_stay(behave):
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(20)]

        async def main():
            async with listening(behave) as server:
                for client in clients[:10]:
                    client.connect(("127.0.0.1", port_of(server)))
                    await asyncio.sleep(0)
                for client in clients[10:]:  # in the kernel's queue when the server ends
                    client.connect(("127.0.0.1", port_of(server)))

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            asyncio.run(main())
            gc.collect()
        assert [str(each.message) for each in told] == []


async def test_a_listener_is_closed_though_its_end_is_cut_short():
    server = await asyncio.start_server(print, "127.0.0.1", 0)
    ending = asyncio.ensure_future(end_listening(server))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    assert not server.is_serving()
