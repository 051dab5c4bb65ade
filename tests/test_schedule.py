"""The schedule on a loop whose time is a number: hours of probing in moments, and exact."""

import asyncio
import itertools
import random
import socket
import time

import pytest
from schedule_world import BOTH_LOOPS, FAILED, KEY, PACE, VirtualLoop, World, virtual

from lb_probe.core.model import (
    Page,
    Passed,
    Phase,
)
from lb_probe.prober.http_probe import Engine, Target
from lb_probe.prober.schedule import GRID_S, Pace, Schedule, watch_references


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
