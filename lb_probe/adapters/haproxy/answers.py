"""What HAProxy's answers mean: pure text in, values out.

Two steps. Tables are cut into rows of raw cells, cheaply, for thousands of servers several times a
second; a `Server` is made of a row, and its numbers are judged, only where a row has changed.

Source: HAProxy management guide, sections 9.1 (statistics) and 9.3 (commands).
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from lb_probe.adapters.haproxy.words import printable, quoted
from lb_probe.core.model import Health

_DIGITS = 18

# Bits of srv_admin_state. 0x04 (`disabled` in the configuration) is a memory, not a state: it
# stays set after `ready`, so it must not count.
_ADMIN_WORDS = (
    (0x01, "maintenance"),
    (0x02, "maintenance of the server it tracks"),
    (0x20, "maintenance: its name does not resolve"),
    (0x08, "drain"),
    (0x10, "drain of the server it tracks"),
)
_NOT_READY = 0x3B
_MAINTENANCE = 0x23
# srv_op_state: 0 stopped, 1 starting (slow start), 2 running, 3 stopping (takes no new client).
_OP_SERVING = frozenset({1, 2})
_OP_STOPPING = 3
# Bits of srv_check_state: 1 a check is running, 2 configured, 4 enabled, 8 paused.
_CHECK_ENABLED = 0x04
_CHECK_PAUSED = 0x08
_BETWEEN_CHECKS = {str(n).encode(): str(n & ~1).encode() for n in range(1, 256, 2)}
# srv_check_status as the log and `show stat` spell it; the numbers are the same in 2.4 to 3.5.
# fmt: off
_CHECKS = (
    "UNK", "INI", "START", "CHECKED", "HANA", "SOCKERR", "L4OK", "L4TOUT", "L4CON", "L6OK",
    "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "L57DATA", "L7OK", "L7OKC", "L7STS", "PROCERR",
    "PROCTOUT", "PROCOK",
)
# fmt: on
_PASSED = frozenset({"L4OK", "L6OK", "L7OK", "L7OKC", "PROCOK"})

_ADVICE = {
    b"Permission denied": "give this `stats socket` line `level admin`",
    b"No such backend.": "compare `backend` in probes.yaml with HAProxy's configuration",
    b"No such server.": "compare `nodes` in probes.yaml with HAProxy's configuration",
    b"Proxy is disabled.": "the backend is disabled, or this process is leaving after a reload",
    b"Unknown map identifier": "compare `map_file` in probes.yaml with `show map`",
}


class UnbelievableError(ValueError):
    """An answer that supports no statement about HAProxy; says what was found and wanted."""


# ------------------------------------------------------------------ show info
@dataclass(frozen=True, slots=True)
class Process:
    """The process that answered.

    Attributes:
        start: UTC seconds since 1970.
        uptime_s: Seconds since then.
        connections: It took so far, this one included; 0 where it does not tell.
    """

    pid: int
    start: int
    uptime_s: int
    version: str
    connections: int = 0


def process(info: bytes) -> Process:
    """Read `show info`.

    Raises:
        UnbelievableError: It is something else, or from a process that is leaving.
    """
    lines = info.decode("utf-8", "replace").split("\n")
    fields = {key: value for key, _, value in (line.partition(": ") for line in lines)}
    if "Pid" not in fields:
        raise UnbelievableError(f"found {quoted(info)}; wanted the answer of `show info`")
    if number("Stopping", fields.get("Stopping", "")) != 0:
        raise UnbelievableError(
            f"process {quoted(fields['Pid'])} is leaving after a reload and speaks for nobody;"
            " ask again"
        )
    return Process(
        pid=number("Pid", fields["Pid"]),
        start=number("Start_time_sec", fields.get("Start_time_sec", "")),
        uptime_s=number("Uptime_sec", fields.get("Uptime_sec", "")),
        version=printable(fields.get("Version", "unknown"), 40),
        connections=number("CumConns", fields.get("CumConns", "0")),
    )


def number(key: str, text: str) -> int:
    """Return a decimal number; the masks of HAProxy are decimal too.

    Raises:
        UnbelievableError: It is none. int() alone would take "1_0" and digits of any script.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise UnbelievableError(f"found {key} {quoted(text)}; wanted a number")
    return int(text)


def sections(reply: bytes, count: int) -> list[bytes | None]:
    """Cut the answer of `count` commands apart; None for what did not come.

    Raises:
        UnbelievableError: It ends amid a command's answer, or holds more of them.
    """
    # Each answer ends with an empty line, and one that has no text is that line alone.
    found: list[bytes | None] = []
    at = 0
    while at < len(reply):
        end = at if reply.startswith(b"\n", at) else reply.find(b"\n\n", at) + 1
        if end <= at and not reply.startswith(b"\n", at):
            raise UnbelievableError(
                f"its answer is cut off; wanted a blank line after {quoted(reply[-60:])}"
            )
        found.append(reply[at : max(at, end - 1)])
        at = end + 1
    if len(found) > count:
        raise UnbelievableError(
            f"found {len(found)} answers to {count} commands, the last {quoted(found[-1] or b'')}"
        )
    return found + [None] * (count - len(found))


def why_refused(line: str, reply: bytes) -> str:
    """Say why a line that changes something was not carried out in whole; empty if it was.

    Only empty answers are a success; any text is an error.
    """
    told = reply.strip(b"\n")
    if told:
        advice = next((a for text, a in _ADVICE.items() if text in told), "see HAProxy's log")
        return (
            f"answered {quoted(told)} to `{line[:200]}`; wanted an empty answer;"
            f" the rest of the line may be in force; {advice}"
        )
    wanted = line.count(";") + 1
    if len(reply) < wanted:
        # Each command ends its answer with a newline: fewer, and some were not run.
        return (
            f"answered {len(reply)} of {wanted} commands of `{line[:200]}`:"
            " the outcome is unknown; read back before anything is sent again"
        )
    return ""


# ------------------------------------------------------------------ show servers state
# be_name, srv_name, op, admin, weight, check status, check health, check state; as they came, but
# for the bit that tells whether a check is running this very moment.
Row = tuple[bytes, ...]
_WANTED = (
    b"be_name",
    b"srv_name",
    b"srv_op_state",
    b"srv_admin_state",
    b"srv_uweight",
    b"srv_check_status",
)
_OPTIONAL = (b"srv_check_health", b"srv_check_state")


def rows(table: bytes) -> dict[bytes, tuple[Row, ...]]:
    """Read `show servers state`: the rows of each backend, columns found by name.

    Raises:
        UnbelievableError: It is something else, or a row is broken.
    """
    lines = table.split(b"\n")
    if lines[0] != b"1" or len(lines) < 2 or not lines[1].startswith(b"# "):
        raise UnbelievableError(
            f"found {quoted(table)}; wanted the servers of this backend: does it exist?"
        )
    pick, width, state = _picker(lines[1])
    found: dict[bytes, list[Row]] = {}
    for line in lines[2:]:
        cells = line.split(b" ")
        if len(cells) != width:
            raise UnbelievableError(
                f"found a row of {len(cells)} cells, {quoted(line)}; wanted {width}"
            )
        cells.append(b"0")
        cells[state] = _BETWEEN_CHECKS.get(cells[state], cells[state])
        row = pick(cells)
        found.setdefault(row[0], []).append(row)
    return {backend: tuple(servers) for backend, servers in found.items()}


@lru_cache(maxsize=8)
def _picker(header: bytes) -> tuple[Callable[[Sequence[bytes]], Row], int, int]:
    """Return what picks our cells, how many there are, and where the check's state is.

    A cell more, always `0`, stands for optional columns that are not there.
    """
    columns = header.removeprefix(b"# ").split(b" ")
    missing = [name for name in _WANTED if columns.count(name) != 1]
    if missing:
        raise UnbelievableError(
            f"found the columns {quoted(header)}; wanted the column {missing[0].decode()} once"
        )
    width = len(columns)
    where = [columns.index(name) for name in _WANTED]
    where += [columns.index(name) if name in columns else width for name in _OPTIONAL]
    return itemgetter(*where), width, where[-1]


@dataclass(frozen=True, slots=True)
class Server:
    """One row of `show servers state`; the fields are srv_* columns of the same name."""

    backend: str
    name: str
    op_state: int
    admin_state: int
    uweight: int
    check_status: int
    check_health: int
    check_state: int

    @classmethod
    def of(cls, row: Row) -> "Server":
        """Judge the cells of one row.

        Raises:
            UnbelievableError: A number is none.
        """
        backend, name, *cells = (cell.decode("utf-8", "replace") for cell in row)
        keys = (*_WANTED[2:], *_OPTIONAL)
        values = [number(k.decode(), cell) for k, cell in zip(keys, cells, strict=True)]
        return cls(backend, name, *values)

    @property
    def is_ready(self) -> bool:
        """Whether it may have traffic by its administrative state alone."""
        return not self.admin_state & _NOT_READY

    @property
    def obstacle(self) -> str:
        """Why a ready server gets no traffic all the same; empty when it does get it."""
        if self.op_state == _OP_STOPPING:
            return "HAProxy's own check lets no new client in"
        if self.op_state not in _OP_SERVING:
            return f"HAProxy's own check holds it down ({self.check})"
        return "" if self.uweight else "its weight is 0"

    @property
    def why_not_ready(self) -> str:
        """The administrative state in words."""
        return next((word for bit, word in _ADMIN_WORDS if self.admin_state & bit), "ready")

    @property
    def is_checked(self) -> bool:
        """Whether HAProxy checks it now: checks stop in maintenance."""
        return (
            bool(self.check_state & _CHECK_ENABLED)
            and not self.check_state & _CHECK_PAUSED
            and not self.admin_state & _MAINTENANCE
        )

    @property
    def check(self) -> str:
        """Its last check in HAProxy's word, as L4CON."""
        at = self.check_status
        return _CHECKS[at] if at < len(_CHECKS) else f"check status {at}"

    def health(self, full: int | None) -> Health:
        """Say what HAProxy's own check says of it.

        Args:
            full: The health counter of a server that passed every check lately: rise + fall - 1.
                None where it is not known; then nothing is sure.
        """
        up = self.op_state in _OP_SERVING
        # After a start, and after maintenance, a server counts as up before its first check: with
        # `fall 1` its counter is full all the same, but no check has passed.
        is_full = self.check_health == full and self.check in _PASSED
        is_sure = is_full if up else self.check_health == 0
        word = "UP" if up else "NOLB" if self.op_state == _OP_STOPPING else "DOWN"
        if not is_sure and full is not None:
            word += f" {self.check_health} of {full}"
        # A check whose word is not of the usual kind proves nothing deeper than a connection.
        layer = int(self.check[1]) if re.match(r"L[467]", self.check) else 4
        return Health(up, is_sure, f"{word}, {self.check}", layer)


# ------------------------------------------------------------------ show map
@dataclass(frozen=True, slots=True)
class MapTable:
    """A map as it runs.

    Attributes:
        values: The value of each key, the first where a key is there several times.
        twice: All values of the keys that are there several times.
    """

    values: Mapping[bytes, bytes]
    twice: Mapping[bytes, tuple[bytes, ...]]


def map_table(table: bytes) -> MapTable:
    """Read `show map`.

    Raises:
        UnbelievableError: It is something else, or there is no such map.
    """
    values: dict[bytes, bytes] = {}
    twice: dict[bytes, tuple[bytes, ...]] = {}
    for line in table.split(b"\n") if table else ():
        cells = line.split(b" ", 2)
        if len(cells) < 3 or not cells[0].startswith(b"0x"):
            hint = "; compare `map_file` with `show map`" if b"Unknown map" in line else ""
            raise UnbelievableError(f"found {quoted(line)}; wanted the entries of the map{hint}")
        _, key, value = cells
        if key in values:
            twice[key] = (*twice.get(key, (values[key],)), value)
        else:
            values[key] = value
    return MapTable(values, twice)


# ------------------------------------------------------------------ show stat, show sess, show proc
@dataclass(frozen=True, slots=True)
class Stat:
    """A server's row of `show stat`.

    Attributes:
        in_flight: Sessions on it and in its queue.
        full: Its health counter after nothing but passed checks; None without a check.
    """

    in_flight: int
    full: int | None


_STAT_COLUMNS = ("pxname", "svname", "scur", "qcur", "check_rise", "check_fall")


def stats(table: bytes) -> dict[tuple[str, str], Stat]:
    """Read `show stat ... 4 -1`: servers by backend and name.

    Raises:
        UnbelievableError: It is something else.
    """
    text = table.decode("utf-8", "replace")
    header = text.partition("\n")[0].removeprefix("# ").split(",")
    if not text.startswith("# ") or not set(_STAT_COLUMNS) <= set(header):
        raise UnbelievableError(f"found {quoted(text)}; wanted the answer of `show stat`")
    rows = csv.reader(io.StringIO(text.removeprefix("# ")))
    pick = itemgetter(*map(next(rows).index, _STAT_COLUMNS))
    try:
        cells = [pick(row) for row in rows if row]
    except (IndexError, csv.Error) as exc:
        raise UnbelievableError(f"found a broken row in `show stat` ({exc})") from None
    found = {}
    for backend, server, scur, qcur, rise, fall in cells:
        found[backend, server] = Stat(
            in_flight=number("scur", scur or "0") + number("qcur", qcur or "0"),
            full=number("check_rise", rise) + number("check_fall", fall) - 1 if rise else None,
        )
    return found


_SESSION = re.compile(rb"^(0x[0-9a-f]{1,32}): .*? be=(\S+) srv=(\S+) ", re.MULTILINE)


def sessions(table: bytes) -> Iterator[tuple[str, str, str]]:
    """Read `show sess`: each session's id, backend and server."""
    for found in _SESSION.finditer(table):
        name, backend, server = (cell.decode("utf-8", "replace") for cell in found.groups())
        yield name, backend, server


def workers(table: bytes) -> tuple[int, tuple[int, ...]]:
    """Read a master's `show proc`: how often it was reloaded, and the pids of leaving workers.

    Raises:
        UnbelievableError: It is something else.
    """
    text = table.decode("utf-8", "replace")
    if not text.startswith("#<PID>"):
        raise UnbelievableError(f"found {quoted(text)}; wanted the answer of `show proc`")
    reloads, section, leaving = 0, "", []
    for line in text.split("\n")[1:]:
        cells = line.split()
        if line.startswith("# "):
            section = line
        elif len(cells) > 2 and cells[1] == "master":
            reloads = number("reloads", cells[2])
        elif len(cells) > 2 and section == "# old workers":
            leaving.append(number("PID", cells[0]))
    return reloads, tuple(leaving)
