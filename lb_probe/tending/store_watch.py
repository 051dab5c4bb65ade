"""Whether the store takes writes: while it does not, nothing is changed by itself."""

import asyncio
from collections.abc import Callable

from lb_probe.ports import Clock, Store, StoreError

STORE_TEST_S = 60.0
STORE_RETRY_S = 5.0


class StoreWatch:
    """Watches whether the store takes writes.

    Args:
        note: Takes a record's kind and details, for the history.
        emit: Takes an event's name and fields.
        test_s: Seconds between two tests of a store that is well; None where others test it.

    Attributes:
        is_writable: The last write went well; while not, no automatic move is made.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        note: Callable[..., None],
        emit: Callable[..., None],
        test_s: float | None = STORE_TEST_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._note = note
        self._emit = emit
        self._test_s = test_s
        self._broke = asyncio.Event()
        self.is_writable = True

    async def watch(self) -> None:
        """Test the store for ever, and sooner where it failed."""
        while True:
            if await self._is_broken_in_time():
                await self._clock.sleep(STORE_RETRY_S)
            try:
                await self._store.test_write()
            except StoreError as error:
                self.failed(error)
            else:
                if not self.is_writable:
                    self.is_writable = True
                    self._broke.clear()
                    self._note("store-recovered")
                    self._emit("store.recovered")

    async def _is_broken_in_time(self) -> bool:
        """Wait for a failure, or the next test; tell whether it is a failure."""
        if self._test_s is None:
            return await self._broke.wait()
        return await self._clock.wait(self._broke, self._test_s)

    def failed(self, error: StoreError) -> None:
        """Take note that the store did not take a write."""
        if self.is_writable:  # the same failure again is told once
            self._note("store-failed", detail=str(error))
            self._emit("store.failed", detail=str(error))
        self.is_writable = False
        self._broke.set()
