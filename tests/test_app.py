"""The prober as a process: what it refuses, what it leaves alone, how it ends.

Signals, exit codes, sockets and files of a real `lb-probe`, in a folder of its own.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from free_ports import free_port
from raw_server import make_certificates

from lb_probe import app as room
from lb_probe.app import break_glass
from lb_probe.client import Client, ClientError, parse_url
from lb_probe.config import load
from lb_probe.demo import Demo
from lb_probe.ports import StoreError

PATIENCE_S = 30.0
TOKEN = "operator-0123456789"

pytestmark = pytest.mark.timeout(120)

CONFIG = """
version: 1
store: sqlite:state.db
api: {api}
{more}
groups:
  - name: epmm
    act: true
    adapters: []
    nodes:
      - {{name: a, role: primary, url: "http://127.0.0.1:9"}}
      - {{name: b, role: secondary, url: "http://127.0.0.2:9"}}
"""


def until(is_true, what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end, f"waited {patience_s:.0f}s in vain until {what}"
        time.sleep(0.02)


class Place:
    """A folder with a probes.yaml, and the processes that were started there."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.config = folder / "probes.yaml"
        self.socket = folder / "api.sock"
        self.log = folder / "log"
        self._stack = stack
        self.write()

    def write(self, api="{socket: api.sock}", more="", change=lambda text: text):
        self.config.write_text(change(CONFIG.format(api=api, more=more)))

    def command(self, *words):
        return [sys.executable, "-m", "lb_probe", "-c", str(self.config), *words]

    def run(self, *words):
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=PATIENCE_S
        )

    def start(self, *words, stderr=None):
        """Start a prober and do not wait for it."""
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                self.command("prober", *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=stderr or log,
            )
        self._stack.callback(end, child)
        return child

    def serve(self, *words):
        """Start a prober and wait until it answers."""
        child = self.start(*words)
        until(lambda: child.poll() is not None or self.answers(), "the API answers")
        assert child.poll() is None, self.log.read_text()
        return child

    def answers(self):
        try:
            return bool(Client(parse_url(f"unix://{self.socket}", "a test")).groups())
        except ClientError:
            return False

    def files(self):
        return {path.name for path in self.folder.iterdir()} - {"log"}


def end(child):
    if child.poll() is None:
        child.kill()
    child.wait(PATIENCE_S)
    if child.stderr is not None:
        child.stderr.close()


@pytest.fixture
def place():
    folder = Path(tempfile.mkdtemp(prefix="app", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        yield Place(folder, stack)


@pytest.fixture
def made(place):
    """A place with a store."""
    assert place.run("init").returncode == 0
    return place


def stopped(child, number=signal.SIGTERM):
    """Stop a child; return its exit code and the seconds it took."""
    began = time.monotonic()
    child.send_signal(number)
    return child.wait(PATIENCE_S), time.monotonic() - began


# ------------------------------------------------------------------ TLS
def test_api_over_tls_is_for_those_with_a_certificate_and_a_token(made, tmp_path):
    pem = make_certificates(tmp_path)
    for name in ("address", "good"):
        (pem / f"{name}.key").chmod(0o600)
    token = pem / "token"
    token.write_text("operator-0123456789\n")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as spot:
        port = spot.getsockname()[1]
    tls = f"{{cert_file: {pem}/address.pem, key_file: {pem}/address.key"
    who = f"operators: [{{name: ops, role: operator, token_file: {token}}}]"
    listen = f'socket: api.sock, listen: "127.0.0.1:{port}"'
    made.write(api=f"{{{listen}, tls: {tls}, client_ca_file: {pem}/ca.pem}}, {who}}}")
    made.serve()
    good = {
        "LB_PROBE_URL": f"https://127.0.0.1:{port}",
        "LB_PROBE_CA_FILE": f"{pem}/ca.pem",
        "LB_PROBE_CERT_FILE": f"{pem}/good.pem",
        "LB_PROBE_KEY_FILE": f"{pem}/good.key",
        "LB_PROBE_TOKEN_FILE": str(token),
    }

    def status(**changes):
        env = {key: v for key, v in (os.environ | good | changes).items() if v}
        return subprocess.run(
            made.command("status"), capture_output=True, text=True, timeout=PATIENCE_S, env=env
        )

    done = status()
    assert done.returncode == 0, done.stderr
    assert status(LB_PROBE_TOKEN_FILE="").returncode == 4
    for without in (
        {"LB_PROBE_CERT_FILE": "", "LB_PROBE_KEY_FILE": ""},
        {"LB_PROBE_CA_FILE": f"{pem}/other-ca.pem"},
        {"LB_PROBE_URL": f"http://127.0.0.1:{port}"},
    ):
        assert status(**without).returncode in (1, 3)
    browser = ssl.create_default_context(cafile=f"{pem}/ca.pem")
    browser.load_cert_chain(f"{pem}/good.pem", f"{pem}/good.key")
    with urllib.request.urlopen(f"https://127.0.0.1:{port}/login", context=browser) as form:
        assert form.headers["Strict-Transport-Security"] == "max-age=31536000"
    wrong = status(LB_PROBE_KEY_FILE=f"{pem}/address.key")
    assert wrong.returncode == 2
    assert "LB_PROBE_KEY_FILE" in wrong.stderr


def test_api_whose_key_belongs_to_another_certificate_does_not_start(made, tmp_path):
    pem = make_certificates(tmp_path)
    (pem / "good.key").chmod(0o600)
    tls = f"{{cert_file: {pem}/address.pem, key_file: {pem}/good.key}}"
    made.write(api=f'{{socket: api.sock, listen: "127.0.0.1:1", tls: {tls}}}')
    child = made.start()
    assert child.wait(PATIENCE_S) != 0
    assert "belongs to it" in made.log.read_text()


# ------------------------------------------------------------------ check
def test_check_of_a_good_file_is_0_and_makes_nothing(place):
    done = place.run("check")
    assert done.returncode == 0, done.stderr
    assert "lb-probe init" in done.stdout + done.stderr  # no store yet: a warning
    assert place.files() == {"probes.yaml"}


def test_check_warns_of_times_that_do_not_fit_and_names_the_knob(place):
    epmm = "{interval: 10s, failures: 3, recheck: 5s, timeout: 2s}"
    times = f"    confirm: 30s\n    promotion: {epmm}\n    adapters: []"
    place.write(change=lambda text: text.replace("    adapters: []", times))
    done = place.run("check")
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert "group epmm: the Secondary may promote itself 10s to 26s after the fault" in told
    assert "detection takes 30.25s to 31.5s" in told
    assert "lower `confirm` (30s) to" in told


def test_check_of_a_bad_file_is_2_with_every_mistake_and_its_place(place):
    place.write(more="limit: 5", change=lambda text: text.replace("role: primary", "role: first"))
    done = place.run("check")
    assert done.returncode == 2
    mistakes = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(mistakes) >= 2
    assert all(line.startswith(f"{place.config}:") for line in mistakes)
    assert any("limit" in line for line in mistakes)
    assert any("first" in line for line in mistakes)


def test_check_of_no_file_is_2(place):
    place.config.unlink()
    assert place.run("check").returncode == 2


# ------------------------------------------------------------------ what is refused
def test_prober_with_a_bad_file_is_refused_with_2_and_makes_nothing(place):
    place.write(change=lambda text: text.replace("act: true", "act: maybe"))
    for words in (["prober"], ["prober", "--init"], ["init"]):
        done = place.run(*words)
        assert done.returncode == 2
        assert ": error: " in done.stderr
        assert "Traceback" not in done.stderr
    assert place.files() == {"probes.yaml"}


def test_prober_without_a_store_is_refused_and_says_how_to_make_one(place):
    done = place.run("prober")
    assert done.returncode == 1
    assert "lb-probe init" in done.stderr
    assert "Traceback" not in done.stderr
    assert "state.db" not in place.files()


def test_prober_makes_its_store_only_when_it_is_told_to(place):
    child = place.serve("--init")
    assert stopped(child)[0] == 0
    assert stopped(place.serve())[0] == 0  # and takes it as it is from then on


def test_init_does_not_overwrite_a_store(made):
    before = (made.folder / "state.db").read_bytes()
    done = made.run("init")
    assert done.returncode == 1
    assert (made.folder / "state.db").read_bytes() == before


def test_second_prober_on_one_store_is_refused_and_the_first_goes_on(made):
    first = made.serve()
    made.write(api="{socket: other.sock}")
    done = made.run("prober")
    assert done.returncode == 1
    assert f"pid {first.pid}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "other.sock" not in made.files()
    assert made.answers()


@pytest.mark.parametrize("what", ["api", "metrics"])
def test_port_that_is_taken_is_told(made, what):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if what == "api":
            (made.folder / "token").write_text(TOKEN)
            (made.folder / "token").chmod(0o600)
            operator = "{name: ops, role: operator, token_file: token}"
            made.write(api=f'{{listen: "127.0.0.1:{port}", operators: [{operator}]}}')
        else:
            made.write(more=f'metrics: {{listen: "127.0.0.1:{port}"}}')
        done = made.run("prober")
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "api.sock" not in made.files()


NOTE = {"node": "b", "actor": "uid-0", "reason": "fire", "at_wall": 1767225600.0}
CORRUPT = {
    "half a file": json.dumps(NOTE)[:30],
    "nothing": "",
    "a list": "[]",
    "no node": json.dumps({k: v for k, v in NOTE.items() if k != "node"}),
    "no time": json.dumps(NOTE | {"at_wall": "yesterday"}),
    "not a number": json.dumps(NOTE | {"at_wall": float("nan")}),
    "beyond all dates": json.dumps(NOTE | {"at_wall": 1e300}),
    "no UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("what", CORRUPT)
def test_offline_note_that_cannot_be_read_is_no_note(place, what):
    note = place.folder / "state.db.offline-epmm.json"
    content = CORRUPT[what]
    note.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StoreError, match=f"{note} cannot be read"):
        break_glass.read_notes(load(place.config, as_="client"))


def test_prober_with_an_offline_note_that_cannot_be_read_is_refused_and_keeps_it(made):
    note = made.folder / "state.db.offline-epmm.json"
    note.write_text(CORRUPT["half a file"])
    done = made.run("prober")
    assert done.returncode == 1
    assert str(note) in done.stderr
    assert "Traceback" not in done.stderr
    assert note.exists()
    with closing(sqlite3.connect(made.folder / "state.db")) as db:
        assert db.execute("SELECT count(*) FROM groups").fetchone() == (0,)


def test_offline_note_for_a_node_that_is_gone_is_refused_and_kept(made):
    note = made.folder / "state.db.offline-epmm.json"
    note.write_text(json.dumps(NOTE | {"node": "c"}))
    done = made.run("prober")
    assert done.returncode != 0
    assert "published c offline" in done.stderr
    assert "Traceback" not in done.stderr
    assert note.exists()


def test_good_offline_note_is_adopted_and_gone_afterwards(made):
    note = made.folder / "state.db.offline-epmm.json"
    note.write_text(json.dumps(NOTE))
    made.serve()
    group = Client(parse_url(f"unix://{made.socket}", "a test")).group("epmm")
    assert (group["assigned"], group["latched"]) == ("b", True)
    assert group["last_change"]["kind"] == "offline"
    assert group["last_change"]["reason"] == "published offline by uid-0: fire"
    assert group["last_change"]["at"] == "2026-01-01T00:00:00Z"
    assert not note.exists()


def test_note_that_cannot_be_left_is_told(place):
    place.write(change=lambda text: text.replace("state.db", "gone/state.db"))
    done = place.run("publish", "epmm", "--to", "b", "--offline", "--reason", "fire", "--yes")
    assert done.returncode == 1
    assert "gone/state.db.offline-epmm.json" in done.stdout
    assert "note" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------ sockets
def test_api_socket_is_for_owner_and_group_only(made):
    made.serve()
    assert stat.S_IMODE(made.socket.stat().st_mode) == 0o660


def test_socket_of_a_killed_prober_is_replaced_and_that_of_a_stopped_one_is_gone(made):
    first = made.serve()
    first.kill()
    first.wait()
    assert made.socket.is_socket()
    second = made.serve()
    assert stopped(second)[0] == 0
    assert "api.sock" not in made.files()


@pytest.mark.parametrize("is_full", [False, True])
def test_socket_that_somebody_listens_on_is_not_taken_over(made, is_full):
    with socket.socket(socket.AF_UNIX) as other, ExitStack() as stack:
        other.bind(str(made.socket))
        other.listen(0)
        if is_full:  # as of a stopped process: it listens, and takes no connection
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(str(made.socket))
        inode = made.socket.stat().st_ino
        done = made.run("prober")
        assert done.returncode == 1
        assert str(made.socket) in done.stderr
        assert "Traceback" not in done.stderr
        assert made.socket.stat().st_ino == inode


def test_file_where_the_socket_should_be_is_not_removed(made):
    made.socket.write_text("dear")
    done = made.run("prober")
    assert done.returncode == 1
    assert "no socket" in done.stderr
    assert made.socket.read_text() == "dear"


def ask(port, token=None):
    link = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        link.request("GET", "/api/v1/groups", headers=headers)
        answer = link.getresponse()
        answer.read()
        return answer.status
    finally:
        link.close()


def test_tcp_listener_knows_the_token_of_the_file(made):
    port = free_port()
    (made.folder / "token").write_text(f"{TOKEN}\n")
    (made.folder / "token").chmod(0o600)
    operator = "{name: ops, role: operator, token_file: token}"
    made.write(api=f'{{socket: api.sock, listen: "127.0.0.1:{port}", operators: [{operator}]}}')
    made.serve()
    assert [ask(port), ask(port, "wrong"), ask(port, TOKEN)] == [401, 401, 200]


# ------------------------------------------------------------------ how it ends
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_0_soon_and_in_order(made, number):
    child = made.serve()
    code, took = stopped(child, number)
    assert code == 0
    assert took < 3.0
    assert made.files() == {"probes.yaml", "state.db", "state.db.lock", "state.db.audit.jsonl"}
    assert "Traceback" not in made.log.read_text()


def test_open_event_stream_does_not_delay_the_end(made):
    child = made.serve()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(made.socket))
        link.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        link.settimeout(PATIENCE_S)
        assert link.recv(65_536).startswith(b"HTTP/1.1 200 ")
        code, took = stopped(child)
        assert code == 0
        assert took < 3.0
        while link.recv(65_536):
            pass  # and the stream has an end


def test_every_line_of_its_log_is_json_with_a_time_and_a_level(made):
    assert stopped(made.serve())[0] == 0
    lines = [json.loads(line) for line in made.log.read_text().splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    names = [line["event"] for line in lines]
    assert "group.assign" in names
    assert "group.started" in names
    assert names[-1] == "prober.stopped"
    started = next(line for line in lines if line["event"] == "prober.started")
    assert started["pid"] > 0


def test_log_that_nobody_reads_any_more_does_not_stop_the_prober(made):
    child = made.start(stderr=subprocess.PIPE)
    until(made.answers, "the API answers")
    child.stderr.close()
    client = Client(parse_url(f"unix://{made.socket}", "a test"))
    group = client.act("ack", "epmm", {"reason": "this is logged, or would be"})
    assert group["generation"] == 2
    assert child.poll() is None
    assert stopped(child)[0] == 0


# ------------------------------------------------------------------ with a load balancer
A, B = "node-a", "node-b"


def test_end_of_the_prober_leaves_the_load_balancer_as_it_was(stand):
    demo = stand()
    until(lambda: demo.through_haproxy() == A, "traffic is on A")
    answers = []
    stop = threading.Event()

    def look():
        while not stop.wait(0.01):
            answers.append(demo.through_haproxy())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        code, _ = stopped(demo.children["prober"])
        time.sleep(0.5)  # nothing happens: there is no event to wait for
    finally:
        stop.set()
        looking.join()
    assert code == 0
    assert set(answers) == {A}


def cli(demo, *words):
    line = [sys.executable, "-m", "lb_probe", "-c", str(demo.config), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S)


def test_break_glass_moves_traffic_and_the_next_start_adopts_it(stand):
    demo: Demo = stand()
    until(lambda: demo.through_haproxy() == A, "traffic is on A")
    demo.kill("prober")
    done = cli(demo, "publish", "demo", "--to", B, "--offline", "--reason", "fire", "--yes")
    assert done.returncode == 0, done.stderr
    until(lambda: demo.through_haproxy() == B, "traffic is on B")
    note = demo.folder / "state.db.offline-demo.json"
    left = json.loads(note.read_text())
    assert (left["node"], left["reason"]) == (B, "fire")
    assert left["actor"] == f"uid-{os.getuid()}"
    demo.start("prober")
    until(demo.is_answering, "the API answers")
    group = demo.group()
    assert (group["assigned"], group["latched"]) == (B, True)
    assert group["last_change"]["kind"] == "offline"
    assert not note.exists()
    assert demo.through_haproxy() == B


def test_break_glass_without_a_load_balancer_is_told_for_each_of_them(stand):
    demo = stand()
    demo.kill("prober")
    demo.kill("haproxy")
    done = cli(demo, "publish", "demo", "--to", B, "--offline", "--reason", "fire", "--yes")
    assert done.returncode == 1
    assert "not done on edge" in done.stderr
    (result,) = room.publish_offline(demo.config, "demo", B, "fire")
    assert (result["name"], result["ok"]) == ("edge", False)
    assert result["commands"]
    assert result["detail"]
