"""One active-active group while the process runs: how it is wired, what is known and shown of it.

Source: DESIGN section 4; REQUIREMENTS R39-R41.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from lb_probe.core import active_active
from lb_probe.core.active_active import Adopted, Pool, PoolDecision
from lb_probe.core.model import Saved, Seen
from lb_probe.core.pool_view import PoolView, set_of, word_of
from lb_probe.core.view import AdapterStatus
from lb_probe.tending.group import Tended


@runtime_checkable
class SetPublisher(Protocol):
    """One load balancer as one active-active group uses it.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.
    """

    name: str
    type: str

    async def publish_all(self, nodes: frozenset[str]) -> None:
        """Ask for exactly these nodes; return when the load balancer accepted it.

        Where it takes several steps nodes come in before others go out, so that at no moment
        nobody is in. `nodes` is never empty.

        Raises:
            PublishError: Not accepted, or it cannot be told.
        """

    async def read_back(self) -> Seen:
        """Ask, on a fresh connection, what is in force; `chosen` is what counts.

        Raises:
            Unreachable: No answer within the adapter's own deadline.
            PublishError: An answer that cannot be believed.
        """

    def commands_all(self, nodes: frozenset[str]) -> list[str]:
        """Return the literal commands that `publish_all(nodes)` would send."""


@dataclass(frozen=True, slots=True)
class PoolSetup:
    """One active-active group as it is wired.

    Attributes:
        was: The group's former name.
    """

    pool: Pool
    publishers: tuple[SetPublisher, ...] = ()
    was: str | None = None

    @property
    def name(self) -> str:
        """The group's name."""
        return self.pool.name


class AsOne:
    """A SetPublisher as the Publisher of one word, so that one reconciler serves both policies."""

    def __init__(self, publisher: SetPublisher) -> None:
        self.name = publisher.name
        self.type = publisher.type
        self._publisher = publisher

    async def publish(self, node: str) -> None:
        """Ask for the nodes of this word."""
        await self._publisher.publish_all(set_of(node))

    async def read_back(self) -> Seen:
        """Ask what is in force; the nodes that are in are one word."""
        seen = await self._publisher.read_back()
        return replace(seen, node=word_of(frozenset(seen.chosen)))

    def commands(self, node: str) -> list[str]:
        """Return the literal commands that would bring in the nodes of this word."""
        return self._publisher.commands_all(set_of(node))


class PoolRuntime(Tended):
    """One group while the process runs.

    Attributes:
        members: Nodes that get traffic by our own word.
        disputed: Nodes about which the load balancers differed at start and nobody has judged yet.
        turn: Grows with every change of the nodes: what a reconciler takes for ours.
        last_change: The latest of all changes, by operators or by the table.
    """

    decision: PoolDecision | None

    def __init__(self, setup: PoolSetup, saved: Saved, now: float) -> None:
        super().__init__(setup.name, saved, now)
        self.pool = setup.pool
        self.members = frozenset[str]()
        self.disputed = frozenset[str]()
        self.turn = 0
        self.last_change = saved.last_change

    @property
    def worded(self) -> Saved:
        """What is saved, as `core.acts` wants it: with who has the traffic, in a word."""
        return replace(self.saved, assigned=word_of(self.members))

    @property
    def is_cut_off(self) -> bool:
        """Whether no node of it answers at all."""
        return active_active.is_cut_off(self.evidence, self.pool)

    @property
    def is_followed(self) -> bool:
        """Whether every load balancer does what is wanted, or cannot."""
        return not any(
            r.wanted.may_write and r.wanted.node and not r.has_yielded and not r.is_in_sync
            for r in self.reconcilers
        )

    def adopted(self, looks: Mapping[str, Seen | None]) -> Adopted:
        """Return what the load balancers do, by adapter; None where one cannot be read."""
        chosen = {n: None if s is None else frozenset(s.chosen) for n, s in looks.items()}
        return active_active.adopt(self.pool, chosen)

    def shown(self, decision: PoolDecision, now: float, wall: float) -> PoolView:
        """Return everything that is shown of the group."""
        adapters = tuple(
            AdapterStatus(
                name=r.publisher.name,
                type=r.publisher.type,
                wanted=r.wanted.node,
                seen=r.seen,
                yielded=r.has_yielded,
                in_sync=r.is_in_sync,
                detail=r.detail,
            )
            for r in self.reconcilers
        )
        return PoolView(
            pool=self.pool,
            saved=self.saved,
            members=self.members,
            disputed=self.disputed,
            decision=decision,
            evidence=self.evidence,
            adapters=adapters,
            last_change=self.last_change,
            now=now,
            wall=wall,
        )
