"""The key with which an agent proves who it is, and the certificate that carries its public half.

TrustError             a key, a certificate or a pin cannot be used

The certificate is signed by its own key and says only a name: what makes it good is that the other
side was given it by a person. So it has no meaningful time limits either; a node whose clock is
wrong must still be able to say so.

One file holds key and certificate, so that they cannot come apart. `next.pem` is the key of a
rotation that has begun: peers may pin it before it is used.

Source: guide lines 285-295, 387; R77, R78.
"""

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lb_probe.agent.trust import kept
from lb_probe.ports import LbProbeError

_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, 4.1.2.5: has no end
_HEAD = "lb-probe agent trust"
_URI = "lb-probe:agent:"
_MAX_EXPORT = 32 * 1024


class TrustError(LbProbeError):
    """A key, a certificate or a pin cannot be used; says what was found, wanted, what to do."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The public half of an agent's identity.

    Attributes:
        node: The name it says.
        fingerprint: `sha256:` and the digest of the public key in hex; a pin is this.
        der: The whole certificate.
    """

    node: str
    fingerprint: str
    der: bytes

    @property
    def pem(self) -> str:
        """The certificate as text."""
        found = x509.load_der_x509_certificate(self.der)
        return found.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint_of(der: bytes) -> str:
    """Return the fingerprint of the public key in a certificate.

    Raises:
        TrustError: It is no certificate.
    """
    return _certificate(x509.load_der_x509_certificate, der).fingerprint


def _certificate(load: Callable[[bytes], x509.Certificate], data: bytes) -> Certificate:
    try:
        found = load(data)
        key = found.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise TrustError("found a certificate that names no agent; use an agent's export") from (
            error
        )
    except (ValueError, TypeError) as error:
        raise TrustError(f"found no certificate ({error}); wanted one of an agent") from error
    says = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(says) != 1 or not says[0].startswith(_URI) or says[0] == _URI:
        raise TrustError("found a certificate that names no agent; use an agent's export")
    der = found.public_bytes(serialization.Encoding.DER)
    return Certificate(says[0].removeprefix(_URI), _digest(key), der)


def _digest(key: bytes) -> str:
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


class Keys:
    """An agent's own key, and the next one while a rotation is under way.

    Blocking: it reads and writes files.
    """

    def __init__(self, folder: Path, node: str) -> None:
        """Read the keys, or make the first one.

        Raises:
            TrustError: A key file is another node's, broken, or readable by others.
            KeptError: The folder or a file cannot be used.
        """
        self.folder = folder
        self.node = node
        _make_folder(folder)
        self.current = read_key(self.path, node) or self._make("key.pem")
        self.next = read_key(folder / "next.pem", node)

    @property
    def path(self) -> Path:
        """The file with the key in use and its certificate."""
        return self.folder / "key.pem"

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the key in use, then of the next one."""
        return tuple(one.fingerprint for one in (self.current, self.next) if one)

    def begin_rotation(self) -> Certificate:
        """Make the next key; the same again where there is one already.

        Raises:
            KeptError: Not saved.
        """
        self.next = self.next or self._make("next.pem")
        return self.next

    def finish_rotation(self) -> Certificate:
        """Use the next key from now on; the old one is gone.

        Raises:
            TrustError: No rotation is under way.
            KeptError: Not saved.
        """
        if self.next is None:
            raise TrustError("found no next key; begin with `lb-probe agent trust rotate`")
        kept.rename(self.folder / "next.pem", self.path)
        self.current, self.next = self.next, None
        return self.current

    def export(self) -> str:
        """Return what a person carries to the other side: nothing in it is secret."""
        known = [one for one in (self.current, self.next) if one]
        words = ("in use", "next")
        lines = [f"{_HEAD}, version 1", f"node: {self.node}"]
        lines += [
            f"fingerprint ({word}): {one.fingerprint}"
            for word, one in zip(words, known, strict=False)
        ]
        return "\n".join(lines) + "\n" + "".join(one.pem for one in known)

    def _make(self, name: str) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        data = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        data += _self_signed(key, self.node)
        kept.replace(self.folder / name, data)
        return _certificate(x509.load_pem_x509_certificate, data)


def read_key(path: Path, node: str) -> Certificate | None:
    """Return the certificate in the file with a node's key; None where there is no such file.

    Raises:
        TrustError: It is another node's, broken, or readable by others.
        KeptError: It cannot be read.
    """
    data = kept.read(path)
    if data is None:
        return None
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise TrustError(f"{path}: found mode {mode:04o}; wanted 0600: a key is nobody else's")
    try:
        key = serialization.load_pem_private_key(data, password=None)
        found = _certificate(x509.load_pem_x509_certificate, data)
        public = x509.load_der_x509_certificate(found.der).public_key()
    except (ValueError, TypeError, TrustError) as error:
        raise TrustError(
            f"{path}: found no key with its certificate ({type(error).__name__}); put back a"
            " copy, or move it away: a new key is made, which peers must then be given"
        ) from error
    if public != key.public_key():
        raise TrustError(f"{path}: found a certificate of another key; put back a copy")
    if found.node != node:
        raise TrustError(
            f"{path}: found the key of {found.node!r}; wanted that of {node}: each node"
            " has a key of its own (R75)"
        )
    return found


def _self_signed(key: ec.EllipticCurvePrivateKey, node: str) -> bytes:
    public = key.public_key()
    spki = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # With the key's digest in it: two keys of one node must not have one subject.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, node[:64]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, _digest(spki)[-32:]),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        # A pinned peer must not be able to vouch for anybody else.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_URI + node)]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_export(text: str) -> tuple[Certificate, ...]:
    """Return the certificates in what `export` wrote on the other side.

    Raises:
        TrustError: There is none, one is not signed by its own key, or they say two names.
    """
    if len(text) > _MAX_EXPORT or not text.isascii():
        raise TrustError("found no export of an agent; use what `lb-probe agent trust export` says")
    try:
        blocks = x509.load_pem_x509_certificates(text.encode())
        for block in blocks:
            block.verify_directly_issued_by(block)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise TrustError(
            f"found no certificate that is signed by its own key ({type(error).__name__});"
            " use the whole output of `lb-probe agent trust export` of the other node"
        ) from error
    found = tuple(
        _certificate(x509.load_der_x509_certificate, block.public_bytes(serialization.Encoding.DER))
        for block in blocks
    )
    names = {one.node for one in found}
    if len(names) != 1:
        raise TrustError(f"found names {', '.join(sorted(names))}; wanted the export of one node")
    return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        kept.give_to_owner_of(folder.parent, folder)
    except OSError as error:
        raise kept.KeptError(
            f"{folder}: found {error.strerror}; wanted a folder for the agent's key;"
            " make the folder above it, writable for this user"
        ) from error
