"""What `explain` says in every condition, as somebody reads it who was woken by it.

A file of tests/golden/explain is a story (commands of `test_scenarios`), `----`, and the answer.
`pytest --rewrite` writes the answers anew; read the diff before committing it. Each answer is then
held against what the simulated world does next: what it promises must come, and nothing earlier.
"""

import random
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from test_scenarios import Story

from lb_probe.core.explain import explain
from lb_probe.core.failover import CONDITIONS
from lb_probe.core.model import Automation

FOLDER = Path(__file__).parent / "golden" / "explain"
GOLDENS = sorted(FOLDER.glob("*.txt"))
CADENCE_S = 1.0  # `interval` and `timeout` of the simulated world
STEP_S = 0.1  # its own coarseness
QUIET_S = 30.0


@asynccontextmanager
async def told(path):
    """Play a story and yield its world and the explanation at its end."""
    random.seed(0)  # the pauses between tries of an unreachable load balancer
    story = Story()
    try:
        await story.play(path.read_text().split("\n----")[0].strip())
        yield story.world, explanation(story.world)
    finally:
        if story.world is not None:
            await story.world.kill_prober()


def explanation(world):
    """The text as the API gives it."""
    view, plan = world.controller.view("epmm"), world.controller.resume_gates("epmm")
    if view.saved.latched or view.saved.assigned not in (None, view.group.primary):
        return explain(view, plan.gates, plan.paste)
    return explain(view)


def of_every_golden(test):
    return pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)(test)


@of_every_golden
async def test_explanation(path, request):
    async with told(path) as (_, text):
        script = path.read_text().split("\n----")[0].strip()
        actual = f"{script}\n----\n{text}"
        if request.config.getoption("--rewrite"):
            path.write_text(actual)
        assert actual == path.read_text()


@of_every_golden
async def test_the_first_lines_are_the_answer_and_the_next_step(path):
    async with told(path) as (world, text):
        view = world.controller.view("epmm")
        saved, home = view.saved, (None, view.group.primary)
        first, why, following, *rest = text.splitlines()
        assert f"Traffic is on {saved.assigned or 'no node'}" in first
        assert saved.latched == ("latched" in first)
        assert why.startswith("Why: ")
        assert re.fullmatch(r"Next: .+\.", following)
        assert ("To resume:" in rest) == (saved.latched or saved.assigned not in home)
        if "To resume:" in rest:
            assert re.match("    lb-probe (resume|release|status) epmm", rest[-1])


async def moved_by_itself_in(world, patience_s):
    """Return seconds until traffic was moved by the rule; None when it was not."""
    began, before = world.clock.now, world.controller.view("epmm").saved.generation
    while world.clock.now < began + patience_s:
        await world.advance(0.05)
        saved = world.controller.view("epmm").saved
        if saved.generation != before:
            assert saved.last_change.kind == "failover"
            return world.clock.now - began
    return None


@of_every_golden
async def test_what_is_promised_comes_and_nothing_earlier(path):
    """The outlook against the simulated world, in which everything goes on as it is."""
    async with told(path) as (world, text):
        outlook = text.split("An automatic failover:\n")[1].split("\n\n")[0]
        if "at the earliest" in outlook:
            promised = [float(s) for s in re.findall(r"in (\d+\.\d)s", outlook)]
            found = await moved_by_itself_in(world, 60.0)
            assert promised[0] - STEP_S <= found  # never earlier
            assert abs(found - promised[-1]) <= CADENCE_S + STEP_S
        elif "begins to fail" in outlook:
            least_s, most_s = (float(s) for s in re.findall(r"([\d.]+)s", outlook)[:2])
            for state in ("dead", "hung"):
                await begins_to_fail(path, state, least_s, most_s)
        elif "the rule holds" in outlook:
            assert world.store.trap.before == "save"
        elif "as soon as" in outlook:
            assert await moved_by_itself_in(world, CADENCE_S + STEP_S)
        else:
            assert re.search("none: |cannot happen now: |not before an operator", outlook)
            assert await moved_by_itself_in(world, QUIET_S) is None


async def begins_to_fail(path, state, least_s, most_s):
    """Let the Primary fail at several moments between two probes."""
    for later_s in (0.0, 0.25, 0.5, 0.75):
        async with told(path) as (world, _):
            await world.advance(later_s)
            primary = world.controller.view("epmm").group.primary
            world.nodes[primary].state = state
            found = await moved_by_itself_in(world, 120.0)
            # This world's probes drift: each may start a step late, and the next counts from it.
            latest_s = most_s * 1.05 + STEP_S
            earliest_s = least_s * 0.95 - STEP_S  # fewer of them fill `confirm`
            assert earliest_s <= found <= latest_s, (state, later_s)


async def test_goldens_tell_every_condition_and_every_brake():
    conditions, brakes = set(), set()
    for path in GOLDENS:
        async with told(path) as (world, _):
            decision = world.controller.view("epmm").decision
            conditions.add(decision.condition)
            brakes |= set(decision.blocked)
            brakes |= {"isolated"} & {decision.situation.automation.value}
    assert conditions == set(CONDITIONS)
    assert brakes == {"hold", "act", "one-shot", "limit", "store-not-writable", "isolated"}
    assert Automation.ISOLATED.value in brakes
