"""Time that passes by hand, beside a real loop: minutes of retries, real sockets, no waiting."""

import asyncio


class HandClock:
    """The Clock port; `advance` wakes whoever is due, in order."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.offset = 1_767_225_600.0 - 1000.0  # 2026-01-01
        self._sleepers: dict[asyncio.Future[None], float] = {}

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset

    async def sleep(self, seconds: float) -> None:
        await self.wait(asyncio.Event(), seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[due] = self.now + seconds
        came = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({due, came}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleepers.pop(due, None)
            came.cancel()
        return event.is_set()

    async def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, a step at a time, so that what is woken acts in between."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            for due, at in list(self._sleepers.items()):
                if at <= self.now and not due.done():
                    due.set_result(None)
            for _ in range(5):
                await asyncio.sleep(0)


async def until(true, seconds: float = 5.0) -> None:
    """Wait until something is so; fails loudly where it never is."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - whatever it is, it has no event
            await asyncio.sleep(0.002)


async def settled(clock, true, seconds=3600.0):
    """Let time pass until something is so."""
    for _ in range(int(seconds)):
        if true():
            return
        await clock.advance(1.0)
        await asyncio.sleep(0.002)
    raise AssertionError(f"not within {seconds:g}s")
