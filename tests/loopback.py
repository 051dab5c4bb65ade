"""Servers of tests on loopback that leave nothing open when they end.

`asyncio.start_server` alone does: closing a server leaves its connections, and a handler that the
end of the loop cancels has no turn left in which its transport could close. The socket is then
found by the garbage collector, in some later test.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from lb_probe.listening import end_listening

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_ENDS = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)


@contextlib.asynccontextmanager
async def listening(
    behave: Behaviour,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    path: str | None = None,
    **more: Any,
) -> AsyncIterator[asyncio.Server]:
    """Serve `await behave(reader, writer)` for each connection, on TCP or on the socket `path`.

    A connection is closed when its behaviour ends. At the end no task, no connection and no
    listening socket is left, though its client may still be there.
    """
    running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running[task] = writer
        try:
            with contextlib.suppress(*_ENDS):
                await behave(reader, writer)
            writer.close()
            with contextlib.suppress(*_ENDS):
                await writer.wait_closed()
        finally:
            del running[task]

    if path is None:
        server = await asyncio.start_server(handle, host, port, **more)
    else:
        server = await asyncio.start_unix_server(handle, path, **more)
    try:
        yield server
    finally:
        await end_listening(server)
        tasks = dict(running)
        for task, writer in tasks.items():
            writer.transport.abort()  # before the task's turn: its connection is lost by then
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def port_of(server: asyncio.Server) -> int:
    """Return the port it listens on."""
    return int(server.sockets[0].getsockname()[1])


def tell(path: Path, line: str) -> str:
    """Send one line to a HAProxy's socket, as an administrator would, and return the answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        sock.sendall(line.encode() + b"\n")
        with sock.makefile("rb") as answer:
            return answer.read().decode()
