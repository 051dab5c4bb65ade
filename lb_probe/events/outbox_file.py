"""What waits to be told, on disk: one SQLite file of its own, used by one thread of its own.

It is not the store: nothing here may stand in line before a decision, and the disk that refuses the
store must still be told of. So `OutboxFile` never raises while in use. What it could not write is
written once the disk takes it again, as a whole; until then the outbox goes on from memory.

A file that cannot be read is moved aside and a new one begun: no message is worth a prober that
does not start. Source: https://sqlite.org/wal.html; `store.sqlite` is the sibling.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lb_probe.core.notice import CLASSES, Notice, Severity, Stage

VERSION = 1
BUSY_TIMEOUT_S = 1.0
KEEP_KEYS = 5_000  # a key that is forgotten could be told again
SCHEMA = (
    "CREATE TABLE meta (version INTEGER NOT NULL)",
    "INSERT INTO meta VALUES (1)",
    """CREATE TABLE notices (
        number INTEGER PRIMARY KEY NOT NULL,
        key TEXT UNIQUE NOT NULL,
        notice TEXT NOT NULL CHECK (json_valid(notice)))""",
    """CREATE TABLE waiting (
        number INTEGER NOT NULL REFERENCES notices (number),
        channel TEXT NOT NULL,
        PRIMARY KEY (number, channel))""",
    "CREATE TABLE memory (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """Everything an outbox knows.

    Attributes:
        notices: By number, those that any channel waits for.
        waiting: Number and channel of what is to be sent.
        keys: Number of each key that was ever taken, as far as it is remembered.
        memory: What the tellers need to remember, by name.
    """

    notices: Mapping[int, Notice] = field(default_factory=dict)
    waiting: Sequence[tuple[int, str]] = ()
    keys: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One change of what is kept: all of it or nothing."""

    added: Sequence[tuple[int, Notice, Sequence[str]]] = ()
    done: Sequence[tuple[int, str]] = ()
    memory: Mapping[str, str] = field(default_factory=dict)


def to_json(notice: Notice) -> str:
    """Return a notice as it is kept."""
    plain = asdict(notice)
    plain["stage"] = notice.stage.value
    plain["severity"] = notice.severity.value if notice.severity else None
    return json.dumps(plain, separators=(",", ":"))


def from_json(text: str) -> Notice:
    """Return a notice that was kept.

    Raises:
        ValueError, TypeError, KeyError: It is none of ours.
    """
    plain: dict[str, Any] = json.loads(text)
    plain["stage"] = Stage(plain["stage"])
    plain["severity"] = Severity(plain["severity"]) if plain["severity"] else None
    CLASSES[plain["event_class"]]
    return Notice(**plain)


class OutboxFile:
    """The file of one outbox.

    Args:
        told: Called with what went wrong, and with an empty text once it works again.
    """

    def __init__(self, path: Path, told: Callable[[str], None] = lambda fault: None) -> None:
        self.path = path
        self._told = told  # on the loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._db: sqlite3.Connection | None = None
        self.fault = ""
        self._aside = path
        self._is_unread = False

    async def open(self, wall: float) -> tuple[Kept, str]:
        """Return what was kept, and where a file that could not be used was moved, if one was.

        Args:
            wall: Names what is moved aside.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._open, wall)

    def write(self, step: Step, whole: Callable[[], Kept]) -> "asyncio.Future[bool]":
        """Have a change written down; it tells whether that is on disk, and never raises.

        Args:
            whole: Returns everything, this change included: where an earlier one is missing on
                disk, all of it is written anew.
        """
        is_whole = bool(self.fault)
        work = partial(self._rewrite, whole()) if is_whole else partial(self._apply, step)
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()

        def ended(written: "asyncio.Future[None]") -> None:
            error = None if written.cancelled() else written.exception()
            if error is not None:
                self._failed(f"outbox {self.path}: {error}; what waits is in memory only")
            elif is_whole:
                self.fault = ""
                self._told("")
            if not told.done():
                told.set_result(error is None)

        loop.run_in_executor(self._thread, work).add_done_callback(ended)
        return told

    async def close(self, patience_s: float) -> None:
        """Finish what is in line and end the thread; a disk that hangs is not waited for."""
        ended = asyncio.get_running_loop().run_in_executor(self._thread, self._release)
        await asyncio.wait([ended], timeout=patience_s)
        self._thread.shutdown(wait=ended.done())

    def _failed(self, text: str) -> None:
        first = not self.fault
        self.fault = text
        if first:
            self._told(text)

    # -------------------------------------------------------------- inside the thread
    def _open(self, wall: float) -> tuple[Kept, str]:
        self._aside = self.path.with_name(f"{self.path.name}.unusable-{int(wall)}")
        try:
            return self._read(), ""
        except (sqlite3.Error, ValueError, TypeError, KeyError, OSError) as error:
            self._release()
            refused: Exception = error
        if _is_damage(refused):
            try:
                moved = self._move_aside()
                return self._read(), moved
            except (sqlite3.Error, OSError) as error:
                self._release()
                refused = error
        self.fault = f"outbox {self.path}: {refused}; what waits is in memory only"
        try:
            return read_waiting(self.path), ""
        except OSError:
            self._is_unread = os.path.lexists(self.path)
            return Kept(), ""

    def _move_aside(self) -> str:
        for suffix in ("", "-wal", "-shm"):
            file = self.path.with_name(self.path.name + suffix)
            if os.path.lexists(file):
                file.rename(f"{self._aside}{suffix}")
        return str(self._aside)

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        return self._db

    def _read(self) -> Kept:
        db = self._connect()
        if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            with _transaction(db):
                for statement in SCHEMA:
                    db.execute(statement)
        return read(db)

    def _apply(self, step: Step) -> None:
        self.path.stat()  # SQLite would go on writing into a file that no longer has a name
        db = self._connect()
        with _transaction(db):
            _add(db, step)
            db.executemany("DELETE FROM waiting WHERE number = ? AND channel = ?", step.done)
            db.execute(
                "DELETE FROM notices WHERE number <= (SELECT max(number) FROM notices) - ?"
                " AND number NOT IN (SELECT number FROM waiting)",
                (KEEP_KEYS,),
            )

    def _rewrite(self, kept: Kept) -> None:
        """Write everything anew, into a new file where the old one is gone."""
        if self._is_unread or not self.path.exists():
            self._release()
        if self._is_unread:  # it may hold what nobody has been told
            self._move_aside()
            self._is_unread = False
        db = self._connect()
        with _transaction(db):
            for table in ("waiting", "notices", "memory", "meta"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in SCHEMA:
                db.execute(statement)
            numbers = {number: key for key, number in kept.keys.items()}
            rows = [
                (number, key, to_json(kept.notices[number]) if number in kept.notices else "{}")
                for number, key in numbers.items()
            ]
            db.executemany("INSERT INTO notices VALUES (?, ?, ?)", rows)
            db.executemany("INSERT INTO waiting VALUES (?, ?)", kept.waiting)
            db.executemany("INSERT INTO memory VALUES (?, ?)", kept.memory.items())

    def _release(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _add(db: sqlite3.Connection, step: Step) -> None:
    rows = [(number, notice.key, to_json(notice)) for number, notice, _ in step.added]
    db.executemany("INSERT INTO notices VALUES (?, ?, ?)", rows)
    waiting = [(number, channel) for number, _, channels in step.added for channel in channels]
    db.executemany("INSERT INTO waiting VALUES (?, ?)", waiting)
    db.executemany(
        "INSERT INTO memory VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        step.memory.items(),
    )


def _is_damage(error: Exception) -> bool:
    """Tell whether the file itself is at fault, and not the disk or who may write there."""
    if not isinstance(error, sqlite3.Error):
        return not isinstance(error, OSError)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # the first error is the news
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise


def read(db: sqlite3.Connection) -> Kept:
    """Return what an open outbox file holds.

    Raises:
        sqlite3.Error, ValueError, TypeError, KeyError: It cannot be used.
    """
    (version,) = db.execute("SELECT version FROM meta").fetchone()
    if version != VERSION:
        raise ValueError(f"version {version}")
    waiting = db.execute("SELECT number, channel FROM waiting ORDER BY number").fetchall()
    wanted = {number for number, _ in waiting}
    rows = db.execute("SELECT number, key, notice FROM notices ORDER BY number").fetchall()
    return Kept(
        notices={number: from_json(text) for number, _, text in rows if number in wanted},
        waiting=waiting,
        keys={key: number for number, key, _ in rows},
        memory=dict(db.execute("SELECT name, value FROM memory").fetchall()),
    )


def read_waiting(path: Path) -> Kept:
    """Return what waits in the file of a process that may use it, without changing anything.

    Raises:
        OSError: There is no such file, or it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no outbox; the process that tells people makes it when it starts"
        )
    try:
        is_open = path.with_name(f"{path.name}-wal").exists()
        mode = "ro" if is_open else "ro&immutable=1"
        path.stat()
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as db:
            return read(db)
    except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
        raise OSError(f"{path} cannot be read: {error}") from None
