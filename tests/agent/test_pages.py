"""The health pages on a real socket: what they say, when, and to whom."""

import asyncio
import itertools
import re
import socket
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_probe.agent.check import TcpCheck
from lb_probe.agent.checks import Checks
from lb_probe.agent.pages import Limits, ListenError, Pages, _Connection
from lb_probe.agent.state import StateFile
from lb_probe.clock import SystemClock
from lb_probe.core.model import Mode, Page, Role

STATUS = "/status/status.html"
HASTATUS = "/hastatus.html"
ERROR = (503, "MOBILEIRON-STATUS: ERROR")
PRIMARY = b"MOBILEIRON-STATUS: OK (Mode: Primary)"
KEEP = b"GET /hastatus.html HTTP/1.1\r\nHost: t\r\n\r\n"
CLOSE = b"GET /hastatus.html HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"


# ------------------------------------------------------------------ what they say
async def test_a_primary_serves_and_says_primary(serve):
    async with serve(Role.PRIMARY) as node:
        assert await node.get(STATUS) == (200, "MOBILEIRON-STATUS: OK")
        assert await node.get(HASTATUS) == (200, "MOBILEIRON-STATUS: OK (Mode: Primary)")


async def test_a_standby_says_standby_and_does_not_serve(serve):
    async with serve(Role.SECONDARY) as node:
        assert await node.get(STATUS) == ERROR
        assert await node.get(HASTATUS) == (200, "MOBILEIRON-STATUS: OK (Mode: Standby)")
        assert "Standby" in node.pages.view(Page.STATUS).reasons[0]


async def test_a_changed_mode_is_on_the_pages_after_the_next_preparation(serve):
    async with serve(Role.SECONDARY, runs=False) as node:
        node.state.change(Mode.PRIMARY, cause="operator", by="", reason="", now_wall=1.0)
        assert await node.get(STATUS) == ERROR
        node.pages.refresh()
        assert await node.get(STATUS) == (200, "MOBILEIRON-STATUS: OK")


async def test_headers_are_the_documented_ones_and_name_no_server(serve):
    async with serve() as node:
        head = (await node.ask(CLOSE)).partition(b"\r\n\r\n")[0].decode()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
    assert fields.pop("Date").endswith(" GMT")
    assert fields == {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "Content-Length": "37",
        "Connection": "close",
    }


async def test_head_has_the_headers_of_get_and_no_body(serve):
    async with serve() as node:
        got = await node.ask(CLOSE.replace(b"GET", b"HEAD"))
        full = await node.ask(CLOSE)
    undated = re.compile(rb"Date: [^\r]*\r\n")
    assert got.endswith(b"\r\n\r\n")
    assert undated.sub(b"", got) == undated.sub(b"", full.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


async def test_pages_are_error_before_anything_was_prepared(tmp_path, clock):
    with StateFile(tmp_path / "s", node="a", role=Role.PRIMARY, now_wall=0.0) as state:
        pages = Pages(state, Checks([], clock), clock)
        assert pages.view(Page.STATUS).code == 503
        assert pages.reply(Page.STATUS, is_head=False, closes=True).startswith(b"HTTP/1.1 503 ")


async def test_pages_turn_to_error_when_nobody_prepares_them(serve):
    async with serve(runs=False) as node:
        assert (await node.get(HASTATUS))[0] == 200
        node.clock.jumped_s = 2.5
        assert await node.get(HASTATUS) == ERROR
        assert await node.get(STATUS) == ERROR


async def test_pages_turn_to_error_at_the_age_limit_of_a_check_though_nobody_prepares_them(
    serve, eventually
):
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    check = TcpCheck("app", "127.0.0.1", port, interval_s=60, max_age_s=5, timeout_s=20)
    async with server, serve(checks=[check], runs=False, limits=Limits(answer_life_s=99)) as node:
        await eventually(lambda: node.checks.verdicts(0)[0].passing is True)
        node.pages.refresh()
        assert (await node.get(STATUS))[0] == 200
        node.clock.jumped_s = 6
        assert await node.get(STATUS) == ERROR


async def test_an_answer_that_ran_out_is_told_as_an_event_with_its_return(serve):
    async with serve(runs=False) as node:
        node.clock.jumped_s = 3
        node.pages.refresh()
        told = [
            (event.fields["to"], event.fields["reasons"])
            for event in node.sink.named("agent.page-changed")
            if event.fields["page"] == "status"
        ]
    ok = ("MOBILEIRON-STATUS: OK", [])
    assert told == [ok, (ERROR[1].strip(), ["the page was not prepared in time"]), ok]


async def test_drain_turns_both_pages_to_error_for_good(serve):
    async with serve() as node:
        node.pages.drain()
        node.pages.refresh()
        assert await node.get(STATUS) == ERROR
        assert await node.get(HASTATUS) == ERROR


# ------------------------------------------------------------------ requests
@pytest.mark.parametrize(
    "target",
    [f"{STATUS}?", f"{STATUS}?a=/b&c", f"http://t{STATUS}", f"HTTP://t:80{STATUS}?x"],
)
async def test_the_query_and_the_absolute_form_reach_the_page(serve, target):
    async with serve() as node:
        assert (await node.get(target))[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "*",
        "/STATUS/status.html",
        "/status/status.html/",
        "//status/status.html",
        "/status/%73tatus.html",
        "/status/../hastatus.html",
        "/x?/status/status.html",
        "http://t",
        "http://t?/hastatus.html",
    ],
)
async def test_every_other_path_is_not_found(serve, target):
    async with serve() as node:
        assert (await node.get(target))[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_other_methods_are_told_what_is_allowed(serve, method):
    async with serve() as node:
        answer = await node.ask(CLOSE.replace(b"GET", method.encode()))
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET /hastatus.html\r\n\r\n",
        b"GET /hastatus.html HTTP/2.0\r\nHost: t\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /hastatus.html HTTP/1.1\r\n\r\n",
        b"GET /hastatus.html HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /hastatus.html HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /hastatus.html HTTP/1.1\r\nHost : a\r\n\r\n",
    ],
)
async def test_what_is_no_good_request_gets_400_and_the_end(serve, request_bytes):
    async with serve() as node:
        answer = await node.ask(request_bytes + KEEP)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert (
        answer.count(b"HTTP/1.1 ") - answer.count(b"use HTTP/1.1") - answer.count(b"HTTP/1.1 needs")
        == 1
    )


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Content-Length: 3000000\r\n\r\n",
    ],
)
async def test_a_body_is_refused_and_never_taken_for_a_request(serve, body):
    async with serve() as node:
        answer = await node.ask(b"GET /hastatus.html HTTP/1.1\r\nHost: t\r\n" + body + KEEP)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"\r\n\r\n") == 1


async def test_an_empty_body_is_no_body(serve):
    async with serve() as node:
        assert (await node.ask(CLOSE.replace(b"Host", b"Content-Length: 0\r\nHost"))).startswith(
            b"HTTP/1.1 200 "
        )


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /hastatus.html HTTP/1.1\r\nHost: t\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /hastatus.html HTTP/1.1\r\nHost: t\r\n" + b"X: y\r\n" * 4_000 + b"\r\n",
        b"GET /hastatus.html HTTP/1.1\r\nHost: t\r\n" + b"X" * 20_000,
        b"\r\n" * 20_000,
    ],
)
async def test_an_oversized_head_gets_431_and_the_end(serve, head):
    async with serve() as node:
        answer = await node.ask(head)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_refused_client_that_sends_on_is_cut_off(serve):
    async with serve(runs=False) as node:  # by the bytes it sends, not by its deadline
        _, writer = await asyncio.open_connection(node.host, node.port)

        async def flood() -> None:
            while True:
                writer.write(b"\0" * 65536)
                await writer.drain()
                await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(flood(), 20)
        writer.close()


async def test_pipelined_requests_are_answered_in_order_and_end_at_close(serve):
    status = KEEP.replace(b"/hastatus.html", b"/status/status.html")
    async with serve() as node:
        answer = await node.ask(KEEP + status.replace(b"GET", b"HEAD") + status + CLOSE + KEEP)
    bodies = re.findall(rb"\r\n\r\n(MOBILEIRON-STATUS: OK(?: \(Mode: Primary\))?)?", answer)
    assert bodies == [PRIMARY, b"", b"MOBILEIRON-STATUS: OK", PRIMARY]


async def test_a_request_in_single_bytes_is_answered_and_the_connection_kept(serve):
    async with serve() as node:
        reader, writer = await asyncio.open_connection(node.host, node.port)
        for _ in range(2):
            for byte in KEEP:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(37) == PRIMARY
        writer.close()


async def test_http_1_0_is_answered_and_closed(serve):
    async with serve() as node:
        answer = await node.ask(b"GET /hastatus.html HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer


async def test_an_upgrade_is_not_taken_up(serve):
    wish = KEEP.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost")
    async with serve() as node:
        answer = await node.ask(wish + b"PRI")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\nConnection: close\r\n\r\n" + PRIMARY)
        assert (await node.ask(b"CONNECT t:443 HTTP/1.1\r\nHost: t\r\n\r\n")).startswith(
            b"HTTP/1.1 404 "
        )


async def test_a_client_that_shuts_its_side_still_gets_the_answer(serve):
    async with serve() as node:
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(KEEP)
        writer.write_eof()
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200 ")
        writer.close()


# ------------------------------------------------------------------ clients that misbehave
@pytest.mark.parametrize("sent", [b"", b"GET /hastatus.html HTTP/1.1\r\nHo", KEEP])
async def test_a_client_that_says_nothing_more_is_dropped(serve, sent):
    async with serve() as node:
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(sent)
        if sent is KEEP:
            await reader.readuntil(b"(Mode: Primary)")
        else:
            await node.get(STATUS)  # its bytes were taken in by now
        node.clock.jumped_s = 10.5
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 20)
        writer.close()


@pytest.mark.parametrize(
    ("begin", "drop"),
    [(b"GET /", b"a"), (b"GET / HTTP/1.1\r\nX: ", b"a"), (b"GET / HTTP/1.1\r\n", b"X: y\r\n")],
)
async def test_dripping_bytes_does_not_extend_the_deadline(serve, begin, drop):
    async with serve(limits=Limits(idle_s=1000)) as node:
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(begin)
        for _ in range(12):
            writer.write(drop)
            await node.get(STATUS)  # what was written before was taken in by now
            node.clock.jumped_s += 100
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 20)
        writer.close()


async def test_a_refused_client_that_stays_is_dropped(serve, eventually):
    async with serve() as node:
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(b"nonsense\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 400 ")
        node.clock.jumped_s = 2.5
        await eventually(lambda: not node.pages._connections)
        writer.close()


async def test_a_client_that_reads_late_gets_every_answer(serve):
    times = 100_000
    async with serve() as node:
        reader, writer = await asyncio.open_connection(node.host, node.port, limit=1024)
        writer.write(KEEP * times + CLOSE)
        flushing = asyncio.ensure_future(writer.drain())
        await asyncio.wait({flushing}, timeout=0.5)  # by now both sides wait for each other
        assert not flushing.done()
        answer = await asyncio.wait_for(reader.read(), 20)
        await flushing
        writer.close()
    assert answer.count(PRIMARY) == times + 1


async def test_a_client_that_never_reads_is_not_buffered_for_and_is_dropped(serve, eventually):
    async with serve() as node:
        loop = asyncio.get_running_loop()
        with socket.socket() as greedy:
            greedy.setblocking(False)
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(greedy, (node.host, node.port))
            with pytest.raises(TimeoutError):  # our side stops reading: theirs blocks
                await asyncio.wait_for(loop.sock_sendall(greedy, KEEP * 500_000), 3)
            (connection,) = node.pages._connections
            assert connection._transport.get_write_buffer_size() < 1_000_000
            assert (await node.get(STATUS))[0] == 200
            node.clock.jumped_s = 10.5
            await eventually(lambda: connection not in node.pages._connections)


async def test_too_many_connections_push_out_the_idlest_and_not_the_newcomer(serve):
    async with serve(limits=Limits(connections=3)) as node:
        clients = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(node.host, node.port)
            writer.write(KEEP)
            await reader.readuntil(b"(Mode: Primary)")
            clients.append((reader, writer))
        clients[0][1].write(KEEP)
        await clients[0][0].readuntil(b"(Mode: Primary)")
        assert (await node.get(STATUS))[0] == 200
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(clients[1][0].readexactly(1), 20)
        clients[0][1].write(KEEP)
        await asyncio.wait_for(clients[0][0].readuntil(b"(Mode: Primary)"), 20)
        for _, writer in clients:
            writer.close()


async def test_resets_leave_no_connection_behind(serve, eventually):
    async with serve() as node:
        for _ in range(50):
            with socket.create_connection((node.host, node.port)) as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                rude.sendall(KEEP + b"\0")
        await eventually(lambda: not node.pages._connections)
        assert (await node.get(STATUS))[0] == 200


async def test_an_address_in_use_is_refused_with_a_sentence(serve, tmp_path, clock):
    async with serve() as node:
        second = Pages(node.state, node.checks, clock)
        with pytest.raises(
            ListenError, match=rf"127.0.0.1:{node.port}: found .*; free the address"
        ):
            await second.start(node.host, node.port)
        await second.stop()


async def test_stop_ends_open_connections_and_frees_the_port(serve):
    async with serve() as node:
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(KEEP)
        await reader.readuntil(b"(Mode: Primary)")
        await node.pages.stop()
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(node.host, node.port)


# ------------------------------------------------------------------ noise
class _Wire(asyncio.Transport):
    """Takes what a connection writes; the parser is the thing under test, not the socket."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_open = True

    def write(self, data):
        assert self.is_open
        self.sent += data

    def write_eof(self):
        self.is_open = False

    def close(self):
        self.is_open = False

    abort = close


PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            *(KEEP, CLOSE, b"GET ", b"HEAD ", b"POST ", b"/hastatus.html", b"/other"),
            *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n", b"Host: t\r\n", b"\0"),
            *(b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n"),
        ]
    ),
)


def talk(chunks: list[bytes]) -> bytes:
    """Feed these chunks to a fresh connection and return what it says."""

    async def inside() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "s")
            with StateFile(path, node="a", role=Role.PRIMARY, now_wall=0.0) as state:
                clock = SystemClock()
                pages = Pages(state, Checks([], clock), clock)
                pages.refresh()
                connection, wire = _Connection(pages), _Wire()
                connection.connection_made(wire)
                for chunk in chunks:
                    if not wire.is_open:
                        break
                    connection.get_buffer(-1)[: len(chunk)] = chunk
                    connection.buffer_updated(len(chunk))
                connection.connection_lost(None)
                return bytes(wire.sent)

    return asyncio.run(inside())


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES.filter(len), min_size=1, max_size=12))
def test_noise_never_breaks_the_listener_or_gets_a_page_it_did_not_ask_for(chunks):
    said = talk(chunks)
    asked = b"".join(chunks)
    codes = re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", said)
    assert set(codes) <= {b"200", b"400", b"404", b"405", b"413", b"431"}
    assert codes.count(b"200") <= asked.count(b"/hastatus.html")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, len(KEEP) - 1), max_size=6), st.integers(1, 4))
def test_how_the_bytes_are_cut_does_not_change_the_answer(cuts, times):
    whole = KEEP * times
    edges = sorted({0, len(whole), *cuts})
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert talk(pieces).count(b"HTTP/1.1 200 OK") == times


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_no_other_path_is_ever_ok(target):
    path = target.partition("?")[0]
    said = talk([f"GET {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode()])
    assert b"HTTP/1.1 200" not in said or path in {STATUS, HASTATUS}
