"""The UNIX socket through which its owner asks an agent how it is and tells it what to do.

ControlError           the socket cannot be made
ControlFailed          a command was carried out and did not come to its end

Protocol, version 1. Connect to the socket (stream), send one JSON object in UTF-8 on one line of at
most 64 KiB ended by a newline within 5 seconds, read JSON objects, one a line, until the agent
closes. One request per connection. Root and the agent's own user may do everything; others what
`operators` in probes.yaml gives them (`agent.roles`): the kernel says who they are.

A request is `{"command": NAME, ...}` with the keys of that command and no others; `help` lists
them all. Most commands answer with one line. A stream (`logs-heartbeat`, the progress of a sync)
answers with many; a client that goes away ends a stream, never the act behind it.

A request that is not carried out changes nothing and gets `{"error": CODE, "detail": "..."}`:
`forbidden` (no role, or too low a one), `invalid` (not such a request), `refused` (a gate; adds
`"gates"` and `"paste"`), `failed` (it could not be done, or not be saved or recorded).

Every act is on record, with who asked, before it is begun, and again when it is done; so is who was
turned away, once a second for each user at most (R125).
"""

import asyncio
import contextlib
import json
import math
import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lb_probe.agent.roles import Peer, Roles, peer_of
from lb_probe.core.rank import Rank
from lb_probe.events.audit import Audit, AuditError
from lb_probe.ports import Invalid, LbProbeError, Refused

Json = Mapping[str, object]
VERSION = 1
_MAX_LINE = 64 * 1024
_MAX_REASON = 1000
_REQUEST_S = 5.0
_STOP_S = 2.0
_UNHEARD_S = 0.3
_REFUSAL_S = 1.0  # between two lines of the audit log about one user
_MOST_USERS = 1000
# The key of probes.yaml without which a command, by its first word, is not there.
_FEATURES: Mapping[str, str] = {
    "logs": "heartbeat",
    "parity": "parity",
    "sync": "sync",
    "test": "connectivity",
    "trust": "trust",
}


class ControlError(LbProbeError):
    """The control socket cannot be made; says what was found, wanted and what to do."""


class ControlFailed(LbProbeError):
    """A command could not be carried out, or not to its end; says how far it came."""


# ------------------------------------------------------------------ what a feature registers
class Request(BaseModel):
    """The keys of one command, each described by what to use; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _reason(value: object) -> str:
    """Return a reason that can be saved and shown."""
    if not isinstance(value, str):
        raise ValueError("found a reason that is no text; put it in quotes")
    if len(value) > _MAX_REASON:
        raise ValueError(f"found a reason of {len(value)} characters; use at most {_MAX_REASON}")
    if not value.isprintable():
        raise ValueError("found a reason with control characters; write it on one line")
    return value


Reason = Annotated[str, BeforeValidator(_reason)]


class Act(Request):
    """What every act takes: why, and the gates that the operator opens by name."""

    reason: Reason = ""
    override: tuple[Annotated[str, Field(max_length=64)], ...] = Field(
        (), strict=False, description="a list of gates, as a refusal names them"
    )


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        uid: The user, as the kernel says.
        rank: What that user may do.
        by: The user for the state, the log and the audit.
    """

    uid: int
    rank: Rank = Rank.ADMIN

    @property
    def by(self) -> str:
        """Who it is, in words."""
        return f"uid {self.uid}"


R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command(Generic[R]):
    """One command of the socket.

    Attributes:
        request: What it takes.
        answer: Carries it out and returns the one line of its answer; or
        stream: yields the lines of its answer. When the client goes away it is closed: an act
            belongs into a task of its part, which a stream only watches.
        acts: Whether it changes something: then it is on record.
        keeps_trust: Whether it is an act that changes who is trusted: then it takes an admin.
    """

    name: str
    request: type[R]
    answer: Callable[[R, Caller], Awaitable[Json]] | None = None
    stream: Callable[[R, Caller], AsyncGenerator[Json, None]] | None = None
    acts: bool = False
    keeps_trust: bool = False

    def __post_init__(self) -> None:
        if self.keeps_trust:
            object.__setattr__(self, "acts", True)

    @property
    def needs(self) -> Rank:
        """The least role that may give it."""
        if self.keeps_trust:
            return Rank.ADMIN
        return Rank.OPERATOR if self.acts else Rank.VIEWER


class Control:
    """The control socket of one agent."""

    def __init__(
        self,
        path: Path,
        commands: Iterable[Command[Any]],
        audit: Audit,
        roles: Roles | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            roles: Of users other than root and our own; None gives nobody else any.

        Raises:
            ValueError: Two commands have one name.
        """
        self._path = path
        self._commands: dict[str, Command[Any]] = {}
        for command in commands:
            if self._commands.setdefault(command.name, command) is not command:
                raise ValueError(f"two commands are named {command.name}")
        self._audit = audit
        self._roles = roles
        self._refusals: dict[int, tuple[float, int]] = {}  # by user: when told, and since then
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen.

        Raises:
            ControlError: Somebody else listens there, something else lies there, or it cannot
                be made.
            AuditError: What is done could not be put on record.
        """
        _clear_stale(self._path)
        await asyncio.to_thread(self._audit.open)
        listener = _bind(self._path, is_open=self._roles is not None)
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
        for stream in tuple(self._streams):
            stream.cancel()
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
            peer = peer_of(writer.get_extra_info("socket"))
            async with contextlib.aclosing(self._answers(reader, peer)) as answers:
                async for answer in answers:
                    writer.write(json.dumps(answer).encode() + b"\n")
                    async with asyncio.timeout(_REQUEST_S):
                        await writer.drain()
        except (TimeoutError, OSError):
            pass  # the client went away or does not read: nobody is left to tell
        finally:
            self._handlers.discard(task)
            self._streams.discard(task)
            writer.close()

    async def _answers(
        self, reader: asyncio.StreamReader, peer: Peer
    ) -> AsyncGenerator[Json, None]:
        caller = Caller(peer.uid, await self._rank(peer))
        if caller.rank is Rank.NONE:
            # Not heard: a stranger must not be able to hold us up.
            more = ", or a user of `operators`" if self._roles else ""
            yield await self._turned_away(caller, "", f"root or uid {os.geteuid()}{more}")
            # What it said unheard would reset the connection and take our answer away.
            with contextlib.suppress(Invalid):
                await _read_line(reader, _UNHEARD_S)
            return
        try:
            command, request = self._parse(await _read_line(reader))
            if caller.rank < command.needs:
                wanted = f"the role {command.needs.word}"
                yield await self._turned_away(caller, command.name, wanted)
                return
            async with contextlib.aclosing(self._carried_out(command, request, caller)) as lines:
                async for line in lines:
                    yield line
        except LbProbeError as error:
            yield _told(error)

    async def _rank(self, peer: Peer) -> Rank:
        if peer.uid in {0, os.geteuid()}:
            return Rank.ADMIN
        return await self._roles.rank(peer) if self._roles else Rank.NONE

    async def _turned_away(self, caller: Caller, command: str, wanted: str) -> Json:
        """Put on record who was turned away, and return the answer to give."""
        role = f", who is {caller.rank.word}" if caller.rank else ""
        found = f"found {caller.by}{role}; wanted {wanted}"
        now = asyncio.get_running_loop().time()
        told_at, more = self._refusals.get(caller.uid, (-math.inf, 0))
        if now - told_at < _REFUSAL_S:
            self._refusals[caller.uid] = told_at, more + 1
        else:
            if len(self._refusals) >= _MOST_USERS:
                self._refusals.clear()
            self._refusals[caller.uid] = now, 0
            fields = {"actor": caller.by, "role": caller.rank.word, "outcome": "forbidden"}
            # Whether or not it can be recorded: it is refused.
            with contextlib.suppress(AuditError):
                await self._audit.write(
                    command or "connect", **fields, wanted=wanted, untold_before=more
                )
        return _error("forbidden", found)

    async def _carried_out(
        self, command: Command[Any], request: Request, caller: Caller
    ) -> AsyncGenerator[Json, None]:
        """Yield the lines of the answer; an act is on record before it begins and when it ended."""
        said = request.model_dump(mode="json")
        if command.acts:
            who = {"actor": caller.by, "role": caller.rank.word}
            await self._audit.write(command.name, **who, outcome="asked", **said)
        outcome = "broken off"
        try:
            if command.answer is not None:
                yield await command.answer(request, caller)
            elif command.stream is not None:
                self._is_stream()
                async with contextlib.aclosing(command.stream(request, caller)) as lines:
                    async for line in lines:
                        yield line
            outcome = "done"
        except LbProbeError as error:
            outcome = f"{_told(error)['error']}: {error}"
            raise
        finally:
            if command.acts:
                # The act is done or not done by now; a full disk must not make it a failure.
                with contextlib.suppress(AuditError):
                    await self._audit.write(command.name, **who, outcome=outcome, **said)

    def _is_stream(self) -> None:
        """Note that the end of the agent need not wait for this answer."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)

    def _parse(self, line: bytes) -> tuple[Command[Any], Request]:
        """Raise Invalid unless this is a request for one of the commands."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Invalid(f"found no JSON ({error}); wanted one object on one line") from error
        if not isinstance(found, dict):
            raise Invalid("found no JSON object; wanted one, with a command")
        name = found.pop("command", None)
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            key = _FEATURES.get(str(name).partition("-")[0])
            if key is not None:
                raise Invalid(f"found no `{key}` of this agent in probes.yaml; {name} wants it")
            known = ", ".join(sorted(self._commands))
            raise Invalid(f"found command {_short(name)}; use one of {known}")
        try:
            return command, command.request.model_validate(found)
        except ValidationError as error:
            raise Invalid(_fault(command, error.errors(include_url=False)[0])) from None


# ------------------------------------------------------------------ words of the protocol
def _error(code: str, detail: str) -> dict[str, object]:
    return {"error": code, "detail": detail}


def _told(error: LbProbeError) -> dict[str, object]:
    if isinstance(error, Invalid):
        return _error("invalid", str(error))
    if isinstance(error, Refused):
        gates = [asdict(gate) for gate in error.gates]
        return _error("refused", str(error)) | {"gates": gates, "paste": error.paste}
    return _error("failed", str(error))


def _fault(command: Command[Any], fault: Any) -> str:
    """Say what one fault of a request is: what was found, and what to use."""
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    key = str(fault["loc"][0]) if fault["loc"] else ""
    fields = command.request.model_fields
    if fault["type"] == "extra_forbidden":
        return f"found {key[:60]}; {command.name} takes {', '.join(sorted(['command', *fields]))}"
    value = None if fault["type"] == "missing" else fault["input"]
    return f"found {key} {_short(value)}; use {fields[key].description or fault['msg']}"


def _short(value: object) -> str:
    return repr(value)[:100]


async def _read_line(reader: asyncio.StreamReader, within_s: float = _REQUEST_S) -> bytes:
    """Raise Invalid when the line is too long or does not come."""
    try:
        async with asyncio.timeout(within_s):
            return await reader.readline()
    except ValueError as error:
        raise Invalid(f"found more than {_MAX_LINE} bytes; wanted one line of JSON") from error
    except TimeoutError as error:
        raise Invalid(
            f"found no line within {within_s:g}s; end the request by a newline"
        ) from error


# ------------------------------------------------------------------ the socket file
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


def _bind(path: Path, *, is_open: bool) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    # The file is its owner's from its first moment on; with roles for others each caller is judged.
    mask = os.umask(0o111 if is_open else 0o177)
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
