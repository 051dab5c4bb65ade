"""What should be seen to though it changes no condition."""

from dataclasses import replace

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.explain import explain
from lb_probe.core.failover import decide
from lb_probe.core.model import (
    Automation,
    Failed,
    Group,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Role,
    Saved,
    Seen,
)
from lb_probe.core.view import CERTIFICATE_S, AdapterStatus, View, as_json, warnings

GROUP = Group("epmm", (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True)))
NOW, WALL = 100.0, 1_700_000_000.0
DAY_S = 86_400.0


def view(until=None, adapters=(), blocked=(), objections=()):
    known = Evidence(floor=0.0)
    for at in (99.0, 99.5):
        seen = Observation("a", Page.STATUS, at, at, Passed(), certificate_until=until)
        known = ev.fold(known, seen, GROUP, "b")
    automation = Automation.BLOCKED if blocked else Automation.ARMED
    decision = decide(ev.situation(known, GROUP, "a", automation, NOW), blocked)
    return View(
        GROUP,
        Saved("a"),
        decision,
        known,
        tuple(adapters),
        roles_swapped=False,
        now=NOW,
        wall=WALL,
        objections=objections,
    )


def balancer(**more):
    return AdapterStatus(
        "edge", "haproxy", "a", Seen("a", ("a",), **more), False, True, "held down"
    )


def test_a_certificate_is_told_when_its_end_is_near_and_when_it_is_over():
    assert warnings(view(WALL + CERTIFICATE_S + 1)) == []
    (near,) = warnings(view(WALL + 12 * DAY_S))
    assert near.startswith("a: its certificate expires in 12 days (2023-11-26T")
    (over,) = warnings(view(WALL - 1))
    assert "a: its certificate has expired" in over
    assert as_json(view(WALL))["nodes"][0]["certificate_until"] == "2023-11-14T22:13:20Z"
    assert warnings(replace(view(WALL), wall=None)) == []


def test_an_assigned_node_that_the_load_balancer_holds_down_is_told():
    (said,) = warnings(view(adapters=[balancer(usable=False)]))
    assert said == "edge: a is assigned and gets no traffic there; held down"
    assert warnings(view(adapters=[balancer(usable=True)])) == []
    unread = replace(balancer(), seen=None, in_sync=False)
    assert warnings(view(adapters=[unread])) == []


def test_a_load_balancer_that_somebody_else_writes_to_says_so_and_what_ends_it():
    """X2: the word is in what `status` and the API show, not in `explain` alone."""
    taken = replace(balancer(), yielded=True, in_sync=False)
    (found,) = as_json(view(adapters=[taken]))["adapters"]
    assert found["foreign_writer"] is True
    assert found["detail"] == "foreign-writer: accept or republish; held down"
    assert as_json(view(adapters=[balancer()]))["adapters"][0]["detail"] == "held down"


def test_what_must_follow_a_move_and_failed_is_told_and_explained():
    told = view(adapters=[balancer(unsettled="the save failed: disk full")])
    assert warnings(told) == ["edge: traffic is as asked, but the save failed: disk full"]
    assert "To see to:\n  edge: traffic is as asked" in explain(told)


def test_what_made_old_failures_worth_nothing_is_told_and_explained():
    told = replace(view(), interruption="the loop was away for 7.0s, 3s ago")
    assert warnings(told) == ["the loop was away for 7.0s, 3s ago"]
    assert "To see to:\n  the loop was away for 7.0s" in explain(told)


def test_workers_that_leave_with_sessions_are_told_and_explained():
    told = view(adapters=[balancer(leaving=("worker 7 still has 3 sessions to b",))])
    assert warnings(told) == ["edge: worker 7 still has 3 sessions to b"]
    assert "To see to:\n  edge: worker 7 still has 3 sessions to b" in explain(told)


def test_a_load_balancer_that_disagrees_is_a_brake_with_its_reason_and_a_way_on():
    known = Evidence(floor=0.0)
    group = replace(GROUP, confirm_s=0.0)
    for at in (98.0, 98.5, 99.0):
        seen = Observation("a", Page.STATUS, at, at, Failed(Phase.CONNECT_TIMEOUT, "no answer"))
        known = ev.fold(known, seen, group, "b")
    for at in (98.2, 99.2, 99.8):
        seen = Observation("b", Page.HASTATUS, at, at, Passed(ev.Mode.STANDBY))
        known = replace(ev.fold(known, seen, group, "b"), floor=0.0)
    for at in (99.3, 99.5, 99.7):
        seen = Observation("a", Page.STATUS, at, at, Failed(Phase.CONNECT_TIMEOUT, "no answer"))
        known = ev.fold(known, seen, group, "b")
    blocked = ("lb-disagrees",)
    decision = decide(ev.situation(known, group, "a", Automation.BLOCKED, NOW), blocked)
    said = "edge sees a up (L7OK), asked 0.2s ago"
    told = replace(
        view(objections=(said,)), group=group, evidence=known, decision=decision, now=NOW
    )
    text = explain(told)
    assert decision.condition == "failover-blocked"
    assert f"cannot happen now: {said}" in text
    assert "a load balancer that checks a itself sees it up" in text
    assert "lb-probe failover epmm" in text
