"""Decides when each page of each node is asked, and starts the probes.

One agenda of moments behind one timer of the loop; a probe is whatever `start` makes of it. Every
page has its own times:

* The next start is `max(previous planned start + delay, previous end)`. The delay is `recheck_s`
  while a page fails and the verdict is open (0 < fails < fall), or while `hurry` says that its
  group waits for it; else `interval_s`.
* Overlap. A probe that is overdue makes its page doubtful: the next ones start beside it, every
  `recheck_s`, each with its own full timeout, at most `fall` at once, until the first answer. So a
  page that hangs has failed `fall` times after `timeout + (fall - 1) * recheck`, and by then was
  asked anew since the first timeout. Overdue is what takes longer than `recheck_s` and twice what
  the page took lately, so that a slow page is not asked twice as often.
* Doubt is no failure: whoever waits for the page is told (`doubt`), and that is all. Every failure
  that is reported is an answer, or had its full timeout.
* A pass leaves nothing under way: what started before it is older news, and what started after it
  was asked for in a doubt that is gone. Dropping a probe can only take a failure away.
* Times are counted from the plan, not from when a start came about, so they do not drift. A start
  that came late keeps its place in the plan: missed starts are left out, not made up for, and
  pages that were late together do not fall into step.
* First starts are spread evenly over one interval, in random order.
* What is asked as usual starts on a grid of 25 ms: starts, and mostly answers, then share a wake-up
  of the process, which is a third to half of what a probe costs. What fails or is waited for does
  not wait for the grid. An interval that is no multiple of it keeps its length on average.

A callback that raises, or a probe that does, ends `run`: its supervisor counts that and starts a
new one. Nothing is swallowed here.
"""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any

from lb_probe.core.model import Observation, Page, Passed
from lb_probe.prober import http_probe, tcp_probe
from lb_probe.prober.http_probe import Target
from lb_probe.prober.slot import Agenda, Flight, Handle, Pace, Slot

__all__ = ["GRID_S", "Handle", "Pace", "Schedule", "watch_references"]

GRID_S = 0.025
_ROUNDED = 0.001  # of the grid: one that is there but for rounding stays
# A timer of the loop is this good; a start this early is on time.
_EARLY_S = 0.001
_MIN_STALL_S = 1.0
# A doubt seen this late is our own: the answer may have come, and not have been read yet.
_LATE_DOUBT_S = 0.02
_LONGEST_TIMER_S = 3600.0
_NEVER = math.inf

Report = Callable[[str, Observation], None]
Hurry = Callable[[str, str, Page], bool]
Doubt = Callable[[str, str, Page, bool], None]
Done = Callable[[Observation], None]


# Begins one attempt; `done` is called once when it ends, and never before this returns.
Starter = Callable[[Target, Done], Handle]
# The same as a coroutine, which is given `clock` and returns what came of it.
Probe = Callable[..., Coroutine[Any, Any, Observation]]


class Schedule:
    """Starts probes on time and reports what came of them.

    Args:
        targets: Every page of every node, each once, with its pace.
        report: Takes the group's name and an observation, in the order probes end.
        hurry: Asked after each report, and by `quicken`: does this group wait for this page?
        clock: Monotonic seconds.
        rng: Spreads the first starts.
        start: Begins a probe; `http_probe.Engine.start`, as a rule.
        probe: A coroutine in its place, where `start` is None.
        late: Takes the seconds by which each start was behind its plan.
        stalled: Takes the longest of them, once, where one exceeds its page's interval (and 1 s):
            the loop or the machine stood still, and what was measured meanwhile is worth little.
        doubt: Takes a page that came into doubt, and True; or the same and False when the next
            result of it is there, before that is reported. What waits for the page is then asked
            for by `hurry`, as after a failure.

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
        start: Starter | None = None,
        probe: Probe = http_probe.probe,
        late: Callable[[float], None] = lambda seconds: None,
        stalled: Callable[[float], None] = lambda seconds: None,
        doubt: Doubt = lambda group, node, page, is_doubtful: None,
    ) -> None:
        paces: dict[Pace, Pace] = {}  # one object for many pages: memory is slow
        # Made in the order of their starts: what is asked at one moment lies side by side.
        order = list(targets)
        rng.shuffle(order)
        slots = [Slot(target, paces.setdefault(pace, pace)) for target, pace in order]
        self._slots = {slot.key: slot for slot in slots}
        if len(self._slots) < len(slots):
            raise ValueError("a page of a node comes twice; give each group, node and page once")
        self._groups: dict[str, list[Slot]] = {}
        for target, _ in targets:
            slot = self._slots[target.group, target.node, target.page]
            self._groups.setdefault(target.group, []).append(slot)
        self._report = report
        self._hurry = hurry
        self._clock = clock
        self._rng = rng
        self._tasks = _Tasks(probe, clock, self._break)
        self._begin: Starter = start or self._tasks.start
        self._late = late
        self._stalled = stalled
        self._doubt = doubt
        self._agenda = Agenda()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._broken: asyncio.Future[None] | None = None  # while it runs
        self._unreported = len(self._slots)
        self.cycle_done = asyncio.Event()
        if not targets:
            self.cycle_done.set()

    async def run(self) -> None:
        """Probe until cancelled; probes under way are cancelled then.

        Raises:
            Exception: What a callback or a probe raised.
        """
        self._broken = asyncio.get_running_loop().create_future()
        try:
            self._spread()
            await self._broken
        finally:
            self._broken = None
            self._set_timer(math.inf)
            for slot in self._slots.values():
                slot.drop_flights()
            await self._tasks.ended()

    def probe_now(self, group: str, node: str, page: Page) -> None:
        """Start one probe at once unless one runs; the next follows after its usual delay.

        Raises:
            KeyError: There is no such page.
        """
        slot = self._slots[group, node, page]
        if self._broken is not None and not slot.flights:
            now = self._clock()
            self._plan(slot, now, now)

    def quicken(self, group: str) -> None:
        """Pull forward the waiting probes of a group that has become doubtful.

        Only pages for which `hurry` is true, and to no earlier than `recheck_s` after their last
        start.
        """
        if self._broken is None:
            return
        now = self._clock()
        for slot in self._groups.get(group, ()):
            # One before its first start is at hand anyway.
            if not slot.flights and slot.last is not None and self._hurry(*slot.key):
                due = max(slot.last + slot.behind + slot.pace.recheck_s, now)
                if due < slot.planned:
                    self._plan(slot, due, due)

    # -------------------------------------------------------------- the plan
    def _spread(self) -> None:
        self._agenda.clear()
        now = self._clock()
        for place, slot in enumerate(self._slots.values()):
            self._settle(slot)
            share = (place + self._rng.random()) / len(self._slots)
            due = _on_grid(now + share * slot.pace.interval_s)
            self._plan(slot, due, due)

    def _plan(self, slot: Slot, due: float, planned: float, is_beside: bool = False) -> None:
        slot.due, slot.is_beside = due, is_beside
        self._agenda.add(planned, slot)
        if planned < self._timer_at:
            self._set_timer(planned)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, due
        if due < math.inf:
            delay = min(max(due - self._clock(), 0.0), _LONGEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_time)

    def _on_time(self) -> None:
        self._timer, self._timer_at = None, -math.inf  # set again at the end, not in between
        try:
            self._start_due()
        except Exception as error:
            self._break(error)
        else:
            self._set_timer(self._agenda.next)

    def _break(self, error: BaseException) -> None:
        """End `run` with this error."""
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    # -------------------------------------------------------------- starts
    def _start_due(self) -> None:
        now = self._clock()
        until, stall = now + _EARLY_S, 0.0
        agenda = self._agenda
        while (planned := agenda.next) <= until:
            behind = max(0.0, now - planned)
            for slot in agenda.take():
                if planned != slot.planned:
                    continue
                if behind > _MIN_STALL_S and behind > slot.pace.interval_s:
                    stall = max(stall, behind)
                if not slot.is_beside:
                    slot.base, slot.behind = slot.due, behind
                    self._start(slot, planned, now)
                elif behind > _LATE_DOUBT_S or not slot.is_sure():
                    soon = until + _EARLY_S
                    self._plan(slot, soon, soon, is_beside=True)
                else:
                    self._overdue(slot, planned, now)
        if stall:
            self._stalled(stall)

    def _overdue(self, slot: Slot, planned: float, now: float) -> None:
        slot.planned = _NEVER
        if not slot.failed and not slot.is_doubtful:
            slot.is_doubtful = True
            self._doubt(*slot.key, True)
            self.quicken(slot.target.group)
        if slot.may_start_beside():
            self._start(slot, planned, now)

    def _start(self, slot: Slot, planned: float, now: float) -> None:
        slot.planned, slot.last, slot.is_looked_at = _NEVER, slot.due, False
        begin, clock, late = self._begin, self._clock, self._late
        flight, slot.spare = slot.spare or Flight(slot, self._ended), None
        flight.started = now
        slot.flights.append(flight)
        flight.handle = begin(slot.target, flight.ended)
        late_s = clock() - planned
        late(late_s if late_s > 0.0 else 0.0)
        is_plain = slot.usual_s <= slot.quick_s and not (slot.failed or slot.is_doubtful)
        after = slot.soon_s if is_plain else slot.overdue_s()
        if after < _NEVER:  # the timer is set when all that is due was started
            slot.due, slot.is_beside = now + after, True
            self._agenda.add(slot.due, slot)

    # -------------------------------------------------------------- ends
    def _ended(self, flight: Flight, observation: Observation) -> None:
        slot = flight.slot
        flights = slot.flights
        if self._broken is None or flight not in flights:
            return  # it was cancelled
        try:
            younger = len(flights) - flights.index(flight) - 1 if len(flights) > 1 else 0
            flights.remove(flight)
            flight.handle, slot.spare = None, flight
            slot.planned = _NEVER
            if slot.is_doubtful:
                self._settle(slot)
            if isinstance(observation.outcome, Passed):
                slot.passed(flight.started, observation.ended_at - observation.started_at)
                younger = 0
            else:
                slot.failed = [*slot.failed, flight.started][-slot.pace.fall :]
            report = self._report
            report(slot.target.group, observation)
            if not slot.is_reported:
                self._note_first(slot)
            if younger:
                self._plan_beside(slot)
            else:
                self._plan_next(slot)
        except Exception as error:
            self._break(error)

    def _note_first(self, slot: Slot) -> None:
        slot.is_reported = True
        self._unreported -= 1
        if not self._unreported:
            self.cycle_done.set()

    def _plan_beside(self, slot: Slot) -> None:
        """Plan what follows while younger probes go on: with a verdict they are waited for."""
        if slot.may_start_beside():
            assert slot.last is not None
            due = max(slot.last + slot.pace.recheck_s, self._clock())
            self._plan(slot, due, due, is_beside=True)

    def _plan_next(self, slot: Slot) -> None:
        pace, fails = slot.pace, len(slot.failed)
        group, node, page = slot.key
        hurry, clock = self._hurry, self._clock
        is_open = 0 < fails < pace.fall or hurry(group, node, page)
        due = slot.next_start(pace.recheck_s if is_open else pace.interval_s, clock())
        if due < slot.planned:  # else report asked for one sooner, by probe_now or quicken
            planned = due if is_open or fails else ceil(due / GRID_S - _ROUNDED) * GRID_S
            self._plan(slot, due, planned)

    def _settle(self, slot: Slot) -> None:
        """Let the doubt of a page be over."""
        if slot.is_doubtful:
            slot.is_doubtful = False
            self._doubt(*slot.key, False)


def _on_grid(due: float) -> float:
    """Return the next moment of the grid."""
    return ceil(due / GRID_S - _ROUNDED) * GRID_S


class _Tasks:
    """Runs a coroutine as a probe: the same to a schedule as an engine that calls back."""

    def __init__(
        self, probe: Probe, clock: Callable[[], float], broken: Callable[[BaseException], None]
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._broken = broken
        self._running: set[asyncio.Task[Observation]] = set()

    def start(self, target: Target, done: Done, /) -> Handle:
        """Begin one attempt."""
        attempt = self._probe(target, clock=self._clock)
        task = asyncio.get_running_loop().create_task(attempt)
        self._running.add(task)
        task.add_done_callback(partial(self._finished, done))
        return task

    def _finished(self, done: Done, task: asyncio.Task[Observation]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._broken(error)
        else:
            done(task.result())

    async def ended(self) -> None:
        """Wait until those that were cancelled are gone."""
        if self._running:
            await asyncio.wait(self._running)


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
