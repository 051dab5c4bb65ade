"""Changes that wait in line for the disk, and share a transaction."""

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from lb_probe.store.connection import in_words

TOGETHER = 64  # changes of one transaction: the first of many waits for no more than these
Change = Callable[[sqlite3.Connection], None]


@dataclass(slots=True)
class Waiting:
    """A change in line, and who waits for it."""

    change: Change
    done: Future[None] = field(default_factory=Future)
    error: BaseException | None = None
    is_begun: bool | None = None

    def begin(self) -> bool:
        """Tell whether to make it: not if it was cancelled in line; later it cannot be."""
        if self.is_begun is None:
            self.is_begun = self.done.set_running_or_notify_cancel()
        return self.is_begun

    def end(self) -> None:
        """Tell who waits how it went."""
        if self.error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self.error)


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
