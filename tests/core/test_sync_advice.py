"""What durations say about Run Every, and chains of two hops: R17, R25, R38."""

import math
from itertools import product

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lb_probe.core.sync_advice import (
    Hop,
    advise,
    overlaps,
    percentile,
    proposed_offset,
    proposed_run_every,
    worst_age,
)

H, M = 3_600, 60


def test_without_runs_there_is_no_advice():
    assert advise([], H) is None


@pytest.mark.parametrize(
    ("minutes", "every_m", "proposed_m"),
    [
        ([48] * 20, 60, None),  # exactly 80 %
        ([48.1] * 20, 60, 90),
        ([10] * 95 + [300] * 5, 60, None),  # 5 of 100 may be longer
        ([10] * 94 + [300] * 6, 60, 480),
        ([70], 60, 90),
        ([100], 120, 180),
        ([1_500], 1_440, 2_880),
    ],
)
def test_a_p95_above_eighty_percent_of_run_every_proposes_another(minutes, every_m, proposed_m):
    """R17."""
    found = advise([m * M for m in minutes], every_m * M)
    assert found.is_tight is (proposed_m is not None)
    assert found.proposed_s == (proposed_m and proposed_m * M)
    assert found.longest_s == max(minutes) * M
    assert found.runs == len(minutes)


def test_the_advice_is_a_sentence_with_its_numbers():
    """R17."""
    assert advise([55 * M] * 3, H).text == (
        "95 of 100 runs end within 55min, 92% of Run Every 1h: use 90min or more"
    ).replace("90min", "1h 30min")
    assert advise([6 * M] * 3, H).text == (
        "95 of 100 runs end within 6min, 10% of Run Every: that leaves idle time between runs"
    )


@given(st.floats(0, 40 * 24 * H))
def test_what_is_proposed_fits_and_is_never_below_the_guides_limit(p95):
    proposed = proposed_run_every(p95)
    assert proposed >= H
    assert p95 <= 0.8 * proposed * (1 + 1e-9)
    assert advise([p95], proposed).p95_s == p95


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_percentile_is_a_value_that_was_measured(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-6
    assert sum(v < found for v in values) <= share * len(values)


# ------------------------------------------------------------------ chains
def ever_together(a, b):
    """Try every pair of runs until both grids repeat."""
    turns = math.lcm(a.run_every_s, b.run_every_s)
    for i, j in product(
        range(-2, turns // a.run_every_s + 2), range(-2, turns // b.run_every_s + 2)
    ):
        at, other = a.first_wall + i * a.run_every_s, b.first_wall + j * b.run_every_s
        if at < other + b.lasts_s and other < at + a.lasts_s:
            return True
    return False


HOPS = st.builds(Hop, st.integers(0, 60), st.integers(1, 24), st.integers(1, 12))


@given(HOPS, HOPS)
@example(Hop(0, 12, 3), Hop(3, 12, 9))  # touch on both sides and do not overlap
def test_schedules_overlap_when_some_two_runs_do(a, b):
    """R38."""
    within = math.lcm(a.run_every_s, b.run_every_s)
    a, b = (Hop(h.first_wall % within, h.run_every_s, h.lasts_s) for h in (a, b))
    assert overlaps(a, b) is ever_together(a, b)


@given(HOPS, HOPS)
def test_the_proposed_offset_never_overlaps(a, b):
    """R38."""
    offset = proposed_offset(a, b)
    if offset is None:
        step = math.gcd(a.run_every_s, b.run_every_s)
        assert all(
            overlaps(a, Hop(a.first_wall + d, b.run_every_s, b.lasts_s)) for d in range(step)
        )
    else:
        assume(a.lasts_s + b.lasts_s + 1 <= math.gcd(a.run_every_s, b.run_every_s))
        assert not overlaps(a, Hop(a.first_wall + offset, b.run_every_s, b.lasts_s))


def test_data_at_the_end_of_two_hops_gets_as_old_as_both_together():
    """R38."""
    assert worst_age(Hop(0, 2 * H, 600), Hop(H, 4 * H, 900)) == 6 * H + 1_500
