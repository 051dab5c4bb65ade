"""All groups of one prober, of both policies, as its schedule, its API and its metrics see them.

Source: DESIGN sections 4 and 7.
"""

import asyncio
from collections.abc import Mapping, Sequence

from lb_probe.controller import Ask, Controller, OfflineNote, Setup
from lb_probe.core import pool_view, view
from lb_probe.core.acts import Plan
from lb_probe.core.agents import Heard
from lb_probe.core.explain import explain
from lb_probe.core.holds import Holds
from lb_probe.core.model import Observation, Page
from lb_probe.core.pool_view import PoolView
from lb_probe.core.view import View
from lb_probe.pool import PoolController, PoolSetup
from lb_probe.ports import NotFound, Record, Span, Store

AT_ONCE = 100  # groups that are shown without a pause
AnyView = View | PoolView


class Groups:
    """The groups of both controllers, by name.

    Args:
        names: All groups, in the order of the file.
        pairs: Runs the groups of policy `manual-resume`.
        pools: Runs those of policy `active-active`.
        store: The one that both save to.
    """

    def __init__(
        self, names: Sequence[str], pairs: Controller, pools: PoolController, store: Store
    ) -> None:
        self._store = store
        self._pairs = pairs
        self._pools = pools
        self._know(names)

    def _know(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._home: dict[str, Controller | PoolController] = {
            **dict.fromkeys(self._pairs.names, self._pairs),
            **dict.fromkeys(self._pools.names, self._pools),
        }

    async def start(self, notes: Mapping[str, OfflineNote], allowed: frozenset[str]) -> None:
        """Find out where each group begins.

        Raises:
            StoreError, Invalid: As `Controller.start`.
        """
        await self._pairs.start(notes, allowed)
        await self._pools.start()

    async def run(self) -> None:
        """Decide and carry out until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pairs.run())
            tasks.create_task(self._pools.run())

    async def judge(self, pairs: Sequence[Setup]) -> None:
        """Find out whether `swap` would take these groups; changes nothing.

        Raises:
            StoreError, Invalid: As `Controller.judge`.
        """
        await self._pairs.judge(pairs)

    async def swap(
        self,
        names: Sequence[str],
        pairs: Sequence[Setup],
        pools: Sequence[PoolSetup],
        kept: frozenset[str],
        failovers_per_minute: int | None,
    ) -> None:
        """Serve these groups from now on; those in `kept` feel nothing of it.

        Raises:
            StoreError, Invalid: As `Controller.swap`; nothing was changed then.
        """
        await self._pairs.swap(pairs, kept)
        await self._pools.swap(pools, kept)
        self._pairs.judgement.failovers_per_minute = failovers_per_minute
        self._know(names)

    async def close(self) -> None:
        """Write down what is left to write."""
        await self._pairs.close()

    # -------------------------------------------------------------- evidence in
    def observe(self, name: str, seen: Observation) -> None:
        """Take one finished probe."""
        self._home[name].observe(name, seen)

    def hear(self, name: str, node: str, heard: Heard) -> None:
        """Take what the agent of a node said; groups of equals have none."""
        self._pairs.hear(name, node, heard)

    def holds(self, name: str, node: str) -> Holds:
        """Return whether a node has the traffic, for its agent."""
        return self._pairs.holds(name, node)

    def references(self, answers: Mapping[str, bool]) -> None:
        """Take what the reference targets answered."""
        self._pairs.references(answers)
        self._pools.references(answers)

    def stalled(self, seconds: float) -> None:
        """Take note that probes started late."""
        self._pairs.stalled(seconds)
        self._pools.stalled(seconds)

    def doubt(self, name: str, node: str, page: Page, is_on: bool) -> None:
        """Note that a probe of this page is overdue, or no more so."""
        if self._home[name] is self._pairs:
            self._pairs.doubt(name, node, page, is_on)

    def is_hurried(self, name: str, node: str, page: Page) -> bool:
        """Tell whether this page should be probed at `recheck`, though it did not fail."""
        return self._home[name] is self._pairs and self._pairs.is_hurried(name, node, page)

    # -------------------------------------------------------------- looking
    @property
    def wall(self) -> float:
        """UTC seconds since 1970."""
        return self._pairs.wall

    @property
    def impairment(self) -> str:
        """Why this machine cannot make probes at the moment; empty where it can."""
        return self._pairs.impairment or self._pools.impairment

    @property
    def is_store_writable(self) -> bool:
        """Whether the store takes what either controller has to save."""
        return self._pairs.is_store_writable and self._pools.is_store_writable

    def view(self, name: str) -> AnyView:
        """Return everything that is shown of one group.

        Raises:
            NotFound: No such group.
        """
        return self._of(name).view(name)

    async def views(self) -> list[AnyView]:
        """Return what is shown of each group: at most a tick old, and cheap.

        A few at a time: a thousand at once would keep the loop from its probes for 10 ms.
        """
        pairs, pools, found = self._pairs.names, self._pools.names, list[AnyView]()
        for at in range(0, len(pairs), AT_ONCE):
            found += self._pairs.views(pairs[at : at + AT_ONCE])
            await asyncio.sleep(0)
        for at in range(0, len(pools), AT_ONCE):
            here = set(self._pools.names)  # a reload may have taken some meanwhile
            found += [self._pools.view(name) for name in pools[at : at + AT_ONCE] if name in here]
            await asyncio.sleep(0)
        return found

    def resume_gates(self, name: str) -> Plan | None:
        """Judge `resume` as nobody; None where traffic is at home, or has none.

        Raises:
            NotFound: No such group.
        """
        return self.looked(name)[1]

    def looked(self, name: str) -> tuple[AnyView, Plan | None]:
        """Return a group, and what `resume_gates` says of it, in one look.

        Raises:
            NotFound: No such group.
        """
        found = self.view(name)
        if isinstance(found, PoolView):
            return found, None
        off_home = found.saved.latched or found.saved.assigned not in (None, found.group.primary)
        return found, self._pairs.resume_gates(name) if off_home else None

    def explained(self, name: str) -> tuple[AnyView, Plan | None, str]:
        """Return a group, the gates of a resume where one is due, and why it is as it is.

        Raises:
            NotFound: No such group.
        """
        found, plan = self.looked(name)
        if isinstance(found, PoolView):
            return found, None, pool_view.explain(found)
        gates, line = (plan.gates, plan.paste) if plan else ((), "")
        return found, plan, explain(found, gates, line)

    async def history(self, name: str | None, limit: int, span: Span) -> list[Record]:
        """Return the newest records of a span, newest last.

        Raises:
            NotFound: No such group.
            StoreError: The store cannot be read.
        """
        if name is not None:
            self._of(name)
        return await self._store.history(name, limit, span)

    # -------------------------------------------------------------- the operator
    def plan(self, name: str, ask: Ask) -> Plan:
        """Judge an operator's command; changes nothing.

        Raises:
            NotFound, Invalid, Conflict: As `Controller.plan`.
        """
        return self._of(name).plan(name, ask)

    def commands(self, name: str, target: str | None) -> list[str]:
        """Return the literal commands that would publish this target."""
        return self._of(name).commands(name, target)

    async def act(self, name: str, ask: Ask) -> AnyView:
        """Carry out an operator's command.

        Raises:
            NotFound, Invalid, Conflict, Refused, StoreError: As `Controller.act`.
        """
        return await self._of(name).act(name, ask)

    def _of(self, name: str) -> Controller | PoolController:
        try:
            return self._home[name]
        except KeyError:
            raise NotFound(f"no group {name}; the groups are: {', '.join(self.names)}") from None


def names_of(found: AnyView) -> tuple[str, ...]:
    """Return the nodes of a group of either policy."""
    return found.pool.nodes if isinstance(found, PoolView) else found.group.names


def max_age_of(found: AnyView) -> float:
    """Return the seconds after which a reading of a group supports nothing."""
    return found.pool.max_age_s if isinstance(found, PoolView) else found.group.max_age_s


def as_json(found: AnyView) -> dict[str, object]:
    """Return a group of either policy in the form of DESIGN section 7."""
    return pool_view.as_json(found) if isinstance(found, PoolView) else view.as_json(found)
