"""What counts as evidence, and above all what does not: X19, X22, R51-R53."""

import itertools
from dataclasses import dataclass, replace

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.failover import decide
from lb_probe.core.model import (
    Action,
    Automation,
    Failed,
    Group,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Primary,
    Role,
    Says,
    Secondary,
    Serving,
    Traffic,
)

GROUP = Group(
    "epmm",
    (
        Node("a", Role.PRIMARY),
        Node("b", Role.SECONDARY, candidate=True),
        Node("dr", Role.SECONDARY),
    ),
    fall=3,
    rise=2,
    confirm_s=1.0,
    max_age_s=3.0,
    serving_deadline_s=10.0,
)
OK = Passed()
STANDBY, PRIMARY, ODD = Passed(Mode.STANDBY), Passed(Mode.PRIMARY), Passed(Mode.UNKNOWN)
REFUSED = Failed(Phase.CONNECT_REFUSED, "connection refused")
ERROR = Failed(Phase.STATUS, "503 Service Unavailable")
LOCAL = Failed(Phase.LOCAL, "this machine could not connect: Too many open files")


def probe(node, page, at, outcome, took=0.0):
    return Observation(node, page, at, at + took, outcome)


def status(node, at, outcome, took=0.0):
    return probe(node, Page.STATUS, at, outcome, took)


def hastatus(node, at, outcome, took=0.0):
    return probe(node, Page.HASTATUS, at, outcome, took)


def known(*observations, floor=0.0, watched="b", group=GROUP):
    evidence = Evidence(floor)
    for observation in observations:
        evidence = ev.fold(evidence, observation, group, watched)
    return evidence


def fails(node, *times):
    return [status(node, at, REFUSED) for at in times]


def outage(*, standby_at):
    """The Primary fails from 10 to 12; the Secondary answered before and at `standby_at`."""
    history = [
        hastatus("b", 1, STANDBY),
        *fails("a", 10, 11, 12),
        hastatus("b", standby_at, STANDBY),
    ]
    return known(*sorted(history, key=lambda o: o.started_at))


def situation(evidence, now, assigned="a"):
    return ev.situation(evidence, GROUP, assigned, Automation.ARMED, now)


def moves(evidence, now):
    return decide(situation(evidence, now)).action is Action.FAIL_OVER


# ------------------------------------------------------------------ the rule
def test_three_failures_over_confirm_beside_a_newer_standby_move_traffic():
    assert moves(outage(standby_at=12), now=12)


def test_a_standby_read_as_the_first_failure_began_is_new_enough():
    assert moves(outage(standby_at=10), now=12)


def test_a_standby_read_before_the_first_failure_is_stale():
    evidence = outage(standby_at=9.9)
    assert situation(evidence, 12).secondary is Secondary.STALE
    assert decide(situation(evidence, 12)).action is Action.REPROBE


def test_two_failures_are_no_verdict():
    evidence = known(hastatus("b", 9, STANDBY), *fails("a", 10, 12), hastatus("b", 12, STANDBY))
    assert situation(evidence, 12).primary is Primary.UNKNOWN


def test_failures_shorter_than_confirm_are_no_verdict():
    times = (10, 10.25, 10.5, 10.75)
    evidence = known(hastatus("b", 9, STANDBY), *fails("a", *times), hastatus("b", 10.75, STANDBY))
    assert situation(evidence, 10.75).primary is Primary.UNKNOWN


def test_a_failure_that_lasts_until_confirm_is_over_counts_to_its_end():
    failures = [status("a", at, REFUSED, took=0.25) for at in (10, 10.25, 10.75)]
    evidence = known(hastatus("b", 9, STANDBY), *failures, hastatus("b", 10.75, STANDBY))
    assert moves(evidence, now=11)


def test_one_pass_between_failures_begins_the_count_again():
    history = [*fails("a", 10, 11), status("a", 11.5, OK), *fails("a", 12, 13)]
    evidence = known(hastatus("b", 9, STANDBY), *history, hastatus("b", 13, STANDBY))
    assert situation(evidence, 13).primary is Primary.UNKNOWN


def test_old_failures_do_not_count_when_the_secondary_begins_to_answer():
    """The prober's own link comes back, and the Secondary answers first."""
    cut = [probe(n, p, at, REFUSED) for at in (10, 11, 12) for n in "ab" for p in Page]
    back = known(hastatus("b", 9, STANDBY), *cut, hastatus("b", 13, STANDBY))
    assert situation(back, 13).primary is Primary.UNKNOWN


def test_a_failure_under_way_while_the_secondary_began_to_answer_does_not_count():
    """A probe can outlast a cut of our own link: what counts is when the answer was in hand."""
    history = [hastatus("b", 9, REFUSED), hastatus("b", 10, STANDBY, took=1)]
    history += [status("a", at, REFUSED) for at in (10.5, 11.5, 12.5)]
    evidence = known(*history, hastatus("b", 12.5, STANDBY))
    assert situation(evidence, 12.5).primary is Primary.UNKNOWN
    assert evidence.page("a", Page.STATUS).counted == 2


def test_a_secondary_whose_latest_probe_failed_is_stale_while_the_primary_fails():
    evidence = outage(standby_at=11)
    evidence = ev.fold(evidence, hastatus("b", 11.5, REFUSED), GROUP, "b")
    assert situation(evidence, 12).secondary is Secondary.STALE


def test_one_lost_probe_of_the_secondary_changes_nothing_while_the_primary_is_ok():
    history = [status("a", 8, OK), status("a", 9, OK), hastatus("b", 8, STANDBY)]
    evidence = known(*history, hastatus("b", 9, REFUSED))
    assert situation(evidence, 9).secondary is Secondary.STANDBY


def test_what_this_machine_cannot_do_is_no_failure_and_ends_the_row_of_them():
    """X15: no descriptor, no port: it says nothing of the node."""
    history = [hastatus("b", 9, STANDBY), *fails("a", 10, 11), status("a", 11.5, LOCAL)]
    evidence = known(*history, *fails("a", 12), hastatus("b", 12, STANDBY))
    assert evidence.page("a", Page.STATUS).fails == 3
    assert not moves(evidence, now=12)
    evidence = known(*history, *fails("a", 12, 13, 14), hastatus("b", 14, STANDBY))
    assert moves(evidence, now=14)
    lacking = [hastatus("b", at, LOCAL) for at in (10, 11, 12)]
    assert (
        situation(known(hastatus("b", 9.5, STANDBY), *lacking), 12).secondary is not Secondary.FAIL
    )


def test_the_other_nodes_do_not_raise_the_floor():
    evidence = known(hastatus("b", 1, STANDBY), *fails("a", 10, 11), hastatus("dr", 11, STANDBY))
    assert evidence.page("a", Page.STATUS).counted == 2


def test_raising_the_floor_forgets_what_counted_and_keeps_what_was_seen():
    evidence = ev.raise_floor(outage(standby_at=12), 12.5)
    page = evidence.page("a", Page.STATUS)
    assert (page.fails, page.failing_since, page.counted) == (3, 10, 0)
    assert not moves(evidence, now=12.5)


def test_a_floor_never_sinks():
    evidence = outage(standby_at=12)
    assert ev.raise_floor(evidence, evidence.floor) is evidence
    assert ev.raise_floor(evidence, evidence.floor - 1) is evidence


# ------------------------------------------------------------------ out of order
def test_a_reading_from_before_the_one_held_is_dropped():
    evidence = known(hastatus("b", 5, PRIMARY))
    assert ev.fold(evidence, hastatus("b", 4, STANDBY), GROUP, "b") is evidence


def test_a_failure_from_before_the_latest_pass_does_not_count():
    evidence = known(status("a", 1, OK), status("a", 3, OK))
    assert ev.fold(evidence, status("a", 2, REFUSED, took=2), GROUP, "b") is evidence


def test_a_late_failure_among_failures_counts_once_and_does_not_become_the_last():
    history = [hastatus("b", 9, STANDBY), status("a", 9, OK), *fails("a", 11, 12)]
    evidence = known(*history, status("a", 10, REFUSED, took=2.5), hastatus("b", 12, STANDBY))
    page = evidence.page("a", Page.STATUS)
    assert (page.fails, page.counted, page.failing_since, page.counted_since) == (3, 3, 10, 10)
    assert page.last.started_at == 12
    assert moves(evidence, now=12.5)


def test_a_late_failure_from_before_the_floor_is_seen_and_does_not_count():
    evidence = ev.raise_floor(known(*fails("a", 10)), 10.5)
    for failure in (status("a", 12, REFUSED), status("a", 10.25, REFUSED, took=2)):
        evidence = ev.fold(evidence, failure, GROUP, "b")
    page = evidence.page("a", Page.STATUS)
    assert (page.fails, page.counted, page.counted_since) == (3, 1, 12)


def test_a_late_pass_ends_the_failures_from_before_it_and_no_others():
    evidence = known(*fails("a", 10, 11, 12, 13), status("a", 11.5, OK, took=2))
    page = evidence.page("a", Page.STATUS)
    assert (page.fails, page.counted, page.failing_since, page.counted_since) == (2, 2, 12, 12)
    assert page.last.started_at == 13
    assert page.answered.started_at == 11.5
    assert page.passes == 0
    assert not moves(ev.fold(evidence, hastatus("b", 13, STANDBY), GROUP, "b"), now=13.5)


def test_a_late_pass_from_before_all_failures_ends_none():
    evidence = known(*fails("a", 10, 11, 12), status("a", 9.5, OK, took=3))
    page = evidence.page("a", Page.STATUS)
    assert (page.fails, page.counted, page.answered.started_at) == (3, 3, 9.5)


def test_failures_that_a_late_pass_leaves_count_only_from_the_floor_on():
    evidence = ev.raise_floor(known(*fails("a", 10, 11, 12)), 12.5)
    evidence = ev.fold(evidence, status("a", 10.5, OK, took=2), GROUP, "b")
    page = evidence.page("a", Page.STATUS)
    assert (page.fails, page.counted, page.counted_since) == (2, 0, 0.0)


def test_of_a_long_row_a_late_pass_leaves_at_most_fall_failures():
    evidence = known(*fails("a", *range(10, 20)), status("a", 10.5, OK, took=9))
    page = evidence.page("a", Page.STATUS)
    assert (page.fails, page.counted_since) == (GROUP.fall, 17)


def test_a_late_pass_of_a_page_that_fails_since_does_not_make_it_answer():
    history = [hastatus("b", 9, STANDBY), hastatus("b", 11, REFUSED)]
    evidence = known(*history, *fails("a", 9.5, 10, 11), hastatus("b", 10, STANDBY, took=1.2))
    assert evidence.floor == 9, "the floor is where it was: its next answer is what raises it"
    assert situation(evidence, 11.2).secondary is Secondary.STALE


# ------------------------------------------------------------------ a slow twin
@dataclass
class Twin:
    """Answers from the whole list of observations, every time anew."""

    fall: int
    observations: list
    floors: list
    is_surer: bool = False  # it remembers failures that the fold was free to forget

    def page(self, node, page):
        mine = [o for o in self.observations if (o.node, o.page) == (node, page)]
        return sorted(mine, key=lambda o: o.started_at)

    def observe(self, seen):
        if seen.outcome is LOCAL:
            self.floors.append(seen.ended_at)
            return
        before = self.page(seen.node, seen.page)
        passed = isinstance(seen.outcome, Passed)
        is_newest = not before or seen.started_at >= before[-1].started_at
        answered = before and isinstance(before[-1].outcome, Passed)
        if (seen.node, seen.page) == ("b", Page.HASTATUS) and passed and is_newest and not answered:
            self.floors.append(seen.ended_at)
        newer = [o for o in self.latest_run(before, Failed) if o.started_at > seen.started_at]
        self.is_surer |= passed and len(newer) > self.fall
        self.observations.append(seen)

    @staticmethod
    def latest_run(history, kind):
        backwards = itertools.takewhile(lambda o: isinstance(o.outcome, kind), reversed(history))
        return list(backwards)[::-1]

    def may_move(self, group, now):
        answers = self.latest_run(self.page(group.candidate, Page.HASTATUS), Passed)
        if not answers:
            return False
        floor = max(self.floors)
        failures = self.latest_run(self.page(group.primary, Page.STATUS), Failed)
        counted = [o for o in failures if o.started_at >= floor]
        if len(counted) < group.fall:
            return False
        first, last, reading = counted[0], counted[-1], answers[-1]
        return (
            last.ended_at - first.started_at >= group.confirm_s
            and now - last.started_at <= group.max_age_s
            and reading.outcome.mode is Mode.STANDBY
            and reading.started_at >= first.started_at
            and now - reading.started_at <= group.max_age_s
        )


PAGES = [(node, page) for node in "ab" for page in Page]
TICK = 0.25
OUTCOMES = {
    Page.STATUS: [REFUSED] * 6 + [ERROR, ERROR, OK, OK, LOCAL],
    Page.HASTATUS: [STANDBY] * 6 + [PRIMARY, PRIMARY, ODD, ODD, REFUSED, REFUSED, LOCAL],
}


@st.composite
def histories(draw):
    """Probes of four pages, which may overlap, and moments that raise the floor."""
    happenings = []
    longest = draw(st.sampled_from([0, 6]))  # 0: each page's one after the other
    for node, page in PAGES:
        at = 0
        for _ in range(draw(st.integers(0, 14))):
            at += draw(st.integers(0, 5))
            took = draw(st.integers(1, longest or 4))
            outcome = draw(st.sampled_from(OUTCOMES[page]))
            happenings.append(probe(node, page, at * TICK, outcome, took * TICK))
            at += 0 if longest else took
    happenings += [at * TICK for at in draw(st.lists(st.integers(0, 40), max_size=1))]
    return sorted(happenings, key=_when)


def _when(happening):
    return happening.ended_at if isinstance(happening, Observation) else happening


def _moment(ended_at):
    return probe("a", Page.STATUS, ended_at - TICK, REFUSED, TICK)


@settings(deadline=None, max_examples=400)
@given(histories(), st.integers(0, 14), st.integers(2, 4), st.sampled_from([0.0, 1.0, 2.0]))
@example(
    [hastatus("b", 0, STANDBY, 0.25), *map(_moment, (1, 2, 3)), hastatus("b", 3, STANDBY, 0.25)],
    0,
    3,
    1.0,
)
def test_traffic_moves_when_the_whole_history_supports_it_and_only_then(
    history, later, fall, confirm_s
):
    """X19, R53: the fold that forgets agrees with a twin that remembers everything."""
    group = replace(GROUP, fall=fall, confirm_s=confirm_s)
    evidence, twin = Evidence(floor=0.0), Twin(fall, [], [0.0])
    for happening in history:
        if isinstance(happening, Observation):
            evidence = ev.fold(evidence, happening, group, "b")
            twin.observe(happening)
        else:
            evidence = ev.raise_floor(evidence, happening)
            twin.floors.append(happening)
        for now in (_when(happening), _when(happening) + later * TICK):
            found = ev.situation(evidence, group, "a", Automation.ARMED, now)
            is_moving = decide(found).action is Action.FAIL_OVER
            event(f"moves: {is_moving}")
            assert twin.may_move(group, now) or not is_moving
            assert is_moving or twin.is_surer or not twin.may_move(group, now)


# ------------------------------------------------------------------ the columns one by one
def test_a_reading_exactly_as_old_as_allowed_is_fresh():
    reading = hastatus("b", 10, STANDBY, took=1)
    assert ev.is_fresh(reading, 13, 3.0)
    assert not ev.is_fresh(reading, 13.01, 3.0)
    assert not ev.is_fresh(None, 13, 3.0)


def test_a_reading_from_the_future_means_two_clocks_were_mixed():
    with pytest.raises(ValueError, match="lies after now"):
        ev.is_fresh(hastatus("b", 10, STANDBY), 9, 3.0)


def test_a_primary_that_was_never_or_long_ago_probed_is_unknown():
    assert situation(known(), 10).primary is Primary.UNKNOWN
    assert situation(known(*fails("a", 1, 2, 3)), 10).primary is Primary.UNKNOWN


def test_a_primary_is_ok_after_rise_passes():
    evidence = known(status("a", 1, OK))
    assert situation(evidence, 1).primary is Primary.UNKNOWN
    evidence = ev.fold(evidence, status("a", 2, OK), GROUP, "b")
    assert situation(evidence, 2).primary is Primary.OK


def test_a_good_primary_is_ok_at_its_first_pass_after_a_blip():
    history = [status("a", 1, OK), status("a", 2, OK), *fails("a", 3, 4), status("a", 5, OK)]
    assert situation(known(*history), 5).primary is Primary.OK


def test_a_failed_primary_needs_rise_passes_again():
    history = [status("a", 1, OK), status("a", 2, OK), *fails("a", 3, 4, 5), status("a", 6, OK)]
    assert situation(known(*history), 6).primary is Primary.UNKNOWN


@pytest.mark.parametrize(
    ("outcome", "says"),
    [(STANDBY, Says.STANDBY), (PRIMARY, Says.OTHER), (ODD, Says.OTHER), (ERROR, Says.OTHER)],
)
def test_only_a_fresh_standby_of_the_primary_itself_is_heard(outcome, says):
    evidence = known(hastatus("a", 10, outcome))
    assert situation(evidence, 10).says is says
    assert situation(evidence, 14).says is Says.OTHER


@pytest.mark.parametrize(
    ("outcome", "secondary"),
    [
        (STANDBY, Secondary.STANDBY),
        (PRIMARY, Secondary.PRIMARY),
        (ODD, Secondary.UNKNOWN_MODE),
        (Passed(), Secondary.UNKNOWN_MODE),
    ],
)
def test_the_secondary_is_what_its_page_says(outcome, secondary):
    evidence = known(hastatus("b", 10, outcome))
    assert situation(evidence, 10).secondary is secondary
    assert situation(evidence, 14).secondary is Secondary.STALE


def test_a_secondary_is_failed_after_fall_failures_and_stale_before():
    evidence = known(hastatus("b", 1, REFUSED), hastatus("b", 2, REFUSED))
    assert situation(evidence, 2).secondary is Secondary.STALE
    evidence = ev.fold(evidence, hastatus("b", 3, REFUSED), GROUP, "b")
    assert situation(evidence, 3).secondary is Secondary.FAIL


def test_an_answer_older_than_its_limit_does_not_live_on_behind_fresh_failures():
    evidence = known(hastatus("b", 1, STANDBY), hastatus("b", 5, REFUSED))
    assert situation(evidence, 5).secondary is Secondary.STALE


@pytest.mark.parametrize(
    ("assigned", "where", "node"),
    [
        (None, Traffic.UNASSIGNED, "b"),
        ("a", Traffic.PRIMARY, "b"),
        ("b", Traffic.MOVED, "b"),
        ("dr", Traffic.MOVED, "dr"),
    ],
)
def test_the_node_to_watch_is_the_candidate_or_the_one_with_the_traffic(assigned, where, node):
    assert ev.traffic(GROUP, assigned) is where
    assert ev.watched(GROUP, assigned) == node


# ------------------------------------------------------------------ serving, after a move
def moved(*observations, moved_at=10.0):
    return replace(known(*observations), moved_at=moved_at)


def test_serving_is_not_judged_before_a_move():
    evidence = known(status("b", 1, OK), status("b", 2, OK))
    assert situation(evidence, 2).serving is Serving.UNKNOWN


def test_a_node_is_waited_for_until_the_deadline():
    evidence = moved(*fails("b", 10, 11, 12, 19))
    assert situation(evidence, 19.9, "b").serving is Serving.WAITING
    assert situation(evidence, 20, "b").serving is Serving.NO


def test_what_a_node_served_before_the_move_proves_nothing():
    evidence = moved(status("b", 8, OK), status("b", 9.5, OK))
    assert situation(evidence, 10, "b").serving is Serving.WAITING
    evidence = ev.fold(evidence, status("b", 10, OK), GROUP, "b")
    assert situation(evidence, 10, "b").serving is Serving.YES


def test_a_node_that_served_and_fails_is_not_waited_for_again():
    evidence = ev.arrived(moved(status("b", 10, OK), status("b", 11, OK)))
    assert ev.arrived(evidence) is evidence
    for failure in fails("b", 12, 13):
        evidence = ev.fold(evidence, failure, GROUP, "b")
    assert situation(evidence, 13, "b").serving is Serving.YES
    evidence = ev.fold(evidence, status("b", 14, REFUSED), GROUP, "b")
    assert situation(evidence, 14, "b").serving is Serving.NO


def test_a_node_that_failed_serves_again_after_rise_passes():
    evidence = known(*fails("b", 10, 11, 12), status("b", 13, OK))
    assert situation(evidence, 13, "b").serving is Serving.UNKNOWN
    evidence = ev.fold(evidence, status("b", 14, OK), GROUP, "b")
    assert situation(evidence, 14, "b").serving is Serving.YES
    assert situation(evidence, 18, "b").serving is Serving.UNKNOWN


def test_first_failures_of_an_unknown_node_are_no_verdict():
    evidence = known(*fails("b", 10, 11))
    assert situation(evidence, 11, "b").serving is Serving.UNKNOWN


def test_after_a_move_a_reading_counts_whenever_the_primary_began_to_fail():
    """Else every new failure of the old Primary would make the node with the traffic look down."""
    evidence = known(hastatus("b", 10, STANDBY), *fails("a", 10.5, 11, 12))
    assert situation(evidence, 12, "b").secondary is Secondary.STANDBY
    assert situation(evidence, 12, "a").secondary is Secondary.STALE


# ------------------------------------------------------------------ doubt and isolation
def test_a_primary_is_in_doubt_from_its_first_failure_to_the_verdict():
    evidence = known(status("a", 1, OK), status("a", 2, OK))
    assert not ev.is_doubtful(evidence, GROUP, 2)
    evidence = ev.fold(evidence, status("a", 3, REFUSED), GROUP, "b")
    assert ev.is_doubtful(evidence, GROUP, 3)
    assert not ev.is_doubtful(known(*fails("a", 3, 4, 5)), GROUP, 5)


def test_a_group_is_cut_off_only_while_no_page_answers_at_all():
    everything = [(node, page) for node in GROUP.names for page in Page]
    silent = [probe(node, page, 1, REFUSED) for node, page in everything]
    assert ev.is_cut_off(known(*silent), GROUP)
    assert not ev.is_cut_off(known(*silent[1:]), GROUP), "one page was never probed"
    assert not ev.is_cut_off(known(*silent, status("dr", 2, ERROR)), GROUP), "it was reached"
    assert not ev.is_cut_off(known(*silent, status("dr", 2, OK)), GROUP)
