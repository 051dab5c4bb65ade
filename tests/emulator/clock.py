"""The device's clock: real time, plus what a test put on top of it."""

import time
from datetime import datetime, timedelta, timezone


class DeviceClock:
    """Seconds that a test may move on, so that nothing has to be waited for.

    Args:
        is_still: Only `advance` moves it: what has not fallen due does not do so by itself, however
            slow the machine is.
    """

    def __init__(self, *, is_still: bool = False) -> None:
        self._stood_at = time.time() if is_still else None
        self._ahead_s = 0.0

    def advance(self, seconds: float) -> None:
        """Let this much time pass at once: tokens and transactions lapse, verdicts fall due."""
        self._ahead_s += seconds

    def now(self) -> float:
        """Return seconds since the epoch, as the device believes."""
        return (self._stood_at or time.time()) + self._ahead_s

    def micros(self) -> int:
        return int(self.now() * 1_000_000)

    def stamp(self) -> str:
        """Return the time as restjavad writes it: with the device's own zone."""
        zone = timezone(timedelta(hours=-8))
        then = datetime.fromtimestamp(self.now(), zone)
        return f"{then:%Y-%m-%dT%H:%M:%S}.{then.microsecond // 1000:03d}-0800"
