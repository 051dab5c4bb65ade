"""The plain beginning of SSH, as far as it goes without a login (RFC 4253).

SshError               what came is not the SSH server that was wanted; has a phase

A firewall that inspects SSH accepts a connection and then changes the greeting, resets what it
does not like, or puts a host key of its own in between; a test that only connects sees nothing of
that (R33). So `talk` makes three exchanges with pauses: versions, key exchange offers, and one
round of the key exchange, in which the server shows its host key. Then it leaves. Nothing is
encrypted, no secret takes part, and no user is named.

Source: guide line 117; R33; RFC 4253 sections 4, 6, 7; RFC 8731; RFC 5656 section 4.
"""

import asyncio
import base64
import contextlib
import hashlib
import secrets
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

from lb_probe.core.status_page import printable
from lb_probe.ports import Clock, LbProbeError

_KEXINIT, _IGNORE, _KEX_INIT, _KEX_REPLY = 20, 2, 30, 31
_DISCONNECT, _UNIMPLEMENTED, _DEBUG = 1, 3, 4
_MAX_LINE = 255  # RFC 4253, 4.2
_MAX_LINES = 50  # before the version a server may say other things
_MAX_PACKET = 35_000  # RFC 4253, 6.1
# Any point will do: nobody uses the secret that comes out. This is P-256's own base point.
_P256 = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
_EXCHANGES = ("curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256")
_HOST_KEYS = (
    *("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    *("rsa-sha2-512", "rsa-sha2-256"),
)
_CIPHERS = (
    *("chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"),
    *("aes128-ctr", "aes256-ctr"),
)
_MACS = (
    *("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"),
    *("hmac-sha2-256", "hmac-sha2-512"),
)


class SshError(LbProbeError):
    """The talk did not go as SSH does.

    Attributes:
        phase: How far it had come: connect, banner, key-exchange.
    """

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(message)
        self.phase = phase


@dataclass(frozen=True, slots=True)
class Talk:
    """What an SSH server said.

    Attributes:
        banner: Its version line.
        offers: SHA-256 of its lists of algorithms: an inspector offers others.
        host_key: Fingerprint as `ssh-keygen -l` prints it; empty where no key exchange is common.
        exchanges: How many questions were answered.
        duration_s: Of the whole talk, in seconds.
    """

    banner: str
    offers: str
    host_key: str
    exchanges: int
    duration_s: float


async def talk(host: str, port: int, *, timeout_s: float, pause_s: float, clock: Clock) -> Talk:
    """Connect, talk, and leave.

    Args:
        timeout_s: For each exchange by itself.
        pause_s: Before each exchange but the first: what was accepted at first may be cut then.

    Raises:
        SshError: No connection, another protocol, or cut off; says how far it came.
    """
    began = clock.monotonic()
    reader, writer = await _connect(host, port, timeout_s)
    try:
        line = _Line(reader, writer, timeout_s)
        banner = await line.greet()
        await clock.sleep(pause_s)
        offer = await line.offer()
        await clock.sleep(pause_s)
        host_key = await line.host_key(offer)
        offers = hashlib.sha256(
            offer[17:]
        ).hexdigest()  # without the cookie, which is new each time
        exchanges = 3 if host_key else 2
        return Talk(banner, offers, host_key, exchanges, clock.monotonic() - began)
    except (OSError, asyncio.IncompleteReadError) as error:
        after_s = clock.monotonic() - began
        what = (getattr(error, "strerror", None) or "the connection closed").lower()
        raise SshError(
            line.phase, f"found {what} after {after_s:.1f}s; wanted {line.wanted}"
        ) from (error)
    finally:
        writer.transport.abort()


async def _connect(
    host: str, port: int, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.open_connection(host, port, limit=_MAX_PACKET)
    except TimeoutError as error:
        raise SshError("connect", f"found no answer within {timeout_s:g}s") from error
    except OSError as error:
        found = error.strerror or str(error)
        raise SshError("connect", f"found {found}; wanted a connection") from error


class _Line:
    """One connection, and how far the talk has come."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self.phase = "banner"
        self.wanted = "a version line"

    # -------------------------------------------------------------- the three exchanges
    async def greet(self) -> str:
        """Read the server's version line and send ours."""
        async with self._deadline():
            for _ in range(_MAX_LINES):
                line = await self._text()
                if line.startswith("SSH-"):
                    break
            else:
                raise SshError(self.phase, f"found {_MAX_LINES} lines without a version")
        if not line.startswith(("SSH-2.0-", "SSH-1.99-")):
            raise SshError(self.phase, f"found {line!r}; wanted SSH-2.0")
        self._writer.write(b"SSH-2.0-lb_probe connection test\r\n")
        return line

    async def offer(self) -> bytes:
        """Exchange offers, and return the server's."""
        self.phase, self.wanted = "key-exchange", "the server's key exchange offer"
        self._send(_our_offer())
        async with self._deadline():
            return await self._message(_KEXINIT)

    async def host_key(self, offer: bytes) -> str:
        """Ask the server for its host key; empty where no key exchange is common."""
        self.wanted = "the server's host key"
        theirs = _names(offer, 17)
        chosen = next((name for name in _EXCHANGES if name in theirs), None)
        if chosen is None:
            return ""
        point = _P256 if "nistp256" in chosen else secrets.token_bytes(32)
        self._send(bytes([_IGNORE]) + _string(b""))
        self._send(bytes([_KEX_INIT]) + _string(point))
        async with self._deadline():
            reply = await self._message(_KEX_REPLY)
        size = int.from_bytes(reply[1:5], "big")
        key = reply[5 : 5 + size]
        if len(key) != size or not key:
            raise SshError(self.phase, "found a key exchange reply that is cut off")
        digest = hashlib.sha256(key).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    # -------------------------------------------------------------- bytes
    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Give one exchange its time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            found = f"found silence for {self._timeout_s:g}s; wanted {self.wanted}"
            raise SshError(self.phase, found) from error

    async def _text(self) -> str:
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            line = b"x" * _MAX_PACKET
        if len(line) > _MAX_LINE:
            raise SshError(self.phase, f"found a line of more than {_MAX_LINE} bytes")
        return printable(line.rstrip(b"\r\n").decode("utf-8", "replace"), _MAX_LINE)

    def _send(self, payload: bytes) -> None:
        """Frame one message (RFC 4253, 6): no compression, no cipher, no MAC yet."""
        padding = 8 - (len(payload) + 5) % 8
        padding += 8 if padding < 4 else 0
        head = struct.pack(">IB", len(payload) + padding + 1, padding)
        self._writer.write(head + payload + secrets.token_bytes(padding))

    async def _message(self, wanted: int) -> bytes:
        """Return the next message of this kind; small talk in between is passed over."""
        for _ in range(_MAX_LINES):
            size, padding = struct.unpack(">IB", await self._reader.readexactly(5))
            if not 2 + padding <= size <= _MAX_PACKET:
                raise SshError(self.phase, f"found a packet of {size} bytes; wanted {self.wanted}")
            payload = (await self._reader.readexactly(size - 1))[: size - 1 - padding]
            if payload[0] == wanted:
                return payload
            if payload[0] == _DISCONNECT:
                why = printable(_string_at(payload, 5).decode("utf-8", "replace"))
                raise SshError(self.phase, f"found a disconnect ({why}); wanted {self.wanted}")
            if payload[0] not in {_IGNORE, _DEBUG, _UNIMPLEMENTED}:
                raise SshError(
                    self.phase, f"found message {payload[0]}; wanted {wanted}: {self.wanted}"
                )
        raise SshError(self.phase, f"found nothing but small talk; wanted {self.wanted}")


# ------------------------------------------------------------------ the wire
def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _string_at(payload: bytes, at: int) -> bytes:
    size = int.from_bytes(payload[at : at + 4], "big")
    return payload[at + 4 : at + 4 + size]


def _names(payload: bytes, at: int) -> list[str]:
    return _string_at(payload, at).decode("ascii", "replace").split(",")


def _our_offer() -> bytes:
    lists = (
        *(_EXCHANGES, _HOST_KEYS, _CIPHERS, _CIPHERS, _MACS, _MACS),
        *(("none",), ("none",), (), ()),
    )
    packed = b"".join(_string(",".join(names).encode()) for names in lists)
    return bytes([_KEXINIT]) + secrets.token_bytes(16) + packed + b"\0" + bytes(4)
