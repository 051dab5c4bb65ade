"""What the controller needs from outside, as it would like to call it, and what can go wrong.

LbProbeError
+-- PublishError       a load balancer refused, answered nonsense, or did not answer
|   +-- Unreachable    no answer at all: nothing is known of what it does
+-- StoreError         the store cannot be read or written
|   +-- Conflict       somebody else saved a newer generation
+-- Refused            an operator's command; lists every gate
+-- NotFound           no such group or node
+-- Invalid            a request that cannot be understood
+-- NotDelivered       a channel did not take a message
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from lb_probe.core.model import Event, Gate, Saved, Seen
from lb_probe.core.notice import Notice


class LbProbeError(Exception):
    """Root of the errors that cross a port."""


class PublishError(LbProbeError):
    """A load balancer refused an assignment, answered nonsense, or did not answer."""


class Unreachable(PublishError):
    """The load balancer did not answer; nothing is known of what it does."""


class StoreError(LbProbeError):
    """The store cannot be used; says what was found, what was wanted and what to do."""


class Conflict(StoreError):
    """The generation on disk is not the one this change was planned for.

    Attributes:
        generation: The generation that is there now.
    """

    def __init__(self, message: str, generation: int) -> None:
        super().__init__(message)
        self.generation = generation


class Refused(LbProbeError):
    """An operator's command did not pass its gates.

    Attributes:
        gates: Every gate, passed or not, all at once (X5).
        paste: The command line that would do it; empty where none would.
    """

    def __init__(self, message: str, gates: Sequence[Gate], paste: str) -> None:
        super().__init__(message)
        self.gates = tuple(gates)
        self.paste = paste


class NotFound(LbProbeError):
    """No such group or node."""


class Invalid(LbProbeError):
    """A request that cannot be understood; nothing was changed."""


class Clock(Protocol):
    """Time, passed in so that tests own it."""

    def monotonic(self) -> float:
        """Return seconds for measuring intervals; never steps back (X20)."""

    def wall(self) -> float:
        """Return UTC seconds since 1970, for people."""

    async def sleep(self, seconds: float) -> None:
        """Wait this many monotonic seconds."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for the event, at most this many seconds; tell whether it came."""


class Publisher(Protocol):
    """One load balancer as one group uses it.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.
    """

    name: str
    type: str

    async def publish(self, node: str) -> None:
        """Ask for this node alone; return when the load balancer accepted it.

        Raises:
            PublishError: Not accepted, or it cannot be told.
        """

    async def read_back(self) -> Seen:
        """Ask, on a fresh connection, what is in force.

        Raises:
            Unreachable: No answer within the adapter's own deadline.
            PublishError: An answer that cannot be believed (a leaving process, nonsense).
        """

    def commands(self, node: str) -> list[str]:
        """Return the literal commands that `publish(node)` would send."""


@runtime_checkable
class Closable(Protocol):
    """A load balancer that can send traffic to nobody, and count what is under way."""

    async def publish_nobody(self) -> None:
        """Let no node have new traffic; return when the load balancer accepted it.

        Raises:
            PublishError: Not accepted, or it cannot be told.
        """

    async def in_flight(self) -> Mapping[str, int]:
        """Return for each node the requests and connections under way.

        Raises:
            PublishError: It cannot be told.
        """


@runtime_checkable
class Watched(Protocol):
    """A load balancer that is looked at for many at once and tells each what changed."""

    def watch(self, changed: Callable[[Seen | PublishError], None]) -> Callable[[], None]:
        """Call `changed` whenever a reading differs from the one before; now is no reading.

        Returns:
            What ends it.
        """


@runtime_checkable
class Paced(Protocol):
    """A load balancer that costs much to ask.

    Attributes:
        poll_s: Seconds between two readings while nothing happens.
    """

    poll_s: float


@runtime_checkable
class Settling(Protocol):
    """A load balancer where a move is in force at once, and something must follow it: a save."""

    def settle(self, *, may_write: bool) -> None:
        """Let what follows a move go on, or stop it; returns at once.

        What fails is told in `Seen.unsettled` and tried again; the move stands all the same.

        Args:
            may_write: The last reading agreed with what is wanted, and writing is allowed.
        """

    async def settle_now(self) -> None:
        """Do all that follows a move now.

        Raises:
            PublishError: Names what failed; traffic is as asked all the same.
        """


@runtime_checkable
class Signed(Protocol):
    """A load balancer that keeps a word beside the assignment.

    Attributes:
        owner: What the next publication leaves there; `Seen.owner` reads it back.
    """

    owner: str


@dataclass(frozen=True, slots=True)
class Record:
    """One line of history.

    Attributes:
        kind: A change's kind, or the name of something noteworthy that changed nothing saved.
        group: The group it concerns; empty for the prober as a whole.
        generation: Generation that was in force after it.
        details: Plain JSON values.
        number: Place in the store, growing; 0 before it is there.
    """

    group: str
    kind: str
    at_wall: float
    generation: int
    details: Mapping[str, object] = field(default_factory=dict)
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of the history is asked for.

    Attributes:
        since: Nothing from before this moment, UTC seconds since 1970.
        before: Only records with a smaller number: the page before one that is known.
        everything: Also what is kept for replay only: observations and marks of life.
    """

    since: float | None = None
    before: int | None = None
    everything: bool = False


WHOLE = Span(everything=True)


class Store(Protocol):
    """Durable home of every group's assignment, latch, hold, roles and generation."""

    async def load(self) -> Mapping[str, Saved]:
        """Return every group that was ever saved.

        Raises:
            StoreError: It cannot be read.
        """

    async def commit(self, group: str, saved: Saved, *, expect: int, record: Record) -> None:
        """Save `saved` and its history record in one transaction; durable on return.

        Args:
            expect: Generation that must be on disk now; 0 for a group never saved.

        Raises:
            Conflict: Another generation is there.
            StoreError: Not saved.
        """

    async def rename(self, old: str, new: str) -> None:
        """Carry everything saved for group `old` over to `new` (`was:` in probes.yaml).

        Raises:
            StoreError: Not saved, or `new` is already there.
        """

    async def confirm(self, group: str, adapter: str, generation: int) -> None:
        """Remember that `adapter` was seen to carry out `generation`.

        Raises:
            StoreError: Not saved.
        """

    async def note(self, record: Record) -> None:
        """Add a line of history that changes nothing saved.

        Raises:
            StoreError: Not saved.
        """

    async def note_all(self, records: Sequence[Record]) -> None:
        """Add many lines of history that change nothing saved: all of them or none.

        Raises:
            StoreError: Not saved.
        """

    async def history(
        self, group: str | None = None, limit: int = 100, span: Span = WHOLE
    ) -> list[Record]:
        """Return the newest records of a span, newest last.

        Args:
            group: With a name, records of that group and of the prober as a whole.

        Raises:
            StoreError: It cannot be read.
        """

    async def test_write(self) -> None:
        """Write and sync something small.

        Raises:
            StoreError: The store does not take writes.
        """


class EventSink(Protocol):
    """Where events go: log, metrics, subscribers of the API."""

    def emit(self, event: Event) -> None:
        """Take one event; never blocks, never raises."""


class Outbox(Protocol):
    """What people are to be told, kept until every channel has taken it."""

    async def put(self, *notices: Notice) -> None:
        """Keep these, all of them or none, and have them sent; never raises.

        On disk on return; only where the disk refuses they are in memory alone, and that is told.
        A notice whose key is known is left out: to say it again after a crash does no harm.
        """


@dataclass(frozen=True, slots=True)
class Letter:
    """One message as one channel is given it.

    Attributes:
        notices: One; or several at once, oldest first, where many came together.
        key: The same however often it is sent; a receiver that knows it ignores it.
        source: Who tells it: prober or agent, and the machine.
        links: For each notice where the runbook says more; empty where nobody said where it is.
        lost: So many others were dropped before it, because too many waited.
    """

    notices: tuple[Notice, ...]
    key: str
    source: str
    links: tuple[str, ...] = ()
    lost: int = 0


class NotDelivered(LbProbeError):
    """A channel did not take a letter; says what was found and what was wanted.

    Attributes:
        is_final: It refused this letter itself, and would again.
        is_busy: It is the channel that is in trouble, not this letter: none is tried meanwhile.
        wait_s: Seconds it asked to be left alone; None where it did not.
    """

    def __init__(
        self,
        message: str,
        *,
        is_final: bool = False,
        is_busy: bool = False,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.is_busy = is_busy
        self.wait_s = wait_s


class Channel(Protocol):
    """One way to people.

    Attributes:
        name: Its name in probes.yaml.
        timeout_s: Seconds one try may take.
        is_for_alarms: It keeps track of what is open: what opens and ends nothing is not for it.
    """

    name: str
    timeout_s: float
    is_for_alarms: bool

    async def send(self, letter: Letter) -> None:
        """Deliver a letter once; return when the receiver has taken it.

        Raises:
            NotDelivered: It was not taken, or that cannot be told.
        """
