"""What the tests of the store have in common: a state to save, files to spoil, other processes."""

import asyncio
import contextlib
import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import lb_probe
from lb_probe.core.model import Change, Hold, Role, Saved
from lb_probe.ports import Record
from lb_probe.store.sqlite import SqliteStore, init

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


def take_away(path: Path, replaced: bool) -> None:
    path.rename(path.with_name("moved.db"))
    if replaced:
        init(path.with_name("new.db"))
        path.with_name("new.db").rename(path)
