"""TLS of the probe engine against servers on loopback, on both event loops."""

import asyncio
import contextlib
import hashlib
import socket
import ssl
import struct
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import (
    LONG_S,
    NAME,
    OK,
    SHORT_S,
    answering,
    ask,
    ask_server,
    client_tls,
    descriptors,
    make_certificates,
    on_both_loops,
    page,
    server_tls,
    serving,
    silent,
    target,
    until,
)

from lb_probe.core.model import Failed, Passed, Phase
from lb_probe.prober.attempt import RESUME_S
from lb_probe.prober.http_probe import Engine, TlsSettings, inspect, make_ssl_context
from lb_probe.prober.names import Names
from lb_probe.prober.tls import certificate_of

FRAMES = {
    "plain": page(),
    "until-close": page(length=False),
    "chunked": page(
        b"15;x=1\r\n" + OK + b"\r\n0\r\n\r\n", headers=["Transfer-Encoding: chunked"], length=False
    ),
}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A CA and certificates of it: good, expired, not yet valid, for another name, for an IP."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@on_both_loops
async def test_a_certificate_for_the_external_name_passes_at_the_nodes_address(certificates):
    """EPMM fact 16: the address is the node's, the certificate the service's."""
    for highest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        tls = server_tls(certificates, highest=highest)
        for frame in FRAMES.values():
            behave = answering(frame)
            seen = await ask_server(behave, tls=tls, **client_tls(certificates))
            assert seen.outcome == Passed()


@on_both_loops
async def test_the_external_name_is_sent_as_sni(certificates):
    names = []
    tls = server_tls(certificates)
    tls.sni_callback = lambda connection, name, context: names.append(name)
    await ask_server(answering(page()), tls=tls, **client_tls(certificates))
    assert names == [NAME]


@on_both_loops
async def test_without_a_server_name_the_address_is_verified(certificates):
    more = client_tls(certificates, None)
    tls = server_tls(certificates, "address")
    assert (await ask_server(answering(page()), tls=tls, **more)).outcome == Passed()
    tls = server_tls(certificates, "good")
    seen = await ask_server(answering(page()), tls=tls, **more)
    assert seen.outcome.phase is Phase.TLS
    assert "wrong name" in seen.outcome.detail


@pytest.mark.parametrize(
    ("name", "ca", "detail"),
    [
        ("expired", "ca.pem", "certificate expired"),
        ("early", "ca.pem", "certificate not yet valid"),
        ("other-name", "ca.pem", "certificate wrong name"),
        ("good", "other-ca.pem", "certificate untrusted"),
        ("good", None, "certificate untrusted"),
    ],
)
@on_both_loops
async def test_a_certificate_that_does_not_fit_fails_as_tls(certificates, name, ca, detail):
    """Vector 14."""
    more = client_tls(certificates)
    more["ssl_context"] = make_ssl_context(certificates / ca if ca else None, NAME)
    seen = await ask_server(answering(page()), tls=server_tls(certificates, name), **more)
    assert seen.outcome.phase is Phase.TLS
    assert seen.outcome.detail.startswith(detail)
    assert seen.code is None


@on_both_loops
async def test_a_server_that_speaks_only_old_tls_fails_as_tls(certificates):
    """Vector 14."""
    tls = server_tls(certificates)
    tls.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1

    def serve_once(listening):
        connection, _ = listening.accept()
        # asyncio's own server drops the alert that tells the client why.
        with connection, contextlib.suppress(OSError):
            tls.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LONG_S)
        served = asyncio.ensure_future(asyncio.to_thread(serve_once, listening))
        seen = await ask(listening.getsockname()[1], **client_tls(certificates))
        await served
    assert seen.outcome.phase is Phase.TLS
    assert "handshake failed" in seen.outcome.detail
    assert "protocol version" in seen.outcome.detail


@on_both_loops
async def test_a_server_that_speaks_no_tls_fails_as_tls(certificates):
    async def behave(reader, writer):
        writer.write(page())
        await asyncio.sleep(3600)

    seen = await ask_server(behave, **client_tls(certificates))
    assert seen.outcome.phase is Phase.TLS
    assert "wrong version number" in seen.outcome.detail


FLOODS = {
    # record type, version, length, content: again and again, in place of a handshake
    "one endless message": b"\x16\x03\x03\x40\x00\x02\xff\xff\xff" + bytes(16380),
    "warnings": b"\x15\x03\x03\x00\x02\x01\x5a" * 1000,
    "cipher changes": b"\x14\x03\x03\x00\x01\x01" * 1000,
}


@pytest.mark.parametrize("name", FLOODS)
@on_both_loops
async def test_a_flood_in_place_of_a_handshake_fails_as_tls_at_once(certificates, name):
    async def behave(reader, writer):
        await reader.read(1)
        while True:
            writer.write(FLOODS[name])
            await writer.drain()

    seen = await ask_server(behave, **client_tls(certificates))
    assert seen.outcome.phase is Phase.TLS
    assert "handshake failed" in seen.outcome.detail
    assert seen.ended_at - seen.started_at < LONG_S / 2


@pytest.mark.parametrize("how", ["close", "reset"])
@on_both_loops
async def test_a_peer_that_leaves_during_the_handshake_is_a_reset(certificates, how):
    """Vector 14."""

    async def behave(reader, writer):
        await reader.read(1)
        if how == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    seen = await ask_server(behave, **client_tls(certificates))
    assert seen.outcome == Failed(
        Phase.RESET, "reset or closed before the TLS handshake was complete"
    )


@on_both_loops
async def test_a_handshake_that_never_ends_is_a_timeout_and_leaves_nothing_open(certificates):
    more = client_tls(certificates)
    async with serving(silent) as port:
        before = descriptors()
        seen = await ask(port, timeout_s=SHORT_S, **more)
        assert seen.outcome == Failed(Phase.TIMEOUT, "no TLS handshake within 0.3s")
        attempt = asyncio.ensure_future(ask(port, **more))
        await asyncio.sleep(0.05)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await until(lambda: descriptors() <= before + 2)  # the server's own ends


@on_both_loops
async def test_a_page_without_a_length_that_tls_does_not_close_may_be_cut(certificates):
    """`OK (Mode: Standby)` cut behind OK would be the other page's good answer."""

    async def cut(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(page(length=False))
        await writer.drain()
        # FIN without TLS's own good-bye: the end of the stream under it.
        raw = socket.socket(fileno=socket.dup(writer.get_extra_info("socket").fileno()))
        with raw:
            raw.shutdown(socket.SHUT_WR)
        await asyncio.sleep(3600)

    tls = server_tls(certificates)
    seen = await ask_server(cut, tls=tls, **client_tls(certificates))
    assert seen.outcome.phase is Phase.RESET
    assert seen.head == OK.decode()


@on_both_loops
async def test_a_demanded_client_certificate_fails_with_a_phase(certificates):
    tls = server_tls(certificates)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificates / "ca.pem")
    seen = await ask_server(answering(page()), tls=tls, **client_tls(certificates))
    assert isinstance(seen.outcome, Failed)
    assert seen.outcome.phase in {Phase.TLS, Phase.RESET}


def test_verification_is_always_on(certificates):
    for ca in (None, certificates / "ca.pem"):
        context = make_ssl_context(ca, NAME)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_context_that_cannot_work_is_refused_when_it_is_made(certificates, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        make_ssl_context(tmp_path / "missing.pem")
    (tmp_path / "empty.pem").touch()
    with pytest.raises(ssl.SSLError):
        make_ssl_context(tmp_path / "empty.pem")
    with pytest.raises(ValueError, match="use a host name"):
        make_ssl_context(certificates / "ca.pem", ".example.com")


# ------------------------------------------------------------------ settings
def ask_with(certificates, port, settings, scheme="https", **more):
    context = make_ssl_context(settings)
    return ask(port, scheme=scheme, ssl_context=context, server_name=NAME, **more)


def settings_of(certificates, **more):
    return TlsSettings(**({"ca_file": certificates / "ca.pem", "server_name": NAME} | more))


def fingerprint(certificates, name="good"):
    der = ssl.PEM_cert_to_DER_cert((certificates / f"{name}.pem").read_text())
    return hashlib.sha256(der).hexdigest()


@on_both_loops
async def test_a_client_certificate_is_shown_where_it_is_asked_for(certificates):
    tls = server_tls(certificates)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(certificates / "ca.pem")
    ours = {"cert_file": certificates / "address.pem", "key_file": certificates / "address.key"}
    async with serving(answering(page()), tls) as port:
        seen = await ask_with(certificates, port, settings_of(certificates, **ours))
        assert seen.outcome == Passed()
        seen = await ask_with(certificates, port, settings_of(certificates))
        assert seen.outcome.phase in {Phase.TLS, Phase.RESET}


@on_both_loops
async def test_the_smallest_version_is_kept_to(certificates):
    old = server_tls(certificates, highest=ssl.TLSVersion.TLSv1_2)
    async with serving(answering(page()), old) as port:
        assert (await ask_with(certificates, port, settings_of(certificates))).outcome == Passed()
        newer = settings_of(certificates, min_version="1.3")
        seen = await ask_with(certificates, port, newer)
    assert seen.outcome.phase in {Phase.TLS, Phase.RESET}  # asyncio's server drops the alert


@pytest.mark.parametrize("name", ["good", "expired", "other-name"])
@on_both_loops
async def test_a_pin_alone_needs_no_chain(certificates, name):
    pin = fingerprint(certificates, name).upper()
    pinned = TlsSettings(server_name=NAME, fingerprint=pin, insecure=True)
    async with serving(answering(page()), server_tls(certificates, name)) as port:
        assert (await ask_with(certificates, port, pinned)).outcome == Passed()
        again = await ask_with(certificates, port, settings_of(certificates, fingerprint=pin))
    assert (again.outcome == Passed()) == (name == "good")


@pytest.mark.parametrize("insecure", [True, False])
@on_both_loops
async def test_another_certificate_than_the_pinned_one_fails_as_tls(certificates, insecure):
    wrong = fingerprint(certificates, "address")
    settings = settings_of(certificates, fingerprint=wrong, insecure=insecure)
    requests = []

    async def behave(reader, writer):
        requests.append(await reader.read())

    async with serving(behave, server_tls(certificates)) as port:
        seen = await ask_with(certificates, port, settings)
    assert seen.outcome == Failed(
        Phase.TLS, f"certificate has SHA-256 {fingerprint(certificates)}; wanted {wrong}"
    )
    assert b"".join(requests) == b""  # nothing was asked of a stranger
    assert seen.certificate_until == UNTIL


@on_both_loops
async def test_insecure_takes_any_certificate(certificates):
    for name in ("expired", "early", "other-name"):
        async with serving(answering(page()), server_tls(certificates, name)) as port:
            seen = await ask_with(certificates, port, TlsSettings(insecure=True))
            assert seen.outcome == Passed()


def test_settings_that_cannot_work_are_refused(certificates, tmp_path):
    with pytest.raises(ValueError, match="use 64 hex digits"):
        make_ssl_context(TlsSettings(fingerprint="ab"))
    with pytest.raises(ValueError, match="use a host name"):
        make_ssl_context(TlsSettings(server_name=".example.com"))
    with pytest.raises(OSError, match="No such file"):
        make_ssl_context(TlsSettings(cert_file=tmp_path / "missing.pem"))
    with pytest.raises(ssl.SSLError):
        make_ssl_context(TlsSettings(cert_file=certificates / "good.pem"))


def test_a_key_behind_a_password_is_an_error_and_no_question(certificates, tmp_path):
    locked = tmp_path / "locked.key"
    line = ["openssl", "ec", "-aes128", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run([*line, "-in", str(certificates / "good.key")], check=True, capture_output=True)
    with pytest.raises(ssl.SSLError):
        make_ssl_context(TlsSettings(cert_file=certificates / "good.pem", key_file=locked))


# ------------------------------------------------------------------ what the certificate says
UNTIL = 4102444799.0  # 2099-12-31T23:59:59Z


@on_both_loops
async def test_the_observation_says_when_the_certificate_expires(certificates):
    async with serving(answering(page()), server_tls(certificates)) as port:
        assert (await ask(port, **client_tls(certificates))).certificate_until == UNTIL
    async with serving(answering(page())) as port:
        assert (await ask(port)).certificate_until is None


@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_a_later_handshake_is_resumed_and_knows_the_certificate(certificates, highest):
    resumed = []

    async def behave(reader, writer):
        resumed.append(writer.get_extra_info("ssl_object").session_reused)
        await answering(page())(reader, writer)

    now = [0.0]
    async with serving(behave, server_tls(certificates, highest=highest)) as port:
        engine = Engine(lambda: now[0])
        asked = target(port, **client_tls(certificates))
        for step in (0.0, 1.0, 1.0, RESUME_S, 1.0):
            now[0] += step
            seen = await started(engine, asked)
            assert seen.outcome == Passed()
            assert seen.certificate_until == UNTIL
        engine.close()
    assert resumed == [False, True, True, False, True]


@on_both_loops
async def test_a_pin_is_checked_on_a_resumed_handshake(certificates):
    pinned = settings_of(certificates, fingerprint=fingerprint(certificates))
    context = make_ssl_context(pinned)
    async with serving(answering(page()), server_tls(certificates)) as port:
        engine = Engine(asyncio.get_running_loop().time)
        asked = target(port, scheme="https", ssl_context=context, server_name=NAME)
        assert (await started(engine, asked)).outcome == Passed()
        context.pin = "0" * 64
        assert (await started(engine, asked)).outcome.phase is Phase.TLS
        engine.close()


@on_both_loops
async def test_a_tls_connection_is_kept(certificates):
    connections = []

    async def behave(reader, writer):
        connections.append(writer)
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(page())

    async with serving(behave, server_tls(certificates)) as port:
        engine = Engine(asyncio.get_running_loop().time)
        asked = target(port, connection="reuse", **client_tls(certificates))
        for _ in range(5):
            seen = await started(engine, asked)
            assert (seen.outcome, seen.note, seen.certificate_until) == (Passed(), "", UNTIL)
        engine.close()
    assert len(connections) == 1


@on_both_loops
async def test_a_node_without_pages_passes_when_it_shakes_hands(certificates):
    good, bad = settings_of(certificates), settings_of(certificates, server_name="x.example.com")
    async with serving(silent, server_tls(certificates)) as port:
        seen = await ask_with(certificates, port, good, scheme="tls")
        assert (seen.outcome, seen.code, seen.certificate_until) == (Passed(), None, UNTIL)
        context = make_ssl_context(bad)
        more = {"scheme": "tls", "ssl_context": context, "server_name": "x.example.com"}
        seen = await ask(port, **more)
    assert seen.outcome.phase is Phase.TLS
    assert "wrong name" in seen.outcome.detail


@on_both_loops
async def test_an_inspection_tells_of_the_handshake(certificates):
    names = Names(time.monotonic)
    async with serving(answering(page()), server_tls(certificates)) as port:
        asked = target(port, **client_tls(certificates))
        report = await inspect(asked, clock=time.monotonic, names=names)
    names.close()
    assert list(report.phases) == ["name", "connect", "tls", "first-byte", "body"]
    facts = dict(report.tls)
    assert facts.pop("cipher")
    assert facts == {
        "version": "TLSv1.3",
        "resumed": "no",
        "subject": "CN=good",
        "issuer": "CN=test CA",
        "names": NAME,
        "notAfter": "2099-12-31T23:59:59Z",
        "fingerprint": fingerprint(certificates),
    }


def test_a_certificate_is_read_as_openssl_reads_it(certificates):
    for name in ("good", "expired", "address", "ca"):
        pem = certificates / f"{name}.pem"
        known = ssl._ssl._test_decode_cert(str(pem))
        found = certificate_of(ssl.PEM_cert_to_DER_cert(pem.read_text()))
        assert found.until == ssl.cert_time_to_seconds(known["notAfter"])
        assert found.names == tuple(text for _, text in known.get("subjectAltName", ()))
        assert found.subject == "CN=" + known["subject"][0][0][1]
        assert found.issuer == "CN=" + known["issuer"][0][0][1]


@settings(deadline=None)
@given(data=st.data())
def test_no_certificate_however_broken_raises(certificates, data):
    der = ssl.PEM_cert_to_DER_cert((certificates / "good.pem").read_text())
    at = data.draw(st.integers(0, len(der) - 1))
    piece = data.draw(st.binary(max_size=8))
    broken = der[:at] + piece + der[at + data.draw(st.integers(0, 8)) :]
    assert certificate_of(broken).fingerprint == hashlib.sha256(broken).hexdigest()
    assert certificate_of(None).fingerprint == certificate_of(b"").fingerprint == ""


async def started(engine, asked):
    ended = asyncio.get_running_loop().create_future()
    engine.start(asked, ended.set_result)
    return await asyncio.wait_for(ended, LONG_S)
