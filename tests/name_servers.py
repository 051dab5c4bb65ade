"""Real name servers on loopback, BIND 9 and Knot, as this user, each in a folder of its own."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import dns.tsig
import dns.update
import pytest
from free_ports import free_port

from lb_probe.adapters.dns_update import DnsUpdate, Key

PATIENT_S = 20.0
ZONE = "example.test"
RECORD = "epmm.example.test"
MARK = f"_lb-probe.{RECORD}"
NODES = {"epmm-a": ["192.0.2.10"], "epmm-b": ["192.0.2.11"]}
BOTH = {"epmm-a": ["192.0.2.10", "2001:db8::10"], "epmm-b": ["192.0.2.11", "2001:db8::11"]}
ALIASES = {"epmm-a": ["a.example.net"], "epmm-b": ["b.example.net"]}
SECRET = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiBETlM="
KEY = Key("lb-probe", "hmac-sha256", SECRET)
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")

ZONE_TEXT = """\
$ORIGIN example.test.
$TTL 60
@    SOA ns.example.test. admin.example.test. 1 3600 600 86400 30
@    NS  ns.example.test.
ns   A   127.0.0.1
{more}
"""

BIND = """\
options {{
    directory "{folder}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none; session-keyfile none;
    recursion no; dnssec-validation no; allow-transfer {{ any; }}; notify explicit;
    notify-delay 0; startup-notify-rate 1000; notify-rate 1000;
    {options}
}};
controls {{ }};
key lb-probe {{ algorithm hmac-sha256; secret "{secret}"; }};
key other {{ algorithm hmac-sha256; secret "{secret}"; }};
{zone}
"""
BIND_PRIMARY = """\
zone example.test {{
    type primary; file "zone"; {more}
    update-policy {{
        grant lb-probe name epmm.example.test. A AAAA CNAME;
        grant lb-probe name _lb-probe.epmm.example.test. TXT;
    }};
}};
zone fixed.test {{ type primary; file "zone-fixed"; }};
"""
BIND_SECONDARY = """\
zone example.test {{
    type secondary; file "copy"; masterfile-format text;
    primaries port {primary} {{ 127.0.0.1; }}; allow-notify {{ 127.0.0.1; }};
}};
"""
KNOT = """\
server:
    listen: 127.0.0.1@{port}
    rundir: {folder}
database:
    storage: {folder}/db
log:
  - target: stderr
    any: info
key:
  - id: lb-probe
    algorithm: hmac-sha256
    secret: {secret}
  - id: other
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: move
    key: lb-probe
    action: update
    update-type: [A, AAAA, CNAME, TXT]
    update-owner: name
    update-owner-match: equal
    update-owner-name: [epmm, _lb-probe.epmm]
zone:
  - domain: example.test
    storage: {folder}
    file: zone
    acl: move
"""


def program(name: str) -> str:
    """Return where a server is, or skip the test."""
    found = shutil.which(name, path=os.pathsep.join([*_SBIN, os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"no {name}: `make servers` installs it")
    return found


class NameServer:
    """One name server; `start`, `kill` and `stop` may be called in turn, `close` ends it.

    Args:
        kind: `named` or `knotd`.
        primary: Port of the server that this one copies; 0 for one that takes updates.
        notify: Port of a secondary to tell of changes.
    """

    def __init__(
        self,
        kind: str,
        *,
        primary: int = 0,
        notify: int = 0,
        options: str = "",
        records: str = "",
    ) -> None:
        self.kind = kind
        self._binary = program(kind)
        self.folder = Path(tempfile.mkdtemp(prefix="dns", dir="/tmp"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "log"
        (self.folder / "db").mkdir()
        (self.folder / "zone").write_text(ZONE_TEXT.format(more=records))
        (self.folder / "zone-fixed").write_text(
            ZONE_TEXT.format(more="").replace("example", "fixed")
        )
        values = {"folder": self.folder, "port": self.port, "secret": SECRET}
        if kind == "knotd":
            text = KNOT.format(**values)
        else:
            told = f"also-notify port {notify} {{ 127.0.0.1; }};" if notify else ""
            zone = BIND_SECONDARY.format(primary=primary) if primary else BIND_PRIMARY
            text = BIND.format(
                zone=zone if primary else zone.format(more=told), options=options, **values
            )
        self._config = self.folder / "config"
        self._config.write_text(text)

    def follow(self, port: int) -> None:
        """Copy the zone from the primary on this port."""
        text = re.sub(r"primaries port \d+", f"primaries port {port}", self._config.read_text())
        self._config.write_text(text)

    def unfollow(self) -> None:
        """From the next start on, serve what was copied and ask nobody."""
        text = re.sub(r"type secondary.*?};.*?};", 'type primary; file "copy";',
                      self._config.read_text(), flags=re.DOTALL)  # fmt: skip
        self._config.write_text(text)

    @property
    def place(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    async def start(self) -> None:
        """Start it and wait until it answers for the zone."""
        if self.kind == "knotd":
            line = [self._binary, "-c", str(self._config)]
        else:
            line = [self._binary, "-g", "-n", "1", "-c", str(self._config)]
        self._process = self._spawn(line)
        async with asyncio.timeout(PATIENT_S):
            while not await self._answers():
                assert self._process.poll() is None, self._log.read_text()
                await asyncio.sleep(0.02)

    def _spawn(self, line: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(line, stdout=log, stderr=log)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError, EOFError, dns.exception.DNSException):
            return (await self.ask(ZONE, "SOA")).rcode() == 0
        return False

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    @contextlib.contextmanager
    def frozen(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[misc]
        """Stop it in its tracks: connections are accepted by the kernel, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            # Each thread stops when it is next scheduled; until then it may still answer.
            tasks = Path(f"/proc/{self._process.pid}/task")
            while any(_state(task) != "T" for task in tasks.iterdir()):
                time.sleep(0.001)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -------------------------------------------------------------- by hand
    async def ask(self, name: str, kind: str) -> dns.message.Message:
        query = dns.message.make_query(name, kind, flags=0)
        return await dns.asyncquery.tcp(query, "127.0.0.1", timeout=10, port=self.port)

    async def says(self, kind: str = "A", name: str = RECORD) -> list[str]:
        answer = await self.ask(name, kind)
        return sorted(
            rdata.to_text() for rrset in answer.answer if rrset.name.to_text() == f"{name}."
            for rdata in rrset
        )  # fmt: skip

    async def serial(self) -> int:
        return int((await self.says("SOA", ZONE))[0].split()[2])

    async def edit(self, change: Callable[[dns.update.UpdateMessage], None]) -> None:
        """Change the zone by hand, as an administrator would."""
        message = dns.update.UpdateMessage(ZONE, keyring=KEY.to_dns())
        change(message)
        answer = await dns.asyncquery.tcp(message, "127.0.0.1", timeout=10, port=self.port)
        assert answer.rcode() == 0, answer


@contextlib.asynccontextmanager
async def serving_names(kind: str, **how: object) -> AsyncIterator[NameServer]:
    server = NameServer(kind, **how)  # type: ignore[arg-type]
    try:
        await server.start()
        yield server
    finally:
        server.close()


def mover(*servers: NameServer | tuple[str, int], **more: object) -> DnsUpdate:
    """Return an adapter for these servers, the first of which takes updates."""
    values = {"zone": ZONE, "record": RECORD, "values": NODES, "key": KEY} | more
    key = values["key"]
    values["key"] = key if callable(key) else lambda: key
    places = [s.place if isinstance(s, NameServer) else s for s in servers]
    return DnsUpdate(values.pop("name", "gslb"), places, **values)  # type: ignore[arg-type]


def _state(task: Path) -> str:
    """Return the letter of proc(5) for what a thread does."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
