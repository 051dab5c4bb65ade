"""The engine's own promises: callbacks, kept connections, bounds, and what `inspect` tells."""

import asyncio
import contextlib
import hashlib
import socket
import struct
import threading
import time
import tracemalloc

import pytest
from descriptors import none_left
from raw_server import (
    LONG_S,
    NAME,
    OK,
    SHORT_S,
    answering,
    descriptors,
    on_both_loops,
    page,
    serving,
    serving_beside,
    silent,
    target,
    until,
)

from lb_probe.core.model import Failed, Passed, Phase
from lb_probe.prober.attempt import FRESH_EVERY
from lb_probe.prober.http_probe import Engine, inspect, probe
from lb_probe.prober.names import Names

BAD = b"MOBILEIRON-STATUS: ERROR"


@contextlib.contextmanager
def engine_of():
    engine = Engine(time.monotonic)
    try:
        yield engine
    finally:
        engine.close()


async def ask(engine, asked):
    """Start one attempt and wait for what came of it."""
    ended = asyncio.get_running_loop().create_future()
    engine.start(asked, ended.set_result)
    return await asyncio.wait_for(ended, LONG_S)


# ------------------------------------------------------------------ callbacks
@on_both_loops
async def test_done_is_called_once_and_never_inside_start():
    """Not even where the verdict is known at once."""
    with engine_of() as engine, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        seen = []
        for asked in (
            target(80, host="169.254.0.1"),
            target(bound.getsockname()[1]),
            target(bound.getsockname()[1], source="192.0.2.77"),
            target(70_000),
        ):
            before = len(seen)
            engine.start(asked, seen.append)
            assert len(seen) == before
            await until(lambda before=before: len(seen) > before)
        await asyncio.sleep(0.05)
        refused = Phase.CONNECT_REFUSED
        assert [s.outcome.phase for s in seen] == [Phase.NAME, refused, Phase.LOCAL, refused]


@on_both_loops
async def test_what_this_machine_lacks_is_told_as_its_own():
    """X15: no descriptor is no failure of the node."""
    async with serving(answering(page())) as port:
        with engine_of() as engine:
            seen = []
            with none_left():
                engine.start(target(port), seen.append)
                await until(lambda: seen)
            detail = "this machine could not connect: Too many open files"
            assert seen[0].outcome == Failed(Phase.LOCAL, detail)
            with none_left():
                alone = await probe(target(port), clock=time.monotonic)
            assert alone.outcome == Failed(Phase.LOCAL, detail)
            engine.start(target(port), seen.append)
            await until(lambda: len(seen) == 2)
            assert seen[1].outcome == Passed()


@pytest.mark.parametrize("turn", [1, -1])
@on_both_loops
async def test_what_a_node_does_at_one_address_says_more_than_what_we_lack_for_the_other(turn):
    """Else a Primary that is down, and has an IPv6 address as well, would never count as failed."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        both = [
            (socket.AF_INET, ("127.0.0.1", port)),
            (socket.AF_INET6, ("2001:db8::1", port, 0, 0)),  # no way there from an IPv4 source
        ]
        asked = target(port, host="node.example.com", source="127.0.0.1")
        seen = await probe(asked, clock=time.monotonic, resolve=lambda *_: both[::turn])
    assert seen.outcome == Failed(Phase.CONNECT_REFUSED, "Connection refused")


@pytest.mark.parametrize("when", ["at once", "while it waits"])
@on_both_loops
async def test_a_cancelled_attempt_says_nothing_and_leaves_nothing_open(when):
    async with serving(silent) as port:
        with engine_of() as engine:
            before = descriptors()
            seen = []
            for asked in (target(port, timeout_s=SHORT_S), target(80, host="169.254.0.1")):
                handle = engine.start(asked, seen.append)
                if when == "while it waits" and asked.port == port:
                    await until(lambda: descriptors() >= before + 2)
                handle.cancel()
                handle.cancel()
            await until(lambda: descriptors() <= before + 1)
            await asyncio.sleep(SHORT_S * 1.5)
            assert seen == []


@on_both_loops
async def test_a_callback_that_raises_disturbs_no_other_probe():
    told = []
    loop = asyncio.get_running_loop()
    old, seen = loop.get_exception_handler(), []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    async with serving(answering(page())) as port:
        with engine_of() as engine:
            for _ in range(5):
                engine.start(target(port), lambda observation: 1 / 0)
                engine.start(target(port), seen.append)
            await until(lambda: len(seen) == 5 and len(told) == 5)
    loop.set_exception_handler(old)
    assert all(isinstance(error, ZeroDivisionError) for error in told)


@on_both_loops
async def test_a_callback_may_start_cancel_and_close():
    async with serving(answering(page())) as port:
        with engine_of() as engine:
            seen, handles = [], []

            def done(observation):
                seen.append(observation)
                for handle in handles:
                    handle.cancel()
                if len(seen) == 1:
                    engine.start(target(port), done)
                else:
                    engine.close()

            handles += [engine.start(target(port), done) for _ in range(5)]
            await until(lambda: len(seen) == 2)
            await asyncio.sleep(0.05)
            assert [s.outcome for s in seen] == [Passed(), Passed()]


@on_both_loops
async def test_closing_ends_everything():
    async with serving(silent) as port:
        before, seen = descriptors(), []
        engine = Engine(time.monotonic)
        for _ in range(5):
            engine.start(target(port, timeout_s=SHORT_S), seen.append)
        await asyncio.sleep(0.05)
        engine.close()
        await until(lambda: descriptors() <= before)
        await asyncio.sleep(SHORT_S * 1.5)
        assert seen == []


@on_both_loops
async def test_each_of_many_deadlines_is_kept():
    """Short ones started after long ones, and all of them at the same time."""
    async with serving(silent) as port:
        with engine_of() as engine:
            seen = []
            limits = [0.5, 0.1, 0.3, 0.2, 0.4] * 10
            for limit in limits:
                asked = target(port, timeout_s=limit)
                engine.start(asked, lambda s, limit=limit: seen.append((limit, s)))
            await until(lambda: len(seen) == len(limits))
            assert [limit for limit, _ in seen] == sorted(limits)
            assert all(s.outcome.phase is Phase.TIMEOUT for _, s in seen)
            late = [s.ended_at - s.started_at - limit for limit, s in seen]
            assert min(late) >= -0.001
            assert sorted(late)[len(late) // 2] < 0.05  # half of them, on a loaded machine


@pytest.mark.parametrize(
    "answer", [page(), page(OK + b"\n" + b"x" * 60_000)], ids=["short", "long"]
)
@on_both_loops
async def test_an_answer_that_came_while_the_loop_was_away_is_no_timeout(answer):
    """Timers come before what the sockets have to say, where both are overdue."""
    asked, may_answer = threading.Event(), threading.Event()

    def serve(server):
        peer, _ = server.accept()
        with peer:
            peer.recv(4096)
            asked.set()
            may_answer.wait(LONG_S)
            peer.sendall(answer)

    with serving_beside(serve) as (port, thread), engine_of() as engine:
        ended = asyncio.get_running_loop().create_future()
        engine.start(target(port, timeout_s=2.0), ended.set_result)
        await until(asked.is_set)

        def stand_still():
            loop.remove_reader(heard)
            may_answer.set()
            thread.join()
            time.sleep(2.2)  # beyond the deadline

        loop = asyncio.get_running_loop()
        heard, word = socket.socketpair()
        with heard, word:
            loop.add_reader(heard, stand_still)
            word.send(b"x")
            seen = await asyncio.wait_for(ended, LONG_S)
        assert seen.outcome == Passed()
        assert seen.ended_at - seen.started_at >= 2.0


@pytest.mark.parametrize("away_s", [0.54, 0.8])
@on_both_loops
async def test_a_node_that_is_asked_only_when_the_loop_is_back_has_a_moment_to_answer(away_s):
    """Its connection was there in time; that nobody asked it anything was our doing (X15)."""

    def serve(server):
        peer, _ = server.accept()
        with peer, contextlib.suppress(ConnectionResetError):
            peer.recv(4096)
            time.sleep(0.05)  # as long as a node may take
            peer.sendall(page())
            peer.recv(1)

    with serving_beside(serve) as (port, _), engine_of() as engine:
        ended = asyncio.get_running_loop().create_future()
        engine.start(target(port, timeout_s=0.5), ended.set_result)
        time.sleep(away_s)  # noqa: ASYNC251 - beyond the deadline
        seen = await asyncio.wait_for(ended, LONG_S)
    assert seen.outcome == Passed()


@on_both_loops
async def test_a_loop_that_is_away_again_and_again_puts_no_deadline_off_for_ever():
    seen, turns = [], 0
    with socket.create_server(("127.0.0.1", 0)) as server, engine_of() as engine:
        engine.start(target(server.getsockname()[1], timeout_s=0.5), seen.append)
        while not seen and turns < 20:
            time.sleep(0.3)  # noqa: ASYNC251 - as a machine with too much to do
            await asyncio.sleep(0)
            turns += 1
    assert seen[0].outcome.phase is Phase.TIMEOUT
    assert turns <= 6


@on_both_loops
async def test_a_peer_that_sends_without_end_does_not_hold_the_deadlines_up():
    async def flood(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    async with serving(flood) as flooding, serving(silent) as quiet:
        with engine_of() as engine:
            engine.start(target(flooding), lambda seen: None)
            seen = []
            engine.start(target(quiet, timeout_s=SHORT_S), seen.append)
            await until(lambda: seen)
            assert seen[0].outcome.phase is Phase.TIMEOUT


@on_both_loops
async def test_what_is_over_is_not_remembered():
    async with serving(answering(page())) as port:
        with engine_of() as engine:
            asked = target(port)
            for _ in range(200):
                await ask(engine, asked)
            assert sum(map(len, engine._deadlines.values())) <= 64
            assert not any(engine._links)
            engine.keep_only([])
            assert engine._ways == {}


@on_both_loops
async def test_a_connection_that_is_dropped_again_leaves_the_next_with_its_number_alone():
    async with serving(silent) as port:
        with engine_of() as engine:
            first = engine.start(target(port), print)
            (old,) = filter(None, engine._links)
            first.cancel()
            engine.start(target(port), print)
            (new,) = filter(None, engine._links)
            assert new is not old
            assert new.fd == old.fd
            engine.drop(old)
            assert engine._links[new.fd] is new


@on_both_loops
async def test_an_attempt_begun_when_another_was_too_late_puts_off_no_deadline():
    async with serving(silent) as port:
        with engine_of() as engine:
            seen = []

            def too_late(_):
                engine.start(target(port), print)  # has LONG_S

            engine.start(target(port, timeout_s=SHORT_S), too_late)
            await asyncio.sleep(0.02)
            engine.start(target(port, timeout_s=SHORT_S), seen.append)
            await until(lambda: seen)
            assert seen[0].ended_at - seen[0].started_at < LONG_S / 2


# ------------------------------------------------------------------ the same answer again
@on_both_loops
async def test_an_answer_that_differs_in_anything_but_its_date_is_read_anew():
    dated = ["Date: Mon, 23 Nov 2026 00:00:00 GMT"]
    answers = {
        "good": (page(headers=dated), Passed()),
        "later": (page(headers=[dated[0].replace("00:00:00", "23:59:59")]), Passed()),
        "error": (page(BAD[: len(OK)], headers=dated), Phase.BODY),
        "code": (page(headers=dated).replace(b" 200 ", b" 500 "), Phase.STATUS),
        "cut": (page(headers=dated)[:-1], Phase.RESET),
        "folded": (
            page(headers=dated).replace(b"Mon, 23 Nov", b"M\r\nX: 23 Nov"),
            Passed(),
        ),
        "end in the date": (
            page(headers=dated).replace(b"Mon, 23 Nov 2026", b"M\r\n\r\n3 Nov 2026"),
            Passed(),
        ),
    }
    sent = []

    async def behave(reader, writer):
        await answering(sent[-1])(reader, writer)

    async with serving(behave) as port:
        with engine_of() as engine:
            asked = target(port)
            for name in ("good", "good", "later", "error", "good", "good", *answers, "later"):
                data, wanted = answers[name]
                sent.append(data)
                seen = await ask(engine, asked)
                outcome = seen.outcome
                got = outcome.phase if isinstance(outcome, Failed) else outcome
                assert got == wanted, name
                assert seen.head.startswith("3 Nov") == (name == "end in the date")


@on_both_loops
async def test_an_answer_of_another_length_is_read_whole_on_a_kept_connection():
    """As many bytes are asked for as came last time, and one: what is longer is read on."""
    texts = [OK, OK + b"\n", OK, OK + b"\n" + b"x" * 20_000, OK + b"\n", BAD, OK, OK[:-1]]

    async def behave(reader, writer):
        for text in texts[len(seen) :]:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(page(text))

    seen = []
    async with serving(behave) as port:
        with engine_of() as engine:
            for text in texts:
                seen.append(await ask(engine, target(port, connection="reuse")))
                assert seen[-1].body_sha256 == hashlib.sha256(text).hexdigest()
    failed = [isinstance(s.outcome, Failed) for s in seen]
    assert failed == [False] * 5 + [True, False, True]


@on_both_loops
async def test_the_same_answer_for_another_page_is_judged_for_that_page():
    async with serving(answering(page())) as port:
        with engine_of() as engine:
            for _ in range(3):
                assert (await ask(engine, target(port))).outcome == Passed()
                strict = await ask(engine, target(port, path="/hastatus.html"))
                assert strict.outcome == Passed()
                assert strict.code == 200
                assert len(strict.body_sha256) == 64


# ------------------------------------------------------------------ kept connections
class Keeping:
    """A server that keeps connections and counts what comes over each."""

    def __init__(self, answer=None, *, close_after=10_000, late=b""):
        self.counts = []
        self.answer = answer or page()
        self.close_after = close_after
        self.late = late

    async def __call__(self, reader, writer):
        number = len(self.counts)
        self.counts.append(0)
        while self.counts[number] < self.close_after:
            await reader.readuntil(b"\r\n\r\n")
            self.counts[number] += 1
            writer.write(self.answer)
            await writer.drain()
            if self.late:
                await asyncio.sleep(0.02)
                writer.write(self.late)


@on_both_loops
async def test_reuse_keeps_one_connection_and_dials_each_tenth_time():
    server = Keeping()
    async with serving(server) as port:
        with engine_of() as engine:
            asked = target(port, connection="reuse")
            for _ in range(2 * FRESH_EVERY):
                seen = await ask(engine, asked)
                assert (seen.outcome, seen.note) == (Passed(), "")
            assert server.counts == [FRESH_EVERY, FRESH_EVERY]


@on_both_loops
async def test_each_page_has_a_connection_of_its_own():
    server = Keeping()
    async with serving(server) as port:
        with engine_of() as engine:
            for path in ("/a", "/b", "/a", "/b"):
                assert (await ask(engine, target(port, path=path, connection="reuse"))).outcome
            assert server.counts == [2, 2]


@on_both_loops
async def test_fresh_never_keeps():
    server = Keeping()
    async with serving(server) as port:
        with engine_of() as engine:
            for _ in range(3):
                await ask(engine, target(port))
            assert server.counts == [1, 1, 1]


@on_both_loops
async def test_a_kept_connection_that_was_closed_is_dialled_again_and_said():
    """It stays one observation, and nothing is asked twice of a node that answered."""
    server = Keeping(close_after=1)
    async with serving(server) as port:
        with engine_of() as engine:
            asked = target(port, connection="reuse")
            outcomes = []
            for _ in range(3):
                outcomes.append((await ask(engine, asked)).outcome)
                await until(lambda: not any(engine._links))  # the close was noticed
            assert outcomes == [Passed()] * 3
            assert server.counts == [1, 1, 1]


async def close_on_second(reader, writer):
    """Close a connection when the second request is there: too late to be noticed before."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(page())
    await reader.readuntil(b"\r\n\r\n")


async def reset_on_second(reader, writer):
    await close_on_second(reader, writer)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("behave", [close_on_second, reset_on_second])
@on_both_loops
async def test_a_close_that_crosses_the_request_is_dialled_again(behave):
    async with serving(behave) as port:
        with engine_of() as engine:
            asked = target(port, connection="reuse")
            first, second, third = [await ask(engine, asked) for _ in range(3)]
            assert [s.outcome for s in (first, second, third)] == [Passed()] * 3
            assert first.note == ""
            assert second.note == "the kept connection had been closed; dialled again"


@on_both_loops
async def test_a_kept_connection_that_closes_within_an_answer_is_a_failure():
    """Some of an answer came: that is no idle close, and it is not asked again."""

    async def behave(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(page())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(page()[:-1])
        await writer.drain()

    async with serving(behave) as port:
        with engine_of() as engine:
            asked = target(port, connection="reuse")
            assert (await ask(engine, asked)).outcome == Passed()
            assert (await ask(engine, asked)).outcome.phase is Phase.RESET


@on_both_loops
async def test_dialling_again_happens_within_the_same_deadline():
    connections = []

    async def behave(reader, writer):
        connections.append(writer)
        if len(connections) > 1:
            await silent(reader, writer)
        await close_on_second(reader, writer)

    async with serving(behave) as port:
        with engine_of() as engine:
            asked = target(port, connection="reuse", timeout_s=SHORT_S)
            assert (await ask(engine, asked)).outcome == Passed()
            seen = await ask(engine, asked)
            assert seen.outcome.phase is Phase.TIMEOUT
            assert seen.note
            assert seen.ended_at - seen.started_at < LONG_S / 2


@pytest.mark.parametrize(
    "answer",
    {
        "close": page(headers=["Connection: close"]),
        "until-close": page(length=False),
        "http-1.0": page(version="1.0"),
        "garbage behind": page() + b"\x00garbage",
        "answer behind": page() + page(BAD),
    }.values(),
)
@on_both_loops
async def test_a_connection_that_cannot_be_trusted_is_not_kept(answer):
    server = Keeping(answer, close_after=1)
    async with serving(server) as port:
        with engine_of() as engine:
            for _ in range(3):
                seen = await ask(engine, target(port, connection="reuse"))
                assert (seen.outcome, seen.note) == (Passed(), "")
                assert not any(engine._links)


@on_both_loops
async def test_bytes_that_nobody_asked_for_end_a_kept_connection():
    """Or a late answer to one question would be taken for the answer to the next."""
    server = Keeping(late=page(BAD))
    async with serving(server) as port:
        with engine_of() as engine:
            for _ in range(3):
                assert (await ask(engine, target(port, connection="reuse"))).outcome == Passed()
                await until(lambda: not any(engine._links))
            assert server.counts == [1, 1, 1]


@pytest.mark.parametrize("late", [page(BAD), b""], ids=["bytes", "end"])
@on_both_loops
async def test_what_came_while_the_loop_stood_still_ends_a_kept_connection(late):
    """After a stall timers come first: a start must not find what nobody has looked at."""
    sent = threading.Event()

    def serve(server):
        first, _ = server.accept()
        with first:
            first.recv(4096)
            first.sendall(page())
            stalled.wait(LONG_S)
            if late:
                first.sendall(late)
            else:
                first.shutdown(socket.SHUT_WR)
            sent.set()
            second, _ = server.accept()
            with second:
                second.recv(4096)
                second.sendall(page())

    stalled = threading.Event()
    with serving_beside(serve) as (port, _), engine_of() as engine:
        asked = target(port, connection="reuse")
        assert (await ask(engine, asked)).outcome == Passed()
        stalled.set()
        assert sent.wait(LONG_S)  # the loop stands still until then
        time.sleep(0.1)  # noqa: ASYNC251 - and until the kernel has delivered it
        seen = await ask(engine, asked)
    assert seen.outcome == Passed()
    assert seen.note == "the kept connection had been closed; dialled again"


# ------------------------------------------------------------------ hostile peers
async def huge_body(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(page(b"", headers=["Content-Length: 50000000"], length=False))
    for _ in range(50):
        writer.write(b"x" * 1_000_000)
        await writer.drain()


async def huge_header(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(page(headers=["X: " + "x" * 1_000_000]))
    await writer.drain()


async def many_headers(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(page(headers=[f"X-{number}: x" for number in range(10_000)]))
    await writer.drain()


async def tiny_chunks(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(page(b"", headers=["Transfer-Encoding: chunked"], length=False))
    while True:
        writer.write(b"1\r\n\n\r\n" * 10_000)
        await writer.drain()


HOSTILE = [huge_body, huge_header, many_headers, tiny_chunks]


@pytest.mark.parametrize("behave", HOSTILE, ids=lambda b: b.__name__)
@on_both_loops
async def test_a_hostile_peer_costs_bounded_memory(behave):
    async with serving(behave) as port:
        with engine_of() as engine:
            tracemalloc.start()
            try:
                seen = await ask(engine, target(port))
                only = tracemalloc.take_snapshot().filter_traces(
                    [tracemalloc.Filter(True, "*/lb_probe/prober/*")]
                )
            finally:
                tracemalloc.stop()
            assert seen.outcome.phase is Phase.TOO_LARGE
            assert sum(stat.size for stat in only.statistics("filename")) < 1_000_000


@on_both_loops
async def test_hostile_peers_do_not_delay_the_others():
    """A good node answers long before its deadline while every other one floods or is silent."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(serving(b)) for b in [*HOSTILE, silent]]
        good = await stack.enter_async_context(serving(answering(page())))
        with engine_of() as engine:
            seen, bad = [], []
            for _ in range(5):
                for port in ports:
                    engine.start(target(port, timeout_s=2.0), bad.append)
                engine.start(target(good, timeout_s=2.0), seen.append)
            await until(lambda: len(seen) == 5 and len(bad) == 25)
            assert [s.outcome for s in seen] == [Passed()] * 5
            assert {s.outcome.phase for s in bad} <= {Phase.TOO_LARGE, Phase.TIMEOUT}
            assert max(s.ended_at - s.started_at for s in bad) < LONG_S / 2


# ------------------------------------------------------------------ inspect
@on_both_loops
async def test_an_inspection_tells_everything():
    raw = page(headers=["Server: x", "X-Two: 1", "X-Two: 2"])
    async with serving(answering(b"HTTP/1.1 100 Continue\r\n\r\n", raw, pause_s=0.02)) as port:
        names = Names(time.monotonic)
        asked = target(port, host="localhost", server_name=NAME, connection="reuse")
        report = await inspect(asked, clock=time.monotonic, names=names)
        names.close()
    assert report.observation.outcome == Passed()
    assert list(report.phases) == ["name", "connect", "first-byte", "body"]
    assert all(seconds >= 0 for seconds in report.phases.values())
    assert report.phases["body"] >= 0.01
    took = report.observation.ended_at - report.observation.started_at
    assert sum(report.phases.values()) == pytest.approx(took, abs=0.01)
    assert report.tls == {}
    wanted = (("Server", "x"), ("X-Two", "1"), ("X-Two", "2"), ("Content-Length", str(len(OK))))
    assert report.headers == wanted
    assert report.raw == b"HTTP/1.1 100 Continue\r\n\r\n" + raw
    assert report.address == f"127.0.0.1:{port}"
    assert f"Host: {NAME}\r\n".encode() in report.request


@on_both_loops
async def test_an_inspection_of_a_node_that_is_down_says_how_far_it_came():
    names = Names(time.monotonic)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        asked = target(bound.getsockname()[1])
        report = await inspect(asked, clock=time.monotonic, names=names)
    assert report.observation.outcome.phase is Phase.CONNECT_REFUSED
    assert list(report.phases) == ["name", "connect"]
    assert (report.headers, report.raw, report.address) == ((), b"", "")
    async with serving(huge_body) as port:
        report = await inspect(target(port), clock=time.monotonic, names=names)
    assert report.observation.outcome.phase is Phase.TOO_LARGE
    assert 64 * 1024 < len(report.raw) <= 96 * 1024
    names.close()
