"""Replication as a part of the agent: when it runs, what keeps it back, and what is shown of it.

One worker carries out syncs one after the other, so that none can overlap another; the clock and
the operator only hand it plans. An operator who stops watching stops nothing.

Source: guide lines 69-78, 310-329, 382-393, 422; R10, R12, R16-R25, R30, R66, R69, R83-R92.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lb_probe.agent.control import Caller, Command, Json
from lb_probe.agent.node import Counted, Node, Part, Reading
from lb_probe.agent.replication import requests, words
from lb_probe.agent.replication.around import look_around
from lb_probe.agent.replication.book import Book, Saved
from lb_probe.agent.replication.history import REFUSED, SKIPPED, HistoryError, Run
from lb_probe.agent.replication.run_lock import RunLock
from lb_probe.agent.replication.runner import Plan, Runner
from lb_probe.agent.replication.settings import Settings
from lb_probe.agent.replication.watchers import Watchers
from lb_probe.core import sync_gates, sync_schedule
from lb_probe.core.data_lineage import Order, compare
from lb_probe.core.model import Gate, Mode
from lb_probe.core.sync_alarms import ALARMS, OVERDUE_TIMES, SyncFacts, raised
from lb_probe.core.sync_gates import Kind, SyncWorld
from lb_probe.core.sync_schedule import Schedule, spell, spell_span
from lb_probe.ports import LbProbeError, Refused

LOOK_S = 30.0  # at most between two looks at the wall clock, which may be set
REOPEN_S = 60.0
BARRED_S = 600.0


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
        self._book = Book(settings.history)
        self._lock = RunLock(settings.history.with_name(f"{settings.history.name}.run.lock"))
        self._watchers = Watchers()
        self._runner = Runner(node, settings, self._lock, self._watchers.tell)
        self._plan: Plan | None = None
        self._work: asyncio.Task[None] | None = None
        self._left = ""  # what an older sync left behind
        self._barred_until = -1.0
        self._news = asyncio.Event()
        self._alarms: dict[str, str] = {}
        node.before_primary.append(self.end_for_primary)
        node.demote_guards.append(self.newest_data)

    # -------------------------------------------------------------- its task
    async def run(self) -> None:
        """Keep the schedule and carry out syncs until cancelled."""
        self._plan = None
        await self._open()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry_out(tasks), name="syncs")
                tasks.create_task(self._keep_time(), name="schedule")
        finally:
            self._book.close()

    async def _open(self) -> None:
        while True:
            try:
                cut_off = await self._book.open()
                break
            except HistoryError as error:
                self._notice_alarms()
                self._node.emit("agent.sync-unrecordable", detail=str(error))
                await self._node.clock.sleep(REOPEN_S)
        if cut_off is not None:
            self._node.emit("agent.sync-done", **_ended(cut_off))
        first, now = self._settings.schedule, self._node.clock.wall()
        if self._book.saved is None and first is not None:
            schedule = sync_schedule.saved(first.start_s, first.run_every_s, now)
            saved = Saved(schedule, "probes.yaml", "the first schedule", first.because)
            await self._book.save(saved, None)

    # -------------------------------------------------------------- one sync after the other
    async def _carry_out(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._plan is None:
                continue
            plan = self._plan
            # A task of its own: it can be ended without ending this loop.
            self._work = tasks.create_task(self._one(plan), name="sync")
            try:
                await asyncio.wait([self._work])
            finally:
                self._work = None
                self._plan = None
                self._notice_alarms()

    async def _one(self, plan: Plan) -> None:
        try:
            ended = await self._runner.run(plan, self._book.history)
        except (HistoryError, OSError) as error:
            self._book.fault = str(error)
            self._node.emit("agent.sync-unrecordable", detail=str(error))
            self._watchers.tell({"error": "failed", "detail": str(error)})
            return
        self._book.took(ended)
        slot, every = plan.run.slot_wall, self._every_s
        if slot is not None and every is not None:
            fits = self._node.clock.wall() <= slot + every
            skips = sync_schedule.skips(self._book.skips, skipped=False, fits=fits)
            await self._handled(self._book.handled_wall, skips)
        self._watchers.tell({"run": words.run(ended)})

    def _hand_over(self, plan: Plan) -> None:
        """Let the worker carry out a plan; nothing else may be under way."""
        assert self._plan is None
        self._plan = plan
        self._news.set()

    @property
    def _running(self) -> str:
        """What stands in the way of another sync; empty for nothing."""
        current = self._runner.current
        if current is not None:
            return f"sync {current.id} from {current.source} runs since {spell(current.started_wall)}"
        if self._plan is not None:
            return "a sync is about to begin"
        if self._node.clock.monotonic() < self._barred_until:
            return "the node is becoming Primary"
        return self._left

    async def end_for_primary(self) -> None:
        """End a sync that writes to a node which is to be Primary, and begin no other."""
        self._barred_until = self._node.clock.monotonic() + BARRED_S
        work = self._work
        if work is not None:
            work.cancel()
            await asyncio.wait([work])

    # -------------------------------------------------------------- the clock
    async def _keep_time(self) -> None:
        while True:
            now = self._node.clock.wall()
            look = self._book.look(now)
            if look is not None:
                await self._at(look, now)
            self._left = await asyncio.to_thread(self._left_behind)
            self._notice_alarms()
            now = self._node.clock.wall()
            look = self._book.look(now)
            wait_s = LOOK_S if look is None else min(LOOK_S, max(0.0, look.next_wall - now))
            await self._node.clock.sleep(max(wait_s, 0.05))

    async def _at(self, look: sync_schedule.Look, now: float) -> None:
        """Deal with what the schedule says now."""
        if look.due_wall is None:
            await self._handled(look.handled_wall, self._book.skips)
            return
        overlaps = self._plan is not None
        is_on = self._node.state.ha.is_on and self._node.state.mode is Mode.STANDBY
        skips = self._book.skips
        if is_on and overlaps:
            skips = sync_schedule.skips(skips, skipped=True, fits=False)
        # Before it begins: a crash must not make one slot two syncs.
        await self._handled(look.handled_wall, skips)
        if not is_on:
            return
        late = sync_schedule.is_late(look.due_wall, look.missed, now)
        run = self._first_words("catch-up" if late else "schedule", "schedule", "")
        run = replace(run, slot_wall=look.due_wall)
        if overlaps:
            await self._skipped(run)
        else:
            await self._begin_slot(run, look.missed)

    async def _skipped(self, run: Run) -> None:
        skipped = replace(run, result=SKIPPED, detail=self._running or "another sync ran")
        self._node.emit("agent.sync-skipped", slot=words.moment(run.slot_wall), detail=run.detail)
        await self._record(skipped)

    async def _begin_slot(self, run: Run, missed: int) -> None:
        world = await self._around(self._settings.peer)
        gates = await self._gates("schedule", world)
        shut = sync_gates.closed(gates)
        if self._plan is not None:  # an operator was quicker
            await self._skipped(run)
        elif shut:
            detail = "; ".join(f"{gate.id}: {gate.found}" for gate in shut)
            names = tuple(gate.id for gate in shut)
            self._node.emit("agent.sync-refused", gates=",".join(names), detail=detail)
            await self._record(replace(run, result=REFUSED, detail=detail, gates=names))
        else:
            note = f"{missed} slots before it had no sync"
            self._hand_over(self._planned(run, world, (), (note,) if missed else ()))

    # -------------------------------------------------------------- gates and plans
    async def _around(self, source: str) -> SyncWorld:
        return await look_around(
            self._node,
            self._settings,
            source=source,
            running=self._running,
            unrecordable=self._book.fault,
            stopped=self._stopped,
        )

    async def _gates(self, kind: Kind, world: SyncWorld) -> tuple[Gate, ...]:
        return (*sync_gates.judge(kind, world), *await self._node.may_sync())

    def _first_words(self, trigger: str, by: str, reason: str) -> Run:
        return Run(
            trigger=trigger,
            by=by,
            reason=reason,
            source=self._settings.peer,
            target=self._node.name,
            started_wall=self._node.clock.wall(),
            initial=not self._node.state.data.by_hand,
        )

    def _planned(
        self, run: Run, world: SyncWorld, override: tuple[str, ...], notes: tuple[str, ...]
    ) -> Plan:
        assert world.report is not None  # the gate `peer-answers` opens to nobody
        lost = sync_gates.loss(world)
        run = replace(
            run,
            version_here=world.version,
            version_there=world.report.version or "",
            overridden=override,
            warnings=(*notes, lost) if lost else notes,
        )
        return Plan(
            run=run,
            lineage=sync_gates.lineage_of(world.report),
            by_hand=run.trigger == "manual",
            loses=bool(lost),
        )

    @property
    def _stopped(self) -> str:
        """Why the schedule does not run though HA is on; empty while it does (R121)."""
        state, saved = self._node.state, self._book.saved
        if state.mode is not Mode.STANDBY or state.cause == "role" or saved is None:
            return ""
        set_going = max(state.ha.since_wall, saved.schedule.saved_wall)
        if state.since_wall <= set_going or not state.ha.is_on:
            return ""
        return (
            f"the mode was set to secondary at {spell(state.since_wall)}, which does not start the"
            " schedule again: `ha enable`, or save the schedule"
        )

    async def newest_data(self) -> Gate:
        """Judge whether this Primary's data is anywhere else before it becomes a Standby (R121)."""
        world = await self._around(self._settings.peer)
        there = sync_gates.lineage_of(world.report) if world.report is not None else None
        wanted = f"{world.peer} to have copied what was written here last"
        if there is None:
            return Gate("newest-data", False, f"nothing is known: {world.why_not}", wanted)
        verdict = compare(world.lineage, there)
        if verdict.order is Order.OLDER:
            found = sync_gates.loss(world) or f"{world.peer} has it"
            return Gate("newest-data", verdict.lost is None, found, wanted)
        found = f"{self._node.name} holds the newest data; as a Standby it would be written over"
        return Gate("newest-data", False, found, wanted)

    # -------------------------------------------------------------- the operator's commands
    def commands(self) -> Sequence[Command[Any]]:
        """Return what the control socket takes for replication."""
        return (
            Command(name="sync-now", request=requests.Now, stream=self._now, acts=True),
            Command(name="sync-history", request=requests.Page, stream=self._history),
            Command(name="sync-schedule", request=requests.Show, answer=self._show),
            Command(
                name="sync-schedule-save", request=requests.Save, answer=self._save, acts=True
            ),
            Command(name="sync-ack", request=requests.Ack, answer=self._ack, acts=True),
        )

    async def _now(self, request: requests.Now, caller: Caller) -> AsyncIterator[Json]:
        with self._watchers.watch() as lines:
            world = await self._around(request.source or self._settings.peer)
            gates = await self._gates("manual", world)
            shut = sync_gates.closed(gates, request.override)
            if not shut and self._plan is not None:  # the schedule was quicker
                world = replace(world, running=self._running)
                shut = sync_gates.closed(sync_gates.judge("manual", world), request.override)
            if shut:
                raise _refused(self._node.name, "sync", gates, shut)
            opened = tuple(gate.id for gate in gates if not gate.passed)
            run = self._first_words("manual", caller.by, request.reason)
            plan = self._planned(run, world, opened, ())
            self._hand_over(plan)
            yield {"begins": words.run(plan.run)}
            async for line in lines.until_end():
                yield line

    async def _history(self, request: requests.Page, caller: Caller) -> AsyncIterator[Json]:
        before, left = request.before, request.limit or 2**31
        while left > 0:
            some = await asyncio.to_thread(
                self._book.history.runs,
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

    async def _show(self, request: requests.Show, caller: Caller) -> Json:
        return {"version": 1, "node": self._node.name} | self._schedule_view()

    async def _save(self, request: requests.Save, caller: Caller) -> Json:
        """Save a schedule: anchored anew, unless the grid is kept (R20, R89)."""
        now = self._node.clock.wall()
        schedule = requests.wanted(request, self._book, now)
        gates = self._save_gates(schedule, now)
        answer: dict[str, object] = {
            "version": 1,
            "node": self._node.name,
            "saved": False,
            "next": words.moment(schedule.first_wall),
            "gates": [gate_view(gate) for gate in gates],
            **await self._overlap(schedule),
        }
        shut = sync_gates.closed(gates, request.override)
        if request.dry_run:
            return answer
        if shut:
            raise _refused(self._node.name, "schedule", gates, shut)
        because = request.reason if sync_schedule.is_too_often(schedule.run_every_s) else ""
        kept = request.keep_grid and schedule.run_every_s == self._every_s
        saved = Saved(schedule, caller.by, request.reason, because)
        await self._book.save(saved, self._book.handled_wall if kept else None)
        self._node.emit(
            "agent.sync-schedule-saved",
            by=caller.by,
            first=words.moment(schedule.first_wall),
            run_every_s=schedule.run_every_s,
        )
        self._notice_alarms()
        return answer | {"saved": True} | self._schedule_view()

    def _save_gates(self, schedule: Schedule, now: float) -> tuple[Gate, ...]:
        every, last = schedule.run_every_s, self._book.last_good
        by_hand = self._node.state.data.by_hand
        began = last.started_wall if last is not None else None
        next_wall = max(schedule.first_wall, int(now))
        look = sync_schedule.look(schedule, self._book.handled_wall, now)
        if look.handled_wall is not None and schedule.first_wall <= now:
            next_wall = look.next_wall
        wide = sync_schedule.is_wide(next_wall, began, now, every)
        gap = spell_span(next_wall - (now if began is None else began))
        line = f"lb-probe agent sync now --node {self._node.name} --reason '...'"
        last_said = "no sync has been good yet" if began is None else f"good: {spell(began)}"
        return (
            Gate(
                "run-every",
                not sync_schedule.is_too_often(every),
                f"Run Every is {spell_span(every)}",
                "60 minutes or more (R10)",
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
                not wide,
                f"the next sync is at {spell(next_wall)}; {last_said}; a gap of {gap}",
                f"at most twice Run Every ({spell_span(2 * every)}) between two syncs (R19)",
            ),
        )

    async def _overlap(self, schedule: Schedule) -> Mapping[str, object]:
        """Say whether a sync here would read from a peer that is being written to (R38)."""
        if self._node.peer is None:
            return {}
        try:
            report = await self._node.peer.report()
        except LbProbeError:
            return {}
        advice = self._book.advice
        said = requests.overlap(schedule, advice.p95_s if advice else 0.0, report)
        return {"overlap": said} if said else {}

    async def _ack(self, request: requests.Ack, caller: Caller) -> Json:
        seen = await self._book.ack()
        self._notice_alarms()
        return {
            "version": 1,
            "node": self._node.name,
            "acked": words.run(seen) if seen else None,
            "alarms": dict(self._alarms),
        }

    # -------------------------------------------------------------- what is shown
    def status(self) -> Mapping[str, object]:
        """Return what an operator sees of replication."""
        book, state, now = self._book, self._node.state, self._node.clock.wall()
        current, until = self._runner.current, state.lineage(now).until
        return {
            "from": self._settings.peer,
            "to": self._node.name,
            "running": words.run(current) | {"percent": self._runner.percent} if current else None,
            "last": words.run(book.last) if book.last else None,
            "last_good": words.run(book.last_good) if book.last_good else None,
            "data_until": words.moment(until) if until else None,
            "data_age_s": round(max(0.0, now - until)) if until else None,
            "alarms": dict(self._alarms),
            "inhibitor": self._runner.not_inhibited or "held while a sync runs",
        } | self._schedule_view()

    def _schedule_view(self) -> dict[str, object]:
        book, now = self._book, self._node.clock.wall()
        saved, look, advice = book.saved, book.look(now), book.advice
        first = self._settings.schedule
        waits = self._waits_for()
        return {
            "schedule": words.schedule(saved.schedule, saved.by, saved.reason, saved.because)
            if saved
            else None,
            "next": words.moment(look.due_wall or look.next_wall) if look and not waits else None,
            "waits_for": waits,
            "skips": book.skips,
            "advice": advice.text if advice else None,
            "in_file": {
                "start": sync_schedule.spell_start(first.start_s),
                "run_every": spell_span(first.run_every_s).replace(" ", ""),
            }
            if first
            else None,
        }

    def _waits_for(self) -> str:
        """Say why no slot would begin a sync, as far as this node knows; empty where one would."""
        state = self._node.state
        reasons = (
            ("no schedule is saved", self._book.saved is None),
            ("HA is disabled", not state.ha.is_on),
            ("the node is Primary", state.mode is not Mode.STANDBY),
            (self._stopped, bool(self._stopped)),
            ("no manual sync has been good yet", not state.data.by_hand),
            (self._book.fault, bool(self._book.fault)),
        )
        return "; ".join(text for text, is_so in reasons if is_so)

    def report(self) -> Mapping[str, object]:
        """Return what the peer and the prober read of it."""
        good, saved, advice = self._book.last_good, self._book.saved, self._book.advice
        found: dict[str, object] = {"is_syncing": self._plan is not None or bool(self._left)}
        if good is not None and good.completed_wall is not None:
            found["last_good_sync"] = (
                min(good.started_wall, good.completed_wall),
                good.completed_wall,
            )
        if saved is not None:
            found["sync_slots"] = (float(saved.schedule.first_wall), float(saved.schedule.run_every_s))
        if advice is not None:
            found["sync_lasts_s"] = advice.p95_s
        return found

    def gauges(self) -> Iterable[Reading]:
        """Return its gauges: moments, not ages."""
        book, state, now = self._book, self._node.state, self._node.clock.wall()
        good, look = book.last_good, book.look(now)
        moments = {
            "sync_last_success_timestamp_seconds": (
                "When the last good sync began; 0 for none",
                good.started_wall if good else 0.0,
            ),
            "sync_next_timestamp_seconds": (
                "When the next sync is due; 0 where none is",
                look.next_wall if look and not self._waits_for() else 0.0,
            ),
            "sync_data_timestamp_seconds": (
                "Up to when the data has what its source had; 0 where nobody knows",
                state.lineage(now).until,
            ),
        }
        for name, (about, value) in moments.items():
            yield Reading(name, about, value, {})
        yield Reading("sync_running", "A sync into this node runs", self._plan is not None, {})
        yield Reading("sync_skips", "Slots skipped since a sync last fitted", book.skips, {})
        took = good.seconds if good and good.seconds is not None else 0.0
        yield Reading("sync_last_success_seconds", "How long the last good sync took", took, {})
        for name in ALARMS:
            about = "1 while the alarm stands"
            yield Reading("sync_alarm", about, name in self._alarms, {"alarm": name})

    # -------------------------------------------------------------- alarms and small things
    def _notice_alarms(self) -> None:
        """Compare what stands now with what stood, and tell the difference."""
        book, state, now = self._book, self._node.state, self._node.clock.wall()
        bad, every = book.bad, self._every_s
        overdue = self._settings.overdue_s
        if overdue is None and every is not None:
            overdue = OVERDUE_TIMES * every
        found = raised(
            SyncFacts(
                mode=state.mode,
                now=now,
                suspect="" if self._plan is not None else state.data.suspect,
                data_until=state.lineage(now).until,
                overdue_s=overdue,
                bad=(bad.result, bad.detail, bad.gates) if bad else None,
                skips=book.skips,
                stopped=self._stopped,
                unrecordable=book.fault,
                advice=book.advice,
            )
        )
        for name in found.keys() - self._alarms.keys():
            self._node.emit("agent.alarm-raised", alarm=name, detail=found[name])
        for name in self._alarms.keys() - found.keys():
            self._node.emit("agent.alarm-cleared", alarm=name)
        self._alarms = found

    @property
    def _every_s(self) -> int | None:
        return self._book.saved.schedule.run_every_s if self._book.saved else None

    def _left_behind(self) -> str:
        return "" if self._plan is not None else self._lock.held_by()

    async def _handled(self, handled_wall: int | None, skips: int) -> None:
        try:
            await self._book.handled(handled_wall, skips)
        except HistoryError as error:
            self._node.emit("agent.sync-unrecordable", detail=str(error))

    async def _record(self, run: Run) -> None:
        try:
            await self._book.record(run)
        except HistoryError as error:
            self._node.emit("agent.sync-unrecordable", detail=str(error))


def gate_view(gate: Gate) -> Mapping[str, object]:
    """Return a gate as the answers show it."""
    return {
        "id": gate.id,
        "passed": gate.passed,
        "found": gate.found,
        "wanted": gate.wanted,
        "open_with": gate.open_with,
    }


def _refused(
    node: str, verb: str, gates: tuple[Gate, ...], shut: tuple[Gate, ...]
) -> Refused:
    names = ", ".join(gate.id for gate in shut)
    return Refused(f"{verb} refused by {names}", gates, sync_gates.paste(node, gates))


def _ended(run: Run) -> dict[str, object]:
    return {
        "run": run.id,
        "trigger": run.trigger,
        "source": run.source,
        "result": run.result,
        "detail": run.detail,
        "seconds": run.seconds,
    }
