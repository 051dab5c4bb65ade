"""Addresses to listen on: taken, refused, given back."""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from lb_probe.adapters.agent_check import AgentCheck
from lb_probe.config.model import (
    ApiTls,
)
from lb_probe.listening import end_listening
from lb_probe.ports import (
    LbProbeError,
)

SHUTDOWN_S = 2.0
KNOCK_S = 1.0
MOST_GUESTS = 512  # connections to one address: they must not take what probes need
FIRST_REQUEST_S = 10.0  # time for a connection to ask for anything at all
KEEP_ALIVE_S = 75.0  # and to ask again


class ListenError(LbProbeError):
    """An address of the file cannot be listened on."""


async def start_asked(asked: AgentCheck) -> None:
    """Let HAProxy ask one adapter.

    Raises:
        ListenError: The address is taken or not ours.
    """
    try:
        await asked.start()
    except OSError as error:
        raise ListenError(
            f"cannot listen for {asked.name}: {error.strerror or error}; is another prober running?"
        ) from None


def server_context(tls: ApiTls) -> ssl.SSLContext:
    """Return what encrypts the API.

    Raises:
        ListenError: A file holds no certificate or key, or they do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password would be asked for on the terminal; an empty one is an error at once.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise ListenError(
            f"api.tls: {tls.cert_file}: {error}; wanted a certificate in PEM and the key that"
            " belongs to it, without a password"
        ) from None
    return context


class _TurnedAway(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it at once."""
        transport.close()


class _Guests:
    """Who is connected to one address: not too many, and nobody who never asks.

    Any number of strangers could else hold every file descriptor of the process, and then it can
    neither probe nor publish.
    """

    def __init__(self) -> None:
        self.server: web.Server | None = None
        self._silent: dict[asyncio.Protocol, asyncio.TimerHandle] = {}

    def __call__(self) -> asyncio.Protocol:
        """Return what serves a new connection."""
        assert self.server is not None
        if len(self.server.connections) >= MOST_GUESTS:
            return _TurnedAway()
        guest = self.server()
        loop = asyncio.get_running_loop()
        self._silent[guest] = loop.call_later(FIRST_REQUEST_S, self._end, guest)
        return guest

    def middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        """Return what hears that a connection asked for something."""

        @web.middleware
        async def hear(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            timer = self._silent.pop(request.protocol, None)
            if timer is not None:
                timer.cancel()
            return await handler(request)

        return hear

    def _end(self, guest: web.RequestHandler) -> None:
        del self._silent[guest]
        guest.force_close()
        if guest.transport is not None:
            guest.transport.abort()


async def serve_on(
    app: web.Application,
    stack: AsyncExitStack,
    *,
    tcp: tuple[str, int] | None = None,
    tls: ssl.SSLContext | None = None,
    unix: Path | None = None,
) -> None:
    """Serve an application on one address until the stack is closed.

    At most 512 connections are open there; one that asks for nothing within 10 s is closed.

    Raises:
        ListenError: The address is taken or not ours.
    """
    guests, loop = _Guests(), asyncio.get_running_loop()
    app.middlewares.append(guests.middleware())
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_S, keepalive_timeout=KEEP_ALIVE_S
    )
    await runner.setup()
    guests.server = runner.server
    stack.push_async_callback(runner.cleanup)
    try:
        if tcp is not None:
            server = await loop.create_server(guests, *tcp, ssl=tls, reuse_address=True)
            stack.push_async_callback(end_listening, server)
        elif unix is not None:
            _clear_socket(unix)
            old = os.umask(0o117)  # owner and group, from the first moment on
            try:
                server = await loop.create_unix_server(guests, unix)
            finally:
                os.umask(old)
            stack.callback(unix.unlink, missing_ok=True)
            stack.push_async_callback(end_listening, server)
    except OSError as error:
        where = unix or ":".join(str(part) for part in tcp or ())
        if unix is not None and not unix.parent.is_dir():
            raise ListenError(
                f"cannot listen on {where}: there is no folder {unix.parent}; make it, writable for"
                " the prober's user"
            ) from None
        raise ListenError(
            f"cannot listen on {where}: {error.strerror or error}; is another prober running?"
        ) from None


def _clear_socket(path: Path) -> None:
    """Remove a socket that a killed process left; nothing else is touched.

    Raises:
        ListenError: Somebody answers there, or may; or it is no socket.
    """
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise ListenError(f"cannot listen on {path}: found something that is no socket; move it")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(KNOCK_S)  # one that is stopped takes no connection, and is no less alive
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {path}: {error}; remove it if it is stale"
            ) from None
        else:
            raise ListenError(
                f"cannot listen on {path}: another process answers there; stop it first"
            )
