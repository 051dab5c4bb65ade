"""Strangers at an address of the prober: they take no more than their share."""

import asyncio
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from aiohttp import web

from lb_probe.app import listen


@asynccontextmanager
async def served(monkeypatch, most=512, first_s=30.0):
    """Where an application is served that says `here`."""
    monkeypatch.setattr(listen, "MOST_GUESTS", most)
    monkeypatch.setattr(listen, "FIRST_REQUEST_S", first_s)
    app = web.Application()

    async def here(request):
        return web.Response(text="here")

    app.router.add_get("/", here)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    async with AsyncExitStack() as stack:
        await listen.serve_on(app, stack, tcp=("127.0.0.1", port))
        yield port


async def end(*guests):
    for _, writer in guests:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(reader, writer):
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split()[1], await reader.readexactly(4)


async def test_one_that_asks_for_nothing_is_closed_and_one_that_asked_is_not(monkeypatch):
    async with served(monkeypatch, first_s=0.2) as port, asyncio.timeout(20):
        silent, begun, asked = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        begun[1].write(b"GET / HTT")
        assert await ask(*asked) == (b"200", b"here")
        for reader, _ in (silent, begun):
            assert await reader.read() == b""
        assert await ask(*asked) == (b"200", b"here")
        await end(silent, begun, asked)


async def test_there_is_an_end_to_how_many_come_and_room_again_when_one_goes(monkeypatch):
    async with served(monkeypatch, most=3) as port, asyncio.timeout(20):
        guests = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for guest in guests:
            assert await ask(*guest) == (b"200", b"here")
        one_more = await asyncio.open_connection("127.0.0.1", port)
        assert await one_more[0].read() == b""
        await end(one_more, guests.pop())
        while True:  # it is gone when the server has noticed
            guest = await asyncio.open_connection("127.0.0.1", port)
            try:
                assert await ask(*guest) == (b"200", b"here")
                break
            except (asyncio.IncompleteReadError, ConnectionResetError):
                await end(guest)
        await end(guest, *guests)


def test_the_prober_takes_the_descriptors_that_it_may_have():
    code = (
        "import resource; from lb_probe.app.loop import take_descriptors;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128)); take_descriptors();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("(128, 128)\n", "")
