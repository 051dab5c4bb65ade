"""The checks against real servers and real programs, and how their runs become a verdict."""

import asyncio
import math
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from loopback import listening, port_of

from lb_probe.agent.check import CommandCheck, HttpCheck, TcpCheck
from lb_probe.agent.check_runs import _printable
from lb_probe.agent.checks import Checks, _Record
from lb_probe.core.model import Page

SLOW = 30.0


@asynccontextmanager
async def running(checks, clock):
    """Run these checks and see to it that nothing of them is left."""
    runner = Checks(checks, clock)
    task = asyncio.ensure_future(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


@asynccontextmanager
async def answering(answer):
    """Serve these bytes to whoever connects, or hang for None; count the connections."""
    seen = []

    async def handle(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()

    async with listening(handle) as server:
        yield f"http://127.0.0.1:{port_of(server)}/up", seen


async def first_verdict(check, clock, eventually):
    async with running([check], clock) as runner:
        await eventually(lambda: runner.verdicts(0)[0].passing is not None)
        return runner.verdicts(clock.monotonic())[0]


def python(code: str, *args: str, **pace: float) -> CommandCheck:
    pace.setdefault("timeout_s", SLOW)
    return CommandCheck("app", (sys.executable, "-c", code, *args), max_age_s=SLOW, **pace)


def lives(pid: int) -> bool:
    try:
        # A dead child of nobody may wait for init to notice: that is not alive.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def is_reaped(pid: int) -> bool:
    """Tell whether no zombie of ours is left."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


# ------------------------------------------------------------------ from runs to a verdict
def folded(runs: str, fall: int = 3, rise: int = 2) -> bool | None:
    record = _Record(TcpCheck("app", "h", 1, fall=fall, rise=rise))
    for at, run in enumerate(runs):
        record.fold(None if run == "+" else "broken", float(at))
    return record.passing


@pytest.mark.parametrize(
    ("runs", "passing"),
    [("", None), ("+", True), ("-", False), ("+--", True), ("+---", False), ("+--+--", True),
     ("-+", False), ("-++", True), ("-+-+", False), ("+---+", False), ("+---++", True)],
)  # fmt: skip
def test_a_verdict_changes_after_fall_failures_or_rise_passes_in_a_row(runs, passing):
    assert folded(runs) is passing


def test_a_failing_check_says_how_far_it_has_risen():
    record = _Record(TcpCheck("app", "h", 1, rise=2))
    record.fold("refused", 0.0)
    assert record.complaint(0.0) == "check app: refused"
    record.fold(None, 1.0)
    assert record.complaint(1.0) == "check app: passed 1 of 2 times in a row"


def test_a_verdict_is_fresh_up_to_its_limit_and_stale_after(clock):
    record = _Record(TcpCheck("app", "h", 1, max_age_s=3))
    record.fold(None, 10.0)
    assert record.complaint(13.0) is None
    assert record.complaint(13.1) == "check app: last run is 3.1s old, limit 3s"
    assert record.verdict(13.1).is_stale


def test_without_checks_a_node_is_well(clock):
    checks = Checks([], clock)
    assert checks.healthy(Page.STATUS, 1.0) == (True, [])
    assert checks.fresh_until(Page.STATUS) == math.inf


def test_without_a_first_verdict_a_node_is_not_well(clock):
    checks = Checks([TcpCheck("app", "h", 1)], clock)
    assert checks.healthy(Page.HASTATUS, 1.0) == (False, ["check app: no verdict yet"])
    assert checks.fresh_until(Page.HASTATUS) == -math.inf


def test_a_check_decides_only_its_own_pages(clock):
    checks = Checks([TcpCheck("app", "h", 1, pages=frozenset({Page.STATUS}))], clock)
    assert checks.healthy(Page.HASTATUS, 1.0) == (True, [])
    assert not checks.healthy(Page.STATUS, 1.0)[0]


def test_two_checks_of_one_name_are_refused(clock):
    with pytest.raises(ValueError, match="share a name"):
        Checks([TcpCheck("app", "h", 1), TcpCheck("app", "h", 2)], clock)


@pytest.mark.parametrize(
    "pace",
    [{"interval_s": 0}, {"timeout_s": -1}, {"max_age_s": math.inf}, {"fall": 0}, {"rise": 0}],
)
def test_a_pace_that_makes_no_sense_is_refused(pace):
    with pytest.raises(ValueError, match="use "):
        TcpCheck("app", "h", 1, **pace)


# ------------------------------------------------------------------ http
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nall fit"


@pytest.mark.parametrize(
    ("answer", "expect", "found"),
    [
        (OK, None, None),
        (OK, "all f", None),
        (OK, "unfit", "'unfit' is not in the first 7 bytes of the body"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", None, "found status 503; wanted 200"),
        (b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", None, "found status 302"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 200_000 + b"all fit", "all fit", "first 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nall fit" + b"x" * 200_000, "all fit", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nall f", "all fit", "ClientPayloadError"),
        (b"\x00\x01 nonsense\r\n\r\n", None, "Bad"),
        (b"", None, "ServerDisconnectedError"),
    ],
)
async def test_an_http_answer_is_judged(clock, eventually, answer, expect, found):
    async with answering(answer) as (url, _):
        check = HttpCheck("app", url, expect=expect, timeout_s=SLOW, max_age_s=SLOW)
        verdict = await first_verdict(check, clock, eventually)
    assert verdict.passing is (found is None)
    assert (found or "") in verdict.detail
    assert verdict.detail.isprintable()


async def test_an_http_check_makes_a_fresh_connection_for_each_run(clock, eventually):
    connections = []

    async def patient(reader, writer):
        connections.append(0)
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /up HTTP/1.1\r\n"):
            connections[-1] += 1
            writer.write(OK)

    async with listening(patient) as server:
        url = f"http://127.0.0.1:{port_of(server)}/up"
        check = HttpCheck("app", url, expect="all fit", interval_s=0.05, timeout_s=SLOW)
        async with running([check], clock):
            await eventually(lambda: sum(connections) >= 3)
    assert max(connections) == 1


def test_details_are_safe_to_print_and_short():
    assert _printable("a\nb\x1b[31m") == "a?b?[31m"
    assert len(_printable("x" * 999)) == 200


async def test_an_http_server_that_hangs_fails_at_the_deadline(clock, eventually):
    async with answering(None) as (url, seen):
        check = HttpCheck("app", url, timeout_s=0.2, interval_s=60)
        verdict = await first_verdict(check, clock, eventually)
    assert (verdict.passing, verdict.detail) == (False, "no answer within 0.2s")
    assert len(seen) == 1


async def test_a_deadline_above_five_seconds_is_not_rounded_up():
    # aiohttp rounds its own timeouts of 5 s and more to whole seconds of the loop's clock.
    from lb_probe.agent.check_runs import _http_session

    async with _http_session() as session:
        assert session.timeout.total is None
        assert session.timeout.sock_connect is None


# ------------------------------------------------------------------ tcp
async def test_a_port_that_accepts_passes_and_one_that_refuses_fails(clock, eventually):
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    check = TcpCheck("app", "127.0.0.1", port, interval_s=0.05, timeout_s=SLOW, max_age_s=SLOW)
    async with running([check], clock) as runner:
        await eventually(lambda: runner.healthy(Page.STATUS, clock.monotonic())[0])
        server.close()
        await eventually(lambda: not runner.healthy(Page.STATUS, clock.monotonic())[0])
        assert "ConnectionRefusedError" in runner.verdicts(0)[0].detail


# ------------------------------------------------------------------ command
@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("", None),
        ("raise SystemExit(3)", "found exit status 3; wanted 0"),
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11"),
        ("import os; raise SystemExit('LB_PROBE_TOKEN' in os.environ)", None),
        ("import os; raise SystemExit(os.getpgrp() != os.getpid())", None),
        ("import os; raise SystemExit(os.getsid(0) != os.getpid())", None),
        ("import sys; raise SystemExit(sys.stdin.read() != '')", None),
    ],
)
async def test_a_program_is_judged_by_its_exit_status(clock, eventually, monkeypatch, code, found):
    monkeypatch.setenv("LB_PROBE_TOKEN", "secret")
    verdict = await first_verdict(python(code), clock, eventually)
    assert (verdict.passing, verdict.detail) == (found is None, found or "")


async def test_a_program_that_is_not_there_is_a_failure_with_a_sentence(clock, eventually):
    check = CommandCheck("app", ("/nowhere/to\nbe found",))
    verdict = await first_verdict(check, clock, eventually)
    assert verdict.passing is False
    assert "FileNotFoundError" in verdict.detail
    assert verdict.detail.isprintable()


async def test_arguments_reach_the_program_without_a_shell(clock, eventually, tmp_path):
    nasty = f"$(touch {tmp_path}/owned); `touch {tmp_path}/owned`"
    code = "import sys; raise SystemExit(sys.argv[1][:8] != '$(touch ')"
    assert (await first_verdict(python(code, nasty), clock, eventually)).passing
    assert not list(tmp_path.iterdir())


async def test_a_program_that_floods_its_output_passes_and_nothing_is_kept(clock, eventually):
    code = "import os\nfor fd in (1, 2):\n  for _ in range(500): os.write(fd, b'x' * 65536)"
    assert (await first_verdict(python(code), clock, eventually)).passing


FAMILY = """
import os, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = [os.getpid()]
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        os.fork()
        time.sleep(600)
    pids.append(pid)
path = sys.argv[1]
open(path + '.new', 'w').write(' '.join(map(str, pids)))
os.rename(path + '.new', path)
time.sleep(float(sys.argv[2]))
"""


async def test_a_program_that_hangs_is_killed_with_all_its_children(clock, eventually, tmp_path):
    note = tmp_path / "pids"
    check = python(FAMILY, str(note), "600", timeout_s=3.0, interval_s=60)
    verdict = await first_verdict(check, clock, eventually)
    assert verdict.detail == "did not end within 3s and was killed"
    pids = [int(pid) for pid in note.read_text().split()]
    await eventually(lambda: not any(lives(pid) for pid in pids))
    assert is_reaped(pids[0])


async def test_children_do_not_outlive_a_program_that_ends_well(clock, eventually, tmp_path):
    note = tmp_path / "pids"
    assert (await first_verdict(python(FAMILY, str(note), "0"), clock, eventually)).passing
    pids = [int(pid) for pid in note.read_text().split()]
    await eventually(lambda: not any(lives(pid) for pid in pids))


async def test_cancelling_leaves_no_program_and_no_open_file_behind(clock, eventually, tmp_path):
    note = tmp_path / "pids"
    before = open_files()
    async with running([python(FAMILY, str(note), "600")], clock):
        await eventually(note.exists)
    pids = [int(pid) for pid in note.read_text().split()]
    await eventually(lambda: not any(lives(pid) for pid in pids))
    assert open_files() <= before


async def test_a_check_never_runs_beside_itself(clock, eventually, tmp_path):
    code = (
        "import os, sys, time\n"
        "os.mkdir(sys.argv[1] + '/busy')\n"  # fails while another one is inside
        "time.sleep(0.3)\n"
        "os.rmdir(sys.argv[1] + '/busy')\n"
        "open(sys.argv[1] + '/runs', 'a').write('.')\n"
    )
    check = python(code, str(tmp_path), interval_s=0.01, fall=1)
    runs = tmp_path / "runs"
    async with running([check], clock) as runner:
        await eventually(lambda: runs.exists() and len(runs.read_text()) >= 4)
        assert runner.verdicts(0)[0].passing


async def test_a_hanging_check_holds_up_neither_its_neighbours_nor_the_loop(clock, eventually):
    hanging = CommandCheck("slow", ("sleep", "600"), timeout_s=600)
    async with running([hanging, python("", interval_s=0.05)], clock) as runner:
        started = time.monotonic()
        await eventually(lambda: runner.verdicts(0)[1].passing is True)
        assert time.monotonic() - started < SLOW
        assert runner.healthy(Page.STATUS, 0)[1] == ["check slow: no verdict yet"]


async def test_a_check_that_hangs_after_passing_goes_stale(clock, eventually, tmp_path):
    flag = tmp_path / "hang"
    argv = ("sh", "-c", 'test ! -e "$0" || sleep 600', str(flag))
    check = CommandCheck("app", argv, interval_s=0.05, timeout_s=600, max_age_s=2)
    async with running([check], clock) as runner:
        await eventually(lambda: runner.healthy(Page.STATUS, clock.monotonic())[0])
        flag.touch()
        await eventually(lambda: not runner.healthy(Page.STATUS, clock.monotonic())[0])
        verdict = runner.verdicts(clock.monotonic())[0]
        assert (verdict.passing, verdict.is_stale) == (True, True)
