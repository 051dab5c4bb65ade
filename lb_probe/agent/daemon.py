"""One agent from start to drain: state, pages, checks, control and the features tied together."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from lb_probe.agent.check import Check
from lb_probe.agent.checks import Checks
from lb_probe.agent.clients import Clients
from lb_probe.agent.control import Control
from lb_probe.agent.node import Node, Part
from lb_probe.agent.notices import Notices
from lb_probe.agent.pages import Pages
from lb_probe.agent.promotion import Commands
from lb_probe.agent.roles import Roles
from lb_probe.agent.state import StateFile
from lb_probe.agent.traffic import Traffic
from lb_probe.agent.verbs import Verbs
from lb_probe.core.model import Role
from lb_probe.core.peer_report import CHALLENGE
from lb_probe.events.audit import Audit
from lb_probe.events.log import Fanout
from lb_probe.ports import Clock, EventSink, Outbox

RESTART_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What one agent is made of.

    Attributes:
        role: Decides the mode only on the very first start (R70).
        listen: Host and port of the pages; port 0 takes a free one, named in `agent.started`.
        state: Where the node's state is kept; the audit log is beside it.
        drain_s: Seconds for which both pages say ERROR before they are gone: longer than a load
            balancer's interval times its fall.
        report: Host and port of the report and the metrics; None serves none.
        secret: Signs the report, and proves what the prober says; empty does neither.
        parts: Makes each feature, in the order of their sections in the status answer.
        commands: The operator's programs.
        roles: Makes the roles of the control socket; None gives nobody but root and us any.
        outbox: Where people are told things; None tells nobody.
        open_outbox: Opens one once it is certain that no other agent of this node runs.
    """

    node: str
    group: str = ""
    role: Role
    listen: tuple[str, int]
    control: Path
    state: Path
    checks: Iterable[Check] = ()
    drain_s: float = 0.0
    report: tuple[str, int] | None = None
    secret: bytes = b""
    parts: Sequence[Callable[[Node], Part]] = ()
    commands: Commands = field(default_factory=Commands)
    roles: Callable[[Clock], Roles] | None = None
    outbox: Outbox | None = None
    open_outbox: Callable[[EventSink], AbstractAsyncContextManager[Outbox | None]] | None = None


async def run(setup: Setup, clock: Clock, stop: asyncio.Event, sink: EventSink) -> None:
    """Be the agent of one node until `stop` is set, then drain and return.

    Everything that can be refused is refused before a page is served. Cancelling ends it at once,
    without the drain, and leaves nothing behind either.

    Args:
        sink: Takes `agent.started`, `agent.stopped` and what happens between them.

    Raises:
        StateError: The state file cannot be used, or another agent of this node runs.
        ListenError: An address cannot be listened on.
        ControlError: The control socket cannot be made.
        AuditError: What operators do could not be put on record.
        ValueError: Two checks, two parts or two commands have one name.
    """
    name = setup.node
    async with contextlib.AsyncExitStack() as stack:
        state = await asyncio.to_thread(
            StateFile, setup.state, node=name, role=setup.role, now_wall=clock.wall()
        )
        stack.callback(state.close)
        events = Fanout(sink.emit)
        checks = Checks(setup.checks, clock)
        pages = Pages(state, checks, clock, sink=events)
        node = Node(
            name, setup.role, state=state, checks=checks, pages=pages, clock=clock, sink=events
        )
        site = _ReportSite(setup, node, events) if setup.report is not None else None
        node.outbox = setup.outbox
        if setup.open_outbox is not None:
            node.outbox = await stack.enter_async_context(setup.open_outbox(events))
        ear = Traffic(node, setup.secret) if setup.secret else None
        parts = [make(node) for make in setup.parts]
        names = [part.name for part in parts if part.name]
        if len(set(names)) != len(names):
            raise ValueError(f"parts {', '.join(names)} share a name; give each its own")
        parts.append(Clients(node, setup.commands))
        if ear is not None:
            parts.append(ear)
        if node.outbox is not None:
            notices = Notices(node, setup.group)
            stack.callback(events.add(notices.take))
            parts.append(notices)
        node.reports = [part.report for part in parts]
        parts.insert(0, Verbs(node, tuple(parts), setup.commands))
        commands = [command for part in parts for command in part.commands()]
        log = setup.state.with_name(f"{setup.state.name}.audit.jsonl")
        audit = Audit(log, clock.wall, _told(node))
        roles = setup.roles(clock) if setup.roles is not None else None
        control = Control(setup.control, commands, audit, roles)
        stack.push_async_callback(pages.stop)
        host, port = await pages.start(*setup.listen)
        fields = {"listen": _address(host, port), "control": str(setup.control)}
        if site is not None:
            fields["report"] = await site.serve(parts, stack)
        stack.push_async_callback(control.stop)
        await control.start()
        node.emit("agent.started", **fields)
        stack.callback(node.emit, "agent.stopped")
        await _serve(node, parts, setup.drain_s, stop)


class _ReportSite:
    """The listener of report and metrics; made before the outbox, of which it counts all."""

    def __init__(self, setup: Setup, node: Node, events: Fanout) -> None:
        from lb_probe.agent.metrics import Messages  # 200 ms that an agent without it does not pay

        self._setup = setup
        self._node = node
        self._events = events
        self._messages = Messages()
        events.add(self._messages.emit)

    async def serve(self, parts: Sequence[Part], stack: contextlib.AsyncExitStack) -> str:
        """Serve until the stack ends; return the address."""
        from lb_probe.agent import report_site
        from lb_probe.agent.metrics import Metrics

        node, setup = self._node, self._setup
        metrics = Metrics(node, parts, self._messages)
        stack.callback(self._events.add(metrics.emit))

        def report() -> dict[str, object]:
            found = node.report().document()
            return found | ({CHALLENGE: node.traffic.challenge} if node.traffic else {})

        hear = node.traffic.hear if node.traffic else None
        app = report_site.application(report, metrics.render, setup.secret, hear)
        assert setup.report is not None
        host, port = setup.report
        return _address(host, await report_site.serve(app, host, port, stack))


async def _serve(node: Node, parts: Sequence[Part], drain_s: float, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(node.checks.run()), tasks.create_task(node.pages.run())]
        background += [tasks.create_task(_supervised(node, part.name, part.run)) for part in parts]
        await stop.wait()
        node.pages.drain()
        await node.clock.sleep(drain_s)
        for task in background:
            task.cancel()


async def _supervised(node: Node, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run a part for ever; one that crashes is started again and told, and the pages go on."""
    while True:
        try:
            await work()
        except Exception as error:
            node.emit("part.crashed", part=name, detail=f"{type(error).__name__}: {error}")
        await node.clock.sleep(RESTART_S)


def _told(node: Node) -> Callable[[int, str, str], None]:
    """Return what logs each new line of the audit log: a cut end shows only beside its hash."""
    return lambda number, action, digest: node.emit(
        "audit.written", seq=number, action=action, hash=digest
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
