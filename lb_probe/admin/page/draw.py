"""The numbers behind the two drawings: a line of latencies, and a band of conditions.

Only geometry and words; the templates write the SVG. Nothing rests on colour alone: a failed probe
is a cross, and the graver a condition, the higher its piece of the band.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lb_probe.admin.page.levels import Level, level_of
from lb_probe.admin.page.traces import ABSENT, UNKNOWN, WINDOW_S, Sample, Stretch

PROBES = 60
SPARK_WIDTH = 180
SPARK_HEIGHT = 28
BAND_WIDTH = 720
BAND_HEIGHT = 24
_PAD = 3.0


@dataclass(frozen=True, slots=True)
class Spark:
    """The latest probes of a page as a line.

    Attributes:
        line: Path data of the passed probes; broken where one failed.
        crosses: Where one failed: path data.
        words: What a reader that sees no picture is told.
    """

    line: str
    crosses: str
    words: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a band; lengths in the units of its view box."""

    x: float
    y: float
    width: float
    height: float
    css: str
    words: str


@dataclass(frozen=True, slots=True)
class Band:
    """The conditions of the last hours, side by side."""

    pieces: tuple[Piece, ...]
    words: str


def spark(samples: Sequence[Sample]) -> Spark:
    """Draw the latest probes; the slowest of them reaches the top."""
    latest = samples[-PROBES:]
    if not latest:
        return Spark("", "", "not probed yet")
    step = (SPARK_WIDTH - 2 * _PAD) / (PROBES - 1)
    start = PROBES - len(latest)
    top = max(max((s.took_s for s in latest if s.passed), default=0.0), 1e-3)
    room = SPARK_HEIGHT - 2 * _PAD
    line: list[str] = []
    crosses: list[str] = []
    pen = "M"
    for place, sample in enumerate(latest, start=start):
        x = _PAD + place * step
        if sample.passed:
            y = _PAD + room * (1 - sample.took_s / top)
            line.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
            y = SPARK_HEIGHT - 2 * _PAD
            crosses.append(f"M{x - 2:.1f} {y - 2:.1f}l4 4m0 -4l-4 4")
    return Spark("".join(line), "".join(crosses), _spark_words(latest))


def _spark_words(latest: Sequence[Sample]) -> str:
    passed = sorted(s.took_s for s in latest if s.passed)
    failed = len(latest) - len(passed)
    words = f"{len(latest)} probes, {failed} failed"
    if passed:
        words += f", median {milliseconds(passed[len(passed) // 2])}"
        words += f", slowest {milliseconds(passed[-1])}"
    return words


def milliseconds(seconds: float) -> str:
    """Return a time as people read it.

    >>> milliseconds(0.0042), milliseconds(0.25), milliseconds(1.5)
    ('4.2 ms', '250 ms', '1.50 s')
    """
    if seconds >= 1.0:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def lasted(seconds: float) -> str:
    """Return a stretch of time in its two largest units.

    >>> lasted(42.4), lasted(3700), lasted(90061)
    ('42 s', '1 h 1 m', '1 d 1 h')
    """
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def band(stretches: Sequence[Stretch], now: float) -> Band:
    """Draw what was the case in the last hours, on a scale that ends now.

    Args:
        now: UTC seconds since 1970.
    """
    begin, pieces, words = now - WINDOW_S, [], []
    for one in stretches:
        since = max(one.since, begin)
        x = BAND_WIDTH * (since - begin) / WINDOW_S
        width = max(BAND_WIDTH * (one.until - since) / WINDOW_S, 1.0)
        height = BAND_HEIGHT * _HEIGHTS[_level(one.condition)]
        told = f"{_CALLED.get(one.condition, one.condition)} for {lasted(one.until - one.since)}"
        css = "absent" if one.condition in _CALLED else _level(one.condition).css
        x = min(x, BAND_WIDTH - 1.0)
        pieces.append(
            Piece(round(x, 1), round(BAND_HEIGHT - height, 1), round(width, 1), height, css, told)
        )
        words.append(told)
    latest = ", then ".join(words[-5:])
    return Band(tuple(pieces), f"Last 6 hours: {latest}")


def _level(condition: str) -> Level:
    return Level.WAIT if condition in _CALLED else level_of(condition)


_CALLED = {ABSENT: "nobody watched", UNKNOWN: "not on record"}
_HEIGHTS = {Level.WELL: 0.35, Level.WAIT: 0.2, Level.LOOK: 0.55, Level.MOVED: 0.75, Level.DOWN: 1.0}
