"""The file a map is loaded from: what survives a reload and a restart.

`set map` changes the running map and never the file. So the file is written first, whole or not at
all: a copy beside it, synced, then renamed over it. All that is not ours in it stays as it was.
Many services share one file and move at the same moment: whatever waits while one write runs goes
into the next one together.

From the rename on every HAProxy that starts reads the new file; a power cut may still undo it until
the folder is synced too. That is a second wait for the disk, so HAProxy is told meanwhile: `put`,
then the command, then `kept`, and only then is it published.

Source: HAProxy configuration manual, "map"; rename(2), fsync(2).
"""

import asyncio
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lb_probe.adapters.haproxy.words import reason
from lb_probe.ports import PublishError

MAX_FILE_BYTES = 1 << 24
_LOCK_S = 1.0
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class FileView:
    """What a map file says.

    Attributes:
        values: The value of each key; of a key that is there twice, the first, as HAProxy does.
        problem: Why it cannot be told; empty where it can.
    """

    values: Mapping[str, str]
    problem: str = ""


@dataclass(slots=True)
class _Batch:
    """Entries that go into the next write together."""

    entries: dict[str, str]
    done: asyncio.Future[PublishError | bool | None]


class MapFile:
    """One map file and the only one in this process who writes it.

    Args:
        path: As this process reaches it; a symlink is followed.
        timeout_s: For one write, the wait for the one before it included.
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._batch: _Batch | None = None
        self._turn = asyncio.Lock()
        self._thread: asyncio.Future[None] | None = None
        self._renamed = self._synced = 0  # writes begun, and those that a sync of the folder covers
        self._syncing: asyncio.Future[None] | None = None
        self._stamp: object = None
        self._view = self._good = FileView({})
        self._occasion: int | None = None

    def look(self, reading: int) -> FileView:
        """Return what the file says now; it is read again only where it has changed.

        Args:
            reading: One number for all who ask on the same occasion: they get the same answer.
        """
        if reading != self._occasion:
            self._occasion = reading
            self._view = self._look()
        return self._view

    def _look(self) -> FileView:
        try:
            found = self.path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            if stamp != self._stamp:
                values: dict[str, str] = {}
                for line in _read(self.path).splitlines():
                    key, value = _entry(line)
                    if key:
                        values.setdefault(_text(key), _text(value))
                self._good, self._stamp = FileView(values), stamp
        except OSError as exc:
            self._stamp = None
            return FileView({}, f"{self.path} cannot be read ({reason(exc)})")
        return self._good

    async def put(self, entries: Mapping[str, str]) -> None:
        """Make the file say this; what it says already is not written again.

        Raises:
            PublishError: It could not be written; it is as it was.
        """
        while True:
            if self._batch is None:
                await self._lead(entries)
                return
            self._batch.entries.update(entries)
            outcome = await asyncio.shield(self._batch.done)
            if isinstance(outcome, PublishError):
                raise outcome
            if outcome:
                return
            # Who would have written was cancelled: one of us does.

    async def _lead(self, entries: Mapping[str, str]) -> None:
        loop = asyncio.get_running_loop()
        batch = self._batch = _Batch(dict(entries), loop.create_future())
        outcome: PublishError | bool | None = None
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                if self._thread is not None:  # one that was given up, and may still write
                    await asyncio.wait([self._thread])
                self._batch = None
                self._renamed += 1
                self._thread = loop.run_in_executor(None, _write, self.path, batch.entries)
                await asyncio.shield(self._thread)
            outcome = True
        except OSError as exc:
            outcome = PublishError(_why(self.path, exc, self._timeout_s))
            raise outcome from exc
        finally:
            if self._batch is batch:
                self._batch = None
            batch.done.set_result(outcome)
            if self._thread is not None:
                self._thread.add_done_callback(_forget)

    async def kept(self) -> None:
        """Return when all that was put is on disk under its name; those who wait share a sync.

        Raises:
            PublishError: That is not known; the next call tries again.
        """
        wanted = self._renamed
        try:
            async with asyncio.timeout(self._timeout_s):
                while self._synced < wanted:
                    await self._sync()
        except OSError as exc:
            is_late = isinstance(exc, TimeoutError)
            why = f"not within {self._timeout_s:g}s" if is_late else reason(exc)
            raise PublishError(
                f"map file {self.path} is written and HAProxy was told, but its folder cannot be"
                f" synced ({why}): a power cut may bring the old assignment back; look at the disk"
            ) from exc

    async def _sync(self) -> None:
        # One that has ended is not waited for: that would take no time, for ever.
        if self._syncing is None or self._syncing.done():
            loop = asyncio.get_running_loop()
            self._syncing = loop.run_in_executor(None, _sync_folder, self.path)
            self._syncing.add_done_callback(partial(self._note_sync, self._renamed))
        await asyncio.shield(self._syncing)

    def _note_sync(self, covered: int, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._synced = max(self._synced, covered)


def _forget(done: asyncio.Future[None]) -> None:
    # A write that was given up ends unheard; without this its error would be logged as lost.
    if not done.cancelled():
        done.exception()


# ------------------------------------------------------------------ text
def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _entry(line: bytes) -> tuple[bytes, bytes]:
    """Return key and value of a line; both empty for a comment and an empty line."""
    line = line.strip(_BLANKS)
    if not line or line.startswith(b"#"):
        return b"", b""
    key, _, rest = line.replace(b"\t", b" ").partition(b" ")
    return key, rest.strip(_BLANKS)


def with_entries(text: bytes, entries: Mapping[str, str]) -> bytes:
    r"""Return the file's text with these entries; all other lines stay as they are.

    >>> with_entries(b"# services\nmail a\nepmm a # old\n", {"epmm": "b", "new": "none"})
    b'# services\nmail a\nepmm b\nnew none\n'
    """
    wanted = {key.encode(): value.encode() for key, value in entries.items()}
    placed: set[bytes] = set()
    lines = []
    for line in text.splitlines(keepends=True):
        key, value = _entry(line)
        if key not in wanted:
            lines.append(line)
        elif key not in placed:  # a key's second line would be a second entry after a restart
            placed.add(key)
            lines.append(line if value == wanted[key] else key + b" " + wanted[key] + b"\n")
    missing = [key + b" " + value + b"\n" for key, value in wanted.items() if key not in placed]
    if missing and lines and not lines[-1].endswith((b"\n", b"\r")):
        lines[-1] += b"\n"
    return b"".join(lines + missing)


# ------------------------------------------------------------------ disk, in a thread
def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        text = file.read(MAX_FILE_BYTES + 1)
    if len(text) > MAX_FILE_BYTES:
        raise OSError(f"it has more than {MAX_FILE_BYTES} bytes")
    return text


def _write(path: Path, entries: Mapping[str, str]) -> None:
    real = Path(os.path.realpath(path))
    with _locked(real.parent):
        old = real.stat()
        text = _read(real)
        new = with_entries(text, entries)
        if new == text:
            return
        # One name, always: a process killed here leaves one file behind, which the next one uses.
        draft = real.with_name(f".{real.name}.lb-probe")
        try:
            _write_draft(draft, new, old)
            draft.rename(real)  # before this line the old file stands, after it the new one
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _sync_folder(path: Path) -> None:
    folder = os.open(Path(os.path.realpath(path)).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # a rename is not on disk before its folder is
    finally:
        os.close(folder)


def _write_draft(draft: Path, text: bytes, like: os.stat_result) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(draft, flags, 0o600)
    try:
        found = os.fstat(file)
        if (found.st_uid, found.st_gid) != (like.st_uid, like.st_gid):
            os.fchown(file, like.st_uid, like.st_gid)
        os.fchmod(file, stat.S_IMODE(like.st_mode))
        while text:
            text = text[os.write(file, text) :]
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes that write maps in this folder out."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(int(_LOCK_S / 0.01)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
        else:
            raise OSError(f"another process has kept its folder locked for {_LOCK_S:g}s")
        yield
    finally:
        os.close(file)


def _why(path: Path, exc: OSError, timeout_s: float) -> str:
    real = Path(os.path.realpath(path))
    user = f"uid {os.geteuid()}"
    match exc:
        case FileNotFoundError():
            found = "it does not exist"
            wanted = "is `local_file` the file that HAProxy loads? If so make it, with its keys"
        case TimeoutError():
            found = f"it was not on disk within {timeout_s:g}s"
            wanted = "look at the disk"
        case PermissionError():
            found = reason(exc)
            wanted = (
                f"{user} must be able to write the folder {real.parent} and own {real.name}"
                f" (`chown` both to the service's user), or leave `local_file` out"
            )
        case _:
            found = reason(exc)
            wanted = f"{user} must be able to make and rename files in {real.parent}"
    return f"map file {path} cannot be written ({found}): {wanted}; nothing was sent to HAProxy"
