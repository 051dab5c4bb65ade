"""What the agent's tests share: a clock that can jump, a sink that remembers, and waiting."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lb_probe.agent.check import Check
from lb_probe.agent.checks import Checks
from lb_probe.agent.pages import Limits, Pages
from lb_probe.agent.state import StateFile
from lb_probe.clock import SystemClock
from lb_probe.core.model import Event, Role


class JumpingClock(SystemClock):
    """The system's clock, which a test can push forward."""

    jumped_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.jumped_s

    async def sleep(self, seconds: float) -> None:
        due = self.monotonic() + seconds
        while (left := due - self.monotonic()) > 0:  # noqa: ASYNC110 - time may jump meanwhile
            await asyncio.sleep(min(left, 0.05))


@dataclass
class Sink:
    """Remembers every event."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]


@dataclass
class Served:
    """A listener with everything behind it."""

    host: str
    port: int
    pages: Pages
    checks: Checks
    state: StateFile
    clock: JumpingClock
    sink: Sink

    async def ask(self, data: bytes) -> bytes:
        """Send these bytes on a fresh connection and read until the server closes."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body."""
        request = f"{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        head, _, body = (await self.ask(request.encode())).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()


Serve = Callable[..., AbstractAsyncContextManager[Served]]
Call = Callable[[Path, object], Awaitable[Any]]
Eventually = Callable[[Callable[[], Awaitable[bool] | bool]], Awaitable[None]]


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def eventually() -> Eventually:
    async def wait(is_so: Callable[[], Awaitable[bool] | bool]) -> None:
        async with asyncio.timeout(20):
            while True:
                found = is_so()
                if found if isinstance(found, bool) else await found:
                    return
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def call() -> Call:
    """Speak the control protocol as its docstring says; bytes go as they are."""

    async def speak(path: Path, request: object) -> Any:
        data = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            writer.write(data)
            answer = await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
        assert answer.endswith(b"\n")
        assert answer.count(b"\n") == 1
        return json.loads(answer)

    return speak


@pytest.fixture
def serve(tmp_path: Path, clock: JumpingClock, sink: Sink) -> Serve:
    """Start the listener; with `runs=False` nobody prepares pages or drops clients."""

    @asynccontextmanager
    async def start(
        role: Role = Role.PRIMARY,
        checks: Iterable[Check] = (),
        limits: Limits | None = None,
        runs: bool = True,
    ) -> AsyncIterator[Served]:
        with StateFile(tmp_path / "state.json", node="a", role=role, now_wall=0.0) as state:
            runner = Checks(checks, clock)
            pages = Pages(state, runner, clock, sink=sink, limits=limits)
            host, port = await pages.start("127.0.0.1", 0)
            tasks = [asyncio.ensure_future(runner.run())]
            if runs:
                tasks.append(asyncio.ensure_future(pages.run()))
            pages.refresh()
            try:
                yield Served(host, port, pages, runner, state, clock, sink)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await pages.stop()

    return start
