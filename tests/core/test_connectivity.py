"""Whether the tests of both directions are good enough for what comes next."""

import pytest

from lb_probe.core.connectivity import Direction, Item, gate

GOOD = Item(name="trust", verdict="ok")
BAD = Item(name="port 22", verdict="failed", detail="found a reset")
DAY_S = 86400.0


def way(source="a", target="b", at=1000.0, items=(GOOD,)):
    return Direction(source=source, target=target, at_wall=at, items=tuple(items))


def judged(outward, inward, now=1000.0):
    return gate("a", "b", outward, inward, now_wall=now, max_age_s=DAY_S)


def test_both_directions_passed_and_are_recent():
    """R80: exactly a day old is still recent; a warning is no failure."""
    warned = way(items=[GOOD, Item(name="version", verdict="warning")])
    found = judged(warned, way("b", "a"), now=1000.0 + DAY_S)
    assert (found.passed, found.found) == (True, "both directions passed")
    assert (found.id, found.open_with) == ("connected", "override")
    assert "24h in both directions" in found.wanted


@pytest.mark.parametrize(
    ("outward", "inward", "now", "found"),
    [
        (None, None, 1000.0, "a -> b: never tested; b -> a: never tested"),
        (way(), None, 1000.0, "b -> a: never tested"),
        (way(items=[GOOD, BAD]), way("b", "a"), 1000.0, "a -> b: port 22: found a reset"),
        (way(items=[]), way("b", "a"), 1000.0, "a -> b: nothing was tried"),
        (way(), way("b", "a", at=900.0), 900.0 + DAY_S + 1, "b -> a: the last success is 24.0h"),
        (way(at=1100.0), way("b", "a"), 1000.0, "a -> b: the last test is 100s in the future"),
        (way(), way("b", "x"), 1000.0, "b -> a: found a test of b -> x"),
    ],
)
def test_every_fault_of_a_direction_refuses_and_is_named(outward, inward, now, found):
    """R73, R79, R80: never tested, failed, nothing tried, old, from the future, another's."""
    refused = judged(outward, inward, now)
    assert refused.passed is False
    assert refused.found.startswith(found)
