"""What the history says, in memory: status, metrics and gates that read it wait for no disk."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lb_probe.agent.replication.history import GOOD, SKIPPED, History, HistoryError, Run
from lb_probe.core import sync_schedule
from lb_probe.core.sync_advice import Advice, advise
from lb_probe.core.sync_schedule import Look, Schedule

_LOOKED_AT = 200  # newest runs that the durations are taken from
_DURATIONS = 50
_TEST_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Saved:
    """A schedule and who saved it.

    Attributes:
        by: Who; `probes.yaml` for the first one.
        because: Why Run Every is below 60 minutes; empty where it is not.
    """

    schedule: Schedule
    by: str
    reason: str
    because: str


class Book:
    """One node's history, open or not.

    Attributes:
        fault: What went wrong with it; empty while nothing has.
        last: The newest run, a skipped slot aside.
        last_good: The newest good one.
        saved: The schedule in force.
        handled_wall: The newest slot that was dealt with.
        skips: Slots skipped since a run last fitted.
        alarms: Since when each alarm stands.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._history: History | None = None
        self._acked = 0
        self._durations: deque[float] = deque(maxlen=_DURATIONS)
        self.fault = ""
        self.last: Run | None = None
        self.last_good: Run | None = None
        self.saved: Saved | None = None
        self.handled_wall: int | None = None
        self.skips = 0
        self.alarms: dict[str, float] = {}
        self._kept_alarms: dict[str, float] = {}

    # -------------------------------------------------------------- open and closed
    @property
    def history(self) -> History:
        """The file.

        Raises:
            HistoryError: It is not open.
        """
        if self._history is None:
            raise HistoryError(self.why_not)
        return self._history

    @property
    def is_open(self) -> bool:
        """Whether what is on record is known."""
        return self._history is not None

    @property
    def why_not(self) -> str:
        """Why nothing can be put on record; empty while it can."""
        return self.fault or ("" if self._history is not None else "it is not open")

    def cannot(self, error: Exception, emit: Callable[..., None]) -> None:
        """Note why nothing can be put on record; the same again is told once."""
        before, self.fault = self.fault, str(error)
        if self.fault != before:
            emit("agent.sync-not-recorded", detail=self.fault)

    async def open(self) -> Run | None:
        """Open the file and read what it says; return a run that a crash cut off.

        Raises:
            HistoryError: It cannot be used; `fault` says why.
        """
        try:
            cut_off = await asyncio.to_thread(self._open)
        except HistoryError as error:
            self.fault = str(error)
            raise
        self.fault = ""
        return cut_off

    def _open(self) -> Run | None:
        history = History(self._path)
        try:
            newest = [run for run in history.runs(limit=_LOOKED_AT) if run.result != SKIPPED]
            self.last = newest[0] if newest else None
            self.last_good = history.newest(result=GOOD)
            self._durations.clear()
            for run in reversed(newest):
                self._measure(run)
            self.saved = _saved(history.value("schedule"))
            self.handled_wall = history.value("handled")
            self.skips = history.value("skips") or 0
            self._kept_alarms = dict(history.value("alarms") or {})
            self.alarms = self._kept_alarms | self.alarms
            self._acked = history.value("acked") or 0
        except (TypeError, ValueError, KeyError) as error:
            history.close()
            raise HistoryError(
                f"{self._path}: found values of another kind ({error}); wanted what this release"
                " writes; move the file away to begin anew"
            ) from error
        except BaseException:
            history.close()
            raise
        self._history = history
        return history.cut_off

    def close(self) -> None:
        """Close the file."""
        if self._history is not None:
            self._history.close()
            self._history = None

    async def mend(self, unsaved: Run | None) -> bool:
        """Try whether the disk takes writes again; tell whether all is on record now.

        Args:
            unsaved: A run whose end is still to be put on record.
        """
        if self._history is None:
            return False
        history = self._history

        def write() -> None:
            if unsaved is not None:
                history.save(unsaved)
            history.keep(tested="x" * _TEST_BYTES)  # as much as a run takes, at least

        try:
            await asyncio.to_thread(write)
        except HistoryError as error:
            self.fault = str(error)
            return False
        self.fault = ""
        if unsaved is not None:
            self.took(unsaved)
        return True

    # -------------------------------------------------------------- runs
    def took(self, run: Run) -> None:
        """Take over a run that ended."""
        self.last = run
        if run.is_good:
            self.last_good = run
            self._measure(run)

    def _measure(self, run: Run) -> None:
        # The first copy of everything says nothing of those that carry changes (R25).
        if run.is_good and not run.initial and run.seconds is not None:
            self._durations.append(run.seconds)

    @property
    def advice(self) -> Advice | None:
        """What past durations say about the schedule."""
        if self.saved is None:
            return None
        return advise(self._durations, self.saved.schedule.run_every_s)

    @property
    def bad(self) -> Run | None:
        """The newest run, where it was not good and nobody acknowledged it (R16)."""
        if not self.is_open or self.last is None or self.last.is_good:
            return None
        if self.last.id <= self._acked:
            return None
        return self.last

    async def ack(self) -> Run | None:
        """Take the newest bad run as seen; return it.

        Raises:
            HistoryError: Not saved.
        """
        seen = self.bad
        if seen is not None:
            await asyncio.to_thread(self.history.keep, acked=seen.id)
            self._acked = seen.id
        return seen

    async def record(self, run: Run) -> Run:
        """Put a slot that had no run on record, and return it with its number.

        Raises:
            HistoryError: Not saved.
        """
        found = await asyncio.to_thread(self.history.begin, run)
        if run.result != SKIPPED:
            self.last = found
        return found

    async def keep_alarms(self) -> None:
        """Remember since when alarms stand, so that a restart does not tell them anew.

        Raises:
            HistoryError: Not saved.
        """
        now = dict(self.alarms)
        if now != self._kept_alarms and self._history is not None:
            await asyncio.to_thread(self._history.keep, alarms=now)
            self._kept_alarms = now

    # -------------------------------------------------------------- the schedule
    async def save(self, saved: Saved, handled_wall: int | None) -> None:
        """Put another schedule in force.

        Raises:
            HistoryError: Not saved; the old one goes on.
        """
        document = {"schedule": asdict(saved.schedule)} | {
            key: getattr(saved, key) for key in ("by", "reason", "because")
        }
        await asyncio.to_thread(self.history.keep, schedule=document, handled=handled_wall, skips=0)
        self.saved, self.handled_wall, self.skips = saved, handled_wall, 0

    async def handled(self, handled_wall: int | None, skips: int) -> None:
        """Remember what was dealt with; in memory at once, so that no slot is due twice.

        Raises:
            HistoryError: Not saved: a restart may deal with it again.
        """
        if (handled_wall, skips) == (self.handled_wall, self.skips):
            return
        self.handled_wall, self.skips = handled_wall, skips
        await asyncio.to_thread(self.history.keep, handled=handled_wall, skips=skips)

    def look(self, now_wall: float) -> Look | None:
        """Return what the schedule says at a moment; None without one."""
        if self.saved is None:
            return None
        return sync_schedule.look(self.saved.schedule, self.handled_wall, now_wall)


def _saved(document: object) -> Saved | None:
    if document is None:
        return None
    if not isinstance(document, dict):
        raise TypeError("a schedule that is no object")
    schedule = Schedule(**document["schedule"])
    return Saved(schedule, document["by"], document["reason"], document["because"])
