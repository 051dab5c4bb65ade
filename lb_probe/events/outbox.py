"""What people are to be told, until every channel has taken it.

At least once: a notice is on disk before `put` returns, and a channel that was killed, down or full
is tried again for days. In order for each group. Each once, by its key, as far as a receiver that
knows the key can tell. Never in the way: channels have a line each, none waits for another, and
nothing here is waited for by a decision.

Many notices that wait for one channel become one letter. A channel holds `ROOM` of them; where more
come the least grave, oldest ones are dropped, and the next letter says how many.

Source: R93-R97; DESIGN section 2; facts on notifications (persistent outbox, storm protection).
"""

import asyncio
import math
import random
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lb_probe.core.model import Event
from lb_probe.core.notice import Notice, Severity, Stage, one_line
from lb_probe.events.outbox_file import KEEP_KEYS, Kept, OutboxFile, Step
from lb_probe.ports import Channel, Clock, EventSink, Letter, NotDelivered

ROOM = 1_000  # notices that wait for one channel
EXPIRE_S = 3 * 86_400.0
LEAST_S = 3_600.0  # of them for what an earlier run left, whatever the wall clock says
GATHER_S = 0.5  # a storm is seen as one
SINGLE = 5  # so many letters go out one by one; more that wait become one
PACE_S = 10.0  # between two letters, once `SINGLE` went out within a minute
MOST_TOGETHER = 500
SHORTEST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LONGEST_WAIT_S = 3_600.0  # that a receiver may ask for
REWRITE_S = 30.0
DRAIN_S = 3.0
_RANK = (Severity.INFO, Severity.WARNING, Severity.CRITICAL)


@dataclass(frozen=True, slots=True)
class Route:
    """A channel and what it is told.

    Attributes:
        at_least: Nothing less grave than this.
        groups: Only notices of these, and of the process as a whole; None for all.
        stand_in_s: Told only what no other channel has taken after so many seconds; None for all.
    """

    channel: Channel
    classes: frozenset[str]
    at_least: Severity = Severity.INFO
    groups: frozenset[str] | None = None
    stand_in_s: float | None = None

    def takes(self, notice: Notice) -> bool:
        """Tell whether a notice is for this channel."""
        if self.groups is not None and notice.group and notice.group not in self.groups:
            return False
        if self.channel.is_for_alarms and notice.stage in (Stage.SEEN, Stage.OVER):
            return True  # of one that it never heard of it takes no notice
        if self.channel.is_for_alarms and not notice.alarm:
            return False
        return notice.event_class in self.classes and (
            _RANK.index(notice.weight) >= _RANK.index(self.at_least)
        )


@dataclass(frozen=True, slots=True)
class Trouble:
    """A channel that takes nothing.

    Attributes:
        since_wall: When its first try failed, UTC seconds since 1970.
    """

    channel: str
    since_wall: float
    waiting: int
    detail: str


@dataclass(slots=True)
class _Waiting:
    """One notice in one channel's line; times are monotonic seconds."""

    notice: Notice
    expires_at: float
    not_before: float = 0.0
    tries: int = 0
    is_alone: bool = False  # a letter with others was refused


class _Line:
    """What one channel has yet to be told."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.waiting: dict[int, _Waiting] = {}
        self.wake = asyncio.Event()
        self.not_before = 0.0
        self.failures = 0
        self.failing_since: float | None = None
        self.is_proven = False  # its last letter was taken
        self.detail = ""
        self.lost = 0
        self.sent_at: deque[float] = deque(maxlen=SINGLE)

    @property
    def name(self) -> str:
        return self.route.channel.name

    def add(self, number: int, waiting: _Waiting, now: float) -> None:
        if not self.waiting:
            self.not_before = max(self.not_before, now + GATHER_S)
        self.waiting[number] = waiting
        self.wake.set()

    def next(self, now: float) -> tuple[list[int], float]:
        """Return what to send now, and when to look again where that is nothing."""
        if not self.waiting:
            return [], math.inf
        if now < self.not_before:
            return [], self.not_before
        ready, later = self._ready(now)
        if not ready:
            return [], later
        is_busy = len(self.sent_at) == SINGLE and now - self.sent_at[0] < 60.0
        if is_busy and now < self.sent_at[-1] + PACE_S:
            return [], self.sent_at[-1] + PACE_S
        many = [number for number in ready if not self.waiting[number].is_alone]
        if len(many) > (1 if is_busy else SINGLE):
            return many[:MOST_TOGETHER], now
        return ready[:1], now

    def _ready(self, now: float) -> tuple[list[int], float]:
        """Return what is due, in order: of a group nothing goes before what stands before it."""
        ready, held, later = [], set(), math.inf
        for number, one in self.waiting.items():
            if one.notice.group in held:
                continue
            if one.not_before > now:
                held.add(one.notice.group)
                later = min(later, one.not_before)
            else:
                ready.append(number)
        return ready, later


class Outbox:
    """The Outbox port over one file and any number of channels.

    Attributes:
        id: Names this file for life; a new one never repeats the keys of one that was lost.
        memory: What tellers need to remember, by name; kept with `keep`.
        unusable: Where a file that could not be used was moved at the start; empty where none was.
        fault: Why what waits is not on disk; empty while it is.
    """

    def __init__(
        self,
        file: OutboxFile,
        routes: Sequence[Route],
        clock: Clock,
        events: EventSink,
        *,
        source: str,
        runbook: str = "",
    ) -> None:
        """Use `open`; this only notes the parts."""
        self.id = ""
        self.memory: dict[str, str] = {}
        self.unusable = ""
        self.source = source
        self._runbook = runbook
        self._file = file
        self._clock = clock
        self._events = events
        self._lines = {route.channel.name: _Line(route) for route in routes}
        self._keys: dict[str, int] = {}
        self._number = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._progress = asyncio.Event()

    @classmethod
    async def open(
        cls,
        path: Path,
        routes: Sequence[Route],
        clock: Clock,
        events: EventSink,
        *,
        source: str,
        runbook: str = "",
    ) -> Self:
        """Take over what an earlier run left; never fails for what is on disk.

        Args:
            source: Who speaks: prober or agent, and the machine.
            runbook: Where the headings of docs/runbook.md can be read, for links.
        """

        def told(fault: str) -> None:
            if fault:
                events.emit(Event("outbox.failed", fields={"detail": fault}))
            else:
                events.emit(Event("outbox.recovered"))

        file = OutboxFile(path, told)
        box = cls(file, routes, clock, events, source=source, runbook=runbook)
        kept, box.unusable = await file.open(clock.wall())
        if file.fault:
            told(file.fault)
        box._recall(kept)
        box.id = box.memory.setdefault("id", secrets.token_hex(4))
        await asyncio.shield(box._write(memory={"id": box.id}))
        return box

    def _recall(self, kept: Kept) -> None:
        self.memory = dict(kept.memory)
        self._keys = dict(kept.keys)
        self._number = max(kept.keys.values(), default=0)
        now, wall = self._clock.monotonic(), self._clock.wall()
        homeless: dict[str, list[int]] = {}
        for number, channel in kept.waiting:
            notice, line = kept.notices[number], self._lines.get(channel)
            if line is None:
                homeless.setdefault(channel, []).append(number)
                continue
            age = max(0.0, wall - notice.at_wall)
            stand_in_s = self._stand_in_s(line.route, notice)
            line.waiting[number] = _Waiting(
                notice,
                expires_at=now + max(LEAST_S, EXPIRE_S - age),
                not_before=now + max(0.0, stand_in_s - age),
            )
        for channel, numbers in homeless.items():  # it is gone from the file
            self._emit(
                "notify.dropped", channel, [kept.notices[n] for n in numbers], 0, "channel gone"
            )
            self._write(done=[(number, channel) for number in numbers])
        for line in self._lines.values():
            self._emit_waiting(line)

    # -------------------------------------------------------------- in
    async def put(self, *notices: Notice) -> None:
        """Keep these, all of them or none, and have them sent; never raises."""
        await self.keep(notices, {})

    async def keep(self, notices: Sequence[Notice], memory: Mapping[str, str]) -> bool:
        """Keep notices, and what their teller knows with them; tell whether that is on disk."""
        added = []
        for notice in notices:
            if notice.key not in self._keys:
                self._number += 1
                self._keys[notice.key] = self._number
                added.append((self._number, notice, self._line_up(self._number, notice)))
        self._forget_keys()
        self.memory.update(memory)
        if not added and not memory:
            return True
        return await asyncio.shield(self._write(added, memory=memory))

    def _forget_keys(self) -> None:
        if len(self._keys) > 2 * KEEP_KEYS:
            kept = {number for line in self._lines.values() for number in line.waiting}
            oldest = self._number - KEEP_KEYS
            self._keys = {k: n for k, n in self._keys.items() if n > oldest or n in kept}

    def _line_up(self, number: int, notice: Notice) -> list[str]:
        """Put a notice in line for every channel it is for; return their names."""
        now, names = self._clock.monotonic(), []
        for line in self._lines.values():
            if not line.route.takes(notice):
                continue
            after = self._stand_in_s(line.route, notice)
            line.add(number, _Waiting(notice, now + EXPIRE_S, now + after if after else 0.0), now)
            self._make_room(line)
            if number in line.waiting:
                names.append(line.name)
            self._emit_waiting(line)
        return names

    def _stand_in_s(self, route: Route, notice: Notice) -> float:
        """Return how long a channel leaves a notice to the others; 0 where there are none."""
        if route.stand_in_s is None:
            return 0.0
        routes = (line.route for line in self._lines.values())
        others = any(r.stand_in_s is None and r.takes(notice) for r in routes)
        return route.stand_in_s if others else 0.0

    def _make_room(self, line: _Line) -> None:
        if len(line.waiting) <= ROOM:
            return
        number = min(line.waiting, key=lambda n: (_RANK.index(line.waiting[n].notice.gravity), n))
        gone = line.waiting.pop(number)
        line.lost += 1
        self._emit("notify.dropped", line.name, [gone.notice], len(line.waiting), "too many wait")
        self._write(done=[(number, line.name)])

    # -------------------------------------------------------------- out
    async def run(self) -> None:
        """Bring what waits to the channels until cancelled; may be called again after that."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for line in self._lines.values():
                    self._running[line.name] = tasks.create_task(self._deliver(line))
                while True:
                    await self._clock.sleep(REWRITE_S)
                    if self._file.fault:
                        await self._write()
        finally:
            self._tasks, self._running = None, {}

    async def reroute(self, routes: Sequence[Route]) -> None:
        """Use these channels from now on; what waits for one of the same name waits for the new."""
        old, self._lines = self._lines, {r.channel.name: _Line(r) for r in routes}
        for name, line in old.items():
            now = self._lines.get(name)
            if now is not None and now.route is line.route:
                self._lines[name] = line
                continue
            task = self._running.pop(name, None)
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
            if now is not None:
                # Behind what waits: something may have come while the old one ended.
                now.waiting, now.lost = line.waiting | now.waiting, line.lost + now.lost
            elif line.waiting:
                gone = [one.notice for one in line.waiting.values()]
                self._emit("notify.dropped", name, gone, 0, "channel gone")
                self._write(done=[(number, name) for number in line.waiting])
        if self._tasks is not None:
            for name, line in self._lines.items():
                if name not in self._running:
                    self._running[name] = self._tasks.create_task(self._deliver(line))

    async def _deliver(self, line: _Line) -> None:
        while True:
            line.wake.clear()
            now = self._clock.monotonic()
            self._expire(line, now)
            numbers, look_at = line.next(now)
            if numbers:
                await self._send(line, numbers)
            else:
                await self._clock.wait(line.wake, min(look_at - now, LONGEST_WAIT_S))

    async def _send(self, line: _Line, numbers: Sequence[int]) -> None:
        channel = line.route.channel
        letter = self._letter(line, numbers)
        error: NotDelivered | None = None
        try:
            async with asyncio.timeout(channel.timeout_s):
                await channel.send(letter)
        except NotDelivered as refused:
            error = refused
        except TimeoutError:
            error = NotDelivered(f"{line.name}: no end after {channel.timeout_s:g}s", is_busy=True)
        except Exception as broken:  # nothing that a channel does may end the others
            error = NotDelivered(f"{line.name}: {type(broken).__name__}: {broken}", is_busy=True)
        left = [number for number in numbers if number in line.waiting]  # room was made, perhaps
        if error is None:
            line.lost -= letter.lost  # more may have gone since it was written
            self._delivered(line, left)
        elif not error.is_final:
            self._failed(line, left, error)
        elif len(numbers) > 1:  # one of them may be what it does not like
            for number in left:
                line.waiting[number].is_alone = True
        elif left:
            self._rejected(line, left[0], error)

    def _letter(self, line: _Line, numbers: Sequence[int]) -> Letter:
        notices = tuple(line.waiting[number].notice for number in numbers)
        key = notices[0].key
        if len(notices) > 1:
            key = f"{key}..{len(notices)}..{notices[-1].key}"
        links = [f"{self._runbook}#{n.heading}" if n.heading else self._runbook for n in notices]
        is_linked = bool(self._runbook)
        return Letter(notices, key, self.source, tuple(links) if is_linked else (), line.lost)

    def _delivered(self, line: _Line, numbers: Sequence[int]) -> None:
        now = self._clock.monotonic()
        notices = [line.waiting.pop(number).notice for number in numbers]
        line.sent_at.append(now)
        line.failures, line.failing_since, line.detail = 0, None, ""
        line.is_proven = True
        if notices:
            self._write(done=[(number, line.name) for number in numbers])
            self._emit("notify.delivered", line.name, notices, len(line.waiting))
        if line.route.stand_in_s is None:
            self._spare_stand_ins(numbers)
        self._progress.set()

    def _spare_stand_ins(self, numbers: Sequence[int]) -> None:
        for line in self._lines.values():
            spared = [n for n in numbers if n in line.waiting and line.route.stand_in_s is not None]
            for number in spared:
                del line.waiting[number]
            if spared:
                self._write(done=[(number, line.name) for number in spared])
                self._emit_waiting(line)

    def _failed(self, line: _Line, numbers: Sequence[int], error: NotDelivered) -> None:
        now = self._clock.monotonic()
        is_new = str(error) != line.detail
        if line.failing_since is None:
            line.failing_since = self._clock.wall()
        line.detail = str(error)
        line.is_proven = False
        line.failures += 1
        wait_s = min(error.wait_s or 0.0, LONGEST_WAIT_S)
        if error.is_busy:
            line.not_before = now + max(wait_s, _pause_s(line.failures))
        else:
            for number in numbers:
                one = line.waiting[number]
                one.tries += 1
                one.not_before = now + max(wait_s, _pause_s(one.tries))
        notices, waiting = [line.waiting[n].notice for n in numbers], len(line.waiting)
        if is_new:
            self._emit("notify.failed", line.name, notices, waiting, line.detail)
        else:  # the same again: counted each time, told once
            self._emit("notify.failing", line.name, notices, waiting, line.detail)

    def _rejected(self, line: _Line, number: int, error: NotDelivered) -> None:
        gone = line.waiting.pop(number)
        self._write(done=[(number, line.name)])
        self._emit("notify.rejected", line.name, [gone.notice], len(line.waiting), str(error))
        for other in self._lines.values():  # it is theirs now
            if other.route.stand_in_s is not None and number in other.waiting:
                other.waiting[number].not_before = 0.0
                other.wake.set()

    def _expire(self, line: _Line, now: float) -> None:
        old = [number for number, one in line.waiting.items() if now >= one.expires_at]
        if old:
            notices = [line.waiting.pop(number).notice for number in old]
            line.lost += len(old)
            self._emit("notify.expired", line.name, notices, len(line.waiting), line.detail)
            self._write(done=[(number, line.name) for number in old])

    # -------------------------------------------------------------- looking, and the end
    def troubles(self) -> list[Trouble]:
        """Return the channels that take nothing, and since when."""
        return [
            Trouble(line.name, line.failing_since, len(line.waiting), line.detail)
            for line in self._lines.values()
            if line.failing_since is not None
        ]

    def unproven(self) -> list[str]:
        """Return the channels of which nobody knows that they take messages."""
        return [line.name for line in self._lines.values() if not line.is_proven]

    @property
    def fault(self) -> str:
        """Why what waits is not on disk; empty while it is."""
        return self._file.fault

    def waiting(self) -> dict[str, int]:
        """Return how many notices wait for each channel."""
        return {name: len(line.waiting) for name, line in self._lines.items()}

    async def drain(self) -> None:
        """Wait a moment for what can be sent: the next start may be long from now."""
        end = self._clock.monotonic() + DRAIN_S
        while (left := end - self._clock.monotonic()) > 0:
            self._progress.clear()
            now = self._clock.monotonic()
            lines = [line for line in self._lines.values() if line.failing_since is None]
            if not any(w.not_before <= now for line in lines for w in line.waiting.values()):
                return
            await self._clock.wait(self._progress, left)

    async def close(self) -> None:
        """Let the file go; after `run` has ended."""
        await self._file.close(DRAIN_S)

    # -------------------------------------------------------------- inside
    def _write(
        self,
        added: Sequence[tuple[int, Notice, Sequence[str]]] = (),
        done: Sequence[tuple[int, str]] = (),
        memory: Mapping[str, str] | None = None,
    ) -> "asyncio.Future[bool]":
        return self._file.write(Step(added, done, memory or {}), self._whole)

    def _whole(self) -> Kept:
        lines = self._lines.values()
        return Kept(
            notices={n: one.notice for line in lines for n, one in line.waiting.items()},
            waiting=[(n, line.name) for line in lines for n in line.waiting],
            keys=dict(self._keys),
            memory=dict(self.memory),
        )

    def _emit(
        self,
        event: str,
        channel: str,
        notices: Sequence[Notice],
        waiting: int,
        detail: str | None = None,
    ) -> None:
        fields = {
            "channel": channel,
            "classes": ",".join(sorted({n.event_class for n in notices})),
            "key": notices[0].key if notices else "",
            "notices": len(notices),
            "waiting": waiting,
            "detail": one_line(detail, 500) if detail else None,
        }
        self._events.emit(Event(event, fields=fields))
        if channel in self._lines:
            self._emit_waiting(self._lines[channel])

    def _emit_waiting(self, line: _Line) -> None:
        """Tell how many wait in a line, and when the first of them came to be (0 for none)."""
        first = next(iter(line.waiting.values()), None)
        since_wall = first.notice.at_wall if first else 0.0
        fields = {"channel": line.name, "waiting": len(line.waiting), "since_wall": since_wall}
        self._events.emit(Event("notify.waiting", fields=fields))


def _pause_s(failures: int) -> float:
    longest_s = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2.0 ** min(failures, 10))
    return random.uniform(longest_s / 2, longest_s)  # noqa: S311 - spreads tries, no secret
