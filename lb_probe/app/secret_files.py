"""Secrets in files that the configuration names: read when a process starts or reloads.

`check` judged the files before; what is found here came about since.
"""

from pathlib import Path

from lb_probe.config import SENDABLE, is_sendable
from lb_probe.ports import Invalid


def secret_of(file: Path) -> bytes:
    """Return the secret of an agent's report, without the end of its line.

    Raises:
        Invalid: It cannot be read, or is empty.
    """
    return _read(file, "the secret of a report")


def token_of(file: Path) -> str:
    """Return an operator's token, without the end of its line.

    Raises:
        Invalid: It cannot be read, or could not be sent in a header.
    """
    token = _read(file, "a token")
    if not is_sendable(token):
        raise Invalid(f"{file}: found no token; wanted {SENDABLE}")
    return token.decode()


def _read(file: Path, wanted: str) -> bytes:
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise Invalid(f"{file}: {error.strerror or error}; wanted {wanted}") from None
    if not secret:
        raise Invalid(f"{file}: found nothing; wanted {wanted}")
    return secret
