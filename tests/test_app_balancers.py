"""Adapters of type dns and command, from probes.yaml to what they do, by real processes."""

import subprocess
import sys

import pytest

CONFIG = """
version: 1
store: sqlite:state.db
groups:
  - name: epmm
    act: true
    nodes:
      - {name: a, role: primary, url: "http://127.0.0.1:9"}
      - {name: b, role: secondary, url: "http://127.0.0.2:9"}
    adapters:
      - type: dns
        name: gslb
        servers: ["127.0.0.1:9"]
        zone: example.com
        record: epmm.example.com
        ttl: 5m
        nodes: {a: 192.0.2.10, b: 192.0.2.11}
        tsig: {name: lb-probe, key_file: tsig.key}
      - type: command
        name: ns
        argv: [/bin/sh, -c, "echo $LB_PROBE_GROUP $LB_PROBE_SERVER > moved"]
        read: [/bin/sh, -c, "cut -d' ' -f2 moved"]
        nodes: {a: srv_a, b: srv_b}
"""

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def say(tmp_path):
    (tmp_path / "probes.yaml").write_text(CONFIG)
    (tmp_path / "tsig.key").write_text("c2VjcmV0\n")
    (tmp_path / "tsig.key").chmod(0o600)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "lb_probe", "-c", str(tmp_path / "probes.yaml"), *words],
            capture_output=True,
            text=True,
            timeout=50,
            cwd=tmp_path,
            check=False,
        )

    return run


def test_check_warns_of_a_long_ttl_with_when_clients_follow(say):
    done = say("check")
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert "resolvers keep the old address for `ttl` (300s) more: clients follow" in told


@pytest.mark.parametrize("key", ["good", "gone", "nonsense"])
def test_break_glass_does_what_can_be_done_and_tells_the_rest(say, tmp_path, key):
    """A key that cannot be read is no reason not to move the other load balancers."""
    if key == "gone":
        (tmp_path / "tsig.key").unlink()
    elif key == "nonsense":
        (tmp_path / "tsig.key").write_text("?")
    assert say("init").returncode == 0
    words = ["--to", "b", "--offline", "--reason", "fire", "--yes"]
    done = say("publish", "epmm", *words)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "moved").read_text() == "epmm srv_b\n"
    lines = done.stdout.splitlines()
    assert any("ns" in line and "gslb" not in line for line in lines), done.stdout
    assert "update add epmm.example.com. 300 A 192.0.2.11" in done.stdout
    assert "gslb" in done.stderr
    assert " ns" not in done.stderr
