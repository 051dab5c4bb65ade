"""Who asked for what, and what came of it: an append-only file; each line seals the one before it.

A line is JSON with `prev`, the hash of the line before it, and `hash`, the SHA-256 of that and of
its own content. It is on disk before the act is acknowledged. A chain shows that a line in it was
changed or taken out; that the newest lines were cut off shows only beside a hash that was kept
elsewhere: that is why the newest hash goes into the log and into a metric.

Source: R125; OWASP ASVS 5.0, 16.3.1, 16.3.2, 16.4.2.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lb_probe.core.view import iso
from lb_probe.ports import LbProbeError

START = "0" * 64
LARGEST_LINE = 64 * 1024
TAIL = 2 * LARGEST_LINE


class AuditError(LbProbeError):
    """The audit log cannot be read or written, or its chain is broken; names file and line."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest line of a log.

    Attributes:
        number: Lines so far; 0 for a log that is empty.
        digest: Its hash.
    """

    number: int = 0
    digest: str = START


class Audit:
    """The audit log of one prober.

    Args:
        wall: Tells UTC seconds since 1970.
        told: Called with the number, the action and the hash of each new line.
    """

    def __init__(
        self,
        path: Path,
        wall: Callable[[], float],
        told: Callable[[int, str, str], None] = lambda number, action, digest: None,
    ) -> None:
        self.path = path
        self.head = Head()
        self._wall = wall
        self._told = told
        self._one_by_one = asyncio.Lock()

    def open(self) -> None:
        """Take up the log where it ends; a line that a crash cut off was never acknowledged.

        Raises:
            AuditError: It cannot be used, or its last line is none of ours.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "r+b") as file:
                size = file.seek(0, os.SEEK_END)
                start = max(0, size - TAIL)
                file.seek(start)
                tail = file.read()
                whole = tail.rpartition(b"\n")[0]
                keep = start + len(whole) + 1 if whole or tail.startswith(b"\n") else 0
                if keep < size:
                    if not whole and start:
                        raise AuditError(f"{self.path}: its last line is too long to be ours")
                    file.truncate(keep)
                    os.fsync(file.fileno())
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror or error}; {_HELP}") from error
        if whole:
            self.head = _checked(self.path, whole.rpartition(b"\n")[2], None)

    async def write(self, action: str, **fields: object) -> None:
        """Add a line; it is on disk on return.

        Args:
            fields: Plain JSON values: actor, role, via, remote, group, reason, outcome and so on.

        Raises:
            AuditError: It could not be written; nothing should be acknowledged then.
        """
        async with self._one_by_one:
            content = {"action": action, "at": iso(self._wall()), **fields}
            number = self.head.number + 1
            line, digest = _sealed(number, self.head.digest, content)
            try:
                await asyncio.to_thread(_append, self.path, line)
            except OSError as error:
                raise AuditError(
                    f"{self.path}: cannot be written: {error.strerror or error}; {_HELP}"
                ) from error
            self.head = Head(number, digest)
        self._told(number, action, digest)


_HELP = (
    "what is not on record is not done: make room, or give the service write access;"
    " break-glass needs no record: lb-probe publish GROUP --to NODE --offline"
)


def _append(path: Path, line: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(fd).st_size
        try:
            if os.write(fd, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)  # half a line would break the chain for ever
            raise
    finally:
        os.close(fd)


def _sealed(number: int, prev: str, content: Mapping[str, object]) -> tuple[bytes, str]:
    body = {"seq": number, **content, "prev": prev}
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({**body, "hash": digest}) + b"\n", digest


def _canonical(content: Mapping[str, object]) -> bytes:
    """Return the one way to write this content (as RFC 8785 for what is in it)."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), default=str).encode()


def _checked(path: Path, line: bytes, before: Head | None) -> Head:
    """Judge one line; `before` None does not compare it with the one before.

    Raises:
        AuditError: It is none of ours, or does not seal what is before it.
    """
    at = f"{path}: line {before.number + 1}" if before else f"{path}: its last line"
    try:
        found = json.loads(line)
        digest, number, prev = found.pop("hash"), found["seq"], found["prev"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AuditError(f"{at}: found something that is no line of an audit log") from None
    if hashlib.sha256(_canonical(found)).hexdigest() != digest:
        raise AuditError(f"{at}: it was changed: its hash does not fit its content")
    if before is not None and (number, prev) != (before.number + 1, before.digest):
        raise AuditError(f"{at}: found number {number}: a line before it was changed or taken out")
    return Head(number, digest)


def lines(path: Path) -> Iterator[dict[str, object]]:
    """Yield every line of a log, each checked against the one before it.

    Raises:
        AuditError: It cannot be read, or its chain is broken; names the line.
    """
    head = Head()
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    raise AuditError(f"{path}: line {head.number + 1}: it is cut off")
                head = _checked(path, line.rstrip(b"\n"), head)
                yield json.loads(line)
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror or error}; say where the log is") from error
