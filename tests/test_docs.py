"""What the pages say is what the program does; and every page can be found."""

import re
import tomllib
from pathlib import Path

import pytest

from lb_probe.core.failover import CONDITIONS, as_markdown

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = DOCS / "decision-table.md"
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


# ------------------------------------------------------------------ finding a page
def named(nav):
    """Every page that a navigation of the site leads to."""
    for entry in nav:
        for found in entry.values():
            yield from named(found) if isinstance(found, list) else [found]


def test_the_site_leads_to_every_page_and_the_list_of_pages_too():
    nav = list(named(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    pages -= {page for page in pages if page.startswith("examples/") and page.count("/") > 1}
    assert sorted(nav) == sorted(pages)
    listed = (DOCS / "README.md").read_text()
    assert [page for page in pages - {"README.md"} if f"]({page})" not in listed] == []
