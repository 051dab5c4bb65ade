"""The lines of history: added, read by a span, and the oldest ones deleted now and then."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lb_probe.history import CHANGES, QUIET
from lb_probe.ports import Record, Span
from lb_probe.store.connection import as_json, damaged

# What was seen (observations, conditions) goes by age and by size; what was done (`CHANGES`) only
# when it is both old and many, so that a clock that is set wrongly cannot wipe it out.
KEEP_SEEN_S = 30 * 86_400.0
KEEP_RECORDS = 100_000  # of the newest lines, over all groups
KEEP_CHANGES_S = 400 * 86_400.0
KEEP_CHANGES = 10_000
PRUNE_EVERY = 100  # lines between two looks at the oldest ones
PRUNE_STEP = 1_000  # lines that one look may delete: no transaction takes long

TABLES = (
    """CREATE TABLE history (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_wall REAL NOT NULL,
        "group" TEXT NOT NULL,
        kind TEXT NOT NULL,
        generation INTEGER NOT NULL,
        details TEXT NOT NULL CHECK (json_valid(details)))""",
)
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


# ------------------------------------------------------------------ added, and deleted
def row_of(record: Record) -> tuple[object, ...]:
    """Return the row of a record.

    Raises:
        ValueError, TypeError: Its details are not plain JSON values.
    """
    details = as_json(dict(record.details))
    return record.at_wall, record.group, record.kind, record.generation, details


def add(db: sqlite3.Connection, row: tuple[object, ...]) -> None:
    """Add a line, and now and then delete some of the oldest ones."""
    newest = db.execute(
        'INSERT INTO history (at_wall, "group", kind, generation, details) VALUES (?, ?, ?, ?, ?)',
        row,
    ).lastrowid
    if newest is not None and newest % PRUNE_EVERY == 0:
        _prune(db, newest, float(str(row[0])))


def rename(db: sqlite3.Connection, old: str, new: str) -> None:
    """Carry the lines of a group over to its new name."""
    db.execute('UPDATE history SET "group" = ? WHERE "group" = ?', (new, old))


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


# ------------------------------------------------------------------ read
def read(
    db: sqlite3.Connection, path: Path, group: str | None, limit: int, span: Span
) -> list[Record]:
    """Return the newest records of a span, newest last."""
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


def read_after(
    db: sqlite3.Connection, path: Path, number: int, kinds: frozenset[str], limit: int
) -> tuple[list[Record], int]:
    """Return records of these kinds behind a number, oldest first, and up to where that is."""
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
        raise damaged(path, f"a line of history: {error}") from error
