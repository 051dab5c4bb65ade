"""What a node sees of its peer from outside: the peer's two pages, and its ports.

The same engine and the same parser as the prober's: the two can be compared. One look has one
deadline; it asks everything at once and never tries again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from lb_probe.core.clock_offset import Offset
from lb_probe.core.evidence import is_own_failure
from lb_probe.core.model import Failed, Mode, Observation, Page, Passed
from lb_probe.prober.dated import clock_of
from lb_probe.prober.http_probe import Target, inspect, probe
from lb_probe.prober.names import Names


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes:
        fault: Why the peer does not count as alive; empty while it does.
        mode: What its hastatus page says; None where it does not say.
        serves: Its status page is OK.
        is_answering: Anything at all answered, if only with an error.
        started_at: Monotonic seconds.
        ended_at: Monotonic seconds.
        hindrance: Why this machine could not ask, where nothing else speaks against the peer.
    """

    fault: str
    mode: Mode | None
    serves: bool
    is_answering: bool
    started_at: float
    ended_at: float
    hindrance: str = ""


class PeerPages:
    """The peer's pages, asked from here.

    Args:
        targets: Both pages, and a connection (scheme tcp) for each port that must be open; their
            timeout is that of a look.
    """

    def __init__(self, name: str, targets: tuple[Target, ...], clock: Callable[[], float]) -> None:
        self.name = name
        self._targets = targets
        self._clock = clock

    async def look(self) -> Look:
        """Ask everything once, at the same time; nothing a peer does raises."""
        started_at = self._clock()
        asked = (probe(target, clock=self._clock) for target in self._targets)
        seen = tuple(zip(self._targets, await asyncio.gather(*asked), strict=True))
        mode = next((m for target, one in seen if (m := _mode(target, one)) is not None), None)
        faults = [(one, text) for target, one in seen if (text := _fault(target, one, mode))]
        fault = "; ".join(text for one, text in faults if not is_own_failure(one))
        hindrance = "" if fault else "; ".join(text for _, text in faults)
        is_answering = any(one.code is not None for _, one in seen)
        serves = any(_is_served(target, one) for target, one in seen)
        return Look(fault, mode, serves, is_answering, started_at, self._clock(), hindrance)

    async def clock(self, wall: Callable[[], float]) -> Offset | None:
        """Ask a page what time it is there; None where it does not say.

        Args:
            wall: Our own clock, UTC seconds since 1970.
        """
        page = next((one for one in self._targets if one.path), None)
        if page is None:
            return None
        names = Names(self._clock)
        try:
            seen = await inspect(page, clock=self._clock, names=names)
        finally:
            names.close()
        return clock_of(seen, wall() - self._clock())


def _mode(target: Target, seen: Observation) -> Mode | None:
    if not target.path or target.page is not Page.HASTATUS or not isinstance(seen.outcome, Passed):
        return None
    return seen.outcome.mode if seen.outcome.mode in (Mode.PRIMARY, Mode.STANDBY) else None


def _is_served(target: Target, seen: Observation) -> bool:
    is_status = bool(target.path) and target.page is Page.STATUS
    return is_status and isinstance(seen.outcome, Passed)


def _fault(target: Target, seen: Observation, mode: Mode | None) -> str:
    """Say why this part of a look speaks against the peer.

    Only the status page and the ports do; a peer that says Standby need not serve: somebody made
    it stand by, it is not dead (and a third node watches one that stands by, R37).
    """
    if not isinstance(seen.outcome, Failed) or (target.path and target.page is Page.HASTATUS):
        return ""
    if target.path and mode is Mode.STANDBY:
        return ""
    what = "status page" if target.path else f"port {target.port}"
    return f"{what}: {seen.outcome.phase.value}: {seen.outcome.detail}"
