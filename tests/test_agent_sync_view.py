"""What the verbs of replication print: R19, R85, R86, R98, and nothing unsafe for a terminal."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_probe.render import agent_sync as view
from lb_probe.render.text import Look

LOOK = Look()
RUN = {
    "id": 7,
    "trigger": "schedule",
    "slot": "2026-11-28T13:00:00Z",
    "by": "schedule",
    "reason": "",
    "source": "a",
    "target": "b",
    "started": "2026-11-28T13:00:01Z",
    "completed": "2026-11-28T13:04:01Z",
    "result": "failed",
    "detail": "copy: exit status 3",
    "initial": True,
    "seconds": 240.0,
    "bytes": 12,
    "changed": 3,
    "versions": {"here": "1", "source": "1"},
    "counts": None,
    "steps": [
        {"name": "copy", "started": "x", "result": "failed", "seconds": 9.5, "detail": "status 3"}
    ],
    "gates": [],
    "overridden": ["not-newer-here"],
    "warnings": ["13 slots before it had no sync"],
    "output": ["disk full\x1b[2J"],
}


def test_a_run_is_told_with_its_steps_and_its_last_lines():
    assert view.run_block(RUN, LOOK) == [
        "sync 7: failed, a -> b",
        "  started    2026-11-28T13:00:01Z (schedule, by schedule)",
        "  completed  2026-11-28T13:04:01Z, took 4min",
        "  copied     12 bytes, 3 changed, the first copy",
        "  versions   1 here, 1 there",
        "  slot       2026-11-28T13:00:00Z",
        "  detail     copy: exit status 3",
        "  warning    13 slots before it had no sync",
        "  overridden not-newer-here",
        "",
        "STEP  RESULT  TOOK  DETAIL",
        "copy  failed  9.5s  status 3",
        "",
        "its last lines:",
        "  disk full?[2J",
    ]


def test_a_sync_that_runs_has_no_result_and_no_end():
    """R86."""
    lines = view.run_block(RUN | {"result": None, "completed": None, "seconds": None}, LOOK)
    assert lines[0].startswith("sync 7: running")
    assert "  completed  -, took -" in lines


def test_the_history_is_a_row_for_each_run():
    rows = view.history_table([RUN, RUN | {"id": 6, "detail": "", "result": "success"}], LOOK)
    assert rows[0].split() == ["ID", "STARTED", "TRIGGER", "RESULT", "TOOK", "BYTES", "CHANGED",
                               "DETAIL"]  # fmt: skip
    assert rows[1].endswith("copy: exit status 3")
    assert rows[2].endswith("13 slots before it had no sync")
    assert view.history_table([], LOOK) == ["no syncs are on record"]


def test_a_save_is_shown_before_it_is_made():
    """R19: golden text."""
    answer = {
        "node": "b",
        "plan": {"start": "13:00Z", "run_every": "2h", "next": "2026-11-29T13:00:00Z"},
        "gates": [{"id": "gap", "passed": False, "found": "a gap of 23h", "wanted": "at most 4h"}],
        "overlap": "some syncs fall together",
    }
    lines = view.plan_block(answer, LOOK)
    assert lines[0] == "b: StartTime 13:00Z, Run Every 2h; the next sync is at 2026-11-29T13:00:00Z"
    assert "gap" in lines[1]
    assert lines[-1] == "warning: some syncs fall together"


def test_the_schedule_says_what_it_waits_for_and_what_to_change():
    saved = {"start": "13:00Z", "run_every": "30min", "first": "2026-11-28T13:00:00Z",
             "saved": "2026-11-28T12:00:00Z", "by": "uid 0", "reason": "small",
             "too_often_because": "a small site"}  # fmt: skip
    answer = {"node": "b", "schedule": saved, "next": None, "waits_for": "HA is disabled",
              "advice": "use 2h or more", "overlap": ""}  # fmt: skip
    assert view.schedule_block(answer, LOOK) == [
        "b: StartTime 13:00Z, Run Every 30min",
        "  first   2026-11-28T13:00:00Z; saved 2026-11-28T12:00:00Z by uid 0: small",
        "  below 60 minutes because: a small site",
        "  next    -",
        "  waits   HA is disabled",
        "  advice  use 2h or more",
    ]
    assert view.schedule_block({"node": "b"}, LOOK)[0] == "b: no schedule is saved"


def test_the_status_shows_alarms_age_and_the_partner():
    """R98."""
    sync = {
        "from": "a", "to": "b", "running": RUN | {"percent": 40}, "last_good": RUN,
        "data_until": "2026-11-28T13:00:00Z", "data_age_s": 7200, "next": None,
        "waits_for": "the node is Primary", "in_the_way": "pid 7 cp", "not_inhibited": "no systemd",
        "alarms": {"data-suspect": "sync 6 has not ended"},
    }  # fmt: skip
    text = "\n".join(view.status_lines({"sync": sync}, LOOK))
    for part in ("replication a -> b: sync 7 runs, 40%", "2h ago", "!! data-suspect: sync 6",
                 "in the way      pid 7 cp", "no shutdown lock: no systemd"):  # fmt: skip
        assert part in text
    ended = view.status_lines({"sync": sync | {"running": None, "last": RUN}}, LOOK)
    assert "last sync 7: failed" in ended[1]
    assert view.status_lines({"sync": {"from": "a", "to": "b"}}, LOOK)[1].endswith("no sync yet")
    pair = {"name": "b", "address": "192.0.2.11", "state": "standby", "syncing": True,
            "last_synced": "2026-11-28T13:00:00Z", "age_s": 42, "fault": "no answer"}  # fmt: skip
    assert view.pair_lines({"partner": pair}, LOOK) == [
        "",
        "pair: b (192.0.2.11): standby",
        "  last synced     2026-11-28T13:00:00Z, 42s ago",
        "  a sync writes to it now: do not stop either node",
        "  not reached     no answer",
    ]
    assert view.pair_lines({}, LOOK) == view.status_lines({}, LOOK) == []


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        ({"begins": RUN | {"warnings": ["lost"]}}, ["sync begins: a -> b, the first copy",
                                                    "warning: lost"]),
        ({"line": "sync: step\x07"}, ["  | sync: step?"]),
        ({"alive": True}, []),
        ({"percent": 40, "step": "copy"}, []),
    ],
)  # fmt: skip
def test_each_line_of_a_running_sync_is_told(said, lines):
    assert view.line_of(said, LOOK) == lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (True, "-"), (0.25, "0.2s"), (42, "42s"), (3600, "1h"), (90061, "1d 1h")],
)
def test_a_time_is_told_in_two_units(seconds, text):
    assert view.span(seconds) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(RUN)), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*RUN, "sync", "pair", "schedule", "alarms"]), JSON))
def test_whatever_an_agent_answers_can_be_shown(answer):
    for lines in (
        view.run_block(answer, LOOK),
        view.history_table([answer], LOOK),
        view.schedule_block(answer, LOOK),
        view.plan_block(answer, LOOK),
        view.status_lines(answer, LOOK),
        view.status_lines({"sync": answer}, LOOK),
        view.pair_lines({"pair": answer}, LOOK),
        view.stop_block(answer, LOOK),
    ):
        assert all(line.isprintable() for line in lines)
