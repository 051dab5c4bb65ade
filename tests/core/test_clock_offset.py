"""How far two clocks are apart, from the four stamps of an exchange."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_probe.core.clock_offset import (
    ImpossibleClockError,
    Limits,
    Offset,
    by_date,
    contradiction,
    measure,
    offset,
    severity,
    surely_apart,
)
from lb_probe.core.peer_report import ClockStamps

SECONDS = st.floats(0, 5, allow_nan=False)


@given(ahead_s=st.floats(-1e6, 1e6), out_s=SECONDS, held_s=SECONDS, back_s=SECONDS)
def test_the_true_offset_is_always_within_the_bound(ahead_s, out_s, held_s, back_s):
    """R11: however uneven the two ways are."""
    asked_at = 1.7e9
    heard_at = asked_at + out_s + ahead_s
    answered_at = heard_at + held_s
    received_at = asked_at + out_s + held_s + back_s
    found = offset(ClockStamps(asked_at, heard_at, answered_at, received_at))
    assert abs(found.seconds - ahead_s) <= found.bound_s + 1e-5
    assert found.bound_s == pytest.approx((out_s + back_s) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("stamps", "found"),
    [
        (ClockStamps(100.0, 101.0, 100.5, 100.1), "stamped 0.500s before its question was heard"),
        (ClockStamps(100.0, 101.0, 103.0, 100.1), "stamps 2.000s apart in an exchange of 0.100s"),
    ],
)
def test_stamps_that_cannot_be_true_are_refused(stamps, found):
    """A peer that lies about its clock: it steps back, or takes longer than it took."""
    with pytest.raises(ImpossibleClockError, match=found):
        offset(stamps)


def test_the_closest_of_several_exchanges_is_taken():
    """The first one also paid for the handshake."""
    slow = ClockStamps(100.0, 102.5, 102.5, 100.6)
    quick = ClockStamps(101.0, 103.01, 103.01, 101.02)
    assert measure([slow, quick]) == Offset(2.0, 0.01)
    assert str(measure([slow, quick])) == "+2.000s, known to 0.010s"
    with pytest.raises(ValueError, match="no exchange"):
        measure([])


def test_a_clock_that_says_two_times_within_moments_is_refused():
    """A peer that lies about its clock, or whose clock is being stepped."""
    now = ClockStamps(100.0, 100.0, 100.0, 100.01)
    then = ClockStamps(101.0, 111.0, 111.0, 101.01)
    with pytest.raises(ImpossibleClockError, match="wanted one clock that runs evenly"):
        measure([now, then])
    with pytest.raises(ImpossibleClockError, match="moments apart"):
        measure([then, now])


@pytest.mark.parametrize(
    ("seconds", "bound_s", "word"),
    [
        (0.5, 0.01, "ok"),
        (1.0, 0.01, "ok"),
        (-1.001, 0.01, "warning"),
        (5.0, 0.01, "warning"),
        (-10.0, 0.01, "error"),
        (0.0, 1.5, "warning"),
    ],
)
def test_a_difference_is_told_from_its_limit_on(seconds, bound_s, word):
    """R11: warn above 1 s, error above 5 s; too rough to tell is a warning."""
    assert severity(Offset(seconds, bound_s), Limits()) == word


def test_two_ends_that_measure_differently_contradict_each_other():
    """A clock that tells one thing to one and another to the other."""
    assert contradiction(Offset(2.0, 0.01), Offset(-2.05, 0.01)) == ""
    assert "found +2.000s from here and +2.000s from there" in contradiction(
        Offset(2.0, 0.01), Offset(2.0, 0.01)
    )


@given(ahead_s=st.floats(-1e6, 1e6), made_s=SECONDS, back_s=SECONDS)
def test_the_date_of_an_answer_is_coarse_and_never_further_off_than_it_says(
    ahead_s, made_s, back_s
):
    """R11: whole seconds, cut off, some time between question and answer."""
    asked_at = 1.7e9
    date_wall = float(int(asked_at + made_s + ahead_s))
    found = by_date(date_wall, asked_at, asked_at + made_s + back_s)
    assert abs(found.seconds - ahead_s) <= found.bound_s + 1e-5


def test_two_clocks_are_apart_only_beyond_what_is_known_of_each():
    assert surely_apart(Offset(10.0, 0.5), Offset(7.0, 0.5)) == 2.0
    assert surely_apart(Offset(0.4, 0.5), Offset(-0.4, 0.5)) == 0.0
