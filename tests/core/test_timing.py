"""Whether the computed windows are what the real schedule and the real core do, and what lints say.

The simulated times run on a loop whose clock jumps from timer to timer: the real `Schedule` starts
model probes, and the real `evidence` and `failover` judge them.
"""

import asyncio
import heapq
import itertools
import math
import random
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lb_probe.core import evidence as ev
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
)
from lb_probe.core.timing import Promotion, Timing, Window, detection, lints, promotion_window
from lb_probe.prober.http_probe import Target
from lb_probe.prober.schedule import Pace, Schedule

ANSWER_S = 0.001
LATE_S = 0.003
TICK_S = 0.25
EPMM = Promotion(interval_s=60, failures=3, recheck_s=10, timeout_s=5)
ROOMY = 1000.0  # a serving deadline that no lint is about
NODES = (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True))


class JumpingLoop(asyncio.SelectorEventLoop):
    """Never waits: its clock jumps to the next timer."""

    def __init__(self):
        self.at = 0.0
        super().__init__()

    def time(self):
        return self.at

    def _run_once(self):
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._ready and self._scheduled:
            self.at = max(self.at, self._scheduled[0]._when)
        super()._run_once()


@dataclass
class Simulation:
    """A pair whose Primary fails; `failed_over_s` is when the rule held, from the fault."""

    timing: Timing
    hangs: bool
    phase: float  # of the interval, from the start of a good probe to the fault
    seed: int = 0
    lasts_s: float = 0.0  # 0 for well beyond the window
    failed_over_s: float = math.inf
    is_overdue: bool = False
    healthy: list = field(default_factory=list)  # verdicts at the ticks before the fault

    def run(self):
        if self.lasts_s == 0.0:
            self.lasts_s = 5.0 + 3.0 * detection(self.timing, self.hangs).most_s
        t = self.timing
        self.group = Group(
            "epmm",
            NODES,
            fall=t.fall,
            rise=t.rise,
            confirm_s=t.confirm_s,
            max_age_s=t.max_age_s,
        )
        self.rng = random.Random(self.seed)
        self.evidence = ev.Evidence(floor=0.0)
        self.decision = None
        self.faulty_at = math.inf
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(self._story())
        return self

    async def _story(self):
        t = self.timing
        pace = Pace(t.interval_s, t.recheck_s, t.fall)
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        self.schedule = Schedule(
            [
                (
                    Target("epmm", *at, "http", "127.0.0.1", 1, "/", timeout_s=t.timeout_s),
                    pace,
                )
                for at in itertools.product("ab", Page)
            ],
            report=self._report,
            hurry=self._hurry,
            doubt=self._doubt,
            clock=self.loop.time,
            rng=self.rng,
            probe=self._probe,
        )
        running = [asyncio.ensure_future(self.schedule.run()), asyncio.ensure_future(self._tick())]
        await asyncio.sleep((t.rise + 2) * t.interval_s)
        slot = self.schedule._slots["epmm", "a", Page.STATUS]
        self.faulty_at = slot.base + (1.0 + self.phase) * t.interval_s
        with suppress(TimeoutError):
            await asyncio.wait_for(self.done.wait(), self.lasts_s)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _probe(self, target, *, clock):
        await asyncio.sleep(self.rng.uniform(0.0, LATE_S))
        started, outcome = clock(), Passed()
        if target.node == "b" and target.page is Page.STATUS:
            outcome = Failed(Phase.STATUS, "503 Service Unavailable")
        elif target.page is Page.HASTATUS:
            outcome = Passed(Mode.STANDBY if target.node == "b" else Mode.PRIMARY)
        took = ANSWER_S
        if target.node == "a" and started >= self.faulty_at:
            outcome = Failed(Phase.TIMEOUT if self.hangs else Phase.CONNECT_REFUSED, "gone")
            took += self.timing.timeout_s if self.hangs else 0.0
        await asyncio.sleep(took)
        return Observation(target.node, target.page, started, clock(), outcome)

    # As the controller does it.
    def _report(self, name, observation):
        self.evidence = ev.fold(self.evidence, observation, self.group, "b")
        self._judge()

    def _judge(self):
        now = self.loop.time()
        situation = ev.situation(self.evidence, self.group, "a", Automation.ARMED, now)
        self.decision = decide(situation)
        if self.decision.action is Action.FAIL_OVER:
            if math.isinf(self.failed_over_s):
                self.failed_over_s = now - self.faulty_at
            self.done.set()
        elif self.decision.action is Action.REPROBE or ev.is_doubtful(
            self.evidence, self.group, now
        ):
            self.schedule.quicken("epmm")

    def _doubt(self, name, node, page, is_doubtful):
        if (node, page) == ("a", Page.STATUS):
            self.is_overdue = is_doubtful

    def _hurry(self, name, node, page):
        if (node, page) != ("b", Page.HASTATUS):
            return False
        doubtful = ev.is_doubtful(self.evidence, self.group, self.loop.time())
        return (
            self.is_overdue
            or doubtful
            or (self.decision is not None and self.decision.action is Action.REPROBE)
        )

    async def _tick(self):
        while True:
            await asyncio.sleep(TICK_S)
            self._judge()
            if (self.timing.rise + 1) * self.timing.interval_s < self.loop.time() < self.faulty_at:
                self.healthy.append(ev.primary(self.evidence, self.group, self.loop.time()))


def simulate(timing, hangs, phase, **more):
    return Simulation(timing, hangs, phase, **more).run()


def by_id(timing):
    return {lint.id: lint for lint in lints(timing)}


# ------------------------------------------------------------------ windows
@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
@pytest.mark.parametrize(
    "timing",
    [
        Timing(),
        Timing(confirm_s=0.0),
        Timing(confirm_s=2.5),  # ends just as a probe does: either that one or the next
        Timing(confirm_s=3.7, timeout_s=0.6),
        Timing(confirm_s=4.0, timeout_s=2.0, max_age_s=5.0),
        Timing(interval_s=2.0, recheck_s=0.5, fall=2, confirm_s=3.0, timeout_s=0.4),
        Timing(fall=1, confirm_s=0.0, timeout_s=0.1),
        Timing(fall=1, confirm_s=0.0, timeout_s=0.1, recheck_s=0.8),
        Timing(fall=1, confirm_s=5.0),
        Timing(interval_s=0.5, recheck_s=1.0, confirm_s=3.7, timeout_s=0.7),
    ],
    ids=str,
)
def test_the_real_schedule_and_core_detect_within_the_window_and_the_window_is_tight(timing, hangs):
    window = detection(timing, hangs)
    steps = round(timing.interval_s / 0.05)
    seen = [
        simulate(timing, hangs, (step + 0.1) / steps, seed=2 * step + other).failed_over_s
        for step in range(steps)
        for other in range(2)
    ]
    slip = 0.1  # answers and starts that take a moment add up
    assert window.least_s - slip <= min(seen)
    assert max(seen) <= window.most_s + slip
    assert min(seen) <= window.least_s + 2 * timing.recheck_s
    assert max(seen) >= window.most_s - 2 * timing.recheck_s


@settings(deadline=None, max_examples=150)
@given(
    interval_s=st.sampled_from([0.3, 0.5, 1.0, 2.0, 5.0]),
    recheck_s=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    timeout_s=st.sampled_from([0.2, 0.5, 1.0, 3.0]),
    fall=st.integers(1, 5),
    confirm_s=st.one_of(st.just(0.0), st.floats(0.0, 15.0)),
    hangs=st.booleans(),
    phase=st.floats(0.02, 0.999),
    seed=st.integers(0, 9),
)
@example(  # a probe outlasts its timeout by a little, and so one of them fills `confirm`
    interval_s=0.3,
    recheck_s=0.1,
    timeout_s=0.5,
    fall=1,
    confirm_s=0.501,
    hangs=True,
    phase=0.5,
    seed=0,
)
def test_whatever_the_times_the_real_schedule_and_core_detect_within_the_window(
    hangs, phase, seed, **times
):
    timing = Timing(max_age_s=100.0, **times)
    window = detection(timing, hangs)
    seen = simulate(timing, hangs, phase, seed=seed).failed_over_s
    assert window.least_s - 0.2 <= seen <= window.most_s + 0.2


def test_the_secondary_promotes_itself_as_r57_computes_it():
    """R57."""
    assert promotion_window(EPMM) == Window(20.0, 95.0)
    assert promotion_window(replace(EPMM, failures=1)) == Window(0.0, 65.0)


def test_the_defaults_are_detected_well_before_the_secondary_promotes_itself():
    assert detection(Timing(), hangs=False) == Window(10.5, 11.5)
    assert detection(Timing(), hangs=True) == Window(10.25, 11.25)
    assert lints(Timing()) == ()
    assert lints(Timing(promotion=EPMM, serving_deadline_s=ROOMY)) == ()


# ------------------------------------------------------------------ the race
def test_overlapping_windows_are_told_with_both_windows_and_both_knobs():
    lint = by_id(Timing(promotion=EPMM, confirm_s=30.0, serving_deadline_s=ROOMY))["promotion-race"]
    assert lint.severity == "warning"
    assert lint.text == (
        "the Secondary may promote itself 20s to 95s after the fault, and detection takes 30.25s"
        " to 31.5s: where promotion wins, traffic stays (`promoted-early`) until an operator takes"
        " over; raise the Secondary's re-check (10s) to 16s, or lower `confirm` (30s) to 17s"
    )


def test_a_detection_that_ends_with_the_earliest_promotion_still_races():
    timing = Timing(promotion=EPMM, interval_s=19.375, timeout_s=0.125, confirm_s=0.0, max_age_s=60)
    assert detection(timing, hangs=True).most_s == promotion_window(EPMM).least_s
    assert "promotion-race" in by_id(timing)
    assert "promotion-race" not in by_id(replace(timing, interval_s=19.25))


def test_a_promotion_that_is_always_first_is_told_as_such():
    text = by_id(Timing(promotion=EPMM, confirm_s=600.0))["promotion-race"].text
    assert "promotion always wins, and traffic stays" in text


def test_confirm_is_not_offered_where_it_alone_does_not_win_the_race():
    quick = Timing(promotion=replace(EPMM, recheck_s=0.5))
    assert detection(replace(quick, confirm_s=0.0), hangs=True).most_s == 2.5
    assert "confirm" not in by_id(quick)["promotion-race"].text


def test_a_secondary_that_promotes_at_the_first_failure_is_told_to_wait_for_two():
    lint = by_id(Timing(promotion=replace(EPMM, failures=1)))["promotion-race"]
    assert "raise its number of failures (1) to 2 and the Secondary's re-check" in lint.text


@settings(deadline=None)
@given(
    interval_s=st.floats(0.1, 20.0),
    timeout_s=st.floats(0.1, 10.0),
    fall=st.integers(1, 6),
    confirm_s=st.floats(0.0, 120.0),
    failures=st.integers(1, 6),
    recheck_s=st.floats(0.1, 30.0),
)
def test_the_knob_that_a_race_names_ends_it(confirm_s, failures, recheck_s, **times):
    promotion = replace(EPMM, failures=failures, recheck_s=recheck_s)
    timing = Timing(promotion=promotion, confirm_s=confirm_s, max_age_s=100.0, **times)
    lint = by_id(timing).get("promotion-race")
    assume(lint is not None)
    again = float(lint.text.partition("re-check (")[2].partition(") to ")[2].partition("s")[0])
    calm = replace(promotion, recheck_s=again, failures=max(2, failures))
    assert "promotion-race" not in by_id(replace(timing, promotion=calm))
    if "lower `confirm`" in lint.text:
        enough = float(lint.text.rpartition(") to ")[2].rstrip("s"))
        assert enough < confirm_s
        assert "promotion-race" not in by_id(replace(timing, confirm_s=enough))


def test_keep_in_standby_has_no_race():
    kept = replace(EPMM, promotes=False)
    assert "promotion-race" not in by_id(Timing(promotion=kept, confirm_s=300.0))


# ------------------------------------------------------------------ max_age
def test_a_primary_that_hangs_longer_than_max_age_is_never_failed_over():
    timing = Timing(timeout_s=2.0, max_age_s=1.5, confirm_s=1.0)
    assert str(detection(timing, hangs=True)) == "never"
    assert math.isinf(simulate(timing, True, 0.5, lasts_s=60.0).failed_over_s)
    assert simulate(timing, False, 0.5).failed_over_s < 3.5
    lint = by_id(timing)["max-age-short"]
    assert lint.severity == "warning"
    assert lint.text == (
        "a reading may be 4s old before the next one is in (`interval` 1s, `timeout` 2s), and"
        " `max_age` is 1.5s: a probe that hangs is too old when it ends, so no failover follows"
        " it; raise `max_age` to 4s or more"
    )


def test_a_max_age_below_recheck_can_miss_the_failover_for_ever():
    timing = Timing(interval_s=2.0, recheck_s=1.0, timeout_s=0.05, max_age_s=0.1, confirm_s=1.0)
    runs = [simulate(timing, False, 0.5, seed=seed, lasts_s=60.0) for seed in range(10)]
    assert any(math.isinf(run.failed_over_s) for run in runs)
    assert "late or never" in by_id(timing)["max-age-short"].text


def test_a_max_age_below_interval_and_timeout_makes_conditions_flicker_and_no_more():
    timing = Timing(recheck_s=0.25, timeout_s=0.2, max_age_s=0.6, confirm_s=2.2)
    run = simulate(timing, False, 0.5)
    assert run.failed_over_s <= detection(timing, hangs=False).most_s + 0.1
    assert set(run.healthy) == {Primary.OK, Primary.UNKNOWN}
    assert "conditions flicker" in by_id(timing)["max-age-short"].text


def test_a_max_age_that_covers_interval_and_timeout_keeps_a_healthy_verdict():
    timing = Timing(timeout_s=0.2, max_age_s=1.2, confirm_s=2.2)
    assert set(simulate(timing, False, 0.5).healthy) == {Primary.OK}
    assert lints(timing) == ()


def test_max_age_covers_a_timeout_that_paces_the_probes():
    assert str(detection(Timing(timeout_s=3.0, max_age_s=3.0), hangs=True)) == "never"
    assert "raise `max_age` to 4s" in by_id(Timing(timeout_s=2.0))["max-age-short"].text
    assert "max-age-short" not in by_id(Timing(timeout_s=2.0, max_age_s=4.0))


# ------------------------------------------------------------------ the others
def test_a_serving_deadline_covers_the_latest_promotion_after_the_earliest_failover():
    lint = by_id(Timing(promotion=EPMM))["serving-deadline-short"]
    assert lint.severity == "warning"
    assert lint.text == (
        "after a failover it may take 86.75s until the Secondary is seen to serve (promotion takes"
        " 20s to 95s after the fault, detection 10.25s to 11.5s; `rise` 2 takes 2s), and"
        " `serving_deadline` is 60s: a node that is still coming up is reported as `not-serving`;"
        " raise `serving_deadline` to 87s"
    )
    assert lints(Timing(promotion=EPMM, serving_deadline_s=86.75)) == ()


def test_a_serving_deadline_covers_rise_where_nothing_is_promoted():
    short = Timing(serving_deadline_s=1.0, confirm_s=1.0)
    assert [lint.id for lint in lints(short)] == ["serving-deadline-short"]
    assert "promotion" not in lints(short)[0].text
    kept = Timing(serving_deadline_s=2.0, promotion=replace(EPMM, promotes=False))
    assert "serving-deadline-short" not in by_id(kept)


def test_a_promotion_that_is_over_before_the_failover_needs_no_time_of_its_own():
    late = Timing(confirm_s=600.0, promotion=EPMM, serving_deadline_s=2.0)
    assert "serving-deadline-short" not in by_id(late)
    assert "serving-deadline-short" in by_id(replace(late, serving_deadline_s=1.9))


def test_keep_in_standby_warns_where_a_failover_is_carried_out():
    kept = Timing(promotion=replace(EPMM, promotes=False))
    (lint,) = lints(kept)
    assert (lint.id, lint.severity) == ("keep-in-standby", "warning")
    assert "traffic moves 10.25s to 11.5s after the fault" in lint.text
    assert "60s (`serving_deadline`)" in lint.text
    assert lints(replace(kept, has_adapters=False)) == ()


def test_a_timeout_over_the_interval_is_noted_with_what_it_does_to_detection():
    (lint,) = lints(Timing(timeout_s=5.0, max_age_s=10.0))
    assert (lint.id, lint.severity) == ("timeout-over-interval", "note")
    assert (
        "goes on hanging is asked every 5s only, and detection takes 10s to 11s where it hangs"
        in lint.text
    )
    assert "10.5s to 11.5s where it refuses; lower `timeout` to 1s" in lint.text


def test_a_long_confirm_is_noted_with_the_outage_it_means():
    assert lints(Timing(confirm_s=60.0)) == ()
    (lint,) = lints(Timing(confirm_s=120.0))
    assert (lint.id, lint.severity) == ("confirm-long", "note")
    assert "keeps the traffic for 120s to 121.5s" in lint.text


def test_a_long_ttl_is_noted_with_when_clients_follow():
    assert lints(Timing(ttl_s=60.0)) == ()
    (lint,) = lints(Timing(ttl_s=300.0))
    assert (lint.id, lint.severity) == ("ttl-long", "note")
    assert "clients follow 10.25s to 311.5s after the fault" in lint.text


def test_warnings_come_before_notes():
    found = lints(Timing(timeout_s=5.0, ttl_s=300.0, confirm_s=90.0, promotion=EPMM))
    severities = [lint.severity for lint in found]
    assert severities == sorted(severities, reverse=True)
    assert len(set(severities)) == 2
