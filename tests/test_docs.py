"""What the pages say is what the program does."""

import re
from pathlib import Path

import pytest

from lb_probe.core.failover import CONDITIONS, as_markdown

PAGE = Path(__file__).parents[1] / "docs" / "decision-table.md"
TABLE = re.compile(r"(?<=<!-- table: )(.*? -->\n)(.*?)(?=<!-- end of table -->)", re.DOTALL)


def test_the_page_shows_the_table_that_decides(request):
    page = PAGE.read_text()
    with_table = TABLE.sub(lambda found: found[1] + as_markdown(), page)
    if request.config.getoption("--rewrite"):
        PAGE.write_text(with_table)
    assert TABLE.search(page), "the markers around the table are gone"
    assert with_table == PAGE.read_text()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_has_a_paragraph_that_says_what_to_do(condition):
    _, _, after = PAGE.read_text().partition(f"\n### {condition}\n\n")
    paragraph = after.partition("\n### ")[0]
    assert len(paragraph.split()) >= 15


def test_the_page_explains_no_condition_that_is_gone():
    told = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(told) == sorted(CONDITIONS)
