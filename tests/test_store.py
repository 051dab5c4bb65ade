"""The SQLite store: on real files, with real processes, killed, damaged, locked and full."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lb_probe
from lb_probe.core.model import Change, Hold, Role, Saved
from lb_probe.ports import Conflict, Record, Span, StoreError
from lb_probe.store import file, groups, history, place
from lb_probe.store.place import filesystem_of
from lb_probe.store.sqlite import SqliteStore, backup, init, read_history

CHILD_ENV = {**os.environ, "PYTHONPATH": str(Path(lb_probe.__file__).parents[1])}
SAVED = Saved(
    assigned="epmm-b",
    latched=True,
    hold=Hold(by="ops", reason="patch", until_wall=1_767_225_600.5, hands_off=True),
    roles={"epmm-a": Role.SECONDARY, "epmm-b": Role.PRIMARY},
    acked="kim",
    generation=1,
    last_change=Change(
        kind="failover",
        source="epmm-a",
        target="epmm-b",
        at_wall=1_767_222_000.25,
        actor="automation",
        reason="the Primary failed",
        rule="P9",
        condition="failing-over",
        evidence=("status: refused", "hastatus: Standby"),
        notes={"synced": "Completed 10:42Z"},
    ),
    fingerprint="f00d",
)


def record(
    generation: int, group: str = "epmm", kind: str = "failover", **details: object
) -> Record:
    return Record(group, kind, 1_767_222_000.25, generation, details)


async def save(store: SqliteStore, generation: int, group: str = "epmm") -> None:
    saved = replace(SAVED, generation=generation)
    await store.commit(group, saved, expect=generation - 1, record=record(generation, group))


async def open_and_load(path: Path) -> dict[str, Saved]:
    async with await SqliteStore.open(path) as store:
        return dict(await store.load())


def digests(path: Path) -> dict[str, str]:
    """Hash the store and its -wal: what a refusal must leave as it was."""
    files = (path, Path(f"{path}-wal"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.exists()}


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def spoil(path: Path, damage: Callable[[bytes], bytes]) -> bytes:
    """Rewrite a file; return what it was."""
    content = path.read_bytes()
    path.write_bytes(damage(content))
    return content


def sql(path: Path, *statements: str) -> None:
    """Change the file behind the store's back; its own CHECKs do not hold us."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            db.execute(statement)


async def eventually(is_so: Callable[[], bool], deadline_s: float = 20) -> None:
    end = time.monotonic() + deadline_s
    while not is_so():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.005)


@contextlib.contextmanager
def child(code: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in another process; it is gone afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env=CHILD_ENV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "state.db"
    init(made)
    return made


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(path) as opened:
        yield opened


@pytest.fixture
async def filled(path: Path) -> Path:
    async with await SqliteStore.open(path) as opened:
        await save(opened, 1)
        await opened.confirm("epmm", "edge-1", 1)
    return path


# ------------------------------------------------------------------ init
def test_init_makes_one_private_file_and_nothing_beside_it(path: Path) -> None:
    assert [f.name for f in path.parent.iterdir()] == ["state.db"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("there", ["state.db", "state.db-wal", "state.db-journal"])
def test_init_never_overwrites_what_is_there(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(StoreError, match=f"{there} already exists"):
        init(tmp_path / "state.db")
    assert [f.name for f in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_init_wants_its_folder_to_exist(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no folder .*/missing; make it"):
        init(tmp_path / "missing" / "state.db")


def test_init_that_fails_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "SCHEMA", (*file.SCHEMA[:3], "CREATE NONSENSE"))
    with pytest.raises(StoreError):
        init(tmp_path / "state.db")
    assert list(tmp_path.iterdir()) == []


def test_a_new_store_is_synced_before_and_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def listen(fd: int) -> None:
        named = (tmp_path / "state.db").exists()
        synced.append((Path(f"/proc/self/fd/{fd}").readlink().suffix, named))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", listen)
    init(tmp_path / "state.db")
    assert synced == [(".new", False), (tmp_path.suffix, True)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 4321, 4321)
    init(tmp_path / "state.db")
    async with await SqliteStore.open(tmp_path / "state.db") as opened:
        await opened.test_write()
        files = ["state.db", "state.db-shm", "state.db-wal", "state.db.lock"]
        assert names(tmp_path) == files
        assert {(tmp_path / file).stat().st_uid for file in files} == {4321}


async def test_each_new_store_has_its_own_id_and_keeps_it(path: Path, tmp_path: Path) -> None:
    init(tmp_path / "other.db")
    ids = []
    for one in (path, path, tmp_path / "other.db"):
        async with await SqliteStore.open(one) as opened:
            ids.append(opened.id)
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 32


# ------------------------------------------------------------------ save and read
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


# ------------------------------------------------------------------ what is refused at open
async def test_a_missing_store_points_to_init(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such file.*lb-probe init"):
        await SqliteStore.open(tmp_path / "state.db")
    with pytest.raises(StoreError, match="there is no folder"):
        await SqliteStore.open(tmp_path / "missing" / "state.db")
    assert names(tmp_path) == []


async def test_a_folder_or_a_device_is_not_a_store(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for found in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StoreError, match="not a regular file"):
            await SqliteStore.open(found)


def truncate(keep: Callable[[int], int]) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: keep(len(whole))]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda _: b"", "it is empty"),
        (lambda _: b"groups: []\n" * 1000, "not an SQLite file"),
        (lambda whole: b"\0" * len(whole), "not an SQLite file"),
        (lambda whole: whole[:16] + b"\xff" * (len(whole) - 16), "damaged"),
        (lambda whole: whole[:4096] + b"\xff" * (len(whole) - 4096), "damaged"),
        (truncate(lambda size: size // 2), "damaged"),
        (truncate(lambda size: size - 4096), "damaged"),
        (truncate(lambda _: 50), "damaged"),
    ],
    ids=["empty", "text", "zeros", "head only", "page 1 only", "half", "a page less", "a stump"],
)
async def test_a_damaged_file_is_refused_and_left_as_it_was(
    filled: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    spoil(filled, damage)
    before = digests(filled)
    with pytest.raises(StoreError, match=f"{says}.*backup"):
        await SqliteStore.open(filled)
    after = digests(filled)
    assert after["state.db"] == before["state.db"]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE groups SET hold = '{\"by\": '", "group 'epmm': Expecting value"),
        ("UPDATE groups SET hold = '{}'", "hold"),
        ("UPDATE groups SET last_change = '[1]'", "last_change"),
        ('UPDATE groups SET roles = \'{"epmm-a": "boss"}\'', "'primary' or 'secondary'"),
        ("UPDATE groups SET generation = 'many'", "generation"),
        ("UPDATE groups SET assigned = NULL", "latched and assigned to nobody"),
        ("UPDATE groups SET assigned = 7", "checksum"),
        ("UPDATE groups SET assigned = x'00ff'", "damaged"),
        ("UPDATE groups SET assigned = 'epmm-a'", "checksum"),
        ("UPDATE groups SET latched = 0", "checksum"),
        ("UPDATE groups SET name = 'epmn'", "damaged"),
        ("UPDATE groups SET generation = 2", "checksum"),
        ("UPDATE groups SET latched = 2", "checksum"),
        ("UPDATE confirmed SET generation = 9", "never saved"),
        ("DROP TRIGGER confirmed_grows; UPDATE confirmed SET generation = -1", "never saved"),
        ("DROP TRIGGER generation_grows; UPDATE groups SET generation = -1", "generation is -1"),
        ("UPDATE history SET details = '{'", "a line of history is not JSON"),
        ("DELETE FROM groups", "belongs to no group"),
        ("DROP TABLE history", "no such table: history"),
        ("UPDATE groups SET acked = CAST(x'ff' AS TEXT)", "UTF-8"),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = CAST(x'43ff' AS TEXT)",
            "damaged.*(utf-8|malformed)",
        ),
        ("DROP TABLE groups", "damaged|not laid out"),
        ("DELETE FROM meta", "without the schema_version"),
        ("DELETE FROM meta WHERE key = 'store_id'", "without the store_id"),
        (
            "UPDATE meta SET value = 'new' WHERE key = 'schema_version'",
            "without the schema_version",
        ),
        ("DROP TABLE meta", "without the schema_version"),
        ("UPDATE meta SET value = '2' WHERE key = 'schema_version'", "newer lb-probe.*upgrade"),
        ("UPDATE meta SET value = '0' WHERE key = 'schema_version'", "release in between"),
    ],
)
async def test_a_store_whose_content_makes_no_sense_is_refused_and_left_as_it_was(
    filled: Path, statement: str, says: str
) -> None:
    sql(filled, *statement.split("; "))
    before = digests(filled)
    with pytest.raises(StoreError, match=says):
        await SqliteStore.open(filled)
    assert digests(filled)["state.db"] == before["state.db"]


@settings(deadline=None, max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing_that_is_saved(
    place: float, flip: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.db")
        init(path)

        async def fill() -> None:
            async with await SqliteStore.open(path) as store:
                await save(store, 1)
                await save(store, 1, "sentry")

        asyncio.run(fill())
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= flip
        path.write_bytes(content)
        try:
            assert asyncio.run(open_and_load(path)) == {"epmm": SAVED, "sentry": SAVED}
        except StoreError:
            assert path.read_bytes() == content


def copy_as_after_a_crash(source: Path, target: Path) -> None:
    # Another process copies: a file closed in this one would drop SQLite's locks on it.
    for suffix in ("", "-wal"):
        subprocess.run(["cp", f"{source}{suffix}", f"{target}{suffix}"], check=True)


async def test_a_store_damaged_after_a_crash_keeps_its_log_for_study(
    filled: Path, tmp_path: Path
) -> None:
    crashed = tmp_path / "crashed.db"
    async with await SqliteStore.open(filled) as store:
        await save(store, 2)
        copy_as_after_a_crash(filled, crashed)
    whole = tmp_path / "whole.db"
    copy_as_after_a_crash(crashed, whole)
    assert (await open_and_load(whole))["epmm"].generation == 2

    spoil(crashed, lambda content: content[:100] + b"\xff" * (len(content) - 100))
    before = digests(crashed)
    with pytest.raises(StoreError, match="damaged"):
        await SqliteStore.open(crashed)
    assert len(before) == 2
    assert digests(crashed) == before


@contextlib.contextmanager
def frozen(place: Path) -> Iterator[None]:
    """Make a file or folder read-only, also for root, whom mode bits do not stop."""
    if os.geteuid() != 0:
        mode = place.stat().st_mode
        place.chmod(mode & ~0o222)
        try:
            yield
        finally:
            place.chmod(mode)
        return
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, "+i", place], capture_output=True).returncode:
        pytest.skip("no chattr +i here, and mode bits do not stop root")
    try:
        yield
    finally:
        subprocess.run([chattr, "-i", place], check=True)


@pytest.mark.parametrize("part", ["file", "folder", "folder with a lock file"])
async def test_a_read_only_store_is_refused_and_left_as_it_was(
    tmp_path: Path, filled: Path, part: str
) -> None:
    if part == "folder":
        filled.with_name("state.db.lock").unlink()
    before = digests(filled)
    wanted = pytest.raises(StoreError, match="write access to the file and its folder")
    with frozen(filled if part == "file" else tmp_path), wanted:
        await SqliteStore.open(filled)
    assert digests(filled)["state.db"] == before["state.db"]
    assert await open_and_load(filled) == {"epmm": replace(SAVED, confirmed={"edge-1": 1})}


def test_init_in_a_folder_that_takes_no_files_says_so(tmp_path: Path) -> None:
    with (
        frozen(tmp_path),
        pytest.raises(StoreError, match="write access to the file and its folder"),
    ):
        init(tmp_path / "state.db")
    with pytest.raises(StoreError, match=r"/proc/state\.db"):
        init(Path("/proc/state.db"))


MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:40 / /srv rw,relatime shared:9 master:2 - nfs4 nas:/srv rw,vers=4.2
41 40 0:41 / /srv/local rw - xfs /dev/vdb rw
42 27 0:42 / /mnt/two\040words rw - fuse.sshfs me@far:/ rw
43 27 0:43 / /auto rw - autofs systemd-1 rw
44 43 0:44 / /auto rw - cifs //nas/share rw
garbage
45 27 0:45 / /short"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/lb-probe", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/state", "nfs4"),
        ("/srvother", "ext4"),
        ("/srv/local/state", "xfs"),
        ("/mnt/two words/state", "fuse.sshfs"),
        ("/auto/state", "cifs"),
        ("/short", "ext4"),
    ],
)
def test_the_longest_mount_point_names_the_file_system(folder: str, kind: str) -> None:
    assert filesystem_of(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"])
async def test_a_network_file_system_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:9 / {tmp_path} rw - {kind} x rw\n"
    )
    monkeypatch.setattr(place, "MOUNTINFO", mounts)
    with pytest.raises(StoreError, match=rf"network file system \({kind}\).*local disk"):
        await SqliteStore.open(path)
    with pytest.raises(StoreError, match=rf"network file system \({kind}\)"):
        init(tmp_path / "new.db")
    mounts.unlink()  # not Linux: nothing can be said
    assert await open_and_load(path) == {}


# ------------------------------------------------------------------ migration
def make_version_0(path: Path) -> None:
    path.touch(0o600)
    sql(
        path,
        "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
        "INSERT INTO meta VALUES ('schema_version', '0')",
        f"INSERT INTO meta VALUES ('store_id', '{'0a' * 16}')",
        "CREATE TABLE places (name TEXT PRIMARY KEY, node TEXT, generation INTEGER)",
        "INSERT INTO places VALUES ('epmm', 'epmm-a', 7)",
    )


def from_0_to_1(db: sqlite3.Connection) -> None:
    for statement in file.SCHEMA[1:]:
        db.execute(statement)
    for name, node, generation in db.execute("SELECT * FROM places").fetchall():
        db.execute(groups.UPSERT, groups.to_row(name, Saved(node, generation=generation)))
    db.execute("DROP TABLE places")


async def test_an_older_store_is_migrated_after_a_copy_was_made(tmp_path: Path) -> None:
    path, copy = tmp_path / "state.db", tmp_path / "state.db.v0.bak"
    make_version_0(path)
    copy.write_text("from a try that was cut off")
    async with await SqliteStore.open(path, migrations={0: from_0_to_1}) as store:
        assert await store.load() == {"epmm": Saved("epmm-a", generation=7)}
        assert store.id == "0a" * 16
        await save(store, 8)
    assert (await open_and_load(path))["epmm"].generation == 8
    with contextlib.closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT * FROM places").fetchall() == [("epmm", "epmm-a", 7)]
        assert db.execute("SELECT value FROM meta").fetchone() == ("0",)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["state.db", "state.db.lock", "state.db.v0.bak"]


def fail_half_way(db: sqlite3.Connection) -> None:
    from_0_to_1(db)
    db.execute("INSERT INTO nowhere VALUES (1)")


def write_nonsense(db: sqlite3.Connection) -> None:
    from_0_to_1(db)
    db.execute("UPDATE groups SET assigned = 'epmm-b'")


@pytest.mark.parametrize(
    ("migration", "says"), [(fail_half_way, "no such table: nowhere"), (write_nonsense, "checksum")]
)
async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, migration: file.Migration, says: str
) -> None:
    path = tmp_path / "state.db"
    make_version_0(path)
    before = digests(path)
    with pytest.raises(StoreError, match=says):
        await SqliteStore.open(path, migrations={0: migration})
    assert digests(path) == before
    async with await SqliteStore.open(path, migrations={0: from_0_to_1}) as store:
        assert await store.load() == {"epmm": Saved("epmm-a", generation=7)}


async def test_a_migration_without_room_for_its_copy_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    make_version_0(path)
    (tmp_path / "state.db.v0.bak").mkdir()
    before = digests(path)
    with pytest.raises(StoreError, match=r"backup .*state.db.v0.bak"):
        await SqliteStore.open(path, migrations={0: from_0_to_1})
    assert digests(path) == before


# ------------------------------------------------------------------ several processes
HOLD_STORE = """
import asyncio, sys
from pathlib import Path
from lb_probe.store.sqlite import SqliteStore
async def main():
    async with await SqliteStore.open(Path(sys.argv[1])):
        print("open", flush=True)
        sys.stdin.readline()
asyncio.run(main())
"""
HOLD_LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
db.execute("ROLLBACK")
db.close()
print("free", flush=True)
"""


async def test_a_second_prober_is_told_the_pid_of_the_first(path: Path) -> None:
    with child(HOLD_STORE, path) as first:
        assert first.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=rf"in use by another prober \(pid {first.pid}\)"):
            await SqliteStore.open(path)
        first.kill()
        first.wait()
        assert await open_and_load(path) == {}


async def test_one_process_cannot_open_a_store_twice(store: SqliteStore) -> None:
    await save(store, 1)
    with pytest.raises(StoreError, match=rf"pid {os.getpid()}\b"):
        await SqliteStore.open(store.path)
    await save(store, 2)


async def test_a_lock_held_too_long_saves_nothing_and_later_calls_work(store: SqliteStore) -> None:
    await save(store, 1)
    with child(HOLD_LOCK, store.path) as other:
        assert other.stdout.readline() == "locked\n"
        waiting = asyncio.ensure_future(save(store, 2))
        turns = 0
        while not waiting.done():  # the loop goes on while the thread waits
            turns += 1
            await asyncio.wait({waiting}, timeout=0.01)
        assert turns > 2
        with pytest.raises(StoreError, match=r"held a lock on it for more than 1 s"):
            await waiting
        assert (await store.load())["epmm"].generation == 1
        print("go", file=other.stdin, flush=True)
        assert other.stdout.readline() == "free\n"
    await save(store, 2)
    assert [r.generation for r in await store.history()] == [1, 2]


COMMIT_FOR_EVER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from lb_probe.core.model import Change, Saved
from lb_probe.ports import Record
from lb_probe.store.sqlite import SqliteStore
async def main():
    async with await SqliteStore.open(Path(sys.argv[1])) as store:
        saved = (await store.load()).get("epmm", Saved("epmm-a"))
        while True:
            last = saved.generation
            change = Change("hold", None, None, 1.5, "ops", f"change {last + 1} " + "x" * 2000)
            saved = replace(saved, generation=last + 1, last_change=change)
            record = Record("epmm", "hold", 1.5, last + 1)
            await store.commit("epmm", saved, expect=last, record=record)
            print(last + 1, flush=True)
            await store.confirm("epmm", "edge-1", last + 1)
asyncio.run(main())
"""


@pytest.mark.timeout(240)
async def test_whatever_a_commit_returned_for_survives_kill_9(path: Path) -> None:
    last = 0
    for _ in range(10):
        with child(COMMIT_FOR_EVER, path) as prober:
            for _ in range(random.randint(1, 400)):
                last = int(prober.stdout.readline())
            prober.send_signal(signal.SIGKILL)
            rest = [line for line in prober.stdout.read().splitlines(keepends=True) if "\n" in line]
            last = int(rest[-1]) if rest else last
        async with await SqliteStore.open(path) as store:
            saved = (await store.load())["epmm"]
            newest = await store.history(limit=1)
        assert saved.generation in (last, last + 1)
        assert saved.last_change.reason.startswith(f"change {saved.generation} ")
        assert saved.generation - saved.confirmed["edge-1"] in (0, 1, 2)
        assert [r.generation for r in newest] == [saved.generation]


# ------------------------------------------------------------------ a disk without room
UNTIL_FULL = """
import asyncio, json, os, resource, sys
from dataclasses import replace
from pathlib import Path
from lb_probe.core.model import Saved
from lb_probe.ports import Record, StoreError
from lb_probe.store.sqlite import SqliteStore, init
async def main(path, shrink, grow):
    init(path)
    async with await SqliteStore.open(path) as store:
        async def save(generation):
            saved = Saved("epmm-a", fingerprint="x" * 3000, generation=generation)
            record = Record("epmm", "hold", 1.5, generation)
            await store.commit("epmm", saved, expect=generation - 1, record=record)
        await save(1)
        shrink()
        saved, said, tested = 1, "", ""
        while not said and saved < 5000:
            try:
                await save(saved + 1)
                saved += 1
            except StoreError as error:
                said = str(error)
        full = (await store.load())["epmm"].generation
        records = len(await store.history(limit=10000))
        grow()
        await save(saved + 1)
        again = (await store.load())["epmm"].generation
    async with await SqliteStore.open(path) as store:
        reopened = (await store.load())["epmm"].generation
    print(json.dumps([said, saved, full, records, again, reopened]))
"""
FILE_LIMIT = """
path = Path(sys.argv[1])
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
asyncio.run(main(path, lambda: limit(200_000), lambda: limit(resource.RLIM_INFINITY)))
"""
SMALL_DISK = """
path = Path(sys.argv[1], "state.db")
filler = path.with_name("filler")
def shrink():
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
asyncio.run(main(path, shrink, filler.unlink))
"""
MOUNT = 'mount -t tmpfs -o size=600k tmpfs "$0" || exit 77; exec "$@" "$0"'


def check_full(output: str, says: str) -> None:
    said, saved, full, records, again, reopened = json.loads(output)
    assert says in said
    assert saved == full == records
    assert saved + 1 == again == reopened


def test_a_file_that_may_not_grow_leaves_the_old_state_and_works_again_later(
    tmp_path: Path,
) -> None:
    with child(UNTIL_FULL + FILE_LIMIT, tmp_path / "state.db") as prober:
        output = prober.communicate(timeout=50)[0]
    check_full(output, "the disk refused to read or write it (disk I/O error)")


def test_a_full_disk_leaves_the_old_state_and_works_again_once_there_is_room(
    tmp_path: Path,
) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk of its own")
    run = [
        "unshare",
        "-m",
        "sh",
        "-c",
        MOUNT,
        tmp_path,
        sys.executable,
        "-c",
        UNTIL_FULL + SMALL_DISK,
    ]
    done = subprocess.run(run, env=CHILD_ENV, capture_output=True, text=True, timeout=50)
    if done.returncode == 77:
        pytest.skip("a small disk of its own cannot be mounted here")
    assert done.returncode == 0, done.stderr
    check_full(done.stdout, "the disk is full (database or disk is full); free some space")


# ------------------------------------------------------------------ many changes at once
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


# ------------------------------------------------------------------ cancel, lose, close, back up
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


def take_away(path: Path, replaced: bool) -> None:
    path.rename(path.with_name("moved.db"))
    if replaced:
        init(path.with_name("new.db"))
        path.with_name("new.db").rename(path)


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
