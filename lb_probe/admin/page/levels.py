"""How grave a condition is, and the one sentence over all groups.

A level has a word, a shape and a colour; the word and the shape alone are enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from lb_probe.core import active_active
from lb_probe.core.failover import CONDITIONS

NAMED = 3  # groups that a sentence names; of more it tells how many


class Level(IntEnum):
    """How much a group needs somebody; the larger, the sooner."""

    WELL = 0
    WAIT = 1
    LOOK = 2
    MOVED = 3
    DOWN = 4

    @property
    def css(self) -> str:
        """The class of its colour, and the name of its shape."""
        return self.name.lower()

    @property
    def word(self) -> str:
        """What people read beside the shape."""
        return _WORDS[self]


_WORDS: Mapping[Level, str] = {
    Level.WELL: "well",
    Level.WAIT: "no verdict yet",
    Level.LOOK: "see to it",
    Level.MOVED: "moved",
    Level.DOWN: "act now",
}
_CONDITIONS: Mapping[str, Level] = {
    "normal": Level.WELL,
    "all-in": Level.WELL,
    "some-out": Level.LOOK,
    "in-blocked": Level.LOOK,
    "confirming": Level.WAIT,
    "unprotected": Level.LOOK,
    "dual-primary": Level.LOOK,
    "role-mismatch": Level.LOOK,
    "failing-over": Level.MOVED,
    "failed-over": Level.MOVED,
    "primary-returned": Level.MOVED,
}
assert _CONDITIONS.keys() <= {*CONDITIONS, *active_active.CONDITIONS}


def level_of(condition: str) -> Level:
    """Return how grave a condition is; one that nobody ranked is grave."""
    return _CONDITIONS.get(condition, Level.DOWN)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the headline needs to know of one group.

    Attributes:
        is_moved: Traffic is not on the Primary.
        way_back: `open` where resume would pass now, `word` where only somebody's word is missing,
            else empty.
    """

    name: str
    level: Level
    is_moved: bool = False
    way_back: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """The first thing that is read.

    Attributes:
        title: For the tab: how many groups are not well, in parentheses.
    """

    text: str
    level: Level
    title: str


def headline(standings: Sequence[Standing]) -> Headline:
    """Say in a few short sentences how everything stands.

    >>> headline([Standing("a", Level.WELL), Standing("b", Level.MOVED, True, "open")]).text
    'b is off its Primary. It can be resumed now.'
    >>> headline([Standing(name, Level.MOVED, True, "open") for name in "abcd"]).text
    '4 of 4 groups are off their Primary: a, b, c and 1 more. 4 can be resumed now.'
    """
    if not standings:
        return Headline("No group to show.", Level.WAIT, "lb-probe")
    count = {level: [s for s in standings if s.level is level] for level in Level}
    moved = [s for s in standings if s.is_moved]
    told = []
    if down := count[Level.DOWN]:
        told.append(_said(down, standings, "needs you now", "need you now"))
    if moved:
        told.append(_said(moved, standings, "is off its Primary", "are off their Primary"))
        told += _ways(moved)
    if look := count[Level.LOOK]:
        told.append(_said(look, standings, "has something to see to", "have something to see to"))
    if not told and (unsure := count[Level.WAIT] + count[Level.MOVED]):
        told.append(_said(unsure, standings, "has no verdict yet", "have no verdict yet"))
    if not told:
        is_only = len(standings) == 1
        told.append(
            f"{standings[0].name} is well." if is_only else f"All {len(standings)} groups are well."
        )
    ill = sum(s.level >= Level.LOOK for s in standings)
    worst = max(s.level for s in standings)
    return Headline(" ".join(told), worst, f"({ill}) lb-probe" if ill else "lb-probe")


def _ways(moved: Sequence[Standing]) -> list[str]:
    """Say which of those that are moved can go home; `It` is the only one."""
    told = []
    if ready := [s for s in moved if s.way_back == "open"]:
        told.append(f"{_short(ready, moved)} can be resumed now.")
    if word := [s for s in moved if s.way_back == "word"]:
        verb = "waits" if len(word) == 1 else "wait"
        told.append(f"{_short(word, moved)} {verb} only for your word to be resumed.")
    return told


def _said(found: Sequence[Standing], every: Sequence[Standing], one: str, more: str) -> str:
    """Name the groups: somebody who was woken must not have to look for them."""
    if len(found) <= NAMED:
        return f"{_names(found)} {one if len(found) == 1 else more}."
    return f"{len(found)} of {len(every)} groups {more}: {_names(found)}."


def _short(found: Sequence[Standing], named: Sequence[Standing]) -> str:
    if len(named) == 1:
        return "It"
    return _names(found) if len(found) <= NAMED else str(len(found))


def _names(found: Sequence[Standing]) -> str:
    *names, last = [s.name for s in found[:NAMED]]
    if len(found) > NAMED:
        return f"{', '.join([*names, last])} and {len(found) - NAMED} more"
    return f"{', '.join(names)} and {last}" if names else last
