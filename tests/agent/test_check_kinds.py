"""The checks that look at the machine itself: units, file systems, processes."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lb_probe.agent import check_runs
from lb_probe.agent.check import DiskCheck, ProcessCheck, SystemdCheck, TcpCheck
from lb_probe.agent.check_runs import runs_of
from lb_probe.agent.checks import Checks, _Record
from lb_probe.core.model import Page

# Our own word on the command line, and what it links to.
OWN = (Path(sys.executable).name, Path(sys.executable).resolve().name)


async def once(check):
    async with runs_of([check]) as (run,):
        return await run()


# ------------------------------------------------------------------ systemd
SYSTEMCTL = """#!/bin/sh
test "$1 $2 $3" = "show --property=ActiveState,SubState --" || exit 9
case "$4" in
  up) echo ActiveState=active; echo SubState=running ;;
  reload) echo ActiveState=reloading; echo SubState=reload ;;
  down) echo ActiveState=inactive; echo SubState=dead ;;
  broken) echo ActiveState=failed; echo SubState=failed ;;
  mute) ;;
  nobus) echo "Failed to connect to bus: $(printf '\\033')[31mno" >&2; exit 1 ;;
  slow) sleep 600 ;;
esac
"""


@pytest.mark.parametrize(
    ("unit", "found"),
    [
        ("up", None),
        ("reload", None),
        ("down", "unit down: found inactive (dead); wanted active"),
        ("broken", "unit broken: found failed (failed); wanted active"),
        ("mute", "unit mute: found no ActiveState; wanted active"),
        (
            "nobus",
            "systemctl show: it ended with exit status 1: Failed to connect to bus: ?[31mno",
        ),
        ("slow", "systemctl show: it did not end in time and was killed: "),
    ],
)
async def test_a_unit_is_judged_by_what_systemctl_says(tmp_path, monkeypatch, unit, found):
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await once(SystemdCheck("u", unit, timeout_s=0.5 if unit == "slow" else 20)) == found


# A system that runs systemd cannot be installed by `make test`: elsewhere there is no such test.
if Path("/run/systemd/system").exists():

    async def test_a_real_systemd_is_understood():
        assert await once(SystemdCheck("u", "-.mount", timeout_s=20)) is None
        missing = await once(SystemdCheck("u", "no-such-unit.service", timeout_s=20))
        assert missing == "unit no-such-unit.service: found inactive (dead); wanted active"


# ------------------------------------------------------------------ disk
async def test_a_disk_with_room_passes_and_one_without_says_how_much_there_is(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check = DiskCheck("d", str(tmp_path), min_free_bytes=free // 2, timeout_s=20)
    assert await once(check) is None
    check = DiskCheck("d", str(tmp_path), min_free_percent=100.0, timeout_s=20)
    found = await once(check)
    assert found.startswith(f"{tmp_path}: ")
    assert found.endswith("bytes); wanted 100%")
    check = DiskCheck("d", str(tmp_path), min_free_bytes=1 << 60, timeout_s=20)
    assert (await once(check)).endswith(f"wanted {1 << 60} bytes")


async def test_a_disk_that_takes_no_writes_has_no_inodes_or_is_not_there_fails(monkeypatch):
    missing = await once(DiskCheck("d", "/none/at all", timeout_s=20))
    assert missing.startswith("FileNotFoundError: ")
    real = os.statvfs("/")
    fields = "f_bsize f_frsize f_blocks f_bfree f_bavail f_files f_ffree f_favail"

    def mounted(flag=0, **other):
        values = [other.get(name, getattr(real, name)) for name in fields.split()]
        return lambda path: os.statvfs_result([*values, flag, 255])

    monkeypatch.setattr(check_runs.os, "statvfs", mounted(os.ST_RDONLY))
    found = await once(DiskCheck("d", "/srv", timeout_s=20))
    assert found == "/srv: mounted read-only; wanted to write there"
    monkeypatch.setattr(check_runs.os, "statvfs", mounted(f_files=10, f_favail=0))
    found = await once(DiskCheck("d", "/srv", timeout_s=20))
    assert found == "/srv: no inode free; wanted to make files there"


async def test_a_file_server_that_hangs_fails_this_run_and_the_next_and_holds_up_nobody(
    monkeypatch,
):
    free = threading.Event()
    monkeypatch.setattr(check_runs.os, "statvfs", lambda path: free.wait(20))
    async with runs_of([DiskCheck("d", "/srv", timeout_s=0.2)]) as (run,):
        assert await run() == "no answer within 0.2s"
        assert await run() == "the run before this one has not come back"
        free.set()
        while (found := await run()) == "the run before this one has not come back":
            pass
    assert found.startswith("AttributeError: 'bool' object")  # it came back, and was looked at


# ------------------------------------------------------------------ process
async def test_a_process_is_found_by_the_name_of_its_program():
    own = OWN[0]
    for name in OWN:
        assert await once(ProcessCheck("p", name, timeout_s=20)) is None
    missing = await once(ProcessCheck("p", "no-such-program", timeout_s=20))
    assert missing == "found 0 of no-such-program; wanted 1 or more"
    many = await once(ProcessCheck("p", own, at_least=100_000, timeout_s=20))
    assert many.endswith(f"of {own}; wanted 100000 or more")
    stranger = await once(ProcessCheck("p", own, user="nobody", timeout_s=20))
    assert stranger == f"found 0 of {own}; wanted 1 or more"
    unknown = await once(ProcessCheck("p", own, user="no-such-user", timeout_s=20))
    assert unknown.startswith("KeyError")


@pytest.fixture
def zombie(tmp_path):
    """The name of a program that has ended and that nobody reaped."""
    program = tmp_path / "lonely-name"
    shutil.copy("/bin/true", program)
    with subprocess.Popen([program]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}/stat").exists()
        yield "lonely-name"


async def test_a_dead_process_that_nobody_reaped_does_not_count(zombie):
    found = await once(ProcessCheck("p", zombie, timeout_s=20))
    assert found == f"found 0 of {zombie}; wanted 1 or more"


# ------------------------------------------------------------------ informative
def test_an_informative_check_is_shown_and_decides_nothing(clock):
    check = TcpCheck("hint", "h", 1, pages=frozenset())
    checks = Checks([check], clock)
    checks._records[0].fold("refused", clock.monotonic())
    assert [checks.healthy(page, clock.monotonic())[0] for page in Page] == [True, True]
    assert checks.verdicts(clock.monotonic())[0].passing is False
    assert _Record(check).complaint(0.0) is not None
