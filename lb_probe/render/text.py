"""How values are written for people: safe for a terminal, times, colours, documents.

What comes from outside is made safe for a terminal (`plain`), and every mark is readable without
colour. Times are local with their offset on a terminal, UTC elsewhere. An answer is read as what
it may be and not as what it should be: `mapping`, `dicts` and `strings` take anything.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from lb_probe.client import Json

COLOURS = {"bad": "red", "warn": "yellow", "good": "green"}


@dataclass(frozen=True, slots=True)
class Look:
    """How to write for this reader.

    Attributes:
        colour: ANSI colours may be used.
        local: Times are local with their offset; else UTC.
        width: Places of a line; None for as many as it takes.
    """

    colour: bool = False
    local: bool = False
    width: int | None = None

    def paint(self, text: str, level: str) -> str:
        """Colour `text` by level (bad, warn, good)."""
        return click.style(text, fg=COLOURS[level], bold=level == "bad") if self.colour else text

    def time(self, value: object) -> str:
        """Write an ISO-8601 time; `-` for none, the text itself where it is not a time."""
        if not isinstance(value, str):
            return "-"
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return plain(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        if self.local:
            return at.astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(value: object, none: str = "-") -> str:
    """Return one line that is safe on a terminal; `none` for None and the empty string."""
    if value is None or value == "":
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def lines_of(text: str) -> list[str]:
    """Split a text for people into lines that are safe on a terminal."""
    return [plain(line, none="") for line in text.expandtabs().splitlines()]


def document(content: Json, form: str) -> str:
    """Write one versioned document as json or yaml; the keys are sorted, `version` comes first."""
    ordered = {"version": 1, **json.loads(json.dumps(content, sort_keys=True, default=str))}
    if form == "json":
        return json.dumps(ordered, indent=2)
    import yaml  # 30 ms that nobody else should pay

    class Dumper(yaml.SafeDumper):
        """Writes text of several lines as such."""

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    # One value, one line: where a long one is folded would hang on the length of a path in it.
    return str(yaml.dump(ordered, Dumper=Dumper, sort_keys=False, width=2**20)).rstrip("\n")


def joined(value: object) -> str:
    """Return a list or a mapping as one line."""
    if isinstance(value, dict):
        return ", ".join(f"{plain(k)}: {plain(v)}" for k, v in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list) else plain(value)


def way_of(source: object, target: object) -> str:
    """Return where traffic goes from and to."""
    if source == target:
        return f"stays on {plain(target, none='nobody')}"
    return f"{plain(source, none='nobody')} -> {plain(target, none='nobody')}"


def mapping(value: object) -> Json:
    """Return the value where it is a mapping; else an empty one."""
    return value if isinstance(value, dict) else {}


def dicts(value: object) -> list[Json]:
    """Return the mappings in a list; none where it is no list."""
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def strings(value: object) -> list[str]:
    """Return the texts in a list; a text alone is one of them."""
    if isinstance(value, str):
        return [value]
    return [str(v) for v in value] if isinstance(value, list | tuple) else []
