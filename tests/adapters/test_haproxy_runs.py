"""Runs of HAProxy have names of their own, and several at one address are noticed."""

from typing import Any

import pytest

from lb_probe.adapters.haproxy.answers import Process
from lb_probe.adapters.haproxy.runs import Runs


def told(runs: Runs, *readings: tuple[float, int], **changes: Any) -> list[str]:
    """Read at each moment from the HAProxy of that pid; return what is said of several."""
    said = []
    for place, (now, pid) in enumerate(readings):
        process = Process(pid, 17, uptime_s=int(now), version="2.8", connections=10 * place + 1)
        runs.name(process, begun=2 * place, ended=2 * place + 1, now=now)
        said.append(runs.several(now))
    return said


def test_two_that_answer_in_turn_are_told_as_soon_as_it_is_no_reload():
    *before, last = told(Runs(), (0.0, 1), (0.4, 2), (0.8, 1), (1.2, 2), (1.6, 1))
    assert before == ["", "", "", ""]
    assert last.startswith("two HAProxys (1@17 and 2@17) answer in turn at this address")


@pytest.mark.parametrize(
    "readings",
    [
        [(0.0, 1), (0.4, 2), (0.8, 3), (1.2, 4), (1.6, 5), (2.0, 6)],  # a reload a reading
        [(0.0, 1), (0.4, 2), (9.0, 1), (20.0, 1)],  # an address that moved, and came back
        [(0.0, 1), *((0.4 + i / 50, 2 - i % 2) for i in range(12)), (5.0, 2)],  # amid a reload
    ],
)
def test_one_after_the_other_is_one(readings):
    assert set(told(Runs(), *readings)) == {""}


def test_one_that_is_alone_again_is_believed_again():
    runs = Runs()
    assert all(told(runs, *((0.05 * i, 1 + i % 2) for i in range(400)))[20:])
    assert runs.several(20.0 + 9.0)
    assert runs.several(20.0 + 11.0) == ""


def test_readings_that_cross_are_in_no_order():
    """The one that began first ended last: no return."""
    runs = Runs()
    for now in (0.0, 1.0, 2.0, 3.0, 4.0):
        for pid in (1, 2):
            runs.name(Process(pid, 17, 9, "2.8", 9), begun=0, ended=99, now=now)
    assert runs.several(4.0) == ""


def test_two_of_one_pid_and_start_are_told_by_counters_that_go_to_and_fro():
    runs, said = Runs(), ""
    for place in range(12):
        process = Process(8, 17, 9, "2.8", connections=100 if place % 2 else 5)
        runs.name(process, begun=2 * place, ended=2 * place + 1, now=0.4 * place)
        said = runs.several(0.4 * place)
    assert "two HAProxys of one pid and start" in said
