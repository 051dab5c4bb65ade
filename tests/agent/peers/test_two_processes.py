"""Two real agents on loopback, by their verbs alone: from no trust at all to a passed test."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from click.testing import CliRunner
from free_ports import free_port
from ssh_server import sshd

from lb_probe.cli import cli

FILE = """\
version: 1
groups:
  - name: app
    act: true
    nodes:
      - name: node-a
        role: primary
        url: "http://127.0.0.1:{page_a}"
        agent:
          listen: "127.0.0.1:{page_a}"
          control: a.sock
          trust: {{listen: "127.0.0.1:{peer_a}", interval: 200ms}}
          connectivity: {{ports: [{{port: {page_a}}}, {{port: {ssh}, kind: ssh}}], pause: 50ms}}
          parity: {{version_command: [/bin/echo, "7.1"], disks: [/]}}
      - name: node-b
        role: secondary
        url: "http://127.0.0.1:{page_b}"
        agent:
          listen: "127.0.0.1:{page_b}"
          control: b.sock
          trust: {{listen: "127.0.0.1:{peer_b}", interval: 200ms}}
          connectivity: {{ports: [{{port: {page_b}}}], pause: 50ms}}
          parity: {{version_command: [/bin/echo, "7.2"], disks: [/]}}
"""


class Stand:
    """The configuration, the agents, and the verbs as a person types them."""

    def __init__(self, folder, ssh):
        self.ports = {name: free_port() for name in ("page_a", "page_b", "peer_a", "peer_b")}
        self.file = folder / "probes.yaml"
        self.folder = folder
        self.file.write_text(FILE.format(ssh=ssh, **self.ports))

    def verb(self, *words, code=0, text=None):
        done = CliRunner().invoke(cli, ["agent", *words, "-c", str(self.file)], input=text)
        assert done.exit_code == code, (words, done.output)
        return done.output if code else done.stdout

    def start(self, stack, node):
        log = stack.enter_context((self.folder / f"{node}.log").open("w"))
        line = [sys.executable, "-m", "lb_probe", "agent", "--node", node, "-c", str(self.file)]
        process = subprocess.Popen(line, stdout=log, stderr=log)
        stack.callback(_end, process)
        return process

    def wait(self, node, process):
        path = self.folder / f"{node[-1]}.sock"
        until = time.monotonic() + 30
        while time.monotonic() < until and process.poll() is None:
            with socket.socket(socket.AF_UNIX) as sock:
                if sock.connect_ex(str(path)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / f"{node}.log").read_text())


def _end(process):
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_two_agents_are_brought_together_by_their_verbs(tmp_path):
    """R73, R77, R79, R80, R9: export, add on both sides, test from both ends, compare."""
    with ExitStack() as stack:
        port, _ = stack.enter_context(sshd())
        stand = Stand(tmp_path, port)
        export = stand.verb("trust", "init", "--node", "node-a")
        assert export == stand.verb("trust", "init", "--node", "node-a")
        assert (tmp_path / "a.trust" / "key.pem").stat().st_mode & 0o777 == 0o600
        assert "PRIVATE" not in export
        processes = {node: stand.start(stack, node) for node in ("node-a", "node-b")}
        for node, process in processes.items():
            stand.wait(node, process)
        assert stand.verb("trust", "export", "--node", "node-a") == export

        failed = stand.verb("test-connection", "--node", "node-b", "--both", code=1)
        assert "node-b does not trust node-a" in failed
        assert "Test FAILED" in failed

        _print = "sha256:" + "0" * 64
        wrong = ("trust", "add", "-", "--node", "node-b", "--fingerprint", _print)
        assert "read the fingerprint from" in stand.verb(*wrong, code=2, text=export)
        for here, there in (("node-b", "node-a"), ("node-a", "node-b")):
            listed = json.loads(stand.verb("trust", "list", "--node", there, "-o", "json"))
            (tmp_path / "carried").write_text(stand.verb("trust", "export", "--node", there))
            added = stand.verb(
                *("trust", "add", str(tmp_path / "carried"), "--node", here),
                *("--fingerprint", listed["fingerprint"], "--reason", "setup"),
            )
            assert listed["fingerprint"] in added
        passed = stand.verb("test-connection", "--node", "node-b", "--both")
        assert passed.count(": passed at ") == 2
        assert "banner SSH-2.0-OpenSSH" in passed
        assert passed.endswith("Test was successful\n")

        parity = stand.verb("parity", "--node", "node-a", "--exit-code", code=1)
        assert "[error] software: 7.1 here, 7.2 there; wanted the same release on both" in parity
        assert "[error] config:" not in parity
        stand.file.write_text(stand.file.read_text().replace("act: true", "act: false"))
        changed = stand.verb("parity", "--node", "node-b")
        assert "[warning] config-on-disk: a file that changed since it was read here" in changed
        status = stand.verb("status", "--node", "node-a")
        assert "[ok] node-a -> node-b" in status
        assert "[ok] node-b -> node-a" in status
        assert "[ok] connection: both directions passed" in status

        stand.verb("trust", "revoke", "node-a", "--node", "node-b", "--reason", "machine lost")
        failed = stand.verb("test-connection", "--node", "node-a", code=1)
        assert "node-b does not trust node-a: add our export there" in failed


def test_the_verbs_say_what_is_missing(tmp_path):
    stand = Stand(tmp_path, 22)
    stand.file.write_text(stand.file.read_text().replace("trust: {", "heartbeat: {}\n    #"))
    assert "connectivity without trust" in stand.verb("trust", "init", "--node", "node-a", code=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act for another user")
def test_a_key_that_root_makes_belongs_to_the_user_of_the_agent(tmp_path):
    """`trust init` before the first start, by root, for an agent that is somebody else."""
    stand = Stand(tmp_path, 22)
    os.chown(tmp_path, 65534, 65534)
    stand.verb("trust", "init", "--node", "node-a")
    for path in (tmp_path / "a.trust", tmp_path / "a.trust" / "key.pem"):
        assert path.stat().st_uid == 65534
