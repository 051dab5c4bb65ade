"""The command socket over TCP: a `listen` with TLS and client certificates in front of it."""

import asyncio
import hashlib
import json
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click.testing
import pytest
import uvloop

from lb_probe.adapters.haproxy import Device, HaproxyServers
from lb_probe.cli import cli
from lb_probe.ports import PublishError, Unreachable
from lb_probe.prober.http_probe import TlsSettings, make_ssl_context

NODES = {"epmm-a": "a", "epmm-b": "b"}
PATIENT_S = 20.0
pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")

CONFIG = """
global
    stats socket {folder}/admin.sock mode 600 level admin
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    timeout connect 2s
    timeout client 20s
    timeout server 20s
listen cli
    mode tcp
    bind fd@{tcp_fd} ssl crt {folder}/server.pem ca-file {folder}/ca.pem verify required
    server s unix@{folder}/admin.sock
frontend service
    bind {folder}/service.sock
    default_backend epmm
backend epmm
    server a 127.0.0.1:{port_a} disabled
    server b 127.0.0.1:{port_b} disabled {check_b}
"""


def openssl(*words: str, cwd: Path) -> None:
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True)


def certificate(folder: Path, name: str, *, by: str | None, san: str = "") -> None:
    line = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    line += ["-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt"]
    if by:
        line += ["-CA", f"{by}.crt", "-CAkey", f"{by}.key"]
        line += ["-addext", "basicConstraints=CA:FALSE"]
    if san:
        line += ["-addext", f"subjectAltName={san}"]
    openssl(*line, cwd=folder)
    crt, key = (folder / f"{name}.crt").read_text(), (folder / f"{name}.key").read_text()
    (folder / f"{name}.pem").write_text(crt + ("" if by is None else key))


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """A folder with a CA, a server's and a client's certificate, and another CA's client."""
    folder = Path(tempfile.mkdtemp(prefix="crt", dir="/tmp"))
    certificate(folder, "ca", by=None)
    certificate(folder, "server", by="ca", san="DNS:edge-1.example.com")
    certificate(folder, "client", by="ca")
    certificate(folder, "other", by=None)
    certificate(folder, "stranger", by="other")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def tls_haproxy(make_haproxy: Any, certificates: Path):
    process = make_haproxy(CONFIG)
    for name in ("ca.pem", "server.pem"):
        shutil.copy(certificates / name, process.folder)
    await process.start()
    return process


def context(folder: Path, ca: str = "ca", client: str | None = "client") -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=str(folder / f"{ca}.crt"))
    if client:
        tls.load_cert_chain(folder / f"{client}.crt", folder / f"{client}.key")
    return tls


def edge(
    haproxy: Any, tls: ssl.SSLContext, name: str | None = "edge-1.example.com"
) -> HaproxyServers:
    device = Device(haproxy.tcp, timeout_s=PATIENT_S, tls=tls, server_name=name)
    return HaproxyServers("edge-1", device, "epmm", NODES)


async def test_certificates_of_both_ends_open_the_socket(tls_haproxy, certificates):
    adapter = edge(tls_haproxy, context(certificates))

    for node in ("epmm-b", "epmm-a"):
        await adapter.publish(node)
        assert (await adapter.read_back()).node == node


def test_tls_works_on_uvloop(make_haproxy, certificates):
    process = make_haproxy(CONFIG)
    for name in ("ca.pem", "server.pem"):
        shutil.copy(certificates / name, process.folder)

    async def main() -> str | None:
        await process.start()
        adapter = edge(process, context(certificates))
        await adapter.publish("epmm-b")
        return (await adapter.read_back()).node

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == "epmm-b"


@pytest.mark.parametrize("client", [None, "stranger"])
async def test_client_without_a_good_certificate_changes_nothing(tls_haproxy, certificates, client):
    adapter = edge(tls_haproxy, context(certificates, client=client))

    with pytest.raises(PublishError):
        await adapter.publish("epmm-b")
    with pytest.raises(PublishError):
        await adapter.read_back()

    assert (await edge(tls_haproxy, context(certificates)).read_back()).node is None


@pytest.mark.parametrize(
    ("ca", "name", "words"),
    [
        ("other", "edge-1.example.com", "self-signed|unable to get local issuer|issuer"),
        ("ca", "edge-2.example.com", "[Hh]ostname mismatch"),
        ("ca", None, "IP address mismatch"),
    ],
)
async def test_wrong_server_is_not_talked_to(tls_haproxy, certificates, ca, name, words):
    adapter = edge(tls_haproxy, context(certificates, ca=ca), name)

    with pytest.raises(
        Unreachable, match=rf"TLS failed.*({words}).*`server_name`.*nothing was sent"
    ):
        await adapter.publish("epmm-b")


async def test_only_the_pinned_certificate_is_talked_to(tls_haproxy, certificates):
    pem = (certificates / "server.crt").read_text()
    right = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    for pin, is_taken in ((right, True), ("0" * 64, False)):
        settings = TlsSettings(
            ca_file=certificates / "ca.crt",
            server_name="edge-1.example.com",
            cert_file=certificates / "client.crt",
            key_file=certificates / "client.key",
            fingerprint=pin,
        )
        adapter = edge(tls_haproxy, make_ssl_context(settings))
        if is_taken:
            await adapter.publish("epmm-b")
            continue
        with pytest.raises(Unreachable, match=f"wanted {pin}"):
            await adapter.publish("epmm-a")
        assert (await edge(tls_haproxy, context(certificates)).read_back()).node == "epmm-b"


async def test_plain_line_to_a_tls_socket_is_no_answer(tls_haproxy):
    device = Device(tls_haproxy.tcp, timeout_s=PATIENT_S)
    adapter = HaproxyServers("edge-1", device, "epmm", NODES)

    with pytest.raises(PublishError):
        await adapter.read_back()


# ------------------------------------------------------------------ the doctor, as it is typed
FILE = """
version: 1
groups:
  - name: epmm
    act: false
    nodes:
      - {{name: epmm-a, role: primary, url: "http://127.0.0.1:1"}}
      - {{name: epmm-b, role: secondary, url: "http://127.0.0.1:2"}}
    adapters:
      - {{type: haproxy, name: gone, socket: {folder}/gone.sock, backend: epmm, nodes: {nodes}}}
      - {{type: haproxy, name: edge-1, socket: "{host}:{port}", backend: epmm, nodes: {nodes},
         tls: {{server_name: edge-1.example.com, ca_file: {crt}/ca.crt,
               cert_file: {crt}/client.crt, key_file: {crt}/client.key}}}}
"""


@pytest.fixture
def doctor(tls_haproxy, certificates, tmp_path):
    host, port = tls_haproxy.tcp
    nodes = "{epmm-a: a, epmm-b: b}"
    text = FILE.format(folder=tmp_path, host=host, port=port, crt=certificates, nodes=nodes)
    (tmp_path / "probes.yaml").write_text(text)

    def ask(*words: str) -> click.testing.Result:
        line = ["-c", str(tmp_path / "probes.yaml"), "haproxy", "doctor", "epmm", *words]
        return click.testing.CliRunner().invoke(cli, line)

    return ask


def test_the_doctor_looks_behind_tls_and_one_that_is_gone_hides_no_other(doctor, tls_haproxy):
    answer = doctor("--file", str(tls_haproxy.folder / "haproxy.cfg"), "-o", "json")

    assert answer.exit_code == 1
    told = json.loads(answer.stdout)
    by_name = {one["adapter"]: one for one in told["haproxys"]}
    gone = [f["code"] for f in by_name["gone"]["findings"]]
    assert gone == ["unreachable", "stats-maxconn", "no-hard-stop"]  # and what the file says
    assert "there is no such socket" in by_name["gone"]["findings"][0]["found"]
    codes = {f["code"] for f in by_name["edge-1"]["findings"]}
    assert "no-hard-stop" in codes
    assert "unreachable" not in codes

    one = json.loads(doctor("--adapter", "edge-1", "-o", "json").stdout)["haproxys"]
    assert [each["adapter"] for each in one] == ["edge-1"]
    answer = doctor("--adapter", "edge-9")
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert "its HAProxys are gone, edge-1" in answer.stderr


def test_people_read_the_same_and_a_file_that_is_not_there_is_usage(doctor, tmp_path):
    answer = doctor()
    assert answer.stdout.startswith("gone:\nerror: ")
    assert "\nedge-1:\n" in answer.stdout

    answer = doctor("--file", str(tmp_path / "none.cfg"))
    assert answer.exit_code == 2
    assert "none.cfg: No such file" in answer.stderr
