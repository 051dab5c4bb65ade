"""A pool of BIG-IP DNS on one unit and on a sync group, against the emulator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import f5_bench as f5
import pytest
from emulator import Condition, Emulator, faults

from lb_probe.adapters.f5_gtm import F5Gtm, adapter
from lb_probe.adapters.icontrol import adapter as base
from lb_probe.ports import Closable, PublishError, Unreachable

A, B = "epmm-a", "epmm-b"
POOL = "/mgmt/tm/gtm/pool/a/~Common~epmm"


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[f5.Bench]:
    async with Emulator.pair() as emulator, f5.Bench(emulator, tmp_path) as bench:
        emulator.add_dns_pool(f5.POOL, "dc-a:vs1", "dc-b:vs1")
        disable(bench, "/Common/dc-b:vs1")
        yield bench


def path_of(member: str) -> str:
    return f"gtm/pool/a/~Common~epmm/members/{f5.segment(member)}"


def disable(bench: f5.Bench, member: str) -> None:
    bench.emulator.configure("PATCH", path_of(member), {"disabled": True})


def enabled(bench: f5.Bench, which: int) -> set[str]:
    unit = bench.emulator.unit(which)
    unit.settle()
    place = ("gtm", "pool", "a", f5.POOL, "members")
    return {
        at[-1]
        for at, values in unit.running.objects.items()
        if at[:5] == place and len(at) == 6 and values.get("enabled")
    }


def bodies(bench: f5.Bench, which: int = 0) -> list[Any]:
    log = bench.emulator.unit(which).log
    return [s.body for s in log if s.method == "PATCH" and "/members/" in s.raw_path]


# ------------------------------------------------------------------ a move
async def test_flags_are_written_as_the_device_takes_them(pair: f5.Bench) -> None:
    """Facts 3: a flag that is false counts as left out, so that none is ever sent."""
    await pair.gtm().publish(B)
    assert bodies(pair) == [{"enabled": True}, {"disabled": True}]
    assert enabled(pair, 0) == {"/Common/dc-b:vs1"}
    posts = [s.raw_path for s in pair.emulator.unit(0).log if s.method == "POST"]
    assert posts == ["/mgmt/shared/authn/login", "/mgmt/tm/transaction"]


async def test_members_with_slashes_are_found_and_moved(pair: f5.Bench) -> None:
    """Virtual servers that were discovered have names like /Common/vs_192.0.2.1-8000."""
    virtual = "/Common/vs_192.0.2.1-8000"
    pair.emulator.configure(
        "POST",
        "gtm/server/~Common~dc-a/virtual-servers",
        {"name": virtual, "destination": "192.0.2.1:8000"},
    )
    pair.emulator.configure("POST", "gtm/pool/a/~Common~epmm/members", {"name": f"dc-a:{virtual}"})
    disable(pair, "/Common/dc-a:vs1")
    edge = pair.gtm({A: f"/Common/dc-a:{virtual}", B: "/Common/dc-b:vs1"})
    assert (await edge.read_back()).node == A
    for node in (B, A):
        await edge.publish(node)
        assert (await edge.read_back()).node == node
    paths = [s.raw_path for s in pair.emulator.unit(0).log if s.method == "PATCH"]
    assert f"{POOL}/members/~Common~dc-a:~Common~vs_192.0.2.1-8000" in paths


async def test_its_commands_do_by_hand_what_it_does(pair: f5.Bench) -> None:
    assert pair.gtm().commands(B) == [
        "tmsh modify gtm pool a /Common/epmm members modify {"
        " /Common/dc-b:vs1 { enabled } /Common/dc-a:vs1 { disabled } }",
        "tmsh save sys config",
    ]


async def test_a_name_cannot_be_closed(pair: f5.Bench) -> None:
    assert not isinstance(pair.gtm(), Closable)


async def test_a_commit_whose_answer_was_lost_is_found_out_by_reading(pair: f5.Bench) -> None:
    edge = pair.gtm()
    pair.emulator.faults.next(faults.cut_after(), method="PATCH", path="/transaction/")
    await edge.publish(B)
    assert (await edge.read_back()).node == B
    pair.emulator.faults.next(faults.cut_before(), method="PATCH", path="/transaction/")
    with pytest.raises(PublishError, match="read after that: epmm-b, not carried out"):
        await edge.publish(A)


# ------------------------------------------------------------------ several units
async def test_one_unit_is_written_to_and_the_others_follow(pair: f5.Bench) -> None:
    edge = pair.gtm()
    await edge.publish(B)
    seen = await edge.read_back()
    assert seen.node == B  # at once
    assert "epmm-a: the others follow within 10s" in seen.detail
    await edge.settle_now()
    assert enabled(pair, 1) == {"/Common/dc-b:vs1"}
    assert all(unit.saves for unit in pair.emulator.units)
    assert bodies(pair, 1) == []
    assert (await edge.read_back()).detail == ""


async def test_a_unit_that_does_not_follow_is_no_agreement_and_is_written_to_itself(
    pair: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that answer differently: half of the clients go elsewhere."""
    monkeypatch.setattr(adapter, "LAG_S", 0.2)
    monkeypatch.setattr(adapter, "HAND_S", 0.05)
    pair.emulator.shared.is_linked = False
    edge = pair.gtm()
    await edge.publish(B)
    assert (await edge.read_back()).node == B
    await asyncio.sleep(0.25)
    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (None, (A, B))
    await edge.publish(B)
    assert (await edge.read_back()).node == B
    assert enabled(pair, 1) == {"/Common/dc-b:vs1"}


@pytest.mark.parametrize("which", [0, 1])
async def test_a_unit_that_hangs_delays_nothing_and_is_told(pair: f5.Bench, which: int) -> None:
    edge, host = pair.gtm(timeout_s=1.0), pair.emulator.urls[which].removeprefix("https://")
    await edge.read_back()
    pair.emulator.unit(which).condition = Condition.HUNG
    await edge.read_back()  # a moment's patience, the first time
    for node in (B, A):
        async with asyncio.timeout(0.4):
            await edge.publish(node)
            seen = await edge.read_back()
        assert seen.node == node
        assert f"{host}: no answer yet" in seen.detail
    pair.emulator.unit(which).condition = Condition.RUNNING
    async with asyncio.timeout(10):
        while "no answer" in (await edge.read_back()).detail:  # noqa: ASYNC110 - it is read
            await asyncio.sleep(0.05)


async def test_one_that_is_away_while_others_follow_is_told_as_not_settled(
    pair: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "LAG_S", 0.2)
    monkeypatch.setattr(adapter, "FOLLOW_POLL_S", 0.02)
    pair.emulator.unit(1).condition = Condition.OFF
    edge = pair.gtm()
    await edge.publish(B)
    with pytest.raises(PublishError, match="the look at the other units failed"):
        await edge.settle_now()
    seen = await edge.read_back()
    assert seen.node == B
    assert seen.unsettled.startswith("the look at the other units failed")


# ------------------------------------------------------------------ what is read
async def test_nodes_of_one_site_share_a_member(pair: f5.Bench) -> None:
    """R43: a global tier knows sites; which node of a site has the traffic is not its business."""
    edge = pair.gtm({A: "/Common/dc-a:vs1", B: "/Common/dc-a:vs1", "dr": "/Common/dc-b:vs1"})
    seen = await edge.read_back()
    assert (seen.node, seen.also) == (A, (B,))
    await edge.publish(B)
    assert (await edge.read_back()).told_for(B).node == B
    await edge.publish("dr")
    seen = await edge.read_back()
    assert (seen.node, seen.also) == ("dr", ())


async def test_manual_resume_a_long_ttl_and_strangers_are_told(pair: f5.Bench) -> None:
    pair.emulator.configure(
        "PATCH", "gtm/pool/a/~Common~epmm", {"manualResume": "enabled", "ttl": 300}
    )
    pair.emulator.add_dns_pool("/Common/other", "dc-c:vs1")
    pair.emulator.configure("POST", "gtm/pool/a/~Common~epmm/members", {"name": "dc-c:vs1"})
    detail = (await pair.gtm().read_back()).detail
    assert "manualResume is on" in detail
    assert "ttl is 300s" in detail
    assert "/Common/dc-c:vs1 is enabled and in no node of probes.yaml" in detail
    told = await pair.gtm().examine()
    assert all("manualResume is on" in text for text in told)
    assert len(told) == 2


async def test_usable_is_what_its_own_monitor_says_and_republish_releases_it(
    pair: f5.Bench,
) -> None:
    emulator, edge = pair.emulator, pair.gtm()
    for unit in emulator.units:
        unit.health.is_latch_strict = True  # an enable of what is enabled is none
    emulator.configure(
        "PATCH", "gtm/pool/a/~Common~epmm", {"manualResume": "enabled", "monitor": "/Common/https"}
    )
    emulator.clock.advance(1)
    assert (await edge.read_back()).usable is True
    emulator.world.set("dc-a:vs1", False)
    emulator.clock.advance(1)
    seen = await edge.read_back()
    assert (seen.node, seen.usable) == (A, False)
    assert "/Common/dc-a:vs1 is enabled and not answered with: " in seen.detail
    emulator.world.set("dc-a:vs1", True)
    emulator.clock.advance(1)
    assert (await edge.read_back()).usable is False  # latched
    await edge.publish(A)
    assert bodies(pair)[0] == {"disabled": True}
    emulator.clock.advance(1)
    await until(lambda: enabled(pair, 1) == {"/Common/dc-a:vs1"})
    assert (await edge.read_back()).usable is True


async def test_a_pool_or_member_that_is_missing_is_believed_the_second_time(
    pair: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MISSING_S", 0.1)
    other = {A: "/Common/dc-a:vs1", B: "/Common/dc-x:vs1"}
    for edge, text in (
        (pair.gtm(pool="/Common/none"), "not found"),
        (pair.gtm(other), "has no member /Common/dc-x:vs1"),
    ):
        with pytest.raises(Unreachable, match=text):
            await edge.read_back()
        await asyncio.sleep(0.15)
        with pytest.raises(PublishError, match="correct `pool` or `nodes`") as caught:
            await edge.read_back()
        assert not isinstance(caught.value, Unreachable)


async def test_a_device_without_the_module_says_so(pair: f5.Bench) -> None:
    pair.emulator.faults.next(faults.unregistered(), path="/tm/gtm/", times=100)
    with pytest.raises(Unreachable, match="the module is not provisioned"):
        await pair.gtm().read_back()


def test_no_node_is_no_adapter() -> None:
    with pytest.raises(ValueError, match="nodes is empty"):
        F5Gtm("gslb", object(), f5.POOL, {})  # type: ignore[arg-type]


async def until(is_true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        with contextlib.suppress(KeyError):
            while not is_true():  # noqa: ASYNC110 - the emulator's own state
                await asyncio.sleep(0.01)
