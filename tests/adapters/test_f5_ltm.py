"""A pool of BIG-IP LTM, moved and kept: one unit and a pair, against the emulator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import f5_bench as f5
import hypothesis
import pytest
from emulator import Condition, Emulator, faults
from hypothesis import strategies as st

from lb_probe.adapters import f5_ltm
from lb_probe.adapters.f5_gtm import members as gtm_members
from lb_probe.adapters.f5_ltm import F5Ltm, members, traps
from lb_probe.adapters.f5_ltm.monitors import names
from lb_probe.adapters.icontrol import adapter as base
from lb_probe.adapters.icontrol import follow_up, units
from lb_probe.adapters.icontrol.answers import entries, items_of, status_of, version_of
from lb_probe.clock import SystemClock
from lb_probe.core.model import Event, Seen
from lb_probe.ports import Closable, Paced, PublishError, Settling, Unreachable
from lb_probe.reconcile import Reconciler, Wanted

A, B = "epmm-a", "epmm-b"
TRANSACTION = "/mgmt/tm/transaction"
UP = {"state": "user-up", "session": "user-enabled"}
DOWN = {"state": "user-down", "session": "user-disabled"}

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that are minutes for a device are moments here."""
    monkeypatch.setattr(follow_up, "AGAIN_S", 0.05)
    monkeypatch.setattr(follow_up, "LONGEST_S", 0.2)
    monkeypatch.setattr(units, "SILENT_S", 0.2)
    monkeypatch.setattr(units, "SYNC_POLL_S", 0.02)
    monkeypatch.setattr(f5_ltm.adapter, "VERIFY_S", 0.3)
    monkeypatch.setattr(f5_ltm.adapter, "VERIFY_POLL_S", 0.02)


@pytest.fixture
async def single(tmp_path: Path) -> AsyncIterator[f5.Bench]:
    async with emulated(Emulator.single(), tmp_path) as bench:
        yield bench


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[f5.Bench]:
    async with emulated(Emulator.pair(), tmp_path) as bench:
        yield bench


@contextlib.asynccontextmanager
async def emulated(emulator: Emulator, folder: Path) -> AsyncIterator[f5.Bench]:
    async with emulator, f5.Bench(emulator, folder) as bench:
        emulator.configure(
            "POST",
            "ltm/monitor/https",
            {"name": "status", "send": "GET /status/status.html", "recv": "MOBILEIRON-STATUS: OK"},
        )
        emulator.add_pool(f5.POOL, *f5.MEMBERS, monitor="/Common/status")
        emulator.force_offline(f5.POOL, f5.MEMBERS[1])
        yield bench


def states(bench: f5.Bench, which: int = 0) -> dict[str, tuple[str, str]]:
    unit = bench.emulator.unit(which)
    found = {node: unit.member(f5.POOL, member) for node, member in f5.NODES.items()}
    return {node: (member["state"], member["session"]) for node, member in found.items()}


def has(bench: f5.Bench, node: str, which: int = 0) -> bool:
    """Tell whether this unit sends traffic to this node alone."""
    other = {A: B, B: A}[node]
    found = states(bench, which)
    return found[other] == ("user-down", "user-disabled") and found[node][0] != "user-down"


def writes(bench: f5.Bench, which: int = 0) -> list[tuple[str, str, Any]]:
    """Return what was written below /mgmt/tm."""
    return [
        (seen.method, seen.raw_path.removeprefix("/mgmt/tm/"), seen.body)
        for seen in bench.emulator.unit(which).log
        if seen.method != "GET" and seen.raw_path.startswith("/mgmt/tm/")
    ]


def by_hand(bench: f5.Bench, node: str, body: dict[str, str], which: int = 0) -> None:
    path = f"ltm/pool/{f5.segment(f5.POOL)}/members/{f5.segment(f5.NODES[node])}"
    bench.emulator.unit(which).change("PATCH", path, body)


# ------------------------------------------------------------------ a move
async def test_a_move_is_two_changes_in_one_transaction_and_nothing_else(single: f5.Bench) -> None:
    """Facts 4: what comes in first, forced offline and not disabled, the commit without header."""
    edge = single.ltm()
    await edge.publish(B)
    start, enable, disable, commit = writes(single)
    assert start[:2] == ("POST", "transaction")
    assert enable == ("PATCH", "ltm/pool/~Common~epmm/members/~Common~192.0.2.11:443", UP)
    assert disable == ("PATCH", "ltm/pool/~Common~epmm/members/~Common~192.0.2.10:443", DOWN)
    assert (commit[0], commit[2]) == ("PATCH", {"state": "VALIDATING"})
    assert states(single) == {A: ("user-down", "user-disabled"), B: ("checking", "monitor-enabled")}


async def test_a_move_of_three_takes_two_out(single: f5.Bench) -> None:
    single.emulator.configure("POST", "ltm/pool/~Common~epmm/members", {"name": "192.0.2.12:443"})
    nodes = f5.NODES | {"dr": "/Common/192.0.2.12:443"}
    edge = single.ltm(nodes)
    assert (await edge.read_back()).chosen == (A, "dr")
    await edge.publish("dr")
    assert (await edge.read_back()).chosen == ("dr",)


async def test_it_is_what_the_reconciler_can_use_of_it(single: f5.Bench) -> None:
    edge = single.ltm()
    assert isinstance(edge, Closable)
    assert isinstance(edge, Settling)
    assert isinstance(edge, Paced)
    assert edge.poll_s < 1.0  # drift is repaired within a second


async def test_its_commands_do_by_hand_what_it_does(pair: f5.Bench) -> None:
    assert pair.ltm().commands(B) == [
        "tmsh modify ltm pool /Common/epmm members modify {"
        " /Common/192.0.2.11:443 { state user-up session user-enabled }"
        " /Common/192.0.2.10:443 { state user-down session user-disabled } }",
        "tmsh save sys config",
        "tmsh run cm config-sync to-group dg1",
    ]


async def test_nobody_may_have_the_traffic_while_a_switchover_drains(single: f5.Bench) -> None:
    edge, stats = single.ltm(), single.emulator.unit(0).stats
    stats.connections["192.0.2.10:443"] = stats.connections["/Common/192.0.2.10:443"] = 3
    await edge.publish_nobody()
    assert (await edge.read_back()).chosen == ()
    assert await edge.in_flight() == {A: 3, B: 0}
    await edge.publish(B)
    assert (await edge.read_back()).node == B


# ------------------------------------------------------------------ an answer that was lost
@pytest.mark.parametrize(
    "fault", [faults.cut_after(), faults.async_timeout(is_applied=True), faults.html_200()]
)
async def test_a_commit_whose_answer_was_lost_is_found_out_by_reading(
    single: f5.Bench, fault: faults.Fault
) -> None:
    edge = single.ltm()
    single.emulator.faults.next(fault, method="PATCH", path="/transaction/")
    with contextlib.suppress(PublishError):  # a unit that says it is busy is read a little later
        await edge.publish(B)
    await asyncio.sleep(0.3)
    assert (await edge.read_back()).node == B
    commits = [w for w in writes(single) if w[2] == {"state": "VALIDATING"}]
    assert len(commits) == 1


async def test_a_lost_answer_that_is_resolved_is_no_failure(single: f5.Bench) -> None:
    edge = single.ltm()
    single.emulator.faults.next(faults.cut_after(), method="PATCH", path="/transaction/")
    await edge.publish(B)
    assert has(single, B)


async def test_a_commit_that_was_not_carried_out_says_so(single: f5.Bench) -> None:
    edge = single.ltm()
    single.emulator.faults.next(faults.cut_before(), method="PATCH", path="/transaction/")
    with pytest.raises(PublishError, match="read after that: epmm-a, not carried out") as caught:
        await edge.publish(B)
    assert not isinstance(caught.value, Unreachable)
    assert has(single, A)
    await until(lambda: _last(writes(single)) == ("DELETE", "transaction"))


def _last(found: list[tuple[str, str, Any]]) -> tuple[str, str]:
    return found[-1][0], found[-1][1].partition("/")[0]


@pytest.mark.parametrize("skip", [0, 1])
async def test_a_change_that_cannot_be_queued_leaves_all_as_it_was(
    single: f5.Bench, skip: int
) -> None:
    edge = single.ltm()
    single.emulator.faults.next(faults.busy(), method="PATCH", path="/members/", skip=skip)
    with pytest.raises(Unreachable, match="asynchronous task"):
        await edge.publish(B)
    assert has(single, A)
    assert [w for w in writes(single) if w[2] == {"state": "VALIDATING"}] == []


async def test_a_commit_that_is_refused_says_why_and_changes_nothing(single: f5.Bench) -> None:
    edge = single.ltm()
    device = single.emulator.unit(0)
    single.emulator.faults.next(faults.slow(0.2), method="PATCH", path="/members/", skip=1)
    moving = asyncio.ensure_future(edge.publish(B))
    await until(lambda: len(writes(single)) >= 2)
    device.change("DELETE", "ltm/pool/~Common~epmm/members/~Common~192.0.2.10:443")
    with pytest.raises(PublishError, match=r"bigip: .*transaction failed"):
        await moving
    assert device.member(f5.POOL, f5.NODES[B])["state"] == "user-down"


# ------------------------------------------------------------------ units
async def test_the_active_unit_is_written_to_wherever_it_is(pair: f5.Bench) -> None:
    pair.emulator.unit(0).fail_over()
    edge = pair.ltm()
    await edge.publish(B)
    assert has(pair, B, 1)
    assert has(pair, A, 0)
    assert writes(pair, 0) == []


@pytest.mark.parametrize("condition", [Condition.HUNG, Condition.OFF, Condition.RESTARTING])
@pytest.mark.parametrize("which", [0, 1])
async def test_a_unit_that_is_away_delays_nothing(
    pair: f5.Bench, which: int, condition: Condition
) -> None:
    pair.emulator.unit(which).fail_over() if pair.emulator.unit(which).is_active else None
    pair.emulator.unit(which).condition = condition
    edge = pair.ltm()
    for node in (B, A, B):
        async with asyncio.timeout(1.0):  # and not the 2 s of a request
            await edge.publish(node)
            assert (await edge.read_back()).node == node


async def test_an_active_unit_that_hangs_is_left_for_the_new_one_at_once(pair: f5.Bench) -> None:
    edge = pair.ltm(timeout_s=8.0)
    assert (await edge.read_back()).instance.endswith("#0")
    pair.emulator.unit(0).fail_over()
    pair.emulator.unit(0).condition = Condition.HUNG
    async with asyncio.timeout(6.0):  # sooner than the one that hangs
        seen = await edge.read_back()
    assert seen.instance.startswith(pair.emulator.urls[1].removeprefix("https://"))


async def test_what_a_unit_was_asked_before_it_became_active_is_asked_again(pair: f5.Bench) -> None:
    """A reading that had its answer leaves the other question open, and the next takes it up."""
    edge = pair.ltm(timeout_s=8.0)
    old, new = pair.emulator.units
    new.faults.next(faults.slow(1.0), method="GET", path="/failover-status")
    await edge.read_back()
    async with asyncio.timeout(5.0):
        while not any(one.fault == "slow" for one in new.log):  # noqa: ASYNC110 - a list
            await asyncio.sleep(0.01)
    old.fail_over()
    old.condition = Condition.HUNG
    async with asyncio.timeout(6.0):  # sooner than the one that hangs
        seen = await edge.read_back()
    assert seen.instance.startswith(pair.emulator.urls[1].removeprefix("https://"))


async def test_no_active_unit_is_told_with_what_each_says(pair: f5.Bench) -> None:
    for unit in pair.emulator.units:
        unit.is_active = False
    with pytest.raises(PublishError, match=r"bigip: no unit is active: .*says STANDBY.*STANDBY"):
        await pair.ltm().read_back()


async def test_two_active_units_are_told_and_the_one_from_before_is_kept(pair: f5.Bench) -> None:
    edge = pair.ltm()
    pair.emulator.unit(1).is_active = True
    for _ in range(3):
        seen = await edge.read_back()
        assert seen.instance.startswith(pair.emulator.urls[0].removeprefix("https://"))
    assert "all say ACTIVE" in seen.detail


async def test_pools_of_one_device_share_a_login_and_who_is_active(pair: f5.Bench) -> None:
    """443 and 9997 of one service: two entries for one device."""
    pair.emulator.add_pool("/Common/second", "192.0.2.10:9997", "192.0.2.11:9997")
    units = pair.units("dg1")
    second = {node: member.replace(":443", ":9997") for node, member in f5.NODES.items()}
    edges = [F5Ltm("one", units, f5.POOL, f5.NODES), F5Ltm("two", units, "/Common/second", second)]
    await asyncio.gather(*(edge.publish(B) for edge in edges))
    await asyncio.gather(*(edge.settle_now() for edge in edges))
    assert [unit.logins.made for unit in pair.emulator.units] == [1, 1]
    assert pair.emulator.shared.syncs == 1


# ------------------------------------------------------------------ after a move
class Kept:
    """An adapter under a reconciler."""

    def __init__(self, edge: Any, may_write: bool = True) -> None:
        self.edge, self.events = edge, list[Event]()
        self.confirmed = asyncio.Event()
        self._may_write, self._generation = may_write, 0
        self.reconciler = Reconciler(
            "epmm",
            edge,
            SystemClock(),
            self,
            confirm=self._confirm,
            confirmed=0,
            changed=lambda: None,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    async def _confirm(self, adapter: str, generation: int) -> bool:
        self.confirmed.set()
        return True

    def want(self, node: str, *, may_write: bool = True) -> None:
        self.confirmed.clear()
        self._generation += 1
        self.reconciler.want(Wanted(node, self._generation, may_write=may_write))

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def told(self, name: str) -> list[str]:
        return [str(e.fields.get("detail")) for e in self.events if e.name == name]


@contextlib.asynccontextmanager
async def kept(edge: Any) -> AsyncIterator[Kept]:
    made = Kept(edge)
    edge.poll_s = 0.05
    running = asyncio.ensure_future(made.reconciler.run())
    try:
        async with asyncio.timeout(20):
            yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_move_is_saved_synced_verified_and_survives_the_restart_of_both(
    pair: f5.Bench,
) -> None:
    units = pair.emulator.units
    async with kept(pair.ltm()) as case:
        case.want(B)
        await case.confirmed.wait()
        await until(lambda: has(pair, B, 1) and all(unit.saves for unit in units))
        assert pair.emulator.shared.syncs == 1
        await until(lambda: not case.reconciler.detail)
        for times, node in enumerate((A, B), 2):  # and each one after it as well
            case.want(node)
            await until(lambda n=node, t=times: has(pair, n, 1) and units[1].saves == t)
            await until(lambda: not case.reconciler.detail)
    for unit in units:
        unit.reboot()
    assert has(pair, B, 0)
    assert has(pair, B, 1)
    assert "publish.unsettled" not in case.names()


FAILS = {
    "the save": ("POST", "/sys/config", 0),
    "config-sync": ("POST", "/tm/cm", 0),
    "the peer's save": ("POST", "/sys/config", 1),
}


@pytest.mark.parametrize("what", FAILS)
async def test_a_step_that_fails_is_shown_and_repaired_and_the_move_stands(
    pair: f5.Bench, what: str
) -> None:
    method, path, which = FAILS[what]
    fault = faults.lost_object("config")
    pair.emulator.unit(which).faults.next(fault, method=method, path=path, times=2)
    async with kept(pair.ltm()) as case:
        case.want(B)
        await case.confirmed.wait()
        await until(lambda: "publish.settled" in case.names())
        assert case.told("publish.unsettled")[0].startswith(f"{what} failed: ")
        assert "01020036" in case.told("publish.unsettled")[0]
        assert "publish.failed" not in case.names()
        assert case.reconciler.seen is not None
        await until(lambda: not case.reconciler.detail)
    assert has(pair, B, 1)
    assert all(unit.saves for unit in pair.emulator.units)


async def test_an_account_that_may_only_toggle_moves_and_says_what_it_may_not(
    pair: f5.Bench,
) -> None:
    pair.password_file.write_text("operator-secret")
    edge = pair.ltm(username="operator")
    await edge.publish(B)
    with pytest.raises(PublishError, match=r"the save failed: .* operator may not do this"):
        await edge.settle_now()
    seen = await edge.read_back()
    assert seen.node == B
    assert "operator may not do this" in seen.unsettled


async def test_a_sync_that_fails_silently_is_noticed_and_repeated(pair: f5.Bench) -> None:
    pair.emulator.shared.loses_syncs = 1
    pair.emulator.shared._pending = False
    async with kept(pair.ltm()) as case:
        case.want(B)
        await until(lambda: has(pair, B, 1))


async def test_a_peer_that_is_away_is_told_and_looked_for_until_it_is_back(pair: f5.Bench) -> None:
    peer = pair.emulator.unit(1)
    peer.condition = Condition.OFF
    async with kept(pair.ltm()) as case:
        case.want(B)
        await case.confirmed.wait()
        await until(lambda: "publish.unsettled" in case.names())
        assert case.reconciler.is_in_sync
        peer.condition = Condition.RUNNING
        await until(lambda: has(pair, B, 1) and peer.saves)
        await until(lambda: "publish.settled" in case.names())


async def test_what_nobody_may_write_is_not_saved_or_synced_either(pair: f5.Bench) -> None:
    async with kept(pair.ltm()) as case:
        case.want(A, may_write=False)
        await until(lambda: case.reconciler.seen is not None)
        await asyncio.sleep(0.2)
        assert writes(pair) == writes(pair, 1) == []
        case.want(A)
        await until(lambda: all(unit.saves for unit in pair.emulator.units))
        assert pair.emulator.shared.syncs == 0  # the peer has it: a push would overwrite others


async def test_what_a_dead_prober_left_unsaved_is_saved_by_the_next(single: f5.Bench) -> None:
    edge = single.ltm()
    await edge.publish(B)  # and killed
    assert single.emulator.unit(0).saves == 0
    async with kept(single.ltm()) as case:
        case.want(B)
        await until(lambda: single.emulator.unit(0).saves == 1)


async def test_a_peer_that_is_changed_by_hand_is_told_and_left_alone(
    pair: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f5_ltm.adapter, "LOOK_S", 0.05)
    async with kept(pair.ltm()) as case:
        case.want(A)
        await until(lambda: all(unit.saves for unit in pair.emulator.units))
        by_hand(pair, A, DOWN, 1)
        by_hand(pair, B, UP, 1)
        await until(lambda: "republish brings it over" in case.reconciler.detail)
        assert "has epmm-b" in case.reconciler.detail
        assert pair.emulator.shared.syncs == 0
        case.reconciler.take_back()  # republish
        await until(lambda: has(pair, A, 1))


async def test_units_that_sync_by_themselves_are_only_looked_at(pair: f5.Bench) -> None:
    edge = pair.ltm(device_group="")
    await edge.publish(B)
    with pytest.raises(PublishError, match=r"the look at the peer failed: .* has epmm-a, .*epmm-b"):
        await edge.settle_now()
    assert pair.emulator.shared.syncs == 0


# ------------------------------------------------------------------ drift, restarts
async def test_drift_is_repaired_within_a_second(single: f5.Bench) -> None:
    edge = single.ltm()
    made = Kept(edge)  # at its own pace
    running = asyncio.ensure_future(made.reconciler.run())
    try:
        made.want(A)
        await made.confirmed.wait()
        by_hand(single, A, DOWN)
        by_hand(single, B, UP)
        async with asyncio.timeout(1.2):
            await until(lambda: has(single, A))
    finally:
        running.cancel()


async def test_a_unit_that_fails_over_amid_a_move_ends_with_what_was_wanted(pair: f5.Bench) -> None:
    """Unsynced: the new active unit has the old node, and is written to within a second."""
    pair.emulator.shared.is_linked = False
    async with kept(pair.ltm()) as case:
        for node in (A, B, A, B):
            case.want(node)
            active = pair.emulator.active
            active.faults.next(faults.slow(0.05), method="PATCH", path="/transaction/")
            await until(lambda: any(w[0] == "POST" for w in writes(pair)))
            active.fail_over()
            await until(
                lambda n=node: has(pair, n, pair.emulator.units.index(pair.emulator.active))
            )
        assert "publish.foreign-writer" not in case.names()


async def test_a_restart_that_loses_the_move_is_repaired_each_time(single: f5.Bench) -> None:
    """It is no foreign hand, however often it happens."""
    device = single.emulator.unit(0)
    single.emulator.unit(0).faults.next(
        faults.lost_object(), method="POST", path="/sys/config", times=1000
    )
    async with kept(single.ltm()) as case:
        case.want(B)
        for times in range(5):
            await until(lambda n=times: case.reconciler.restarts == n and has(single, B))
            await until(lambda: case.reconciler.is_in_sync)
            device.reboot()
            assert has(single, A)
        await until(lambda: case.reconciler.restarts == 5 and has(single, B))
        assert "publish.foreign-writer" not in case.names()


# ------------------------------------------------------------------ what is read
async def test_disabled_and_not_offline_still_gets_traffic(single: f5.Bench) -> None:
    """Clients with a persistence record come as new ones: it counts as chosen."""
    edge = single.ltm()
    await edge.publish(B)
    by_hand(single, A, {"state": "user-up", "session": "user-disabled"})
    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (None, (A, B))
    assert "disabled and not offline" in seen.detail


async def test_a_member_that_no_node_has_is_told(single: f5.Bench) -> None:
    single.emulator.configure("POST", "ltm/pool/~Common~epmm/members", {"name": "192.0.2.99:443"})
    seen = await single.ltm().read_back()
    assert seen.node == A
    assert "/Common/192.0.2.99:443 is enabled and in no node of probes.yaml" in seen.detail


async def test_usable_is_what_its_own_monitor_says(single: f5.Bench) -> None:
    edge, emulator = single.ltm(), single.emulator
    await edge.publish(B)
    seen = await edge.read_back()
    assert (seen.usable, seen.version) == (None, "17.1.2.1")
    assert "has not answered yet" in seen.detail
    emulator.clock.advance(1)
    assert (await edge.read_back()).usable is True
    emulator.world.set("192.0.2.11:443", False)
    emulator.clock.advance(1)
    seen = await edge.read_back()
    assert (seen.node, seen.usable) == (B, False)
    assert "holds /Common/192.0.2.11:443 down" in seen.detail


async def test_a_node_that_is_disabled_below_its_member_is_told(
    single: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The member says enabled and up; only the statistics know that its node is disabled."""
    monkeypatch.setattr(f5_ltm.adapter, "COUNT_S", 0.01)
    single.emulator.configure(
        "PATCH", "ltm/node/~Common~192.0.2.10", {"session": "user-disabled", "state": "user-up"}
    )
    edge = single.ltm()
    seen = await read_until(edge, lambda seen: seen.usable is False)
    assert "its node (ltm node) is disabled" in seen.detail


@pytest.mark.parametrize("is_strict", [False, True])
async def test_republish_releases_what_manual_resume_holds_down(
    single: f5.Bench, is_strict: bool
) -> None:
    """Forced offline first and then enabled: right for either guess at what releases the latch."""
    emulator, edge = single.emulator, single.ltm()
    emulator.unit(0).health.is_latch_strict = is_strict
    emulator.configure("PATCH", "ltm/monitor/https/~Common~status", {"manualResume": "enabled"})
    emulator.world.set("192.0.2.10:443", False)
    emulator.clock.advance(1)
    assert (await edge.read_back()).usable is False
    emulator.world.set("192.0.2.10:443", True)
    emulator.clock.advance(1)
    assert (await edge.read_back()).usable is False
    await edge.publish(A)
    emulator.clock.advance(1)
    seen = await edge.read_back()
    assert (seen.node, seen.usable) == (A, True)


async def test_a_pool_with_priority_groups_is_refused_from_the_first_reading_on(
    single: f5.Bench,
) -> None:
    """It would move traffic back by itself (guide: never resume automatically)."""
    single.emulator.configure("PATCH", "ltm/pool/~Common~epmm", {"minActiveMembers": 1})
    edge = single.ltm()
    assert "minActiveMembers is 1" in (await edge.read_back()).detail
    with pytest.raises(PublishError, match="set it to 0"):
        await edge.publish(B)
    assert writes(single) == []
    assert "minActiveMembers is 1" in " ".join(await edge.examine())


# ------------------------------------------------------------------ what is missing
async def test_a_pool_or_member_that_is_missing_is_believed_the_second_time(
    single: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MISSING_S", 0.15)
    other = dict(f5.NODES) | {B: "/Common/192.0.2.77:443"}
    for edge, text in (
        (single.ltm(pool="/Common/none"), "Pool .*/Common/none.* was not found"),
        (single.ltm(other), "has no member /Common/192.0.2.77:443; it has /Common/192.0.2.10:443"),
    ):
        with pytest.raises(Unreachable, match=f"{text}.*believed when it is said again"):
            await edge.read_back()
        await asyncio.sleep(0.2)
        with pytest.raises(PublishError, match=f"{text}.*correct `pool` or `nodes`") as caught:
            await edge.read_back()
        assert not isinstance(caught.value, Unreachable)
        assert re_examined(await edge.examine(), text)


def re_examined(told: list[str], text: str) -> bool:
    import re

    return len(told) == 1 and re.search(text, told[0]) is not None


async def test_a_pool_that_a_starting_unit_does_not_know_is_not_believed_missing(
    single: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MISSING_S", 0.05)
    edge, device = single.ltm(), single.emulator.unit(0)
    device.condition = Condition.UNLICENSED  # and so not ready
    device.faults.next(faults.lost_object(), path="/ltm/pool/", times=1000)
    for _ in range(4):
        with pytest.raises(Unreachable, match="believed when"):
            await edge.read_back()
        await asyncio.sleep(0.03)
    device.condition = Condition.RUNNING
    with pytest.raises(PublishError, match="correct `pool`"):
        await edge.read_back()
    device.faults.clear()
    assert (await edge.read_back()).node == A


async def test_a_unit_that_has_just_started_is_no_refusal(single: f5.Bench) -> None:
    single.emulator.unit(0).condition = Condition.MCPD_STARTING
    with pytest.raises(Unreachable, match="says nothing"):
        await single.ltm().read_back()


async def test_a_whole_restart_of_mcpd_amid_a_move_ends_with_what_was_wanted(
    single: f5.Bench,
) -> None:
    async with kept(single.ltm()) as case:
        case.want(B)
        await case.confirmed.wait()
        case.want(A)
        single.emulator.unit(0).restart_mcpd()
        await case.confirmed.wait()
        await until(lambda: has(single, A))
        await until(lambda: single.emulator.unit(0).condition is Condition.RUNNING)


# ------------------------------------------------------------------ monitors
STATUS, HASTATUS = "GET /status/status.html HTTP/1.1\\r\\n\\r\\n", "GET /hastatus.html\\r\\n"


@pytest.mark.parametrize(
    ("send", "recv", "told"),
    [
        (STATUS, "MOBILEIRON-STATUS: OK", ""),
        (STATUS, "200 OK", ""),
        (STATUS, "MOBILEIRON-STATUS", "matches an ERROR page as well"),
        (STATUS, "STATUS: OK \\(Mode", "can never match"),
        (STATUS, "", "is empty: any answer counts as up"),
        (STATUS, "none", "is empty: any answer counts as up"),
        (HASTATUS, "MOBILEIRON-STATUS: OK", "a Standby and a Primary alike"),
        (HASTATUS, "MOBILEIRON-STATUS: OK (Mode: Standby)", "can never match; parentheses must be"),
        (HASTATUS, r"MOBILEIRON-STATUS: OK \(Mode: Standby\)", ""),
        (HASTATUS, r"Mode: Primary", ""),
        (HASTATUS, r"MOBILEIRON-STATUS: OK[[:space:]]\(Mode: Standby\)$", ""),
        (HASTATUS, "Mode: Active", "can never match"),
        (HASTATUS, "(((", ""),  # not judged: F5 took it, or will say so itself
        ("GET /", "x", ""),
    ],
)
def test_traps_of_a_monitor_are_told(send: str, recv: str, told: str) -> None:
    r"""Facts 7: `recv` is searched for, the first string begins the second, ( needs \(."""
    found = traps({"send": send, "recv": recv})
    assert len(found) == bool(told)
    assert told in " ".join(found)


def test_names_of_a_rule_are_found_however_it_is_worded() -> None:
    assert names("/Common/a and /Common/b ") == ["/Common/a", "/Common/b"]


async def test_a_trap_is_told_in_status_and_by_check(single: f5.Bench) -> None:
    single.emulator.configure(
        "POST", "ltm/monitor/http", {"name": "ha", "send": HASTATUS, "recv": "OK (Mode: Standby)"}
    )
    path = "ltm/pool/~Common~epmm/members/~Common~192.0.2.11:443"
    single.emulator.configure("PATCH", path, {"monitor": "/Common/ha"})
    edge = single.ltm()
    seen = await read_until(edge, lambda seen: "can never match" in seen.detail)
    assert "monitor /Common/ha: `recv`" in seen.detail
    assert len([text for text in await edge.examine() if "monitor /Common/ha" in text]) == 1


async def test_check_tells_of_manual_resume(single: f5.Bench) -> None:
    path = "ltm/monitor/https/~Common~status"
    single.emulator.configure("PATCH", path, {"manualResume": "enabled"})
    (said,) = await single.ltm().examine()
    assert said.startswith("monitor /Common/status has manual resume")
    assert (await single.ltm().read_back()).detail == ""


async def test_check_names_each_unit_that_cannot_be_asked(pair: f5.Bench) -> None:
    pair.emulator.unit(1).condition = Condition.OFF
    told = await pair.ltm().examine()
    assert pair.emulator.urls[1].removeprefix("https://") in told[0]
    pair.emulator.unit(1).condition = Condition.RUNNING
    assert await pair.ltm().examine() == []


# ------------------------------------------------------------------ nonsense
KEYS = st.sampled_from(
    ["items", "entries", "nestedStats", "status", "description", "value", "fullPath", "address",
     "state", "session", "enabled", "minActiveMembers", "monitor", "selfLink", "send", "recv",
     "ttl", "serverside.curConns", "/members/x"]
)  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.just("/status/status.html"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(found=st.dictionaries(KEYS, JSON, max_size=6))
def test_no_json_makes_reading_it_raise(found: dict[str, Any]) -> None:
    """Issue, bad input: whatever stands in an answer that is JSON and an object."""
    item = {"fullPath": f5.NODES[A], "address": "192.0.2.10"} | found
    for items in (items_of(found), [item]):
        ltm = members.PoolState.of(found, items, version_of(found))
        gtm = gtm_members.PoolState.of(found, items, found)
        nodes = {str(number): path for number, path in enumerate(ltm.members)}
        assert members.missing(ltm, nodes) == []
        assert members.read(ltm, nodes).chosen is not None
        nodes = {str(number): path for number, path in enumerate(gtm.enabled)}
        assert gtm_members.read(gtm, nodes).chosen is not None
    assert isinstance(status_of(found), str)
    assert isinstance(traps(found), list)
    assert all(members.Counted.of(values).connections is not None for _, values in entries(found))


async def test_a_monitors_own_word_is_no_administrators(single: f5.Bench) -> None:
    """`recv-disable`: enabled by us, held down by its monitor; no drift."""
    state = members.PoolState(
        {
            f5.NODES[A]: {"state": "up", "session": "monitor-disabled"},
            f5.NODES[B]: {"state": "user-down", "session": "user-disabled"},
        }
    )
    seen = members.read(state, f5.NODES)
    assert (seen.node, seen.usable) == (A, False)


# ------------------------------------------------------------------ random faults
@pytest.mark.parametrize("seed", range(2))
async def test_whatever_goes_wrong_it_ends_with_what_was_wanted_and_one_token(
    pair: f5.Bench, seed: int
) -> None:
    import random

    rng = random.Random(seed)
    every: list[Callable[[], faults.Fault]] = [
        faults.busy,
        faults.spurious_401,
        faults.mcpd_lost,
        faults.cut_before,
        faults.cut_after,
        faults.garbage,
        faults.truncated,
        faults.token_revoked,
        lambda: faults.async_timeout(is_applied=True),
        lambda: faults.slow(0.05),
    ]
    edge = pair.ltm()
    async with kept(edge) as case:
        for round_ in range(4):
            for unit in pair.emulator.units:
                for _ in range(2):
                    unit.faults.next(rng.choice(every)(), skip=rng.randrange(6))
            node = (B, A)[round_ % 2]
            case.want(node)
            if rng.random() < 0.3:
                pair.emulator.active.fail_over()
            await case.confirmed.wait()
            await until(
                lambda n=node: has(pair, n, pair.emulator.units.index(pair.emulator.active))
            )
        for unit in pair.emulator.units:
            unit.faults.clear()
        await until(lambda: has(pair, A, 0) and has(pair, A, 1))
        await until(lambda: all(len(unit.logins.tokens) == 1 for unit in pair.emulator.units))


async def read_until(edge: F5Ltm, is_true: Callable[[Seen], bool]) -> Seen:
    async with asyncio.timeout(10):
        while not is_true(seen := await edge.read_back()):  # noqa: ASYNC110 - it is read
            await asyncio.sleep(0.02)
    return seen


async def until(is_true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - the emulator's own state
            await asyncio.sleep(0.01)
