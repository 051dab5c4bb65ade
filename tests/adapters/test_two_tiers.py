"""A local tier under a global one, on one group: LTM and BIG-IP DNS, real controller (R43)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import f5_bench as f5
import pytest
from emulator import Emulator

from lb_probe.clock import SystemClock
from lb_probe.controller import Ask, Controller, Setup
from lb_probe.core.model import Event, Group, Node, Role
from lb_probe.store import sqlite
from lb_probe.store.sqlite import SqliteStore

A, B, DR = "main-a", "main-b", "dr"
MAIN, AWAY = "/Common/main:vs1", "/Common/away:vs1"
LOCAL = {A: "/Common/192.0.2.10:443", B: "/Common/192.0.2.11:443"}
GLOBAL = {A: MAIN, B: MAIN, DR: AWAY}
GROUP = Group(
    "epmm",
    (Node(A, Role.PRIMARY), Node(B, Role.SECONDARY, candidate=True), Node(DR, Role.SECONDARY)),
    adapters=("bigip", "gslb"),
)
OPEN = frozenset({"target-ready", "primary-serving", "standby-ready", "synced", "single-primary"})


class Tiers:
    """One emulated device with both modules, and a controller over both adapters."""

    def __init__(self, emulator: Emulator, controller: Controller, events: list[Event]) -> None:
        self.emulator, self.controller, self.events = emulator, controller, events

    async def act(self, verb: str, to: str | None = None) -> Any:
        ask = Ask(verb, "ops", "a test", to, override=OPEN & self._gates(verb, to))
        return await self.controller.act("epmm", ask)

    def _gates(self, verb: str, to: str | None) -> frozenset[str]:
        plan = self.controller.plan("epmm", Ask(verb, "ops", "a test", to))
        return frozenset(gate.id for gate in plan.gates)

    def local(self) -> set[str]:
        unit = self.emulator.unit(0)
        found = {node: unit.member(f5.POOL, member) for node, member in LOCAL.items()}
        return {node for node, member in found.items() if member["state"] != "user-down"}

    def world(self) -> set[str]:
        place = ("gtm", "pool", "a", f5.POOL, "members")
        objects = self.emulator.unit(0).running.objects
        return {member for member in (MAIN, AWAY) if objects[*place, member].get("enabled")}

    def by_hand(self, member: str) -> None:
        for each in (MAIN, AWAY):
            path = f"gtm/pool/a/{f5.segment(f5.POOL)}/members/{f5.segment(each)}"
            body = {"enabled" if each == member else "disabled": True}
            self.emulator.unit(0).change("PATCH", path, body)

    def writes(self, module: str) -> int:
        log = self.emulator.unit(0).log
        return len([s for s in log if s.method == "PATCH" and f"/tm/{module}/" in s.raw_path])

    @property
    def adapters(self) -> dict[str, Any]:
        return {each.name: each for each in self.controller.view("epmm").adapters}


@pytest.fixture
async def tiers(tmp_path: Path) -> AsyncIterator[Tiers]:
    async with contextlib.AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(Emulator.single())
        emulator.add_pool(f5.POOL, "192.0.2.10:443", "192.0.2.11:443")
        emulator.force_offline(f5.POOL, "192.0.2.11:443")
        emulator.add_dns_pool(f5.POOL, "main:vs1", "away:vs1")
        path = f"gtm/pool/a/{f5.segment(f5.POOL)}/members/{f5.segment(AWAY)}"
        emulator.configure("PATCH", path, {"disabled": True})
        bench = await stack.enter_async_context(f5.Bench(emulator, tmp_path))
        store = tmp_path / "state.db"
        sqlite.init(store)
        opened = await SqliteStore.open(store)
        stack.push_async_callback(opened.close)
        edges = bench.ltm(LOCAL), bench.gtm(GLOBAL)
        for edge in edges:
            edge.poll_s = 0.05
        setup = Setup(GROUP, edges, elsewhere={"bigip": frozenset({DR})}, drain_s=5.0)
        events: list[Event] = []

        class Sink:
            def emit(self, event: Event) -> None:
                events.append(event)

        controller = Controller([setup], opened, SystemClock(), Sink())
        await controller.start()
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(controller.run())
        async with asyncio.timeout(30):
            yield Tiers(emulator, controller, events)
        running.cancel()


async def test_a_start_adopts_what_both_tiers_can_mean(tiers: Tiers) -> None:
    """The global tier alone would not know which node of the site it is."""
    assert tiers.controller.view("epmm").saved.assigned == A
    assert tiers.writes("ltm") == tiers.writes("gtm") == 0


async def test_within_a_site_only_the_local_tier_moves(tiers: Tiers) -> None:
    view = await tiers.act("failover", B)
    assert (tiers.local(), tiers.world()) == ({B}, {MAIN})
    assert tiers.writes("gtm") == 0
    assert {a.name: (a.in_sync, a.seen.node) for a in view.adapters} == {
        "bigip": (True, B),
        "gslb": (True, B),
    }


async def test_a_switchover_within_a_site_waits_for_no_tier_that_need_not_move(
    tiers: Tiers,
) -> None:
    began = asyncio.get_running_loop().time()
    await tiers.act("switchover")
    assert (tiers.local(), tiers.world()) == ({B}, {MAIN})
    assert asyncio.get_running_loop().time() - began < 2.0  # and not the deadline of 5 s


async def test_to_another_site_only_the_global_tier_moves_and_back_again(tiers: Tiers) -> None:
    view = await tiers.act("failover", DR)
    assert (tiers.local(), tiers.world()) == ({A}, {AWAY})
    assert tiers.writes("ltm") == 0
    local = {a.name: a for a in view.adapters}["bigip"]
    assert local.in_sync
    assert f"{DR} is behind another tier; here traffic stays with {A}" in local.detail
    await tiers.act("failover", B)
    assert (tiers.local(), tiers.world()) == ({B}, {MAIN})


async def test_tiers_that_contradict_each_other_are_drift(tiers: Tiers) -> None:
    await tiers.act("failover", B)
    tiers.by_hand(AWAY)
    await until(lambda: any(e.name == "publish.drift" for e in tiers.events))
    drift = next(e for e in tiers.events if e.name == "publish.drift")
    assert (drift.fields["adapter"], drift.fields["wanted"], drift.fields["seen"]) == (
        "gslb",
        B,
        DR,
    )
    await until(lambda: tiers.world() == {MAIN})
    assert tiers.local() == {B}


async def test_a_plan_says_which_tier_has_nothing_to_do(tiers: Tiers) -> None:
    lines = tiers.controller.commands("epmm", DR)
    assert lines[0] == f"bigip: # nothing here: another tier brings traffic to {DR}"
    assert "/Common/away:vs1 { enabled }" in lines[1]


async def until(is_true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - the emulator's own state
            await asyncio.sleep(0.01)
