"""What every reading verb of an agent prints, in every format: the JSON is an interface.

Two real agents that trust each other, after a sync. What differs from one run or machine to the
next is replaced in their answers on the way to the verb; each file of tests/golden/agent holds one
verb, and `pytest --rewrite` writes them anew.
"""

import json
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import yaml
from agent_pair import Pair, until
from test_snapshots import reading

from lb_probe import client
from lb_probe.cli import cli

GOLDEN = Path(__file__).parent / "golden" / "agent"
READING = {
    "status": ["status"],
    "trust-list": ["trust", "list"],
    "trust-export": ["trust", "export"],
    "test-connection": ["test-connection", "--both"],
    "parity": ["parity"],
    "sync-history": ["sync", "history"],
    "sync-history-one": ["sync", "history", "1"],
    "sync-schedule": ["sync", "schedule"],
    "safe-to-stop": ["safe-to-stop"],
    "logs-heartbeat": ["logs", "heartbeat"],
}
AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
FACTS = {  # of the machine that runs the test
    "agent": "1.0.0",
    "config": "c" * 64,
    "config_on_disk": "c" * 64,
    "cpus": 2,
    "disks": {"/": 100_000_000_000},
    "is_clock_kept": True,
    "kept": False,
    "kept_within_s": None,
    "machine": "d" * 64,
    "memory_bytes": 8_000_000_000,
    "os": "Debian GNU/Linux 13 (trixie) x86_64",
    "ssh_host_keys": [],
}


class Settled:
    """Answers of the agents, without what is another in each run."""

    def __init__(self, pair):
        self._ask = client.follow_agent
        self._kept = {}
        prints = {n: pair.asked("trust", "list", "--node", f"app-{n}") for n in "ab"}
        self._words = {found["fingerprint"]: f"sha256:{n * 64}" for n, found in prints.items()}
        self._words |= {str(port): f"80{at:02}" for at, port in enumerate(pair.ports.values())}
        self._words |= {str(pair.folder): "/etc/lb-probe", socket.gethostname(): "host"}

    def follow_agent(self, control, request, timeout_s=None):
        key = json.dumps(request)
        if key not in self._kept:  # the three formats show one answer
            answers = self._ask(control, request, timeout_s)
            self._kept[key] = [self._value("", answer) for answer in answers]
        yield from self._kept[key]

    def _value(self, key, value):
        if key in FACTS and key != "agent":
            return FACTS[key]
        if key == "facts" and "machine" in value:
            return {k: FACTS.get(k, self._value(k, v)) for k, v in value.items()}
        if key == "differences":  # on one machine this one is always there
            value = [one for one in value if one["kind"] == "hostname"]
        if isinstance(value, dict):
            return {k: self._value(k, v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._value("", one) for one in value]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and key != "run_every_s" and re.search("(_s|seconds)$", key):
            return 0.25
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text):
        for found, word in self._words.items():
            text = re.sub(rf"(?<!\w){re.escape(found)}(?!\w)", word, text)
        text = re.sub(r"-----BEGIN.*-----END", "-----BEGIN ... END", text, flags=re.DOTALL)
        text = re.sub(r"^[+-]?\d+\.\d{3,}$", "0.001", AT.sub("2026-01-01T00:00:00Z", text))
        return re.sub(r"\buid \d+", "uid 0", text)


def test_every_reading_verb_of_an_agent_prints_what_it_always_did(tmp_path, monkeypatch, request):
    with ExitStack() as stack:
        pair = Pair(tmp_path)
        for node in ("app-a", "app-b"):
            pair.start(stack, node)
        pair.meet()
        here = ("--node", "app-b")
        early = pair.verb("ha", "enable", *here)
        assert "HA is not enabled on app-a: enable it on the Primary first" in early  # R76
        assert "first" not in pair.verb("ha", "enable", "--node", "app-a")
        assert "enable it" not in pair.verb("ha", "enable", *here)
        pair.verb("sync", "now", *here, "--reason", "first copy")
        saved = ("--start", "13:00Z", "--run-every", "2h", "--yes", "--reason", "nightly")
        pair.verb("sync", "schedule", *saved, *here)
        pair.verb("parity", *here)
        until(lambda: pair.asked("status", *here)["partner"]["mode"])
        until(lambda: pair.asked("logs", "heartbeat", *here)["heartbeat"])
        settled = Settled(pair)
        monkeypatch.setattr(client, "follow_agent", settled.follow_agent)
        monkeypatch.setattr(client.agent, "follow_agent", settled.follow_agent)
        for name, words in READING.items():
            found = {
                form: pair.run(*words, *here, "-o", form) for form in ("table", "json", "yaml")
            }
            assert {one.exit_code for one in found.values()} == {0}, found["table"].output
            as_json = json.loads(found["json"].stdout)
            assert next(iter(as_json)) == "version"
            assert as_json["version"] == 1
            assert yaml.safe_load(found["yaml"].stdout) == as_json
            line = f"lb-probe agent {' '.join(words)} --node app-b -o"
            compare(name, "".join(f"$ {line} {f}\n{a.stdout}\n" for f, a in found.items()), request)


def compare(name, text, request):
    file = GOLDEN / f"{name}.txt"
    if request.config.getoption("--rewrite"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_every_reading_verb_of_an_agent_has_its_snapshot():
    verbs = {verb.removeprefix("agent ") for verb in reading(cli) if verb.startswith("agent ")}
    assert verbs == {re.sub(" (1|--both)$", "", " ".join(words)) for words in READING.values()}
    assert {path.stem for path in GOLDEN.iterdir()} == set(READING)
