"""How far the clocks of two nodes are apart, from the four stamps of an exchange (R11).

The asker stamps when it asks and when it has the answer, the peer when it has the question and when
it answers. Half of what the two ways differ is the offset; it is wrong by no more than half of the
time on the wire, however uneven the two ways are. A peer may say any time it likes: what cannot be
true is refused here, and a clock that is merely wrong is shown as what it is.

Source: guide line 71; RFC 5905, section 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lb_probe.core.peer_report import ClockStamps

# A peer's stamps have a grain, and so has ours: a thousandth is no lie.
_GRAIN_S = 0.001


class ImpossibleClockError(ValueError):
    """The stamps cannot be true; says what was found and what was wanted."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How far the peer's clock is ahead of ours.

    Attributes:
        seconds: Negative where the peer is behind.
        bound_s: The true offset is within this of `seconds`: half the time on the wire.
    """

    seconds: float
    bound_s: float

    def __str__(self) -> str:
        return f"{self.seconds:+.3f}s, known to {self.bound_s:.3f}s"


@dataclass(frozen=True, slots=True)
class Limits:
    """From where a difference is told; seconds, either way. Exactly the limit is still good."""

    warn_s: float = 1.0
    error_s: float = 5.0


def offset(stamps: ClockStamps) -> Offset:
    """Return what one exchange tells.

    >>> offset(ClockStamps(100.0, 102.1, 102.2, 100.3))
    Offset(seconds=2.0, bound_s=0.1)

    Raises:
        ImpossibleClockError: The peer answered before it was asked, or took longer than it took.
    """
    held_s = stamps.answered_at - stamps.heard_at
    round_s = stamps.received_at - stamps.asked_at
    if held_s < 0:
        raise ImpossibleClockError(
            f"found an answer stamped {-held_s:.3f}s before its question was heard;"
            " wanted a clock that does not step back"
        )
    if held_s > round_s + _GRAIN_S:
        raise ImpossibleClockError(
            f"found stamps {held_s:.3f}s apart in an exchange of {round_s:.3f}s;"
            " wanted a clock that does not jump"
        )
    ahead = (stamps.heard_at - stamps.asked_at) + (stamps.answered_at - stamps.received_at)
    return Offset(round(ahead / 2, 6), round(max(0.0, round_s - held_s) / 2, 6))


def by_date(date_wall: float, asked_at: float, received_at: float) -> Offset:
    """Return what the `Date` of one answer tells: a whole second, cut off, some time in between.

    >>> by_date(1_000.0, 998.4, 998.6)
    Offset(seconds=2.0, bound_s=0.6)

    Args:
        date_wall: What it says, UTC seconds since 1970.
        asked_at: When we began to ask, by our clock.
        received_at: When we had the answer.
    """
    between = (asked_at + received_at) / 2
    bound_s = (1.0 + max(0.0, received_at - asked_at)) / 2
    return Offset(round(date_wall + 0.5 - between, 6), round(bound_s, 6))


def surely_apart(one: Offset, other: Offset) -> float:
    """Return by how much two clocks, both measured by a third, differ at least; seconds.

    >>> surely_apart(Offset(3.0, 0.5), Offset(-1.0, 0.6))
    2.9
    """
    return round(max(0.0, abs(one.seconds - other.seconds) - one.bound_s - other.bound_s), 6)


def measure(exchanges: Sequence[ClockStamps]) -> Offset:
    """Return what several exchanges, made one after the other, tell together: the closest one.

    Raises:
        ImpossibleClockError: One cannot be true, or no clock that runs evenly says them all.
        ValueError: No exchange at all.
    """
    if not exchanges:
        raise ValueError("found no exchange; wanted one at least")
    offsets = [offset(stamps) for stamps in exchanges]
    lowest = max(offsets, key=lambda one: one.seconds - one.bound_s)
    highest = min(offsets, key=lambda one: one.seconds + one.bound_s)
    gap_s = (lowest.seconds - lowest.bound_s) - (highest.seconds + highest.bound_s)
    if gap_s > _GRAIN_S:
        raise ImpossibleClockError(
            f"found offsets of {highest} and {lowest} moments apart; wanted one clock that"
            " runs evenly: see whether something steps it"
        )
    return min(offsets, key=lambda one: one.bound_s)


def severity(found: Offset, limits: Limits) -> str:
    """Return ok, warning or error; a measurement too rough to tell is a warning at least.

    >>> [severity(Offset(s, 0.01), Limits()) for s in (-0.5, 2.0, -10.0)]
    ['ok', 'warning', 'error']
    """
    apart_s = abs(found.seconds)
    if apart_s > limits.error_s:
        return "error"
    return "warning" if max(apart_s, found.bound_s) > limits.warn_s else "ok"


def contradiction(ours: Offset, theirs: Offset) -> str:
    """Say how two measurements of one pair, from both ends, differ; empty where they do not.

    Args:
        ours: The peer's clock, by us.
        theirs: Our clock, by the peer: the same with the other sign.
    """
    apart_s = abs(ours.seconds + theirs.seconds)
    slack_s = ours.bound_s + theirs.bound_s + 0.1  # they are made at different moments
    if apart_s <= slack_s:
        return ""
    return (
        f"found {ours.seconds:+.3f}s from here and {theirs.seconds:+.3f}s from there; wanted"
        " the same with the other sign: one of the clocks was stepped, or is not what it says"
    )
