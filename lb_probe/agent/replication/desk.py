"""What an operator may ask of replication, and tell it to do."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lb_probe.agent.control import Caller, Command, Json
from lb_probe.agent.node import Node
from lb_probe.agent.replication import requests, words
from lb_probe.agent.replication.book import Book, Saved
from lb_probe.agent.replication.entry import Entry
from lb_probe.agent.replication.view import View
from lb_probe.agent.replication.watchers import Watchers
from lb_probe.agent.replication.worker import Worker
from lb_probe.core import sync_gates, sync_schedule
from lb_probe.core.model import Gate
from lb_probe.core.sync_schedule import Schedule, spell, spell_span
from lb_probe.ports import LbProbeError, Refused


@dataclass(frozen=True, slots=True)
class Desk:
    """The commands of one node's replication.

    Attributes:
        changed: Called when another schedule is in force.
    """

    node: Node
    book: Book
    worker: Worker
    entry: Entry
    view: View
    watchers: Watchers
    changed: Callable[[], None]

    def commands(self) -> Sequence[Command[Any]]:
        """Return what the control socket takes."""
        save = self.save
        return (
            Command(name="sync-now", request=requests.Now, stream=self.now, acts=True),
            Command(name="sync-history", request=requests.Page, stream=self.history),
            Command(name="sync-schedule", request=requests.Show, answer=self.show),
            Command(name="sync-schedule-save", request=requests.Save, answer=save, acts=True),
            Command(name="sync-ack", request=requests.Ack, answer=self.ack, acts=True),
        )

    # -------------------------------------------------------------- a sync by hand
    async def now(self, request: requests.Now, caller: Caller) -> AsyncGenerator[Json, None]:
        """Begin a sync and show it; who stops looking does not stop it (R84)."""
        world = await self.entry.around(request.source)
        gates = await self.entry.gates("manual", world)
        shut = sync_gates.closed(gates, request.override)
        if shut:
            raise self._refused("sync", gates, shut)
        opened = tuple(gate.id for gate in gates if not gate.passed)
        run = self.entry.begun("manual", caller.by, request.reason)
        plan = self.entry.planned(run, world, opened=opened, notes=())
        with self.watchers.watch() as watcher:
            self.worker.hand_over(plan)
            yield {"begins": words.run(plan.run)}
            async for line in watcher.until_end():
                yield line

    # -------------------------------------------------------------- what was
    async def history(self, request: requests.Page, caller: Caller) -> AsyncGenerator[Json, None]:
        """Yield runs, newest first, one a line."""
        before, left = request.before, request.limit or 2**31
        while left > 0:
            some = await asyncio.to_thread(
                self.book.history.runs,
                limit=min(left, 200),
                before=before,
                since_wall=request.since_wall,
            )
            for run in some:
                yield {"run": words.run(run)}
            if not some:
                break
            before, left = some[-1].id, left - len(some)
        yield {"end": True}

    async def ack(self, request: requests.Ack, caller: Caller) -> Json:
        """Take the newest bad run as seen: its alarm ends, nothing else changes (R16)."""
        seen = await self.book.ack()
        acked = words.run(seen) if seen else None
        return {"version": 1, "node": self.node.name, "acked": acked} | self.view.alarms_view()

    # -------------------------------------------------------------- the schedule
    async def show(self, request: requests.Show, caller: Caller) -> Json:
        """Show the schedule and what it comes to."""
        return {"version": 1, "node": self.node.name} | self.view.schedule()

    async def save(self, request: requests.Save, caller: Caller) -> Json:
        """Save a schedule: anchored anew, unless the grid is kept (R20, R89)."""
        now = self.node.clock.wall()
        schedule = requests.wanted(request, self.book, now)
        before = self.book.saved.schedule if self.book.saved else None
        is_same_grid = before is not None and before.first_wall == schedule.first_wall
        handled = self.book.handled_wall if is_same_grid else None
        next_wall = sync_schedule.look(schedule, handled, now).next_wall
        gates = self._gates(schedule, next_wall, now)
        answer: dict[str, object] = {
            "version": 1,
            "node": self.node.name,
            "saved": False,
            "plan": words.schedule(schedule, caller.by, request.reason, "")
            | {"next": words.moment(next_wall)},
            "gates": [_gate(gate) for gate in gates],
            "overlap": await self._overlap(schedule),
        }
        if request.dry_run:
            return answer
        shut = sync_gates.closed(gates, request.override)
        if shut:
            raise self._refused("sync schedule", gates, shut)
        because = request.reason if sync_schedule.is_too_often(schedule.run_every_s) else ""
        await self.book.save(Saved(schedule, caller.by, request.reason, because), handled)
        first, every = words.moment(schedule.first_wall), schedule.run_every_s
        self.node.emit("agent.sync-scheduled", by=caller.by, first=first, run_every_s=every)
        self.changed()
        return answer | {"saved": True} | self.view.schedule()

    def _gates(self, schedule: Schedule, next_wall: int, now: float) -> tuple[Gate, ...]:
        every, last = schedule.run_every_s, self.book.last_good
        by_hand = self.node.state.data.by_hand
        began = last.started_wall if last is not None else None
        is_wide = sync_schedule.is_wide(next_wall, began, now, every)
        gap = spell_span(next_wall - (now if began is None else began))
        since = "now; no sync has been good yet" if began is None else spell(began)
        line = f"lb-probe agent sync now --node {self.node.name} --reason '...'"
        return (
            Gate(
                "run-every",
                not sync_schedule.is_too_often(every),
                f"Run Every is {spell_span(every)}",
                "60 minutes or more: a sync must end before the next begins (R10)",
            ),
            Gate(
                "by-hand-first",
                by_hand,
                "a manual sync was good" if by_hand else "no manual sync has been good yet",
                "one good manual sync before there is a schedule (R87)",
                "",
                line,
            ),
            Gate(
                "gap",
                not is_wide,
                f"the next sync is at {spell(next_wall)}, {gap} after the last good one ({since})",
                f"at most {spell_span(2 * every)} between two syncs, twice Run Every (R19)",
            ),
        )

    async def _overlap(self, schedule: Schedule) -> str:
        """Say whether a sync here would read from a peer that is being written to (R38)."""
        if self.node.peer is None:
            return ""
        try:
            report = await self.node.peer.report()
        except LbProbeError:
            return ""
        advice = self.book.advice
        return requests.overlap(schedule, advice.p95_s if advice else 0.0, report)

    def _refused(self, verb: str, gates: tuple[Gate, ...], shut: tuple[Gate, ...]) -> Refused:
        names = ", ".join(gate.id for gate in shut)
        line = sync_gates.paste(self.node.name, gates) if verb == "sync" else ""
        return Refused(f"{verb} refused by {names}", gates, line)


def _gate(gate: Gate) -> Mapping[str, object]:
    return {
        "id": gate.id,
        "passed": gate.passed,
        "found": gate.found,
        "wanted": gate.wanted,
        "open_with": gate.open_with,
        "instead": gate.instead,
    }
