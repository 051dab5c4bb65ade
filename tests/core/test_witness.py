"""Whom to believe when a load balancer sees the Primary up and we do not."""

import pytest

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.model import (
    Failed,
    Group,
    Health,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Role,
    Seen,
)
from lb_probe.core.witness import MAX_AGE_S, Statement, Witness, objections

GROUP = Group("epmm", (Node("a", Role.PRIMARY), Node("b", Role.SECONDARY, candidate=True)))
UP = Seen("a", ("a",), health={"a": Health(up=True, is_sure=True, detail="L7OK")})


def failing(phase=Phase.CONNECT_TIMEOUT, code=None, since=10.0, fails=3):
    known = Evidence(floor=0.0)
    for i in range(fails):
        at = since + i
        seen = Observation("a", Page.STATUS, at, at + 0.1, Failed(phase, ""), code)
        known = ev.fold(known, seen, GROUP, "b")
    return known


def told(seen=UP, at=13.0, doubts="network", interval_s=2.0):
    return Statement(Witness("edge", doubts, interval_s), seen, at)


def test_a_load_balancer_that_still_sees_the_primary_objects_in_words():
    assert objections(failing(), GROUP, [told()], 13.5) == {
        "edge": "edge sees a up (L7OK), asked 0.5s ago",
    }


@pytest.mark.parametrize(
    ("phase", "code", "network", "everything"),
    [
        (Phase.NAME, None, True, True),
        (Phase.CONNECT_REFUSED, None, True, True),
        (Phase.TLS, None, True, True),
        (Phase.TIMEOUT, None, True, True),
        (Phase.REDIRECT, 302, True, True),
        (Phase.STATUS, 403, True, True),
        (Phase.STATUS, 404, True, True),
        (Phase.STATUS, 500, False, True),
        (Phase.STATUS, 503, False, True),
        (Phase.BODY, 200, False, True),
        (Phase.PROTOCOL, None, False, True),
    ],
)
def test_it_may_contradict_what_may_be_about_us_and_not_what_the_node_said(
    phase, code, network, everything
):
    known = failing(phase, code)
    assert bool(objections(known, GROUP, [told()], 13.5)) is network
    assert bool(objections(known, GROUP, [told(doubts="all")], 13.5)) is everything
    assert objections(known, GROUP, [told(doubts="off")], 13.5) == {}


@pytest.mark.parametrize(
    "health",
    [
        {},
        {"a": Health(up=False, is_sure=True)},
        {"a": Health(up=True, is_sure=False)},  # it has begun to fail there too
        {"b": Health(up=True, is_sure=True)},
    ],
)
def test_a_word_that_is_missing_or_unsure_blocks_nothing(health):
    assert objections(failing(), GROUP, [told(Seen("a", health=health))], 13.5) == {}
    assert objections(failing(), GROUP, [told(None)], 13.5) == {}


@pytest.mark.parametrize(
    ("phase", "needed"),
    [
        (Phase.NAME, 4),
        (Phase.CONNECT_REFUSED, 4),
        (Phase.CONNECT_TIMEOUT, 4),
        (Phase.TLS, 6),
        (Phase.TIMEOUT, 7),
        (Phase.RESET, 7),
    ],
)
@pytest.mark.parametrize("layer", [4, 6, 7])
def test_a_check_contradicts_only_what_it_looks_at(phase, needed, layer):
    seen = Seen("a", health={"a": Health(up=True, is_sure=True, layer=layer)})
    known = failing(phase)
    assert bool(objections(known, GROUP, [told(seen)], 13.5)) is (layer >= needed)
    assert objections(known, GROUP, [told(seen, doubts="all")], 13.5)  # as the file says


def test_a_check_that_may_be_older_than_the_failure_proves_nothing():
    assert objections(failing(), GROUP, [told(at=11.9)], 12.5) == {}
    assert objections(failing(), GROUP, [told(at=12.0)], 12.5)
    assert objections(failing(), GROUP, [told(at=13.0, interval_s=5.0)], 13.5) == {}


def test_an_old_word_is_nobodys_word():
    assert objections(failing(), GROUP, [told(at=13.0)], 13.0 + MAX_AGE_S)
    assert objections(failing(), GROUP, [told(at=13.0)], 13.1 + MAX_AGE_S) == {}


def test_nobody_objects_to_a_primary_that_does_not_fail():
    assert objections(Evidence(floor=0.0), GROUP, [told()], 13.5) == {}
    good = ev.fold(failing(), Observation("a", Page.STATUS, 14.0, 14.1, Passed()), GROUP, "b")
    assert objections(good, GROUP, [told(at=14.5)], 14.5) == {}
