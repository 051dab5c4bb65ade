"""What is kept of what happened: the kinds of records, the file they travel in, and its checks.

A file of history is JSON Lines: a header, then one record on each line, oldest first, in exactly
the form in which the API shows it. It is read strictly, because a replay of a history that cannot
have happened would look like an answer: the first line that is not ours refuses the whole file.

Two clocks are in each record that the prober writes. `at` is wall time, for people. `run` and `up`
(the start of that prober, and the monotonic seconds since) are for replay: they do not care when
somebody sets the clock.

Source: DESIGN section 1; `docs/history.md` is the page for people.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lb_probe.core import active_active, failover
from lb_probe.core.acts import VERBS
from lb_probe.core.model import Mode, Page, Phase, Role
from lb_probe.ports import Invalid, LbProbeError, Record

FORMAT = 1
KEY = "lb_probe_history"
LARGEST_STEP_BACK_S = 3600.0
LARGEST_LINE = 1024 * 1024
LARGEST_NUMBER = 2**63 - 1
LATEST_S = 10_000_000_000.0  # the year 2286: later than that is a mistake
LONGEST_S = 1e9  # 31 years
# What changed something saved, or was asked for by an operator; kept longest.
POOL_CHANGES = frozenset({"take-out", "put-in"})
CHANGES = frozenset(
    {*VERBS, *POOL_CHANGES, "hold-lapsed", "roles-agreed", "adopt", "assign", "offline"}
)
# For replay; a timeline for people leaves them out.
_OF_GROUPS = frozenset({"observation", "condition", "witness", "began"})
QUIET = frozenset({"observation", "watching", "began"})
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|m|h|d)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class HistoryError(LbProbeError):
    """A history that cannot be used; the text is `PLACE: error: what was found, what to do`."""


# ------------------------------------------------------------------ times
def iso_ms(wall: float) -> str:
    """Return UTC seconds since 1970 as ISO-8601 with milliseconds.

    >>> iso_ms(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    at = datetime.fromtimestamp(round(wall, 3), UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def wall_of(text: str) -> float:
    """Return UTC seconds since 1970 for an ISO-8601 time that names its offset.

    Raises:
        ValueError: It is not one.

    >>> wall_of("1970-01-01T01:00:00.250+01:00")
    0.25
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without its offset")
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds(), 3)


def seconds_of(text: str) -> float:
    """Return seconds for `90s`, `12h`, `7d`.

    Raises:
        Invalid: Something else.

    >>> seconds_of("7d")
    604800.0
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise Invalid(f"found {text[:40]!r}; use a number with a unit, as 30m, 12h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def since_of(text: str, now: float) -> float:
    """Return the moment that `7d` (so long before `now`) or an ISO-8601 time stands for.

    Raises:
        Invalid: Neither of them.

    >>> since_of("1h", 7200.0)
    3600.0
    """
    try:
        return wall_of(text)
    except (ValueError, OverflowError):
        pass
    try:
        return now - seconds_of(text)
    except Invalid as error:
        raise Invalid(f"since: {error}, or a time as 2026-01-31T08:00Z") from None


# ------------------------------------------------------------------ what a record may hold
Check = Callable[[object], bool]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_NUMBER


def _seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 <= float(str(value)) <= LONGEST_S


def _moment(value: object) -> bool:
    return type(value) is int and 0 <= value < LATEST_S * 1000


def _time(value: object) -> bool:
    try:
        return isinstance(value, str) and 0 <= wall_of(value) < LATEST_S
    except (ValueError, OverflowError):
        return False


def _yes_no(value: object) -> bool:
    return isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _notes(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _one_of(words: Iterable[str]) -> Check:
    known = frozenset(words)
    return lambda value: isinstance(value, str) and value in known


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _roles(value: object) -> bool:
    is_role = _one_of(role.value for role in Role)
    return isinstance(value, dict) and all(map(is_role, value.values()))


def _hold(value: object) -> bool:
    wanted: dict[str, Check] = {
        "by": _text,
        "reason": _text,
        "until": _time,
        "hands_off": _yes_no,
    }
    return (
        isinstance(value, dict)
        and value.keys() == wanted.keys()
        and all(check(value[key]) for key, check in wanted.items())
    )


# A key that must be there ends in `!`.
_STAMP: Mapping[str, Check] = {"run": _moment, "up": _seconds}
_STATE: Mapping[str, Check] = {"latched": _yes_no, "roles": _roles, "hold": _hold}
_CHANGE: Mapping[str, Check] = {
    "from": _or_null(_name),
    "to!": _or_null(_name),
    "actor": _text,
    "reason": _text,
    "rule": _text,
    "evidence": _texts,
    "notes": _notes,
    **_STATE,
}
_CONDITIONS = {*failover.CONDITIONS, *active_active.CONDITIONS}
DETAILS: Mapping[str, Mapping[str, Check]] = {
    **dict.fromkeys(CHANGES, _CHANGE),
    "observation": {
        "node!": _name,
        "page!": _one_of(page.value for page in Page),
        "result!": _one_of(("ok", "failed")),
        "phase": _one_of(phase.value for phase in Phase),
        "mode": _one_of(mode.value for mode in Mode),
        "detail": _text,
        "started!": _time,
        "ended!": _time,
    },
    "condition": {
        "from": _or_null(_one_of(_CONDITIONS)),
        "to!": _one_of(_CONDITIONS),
        "rule": _text,
        "blocked": _texts,
    },
    "witness": {"adapters!": _texts},
    "began": {"how": _text, "reason": _text, "to!": _or_null(_name), **_STATE},
    "started": {},
    "stopped": {},
    "watching": {},
    "isolated": {},
    "rejoined": {"reason": _text},
    "stalled": {"reason": _text, "away_s": _seconds},
    "clock-jumped": {"reason": _text},
    "store-failed": {"detail": _text},
    "store-recovered": {},
    "lost": {"records": _count},
}


def fault_of(record: object) -> str:
    """Say what is wrong with one record in its JSON form; empty when nothing is."""
    wanted: dict[str, Check] = {
        "group": _text,
        "kind": _text,
        "at": _time,
        "generation": _count,
        "details": lambda value: isinstance(value, dict),
    }
    if not isinstance(record, dict):
        return "found something that is no record; wanted an object"
    if record.keys() != wanted.keys():
        return f"found the keys {_words(record)}; wanted {_words(wanted)}"
    for key, check in wanted.items():
        if not check(record[key]):
            return f"found {key} {_shown(record[key])}, which cannot be"
    return _fault_of_kind(record)


def _fault_of_kind(record: Mapping[str, Any]) -> str:
    kind, details = record["kind"], record["details"]
    if kind not in DETAILS:
        return f"found the kind {_shown(kind)}, which this lb-probe does not know"
    if bool(record["group"]) != (kind in CHANGES or kind in _OF_GROUPS):
        return f"found the group {_shown(record['group'])} with the kind {kind}"
    known = {key.rstrip("!"): check for key, check in {**_STAMP, **DETAILS[kind]}.items()}
    if strange := sorted(details.keys() - known.keys()):
        return f"{kind}: found {_words(strange)}, which this lb-probe does not know"
    if missing := [key[:-1] for key in DETAILS[kind] if key[-1] == "!" and key[:-1] not in details]:
        return f"{kind}: found no {_words(missing)}"
    for key, value in details.items():
        if not known[key](value):
            return f"{kind}: found {key} {_shown(value)}, which cannot be"
    if ("run" in details) != ("up" in details):
        return f"{kind}: found one of run and up; wanted both or none"
    return _fault_of_observation(details) if kind == "observation" else ""


def _fault_of_observation(details: Mapping[str, Any]) -> str:
    failed, hastatus = details["result"] == "failed", details["page"] == Page.HASTATUS.value
    if wall_of(details["ended"]) < wall_of(details["started"]):
        return f"observation: ended {details['ended']}, before it started, {details['started']}"
    if failed != ("phase" in details):
        return "observation: found a phase without a failure, or a failure without one"
    if (hastatus and not failed) != ("mode" in details):
        return "observation: only a hastatus page that answered, and each of those, has a mode"
    return ""


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _words(found: Iterable[object]) -> str:
    return _shown(", ".join(sorted(map(str, found))) or "none")


# ------------------------------------------------------------------ records as JSON
def as_json(record: Record) -> dict[str, object]:
    """Return the record as the API shows it and as a line of a file holds it."""
    return {
        "group": record.group,
        "kind": record.kind,
        "at": iso_ms(record.at_wall),
        "generation": record.generation,
        "details": dict(record.details),
    }


def lines_of(records: Sequence[Mapping[str, object]], version: str) -> Iterator[str]:
    """Yield the lines of a file, each with its end: the header, then the records as given.

    Args:
        version: Of the lb-probe that writes it.
    """
    yield _line({KEY: FORMAT, "lb_probe": version, "records": len(records)})
    for record in records:
        yield _line(record)


def _line(content: Mapping[str, object]) -> str:
    first = {key: content[key] for key in content if key == KEY}
    rest = json.loads(json.dumps(content, sort_keys=True))
    return json.dumps({**first, **rest}, separators=(",", ":")) + "\n"


def checked(place: str, found: Iterable[object]) -> list[Record]:
    """Return records that came from the API or a store, judged as those of a file are.

    Raises:
        HistoryError: One of them cannot have happened, or is of a newer version.
    """
    reader = _Reader()
    for number, content in enumerate(found, start=1):
        if fault := reader.take(content, number):
            raise HistoryError(f"{place}: record {number}: error: {fault}")
    for number, fault in reader.open_faults:
        raise HistoryError(f"{place}: record {number}: error: {fault}")
    return reader.records


def read_file(path: Path) -> list[Record]:
    """Read a file of history.

    Raises:
        HistoryError: It cannot be read, or a line of it cannot be used; names the line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise HistoryError(f"{path}: error: cannot be read: {error.strerror}") from None
    return read(str(path), raw)


def read(name: str, raw: bytes) -> list[Record]:
    """Read the bytes of a file of history.

    Args:
        name: What messages call it.

    Raises:
        HistoryError: A line of it cannot be used; names the line.
    """
    lines = raw.split(b"\n")
    last = lines.pop()
    if last:
        raise HistoryError(
            f"{name}:{len(lines) + 1}: error: found a last line that does not end: the file is cut"
            " off; export it again"
        )
    reader = _Reader()
    for number, line in enumerate(lines, start=1):
        content, fault = _parsed(line)
        fault = fault or (reader.head(content) if number == 1 else reader.take(content, number))
        if fault:
            raise HistoryError(f"{name}:{number}: error: {fault}")
    for number, fault in reader.open_faults:
        raise HistoryError(f"{name}:{number}: error: {fault}")
    if not lines:
        raise HistoryError(f"{name}:1: error: found an empty file; wanted a header")
    if reader.announced not in (None, len(reader.records)):
        raise HistoryError(
            f"{name}:{len(lines)}: error: found {len(reader.records)} records where the header"
            f" announces {reader.announced}: the file was cut or joined; export it again"
        )
    return reader.records


def _parsed(line: bytes) -> tuple[object, str]:
    if len(line) > LARGEST_LINE:
        return None, f"found a line of {len(line)} bytes; wanted at most {LARGEST_LINE}"
    try:
        text = line.decode("utf-8")
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once), ""
    except UnicodeDecodeError:
        return None, "found bytes that are no UTF-8"
    except (ValueError, RecursionError) as error:
        why = error.args[0] if isinstance(error, _OddError) else "found no JSON; wanted an object"
        return None, str(why)


class _OddError(ValueError):
    """JSON that Python reads and we do not want."""


def _no_constant(word: str) -> object:
    raise _OddError(f"found {word}, which is no number")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _OddError("found a key twice in one object")
    return found


class _Reader:
    """Takes the records of one history in their order."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.announced: int | None = None
        self._latest = -math.inf
        self._run: object = None
        self._steps: dict[object, tuple[int, str]] = {}
        self._set: set[object] = set()

    @property
    def open_faults(self) -> list[tuple[int, str]]:
        """Steps back of the time that no record explains: line and fault, first one first."""
        return sorted(step for run, step in self._steps.items() if run not in self._set)

    def head(self, content: object) -> str:
        """Judge the header; return the fault, empty when there is none."""
        if not isinstance(content, dict) or type(content.get(KEY)) is not int:
            return f'found no header; wanted {{"{KEY}":{FORMAT},...}} on the first line'
        if content[KEY] > FORMAT:
            return (
                f"found format {content[KEY]}, which a newer lb-probe wrote; this one reads up to"
                f" {FORMAT}: upgrade lb-probe"
            )
        if content[KEY] != FORMAT:
            return f"found format {content[KEY]}; wanted {FORMAT}"
        if strange := sorted(content.keys() - {KEY, "lb_probe", "records"}):
            return f"found {_words(strange)} in the header, which this lb-probe does not know"
        if not _text(content.get("lb_probe", "")) or not _count(content.get("records", 0)):
            return "found a header whose values cannot be"
        self.announced = content.get("records")
        return ""

    def take(self, content: object, number: int) -> str:
        """Judge and keep a record; return the fault, empty when there is none.

        Args:
            number: Its line.
        """
        if fault := fault_of(content):
            return fault
        assert isinstance(content, dict)
        at, details = wall_of(content["at"]), content["details"]
        self._notice_step(content["kind"], at, details.get("run"), number)
        self.records.append(
            Record(content["group"], content["kind"], at, content["generation"], details)
        )
        return ""

    def _notice_step(self, kind: str, at: float, run: object, number: int) -> None:
        # A clock that was set is on record too, perhaps a second later; between two probers it may
        # have been set by anybody. What waited for a broken store comes late.
        if kind in ("clock-jumped", "store-failed"):
            self._set.add(run)
        back = self._latest - at
        if run == self._run and back > LARGEST_STEP_BACK_S:
            fault = f"time goes back by {back:.0f}s, and no change of the clock is on record"
            self._steps.setdefault(run, (number, fault))
        self._latest = at if run != self._run else max(self._latest, at)
        self._run = run
