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
    """R12, R19, R20, R83-R88, R92, R122: by the verbs alone, between two real agents."""
    with ExitStack() as stack:
        pair = Pair(tmp_path)
        for node in ("app-a", "app-b"):
            stack_of = pair.start(stack, node)
        untested = pair.verb("sync", "now", "--node", "app-b", code=6)
        assert "peer-answers" in untested
        pair.meet()

        # By hand: the wrong way, from a stranger, from another version, and then well.
        wrong = pair.verb("sync", "now", "--node", "app-a", code=6)
        assert "a Standby: only a Standby copies" in wrong
        stranger = pair.verb("failover", "sync", "203.0.113.9", "--node", "app-b", code=6)
        assert "known-source" in stranger
        early = ("sync", "schedule", "--start", "13:00Z", "--run-every", "1d", "--node", "app-b")
        assert "by-hand-first" in pair.verb(*early, "--yes", code=6)
        assert pair.asked("safe-to-stop", "--node", "app-a")["safe"] is True

        (tmp_path / "wait").touch()
        line = [sys.executable, "-m", "lb_probe", "agent", "failover", "sync", "127.0.0.1"]
        line += ["--node", "app-b", "--reason", "first", "-c", str(pair.file)]
        copying = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        stack.callback(copying.kill)
        until((tmp_path / "copying").exists)
        for node in ("app-a", "app-b"):
            assert "NOT safe to stop" in pair.verb("safe-to-stop", "--node", node, code=6)
        second = pair.verb("sync", "now", "--node", "app-b", code=6)
        assert "alone" in second
        (tmp_path / "wait").unlink()
        said, _ = copying.communicate(timeout=20)
        assert copying.returncode == 0, said
        assert "sync begins: app-a -> app-b, the first copy" in said
        assert "| sync: step data of app-a" in said
        assert "copy: data of app-a" in said
        assert (tmp_path / "app-b.data").read_text() == "first"
        for node in ("app-a", "app-b"):
            pair.verb("safe-to-stop", "--node", node)

        # On record, and in the metrics.
        (run,) = pair.asked("sync", "history", "--node", "app-b")["runs"]
        assert (run["result"], run["versions"]) == ("success", {"here": "7.1", "source": "7.1"})
        assert "MANUAL".lower() in pair.verb("sync", "history", "--node", "app-b")
        assert "data of app-a" in pair.verb("sync", "history", "1", "--node", "app-b")
        assert "not on record" in pair.verb("sync", "history", "2", "--node", "app-b", code=2)

        # The schedule: a zone, sixty minutes, and a gap are asked for.
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
        found = pair.asked(*save)
        assert found["schedule"]["first"].endswith("T13:00:00Z")

        # Another version: nothing is copied any more, at once.
        (tmp_path / "version").write_text("7.2\n")
        (tmp_path / "app-a.data").write_text("second")
        assert stack_of.poll() is None
        run = pair.asked("status", "--node", "app-b")["sync"]
        assert (run["alarms"], run["last"]["id"]) == ({}, 1)


def test_what_an_agent_left_that_was_killed_keeps_the_next_sync_back(tmp_path):
    """R18, R24: SIGKILL in the middle; the copy lives on, and no second one runs beside it."""
    with ExitStack() as stack:
        pair = Pair(tmp_path)
        pair.start(stack, "app-a")
        killed = pair.start(stack, "app-b")
        pair.meet()
        (tmp_path / "wait").touch()
        line = [sys.executable, "-m", "lb_probe", "agent", "sync", "now", "--node", "app-b"]
        copying = subprocess.Popen([*line, "-c", str(pair.file)], stdout=subprocess.DEVNULL)
        stack.callback(copying.kill)
        until((tmp_path / "copying").exists)
        killed.kill()
        killed.wait(20)
        copying.wait(20)
        pair.start(stack, "app-b")
        until(lambda: "no sync yet" not in pair.verb("status", "--node", "app-b"))
        status = pair.verb("status", "--node", "app-b")
        assert "a process of an earlier sync still runs (pid " in status
        assert "data-suspect" in status
        assert "has not ended" in status
        assert "NOT safe to stop" in pair.verb("safe-to-stop", "--node", "app-a", code=6)
        assert "alone" in pair.verb("sync", "now", "--node", "app-b", code=6)
        (run,) = pair.asked("sync", "history", "--node", "app-b")["runs"]
        assert (run["result"], run["completed"]) == ("interrupted", None)
        (tmp_path / "wait").unlink()
        until(lambda: pair.run("safe-to-stop", "--node", "app-b").exit_code == 0)
        assert "success" in pair.verb("sync", "now", "--node", "app-b")
        status = pair.asked("status", "--node", "app-b")["sync"]
        assert (status["alarms"], status["suspect"]) == ({}, "")
