"""HAProxy over its Runtime API: one line sets the assignment, one query reads it back.

Rules of this file, each learned from a real HAProxy:

* One connection carries one line, written at once, and is read to its end. A pipeline that
  arrives in pieces loses commands, a second line on a connection is dropped from 3.0 on, and an
  old connection stays with the process that leaves after a reload.
* A line that changes something is never sent twice. Once a byte of it is out the outcome is
  unknown until somebody reads back; only connecting is tried again. A HAProxy that hung carries
  out what waited in its queue when it wakes, long after we gave up: one read back is not enough.
* An empty answer is the only success, and runtime state is lost by every restart: what counts
  is `read_back`, on a new connection, from a process that is not leaving.

Source: HAProxy management guide, "Unix Socket commands"; rules X2 (read back) and X3 (exactly one).
"""

import asyncio
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable

Address = Path | tuple[str, int]

# HAProxy 2.6 hangs, and loses the connection slot for ever, on a line near its 16 kB buffer.
MAX_LINE_BYTES = 15_000
# `show info` is 2 kB and a server's row 0.1 kB: this is room for thousands of servers.
MAX_REPLY_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_NUMBER = re.compile(r"[0-9]{1,18}")

# Refused: the process is being replaced. Would block: the queue of the UNIX socket is full for
# the moment. Both pass within milliseconds, and nothing has been sent. A missing socket or one
# that we may not open does not mend itself: that is told at once.
_PASSING = (ConnectionRefusedError, BlockingIOError)
_CONNECT_RETRY_S = 0.5

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
# srv_op_state: 0 stopped, 1 starting (slow start), 2 running, 3 stopping (takes no new client).
_OP_SERVING = frozenset({1, 2})
_OP_STOPPING = 3
# srv_check_status as the log and `show stat` spell it; the numbers are the same in 2.4 to 3.5.
# fmt: off
_CHECKS = (
    "UNK", "INI", "START", "CHECKED", "HANA", "SOCKERR", "L4OK", "L4TOUT", "L4CON", "L6OK",
    "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "L57DATA", "L7OK", "L7OKC", "L7STS", "PROCERR",
    "PROCTOUT", "PROCOK",
)
# fmt: on
_ADVICE = {
    "Permission denied": "give this `stats socket` line `level admin`",
    "No such backend.": "compare `backend` in probes.yaml with HAProxy's configuration",
    "No such server.": "compare `nodes` in probes.yaml with HAProxy's configuration",
    "Proxy is disabled.": "the backend is disabled, or this process is leaving after a reload",
}


class HaproxyServers:
    """One backend whose servers are the nodes: one is `ready`, the others are in `maint`.

    Servers that the configuration marks `disabled` keep a restarted HAProxy closed until it is
    told; others are open by default until the next read back repairs them.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.

    Raises:
        ValueError: A name that HAProxy cannot have, no node, one server for two nodes, an
            address or a time that cannot be.
    """

    type = "haproxy"

    def __init__(
        self,
        name: str,
        socket: Address,
        backend: str,
        nodes: Mapping[str, str],
        *,
        timeout_s: float = 2.0,
    ) -> None:
        self.name = name
        self._api = RuntimeApi(socket, timeout_s=timeout_s)
        self._who = f"{name}: HAProxy at {self._api.where}"
        self._backend = _checked("backend", backend)
        self._nodes = {node: _checked(f"server of {node}", s) for node, s in nodes.items()}
        if not self._nodes or len(set(self._nodes.values())) < len(self._nodes):
            raise ValueError(
                f"nodes are {self._nodes}; give each node its own server, at least one"
            )
        # HAProxy may run another connection's command between two of ours: "ready a; ready b;
        # maint b; maint a" out of two crossing lines would leave nobody.
        self._writing = asyncio.Lock()

    def commands(self, node: str) -> list[str]:
        """Return the one line that `publish(node)` would send.

        Raises:
            PublishError: The node is not mapped to a server.
        """
        if node not in self._nodes:
            raise PublishError(
                f"{self._who}: no server is known for {node}; wanted one of {_listed(self._nodes)}"
            )
        chosen = self._nodes[node]
        # Ready first: both serve for a millisecond, where the other order answers 503. `maint`
        # and not `drain`: clients with a cookie or a stick entry go on using a drained server.
        states = [(chosen, "ready")]
        states += [(other, "maint") for other in self._nodes.values() if other != chosen]
        return [";".join(f"set server {self._backend}/{s} state {state}" for s, state in states)]

    async def publish(self, node: str) -> None:
        """Make this node's server ready and put all others in maintenance, in one line.

        Calls of one adapter wait for each other; each takes `timeout_s` at most.

        Raises:
            Unreachable: No connection; nothing was sent.
            PublishError: Refused, in whole or in part, or the outcome is unknown.
        """
        (line,) = self.commands(node)
        async with self._writing:
            try:
                reply = await self._api.ask(line)
            except Unreachable as exc:
                raise Unreachable(f"{self._who}: {exc}; nothing was sent") from exc
            except UnfinishedError as exc:
                raise PublishError(
                    f"{self._who}: {exc}, after `{line[:200]}` was sent: the outcome is unknown;"
                    " read back before anything is sent again"
                ) from exc
        self._judge(line, reply)

    async def read_back(self) -> Seen:
        """Ask who is ready, on a fresh connection, and which process says so.

        `Seen.instance` is "PID@START", START in UTC seconds since 1970.

        Raises:
            Unreachable: No connection, or not a byte of an answer, within `timeout_s`.
            PublishError: An answer that cannot be believed: nonsense, cut off, from a process
                that is leaving, or without one of our servers.
        """
        try:
            reply = await self._api.ask(f"show info;show servers state {self._backend}")
            info, table = _split(reply)
            return _seen(_process(info), _servers(table, self._backend), self._nodes)
        except Unreachable as exc:
            raise Unreachable(f"{self._who}: {exc}") from exc
        except UnfinishedError as exc:
            kind = PublishError if exc.received else Unreachable
            raise kind(f"{self._who}: {exc}; nothing is known of what it does") from exc
        except UnbelievableError as exc:
            raise PublishError(f"{self._who}, backend {self._backend}: {exc}") from exc

    def _judge(self, line: str, reply: str) -> None:
        told = reply.strip("\n")
        if told:
            advice = next((a for text, a in _ADVICE.items() if text in told), "see HAProxy's log")
            raise PublishError(
                f"{self._who} answered {_quoted(told)} to `{line[:200]}`; wanted an empty answer;"
                f" the rest of the line may be in force; {advice}"
            )
        wanted = line.count(";") + 1
        if len(reply) < wanted:
            # Each command ends its answer with a newline: fewer, and some were not run.
            raise PublishError(
                f"{self._who} answered {len(reply)} of {wanted} commands of `{line[:200]}`:"
                " the outcome is unknown; read back before anything is sent again"
            )


# ------------------------------------------------------------------ the wire
class UnfinishedError(Exception):
    """A line was sent, or partly sent, and no whole answer came.

    Attributes:
        received: Bytes of an answer that did come.
    """

    def __init__(self, message: str, received: int) -> None:
        super().__init__(message)
        self.received = received


class RuntimeApi:
    """The command socket of one HAProxy: one line out, one whole answer back.

    Attributes:
        where: The socket's path or HOST:PORT, for messages.
    """

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self.where = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
        if isinstance(address, tuple) and not 0 < address[1] < 65536:
            raise ValueError(f"port is {address[1]}; use 1 to 65535")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s}; use more than 0 (2 is usual)")
        if "\0" in self.where:
            raise ValueError(f"socket is {self.where!r}; use a path without NUL characters")
        self._address = address
        self._timeout_s = timeout_s

    async def ask(self, line: str) -> str:
        """Send one line and return all that HAProxy says until it closes.

        Connecting, waiting for a free slot, sending and reading share one deadline. A reply has
        at most `MAX_REPLY_BYTES`.

        Raises:
            Unreachable: No connection; nothing was sent.
            UnfinishedError: It may have been carried out, but no whole answer came.
            PublishError: The line may not be sent at all.
        """
        data = line.encode() + b"\n"
        if len(data) > MAX_LINE_BYTES or data.count(b"\n") > 1:
            raise PublishError(
                f"a command line of {len(data)} bytes; wanted one line of {MAX_LINE_BYTES} at most"
            )
        is_connected = False
        got = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                with await self._connect() as sock:
                    is_connected = True
                    await _exchange(sock, data, got)
        except (OSError, UnicodeError) as exc:
            if is_connected:
                raise UnfinishedError(self._unfinished(exc, len(got)), len(got)) from exc
            raise Unreachable(self._unreachable(exc)) from exc
        return got.decode("utf-8", "replace")

    async def _connect(self) -> socket.socket:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_PASSING),
            wait=wait_random_exponential(multiplier=0.02, max=0.2),
            stop=stop_before_delay(min(_CONNECT_RETRY_S, self._timeout_s / 2)),
            reraise=True,
        )
        if isinstance(self._address, tuple):
            return await retrying(_connect_tcp, *self._address)
        return await retrying(_connect_unix, self._address)

    def _unfinished(self, exc: BaseException, received: int) -> str:
        if isinstance(exc, TimeoutError):
            hint = "" if received else "; does it hang, or is `stats maxconn` used up?"
            return f"no whole answer within {self._timeout_s:g}s ({received} bytes came{hint})"
        return f"the connection broke after {received} bytes of the answer ({_reason(exc)})"

    def _unreachable(self, exc: BaseException) -> str:
        is_tcp = isinstance(self._address, tuple)
        line = f"ipv4@{self.where}" if is_tcp else f"{self.where} mode 660"
        match exc:
            case FileNotFoundError():
                found = "there is no such socket"
                wanted = f"is HAProxy running, with `stats socket {line} level admin`?"
            case PermissionError() if not is_tcp:
                found = "this user may not open the socket"
                wanted = "join the group of the socket (`stats socket ... group NAME mode 660`)"
            case ConnectionRefusedError():
                found = "nobody listens there"
                wanted = f"is HAProxy running, with `stats socket {line} level admin`?"
            case BlockingIOError() | TimeoutError():
                found = f"no connection within {self._timeout_s:g}s"
                wanted = "does it hang, or is `stats maxconn` used up?"
            case _:
                found = f"no connection ({_reason(exc)})"
                wanted = "check the address in probes.yaml"
        return f"{found}; {wanted}"


async def _exchange(sock: socket.socket, data: bytes, got: bytearray) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, data)
    while chunk := await loop.sock_recv(sock, _CHUNK_BYTES):
        got += chunk
        if len(got) > MAX_REPLY_BYTES:
            raise UnfinishedError(f"more than {MAX_REPLY_BYTES} bytes came", len(got))
    if not got:
        raise UnfinishedError("the connection was closed without an answer", 0)


async def _connect_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Not loop.sock_connect: a full queue is EAGAIN here, which asyncio takes for "under way"
        # and then hands over a socket that is not connected. This call never waits.
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_tcp(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        # An address needs no resolver: asyncio would ask a thread even for 127.0.0.1.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionRefusedError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


# ------------------------------------------------------------------ what the answers mean
class UnbelievableError(ValueError):
    """An answer that supports no statement about HAProxy; says what was found and wanted."""


@dataclass(frozen=True, slots=True)
class Process:
    """The process that answered.

    Attributes:
        start: UTC seconds since 1970.
        uptime_s: Seconds since then.
    """

    pid: int
    start: int
    uptime_s: int
    version: str


@dataclass(frozen=True, slots=True)
class Server:
    """One row of `show servers state`; the fields are srv_* columns of the same name."""

    name: str
    op_state: int
    admin_state: int
    uweight: int
    check_status: int

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
            return f"HAProxy's own check holds it down ({self._check})"
        return "" if self.uweight else "its weight is 0"

    @property
    def why_not_ready(self) -> str:
        """The administrative state in words."""
        return next((word for bit, word in _ADMIN_WORDS if self.admin_state & bit), "ready")

    @property
    def _check(self) -> str:
        number = self.check_status
        return _CHECKS[number] if number < len(_CHECKS) else f"check status {number}"


def _split(reply: str) -> tuple[list[str], list[str]]:
    # split("\n"), never splitlines(): only a newline may begin a row.
    if not reply.endswith("\n\n"):
        raise UnbelievableError(f"its answer is cut off; wanted a blank line after {_tail(reply)}")
    info, _, table = reply.partition("\n\n")
    return info.split("\n"), table.strip("\n").split("\n")


def _process(info: Sequence[str]) -> Process:
    fields = {key: value for key, _, value in (line.partition(": ") for line in info)}
    if "Pid" not in fields:
        raise UnbelievableError(
            f"found {_quoted(' '.join(info))}; wanted the answer of `show info`"
        )
    if _number("Stopping", fields) != 0:
        raise UnbelievableError(
            f"process {_quoted(fields['Pid'])} is leaving after a reload and speaks for nobody;"
            " ask again"
        )
    return Process(
        pid=_number("Pid", fields),
        start=_number("Start_time_sec", fields),
        uptime_s=_number("Uptime_sec", fields),
        version=_printable(fields.get("Version", "unknown"), 40),
    )


def _servers(table: Sequence[str], backend: str) -> list[Server]:
    if table[0] != "1" or len(table) < 2 or not table[1].startswith("# "):
        raise UnbelievableError(
            f"found {_quoted(' '.join(table))}; wanted the servers of this backend: does it exist?"
        )
    columns = table[1].removeprefix("# ").split(" ")
    rows = [_row(columns, line) for line in table[2:]]
    return [
        Server(
            name=row.get("srv_name", ""),
            op_state=_number("srv_op_state", row),
            admin_state=_number("srv_admin_state", row),
            uweight=_number("srv_uweight", row),
            check_status=_number("srv_check_status", row),
        )
        for row in rows
        if row.get("be_name") == backend
    ]


def _row(columns: Sequence[str], line: str) -> dict[str, str]:
    cells = line.split(" ")
    row = dict(zip(columns, cells, strict=False))
    if not len(row) == len(columns) == len(cells):
        raise UnbelievableError(
            f"found a row of {len(cells)} cells, {_quoted(line)}; wanted {len(columns)}"
        )
    return row


def _number(key: str, fields: Mapping[str, str]) -> int:
    # The masks are decimal too. int() alone would take "1_0", "+1" and the digits of any script.
    text = fields.get(key, "")
    if not _NUMBER.fullmatch(text):
        raise UnbelievableError(f"found {key} {_quoted(text)}; wanted a number")
    return int(text)


def _seen(process: Process, servers: Sequence[Server], nodes: Mapping[str, str]) -> Seen:
    by_name = {server.name: server for server in servers}
    missing = [name for name in nodes.values() if name not in by_name]
    if missing or len(by_name) < len(servers):
        raise UnbelievableError(
            f"it has the servers {_quoted(' '.join(s.name for s in servers))};"
            f" wanted each of {_listed(nodes.values())} once;"
            " compare `nodes` in probes.yaml with HAProxy's configuration"
        )
    state = {node: by_name[name] for node, name in nodes.items()}
    chosen = tuple(node for node, server in state.items() if server.is_ready)
    strays = [s.name for s in servers if s.is_ready and s.name not in nodes.values()]
    only = chosen[0] if len(chosen) == 1 else None
    said = [f"pid {process.pid}, version {process.version}, up {process.uptime_s}s"]
    return Seen(
        node=only,
        chosen=chosen,
        usable=None if only is None else not state[only].obstacle,
        instance=f"{process.pid}@{process.start}",
        detail="; ".join(said + _problems(state, chosen) + [_stray(name) for name in strays]),
    )


def _problems(state: Mapping[str, Server], chosen: Sequence[str]) -> list[str]:
    if not chosen:
        words = [f"{node} ({server.why_not_ready})" for node, server in state.items()]
        return [f"neither {' nor '.join(words)} is ready"]
    if len(chosen) > 1:
        return [f"{_listed(chosen)} are {'both' if len(chosen) == 2 else 'all'} ready"]
    obstacle = state[chosen[0]].obstacle
    return [f"{chosen[0]} is ready but {obstacle}"] if obstacle else []


def _stray(name: str) -> str:
    # The table does not tell backup servers from others, so this is a warning and no verdict.
    return (
        f"server {_printable(name, 80)} is ready and not in `nodes`:"
        " unless it is a backup server it gets traffic too"
    )


# ------------------------------------------------------------------ words
def _checked(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} is {name!r}; use letters, digits, `_`, `.`, `:` and `-`")
    return name


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _printable(text: str, limit: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:limit])


def _quoted(text: str) -> str:
    """Return what a stranger said, safe to print and at most 200 characters of it."""
    return f"'{' '.join(_printable(text, 200).split())}'"


def _tail(text: str) -> str:
    return _quoted(text[-60:])


def _reason(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
