"""Two agents in this process that trust each other, or not; real sockets, real TLS, real files."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

from lb_probe.agent import daemon
from lb_probe.agent.connectivity.part import Connectivity, ConnectivitySettings
from lb_probe.agent.connectivity.ports import Pace
from lb_probe.agent.parity.part import Parity, ParitySettings
from lb_probe.agent.trust.part import Trust, TrustSettings
from lb_probe.agent.trust.verbs import TrustVerbs
from lb_probe.core.clock_offset import Limits
from lb_probe.core.model import Role

NAMES = ("a", "b")
FAST = Pace(timeout_s=2.0, pause_s=0.05)


class SkewedClock:
    """Another clock's time, ahead by so many seconds; its monotonic time is the same."""

    def __init__(self, clock: Any, ahead_s: float = 0.0) -> None:
        self._clock = clock
        self.ahead_s = ahead_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)

    def wall(self) -> float:
        return self._clock.wall() + self.ahead_s


@dataclass
class Post:
    """An outbox that keeps what people would be told."""

    notices: list[Any] = field(default_factory=list)

    async def put(self, notice: Any) -> None:
        self.notices.append(notice)

    def told(self, event_class: str) -> list[str]:
        return [one.stage.value for one in self.notices if one.event_class == event_class]


@dataclass
class Agent:
    """One agent of the pair and what a test reaches of it."""

    name: str
    folder: Path
    port: int
    clock: SkewedClock
    sink: Any
    call: Any
    parts: dict[str, Any] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: Any = None
    post: Post = field(default_factory=Post)

    @property
    def control(self) -> Path:
        return self.folder / f"{self.name}.sock"

    @property
    def trust(self) -> Trust:
        return self.parts["trust"]

    async def ask(self, command: str, **more: object) -> Any:
        return await self.call(self.control, {"command": command, **more})

    async def fingerprint(self) -> str:
        return (await self.ask("trust-list"))["fingerprint"]

    async def add(self, other: "Agent") -> Any:
        """Do what a person does: carry the export over and compare the fingerprint."""
        export = (await other.ask("trust-export"))["export"]
        seen = await other.fingerprint()
        return await self.ask("trust-add", export=export, fingerprint=seen, reason="setup")


class Pair:
    """Agents a (Primary) and b (Secondary)."""

    def __init__(self, folder: Path, clock: Any, make_sink: Any, call: Any) -> None:
        self.ports = {name: free_port() for name in NAMES}
        self.agents = {
            name: Agent(name, folder, self.ports[name], SkewedClock(clock), make_sink(), call)
            for name in NAMES
        }
        self.a, self.b = self.agents["a"], self.agents["b"]
        # What a test may change before an agent starts.
        self.tested: dict[str, list[Any]] = {"a": [], "b": []}
        self.parity: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
        self.limits = Limits()
        self.page_clock = None
        self.reach = dict(self.ports)  # where an agent is looked for; a test may put a proxy there

    def start(self, name: str) -> None:
        agent = self.agents[name]
        other = "b" if name == "a" else "a"
        agent.stop = asyncio.Event()
        agent.parts.clear()

        def trust(node):
            made = Trust(
                node,
                TrustSettings(
                    listen=("127.0.0.1", agent.port),
                    folder=agent.folder / f"{name}.trust",
                    peers={other: ("127.0.0.1", self.reach[other])},
                    partner=other,
                    interval_s=0.2,
                    timeout_s=3.0,
                    clock=self.limits,
                    page_clock=self.page_clock,
                ),
            )
            agent.parts["trust"] = made
            return made

        def connectivity(node):
            settings = ConnectivitySettings(
                own=self.tested[name], theirs={other: self.tested[other]}, pace=FAST
            )
            agent.parts["connection"] = Connectivity(agent.trust, settings)
            return agent.parts["connection"]

        def parity(node):
            more = {"config": "c" * 64, "config_on_disk": lambda: "c" * 64, "timeout_s": 2.0}
            settings = ParitySettings(**(more | self.parity[name]))
            agent.parts["parity"] = Parity(agent.trust, settings)
            return agent.parts["parity"]

        setup = daemon.Setup(
            node=name,
            role=Role.PRIMARY if name == "a" else Role.SECONDARY,
            listen=("127.0.0.1", 0),
            control=agent.control,
            state=agent.folder / f"{name}.json",
            report=("127.0.0.1", free_port()),
            outbox=agent.post,
            parts=[trust, lambda node: TrustVerbs(agent.trust), connectivity, parity],
        )
        agent.task = asyncio.ensure_future(daemon.run(setup, agent.clock, agent.stop, agent.sink))

    async def end(self, name: str) -> None:
        agent = self.agents[name]
        if agent.task is not None:
            agent.stop.set()
            await agent.task

    async def trust_each_other(self) -> None:
        await self.a.add(self.b)
        await self.b.add(self.a)


@pytest.fixture
def pair(tmp_path, clock, sink, eventually, call):
    @asynccontextmanager
    async def start(change=None, *, trusting=True):
        found = Pair(tmp_path, clock, type(sink), call)
        if change is not None:
            change(found)
        for name in NAMES:
            found.start(name)
        try:
            for agent in found.agents.values():
                await eventually(
                    lambda agent=agent: (
                        agent.task.done()
                        or bool(agent.sink.named("agent.started") and not agent.trust.ring.fault)
                    )
                )
                if agent.task.done():
                    agent.task.result()
            if trusting:
                await found.trust_each_other()
            yield found
        finally:
            for name in NAMES:
                await found.end(name)

    return start
