"""One load balancer kept at what is wanted, for ever.

A confirmation is only worth its moment: a load balancer forgets at a reload, a hand changes it, a
leaving process answers for one that is gone. So each adapter of each group has a loop that reads,
compares, writes where it must and reads again, twice a second; one that is unreachable is tried
with backoff for ever and shown. A load balancer that many groups share is looked at once for all
of them (`Watched`): then the loop sleeps until something changed. No loop waits for another, but
for a planned switchover, where all of them close before the first one opens (`Fence`).

Source: DESIGN section 1; HAProxy management guide, "Unix Socket commands"; X2, X21.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from lb_probe.core import drift
from lb_probe.core.model import Event, Seen
from lb_probe.core.resume import AdapterView
from lb_probe.ports import (
    Clock,
    Closable,
    EventSink,
    Paced,
    Publisher,
    PublishError,
    Settling,
    Signed,
    Unreachable,
    Watched,
)

POLL_S = 0.4  # noticed and repaired within a second, with room for a slow answer
SHORTEST_PAUSE_S = 0.1  # the longest pause after the first failure; it doubles with each one more
LONGEST_PAUSE_S = 1.0
WATCHED_POLL_S = 15.0  # one that tells of changes is asked all the same, in case it did not
DRAIN_POLL_S = 0.05
JUST_WRITTEN_S = 2.0  # for so long after a change of ours it is asked as if it told nothing


class Fence:
    """Keeps every load balancer of a group closed until none has anything under way (X3).

    Args:
        names: Adapters to wait for.
        until: Monotonic seconds when it opens all the same: a dead load balancer sends nothing,
            and a request that hangs must not stop a switchover.
    """

    def __init__(self, names: Iterable[str], until: float) -> None:
        self._missing = set(names)
        self._until = until
        self._open = asyncio.Event()

    def left_s(self, now: float) -> float:
        """Return the seconds it may stay closed; 0 when it is open."""
        return 0.0 if self._open.is_set() else max(0.0, self._until - now)

    def pass_by(self, name: str) -> None:
        """Say that this adapter need not move and is waited for by nobody."""
        self._missing.discard(name)
        if not self._missing:
            self._open.set()

    async def arrive(self, name: str, clock: Clock) -> None:
        """Say that this adapter is closed and drained, and wait for the others."""
        self.pass_by(name)
        await clock.wait(self._open, self.left_s(clock.monotonic()))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the load balancer should do.

    Attributes:
        node: Node that should have the traffic; None while nobody has said.
        generation: Generation of the saved state this comes from.
        may_write: False under `act: false` and a hold with hands off.
        decided_at: Monotonic seconds of the decision, for the metric.
        fence: Where all load balancers of the group close first; None moves in one step.
    """

    node: str | None
    generation: int
    may_write: bool
    decided_at: float = 0.0
    fence: Fence | None = None


class Reconciler:
    """Keeps one adapter of one group at what is wanted.

    Args:
        confirm: Saves that this adapter carries out a generation; False when it could not.
        confirmed: The generation the store says was last seen carried out.
        changed: Called after each turn that changed what `view` shows.
        signature: Who we are, left with each publication where there is room for it (X21).
        elsewhere: Nodes whose traffic another tier brings (R43); for them nothing is moved here.

    Attributes:
        seen: The last reading; None where there is none that can be believed.
        seen_at: Monotonic seconds when that reading was asked for.
        restarts: How often the load balancer was seen to have restarted or reloaded.
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
        signature: str = "",
        elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        self.publisher = publisher
        self.seen: Seen | None = None
        self.seen_at = 0.0
        self.restarts = 0
        self.detail = "not read yet"
        self._told = ""  # the failure that was told last; one that goes on is told once
        self.confirmed = confirmed
        self._group = group
        self._clock = clock
        self._events = events
        self._confirm = confirm
        self._changed = changed
        self._wanted = Wanted(None, 0, may_write=False)
        self._watch = drift.Watch()
        self._force = False
        self._wrote_at = -math.inf
        # Asked once: to compare an object with a Protocol takes as long as a publication.
        self._signed = publisher if signature and isinstance(publisher, Signed) else None
        self._settling = publisher if isinstance(publisher, Settling) else None
        self._signature = signature
        self._elsewhere = elsewhere
        self._unsettled = ""
        self._instance = ""
        self._wake = asyncio.Event()

    @property
    def view(self) -> AdapterView:
        """What gates and people may know of it."""
        return AdapterView(self.publisher.name, self.seen, self._watch.yielded, self.detail)

    @property
    def has_yielded(self) -> bool:
        """Whether somebody else writes there and we stopped."""
        return self._watch.yielded

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

    def look(self) -> None:
        """Read at once: somebody must know what it says now."""
        self._wake.set()

    def take_back(self) -> None:
        """Write again after a yield: an operator said accept or republish."""
        self._watch = drift.Watch(instance=self._watch.instance)
        self._force = True
        self._wake.set()

    async def first_look(self, deadline_s: float) -> Seen | None:
        """Read once, for the Start rule; None where it cannot be read in time."""
        self.seen_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(deadline_s):
                self.seen = await self._read()
        except (PublishError, TimeoutError) as error:
            self.detail = str(error) or f"no answer in {deadline_s:g}s"
            return None
        self.detail = self.seen.detail
        self._instance = self.seen.instance
        self._watch = drift.in_sync(self._watch, self.seen.instance)
        return self.seen

    async def run(self) -> None:
        """Reconcile until cancelled."""
        if not isinstance(self.publisher, Watched):
            publisher = self.publisher
            await self._for_ever(publisher.poll_s if isinstance(publisher, Paced) else POLL_S)
            return
        # A hint, and no reading: it may have begun before our own last publication.
        unwatch = self.publisher.watch(lambda news: self._wake.set())
        try:
            await self._for_ever(WATCHED_POLL_S)
        finally:
            unwatch()

    async def _for_ever(self, calm_s: float) -> None:
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
                pause_s, failures = calm_s, 0
                if self._clock.monotonic() - self._wrote_at < JUST_WRITTEN_S:
                    pause_s = POLL_S  # a hand that is as quick as we are changes nothing it tells
            await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        await self._clock.wait(self._wake, seconds)

    async def _read(self) -> Seen:
        """Read, and call what is right for several nodes by the one that is wanted."""
        seen, node = await self.publisher.read_back(), self._wanted.node
        if seen.node is not None and self._elsewhere:
            seen = replace(seen, also=(*seen.also, *sorted(self._elsewhere)))
        if node not in self._elsewhere:
            return seen.told_for(node)
        here = f"{node} is behind another tier; here traffic stays with {seen.word}"
        detail = "; ".join(text for text in (here, seen.detail) if text)
        told = replace(seen.told_for(node), node=node, usable=None, detail=detail)
        return replace(told, chosen=(str(node),))

    async def _turn(self) -> None:
        """Read, compare, write where it must, read again."""
        self._wake.clear()
        self.seen_at = self._clock.monotonic()
        try:
            seen = await self._read()
        except PublishError as error:
            self._failed(error, seen=None)
            raise
        try:
            if self._must_write(seen):
                seen = await self._write()
            elif (fence := self._wanted.fence) is not None and seen.node == self._wanted.node:
                fence.pass_by(self.publisher.name)
        except PublishError as error:
            self._failed(error, seen)
            raise
        await self._note(seen)

    def _must_write(self, seen: Seen) -> bool:
        wanted = self._wanted
        if wanted.node is None or not wanted.may_write or self._watch.yielded:
            return False
        if wanted.node in self._elsewhere:
            self._force = False
            return False
        if self._force:
            if seen.node == wanted.node:  # a hand that comes now is a new one
                self._watch = drift.in_sync(self._watch, seen.instance)
            return True
        if seen.node == wanted.node:
            return False
        if self.confirmed < wanted.generation:
            return True  # our own change, not yet carried out: no drift
        restarted = seen.instance != self._watch.instance
        is_new = restarted or self._watch.agreed
        self._watch = drift.drifted(self._watch, seen.instance, self._clock.monotonic())
        if self._is_foreign(seen) and not restarted:
            self._watch = drift.yielded(self._watch)  # it signed: no need to wait for a third time
        fields = {"adapter": self.publisher.name, "wanted": wanted.node, "seen": seen.word}
        if self._watch.yielded:
            self._emit("publish.foreign-writer", **fields)
            return False
        if is_new:
            self._emit("publish.drift", restarted=restarted, **fields)
        return True

    def _is_foreign(self, seen: Seen) -> bool:
        return bool(seen.owner) and seen.owner.rpartition(".g")[0] != self._signature

    async def _write(self) -> Seen:
        wanted = self._wanted
        assert wanted.node is not None
        if wanted.fence is not None:
            await self._close(wanted.fence)
            if self._wanted is not wanted:
                return await self._read()  # an operator thought better of it
        if self._signed is not None:
            self._signed.owner = f"{self._signature}.g{wanted.generation}"
        self._wrote_at = self._clock.monotonic()
        try:
            await self.publisher.publish(wanted.node)
        except Unreachable:
            raise
        except PublishError:
            # Perhaps it took it: from here on what is read counts, and a foreign hand with it.
            self._force = False
            raise
        self._emit("publish.sent", adapter=self.publisher.name, node=wanted.node)
        seen = await self._read()  # on a fresh connection: what is in force, not said
        if seen.node != wanted.node:
            raise PublishError(f"asked for {wanted.node}, reads back {seen.word}; {seen.detail}")
        self._force = False
        self._emit("publish.done", adapter=self.publisher.name, result="ok", node=wanted.node)
        return seen

    async def _close(self, fence: Fence) -> None:
        """Send traffic to nobody until all load balancers of the group have drained."""
        if not isinstance(self.publisher, Closable) or not fence.left_s(self._clock.monotonic()):
            await fence.arrive(self.publisher.name, self._clock)
            return
        wanted = self._wanted
        await self.publisher.publish_nobody()
        self._emit("publish.closed", adapter=self.publisher.name)
        while self._wanted is wanted and fence.left_s(self._clock.monotonic()):
            if not any((await self.publisher.in_flight()).values()):
                await fence.arrive(self.publisher.name, self._clock)
                return
            await self._clock.sleep(DRAIN_POLL_S)

    def _failed(self, error: PublishError, seen: Seen | None) -> None:
        text = str(error)
        result = "unreachable" if isinstance(error, Unreachable) else "refused"
        fields = {"adapter": self.publisher.name, "result": result, "detail": text}
        if text != self._told:
            self._emit("publish.failed", **fields)
        else:  # the same again: counted each time, told once
            self._emit("publish.failing", **fields)
        self.seen, self.detail, self._told = seen, text, text
        self._changed()

    async def _note(self, seen: Seen) -> None:
        before = self.seen
        changed = before is None or (before.node, before.usable) != (seen.node, seen.usable)
        self.restarts += self._instance not in ("", seen.instance)
        self._instance = seen.instance
        self.seen, self.detail, self._told = seen, seen.detail, ""
        wanted = self._wanted
        is_right = wanted.node is not None and seen.node == wanted.node
        self._let_settle(seen, may_write=is_right and wanted.may_write)
        if is_right:
            self._watch = drift.in_sync(self._watch, seen.instance)
            if self.confirmed < wanted.generation:
                await self._confirmed(wanted)
                changed = True
        if changed:
            self._changed()

    def _let_settle(self, seen: Seen, *, may_write: bool) -> None:
        """Let what follows a move go on; tell what of it fails, once for each wording."""
        if self._settling is not None:
            self._settling.settle(may_write=may_write)
        before, self._unsettled = self._unsettled, seen.unsettled
        if seen.unsettled and seen.unsettled != before:
            self._emit("publish.unsettled", adapter=self.publisher.name, detail=seen.unsettled)
        elif before and not seen.unsettled:
            self._emit("publish.settled", adapter=self.publisher.name)

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
