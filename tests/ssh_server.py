"""A real sshd on loopback, as a user of its own where we are root; gone when the test ends."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
_NOBODY = "nobody"


def _patient() -> list[str]:
    """From 9.8 on it shuts out who comes often and never logs in, as tests do."""
    if SSHD is None:
        return []
    said = subprocess.run([SSHD, "-V"], capture_output=True, text=True)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stderr + said.stdout)
    is_new = found is not None and (int(found[1]), int(found[2])) >= (9, 8)
    return ["PerSourcePenalties no"] if is_new else []


_PATIENT = _patient()


@contextmanager
def sshd(*lines: str) -> Iterator[tuple[int, str]]:
    """Run one with a host key of its own; yield its port and the fingerprint of that key."""
    if SSHD is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    with tempfile.TemporaryDirectory(prefix="sshd-") as name:
        folder = Path(name)
        key = folder / "key"
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        subprocess.run(made, check=True, capture_output=True)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        config = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {key}", "PidFile none"]
        config += ["UsePAM no", "MaxStartups 100", *_PATIENT, *lines]
        (folder / "config").write_text("\n".join(config) + "\n")
        more = {}
        if os.geteuid() == 0:  # as root it wants a folder of the system's
            user = pwd.getpwnam(_NOBODY)
            for path in (folder, *folder.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
            more = {"user": _NOBODY}
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL, **more
        )
        try:
            _wait(port, process)
            listed = ["ssh-keygen", "-l", "-f", str(key.with_suffix(".pub"))]
            printed = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
            yield port, printed.split()[1]
        finally:
            process.terminate()
            process.wait(10)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"sshd did not start: {process.poll()}")
