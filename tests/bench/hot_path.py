"""What one finished probe costs behind the probe: fold, evaluate, events, metrics, recorder.

The real controller, metrics, log and recorder over a store in memory; no network, no loop. Groups
are plain pairs: the Primary serves, the Secondary stands by and (as a real one) does not serve.

    python tests/bench/hot_path.py [GROUPS] [OBSERVATIONS] [--profile]
"""

import asyncio
import cProfile
import io
import pstats
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulated_world import ModelStore, VirtualClock, pair

from lb_probe.controller import Controller, Setup
from lb_probe.core.model import Failed, Mode, Observation, Page, Passed, Phase
from lb_probe.events.log import Fanout, Log
from lb_probe.events.metrics import Metrics
from lb_probe.tending.loop import TICK_S

A_OK, A_SAYS, B_SAYS = Passed(), Passed(Mode.PRIMARY), Passed(Mode.STANDBY)
B_FAILS = Failed(Phase.STATUS, "503 Service Unavailable")
PAGES = (
    ("a", Page.STATUS, A_OK),
    ("a", Page.HASTATUS, A_SAYS),
    ("b", Page.STATUS, B_FAILS),
    ("b", Page.HASTATUS, B_SAYS),
)
A_DEAD = Failed(Phase.CONNECT_REFUSED, "connection refused")
DEAD_PAGES = (("a", Page.STATUS, A_DEAD), ("a", Page.HASTATUS, A_DEAD), *PAGES[2:])


class Bench:
    """Groups whose probes end evenly spread over each second of a virtual clock."""

    def __init__(self, groups, act=True):
        self.clock = VirtualClock()
        self.metrics = Metrics(self.clock.wall)
        self.log = io.StringIO()
        self.events = Fanout(self.metrics.emit, Log(self.log).emit)
        self.setups = [Setup(pair(name=f"group-{n}", adapters=(), act=act)) for n in range(groups)]
        for setup in self.setups:
            self.metrics.know(setup.group.name, setup.group.names, ())
        self.controller = Controller(self.setups, ModelStore(), self.clock, self.events)
        self.ticked = self.clock.now
        self.ticks = []

    def start(self):
        asyncio.run(self.controller.start())

    def round(self, pages, spent):
        """Let every page of every group be probed once, within one second.

        Args:
            spent: Takes, by page, the CPU seconds; those of the ticks are apart.
        """
        step = 1.0 / len(self.setups) / len(pages)
        measure, observe, hurried = (
            time.thread_time,
            self.controller.observe,
            self.controller.is_hurried,
        )
        clock = self.clock
        for node, page, outcome in pages:
            seen = []
            for number, setup in enumerate(self.setups, start=1):
                at = clock.now + number * step
                one = Observation(node, page, at - 0.004, at, outcome, 200, "x" * 40, "0" * 64)
                seen.append((setup.group.name, one))
            began, ticking = measure(), sum(self.ticks)
            for name, one in seen:
                clock.now = one.ended_at
                observe(name, one)
                hurried(name, node, page)
                if one.ended_at - self.ticked >= TICK_S:
                    self._tick()
            cpu_s = measure() - began - (sum(self.ticks) - ticking)
            spent[node, page] = spent.get((node, page), 0.0) + cpu_s
        return len(self.setups) * len(pages)

    def _tick(self):
        self.ticked = self.clock.now
        began = time.thread_time()
        self.controller.tick()
        self.ticks.append(time.thread_time() - began)


def measured(bench, pages, rounds, what):
    for _ in range(4):
        bench.round(pages, {})
    bench.ticks.clear()
    spent = {}
    count = sum(bench.round(pages, spent) for _ in range(rounds))
    total, ticking = sum(spent.values()), sum(bench.ticks)
    shares = ", ".join(
        f"{node} {page.value} {seconds / count * len(pages) * 1e6:.1f}"
        for (node, page), seconds in spent.items()
    )
    print(
        f"{what}: {total / count * 1e6:.1f} us CPU an observation ({shares}); tick mean"
        f" {ticking / len(bench.ticks) * 1e3:.2f} ms, longest {max(bench.ticks) * 1e3:.2f} ms;"
        f" with ticks {(total + ticking) / count * 1e6:.1f} us"
    )


def main():
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    groups = numbers[0] if numbers else 1000
    observations = numbers[1] if len(numbers) > 1 else 40_000
    rounds = max(1, observations // (groups * len(PAGES)))
    print(f"groups: {groups}, {rounds * groups * len(PAGES)} observations of each sort")
    bench = Bench(groups)
    bench.start()
    if "--profile" in sys.argv:
        bench.round(PAGES, {})
        profile = cProfile.Profile()
        profile.runcall(measured, bench, PAGES, rounds, "plain, profiled")
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    measured(bench, PAGES, rounds, "plain")
    measured(bench, DEAD_PAGES, rounds, "every Primary dead (no loop: no move)")


if __name__ == "__main__":
    main()
