"""What the durations of past runs say about a schedule, and how old data gets along a chain.

Durations are seconds of runs that succeeded; the first copy of everything is left out, because the
later ones carry changes only (R25).

Source: guide lines 77, 310 and 154; R17, R25, R38.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lb_probe.core.sync_schedule import DAY_S, spell_span

IDLE_SHARE = 0.8  # a p95 above this share of Run Every leaves too little idle time
# What an operator would set, from the guide's shortest on.
_USUAL_S = tuple(minutes * 60 for minutes in (60, 90, 120, 180, 240, 360, 480, 720, 1_440))


@dataclass(frozen=True, slots=True)
class Advice:
    """How runs fit their schedule; all in seconds.

    Attributes:
        runs: How many it is made of.
        is_tight: p95 is above 80 % of Run Every.
        proposed_s: The Run Every to use instead; None where the present one will do.
        text: The same in a sentence.
    """

    runs: int
    p50_s: float
    p95_s: float
    longest_s: float
    is_tight: bool
    proposed_s: int | None
    text: str


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed.

    >>> percentile([5, 1, 4, 2, 3], 0.5), percentile(range(1, 101), 0.95), percentile([7], 0.95)
    (3, 95, 7)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def proposed_run_every(p95_s: float) -> int:
    """Return the shortest usual Run Every of which this p95 is 80 % or less.

    >>> [proposed_run_every(minutes * 60) // 60 for minutes in (1, 48, 49, 70, 1500)]
    [60, 60, 90, 90, 2880]
    """
    needed = p95_s / IDLE_SHARE
    fitting = [usual for usual in _USUAL_S if usual >= needed]
    return fitting[0] if fitting else math.ceil(needed / DAY_S) * DAY_S


def advise(durations_s: Sequence[float], run_every_s: int) -> Advice | None:
    """Return what the runs so far say about this Run Every; None without any run."""
    if not durations_s:
        return None
    p50, p95 = percentile(durations_s, 0.5), percentile(durations_s, 0.95)
    is_tight = p95 > IDLE_SHARE * run_every_s
    proposed = proposed_run_every(p95) if is_tight else None
    said = f"95 of 100 runs end within {spell_span(p95)}, {p95 / run_every_s:.0%} of Run Every"
    if proposed is None:
        text = f"{said}: that leaves idle time between runs"
    else:
        text = f"{said} {spell_span(run_every_s)}: use {spell_span(proposed)} or more"
    longest = max(durations_s)
    return Advice(len(durations_s), p50, p95, longest, is_tight, proposed, text)


# ------------------------------------------------------------------ a chain of two hops
@dataclass(frozen=True, slots=True)
class Hop:
    """The runs of one node, as another one has to reckon with them.

    Attributes:
        first_wall: A slot, UTC seconds since 1970.
        run_every_s: Seconds from slot to slot, whole.
        lasts_s: How long a run lasts, at most.
    """

    first_wall: int
    run_every_s: int
    lasts_s: float


def overlaps(upstream: Hop, downstream: Hop) -> bool:
    """Tell whether some run of one is ever under way together with some run of the other.

    A node further down must not read from one that is being written to (R38). Both grids repeat
    for ever, so what matters is the distance of their slots modulo what both are multiples of.

    >>> overlaps(Hop(0, 7200, 600), Hop(3600, 7200, 600)), overlaps(Hop(0, 60, 9), Hop(7, 90, 9))
    (False, True)
    """
    step = math.gcd(upstream.run_every_s, downstream.run_every_s)
    distance = (downstream.first_wall - upstream.first_wall) % step
    return distance < upstream.lasts_s or step - distance < downstream.lasts_s


def proposed_offset(upstream: Hop, downstream: Hop) -> int | None:
    """Return how long after an upstream slot the downstream ones should lie, in whole seconds.

    Returns:
        The middle of what never overlaps; None where every offset does at some time: then one
        Run Every must become a multiple of the other, or longer.

    >>> proposed_offset(Hop(0, 7200, 600), Hop(0, 7200, 1200))
    3300
    """
    step = math.gcd(upstream.run_every_s, downstream.run_every_s)
    spare = step - upstream.lasts_s - downstream.lasts_s
    return math.floor(upstream.lasts_s + spare / 2) if spare >= 0 else None


def worst_age(upstream: Hop, downstream: Hop) -> float:
    """Return the oldest that data gets at the end of two hops while every run succeeds."""
    return upstream.run_every_s + upstream.lasts_s + downstream.run_every_s + downstream.lasts_s
