"""The engine against raw servers on loopback, on both event loops: REQUIREMENTS 2.2 on the wire."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
import threading
import time
import zlib
from dataclasses import replace

import pytest
from raw_server import (
    LONG_S,
    NAME,
    OK,
    SHORT_S,
    STANDBY,
    answering,
    ask,
    ask_server,
    descriptors,
    in_time_wait,
    on_both_loops,
    page,
    serving,
    silent,
    target,
    until,
)

from lb_probe import __version__
from lb_probe.core.model import Failed, Mode, Page, Passed, Phase
from lb_probe.core.status_page import Expected
from lb_probe.prober.http_probe import BODY_CAP, probe
from lb_probe.prober.names import NameFailedError

# ------------------------------------------------------------------ answers that pass
CHUNKED = ["Transfer-Encoding: chunked"]


def chunks(*parts):
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\nTrailer: x\r\n\r\n"


GOOD = {
    "plain": page(),
    "html": page(b"<html><body>" + OK + b"</body></html>"),
    "crlf-and-bom": page(b"\xef\xbb\xbf" + OK + b"  \r\n"),
    "chunked": page(chunks(OK[:7], OK[7:]), headers=CHUNKED, length=False),
    "gzip": page(gzip.compress(OK), headers=["Content-Encoding: gzip"]),
    "x-gzip": page(gzip.compress(OK), headers=["CONTENT-ENCODING:  X-GZIP "]),
    "deflate": page(zlib.compress(OK), headers=["Content-Encoding: deflate"]),
    "raw-deflate": page(zlib.compress(OK)[2:-4], headers=["Content-Encoding: deflate"]),
    "identity": page(headers=["Content-Encoding: identity"]),
    "gzip-chunked": page(
        chunks(gzip.compress(OK)), headers=[*CHUNKED, "Content-Encoding: gzip"], length=False
    ),
    "http-1.0": page(version="1.0", length=False),
    "until-close": page(length=False),
    "no-reason": page(code="200"),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + page(),
    "two-interims": b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: br\r\nLink: x\r\n\r\n"
    b"HTTP/1.1 102 Processing\r\n\r\n" + page(),
    "keep-alive": page(headers=["Connection: keep-alive"]),
    "garbage-behind": page() + b"\x00garbage\r\n\r\n",
    "second-answer-behind": page() + page(b"MOBILEIRON-STATUS: ERROR", code="500 X"),
    "upgrade-offered": page(headers=["Upgrade: h2c", "Connection: upgrade, close"]),
}


@pytest.mark.parametrize("name", GOOD)
@on_both_loops
async def test_a_good_answer_passes(name):
    """Vectors 1, 2 and 15, and what HTTP allows."""
    seen = await ask_server(answering(GOOD[name]))
    assert seen.outcome == Passed()
    assert seen.code == 200
    assert seen.node == "a"
    assert seen.page is Page.STATUS
    assert "MOBILEIRON-STATUS: OK" in seen.head
    assert len(seen.body_sha256) == 64


@pytest.mark.parametrize("name", GOOD)
@on_both_loops
async def test_a_good_answer_passes_byte_by_byte(name):
    parts = [bytes([byte]) for byte in GOOD[name]]
    assert (await ask_server(answering(*parts))).outcome == Passed()


@pytest.mark.parametrize("end", ["stay", "half-close"])
@pytest.mark.parametrize("name", sorted(set(GOOD) - {"http-1.0", "until-close"}))
@on_both_loops
async def test_a_complete_answer_ends_the_probe_without_waiting_for_the_peer(name, end):
    seen = await ask_server(answering(GOOD[name], end=end))
    assert seen.outcome == Passed()
    assert seen.ended_at - seen.started_at < LONG_S / 2


@on_both_loops
async def test_a_half_close_ends_an_answer_without_a_length():
    assert (await ask_server(answering(GOOD["until-close"], end="half-close"))).outcome == Passed()


@on_both_loops
async def test_the_mode_is_read_from_hastatus():
    """Vectors 16 to 18."""
    for body, mode in [
        (STANDBY, Mode.STANDBY),
        (STANDBY.replace(b"Standby", b"Primary"), Mode.PRIMARY),
        (STANDBY.replace(b"Standby", b"Active"), Mode.UNKNOWN),
    ]:
        seen = await ask_server(answering(page(body)), Page.HASTATUS)
        assert isinstance(seen.outcome, Passed)
        assert seen.outcome.mode is mode


@on_both_loops
async def test_the_suffix_switch_reaches_the_judge():
    body = page(OK + b" all well")
    assert isinstance((await ask_server(answering(body))).outcome, Failed)
    assert (await ask_server(answering(body), accept_suffix=True)).outcome == Passed()


# ------------------------------------------------------------------ what is sent
@on_both_loops
async def test_an_expectation_reaches_the_judge_and_half_an_answer_never_meets_it():
    """R40: http with an expectation."""
    expected = Expected(401, "who")
    denied = page(b"who are you?", code="401 Unauthorized")
    assert (await ask_server(answering(denied), expected=expected)).outcome == Passed()
    cut = await ask_server(answering(denied[:-2]), expected=expected)
    assert cut.outcome.phase is Phase.RESET
    other = await ask_server(answering(page()), expected=expected)
    assert other.outcome == Failed(Phase.STATUS, "200 OK; wanted 401")


@on_both_loops
async def test_the_request_is_plain_and_asks_for_one_answer():
    heads = []

    async def behave(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        await answering_now(writer)

    async def answering_now(writer):
        writer.write(page())
        await writer.drain()

    async with serving(behave) as port:
        await ask(port, path="/status/status.html")
        await ask(port, server_name=NAME, host_header="other.example.com:81")
        await ask(port, host_header="other.example.com:81")
    first, second, third = (head.decode().split("\r\n") for head in heads)
    assert first == [
        "GET /status/status.html HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"User-Agent: lb-probe/{__version__}",
        "Accept: */*",
        "Connection: close",
        "",
        "",
    ]
    assert second[1] == f"Host: {NAME}"
    assert third[1] == "Host: other.example.com:81"


def test_the_port_is_left_out_of_host_where_it_is_the_usual_one():
    assert b"Host: 127.0.0.1\r\n" in target(80).request
    assert b"Host: [::1]:8080\r\n" in target(8080, host="::1").request
    assert b"Host: [2001:db8::1]\r\n" in target(80, host="2001:db8::1%eth0").request
    assert b"Host: a\r\n" in target(443, host="a", scheme="https", ssl_context=plain_tls()).request


def plain_tls():
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.mark.parametrize(
    "values",
    [
        {"path": "x"},
        {"path": "/a b"},
        {"path": "/a\r\nX: y"},
        {"path": ""},
        {"host": "ä.example.com"},
        {"server_name": "a\r\nb"},
        {"host_header": "a b"},
        {"scheme": "ftp"},
        {"scheme": "https"},
    ],
    ids=str,
)
def test_a_target_that_cannot_be_asked_for_is_refused(values):
    with pytest.raises(ValueError, match=r"use|begin"):
        target(80, **values)


def test_http_with_a_tls_context_is_refused():
    with pytest.raises(ValueError, match="use http, or https"):
        target(80, ssl_context=plain_tls())


@on_both_loops
async def test_each_probe_is_one_fresh_connection():
    """A hidden retry is lost evidence."""
    connections = []

    async def behave(reader, writer):
        connections.append(writer)
        await answering(end="reset")(reader, writer)

    async with serving(behave) as port:
        for _ in range(3):
            assert (await ask(port)).outcome.phase is Phase.RESET
    assert len(connections) == 3


# ------------------------------------------------------------------ answers that fail
BAD = {
    # name: what is sent, phase, part of the detail
    "error": (page(b"MOBILEIRON-STATUS: ERROR"), Phase.BODY, "found 'ERROR'"),
    "empty": (page(b""), Phase.BODY, "an empty page"),
    "empty-until-close": (page(b"", length=False), Phase.BODY, "an empty page"),
    "503": (page(code="503 Service Unavailable"), Phase.STATUS, "503 Service Unavailable"),
    "204": (page(b"", code="204 No Content", length=False), Phase.STATUS, "204"),
    "099": (page(code="099 X"), Phase.STATUS, "99"),
    "login": (
        page(b"", code="302 Found", headers=["Location: /mifs/login"]),
        Phase.REDIRECT,
        "302 Found to /mifs/login",
    ),
    "304": (page(b"", code="304 Not Modified", length=False), Phase.REDIRECT, "304"),
    "no-answer": (b"", Phase.RESET, "closed before"),
    "half-a-head": (page()[:20], Phase.RESET, "closed before"),
    "half-a-body": (page()[:-1], Phase.RESET, "closed before"),
    "half-a-chunked-body": (
        page(chunks(OK)[:-3], headers=CHUNKED, length=False),
        Phase.RESET,
        "closed before",
    ),
    "interim-only": (b"HTTP/1.1 100 Continue\r\n\r\n", Phase.RESET, "closed before"),
    "garbage": (b"\x00\x01\x02garbage\r\n\r\n", Phase.PROTOCOL, "not an HTTP answer"),
    "garbage-before": (b"x" + page(), Phase.PROTOCOL, "not an HTTP answer"),
    "empty-line-before": (b"\r\n" + page(), Phase.PROTOCOL, "not an HTTP/1 answer"),
    "http-0.9": (OK + b"\n", Phase.PROTOCOL, "not an HTTP answer"),
    "http-2": (page(version="2.0"), Phase.PROTOCOL, "not an HTTP/1 answer"),
    "rtsp": (page().replace(b"HTTP", b"RTSP"), Phase.PROTOCOL, "not an HTTP/1 answer"),
    "tls-alert": (b"\x15\x03\x01\x00\x02\x02\x46", Phase.PROTOCOL, "not an HTTP answer"),
    "two-lengths": (page(headers=["Content-Length: 21"]), Phase.PROTOCOL, "Content-Length"),
    "length-and-chunked": (page(chunks(OK), headers=CHUNKED), Phase.PROTOCOL, "Transfer-Encoding"),
    "bad-length": (page(headers=["Content-Length: -5"], length=False), Phase.PROTOCOL, "Length"),
    "bad-chunk": (page(b"zz\r\n", headers=CHUNKED, length=False), Phase.PROTOCOL, "not an HTTP"),
    "gzip-transfer": (
        page(OK, headers=["Transfer-Encoding: gzip"], length=False),
        Phase.PROTOCOL,
        "transfer coding gzip",
    ),
    "switching": (
        b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + page(),
        Phase.PROTOCOL,
        "101 Switching",
    ),
    "brotli": (page(headers=["Content-Encoding: br"]), Phase.PROTOCOL, "content coding br"),
    "not-gzip": (page(headers=["Content-Encoding: gzip"]), Phase.PROTOCOL, "broken gzip"),
    "cut-gzip": (
        page(gzip.compress(OK)[:-9], headers=["Content-Encoding: gzip"]),
        Phase.PROTOCOL,
        "does not end where it should",
    ),
    "two-gzips": (
        page(gzip.compress(OK) + gzip.compress(b"AY"), headers=["Content-Encoding: gzip"]),
        Phase.PROTOCOL,
        "does not end where it should",
    ),
    "empty-deflate": (page(b"", headers=["Content-Encoding: deflate"]), Phase.PROTOCOL, "end"),
    "gzip-bomb": (
        page(gzip.compress(OK + b"\n" * 10_000_000), headers=["Content-Encoding: gzip"]),
        Phase.TOO_LARGE,
        "more than 65536 bytes",
    ),
    "10-MiB": (page(OK + b"\n" * 10_485_760), Phase.TOO_LARGE, "more than 65536 bytes"),
    "one-byte-too-many": (
        page(OK + b"\n" * (BODY_CAP + 1 - len(OK))),
        Phase.TOO_LARGE,
        "more than 65536 bytes",
    ),
    "long-header": (page(headers=["X: " + "x" * 40_000]), Phase.TOO_LARGE, "head of more than"),
    "many-headers": (page(headers=["X: x"] * 20_000), Phase.TOO_LARGE, "head of more than"),
    "endless-head": (page(headers=["X: x"] * 20_000)[:-60], Phase.TOO_LARGE, "head of more"),
    "endless-interims": (b"HTTP/1.1 100 C\r\n\r\n" * 9_000, Phase.TOO_LARGE, "head of more"),
    "long-trailer": (
        page(chunks(OK)[:-2] + b"X: x\r\n" * 20_000, headers=CHUNKED, length=False),
        Phase.TOO_LARGE,
        "head of more than",
    ),
    "long-chunk-extension": (
        page(b"1;" + b"x" * 600_000, headers=CHUNKED, length=False),
        Phase.TOO_LARGE,
        "on the wire",
    ),
}


@pytest.mark.parametrize("name", BAD)
@on_both_loops
async def test_a_bad_answer_fails_with_its_phase(name):
    """Vectors 4 to 13."""
    sent, phase, detail = BAD[name]
    seen = await ask_server(answering(sent))
    assert isinstance(seen.outcome, Failed)
    assert seen.outcome.phase is phase
    assert detail in seen.outcome.detail
    assert len(seen.head) <= 200


@on_both_loops
async def test_the_largest_allowed_body_passes():
    body = OK + b"\n" * (BODY_CAP - len(OK))
    assert (await ask_server(answering(page(body)))).outcome == Passed()
    zipped = page(gzip.compress(body), headers=["Content-Encoding: gzip"])
    assert (await ask_server(answering(zipped))).outcome == Passed()


@pytest.mark.parametrize("name", ["10-MiB", "half-a-body", "brotli", "endless"])
@on_both_loops
async def test_a_code_that_is_not_200_decides_whatever_breaks_after_it(name):
    """Vector 13: an operator wants to see the code."""
    sent = page() if name == "endless" else BAD[name][0]
    sent = sent.replace(b"200 OK", b"500 Oops")
    if name == "endless":
        seen = await ask_server(answering(sent[:-1], end="stay"), timeout_s=SHORT_S)
    else:
        seen = await ask_server(answering(sent))
    assert seen.outcome == Failed(Phase.STATUS, "500 Internal Server Error; wanted 200")
    assert seen.code == 500


@on_both_loops
async def test_what_came_of_a_broken_answer_is_kept_for_people():
    seen = await ask_server(answering(page(b"half\x07 a page")[:-1]))
    assert seen.outcome.phase is Phase.RESET
    assert seen.code == 200
    assert seen.head == "half\ufffd a pag"
    assert len(seen.body_sha256) == 64
    nothing = await ask_server(answering())
    assert (nothing.code, nothing.head, nothing.body_sha256) == (None, "", "")


# ------------------------------------------------------------------ time
async def drip(reader, writer):
    for byte in page(OK + b"\n" * 1000):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(SHORT_S / 10)


async def never_ending(reader, writer):
    writer.write(page(b"", headers=CHUNKED, length=False))
    while True:
        writer.write(b"1\r\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(SHORT_S / 10)


@pytest.mark.parametrize("behave", [drip, never_ending, silent], ids=lambda b: b.__name__)
@on_both_loops
async def test_a_slow_answer_ends_with_the_deadline(behave):
    """Vector 12."""
    seen = await ask_server(behave, timeout_s=SHORT_S)
    assert seen.outcome.phase is Phase.TIMEOUT
    assert "no complete answer within 0.3s" in seen.outcome.detail
    assert ("nothing came" in seen.outcome.detail) == (behave is silent)
    assert SHORT_S - 0.01 <= seen.ended_at - seen.started_at < LONG_S / 2


@on_both_loops
async def test_the_deadline_is_one_for_all_phases():
    """Each part alone is within the limit; the sum is not."""

    def slow_name(host, port):
        time.sleep(SHORT_S * 0.6)
        return [(socket.AF_INET, ("127.0.0.1", port))]

    async def slow_answer(reader, writer):
        await asyncio.sleep(SHORT_S * 0.6)
        writer.write(page())

    async with serving(slow_answer) as port:
        asked = target(port, host="node.invalid", timeout_s=SHORT_S)
        seen = await probe(asked, clock=time.monotonic, resolve=slow_name)
    assert seen.outcome.phase is Phase.TIMEOUT


@on_both_loops
async def test_the_times_are_the_clocks():
    ticks = iter([10.0, 11.0, 12.5])  # begun, connected, ended
    async with serving(answering(page())) as port:
        seen = await probe(target(port), clock=lambda: next(ticks))
    assert (seen.started_at, seen.ended_at) == (10.0, 12.5)


# ------------------------------------------------------------------ names and connections
@on_both_loops
async def test_a_refused_connection_says_so():
    """Vector 14."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        seen = await ask(bound.getsockname()[1])
    assert seen.outcome == Failed(Phase.CONNECT_REFUSED, "Connection refused")


@on_both_loops
async def test_a_blackhole_is_a_connect_timeout():
    """Vector 14."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        await asyncio.sleep(0.05)
        seen = await ask(server.getsockname()[1], timeout_s=SHORT_S)
    assert seen.outcome == Failed(Phase.CONNECT_TIMEOUT, "no connection within 0.3s")


@on_both_loops
async def test_names_fail_as_names():
    def unknown(host, port):
        raise NameFailedError(f"{host}: unknown")

    def hanging(host, port):
        released.wait(LONG_S)

    released = threading.Event()
    asked = target(80, host="node.invalid", timeout_s=SHORT_S)
    seen = await probe(asked, clock=time.monotonic, resolve=unknown)
    assert seen.outcome == Failed(Phase.NAME, "node.invalid: unknown")
    seen = await probe(asked, clock=time.monotonic, resolve=hanging)
    released.set()
    assert seen.outcome == Failed(Phase.NAME, "no address for node.invalid within 0.3s")
    seen = await probe(replace(asked, timeout_s=LONG_S), clock=time.monotonic)
    assert seen.outcome.phase is Phase.NAME


@on_both_loops
async def test_a_name_is_looked_up():
    async with serving(answering(page())) as port:
        assert (await ask(port, host="localhost")).outcome == Passed()


@pytest.mark.parametrize("before", ["request", "answer", "end"])
@on_both_loops
async def test_a_reset_peer_is_a_reset(before):
    async def at_once(reader, writer):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    behave = {
        "request": at_once,
        "answer": answering(end="reset"),
        "end": answering(page()[:-1], end="reset", pause_s=0.05),
    }[before]
    assert (await ask_server(behave)).outcome.phase is Phase.RESET


@on_both_loops
async def test_a_cancelled_probe_raises_and_leaves_nothing_open():
    async with serving(silent) as port:
        before = descriptors()
        for _ in range(5):
            attempt = asyncio.ensure_future(ask(port))
            await asyncio.sleep(0.02)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
        await until(lambda: descriptors() <= before)


@on_both_loops
async def test_probes_leave_no_sockets_behind():
    async with serving(answering(page(), end="stay")) as port:
        before = descriptors()
        for _ in range(20):
            assert (await ask(port)).outcome == Passed()
        await until(lambda: descriptors() <= before)
        assert not in_time_wait(port)
