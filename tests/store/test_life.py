"""The store from open to close: cancelled, taken away, closed, backed up."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from store_desk import SAVED, eventually, names, open_and_load, record, save, spoil, take_away

from lb_probe.ports import StoreError
from lb_probe.store.sqlite import SqliteStore, backup


async def test_a_cancelled_commit_is_whole_or_absent_and_the_next_call_tells(
    store: SqliteStore,
) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begun, queued = (asyncio.ensure_future(save(store, 1, name)) for name in ("begun", "queued"))
    await asyncio.sleep(0)  # both are in the thread's line
    await eventually(lambda: store._thread._work_queue.qsize() <= 1)
    begun.cancel()
    queued.cancel()
    for task in (begun, queued):
        with pytest.raises(asyncio.CancelledError):
            await task
    other.execute("ROLLBACK")
    other.close()
    groups = await store.load()
    assert "queued" not in groups
    assert [r.group for r in await store.history()] == list(groups)
    await save(store, 1, "later")


async def test_a_cancelled_open_lets_go_of_the_store(path: Path) -> None:
    opening = asyncio.ensure_future(SqliteStore.open(path))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await eventually(lambda: not any(t.name.startswith("store") for t in threading.enumerate()))
    assert await open_and_load(path) == {}


async def test_a_refused_open_lets_go_of_the_store_at_once(filled: Path) -> None:
    good = spoil(filled, lambda content: content[:5000])
    with pytest.raises(StoreError, match="damaged"):
        await SqliteStore.open(filled)
    spoil(filled, lambda _: good)
    assert sorted(await open_and_load(filled)) == ["epmm"]


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_store_taken_away_while_in_use_is_noticed(path: Path, replaced: bool) -> None:
    async with await SqliteStore.open(path) as store:
        await save(store, 1)
        take_away(path, replaced)
        for write in (store.test_write(), save(store, 2), store.note(record(1))):
            with pytest.raises(StoreError, match="removed or replaced while in use"):
                await write
        assert (await store.load())["epmm"].generation == 1


async def test_closing_folds_the_log_in_unlocks_and_ends_the_thread(path: Path) -> None:
    store = await SqliteStore.open(path)
    assert any(t.name.startswith("store") for t in threading.enumerate())
    last = asyncio.ensure_future(save(store, 1))
    await asyncio.sleep(0)
    await asyncio.gather(store.close(), store.close())
    await store.close()
    await last
    assert not any(t.name.startswith("store") for t in threading.enumerate())
    assert names(path.parent) == ["state.db", "state.db.lock"]
    for call in (store.load(), store.test_write(), save(store, 2)):
        with pytest.raises(StoreError, match="it is closed"):
            await call
    assert (await open_and_load(path))["epmm"].generation == 1


async def test_a_cancelled_close_closes_all_the_same(path: Path) -> None:
    store = await SqliteStore.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    commit = asyncio.ensure_future(save(store, 1))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())  # waits in line behind the commit
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    other.execute("ROLLBACK")
    other.close()
    await asyncio.gather(commit, return_exceptions=True)
    await store.close()
    assert await open_and_load(path) in ({}, {"epmm": SAVED})


async def test_a_backup_made_in_use_is_a_whole_store(store: SqliteStore, tmp_path: Path) -> None:
    await save(store, 1)
    await asyncio.gather(save(store, 2), store.backup(tmp_path / "by-prober.db"))
    backup(store.path, tmp_path / "from-outside.db")
    backup(tmp_path / "from-outside.db", tmp_path / "copy-of-a-copy.db")
    await save(store, 3)
    backups = ["by-prober.db", "copy-of-a-copy.db", "from-outside.db"]
    in_use = ["state.db", "state.db-shm", "state.db-wal", "state.db.lock"]
    assert names(tmp_path) == backups + in_use, "a backup is one plain file"
    for name in backups:
        copy = tmp_path / name
        assert copy.stat().st_mode & 0o777 == 0o600
        async with await SqliteStore.open(copy) as opened:
            assert (await opened.load())["epmm"].generation == 2
            assert len(await opened.history()) == 2
            assert opened.id == store.id
            await save(opened, 3)


async def test_a_backup_never_overwrites_and_leaves_no_half_copy(
    store: SqliteStore, tmp_path: Path
) -> None:
    target = tmp_path / "backup.db"
    target.write_text("precious")
    with pytest.raises(StoreError, match=r"backup .*already exists"):
        await store.backup(target)
    with pytest.raises(StoreError, match="already exists"):
        await store.backup(store.path)
    with pytest.raises(StoreError, match="there is no folder"):
        await store.backup(tmp_path / "missing" / "backup.db")
    with pytest.raises(StoreError, match="no such file"):
        backup(tmp_path / "missing.db", tmp_path / "other.db")
    assert target.read_text() == "precious"
    assert not [name for name in names(tmp_path) if name.startswith((".", "other"))]
    await save(store, 1)
