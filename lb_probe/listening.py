"""The end of a listener.

`asyncio.Server.close` loses a connection that was accepted a moment before: it fails in there, and
its socket stays open until the garbage collector meets it.
"""

import asyncio

_TURNS = 3  # of the loop, from a connection in the kernel's queue to its protocol


async def end_listening(server: asyncio.Server) -> None:
    """Accept nobody any more; who was accepted already comes to its protocol before this returns.

    With TLS its handshake may still be under way. Connections go on: whoever listened ends them.
    """
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for sock in server.sockets:
            loop.remove_reader(sock.fileno())
    else:  # uvloop forgets nobody
        server.close()
    try:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
    finally:
        server.close()
