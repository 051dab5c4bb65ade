"""Two real agents that copy a file from each other, and the verbs as a person types them."""

import json
import signal
import socket
import subprocess
import sys
import time

from click.testing import CliRunner
from free_ports import free_port

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
          heartbeat: {{interval: 1h}}
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
        stack.callback(end, process)
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


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def until(is_so, patience_s=20):
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
