"""A program of the operator's: its lines, its last words, how it ended, and what it may cost."""

import asyncio
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lb_probe.program import LAST_LINES, LINE_CHARS, MAX_OUTPUT_BYTES, Program


def lives(pid):
    """Whether a process runs, a zombie aside: who adopted it may not have looked yet."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(*pids):
    """Wait until they are: a process that was killed has still to be taken off its core."""
    async with asyncio.timeout(20):
        while any(map(lives, pids)):  # noqa: ASYNC110 - nobody tells of somebody else's child
            await asyncio.sleep(0.01)


async def lines_of(code: str, timeout_s: float = 20.0):
    lines: list[str] = []
    ended = await Program(("sh", "-c", code), timeout_s).run(on_line=lines.append)
    return ended, lines


async def test_lines_come_one_by_one_and_safe_to_print():
    ended, lines = await lines_of(
        "printf 'one\\ntw'; sleep 0.1; printf 'o\\n\\033[2J\\377\\r\\n\\nlast'"
    )
    assert lines == ["one", "two", "?[2J\N{REPLACEMENT CHARACTER}", "", "last"]
    assert (ended.status, ended.fault, ended.last_words) == (0, "", "last")


@pytest.mark.parametrize(
    ("code", "fault", "said"),
    [
        ("echo fine; echo broken >&2; exit 3", "it ended with exit status 3", "broken"),
        ("echo half; kill -SEGV $$", f"it ended by signal {int(signal.SIGSEGV)}", "half"),
        ("echo begun; sleep 600", "it did not end in time and was killed", "begun"),
    ],
)
async def test_an_end_is_told_in_words_with_the_last_line(code, fault, said):
    ended, _ = await lines_of(code, timeout_s=0.3 if "sleep" in code else 20)
    assert (ended.fault, ended.last_words) == (fault, said)


async def test_what_it_said_last_is_heard_although_much_came_before():
    ended, lines = await lines_of("seq 1 5000; echo the end; printf now")
    assert lines == [*map(str, range(1, 5001)), "the end", "now"]
    assert ended.last_words == "now"
    assert ended.out.startswith(b"4983\n")


FLOODS = {
    "long lines": "while True: os.write(1, b'x' * 65536)",
    "short lines": "while True: os.write(1, b'y\\n' * 32768)",
    "on the other stream": "while True: os.write(2, b'y\\n' * 32768)",
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_slows_the_program_and_not_the_loop(kind):
    """Nothing else on the loop waits for long, and what is held of the flood is bounded."""
    longest, beats, loop = 0.0, 0, asyncio.get_running_loop()

    async def beat():
        nonlocal longest, beats
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            longest, beats = max(longest, loop.time() - before), beats + 1

    beating = asyncio.ensure_future(beat())
    argv, count = (sys.executable, "-c", f"import os\n{FLOODS[kind]}"), 0

    def heard(line):
        nonlocal count
        count += 1

    spent = time.process_time()
    ended = await Program(argv, 0.6).run(on_line=heard)
    beating.cancel()
    assert ended.status is None
    assert len(ended.out) + len(ended.err) <= MAX_OUTPUT_BYTES + LAST_LINES * (LINE_CHARS + 1)
    assert beats > 50
    assert longest < 0.45  # of a busy machine; all lines of one full pipe at once take longer
    assert count < 300_000
    assert time.process_time() - spent < 5


async def test_one_whose_time_is_over_is_asked_to_end_first():
    code = 'trap "echo cleaned; exit 0" TERM; echo ready; while :; do sleep 0.02; done'
    lines = []
    ended = await Program(("sh", "-c", code), 0.4).run(on_line=lines.append, stop_s=10)
    assert (ended.status, lines) == (None, ["ready", "cleaned"])


async def test_one_that_does_not_listen_is_killed_with_its_children(tmp_path):
    pids = tmp_path / "pids"
    code = f'trap "" TERM; sleep 60 & echo $! > {pids}; echo $$ >> {pids}; wait; wait'
    ended = await Program(("sh", "-c", code), 0.4).run(stop_s=0.2)
    assert ended.status is None
    await gone(*pids.read_text().split())


async def test_cancelling_ends_it_as_well(tmp_path):
    pids, started = tmp_path / "pids", asyncio.Event()
    code = f'trap "exit 0" TERM; echo $$ > {pids}; echo go; while :; do sleep 0.02; done'
    run = Program(("sh", "-c", code), 60).run(on_line=lambda line: started.set(), stop_s=10)
    task = asyncio.ensure_future(run)
    await asyncio.wait_for(started.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(pids.read_text())


async def test_a_kept_file_tells_that_a_child_got_away(tmp_path):
    """A child with a session of its own is not killed; the lock that it holds shows it."""
    lock, pids = tmp_path / "lock", tmp_path / "pids"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    code = f"setsid sh -c 'echo $$ > {pids}; exec sleep 60' & while [ ! -s {pids} ]; do :; done"
    try:
        await Program(("sh", "-c", code), 20).run(keep_fds=(fd,))
    finally:
        os.close(fd)
    try:
        with lock.open() as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(int(pids.read_text()), signal.SIGKILL)


async def test_both_streams_can_be_told_as_one():
    lines = []
    code = "echo one; echo two >&2; echo three"
    ended = await Program(("sh", "-c", code), 20).run(on_line=lines.append, joins=True)
    assert (lines, ended.err) == (["one", "two", "three"], b"")


async def test_a_line_without_end_is_cut():
    _, lines = await lines_of("head -c 200000 /dev/zero | tr '\\0' x; echo; echo after")
    assert lines[0] == "x" * LINE_CHARS
    assert lines[-1] == "after"


async def test_our_own_settings_stay_ours(monkeypatch):
    monkeypatch.setenv("LB_PROBE_TOKEN", "secret")
    _, lines = await lines_of("env")
    assert not any(line.startswith("LB_PROBE_") for line in lines)
    assert f"PATH={os.environ['PATH']}" in lines
