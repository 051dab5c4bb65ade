"""Small files that a crash leaves whole: the old one or the new one.

KeptError              the file cannot be read or written; says what was found, wanted, what to do
"""

import contextlib
import os
from pathlib import Path

from lb_probe.ports import LbProbeError

MAX_BYTES = 256 * 1024


class KeptError(LbProbeError):
    """A file of ours cannot be used; nothing was changed."""


def replace(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, synced, in one step.

    Raises:
        KeptError: Not written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # one that a crash left may have another mode
            give_to_owner_of(path.parent, temporary)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise KeptError(
            f"{path}: found {_said(error)}; wanted to save it;"
            " make the folder writable, with free space, and try again"
        ) from error


def rename(old: Path, new: Path) -> None:
    """Put one file in the place of another, in one step.

    Raises:
        KeptError: Not done.
    """
    try:
        old.replace(new)
        _sync(new.parent)
    except OSError as error:
        raise KeptError(
            f"{old}: found {_said(error)}; wanted it as {new.name}; make the folder writable"
        ) from error


def read(path: Path) -> bytes | None:
    """Return what is in a file; None where there is none.

    Raises:
        KeptError: It cannot be read, or is larger than any file of ours.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeptError(
            f"{path}: found {_said(error)}; wanted to read it; make it readable for this user"
        ) from error
    if len(data) > MAX_BYTES:
        raise KeptError(f"{path}: found more than {MAX_BYTES} bytes; put back a copy")
    return data


def give_to_owner_of(folder: Path, path: Path) -> None:
    """Where root works for an agent that is another user, let that user own what is made.

    Raises:
        OSError: It cannot be done.
    """
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__
