"""A real prober tells real people: killed, hung up on, reloaded (R15, R93-R97, X9).

Two agents, a real HAProxy, a prober, a web server and an SMTP server, all on loopback.
"""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest
from aiosmtpd.controller import Controller
from click.testing import CliRunner
from free_ports import free_port
from hand_channel import Events
from hand_clock import until as soon
from mail_server import MailServer
from test_config import A_CERTIFICATE
from test_reload import Reloaded, until

from lb_probe.agent import daemon
from lb_probe.app import ListenError, notify
from lb_probe.cli import cli
from lb_probe.clock import SystemClock
from lb_probe.config import load
from lb_probe.config.notify import CHANNELS
from lb_probe.core.model import Role
from lb_probe.core.notice import CLASSES, Notice

A, B = "node-a", "node-b"

pytestmark = pytest.mark.timeout(120)


class Hook:
    """A web server that keeps the letters it is sent."""

    def __init__(self):
        self.requests, self.status = [], 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                hook.requests.append((dict(self.headers), json.loads(raw)))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self):
                hook.requests.append((dict(self.headers), None))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def told(self, event_class):
        letters = [body for _, body in self.requests if body]
        return [n for body in letters for n in body["notices"] if n["class"] == event_class]


@pytest.fixture
def hook():
    found = Hook()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def deaf():
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def with_notify(demo, text):
    """Start the demo's prober anew, with this as `notify`."""
    demo.kill("prober")
    demo.config.write_text(f"{demo.config.read_text()}\nnotify:\n{text}")


def test_a_prober_killed_between_save_and_message_tells_it_after_its_restart(stand, hook):
    """R95: a failover is told whatever happens in between, and the same one has the same key."""
    demo = stand(confirm="300ms")
    with_notify(demo, f"  channels:\n    - {{type: webhook, name: hook, url: '{hook.url}'}}\n")

    def dies_at(point):
        prober = demo.children["prober"]
        until(lambda: prober.poll() is not None, f"the prober died at {point}")
        assert prober.returncode == -signal.SIGKILL

    demo.start("prober", LB_PROBE_DEBUG_DIE_AT="group.failover")
    until(demo.is_answering, "the API answers")
    until(lambda: demo.group()["condition"] == "normal", "all is normal")
    demo.kill(A)
    dies_at("group.failover")  # saved, and nobody told
    assert hook.told("failed-over") == []
    demo.start("prober", LB_PROBE_DEBUG_DIE_AT="notify.delivered:failed-over")
    dies_at("notify.delivered")  # told, and that not written down, perhaps
    assert len(hook.told("failed-over")) == 1
    demo.start("prober")
    until(lambda: hook.told("prober"), "that the prober was gone is told")
    moved = [n for n in hook.told("failed-over") if "failed over" in n["title"]]
    assert len({n["key"] for n in moved}) == 1
    assert (
        len({h["Idempotency-Key"] for h, body in hook.requests if moved[0] in body["notices"]}) == 1
    )
    assert moved[0]["title"] == f"demo: failed over from {A} to {B} by itself"
    assert "failures in a row" in moved[0]["why"]
    assert "lb-probe explain demo" in moved[0]["do"]
    assert oct((demo.folder / "state.db.outbox.db").stat().st_mode)[-3:] == "600"


def test_channels_that_hang_delay_no_decision_and_no_end(stand, hook, deaf, tmp_path):
    """X-rule: a notification can never delay a decision; they come by a reload here."""
    program = tmp_path / "siren"
    program.write_text("#!/bin/sh\nsleep 600\n")
    program.chmod(0o755)
    pair = Reloaded(stand(confirm="300ms"))
    demo = pair.demo
    channel = {"type": "webhook", "url": f"http://127.0.0.1:{deaf}/", "timeout": "60s"}
    mail = {"type": "mail", "server": f"127.0.0.1:{deaf}", "from": "a@example.com"}

    def add(content):
        content["notify"] = {
            "channels": [
                {**channel, "name": "slow"},
                {**mail, "name": "mail", "to": "b@example.com", "security": "none"},
                {"type": "command", "name": "siren", "argv": [str(program)], "timeout": "60s"},
                {"type": "webhook", "name": "hook", "url": hook.url},
            ],
            "dead_man": {"url": f"{hook.url}alive", "interval": "100ms"},
        }

    assert pair.change(add)["event"] == "config.reloaded"
    until(lambda: [1 for _, body in hook.requests if body is None], "a sign of life came")
    began = time.monotonic()
    demo.kill(A)
    until(lambda: demo.through_haproxy() == B, "traffic is on B")
    took_s = time.monotonic() - began
    until(lambda: hook.told("failed-over"), "the failover is told")
    for name in ("slow", "mail", "siren"):
        until(
            lambda name=name: pair.metric(f'lb_probe_notifications_waiting{{channel="{name}"}} '),
            "it is counted",
        )
    assert pair.metric('lb_probe_notifications_total{channel="hook",result="delivered"} 1.0')
    assert pair.metric('lb_probe_notifications_waiting{channel="slow"} 1.0')
    assert pair.metric('lb_probe_notifications_oldest_timestamp_seconds{channel="hook"} 0.0')
    assert not pair.metric('lb_probe_notifications_oldest_timestamp_seconds{channel="slow"} 0.0')
    assert pair.metric("lb_probe_loop_stalls_total 0.0")
    assert took_s < 5.0  # `confirm` and `fall` take 1 s; a channel that was waited for takes 60
    waiting = CliRunner().invoke(cli, ["notify", "waiting", "-c", str(demo.config), "-o", "json"])
    kept = json.loads(waiting.stdout)["waiting"]
    assert {one["channel"] for one in kept} == {"slow", "mail", "siren"}

    def only_hook(content):
        del content["notify"]["channels"][:3]

    assert pair.change(only_hook)["event"] == "config.reloaded"
    until(lambda: not pair.metric('notifications_waiting{channel="slow"}'), "it is forgotten")
    demo.act("ack")
    until(lambda: hook.told("acknowledged"), "the channel that stayed goes on")
    prober = demo.children["prober"]
    began = time.monotonic()
    prober.terminate()
    assert prober.wait(30) == 0
    assert time.monotonic() - began < 10.0


# ------------------------------------------------------------------ the verbs
FILE = """
version: 1
store: sqlite:state.db
groups:
  - name: epmm
    act: false
    nodes:
      - {{name: a, role: primary, url: "http://127.0.0.1:9"}}
      - {{name: b, role: secondary, url: "http://127.0.0.2:9"}}
notify:
{notify}
"""


def file_of(folder, notify_text):
    file = folder / "probes.yaml"
    file.write_text(FILE.format(notify=notify_text))
    return file


@contextmanager
def mailing():
    server = MailServer()
    controller = Controller(server, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        yield server, controller.port
    finally:
        controller.stop()


def test_notify_test_tries_every_channel_and_says_what_each_said(tmp_path, hook):
    """R93, R96: a marked message through every channel, from this machine, without a prober."""
    key = tmp_path / "pd.key"
    key.write_text("r0uting")
    key.chmod(0o600)
    out = tmp_path / "out.json"
    program = f"[/bin/sh, -c, 'cat > {out}']"
    with mailing() as (mail, port):
        file = file_of(
            tmp_path,
            f"""
  runbook: https://wiki.example.com/runbook
  channels:
    - {{type: mail, name: ops, server: "127.0.0.1:{port}", security: none,
        from: a@example.com, to: b@example.com}}
    - {{type: webhook, name: own, url: "{hook.url}"}}
    - {{type: pagerduty, name: pager, key_file: pd.key, url: "{hook.url}"}}
    - {{type: command, name: siren, argv: {program}}}
    - {{type: webhook, name: gone, url: "http://127.0.0.1:1/"}}
  dead_man: {{url: "{hook.url}"}}
""",
        )
        result = CliRunner().invoke(cli, ["-c", str(file), "notify", "test", "-o", "json"])
        told = {one["channel"]: one for one in json.loads(result.stdout)["channels"]}
        (message,) = mail.messages
    assert result.exit_code == 1
    assert "gone took no message" in result.stderr
    assert {name for name, one in told.items() if one["ok"]} == {
        *("ops", "own", "pager", "siren", "dead-man"),
    }
    assert "refused" in told["gone"]["detail"].lower()
    assert message["Subject"].startswith("[lb-probe] TEST from ")
    assert json.loads(out.read_text())["notices"][0]["class"] == "test"
    actions = [body["event_action"] for _, body in hook.requests if body and "event_action" in body]
    assert actions == ["trigger", "resolve"]  # nobody finds it open in the morning
    one = CliRunner().invoke(cli, ["-c", str(file), "notify", "test", "own"])
    assert one.exit_code == 0
    assert "took it" in one.stdout
    none = CliRunner().invoke(cli, ["-c", str(file), "notify", "test", "nobody"])
    assert none.exit_code == 2
    assert "the channels are: ops, own" in none.stderr


def test_notify_without_channels_says_where_to_read_on(tmp_path):
    file = file_of(tmp_path, "  channels: []\n")
    result = CliRunner().invoke(cli, ["-c", str(file), "notify", "test"])
    assert result.exit_code == 2
    assert "docs/notifications.md" in result.stderr
    result = CliRunner().invoke(cli, ["-c", str(file), "notify", "waiting"])
    assert result.exit_code == 2
    assert "docs/notifications.md" in result.stderr


def test_before_the_first_start_there_is_no_outbox_and_that_is_said(tmp_path):
    file = file_of(tmp_path, '  channels:\n    - {type: command, name: own, argv: ["true"]}\n')
    result = CliRunner().invoke(cli, ["-c", str(file), "notify", "waiting"])
    assert result.exit_code == 1
    assert "there is no outbox; the process that tells people makes it" in result.stderr
    assert "Errno" not in result.stderr


# ------------------------------------------------------------------ an agent's
async def test_an_agent_tells_people_by_itself_and_errors_come_out_as_they_are(tmp_path, hook):
    """R15: the notifier of a node needs neither the prober nor the Primary."""
    clock, events = SystemClock(), Events()
    text = f'  channels:\n    - {{type: webhook, name: own, url: "{hook.url}"}}\n'
    config = load(file_of(tmp_path, text), as_="client")
    state = tmp_path / "b.state.json"
    told = Notice("b/sync/7", "sync-failed", "b: synchronization failed", clock.wall(), node="b")

    async with notify.agent_outbox(config, state, "b", clock, events) as box:
        await box.put(told)
        await box.put(told)
    assert [n["title"] for n in hook.told("sync-failed")] == ["b: synchronization failed"]
    assert hook.requests[0][1]["source"].startswith("agent b on ")
    assert (tmp_path / "b.state.json.outbox.db").exists()

    async def broken():
        async with notify.agent_outbox(config, state, "b", clock, events) as box:
            box.run = None  # breaks, and ends nothing
            await soon(lambda: events.named("part.crashed"))
            raise ListenError("taken")

    with pytest.raises(ListenError, match="taken"):
        await broken()
    silent = load(file_of(tmp_path, "  channels: []\n"), as_="client")
    async with notify.agent_outbox(silent, state, "b", clock, events) as box:
        assert box is None


async def test_an_agent_shows_what_became_of_its_messages(tmp_path, hook):
    """A scrape of the agent has them, those that an earlier run left too."""
    clock, events, stop = SystemClock(), Events(), asyncio.Event()
    gone = free_port()
    text = (
        f'  channels:\n    - {{type: webhook, name: own, url: "{hook.url}"}}\n'
        f'    - {{type: webhook, name: gone, url: "http://127.0.0.1:{gone}/"}}\n'
    )
    config, state = load(file_of(tmp_path, text), as_="client"), tmp_path / "b.state.json"
    told = Notice("b/sync/7", "sync-failed", "b: synchronization failed", clock.wall(), node="b")
    async with notify.agent_outbox(config, state, "b", clock, events) as box:
        await box.put(told)
    setup = daemon.Setup(
        node="b",
        role=Role.SECONDARY,
        listen=("127.0.0.1", 0),
        control=tmp_path / "b.sock",
        state=state,
        report=("127.0.0.1", 0),
        open_outbox=partial(notify.agent_outbox, config, state, "b", clock),
    )
    agent = asyncio.ensure_future(daemon.run(setup, clock, stop, events))
    await soon(lambda: events.named("agent.started") or agent.done())
    url = f"http://{events.named('agent.started')[0]['report']}/metrics"
    async with aiohttp.ClientSession() as session:

        async def lines():
            async with session.get(url) as answer:
                text = (await answer.text()).replace("lb_probe_agent_notifications_", "")
                return dict(line.rsplit(" ", 1) for line in text.splitlines() if "#" not in line)

        found = await lines()
        assert found['waiting{channel="gone",node="b"}'] == "1.0"
        assert found['waiting{channel="own",node="b"}'] == "0.0"
        since = float(found['oldest_timestamp_seconds{channel="gone",node="b"}'])
        assert since == pytest.approx(told.at_wall)
        assert found['oldest_timestamp_seconds{channel="own",node="b"}'] == "0.0"
        await soon(lambda: events.named("notify.failed"))
        found = await lines()
        assert float(found['total{channel="gone",node="b",result="failed"}']) >= 1.0
        assert found['total{channel="own",node="b",result="delivered"}'] == "0.0"
    stop.set()
    await agent


# ------------------------------------------------------------------ who is told nothing
def warnings(tmp_path, text):
    return notify.unheard(load(file_of(tmp_path, text), as_="client"))


def test_check_says_which_class_reaches_nobody(tmp_path):
    """R15: doctor warns when any class is unconfigured."""
    hook = '{type: webhook, url: "http://127.0.0.1:9/", '
    one = f"  channels:\n    - {hook}name: one}}\n"
    (found,) = warnings(tmp_path, one)
    assert "failed-over has one channel only" in found  # R95
    assert warnings(tmp_path, f"{one}    - {hook}name: two}}\n") == []
    (found,) = warnings(tmp_path, f"  channels:\n    - {hook}name: one, at_least: critical}}\n")
    assert found.startswith("notify: reach nobody: ")
    assert "unprotected" in found
    assert "failed-over" not in found
    few = f"  channels:\n    - {hook}name: one, classes: [failed-over, blocked]}}\n"
    (found,) = warnings(tmp_path, few)
    assert "not-serving" in found
    assert "sync-failed" not in found  # there is no agent that could tell it
    agent = 'agent: {listen: "127.0.0.1:1", control: a.sock}'
    file = file_of(tmp_path, few)
    file.write_text(file.read_text().replace(':9"}', f':9", {agent}}}', 1))
    assert "sync-failed" in notify.unheard(load(file, as_="client"))[0]
    (found,) = notify.unheard(load(file_of(tmp_path, "  channels: []\n"), as_="client"))
    assert "failed-over" in found


def test_check_says_of_which_group_nobody_hears(tmp_path):
    hook = '{type: webhook, url: "http://127.0.0.1:9/", '
    ours = f"    - {hook}groups: [epmm], name: "
    file = file_of(tmp_path, f"  channels:\n{ours}one}}\n{ours}two}}\n")
    second = FILE.partition("groups:\n")[2].partition("notify:")[0].replace("epmm", "core")
    text = file.read_text().replace("groups:\n", f"groups:\n{second.format()}", 1)
    file.write_text(text.replace(".0.1:9", ".0.3:9", 1).replace(".0.2:9", ".0.4:9", 1))
    (found,) = notify.unheard(load(file, as_="client"))
    assert found.startswith("notify: of core reach nobody: failed-over")


def test_check_prints_it(tmp_path):
    file = file_of(tmp_path, "  channels: []\n")
    line = [sys.executable, "-m", "lb_probe", "-c", str(file), "check", "--offline"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "notify: reach nobody: failed-over" in done.stdout + done.stderr


def test_a_mail_channel_without_its_package_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("lb_probe.config.notify_rules.find_spec", lambda name: None)
    mail = "{type: mail, name: m, server: 'h:25', from: a@b.example, to: c@d.example}"
    file = file_of(tmp_path, f"  channels:\n    - {mail}\n")
    with pytest.raises(Exception, match=r"pip install 'lb-probe\[mail\]'"):
        load(file, as_="prober")
    assert load(file, as_="client")


# ------------------------------------------------------------------ the page
PAGE = Path(__file__).parents[1] / "docs" / "notifications.md"


def test_the_page_lists_every_class_as_it_is():
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (\w+) \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE
    )
    assert rows == [(c.name, c.severity.value, c.by, c.about) for c in CLASSES.values()]


def test_every_example_of_the_page_is_accepted_as_it_stands(tmp_path):
    found = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name in ("smtp.pass", "pagerduty.key", "slack.url", "teams.url", "ping.url", "hook.secret"):
        (tmp_path / name).write_text("whsec_" + "c2VjcmV0" * 6)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "hook.token").write_text("t0ken")
    (tmp_path / "hook.token").chmod(0o600)
    (tmp_path / "ca.pem").write_text(A_CERTIFICATE)
    types = set()
    for text in found:
        file = file_of(tmp_path, text.removeprefix("notify:\n"))
        config = load(file, as_="prober")
        types |= {channel.type for channel in config.notify.channels}
        assert notify.routes_of(config, SystemClock()).keys() == set(config.notify.channels)
    assert types == set(CHANNELS)
