"""When a Standby copies: R10, R19, R20, R21, R25, R88, R89, R90, and clocks that are set."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_probe.core import sync_schedule as sync
from lb_probe.core.sync_schedule import DAY_S, Schedule, look, moment, saved, spell

H = 3_600
NOON = moment("2026-11-28 12:00")


# ------------------------------------------------------------------ what an operator says
@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("13:00Z", "13:00Z"),
        ("13:00 UTC", "13:00Z"),
        ("13:00 GMT", "13:00Z"),
        ("13:00+00:00", "13:00Z"),
        ("14:30+01:00", "13:30Z"),
        ("00:30+02:00", "22:30Z"),  # the day before, in UTC
        ("23:30-05:30", "05:00Z"),
        ("00:00Z", "00:00Z"),
        ("23:59Z", "23:59Z"),
    ],
)
def test_a_start_time_is_understood_and_shown_in_utc(text, start):
    """R88."""
    assert sync.spell_start(sync.parse_start(text)) == start


@pytest.mark.parametrize(
    "text",
    ["13:00", "1:00Z", "24:00Z", "13:60Z", "13:00 CET", "13:00z", "13:00:00Z", "13:00+15:00",
     "1pm UTC", "", "13:00Z ", "13:00+1", "\u0661\u0663:00Z"],
)  # fmt: skip
def test_a_time_without_a_zone_or_that_is_none_is_refused(text):
    """R88: nobody's summer time is guessed."""
    with pytest.raises(ValueError, match="without a zone is not taken"):
        sync.parse_start(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59m", 3_540), ("60m", 3_600), ("90 minutes", 5_400), ("1 minute", 60), ("2h", 7_200),
     ("1 hour", 3_600), ("36 hours", 129_600), ("1d", DAY_S), ("1 day", DAY_S),
     ("31 days", 31 * DAY_S)],
)  # fmt: skip
def test_run_every_takes_minutes_hours_or_days(text, seconds):
    """R90."""
    assert sync.parse_run_every(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "2", "0h", "-2h", "1.5h", "2w", "60s", "32d", "99999d", "2h30m", "h", "2 H", "\u0662h"],
)
def test_a_run_every_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="minutes, hours or days"):
        sync.parse_run_every(text)


def test_less_than_sixty_minutes_is_too_often():
    """R10."""
    assert sync.is_too_often(sync.parse_run_every("59m"))
    assert not sync.is_too_often(sync.parse_run_every("60m"))


def test_a_schedule_without_a_run_every_is_none():
    with pytest.raises(ValueError, match="use more than 0"):
        Schedule(0, 0, 0.0)


# ------------------------------------------------------------------ the first run after a save
@pytest.mark.parametrize(
    ("start", "now", "first"),
    [
        ("13:00Z", "2026-11-28 14:00", "2026-11-29 13:00Z"),  # the guide's own example
        ("13:00Z", "2026-11-28 12:59:59", "2026-11-28 13:00Z"),
        ("13:00Z", "2026-11-28 13:00:00", "2026-11-29 13:00Z"),  # strictly after
        ("00:00Z", "2026-11-28 00:00:00", "2026-11-29 00:00Z"),
        ("00:00Z", "2026-11-28 23:59:59", "2026-11-29 00:00Z"),
        ("13:00Z", "2026-11-30 14:00", "2026-12-01 13:00Z"),  # month
        ("13:00Z", "2026-12-31 14:00", "2027-01-01 13:00Z"),  # year
        ("13:00Z", "2028-02-28 14:00", "2028-02-29 13:00Z"),  # leap day
        ("13:00Z", "2027-02-28 14:00", "2027-03-01 13:00Z"),
        ("13:00Z", "2100-02-28 14:00", "2100-03-01 13:00Z"),  # no leap year
        ("02:30Z", "2027-03-28 00:00", "2027-03-28 02:30Z"),  # summer time begins in Europe
        ("02:30Z", "2027-10-31 03:00", "2027-11-01 02:30Z"),  # and ends
    ],
)
def test_the_first_run_is_the_next_start_time_strictly_after_the_save(start, now, first):
    """R20."""
    wall = moment(now)
    schedule = saved(sync.parse_start(start), 2 * H, wall)
    assert spell(schedule.first_wall) == first
    assert look(schedule, None, wall) == sync.Look(None, 0, None, schedule.first_wall)


@given(start=st.integers(0, DAY_S - 1), now=st.floats(0, 4e9))
def test_the_first_run_is_at_start_time_and_within_a_day(start, now):
    """R20."""
    first = sync.first_after(start, now)
    assert first % DAY_S == start
    assert now < first <= now + DAY_S


def test_every_save_moves_the_next_run_unless_the_grid_is_kept():
    """R89: 15:00 was next; a save of the same numbers makes it tomorrow's 13:00."""
    before = saved(13 * H, 2 * H, NOON)
    handled, now = before.first_wall, NOON + 2 * H
    assert spell(look(before, handled, now).next_wall) == "2026-11-28 15:00Z"
    assert spell(saved(13 * H, 2 * H, now).first_wall) == "2026-11-29 13:00Z"
    kept = sync.saved_on_grid(before, 2 * H, handled, now)
    assert kept == replace(before, saved_wall=now)
    assert spell(look(kept, handled, now).next_wall) == "2026-11-28 15:00Z"


def test_another_run_every_on_the_same_grid_counts_from_its_next_slot():
    before = saved(13 * H, 2 * H, NOON)
    kept = sync.saved_on_grid(before, 3 * H, before.first_wall, NOON + 2 * H)
    assert [spell(kept.first_wall), kept.run_every_s] == ["2026-11-28 15:00Z", 3 * H]


@pytest.mark.parametrize(
    ("last_good", "is_wide"), [(NOON - 3 * H, False), (NOON - 3 * H - 1, True), (None, False)]
)
def test_a_gap_above_twice_run_every_is_wide(last_good, is_wide):
    """R19: the next run is at 13:00, Run Every 2h: 4h are still right."""
    assert sync.is_wide(NOON + H, last_good, NOON, 2 * H) is is_wide
    assert sync.is_wide(NOON + 5 * H, None, NOON, 2 * H)


# ------------------------------------------------------------------ the runs after it
def runs(schedule, until, *, handled=None, step_s=60, now=NOON):
    """Look every `step_s` and return the slots that were due, with their moments."""
    found = []
    while now <= until:
        seen = look(schedule, handled, now)
        if seen.due_wall is not None:
            found.append((now, seen))
        handled = seen.handled_wall
        now += step_s
    return found


def test_run_every_counts_from_the_first_run_and_not_from_each_day():
    """R21: the guide's 13:00 and 7 h are 20:00, 03:00, 10:00, 17:00, never 13:00 again."""
    found = runs(saved(13 * H, 7 * H, NOON), NOON + 30 * H)
    assert [spell(seen.due_wall)[-6:] for _, seen in found] == [
        "13:00Z", "20:00Z", "03:00Z", "10:00Z", "17:00Z"
    ]  # fmt: skip
    assert {(seen.missed, now - seen.due_wall) for now, seen in found} == {(0, 0)}


def test_after_downtime_one_run_makes_up_for_all_and_the_next_is_on_the_grid():
    """R21."""
    schedule = saved(13 * H, 2 * H, NOON)
    up_again = NOON + 30 * H + 1_800  # 18:30 the next day
    seen = look(schedule, schedule.first_wall, up_again)
    assert spell(seen.due_wall) == "2026-11-29 17:00Z"
    assert seen.missed == 13
    assert sync.is_late(seen.due_wall, seen.missed, up_again)
    assert spell(seen.next_wall) == "2026-11-29 19:00Z"
    assert look(schedule, seen.handled_wall, up_again).due_wall is None


def test_the_first_run_is_made_up_for_as_well():
    seen = look(saved(13 * H, 2 * H, NOON), None, NOON + 4 * H)
    assert (spell(seen.due_wall), seen.missed) == ("2026-11-28 15:00Z", 1)


def test_a_run_that_begins_a_minute_late_keeps_its_slot():
    assert not sync.is_late(NOON, 0, NOON + 60)
    assert sync.is_late(NOON, 0, NOON + 61)
    assert sync.is_late(NOON, 1, NOON)


# ------------------------------------------------------------------ a wall clock that is set
def test_a_clock_set_forward_is_one_late_run():
    schedule = saved(13 * H, 2 * H, NOON)
    seen = look(schedule, schedule.first_wall, NOON + 9 * H)
    assert (spell(seen.due_wall), seen.missed) == ("2026-11-28 21:00Z", 3)


def test_a_clock_set_back_a_little_repeats_nothing():
    """13:00 ran; the clock is put to 12:59:59.5, and to 12:00: 15:00 stays next."""
    schedule = saved(13 * H, 2 * H, NOON)
    for now in (schedule.first_wall - 0.5, NOON):
        assert look(schedule, schedule.first_wall, now) == sync.Look(
            None, 0, schedule.first_wall, schedule.first_wall + 2 * H
        )


def test_a_clock_set_back_by_years_waits_no_longer_than_run_every():
    schedule = saved(13 * H, 2 * H, NOON)
    now = moment("1999-12-31 23:59")
    seen = look(schedule, schedule.first_wall, now)
    assert seen.due_wall is None
    assert spell(seen.next_wall) == "2000-01-01 01:00Z"  # on the grid that the schedule had
    assert look(schedule, seen.handled_wall, seen.next_wall).due_wall == seen.next_wall


def test_a_clock_set_back_by_more_than_half_of_run_every_waits_no_longer_than_that():
    schedule = saved(13 * H, 2 * H, NOON)
    seen = look(schedule, schedule.first_wall, NOON - 4 * H)
    assert (spell(seen.next_wall), seen.due_wall) == ("2026-11-28 09:00Z", None)


def test_a_clock_set_back_before_the_first_run_does_not_put_it_off_by_years():
    schedule = saved(13 * H, 2 * H, NOON)
    seen = look(schedule, None, moment("1999-12-31 12:30"))
    assert spell(seen.next_wall) == "1999-12-31 13:00Z"


@given(
    first=st.integers(10**9, 10**9 + 10 * DAY_S),
    every=st.integers(1, 3 * DAY_S),
    hands=st.lists(
        st.tuples(st.integers(0, 3), st.floats(-5e8, 5e8), st.floats(0, 2 * DAY_S)), max_size=25
    ),
)
def test_whatever_a_clock_does_runs_lie_on_the_grid_and_none_waits_for_long(first, every, hands):
    """R21: after any look with nothing due, an untouched clock reaches a run within 1.5 Run Every.

    `hands` are the kind of a step (0: none), its size, and how long the agent then looks away.
    """
    schedule = Schedule(first, every, first - 1.0)
    now, handled, ran = float(first), None, []
    for kind, step, away in hands:
        now = max(0.0, now + (step if kind == 0 else 0.0)) + away
        seen = look(schedule, handled, now)
        if seen.due_wall is None:
            assert now < seen.next_wall
            assert handled is None or seen.next_wall - now <= 1.5 * every
            assert handled is not None or seen.next_wall - now <= max(DAY_S, first - now + 1)
        else:
            assert seen.due_wall <= now < seen.next_wall == seen.due_wall + every
            assert seen.due_wall == seen.handled_wall
            assert seen.missed >= 0
            ran.append(seen.due_wall)
        assert (seen.next_wall - first) % every == 0 or handled is None
        handled = seen.handled_wall
        assert look(schedule, handled, now).due_wall is None  # a slot is dealt with once
    assert all((slot - first) % every == 0 for slot in ran)


@given(st.integers(60, 2 * DAY_S), st.lists(st.floats(0, 3 * DAY_S), max_size=40))
def test_without_steps_every_slot_is_run_once_or_missed_once(every, waits):
    """R21: what was run and what was missed together is every slot that passed."""
    schedule = saved(13 * H, every, NOON)
    now, handled, ran, missed = float(NOON), None, [], 0
    for wait in waits:
        now += wait
        seen = look(schedule, handled, now)
        handled = seen.handled_wall
        if seen.due_wall is not None:
            ran.append(seen.due_wall)
            missed += seen.missed
    assert all(a < b for a, b in pairwise(ran))
    passed = int((now - schedule.first_wall) // every) + 1 if now >= schedule.first_wall else 0
    assert len(ran) + missed == passed


# ------------------------------------------------------------------ skips
def test_runs_of_seventy_minutes_every_sixty_count_as_skips_in_a_row():
    """R18: every other slot is skipped, and the run between them does not fit."""
    count, seen = 0, []
    for _ in range(3):
        count = sync.skips(count, skipped=False, fits=False)
        count = sync.skips(count, skipped=True, fits=False)
        seen.append(count)
    assert seen == [1, 2, 3]
    assert seen[1] >= sync.ALARM_AFTER_SKIPS
    assert sync.skips(count, skipped=False, fits=True) == 0


# ------------------------------------------------------------------ words
@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1min"), (3_600, "1h"), (5_400, "1h 30min"), (3_630, "1h"),
     (DAY_S, "1d"), (DAY_S + 60, "1d"), (DAY_S + 7_200, "1d 2h"), (61, "1min 1s")],
)  # fmt: skip
def test_a_time_is_told_in_units_that_matter(seconds, text):
    assert sync.spell_span(seconds) == text
