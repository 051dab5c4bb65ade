"""What a test of the connection found, in one direction at a time, and whether it is good enough.

Two nodes need each other in both directions: a firewall that lets A reach B and not B reach A
shows itself after a failover only. So each end tests its own way, and later steps ask for a recent
success of both (R73, R79, R80).

Source: guide lines 130, 251, 296-302, 387; R31, R33, R45, R73, R79, R80.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lb_probe.core.model import Gate

GATE = "connected"
Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that was tried.

    Attributes:
        name: `trust`, `clock`, `version`, or `port 8443` and so on.
        phase: Where it failed, one word; empty where it did not.
        detail: What was found, in words.
        facts: What a person wants to know beside it: TLS version, certificate, banner, host key.
    """

    name: str
    verdict: Verdict
    phase: str = ""
    detail: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """Everything that one end tried towards the other.

    Attributes:
        source: The node that tried.
        target: The node it tried to reach.
        at_wall: When it was done, UTC seconds since 1970, by the clock of who keeps this.
    """

    source: str
    target: str
    at_wall: float
    items: tuple[Item, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and something was tried."""
        return bool(self.items) and not self.failed

    @property
    def failed(self) -> tuple[Item, ...]:
        """What failed."""
        return tuple(item for item in self.items if item.verdict == "failed")

    @property
    def words(self) -> str:
        """The way, and each failure on it."""
        way = f"{self.source} -> {self.target}: "
        told = "; ".join(f"{one.name}: {one.detail.removeprefix(way)}" for one in self.failed)
        otherwise = "all passed" if self.items else "nothing was tried"
        return f"{way}{told or otherwise}"


def gate(
    here: str,
    peer: str,
    outward: Direction | None,
    inward: Direction | None,
    *,
    now_wall: float,
    max_age_s: float,
) -> Gate:
    """Judge whether both directions passed, and not too long ago.

    Args:
        outward: Our last test of the peer; None for never.
        inward: The peer's last test of us, as it told us.
        max_age_s: Exactly this old is still recent.
    """
    ways = ((here, peer, outward), (peer, here, inward))
    faults = [_fault(*way, now_wall, max_age_s) for way in ways]
    found = "; ".join(fault for fault in faults if fault)
    wanted = (
        f"a success of the last {max_age_s / 3600:g}h in both directions;"
        " see `lb-probe agent test-connection --both`"
    )
    return Gate(GATE, not found, found or "both directions passed", wanted)


def _fault(
    source: str, target: str, last: Direction | None, now_wall: float, max_age_s: float
) -> str:
    """Say what is wrong with one way; empty where nothing is."""
    way = f"{source} -> {target}"
    if last is None:
        return f"{way}: never tested"
    if (last.source, last.target) != (source, target):
        return f"{way}: found a test of {last.source} -> {last.target}"
    if not last.passed:
        return last.words
    age_s = now_wall - last.at_wall
    if age_s < 0:
        return f"{way}: the last test is {-age_s:.0f}s in the future; set the clock and test again"
    if age_s > max_age_s:
        return f"{way}: the last success is {age_s / 3600:.1f}h old"
    return ""
