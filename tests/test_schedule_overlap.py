"""Pages that hang: when they are doubted, asked once more, and known to fail."""

import asyncio
import random

import pytest
from schedule_world import FAILED, KEY, PACE, TIMEOUT, World, virtual

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.failover import decide
from lb_probe.core.model import (
    Action,
    Automation,
    Group,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Role,
)
from lb_probe.prober.schedule import Pace


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
