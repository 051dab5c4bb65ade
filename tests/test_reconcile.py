"""One load balancer kept at what is wanted, on a virtual clock."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest
from simulated_world import VirtualClock, settle

from lb_probe.core.drift import PATIENCE, WINDOW_S
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable
from lb_probe.reconcile import (
    LONGEST_PAUSE_S,
    POLL_S,
    WATCHED_POLL_S,
    Fence,
    Reconciler,
    Wanted,
)


class Balancer:
    """A load balancer and the adapter that speaks to it."""

    type = "scripted"

    def __init__(self, clock, name="edge"):
        self.name = name
        self.clock = clock
        self.node = "a"
        self.run = 1
        self.is_up = True
        self.is_deaf = False
        self.refuses = False
        self.loses_answers = False  # does what it is told, and the answer never arrives
        self.gate = asyncio.Event()  # closed: a publication waits here
        self.gate.set()
        self.hangs = asyncio.Event()  # open: every question waits for ever
        self.asked = []
        self.written = []

    async def read_back(self):
        self.asked.append(self.clock.now)
        await self._answer()
        return Seen(self.node, (self.node,), usable=True, instance=f"run-{self.run}")

    async def publish(self, node):
        await self._answer()
        if self.refuses:
            raise PublishError(f"{self.name}: no such command")
        self.written.append(node)
        await self.gate.wait()
        if not self.is_deaf:
            self.node = node
        if self.loses_answers:
            raise Unreachable(f"{self.name}: connection reset")

    async def _answer(self):
        if self.hangs.is_set():
            await asyncio.get_running_loop().create_future()
        if not self.is_up:
            raise Unreachable(f"{self.name}: connection refused")

    def commands(self, node):
        return [f"use {node}"]

    def restart(self, node):
        """Forget: start anew with what its own file says."""
        self.run += 1
        self.node = node


class Gateway(Balancer):
    """One that can close, keeps a signature, and tells what changed."""

    def __init__(self, clock, name="edge"):
        super().__init__(clock, name)
        self.owner = ""
        self.left_there = ""
        self.busy = {}
        self.told = None

    async def publish(self, node):
        await super().publish(node)
        self.left_there = self.owner

    async def publish_nobody(self):
        await self._answer()
        self.node = None
        self.written.append(None)

    async def in_flight(self):
        return self.busy

    async def read_back(self):
        seen = await super().read_back()
        chosen = (self.node,) if self.node else ()
        return replace(seen, owner=self.left_there, chosen=chosen)

    def watch(self, changed):
        self.told = changed


class Blind(Balancer):
    """One that cannot be read, and would take a change all the same."""

    is_blind = False

    async def read_back(self):
        if self.is_blind:
            raise Unreachable(f"{self.name}: no answer")
        return await super().read_back()


class Saver(Balancer):
    """One whose moves are to be saved."""

    def __init__(self, clock, name="edge"):
        super().__init__(clock, name)
        self.may = []
        self.unsettled = ""

    async def read_back(self):
        return replace(await super().read_back(), unsettled=self.unsettled)

    def settle(self, *, may_write):
        self.may.append(may_write)

    async def settle_now(self):
        """Never asked here."""


class Case:
    """A reconciler over one scripted load balancer, with what it told and confirmed."""

    def __init__(
        self, clock, confirmed=1, name="edge", kind=Balancer, signature="", elsewhere=frozenset()
    ):
        self.clock = clock
        self.lb = kind(clock, name)
        self.events = []
        self.confirms = []
        self.changes = 0
        self.store_works = True
        self.reconciler = Reconciler(
            "epmm",
            self.lb,
            clock,
            self,
            confirm=self._confirm,
            confirmed=confirmed,
            changed=self._changed,
            signature=signature,
            elsewhere=elsewhere,
        )
        self.task = None

    def emit(self, event):
        self.events.append(event)

    async def _confirm(self, adapter, generation):
        self.confirms.append((adapter, generation))
        return self.store_works

    def _changed(self):
        self.changes += 1

    def want(self, node, generation, *, may_write=True, decided_at=0.0):
        self.reconciler.want(Wanted(node, generation, may_write, decided_at))

    def names(self):
        return [e.name for e in self.events]

    def start(self):
        self.task = asyncio.ensure_future(self.reconciler.run())

    @property
    def view(self):
        return self.reconciler.view


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
async def make(clock):
    """Makes a reconciler that runs and is in sync: `a` is wanted, seen and confirmed."""
    cases = []

    async def made(**options):
        case = Case(clock, **options)
        cases.append(case)
        case.want("a", 1)
        case.start()
        await clock.advance(1)
        assert case.reconciler.is_in_sync
        assert case.lb.written == []
        return case

    yield made
    for case in cases:
        case.task.cancel()
    await asyncio.gather(*(case.task for case in cases), return_exceptions=True)


@pytest.fixture
async def case(make):
    return await make()


# ------------------------------------------------------------------ what is wanted is done
async def test_new_wish_is_carried_out_at_once_and_confirmed(case, clock):
    case.want("b", 2, decided_at=clock.now - 0.5)
    await settle()  # no time passes
    assert (case.lb.node, case.lb.written) == ("b", ["b"])
    assert case.confirms == [("edge", 2)]
    assert case.reconciler.confirmed == 2
    confirmed = case.events[-1]
    assert (confirmed.name, confirmed.group) == ("publish.confirmed", "epmm")
    assert confirmed.fields == {"adapter": "edge", "node": "b", "generation": 2, "seconds": 0.5}
    assert case.names() == ["publish.sent", "publish.done", "publish.confirmed"]
    assert case.changes > 0


async def test_a_change_is_read_before_it_is_written(make, clock):
    """A process that hangs carries out what waited in its queue when it wakes: long after us."""
    case = await make(kind=Blind)
    case.lb.is_blind = True
    case.want("b", 2)
    await clock.advance(3)
    assert case.lb.written == []
    case.lb.is_blind = False
    await clock.advance(2)
    assert case.lb.written == ["b"]


async def test_the_same_node_set_by_somebody_else_keeps_his_name(make):
    """X21: to write it once more would sign his word with ours, unseen."""
    case = await make(kind=Gateway, signature="us")
    case.lb.node, case.lb.left_there = "b", "them.g9"
    case.want("b", 2)
    await settle()
    assert (case.lb.written, case.lb.left_there, case.confirms) == ([], "them.g9", [("edge", 2)])


async def test_generation_that_moves_nothing_is_confirmed_without_a_write(case):
    case.want("a", 2)
    await settle()
    assert (case.lb.written, case.confirms) == ([], [("edge", 2)])


async def test_nothing_is_written_or_confirmed_twice(case, clock):
    case.want("b", 2)
    await clock.advance(120)
    assert (case.lb.written, case.confirms) == (["b"], [("edge", 2)])
    gaps = [b - a for a, b in pairwise(case.lb.asked[-100:])]
    assert max(gaps) <= POLL_S + 0.01  # and yet it is looked at all the time


async def test_nobody_wanted_is_nothing_written(case, clock):
    case.want(None, 2)
    case.lb.node = "b"
    await clock.advance(10)
    assert (case.lb.written, case.confirms) == ([], [])
    assert not case.reconciler.is_in_sync


async def test_hung_load_balancer_does_not_delay_another(make, clock):
    hung, well = await make(name="hung"), await make(name="well")
    hung.lb.hangs.set()
    await clock.advance(1)
    hung.want("b", 2)
    well.want("b", 2)
    await settle()
    assert (hung.lb.node, well.lb.node) == ("a", "b")
    assert well.reconciler.confirmed == 2
    assert hung.reconciler.confirmed == 1


async def test_first_look_gives_up_on_a_load_balancer_that_hangs(clock):
    case = Case(clock)
    case.lb.hangs.set()
    assert await case.reconciler.first_look(0.01) is None
    assert case.view.detail == "no answer in 0.01s"


async def test_first_look_gives_up_on_a_load_balancer_that_is_down(clock):
    case = Case(clock)
    case.lb.is_up = False
    assert await case.reconciler.first_look(5.0) is None
    assert case.view.detail == "edge: connection refused"


# ------------------------------------------------------------------ unreachable
async def test_unreachable_one_is_tried_for_ever_with_short_pauses(case, clock):
    case.lb.is_up = False
    await clock.advance(1)
    case.want("b", 2)
    before = len(case.lb.asked)
    await clock.advance(3600)
    tries = case.lb.asked[before:]
    assert len(tries) >= 3600 / LONGEST_PAUSE_S
    assert max(b - a for a, b in pairwise(tries)) <= LONGEST_PAUSE_S + 0.01
    assert case.view.seen is None
    assert case.view.detail == "edge: connection refused"
    assert not case.reconciler.is_in_sync
    assert case.names().count("publish.failed") == 1  # the same failure is told once
    case.lb.is_up = True
    await clock.advance(LONGEST_PAUSE_S + 0.01)
    assert (case.lb.node, case.reconciler.confirmed) == ("b", 2)


async def test_another_failure_and_one_after_a_success_are_told_again(case, clock):
    for _ in range(2):
        case.lb.is_up = False
        await clock.advance(2)
        case.lb.is_up = True
        await clock.advance(2)
    assert case.names().count("publish.failed") == 2
    case.lb.refuses = True
    case.want("b", 2)
    await clock.advance(2)
    told = [e.fields["result"] for e in case.events if e.name == "publish.failed"]
    assert told == ["unreachable", "unreachable", "refused"]


# ------------------------------------------------------------------ restarts and hands
async def test_every_restart_is_repaired_within_a_second_however_many_come(case, clock):
    for _ in range(10):
        case.lb.restart("b")
        await clock.advance(1)
        assert case.lb.node == "a"
        assert case.reconciler.is_in_sync
    assert not case.view.yielded
    assert [e.fields["restarted"] for e in case.events if e.name == "publish.drift"] == [True] * 10
    assert case.confirms == []  # the generation was confirmed long ago


async def test_hand_is_corrected_twice_and_the_third_time_the_adapter_yields(case, clock):
    for times in range(1, PATIENCE):
        case.lb.node = "b"
        await clock.advance(1)
        assert (case.lb.node, len(case.lb.written)) == ("a", times)
    case.lb.node = "b"
    await clock.advance(1)
    assert case.view.yielded
    assert not case.reconciler.is_in_sync
    assert case.names().count("publish.foreign-writer") == 1
    await clock.advance(600)
    case.lb.restart("b")
    await clock.advance(10)
    assert (case.lb.node, case.lb.written) == ("b", ["a", "a"])
    assert case.names().count("publish.foreign-writer") == 1
    assert case.view.seen.node == "b"  # it writes no more, and looks all the same


async def test_new_wish_does_not_end_a_yield(case, clock):
    for _ in range(PATIENCE):
        case.lb.node = "b"
        await clock.advance(1)
    case.want("a", 2)
    await clock.advance(10)
    assert (case.lb.node, case.lb.written) == ("b", ["a", "a"])
    assert case.confirms == []


async def test_hands_that_come_seldom_are_always_corrected(case, clock):
    for _ in range(5):
        case.lb.node = "b"
        await clock.advance(WINDOW_S / 2)
        assert case.lb.node == "a"
    assert not case.view.yielded


async def test_repair_that_does_not_take_is_one_drift_however_often_it_is_tried(case, clock):
    case.lb.refuses = True
    case.lb.node = "b"
    await clock.advance(30)
    assert not case.view.yielded
    assert case.names().count("publish.drift") == 1
    case.lb.refuses = False
    await clock.advance(LONGEST_PAUSE_S + 0.01)
    assert case.lb.node == "a"


async def test_restart_whose_repair_fails_at_first_is_no_hand(case, clock):
    case.lb.restart("b")
    case.lb.refuses = True
    await clock.advance(30)
    case.lb.refuses = False
    await clock.advance(2)
    assert (case.lb.node, case.view.yielded) == ("a", False)


async def test_take_back_writes_again_at_once_and_with_new_patience(case, clock):
    for _ in range(PATIENCE):
        case.lb.node = "b"
        await clock.advance(1)
    assert case.view.yielded
    case.reconciler.take_back()
    await settle()
    assert (case.lb.node, case.view.yielded) == ("a", False)
    case.lb.node = "b"
    await clock.advance(1)
    assert case.lb.node == "a"
    assert not case.view.yielded


async def test_take_back_writes_even_where_all_seems_well_and_only_once(case, clock):
    case.reconciler.take_back()
    await clock.advance(10)
    assert case.lb.written == ["a"]


async def test_take_back_is_kept_until_the_load_balancer_can_be_reached(case, clock):
    case.lb.is_up = False
    case.reconciler.take_back()
    await clock.advance(5)
    case.lb.is_up = True
    await clock.advance(5)
    assert case.lb.written == ["a"]


# ------------------------------------------------------------------ what is said and what is so
async def test_load_balancer_that_accepts_and_does_nothing_is_never_confirmed(case, clock):
    case.lb.is_deaf = True
    case.want("b", 2)
    await clock.advance(60)
    assert case.confirms == []
    assert not case.reconciler.is_in_sync
    assert case.view.detail.startswith("asked for b, reads back a")
    assert len(case.lb.written) > 10
    assert "publish.done" not in case.names()
    case.lb.is_deaf = False
    await clock.advance(2)
    assert case.reconciler.confirmed == 2
    assert case.view.detail == ""


async def test_publication_whose_outcome_is_unknown_is_resolved_by_reading(case, clock):
    case.lb.loses_answers = True
    case.want("b", 2)
    await settle()
    assert case.confirms == []  # an error is no confirmation, whatever became of it
    assert case.view.detail == "edge: connection reset"
    await clock.advance(LONGEST_PAUSE_S + 0.01)
    assert case.lb.written == ["b"]  # seen to be done: not written again
    assert case.confirms == [("edge", 2)]


async def test_confirmation_that_cannot_be_saved_is_tried_again_without_a_write(case, clock):
    case.store_works = False
    case.want("b", 2)
    await clock.advance(5)
    assert case.lb.written == ["b"]
    assert len(case.confirms) > 5
    assert case.reconciler.confirmed == 1
    assert "publish.confirmed" not in case.names()
    case.store_works = True
    await clock.advance(POLL_S)
    assert case.reconciler.confirmed == 2
    tried = len(case.confirms)
    await clock.advance(10)
    assert len(case.confirms) == tried
    assert case.names().count("publish.confirmed") == 1


# ------------------------------------------------------------------ hands off
async def test_nothing_is_written_where_nothing_may_be(case, clock):
    case.want("a", 2, may_write=False)
    case.lb.node = "b"
    await clock.advance(5)
    case.lb.restart("b")
    await clock.advance(5)
    case.want("c", 3, may_write=False)
    await clock.advance(5)
    case.reconciler.take_back()
    await clock.advance(5)
    assert case.lb.written == []
    assert not case.reconciler.is_in_sync
    assert case.view.seen.node == "b"  # looking is allowed
    assert not case.view.yielded


async def test_drift_under_hands_off_is_repaired_as_soon_as_writing_is_allowed(case, clock):
    case.want("a", 2, may_write=False)
    await clock.advance(1)
    case.lb.node = "b"
    await clock.advance(30)
    case.want("a", 3)
    await settle()
    assert (case.lb.node, case.reconciler.confirmed) == ("a", 3)


# ------------------------------------------------------------------ a wish that changes
async def test_wish_that_changes_during_a_slow_publication_ends_at_the_newest(case, clock):
    case.lb.gate.clear()
    case.want("b", 2)
    await clock.advance(5)
    assert case.lb.written == ["b"]
    case.want("c", 3)
    case.want("a", 4)
    await clock.advance(5)
    case.lb.gate.set()
    await settle()
    assert (case.lb.node, case.lb.written) == ("a", ["b", "a"])
    assert case.confirms == [("edge", 4)]
    assert not case.view.yielded


async def test_hands_off_during_a_slow_publication_stops_the_next_write(case, clock):
    case.lb.gate.clear()
    case.want("b", 2)
    await clock.advance(1)
    case.want("a", 3, may_write=False)
    case.lb.gate.set()
    await clock.advance(10)
    assert case.lb.written == ["b"]
    assert not case.reconciler.is_in_sync


async def test_wish_during_a_pause_after_a_failure_is_tried_at_once(case, clock):
    case.lb.is_up = False
    await clock.advance(30)
    case.lb.is_up = True
    case.want("b", 2)
    await settle()
    assert (case.lb.node, case.reconciler.confirmed) == ("b", 2)


# ------------------------------------------------------------------ all close before one opens
async def test_no_node_has_traffic_before_all_load_balancers_have_drained(make, clock):
    one = await make(kind=Gateway, name="one")
    two = await make(kind=Gateway, name="two")
    one.lb.busy = {"a": 3}
    fence = Fence(["one", "two"], until=clock.now + 5)
    for case in (one, two):
        case.reconciler.want(Wanted("b", 2, may_write=True, fence=fence))
    await clock.advance(2)
    assert (one.lb.node, two.lb.node) == (None, None)
    assert (one.confirms, two.confirms) == ([], [])

    one.lb.busy = {}
    await clock.advance(0.2)

    assert (one.lb.written, two.lb.written) == ([None, "b"], [None, "b"])
    assert (one.confirms, two.confirms) == ([("one", 2)], [("two", 2)])


async def test_a_request_that_hangs_delays_a_switchover_to_its_deadline_and_no_longer(make, clock):
    one = await make(kind=Gateway, name="one")
    two = await make(kind=Gateway, name="two")
    one.lb.busy = {"a": 1}
    two.lb.is_up = False
    fence = Fence(["one", "two"], until=clock.now + 5)
    for case in (one, two):
        case.reconciler.want(Wanted("b", 2, may_write=True, fence=fence))
    await clock.advance(4.9)
    assert one.lb.node is None
    await clock.advance(0.3)
    assert one.lb.node == "b"
    two.lb.is_up = True
    await clock.advance(2)
    assert two.lb.written == ["b"]  # it comes late and has nothing to wait for


async def test_a_load_balancer_that_cannot_close_does_not_hold_up_the_others(make, clock):
    one = await make(kind=Gateway, name="one")
    plain = await make(name="plain")
    fence = Fence(["one", "plain"], until=clock.now + 5)
    for case in (one, plain):
        case.reconciler.want(Wanted("b", 2, may_write=True, fence=fence))
    await clock.advance(0.5)
    assert (one.lb.node, plain.lb.node) == ("b", "b")


async def test_an_operator_who_thinks_better_of_it_is_obeyed_at_once(make, clock):
    case = await make(kind=Gateway)
    case.lb.busy = {"a": 1}
    case.reconciler.want(Wanted("b", 2, may_write=True, fence=Fence(["edge"], clock.now + 60)))
    await clock.advance(1)
    assert case.lb.node is None
    case.want("a", 3)
    await clock.advance(1)
    assert (case.lb.node, case.lb.written) == ("a", [None, "a"])
    assert case.confirms == [("edge", 3)]


# ------------------------------------------------------------------ who wrote last
async def test_what_another_prober_signed_is_not_taken_back(make, clock):
    case = await make(kind=Gateway, signature="here")
    case.want("b", 2)
    await settle()
    assert case.lb.left_there == "here.g2"

    case.lb.node, case.lb.left_there = "a", "there.g9"
    case.lb.told(None)
    await clock.advance(1)

    assert case.view.yielded
    assert (case.lb.node, case.lb.written) == ("a", ["b"])
    assert case.names().count("publish.foreign-writer") == 1


async def test_our_own_new_change_goes_over_an_old_signature(make, clock):
    case = await make(kind=Gateway, signature="here")
    case.lb.left_there = "the-machine-before.g4"
    await clock.advance(1)
    assert not case.view.yielded  # it agrees: nothing to quarrel over
    case.want("b", 2)
    await clock.advance(1)
    assert (case.lb.node, case.lb.left_there) == ("b", "here.g2")


async def test_after_a_restart_an_old_signature_is_no_foreign_hand(make, clock):
    case = await make(kind=Gateway, signature="here")
    case.lb.left_there = "the-machine-before.g4"
    case.lb.restart("b")
    case.lb.told(None)
    await clock.advance(1)
    assert (case.lb.node, case.view.yielded) == ("a", False)
    assert case.reconciler.restarts == 1


# ------------------------------------------------------------------ looked at for many at once
async def test_one_that_tells_of_changes_is_not_asked_all_the_time(make, clock):
    case = await make(kind=Gateway)
    asked = len(case.lb.asked)
    await clock.advance(WATCHED_POLL_S - 1.5)
    assert len(case.lb.asked) == asked

    case.lb.node = "b"
    case.lb.told(None)
    await settle()
    assert (case.lb.node, case.lb.written) == ("a", ["a"])


async def test_one_that_forgets_to_tell_is_repaired_all_the_same(make, clock):
    case = await make(kind=Gateway)
    case.lb.node = "b"
    await clock.advance(WATCHED_POLL_S + 1)
    assert case.lb.node == "a"


# ------------------------------------------------------------------ what follows a move
async def test_only_what_agrees_and_may_be_written_is_settled(make, clock):
    """A save would make permanent what a hand did, or what nobody may write."""
    case = await make(kind=Saver)
    assert case.lb.may[-1] is True
    case.lb.is_deaf, case.lb.node, case.lb.may = True, "b", []
    await clock.advance(1)
    assert case.lb.may == []
    case.want("b", 2, may_write=False)
    await clock.advance(1)
    assert set(case.lb.may) == {False}
    case.want("b", 3)
    await clock.advance(1)
    assert case.lb.may[-1] is True
    case.lb.is_deaf = False
    while not case.view.yielded:
        case.lb.node = "a"
        await clock.advance(1)
    case.lb.may = []
    await clock.advance(1)
    assert set(case.lb.may) == {False}


async def test_what_is_not_settled_is_told_once_for_each_wording_and_no_failure(make, clock):
    case = await make(kind=Saver)
    for text in ("the save failed", "the save failed", "config-sync failed", ""):
        case.lb.unsettled = text
        await clock.advance(1)
    told = [e for e in case.events if e.name in ("publish.unsettled", "publish.settled")]
    assert [e.fields.get("detail") for e in told] == [
        "the save failed",
        "config-sync failed",
        None,
    ]
    assert case.reconciler.is_in_sync
    assert "publish.failed" not in case.names()


# ------------------------------------------------------------------ tiers
async def test_a_node_of_another_tier_is_nothing_to_do_here(make, clock):
    """R43: whatever this tier does, it is right while the traffic goes elsewhere."""
    case = await make(kind=Gateway, elsewhere=frozenset({"dr"}))
    case.want("dr", 2)
    await clock.advance(1)
    assert (case.lb.written, case.lb.node, case.reconciler.confirmed) == ([], "a", 2)
    assert case.reconciler.is_in_sync
    assert case.view.detail == "dr is behind another tier; here traffic stays with a"
    case.reconciler.take_back()
    case.lb.node = None
    await clock.advance(1)
    assert (case.lb.written, case.reconciler.is_in_sync) == ([], True)
    case.want("b", 3)
    await clock.advance(1)
    assert case.lb.written == ["b"]


async def test_a_fence_does_not_wait_for_one_that_need_not_move(make, clock):
    case = await make(kind=Gateway)
    fence = Fence(["edge", "other"], clock.now + 60)
    case.reconciler.want(Wanted("a", 2, may_write=True, fence=fence))
    await clock.advance(1)
    assert fence.left_s(clock.now) > 0
    await fence.arrive("other", clock)
    assert case.lb.written == []


# ------------------------------------------------------------------ answers that get lost
async def test_a_republish_of_unknown_outcome_is_over_once_it_reads_right(make, clock):
    case = await make()
    case.lb.refuses = True
    case.reconciler.take_back()
    await clock.advance(1)
    assert case.lb.written == []
    case.lb.refuses = False
    await clock.advance(5)
    assert case.lb.written == []  # it reads right: to write once more would overrule who comes next
