"""What a running HAProxy says of itself over its runtime socket, read once.

Source: HAProxy management guide, sections 9.1 (statistics) and 9.3 (commands).
"""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lb_probe.adapters.haproxy import UnfinishedError
from lb_probe.ports import PublishError

_NOT_READY = 0x3B  # any maintenance or drain of srv_admin_state
_DISABLED = 0x04  # `disabled` in the configuration; stays set after `ready`
# Without these columns nothing is known of a server; what else there is may be missing.
_STATE = ("be_name", "srv_name", "srv_addr", "srv_op_state", "srv_admin_state", "srv_uweight")
_STAT = ("pxname", "svname", "status", "bck", "check_status")


class Asks(Protocol):
    """A command socket, as `adapters.haproxy.RuntimeApi` is one."""

    where: str

    async def ask(self, line: str) -> bytes:
        """Send one line and return the whole answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server, from `show servers state` and `show stat`.

    Attributes:
        is_ready: Neither in maintenance nor drained.
        is_disabled: Marked `disabled` in the configuration, whatever was said since.
        is_up: HAProxy would send traffic there if it is ready.
        check: Result of its last check, as L4OK; empty without a check.
        agent: The same of its agent-check; empty without one.
        tracks: BACKEND/SERVER it takes its state from; empty for none.
        sessions: Sessions since HAProxy started.
    """

    backend: str
    name: str
    address: str
    port: int
    weight: int
    is_ready: bool
    is_disabled: bool
    is_up: bool
    uses_tls: bool = False
    check: str = ""
    agent: str = ""
    tracks: str = ""
    cookie: str = ""
    is_backup: bool = False
    sessions: int = 0

    @property
    def full_name(self) -> str:
        """BACKEND/SERVER."""
        return f"{self.backend}/{self.name}"


@dataclass(frozen=True, slots=True)
class Running:
    """One reading.

    Attributes:
        level: What this socket may do: user, operator or admin; empty where it does not tell.
        maps: The entries of each map, by its name; None for one that may not be read.
        tables: Size of each stick-table, by its name.
        sockets: Level of each command socket, by its address.
        leaving: Pids of workers that a reload left behind; None without a master socket.
    """

    info: Mapping[str, str]
    servers: tuple[Server, ...]
    level: str = "admin"
    maps: Mapping[str, tuple[tuple[str, str], ...] | None] = field(default_factory=dict)
    tables: Mapping[str, int] = field(default_factory=dict)
    sockets: Mapping[str, str] = field(default_factory=dict)
    leaving: tuple[int, ...] | None = None

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version; zeros where it does not tell."""
        match = re.match(r"([0-9]{1,3})\.([0-9]{1,3})", self.info.get("Version", ""))
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def backend(self, name: str) -> list[Server]:
        """Return the servers of one backend."""
        return [server for server in self.servers if server.backend == name]

    @property
    def backends(self) -> dict[str, list[Server]]:
        """The servers of every backend that has some, in HAProxy's order."""
        names = dict.fromkeys(server.backend for server in self.servers)
        return {name: self.backend(name) for name in names}


async def read_running(api: Asks, master: Asks | None = None) -> Running:
    """Ask a HAProxy for all that the advice needs; changes nothing.

    Args:
        master: Its master's socket; tells of workers that a reload left behind.

    Raises:
        Unreachable: No connection.
        PublishError: An answer that is none of HAProxy's, or was cut off.
    """
    info = _info(await _ask(api, "show info"), api)
    stat = _csv(await _ask(api, "show stat -1 4 -1"), api)
    state = _table(await _ask(api, "show servers state"), api)
    names = re.findall(
        r"^-?[0-9]+ \((.+?)\) pattern .*used by map", await _ask(api, "show map"), re.M
    )
    return Running(
        info=info,
        servers=tuple(
            _server(row, stat.get((row["be_name"], row["srv_name"]), {})) for row in state
        ),
        level=(await _ask(api, "show cli level")).strip(),
        maps={name: _entries(await _ask(api, f"show map {_escaped(name)}")) for name in names},
        tables=_tables(await _ask(api, "show table")),
        sockets=_sockets(await _ask(api, "show cli sockets")),
        leaving=None if master is None else _leaving(await _ask(master, "show proc;quit")),
    )


async def _ask(api: Asks, line: str) -> str:
    try:
        return (await api.ask(line)).decode("utf-8", "replace")
    except UnfinishedError as exc:
        raise PublishError(f"HAProxy at {api.where}: {exc}, after `{line}`") from exc


def _escaped(name: str) -> str:
    return re.sub(r"([;\\ ])", r"\\\1", name)


def _info(text: str, api: Asks) -> dict[str, str]:
    found = dict(line.split(": ", 1) for line in text.split("\n") if ": " in line)
    if "Pid" not in found or not _is_whole(text):
        raise _no_answer(api, "show info", text)
    return found


def _table(text: str, api: Asks) -> list[dict[str, str]]:
    lines = text.strip("\n").split("\n")
    columns = lines[1].removeprefix("# ").split(" ") if len(lines) > 1 else []
    rows = [line.split(" ") for line in lines[2:]]
    is_whole = _is_whole(text) and all(len(row) == len(columns) for row in rows)
    if not is_whole or not set(_STATE) <= set(columns):
        raise _no_answer(api, "show servers state", text)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _csv(text: str, api: Asks) -> dict[tuple[str, str], dict[str, str]]:
    # A cell with a newline in it is quoted, and comes as it is.
    rows = csv.reader(io.StringIO(text.removeprefix("# "), newline=""))
    try:
        header, *cells = (row for row in rows if row)
        is_whole = _is_whole(text) and all(len(row) == len(header) for row in cells)
        if not is_whole or not set(_STAT) <= set(header):
            raise ValueError
    except (ValueError, csv.Error):
        raise _no_answer(api, "show stat", text) from None
    named = [dict(zip(header, row, strict=True)) for row in cells]
    return {(row["pxname"], row["svname"]): row for row in named}


def _is_whole(text: str) -> bool:
    return text.endswith("\n\n")  # each answer ends with an empty line


def _no_answer(api: Asks, line: str, text: str) -> PublishError:
    return PublishError(
        f"{api.where} does not answer `{line}` as HAProxy does: {text[:80]!r}; is that HAProxy's"
        " command socket (`stats socket`), and nothing in front of it?"
    )


def _entries(text: str) -> tuple[tuple[str, str], ...] | None:
    cells = [line.split(" ", 2) for line in text.split("\n") if line]
    if not all(len(row) == 3 and row[0].startswith("0x") for row in cells):
        return None
    return tuple((key, value) for _, key, value in cells)


def _tables(text: str) -> dict[str, int]:
    rows = re.findall(r"^# table: (.+?), type: .*?, size:([0-9]+)", text, re.M)
    return {name: int(size) for name, size in rows}


def _sockets(text: str) -> dict[str, str]:
    rows = (line.split(" ") for line in text.split("\n") if not line.startswith("#"))
    return {row[0]: row[1] for row in rows if len(row) > 1 and "@" in row[0]}


def _leaving(text: str) -> tuple[int, ...]:
    _, _, old = text.partition("# old workers\n")
    old, _, _ = old.partition("\n#")
    return tuple(int(line.split()[0]) for line in old.split("\n") if line[:1].isdigit())


def _server(row: Mapping[str, str], stat: Mapping[str, str]) -> Server:
    admin, tracked = (
        _int(row["srv_admin_state"]),
        re.match(r"MAINT \(via (.+)\)", stat.get("status", "")),
    )
    # A passed or failed check that is repeated now is marked with `* `.
    check = stat.get("check_status", "").removeprefix("* ")
    return Server(
        backend=row["be_name"],
        name=row["srv_name"],
        address=row["srv_addr"],
        port=_int(row.get("srv_port", "0")),
        weight=_int(row["srv_uweight"]),
        is_ready=not admin & _NOT_READY,
        is_disabled=bool(admin & _DISABLED),
        is_up=row["srv_op_state"] in {"1", "2"},
        uses_tls=row.get("srv_use_ssl") == "1",
        check=check,
        agent=stat.get("agent_status", "").removeprefix("* "),
        tracks=stat.get("tracked", "") or (tracked[1] if tracked else ""),
        cookie=stat.get("cookie", ""),
        is_backup=stat.get("bck") == "1",
        sessions=_int(stat.get("stot", "0")),
    )


def _int(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
