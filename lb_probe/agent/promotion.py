"""Becoming Primary: the operator's command, once; the mode; and whether the node then serves.

Order, and what breaks in the other one: the attempt is saved before the command runs (a crash in
between must not run it twice), the command ends before the mode changes (a page that says Primary
before the application serves sends clients into a wall), and the page is looked at last.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from lb_probe.agent.node import Node
from lb_probe.agent.state import Attempt, StateError
from lb_probe.core.model import Gate, Mode, Page
from lb_probe.program import Program, clean_environment

_RETRY_S = 5.0
_LOOK_S = 0.1
_WATCH_S = 1.0


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


class _Until(Enum):
    """What ends what people were told of a promotion, beside that the node serves as Primary."""

    PEER_ANSWERS = auto()  # or HA is disabled: none is due then
    DECIDED = auto()  # its attempt is forgotten: the peer answers again, or somebody set the mode
    STANDS_BY = auto()


class Promotion:
    """How one node becomes Primary by itself."""

    def __init__(self, node: Node, commands: Commands) -> None:
        self._node = node
        self._commands = commands
        self._refused: tuple[str, ...] = ()
        self._until: _Until | None = None  # None where nothing stands
        self._told = asyncio.Event()
        self._is_verifying = False

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
            self._failed(str(error), _Until.PEER_ANSWERS)
            return False
        if node.traffic is not None:
            node.traffic.settle()
        await node.ready_for_primary()
        told = {"node": node.name, "cause": cause, "reason": reason}
        fault = await self._commands.run(self._commands.promote, told)
        if fault:
            await self._keep_outcome(fault)
            self._failed(fault, _Until.DECIDED)
            return False
        await self._become(cause, reason)
        return True

    async def verify(self) -> bool:
        """Wait until the node's own status page is OK; tell whether it came to that in time."""
        node, began = self._node, self._node.clock.monotonic()
        self._is_verifying = True
        try:
            while (view := node.pages.view(Page.STATUS)).code != 200:
                if node.clock.monotonic() - began > self._commands.verify_s:
                    self._stands(_Until.STANDS_BY)
                    node.emit("agent.not-serving", reasons=list(view.reasons))
                    return False
                await node.clock.sleep(_LOOK_S)
        finally:
            self._is_verifying = False
        self._until = None
        node.emit("agent.serving", after_s=round(node.clock.monotonic() - began, 3))
        return True

    # -------------------------------------------------------------- what people were told
    def _stands(self, until: _Until) -> None:
        self._until = until
        self._told.set()

    def _failed(self, detail: str, until: _Until) -> None:
        self._stands(until)
        self._node.emit("agent.promotion-failed", detail=detail)

    async def watch(self) -> None:
        """Tell when it is over what people were told, until cancelled."""
        node = self._node
        if node.state.promotion is not None and node.state.promotion.outcome:
            self._stands(_Until.DECIDED)  # told by an earlier run
        while True:
            await self._told.wait()
            self._told.clear()
            while self._until is not None:
                news = node.news
                self._look_for_the_end(self._until)
                await node.clock.wait(news, _WATCH_S)

    def _look_for_the_end(self, until: _Until) -> None:
        node, state = self._node, self._node.state
        if state.mode is Mode.PRIMARY:
            if not self._is_verifying and node.pages.view(Page.STATUS).code == 200:
                self._until = None
                node.emit("agent.serving")
            return
        ends = {
            _Until.PEER_ANSWERS: not state.ha.is_on,
            _Until.DECIDED: state.promotion is None,
            _Until.STANDS_BY: True,
        }
        if ends[until]:
            self._over()

    def _over(self) -> None:
        self._until = None
        self._node.emit("agent.promotion-over")

    async def forget(self) -> None:
        """End the incident: the peer answers again, so its next death is another one."""
        self._refused = ()
        if self._until is _Until.PEER_ANSWERS:
            self._over()
        if self._node.state.promotion is not None:
            with contextlib.suppress(StateError):  # it is tried again at the next heartbeat
                await self._node.save(lambda now: {"promotion": None})

    async def settle(self) -> None:
        """Take up what an agent left that ended while the command ran: it is not run again."""
        attempt = self._node.state.promotion
        if attempt is not None and not attempt.outcome:
            unknown = "the agent ended while promote_command ran; nobody knows what came of it"
            await self._keep_outcome(unknown)
            self._failed(unknown, _Until.DECIDED)

    async def _become(self, cause: str, reason: str) -> None:
        """Change the mode; the application serves already, so a full disk is tried again."""
        told = ""
        while True:
            try:
                await self._node.change_mode(Mode.PRIMARY, cause=cause, by=cause, reason=reason)
                return
            except StateError as error:
                if str(error) != told:  # the same again is told once
                    told = str(error)
                    self._failed(told, _Until.PEER_ANSWERS)
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
            self._failed(str(error), _Until.DECIDED)

    def _tell_refused(self, closed: list[Gate]) -> None:
        """Tell what stands in the way, once until that changes."""
        ids = tuple(gate.id for gate in closed)
        if ids != self._refused:
            self._refused = ids
            self._stands(_Until.PEER_ANSWERS)
            found = [f"{gate.id}: found {gate.found}; wanted {gate.wanted}" for gate in closed]
            self._node.emit("agent.promotion-refused", gates=list(ids), detail="; ".join(found))
