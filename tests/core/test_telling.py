"""When something is told: bad news at once, good news when it lasts, nothing twice (R97)."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lb_probe.core.notice import Severity, Stage
from lb_probe.core.telling import (
    CALM_S,
    LONGEST_CALM_S,
    Matter,
    Moment,
    Told,
    closed,
    judge,
    opened,
)

NONE = frozenset()
DOWN = Matter("condition", "no-standby", "blocked", "epmm: nothing moves", ended="epmm: well")
BARE = Matter("condition", "unprotected", "unprotected", "epmm: bare", settle_s=30.0)


def at(now: float) -> Moment:
    return Moment(now, 1_000_000.0 + now, "store", "epmm")


class Watcher:
    """What is known between two looks."""

    def __init__(self):
        self.told, self.pending, self.notices = Told(), {}, []

    def look(self, now, *matters, kept=NONE):
        self.told, self.pending, more = judge(self.told, self.pending, matters, at(now), kept)
        self.notices += more
        return [(n.stage.value, n.title) for n in more]

    def restart(self):
        self.pending = {}  # in memory only


def test_what_settles_is_told_once_and_its_end_once():
    w = Watcher()
    assert w.look(0.0, BARE) == []
    assert w.look(29.9, BARE) == []
    assert w.look(30.0, BARE) == [("open", "epmm: bare")]
    assert w.look(31.0, BARE) == []
    assert w.look(40.0) == []
    assert w.look(40.0 + CALM_S) == [("over", "epmm: over: unprotected")]
    assert w.look(200.0) == []
    first, last = w.notices
    assert first.alarm == last.alarm == "store/epmm/condition/1"
    assert first.key != last.key


def test_a_break_in_it_begins_the_wait_anew():
    w = Watcher()
    w.look(0.0, BARE)
    assert w.look(20.0) == []
    w.look(21.0, BARE)
    assert w.look(50.0, BARE) == []
    assert w.look(51.0, BARE) != []


def test_what_gets_worse_is_told_at_once_as_an_alarm_of_its_own():
    w = Watcher()
    w.look(0.0, BARE)
    w.look(30.0, BARE)
    assert w.look(31.0, DOWN) == [("open", "epmm: nothing moves")]
    worse = w.notices[-1]
    assert worse.replaces == "store/epmm/condition/1"
    assert worse.alarm == "store/epmm/condition/2"


def test_what_changes_within_a_class_is_told_under_the_same_alarm_a_little_later():
    other = Matter("condition", "unknown-mode", "blocked", "epmm: odd")
    w = Watcher()
    w.look(0.0, DOWN)
    assert w.look(1.0, other) == []
    assert w.look(1.0 + CALM_S / 4, other) == [("open", "epmm: odd")]
    assert len({n.alarm for n in w.notices}) == 1
    assert len({n.key for n in w.notices}) == 2


def test_what_is_meant_is_no_news_and_ends_nothing_that_was_told():
    """A hold that begins while a node is down does not say that it is up again."""
    meant = replace(BARE, is_meant=True)
    w = Watcher()
    assert w.look(0.0, meant) == w.look(100.0, meant) == []
    w.look(200.0, BARE)
    w.look(230.0, BARE)
    assert w.look(231.0, meant) == w.look(9999.0, meant) == []
    assert w.look(10_000.0, DOWN) != []
    assert w.look(10_001.0, meant) == []
    assert [stage for stage, _ in w.look(10_001.0 + CALM_S, meant)] == ["over"]  # of the worse


def test_a_start_tells_nothing_again():
    w = Watcher()
    w.look(0.0, DOWN)
    w.restart()
    assert w.look(1.0, DOWN) == []
    w.restart()
    assert w.look(2.0) == []
    assert w.look(2.0 + CALM_S) == [("over", "epmm: well")]


def test_a_topic_that_is_kept_elsewhere_is_left_alone():
    told, _ = opened(Told(), Matter("moved", "b", "failed-over", "epmm: moved"), at(0.0))
    told, pending, notices = judge(told, {}, (), at(1e6), frozenset({"moved"}))
    assert (list(told.alarms), pending, notices) == (["moved"], {}, [])
    told, notice = closed(told, "moved", at(2e6), title="epmm: home", event_class="resumed")
    assert told.alarms == {}
    assert notice.event_class == "resumed"
    assert notice.gravity is Severity.INFO
    assert notice.weight is Severity.CRITICAL  # who was woken by it hears of its end


def test_good_news_waits_longer_the_more_often_it_was_wrong():
    w, now, waits = Watcher(), 0.0, []
    for _ in range(9):
        w.look(now, DOWN)
        began = now
        while not w.look(now):
            now += 5.0
        waits.append(now - began)
        now += 5.0
    assert waits == sorted(waits)
    assert waits[0] == CALM_S
    assert waits[-1] >= LONGEST_CALM_S - 10.0


def test_what_was_over_for_long_begins_anew():
    w = Watcher()
    for begin in (0.0, 10_000.0):
        assert w.look(begin, DOWN) != []
        assert w.look(begin + 1.0) == []
        assert w.look(begin + 1.0 + CALM_S) != []


@given(st.lists(st.tuples(st.floats(0.1, 400.0), st.sampled_from([None, DOWN, BARE])), max_size=40))
def test_in_the_end_people_know_what_is_the_case_and_every_alarm_ends_once(steps):
    w, now = Watcher(), 0.0
    for seconds, matter in steps:
        now += seconds
        w.look(now, *([matter] if matter else []))
    last = steps[-1][1] if steps else None
    for _ in range(3):
        now += LONGEST_CALM_S
        w.look(now, *([last] if last else []))
    assert [alarm.word for alarm in w.told.alarms.values()] == ([last.word] if last else [])
    open_ones: set[str] = set()
    for notice in w.notices:
        if notice.stage is Stage.OPEN:
            open_ones = (open_ones - {notice.replaces}) | {notice.alarm}
        else:
            assert notice.alarm in open_ones
            open_ones -= {notice.alarm}
        assert len(open_ones) <= 1  # one thing of a topic at a time
    assert len({notice.key for notice in w.notices}) == len(w.notices)
