"""The heartbeat's arithmetic, against the window that the guide's numbers give."""

import random

import pytest

from lb_probe.core.heartbeat import Beat, Controls, Word
from lb_probe.core.timing import Promotion, promotion_window

CONTROLS = Controls(interval_s=60, failures=3, recheck_s=10, timeout_s=5)


def words(pattern: str) -> list[str]:
    beat, said = Beat(0.0), []
    for one in pattern:
        if one == "L":  # not made: this machine could not
            beat = beat.hindered(ended_at=beat.due_at, controls=CONTROLS)
        else:
            beat = beat.after(
                passed=one == "S", started_at=beat.due_at, ended_at=beat.due_at, controls=CONTROLS
            )
        said.append(beat.word(CONTROLS).value)
    return said


def test_one_success_begins_the_count_anew():
    """R62."""
    assert words("FFSFFF") == ["failing", "failing", "ok", "failing", "failing", "failed"]
    assert words("FFFFS") == ["failing", "failing", "failed", "failed", "ok"]
    assert Beat(0.0).word(CONTROLS) is Word.WAITING


def test_what_this_machine_could_not_ask_is_no_failure_and_ends_the_row_of_them():
    """X15; a peer that counted as dead before does so until it answers."""
    assert words("FFLF") == ["failing", "failing", "waiting", "failing"]
    assert words("SLLL") == ["ok", "waiting", "waiting", "waiting"]
    assert words("FFFLS") == ["failing", "failing", "failed", "failed", "ok"]
    assert Beat(0.0).hindered(ended_at=7.0, controls=CONTROLS).due_at == 17.0


def test_attempts_are_an_interval_apart_and_a_recheck_after_a_failure():
    """R61, R63."""
    beat, starts = Beat(0.0), []
    for passed, took in [(True, 0.1), (True, 70), (False, 5), (False, 0), (True, 1), (True, 0)]:
        starts.append(beat.due_at)
        end = beat.due_at + took
        beat = beat.after(passed=passed, started_at=beat.due_at, ended_at=end, controls=CONTROLS)
    assert starts == [0, 60, 130, 145, 155, 215]
    assert beat.due_at == 275


@pytest.mark.parametrize("controls", [CONTROLS, Controls(30, 1, 10, 5), Controls(5, 4, 1, 2)])
def test_a_peer_is_dead_within_the_window_that_the_lints_compute(controls):
    """Fact 3: (N-1)R to I + t + (N-1)(R+t) after the fault, both ends reached."""
    window = promotion_window(
        Promotion(controls.interval_s, controls.failures, controls.recheck_s, controls.timeout_s)
    )
    rng, taken = random.Random(7), []
    for attempt in range(2000):
        # The fault comes anywhere between two attempts; a dead peer refuses at once or is silent.
        died_at = (
            (0.0, controls.interval_s - 1e-9)[attempt]
            if attempt < 2
            else rng.uniform(0, controls.interval_s)
        )
        silent = attempt == 0 or (attempt > 1 and rng.random() < 0.5)
        beat = Beat(0.0).after(passed=True, started_at=0.0, ended_at=0.0, controls=controls)
        while beat.word(controls) is not Word.FAILED:
            end = beat.due_at + (controls.timeout_s if silent else 0.0)
            beat = beat.after(passed=False, started_at=beat.due_at, ended_at=end, controls=controls)
        assert beat.asked_at is not None
        taken.append(beat.asked_at - died_at)
    assert window.least_s - 1e-6 <= min(taken) <= window.least_s + 1e-6
    assert window.most_s - 1e-6 <= max(taken) <= window.most_s + 1e-6
