"""The node's own mode, kept through restarts and power cuts, and the lock that keeps agents single.

StateError             the file or its lock cannot be used; nothing was changed unless it says so

The role in probes.yaml is only the beginning: once the file exists, its mode wins (R70). A file
that cannot be understood is refused and never replaced by a fresh one: beginning again from the
role would make a demoted Primary say Primary once more.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lb_probe.core import data_lineage
from lb_probe.core.data_lineage import Lineage
from lb_probe.core.model import Mode, Role
from lb_probe.ports import LbProbeError

VERSION = 2
_MAX_BYTES = 64 * 1024
_FIRST_MODE = {Role.PRIMARY: Mode.PRIMARY, Role.SECONDARY: Mode.STANDBY}
_MODES = (Mode.STANDBY, Mode.PRIMARY)
# Written for people who read the file; what is in force follows from the rest.
_HEAD = ("version", "node", "state")

Wall = Annotated[float, Field(ge=0, lt=253_402_300_800)]  # UTC seconds, before the year 10000


class StateError(LbProbeError):
    """The state file or its lock cannot be used; says what was found, wanted and what to do."""


class Section(BaseModel):
    """A part of the file that one feature owns; unknown keys and odd values are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Switch(Section):
    """Something that a person turned on or off.

    Attributes:
        since_wall: UTC seconds since 1970; 0 where nobody ever touched it.
        by: Who did it, for example `uid 0`.
    """

    is_on: bool
    since_wall: Wall = 0.0
    by: str = ""
    reason: str = ""


class Quarantine(Section):
    """Why this node keeps both pages at ERROR until an operator decides (X12).

    Attributes:
        peer: The node that says it is the Primary.
        reason: What was found, a sentence.
    """

    peer: str
    reason: str
    since_wall: Wall


class Attempt(Section):
    """A promotion by heartbeat, saved before its command runs: it runs once an incident (R65).

    Attributes:
        outcome: How it ended, a sentence; empty where that is not known.
    """

    began_wall: Wall
    outcome: str = ""


class Data(Section):
    """What is known of this node's copy of the application's data.

    Attributes:
        suspect: Why it cannot be trusted, a sentence; empty while it can (R24).
        suspect_since_wall: UTC seconds since 1970; 0 while it can.
        reign: Whose writes it contains, as are the next three; see `core.data_lineage`.
        by_hand: A manual sync has succeeded since the node was last Primary (R87).
    """

    suspect: str = ""
    suspect_since_wall: Wall = 0.0
    reign: Wall = 0.0
    until: Wall = 0.0
    fork_reign: Wall = 0.0
    fork_until: Wall = 0.0
    by_hand: bool = False

    def with_lineage(self, lineage: Lineage) -> Self:
        """Return the same with another lineage."""
        return self.model_copy(update=asdict(lineage))


class NodeState(Section):
    """What the node is just now.

    Attributes:
        mode: STANDBY or PRIMARY; never UNKNOWN.
        since_wall: UTC seconds since 1970 when this mode began, for people.
        cause: "role" for the first mode ever, "operator" for a command, "heartbeat" for a
            promotion by itself, "traffic" for one because traffic had been moved here.
        by: Who did it, for example `uid 0`; empty for "role".
        reason: What that person said; may be empty.
        ha: Whether schedule and promotion run; off until somebody turns them on (R68).
        clients: Whether the application takes new connections, as far as we were told (R123).
        promotion: The promotion that was begun since the peer last answered; None without one.
    """

    mode: Mode
    since_wall: Wall
    cause: str
    by: str = ""
    reason: str = ""
    ha: Switch = Switch(is_on=False)
    clients: Switch = Switch(is_on=True)
    quarantine: Quarantine | None = None
    promotion: Attempt | None = None
    data: Data = Data()

    @property
    def state(self) -> str:
        """The guide's word for what the node does while its checks pass (R2)."""
        if self.quarantine is not None:
            return "not_available"
        return "active" if self.mode is Mode.PRIMARY else "standby"

    def lineage(self, now_wall: float) -> Lineage:
        """Return what the node's data contains at a moment, UTC seconds since 1970."""
        data = self.data
        kept = Lineage(data.reign, data.until, data.fork_reign, data.fork_until)
        if self.mode is not Mode.PRIMARY:
            return kept
        if not kept.is_known:  # Primary by its role, or by a release that kept no lineage
            kept = data_lineage.begun(kept, self.since_wall)
        # Who is turned away, or meets a page that says ERROR, writes nothing.
        last_write = now_wall if self.clients.is_on else self.clients.since_wall
        if self.quarantine is not None:
            last_write = min(last_write, self.quarantine.since_wall)
        return data_lineage.ended(kept, last_write)

    def moved(self, mode: Mode, now_wall: float) -> Data:
        """Return what `data` is once the node is in another mode."""
        lineage = self.lineage(now_wall)
        if mode is not Mode.PRIMARY:
            return self.data.with_lineage(lineage)
        begun = self.data.with_lineage(data_lineage.begun(lineage, now_wall))
        return begun.model_copy(update={"by_hand": False})


class StateFile:
    """One node's state on disk, held under a lock as long as this object is open.

    Blocking: every write waits for the disk. Call `change` outside the event loop's thread.
    """

    def __init__(self, path: Path, *, node: str, role: Role, now_wall: float) -> None:
        """Take the lock, then read the file, or write the first one.

        Args:
            role: Decides the mode only when there is no file yet.
            now_wall: UTC seconds since 1970.

        Raises:
            StateError: Another agent holds it, or the file cannot be read, understood or made.
        """
        # A rename replaces a link, not what it points at: settle now which file is meant.
        self.path = path.resolve()
        self.node = node
        self._change_lock = threading.Lock()
        self._in_doubt = False
        self._lock_fd: int | None = _lock(self.path.with_name(self.path.name + ".lock"), node)
        try:
            found = _read(self.path, node)
            if found is None:
                found = NodeState(mode=_FIRST_MODE[role], since_wall=now_wall, cause="role")
                self._write(found)
        except BaseException:
            self.close()
            raise
        self._current = found

    @property
    def current(self) -> NodeState:
        """The state as it is on disk."""
        return self._current

    def change(self, mode: Mode, *, cause: str, by: str, reason: str, now_wall: float) -> NodeState:
        """Save another mode and return the state then; the same mode again changes nothing (R119).

        Raises:
            StateError: Not saved, or it cannot be told; the old mode goes on.
            ValueError: UNKNOWN is not a mode to be in; or a reason of many thousand characters.
        """
        if mode not in _MODES:
            raise ValueError(f"a node cannot be in mode {mode.value}")

        def moved(now: NodeState) -> Mapping[str, object]:
            if mode is now.mode:
                return {}
            return {
                "mode": mode,
                "since_wall": now_wall,
                "cause": cause,
                "by": by,
                "reason": reason,
                "data": now.moved(mode, now_wall),
            }

        return self.update(moved)

    def update(self, change: Callable[[NodeState], Mapping[str, object]]) -> NodeState:
        """Save what `change` makes of the state, and return the state then.

        The one way to write. A feature returns its own fields only, made of what it is given:
        what others save meanwhile stays. What changes nothing is not written.

        Raises:
            StateError: Not saved, or it cannot be told; the old state goes on.
            ValueError: A value that could not be read back.
        """
        with self._change_lock:
            if self._lock_fd is None:
                raise StateError(f"{self.path}: the agent is stopping; start it and try again")
            before = self._current
            wanted = _with(before, change(before))
            if wanted != before or self._in_doubt:
                self._write(wanted)
            if wanted != before:
                self._current = wanted
            return self._current

    def close(self) -> None:
        """Give the lock back; the lock file stays, so that two agents never lock two files."""
        with self._change_lock:
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, state: NodeState) -> None:
        """Replace the file so that a crash leaves the old or the new one, whole.

        Raises:
            StateError: Not saved; or renamed and not confirmed, which a second try settles.
        """
        head = {"version": VERSION, "node": self.node, "state": state.state}
        document = head | state.model_dump(mode="json")
        data = (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
        if len(data) > _MAX_BYTES:
            raise ValueError(f"a state of {len(data)} bytes could not be read back")
        # We hold the lock, so a fixed name is safe, and a crash leaves one stray file at most.
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            _write_synced(temporary, data)
            self._in_doubt = True  # until the folder is synced, a power cut may undo the rename
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StateError(
                f"{self.path}: found {_said(error)}; wanted to save the state of node {self.node};"
                " make the folder writable, with free space, and try again"
            ) from error
        self._in_doubt = False


def _with(state: NodeState, fields: Mapping[str, object]) -> NodeState:
    """Return the state with other fields, each of its kind."""
    return NodeState(**(dict(state) | dict(fields)))


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _write_synced(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: Path, node: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(
            f"{path}: found {_said(error)}; wanted a lock file for node {node};"
            " make its folder and let this user write there"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise StateError(
            f"{path}: found another agent for node {node}, pid {owner}; wanted to be the only one;"
            " stop that one first"
        ) from error
    except OSError as error:
        os.close(fd)
        raise StateError(
            f"{path}: found {_said(error)}; wanted to lock it; put the state on a local disk"
        ) from error
    return fd


def _read(path: Path, node: str) -> NodeState | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(
            f"{path}: found {_said(error)}; wanted to read the state of node {node};"
            " make it readable for this user"
        ) from error
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        return _parse(json.loads(data), node)
    except (ValueError, RecursionError) as error:
        raise StateError(
            f"{path}: found {error}; wanted the state of node {node} as version {VERSION};"
            " put back a copy, or move the file away to begin again from the node's role"
        ) from error


def _parse(document: object, node: str) -> NodeState:
    """Raise ValueError with what was found instead."""
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    version = document.get("version")
    if type(version) is not int:
        raise ValueError("no version number")
    if version not in {1, VERSION}:
        raise ValueError(f"version {version}, written by another lb-probe")
    if document.get("node") != node:
        raise ValueError(f"the state of node {document.get('node')!r}")
    # Version 1 knew the mode and whose doing it was; the rest begins as on a fresh node.
    body = {key: value for key, value in document.items() if key not in _HEAD}
    try:
        state = NodeState.model_validate_json(json.dumps(body))
    except ValidationError as error:
        raise ValueError(_fault(error.errors(include_url=False)[0])) from None
    if state.mode not in _MODES:
        raise ValueError(f"mode {state.mode.value!r}")
    return state


def _fault(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    return f"no {key}" if fault["type"] == "missing" else f"{key} {fault['input']!r}"
