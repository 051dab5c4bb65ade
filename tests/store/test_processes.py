"""The store beside other processes: locked, killed, on a disk without room."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_desk import CHILD_ENV, child, open_and_load, save

from lb_probe.ports import StoreError
from lb_probe.store.sqlite import SqliteStore

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
