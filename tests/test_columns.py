"""Tables fit the terminal they are printed on, and lose nothing."""

import doctest
import re

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_probe import columns
from lb_probe.columns import NARROWEST, bound, table, wide, wrap

WORDS = st.text(st.sampled_from("ab-/ x\u4e2d\u0301"), max_size=40)
CELLS = st.tuples(WORDS, WORDS.map(lambda text: click.style(text, fg="red") + "!"), WORDS)


def letters(text):
    return sorted(click.unstyle(text).replace(" ", ""))


def test_the_examples_in_the_source_are_true():
    found = doctest.testmod(columns)
    assert found.attempted
    assert not found.failed


@given(st.lists(CELLS, min_size=1, max_size=4), st.integers(12, 90))
def test_no_line_is_wider_than_the_terminal_and_no_letter_is_lost(rows, width):
    lines = table(("A", "B", "C"), rows, width)
    assert max(map(wide, lines)) <= max(width, NARROWEST + 3)
    told = letters("".join(lines))
    for row in rows:
        for letter in letters("".join(row)):
            assert letter in told
            told.remove(letter)


@given(WORDS, st.integers(2, 40))
def test_a_colour_goes_on_in_the_next_line_and_ends_with_each(text, width):
    for line in wrap(click.style(text, fg="green", bold=True), width):
        assert wide(line) <= width
        if click.unstyle(line):
            assert re.fullmatch(r"\x1b\[32m\x1b\[1m[^\x1b]*\x1b\[0m", line)


def test_words_stay_whole_while_they_can_and_the_widest_column_gives_way():
    rows = [("epmm", "epmm-a (ok)", "the Primary's probe fails and the Secondary says Standby")]
    lines = table(("GROUP", "TRAFFIC", "WHY"), rows, 50)
    assert lines == [
        "GROUP  TRAFFIC      WHY",
        "epmm   epmm-a (ok)  the Primary's probe fails and",
        "                    the Secondary says Standby",
    ]


def test_what_is_bound_stays_together_and_shows_plain_blanks():
    lines = table(("CONDITION", "N"), [(bound("!  failed-over") + " (observing only)", "1")], 19)
    assert lines == ["CONDITION         N", "!  failed-over    1", "(observing only)"]


def test_a_terminal_too_narrow_for_columns_gets_one_line_for_each_cell():
    rows = [("epmm", "epmm-a (ok)", "normal", "in sync 1/1"), ("core", "-", "", "none")]
    lines = table(("GROUP", "TRAFFIC", "CONDITION", "LOAD BALANCERS"), rows, 28)
    assert lines == [
        "GROUP           epmm",
        "TRAFFIC         epmm-a (ok)",
        "CONDITION       normal",
        "LOAD BALANCERS  in sync 1/1",
        "",
        "GROUP           core",
        "TRAFFIC         -",
        "LOAD BALANCERS  none",
    ]


@pytest.mark.parametrize("width", [None, 200])
def test_where_there_is_room_a_cell_is_one_line(width):
    rows = [("a", "x" * 90)]
    assert table(("N", "DETAIL"), rows, width) == ["N  DETAIL", f"a  {'x' * 90}"]
