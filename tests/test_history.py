"""What is kept of what happened, the file it travels in, and the verbs that read it."""

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_world import ModelBalancer, VirtualClock, World, pair

from lb_probe import cli, history
from lb_probe.core.model import Failed, Mode, Observation, Page, Passed, Phase
from lb_probe.history import QUIET, HistoryError
from lb_probe.ports import Invalid
from lb_probe.recorder import Recorder
from lb_probe.render.history import history_table
from lb_probe.render.text import Look
from lb_probe.replay import Setting, compare
from lb_probe.store import sqlite
from lb_probe.store.sqlite import SqliteStore

RUN = {"run": 1_767_225_600_000, "up": 1.5}
SAW = {
    "node": "a",
    "page": "status",
    "result": "failed",
    "phase": "tls",
    "detail": "certificate expired",
    "started": "2026-01-01T00:00:01.500Z",
    "ended": "2026-01-01T00:00:01.600Z",
    **RUN,
}
MOVED = {
    "from": "a",
    "to": "b",
    "actor": "ops",
    "reason": "why",
    "rule": "",
    "evidence": ["a fails"],
    "notes": {"override primary-serving": "it burns"},
    "latched": True,
    "hold": {"by": "x", "reason": "y", "until": "2026-01-01T02:00:00.000Z", "hands_off": False},
    "roles": {"a": "secondary", "b": "primary"},
    **RUN,
}


def line(kind, at="2026-01-01T00:00:02.000Z", group="epmm", generation=1, **details):
    return {"group": group, "kind": kind, "at": at, "generation": generation, "details": details}


def file_of(*records, **head):
    first = {"lb_probe_history": 1, "lb_probe": "1.2.3", "records": len(records), **head}
    return "".join(json.dumps(each) + "\n" for each in (first, *records)).encode()


STORY = [
    line("began", how="adopt", to="a", latched=False, **RUN),
    line("observation", **SAW),
    line("condition", **{"from": "normal"}, to="confirming", rule="P6", blocked=[], **RUN),
    line("stalled", group="", generation=0, reason="away", away_s=3.2, **RUN),
    line("failover", generation=2, **MOVED),
    line("stopped", group="", generation=0, **RUN),
]


# ------------------------------------------------------------------ what is kept
def seen(clock, outcome, page=Page.STATUS, node="a"):
    now = clock.monotonic()
    return Observation(node, page, now - 0.25, now, outcome)


def test_observation_is_kept_when_result_mode_or_phase_changed_and_not_otherwise():
    clock = VirtualClock()
    keeper = Recorder(clock)
    for outcome in (
        Passed(),
        Passed(detail="1 of 2 connectors unhealthy"),
        Failed(Phase.TLS, "one"),
        Failed(Phase.TLS, "another"),
        Failed(Phase.TIMEOUT, "x" * 1000),
        Passed(),
        Passed(),
    ):
        clock.now += 1.0
        keeper.observe("epmm", seen(clock, outcome), 7)
    clock.now += 1.0
    for mode in (Mode.STANDBY, Mode.STANDBY, Mode.PRIMARY):
        keeper.observe("epmm", seen(clock, Passed(mode), Page.HASTATUS), 7)
    kept = keeper.take()
    told = [r.details.get("phase") or r.details.get("mode") or r.details["result"] for r in kept]
    assert told == ["ok", "tls", "timeout", "ok", "standby", "primary"]
    assert len(kept[2].details["detail"]) == 200
    first = kept[0]
    assert (first.details["started"], first.details["ended"], first.details["up"]) == (
        "2026-01-01T00:16:40.750Z",
        "2026-01-01T00:16:41.000Z",
        0.75,
    )
    assert [history.fault_of(history.as_json(r)) for r in kept] == [""] * 6


def test_page_that_never_changes_is_kept_once_a_day():
    clock = VirtualClock()
    keeper = Recorder(clock)
    for _ in range(30):
        clock.now += 3600.0
        keeper.observe("epmm", seen(clock, Passed()), 1)
    assert len(keeper.take()) == 2


def test_marks_of_life_become_rarer_until_something_happens():
    clock = VirtualClock()
    keeper = Recorder(clock)
    for _ in range(3600):
        clock.now += 1.0
        keeper.mark()
    assert [r.details["up"] for r in keeper.take()] == [10, 30, 70, 150, 310, 630, 1270, 2550]
    keeper.note("isolated")
    for _ in range(10):
        clock.now += 1.0
        keeper.mark()
    assert [r.kind for r in keeper.take()] == ["isolated", "watching"]


def test_what_finds_no_room_is_lost_oldest_first_and_that_is_told():
    clock = VirtualClock()
    keeper = Recorder(clock, room=3)
    keeper.observe("epmm", seen(clock, Passed()), 1)
    for _ in range(5):
        clock.now += 1.0
        keeper.note("isolated")
    batch = keeper.take()
    assert [r.kind for r in batch] == ["lost", "isolated", "isolated", "isolated"]
    assert batch[0].details["records"] == 3
    keeper.observe("epmm", seen(clock, Passed()), 1)  # unknown again, so kept again
    keeper.give_back(batch)
    again = keeper.take()
    assert [r.kind for r in again] == ["lost", "isolated", "isolated", "observation"]
    assert again[0].details["records"] == 4
    assert [history.fault_of(history.as_json(r)) for r in again] == [""] * 4


async def world_that_fails_over(folder_events):
    world = World(pair(confirm_s=2.0), {"edge": ModelBalancer("edge", {"a"})}, folder_events)
    await world.start_prober()
    await world.advance(5)
    return world


async def test_every_change_condition_and_new_observation_reaches_the_store():
    world = await world_that_fails_over(lambda event: None)
    world.nodes["a"].state = "dead"
    await world.advance(6)
    await world.controller.close()
    await world.kill_prober()
    records = world.store.records
    told = [(r.kind, r.details.get("to") or r.details.get("phase")) for r in records]
    for wanted in [
        ("started", None),
        ("began", "a"),
        ("condition", "normal"),
        ("observation", "connect-refused"),
        ("condition", "confirming"),
        ("condition", "failing-over"),
        ("failover", "b"),
        ("stopped", None),
    ]:
        assert wanted in told
    assert {r.details["run"] for r in records} == {1_767_226_600_000}
    moved = next(r for r in records if r.kind == "failover")
    assert moved.details["latched"] is True


async def test_store_that_fails_is_told_once_and_gets_what_waited_when_it_works_again():
    heard = []
    world = await world_that_fails_over(lambda event: heard.append(event.name))
    before = len(world.store.records)
    world.store.is_full = True
    world.nodes["b"].state = "dead"
    await world.advance(20)
    assert heard.count("store.failed") == 1
    assert len(world.store.records) == before
    world.store.is_full = False
    await world.advance(10)
    assert heard.count("store.recovered") == 1
    late = [r.kind for r in world.store.records[before:]]
    assert "store-failed" in late
    assert "store-recovered" in late
    assert late.count("observation") == 2
    await world.kill_prober()


async def test_what_is_recorded_is_saved_behind_a_decision_and_not_before_it():
    world = await world_that_fails_over(lambda event: None)
    steps = []
    commit, note_all = world.store.commit, world.store.note_all

    async def committing(*args, **more):
        steps.append("commit")
        await world.clock.sleep(1.5)  # longer than what is recorded ever waits
        steps.append("committed")
        await commit(*args, **more)

    async def noting(records):
        steps.extend(r.details["to"] for r in records if r.kind == "condition")
        await note_all(records)

    world.store.commit, world.store.note_all = committing, noting
    world.nodes["a"].state = "dead"
    await world.advance(9)
    await world.kill_prober()
    assert steps.index("committed") == steps.index("commit") + 1
    assert steps.index("committed") < steps.index("failing-over")


# ------------------------------------------------------------------ the file
def test_export_is_read_back_as_it_was():
    records = history.read("x", file_of(*STORY))
    assert [history.as_json(r) for r in records] == STORY
    again = "".join(history.lines_of([history.as_json(r) for r in records], "1.2.3")).encode()
    assert history.read("x", again) == records
    assert "".join(history.lines_of(STORY, "1.2.3")).encode() == again


def test_header_without_a_count_is_enough():
    raw = b'{"lb_probe_history":1}\n' + file_of(STORY[0]).split(b"\n", 1)[1]
    assert len(history.read("x", raw)) == 1


GOOD = line("observation", **SAW)
REFUSED = [
    (b"", 1, "empty file"),
    (b"{}\n", 1, "no header"),
    (b'["lb_probe_history"]\n', 1, "no header"),
    (b'{"lb_probe_history":true}\n', 1, "no header"),
    (file_of(lb_probe_history=2), 1, "a newer lb-probe wrote; this one reads up to 1"),
    (file_of(lb_probe_history=0), 1, "found format 0"),
    (file_of(colour="red"), 1, "colour"),
    (file_of(records=-1), 1, "values cannot be"),
    (file_of(GOOD)[:-20], 2, "does not end: the file is cut off"),
    (file_of(GOOD)[:-1], 2, "does not end: the file is cut off"),
    (file_of(GOOD, GOOD).rsplit(b"\n", 2)[0] + b"\n", 2, "found 1 records where the header"),
    (file_of(GOOD, GOOD, records=1), 3, "found 2 records where the header"),
    (file_of(GOOD) + b"\n", 3, "found no JSON"),
    (file_of(GOOD) + b"\xff\n", 3, "no UTF-8"),
    (file_of(GOOD) + b"[" * 5000 + b"\n", 3, "found no JSON"),
    (file_of(GOOD) + b'{"a":1,"a":2}\n', 3, "a key twice"),
    (file_of(GOOD) + b'{"a":NaN}\n', 3, "NaN, which is no number"),
    (file_of(GOOD) + b"9" * 5000 + b"\n", 3, "found no JSON"),
    (file_of(GOOD) + b" " * 1_100_000 + b"\n", 3, "a line of 1100000 bytes"),
    (file_of(7), 2, "no record"),
    (file_of({**GOOD, "more": 1}), 2, "found the keys"),
    (file_of({**GOOD, "generation": -1}), 2, "found generation -1"),
    (file_of({**GOOD, "generation": True}), 2, "found generation true"),
    (file_of({**GOOD, "generation": 2**63}), 2, "found generation"),
    (file_of({**GOOD, "at": "2026-01-01T00:00:00"}), 2, "found at"),
    (file_of({**GOOD, "at": "soon"}), 2, "found at"),
    (file_of({**GOOD, "at": "9999-12-31T23:59:59Z"}), 2, "found at"),
    (file_of({**GOOD, "kind": "dance"}), 2, 'found the kind "dance"'),
    (file_of({**GOOD, "group": ""}), 2, "found the group"),
    (file_of(line("stopped")), 2, "found the group"),
    (file_of(line("observation", **{**SAW, "colour": "red"})), 2, "colour"),
    (file_of(line("observation", **{k: SAW[k] for k in SAW if k != "node"})), 2, "found no"),
    (file_of(line("observation", **{**SAW, "page": "front"})), 2, "found page"),
    (file_of(line("observation", **{**SAW, "phase": "late"})), 2, "found phase"),
    (file_of(line("observation", **{**SAW, "up": -1})), 2, "found up -1"),
    (file_of(line("observation", **{**SAW, "up": 10**400})), 2, "found up 1000"),
    (file_of(line("observation", **{k: SAW[k] for k in SAW if k != "up"})), 2, "both or none"),
    (file_of(line("observation", **{**SAW, "result": "ok"})), 2, "a phase without a failure"),
    (file_of(line("observation", **{**SAW, "mode": "primary"})), 2, "has a mode"),
    (
        file_of(line("observation", **{**SAW, "page": "hastatus", "mode": "sleeping"})),
        2,
        'found mode "sleeping"',
    ),
    (
        file_of(line("observation", **{**SAW, "ended": "2026-01-01T00:00:01.499Z"})),
        2,
        "before it started",
    ),
    (file_of(line("condition", to="fine", **RUN)), 2, 'found to "fine"'),
    (file_of(line("failover", **{**MOVED, "roles": {"a": "boss"}})), 2, "found roles"),
    (file_of(line("failover", **{**MOVED, "hold": {"by": "x"}})), 2, "found hold"),
    (file_of(line("failover", **{**MOVED, "to": ""})), 2, 'found to ""'),
    (
        file_of(GOOD, {**GOOD, "at": "2025-12-31T22:59:00.000Z"}, GOOD),
        3,
        "time goes back by 3662s, and no change of the clock is on record",
    ),
]


@pytest.mark.parametrize(
    ("raw", "number", "words"), REFUSED, ids=[f"{n}: {case[2]}" for n, case in enumerate(REFUSED)]
)
def test_file_that_cannot_be_is_refused_with_its_line(raw, number, words):
    with pytest.raises(HistoryError) as refused:
        history.read("old.jsonl", raw)
    text = str(refused.value)
    assert text.startswith(f"old.jsonl:{number}: error: ")
    assert words in text
    assert "\n" not in text


def test_time_may_go_back_where_the_record_says_why():
    early = {**GOOD, "at": "2025-12-31T20:00:00.000Z"}
    little = {**GOOD, "at": "2025-12-31T23:30:00.000Z"}
    other_run = {**early, "details": {**SAW, "run": 5, "up": 1.0}}
    jumped = line("clock-jumped", early["at"], "", 0, reason="by -4h", **RUN)
    broken = line("store-failed", early["at"], "", 0, detail="full", **RUN)
    for story in ([little], [other_run], [jumped, early], [early, jumped], [early, broken]):
        assert len(history.read("x", file_of(GOOD, *story))) == 1 + len(story)


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_no_mutation_of_an_export_ends_otherwise_than_read_or_refused(data):
    raw = bytearray(file_of(*STORY))
    for _ in range(data.draw(st.integers(1, 4))):
        if not raw:
            break
        place = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "drop", "double", "insert"])):
            case "flip":
                raw[place] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[place:]
            case "drop":
                del raw[place : place + data.draw(st.integers(1, 80))]
            case "double":
                raw[place:place] = raw[place : place + data.draw(st.integers(1, 400))]
            case "insert":
                raw[place:place] = data.draw(st.binary(min_size=1, max_size=8))
    refusal = ""
    try:
        records = history.read("x", bytes(raw))
    except HistoryError as error:
        records, refusal = [], str(error)
    assert refusal == "" or re.match(r"x:[1-9][0-9]*: error: found|x:\d+: error: \w+", refusal)
    # What was read can be replayed, and written and read again.
    again = "".join(history.lines_of([history.as_json(r) for r in records], "1.2.3"))
    assert history.read("x", again.encode()) == records
    compare(records, [Setting("x", pair(), 1.0, 0.25, 1.0)])


def test_spans_and_moments_are_understood_or_refused():
    assert history.since_of("2d", 200_000.0) == 27_200.0
    assert history.since_of("1970-01-02T00:00:00Z", 0.0) == 86_400.0
    for odd in ("", "7", "d", "-1d", "1w", "2026-01-31", "1e3s", "٣d", "9" * 5000 + "d"):
        with pytest.raises(Invalid, match="use a number with a unit"):
            history.since_of(odd, 0.0)


# ------------------------------------------------------------------ the verbs
CONFIG = """\
version: 1
store: sqlite:state.db
groups:
  - name: epmm
    act: true
    confirm: 10s
    nodes:
      - {name: a, role: primary, url: "http://192.0.2.1"}
      - {name: b, role: secondary, url: "http://192.0.2.2"}
"""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a configuration and another one, and a store whose prober is down."""
    for name in ("LB_PROBE_URL", "LB_PROBE_TOKEN", "LB_PROBE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("probes.yaml").write_text(CONFIG)
    Path("new.yaml").write_text(CONFIG.replace("10s", "2s"))
    monkeypatch.setenv("LB_PROBE_CONFIG", "probes.yaml")
    sqlite.init(tmp_path / "state.db")
    asyncio.run(_fill(tmp_path / "state.db"))
    return tmp_path


async def _fill(path):
    world = World(pair(confirm_s=10.0), {"edge": ModelBalancer("edge", {"a"})}, lambda event: None)
    await world.start_prober()
    for seconds, state in ((5, "dead"), (5, "up"), (30, "up")):
        await world.advance(seconds)
        world.nodes["a"].state = state
    await world.advance(30)
    await world.controller.close()
    await world.kill_prober()
    async with await SqliteStore.open(path) as store:
        await store.note_all(world.store.records)


def run(*words):
    return CliRunner().invoke(cli.cli, list(words))


def digest(folder):
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if file.name.startswith("state.db")
    }


def test_export_from_the_store_and_replay_of_it_say_the_same_as_replay_from_the_store(desk):
    before = digest(desk)
    assert run("history", "--store", "state.db", "--export", "old.jsonl").exit_code == 0
    first = run("replay", "--import", "old.jsonl", "-c", "new.yaml")
    assert first.exit_code == 0, first.output
    assert first.output == run("replay", "--store", "state.db", "-c", "new.yaml").output
    assert first.output == run("replay", "--import", "old.jsonl", "-c", "new.yaml").output
    assert "1 fault of the Primary on record" in first.output
    assert "WITH probes.yaml" in first.output
    assert "WITH new.yaml" in first.output
    assert "wants 3 over 10s" in first.output
    assert re.search(r"-> b after [23]\.\ds", first.output)
    told = json.loads(run("replay", "--import", "old.jsonl", "-c", "new.yaml", "-o", "json").stdout)
    assert told["configurations"] == ["probes.yaml", "new.yaml"]
    assert [would["to"] for would in told["groups"][0]["faults"][0]["would"]] == [None, "b"]
    assert digest(desk) == before


def test_export_to_stdout_is_the_same_and_a_file_that_exists_is_left_alone(desk):
    shown = run("history", "--store", "state.db", "--export", "-")
    run("history", "--store", "state.db", "--export", "one.jsonl")
    assert shown.stdout == Path("one.jsonl").read_text()
    again = run("history", "--store", "state.db", "--export", "one.jsonl")
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    assert run("history", "--store", "state.db", "--export", "no/one.jsonl").exit_code == 1


def test_replay_without_another_configuration_shows_one_column(desk):
    shown = run("replay", "--store", "state.db").output
    assert shown.count("WITH") == 2  # of the settings, and of the faults
    assert run("replay", "epmm", "--store", "state.db", "--since", "1s").output.count("WITH") == 1


def test_replay_against_a_named_configuration(desk):
    shown = run("replay", "--store", "state.db", "--against", "new.yaml", "-c", "probes.yaml")
    assert "WITH new.yaml" in shown.output


def test_refused_file_is_named_with_its_line_and_nothing_is_written(desk):
    before = digest(desk)
    run("history", "--store", "state.db", "--export", "old.jsonl")
    lines = Path("old.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"kind":"', '"kind":"odd-')
    Path("odd.jsonl").write_text("\n".join(lines) + "\n")
    refused = run("replay", "--import", "odd.jsonl", "-c", "new.yaml")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("odd.jsonl:4: error: found the kind ")
    assert refused.stdout == ""
    assert digest(desk) == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["replay", "--import", "gone.jsonl"], 1, "cannot be read"),
        (["replay", "--import", "x", "--store", "y"], 2, "give one of them"),
        (["replay", "--store", "gone.db"], 1, "no such file"),
        (["replay", "--store", "probes.yaml"], 1, "damaged"),
        (["replay", "other", "--store", "state.db"], 2, "no group other in probes.yaml that"),
        (["replay", "--store", "state.db", "--since", "soon"], 2, "use a number with a unit"),
        (["replay", "--store", "state.db", "-c", "gone.yaml"], 2, "no such file"),
        (["history", "--store", "state.db", "--since", "soon"], 2, "since: "),
        (["backup", "state.db"], 1, "already exists"),
        (["backup", "no/copy.db"], 1, "no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_says_why(desk, words, code, told):
    result = run(*words)
    assert result.exit_code == code, result.output
    assert told in result.output


def test_timeline_shows_changes_and_conditions_and_all_of_it_when_asked(desk):
    some = run("history", "--store", "state.db")
    every = run("history", "--store", "state.db", "--all")
    assert "normal -> confirming" in some.output
    assert "nobody -> a" in some.output
    assert "a status failed connect-refused" not in some.output
    assert "a status failed connect-refused" in every.output
    kinds = {r["kind"] for r in told(["history", "--store", "state.db"])}
    assert not kinds & QUIET
    assert len(told(["history", "--store", "state.db", "--limit", "3"])) == 3
    assert told(["history", "--store", "state.db", "--since", "1s"]) == []
    assert told(["history", "--store", "state.db", "--since", "2025-01-01T00:00Z"])


def told(words):
    return json.loads(run(*words, "-o", "json").stdout)["history"]


def test_timeline_is_in_the_order_in_which_it_happened(desk):
    at = [
        line.split()[0]
        for line in run("history", "--store", "state.db", "--all").output.splitlines()[1:]
    ]
    assert at == sorted(at)


def test_record_that_was_saved_late_stands_where_it_belongs():
    first = line("condition", to="failing-over", run=1, up=29.65)
    second = line("failover", **{**MOVED, "run": 1, "up": 29.7})
    other_run = line("started", group="", generation=0, run=2, up=0.0)
    rows = history_table([second, first, other_run], Look())[1:]
    assert [row.split()[2] for row in rows] == ["condition", "failover", "started"]


# ------------------------------------------------------------------ a real prober
def lb_probe(demo, *words, **environ):
    where = [sys.executable, "-m", "lb_probe", *words]
    env = {**os.environ, "LB_PROBE_CONFIG": str(demo.config), **environ}
    return subprocess.run(where, capture_output=True, text=True, timeout=60, env=env, check=False)


def until(is_true, what, patience_s=30.0):
    end = time.monotonic() + patience_s
    while not is_true():
        assert time.monotonic() < end, f"waited {patience_s:.0f}s in vain until {what}"
        time.sleep(0.05)


@pytest.mark.timeout(120)
def test_real_prober_is_recorded_exported_replayed_backed_up_and_restored(stand):
    demo = stand(confirm="300ms")
    until(lambda: demo.group()["condition"] == "normal", "all is normal")
    demo.kill("node-a")
    until(lambda: demo.group()["assigned"] == "node-b", "traffic is on B")

    def kinds():
        return [r["kind"] for r in demo.client.history("demo", 1000, everything=True)]

    until(lambda: kinds().count("observation") >= 6 and "condition" in kinds(), "it is recorded")
    until(lambda: kinds()[-1] == "watching", "there is a mark of life after the move", 45.0)
    file, copy = demo.folder / "old.jsonl", demo.folder / "copy.db"
    assert lb_probe(demo, "history", "--export", str(file)).returncode == 0
    slow = demo.folder / "slow.yaml"
    slow.write_text(demo.config.read_text().replace("confirm: 300ms", "confirm: 2s"))
    shown = lb_probe(demo, "replay", "--import", str(file), "-c", str(slow), "-o", "json")
    assert shown.returncode == 0, shown.stderr
    fault = json.loads(shown.stdout)["groups"][0]["faults"][-1]
    really, (as_it_is, slower) = fault["really"], fault["would"]
    assert really["to"] == as_it_is["to"] == slower["to"] == "node-b"
    assert abs(as_it_is["after_s"] - really["after_s"]) < 2.0
    assert slower["after_s"] > as_it_is["after_s"]

    assert lb_probe(demo, "replay", "-c", str(slow)).returncode == 0
    done = lb_probe(demo, "backup", str(copy))
    assert done.returncode == 0, done.stderr
    assert f"{copy.stat().st_size} bytes" in done.stdout
    assert lb_probe(demo, "backup", str(copy)).returncode == 1
    assert demo.group()["assigned"] == "node-b"

    prober = demo.children["prober"]
    prober.send_signal(signal.SIGTERM)
    assert prober.wait(30) == 0
    last = asyncio.run(_newest(demo.folder / "state.db"))
    assert last.kind == "stopped"
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        (demo.folder / name).unlink(missing_ok=True)
    copy.rename(demo.folder / "state.db")
    demo.start("prober")
    until(demo.is_answering, "the API answers")
    assert (demo.group()["assigned"], demo.group()["latched"]) == ("node-b", True)
    restored = [r["kind"] for r in demo.client.whole_history()]
    assert restored.count("failover") == 1


async def _newest(path):
    return sqlite.read_history(path)[-1]


def test_client_follows_the_pages_of_a_long_history(stand, monkeypatch):
    demo = stand()
    until(lambda: demo.group()["condition"] == "normal", "all is normal")
    until(lambda: len(demo.client.history(None, 1000, everything=True)) > 8, "some is recorded")
    monkeypatch.setattr("lb_probe.client.api.HISTORY_PAGE", 3)
    paged = demo.client.whole_history("demo")
    whole = demo.client.history("demo", 1000, everything=True)
    assert paged == whole[: len(paged)]
    assert len(paged) > 8
