"""A map's file: written whole or not at all, and everything in it that is not ours stays."""

import asyncio
import fcntl
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_probe.adapters.haproxy import map_file
from lb_probe.adapters.haproxy.map_file import MapFile, with_entries
from lb_probe.adapters.haproxy.mending import Mending
from lb_probe.ports import PublishError

PATIENT_S = 20.0


def file_of(path: Path, text: str = "epmm a\nother x\n") -> MapFile:
    path.write_text(text)
    return MapFile(path, timeout_s=PATIENT_S)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"epmm b\n"),
        (b"epmm a\n", b"epmm b\n"),
        (b"epmm a", b"epmm b\n"),
        (b"other x", b"other x\nepmm b\n"),
        (b"# epmm a\n\n  epmm\ta  \nepmm2 a\n", b"# epmm a\n\nepmm b\nepmm2 a\n"),
        (b"epmm a\nother x\nepmm c\n", b"epmm b\nother x\n"),
        (b"epmm b\n", b"epmm b\n"),
        (b"  epmm   b  \n", b"  epmm   b  \n"),
        (b"epmm\n", b"epmm b\n"),
        (b"other \xff\xfe\r\nepmm a\r\n", b"other \xff\xfe\r\nepmm b\n"),
    ],
)
def test_line_of_the_key_is_replaced_or_appended_and_nothing_else(before, after):
    assert with_entries(before, {"epmm": "b"}) == after


lines = st.lists(st.sampled_from([b"", b"# x", b"epmm a", b" epmm  b ", b"k v", b"epmm-2 q"]))


@settings(deadline=None)
@given(lines=lines, end=st.sampled_from([b"", b"\n", b"\r\n"]))
def test_other_lines_stay_in_order_and_a_second_time_changes_nothing(lines, end):
    before = b"\n".join(lines) + end

    after = with_entries(before, {"epmm": "z"})

    def others(text: bytes) -> list[bytes]:
        return [x for x in text.splitlines() if x.split()[:1] != [b"epmm"]]

    assert others(after) == others(before)
    assert [x.split() for x in after.splitlines() if x.split()[:1] == [b"epmm"]] == [
        [b"epmm", b"z"]
    ]
    assert with_entries(after, {"epmm": "z"}) == after


async def test_same_entry_is_not_written_again(tmp_path):
    file = file_of(tmp_path / "m")
    before = file.path.stat()

    await file.put({"epmm": "a"})

    assert file.path.stat().st_ino == before.st_ino


async def test_symlink_is_followed_and_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "m"
    file_of(real)
    link = tmp_path / "link"
    link.symlink_to(real)

    await MapFile(link, timeout_s=PATIENT_S).put({"epmm": "b"})

    assert link.is_symlink()
    assert real.read_text() == "epmm b\nother x\n"


async def test_draft_that_a_killed_process_left_is_used_up(tmp_path):
    file = file_of(tmp_path / "m")
    (tmp_path / ".m.lb-probe").write_text("x" * 1000)

    await file.put({"epmm": "b"})

    assert file.path.read_text() == "epmm b\nother x\n"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("point", ["os.fsync", "os.write", "os.fchmod", "pathlib.Path.rename"])
async def test_failure_at_any_point_leaves_the_old_file(tmp_path, monkeypatch, point):
    file = file_of(tmp_path / "m")

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(point, fail)
    with pytest.raises(PublishError, match=r"No space left on device.*nothing was sent"):
        await file.put({"epmm": "b"})
    monkeypatch.undo()

    assert file.path.read_text() == "epmm a\nother x\n"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    await file.put({"epmm": "b"})
    assert file.path.read_text() == "epmm b\nother x\n"


async def test_sync_that_ended_and_has_not_been_noted_yet_holds_nobody_up(tmp_path):
    """Between the end of a sync and its callbacks others run; to wait for it would spin."""
    file = file_of(tmp_path / "m")
    await file.put({"epmm": "b"})
    ended = asyncio.get_running_loop().create_future()
    ended.set_result(None)
    file._syncing = ended
    async with asyncio.timeout(PATIENT_S):
        await file.kept()


class FolderSync:
    """`os.fsync`, but that of a folder fails or waits as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.count = 0
        self._real = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            self.count += 1
            self.goes_on.wait(20)
            if self.error is not None:
                raise self.error
        self._real(file)


async def test_new_file_is_read_by_a_start_before_it_outlasts_a_power_cut(tmp_path, monkeypatch):
    """HAProxy is told between the two: the disk is waited for twice, and a move only once."""
    file, folder = file_of(tmp_path / "m"), FolderSync(monkeypatch)
    folder.goes_on.clear()

    await file.put({"epmm": "b"})
    assert file.path.read_text() == "epmm b\nother x\n"
    waiting = [asyncio.create_task(file.kept()) for _ in range(5)]
    done, _ = await asyncio.wait(waiting, timeout=0.1)
    assert not done
    folder.goes_on.set()
    await asyncio.gather(*waiting)
    await file.kept()
    assert folder.count == 1


async def test_folder_that_cannot_be_synced_is_told_and_tried_again(tmp_path, monkeypatch):
    file, folder = file_of(tmp_path / "m"), FolderSync(monkeypatch)
    folder.error = OSError(5, "Input/output error")

    for _ in range(2):  # the second time nothing is written, and it is no more certain
        await file.put({"epmm": "b"})
        with pytest.raises(PublishError, match=r"Input/output error.*power cut"):
            await file.kept()
    folder.error = None
    await file.kept()

    folder.goes_on.clear()
    hurried = MapFile(file.path, timeout_s=0.1)
    await hurried.put({"epmm": "a"})
    with pytest.raises(PublishError, match=r"not within 0\.1s"):
        await hurried.kept()
    folder.goes_on.set()
    await hurried.kept()


async def test_sync_that_began_before_a_write_does_not_cover_it(tmp_path, monkeypatch):
    file, folder = file_of(tmp_path / "m"), FolderSync(monkeypatch)
    folder.goes_on.clear()
    await file.put({"epmm": "b"})
    first = asyncio.create_task(file.kept())
    await asyncio.wait([first], timeout=0.05)
    await file.put({"epmm": "c"})
    second = asyncio.create_task(file.kept())
    await asyncio.wait([second], timeout=0.05)
    folder.goes_on.set()
    await asyncio.gather(first, second)
    assert folder.count == 2


async def test_folder_that_may_not_be_written_names_user_and_folder(tmp_path, monkeypatch):
    file = file_of(tmp_path / "m")

    def refuse(*args: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(map_file, "_write_draft", refuse)  # root, who runs tests, may write all

    with pytest.raises(PublishError, match=rf"uid {os.geteuid()} must be able to write the folder"):
        await file.put({"epmm": "b"})


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo-like"])
async def test_what_is_no_file_is_told(tmp_path, kind):
    path = tmp_path / "m"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo-like":
        path.symlink_to("/dev/null")
    file = MapFile(path, timeout_s=PATIENT_S)

    with pytest.raises(PublishError, match="cannot be written"):
        await file.put({"epmm": "b"})
    assert "cannot be read" in file.look(1).problem


async def test_thousand_services_that_move_at_once_are_a_few_writes(tmp_path, monkeypatch):
    file = file_of(tmp_path / "m", "".join(f"g{i} a\n" for i in range(1000)))
    writes = []
    real = map_file._write
    monkeypatch.setattr(map_file, "_write", lambda *a: (writes.append(a), real(*a)))

    async def move(i: int) -> None:
        await file.put({f"g{i}": "b"})
        await file.kept()

    async with asyncio.timeout(PATIENT_S), asyncio.TaskGroup() as tasks:
        for i in range(1000):
            tasks.create_task(move(i))

    assert file.path.read_text() == "".join(f"g{i} b\n" for i in range(1000))
    assert len(writes) <= 3


async def test_caller_who_leaves_does_not_take_the_write_from_the_others(tmp_path):
    file = file_of(tmp_path / "m")
    tasks = [asyncio.create_task(file.put({f"g{i}": "b"})) for i in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()

    await asyncio.gather(*tasks, return_exceptions=True)

    assert {"g1 b", "g2 b"} <= set(file.path.read_text().splitlines())


async def test_write_that_hangs_costs_its_deadline_and_never_lands_on_a_later_one(
    tmp_path, monkeypatch
):
    file = file_of(tmp_path / "m")
    hurried = MapFile(file.path, timeout_s=0.2)
    real, release = map_file._write, threading.Event()

    def slow(*args: Any) -> None:
        release.wait(20)
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(map_file, "_write", slow)
        with pytest.raises(PublishError, match=r"not on disk within 0\.2s"):
            await hurried.put({"epmm": "old"})
    with pytest.raises(PublishError, match=r"not on disk within 0\.2s"):
        await hurried.put({"epmm": "new"})  # waits for the first, which may still write
    release.set()
    hurried._timeout_s = PATIENT_S
    await hurried.put({"epmm": "new"})

    assert file.path.read_text() == "epmm new\nother x\n"


async def test_folder_that_another_process_keeps_locked_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(map_file, "_LOCK_S", 0.05)
    file = file_of(tmp_path / "m")
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(PublishError, match="another process has kept its folder locked"):
            await file.put({"epmm": "b"})
    finally:
        os.close(handle)
    await file.put({"epmm": "b"})


async def test_file_is_read_again_only_where_it_changed(tmp_path, monkeypatch):
    file = file_of(tmp_path / "m", "# x\nepmm a\nepmm b\n other  x y \n")
    reads = []
    real = map_file._read
    monkeypatch.setattr(map_file, "_read", lambda p: reads.append(p) or real(p))

    views = [file.look(i // 2).values for i in range(10)]
    file.path.write_text("epmm new\n")
    assert file.look(4).values["epmm"] == "a"  # one answer for one occasion
    assert file.look(100).values["epmm"] == "new"

    assert views == [{"epmm": "a", "other": "x y"}] * 10
    assert len(reads) == 2


# ------------------------------------------------------------------ when it is written back
def test_file_is_written_back_only_after_it_was_told_and_while_that_is_allowed():
    mending = Mending()
    mending.allow(may=True)
    mending.differs = True
    assert not mending.is_due(0.0)  # nobody has heard of it
    mending.allow(may=True)
    assert mending.is_due(0.0)
    mending.allow(may=False)  # hands off, while it was to be written
    assert not mending.is_due(0.0)
    mending.allow(may=True)
    assert not mending.is_due(0.0)
    mending.allow(may=True)
    mending.note(0.0, "disk full")
    assert (mending.is_due(0.9), mending.is_due(1.0), mending.trouble) == (False, True, "disk full")
    for at in (1.0, 2.0, 3.0):
        mending.note(at)
    assert not mending.is_due(60.9)
    assert mending.trouble.startswith("written back 3 times within 60s")
    assert mending.is_due(61.0)
    mending.note(61.0)
    assert not mending.is_due(61.9)  # 2.0, 3.0 and 61.0
