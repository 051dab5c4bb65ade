"""The rows of the guide's Table 1."""

from itertools import product

import pytest

from lb_probe.core.model import Mode, Role
from lb_probe.core.scenario import STATES, Standing, scenario

P, S = Mode.PRIMARY, Mode.STANDBY


def node(name: str, mode: Mode | None, *, serves: bool = False, kept_out: bool = False) -> Standing:
    role = Role.PRIMARY if name == "a" else Role.SECONDARY
    return Standing(name, role, mode, serves, mode is not None, kept_out)


@pytest.mark.parametrize(
    ("a", "b", "row", "states"),
    [
        (node("a", P, serves=True), node("b", S), 1, "active standby"),
        (node("a", None), node("b", P, serves=True), 2, "not_available active"),
        (node("a", None), node("b", P), 2, "not_available not_available"),
        (node("a", P), node("b", P, serves=True), 2, "not_available active"),
        (node("a", P, kept_out=True), node("b", P, serves=True), 3, "not_available active"),
        (node("a", S), node("b", P, serves=True), 3, "standby active"),
        (node("a", P, serves=True), node("b", P, serves=True), None, "active active"),
        (node("a", P, serves=True), node("b", None), None, "active not_available"),
        (node("a", S), node("b", S), None, "standby standby"),
        (node("a", None), node("b", S), None, "not_available standby"),
        (node("a", None), node("b", None), None, "not_available not_available"),
    ],
)
def test_a_pair_is_in_its_row(a, b, row, states):
    """R2 to R6."""
    found = scenario(a, b)
    assert found == scenario(b, a)
    assert found.row == row
    assert f"{a.state} {b.state}" == states
    assert found.promoted is (b.mode is P)
    assert found.serving is ("active" in states.split())
    assert found.text


def test_every_pair_has_an_answer_and_roles_never_change():
    """R3."""
    kinds = list(product((P, S, None), (True, False), (True, False)))
    for (m1, s1, k1), (m2, s2, k2) in product(kinds, kinds):
        a, b = node("a", m1, serves=s1, kept_out=k1), node("b", m2, serves=s2, kept_out=k2)
        found = scenario(a, b)
        assert found.row in (1, 2, 3, None)
        assert {a.state, b.state} <= set(STATES)
        assert (a.role, b.role) == (Role.PRIMARY, Role.SECONDARY)


def test_two_nodes_of_one_role_are_no_pair():
    with pytest.raises(ValueError, match="both primary"):
        scenario(node("a", P), node("a", S))
