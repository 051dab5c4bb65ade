"""Those who watch a sync: they get its lines, and may go away without ending it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

ALIVE_S = 5.0
_HELD = 1000  # lines for one who does not read; more are thrown away
_LAST = ("run", "error")


class Watcher:
    """One who watches."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[Mapping[str, object]] = asyncio.Queue(_HELD)

    def take(self, line: Mapping[str, object]) -> None:
        """Hold a line; the last one always finds room."""
        if self._lines.full():
            if not any(key in line for key in _LAST):
                return
            self._lines.get_nowait()
        self._lines.put_nowait(line)

    async def until_end(self) -> AsyncIterator[Mapping[str, object]]:
        """Yield lines up to the last one, and a mark of life where none comes."""
        while True:
            try:
                async with asyncio.timeout(ALIVE_S):
                    line = await self._lines.get()
            except TimeoutError:
                yield {"alive": True}
                continue
            yield line
            if any(key in line for key in _LAST):
                return


class Watchers:
    """All who watch the syncs of one node."""

    def __init__(self) -> None:
        self._all: set[Watcher] = set()

    def tell(self, line: Mapping[str, object]) -> None:
        """Give everybody a line."""
        for watcher in self._all:
            watcher.take(line)

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Be one who watches while the block lasts."""
        watcher = Watcher()
        self._all.add(watcher)
        try:
            yield watcher
        finally:
            self._all.discard(watcher)
