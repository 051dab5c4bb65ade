"""First pass: YAML text becomes plain data with a place for every value.

It takes the part of YAML that every tool reads alike, and reads events rather than nodes: a text
made to hurt ends at the first value too many.
"""

import re
from typing import Any

import yaml

from lb_probe.config.source import Mark, Source, Where, shown

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16  # the deepest valid file has nine levels
MAX_VALUES = 100_000  # some 2,500 groups
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads seven times faster

_START = 'a mapping that starts with "version: 1"'
# NEL, LS and PS would end a line for YAML 1.1 and not for an editor: not printable here.
_UNPRINTABLE = re.compile(
    r"[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# What some YAML tools (1.1, or 1.2) read as something else than the text that stands there.
_SURPRISES = re.compile(
    r"(?P<bool>(?i:y|yes|on|n|no|off))"
    r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[-+]?0[0-9_]+|[-+]?0o[0-7]+|[-+]?0x[0-9a-fA-F_]+|[-+]?0b[01_]+"
    r"|[-+]?[0-9][0-9.]*_[0-9_.]*"
    r"|[-+]?(\.[0-9]|[0-9])[0-9.]*[eE][-+]?[0-9]+"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"
)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read(source: Source) -> None:
    """Read the file into `source.data`; every mistake of the text is noted.

    Raises:
        ConfigError: The text ends the reading.
    """
    text = _text(source)
    try:
        source.data = _Reader(source, text).document()
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        mark = (at.line + 1, at.column + 1) if at else (1, 1)
        line = "".join(text.splitlines()[mark[0] - 1 : mark[0]])
        is_tab = "\t" in line[: mark[1]]
        use = "spaces, not tabs" if is_tab else "YAML; the line before may be the one"
        source.end(mark, f"broken YAML ({problem})", use)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        source.end((1, 1), f"broken YAML ({type(error).__name__})", "YAML")


def _text(source: Source) -> str:
    try:
        with source.path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        source.end((1, 1), f"no readable file ({why})", "a file that exists and may be read")
    if len(raw) > MAX_BYTES:
        source.end((1, 1), "more than 4 MiB", "a smaller file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(errors="replace")
        source.end(_end_of(before), f"byte 0x{raw[error.start]:02x}", "UTF-8")
    if odd := _UNPRINTABLE.search(text):
        code = f"control character U+{ord(odd[0]):04X}"
        source.end(_end_of(text[: odd.start()]), code, "printable text")
    return text


class _Reader:
    """One reading of one text."""

    def __init__(self, source: Source, text: str) -> None:
        self._source = source
        self._events = yaml.parse(text, Loader=LOADER)

    def document(self) -> object:
        """Return what the one document of the text says."""
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            self._source.end((1, 1), "an empty file", _START)
        data = self._value(next(self._events), ())
        next(self._events)
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            self._source.fault((), "a second document", "one document a file", mark=_mark(after))
        if not isinstance(data, dict):
            self._source.fault((), shown(data), _START, settle=True)
        return data

    def _value(self, event: Any, where: Where) -> object:
        """Return the value that `event` starts; its place goes into the marks."""
        source = self._source
        source.marks.setdefault(where, _mark(event))
        if len(where) > MAX_DEPTH:
            source.end(_mark(event), f"more than {MAX_DEPTH} levels", "a flatter file")
        if len(source.marks) > MAX_VALUES:
            source.end(_mark(event), f"more than {MAX_VALUES} values", "a smaller file")
        if isinstance(event, yaml.AliasEvent):
            found = f"alias *{str(event.anchor)[:40]}"
            source.fault(where, found, "the value itself, written out", settle=True)
            return None
        if event.anchor is not None:
            found = f"anchor &{str(event.anchor)[:40]}"
            source.fault(where, found, "the value without an anchor")
        if event.tag is not None:
            found = f"tag {shown(event.tag)}"
            source.fault(where, found, "the value without a tag", settle=True)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, where)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(where)
        return self._mapping(where)

    def _scalar(self, event: Any, where: Where) -> object:
        text: str = event.value
        if re.search("[\0\ud800-\udfff]", text):
            found = "a NUL character or half of a surrogate pair"
            self._source.fault(where, found, "whole characters", settle=True)
            return None
        if not event.implicit[0]:
            return text
        if where[-1:] == ("witness",) and text == "off":
            return text  # one of its three words, and no switch
        if reading := _surprise(text):
            use = "true or false, or" if reading in {"true", "false"} else "a decimal number, or"
            found = f"{text}, which other YAML tools read as {reading}"
            self._source.fault(where, found, f'{use} quotes for text: "{text}"', settle=True)
            return text
        return _plain(text)

    def _sequence(self, where: Where) -> tuple[object, ...]:
        values: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*where, len(values))))
        return tuple(values)

    def _mapping(self, where: Where) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, where)
            at = (*where, key or "")
            if key is None:
                self._skip(next(self._events), where)
            elif key in values:
                found = f"this key again, first on line {self._source.key_marks[at][0]}"
                self._source.fault(at, found, "each key once", mark=_mark(event))
                self._skip(next(self._events), where)
            else:
                self._source.key_marks[at] = _mark(event)
                values[key] = self._value(next(self._events), at)
        return values

    def _key(self, event: Any, where: Where) -> str | None:
        """Return a mapping's key, or None where it has no text; notes what is wrong with it."""
        use = "a plain word as key"
        if not isinstance(event, yaml.ScalarEvent):
            self._skip(event, where)
            found = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or mapping as key"
        elif event.anchor is not None or event.tag is not None:
            found = "an anchor or tag"
        elif event.implicit[0] and event.value == "<<":
            found, use = "merge key <<", "the keys themselves, written out"
        else:
            if event.implicit[0]:
                self._plain_key(event, where)
            return str(event.value)
        self._source.fault(where, found, use, mark=_mark(event))
        return None

    def _plain_key(self, event: Any, where: Where) -> None:
        found = f"{event.value or 'nothing'} as a key"
        if reading := _surprise(event.value):
            found = f"{event.value}, which other YAML tools read as {reading}"
        elif isinstance(_plain(event.value), str):
            return
        self._source.fault(where, found, f'quotes: "{event.value}"', mark=_mark(event))
        self._source.settle((*where, event.value))

    def _skip(self, event: Any, where: Where) -> None:
        """Read what has no place in the data: it counts, and nothing is said of it."""
        nowhere = (*where, -1 - len(self._source.marks))
        self._source.settle(nowhere)
        self._value(event, nowhere)


def _mark(event: Any) -> Mark:
    return (event.start_mark.line + 1, event.start_mark.column + 1)


def _end_of(text: str) -> Mark:
    lines = re.split(r"\r\n|\r|\n", text)
    return (len(lines), len(lines[-1]) + 1)


def _plain(text: str) -> object:
    """Return the value of a scalar without quotes, by YAML 1.2's rules."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if len(text) < 40 and _FLOAT.fullmatch(text) else text


def _surprise(text: str) -> str | None:
    """Return what other tools would read where we read text; None where all agree."""
    match = _SURPRISES.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        return None
    if match["bool"]:
        return "true" if text.lower() in {"y", "yes", "on"} else "false"
    try:
        reading = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError):
        reading = text
    if isinstance(reading, int | float):
        return str(reading)
    return "a number" if isinstance(reading, str) else "a date"
