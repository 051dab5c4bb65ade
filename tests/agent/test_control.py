"""The control socket: what it tells, what it changes, and whom it refuses."""

import asyncio
import grp
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lb_probe.agent import state
from lb_probe.agent.check import TcpCheck
from lb_probe.agent.control import Act, Command, Control, ControlError
from lb_probe.agent.node import Node
from lb_probe.agent.roles import Grant, Roles
from lb_probe.agent.state import StateFile
from lb_probe.agent.verbs import Verbs
from lb_probe.core.model import Page, Role
from lb_probe.core.rank import Rank
from lb_probe.events import audit
from lb_probe.events.audit import Audit


async def _nothing(request, caller):
    return {"done": True}


@pytest.fixture
def controlled(serve, tmp_path):
    @asynccontextmanager
    async def start(role=Role.SECONDARY, checks=(), path=None, runs=True, grants=()):
        path = path or tmp_path / "c.sock"
        async with serve(role, checks, runs=runs) as node:
            whole = Node(
                "a",
                role,
                state=node.state,
                checks=node.checks,
                pages=node.pages,
                clock=node.clock,
                sink=node.sink,
            )
            log = Audit(tmp_path / "a.audit", node.clock.wall)
            roles = Roles(grants, node.clock) if grants else None
            pin = Command(name="pin", request=Act, answer=_nothing, keeps_trust=True)
            commands = [*Verbs(whole, ()).commands(), *([pin] if grants else [])]
            control = Control(path, commands, log, roles)
            await control.start()
            try:
                yield node, path
            finally:
                await control.stop()

    return start


async def test_status_tells_everything_about_the_node(controlled, call):
    """R2, R99: the words of the guide, with cause and time."""
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
        "ha": {"enabled": False, "since": None, "by": "", "reason": ""},
        "clients": {"enabled": True, "since": None, "by": "", "reason": ""},
        "quarantine": None,
        "data_suspect": "",
        "pages": {"status": {"code": 503, "text": "MOBILEIRON-STATUS: ERROR"}, "hastatus": ok},
    }


async def test_failover_mode_is_saved_shown_told_and_warned_of(controlled, tmp_path, call):
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


async def test_failover_mode_secondary_warns_of_the_scheduler(controlled, call):
    async with controlled(Role.PRIMARY) as (node, path):
        answer = await call(path, {"command": "failover-mode", "mode": "secondary"})
        assert (await node.get("/status/status.html"))[0] == 503
    assert (answer["mode"], answer["state"], answer["reason"]) == ("standby", "standby", "")
    assert "does not restart the replication scheduler" in answer["warnings"][0]


async def test_failover_mode_can_be_repeated_in_every_state(controlled, call):
    async with controlled(Role.SECONDARY) as (node, path):
        for mode in ("secondary", "primary", "primary", "primary", "secondary", "secondary"):
            request = {"command": "failover-mode", "mode": mode, "reason": mode}
            answers = [await call(path, request), await call(path, request)]
            assert answers[1]["changed"] is False
            assert answers[0]["since"] == answers[1]["since"]
            assert answers[0]["warnings"] == answers[1]["warnings"]
        assert len(node.sink.named("agent.mode-changed")) == 2


async def test_a_mode_that_cannot_be_saved_is_not_shown(controlled, monkeypatch, call):
    async with controlled(Role.SECONDARY) as (node, path):

        def refuse(path, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(state, "_write_synced", refuse)
        answer = await call(path, {"command": "failover-mode", "mode": "primary"})
        assert answer["error"] == "failed"
        assert "found No space left on device" in answer["detail"]
        assert (await node.get("/hastatus.html"))[1].endswith("(Mode: Standby)")
        assert not node.sink.named("agent.mode-changed")


async def test_the_pages_answer_while_the_disk_hangs(controlled, monkeypatch, call):
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
        assert (await node.get("/hastatus.html"))[1].endswith("(Mode: Standby)")
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
        ({}, "found command None; use one of failover-mode, ha-disable, ha-enable, status"),
        ({"command": ["status"]}, "found command"),
        ({"command": "reboot"}, "found command 'reboot'"),
        ({"command": "sync-now"}, "found no `sync` of this agent in probes.yaml"),
        ({"command": "trust-list"}, "found no `trust` of this agent in probes.yaml"),
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
async def test_a_request_that_is_not_understood_changes_nothing(controlled, request_, detail, call):
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


async def test_a_longest_reason_survives_a_restart(controlled, tmp_path, call):
    async with controlled(Role.SECONDARY) as (_, path):
        reason = "🙂" * 1000
        request = {"command": "failover-mode", "mode": "primary", "reason": reason}
        assert (await call(path, request))["reason"] == reason
    with StateFile(tmp_path / "state.json", node="a", role=Role.SECONDARY, now_wall=0) as file:
        assert file.current.reason == reason


async def test_a_silent_caller_holds_up_nobody_and_not_the_end(controlled, call):
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
path, uid, groups, *requests = sys.argv[1:]
os.setgroups([int(one) for one in groups.split(",") if one])
os.setgid(65534)
os.setuid(int(uid))
for request in requests:
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(path)
    if request:
        caller.sendall(request.encode() + b"\\n")
    answer = b""
    while piece := caller.recv(9999):
        answer += piece
    print(answer.decode().strip())
"""


async def as_user(path, uid, groups, *requests):
    """Say something as another user, and return what is answered to each request."""
    caller = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STRANGER,
        str(path),
        str(uid),
        ",".join(map(str, groups)),
        *(json.dumps({"command": one}) if one else "" for one in requests),
        stdout=subprocess.PIPE,
    )
    out, _ = await caller.communicate()
    return [json.loads(line) for line in out.splitlines()]


def on_record(tmp_path):
    return list(audit.lines(tmp_path / "a.audit"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused_on_the_word_of_the_kernel(controlled, open_folder, tmp_path):
    async with controlled(path=open_folder / "c.sock") as (_, path):
        path.chmod(0o666)  # as if the mode of the file had not stopped them
        answers = await as_user(path, 65534, (), "", "", "")
    detail = "found uid 65534; wanted root or uid 0"
    assert answers == [{"error": "forbidden", "detail": detail}] * 3
    first, *others = on_record(tmp_path)
    assert (first["action"], first["actor"], first["outcome"]) == (
        "connect", "uid 65534", "forbidden",
    )  # fmt: skip
    assert not others  # not a line for each knock


GRANTS = (
    Grant("user", "daemon", Rank.OPERATOR),
    Grant("group", "games", Rank.VIEWER),
    Grant("group", "mail", Rank.ADMIN),
    Grant("group", "no-such-group-here", Rank.ADMIN),
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_role_by_user_or_group_opens_what_it_says_and_no_more(
    controlled, open_folder, tmp_path
):
    """R125: reads take a viewer, acts an operator, trust an admin; refusals are on record."""
    games, mail = (grp.getgrnam(name).gr_gid for name in ("games", "mail"))
    daemon = pwd.getpwnam("daemon").pw_uid
    words = ("status", "ha-enable", "pin")
    async with controlled(path=open_folder / "c.sock", grants=GRANTS) as (_, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666

        async def may(uid, *groups):
            answers = await as_user(path, uid, groups, *words)
            return [answer.get("error", "done") for answer in answers], answers

        refused = "forbidden"
        assert (await may(4242))[0] == [refused] * 3
        assert (await may(65534, mail))[0] == [refused] * 3  # nobody can be anybody
        found, answers = await may(4243, games)
        assert found == ["done", refused, refused]
        assert answers[1]["detail"] == ("found uid 4243, who is viewer; wanted the role operator")
        assert (await may(daemon))[0] == ["done", "done", refused]
        assert (await may(4244, games, mail))[0] == ["done"] * 3  # the highest counts
    lines = on_record(tmp_path)
    turned = [(one["actor"], one["action"]) for one in lines if one["outcome"] == refused]
    assert ("uid 4242", "connect") in turned
    assert ("uid 4243", "ha-enable") in turned
    done = [(one["actor"], one["role"], one["action"]) for one in lines if one["outcome"] == "done"]
    assert (f"uid {daemon}", "operator", "ha-enable") in done
    assert ("uid 4244", "admin", "pin") in done


async def test_a_directory_that_hangs_gives_no_role_and_takes_one_thread(monkeypatch):
    import threading

    from lb_probe.agent import roles
    from lb_probe.clock import SystemClock

    free, looks = threading.Event(), []

    def hang(grants):
        looks.append(grants)
        free.wait(20)
        return roles.Known({4242: Rank.VIEWER})

    monkeypatch.setattr(roles, "looked_up", hang)
    monkeypatch.setattr(roles, "LOOK_UP_S", 0.05)
    found, peer = Roles(GRANTS, SystemClock()), roles.Peer(4242, frozenset())
    assert await asyncio.gather(*(found.rank(peer) for _ in range(50))) == [Rank.NONE] * 50
    assert len(looks) == 1
    free.set()
    monkeypatch.setattr(roles, "LOOK_UP_S", 20.0)
    assert await found.rank(peer) is Rank.VIEWER
    assert len(looks) == 1


async def test_a_socket_left_by_a_dead_agent_is_replaced(controlled, tmp_path, call):
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
