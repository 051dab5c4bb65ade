"""Decides when each page of each node is asked, and starts the probes.

One coroutine owns one heap of start times; a probe is a task only while it runs. Every page has
its own times:

* The next start is `max(previous planned start + delay, previous end)`. The delay is `recheck_s`
  while a page fails and the verdict is open (0 < fails < fall), or while `hurry` says that its
  group waits for it; else `interval_s`.
* Times are counted from the plan, not from when a start came about, so they do not drift. A start
  that came late keeps its place in the plan: missed starts are left out, not made up for, and
  pages that were late together do not fall into step.
* First starts are spread evenly over one interval, in random order.

A callback that raises, or a probe that does, ends `run`: its supervisor counts that and starts a
new one. Nothing is swallowed here.
"""

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lb_probe.core.model import Failed, Observation, Page
from lb_probe.prober import http_probe, tcp_probe
from lb_probe.prober.http_probe import Target

# A timer of the loop is this good; a start this early is on time.
_EARLY_S = 0.001
_MIN_STALL_S = 1.0

Report = Callable[[str, Observation], None]
Hurry = Callable[[str, str, Page], bool]


class Probe(Protocol):
    """Asks a target once and returns what came of it."""

    def __call__(
        self, target: Target, *, clock: Callable[[], float]
    ) -> Coroutine[Any, Any, Observation]:
        """Return the coroutine of one attempt."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one page is asked.

    Attributes:
        interval_s: Seconds from start to start while all is plain.
        recheck_s: The same while a verdict is open.
        fall: Failures in a row that make a verdict.

    Raises:
        ValueError: A time is not positive, or fall is below 1.
    """

    interval_s: float
    recheck_s: float
    fall: int

    def __post_init__(self) -> None:
        if min(self.interval_s, self.recheck_s) <= 0 or self.fall < 1:
            raise ValueError(f"found {self}; use times above 0 and a fall of 1 or more")


class _Slot:
    """One page of one node, and where it is in its plan.

    Attributes:
        planned: Start that is waited for; infinity while none is.
        base: Planned start of the last probe, from which the next one is counted.
        started: When it did start; None before the first.
    """

    __slots__ = ("base", "fails", "is_running", "key", "pace", "planned", "started", "target")

    def __init__(self, target: Target, pace: Pace) -> None:
        self.target = target
        self.pace = pace
        self.key = (target.group, target.node, target.page)
        self.planned = math.inf
        self.base = 0.0
        self.started: float | None = None
        self.fails = 0
        self.is_running = False

    def start(self, now: float) -> None:
        """Note that the planned probe starts now, perhaps late."""
        self.base, self.planned = self.planned, math.inf
        self.started = now
        self.is_running = True

    def next_start(self, delay: float, now: float) -> float:
        """Return when the next probe starts, the last one having ended now."""
        assert self.started is not None
        behind = self.started - self.base
        # One step, or as many as lead at least half a step beyond a start that came late.
        steps = max(1, math.ceil(behind / delay + 0.5))
        return max(self.base + steps * delay, now)


class Schedule:
    """Starts probes on time and reports what came of them.

    Args:
        targets: Every page of every node, each once, with its pace.
        report: Takes the group's name and an observation, in the order probes end.
        hurry: Asked after each report, and by `quicken`: does this group wait for this page?
        clock: Monotonic seconds.
        rng: Spreads the first starts.
        late: Takes the seconds by which each start was behind its plan.
        stalled: Takes the longest of them, once, where one exceeds its page's interval (and 1 s):
            the loop or the machine stood still, and what was measured meanwhile is worth little.

    Attributes:
        cycle_done: Set once every page has been reported at least once.

    Raises:
        ValueError: A page of a node comes twice.
    """

    def __init__(
        self,
        targets: Sequence[tuple[Target, Pace]],
        *,
        report: Report,
        hurry: Hurry,
        clock: Callable[[], float],
        rng: random.Random,
        probe: Probe = http_probe.probe,
        late: Callable[[float], None] = lambda seconds: None,
        stalled: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        slots = [_Slot(target, pace) for target, pace in targets]
        self._slots = {slot.key: slot for slot in slots}
        self._groups: dict[str, list[_Slot]] = {}
        for slot in slots:
            self._groups.setdefault(slot.target.group, []).append(slot)
        if len(self._slots) < len(slots):
            raise ValueError("a page of a node comes twice; give each group, node and page once")
        self._report = report
        self._hurry = hurry
        self._clock = clock
        self._rng = rng
        self._probe = probe
        self._late = late
        self._stalled = stalled
        # Entries whose time is no longer their slot's plan are left in place and passed over.
        self._heap: list[tuple[float, int, _Slot]] = []
        self._pushes = 0
        self._wake = asyncio.Event()
        self._is_on = False
        self._unreported = set(self._slots)
        self.cycle_done = asyncio.Event()
        if not slots:
            self.cycle_done.set()

    async def run(self) -> None:
        """Probe until cancelled; running probes are cancelled then.

        Raises:
            ExceptionGroup: A callback or a probe raised.
        """
        self._spread()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._is_on = True
                while True:
                    await self._until_due()
                    self._start_due(tasks)
        finally:
            self._is_on = False

    def probe_now(self, group: str, node: str, page: Page) -> None:
        """Start one probe at once unless one runs; the next follows after its usual delay.

        Raises:
            KeyError: There is no such page.
        """
        slot = self._slots[group, node, page]
        if self._is_on and not slot.is_running:
            self._plan(slot, self._clock())

    def quicken(self, group: str) -> None:
        """Pull forward the waiting probes of a group that has become doubtful.

        Only pages for which `hurry` is true, and to no earlier than `recheck_s` after their last
        start.
        """
        now = self._clock()
        for slot in self._groups.get(group, ()):
            if self._is_on and not slot.is_running and self._hurry(*slot.key):
                self._pull_forward(slot, now)

    # -------------------------------------------------------------- the plan
    def _spread(self) -> None:
        self._heap.clear()
        slots = list(self._slots.values())
        self._rng.shuffle(slots)
        now = self._clock()
        for place, slot in enumerate(slots):
            slot.is_running = False
            share = (place + self._rng.random()) / len(slots)
            self._plan(slot, now + share * slot.pace.interval_s)

    def _plan(self, slot: _Slot, due: float) -> None:
        slot.planned = due
        self._pushes += 1  # breaks ties: slots have no order
        heapq.heappush(self._heap, (due, self._pushes, slot))
        if self._heap[0][2] is slot:
            self._wake.set()

    def _pull_forward(self, slot: _Slot, now: float) -> None:
        if slot.started is None:  # its first start is at hand
            return
        due = max(slot.started + slot.pace.recheck_s, now)
        if due < slot.planned:
            self._plan(slot, due)

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake.clear()
        while not self._heap or self._heap[0][0] > self._clock() + _EARLY_S:
            delay = self._heap[0][0] - self._clock() if self._heap else math.inf
            timer = loop.call_later(min(delay, 3600.0), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
            self._wake.clear()

    def _start_due(self, tasks: asyncio.TaskGroup) -> None:
        now = self._clock()
        stall = 0.0
        while self._heap and self._heap[0][0] <= now + _EARLY_S:
            due, _, slot = heapq.heappop(self._heap)
            if due == slot.planned:
                behind = max(0.0, now - due)
                slot.start(now)
                tasks.create_task(self._attempt(slot))
                self._late(behind)
                if behind > max(slot.pace.interval_s, _MIN_STALL_S):
                    stall = max(stall, behind)
        if stall:
            self._stalled(stall)

    async def _attempt(self, slot: _Slot) -> None:
        observation = await self._probe(slot.target, clock=self._clock)
        slot.is_running = False
        slot.fails = slot.fails + 1 if isinstance(observation.outcome, Failed) else 0
        self._report(slot.target.group, observation)
        self._unreported.discard(slot.key)
        if not self._unreported:
            self.cycle_done.set()
        delay = slot.pace.recheck_s if self._is_urgent(slot) else slot.pace.interval_s
        due = slot.next_start(delay, self._clock())
        if due < slot.planned:  # else report asked for one sooner, by probe_now or quicken
            self._plan(slot, due)

    def _is_urgent(self, slot: _Slot) -> bool:
        return 0 < slot.fails < slot.pace.fall or self._hurry(*slot.key)


async def watch_references(
    addresses: Mapping[str, tuple[str, int]],
    interval_s: float,
    timeout_s: float,
    report: Callable[[dict[str, bool]], None],
) -> None:
    """Report again and again which of some other things can be connected to; never returns.

    All of them silent means that the prober is cut off, not that the nodes are down.

    Args:
        addresses: Host and port of each, by the name to report it under.
        interval_s: Seconds from start to start.
        timeout_s: Seconds for each connection; they are made at the same time.
    """
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        answers = await asyncio.gather(
            *(tcp_probe.connects(host, port, timeout_s) for host, port in addresses.values())
        )
        report(dict(zip(addresses, answers, strict=True)))
        due = max(due + interval_s, loop.time())
        await asyncio.sleep(due - loop.time())
