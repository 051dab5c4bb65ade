"""A schedule lived through in virtual time: R10, R18-R21, R30, R69, R87, R89, R121."""

import pytest

from lb_probe.agent.replication.settings import FirstSchedule
from lb_probe.core.model import Mode
from lb_probe.core.sync_schedule import moment
from lb_probe.ports import Invalid, Refused

H = 3_600


def hours(began):
    return [at[-6:-1] for at in began]


def shut(refused):
    return [gate.id for gate in refused.value.gates if not gate.passed]


def test_a_week_of_syncs_every_seven_hours(week):
    """R21, R30: on the grid of the first one, day after day."""
    w = week()
    w.ready(run_every="7h")
    w.until("2026-12-04 14:00")
    assert len(w.played.began) == 25
    assert hours(w.played.began[:5]) == ["13:00", "20:00", "03:00", "10:00", "17:00"]
    assert w.played.began[-1] == "2026-12-04 13:00Z"
    assert set(w.runs("trigger", "result")[1:]) == {("schedule", "success")}
    assert w.b.part.status()["alarms"] == {}
    assert w.b.node.report().last_good_sync == pytest.approx(
        (moment("2026-12-04 13:00"), moment("2026-12-04 13:01")), abs=1
    )
    assert w.b.part.status()["next"] == "2026-12-04T20:00:00Z"


@pytest.mark.parametrize(
    ("begins", "end", "count"),
    [
        ("2027-03-27 12:00", "2027-03-29 12:00", 8),  # summer time begins in Europe
        ("2027-10-30 12:00", "2027-11-01 12:00", 8),  # and ends
        ("2028-02-28 12:00", "2028-03-01 12:00", 8),  # over the leap day
        ("2026-12-30 12:00", "2027-01-01 12:00", 8),  # over the end of month and year
    ],
)
def test_no_date_moves_a_slot(week, begins, end, count):
    """R20, R21."""
    w = week(begins=begins)
    w.ready(start="13:00Z", run_every="6h")
    w.until(end)
    assert len(w.played.began) == count
    assert {at[-6:] for at in w.played.began} == {"01:00Z", "07:00Z", "13:00Z", "19:00Z"}


def test_the_first_run_is_the_next_start_time_after_the_save(week):
    """R20: saved at 14:00 for 13:00, it is tomorrow; and the save says so (R19)."""
    w = week(begins="2026-11-27 13:59")
    w.ready(start="13:00Z", run_every="12h")
    w.until("2026-11-28 14:00")
    assert w.played.began == ["2026-11-28 13:00Z"]


def test_a_wide_gap_is_asked_about_and_shown(week):
    """R19: the operator says so by name; a dry run shows the same and saves nothing."""
    w = week(begins="2026-11-27 13:59")
    w.do(w.b.sync())
    plan = w.save(start="13:00Z", run_every="2h", dry_run=True)
    assert plan["plan"]["next"] == "2026-11-28T13:00:00Z"
    assert plan["saved"] is False
    gap = next(gate for gate in plan["gates"] if gate["id"] == "gap")
    assert "2026-11-28 13:00Z, 23h after the last good one (2026-11-27 13:59Z)" in gap["found"]
    with pytest.raises(Refused) as refused:
        w.save(start="13:00Z", run_every="2h")
    assert shut(refused) == ["gap"]
    assert w.b.part.status()["schedule"] is None
    saved = w.save(start="13:00Z", run_every="2h", override=("gap",), reason="after work")
    assert (saved["saved"], saved["schedule"]["start"]) == (True, "13:00Z")


def test_every_save_anchors_anew_unless_the_grid_is_kept(week):
    """R89."""
    w = week()
    w.ready(start="13:00Z", run_every="2h")
    w.until("2026-11-27 16:00")
    assert w.save(keep_grid=True)["next"] == "2026-11-27T17:00:00Z"
    assert w.save(keep_grid=True, run_every="3h")["next"] == "2026-11-27T17:00:00Z"
    w.until("2026-11-27 20:30")
    assert hours(w.played.began) == ["13:00", "15:00", "17:00", "20:00"]
    moved = w.save(start="13:00Z", override=("gap",))
    assert moved["next"] == "2026-11-28T13:00:00Z"
    w.until("2026-11-28 14:00")
    assert hours(w.played.began[4:]) == ["13:00"]


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"keep_grid": True, "start": "13:00Z", "run_every": "2h"}, "has its own start"),
        ({"keep_grid": True, "run_every": "2h"}, "no schedule is saved"),
        ({"start": "13:00Z"}, "no run_every"),
        ({"run_every": "2h"}, "no start"),
    ],
)
def test_a_save_that_says_too_little_or_too_much_is_not_understood(week, said, says):
    w = week()
    with pytest.raises(Invalid, match=says):
        w.save(**said)


@pytest.mark.parametrize(("run_every", "refused"), [("59m", True), ("60m", False)])
def test_less_than_sixty_minutes_takes_an_override_and_keeps_its_reason(week, run_every, refused):
    """R10."""
    w = week(begins="2026-11-27 12:30")
    w.do(w.b.sync())
    if refused:
        with pytest.raises(Refused) as error:
            w.save(start="13:00Z", run_every=run_every)
        assert shut(error) == ["run-every"]
    saved = w.save(
        start="13:00Z", run_every=run_every, override=("run-every",), reason="a small site"
    )
    assert saved["schedule"]["too_often_because"] == ("a small site" if refused else "")


def test_there_is_no_schedule_before_one_good_manual_sync(week):
    """R87: not by the socket, and not by the file."""
    w = week(schedule=FirstSchedule(10 * H, 2 * H))
    w.do(w.b.ha())
    with pytest.raises(Refused) as refused:
        w.save(start="13:00Z", run_every="2h", override=("by-hand-first",))
    assert "by-hand-first" in shut(refused)
    w.until("2026-11-27 11:00")
    assert w.played.began == []
    assert w.runs("result", "gates") == [("refused", ["by-hand-first"])]
    assert w.b.part.status()["waits_for"] == "no manual sync has been good yet"
    w.do(w.b.sync())
    w.until("2026-11-27 13:00")
    assert hours(w.played.began[1:]) == ["12:00"]


def test_the_schedule_of_the_file_is_the_first_one_only(week):
    w = week(schedule=FirstSchedule(13 * H, 2 * H))
    assert w.b.part.status()["schedule"]["by"] == "probes.yaml"
    w.ready(start="15:00Z", run_every="6h")
    w.stop()
    w.start()
    shown = w.b.part.status()
    assert (shown["schedule"]["start"], shown["in_file"]["start"]) == ("15:00Z", "13:00Z")


def test_nothing_runs_until_ha_is_enabled_and_disabling_stops_it(week):
    """R68, R69: a slot of that time is not made up for."""
    w = week()
    w.do(w.b.sync())
    w.save(start="13:00Z", run_every="2h", override=("gap",))
    w.until("2026-11-27 14:00")
    assert len(w.played.began) == 1
    w.do(w.b.ha())
    w.until("2026-11-27 16:00")
    assert hours(w.played.began[1:]) == ["15:00"]
    w.do(w.b.ha(is_on=False))
    w.until("2026-11-27 20:00")
    assert len(w.played.began) == 2
    assert w.b.part.status()["waits_for"] == "HA is disabled"


def test_disabling_ha_interrupts_no_sync(week):
    """R69."""
    w = week(lasts=(60.0, 1800.0))
    w.ready()
    w.until("2026-11-27 13:10")
    w.do(w.b.ha(is_on=False))
    w.until("2026-11-27 13:40")
    assert w.runs("trigger", "result")[-1] == ("schedule", "success")


def test_a_sync_of_seventy_minutes_every_sixty_skips_and_is_an_alarm(week):
    """R18: never two at once; every other slot is skipped; the second one is an alarm."""
    w = week(lasts=(60.0, 70 * 60.0))
    w.played.lasts = iter([60.0] + [70 * 60.0] * 20)
    w.ready(run_every="60m", start="10:00Z")
    w.until("2026-11-27 11:30")
    assert "sync-overlap" not in w.b.part.status()["alarms"]
    w.until("2026-11-27 13:30")
    assert "2 slots were skipped" in w.b.part.status()["alarms"]["sync-overlap"]
    assert w.played.most_at_once == 1
    assert w.runs("result")[1:] == [
        ("success",), ("skipped-overlap",), ("success",), ("skipped-overlap",)
    ]  # fmt: skip
    assert w.b.part.status()["advice"].endswith("use 1h 30min or more")
    w.played.lasts = iter([60.0] * 20)
    w.until("2026-11-27 15:30")
    assert "sync-overlap" not in w.b.part.status()["alarms"]


def test_the_first_copy_takes_longer_and_counts_for_no_advice(week):
    """R25."""
    w = week(lasts=(5 * H, 600.0), timeout_s=H, initial_timeout_s=6 * H)
    w.ready(start="15:00Z", override=("gap",))
    w.until("2026-11-27 20:00")
    assert [run["initial"] for run in w.runs()] == [True, False, False, False]
    assert w.b.part.status()["advice"].startswith("95 of 100 runs end within 5h") is False
    assert w.runs("result")[2] == ("failed",)  # 5h again: the limit is an hour by now


def test_after_downtime_one_sync_makes_up_for_all(week):
    """R21: and the next is on the grid."""
    w = week()
    w.ready()
    w.until("2026-11-27 13:30")
    w.stop()
    w.time.go_on(w.time.now + 28.5 * H)  # 18:00 the next day
    w.start()
    w.until("2026-11-28 19:30")
    assert w.played.began[1:] == ["2026-11-28 18:00Z", "2026-11-28 19:00Z"]
    made_up = w.runs()[-2]
    assert (made_up["trigger"], made_up["slot"]) == ("catch-up", "2026-11-28T17:00:00Z")
    assert made_up["warnings"] == ["13 slots before it had no sync"]


@pytest.mark.parametrize(
    ("to", "until", "then"),
    [
        ("2026-11-27 23:30", "2026-11-28 01:30", ["2026-11-27 23:30Z", "2026-11-28 01:00Z"]),
        ("2026-11-27 12:59", "2026-11-27 15:30", ["2026-11-27 15:00Z"]),
        ("2001-09-09 01:30", "2001-09-09 05:30", ["2001-09-09 03:00Z", "2001-09-09 05:00Z"]),
    ],
)
def test_a_clock_that_is_set_neither_repeats_a_sync_nor_puts_one_off(week, to, until, then):
    """13:00 has run; then somebody sets the clock forward, back a little, back by years."""
    w = week(look_s=30.0)
    w.ready()
    w.until("2026-11-27 13:30")
    assert hours(w.played.began) == ["13:00"]
    w.time.set_wall(to)
    w.until(until)
    assert w.played.began[1:] == then


def test_a_restart_in_the_minute_of_a_slot_does_not_run_it_twice(week):
    w = week()
    w.ready()
    w.until("2026-11-27 13:02")
    w.stop()
    w.start()
    w.until("2026-11-27 14:00")
    assert hours(w.played.began) == ["13:00"]


def test_a_slot_that_a_gate_keeps_back_is_on_record_and_an_alarm(week):
    """R92, R16: until a good one, or until somebody has seen it."""
    w = week(begins="2026-11-27 12:00")
    w.ready()
    w.b.peer.says(version="2.0")
    w.until("2026-11-27 13:30")
    refused = w.runs()[-1]
    assert (refused["result"], refused["gates"]) == ("refused", ["same-version"])
    assert "b has 1.0, a has 2.0" in w.b.part.status()["alarms"]["version-mismatch"]
    assert w.do(w.b.ask("sync-ack", reason="upgrade under way"))[0]["acked"]["id"] == refused["id"]
    assert w.b.part.status()["alarms"] == {}
    w.until("2026-11-27 15:30")
    assert "version-mismatch" in w.b.part.status()["alarms"]
    w.b.version = "2.0"
    w.until("2026-11-27 17:30")
    assert w.b.part.status()["alarms"] == {}
    for name in ("agent.sync-alarm", "agent.sync-alarm-over"):
        told = [fields["alarm"] for fields in w.b.named(name)]
        assert told.count("version-mismatch") == 2


def test_old_data_is_an_alarm_whether_a_schedule_runs_or_not(week):
    """Facts 8 and 9."""
    w = week()
    w.ready(start="10:00Z")
    w.until("2026-11-27 10:30")
    w.do(w.b.ha(is_on=False))
    w.until("2026-11-27 13:59")
    assert w.b.part.status()["alarms"] == {}
    w.until("2026-11-27 14:02")
    assert "4h 2min old; wanted at most 4h" in w.b.part.status()["alarms"]["sync-overdue"]


def test_a_mode_set_by_hand_does_not_start_the_schedule_again(week):
    """R121: it is an alarm until HA is enabled again."""
    w = week()
    w.ready(start="10:00Z")
    for mode in (Mode.PRIMARY, Mode.STANDBY):
        w.do(w.b.node.change_mode(mode, cause="operator", by="uid 0", reason=""))
    w.time.go_on(w.time.now + 6)
    now = w.time.wall()
    w.b.peer.says(data_reign=now, data_until=now, data_fork=(now, now))
    w.do(w.b.sync(override=("loss-accepted",)))
    w.until("2026-11-27 12:30")
    assert w.runs("result", "gates")[-1] == ("refused", ["scheduler-on"])
    assert "scheduler-stopped" in w.b.part.status()["alarms"]
    w.do(w.b.ha())
    w.until("2026-11-27 14:30")
    assert w.runs("trigger", "result")[-1] == ("schedule", "success")
    assert w.b.part.status()["alarms"] == {}


def test_the_age_of_data_at_the_end_of_two_hops_counts_from_the_primary(week):
    """R38: the source had copied at 12:00 itself when it was copied at 15:00."""
    w = week()
    w.ready()
    at = moment("2026-11-27 12:00")
    w.b.peer.says(mode=Mode.STANDBY, last_good_sync=(at, at + 60.0), data_until=at)
    w.until("2026-11-27 15:30")
    assert w.runs("slot", "result")[-1] == ("2026-11-27T15:00:00Z", "success")
    shown = w.b.part.status()
    assert shown["data_until"] == "2026-11-27T12:00:00Z"
    assert shown["data_age_s"] == pytest.approx(3.5 * H, abs=5)


def test_a_schedule_that_reads_from_a_node_being_written_to_is_told(week):
    """R38."""
    w = week()
    w.do(w.b.sync())
    slot = float(moment("2026-11-27 13:00"))
    w.b.peer.says(
        mode=Mode.STANDBY, last_good_sync=(1.0, 2.0), sync_slots=(slot, 7200.0), sync_lasts_s=600.0
    )
    told = w.save(start="13:05Z", run_every="2h", dry_run=True)["overlap"]
    assert "begin 1h 5min after a slot of a" in told
    assert w.save(start="14:05Z", run_every="2h", dry_run=True)["overlap"] == ""
