"""A prober under bad conditions, as real processes: stopped, no disk, a locked or a broken store.

And with a wall clock that steps. After each the group is where the saved decision says, HAProxy
agrees, and nothing is lost.
"""

import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

A, B = "node-a", "node-b"
PATIENCE_S = 30.0
CONFIRM_S = 1.0

pytestmark = pytest.mark.timeout(120)


def until(is_true, what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end, f"waited {patience_s:.0f}s in vain until {what}"
        time.sleep(0.02)


def saved(demo):
    """What is on disk, read as another program would."""
    with closing(sqlite3.connect(f"file:{demo.folder}/state.db?mode=ro", uri=True)) as db:
        return db.execute("SELECT assigned, latched, generation FROM groups").fetchone()


def is_normal(demo):
    return lambda: demo.group()["condition"] == "normal"


def ends_on(demo, node, generation):
    """Wait until HAProxy, the API and the disk all say this node."""
    until(lambda: demo.through_haproxy() == node, f"traffic is on {node}")
    until(lambda: demo.group()["adapters"][0]["in_sync"], "HAProxy agrees")
    assert demo.group()["assigned"] == node
    assert saved(demo) == (node, int(node == B), generation)


@contextmanager
def stopped(process):
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_prober_that_was_stopped_moves_nothing_on_what_it_remembers(stand):
    demo = stand()
    until(is_normal(demo), "all is normal")
    with stopped(demo.children["prober"]):
        time.sleep(5.0)
    until(is_normal(demo), "all is normal again")
    assert saved(demo) == (A, 0, 1)
    with stopped(demo.children["prober"]):
        demo.kill(A)
        time.sleep(5.0)
        assert demo.through_haproxy() == A
    goes_on_at = time.monotonic()
    ends_on(demo, B, 2)
    assert time.monotonic() - goes_on_at > CONFIRM_S  # fresh failures only
    kinds = [record["kind"] for record in demo.client.history("demo", 100)]
    assert [kind for kind in kinds if kind in ("assign", "adopt", "failover", "resume")] == [
        "assign",
        "failover",
    ]


def test_a_full_disk_at_the_moment_of_a_failover_delays_it_and_loses_nothing(stand):
    """Files cannot grow any more: the log on the same disk included."""
    demo = stand()
    until(is_normal(demo), "all is normal")
    prober = demo.children["prober"]
    soft, hard = resource.prlimit(prober.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(prober.pid, resource.RLIMIT_FSIZE, (0, hard))
    demo.kill(A)
    until(lambda: demo.group()["condition"] == "failover-blocked", "it is shown")
    time.sleep(2.0)
    group = demo.group()
    assert group["blocked"] == ["store-not-writable"]
    assert demo.through_haproxy() == A
    assert saved(demo) == (A, 0, 1)
    resource.prlimit(prober.pid, resource.RLIMIT_FSIZE, (soft, hard))
    ends_on(demo, B, 2)
    assert prober.poll() is None, "it went through all of this"


def test_a_store_locked_by_another_process_delays_a_failover_and_loses_nothing(stand):
    demo = stand()
    until(is_normal(demo), "all is normal")
    with closing(sqlite3.connect(demo.folder / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked_at = time.monotonic()
        demo.kill(A)
        until(lambda: demo.group()["condition"] == "failover-blocked", "it is shown")
        while time.monotonic() < locked_at + 10.0:
            assert demo.through_haproxy() == A
            time.sleep(0.2)
        other.execute("ROLLBACK")
    ends_on(demo, B, 2)


def test_a_prober_told_to_end_in_the_middle_of_a_failover_finishes_it_at_the_next_start(stand):
    """Saved, and HAProxy does not answer: it ends at once, and nothing is lost."""
    demo = stand()
    until(is_normal(demo), "all is normal")
    prober = demo.children["prober"]
    with stopped(demo.children["haproxy"]):
        demo.kill(A)
        until(lambda: saved(demo) == (B, 1, 2), "the move is saved")
        prober.send_signal(signal.SIGTERM)
        until(lambda: prober.poll() is not None, "the prober ended", 10.0)
        assert prober.returncode == 0
    assert demo.through_haproxy() in (A, B)
    demo.start("prober")
    until(demo.is_answering, "the API answers")
    ends_on(demo, B, 2)


# Runs before the prober in its process: its wall clock is as many seconds off as the file says.
# Time namespaces shift the monotonic clock alone, and the machine's own clock is not ours to set.
STEPPED = """
import os, time
_real = time.time
def _off():
    with open(os.environ["TEST_CLOCK"]) as file:
        return float(file.read())
time.time = lambda: _real() + _off()
"""
DAY_S = 86_400.0


def test_a_wall_clock_that_steps_moves_nothing_ends_no_hold_and_forgets_no_latch(stand, tmp_path):
    """X1, X20: by a day, forth and back, beside a hold, a verdict, a latch and a start."""
    (tmp_path / "sitecustomize.py").write_text(STEPPED)
    clock = tmp_path / "clock"
    environ = {"PYTHONPATH": str(tmp_path), "TEST_CLOCK": str(clock)}

    def jumps():
        records = demo.client.history(None, 1000)
        return sum(record["kind"] == "clock-jumped" for record in records)

    def step(seconds):
        before = jumps()
        (tmp_path / "new").write_text(str(seconds))
        (tmp_path / "new").replace(clock)  # at once: the prober reads it all the time
        until(lambda: jumps() > before, f"the step to {seconds:+.0f} s is noticed")

    clock.write_text("0")
    demo = stand()
    demo.kill("prober")
    demo.start("prober", **environ)
    until(demo.is_answering, "the API answers")
    until(is_normal(demo), "all is normal")
    step(-DAY_S)
    step(DAY_S)
    until(is_normal(demo), "all is normal again")
    assert saved(demo) == (A, 0, 1)
    demo.act("hold", **{"for": "1h"})
    step(3 * DAY_S)
    demo.kill(A)
    until(lambda: demo.group()["condition"] == "failover-blocked", "it is shown")
    assert demo.group()["blocked"] == ["hold"]
    assert demo.through_haproxy() == A
    demo.act("release")
    ends_on(demo, B, 4)  # after assign, hold and release
    demo.start(A)
    answers = demo.apps[A].answers
    step(-DAY_S)
    demo.kill("prober")
    clock.write_text(str(-2 * DAY_S))
    demo.start("prober", **environ)
    until(demo.is_answering, "the API answers")
    ends_on(demo, B, 4)
    assert demo.apps[A].answers == answers


def spoiled(path, how):
    """Break a store the way disks and people do."""
    size = path.stat().st_size
    if how == "emptied":
        path.write_bytes(b"")
    elif how == "cut":
        os.truncate(path, size // 2)
    elif how == "text":
        path.write_text("this is no database\n" * 500)
    else:
        dice = random.Random(how)
        content = bytearray(path.read_bytes())
        for _ in range(size // 8):
            content[dice.randrange(size)] = dice.randrange(256)
        path.write_bytes(bytes(content))


def test_a_store_that_is_broken_at_the_start_is_refused_and_haproxy_left_alone(stand):
    """Latched: the worst moment to forget. The good copy then works as before."""
    demo = stand()
    until(is_normal(demo), "all is normal")
    demo.kill(A)
    ends_on(demo, B, 2)
    demo.start(A)
    demo.children["prober"].terminate()
    demo.children["prober"].wait(10)
    path = demo.folder / "state.db"
    good = demo.folder / "good.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, good)
    answers = demo.apps[A].answers
    for how in ("emptied", "cut", "text", "dice 1"):
        for file in demo.folder.glob("state.db-*"):
            file.unlink()
        shutil.copy(good, path)
        spoiled(path, how)
        demo.start("prober")
        prober = demo.children["prober"]
        until(lambda p=prober: p.poll() is not None, f"the prober gave up: {how}")
        assert prober.returncode == 1, how
        told = (demo.folder / "prober.log").read_text().splitlines()[-1]
        assert "state.db" in told, how
        assert "Traceback" not in told, how
        assert demo.through_haproxy() == B, how
    for file in demo.folder.glob("state.db-*"):
        file.unlink()
    shutil.copy(good, path)
    demo.start("prober")
    until(demo.is_answering, "the API answers")
    ends_on(demo, B, 2)
    assert demo.apps[A].answers == answers


@contextmanager
def out_of_descriptors(demo):
    """Leave the prober no file descriptor: clients of its API take each that gets free."""
    pid = demo.children["prober"].pid
    numbers = [int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held, is_over = [], threading.Event()

    def take():
        while not is_over.wait(0.001):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(0.1)
            with suppress(OSError):
                client.connect(str(demo.folder / "api.sock"))
                client.send(b"GET ")  # one that says nothing may be closed at once
                held.append(client)
                continue
            client.close()

    taker = threading.Thread(target=take)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(numbers) + 1, before[1]))
    taker.start()
    try:
        yield lambda: len([*Path(f"/proc/{pid}/fd").iterdir()]) > max(numbers)
    finally:
        is_over.set()
        taker.join()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for client in held:
            client.close()


def test_a_prober_out_of_file_descriptors_takes_that_for_no_failure_of_a_node(stand):
    """X15: the Standby is heard on its kept connection, the Primary's new one cannot be made."""
    demo = stand(confirm="4s\n    probe: {connection: reuse}")
    until(is_normal(demo), "all is normal")
    before = saved(demo)
    with out_of_descriptors(demo) as is_full:
        until(is_full, "no descriptor is free")
        demo.kill(A)
        demo.start(A)
        log = demo.folder / "prober.log"
        until(lambda: "prober.impaired" in log.read_text(), "the log tells of it")
        end = time.monotonic() + 9.0
        while time.monotonic() < end:
            assert demo.through_haproxy() != B
            assert saved(demo) == before
            time.sleep(0.1)
    until(is_normal(demo), "all is normal again")
    assert saved(demo) == before
    assert demo.through_haproxy() == A
