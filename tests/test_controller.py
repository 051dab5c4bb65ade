"""The order of effects, and what happens when one of them does not come about.

The real controller and reconcilers on a virtual clock; a journal notes every call to the store and
to the load balancers, in order.
"""

import asyncio
import contextlib
import random
from dataclasses import replace

import pytest
import simulated_world
from simulated_world import ModelBalancer, ModelPublisher, ModelStore, World, pair, settle

from lb_probe.controller import Ask, Controller
from lb_probe.core.model import Action, Page, Saved
from lb_probe.core.view import warnings
from lb_probe.ports import Conflict, NotFound, Refused, StoreError
from lb_probe.tending.loop import FIRST_LOOK_S, SETTLE_S
from lb_probe.tending.store_watch import STORE_RETRY_S, STORE_TEST_S


class JournalStore(ModelStore):
    """Notes each write; may be held up, may lie, may break."""

    def __init__(self, journal):
        super().__init__()
        self.journal = journal
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_forgetful = False  # commits, and then says that it did not
        self.is_unreadable = False
        self.error = None

    async def load(self):
        if self.is_unreadable:
            raise StoreError("the disk refuses to read")
        return await super().load()

    async def commit(self, group, saved, *, expect, record):
        self.journal.append(f"save {record.kind} {saved.generation}")
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        await super().commit(group, saved, expect=expect, record=record)
        self.journal.append("saved")
        if self.is_forgetful:
            raise StoreError("the disk did not say whether it took it")

    async def confirm(self, group, adapter, generation):
        self.journal.append(f"confirm {adapter} {generation}")
        await super().confirm(group, adapter, generation)


@pytest.fixture
def journal():
    return []


@pytest.fixture
def events():
    return []


@pytest.fixture
async def make(journal, events, monkeypatch):
    """Makes a started world whose calls are noted."""

    class JournalPublisher(ModelPublisher):
        is_hung = False
        error = None

        async def publish(self, node):
            journal.append(f"publish {self.name} {node}")
            await super().publish(node)

        async def read_back(self):
            if JournalPublisher.error is not None:
                raise JournalPublisher.error
            if JournalPublisher.is_hung:
                await asyncio.get_running_loop().create_future()
            seen = await super().read_back()
            journal.append(f"read {self.name} {seen.node}")
            return seen

    monkeypatch.setattr(simulated_world, "ModelPublisher", JournalPublisher)
    worlds = []

    async def made(*, start=True, neighbours=(), limit=None, **changes):
        balancers = {"edge": ModelBalancer("edge", {"a"})}
        group = pair(confirm_s=2.0, **changes)
        world = World(group, balancers, events.append, neighbours)
        world.store = JournalStore(journal)
        world.limit = limit
        world.publisher = JournalPublisher
        worlds.append(world)
        if start:
            await world.start_prober()
            await world.advance(3)
        return world

    yield made
    JournalPublisher.error = None
    for world in worlds:
        await world.kill_prober()


def view(world, name="epmm"):
    return world.controller.view(name)


def names(events):
    return [event.name for event in events]


def ask(verb, **more):
    return Ask(verb, "ops", "because", **more)


async def act(world, verb, **more):
    """Carry out a verb while time passes."""
    acting = asyncio.ensure_future(world.controller.act("epmm", ask(verb, **more)))
    while not acting.done():
        await world.advance(0.05)
    return acting.result()


async def until(world, is_true, seconds=30.0):
    """Let virtual time pass until it is true; return the seconds it took."""
    began = world.clock.now
    while not is_true():
        assert world.clock.now - began < seconds, "waited in vain"
        await world.advance(0.05)
    return world.clock.now - began


def writes(journal):
    """The journal without what is only looked at."""
    return [line for line in journal if not line.startswith("read ")]


# ------------------------------------------------------------------ the one safe order
async def test_latch_is_saved_before_traffic_moves_and_confirmed_after_it_was_read_back(
    make, journal
):
    world = await make()
    journal.clear()
    world.nodes["a"].state = "dead"
    await until(world, lambda: "confirm edge 2" in journal)
    first = journal.index("save failover 2")
    assert journal[first:] == [
        "save failover 2",
        "saved",
        "read edge a",
        "publish edge b",
        "read edge b",
        "confirm edge 2",
    ]


async def test_nothing_is_published_while_the_save_is_under_way(make, journal):
    world = await make()
    journal.clear()
    world.store.gate.clear()
    world.nodes["a"].state = "dead"
    await until(world, lambda: writes(journal))
    await world.advance(10)
    assert writes(journal) == ["save failover 2"]  # asked once, though decided again and again
    assert (view(world).saved.assigned, world.traffic) == ("a", {"edge": "a"})
    world.store.gate.set()
    await world.advance(1)
    assert writes(journal) == ["save failover 2", "saved", "publish edge b", "confirm edge 2"]


async def test_operators_act_is_saved_before_it_is_published(make, journal):
    world = await make()
    journal.clear()
    shown = await act(world, "failover")
    assert writes(journal) == ["save failover 2", "saved", "publish edge b", "confirm edge 2"]
    assert shown.adapters[0].in_sync
    assert shown.saved.confirmed == {"edge": 2}


# ------------------------------------------------------------------ a store that fails
async def test_failover_that_cannot_be_saved_is_not_made_and_blocks_until_the_store_recovers(
    make, journal, events
):
    world = await make()
    journal.clear()
    world.store.is_full = True
    world.nodes["a"].state = "dead"
    await until(world, lambda: "store.failed" in names(events))
    await world.advance(3)
    assert not world.balancers["edge"].written
    assert not view(world).saved.latched
    assert view(world).decision.condition == "failover-blocked"
    assert view(world).decision.blocked == ("store-not-writable",)
    assert not world.controller.is_store_writable
    assert journal.count("save failover 2") <= 1  # blocked: not tried again and again
    world.store.is_full = False
    took = await until(world, lambda: world.traffic == {"edge": "b"})
    assert took <= STORE_RETRY_S + 1
    assert "store.recovered" in names(events)
    assert view(world).saved.latched


async def test_failing_store_is_noticed_without_any_change(make, events):
    world = await make()
    world.store.is_full = True
    await world.advance(STORE_TEST_S + 1)
    assert names(events).count("store.failed") == 1
    assert not world.controller.is_store_writable
    world.store.is_full = False
    await world.advance(STORE_RETRY_S + 1)
    assert names(events).count("store.recovered") == 1


async def test_act_that_cannot_be_saved_is_an_error_and_not_done(make, events):
    world = await make()
    world.store.is_full = True
    with pytest.raises(StoreError, match="disk is full"):
        await act(world, "failover")
    assert (world.traffic, view(world).saved.generation) == ({"edge": "a"}, 1)
    assert names(events)[-1] == "store.failed"


async def test_save_whose_outcome_was_unknown_is_found_on_disk_and_finished_once(make, journal):
    world = await make()
    journal.clear()
    world.store.is_forgetful = True
    world.nodes["a"].state = "dead"
    await until(world, lambda: "saved" in journal)
    assert not world.balancers["edge"].written
    world.store.is_forgetful = False
    await until(world, lambda: world.traffic == {"edge": "b"})
    await world.advance(1)
    assert world.balancers["edge"].written == ["b"]
    assert (view(world).saved.generation, view(world).saved.latched) == (2, True)
    assert journal.count("saved") == 1
    assert journal[-1] == "read edge b"
    assert "confirm edge 2" in journal


async def test_store_that_cannot_be_written_at_start_is_an_error_of_the_store(make):
    world = await make(start=False)
    world.store.is_full = True
    with pytest.raises(StoreError, match="disk is full"):
        await world.start_prober()


async def test_store_that_cannot_be_read_at_start_is_an_error_of_the_store(make):
    world = await make(start=False)
    world.store.is_unreadable = True
    with pytest.raises(StoreError, match="refuses to read"):
        await world.start_prober()


# ------------------------------------------------------------------ somebody else saved
def saved_by_another(world, **changes):
    found = world.store.saved["epmm"]
    world.store.saved["epmm"] = replace(found, generation=found.generation + 5, **changes)


async def test_failover_against_a_newer_generation_takes_over_what_is_on_disk(make, journal):
    world = await make()
    journal.clear()
    saved_by_another(world, assigned="b", latched=True)
    world.nodes["a"].state = "dead"
    await until(world, lambda: world.traffic == {"edge": "b"})
    await world.advance(1)
    assert view(world).saved.generation == 6
    assert writes(journal) == ["save failover 2", "publish edge b", "confirm edge 6"]


async def test_act_against_a_newer_generation_is_a_conflict_and_the_next_one_is_judged_anew(make):
    world = await make()
    saved_by_another(world, acked="somebody")
    with pytest.raises(Conflict) as raised:
        await act(world, "failover")
    assert raised.value.generation == 6
    assert (view(world).saved.acked, world.traffic) == ("somebody", {"edge": "a"})
    await act(world, "failover", generation=6)
    assert (view(world).saved.generation, world.traffic) == (7, {"edge": "b"})


async def test_conflict_on_a_store_that_cannot_be_read_blocks_and_ends_nothing(make, events):
    world = await make()
    saved_by_another(world, acked="somebody")
    world.store.is_unreadable = True
    world.nodes["a"].state = "dead"
    await until(world, lambda: "store.failed" in names(events))
    world.store.is_unreadable = False
    await until(world, lambda: world.traffic == {"edge": "b"})
    assert view(world).saved.generation == 7


# ------------------------------------------------------------------ broken promises
async def test_store_that_breaks_its_promise_ends_run(make):
    world = await make()
    world.store.error = RuntimeError("no StoreError")
    world.nodes["a"].state = "dead"
    with pytest.raises(ExceptionGroup) as raised:
        await world.advance(20)
    assert raised.group_contains(RuntimeError, match="no StoreError")
    assert not world.balancers["edge"].written


async def test_load_balancer_adapter_that_breaks_its_promise_ends_run(make):
    world = await make()
    world.publisher.error = KeyError("no PublishError")
    with pytest.raises(ExceptionGroup) as raised:
        await world.advance(5)
    assert raised.group_contains(KeyError)


# ------------------------------------------------------------------ two hands at once
async def test_operator_during_an_automatic_move_waits_and_does_not_move_twice(make, journal):
    world = await make()
    journal.clear()
    world.store.gate.clear()
    world.nodes["a"].state = "dead"
    await until(world, lambda: writes(journal))
    acting = asyncio.ensure_future(world.controller.act("epmm", ask("failover")))
    await world.advance(1)
    assert not acting.done()
    world.store.gate.set()
    await world.advance(1)
    with pytest.raises(Refused) as raised:
        acting.result()
    assert [g.id for g in raised.value.gates if not g.passed] == ["elsewhere"]
    assert writes(journal) == ["save failover 2", "saved", "publish edge b", "confirm edge 2"]


async def test_rule_during_an_operators_act_decides_again_and_does_not_move_twice(make, journal):
    world = await make()
    journal.clear()
    world.store.gate.clear()
    acting = asyncio.ensure_future(world.controller.act("epmm", ask("failover")))
    await settle()
    world.nodes["a"].state = "dead"
    await until(world, lambda: view(world).decision.condition == "failing-over")
    world.store.gate.set()
    await until(world, acting.done)
    await world.advance(1)
    assert writes(journal) == ["save failover 2", "saved", "publish edge b", "confirm edge 2"]
    assert view(world).saved.last_change.actor == "ops"


async def test_of_two_acts_on_one_generation_one_wins(make):
    world = await make()
    acts = [
        asyncio.ensure_future(world.controller.act("epmm", ask("ack", generation=1)))
        for _ in range(2)
    ]
    await until(world, lambda: all(one.done() for one in acts))
    assert acts[0].result().saved.generation == 2
    with pytest.raises(Conflict) as raised:
        acts[1].result()
    assert raised.value.generation == 2


async def test_plan_changes_nothing(make, journal):
    world = await make()
    journal.clear()
    plan = world.controller.plan("epmm", ask("failover"))
    assert (plan.source, plan.target, plan.closed) == ("a", "b", ())
    assert world.controller.commands("epmm", plan.target) == ["edge: use b"]
    await world.advance(1)
    assert writes(journal) == []
    assert view(world).saved.generation == 1


async def test_unknown_group_is_not_found_by_every_question(make):
    world = await make()
    controller = world.controller
    for question in (
        lambda: controller.view("other"),
        lambda: controller.plan("other", ask("ack")),
        lambda: controller.commands("other", "a"),
        lambda: controller.resume_gates("other"),
    ):
        with pytest.raises(NotFound, match="the groups are: epmm"):
            question()
    with pytest.raises(NotFound):
        await controller.act("other", ask("ack"))
    with pytest.raises(NotFound):
        await controller.history("other", 10)


# ------------------------------------------------------------------ nobody waits for ever
async def test_act_waits_a_little_for_a_load_balancer_that_is_down_and_says_so(make):
    world = await make()
    world.balancers["edge"].is_up = False
    await world.advance(1)
    began = world.clock.now
    shown = await act(world, "failover")
    assert SETTLE_S - 0.1 <= world.clock.now - began <= SETTLE_S + 0.1
    assert shown.saved.assigned == "b"
    assert (shown.adapters[0].in_sync, shown.adapters[0].seen) == (False, None)
    assert "connection refused" in shown.adapters[0].detail
    world.balancers["edge"].is_up = True
    await world.advance(2)
    assert view(world).adapters[0].in_sync


async def test_start_waits_a_little_for_a_load_balancer_that_hangs(make):
    world = await make(start=False)
    world.publisher.is_hung = True
    starting = asyncio.ensure_future(world.start_prober())
    # The first look has a deadline in real seconds: it guards against a real socket.
    done, _ = await asyncio.wait([starting], timeout=FIRST_LOOK_S + 10)
    assert done
    starting.result()
    assert view(world).saved.assigned is None
    assert view(world).decision.condition == "unassigned"


# ------------------------------------------------------------------ brakes over all groups
async def test_limit_stops_the_failover_of_a_further_group_until_a_minute_has_passed(make):
    world = await make(neighbours=("core", "sentry"), limit=1)
    # Half of the targets answer, so this is not isolation.
    world.nodes["a"].state = "broken"
    groups = ("epmm", "core", "sentry")
    await until(world, lambda: any(view(world, name).saved.latched for name in groups))
    await world.advance(5)
    latched = [name for name in groups if view(world, name).saved.latched]
    assert len(latched) == 1
    others = [name for name in groups if name not in latched]
    assert {view(world, name).decision.blocked for name in others} == {("limit",)}
    assert {view(world, name).decision.condition for name in others} == {"failover-blocked"}
    await world.advance(60)
    assert sum(view(world, name).saved.latched for name in groups) == 2


async def test_three_groups_that_are_all_cut_off_are_our_own_isolation(make, events):
    world = await make(neighbours=("core", "sentry"))
    world.is_linked = False
    await world.advance(20)
    assert names(events).count("prober.isolated") == 1
    for name in ("epmm", "core", "sentry"):
        assert view(world, name).decision.condition == "prober-isolated"
        assert not view(world, name).saved.latched
    world.is_linked = True
    await world.advance(20)
    assert names(events).count("prober.rejoined") == 1
    assert view(world).decision.condition == "normal"
    assert world.traffic == {"edge": "a"}


async def test_two_groups_are_too_few_to_blame_ourselves(make, events):
    world = await make(neighbours=("core",))
    world.is_linked = False
    await world.advance(10)
    assert "prober.isolated" not in names(events)
    assert view(world).decision.condition == "no-standby"


async def test_silent_references_freeze_one_group_alone(make, events):
    world = await make()
    world.references = False
    await world.advance(1)
    world.nodes["a"].state = "dead"
    await world.advance(20)
    assert view(world).decision.condition == "prober-isolated"
    assert world.traffic == {"edge": "a"}
    world.references = True
    took = await until(world, lambda: world.traffic == {"edge": "b"})
    assert took >= 2.0  # `confirm`, counted from the end of isolation
    assert names(events).count("prober.isolated") == names(events).count("prober.rejoined") == 1


async def test_answering_references_acquit_us_when_everything_is_cut_off(make, events):
    world = await make(neighbours=("core", "sentry"))
    world.references = True
    for node in world.nodes.values():
        node.state = "dead"
    await world.advance(10)
    assert "prober.isolated" not in names(events)
    assert view(world).decision.condition == "no-standby"


# ------------------------------------------------------------------ time that was missed
@pytest.mark.parametrize("away", [1.5, 30.0, 3600.0])
async def test_failures_from_before_a_pause_do_not_count_after_it(make, events, away):
    """As after SIGSTOP: monotonic time went on, and nobody looked."""
    world = await make()
    world.nodes["a"].state = "dead"
    await until(world, lambda: view(world).decision.condition == "confirming")
    await world.advance(1.5)  # most of `confirm`
    assert world.traffic == {"edge": "a"}
    world.clock.now += away
    resumed = world.clock.now
    await until(world, lambda: world.traffic == {"edge": "b"})
    assert world.clock.now - resumed >= 2.0
    assert "prober.stalled" in names(events)


async def test_primary_that_was_well_during_the_pause_keeps_the_traffic(make):
    world = await make()
    world.nodes["a"].state = "dead"
    await until(world, lambda: view(world).decision.condition == "confirming")
    await world.advance(1.5)
    world.clock.now += 30
    world.nodes["a"].state = "up"
    await world.advance(10)
    assert (world.traffic, view(world).decision.condition) == ({"edge": "a"}, "normal")


async def test_pause_between_a_decision_and_its_turn_makes_the_decision_worthless(make, events):
    world = await make()
    async with world.controller._groups["epmm"].lock:  # an operator's command is under way
        world.nodes["a"].state = "dead"
        await until(world, lambda: view(world).decision.action is Action.FAIL_OVER)
        world.clock.now += 30.0
    await settle()
    assert "prober.stalled" in names(events)
    assert not view(world).saved.latched
    resumed = world.clock.now
    await until(world, lambda: world.traffic == {"edge": "b"})
    assert world.clock.now - resumed >= 2.0


# ------------------------------------------------------------------ a probe that is overdue
async def test_while_the_primary_is_overdue_the_secondary_is_hurried_and_nothing_is_decided(make):
    world = await make()
    waiting = ("epmm", "b", Page.HASTATUS)
    before = view(world).decision
    assert not world.controller.is_hurried(*waiting)
    world.controller.doubt("epmm", "a", Page.STATUS, True)
    assert world.controller.is_hurried(*waiting)
    for other in (("a", Page.STATUS), ("a", Page.HASTATUS), ("b", Page.STATUS)):
        assert not world.controller.is_hurried("epmm", *other)
    world.controller.tick()
    assert view(world).decision == before
    world.controller.doubt("epmm", "a", Page.STATUS, False)
    assert not world.controller.is_hurried(*waiting)


async def test_doubt_of_another_page_hurries_nobody(make):
    world = await make()
    for node, page in (("a", Page.HASTATUS), ("b", Page.STATUS), ("b", Page.HASTATUS)):
        world.controller.doubt("epmm", node, page, True)
    assert not world.controller.is_hurried("epmm", "b", Page.HASTATUS)


async def test_time_that_passes_as_it_should_is_no_stall(make, events):
    world = await make()
    await world.advance(300)
    assert "prober.stalled" not in names(events)
    assert "clock.jumped" not in names(events)


async def test_a_prober_that_was_away_says_so_for_a_while(make):
    """X19: why a failing Primary is not moved yet must be seen without the log."""
    world = await make()
    assert warnings(view(world)) == []
    world.clock.now += 7.0  # the loop stood still
    world.controller.tick()
    assert warnings(view(world)) == [
        "the loop was away for 7.0s, 0s ago: no failure from before counts any more"
    ]
    await world.advance(59)
    assert len(warnings(view(world))) == 1
    await world.advance(2)
    assert warnings(view(world)) == []


async def test_jump_of_the_wall_clock_is_noticed_once_and_moves_no_hold(make, events):
    world = await make()
    await act(world, "hold", hold_s=60.0)
    world.clock.offset += 3600.0
    await world.advance(5)
    assert names(events).count("clock.jumped") == 1
    assert view(world).saved.hold is not None
    await world.advance(60)
    assert view(world).saved.hold is None  # by monotonic time, and all is normal


async def test_saved_hold_goes_on_after_a_restart(make):
    world = await make()
    await act(world, "hold", hold_s=600.0)
    await world.kill_prober()
    await world.start_prober()
    world.nodes["a"].state = "dead"
    await world.advance(20)
    assert view(world).decision.blocked == ("hold",)
    assert world.traffic == {"edge": "a"}


async def test_what_was_saved_and_not_confirmed_is_finished_at_start(make, journal):
    world = await make(start=False)
    world.store.saved["epmm"] = Saved("b", latched=True, generation=4, confirmed={"edge": 3})
    await world.start_prober()
    await world.advance(1)
    assert writes(journal) == ["publish edge b", "confirm edge 4"]
    assert world.traffic == {"edge": "b"}


# ------------------------------------------------------------------ what is left out
@pytest.fixture
def looks(monkeypatch):
    """Counts how often a group is really looked at."""
    found = []
    judge = Controller._evaluate

    def counted(self, runtime):
        found.append(runtime.group.name)
        judge(self, runtime)

    monkeypatch.setattr(Controller, "_evaluate", counted)
    return found


async def test_probes_that_say_nothing_new_cost_no_look(make, looks):
    world = await make()
    await world.advance(5)
    looks.clear()
    await world.advance(30)
    probes, ticks = 4 * 30, 4 * 30
    assert len(looks) <= (probes + ticks) / 10
    assert view(world).decision.condition == "normal"


@pytest.mark.parametrize("seed", range(6))
async def test_decision_in_force_is_always_the_one_a_look_would_make(make, monkeypatch, seed):
    compared = 0

    def compare(controller):
        nonlocal compared
        for runtime in controller._groups.values():
            compared += 1
            assert controller._decide(runtime) == runtime.decision

    observe, tick = Controller.observe, Controller.tick

    def observe_and_compare(self, name, observation):
        before = self._groups[name]
        observe(self, name, observation)
        assert self._decide(before) == before.decision

    def tick_and_compare(self):
        tick(self)
        compare(self)

    monkeypatch.setattr(Controller, "observe", observe_and_compare)
    monkeypatch.setattr(Controller, "tick", tick_and_compare)
    rng = random.Random(seed)
    world = await make(neighbours=("one", "two"), limit=rng.choice([None, 1]))
    for _ in range(60):
        node = world.nodes[rng.choice("ab")]
        node.state = rng.choice(["up", "up", "up", "dead", "hung", "broken"])
        node.mode = rng.choice([node.mode, node.mode, "primary", "standby"])
        world.is_linked = rng.random() < 0.9
        world.references = rng.choice([None, True, True])
        world.store.is_full = rng.random() < 0.05
        if rng.random() < 0.1:
            with contextlib.suppress(Refused, StoreError):
                await act(
                    world,
                    rng.choice(["hold", "release", "resume", "failover", "ack"]),
                    hold_s=3.0,
                    override=frozenset(),
                )
        await world.advance(rng.choice([0.25, 1.0, 3.0, 5.0]))
    assert compared > 100


async def test_group_that_falls_silent_is_noticed_by_time_alone(make, events):
    world = await make()
    await world.advance(5)
    world._due.clear()  # no probe ends any more, as if all of them hung
    newest = max(page.last.started_at for page in view(world).evidence.pages.values())
    events.clear()
    await world.advance(newest + 3.0 - world.clock.now + 0.3)
    assert [e.fields["condition"] for e in events if e.name == "group.condition"][-1] == (
        "confirming"
    )


# ------------------------------------------------------------------ what happens meanwhile
async def test_an_operator_waits_while_a_reload_finds_out_where_a_group_begins(make, events):
    """The command was saved in between, and the beginning then met a generation it did not know."""
    world = await make()
    controller = world.controller
    await controller.swap(world.setups[:0], frozenset())
    world.store.saved.clear()
    world.store.gate.clear()
    begin = asyncio.ensure_future(controller.swap(world.setups, frozenset()))
    await settle()  # it is about to save what it adopted
    act = asyncio.ensure_future(controller.act("epmm", Ask("hold", "ops", "mine", hold_s=60.0)))
    await settle()
    assert not act.done()
    world.store.gate.set()
    await begin
    await world.advance(SETTLE_S + 1)
    await act
    found = view(world).saved
    assert (found.assigned, found.generation) == ("a", 2)
    assert found.hold.by == "ops"
    assert world.store.saved["epmm"].generation == 2


async def test_what_was_read_of_the_store_is_not_older_than_what_was_saved_since(make, journal):
    """A conflict is looked into under the lock: an operator's change comes after, not between."""
    world = await make()
    store, controller = world.store, world.controller
    store.saved["epmm"] = replace(store.saved["epmm"], generation=2)  # somebody else's
    load, gate = store.load, asyncio.Event()

    async def slow():
        found = await load()
        await gate.wait()
        return found

    store.load = slow
    world.nodes["a"].state = "dead"
    await until(world, lambda: "save failover 2" in journal)
    await settle()  # it met the other generation, and that is looked into
    store.load = load
    ask = Ask("hold", "ops", "mine", hold_s=600.0)
    acts = [asyncio.ensure_future(controller.act("epmm", ask)) for _ in range(2)]
    await settle()
    gate.set()
    await settle()
    assert view(world).saved.generation == store.saved["epmm"].generation
    await world.advance(SETTLE_S + 1)
    done = await asyncio.gather(*acts, return_exceptions=True)
    assert not [error for error in done if isinstance(error, Exception)]


async def test_what_was_on_its_way_to_the_store_at_the_end_is_saved_once(make):
    world = await make()
    store = world.store
    note_all, gate = store.note_all, asyncio.Event()

    async def written(records):
        await gate.wait()
        await note_all(records)

    async def slow(records):  # the thread that writes does not hear of a cancelled task
        await asyncio.shield(asyncio.ensure_future(written(records)))

    store.note_all = slow
    world.controller.recorder.note("isolated")
    await world.advance(1.5)
    controller = world.controller
    await world.kill_prober()
    closing = asyncio.ensure_future(controller.close())
    await settle()
    gate.set()
    await closing
    await settle()
    assert [r.kind for r in store.records][-2:] == ["isolated", "stopped"]
    assert [r.kind for r in store.records].count("isolated") == 1


async def test_what_was_done_is_answered_though_a_reload_took_the_group_away(make):
    world = await make()
    world.balancers["edge"].is_up = False  # so that the command waits for it
    await world.advance(1)
    ask = Ask("hold", "ops", "mine", hold_s=60.0)
    act = asyncio.ensure_future(world.controller.act("epmm", ask))
    await settle()
    assert not act.done()
    await world.controller.swap([], frozenset())
    await world.clock.advance(SETTLE_S + 1)  # nobody probes it any more
    assert (await act).saved.hold.by == "ops"
