"""Names are looked up in the background, and the last good answer is kept."""

import asyncio
import contextlib
import socket
import threading

import pytest
from raw_server import LONG_S, SHORT_S, answering, on_both_loops, page, serving, target, until

from lb_probe.core.model import Failed, Passed, Phase
from lb_probe.prober.http_probe import Engine, probe
from lb_probe.prober.names import (
    REFRESH_S,
    STALE_S,
    Found,
    NameFailedError,
    Names,
    denied,
    literal,
    resolve,
)

FIRST = ((socket.AF_INET, ("127.0.0.1", 80)),)
SECOND = ((socket.AF_INET, ("127.0.0.2", 80)),)


class Resolver:
    """Gives the answers it is told to; an event is waited for first, an exception raised."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def __call__(self, host, port):
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, threading.Event):
            answer.wait(LONG_S)
            answer = self.answers[host]
            answer = FIRST if isinstance(answer, threading.Event) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@contextlib.contextmanager
def names_of(**answers):
    resolver, clock = Resolver(**answers), Clock()
    names = Names(clock, resolve=resolver)
    try:
        yield names, resolver, clock
    finally:
        for answer in resolver.answers.values():
            if isinstance(answer, threading.Event):
                answer.set()
        names.close()


async def first(names, host):
    """Return what is known of a name, or wait for it."""
    later = asyncio.get_running_loop().create_future()
    found = names.find(host, 80, later.set_result)
    return found or await asyncio.wait_for(later, LONG_S)


@on_both_loops
async def test_a_name_is_looked_up_once_and_then_known():
    with names_of(a=FIRST) as (names, resolver, _):
        assert await first(names, "a") == Found(FIRST)
        assert names.find("a", 80, print) == Found(FIRST)
        assert resolver.asked == ["a"]


@on_both_loops
async def test_a_known_address_is_used_while_it_is_looked_up_again():
    with names_of(a=FIRST) as (names, resolver, clock):
        await first(names, "a")
        resolver.answers["a"] = SECOND
        clock.now += REFRESH_S - 1
        assert names.find("a", 80, print) == Found(FIRST)
        assert resolver.asked == ["a"]
        clock.now += 1
        assert names.find("a", 80, print) == Found(FIRST)
        await until(lambda: names.find("a", 80, print) == Found(SECOND))
        assert resolver.asked == ["a", "a"]


@on_both_loops
async def test_a_known_address_outlives_a_resolver_that_fails_and_is_said_to_be_old():
    with names_of(a=FIRST) as (names, resolver, clock):
        await first(names, "a")
        resolver.answers["a"] = NameFailedError("a: no servers could be reached")
        clock.now += STALE_S - 1
        assert names.find("a", 80, print) == Found(FIRST)
        await until(lambda: len(resolver.asked) == 2)
        clock.now += 2
        await until(lambda: "no servers" in names.find("a", 80, print).note)
        clock.now += 86_400
        old = names.find("a", 80, print)
        assert old.endpoints == FIRST
        assert old.note == "address of a is 86701s old; a: no servers could be reached"


@on_both_loops
async def test_a_name_that_hangs_is_asked_for_once_and_holds_up_no_other():
    hanging = {f"hang{number}": threading.Event() for number in range(8)}
    with names_of(a=FIRST, **hanging) as (names, resolver, clock):
        for name in hanging:
            for _ in range(3):
                assert names.find(name, 80, print) is None
        assert await first(names, "a") == Found(FIRST)
        clock.now += REFRESH_S
        assert names.find("hang0", 80, print) is None
        assert sorted(resolver.asked) == sorted(["a", *hanging])


@on_both_loops
async def test_a_first_look_up_that_fails_is_told_to_all_who_wait_and_tried_again():
    with names_of(a=threading.Event()) as (names, resolver, _):
        told, gone = [], []
        for take in (told.append, told.append, gone.append):
            assert names.find("a", 80, take) is None
        names.give_up("a", 80, gone.append)
        await until(lambda: resolver.asked)
        event, resolver.answers["a"] = resolver.answers["a"], OSError("a: broken")
        event.set()
        await until(lambda: told)
        assert told == [Found(failure="a: broken")] * 2
        assert gone == []
        resolver.answers["a"] = FIRST
        assert await first(names, "a") == Found(FIRST)


@on_both_loops
async def test_an_answer_that_comes_too_late_for_one_probe_serves_the_next():
    with names_of(**{"node.invalid": threading.Event()}) as (names, resolver, _):
        async with serving(answering(page())) as port:
            loop = asyncio.get_running_loop()
            engine = Engine(loop.time, names=names)
            seen = []
            asked = target(port, host="node.invalid", timeout_s=SHORT_S)
            engine.start(asked, seen.append)
            await until(lambda: seen)
            assert seen[0].outcome.phase is Phase.NAME
            event = resolver.answers["node.invalid"]
            resolver.answers["node.invalid"] = ((socket.AF_INET, ("127.0.0.1", port)),)
            event.set()
            await until(lambda: names.find("node.invalid", port, print) is not None)
            engine.start(target(port, host="node.invalid"), seen.append)
            await until(lambda: len(seen) == 2)
            assert seen[1].outcome == Passed()
            engine.close()


@on_both_loops
async def test_an_old_address_is_noted_in_the_observation():
    async with serving(answering(page())) as port:
        good = ((socket.AF_INET, ("127.0.0.1", port)),)
        with names_of(**{"node.invalid": good}) as (names, resolver, clock):
            engine = Engine(asyncio.get_running_loop().time, names=names)
            seen = []
            for number in (1, 2):
                engine.start(target(port, host="node.invalid"), seen.append)
                await until(lambda number=number: len(seen) == number)
                clock.now += STALE_S + 1
                resolver.answers["node.invalid"] = OSError("gone")
            assert [s.outcome for s in seen] == [Passed(), Passed()]
            assert seen[0].note == ""
            assert seen[1].note.startswith("address of node.invalid is 301s old")
            engine.close()


# ------------------------------------------------------------------ which addresses
@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%lo",
        "febf::1",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "100.100.100.200",
    ],
)
@on_both_loops
async def test_link_local_and_metadata_addresses_are_never_connected_to(address):
    """Neither as they are nor behind a name."""
    seen = await probe(target(80, host=address, host_header="a"), clock=Clock())
    assert seen.outcome.phase is Phase.NAME
    assert "link-local or metadata address" in seen.outcome.detail
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    asked = target(80, host="node.invalid")
    seen = await probe(asked, clock=Clock(), resolve=lambda *_: [(family, (address, 80))])
    assert seen.outcome.phase is Phase.NAME
    assert f"node.invalid: {address} is a link-local" in seen.outcome.detail


@on_both_loops
async def test_a_denied_address_is_left_out_beside_a_good_one():
    async with serving(answering(page())) as port:
        both = [(socket.AF_INET6, ("fe80::1", port)), (socket.AF_INET, ("127.0.0.1", port))]
        asked = target(port, host="node.invalid")
        assert (await probe(asked, clock=Clock(), resolve=lambda *_: both)).outcome == Passed()


def test_all_other_addresses_are_taken():
    for address in ("127.0.0.1", "10.0.0.1", "192.0.2.1", "::1", "fd00::1", "2001:db8::1"):
        assert denied(address) == ""


def test_addresses_are_not_looked_up():
    assert literal("127.0.0.1", 80) == (socket.AF_INET, ("127.0.0.1", 80))
    assert literal("::1", 80) == (socket.AF_INET6, ("::1", 80, 0, 0))
    assert literal("localhost", 80) is None
    with pytest.raises(NameFailedError, match="link-local"):
        literal("fe80::1%eth0", 80)


def test_a_name_gives_one_address_of_each_family(monkeypatch):
    found = [
        (socket.AF_INET6, 1, 6, "", ("::1", 80, 0, 0)),
        (socket.AF_INET6, 1, 6, "", ("::2", 80, 0, 0)),
        (socket.AF_INET, 1, 6, "", ("127.0.0.1", 80)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    assert resolve("example.invalid", 80) == (
        (socket.AF_INET6, found[0][4]),
        (socket.AF_INET, found[2][4]),
    )


@pytest.mark.parametrize("answer", [[], TypeError("a bug"), [(socket.AF_INET, ("nonsense", 80))]])
@on_both_loops
async def test_whatever_a_resolver_does_is_a_failure_of_the_name(answer):
    with names_of(**{"node.invalid": answer}) as (_, resolver, clock):
        seen = await probe(target(80, host="node.invalid"), clock=clock, resolve=resolver)
    assert isinstance(seen.outcome, Failed)
    assert seen.outcome.phase is Phase.NAME
    assert seen.outcome.detail


# ------------------------------------------------------------------ IPv6
@pytest.fixture
def ipv6_port():
    """A port of ::1 that answers one probe; the first, and then no more."""
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on loopback")

    def answer():
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(page())

    with server:
        server.settimeout(LONG_S)
        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("host", ["::1", "node.invalid"])
@on_both_loops
async def test_ipv6_works_by_address_and_by_name(ipv6_port, host):
    def ipv6_only(_, port):
        return [(socket.AF_INET6, ("::1", port, 0, 0))]

    asked = target(ipv6_port, host=host)
    assert (await probe(asked, clock=Clock(), resolve=ipv6_only)).outcome == Passed()


@on_both_loops
async def test_a_machine_without_threads_fails_the_name_and_nothing_else():
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    with names_of(a=FIRST) as (names, _, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        assert await first(names, "a") == Found(failure="can't start new thread")
        patch.undo()
        assert await first(names, "a") == Found(FIRST)
