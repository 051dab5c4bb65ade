"""What is saved of a group comes back exactly, or is refused before anything is touched."""

import asyncio
import contextlib
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_desk import SAVED, digests, open_and_load, record, save

from lb_probe.core.model import Change, Hold, Role, Saved
from lb_probe.ports import Conflict, Record, StoreError
from lb_probe.store.sqlite import SqliteStore, init


async def test_a_new_store_is_empty(store: SqliteStore) -> None:
    assert await store.load() == {}
    assert await store.history() == []


async def test_a_commit_is_there_after_closing_and_opening_again(filled: Path) -> None:
    assert await open_and_load(filled) == {"epmm": replace(SAVED, confirmed={"edge-1": 1})}


words = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
saved_values = st.builds(
    Saved,
    assigned=words,
    latched=st.booleans(),
    hold=st.none() | st.builds(Hold, words, words, numbers, st.booleans()),
    roles=st.none() | st.dictionaries(words, st.sampled_from(Role), max_size=3),
    acked=st.none() | words,
    generation=st.just(1),
    last_change=st.none()
    | st.builds(
        Change,
        kind=words,
        source=st.none() | words,
        target=st.none() | words,
        at_wall=numbers,
        actor=words,
        reason=words,
        evidence=st.lists(words, max_size=3).map(tuple),
        notes=st.dictionaries(words, words, max_size=3),
    ),
    confirmed=st.dictionaries(words, st.integers(0, 1), max_size=3),
    fingerprint=words,
) | st.just(Saved(generation=1))
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(name=words, saved=saved_values, details=st.dictionaries(words, plain_json, max_size=3))
def test_what_is_saved_comes_back_exactly(
    name: str, saved: Saved, details: dict[str, object]
) -> None:
    async def there_and_back(path: Path) -> None:
        written = Record(name, "failover", 5.5, 1, details)
        async with await SqliteStore.open(path) as store:
            await store.commit(name, saved, expect=0, record=written)
            for adapter, generation in saved.confirmed.items():
                await store.confirm(name, adapter, generation)
        async with await SqliteStore.open(path) as store:
            assert await store.load() == {name: saved}
            assert await store.history(name) == [written]

    with tempfile.TemporaryDirectory() as folder:
        init(Path(folder, "state.db"))
        asyncio.run(there_and_back(Path(folder, "state.db")))


async def test_a_commit_planned_for_another_generation_is_a_conflict(store: SqliteStore) -> None:
    await save(store, 1)
    await save(store, 2)
    before = await store.load()
    with pytest.raises(Conflict, match="epmm is at generation 2, wanted 1") as caught:
        await save(store, 2)
    assert caught.value.generation == 2
    with pytest.raises(Conflict, match="other is at generation 0, wanted 4") as caught:
        await save(store, 5, "other")
    assert caught.value.generation == 0
    assert await store.load() == before
    assert [r.generation for r in await store.history()] == [1, 2]


async def test_of_many_commits_at_once_exactly_one_wins(store: SqliteStore) -> None:
    results = await asyncio.gather(*(save(store, 1) for _ in range(20)), return_exceptions=True)
    assert sum(r is None for r in results) == 1
    assert sum(isinstance(r, Conflict) for r in results) == 19
    assert len(await store.history()) == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        replace(SAVED, generation=2),
        replace(SAVED, generation=0),
        replace(SAVED, assigned=None),
        replace(SAVED, hold=Hold("ops", "for ever", float("inf"))),
        replace(SAVED, fingerprint="\ud800"),
        replace(SAVED, roles={"epmm-a": "primary"}),
        replace(SAVED, latched=2),
    ],
)
async def test_a_value_that_makes_no_sense_is_refused_before_anything_is_touched(
    store: SqliteStore, nonsense: Saved
) -> None:
    with pytest.raises((ValueError, TypeError)):
        await store.commit("epmm", nonsense, expect=0, record=record(1))
    with pytest.raises((ValueError, TypeError)):
        await store.commit("epmm", SAVED, expect=0, record=record(1, detail={1, 2}))
    assert await store.load() == {}
    assert await store.history() == []
    await save(store, 1)


async def test_a_commit_keeps_confirmations_and_brings_none(store: SqliteStore) -> None:
    await save(store, 1)
    await store.confirm("epmm", "edge-1", 1)
    stale = replace(SAVED, generation=2, confirmed={"edge-1": 0, "edge-2": 2})
    await store.commit("epmm", stale, expect=1, record=record(2))
    assert (await store.load())["epmm"].confirmed == {"edge-1": 1}


async def test_a_confirmation_never_goes_back(store: SqliteStore) -> None:
    for generation in (1, 2, 3):
        await save(store, generation)
    for generation in (2, 3, 1):
        await store.confirm("epmm", "edge-1", generation)
    assert (await store.load())["epmm"].confirmed == {"edge-1": 3}


async def test_only_what_was_saved_can_be_confirmed(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="nothing is saved for group epmm"):
        await store.confirm("epmm", "edge-1", 1)
    await save(store, 1)
    with pytest.raises(ValueError, match="edge-1 cannot confirm 2: epmm is at 1"):
        await store.confirm("epmm", "edge-1", 2)
    assert (await store.load())["epmm"].confirmed == {}


async def test_a_renamed_group_takes_everything_along(filled: Path) -> None:
    async with await SqliteStore.open(filled) as store:
        await save(store, 1, "sentry")
        await store.rename("epmm", "core")
    async with await SqliteStore.open(filled) as store:
        groups = await store.load()
        assert groups["core"] == replace(SAVED, confirmed={"edge-1": 1})
        assert sorted(groups) == ["core", "sentry"]
        assert [r.group for r in await store.history()] == ["core", "sentry"]
        await save(store, 2, "core")


async def test_a_rename_needs_an_old_name_that_is_saved_and_a_new_one_that_is_not(
    store: SqliteStore,
) -> None:
    await save(store, 1, "old")
    await save(store, 1, "new")
    before = await store.load()
    with pytest.raises(StoreError, match="new is saved already"):
        await store.rename("old", "new")
    with pytest.raises(StoreError, match="nothing is saved for group gone"):
        await store.rename("gone", "fresh")
    assert await store.load() == before


async def test_every_commit_is_synced_in_wal_mode(store: SqliteStore) -> None:
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    found = [
        await store._call(lambda db, p=pragma: db.execute(f"PRAGMA {p}").fetchone()[0])
        for pragma in pragmas
    ]
    assert found == ["wal", 2, 1, 1000]


async def test_a_test_write_really_writes(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        wal = Path(f"{path}-wal")
        before = digests(wal)
        await store.test_write()
        assert digests(wal) != before
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT times FROM tested").fetchone() == (2,)


async def test_the_schema_itself_refuses_a_generation_that_shrinks(filled: Path) -> None:
    with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as db:
        for statement in (
            "UPDATE groups SET generation = 0",
            "UPDATE groups SET generation = -1",
            "UPDATE groups SET latched = 2",
            "UPDATE groups SET assigned = NULL",
            "UPDATE groups SET hold = 'no json'",
            "UPDATE confirmed SET generation = 0",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(statement)
