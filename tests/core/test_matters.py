"""What of a group is worth telling; the stories of `test_told` have the rest (R97, X14)."""

from dataclasses import replace

import pytest

from lb_probe.core import active_active
from lb_probe.core.active_active import Pool
from lb_probe.core.evidence import Evidence, fold
from lb_probe.core.failover import decide
from lb_probe.core.matters import (
    DAY_S,
    MOVED,
    Entry,
    Words,
    arrived,
    of_pair,
    of_pool,
    reminder,
    told_of,
    unknown_of,
)
from lb_probe.core.model import (
    Automation,
    Failed,
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
    Says,
    Secondary,
    Seen,
    Serving,
    Situation,
    Traffic,
)
from lb_probe.core.notice import Severity, Stage
from lb_probe.core.pool_view import PoolView
from lb_probe.core.telling import Matter, Moment, Told, opened
from lb_probe.core.view import AdapterStatus, View, second_primaries, warnings

WALL = 1_767_225_600.0
AT = Moment(100.0, WALL, "store", "epmm")
NODES = (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True))
WELL = Situation(
    Traffic.PRIMARY, Primary.OK, Says.OTHER, Secondary.STANDBY, Serving.UNKNOWN, Automation.ARMED
)
IN_SYNC = AdapterStatus("edge", "haproxy", "a", Seen("a", ("a",), True), False, True, "")


def view(*, adapters=(IN_SYNC,), certificates=(), saved=None, act=True, wall=WALL):
    evidence = Evidence(0.0)
    for node, until in certificates:
        seen = Observation(node, Page.STATUS, 99.0, 99.1, Passed(), certificate_until=until)
        evidence = fold(evidence, seen, Group("epmm", NODES), None)
    group = Group("epmm", NODES, act=act)
    found = saved or Saved("a", generation=1)
    return View(group, found, decide(WELL), evidence, adapters, False, 100.0, wall=wall)


@pytest.mark.parametrize(
    ("days", "word", "severity"),
    [
        (22, None, None),
        (20, "expires within 21 days", Severity.WARNING),
        (6, "expires within 7 days", Severity.WARNING),
        (1.5, "expires within 2 days", Severity.CRITICAL),
        (-1, "has expired", Severity.CRITICAL),
    ],
)
def test_a_certificate_is_told_at_three_moments_and_when_it_is_too_late(days, word, severity):
    found = of_pair(view(certificates=[("b", WALL + days * DAY_S)]))
    assert [(m.word, m.severity, m.node) for m in found] == (
        [(word, severity, "b")] if word else []
    )


def test_a_clock_that_is_unknown_judges_no_certificate():
    assert of_pair(view(certificates=[("b", WALL)], wall=None)) == []


def test_a_load_balancer_that_holds_the_node_down_by_its_own_check_is_told():
    down = replace(IN_SYNC, seen=Seen("a", ("a",), usable=False), detail="L4CON")
    (found,) = of_pair(view(adapters=(down,)))
    assert (found.word, found.event_class) == ("unusable", "drift")
    assert found.runbook == "load-balancer-holds-the-node-down"


def test_a_move_that_a_load_balancer_may_forget_is_told():
    unsaved = replace(IN_SYNC, seen=Seen("a", ("a",), True, unsettled="the save failed"))
    (found,) = of_pair(view(adapters=(unsaved,)))
    assert (found.word, found.why, found.settle_s) == ("unsettled", "the save failed", 60.0)


def test_users_whom_a_reload_left_on_the_old_node_are_told_when_they_stay():
    left = Seen("a", ("a",), True, leaving=("worker 7 still has sessions on b",))
    (found,) = of_pair(view(adapters=(replace(IN_SYNC, seen=left),)))
    assert (found.word, found.why) == ("left-behind", "worker 7 still has sessions on b")
    assert found.settle_s == 120.0  # `hard-stop-after 60s`, as it is printed, ends most before
    assert of_pair(view(adapters=(replace(IN_SYNC, seen=replace(left, leaving=())),))) == []


def test_what_is_not_to_be_written_does_not_drift():
    """`act: false`, hands off, nobody assigned: what a load balancer does then is its own."""
    astray = replace(IN_SYNC, seen=Seen("b", ("b",), True), in_sync=False)
    assert [m.word for m in of_pair(view(adapters=(astray,)))] == ["out-of-sync"]
    assert of_pair(view(adapters=(astray,), act=False)) == []
    assert of_pair(view(adapters=(replace(astray, wanted=None),))) == []


def test_a_load_balancer_that_nobody_writes_to_has_not_begun_to_follow():
    """Hands off while it is out of sync: that was told, and is not over."""
    astray = replace(IN_SYNC, seen=Seen("b", ("b",), True), in_sync=False)
    hold = Hold("ops", "mine", WALL + 7200.0, hands_off=True)
    held = view(adapters=(astray,), saved=Saved("a", hold=hold))
    assert of_pair(held) == []
    assert "drift/edge" in unknown_of(held)
    assert "drift/edge" not in unknown_of(view(saved=Saved("a", hold=hold)))


def test_a_node_that_is_silent_has_not_renewed_its_certificate():
    """Nor has one that was not asked yet; one without TLS has none."""
    until = [("b", WALL + DAY_S)]
    shown = view(certificates=until)
    assert unknown_of(shown) == {"certificate/a"}
    down = Observation("b", Page.STATUS, 100.0, 100.1, Failed(Phase.CONNECT_REFUSED, "refused"))
    silent = replace(shown, evidence=fold(shown.evidence, down, shown.group, None))
    assert of_pair(silent) == []
    assert "certificate/b" in unknown_of(silent)
    plain = Observation("b", Page.STATUS, 101.0, 101.1, Passed())
    assert "certificate/b" not in unknown_of(
        replace(silent, evidence=fold(silent.evidence, plain, shown.group, None))
    )


@pytest.mark.parametrize(
    ("now", "is_known"),
    [
        (WELL, True),
        (replace(WELL, primary=Primary.UNKNOWN), False),
        (replace(WELL, automation=Automation.ISOLATED), False),
        (replace(WELL, traffic=Traffic.MOVED, serving=Serving.WAITING), False),
    ],
)
def test_what_is_the_case_must_be_known_before_something_is_over(now, is_known):
    assert ("condition" in unknown_of(replace(view(), decision=decide(now)))) is not is_known


def test_a_condition_is_told_with_why_what_is_safe_and_the_line_to_type():
    """X14: what happened, why, what is safe, what to type."""
    alone = replace(view(), decision=decide(replace(WELL, secondary=Secondary.PRIMARY)))
    (found,) = of_pair(alone)
    assert found.title == "epmm: a and b both say Primary"
    assert "rule P2" in found.why
    assert "never probed" in found.why
    assert found.safe == "users are served by a; do not move traffic"
    assert found.do.endswith("lb-probe explain epmm")


def test_a_further_site_that_says_primary_is_told_and_shown_and_its_own_traffic_is_not():
    """R37: the DR site promoted itself though the pair serves."""
    group = Group("epmm", (*NODES, Node("dr", Role.SECONDARY)))
    evidence = Evidence(0.0)
    for node, says in (("b", Mode.PRIMARY), ("dr", Mode.PRIMARY)):
        seen = Observation(node, Page.HASTATUS, 99.0, 99.1, Passed(says))
        evidence = fold(evidence, seen, group, None)
    found = replace(view(), group=group, evidence=evidence)
    (told,) = of_pair(found)
    assert (told.topic, told.event_class, told.node) == ("site/dr", "dual-primary", "dr")
    assert told.title == "epmm: dr says Primary too, and a has the traffic"
    assert warnings(found)[0].startswith("dr: says Primary, and a has the traffic")
    assert second_primaries(replace(found, saved=Saved("dr", latched=True))) == []
    assert of_pair(replace(found, now=200.0)) == []  # an old word is none
    hold = Hold("ops", "drill", WALL + 7200.0)
    assert of_pair(replace(found, saved=Saved("a", hold=hold)))[0].is_meant


def test_under_a_hold_what_the_work_looks_like_is_not_told():
    """An upgrade makes both nodes say Primary: no page."""
    hold = Hold("ops", "upgrade", WALL + 7200.0)
    alone = decide(replace(WELL, secondary=Secondary.PRIMARY))
    (found,) = of_pair(replace(view(saved=Saved("a", hold=hold)), decision=alone))
    assert found.is_meant
    failed = replace(WELL, primary=Primary.FAIL, automation=Automation.BLOCKED)
    blocked = replace(view(saved=Saved("a", hold=hold)), decision=decide(failed, ("hold",)))
    (found,) = of_pair(blocked)
    assert (found.event_class, found.severity) == ("blocked", Severity.WARNING)


@pytest.mark.parametrize(
    ("left_s", "word"),
    [(1000.0, None), (900.0, "due at 2026-01-01 00:15:00 UTC"), (-1.0, "due, and stays on")],
)
def test_a_hold_is_told_before_it_is_due_and_when_it_stays_on(left_s, word):
    hold = Hold("ops", "upgrade", WALL + left_s)
    found = of_pair(view(saved=Saved("a", hold=hold)))
    assert [m.word for m in found] == ([word] if word else [])


def test_a_foreign_hand_is_told_at_once_with_both_ways_out():
    other = replace(IN_SYNC, seen=Seen("b", ("b",), True), yielded=True, in_sync=False)
    (found,) = of_pair(view(adapters=(other,)))
    assert (found.word, found.settle_s, found.severity) == (
        "foreign-writer",
        0.0,
        Severity.CRITICAL,
    )
    assert "lb-probe accept epmm" in found.do
    assert "lb-probe republish epmm" in found.do


# ------------------------------------------------------------------ active-active
POOL = Pool("gw", ("gw-1", "gw-2"))


def pool_view(*, members=frozenset(POOL.nodes), fails=("gw-1",), blocked=(), automation):
    evidence = Evidence(0.0)
    for node in POOL.nodes:
        for at in (97.0, 98.0, 99.0):
            outcome = Failed(Phase.TIMEOUT, "no answer") if node in fails else Passed()
            seen = Observation(node, Page.STATUS, at, at + 0.1, outcome)
            evidence = active_active.fold(evidence, seen, POOL)
    decision = active_active.decide(POOL, members, evidence, automation, 100.0, blocked)
    return PoolView(POOL, Saved(), members, frozenset(), decision, evidence, (), None, 100.0)


def test_nodes_that_fail_and_stay_in_are_told():
    found = of_pool(pool_view(fails=POOL.nodes, automation=Automation.ARMED))
    assert [(m.event_class, m.word) for m in found] == [("not-serving", "panic")]
    blocked = pool_view(blocked=("hold",), automation=Automation.BLOCKED)
    assert [m.title for m in of_pool(blocked)] == ["gw: a node fails and stays in: blocked by hold"]


def test_the_certificate_of_a_pools_node_is_told_too():
    well = pool_view(fails=(), automation=Automation.ARMED)
    last = Observation(
        "gw-2", Page.STATUS, 99.5, 99.6, Passed(), certificate_until=WALL + 5 * DAY_S
    )
    near = replace(well, evidence=active_active.fold(well.evidence, last, POOL), wall=WALL)

    (found,) = of_pool(near)
    assert (found.event_class, found.node) == ("certificate", "gw-2")
    assert "goes out" in found.safe
    assert of_pool(replace(near, wall=None)) == of_pool(replace(near, wall=WALL - 90 * DAY_S)) == []


def test_of_a_pool_nothing_is_over_while_the_prober_is_cut_off():
    cut_off = pool_view(automation=Automation.ISOLATED)
    assert cut_off.condition == "prober-isolated"
    assert "condition" in unknown_of(cut_off)
    assert "condition" not in unknown_of(pool_view(automation=Automation.ARMED))


def test_a_pool_that_is_well_or_has_a_node_out_is_told_by_what_is_on_record():
    assert of_pool(pool_view(fails=(), automation=Automation.ARMED)) == []
    out = pool_view(members=frozenset({"gw-2"}), automation=Automation.ARMED)
    assert of_pool(out) == []
    entry = Entry(7, "take-out", WALL, {"from": "gw-1+gw-2", "to": "gw-2", "reason": "gw-1 fails"})
    told, (notice,) = told_of(Told(), entry, replace(AT, group="gw"), Words("now", "do"))
    assert told == Told()
    assert (notice.title, notice.event_class) == ("gw: gw-1 was taken out", "node-out")
    assert notice.gravity is Severity.WARNING
    back = Entry(8, "put-in", WALL, {"from": "gw-2", "to": "gw-1+gw-2"})
    _, (notice,) = told_of(Told(), back, replace(AT, group="gw"), Words())
    assert (notice.title, notice.gravity) == ("gw: gw-1 is in again", Severity.INFO)


# ------------------------------------------------------------------ what is on record
FAILOVER = {"from": "a", "to": "b", "actor": "lb-probe", "latched": True, "evidence": ["dead"]}


def failed_over(serves=True):
    entry = Entry(3, "failover", WALL, FAILOVER)
    return told_of(Told(), entry, AT, Words("now", "do", serves))


def test_an_assignment_back_to_the_primary_ends_the_alarm_though_it_is_no_resume():
    told, (begun,) = failed_over()
    back = Entry(4, "adopt", WALL, {"from": "b", "to": "a", "latched": False})
    told, (ended,) = told_of(told, back, AT, Words())
    assert ended.stage is Stage.OVER
    assert ended.alarm == begun.alarm
    assert told.alarms == {}
    assert told_of(Told(), back, AT, Words()) == (Told(), [])  # nobody was told that it was away


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("resume", "epmm: resumed on a by ops"),
        ("swap-roles", "epmm: roles were swapped by ops; b keeps the traffic"),
    ],
)
def test_a_resume_ends_the_alarm_and_that_the_primary_is_back_is_no_news_after_it(kind, title):
    told, (begun,) = failed_over()
    back = Matter("condition", "primary-returned", "primary-returned", "epmm: a is back")
    told, returned = opened(told, back, AT)
    to = "a" if kind == "resume" else "b"
    entry = Entry(9, kind, WALL, {"from": "b", "to": to, "actor": "ops", "latched": False})
    told, (ended,) = told_of(told, entry, AT, Words())
    assert (ended.title, ended.stage, ended.alarm) == (title, Stage.OVER, begun.alarm)
    assert ended.event_class == "resumed"
    assert ended.replaces == returned.alarm
    assert told.alarms == {}


def test_what_changes_nothing_for_people_is_not_told():
    for kind in ("assign", "roles-agreed"):
        assert told_of(Told(), Entry(1, kind, WALL, {"to": "a"}), AT, Words()) == (Told(), [])


def test_a_resume_of_what_nobody_was_told_is_told_all_the_same():
    entry = Entry(5, "resume", WALL, {"from": "b", "to": "a", "actor": "ops", "reason": "well"})
    _, (notice,) = told_of(Told(), entry, AT, Words())
    assert (notice.title, notice.stage) == ("epmm: resumed by ops", Stage.NOTE)


def test_an_ack_of_nothing_is_a_note():
    entry = Entry(5, "ack", WALL, {"to": "a", "actor": "ops", "reason": "looking"})
    _, (notice,) = told_of(Told(), entry, AT, Words())
    assert (notice.stage, notice.alarm) == (Stage.NOTE, "")
    told, (begun,) = failed_over()
    _, (notice,) = told_of(told, entry, AT, Words())
    assert (notice.stage, notice.alarm) == (Stage.SEEN, begun.alarm)


def test_details_that_are_odd_make_no_message_impossible():
    """An older history, or one of somebody else."""
    entry = Entry(5, "hold", WALL, {"hold": "soon", "evidence": 7, "notes": 7, "actor": None})
    _, (notice,) = told_of(Told(), entry, AT, Words())
    assert notice.title == "epmm: somebody holds automatic moves until its time"


def test_that_the_node_serves_is_said_once_and_only_where_that_was_open():
    told, _ = failed_over(serves=False)
    moved = view(saved=Saved("b", latched=True, generation=2))
    serving = replace(WELL, traffic=Traffic.MOVED, primary=Primary.FAIL, serving=Serving.YES)
    here = replace(moved, decision=decide(serving))
    assert arrived(told, moved, AT) == (told, [])
    told, (notice,) = arrived(told, here, AT)
    assert (notice.title, notice.gravity) == ("epmm: b serves", Severity.INFO)
    assert arrived(told, here, AT) == (told, [])
    assert arrived(failed_over()[0], here, AT)[1] == []
    lost = Told(is_awaited=True)  # what it was said of is not known any more
    assert [n.title for n in arrived(lost, here, AT)[1]] == ["epmm: b serves"]


def test_a_reminder_comes_when_nothing_was_heard_for_so_long_alarm_or_not():
    latched = view(saved=Saved("b", latched=True, generation=2))
    told, (notice,) = reminder(Told(), latched, AT, 3600.0, "")
    assert (notice.stage, notice.alarm) == (Stage.NOTE, "")  # its outbox was lost
    assert reminder(told, latched, AT, 3600.0, "")[1] == []
    assert reminder(Told(), view(), AT, 3600.0, "")[1] == []
    told, (begun,) = failed_over()
    later = replace(AT, wall=WALL + 3600.0)
    _, (notice,) = reminder(told, latched, later, 3600.0, "lb-probe resume epmm")
    assert notice.alarm == begun.alarm
    assert "lb-probe resume epmm" in notice.do
    assert MOVED in told.alarms
