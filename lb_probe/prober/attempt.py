"""One attempt to ask one target: from the name to the verdict, in callbacks.

An attempt never tries again, because rise and fall are the retry and a hidden one is lost
evidence. The one exception: a kept connection that turns out closed before any byte of an answer
is dialled again, inside the same attempt and deadline, and the observation says so.
"""

import contextlib
import errno
import select
import ssl
from collections.abc import Callable
from socket import SO_ERROR, SOL_SOCKET
from typing import Protocol

from lb_probe.core.model import Failed, Observation, Passed, Phase
from lb_probe.core.status_page import Verdict, printable
from lb_probe.prober.answer import CHUNK, Reading
from lb_probe.prober.link import Link, Trace, Way, connect_failed, dial, is_ours
from lb_probe.prober.names import Endpoint, Found, Names
from lb_probe.prober.target import Target
from lb_probe.prober.tls import PinError, Stream, certificate_of, tls_failed

FRESH_EVERY = 10  # with reuse: each tenth probe dials, or nobody would notice a full accept queue
RESUME_S = 60.0  # a resumed handshake shows no certificate; after this long it is asked for again

READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_CLOSING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_WRITABLE, _BROKEN = select.EPOLLOUT, select.EPOLLERR
# These come of a connection that was made; one that was not is refused or runs out of time.
_AFTER_CONNECT = frozenset({errno.ECONNRESET, errno.EPIPE})
# Where an attempt is: what it fails with when its time is over. To look a member of an enum up
# costs as much as three calls.
_NAMING, _DIALLING, _SHAKING = Phase.NAME, Phase.CONNECT_TIMEOUT, Phase.TLS
_ASKING = Phase.TIMEOUT
_PHASES = {_NAMING: "name", _DIALLING: "connect", _SHAKING: "tls"}
_CONNECTED = Verdict(Passed(), "", "")
_REDIALLED = "the kept connection had been closed; dialled again"

Done = Callable[[Observation], None]


class Home(Protocol):
    """What an attempt needs of its engine."""

    clock: Callable[[], float]
    names: Names
    looks_at: float

    def look(self, now: float) -> None:
        """Close the kept connections that ended, or speak unasked."""

    def hold(self, link: Link) -> None:
        """Watch a new connection."""

    def drop(self, link: Link) -> None:
        """Close a connection."""

    def read_again(self, link: Link, events: int) -> None:
        """Read on after the others had their turn."""

    def soon(self, tell: Done, observation: Observation) -> None:
        """Tell in the next round of the loop."""

    def raised(self, error: Exception) -> None:
        """Tell of a callback that raised."""


class _Seen:
    """An `Observation` while it is made.

    The constructor of a frozen dataclass looks each field up again and took a tenth of the CPU of
    a probe on a kept connection; a class with the same slots may become the other one.
    """

    __slots__ = Observation.__slots__

    def __init__(self, attempt: "Attempt", verdict: Verdict, code: int | None, now: float) -> None:
        target = attempt.target
        self.node = target.node
        self.page = target.page
        self.started_at = attempt.started_at
        self.ended_at = now
        self.outcome = verdict.outcome
        self.code = code
        self.head = verdict.head
        self.body_sha256 = verdict.body_sha256
        self.certificate_until = attempt.certificate_until
        self.note = attempt.note


class Attempt:
    """One attempt: one question, one deadline, one observation.

    Attributes:
        is_begun: `start` has returned, so that the observation may be told at once.
        is_over: Its verdict stands, or it was cancelled.
        moved_at: When the connection, or TLS in it, was there; 0 where there is neither yet.
        certificate_until: When the node's certificate expires, UTC seconds since 1970.
        note: What an operator should know of the way to the answer.
    """

    # Set where a connection is made.
    _endpoints: tuple[Endpoint, ...]
    _error: OSError | None

    __slots__ = (
        "_endpoints",
        "_engine",
        "_error",
        "_is_on_kept",
        "_link",
        "_reading",
        "_stage",
        "_trace",
        "_way",
        "certificate_until",
        "done",
        "is_begun",
        "is_over",
        "moved_at",
        "note",
        "started_at",
        "target",
    )

    def __init__(
        self, engine: Home, target: Target, way: Way, done: Done, trace: Trace | None
    ) -> None:
        self.target = target
        self.done: Done | None = done
        clock = engine.clock
        self.started_at = clock()
        self.is_begun = False
        self.is_over = False
        self._engine = engine
        self._way = way
        self._trace = trace
        self._stage = _NAMING
        self._link: Link | None = None
        self._reading: Reading | None = None
        self._is_on_kept = False
        self.moved_at = 0.0
        self.certificate_until: float | None = None
        self.note = ""

    def cancel(self) -> None:
        """End without a word: `done` is not called any more."""
        self.done = None
        if not self.is_over:
            self._leave()

    # -------------------------------------------------------------- on the way
    def begin(self) -> None:
        """Use the kept connection, or make one."""
        way, engine = self._way, self._engine
        link = way.kept
        if link is not None:
            if self.started_at >= engine.looks_at:
                engine.look(self.started_at)
            if way.kept is None:
                self.note = _REDIALLED
            elif way.count % FRESH_EVERY:
                way.kept = None
                self._link, link.attempt = link, self
                self._is_on_kept = True
                try:
                    self._ask(link)
                except Exception as error:
                    self._fail_with(error)
                return
            else:
                engine.drop(link)
        self._find()

    def _find(self) -> None:
        way, target = self._way, self.target
        if way.endpoints:
            self._connect(way.endpoints)
        elif way.failure:
            self._fail(Phase.NAME, way.failure)
        else:
            found = self._engine.names.find(target.host, target.port, self._found)
            if found is not None:
                self._found(found)

    def _found(self, found: Found) -> None:
        if self.is_over:  # one that waited with us cancelled us
            return
        if found.failure:
            self._fail(Phase.NAME, printable(found.failure))
            return
        if found.note:
            self.note = "; ".join(filter(None, (self.note, printable(found.note))))
        self._connect(found.endpoints)

    def _connect(self, endpoints: tuple[Endpoint, ...]) -> None:
        if self._trace is not None:
            self._trace.mark("name", self._engine.clock())
        self._stage = _DIALLING
        self._endpoints, self._error = endpoints, None
        self._dial()

    def _dial(self) -> None:
        """Try the next address; a host that lacks IPv6 is not a host that is down."""
        while self._endpoints:
            endpoint, self._endpoints = self._endpoints[0], self._endpoints[1:]
            try:
                link = dial(self._way, self.target, endpoint)
                self._engine.hold(link)
            except (OSError, OverflowError, ValueError) as error:
                self._note_error(error if isinstance(error, OSError) else OSError(str(error)))
            else:
                self._link, link.attempt = link, self
                return
        failed = connect_failed(self._error or OSError("no address"))
        self._fail(failed.phase, failed.detail)

    def _note_error(self, error: OSError) -> None:
        """Keep what is told if no address is left: what a node did tells more than what we lack."""
        if self._error is None or not is_ours(error):
            self._error = error

    # -------------------------------------------------------------- events
    def on_events(self, link: Link, events: int) -> None:
        """Take what happened to the socket."""
        try:
            if self._stage is _DIALLING:
                self._try_connection(link, events)
            elif link.unsent and events & _WRITABLE:
                link.send(b"")
            if events & READABLE and self._link is link:
                self._receive(link, events)
        except Exception as error:  # whatever a peer sends ends in a verdict
            self._fail_with(error)

    def _try_connection(self, link: Link, events: int) -> None:
        """Go on when the connection is there."""
        if events & _BROKEN:
            self._lost_connection(link)
            return
        if not events & _WRITABLE:
            return
        self.moved_at = self._engine.clock()
        if self._trace is not None:
            self._trace.mark("connect", self.moved_at)
            self._trace.connected(link.endpoint)
        target = self.target
        if target.ssl_context is not None:
            self._stage = _SHAKING
            name = target.server_name or target.host
            link.stream = Stream(target.ssl_context, name, self._session())
            link.stream.shake_hands()
            link.send(link.stream.to_send())
        elif target.request:
            self._ask(link)
        else:
            self._finish(_CONNECTED)

    def _lost_connection(self, link: Link) -> None:
        code = link.sock.getsockopt(SOL_SOCKET, SO_ERROR)
        if code in _AFTER_CONNECT:
            raise OSError(code, "connect")
        self._note_error(OSError(code, "connect"))
        self._link = None
        self._engine.drop(link)
        self._dial()

    def _session(self) -> ssl.SSLSession | None:
        way = self._way
        is_young = self.started_at - way.session_at < RESUME_S
        return way.session if is_young and not way.is_reused else None

    def _ask(self, link: Link) -> None:
        """Send the request."""
        self._stage = _ASKING
        if link.stream is None:
            link.send(self.target.request)
        else:
            self._certify(link.stream)
            link.stream.write(self.target.request)
            link.send(link.stream.to_send())

    def _certify(self, stream: Stream) -> None:
        der = stream.tls.getpeercert(binary_form=True)
        self.certificate_until = certificate_of(der).until

    def _receive(self, link: Link, events: int) -> None:
        known = self._way.familiar
        size = CHUNK if known is None or link.stream is not None else known.size
        try:
            data = link.sock.recv(size)
        except BlockingIOError:
            return
        if link.stream is not None:
            self._decrypt(link, link.stream, data)
        elif (
            known is not None and self._reading is None and self._trace is None and known.fits(data)
        ):
            self._finish(known.verdict, known.code, known.may_be_kept)
        else:
            self._take(data)
        is_more = len(data) == size or (data and events & _CLOSING)
        if is_more and self._link is link:
            self._engine.read_again(link, events)
        elif is_more and self._way.kept is link:
            self._engine.drop(link)  # more than was asked for, or closing

    def _decrypt(self, link: Link, stream: Stream, data: bytes) -> None:
        stream.feed(data)
        if not stream.is_open:
            is_open = self._shake_hands(link, stream)
            if not is_open or self._stage is not _ASKING:
                return
        try:
            while (plain := stream.read()) and self._link is link:
                self._take(plain)
            if stream.is_ended and self._link is link:
                self._take(b"")
        except ssl.SSLEOFError:
            self._take(b"", is_cut=True)

    def _shake_hands(self, link: Link, stream: Stream) -> bool:
        try:
            is_open = stream.shake_hands()
        except ssl.SSLError as error:
            if isinstance(error, PinError):
                self._certify(stream)
            with contextlib.suppress(OSError):
                link.send(stream.to_send())  # the alert: the peer may want to know as well
            raise
        if not is_open:
            link.send(stream.to_send())
            return False
        self.moved_at = self._engine.clock()
        if self._trace is not None:
            self._trace.mark("tls", self.moved_at)
            self._trace.encrypted(stream.tls)
        if self.target.request:
            self._ask(link)
        else:
            link.send(stream.to_send())
            self._certify(stream)
            self._finish(_CONNECTED)
        return True

    def _take(self, data: bytes, is_cut: bool = False) -> None:
        """Take bytes of the answer; none is its end."""
        reading = self._reading
        if reading is None:
            if not data and self._is_on_kept:
                raise ConnectionResetError
            reading = self._reading = self._begin_reading()
        if not data:
            reading.end(is_cut=is_cut)
        elif reading.verdict is None:
            if self._trace is not None:
                self._trace.received(data)
            reading.feed(data)
            self._way.familiar = reading.known
        if reading.verdict is not None:
            self._finish(reading.verdict, reading.code, reading.may_be_kept)

    def _begin_reading(self) -> Reading:
        if self._trace is not None:
            self._trace.mark("first-byte", self._engine.clock())
        return Reading(self.target)

    # -------------------------------------------------------------- the end
    def fail_late(self) -> None:
        """End the attempt because its time is over."""
        if self.is_over:
            return
        limit = f"within {self.target.timeout_s:g}s"
        if self._stage is _NAMING:
            self._fail(Phase.NAME, f"no address for {self.target.host} {limit}")
        elif self._stage is _DIALLING:
            self._fail(Phase.CONNECT_TIMEOUT, f"no connection {limit}")
        elif self._stage is _SHAKING:
            self._fail(Phase.TIMEOUT, f"no TLS handshake {limit}")
        else:
            received = self._reading.received if self._reading is not None else 0
            found = f"{received} bytes of it came" if received else "nothing came"
            self._fail(Phase.TIMEOUT, f"no complete answer {limit}; {found}")

    def _fail_with(self, error: Exception) -> None:
        """End the attempt with what an exception of this stage means."""
        if self.is_over:
            return
        received = self._reading.received if self._reading is not None else 0
        if self._is_on_kept and not received and isinstance(error, OSError):
            self._dial_again()
            return
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            self._way.session = None
            failed = tls_failed(error)
        elif isinstance(error, OSError):
            what = "TLS handshake" if self._stage is _SHAKING else "answer"
            failed = Failed(Phase.RESET, f"reset or closed before the {what} was complete")
        else:
            failed = Failed(Phase.PROTOCOL, printable(f"{type(error).__name__}: {error}"))
        self._fail(failed.phase, failed.detail)

    def _dial_again(self) -> None:
        self.note = _REDIALLED
        self._is_on_kept = False
        self._reading = None
        self.certificate_until = None
        link, self._link = self._link, None
        if link is not None:
            self._engine.drop(link)
        self._stage = _NAMING
        self._find()

    def _fail(self, phase: Phase, detail: str) -> None:
        reading = self._reading
        if reading is None:
            self._finish(Verdict(Failed(phase, detail), "", ""))
            return
        reading.fail(phase, detail)
        assert reading.verdict is not None
        self._finish(reading.verdict, reading.code)

    def _finish(self, verdict: Verdict, code: int | None = None, may_be_kept: bool = False) -> None:
        engine = self._engine
        clock = engine.clock
        now = clock()
        if self._trace is not None:
            self._trace.mark(self._phase(), now)
            if self._reading is not None:
                self._trace.read(self._reading)
        self._leave(may_be_kept)
        seen = _Seen(self, verdict, code, now)
        seen.__class__ = Observation  # type: ignore[assignment]
        if self.is_begun:
            self._tell(seen)  # type: ignore[arg-type]
        else:
            engine.soon(self._tell, seen)  # type: ignore[arg-type]

    def _tell(self, observation: Observation) -> None:
        done, self.done = self.done, None
        if done is None:  # cancelled meanwhile
            return
        try:
            done(observation)
        except Exception as error:
            self._engine.raised(error)

    def _phase(self) -> str:
        if self._stage is _ASKING:
            return "body" if self._reading is not None else "first-byte"
        return _PHASES[self._stage]

    def _leave(self, may_be_kept: bool = False) -> None:
        """Give the connection back, or close it; what was remembered for the way is dropped."""
        self.is_over = True
        way, link = self._way, self._link
        del way.running[self]
        self._link = self._reading = None
        if link is None:
            if self._stage is _NAMING and not way.endpoints:
                self._engine.names.give_up(self.target.host, self.target.port, self._found)
            return
        if not way.is_reused:
            if link.stream is not None and link.stream.is_open:
                self._remember_session(link.stream)
        elif may_be_kept and not link.unsent and way.kept is None:
            way.kept, link.attempt = link, None
            return
        self._engine.drop(link)

    def _remember_session(self, stream: Stream) -> None:
        # Only of a full handshake: copying one costs as much as a handshake, and its age counts
        # from when the certificate was seen.
        if not stream.tls.session_reused:
            self._way.session = stream.session()
            self._way.session_at = self.started_at
