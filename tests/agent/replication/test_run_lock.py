"""Whether anything of an earlier sync is alive, and what keeps a machine from a shutdown: R12."""

import os
import subprocess
import sys

import pytest

from lb_probe.agent.replication.inhibitor import inhibited
from lb_probe.agent.replication.run_lock import RunLock
from lb_probe.agent.replication.watchers import Watchers


def test_the_lock_is_held_as_long_as_anybody_has_the_file_open(tmp_path):
    lock = RunLock(tmp_path / "lock")
    assert lock.held_by() == ""
    fd = lock.take()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, pass_fds=(fd,))
    os.close(fd)
    try:
        assert f"pid {child.pid} python" in lock.held_by()
        with pytest.raises(BlockingIOError):
            lock.take()
    finally:
        child.communicate(b"\n")
    assert lock.held_by() == ""
    os.close(lock.take())


async def test_a_lock_that_is_taken_after_the_gates_keeps_the_program_from_starting(standby):
    """What the gates did not see yet is on record as refused, and nothing is copied."""
    async with standby() as b:
        b.node.refreshers.clear()
        fd = RunLock(b.part._worker._lock.path).take()
        try:
            run = await b.sync()
        finally:
            os.close(fd)
        assert (run["result"], run["gates"]) == ("refused", ["alone"])
        assert not (b.target / "data").exists()
        assert b.node.state.data.suspect == ""


def test_a_lock_that_cannot_be_made_is_told(tmp_path):
    assert "No such file" in RunLock(tmp_path / "none" / "lock").held_by()


# ------------------------------------------------------------------ systemd
def program(tmp_path, text):
    path = tmp_path / "inhibit"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_the_lock_of_systemd_lasts_as_long_as_the_block(tmp_path):
    """What stands in for systemd-inhibit runs the command as that does, and says when it ends."""
    text = f'echo "$@" > {tmp_path}/args; shift 4; "$@"; touch {tmp_path}/ended'
    async with inhibited("sync 7", program(tmp_path, text)) as why_not:
        assert why_not == ""
        assert not (tmp_path / "ended").exists()
    assert (tmp_path / "ended").exists()
    said = (tmp_path / "args").read_text()
    assert said.startswith("--what=shutdown:sleep --mode=block --who=lb-probe --why=sync 7 ")


@pytest.mark.parametrize(
    ("text", "says"),
    [("echo Access denied; exit 1", "Access denied"), ("exit 1", "ended at once")],
)
async def test_why_there_is_no_lock_of_systemd_is_told(tmp_path, text, says):
    async with inhibited("sync 7", program(tmp_path, text)) as why_not:
        assert says in why_not


async def test_without_systemd_a_sync_runs_all_the_same(tmp_path):
    async with inhibited("sync 7", str(tmp_path / "none")) as why_not:
        assert "is not installed" in why_not


# ------------------------------------------------------------------ who watches
async def test_a_watcher_who_does_not_read_holds_nobody_up_and_hears_the_end():
    watchers = Watchers()
    with watchers.watch() as watcher:
        for number in range(5000):
            watchers.tell({"line": str(number)})
        watchers.tell({"run": {}})
        heard = [line async for line in watcher.until_end()]
    assert heard[-1] == {"run": {}}
    assert len(heard) <= 1000
    watchers.tell({"line": "nobody is there"})
