"""What agents vouch for, what they do not, and what a move leaves behind."""

from dataclasses import replace

import pytest

from lb_probe.core import agents as ag
from lb_probe.core.agents import LOSS, MAX_AGE_S, Heard
from lb_probe.core.data_lineage import Lineage, begun
from lb_probe.core.model import Change, Group, Mode, Node, Role, Saved
from lb_probe.core.peer_report import PeerReport, parse

GROUP = Group("epmm", (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True)))
NOW, MOVED_AT = 1_000.0, 5_000.0
MOVE = Change("failover", "a", "b", MOVED_AT, "lb-probe", "")
ON_B = Saved(assigned="b", latched=True, generation=2, last_change=MOVE)

# b was promoted from a copy; a was synced from it after the move.
OLD = Lineage(100.0, 4_900.0)
TAKEN = begun(OLD, 5_001.0)
A = PeerReport(
    node="a",
    mode=Mode.STANDBY,
    state="standby",
    version="12.5",
    last_good_sync=(6_000.0, 6_100.0),
    data_reign=TAKEN.reign,
    data_until=6_000.0,
    data_suspect="",
    quarantine="",
    is_syncing=False,
    heartbeat="ok",
)
B = PeerReport(
    node="b",
    mode=Mode.PRIMARY,
    state="active",
    version="12.5",
    last_good_sync=(4_800.0, 4_900.0),
    data_reign=TAKEN.reign,
    data_until=7_000.0,
    data_fork=(OLD.reign, OLD.until),
    heartbeat="off",
)


def heard(a=A, b=B, age_s=1.0):
    reports = {"a": a, "b": b}
    return {name: Heard(one, NOW - age_s) for name, one in reports.items() if one is not None}


def words(a=A, b=B, saved=ON_B, age_s=1.0):
    return ag.words(GROUP, saved, heard(a, b, age_s), NOW)


def test_a_sync_of_the_primary_after_the_move_is_vouched_for():
    found = words()
    assert found["synced"].passed
    assert found["synced"].text == (
        "a was synced completely, 1970-01-01T01:40:00Z to 1970-01-01T01:41:40Z"
    )
    assert found["same-version"] == ag.Word(True, "a has 12.5, b has 12.5")


def test_it_is_still_vouched_for_once_the_primary_was_made_primary_again():
    """R6: sync, then swap modes, then resume."""
    again = begun(Lineage(TAKEN.reign, 6_000.0), 6_500.0)
    promoted = replace(
        A,
        mode=Mode.PRIMARY,
        data_reign=again.reign,
        data_until=again.until,
        data_fork=(again.fork_reign, again.fork_until),
    )
    assert words(a=promoted, b=replace(B, mode=Mode.STANDBY))["synced"].passed


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (replace(A, is_syncing=True), B, "a sync into a runs"),
        (replace(A, data_suspect="cut off"), B, "the data of a is suspect: cut off"),
        (replace(A, last_good_sync=None), B, "a has never been synced completely"),
        (
            replace(A, last_good_sync=(4_999.0, 5_100.0)),
            B,
            "begun before the move at 1970-01-01T01:23:20Z",
        ),
        # It copied, but from before b took over: that is not what b has.
        (replace(A, data_reign=OLD.reign), B, "but not from b since that became Primary"),
        (A, replace(B, data_reign=None), "but not from b since that became Primary"),
    ],
)
def test_what_is_no_sync_after_the_move_is_not_vouched_for(a, b, text):
    """R24, R55, X8."""
    found = words(a, b)["synced"]
    assert not found.passed
    assert text in found.text


@pytest.mark.parametrize(
    ("a", "b", "passed"),
    [
        (A, replace(B, version="12.6"), False),
        (replace(A, version=None), replace(B, version=None), False),
        (replace(A, version=""), replace(B, version=""), False),
    ],
)
def test_versions_must_be_known_and_equal(a, b, passed):
    """R74, X22."""
    assert words(a, b)["same-version"].passed is passed


def test_what_is_old_or_was_never_said_vouches_for_nothing():
    """X22."""
    assert words(age_s=MAX_AGE_S)["synced"].passed
    stale = words(age_s=MAX_AGE_S + 0.1)
    assert [word.passed for word in stale.values()] == [False, False]
    assert stale["synced"].text == "no fresh word from the agent of a and of b"
    assert words(b=None)["synced"].text == "no fresh word from the agent of b"
    assert ag.words(GROUP, ON_B, {}, NOW) == {}


def test_without_a_move_on_record_the_lineage_alone_decides():
    seen = replace(ON_B, last_change=Change("ack", "b", "b", 9_000.0, "ops", ""))
    assert words(saved=seen)["synced"].passed
    assert words(saved=Saved(assigned="a"))["synced"].passed


# ------------------------------------------------------------------ the loss
def lost(b=B, target="b", wall=5_000.0, age_s=1.0):
    return ag.loss(GROUP, target, heard(b=b, age_s=age_s), NOW, wall)


def test_the_window_is_the_time_from_the_start_of_the_last_good_sync():
    """Data-loss window: the failover's time minus the start of the last successful sync."""
    assert lost().startswith(f"{LOSS} 3 min 20 s: b was last synced completely from ")
    assert "what a took in after 1970-01-01T01:20:00Z may be missing there" in lost()
    assert lost(wall=4_000.0).startswith(f"{LOSS} 0 s: ")
    assert lost(wall=4_842.0).startswith(f"{LOSS} 42 s: ")
    assert lost(wall=12_060.0).startswith(f"{LOSS} 2 h 01 min: ")


def test_a_window_that_is_not_known_is_told_as_that():
    assert lost(replace(B, last_good_sync=None)).startswith(f"{LOSS} not known: nobody says when b")
    assert lost(age_s=60.0).startswith(f"{LOSS} not known: nobody says when b")
    suspect = replace(B, data_suspect="half a sync")
    assert lost(suspect) == f"{LOSS} not known: the data of b is suspect: half a sync"


def test_where_there_is_no_agent_or_no_move_away_nothing_is_told():
    assert lost(target="a") == ""
    assert lost(target="None") == ""


# ------------------------------------------------------------------ what is shown
def test_each_agent_is_shown_with_its_heartbeats_opinion():
    """R28: both views shown."""
    agents = heard(a=replace(A, heartbeat="failed"))
    one, two = ag.lines(GROUP, agents, NOW)
    assert one == (
        "a: 1s ago, standby (mode standby), heartbeat does not reach b,"
        " last good sync 1970-01-01T01:41:40Z, version 12.5"
    )
    assert two.startswith("b: 1s ago, active (mode primary), heartbeat is off, ")


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (PeerReport(node="a"), "a: 1s ago, unknown (mode unknown)"),
        (replace(A, quarantine="b is Primary", heartbeat=None), "quarantined: b is Primary"),
        (replace(A, data_suspect="cut off"), "data suspect: cut off"),
        (replace(A, heartbeat="sings"), "heartbeat is odd"),
    ],
)
def test_what_stands_out_is_said(report, text):
    assert text in ag.lines(GROUP, heard(a=report), NOW)[0]


def test_an_agent_that_is_silent_is_shown_as_that():
    agents = {"a": Heard(None, NOW, "no report within 2s"), "b": Heard(B, NOW - 60, "reset")}
    one, two = ag.lines(GROUP, agents, NOW)
    assert one == "a: has not been heard; no report within 2s"
    assert two.startswith("b: OLD, 60s ago, ")
    assert two.endswith(", reset")
    assert ag.lines(GROUP, {"a": Heard(None, NOW)}, NOW) == ["a: has not been heard; not asked yet"]


def test_the_api_shows_what_was_said_and_how_old_it_is():
    silent = heard() | {"a": Heard(None, NOW - 3, "reset")}
    one, two = ag.as_json(GROUP, silent, NOW)
    assert one == {"node": "a", "age_s": 3.0, "fault": "reset"}
    assert (two["heartbeat"], two["age_s"], two["fault"]) == ("off", 1.0, "")
    assert parse(two | {"version_of_report": 1}) == B
    assert ag.as_json(GROUP, {"b": Heard(B, NOW)}, NOW)[0]["node"] == "b"


def test_what_a_move_left_behind_is_its_time_minus_the_start_of_the_last_good_sync():
    assert ag.left_behind(ON_B, heard(age_s=9_999.0), "a").startswith(
        f"{LOSS} 3 min 20 s: b was last synced completely from 1970-01-01T01:20:00Z to"
    )
    assert ag.left_behind(replace(ON_B, assigned="a"), heard(), "a") == ""
    assert ag.left_behind(ON_B, heard(b=None), "a") == ""
    unsynced = heard(b=replace(B, last_good_sync=None))
    assert ag.left_behind(ON_B, unsynced, "a") == (
        f"{LOSS} not known: nobody says when b was last synced"
    )
    acked = replace(ON_B, last_change=replace(MOVE, kind="ack", source="b"))
    assert ag.left_behind(acked, heard(), "a") == ""
    known = heard(b=replace(B, promoted_at=5_001.0))
    assert ag.left_behind(acked, known, "a").startswith(f"{LOSS} 3 min 21 s: ")
    # And a sync before it does not become one after it because somebody said ack.
    early = replace(A, last_good_sync=(4_990.0, 5_050.0))
    text = words(a=early, b=replace(B, promoted_at=5_001.0), saved=acked)["synced"].text
    assert "begun before the move at 1970-01-01T01:23:21Z" in text


def test_what_follows_a_dead_peer_is_told_of_a_standby():
    waits = replace(B, mode=Mode.STANDBY, heartbeat="ok", then="flip-then-promote")
    (line,) = ag.lines(GROUP, heard(a=None, b=waits), NOW)
    assert "heartbeat reaches a, promotes itself once traffic is here" in line
    (line,) = ag.lines(GROUP, heard(a=None, b=replace(waits, mode=Mode.PRIMARY)), NOW)
    assert "promotes itself" not in line


def test_a_node_that_turns_clients_away_is_shown_everywhere():
    """R123: in the line of its agent, and as something to see to where it has the traffic."""
    closed = replace(B, takes_clients=False)
    (line,) = ag.lines(GROUP, heard(a=None, b=closed), NOW)
    assert "TURNS NEW CLIENTS AWAY" in line
    text = ag.turned_away("b", heard(b=closed), NOW)
    assert text.startswith("b has the traffic and turns new clients away; when that is over:")
    assert ag.turned_away("a", heard(b=closed), NOW) == ""
    assert ag.turned_away(None, heard(b=closed), NOW) == ""
    assert ag.turned_away("b", heard(b=replace(B, takes_clients=True)), NOW) == ""
    assert ag.turned_away("b", heard(b=closed, age_s=60.0), NOW) == ""
