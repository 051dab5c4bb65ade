"""What every reading verb prints, in every format: the JSON and the exit codes are an interface.

A real API over a simulated world after a failover, asked by the command itself. Each file of
tests/golden/cli holds one verb; `pytest --rewrite` writes them anew. A key that is new is a line
more; a key that went or changed its meaning takes a new `version` (docs/operations.md).
"""

import asyncio
import json
import re
import secrets
from itertools import count
from pathlib import Path

import click
import pytest
import yaml
from aiohttp import web
from api_desk import OPERATORS, TOKENS
from cli_desk import App
from click.testing import CliRunner
from test_scenarios import Story

from lb_probe import app
from lb_probe.admin.api import Api
from lb_probe.admin.door import Door
from lb_probe.admin.tokens import Tokens
from lb_probe.advice.findings import Finding
from lb_probe.app.notify import Tried
from lb_probe.cli import cli
from lb_probe.core.active_active import Pool
from lb_probe.core.model import Failed, Observation, Page, Passed, Phase
from lb_probe.events.audit import Audit
from lb_probe.events.log import Fanout
from lb_probe.groups import Groups
from lb_probe.pool import PoolController, PoolSetup

GOLDEN = Path(__file__).parent / "golden" / "cli"
FILE = """version: 1
store: sqlite:state.db
api: {listen: "127.0.0.1:8600"}
notify: {channels: [{type: command, name: pager, argv: ["true"]}]}
groups:
  - name: epmm
    act: true
    confirm: 2s
    nodes:
      - {name: a, role: primary, url: "http://192.0.2.10"}
      - {name: b, role: secondary, url: "http://192.0.2.11"}
"""
NIGHT = "start\nnode a dies\nwait 10\nnode b promotes\nwait 5\nnode a returns\nwait 5"
# Verb, and the words after it; each reads in three formats unless it acts.
READING = {
    "status": "status",
    "status-group": "status epmm",
    "status-pool": "status gw",
    "explain": "explain epmm",
    "explain-pool": "explain gw",
    "history": "history epmm --limit 6",
    "replay": "replay epmm",
    "check": "check --offline",
    "config-show": "config show --diff-defaults",
    "probe": "probe epmm/a",
    "token-create": "token create dana --role viewer --group epmm --expires 90d",
    "token-list": "token list",
    "token-revoke": "token revoke dana",
    "audit-show": "audit show --file audit.jsonl",
    "audit-verify": "audit verify --file audit.jsonl",
    "haproxy-doctor": "haproxy doctor epmm",
    "notify-test": "notify test",
    "notify-waiting": "notify waiting",
}
DOCTOR = [
    (
        "edge",
        [
            Finding(
                "error",
                "fails-back",
                "backend epmm, line 12: `backup` without lb-probe",
                "HAProxy moves traffic back by itself when the Primary answers again",
                "server b 192.0.2.11:443 disabled",
            ),
            Finding("info", "no-hard-stop", "no hard-stop-after", "old workers stay", "one line"),
        ],
    )
]
TRIED = [
    Tried("ops", "mail", ok=True, detail=""),
    Tried("chat", "slack", ok=False, detail="chat: it answered 404: 'no_service'; wanted 2xx"),
]
WAITING = [
    {
        "channel": "chat",
        "class": "failed-over",
        "group": "epmm",
        "at": "2026-01-01T00:16:51.200Z",
        "title": "epmm: failed over from a to b by itself",
        "key": "key",
    }
]
BEFORE = {  # what has to be undone before the next format
    "token-create": "token revoke dana",
    "token-revoke": "token create dana --role viewer",
}
OTHERS = {
    "check-nagios": ["check-nagios", "check-nagios gw", "check-nagios nobody"],
    "status-exit-code": ["status --exit-code", "status gw --exit-code"],
    "resume": [
        "resume epmm --reason repaired --dry-run",
        "resume epmm --reason repaired --yes",
        "resume epmm --reason repaired --yes --override single-primary --dry-run"
        " --attest synced=done",
    ],
    "hold": ["hold epmm --for 2h --reason upgrade --yes", "status", "status epmm"],
}


@pytest.fixture
async def told(tmp_path, monkeypatch):
    """Runs lines of the command against the API of a world; returns what they print."""
    numbers = count(1)
    monkeypatch.setattr(secrets, "token_hex", lambda size: f"{next(numbers):0{2 * size}x}")
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: f"{next(numbers):043x}")
    monkeypatch.setattr(app, "probe_once", App().probe_once)
    monkeypatch.setattr(app, "haproxy_doctor", lambda path, group, files, adapter: DOCTOR)
    monkeypatch.setattr(app, "notify_test", lambda path, channel: TRIED)
    monkeypatch.setattr(app, "notify_waiting", lambda path: WAITING)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "probes.yaml").write_text(FILE)
    (tmp_path / "ops.token").write_text(TOKENS["adm"])
    story = Story()
    await story.play(NIGHT)
    world = story.world
    pools = pool_of(world)
    groups = Groups(["epmm", "gw"], world.controller, pools, world.store)
    await pools.start()
    probe_pool(groups, world.clock)
    tokens = Tokens(tmp_path / "tokens.json", world.clock.wall)
    audit = Audit(tmp_path / "audit.jsonl", world.clock.wall)
    audit.open()
    door = Door(OPERATORS, world.clock.monotonic, tokens=tokens, audit=audit)
    api = Api(groups, door, Fanout().add)
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    environ = {
        "LB_PROBE_URL": f"http://127.0.0.1:{runner.addresses[0][1]}",
        "LB_PROBE_TOKEN_FILE": str(tmp_path / "ops.token"),
        "LB_PROBE_CONFIG": None,
        "LB_PROBE_TOKEN": None,
    }

    async def run(line):
        words = line.split(" ")
        result = await asyncio.to_thread(CliRunner().invoke, cli, words, env=environ)
        code = f"[exit {result.exit_code}]\n" if result.exit_code else ""
        text = f"$ lb-probe {line}\n{result.stdout}{result.stderr}{code}"
        text = text.replace(environ["LB_PROBE_URL"], "http://127.0.0.1:8600")
        return text.replace(str(tmp_path), "/etc/lb-probe"), result.stdout

    yield run
    await runner.cleanup()
    await world.kill_prober()


def pool_of(world):
    pool = Pool("gw", ("gw-1", "gw-2", "gw-3"), fall=3, rise=2, max_age_s=60.0)
    recorder = world.controller.recorder
    return PoolController([PoolSetup(pool)], world.store, world.clock, world, recorder)


def probe_pool(groups, clock):
    """Three nodes, of which one fails."""
    gone = Failed(Phase.TIMEOUT, "no answer in 1s")
    for ago in (3.0, 2.0, 1.0):
        for node, outcome in (("gw-1", Passed()), ("gw-2", gone), ("gw-3", Passed())):
            at = clock.monotonic() - ago
            groups.observe("gw", Observation(node, Page.STATUS, at, at + 0.004, outcome))


def compare(name, text, request):
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--rewrite"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


async def test_every_reading_verb_prints_what_it_always_did(told, request):
    await told("ack epmm --reason seen --yes")
    for name, line in READING.items():
        texts, found = [], {}
        for form in ("table", "json", "yaml"):
            if form != "table" and name in BEFORE:
                await told(BEFORE[name])
            text, stdout = await told(line if form == "table" else f"{line} -o {form}")
            texts.append(text)
            found[form] = stdout
        as_json = json.loads(found["json"])
        assert next(iter(as_json)) == "version"
        assert as_json["version"] == 1
        if name not in BEFORE:  # one answer, in two forms
            assert yaml.safe_load(found["yaml"]) == as_json
        compare(name, "\n".join(texts), request)


async def test_verbs_with_one_form_print_what_they_always_did(told, request):
    for name, lines in OTHERS.items():
        compare(name, "\n".join([(await told(line))[0] for line in lines]), request)


def reading(command, name=""):
    """Yield every verb that has formats."""
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            yield from reading(inner, f"{name} {word}".strip())
    if any(option.name == "form" for option in command.params):
        yield name


def test_every_reading_verb_has_its_snapshot():
    # Those of an agent are in test_agent_snapshots: they need an agent.
    verbs = {verb for verb in reading(cli) if not verb.startswith("agent ")}
    lines = [f"{line} " for line in READING.values()]
    assert [verb for verb in verbs if not any(line.startswith(f"{verb} ") for line in lines)] == []
    names = {path.stem for path in GOLDEN.iterdir()}
    assert names == {*READING, *OTHERS}
    for file in GOLDEN.iterdir():
        assert not re.search(r"Traceback|\x1b", file.read_text())
