"""Monitors that really look: one round asks every monitored member, as the device would.

Without it a test says itself what monitors find (`World.set`). With it the pages of a node decide:
`recv` is searched as a regular expression (POSIX ERE; what Python reads otherwise is not used
here), in the first 5,120 bytes of what comes back. A member is down after as many failures in a row
as fit into `timeout`.
"""

import asyncio
import math
import re
import ssl
from typing import TYPE_CHECKING, Any

from emulator.ltm import POOL
from emulator.monitors import monitors_of
from emulator.names import full_path, split_member

if TYPE_CHECKING:
    from emulator import Emulator

FIRST_BYTES = 5120


def matches(recv: str, answer: bytes) -> bool:
    """Tell whether the receive string is found; an empty one is content with any answer."""
    text = answer[:FIRST_BYTES].decode("latin-1")
    return bool(answer) if not recv else re.search(recv, text) is not None


class Prober:
    """Asks the members of all pools of LTM, on behalf of both units.

    Args:
        patience_s: How long one answer may take.
    """

    def __init__(self, emulator: "Emulator", patience_s: float = 2.0) -> None:
        self._emulator = emulator
        self._patience_s = patience_s
        self._failures: dict[str, int] = {}

    async def look(self) -> None:
        """Ask each of them once."""
        config = self._emulator.unit(0).running
        for pool in list(config.children(POOL)):
            for member in list(config.children((*pool, "members"))):
                address = config.objects[member]["address"].partition("%")[0]
                port = split_member(full_path(member[-1]).name)[1]
                rule = self._emulator.unit(0).health.rule(member)
                monitors = [config.objects[m] | {"type": m[2]} for m in monitors_of(config, rule)]
                if monitors:
                    service = f"{config.objects[member]['address']}:{port}"
                    found = [await self._ask(each, address, port) for each in monitors]
                    self._note(service, all(found), monitors[0])

    async def _ask(self, monitor: dict[str, Any], address: str, port: int) -> bool:
        try:
            async with asyncio.timeout(self._patience_s):
                return await is_well(monitor, address, port)
        except (OSError, TimeoutError):
            return False

    def _note(self, service: str, is_up: bool, monitor: dict[str, Any]) -> None:
        self._failures[service] = 0 if is_up else self._failures.get(service, 0) + 1
        enough = math.ceil(monitor["timeout"] / monitor["interval"])
        is_new = self._emulator.world.get(service)[0] != ("up" if is_up else "down")
        if is_new and (is_up or self._failures[service] >= enough):
            self._emulator.world.set(service, is_up)


async def is_well(monitor: dict[str, Any], address: str, port: int) -> bool:
    """Ask one member once, as one monitor does.

    Raises:
        OSError: It is not there.
    """
    reader, writer = await asyncio.open_connection(address, port, ssl=_tls(monitor["type"]))
    try:
        recv = monitor.get("recv", "")
        if not monitor.get("send") and not recv:
            return True
        writer.write(request_of(monitor.get("send", "")))
        return await _finds(reader, recv)
    finally:
        writer.close()


def _tls(kind: str) -> ssl.SSLContext | None:
    """Return how to speak TLS; a monitor of the device verifies nothing."""
    if kind != "https":
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def request_of(send: str) -> bytes:
    """Return the send string as bytes; the device ends a request that has no end."""
    text = send.encode().decode("unicode_escape")
    while not text.endswith("\r\n\r\n"):
        text += "\r\n"
    return text.encode("latin-1")


async def _finds(reader: asyncio.StreamReader, recv: str) -> bool:
    """Read until the receive string is there, or nothing more comes."""
    answer = b""
    while len(answer) < FIRST_BYTES:
        more = await reader.read(FIRST_BYTES - len(answer))
        answer += more
        if matches(recv, answer):
            return True
        if not more:
            return False
    return False
