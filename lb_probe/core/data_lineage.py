"""Whose writes a copy of the data contains: what keeps newer data from being written over.

A node that is Primary takes writes; that time is a *reign*, named by the moment it began. A copy is
known by the reign whose writes it contains last, and up to when. Of two copies the one with the
later reign is the newer; within one reign the one that goes further. A new reign is always named
later than the one it began from, whatever the clock says: so a node that copied and was then
promoted is newer than what it copied from, even where their clocks disagree.

A reign begins from a copy, and what its predecessor wrote after that copy is in no other place: it
is lost when the old node is written over. That is the data-loss window of every failover. It keeps
nobody from copying by hand, but it is told, and nothing copies over it unattended.

Source: guide lines 382, 389; R66, R121, R122, X11-X13; facts/epmm.md 7 and 9.
"""

from dataclasses import dataclass
from enum import Enum

# A reign that would be named no later than its predecessor is named this much later.
_STEP_S = 1.0


@dataclass(frozen=True, slots=True)
class Lineage:
    """What one copy of the data contains; moments are UTC seconds since 1970, 0 is unknown.

    Attributes:
        reign: The reign whose writes it contains last, by the moment it began.
        until: Up to when it contains them.
        fork_reign: The reign that one began from.
        fork_until: Up to when it had that one's writes.
    """

    reign: float = 0.0
    until: float = 0.0
    fork_reign: float = 0.0
    fork_until: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether it contains anything that we know of."""
        return self.reign > 0


UNKNOWN = Lineage()


def begun(before: Lineage, now_wall: float) -> Lineage:
    """Return what a node has at the moment it becomes Primary."""
    reign = max(now_wall, before.reign + _STEP_S)
    return Lineage(reign, reign, before.reign, before.until)


def ended(before: Lineage, last_write_wall: float) -> Lineage:
    """Return what a node has when it stops being Primary.

    Args:
        last_write_wall: When it took its last write at the latest: now, or when its clients were
            turned away.
    """
    until = max(last_write_wall, before.reign)
    return Lineage(before.reign, until, before.fork_reign, before.fork_until)


# ------------------------------------------------------------------ may one be written over
class Order(Enum):
    """How the copy here compares with the one it would be replaced by."""

    OLDER = "older"  # or equal: nothing is lost but what `lost` tells
    NEWER = "newer"
    UNKNOWN = "unknown"  # nothing is known of the other one


@dataclass(frozen=True, slots=True)
class Verdict:
    """What replacing the copy here by the one there would mean.

    Attributes:
        lost: From when to when this node's writes would be gone, or None. Where the beginning is
            not known it is 0.
    """

    order: Order
    lost: tuple[float, float] | None = None


def compare(here: Lineage, there: Lineage, *, there_reigns: bool = False) -> Verdict:
    """Judge whether the copy there may replace the one here.

    Args:
        there_reigns: The other node is Primary now: nobody has more of its reign than itself, even
            where its clock was set back meanwhile.

    >>> primary = Lineage(reign=100, until=500)
    >>> copy = Lineage(reign=100, until=400)
    >>> compare(copy, primary).order.value, compare(primary, copy).order.value
    ('older', 'newer')
    >>> taken_over = begun(copy, 510)
    >>> compare(primary, taken_over)
    Verdict(order=<Order.OLDER: 'older'>, lost=(400, 500))
    """
    if not there.is_known:
        return Verdict(Order.UNKNOWN)
    if not here.is_known:
        return Verdict(Order.OLDER)
    if here.reign == there.reign:
        is_newer = not there_reigns and here.until > there.until
        return Verdict(Order.NEWER if is_newer else Order.OLDER)
    if here.reign > there.reign:
        return Verdict(Order.NEWER)
    has_until = there.fork_until if there.fork_reign == here.reign else 0.0
    lost = (has_until, here.until) if here.until > has_until else None
    return Verdict(Order.OLDER, lost)
