"""One page of one node in the schedule, and the agenda that all of them stand in.

A page's times are kept here and set by `schedule`, which says what they mean.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from lb_probe.core.model import Observation, Page
from lb_probe.prober.target import Target

_SLACK = 2.0  # a probe may take this many times what its page took lately
_FORGETS = 1 / 8  # share by which one quick pass makes a slow page a quicker one


@lru_cache(maxsize=1024)
def _one(number: float) -> float:
    """Return the same object for the same number: many pages share one, and memory is slow."""
    return number


class Handle(Protocol):
    """One probe under way."""

    def cancel(self) -> object:
        """Drop it: nothing is heard of it any more."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one page is asked.

    Attributes:
        interval_s: Seconds from start to start while all is plain.
        recheck_s: The same while a verdict is open.
        fall: Failures in a row that make a verdict, and the most probes under way at once.

    Raises:
        ValueError: A time is not positive, or fall is below 1.
    """

    interval_s: float
    recheck_s: float
    fall: int

    def __post_init__(self) -> None:
        if min(self.interval_s, self.recheck_s) <= 0 or self.fall < 1:
            raise ValueError(f"found {self}; use times above 0 and a fall of 1 or more")


class Flight:
    """One probe under way."""

    __slots__ = ("_tell", "handle", "slot", "started")

    def __init__(self, slot: "Slot", tell: Callable[["Flight", Observation], None]) -> None:
        self.slot = slot
        self.started = 0.0
        self.handle: Handle | None = None
        self._tell = tell

    def ended(self, observation: Observation) -> None:
        """Hand on what came of it."""
        tell = self._tell
        tell(self, observation)


@dataclass(slots=True, eq=False)
class Slot:
    """One page of one node, and where it is in its plan.

    Attributes:
        planned: When it is looked at next; infinity while only the end of a probe leads on.
        due: The same before it was put on the grid.
        is_beside: What is planned is a start beside one that is overdue.
        base: When the last probe that was not such a one was due: the plan goes on from there.
        behind: Seconds by which that start came late.
        last: When the last start of any kind was due; None before the first.
        flights: Probes under way, in the order of their starts.
        spare: One that has ended, for the next start.
        failed: Starts of the latest failures since the last pass, at most `fall` of them.
        usual_s: About how long a pass took lately.
        is_doubtful: One is overdue, and that was told.
        is_looked_at: One seems to be overdue; what came meanwhile is read before that is told.
        is_reported: What came of one probe was told.
        quick_s: One that is usually as quick as this is overdue after `recheck`.
        soon_s: What `overdue_s` returns for that, as long as all is plain.
    """

    target: Target
    pace: Pace
    planned: float = math.inf
    due: float = math.inf
    is_beside: bool = False
    base: float = 0.0
    behind: float = 0.0
    last: float | None = None
    flights: list[Flight] = field(default_factory=list)
    spare: Flight | None = None
    failed: list[float] = field(default_factory=list)
    usual_s: float = 0.0
    is_doubtful: bool = False
    is_looked_at: bool = False
    is_reported: bool = False
    key: tuple[str, str, Page] = field(init=False)
    quick_s: float = field(init=False)
    soon_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.target.group, self.target.node, self.target.page)
        self.quick_s = _one(self.pace.recheck_s / _SLACK)
        self.soon_s = _one(self.overdue_s())

    def overdue_s(self) -> float:
        """Return after how many seconds the latest probe is in doubt; infinity for never."""
        after = self.pace.recheck_s
        if self.failed or self.is_doubtful:
            if not self.may_start_beside():
                return math.inf  # nothing would come of it
        elif (slack_s := _SLACK * self.usual_s) > after:
            after = slack_s
        return after if after < self.target.timeout_s else math.inf

    def is_sure(self) -> bool:
        """Tell whether it is no news that this page is overdue; a first time is looked at twice."""
        was_looked_at, self.is_looked_at = self.is_looked_at, True
        return was_looked_at or self.is_doubtful or bool(self.failed)

    def may_start_beside(self) -> bool:
        """Tell whether the verdict is open and there is room under way."""
        return max(len(self.failed), len(self.flights)) < self.pace.fall

    def passed(self, started: float, took_s: float) -> None:
        """Note a pass: failures that started after it stay, and nothing is left under way."""
        if self.failed:
            self.failed = [at for at in self.failed if at > started]
        usual_s = self.usual_s
        self.usual_s = took_s if took_s > usual_s else usual_s + (took_s - usual_s) * _FORGETS
        if self.flights:
            self.drop_flights()

    def drop_flights(self) -> None:
        """Cancel all that is under way."""
        flights, self.flights = self.flights, []
        for flight in flights:
            if flight.handle is not None:
                flight.handle.cancel()

    def next_start(self, delay: float, now: float) -> float:
        """Return when the next probe starts, the last one having ended now."""
        assert self.last is not None
        due = self.base + delay
        if self.behind > delay / 2:  # as many steps as lead at least half a step beyond that start
            due = self.base + math.ceil(self.behind / delay + 0.5) * delay
        if self.last != self.base:
            due = max(due, self.last + self.pace.recheck_s)
        return due if due > now else now


class Agenda:
    """Who is to be looked at when: one list for all of the same moment.

    Most starts share a moment of the grid, and so do the looks that follow them: the heap holds a
    few moments, not thousands of pages. A slot that was planned anew stays in its old list too;
    whoever takes that passes over it.

    Attributes:
        next: The earliest moment; infinity where there is none.
    """

    __slots__ = ("_at", "_latest", "_moments", "_slots", "next")

    def __init__(self) -> None:
        self._moments: list[float] = []
        self._slots: dict[float, list[Slot]] = {}
        self._at = math.nan  # the moment that was added to last: many follow for the same
        self._latest: list[Slot] = []
        self.next = math.inf

    def __len__(self) -> int:
        """Return how many entries there are, those that will be passed over included."""
        return sum(map(len, self._slots.values()))

    def add(self, at: float, slot: Slot) -> None:
        """Plan a slot for this moment."""
        if at != self._at:
            self._at, self._latest = at, self._of(at)
        slot.planned = self._at  # one object for all of them: memory is slow
        self._latest.append(slot)

    def _of(self, at: float) -> list[Slot]:
        slots = self._slots.get(at)
        if slots is None:
            slots = self._slots[at] = []
            heapq.heappush(self._moments, at)
            self.next = self._moments[0]
        return slots

    def take(self) -> list[Slot]:
        """Take the slots of the earliest moment."""
        at = heapq.heappop(self._moments)
        if at == self._at:
            self._at = math.nan
        self.next = self._moments[0] if self._moments else math.inf
        return self._slots.pop(at)

    def clear(self) -> None:
        """Forget all of them."""
        self._moments.clear()
        self._slots.clear()
        self._at, self.next = math.nan, math.inf
