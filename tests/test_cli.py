"""The verbs against a canned API: what they print, ask, refuse, and leave with (R125, X5, X13)."""

import copy
import fcntl
import json
import os
import pty
import select
import shlex
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import termios
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

import lb_probe
from lb_probe import cli, client
from lb_probe.core.model import Gate
from lb_probe.ports import Conflict, NotFound, Refused, StoreError
from lb_probe.render.group import status_table
from lb_probe.render.levels import RANKS, next_step
from lb_probe.render.text import Look

PROJECT = Path(lb_probe.__file__).parents[1]
OK_PROBE = {"result": "ok", "phase": None, "detail": "", "duration_s": 0.004, "age_s": 0.3}
BAD_PROBE = {**OK_PROBE, "result": "failed", "phase": "tls", "detail": "certificate expired"}
GROUP = {
    "name": "epmm",
    "policy": "manual-resume",
    "act": True,
    "assigned": "epmm-a",
    "latched": False,
    "condition": "normal",
    "rule": "P1",
    "reason": "both nodes are well",
    "blocked": [],
    "hold": None,
    "generation": 7,
    "nodes": [
        {
            "name": "epmm-a",
            "role": "primary",
            "serving": "ok",
            "mode": "primary",
            "probes": {"status": OK_PROBE, "hastatus": OK_PROBE},
        },
        {
            "name": "epmm-b",
            "role": "secondary",
            "serving": "fail",
            "mode": "standby",
            "probes": {"status": BAD_PROBE, "hastatus": OK_PROBE},
        },
    ],
    "adapters": [
        {
            "name": name,
            "type": "haproxy",
            "wanted": "epmm-a",
            "seen": "epmm-a",
            "usable": True,
            "in_sync": True,
            "detail": "",
        }
        for name in ("edge-1", "edge-2")
    ],
    "last_change": {
        "kind": "resume",
        "from": "epmm-b",
        "to": "epmm-a",
        "at": "2026-01-01T00:00:00Z",
        "evidence": ["epmm-a answered twice"],
    },
}
GATES = [
    {"id": "primary-serving", "passed": True, "found": "ok for 30s", "wanted": "ok"},
    {"id": "synced", "passed": False, "found": "nobody says so", "wanted": "a newer sync"},
]
PLAN = {
    "verb": "resume",
    "group": "epmm",
    "from": "epmm-b",
    "to": "epmm-a",
    "generation": 7,
    "gates": [GATES[0]],
    "commands": ["edge-1: set map /etc/haproxy/maps/active.map epmm a"],
}
HISTORY = {
    "group": "epmm",
    "kind": "failover",
    "at": "2026-01-01T00:00:00Z",
    "generation": 7,
    "details": {"from": "epmm-a", "to": "epmm-b", "reason": "why"},
}
ACTS = [name for name, _, _ in cli.ACTS]


def group(**changes: object) -> dict:
    return {**copy.deepcopy(GROUP), **changes}


def failed_over(**changes: object) -> dict:
    found = group(assigned="epmm-b", latched=True, condition="failed-over", **changes)
    found["nodes"][1]["serving"] = "ok"
    return found


# ------------------------------------------------------------------ the stub
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply(None)

    def do_POST(self) -> None:
        self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _reply(self, body: dict | None) -> None:
        stub = self.server
        stub.asked.append((self.command, self.path, body))
        status, answer = stub.find(self.command, self.path.partition("?")[0], body)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


class Stub(ThreadingHTTPServer):
    """An operator API with canned answers, in the shapes of DESIGN section 7."""

    def __init__(self, place: tuple[str, int] | str) -> None:
        if isinstance(place, str):
            self.address_family = socket.AF_UNIX
        self.asked: list[tuple[str, str, dict | None]] = []
        self.routes: dict[tuple[str, str], tuple[int, object]] = {
            ("GET", "/groups"): (200, {"groups": [GROUP]}),
            ("GET", "/groups/epmm"): (200, GROUP),
            ("GET", "/groups/epmm/explain"): (200, {"group": "epmm", "text": "Why:\nall is well"}),
            ("GET", "/history"): (200, {"history": [HISTORY]}),
        }
        self.plan: tuple[int, object] = (200, {"dry_run": True, "plan": PLAN, "passed": True})
        self.act: tuple[int, object] = (200, group(generation=8))
        super().__init__(place, Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "stub", 0

    def find(self, method: str, path: str, body: dict | None) -> tuple[int, object]:
        if method == "POST":
            return self.plan if body and body["dry_run"] else self.act
        missing = {"error": "not-found", "detail": f"no group at {path}"}
        return self.routes.get((method, path.removeprefix("/api/v1")), (404, missing))

    @property
    def url(self) -> str:
        place = self.server_address
        return f"unix://{place}" if isinstance(place, str) else f"http://{place[0]}:{place[1]}"

    @property
    def acts(self) -> list[dict]:
        return [body for _, _, body in self.asked if body and not body["dry_run"]]


@contextmanager
def stub_at(place: tuple[str, int] | str) -> Iterator[Stub]:
    stub = Stub(place)
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()
        thread.join(20)
        if isinstance(place, str):
            Path(place).unlink()


@pytest.fixture(params=["tcp", "unix"])
def any_api(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stub]:
    with stub_at(("127.0.0.1", 0) if request.param == "tcp" else str(tmp_path / "api")) as stub:
        yield stub


@pytest.fixture
def api() -> Iterator[Stub]:
    with stub_at(("127.0.0.1", 0)) as stub:
        yield stub


def run(where: Stub | str | None, *words: str) -> Result:
    url = where.url if isinstance(where, Stub) else where
    env = {"LB_PROBE_URL": url, "LB_PROBE_CONFIG": None, "LB_PROBE_TOKEN": None}
    return CliRunner().invoke(cli.cli, list(words), env=env, prog_name="lb-probe")


def environment(stub: Stub | None = None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LB_PROBE")}
    kept |= {"PYTHONPATH": str(PROJECT), "TERM": "xterm", "TZ": "Asia/Kolkata"}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        kept.pop(name, None)
    return kept | ({"LB_PROBE_URL": stub.url} if stub else {})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, *words: str, env: dict[str, str], size: tuple[int, int]) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lb_probe", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            close_fds=True,
        )
        os.close(slave)
        self.seen = ""

    def until(self, wanted: str) -> str:
        """Read until `wanted` came; return what came before it, and forget all of it."""
        deadline = time.monotonic() + 40
        while wanted not in self.seen:
            assert time.monotonic() < deadline, f"wanted {wanted!r}, found {self.seen!r}"
            assert self._read(), f"wanted {wanted!r} before the end, found {self.seen!r}"
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def end(self) -> tuple[int, str]:
        while self._read():
            pass
        return self.process.wait(40), self.seen

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """Send what Ctrl-C sends, once the command waits for somebody to type.

        Python loses a signal that comes between its last look and the system call that waits.
        """
        state = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + 40
        while state.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, "the command never waited"
            time.sleep(0.01)
        self.process.send_signal(signal.SIGINT)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], 40)
        assert ready, f"nothing more came after {self.seen!r}"
        try:
            part = os.read(self.master, 65536)
        except OSError:  # Linux says EIO when the other side closed
            return False
        self.seen += part.decode()
        return bool(part)


@contextmanager
def terminal(
    *words: str, env: dict[str, str], size: tuple[int, int] = (50, 200)
) -> Iterator[Terminal]:
    """Args: size: Lines and columns."""
    found = Terminal(*words, env=env, size=size)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
        found.process.wait()
        os.close(found.master)


# ------------------------------------------------------------------ help
def test_the_help_page_has_every_verb_in_its_section_and_the_exit_codes():
    text = run(None, "--help").stdout
    places = [text.index(f"{section}:\n") for section in cli.SECTIONS]
    assert places == sorted(places)
    for name, verb in cli.cli.commands.items():
        assert f"  {name:<13} " in text
        assert verb.example in text
    for code, words in cli.EXIT_CODES:
        assert f"  {code:<3} {words}" in text
    assert run(None, "--version").stdout == f"lb-probe {lb_probe.__version__}\n"


def test_every_verb_of_the_contract_is_there():
    wanted = """
        demo init prober agent check probe status explain history replay backup publish haproxy
        check-nagios completion token audit notify
        resume failover switchover hold release swap-roles ack accept republish
    """
    assert sorted(cli.cli.commands) == sorted(wanted.split())


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_the_help_of_each_verb_shows_an_example(name):
    result = run(None, name, "--help")
    assert result.exit_code == 0
    assert "Example: lb-probe " in result.stdout
    assert "--config" in result.stdout


def test_every_example_is_a_line_that_the_command_understands():
    for verb in cli.cli.commands.values():
        words = shlex.split(verb.example)
        assert words.pop(0) == "lb-probe"
        with cli.cli.make_context("lb-probe", words) as ctx:
            found = cli.cli.get_command(ctx, words[0])
            with found.make_context(words[0], words[1:], parent=ctx):
                pass


# ------------------------------------------------------------------ reading
READING = [
    ["status"],
    ["status", "epmm"],
    ["explain", "epmm"],
    ["history"],
    ["history", "epmm", "--limit", "5"],
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_every_reading_verb_answers_in_every_format(any_api, words):
    table = run(any_api, *words)
    assert (table.exit_code, table.stderr) == (0, "")
    assert "epmm" in table.stdout or "all is well" in table.stdout
    as_json = run(any_api, *words, "-o", "json")
    found = json.loads(as_json.stdout)
    assert next(iter(found)) == "version"
    assert found["version"] == 1
    assert yaml.safe_load(run(any_api, *words, "-o", "yaml").stdout) == found


def test_one_and_all_groups_have_the_same_document(api):
    one = json.loads(run(api, "status", "epmm", "-o", "json").stdout)
    assert one == {"version": 1, "groups": [GROUP]}
    assert one == json.loads(run(api, "status", "-o", "json").stdout)


def test_the_keys_of_a_document_come_in_the_same_order_whatever_the_api_sends(api):
    first = run(api, "status", "-o", "json").stdout
    api.routes["GET", "/groups"] = (200, {"groups": [dict(reversed(GROUP.items()))]})
    assert run(api, "status", "-o", "json").stdout == first


def test_history_passes_group_and_limit_on(api):
    run(api, "history", "epmm", "--limit", "5")
    assert api.asked[-1][1] == "/api/v1/history?group=epmm&limit=5"
    run(api, "history", "--since", "7d", "--all")
    assert api.asked[-1][1] == "/api/v1/history?limit=50&since=7d&all=1"


def test_status_shows_traffic_condition_change_balancers_and_hold(api):
    hold = {"by": "ops", "reason": "x", "until": "2026-01-01T02:00:00Z", "hands_off": True}
    found = failed_over(hold=hold)
    found["adapters"][1]["in_sync"] = False
    api.routes["GET", "/groups"] = (200, {"groups": [found]})
    text = run(api, "status").stdout
    for part in (
        "epmm-b (ok)",
        "!  failed-over",
        "2026-01-01T00:00:00Z resume",
        "in sync 1/2, not: edge-2",
        "hands off, by ops until 2026-01-01T02:00:00Z",
        "epmm: awaiting manual resume: lb-probe explain epmm",
    ):
        assert part in text
    assert "\x1b" not in text


def test_the_worst_group_comes_first(api):
    fine, moved = group(name="a-fine"), failed_over(name="m-moved")
    down = failed_over(name="z-down")
    down["nodes"][1]["serving"] = "fail"
    late = group(name="n-late")
    late["adapters"][0]["in_sync"] = False
    api.routes["GET", "/groups"] = (200, {"groups": [fine, late, moved, down]})
    rows = run(api, "status").stdout.splitlines()[1:5]
    assert [row.split()[0] for row in rows] == ["z-down", "m-moved", "n-late", "a-fine"]


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({}, 0, "OK - 1 group, nothing to see to"),
        ({"condition": "failed-over", "latched": True}, 1, "WARNING - epmm: failed-over"),
        ({"condition": "unprotected"}, 1, "WARNING - epmm: unprotected"),
        ({"hold": {"by": "ops"}}, 1, "WARNING - epmm: normal, on hold"),
        ({"condition": "confirming"}, 0, "OK"),
        ({"condition": "not-serving"}, 2, "CRITICAL - epmm: not-serving"),
        ({"condition": "failover-blocked"}, 2, "CRITICAL - epmm: failover-blocked"),
        ({"condition": "a-new-word"}, 2, "CRITICAL - epmm: a-new-word"),
        ({"name": "e|pmm", "condition": "all-down"}, 2, "e/pmm"),
    ],
)
def test_a_monitor_gets_one_line_and_its_own_exit_codes(api, changes, code, word):
    api.routes["GET", "/groups"] = (200, {"groups": [{**GROUP, **changes}]})
    result = run(api, "check-nagios")
    assert result.exit_code == code
    assert word in result.stdout
    assert result.stdout.count("\n") == 1
    assert result.stdout.count("|") == 1


def test_a_load_balancer_out_of_sync_is_critical_and_a_silent_prober_unknown(api, tmp_path):
    apart = {**GROUP["adapters"][0], "in_sync": False}
    api.routes["GET", "/groups"] = (200, {"groups": [{**GROUP, "adapters": [apart]}]})
    assert run(api, "check-nagios").exit_code == 2
    api.routes["GET", "/groups"] = (200, {"groups": [{**GROUP, "adapters": [apart], "act": False}]})
    assert run(api, "check-nagios").exit_code == 0
    result = run(f"unix://{tmp_path}/none.sock", "check-nagios")
    assert (result.exit_code, result.stdout.split(" - ")[0]) == (3, "LB-PROBE UNKNOWN")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell):
    result = run(None, "completion", shell)
    assert result.exit_code == 0
    assert "_LB_PROBE_COMPLETE" in result.stdout


def test_every_condition_of_the_table_has_a_mark_and_an_unknown_one_is_bad():
    from lb_probe.core.failover import RULES

    words = {rule.condition for rule in RULES}
    assert words <= set(RANKS)
    new = group(condition="brand-new")
    assert "!! brand-new" in "\n".join(status_table([new], Look()))


def test_one_group_shows_probes_adapters_and_the_next_step(api):
    api.routes["GET", "/groups/epmm"] = (200, failed_over(blocked=["one-shot spent"]))
    text = run(api, "status", "epmm").stdout
    for part in (
        "awaiting manual resume: lb-probe explain epmm",
        "both nodes are well (rule P1)",
        "one-shot spent",
        "epmm-b -> epmm-a",
        "epmm-a answered twice",
        "certificate expired",
        "hastatus",
        "0.3s",
        "edge-2",
        "ok yes",
    ):
        assert part in text


def test_an_unassigned_group_says_how_to_assign_it(api):
    api.routes["GET", "/groups"] = (200, {"groups": [group(assigned=None, condition="unassigned")]})
    text = run(api, "status").stdout
    assert "nobody" in text
    assert "lb-probe failover epmm --to NODE --reason" in text


def test_what_a_node_sends_cannot_drive_the_terminal(api):
    evil = "\x1b]0;owned\x07\x9b2J\r\n\u202e"
    found = group(reason=evil)
    found["nodes"][0]["probes"]["status"] = {**BAD_PROBE, "detail": evil}
    api.routes["GET", "/groups/epmm"] = (200, found)
    api.routes["GET", "/groups/epmm/explain"] = (200, {"group": "epmm", "text": f"a\n{evil}b"})
    for words in (["status", "epmm"], ["explain", "epmm"], ["status", "epmm", "-o", "json"]):
        text = run(api, *words).stdout
        assert not set(text) & set("\x1b\x07\x9b\r\u202e")


def test_missing_and_odd_details_do_not_break_the_picture(api):
    bare = {"name": "epmm", "condition": "normal", "nodes": [{"name": "a"}], "adapters": []}
    odd = group(hold=7, last_change=[], blocked=3, assigned=["x"], latched=None, name="odd")
    odd["nodes"][0]["probes"] = "none"
    odd["adapters"][0]["usable"] = None
    for found in (bare, odd):
        api.routes["GET", "/groups/epmm"] = (200, found)
        assert run(api, "status", "epmm").exit_code == 0
    api.routes["GET", "/groups"] = (200, {"groups": [bare, odd]})
    assert run(api, "status").exit_code == 0
    api.routes["GET", "/groups"] = (200, {"groups": []})
    assert run(api, "status").stdout == "no groups\n"
    api.routes["GET", "/history"] = (200, {"history": [{}, {"at": "soon", "details": [1]}]})
    assert run(api, "history").exit_code == 0


def test_exit_code_10_is_failed_over_and_11_not_served_wins(api):
    down = group(name="down")
    down["nodes"][0]["serving"] = "unknown"
    moved_by_hand = group(assigned="epmm-b")
    moved_by_hand["nodes"][1]["serving"] = "ok"
    for groups, code in [
        ([group()], 0),
        ([group(), failed_over()], 10),
        ([group(), moved_by_hand], 10),
        ([failed_over(), down], 11),
        ([group(assigned=None, condition="unassigned")], 0),
    ]:
        api.routes["GET", "/groups"] = (200, {"groups": groups})
        assert run(api, "status", "--exit-code").exit_code == code
        assert run(api, "status").exit_code == 0


def test_a_reader_that_closes_early_ends_the_command_without_a_traceback(api):
    shell = f"{sys.executable} -m lb_probe status -o json | head -c 1"
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=environment(api), capture_output=True, text=True, timeout=50
    )
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("status", "word", "code", "next_step"),
    [
        (401, "unauthorized", 4, "LB_PROBE_TOKEN_FILE"),
        (403, "forbidden", 4, "whose role and groups allow it"),
        (404, "not-found", 2, "lb-probe status"),
        (422, "invalid", 2, "nothing was changed"),
        (500, "failed", 1, "log"),
    ],
)
def test_each_error_has_its_exit_code_and_names_the_next_step(api, status, word, code, next_step):
    answer = {"error": word, "detail": "the detail"}
    api.routes["GET", "/groups"] = (status, answer)
    api.plan = (status, answer)
    for words in (["status"], ["ack", "epmm", "--reason", "why", "--yes"]):
        result = run(api, *words)
        assert (result.exit_code, result.stdout) == (code, "")
        assert "the detail" in result.stderr
        assert next_step in result.stderr


def test_an_unreachable_api_is_exit_3_with_address_checks_and_break_glass(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    result = run(url, "status")
    assert result.exit_code == 3
    for part in (url, "systemctl status lb-probe", "lb-probe publish GROUP --to NODE --offline"):
        assert part in result.stderr


@pytest.mark.parametrize("answer", [b"<html>hi</html>", b'{"groups": [', {"groups": 7}, [1]])
def test_a_nonsense_answer_is_said_to_be_one(api, answer):
    api.routes["GET", "/groups"] = (200, answer)
    result = run(api, "status")
    assert result.exit_code == 1
    assert "check the address" in result.stderr


def test_an_unknown_group_is_exit_2(api):
    assert run(api, "status", "nope").exit_code == 2
    assert run(api, "explain", "nope").exit_code == 2


def test_a_broken_configuration_is_exit_2_before_and_after_the_verb(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text("api: [")
    for words in (["-c", str(file), "status"], ["status", "-c", str(file)]):
        result = run(None, *words)
        assert result.exit_code == 2
        assert f"{file}: is not YAML" in result.stderr


def test_the_configuration_after_the_verb_wins(api, tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text(f"api: {{listen: '{api.url.removeprefix('http://')}'}}\n")
    assert run(None, "-c", str(tmp_path / "none.yaml"), "status", "-c", str(good)).exit_code == 0


# ------------------------------------------------------------------ acting
def act_words(verb: str, *more: str) -> list[str]:
    extra = ["--for", "2h"] if verb == "hold" else []
    return [verb, "epmm", *extra, "--reason", "it is time", *more]


@pytest.mark.parametrize("verb", ACTS)
def test_an_act_shows_the_plan_and_acts_on_the_generation_that_was_shown(any_api, verb):
    result = run(any_api, *act_words(verb, "--yes"))
    assert result.exit_code == 0, result.stderr
    assert "epmm-b -> epmm-a" in result.stderr
    assert "edge-1: set map /etc/haproxy/maps/active.map epmm a" in result.stderr
    assert "[ok] primary-serving: ok for 30s; wanted: ok" in result.stderr
    assert f"{verb} epmm: done" in result.stdout
    assert "in sync 2/2" in result.stdout
    assert [path for _, path, _ in any_api.asked] == [f"/api/v1/groups/epmm/{verb}"] * 2
    plan, act = (body for _, _, body in any_api.asked)
    assert (plan["dry_run"], "generation" in plan) == (True, False)
    assert (act["dry_run"], act["generation"], act["reason"]) == (False, 7, "it is time")


@pytest.mark.parametrize("verb", ACTS)
def test_an_act_without_a_reason_is_a_usage_error_with_an_example(api, verb):
    for words in ([verb, "epmm", "--yes"], [verb, "epmm", "--yes", "--reason", "  "]):
        result = run(api, *words)
        assert result.exit_code == 2
        assert f"lb-probe {verb} epmm" in result.stderr
        assert "--reason '" in result.stderr
    assert api.asked == []


@pytest.mark.parametrize("verb", ACTS)
def test_without_terminal_and_yes_an_act_is_refused_at_once_with_the_line_to_paste(api, verb):
    result = run(api, *act_words(verb))
    assert result.exit_code == 6
    line = shlex.join(["lb-probe", *act_words(verb), "--yes"])
    assert f"\n  {line}\n" in result.stderr
    assert api.asked == []


def test_options_travel_in_the_body(api):
    run(api, "failover", "epmm", "--to", "epmm-c", "--reason", "why", "--yes")
    assert api.acts[-1]["to"] == "epmm-c"
    run(api, "hold", "epmm", "--for", "90m", "--hands-off", "--reason", "why", "--yes")
    assert (api.acts[-1]["for"], api.acts[-1]["hands_off"]) == ("90m", True)
    words = ["--override", "a", "--override", "b", "--attest", "synced=Completed 10:42Z = fine"]
    run(api, "resume", "epmm", "--reason", "why", "--yes", *words)
    assert api.acts[-1]["override"] == ["a", "b"]
    assert api.acts[-1]["attest"] == {"synced": "Completed 10:42Z = fine"}


@pytest.mark.parametrize("value", ["", "2", "0h", "2 h", "-2h", "h", "2y", "1.5h"])
def test_a_hold_needs_a_duration_with_a_unit(api, value):
    result = run(api, "hold", "epmm", "--for", value, "--reason", "why", "--yes")
    assert result.exit_code == 2
    assert "use 90m or 2h" in result.stderr
    assert run(api, "hold", "epmm", "--reason", "why", "--yes").exit_code == 2
    assert api.asked == []


@pytest.mark.parametrize("value", ["synced", "=text", "synced=", "synced= "])
def test_an_attestation_needs_a_gate_and_words(api, value):
    result = run(api, "resume", "epmm", "--reason", "why", "--yes", "--attest", value)
    assert result.exit_code == 2
    assert "use GATE=TEXT" in result.stderr
    assert api.asked == []


def test_a_dry_run_prints_the_commands_and_changes_nothing(api):
    result = run(api, *act_words("resume", "--dry-run"))
    assert result.exit_code == 0
    assert "edge-1: set map /etc/haproxy/maps/active.map epmm a" in result.stdout
    assert api.acts == []


def test_a_plan_without_commands_and_gates_says_so(api):
    plan = {**PLAN, "from": "epmm-a", "commands": [], "gates": [], "warnings": ["it moves at once"]}
    api.plan = (200, {"dry_run": True, "plan": plan, "passed": True})
    result = run(api, *act_words("release", "--dry-run"))
    for part in ("stays on epmm-a", "nothing is written", "none", "warning: it moves at once"):
        assert part in result.stdout


@pytest.mark.parametrize("more", ["--yes", "--dry-run"])
def test_a_closed_gate_in_the_plan_is_exit_6_and_nothing_is_sent(api, more):
    api.plan = (200, {"dry_run": True, "plan": {**PLAN, "gates": GATES}, "passed": False})
    result = run(api, *act_words("resume", more))
    assert result.exit_code == 6
    assert "[ok] primary-serving: ok for 30s; wanted: ok" in result.stderr
    assert "[no] synced: nobody says so; wanted: a newer sync" in result.stderr
    assert "lb-probe resume epmm --reason 'it is time' --override synced" in result.stderr
    assert api.acts == []


def test_the_apis_own_line_to_paste_is_preferred(api):
    plan = {**PLAN, "gates": GATES, "paste": "lb-probe resume epmm --attest synced='...'"}
    api.plan = (200, {"dry_run": True, "plan": plan, "passed": False})
    result = run(api, *act_words("resume", "--yes"))
    assert "  lb-probe resume epmm --attest synced='...'\n" in result.stderr


def test_a_gate_that_an_override_does_not_open_gets_no_line_to_paste(api):
    api.plan = (200, {"dry_run": True, "plan": {**PLAN, "gates": GATES}, "passed": False})
    result = run(api, *act_words("resume", "--yes", "--override", "synced"))
    assert result.exit_code == 6
    assert "to go on" not in result.stderr


def test_a_refusal_of_the_act_itself_prints_gates_and_the_line(api):
    paste = "lb-probe resume epmm --reason x --override synced"
    api.act = (409, {"error": "refused", "detail": "synced", "gates": GATES, "paste": paste})
    result = run(api, *act_words("resume", "--yes"))
    assert result.exit_code == 6
    assert "[no] synced" in result.stderr
    assert f"  {paste}\n" in result.stderr


def test_a_change_between_plan_and_act_is_exit_5_with_both_generations(api):
    api.act = (409, {"error": "conflict", "detail": "x", "generation": 8})
    result = run(api, *act_words("resume", "--yes"))
    assert result.exit_code == 5
    for part in ("generation 8 is in force", "the plan was for 7", "lb-probe status epmm"):
        assert part in result.stderr


def test_an_act_that_leaves_a_load_balancer_behind_names_it(api):
    behind = group(generation=8)
    behind["adapters"][1]["in_sync"] = False
    api.act = (200, behind)
    assert "in sync 1/2, not: edge-2" in run(api, *act_words("resume", "--yes")).stdout


# ------------------------------------------------------------------ on a terminal
def test_typing_the_groups_name_confirms(api):
    with terminal(*act_words("resume"), env=environment(api)) as screen:
        shown = screen.until("to go ahead")
        assert "epmm-b -> epmm-a" in shown
        assert "edge-1: set map" in shown
        assert api.acts == []
        screen.type("epmm\n")
        code, text = screen.end()
    assert code == 0
    assert "done" in text
    assert api.acts[0]["generation"] == 7


@pytest.mark.parametrize("typed", ["yes\n", "\n", "EPMM\n", "\x04", signal.SIGINT])
def test_typing_anything_else_is_exit_6_and_nothing_is_done(api, typed):
    with terminal(*act_words("resume"), env=environment(api)) as screen:
        screen.until("to go ahead")
        screen.until(": ")
        if isinstance(typed, str):
            screen.type(typed)
        else:
            screen.interrupt()
        code, text = screen.end()
    assert code == 6
    assert "nothing was done" in text
    assert api.acts == []


def test_a_terminal_gets_colours_and_local_time_and_no_color_takes_the_colours(api):
    with terminal("status", env=environment(api)) as screen:
        _, text = screen.end()
    assert "\x1b[" in text
    assert "2026-01-01 05:30:00+0530" in text
    assert "ok normal" in click.unstyle(text)
    with terminal("status", env=environment(api) | {"NO_COLOR": "1"}) as screen:
        _, text = screen.end()
    assert "\x1b[" not in text
    assert "ok normal" in text


def test_watch_goes_on_through_an_outage_and_says_that_it_is_not_live(tmp_path):
    place = str(tmp_path / "api")
    env = environment() | {"LB_PROBE_URL": f"unix://{place}"}
    with terminal("status", "-w", "0.1", env=env) as screen:
        with stub_at(place):
            screen.until("live from unix://")
            screen.until("epmm-a")
        screen.until("*** NOT LIVE: what follows is ")
        assert "old" in screen.until("***")
        screen.until("epmm-a")  # the last picture stays
        with stub_at(place):
            screen.until("live from unix://")
            screen.process.send_signal(signal.SIGINT)
            code, text = screen.end()
    assert code == 0
    assert "Traceback" not in text


def test_watch_starts_during_an_outage(tmp_path):
    env = environment() | {"LB_PROBE_URL": f"http://127.0.0.1:{free_port()}"}
    with terminal("status", "-w", env=env) as screen:
        screen.until("*** NOT LIVE: nothing seen yet")
        screen.process.send_signal(signal.SIGINT)
        assert screen.end()[0] == 0


def test_watch_of_one_group_may_stand_before_its_name(api):
    with terminal("status", "-w", "epmm", env=environment(api)) as screen:
        screen.until("both nodes are well")
        screen.process.send_signal(signal.SIGINT)
        assert screen.end()[0] == 0
    assert {path for _, path, _ in api.asked} == {"/api/v1/groups/epmm"}


def screens(text: str) -> list[list[str]]:
    """What was on the screen after each drawing."""
    return [click.unstyle(part).splitlines() for part in text.split("\x1b[H")[1:]]


def test_a_small_terminal_loses_no_column_and_keeps_the_worst_group_in_sight(api):
    names = [f"group-{n:02}" for n in range(30)]
    groups = [group(name=name) for name in names] + [failed_over(name="the-worst")]
    api.routes["GET", "/groups"] = (200, {"groups": groups})
    with terminal("status", env=environment(api), size=(24, 60)) as screen:
        _, text = screen.end()
    columns = click.unstyle(text).split("\r\n\r\n")[0].splitlines()
    assert max(map(len, columns)) <= 60
    assert all(name in text for name in names)
    with terminal("status", "-w", "0.1", env=environment(api), size=(24, 60)) as screen:
        seen = screen.until("more lines: lb-probe status") + screen.until("more lines")
        screen.process.send_signal(signal.SIGINT)
        assert screen.end()[0] == 0
    drawn = screens(seen)[0]
    assert len(drawn) <= 23
    assert "the-worst" in "".join(drawn[:5])


def test_watch_refuses_what_it_cannot_do(api):
    for words in (
        ["-w", "0"],
        ["-w", "nan"],
        ["-w", "soon", "epmm"],
        ["-w", "1", "-o", "json"],
        ["-w", "1", "--exit-code"],
    ):
        assert run(api, "status", *words).exit_code == 2
    assert run(api, "status", "-w", "nope").exit_code == 2  # an unknown group, not an outage


# ------------------------------------------------------------------ verbs through app
class App(types.ModuleType):
    """Stands where lb_probe.app is, with the names the verbs call; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__("lb_probe.app")
        self.calls: list[tuple] = []
        self.error: Exception | None = None
        self.control = Path("/nonexistent/agent.sock")
        self.results = [{"name": "edge-1", "ok": True, "detail": "", "commands": ["set map"]}]

    def _called(self, *call: object) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    def run_prober(self, config: Path, *, init: bool, allowed: frozenset[str]) -> int:
        self._called("run_prober", config, init, allowed)
        return 0

    def run_agent(self, config: Path, node: str) -> int:
        self._called("run_agent", config, node)
        return 1

    def init_store(self, config: Path) -> str:
        self._called("init_store", config)
        return "made /tmp/state.db"

    def check(self, config: Path, as_: str, *, looks_around: bool) -> list[str]:
        self._called("check", config, as_, *([] if looks_around else ["offline"]))
        return ["warning: slow"]

    def probe_once(
        self, config: Path, group: str, node: str, folder: Path | None, *, with_addresses: bool
    ) -> dict:
        capture = {} if folder is None else {"capture": str(folder / "lb-probe-epmm-x.txt")}
        more = ("with addresses",) if with_addresses else ()
        self._called("probe_once", config, group, node, *map(str, capture), *more)
        page = {
            "result": "failed",
            "phase": "tls",
            "detail": "expired",
            "duration_s": 0.012,
            "code": None,
            "head": "",
            "why": "the certificate or the handshake is wrong",
            "asked": "https://192.0.2.10:443/status/status.html",
            "address": "192.0.2.10:443",
            "phases": {"name": 0.0001, "connect": 0.002, "tls": 0.0099},
        }
        ok = {**page, "result": "ok", "phase": None, "mode": "standby", "code": 200, "head": "OK"}
        ok |= {"tls": {"version": "TLSv1.3"}, "headers": [{"name": "Server", "value": "x\x1b[31m"}]}
        pages = {"status": page, "hastatus": ok}
        return {"group": group, "node": node, "pages": pages, **capture}

    def publish_offline(self, config: Path, group: str, node: str, reason: str) -> list[dict]:
        self._called("publish_offline", config, group, node, reason)
        return self.results

    def agent_control(self, config: Path, node: str) -> Path:
        self._called("agent_control", config, node)
        return self.control


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    found = App()
    monkeypatch.setitem(sys.modules, "lb_probe.app", found)
    monkeypatch.setattr(lb_probe, "app", found, raising=False)
    return found


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "probes.yaml"
    file.write_text(
        "groups:\n"
        "  - {name: a, nodes: [{name: x}, {name: y}], adapters: [{name: l}]}\n"
        "  - {name: b, nodes: [{name: x}, {name: y}]}\n"
    )
    return str(file)


def test_daemons_and_init_call_app_and_leave_with_its_code(app, config):
    file = Path(config)
    for words, call, code in [
        (["prober"], ("run_prober", file, False, frozenset()), 0),
        (["prober", "--init"], ("run_prober", file, True, frozenset()), 0),
        (["prober", "--override", "a"], ("run_prober", file, False, frozenset({"a"})), 0),
        (["agent", "--node", "x"], ("run_agent", file, "x"), 1),
        (["init"], ("init_store", file), 0),
    ]:
        for given in (["-c", config, *words], [*words, "-c", config]):
            assert run(None, *given).exit_code == code
            assert app.calls.pop() == call
    assert run(None, "init", "-c", config).stdout == "made /tmp/state.db\n"


def test_an_agent_without_node_is_a_usage_error(app, config):
    result = run(None, "agent", "-c", config)
    assert (result.exit_code, app.calls) == (2, [])
    assert "--node epmm-a" in result.stderr


def test_without_any_configuration_the_places_are_named(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        client.address, "CONFIG_PLACES", (Path("probes.yaml"), tmp_path / "etc.yaml")
    )
    result = run(None, "prober")
    assert result.exit_code == 2
    assert "give -c FILE or set LB_PROBE_CONFIG" in result.stderr


def test_demo_passes_script_on(monkeypatch):
    room = types.ModuleType("lb_probe.demo")
    room.run = lambda script: 1 if script else 0
    monkeypatch.setitem(sys.modules, "lb_probe.demo", room)
    monkeypatch.setattr(lb_probe, "demo", room, raising=False)
    assert run(None, "demo").exit_code == 0
    assert run(None, "demo", "--script").exit_code == 1


def test_check_counts_and_warns(app, config):
    result = run(None, "check", "-c", config, "--as", "agent:x")
    assert result.exit_code == 0
    assert result.stdout == (
        f"warning: slow\n{config}: ok: 2 groups, 4 nodes, 1 load balancer; 1 warning above\n"
    )
    assert run(None, "check", "-c", config).exit_code == 0
    assert app.calls == [("check", Path(config), as_) for as_ in ("agent:x", "check")]
    assert run(None, "check", "-c", config, "--as", "me").exit_code == 2


def test_check_prints_every_fault_and_leaves_with_2(app, config):
    from lb_probe.config import ConfigError

    app.error = ConfigError(["probes.yaml:1:1: error: one", "probes.yaml:2:1: error: two"])
    result = run(None, "check", "-c", config)
    assert result.exit_code == 2
    assert result.stderr == "probes.yaml:1:1: error: one\nprobes.yaml:2:1: error: two\n"
    found = run(None, "check", "-c", config, "-o", "json")
    assert found.exit_code == 2
    assert json.loads(found.stdout)["faults"] == list(app.error.faults)


@pytest.mark.parametrize(
    "words", [["check"], ["probe", "epmm/x"], ["agent", "status", "--node", "x"]], ids=" ".join
)
def test_every_local_reading_verb_answers_in_every_format(app, config, tmp_path, words):
    app.control = tmp_path / "agent.sock"
    with agent_at(app.control, AGENT):
        assert run(None, *words, "-c", config).exit_code == 0
        found = json.loads(run(None, *words, "-c", config, "-o", "json").stdout)
        assert next(iter(found)) == "version"
        assert yaml.safe_load(run(None, *words, "-c", config, "-o", "yaml").stdout) == found


def test_probe_prints_the_verdict_of_each_page(app, config):
    text = run(None, "probe", "epmm/x", "-c", config).stdout
    assert "[no] status: failed (phase tls, took 12 ms)" in text
    assert "[ok] hastatus: ok (mode standby, HTTP 200, took 12 ms)" in text
    assert app.calls == [("probe_once", Path(config), "epmm", "x")]
    for odd in ("epmm", "/x", "epmm/"):
        assert run(None, "probe", odd, "-c", config).exit_code == 2


def test_probe_tells_why_and_what_it_met_on_the_way(app, config):
    text = run(None, "probe", "epmm/x", "-c", config).stdout
    assert "why      the certificate or the handshake is wrong" in text
    assert "phases   name 0.1 ms, connect 2.0 ms, tls 9.9 ms" in text
    assert "at       192.0.2.10:443" in text
    assert "tls      version TLSv1.3" in text
    assert "header   Server: x?[31m" in text
    assert "wrote" not in text


def test_probe_writes_a_capture_only_when_it_is_told_to(app, config):
    text = run(None, "probe", "epmm/x", "--capture", "-c", config).stdout
    assert "wrote lb-probe-epmm-x.txt; read it through before you send it" in text
    run(None, "probe", "epmm/x", "--capture", "--with-addresses", "-c", config)
    calls = [call[3:] for call in app.calls]
    assert calls == [("x", "capture"), ("x", "capture", "with addresses")]
    refused = run(None, "probe", "epmm/x", "--with-addresses", "-c", config)
    assert refused.exit_code == 2
    assert "add --capture" in refused.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no group epmm; the groups are: a"), 2),
        (StoreError("state.db is missing; run lb-probe init"), 1),
        (Conflict("another generation", 8), 5),
        (Refused("no", [Gate("act", False, "act: false", "act: true")], "line"), 6),
        (OSError(98, "Address already in use"), 1),
    ],
)
def test_what_app_raises_becomes_a_message_and_an_exit_code(app, config, error, code):
    app.error = error
    result = run(None, "prober", "-c", config)
    assert result.exit_code == code
    assert str(error).splitlines()[0] in result.stderr
    assert "Traceback" not in result.stderr


# ------------------------------------------------------------------ break-glass
PUBLISH = ["publish", "epmm", "--to", "epmm-b", "--offline", "--reason", "host is down"]


def test_break_glass_goes_straight_to_app(app, config):
    result = run(None, *PUBLISH, "--yes", "-c", config)
    assert result.exit_code == 0
    assert "[ok] edge-1: done" in result.stdout
    assert "set map" in result.stdout
    assert app.calls == [("publish_offline", Path(config), "epmm", "epmm-b", "host is down")]


def test_break_glass_is_exit_1_when_any_load_balancer_failed(app, config):
    app.results = [*app.results, {"name": "edge-2", "ok": False, "detail": "no answer"}]
    result = run(None, *PUBLISH, "--yes", "-c", config)
    assert result.exit_code == 1
    assert "[no] edge-2: no answer" in result.stdout
    assert "edge-2" in result.stderr


def test_break_glass_needs_offline_a_reason_a_node_and_a_confirmation(app, config):
    words = [*PUBLISH, "-c", config]
    offline = run(None, *[word for word in words if word != "--offline"], "--yes")
    assert offline.exit_code == 2
    assert "lb-probe failover epmm --to epmm-b" in offline.stderr
    at = words.index("--reason")
    reason = run(None, *words[:at], *words[at + 2 :], "--yes")
    assert reason.exit_code == 2
    assert "--reason is required" in reason.stderr
    unconfirmed = run(None, *words)
    assert unconfirmed.exit_code == 6
    assert f"lb-probe -c {config} publish epmm --to epmm-b" in unconfirmed.stderr
    assert "--offline --reason 'host is down' --yes" in unconfirmed.stderr
    assert app.calls == []


# ------------------------------------------------------------------ the agent
AGENT = {
    "version": 1,
    "node": "x",
    "role": "primary",
    "mode": "standby",
    "state": "standby",
    "since": "2026-01-01T00:00:00Z",
    "cause": "operator",
    "by": "uid 0",
    "reason": "upgrade",
    "pages": {"status": {"code": 503, "text": "MOBILEIRON-STATUS: ERROR", "reasons": ["standby"]}},
    "checks": [
        {
            "name": "app",
            "passing": True,
            "age_s": 0.3,
            "stale": False,
            "detail": "",
            "pages": ["status"],
        }
    ],
}


@contextmanager
def agent_at(path: Path, answer: dict) -> Iterator[list[dict]]:
    asked: list[dict] = []

    class Line(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(json.loads(self.rfile.readline()))
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    with socketserver.UnixStreamServer(str(path), Line) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join(20)


def test_agent_verbs_ask_the_control_socket_of_their_node(app, config, tmp_path):
    app.control = tmp_path / "agent.sock"
    answer = AGENT | {"warnings": ["moves no traffic"], "changed": True}
    with agent_at(app.control, answer) as asked:
        shown = run(None, "agent", "status", "--node", "x", "-c", config)
        assert "says standby, is standby; primary by configuration" in shown.stdout
        assert "[no] status: 503 MOBILEIRON-STATUS: ERROR" in shown.stdout
        words = ["agent", "--node", "x", "failover", "mode", "primary", "--reason", "why"]
        moved = run(None, "-c", config, *words)
        assert moved.exit_code == 0
        assert moved.stderr == "warning: moves no traffic\n"
    assert asked == [
        {"command": "status"},
        {"command": "failover-mode", "mode": "primary", "reason": "why"},
    ]
    assert app.calls == [("agent_control", Path(config), "x")] * 2


def test_an_agent_that_is_down_is_exit_3_and_a_refusing_one_exit_2(app, config, tmp_path):
    app.control = tmp_path / "agent.sock"
    result = run(None, "agent", "status", "--node", "x", "-c", config)
    assert result.exit_code == 3
    assert "is it running on this machine" in result.stderr
    with agent_at(app.control, {"error": "invalid", "detail": "why not"}):
        assert run(None, "agent", "status", "--node", "x", "-c", config).exit_code == 2


# ------------------------------------------------------------------ light and fast
CLIENT_VERBS = [*READING, *[act_words(verb, "--yes") for verb in ACTS]]


@pytest.mark.parametrize("words", CLIENT_VERBS, ids=lambda words: " ".join(words[:2]))
def test_a_client_verb_loads_nothing_heavy(api, tmp_path, words):
    code = (
        "import sys\n"
        "from lb_probe.cli import cli\n"
        "try:\n    cli(sys.argv[2:])\n"
        "except SystemExit as end:\n"
        "    open(sys.argv[1], 'w').write('\\n'.join(sys.modules))\n"
        "    raise\n"
    )
    out = tmp_path / "modules"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out), *words],
        env=environment(api),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    heavy = {"aiohttp", "pydantic", "yaml", "prometheus_client", "structlog", "tenacity", "asyncio"}
    ours = {"lb_probe.app", "lb_probe.config", "lb_probe.core"}
    loaded = set(out.read_text().splitlines())
    assert "lb_probe.client" in loaded
    assert not loaded & (heavy | ours)


def test_status_starts_fast(api, tmp_path):
    def best_s(*words: str) -> float:
        taken = []
        for _ in range(5):
            start = time.monotonic()
            subprocess.run(
                [sys.executable, *words],
                env=environment(api),
                cwd=tmp_path,
                check=True,
                capture_output=True,
                timeout=50,
            )
            taken.append(time.monotonic() - start)
        return min(taken)

    bare_s, status_s = best_s("-c", "pass"), best_s("-m", "lb_probe", "status")
    print(f"status costs {(status_s - bare_s) * 1000:.0f} ms above a bare interpreter")
    # About 100 ms alone; a heavy import costs more than the rest of this bound.
    assert status_s - bare_s < 1.0


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"act": False, "adapters": []}, "say act: true"),
        ({"latched": True, "condition": "failing-over"}, "why: lb-probe explain epmm"),
        ({"blocked": ["store-not-writable"]}, "the store takes no writes"),
    ],
)
def test_next_step_is_one_that_is_not_refused(changes, step):
    shown = group(**{"assigned": None, "condition": "unassigned", **changes})
    if "blocked" in changes:
        shown["condition"] = "normal"
    assert step in next_step(shown)
