"""The checks behind the pages: is the application on this node well, and how old is that answer.

Each check runs by itself at its own interval, under its own deadline, and never beside itself.
A check that fails is a value with a sentence; none of them can end the agent.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator

from lb_probe.agent.check import Check, Verdict
from lb_probe.agent.check_runs import Run, runs_of
from lb_probe.core.model import Page
from lb_probe.ports import Clock


class _Record:
    """One check's runs so far."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.passing: bool | None = None
        self.detail = ""
        self._started_at: float | None = None
        self._last: bool | None = None
        self._streak = 0

    def fold(self, failure: str | None, started_at: float) -> None:
        """Take one run: None passed, a sentence failed. The first run decides alone."""
        passed = failure is None
        self._streak = self._streak + 1 if passed is self._last else 1
        self._last = passed
        self._started_at = started_at
        needed = self.check.rise if passed else self.check.fall
        if self.passing is None or self._streak >= needed:
            self.passing = passed
        self.detail = failure or ""
        if passed and not self.passing:
            self.detail = f"passed {self._streak} of {needed} times in a row"

    def fresh_until(self) -> float:
        if self._started_at is None:
            return -math.inf
        return self._started_at + self.check.max_age_s

    def verdict(self, now: float) -> Verdict:
        began = self._started_at
        return Verdict(
            name=self.check.name,
            passing=self.passing,
            age_s=None if began is None else max(0.0, now - began),
            is_stale=began is not None and now > self.fresh_until(),
            detail=self.detail,
            pages=self.check.pages,
        )

    def complaint(self, now: float) -> str | None:
        """Say why this check stands in the way; None when it does not."""
        verdict = self.verdict(now)
        if verdict.age_s is None:
            return f"check {verdict.name}: no verdict yet"
        if verdict.is_stale:
            limit = self.check.max_age_s
            return f"check {verdict.name}: last run is {verdict.age_s:.1f}s old, limit {limit:g}s"
        if not verdict.passing:
            return f"check {verdict.name}: {verdict.detail}"
        return None


class Checks:
    """All checks of one node. Without any, a node is well while its agent runs."""

    def __init__(self, checks: Iterable[Check], clock: Clock) -> None:
        """Prepare them; `run` runs them.

        Raises:
            ValueError: Two checks have one name.
        """
        self._records = [_Record(check) for check in checks]
        names = [record.check.name for record in self._records]
        if len(set(names)) != len(names):
            raise ValueError(f"checks {', '.join(names)} share a name; give each its own")
        self._clock = clock

    async def run(self) -> None:
        """Run every check at its interval until cancelled; then no process of theirs is left."""
        checks = [record.check for record in self._records]
        async with runs_of(checks) as runs, asyncio.TaskGroup() as tasks:
            for record, attempt in zip(self._records, runs, strict=True):
                tasks.create_task(self._repeat(record, attempt), name=record.check.name)
            await asyncio.Event().wait()  # without checks too: a part that ends has failed

    def healthy(self, page: Page, now: float) -> tuple[bool, list[str]]:
        """Tell whether the checks of this page pass and are fresh, and what stands in the way."""
        complaints = (record.complaint(now) for record in self._of(page))
        reasons = [reason for reason in complaints if reason is not None]
        return not reasons, reasons

    def fresh_until(self, page: Page) -> float:
        """Return the last moment (monotonic seconds) at which none of its verdicts is stale."""
        return min((record.fresh_until() for record in self._of(page)), default=math.inf)

    def verdicts(self, now: float) -> list[Verdict]:
        """Return what every check says, in the order of the configuration."""
        return [record.verdict(now) for record in self._records]

    def _of(self, page: Page) -> Iterator[_Record]:
        return (record for record in self._records if page in record.check.pages)

    async def _repeat(self, record: _Record, attempt: Run) -> None:
        while True:
            started_at = self._clock.monotonic()
            record.fold(await attempt(), started_at)
            due = started_at + record.check.interval_s
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
