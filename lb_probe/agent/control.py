"""The UNIX socket through which its owner asks an agent how it is and changes its mode.

ControlError           the socket cannot be made

Protocol, version 1. Connect to the socket (stream), send one JSON object in UTF-8 on one line of at
most 64 KiB ended by a newline within 5 seconds, read one JSON object on one line, and the agent
closes. One request per connection. Only root and the agent's own user may connect; the kernel says
who they are.

Requests::

    {"command": "status"}
    {"command": "failover-mode", "mode": "primary" | "secondary", "reason": "..."}

`reason` may be left out; it is one line of at most 1000 characters. Other keys are
refused. Answer to `status`::

    {"version": 1, "node": "core-a", "role": "primary" | "secondary",
     "mode": "primary" | "standby", "state": "active" | "standby" | "not_available",
     "since": "2026-01-01T00:00:00Z", "cause": "role" | "operator", "by": "uid 0", "reason": "...",
     "pages": {"status": {"code": 503, "text": "MOBILEIRON-STATUS: ERROR", "reasons": ["..."]},
               "hastatus": {...}},
     "checks": [{"name": "app", "passing": true | false | null, "age_s": 0.3 | null,
                 "stale": false, "detail": "", "pages": ["hastatus", "status"]}]}

Answer to `failover-mode`: the same, with `"warnings": ["...", ...]` and `"changed": true | false`
beside it. Asking for the mode the node is in changes nothing and is no error (R119).

A request that is not carried out changes nothing and gets `{"error": CODE, "detail": "..."}`:
`forbidden` (another user), `invalid` (not such a request), `failed` (the mode could not be saved).
"""

import asyncio
import contextlib
import json
import os
import socket
import stat
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from lb_probe.agent.checks import Checks
from lb_probe.agent.pages import Pages
from lb_probe.agent.state import StateError, StateFile
from lb_probe.core.model import Event, Mode, Page, Role
from lb_probe.ports import Clock, EventSink, Invalid, LbProbeError

VERSION = 1
_MAX_LINE = 64 * 1024
_MAX_REASON = 1000
_REQUEST_S = 5.0
_STOP_S = 2.0
_MODES = {"primary": Mode.PRIMARY, "secondary": Mode.STANDBY}
_WARNINGS = {
    Mode.PRIMARY: (
        "This does not move traffic by itself: use `lb-probe failover` for that.",
        "A node in Primary mode does not replicate with any other.",
    ),
    Mode.STANDBY: (
        "This does not restart the replication scheduler: start it, or the data grows old unseen.",
        "Meant for upgrades and troubleshooting (R121). It does not move traffic by itself.",
    ),
}


class ControlError(LbProbeError):
    """The control socket cannot be made; says what was found, wanted and what to do."""


class Control:
    """The control socket of one agent."""

    def __init__(
        self,
        path: Path,
        *,
        role: Role,
        state: StateFile,
        pages: Pages,
        checks: Checks,
        clock: Clock,
        sink: EventSink,
    ) -> None:
        """Open nothing yet.

        Args:
            role: The node's role by configuration, shown beside its mode.
            sink: Takes `agent.mode-changed`.
        """
        self._path = path
        self._role = role
        self._state = state
        self._pages = pages
        self._checks = checks
        self._clock = clock
        self._sink = sink
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._one_change = asyncio.Lock()

    async def start(self) -> None:
        """Listen.

        Raises:
            ControlError: Somebody else listens there, something else lies there, or it cannot
                be made.
        """
        _clear_stale(self._path)
        listener = _bind(self._path)
        try:
            self._server = await asyncio.start_unix_server(
                self._handle, sock=listener, limit=_MAX_LINE
            )
            found = self._path.stat()
        except BaseException:
            listener.close()
            raise
        self._inode = found.st_dev, found.st_ino

    async def stop(self) -> None:
        """Stop listening, let running requests end, and take the socket file away."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(OSError):
            found = self._path.stat()
            # Somebody may have put another socket there meanwhile; that one is not ours.
            if (found.st_dev, found.st_ino) == self._inode:
                self._path.unlink()
        if self._handlers:
            _, running = await asyncio.wait(self._handlers, timeout=_STOP_S)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        self._server = None

    # -------------------------------------------------------------- one request
    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            answer = await self._answer(reader, _peer_uid(writer))
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(_REQUEST_S):
                await writer.drain()
        except (TimeoutError, OSError):
            pass  # the client went away or does not read: nobody is left to tell
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, uid: int) -> Mapping[str, object]:
        if uid not in {0, os.geteuid()}:
            return _error("forbidden", f"found uid {uid}; wanted root or uid {os.geteuid()}")
        try:
            request = _parse(await _read_line(reader))
            if request["command"] == "status":
                return self._status()
            return await self._failover_mode(request, uid)
        except Invalid as error:
            return _error("invalid", str(error))
        except StateError as error:
            return _error("failed", str(error))

    def _status(self) -> dict[str, object]:
        now = self._clock.monotonic()
        state = self._state.current
        views = {page: self._pages.view(page) for page in Page}
        return {
            "version": VERSION,
            "node": self._state.node,
            "role": self._role.value,
            "mode": state.mode.value,
            "state": _state_word(state.mode, {page: v.code == 200 for page, v in views.items()}),
            "since": _utc(state.since_wall),
            "cause": state.cause,
            "by": state.by,
            "reason": state.reason,
            "pages": {
                page.value: {"code": view.code, "text": view.text, "reasons": list(view.reasons)}
                for page, view in views.items()
            },
            "checks": [
                {
                    "name": verdict.name,
                    "passing": verdict.passing,
                    "age_s": None if verdict.age_s is None else round(verdict.age_s, 3),
                    "stale": verdict.is_stale,
                    "detail": verdict.detail,
                    "pages": sorted(page.value for page in verdict.pages),
                }
                for verdict in self._checks.verdicts(now)
            ],
        }

    async def _failover_mode(self, request: Mapping[str, str], uid: int) -> dict[str, object]:
        """Change the mode; on disk first, then on the pages.

        Raises:
            StateError: Not saved; the pages go on as they were.
        """
        mode = _MODES[request["mode"]]
        async with self._one_change:
            before = self._state.current
            # A disk may take its time; the pages must not wait for it.
            after = await asyncio.to_thread(
                self._state.change,
                mode,
                cause="operator",
                by=f"uid {uid}",
                reason=request.get("reason", ""),
                now_wall=self._clock.wall(),
            )
            self._pages.refresh()
        if after is not before:
            self._sink.emit(
                Event(
                    "agent.mode-changed",
                    fields={
                        "node": self._state.node,
                        "from": before.mode.value,
                        "to": after.mode.value,
                        "by": after.by,
                        "reason": after.reason,
                    },
                )
            )
        return self._status() | {
            "changed": after is not before,
            "warnings": list(_WARNINGS[mode]),
        }


# ------------------------------------------------------------------ words of the protocol
def _error(code: str, detail: str) -> dict[str, object]:
    return {"error": code, "detail": detail}


def _utc(wall: float) -> str:
    return datetime.fromtimestamp(int(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _state_word(mode: Mode, is_ok: Mapping[Page, bool]) -> str:
    """Return the guide's word for what the node does, which is not what it is (R2, R3)."""
    if mode is Mode.PRIMARY:
        return "active" if is_ok[Page.STATUS] else "not_available"
    return "standby" if is_ok[Page.HASTATUS] else "not_available"


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """Raise Invalid when the line is too long or does not come."""
    try:
        async with asyncio.timeout(_REQUEST_S):
            return await reader.readline()
    except ValueError as error:
        raise Invalid(f"found more than {_MAX_LINE} bytes; wanted one line of JSON") from error
    except TimeoutError as error:
        raise Invalid(
            f"found no line within {_REQUEST_S:g}s; end the request by a newline"
        ) from error


def _parse(line: bytes) -> dict[str, str]:
    """Raise Invalid unless this is one of the two requests."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"found no JSON ({error}); wanted one object on one line") from error
    if not isinstance(request, dict):
        raise Invalid("found no JSON object; wanted one, with a command")
    command = request.get("command")
    if command == "status":
        known = {"command"}
    elif command == "failover-mode":
        known = {"command", "mode", "reason"}
        mode = request.get("mode")
        if not isinstance(mode, str) or mode not in _MODES:
            raise Invalid(f"found mode {mode!r}; use primary or secondary")
    else:
        raise Invalid(f"found command {command!r}; use status or failover-mode")
    if unknown := sorted(set(request) - known):
        raise Invalid(f"found {', '.join(unknown)}; {command} takes {', '.join(sorted(known))}")
    _check_reason(request.get("reason", ""))
    return request


def _check_reason(reason: object) -> None:
    """Raise Invalid unless this can be saved and shown."""
    if not isinstance(reason, str):
        raise Invalid("found a reason that is no text; put it in quotes")
    if len(reason) > _MAX_REASON:
        raise Invalid(f"found a reason of {len(reason)} characters; use at most {_MAX_REASON}")
    if not reason.isprintable():
        raise Invalid("found a reason with control characters; write it on one line")


# ------------------------------------------------------------------ the socket file
def _peer_uid(writer: asyncio.StreamWriter) -> int:
    ucred = struct.Struct("3i")
    sock = writer.get_extra_info("socket")
    _, uid, _ = ucred.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size))
    return int(uid)


def _clear_stale(path: Path) -> None:
    """Take away a socket that a dead agent left; raise ControlError when it is not that."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(path, error.strerror or str(error), "let this user reach it") from error
    if not is_socket:
        raise _refused(path, "something that is no socket", "move it away")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            # Full or unreachable is not dead: leave it alone.
            raise _refused(path, error.strerror or str(error), "see who listens there") from error
    raise _refused(path, "somebody listening there", "stop that agent or use another path")


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)  # the file is its owner's from its first moment on
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise _refused(path, str(error), "make the folder, or use a shorter path") from error
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def _refused(path: Path, found: str, do: str) -> ControlError:
    return ControlError(f"{path}: found {found}; wanted a control socket there; {do}")
