"""The saved mode, the control socket that changes it, and the whole agent around them."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lb_probe.agent import daemon, state
from lb_probe.agent.checks import TcpCheck
from lb_probe.agent.control import Control, ControlError
from lb_probe.agent.pages import ListenError
from lb_probe.agent.state import StateError, StateFile
from lb_probe.core.model import Mode, Page, Role

SUBJECT = {"node": "core-a", "role": Role.PRIMARY, "now_wall": 1_767_225_600.0}


def to(mode: Mode) -> dict[str, object]:
    return {"mode": mode, "cause": "operator", "by": "uid 0", "reason": "upgrade", "now_wall": 9.0}


# ------------------------------------------------------------------ the state file
@pytest.mark.parametrize(
    ("role", "mode"), [(Role.PRIMARY, Mode.PRIMARY), (Role.SECONDARY, Mode.STANDBY)]
)
def test_the_first_mode_comes_from_the_role(tmp_path, role, mode):
    with StateFile(tmp_path / "s", node="core-a", role=role, now_wall=5.0) as file:
        assert (file.current.mode, file.current.since_wall, file.current.cause) == (
            mode,
            5.0,
            "role",
        )


def test_the_saved_mode_wins_over_the_role_on_restart(tmp_path):
    with StateFile(tmp_path / "s", **SUBJECT) as file:
        saved = file.change(**to(Mode.STANDBY))
    with StateFile(tmp_path / "s", **SUBJECT) as file:
        assert file.current == saved


def test_the_same_mode_again_changes_nothing(tmp_path):
    with StateFile(tmp_path / "s", **SUBJECT) as file:
        before, on_disk = file.current, (tmp_path / "s").stat()
        assert file.change(**to(Mode.PRIMARY)) is before
        assert (tmp_path / "s").stat().st_ino == on_disk.st_ino


def test_unknown_is_no_mode_to_be_in(tmp_path):
    with StateFile(tmp_path / "s", **SUBJECT) as file, pytest.raises(ValueError, match="unknown"):
        file.change(**to(Mode.UNKNOWN))


GOOD = {
    "version": 1,
    "node": "core-a",
    "mode": "standby",
    "since_wall": 1,
    "cause": "operator",
    "by": "",
    "reason": "",
}


def test_the_documented_file_is_understood(tmp_path):
    (tmp_path / "s").write_text(json.dumps(GOOD))
    with StateFile(tmp_path / "s", **SUBJECT) as file:
        assert file.current.mode is Mode.STANDBY


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found Expecting value"),
        (b"\0" * 512, "found "),
        (b"\xff\xfe", "found "),
        (b"[" * 60_000, "found "),
        (b"[]", "found no JSON object"),
        (json.dumps(GOOD).encode()[:-9], "found "),
        (json.dumps(GOOD | {"version": 2}).encode(), "found version 2, written by another"),
        (json.dumps(GOOD | {"version": True}).encode(), "found no version number"),
        (json.dumps(GOOD | {"node": "core-b"}).encode(), "found the state of node 'core-b'"),
        (json.dumps(GOOD | {"mode": "unknown"}).encode(), "found mode 'unknown'"),
        (json.dumps(GOOD | {"mode": ["standby"]}).encode(), "found mode "),
        (json.dumps(GOOD | {"since_wall": float("nan")}).encode(), "found since_wall nan"),
        (json.dumps(GOOD | {"cause": None}).encode(), "found cause None"),
        (b" " * 70_000 + b"{}", "found more than 65536 bytes"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_and_left_alone(tmp_path, content, found):
    path = tmp_path / "s"
    path.write_bytes(content)
    for _ in range(2):  # the lock was given back
        with pytest.raises(StateError) as refusal:
            StateFile(path, **SUBJECT)
        message = str(refusal.value)
        assert found in message
        assert "; wanted the state of node core-a as version 1; put back a copy" in message
    assert path.read_bytes() == content


def test_a_path_that_is_a_folder_or_has_none_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError, match="wanted to read the state"):
        StateFile(tmp_path / "folder", **SUBJECT)
    with pytest.raises(StateError, match="make its folder"):
        StateFile(tmp_path / "none" / "s", **SUBJECT)


def test_a_second_agent_is_refused_with_the_pid_of_the_first(tmp_path):
    path = tmp_path / "s"
    code = (
        "import sys; from pathlib import Path; from lb_probe.agent.state import StateFile\n"
        "from lb_probe.core.model import Role\n"
        "StateFile(Path(sys.argv[1]), node='core-a', role=Role.PRIMARY, now_wall=0.0)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code, str(path)]
    root = Path(state.__file__).parents[2]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match=f"another agent for node core-a, pid {first.pid};"):
            StateFile(path, **SUBJECT)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with StateFile(path, **SUBJECT) as file:  # the kernel gave the lock back
        assert file.current.mode is Mode.PRIMARY


def test_a_crash_before_the_rename_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "s"
    with StateFile(path, **SUBJECT) as file:

        def crash(self, target):
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            file.change(**to(Mode.STANDBY))
    monkeypatch.undo()
    with StateFile(path, **SUBJECT) as file:
        assert file.current.mode is Mode.PRIMARY
        file.change(**to(Mode.STANDBY))  # the stray file is in nobody's way
    with StateFile(path, **SUBJECT) as file:
        assert file.current.mode is Mode.STANDBY


def test_the_new_state_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (
            order.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file") or fsync(fd)
        ),
    )
    monkeypatch.setattr(
        Path, "replace", lambda self, target: order.append("rename") or replace(self, target)
    )
    with StateFile(tmp_path / "s", **SUBJECT):
        assert order == ["file", "rename", "folder"]


def test_a_failed_save_keeps_the_old_mode_and_a_second_try_settles_it(tmp_path, monkeypatch):
    path = tmp_path / "s"
    with StateFile(path, **SUBJECT) as file:

        def refuse(folder):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(state, "_sync_folder", refuse)
        with pytest.raises(
            StateError, match="found Input/output error; wanted to save mode standby"
        ):
            file.change(**to(Mode.STANDBY))
        assert file.current.mode is Mode.PRIMARY
        monkeypatch.undo()
        # Renamed and not confirmed: what is on disk is another mode than the one in force.
        file.change(**to(Mode.PRIMARY))
    with StateFile(path, **SUBJECT) as file:
        assert file.current.mode is Mode.PRIMARY


def test_the_state_is_readable_for_its_owner_only(tmp_path):
    with StateFile(tmp_path / "s", **SUBJECT):
        assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {0o600}


def test_a_state_behind_a_link_is_changed_where_it_lies(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "s")
    with StateFile(tmp_path / "link", **SUBJECT) as file:
        file.change(**to(Mode.STANDBY))
    assert json.loads((tmp_path / "real" / "s").read_text())["mode"] == "standby"
    assert (tmp_path / "link").is_symlink()


# ------------------------------------------------------------------ the control socket
@pytest.fixture
def controlled(serve, tmp_path):
    @asynccontextmanager
    async def start(role=Role.SECONDARY, checks=(), path=None, runs=True):
        path = path or tmp_path / "c.sock"
        async with serve(role, checks, runs=runs) as node:
            control = Control(
                path,
                role=role,
                state=node.state,
                pages=node.pages,
                checks=node.checks,
                clock=node.clock,
                sink=node.sink,
            )
            await control.start()
            try:
                yield node, path
            finally:
                await control.stop()

    return start


async def call(path, request):
    """Speak the protocol as its docstring says; bytes go as they are."""
    data = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1
    return json.loads(answer)


async def test_status_tells_everything_about_the_node(controlled):
    check = TcpCheck("app", "127.0.0.1", 1, pages=frozenset({Page.STATUS}))
    async with controlled(Role.PRIMARY, [check], runs=False) as (node, path):
        node.checks._records[0].fold("refused", node.clock.monotonic())
        node.pages.refresh()
        answer = await call(path, {"command": "status"})
    (shown,) = answer.pop("checks")
    assert shown.pop("age_s") < 20
    detail = shown.pop("detail")
    assert shown == {"name": "app", "passing": False, "stale": False, "pages": ["status"]}
    reasons = answer["pages"]["status"].pop("reasons")
    assert reasons[0].startswith("check app: ")
    assert detail
    ok = {"code": 200, "text": "MOBILEIRON-STATUS: OK (Mode: Primary)", "reasons": []}
    assert answer == {
        "version": 1,
        "node": "a",
        "role": "primary",
        "mode": "primary",
        "state": "not_available",
        "since": "1970-01-01T00:00:00Z",
        "cause": "role",
        "by": "",
        "reason": "",
        "pages": {"status": {"code": 503, "text": "MOBILEIRON-STATUS: ERROR"}, "hastatus": ok},
    }


async def test_failover_mode_is_saved_shown_told_and_warned_of(controlled, tmp_path):
    async with controlled(Role.SECONDARY) as (node, path):
        request = {"command": "failover-mode", "mode": "primary", "reason": "the primary is gone"}
        answer = await call(path, request)
        # The answer comes after the pages have changed, and those after the disk.
        assert (await node.get("/status/status.html"))[0] == 200
        assert json.loads((tmp_path / "state.json").read_text())["mode"] == "primary"
    assert (answer["mode"], answer["role"], answer["state"]) == ("primary", "secondary", "active")
    assert (answer["cause"], answer["reason"]) == ("operator", "the primary is gone")
    assert answer["by"] == f"uid {os.geteuid()}"
    assert answer["changed"] is True
    assert "does not move traffic by itself" in answer["warnings"][0]
    (event,) = node.sink.named("agent.mode-changed")
    assert (event.fields["from"], event.fields["to"]) == ("standby", "primary")


async def test_failover_mode_secondary_warns_of_the_scheduler(controlled):
    async with controlled(Role.PRIMARY) as (node, path):
        answer = await call(path, {"command": "failover-mode", "mode": "secondary"})
        assert (await node.get("/status/status.html"))[0] == 503
    assert (answer["mode"], answer["state"], answer["reason"]) == ("standby", "standby", "")
    assert "does not restart the replication scheduler" in answer["warnings"][0]


async def test_failover_mode_can_be_repeated_in_every_state(controlled):
    async with controlled(Role.SECONDARY) as (node, path):
        for mode in ("secondary", "primary", "primary", "primary", "secondary", "secondary"):
            request = {"command": "failover-mode", "mode": mode, "reason": mode}
            answers = [await call(path, request), await call(path, request)]
            assert answers[1]["changed"] is False
            assert answers[0]["since"] == answers[1]["since"]
            assert answers[0]["warnings"] == answers[1]["warnings"]
        assert len(node.sink.named("agent.mode-changed")) == 2


async def test_a_mode_that_cannot_be_saved_is_not_shown(controlled, monkeypatch):
    async with controlled(Role.SECONDARY) as (node, path):

        def refuse(path, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(state, "_write_synced", refuse)
        answer = await call(path, {"command": "failover-mode", "mode": "primary"})
        assert answer["error"] == "failed"
        assert "found No space left on device" in answer["detail"]
        assert (await node.get("/hastatus.html"))[1].endswith("(Mode: Standby)\n")
        assert not node.sink.named("agent.mode-changed")


async def test_the_pages_answer_while_the_disk_hangs(controlled, monkeypatch):
    import threading

    free, entered = threading.Event(), threading.Event()
    write = state._write_synced

    def slow(path, data):
        entered.set()
        free.wait(20)
        write(path, data)

    async with controlled(Role.SECONDARY) as (node, path):
        monkeypatch.setattr(state, "_write_synced", slow)
        change = asyncio.ensure_future(call(path, {"command": "failover-mode", "mode": "primary"}))
        assert await asyncio.to_thread(entered.wait, 20)
        assert (await node.get("/hastatus.html"))[1].endswith("(Mode: Standby)\n")
        free.set()
        assert (await change)["mode"] == "primary"


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        (b"", "found no JSON"),
        (b"\n", "found no JSON"),
        (b"\xff\xff\n", "found no JSON"),
        (b"[" * 60_000 + b"\n", "found no JSON"),
        (b"[]\n", "found no JSON object"),
        ({}, "found command None; use status or failover-mode"),
        ({"command": ["status"]}, "found command"),
        ({"command": "reboot"}, "found command 'reboot'"),
        ({"command": "status", "force": 1}, "found force; status takes command"),
        ({"command": "failover-mode"}, "found mode None; use primary or secondary"),
        ({"command": "failover-mode", "mode": "standby"}, "found mode 'standby'"),
        ({"command": "failover-mode", "mode": ["primary"]}, "found mode"),
        ({"command": "failover-mode", "mode": "primary", "reason": 7}, "a reason that is no text"),
        ({"command": "failover-mode", "mode": "primary", "reason": "a\nb"}, "control characters"),
        ({"command": "failover-mode", "mode": "primary", "reason": "\ud800"}, "control characters"),
        ({"command": "failover-mode", "mode": "primary", "reason": "é" * 1001}, "at most 1000"),
        ({"command": "failover-mode", "mode": "primary", "node": "b"}, "found node; failover-mode"),
        (b'{"command": "status", "x": "' + b"x" * 70_000 + b'"}\n', "more than 65536 bytes"),
    ],
)
async def test_a_request_that_is_not_understood_changes_nothing(controlled, request_, detail):
    async with controlled(Role.SECONDARY) as (node, path):
        before = node.state.current
        if request_ == b"":
            _, out = await _say_nothing_and_end(path)
            answer = json.loads(out)
        else:
            answer = await call(path, request_)
        assert answer["error"] == "invalid"
        assert detail in answer["detail"]
        assert node.state.current is before


async def _say_nothing_and_end(path):
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write_eof()
    out = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return reader, out


async def test_a_longest_reason_survives_a_restart(controlled, tmp_path):
    async with controlled(Role.SECONDARY) as (_, path):
        reason = "🙂" * 1000
        request = {"command": "failover-mode", "mode": "primary", "reason": reason}
        assert (await call(path, request))["reason"] == reason
    with StateFile(tmp_path / "state.json", node="a", role=Role.SECONDARY, now_wall=0) as file:
        assert file.current.reason == reason


async def test_a_silent_caller_holds_up_nobody_and_not_the_end(controlled):
    async with controlled() as (_, path):
        silent = await asyncio.open_unix_connection(str(path))
        assert (await call(path, {"command": "status"}))["node"] == "a"
    silent[1].close()


async def test_the_socket_is_its_owners_only_and_gone_after_the_end(controlled):
    mask = os.umask(0)
    try:
        async with controlled() as (_, path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()
    finally:
        os.umask(mask)


@pytest.fixture
def open_folder():
    """A short folder that every user may enter; tmp_path is its owner's only."""
    folder = Path(tempfile.mkdtemp(prefix="lbp-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


STRANGER = """
import os, socket, sys
os.setuid(65534)
caller = socket.socket(socket.AF_UNIX)
caller.connect(sys.argv[1])
sys.stdout.write(caller.recv(9999).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused_on_the_word_of_the_kernel(controlled, open_folder):
    async with controlled(path=open_folder / "c.sock") as (_, path):
        path.chmod(0o666)  # as if the mode of the file had not stopped them
        caller = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STRANGER, str(path), stdout=subprocess.PIPE
        )
        out, _ = await caller.communicate()
    detail = "found uid 65534; wanted root or uid 0"
    assert json.loads(out) == {"error": "forbidden", "detail": detail}


async def test_a_socket_left_by_a_dead_agent_is_replaced(controlled, tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "c.sock"))
    async with controlled() as (_, path):
        assert (await call(path, {"command": "status"}))["node"] == "a"


async def test_a_socket_that_somebody_listens_on_is_left_alone(controlled, tmp_path):
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ControlError, match="found somebody listening there; wanted"):
            async with controlled():
                pass
    assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "missing-folder", "too-long"])
async def test_a_path_that_can_hold_no_socket_is_refused(controlled, tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path = path / "y" if kind == "missing-folder" else tmp_path / ("x" * 120)
    with pytest.raises(ControlError, match="wanted a control socket there; m"):
        async with controlled(path=path):
            pass
    if kind == "file":
        assert path.read_text() == "precious"


# ------------------------------------------------------------------ the whole agent
class Agent:
    """`daemon.run` in a task, with what a test wants to know of it."""

    def __init__(self, folder, clock, sink, role=Role.PRIMARY, checks=(), port=0, drain_s=0.0):
        self.control = folder / "agent.sock"
        self.sink = sink
        self.stop = asyncio.Event()
        arguments = (
            "a", role, ("127.0.0.1", port), self.control, folder / "agent.json",
            checks, drain_s, clock, self.stop, sink,
        )  # fmt: skip
        self.task = asyncio.ensure_future(daemon.run(*arguments))

    @property
    def port(self):
        return int(self.sink.named("agent.started")[-1].fields["listen"].rpartition(":")[2])

    async def get(self, path):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer.rpartition(b"\r\n\r\n")[2].decode().strip()


@pytest.fixture
def agent(tmp_path, clock, sink, eventually):
    @asynccontextmanager
    async def start(**kwargs):
        one = Agent(tmp_path, clock, sink, **kwargs)
        try:
            already = len(sink.named("agent.started"))
            await eventually(lambda: one.task.done() or len(sink.named("agent.started")) > already)
            if one.task.done():
                one.task.result()
            yield one
        finally:
            one.stop.set()
            await asyncio.gather(one.task, return_exceptions=True)

    return start


async def test_an_agent_starts_serves_changes_mode_and_keeps_it(agent, eventually):
    async def says(one, text):
        return await one.get("/hastatus.html") == text

    async with agent(role=Role.SECONDARY) as one:
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: OK (Mode: Standby)"))
        await call(one.control, {"command": "failover-mode", "mode": "primary", "reason": "x"})
        assert await one.get("/hastatus.html") == "MOBILEIRON-STATUS: OK (Mode: Primary)"
    async with agent(role=Role.SECONDARY) as again:
        await eventually(lambda: says(again, "MOBILEIRON-STATUS: OK (Mode: Primary)"))
        assert (await call(again.control, {"command": "status"}))["cause"] == "operator"


async def test_stopping_drains_first_and_leaves_nothing_behind(agent, eventually, clock, tmp_path):
    async with agent(drain_s=600) as one:
        await eventually(lambda: one.sink.named("agent.page-changed") != [])
        port = one.port
        one.stop.set()
        await eventually(lambda: len(one.sink.named("agent.page-changed")) == 4)
        assert await one.get("/status/status.html") == "MOBILEIRON-STATUS: ERROR"
        status = await call(one.control, {"command": "status"})
        assert status["pages"]["hastatus"]["reasons"] == ["the agent is stopping"]
        assert not one.task.done()
        clock.jumped_s = 601
        await asyncio.wait_for(one.task, 20)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not one.control.exists()
    names = [event.name for event in one.sink.events]
    assert (names[0], names[-1]) == ("agent.started", "agent.stopped")
    StateFile(tmp_path / "agent.json", node="a", role=Role.PRIMARY, now_wall=0).close()


async def test_a_cancelled_agent_ends_at_once_and_leaves_nothing_behind(agent, tmp_path):
    async with agent(drain_s=600) as one:
        port = one.port
        one.stop.set()
        await asyncio.sleep(0)
        one.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(one.task, 20)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not one.control.exists()
    StateFile(tmp_path / "agent.json", node="a", role=Role.PRIMARY, now_wall=0).close()


async def test_a_second_agent_is_refused_and_does_not_disturb_the_first(agent):
    async with agent() as one:
        with pytest.raises(StateError, match=f"pid {os.getpid()}"):
            async with agent():
                pass
        assert (await call(one.control, {"command": "status"}))["node"] == "a"


async def test_a_taken_port_is_refused_and_gives_everything_back(agent, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError):
        async with agent(port=taken.getsockname()[1]):
            pass
    assert not (tmp_path / "agent.sock").exists()
    async with agent():
        pass


async def test_a_failing_check_turns_the_pages_and_its_return_turns_them_back(agent, eventually):
    async def says(one, text):
        return await one.get("/status/status.html") == text

    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    check = TcpCheck("app", "127.0.0.1", port, interval_s=0.05, timeout_s=20, max_age_s=20)
    async with agent(checks=[check]) as one:
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: OK"))
        server.close()
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: ERROR"))
        server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", port)
        await eventually(lambda: says(one, "MOBILEIRON-STATUS: OK"))
    server.close()
    changes = [
        e.fields for e in one.sink.named("agent.page-changed") if e.fields["page"] == "status"
    ]
    assert [change["to"] for change in changes[:3]] == [
        "MOBILEIRON-STATUS: OK",
        "MOBILEIRON-STATUS: ERROR",
        "MOBILEIRON-STATUS: OK",
    ]
    assert "ConnectionRefusedError" in changes[1]["reasons"][0]
