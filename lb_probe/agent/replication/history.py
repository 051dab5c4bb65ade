"""The runs of a node's replication, and its schedule, in one SQLite file beside the agent's state.

HistoryError           the file cannot be read, understood or written

A run is on disk before its first program starts, and again with every step that ends. One that has
no end when the file is opened was cut off by a crash: it is marked `interrupted`. Runs are kept for
400 days, and the newest 10,000 whatever their age: a clock set wrongly cannot wipe them out.

Blocking: every write waits for the disk. Call it outside the event loop's thread.

Source: guide lines 76, 318, 353; R16, R85, R86.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lb_probe.core.sync_progress import Step
from lb_probe.ports import LbProbeError

SCHEMA_VERSION = 1
KEEP_S = 400 * 86_400.0
KEEP_RUNS = 10_000
PRUNE_EVERY = 100
BUSY_S = 5.0
# What a run came to; the first one is none yet.
RUNNING, GOOD, FAILED, INTERRUPTED = "", "success", "failed", "interrupted"
REFUSED, SKIPPED = "refused", "skipped-overlap"  # slots that had no run
RESULTS = (GOOD, FAILED, REFUSED, SKIPPED, INTERRUPTED)
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    started_wall REAL NOT NULL,
    result TEXT NOT NULL,
    document TEXT NOT NULL CHECK (json_valid(document)));
CREATE INDEX runs_by_result ON runs (result, id);
"""


class HistoryError(LbProbeError):
    """The history cannot be used; says what was found, what was wanted and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, or a slot that had none.

    Attributes:
        id: Its number, growing; 0 before it is on disk.
        trigger: manual, schedule or catch-up.
        slot_wall: The slot of the schedule it was for; None for a manual one.
        by: Who asked, e.g. `uid 0`; `schedule` where nobody did.
        started_wall: UTC seconds since 1970, as are all moments here.
        completed_wall: None while it is under way (R86).
        result: One of `RESULTS`; empty while it is under way.
        detail: Why it was not good; empty when it was.
        initial: The first good copy of everything, which takes longer (R25).
        seconds: Of the run, by the monotonic clock.
        counts: What `count_command` counted, by `source` and `here`.
        gates: What kept it from starting, by name.
        overridden: What an operator opened, by name.
        warnings: What should be known of a good run too.
        output: The last lines of a run that was not good.
    """

    id: int = 0
    trigger: str
    slot_wall: int | None = None
    by: str
    reason: str = ""
    source: str
    target: str
    started_wall: float
    completed_wall: float | None = None
    result: str = RUNNING
    detail: str = ""
    initial: bool = False
    seconds: float | None = None
    copied_bytes: int | None = None
    changed: int | None = None
    version_here: str = ""
    version_there: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    gates: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    output: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it ended with a complete copy."""
        return self.result == GOOD


_FIELDS = frozenset(f.name for f in fields(Run))
_TUPLES = ("gates", "overridden", "warnings", "output")


def _document(run: Run) -> str:
    return json.dumps({k: v for k, v in asdict(run).items() if k != "id"}, allow_nan=False)


def _run(row: tuple[int, str]) -> Run:
    number, text = row
    # Keys of a newer release are left alone, so that a step back still reads its own history.
    known: dict[str, Any] = {k: v for k, v in json.loads(text).items() if k in _FIELDS}
    known["steps"] = tuple(Step(**step) for step in known.get("steps", ()))
    for name in _TUPLES:
        known[name] = tuple(known.get(name, ()))
    return Run(**known | {"id": number})


class History:
    """The file, open. One thread at a time is in it."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it; a run without an end becomes `interrupted`.

        Raises:
            HistoryError: It cannot be read, understood or written.
        """
        self.path = path
        self.cut_off: Run | None = None
        self._lock = threading.Lock()
        self._writes = 0
        with self._told("opened"):
            # The file is its owner's from its first moment on: reasons and output are in it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._told("read"):
                self._prepare()
            self.cut_off = self._cut_off()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        found = db.execute("PRAGMA quick_check").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(f"damage ({found})")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"version {version}, written by another lb-probe")

    def _cut_off(self) -> Run | None:
        last = None
        while (found := self.newest(result=RUNNING)) is not None:
            last = replace(found, result=INTERRUPTED, detail="the agent ended while it ran")
            self.save(last)
        return last

    # -------------------------------------------------------------- runs
    def begin(self, run: Run) -> Run:
        """Put a run on disk and return it with its number.

        Raises:
            HistoryError: Not saved.
        """
        with self._told("written"):
            number = self._db.execute(
                "INSERT INTO runs (started_wall, result, document) VALUES (?, ?, ?)",
                (run.started_wall, run.result, _document(run)),
            ).lastrowid
            assert number is not None
            if self._writes % PRUNE_EVERY == 0:
                self._prune(run.started_wall)
            self._writes += 1
        return replace(run, id=number)

    def save(self, run: Run) -> None:
        """Put what is known of a run by now on disk.

        Raises:
            HistoryError: Not saved.
        """
        with self._told("written"):
            self._db.execute(
                "UPDATE runs SET result = ?, document = ? WHERE id = ?",
                (run.result, _document(run), run.id),
            )

    def _prune(self, now_wall: float) -> None:
        newest = self._db.execute("SELECT max(id) FROM runs").fetchone()[0]
        self._db.execute(
            "DELETE FROM runs WHERE id <= ? AND started_wall < ?",
            (newest - KEEP_RUNS, now_wall - KEEP_S),
        )

    def runs(
        self, *, limit: int = 50, before: int | None = None, since_wall: float = 0.0
    ) -> list[Run]:
        """Return the newest runs, newest first.

        Args:
            before: Only runs with a smaller number.
            since_wall: Only runs that began then or later.

        Raises:
            HistoryError: It cannot be read.
        """
        with self._told("read"):
            rows = self._db.execute(
                "SELECT id, document FROM runs WHERE id < ? AND started_wall >= ?"
                " ORDER BY id DESC LIMIT ?",
                (2**62 if before is None else before, since_wall, limit),
            ).fetchall()
            return [_run(row) for row in rows]

    def newest(self, *, result: str, limit_to: str = "") -> Run | None:
        """Return the newest run with a result, of any trigger or of one.

        Raises:
            HistoryError: It cannot be read.
        """
        with self._told("read"):
            row = self._db.execute(
                "SELECT id, document FROM runs WHERE result = ?"
                " AND (? = '' OR json_extract(document, '$.trigger') = ?) ORDER BY id DESC LIMIT 1",
                (result, limit_to, limit_to),
            ).fetchone()
            return _run(row) if row else None

    # -------------------------------------------------------------- small values
    def value(self, key: str) -> Any:
        """Return what was kept under a key, as JSON has it; None for nothing.

        Raises:
            HistoryError: It cannot be read.
        """
        with self._told("read"):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])

    def keep(self, **values: object) -> None:
        """Keep values under their keys: all of them or none.

        Raises:
            HistoryError: Not saved.
        """
        rows = [(key, json.dumps(value, allow_nan=False)) for key, value in values.items()]
        with self._told("written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(
                    "INSERT INTO meta VALUES (?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    rows,
                )
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    # -------------------------------------------------------------- the end
    def close(self) -> None:
        """Close the file."""
        with self._lock, closing(self._db):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except (OSError, sqlite3.Error, ValueError, TypeError) as error:
                found = getattr(error, "strerror", None) or str(error)
                raise HistoryError(
                    f"{self.path}: found {found}; wanted a history of syncs that can be {done};"
                    " make room and let this user write there, or move a damaged file away"
                ) from error
