"""Where a store lies: a local disk, one prober's lock, each file whole or not there at all."""

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lb_probe.ports import StoreError

MOUNTINFO = Path("/proc/self/mountinfo")

# Locks and shared memory, which WAL needs, do not hold across hosts there.
_NETWORK = (
    "9p afs beegfs ceph cifs coda davfs fuse.ceph fuse.cephfs fuse.davfs2 fuse.glusterfs"
    " fuse.rclone fuse.s3fs fuse.sshfs fuse.vmhgfs-fuse glusterfs gpfs lustre ncpfs nfs nfs4"
    " ocfs2 smb3 smbfs vboxsf"
)
NETWORK_FILESYSTEMS = frozenset(_NETWORK.split())


# ------------------------------------------------------------------ what is no place for it
def filesystem_of(folder: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds `folder`, empty where that is not said.

    Args:
        folder: Absolute, without symbolic links.
        mountinfo: Text of /proc/self/mountinfo (proc(5)); of two mounts on one point the later
            one counts.
    """
    depth, kind = 0, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if len(left.split()) < 5 or not right.split():
            continue
        # Blanks in a mount point are written as octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), left.split()[4])
        if folder.is_relative_to(point) and len(Path(point).parts) >= depth:
            depth, kind = len(Path(point).parts), right.split()[0]
    return kind


def refuse_place(path: Path) -> None:
    """Refuse a folder that is missing, or on a network file system.

    Raises:
        StoreError: Says which.
    """
    if not path.parent.is_dir():
        raise StoreError(
            f"store {path}: there is no folder {path.parent}; make it, owned by the prober's user"
        )
    try:
        mountinfo = MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        return  # not Linux, or /proc is hidden: nothing can be said
    if (kind := filesystem_of(path.parent, mountinfo)) in NETWORK_FILESYSTEMS:
        raise StoreError(
            f"store {path}: {path.parent} is on a network file system ({kind}), where SQLite's"
            " locks do not hold; use a folder on a local disk"
        )


def refuse_not_a_file(path: Path) -> None:
    """Refuse a path where there is no file.

    Raises:
        StoreError: Says what is there.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"store {path}: there is no such file; restore a backup, or make a new, empty store"
            " with `lb-probe init`"
        ) from error
    if not stat.S_ISREG(mode):
        raise StoreError(f"store {path}: it is not a regular file; give the path of a store file")


def inode(path: Path) -> tuple[int, int] | None:
    """Return which file bears this name; None where none does."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


# ------------------------------------------------------------------ one prober
def take_lock(path: Path) -> int:
    """Lock the store for this process; the lock goes with the returned descriptor."""
    # The file stays for ever: to remove it would let a third prober lock another one.
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _give_to_owner(lock, path)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(
            f"store {path}: it is in use by another prober (pid {holder}); one store serves one"
            " prober: stop that one, or give this one its own"
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def holder(path: Path) -> str | None:
    """Return the pid of the prober that uses this store; None where none does, or no store is."""
    try:
        with Path(f"{path.resolve()}.lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read(20).decode(errors="replace").strip() or "unknown"
    except OSError:
        pass  # break-glass must work without a store, and with one that cannot be read
    return None


# ------------------------------------------------------------------ a new file
def _give_to_owner(fd: int, model: Path) -> None:
    # What root makes (`sudo lb-probe init`) must be usable by the service's own user.
    if os.geteuid() == 0:
        os.fchown(fd, model.stat().st_uid, model.stat().st_gid)


@contextmanager
def draft(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new file beside `target` that takes its name, synced, if the block ends well."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _give_to_owner(fd, target.parent)
        yield draft
        os.fsync(fd)
        if overwrite:
            draft.replace(target)
        else:
            _name(draft, target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.close(fd)
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{draft}{suffix}").unlink(missing_ok=True)


def _name(draft: Path, target: Path) -> None:
    try:
        target.hardlink_to(draft)  # unlike a rename, it never overwrites
    except OSError:
        if os.path.lexists(target):
            raise
        draft.rename(target)  # vfat and some shares know no second name
