"""The two health pages, prepared in the background and answered from memory (DESIGN section 9).

ListenError            the address cannot be listened on

A load balancer asks often and believes the answer, so three things count here: an answer is cheap
(bytes made ready ten times a second), an old answer is never given (each carries the moment until
which it holds, and the answering side compares), and nothing a client sends can make this listener
say anything but the two documented pages or a plain refusal.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

from lb_probe.agent.checks import Checks
from lb_probe.agent.state import StateFile
from lb_probe.core.model import Event, Mode, Page
from lb_probe.listening import end_listening
from lb_probe.ports import Clock, EventSink, LbProbeError

PATHS: Mapping[bytes, Page] = {
    b"/status/status.html": Page.STATUS,
    b"/hastatus.html": Page.HASTATUS,
}
ERROR = "MOBILEIRON-STATUS: ERROR"
_OK = "MOBILEIRON-STATUS: OK"
_HASTATUS = {Mode.STANDBY: f"{_OK} (Mode: Standby)", Mode.PRIMARY: f"{_OK} (Mode: Primary)"}
# What a refused client may still send before it is cut off.
_LINGER_BYTES = 64 * 1024


class ListenError(LbProbeError):
    """The pages' address cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener spends on its clients.

    Attributes:
        idle_s: Seconds for a whole request to arrive, and between two of them.
        linger_s: Seconds a refused client may still send, so that it gets to read the refusal.
        connections: Above this the idlest one makes room for the new one. Half the usual limit
            of open files, so that this bites first.
        head_bytes: Longest request head.
        refresh_s: Seconds between two preparations.
        answer_life_s: Seconds a prepared answer holds when nobody prepares the next one.
    """

    idle_s: float = 10.0
    linger_s: float = 2.0
    connections: int = 512
    head_bytes: int = 16 * 1024
    refresh_s: float = 0.1
    answer_life_s: float = 2.0


@dataclass(frozen=True, slots=True)
class PageView:
    """What a page says now.

    Attributes:
        code: HTTP status.
        text: The line a client reads.
        reasons: Why it is ERROR; empty while it is OK.
    """

    code: int
    text: str
    reasons: tuple[str, ...] = ()


class _Replies:
    """One answer as bytes, for each way of asking."""

    __slots__ = ("_bytes",)

    def __init__(self, code: int, text: str, date: str, extra: str = "") -> None:
        body = text.encode()  # the words alone: who compares the whole page finds them
        head = (
            f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\nDate: {date}\r\n"
            "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n"
            f"Content-Length: {len(body)}\r\n{extra}"
        ).encode()
        keep, close = head + b"\r\n", head + b"Connection: close\r\n\r\n"
        self._bytes = ((keep + body, close + body), (keep, close))

    def pick(self, *, is_head: bool, closes: bool) -> bytes:
        return self._bytes[is_head][closes]


@dataclass(frozen=True, slots=True)
class _Answer:
    view: PageView
    valid_until: float
    replies: _Replies


class Pages:
    """The listener of one node's two pages; ERROR until `run` has prepared them."""

    def __init__(
        self,
        state: StateFile,
        checks: Checks,
        clock: Clock,
        *,
        sink: EventSink | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Prepare nothing yet; `start` listens and `run` keeps the pages true.

        Args:
            sink: Takes `agent.page-changed`.
        """
        self.limits = limits or Limits()
        self.clock = clock
        self._state = state
        self._checks = checks
        self._sink = sink
        self._answers: dict[Page, _Answer] = {}
        self._announced = dict.fromkeys(Page, ERROR)
        self._is_draining = False
        # What keeps both pages at ERROR, by who says so.
        self.obstacles: dict[str, str] = {}
        self._server: asyncio.Server | None = None
        self._is_stopped = False
        self._connections: set[_Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        # One buffer serves all connections: a chunk is parsed before the loop reads the next.
        self.buffer = memoryview(bytearray(self.limits.head_bytes))

    # -------------------------------------------------------------- life
    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and return the address in use (port 0 takes a free one).

        Raises:
            ListenError: The address is in use, not ours, or not allowed.
        """
        loop = asyncio.get_running_loop()
        backlog = self.limits.connections
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self), host, port, backlog=backlog
            )
        except (OSError, OverflowError) as error:
            raise ListenError(
                f"{host}:{port}: found {error}; wanted to serve the health pages there;"
                " free the address or change `listen`"
            ) from error
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def run(self) -> None:
        """Prepare the pages and drop slow clients until cancelled."""
        while True:
            self.refresh()
            now = self.clock.monotonic()
            for connection in [one for one in self._connections if now > one.deadline]:
                connection.abort()
            await self.clock.sleep(self.limits.refresh_s)

    def drain(self) -> None:
        """Turn both pages to ERROR for good; load balancers take the node out meanwhile."""
        self._is_draining = True
        self.refresh()

    async def stop(self) -> None:
        """Stop listening, let written answers leave, and end every connection."""
        self._is_stopped = True
        if self._server is not None:
            await end_listening(self._server)
        for connection in list(self._connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._empty.wait()
        for connection in list(self._connections):
            connection.abort()
        await self._empty.wait()

    # -------------------------------------------------------------- what the pages say
    def view(self, page: Page) -> PageView:
        """Return what a client that asks now is told."""
        answer = self._answers.get(page)
        if answer is not None and self.clock.monotonic() <= answer.valid_until:
            return answer.view
        return PageView(503, ERROR, ("the page was not prepared in time",))

    def refresh(self) -> None:
        """Prepare both pages from mode and checks; reads memory only."""
        now = self.clock.monotonic()
        date = formatdate(self.clock.wall(), usegmt=True)
        for page in Page:
            # An answer that ran out since the last time was an ERROR to clients: say so too.
            self._announce(page)
            view = self._judge(page, now)
            holds = min(now + self.limits.answer_life_s, self._checks.fresh_until(page))
            self._answers[page] = _Answer(
                # An ERROR cannot grow stale.
                view,
                holds if view.code == HTTPStatus.OK else float("inf"),
                _Replies(view.code, view.text, date),
            )
            self._announce(page)

    def _judge(self, page: Page, now: float) -> PageView:
        state = self._state.current
        mode = state.mode
        is_well, reasons = self._checks.healthy(page, now)
        if page is Page.STATUS and mode is not Mode.PRIMARY:
            # A real Standby serves no status page; one that said OK would draw traffic.
            reasons = ["mode is Standby: only a Primary serves", *reasons]
            is_well = False
        if state.quarantine is not None:
            reasons = [f"quarantined: {state.quarantine.reason}", *reasons]
            is_well = False
        if self.obstacles:
            reasons = [*self.obstacles.values(), *reasons]
            is_well = False
        if self._is_draining:
            reasons = ["the agent is stopping", *reasons]
            is_well = False
        if not is_well:
            return PageView(503, ERROR, tuple(reasons))
        return PageView(200, _OK if page is Page.STATUS else _HASTATUS[mode])

    def _announce(self, page: Page) -> None:
        view = self.view(page)
        if page not in self._answers or view.text == self._announced[page]:
            return
        fields = {
            "node": self._state.node,
            "page": page.value,
            "from": self._announced[page],
            "to": view.text,
            "reasons": list(view.reasons),
        }
        self._announced[page] = view.text
        if self._sink is not None:
            self._sink.emit(Event("agent.page-changed", fields=fields))

    # -------------------------------------------------------------- for the connections
    def reply(self, page: Page, *, is_head: bool, closes: bool) -> bytes:
        """Return the prepared bytes, or an ERROR page when they have run out."""
        answer = self._answers.get(page)
        if answer is None or self.clock.monotonic() > answer.valid_until:
            return self.refusal(503, ERROR, is_head=is_head, closes=closes)
        return answer.replies.pick(is_head=is_head, closes=closes)

    def refusal(
        self, code: int, text: str, *, is_head: bool = False, closes: bool = True, extra: str = ""
    ) -> bytes:
        """Return bytes that are made on the spot."""
        date = formatdate(self.clock.wall(), usegmt=True)
        return _Replies(code, text, date, extra).pick(is_head=is_head, closes=closes)

    def opened(self, connection: "_Connection") -> None:
        """Take in one more connection; the idlest one makes room when there are too many."""
        if self._is_stopped:
            connection.abort()
        elif len(self._connections) >= self.limits.connections:
            # Refusing the newcomer would let anybody lock the load balancer out.
            min(self._connections, key=lambda one: one.deadline).abort()
        self._connections.add(connection)
        self._empty.clear()

    def closed(self, connection: "_Connection") -> None:
        """Forget one connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()


class _Over(Exception):
    """No further request of this connection is looked at."""


class _Connection(asyncio.BufferedProtocol):
    """One client: requests in, in order, pipelined or not; answers out."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._limits = pages.limits
        self._clock = pages.clock
        self._parser = httptools.HttpRequestParser(self)
        self._out: list[bytes] = []
        self._is_over = False
        self._lingers = False
        self._left = 0  # bytes since the last whole request, in chunks
        self._forget_head()
        self.deadline = self._clock.monotonic() + self._limits.idle_s

    def _forget_head(self) -> None:
        self._url = b""
        self._head_bytes = 0
        self._hosts = 0
        self._has_body = False

    # -------------------------------------------------------------- the transport calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pages.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del self._parser  # it holds our methods; without this the pair waits for the collector
        self._pages.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._pages.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._left += nbytes
        if self._is_over:
            if self._left > _LINGER_BYTES:
                self.abort()
            return
        self._parse(nbytes)
        self._flush()

    def pause_writing(self) -> None:
        # The client does not read: neither do we, and its deadline runs on.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    # -------------------------------------------------------------- the parser calls
    def _parse(self, nbytes: int) -> None:
        try:
            self._parser.feed_data(self._pages.buffer[:nbytes])
        except httptools.HttpParserCallbackError:
            if not self._is_over:
                raise  # a fault of ours: the loop reports it and ends the connection
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(400, f"not a usable request: {error}")
        if not self._is_over and self._left > self._limits.head_bytes:
            self._refuse(431, f"the request head is longer than {self._limits.head_bytes} bytes")

    def on_message_begin(self) -> None:
        self.deadline = self._clock.monotonic() + self._limits.idle_s

    def on_url(self, part: bytes) -> None:
        self._url += part
        self._count(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" 0")):
            self._has_body = True

    def on_headers_complete(self) -> None:
        version = self._parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            self._refuse(400, f"HTTP/{version}; use HTTP/1.1 or HTTP/1.0")
        elif self._hosts > 1 or (version == "1.1" and not self._hosts):
            self._refuse(400, f"found {self._hosts} Host headers; HTTP/1.1 needs exactly one")
        elif self._has_body:
            self._refuse(413, "a request for a health page has no body")
        if self._is_over:
            raise _Over

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        is_head = method == b"HEAD"
        parser = self._parser
        closes = (
            not parser.should_keep_alive()
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
        )
        page = PATHS.get(self._path())
        pages = self._pages
        if page is None:
            reply = pages.refusal(404, "404 Not Found", is_head=is_head, closes=closes)
        elif method not in {b"GET", b"HEAD"}:
            text, extra = "405 Method Not Allowed", "Allow: GET, HEAD\r\n"
            reply = pages.refusal(405, text, closes=closes, extra=extra)
        else:
            reply = pages.reply(page, is_head=is_head, closes=closes)
        self._out.append(reply)
        self._forget_head()
        self._left = 0
        if closes:
            self._is_over = True
            raise _Over

    def _path(self) -> bytes:
        """Return the path asked for; the query does not matter."""
        path = self._url.partition(b"?")[0]
        if path[:7].lower() == b"http://":  # absolute form: every server has to take it
            _, slash, rest = path[7:].partition(b"/")
            return slash + rest
        return path

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes:
            self._refuse(431, f"the request head is longer than {self._limits.head_bytes} bytes")
            raise _Over

    # -------------------------------------------------------------- answers and the end
    def _refuse(self, code: int, text: str) -> None:
        self._out.append(self._pages.refusal(code, text))
        self._is_over = self._lingers = True

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
            self.deadline = self._clock.monotonic() + self._limits.idle_s
        if not self._is_over:
            return
        if not self._lingers:
            self._transport.close()
            return
        # Closing now, with the client still sending, would reset the connection and lose the
        # refusal: say that nothing more comes, and read on for a moment.
        self._left = 0
        self.deadline = self._clock.monotonic() + self._limits.linger_s
        with contextlib.suppress(OSError):
            self._transport.write_eof()

    def close(self) -> None:
        """End it after what is written has left."""
        self._transport.close()

    def abort(self) -> None:
        """End it now."""
        self._transport.abort()
