"""How far this node's clock is from UTC (R11): by a time server, and by the kernel's word.

Two nodes whose clocks agree may both be wrong, and logs, schedules and certificates are then as
wrong as they are. It is shown and told; what a sync needs is that the two agree (gate `clock`).
"""

import ctypes
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lb_probe.agent import ntp
from lb_probe.agent.node import Node, Part, Reading
from lb_probe.agent.ntp import NtpError
from lb_probe.agent.trust.standing import Clock, tell_clock
from lb_probe.core import clock_offset
from lb_probe.core.clock_offset import ImpossibleClockError, Limits

_ASKS = 2  # the first answer may have waited for the look-up of a neighbour's address
_UNKEPT = 0x40  # STA_UNSYNC, adjtimex(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class UtcSettings:
    """Whom to ask, and from where on it is told.

    Attributes:
        server: Host and port of a time server; None asks nobody.
    """

    server: tuple[str, int] | None = None
    interval_s: float = 300.0
    timeout_s: float = 5.0
    limits: Limits = field(default=Limits())


@dataclass(frozen=True, slots=True)
class Kept:
    """What the kernel says of the clock.

    Attributes:
        is_kept: Something disciplines it, a time server's client as a rule.
        bound_s: It is that near to UTC at least, as whoever keeps it says; None where nobody does.
    """

    is_kept: bool
    bound_s: float | None


def kernel_word() -> Kept | None:
    """Ask the kernel; nothing is set. None where there is no telling.

    struct timex of 64-bit Linux: `maxerror` in microseconds at byte 24, `status` at byte 40.
    """
    if struct.calcsize("P") != 8:
        return None
    timex = ctypes.create_string_buffer(512)  # 208 bytes; all zero is a question only
    try:
        found = ctypes.CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        return None
    if found < 0:
        return None
    maxerror_us, _, status = struct.unpack_from("=qqi", timex, 24)
    if status & _UNKEPT:
        return Kept(False, None)
    return Kept(True, maxerror_us / 1e6)


class Utc(Part):
    """Looks at this node's own clock now and then."""

    name = "utc"

    def __init__(self, node: Node, settings: UtcSettings) -> None:
        self._node = node
        self._settings = settings
        self._kept = kernel_word()
        self._clock = Clock(detail="" if settings.server else "no time_server is configured")
        self._told = self._clock.severity

    async def run(self) -> None:
        """Ask at the interval, until cancelled."""
        while True:
            await self.look()
            await self._node.clock.sleep(self._settings.interval_s)

    async def look(self) -> None:
        """Ask the kernel and the time server now."""
        self._kept = kernel_word()
        if self._settings.server is None:
            return
        self._clock = await self._measured(*self._settings.server)
        self._told = tell_clock(
            self._node.emit,
            self._told,
            self._clock,
            "agent.utc-judged",
            "agent.utc-apart",
            "agent.utc-near",
        )

    async def _measured(self, host: str, port: int) -> Clock:
        settings = self._settings
        try:
            stamps = [
                await ntp.ask(host, port, self._node.clock, settings.timeout_s)
                for _ in range(_ASKS)
            ]
            theirs = clock_offset.measure(stamps)
        except (NtpError, ImpossibleClockError) as error:
            return Clock(detail=str(error))  # who does not answer says nothing of our clock
        ours = clock_offset.Offset(-theirs.seconds, theirs.bound_s)
        severity = clock_offset.severity(ours, settings.limits)
        text = f"this node's clock is {ours} from {host}" if severity != "ok" else ""
        return Clock(ours, severity, text)

    # -------------------------------------------------------------- what is shown
    def status(self) -> Mapping[str, object]:
        """Return the offset of our clock from UTC, as far as it is known."""
        kept = self._kept
        return {
            **self._clock.view,
            "kept": kept.is_kept if kept else None,
            "kept_within_s": kept.bound_s if kept else None,
        }

    def gauges(self) -> Iterable[Reading]:
        """Return the offset where it is known, and whether anything keeps the clock."""
        if (offset := self._clock.offset) is not None:
            about = "How far this node's clock is ahead of UTC"
            yield Reading("utc_offset_seconds", about, offset.seconds, {})
            yield Reading("utc_bound_seconds", "The offset is known to this", offset.bound_s, {})
        if self._kept is not None:
            about = "Something keeps this node's clock"
            yield Reading("clock_kept", about, self._kept.is_kept, {})
