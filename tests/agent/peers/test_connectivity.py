"""Tests of the connection: each port as far as it goes, each direction by name, and the gate."""

import asyncio
import json
import ssl
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from firewall import accepting_then_resetting, between
from free_ports import free_port
from loopback import listening, port_of
from ssh_server import sshd

from lb_probe.agent.connectivity.ports import Pace, Tried, attempt, compared
from lb_probe.agent.connectivity.results import Results, from_peer
from lb_probe.agent.trust.kept import KeptError

PACE = Pace(timeout_s=2.0, pause_s=0.1)


@pytest.fixture(scope="module")
def ssh_server():
    with sshd() as found:
        yield found


@pytest.fixture(scope="module")
def other_ssh_server():
    with sshd() as found:
        yield found


def at(port, kind):
    return Tried("127.0.0.1", port, kind)


# ------------------------------------------------------------------ SSH
async def test_ssh_is_talked_to_beyond_its_greeting(ssh_server, clock):
    """R33: three exchanges over time with a real sshd, and the host key that ssh-keygen prints."""
    port, host_key = ssh_server
    item = await attempt(at(port, "ssh"), PACE, clock)
    assert (item.name, item.verdict, item.detail) == (f"port {port}", "ok", "")
    assert item.facts["banner"].startswith("SSH-2.0-OpenSSH")
    assert item.facts["host_key"] == host_key
    assert item.facts["exchanges"] == "3"


async def test_a_server_that_knows_only_old_key_exchanges_ends_after_two(clock):
    with sshd("KexAlgorithms diffie-hellman-group14-sha256") as (port, _):
        item = await attempt(at(port, "ssh"), PACE, clock)
    assert (item.verdict, item.facts["exchanges"], item.facts["host_key"]) == ("ok", "2", "")
    with sshd("KexAlgorithms ecdh-sha2-nistp256") as (port, host_key):
        item = await attempt(at(port, "ssh"), PACE, clock)
    assert (item.facts["exchanges"], item.facts["host_key"]) == ("3", host_key)


async def test_a_firewall_that_accepts_and_resets_is_seen_by_every_kind(ssh_server, clock):
    """R33: not only SYN: at once, within the greeting, and in the middle of the key exchange."""
    async with accepting_then_resetting() as port:
        for kind in ("tcp", "tls", "ssh"):
            item = await attempt(at(port, kind), PACE, clock)
            assert item.verdict == "failed", kind
            assert "reset" in item.detail, item
    for cut, phase in ((10, "key-exchange"), (200, "key-exchange")):
        async with between(ssh_server[0], cut_after=cut) as port:
            item = await attempt(at(port, "ssh"), PACE, clock)
            assert (item.verdict, item.phase) == ("failed", phase)
            assert "; wanted the server's" in item.detail


async def test_ssh_inspection_shows_beside_what_the_node_sees_itself(
    ssh_server, other_ssh_server, clock
):
    """R33: a greeting that was altered, algorithms left out, and a host key of somebody else."""
    inside = await attempt(at(ssh_server[0], "ssh"), PACE, clock)
    facts = dict(inside.facts)
    assert compared(inside, facts).verdict == "ok"
    assert compared(inside, None).verdict == "ok"

    def greet(data):
        return data.replace(b"SSH-2.0-OpenSSH", b"SSH-2.0-Inspect", 1)

    async with between(ssh_server[0], alter=greet) as port:
        seen = await attempt(at(port, "ssh"), PACE, clock)
        assert seen.verdict == "ok"  # well-formed: only the comparison tells
        judged = compared(seen, facts)
        assert (judged.verdict, judged.phase) == ("failed", "altered")
        assert "another greeting" in judged.detail

    def weaken(data):
        return data.replace(b"chacha20-poly1305@", b"chacha20-poly1300@")

    async with between(ssh_server[0], alter=weaken) as port:
        judged = compared(await attempt(at(port, "ssh"), PACE, clock), facts)
        assert "other algorithms" in judged.detail
    judged = compared(await attempt(at(other_ssh_server[0], "ssh"), PACE, clock), facts)
    assert "another host key" in judged.detail


@pytest.mark.parametrize(
    ("says", "phase", "found"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "banner", "closed"),
        (b"SSH-1.5-old\r\n", "banner", "wanted SSH-2.0"),
        (b"x" * 300 + b"\r\n", "banner", "more than 255 bytes"),
        (b"x" * 100_000, "banner", "more than 255 bytes"),
        (b"hello\r\n" * 60, "banner", "50 lines without a version"),
        (b"SSH-2.0-x\r\n" + b"\xff" * 64, "key-exchange", "found a packet of 4294967295 bytes"),
        (b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x05" + bytes(10), "key-exchange", "found message 5"),
        (
            b"SSH-2.0-x\r\n\0\0\0\x1c\x04\x01\0\0\0\x0b\0\0\0\x0enot\x1b allowed" + bytes(8),
            "key-exchange",
            "found a disconnect (not\ufffd allowed",
        ),
        (b"SSH-2.0-x\r\n" + b"\0\0\0\x0c\x0a\x02" * 1, "key-exchange", "closed"),
        (b"", "banner", "closed"),
    ],
)
async def test_what_is_no_ssh_server_is_said_in_words(says, phase, found, clock):
    async def behave(reader, writer):
        writer.write(says)
        writer.write_eof()
        await reader.read()

    async with listening(behave) as server:
        item = await attempt(at(port_of(server), "ssh"), PACE, clock)
    assert (item.verdict, item.phase) == ("failed", phase)
    assert found in item.detail


async def test_a_port_that_falls_silent_is_said_with_its_time(clock):
    async def behave(reader, writer):
        await reader.read()

    pace = Pace(timeout_s=0.2, pause_s=0.05)
    async with listening(behave) as server:
        seen = {kind: await attempt(at(port_of(server), kind), pace, clock) for kind in KINDS}
    assert seen["tcp"].verdict == "ok"  # it took the connection and kept it
    assert seen["tls"].detail == "found no handshake within 0.2s"
    assert seen["ssh"].detail == "found silence for 0.2s; wanted a version line"
    closed = {kind: await attempt(at(free_port(), kind), pace, clock) for kind in KINDS}
    assert {item.phase for item in closed.values()} == {"connect"}


KINDS = ("tcp", "tls", "ssh")


# ------------------------------------------------------------------ TLS
def certificate(folder, name, until):
    """Make a certificate that ends then; return what serves it."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=400))
        .not_valid_after(until)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def stay(reader, writer):
    await reader.read()


async def test_tls_facts_are_taken_down_and_an_old_certificate_is_a_failure(tmp_path, clock):
    """R79: version, certificate and its end; whoever signed it."""
    now = datetime.now(UTC)
    wanted = (("good", 300, "ok"), ("soon", 3, "warning"), ("gone", -1, "failed"))
    for name, days, verdict in wanted:
        context = certificate(tmp_path, name, now + timedelta(days=days))
        async with listening(stay, ssl=context) as server:
            item = await attempt(at(port_of(server), "tls"), PACE, clock)
        assert item.verdict == verdict
        assert item.facts["subject"] == f"CN={name}"
        assert item.facts["version"] == "TLSv1.3"
        assert len(item.facts["fingerprint"]) == 64
    assert "found a certificate that expired at" in item.detail


# ------------------------------------------------------------------ both directions
@asynccontextmanager
async def offering(tmp_path, ssh_ports):
    """Serve for each node a TLS, a TCP and an SSH port; yield them by node."""
    async with AsyncExitStack() as stack:
        found = {}
        for node, ssh_port in ssh_ports.items():
            until = datetime.now(UTC) + timedelta(days=99)
            context = certificate(tmp_path, node, until)
            tls = await stack.enter_async_context(listening(stay, ssl=context))
            tcp = await stack.enter_async_context(listening(stay))
            found[node] = {"tls": port_of(tls), "tcp": port_of(tcp), "ssh": ssh_port}
        yield found


def all_of(ports):
    return [at(port, kind) for kind, port in ports.items()]


async def test_both_ends_test_and_a_closed_port_is_named_in_its_direction(
    pair, tmp_path, eventually, ssh_server, other_ssh_server
):
    """R31, R45, R73, R79: each port closed in each direction; asymmetric failures by direction."""
    ssh_ports = {"a": ssh_server[0], "b": other_ssh_server[0]}
    async with offering(tmp_path, ssh_ports) as ports:

        def change(two):
            two.tested = {node: all_of(ports[node]) for node in ("a", "b")}

        async with pair(change) as two:
            answer = await two.a.ask("test-connection", both=True)
            assert answer["passed"] is True, answer
            assert [one["way"] for one in answer["directions"]] == ["a -> b", "b -> a"]
            for one in answer["directions"]:
                names = [item["name"] for item in one["items"]]
                assert names[:3] == ["trust", "clock", "version"]
                assert len(names) == 6
                assert {item["verdict"] for item in one["items"]} == {"ok"}
            # A settled pair lets through what each node's own list says; now one is closed.
            for target, source in (("a", "b"), ("b", "a")):
                for kind in KINDS:
                    mine = two.agents[source].parts["connection"]._settings.theirs[target]
                    index = [one.kind for one in mine].index(kind)
                    open_one, mine[index] = mine[index], at(free_port(), kind)
                    answer = await two.a.ask("test-connection", both=True)
                    assert answer["passed"] is False
                    bad = [one for one in answer["directions"] if not one["passed"]]
                    assert [one["way"] for one in bad] == [f"{source} -> {target}"], bad
                    failed = [i["name"] for i in bad[0]["items"] if i["verdict"] == "failed"]
                    assert failed == [f"port {mine[index].port}"]
                    gate = (await two.a.ask("status"))["connection"]["gate"]
                    assert gate["passed"] is False
                    assert gate["found"].startswith(f"{source} -> {target}: port ")
                    mine[index] = open_one


async def test_inspection_between_two_nodes_fails_the_test_in_that_direction(
    pair, tmp_path, ssh_server, other_ssh_server
):
    """R33 end to end: on a's way to b somebody speaks with keys of his own, at the same ports."""
    until = datetime.now(UTC) + timedelta(days=99)
    own, foreign = (certificate(tmp_path, name, until) for name in ("own", "foreign"))
    async with AsyncExitStack() as stack:
        real = await stack.enter_async_context(listening(stay, ssl=own))
        ports = {"tls": port_of(real), "ssh": ssh_server[0]}
        inspector = listening(stay, ELSEWHERE, ports["tls"], ssl=foreign)
        await stack.enter_async_context(inspector)
        await stack.enter_async_context(
            between(other_ssh_server[0], host=ELSEWHERE, listen=ports["ssh"])
        )

        def change(two):
            two.tested["b"] = all_of(ports)

        two = await stack.enter_async_context(pair(change))
        assert (await two.a.ask("test-connection"))["passed"] is True
        theirs = two.a.parts["connection"]._settings.theirs["b"]
        theirs[:] = [replace(one, host=ELSEWHERE) for one in theirs]
        (found,) = (await two.a.ask("test-connection"))["directions"]
        altered = {i["name"]: i["detail"] for i in found["items"] if i["phase"] == "altered"}
        assert set(altered) == {f"port {port}" for port in ports.values()}
        assert "TLS is inspected" in altered[f"port {ports['tls']}"]
        assert "SSH is inspected" in altered[f"port {ports['ssh']}"]


ELSEWHERE = "127.0.0.2"  # the same ports on another way


# ------------------------------------------------------------------ the gate
async def test_sync_and_promotion_wait_for_a_recent_success_of_both_directions(pair, eventually):
    """R80: never tested, failed, and too old refuse; a dying Primary does not block promotion."""
    async with pair(trusting=False) as two:
        node = two.b.trust.node
        (connected,) = [g for g in await node.may_promote() if g.id == "connected"]
        assert connected.passed is False
        assert "b -> a: " in connected.found
        assert "lb-probe agent test-connection --both" in connected.wanted
        await two.trust_each_other()
        assert (await two.b.ask("test-connection", both=True))["passed"] is True
        assert all(gate.passed for gate in await node.may_sync())
        assert all(gate.passed for gate in await node.may_promote())
        await two.end("a")
        answer = await two.b.ask("test-connection", both=True)
        assert answer["passed"] is False
        assert "a -> b: could not be tested, as a cannot be asked" in answer["detail"]
        assert not all(gate.passed for gate in await node.may_sync())
        assert all(gate.passed for gate in await node.may_promote())
        # What was found outlives the agent.
        await two.end("b")
        two.start("b")
        await eventually(lambda: bool(two.b.parts) and not two.b.trust.ring.fault)
        node = two.b.trust.node

        async def is_read():
            return all(gate.passed for gate in await node.may_promote())

        await eventually(is_read)
        part = two.b.parts["connection"]
        await eventually(lambda: part._may_promote is True)
        two.b.clock.ahead_s = 86401.0 + 60
        (connected,) = [g for g in await node.may_promote() if not g.passed]
        assert "the last success is 24.0h old" in connected.found
        # Told before it is needed: a pair whose tests lapsed is not protected.
        part._watch_lapse()
        await eventually(lambda: two.b.post.told("trust")[-1:] == ["open"])


async def test_a_clock_that_is_apart_fails_the_test_and_refuses_a_sync(pair, eventually):
    """R11: +0.5 s is fine, +2 s a warning, +10 s an error; the bound is told."""
    async with pair() as two:
        node = two.b.trust.node
        for ahead_s, verdict in ((0.5, "ok"), (-2.0, "warning"), (10.0, "failed")):
            two.a.clock.ahead_s = ahead_s
            for _ in range(5):  # one that ran while the clock was set measured no clock
                answer = await two.b.ask("test-connection")
                (item,) = [i for i in answer["directions"][0]["items"] if i["name"] == "clock"]
                if "offset_s" in item["facts"]:
                    break
            assert item["verdict"] == verdict
            assert float(item["facts"]["offset_s"]) == pytest.approx(ahead_s, abs=0.2)
            assert 0 <= float(item["facts"]["bound_s"]) < 0.2
            await two.b.ask("test-connection", both=True)
            clock = [gate for gate in await node.may_sync() if gate.id == "clock"]
            assert clock[0].passed is (verdict != "failed")
        assert "known to 0." in clock[0].found
        told = two.b.sink.named("agent.clock-judged")
        assert told[-1].fields["severity"] == "error"
        two.a.clock.ahead_s = 0.0
        await eventually(lambda: two.b.post.told("clock")[-1:] == ["over"])
        # A measurement that ran while the clock was set is impossible, and an alarm of its own.
        told = two.b.post.told("clock")
        assert told == ["open", "over"] * (len(told) // 2)


def test_a_result_that_a_peer_tells_is_taken_with_care():
    """A peer that lies about its tests: another direction, odd ages, words that are no words."""
    good = {"source": "b", "target": "a", "at_wall": 5.0, "age_s": 10, "items": []}
    item = {"name": "port 22\x1b[31m", "verdict": "ok", "phase": "", "detail": "", "facts": {}}
    found = from_peer(good | {"items": [item] * 100}, source="b", target="a", now_wall=1000.0)
    assert found.at_wall == 990.0
    assert len(found.items) == 64
    assert found.items[0].name == "port 22\ufffd[31m"
    for bad in (
        None,
        good | {"source": "x"},
        good | {"age_s": -1},
        good | {"age_s": True},
        good | {"age_s": float("nan")},
        good | {"age_s": 10**400},
        good | {"items": [item | {"verdict": "great"}]},
        good | {"items": 7},
        {"age_s": 1},
    ):
        with pytest.raises(ValueError, match="found"):
            from_peer(bad, source="b", target="a", now_wall=1000.0)


async def test_results_that_cannot_be_kept_are_told_once_and_written_one_at_a_time(
    pair, monkeypatch
):
    """A full disk: the newest result counts all the same, and the order on disk is that of time."""
    async with pair() as two:
        writing, tries, full = [], [], KeptError("found no space left on device")

        def put(kept, peer, result, *, is_ours):
            if peer == "a":  # that of b, of which there are two kinds
                writing.append(peer)
                tries.append(len(writing))
                time.sleep(0.05)  # in its thread
                writing.pop()
            raise full

        two.b.sink.events.clear()
        monkeypatch.setattr(Results, "put", put)
        await asyncio.gather(*(two.b.ask("test-connection", both=True) for _ in range(2)))
        assert len(tries) >= 3
        assert set(tries) == {1}
        assert len(two.b.sink.named("agent.trust-failed")) == 1


async def test_a_broken_file_of_results_costs_a_test_and_nothing_else(pair, eventually):
    async with pair() as two:
        assert (await two.b.ask("test-connection", both=True))["passed"] is True
        await two.end("b")
        path = two.b.folder / "b.trust" / "connection.json"
        kept = json.loads(path.read_text())
        assert set(kept["results"]) == {
            "outward a",
            "outward-success a",
            "inward a",
            "inward-success a",
        }
        path.write_text('{"version": 1, "results": {"outward a": 7}}')
        two.start("b")
        await eventually(lambda: bool(two.b.sink.named("agent.trust-failed")))
        await eventually(lambda: two.b.parts["connection"]._results.get("outward", "a") is not None)
