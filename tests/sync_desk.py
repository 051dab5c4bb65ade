"""A Standby whose replication runs: real state, history and programs; only the peer is told."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lb_probe.agent.checks import Checks
from lb_probe.agent.control import Caller
from lb_probe.agent.node import Node
from lb_probe.agent.pages import Pages
from lb_probe.agent.peer import PeerError
from lb_probe.agent.replication.part import Replication
from lb_probe.agent.replication.settings import Settings
from lb_probe.agent.state import StateFile, Switch
from lb_probe.clock import SystemClock
from lb_probe.core.model import Mode, Role
from lb_probe.core.peer_report import PeerReport

REIGN = 1_000_000_000.0  # a Primary since long ago
COPY = 'cp "$SOURCE/data" "$TARGET/data" && echo "sync: changed 1" && echo "sync: complete"'


class WallClock(SystemClock):
    """The system's clock, whose wall a test sets."""

    offset_s = 0.0

    def wall(self):
        return super().wall() + self.offset_s


@dataclass
class ToyPeer:
    """What the partner says: values, or why there are none."""

    name: str = "a"
    said: PeerReport | None = None
    why_not: str = "connection refused"
    now: object = None

    async def report(self):
        if self.said is None:
            raise PeerError(self.why_not)
        if self.said.mode is Mode.PRIMARY and self.now is not None:
            return replace(self.said, data_until=self.now())
        return self.said

    def says(self, **changed):
        assert self.said is not None
        self.said = replace(self.said, **changed)


@dataclass
class Standby:
    """The node under test, `b`, which copies from `a`."""

    node: Node
    part: Replication
    peer: ToyPeer
    clock: WallClock
    events: list
    source: Path
    target: Path

    async def ask(self, name, uid=0, **said):
        """Ask as the control socket does; return every line of the answer."""
        command = next(c for c in self.part.commands() if c.name == name)
        request = command.request.model_validate(said)
        if command.answer is not None:
            return [await command.answer(request, Caller(uid))]
        return [line async for line in command.stream(request, Caller(uid))]

    async def sync(self, **said):
        """Sync by hand and return the run."""
        return (await self.ask("sync-now", **said))[-1]["run"]

    async def busy(self):
        """Wait until a sync is under way."""
        await until(lambda: self.part.status()["running"] is not None)

    async def idle(self):
        """Wait until none is."""
        await until(lambda: not self.part._worker.is_busy)

    async def runs(self):
        return [line["run"] for line in await self.ask("sync-history", limit=0) if "run" in line]

    def named(self, name):
        return [event.fields for event in self.events if event.name == name]

    async def ha(self, is_on=True):
        now = self.clock.wall()
        await self.node.save(lambda state: {"ha": Switch(is_on=is_on, since_wall=now)})


async def until(is_so):
    """Wait for something that a program outside does."""
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - it happens outside
            await asyncio.sleep(0.005)


class Events(list):
    def emit(self, event):
        self.append(event)


def sh(text):
    return ("/bin/sh", "-c", text)


@asynccontextmanager
async def started(
    folder, script=COPY, *, clock=None, role=Role.SECONDARY, peer=None, waits=True, **more
):
    """Start a Standby in a folder; `script` is its sync_command, `more` goes to its settings."""
    clock = clock or WallClock()
    events = Events()
    settings = Settings(
        **{
            "history": folder / "b.sync.db",
            "peer": "a",
            "addresses": ("192.0.2.10",),
            "sync_command": sh(script),
            "inhibits": False,
            "stop_s": 0.2,
        }
        | more
    )
    path = folder / "b.state.json"
    with StateFile(path, node="b", role=role, now_wall=clock.wall()) as state:
        checks = Checks((), clock)
        pages = Pages(state, checks, clock, sink=events)
        node = Node("b", role, state=state, checks=checks, pages=pages, clock=clock, sink=events)
        node.peer = peer or ToyPeer(
            said=PeerReport(
                node="a",
                mode=Mode.PRIMARY,
                quarantine="",
                version="1.0",
                data_reign=REIGN,
                data_until=clock.wall(),
                data_fork=(0.0, 0.0),
                data_suspect="",
                is_syncing=False,
            )
        )
        node.reports.append(lambda: {"version": found.version})
        part = Replication(node, settings)
        node.reports.append(part.report)
        found = Standby(node, part, node.peer, clock, events, folder / "source", folder / "target")
        found.version = "1.0"
        running = asyncio.ensure_future(part.run())
        try:
            await until(lambda: not waits or not part._worker.left_behind)
            yield found
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
