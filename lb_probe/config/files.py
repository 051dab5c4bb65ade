"""Files that probes.yaml names: each is looked into before anything starts.

A certificate is loaded as it will be loaded later: what is broken is told here with its line, and
not by a prober that ends when it reads the file again.
"""

import re
import shlex
import ssl
import stat
from functools import lru_cache
from pathlib import Path

from lb_probe.config.source import Spot, shown
from lb_probe.config.token import SENDABLE, is_sendable
from lb_probe.config.values import parse_path


def judge_secret(spot: Spot) -> None:
    """Note a file that holds no secret, or one that others may read."""
    _judged_secret(spot)


def judge_token(spot: Spot) -> None:
    """Note a file that holds no token of an operator."""
    raw = _judged_secret(spot)
    if raw is not None and not is_sendable(raw.strip()):
        spot.fault(f"no token in {shown(spot.text)}", SENDABLE)


def judge_text(spot: Spot) -> None:
    """Note a file that holds no secret that is text, e.g. a password: it is sent as UTF-8."""
    raw = _judged_secret(spot)
    try:
        (raw or b"").decode()
    except UnicodeDecodeError:
        spot.fault(f"bytes that are no UTF-8 in {shown(spot.text)}", "the secret as text")


def judge_authorities(spot: Spot) -> None:
    """Note a file that holds no certificates."""
    path = _judged_pem(spot)
    if path is not None and (why := _broken_authorities(*_version(path))):
        found = f"a certificate that cannot be read in {shown(spot.text)} ({why})"
        spot.fault(found, "a PEM file")


def judge_chain(cert: Spot, key: Spot, *, may_be_one: bool = False) -> None:
    """Note our own certificate where it, or the key that belongs to it, cannot be used.

    Args:
        may_be_one: Without a key of its own the certificate's file holds that too.
    """
    is_one = may_be_one and key.value is None
    chain = _judged_pem(cert)
    if is_one:
        held = chain if chain is None or _judge_mode(cert, chain) else None
    else:
        held = None if _judged_secret(key) is None else _path(key)
    if chain is None or held is None:
        return
    if why := _broken_chain(*_version(chain), *_version(held)):
        place = shown(cert.text) if is_one else f"{shown(cert.text)} with {shown(key.text)}"
        found = f"a certificate or a key that cannot be used in {place} ({why})"
        cert.fault(found, "a certificate in PEM and the key that belongs to it, no password")


def _judged_secret(spot: Spot) -> bytes | None:
    """Return what a file of secrets holds; None where that was told, or there is none."""
    path, raw = _judged(spot)
    if path is None:
        return None
    if not raw.strip():
        spot.fault(f"an empty file {shown(spot.text)}", "a file with the secret")
        return None
    return raw if _judge_mode(spot, path) else None


def _judged_pem(spot: Spot) -> Path | None:
    path, raw = _judged(spot)
    if path is not None and b"-----BEGIN " not in raw:
        spot.fault(f"no certificate in {shown(spot.text)}", "a PEM file")
        return None
    return path


def _judged(spot: Spot) -> tuple[Path | None, bytes]:
    """Return a file that can be read, and what it holds; None where it was told, or is none."""
    path = _path(spot)
    if path is None:
        return None, b""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
        raw = path.read_bytes() if is_file else b""
    except (OSError, ValueError) as error:
        found = f"no readable file {shown(spot.text)} ({getattr(error, 'strerror', error)})"
        spot.fault(found, "a file that this user may read")
        return None, b""
    if not is_file:
        spot.fault(f"no regular file {shown(spot.text)}", "a regular file")
        return None, b""
    return path, raw


def _path(spot: Spot) -> Path | None:
    return spot.parsed(lambda text: parse_path(text, spot.source.folder))


def _judge_mode(spot: Spot, path: Path) -> bool:
    """Note a secret that is open to others; tell whether it is not."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007:
        found = f"mode {mode:04o}, open to others"
        spot.fault(found, f"chmod o-rwx {shlex.quote(str(path))}")
    return not mode & 0o007


# ------------------------------------------------------------------ as OpenSSL sees them
def _version(path: Path) -> tuple[Path, int]:
    """Return what names a file as it is now: a thousand nodes may name the same one."""
    return path, path.stat().st_mtime_ns


@lru_cache
def _broken_authorities(path: Path, written_ns: int) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except OSError as error:
        return _why(error)
    return ""


@lru_cache
def _broken_chain(cert: Path, cert_written_ns: int, key: Path, key_written_ns: int) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # A password would be asked for on the terminal; an empty one is an error at once.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        return _why(error)
    return ""


def _why(error: Exception) -> str:
    """Return what OpenSSL says, without the name of its library and Python's line."""
    return re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$", "", str(error)).replace("_", " ").lower()
