"""What `check` says of an agent's files: lost at a boot, or a key that nobody should use."""

import shutil

import pytest

from lb_probe import app
from lb_probe.advice.agent_files import _is_mapped
from lb_probe.agent.trust.identity import Keys
from lb_probe.config import load

FILE = """
version: 1
store: sqlite:state.db
groups:
  - name: demo
    act: true
    nodes:
      - name: a
        role: primary
        url: "http://127.0.0.1:8081"
        agent: {{listen: "127.0.0.1:8081", control: {control}, {more}}}
      - name: b
        role: secondary
        url: "http://127.0.0.1:8082"
        agent: {{listen: "127.0.0.1:8082", control: b.sock, trust: {{listen: "127.0.0.1:8446"}}}}
    adapters: []
"""
TRUST = 'trust: {listen: "127.0.0.1:8445"}'
SYNC = "sync: {sync_command: [/bin/true]}"


@pytest.fixture
def said(tmp_path):
    """Return what is said of the agent of node a."""

    def say(*more, control="a.sock", as_="agent:a"):
        file = tmp_path / "probes.yaml"
        file.write_text(FILE.format(control=control, more=", ".join([TRUST, *more])))
        return [line for line in app.check(file, as_) if line.startswith("group demo: a: agent.")]

    return say


def test_what_a_boot_empties_is_told_with_a_place_that_lasts(tmp_path, said):
    Keys(tmp_path / "a.trust", "a")
    assert said(SYNC) == []  # beside a file of a trial, wherever that is
    # The folder of the key is left out, and so it is never there.
    state, history = said(SYNC, "state: /run/x/a.json", control="/run/x/a.sock", as_="check")
    assert state.startswith("group demo: a: agent.state is /run/x/a.json, and a boot empties")
    assert state.endswith("use /var/lib/lb-probe/a.json")
    assert "agent.sync.history is /run/x/a.sync.db" in history


def test_by_default_nothing_that_must_last_is_under_run(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text(FILE.format(control="/run/lb-probe/a.sock", more=f"{TRUST}, {SYNC}"))
    agent = load(file, as_="agent:a").groups[0].nodes[0].agent
    kept = [agent.state, agent.trust_folder, agent.history_of("a")]
    assert [str(path) for path in kept] == [
        "/var/lib/lb-probe/a.state.json",
        "/var/lib/lb-probe/a.trust",
        "/var/lib/lb-probe/a.sync.db",
    ]


def test_a_key_that_cannot_be_used_is_told_before_the_agent_starts(tmp_path, said):
    (missing,) = said()
    assert "key.pem does not exist yet" in missing
    assert said(as_="check") == []  # it may well be on another machine
    Keys(tmp_path / "a.trust", "a")
    assert said() == []
    key = tmp_path / "a.trust" / "key.pem"
    key.chmod(0o640)
    (open_key,) = said()
    assert "found mode 0640; wanted 0600" in open_key
    key.chmod(0o600)
    mine = key.read_text()
    Keys(tmp_path / "c.trust", "a")
    other = (tmp_path / "c.trust" / "key.pem").read_text()
    key.write_text(mine.partition("-----BEGIN CERT")[0] + other[other.index("-----BEGIN CERT") :])
    (torn,) = said()
    assert "found a certificate of another key" in torn
    Keys(tmp_path / "b.trust", "b")
    shutil.copy(tmp_path / "b.trust" / "key.pem", key)
    (cloned,) = said(as_="check")
    assert "found the key of 'b'; wanted that of a" in cloned


def test_an_operator_that_the_machine_does_not_know_is_told(tmp_path, said):
    """R125: at the start it is no fault: a directory that is down must not take the pages."""
    Keys(tmp_path / "a.trust", "a")
    operators = "operators: [{user: daemon, role: viewer}, {group: not-here, role: admin}]"
    (text,) = said(operators)
    assert "this machine has no group not-here: nobody gets admin by it" in text
    assert said(operators, as_="check") == []


def test_ids_that_a_user_namespace_does_not_know_are_found(tmp_path):
    table = tmp_path / "uid_map"
    table.write_text("         0          0          1\n       998        998          1\n")
    assert [_is_mapped(one, table) for one in (0, 998, 1000)] == [True, True, False]
    assert _is_mapped(1000, tmp_path / "none")
