"""Whether the application of this node takes new clients (R123, R124).

The operator's own programs do it; here is that it is said everywhere until it is over.
"""

from collections.abc import Sequence
from typing import Any

from lb_probe.agent.control import Act, Caller, Command, ControlFailed, Json
from lb_probe.agent.node import Node, Part
from lb_probe.agent.promotion import Commands
from lb_probe.agent.state import Switch

REMIND_S = 3600.0


class Clients(Part):
    """`failover client-connection disable|enable`."""

    def __init__(self, node: Node, commands: Commands) -> None:
        self._node = node
        self._commands = commands

    def commands(self) -> Sequence[Command[Any]]:
        """Return `client-disable` and `client-enable`; both may be repeated."""
        return (
            Command(name="client-disable", request=Act, answer=self._disable, acts=True),
            Command(name="client-enable", request=Act, answer=self._enable, acts=True),
        )

    async def run(self) -> None:
        """Remind of clients that are still turned away."""
        node = self._node
        while True:
            news = node.news
            clients = node.state.clients
            if not await node.clock.wait(news, REMIND_S) and not clients.is_on:
                node.emit("agent.clients-disabled-still", by=clients.by, reason=clients.reason)

    async def _disable(self, request: Act, caller: Caller) -> Json:
        return await self._turn(self._commands.client_disable, request, caller, is_on=False)

    async def _enable(self, request: Act, caller: Caller) -> Json:
        return await self._turn(self._commands.client_enable, request, caller, is_on=True)

    async def _turn(
        self, argv: tuple[str, ...], request: Act, caller: Caller, *, is_on: bool
    ) -> Json:
        node, before = self._node, self._node.state.clients
        word = "enable" if is_on else "disable"
        if not argv:
            raise ControlFailed(
                f"found no commands.client_{word}_command of node {node.name} in probes.yaml;"
                " wanted a program that does it; add it and restart the agent"
            )
        # Saved first where clients are turned away, and last where they come back: after a crash
        # in between it is shown as disabled, never forgotten.
        switch = Switch(
            is_on=is_on, since_wall=node.clock.wall(), by=caller.by, reason=request.reason
        )
        if not is_on:
            await node.save(lambda now: {"clients": switch if now.clients.is_on else now.clients})
        told = {"node": node.name, "cause": "operator", "reason": request.reason}
        fault = await self._commands.run(argv, told)
        if fault:
            raise ControlFailed(f"{fault}; clients are shown as disabled until `enable` succeeds")
        if is_on:
            await node.save(lambda now: {"clients": now.clients if now.clients.is_on else switch})
        said = {"by": caller.by, "reason": request.reason}
        if is_on:
            node.emit("agent.clients-enabled", **said)
        else:
            node.emit("agent.clients-disabled", **said)
        warning = "New clients are turned away until `failover client-connection enable`."
        changed = before.is_on is not is_on
        return node.view() | {"changed": changed, "warnings": [] if is_on else [warning]}
