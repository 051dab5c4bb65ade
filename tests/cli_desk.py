"""What the tests of the verbs have in common: a canned API, a terminal, an app that listens."""

import copy
import fcntl
import json
import os
import pty
import select
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

from click.testing import CliRunner, Result

import lb_probe
from lb_probe import cli

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


# ------------------------------------------------------------------ the command
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
            # A shell without job control has what it starts with & ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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


def act_words(verb: str, *more: str) -> list[str]:
    extra = ["--for", "2h"] if verb == "hold" else []
    return [verb, "epmm", *extra, "--reason", "it is time", *more]


# ------------------------------------------------------------------ what the verbs call here
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
