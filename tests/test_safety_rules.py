"""The safety rules, each with tests that try to break it; docs/safety.md lists them.

Most go through the real controller on a virtual clock (`simulated_world`), where an hour costs
nothing; what only processes can show (X6, X9, X21) runs real ones. A story is written in the
commands of `test_scenarios`.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from test_scenarios import Story

from lb_probe.admin.health import Health
from lb_probe.controller import Ask
from lb_probe.core.explain import explain, headline
from lb_probe.core.failover import RULES
from lb_probe.core.model import Action, Automation, Secondary
from lb_probe.ports import Refused, StoreError
from lb_probe.store import sqlite
from lb_probe.store.sqlite import SqliteStore

A, B = "node-a", "node-b"
ROOT = Path(__file__).parent.parent
RULE_IDS = {f"X{number}" for number in range(1, 23)}
LATCHED = "start\nnode a dies\nwait 6\nnode b promotes\nwait 4"
RETURNED = f"{LATCHED}\nnode a returns\nwait 4"


@asynccontextmanager
async def told(script):
    """Play a story and yield it."""
    story = Story()
    try:
        await story.play(script)
        yield story
    finally:
        if story.world is not None:
            await story.world.kill_prober()


def shown(story):
    return story.world.controller.view("epmm")


def standing(story):
    view = shown(story)
    return view.saved.assigned, view.saved.latched, story.world.traffic["edge"]


def changes(story):
    """Kinds of every change that was ever saved, in order."""
    quiet = {"observed", "alive", "condition", "began", "started"}
    records = [r for r in story.world.store.records if r.group == "epmm" and r.kind not in quiet]
    return [r.kind for r in records if r.generation]


def failovers(story):
    return [c for c in changes(story) if c == "failover"]


def until(is_true, what, patience_s=30.0):
    end = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end, f"waited {patience_s:.0f}s in vain until {what}"
        time.sleep(0.02)


# ------------------------------------------------------------------ X1 no automatic resume
@pytest.mark.parametrize(
    "disturbance",
    [
        "wait 200",
        "prober killed\nprober starts",
        "prober killed\nlb set a\nprober starts",
        "prober killed\nlb restarts\nprober starts",
        "lb restarts",
        "lb set a",
        "lb goes-down\nwait 60\nlb set a\nlb comes-up",
        "clock jumps 31536000",
        "clock jumps -31536000",
        "loop stalls 600",
        "link cut\nwait 60\nlink back",
        "node b dies",
        "node b dies\nwait 60\nprober killed\nprober starts",
        "node b hangs\nwait 60\nnode b returns",
        "node b stands-by",
        "node a stands-by\nwait 20\nnode a promotes",
        "store full\nwait 90\nstore works",
        "operator ack",
        "operator hold --for 60s\nwait 300",
        "operator hold --for 1h\noperator release",
        "operator republish",
        "operator accept",
        "operator failover --to a --override target-ready",
        "operator switchover",
        "operator resume",
        "prober killed\nfile moves a\nprober starts",
        "prober killed\nfile acts\nprober starts",
    ],
)
async def test_x1_latched_traffic_never_comes_back_by_itself(disturbance):
    async with told(RETURNED) as story:
        before = len(story.world.balancers["edge"].written)
        await story.play(disturbance)
        await story.play("wait 120")
        assert standing(story) == ("b", True, "b")
        assert "a" not in story.world.balancers["edge"].written[before:]


async def test_x1_a_lost_store_does_not_bring_traffic_back():
    """The load balancer still knows: what it does is adopted, latched."""
    async with told(RETURNED) as story:
        await story.play("prober killed")
        story.world.store.saved.clear()
        await story.play("prober starts\nwait 60")
        assert standing(story) == ("b", True, "b")


async def test_x1_a_lost_store_and_a_closed_load_balancer_are_nobodys_traffic():
    async with told(RETURNED) as story:
        await story.play("prober killed\nlb set none")
        story.world.store.saved.clear()
        before = len(story.world.balancers["edge"].written)
        await story.play("prober starts\nwait 60")
        assert standing(story) == (None, False, "nowhere")
        assert story.world.balancers["edge"].written[before:] == []


async def test_x1_an_older_store_does_not_bring_traffic_back():
    """Restored from a copy that was made before the failover."""
    story_so_far = RETURNED.replace("node a dies", "store kept\nnode a dies", 1)
    async with told(story_so_far) as story:
        await story.play("prober killed\nstore goes-back\nprober starts\nwait 60")
        assert standing(story) == ("b", True, "b")


def test_x1_no_row_of_the_table_acts_once_traffic_has_moved():
    acting = [rule for rule in RULES if rule.action is Action.FAIL_OVER]
    assert [rule.id for rule in acting] == ["P9"]
    assert {traffic.value for traffic in acting[0].traffic} == {"primary"}


# ------------------------------------------------------------------ X2 read back
async def test_x2_what_a_load_balancer_accepts_and_does_not_do_is_not_believed():
    async with told("start\nlb deaf\nnode a dies\nwait 30") as story:
        view = shown(story)
        assert view.saved.assigned == "b"
        assert view.saved.confirmed["edge"] < view.saved.generation
        assert not view.adapters[0].in_sync
        await story.play("lb hears\nwait 2")
        assert shown(story).saved.confirmed["edge"] == shown(story).saved.generation


@pytest.mark.parametrize("drift", ["a", "a+b", "none"])
async def test_x2_drift_is_noticed_and_repaired_within_a_second(drift):
    async with told(LATCHED) as story:
        await story.play(f"lb set {drift}\nwait 1")
        assert standing(story) == ("b", True, "b")


async def test_x2_a_load_balancer_that_forgets_is_told_again_however_often():
    async with told(LATCHED.replace("start", "start lb-config=a")) as story:
        for _ in range(10):
            await story.play("lb restarts\nwait 1")
            assert story.world.traffic["edge"] == "b"
        assert not shown(story).adapters[0].yielded


# ------------------------------------------------------------------ X3 exactly one
@pytest.mark.parametrize("said", ["both", "none"])
async def test_x3_neither_both_nor_none_is_ever_assigned_or_published(said):
    async with told(f"start lb={said}\nwait 10") as story:
        assert shown(story).saved.assigned is None
        assert story.world.balancers["edge"].written == []
        await story.play("operator failover --to a\nwait 1")
        assert standing(story) == ("a", False, "a")


async def test_x3_there_is_one_node_before_and_after_each_change():
    async with told("start") as story:
        edge, chosen = story.world.balancers["edge"], []
        for command in ("node a dies", "wait 3", "node b promotes", "wait 3", "node a returns"):
            await story.play(command)
            for _ in range(20):
                await story.play("wait 0.05")
                chosen.append(len(edge.chosen))
        assert set(chosen) == {1}
        assert set(edge.written) == {"b"}


# ------------------------------------------------------------------ X4 hold
@pytest.mark.parametrize(
    "meanwhile",
    [
        "wait 200",
        "prober killed\nprober starts",
        "clock jumps 10000000\nwait 60",
        "link cut\nwait 20\nlink back",
        "node b dies\nwait 20\nnode b returns",
        "operator hold --for 3h",
    ],
)
async def test_x4_under_a_hold_nothing_moves_by_itself(meanwhile):
    async with told("start\noperator hold --for 2h\nnode a dies") as story:
        await story.play(meanwhile)
        await story.play("wait 60")
        assert standing(story) == ("a", False, "a")
        assert "hold" in shown(story).decision.blocked


async def test_x4_a_hold_that_is_due_does_not_end_in_a_failover():
    async with told("start\noperator hold --for 60s\nnode a dies\nwait 300") as story:
        assert standing(story) == ("a", False, "a")
        assert shown(story).saved.hold is not None


async def test_x4_hands_off_writes_nothing_at_all():
    async with told("start\noperator hold --for 2h --hands-off") as story:
        before = list(story.world.balancers["edge"].written)
        await story.play("lb set b\nwait 60\nlb restarts\nwait 60\noperator republish\nwait 60")
        assert story.world.balancers["edge"].written == before


# ------------------------------------------------------------------ X5 refusals
async def refused(story, verb, **words):
    with pytest.raises(Refused) as found:
        await story.world.controller.act("epmm", Ask(verb, "ops", "because", **words))
    return found.value


async def test_x5_a_refusal_names_every_closed_gate_at_once():
    async with told(f"{RETURNED}\nlb goes-down\nnode a dies\nwait 4") as story:
        error = await refused(story, "resume")
        closed = [gate for gate in error.gates if not gate.passed]
        assert [gate.id for gate in closed] == ["adapters-reachable", "primary-serving", "synced"]
        assert all(gate.found and gate.wanted for gate in error.gates)
        assert standing(story)[:2] == ("b", True)


@pytest.mark.parametrize(
    ("before", "verb"),
    [
        (RETURNED, "resume"),
        (f"{LATCHED}\nlb goes-down\nwait 1", "resume"),
        ("start\nnode b says-odd\nwait 4", "failover"),
        ("start\nnode b says-odd\nwait 4", "switchover"),
        ("start", "swap-roles"),
    ],
)
async def test_x5_the_line_of_a_refusal_does_it_and_its_words_are_kept(before, verb):
    async with told(before) as story:
        error = await refused(story, verb)
        line = error.paste.replace("HH:MMZ", "10:42Z")  # the one blank an operator fills in
        program, said_verb, group, *words = shlex.split(line)
        assert (program, said_verb, group) == ("lb-probe", verb, "epmm")
        options = [word for word in words if word not in ("--reason", "because")]
        generation = shown(story).saved.generation
        await story.play(shlex.join(["operator", verb, *options]))
        change = shown(story).saved.last_change
        assert shown(story).saved.generation == generation + 1
        kinds = {re.sub(" .*", "", note) for note in change.notes}
        assert kinds <= {"override", "attest"}
        assert len(change.notes) == options.count("--override") + options.count("--attest") > 0


async def test_x5_there_is_no_override_of_everything():
    async with told(RETURNED) as story:
        await story.play("operator resume --override all --override force")
        assert story.told[-1].startswith("Invalid: resume has no gate all, force")
        assert standing(story) == ("b", True, "b")


# ------------------------------------------------------------------ X6 independent of everything
def offline(config, node):
    line = [sys.executable, "-m", "lb_probe", "-c", str(config), "publish", "demo", "--to", node]
    line += ["--offline", "--reason", "the site is gone", "--yes"]
    return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.timeout(120)
def test_x6_traffic_can_be_moved_without_prober_store_or_nodes(stand):
    demo = stand()
    demo.kill("prober")
    demo.kill(A)
    demo.kill(B)
    lost = demo.folder / "no-store.yaml"
    text = demo.config.read_text()
    lost.write_text(re.sub(r"sqlite:\S+", "sqlite:/nonexistent/lb-probe/state.db", text))
    told_so = offline(lost, B)
    assert demo.through_haproxy() == B
    assert "say this again before the prober starts" in told_so.stdout + told_so.stderr
    assert offline(demo.config, A).returncode == 0
    assert demo.through_haproxy() == A


@pytest.mark.timeout(120)
def test_x6_what_was_done_offline_is_taken_over_and_latched(stand):
    demo = stand()
    demo.kill("prober")
    assert offline(demo.config, B).returncode == 0
    demo.start("prober")
    until(demo.is_answering, "the API answers")
    group = demo.group()
    assert (group["assigned"], group["latched"]) == (B, True)
    assert "the site is gone" in group["last_change"]["reason"]
    assert demo.through_haproxy() == B


# ------------------------------------------------------------------ X7 somebody else sees it up
@pytest.mark.parametrize("confirm_s", [3, 10])
async def test_x7_no_move_while_a_load_balancer_that_checks_the_primary_itself_sees_it_up(
    confirm_s,
):
    start = f"start witness=network confirm={confirm_s} lb-2=a"
    async with told(f"{start}\nlb edge-2 sees a up\nnode a dies\nwait 300") as story:
        assert standing(story) == ("a", False, "a")
        view = shown(story)
        assert (view.decision.condition, view.decision.blocked) == (
            "failover-blocked",
            ("lb-disagrees",),
        )
        text = explain(view, (), "")
        assert "edge-2 sees a up" in text
        assert "lb-probe failover epmm --reason" in text  # the line that overrules it
        await story.play("operator failover\nwait 1")
        assert standing(story) == ("b", True, "b")


@pytest.mark.parametrize(
    "word",
    [
        "lb sees a down",
        "lb sees a failing",  # it has begun to fail there too
        "lb sees b up",  # of the wrong node
        "lb sees a up\nlb goes-down",  # its last word is old
    ],
)
async def test_x7_a_word_that_is_old_unsure_or_of_another_node_blocks_nothing(word):
    script = f"start witness=network confirm=4 lb-2=a\nwait 2\n{word}\nnode a dies\nwait 12"
    async with told(script) as story:
        assert standing(story)[:2] == ("b", True)


async def test_x7_a_word_from_before_the_fault_blocks_nothing():
    """A load balancer that was not asked since the fault began is nobody's witness."""
    async with told("start witness=network confirm=0\nlb sees a up\nwait 2") as story:
        await story.play("node a dies\nwait 1.9")  # less than one of its own intervals
        assert standing(story)[:2] == ("b", True)


# ------------------------------------------------------------------ X8 is the data there
async def test_x8_resume_wants_a_sync_or_somebodys_word():
    async with told(f"{RETURNED}\nnode b stands-by\nwait 4") as story:
        error = await refused(story, "resume")
        assert [gate.id for gate in error.gates if not gate.passed] == ["synced"]
        await refused(story, "resume", attest={"synced": ""})
        await story.play("operator resume --attest synced='Completed 10:42Z'\nwait 2")
        assert standing(story) == ("a", False, "a")
        assert shown(story).saved.last_change.notes == {"attest synced": "Completed 10:42Z"}


# ------------------------------------------------------------------ X9 the prober's own absence
def answer(url):
    """Return the status code; 0 where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=1.0) as found:
            return found.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


@pytest.mark.timeout(120)
def test_x9_a_prober_that_hangs_or_is_gone_shows_from_outside(stand):
    demo = stand()
    livez = f"http://127.0.0.1:{demo.ports['9600']}/livez"
    prober = demo.children["prober"]
    assert answer(livez) == 200
    prober.send_signal(signal.SIGSTOP)
    try:
        assert answer(livez) == 0
    finally:
        prober.send_signal(signal.SIGCONT)
    until(lambda: answer(livez) == 200, "it lives again")
    demo.kill("prober")
    assert answer(livez) == 0
    line = [sys.executable, "-m", "lb_probe", "-c", str(demo.config), "status"]
    assert subprocess.run(line, capture_output=True, timeout=30, check=False).returncode == 3


async def test_x9_a_prober_that_answers_and_does_not_probe_is_not_alive():
    from aiohttp.test_utils import TestClient, TestServer

    trouble = "no probe ended for 31s"

    async def take():
        return lambda: b""

    health = Health(take, "text/plain", trouble=lambda: trouble, unready=lambda: "")
    async with TestClient(TestServer(health.application())) as client:
        dead = await client.get("/livez")
        assert (dead.status, (await dead.text()).strip()) == (503, trouble)
        trouble = ""
        assert (await client.get("/livez")).status == 200


# ------------------------------------------------------------------ X10 observe
async def test_x10_observing_decides_and_writes_nothing():
    async with told("start act=no\nnode a dies\nwait 60") as story:
        view = shown(story)
        assert (view.decision.condition, view.decision.blocked) == ("failover-blocked", ("act",))
        assert standing(story) == ("a", False, "a")
        await story.play("lb set b\nwait 60\noperator failover\noperator republish\nwait 10")
        assert story.world.balancers["edge"].written == []
        # What would have been done is in the history.
        notes = [r for r in story.world.store.records if r.kind == "condition"]
        assert ["act"] in [
            r.details["blocked"] for r in notes if r.details["to"] == "failover-blocked"
        ]


# ------------------------------------------------------------------ X11, X12 the old Primary
async def test_x11_a_returned_primary_is_never_reinstated_even_when_all_else_is_down():
    async with told(f"{RETURNED}\nnode b dies\nwait 200") as story:
        assert shown(story).decision.condition == "secondary-down"
        assert standing(story) == ("b", True, "b")


def test_x11_there_is_no_setting_that_would_reinstate_it():
    schema = json.loads((ROOT / "docs" / "probes.schema.json").read_text())
    names = re.findall(r'"([a-z_]+)": \{', json.dumps(schema))
    assert "act" in names
    found = [n for n in names if re.search("auto|fail_?back|reinstate|preempt|resume_after", n)]
    assert found == []


async def test_x12_a_returned_primary_gets_no_traffic_from_anybody_we_can_correct():
    async with told(RETURNED.replace("start", "start balancers=2 lb-config=a")) as story:
        for name in ("edge", "edge-2"):
            await story.play(f"lb {name} restarts\nwait 1")
            assert set(story.world.traffic.values()) == {"b"}
        assert "failover" in changes(story)
        await refused(story, "failover", to="a")


# ------------------------------------------------------------------ X13 planned or forced
@pytest.mark.parametrize(
    "trouble", ["node b promotes", "node b dies", "node a dies", "lb goes-down"]
)
async def test_x13_a_planned_move_asks_for_more_than_a_forced_one(trouble):
    async with told(f"start confirm=60\n{trouble}\nwait 5") as story:
        await refused(story, "switchover")
        assert standing(story)[:2] == ("a", False)
        await story.play("operator failover --override target-ready\nwait 1")
        assert shown(story).saved.last_change.kind == "failover"
        assert shown(story).saved.latched


async def test_x13_a_planned_move_never_has_both_nodes_open():
    script = "start drain=5 lb-2=a\nlb edge-2 carries a 2\nnode b serves-always\nwait 2"
    async with told(script) as story:
        seen, world = set(), story.world
        world.emit = lambda event: seen.add(tuple(world.traffic.values()))
        await story.play("operator switchover")
        assert ("nowhere", "nowhere") in seen
        assert not any({"a", "b"} <= set(each) for each in seen)
        assert standing(story)[:2] == ("b", True)


async def test_x13_the_history_tells_which_it_was():
    async with told("start\noperator switchover\nwait 1") as story:
        assert shown(story).saved.last_change.kind == "switchover"
        assert standing(story) == ("b", True, "b")


# ------------------------------------------------------------------ X14 why
async def test_x14_why_a_healthy_primary_gets_nothing_stands_in_the_first_line():
    async with told(RETURNED) as story:
        view, plan = shown(story), story.world.controller.resume_gates("epmm")
        assert headline(view) == (
            "epmm: primary-returned. Traffic is on b, latched: awaiting manual resume."
        )
        text = explain(view, plan.gates, plan.paste)
        assert plan.paste in text
        assert all(gate.id in text for gate in plan.gates)


# ------------------------------------------------------------------ X15 all fail
@pytest.mark.parametrize(
    "fault",
    [
        "start\nnode b dies\nwait 4\nnode a dies",
        "start\nlink cut",
        "start references=yes\nlink cut",
        "start neighbours=2\nlink cut",
        "start\nnode b hangs\nnode a hangs",
        "start\nnode b breaks\nnode a breaks",
    ],
)
async def test_x15_when_everything_fails_nothing_moves(fault):
    async with told(f"{fault}\nwait 300") as story:
        assert standing(story) == ("a", False, "a")
        assert failovers(story) == []


@pytest.mark.parametrize("start", ["start references=yes", "start neighbours=2", "start"])
@pytest.mark.parametrize("later", [0.0, 0.3, 0.6, 0.9])
async def test_x15_the_return_of_our_own_link_moves_nothing(start, later):
    async with told(f"{start}\nlink cut\nwait {60 + later}\nlink back\nwait 60") as story:
        assert standing(story) == ("a", False, "a")
        assert failovers(story) == []


@pytest.mark.parametrize("references", ["", " references=yes"])
async def test_x15_what_this_machine_cannot_do_is_no_failure_of_the_primary(references):
    """No descriptor for the Primary, and one for the Standby; a real process in
    test_real_processes.
    """
    script = f"start{references}\nnode a cannot-be-asked\nwait 300\nnode a returns\nwait 10"
    async with told(script) as story:
        assert standing(story) == ("a", False, "a")
        assert failovers(story) == []


# ------------------------------------------------------------------ X16 one shot
@pytest.mark.parametrize(
    "attempt",
    [
        "wait 200",
        "operator ack\nwait 60",
        "prober killed\nprober starts\nwait 60",
        "operator hold --for 1h\noperator release\nwait 60",
        "operator republish\nwait 60",
        "operator accept\nwait 60",
        "clock jumps 86400\nwait 60",
        "node a returns\nwait 60\nnode a dies\nwait 60",
    ],
)
async def test_x16_there_is_no_second_failover_before_somebody_resumes(attempt):
    """Latched, and traffic is on a by break-glass."""
    back = "node a returns\nnode b stands-by\nprober killed\noffline a\nprober starts\nwait 4"
    async with told(f"{LATCHED}\n{back}\nnode a dies\nwait 10\n{attempt}") as story:
        assert standing(story) == ("a", True, "a")
        assert len(failovers(story)) == 1


async def test_x16_resume_arms_it_again():
    async with told(f"{RETURNED}\nnode b stands-by\nwait 4") as story:
        await story.play("operator resume --attest synced=done\nwait 4\nnode a dies\nwait 10")
        assert standing(story) == ("b", True, "b")
        assert len(failovers(story)) == 2


async def test_x16_the_ceiling_over_all_groups_holds():
    async with told("start limit=1 neighbours=2\nnode a dies\nwait 10") as story:
        names = story.world.controller.names
        moved = [n for n in names if story.world.controller.view(n).saved.assigned == "b"]
        assert len(moved) == 1


# ------------------------------------------------------------------ X17 further sites
async def test_x17_a_further_site_gets_traffic_by_hand_only():
    async with told("start nodes=3\nnode b dies\nnode a dies\nwait 200") as story:
        assert standing(story) == ("a", False, "a")
        await story.play("operator failover --to dr\nwait 2")
        assert standing(story) == ("dr", True, "dr")
        await story.play("node dr dies\nnode b returns\nwait 200")
        assert standing(story) == ("dr", True, "dr")


async def test_x17_swapped_roles_do_not_make_it_the_candidate():
    swap = "operator swap-roles --override roles-observed"
    async with told(f"start nodes=3\n{swap}\nwait 2") as story:
        group = shown(story).group
        assert (group.primary, group.candidate) == ("b", "a")


# ------------------------------------------------------------------ X18 start
@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("start lb=a", ("a", False, "a")),
        ("start lb=b", ("b", True, "b")),
        ("start lb=none", (None, False, "nowhere")),
        ("start lb=both", (None, False, "a+b")),
        ("start lb=a lb-2=b", (None, False, "a")),
        ("start lb=a lb-2=down", (None, False, "a")),
        ("start saved=a lb=b", ("b", True, "b")),
    ],
)
async def test_x18_a_start_adopts_and_asserts_nothing(start, expected):
    async with told(f"{start}\nwait 60") as story:
        assert standing(story) == expected
        assert story.world.balancers["edge"].written == []


# ------------------------------------------------------------------ X19 freshness
@pytest.mark.parametrize(
    "floor",
    [
        "node b dies\nwait 5\nnode b returns",
        "link cut\nwait 20\nlink back",
        "loop stalls 30",
        "clock jumps 60",
        "clock jumps -60",
        "operator hold --for 1h\noperator release",
        "prober killed\nprober starts",
    ],
)
@pytest.mark.parametrize("fault", ["dies\nwait 9", "hangs\nwait 9", "hangs\nwait 9.5"])
async def test_x19_old_failures_of_the_primary_do_not_count(fault, floor):
    """The Primary failed for most of `confirm` when the floor rises; a probe may be under way."""
    async with told(f"start references=yes confirm=10\nnode a {fault}\n{floor}") as story:
        assert await seconds_to_failover(story) > 10.0 - 0.06


async def seconds_to_failover(story):
    began = story.world.clock.now
    while not failovers(story):
        await story.world.advance(0.05)
        assert story.world.clock.now < began + 60
    return story.world.clock.now - began


@pytest.mark.parametrize("fault", ["dies", "hangs"])
async def test_x19_the_end_of_isolation_is_enough(fault):
    """Only the reference targets were silent: the Secondary answered all the time."""
    async with told(f"start references=yes confirm=10\nnode a {fault}\nwait 5") as story:
        story.world.references = False
        await story.play("wait 30")
        assert shown(story).decision.condition == "prober-isolated"
        story.world.references = True
        await story.play("wait 0.3")  # the next tick sees it
        assert await seconds_to_failover(story) > 10.0 - 0.36


@pytest.mark.parametrize("state", ["dead", "hung", "broken"])
@pytest.mark.parametrize("later", [0.0, 0.2, 0.4, 0.6, 0.8])
async def test_x19_a_standby_that_is_gone_by_now_is_no_standby(state, later):
    """The Secondary dies while the Primary is being confirmed; its last word was Standby."""
    async with told(f"start confirm=4\nnode a dies\nwait {1.0 + later}") as story:
        story.world.nodes["b"].state = state
        await story.play("wait 60")
        assert standing(story) == ("a", False, "a")


async def test_x19_a_standby_reading_that_is_too_old_is_stale():
    async with told("start confirm=2") as story:
        story.world._due = [d for d in story.world._due if d.node == "a"]  # b is asked no more
        await story.play("node a dies\nwait 60")
        assert shown(story).decision.situation.secondary is Secondary.STALE
        assert standing(story) == ("a", False, "a")


# ------------------------------------------------------------------ X20 monotonic time
@pytest.mark.parametrize("jump", ["86400", "-86400", "31536000"])
async def test_x20_the_wall_clock_decides_nothing(jump):
    async with told(f"start confirm=10\nnode a dies\nwait 5\nclock jumps {jump}") as story:
        await story.play("wait 9")
        assert standing(story) == ("a", False, "a")
        await story.play("wait 4")
        assert standing(story) == ("b", True, "b")


@pytest.mark.parametrize("jump", ["7200", "-7200"])
async def test_x20_a_hold_lasts_as_long_as_was_said(jump):
    async with told(f"start\noperator hold --for 10m\nclock jumps {jump}\nwait 590") as story:
        assert shown(story).saved.hold is not None
        await story.play("wait 20")
        assert shown(story).saved.hold is None


# ------------------------------------------------------------------ X21 one writer
async def test_x21_a_second_prober_on_one_store_does_not_start(tmp_path):
    path = tmp_path / "state.db"
    sqlite.init(path)
    first = await SqliteStore.open(path)
    try:
        with pytest.raises(StoreError, match=r"prober|lock|use"):
            await SqliteStore.open(path)
    finally:
        await first.close()
    second = await SqliteStore.open(path)
    await second.close()


async def test_x21_two_writers_do_not_correct_each_other_for_ever():
    async with told("start") as story:
        edge = story.world.balancers["edge"]
        for _ in range(60):
            await story.play("lb set b\nwait 1")
        assert len(edge.written) == 2
        assert shown(story).adapters[0].yielded


async def test_x21_a_change_planned_on_an_old_generation_is_not_made():
    async with told("start\noperator hold --for 1h") as story:
        await story.play("operator failover --generation 1\nwait 2")
        assert any("Conflict" in line for line in story.told)
        assert standing(story) == ("a", False, "a")


# ------------------------------------------------------------------ X22 unknown
@pytest.mark.parametrize(
    "unknown",
    [
        "node b says-odd",
        "node b loses-hastatus",
        "node b hangs",
        "node b breaks",
        "node b promotes",
    ],
)
async def test_x22_what_is_not_a_documented_standby_gets_no_traffic(unknown):
    async with told(f"start\n{unknown}\nwait 3\nnode a dies\nwait 200") as story:
        assert standing(story) == ("a", False, "a")
        assert failovers(story) == []


@pytest.mark.parametrize(
    "unknown",
    [
        "node a loses-hastatus",
        "node a says-odd\nnode a serves-always",
        "node a stands-by\nnode a serves-always",
    ],
)
async def test_x22_what_the_primary_says_of_its_mode_is_no_failure(unknown):
    async with told(f"start\n{unknown}\nwait 200") as story:
        assert standing(story) == ("a", False, "a")
        assert shown(story).decision.situation.automation is Automation.ARMED


async def test_x22_a_primary_nobody_asks_is_unknown_and_not_failed():
    async with told("start") as story:
        story.world._due = [d for d in story.world._due if d.node == "b"]
        await story.play("wait 200")
        assert shown(story).decision.condition == "confirming"
        assert standing(story) == ("a", False, "a")


# ------------------------------------------------------------------ the table
def test_every_rule_is_in_the_table_with_tests_that_exist():
    rows = re.findall(r"^\| (X\d+) \|(.*)\|$", (ROOT / "docs" / "safety.md").read_text(), re.M)
    assert [int(rule[1:]) for rule, _ in rows] == list(range(1, 23))
    named = {}
    for rule, cells in rows:
        named[rule] = set(re.findall(r"`(test_x\d+_\w+)`", cells))
        for path in re.findall(r"`(lb_probe/[\w/.]+)`", cells):
            assert (ROOT / path).exists(), path
    written = set(re.findall(r"^(?:async )?def (test_x\d+_\w+)", Path(__file__).read_text(), re.M))
    assert set().union(*named.values()) == written
    for rule, tests in named.items():
        assert tests, rule
        assert {name.split("_")[1].upper() for name in tests} <= {rule}
    assert set(named) == RULE_IDS
