"""What a sync says of itself, and when it was good: R24, R85, R91."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_probe.core.sync_progress import MOST_STEPS, Progress, Step, closed, fault, heard


def told(*lines, marker="sync: complete"):
    """A line each second."""
    progress = Progress()
    for at, line in enumerate(lines):
        progress = heard(progress, line, float(at), marker)
    return progress


def test_steps_follow_each_other_and_each_has_its_time():
    """R85."""
    found = told("sync: step files", "copying x", "sync: step database", "sync: bytes 12",
                 "sync: changed 0", "sync: progress 99", "sync: complete")  # fmt: skip
    assert found == Progress(
        (Step("files", 0.0, "done", 2.0), Step("database", 2.0, "done", 4.0)), 99, 12, 0, True
    )
    assert fault(found, "") == ""


def test_a_run_in_which_nothing_had_changed_is_good():
    """R91."""
    assert fault(told("sync: changed 0", "sync: complete"), "") == ""


@pytest.mark.parametrize(
    ("lines", "how", "says"),
    [
        (["sync: step files"], "", "never printed 'sync: complete'"),
        ([], "", "the copy may be half done"),
        (["sync: complete"], "exit status 3", "exit status 3"),
        (["sync: complete"], "ended by signal 9", "ended by signal 9"),
        (["sync: failed disk full", "sync: complete"], "", "it said: disk full"),
        (["sync: failed disk full"], "exit status 1", "exit status 1; it said: disk full"),
        (["sync: completed"], "", "never printed"),
        (["all is sync: complete"], "", "never printed"),
    ],
)
def test_only_status_0_with_the_marker_is_a_good_run(lines, how, says):
    """R24."""
    assert says in fault(told(*lines), how)


def test_the_marker_may_be_a_line_that_a_program_prints_anyway():
    found = told("sync: step x", "sync: complete", " Replication finished. ",
                 marker="Replication finished.")  # fmt: skip
    assert found.is_complete
    assert not told("sync: complete", marker="Replication finished.").is_complete


def test_a_failed_step_stays_failed():
    found = told("sync: step files", "sync: failed no space", "sync: step more")
    assert found.steps == (Step("files", 0.0, "failed", 1.0, "no space"), Step("more", 2.0))
    assert closed(found, "failed", 5.0).steps[-1] == Step("more", 2.0, "failed", 3.0)


@pytest.mark.parametrize(
    "line",
    ["sync: bytes -1", "sync: bytes 1e9", "sync: bytes 99999999999999999999", "sync: progress 101",
     "sync: changed \u0661", "sync: bytes", "sync: step ", "sync: dance", "sync:step x", ""],
)  # fmt: skip
def test_lines_that_mean_nothing_change_nothing(line):
    assert told(line) == Progress()


def test_a_flood_of_steps_is_kept_to_the_first_hundred():
    found = told(*(f"sync: step {n}" for n in range(500)), "sync: complete")
    assert len(found.steps) == MOST_STEPS
    assert {step.result for step in found.steps} == {"done"}


@given(st.lists(st.one_of(st.text(), st.text().map(lambda t: f"sync: step {t}"))))
def test_whatever_it_prints_is_taken_and_can_be_shown(lines):
    found = told(*lines)
    assert all(step.name.isprintable() and len(step.name) <= 200 for step in found.steps)
    assert all(step.result for step in found.steps[:-1])
