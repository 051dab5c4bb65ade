"""Becoming Primary: the operator's command, once; the mode; and whether the node then serves.

Order, and what breaks in the other one: the attempt is saved before the command runs (a crash in
between must not run it twice), the command ends before the mode changes (a page that says Primary
before the application serves sends clients into a wall), and the page is looked at last.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from lb_probe.agent.node import Node
from lb_probe.agent.state import Attempt, StateError
from lb_probe.core.model import Gate, Mode, Page
from lb_probe.program import Program, clean_environment

_RETRY_S = 5.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Commands:
    """The operator's programs and their times; an empty one is not configured.

    Attributes:
        timeout_s: Of each, as a whole.
        verify_s: In which the status page must be OK after a promotion.
    """

    promote: tuple[str, ...] = ()
    demote: tuple[str, ...] = ()
    client_disable: tuple[str, ...] = ()
    client_enable: tuple[str, ...] = ()
    timeout_s: float = 300.0
    verify_s: float = 60.0

    async def run(self, argv: tuple[str, ...], told: Mapping[str, str]) -> str:
        """Run one of them; return why it did not succeed, empty where it did or is not configured.

        Args:
            told: What it finds in its environment, beside ours, each with our prefix.
        """
        if not argv:
            return ""
        environment = clean_environment() | {f"LB_PROBE_{k.upper()}": v for k, v in told.items()}
        try:
            ended = await Program(argv, self.timeout_s).run(environment)
        except OSError as error:
            return f"{argv[0]}: {error.strerror or error}"
        said = f": {ended.last_words}" if ended.last_words else ""
        return f"{argv[0]}: {ended.fault}{said}" if ended.fault else ""


class Promotion:
    """How one node becomes Primary by itself."""

    def __init__(self, node: Node, commands: Commands) -> None:
        self._node = node
        self._commands = commands
        self._refused: tuple[str, ...] = ()

    async def by_itself(self, cause: str, reason: str) -> None:
        """Become Primary, unless a guard is closed or this incident had its attempt (R65).

        Args:
            cause: "heartbeat", or "traffic" where that came to a Standby.
        """
        node = self._node
        if not self._is_due():
            return
        closed = [gate for gate in await node.may_promote() if not gate.passed]
        if closed:
            self._tell_refused(closed)
            return
        self._refused = ()
        async with node.deciding:
            # Somebody may have decided while the guards were asked.
            has_moved = self._is_due() and await self._promoted(cause, reason)
        if has_moved:
            await self.verify()

    def _is_due(self) -> bool:
        state = self._node.state
        return state.promotion is None and state.mode is not Mode.PRIMARY

    async def _promoted(self, cause: str, reason: str) -> bool:
        """Run the command and change the mode; tell whether it came to that."""
        node = self._node
        try:
            await node.save(lambda now: {"promotion": Attempt(began_wall=node.clock.wall())})
        except StateError as error:
            node.emit("agent.promotion-failed", detail=str(error))
            return False
        if node.traffic is not None:
            node.traffic.settle()
        await node.ready_for_primary()
        told = {"node": node.name, "cause": cause, "reason": reason}
        fault = await self._commands.run(self._commands.promote, told)
        if fault:
            await self._keep_outcome(fault)
            node.emit("agent.promotion-failed", detail=fault)
            return False
        await self._become(cause, reason)
        return True

    async def verify(self) -> bool:
        """Wait until the node's own status page is OK; tell whether it came to that in time."""
        node, began = self._node, self._node.clock.monotonic()
        while (view := node.pages.view(Page.STATUS)).code != 200:
            if node.clock.monotonic() - began > self._commands.verify_s:
                node.emit("agent.not-serving", reasons=list(view.reasons))
                return False
            await node.clock.sleep(_LOOK_S)
        node.emit("agent.serving", after_s=round(node.clock.monotonic() - began, 3))
        return True

    async def forget(self) -> None:
        """End the incident: the peer answers again, so its next death is another one."""
        self._refused = ()
        if self._node.state.promotion is not None:
            with contextlib.suppress(StateError):  # it is tried again at the next heartbeat
                await self._node.save(lambda now: {"promotion": None})

    async def settle(self) -> None:
        """Take up what an agent left that ended while the command ran: it is not run again."""
        attempt = self._node.state.promotion
        if attempt is not None and not attempt.outcome:
            unknown = "the agent ended while promote_command ran; nobody knows what came of it"
            await self._keep_outcome(unknown)
            self._node.emit("agent.promotion-failed", detail=unknown)

    async def _become(self, cause: str, reason: str) -> None:
        """Change the mode; the application serves already, so a full disk is tried again."""
        while True:
            try:
                await self._node.change_mode(Mode.PRIMARY, cause=cause, by=cause, reason=reason)
                return
            except StateError as error:
                self._node.emit("agent.promotion-failed", detail=str(error))
                await self._node.clock.sleep(_RETRY_S)

    async def _keep_outcome(self, fault: str) -> None:
        try:
            await self._node.save(
                lambda now: {
                    "promotion": now.promotion.model_copy(update={"outcome": fault[:1000]})
                    if now.promotion is not None
                    else None
                }
            )
        except StateError as error:
            self._node.emit("agent.promotion-failed", detail=str(error))

    def _tell_refused(self, closed: list[Gate]) -> None:
        """Tell what stands in the way, once until that changes."""
        ids = tuple(gate.id for gate in closed)
        if ids != self._refused:
            self._refused = ids
            found = [f"{gate.id}: found {gate.found}; wanted {gate.wanted}" for gate in closed]
            self._node.emit("agent.promotion-refused", gates=list(ids), detail="; ".join(found))
