"""When a Standby copies its Primary's data by itself: StartTime, then Run Every.

A schedule is two numbers: t0, the first StartTime strictly after it was saved, and Run Every. Its
slots are t0 + k * Run Every, for ever: not anchored anew every day, nor at the end of a run. A run
that begins late leaves the next slot where it was.

Slots are moments of the wall clock in UTC, because that is what an operator set; seconds since 1970
have no zone, no summer time and days of 86,400 seconds, so none of those can move a slot. The wall
clock can be set, though, and the agent can be down:

* Slots that passed while nobody looked are made up by one run, for the newest of them. The next
  one is on the grid again. A clock that was set forward looks the same.
* A clock that was set back by up to half of Run Every repeats nothing: the next run is the next
  slot that was not dealt with, 1.5 * Run Every after the last one at most. Set back further, the
  slots that come are dealt with again, so that no run waits longer than one Run Every.

Source: guide lines 78 and 328-329; R10, R19, R20, R21, R25, R88-R90.
"""

import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime

DAY_S = 86_400
LEAST_RUN_EVERY_S = 3_600  # the guide's limit, line 70 (R10)
MOST_RUN_EVERY_S = 31 * DAY_S
LATE_S = 60.0  # a run that begins later than this after its slot makes up for it
WIDE_GAP = 2.0  # times Run Every: a save that leaves a wider gap asks first (R19)

_START = re.compile(
    r"(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]) ?"
    r"(?P<zone>Z|UTC|GMT|(?P<sign>[+-])(?P<off_hour>0[0-9]|1[0-4]):(?P<off_minute>[0-5][0-9]))"
)
_RUN_EVERY = re.compile(
    r"(?P<number>[1-9][0-9]{0,4}) ?(?P<unit>m|min|minutes?|h|hours?|d|days?)", re.ASCII
)
_UNITS_S = {"m": 60, "h": 3_600, "d": DAY_S}


# ------------------------------------------------------------------ what an operator says
def parse_start(text: str) -> int:
    """Return a time of day as seconds after midnight in UTC.

    Raises:
        ValueError: It is none, or has no zone; says what to use.

    >>> parse_start("13:00Z"), parse_start("14:00+01:00"), parse_start("00:30+02:00")
    (46800, 46800, 81000)
    """
    found = _START.fullmatch(text)
    if found is None:
        raise ValueError(
            'a time of day with its zone, e.g. "13:00Z" or "14:00+01:00";'
            " a time without a zone is not taken"
        )
    seconds = int(found["hour"]) * 3_600 + int(found["minute"]) * 60
    if found["sign"]:
        offset = int(found["off_hour"]) * 3_600 + int(found["off_minute"]) * 60
        seconds -= offset if found["sign"] == "+" else -offset
    return seconds % DAY_S


def parse_run_every(text: str) -> int:
    """Return the seconds from one start to the next; whether that is too often is asked later.

    Raises:
        ValueError: It is no such time; says what to use.

    >>> parse_run_every("90m"), parse_run_every("2h"), parse_run_every("1 day")
    (5400, 7200, 86400)
    """
    found = _RUN_EVERY.fullmatch(text)
    seconds = int(found["number"]) * _UNITS_S[found["unit"][0]] if found else 0
    if not 0 < seconds <= MOST_RUN_EVERY_S:
        raise ValueError('a whole number of minutes, hours or days, up to 31 days, e.g. "2h"')
    return seconds


def is_too_often(run_every_s: float) -> bool:
    """Tell whether this Run Every is below the guide's 60 minutes (R10)."""
    return run_every_s < LEAST_RUN_EVERY_S


# ------------------------------------------------------------------ the schedule
@dataclass(frozen=True, slots=True)
class Schedule:
    """When runs begin.

    Attributes:
        first_wall: t0, UTC seconds since 1970, whole; its time of day is StartTime.
        run_every_s: Seconds from one slot to the next, whole, above 0.
        saved_wall: When an operator saved it.
    """

    first_wall: int
    run_every_s: int
    saved_wall: float

    def __post_init__(self) -> None:
        if self.run_every_s <= 0:
            raise ValueError(f"run_every_s is {self.run_every_s}; use more than 0")

    @property
    def start_s(self) -> int:
        """StartTime, in seconds after midnight UTC."""
        return self.first_wall % DAY_S


@dataclass(frozen=True, slots=True)
class Look:
    """What a schedule says at one moment.

    Attributes:
        due_wall: The slot to run for now; None for none.
        missed: Slots before that one that nobody dealt with and nobody will.
        handled_wall: What to remember as dealt with, once the slot that is due is.
        next_wall: The slot after this moment and after the one that is due.
    """

    due_wall: int | None
    missed: int
    handled_wall: int | None
    next_wall: int


def first_after(start_s: int, now_wall: float) -> int:
    """Return the first StartTime strictly after a moment: saved at 13:00:00, 13:00 is tomorrow.

    >>> spell(first_after(parse_start("13:00Z"), moment("2026-11-28 14:00")))
    '2026-11-29 13:00Z'
    >>> spell(first_after(parse_start("13:00Z"), moment("2026-11-28 12:59")))
    '2026-11-28 13:00Z'
    """
    today = math.floor(now_wall / DAY_S) * DAY_S + start_s
    return today if today > now_wall else today + DAY_S


def saved(start_s: int, run_every_s: int, now_wall: float) -> Schedule:
    """Return the schedule as a save makes it: anchored anew, whatever ran before (R20, R89)."""
    return Schedule(first_after(start_s, now_wall), run_every_s, now_wall)


def saved_on_grid(
    before: Schedule, run_every_s: int, handled_wall: int | None, now_wall: float
) -> Schedule:
    """Return the schedule as a save that keeps the grid makes it.

    The same Run Every changes no slot. Another one counts from the next slot of the old grid.
    """
    if run_every_s == before.run_every_s:
        return replace(before, saved_wall=now_wall)
    return Schedule(look(before, handled_wall, now_wall).next_wall, run_every_s, now_wall)


def look(schedule: Schedule, handled_wall: int | None, now_wall: float) -> Look:
    """Return what is due at a moment, and what comes next.

    Args:
        handled_wall: The newest slot that was run or skipped; None before the first one. A slot
            is handled when its run begins, so that a crash does not run it twice.

    >>> every = saved(parse_start("13:00Z"), 7 * 3_600, moment("2026-11-28 12:00"))
    >>> late = look(every, moment("2026-11-28 20:00"), moment("2026-11-29 11:30"))
    >>> spell(late.due_wall), late.missed, spell(late.next_wall)
    ('2026-11-29 10:00Z', 1, '2026-11-29 17:00Z')
    """
    every = schedule.run_every_s
    if handled_wall is None:
        # A clock set back before the first run must not put it off by as much.
        first = min(schedule.first_wall, first_after(schedule.start_s, now_wall))
        if now_wall < first:
            return Look(None, 0, None, first)
        newest = _newest(schedule, now_wall)
        return Look(newest, (newest - schedule.first_wall) // every, newest, newest + every)
    newest = _newest(schedule, now_wall)
    if newest > handled_wall:
        return Look(newest, (newest - handled_wall) // every - 1, newest, newest + every)
    if handled_wall - now_wall <= every / 2:
        return Look(None, 0, handled_wall, handled_wall + every)
    return Look(None, 0, newest, newest + every)


def _newest(schedule: Schedule, now_wall: float) -> int:
    """Return the newest slot at or before a moment; the grid has no beginning here."""
    passed = math.floor((now_wall - schedule.first_wall) / schedule.run_every_s)
    return schedule.first_wall + passed * schedule.run_every_s


def is_late(slot_wall: float, missed: int, now_wall: float) -> bool:
    """Tell whether a run that begins now makes up for its slot rather than keeping it."""
    return missed > 0 or now_wall - slot_wall > LATE_S


def is_wide(
    next_wall: float, last_good_wall: float | None, now_wall: float, every_s: float
) -> bool:
    """Tell whether a save leaves the data to grow older than twice Run Every (R19).

    Args:
        last_good_wall: When the last good sync began; None where there is none, and the gap is
            then counted from now.
    """
    began = now_wall if last_good_wall is None else last_good_wall
    return next_wall - began > WIDE_GAP * every_s


# ------------------------------------------------------------------ runs that do not fit
ALARM_AFTER_SKIPS = 2


def skips(before: int, *, skipped: bool, fits: bool) -> int:
    """Return how many slots were skipped since a run last fitted between two slots (R18).

    A run of 70 minutes at an interval of 60 skips every other slot: they are never two in a row,
    and still too many. So only a run that fits begins the count anew.
    """
    if skipped:
        return before + 1
    return 0 if fits else before


# ------------------------------------------------------------------ words
def spell(wall: float) -> str:
    """Return a moment as people read it: UTC, and it says so (R88).

    >>> spell(1_795_870_800)
    '2026-11-28 13:00Z'
    """
    return datetime.fromtimestamp(math.floor(wall), UTC).strftime("%Y-%m-%d %H:%MZ")


def moment(text: str) -> int:
    """Return the seconds since 1970 of a date and time in UTC, e.g. 2026-11-28 13:00."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def spell_start(start_s: int) -> str:
    """Return StartTime as an operator says it.

    >>> spell_start(46_800)
    '13:00Z'
    """
    return f"{start_s // 3_600:02}:{start_s % 3_600 // 60:02}Z"


def spell_span(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> [spell_span(s) for s in (7200, 5400, 90061, 42, 3601, 0.4)]
    ['2h', '1h 30min', '1d 1h', '42s', '1h', '0s']
    """
    left, parts = int(seconds), []
    for unit, size in (("d", DAY_S), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append((size, f"{count}{unit}"))
    near = [text for size, text in parts[:2] if size * 100 >= parts[0][0]]
    return " ".join(near) or "0s"
