"""A look at a group is left out only where it would have found the same."""

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lb_probe.core import calm
from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.failover import decide
from lb_probe.core.model import (
    Action,
    Automation,
    Decision,
    Failed,
    Group,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Role,
    Serving,
)

NODES = (
    Node("a", Role.PRIMARY),
    Node("b", Role.SECONDARY, candidate=True),
    Node("dr", Role.SECONDARY),
)
GROUP = Group("epmm", NODES, confirm_s=1.0, serving_deadline_s=5.0)
REFUSED = Failed(Phase.CONNECT_REFUSED, "connection refused")
PASSED = {Page.STATUS: Passed(), Page.HASTATUS: Passed(Mode.STANDBY)}
OUTCOMES = {
    Page.STATUS: st.sampled_from([Passed(), Passed(), REFUSED]),
    Page.HASTATUS: st.sampled_from(
        [*(Passed(mode) for mode in (Mode.STANDBY, Mode.STANDBY, Mode.PRIMARY)), REFUSED]
    ),
}


def decided(evidence, assigned, now):
    automation = Automation.ARMED if assigned in (None, "a") else Automation.BLOCKED
    return decide(ev.situation(evidence, GROUP, assigned, automation, now))


@dataclass
class Watcher:
    """Looks as the controller does, and at every step once more, to compare."""

    assigned: str | None
    evidence: Evidence
    now: float = 0.0
    left_out: int = 0

    def __post_init__(self):
        self.look()

    def look(self):
        self.decision = decided(self.evidence, self.assigned, self.now)
        if self.decision.situation.serving is Serving.YES:
            self.evidence = ev.arrived(self.evidence)
        self.until = calm.quiet_until(self.evidence, GROUP, self.decision, self.now)
        self.doubtful = ev.is_doubtful(self.evidence, GROUP, self.now)

    def compare(self):
        self.left_out += 1
        again = decided(self.evidence, self.assigned, self.now)
        assert again == self.decision
        assert ev.is_doubtful(self.evidence, GROUP, self.now) is self.doubtful
        assert self.evidence.moved_at is None or again.situation.serving is not Serving.YES

    def tick(self):
        if self.now < self.until:
            self.compare()
        else:
            self.look()

    def take(self, node, page, outcome, took_s):
        seen = Observation(node, page, self.now - took_s, self.now, outcome)
        before = self.evidence
        self.evidence = ev.fold(before, seen, GROUP, ev.watched(GROUP, self.assigned))
        is_read = (node, page) in calm.pages_read(GROUP, self.assigned)
        if self.now < self.until and (
            not is_read or calm.is_plain(before, seen, GROUP, self.decision, self.now)
        ):
            self.compare()
        else:
            self.look()


PAGES = st.sampled_from([(n, page) for n in ("a", "a", "b", "b", "dr") for page in Page])


@given(
    assigned=st.sampled_from(["a", "a", "b", "dr", None]),
    moved_at=st.sampled_from([None, None, 0.0]),
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0]),  # time that passes
            st.sampled_from([0.0, 0.05, 0.05, 1.0, 4.0]),  # how long the probe took
            st.none() | PAGES,
            st.data(),
        ),
        max_size=60,
    ),
)
@settings(deadline=None, max_examples=300)
def test_look_that_is_left_out_would_have_found_the_same(assigned, moved_at, steps):
    watcher = settled(assigned) if assigned in ("a", "b") else Watcher(assigned, Evidence(-10.0))
    if moved_at is not None:
        watcher.evidence = replace(watcher.evidence, moved_at=watcher.now)
        watcher.look()
    for passes_s, took_s, page, data in steps:
        watcher.now += passes_s
        if page is None:
            watcher.tick()
        else:
            watcher.take(*page, data.draw(OUTCOMES[page[1]]), took_s)
    event(f"left out: {min(watcher.left_out, 5)} or more")


def settled(assigned="a"):
    """Return a watcher of a group where each page of a and b has passed for a while."""
    watcher = Watcher(assigned, Evidence(-10.0))
    for _ in range(4):
        watcher.now += 0.5
        for node in ("a", "b"):
            watcher.take(node, Page.STATUS, Passed(), 0.0)
            mode = Mode.PRIMARY if node == "a" else Mode.STANDBY
            watcher.take(node, Page.HASTATUS, Passed(mode), 0.0)
    watcher.look()
    return watcher


def plain(watcher, node, page, outcome, /, **changes):
    seen = replace(Observation(node, page, watcher.now, watcher.now, outcome), **changes)
    return calm.is_plain(watcher.evidence, seen, GROUP, watcher.decision, watcher.now)


def test_probes_of_a_settled_group_are_plain():
    watcher = settled()
    assert plain(watcher, "a", Page.STATUS, Passed())
    assert plain(watcher, "b", Page.HASTATUS, Passed(Mode.STANDBY))
    assert watcher.now + 2.9 < watcher.until < watcher.now + GROUP.max_age_s


@pytest.mark.parametrize(
    ("what", "page", "outcome", "changes"),
    [
        ("another mode", Page.HASTATUS, Passed(Mode.PRIMARY), {}),
        ("a failure", Page.HASTATUS, REFUSED, {}),
        ("a page never seen", Page.HASTATUS, Passed(Mode.STANDBY), {"node": "dr"}),
        ("older than what is known", Page.STATUS, Passed(), {"started_at": 0.5}),
        ("from the future", Page.STATUS, Passed(), {"started_at": 99.0}),
    ],
)
def test_what_says_something_new_is_not_plain(what, page, outcome, changes):
    assert not plain(settled(), "b", page, outcome, **changes), what


def test_reading_after_none_was_fresh_is_not_plain():
    watcher = settled()
    watcher.now += GROUP.max_age_s + 0.1
    assert not plain(watcher, "a", Page.STATUS, Passed())


def test_reading_of_the_secondary_is_not_plain_while_the_primary_fails():
    watcher = settled()
    watcher.take("a", Page.STATUS, REFUSED, 0.0)
    assert not plain(watcher, "b", Page.HASTATUS, Passed(Mode.STANDBY))


def test_reading_after_a_move_is_plain_once_the_node_serves():
    watcher = settled("b")
    watcher.take("a", Page.STATUS, REFUSED, 0.0)
    assert plain(watcher, "b", Page.STATUS, Passed())
    watcher.evidence = replace(watcher.evidence, moved_at=watcher.now)
    assert not plain(watcher, "b", Page.STATUS, Passed())


def test_answer_behind_a_fresh_failure_is_looked_at_when_it_turns_stale():
    watcher = settled()
    answered_at = watcher.now
    watcher.now += 2.5
    watcher.take("a", Page.STATUS, Passed(), 0.0)
    watcher.take("a", Page.HASTATUS, Passed(Mode.PRIMARY), 0.0)
    watcher.take("b", Page.STATUS, Passed(), 0.0)
    watcher.take("b", Page.HASTATUS, REFUSED, 0.0)
    assert watcher.decision.condition == "normal"
    assert watcher.until < answered_at + GROUP.max_age_s
    watcher.now = answered_at + GROUP.max_age_s + 0.1
    watcher.tick()
    assert watcher.decision.condition == "unprotected"


def test_deadline_of_a_move_is_looked_at_in_time():
    watcher = settled("b")
    evidence = replace(watcher.evidence, moved_at=watcher.now - 4.0)
    until = calm.quiet_until(evidence, GROUP, watcher.decision, watcher.now)
    assert watcher.now + 0.99 < until < watcher.now + 1.0


def test_action_is_asked_for_until_it_is_made():
    situation = settled().decision.situation
    for action in Action:
        until = calm.quiet_until(
            Evidence(0.0), GROUP, Decision("P9", action, "failing-over", situation), 5.0
        )
        assert until == (math.inf if action is Action.NONE else -math.inf)


def test_status_page_of_a_standby_is_not_read_and_that_of_a_node_with_traffic_is():
    assert calm.pages_read(GROUP, "a") == {
        ("a", Page.STATUS),
        ("a", Page.HASTATUS),
        ("b", Page.HASTATUS),
    }
    assert calm.pages_read(GROUP, None) == calm.pages_read(GROUP, "a")
    assert calm.pages_read(GROUP, "dr") == {(n, p) for n in ("a", "dr") for p in Page}
