"""What people and programs are shown: DESIGN section 7, X5, X14."""

from dataclasses import replace

import pytest

from lb_probe.core.agents import Heard
from lb_probe.core.evidence import Evidence, fold, situation
from lb_probe.core.explain import explain, headline, next_step, outlook
from lb_probe.core.failover import CONDITIONS, decide
from lb_probe.core.model import (
    Automation,
    Change,
    Decision,
    Failed,
    Gate,
    Group,
    Hold,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Primary,
    Role,
    Saved,
    Secondary,
    Seen,
)
from lb_probe.core.peer_report import PeerReport
from lb_probe.core.timing import Timing
from lb_probe.core.view import AdapterStatus, View, as_json, gate_json, reason

NODES = (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True))
GROUP = Group("epmm", NODES, confirm_s=2.0)
CHANGE = Change(
    "failover", "a", "b", 1_767_225_600.0, "lb-probe", "it died", "P9", "failing-over", ("why",)
)
ON_B = Saved("b", latched=True, generation=2, last_change=CHANGE)
REFUSED = Failed(Phase.CONNECT_REFUSED, "connection refused")
IN_SYNC = AdapterStatus("edge", "haproxy", "b", Seen("b", ("b",), True), False, True, "")
UNREADABLE = replace(IN_SYNC, name="edge-2", seen=None, in_sync=False, detail="no answer in 1s.")
FOREIGN = replace(IN_SYNC, name="edge-3", seen=Seen(None), yielded=True, in_sync=False)


def view(saved=ON_B, *, automation=Automation.ARMED, blocked=(), adapters=(IN_SYNC,)):
    """The Primary is dead, b serves; b's hastatus says Primary, then something odd."""
    evidence = Evidence(0.0)
    for at, says in ((97.0, Mode.PRIMARY), (98.0, Mode.PRIMARY), (99.0, Mode.UNKNOWN)):
        for node, page, outcome in (
            ("a", Page.STATUS, REFUSED),
            ("b", Page.STATUS, Passed()),
            ("b", Page.HASTATUS, Passed(says)),
        ):
            seen = Observation(node, page, at, at + 0.25, outcome)
            evidence = fold(evidence, seen, GROUP, None)
    now = 100.0
    decision = decide(situation(evidence, GROUP, saved.assigned, automation, now), blocked)
    return View(GROUP, saved, decision, evidence, adapters, False, now)


def test_json_has_every_field_of_the_contract():
    shown = as_json(view())
    assert shown["last_change"] == {
        "kind": "failover",
        "from": "a",
        "to": "b",
        "at": "2026-01-01T00:00:00Z",
        "actor": "lb-probe",
        "reason": "it died",
        "rule": "P9",
        "evidence": ["why"],
        "notes": {},
    }
    plain = {key: value for key, value in shown.items() if not isinstance(value, list | dict)}
    assert plain == {
        "name": "epmm",
        "policy": "manual-resume",
        "act": True,
        "assigned": "b",
        "latched": True,
        "condition": "failed-over",
        "rule": "S1",
        "reason": "b serves; a is not ok",
        "hold": None,
        "acked": None,
        "generation": 2,
        "roles_swapped": False,
    }
    assert shown["blocked"] == []


def test_json_of_a_node_tells_serving_mode_and_each_page():
    dead, serving = as_json(view())["nodes"]
    assert (dead["name"], dead["role"], dead["serving"], dead["mode"]) == (
        "a",
        "primary",
        "fail",
        "unknown",
    )
    assert dead["probes"]["status"] == {
        "result": "failed",
        "phase": "connect-refused",
        "detail": "connection refused",
        "duration_s": 0.25,
        "age_s": 1.0,
        "in_a_row": 3,
    }
    assert dead["probes"]["hastatus"] == {}, "never probed"
    assert (serving["candidate"], serving["serving"]) == (True, "ok")
    page = serving["probes"]["status"]
    assert (page["result"], page["phase"], page["in_a_row"]) == ("ok", None, 3)


def test_json_of_a_node_nobody_could_read_is_unknown():
    stale = replace(view(), now=200.0)
    assert {node["serving"] for node in as_json(stale)["nodes"]} == {"unknown"}


def test_json_of_a_load_balancer_tells_wanted_and_seen():
    shown = as_json(view(adapters=(IN_SYNC, UNREADABLE, FOREIGN)))["adapters"]
    assert [(s["wanted"], s["seen"], s["usable"], s["in_sync"]) for s in shown] == [
        ("b", "b", True, True),
        ("b", None, None, False),
        ("b", None, None, False),
    ]
    assert [s["foreign_writer"] for s in shown] == [False, False, True]


def test_json_of_a_group_that_was_never_changed_has_no_change():
    assert as_json(view(Saved(None)))["last_change"] is None


def test_json_of_a_hold_says_who_why_and_until_when():
    held = replace(ON_B, hold=Hold("ops", "upgrade", 1_767_225_600.0, hands_off=True))
    assert as_json(view(held))["hold"] == {
        "by": "ops",
        "reason": "upgrade",
        "until": "2026-01-01T00:00:00Z",
        "hands_off": True,
    }


def test_json_of_a_gate_is_what_a_refusal_shows():
    gate = Gate("synced", False, "no word", "a word", open_with="attest")
    assert gate_json(gate) == {
        "id": "synced",
        "passed": False,
        "found": "no word",
        "wanted": "a word",
    }


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("assigned", ["a", "b", None])
def test_every_condition_has_a_sentence_without_gaps(condition, assigned):
    shown = view(replace(ON_B, assigned=assigned))
    decision = Decision("X", shown.decision.action, condition, shown.decision.situation, ("hold",))
    sentence = reason(replace(shown, decision=decision))
    assert sentence
    assert not any(gap in sentence for gap in ("{", "}", "None"))


def test_traffic_on_its_way_is_said_to_go_to_the_node_it_goes_to():
    """Also in the moment before the move is saved."""
    shown = view(Saved("a"))
    decision = replace(shown.decision, condition="failing-over")
    assert reason(replace(shown, decision=decision)) == "traffic goes to b"
    assert reason(replace(view(), decision=decision)) == "traffic goes to b"


def test_a_blocked_failover_names_its_brakes():
    blocked = view(Saved("a"), automation=Automation.BLOCKED, blocked=("hold", "limit"))
    decision = replace(blocked.decision, condition="failover-blocked")
    assert reason(replace(blocked, decision=decision)).endswith("blocked by hold, limit")


def test_the_headline_says_that_somebody_has_to_resume():
    assert headline(view()) == (
        "epmm: failed-over. Traffic is on b, latched: awaiting manual resume."
    )
    assert headline(view(Saved(None))) == "epmm: unassigned. Traffic is on no node."


def test_an_observed_group_is_given_no_verb_that_would_be_refused():
    unknown = view(Saved(None), automation=Automation.BLOCKED, blocked=("act",))
    assert "lb-probe accept epmm --reason '...'; or say `act: true`" in next_step(unknown)
    assert "failover" not in next_step(unknown)
    assert "lb-probe failover epmm --to a" in next_step(view(Saved(None)))


def test_the_explanation_shows_every_column_with_its_reason():
    text = explain(view(blocked=("one-shot",)))
    assert "Why: b serves; a is not ok (rule S1)." in text
    assert [line.split() for line in text.splitlines() if line.startswith("  ")][:6] == [
        line.split()
        for line in (
            "traffic moved saved generation 2",
            "primary fail a: failed in phase connect-refused (connection refused), 3 in a row,"
            " last 1.0s ago",
            "says other a: never probed",
            "secondary unknown-mode b: odd, 3 in a row, last 1.0s ago",
            "serving yes b: good, 3 in a row, last 1.0s ago",
            "automation armed one-shot",
        )
    ]


def test_the_explanation_of_an_isolated_prober_blames_the_prober():
    isolated = explain(view(automation=Automation.ISOLATED))
    assert "the prober is cut off" in isolated
    assert "nothing in the way" in explain(view())


def test_the_explanation_shows_each_load_balancer():
    text = explain(view(adapters=(IN_SYNC, UNREADABLE, FOREIGN)))
    assert "  edge: wanted b, seen b, in sync." in text
    assert "  edge-2: wanted b, seen unreadable, NOT in sync. no answer in 1s." in text
    assert "  edge-3: wanted b, seen no one node, foreign-writer: accept or republish." in text


def test_the_explanation_of_a_group_without_load_balancers_says_so():
    assert "none: decisions are saved and shown only" in explain(view(adapters=()))


def test_the_explanation_shows_the_hold_and_the_way_back():
    held = replace(ON_B, hold=Hold("ops", "upgrade", 0.0))
    gates = (Gate("synced", False, "no word", "a word"), Gate("moved", True, "on b", ""))
    text = explain(view(held), gates, "lb-probe resume epmm")
    assert "Hold by ops until 1970-01-01T00:00:00Z: upgrade" in text
    assert text.endswith(
        "To resume:\n  [no] synced: no word; wanted: a word\n  [ok] moved: on b\n"
        "  See to what is missing first. At your own risk, this opens every closed gate:\n"
        "    lb-probe resume epmm\n"
    )
    assert explain(view(), gates).endswith("  [ok] moved: on b\n")


@pytest.mark.parametrize(
    ("opened_with", "said"),
    [
        ((), "Every gate is open:"),
        (("attest",), "Once it is so, say it:"),
        (("attest", "override"), "At your own risk, this opens every closed gate:"),
        (("override", ""), "A gate that nothing opens is closed; this helps:"),
    ],
)
def test_the_line_to_paste_is_introduced_by_what_it_risks(opened_with, said):
    gates = tuple(Gate("synced", False, "", "", open_with=word) for word in opened_with)
    lines = explain(view(), gates or (Gate("moved", True, "", ""),), "a line").splitlines()
    assert lines[-1] == "    a line"
    assert lines[-2].endswith(said)


def test_without_times_the_outlook_still_names_what_must_happen():
    shown = view(Saved("a"))
    quiet = replace(shown.decision.situation, primary=Primary.OK, secondary=Secondary.STANDBY)
    decision = replace(shown.decision, situation=quiet)
    assert outlook(replace(shown, decision=decision)) == ["when a fails 3 times over 2s"]


def test_a_primary_that_failed_waits_for_one_more_word_of_the_secondary():
    shown = view(Saved("a"))
    stale = replace(shown.decision.situation, secondary=Secondary.STALE)
    said = outlook(replace(shown, decision=replace(shown.decision, situation=stale)))
    assert said == ["as soon as b says Mode: Standby once more; it is being asked"]


def test_the_headline_tells_where_traffic_really_goes():
    nowhere = replace(UNREADABLE, seen=Seen(None))
    to_a = replace(IN_SYNC, seen=Seen("a"))
    assert headline(view(adapters=(IN_SYNC, nowhere, to_a))).endswith(
        "Traffic is on b, latched: awaiting manual resume, but edge-2 sends it to no one node;"
        " edge sends it to a."
    )


def test_a_documented_mode_is_told_as_it_was_said():
    shown = view()
    odd = Observation("b", Page.HASTATUS, 99.5, 99.5, Passed(Mode.STANDBY))
    evidence = fold(shown.evidence, odd, GROUP, "b")
    assert "b: says standby, 4 in a row" in explain(replace(shown, evidence=evidence))


def test_the_ttl_of_a_dns_name_is_added_to_when_clients_follow():
    shown = replace(view(Saved("a")), timing=Timing(ttl_s=30.0))
    quiet = replace(shown.decision.situation, primary=Primary.OK, secondary=Secondary.STANDBY)
    for found in (quiet, replace(quiet, primary=Primary.FAIL)):
        decided = replace(shown, decision=replace(shown.decision, situation=found))
        said = outlook(decided)
        assert len(said) == 2
        assert said[1].startswith("clients follow up to 30s after the move, some later")
        assert outlook(replace(decided, timing=Timing()))[1:] == []


# ------------------------------------------------------------------ what agents say
def reported(saved, **fields):
    """Return what is explained where the agent of b has been heard a second ago."""
    report = PeerReport(node="b", last_good_sync=(800.0, 900.0), **fields)
    heard = {"b": Heard(report, 99.0)}
    return explain(replace(view(saved), agents=heard, wall=1_000.0))


def test_explanation_tells_what_a_move_now_would_leave_behind():
    text = reported(Saved("a", generation=1), mode=Mode.STANDBY)
    assert "\nAgents:\n" in text
    now = "if traffic moved now: data-loss window 3 min 20 s: b was last synced completely from"
    assert now in text
    heard = {"b": Heard(PeerReport(node="b", last_good_sync=(800.0, 900.0)), 99.0)}
    assert "if traffic moved now" not in explain(replace(view(Saved("a")), agents=heard))


def test_explanation_tells_what_the_move_in_force_left_behind_and_not_what_one_now_would():
    lost = "data-loss window 42 s: b was last synced completely from 10:00"
    moved = replace(ON_B, last_change=replace(CHANGE, evidence=("why", lost)))
    assert f"\n  {lost}\n" in reported(moved, mode=Mode.PRIMARY)
    assert "if traffic moved now" not in reported(moved, mode=Mode.PRIMARY)


def test_what_the_move_left_behind_is_told_after_an_ack_too():
    """Issue 8: its time minus the start of the last good sync, whatever happened since."""
    acked = replace(ON_B, last_change=replace(CHANGE, kind="ack", source="b"))
    text = reported(acked, mode=Mode.PRIMARY, promoted_at=950.0)
    assert "\n  data-loss window 2 min 30 s: b was last synced completely from" in text
    assert "and traffic moved at 1970-01-01T00:15:50Z; what a took in between" in text
    assert "data-loss" not in reported(acked, mode=Mode.PRIMARY)  # nobody knows when
    moved = replace(ON_B, last_change=replace(CHANGE, at_wall=842.0))
    assert "\n  data-loss window 42 s: b was last" in reported(moved, mode=Mode.PRIMARY)


def test_clients_that_are_turned_away_are_something_to_see_to():
    shown = reported(ON_B, mode=Mode.PRIMARY, takes_clients=False)
    assert "b has the traffic and turns new clients away" in shown.partition("To see to:")[2]
