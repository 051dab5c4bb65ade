"""Two real agents, a file that one copies from the other, and the verbs as a person types them."""

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

from click.testing import CliRunner
from firewall import free_port

from lb_probe.cli import cli

FILE = """\
version: 1
groups:
  - name: app
    act: true
    nodes:
      - name: app-a
        role: primary
        url: "http://127.0.0.1:{page_a}"
        agent:
          listen: "127.0.0.1:{page_a}"
          control: a.sock
          trust: {{listen: "127.0.0.1:{peer_a}", interval: 200ms}}
          connectivity: {{ports: [{{port: {page_a}}}], pause: 10ms}}
          parity: {{version_command: [/bin/cat, {folder}/version], disks: [/]}}
          sync: {{sync_command: [/bin/sh, {folder}/copy]}}
      - name: app-b
        role: secondary
        url: "http://127.0.0.1:{page_b}"
        agent:
          listen: "127.0.0.1:{page_b}"
          control: b.sock
          report: {{listen: "127.0.0.1:{report_b}"}}
          trust: {{listen: "127.0.0.1:{peer_b}", interval: 200ms}}
          connectivity: {{ports: [{{port: {page_b}}}], pause: 10ms}}
          parity: {{version_command: [/bin/cat, {folder}/version], disks: [/]}}
          sync: {{sync_command: [/bin/sh, {folder}/copy]}}
"""
COPY = """\
cd {folder} && touch copying
echo "sync: step data of $LB_PROBE_SYNC_SOURCE"
while [ -e {folder}/wait ]; do sleep 0.02; done
cp $LB_PROBE_SYNC_SOURCE.data $LB_PROBE_SYNC_TARGET.data && echo "sync: complete"
"""


class Pair:
    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "probes.yaml"
        names = ("page_a", "page_b", "peer_a", "peer_b", "report_b")
        self.ports = {name: free_port() for name in names}
        self.file.write_text(FILE.format(folder=folder, **self.ports))
        (folder / "copy").write_text(COPY.format(folder=folder))
        (folder / "version").write_text("7.1\n")
        (folder / "app-a.data").write_text("first")

    def run(self, *words):
        return CliRunner().invoke(cli, ["agent", *words, "-c", str(self.file)])

    def verb(self, *words, code=0):
        done = self.run(*words)
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.output

    def asked(self, *words):
        return json.loads(self.verb(*words, "-o", "json"))

    def start(self, stack, node):
        log = stack.enter_context((self.folder / f"{node}.log").open("a"))
        line = [sys.executable, "-m", "lb_probe", "agent", "--node", node, "-c", str(self.file)]
        process = subprocess.Popen(line, stdout=log, stderr=log)
        stack.callback(_end, process)
        until = time.monotonic() + 30
        while time.monotonic() < until and process.poll() is None:
            with socket.socket(socket.AF_UNIX) as sock:
                if sock.connect_ex(str(self.folder / f"{node[-1]}.sock")) == 0:
                    return process
            time.sleep(0.02)
        raise AssertionError((self.folder / f"{node}.log").read_text())

    def begin(self, stack, *words):
        """Begin a sync in a process of its own, and wait until it copies."""
        (self.folder / "copying").unlink(missing_ok=True)
        line = [sys.executable, "-m", "lb_probe", "agent", *words, "--node", "app-b"]
        line += ["-c", str(self.file)]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        stack.callback(process.kill)
        until((self.folder / "copying").exists)
        return process

    def meet(self):
        for here, there in (("app-b", "app-a"), ("app-a", "app-b")):
            carried = self.folder / "carried"
            carried.write_text(self.verb("trust", "export", "--node", there))
            print_ = self.asked("trust", "list", "--node", there)["fingerprint"]
            self.verb("trust", "add", str(carried), "--node", here, "--fingerprint", print_)
        self.verb("test-connection", "--node", "app-b", "--both")


def _end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def until(is_so, patience_s=20):
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_a_pair_is_synced_scheduled_and_asked_before_it_is_stopped(tmp_path):
    """By the verbs alone, between two real agents, one of which is killed in the middle.

    R12, R18, R19, R20, R24, R83-R88, R92, R122. One story: two agents take a second to start.
    """
    with ExitStack() as stack:
        pair = Pair(tmp_path)
        pair.start(stack, "app-a")
        standby = pair.start(stack, "app-b")
        assert "peer-answers" in pair.verb("sync", "now", "--node", "app-b", code=6)
        pair.meet()
        wrong_ways(pair)
        first_sync(pair, stack)
        on_record(pair)
        a_schedule(pair)
        killed_in_the_middle(pair, stack, standby)


def wrong_ways(pair):
    """From the Primary, from a stranger, and a schedule before anything was good."""
    wrong = pair.verb("sync", "now", "--node", "app-a", code=6)
    assert "a Standby: only a Standby copies" in wrong
    stranger = pair.verb("failover", "sync", "203.0.113.9", "--node", "app-b", code=6)
    assert "known-source" in stranger
    early = ("sync", "schedule", "--start", "13:00Z", "--run-every", "1d", "--node", "app-b")
    assert "by-hand-first" in pair.verb(*early, "--yes", code=6)
    assert pair.asked("safe-to-stop", "--node", "app-a")["safe"] is True


def first_sync(pair, stack):
    """While it runs neither node is safe to stop, and no second one begins."""
    (pair.folder / "wait").touch()
    copying = pair.begin(stack, "failover", "sync", "127.0.0.1", "--reason", "first")
    for node in ("app-a", "app-b"):
        assert "NOT safe to stop" in pair.verb("safe-to-stop", "--node", node, code=6)
    assert "alone" in pair.verb("sync", "now", "--node", "app-b", code=6)
    (pair.folder / "wait").unlink()
    said, _ = copying.communicate(timeout=30)
    assert copying.returncode == 0, said
    assert "sync begins: app-a -> app-b, the first copy" in said
    assert "| sync: step data of app-a" in said
    assert "copy: data of app-a" in said
    assert (pair.folder / "app-b.data").read_text() == "first"
    pair.verb("safe-to-stop", "--node", "app-a")
    seen = pair.verb("status", "--node", "app-a")
    assert "pair: app-b (127.0.0.1): standby\n  last synced     2" in seen


def on_record(pair):
    (run,) = pair.asked("sync", "history", "--node", "app-b")["runs"]
    assert (run["result"], run["versions"]) == ("success", {"here": "7.1", "source": "7.1"})
    assert "manual" in pair.verb("sync", "history", "--node", "app-b", "--since", "7d")
    assert "data of app-a" in pair.verb("sync", "history", "1", "--node", "app-b")
    assert "not on record" in pair.verb("sync", "history", "2", "--node", "app-b", code=2)


def a_schedule(pair):
    """A zone, sixty minutes and a gap are asked for."""
    save = ("sync", "schedule", "--node", "app-b")
    assert "no schedule is saved" in pair.verb(*save)
    assert "without a zone is not taken" in pair.verb(*save, "--start", "13:00", code=2)
    often = (*save, "--start", "13:00Z", "--run-every", "59m", "--yes")
    assert "60 minutes or more" in pair.verb(*often, code=6)
    past = time.strftime("%H:%MZ", time.gmtime())
    wide = pair.verb(*save, "--start", past, "--run-every", "1h", code=6)
    assert "there is no terminal to confirm on" in wide
    assert f"--start {past} --run-every 1h --node app-b --yes" in wide
    shown = pair.verb(*save, "--start", "13:00Z", "--run-every", "1d", "--yes")
    assert "StartTime 13:00Z, Run Every 1d" in shown
    assert "waits   HA is disabled" in shown
    assert pair.asked(*save)["schedule"]["first"].endswith("T13:00:00Z")


def killed_in_the_middle(pair, stack, standby):
    """SIGKILL: the copy lives on, no second one begins beside it, and the data is suspect."""
    (pair.folder / "wait").touch()
    (pair.folder / "copying").unlink()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(pair.folder / "b.sock"))
        asking.sendall(b'{"command": "sync-now"}\n')
        until((pair.folder / "copying").exists)
        standby.kill()
        standby.wait(20)
    pair.start(stack, "app-b")
    until(lambda: "earlier sync still runs (pid" in pair.verb("status", "--node", "app-b"))
    status = pair.verb("status", "--node", "app-b")
    assert "a process of an earlier sync still runs (pid " in status
    assert "data-suspect: sync 2 from app-a has not ended" in status
    assert "NOT safe to stop" in pair.verb("safe-to-stop", "--node", "app-a", code=6)
    assert "alone" in pair.verb("sync", "now", "--node", "app-b", code=6)
    run = pair.asked("sync", "history", "2", "--node", "app-b")["runs"][0]
    assert (run["result"], run["completed"]) == ("interrupted", None)
    (pair.folder / "wait").unlink()
    until(lambda: pair.run("safe-to-stop", "--node", "app-b").exit_code == 0)
    assert "success" in pair.verb("sync", "now", "--node", "app-b")
    found = pair.asked("status", "--node", "app-b")["sync"]
    assert (found["alarms"], found["suspect"]) == ({}, "")
