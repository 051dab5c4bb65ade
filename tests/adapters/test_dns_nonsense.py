"""What the DNS adapter makes of servers that answer anything at all."""

import asyncio
import socket

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import dns.tsig
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import listening, port_of
from name_servers import KEY, RECORD, mover

from lb_probe.ports import PublishError, Unreachable

SHORT_S = 0.3
LONG_S = 20.0


def framed(wire):
    return len(wire).to_bytes(2, "big") + wire


def server(answer):
    """Return a behaviour: `answer(question)` gives the bytes for each message that came."""

    async def behave(reader, writer):
        while True:
            wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            reply = answer(dns.message.from_wire(wire, keyring={KEY.to_dns().name: KEY.to_dns()}))
            if reply is None:
                return
            writer.write(reply)
            await writer.drain()

    return behave


def says(query, *addresses, rcode=dns.rcode.NOERROR, flags=dns.flags.AA):
    """Return an honest answer: addresses for A, nothing for all else."""
    answer = dns.message.make_response(query)
    answer.flags |= flags
    answer.set_rcode(rcode)
    if query.question[0].rdtype.name == "A" and addresses:
        answer.answer.append(dns.rrset.from_text(f"{RECORD}.", 30, "IN", "A", *addresses))
    return answer


def honest(query):
    return framed(says(query, "192.0.2.10").to_wire())


async def read(answer, **more):
    async with listening(server(answer)) as found:
        return await mover(
            ("127.0.0.1", port_of(found)), **{"timeout_s": LONG_S} | more
        ).read_back()


async def test_an_honest_answer_is_understood():
    assert (await read(honest)).node == "epmm-a"


def other_question(query):
    query.question[0].name = dns.name.from_text("other.example.test")
    return honest(query)


def other_id(query):
    query.id += 77
    return honest(query)


NONSENSE = {
    "text": lambda q: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30000,
    "no bytes": lambda q: framed(b""),
    "half a header": lambda q: framed(honest(q)[2:9]),
    "a cut body": lambda q: framed(honest(q)[2:-3]),
    "more behind it": lambda q: framed(honest(q)[2:] + b"more"),
    "a loop of names": lambda q: framed(honest(q)[2:14] + b"\xc0\x0c\x00\x01\x00\x01"),
    "the question": lambda q: framed(q.to_wire()),
    "another question": other_question,
    "another id": other_id,
    "truncated": lambda q: framed(says(q, flags=dns.flags.AA | dns.flags.TC).to_wire()),
    "no authority": lambda q: framed(says(q, "192.0.2.10", flags=0).to_wire()),
    "refused": lambda q: framed(says(q, rcode=dns.rcode.REFUSED).to_wire()),
    "servfail": lambda q: framed(says(q, rcode=dns.rcode.SERVFAIL).to_wire()),
    "a signature": lambda q: framed(signed(says(q, "192.0.2.10")).to_wire()),
}


def signed(answer):
    answer.use_tsig(KEY.to_dns())
    return answer


@pytest.mark.parametrize("kind", NONSENSE)
async def test_nonsense_is_an_error_with_words_and_no_reading(kind):
    with pytest.raises(PublishError, match=r"^gslb: 127\.0\.0\.1:\d+: ") as caught:
        await read(NONSENSE[kind])
    assert not isinstance(caught.value, Unreachable)


async def test_an_answer_that_ends_too_soon_is_no_answer():
    def ending_after(count):
        async def behave(reader, writer):
            await reader.readexactly(2)
            writer.write(framed(b"x" * 40)[:count])
            await writer.drain()

        return behave

    for count in (0, 1, 2, 20):
        async with listening(ending_after(count)) as found:
            edge = mover(("127.0.0.1", port_of(found)))
            with pytest.raises(Unreachable, match=r"before a whole answer|reset by peer"):
                await edge.read_back()


async def test_silence_ends_at_the_deadline():
    with pytest.raises(Unreachable, match=r"no answer within 0\.3s"):
        await read(lambda q: b"", timeout_s=SHORT_S)


async def test_a_drop_at_a_time_does_not_outlast_the_deadline():
    async def dribble(reader, writer):
        while True:
            writer.write(b"\x00")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with listening(dribble) as found:
        edge = mover(("127.0.0.1", port_of(found)), timeout_s=SHORT_S)
        async with asyncio.timeout(10):
            with pytest.raises(PublishError):
                await edge.read_back()


@given(noise=st.binary(max_size=80), at=st.integers(0, 60))
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
def test_bytes_that_were_changed_never_break_a_promise(noise, at):
    def damaged(query):
        wire = bytearray(honest(query)[2:])
        wire[at : at + len(noise)] = noise
        return framed(bytes(wire))

    async def ask():
        try:
            return (await read(damaged, timeout_s=SHORT_S)).detail
        except PublishError as error:
            return str(error)

    assert asyncio.run(ask()).isprintable()


# ------------------------------------------------------------------ updates
def at_update(answer):
    """Answer questions honestly, and updates so."""
    return lambda query: answer(query) if query.opcode().name == "UPDATE" else honest(query)


def update_reply(query, rcode=dns.rcode.NOERROR):
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    return framed(reply.to_wire())


async def publish(answer, **more):
    async with listening(server(at_update(answer))) as found:
        edge = mover(("127.0.0.1", port_of(found)), **{"timeout_s": LONG_S} | more)
        await edge.publish("epmm-b")


async def test_an_update_that_is_answered_is_accepted():
    await publish(update_reply)


@pytest.mark.parametrize(
    ("rcode", "told"),
    [
        (dns.rcode.REFUSED, "a policy that grants this key the record and its TXT"),
        (dns.rcode.NOTAUTH, "does not serve zone example.test as a master"),
        (dns.rcode.NOTZONE, "found a name outside zone example.test"),
        (dns.rcode.SERVFAIL, "often it may not write the zone's file or journal"),
        (dns.rcode.NOTIMP, "takes no updates at all"),
        (dns.rcode.FORMERR, "found FORMERR; wanted NOERROR"),
    ],
)
async def test_a_refusal_says_what_helps(rcode, told):
    with pytest.raises(PublishError, match=told):
        await publish(lambda query: update_reply(query, rcode))


async def test_noerror_without_a_signature_is_not_believed():
    def unsigned(query):
        reply = dns.message.make_response(query)
        reply.tsig = None
        return framed(reply.to_wire())

    with pytest.raises(PublishError, match=r"without a signature.*compare `tsig`"):
        await publish(unsigned)


@pytest.mark.parametrize("ending", ["silence", "close", "cut", "nonsense"])
async def test_an_update_without_a_whole_answer_is_unknown_and_no_unreachable(ending):
    replies = {
        "silence": lambda q: b"",
        "close": lambda q: None,
        "cut": lambda q: update_reply(q)[:9],
        "nonsense": lambda q: framed(b"\x00" * 40),
    }
    with pytest.raises(PublishError) as caught:
        await publish(replies[ending], timeout_s=SHORT_S)
    assert not isinstance(caught.value, Unreachable)
    if ending in ("silence", "close"):
        assert "the update was sent; whether it was carried out is read next" in str(caught.value)


async def test_nobody_listening_is_unreachable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        edge = mover(taken.getsockname())
        with pytest.raises(Unreachable, match=r"Connect call failed|refused"):
            await edge.publish("epmm-a")
        with pytest.raises(Unreachable):
            await edge.read_back()
