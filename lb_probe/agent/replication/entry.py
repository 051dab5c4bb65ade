"""What a sync must pass, and the plan of one that may begin."""

from collections.abc import Callable
from dataclasses import replace

from lb_probe.agent.node import Node
from lb_probe.agent.replication.around import look_around
from lb_probe.agent.replication.history import Run
from lb_probe.agent.replication.runner import Plan
from lb_probe.agent.replication.settings import Settings
from lb_probe.core import sync_gates
from lb_probe.core.data_lineage import Order
from lb_probe.core.model import Gate
from lb_probe.core.sync_gates import Kind, SyncWorld

# What is under way, why nothing can be recorded, why the schedule does not run: empty for nothing.
Here = tuple[str, str, str]


class Entry:
    """The gates of one node's syncs.

    Args:
        here: Tells what goes on in this agent, as `Here` has it.
    """

    def __init__(self, node: Node, settings: Settings, here: Callable[[], Here]) -> None:
        self._node = node
        self._settings = settings
        self._here = here

    async def around(self, source: str = "") -> SyncWorld:
        """Look around; `source` is what an operator called the peer."""
        running, unrecordable, stopped = self._here()
        return await look_around(
            self._node,
            self._settings,
            source=source or self._settings.peer,
            running=running,
            unrecordable=unrecordable,
            stopped=stopped,
        )

    async def gates(self, kind: Kind, world: SyncWorld) -> tuple[Gate, ...]:
        """Judge every gate, those of other parts with them.

        What is under way is looked at last: much may have begun while the others were asked.
        """
        others = await self._node.may_sync()
        running, unrecordable, stopped = self._here()
        now = replace(world, running=running, unrecordable=unrecordable, scheduler_stopped=stopped)
        return (*sync_gates.judge(kind, now), *others)

    def begun(self, trigger: str, by: str, reason: str) -> Run:
        """Return a run as it begins on record."""
        return Run(
            trigger=trigger,
            by=by,
            reason=reason,
            source=self._settings.peer,
            target=self._node.name,
            started_wall=self._node.clock.wall(),
            initial=not self._node.state.data.by_hand,
        )

    def planned(
        self, run: Run, world: SyncWorld, *, opened: tuple[str, ...] = (), notes: tuple[str, ...]
    ) -> Plan:
        """Return the plan of a run whose gates are open."""
        assert world.report is not None  # the gate `peer-answers` opens to nobody
        lost = sync_gates.loss(world)
        run = replace(
            run,
            version_here=world.version,
            version_there=world.report.version or "",
            overridden=opened,
            warnings=(*notes, lost) if lost else notes,
        )
        return Plan(
            run=run,
            lineage=sync_gates.lineage_of(world.report),
            by_hand=run.trigger == "manual",
            loses=bool(lost),
        )

    async def newest_data(self) -> Gate:
        """Judge whether this Primary's data is anywhere else before it becomes a Standby (R121)."""
        world = await self.around()
        wanted = f"{world.peer} to have copied what was written here last"
        if world.report is None:
            return Gate("newest-data", False, f"nothing is known: {world.why_not}", wanted)
        verdict = sync_gates.judged(world.lineage, world.report)
        if verdict.order is Order.OLDER:
            found = sync_gates.loss(world) or f"{world.peer} has it"
            return Gate("newest-data", verdict.lost is None, found, wanted)
        found = f"{world.node} holds the newest data; as a Standby it could be written over"
        return Gate("newest-data", False, found, wanted)
