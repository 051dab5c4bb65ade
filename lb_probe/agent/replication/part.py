"""Replication as a part of the agent: its task, and what ties its pieces together.

The clock and the operator hand plans to one worker, which carries them out one after the other.

Source: guide lines 69-78, 310-329, 382-393, 422; R10, R12, R16-R25, R30, R66, R69, R83-R92.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lb_probe.agent.control import Command
from lb_probe.agent.node import Counted, Node, Part, Reading
from lb_probe.agent.replication.book import Book, Saved
from lb_probe.agent.replication.desk import Desk
from lb_probe.agent.replication.entry import Entry, Here
from lb_probe.agent.replication.history import HistoryError
from lb_probe.agent.replication.run_lock import RunLock
from lb_probe.agent.replication.runner import Runner
from lb_probe.agent.replication.settings import Settings
from lb_probe.agent.replication.timetable import Timetable
from lb_probe.agent.replication.view import View
from lb_probe.agent.replication.watchers import Watchers
from lb_probe.agent.replication.worker import Worker
from lb_probe.core import sync_schedule

REOPEN_S = 60.0
ALARMS_S = 30.0


class Replication(Part):
    """Syncs into this node."""

    name = "sync"
    counters: Sequence[Counted] = (
        Counted("syncs", "Syncs that ended", "agent.sync-done", ("trigger", "result")),
        Counted("syncs_refused", "Slots that a gate kept back", "agent.sync-refused"),
        Counted("syncs_skipped", "Slots in which another sync ran", "agent.sync-skipped"),
    )

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._settings = settings
        self._changed = asyncio.Event()
        self._book = Book(settings.history)
        lock = RunLock(settings.history.with_name(f"{settings.history.name}.run.lock"))
        watchers = Watchers()
        runner = Runner(node, settings, lock, watchers.tell)
        self._worker = Worker(node, self._book, runner, lock, watchers, self._news)
        entry = Entry(node, settings, self._here)
        self._timetable = Timetable(node, self._book, self._worker, entry)
        self._view = View(node, settings, self._book, self._worker, self._timetable)
        self._desk = Desk(
            node, self._book, self._worker, entry, self._view, watchers, self._changed.set
        )
        node.refreshers.append(self._worker.look_behind)
        node.before_primary.append(self._worker.end_for_primary)
        node.demote_guards.append(entry.newest_data)

    async def run(self) -> None:
        """Keep the schedule and carry out syncs until cancelled."""
        await self._open()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._worker.run(), name="syncs")
                tasks.create_task(self._timetable.keep(self._changed), name="schedule")
                tasks.create_task(self._watch_alarms(), name="alarms")
        finally:
            await asyncio.to_thread(self._book.close)

    async def _open(self) -> None:
        """Open the history; without one nothing is copied, and the pages go on."""
        fault = ""
        while True:
            try:
                cut_off = await self._book.open()
                break
            except HistoryError as error:
                self._view.notice_alarms()
                if str(error) != fault:  # the same again is told once
                    fault = str(error)
                    self._node.emit("agent.sync-not-recorded", detail=fault)
                await self._node.clock.sleep(REOPEN_S)
        if cut_off is not None:
            facts = {"run": cut_off.id, "trigger": cut_off.trigger, "source": cut_off.source}
            told = {"result": cut_off.result, "detail": cut_off.detail, "seconds": None}
            self._node.emit("agent.sync-done", **facts | told)
        first = self._settings.schedule
        if self._book.saved is None and first is not None:
            now = self._node.clock.wall()
            schedule = sync_schedule.saved(first.start_s, first.run_every_s, now)
            saved = Saved(schedule, "probes.yaml", "the first schedule", first.because)
            await self._book.save(saved, None)
        await self._worker.look_behind()

    async def _watch_alarms(self) -> None:
        while True:
            self._view.notice_alarms()
            with contextlib.suppress(HistoryError):  # one of the alarms says so
                await self._book.keep_alarms()
            await self._node.clock.sleep(ALARMS_S)

    def _here(self) -> Here:
        return self._worker.in_the_way, self._book.why_not, self._timetable.stopped

    def _news(self) -> None:
        self._view.notice_alarms()

    # -------------------------------------------------------------- as a part
    def commands(self) -> Sequence[Command[Any]]:
        """Return what the control socket takes for replication."""
        return self._desk.commands()

    def status(self) -> Mapping[str, object]:
        """Return what an operator sees of replication."""
        return self._view.status()

    def report(self) -> Mapping[str, object]:
        """Return what the peer and the prober read of it."""
        return self._view.report()

    def gauges(self) -> Iterable[Reading]:
        """Return its gauges."""
        return self._view.gauges()
