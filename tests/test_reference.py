"""The pages of docs/reference say what the program says of itself."""

import re
from pathlib import Path

import pytest
from reference import PAGES

from lb_probe.events.log import LEVELS, QUIET

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_program_says(name, request):
    text = PAGES[name]()
    file = FOLDER / name
    if request.config.getoption("--rewrite"):
        file.write_text(text)
    assert text == file.read_text()
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_every_option_key_and_metric_has_words():
    for name in PAGES:
        for line in (FOLDER / name).read_text().splitlines():
            assert not re.search(r"\|\s*\|$", line), line


def test_the_page_of_operations_tells_the_level_of_each_event():
    _, _, section = (DOCS / "operations.md").read_text().partition("\n## Events\n")
    for line in section.partition("\n## ")[0].splitlines():
        if line.startswith("| `"):
            _, names, level, *_ = (part.strip() for part in line.split("|"))
            told = re.findall(r"`([^`]+)`", names)
            each = level.split(", ") if "," in level else [level] * len(told)
            found = ["counted" if name in QUIET else LEVELS.get(name, "info") for name in told]
            assert each == found, names
