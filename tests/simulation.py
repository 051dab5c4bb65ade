"""Random histories against the real core, controller and reconcilers, on a virtual clock.

Each seed makes a world (two nodes, load balancers, a store, one prober, one operator) and a plan
of faults, see `simulation_plan`. `simulation_judge` watches every effect from outside. In one seed
of fifty the store is the real one, on disk, and must tell the same as the model beside it.

    python tests/simulation.py [SEEDS] [FIRST]      all cores; the first failure, made small
    python tests/simulation.py --returns [SEEDS]    the prober's own link comes and goes
    python tests/simulation.py --replay FILE        what happens under a plan that was kept
"""

import argparse
import gc
import logging
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from simulation_judge import BrokenError
from simulation_plan import (
    RETURNS,
    Plan,
    make_plan,
    make_returns,
    parse,
)
from simulation_world import Simulation


# ------------------------------------------------------------------ many seeds
def play(plan: Plan, tell: Callable[[str], None] | None = None) -> tuple[int, str]:
    """Return the number of automatic failovers, and what is broken, in words; "" for nothing."""
    with _quiet(plan), tempfile.TemporaryDirectory() if plan.sqlite else nullcontext() as folder:
        simulation = Simulation(plan, Path(folder) if folder else None, tell)
        try:
            return simulation.run(), ""
        except Exception as error:
            # What the judge saw first counts, not what came of ending the world over it.
            verdict = simulation.judge.verdict or error
            kind = "" if isinstance(verdict, BrokenError) else f"{type(verdict).__name__}: "
            return simulation.judge.automatic, f"{kind}{verdict}"


@contextmanager
def _quiet(plan: Plan) -> Iterator[None]:
    """No logs, and the same pauses between two tries each time."""
    level, state = logging.root.manager.disable, random.getstate()
    logging.disable(logging.CRITICAL)
    random.seed(plan.seed)
    try:
        yield
    finally:
        logging.disable(level)
        random.setstate(state)


def shrink(plan: Plan) -> Plan:
    """Drop steps for as long as something stays broken."""
    i = len(plan.steps) - 1
    while i >= 0:
        smaller = replace(plan, steps=plan.steps[:i] + plan.steps[i + 1 :])
        if play(smaller)[1]:
            plan, i = smaller, len(smaller.steps)
        i -= 1
    return plan


def check(seed: int) -> tuple[int, int, str]:
    return seed, *play(make_plan(seed))


def check_returns(seed: int) -> tuple[int, int, str]:
    """Play a link that comes and goes between healthy nodes; a failover is a fault here."""
    failovers, broken = play(make_returns(seed))
    return seed, failovers, broken or ("a false failover" if failovers else "")


@dataclass(frozen=True)
class Result:
    """What many seeds came to.

    Attributes:
        seed: The first broken one; None when nothing is.
        failovers: Automatic ones, up to there.
    """

    played: int
    failovers: int
    seconds: float
    seed: int | None = None
    broken: str = ""

    @property
    def rate(self) -> float:
        return self.played / self.seconds


def run_many(seeds: range, one: Callable[[int], tuple[int, int, str]] = check) -> Result:
    """Play many seeds on all cores, until the first broken one."""
    began, played, failovers = time.perf_counter(), 0, 0
    cores = len(os.sched_getaffinity(0))
    chunk = max(1, min(100, len(seeds) // cores // 4))
    # Forked workers would share the parent's loop and plugins; a fresh start is worth its second.
    with multiprocessing.get_context("spawn").Pool(cores, initializer=_settle) as pool:
        for seed, made, broken in pool.imap(one, seeds, chunksize=chunk):
            played, failovers = played + 1, failovers + made
            if broken:
                pool.terminate()
                return Result(played, failovers, time.perf_counter() - began, seed, broken)
    return Result(played, failovers, time.perf_counter() - began)


def _settle() -> None:
    """Let the collector look at what a seed leaves, seldom, and never at what was imported."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def report(plan: Plan, broken: str) -> str:
    """Return a failing plan as small as it gets, and what happens under it."""
    small, lines = shrink(plan), []
    found = play(small, lines.append)[1]
    told = "\n".join(f"# {line}" for line in lines)
    return f"# {broken}\n# made small: {found}\n{small}\n#\n{told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="?", type=int, default=10_000)
    parser.add_argument("first", nargs="?", type=int, default=0)
    parser.add_argument("--returns", action="store_true", help=f"{RETURNS} returns of a link each")
    parser.add_argument("--no-report", action="store_true", help="name the seed and stop")
    parser.add_argument("--replay", type=Path, help="a plan that was kept")
    given = parser.parse_args()
    if given.replay:
        _, broken = play(parse(given.replay.read_text()), print)
        print(broken or "nothing is broken")
        return bool(broken)
    make, one = (make_returns, check_returns) if given.returns else (make_plan, check)
    result = run_many(range(given.first, given.first + given.seeds), one)
    print(
        f"{result.played} seeds from {given.first} in {result.seconds:.1f}s, {result.rate:.0f} a"
        f" second, {result.failovers} automatic failovers"
    )
    if result.seed is None:
        print("nothing is broken")
        return 0
    print(f"BROKEN seed {result.seed}: {result.broken}")
    if not given.no_report:
        print(report(make(result.seed), result.broken))
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
