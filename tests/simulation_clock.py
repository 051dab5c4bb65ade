"""Time for the simulation: a clock, an agenda and an event loop in one, without waiting for any.

Nothing happens but what is due. The loop runs what is ready, then goes to the next moment at which
something is; `asyncio.timeout` runs on the same time. Three times as fast as a loop with a
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
        agenda = self._agenda
        asyncio._set_running_loop(self)
        try:
            self._settle()
            while agenda and agenda[0][0] <= end:
                when, _, do, args = heapq.heappop(agenda)
                self.now = max(self.now, when)
                do(*args)
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
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
            if not self._outside:
                return
            self._woken.wait()
            self._woken.clear()

    # -------------------------------------------------------------- what asyncio asks of a loop
    def time(self) -> float:
        return self.now

    def call_at(self, when, callback, *args, context=None):
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.at(when, self._call_unless_cancelled, handle)
        return handle

    def _call_unless_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if not handle._cancelled:
            handle._run()

    def _write_to_self(self) -> None:
        self._woken.set()
