"""A partner as an agent sees it from outside: two pages that say what a test wants."""

import asyncio
import time
from contextlib import asynccontextmanager
from email.utils import formatdate

from loopback import listening, port_of

from lb_probe.agent.peer_pages import PeerPages
from lb_probe.core.model import Page
from lb_probe.prober.http_probe import Target

OK, ERROR = "MOBILEIRON-STATUS: OK", "MOBILEIRON-STATUS: ERROR"
PRIMARY, STANDBY = f"{OK} (Mode: Primary)", f"{OK} (Mode: Standby)"
RESET, HANG = "reset", "hang"


class WatchedPeer:
    """Serves /status/status.html and /hastatus.html until its context ends."""

    def __init__(self, status=OK, hastatus=PRIMARY):
        self.says = {"/status/status.html": status, "/hastatus.html": hastatus}
        self.asked = 0
        self.date_ahead_s: float | None = None  # None says no date
        self.port = 0

    def be(self, status, hastatus):
        self.says = {"/status/status.html": status, "/hastatus.html": hastatus}

    def die(self, how=RESET):
        self.be(how, how)

    async def _behave(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        text = self.says[head.split()[1].decode()]
        self.asked += 1
        if text == HANG:
            await reader.read()
        elif text == RESET:
            writer.transport.abort()
        else:
            code = "503 Unavailable" if text == ERROR else "200 OK"
            length = len(text) + 1
            date = ""
            if self.date_ahead_s is not None:
                date = f"Date: {formatdate(time.time() + self.date_ahead_s, usegmt=True)}\r\n"
            head = f"HTTP/1.1 {code}\r\n{date}Content-Length: {length}\r\nConnection: close\r\n\r\n"
            writer.write(f"{head}{text}\n".encode())
            await writer.drain()

    def pages(self, clock, timeout_s=0.2, ports=()):
        both = {Page.STATUS: "/status/status.html", Page.HASTATUS: "/hastatus.html"}
        targets = [
            Target("g", "peer", page, "http", "127.0.0.1", self.port, path, timeout_s=timeout_s)
            for page, path in both.items()
        ]
        targets += [
            Target("g", "peer", Page.STATUS, "tcp", "127.0.0.1", port, "", timeout_s=timeout_s)
            for port in ports
        ]
        return PeerPages("peer", tuple(targets), clock.monotonic)


@asynccontextmanager
async def watched(status=OK, hastatus=PRIMARY):
    peer = WatchedPeer(status, hastatus)
    async with listening(peer._behave) as server:
        peer.port = port_of(server)
        yield peer
        await asyncio.sleep(0)
