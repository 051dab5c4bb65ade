"""The lock that a sync and all its children hold: whether anything of any run is alive.

The agent gives the locked file to the program it starts. The kernel keeps the lock until the last
process that has it open is gone, whoever killed the agent meanwhile; so a new agent does not start
a second copy beside one that an older agent left. A child that closes files it does not know is not
noticed.
"""

import fcntl
import os
import threading
from pathlib import Path


class RunLock:
    """One node's lock file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._looking = threading.Lock()  # who looks holds it for a moment

    def take(self) -> int:
        """Return a file descriptor that holds the lock, to be closed by the caller.

        Raises:
            BlockingIOError: Somebody holds it.
            OSError: There can be no lock file.
        """
        with self._looking:
            return self._take()

    def _take(self) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def held_by(self) -> str:
        """Say who holds it; empty where nobody does."""
        try:
            with self._looking:
                os.close(self._take())
        except BlockingIOError:
            return f"a process of an earlier sync still runs ({self._names() or 'see fuser'})"
        except OSError as error:
            return f"{self.path}: {error.strerror or error}"
        return ""

    def _names(self) -> str:
        """Name the processes that have it open, as far as we may look."""
        found = self.path.stat()
        names = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_one = any(
                    (seen := link.stat()).st_ino == found.st_ino and seen.st_dev == found.st_dev
                    for link in (process / "fd").iterdir()
                )
                if is_one and int(process.name) != os.getpid():
                    names.append(f"pid {process.name} {(process / 'comm').read_text().strip()}")
            except OSError:
                continue  # gone, or another user's
        return ", ".join(names)
