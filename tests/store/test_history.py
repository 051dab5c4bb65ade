"""The lines of history: read by a span, and the oldest deleted now and then."""

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from store_desk import digests, record, save, sql

from lb_probe.ports import Span, StoreError
from lb_probe.store import history
from lb_probe.store.sqlite import SqliteStore, read_history


async def test_history_is_newest_last_by_group_and_limited(store: SqliteStore) -> None:
    for number in range(6):
        await store.note(record(number, group="ab"[number % 2], kind="note", n=number))
    assert [r.generation for r in await store.history()] == [0, 1, 2, 3, 4, 5]
    assert [r.generation for r in await store.history(limit=2)] == [4, 5]
    assert [r.generation for r in await store.history("b", limit=2)] == [3, 5]
    assert await store.history("c") == []
    assert await store.history(limit=0) == []
    assert (await store.history("a"))[0] == record(0, group="a", kind="note", n=0)


async def test_what_is_behind_a_number_comes_oldest_first_with_how_far_was_looked(
    store: SqliteStore,
) -> None:
    wanted = frozenset({"hold"})
    assert await store.after(0, wanted, 10) == ([], 0)
    for number in range(6):
        await store.note(record(number, kind=("hold", "note")[number % 2]))
    found, seen = await store.after(1, wanted, 10)
    assert ([r.number for r in found], seen) == ([3, 5], 6)
    found, seen = await store.after(0, wanted, 2)  # there may be more
    assert ([r.number for r in found], seen) == ([1, 3], 3)
    assert await store.after(9, wanted, 10) == ([], 9)


async def test_history_beyond_the_newest_hundred_thousand_goes_now_and_then(path: Path) -> None:
    line = "INSERT INTO history VALUES ({}, 1767221000.5, 'g', 'note', 0, '{{}}')"
    sql(path, *(line.format(number) for number in (5, 101_000, 101_001, 200_998)))
    async with await SqliteStore.open(path) as store:
        await store.note(record(0, kind="note"))
        assert len(await store.history()) == 5
        await save(store, 1)  # line 201,000
        assert len(await store.history()) == 4
    with contextlib.closing(sqlite3.connect(path)) as db:
        ids = [row[0] for row in db.execute("SELECT id FROM history ORDER BY id")]
    assert ids == [101_001, 200_998, 200_999, 201_000]


def old(number: int, days: float, kind: str) -> str:
    at = 1_767_222_000.25 - days * 86_400
    return f"INSERT INTO history VALUES ({number}, {at}, 'g', '{kind}', 0, '{{}}')"


async def test_what_was_seen_goes_after_30_days_and_what_was_done_stays(path: Path) -> None:
    ages = (29.0, 30.1, 399.0, 401.0)
    lines = [
        old(n, age, kind)
        for n, (age, kind) in enumerate(
            ((age, kind) for age in ages for kind in ("observation", "condition", "resume")), 1
        )
    ]
    sql(path, *lines, old(199, 0.0, "condition"))
    async with await SqliteStore.open(path) as store:
        await store.note_all([record(0, kind="watching")])  # line 200
        kept = [r.kind for r in await store.history()]
    assert kept == [
        *("observation", "condition", "resume"),
        *("resume",) * 3,
        *("condition", "watching"),
    ]


async def test_what_was_done_goes_only_when_it_is_old_and_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEEP_CHANGES", 2)
    ages = (500.0, 450.0, 399.0, 1.0)
    sql(path, *(old(n, age, "resume") for n, age in enumerate(ages, 1)), old(99, 0, "condition"))
    async with await SqliteStore.open(path) as store:
        await store.note_all([record(0, kind="watching")])  # line 100
        kept = [r.number for r in await store.history()]
    assert kept == [3, 4, 99, 100]


async def test_one_look_at_the_oldest_lines_deletes_no_more_than_a_step(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PRUNE_STEP", 3)
    sql(path, *(old(n, 60.0, "condition") for n in range(1, 8)), old(99, 0, "condition"))
    async with await SqliteStore.open(path) as store:
        await store.note_all([record(0, kind="watching")])
        assert [r.number for r in await store.history()] == [4, 5, 6, 7, 99, 100]


async def test_many_lines_are_saved_all_or_none(store: SqliteStore) -> None:
    await store.note_all([record(n, kind="condition", n=n) for n in range(5)])
    assert [r.generation for r in await store.history()] == [0, 1, 2, 3, 4]
    assert [r.number for r in await store.history()] == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="Out of range float"):
        await store.note_all([record(7), record(8, n=float("nan"))])
    with pytest.raises(StoreError):
        await store.note_all([record(7), record(None)])  # type: ignore[arg-type]
    assert len(await store.history()) == 5


async def test_a_span_of_history_is_what_was_asked_for(store: SqliteStore) -> None:
    kinds = ("observation", "condition", "failover", "watching", "began", "started")
    for n, kind in enumerate(kinds):
        group = "" if kind in ("watching", "started") else "ab"[n % 2]
        await store.note(replace(record(n, group, kind), at_wall=100.0 * n))

    async def kinds_of(group: str | None = None, **span: object) -> list[str]:
        return [r.kind for r in await store.history(group, 100, Span(**span))]  # type: ignore[arg-type]

    assert await kinds_of() == ["condition", "failover", "started"]
    assert await kinds_of(everything=True) == list(kinds)
    assert await kinds_of("a") == ["failover", "started"]
    assert await kinds_of(since=200.0) == ["failover", "started"]
    assert await kinds_of(before=4, everything=True) == list(kinds[:3])


async def test_history_is_read_from_the_file_without_changing_it(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await store.note_all([record(n, kind="condition") for n in range(3)])
        running = read_history(path)  # beside a prober
    before, names = digests(path), sorted(path.parent.iterdir())
    assert read_history(path) == running
    assert [r.generation for r in running] == [0, 1, 2]
    assert (digests(path), sorted(path.parent.iterdir())) == (before, names)
    assert [r.generation for r in read_history(path, "other", 5, Span())] == []
    sql(path, "UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    with pytest.raises(StoreError, match="written by a newer lb-probe"):
        read_history(path)
    with pytest.raises(StoreError, match="no such file"):
        read_history(path.with_name("gone.db"))
