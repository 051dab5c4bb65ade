"""Reads one HTTP answer from its bytes, up to a verdict; no socket and no time in here.

Everything is bounded: the head, the body, what a body unpacks to, and all that comes over the
wire. The first verdict stands, whatever follows it.
"""

import re
import zlib
from functools import lru_cache

import httptools

from lb_probe.core.model import Failed, Phase
from lb_probe.core.status_page import Answer, Verdict, judge, judge_by, printable, unjudged
from lb_probe.prober.target import Target

BODY_CAP = 64 * 1024
HEAD_CAP = 32 * 1024
# Everything that comes over the wire: chunk sizes and trailers must not be endless either.
WIRE_CAP = 512 * 1024
CHUNK = 16 * 1024  # as much is read at a time
_FAMILIAR_BYTES = 4096
# RFC 9110, 5.6.7: always this long. What it is made of cannot end a header.
_DATE_BYTES = 29
_DATE = re.compile(rb"[A-Za-z0-9 ,:]{29}")
_DATE_LINE = re.compile(rb"\r\nDate: ([A-Za-z0-9 ,:]{29})\r\n")


class _Dates:
    """The date that was met last, in any answer; empty before the first."""

    __slots__ = ("latest",)

    def __init__(self) -> None:
        self.latest = b""


_dates = _Dates()


class Known:
    """One answer that came in one piece, and what it says of the node.

    What a healthy node says differs from second to second in the `Date` header only; then the
    verdict is the same too, and nothing need be read.

    Attributes:
        size: So many bytes are asked for when the same is asked again: all of this answer and one
            more. The room for a whole chunk costs more than the answer.
    """

    __slots__ = ("_head", "_latest", "_tail", "code", "may_be_kept", "size", "verdict")

    def __init__(
        self, head: bytes, tail: bytes, size: int, verdict: Verdict, code: int | None, keep: bool
    ) -> None:
        self.verdict = verdict
        self.code = code
        self.may_be_kept = keep
        self.size = size
        self._head = head
        self._tail = tail
        self._latest = None if head else tail  # with a date, once it came again

    def fits(self, data: bytes) -> bool:
        """Tell whether this is the very answer, but for its date."""
        return data == self._latest or (self._head != b"" and self._is_at_another_time(data))

    def _is_at_another_time(self, data: bytes) -> bool:
        head = self._head
        date = data[len(head) : len(head) + _DATE_BYTES]
        if data != head + date + self._tail:
            return False
        if date != _dates.latest:
            if _DATE.fullmatch(date) is None:
                return False
            _dates.latest = date  # most nodes say the same time
        self._latest = data
        return True


# One object for the same answer: many nodes say the same, and memory is slow.
_known = lru_cache(maxsize=1024)(Known)


class Reading:
    """One answer that is being read.

    Attributes:
        verdict: What the answer says of the node; None while it is not known.
        code: HTTP status of the final answer, None before it.
        received: Bytes that came.
        known: The same for the next one like it, where it is short and came in one piece.
        headers: Of the final answer, names in lower case; the last of several counts.
        lines: The same for people: all of them, as they came.
        may_be_kept: The answer has ended, said where, and left the connection usable.
    """

    __slots__ = (
        "_body",
        "_first",
        "_head_size",
        "_parser",
        "_target",
        "code",
        "headers",
        "known",
        "lines",
        "may_be_kept",
        "received",
        "verdict",
    )

    def __init__(self, target: Target) -> None:
        self.verdict: Verdict | None = None
        self.code: int | None = None
        self.received = 0
        self.known: Known | None = None
        self.headers: dict[bytes, bytes] = {}
        self.lines: list[tuple[bytes, bytes]] = []
        self.may_be_kept = False
        self._target = target
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._head_size = 0
        self._first = b""
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        assert self._parser is not None
        is_first = not self.received
        self.received += len(data)
        if len(self._first) < 5:
            self._first += data[: 5 - len(self._first)]
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What follows a complete answer does not matter, but for keeping the connection.
            self.may_be_kept = False
            self.fail(Phase.PROTOCOL, f"not an HTTP answer: {printable(str(error))}")
        if self.code is None and self.received > HEAD_CAP:
            self.fail(Phase.TOO_LARGE, f"a head of more than {HEAD_CAP} bytes")
        elif self.received > WIRE_CAP:
            self.fail(Phase.TOO_LARGE, f"more than {WIRE_CAP} bytes on the wire")
        if self.verdict is not None:
            self._parser = None  # it holds on to us
            if is_first and len(data) <= _FAMILIAR_BYTES:
                self._learn(data, self.verdict)

    def _learn(self, data: bytes, verdict: Verdict) -> None:
        found = _DATE_LINE.search(data, 0, data.find(b"\r\n\r\n") + 2)
        start, end = found.span(1) if found else (0, 0)
        head, tail = data[:start], data[end:]
        self.known = _known(head, tail, len(data) + 1, verdict, self.code, self.may_be_kept)

    def end(self, *, is_cut: bool) -> None:
        """Take the end of the stream, which ends an answer without a length.

        Args:
            is_cut: TLS ended without the peer's word: a cut page may look whole.
        """
        self.may_be_kept = False
        if self.code is None or self._has_length():
            self.fail(Phase.RESET, "closed before the answer was complete")
        elif is_cut:
            self.fail(Phase.RESET, "TLS cut off in an answer without a length")
        else:
            self.on_message_complete()

    def fail(self, phase: Phase, detail: str) -> None:
        """End the reading, unless it has ended.

        A code other than the wanted one has decided already, whatever broke after it.
        """
        if self.verdict is not None:
            return
        self.may_be_kept = False
        wanted = self._target.expected.code if self._target.expected else 200
        if self.code is None or self.code == wanted:
            self.verdict = unjudged(Failed(phase, detail), bytes(self._body))
        else:
            self.verdict = self._judged(self.code, bytes(self._body))

    # -------------------------------------------------------------- called by httptools
    def on_message_begin(self) -> None:
        """Forget the headers of an interim answer."""
        if self.code is None:
            self.headers.clear()
            self.lines.clear()
        else:  # a second answer that nobody asked for
            self.may_be_kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers; count all, trailers too."""
        self._head_size += len(name) + len(value)
        if self.code is None and self.verdict is None:
            self.headers[name.lower()] = value
            self.lines.append((name, value))
        if self._head_size > HEAD_CAP:
            self.fail(Phase.TOO_LARGE, f"a head of more than {HEAD_CAP} bytes")

    def on_headers_complete(self) -> None:
        """Check the frame of the final answer; interim ones (1xx) pass by."""
        assert self._parser is not None
        code = self._parser.get_status_code()
        if (
            self.verdict is not None
            or self.code is not None
            or (100 <= code <= 199 and code != 101)
        ):
            return
        version = self._parser.get_http_version()
        coding = self.headers.get(b"transfer-encoding", b"chunked").strip().lower()
        if self._first != b"HTTP/" or version not in {"1.0", "1.1"}:
            self.fail(Phase.PROTOCOL, "not an HTTP/1 answer")
        elif code == 101:
            self.fail(Phase.PROTOCOL, "101 Switching Protocols, which nobody asked for")
        elif coding != b"chunked":
            self.fail(Phase.PROTOCOL, f"transfer coding {_shown(coding)}; wanted chunked or none")
        else:
            self.code = code

    def on_body(self, data: bytes) -> None:
        """Collect the body, up to its cap."""
        if self.verdict is not None or self.code is None:
            return
        self._body += data
        if len(self._body) > BODY_CAP:
            del self._body[BODY_CAP:]
            self.fail(Phase.TOO_LARGE, f"a body of more than {BODY_CAP} bytes")

    def on_message_complete(self) -> None:
        """Judge the final answer; an interim one leads on to the next."""
        if self.verdict is not None or self.code is None:
            return
        try:
            body = _decoded(bytes(self._body), self.headers.get(b"content-encoding", b""))
        except _CodingError as error:
            self.fail(*error.args)
        else:
            self.may_be_kept = self._parser is not None and self._parser.should_keep_alive()
            self.verdict = self._judged(self.code, body)

    # -------------------------------------------------------------- verdicts
    def _judged(self, code: int, body: bytes) -> Verdict:
        location = self.headers.get(b"location", b"").decode("utf-8", "replace")
        answer = Answer(code, body, location)
        if self._target.expected is not None:
            return judge_by(self._target.expected, answer)
        return judge(self._target.page, answer, accept_suffix=self._target.accept_suffix)

    def _has_length(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers


class _CodingError(Exception):
    """The phase and the detail of a body that cannot be decoded."""


def _decoded(body: bytes, coding: bytes) -> bytes:
    """Undo a content coding that nobody asked for, within the cap.

    Raises:
        _CodingError: Unknown, broken, cut, followed by something else, or too large.
    """
    name = coding.strip().lower()
    if name in {b"", b"identity"}:
        return body
    if name not in {b"gzip", b"x-gzip", b"deflate"}:
        raise _CodingError(Phase.PROTOCOL, f"content coding {_shown(coding)}; wanted none")
    stream = zlib.decompressobj(_window(name, body))
    try:
        plain = stream.decompress(body, BODY_CAP + 1)
    except zlib.error as error:
        raise _CodingError(Phase.PROTOCOL, f"broken {_shown(name)}: {error}") from error
    if len(plain) > BODY_CAP:
        raise _CodingError(Phase.TOO_LARGE, f"a body of more than {BODY_CAP} bytes")
    # Half a page, or a second one behind the first, might say something else.
    if not stream.eof or stream.unused_data:
        raise _CodingError(Phase.PROTOCOL, f"{_shown(name)} body that does not end where it should")
    return plain


def _window(name: bytes, body: bytes) -> int:
    if name != b"deflate":
        return 16 + zlib.MAX_WBITS
    # "deflate" means zlib; old servers send it without zlib's header.
    has_header = len(body) > 1 and (body[0] & 15, int.from_bytes(body[:2], "big") % 31) == (8, 0)
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def _shown(value: bytes) -> str:
    return printable(value.decode("latin-1"), 40)
