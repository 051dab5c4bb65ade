"""The file of a store: made on purpose, refused where it is damaged, migrated after a copy."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_desk import SAVED, digests, names, open_and_load, save, spoil, sql

from lb_probe.core.model import Saved
from lb_probe.ports import StoreError
from lb_probe.store import file, groups, place
from lb_probe.store.place import filesystem_of
from lb_probe.store.sqlite import SqliteStore, init


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
