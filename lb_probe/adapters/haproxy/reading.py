"""What one answer of HAProxy says, who needs what of it, and who is told.

One answer serves many adapters: what is wrong with one backend or map is told to those who need
that one, and to no others.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from lb_probe.adapters.haproxy import answers
from lb_probe.adapters.haproxy.answers import MapTable, Process, Row, UnbelievableError
from lb_probe.adapters.haproxy.wire import UnfinishedError
from lb_probe.ports import PublishError

T = TypeVar("T")
READ_ERRORS = (PublishError, UnfinishedError, UnbelievableError)


@dataclass(frozen=True, slots=True)
class Need:
    """What a reading should contain, by HAProxy's names of backends and maps."""

    backends: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset()

    @classmethod
    def of_all(cls, needs: Iterable["Need"]) -> "Need":
        """Return what satisfies all of them."""
        needs = tuple(needs)
        backends = frozenset(itertools.chain.from_iterable(n.backends for n in needs))
        return cls(backends, frozenset(itertools.chain.from_iterable(n.maps for n in needs)))


@dataclass(slots=True)
class Reading:
    """What HAProxy said in one answer.

    Attributes:
        begun: Place of its beginning among the beginnings and ends of this device's readings.
        instance: "PID@START" of the process, START in UTC seconds since 1970; with "#N" where
            that repeats in another run; "several" for more than one HAProxy.
        process: What it says of itself.
        backends: Rows of each backend; text says why there are none.
        maps: Entries of each map; text says why there are none.
        several: Says that more than one HAProxy answers here; empty where one does.
    """

    begun: int
    instance: str
    process: Process
    backends: Mapping[str, tuple[Row, ...] | str] = field(default_factory=dict)
    maps: Mapping[str, MapTable | str] = field(default_factory=dict)
    several: str = ""

    def rows(self, backend: str) -> tuple[Row, ...]:
        """Return the rows of a backend.

        Raises:
            UnbelievableError: There are none, or nonsense.
        """
        found = self.backends[backend]
        if isinstance(found, str):
            raise UnbelievableError(found)
        return found

    def map(self, name: str) -> MapTable:
        """Return the entries of a map.

        Raises:
            UnbelievableError: There is no such map, or nonsense.
        """
        found = self.maps[name]
        if isinstance(found, str):
            raise UnbelievableError(found)
        return found


class Watcher(Protocol):
    """Somebody whom the feed tells what changed."""

    @property
    def need(self) -> Need:
        """What its readings must contain."""

    def offer(self, reading: Reading) -> None:
        """Take a reading; nothing happens where nothing changed."""

    def refuse(self, error: Exception, begun: int) -> None:
        """Take the error of a reading that failed, and the place it began at."""

    def is_due(self) -> bool:
        """Whether `tend` has something to do."""

    async def tend(self) -> None:
        """Do what is due, after a publication or at any time; never raises a PublishError."""


def each_backend(
    parts: Sequence[bytes | None], backends: Sequence[str]
) -> dict[str, tuple[Row, ...] | str]:
    """Read the answers of one `show servers state BACKEND` each; text where one says nothing."""
    return {
        name: _or_why(lambda table, name=name: _own_rows(table, name), part)  # type: ignore[misc]
        for name, part in zip(backends, parts, strict=False)
    }


def _own_rows(table: bytes, backend: str) -> tuple[Row, ...]:
    return answers.rows(table).get(backend.encode(), ())


def map_or_why(table: bytes | None) -> MapTable | str:
    """Read the answer of `show map`; text where it says nothing."""
    if table is None:
        return "its answer is cut off; wanted the entries of the map"
    return _or_why(answers.map_table, table)


def _or_why(parse: Callable[[bytes], T], table: bytes | None) -> T | str:
    try:
        return parse(table or b"")
    except UnbelievableError as exc:
        return str(exc)
