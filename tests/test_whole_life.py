"""The guide's whole life of a pair, with real processes: two agents and their toy application, a
prober, HAProxy. Every step is seen through HAProxy and on the pages."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from click.testing import CliRunner
from free_ports import free_port

from lb_probe.cli import cli
from lb_probe.demo import HAPROXY, MAP, _find_haproxy

TOY = Path(__file__).with_name("toy_app.py")
A, B = "node-a", "node-b"
OK, ERROR = "MOBILEIRON-STATUS: OK", "MOBILEIRON-STATUS: ERROR"
PRIMARY, STANDBY = f"{OK} (Mode: Primary)", f"{OK} (Mode: Standby)"

NODE = """\
      - name: {name}
        role: {role}
        url: "http://127.0.0.1:{page}"
        agent:
          listen: "127.0.0.1:{page}"
          control: {name}.sock
          report: {{listen: "127.0.0.1:{report}", secret_file: secret}}
          checks:
            - {{type: http, name: app, url: "http://127.0.0.1:{app}/health", {pace}}}
            - {{type: http, name: serving, url: "http://127.0.0.1:{app}/", {pace}, pages: [status]}}
          commands:
            promote_command: [{python}, {toy}, turn, {folder}, serving, "on"]
            demote_command: [{python}, {toy}, turn, {folder}, serving, "off"]
            client_disable_command: [{python}, {toy}, turn, {folder}, closed, "on"]
            client_enable_command: [{python}, {toy}, turn, {folder}, closed, "off"]
          heartbeat: {{interval: 1s, failures: 4, recheck: 500ms, timeout: 1s, on_failure: promote}}
          sync:
            sync_command: [{python}, {toy}, pull, {folder}]
            count_command: [{python}, {toy}, count, {folder}]
          trust: {{listen: "127.0.0.1:{peer}", interval: 300ms}}
          connectivity: {{ports: [{{port: {page}}}], pause: 10ms}}
          parity: {{version_command: [/bin/echo, "12.5.1"], interval: 1s}}
"""
PACE = "interval: 100ms, timeout: 5s, rise: 1"
FILE = """\
version: 1
store: sqlite:state.db
api: {{socket: api.sock}}
notify:
  channels:
    - {{type: command, name: log, argv: [{python}, {toy}, tell, {folder}]}}
groups:
  - name: demo
    act: true
    confirm: 300ms
    probe: {{interval: 100ms, recheck: 50ms, timeout: 500ms}}
    resume: {{require: [primary-serving, single-primary, synced, same-version]}}
    nodes:
{nodes}    adapters:
      - type: haproxy
        name: edge
        style: map
        socket: haproxy.sock
        map_file: {map}
        key: demo
        nodes: {{node-a: a, node-b: b}}
"""


class Pair:
    """The whole of it, and the verbs as people type them."""

    def __init__(self, folder, stack):
        self.folder, self.stack = folder, stack
        self.file, self.map = folder / "probes.yaml", folder / "active.map"
        self.map.write_text(MAP)
        (folder / "secret").write_text("hush\n")
        (folder / "secret").chmod(0o600)
        self.ports, nodes = {}, ""
        for name, role in ((A, "primary"), (B, "secondary")):
            (folder / name).mkdir()
            ports = {key: free_port() for key in ("page", "app", "report", "peer")}
            (folder / name / "port").write_text(str(ports["app"]))
            self.ports[name] = ports
            nodes += NODE.format(
                name=name,
                role=role,
                python=sys.executable,
                toy=TOY,
                folder=folder / name,
                pace=PACE,
                **ports,
            )
        words = {"python": sys.executable, "toy": TOY, "folder": folder}
        self.file.write_text(FILE.format(nodes=nodes, map=self.map, **words))
        self.front = free_port()
        haproxy = HAPROXY.format(
            folder=folder,
            map=self.map,
            front=self.front,
            app_a=self.ports[A]["app"],
            app_b=self.ports[B]["app"],
        )
        (folder / "haproxy.cfg").write_text(haproxy)
        self.children = {}
        ours = [sys.executable, "-m", "lb_probe", "-c", str(self.file)]
        self.lines = {
            "haproxy": [_find_haproxy(), "-db", "-f", str(folder / "haproxy.cfg")],
            "prober": [*ours, "prober", "--init"],
        }
        for name, ports in self.ports.items():
            app = [sys.executable, str(TOY), "serve", str(folder / name), str(ports["app"])]
            self.lines |= {f"app of {name}": app, name: [*ours, "agent", "--node", name]}

    def start(self, *names):
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as out:
                child = subprocess.Popen(self.lines[name], stdout=out, stderr=out)
            self.children[name] = child
            self.stack.callback(child.wait, 20)

    def end(self, child, how=signal.SIGTERM):
        child.send_signal(how)
        child.wait(20)

    def end_all(self):
        for child in self.children.values():
            child.terminate()

    def kill(self, *names):
        for name in names:
            self.end(self.children[name], signal.SIGKILL)

    # -------------------------------------------------------------- looking
    def ask(self, port, path, method="GET", body=None):
        link = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            link.request(method, path, body, {"Connection": "close"})
            answer = link.getresponse()
            return answer.status, answer.read().decode().strip()
        except (OSError, HTTPException) as error:
            return 0, str(error)
        finally:
            link.close()

    def front_says(self):
        return self.ask(self.front, "/")[1]

    def keep(self, name):
        """Write through HAProxy; tell whether it was taken."""
        return self.ask(self.front, "/items", "POST", name)[0] == 201

    def items(self):
        return json.loads(self.ask(self.front, "/items")[1])

    def pages(self, node):
        port = self.ports[node]["page"]
        return tuple(self.ask(port, path)[1] for path in ("/status/status.html", "/hastatus.html"))

    def group(self):
        return json.loads(self.verb("status", "demo", "-o", "json"))["groups"][0]

    def agent(self, node):
        return json.loads(self.verb("agent", "status", "--node", node, "-o", "json"))

    def is_up(self, node):
        line = ["-c", str(self.file), "agent", "status", "--node", node]
        return CliRunner().invoke(cli, line).exit_code == 0

    def told(self):
        path = self.folder / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    # -------------------------------------------------------------- acting
    def verb(self, *words, code=0):
        runner = CliRunner(env={"LB_PROBE_URL": f"unix://{self.folder}/api.sock"})
        done = runner.invoke(cli, ["-c", str(self.file), *words])
        assert done.exit_code == code, f"{words}: {done.exception}\n{done.output}"
        return done.output if code else done.stdout

    def on(self, node, *words, code=0):
        return self.verb("agent", *words, "--node", node, code=code)

    def trust(self, here, there):
        listed = json.loads(self.on(there, "trust", "list", "-o", "json"))
        (self.folder / "carried").write_text(self.on(there, "trust", "export"))
        carried = ("--fingerprint", listed["fingerprint"])
        self.on(here, "trust", "add", str(self.folder / "carried"), *carried)


def until(is_so, what, patience_s=40.0):
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.1)


@pytest.fixture
def pair(tmp_path):
    with ExitStack() as stack:
        pair = Pair(tmp_path, stack)
        yield pair
        pair.end_all()


@pytest.mark.timeout(180)  # half a minute; eight processes start, and may share their cores
def test_a_pair_lives_through_the_whole_guide(pair):
    """R1 to R7, R10, R21, R28, R55, R62 to R71, R79, R80, R83 to R87, R119 to R125, X11, X12."""
    connected(pair)
    first_sync_and_schedule(pair)
    the_primary_dies(pair)
    the_primary_returns(pair)
    synced_back_swapped_and_resumed(pair)


def connected(pair):
    """Steps 1 to 4 of the guide: both nodes up, HA enabled, keys exchanged, connection tested."""
    (pair.folder / A / "serving").touch()
    pair.start("haproxy", f"app of {A}", f"app of {B}", A, B, "prober")
    until(lambda: pair.pages(A) == (OK, PRIMARY), "A serves as Primary")
    until(lambda: pair.pages(B) == (ERROR, STANDBY), "B stands by")
    until(lambda: (pair.folder / "api.sock").exists(), "the prober listens")
    until(lambda: pair.group()["nodes"][0]["serving"] == "ok", "the prober sees A")
    assert pair.front_says() != A  # closed until somebody says who has the traffic
    pair.verb("failover", "demo", "--to", A, "--reason", "begin", "--yes")
    until(lambda: pair.front_says() == A, "HAProxy sends to A")
    for node in (A, B):
        assert pair.agent(node)["ha"]["enabled"] is False  # R68
        assert "HA is enabled" in pair.on(node, "ha", "enable", "--reason", "step 2 and 3")
    refused = pair.on(B, "sync", "now", "--reason", "too early", code=6)
    assert "peer-answers" in refused  # nobody is trusted yet (R80)
    pair.trust(A, B)
    pair.trust(B, A)
    assert "Test was successful" in pair.on(B, "test-connection", "--both")
    until(lambda: pair.agent(B)["heartbeat"]["says"] == "ok", "the heartbeat is there")  # R105
    until(lambda: pair.agent(B)["pair"]["row"] == 1, "row 1 of Table 1")


def first_sync_and_schedule(pair):
    """Steps 5 and 6: one sync by hand, then a schedule; nothing runs before it may."""
    for name in ("apple", "pear"):
        assert pair.keep(name)
    early = pair.on(
        B, "sync", "schedule", "--start", "00:00Z", "--run-every", "2h", "--yes",
        "--reason", "x", code=6,
    )  # fmt: skip
    assert "by-hand-first" in early  # R87
    until(lambda: pair.agent(B)["state"] == "standby", "B stands by")
    assert "success" in pair.on(B, "sync", "now", "--reason", "first copy")
    refused = pair.on(B, "sync", "now", "--from", "192.0.2.9", "--reason", "x", code=6)
    assert "known-source" in refused  # R83
    often = ("sync", "schedule", "--start", "00:00Z", "--run-every", "7m", "--yes")
    assert "run-every" in pair.on(B, *often, "--reason", "a test", code=6)  # R10
    pair.on(B, *often, "--override", "run-every", "--reason", "a test")
    # The node was down when its slot came: one run for it, at once (R21).
    assert pair.keep("plum")
    pair.end(pair.children[B])
    backdate(pair.folder / f"{B}.sync.db")
    pair.start(B)
    until(lambda: pair.pages(B) == (ERROR, STANDBY), "B stands by again")
    until(lambda: last_run(pair)["by"] == "schedule", "the slot is made up for")
    until(lambda: last_run(pair)["result"] == "success", "it is good")
    assert last_run(pair)["counts"]
    until(lambda: heard(pair, B).get("last_good_sync") == [*span(pair)], "the prober heard of it")
    assert heard(pair, B)["heartbeat"] == "ok"  # its second opinion (R28)
    assert pair.keep("lost")  # after the last sync: what a failover costs
    assert pair.front_says() == A


def last_run(pair):
    runs = json.loads(pair.on(B, "sync", "history", "-o", "json"))["runs"]
    return runs[0]


def heard(pair, node):
    """What the prober heard of a node's agent."""
    return next(one for one in pair.group()["agents"] if one["node"] == node)


def span(pair):
    report = pair.ask(pair.ports[B]["report"], "/agent/v1/report")[1]
    return json.loads(report)["last_good_sync"]


def the_primary_dies(pair):
    """Table 1, row 2: traffic moves by the prober's rule, then B makes itself Primary."""
    pair.kill(A, f"app of {A}")
    until(lambda: pair.group()["assigned"] == B, "the prober moves traffic")
    until(lambda: pair.pages(B) == (OK, PRIMARY), "B became Primary and serves")
    until(lambda: pair.front_says() == B, "HAProxy sends to B")
    status = pair.agent(B)
    assert (status["role"], status["pair"]["row"]) == ("secondary", 2)
    assert status["cause"] in {"traffic", "heartbeat"}  # flip, then promote (R65)
    assert status["traffic"]["holds"] == "yes"
    assert pair.items() == ["apple", "pear", "plum"]
    until(lambda: pair.group()["condition"] == "failed-over", "it is failed over")
    shown = json.loads(pair.verb("history", "demo", "-o", "json"))["history"]
    (move,) = [record for record in shown if record["kind"] == "failover"]
    assert any(line.startswith("data-loss window ") for line in move["details"]["evidence"])
    assert "last synced completely" in " ".join(move["details"]["evidence"])
    explained = pair.verb("explain", "demo")
    assert "node-b: " in explained.partition("Agents:")[2]
    assert "data-loss window" in explained
    assert pair.keep("new")
    # B tells people by itself: A's machine is gone.
    until(lambda: "promoted" in classes(pair), "people are told")
    refused = pair.on(B, "sync", "now", "--reason", "x", code=6)
    assert "standby" in refused  # an active node does not sync (R66)


def classes(pair):
    return {letter_class for letter in pair.told() for letter_class in _classes(letter)}


def _classes(letter):
    return [one["class"] for one in letter.get("notices", [letter]) if "class" in one]


def the_primary_returns(pair):
    """X11, X12: it comes back as Primary with old data, and keeps out until somebody decides."""
    pair.start(f"app of {A}", A)
    until(lambda: pair.pages(A) == (ERROR, ERROR), "A answers")
    until(lambda: pair.is_up(A), "A takes commands")
    until(lambda: pair.agent(A)["quarantine"] is not None, "A keeps out")
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert pair.pages(A) == (ERROR, ERROR)
        assert pair.front_says() == B
    assert pair.agent(A)["pair"]["row"] == 3
    assert pair.group()["condition"] == "failed-over"
    refused = pair.verb("resume", "demo", "--reason", "it is back", "--yes", code=6)
    assert "primary-serving" in refused
    assert "synced" in refused


def synced_back_swapped_and_resumed(pair):
    """Table 1, row 3: by an operator only, and nothing of B is lost."""
    pair.on(B, "failover", "client-connection", "disable", "--reason", "going back")
    assert not pair.keep("refused")
    assert "NEW CLIENTS ARE TURNED AWAY" in pair.on(B, "status")
    until(lambda: "turns new clients away" in pair.verb("explain", "demo"), "the prober shows it")
    # In the wrong order the newest data would be written over.
    assert "another-primary" in pair.on(B, "failover", "mode", "secondary", code=6)
    pair.on(A, "failover", "mode", "secondary", "--reason", "make way")
    assert pair.pages(A) == (ERROR, STANDBY)
    lossy = ("failover", "sync", B)
    assert "loss-accepted" in pair.on(A, *lossy, "--reason", "back", code=6)
    pair.on(A, *lossy, "--reason", "back", "--override", "loss-accepted")
    until(lambda: "[ok] synced" in pair.verb("explain", "demo"), "the prober hears of the sync")
    synced = pair.verb("resume", "demo", "--reason", "too early", "--yes", code=6)
    assert "[no] primary-serving" in synced
    pair.on(A, "failover", "mode", "primary", "--reason", "back")
    pair.on(B, "failover", "mode", "secondary", "--reason", "back", "--restart-scheduler")
    until(lambda: pair.pages(A) == (OK, PRIMARY), "A serves")
    until(lambda: pair.pages(B) == (ERROR, STANDBY), "B stands by")
    until(lambda: "[no]" not in pair.verb("explain", "demo"), "every gate is open")
    pair.verb("resume", "demo", "--reason", "synced and swapped", "--yes")  # nobody attests
    until(lambda: pair.front_says() == A, "HAProxy sends to A")
    assert pair.items() == ["apple", "pear", "plum", "new"]
    pair.on(B, "failover", "client-connection", "enable", "--reason", "over")
    assert pair.keep("after")
    until(lambda: pair.group()["condition"] == "normal", "all is normal")
    until(lambda: pair.agent(B)["pair"]["row"] == 1, "row 1 again")
    assert "success" in pair.on(B, "sync", "now", "--reason", "protect it again")
    audit = (pair.folder / f"{A}.state.json.audit.jsonl").read_text()
    assert '"action":"failover-mode"' in audit  # R125


def backdate(path):
    """Let the saved schedule have begun half a minute ago, as if the node had been down since."""
    with closing(sqlite3.connect(path)) as database, database:
        (text,) = database.execute("SELECT value FROM meta WHERE key = 'schedule'").fetchone()
        kept = json.loads(text)
        kept["schedule"]["first_wall"] = int(time.time()) - 30
        query = "UPDATE meta SET value = ? WHERE key = 'schedule'"
        database.execute(query, (json.dumps(kept),))
