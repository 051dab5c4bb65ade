"""What each verb makes of the saved state: X1, X4, X5, X13, X16, R58."""

from dataclasses import replace

import pytest

from lb_probe.core import acts
from lb_probe.core.acts import Request, plan, target_of
from lb_probe.core.evidence import Evidence, fold
from lb_probe.core.model import (
    Group,
    Hold,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Role,
    Saved,
    Seen,
)
from lb_probe.core.resume import AdapterView, World

NODES = (
    Node("a", Role.PRIMARY),
    Node("b", Role.SECONDARY, candidate=True),
    Node("dr", Role.SECONDARY),
)
GROUP = Group("epmm", NODES, adapters=("edge",))
AT_HOME = Saved("a", generation=7)
ON_B = Saved("b", latched=True, acked="ops: seen", generation=7)
SYNCED = {"synced": "Completed 10:42Z"}


def seen_pages(**modes):
    """Two good answers of every status page, and what each hastatus page says."""
    evidence = Evidence(0.0)
    for at in (98.0, 99.0):
        for node in GROUP.names:
            pages = [(Page.STATUS, Passed())]
            if node in modes:
                pages.append((Page.HASTATUS, Passed(modes[node])))
            for page, outcome in pages:
                evidence = fold(evidence, Observation(node, page, at, at, outcome), GROUP, "b")
    return evidence


def ask(verb, saved=AT_HOME, *, group=GROUP, seen="a", evidence=None, **options):
    request = Request(verb, "ops", "because", 1000.0, **options)
    group = group.with_roles(saved.roles)
    world = World(
        group=group,
        saved=saved,
        evidence=evidence or seen_pages(a=Mode.PRIMARY, b=Mode.STANDBY),
        adapters=(AdapterView("edge", Seen(seen)),),
        target=target_of(request, group, saved.assigned),
        now=100.0,
    )
    return plan(request, world)


def closed(found):
    return [gate.id for gate in found.closed]


def test_resume_brings_traffic_home_and_ends_the_incident():
    found = ask("resume", ON_B, attest=SYNCED)
    assert (closed(found), found.source, found.target) == ([], "b", "a")
    assert (found.saved.assigned, found.saved.latched, found.saved.acked) == ("a", False, None)


def test_every_change_is_one_generation_on_and_says_who_and_why():
    change = (found := ask("resume", ON_B, attest=SYNCED)).saved.last_change
    assert found.saved.generation == ON_B.generation + 1
    assert (change.kind, change.source, change.target) == ("resume", "b", "a")
    assert (change.actor, change.reason, change.at_wall) == ("ops", "because", 1000.0)
    assert dict(change.notes) == {"attest synced": "Completed 10:42Z"}


def test_an_attested_gate_shows_the_words_and_who_said_them():
    gates = {gate.id: gate for gate in ask("resume", ON_B, attest=SYNCED).gates}
    assert gates["synced"].passed
    assert gates["synced"].found == "ops: Completed 10:42Z"


def test_an_overridden_gate_keeps_what_was_found_and_is_kept_in_the_change():
    found = ask("resume", ON_B, override=frozenset({"synced"}))
    gate = next(gate for gate in found.gates if gate.id == "synced")
    assert gate.found.startswith("overridden by ops; no agent vouches")
    assert dict(found.saved.last_change.notes) == {"override synced": "because"}


def test_an_empty_word_vouches_for_nothing():
    assert closed(ask("resume", ON_B, attest={"synced": ""})) == ["synced"]


def test_a_gate_that_opens_to_nothing_is_not_overridden():
    found = ask("resume", AT_HOME, override=frozenset({"moved", "synced"}))
    assert closed(found) == ["moved"]
    assert found.paste == "lb-probe status epmm"


def test_a_word_does_not_open_what_can_be_seen_from_here():
    both = seen_pages(a=Mode.PRIMARY, b=Mode.PRIMARY)
    found = ask("resume", ON_B, evidence=both, attest=SYNCED | {"single-primary": "trust me"})
    assert closed(found) == ["single-primary"]


def test_failover_latches():
    found = ask("failover")
    assert (closed(found), found.saved.assigned, found.saved.latched) == ([], "b", True)


def test_failover_to_the_third_site_is_by_name_only():
    """R34."""
    assert ask("failover").target == "b"
    assert ask("failover", to="dr").saved.assigned == "dr"


def test_failover_is_no_way_back():
    found = ask("failover", ON_B, to="a")
    assert closed(found) == ["not-a-resume"]
    assert found.paste == "lb-probe resume epmm --reason '...'"


def test_naming_the_primary_while_nobody_has_the_traffic_is_an_assignment_without_latch():
    found = ask("failover", Saved(None), to="a")
    assert (closed(found), found.saved.latched) == ([], False)
    assert found.saved.last_change.kind == "assign"


def test_switchover_wants_both_nodes_ready_and_latches():
    found = ask("switchover")
    assert (closed(found), found.saved.assigned, found.saved.latched) == ([], "b", True)
    assert closed(ask("switchover", evidence=Evidence(0.0))) == ["primary-serving", "standby-ready"]


@pytest.mark.parametrize("hands_off", [False, True])
def test_hold_and_release_move_nothing(hands_off):
    held = ask("hold", ON_B, until_wall=2000.0, hands_off=hands_off).saved
    assert held.hold == Hold("ops", "because", 2000.0, hands_off)
    assert (held.assigned, held.latched, held.acked) == ("b", True, "ops: seen")
    assert ask("release", held).saved.hold is None


def test_ack_arms_nothing():
    """X16."""
    found = ask("ack", replace(ON_B, acked=None)).saved
    assert (found.assigned, found.latched, found.acked) == ("b", True, "ops: because")


def test_swap_roles_after_a_move_leaves_traffic_and_ends_the_incident():
    """R58."""
    swapped = seen_pages(a=Mode.STANDBY, b=Mode.PRIMARY)
    found = ask("swap-roles", ON_B, evidence=swapped)
    assert (closed(found), found.saved.assigned, found.saved.latched) == ([], "b", False)
    group = GROUP.with_roles(found.saved.roles)
    assert (group.primary, group.candidate) == ("b", "a")


def test_swap_roles_with_traffic_on_the_old_primary_leaves_it_moved():
    swapped = seen_pages(a=Mode.STANDBY, b=Mode.PRIMARY)
    found = ask("swap-roles", AT_HOME, evidence=swapped)
    assert (found.saved.assigned, found.saved.latched) == ("a", True)
    assert GROUP.with_roles(found.saved.roles).primary == "b"


def test_swapping_twice_gives_the_roles_of_the_file():
    swapped = ask("swap-roles", ON_B, evidence=seen_pages(a=Mode.STANDBY, b=Mode.PRIMARY)).saved
    back = ask("swap-roles", swapped, evidence=seen_pages(a=Mode.PRIMARY, b=Mode.STANDBY)).saved
    assert GROUP.with_roles(back.roles) == GROUP


def test_a_third_site_that_becomes_primary_leaves_the_candidate_alone():
    on_dr = replace(ON_B, assigned="dr")
    found = ask("swap-roles", on_dr, evidence=seen_pages(dr=Mode.PRIMARY))
    group = GROUP.with_roles(found.saved.roles)
    assert (group.primary, group.candidate) == ("dr", "b")


@pytest.mark.parametrize(
    ("saved", "seen", "latched"),
    [(AT_HOME, "b", True), (AT_HOME, "a", False), (ON_B, "a", True), (Saved(None), "a", False)],
)
def test_accept_takes_what_is_seen_and_never_unlatches(saved, seen, latched):
    """X1: only resume and swap-roles end a latch."""
    found = ask("accept", saved, seen=seen)
    assert (closed(found), found.saved.assigned, found.saved.latched) == ([], seen, latched)


def test_accept_of_no_one_node_is_refused():
    found = ask("accept", seen=None)
    assert closed(found) == ["seen-agree"]
    assert found.paste == "lb-probe republish epmm --reason '...'"


def test_accept_without_any_load_balancer_is_refused_and_would_change_nothing():
    request = Request("accept", "ops", "because", 1000.0)
    found = plan(request, World(GROUP, AT_HOME, Evidence(0.0), (), None, 100.0))
    assert closed(found) == ["seen-agree"]
    assert found.saved.assigned == "a"


def test_republish_saves_nothing():
    found = ask("republish", ON_B)
    assert (closed(found), found.saved, found.target) == ([], None, "b")


@pytest.mark.parametrize("verb", ["resume", "failover", "switchover", "republish"])
def test_verbs_that_write_are_refused_under_act_false_and_hands_off(verb):
    """X4, X10."""
    saved = replace(AT_HOME, hold=Hold("ops", "upgrade", 2000.0, hands_off=True))
    everything = frozenset({"act", "hands-off"})
    found = ask(verb, saved, group=replace(GROUP, act=False), override=everything)
    assert {"act", "hands-off"} <= set(closed(found))


def test_the_rule_latches_and_keeps_its_evidence():
    held = replace(AT_HOME, acked="ops: seen", confirmed={"edge": 7}, fingerprint="x")
    after = acts.fail_over(held, "b", at_wall=5.0, rule="P9", condition="failing-over", why=("so",))
    assert (after.assigned, after.latched, after.acked, after.generation) == ("b", True, None, 8)
    change = after.last_change
    assert (change.kind, change.actor, change.rule, change.evidence) == (
        "failover",
        "lb-probe",
        "P9",
        ("so",),
    )


def test_what_the_prober_notes_at_start_keeps_everything_else():
    held = replace(AT_HOME, hold=Hold("ops", "upgrade", 2000.0))
    after = acts.by_itself(held, "adopt", "b", True, 5.0, "seen")
    assert (after.assigned, after.latched, after.hold, after.generation) == (
        "b",
        True,
        held.hold,
        8,
    )


def test_a_lapsed_hold_changes_nothing_else():
    held = replace(ON_B, hold=Hold("ops", "upgrade", 2000.0))
    assert replace(acts.lapse_hold(held, 5.0), last_change=None) == replace(ON_B, generation=8)
