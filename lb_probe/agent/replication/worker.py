"""Carries out syncs one after the other: no two of one node can ever run at once (R18)."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from lb_probe.agent.node import Node
from lb_probe.agent.replication import words
from lb_probe.agent.replication.book import Book
from lb_probe.agent.replication.history import REFUSED, HistoryError
from lb_probe.agent.replication.run_lock import RunLock
from lb_probe.agent.replication.runner import Plan, Runner
from lb_probe.agent.replication.watchers import Watchers
from lb_probe.core import sync_schedule
from lb_probe.core.sync_schedule import spell

BARRED_S = 5.0  # from the first word of a promotion until its mode is saved, or its lock is held


class Worker:
    """The one that syncs.

    Attributes:
        runner: What is under way.
    """

    def __init__(
        self,
        node: Node,
        book: Book,
        runner: Runner,
        lock: RunLock,
        watchers: Watchers,
        changed: Callable[[], None],
    ) -> None:
        """Begin nothing yet.

        Args:
            changed: Called when a sync has ended.
        """
        self.runner = runner
        self._node = node
        self._book = book
        self._lock = lock
        self._watchers = watchers
        self._changed = changed
        self._plan: Plan | None = None
        self._handed = asyncio.Event()
        self._work: asyncio.Task[Mapping[str, object]] | None = None
        self._left = "it is not known yet whether an earlier sync still runs"
        self._barred_until = self._barred_at_wall = -1.0

    @property
    def is_busy(self) -> bool:
        """Whether a sync is under way or about to begin."""
        return self._plan is not None

    @property
    def in_the_way(self) -> str:
        """What keeps another sync from beginning; empty for nothing."""
        run = self.runner.current
        if run is not None:
            return f"sync {run.id} from {run.source} runs since {spell(run.started_wall)}"
        if self._plan is not None:
            return "a sync is about to begin"
        if self._is_barred:
            return "the node's mode is being changed"
        return self._left

    @property
    def _is_barred(self) -> bool:
        if self._node.deciding.locked():
            return True
        is_saved = self._node.state.since_wall != self._barred_at_wall
        return not is_saved and self._node.clock.monotonic() < self._barred_until

    @property
    def left_behind(self) -> str:
        """What an older sync left that may still write; empty for nothing."""
        return self._left

    def hand_over(self, plan: Plan) -> None:
        """Begin a sync; nothing may be in the way."""
        assert self._plan is None
        self._plan = plan
        self._handed.set()

    async def look_behind(self) -> None:
        """Find out whether an older sync left anything alive, and mend the record."""
        if self._plan is not None:
            return
        self._left = await asyncio.to_thread(self._lock.held_by)
        if self._book.fault and await self._book.mend(self.runner.unsaved):
            self.runner.unsaved = None

    async def end_for_primary(self) -> None:
        """End a sync that writes to a node which is to be Primary, and begin no other."""
        self._barred_until = self._node.clock.monotonic() + BARRED_S
        self._barred_at_wall = self._node.state.since_wall
        work = self._work
        if work is not None:
            work.cancel()
            await asyncio.wait([work])

    async def run(self) -> None:
        """Carry out what is handed over until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._handed.wait()
                    self._handed.clear()
                    await self._carry_out(tasks)
        finally:
            self._plan = None
            self._handed.clear()

    async def _carry_out(self, tasks: asyncio.TaskGroup) -> None:
        assert self._plan is not None
        # A task of its own can be ended without ending the loop.
        self._work = work = tasks.create_task(self._one(self._plan), name="sync")
        try:
            await asyncio.wait([work])
        finally:
            self._work = None
        self._plan = None
        await self.look_behind()
        self._changed()
        # Last: who reads that one has ended may begin the next.
        self._watchers.tell(work.result())

    async def _one(self, plan: Plan) -> Mapping[str, object]:
        """Carry out one and return the last line for those who watch."""
        try:
            if self._is_barred:  # an operator was quicker than the start of this task
                return await self._not_begun(plan, "the node's mode is being changed")
            ended = await self.runner.run(plan, self._book.history)
        except HistoryError as error:
            self._book.cannot(error, self._node.emit)
            return {"error": "failed", "detail": str(error)}
        except OSError as error:  # no lock: the program was not started
            return await self._not_begun(plan, error.strerror or str(error))
        self._book.took(ended)
        slot, saved = plan.run.slot_wall, self._book.saved
        if slot is not None and saved is not None:
            fits = self._node.clock.wall() <= slot + saved.schedule.run_every_s
            skips = sync_schedule.skips(self._book.skips, skipped=False, fits=fits)
            try:
                await self._book.handled(self._book.handled_wall, skips)
            except HistoryError as error:
                self._book.cannot(error, self._node.emit)
        return {"run": words.run(ended)}

    async def _not_begun(self, plan: Plan, why: str) -> Mapping[str, object]:
        """Put on record that a plan was not carried out; return the last line for who watches."""
        run = replace(plan.run, result=REFUSED, detail=why, gates=("alone",))
        try:
            return {"run": words.run(await self._book.record(run))}
        except HistoryError as error:
            self._book.cannot(error, self._node.emit)
            return {"error": "failed", "detail": str(error)}
