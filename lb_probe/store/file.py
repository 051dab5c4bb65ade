"""The file of a store: made on purpose, looked at before it is used, migrated, copied.

A file that is refused is left as it was found.
"""

import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from lb_probe.ports import WHOLE, Record, Span, StoreError
from lb_probe.store import groups, history
from lb_probe.store.connection import connect, damaged, in_words, transaction
from lb_probe.store.place import draft, refuse_not_a_file, refuse_place

Migration = Callable[[sqlite3.Connection], None]

SCHEMA_VERSION = 1
# From version N to N + 1, inside one transaction: never commit, never use `executescript`.
MIGRATIONS: Mapping[int, Migration] = {}
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
    *groups.TABLES,
    *history.TABLES,
    "CREATE TABLE tested (one INTEGER PRIMARY KEY CHECK (one = 1), times INTEGER NOT NULL)",
    "INSERT INTO tested VALUES (1, 0)",
)
META = {"schema_version": "[0-9]{1,9}", "store_id": "[0-9a-f]{32}"}  # key: what it looks like


# ------------------------------------------------------------------ looked at
def examine(path: Path, migrations: Mapping[int, Migration]) -> int:
    """Read the whole store without changing it; return its schema version."""
    # Opened for writing: beside a read-only file SQLite would leave a -wal that is read-only too,
    # and that would still be in the way once the file itself is writable again.
    with path.open("r+b") as file:
        head = file.read(16)
    if not head:
        raise damaged(path, "it is empty")
    if head != b"SQLite format 3\0":
        raise damaged(path, "it is not an SQLite file")
    # A read-only connection also reads what a crash left in the -wal file, and moves none of it.
    with closing(connect(path, "ro")) as db:
        found = int(meta(db, path, "schema_version"))
        if found > SCHEMA_VERSION:
            raise _newer(path, found)
        if any(version not in migrations for version in range(found, SCHEMA_VERSION)):
            raise StoreError(
                f"store {path}: it has schema version {found}, which this lb-probe cannot bring to"
                f" {SCHEMA_VERSION}; open it once with a release in between"
            )
        (_refuse_nonsense if found == SCHEMA_VERSION else _refuse_damage)(db, path)
    return found


def meta(db: sqlite3.Connection, path: Path, key: str) -> str:
    """Return a value of the table `meta`, which tells a store from other SQLite files.

    Raises:
        StoreError: It is not there, or not as we write it.
    """
    row = None
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None or not re.fullmatch(META[key], str(row[0])):
        raise StoreError(
            f"store {path}: it is an SQLite file without the {key} of a store; give the path of a"
            " store that `lb-probe init` made, or restore a backup"
        )
    return str(row[0])


def _newer(path: Path, found: int) -> StoreError:
    return StoreError(
        f"store {path}: it has schema version {found} and was written by a newer lb-probe;"
        f" this one reads up to {SCHEMA_VERSION}: upgrade lb-probe, or restore a backup"
    )


def _refuse_damage(db: sqlite3.Connection, path: Path) -> None:
    # A read-only connection does not test the CHECKs of the schema: see `_refuse_nonsense`.
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, found)
    if (orphan := db.execute("PRAGMA foreign_key_check").fetchone()) is not None:
        raise damaged(path, f"a row of {orphan[0]} belongs to no group")


def _refuse_nonsense(db: sqlite3.Connection, path: Path) -> None:
    _refuse_damage(db, path)
    meta(db, path, "store_id")
    groups.read(db, path)
    # What else a commit needs must be there before the day on which it is needed.
    lines = 'SELECT at_wall, "group", kind, generation FROM history WHERE NOT json_valid(details)'
    if db.execute(f"{lines} LIMIT 1").fetchone():
        raise damaged(path, "a line of history is not JSON")


# ------------------------------------------------------------------ made, migrated, copied
def init(path: Path) -> None:
    """Make a new, empty store, readable by its owner only (root: by the folder's owner).

    A crash leaves the whole store or none (and perhaps a hidden `.NAME.*.new` file to remove).

    Raises:
        StoreError: Something is there already, the folder is missing, not writable or on a
            network file system.
    """
    path = path.resolve()
    with in_words(f"store {path}"):
        refuse_place(path)
        # SQLite would take the -wal of a lost store for a part of the new one.
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-journal")):
            if os.path.lexists(file):
                raise StoreError(
                    f"store {path}: {file} already exists, and `init` never overwrites; use it as"
                    " it is, or move it away first"
                )
        with draft(path) as new, closing(connect(new, "rw")) as db, transaction(db):
            for statement in SCHEMA:
                db.execute(statement)
            values = {"schema_version": str(SCHEMA_VERSION), "store_id": secrets.token_hex(16)}
            db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())


def migrate(path: Path, found: int, migrations: Mapping[int, Migration]) -> None:
    """Bring a store of version `found` to ours: all of it or nothing, after a copy was made."""
    with closing(connect(path, "rw")) as db:
        # An older copy of this name, such as one of a try that was cut off, gives way.
        copy(db, path, path.with_name(f"{path.name}.v{found}.bak"), overwrite=True)
        db.execute("PRAGMA foreign_keys = OFF")  # a rebuilt table must not cascade
        with transaction(db):
            for version in range(found, SCHEMA_VERSION):
                migrations[version](db)
                if not db.in_transaction:
                    raise RuntimeError(f"migration {version} committed by itself")
            db.execute(
                "UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(SCHEMA_VERSION),)
            )
            _refuse_nonsense(db, path)


def copy(db: sqlite3.Connection, path: Path, target: Path, *, overwrite: bool = False) -> None:
    """Copy the store at `path`, open as `db`, into one plain file.

    Raises:
        StoreError: `target` exists, or the copy failed; no half copy stays.
    """
    with in_words(f"backup {target}"):
        if os.path.lexists(target) and not overwrite:
            raise StoreError(f"backup {target}: it already exists; name a new file")
        if not target.parent.is_dir():
            raise StoreError(f"backup {target}: there is no folder {target.parent}; make it")
        with draft(target, overwrite=overwrite) as new, closing(connect(new, "rw")) as made:
            db.backup(made)
            made.execute("PRAGMA journal_mode = DELETE")  # one plain file, nothing beside it
            _refuse_damage(made, path)  # the copy's damage is the store's


def backup(path: Path, target: Path) -> None:
    """Copy the store at `path` into the new file `target`, also while a prober uses it.

    Raises:
        StoreError: No store there, `target` exists, or the copy failed; no half copy stays.
    """
    path = path.resolve()
    with in_words(f"store {path}"):
        refuse_not_a_file(path)
        with closing(connect(path, "ro")) as db:
            meta(db, path, "store_id")
            copy(db, path, target.absolute())


def read_history(
    path: Path, group: str | None = None, limit: int = 2**62, span: Span = WHOLE
) -> list[Record]:
    """Read the history of a store, or of a backup, without changing anything, newest last.

    Raises:
        StoreError: No store there, it is newer than this program, or it cannot be read.
    """
    path = path.resolve()
    with in_words(f"store {path}"):
        refuse_not_a_file(path)
        # Beside a store that nobody has open, SQLite would make a -wal and leave it there.
        is_open = Path(f"{path}-wal").exists()
        mode = "ro" if is_open else "ro&immutable=1"
        with closing(connect(path, mode)) as db:
            found = int(meta(db, path, "schema_version"))
            if found > SCHEMA_VERSION:
                raise _newer(path, found)
            return history.read(db, path, group, limit, span)
