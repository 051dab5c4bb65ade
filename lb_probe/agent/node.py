"""What the features of one agent share: the node's saved state, its guards, its report.

A feature is a `Part`: a module of its own with commands, a task, a section of the status and its
fields of the report. It reaches the others through the `Node` only.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lb_probe.agent.checks import Checks
from lb_probe.agent.pages import Pages
from lb_probe.agent.peer import Peer
from lb_probe.agent.state import NodeState, StateFile
from lb_probe.core.model import Event, Gate, Mode, Page, Role
from lb_probe.core.peer_report import PeerReport
from lb_probe.ports import Clock, EventSink, LbProbeError, Outbox

if TYPE_CHECKING:
    from lb_probe.agent.control import Command
    from lb_probe.agent.traffic import Traffic

Guard = Callable[[], Awaitable[Gate]]


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a gauge `lb_probe_agent_NAME`.

    Attributes:
        about: What the gauge is, for its HELP line.
        labels: Beside `node`.
    """

    name: str
    about: str
    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Counted:
    """A counter `lb_probe_agent_NAME` that one event feeds.

    Attributes:
        event: The event's name.
        labels: Fields of the event that become labels beside `node`.
    """

    name: str
    about: str
    event: str
    labels: tuple[str, ...] = ()


class Part:
    """One feature of an agent; each method may stay as it is.

    Attributes:
        name: Its key in the status answer.
        counters: What its events count.
    """

    name = ""
    counters: Sequence[Counted] = ()

    def commands(self) -> Sequence["Command[Any]"]:
        """Return what the control socket takes for it."""
        return ()

    def status(self) -> Mapping[str, object]:
        """Return its section of the status answer; nothing leaves the section out."""
        return {}

    def report(self) -> Mapping[str, object]:
        """Return the fields of the `PeerReport` that it knows."""
        return {}

    def gauges(self) -> Iterable[Reading]:
        """Return what its gauges show now."""
        return ()

    async def run(self) -> None:
        """Work until cancelled; one that raises is told and started again."""
        await asyncio.Event().wait()


class Node:
    """One node as its agent knows it.

    Attributes:
        name: Its name in probes.yaml.
        role: Its role by configuration; a failover never changes it (R3).
        peer: Its partner; None where none is configured or trusted.
        sync_guards: Each judges one thing that must hold before a sync into this node.
        promote_guards: The same before this node promotes itself.
        demote_guards: The same before an operator makes a Primary stand by (R121).
        before_primary: Each ends what a Primary must not do, a sync into it for one.
        refreshers: Each renews what the reports say from memory, within its own deadline.
        reports: What each part adds to this node's own report.
        outbox: Where people are told things; None where the file has no `notify`.
        view: Returns the answer of `status`.
        traffic: What the prober says of this node's traffic; None where it cannot say anything.
        deciding: Held by whoever makes the application serve or stand by: one at a time.
    """

    def __init__(
        self,
        name: str,
        role: Role,
        *,
        state: StateFile,
        checks: Checks,
        pages: Pages,
        clock: Clock,
        sink: EventSink,
    ) -> None:
        self.name = name
        self.role = role
        self.checks = checks
        self.pages = pages
        self.clock = clock
        self.peer: Peer | None = None
        self.sync_guards: list[Guard] = []
        self.promote_guards: list[Guard] = []
        self.demote_guards: list[Guard] = []
        self.before_primary: list[Callable[[], Awaitable[None]]] = []
        self.refreshers: list[Callable[[], Awaitable[None]]] = []
        self.reports: list[Callable[[], Mapping[str, object]]] = []
        self.outbox: Outbox | None = None
        self.view: Callable[[], dict[str, object]] = dict
        self.traffic: Traffic | None = None
        self.deciding = asyncio.Lock()
        self._file = state
        self._sink = sink
        self._news = asyncio.Event()

    # -------------------------------------------------------------- what is saved
    @property
    def state(self) -> NodeState:
        """What is saved."""
        return self._file.current

    @property
    def word(self) -> str:
        """The guide's word for what the node does now: active, standby or not_available (R2)."""
        page = Page.STATUS if self.state.mode is Mode.PRIMARY else Page.HASTATUS
        return self.state.state if self.pages.view(page).code == 200 else "not_available"

    async def save(
        self, change: Callable[[NodeState], Mapping[str, object]]
    ) -> tuple[NodeState, NodeState]:
        """Save fields of one feature, and return the state before and after.

        A disk may take its time; the pages do not wait for it.

        Raises:
            StateError: Not saved; everything goes on as it was.
        """
        before = after = self.state

        def kept(now: NodeState) -> Mapping[str, object]:
            nonlocal before
            before = now
            return change(now)

        after = await asyncio.to_thread(self._file.update, kept)
        self.pages.refresh()
        if after is not before:
            self.wake()
        return before, after

    @property
    def news(self) -> asyncio.Event:
        """What is set when the state changes next, or something is told from outside."""
        return self._news

    def wake(self) -> None:
        """Let everybody look again who waits for news."""
        self._news.set()
        self._news = asyncio.Event()

    async def change_mode(
        self, mode: Mode, *, cause: str, by: str, reason: str
    ) -> tuple[NodeState, NodeState]:
        """Save another mode, show it, tell it; the same mode again changes nothing (R119).

        It ends the quarantine and what is known of a promotion: somebody has decided.

        Raises:
            StateError: Not saved; the pages go on as they were.
        """

        def moved(now: NodeState) -> Mapping[str, object]:
            if mode is now.mode:
                return {"quarantine": None, "promotion": None}
            since = self.clock.wall()
            told = {"cause": cause, "by": by, "reason": reason}
            settled = {"quarantine": None, "promotion": None, "data": now.moved(mode, since)}
            return {"mode": mode, "since_wall": since} | settled | told

        if mode is Mode.PRIMARY:
            await self.ready_for_primary()
        before, after = await self.save(moved)
        if after.mode is not before.mode:
            told = {"from": before.mode.value, "to": after.mode.value, "cause": cause}
            self.emit("agent.mode-changed", **told, by=by, reason=reason)
        if before.quarantine is not None and after.quarantine is None:
            self.emit("agent.quarantine-ended", mode=after.mode.value, by=by, reason=reason)
        return before, after

    # -------------------------------------------------------------- what the parts ask
    async def may_sync(self) -> tuple[Gate, ...]:
        """Judge every guard of a sync into this node."""
        return tuple([await _judged(guard) for guard in self.sync_guards])

    async def may_promote(self) -> tuple[Gate, ...]:
        """Judge every guard of a promotion of this node by itself."""
        return tuple([await _judged(guard) for guard in self.promote_guards])

    async def may_demote(self) -> tuple[Gate, ...]:
        """Judge every guard of making this Primary stand by."""
        return tuple([await _judged(guard) for guard in self.demote_guards])

    async def ready_for_primary(self) -> None:
        """End what a Primary must not do; to be awaited before the application serves."""
        for end in self.before_primary:
            await end()

    async def refresh(self) -> None:
        """Renew what the report says from memory."""
        for renew in self.refreshers:
            await renew()

    def report(self) -> PeerReport:
        """Return what this node says of itself now."""
        state = self.state
        lineage = state.lineage(self.clock.wall())
        known: dict[str, Any] = {
            "mode": state.mode,
            "state": self.word,
            "quarantine": state.quarantine.reason if state.quarantine else "",
            "data_suspect": state.data.suspect,
            "ha_enabled": state.ha.is_on,
            "takes_clients": state.clients.is_on,
            "data_reign": lineage.reign,
            "data_until": lineage.until,
            "data_fork": (lineage.fork_reign, lineage.fork_until),
            "promoted_at": state.since_wall if _was_promoted(state) else None,
        }
        for part in self.reports:
            known |= part()
        return PeerReport(node=self.name, **known)

    def emit(self, name: str, **fields: object) -> None:
        """Tell an event of this node."""
        self._sink.emit(Event(name, fields={"node": self.name, **fields}))


def _was_promoted(state: NodeState) -> bool:
    return state.mode is Mode.PRIMARY and state.cause != "role"


async def _judged(guard: Guard) -> Gate:
    try:
        return await guard()
    except LbProbeError as error:
        # A guard that cannot tell does not pass: unknown is never good (X22).
        name = getattr(guard, "__name__", "guard").strip("_").replace("_", "-")
        return Gate(name, False, str(error), "an answer")
