"""Keeps the schedule: what is due, what is skipped, and why nothing is."""

import asyncio
from dataclasses import replace

from lb_probe.agent.node import Node
from lb_probe.agent.replication import words
from lb_probe.agent.replication.book import Book
from lb_probe.agent.replication.entry import Entry
from lb_probe.agent.replication.history import REFUSED, SKIPPED, HistoryError, Run
from lb_probe.agent.replication.worker import Worker
from lb_probe.core import sync_gates, sync_schedule
from lb_probe.core.model import Mode
from lb_probe.core.sync_schedule import Look, spell

LOOK_S = 30.0  # at most between two looks at the wall clock, which may be set
_LEAST_S = 0.05


class Timetable:
    """The schedule of one node."""

    def __init__(self, node: Node, book: Book, worker: Worker, entry: Entry) -> None:
        self._node = node
        self._book = book
        self._worker = worker
        self._entry = entry

    async def keep(self, changed: asyncio.Event) -> None:
        """Hand over each sync when it is due, until cancelled.

        Args:
            changed: Set by whoever saves another schedule.
        """
        clock = self._node.clock
        while True:
            changed.clear()
            now = clock.wall()
            look = self._book.look(now)
            if look is not None:
                await self._at(look, now)
            await self._worker.look_behind()
            now = clock.wall()
            look = self._book.look(now)
            left = LOOK_S if look is None else min(LOOK_S, look.next_wall - now)
            await clock.wait(changed, max(left, _LEAST_S))

    async def _at(self, look: Look, now: float) -> None:
        """Deal with what the schedule says at this moment."""
        if look.due_wall is None:
            await self._handled(look.handled_wall, self._book.skips)
            return
        state = self._node.state
        is_on = state.ha.is_on and state.mode is Mode.STANDBY
        overlaps, skips = self._worker.is_busy, self._book.skips
        if is_on and overlaps:
            skips = sync_schedule.skips(skips, skipped=True, fits=False)
        # Before it begins: a crash must not make one slot two syncs.
        await self._handled(look.handled_wall, skips)
        if not is_on:
            return
        is_late = sync_schedule.is_late(look.due_wall, look.missed, now)
        run = self._entry.begun("catch-up" if is_late else "schedule", "schedule", "")
        run = replace(run, slot_wall=look.due_wall)
        if overlaps:
            await self._skip(run)
        else:
            await self._begin(run, look.missed)

    async def _begin(self, run: Run, missed: int) -> None:
        world = await self._entry.around()
        gates = await self._entry.gates("schedule", world)
        if self._worker.is_busy:  # an operator was quicker
            await self._skip(run)
            return
        shut = sync_gates.closed(gates)
        if not shut:
            notes = (f"{missed} slots before it had no sync",) if missed else ()
            self._worker.hand_over(self._entry.planned(run, world, notes=notes))
            return
        detail = "; ".join(f"{gate.id}: {gate.found}" for gate in shut)
        names = tuple(gate.id for gate in shut)
        self._node.emit("agent.sync-refused", gates=",".join(names), detail=detail)
        await self._record(replace(run, result=REFUSED, detail=detail, gates=names))

    async def _skip(self, run: Run) -> None:
        detail = self._worker.in_the_way
        self._node.emit("agent.sync-skipped", slot=words.moment(run.slot_wall), detail=detail)
        await self._record(replace(run, result=SKIPPED, detail=detail))

    # -------------------------------------------------------------- why nothing happens
    @property
    def stopped(self) -> str:
        """Why the schedule does not run though HA is on; empty while it does (R121)."""
        state, saved = self._node.state, self._book.saved
        if state.mode is not Mode.STANDBY or state.cause == "role" or saved is None:
            return ""
        set_going = max(state.ha.since_wall, saved.schedule.saved_wall)
        if state.since_wall <= set_going or not state.ha.is_on:
            return ""
        return (
            f"the mode was set to secondary at {spell(state.since_wall)}, which does not start the"
            " schedule again: enable HA or save the schedule"
        )

    @property
    def waits_for(self) -> str:
        """Why no slot would begin a sync, as far as this node knows; empty where one would."""
        state = self._node.state
        reasons = (
            ("no schedule is saved", self._book.saved is None),
            ("HA is disabled", not state.ha.is_on),
            ("the node is Primary", state.mode is not Mode.STANDBY),
            (self.stopped, bool(self.stopped)),
            ("no manual sync has been good yet", not state.data.by_hand),
            (self._book.why_not, bool(self._book.why_not)),
        )
        return "; ".join(text for text, is_so in reasons if is_so)

    # -------------------------------------------------------------- on record, if it can be
    async def _handled(self, handled_wall: int | None, skips: int) -> None:
        try:
            await self._book.handled(handled_wall, skips)
        except HistoryError as error:
            self._book.cannot(error, self._node.emit)

    async def _record(self, run: Run) -> None:
        try:
            await self._book.record(run)
        except HistoryError as error:
            self._book.cannot(error, self._node.emit)
