"""The file while it is judged: its data, the place of every value, and the faults found so far."""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from lb_probe.config.values import NAME

T = TypeVar("T")
Where = tuple[str | int, ...]
Mark = tuple[int, int]  # line and column, from 1


class ConfigError(Exception):
    """probes.yaml cannot be used.

    Attributes:
        faults: Every mistake, in the order of the file, as
            `FILE:LINE:COL: error: PATH: found X; use Y`.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class Source:
    """The file: its data, the place of every value, and the faults found so far.

    Attributes:
        data: What it says: mappings, tuples, texts, numbers; None until all is read.
        marks: The place of every value.
        key_marks: The place of the key in front of a value.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.folder = path.absolute().parent
        except OSError:  # the working directory is gone
            self.folder = path.parent
        self.data: object = None
        self.marks: dict[Where, Mark] = {}
        self.key_marks: dict[Where, Mark] = {}
        self._settled: set[Where] = set()
        self._faults: list[tuple[Mark, Where, str, str]] = []

    @property
    def faults(self) -> tuple[str, ...]:
        """Every fault, in the order of the file."""
        # Names are put in here, when all of them are read.
        lines = {
            (mark, f"{self._named(where)}: found {found}; use {use}")
            for mark, where, found, use in self._faults
        }
        return tuple(f"{self.path}:{n}:{c}: error: {text}" for (n, c), text in sorted(lines))

    def fault(
        self, where: Where, found: str, use: str, *, mark: Mark | None = None, settle: bool = False
    ) -> None:
        """Note a fault of a value, unless all is said of it.

        Args:
            mark: Where to point, if not at the value.
            settle: All is said now of this value and what it holds.
        """
        if any(where[:end] in self._settled for end in range(len(where) + 1)):
            return
        if settle:
            self.settle(where)
        self._faults.append((mark or self.mark(where), where, found, use))

    def settle(self, where: Where) -> None:
        """Say no more of this value and of what it holds."""
        self._settled.add(where)

    def end(self, mark: Mark, found: str, use: str, where: Where = ()) -> NoReturn:
        """Note a fault after which nothing else can be judged.

        Raises:
            ConfigError: Always.
        """
        self._faults.append((mark, where, found, use))
        raise ConfigError(self.faults)

    def mark(self, where: Where) -> Mark:
        """Return the place of a value, or of what should have held it."""
        held = (where[:end] for end in range(len(where), -1, -1))
        return next((self.marks[place] for place in held if place in self.marks), (1, 1))

    def at(self, where: Where) -> "Spot":
        """Return a place of the file; its value is None where there is none."""
        spot = Spot(self, self.data, ())
        for part in where:
            spot = spot.at(part)
        return spot

    def _named(self, where: Where) -> str:
        text, spot = "", self.at(())
        for part in where:
            spot = spot.at(part)
            name = spot.at("name").text or ""
            if isinstance(part, str):
                text += f".{part if re.fullmatch(NAME, part) else shown(part)}"
            else:
                text += f".{name}" if re.fullmatch(NAME, name) else f"[{part}]"
        return text.removeprefix(".") or "file"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place of the file that may hold anything, or nothing."""

    source: Source
    value: object
    where: Where

    def at(self, *keys: str | int) -> "Spot":
        """Return the place below; its value is None where there is none."""
        value = self.value
        for key in keys:
            if isinstance(value, tuple) and isinstance(key, int) and key in range(len(value)):
                value = value[key]
            else:
                value = value.get(key) if isinstance(value, dict) else None
        return Spot(self.source, value, (*self.where, *keys))

    def items(self, *keys: str) -> list["Spot"]:
        """Return the places in the list, or under the keys of the mapping, below; else none."""
        held = self.at(*keys)
        if isinstance(held.value, dict):
            return [held.at(key) for key in held.value]
        return [held.at(i) for i in range(len(held.value))] if isinstance(held.value, tuple) else []

    @property
    def text(self) -> str | None:
        """The value where it is text."""
        return self.value if isinstance(self.value, str) else None

    @property
    def line(self) -> int:
        """Its line in the file, from 1."""
        return self.source.mark(self.where)[0]

    def parsed(self, parse: Callable[[str], T]) -> T | None:
        """Return what a parser makes of the text here; None where it refuses."""
        try:
            return parse(self.text or "")
        except ValueError:
            return None

    def fault(self, found: str, use: str, *, at_key: bool = False, settle: bool = False) -> None:
        """Note a fault of the value here; see `Source.fault`."""
        mark = self.source.key_marks.get(self.where) if at_key else None
        self.source.fault(self.where, found, use, mark=mark, settle=settle)


def shown(value: object) -> str:
    """Return a value as a fault names it: one line, short, without a url's password."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = re.sub(r"//[^/]*@", "//***@", value)
        text = text if len(text) <= 200 else text[:197] + "..."
        return json.dumps(text, ensure_ascii=not text.isprintable())
    if isinstance(value, tuple):
        return "a list" if value else "an empty list"
    return "a mapping" if isinstance(value, dict) else str(value)


def nearest(word: str, known: Iterable[str]) -> tuple[str, str]:
    """Return the likely word, as a question in brackets or nothing, and the list of all."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word, names, 1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return meant, f"one of: {', '.join(names)}" if names else "no key here"
