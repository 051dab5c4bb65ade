"""What a message says, and that nobody's words can become more than words."""

import pytest

from lb_probe.core.notice import CLASSES, USUAL, Notice, Severity, Stage, lines_of, one_line


def notice(**more) -> Notice:
    return Notice(
        **{"key": "k", "event_class": "unprotected", "title": "t", "at_wall": 0.0, **more}
    )


def test_every_class_of_r97_has_a_name_and_a_severity():
    """R97: FAILED_OVER, BLOCKED, PRIMARY_RETURNED and the rest; each is told by somebody."""
    r97 = {
        *("failed-over", "blocked", "primary-returned", "dual-primary", "not-serving", "drift"),
        *("hold", "hold-expiring", "sync-completed", "sync-failed", "rpo-exceeded", "clock"),
        *("version", "trust", "prober", "latched-reminder", "promoted"),
    }
    assert r97 <= CLASSES.keys()
    assert {row.by for row in CLASSES.values()} == {"prober", "agent"}


def test_a_channel_that_names_no_class_hears_everything_but_good_syncs():
    """R94, R95: failures and failovers are on by default, completions are not."""
    assert set(CLASSES) - set(USUAL) == {"sync-completed", "test"}


def test_what_is_over_or_seen_wakes_nobody():
    assert notice(event_class="not-serving", stage=Stage.OPEN).gravity is Severity.CRITICAL
    assert notice(event_class="not-serving", stage=Stage.OVER).gravity is Severity.INFO
    assert notice(event_class="not-serving", stage=Stage.SEEN).gravity is Severity.INFO
    assert notice(severity=Severity.CRITICAL).gravity is Severity.CRITICAL


def test_the_runbook_heading_is_the_notices_own_or_its_classs():
    assert notice().heading == "unprotected"
    assert notice(runbook="no-standby").heading == "no-standby"


def test_only_what_is_known_is_said_and_in_the_order_of_the_questions():
    told = notice(why="it failed", do="lb-probe ack epmm --reason '...'")
    assert lines_of(told, "https://wiki/runbook#x") == [
        "When: 1970-01-01 00:00:00 UTC",
        "Why:  it failed",
        "Do:   lb-probe ack epmm --reason '...'",
        "More: https://wiki/runbook#x",
    ]


@pytest.mark.parametrize("bad", ["\r\n", "\n", "\u2028", "\x85", "\x00", "\x1b", "\u202e"])
def test_no_line_begins_inside_other_peoples_words(bad):
    """Header injection through names and reasons."""
    assert one_line(f"a{bad}Bcc: b") == "a Bcc: b"
    (line,) = lines_of(notice(why=f"a{bad}Do:   rm"))[1:]
    assert line == "Why:  a Do: rm"
