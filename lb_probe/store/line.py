"""Changes that wait in line for the disk, and share a transaction."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lb_probe.store.connection import in_words

TOGETHER = 64  # changes of one transaction: the first of many waits for no more than these
Change = Callable[[sqlite3.Connection], None]


@dataclass(slots=True)
class Waiting:
    """A change in line, and who waits for it.

    Attributes:
        done: Of the loop that waits; the thread only looks whether it was cancelled.
    """

    change: Change
    done: asyncio.Future[None]
    error: BaseException | None = None
    is_begun: bool | None = None

    def begin(self) -> bool:
        """Tell whether to make it: not if it was cancelled in line; later it cannot be."""
        if self.is_begun is None:
            self.is_begun = not self.done.cancelled()
        return self.is_begun

    def end(self) -> None:
        """Tell who waits how it went, in the loop; nobody does where it was cancelled meanwhile."""
        if self.done.done():
            return
        if self.error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self.error)


def tell(batch: Sequence[Waiting]) -> None:
    """Tell all who wait how it went, from the thread: the loop is woken once for all of them."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        batch[0].done.get_loop().call_soon_threadsafe(_end, batch)


def _end(batch: Sequence[Waiting]) -> None:
    for one in batch:
        one.end()


class OneFailedError(Exception):
    """One of several changes could not be made."""


def make_all(batch: Sequence[Waiting], db: sqlite3.Connection) -> None:
    """Make these changes, as if none would fail.

    Raises:
        OneFailedError: One did: nothing of them may be committed.
    """
    for one in batch:
        if one.begin():
            try:
                one.change(db)
            except Exception as error:
                raise OneFailedError from error


def make_one_by_one(batch: Sequence[Waiting], db: sqlite3.Connection, what: str) -> None:
    """Make these changes, each in a savepoint: one that fails leaves the others alone.

    Args:
        what: Names the store in what its maker is told.
    """
    for one in batch:
        if not one.begin():
            continue
        db.execute("SAVEPOINT change")
        try:
            with in_words(what):
                one.change(db)
        except Exception as error:
            one.error = error
            if not db.in_transaction:
                raise  # SQLite gave up the whole of it
            db.execute("ROLLBACK TO change")  # where this fails, all of them do
        db.execute("RELEASE change")
