"""Keys, pins and the connection between two agents: who is let in, and who is told what."""

import asyncio
import gc
import json
import select
import socket
import ssl
import warnings
from contextlib import asynccontextmanager, suppress

import pytest
from free_ports import free_port
from loopback import listening, port_of
from watched_peer import watched

from lb_probe.agent.trust import door, part
from lb_probe.agent.trust.door import Door
from lb_probe.agent.trust.identity import Keys
from lb_probe.agent.trust.link import LinkError
from lb_probe.agent.trust.wire import Wire, WireError, connect, make_context


async def test_agents_that_pinned_each_other_reach_each_other(pair, eventually):
    """R77: both directions, each named; a report is of who was asked."""
    async with pair() as two:
        await eventually(lambda: _ways(two.a) == {"a -> b": True, "b -> a": True})
        await eventually(lambda: _ways(two.b) == {"a -> b": True, "b -> a": True})
        report = await two.a.trust.links["b"].report()
        assert (report.node, report.mode.value) == ("b", "standby")
        stamps = report.clock
        assert stamps.asked_at <= stamps.heard_at <= stamps.answered_at <= stamps.received_at
        listed = await two.a.ask("trust-list")
        assert [pin["name"] for pin in listed["pins"]] == ["b"]
        assert listed["pins"][0]["fingerprint"] == await two.b.fingerprint()
        assert listed["missing"] == []
        (event,) = two.a.sink.named("agent.trust-changed")
        assert (event.fields["change"], event.fields["peer"]) == ("added", "b")
        audit = (two.a.folder / "a.json.audit.jsonl").read_text()
        assert "trust-add" in audit
        assert "setup" in audit


async def test_trust_in_one_direction_only_is_named_by_direction(pair, eventually):
    """R77: no trust on first use, and the side that lacks it is named."""
    async with pair(trusting=False) as two:
        for agent in (two.a, two.b):
            await eventually(lambda agent=agent: agent.trust.standings != {})
        await two.a.add(two.b)
        with pytest.raises(LinkError) as there:
            await two.a.trust.links["b"].report()
        assert there.value.phase == "their-trust"
        assert str(there.value).startswith("a -> b: found that our key is not pinned there;")
        assert "b does not trust a" in str(there.value)
        with pytest.raises(LinkError) as here:
            await two.b.trust.links["a"].report()
        assert here.value.phase == "our-trust"
        assert "b does not trust a" in str(here.value)
        shown = (await two.a.ask("status"))["trust"]["peers"][0]["ways"]
        assert shown[0]["way"] == "a -> b"
        assert (shown[0]["open"], shown[0]["phase"]) == (False, "their-trust")
        assert shown[1]["open"] is None
        await eventually(lambda: bool(two.b.sink.named("agent.peer-refused")))
        await two.b.add(two.a)
        await eventually(lambda: _ways(two.a) == {"a -> b": True, "b -> a": True})


async def test_a_stranger_and_a_wrong_key_get_nothing(pair, tmp_path):
    """R78: neither no certificate, nor one of another key under the right name, nor a replay."""
    async with pair() as two:
        forged = Keys(tmp_path / "forged", "a")  # says that it is a, with a key of its own
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
        shown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        shown.check_hostname, shown.verify_mode = False, ssl.CERT_NONE
        shown.load_cert_chain(forged.path)
        for context in (plain, shown, None):
            assert await _asked(two.b.port, context) == b""
        recorded = await _record(two)
        assert recorded[0] == 0x16  # a TLS handshake, as a real one went over the wire
        reader, writer = await asyncio.open_connection("127.0.0.1", two.b.port)
        writer.write(recorded)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert b"answer" not in answer
        assert two.b.trust.door.strangers >= 4
        assert (await two.a.trust.links["b"].report()).node == "b"


async def test_a_key_is_rotated_with_overlap_and_the_old_one_revoked(pair, eventually):
    """R78: the next key is pinned beside the old one before it is used; then the old one goes."""
    async with pair() as two:
        old = await two.a.fingerprint()
        made = await two.a.ask("trust-rotate")
        following = made["next"]
        assert following not in {None, old}
        refused = await two.a.ask("trust-rotate", finish=True)
        assert refused["error"] == "refused"
        assert refused["gates"][0]["id"] == "peers-know-next"
        assert "b does not know" in refused["gates"][0]["found"]
        export = (await two.a.ask("trust-export"))["export"]
        await two.b.ask("trust-add", export=export, fingerprint=following)
        assert len((await two.b.ask("trust-list"))["pins"]) == 2
        third = await two.b.ask("trust-add", export=_other_key(two, "a"), fingerprint=_PRINT[0])
        assert "found 2 keys of a already" in third["detail"]
        assert (await two.a.ask("trust-rotate", finish=True))["fingerprint"] == following
        assert (await two.a.trust.links["b"].report()).node == "b"
        gone = await two.b.ask("trust-revoke", peer="a", fingerprint=old)
        assert [pin["fingerprint"] for pin in gone["revoked"]] == [old]
        assert (await two.a.trust.links["b"].report()).node == "b"
        assert two.a.post.told("trust") == []
        # What was there is missed; what was never seen to be there is still being set up.
        await eventually(lambda: two.a.trust.standings["b"].outward.is_open is True)
        await two.b.ask("trust-revoke", peer="a")
        await eventually(lambda: two.a.post.told("trust") == ["open"])
        with pytest.raises(LinkError, match="b does not trust a"):
            await two.a.trust.links["b"].report()
        assert (await two.b.ask("trust-revoke", peer="a"))["error"] == "failed"
        await two.b.add(two.a)
        await eventually(lambda: two.a.post.told("trust") == ["open", "over"])


_PRINT: list[str] = []


def _other_key(two, name):
    keys = Keys(two.a.folder / f"other-{name}-{len(_PRINT)}", name)
    _PRINT[:] = [keys.current.fingerprint]
    return keys.export()


async def test_a_revoked_key_ends_connections_that_are_open(pair):
    """R78: a pin may go while its connection is open; and what OpenSSL takes is looked up again."""
    async with pair() as two:
        sock = await connect("127.0.0.1", two.b.port, 5.0)
        async with Wire(sock, two.a.trust.ring.client("b"), is_server=False) as wire:
            await wire.shake_hands()
            await wire.say({"ask": "clock"})
            assert "answer" in await wire.hear()
            await two.b.ask("trust-revoke", peer="a")
            await wire.say({"ask": "clock"})
            assert await wire.hear() is None
        ring = two.a.trust.ring
        unknown = make_context(ring.keys.path, ring.pins.all, lambda key: "", is_server=False)
        await two.b.add(two.a)
        sock = await connect("127.0.0.1", two.b.port, 5.0)
        async with Wire(sock, unknown, is_server=False) as wire:
            with pytest.raises(WireError, match="wanted a pinned one"):
                await wire.shake_hands()


async def test_a_key_has_one_node_and_a_node_of_the_group(pair):
    """R75: neither our own key, nor one under two names, nor a node that probes.yaml has not."""
    async with pair() as two:
        own = (await two.a.ask("trust-export"))["export"]
        for export, fingerprint, detail in (
            (own, await two.a.fingerprint(), "found the key of a itself"),
            (_other_key(two, "c"), _PRINT[0], "wanted one of: b (probes.yaml)"),
            (own, "sha256:" + "0" * 64, "read the fingerprint from the other node itself"),
            ("nothing", "sha256:1", "found no certificate"),
            (own[:-200], await two.a.fingerprint(), "found no certificate"),
            ("é" + own, await two.a.fingerprint(), "found no export"),
        ):
            answer = await two.a.ask("trust-add", export=export, fingerprint=fingerprint)
            assert detail in answer["detail"], answer
        assert len((await two.a.ask("trust-list"))["pins"]) == 1
        again = await two.a.add(two.b)
        assert again["changed"] is False


async def test_a_broken_file_of_pins_costs_trust_and_no_page(pair, eventually):
    """A corrupt file: named, nothing trusted, the node goes on, and a repair is taken up."""
    async with pair() as two:
        await two.end("a")
        pins = two.a.folder / "a.trust" / "pins.json"
        good = pins.read_text()
        for bad in ("{", "[]", good.replace('"a"', '"x"'), good.replace("sha256:", "sha256:0")):
            pins.write_text(bad)
            two.start("a")
            await eventually(lambda: bool(two.a.sink.named("agent.trust-failed")))
            shown = await two.a.ask("status")
            assert shown["pages"]["status"]["code"] == 200
            assert "put back a copy" in shown["trust"]["fault"]
            assert (await two.a.ask("trust-list"))["error"] == "failed"
            with pytest.raises(LinkError, match="a -> b"):
                await two.a.trust.links["b"].report()
            await two.end("a")
            two.a.sink.events.clear()
        key = two.a.folder / "a.trust" / "key.pem"
        pins.write_text(good)
        key.chmod(0o644)
        two.start("a")
        await eventually(lambda: bool(two.a.sink.named("agent.trust-failed")))
        assert "found mode 0644; wanted 0600" in (await two.a.ask("status"))["trust"]["fault"]
        key.chmod(0o600)
        await two.end("a")
        two.start("a")
        await eventually(lambda: bool(two.a.parts) and not two.a.trust.ring.fault)
        assert (await two.a.trust.links["b"].report()).node == "b"


async def test_an_address_that_is_taken_costs_trust_and_no_page(pair, eventually, monkeypatch):
    """It is tried again for ever, and told once."""
    monkeypatch.setattr(part, "_AGAIN_S", 0.3)
    async with pair() as two:
        await two.end("b")
        tries = []

        async def listen(door):
            tries.append(door)
            await run(door)

        run = Door.run
        monkeypatch.setattr(Door, "run", listen)

        async def hang_up(reader, writer):
            pass

        async with listening(hang_up, port=two.b.port):
            two.start("b")
            await eventually(lambda: bool(two.b.sink.named("agent.trust-failed")))
            shown = await two.b.ask("status")
            assert shown["pages"]["hastatus"]["code"] == 200
            assert "free the address or change `trust.listen`" in shown["trust"]["fault"]
            await eventually(lambda: len(tries) >= 3)
            assert len(two.b.sink.named("agent.trust-failed")) == 1
        await eventually(lambda: not two.b.trust.ring.fault)


async def test_questions_that_nobody_asks_are_answered_without_harm(pair):
    """A pinned peer that sends nonsense gets a sentence or an end, and the door stays open."""
    async with pair() as two:
        link = two.a.trust.links["b"]
        for question in ({"ask": "reboot"}, {"ask": ["report"]}, {}, {"ask": None}):
            with pytest.raises(LinkError, match="found a refusal: found question"):
                await link.ask_all([question])
        with pytest.raises(LinkError):
            await link.ask("report", more="x" * 300_000)
        assert (await link.report()).node == "b"
        assert len(await link.ask_all([{"ask": "clock"}] * 16)) == 16
        with pytest.raises(LinkError, match="found the end of the connection"):
            await link.ask_all([{"ask": "clock"}] * 17)


async def test_many_silent_strangers_do_not_keep_a_peer_out(pair):
    """Whoever is let in takes the place of the oldest handshake that does not move."""
    async with pair() as two:
        silent = [await asyncio.open_connection("127.0.0.1", two.b.port) for _ in range(100)]
        try:
            assert (await two.a.trust.links["b"].report()).node == "b"
        finally:
            for _, writer in silent:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_connection_that_is_ended_before_it_began_is_closed(pair, eventually, monkeypatch):
    """Those that come at once are let in at once, and some must go before they had a turn."""
    monkeypatch.setattr(door, "_MOST", 2)
    async with pair() as two:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ResourceWarning)
            # All of them wait in the kernel before our loop looks.
            silent = [socket.create_connection(("127.0.0.1", two.b.port)) for _ in range(12)]
            try:
                await eventually(lambda: silent[9] in select.select(silent, [], [], 0)[0])
            finally:
                for sock in silent:
                    sock.close()
        assert [str(one.message) for one in told if "unclosed" in str(one.message)] == []


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_as_the_door_is_ended_is_closed(tmp_path, clock, turns):
    """In whatever turn of the loop the end meets it."""
    port = free_port()
    key = Keys(tmp_path / "b", "b").path
    context = make_context(key, (), lambda found: "", is_server=True)
    shut = Door(("127.0.0.1", port), lambda: context, clock, came=print, refused=print)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        running = asyncio.ensure_future(shut.run())
        await asyncio.sleep(0)
        with socket.create_connection(("127.0.0.1", port)) as late:
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            gc.collect()
            late.settimeout(5)
            with suppress(ConnectionResetError):
                assert late.recv(1) == b""
    assert [str(one.message) for one in told if "unclosed" in str(one.message)] == []


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"answer": {"report": {"version_of_report": 1, "node": "x"}}}, "the report of 'x'"),
        ({"answer": {"report": {"version_of_report": 1, "node": "b", "mode": "king"}}}, "mode"),
        ({"answer": {"report": []}}, "found no JSON object"),
        ({"answer": []}, "found a refusal: nothing"),
        ({"error": "go\x1b[31m away"}, "found a refusal: go\ufffd[31m away"),
        ({"answer": {}, "heard_at": True}, "found an answer with heard_at 'True'"),
        ({"answer": {}, "heard_at": 1e300}, "wanted UTC seconds"),
        ({"answer": {}, "heard_at": 10**400}, "wanted UTC seconds"),
        (b"[" * 70_000, "found no JSON"),
        (b'{"answer": {}, "heard_at": NaN}', "found no JSON (NaN is no number)"),
        (b"7", "found no JSON object"),
        (b"x" * 300_000, "found more than 262144 bytes on one line"),
        (None, "found the end of the connection"),
    ],
)
async def test_a_pinned_peer_that_talks_nonsense_is_a_fault_with_words(pair, answer, found):
    """A peer that lies about its name or its clock, or is broken, is not believed."""
    async with pair() as two:
        await two.end("b")
        async with _impostor(two, answer):
            with pytest.raises(LinkError) as caught:
                await two.a.trust.links["b"].report()
        assert str(caught.value).startswith("a -> b: ")
        assert found in str(caught.value)


# ------------------------------------------------------------------ what tests share
def _ways(agent):
    view = agent.trust.status()["peers"][0]["ways"]
    return {one["way"]: one["open"] for one in view}


async def _asked(port, context):
    """Ask as somebody else would, and return what comes of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if context is not None:
            await writer.start_tls(context, server_hostname="x")
        writer.write(b'{"ask": "report"}\n')
        return await asyncio.wait_for(reader.read(), 20)
    except (OSError, ssl.SSLError):
        return b""
    finally:
        writer.transport.abort()


async def _record(two):
    """Return the bytes that a real client sent, through a proxy that kept them."""
    sent = bytearray()

    async def proxy(reader, writer):
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", two.b.port)

        async def pump(source, sink, keep):
            while data := await source.read(65536):
                if keep is not None:
                    keep.extend(data)
                sink.write(data)
            sink.write_eof()

        try:
            await asyncio.gather(pump(reader, to_writer, sent), pump(to_reader, writer, None))
        finally:
            to_writer.close()

    async with listening(proxy) as server:
        link = two.a.trust.links["b"]
        there, link.address = link.address, ("127.0.0.1", port_of(server))
        try:
            await link.report()
        finally:
            link.address = there
    return bytes(sent)


@asynccontextmanager
async def _impostor(two, answer):
    """Serve with b's own key, in its place, whatever a test wants it to say."""
    context = two.b.trust.ring.server()

    async def behave(reader, writer):
        await reader.readline()
        if answer is None:
            return
        stamps = {"heard_at": 1.0, "answered_at": 1.0}
        line = answer if isinstance(answer, bytes) else json.dumps(stamps | answer).encode()
        writer.write(line + b"\n")
        await writer.drain()

    async with listening(behave, port=two.b.port, ssl=context):
        yield


async def test_the_clock_of_a_peer_whose_agent_is_silent_is_read_off_its_page(
    pair, eventually, clock
):
    """R11: the fallback, and back to the four stamps as soon as they can be had."""
    async with watched() as page:
        page.date_ahead_s = 30.0

        async def by_page(name):
            assert name == "b"
            return await page.pages(clock).clock(clock.wall)

        def change(found):
            found.page_clock = by_page

        async with pair(change) as found:

            def shown():
                (peer,) = found.a.trust.status()["peers"]
                return peer["clock"]

            await eventually(lambda: shown()["by"] == "stamps")
            assert shown()["severity"] == "ok"
            await found.end("b")
            await eventually(lambda: shown()["by"] == "date")
            assert shown()["severity"] == "error"
            assert abs(shown()["offset_s"] - 30.0) <= shown()["bound_s"] + 0.1
            page.die()
            await eventually(lambda: shown()["severity"] == "unknown")
            found.start("b")
            await eventually(lambda: shown()["by"] == "stamps")
