"""SIGHUP: the file is read again while everything goes on; a bad one changes nothing (X1).

Real processes: two agents, a real HAProxy and a prober.
"""

import asyncio
import json
import signal
import socket
import time
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from free_ports import free_port

from lb_probe.app.prober import Prober
from lb_probe.app.secret_files import token_of
from lb_probe.app.targets import context_of
from lb_probe.config import load
from lb_probe.config.model import Tls
from lb_probe.groups import Groups
from lb_probe.ports import Invalid, StoreError
from lb_probe.store import sqlite

A, B = "node-a", "node-b"
PATIENCE_S = 30.0

pytestmark = pytest.mark.timeout(120)


def until(is_true, what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end, f"waited {patience_s:.0f}s in vain until {what}"
        time.sleep(0.02)


class Reloaded:
    """A running pair whose file is changed and read again."""

    def __init__(self, demo):
        self.demo = demo
        self.file = demo.folder / "probes.yaml"
        self.first = yaml.safe_load(self.file.read_text())
        until(lambda: demo.group()["condition"] == "normal", "all is normal")

    def change(self, change):
        """Write the file anew and have it read; return what the log says of it."""
        content = yaml.safe_load(self.file.read_text())
        change(content)
        return self.read(yaml.safe_dump(content, sort_keys=False))

    def read(self, text):
        self.file.write_text(text)
        before = len(self.told())
        self.demo.children["prober"].send_signal(signal.SIGHUP)
        until(lambda: len(self.told()) > before, "the log tells of the reload")
        return self.told()[-1]

    def told(self):
        lines = (self.demo.folder / "prober.log").read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in found if event["event"].startswith("config.")]

    def names(self):
        return [group["name"] for group in self.demo.client.groups()]

    def descriptors(self):
        return len([*Path(f"/proc/{self.demo.children['prober'].pid}/fd").iterdir()])

    def metric(self, line):
        url = f"http://127.0.0.1:{self.demo.ports['9600']}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return line in answer.read().decode()


@pytest.fixture
def pair(stand):
    return Reloaded(stand())


def second(content):
    """A group of equals beside the pair, on the nodes' own agents; it moves nothing."""
    group = content["groups"][0]
    nodes = [{"name": node["name"], "url": node["url"]} for node in group["nodes"]]
    kept = {"connection": "reuse"}
    return {"name": "gw", "policy": "active-active", "act": False, "probe": kept, "nodes": nodes}


# ------------------------------------------------------------------ a good file
def test_a_group_that_did_not_change_feels_nothing(pair):
    before = pair.demo.group()
    open_before = min(pair.descriptors() for _ in range(100))
    told = pair.change(lambda content: content["groups"].append(second(content)))
    assert told["event"] == "config.reloaded"
    assert (told["added"], told["changed"], told["unchanged"]) == (["gw"], [], 1)
    assert pair.names() == ["demo", "gw"]
    after = pair.demo.group()
    assert after["condition"] == "normal"  # and not `confirming`, as after a start
    assert (after["generation"], after["assigned"]) == (before["generation"], A)
    assert after["adapters"][0]["in_sync"]
    until(lambda: pair.demo.client.group("gw")["condition"] != "confirming", "gw is probed")
    assert pair.metric('lb_probe_group_held{group="gw"} 0.0')
    told = pair.change(lambda content: content["groups"].pop())
    assert told["removed"] == ["gw"]
    assert pair.names() == ["demo"]
    assert not pair.metric('group="gw"')
    until(lambda: pair.descriptors() <= open_before, "its kept connections are closed", 5.0)


def test_a_failover_goes_on_across_a_reload_of_another_group(pair):
    pair.change(lambda content: content["groups"].append(second(content)))
    pair.demo.kill(A)
    pair.change(lambda content: content["groups"].pop())
    until(lambda: pair.demo.through_haproxy() == B, "traffic is on B")
    until(lambda: pair.demo.group()["adapters"][0]["in_sync"], "HAProxy agrees")
    assert pair.demo.group()["latched"]


def test_a_latched_group_stays_latched_whatever_changes_in_it(pair):
    pair.demo.kill(A)
    until(lambda: pair.demo.through_haproxy() == B, "traffic is on B")
    pair.demo.mode(B, "primary")
    pair.demo.start(A)
    until(lambda: pair.demo.group()["condition"] == "primary-returned", "A is back")
    generation = pair.demo.group()["generation"]
    told = pair.change(lambda content: content["groups"][0].update(confirm="3s"))
    assert told["changed"] == ["demo"]
    for _ in range(50):
        assert pair.demo.through_haproxy() == B
        time.sleep(0.02)
    until(lambda: pair.demo.group()["condition"] == "primary-returned", "it is judged anew")
    found = pair.demo.group()
    assert (found["latched"], found["assigned"], found["generation"]) == (True, B, generation)


def test_changed_times_are_gone_by_from_then_on(pair):
    pair.change(lambda content: content["groups"][0].update(act=False))
    until(lambda: pair.demo.group()["condition"] == "normal", "all is normal")
    pair.demo.kill(A)
    until(lambda: pair.demo.group()["condition"] == "failover-blocked", "it only observes")
    assert pair.demo.group()["blocked"] == ["act"]
    assert pair.demo.through_haproxy() == A
    pair.change(lambda content: content["groups"][0].update(act=True))
    until(lambda: pair.demo.through_haproxy() == B, "it acts, on failures from after the reload")


def test_an_operator_that_is_new_is_let_in_and_one_that_is_gone_is_not(pair, tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"{name}-0123456789012345\n")
        (tmp_path / name).chmod(0o600)

    def only(name):
        operator = {"name": name, "role": "viewer", "token_file": str(tmp_path / name)}
        return lambda content: content["api"].update(operators=[operator])

    port = pair.first["api"]["listen"].rpartition(":")[2]

    def status(name):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/groups")
        request.add_header("Authorization", f"Bearer {name}-0123456789012345")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    pair.change(only("old"))
    assert (status("old"), status("new")) == (200, 401)
    pair.change(only("new"))
    assert (status("old"), status("new")) == (401, 200)


# ------------------------------------------------------------------ a bad one
def is_untouched(pair):
    found = pair.demo.group()
    assert (found["condition"], found["assigned"], pair.names()) == ("normal", A, ["demo"])
    assert pair.demo.through_haproxy() == A


def test_a_file_with_mistakes_changes_nothing_and_says_each(pair):
    good = pair.file.read_text()
    told = pair.read(good.replace("act: true", "act: perhaps").replace("confirm", "confrim"))
    assert (told["event"], told["level"]) == ("config.reload-failed", "error")
    assert "act" in told["detail"]
    assert "confrim" in told["detail"]
    is_untouched(pair)
    assert pair.metric("lb_probe_config_last_reload_successful 0.0")
    assert pair.read(good)["event"] == "config.reloaded"
    assert pair.metric("lb_probe_config_last_reload_successful 1.0")


def test_a_token_that_cannot_be_one_is_told_and_the_prober_goes_on(pair, tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfe\n")
    (tmp_path / "token").chmod(0o600)
    operator = {"name": "ops", "role": "viewer", "token_file": str(tmp_path / "token")}

    told = pair.change(lambda content: content["api"].update(operators=[operator]))

    assert told["event"] == "config.reload-failed"
    assert "found no token in" in told["detail"]
    is_untouched(pair)


def test_a_certificate_that_is_broken_is_told_and_the_prober_goes_on(pair, tmp_path):
    (tmp_path / "ca.pem").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )

    def trusting(content):
        node = content["groups"][0]["nodes"][1]
        node.update(url="https://127.0.0.1:9", tls={"ca_file": str(tmp_path / "ca.pem")})

    told = pair.change(trusting)

    assert told["event"] == "config.reload-failed"
    assert "found a certificate that cannot be read in" in told["detail"]
    is_untouched(pair)


def test_a_file_that_is_gone_since_it_was_checked_is_told_and_not_raised(tmp_path):
    gone = tmp_path / "gone.pem"
    with pytest.raises(Invalid, match=rf"tls of x: .*; wanted PEM files in {gone}"):
        context_of(Tls.model_construct(ca_file=gone), "x")
    with pytest.raises(Invalid, match=rf"{gone}: No such file or directory; wanted a token"):
        token_of(gone)
    gone.write_text("two words\n")
    with pytest.raises(Invalid, match=rf"{gone}: found no token; wanted one line of visible"):
        token_of(gone)


def test_a_file_that_takes_the_node_with_the_traffic_away_is_refused(pair):
    def elsewhere(content):
        content["groups"][0]["nodes"][0]["url"] = "http://127.0.0.1:9"

    told = pair.change(elsewhere)
    assert told["event"] == "config.reload-failed"
    assert "node node-a has the traffic and now points to another server" in told["detail"]
    is_untouched(pair)


def test_what_takes_a_restart_is_named_and_nothing_is_changed(pair):
    def move(content):
        content["metrics"]["listen"] = f"127.0.0.1:{free_port()}"
        content["groups"][0]["confirm"] = "9s"

    told = pair.change(move)
    assert told["event"] == "config.reload-failed"
    assert "metrics.listen changed, which takes a restart" in told["detail"]
    is_untouched(pair)


def test_a_listener_whose_address_is_taken_leaves_the_group_as_it_was(pair):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        asked = {
            "type": "agent-check",
            "name": "asked",
            "listen": f"127.0.0.1:{taken.getsockname()[1]}",
            "nodes": {A: "a", B: "b"},
        }
        told = pair.change(lambda content: content["groups"][0]["adapters"].append(asked))
    assert told["event"] == "config.reload-failed"
    assert "cannot listen for asked" in told["detail"]
    is_untouched(pair)
    asked["listen"] = f"127.0.0.1:{free_port()}"

    def place(content):
        content["groups"][0]["adapters"][-1] = asked

    assert pair.change(place)["changed"] == ["demo"]
    until(lambda: pair.demo.group()["condition"] == "normal", "all is normal")
    assert [adapter["name"] for adapter in pair.demo.group()["adapters"]][-1] == "asked"


def test_many_hangups_at_once_are_one_reading_after_another(pair):
    for _ in range(20):
        pair.demo.children["prober"].send_signal(signal.SIGHUP)
    until(lambda: pair.told(), "the log tells of a reload")
    until(lambda: pair.demo.group()["condition"] == "normal", "all is normal")
    assert {told["event"] for told in pair.told()} == {"config.reloaded"}
    pair.demo.kill(A)
    until(lambda: pair.demo.through_haproxy() == B, "and a failover works")


# ------------------------------------------------------------------ half way
FILE = """\
version: 1
store: sqlite:state.db
groups:
  - name: epmm
    act: false
    confirm: 0s
    serving_deadline: 1m
    probe: {{interval: 50ms, timeout: 50ms}}
    nodes:
      - {{name: a, role: primary, url: "http://127.0.0.1:{port}"}}
      - {{name: b, role: secondary, url: "http://127.0.0.2:{port}"}}
"""


@asynccontextmanager
async def in_process(folder):
    """A prober whose nodes are down; yields what is told, and what makes it read its file again."""
    file = folder / "probes.yaml"
    text = FILE.format(port=free_port())
    file.write_text(text)
    sqlite.init(folder / "state.db")
    prober, words, told = Prober(load(file, as_="prober"), frozenset()), asyncio.Queue(), []
    prober._events.add(told.append)

    async def come(name, count=1):
        first = len([one for one in told if one.name == name])
        async with asyncio.timeout(PATIENCE_S):
            while len([one for one in told if one.name == name]) < first + count:
                assert not running.done()
                await asyncio.sleep(0.01)

    running = asyncio.ensure_future(prober.run(words.get))
    await come("probe.done")
    file.write_text(text.replace("serving_deadline: 1m", "serving_deadline: 2m"))
    yield words, come, running
    if not running.done():
        words.put_nowait("stop")
        await running


def swapping(monkeypatch, error):
    async def swap(groups, *given):
        raise error

    monkeypatch.setattr(Groups, "swap", swap)


async def test_a_file_that_no_longer_fits_at_the_last_moment_changes_nothing(tmp_path, monkeypatch):
    """A failover may come between the look at the file and its taking: probing goes on."""
    swapping(monkeypatch, Invalid("group epmm: its node with the traffic is gone"))
    async with in_process(tmp_path) as (words, come, _):
        words.put_nowait("reload")
        await come("config.reload-failed")
        await come("probe.done", 4)
        monkeypatch.undo()
        words.put_nowait("reload")
        await come("config.reloaded")
        await come("probe.done", 4)


async def test_a_reload_that_the_store_breaks_off_ends_the_process(tmp_path, monkeypatch):
    """Half of the groups would be served, and nothing probed; the next start does all of it."""
    swapping(monkeypatch, StoreError("the disk is full"))
    async with in_process(tmp_path) as (words, _, running):
        words.put_nowait("reload")
        await asyncio.wait([running], timeout=PATIENCE_S)
        with pytest.raises(ExceptionGroup) as broken:
            running.result()
    (error,) = broken.value.exceptions
    assert "a reload broke off half way, start again: the disk is full" in str(error)
