"""Random histories, many of them: nothing that must hold is ever broken."""

from dataclasses import replace
from pathlib import Path

import pytest
from simulation import check_returns, play, report, run_many
from simulation_plan import RETURNS, Step, make_plan, make_returns, parse

SEEDS = 10_000
LINK_RETURNS = 5_000  # `make simulate` plays 20,000
HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.txt"))


@pytest.mark.timeout(600)
def test_no_random_history_breaks_a_rule(capsys):
    result = run_many(range(SEEDS))
    with capsys.disabled():
        print(f"\n{result.played} histories, {result.rate:.0f} a second")
    if result.seed is not None:
        pytest.fail(report(make_plan(result.seed), result.broken), pytrace=False)
    assert result.failovers > SEEDS // 10  # the rule fires: these are not quiet worlds


@pytest.mark.timeout(600)
def test_no_return_of_the_probers_own_link_causes_a_failover(capsys):
    worlds = LINK_RETURNS // RETURNS
    result = run_many(range(worlds), check_returns)
    with capsys.disabled():
        rate = result.rate * RETURNS
        print(f"\n{result.played * RETURNS} returns of a link, {rate:.0f} a second")
    if result.seed is not None:
        pytest.fail(report(make_returns(result.seed), result.broken), pytrace=False)
    assert result.failovers == 0


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_history_that_was_kept_breaks_no_rule(path):
    assert play(parse(path.read_text()))[1] == ""


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_read_back_as_it_was_written(seed):
    plan = make_plan(seed)
    assert parse(str(plan)) == plan


def test_a_seed_plays_the_same_way_each_time():
    told = []
    for _ in range(2):
        lines = []
        play(make_plan(0), lines.append)
        told.append(lines)
    assert told[0] == told[1]


def test_a_failure_is_made_as_small_as_it_gets(monkeypatch):
    def breaks_at_the_first_failover(plan, tell=None):
        failovers, _ = play(plan, tell)
        return failovers, "moved" if failovers else ""

    monkeypatch.setattr("simulation.play", breaks_at_the_first_failover)
    needless = (Step(5.0, "jump", (5.0,)), Step(6.0, "lossy", (0.0,)))
    plan = replace(parse(f"{DEAD_PRIMARY}"), steps=(*parse(DEAD_PRIMARY).steps, *needless))
    assert "jump" not in report(plan, "moved").split("#\n#")[0]
    assert "node a dies" in report(plan, "moved").split("#\n#")[0]


DEAD_PRIMARY = """seed=0 confirm_s=0.6 fall=2 balancers=1
4.0 node a dies
"""


def test_the_judge_sees_a_dead_primary_and_a_failover():
    assert play(parse(DEAD_PRIMARY)) == (1, "")
