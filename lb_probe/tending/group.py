"""One group while the process runs: what the loops of all policies ask of it."""

import asyncio
from abc import ABC, abstractmethod
from typing import Protocol

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.model import Saved
from lb_probe.reconcile import Reconciler


class Wired(Protocol):
    """One group as it is wired."""

    @property
    def name(self) -> str:
        """Its name in probes.yaml."""

    @property
    def was(self) -> str | None:
        """Its former name; None where it had none."""


class Judged(Protocol):
    """A decision of any policy's table."""

    @property
    def rule(self) -> str:
        """Id of the row."""

    @property
    def condition(self) -> str:
        """Name of the situation."""

    @property
    def blocked(self) -> tuple[str, ...]:
        """The brakes that are on, by name; empty while armed."""


class Tended(ABC):
    """One group while the process runs.

    Attributes:
        lock: Held by who changes the group: the table or an operator, one after the other.
        is_changing: A change of our own accord is being made, or waits for the lock.
        changed: Set when a reconciler has something new to show.
        hold_due_at: Monotonic seconds when its hold is due; None without one.
        interruption: Why evidence was last made worthless, and when that was over.
    """

    def __init__(self, name: str, saved: Saved, now: float) -> None:
        self.name = name
        self.saved = saved
        self.evidence = Evidence(floor=now)
        self.decision: Judged | None = None
        self.reconcilers: list[Reconciler] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.lock = asyncio.Lock()
        self.is_changing = False
        self.changed = asyncio.Event()
        self.hold_due_at: float | None = None
        self.is_overdue_told = False
        self.interruption: tuple[str, float] | None = None

    @property
    def worded(self) -> Saved:
        """What is saved, as `core.acts` wants it."""
        return self.saved

    @property
    @abstractmethod
    def is_cut_off(self) -> bool:
        """Whether no target of it answers at all."""

    @property
    @abstractmethod
    def is_followed(self) -> bool:
        """Whether every load balancer does what is wanted, or cannot."""

    def interrupt(self, why: str, now: float) -> None:
        """Let no failure from before this moment count (X19)."""
        self.evidence = ev.raise_floor(self.evidence, now)
        self.interruption = why, now
