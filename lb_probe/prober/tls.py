"""TLS as a probe needs it: what is trusted, the stream, and what a certificate says.

The stream runs over memory and knows no socket, so that one driver serves plain and TLS alike.
Python tells nothing of a certificate that was not verified, so the few fields that people ask for
are read from its DER here.
"""

import hashlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from lb_probe.core.model import Failed, Phase
from lb_probe.core.status_page import printable

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# X509_V_ERR_... of OpenSSL; any other is untrusted and speaks for itself.
_CERTIFICATE = {9: "not yet valid", 10: "expired", 62: "wrong name", 64: "wrong name"}
_RECORD = 16 * 1024
_HEX_CHARS = 64


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What is asked of a node's certificate, and what is shown to it.

    Attributes:
        ca_file: PEM file of the only authorities to trust; the system's when None.
        server_name: The name that will be asked for, to learn now whether TLS can carry it.
        cert_file: Our own certificate, PEM, for nodes that ask for one.
        key_file: Its key; None where `cert_file` holds that too.
        fingerprint: SHA-256 of the one certificate that is taken, in hex, colons or not.
        insecure: The chain and the name need not be right; a fingerprint must still be.
    """

    ca_file: Path | None = None
    server_name: str | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"
    fingerprint: str | None = None
    insecure: bool = False


class PinError(ssl.SSLError):
    """The certificate is not the pinned one."""

    reason = library = ""  # which OpenSSL sets on its own errors, and everybody reads


class _Pinned(ssl.SSLObject):
    """A connection that takes the pinned certificate only, whoever drives it."""

    def do_handshake(self) -> None:
        """Go on with the handshake.

        Raises:
            ssl.SSLError: It failed, or the certificate is not the pinned one.
        """
        super().do_handshake()
        if pin := getattr(self.context, "pin", ""):
            found = certificate_of(self.getpeercert(binary_form=True)).fingerprint
            if found != pin:
                raise PinError(f"certificate has SHA-256 {found or 'none'}; wanted {pin}")


class NodeContext(ssl.SSLContext):
    """What verifies a node, its pinned certificate included: the two cannot get apart.

    Attributes:
        pin: SHA-256 of the one certificate that is taken, lower-case hex; empty for any.
    """

    pin = ""
    sslobject_class = _Pinned


def make_ssl_context(
    settings: TlsSettings | Path | None = None, server_name: str | None = None
) -> NodeContext:
    """Return what verifies a node.

    Build it once for a target and not for each probe: reading the authorities takes milliseconds.

    Args:
        settings: Or only a `ca_file`, for its chain and name over TLS 1.2 or later.
        server_name: With a `ca_file`, the name that will be asked for.

    Raises:
        OSError: A file cannot be read, or holds no certificate or key (`ssl.SSLError`).
        ValueError: The name cannot be sent, or the fingerprint is none.
    """
    if not isinstance(settings, TlsSettings):
        settings = TlsSettings(settings, server_name)
    context = NodeContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[settings.min_version]
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif settings.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if settings.ca_file is not None:
        context.load_verify_locations(settings.ca_file)
    if settings.cert_file is not None:
        # A password would be asked for on the terminal; an empty one is an error at once.
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    context.pin = _pin(settings.fingerprint)
    bio = ssl.MemoryBIO()
    try:
        context.wrap_bio(bio, bio, server_hostname=settings.server_name or "localhost")
    except ValueError as error:
        raise ValueError(f"server_name is {settings.server_name!r}; use a host name") from error
    return context


def _pin(fingerprint: str | None) -> str:
    if fingerprint is None:
        return ""
    pin = fingerprint.replace(":", "").lower()
    if len(pin) != _HEX_CHARS or set(pin) - set("0123456789abcdef"):
        raise ValueError(f"fingerprint is {fingerprint!r}; use 64 hex digits (SHA-256)")
    return pin


def tls_failed(error: ssl.SSLError) -> Failed:
    """Say what an error of the handshake, or of the stream, means."""
    if isinstance(error, PinError):
        return Failed(Phase.TLS, str(error.args[-1]))
    if isinstance(error, ssl.SSLCertVerificationError):
        kind = _CERTIFICATE.get(error.verify_code, "untrusted")
        return Failed(Phase.TLS, f"certificate {kind}: {printable(error.verify_message)}")
    reason = (error.reason or str(error)).replace("_", " ").lower()
    return Failed(Phase.TLS, f"handshake failed: {printable(reason)}")


# ------------------------------------------------------------------ the stream
class Stream:
    """One TLS connection in memory: bytes of the wire in, plain text out, and back.

    Attributes:
        is_open: The handshake is done and the certificate is one that is taken.
        is_ended: The peer said that it sends no more: what came is whole.
    """

    __slots__ = ("_in", "_out", "is_ended", "is_open", "tls")

    def __init__(
        self, context: ssl.SSLContext, server_name: str, session: ssl.SSLSession | None
    ) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._in, self._out, server_hostname=server_name, session=session
        )
        self.is_open = False
        self.is_ended = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire; none at its end."""
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def shake_hands(self) -> bool:
        """Go on with the handshake; tell whether it is done.

        Raises:
            ssl.SSLError: It failed, or the certificate is not the pinned one.
        """
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.is_open = True
        return True

    def write(self, data: bytes) -> None:
        """Send plain text."""
        self.tls.write(data)

    def to_send(self) -> bytes:
        """Return, once, the bytes that belong on the wire."""
        return self._out.read()

    def read(self) -> bytes:
        """Return plain text; nothing where more must come first, or where the stream has ended.

        Raises:
            ssl.SSLError: What came is not TLS, or was cut off (`SSLEOFError`).
        """
        try:
            data = self.tls.read(_RECORD)
        except ssl.SSLWantReadError:
            return b""
        self.is_ended = not data
        return data

    def session(self) -> ssl.SSLSession | None:
        """Return what a later handshake can be shortened with, a copy; None where there is none."""
        session = self.tls.session
        return session if session is not None and session.has_ticket else None


# ------------------------------------------------------------------ certificates
@dataclass(frozen=True, slots=True)
class Certificate:
    """The fields of a certificate that people ask for; empty where it cannot be read.

    Attributes:
        fingerprint: SHA-256 of the whole, lower-case hex.
        until: When it expires, UTC seconds since 1970.
        names: DNS names and addresses it is for.
    """

    fingerprint: str = ""
    until: float | None = None
    subject: str = ""
    issuer: str = ""
    names: tuple[str, ...] = ()


def facts(stream: ssl.SSLObject) -> Mapping[str, str]:
    """Return what a person wants to know of a connection, by name."""
    certificate = certificate_of(stream.getpeercert(binary_form=True))
    cipher = stream.cipher()
    until = ""
    if certificate.until is not None:
        until = datetime.fromtimestamp(certificate.until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "version": stream.version() or "",
        "cipher": cipher[0] if cipher else "",
        "resumed": "yes" if stream.session_reused else "no",
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "names": ", ".join(certificate.names),
        "notAfter": until,
        "fingerprint": certificate.fingerprint,
    }


# Each node shows the same certificate for months.
@lru_cache(maxsize=1024)
def certificate_of(der: bytes | None) -> Certificate:
    """Read a certificate (RFC 5280, section 4.1); never raises."""
    if not der:
        return Certificate()
    fingerprint = hashlib.sha256(der).hexdigest()
    try:
        return _parsed(der, fingerprint)
    except (ValueError, IndexError, StopIteration, OverflowError):
        return Certificate(fingerprint)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One element of DER: tag and content."""

    tag: int
    content: bytes = field(repr=False)

    def __iter__(self) -> Iterator["_Piece"]:
        return _pieces(self.content)


def _pieces(data: bytes) -> Iterator[_Piece]:
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            width = size & 0x7F
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        if at + size > len(data):
            raise ValueError("cut off")
        yield _Piece(tag, data[at : at + size])
        at += size


_EXTENSIONS = 0xA3
_UTC_TIME = 0x17
_VERSION = 0xA0
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")
_DNS, _ADDRESS = 0x82, 0x87
_ATTRIBUTES = {
    bytes.fromhex(oid): short
    for oid, short in (
        ("550403", "CN"),
        ("550406", "C"),
        ("550407", "L"),
        ("550408", "ST"),
        ("55040a", "O"),
        ("55040b", "OU"),
    )
}


def _parsed(der: bytes, fingerprint: str) -> Certificate:
    outer = next(_pieces(der))
    parts = [piece for piece in next(iter(outer)) if piece.tag != _VERSION]
    _serial, _algorithm, issuer, validity, subject, _key, *more = parts
    _, until = validity
    names = [name for part in more if part.tag == _EXTENSIONS for name in _alt_names(part)]
    return Certificate(fingerprint, _time(until), _name(subject), _name(issuer), tuple(names))


def _time(piece: _Piece) -> float:
    text = piece.content.decode("ascii")
    if piece.tag == _UTC_TIME:  # two digits of the year; RFC 5280, 4.1.2.5.1
        text = ("20" if int(text[:2]) < 50 else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _name(name: _Piece) -> str:
    found = []
    for relative in name:
        for attribute in relative:
            oid, value = attribute
            short = _ATTRIBUTES.get(oid.content)
            if short:
                found.append(f"{short}={printable(value.content.decode('utf-8', 'replace'))}")
    return ", ".join(found)


def _alt_names(extensions: _Piece) -> Iterator[str]:
    for extension in next(iter(extensions)):
        oid, *_critical, value = extension
        if oid.content != _SUBJECT_ALT_NAME:
            continue
        for name in next(_pieces(value.content)):
            if name.tag == _DNS:
                yield printable(name.content.decode("ascii", "replace"))
            elif name.tag == _ADDRESS:
                yield str(ip_address(name.content))
