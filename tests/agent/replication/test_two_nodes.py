"""Two real agents, a file that one copies from the other, and the verbs as a person types them."""

import socket
import time
from contextlib import ExitStack

from agent_pair import Pair, until


def test_a_pair_is_synced_scheduled_and_asked_before_it_is_stopped(tmp_path):
    """By the verbs alone, between two real agents, one of which is killed in the middle.

    R12, R18, R19, R20, R24, R83-R88, R92, R122. One story: two agents take a second to start.
    """
    with ExitStack() as stack:
        pair = Pair(tmp_path)
        pair.start(stack, "app-a")
        standby = pair.start(stack, "app-b")
        assert "peer-answers" in pair.verb("sync", "now", "--node", "app-b", code=6)
        pair.meet()
        wrong_ways(pair)
        first_sync(pair, stack)
        on_record(pair)
        a_schedule(pair)
        killed_in_the_middle(pair, stack, standby)


def wrong_ways(pair):
    """From the Primary, from a stranger, and a schedule before anything was good."""
    wrong = pair.verb("sync", "now", "--node", "app-a", code=6)
    assert "a Standby: only a Standby copies" in wrong
    stranger = pair.verb("failover", "sync", "203.0.113.9", "--node", "app-b", code=6)
    assert "known-source" in stranger
    early = ("sync", "schedule", "--start", "13:00Z", "--run-every", "1d", "--node", "app-b")
    assert "by-hand-first" in pair.verb(*early, "--yes", code=6)
    assert pair.asked("safe-to-stop", "--node", "app-a")["safe"] is True


def first_sync(pair, stack):
    """While it runs neither node is safe to stop, and no second one begins."""
    (pair.folder / "wait").touch()
    copying = pair.begin(stack, "failover", "sync", "127.0.0.1", "--reason", "first")
    for node in ("app-a", "app-b"):
        assert "NOT safe to stop" in pair.verb("safe-to-stop", "--node", node, code=6)
    assert "alone" in pair.verb("sync", "now", "--node", "app-b", code=6)
    (pair.folder / "wait").unlink()
    said, _ = copying.communicate(timeout=30)
    assert copying.returncode == 0, said
    assert "sync begins: app-a -> app-b, the first copy" in said
    assert "| sync: step data of app-a" in said
    assert "copy: data of app-a" in said
    assert (pair.folder / "app-b.data").read_text() == "first"
    pair.verb("safe-to-stop", "--node", "app-a")
    seen = pair.verb("status", "--node", "app-a")
    assert "pair: app-b (127.0.0.1): standby\n  last synced     2" in seen


def on_record(pair):
    (run,) = pair.asked("sync", "history", "--node", "app-b")["runs"]
    assert (run["result"], run["versions"]) == ("success", {"here": "7.1", "source": "7.1"})
    assert "manual" in pair.verb("sync", "history", "--node", "app-b", "--since", "7d")
    assert "data of app-a" in pair.verb("sync", "history", "1", "--node", "app-b")
    assert "not on record" in pair.verb("sync", "history", "2", "--node", "app-b", code=2)


def a_schedule(pair):
    """A zone, sixty minutes and a gap are asked for."""
    save = ("sync", "schedule", "--node", "app-b")
    assert "no schedule is saved" in pair.verb(*save)
    assert "without a zone is not taken" in pair.verb(*save, "--start", "13:00", code=2)
    often = (*save, "--start", "13:00Z", "--run-every", "59m", "--yes")
    assert "60 minutes or more" in pair.verb(*often, code=6)
    past = time.strftime("%H:%MZ", time.gmtime())
    wide = pair.verb(*save, "--start", past, "--run-every", "1h", code=6)
    assert "there is no terminal to confirm on" in wide
    assert f"--start {past} --run-every 1h --node app-b --yes" in wide
    shown = pair.verb(*save, "--start", "13:00Z", "--run-every", "1d", "--yes")
    assert "StartTime 13:00Z, Run Every 1d" in shown
    assert "waits   HA is disabled" in shown
    assert pair.asked(*save)["schedule"]["first"].endswith("T13:00:00Z")


def killed_in_the_middle(pair, stack, standby):
    """SIGKILL: the copy lives on, no second one begins beside it, and the data is suspect."""
    (pair.folder / "wait").touch()
    (pair.folder / "copying").unlink()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(pair.folder / "b.sock"))
        asking.sendall(b'{"command": "sync-now"}\n')
        until((pair.folder / "copying").exists)
        standby.kill()
        standby.wait(20)
    pair.start(stack, "app-b")
    until(lambda: "earlier sync still runs (pid" in pair.verb("status", "--node", "app-b"))
    status = pair.verb("status", "--node", "app-b")
    assert "a process of an earlier sync still runs (pid " in status
    assert "data-suspect: sync 2 from app-a has not ended" in status
    assert "NOT safe to stop" in pair.verb("safe-to-stop", "--node", "app-a", code=6)
    assert "alone" in pair.verb("sync", "now", "--node", "app-b", code=6)
    run = pair.asked("sync", "history", "2", "--node", "app-b")["runs"][0]
    assert (run["result"], run["completed"]) == ("interrupted", None)
    (pair.folder / "wait").unlink()
    until(lambda: pair.run("safe-to-stop", "--node", "app-b").exit_code == 0)
    assert "success" in pair.verb("sync", "now", "--node", "app-b")
    found = pair.asked("status", "--node", "app-b")["sync"]
    assert (found["alarms"], found["suspect"]) == ({}, "")
