"""One agent from start to drain: state, pages, checks and control tied together."""

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

from lb_probe.agent.checks import Check, Checks
from lb_probe.agent.control import Control
from lb_probe.agent.pages import Pages
from lb_probe.agent.state import StateFile
from lb_probe.core.model import Event, Role
from lb_probe.ports import Clock, EventSink


async def run(
    node: str,
    role: Role,
    listen: tuple[str, int],
    control_path: Path,
    state_path: Path,
    checks: Iterable[Check],
    drain_s: float,
    clock: Clock,
    stop: asyncio.Event,
    sink: EventSink,
) -> None:
    """Be the agent of one node until `stop` is set, then drain and return.

    Everything that can be refused is refused before a page is served. Cancelling ends it at once,
    without the drain, and leaves nothing behind either.

    Args:
        role: Decides the mode only on the very first start (R70).
        listen: Host and port of the pages; port 0 takes a free one, named in `agent.started`.
        drain_s: Seconds for which both pages say ERROR before they are gone: longer than a load
            balancer's interval times its fall.
        sink: Takes `agent.started`, `agent.mode-changed`, `agent.page-changed`, `agent.stopped`.

    Raises:
        StateError: The state file cannot be used, or another agent of this node runs.
        ListenError: The pages' address cannot be listened on.
        ControlError: The control socket cannot be made.
        ValueError: Two checks have one name.
    """
    async with contextlib.AsyncExitStack() as stack:
        state = await asyncio.to_thread(
            StateFile, state_path, node=node, role=role, now_wall=clock.wall()
        )
        stack.callback(state.close)
        runner = Checks(checks, clock)
        pages = Pages(state, runner, clock, sink=sink)
        control = Control(
            control_path,
            role=role,
            state=state,
            pages=pages,
            checks=runner,
            clock=clock,
            sink=sink,
        )
        stack.push_async_callback(pages.stop)
        host, port = await pages.start(*listen)
        stack.push_async_callback(control.stop)
        await control.start()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _emit(sink, "agent.started", node, listen=address, control=str(control_path))
        stack.callback(_emit, sink, "agent.stopped", node)
        await _serve(runner, pages, drain_s, clock, stop)


async def _serve(
    checks: Checks, pages: Pages, drain_s: float, clock: Clock, stop: asyncio.Event
) -> None:
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(checks.run()), tasks.create_task(pages.run())]
        await stop.wait()
        pages.drain()
        await clock.sleep(drain_s)
        for task in background:
            task.cancel()


def _emit(sink: EventSink, name: str, node: str, **fields: str) -> None:
    sink.emit(Event(name, fields={"node": node, **fields}))
