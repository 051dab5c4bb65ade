"""When a Standby asks its peer again, and from when on that counts as dead (R61 to R63).

>>> controls = Controls(interval_s=60, failures=3, recheck_s=10, timeout_s=5)
>>> beat = Beat(due_at=0.0)
>>> beat = beat.after(passed=True, started_at=0.0, ended_at=0.2, controls=controls)
>>> beat.due_at                                      # from start to start while all is well
60.0
>>> beat = beat.after(passed=False, started_at=60.0, ended_at=65.0, controls=controls)
>>> beat.due_at                                      # the wait after a failure begins at its end
75.0

Source: guide lines 332 to 334; with `core.timing.promotion_window` for what comes of them.
"""

from dataclasses import dataclass, replace
from enum import Enum


class Word(Enum):
    """What the heartbeat says of the peer."""

    OFF = "off"
    WAITING = "waiting"
    OK = "ok"
    FAILING = "failing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Controls:
    """The guide's Fail Over Controls.

    Attributes:
        interval_s: From the start of an attempt that passed to the start of the next.
        failures: Failed attempts in a row that count as a dead peer.
        recheck_s: From the end of a failed attempt to the start of the next.
        timeout_s: Longest one attempt may take.
    """

    interval_s: float
    failures: int
    recheck_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Beat:
    """Where the count stands.

    Attributes:
        due_at: When to ask next, monotonic seconds.
        failures: Failed attempts since the last one that passed (R62).
        asked_at: When the last attempt ended; None before the first.
        first_failed_at: When the first attempt of this row of failures began.
    """

    due_at: float
    failures: int = 0
    asked_at: float | None = None
    first_failed_at: float | None = None

    def after(
        self, *, passed: bool, started_at: float, ended_at: float, controls: Controls
    ) -> "Beat":
        """Return the count after one attempt; one that passed begins it anew."""
        if passed:
            return Beat(max(ended_at, started_at + controls.interval_s), asked_at=ended_at)
        first = started_at if self.first_failed_at is None else self.first_failed_at
        return Beat(ended_at + controls.recheck_s, self.failures + 1, ended_at, first)

    def hindered(self, *, ended_at: float, controls: Controls) -> "Beat":
        """Return the count after an attempt that this machine could not make.

        It is no failure of the peer, and a row of failures with such a hole in it is none. What was
        counted dead before stays so until it answers.
        """
        due_at = ended_at + controls.recheck_s
        return replace(self, due_at=due_at) if self.failures >= controls.failures else Beat(due_at)

    def word(self, controls: Controls) -> Word:
        """Say what the count means."""
        if self.asked_at is None:
            return Word.WAITING
        if not self.failures:
            return Word.OK
        return Word.FAILED if self.failures >= controls.failures else Word.FAILING
