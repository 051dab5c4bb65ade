"""Who makes way when two nodes say Primary."""

from itertools import product

import pytest

from lb_probe.core.model import Mode, Role
from lb_probe.core.returning import Reign, must_yield

A, B = Role.PRIMARY, Role.SECONDARY
SINCE = (None, 0.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("own", "peer", "yields"),
    [
        ((A, 0.0), (B, 9.0), True),  # the Primary returns, its peer was promoted
        ((A, 0.0), (B, None), True),  # and nothing but a page says so
        ((B, 9.0), (A, 0.0), False),  # the promoted one restarts beside the returned Primary
        ((B, 9.0), (A, None), False),
        ((A, 12.0), (B, 9.0), False),  # made Primary again by an operator, later
        ((B, 9.0), (A, 12.0), True),  # roles were not swapped, modes were
        ((A, 5.0), (B, 5.0), True),
    ],
)
def test_who_was_made_primary_first_makes_way(own, peer, yields):
    """X11, X12."""
    mine, theirs = (Reign(role, Mode.PRIMARY, since) for role, since in (own, peer))
    assert must_yield(mine, theirs) is yields


def test_never_both_and_always_one_of_two_that_know_the_same():
    for mine, theirs in product(SINCE, SINCE):
        a, b = Reign(A, Mode.PRIMARY, mine), Reign(B, Mode.PRIMARY, theirs)
        assert must_yield(a, b) != must_yield(b, a)


def test_what_is_not_known_and_what_stands_by_makes_nobody_yield():
    """X22."""
    for mode in (None, Mode.STANDBY, Mode.UNKNOWN):
        assert not must_yield(Reign(A, Mode.PRIMARY, 0.0), Reign(B, mode, 9.0))
    assert not must_yield(Reign(A, Mode.STANDBY, 0.0), Reign(B, Mode.PRIMARY, 9.0))
