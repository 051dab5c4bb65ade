"""The main job with real processes (R46): agents, prober, HAProxy, and signals that end them.

Traffic is asked for through HAProxy, and the two applications count what they answered.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from lb_probe.client import ClientError, Refused
from lb_probe.history import CHANGES

A, B = "node-a", "node-b"
PATIENCE_S = 30.0

pytestmark = pytest.mark.timeout(120)


def until(is_true, what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end, f"waited {patience_s:.0f}s in vain until {what}"
        time.sleep(0.02)


def on(demo, node):
    return lambda: demo.through_haproxy() == node


def saved(demo):
    """What is on disk, read as another program would."""
    with closing(sqlite3.connect(f"file:{demo.folder}/state.db?mode=ro", uri=True)) as db:
        return db.execute("SELECT assigned, latched, generation FROM groups").fetchone()


class Asker:
    """Asks through HAProxy without a pause and remembers every answer with its time."""

    def __init__(self, demo):
        self.answers = []
        self._demo = demo
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self):
        while not self._stop.wait(0.01):
            self.answers.append((time.monotonic(), self._demo.through_haproxy()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        self._thread.join()


# Each point lies between two effects of a failover: decided, saved, sent, read back, confirmed.
POINTS = [
    "group.condition:failing-over",
    "group.failover",
    "publish.sent",
    "publish.done",
    "publish.confirmed",
]


@pytest.mark.parametrize("point", POINTS)
def test_prober_killed_between_two_effects_ends_on_the_saved_node(stand, point):
    """R54: kill -9 at each step of a failover, then a restart."""
    demo = stand(confirm="300ms")
    until(on(demo, A), "traffic is on A")
    demo.kill("prober")
    demo.start("prober", LB_PROBE_DEBUG_DIE_AT=point)
    until(demo.is_answering, "the API answers")
    until(lambda: demo.group()["condition"] == "normal", "all is normal")
    demo.kill(A)
    prober = demo.children["prober"]
    until(lambda: prober.poll() is not None, f"the prober died at {point}")
    assert prober.returncode == -signal.SIGKILL
    node, latched, generation = saved(demo)
    expected = (A, 0) if point == POINTS[0] else (B, 1)
    assert (node, latched) == expected
    before = demo.apps[A].answers
    demo.start("prober")
    until(demo.is_answering, "the API answers")
    until(on(demo, B), "traffic is on B")  # kept there, finished, or decided anew: never lost
    until(lambda: demo.group()["adapters"][0]["in_sync"], "HAProxy agrees")
    node, latched, after = saved(demo)
    assert (node, latched) == (B, 1)
    assert after == max(generation, 2)  # one failover, not two
    if expected == (B, 1) and point in ("publish.done", "publish.confirmed"):
        assert demo.apps[A].answers == before


@pytest.mark.parametrize("point", ["group.resume", "publish.sent", "publish.confirmed"])
def test_prober_killed_between_two_effects_of_a_resume_ends_on_the_saved_node(stand, point):
    """R54: the way back is saved before it is published too, and is finished by the next start."""
    demo = stand(confirm="300ms")
    demo.kill(A)
    until(on(demo, B), "traffic is on B")
    demo.start(A)
    until(lambda: demo.group()["adapters"][0]["in_sync"], "HAProxy agrees")
    demo.kill("prober")
    demo.start("prober", LB_PROBE_DEBUG_DIE_AT=point)
    until(demo.is_answering, "the API answers")
    until(lambda: demo.group()["nodes"][0]["serving"] == "ok", "A serves again")
    prober = demo.children["prober"]
    with pytest.raises(ClientError):  # it dies before it can answer
        demo.act("resume", attest={"synced": "Completed 10:42Z"})
    prober.wait(PATIENCE_S)
    assert prober.returncode == -signal.SIGKILL
    node, latched, generation = saved(demo)
    assert (node, latched) == (A, 0)
    demo.start("prober")
    until(demo.is_answering, "the API answers")
    until(on(demo, A), "traffic is on A")
    until(lambda: demo.group()["adapters"][0]["in_sync"], "HAProxy agrees")
    assert saved(demo) == (A, 0, generation)


@pytest.mark.parametrize(("style", "left"), [("map", B), ("server", "status 503")])
def test_latched_without_its_store_the_prober_refuses_and_writes_nothing(stand, style, left):
    """X1: state lost, load balancer and prober restarted. A map remembers, servers do not."""
    demo = stand(style, confirm="300ms")
    demo.kill(A)
    until(on(demo, B), "traffic is on B")
    demo.kill("prober")
    demo.kill("haproxy")
    for file in demo.folder.glob("state.db*"):
        file.unlink()
    demo.start("haproxy")
    demo.start(A)
    until(on(demo, left), "HAProxy is where its own configuration says")
    answers = demo.apps[A].answers
    demo.start("prober")
    prober = demo.children["prober"]
    until(lambda: prober.poll() is not None, "the prober gave up")
    assert prober.returncode == 1
    log = (demo.folder / "prober.log").read_text()
    assert "state.db" in log
    assert "lb-probe init" in log
    assert not list(demo.folder.glob("state.db"))
    assert demo.through_haproxy() == left
    assert demo.apps[A].answers == answers


@pytest.mark.parametrize(
    ("style", "meanwhile"), [("map", {"no answer"}), ("server", {"no answer", "status 503"})]
)
def test_haproxy_restarted_while_latched_never_sends_traffic_to_the_primary(
    stand, style, meanwhile
):
    """X2: the load balancer is killed, the Primary is back, traffic stays."""
    demo = stand(style, confirm="300ms")
    demo.kill(A)
    until(on(demo, B), "traffic is on B")
    demo.start(A)
    demo.mode(B, "primary")
    until(lambda: demo.group()["condition"] == "primary-returned", "the Primary is back")
    answers = demo.apps[A].answers
    with Asker(demo) as asker:
        for _ in range(3):
            demo.kill("haproxy")
            demo.start("haproxy")
            until(on(demo, B), "traffic is on B again", 5)
    assert demo.apps[A].answers == answers
    assert {answer for _, answer in asker.answers} <= {B} | meanwhile
    assert saved(demo)[2] == 2  # repairs are no changes


def test_stall_of_4_seconds_moves_nothing_and_of_30_seconds_moves_once(stand):
    """The default `confirm`: a blip must not cost a resync and a human."""
    demo = stand(confirm="10s")
    until(lambda: demo.group()["condition"] == "normal", "all is normal")
    agent = demo.children[A].pid
    os.kill(agent, signal.SIGSTOP)
    try:
        time.sleep(4.0)
    finally:
        os.kill(agent, signal.SIGCONT)
    until(lambda: demo.group()["condition"] == "normal", "all is normal again")
    assert saved(demo)[2] == 1
    os.kill(agent, signal.SIGSTOP)
    try:
        stalled_at = time.monotonic()
        until(on(demo, B), "traffic is on B")
        assert time.monotonic() - stalled_at > 10.0
        time.sleep(max(0.0, 30.0 - (time.monotonic() - stalled_at)))
    finally:
        os.kill(agent, signal.SIGCONT)
    until(
        lambda: demo.group()["condition"] == "not-serving" or _served(demo), "the Primary is back"
    )
    assert saved(demo) == (B, 1, 2)
    assert demo.through_haproxy() == B


def _served(demo):
    return demo.group()["nodes"][0]["serving"] == "ok"


@pytest.mark.parametrize("style", ["map", "server"])
def test_somebody_else_who_moves_traffic_three_times_is_yielded_to(stand, style):
    """DESIGN section 1: corrected twice, yielded to the third time, then `accept`."""
    demo = stand(style)
    until(lambda: demo.group()["condition"] == "normal", "all is normal")
    # A hand in the middle of a publication is none of its own: that did not take.
    until(lambda: demo.group()["adapters"][0]["in_sync"], "it is published and read back")
    for _ in range(2):
        by_hand(demo, style, B, A)
        until(on(demo, A), "it is corrected", 3)
        until(lambda: demo.group()["adapters"][0]["in_sync"], "and read back")
    by_hand(demo, style, B, A)
    until(lambda: demo.group()["adapters"][0]["foreign_writer"], "the adapter yields", 5)
    assert demo.through_haproxy() == B
    group = demo.act("accept")
    assert (group["assigned"], group["latched"]) == (B, True)
    kinds = [record["kind"] for record in demo.client.history("demo", 100)]
    kinds = [kind for kind in kinds if kind in CHANGES]
    assert kinds == ["assign", "accept"]


def by_hand(demo, style, new, old):
    """What an administrator types into HAProxy's socket."""
    names = {A: "a", B: "b"}
    line = f"set map {demo.map} demo {names[new]}\n"
    if style == "server":
        line = f"set server app/{names[new]} state ready;set server app/{names[old]} state maint\n"
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"{demo.folder}/haproxy.sock")
        link.sendall(line.encode())
        while link.recv(4096):
            pass


def lb_probe(demo, *words, **options):
    line = [sys.executable, "-m", "lb_probe", "-c", str(demo.config), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=30, **options)


def test_operator_at_the_command_line_is_led_from_refusal_to_resume(stand):
    """X5: a refusal lists the gates and prints the line that does it."""
    demo = stand(confirm="300ms")
    demo.kill(A)
    until(on(demo, B), "traffic is on B")
    demo.mode(B, "primary")
    until(lambda: demo.group()["condition"] == "failed-over", "B serves")
    assert lb_probe(demo, "status", "--exit-code").returncode == 10
    refused = lb_probe(demo, "resume", "demo", "--reason", "repaired", "--yes")
    assert refused.returncode == 6
    assert "primary-serving" in refused.stderr + refused.stdout
    demo.start(A)
    demo.mode(B, "secondary")
    until(lambda: closed_gates(demo) == {"synced"}, "all gates but synced are open")
    asked = lb_probe(demo, "resume", "demo", "--reason", "repaired", stdin=subprocess.DEVNULL)
    assert asked.returncode == 6  # no terminal and no --yes: never hangs, never acts
    done = lb_probe(
        demo, "resume", "demo", "--reason", "ok", "--yes", "--attest", "synced=Completed 10:42Z"
    )
    assert done.returncode == 0, done.stderr
    until(on(demo, A), "traffic is on A")
    shown = json.loads(lb_probe(demo, "history", "demo", "-o", "json").stdout)
    done = [r for r in shown["history"] if r["kind"] in CHANGES]
    assert [r["kind"] for r in done] == ["assign", "failover", "resume"]
    assert done[-1]["details"]["notes"] == {"attest synced": "Completed 10:42Z"}


def closed_gates(demo):
    try:
        plan = demo.client.plan("resume", "demo", {"reason": "looking"})
    except Refused as error:
        return {gate["id"] for gate in error.gates if not gate["passed"]}
    return {gate["id"] for gate in plan["plan"]["gates"] if not gate["passed"]}
