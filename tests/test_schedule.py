"""The schedule on a loop whose time is a number: hours of probing in moments, and exact."""

import asyncio
import heapq
import inspect
import itertools
import random
import selectors
import socket
import time
from collections import defaultdict

import pytest
import uvloop

from lb_probe.core.model import Failed, Observation, Page, Passed, Phase
from lb_probe.prober.http_probe import Target
from lb_probe.prober.schedule import Pace, Schedule, watch_references

PACE = Pace(interval_s=1.0, recheck_s=0.25, fall=3)
FAILED = Failed(Phase.BODY, "x")
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

    def __init__(self, groups=1, pace=PACE, seed=1, pages=tuple(Page), **more):
        self.loop = asyncio.get_running_loop()
        self.starts = defaultdict(list)
        self.reports = []
        self.late = []
        self.stalls = []
        self.running = set()
        self.took_s = 0.01
        self.bad = set()
        self.hurried = set()
        self.on_report = lambda group, observation: None
        targets = [
            (Target(f"g{number}", node, page, "http", "127.0.0.1", 80, "/"), pace)
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
        }
        self.schedule = Schedule(targets, **options | more)

    async def probe(self, target, *, clock):
        key = (target.group, target.node, target.page)
        assert key not in self.running
        self.running.add(key)
        started = clock()
        self.starts[key].append(started)
        try:
            await asyncio.sleep(self.took_s)
        finally:
            self.running.discard(key)
        outcome = FAILED if key in self.bad else Passed()
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
        assert place / 200 - 0.002 <= first <= (place + 1) / 200 + 0.002
    same_node = [
        abs(world.starts[(g, n, Page.STATUS)][0] - world.starts[(g, n, Page.HASTATUS)][0])
        for g, n, page in world.keys
        if page is Page.STATUS
    ]
    assert sum(same_node) / len(same_node) > 0.1  # pages of one node are not in step


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


@virtual
async def test_a_slow_probe_delays_its_next_start_and_never_overlaps():
    world = World()
    world.took_s = 1.6
    await world.run_for(20)
    assert world.gaps(KEY) == pytest.approx([1.6] * len(world.gaps(KEY)))
    assert max(world.late) < 0.01


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
    world = World(pace=Pace(10.0, 1.0, 3), pages=(Page.STATUS,))
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
        await asyncio.sleep(10.0)
        before = {key: world.starts[key][-1] for key in world.keys}
        waiting = set(world.keys) - world.running
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
    world = World()
    world.took_s = 1e6
    await world.run_for(2)
    assert len(world.starts) == 4
    assert not world.running
    assert not world.reports


@virtual
async def test_a_schedule_can_be_run_again():
    world = World()
    world.took_s = 1e6
    await world.run_for(2)
    world.took_s = 0.01
    again = world.loop.time()
    world.loop.call_later(0.001, world.schedule.probe_now, *KEY)
    await world.run_for(5)
    assert world.starts[KEY][1] == pytest.approx(again, abs=0.003)
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
        with pytest.raises(ExceptionGroup) as caught:
            await run
        assert caught.group_contains(RuntimeError, match=part)
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
        assert len(world.schedule._heap) < 60
        assert world.schedule._heap[0] == heapq.nsmallest(1, world.schedule._heap)[0]
        await run


@BOTH_LOOPS
def test_a_hundred_groups_are_probed_over_real_sockets(loop_factory):
    """The whole prober for two seconds, against one server that answers every page."""

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

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
        schedule = Schedule(
            targets,
            report=lambda group, observation: reports.append(observation),
            hurry=lambda *key: False,
            clock=time.monotonic,
            rng=random.Random(1),
        )
        run = asyncio.ensure_future(schedule.run())
        await asyncio.wait_for(schedule.cycle_done.wait(), 30)
        await asyncio.sleep(2.0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        server.close()
        await server.wait_closed()
        assert len(reports) >= 800
        assert all(isinstance(o.outcome, Passed) for o in reports)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


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
