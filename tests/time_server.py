"""A real chronyd on loopback that serves this machine's own time; gone when the test ends."""

import asyncio
import os
import shutil
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

CHRONYD = shutil.which("chronyd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def chronyd():
    """Run one that sets no clock; yield its port once it listens."""
    if CHRONYD is None:
        pytest.skip("chronyd is not installed (Debian: chrony)")
    if os.geteuid() != 0:
        pytest.skip("chronyd starts as root only")
    with tempfile.TemporaryDirectory(prefix="chronyd-") as name:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        lines = ["local stratum 3", "allow 127.0.0.1", "bindaddress 127.0.0.1", f"port {port}"]
        lines += ["cmdport 0", "bindcmdaddress /", f"pidfile {name}/pid"]
        (Path(name) / "conf").write_text("\n".join(lines) + "\n")
        # -x: it does not touch the clock of the machine.
        server = await asyncio.create_subprocess_exec(
            CHRONYD, "-x", "-d", "-f", f"{name}/conf", "-u", "root",
            stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield port
        finally:
            server.terminate()
            await server.wait()
