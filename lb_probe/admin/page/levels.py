"""How grave a condition is, and the one sentence over all groups.

A level has a word, a shape and a colour; the word and the shape alone are enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from lb_probe.core import active_active
from lb_probe.core.failover import CONDITIONS


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
    '1 of 2 groups is off its Primary. 1 can be resumed now.'
    >>> headline([Standing("b", Level.MOVED, True, "open")]).text
    'b is off its Primary. It can be resumed now.'
    """
    if not standings:
        return Headline("No group to show.", Level.WAIT, "lb-probe")
    count = {level: [s for s in standings if s.level is level] for level in Level}
    moved = [s for s in standings if s.is_moved]
    told = []
    if down := count[Level.DOWN]:
        names = "" if len(standings) == 1 else f": {_names(down)}"
        told.append(f"{_of(down, standings, 'needs', 'need')} you now{names}.")
    if moved:
        told.append(f"{_of(moved, standings, 'is off its', 'are off their')} Primary.")
        told += _ways(moved, is_only=len(standings) == 1)
    if look := count[Level.LOOK]:
        told.append(f"{_of(look, standings, 'has', 'have')} something to see to.")
    if not told and (unsure := count[Level.WAIT] + count[Level.MOVED]):
        told.append(f"{_of(unsure, standings, 'has', 'have')} no verdict yet.")
    if not told:
        is_only = len(standings) == 1
        told.append(
            f"{standings[0].name} is well." if is_only else f"All {len(standings)} groups are well."
        )
    ill = sum(s.level >= Level.LOOK for s in standings)
    worst = max(s.level for s in standings)
    return Headline(" ".join(told), worst, f"({ill}) lb-probe" if ill else "lb-probe")


def _ways(moved: Sequence[Standing], *, is_only: bool) -> list[str]:
    ways = [s.way_back for s in moved]
    ready, word = ways.count("open"), ways.count("word")
    told = []
    if ready:
        told.append(f"{'It' if is_only else ready} can be resumed now.")
    if word:
        verb = "waits" if word == 1 else "wait"
        told.append(f"{'It' if is_only else word} {verb} only for your word to be resumed.")
    return told


def _of(found: Sequence[Standing], all_of_them: Sequence[Standing], one: str, more: str) -> str:
    if len(all_of_them) == 1:
        return f"{all_of_them[0].name} {one}"
    return f"{len(found)} of {len(all_of_them)} groups {one if len(found) == 1 else more}"


def _names(found: Sequence[Standing]) -> str:
    names = [s.name for s in found[:3]]
    return ", ".join(names) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
