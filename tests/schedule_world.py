"""A schedule on a loop whose time is a number, over pages that answer as told."""

import asyncio
import inspect
import itertools
import random
import selectors
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from math import inf

import pytest
import uvloop

from lb_probe.core.model import (
    Failed,
    Observation,
    Page,
    Passed,
    Phase,
)
from lb_probe.prober.http_probe import Target
from lb_probe.prober.schedule import Pace, Schedule

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
