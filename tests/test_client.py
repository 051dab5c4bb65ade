"""The client against raw servers: where it looks, what it believes, how it fails (R125, X5)."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from free_ports import free_port

from lb_probe import client
from lb_probe.client import Address, BadAnswer, Client

GROUP = {"name": "epmm", "condition": "normal", "nodes": [], "adapters": []}


class Raw:
    """A server that keeps what it was sent and answers with given bytes, then hangs up."""

    def __init__(self, listener: socket.socket, answer: bytes | None) -> None:
        self.listener = listener
        self.answer = answer
        self.sent = b""
        name = listener.getsockname()
        self.url = f"unix://{name}" if isinstance(name, str) else f"http://{name[0]}:{name[1]}"
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.done.is_set():
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            with link:
                link.settimeout(20)
                self.sent = b""
                while not self._is_whole():
                    part = link.recv(65536)
                    if not part:
                        break
                    self.sent += part
                if self.answer is None:
                    self.done.wait(20)  # say nothing until the test is over
                else:
                    link.sendall(self.answer)

    def _is_whole(self) -> bool:
        head, end, body = self.sent.partition(b"\r\n\r\n")
        if not end:
            return self.sent.startswith(b"{") and self.sent.endswith(b"\n")
        length = [
            line.split(b":")[1] for line in head.split(b"\r\n") if b"content-length" in line.lower()
        ]
        return len(body) >= int(length[0]) if length else True

    def close(self) -> None:
        self.done.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(20)


@contextmanager
def raw(answer: bytes | None, path: Path | None = None) -> Iterator[Raw]:
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    listener.listen()
    server = Raw(listener, answer)
    try:
        yield server
    finally:
        server.close()


def http(body: object, status: int = 200, kind: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def client_of(server: Raw, **more: float) -> Client:
    return Client(client.parse_url(server.url, "a test"), **more)


# ------------------------------------------------------------------ where the API is
def test_the_url_of_the_environment_wins_over_every_file(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text("api: {listen: '127.0.0.1:1'}\n")
    (found,) = client.find_addresses(file, {"LB_PROBE_URL": "http://127.0.0.1:9/base/"})
    assert str(found) == "http://127.0.0.1:9/base"
    assert found.source == "LB_PROBE_URL"


def test_the_socket_of_the_file_is_used_when_it_exists_and_else_its_listener(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text("api: {socket: api.sock, listen: '0.0.0.0:8700'}\n")
    assert str(client.find_addresses(file, {})[0]) == "http://127.0.0.1:8700"
    with raw(b"", tmp_path / "api.sock"):
        assert str(client.find_addresses(file, {})[0]) == f"unix://{tmp_path}/api.sock"


def test_an_ipv6_listener_is_read_and_written_with_brackets(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text("api: {listen: '[::]:8700'}\n")
    assert str(client.find_addresses(file, {})[0]) == "http://[::1]:8700"


def test_without_url_and_file_the_default_socket_is_used_and_else_the_default_port(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client.address, "CONFIG_PLACES", (Path("probes.yaml"),))
    monkeypatch.setattr(client.address, "DEFAULT_SOCKET", tmp_path / "api.sock")
    assert str(client.find_addresses(None, {})[0]) == "http://127.0.0.1:8600"
    with raw(b"", tmp_path / "api.sock"):
        assert str(client.find_addresses(None, {})[0]) == f"unix://{tmp_path}/api.sock"


def test_a_file_without_api_leaves_the_defaults(tmp_path, monkeypatch):
    monkeypatch.setattr(client.address, "DEFAULT_SOCKET", tmp_path / "none.sock")
    file = tmp_path / "probes.yaml"
    file.write_text("version: 1\n")
    assert client.find_addresses(file, {})[0].port == 8600


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("api: [", "is not YAML"),
        ("- a\n", "holds no settings"),
        ("", "holds no settings"),
        ("api: 7\n", "api: found 7"),
        ("api: {listen: 'a b'}\n", "api.listen"),
        ("api: {listen: '127.0.0.1:http'}\n", "api.listen"),
        ("a: 2026-99-99\n", "is not YAML"),
    ],
)
def test_a_broken_file_is_named_with_what_to_do(tmp_path, text, said):
    file = tmp_path / "probes.yaml"
    file.write_text(text)
    with pytest.raises(client.Unusable, match=said) as caught:
        client.find_addresses(file, {})
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_that_was_named_must_exist(tmp_path):
    with pytest.raises(client.Unusable, match="no such file; give -c FILE"):
        client.find_addresses(tmp_path / "probes.yaml", {})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1",
        "127.0.0.1:8600",
        "http://",
        "unix://run/x.sock",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://127.0.0.1/?a=1",
        "http://127.0.0.1/a b",
        "http://bücher.example.com",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_examples(url):
    with pytest.raises(client.Unusable, match="use http://"):
        client.parse_url(url, "LB_PROBE_URL")


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(client.Unusable, match="LB_PROBE_TOKEN") as caught:
        client.parse_url("http://ops:hunter2@127.0.0.1:8600", "LB_PROBE_URL")
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ the token
def test_the_token_travels_as_bearer_and_comes_from_the_environment_or_a_file(tmp_path):
    (tmp_path / "ops.token").write_text("from-file\n")
    with raw(http({"groups": [GROUP]})) as server:
        for name, value, wanted in [
            ("LB_PROBE_TOKEN", "from-env", b"Bearer from-env"),
            ("LB_PROBE_TOKEN_FILE", str(tmp_path / "ops.token"), b"Bearer from-file"),
        ]:
            client.connect(None, {"LB_PROBE_URL": server.url, name: value}).groups()
            assert b"Authorization: " + wanted + b"\r\n" in server.sent
        client.connect(None, {"LB_PROBE_URL": server.url}).groups()
        assert b"Authorization" not in server.sent


@pytest.mark.parametrize("token", ["two words", "a\nb", "snow☃man", "bell\x07"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(token):
    with pytest.raises(client.Unusable, match="LB_PROBE_TOKEN") as caught:
        client.find_token({"LB_PROBE_TOKEN": token})
    assert token not in str(caught.value)


def test_a_token_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(client.Unusable, match="No such file"):
        client.find_token({"LB_PROBE_TOKEN_FILE": str(tmp_path / "none")})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(client.Unusable, match="is not a token"):
        client.find_token({"LB_PROBE_TOKEN_FILE": str(tmp_path / "empty")})


def test_a_token_does_not_cross_the_network_in_clear():
    environ = {"LB_PROBE_URL": "http://192.0.2.1:8600", "LB_PROBE_TOKEN": "secret"}
    with pytest.raises(client.Unusable, match="https://") as caught:
        client.connect(None, environ)
    assert "secret" not in str(caught.value)
    assert client.connect(None, environ | {"LB_PROBE_URL": "https://192.0.2.1:8600"}).token
    assert client.connect(None, environ | {"LB_PROBE_URL": "http://localhost:8600"}).token


def test_a_client_does_not_show_its_token():
    assert "secret" not in repr(Client(Address("http", "127.0.0.1", 1, "", "x"), "secret"))


# ------------------------------------------------------------------ what is asked
def test_every_call_asks_for_the_documented_path(tmp_path):
    with raw(http(GROUP), tmp_path / "api.sock") as server:
        api = client_of(server)
        api.group("a b/c")
        assert server.sent.startswith(b"GET /api/v1/groups/a%20b%2Fc HTTP/1.1\r\n")
        api.act("resume", "epmm", {"reason": "why", "generation": 7})
        assert server.sent.startswith(b"POST /api/v1/groups/epmm/resume HTTP/1.1\r\n")
        body = json.loads(server.sent.partition(b"\r\n\r\n")[2])
        assert body == {"reason": "why", "generation": 7, "dry_run": False}
    with raw(http({"history": []})) as server:
        client_of(server).history("epmm", 5)
        assert server.sent.startswith(b"GET /api/v1/history?group=epmm&limit=5 ")
        client_of(server).history(None, 5, since="7d", everything=True)
        assert server.sent.startswith(b"GET /api/v1/history?limit=5&since=7d&all=1 ")
    with raw(http({"group": "epmm", "text": "why"})) as server:
        client_of(server).explain("epmm")
        assert server.sent.startswith(b"GET /api/v1/groups/epmm/explain ")


@pytest.mark.parametrize("before", [0, "3", True, 2.5, -1])
def test_a_page_of_history_that_leads_nowhere_ends_the_reading(before):
    with (
        raw(http({"history": [], "before": before})) as server,
        pytest.raises(BadAnswer, match="leads nowhere"),
    ):
        client_of(server).whole_history()


def test_a_page_of_history_that_leads_to_itself_ends_the_reading():
    with (
        raw(http({"history": [{}], "before": 9})) as server,
        pytest.raises(BadAnswer, match="leads nowhere"),
    ):
        client_of(server).whole_history()


def test_a_prefix_of_the_address_goes_before_every_path():
    with raw(http({"groups": []})) as server:
        Client(client.parse_url(server.url + "/base", "x")).groups()
        assert server.sent.startswith(b"GET /base/api/v1/groups ")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_ask_for_another_path_is_no_group(name):
    with pytest.raises(client.Unusable, match="lb-probe status"):
        Client(Address("http", "127.0.0.1", 1, "", "x")).group(name)


# ------------------------------------------------------------------ what comes back
@pytest.mark.parametrize(
    ("status", "word", "kind", "code"),
    [
        (401, "unauthorized", client.Denied, 4),
        (403, "forbidden", client.Denied, 4),
        (404, "not-found", client.Unusable, 2),
        (422, "invalid", client.Unusable, 2),
        (405, "invalid", client.Unusable, 2),
        (413, "invalid", client.Unusable, 2),
        (409, "refused", client.Refused, 6),
        (409, "conflict", client.Conflict, 5),
        (500, "failed", client.ClientError, 1),
        (503, "starting", client.ClientError, 1),
    ],
)
def test_each_error_of_the_api_has_its_exit_code_and_keeps_its_detail(status, word, kind, code):
    gates = [{"id": "synced", "passed": False, "found": "no", "wanted": "yes"}]
    body = {"error": word, "detail": "the detail", "gates": gates, "paste": "line", "generation": 8}
    with raw(http(body, status)) as server, pytest.raises(client.ClientError) as caught:
        client_of(server).act("resume", "epmm", {})
    assert type(caught.value) is kind
    assert caught.value.exit_code == code
    assert "the detail" in str(caught.value)
    if isinstance(caught.value, client.Refused):
        assert caught.value.gates == tuple(gates)
        assert caught.value.paste == "line"
    if isinstance(caught.value, client.Conflict):
        assert caught.value.generation == 8


def test_a_denial_says_how_to_be_let_in():
    with raw(http(b"<html>401", 401, "text/html")) as server:
        with pytest.raises(client.Denied, match="set LB_PROBE_TOKEN_FILE"):
            client_of(server).groups()
        with pytest.raises(
            client.Denied, match="the token is none that this prober knows"
        ) as caught:
            Client(client.parse_url(server.url, "x"), "secret").groups()
    assert "secret" not in str(caught.value)
    with (
        raw(http({"error": "forbidden", "detail": "viewer"}, 403)) as server,
        pytest.raises(client.Denied, match="whose role and groups allow it"),
    ):
        client_of(server).groups()


NONSENSE = {
    "html": http(b"<html>hello</html>", kind="text/html"),
    "a redirect": http(b"", 302),
    "truncated json": http(b'{"groups": ['),
    "a short body": b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"groups": []}',
    "a list": http([]),
    "no groups": http({"items": []}),
    "groups of the wrong kind": http({"groups": {"epmm": 1}}),
    "groups of text": http({"groups": ["epmm"]}),
    "a nameless group": http({"groups": [{**GROUP, "name": None}]}),
    "a group without nodes": http({"groups": [{"name": "a", "condition": "normal"}]}),
    "a nameless node": http({"groups": [{**GROUP, "nodes": [{"name": ["x"]}]}]}),
    "deep json": http(b"[" * 100_000),
    "not utf-8": http(b'{"groups": "\xff"}'),
    "not http": b"220 mail.example.com ESMTP\r\n",
    "a proxy's page": http(b"<html>502", 502, "text/html"),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_an_answer_that_is_not_the_apis_is_said_to_be_that(answer):
    with (
        raw(answer) as server,
        pytest.raises(client.BadAnswer, match="check the address") as caught,
    ):
        client_of(server).groups()
    assert server.url in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"dry_run": True},
        {"plan": {"generation": 7}},
        {"plan": {}, "passed": True},
        {"plan": {"generation": True}, "passed": True},
        {"plan": {"generation": 7}, "passed": "yes"},
    ],
)
def test_a_plan_without_generation_and_verdict_is_not_believed(answer):
    with raw(http(answer)) as server, pytest.raises(client.BadAnswer, match="a plan without"):
        client_of(server).plan("resume", "epmm", {})


def test_an_endless_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(client.api, "LARGEST_ANSWER", 1000)
    with raw(http(b" " * 5000)) as server, pytest.raises(client.BadAnswer):
        client_of(server).groups()


# ------------------------------------------------------------------ nobody answers
def test_an_unreachable_api_names_the_address_what_to_check_and_the_break_glass_line(tmp_path):
    port = free_port()
    for url in (f"http://127.0.0.1:{port}", f"unix://{tmp_path}/none.sock"):
        with pytest.raises(client.Unreachable) as caught:
            Client(client.parse_url(url, "LB_PROBE_URL")).groups()
        assert caught.value.exit_code == 3
        for part in (url, "from LB_PROBE_URL", "systemctl status", client.BREAK_GLASS):
            assert part in str(caught.value)


def test_a_silent_api_is_unreachable_after_the_time_limit():
    with raw(None) as server, pytest.raises(client.Unreachable, match="time limit"):
        client_of(server, read_timeout_s=0.2).groups()


@pytest.mark.parametrize("answer", [None, b"", b"nonsense\r\n", http(b"<html>", 504, "text/html")])
def test_an_act_without_an_answer_may_have_been_made_and_is_not_called_unreachable(answer):
    with raw(answer) as server, pytest.raises(client.Lost, match="may or may not") as caught:
        client_of(server, act_timeout_s=0.5).act("resume", "epmm", {})
    assert caught.value.exit_code == 1


def test_an_act_that_reaches_nobody_was_not_made():
    address = Address("http", "127.0.0.1", free_port(), "", "x")
    with pytest.raises(client.Unreachable):
        Client(address).act("resume", "epmm", {})


def test_a_server_without_tls_is_unreachable_over_https():
    with raw(http({})) as server:
        port = client.parse_url(server.url, "x").port
        with pytest.raises(client.Unreachable, match="no answer from https"):
            Client(Address("https", "127.0.0.1", port, "", "x"), read_timeout_s=2).groups()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    ask = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    made = [*ask.split(), *name, "-keyout", str(file), "-out", str(file.with_suffix(".crt"))]
    subprocess.run(["openssl", *made], check=True, capture_output=True, timeout=50)
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
    return file


@contextmanager
def encrypted(certificate: Path, answer: bytes) -> Iterator[Address]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve() -> None:
        # The caller hangs up when it does not trust us.
        with contextlib.suppress(OSError):
            link, _ = listener.accept()
            with link, context.wrap_socket(link, server_side=True) as inside:
                inside.recv(65536)
                inside.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Address("https", "127.0.0.1", listener.getsockname()[1], "", "a test")
        finally:
            thread.join(20)


def test_https_works_with_a_trusted_certificate_and_says_when_it_is_not(certificate, monkeypatch):
    with (
        encrypted(certificate, http({"groups": []})) as address,
        pytest.raises(client.Unreachable, match="its certificate is not trusted") as caught,
    ):
        Client(address).groups()
    assert "LB_PROBE_CA_FILE" in str(caught.value)
    monkeypatch.setenv("LB_PROBE_CA_FILE", str(certificate.with_suffix(".crt")))
    with encrypted(certificate, http({"groups": []})) as address:
        assert Client(address).groups() == []


def test_ssl_is_not_asked_for_a_context_over_plain_http(monkeypatch):
    monkeypatch.setattr("ssl.create_default_context", lambda **_: pytest.fail("asked for TLS"))
    with raw(http({"groups": []})) as server:
        assert client_of(server).groups() == []


def test_of_several_addresses_the_first_that_answers_is_asked(tmp_path):
    with raw(http({"groups": []})) as server:
        there = client_of(server).address
        urls = f"unix://{tmp_path}/none.sock, http://127.0.0.1:1 {there} http://127.0.0.1:2"
        found = client.connect(None, {"LB_PROBE_URL": urls})
        assert found.groups() == []
    with pytest.raises(client.Unreachable, match=r"127\.0\.0\.1:2"):
        client.connect(None, {"LB_PROBE_URL": f"{there} http://127.0.0.1:2"}).groups()


def test_a_command_that_was_sent_is_not_sent_to_another_address():
    with raw(b"") as first, raw(http({"name": "epmm", "condition": "normal"})) as second:
        urls = f"{client_of(first).address} {client_of(second).address}"
        with pytest.raises(client.Lost):
            client.connect(None, {"LB_PROBE_URL": urls}).act("resume", "epmm", {})
        assert second.sent == b""  # nobody came


# ------------------------------------------------------------------ the agent
def test_an_agent_is_asked_in_one_line_and_answers_in_one(tmp_path):
    path = tmp_path / "agent.sock"
    with raw(b'{"mode": "standby"}\n', path) as server:
        assert client.ask_agent(path, {"command": "status"}) == {"mode": "standby"}
        assert server.sent == b'{"command": "status"}\n'


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b'{"error": "forbidden", "detail": "why"}\n', client.Denied),
        (b'{"error": "invalid", "detail": "why"}\n', client.Unusable),
        (b'{"error": "failed", "detail": "why"}\n', client.ClientError),
        (b'{"error": "refused", "detail": "why"}\n', client.Refused),
        (b'{"error": "conflict", "detail": "why"}\n', client.Conflict),
        (b'{"mode": "standby"}', client.BadAnswer),
        (b"hello\n", client.BadAnswer),
        (b"[]\n", client.BadAnswer),
        (b"", client.BadAnswer),
    ],
)
def test_an_agents_error_or_nonsense_has_its_own_kind(tmp_path, answer, kind):
    path = tmp_path / "agent.sock"
    with raw(answer, path), pytest.raises(client.ClientError) as caught:
        client.ask_agent(path, {"command": "status"})
    assert type(caught.value) is kind
    if b"why" in answer:
        assert "why" in str(caught.value)


def test_an_agent_that_is_not_there_is_unreachable_with_what_to_check(tmp_path):
    with pytest.raises(client.Unreachable, match="is it running on this machine"):
        client.ask_agent(tmp_path / "none.sock", {"command": "status"})


def test_the_client_loads_nothing_heavy():
    heavy = "aiohttp pydantic yaml prometheus_client structlog tenacity asyncio"
    code = (
        f"import sys, lb_probe.client; print(*[m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(client.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert done.stdout.strip() == ""


def test_a_configured_socket_that_is_not_there_is_named(tmp_path):
    file = tmp_path / "probes.yaml"
    file.write_text("version: 1\napi: {socket: api.sock}\n")
    assert str(client.find_addresses(file, {})[0]) == f"unix://{tmp_path}/api.sock"
