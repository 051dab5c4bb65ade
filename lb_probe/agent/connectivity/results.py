"""The results of tests, kept with their time; those of peers taken with care.

Source: R79, R80.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lb_probe.agent.trust import kept
from lb_probe.core.connectivity import Direction, Item
from lb_probe.core.status_page import printable

VERSION = 1
_YEAR_10000 = 253_402_300_800.0
_MOST_ITEMS = 64
_CHARS = 500
_DIRECTION = TypeAdapter(Direction)
_FILE = TypeAdapter(dict[str, Direction])

# Outward or inward; the newest, or the newest success.
OUT, OUT_GOOD, IN, IN_GOOD = "outward", "outward-success", "inward", "inward-success"


class Results:
    """Each peer's newest test and newest success, in both directions.

    Blocking: `put` waits for the disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._all: dict[str, Direction] = {}

    def open(self) -> str:
        """Read what is kept; return what is wrong with it, which only costs a new test."""
        try:
            data = kept.read(self._path)
            if data is None:
                return ""
            document = json.loads(data)
            if not isinstance(document, dict) or document.get("version") != VERSION:
                raise ValueError("no results of this version")
            self._all = _FILE.validate_json(json.dumps(document.get("results")), strict=True)
        except (ValueError, RecursionError, kept.KeptError) as error:
            first = str(error).splitlines()[0]
            return f"{self._path}: found {first}; test the connection again"
        return ""

    def get(self, what: str, peer: str) -> Direction | None:
        """Return one result; None where there is none."""
        return self._all.get(f"{what} {peer}")

    def put(self, peer: str, result: Direction, *, is_ours: bool) -> None:
        """Keep a result.

        Raises:
            KeptError: Not saved; it is in force all the same until the agent ends.
        """
        newest, good = (OUT, OUT_GOOD) if is_ours else (IN, IN_GOOD)
        self._all[f"{newest} {peer}"] = result
        if result.passed:
            self._all[f"{good} {peer}"] = result
        document = {
            "version": VERSION,
            "results": {key: asdict(one) for key, one in self._all.items()},
        }
        kept.replace(self._path, json.dumps(document, allow_nan=False).encode() + b"\n")


def document(result: Direction, now_wall: float) -> Mapping[str, object]:
    """Return a result as JSON, with its age: the other side's clock may be another."""
    return asdict(result) | {"age_s": max(0.0, now_wall - result.at_wall)}


def from_peer(found: object, *, source: str, target: str, now_wall: float) -> Direction:
    """Return a result as a peer told it, its time by our clock and its words made harmless.

    Raises:
        ValueError: It is none of this direction.
    """
    if not isinstance(found, Mapping):
        raise ValueError("found no result of a test")
    age_s = found.get("age_s")
    if isinstance(age_s, bool) or not isinstance(age_s, int | float):
        raise ValueError(f"found age_s {str(age_s)[:40]!r}; wanted seconds")
    if not 0 <= age_s < _YEAR_10000:
        raise ValueError("found an age_s that is none; wanted seconds")
    body = {key: value for key, value in found.items() if key != "age_s"}
    try:
        result = _DIRECTION.validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ValueError(f"found a result of a test that is none ({where})") from None
    if (result.source, result.target) != (source, target):
        way = f"{printable(result.source, 64)} -> {printable(result.target, 64)}"
        raise ValueError(f"found a test of {way}; wanted {source} -> {target}")
    items = tuple(_harmless(item) for item in result.items[:_MOST_ITEMS])
    return replace(result, at_wall=max(0.0, now_wall - age_s), items=items)


def _harmless(item: Item) -> Item:
    facts = {
        printable(key, 40): printable(value, _CHARS) for key, value in [*item.facts.items()][:20]
    }
    return replace(
        item,
        name=printable(item.name, 40),
        phase=printable(item.phase, 40),
        detail=printable(item.detail, _CHARS),
        facts=facts,
    )
