"""Where one page is in its plan while a history is replayed, by the rules of `prober.schedule`."""

import math
from dataclasses import dataclass, field

from lb_probe.core.model import Group, Page
from lb_probe.replay.story import Answer

_SLACK = 2.0  # these two as there
_FORGETS = 1 / 8


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration of one group.

    Attributes:
        name: What the result calls it.
        witnesses: Load balancers that may contradict a failure of the Primary.
    """

    name: str
    group: Group
    interval_s: float
    recheck_s: float
    timeout_s: float
    witnesses: frozenset[str] = frozenset()


@dataclass(slots=True)
class Flight:
    """One probe under way."""

    started: float
    ends: float
    answer: Answer


@dataclass(slots=True)
class Slot:
    """One page, and where it is in its plan; the words are those of `prober.schedule`."""

    node: str
    page: Page
    planned: float
    is_beside: bool = False
    base: float = 0.0
    started: float = -math.inf
    flights: list[Flight] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    usual_s: float = 0.0
    is_doubtful: bool = False

    @property
    def ends(self) -> float:
        """When a probe of it ends next; infinity for none under way."""
        return min((flight.ends for flight in self.flights), default=math.inf)

    @property
    def due(self) -> float:
        """When something happens to it next."""
        return min(self.planned, self.ends)

    def may_start_beside(self, fall: int) -> bool:
        """Tell whether the verdict is open and there is room under way."""
        return max(len(self.failed), len(self.flights)) < fall

    def overdue_s(self, setting: Setting) -> float:
        """Return after how many seconds the latest probe is in doubt; infinity for never."""
        after = setting.recheck_s
        if self.failed or self.is_doubtful:
            if not self.may_start_beside(setting.group.fall):
                return math.inf
        else:
            after = max(after, _SLACK * self.usual_s)
        return after if after < setting.timeout_s else math.inf

    def passed(self, flight: Flight) -> None:
        """Note a pass: nothing is left under way."""
        took_s = flight.ends - flight.started
        self.failed = [at for at in self.failed if at > flight.started]
        self.usual_s = max(took_s, self.usual_s + (took_s - self.usual_s) * _FORGETS)
        self.flights.clear()

    def shift(self, seconds: float) -> None:
        """Put its whole plan later."""
        self.planned += seconds
        self.base += seconds
        self.started += seconds
        self.failed = [at + seconds for at in self.failed]
        for flight in self.flights:
            flight.started += seconds
            flight.ends += seconds

    def forget_slowness(self, took_s: float, passes: float) -> None:
        """Take note of so many passes at once, each of which took so long."""
        self.usual_s = took_s + (self.usual_s - took_s) * (1.0 - _FORGETS) ** passes
