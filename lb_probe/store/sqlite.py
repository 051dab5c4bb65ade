"""The store in one SQLite file, used by one thread of one process.

`init` makes the file once, on purpose. `SqliteStore.open` looks at it read-only first, so that a
file it refuses is left as it was found; then it migrates an older one and proves that writes work.
Every commit is synced to disk before it returns (WAL, synchronous=FULL). Commits that wait while
the disk syncs share the next transaction, so that a thousand groups need no thousand syncs; a
conflict of one is none of the others, which are then made again, each in a savepoint of its own.

Files beside `state.db`: `-wal` and `-shm` while in use (part of the store after a crash),
`.lock` (the pid of the prober that uses it), `.v<N>.bak` (what was there before a migration).

Source: DESIGN section 1 (Save, Start); https://sqlite.org/wal.html, howtocorrupt.html.
"""

import asyncio
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from lb_probe.core.model import Saved
from lb_probe.ports import WHOLE, Record, Span, StoreError
from lb_probe.store import groups, history
from lb_probe.store.connection import connect, in_words, transaction
from lb_probe.store.file import (
    MIGRATIONS,
    SCHEMA_VERSION,
    Migration,
    backup,
    copy,
    examine,
    init,
    meta,
    migrate,
    read_history,
)
from lb_probe.store.line import (
    TOGETHER,
    Change,
    OneFailedError,
    Waiting,
    make_all,
    make_one_by_one,
    tell,
)
from lb_probe.store.place import holder, inode, refuse_not_a_file, refuse_place, take_lock

__all__ = ["Migration", "SqliteStore", "backup", "holder", "init", "read_history"]

T = TypeVar("T")


class SqliteStore:
    """The Store port over one SQLite file.

    Every call runs in the store's own thread, one after the other, and is over when it returns;
    commits and confirmations that stand in line together share a transaction. Cancelling a caller
    never cuts a change: one that had begun is finished by the thread, one that waited in line is
    dropped. Which of the two is told by the next `load()`, which waits in the same line. After a
    StoreError nothing of that call is saved and the next call may work.

    Attributes:
        path: The file, without symbolic links.
        id: Random name of this store, the same for life; its backups share it.
    """

    def __init__(self, path: Path) -> None:
        """Use `open`; this only notes the path."""
        self.path = path.resolve()
        self.id = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None
        self._closing: Future[None] | None = None
        self._line: deque[Waiting] = deque()

    @classmethod
    async def open(cls, path: Path, *, migrations: Mapping[int, Migration] = MIGRATIONS) -> Self:
        """Open an existing store for this process alone; older ones are migrated after a copy.

        Raises:
            StoreError: It is missing, damaged, newer than this program, read-only, on a network
                file system, or in use; the file is then as it was.
        """
        store = cls(path)
        opening = store._thread.submit(store._open, migrations)
        try:
            await asyncio.shield(asyncio.wrap_future(opening))
        except BaseException:
            # Cancelled, the thread may still be opening: this waits in its line. Refused, the
            # store must be free when the caller hears of it.
            store._thread.submit(store._release)
            store._thread.shutdown(wait=opening.done())
            raise
        return store

    async def close(self) -> None:
        """Finish what is in line, fold the -wal file in, unlock, end the thread. May be repeated.

        Raises:
            StoreError: The file could not be closed cleanly; all that was committed is safe.
        """
        if self._closing is None:
            self._closing = self._thread.submit(self._release)
        try:
            await asyncio.shield(asyncio.wrap_future(self._closing))
        finally:
            # Joining an idle thread is immediate; a busy one (we are cancelled) ends by itself.
            self._thread.shutdown(wait=self._closing.done())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # -------------------------------------------------------------- the port
    async def load(self) -> Mapping[str, Saved]:
        """Return every group that was ever saved.

        Raises:
            StoreError: It cannot be read.
        """
        return await self._call(lambda db: groups.read(db, self.path))

    async def commit(self, group: str, saved: Saved, *, expect: int, record: Record) -> None:
        """Save `saved` and its history record, both or neither; durable on return.

        `saved.confirmed` is ignored: only `confirm` writes it, so that a commit planned before a
        confirmation came in cannot take that back.

        Args:
            expect: Generation that must be on disk now; 0 for a group never saved.

        Raises:
            Conflict: Another generation is there.
            StoreError: Not saved.
            ValueError, TypeError: `saved.generation` is not `expect + 1`, or a value cannot be
                saved and read back as it is (a bug of the caller); nothing was touched.
        """
        if saved.generation != expect + 1:
            raise ValueError(f"generation {saved.generation} cannot follow {expect}")
        await self._change(partial(self._commit, group, saved, expect, history.row_of(record)))

    async def rename(self, old: str, new: str) -> None:
        """Carry everything saved for group `old`, its history included, over to `new`.

        Raises:
            StoreError: Not saved: nothing is saved for `old`, or `new` is already there.
        """
        await self._call(partial(self._rename, old, new))

    async def confirm(self, group: str, adapter: str, generation: int) -> None:
        """Remember that `adapter` was seen to carry out `generation`; an older one is ignored.

        Raises:
            StoreError: Not saved, or nothing is saved for `group`.
            ValueError: A generation that was never saved: believed, it would let the next change
                pass for carried out before it was published.
        """
        await self._change(partial(self._confirm, group, adapter, generation))

    async def note(self, record: Record) -> None:
        """Add a line of history that changes nothing saved.

        Raises:
            StoreError: Not saved.
            ValueError, TypeError: Its details are not plain JSON values.
        """
        await self._call(partial(self._note, [history.row_of(record)]))

    async def note_all(self, records: Sequence[Record]) -> None:
        """Add many lines of history that change nothing saved: all of them or none.

        Raises:
            StoreError: Not saved.
            ValueError, TypeError: Details are not plain JSON values.
        """
        await self._call(partial(self._note, [history.row_of(record) for record in records]))

    async def history(
        self, group: str | None = None, limit: int = 100, span: Span = WHOLE
    ) -> list[Record]:
        """Return the newest records of a span, newest last; the oldest are deleted now and then.

        Args:
            group: With a name, records of that group and of the prober as a whole.

        Raises:
            StoreError: It cannot be read.
        """
        return await self._call(lambda db: history.read(db, self.path, group, limit, span))

    async def after(
        self, number: int, kinds: frozenset[str], limit: int
    ) -> tuple[list[Record], int]:
        """Return records of these kinds behind a number, oldest first, and up to where that is.

        Raises:
            StoreError: It cannot be read.
        """
        return await self._call(lambda db: history.read_after(db, self.path, number, kinds, limit))

    async def test_write(self) -> None:
        """Write and sync something small.

        Raises:
            StoreError: The store does not take writes.
        """
        await self._call(self._test_write)

    async def backup(self, target: Path) -> None:
        """Copy the store into the new file `target` while it is in use; synced on return.

        Raises:
            StoreError: `target` exists, or the copy failed; no half copy stays.
        """
        await self._call(lambda db: copy(db, self.path, target.absolute()))

    # -------------------------------------------------------------- inside the thread
    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._refuse_closed()
        self._line = deque()  # what is in line goes first; what comes later stays behind this
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    async def _change(self, change: Change) -> None:
        """Carry out a change, with those that stand in line beside it; durable on return."""
        self._refuse_closed()
        waiting = Waiting(change, asyncio.get_running_loop().create_future())
        line = self._line
        line.append(waiting)
        if len(line) == 1:  # else the thread has yet to take what stands before this, and this too
            self._thread.submit(self._drain, line)
        await waiting.done

    def _refuse_closed(self) -> None:
        if self._closing is not None:
            raise StoreError(f"store {self.path}: it is closed; open it again")

    def _drain(self, line: deque[Waiting]) -> None:
        """Carry out the changes of a line, in their order, up to `TOGETHER` in one transaction."""
        while line:
            batch = [line.popleft() for _ in range(min(len(line), TOGETHER))]
            try:
                self._do(partial(self._together, batch))
            except BaseException as error:
                for one in batch:
                    # One of its own each: one exception must not be raised in several tasks.
                    whole = StoreError(*error.args) if type(error) is StoreError else error
                    one.error = one.error or whole
            tell(batch)

    def _together(self, batch: Sequence[Waiting], db: sqlite3.Connection) -> None:
        """Make these changes in one transaction; one that fails leaves the others alone.

        At first as if none would fail: a savepoint around each trebles the statements, and a
        statement waits for its turn beside a busy loop.
        """
        try:
            with self._write(db):
                make_all(batch, db)
        except OneFailedError:  # nothing of them is saved
            with self._write(db):
                make_one_by_one(batch, db, f"store {self.path}")

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._db is not None
        with in_words(f"store {self.path}"):
            return work(self._db)

    def _open(self, migrations: Mapping[int, Migration]) -> None:
        with in_words(f"store {self.path}"):
            refuse_place(self.path)
            refuse_not_a_file(self.path)
            # First the lock: to close any descriptor of a file drops this process's locks on it.
            self._lock = take_lock(self.path)
            found = examine(self.path, migrations)
            if found < SCHEMA_VERSION:
                migrate(self.path, found, migrations)
            self._db = connect(self.path, "rw")
            (journal,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            if journal != "wal":
                raise StoreError(
                    f"store {self.path}: its folder cannot hold a write-ahead log (SQLite chose"
                    f" {journal}); use a folder on a local disk"
                )
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._inode = inode(self.path)
            self.id = meta(self._db, self.path, "store_id")
            # Mode bits tell little (root, read-only mounts, attributes): only writing tells.
            self._test_write(self._db)

    def _release(self) -> None:
        try:
            if self._db is not None:
                with in_words(f"store {self.path}"), closing(self._db):
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @contextmanager
    def _write(self, db: sqlite3.Connection) -> Iterator[None]:
        # SQLite would go on writing into a file that no longer has a name.
        if inode(self.path) != self._inode:
            raise StoreError(
                f"store {self.path}: it was removed or replaced while in use, nothing can be"
                " saved; put a store in place and restart the prober"
            )
        with transaction(db):
            yield

    def _commit(
        self,
        group: str,
        saved: Saved,
        expect: int,
        line: tuple[object, ...],
        db: sqlite3.Connection,
    ) -> None:
        groups.commit(db, self.path, group, saved, expect)
        history.add(db, line)

    def _rename(self, old: str, new: str, db: sqlite3.Connection) -> None:
        with self._write(db):
            groups.rename(db, self.path, old, new)
            history.rename(db, old, new)

    def _confirm(self, group: str, adapter: str, generation: int, db: sqlite3.Connection) -> None:
        groups.confirm(db, self.path, group, adapter, generation)

    def _note(self, lines: Sequence[tuple[object, ...]], db: sqlite3.Connection) -> None:
        with self._write(db):
            for line in lines:
                history.add(db, line)

    def _test_write(self, db: sqlite3.Connection) -> None:
        with self._write(db):
            db.execute("UPDATE tested SET times = times + 1")
