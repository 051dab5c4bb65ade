"""The store as the loop uses it: whether it takes writes, and what happened brought to it."""

import asyncio
from collections.abc import Callable

from lb_probe.ports import (
    Clock,
    Store,
    StoreError,
)
from lb_probe.recorder import Recorder

STORE_TEST_S = 60.0
STORE_RETRY_S = 5.0
RECORD_S = 1.0


class Keeping:
    """Watches whether the store takes writes, and brings it what happened.

    Args:
        emit: Takes an event's name and fields.

    Attributes:
        is_writable: The last write went well; while not, no automatic move is made.
    """

    def __init__(
        self, store: Store, clock: Clock, recorder: Recorder, emit: Callable[..., None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._recorder = recorder
        self._emit = emit
        self._broke = asyncio.Event()
        self.is_writable = True

    async def watch(self) -> None:
        """Test the store for ever, and sooner where it failed."""
        while True:
            if await self._clock.wait(self._broke, STORE_TEST_S):
                await self._clock.sleep(STORE_RETRY_S)
            try:
                await self._store.test_write()
            except StoreError as error:
                self.failed(error)
            else:
                if not self.is_writable:
                    self.is_writable = True
                    self._broke.clear()
                    self._recorder.note("store-recovered")
                    self._emit("store.recovered")

    async def record(self, is_busy: Callable[[], bool]) -> None:
        """Bring what happened to the store, at leisure: a change that is being made goes first."""
        while True:
            await self._clock.sleep(RECORD_S)
            self._recorder.mark()
            if self.is_writable and not is_busy():
                await self.flush()

    async def flush(self) -> None:
        """Save what waits; a store that does not take it is told, and it goes on waiting."""
        while batch := self._recorder.take():
            try:
                await self._store.note_all(batch)
            except StoreError as error:
                self._recorder.give_back(batch)
                self.failed(error)
                return
            except BaseException:
                self._recorder.give_back(batch)
                raise

    def failed(self, error: StoreError) -> None:
        """Take note that the store did not take a write."""
        if self.is_writable:  # the same failure again is told once
            self._recorder.note("store-failed", detail=str(error))
            self._emit("store.failed", detail=str(error))
        self.is_writable = False
        self._broke.set()
