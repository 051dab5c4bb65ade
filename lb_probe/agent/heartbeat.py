"""The heartbeat: a Standby watches its peer, and acts when that is gone (R28, R61 to R65, R100).

`core.heartbeat` counts; here is the asking, the log and what follows. It runs while HA is enabled
and the node is in mode Standby: a Primary has nobody to take over from.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import Field

from lb_probe.agent.control import Caller, Command, Json, Request
from lb_probe.agent.node import Counted, Node, Part, Reading
from lb_probe.agent.peer_pages import Look, PeerPages
from lb_probe.agent.promotion import Promotion
from lb_probe.core.heartbeat import Beat, Controls, Word
from lb_probe.core.model import Mode

KEPT = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One attempt, as the log shows it; wall times are UTC seconds since 1970."""

    number: int
    at_wall: float
    passed: bool
    detail: str
    took_s: float
    failures: int
    of: int
    next_wall: float

    def line(self) -> Json:
        """Return the JSON object of one line of the log."""
        return {
            "at": _utc_ms(self.at_wall),
            "result": "ok" if self.passed else "failed",
            "detail": self.detail,
            "took_s": round(self.took_s, 3),
            "failures": self.failures,
            "of": self.of,
            "next": _utc_ms(self.next_wall),
        }


class LogsHeartbeat(Request):
    """`logs heartbeat [--follow]`."""

    follow: bool = Field(False, description="true or false")
    lines: int = Field(20, ge=0, le=KEPT, description=f"a number of lines, at most {KEPT}")


class Heartbeat(Part):
    """Watches one peer.

    Args:
        promotion: How the node becomes Primary; None keeps it in Standby (R64).
        waits_for_traffic: It does so after the prober has moved traffic here, and not before: then
            the rule that wants a Standby behind a failed Primary always finds one (R65).
    """

    name = "heartbeat"
    counters = (
        Counted("heartbeats", "Attempts to reach the peer", "agent.heartbeat", ("result",)),
        Counted("promotions_refused", "Promotions that a gate stopped", "agent.promotion-refused"),
        Counted("promotions_failed", "Promotions that failed", "agent.promotion-failed"),
    )

    def __init__(
        self,
        node: Node,
        peer: PeerPages,
        controls: Controls,
        promotion: Promotion | None = None,
        *,
        waits_for_traffic: bool = False,
    ) -> None:
        self._node = node
        self._peer = peer
        self._controls = controls
        self._promotion = promotion
        self._waits = waits_for_traffic and promotion is not None
        self._beat: Beat | None = None
        self._log: deque[Entry] = deque(maxlen=KEPT)
        self._count = 0
        self._news = asyncio.Event()
        self._acting: asyncio.Task[None] | None = None
        self._is_told = False  # people know that the peer counts as dead

    # -------------------------------------------------------------- what it says
    @property
    def word(self) -> Word:
        """What it says of the peer now."""
        if self._beat is None or not self._is_watching():  # an attempt may still be under way
            return Word.OFF
        return self._beat.word(self._controls)

    def commands(self) -> Sequence[Command[Any]]:
        """Return `logs-heartbeat`."""
        return (Command(name="logs-heartbeat", request=LogsHeartbeat, stream=self._lines),)

    def status(self) -> Mapping[str, object]:
        """Return what is known of the peer, and when it is asked next."""
        last = self._log[-1] if self._log else None
        attempt = self._node.state.promotion
        return {
            "peer": self._peer.name,
            "says": self.word.value,
            "failures": self._beat.failures if self._beat else 0,
            "of": self._controls.failures,
            "on_failure": "promote" if self._promotion else "keep-in-standby",
            "order": self._order,
            "last": last.line() if last else None,
            "promotion": None
            if attempt is None
            else {"began": _utc_ms(attempt.began_wall), "outcome": attempt.outcome},
        }

    @property
    def _order(self) -> str | None:
        if self._promotion is None:
            return None
        return "flip-then-promote" if self._waits else "promote-by-itself"

    def report(self) -> Mapping[str, object]:
        """Return the second opinion that a prober may read, and what would follow from it."""
        last = self._log[-1].at_wall if self._log else None
        then = self._order or "keep-in-standby"
        return {"heartbeat": self.word.value, "heartbeat_at": last, "then": then}

    def gauges(self) -> Iterable[Reading]:
        """Return the state, one line a word, and when the peer was asked last."""
        word = self.word
        for one in Word:
            about = "1 for what the heartbeat says of the peer"
            yield Reading("heartbeat", about, one is word, {"says": one.value})
        at_wall = self._log[-1].at_wall if self._log else 0.0
        yield Reading("heartbeat_last_timestamp_seconds", "When the peer was asked", at_wall, {})

    # -------------------------------------------------------------- its work
    async def run(self) -> None:
        """Watch the peer while this node stands by with HA enabled."""
        if self._promotion is not None:
            await self._promotion.settle()
        async with asyncio.TaskGroup() as tasks:
            if self._promotion is not None:
                tasks.create_task(self._promotion.watch())
            while True:
                news = self._node.news
                if not self._is_watching():
                    self._beat = None
                    self._tell_off()
                    await news.wait()
                    continue
                now = self._node.clock.monotonic()
                self._beat = self._beat or Beat(now)
                self._follow_traffic(tasks)
                due_s = self._beat.due_at - now
                if due_s > 0 and await self._node.clock.wait(news, due_s):
                    continue
                await self._attempt(tasks)

    def _is_watching(self) -> bool:
        state = self._node.state
        return state.ha.is_on and state.mode is Mode.STANDBY

    async def _attempt(self, tasks: asyncio.TaskGroup) -> None:
        look = await self._peer.look()
        before = self._beat
        if before is None or not self._is_watching():
            return  # switched off meanwhile: what was seen counts no more
        if look.hindrance:
            self._beat = before.hindered(ended_at=look.ended_at, controls=self._controls)
            self._note(look, self._beat)
            return
        passed = not look.fault
        self._beat = before.after(
            passed=passed,
            started_at=look.started_at,
            ended_at=look.ended_at,
            controls=self._controls,
        )
        self._note(look, self._beat)
        if passed:
            await self._recovered()
            return
        if self._beat.failures == self._controls.failures:
            self._tell_failed(look)
        if self.word is Word.FAILED and self._promotion is not None:
            self._promote(tasks, look.fault)

    def _follow_traffic(self, tasks: asyncio.TaskGroup) -> None:
        """Become Primary because traffic was moved here, whatever the heartbeat says."""
        traffic = self._node.traffic
        if self._waits and traffic is not None and traffic.has_arrived:
            self._act(tasks, "traffic", "the prober moved traffic here")

    def _note(self, look: Look, beat: Beat) -> None:
        clock = self._node.clock
        offset = clock.wall() - clock.monotonic()
        self._count += 1
        entry = Entry(
            number=self._count,
            at_wall=look.started_at + offset,
            passed=not look.fault and not look.hindrance,
            detail=look.fault or look.hindrance,
            took_s=look.ended_at - look.started_at,
            failures=beat.failures,
            of=self._controls.failures,
            next_wall=beat.due_at + offset,
        )
        self._log.append(entry)
        self._news.set()
        self._news = asyncio.Event()
        result = "ok" if entry.passed else "local" if look.hindrance else "failed"
        self._node.emit("agent.heartbeat", result=result, failures=entry.failures)

    def _tell_failed(self, look: Look) -> None:
        self._is_told = True
        self._node.emit(
            "agent.heartbeat-failed",
            peer=self._peer.name,
            failures=self._controls.failures,
            detail=look.fault,
            then=self._order or "keep-in-standby",
        )

    def _tell_off(self) -> None:
        """Say that nobody will see the peer answer again: this node watches it no more."""
        if self._is_told:
            self._is_told = False
            is_primary = self._node.state.mode is Mode.PRIMARY
            why = "it is Primary" if is_primary else "HA is disabled"
            self._node.emit("agent.heartbeat-off", peer=self._peer.name, reason=why)

    async def _recovered(self) -> None:
        if self._is_told:
            self._is_told = False
            self._node.emit("agent.heartbeat-recovered", peer=self._peer.name)
        is_idle = self._acting is None or self._acting.done()
        if self._promotion is not None and is_idle:
            await self._promotion.forget()

    def _promote(self, tasks: asyncio.TaskGroup, fault: str) -> None:
        """Become Primary because the peer is dead, where the traffic is here or need not be."""
        if self._waits and (self._node.traffic is None or not self._node.traffic.is_here):
            return
        reason = f"{self._peer.name} failed {self._controls.failures} heartbeats: {fault}"[:900]
        self._act(tasks, "heartbeat", reason)

    def _act(self, tasks: asyncio.TaskGroup, cause: str, reason: str) -> None:
        """Begin the promotion beside the heartbeats, one at a time."""
        assert self._promotion is not None
        if self._acting is None or self._acting.done():
            self._acting = tasks.create_task(self._promotion.by_itself(cause, reason))

    # -------------------------------------------------------------- its log
    async def _lines(self, request: LogsHeartbeat, caller: Caller) -> AsyncGenerator[Json, None]:
        told = max(0, self._count - request.lines)
        while True:
            news = self._news
            for entry in [one for one in self._log if one.number > told]:
                told = entry.number
                yield entry.line()
            if not request.follow:
                return
            await news.wait()


def _utc_ms(wall: float) -> str:
    moment = datetime.fromtimestamp(wall, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
