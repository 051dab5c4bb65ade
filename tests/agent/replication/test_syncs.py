"""One sync after the other: what is copied, what is refused, and what is on record."""

import asyncio
import os

import pytest
from sync_desk import until

from lb_probe.agent.control import Caller
from lb_probe.agent.state import Quarantine, Switch
from lb_probe.core.model import Mode, Role
from lb_probe.ports import Refused


async def test_a_sync_by_hand_copies_and_is_on_record(standby):
    """R84, R85, R86, R91."""
    script = 'echo "sync: step data"; cp "$SOURCE/data" "$TARGET/data"; echo "sync: bytes 6"; \
        echo "sync: changed 0"; echo "sync: complete"'
    async with standby(script) as b:
        lines = await b.ask("sync-now", reason="first copy", source="192.0.2.10")
        assert lines[0]["begins"]["completed"] is None
        assert {"line": "sync: step data"} in lines
        run = lines[-1]["run"]
        assert (b.target / "data").read_text() == "from a"
        assert [run[key] for key in ("id", "trigger", "by", "reason", "source", "target")] == [
            1, "manual", "uid 0", "first copy", "a", "b",
        ]  # fmt: skip
        assert (run["result"], run["bytes"], run["changed"], run["initial"]) == (
            "success", 6, 0, True,
        )  # fmt: skip
        assert run["versions"] == {"here": "1.0", "source": "1.0"}
        steps = [(step["name"], step["result"]) for step in run["steps"]]
        assert steps == [
            ("copy", "done"), ("copy: data", "done"), ("same version afterwards", "done"),
        ]  # fmt: skip
        assert run["completed"] >= run["started"]
        assert await b.runs() == [run]
        assert b.node.state.data.by_hand
        assert b.node.state.data.suspect == ""
        assert b.node.report().last_good_sync is not None
        assert (await b.sync())["initial"] is False


FAILURES = {
    "it exits with 3": ("echo half > $TARGET/data; exit 3", "exit status 3"),
    "it ends by a signal": ("kill -9 $$", "signal 9"),
    "it never says that it is complete": ("exit 0", "the copy may be half done"),
    "it says that it failed": ("echo 'sync: failed no space'; echo 'sync: complete'", "no space"),
    "it takes too long": ("echo begun; exec sleep 60", "did not end in time"),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_copy_that_did_not_end_well_makes_the_data_suspect(standby, kind):
    """R24: until a later one does."""
    script, says = FAILURES[kind]
    fixed = 'if [ -e "$TARGET/fixed" ]; then echo "sync: complete"; exit 0; fi; '
    async with standby(fixed + script, initial_timeout_s=0.4) as b:
        run = await b.sync()
        assert run["result"] == "failed"
        assert says in run["detail"]
        assert says in b.node.state.data.suspect
        assert b.node.report().data_suspect == b.node.state.data.suspect
        assert b.node.report().last_good_sync is None
        assert not b.node.state.data.by_hand
        assert {"data-suspect", "sync-failed"} <= b.part.status()["alarms"].keys()
        (b.target / "fixed").touch()
        assert (await b.sync())["result"] == "success"
        assert b.node.state.data.suspect == ""
        assert b.part.status()["alarms"] == {}


def alarms_told(b):
    """Which alarms began (+) and ended (-), in their order."""
    words = {"agent.sync-alarm": "+", "agent.sync-alarm-over": "-"}
    return [words[e.name] + e.fields["alarm"] for e in b.events if e.name in words]


async def test_data_is_not_called_good_because_another_copy_began(standby):
    """R24: it can be trusted again when a copy has ended well."""
    script = (
        'test -e "$TARGET/fixed" || exit 3;'
        ' while [ ! -e "$TARGET/go" ]; do sleep 0.01; done; echo "sync: complete"'
    )
    async with standby(script) as b:
        await b.sync()
        b.part.status()
        assert alarms_told(b) == ["+data-suspect", "+sync-failed"]
        (b.target / "fixed").touch()
        again = asyncio.ensure_future(b.sync())
        await b.busy()
        assert "data-suspect" in b.part.status()["alarms"]
        assert len(alarms_told(b)) == 2
        (b.target / "go").touch()
        assert (await again)["result"] == "success"
        await b.idle()
        b.part.status()
        assert alarms_told(b)[2:] == ["-data-suspect", "-sync-failed"]


async def test_an_alarm_ends_though_its_cause_went_while_the_agent_was_down(standby):
    """And one whose cause is not known at the moment does not."""
    async with standby("exit 3") as b:
        run = await b.sync()
        b.part.status()
        await b.part._book.keep_alarms()
        b.part._book.history.keep(acked=run["id"])
        b.part._book.close()
        assert {"data-suspect", "sync-failed"} <= b.part.status()["alarms"].keys()
        assert alarms_told(b) == ["+data-suspect", "+sync-failed"]
        await b.part._book.open()
    async with standby("exit 3") as b:
        await until(lambda: "-sync-failed" in alarms_told(b))
        b.part.status()
        assert alarms_told(b) == ["+data-suspect", "-sync-failed"]


async def test_one_that_cannot_start_leaves_the_data_as_it_was(standby, tmp_path):
    """Nothing was written: the copy here is as good as before."""
    async with standby(count_command=(str(tmp_path / "none"),)) as b:
        run = await b.sync()
        assert (run["result"], run["steps"][0]["name"]) == ("failed", "count at the source")
        assert b.node.state.data.suspect == ""


async def test_no_two_syncs_run_at_once(standby, tmp_path):
    """R18: the second one is refused by its gate."""
    script = f'while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo "sync: complete"'
    async with standby(script) as b:
        first = asyncio.ensure_future(b.sync())
        await b.busy()
        assert b.node.report().is_syncing
        await until(lambda: "sync 1 from a has not ended" in b.node.state.data.suspect)
        with pytest.raises(Refused) as refused:
            await b.sync()
        assert [g.id for g in refused.value.gates if not g.passed] == ["alone"]
        assert b.part.status()["running"]["completed"] is None
        (tmp_path / "go").touch()
        assert (await first)["result"] == "success"
        assert b.node.report().is_syncing is False


async def test_who_stops_watching_stops_nothing(standby, tmp_path):
    script = f'echo go; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo "sync: complete"'
    async with standby(script) as b:
        command = next(c for c in b.part.commands() if c.name == "sync-now")
        lines = command.stream(command.request.model_validate({}), Caller(0))
        assert "begins" in await anext(lines)
        await lines.aclose()
        (tmp_path / "go").touch()
        await b.idle()
        assert (await b.runs())[0]["result"] == "success"


async def test_a_primary_does_not_copy(standby):
    """R66, R71, R120."""
    async with standby(role=Role.PRIMARY) as b:
        with pytest.raises(Refused) as refused:
            await b.sync(override=("standby", "not-newer-here"))
        assert "failover mode secondary" in refused.value.paste
        assert not (b.target / "data").exists()


async def test_another_version_at_the_source_never_runs_the_command(standby):
    """R92."""
    async with standby() as b:
        b.peer.says(version="2.0")
        with pytest.raises(Refused, match="same-version"):
            await b.sync(override=("same-version",))
        assert not (b.target / "data").exists()


async def test_a_version_that_changed_meanwhile_fails_the_sync(standby, tmp_path):
    """R92."""
    script = f'touch {tmp_path}/copying; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; \
        echo "sync: complete"'
    async with standby(script) as b:
        first = asyncio.ensure_future(b.sync())
        await until((tmp_path / "copying").exists)
        b.version = "2.0"
        (tmp_path / "go").touch()
        run = await first
        assert run["result"] == "failed"
        assert "version-mismatch" in run["detail"]
        assert b.node.state.data.suspect


async def test_a_source_that_is_gone_afterwards_makes_the_copy_no_worse(standby, tmp_path):
    script = f'touch {tmp_path}/copying; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; \
        echo "sync: complete"'
    async with standby(script) as b:
        first = asyncio.ensure_future(b.sync())
        await until((tmp_path / "copying").exists)
        b.peer.said = None
        (tmp_path / "go").touch()
        run = await first
        assert (run["result"], len(run["warnings"])) == ("success", 1)


@pytest.mark.parametrize(("here", "result"), [(7, "success"), (6, "failed")])
async def test_counts_at_the_source_and_here_are_compared(standby, here, result):
    """R22."""
    count = f'test "$LB_PROBE_SYNC_COUNT" = source && echo 7 || echo {here}'
    async with standby(count_command=("/bin/sh", "-c", count)) as b:
        run = await b.sync()
        assert (run["result"], run["counts"]) == (result, {"source": 7, "here": here})
        assert bool(b.node.state.data.suspect) is (result == "failed")


@pytest.mark.parametrize("says", ["seven", "", "-1", "7 devices"])
async def test_a_count_that_is_no_number_fails_before_anything_is_copied(standby, says):
    async with standby(count_command=("/bin/echo", says)) as b:
        assert "wanted a whole number" in (await b.sync())["detail"]
        assert not (b.target / "data").exists()


async def test_a_node_that_becomes_primary_ends_the_sync_first(standby, tmp_path):
    """A sync must not go on writing to a node that serves."""
    script = f'echo $$ > {tmp_path}/pid; trap "" TERM; while :; do sleep 0.01; done'
    async with standby(script) as b:
        first = asyncio.ensure_future(b.sync())
        await until((tmp_path / "pid").exists)
        await b.node.change_mode(Mode.PRIMARY, cause="operator", by="uid 0", reason="")
        pid = int((tmp_path / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert (await first)["result"] == "interrupted"
        assert b.node.state.mode is Mode.PRIMARY


async def test_no_sync_begins_while_a_promotion_is_under_way(standby):
    async with standby() as b:
        await b.node.ready_for_primary()  # its command runs now; the mode is not saved yet
        with pytest.raises(Refused) as refused:
            await b.sync()
        assert "mode is being changed" in str([g.found for g in refused.value.gates])
        b.part._worker._barred_until = 0.0
        async with b.node.deciding:
            with pytest.raises(Refused):
                await b.sync()
        assert (await b.sync())["result"] == "success"


async def test_the_old_primary_is_copied_over_after_its_loss_is_told_and_salvaged(
    standby, tmp_path
):
    """R122, X12: B took over from an older copy; what A wrote since is saved first, then gone."""
    saved = tmp_path / "saved"
    salvage = ("/bin/sh", "-c", f'cp "$TARGET/data" {saved}')
    async with standby(role=Role.PRIMARY, salvage_command=salvage) as b:
        (b.target / "data").write_text("unsynced")
        now = b.clock.wall()
        await b.node.change_mode(Mode.STANDBY, cause="operator", by="uid 0", reason="")
        b.peer.says(data_reign=now + 5, data_until=now + 9, data_fork=(now - 100, now - 50))
        run = await b.sync()
        assert run["result"] == "success"
        assert "is lost by this sync" in run["warnings"][0]
        assert saved.read_text() == "unsynced"
        assert [step["name"] for step in run["steps"]][:2] == ["salvage", "copy"]
        assert b.node.state.data.reign == now + 5


async def test_without_a_salvage_command_a_loss_is_accepted_by_name(standby):
    """X12, R55: the ordinary way back after a failover."""
    async with standby(role=Role.PRIMARY) as b:
        now = b.clock.wall()
        await b.node.change_mode(Mode.STANDBY, cause="operator", by="uid 0", reason="")
        b.peer.says(data_reign=now + 5, data_until=now + 9, data_fork=(now - 100, now - 50))
        with pytest.raises(Refused) as refused:
            await b.sync()
        assert refused.value.paste.endswith("--override loss-accepted")
        assert (await b.sync(override=("loss-accepted",)))["result"] == "success"


async def test_newer_data_is_written_over_only_by_name(standby):
    """R122: and the record says who opened the gate, and why."""
    async with standby(role=Role.PRIMARY) as b:
        await b.node.change_mode(Mode.STANDBY, cause="operator", by="uid 0", reason="")
        with pytest.raises(Refused) as refused:
            await b.sync()
        assert refused.value.paste.endswith("--override not-newer-here")
        run = await b.sync(override=("not-newer-here",), reason="the pair was split")
        assert run["overridden"] == ["not-newer-here"]
        assert run["reason"] == "the pair was split"


async def test_making_the_node_with_the_newest_data_a_standby_asks_first(standby):
    """R121."""
    async with standby(role=Role.PRIMARY) as b:
        (guard,) = b.node.demote_guards
        assert not (await guard()).passed
        b.peer.said = None
        assert "connection refused" in (await guard()).found


# ------------------------------------------------------------------ what the state keeps
async def test_a_time_as_primary_asks_for_a_sync_by_hand_again(standby):
    """R87: what was good before says nothing of a pair whose roles have changed."""
    async with standby() as b:
        await b.sync()
        assert b.node.state.data.by_hand
        for mode in (Mode.PRIMARY, Mode.STANDBY):
            await b.node.change_mode(mode, cause="operator", by="uid 0", reason="")
        assert not b.node.state.data.by_hand
        assert (await b.sync(override=("not-newer-here", "loss-accepted")))["initial"]


@pytest.mark.parametrize("how", ["clients", "quarantine"])
async def test_who_is_turned_away_writes_nothing_that_could_be_lost(standby, how):
    """C1 of the runbook: quiesced first, the way back loses nothing."""
    async with standby(role=Role.PRIMARY) as b:
        quiesced = b.clock.wall()
        found = {
            "clients": {"clients": Switch(is_on=False, since_wall=quiesced)},
            "quarantine": {"quarantine": Quarantine(peer="a", reason="x", since_wall=quiesced)},
        }
        await b.node.save(lambda state: found[how])
        b.clock.offset_s = 500.0
        assert b.node.report().data_until == quiesced
        await b.node.change_mode(Mode.STANDBY, cause="operator", by="uid 0", reason="")
        assert b.node.state.data.until == quiesced


async def test_a_state_without_a_lineage_begins_it_with_the_mode(standby):
    """A Primary by its role, or by a release that kept none; a Standby knows of nothing."""
    async with standby(role=Role.PRIMARY) as b:
        assert b.node.report().data_reign == pytest.approx(b.node.state.since_wall)
    async with standby() as b:
        assert b.node.state.mode is Mode.PRIMARY  # the saved mode wins
