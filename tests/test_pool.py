"""The loop of active-active groups between modelled nodes, load balancers and a modelled store."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from simulated_world import ModelBalancer, ModelStore, Trap, VirtualClock, settle

from lb_probe.controller import Ask
from lb_probe.core.active_active import CONDITIONS, Pool
from lb_probe.core.model import Failed, Observation, Page, Passed, Phase, Role, Saved, Seen
from lb_probe.core.pool_view import as_json
from lb_probe.pool import PoolController, PoolSetup
from lb_probe.ports import (
    Conflict,
    Invalid,
    NotFound,
    PublishError,
    Refused,
    StoreError,
    Unreachable,
)
from lb_probe.recorder import Recorder

STEP_S = 0.05
INTERVAL_S = 0.5
POOL = Pool("gw", ("gw-1", "gw-2", "gw-3"), fall=3, rise=2, max_age_s=3.0)
ALL = {"gw-1", "gw-2", "gw-3"}


class Store(ModelStore):
    """Also a crash right before a line of history, and a disk that takes its time."""

    clock = None
    slow_s = 0.0
    meanwhile = staticmethod(lambda: None)

    async def commit(self, group, saved, **how):
        if self.slow_s:
            self.meanwhile()
            await self.clock.sleep(self.slow_s)
        await super().commit(group, saved, **how)

    async def note_all(self, records):
        if any(r.kind in ("take-out", "put-in") for r in records):
            await self.trap.pass_by("note")
        await super().note_all(records)


class Publisher:
    """SetPublisher port over a ModelBalancer."""

    type = "model"

    def __init__(self, balancer, trap, clock):
        self.name = balancer.name
        self.slow_s = 0.0
        self._balancer = balancer
        self._trap = trap
        self._clock = clock

    async def publish_all(self, nodes):
        if self.slow_s:
            await self._clock.sleep(self.slow_s)
        await self._trap.pass_by(f"publish to {self.name}")
        if not self._balancer.is_up:
            raise Unreachable(f"{self.name}: connection refused")
        assert nodes, "an empty set was published"
        self._balancer.written.append("+".join(sorted(nodes)))
        if self._balancer.is_deaf:
            raise PublishError(f"{self.name}: read only")
        self._balancer.chosen = set(nodes)

    async def read_back(self):
        if not self._balancer.is_up:
            raise Unreachable(f"{self.name}: connection refused")
        chosen = tuple(sorted(self._balancer.chosen))
        return Seen(None, chosen, usable=bool(chosen), instance=f"run-{self._balancer.run}")

    def commands_all(self, nodes):
        return [f"use {' '.join(sorted(nodes))}"]


class World:
    """Nodes of one or more groups, load balancers of the first, one prober."""

    def __init__(self, pools, balancers):
        self.clock = VirtualClock()
        self.store = Store()
        self.store.clock = self.clock
        self.pools = pools
        self.balancers = {name: ModelBalancer(name, set(ALL)) for name in balancers}
        self.fails = set()
        self.silent = set()  # no probe of these finishes
        self.phase = Phase.CONNECT_REFUSED
        self.events = []
        self.controller = None
        self.elsewhere = []
        self.trap = Trap()
        self.was = None
        self._task = None
        self._probed_at = {}

    def emit(self, event):
        if event.name != "probe.done":
            self.events.append(event)

    async def start(self):
        self.trap = self.store.trap = Trap()
        balancers = self.balancers.values()
        publishers = self.publishers = tuple(Publisher(b, self.trap, self.clock) for b in balancers)
        first, *others = self.pools
        setups = [PoolSetup(first, publishers, self.was), *map(PoolSetup, others)]
        self.recorder = Recorder(self.clock)
        self.controller = PoolController(
            setups,
            self.store,
            self.clock,
            self,
            self.recorder,
            cut_off=lambda: self.elsewhere,
        )
        start = asyncio.ensure_future(self.controller.start())
        while not start.done():
            await self.clock.advance(STEP_S)
        start.result()
        self._task = asyncio.ensure_future(self.controller.run())
        self._probed_at = {}
        await settle()

    async def kill(self):
        """As SIGKILL: nothing gets a chance to finish."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def advance(self, seconds):
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-9:
            await self.clock.advance(min(STEP_S, end - self.clock.now))
            if self._task is not None:
                if self._task.done():
                    self._task.result()
                self.probe()
                await settle()

    def probe(self):
        for pool in self.pools:
            for node in pool.nodes:
                due = self._probed_at.get((pool.name, node), -1.0) + INTERVAL_S
                if self.clock.now >= due and node not in self.silent:
                    self._probed_at[pool.name, node] = self.clock.now
                    outcome = Failed(self.phase, "no") if node in self.fails else Passed()
                    now = self.clock.now
                    seen = Observation(node, Page.STATUS, now, now, outcome)
                    self.controller.observe(pool.name, seen)

    @property
    def traffic(self):
        return [b.chosen if b.is_up else None for b in self.balancers.values()]

    @property
    def view(self):
        return self.controller.view("gw")

    def names(self):
        return [e.name for e in self.events]

    def kinds(self):
        return [r.kind for r in self.store.records]

    async def ask(self, verb, **fields):
        ask = Ask(verb, "ops", fields.pop("reason", "because"), **fields)
        work = asyncio.ensure_future(self.controller.act("gw", ask))
        while not work.done():
            await self.advance(STEP_S)
        return work.result()


@asynccontextmanager
async def world_of(*pools, balancers=("edge",), start=True):
    world = World(pools or (POOL,), balancers)
    try:
        if start:
            await world.start()
        yield world
    finally:
        await world.kill()


# ------------------------------------------------------------------ the policy
async def test_a_node_that_fails_goes_out_and_comes_back_by_itself():
    """R39."""
    async with world_of(balancers=("edge-1", "edge-2")) as world:
        await world.advance(2.0)
        assert world.view.condition == "all-in"
        world.fails = {"gw-2"}
        await world.advance(2.0)
        assert world.traffic == [{"gw-1", "gw-3"}, {"gw-1", "gw-3"}]
        assert world.view.condition == "some-out"
        world.fails = set()
        await world.advance(2.0)
        assert world.traffic == [ALL, ALL]
        assert world.kinds() == ["take-out", "put-in"]
        assert world.view.condition == "all-in"


async def test_a_change_is_told_with_its_evidence():
    async with world_of() as world:
        world.fails = {"gw-2"}
        await world.advance(2.0)
        [record] = world.store.records
        details = record.details
        assert (record.group, record.kind) == ("gw", "take-out")
        assert (details["from"], details["to"]) == ("gw-1+gw-2+gw-3", "gw-1+gw-3")
        assert (details["actor"], details["rule"]) == ("lb-probe", "N3")
        assert details["reason"] == "gw-2 fails"
        assert details["evidence"] == [
            "gw-2 status: 3 failed in a row, last 0.0s ago in phase connect-refused: no"
        ]
        assert "group.take-out" in world.names()
        assert as_json(world.view)["last_change"]["to"] == "gw-1+gw-3"


async def test_of_three_nodes_at_half_two_stay_in_whatever_fails():
    """R44."""
    async with world_of() as world:
        world.fails = set(ALL)
        world.phase = Phase.STATUS
        await world.advance(5.0)
        assert world.view.condition == "panic"
        assert len(world.traffic[0]) == 2
        told = [e.fields["condition"] for e in world.events if e.name == "group.condition"]
        assert told[-1] == "panic"


async def test_the_last_node_stays_in_and_gives_way_when_another_returns():
    async with world_of(replace(POOL, panic_percent=0)) as world:
        world.fails = set(ALL)
        await world.advance(5.0)
        assert len(world.traffic[0]) == 1
        [last] = world.traffic[0]
        back = min(ALL - {last})
        world.fails -= {back}
        await world.advance(2.0)
        assert world.traffic == [{back}]
        assert all(word for word in world.balancers["edge"].written)


async def test_a_node_that_nobody_can_judge_any_more_stays_where_it_is():
    async with world_of() as world:
        await world.advance(1.0)
        world.fails = world.silent = {"gw-2"}
        await world.advance(10.0)
        assert world.traffic == [ALL]
        assert world.view.condition == "confirming"


async def test_groups_know_nothing_of_each_other():
    """R41."""
    other = replace(POOL, name="other", nodes=("x-1", "x-2"))
    async with world_of(POOL, other) as world:
        world.fails = {"x-1"}
        await world.advance(3.0)
        assert world.controller.view("other").members == {"x-2"}
        assert world.view.members == ALL
        assert world.balancers["edge"].written == []


# ------------------------------------------------------------------ brakes
async def test_a_hold_freezes_both_ways_and_its_end_counts_fresh_failures_only():
    """X4, R109."""
    async with world_of() as world:
        world.fails = {"gw-1"}
        await world.advance(3.0)
        assert world.traffic == [{"gw-2", "gw-3"}]
        view = await world.ask("hold", hold_s=3600.0)
        assert (view.hold.by, view.generation) == ("ops", 1)
        world.fails = {"gw-2"}
        await world.advance(5.0)
        assert world.traffic == [{"gw-2", "gw-3"}]
        assert (world.view.condition, world.view.decision.blocked) == ("out-blocked", ("hold",))
        await world.ask("release")
        assert "gw-2" in world.view.members, "failures under the hold do not count"
        await world.advance(3.0)
        assert world.traffic == [{"gw-1", "gw-3"}]


async def test_under_a_hold_repairs_go_on_unless_hands_are_off():
    async with world_of() as world:
        await world.ask("hold", hold_s=3600.0)
        world.balancers["edge"].chosen = {"gw-1"}
        await world.advance(1.0)
        assert world.traffic == [ALL]
        await world.ask("hold", hold_s=3600.0, hands_off=True)
        world.balancers["edge"].chosen = {"gw-1"}
        await world.advance(5.0)
        assert world.traffic == [{"gw-1"}]
        await world.ask("release")
        assert world.traffic == [ALL]


async def test_a_hold_survives_a_restart_and_lapses_when_nothing_would_change():
    async with world_of() as world:
        await world.ask("hold", hold_s=20.0)
        await world.kill()
        await world.start()
        assert world.view.hold.reason == "because"
        world.fails = {"gw-1"}
        await world.advance(25.0)
        assert world.view.hold is not None, "its end would take a node out"
        assert world.names().count("hold.overdue") == 1
        world.fails = set()
        await world.advance(2.0)
        assert world.view.hold is None
        assert (world.kinds(), world.view.generation) == (["hold", "hold-lapsed"], 2)


async def test_a_new_hold_is_not_ended_by_the_clock_of_the_old_one():
    async with world_of() as world:
        await world.ask("hold", hold_s=5.0)
        await world.ask("hold", hold_s=60.0)
        world.clock.offset += 3600.0  # somebody sets the clock
        await world.advance(30.0)
        assert world.view.hold is not None
        await world.advance(31.0)
        assert world.view.hold is None


async def test_a_new_hold_runs_from_its_own_beginning_though_the_clock_is_set_meanwhile():
    """X20."""
    async with world_of() as world:
        world.store.slow_s = 0.1
        world.store.meanwhile = lambda: setattr(world.clock, "offset", world.clock.offset + 3600.0)
        await world.ask("hold", hold_s=60.0)
        world.store.slow_s = 0.0
        await world.advance(30.0)
        assert world.view.hold is not None


async def test_a_hold_that_is_being_saved_stops_a_change_that_was_decided_meanwhile():
    async with world_of() as world:
        await world.advance(1.0)
        world.store.slow_s = 5.0
        world.fails = {"gw-1"}
        await world.ask("hold", hold_s=60.0)
        await world.advance(5.0)
        assert (world.traffic, world.kinds()) == ([ALL], ["hold"])


async def test_a_new_hold_that_is_being_saved_is_not_ended_for_the_old_one():
    async with world_of() as world:
        await world.advance(1.0)
        await world.ask("hold", hold_s=5.0)
        await world.advance(4.5)
        world.store.slow_s = 2.0
        await world.ask("hold", hold_s=60.0)
        world.store.slow_s = 0.0
        await world.advance(5.0)
        assert world.kinds() == ["hold", "hold"]


async def test_a_hold_does_not_lapse_when_a_node_failed_since_it_was_asked_to():
    async with world_of() as world:
        await world.advance(1.0)
        await world.ask("hold", hold_s=5.0)
        await world.advance(4.5)
        world.store.slow_s = 3.0
        ack = asyncio.ensure_future(world.controller.act("gw", Ask("ack", "ops", "seen")))
        await world.advance(1.0)  # due: the lapse waits behind the ack
        world.fails = {"gw-1"}
        await world.advance(10.0)
        await ack
        assert world.kinds() == ["hold", "ack"]


async def test_an_observed_group_is_never_written_to_and_says_what_would_be_done():
    """X10."""
    async with world_of(replace(POOL, act=False)) as world:
        world.fails = {"gw-1"}
        await world.advance(3.0)
        assert world.balancers["edge"].written == []
        assert (world.view.condition, world.view.decision.blocked) == ("out-blocked", ("act",))
        world.balancers["edge"].chosen = {"gw-2", "gw-3"}  # whoever decides does it
        await world.advance(1.0)
        assert (world.view.condition, world.view.members) == ("some-out", {"gw-2", "gw-3"})
        assert world.balancers["edge"].written == []


async def test_a_prober_that_is_cut_off_changes_nothing_and_starts_counting_afresh():
    """X15, X19."""
    async with world_of() as world:
        await world.advance(2.0)
        world.fails = set(ALL)
        world.controller.references({"reference": False})
        await world.advance(5.0)
        assert world.view.condition == "prober-isolated"
        world.controller.references({"reference": True})
        await world.advance(0.6)
        world.fails = set()
        await world.advance(3.0)
        assert world.balancers["edge"].written == []


async def test_without_references_three_silent_groups_are_our_own_fault():
    async with world_of(POOL, replace(POOL, name="other")) as world:
        world.fails = set(ALL)
        world.elsewhere = [True]
        await world.advance(5.0)
        assert world.view.condition == "prober-isolated"
        assert world.controller.cut_off() == [True, True]
        world.elsewhere = [False]
        await world.advance(5.0)
        assert world.view.condition == "panic"


async def test_failures_from_before_a_stall_do_not_count():
    async with world_of() as world:
        await world.advance(2.0)
        world.fails = {"gw-1"}
        await world.advance(1.1)  # two failures
        world.clock.now += 2.0  # the loop was away
        world.silent = {"gw-1"}
        await world.advance(0.3)
        world.silent = set()
        await world.advance(0.9)  # two more
        assert world.traffic == [ALL]
        await world.advance(1.0)
        assert world.traffic == [{"gw-2", "gw-3"}]


async def test_failures_from_before_a_clock_jump_do_not_count():
    async with world_of() as world:
        await world.advance(2.0)
        world.fails = {"gw-1"}
        await world.advance(1.1)
        world.clock.offset += 60.0
        await world.advance(0.9)
        assert world.traffic == [ALL]
        await world.advance(1.5)
        assert world.traffic == [{"gw-2", "gw-3"}]


async def test_a_change_that_cannot_be_noted_is_not_made_until_it_can():
    async with world_of() as world:
        world.store.is_full = True
        world.fails = {"gw-1"}
        await world.advance(20.0)
        assert world.traffic == [ALL]
        assert world.view.decision.blocked == ("store-not-writable",)
        assert world.names().count("store.failed") == 1
        world.store.is_full = False
        await world.advance(6.0)
        assert world.traffic == [{"gw-2", "gw-3"}]
        assert "store.recovered" in world.names()
        assert world.controller.is_store_writable


# ------------------------------------------------------------------ start and crashes
async def test_a_start_takes_over_what_the_load_balancer_does():
    async with world_of(start=False) as world:
        world.balancers["edge"].chosen = {"gw-3"}
        world.fails = {"gw-1"}
        await world.start()
        assert world.view.members == {"gw-3"}
        await world.advance(3.0)
        assert world.traffic == [{"gw-2", "gw-3"}]
        assert world.kinds() == ["put-in"]


async def test_at_a_load_balancer_without_nodes_they_come_in_when_they_pass():
    async with world_of(start=False) as world:
        world.balancers["edge"].chosen = set()
        world.fails = {"gw-1", "gw-2"}
        await world.start()
        await world.advance(3.0)
        assert world.traffic == [{"gw-3"}]


async def test_what_another_policy_saved_means_nothing():
    async with world_of(start=False) as world:
        world.store.saved["gw"] = Saved("gw-1", True, roles={"gw-1": Role.PRIMARY}, generation=8)
        await world.start()
        saved = world.view.saved
        assert (saved.assigned, saved.latched, saved.roles) == (None, False, None)
        view = await world.ask("hold", hold_s=9.0, generation=8)
        assert (view.generation, world.store.saved["gw"].assigned) == (9, None)


async def test_a_renamed_group_keeps_its_hold():
    async with world_of() as world:
        await world.ask("hold", hold_s=3600.0)
        await world.kill()
        world.pools, world.was = (replace(POOL, name="new"),), "gw"
        await world.start()
        assert world.controller.names == ("new",)
        assert world.controller.view("new").hold is not None


@pytest.mark.parametrize(
    ("step", "noted", "traffic"),
    [
        ("note", 0, [ALL, ALL]),
        ("publish to edge-1", 1, [ALL, {"gw-1", "gw-3"}]),
        ("publish to edge-2", 1, [{"gw-1", "gw-3"}, ALL]),
    ],
)
async def test_a_crash_at_any_step_is_finished_by_the_next_start(step, noted, traffic):
    """A line of history first, then each load balancer for itself."""
    async with world_of(balancers=("edge-1", "edge-2")) as world:
        await world.advance(2.0)
        world.trap.before = step
        world.fails = {"gw-2"}
        await world.advance(3.0)
        assert world.kinds().count("take-out") == noted
        assert world.traffic == traffic
        await world.kill()
        written = [len(b.written) for b in world.balancers.values()]
        await world.start()
        await world.advance(0.8)
        # In dispute: nobody puts the failing node back where it was taken out already.
        assert [len(b.written) for b in world.balancers.values()] == written
        assert bool(world.view.disputed) == (traffic[0] != traffic[1])
        await world.advance(3.0)
        assert world.traffic == [{"gw-1", "gw-3"}, {"gw-1", "gw-3"}]
        assert world.view.disputed == frozenset()


async def test_a_dispute_about_a_node_that_serves_is_settled_by_putting_it_in():
    async with world_of(balancers=("edge-1", "edge-2"), start=False) as world:
        world.balancers["edge-1"].chosen = {"gw-1", "gw-3"}
        await world.start()
        assert as_json(world.view)["adapters"][0]["wanted"] is None
        await world.advance(2.0)
        assert world.traffic == [ALL, ALL]


async def test_a_dispute_is_not_settled_under_a_hold():
    async with world_of(balancers=("edge-1", "edge-2"), start=False) as world:
        world.balancers["edge-1"].chosen = {"gw-1", "gw-3"}
        await world.start()
        await world.ask("hold", hold_s=3600.0)
        await world.advance(5.0)
        assert world.traffic == [{"gw-1", "gw-3"}, ALL]


async def test_load_balancers_that_nobody_could_read_at_start_follow_later():
    async with world_of(start=False) as world:
        world.balancers["edge"].is_up = False
        world.fails = {"gw-1"}
        await world.start()
        await world.advance(3.0)
        world.balancers["edge"].is_up = True
        await world.advance(2.0)
        assert world.traffic == [{"gw-2", "gw-3"}]


# ------------------------------------------------------------------ drift
async def test_a_restart_that_forgets_is_repaired_within_a_second():
    async with world_of() as world:
        world.fails = {"gw-1"}
        await world.advance(3.0)
        balancer = world.balancers["edge"]
        for _ in range(4):
            balancer.configured = frozenset(ALL)
            balancer.restart()
            await world.advance(1.0)
            assert world.traffic == [{"gw-2", "gw-3"}]


async def test_somebody_else_who_writes_there_is_left_alone_until_republish():
    async with world_of() as world:
        await world.advance(1.0)
        for _ in range(3):
            world.balancers["edge"].chosen = {"gw-1"}
            await world.advance(1.0)
        assert world.traffic == [{"gw-1"}]
        found = as_json(world.view)["adapters"][0]
        assert found["foreign_writer"] is True
        assert found["detail"].startswith("foreign-writer: republish")
        await world.ask("republish")
        assert world.traffic == [ALL]
        assert world.kinds()[-1] == "republish"


async def test_one_deaf_load_balancer_does_not_hold_up_the_other():
    async with world_of(balancers=("edge-1", "edge-2")) as world:
        world.balancers["edge-1"].is_deaf = True
        world.fails = {"gw-1"}
        await world.advance(3.0)
        assert world.traffic == [ALL, {"gw-2", "gw-3"}]
        adapters = as_json(world.view)["adapters"]
        assert [a["in_sync"] for a in adapters] == [False, True]
        assert adapters[0]["detail"] == "edge-1: read only"
        world.balancers["edge-1"].is_deaf = False
        await world.advance(2.0)
        assert world.traffic == [{"gw-2", "gw-3"}] * 2


# ------------------------------------------------------------------ operators
@pytest.mark.parametrize("verb", ["resume", "failover", "switchover", "swap-roles", "accept"])
async def test_verbs_of_the_other_policy_are_refused_with_a_reason(verb):
    async with world_of() as world:
        with pytest.raises(Refused, match="active-active: every healthy node is in") as caught:
            await world.ask(verb)
        assert [g.id for g in caught.value.gates] == ["policy"]
        assert caught.value.paste == "lb-probe status gw"
        assert world.kinds() == []


async def test_republish_is_refused_where_nothing_may_be_written():
    async with world_of(replace(POOL, act=False)) as world:
        await world.ask("hold", hold_s=60.0, hands_off=True)
        with pytest.raises(Refused) as caught:
            await world.ask("republish")
        assert [(g.id, g.passed) for g in caught.value.gates] == [
            ("act", False),
            ("hands-off", False),
        ]


async def test_release_without_a_hold_is_refused():
    async with world_of() as world:
        with pytest.raises(Refused):
            await world.ask("release")


async def test_an_ack_is_kept_until_something_changes():
    async with world_of() as world:
        world.fails = {"gw-1"}
        await world.advance(3.0)
        view = await world.ask("ack", reason="on it")
        assert (view.saved.acked, view.generation) == ("ops: on it", 1)
        world.fails = set()
        await world.advance(3.0)
        assert world.view.saved.acked is None


async def test_an_ack_of_one_node_is_none_of_the_next_one():
    async with world_of(replace(POOL, panic_percent=0)) as world:
        world.fails = {"gw-1"}
        await world.advance(3.0)
        await world.ask("ack")
        world.fails = {"gw-1", "gw-2"}
        await world.advance(3.0)
        assert (world.view.condition, world.view.saved.acked) == ("some-out", None)


async def test_a_command_comes_back_when_the_load_balancer_follows():
    async with world_of() as world:
        await world.advance(1.0)
        await world.ask("hold", hold_s=60.0, hands_off=True)
        world.balancers["edge"].chosen = {"gw-1"}
        world.publishers[0].slow_s = 1.0
        await world.advance(1.0)
        view = await world.ask("release")
        assert [a.in_sync for a in view.adapters] == [True]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"verb": "hold", "reason": " "}, Invalid, "found no reason"),
        ({"verb": "hold"}, Invalid, "found no time"),
        ({"verb": "ack", "to": "gw-1"}, Invalid, "takes no node"),
        ({"verb": "ack", "override": frozenset({"x"})}, Invalid, "has no gate x"),
        ({"verb": "dance"}, NotFound, "no verb dance"),
        ({"verb": "ack", "generation": 7}, Conflict, "you looked at 7"),
    ],
)
async def test_what_cannot_be_understood_changes_nothing(fields, error, words):
    async with world_of() as world:
        with pytest.raises(error, match=words):
            await world.ask(**fields)
        assert world.kinds() == []


async def test_an_unknown_group_is_not_found():
    async with world_of() as world:
        with pytest.raises(NotFound, match="the groups are: gw"):
            world.controller.view("nobody")


async def test_a_command_that_cannot_be_saved_is_not_done():
    async with world_of() as world:
        world.store.is_full = True
        with pytest.raises(StoreError):
            await world.ask("hold", hold_s=60.0)
        assert world.view.hold is None
        assert not world.controller.is_store_writable


async def test_a_hold_that_somebody_else_saved_meanwhile_comes_into_force():
    async with world_of() as world:
        await world.ask("hold", hold_s=60.0)
        theirs = world.store.saved["gw"]
        await world.ask("release")
        world.store.saved["gw"] = replace(theirs, generation=9)
        with pytest.raises(Conflict):
            await world.ask("ack")
        assert (world.view.generation, world.view.hold) == (9, theirs.hold)


async def test_an_older_copy_of_the_store_is_not_taken_over():
    """Somebody restored a backup beneath a running prober: the hold in force stays in force."""
    async with world_of() as world:
        await world.ask("ack")
        older = world.store.saved["gw"]
        await world.ask("hold", hold_s=60.0)
        held = world.view.hold
        world.store.saved["gw"] = older
        with pytest.raises(Conflict):
            await world.ask("release")
        assert (world.view.generation, world.view.hold) == (2, held)
        (told,) = [e for e in world.events if e.name == "store.failed"]
        assert "older than 2, which is in force" in told.fields["detail"]


async def test_a_plan_says_what_would_follow_and_the_commands_are_literal():
    async with world_of() as world:
        await world.ask("hold", hold_s=60.0)
        world.fails = {"gw-1"}
        await world.advance(3.0)
        plan = world.controller.plan("gw", Ask("release", "ops", "done"))
        assert plan.warnings == ("without the hold gw-2+gw-3 would be in, now gw-1+gw-2+gw-3",)
        again = world.controller.plan("gw", Ask("hold", "ops", "more", hold_s=9.0))
        assert again.warnings == ("replaces the hold by ops: because",)
        assert world.controller.commands("gw", "gw-2+gw-3") == ["edge: use gw-2 gw-3"]
        assert world.controller.commands("gw", None) == []


async def test_conditions_that_are_told_are_those_of_the_table():
    async with world_of() as world:
        world.fails = {"gw-1"}
        await world.advance(3.0)
        told = {e.fields["condition"] for e in world.events if e.name == "group.condition"}
        assert told <= set(CONDITIONS)
        kinds = [r.kind for r in world.recorder.take()]
        assert kinds[0] == "began"
        assert {"condition", "observation"} < set(kinds)


async def test_a_group_that_a_reload_took_away_is_asked_no_more(monkeypatch):
    """A change that waited for its turn found the group gone, looked again, and waited again."""
    async with world_of() as world:
        await world.advance(2.0)
        controller = world.controller
        runtime, tries = controller._groups["gw"], []
        soon = controller._soon

        def counted(*given):
            tries.append(given)
            soon(*given)

        monkeypatch.setattr(controller, "_soon", counted)
        await runtime.lock.acquire()
        swap = asyncio.ensure_future(controller.swap([], frozenset()))
        await settle()
        for _ in range(3):
            now = world.clock.now
            seen = Observation("gw-2", Page.STATUS, now, now, Failed(world.phase, "no"))
            controller.observe("gw", seen)
            world.clock.now += INTERVAL_S
        assert len(tries) == 1
        runtime.lock.release()
        for _ in range(50):
            await asyncio.sleep(0)
        assert swap.done()
        assert len(tries) == 1
