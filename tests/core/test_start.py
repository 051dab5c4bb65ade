"""Where a group begins: X1, X18, R54; and which changed files are refused."""

import pytest

from lb_probe.core.model import Group, Node, Role, Saved, Seen, agreed
from lb_probe.core.start import begin, topology_faults

NODES = (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True))
GROUP = Group("epmm", NODES, adapters=("edge", "edge-2"))
CONFIRMED = {"edge": 4, "edge-2": 4}
A, B = Seen("a", ("a",)), Seen("b", ("b",))
BOTH, NEITHER = Seen(None, ("a", "b")), Seen(None)


def start(saved, edge, edge_2, group=GROUP):
    found = begin(group, saved, {"edge": edge, "edge-2": edge_2})
    return found.kind, found.node, found.latched


@pytest.mark.parametrize(("seen", "latched"), [(A, False), (B, True)])
@pytest.mark.parametrize("saved", [None, Saved()])
def test_what_all_load_balancers_agree_on_is_adopted(saved, seen, latched):
    assert start(saved, seen, seen) == ("adopt", seen.node, latched)


@pytest.mark.parametrize(
    ("edge", "edge_2", "word"),
    [
        (A, B, "edge: a, edge-2: b"),
        (A, BOTH, "edge: a, edge-2: a and b"),
        (NEITHER, NEITHER, "edge: neither, edge-2: neither"),
        (A, None, "cannot read edge-2"),
        (None, None, "cannot read edge, edge-2"),
    ],
)
def test_what_they_do_not_agree_on_is_asserted_by_nobody(edge, edge_2, word):
    found = begin(GROUP, None, {"edge": edge, "edge-2": edge_2})
    assert (found.kind, found.node, found.latched) == ("unassigned", None, False)
    assert word in found.reason


def test_tiers_agree_on_the_node_that_is_right_for_all_of_them():
    """R43: the global tier knows sites, the local one not the other site."""
    site, local = Seen("a", ("a", "b"), also=("b",)), Seen("b", ("b",), also=("dr",))
    away = Seen("dr", ("dr",))
    assert start(None, site, local) == ("adopt", "b", True)
    assert start(None, away, local) == ("adopt", "dr", True)
    assert start(None, away, A)[:2] == ("unassigned", None)
    assert agreed([]) is None
    assert agreed([site, site]) == "a"


def test_a_reading_is_told_for_the_node_that_is_asked_for():
    site = Seen("a", ("a", "b"), also=("b",))
    assert site.told_for("a") is site.told_for(None) is site.told_for("dr") is site
    assert (site.told_for("b").node, site.told_for("b").also) == ("b", ("a",))
    assert Seen(None, also=("b",)).told_for("b").also == ()


def test_without_load_balancers_the_primary_has_the_traffic():
    found = begin(Group("epmm", NODES), None, {})
    assert (found.kind, found.node, found.latched) == ("assign", "a", False)


@pytest.mark.parametrize("seen", [A, B, BOTH, None])
def test_a_saved_change_that_was_not_confirmed_everywhere_is_finished(seen):
    saved = Saved("b", latched=True, generation=4, confirmed={"edge": 4, "edge-2": 3})
    assert start(saved, seen, seen) == ("finish", "b", True)


def test_an_adapter_that_never_confirmed_anything_is_named():
    saved = Saved("b", latched=True, generation=4, confirmed={"edge": 4})
    assert "not confirmed by edge-2" in begin(GROUP, saved, {}).reason


@pytest.mark.parametrize("other", [B, None])
def test_a_move_made_while_we_were_away_is_adopted_and_latched(other):
    saved = Saved("a", generation=4, confirmed=CONFIRMED)
    assert start(saved, B, other) == ("adopt", "b", True)


@pytest.mark.parametrize(("edge", "edge_2"), [(A, B), (BOTH, BOTH), (None, None), (A, None)])
def test_no_agreement_on_another_node_keeps_the_saved_primary(edge, edge_2):
    saved = Saved("a", generation=4, confirmed=CONFIRMED)
    assert start(saved, edge, edge_2) == ("keep", "a", False)


@pytest.mark.parametrize("seen", [A, B, BOTH, None])
def test_a_load_balancer_never_resumes_a_latched_group(seen):
    saved = Saved("b", latched=True, generation=4, confirmed=CONFIRMED)
    assert start(saved, seen, seen) == ("keep", "b", True)


@pytest.mark.parametrize(("seen", "expected"), [(A, ("adopt", "a")), (BOTH, ("unassigned", None))])
@pytest.mark.parametrize("latched", [True, False])
def test_a_node_that_was_dropped_by_name_is_not_kept_and_its_latch_is(seen, expected, latched):
    saved = Saved("c", latched=latched, generation=4, confirmed=CONFIRMED)
    assert start(saved, seen, seen) == (*expected, latched)
    assert "c, which had the traffic, is gone" in begin(GROUP, saved, {}).reason


# ------------------------------------------------------------------ a changed probes.yaml
URL = {"epmm": {"a": "url=192.0.2.1:443\nedge=srv-a", "b": "url=192.0.2.2:443\nedge=srv-b"}}


def faults(saved, *, groups=(GROUP,), prints=URL, allowed=()):
    return topology_faults(
        {"epmm": saved}, {group.name: group for group in groups}, prints, frozenset(allowed)
    )


def test_an_unchanged_file_has_no_fault():
    assert faults(Saved("b", latched=True, fingerprint=URL["epmm"]["b"])) == []
    assert faults(Saved("b", latched=True), prints={"epmm": {}}) == []


def test_a_latched_group_may_not_leave_the_file():
    (fault,) = faults(Saved("b", latched=True), groups=())
    assert "latched on b and is gone" in fault
    assert "was: epmm" in fault


def test_a_group_at_home_or_without_traffic_may_leave_the_file():
    assert faults(Saved("a"), groups=()) == []
    assert faults(Saved(None), groups=()) == []


def test_the_node_with_the_traffic_may_not_leave_the_file():
    (fault,) = faults(Saved("c", latched=True))
    assert "node c has the traffic and is gone" in fault


def test_the_node_with_the_traffic_may_not_become_another_server():
    (fault,) = faults(Saved("b", latched=True, fingerprint="url=192.0.2.99:443\nedge=srv-b"))
    assert "now points to another server" in fault


def test_a_load_balancer_that_came_or_went_is_no_other_server():
    old = "url=192.0.2.2:443\nedge-9=srv-b"
    assert faults(Saved("b", latched=True, fingerprint=old)) == []


def test_a_group_overridden_by_name_has_no_fault():
    assert faults(Saved("c", latched=True), allowed=["epmm"]) == []
