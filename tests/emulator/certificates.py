"""Certificates of a CA made for this run: a good one, an expired one, one for another name."""

import functools
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

CONFIG = """
[ca]
default_ca = here
[here]
dir = .
new_certs_dir = .
database = index.txt
default_md = sha256
policy = any
unique_subject = no
rand_serial = yes
copy_extensions = copy
[any]
commonName = supplied
"""
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
KINDS = {
    "good": ("IP:127.0.0.1,DNS:localhost", "20200101000000Z", "20991231235959Z"),
    "expired": ("IP:127.0.0.1,DNS:localhost", "20200101000000Z", "20200201000000Z"),
    "other-name": ("DNS:bigip.example.net", "20200101000000Z", "20991231235959Z"),
}


@functools.cache
def _made() -> dict[str, bytes]:
    """Make them once for a process: it takes a tenth of a second."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise FileNotFoundError("found no openssl; it makes the emulator's certificates")
    with tempfile.TemporaryDirectory(prefix="f5-ca-") as name:
        folder = Path(name)

        def run(*words: str) -> None:
            subprocess.run([openssl, *words], check=True, capture_output=True, cwd=folder)

        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(CONFIG)
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        out = ("-keyout", "ca.key", "-out", "ca.pem")
        run("req", "-x509", *KEY, *out, "-days", "3650", "-subj", "/CN=emulator CA", *usage)
        for kind, (names, start, end) in KINDS.items():
            request = ("-keyout", f"{kind}.key", "-out", f"{kind}.csr", "-subj", f"/CN={kind}")
            run("req", "-new", *KEY, *request, "-addext", f"subjectAltName={names}")
            signer = ("-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-batch")
            valid = ("-startdate", start, "-enddate", end)
            run("ca", *signer, *valid, "-in", f"{kind}.csr", "-out", f"{kind}.pem", "-notext")
        wanted = ["ca.pem", *(f"{k}.{end}" for k in KINDS for end in ("pem", "key"))]
        return {file: (folder / file).read_bytes() for file in wanted}


def make_certificates(folder: Path) -> Path:
    """Put the certificates into a folder and return the file of the CA's."""
    for name, content in _made().items():
        (folder / name).write_bytes(content)
    return folder / "ca.pem"


def server_context(folder: Path, kind: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{kind}.pem", folder / f"{kind}.key")
    return context
