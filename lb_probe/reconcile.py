"""One load balancer kept at what is wanted, for ever.

A confirmation is only worth its moment: a load balancer forgets at a reload, a hand changes it, a
leaving process answers for one that is gone. So each adapter of each group has a loop that reads,
compares, writes where it must and reads again, twice a second; one that is unreachable is tried
with backoff for ever and shown. No loop waits for another.

Source: DESIGN section 1; HAProxy management guide, "Unix Socket commands"; X2, X21.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lb_probe.core import drift
from lb_probe.core.model import Event, Seen
from lb_probe.core.resume import AdapterView
from lb_probe.ports import Clock, EventSink, Publisher, PublishError, Unreachable

POLL_S = 0.4  # noticed and repaired within a second, with room for a slow answer
SHORTEST_PAUSE_S = 0.1  # the longest pause after the first failure; it doubles with each one more
LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the load balancer should do.

    Attributes:
        node: Node that should have the traffic; None while nobody has said.
        generation: Generation of the saved state this comes from.
        may_write: False under `act: false` and a hold with hands off.
        decided_at: Monotonic seconds of the decision, for the metric.
    """

    node: str | None
    generation: int
    may_write: bool
    decided_at: float = 0.0


class Reconciler:
    """Keeps one adapter of one group at what is wanted.

    Args:
        confirm: Saves that this adapter carries out a generation; False when it could not.
        confirmed: The generation the store says was last seen carried out.
        changed: Called after each turn that changed what `view` shows.
    """

    def __init__(
        self,
        group: str,
        publisher: Publisher,
        clock: Clock,
        events: EventSink,
        *,
        confirm: Callable[[str, int], Awaitable[bool]],
        confirmed: int,
        changed: Callable[[], None],
    ) -> None:
        self.publisher = publisher
        self.seen: Seen | None = None
        self.detail = "not read yet"
        self.confirmed = confirmed
        self._group = group
        self._clock = clock
        self._events = events
        self._confirm = confirm
        self._changed = changed
        self._wanted = Wanted(None, 0, may_write=False)
        self._watch = drift.Watch()
        self._force = False
        self._wake = asyncio.Event()

    @property
    def view(self) -> AdapterView:
        """What gates and people may know of it."""
        return AdapterView(self.publisher.name, self.seen, self._watch.yielded, self.detail)

    @property
    def is_in_sync(self) -> bool:
        """Whether the last reading agrees with what is wanted now."""
        wanted = self._wanted.node
        return wanted is not None and self.seen is not None and self.seen.node == wanted

    @property
    def wanted(self) -> Wanted:
        """What it works towards."""
        return self._wanted

    def want(self, wanted: Wanted) -> None:
        """Set what is wanted and start at once."""
        self._wanted = wanted
        self._wake.set()

    def take_back(self) -> None:
        """Write again after a yield: an operator said accept or republish."""
        self._watch = drift.Watch(instance=self._watch.instance)
        self._force = True
        self._wake.set()

    async def first_look(self, deadline_s: float) -> Seen | None:
        """Read once, for the Start rule; None where it cannot be read in time."""
        try:
            async with asyncio.timeout(deadline_s):
                self.seen = await self.publisher.read_back()
        except (PublishError, TimeoutError) as error:
            self.detail = str(error) or f"no answer in {deadline_s:g}s"
            return None
        self.detail = self.seen.detail
        self._watch = drift.in_sync(self._watch, self.seen.instance)
        return self.seen

    async def run(self) -> None:
        """Reconcile until cancelled."""
        failures = 0
        while True:
            try:
                await self._turn()
            except PublishError:
                # Random, so that many groups do not come back to one device at the same moment.
                longest_s = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2 ** min(failures, 10))
                pause_s = random.uniform(0.0, longest_s)  # noqa: S311  # no secret
                failures += 1
            else:
                pause_s, failures = POLL_S, 0
            await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        await self._clock.wait(self._wake, seconds)

    async def _turn(self) -> None:
        """Read, compare, write where it must, read again."""
        self._wake.clear()
        try:
            seen = await self.publisher.read_back()
        except PublishError as error:
            self._failed(error, seen=None)
            raise
        try:
            if self._must_write(seen):
                seen = await self._write()
        except PublishError as error:
            self._failed(error, seen)
            raise
        await self._note(seen)

    def _must_write(self, seen: Seen) -> bool:
        wanted = self._wanted
        if wanted.node is None or not wanted.may_write or self._watch.yielded:
            return False
        if self._force:
            return True
        if seen.node == wanted.node:
            return False
        if self.confirmed < wanted.generation:
            return True  # our own change, not yet carried out: no drift
        restarted = seen.instance != self._watch.instance
        is_new = restarted or self._watch.agreed
        self._watch = drift.drifted(self._watch, seen.instance, self._clock.monotonic())
        fields = {"adapter": self.publisher.name, "wanted": wanted.node, "seen": seen.word}
        if self._watch.yielded:
            self._emit("publish.foreign-writer", **fields)
            return False
        if is_new:
            self._emit("publish.drift", restarted=restarted, **fields)
        return True

    async def _write(self) -> Seen:
        wanted = self._wanted
        assert wanted.node is not None
        try:
            await self.publisher.publish(wanted.node)
        except Unreachable:
            raise
        except PublishError:
            # Perhaps it took it: from here on what is read counts, and a foreign hand with it.
            self._force = False
            raise
        self._emit("publish.sent", adapter=self.publisher.name, node=wanted.node)
        seen = await self.publisher.read_back()  # on a fresh connection: what is in force, not said
        if seen.node != wanted.node:
            raise PublishError(f"asked for {wanted.node}, reads back {seen.word}; {seen.detail}")
        self._force = False
        self._emit("publish.done", adapter=self.publisher.name, result="ok", node=wanted.node)
        return seen

    def _failed(self, error: PublishError, seen: Seen | None) -> None:
        text = str(error)
        result = "unreachable" if isinstance(error, Unreachable) else "refused"
        fields = {"adapter": self.publisher.name, "result": result, "detail": text}
        if text != self.detail:
            self._emit("publish.failed", **fields)
        else:  # the same again: counted each time, told once
            self._emit("publish.failing", **fields)
        self.seen, self.detail = seen, text
        self._changed()

    async def _note(self, seen: Seen) -> None:
        before = self.seen
        changed = before is None or (before.node, before.usable) != (seen.node, seen.usable)
        self.seen, self.detail = seen, seen.detail
        wanted = self._wanted
        if wanted.node is not None and seen.node == wanted.node:
            self._watch = drift.in_sync(self._watch, seen.instance)
            if self.confirmed < wanted.generation:
                await self._confirmed(wanted)
                changed = True
        if changed:
            self._changed()

    async def _confirmed(self, wanted: Wanted) -> None:
        seconds = self._clock.monotonic() - wanted.decided_at if wanted.decided_at else None
        if await self._confirm(self.publisher.name, wanted.generation):
            self.confirmed = wanted.generation
            self._emit(
                "publish.confirmed",
                adapter=self.publisher.name,
                node=wanted.node,
                generation=wanted.generation,
                seconds=seconds,
            )

    def _emit(self, name: str, **fields: object) -> None:
        self._events.emit(Event(name, self._group, fields))
