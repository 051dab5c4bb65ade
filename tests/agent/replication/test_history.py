"""The record of syncs: what a crash, a full disk and a damaged file do to it. R16, R85, R86."""

import json
import os
import sqlite3
import stat
from dataclasses import replace

import pytest
from sync_desk import until

from lb_probe.agent.replication import history as record
from lb_probe.agent.replication import part
from lb_probe.agent.replication.book import Book
from lb_probe.agent.replication.history import History, HistoryError, Run
from lb_probe.core.sync_progress import Step
from lb_probe.ports import Refused

RUN = Run(trigger="manual", by="uid 0", source="a", target="b", started_wall=1000.0)
FULL = replace(
    RUN,
    slot_wall=900,
    reason="why",
    completed_wall=1060.0,
    result="success",
    initial=True,
    seconds=60.0,
    copied_bytes=7,
    changed=0,
    version_here="1",
    version_there="1",
    counts={"source": 3, "here": 3},
    steps=(Step("copy", 1000.0, "done", 59.0, ""),),
    gates=("x",),
    overridden=("y",),
    warnings=("z",),
    output=("last",),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "b.sync.db"


def test_what_was_recorded_is_read_back_whole(path):
    """R85."""
    with History(path) as history:
        began = history.begin(RUN)
        assert history.runs() == [began]
        history.save(replace(FULL, id=began.id))
    with History(path) as history:
        assert history.runs() == [replace(FULL, id=1)]
        assert history.cut_off is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_run_that_a_crash_cut_off_is_interrupted_at_the_next_start(path):
    with History(path) as history:
        history.begin(replace(FULL, result=""))
        history.begin(RUN)
    with History(path) as history:
        assert history.cut_off.id == 1
        assert [run.result for run in history.runs()] == ["interrupted", "interrupted"]
    with History(path) as history:
        assert history.cut_off is None


def test_runs_are_read_in_pages_and_by_time(path):
    with History(path) as history:
        for number in range(10):
            history.begin(replace(RUN, started_wall=float(number), result="failed"))
        assert [run.id for run in history.runs(limit=3)] == [10, 9, 8]
        assert [run.id for run in history.runs(limit=3, before=8)] == [7, 6, 5]
        assert [run.id for run in history.runs(since_wall=8.0)] == [10, 9]
        assert history.newest(result="success") is None
        assert history.newest(result="failed").id == 10


def test_a_year_is_kept_and_a_clock_that_jumps_wipes_nothing_out(path, monkeypatch):
    """R85: at least a year; and the newest whatever their age."""
    monkeypatch.setattr(record, "KEEP_RUNS", 5)
    monkeypatch.setattr(record, "PRUNE_EVERY", 1)
    day = 86_400.0
    with History(path) as history:
        for number in range(20):
            history.begin(replace(RUN, started_wall=number * 50 * day, result="failed"))
        kept = [run.started_wall / day for run in history.runs()]
        assert kept == [950, 900, 850, 800, 750, 700, 650, 600, 550]
        history.begin(replace(RUN, started_wall=1e9 * day, result="failed"))
        assert len(history.runs()) == 5


def test_small_values_are_kept_together_or_not_at_all(path):
    with History(path) as history:
        history.keep(handled=5, skips=0)
        history._db.execute("CREATE TRIGGER no BEFORE INSERT ON meta WHEN NEW.key = 'skips'"
                            " BEGIN SELECT RAISE(ABORT, 'no'); END")  # fmt: skip
        with pytest.raises(HistoryError):
            history.keep(handled=6, skips=1)
        assert (history.value("handled"), history.value("skips")) == (5, 0)
        assert history.value("none") is None


def test_keys_of_a_newer_release_are_left_alone(path):
    with History(path) as history:
        began = history.begin(RUN)
        document = json.loads(history._db.execute("SELECT document FROM runs").fetchone()[0])
        history._db.execute("UPDATE runs SET document = ?", (json.dumps(document | {"new": 1}),))
        assert history.runs() == [began]


DAMAGE = {
    "no database": lambda path: path.write_bytes(b"not a database at all" * 100),
    "another release": lambda path: _sql(path, "PRAGMA user_version = 99"),
    "a page of noise": lambda path: _noise(path),
    "a folder": lambda path: path.mkdir(),
    "a link": lambda path: path.symlink_to(path.with_name("elsewhere")),
}


def _sql(path, text):
    with History(path):
        pass
    db = sqlite3.connect(path)
    db.execute(text)
    db.commit()
    db.close()


def _noise(path):
    with History(path) as history:
        for _ in range(200):
            history.begin(FULL)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(8192))


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_is(path, kind):
    DAMAGE[kind](path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(HistoryError, match="wanted a history of syncs"):
        History(path)
    assert before is None or path.read_bytes() == before


def counted(method, calls):
    async def call(self, *given):
        calls.append(given)
        return await method(self, *given)

    return call


async def test_a_history_that_cannot_be_used_stops_syncs_and_nothing_else(
    standby, tmp_path, monkeypatch
):
    """Damage is an alarm; moved away, the next look begins anew, and by hand first (R87)."""

    monkeypatch.setattr(part, "REOPEN_S", 0.05)
    (tmp_path / "b.sync.db").write_bytes(b"damage" * 1000)
    async with standby(waits=False) as b:
        await until(lambda: "sync-unrecordable" in b.part.status()["alarms"])
        with pytest.raises(Refused) as refused:
            await b.sync()
        assert "on-record" in [g.id for g in refused.value.gates if not g.passed]
        assert b.node.pages is not None
        opens = []
        monkeypatch.setattr(Book, "open", counted(Book.open, opens))
        await until(lambda: len(opens) >= 3)
        assert len(b.named("agent.sync-not-recorded")) == 1  # the same again is told once
        (tmp_path / "b.sync.db").unlink()
        await until(lambda: b.part.status()["alarms"] == {})
        assert (await b.sync())["id"] == 1


async def test_a_slot_that_cannot_be_put_on_record_is_told_once(standby, monkeypatch):
    """The schedule is looked at each half minute, and a full disk says the same each time."""

    async def handled(book, handled_wall, skips):
        raise HistoryError("found a full disk")

    async with standby() as b:
        monkeypatch.setattr(Book, "handled", handled)
        for _ in range(3):
            await b.part._timetable._handled(1, 0)
        assert b.named("agent.sync-not-recorded") == [{"node": "b", "detail": "found a full disk"}]


async def test_a_disk_that_is_full_keeps_the_next_sync_back_until_it_is_not(standby):
    """A sync that cannot be put on record is not begun; one that ended is recorded later."""
    async with standby() as b:
        await b.sync()
        db = b.part._book.history._db
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        (b.target / "data").unlink()
        lines = await b.ask("sync-now")
        for _ in range(200):  # what is free inside the file is used up first
            if "error" in lines[-1]:
                break
            (b.target / "data").unlink()
            lines = await b.ask("sync-now")
        assert "disk is full" in lines[-1]["detail"]
        with pytest.raises(Refused, match="on-record"):
            await b.sync()
        assert "sync-unrecordable" in b.part.status()["alarms"]
        db.execute("PRAGMA max_page_count = 1000000")
        await b.node.refresh()
        assert "sync-unrecordable" not in b.part.status()["alarms"]
        assert (await b.sync())["result"] == "success"
        assert {run["result"] for run in await b.runs()} <= {"success", "failed"}


async def test_a_book_of_another_kind_is_refused(path):
    with History(path) as history:
        history.keep(schedule={"by": "x"})
    with pytest.raises(HistoryError, match="another kind"):
        await Book(path).open()
