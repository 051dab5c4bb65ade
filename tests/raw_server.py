"""Raw servers on loopback for tests of the probe engine, and how it is asked."""

import asyncio
import contextlib
import inspect
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
import uvloop
from loopback import listening, port_of

from lb_probe.core.model import Page
from lb_probe.prober.http_probe import Target, make_ssl_context, probe

OK = b"MOBILEIRON-STATUS: OK"
STANDBY = b"MOBILEIRON-STATUS: OK (Mode: Standby)"
NAME = "epmm.example.com"
LONG_S = 20.0  # a deadline that no test should reach
SHORT_S = 0.3  # one that the test is about


def on_both_loops(test):
    """Run an async test once on asyncio's loop and once on uvloop; nothing may go unhandled."""

    def run(loop_factory, **fixtures):
        unhandled = []
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_exception_handler(lambda loop, why: unhandled.append(why))
            runner.run(test(**fixtures))
        assert unhandled == []

    parameter = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([parameter, *inspect.signature(test).parameters.values()])
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(run)


# ------------------------------------------------------------------ servers
@contextlib.asynccontextmanager
async def serving(behave, tls=None):
    """Serve one behaviour on a free port: `await behave(reader, writer)` for each connection."""

    async def handle(reader, writer):
        try:
            await behave(reader, writer)
        finally:
            writer.transport.abort()

    async with listening(handle, ssl=tls) as server:
        yield port_of(server)
    # A handshake that we left half way has no handler yet; there is no event for its end.
    await asyncio.sleep(0.01)


def answering(*parts, end="close", pause_s=0.0):
    """Return a behaviour that reads the request, sends these bytes, and ends this way."""

    async def behave(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if end == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end == "half-close":
            writer.write_eof()
            await reader.read()
        elif end == "stay":
            await reader.read()
        elif end == "close":
            writer.close()
            await writer.wait_closed()

    return behave


def page(body=OK, *, code="200 OK", version="1.1", headers=(), length=True):
    lines = [f"HTTP/{version} {code}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def target(port, which=Page.STATUS, **more):
    values = {"timeout_s": LONG_S, "scheme": "http", "host": "127.0.0.1", "path": "/x"} | more
    return Target(group="g", node="a", page=which, port=port, **values)


async def ask(port, which=Page.STATUS, **more):
    return await probe(target(port, which, **more), clock=time.monotonic)


async def ask_server(behave, which=Page.STATUS, *, tls=None, **more):
    async with serving(behave, tls) as port:
        return await ask(port, which, **more)


async def silent(reader, writer):
    await asyncio.sleep(3600)


def in_time_wait(port):
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [line for line in lines if line[2].endswith(f":{port:04X}") and line[3] == "06"]


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def serving_beside(serve):
    """Run `serve(listener)` in a thread, for a loop that stands still; yield port and thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONG_S)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], thread
        finally:
            thread.join()


async def until(true, within_s=LONG_S):
    async with asyncio.timeout(within_s):
        while not true():  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(0.005)


# ------------------------------------------------------------------ TLS
CA_CONFIG = """
[ca]
default_ca = here
[here]
dir = {folder}
new_certs_dir = {folder}
database = {folder}/index.txt
default_md = sha256
policy = any
unique_subject = no
rand_serial = yes
copy_extensions = copy
[any]
commonName = supplied
"""


def make_certificates(folder):
    """A CA and certificates of it: good, expired, not yet valid, for another name, for an IP."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make certificates with")

    def run(*arguments):
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=folder)

    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text(CA_CONFIG.format(folder=folder))
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name in ("ca", "other-ca"):
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        out = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        run("req", "-x509", *key, *out, "-days", "3650", "-subj", "/CN=test CA", *usage)
    kinds = {
        "good": (f"DNS:{NAME}", "20200101000000Z", "20991231235959Z"),
        "expired": (f"DNS:{NAME}", "20200101000000Z", "20200201000000Z"),
        "early": (f"DNS:{NAME}", "20981231235959Z", "20991231235959Z"),
        "other-name": ("DNS:other.example.com", "20200101000000Z", "20991231235959Z"),
        "address": ("IP:127.0.0.1", "20200101000000Z", "20991231235959Z"),
    }
    for name, (san, start, end) in kinds.items():
        request = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"]
        run("req", "-new", *key, *request, "-addext", f"subjectAltName={san}")
        signer = ["-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-batch"]
        valid = ["-startdate", start, "-enddate", end]
        run("ca", *signer, *valid, "-in", f"{name}.csr", "-out", f"{name}.pem", "-notext")
    return folder


def server_tls(certificates, name="good", *, highest=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    if highest:
        context.maximum_version = highest
    return context


def client_tls(certificates, name=NAME, ca="ca.pem"):
    context = make_ssl_context(certificates / ca, name)
    return {"scheme": "https", "ssl_context": context, "server_name": name}
