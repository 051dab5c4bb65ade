"""docs/replication.md and the code say the same."""

import re
from dataclasses import fields
from pathlib import Path

from lb_probe.agent.replication import words
from lb_probe.agent.replication.history import RESULTS, Run
from lb_probe.agent.replication.part import Replication
from lb_probe.cli import cli
from lb_probe.core.data_lineage import Lineage
from lb_probe.core.model import Mode
from lb_probe.core.sync_alarms import ALARMS
from lb_probe.core.sync_gates import GATES, SyncWorld, judge
from lb_probe.core.sync_progress import MARKER

PAGE = (Path(__file__).parents[3] / "docs" / "replication.md").read_text()


def rows(heading):
    """The first cells of the first table under a heading, and the rest of each row."""
    _, _, section = PAGE.partition(f"\n## {heading}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line[:3] == "| `"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.findall("`([^`]+)`", first)[0]: rest for first, *rest in cells}


def test_every_gate_is_in_the_page_with_whom_it_opens_to():
    world = SyncWorld(
        node="b",
        peer="a",
        source="a",
        mode=Mode.STANDBY,
        lineage=Lineage(),
        report=None,
        version="",
    )
    judged = {kind: {gate.id: gate for gate in judge(kind, world)} for kind in GATES}
    told = {}
    for gate in [*judged["schedule"].values(), *judged["manual"].values()]:
        kinds = [kind for kind in GATES if gate.id in judged[kind]]
        asked = "both" if len(kinds) == 2 else kinds[0]
        told[gate.id] = [asked, "by name" if gate.open_with == "override" else "to nobody"]
    assert {name: rest[1:] for name, rest in rows("What keeps a sync back").items()} == told


def test_every_alarm_and_every_result_is_in_the_page():
    assert list(rows("Alarms")) == list(ALARMS)
    assert set(rows("On record")) == set(RESULTS)


async def test_every_metric_is_in_the_page(standby):
    async with standby() as b:
        names = {f"lb_probe_agent_{reading.name}" for reading in b.part.gauges()}
    names |= {f"lb_probe_agent_{counted.name}_total" for counted in Replication.counters}
    _, _, section = PAGE.partition("\n## Metrics\n")
    assert set(re.findall(r"lb_probe_agent_\w+", section)) == names


def test_every_verb_and_every_key_of_a_run_is_in_the_page():
    sync = cli.commands["agent"].commands["sync"]
    for name in sync.commands:
        assert f"sync {name}" in PAGE, name
    assert "safe-to-stop" in PAGE
    run = Run(trigger="manual", by="x", source="a", target="b", started_wall=0.0)
    for key in words.run(run):
        assert f"`{key}`" in PAGE, key
    assert len(words.run(run)) == len(fields(Run)) - 1  # two versions are one key
    assert MARKER in PAGE
