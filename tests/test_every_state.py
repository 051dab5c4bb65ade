"""Every reachable state of small worlds, each searched to its end; see `every_state.py`.

One world with everything in it would be too large, so each is small in its own way. Together they
hold all that two nodes can show on both pages, in any order; the load balancer in each of its four
states, restarted, out of reach and changed by hand between any two steps of the reconciler; the
prober killed and started in every state; its link cut and back; holds and every verb.
"""

from functools import cache

import pytest
from every_state import A, B, Bounds, Found, Search

from lb_probe.core.failover import RULES
from lb_probe.core.model import Page

STATUS, HASTATUS = Page.STATUS, Page.HASTATUS
BRIEF = ("standby", "fail")
SERVES, STANDS, DEAD = ("ok", "primary"), ("fail", "standby"), ("fail", "fail")
WELL, OUTAGE, PROMOTED = SERVES + STANDS, DEAD + STANDS, DEAD + SERVES
EVERY_PAIR = tuple(a + b for a in (SERVES, STANDS, DEAD) for b in (SERVES, STANDS, DEAD))

WORLDS = (
    Bounds("all that pages show before a move", shows={(B, STATUS): ()}),
    Bounds(
        "link cut and back, hold",
        links=True,
        holds=("hold",),
        shows={(B, STATUS): (), (A, HASTATUS): (), (B, HASTATUS): BRIEF},
    ),
    Bounds(
        "slow answers",
        slow=frozenset({(A, STATUS), (B, HASTATUS)}),
        shows={(B, STATUS): (), (A, HASTATUS): (), (B, HASTATUS): BRIEF},
    ),
    Bounds(
        "no confirm, slow failures",
        confirm_s=0,
        slow=frozenset({(A, STATUS)}),
        shows={(B, STATUS): (), (A, HASTATUS): (), (B, HASTATUS): BRIEF},
    ),
    Bounds("after a move", fall=1, rise=2, shows={(A, HASTATUS): (), (B, HASTATUS): BRIEF}),
    Bounds("roles swapped", swaps=True, links=True, holds=("hold",), rounds=EVERY_PAIR),
    Bounds(
        "load balancer",
        fall=1,
        confirm_s=0,
        balancer=True,
        holds=("hands-off",),
        rounds=(WELL, OUTAGE),
    ),
    Bounds(
        "load balancer that opens to the Primary, roles swapped",
        fall=1,
        confirm_s=0,
        balancer=True,
        opens=frozenset(A),
        swaps=True,
        rounds=(WELL, OUTAGE),
    ),
    Bounds(
        "load balancer, act: false",
        fall=1,
        confirm_s=0,
        act=False,
        balancer=True,
        opens=frozenset(A),
        holds=("hold",),
        rounds=(WELL, OUTAGE),
    ),
)


@cache
def searched(bounds: Bounds) -> Found:
    return Search(bounds).run()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bounds", WORLDS, ids=lambda bounds: bounds.name)
def test_no_reachable_state_breaks_a_rule(bounds):
    """X1, X3, X4, X10, X11, X16, X18, X19, X22; saved before published; it comes to rest."""
    found = searched(bounds)

    print(
        f"{bounds.name}: {found.states} states, {found.edges} edges,"
        f" {found.knowledge} sets of evidence, {found.words} saved words; rows"
        f" {' '.join(rule.id for rule in RULES if rule.id in found.rows)}"
    )
    assert found.states > 1000
    assert (found.moves > 0) == bounds.act


@pytest.mark.timeout(300)
def test_no_row_of_the_table_is_dead():
    visited = set().union(*(searched(bounds).rows for bounds in WORLDS))

    assert {rule.id for rule in RULES} - visited == set()
