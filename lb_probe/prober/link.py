"""Connections, as the engine holds them, and what it remembers of the way to a target."""

import errno
import ssl
import struct
from socket import (
    IPPROTO_IP,
    IPPROTO_TCP,
    MSG_NOSIGNAL,
    SO_LINGER,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_QUICKACK,
    SocketType,
)
from typing import TYPE_CHECKING, Protocol

from lb_probe.core.model import Failed, Phase
from lb_probe.prober.answer import Known, Reading
from lb_probe.prober.names import Endpoint, NameFailedError, literal, reason_of
from lb_probe.prober.target import Target
from lb_probe.prober.tls import Stream

if TYPE_CHECKING:
    from lb_probe.prober.attempt import Attempt

# Closing sends RST: what is left unread does not matter, and thousands of probes a minute
# must not leave thousands of sockets in TIME_WAIT. HAProxy's own checks end the same way.
_NO_LINGER = struct.pack("ii", 1, 0)
_KIND = int(SOCK_STREAM | SOCK_NONBLOCK)
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: a source address alone must not use a port up


class Trace(Protocol):
    """Takes down what happens in an attempt, for a person."""

    def mark(self, phase: str, now: float) -> None:
        """Note that a phase has ended: name, connect, tls, first-byte or body."""

    def connected(self, endpoint: Endpoint) -> None:
        """Note the address that took the connection."""

    def encrypted(self, stream: ssl.SSLObject) -> None:
        """Note a handshake that was made."""

    def received(self, data: bytes) -> None:
        """Note bytes of the answer."""

    def read(self, reading: Reading) -> None:
        """Note the answer as far as it was read."""


class Link:
    """One connection, and who uses it now: nobody while it is kept."""

    __slots__ = ("attempt", "endpoint", "fd", "sock", "stream", "unsent", "way")

    def __init__(self, sock: SocketType, endpoint: Endpoint, way: "Way") -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.endpoint = endpoint
        self.way = way
        self.attempt: Attempt | None = None
        self.stream: Stream | None = None
        self.unsent = b""

    def send(self, data: bytes) -> None:
        """Send what the kernel takes; the rest follows when it takes more.

        Raises:
            OSError: The connection is lost, or was never made.
        """
        if self.unsent:
            data = self.unsent + data
        if data:
            try:
                sent = self.sock.send(data, MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            self.unsent = b"" if sent == len(data) else data[sent:]


class Way:
    """What the engine remembers of a target from one probe to the next.

    Attributes:
        running: Attempts with the same timeout, in the order of their deadlines.
        count: Probes before this one.
        familiar: The last answer that is known again.
        endpoints: Of an address; a name is asked for each time.
    """

    __slots__ = (
        "count",
        "endpoints",
        "failure",
        "familiar",
        "is_reused",
        "kept",
        "running",
        "session",
        "session_at",
        "target",
    )

    def __init__(self, target: Target, running: "dict[Attempt, None]") -> None:
        self.target = target
        self.running = running
        self.count = -1
        self.kept: Link | None = None
        self.is_reused = target.connection == "reuse"
        self.session: ssl.SSLSession | None = None
        self.session_at = 0.0
        self.failure = ""
        self.familiar: Known | None = None
        self.endpoints: tuple[Endpoint, ...] = ()
        try:
            if endpoint := literal(target.host, target.port):
                self.endpoints = (endpoint,)
        except NameFailedError as error:
            self.failure = str(error)


def dial(way: Way, target: Target, endpoint: Endpoint) -> Link:
    """Begin a connection; it is there when the socket can be written to.

    Raises:
        OSError: It failed at once.
    """
    family, address = endpoint
    sock = SocketType(family, _KIND)
    try:
        sock.setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGER)
        if target.scheme != "tcp":
            # The ACK of the handshake travels with the request: one packet less.
            sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0)
        if target.source is not None:
            _bind(sock, target.source)
        code = sock.connect_ex(address)
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, "connect")
    except BaseException:
        sock.close()
        raise
    return Link(sock, endpoint, way)


def _bind(sock: SocketType, source: str) -> None:
    try:
        sock.setsockopt(IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
    except OSError as error:
        raise _SourceError(f"source {source}: {reason_of(error)}") from error


class _SourceError(OSError):
    """The source address cannot be used; the text says which and why."""


# No descriptor, memory, port or address of ours, or a firewall here.
_OURS = frozenset(
    {
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPERM,
    }
)


def is_ours(error: OSError) -> bool:
    """Tell whether it is this machine that cannot connect, whatever the node does."""
    return error.errno in _OURS or isinstance(error, _SourceError)


def connect_failed(error: OSError) -> Failed:
    """Say what an error of a connection means: nobody listens there, or no way leads there."""
    if is_ours(error):
        return Failed(Phase.LOCAL, f"this machine could not connect: {reason_of(error)}")
    if error.errno == errno.ETIMEDOUT:  # the kernel gave up before our deadline
        return Failed(Phase.CONNECT_TIMEOUT, "no answer to the connection request")
    return Failed(Phase.CONNECT_REFUSED, reason_of(error))
