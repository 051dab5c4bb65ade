"""One connection to an SQLite file: opened, a transaction of it, and what goes wrong in words."""

import errno
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lb_probe.ports import StoreError

BUSY_TIMEOUT_S = 1.0

RESTORE = (
    "keep it for study with its -wal and -shm files, and put a backup in place of all three;"
    " without a backup, move them away and run `lb-probe init`"
)
WRITABLE = "give this user write access to the file and its folder, on a disk mounted read-write"
FREE = "free some space; no restart is needed"
SQLITE_SAYS = {
    sqlite3.SQLITE_FULL: ("the disk is full", FREE),
    sqlite3.SQLITE_BUSY: (
        f"another process has held a lock on it for more than {BUSY_TIMEOUT_S:g} s",
        "find it (`fuser` names it) and let it finish",
    ),
    sqlite3.SQLITE_READONLY: ("it is read-only", WRITABLE),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", WRITABLE),
    sqlite3.SQLITE_CORRUPT: ("it is damaged", RESTORE),
    sqlite3.SQLITE_NOTADB: ("it is damaged", RESTORE),
    sqlite3.SQLITE_ERROR: ("it is not laid out as a store", RESTORE),
    sqlite3.SQLITE_IOERR: (
        "the disk refused to read or write it",
        "look for a full or failing disk (`df`, `dmesg`) and for limits on file size",
    ),
}
SYSTEM_SAYS = {
    errno.ENOSPC: SQLITE_SAYS[sqlite3.SQLITE_FULL],
    errno.EDQUOT: ("the quota is used up", FREE),
    errno.EROFS: SQLITE_SAYS[sqlite3.SQLITE_READONLY],
    errno.EACCES: ("it may not be written by this user", WRITABLE),
    errno.EPERM: ("it may not be written by this user", WRITABLE),
}


# ------------------------------------------------------------------ what went wrong, in words
@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Turn every error of SQLite and of the system into a StoreError about `what`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of the bits are detail
        found, do = SQLITE_SAYS.get(code, ("SQLite refuses", "see what it says"))
        raise StoreError(f"{what}: {found} ({error}); {do}") from error
    except UnicodeDecodeError as error:  # of a name or a text in the file
        raise StoreError(f"{what}: it is damaged ({error}); {RESTORE}") from error
    except OSError as error:
        found, do = SYSTEM_SAYS.get(error.errno or 0, ("the system refuses", "see what it says"))
        raise StoreError(f"{what}: {found} ({error}); {do}") from error


def damaged(path: Path, found: str) -> StoreError:
    """Return the refusal of a store that is damaged."""
    return StoreError(f"store {path}: it is damaged ({found}); {RESTORE}")


# ------------------------------------------------------------------ the connection
def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file; SQLite makes none.

    Args:
        mode: As in an SQLite URI: `ro` or `rw`.
    """
    uri = f"{path.as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Make all of a block, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # After some errors SQLite has rolled back by itself; the first error is the news.
        with suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise


def as_json(value: object) -> str | None:
    """Return a value as a column; None stays NULL."""
    return None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))
