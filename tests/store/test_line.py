"""Changes that wait in line: they share a transaction, and each is told of its own."""

import asyncio
import contextlib
import random
import signal
import sqlite3
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_desk import child, save, take_away

from lb_probe.ports import Conflict, StoreError
from lb_probe.store.sqlite import SqliteStore


@contextlib.contextmanager
def held_up(path: Path) -> Iterator[None]:
    """Hold up the store's thread, so that what is asked of it meanwhile stands in line."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture
async def transactions(store: SqliteStore) -> list[str]:
    """What begins and what is saved, as SQLite is told."""
    told: list[str] = []

    def tell(statement: str) -> None:
        if statement.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT"):
            told.append(statement)

    await store._call(lambda db: db.set_trace_callback(tell))
    return told


async def in_line(*calls: Coroutine[Any, Any, None]) -> list[asyncio.Future[None]]:
    waiting = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return waiting


async def test_changes_that_wait_together_share_transactions(
    store: SqliteStore, transactions: list[str]
) -> None:
    groups = [f"group-{n:03}" for n in range(200)]
    with held_up(store.path):
        waiting = await in_line(*(save(store, 1, name) for name in groups))
        await asyncio.sleep(0.1)
        assert not any(one.done() for one in waiting)
    await asyncio.gather(*waiting)
    assert transactions.count("COMMIT") <= 10
    assert "SAVEPOINT change" not in transactions
    assert [r.group for r in await store.history(limit=1000)] == groups
    assert sorted(await store.load()) == groups


async def test_nobody_hears_of_a_change_before_the_transaction_is_saved(
    store: SqliteStore,
) -> None:
    seen: list[int] = []
    with contextlib.closing(sqlite3.connect(store.path)) as other:

        def look(_: object) -> None:  # in the moment at which each one is told
            seen.append(other.execute("SELECT count(*) FROM groups").fetchone()[0])

        with held_up(store.path):
            waiting = await in_line(*(save(store, 1, f"group-{n}") for n in range(20)))
            for one in waiting:
                one.add_done_callback(look)
        await asyncio.gather(*waiting)
    assert len(seen) == 20
    assert all(count > place for place, count in enumerate(seen))


async def test_conflict_of_one_group_is_none_of_the_others(
    store: SqliteStore, transactions: list[str]
) -> None:
    await save(store, 1, "stale")
    await save(store, 2, "stale")
    with held_up(store.path):
        calls = [save(store, 1, "one"), save(store, 2, "stale"), save(store, 1, "two")]
        waiting = await in_line(*calls, store.confirm("nobody", "edge", 1), save(store, 1, "three"))
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in found] == [
        type(None),
        Conflict,
        type(None),
        StoreError,
        type(None),
    ]
    assert isinstance(found[1], Conflict)
    assert found[1].generation == 2
    assert {name: s.generation for name, s in (await store.load()).items()} == {
        "one": 1,
        "stale": 2,
        "three": 1,
        "two": 1,
    }
    history = [(r.group, r.generation) for r in await store.history()]
    assert history == [("stale", 1), ("stale", 2), ("one", 1), ("two", 1), ("three", 1)]
    assert "SAVEPOINT change" in transactions


async def test_changes_of_one_group_are_made_in_the_order_they_were_asked_for(
    store: SqliteStore,
) -> None:
    with held_up(store.path):
        calls = [c for n in (1, 2, 3) for c in (save(store, n), store.confirm("epmm", "edge", n))]
        waiting = await in_line(*calls)
    await asyncio.gather(*waiting)
    assert (await store.load())["epmm"].confirmed == {"edge": 3}
    assert [r.generation for r in await store.history()] == [1, 2, 3]


async def test_reading_between_changes_sees_those_before_it_and_none_after(
    store: SqliteStore,
) -> None:
    with held_up(store.path):
        first = await in_line(save(store, 1, "before"))
        reading = asyncio.ensure_future(store.load())
        await asyncio.sleep(0)
        last = await in_line(save(store, 1, "after"))
    assert sorted(await reading) == ["before"]
    await asyncio.gather(*first, *last)
    assert sorted(await store.load()) == ["after", "before"]


async def test_store_that_fails_fails_each_change_by_itself(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        with held_up(store.path):
            waiting = await in_line(*(save(store, 1, f"group-{n}") for n in range(5)))
            take_away(path, replaced=True)
            found = await asyncio.gather(*waiting, return_exceptions=True)
        # The first may have begun before: it waited a second for the lock in vain.
        assert all(isinstance(one, StoreError) for one in found)
        assert len({id(one) for one in found}) == 5
        assert await store.load() == {}


async def test_change_that_breaks_off_half_way_is_undone_and_the_others_are_made(
    store: SqliteStore,
) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute("UPDATE tested SET times = -1")
        raise sqlite3.OperationalError("database or disk is full")

    with held_up(store.path):
        waiting = await in_line(save(store, 1, "one"), store._change(half), save(store, 1, "two"))
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in found] == [type(None), StoreError, type(None)]
    assert sorted(await store.load()) == ["one", "two"]
    (times,) = await store._call(lambda db: db.execute("SELECT times FROM tested").fetchone())
    assert times > 0


async def test_change_that_cannot_be_undone_alone_takes_all_back(store: SqliteStore) -> None:
    """Half a change must not be saved along with whole ones."""

    def break_off(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")  # as SQLite does by itself when a disk is full
        raise sqlite3.OperationalError("database or disk is full")

    with held_up(store.path):
        broken = store._change(break_off)
        waiting = await in_line(save(store, 1, "one"), broken, save(store, 1, "two"))
        # The first has begun alone or not; the other two are in line behind it.
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[1], StoreError)
    saved = await store.load()
    assert [name for name, one in zip(("one", "x", "two"), found, strict=True) if one is None] == [
        name for name in ("one", "two") if name in saved
    ]
    assert [r.group for r in await store.history()] == list(saved)
    await save(store, 1, "later")


COMMIT_MANY_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from lb_probe.core.model import Saved
from lb_probe.ports import Record
from lb_probe.store.sqlite import SqliteStore
async def main():
    async with await SqliteStore.open(Path(sys.argv[1])) as store:
        saved = await store.load()
        async def change(group):
            last = saved[group].generation if group in saved else 0
            while True:
                record = Record(group, "hold", 1.5, last + 1)
                await store.commit(
                    group, Saved("a", generation=last + 1), expect=last, record=record
                )
                last += 1
                print(group, last, flush=True)
        await asyncio.gather(*(change(f"group-{n}") for n in range(100)))
asyncio.run(main())
"""


@pytest.mark.timeout(240)
async def test_whatever_many_commits_returned_for_survives_kill_9(path: Path) -> None:
    for _ in range(4):
        last: dict[str, int] = {}
        with child(COMMIT_MANY_FOR_EVER, path) as prober:
            for _ in range(random.randint(1, 2000)):
                prober.stdout.readline()
            prober.send_signal(signal.SIGKILL)
            for line in prober.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):
                    group, generation = line.split()
                    last[group] = int(generation)
        async with await SqliteStore.open(path) as store:
            saved = await store.load()
            newest = {r.group: r.generation for r in await store.history(limit=10**6)}
        for group, generation in last.items():
            assert saved[group].generation in (generation, generation + 1)
        assert newest == {group: one.generation for group, one in saved.items()}
