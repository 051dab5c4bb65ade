"""Time for the simulation: a clock, an agenda and an event loop in one, without waiting for any.

Nothing happens but what is due. The loop runs what is ready, then goes to the next moment at which
something is; `asyncio.timeout` runs on the same time. Four times as fast as a loop with a
selector, and the same order in every run.
"""

import asyncio
import heapq
import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

BEGIN = 1000.0


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class Handle:
    """A call to come; what it raises ends the simulation, and is not logged and forgotten."""

    __slots__ = ("_args", "_callback", "_context", "_is_cancelled")

    def __init__(self, callback, args, context) -> None:
        self._callback = callback
        self._args = args
        self._context = context
        self._is_cancelled = False

    def __call__(self) -> None:
        if self._is_cancelled:
            return
        if self._context is None:
            self._callback(*self._args)
        else:
            self._context.run(self._callback, *self._args)

    def cancel(self) -> None:
        self._is_cancelled = True

    def cancelled(self) -> bool:
        return self._is_cancelled


class Clock(asyncio.BaseEventLoop):
    """The Clock port over virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGIN
        self.offset = 1_700_000_000.0
        self._agenda: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._outside = 0
        self._woken = threading.Event()

    # -------------------------------------------------------------- the Clock port
    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset

    async def sleep(self, seconds: float) -> None:
        future = self.create_future()
        self.at(self.now + seconds, _wake, future)
        await future

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        future = self.create_future()
        self.at(self.now + seconds, _wake, future)
        event._waiters.append(future)  # as Event.wait does, without a task for each
        try:
            await future
        finally:
            event._waiters.remove(future)
        return event.is_set()

    # -------------------------------------------------------------- the agenda
    def at(self, when: float, do: Callable[..., object], *args: object) -> None:
        """Do this at that moment; what is past is done next, without going back."""
        heapq.heappush(self._agenda, (when, next(self._order), do, args))

    def go_on(self, end: float) -> None:
        """Let time pass until `end`.

        Raises:
            Exception: Whatever something on the agenda raised.
        """
        agenda, ready, pop = self._agenda, self._ready, heapq.heappop
        asyncio._set_running_loop(self)
        try:
            self._settle()
            while agenda and agenda[0][0] <= end:
                when, _, do, args = pop(agenda)
                if when > self.now:
                    self.now = when
                do(*args)
                if ready or self._outside:
                    self._settle()
            self.now = max(self.now, end)
        finally:
            asyncio._set_running_loop(None)

    async def outside(self, work: Awaitable[Any]) -> Any:
        """Wait for something of another thread; no virtual time passes meanwhile."""
        self._outside += 1
        try:
            return await work
        finally:
            self._outside -= 1

    def _settle(self) -> None:
        """Run every task until all of them wait."""
        ready = self._ready
        while True:
            while ready:
                ready.popleft()()
            if not self._outside:
                return
            self._woken.wait()
            self._woken.clear()

    # -------------------------------------------------------------- what asyncio asks of a loop
    def time(self) -> float:
        return self.now

    def call_soon(self, callback, *args, context=None):
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):
        handle = self.call_soon(callback, *args, context=context)
        self._woken.set()
        return handle

    def call_at(self, when, callback, *args, context=None):
        handle = Handle(callback, args, context)
        self.at(when, handle)
        return handle

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self.now + delay, callback, *args, context=context)
