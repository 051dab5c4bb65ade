"""The store in one SQLite file, used by one thread of one process.

`init` makes the file once, on purpose. `SqliteStore.open` looks at it read-only first, so that a
file it refuses is left as it was found; then it migrates an older one and proves that writes work.
Every commit is synced to disk before it returns (WAL, synchronous=FULL). Commits that wait while
the disk syncs share the next transaction, so that a thousand groups need no thousand syncs; a
conflict of one is none of the others, which are then made again, each in a savepoint of its own.

Files beside `state.db`: `-wal` and `-shm` while in use (part of the store after a crash),
`.lock` (the pid of the prober that uses it), `.v<N>.bak` (what was there before a migration).

SQLite's pages carry no checksum, so each group's row has its own: a flipped bit must not move
traffic. Source: DESIGN section 1 (Save, Start); https://sqlite.org/wal.html, howtocorrupt.html.
"""

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import sqlite3
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter

from lb_probe.core.model import Saved
from lb_probe.history import CHANGES, QUIET
from lb_probe.ports import WHOLE, Conflict, Record, Span, StoreError

T = TypeVar("T")
Migration = Callable[[sqlite3.Connection], None]
Change = Callable[[sqlite3.Connection], None]

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 1.0
# What was seen (observations, conditions) goes by age and by size; what was done (`CHANGES`) only
# when it is both old and many, so that a clock that is set wrongly cannot wipe it out.
KEEP_SEEN_S = 30 * 86_400.0
KEEP_RECORDS = 100_000  # of the newest lines, over all groups
KEEP_CHANGES_S = 400 * 86_400.0
KEEP_CHANGES = 10_000
PRUNE_EVERY = 100  # lines between two looks at the oldest ones
PRUNE_STEP = 1_000  # lines that one look may delete: no transaction takes long
TOGETHER = 64  # changes of one transaction: the first of many waits for no more than these
MOUNTINFO = Path("/proc/self/mountinfo")

# From version N to N + 1, inside one transaction: never commit, never use `executescript`.
MIGRATIONS: Mapping[int, Migration] = {}

# Locks and shared memory, which WAL needs, do not hold across hosts there.
_NETWORK = (
    "9p afs beegfs ceph cifs coda davfs fuse.ceph fuse.cephfs fuse.davfs2 fuse.glusterfs"
    " fuse.rclone fuse.s3fs fuse.sshfs fuse.vmhgfs-fuse glusterfs gpfs lustre ncpfs nfs nfs4"
    " ocfs2 smb3 smbfs vboxsf"
)
NETWORK_FILESYSTEMS = frozenset(_NETWORK.split())

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
    """CREATE TABLE groups (
        name TEXT PRIMARY KEY NOT NULL,
        assigned TEXT,
        latched INTEGER NOT NULL CHECK (latched IN (0, 1)),
        hold TEXT CHECK (hold IS NULL OR json_valid(hold)),
        roles TEXT CHECK (roles IS NULL OR json_valid(roles)),
        acked TEXT,
        generation INTEGER NOT NULL CHECK (typeof(generation) = 'integer' AND generation >= 0),
        last_change TEXT CHECK (last_change IS NULL OR json_valid(last_change)),
        fingerprint TEXT NOT NULL,
        digest TEXT NOT NULL,
        CHECK (latched = 0 OR assigned IS NOT NULL))""",
    """CREATE TRIGGER generation_grows BEFORE UPDATE OF generation ON groups
        WHEN NEW.generation < OLD.generation
        BEGIN SELECT RAISE(ABORT, 'a generation only grows'); END""",
    """CREATE TABLE confirmed (
        "group" TEXT NOT NULL REFERENCES groups (name) ON UPDATE CASCADE,
        adapter TEXT NOT NULL,
        generation INTEGER NOT NULL CHECK (typeof(generation) = 'integer' AND generation >= 0),
        PRIMARY KEY ("group", adapter))""",
    """CREATE TRIGGER confirmed_grows BEFORE UPDATE OF generation ON confirmed
        WHEN NEW.generation < OLD.generation
        BEGIN SELECT RAISE(ABORT, 'a confirmed generation only grows'); END""",
    """CREATE TABLE history (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_wall REAL NOT NULL,
        "group" TEXT NOT NULL,
        kind TEXT NOT NULL,
        generation INTEGER NOT NULL,
        details TEXT NOT NULL CHECK (json_valid(details)))""",
    "CREATE TABLE tested (one INTEGER PRIMARY KEY CHECK (one = 1), times INTEGER NOT NULL)",
    "INSERT INTO tested VALUES (1, 0)",
)
META = {"schema_version": "[0-9]{1,9}", "store_id": "[0-9a-f]{32}"}  # key: what it looks like
UPSERT = """INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET assigned = excluded.assigned, latched = excluded.latched,
        hold = excluded.hold, roles = excluded.roles, acked = excluded.acked,
        generation = excluded.generation, last_change = excluded.last_change,
        fingerprint = excluded.fingerprint, digest = excluded.digest"""

# The list of kinds comes as one JSON value.
OLDEST_SEEN = """SELECT id, at_wall FROM history
    WHERE kind NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?"""
OLDEST_CHANGES = """SELECT id, at_wall FROM history
    WHERE kind IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?"""
COUNT_CHANGES = """SELECT count(*) FROM history
    WHERE kind IN (SELECT value FROM json_each(?))"""
SPAN_OF_HISTORY = """SELECT id, "group", kind, at_wall, generation, details FROM history
    WHERE (? IS NULL OR "group" IN (?, '')) AND id < ? AND at_wall >= ?
    AND kind NOT IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT ?"""
HISTORY_AFTER = """SELECT id, "group", kind, at_wall, generation, details FROM history
    WHERE id > ? AND kind IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?"""

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
_SAVED = TypeAdapter(Saved)


# ------------------------------------------------------------------ what went wrong, in words
@contextmanager
def _in_words(what: str) -> Iterator[None]:
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


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(f"store {path}: it is damaged ({found}); {RESTORE}")


# ------------------------------------------------------------------ values to rows and back
def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, allow_nan=False, separators=(",", ":"))


def _unjson(text: str | None) -> object:
    return None if text is None else json.loads(text)


def _digest(columns: tuple[object, ...]) -> str:
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()


def _to_row(group: str, saved: Saved) -> tuple[object, ...]:
    plain = _SAVED.dump_python(saved, mode="json", warnings=False)
    columns = (
        group,
        saved.assigned,
        int(saved.latched),
        _json(plain["hold"]),
        _json(plain["roles"]),
        saved.acked,
        saved.generation,
        _json(plain["last_change"]),
        saved.fingerprint,
    )
    return (*columns, _digest(columns))


def _to_saved(row: tuple[Any, ...], confirmed: Mapping[str, int]) -> Saved:
    """Build the value of one row.

    Raises:
        ValueError, TypeError: It cannot have been saved by us.
    """
    _, assigned, latched, hold, roles, acked, generation, last_change, fingerprint, digest = row
    document = {
        "assigned": assigned,
        "latched": bool(latched),
        "hold": _unjson(hold),
        "roles": _unjson(roles),
        "acked": acked,
        "generation": generation,
        "last_change": _unjson(last_change),
        "confirmed": confirmed,
        "fingerprint": fingerprint,
    }
    saved = _SAVED.validate_json(json.dumps(document), strict=True)
    if saved.generation < 0:
        raise ValueError(f"its generation is {saved.generation}")
    if saved.latched and saved.assigned is None:
        raise ValueError("it is latched and assigned to nobody")
    if not all(0 <= seen <= saved.generation for seen in confirmed.values()):
        raise ValueError("an adapter confirmed a generation that was never saved")
    if digest != _digest(row[:-1]):
        raise ValueError("its checksum does not fit its content")
    return saved


def _read_groups(db: sqlite3.Connection, path: Path) -> dict[str, Saved]:
    confirmed: dict[str, dict[str, int]] = {}
    for group, adapter, generation in db.execute(
        'SELECT "group", adapter, generation FROM confirmed'
    ):
        confirmed.setdefault(group, {})[adapter] = generation
    groups = {}
    for row in db.execute("SELECT * FROM groups ORDER BY name"):
        try:
            groups[row[0]] = _to_saved(row, confirmed.get(row[0], {}))
        except (ValueError, TypeError) as error:
            raise _damaged(path, f"group {row[0]!r}: {error}") from error
    return groups


# ------------------------------------------------------------------ the place
def filesystem_of(folder: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds `folder`, empty where that is not said.

    Args:
        folder: Absolute, without symbolic links.
        mountinfo: Text of /proc/self/mountinfo (proc(5)); of two mounts on one point the later
            one counts.
    """
    depth, kind = 0, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if len(left.split()) < 5 or not right.split():
            continue
        # Blanks in a mount point are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), left.split()[4])
        if folder.is_relative_to(point) and len(Path(point).parts) >= depth:
            depth, kind = len(Path(point).parts), right.split()[0]
    return kind


def _refuse_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError(
            f"store {path}: there is no folder {path.parent}; make it, owned by the prober's user"
        )
    try:
        mountinfo = MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        return  # not Linux, or /proc is hidden: nothing can be said
    if (kind := filesystem_of(path.parent, mountinfo)) in NETWORK_FILESYSTEMS:
        raise StoreError(
            f"store {path}: {path.parent} is on a network file system ({kind}), where SQLite's"
            " locks do not hold; use a folder on a local disk"
        )


def _refuse_not_a_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"store {path}: there is no such file; restore a backup, or make a new, empty store"
            " with `lb-probe init`"
        ) from error
    if not stat.S_ISREG(mode):
        raise StoreError(f"store {path}: it is not a regular file; give the path of a store file")


def _take_lock(path: Path) -> int:
    """Lock the store for this process; the lock goes with the returned descriptor."""
    # The file stays for ever: to remove it would let a third prober lock another one.
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _give_to_owner(lock, path)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(
            f"store {path}: it is in use by another prober (pid {holder}); one store serves one"
            " prober: stop that one, or give this one its own"
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def holder(path: Path) -> str | None:
    """Return the pid of the prober that uses this store; None where none does, or no store is."""
    try:
        with Path(f"{path.resolve()}.lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read(20).decode(errors="replace").strip() or "unknown"
    except OSError:
        pass  # break-glass must work without a store, and with one that cannot be read
    return None


def _give_to_owner(fd: int, model: Path) -> None:
    # What root makes (`sudo lb-probe init`) must be usable by the service's own user.
    if os.geteuid() == 0:
        os.fchown(fd, model.stat().st_uid, model.stat().st_gid)


def _name(draft: Path, target: Path) -> None:
    try:
        target.hardlink_to(draft)  # unlike a rename, it never overwrites
    except OSError:
        if os.path.lexists(target):
            raise
        draft.rename(target)  # vfat and some shares know no second name


@contextmanager
def _draft(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new file beside `target` that takes its name, synced, if the block ends well."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _give_to_owner(fd, target.parent)
        yield draft
        os.fsync(fd)
        if overwrite:
            draft.replace(target)
        else:
            _name(draft, target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.close(fd)
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)


# ------------------------------------------------------------------ the file
def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
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


def _copy(db: sqlite3.Connection, path: Path, target: Path, *, overwrite: bool = False) -> None:
    with _in_words(f"backup {target}"):
        if os.path.lexists(target) and not overwrite:
            raise StoreError(f"backup {target}: it already exists; name a new file")
        if not target.parent.is_dir():
            raise StoreError(f"backup {target}: there is no folder {target.parent}; make it")
        with _draft(target, overwrite=overwrite) as draft, closing(_connect(draft, "rw")) as copy:
            db.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one plain file, nothing beside it
            _refuse_damage(copy, path)  # the copy's damage is the store's


def _refuse_damage(db: sqlite3.Connection, path: Path) -> None:
    # A read-only connection does not test the CHECKs of the schema: see `_refuse_nonsense`.
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _damaged(path, found)
    if (orphan := db.execute("PRAGMA foreign_key_check").fetchone()) is not None:
        raise _damaged(path, f"a row of {orphan[0]} belongs to no group")


def _meta(db: sqlite3.Connection, path: Path, key: str) -> str:
    row = None
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None or not re.fullmatch(META[key], str(row[0])):
        raise StoreError(
            f"store {path}: it is an SQLite file without the {key} of a store; give the path of a"
            " store that `lb-probe init` made, or restore a backup"
        )
    return str(row[0])


def _refuse_nonsense(db: sqlite3.Connection, path: Path) -> None:
    _refuse_damage(db, path)
    _meta(db, path, "store_id")
    _read_groups(db, path)
    # What else a commit needs must be there before the day on which it is needed.
    history = 'SELECT at_wall, "group", kind, generation FROM history WHERE NOT json_valid(details)'
    if db.execute(f"{history} LIMIT 1").fetchone():
        raise _damaged(path, "a line of history is not JSON")


def _examine(path: Path, migrations: Mapping[int, Migration]) -> int:
    """Read the whole store without changing it; return its schema version."""
    # Opened for writing: beside a read-only file SQLite would leave a -wal that is read-only too,
    # and that would still be in the way once the file itself is writable again.
    with path.open("r+b") as file:
        head = file.read(16)
    if not head:
        raise _damaged(path, "it is empty")
    if head != b"SQLite format 3\0":
        raise _damaged(path, "it is not an SQLite file")
    # A read-only connection also reads what a crash left in the -wal file, and moves none of it.
    with closing(_connect(path, "ro")) as db:
        found = int(_meta(db, path, "schema_version"))
        if found > SCHEMA_VERSION:
            raise _newer(path, found)
        if any(version not in migrations for version in range(found, SCHEMA_VERSION)):
            raise StoreError(
                f"store {path}: it has schema version {found}, which this lb-probe cannot bring to"
                f" {SCHEMA_VERSION}; open it once with a release in between"
            )
        (_refuse_nonsense if found == SCHEMA_VERSION else _refuse_damage)(db, path)
    return found


def _newer(path: Path, found: int) -> StoreError:
    return StoreError(
        f"store {path}: it has schema version {found} and was written by a newer lb-probe;"
        f" this one reads up to {SCHEMA_VERSION}: upgrade lb-probe, or restore a backup"
    )


def _migrate(path: Path, found: int, migrations: Mapping[int, Migration]) -> None:
    """Bring a store of version `found` to ours: all of it or nothing, after a copy was made."""
    with closing(_connect(path, "rw")) as db:
        # An older copy of this name, such as one of a try that was cut off, gives way.
        _copy(db, path, path.with_name(f"{path.name}.v{found}.bak"), overwrite=True)
        db.execute("PRAGMA foreign_keys = OFF")  # a rebuilt table must not cascade
        with _transaction(db):
            for version in range(found, SCHEMA_VERSION):
                migrations[version](db)
                if not db.in_transaction:
                    raise RuntimeError(f"migration {version} committed by itself")
            db.execute(
                "UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(SCHEMA_VERSION),)
            )
            _refuse_nonsense(db, path)


def init(path: Path) -> None:
    """Make a new, empty store, readable by its owner only (root: by the folder's owner).

    A crash leaves the whole store or none (and perhaps a hidden `.NAME.*.new` file to remove).

    Raises:
        StoreError: Something is there already, the folder is missing, not writable or on a
            network file system.
    """
    path = path.resolve()
    with _in_words(f"store {path}"):
        _refuse_place(path)
        # SQLite would take the -wal of a lost store for a part of the new one.
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-journal")):
            if os.path.lexists(file):
                raise StoreError(
                    f"store {path}: {file} already exists, and `init` never overwrites; use it as"
                    " it is, or move it away first"
                )
        with _draft(path) as draft, closing(_connect(draft, "rw")) as db, _transaction(db):
            for statement in SCHEMA:
                db.execute(statement)
            meta = {"schema_version": str(SCHEMA_VERSION), "store_id": secrets.token_hex(16)}
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())


def backup(path: Path, target: Path) -> None:
    """Copy the store at `path` into the new file `target`, also while a prober uses it.

    Raises:
        StoreError: No store there, `target` exists, or the copy failed; no half copy stays.
    """
    path = path.resolve()
    with _in_words(f"store {path}"):
        _refuse_not_a_file(path)
        with closing(_connect(path, "ro")) as db:
            _meta(db, path, "store_id")
            _copy(db, path, target.absolute())


def read_history(
    path: Path, group: str | None = None, limit: int = 2**62, span: Span = WHOLE
) -> list[Record]:
    """Read the history of a store, or of a backup, without changing anything, newest last.

    Raises:
        StoreError: No store there, it is newer than this program, or it cannot be read.
    """
    path = path.resolve()
    with _in_words(f"store {path}"):
        _refuse_not_a_file(path)
        # Beside a store that nobody has open, SQLite would make a -wal and leave it there.
        is_open = Path(f"{path}-wal").exists()
        mode = "ro" if is_open else "ro&immutable=1"
        with closing(_connect(path, mode)) as db:
            found = int(_meta(db, path, "schema_version"))
            if found > SCHEMA_VERSION:
                raise _newer(path, found)
            return _read_history(db, path, group, limit, span)


@dataclass(slots=True)
class _Waiting:
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


class _OneFailedError(Exception):
    """One of several changes could not be made."""


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
        self._line: deque[_Waiting] = deque()

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
        return await self._call(lambda db: _read_groups(db, self.path))

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
        await self._change(partial(self._commit, group, saved, expect, _history_row(record)))

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
        await self._call(partial(self._note, _history_row(record)))

    async def note_all(self, records: Sequence[Record]) -> None:
        """Add many lines of history that change nothing saved: all of them or none.

        Raises:
            StoreError: Not saved.
            ValueError, TypeError: Details are not plain JSON values.
        """
        await self._call(partial(self._note, *map(_history_row, records)))

    async def history(
        self, group: str | None = None, limit: int = 100, span: Span = WHOLE
    ) -> list[Record]:
        """Return the newest records of a span, newest last; the oldest are deleted now and then.

        Args:
            group: With a name, records of that group and of the prober as a whole.

        Raises:
            StoreError: It cannot be read.
        """
        return await self._call(lambda db: _read_history(db, self.path, group, limit, span))

    async def after(
        self, number: int, kinds: frozenset[str], limit: int
    ) -> tuple[list[Record], int]:
        """Return records of these kinds behind a number, oldest first, and up to where that is.

        Raises:
            StoreError: It cannot be read.
        """
        return await self._call(lambda db: _read_after(db, self.path, number, kinds, limit))

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
        await self._call(lambda db: _copy(db, self.path, target.absolute()))

    # -------------------------------------------------------------- inside the thread
    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._refuse_closed()
        self._line = deque()  # what is in line goes first; what comes later stays behind this
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    async def _change(self, change: Change) -> None:
        """Carry out a change, with those that stand in line beside it; durable on return."""
        self._refuse_closed()
        waiting, line = _Waiting(change), self._line
        line.append(waiting)
        if len(line) == 1:  # else the thread has yet to take what stands before this, and this too
            self._thread.submit(self._drain, line)
        await asyncio.wrap_future(waiting.done)

    def _refuse_closed(self) -> None:
        if self._closing is not None:
            raise StoreError(f"store {self.path}: it is closed; open it again")

    def _drain(self, line: deque[_Waiting]) -> None:
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
            for one in batch:
                if one.begin():
                    one.end()

    def _together(self, batch: Sequence[_Waiting], db: sqlite3.Connection) -> None:
        """Make these changes in one transaction; one that fails leaves the others alone.

        At first as if none would fail: a savepoint around each trebles the statements, and a
        statement waits for its turn beside a busy loop.
        """
        try:
            with self._write(db):
                self._make_all(batch, db)
        except _OneFailedError:  # nothing of them is saved
            self._one_by_one(batch, db)

    def _make_all(self, batch: Sequence[_Waiting], db: sqlite3.Connection) -> None:
        for one in batch:
            if one.begin():
                try:
                    one.change(db)
                except Exception as error:
                    raise _OneFailedError from error

    def _one_by_one(self, batch: Sequence[_Waiting], db: sqlite3.Connection) -> None:
        with self._write(db):
            for one in batch:
                if not one.begin():
                    continue
                db.execute("SAVEPOINT change")
                try:
                    with _in_words(f"store {self.path}"):
                        one.change(db)
                except Exception as error:
                    one.error = error
                    if not db.in_transaction:
                        raise  # SQLite gave up the whole of it
                    db.execute("ROLLBACK TO change")  # where this fails, all of them do
                db.execute("RELEASE change")

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._db is not None
        with _in_words(f"store {self.path}"):
            return work(self._db)

    def _open(self, migrations: Mapping[int, Migration]) -> None:
        with _in_words(f"store {self.path}"):
            _refuse_place(self.path)
            _refuse_not_a_file(self.path)
            # First the lock: to close any descriptor of a file drops this process's locks on it.
            self._lock = _take_lock(self.path)
            found = _examine(self.path, migrations)
            if found < SCHEMA_VERSION:
                _migrate(self.path, found, migrations)
            self._db = _connect(self.path, "rw")
            (journal,) = self._db.execute("PRAGMA journal_mode = WAL").fetchone()
            if journal != "wal":
                raise StoreError(
                    f"store {self.path}: its folder cannot hold a write-ahead log (SQLite chose"
                    f" {journal}); use a folder on a local disk"
                )
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._inode = _inode(self.path)
            self.id = _meta(self._db, self.path, "store_id")
            # Mode bits tell little (root, read-only mounts, attributes): only writing tells.
            self._test_write(self._db)

    def _release(self) -> None:
        try:
            if self._db is not None:
                with _in_words(f"store {self.path}"), closing(self._db):
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    @contextmanager
    def _write(self, db: sqlite3.Connection) -> Iterator[None]:
        # SQLite would go on writing into a file that no longer has a name.
        if _inode(self.path) != self._inode:
            raise StoreError(
                f"store {self.path}: it was removed or replaced while in use, nothing can be"
                " saved; put a store in place and restart the prober"
            )
        with _transaction(db):
            yield

    def _commit(
        self,
        group: str,
        saved: Saved,
        expect: int,
        history_row: tuple[object, ...],
        db: sqlite3.Connection,
    ) -> None:
        row = _to_row(group, saved)  # here, for it takes long enough to be kept off the loop
        if _to_saved(row, {}) != replace(saved, confirmed={}):
            raise ValueError(f"group {group}: {saved} would not be read back as it is")
        if (found := _generation(db, group) or 0) != expect:
            raise Conflict(
                f"store {self.path}: group {group} is at generation {found}, wanted {expect};"
                " somebody else changed it: read it again and decide anew",
                found,
            )
        db.execute(UPSERT, row)
        _add_history(db, history_row)

    def _rename(self, old: str, new: str, db: sqlite3.Connection) -> None:
        with self._write(db):
            groups = _read_groups(db, self.path)
            if old not in groups:
                raise StoreError(
                    f"store {self.path}: nothing is saved for group {old}, so {new} cannot take"
                    " over from it; remove `was:`, or correct the name"
                )
            if new in groups:
                raise StoreError(
                    f"store {self.path}: group {new} is saved already and cannot take over from"
                    f" {old}; remove `was:`, or choose another name"
                )
            digest = _to_row(new, groups[old])[-1]
            db.execute("UPDATE groups SET name = ?, digest = ? WHERE name = ?", (new, digest, old))
            db.execute('UPDATE history SET "group" = ? WHERE "group" = ?', (new, old))

    def _confirm(self, group: str, adapter: str, generation: int, db: sqlite3.Connection) -> None:
        saved = _generation(db, group)
        if saved is None:
            raise StoreError(
                f"store {self.path}: nothing is saved for group {group}, so {adapter} cannot"
                " have carried it out; commit first"
            )
        if not 0 <= generation <= saved:
            raise ValueError(f"{adapter} cannot confirm {generation}: {group} is at {saved}")
        db.execute(
            "INSERT INTO confirmed VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET generation = excluded.generation WHERE excluded.generation > generation",
            (group, adapter, generation),
        )

    def _note(self, *args: Any) -> None:
        *history_rows, db = args
        with self._write(db):
            for row in history_rows:
                _add_history(db, row)

    def _test_write(self, db: sqlite3.Connection) -> None:
        with self._write(db):
            db.execute("UPDATE tested SET times = times + 1")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _generation(db: sqlite3.Connection, group: str) -> int | None:
    row = db.execute("SELECT generation FROM groups WHERE name = ?", (group,)).fetchone()
    return None if row is None else int(row[0])


def _history_row(record: Record) -> tuple[object, ...]:
    details = _json(dict(record.details))
    return record.at_wall, record.group, record.kind, record.generation, details


def _add_history(db: sqlite3.Connection, row: tuple[object, ...]) -> None:
    newest = db.execute(
        'INSERT INTO history (at_wall, "group", kind, generation, details) VALUES (?, ?, ?, ?, ?)',
        row,
    ).lastrowid
    if newest is not None and newest % PRUNE_EVERY == 0:
        _prune(db, newest, float(str(row[0])))


def _prune(db: sqlite3.Connection, newest: int, now: float) -> None:
    """Delete some of the oldest lines that need not be kept.

    Args:
        newest: Number of the newest line.
        now: Its wall time.
    """
    done = json.dumps(sorted(CHANGES))
    seen = db.execute(OLDEST_SEEN, (done, PRUNE_STEP)).fetchall()
    gone = [
        number for number, at in seen if number <= newest - KEEP_RECORDS or at < now - KEEP_SEEN_S
    ]
    (changes,) = db.execute(COUNT_CHANGES, (done,)).fetchone()
    if changes > KEEP_CHANGES:
        many = min(PRUNE_STEP, changes - KEEP_CHANGES)
        made = db.execute(OLDEST_CHANGES, (done, many)).fetchall()
        gone += [number for number, at in made if at < now - KEEP_CHANGES_S]
    db.executemany("DELETE FROM history WHERE id = ?", [(number,) for number in gone])


def _read_history(
    db: sqlite3.Connection, path: Path, group: str | None, limit: int, span: Span
) -> list[Record]:
    rows = db.execute(
        SPAN_OF_HISTORY,
        (
            group,
            group,
            2**63 - 1 if span.before is None else span.before,
            -1e300 if span.since is None else span.since,
            json.dumps([] if span.everything else sorted(QUIET)),
            max(limit, 0),
        ),
    ).fetchall()
    return _records(rows[::-1], path)


def _read_after(
    db: sqlite3.Connection, path: Path, number: int, kinds: frozenset[str], limit: int
) -> tuple[list[Record], int]:
    values = (number, json.dumps(sorted(kinds)), limit)
    found = _records(db.execute(HISTORY_AFTER, values).fetchall(), path)
    if len(found) == limit:
        return found, found[-1].number
    (newest,) = db.execute("SELECT max(id) FROM history").fetchone()
    return found, max(number, newest or 0)


def _records(rows: Sequence[tuple[Any, ...]], path: Path) -> list[Record]:
    try:
        return [Record(g, k, at, n, json.loads(d), id_) for id_, g, k, at, n, d in rows]
    except ValueError as error:
        raise _damaged(path, f"a line of history: {error}") from error
