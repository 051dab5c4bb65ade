"""The store as the loop uses it: whether it takes writes, and what happened brought to it."""

import asyncio
from collections.abc import Callable, Sequence

from lb_probe.ports import Clock, Record, Store, StoreError
from lb_probe.recorder import Recorder
from lb_probe.tending.store_watch import StoreWatch

RECORD_S = 1.0


class Keeping(StoreWatch):
    """Watches whether the store takes writes, and brings it what happened.

    Args:
        emit: Takes an event's name and fields.
    """

    def __init__(
        self, store: Store, clock: Clock, recorder: Recorder, emit: Callable[..., None]
    ) -> None:
        super().__init__(store, clock, note=recorder.note, emit=emit)
        self._recorder = recorder

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
            # To its end, also where we are cancelled: given back, it could be saved twice.
            if not await asyncio.shield(self._saved(batch)):
                return

    async def _saved(self, batch: Sequence[Record]) -> bool:
        """Save a batch or give it back; tell whether it was saved."""
        try:
            await self._store.note_all(batch)
        except StoreError as error:
            self._recorder.give_back(batch)
            self.failed(error)
            return False
        except BaseException:
            self._recorder.give_back(batch)
            raise
        return True
