"""Programs of the operator's own as a load balancer: real processes, no shell."""

import asyncio
import contextlib
import json
import os
import select
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_probe.adapters.command import MAX_OUTPUT_BYTES, Command
from lb_probe.clock import SystemClock
from lb_probe.ports import PublishError, Unreachable
from lb_probe.program import Program, collected
from lb_probe.reconcile import Reconciler, Wanted

NODES = {"epmm-a": "a", "epmm-b": "b"}
PATIENT_S = 20.0
TELL_ALL = """
import json, os, sys
from pathlib import Path
told = {k: v for k, v in os.environ.items() if k.startswith("LB_PROBE_")}
Path(sys.argv[1]).write_text(json.dumps([told, json.load(sys.stdin), sys.argv[2:]]))
"""


def shell(line):
    return ["/bin/sh", "-c", line]


def edge(argv="true", read="echo a", **more):
    lines = [shell(x) if isinstance(x, str) else x for x in (argv, read)]
    return Command("ns", "epmm", *lines, NODES, **{"timeout_s": PATIENT_S} | more)


async def until(is_so):
    async with asyncio.timeout(PATIENT_S):
        while not is_so():  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.01)


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------ what they are told
@pytest.fixture
def told(tmp_path):
    """A program that writes down all it is told, and how to read that."""
    file = tmp_path / "told.json"
    return [sys.executable, "-c", TELL_ALL, str(file)], lambda: json.loads(file.read_text())


async def test_the_wanted_node_and_generation_are_in_environment_and_json(told, monkeypatch):
    monkeypatch.setenv("LB_PROBE_TOKEN", "a secret of ours")
    argv, read = told
    ns = edge([*argv, "$(id)", "; ls", ""])
    ns.owner = "host-1ab2.g42"
    await ns.publish("epmm-b")
    environment, message, words = read()
    assert environment == {
        "LB_PROBE_ACTION": "publish",
        "LB_PROBE_ADAPTER": "ns",
        "LB_PROBE_GROUP": "epmm",
        "LB_PROBE_NODE": "epmm-b",
        "LB_PROBE_SERVER": "b",
        "LB_PROBE_GENERATION": "42",
        "LB_PROBE_OWNER": "host-1ab2.g42",
    }
    assert message == {
        "version": 1,
        "action": "publish",
        "group": "epmm",
        "adapter": "ns",
        "node": "epmm-b",
        "server": "b",
        "generation": 42,
        "owner": "host-1ab2.g42",
        "nodes": NODES,
    }
    assert words == ["$(id)", "; ls", ""]  # no shell read them


async def test_without_an_owner_there_is_no_generation(told):
    argv, read = told
    await edge(argv).publish("epmm-a")
    environment, message, _ = read()
    assert (environment["LB_PROBE_GENERATION"], message["generation"]) == ("", None)


async def test_read_is_not_told_what_is_wanted(told):
    argv, read = told
    with pytest.raises(PublishError):
        await edge(read=[*argv]).read_back()
    environment, message, _ = read()
    assert set(environment) == {"LB_PROBE_ACTION", "LB_PROBE_ADAPTER", "LB_PROBE_GROUP"}
    assert message["action"] == "read"


def test_commands_are_the_line_to_type():
    ns = edge(["/opt/ns move", "$x"])
    ns.owner = "host.g7"
    (line,) = ns.commands("epmm-b")
    assert "LB_PROBE_NODE=epmm-b LB_PROBE_SERVER=b LB_PROBE_GENERATION=7" in line
    assert line.endswith("'/opt/ns move' '$x'")
    with pytest.raises(PublishError, match="no server is known for c; wanted one of epmm-a"):
        ns.commands("c")


# ------------------------------------------------------------------ what they answer
@pytest.mark.parametrize(
    ("printed", "node", "chosen"),
    [
        ("a", "epmm-a", ("epmm-a",)),
        ("b\\n", "epmm-b", ("epmm-b",)),
        ("none", None, ()),
        ("b\\na\\n", None, ("epmm-a", "epmm-b")),
        ('{"servers": ["b"]}', "epmm-b", ("epmm-b",)),
        ('{"servers": []}', None, ()),
    ],
)
async def test_read_prints_who_has_the_traffic(printed, node, chosen):
    seen = await edge(read=f"printf '{printed}'").read_back()
    assert (seen.node, seen.chosen, seen.usable, seen.detail) == (node, chosen, None, "")


async def test_read_may_print_more_as_json():
    said = {
        "servers": ["a"],
        "usable": False,
        "owner": "h.g3",
        "instance": "boot-7",
        "version": "14.1",
        "detail": "vserver is DOWN",
    }
    seen = await edge(read=["/bin/echo", json.dumps(said)]).read_back()
    assert (seen.node, seen.usable, seen.owner) == ("epmm-a", False, "h.g3")
    assert (seen.instance, seen.version, seen.detail) == ("boot-7", "14.1", "vserver is DOWN")


async def test_a_server_that_no_node_has_is_told():
    seen = await edge(read="printf 'a\\nc\\033[2J\\n'").read_back()
    assert (seen.node, seen.chosen) == (None, ("epmm-a",))
    assert seen.detail == "`read` says 'c [2J', which no node has"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("echo '{\"servers\": '", "no JSON"),
        ('echo \'{"servers": "a"}\'', 'servers "a"'),
        ("echo '{\"servers\": [1]}'", "is a list of names"),
        ("echo '{\"usable\": true}'", "is a list of names"),
        ('echo \'{"servers": [], "state": 1}\'', "a key 'state'"),
        ("printf '\\377'", "no UTF-8"),
        ("true", "printed nothing; wanted the name"),
        (f"head -c {MAX_OUTPUT_BYTES + 1} /dev/zero", f"more than {MAX_OUTPUT_BYTES} bytes"),
        ("echo boom; echo why >&2; exit 3", "exit status 3; wanted 0; it says: 'why'"),
        ("kill -9 $$", "ended with signal 9"),
    ],
)
async def test_nonsense_of_read_is_an_error_with_words(line, told):
    with pytest.raises(PublishError) as caught:
        await edge(read=line).read_back()
    assert told in str(caught.value)
    assert not isinstance(caught.value, Unreachable)


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=60)
def test_whatever_is_printed_breaks_no_promise(raw):
    async def ask():
        try:
            return (await edge(read=["/usr/bin/printf", "%b", _octal(raw)]).read_back()).detail
        except PublishError as error:
            return str(error)

    assert asyncio.run(ask()).isprintable()


def _octal(raw):
    return "".join(f"\\0{byte:03o}" for byte in raw)


async def test_a_refusal_says_the_last_line_of_the_program():
    with pytest.raises(PublishError, match=r"exit status 1; wanted 0; it says: 'no licence'"):
        await edge("echo first >&2; echo no licence >&2; echo out; exit 1").publish("epmm-a")
    with pytest.raises(PublishError, match=r"it says: 'only out'"):
        await edge("echo only out; exit 1").publish("epmm-a")


async def test_69_means_that_it_was_not_reached():
    with pytest.raises(Unreachable, match="did not reach it"):
        await edge("exit 69").publish("epmm-a")
    with pytest.raises(Unreachable, match="did not reach it"):
        await edge(read="exit 69").read_back()


async def test_a_program_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PublishError, match=r"`argv` cannot be run: No such file.*as a program"):
        await edge([str(tmp_path / "none")]).publish("epmm-a")
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    with pytest.raises(PublishError, match="`read` cannot be run: Permission denied"):
        await edge(read=[str(plain)]).read_back()


# ------------------------------------------------------------------ time and what is left behind
async def test_at_the_limit_the_whole_group_is_killed(tmp_path):
    pids = tmp_path / "pids"
    line = f"sleep 600 & echo $! > {pids}; echo $$ >> {pids}; echo working >&2; wait"
    with pytest.raises(PublishError, match=r"did not end within 1s and was killed.*'working'"):
        await edge(line, timeout_s=1.0).publish("epmm-a")
    child, program = map(int, pids.read_text().split())
    await until(lambda: not lives(child) and not lives(program))


async def test_read_that_hangs_is_unreachable():
    with pytest.raises(Unreachable, match=r"`read` did not end within 0\.2s and was killed"):
        await edge(read="sleep 600", timeout_s=0.2).read_back()


async def test_what_it_leaves_running_ends_with_it_and_delays_nothing(tmp_path):
    """A child that keeps the pipes open is no reason to wait."""
    pid = tmp_path / "pid"
    seen = await edge(read=f"sleep 600 & echo $! > {pid}; echo b").read_back()
    assert seen.node == "epmm-b"
    await until(lambda: not lives(int(pid.read_text())))


async def test_a_run_that_is_cancelled_leaves_no_process(tmp_path):
    pid = tmp_path / "pid"
    task = asyncio.create_task(edge(f"echo $$ > {pid}; sleep 600").publish("epmm-a"))
    await until(lambda: pid.exists() and pid.read_text())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await until(lambda: not lives(int(pid.read_text())))


async def test_a_program_that_prints_for_ever_is_capped_and_ends_at_the_limit():
    program = Program(["/usr/bin/yes"], 0.5)
    ended = await program.run({}, b"")
    assert (ended.status, ended.is_cut) == (None, True)
    assert len(ended.out) == MAX_OUTPUT_BYTES
    with pytest.raises(PublishError, match=r"did not end within 0.5s"):
        await edge("yes", timeout_s=0.5).publish("epmm-a")


async def test_what_is_beyond_the_limit_is_not_kept():
    out, into = os.pipe()
    with os.fdopen(out, "rb") as pipe, os.fdopen(into, "wb"), collected(pipe) as got:
        for _ in range(5):
            os.write(into, b"x" * 50_000)
            await until(lambda: not select.select([out], [], [], 0)[0])
    assert len(got) == MAX_OUTPUT_BYTES + 1


async def test_one_that_cannot_be_ended_is_not_started_again(monkeypatch, tmp_path):
    """As one that became another user cannot be."""
    real, count = os.killpg, tmp_path / "count"

    def denied(group, signal):
        raise PermissionError

    monkeypatch.setattr("lb_probe.program.os.killpg", denied)
    ns = edge(read=f"echo $$ >> {count}; exec sleep 600", timeout_s=0.3)
    with pytest.raises(Unreachable):
        await ns.read_back()
    with pytest.raises(PublishError, match=r"an earlier run \(pid \d+\) cannot be ended"):
        await ns.read_back()
    (pid,) = map(int, count.read_text().split())
    real(pid, 9)
    await until(lambda: not lives(pid))
    with pytest.raises(Unreachable):
        await ns.read_back()
    pids = [int(word) for word in count.read_text().split()]
    assert len(pids) == 2
    real(pids[1], 9)
    await until(lambda: not lives(pids[1]))
    ns._read._stuck.wait()


async def test_the_loop_runs_on_while_a_program_runs():
    longest, is_over = 0.0, asyncio.Event()

    async def tick():
        nonlocal longest
        while not is_over.is_set():
            began = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - began)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(tick())
        await edge("sleep 2").publish("epmm-a")
        is_over.set()
    assert longest < 1.0


async def test_it_is_asked_at_its_own_pace(tmp_path):
    asked = tmp_path / "asked"
    ns = edge(read=f"echo x >> {asked}; echo a", poll_s=600.0)

    async def confirm(adapter, generation):
        return True

    class Silent:
        def emit(self, event):
            """Say nothing."""

    kept = Reconciler(
        "epmm", ns, SystemClock(), Silent(), confirm=confirm, confirmed=1, changed=lambda: None
    )
    kept.want(Wanted("epmm-a", 1, may_write=True))
    task = asyncio.create_task(kept.run())
    await until(lambda: kept.is_in_sync)
    await asyncio.sleep(1.5)  # what does not happen has no event
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert asked.read_text() == "x\n"


def test_what_cannot_be_is_refused_at_once():
    for argv, nodes in (
        ([], NODES),
        (["x"], {}),
        (["x"], {"a": "s", "b": "s"}),
        (["x"], {"a": "none"}),
    ):
        with pytest.raises(ValueError, match=r"name a program|give each its own word"):
            Command("ns", "epmm", argv, ["y"], nodes)
