"""How things stand with one peer: who reaches whom, and whose clock is where."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from lb_probe.agent.node import Node
from lb_probe.core import clock_offset
from lb_probe.core.clock_offset import Limits, Offset

_CHARS = 400
_LONGEST_S = 253_402_300_800.0


@dataclass(frozen=True, slots=True)
class Way:
    """One direction, as last seen.

    Attributes:
        is_open: None where nobody has tried yet, or it cannot be told.
        phase: Where it failed; see `WireError`.
        detail: What was found; empty while all is well.
        at_wall: When, UTC seconds since 1970.
    """

    is_open: bool | None = None
    phase: str = ""
    detail: str = ""
    at_wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The peer's clock, as last measured.

    Attributes:
        offset: None where it was not measured, or cannot be believed.
        severity: ok, warning, error, or unknown before the first measurement.
        detail: What was found; empty while all is well.
        by: How it was measured: `stamps`, or `date` of a page.
    """

    offset: Offset | None = None
    severity: str = "unknown"
    detail: str = ""
    by: str = "stamps"

    @property
    def view(self) -> Mapping[str, object]:
        """The same as JSON."""
        offset = self.offset
        return {
            "severity": self.severity,
            "offset_s": offset.seconds if offset else None,
            "bound_s": offset.bound_s if offset else None,
            "by": self.by if offset else None,
            "detail": self.detail,
        }


@dataclass(slots=True)
class Standing:
    """What is known of one peer.

    Attributes:
        outward: From here to there.
        inward: From there to here, as the peer says; or as its visits show, where it cannot say.
        told_clock: The last judgement of its clock that people were told of.
        came_at_wall: When it last came through our door; None for never.
    """

    outward: Way = Way()
    inward: Way = Way()
    clock: Clock = Clock()
    told_clock: str = "unknown"
    came_at_wall: float | None = None


def by_page(name: str, offset: Offset, limits: Limits) -> Clock:
    """Judge a peer's clock by the date of its page."""
    severity = clock_offset.severity(offset, limits)
    text = f"the clock of {name} is {offset}, by the date of its page" if severity != "ok" else ""
    return Clock(offset, severity, text, "date")


def tell_clock(
    emit: Callable[..., None],
    told: str,
    clock: Clock,
    judged: str,
    apart: str,
    near: str,
    **about: str,
) -> str:
    """Tell where a clock is judged otherwise than people were told last.

    Args:
        emit: Takes an event's name and fields.
        told: What this returned for the last measurement; "unknown" at first.
        judged: The event of any other judgement; `apart` and `near` begin and end an alarm.
        about: Fields of each event: whose clock it is.

    Returns:
        What people know then. Silence says nothing of a clock, so it changes nothing of that.
    """
    if clock.severity in ("unknown", told):
        return told
    emit(judged, **about, **clock.view)
    if clock.severity == "error":
        emit(apart, **about, detail=clock.detail)
    elif told == "error":
        emit(near, **about)
    return clock.severity


def tell_peers_clock(node: Node, name: str, told: str, clock: Clock) -> str:
    """Tell of a peer's clock, as `tell_clock`."""
    return tell_clock(
        node.emit,
        told,
        clock,
        "agent.clock-judged",
        "agent.clock-apart",
        "agent.clock-near",
        peer=name,
    )


def told_offset(body: Mapping[str, object]) -> Offset | None:
    """Return how far our clock is ahead of the peer's, as the peer measured it; None for unknown.

    Args:
        body: The peer's answer to `contact`; anything may be in it.
    """
    found = body.get("clock")
    if not isinstance(found, Mapping):
        return None
    seconds, bound_s = found.get("offset_s"), found.get("bound_s")
    if not _is_span(seconds) or not _is_span(bound_s):
        return None
    return Offset(float(seconds), abs(float(bound_s)))


def _is_span(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_LONGEST_S < value < _LONGEST_S  # nan is not


def told(body: Mapping[str, object], now_wall: float) -> Way:
    """Return the way from the peer to us, as the peer tells it; unknown where it does not.

    Args:
        body: The peer's answer to `contact`; anything may be in it.
    """
    found = body.get("outward")
    if not isinstance(found, Mapping):
        return Way()
    is_open, phase, detail = (found.get(key) for key in ("is_open", "phase", "detail"))
    if not isinstance(is_open, bool) or not isinstance(phase, str) or not isinstance(detail, str):
        return Way()
    return Way(is_open, phase[:32], detail[:_CHARS], now_wall)
