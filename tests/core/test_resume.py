"""Each gate alone refuses with its id, and says what to do next: R55, R58, X1, X5, X8, X13."""

from dataclasses import replace

import pytest

from lb_probe.core.evidence import Evidence, fold
from lb_probe.core.model import (
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
    Role,
    Saved,
    Seen,
)
from lb_probe.core.resume import GATES, REQUIRABLE, AdapterView, World, describe, judge, paste

NODES = (
    Node("a", Role.PRIMARY),
    Node("b", Role.SECONDARY, candidate=True),
    Node("dr", Role.SECONDARY),
)
GROUP = Group("epmm", NODES, adapters=("edge",))
ON_A, ON_B = Saved("a", generation=3), Saved("b", latched=True, generation=3)
REFUSED = Failed(Phase.CONNECT_REFUSED, "connection refused")
MODES = {"a": Mode.PRIMARY, "b": Mode.STANDBY, "dr": Mode.STANDBY}
NOW = 100.0


def pages(*, dead=(), serving=("a", "b", "dr"), answers=2, **modes):
    """What was probed: `answers` rounds, a second apart, the last one a second ago."""
    evidence = Evidence(0.0)
    for at in (NOW - answers + n for n in range(answers)):
        for node in GROUP.names:
            status = Passed() if node in serving and node not in dead else REFUSED
            says = (MODES | modes)[node]
            hastatus = REFUSED if node in dead or says is None else Passed(says)
            for page, outcome in ((Page.STATUS, status), (Page.HASTATUS, hastatus)):
                evidence = fold(evidence, Observation(node, page, at, at, outcome), GROUP, "b")
    return evidence


def world(saved=ON_B, target="a", *, group=GROUP, evidence=None, adapters=None, agents=None):
    edge = AdapterView("edge", Seen(saved.assigned))
    return World(
        group=group,
        saved=saved,
        evidence=pages() if evidence is None else evidence,
        adapters=(edge,) if adapters is None else adapters,
        target=target,
        now=NOW,
        agents={"synced": "synced 10:42Z"} if agents is None else agents,
    )


def closed(verb, here):
    return [gate.id for gate in judge(verb, here) if not gate.passed]


def gate(verb, name, here):
    return next(gate for gate in judge(verb, here) if gate.id == name)


def line(verb, here):
    return paste(verb, here, judge(verb, here))


# ------------------------------------------------------------------ resume
def test_resume_passes_when_everything_is_as_it_should_be():
    assert closed("resume", world()) == []


RESUME_ALONE = {
    "moved": world(ON_A),
    "act": world(group=replace(GROUP, act=False)),
    "hands-off": world(replace(ON_B, hold=Hold("ops", "upgrade", 0.0, hands_off=True))),
    "adapters-reachable": world(adapters=(AdapterView("edge", None, detail="no answer"),)),
    "primary-serving": world(evidence=pages(serving=("b",))),
    "single-primary": world(evidence=pages(b=Mode.PRIMARY)),
    "synced": world(agents={}),
}


@pytest.mark.parametrize("name", RESUME_ALONE)
def test_each_gate_of_resume_refuses_alone_and_has_a_line_to_paste(name):
    here = RESUME_ALONE[name]
    assert closed("resume", here) == [name]
    assert line("resume", here).startswith("lb-probe ")
    assert gate("resume", name, here).wanted


def test_all_closed_gates_are_told_at_once():
    """X5."""
    here = world(evidence=pages(serving=("b",), b=Mode.PRIMARY), agents={})
    assert closed("resume", here) == ["primary-serving", "single-primary", "synced"]
    assert line("resume", here) == (
        "lb-probe resume epmm --reason '...' --override primary-serving"
        " --override single-primary --attest synced='Completed HH:MMZ'"
    )


def test_a_group_may_require_more_and_no_gate_is_judged_twice():
    group = replace(GROUP, require=("same-version", "adapters-reachable"))
    here = world(group=group, agents={})
    assert closed("resume", here) == ["same-version"]
    ids = [gate.id for gate in judge("resume", here)]
    assert ids == ["moved", "act", "hands-off", "adapters-reachable", "same-version"]
    assert line("resume", here) == "lb-probe resume epmm --reason '...' --attest same-version='...'"


def test_one_good_answer_of_the_primary_is_not_enough():
    assert closed("resume", world(evidence=pages(answers=1))) == ["primary-serving"]


def test_good_answers_of_the_primary_grow_old():
    assert closed("resume", replace(world(), now=NOW + 5)) == ["primary-serving"]


@pytest.mark.parametrize("silent", ["a", "b"])
def test_a_silent_hastatus_page_is_no_deadlock(silent):
    """Only two nodes that say so themselves refuse a resume."""
    modes = {"a": Mode.PRIMARY, "b": Mode.PRIMARY} | {silent: None}
    assert closed("resume", world(evidence=pages(**modes))) == []


def test_a_third_site_that_says_primary_refuses_as_well():
    """R37."""
    here = world(evidence=pages(dr=Mode.PRIMARY))
    assert closed("resume", here) == ["single-primary"]
    assert "make dr a Secondary" in gate("resume", "single-primary", here).wanted


def test_a_group_latched_on_its_own_primary_may_be_resumed():
    """After `accept` of what somebody wrote, the incident still has to be ended."""
    assert closed("resume", world(replace(ON_A, latched=True))) == []


def test_resume_of_an_unassigned_group_names_the_line_that_helps():
    here = world(Saved(None))
    assert closed("resume", here) == ["moved"]
    assert line("resume", here) == "lb-probe failover epmm --to a --reason '...'"


def test_a_yielded_load_balancer_refuses_and_says_what_to_say():
    here = world(adapters=(AdapterView("edge", Seen("a"), yielded=True),))
    assert closed("resume", here) == ["adapters-reachable"]
    assert "say accept or republish" in gate("resume", "adapters-reachable", here).found


def test_a_load_balancer_that_was_never_read_is_not_reachable():
    here = world(adapters=(AdapterView("edge", None),))
    assert gate("resume", "adapters-reachable", here).found == "edge: not read yet"


def test_a_group_without_load_balancers_has_none_to_reach():
    here = world(adapters=())
    assert gate("resume", "adapters-reachable", here).found == "reachable: no load balancers"


# ------------------------------------------------------------------ failover and switchover
def test_failover_to_a_ready_node_passes():
    assert closed("failover", world(ON_A, "b")) == []


@pytest.mark.parametrize(
    ("evidence", "is_ready"),
    [
        (pages(serving=()), True),  # a Standby serves nothing yet
        (pages(b=None), True),  # its hastatus is gone, but it serves
        (pages(b=Mode.UNKNOWN, serving=()), False),
        (pages(dead=("b",)), False),
    ],
)
def test_failover_wants_a_target_that_serves_or_says_a_known_mode(evidence, is_ready):
    assert closed("failover", world(ON_A, "b", evidence=evidence)) == (
        [] if is_ready else ["target-ready"]
    )


def test_failover_to_where_traffic_is_says_republish():
    here = world(ON_B, "b")
    assert closed("failover", here) == ["elsewhere"]
    assert line("failover", here) == "lb-probe republish epmm --reason '...'"


def test_the_line_to_paste_names_a_node_that_is_not_the_candidate():
    here = world(ON_A, "dr", evidence=pages(dead=("dr",)))
    assert line("failover", here) == (
        "lb-probe failover epmm --to dr --reason '...' --override target-ready"
    )


def test_under_act_false_the_way_out_is_break_glass():
    """X10."""
    here = world(ON_A, "b", group=replace(GROUP, act=False))
    assert closed("failover", here) == ["act"]
    assert line("failover", here) == "lb-probe publish epmm --to b --offline --reason '...'"


def test_republish_under_act_false_has_no_line_that_helps():
    here = world(ON_A, None, group=replace(GROUP, act=False))
    assert (closed("republish", here), line("republish", here)) == (["act"], "")


@pytest.mark.parametrize(
    ("saved", "paste_line"),
    [
        (ON_B, "lb-probe status epmm"),
        (replace(ON_A, latched=True), "lb-probe failover epmm --reason '...'"),
        (Saved(None), "lb-probe failover epmm --reason '...'"),
    ],
)
def test_switchover_starts_on_the_primary_and_not_latched(saved, paste_line):
    """X13."""
    here = world(saved, "b")
    assert "on-primary" in closed("switchover", here)
    assert line("switchover", here) == paste_line


@pytest.mark.parametrize("says", [Mode.PRIMARY, Mode.UNKNOWN, None])
def test_switchover_wants_a_standby(says):
    assert closed("switchover", world(ON_A, "b", evidence=pages(b=says))) == ["standby-ready"]


# ------------------------------------------------------------------ the other verbs
@pytest.mark.parametrize(
    ("modes", "passed"),
    [
        ({"a": Mode.STANDBY, "b": Mode.PRIMARY}, True),
        ({"a": None, "b": None}, True),
        ({"a": None, "b": Mode.STANDBY}, False),
        ({"a": Mode.PRIMARY, "b": Mode.PRIMARY}, False),
    ],
)
def test_swap_roles_is_refused_by_nodes_that_contradict_it(modes, passed):
    here = world(ON_B, "b", evidence=pages(**modes))
    assert closed("swap-roles", here) == ([] if passed else ["roles-observed"])


def test_swap_roles_and_republish_want_a_node_with_the_traffic():
    swapped = pages(a=Mode.STANDBY, b=Mode.PRIMARY)
    for verb in ("swap-roles", "republish"):
        here = world(Saved(None), "b", evidence=swapped)
        assert closed(verb, here) == ["assigned"]
        assert line(verb, here) == "lb-probe failover epmm --to a --reason '...'"


@pytest.mark.parametrize(
    ("said", "passed"), [(("b", "b"), True), (("a", "b"), False), (("b", None), False)]
)
def test_accept_wants_load_balancers_that_agree(said, passed):
    views = tuple(AdapterView(f"edge-{n}", Seen(node)) for n, node in enumerate(said))
    assert closed("accept", world(adapters=views)) == ([] if passed else ["seen-agree"])


def test_accept_wants_load_balancers_that_can_be_read():
    here = world(adapters=(AdapterView("edge", Seen("b")), AdapterView("edge-2", None)))
    assert closed("accept", here) == ["seen-agree"]
    assert line("accept", here) == "lb-probe republish epmm --reason '...'"


def test_accept_while_nobody_has_the_traffic_names_failover():
    here = world(Saved(None), adapters=())
    assert line("accept", here) == "lb-probe failover epmm --to a --reason '...'"
    assert gate("accept", "seen-agree", here).found == "no load balancers"


@pytest.mark.parametrize("verb", ["hold", "ack"])
def test_verbs_that_move_nothing_have_no_gate(verb):
    assert judge(verb, world()) == ()


def test_release_without_a_hold_is_refused():
    assert closed("release", world()) == ["held"]
    held = replace(ON_A, hold=Hold("ops", "upgrade", 0.0))
    assert closed("release", world(held)) == []


def test_every_gate_a_group_may_require_carries_the_name_it_is_required_by():
    assert {name: judged(world()).id for name, judged in REQUIRABLE.items()} == {
        name: name for name in REQUIRABLE
    }


def test_nothing_that_stays_closed_to_an_override_lacks_a_way_on():
    """X5: a refusal is never the end; `act` without a node to publish is the one exception."""
    for verb in GATES:
        for here in (world(ON_A, "b"), world(ON_B, "b"), world(Saved(None), "b")):
            for found in judge(verb, here):
                assert found.open_with or found.instead, (verb, found)


# ------------------------------------------------------------------ words
def test_a_page_is_described_by_verdict_row_and_age():
    here = world(evidence=pages(dead=("b",)))
    assert describe(here, "a", Page.STATUS) == "2 good in a row, last 1.0s ago"
    assert describe(here, "b", Page.STATUS) == "2 failed in a row, last 1.0s ago"
    assert describe(world(evidence=Evidence(0.0)), "a", Page.STATUS) == "never probed"


def test_a_line_to_paste_skips_what_passed():
    gates = (Gate("one", True, "", ""), Gate("two", False, "", ""))
    assert paste("resume", world(), gates) == "lb-probe resume epmm --reason '...' --override two"
