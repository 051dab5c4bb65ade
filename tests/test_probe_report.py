"""`lb-probe probe`: what it tells of a node, and what a capture hides; against real servers."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from raw_server import (
    LONG_S,
    OK,
    STANDBY,
    answering,
    client_tls,
    make_certificates,
    on_both_loops,
    page,
    server_tls,
    serving,
    silent,
    target,
)

from lb_probe.cli import cli
from lb_probe.core.model import Page
from lb_probe.prober.http_probe import inspect
from lb_probe.prober.names import Names
from lb_probe.prober.report import capture, written

SECRETS = [
    "Set-Cookie: JSESSIONID=4F1D9A; Path=/; HttpOnly",
    "Set-Cookie: lone-and-odd",
    "X-Auth-Token: s3cr3t-token",
    "WWW-Authenticate: Basic realm=r1",
    "Location: /login;jsessionid=77AA?token=abc123&x=1",
    "X-Backend: 192.0.2.77 via fd00::17 and Epmm.Example.com",
    "X-Time: 12:30:01",
]
KEPT_BACK = ("4F1D9A", "lone-and-odd", "s3cr3t-token", "realm=r1", "77AA", "abc123")
PLACES = ("192.0.2.77", "fd00::17", "epmm.example.com", "127.0.0.1")
CONFIG = """
version: 1
store: sqlite:state.db
groups:
  - name: epmm
    act: false
    nodes:
      - {{name: epmm-a, role: primary, url: "http://127.0.0.1:{port}"}}
      - {{name: epmm-b, role: secondary, url: "http://127.0.0.2:{port}"}}
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def look(asked):
    names = Names(time.monotonic)
    try:
        return await inspect(asked, clock=time.monotonic, names=names)
    finally:
        names.close()


@contextmanager
def answering_thread(*answers):
    """A server beside the test's own thread: what each path says."""
    by_path = dict(answers)

    def serve():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                path = peer.recv(4096).split(b" ")[1].decode()
                peer.sendall(by_path.get(path, page(b"", code="404 Not Found")))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(LONG_S)


# ------------------------------------------------------------------ what is told
@on_both_loops
async def test_a_probe_is_written_out_with_its_phases_and_why():
    async with serving(answering(page(STANDBY, headers=["Server: x"]))) as port:
        asked = target(port, Page.HASTATUS)
        told = written(asked, await look(asked))
    assert json.loads(json.dumps(told)) == told
    assert (told["result"], told["mode"], told["code"]) == ("ok", "standby", 200)
    assert told["why"] == "200, and the line MOBILEIRON-STATUS: says OK (Mode: Standby)"
    assert list(told["phases"]) == ["name", "connect", "first-byte", "body"]
    assert told["address"] == f"127.0.0.1:{port}"
    assert told["asked"] == f"http://127.0.0.1:{port}/x"
    assert told["headers"][0] == {"name": "Server", "value": "x"}
    assert told["tls"] == {}


@on_both_loops
async def test_secrets_in_headers_are_not_even_printed():
    async with serving(answering(page(OK, headers=SECRETS))) as port:
        asked = target(port)
        told = str(written(asked, await look(asked)))
    assert [secret for secret in KEPT_BACK if secret in told] == []
    assert "192.0.2.77" in told


@pytest.mark.parametrize(
    ("answer", "which", "why"),
    [
        (page(OK), Page.STATUS, "200, and the line MOBILEIRON-STATUS: says OK"),
        (page(b"MOBILEIRON-STATUS: OK (Mode: Odd)"), Page.HASTATUS, "a mode nobody documented"),
        (page(b"MOBILEIRON-STATUS: ERROR"), Page.STATUS, "does not say the documented words"),
        (page(OK, code="503 No"), Page.STATUS, "only 200 counts"),
        (page(OK, code="302 Found", headers=["Location: /l"]), Page.STATUS, "not followed"),
        (b"SSH-2.0-x\r\n", Page.STATUS, "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nMOB", Page.STATUS, "was cut"),
    ],
    ids=["ok", "odd-mode", "error", "503", "redirect", "ssh", "cut"],
)
@on_both_loops
async def test_why_is_said_in_words_whatever_comes(answer, which, why):
    async with serving(answering(answer)) as port:
        asked = target(port, which)
        assert why in written(asked, await look(asked))["why"]


@on_both_loops
async def test_a_node_that_hangs_is_told_with_the_phase_it_hung_in():
    async with serving(silent) as port:
        asked = target(port, timeout_s=0.3)
        told = written(asked, await look(asked))
    assert told["why"] == "connected, and no complete answer in time"
    assert list(told["phases"]) == ["name", "connect", "first-byte"]


@on_both_loops
async def test_tls_facts_are_told_and_a_connection_alone_has_its_own_why(certificates):
    async with serving(silent, server_tls(certificates)) as port:
        tls = client_tls(certificates) | {"scheme": "tls", "path": ""}
        for more in (tls, {"scheme": "tcp", "path": ""}):
            asked = target(port, **more)
            told = written(asked, await look(asked))
            assert told["result"] == "ok"
            assert told["why"] == "a connection was made, and that is all that is asked of it"
            assert told["asked"] == f"{more['scheme']}://127.0.0.1:{port}"
            assert told["headers"] == []
            assert ("fingerprint" in told["tls"]) is (more is tls)


# ------------------------------------------------------------------ a capture
async def captured(*answers, **more):
    told = []
    for answer in answers:
        async with serving(answering(answer)) as port:
            asked = target(port, server_name="epmm.example.com")
            told.append((asked, await look(asked)))
    return capture(told, at="2026-01-01 00:00:00+00:00", **more), told


@on_both_loops
async def test_a_capture_holds_the_raw_answer_without_what_nobody_else_should_have():
    raw = page(OK + b"\r\nnode 192.0.2.77 password=hunter2", headers=SECRETS)
    found, _ = await captured(raw, page(b"\xff\x00 odd bytes"))
    text = found.decode("latin-1")
    lower = text.lower()
    assert [s for s in (*KEPT_BACK, *PLACES, "hunter2") if s.lower() in lower] == []
    assert "Set-Cookie: JSESSIONID=xxxxxx; Path=/; HttpOnly" in text
    assert "X-Backend: xxxxxxxxxx via xxxxxxxx and xxxxxxxxxxxxxxxx" in text
    assert "X-Time: 12:30:01" in text
    assert b"\xff\x00 odd bytes" in found
    assert "=== g/a status: ok" in text
    assert "=== g/a status: failed (body)" in text
    # Lengths are as they were: what the answer says of itself stays true.
    hidden = text[text.index("--- answer") :].split("\n", 1)[1]
    assert len(hidden[: hidden.index("\n\n===")]) == len(raw)


@on_both_loops
async def test_addresses_stay_where_they_are_asked_for_and_secrets_do_not():
    found, _ = await captured(page(OK, headers=SECRETS), with_addresses=True)
    text = found.decode("latin-1")
    assert [place for place in PLACES if place.lower() not in text.lower()] == []
    assert [secret for secret in KEPT_BACK if secret in text] == []


@on_both_loops
async def test_a_folded_header_is_hidden_to_its_end():
    found, _ = await captured(page(OK, headers=["X-Session: one", " two-lines"]))
    assert b"two-lines" not in found


@on_both_loops
async def test_a_body_that_is_encoded_is_told_to_be_as_it_came():
    found, _ = await captured(page(OK, headers=["Content-Encoding: br"]))
    assert b"the body is encoded (br): nothing is hidden inside it" in found


# ------------------------------------------------------------------ the verb
@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(port, *words):
        (tmp_path / "probes.yaml").write_text(CONFIG.format(port=port))
        line = ["probe", *words, "-c", str(tmp_path / "probes.yaml")]
        return CliRunner().invoke(cli, line, catch_exceptions=False)

    return run


def test_the_verb_asks_both_pages_and_writes_files_that_overwrite_nothing(command, tmp_path):
    pages = (("/status/status.html", page(OK, headers=SECRETS[:1])), ("/hastatus.html", page(b"?")))
    with answering_thread(*pages) as port:
        plain = command(port, "epmm/epmm-a")
        assert plain.exit_code == 0
        assert "[ok] status: ok (HTTP 200" in plain.stdout
        assert "[no] hastatus: failed (phase body" in plain.stdout
        assert "Set-Cookie: (hidden)" in plain.stdout
        assert list(tmp_path.glob("*.txt")) == []
        names = set()
        for _ in range(3):
            told = json.loads(command(port, "epmm/epmm-a", "--capture", "-o", "json").stdout)
            names.add(told["capture"])
    assert {file.name for file in tmp_path.glob("lb-probe-epmm-epmm-a-*.txt")} == names
    assert len(names) == 3
    for name in names:
        text = (tmp_path / name).read_text("latin-1")
        assert "=== epmm/epmm-a status: ok" in text
        assert "=== epmm/epmm-a hastatus: failed (body)" in text
        assert "4F1D9A" not in text
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_node_that_is_down_is_an_answer_and_a_capture_of_it_says_so(command, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = command(port, "epmm/epmm-b", "--capture")
    assert found.exit_code == 0
    assert "phase connect-refused" in found.stdout
    (file,) = tmp_path.glob("*.txt")
    assert "--- answer, 0 bytes" in file.read_text()


AS_STANDBY = page(b"MOBILEIRON-STATUS: OK (Mode: Standby)")
AS_PRIMARY = page(b"MOBILEIRON-STATUS: OK (Mode: Primary)")
ERROR = page(b"MOBILEIRON-STATUS: ERROR", code="503 Service Unavailable")


@pytest.mark.parametrize(("says", "is_excused"), [(AS_STANDBY, True), (AS_PRIMARY, False)])
def test_a_standby_that_does_not_serve_is_told_to_be_no_fault(command, says, is_excused):
    """A new user asks both nodes before anything runs, and one of them answers ERROR."""
    with answering_thread(("/status/status.html", ERROR), ("/hastatus.html", says)) as port:
        told = command(port, "epmm/epmm-a").stdout
    assert "[no] status: failed (phase status, HTTP 503" in told
    assert (
        "expected of a Standby, as its hastatus page says it is: no fault" in told
    ) is is_excused
