"""What a file comes to, beside its defaults (R14)."""

import re
from pathlib import Path

import pytest
import yaml

from lb_probe.config import yaml_text
from lb_probe.config.settings import settings

EXAMPLES = sorted((Path(__file__).parent.parent / "docs" / "examples").glob("*/probes.yaml"))
STORE = "sqlite:/var/lib/lb-probe/state.db"
TEXT = """
version: 1
defaults: {probe: {fall: 4, rise: 3}}
limits: {failovers_per_minute: null}
groups:
  - name: epmm
    act: false
    confirm: 0s
    serving_deadline: 1m
    probe: {interval: 1000ms, timeout: 2s, rise: 2}
    nodes:
      - {name: a, role: primary, url: "https://192.0.2.10"}
      - {name: b, role: secondary, url: "https://192.0.2.11"}
    adapters:
      - {type: haproxy, name: edge, socket: /run/h.sock, map_file: /etc/m.map, key: epmm,
         nodes: {a: a, b: b}, shutdown_sessions: after 1s}
"""


@pytest.fixture
def found(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text(TEXT)
    return {one.key: one for one in settings(file)}


def test_values_and_their_spelling_are_of_one_reading(tmp_path, monkeypatch):
    """A file that is replaced at that moment is not shown as a mixture of two."""
    file = tmp_path / "probes.yaml"
    file.write_text(TEXT)
    read = yaml_text.read

    def replaced(source):
        read(source)
        file.write_text(TEXT.replace("fall: 4", "fall: 7").replace("confirm: 0s", "confirm: 9s"))

    monkeypatch.setattr(yaml_text, "read", replaced)
    found = {one.key: one for one in settings(file)}
    assert found["groups.epmm.confirm"].value == "0s"
    assert found["defaults.probe.fall"].value == 4


def told(one):
    return one.value, one.default, one.source, one.is_default


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("groups.epmm.confirm", ("0s", "10s", "file", False)),
        ("groups.epmm.serving_deadline", ("1m", "60s", "file", True)),
        ("groups.epmm.drain_deadline", ("5s", "5s", "default", True)),
        ("groups.epmm.probe.interval", ("1000ms", "1s", "file", True)),
        ("groups.epmm.probe.fall", (4, 3, "defaults", False)),
        ("groups.epmm.probe.rise", (2, 2, "file", True)),
        ("groups.epmm.act", (False, None, "file", True)),
        ("groups.epmm.nodes.b.url", ("https://192.0.2.11", None, "file", True)),
        ("groups.epmm.adapters.edge.style", ("map", None, "default", True)),
        ("groups.epmm.adapters.edge.key", ("epmm", [], "file", False)),
        ("groups.epmm.adapters.edge.shutdown_sessions", ("after 1s", None, "file", False)),
        ("limits.failovers_per_minute", (None, None, "file", True)),
        ("store", (STORE, STORE, "default", True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_comes_to_what_was_said_inherited_or_its_default(found, key, wanted):
    assert told(found[key]) == wanted


def test_what_nobody_said_and_has_no_value_is_left_out(found):
    assert {"api", "metrics", "groups.epmm.was", "groups.epmm.nodes.a.site"} & set(found) == set()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_every_key_of_an_example_is_shown_as_it_stands_there(file):
    found = {one.key: one for one in settings(file) if one.source == "file"}
    said = dict(leaves(yaml.safe_load(file.read_text())))
    shown = {key: one.value for key, one in found.items()}
    assert shown == {key: value for key, value in said.items() if key in shown}
    assert {re.sub(r"\..*", "", key) for key in shown} == {re.sub(r"\..*", "", key) for key in said}


def leaves(data, where=""):
    """Yield what a file says: items of lists by their names, mappings down to their values."""
    for key, value in data.items():
        place = f"{where}{key}"
        yield place, value
        if isinstance(value, dict):
            yield from leaves(value, f"{place}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value):
                yield from leaves(item, f"{place}.{item.get('name', number)}.")
