"""What waits to be told: kept, in order, once, and never in anybody's way (R95, R97)."""

import asyncio
import sqlite3

import pytest
from hand_channel import Hand, busy, notice, route
from hand_clock import settled, until

from lb_probe.core.notice import Severity, Stage
from lb_probe.events import outbox as module
from lb_probe.events.outbox import Outbox
from lb_probe.events.outbox_file import OutboxFile, Step, read_waiting
from lb_probe.ports import NotDelivered


async def test_a_server_that_is_down_for_ten_minutes_gets_each_message_once_and_in_order(
    running, clock, events
):
    """R95: SMTP down for 10 min, then delivered once."""
    ops = Hand()
    ops.error = busy()
    async with running(route(ops)) as box:
        for number in range(3):
            await box.put(notice(f"{number}"))
        await clock.advance(600.0)
        assert len(ops.tries) >= 10  # it never gave up
        ops.error = None
        await settled(clock, lambda: len(ops.keys) == 3, 90.0)
        await clock.advance(3600.0)
        assert ops.keys == ["0", "1", "2"]
    assert len(events.named("notify.failed")) == 1  # told once for each wording
    assert len(events.named("notify.failing")) >= 9
    assert [told["waiting"] for told in events.named("notify.delivered")] == [2, 1, 0]


async def test_a_notice_is_on_disk_before_put_returns_and_survives_a_kill(running, clock, tmp_path):
    ops = Hand()
    ops.error = busy()
    async with running(route(ops)) as box:
        await box.put(notice("first"), notice("second"))
        killed = tmp_path / "killed.db"  # what a kill -9 at this moment leaves
        for file in tmp_path.glob("outbox.db*"):
            (tmp_path / file.name.replace("outbox", "killed")).write_bytes(file.read_bytes())
    again = Hand()
    async with running(route(again), file=killed) as box:
        await settled(clock, lambda: again.keys == ["first", "second"])
        await box.put(notice("first"))  # said again after a crash
        await clock.advance(60.0)
        assert again.keys == ["first", "second"]
    async with running(route(third := Hand()), file=killed):
        await clock.advance(60.0)
        assert third.tries == []  # delivered is delivered, in the next life too


async def test_one_killed_between_delivery_and_writing_it_down_sends_the_same_key_again(
    running, clock
):
    """At least once, and a receiver can tell."""
    ops = Hand()
    async with running(route(ops)) as box:
        box._file.write = lambda step, whole: _never_written()
        await box.put(notice("only"))
        await settled(clock, lambda: ops.keys == ["only"])
    # The file never heard of it; its teller did not get on either, and tells it again.
    async with running(route(again := Hand())) as box:
        await box.put(notice("only"))
        await settled(clock, lambda: again.keys == ["only"])
    assert again.taken[0].key == ops.taken[0].key


def _never_written():
    done = asyncio.get_running_loop().create_future()
    done.set_result(False)
    return done


async def test_memory_and_notices_are_kept_in_one_step(running, tmp_path):
    async with running(route(Hand())) as box:
        await box.keep([notice("a")], {"cursor": "store 7"})
    kept = read_waiting(tmp_path / "outbox.db")
    assert kept.memory["cursor"] == "store 7"
    assert "a" in kept.keys
    async with running(route(Hand())) as box:
        assert box.memory["cursor"] == "store 7"


async def test_a_notice_that_is_put_off_holds_up_its_own_group_only(running, clock):
    """Greylisting: in order for each group, and no group waits for another."""
    ops = Hand()
    ops.refuses = lambda letter: (
        NotDelivered("450 try again") if letter.notices[0].key == "a1" else None
    )
    async with running(route(ops)) as box:
        await box.put(notice("a1", group="a"), notice("b1", group="b"), notice("a2", group="a"))
        await settled(clock, lambda: ops.keys == ["b1"])
        await clock.advance(20.0)
        assert ops.keys == ["b1"]
        ops.refuses = lambda letter: None
        await settled(clock, lambda: ops.keys == ["b1", "a1", "a2"])


async def test_a_receiver_that_asks_for_time_is_left_alone_for_so_long(running, clock):
    ops = Hand()
    ops.error = busy("429", wait_s=300.0)
    async with running(route(ops)) as box:
        await box.put(notice("a"))
        await settled(clock, lambda: ops.tries)
        ops.error = None
        await clock.advance(295.0)
        assert len(ops.tries) == 1
        await settled(clock, lambda: ops.keys == ["a"], 10.0)


async def test_a_letter_that_is_refused_for_good_does_not_hold_up_the_next(running, clock, events):
    ops = Hand()
    ops.refuses = lambda letter: (
        NotDelivered("554 no", is_final=True) if letter.notices[0].key == "bad" else None
    )
    async with running(route(ops)) as box:
        await box.put(notice("bad"), notice("good"))
        await settled(clock, lambda: ops.keys == ["good"])
    (told,) = events.named("notify.rejected")
    assert (told["key"], told["detail"]) == ("bad", "554 no")


@pytest.mark.parametrize("kind", ["hangs", "breaks"])
async def test_a_channel_that_hangs_or_breaks_holds_up_no_other(running, clock, events, kind):
    bad, good = Hand("bad"), Hand("good")
    bad.timeout_s = 0.05
    if kind == "hangs":
        bad.gate.clear()
    else:
        bad.error = RuntimeError("a bug")
    async with running(route(bad), route(good)) as box:
        await box.put(notice("a"))
        await settled(clock, lambda: good.keys == ["a"])
        await until(lambda: events.named("notify.failed"))
        bad.error = None
        bad.gate.set()
        await settled(clock, lambda: bad.keys == ["a"])
    (told,) = events.named("notify.failed")
    assert told["detail"] in ("bad: no end after 0.05s", "bad: RuntimeError: a bug")


# ------------------------------------------------------------------ many at once
async def test_a_storm_of_a_thousand_groups_is_one_letter(running, clock):
    """R95 flood limit; many groups at once become one message, the gravest first."""
    ops = Hand()
    storm = [notice(f"{n}", "failed-over", group=f"g{n}") for n in range(1000)]
    async with running(route(ops)) as box:
        await box.put(*storm)
        await settled(clock, lambda: len(ops.keys) == 1000)
        assert len(ops.taken) == 2  # `MOST_TOGETHER` in each
        assert len(ops.tries) == 2


async def test_what_goes_on_and_on_is_gathered(running, clock):
    ops = Hand()
    async with running(route(ops)) as box:
        for number in range(60):
            await box.put(notice(f"{number}", group=f"g{number}"))
            await clock.advance(1.0)
        await settled(clock, lambda: len(ops.keys) == 60)
    assert ops.keys == [f"{n}" for n in range(60)]
    assert len(ops.taken) <= module.SINGLE + 60 / module.PACE_S + 2
    assert [len(letter.notices) for letter in ops.taken[: module.SINGLE]] == [1] * module.SINGLE


async def test_a_letter_of_many_that_is_refused_is_tried_one_by_one(running, clock):
    ops = Hand()
    ops.refuses = lambda letter: (
        NotDelivered("413", is_final=True) if len(letter.notices) > 1 else None
    )
    async with running(route(ops)) as box:
        await box.put(*(notice(f"{n}", group=f"g{n}") for n in range(8)))
        await settled(clock, lambda: len(ops.keys) == 8)
    assert ops.keys == [f"{n}" for n in range(8)]


async def test_the_room_is_bounded_and_the_least_grave_goes_first(
    running, clock, events, monkeypatch
):
    monkeypatch.setattr(module, "ROOM", 3)
    ops = Hand()
    ops.error = busy()
    async with running(route(ops)) as box:
        await box.put(notice("grave", "failed-over"), notice("old"), notice("note", "hold"))
        await box.put(notice("new"), notice("more", "blocked"))
        assert [told["key"] for told in events.named("notify.dropped")] == ["note", "old"]
        assert box.waiting() == {"ops": 3}
        ops.error = None
        await settled(clock, lambda: ops.keys == ["grave", "new", "more"])
    assert ops.taken[0].lost == 2  # and the next letter says so
    assert ops.taken[1].lost == 0


async def test_what_nobody_took_for_three_days_is_let_go_and_counted(running, clock, events):
    ops = Hand()
    ops.error = busy()
    async with running(route(ops)) as box:
        await box.put(notice("a"))
        await clock.advance(module.EXPIRE_S + 3700.0, step=600.0)
        assert box.waiting() == {"ops": 0}
    assert [told["key"] for told in events.named("notify.expired")] == ["a"]


# ------------------------------------------------------------------ who is told what
async def test_each_channel_is_told_its_classes_groups_and_gravity_only(running, clock):
    """R94: a toggle for each class."""
    every, few, grave, theirs = Hand("every"), Hand("few"), Hand("grave"), Hand("theirs")
    pager = Hand("pager", is_for_alarms=True)
    async with running(
        route(every),
        route(few, classes=frozenset({"sync-completed"})),
        route(grave, at_least=Severity.CRITICAL),
        route(theirs, groups=frozenset({"b"})),
        route(pager, classes=frozenset({"blocked"})),
    ) as box:
        opened = notice("open", "blocked", group="a", stage=Stage.OPEN, alarm="x")
        over = notice(
            "over", "resumed", group="a", stage=Stage.OVER, alarm="x", severity=Severity.CRITICAL
        )
        await box.put(opened, over, notice("synced", "sync-completed", group="b"))
        await settled(clock, lambda: len(every.keys) == 3)
        await clock.advance(5.0)
    assert few.keys == theirs.keys == ["synced"]
    assert grave.keys == pager.keys == ["open", "over"]


async def test_a_stand_in_is_told_only_what_nobody_else_took(running, clock):
    """R95: a second channel, so that a failover is not silently lost."""
    ops, spare = Hand("ops"), Hand("spare")
    async with running(route(ops), route(spare, stand_in_s=300.0)) as box:
        await box.put(notice("taken"))
        await settled(clock, lambda: ops.keys == ["taken"])
        ops.error = busy()
        await box.put(notice("late"))
        await clock.advance(290.0)
        assert spare.tries == []
        await settled(clock, lambda: spare.keys == ["late"], 20.0)
        ops.error = NotDelivered("no", is_final=True)
        await settled(clock, lambda: box.waiting()["ops"] == 0, 90.0)
        await box.put(notice("refused"))
        await settled(clock, lambda: spare.keys == ["late", "refused"], 20.0)  # at once


async def test_channels_change_while_something_waits(running, clock, events):
    old, gone, new = Hand("ops"), Hand("gone"), Hand("ops")
    old.error = gone.error = busy()
    stays = route(kept := Hand("kept"))
    async with running(route(old), route(gone), stays) as box:
        await box.put(notice("a"))
        await settled(clock, lambda: kept.keys == ["a"])
        await box.reroute([route(new), stays])
        await settled(clock, lambda: new.keys == ["a"])
        await box.put(notice("b"))
        await settled(clock, lambda: kept.keys == ["a", "b"])
    (told,) = events.named("notify.dropped")
    assert (told["channel"], told["detail"]) == ("gone", "channel gone")
    async with running(stays):  # and nothing of it is left on disk
        assert len(events.named("notify.dropped")) == 1


async def test_a_message_that_comes_while_channels_change_is_not_lost(running, clock):
    """The old channel is taking one at that moment, and takes its time to end."""
    old, new = Hand("ops"), Hand("ops")
    asked, ended = asyncio.Event(), asyncio.Event()

    async def send(letter):
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await ended.wait()

    old.send = send
    async with running(route(old)) as box:
        assert box.unproven() == ["ops"]
        await box.put(notice("a"))
        await settled(clock, asked.is_set)
        changing = asyncio.ensure_future(box.reroute([route(new)]))
        await asyncio.sleep(0)
        await box.put(notice("b"))
        ended.set()
        await changing
        await settled(clock, lambda: new.keys == ["a", "b"])
        assert box.unproven() == []


async def test_what_is_dropped_while_a_letter_goes_out_is_told_in_the_next(
    running, clock, monkeypatch
):
    monkeypatch.setattr(module, "ROOM", 2)
    ops = Hand("ops")
    ops.gate.clear()
    async with running(route(ops)) as box:
        await box.put(notice("a"))
        await settled(clock, lambda: len(ops.tries) == 1)
        await box.put(notice("b"), notice("c"), notice("d"))
        ops.gate.set()
        await settled(clock, lambda: ops.keys == ["a", "c", "d"])
    assert [letter.lost for letter in ops.taken] == [0, 2, 0]


async def test_channels_change_while_nothing_runs(tmp_path, clock, events):
    """A reload stops the parts first."""
    box = await Outbox.open(tmp_path / "o.db", [route(Hand("old"))], clock, events, source="x")
    for channel in (Hand("old"), new := Hand("new")):
        running = asyncio.ensure_future(box.run())
        await clock.advance(1.0)
        running.cancel()
        await asyncio.wait([running])
        await box.reroute([route(channel)])
    await box.put(notice("a"))
    running = asyncio.ensure_future(box.run())
    await settled(clock, lambda: new.keys == ["a"])
    running.cancel()
    await asyncio.wait([running])
    await box.close()


# ------------------------------------------------------------------ the disk
async def test_a_file_that_cannot_be_read_is_moved_aside_and_said(running, clock, tmp_path):
    file = tmp_path / "outbox.db"
    file.write_bytes(b"SQLite format 3\x00" + b"\xff" * 4096)
    async with running(route(ops := Hand())) as box:
        assert box.unusable.startswith(f"{file}.unusable-")
        await box.put(notice("a"))
        await settled(clock, lambda: ops.keys == ["a"])
    assert len(list(tmp_path.glob("*.unusable-*"))) >= 1


async def test_a_disk_that_refuses_costs_no_message(running, clock, events, tmp_path):
    """The disk that is full is what people must be told of."""
    ops = Hand()
    async with running(route(ops)) as box:
        await box.put(notice("before"))
        await settled(clock, lambda: ops.keys == ["before"])
        db = box._file._db
        box._file._thread.submit(db.execute, "PRAGMA query_only = ON").result()
        ops.error = busy()
        await box.put(notice("during"))
        assert "readonly" in box.fault
        assert len(events.named("outbox.failed")) == 1
        box._file._thread.submit(db.execute, "PRAGMA query_only = OFF").result()
        await clock.advance(module.REWRITE_S + 1.0)
        await until(lambda: not box.fault)
        assert len(events.named("outbox.recovered")) == 1
    async with running(route(again := Hand())):
        await settled(clock, lambda: again.keys == ["during"])


async def test_a_file_that_vanishes_is_written_anew(running, clock, events, tmp_path):
    ops = Hand()
    ops.error = busy()
    async with running(route(ops)) as box:
        await box.put(notice("a"))
        for file in tmp_path.glob("outbox.db*"):
            file.unlink()
        await box.put(notice("b"))
        assert box.fault
        await box.put(notice("c"))
        assert not box.fault
    assert list(read_waiting(tmp_path / "outbox.db").keys) == ["a", "b", "c"]


async def test_a_folder_that_is_not_there_costs_the_disk_only(running, clock, tmp_path):
    async with running(route(ops := Hand()), file=tmp_path / "none" / "outbox.db") as box:
        assert box.fault
        await box.put(notice("a"))
        await settled(clock, lambda: ops.keys == ["a"])


async def test_a_disk_that_hangs_delays_no_message(running, clock):
    ops = Hand()
    async with running(route(ops)) as box:
        hangs = asyncio.Event()
        loop = asyncio.get_running_loop()
        box._file._thread.submit(
            lambda: asyncio.run_coroutine_threadsafe(hangs.wait(), loop).result()
        )
        putting = asyncio.ensure_future(box.put(notice("a")))
        await settled(clock, lambda: ops.keys == ["a"])
        assert not putting.done()
        hangs.set()
        await putting


async def test_old_keys_are_forgotten_and_what_waits_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("lb_probe.events.outbox_file.KEEP_KEYS", 2)
    file = OutboxFile(tmp_path / "outbox.db")
    await file.open(0.0)
    for number in range(1, 6):
        channels = ["ops"] if number == 1 else []
        await file.write(Step([(number, notice(f"{number}"), channels)]), lambda: None)
    await file.close(1.0)
    kept = read_waiting(tmp_path / "outbox.db")
    assert list(kept.keys) == ["1", "4", "5"]
    assert kept.waiting == [(1, "ops")]


async def test_a_file_of_a_newer_program_is_kept_aside(tmp_path, running):
    async with running(route(Hand())):
        pass
    with sqlite3.connect(tmp_path / "outbox.db") as db:
        db.execute("UPDATE meta SET version = 99")
    async with running(route(Hand())) as box:
        assert box.unusable


async def test_what_can_be_sent_is_sent_before_the_end(running, clock):
    ops = Hand()
    async with running(route(ops)) as box:
        await box.put(notice("last"))
        ending = asyncio.ensure_future(box.drain())
        await settled(clock, ending.done, 10.0)
    assert ops.keys == ["last"]
