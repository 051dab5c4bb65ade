"""One question to a time server, and the four stamps of its answer (RFC 5905, RFC 4330).

NtpError               no answer, another's answer, or one that says no time

Nothing of our clock is in the question: its stamp is random, and an answer that does not repeat it
was made by somebody who did not see the question. The clock is never set.
"""

import asyncio
import secrets
import struct

from lb_probe.core.peer_report import ClockStamps
from lb_probe.ports import Clock, LbProbeError

_PACKET = struct.Struct(">BBbb3I4Q")
_ASK = 0x23  # no warning, version 4, a client
_SERVER = 4
_UNSYNCHRONISED = 3
_TO_1970_S = 2_208_988_800
_ERA_S = 2**32  # the first one ends in 2036


class NtpError(LbProbeError):
    """A time server did not say what time it is; says what was found and what was wanted."""


class _Ear(asyncio.DatagramProtocol):
    """Keeps the first answer that repeats our stamp, and when it came."""

    def __init__(self, stamp: int, clock: Clock) -> None:
        self._stamp = stamp
        self._clock = clock
        self.answer: asyncio.Future[tuple[bytes, float]] = (
            asyncio.get_running_loop().create_future()
        )

    def datagram_received(self, data: bytes, addr: object) -> None:
        at = self._clock.wall()
        is_ours = len(data) >= _PACKET.size and _PACKET.unpack_from(data)[8] == self._stamp
        if is_ours and not self.answer.done():
            self.answer.set_result((data, at))

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def ask(host: str, port: int, clock: Clock, timeout_s: float) -> ClockStamps:
    """Ask once, with one deadline for everything, the look-up of the name included.

    Raises:
        NtpError: No answer within it, or none that can be used.
    """
    stamp = secrets.randbits(64)
    try:
        async with asyncio.timeout(timeout_s):
            loop = asyncio.get_running_loop()
            transport, ear = await loop.create_datagram_endpoint(
                lambda: _Ear(stamp, clock), remote_addr=(host, port)
            )
            try:
                asked_at = clock.wall()
                transport.sendto(_PACKET.pack(_ASK, 0, 0, 0, 0, 0, 0, 0, 0, 0, stamp))
                data, received_at = await ear.answer
            finally:
                transport.close()
    except TimeoutError:
        raise NtpError(f"found no answer of {host}:{port} within {timeout_s:g}s") from None
    except OSError as error:
        found = error.strerror or error
        raise NtpError(f"found {found} at {host}:{port}; wanted a time server") from error
    return _stamps(data, asked_at, received_at)


def _stamps(data: bytes, asked_at: float, received_at: float) -> ClockStamps:
    first, stratum, *_, heard, answered = _PACKET.unpack_from(data)
    if first & 7 != _SERVER:
        raise NtpError(f"found an answer of mode {first & 7}; wanted a server's")
    if first >> 6 == _UNSYNCHRONISED or not 1 <= stratum <= 15:
        raise NtpError(
            f"found a time server that is not synchronised (stratum {stratum}); wanted one that is"
        )
    return ClockStamps(asked_at, _wall(heard, asked_at), _wall(answered, asked_at), received_at)


def _wall(stamp: int, near: float) -> float:
    """Return UTC seconds since 1970, in the era that is nearest to another moment."""
    seconds = stamp / 2**32 - _TO_1970_S
    return seconds + round((near - seconds) / _ERA_S) * _ERA_S
