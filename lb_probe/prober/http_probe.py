"""Asks a node for one page over a fresh connection and judges the answer.

`probe` is one attempt with one deadline for all of it: name, connection, TLS, first byte, body. It
never tries again, because rise and fall are the retry and a hidden one is lost evidence, and it
follows no redirect. A failure is a value with the phase it happened in; `core.status_page` judges.
"""

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools

from lb_probe import __version__
from lb_probe.core.model import Failed, Observation, Page, Phase
from lb_probe.core.status_page import Answer, Verdict, judge, printable, unjudged
from lb_probe.prober.tcp_probe import (
    Resolve,
    connect_failed,
    dial,
    lookup,
    no_connection_in_time,
)

BODY_CAP = 64 * 1024
HEAD_CAP = 32 * 1024
# Everything that comes over the wire: chunk sizes and trailers must not be endless either.
WIRE_CAP = 512 * 1024

_UNSENDABLE = re.compile(r"[^!-~]")
_REQUEST = (
    "GET {path} HTTP/1.1\r\n"
    "Host: {host}\r\n"
    f"User-Agent: lb-probe/{__version__}\r\n"
    "Accept: */*\r\n"
    "Connection: close\r\n"
    "\r\n"
)
# X509_V_ERR_... of OpenSSL; any other is untrusted and speaks for itself.
_CERTIFICATE = {9: "not yet valid", 10: "expired", 62: "wrong name", 64: "wrong name"}


@dataclass(frozen=True, slots=True)
class Target:
    """One page of one node, and how to ask for it.

    Attributes:
        host: Address to connect to; a name is looked up each time.
        host_header: Sent as `Host` where no `server_name` is given; empty for host and port.
        server_name: The name in the certificate: SNI, verification and `Host`. Nodes of a pair
            share the certificate of the external name, so this differs from `host`.
        ssl_context: From `make_ssl_context`, for https.
        timeout_s: Seconds for the whole attempt.
        accept_suffix: `primary_accept_suffix` of the configuration.

    Raises:
        ValueError: Something cannot be sent in a request, or https comes without a context.
    """

    group: str
    node: str
    page: Page
    scheme: str
    host: str
    port: int
    path: str
    host_header: str = ""
    server_name: str | None = None
    ssl_context: ssl.SSLContext | None = None
    timeout_s: float = 1.0
    accept_suffix: bool = False
    request: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.scheme != ("https" if self.ssl_context else "http"):
            raise ValueError(f"scheme is {self.scheme}; use http, or https with an ssl_context")
        host = self.server_name or self.host_header or _authority(self.host, self.port, self.scheme)
        for text in (host, self.path):
            if not text or _UNSENDABLE.search(text):
                raise ValueError(f"found {text!r}; use printable ASCII without spaces")
        if not self.path.startswith("/"):
            raise ValueError(f"path is {self.path!r}; begin it with /")
        request = _REQUEST.format(path=self.path, host=host).encode("ascii")
        object.__setattr__(self, "request", request)


def _authority(host: str, port: int, scheme: str) -> str:
    host = f"[{host.partition('%')[0]}]" if ":" in host else host
    return host if port == {"http": 80, "https": 443}[scheme] else f"{host}:{port}"


def make_ssl_context(ca_file: Path | None = None, server_name: str | None = None) -> ssl.SSLContext:
    """Return what verifies a node: its chain and its name, over TLS 1.2 or later.

    Build it once for a target and not for each probe: reading the authorities takes milliseconds.

    Args:
        ca_file: PEM file of the only authorities to trust; the system's when None.
        server_name: The name that will be asked for, to learn now whether TLS can carry it.

    Raises:
        OSError: The file cannot be read, or holds no certificate (`ssl.SSLError`).
        ValueError: The name cannot be sent.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    bio = ssl.MemoryBIO()
    try:
        context.wrap_bio(bio, bio, server_hostname=server_name or "localhost")
    except ValueError as error:
        raise ValueError(f"server_name is {server_name!r}; use a host name") from error
    return context


async def probe(
    target: Target, *, clock: Callable[[], float], resolve: Resolve = lookup
) -> Observation:
    """Ask once and return what came of it; nothing a peer does raises.

    Args:
        clock: Monotonic seconds, to stamp the observation.
        resolve: Where to connect for a host and port; raises OSError where that is unknown.
    """
    started_at = clock()
    exchange = _Exchange(target)
    try:
        async with asyncio.timeout(target.timeout_s):
            await _ask(target, exchange, resolve)
    except TimeoutError:
        exchange.fail_late()
    except (OSError, ValueError, RuntimeError) as error:
        exchange.fail_with(error)
    finally:
        exchange.abort()
    return exchange.observation(started_at, clock())


async def _ask(target: Target, exchange: "_Exchange", resolve: Resolve) -> None:
    endpoints = await resolve(target.host, target.port)
    exchange.stage = Phase.CONNECT_TIMEOUT
    sock = await dial(endpoints)
    exchange.stage = Phase.TLS if target.ssl_context else Phase.TIMEOUT
    exchange.sock = sock
    await asyncio.get_running_loop().create_connection(
        lambda: exchange,
        sock=sock,
        ssl=target.ssl_context,
        server_hostname=(target.server_name or target.host) if target.ssl_context else None,
    )
    await exchange.finished


class _Exchange(asyncio.Protocol):
    """One request and its answer, up to a verdict.

    Attributes:
        stage: What the attempt is busy with: NAME, CONNECT_TIMEOUT, TLS, then TIMEOUT.
        finished: Done when the verdict stands; cancelled when the deadline passes before.
        code: HTTP status of the final answer, None before it.
        sock: Ours to close until the transport takes it over.
    """

    def __init__(self, target: Target) -> None:
        self.stage = Phase.NAME
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.code: int | None = None
        self.sock: socket.socket | None = None
        self._target = target
        self._verdict: Verdict | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0  # bytes
        self._head_size = 0
        self._first = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    # -------------------------------------------------------------- the connection
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._transport.write(self._target.request)
        self.stage = Phase.TIMEOUT

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of the answer."""
        if self._verdict:
            return
        self._received += len(data)
        if len(self._first) < 5:
            self._first += data[: 5 - len(self._first)]
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # What follows a complete answer does not matter.
            self.fail(Phase.PROTOCOL, f"not an HTTP answer: {printable(str(error))}")
        if self.code is None and self._received > HEAD_CAP:
            self.fail(Phase.TOO_LARGE, f"a head of more than {HEAD_CAP} bytes")
        elif self._received > WIRE_CAP:
            self.fail(Phase.TOO_LARGE, f"more than {WIRE_CAP} bytes on the wire")

    def eof_received(self) -> None:
        """Take the end of the stream, which ends an answer without a length."""
        if self.code is None or self._has_length():
            self.fail(Phase.RESET, "closed before the answer was complete")
        elif self._was_cut_off():
            self.fail(Phase.RESET, "TLS cut off in an answer without a length")
        else:
            self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the loss of the connection; uvloop tells a TLS stream that was cut off so."""
        if exc:
            self.fail_with(exc)
        else:
            self.fail(Phase.RESET, "closed before the answer was complete")

    def abort(self) -> None:
        """Leave nothing behind: not a connection, not a socket in TIME_WAIT."""
        if self._transport:
            self._transport.abort()
        elif self.sock:
            self.sock.close()

    # -------------------------------------------------------------- the answer, from httptools
    def on_message_begin(self) -> None:
        """Forget the headers of an interim answer."""
        if self.code is None:
            self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the few headers that matter; count all, trailers too."""
        self._head_size += len(name) + len(value)
        if self.code is None:
            self._headers[name.lower()] = value
        if self._head_size > HEAD_CAP:
            self.fail(Phase.TOO_LARGE, f"a head of more than {HEAD_CAP} bytes")

    def on_headers_complete(self) -> None:
        """Check the frame of the final answer; interim ones (1xx) pass by."""
        code = self._parser.get_status_code()
        if self._verdict or self.code is not None or (100 <= code <= 199 and code != 101):
            return
        version = self._parser.get_http_version()
        coding = self._headers.get(b"transfer-encoding", b"chunked").strip().lower()
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
        if self._verdict or self.code is None:
            return
        self._body += data
        if len(self._body) > BODY_CAP:
            del self._body[BODY_CAP:]
            self.fail(Phase.TOO_LARGE, f"a body of more than {BODY_CAP} bytes")

    def on_message_complete(self) -> None:
        """Judge the final answer; an interim one leads on to the next."""
        if self._verdict or self.code is None:
            return
        try:
            body = _decoded(bytes(self._body), self._headers.get(b"content-encoding", b""))
        except _CodingError as error:
            self.fail(*error.args)
        else:
            self._finish(self._judged(self.code, body))

    # -------------------------------------------------------------- verdicts
    def fail(self, phase: Phase, detail: str) -> None:
        """End the attempt, unless it has ended; the first verdict stands.

        A code other than 200 has decided already, whatever broke after it.
        """
        if self._verdict:
            return
        body = bytes(self._body)
        if self.code is None or self.code == 200:
            self._finish(unjudged(Failed(phase, detail), body))
        else:
            self._finish(self._judged(self.code, body))

    def fail_late(self) -> None:
        """End the attempt because its time is over."""
        timeout_s = self._target.timeout_s
        if self.stage is Phase.NAME:
            self.fail(Phase.NAME, f"no address for {self._target.host} within {timeout_s:g}s")
        elif self.stage is Phase.CONNECT_TIMEOUT:
            self.fail(Phase.CONNECT_TIMEOUT, no_connection_in_time(timeout_s).detail)
        elif self.stage is Phase.TLS:
            self.fail(Phase.TIMEOUT, f"no TLS handshake within {timeout_s:g}s")
        else:
            found = f"{self._received} bytes of it came" if self._received else "nothing came"
            self.fail(Phase.TIMEOUT, f"no complete answer within {timeout_s:g}s; {found}")

    def fail_with(self, error: Exception) -> None:
        """End the attempt with what an exception of this stage means."""
        if self.stage is Phase.NAME:
            failed = Failed(Phase.NAME, printable(str(error)))
        elif self.stage is Phase.CONNECT_TIMEOUT and isinstance(error, OSError):
            failed = connect_failed(error)
        elif isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            failed = Failed(Phase.TLS, _tls_reason(error))
        elif isinstance(error, OSError):
            what = "TLS handshake" if self.stage is Phase.TLS else "answer"
            failed = Failed(Phase.RESET, f"reset or closed before the {what} was complete")
        else:
            failed = Failed(Phase.PROTOCOL, printable(str(error)))
        self.fail(failed.phase, failed.detail)

    def observation(self, started_at: float, ended_at: float) -> Observation:
        """Return what came of the attempt, once it has ended."""
        assert self._verdict is not None
        node, page, verdict = self._target.node, self._target.page, self._verdict
        came = (self.code, verdict.head, verdict.body_sha256)
        return Observation(node, page, started_at, ended_at, verdict.outcome, *came)

    def _judged(self, code: int, body: bytes) -> Verdict:
        location = self._headers.get(b"location", b"").decode("utf-8", "replace")
        answer = Answer(code, body, location)
        return judge(self._target.page, answer, accept_suffix=self._target.accept_suffix)

    def _finish(self, verdict: Verdict) -> None:
        self._verdict = verdict
        if not self.finished.done():
            self.finished.set_result(None)

    def _has_length(self) -> bool:
        return b"content-length" in self._headers or b"transfer-encoding" in self._headers

    def _was_cut_off(self) -> bool:
        """Tell whether TLS ended without the peer's word: a cut page may look whole."""
        assert self._transport is not None
        stream = self._transport.get_extra_info("ssl_object")
        if stream is None:
            return False
        try:
            return bool(stream.read(1))
        except ssl.SSLError:
            return True


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        kind = _CERTIFICATE.get(error.verify_code, "untrusted")
        return f"certificate {kind}: {printable(error.verify_message)}"
    reason = (error.reason or str(error)).replace("_", " ").lower()
    return f"handshake failed: {printable(reason)}"


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
