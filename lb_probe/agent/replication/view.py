"""What is shown of a node's replication: status, report, gauges, alarms."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lb_probe.agent.node import Node, Reading
from lb_probe.agent.replication import words
from lb_probe.agent.replication.book import Book
from lb_probe.agent.replication.settings import Settings
from lb_probe.agent.replication.timetable import Timetable
from lb_probe.agent.replication.worker import Worker
from lb_probe.core.sync_alarms import ALARMS, OVERDUE_TIMES, SyncFacts, raised
from lb_probe.core.sync_schedule import spell_start

_MOMENTS = {
    "sync_last_success_timestamp_seconds": "When the last good sync began; 0 for none",
    "sync_next_timestamp_seconds": "When the next sync is due; 0 where none is",
    "sync_data_timestamp_seconds": "Up to when the data has what its source had; 0 for unknown",
}


@dataclass(slots=True)
class View:
    """One node's replication, shown."""

    node: Node
    settings: Settings
    book: Book
    worker: Worker
    timetable: Timetable
    _alarms: dict[str, str] = field(default_factory=dict)

    def status(self) -> Mapping[str, object]:
        """Return what an operator sees of it."""
        book, runner = self.book, self.worker.runner
        now, current = self.node.clock.wall(), runner.current
        until = self.node.state.lineage(now).until
        return (
            {
                "from": self.settings.peer,
                "to": self.node.name,
                "running": words.run(current) | {"percent": runner.percent} if current else None,
                "last": words.run(book.last) if book.last else None,
                "last_good": words.run(book.last_good) if book.last_good else None,
                "data_until": words.moment(until) if until else None,
                "data_age_s": round(max(0.0, now - until)) if until else None,
                "suspect": self.node.state.data.suspect,
                "in_the_way": self.worker.left_behind,
                "not_inhibited": runner.not_inhibited,
            }
            | self.alarms_view()
            | self.schedule()
        )

    def schedule(self) -> dict[str, object]:
        """Return the schedule and what it comes to."""
        book, first = self.book, self.settings.schedule
        saved, look = book.saved, book.look(self.node.clock.wall())
        advice, waits = book.advice, self.timetable.waits_for
        next_wall = (look.due_wall or look.next_wall) if look and not waits else None
        return {
            "schedule": words.schedule(saved.schedule, saved.by, saved.reason, saved.because)
            if saved
            else None,
            "next": words.moment(next_wall),
            "waits_for": waits,
            "skips": book.skips,
            "advice": advice.text if advice else None,
            "in_file": {"start": spell_start(first.start_s), "run_every_s": first.run_every_s}
            if first
            else None,
        }

    def report(self) -> Mapping[str, object]:
        """Return what the peer and the prober read of it."""
        good, saved, advice = self.book.last_good, self.book.saved, self.book.advice
        busy = self.worker.is_busy or bool(self.worker.left_behind)
        found: dict[str, object] = {"is_syncing": busy}
        if good is not None and good.completed_wall is not None:
            began = min(good.started_wall, good.completed_wall)
            found["last_good_sync"] = (began, good.completed_wall)
        if saved is not None:
            slots = saved.schedule
            found["sync_slots"] = (float(slots.first_wall), float(slots.run_every_s))
        if advice is not None:
            found["sync_lasts_s"] = advice.p95_s
        return found

    def gauges(self) -> Iterable[Reading]:
        """Return its gauges: moments, not ages."""
        good, now = self.book.last_good, self.node.clock.wall()
        look = self.book.look(now)
        is_due = look is not None and not self.timetable.waits_for
        values = (
            good.started_wall if good else 0.0,
            look.next_wall if look is not None and is_due else 0.0,
            self.node.state.lineage(now).until,
        )
        for (name, about), value in zip(_MOMENTS.items(), values, strict=True):
            yield Reading(name, about, value, {})
        yield Reading("sync_running", "A sync into this node runs", self.worker.is_busy, {})
        yield Reading("sync_skips", "Slots skipped since a sync last fitted", self.book.skips, {})
        took = good.seconds if good is not None and good.seconds is not None else 0.0
        yield Reading("sync_last_success_seconds", "How long the last good sync took", took, {})
        for name in ALARMS:
            stands = name in self._alarms
            yield Reading("sync_alarm", "1 while the alarm stands", stands, {"alarm": name})

    # -------------------------------------------------------------- alarms
    def alarms_view(self) -> dict[str, object]:
        """Return the alarms that stand, each with its sentence."""
        self.notice_alarms()
        return {"alarms": dict(self._alarms)}

    def notice_alarms(self) -> None:
        """Compare what stands now with what stood before, and tell the difference."""
        found, now = raised(self._facts()), self.node.clock.wall()
        stood: dict[str, object] = {**self.book.alarms, **self._alarms}
        if not self.book.is_open:  # nothing is known to be over
            found = {**self._alarms, **found}
            stood = {}
        # One that stood before a restart is the same one still.
        since = {name: self.book.alarms.get(name, now) for name in found}
        self.book.alarms = since
        for name in sorted(found.keys() - self._alarms.keys()):
            told = {"alarm": name, "detail": found[name], "peer": self.settings.peer}
            told["since"] = words.moment(since[name]) or ""
            self.node.emit("agent.sync-alarm", **told)
        for name in sorted(stood.keys() - found.keys()):
            self.node.emit("agent.sync-alarm-over", alarm=name, peer=self.settings.peer)
        self._alarms = found

    def _facts(self) -> SyncFacts:
        book, state, now = self.book, self.node.state, self.node.clock.wall()
        overdue = self.settings.overdue_s
        if overdue is None and book.saved is not None:
            overdue = OVERDUE_TIMES * book.saved.schedule.run_every_s
        bad, suspect = book.bad, state.data.suspect
        if self.worker.is_busy and "data-suspect" not in book.alarms:
            suspect = ""  # half of each while one runs is no alarm; but one that stands is not over
        return SyncFacts(
            mode=state.mode,
            now=now,
            suspect=suspect,
            data_until=state.lineage(now).until,
            overdue_s=overdue,
            bad=(bad.result, bad.detail, bad.gates) if bad else None,
            skips=book.skips,
            stopped=self.timetable.stopped,
            unrecordable=book.fault,
            advice=book.advice,
        )
