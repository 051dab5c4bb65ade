"""Replay of recorded stories: the same configuration does what was done, another one what it would.

The stories are the scenarios of `test_scenarios`, told by the real controller, and a few more.
"""

import asyncio
import json
import random
import re
import shlex
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_world import ModelBalancer, World, pair
from test_scenarios import SCENARIOS, Story

from lb_probe import history
from lb_probe.controller import Ask
from lb_probe.core.model import Node, Role
from lb_probe.ports import Record
from lb_probe.replay import Setting, compare

CADENCE_S = 1.3  # from one probe of a page to the next, and what the world's steps add
# Brakes that lie outside of what is replayed: other groups, another file in between, another store.
APART = {
    "limit_of_failovers_over_all_groups",
    "act_no_becomes_act_yes_while_the_primary_is_dead",
    "store_goes_back_while_the_prober_runs",
}


def setting(group, name="old", **changes):
    pace = {"interval_s": 1.0, "recheck_s": 0.25, "timeout_s": 1.0}
    pace |= {key: changes.pop(key) for key in pace.keys() & changes.keys()}
    pace["witnesses"] = changes.pop("witnesses", frozenset())
    return Setting(name, replace(group, **changes), **pace)


def exported(records):
    """What an export and an import make of records."""
    lines = history.lines_of([history.as_json(r) for r in records], "1.2.3")
    return history.read("export", "".join(lines).encode())


@asynccontextmanager
async def telling(**changes):
    world = World(pair(**changes), {"edge": ModelBalancer("edge", {"a"})}, lambda event: None)
    try:
        await world.start_prober()
        await world.advance(5)
        yield world
    finally:
        await world.kill_prober()


async def operate(world, verb, **more):
    ask = Ask(verb, "ops", "because", **more)
    acting = asyncio.ensure_future(world.controller.act("epmm", ask))
    while not acting.done():
        await world.advance(0.05)
    acting.result()


def moves(answer, column):
    return [fault["would"][column]["to"] for fault in answer["faults"]]


# ------------------------------------------------------------------ the same configuration
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
async def test_replay_with_the_same_configuration_makes_the_moves_that_were_made(path):
    random.seed(0)
    story = Story()
    try:
        for block in path.read_text().strip().split("\n\n"):
            for line in block.split("\n----")[0].splitlines():
                if not line.startswith("#"):
                    verb, *words = shlex.split(line)
                    await getattr(story, verb)(*words)
        await story.world.advance(3)
    finally:
        await story.world.kill_prober()
    objecting = story.world.balancers if story.world.witness != "off" else ()
    same = [setting(story.world.group, witnesses=frozenset(objecting))]
    records = exported(story.world.store.records)
    answer = compare(records, same)
    assert answer == compare(records, same, may_skip=False)
    if path.stem in APART:
        return
    for fault in answer["faults"]:
        (would,), really = fault["would"], fault["really"]
        if really["by"] == "the rule":
            assert would["to"] == really["to"]
            assert abs(would["after_s"] - really["after_s"]) <= CADENCE_S
        else:
            assert would["to"] is None, (fault["at"], would, really)


@settings(deadline=None, max_examples=25)
@given(
    plan=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["dead", "hung", "broken", "up"]),
            st.floats(0.3, 15.0),
        ),
        max_size=8,
    )
)
def test_any_story_is_replayed_with_the_moves_that_were_made(plan):
    async def tell():
        async with telling(confirm_s=2.0) as world:
            for node, state, seconds in plan:
                world.nodes[node].state = state
                await world.advance(seconds)
            await world.advance(12)
            return world.group, exported(world.store.records)

    group, records = asyncio.run(tell())
    answer = compare(records, [setting(group)])
    assert answer == compare(records, [setting(group)], may_skip=False)
    really = [r for r in records if r.kind == "failover"]
    made = [f for f in answer["faults"] if f["would"][0]["to"]]
    # A fault that ends just as it is confirmed may fall on either side of one probe.
    close = [f for f in answer["faults"] if f["lasted_s"] and abs(f["lasted_s"] - 2.0) < 3.0]
    # The same goes for a Secondary whose page changes just then.
    moved_at = [history.wall_of(f["at"]) + f["would"][0]["after_s"] for f in made]
    moved_at += [r.at_wall for r in really]
    changed_at = [r.at_wall for r in records if r.details.get("node") == "b"]
    close += [at for at in moved_at if any(abs(at - other) < 3.0 for other in changed_at)]
    assert len(made) == len(really) or close
    for fault in made:
        if fault["really"]["to"]:
            assert abs(fault["would"][0]["after_s"] - fault["really"]["after_s"]) < 3.0 or close


# ------------------------------------------------------------------ another configuration
async def blip(seconds, **changes):
    async with telling(**changes) as world:
        world.nodes["a"].state = "dead"
        await world.advance(seconds)
        world.nodes["a"].state = "up"
        await world.advance(30)
        return world.group, exported(world.store.records)


async def test_blip_of_5_seconds_moves_with_confirm_2s_and_not_with_10s():
    group, records = await blip(5.0, confirm_s=10.0)
    both = [setting(group), setting(group, "new", confirm_s=2.0)]
    (fault,) = compare(records, both)["faults"]
    old, new = fault["would"]
    assert (old["to"], new["to"]) == (None, "b")
    assert 2.0 <= new["after_s"] <= 2.0 + CADENCE_S
    assert "wants 3 over 10s" in old["why"]
    assert fault["really"]["why"] == "no move"
    assert 4.0 < fault["lasted_s"] < 6.0


async def test_slower_configuration_moves_later_by_as_much():
    group, records = await blip(40.0, confirm_s=2.0)
    slow = setting(group, "new", confirm_s=20.0)
    (fault,) = compare(records, [setting(group), slow])["faults"]
    first, second = (would["after_s"] for would in fault["would"])
    assert abs(fault["really"]["after_s"] - first) <= CADENCE_S
    assert abs(second - first - 18.0) <= CADENCE_S


async def test_fall_and_interval_and_timeout_of_the_other_configuration_count():
    group, records = await blip(40.0, confirm_s=0.0)
    some = [
        setting(group),
        setting(group, fall=10, recheck_s=1.0),
        setting(group, fall=2, interval_s=5.0, recheck_s=5.0, max_age_s=15.0),
        setting(group, fall=10),
    ]
    (fault,) = compare(records, some)["faults"]
    quick, many, seldom, soon = (would["after_s"] for would in fault["would"])
    assert quick < 1.5 + CADENCE_S
    assert 2.25 <= soon <= 2.25 + CADENCE_S
    assert 9.0 <= many <= 10.0 + CADENCE_S
    assert 5.0 <= seldom <= 15.0


async def hangs(seconds, **changes):
    async with telling(**changes) as world:
        world.nodes["a"].state = "hung"
        await world.advance(seconds)
        return world.group, exported(world.store.records)


async def test_primary_that_hangs_is_asked_beside_a_probe_that_is_overdue():
    group, records = await hangs(60.0, confirm_s=0.0, max_age_s=20.0)
    patient = {"timeout_s": 5.0, "max_age_s": 20.0}
    some = [
        setting(group, **patient),
        setting(group, **patient, fall=5),
        setting(group, **patient, recheck_s=6.0),  # never overdue: one after another
    ]
    (fault,) = compare(records, some)["faults"]
    beside, more, apart = (would["after_s"] for would in fault["would"])
    assert 5.5 <= beside <= 6.5 + CADENCE_S
    assert more - beside == pytest.approx(0.5, abs=0.01)
    assert 17.0 <= apart <= 18.0 + CADENCE_S
    assert compare(records, some) == compare(records, some, may_skip=False)


async def test_move_that_only_the_other_configuration_makes_does_not_hide_the_next_fault():
    async with telling(confirm_s=10.0) as world:
        for _ in range(3):
            world.nodes["a"].state = "dead"
            await world.advance(5)
            world.nodes["a"].state = "up"
            await world.advance(30)
        group, records = world.group, exported(world.store.records)
    answer = compare(records, [setting(group), setting(group, confirm_s=2.0)])
    assert moves(answer, 0) == [None] * 3
    assert moves(answer, 1) == ["b"] * 3
    assumed = [fault["would"][1]["resume_assumed"] for fault in answer["faults"]]
    assert assumed == [False, True, True]


async def test_hold_and_resume_of_an_operator_are_replayed_at_their_times():
    async with telling(confirm_s=2.0) as world:
        await operate(world, "hold", hold_s=3600.0)
        world.nodes["a"].state = "dead"
        await world.advance(10)
        world.nodes["a"].state = "up"
        await world.advance(5)
        await operate(world, "release")
        world.nodes["a"].state = "dead"
        await world.advance(10)
        world.nodes["a"].state = "up"
        await world.advance(5)
        await operate(world, "resume", attest={"synced": "yes"})
        await world.advance(5)
        world.nodes["a"].state = "dead"
        await world.advance(30)
        group, records = world.group, exported(world.store.records)
    answer = compare(records, [setting(group), setting(group, confirm_s=4.0)])
    assert moves(answer, 0) == [None, "b", "b"]
    assert moves(answer, 1) == [None, "b", "b"]
    assert "failover-blocked (hold)" in answer["faults"][0]["would"][0]["why"]
    assert [f["really"]["to"] for f in answer["faults"]] == [None, "b", "b"]


@pytest.mark.parametrize(
    ("verb", "b", "did"),
    [("failover", "up", "ops moved traffic"), ("swap-roles", "dead", "ops swapped roles")],
)
async def test_what_an_operator_did_before_the_rule_is_the_reason_why_nothing_moves(verb, b, did):
    async with telling(confirm_s=20.0) as world:
        world.nodes["a"].state, world.nodes["b"].state = "dead", b
        await world.advance(10)
        await operate(world, verb)
        await world.advance(30)
        group, records = world.group, exported(world.store.records)
    answer = compare(records, [setting(group)])
    assert moves(answer, 0)[0] is None
    assert re.match(rf"{did} after 1?\d\.\ds", answer["faults"][0]["would"][0]["why"])


async def test_act_false_says_what_it_would_have_blocked_and_when():
    group, records = await blip(20.0, confirm_s=2.0)
    (fault,) = compare(records, [setting(group, act=False)])["faults"]
    assert fault["would"][0]["to"] is None
    assert fault["would"][0]["why"].startswith("failover-blocked (act) after ")


async def test_secondary_that_is_down_is_the_reason_why_nothing_moves():
    async with telling(confirm_s=2.0) as world:
        world.nodes["b"].state = "dead"
        await world.advance(5)
        world.nodes["a"].state = "dead"
        await world.advance(15)
        group, records = world.group, exported(world.store.records)
    (fault,) = compare(records, [setting(group, confirm_s=5.0)])["faults"]
    assert fault["would"][0]["why"].startswith("no-standby after ")
    assert (fault["lasted_s"], fault["ended"]) == (None, "open")


async def test_while_the_prober_was_cut_off_nothing_moves():
    async with telling(confirm_s=2.0) as world:
        world.references = True
        await world.advance(1)
        world.references = False
        await world.advance(3)
        world.nodes["a"].state = "dead"
        await world.advance(20)
        world.references = True
        await world.advance(0.6)
        world.nodes["a"].state = "up"
        await world.advance(20)
        group, records = world.group, exported(world.store.records)
    (fault,) = compare(records, [setting(group)])["faults"]
    assert fault["really"]["why"] == "no move"
    assert fault["would"][0]["why"].startswith("prober-isolated after ")


async def test_long_fault_that_moves_late_is_the_same_with_and_without_what_is_left_out():
    async with telling(confirm_s=2.0) as world:
        world.nodes["b"].state = "dead"
        world.nodes["a"].state = "hung"
        await world.advance(1800.3)
        world.nodes["b"].state = "up"
        await world.advance(20)
        group, records = world.group, exported(world.store.records)
    answer = compare(records, [setting(group)])
    assert answer == compare(records, [setting(group)], may_skip=False)
    (fault,) = answer["faults"]
    assert fault["would"][0]["to"] == fault["really"]["to"] == "b"


async def test_while_no_prober_ran_nothing_is_known_and_nothing_moves():
    async with telling(confirm_s=2.0) as world:
        world.nodes["a"].state = "dead"
        await world.advance(1.5)
        await world.kill_prober()
        await world.advance(60)
        world.nodes["a"].state = "up"
        await world.start_prober()
        await world.advance(30)
        group, records = world.group, exported(world.store.records)
    answer = compare(records, [setting(group, confirm_s=5.0)])
    assert moves(answer, 0) == [None]
    assert answer["faults"][0]["ended"] == "stopped"


async def test_clock_that_is_set_shifts_nothing():
    async with telling(confirm_s=2.0) as world:
        world.clock.offset -= 86_400.0
        await world.advance(5)
        world.nodes["a"].state = "dead"
        await world.advance(10)
        group, records = world.group, exported(world.store.records)
    (fault,) = compare(records, [setting(group)])["faults"]
    assert abs(fault["would"][0]["after_s"] - fault["really"]["after_s"]) <= CADENCE_S


async def test_days_of_quiet_are_left_out_and_change_nothing():
    async with telling(confirm_s=2.0) as world:
        group, records = world.group, list(world.store.records)
        world.nodes["a"].state = "dead"
        await world.advance(20)
        records = exported(world.store.records)
    quiet_s = 6 * 3600.0
    cut = next(n for n, r in enumerate(records) if r.details.get("result") == "failed" and n > 8)
    later = [*records[:cut], *(_later(r, quiet_s) for r in records[cut:])]
    same = [setting(group)]
    fast, slow = compare(later, same), compare(later, same, may_skip=False)
    assert fast == slow
    near = compare(records, same)["faults"][-1]["would"][0]
    far = fast["faults"][-1]["would"][0]
    assert (far["to"], near["to"]) == ("b", "b")
    assert abs(far["after_s"] - near["after_s"]) <= CADENCE_S


def _later(record, seconds):
    details = dict(record.details)
    details["up"] += seconds
    for key in details.keys() & {"started", "ended"}:
        details[key] = history.iso_ms(history.wall_of(details[key]) + seconds)
    return Record(record.group, record.kind, record.at_wall + seconds, record.generation, details)


# ------------------------------------------------------------------ what it is told, what it says
async def test_same_history_and_configurations_give_the_same_bytes():
    group, records = await blip(5.0, confirm_s=10.0)
    both = [setting(group), setting(group, "new", confirm_s=2.0)]
    first = json.dumps(compare(records, both))
    assert first == json.dumps(compare(list(records), list(both)))


async def test_only_faults_since_so_long_before_the_end_are_listed():
    async with telling(confirm_s=10.0) as world:
        for _ in range(2):
            world.nodes["a"].state = "dead"
            await world.advance(5)
            world.nodes["a"].state = "up"
            await world.advance(60)
        group, records = world.group, exported(world.store.records)
    assert len(compare(records, [setting(group)])["faults"]) == 2
    assert len(compare(records, [setting(group)], since_s=90.0)["faults"]) == 1
    assert compare(records, [setting(group)], since_s=10.0)["faults"] == []


async def test_node_of_which_the_history_knows_nothing_is_named():
    group, records = await blip(5.0)
    other = replace(group, nodes=(group.nodes[0], Node("c", Role.SECONDARY, candidate=True)))
    answer = compare(records, [setting(group), setting(other)])
    assert answer["unseen"] == [[], ["c"]]
    assert moves(answer, 1) == [None]


def test_history_of_nothing_has_no_faults():
    assert compare([], [setting(pair())])["faults"] == []


async def test_history_that_begins_in_the_middle_knows_where_traffic_was_by_its_first_change():
    group, records = await blip(40.0, confirm_s=2.0)
    start = next(n for n, r in enumerate(records) if r.details.get("result") == "failed" and n > 8)
    pages = [r for r in records[:start] if r.kind == "observation"]
    (fault,) = compare([*pages, *records[start:]], [setting(group)])["faults"]
    assert fault["would"][0]["to"] == fault["really"]["to"] == "b"
