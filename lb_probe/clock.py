"""The one module that asks the operating system for the time (the probe engine aside)."""

import asyncio
import time


class SystemClock:
    """Clock port over the system's clocks."""

    def monotonic(self) -> float:
        """Return seconds for measuring intervals; never steps back (X20)."""
        return time.monotonic()

    def wall(self) -> float:
        """Return UTC seconds since 1970, for people."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait this many monotonic seconds."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for the event, at most this many seconds; tell whether it came."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True
