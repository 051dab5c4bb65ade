"""What this machine is, read from the system; nothing here fails, what is not known is None.

Source: guide lines 68-71, 90-92; R8, R9, R11, R23, R75.
"""

import asyncio
import base64
import ctypes
import hashlib
import os
import platform
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from lb_probe import __version__
from lb_probe.agent.trust.wire import WireError, connect
from lb_probe.program import Ended, Program

_MACHINE_ID = Path("/etc/machine-id")
_SSH = Path("/etc/ssh")
_TIME_ERROR = 5  # adjtimex(2): the clock is kept by nobody
_AT_ONCE = 16


def machine() -> Mapping[str, object]:
    """Return the facts that only a look is needed for; blocking, a few file reads."""
    return {
        "hostname": socket.gethostname(),
        "machine": _machine(),
        "os": _os(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory(),
        "agent": __version__,
        "is_clock_kept": _is_clock_kept(),
        "ssh_host_keys": _ssh_host_keys(),
    }


def _machine() -> str | None:
    """Return a digest of the machine's id: machine-id(5) asks not to show the id itself."""
    try:
        text = _MACHINE_ID.read_bytes().strip()
    except OSError:
        return None
    return hashlib.sha256(b"lb-probe:" + text).hexdigest() if text else None


def _os() -> str | None:
    try:
        named = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        named = platform.system()
    return f"{named} {platform.machine()}"[:200]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _is_clock_kept() -> bool | None:
    """Ask the kernel whether something disciplines the clock; nothing is set."""
    try:
        # struct timex is 208 bytes on 64-bit Linux, and all zero is a question only.
        found = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if found < 0 else found != _TIME_ERROR


def _ssh_host_keys() -> tuple[str, ...]:
    """Return the fingerprints of the SSH server's keys, as `ssh-keygen -l` prints them."""
    found = []
    for path in sorted(_SSH.glob("ssh_host_*_key.pub")):
        try:
            blob = base64.b64decode(path.read_text().split()[1], validate=True)
        except (OSError, ValueError, IndexError):
            continue
        digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
        found.append(f"SHA256:{digest}")
    return tuple(found)


def disks(paths: Sequence[Path]) -> dict[str, int | None]:
    """Return the size in bytes of the file system behind each path; blocking."""
    return {str(path): _size(path) for path in paths}


def _size(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).total
    except OSError:
        return None


async def reached(places: Sequence[tuple[str, int]], timeout_s: float) -> dict[str, str]:
    """Return for each destination why it was not reached; empty where it was."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(host: str, port: int) -> str:
        async with slots:
            try:
                sock = await connect(host, port, timeout_s)
            except WireError as error:
                return str(error)
        sock.close()
        return ""

    found = await asyncio.gather(*(one(host, port) for host, port in places))
    names = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in places]
    return dict(zip(names, found, strict=True))


async def first_line(program: Program) -> str | None:
    """Return the first line that a program prints; None where it failed or says nothing."""
    ended = await _ran(program)
    if ended is None or ended.fault:
        return None
    line = ended.out.strip().partition(b"\n")[0].decode("utf-8", "replace").strip()
    return "".join(char for char in line if char.isprintable())[:200] or None


async def digest(program: Program) -> str | None:
    """Return the SHA-256 of what a program prints; None where it failed or said too much."""
    ended = await _ran(program)
    if ended is None or ended.fault or ended.is_cut:
        return None
    return hashlib.sha256(ended.out).hexdigest()


async def _ran(program: Program) -> Ended | None:
    try:
        return await program.run()
    except OSError:
        return None
