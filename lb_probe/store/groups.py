"""What is saved of each group: a row with a checksum of its own, and who confirmed it.

SQLite's pages carry no checksum, and a flipped bit must not move traffic. A generation only grows,
whoever writes: the tables see to that too.
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lb_probe.core.model import Saved
from lb_probe.ports import Conflict, StoreError
from lb_probe.store.connection import as_json, damaged

TABLES = (
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
)
UPSERT = """INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET assigned = excluded.assigned, latched = excluded.latched,
        hold = excluded.hold, roles = excluded.roles, acked = excluded.acked,
        generation = excluded.generation, last_change = excluded.last_change,
        fingerprint = excluded.fingerprint, digest = excluded.digest"""
_SAVED = TypeAdapter(Saved)


# ------------------------------------------------------------------ values to rows and back
def _unjson(text: str | None) -> object:
    return None if text is None else json.loads(text)


def _digest(columns: tuple[object, ...]) -> str:
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()


def to_row(group: str, saved: Saved) -> tuple[object, ...]:
    """Return the row of a group."""
    plain = _SAVED.dump_python(saved, mode="json", warnings=False)
    columns = (
        group,
        saved.assigned,
        int(saved.latched),
        as_json(plain["hold"]),
        as_json(plain["roles"]),
        saved.acked,
        saved.generation,
        as_json(plain["last_change"]),
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


def read(db: sqlite3.Connection, path: Path) -> dict[str, Saved]:
    """Return what is saved of every group.

    Raises:
        StoreError: A row cannot have been saved by us.
    """
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
            raise damaged(path, f"group {row[0]!r}: {error}") from error
    return groups


# ------------------------------------------------------------------ inside a transaction
def generation_of(db: sqlite3.Connection, group: str) -> int | None:
    """Return the generation that is saved; None where none is."""
    row = db.execute("SELECT generation FROM groups WHERE name = ?", (group,)).fetchone()
    return None if row is None else int(row[0])


def commit(db: sqlite3.Connection, path: Path, group: str, saved: Saved, expect: int) -> None:
    """Save a group; who calls it adds the line of history.

    Raises:
        Conflict: Another generation is there.
        ValueError: It would not be read back as it is.
    """
    row = to_row(group, saved)  # here, for it takes long enough to be kept off the loop
    if _to_saved(row, {}) != replace(saved, confirmed={}):
        raise ValueError(f"group {group}: {saved} would not be read back as it is")
    if (found := generation_of(db, group) or 0) != expect:
        raise Conflict(
            f"store {path}: group {group} is at generation {found}, wanted {expect};"
            " somebody else changed it: read it again and decide anew",
            found,
        )
    db.execute(UPSERT, row)


def rename(db: sqlite3.Connection, path: Path, old: str, new: str) -> None:
    """Carry what is saved for group `old` over to `new`.

    Raises:
        StoreError: Nothing is saved for `old`, or `new` is already there.
    """
    groups = read(db, path)
    if old not in groups:
        raise StoreError(
            f"store {path}: nothing is saved for group {old}, so {new} cannot take"
            " over from it; remove `was:`, or correct the name"
        )
    if new in groups:
        raise StoreError(
            f"store {path}: group {new} is saved already and cannot take over from"
            f" {old}; remove `was:`, or choose another name"
        )
    digest = to_row(new, groups[old])[-1]
    db.execute("UPDATE groups SET name = ?, digest = ? WHERE name = ?", (new, digest, old))


def confirm(db: sqlite3.Connection, path: Path, group: str, adapter: str, generation: int) -> None:
    """Remember that an adapter carries out a generation; an older one is ignored.

    Raises:
        StoreError: Nothing is saved for `group`.
        ValueError: A generation that was never saved.
    """
    saved = generation_of(db, group)
    if saved is None:
        raise StoreError(
            f"store {path}: nothing is saved for group {group}, so {adapter} cannot"
            " have carried it out; commit first"
        )
    if not 0 <= generation <= saved:
        raise ValueError(f"{adapter} cannot confirm {generation}: {group} is at {saved}")
    db.execute(
        "INSERT INTO confirmed VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
        " SET generation = excluded.generation WHERE excluded.generation > generation",
        (group, adapter, generation),
    )
