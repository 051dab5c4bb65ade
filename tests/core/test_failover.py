"""The decision table: what it must never do, over every situation; REQUIREMENTS 4.1, X1-X22."""

from dataclasses import replace
from itertools import product

import pytest

from lb_probe.core import failover
from lb_probe.core.failover import COLUMNS, CONDITIONS, RULES, Rule, as_markdown, decide
from lb_probe.core.model import (
    Action,
    Automation,
    Primary,
    Says,
    Secondary,
    Serving,
    Situation,
    Traffic,
)

ON, MOVED, NOWHERE = Traffic.PRIMARY, Traffic.MOVED, Traffic.UNASSIGNED
P, W, S, V, G = Primary, Says, Secondary, Serving, Automation
SITUATIONS = [Situation(*values) for values in product(*(kind for _, kind in COLUMNS))]


def condition(traffic, primary, says, secondary, serving=V.UNKNOWN, automation=G.ARMED):
    return decide(Situation(traffic, primary, says, secondary, serving, automation)).condition


def where(**wanted):
    return [s for s in SITUATIONS if all(getattr(s, name) is v for name, v in wanted.items())]


def test_traffic_moves_exactly_where_the_rule_says():
    """R51-R53: the Primary fails and the Secondary says Standby, armed; nowhere else."""
    moves = {s for s in SITUATIONS if decide(s).action is Action.FAIL_OVER}
    assert moves == set(where(traffic=ON, primary=P.FAIL, secondary=S.STANDBY, automation=G.ARMED))


@pytest.mark.parametrize("traffic", [MOVED, NOWHERE])
def test_nothing_is_ever_done_once_traffic_is_off_the_primary(traffic):
    """X1, X3, X11, X18, R54."""
    assert {decide(s).action for s in where(traffic=traffic)} == {Action.NONE}


def test_an_isolated_prober_does_nothing():
    """X15."""
    assert {decide(s).action for s in where(automation=G.ISOLATED)} == {Action.NONE}


@pytest.mark.parametrize("secondary", [S.STALE, S.UNKNOWN_MODE, S.FAIL, S.PRIMARY])
def test_no_word_but_standby_moves_traffic(secondary):
    """X19, X22."""
    assert Action.FAIL_OVER not in {decide(s).action for s in where(secondary=secondary)}


@pytest.mark.parametrize("primary", [P.OK, P.UNKNOWN])
def test_a_primary_that_did_not_fail_keeps_the_traffic(primary):
    """R52, X22."""
    assert Action.FAIL_OVER not in {decide(s).action for s in where(primary=primary)}


def test_a_brake_changes_only_whether_the_move_is_made():
    """X4, X10, X16."""
    for armed in where(automation=G.ARMED):
        names = decide(armed).rule, decide(replace(armed, automation=G.BLOCKED)).rule
        assert names[0] == names[1] or names == ("P9", "P10")


def test_serving_is_not_read_before_a_move():
    """R51: a real Standby's status page is not OK."""
    for situation in where(traffic=ON):
        assert len({decide(replace(situation, serving=v)).rule for v in V}) == 1


def test_brakes_travel_with_the_decision():
    blocked = Situation(ON, P.FAIL, W.OTHER, S.STANDBY, V.UNKNOWN, G.BLOCKED)
    decision = decide(blocked, ("hold", "act"))
    assert (decision.condition, decision.blocked) == ("failover-blocked", ("hold", "act"))
    assert decision.situation == blocked


def test_conditions_are_those_of_the_contract():
    assert set(CONDITIONS) == {
        "normal",
        "confirming",
        "unprotected",
        "dual-primary",
        "role-mismatch",
        "failing-over",
        "failover-blocked",
        "promoted-early",
        "no-standby",
        "unknown-mode",
        "prober-isolated",
        "failed-over",
        "not-serving",
        "primary-returned",
        "secondary-down",
        "all-down",
        "unassigned",
    }


ROWS_4_1 = {
    "P OK, S STANDBY": (ON, P.OK, {S.STANDBY}, set(V), Action.NONE, "normal"),
    "P OK, S PRIMARY": (ON, P.OK, {S.PRIMARY}, set(V), Action.NONE, "dual-primary"),
    "P OK, S FAIL or ?": (
        ON,
        P.OK,
        {S.FAIL, S.STALE, S.UNKNOWN_MODE},
        set(V),
        Action.NONE,
        "unprotected",
    ),
    "P FAIL, S STANDBY": (ON, P.FAIL, {S.STANDBY}, set(V), Action.FAIL_OVER, "failing-over"),
    "P FAIL, S stale": (ON, P.FAIL, {S.STALE}, set(V), Action.REPROBE, "confirming"),
    "P FAIL, S PRIMARY": (ON, P.FAIL, {S.PRIMARY}, set(V), Action.NONE, "promoted-early"),
    "P FAIL, S FAIL": (ON, P.FAIL, {S.FAIL}, set(V), Action.NONE, "no-standby"),
    "P FAIL, S ?": (ON, P.FAIL, {S.UNKNOWN_MODE}, set(V), Action.NONE, "unknown-mode"),
    "P ?, S any": (ON, P.UNKNOWN, set(S), set(V), Action.NONE, "confirming"),
    "moved, P FAIL, serving": (MOVED, P.FAIL, set(S), {V.YES}, Action.NONE, "failed-over"),
    "moved, P OK, serving": (MOVED, P.OK, set(S), {V.YES}, Action.NONE, "primary-returned"),
    "moved, P OK, S FAIL": (MOVED, P.OK, {S.FAIL}, {V.NO}, Action.NONE, "secondary-down"),
    "moved, P FAIL, S FAIL": (MOVED, P.FAIL, {S.FAIL}, {V.NO}, Action.NONE, "all-down"),
    "moved, STANDBY beyond grace": (MOVED, None, {S.STANDBY}, {V.NO}, Action.NONE, "not-serving"),
}


@pytest.mark.parametrize("row", ROWS_4_1)
def test_requirements_4_1_row_holds(row):
    """4.1 has no column for what the Primary says of itself: only there a word may differ."""
    traffic, primary, secondary, serving, action, name = ROWS_4_1[row]
    for situation in where(traffic=traffic, automation=G.ARMED):
        if primary not in (None, situation.primary) or situation.secondary not in secondary:
            continue
        if situation.serving in serving:
            decision = decide(situation)
            if situation.says is W.OTHER:
                assert (decision.action, decision.condition) == (action, name)
            else:
                assert decision.condition in (name, "role-mismatch")


def test_secondary_promoted_early_is_blocked_until_it_says_standby_again():
    assert condition(ON, P.FAIL, W.OTHER, S.PRIMARY) == "promoted-early"
    assert condition(ON, P.FAIL, W.OTHER, S.STANDBY) == "failing-over"


def test_a_primary_that_says_standby_and_serves_is_never_normal():
    assert {condition(ON, P.OK, W.STANDBY, s) for s in S} == {"role-mismatch"}


def test_a_swapped_pair_is_a_mismatch_and_not_promoted_early():
    """R59: a real Standby does not serve its status page."""
    assert condition(ON, P.FAIL, W.STANDBY, S.PRIMARY) == "role-mismatch"
    assert condition(ON, P.UNKNOWN, W.STANDBY, S.PRIMARY) == "role-mismatch"


def test_after_a_move_the_deadline_chooses_the_word():
    assert condition(MOVED, P.FAIL, W.OTHER, S.STANDBY, V.WAITING) == "failing-over"
    assert condition(MOVED, P.FAIL, W.OTHER, S.STANDBY, V.NO) == "not-serving"


def test_after_a_move_serving_alone_decides_whatever_the_mode():
    """R51: after the flip the node may say Primary, Standby or nothing."""
    assert {condition(MOVED, P.FAIL, W.OTHER, s, V.YES) for s in S} == {"failed-over"}


def test_adopted_on_the_secondary_there_is_no_verdict_yet():
    assert condition(MOVED, P.UNKNOWN, W.OTHER, S.STALE, V.UNKNOWN) == "confirming"


def test_unassigned_is_one_word_for_every_situation():
    assert {decide(s).condition for s in where(traffic=NOWHERE)} == {"unassigned"}


def test_a_table_with_a_missing_row_is_refused():
    without_p3 = tuple(rule for rule in RULES if rule.id != "P3")
    with pytest.raises(ValueError, match="no rule covers 24, first"):
        failover._expand(without_p3)


def test_a_table_with_overlapping_rows_is_refused():
    again = replace(RULES[1], id="P99")
    with pytest.raises(ValueError, match="rules P1 and P99 cover "):
        failover._expand((*RULES, again))


def test_the_table_has_one_row_that_moves_traffic():
    assert [rule.id for rule in RULES if rule.action is Action.FAIL_OVER] == ["P9"]
    assert (len(RULES), len(SITUATIONS)) == (22, 1080)


def test_markdown_has_one_line_for_each_row_and_says_any_for_a_whole_column():
    some = Rule(
        "X1", {ON}, set(P), {W.OTHER}, {S.STANDBY, S.FAIL}, set(V), set(G), Action.NONE, "w"
    )
    head, rule, row = as_markdown([some]).splitlines()
    assert head.startswith("| rule | traffic | primary | says ")
    assert set(rule) == {"|", "-"}
    assert row == "| X1 | primary | any | other | fail, standby | any | any | none | w |"
