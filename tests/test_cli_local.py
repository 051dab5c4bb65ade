"""The verbs that need no API: daemons, checks, break-glass, and those of an agent."""

import json
import socketserver
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cli_desk import App, run

import lb_probe
from lb_probe import client
from lb_probe.core.model import Gate
from lb_probe.ports import Conflict, NotFound, Refused, StoreError


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    found = App()
    monkeypatch.setitem(sys.modules, "lb_probe.app", found)
    monkeypatch.setattr(lb_probe, "app", found, raising=False)
    return found


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "probes.yaml"
    file.write_text(
        "groups:\n"
        "  - {name: a, nodes: [{name: x}, {name: y}], adapters: [{name: l}]}\n"
        "  - {name: b, nodes: [{name: x}, {name: y}]}\n"
    )
    return str(file)


def test_daemons_and_init_call_app_and_leave_with_its_code(app, config):
    file = Path(config)
    for words, call, code in [
        (["prober"], ("run_prober", file, False, frozenset()), 0),
        (["prober", "--init"], ("run_prober", file, True, frozenset()), 0),
        (["prober", "--override", "a"], ("run_prober", file, False, frozenset({"a"})), 0),
        (["agent", "--node", "x"], ("run_agent", file, "x"), 1),
        (["init"], ("init_store", file), 0),
    ]:
        for given in (["-c", config, *words], [*words, "-c", config]):
            assert run(None, *given).exit_code == code
            assert app.calls.pop() == call
    assert run(None, "init", "-c", config).stdout == "made /tmp/state.db\n"


def test_an_agent_without_node_is_a_usage_error(app, config):
    result = run(None, "agent", "-c", config)
    assert (result.exit_code, app.calls) == (2, [])
    assert "--node epmm-a" in result.stderr


def test_without_any_configuration_the_places_are_named(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        client.address, "CONFIG_PLACES", (Path("probes.yaml"), tmp_path / "etc.yaml")
    )
    result = run(None, "prober")
    assert result.exit_code == 2
    assert "give -c FILE or set LB_PROBE_CONFIG" in result.stderr


def test_demo_passes_script_on(monkeypatch):
    room = types.ModuleType("lb_probe.demo")
    room.run = lambda script: 1 if script else 0
    monkeypatch.setitem(sys.modules, "lb_probe.demo", room)
    monkeypatch.setattr(lb_probe, "demo", room, raising=False)
    assert run(None, "demo").exit_code == 0
    assert run(None, "demo", "--script").exit_code == 1


def test_check_counts_and_warns(app, config):
    result = run(None, "check", "-c", config, "--as", "agent:x")
    assert result.exit_code == 0
    assert result.stdout == (
        f"warning: slow\n{config}: ok: 2 groups, 4 nodes, 1 load balancer; 1 warning above\n"
    )
    assert run(None, "check", "-c", config).exit_code == 0
    assert app.calls == [("check", Path(config), as_) for as_ in ("agent:x", "check")]
    assert run(None, "check", "-c", config, "--as", "me").exit_code == 2


def test_config_shows_what_differs_from_its_default(tmp_path):
    """R14: what somebody changed stands out, and what a group inherits too."""
    file = tmp_path / "probes.yaml"
    file.write_text(
        "version: 1\ndefaults: {probe: {fall: 5}}\ngroups:\n"
        "- name: epmm\n  act: false\n  confirm: 0s\n"
        "  nodes:\n  - {name: a, role: primary, url: https://192.0.2.10}\n"
        "  - {name: b, role: secondary, url: https://192.0.2.11}\n"
    )
    result = run(None, "config", "show", "--diff-defaults", "-c", str(file))
    assert (result.exit_code, [line.split() for line in result.stdout.splitlines()]) == (
        0,
        [
            ["KEY", "VALUE", "DEFAULT", "SAID", "BY"],
            ["defaults.probe.fall", "5", "3", "the", "file"],
            ["groups.epmm.confirm", "0s", "10s", "the", "file"],
            ["groups.epmm.probe.fall", "5", "3", "`defaults`"],
            ["groups.epmm.nodes.a.role", "primary", "none", "the", "file"],
            ["groups.epmm.nodes.b.role", "secondary", "none", "the", "file"],
        ],
    )
    shown = run(None, "config", "show", "-c", str(file), "-o", "json")
    kept = {one["key"]: one["value"] for one in json.loads(shown.stdout)["settings"]}
    assert kept["groups.epmm.drain_deadline"] == "5s"
    file.write_text("version: 2\n")
    assert run(None, "config", "show", "-c", str(file)).exit_code == 2


def test_check_prints_every_fault_and_leaves_with_2(app, config):
    from lb_probe.config import ConfigError

    app.error = ConfigError(["probes.yaml:1:1: error: one", "probes.yaml:2:1: error: two"])
    result = run(None, "check", "-c", config)
    assert result.exit_code == 2
    assert result.stderr == "probes.yaml:1:1: error: one\nprobes.yaml:2:1: error: two\n"
    found = run(None, "check", "-c", config, "-o", "json")
    assert found.exit_code == 2
    assert json.loads(found.stdout)["faults"] == list(app.error.faults)


@pytest.mark.parametrize(
    "words", [["check"], ["probe", "epmm/x"], ["agent", "status", "--node", "x"]], ids=" ".join
)
def test_every_local_reading_verb_answers_in_every_format(app, config, tmp_path, words):
    app.control = tmp_path / "agent.sock"
    with agent_at(app.control, AGENT):
        assert run(None, *words, "-c", config).exit_code == 0
        found = json.loads(run(None, *words, "-c", config, "-o", "json").stdout)
        assert next(iter(found)) == "version"
        assert yaml.safe_load(run(None, *words, "-c", config, "-o", "yaml").stdout) == found


def test_probe_prints_the_verdict_of_each_page(app, config):
    text = run(None, "probe", "epmm/x", "-c", config).stdout
    assert "[no] status: failed (phase tls, took 12 ms)" in text
    assert "[ok] hastatus: ok (mode standby, HTTP 200, took 12 ms)" in text
    assert app.calls == [("probe_once", Path(config), "epmm", "x")]
    for odd in ("epmm", "/x", "epmm/"):
        assert run(None, "probe", odd, "-c", config).exit_code == 2


def test_probe_tells_why_and_what_it_met_on_the_way(app, config):
    text = run(None, "probe", "epmm/x", "-c", config).stdout
    assert "why      the certificate or the handshake is wrong" in text
    assert "phases   name 0.1 ms, connect 2.0 ms, tls 9.9 ms" in text
    assert "at       192.0.2.10:443" in text
    assert "tls      version TLSv1.3" in text
    assert "header   Server: x?[31m" in text
    assert "wrote" not in text


def test_probe_writes_a_capture_only_when_it_is_told_to(app, config):
    text = run(None, "probe", "epmm/x", "--capture", "-c", config).stdout
    assert "wrote lb-probe-epmm-x.txt; read it through before you send it" in text
    run(None, "probe", "epmm/x", "--capture", "--with-addresses", "-c", config)
    calls = [call[3:] for call in app.calls]
    assert calls == [("x", "capture"), ("x", "capture", "with addresses")]
    refused = run(None, "probe", "epmm/x", "--with-addresses", "-c", config)
    assert refused.exit_code == 2
    assert "add --capture" in refused.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no group epmm; the groups are: a"), 2),
        (StoreError("state.db is missing; run lb-probe init"), 1),
        (Conflict("another generation", 8), 5),
        (Refused("no", [Gate("act", False, "act: false", "act: true")], "line"), 6),
        (OSError(98, "Address already in use"), 1),
    ],
)
def test_what_app_raises_becomes_a_message_and_an_exit_code(app, config, error, code):
    app.error = error
    result = run(None, "prober", "-c", config)
    assert result.exit_code == code
    assert str(error).splitlines()[0] in result.stderr
    assert "Traceback" not in result.stderr


# ------------------------------------------------------------------ break-glass
PUBLISH = ["publish", "epmm", "--to", "epmm-b", "--offline", "--reason", "host is down"]


def test_break_glass_goes_straight_to_app(app, config):
    result = run(None, *PUBLISH, "--yes", "-c", config)
    assert result.exit_code == 0
    assert "[ok] edge-1: done" in result.stdout
    assert "set map" in result.stdout
    assert app.calls == [("publish_offline", Path(config), "epmm", "epmm-b", "host is down")]


def test_break_glass_is_exit_1_when_any_load_balancer_failed(app, config):
    app.results = [*app.results, {"name": "edge-2", "ok": False, "detail": "no answer"}]
    result = run(None, *PUBLISH, "--yes", "-c", config)
    assert result.exit_code == 1
    assert "[no] edge-2: no answer" in result.stdout
    assert "edge-2" in result.stderr


def test_break_glass_needs_offline_a_reason_a_node_and_a_confirmation(app, config):
    words = [*PUBLISH, "-c", config]
    offline = run(None, *[word for word in words if word != "--offline"], "--yes")
    assert offline.exit_code == 2
    assert "lb-probe failover epmm --to epmm-b" in offline.stderr
    at = words.index("--reason")
    reason = run(None, *words[:at], *words[at + 2 :], "--yes")
    assert reason.exit_code == 2
    assert "--reason is required" in reason.stderr
    unconfirmed = run(None, *words)
    assert unconfirmed.exit_code == 6
    assert f"lb-probe -c {config} publish epmm --to epmm-b" in unconfirmed.stderr
    assert "--offline --reason 'host is down' --yes" in unconfirmed.stderr
    assert app.calls == []


# ------------------------------------------------------------------ the agent
AGENT = {
    "version": 1,
    "node": "x",
    "role": "primary",
    "mode": "standby",
    "state": "standby",
    "since": "2026-01-01T00:00:00Z",
    "cause": "operator",
    "by": "uid 0",
    "reason": "upgrade",
    "pages": {"status": {"code": 503, "text": "MOBILEIRON-STATUS: ERROR", "reasons": ["standby"]}},
    "checks": [
        {
            "name": "app",
            "passing": True,
            "age_s": 0.3,
            "stale": False,
            "detail": "",
            "pages": ["status"],
        }
    ],
}


@contextmanager
def agent_at(path: Path, answer: dict) -> Iterator[list[dict]]:
    asked: list[dict] = []

    class Line(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked.append(json.loads(self.rfile.readline()))
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    with socketserver.UnixStreamServer(str(path), Line) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join(20)


def test_agent_verbs_ask_the_control_socket_of_their_node(app, config, tmp_path):
    app.control = tmp_path / "agent.sock"
    answer = AGENT | {"warnings": ["moves no traffic"], "changed": True}
    with agent_at(app.control, answer) as asked:
        shown = run(None, "agent", "status", "--node", "x", "-c", config)
        assert "says standby, is standby; primary by configuration" in shown.stdout
        assert "[no] status: 503 MOBILEIRON-STATUS: ERROR" in shown.stdout
        words = ["agent", "--node", "x", "failover", "mode", "primary", "--reason", "why"]
        moved = run(None, "-c", config, *words)
        assert moved.exit_code == 0
        assert moved.stderr == "warning: moves no traffic\n"
    assert asked == [
        {"command": "status"},
        {"command": "failover-mode", "mode": "primary", "reason": "why"},
    ]
    assert app.calls == [("agent_control", Path(config), "x")] * 2


def test_an_agent_that_is_down_is_exit_3_and_a_refusing_one_exit_2(app, config, tmp_path):
    app.control = tmp_path / "agent.sock"
    result = run(None, "agent", "status", "--node", "x", "-c", config)
    assert result.exit_code == 3
    assert "is it running on this machine" in result.stderr
    with agent_at(app.control, {"error": "invalid", "detail": "why not"}):
        assert run(None, "agent", "status", "--node", "x", "-c", config).exit_code == 2
