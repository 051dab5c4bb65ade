"""One run of an operator's program: what it says, how it ends, and that nothing is left of it."""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest

from lb_probe.agent import program


def sh(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


async def test_its_lines_come_while_it_runs_and_nothing_of_ours_is_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LB_PROBE_TOKEN", "secret")
    lines: list[str] = []
    told = asyncio.Event()

    def hear(line: str) -> None:
        lines.append(line)
        told.set()

    text = 'echo "one $ASKED ${LB_PROBE_TOKEN-none}"; cat; read x; echo two >&2; printf three'
    task = asyncio.ensure_future(
        program.run(sh(text), timeout_s=20, env={"ASKED": "yes"}, on_line=hear)
    )
    await asyncio.wait_for(told.wait(), 10)
    ended = await task
    assert lines == ["one yes none", "two", "three"]
    assert ended == program.Ended(0, tail=("one yes none", "two", "three"))
    assert ended.fault == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("exit 3", "exit status 3"),
        ("kill -TERM $$", "ended by signal 15"),
        ("kill -9 $$", "ended by signal 9"),
        ("exec sleep 60", "its time was over and it was ended"),
    ],
)
async def test_how_it_ended_is_told(text: str, fault: str) -> None:
    assert (await program.run(sh(text), timeout_s=0.5)).fault == fault


async def test_one_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await program.run([str(tmp_path / "none")], timeout_s=1)


async def test_one_whose_time_is_over_is_asked_to_end_first() -> None:
    text = 'trap "echo cleaned; exit 0" TERM; echo ready; while :; do sleep 0.02; done'
    ended = await program.run(sh(text), timeout_s=0.5, stop_s=10)
    assert ended.timed_out
    assert ended.tail == ("ready", "cleaned")


async def test_one_that_does_not_listen_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = f'trap "" TERM; sleep 60 & echo $! > {pids}; echo $$ >> {pids}; wait'
    ended = await program.run(sh(text), timeout_s=0.4, stop_s=0.2)
    assert ended.timed_out
    for pid in map(int, pids.read_text().split()):
        assert not _lives(pid)


async def test_what_it_leaves_in_its_group_is_killed_when_it_ends(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    ended = await program.run(sh(f"sleep 60 & echo $! > {pids}"), timeout_s=20)
    assert ended.status == 0
    assert not _lives(int(pids.read_text()))


async def test_cancelling_ends_it_as_well(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    started = asyncio.Event()
    text = f'trap "exit 0" TERM; echo $$ > {pids}; echo go; while :; do sleep 0.02; done'
    task = asyncio.ensure_future(
        program.run(sh(text), timeout_s=60, stop_s=10, on_line=lambda line: started.set())
    )
    await asyncio.wait_for(started.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _lives(int(pids.read_text()))


async def test_a_kept_file_tells_that_a_child_got_away(tmp_path: Path) -> None:
    """A child with a session of its own is not killed; the lock that it holds shows it."""
    lock, pids = tmp_path / "lock", tmp_path / "pids"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    text = f"setsid sh -c 'echo $$ > {pids}; exec sleep 60' & while [ ! -s {pids} ]; do :; done"
    try:
        await program.run(sh(text), timeout_s=20, keep_fds=(fd,))
    finally:
        os.close(fd)
    child = int(pids.read_text())
    try:
        with lock.open() as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, signal.SIGKILL)


FLOODS = {
    "long lines": "while True: os.write(1, b'x' * 65536)",
    "short lines": "while True: os.write(1, b'y\\n' * 32768)",
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_slows_the_program_and_not_the_loop(kind: str) -> None:
    """The loop is never kept for long, and what is held of the flood is bounded."""
    longest, count = 0.0, 0
    loop = asyncio.get_running_loop()

    async def beat() -> None:
        nonlocal longest, count
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            longest, count = max(longest, loop.time() - before), count + 1

    beating = asyncio.ensure_future(beat())
    argv = (sys.executable, "-c", f"import os\n{FLOODS[kind]}")
    ended = await program.run(argv, timeout_s=0.7)
    beating.cancel()
    assert ended.timed_out
    assert sum(map(len, ended.tail)) <= 20 * 200
    assert count > 50
    assert longest < 0.25  # a shared machine; a whole pipe of short lines takes longer


async def test_what_it_said_last_is_heard_although_much_came_before() -> None:
    lines: list[str] = []
    ended = await program.run(sh("seq 1 5000; echo the end"), timeout_s=20, on_line=lines.append)
    assert lines == [*map(str, range(1, 5001)), "the end"]
    assert ended.tail[-1] == "the end"


async def test_a_line_without_end_is_cut() -> None:
    lines: list[str] = []
    await program.run(sh("head -c 50000 /dev/zero | tr '\\0' z; echo; echo b"), timeout_s=20,
                      on_line=lines.append)  # fmt: skip
    assert [len(line) for line in lines] == [4096, 1]


def _lives(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
