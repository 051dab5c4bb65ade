"""One connection between two agents: TLS 1.3, both sides shown and pinned, lines of JSON inside.

WireError              no connection that can be believed; has a phase

TLS runs over memory here and not in the event loop's streams, which drop the alert that tells the
other side why: an operator wants to hear "it does not trust us", not "connection reset".

Source: R77, R78; RFC 8446, sections 4.4 and 6.2.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from lb_probe.agent.trust.identity import TrustError, fingerprint_of
from lb_probe.agent.trust.pins import Pin
from lb_probe.ports import LbProbeError

MAX_LINE = 256 * 1024
_CHUNK = 64 * 1024
_LINGER_S = 1.0
_HANDSHAKE_S = 5.0
# What an OpenSSL of the other side says of a certificate it does not take (RFC 8446, 6.2).
_NOT_TAKEN = ("UNKNOWN_CA", "CERTIFICATE", "DECRYPT_ERROR", "ACCESS_DENIED")


class WireError(LbProbeError):
    """No connection, or not with whom it should be.

    Attributes:
        phase: `name`, `connect`, `tls`, `our-trust` (we do not know the key that is there),
            `their-trust` (they do not take ours), `answer`, `timeout`.
    """

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(message)
        self.phase = phase


class Context(ssl.SSLContext):
    """What is shown, and who is taken: the pinned certificates and nobody else's.

    Attributes:
        who: Returns whose key a fingerprint is; empty for nobody's.
    """

    who: Callable[[str], str]


def make_context(
    key: Path, pins: tuple[Pin, ...], who: Callable[[str], str], *, is_server: bool
) -> Context:
    """Return what one side of a connection is made with; a change of pins needs a new one.

    Raises:
        TrustError: The key file cannot be used.
    """
    context = Context(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
    context.check_hostname = False  # the key is the name
    context.verify_mode = ssl.CERT_REQUIRED
    context.who = who
    if is_server:
        context.num_tickets = 0  # a ticket would outlive a revoked pin
    for pin in pins:
        context.load_verify_locations(cadata=pin.certificate.der)
    try:
        context.load_cert_chain(key, password="")
    except OSError as error:
        raise TrustError(f"{key}: found {error}; wanted our key; restart the agent") from error
    return context


class Wire:
    """One end of a connection, with the handshake behind it.

    Attributes:
        peer: Whose key is at the other end.
        fingerprint: That key's.
    """

    def __init__(self, sock: socket.socket, context: Context, *, is_server: bool) -> None:
        # Handshake and question are two small pieces: Nagle's algorithm would hold the second back.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._context = context
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=is_server)
        self._plain = bytearray()
        self._is_server = is_server
        self.peer = ""
        self.fingerprint = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._sock.close()

    async def shake_hands(self, timeout_s: float = _HANDSHAKE_S) -> None:
        """Show who we are and see who they are.

        Raises:
            WireError: Not TLS, not somebody pinned, or silence.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._shake()
        except TimeoutError as error:
            raise WireError("timeout", f"found no handshake within {timeout_s:g}s") from error
        except ssl.SSLError as error:
            await self._part()
            raise self._said(error) from error
        except OSError as error:
            raise WireError("tls", f"found {_reason(error)} in the handshake") from error

    async def _shake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
        # OpenSSL took it because it is pinned; this says whose it is, and does not rely on that.
        der = self._tls.getpeercert(binary_form=True)
        try:
            self.fingerprint = fingerprint_of(der or b"")
        except TrustError as error:
            raise WireError("our-trust", str(error)) from error
        self.peer = self._context.who(self.fingerprint)
        if not self.peer:
            raise WireError("our-trust", f"found the key {self.fingerprint}; wanted a pinned one")
        await self._flush()

    # -------------------------------------------------------------- lines
    async def say(self, document: Mapping[str, object]) -> None:
        """Send one line.

        Raises:
            WireError: The connection is lost.
        """
        try:
            self._tls.write(json.dumps(document, allow_nan=False).encode() + b"\n")
            await self._flush()
        except OSError as error:
            raise self._said(error) from error

    async def hear(self) -> dict[str, Any] | None:
        """Return the next line; None where the other side has ended.

        Raises:
            WireError: The connection is lost, or what came is no JSON object of a modest size.
        """
        try:
            line = await self._line()
        except OSError as error:
            raise self._said(error) from error
        if line is None:
            return None
        try:
            found = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise WireError("answer", f"found no JSON ({error}); wanted one object") from error
        if not isinstance(found, dict):
            raise WireError("answer", "found no JSON object; wanted one")
        return found

    async def _line(self) -> bytes | None:
        while (end := self._plain.find(b"\n")) < 0:
            if len(self._plain) > MAX_LINE:
                raise WireError("answer", f"found more than {MAX_LINE} bytes on one line")
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                return None
            self._plain += data
        line = bytes(self._plain[:end])
        del self._plain[: end + 1]
        return line

    async def end(self) -> None:
        """Say that nothing more comes; never raises."""
        with contextlib.suppress(OSError, TimeoutError):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            await self._part()

    # -------------------------------------------------------------- bytes
    async def _flush(self) -> None:
        if data := self._out.read():
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _fill(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _part(self) -> None:
        """Let the last words arrive: closing with bytes unread would reset them away."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._flush()
                self._sock.shutdown(socket.SHUT_WR)
                while await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK):
                    pass

    def _said(self, error: OSError) -> WireError:
        """Say what an error means, and whose trust is missing."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return WireError("our-trust", "found a key that is not pinned here")
        reason = getattr(error, "reason", None) or _reason(error)
        if any(word in reason for word in _NOT_TAKEN) and "ALERT" in reason:
            return WireError("their-trust", "found that our key is not pinned there")
        if isinstance(error, ssl.SSLError):
            return WireError("tls", f"found {reason.replace('_', ' ').lower()}; wanted TLS 1.3")
        return WireError("tls", f"found {reason}; wanted an answer")


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no number")


def _reason(error: OSError) -> str:
    # The loop's own words for a refusal name the address, which is told beside it.
    has_number = bool(error.errno) and not isinstance(error, ssl.SSLError)
    said = os.strerror(error.errno or 0) if has_number else error.strerror
    return (said or type(error).__name__).lower()


async def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a connection, to the first address of a name that takes one.

    Raises:
        WireError: The name has no address, or none takes a connection in time.
    """
    loop = asyncio.get_running_loop()
    failure = WireError("name", f"found no address of {host}")
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in found:
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
                try:
                    await loop.sock_connect(sock, address)
                    return sock
                except OSError as error:
                    sock.close()
                    failure = WireError("connect", f"found {_reason(error)} at {host}:{port}")
                except BaseException:
                    sock.close()
                    raise
    except TimeoutError as error:
        phase = f"found no answer at {host}:{port} within {timeout_s:g}s"
        raise WireError("connect", phase) from error
    except socket.gaierror as error:
        raise WireError("name", f"found no address of {host} ({error.strerror})") from error
    raise failure
