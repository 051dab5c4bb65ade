"""Work that runs beside its caller: nobody waits for it, and it is not lost.

A reading that is given up must not end a login half way: the token that the unit made would live
on without an owner. So such work is held here, and not by a task group, which would wait for it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from lb_probe.ports import PublishError

T = TypeVar("T")


class Beside:
    """Holds what runs; each piece ends by a deadline of its own, and its failure is a value."""

    def __init__(self) -> None:
        self._held: set[asyncio.Future[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T | PublishError]:
        """Begin it now."""
        held = asyncio.ensure_future(_valued(work))  # noqa: TID251
        self._held.add(held)
        held.add_done_callback(self._held.discard)
        # One that is ended before its first step has not begun its work.
        held.add_done_callback(lambda _: work.close())
        return held

    async def close(self) -> None:
        """End what still runs."""
        held = list(self._held)
        for each in held:
            each.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def _valued(work: Coroutine[Any, Any, T]) -> T | PublishError:
    try:
        return await work
    except PublishError as error:
        return error


class Question(Generic[T]):
    """One question to one unit, asked again and again; at most one of it is open at a time.

    Args:
        ask: Ends by its own deadline.
    """

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]], beside: Beside) -> None:
        self._ask = ask
        self._beside = beside
        self._open: asyncio.Future[T | PublishError] | None = None
        self.last: T | PublishError | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was put and is not answered yet."""
        return self._open is not None and not self._open.done()

    def put(self) -> asyncio.Future[T | PublishError]:
        """Return the answer to come, of a question that is open already or is put now."""
        if self._open is None or self._open.done():
            self._open = self._beside.start(self._ask())
            self._open.add_done_callback(self._note)
        return self._open

    def _note(self, done: asyncio.Future[T | PublishError]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.last = done.result()
