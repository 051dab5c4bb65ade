"""The schedule on a loop whose time is a number: hours of probing in moments, and exact."""

import asyncio
import inspect
import itertools
import random
import selectors
import socket
import time
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from math import inf

import pytest
import uvloop

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
    Role,
)
from lb_probe.prober.http_probe import Engine, Target
from lb_probe.prober.schedule import GRID_S, Pace, Schedule, watch_references

PACE = Pace(interval_s=1.0, recheck_s=0.25, fall=3)
FAILED = Failed(Phase.BODY, "x")
TIMEOUT = Failed(Phase.TIMEOUT, "no answer")
BOTH_LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


class _Jump(selectors.SelectSelector):
    """Waits by moving the clock on."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while everybody waits."""

    def __init__(self):
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self):
        return self._jump.now

    def stand_still(self, seconds):
        """Let time pass while nothing runs, as a blocked loop or a sleeping machine does."""
        self._jump.now += seconds


def virtual(test):
    """Run an async test in virtual time."""

    def run(**fixtures):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(**fixtures))

    run.__signature__ = inspect.signature(test)
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


class World:
    """A schedule over pages that answer as told, and what it did."""

    def __init__(self, groups=1, pace=PACE, seed=1, pages=tuple(Page), timeout_s=1.0, **more):
        self.loop = asyncio.get_running_loop()
        self.starts = defaultdict(list)
        self.reports = []
        self.late = []
        self.stalls = []
        self.running = []
        self.most = 0  # under way at once, of one page
        self.took_s = 0.01
        self.takes = {}  # by page, where another
        self.hangs = set()
        self.bad = set()
        self.modes = {}
        self.doubts = []
        self.hurried = set()
        self.on_report = lambda group, observation: None
        targets = [
            (
                Target(f"g{number}", node, page, "http", "127.0.0.1", 80, "/", timeout_s=timeout_s),
                pace,
            )
            for number in range(groups)
            for node in ("a", "b")
            for page in pages
        ]
        self.keys = [(t.group, t.node, t.page) for t, _ in targets]
        options = {
            "report": self.report,
            "hurry": lambda *key: key in self.hurried,
            "clock": self.loop.time,
            "rng": random.Random(seed),
            "probe": self.probe,
            "late": self.late.append,
            "stalled": self.stalls.append,
            "doubt": lambda *key_and_word: self.doubts.append(key_and_word),
        }
        self.schedule = Schedule(targets, **options | more)

    async def probe(self, target, *, clock):
        key = (target.group, target.node, target.page)
        self.running.append(key)
        self.most = max(self.most, self.running.count(key))
        started = clock()
        self.starts[key].append(started)
        passed = Passed(self.modes.get(target.node) if target.page is Page.HASTATUS else None)
        outcome = FAILED if key in self.bad else passed
        try:
            async with asyncio.timeout(target.timeout_s):
                await asyncio.sleep(inf if key in self.hangs else self.takes.get(key, self.took_s))
        except TimeoutError:
            outcome = TIMEOUT
        finally:
            self.running.remove(key)
        return Observation(target.node, target.page, started, clock(), outcome)

    def report(self, group, observation):
        self.reports.append((group, observation))
        self.on_report(group, observation)

    async def run_for(self, seconds):
        try:
            async with asyncio.timeout(seconds):
                await self.schedule.run()
        except TimeoutError:
            pass

    @asynccontextmanager
    async def probing(self):
        """Probe in the background until the block ends."""
        run = asyncio.ensure_future(self.schedule.run())
        try:
            yield
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError):
                await run

    async def first_start(self, key, after=0.0):
        """Wait for the first start of a page from `after` on, and return when it was."""
        while not [at for at in self.starts[key] if at >= after]:  # noqa: ASYNC110 virtual time
            await asyncio.sleep(0.001)
        return next(at for at in self.starts[key] if at >= after)

    def outcomes(self, key):
        return [o for g, o in self.reports if (g, o.node, o.page) == key]

    def gaps(self, key):
        starts = self.starts[key]
        return [b - a for a, b in itertools.pairwise(starts)]


KEY = ("g0", "a", Page.STATUS)


@virtual
async def test_each_page_is_asked_once_per_interval_without_drift():
    world = World(groups=3)
    await world.run_for(3600)
    for key in world.keys:
        starts = world.starts[key]
        assert len(starts) in {3600, 3601}
        assert starts[-1] - starts[0] == pytest.approx(len(starts) - 1, abs=0.01)
    assert max(world.late) < 0.01
    assert not world.stalls


@virtual
async def test_first_starts_are_spread_evenly_over_one_interval():
    world = World(groups=50)
    begun = world.loop.time()
    await world.run_for(1.5)
    firsts = sorted(world.starts[key][0] - begun for key in world.keys)
    assert len(firsts) == 200
    for place, first in enumerate(firsts):
        assert place / 200 - 0.002 <= first <= (place + 1) / 200 + GRID_S + 0.002
    same_node = [
        abs(world.starts[(g, n, Page.STATUS)][0] - world.starts[(g, n, Page.HASTATUS)][0])
        for g, n, page in world.keys
        if page is Page.STATUS
    ]
    assert sum(same_node) / len(same_node) > 0.1  # pages of one node are not in step


@virtual
async def test_what_is_asked_as_usual_starts_together_on_a_grid():
    world = World(groups=50, pace=Pace(0.99, 0.25, 3))
    await world.run_for(60)
    for key in world.keys:
        assert all(_off_grid(at) < 0.002 for at in world.starts[key])
        # An interval that is no multiple of the grid keeps its length, as a long run shows.
        starts = world.starts[key]
        assert starts[-1] - starts[0] == pytest.approx((len(starts) - 1) * 0.99, abs=GRID_S + 0.002)
    assert (
        len({round(at / GRID_S) for key in world.keys for at in world.starts[key]}) <= 60 / GRID_S
    )
    assert max(world.late) < 0.002


@virtual
async def test_what_is_in_doubt_does_not_wait_for_the_grid():
    world = World(pages=(Page.STATUS,), pace=Pace(1.0, 0.11, 5))
    world.bad.add(KEY)
    await world.run_for(3)
    assert world.gaps(KEY)[:4] == pytest.approx([0.11] * 4, abs=0.003)
    assert any(_off_grid(at) > 0.005 for at in world.starts[KEY])


def _off_grid(at):
    return min(at % GRID_S, GRID_S - at % GRID_S)


@virtual
async def test_another_seed_gives_another_spread():
    orders = []
    for seed in (1, 2):
        world = World(groups=5, seed=seed)
        await world.run_for(1.1)
        orders.append(sorted(world.keys, key=lambda key: world.starts[key][0]))
    assert orders[0] != orders[1]


@virtual
async def test_a_failing_page_is_rechecked_until_the_verdict_and_then_asked_as_usual():
    world = World()
    world.bad.add(KEY)
    await world.run_for(10)
    assert world.gaps(KEY)[:2] == pytest.approx([0.25, 0.25])
    assert world.gaps(KEY)[2:] == pytest.approx([1.0] * len(world.gaps(KEY)[2:]))
    other = ("g0", "b", Page.STATUS)
    assert world.gaps(other) == pytest.approx([1.0] * len(world.gaps(other)))


@virtual
async def test_a_pass_ends_the_recheck():
    world = World(pages=(Page.STATUS,))
    world.bad.add(KEY)
    world.on_report = lambda group, seen: seen.outcome == FAILED and world.bad.clear()
    await world.run_for(5)
    assert world.gaps(KEY)[0] == pytest.approx(0.25)
    assert world.gaps(KEY)[1:] == pytest.approx([1.0] * len(world.gaps(KEY)[1:]))


@virtual
async def test_a_hurried_page_is_asked_at_the_recheck_pace():
    world = World()
    world.hurried.add(KEY)
    await world.run_for(5)
    assert world.gaps(KEY) == pytest.approx([0.25] * len(world.gaps(KEY)))
    assert len(world.gaps(KEY)) >= 15


@virtual
async def test_hurry_is_asked_after_the_report():
    world = World()
    order = []
    world.on_report = lambda group, observation: order.append("report")
    world.schedule._hurry = lambda *key: bool(order.append("hurry"))
    await world.run_for(3)
    assert order[:6] == ["report", "hurry"] * 3


# ------------------------------------------------------------------ overlap
@pytest.mark.parametrize(("fall", "recheck_s"), [(3, 0.25), (2, 0.25), (5, 0.1), (1, 0.25)])
@virtual
async def test_a_page_that_hangs_has_failed_after_its_timeout_and_fall_less_one_rechecks(
    fall, recheck_s
):
    world = World(pace=Pace(1.0, recheck_s, fall))
    async with world.probing():
        await asyncio.sleep(5.3)
        world.hangs.add(KEY)
        hung_at = world.loop.time()
        began = await world.first_start(KEY, hung_at)
        await asyncio.sleep(4)
    assert began - hung_at <= 1.0
    failures = [o for o in world.outcomes(KEY) if o.outcome == TIMEOUT]
    took = failures[fall - 1].ended_at - began
    assert took == pytest.approx(1.0 + (fall - 1) * recheck_s, abs=0.005)
    assert world.most == fall


@virtual
async def test_every_failure_of_a_page_that_hangs_had_its_full_timeout_and_is_told_once():
    world = World(pages=(Page.STATUS,))
    world.hangs.add(KEY)
    await world.run_for(20)
    seen = world.outcomes(KEY)
    assert all(o.ended_at - o.started_at == pytest.approx(1.0) for o in seen)
    assert len({o.started_at for o in seen}) == len(seen)
    told = {o.started_at for o in seen}
    assert [at for at in world.starts[KEY] if at not in told] == world.starts[KEY][len(told) :]
    assert world.most <= PACE.fall


@virtual
async def test_a_page_whose_verdict_stands_is_asked_as_usual_though_it_hangs():
    world = World(pages=(Page.STATUS,))
    world.hangs.add(KEY)
    await world.run_for(30)
    # The third failure is the verdict; what was under way then is waited for.
    offsets = [at - world.starts[KEY][0] for at in world.starts[KEY]]
    assert offsets[:6] == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.25, 2.25], abs=0.005)
    assert world.gaps(KEY)[6:] == pytest.approx([1.0] * len(world.gaps(KEY)[6:]), abs=0.01)


@virtual
async def test_a_page_that_hung_is_asked_anew_before_the_verdict():
    """A short cut of our own link hits all overlapped probes at once; it must not be enough."""
    world = World(pages=(Page.STATUS,))
    async with world.probing():
        await world.schedule.cycle_done.wait()
        world.hangs.add(KEY)
        began = await world.first_start(KEY, world.loop.time())
        await asyncio.sleep(began + 0.6 - world.loop.time())
        world.hangs.clear()
        await asyncio.sleep(2)
    ends = [o for o in world.outcomes(KEY) if o.started_at >= began]
    assert [o.outcome for o in ends[:2]] == [TIMEOUT, Passed()]
    assert ends[1].started_at == pytest.approx(began + 1.0, abs=0.005)
    assert all(o.outcome == Passed() for o in ends[1:])


@virtual
async def test_a_pass_ends_the_overlap_and_leaves_nothing_under_way():
    world = World(pages=(Page.STATUS,))
    world.takes[KEY] = 0.6
    async with world.probing():
        began = await world.first_start(KEY)
        await asyncio.sleep(0.59)
        assert world.running.count(KEY) == 3
        await asyncio.sleep(0.02)
        assert KEY not in world.running
        await asyncio.sleep(0.9)
    offsets = [at - began for at in world.starts[KEY]]
    assert offsets == pytest.approx([0.0, 0.25, 0.5, 1.0], abs=0.005)
    assert len(world.outcomes(KEY)) == 1


@pytest.mark.parametrize("took_s", [0.2, 0.3, 0.45, 0.7, 0.99])
@virtual
async def test_a_page_that_is_always_slow_is_not_asked_more_often(took_s):
    world = World()
    world.takes[KEY] = took_s
    await world.run_for(600)
    assert len(world.starts[KEY]) == pytest.approx(600, abs=4)
    assert all(o.outcome == Passed() for o in world.outcomes(KEY))


@virtual
async def test_a_page_that_became_quick_again_is_doubted_early_again():
    world = World(pages=(Page.STATUS,))
    world.takes[KEY] = 0.45
    async with world.probing():
        await asyncio.sleep(20)
        world.takes.clear()
        await asyncio.sleep(40)
        world.hangs.add(KEY)
        began = await world.first_start(KEY, world.loop.time())
        await asyncio.sleep(0.9)
    beside = [at - began for at in world.starts[KEY] if at > began]
    assert beside == pytest.approx([0.25, 0.5], abs=0.005)


@virtual
async def test_a_page_slower_than_half_its_timeout_that_hangs_fails_one_timeout_later():
    world = World(pages=(Page.STATUS,))
    world.takes[KEY] = 0.7
    async with world.probing():
        await asyncio.sleep(20)
        world.hangs.add(KEY)
        began = await world.first_start(KEY, world.loop.time())
        await asyncio.sleep(4)
    third = [o for o in world.outcomes(KEY) if o.outcome == TIMEOUT][2]
    assert third.ended_at - began == pytest.approx(1.0 + 0.25 + 1.0, abs=0.01)


@virtual
async def test_a_failure_that_is_an_answer_ends_the_overlap():
    """The probe that hangs goes on, and counts when it ends; the others keep the recheck pace."""
    world = World(pages=(Page.STATUS,), pace=Pace(1.0, 0.25, 4), timeout_s=3.0)
    async with world.probing():
        await world.schedule.cycle_done.wait()
        world.hangs.add(KEY)
        began = await world.first_start(KEY, world.loop.time())
        world.hangs.clear()
        world.bad.add(KEY)
        await asyncio.sleep(5)
    ends = [o for o in world.outcomes(KEY) if o.started_at >= began]
    offsets = [o.started_at - began for o in ends]
    assert offsets[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.005)
    assert [o.outcome for o in ends if o.started_at == began] == [TIMEOUT]
    assert world.most == 2


@virtual
async def test_a_late_pass_leaves_the_failures_that_started_after_it():
    world = World(pages=(Page.STATUS,))
    async with world.probing():
        await world.schedule.cycle_done.wait()
        world.takes[KEY] = 0.4
        began = await world.first_start(KEY, world.loop.time())
        world.takes.clear()
        world.bad.add(KEY)
        # The one under way was judged when it began, and passes; the one beside it fails.
        await asyncio.sleep(3)
    ends = [o for o in world.outcomes(KEY) if o.started_at >= began]
    assert [o.outcome for o in ends[:2]] == [FAILED, Passed()]
    starts = [at - began for at in world.starts[KEY] if at >= began]
    assert starts[:5] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.75], abs=0.01)


@virtual
async def test_what_a_dropped_probe_still_says_is_not_heard():
    flights = []

    class Deaf:
        def cancel(self):
            pass

    def start(target, done):
        flights.append((target, done, world.loop.time()))
        return Deaf()

    def end(number, outcome):
        target, done, started = flights[number]
        done(Observation(target.node, target.page, started, world.loop.time(), outcome))

    world = World(pages=(Page.STATUS,), start=start)
    async with world.probing():
        await asyncio.sleep(1.9)
        key = (flights[0][0].node, flights[0][0].page)
        mine = [n for n, (t, _, _) in enumerate(flights) if (t.node, t.page) == key]
        assert len(mine) == 3
        end(mine[0], Passed())
        end(mine[1], FAILED)
        end(mine[0], FAILED)
        await asyncio.sleep(0.01)  # room for an error to end the run
    end(mine[2], FAILED)
    assert [seen.outcome for _, seen in world.reports] == [Passed()]


@virtual
async def test_doubt_is_told_before_any_result_and_hurries_who_waits():
    waiting = ("g0", "b", Page.HASTATUS)
    world = World(groups=2, pace=Pace(30.0, 0.5, 3), timeout_s=10.0)

    def doubt(*key, is_doubtful):
        world.doubts.append((key, is_doubtful, world.loop.time()))
        (world.hurried.add if is_doubtful else world.hurried.discard)(waiting)

    world.schedule._doubt = lambda g, n, p, word: doubt(g, n, p, is_doubtful=word)
    async with world.probing():
        await world.schedule.cycle_done.wait()
        world.hangs.add(KEY)
        began = await world.first_start(KEY, world.loop.time())
        asked = len(world.starts[waiting])
        await asyncio.sleep(5)
        assert [(k, w) for k, w, _ in world.doubts] == [(KEY, True)]
        assert world.doubts[0][2] == pytest.approx(began + 0.5, abs=0.005)
        assert not world.schedule._slots[KEY].failed
        assert len(world.starts[waiting]) - asked >= 8
        await asyncio.sleep(5.1)
        assert [w for _, w, _ in world.doubts] == [True, False]
    others = [at for key in world.keys if key[0] == "g1" for at in world.starts[key]]
    assert len(others) <= 8


@virtual
async def test_a_doubt_ends_with_its_schedule():
    world = World(pages=(Page.STATUS,))
    world.hangs.add(KEY)
    async with world.probing():
        await world.first_start(KEY)
        await asyncio.sleep(0.3)
    assert world.doubts == [(*KEY, True)]
    async with world.probing():
        await asyncio.sleep(0)
    assert world.doubts == [(*KEY, True), (*KEY, False)]


@virtual
async def test_a_loop_that_was_away_doubts_nobody_before_it_has_read_what_came():
    world = World(groups=10)
    world.took_s = 0.2
    async with world.probing():
        await world.schedule.cycle_done.wait()
        await asyncio.sleep(0.001)  # what starts now has begun
        world.loop.stand_still(0.4)
        count = {key: len(starts) for key, starts in world.starts.items()}
        await asyncio.sleep(0.3)
        assert not world.doubts
        assert all(len(world.starts[key]) <= count[key] + 1 for key in world.keys)


@virtual
async def test_twenty_pages_that_do_as_they_like_stay_on_plan():
    world = World(groups=10, pages=(Page.STATUS,))
    rng = random.Random(7)
    slow, hung, bad = world.keys[:5], world.keys[5:8], world.keys[8:11]
    world.takes |= {key: rng.uniform(0.1, 0.9) for key in slow}
    world.hangs |= {*hung}
    world.bad |= {*bad}
    await world.run_for(300)
    for key in world.keys:
        more = 6 if key in hung or key in bad else 3
        assert len(world.starts[key]) == pytest.approx(300, abs=more)
    plain = world.keys[11:]
    for key in plain:
        assert world.gaps(key) == pytest.approx([1.0] * len(world.gaps(key)), abs=0.005)
    assert world.most <= PACE.fall
    assert max(world.late) < 0.02
    assert not world.stalls


@pytest.mark.parametrize("seed", range(4))
@virtual
async def test_no_cut_of_our_own_link_moves_traffic_though_probes_overlap(seed):
    """Both nodes are well all the time, and nothing but the overlap's order of ends is unusual."""
    rng = random.Random(seed)
    world = World(seed=seed)
    nodes = (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True))
    group = Group("g0", nodes, confirm_s=0.0)
    world.modes = {"a": Mode.PRIMARY, "b": Mode.STANDBY}
    evidence, actions = [Evidence(floor=world.loop.time())], set()

    def on_report(name, seen):
        evidence[0] = ev.fold(evidence[0], seen, group, "b")
        now = world.loop.time()
        found = ev.situation(evidence[0], group, "a", Automation.ARMED, now)
        decision = decide(found)
        actions.add(decision.action)
        is_open = ev.is_doubtful(evidence[0], group, now) or decision.action is Action.REPROBE
        (open_.add if is_open else open_.discard)("verdict")
        hurry(name)

    def doubt(name, node, page, is_on):
        if (node, page) == ("a", Page.STATUS):
            (open_.add if is_on else open_.discard)("overdue")
            hurry(name)

    def hurry(name):
        (world.hurried.add if open_ else world.hurried.discard)(("g0", "b", Page.HASTATUS))
        world.schedule.quicken(name)

    open_ = set()
    world.on_report = on_report
    world.schedule._doubt = doubt
    async with world.probing():
        for _ in range(150):
            await asyncio.sleep(rng.uniform(3, 6))
            world.hangs |= {*world.keys}
            await asyncio.sleep(rng.choice((rng.uniform(0.05, 1.5), rng.uniform(1, 5))))
            for key in rng.sample(world.keys, 4):  # a little apart, as links come back
                world.hangs.discard(key)
                await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 0.05))))
    assert Action.REPROBE in actions
    assert Action.FAIL_OVER not in actions


@virtual
async def test_a_slow_probe_delays_its_next_start_where_nothing_is_doubted():
    world = World(pace=Pace(1.0, 2.0, 3), timeout_s=1.8)
    world.took_s = 1.6
    await world.run_for(20)
    assert world.gaps(KEY) == pytest.approx([1.6] * len(world.gaps(KEY)))
    assert world.most == 1
    assert max(world.late) < 0.01


# ------------------------------------------------------------------ asked for by hand
@virtual
async def test_probe_now_starts_at_once_and_the_next_follows_after_its_delay():
    world = World(pace=Pace(10.0, 1.0, 3))
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run_for(60))
        await asyncio.sleep(15)
        asked = world.loop.time()
        world.schedule.probe_now(*KEY)
        await run
    nearest = min(world.starts[KEY], key=lambda start: abs(start - asked))
    assert nearest == pytest.approx(asked, abs=0.002)
    after = world.starts[KEY][world.starts[KEY].index(nearest) + 1]
    assert after - nearest == pytest.approx(10.0, abs=0.01)


@virtual
async def test_probe_now_leaves_a_running_probe_alone():
    world = World(pace=Pace(10.0, 5.5, 3), pages=(Page.STATUS,), timeout_s=6.0)
    world.took_s = 5.0
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run_for(45))
        await asyncio.sleep(10.0)
        assert KEY in world.running
        for _ in range(5):
            world.schedule.probe_now(*KEY)
            await asyncio.sleep(0.1)
        await run
    assert world.gaps(KEY) == pytest.approx([10.0] * len(world.gaps(KEY)), abs=0.01)


@virtual
async def test_probe_now_from_within_a_report_is_not_lost():
    world = World(pace=Pace(100.0, 1.0, 3))
    left = [1, 1]
    world.on_report = lambda group, seen: left and left.pop() and world.schedule.probe_now(*KEY)
    await world.run_for(100)
    assert len(world.starts[KEY]) >= 2


@virtual
async def test_probe_now_knows_its_pages_and_needs_a_running_schedule():
    world = World()
    with pytest.raises(KeyError):
        world.schedule.probe_now("g0", "nobody", Page.STATUS)
    world.schedule.probe_now(*KEY)
    world.schedule.quicken("g0")
    await asyncio.sleep(1)
    assert not world.starts


@virtual
async def test_quicken_pulls_the_hurried_pages_of_the_group_forward():
    world = World(groups=2, pace=Pace(60.0, 2.0, 3))
    waiting = ("g0", "b", Page.HASTATUS)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run_for(100))
        await world.schedule.cycle_done.wait()
        counts = {key: len(starts) for key, starts in world.starts.items()}
        world.hurried.add(waiting)
        world.schedule.quicken("g1")
        world.schedule.quicken("no such group")
        await asyncio.sleep(0)
        assert counts == {key: len(starts) for key, starts in world.starts.items()}
        world.schedule.quicken("g0")
        world.schedule.quicken("g0")
        await asyncio.sleep(2.1)
        changed = {key for key in world.keys if len(world.starts[key]) > counts[key]}
        assert waiting in changed
        assert len(world.starts[waiting]) in {2, 3}
        assert all(gap >= 2.0 - 0.002 for gap in world.gaps(waiting))
        world.hurried.clear()
        await run
    assert all(gap > 50 for key in world.keys for gap in world.gaps(key) if key != waiting)


@virtual
async def test_quicken_keeps_the_recheck_distance():
    world = World(pace=Pace(60.0, 2.0, 3))

    def on_report(group, observation):
        if (group, observation.node, observation.page) == KEY and not world.hurried:
            world.loop.call_later(0.5, world.hurried.add, KEY)
            world.loop.call_later(0.5, world.schedule.quicken, group)

    world.on_report = on_report
    await world.run_for(70)
    assert world.gaps(KEY)[0] == pytest.approx(2.0, abs=0.002)


@virtual
async def test_a_loop_that_stood_still_makes_no_burst_and_says_so_once():
    world = World(groups=25)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run_for(40))
        await asyncio.sleep(10.001)
        before = {key: world.starts[key][-1] for key in world.keys}
        waiting = set(world.keys) - set(world.running)
        world.loop.stand_still(7.3)
        resumed = world.loop.time()
        await run
    assert len(world.stalls) == 1
    assert 6.0 < world.stalls[0] <= 7.3
    assert max(world.late) == world.stalls[0]
    assert len(waiting) > 90
    for key in waiting:
        after = [start for start in world.starts[key] if start >= resumed]
        gaps = [b - a for a, b in itertools.pairwise(after)]
        assert 0.49 <= gaps[0] <= 1.51  # one probe now, and then its old place in the plan
        assert gaps[1:] == pytest.approx([1.0] * len(gaps[1:]), abs=0.01)
        place = (after[1] - before[key]) % 1.0
        assert min(place, 1.0 - place) < 0.01


@virtual
async def test_a_start_that_is_a_little_late_keeps_its_place_in_the_plan():
    world = World(pages=(Page.STATUS,))
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run_for(10))
        await world.schedule.cycle_done.wait()
        first = world.starts[KEY][0]
        await asyncio.sleep(max(0.0, first + 0.9 - world.loop.time()))
        world.loop.stand_still(0.3)
        await run
    assert not world.stalls
    assert world.starts[KEY][1] - first == pytest.approx(1.2, abs=0.02)
    assert world.starts[KEY][2] - first == pytest.approx(2.0, abs=0.01)


@virtual
async def test_the_cycle_is_done_when_every_page_was_reported_once():
    world = World(groups=4)
    seen = set()

    def on_report(group, observation):
        assert not world.schedule.cycle_done.is_set() or len(seen) == len(world.keys)
        seen.add((group, observation.node, observation.page))

    world.on_report = on_report
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run_for(3))
        await world.schedule.cycle_done.wait()
        assert seen == set(world.keys)
        await run


@virtual
async def test_a_schedule_without_pages_is_ready_and_waits():
    world = World(groups=0)
    assert world.schedule.cycle_done.is_set()
    await world.run_for(7200)
    assert not world.reports


@virtual
async def test_running_probes_are_cancelled_on_exit():
    world = World(timeout_s=2e6)
    world.took_s = 1e6
    await world.run_for(2)
    assert len(world.starts) == 4
    assert world.most == 3
    assert not world.running
    assert not world.reports


@virtual
async def test_a_schedule_can_be_run_again():
    world = World(timeout_s=2e6)
    world.took_s = 1e6
    await world.run_for(2)
    before = len(world.starts[KEY])
    world.took_s = 0.01
    again = world.loop.time()
    world.loop.call_later(0.001, world.schedule.probe_now, *KEY)
    await world.run_for(5)
    assert world.starts[KEY][before] == pytest.approx(again, abs=0.003)
    assert {(g, o.node, o.page) for g, o in world.reports} == set(world.keys)


@pytest.mark.parametrize("part", ["report", "hurry", "late", "stalled", "probe"])
def test_a_callback_that_raises_ends_the_run(part):
    async def scenario():
        def broken(*args, **more):
            raise RuntimeError(part)

        world = World(**{part: broken})
        run = asyncio.ensure_future(world.schedule.run())
        await asyncio.sleep(0.3)
        if part == "stalled":
            asyncio.get_running_loop().stand_still(5)
        with pytest.raises(RuntimeError, match=part):
            await run
        assert not world.running

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())


@virtual
async def test_a_page_given_twice_is_refused():
    target = Target("g", "a", Page.STATUS, "http", "127.0.0.1", 80, "/")
    with pytest.raises(ValueError, match="twice"):
        Schedule(
            [(target, PACE)] * 2,
            report=print,
            hurry=bool,
            clock=asyncio.get_running_loop().time,
            rng=random.Random(1),
        )


@pytest.mark.parametrize("values", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1)])
def test_an_impossible_pace_is_refused(values):
    with pytest.raises(ValueError, match="use times above 0"):
        Pace(*values)


@virtual
async def test_asking_again_and_again_does_not_fill_the_heap_for_ever():
    world = World(groups=2)
    world.hurried.update(world.keys)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run_for(300))
        for _ in range(2900):
            await asyncio.sleep(0.1)
            world.schedule.quicken("g0")
            world.schedule.probe_now(*KEY)
        assert len(world.schedule._agenda) < 60
        await run


@BOTH_LOOPS
def test_a_hundred_groups_are_probed_over_real_sockets(loop_factory):
    """The whole prober for two seconds, against one server that answers every page."""

    connected = set()

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            connected.add(self)

        def connection_lost(self, error):
            connected.discard(self)

        def data_received(self, data):
            mode = b" (Mode: Standby)" if b"hastatus" in data else b""
            body = b"MOBILEIRON-STATUS: OK" + mode
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.transport.write(head + body)
            self.transport.close()

    async def scenario():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1000)
        port = server.sockets[0].getsockname()[1]
        paths = {Page.STATUS: "/status/status.html", Page.HASTATUS: "/hastatus.html"}
        targets = [
            (Target(f"g{n}", node, page, "http", "127.0.0.1", port, path, timeout_s=20.0), PACE)
            for n in range(100)
            for node in "ab"
            for page, path in paths.items()
        ]
        reports = []
        engine = Engine(time.monotonic)
        schedule = Schedule(
            targets,
            report=lambda group, observation: reports.append(observation),
            hurry=lambda *key: False,
            clock=time.monotonic,
            rng=random.Random(1),
            start=engine.start,
        )
        run = asyncio.ensure_future(schedule.run())
        await asyncio.wait_for(schedule.cycle_done.wait(), 30)
        await asyncio.sleep(2.0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await asyncio.sleep(0.1)  # what was accepted last is made known to the server
        engine.close()
        server.close()
        await server.wait_closed()
        async with asyncio.timeout(20):
            while connected:  # noqa: ASYNC110 there is no event for all of them
                await asyncio.sleep(0.01)
        assert len(reports) >= 800
        assert all(isinstance(o.outcome, Passed) for o in reports)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@BOTH_LOOPS
def test_a_real_node_that_accepts_and_never_answers_is_known_to_fail_before_two_timeouts(
    loop_factory,
):
    async def scenario(port):
        failures = asyncio.Queue()
        target = Target("g", "a", Page.STATUS, "http", "127.0.0.1", port, "/", timeout_s=2.0)
        engine = Engine(time.monotonic)
        schedule = Schedule(
            [(target, Pace(0.5, 0.1, 3))],
            report=lambda group, observation: failures.put_nowait(observation),
            hurry=lambda *key: False,
            clock=time.monotonic,
            rng=random.Random(1),
            start=engine.start,
        )
        run = asyncio.ensure_future(schedule.run())
        seen = [await asyncio.wait_for(failures.get(), 30) for _ in range(3)]
        run.cancel()
        await asyncio.wait([run])
        engine.close()
        assert [o.outcome.phase for o in seen] == [Phase.TIMEOUT] * 3
        assert all(o.ended_at - o.started_at >= 1.99 for o in seen)
        assert seen[2].ended_at - seen[0].started_at < 4.0

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):
        runner.run(scenario(silent.getsockname()[1]))


@BOTH_LOOPS
def test_reference_targets_are_watched_together_and_reported_by_name(loop_factory):
    async def scenario(open_port, closed_port):
        reports = asyncio.Queue()
        addresses = {"up": ("127.0.0.1", open_port), "down": ("127.0.0.1", closed_port)}
        watch = asyncio.ensure_future(watch_references(addresses, 0.01, 5.0, reports.put_nowait))
        for _ in range(3):
            report = await asyncio.wait_for(reports.get(), 20)
            assert report == {"up": True, "down": False}
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch

    with socket.create_server(("127.0.0.1", 0)) as up, socket.socket() as down:
        down.bind(("127.0.0.1", 0))
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(scenario(up.getsockname()[1], down.getsockname()[1]))


async def test_a_report_of_references_that_raises_ends_the_watch():
    def broken(report):
        raise RuntimeError("report")

    with pytest.raises(RuntimeError, match="report"):
        await watch_references({}, 1.0, 1.0, broken)
