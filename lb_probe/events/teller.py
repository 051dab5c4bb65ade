"""Finds out what the prober has to tell people, beside the work and never in its way.

Changes come from the history, which is committed with them: a cursor, kept in the outbox in one
step with the messages, says how far it was read, so a prober that was killed between the two goes
on where it was. Everything else is looked up in the groups as they are shown: those in which
something happened within a second, the others one after the other.

Source: DESIGN section 1 (Event -> mail); R95, R97, X9.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from lb_probe.core import matters, pool_view
from lb_probe.core.acts import Plan
from lb_probe.core.explain import headline
from lb_probe.core.matters import MOVED, Entry, Words
from lb_probe.core.model import Event
from lb_probe.core.notice import Notice, Severity, said
from lb_probe.core.pool_view import PoolView
from lb_probe.core.telling import Matter, Moment, Pending, Told, closed, judge
from lb_probe.core.view import View
from lb_probe.events.outbox import Outbox, Trouble
from lb_probe.history import CHANGES
from lb_probe.ports import Clock, NotFound, Record, Span, StoreError

TICK_S = 1.0
SLICE = 50  # groups of one tick in which nothing happened
STEP = 10  # groups between two looks at what else the loop has to do
BATCH = 200  # records of one reading
SETTLE_S = 3.0  # a failover is told with what came of it, where that is known so soon
DISK_S = 2.0
SHORT_BREAK_S = 300.0  # a restart in order, and no news
CHANNEL_S = 300.0
KINDS = frozenset({*CHANGES, "started"})
MOVES = frozenset({"failover", "switchover", "resume", "adopt", "offline", "accept"})
_TOLD = TypeAdapter(Told)
_UNSETTLED = frozenset({"failing-over", "confirming"})


class Board(Protocol):
    """The groups as they are shown."""

    names: tuple[str, ...]

    @property
    def is_store_writable(self) -> bool:
        """Whether the store takes what is to be saved."""

    @property
    def impairment(self) -> str:
        """Why the prober's machine cannot make probes at the moment; empty where it can."""

    def view(self, name: str) -> View | PoolView:
        """Return what is shown of one group.

        Raises:
            NotFound: No such group.
        """

    def resume_gates(self, name: str) -> Plan | None:
        """Judge `resume` as nobody; None where traffic is at home, or has none."""


class Journal(Protocol):
    """What is on record.

    Attributes:
        id: Random name of the store, the same for life.
    """

    id: str

    async def after(
        self, number: int, kinds: frozenset[str], limit: int
    ) -> tuple[list[Record], int]:
        """Return records of these kinds behind a number, oldest first, and up to where that is.

        Raises:
            StoreError: It cannot be read.
        """

    async def history(
        self, group: str | None = None, limit: int = 100, span: Span = ...
    ) -> list[Record]:
        """Return the newest records of a span, newest last.

        Raises:
            StoreError: It cannot be read.
        """


class Teller:
    """Puts what happens to the groups of one prober into its outbox.

    Args:
        remind_s: Seconds between two reminders while traffic is off the Primary; None for none.
        config_fault: Why the file was refused at the last reload; empty where it was not.
    """

    def __init__(
        self,
        board: Board,
        journal: Journal,
        outbox: Outbox,
        clock: Clock,
        *,
        remind_s: float | None,
        config_fault: Callable[[], str] = str,
    ) -> None:
        self.remind_s = remind_s
        self._board = board
        self._journal = journal
        self._outbox = outbox
        self._clock = clock
        self._config_fault = config_fault
        self._teller = f"{journal.id[:8]}.{outbox.id}"
        self._told: dict[str, Told] = {}
        self._pending: dict[str, Pending] = {}
        self._dirty: set[str] = set()
        self._isolated: set[str] = set()
        self._repaired: dict[tuple[str, str], Event] = {}
        self._turn = 0
        self._cursor: int | None = None
        self._began_wall = clock.wall()
        self._last_life: Record | None = None  # of the run before this one
        self._notices: list[Notice] = []
        self._memory: dict[str, str] = {}

    # -------------------------------------------------------------- start
    async def open(self) -> None:
        """Go on where an earlier run was; the first one begins with what happens from now on.

        Call it before anything is decided. A store that cannot be read is asked again later.
        """
        for name, text in self._outbox.memory.items():
            if name.startswith("told/"):
                with suppress(ValidationError):
                    self._told[name.removeprefix("told/")] = _TOLD.validate_json(text)
        if self._outbox.unusable:
            self._notices.append(self._lost_outbox())
        with suppress(StoreError):
            await self._find_place()
        await self._keep()

    async def _find_place(self) -> int:
        """Return the number of the record that was read last.

        Raises:
            StoreError: The history cannot be read.
        """
        if self._cursor is None:
            newest = await self._journal.history(None, 1, Span(everything=True))
            self._last_life = newest[-1] if newest else None
            last = newest[-1].number if newest else 0
            store, _, number = self._outbox.memory.get("cursor", "").partition(" ")
            # An older copy of the store may have been put in place, or another one.
            is_ours = store == self._journal.id and number.isdecimal() and int(number) <= last
            self._advance(int(number) if is_ours else last)
        assert self._cursor is not None
        return self._cursor

    def _advance(self, number: int) -> None:
        self._cursor = number
        self._memory["cursor"] = f"{self._journal.id} {number}"

    def _lost_outbox(self) -> Notice:
        wall = self._clock.wall()
        return Notice(
            key=f"{self._teller}/unusable",
            event_class="prober",
            title="what waited to be told was lost: the outbox could not be read",
            at_wall=wall,
            severity=Severity.WARNING,
            why=f"it was moved to {self._outbox.unusable}, and a new one was begun",
            safe="decisions, traffic and history are not touched by this",
            do="read what happened: lb-probe history --since 1d",
        )

    # -------------------------------------------------------------- in
    def emit(self, event: Event) -> None:
        """Take note that something happened to a group (EventSink)."""
        if event.group and event.name != "probe.done":
            self._dirty.add(event.group)
            if event.name == "publish.drift":
                self._repaired[event.group, str(event.fields.get("adapter"))] = event

    async def run(self) -> None:
        """Follow what happens until cancelled."""
        while True:
            await self.turn()
            await self._clock.sleep(TICK_S)

    async def turn(self) -> None:
        """Tell what there is to tell now."""
        with suppress(StoreError):  # a store that fails is told by what is shown
            await self._follow()
        await self._look_around()
        self._tell_repairs()
        self._look_at_ourselves()
        await self._keep()

    async def _keep(self) -> None:
        notices, memory = self._notices, self._memory
        self._notices, self._memory = [], {}
        if notices or memory:
            # In line for every channel at once; a disk that hangs is not waited for.
            with suppress(TimeoutError):
                async with asyncio.timeout(DISK_S):
                    await self._outbox.keep(notices, memory)

    def _moment(self, group: str) -> Moment:
        return Moment(self._clock.monotonic(), self._clock.wall(), self._teller, group)

    def _learn(self, group: str, told: Told, notices: Sequence[Notice]) -> None:
        if told != self._told.get(group, Told()):
            self._told[group] = told
            self._memory[f"told/{group}"] = json.dumps(asdict(told), default=_plain)
        self._notices += notices

    # -------------------------------------------------------------- what is on record
    async def _follow(self) -> None:
        is_more = True
        while is_more:
            place = await self._find_place()
            records, seen = await self._journal.after(place, KINDS, BATCH)
            for record in records:
                if self._is_unsettled(record):
                    return
                try:
                    self._take(record)
                except Exception as error:  # one that nobody can read must not silence the rest
                    self._notices.append(self._unreadable(record, error))
                self._advance(record.number)
            self._cursor, is_more = seen, len(records) == BATCH

    def _is_unsettled(self, record: Record) -> bool:
        """Tell whether it is better to wait a moment: what came of it is about to be known."""
        if record.kind != "failover" or not 0 <= self._clock.wall() - record.at_wall < SETTLE_S:
            return False
        view = self._view(record.group)
        if not isinstance(view, View):
            return False
        is_written = all(adapter.in_sync for adapter in view.adapters)
        return view.decision.condition in _UNSETTLED or not is_written

    def _take(self, record: Record) -> None:
        if record.kind == "started":
            self._notice_break(record)
            return
        entry = Entry(record.number, record.kind, record.at_wall, record.details)
        view = self._view(record.group)
        words = Words()
        if view is not None:
            serves = isinstance(view, PoolView) or view.decision.condition not in _UNSETTLED
            words = Words(_now(view), self._do(view), serves)
        told = self._told.get(record.group, Told())
        told, notices = matters.told_of(told, entry, self._moment(record.group), words)
        self._learn(record.group, told, notices)

    def _unreadable(self, record: Record, error: Exception) -> Notice:
        return Notice(
            key=f"{self._teller}/{record.number}/unreadable",
            event_class="failed-over" if record.kind in MOVES else "prober",
            title=f"{record.group}: {record.kind} is on record, and cannot be put in words",
            at_wall=self._clock.wall(),
            group=record.group,
            why=f"record {record.number}: {type(error).__name__}: {error}",
            do=f"lb-probe explain {record.group}; lb-probe history {record.group}",
        )

    def _notice_break(self, record: Record) -> None:
        """Say that nobody watched for a while, where that is news."""
        last = self._last_life
        if last is None or record.at_wall < self._began_wall:
            return
        away_s = max(0.0, record.at_wall - last.at_wall)
        in_order = last.kind == "stopped"
        if away_s < (SHORT_BREAK_S if in_order else 0.0):
            return
        how = "was stopped" if in_order else "ended without a word (killed, or a crash)"
        self._notices.append(
            Notice(
                key=f"{self._teller}/{record.number}/{round(record.at_wall * 1000)}",
                event_class="prober",
                title=f"the prober was down, for {_span(away_s)} at most; it runs again",
                at_wall=record.at_wall,
                severity=Severity.WARNING,
                why=f"it {how}; its last record is of {said(last.at_wall)}",
                safe="lb-probe moved and repaired nothing meanwhile",
                do="if you did not stop it, read its log: journalctl -u lb-probe-prober",
            )
        )

    # -------------------------------------------------------------- what is shown
    async def _look_around(self) -> None:
        names = self._board.names
        start = self._turn % len(names) if names else 0
        self._turn = start + SLICE
        due = [*names[start : start + SLICE], *self._dirty, *(n for n in self._pending if n)]
        self._dirty = set()
        for number, name in enumerate(dict.fromkeys(due)):
            if number % STEP == STEP - 1:
                await asyncio.sleep(0)
            self._look(name)
        for name in [n for n in self._told if n and n not in names]:
            self._forget(name)

    def _look(self, name: str) -> None:
        view, at = self._view(name), self._moment(name)
        told = self._told.get(name, Told())
        if view is None:
            self._pending.pop(name, None)
            return
        notices: list[Notice] = []
        if isinstance(view, PoolView):
            condition, found = view.condition, matters.of_pool(view)
        else:
            condition, resume = view.decision.condition, self._resume(view)
            found = matters.of_pair(view, resume)
            told, notices = matters.arrived(told, view, at)
            if self.remind_s is not None:
                told, more = matters.reminder(told, view, at, self.remind_s, resume)
                notices += more
        (self._isolated.add if condition == "prober-isolated" else self._isolated.discard)(name)
        pending = self._pending.get(name, {})
        kept = matters.unknown_of(view) | {MOVED}
        told, pending, news = judge(told, pending, found, at, kept)
        if pending:
            self._pending[name] = pending
        else:
            self._pending.pop(name, None)
        self._learn(name, told, [*notices, *news])

    def _forget(self, name: str) -> None:
        """End what was open of a group that is gone from the file."""
        told, at, notices = self._told[name], self._moment(name), []
        for topic in list(told.alarms):
            title = f"{name}: the group is gone from probes.yaml"
            told, notice = closed(told, topic, at, title=title)
            notices.append(notice)
        self._isolated.discard(name)
        self._pending.pop(name, None)
        self._learn(name, told, notices)
        if not notices:
            del self._told[name]

    def _view(self, name: str) -> View | PoolView | None:
        try:
            return self._board.view(name)
        except NotFound:
            return None

    def _resume(self, view: View) -> str:
        """Return the line that would resume a group, where an operator's word is all it takes."""
        plan = self._board.resume_gates(view.name) if view.saved.latched else None
        if plan is None or any(gate.open_with != "attest" for gate in plan.closed):
            return ""  # what opens a gate at one's own risk is no line for the night
        return plan.paste

    def _do(self, view: View | PoolView) -> str:
        if isinstance(view, PoolView):
            return pool_view.next_step(view)
        return matters.what_to_do(view, self._resume(view))

    def _tell_repairs(self) -> None:
        repaired, self._repaired = self._repaired, {}
        wall = self._clock.wall()
        for (group, adapter), event in repaired.items():
            restarted = event.fields.get("restarted") is True
            how = "restarted and" if restarted else "was changed by somebody else:"
            seen, wanted = event.fields.get("seen"), event.fields.get("wanted")
            self._notices.append(
                Notice(
                    key=f"{self._teller}/{group}/drift/{adapter}/repaired/{round(wall * 1000)}",
                    event_class="drift",
                    title=f"{group}: {adapter} {how} sent traffic to {seen}; it is set to {wanted}"
                    " again",
                    at_wall=wall,
                    severity=Severity.INFO if restarted else Severity.WARNING,
                    group=group,
                    safe="it was repaired; the third time within a minute lb-probe stops writing",
                    do="" if restarted else f"find who else writes to {adapter}",
                )
            )

    # -------------------------------------------------------------- the prober itself
    def _look_at_ourselves(self) -> None:
        at, told = self._moment(""), self._told.get("", Told())
        found = [
            *_store(self._board.is_store_writable),
            *_isolation(len(self._isolated)),
            *_impairment(self._board.impairment),
            *_config(self._config_fault()),
            *_disk(self._outbox.fault),
            *(_channel(t) for t in self._outbox.troubles() if at.wall - t.since_wall >= CHANNEL_S),
        ]
        kept = frozenset(f"channel/{name}" for name in self._outbox.unproven())
        told, pending, notices = judge(told, self._pending.get("", {}), found, at, kept)
        self._pending[""] = pending
        self._learn("", told, notices)


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 3 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _plain(value: object) -> object:
    return value.value if isinstance(value, Severity) else str(value)


def _now(view: View | PoolView) -> str:
    if isinstance(view, PoolView):
        return pool_view.explain(view).partition("\n")[0]
    return headline(view)


def _store(is_writable: bool) -> list[Matter]:
    if is_writable:
        return []
    return [
        Matter(
            topic="store",
            word="not writable",
            event_class="prober",
            title="the store takes no writes: no automatic failover is made",
            ended="the store takes writes again; automatic failovers are made",
            safe="traffic stays where it is; a failover that cannot be saved is not made",
            do="make room on its disk; it goes on by itself. The log's store.failed says what is"
            " wrong",
            runbook="store-not-writable",
        )
    ]


def _isolation(groups: int) -> list[Matter]:
    if not groups:
        return []
    return [
        Matter(
            topic="isolated",
            word="isolated",
            event_class="prober",
            title="the prober is cut off: nothing it asks answers, and all groups are frozen",
            settle_s=10.0,
            ended="the prober reaches the network again; failures from before do not count",
            safe="traffic stays where it is; nothing moves on the return either",
            do="repair the network of this prober's machine",
            runbook="prober-isolated",
        )
    ]


def _impairment(why: str) -> list[Matter]:
    if not why:
        return []
    return [
        Matter(
            topic="impaired",
            word="impaired",
            event_class="prober",
            title="the prober's own machine cannot make all of its probes",
            settle_s=10.0,
            ended="the prober's machine makes all of its probes again",
            why=why,
            safe="traffic stays where it is; what could not be asked counts as no failure",
            do="look at the prober's machine: file descriptors (LimitNOFILE), ports, memory, its"
            " own address and firewall",
            runbook="prober-impaired",
        )
    ]


def _config(fault: str) -> list[Matter]:
    if not fault:
        return []
    return [
        Matter(
            topic="config",
            word=fault[:200],
            event_class="prober",
            title="probes.yaml was refused at a reload; what was in force still is",
            ended="probes.yaml was read again and is in force",
            severity=Severity.WARNING,
            why=fault,
            safe="nothing has changed",
            do="lb-probe check, correct it, reload again",
            runbook="reload-failed",
        )
    ]


def _disk(fault: str) -> list[Matter]:
    if not fault:
        return []
    return [
        Matter(
            topic="outbox",
            word="not on disk",
            event_class="prober",
            title="messages that wait are in memory only: a restart would lose them",
            ended="messages that wait are on disk again",
            severity=Severity.WARNING,
            why=fault,
            safe="they are sent all the same; decisions do not depend on it",
            do="make room beside the store",
        )
    ]


def _channel(trouble: Trouble) -> Matter:
    return Matter(
        topic=f"channel/{trouble.channel}",
        word="failing",
        event_class="prober",
        title=f"channel {trouble.channel} takes no messages",
        ended=f"channel {trouble.channel} takes messages again, or is gone from probes.yaml",
        severity=Severity.WARNING,
        why=f"since {said(trouble.since_wall)}: {trouble.detail}",
        safe=f"{trouble.waiting} messages wait for it and are tried for three days",
        do=f"lb-probe notify test {trouble.channel}",
    )
