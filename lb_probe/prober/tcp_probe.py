"""Opens TCP connections: for the pages' probe, and to tell whether something answers at all.

One attempt is one connection: nothing here tries again. A name with several addresses gives one of
each family, in the resolver's order, because a host that lacks IPv6 is not a host that is down.
"""

import asyncio
import ipaddress
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lb_probe.core.model import Failed, Phase

Endpoint = tuple[socket.AddressFamily, tuple[Any, ...]]
Resolve = Callable[[str, int], Awaitable[Sequence[Endpoint]]]

# Closing sends RST: what is left unread does not matter, and thousands of probes a minute
# must not leave thousands of sockets in TIME_WAIT. HAProxy's own checks end the same way.
_NO_LINGER = struct.pack("ii", 1, 0)


async def connects(host: str, port: int, timeout_s: float) -> bool:
    """Tell whether a TCP connection to this address can be made within `timeout_s` seconds."""
    return await connect_failure(host, port, timeout_s) is None


async def connect_failure(host: str, port: int, timeout_s: float) -> Failed | None:
    """Make one TCP connection and close it; say what went wrong, or None.

    Args:
        timeout_s: Seconds for everything, the look-up of a name included.
    """
    failed = Failed(Phase.NAME, f"no address for {host} within {timeout_s:g}s")
    try:
        async with asyncio.timeout(timeout_s):
            endpoints = await lookup(host, port)
            failed = no_connection_in_time(timeout_s)
            (await dial(endpoints)).close()
    except NameFailedError as error:
        return Failed(Phase.NAME, str(error))
    except TimeoutError:
        return failed
    except OSError as error:
        return connect_failed(error)
    return None


class NameFailedError(OSError):
    """A host name has no usable address; the text says why."""


def literal(host: str, port: int) -> Endpoint | None:
    """Return the endpoint of an IP address in text form, None for a name.

    >>> literal("192.0.2.1", 443)
    (<AddressFamily.AF_INET: 2>, ('192.0.2.1', 443))
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return socket.AF_INET, (host, port)
    # A link-local address names its interface: "fe80::1%eth0".
    zone = address.scope_id
    scope = socket.if_nametoindex(zone) if zone and not zone.isdecimal() else int(zone or 0)
    return socket.AF_INET6, (host.partition("%")[0], port, 0, scope)


async def lookup(host: str, port: int) -> Sequence[Endpoint]:
    """Return where to connect: at most one endpoint for each address family.

    The system's resolver runs in the loop's threads and cannot be stopped: when the caller's
    deadline passes, its thread stays busy until the resolver gives up. Nodes are best given by
    address.

    Raises:
        NameFailedError: The name has no address, or is no name.
    """
    try:
        if endpoint := literal(host, port):
            return (endpoint,)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NameFailedError(f"{host}: {_reason(error)}") from error
    first: dict[socket.AddressFamily, Endpoint] = {}
    for family, _, _, _, address in found:
        first.setdefault(family, (family, address))
    return tuple(first.values())


async def dial(endpoints: Sequence[Endpoint]) -> socket.socket:
    """Return a connected, non-blocking socket to the first endpoint that takes a connection.

    Raises:
        OSError: None of them does; this is the last one's error.
    """
    failure = OSError("no address")
    for family, address in endpoints:
        try:
            return await _dial(family, address)
        except OSError as error:
            failure = error
    raise failure


async def _dial(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_failed(error: OSError) -> Failed:
    """Say what an error of `dial` means: nobody listens there, or no way leads there."""
    if isinstance(error, TimeoutError):  # the kernel gave up before our deadline
        return Failed(Phase.CONNECT_TIMEOUT, "no answer to the connection request")
    return Failed(Phase.CONNECT_REFUSED, _reason(error))


def no_connection_in_time(timeout_s: float) -> Failed:
    """Return the failure of a connection that is still not there when the time is over."""
    return Failed(Phase.CONNECT_TIMEOUT, f"no connection within {timeout_s:g}s")


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)
