"""How long a scrape of a thousand groups keeps the loop from its work.

The real controller, metrics and listener; 4,000 observations a second are fed on the loop by a
timer of 1 ms, which also measures for how long the loop was away. Another process scrapes, once a
second here. The first scrape builds every line; between the later ones one group in ten changes.

    python tests/bench/scrape.py [GROUPS] [SCRAPES]
"""

import asyncio
import gc
import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path

import uvloop
from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulated_world import ModelBalancer, ModelPublisher, ModelStore, Trap, pair

from lb_probe.admin.health import Health
from lb_probe.clock import SystemClock
from lb_probe.controller import Controller, Setup
from lb_probe.core.model import Failed, Mode, Observation, Page, Passed, Phase
from lb_probe.events.metrics import CONTENT_TYPE, Metrics, Snapshot
from lb_probe.groups import Groups
from lb_probe.pool import PoolController

PAUSE_S = 1.0
STEP_S = 0.001
PAGES = (
    ("a", Page.STATUS, Passed()),
    ("a", Page.HASTATUS, Passed(Mode.PRIMARY)),
    ("b", Page.STATUS, Failed(Phase.STATUS, "503 Service Unavailable")),
    ("b", Page.HASTATUS, Passed(Mode.STANDBY)),
)
SCRAPE = """
import sys, time, urllib.request
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    body = urllib.request.urlopen(sys.argv[1]).read()
    print(len(body), time.perf_counter() - began, flush=True)
    time.sleep(float(sys.argv[3]))
"""


class Feed:
    """Feeds observations at a steady rate; measures for how long the loop was away."""

    def __init__(self, controller, clock, groups):
        self._controller = controller
        self._clock = clock
        self._names = [f"group-{n}" for n in range(groups)]
        self._turn = itertools.cycle(itertools.product(PAGES, self._names))
        self.away_s = []
        self.spent_s = 0.0
        self.fed = 0

    def one(self, number):
        (node, page, outcome), name = next(self._turn)
        # Every tenth group's Standby goes and comes, so that there is something new to show.
        if node == "b" and name.endswith("7") and (number // 20_000) % 2:
            outcome = Failed(Phase.CONNECT_REFUSED, "connection refused")
        now = self._clock.monotonic()
        self._controller.observe(name, Observation(node, page, now, now, outcome))

    async def run(self):
        began = before = time.perf_counter()
        while True:
            await asyncio.sleep(STEP_S)
            now = time.perf_counter()
            self.away_s.append(now - before - STEP_S)
            due = int((now - began) * 4 * len(self._names))
            # No more than a millisecond's worth: what is late is spread, as real probes would be.
            for _ in range(min(due - self.fed, 12)):
                self.one(self.fed)
                self.fed += 1
            before = time.perf_counter()
            self.spent_s += before - now


async def bench(groups, scrapes, is_scraped):
    clock = SystemClock()
    metrics = Metrics(clock.wall)
    setups = []
    for number in range(groups):
        group = pair(name=f"group-{number}")
        metrics.know(group.name, group.names, group.adapters)
        setups.append(Setup(group, (ModelPublisher(ModelBalancer("edge", {"a"}), Trap()),)))
    store = ModelStore()
    controller = Controller(setups, store, clock, metrics)
    pools = PoolController([], store, clock, metrics, controller.recorder)
    everything = Groups(controller.names, controller, pools, store)
    await controller.start()
    gc.collect()
    gc.freeze()  # what the start made stays; to look through it takes the collector 60 ms
    taken = []

    async def take():
        began = time.perf_counter()
        views = await everything.views()
        taken.append(time.perf_counter() - began)
        snapshot = Snapshot(views, is_store_writable=True, is_config_good=True)
        return lambda: metrics.render(snapshot)

    health = Health(take, CONTENT_TYPE, trouble=lambda: "", unready=lambda: "")
    runner = web.AppRunner(health.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"

    async def tick():
        while True:
            await asyncio.sleep(0.25)
            controller.tick()

    feed = Feed(controller, clock, groups)
    for number in range(8 * groups):
        feed.one(number)
    tasks = [asyncio.ensure_future(feed.run()), asyncio.ensure_future(tick())]
    await asyncio.sleep(1.0)
    feed.away_s.clear()
    if is_scraped:
        line = [sys.executable, "-c", SCRAPE, url, str(scrapes), str(PAUSE_S)]
        client = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE)
        told, _ = await client.communicate()
        answers = [line.split() for line in told.decode().splitlines()]
    else:
        await asyncio.sleep(scrapes * (PAUSE_S + 0.1))
        answers = []
    for task in tasks:
        task.cancel()
    await runner.cleanup()
    return feed, answers, taken


def main():
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    scrapes = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    for name, run in (("uvloop", uvloop.run), ("asyncio", asyncio.run)):
        for is_scraped in (False, True):
            feed, answers, taken = run(bench(groups, scrapes, is_scraped))
            away = sorted(feed.away_s)
            what = f"{scrapes} scrapes" if is_scraped else "no scrape"
            late = ", ".join(
                f"{sum(one > limit for one in away)} over {limit * 1e3:g} ms"
                for limit in (0.005, 0.01, 0.02)
            )
            print(f"{name}, {groups} groups, {what}: longest stall {away[-1] * 1e3:.1f} ms; {late}")
            if answers:
                seconds = [float(seconds) for _, seconds in answers]
                print(
                    f"  {int(answers[-1][0]) / 1e6:.1f} MB; first answer {seconds[0]:.3f} s, later"
                    f" median {statistics.median(seconds[1:] or seconds):.3f} s; snapshot taken"
                    f" within {max(taken) * 1e3:.1f} ms, in steps"
                )


if __name__ == "__main__":
    main()
