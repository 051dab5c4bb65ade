"""Things that sit between two nodes: they let through, cut, alter, or speak for the other side."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from loopback import listening, port_of

Alter = Callable[[bytes], bytes]
_RESET = struct.pack("ii", 1, 0)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a firewall does: with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@asynccontextmanager
async def accepting_then_resetting(after_s: float = 0.0) -> AsyncIterator[int]:
    """Accept every connection, and reset it; a test that only connects sees a good port."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after_s)
        reset(writer)

    async with listening(behave) as server:
        yield port_of(server)


@asynccontextmanager
async def between(
    port: int,
    *,
    alter: Alter = bytes,
    cut_after: int | None = None,
    host: str = "127.0.0.1",
    listen: int = 0,
) -> AsyncIterator[int]:
    """Stand before a port of loopback.

    Args:
        host: Where to stand; with `listen` at the same port on another way.
        alter: What becomes of each piece that the server sends.
        cut_after: Bytes from the server after which both sides are reset; None for never.
    """

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, to_server))
                tasks.create_task(_answers(from_server, writer, alter, cut_after))
        except* OSError:
            pass
        finally:
            to_server.transport.abort()

    async with listening(behave, host, listen) as server:
        yield port_of(server)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()


async def _answers(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    alter: Alter,
    cut_after: int | None,
) -> None:
    passed = 0
    while data := await source.read(65536):
        passed += len(data)
        sink.write(alter(data))
        await sink.drain()
        if cut_after is not None and passed > cut_after:
            reset(sink)
            raise ConnectionResetError
    sink.close()
