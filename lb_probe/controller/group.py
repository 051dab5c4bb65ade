"""One group while the process runs: how it is wired, what is known of it, what is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lb_probe.core import agents, calm
from lb_probe.core import evidence as ev
from lb_probe.core.agents import Heard
from lb_probe.core.evidence import Evidence
from lb_probe.core.model import (
    Action,
    Decision,
    Failed,
    Group,
    Page,
    Saved,
    Traffic,
)
from lb_probe.core.resume import World
from lb_probe.core.timing import Timing
from lb_probe.core.view import AdapterStatus, View
from lb_probe.core.witness import Witness
from lb_probe.ports import Publisher
from lb_probe.tending.group import Tended

INTERRUPTED_S = 60.0  # for so long after it an interruption is shown


@dataclass(frozen=True, slots=True)
class Setup:
    """One group as it is wired.

    Attributes:
        fingerprints: For each node, where traffic for it really goes.
        was: The group's former name.
        timing: Its times, for explanations.
        witnesses: Load balancers that check the Primary themselves, and how far they may object.
        drain_s: Seconds a switchover waits, all load balancers closed, for what is under way.
        elsewhere: For each adapter of a tier the nodes that another tier brings traffic to (R43).
    """

    group: Group
    publishers: tuple[Publisher, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    was: str | None = None
    timing: Timing | None = None
    witnesses: tuple[Witness, ...] = ()
    drain_s: float = 0.0
    elsewhere: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name


@dataclass(frozen=True, slots=True)
class OfflineNote:
    """What `publish --offline` left behind: traffic was moved without us."""

    node: str
    actor: str
    reason: str
    at_wall: float


@dataclass(slots=True)
class Look:
    """What an evaluation went by; while all of it is the same, another one would find the same.

    Attributes:
        failovers: How many stood under the ceiling.
        until: Monotonic seconds up to which time alone changes nothing.
    """

    evidence: Evidence
    saved: Saved
    is_isolated: bool
    is_store_writable: bool
    failovers: int
    until: float


class Runtime(Tended):
    """One group while the process runs.

    Attributes:
        objections: What load balancers say against a failover, by adapter.
        heard: What the agents of its nodes said.
        overdue: Pages whose probe takes longer than it should.
        look: What the last evaluation went by.
    """

    decision: Decision | None

    def __init__(self, setup: Setup, saved: Saved, now: float) -> None:
        super().__init__(setup.group.name, saved, now)
        self.setup = setup
        self.follow(saved)
        self.objections: Mapping[str, str] = {}
        self.heard: dict[str, Heard] = {}
        self.overdue: set[tuple[str, Page]] = set()
        self.look: Look | None = None

    def follow(self, saved: Saved) -> None:
        """Take a saved state into force, and what hangs on it alone."""
        self.saved = saved
        self.group = self.setup.group.with_roles(saved.roles)
        self.watched = ev.watched(self.group, saved.assigned)
        self.traffic = ev.traffic(self.group, saved.assigned)
        self.pages_read = calm.pages_read(self.group, saved.assigned)

    @property
    def is_cut_off(self) -> bool:
        """Whether no target of it answers at all."""
        return ev.is_cut_off(self.evidence, self.group)

    @property
    def is_followed(self) -> bool:
        """Whether every load balancer does what is wanted, and that is saved; or cannot."""
        return self.saved.assigned is None or not any(
            r.wanted.may_write
            and not r.has_yielded
            and (r.confirmed < self.saved.generation or not r.is_in_sync)
            for r in self.reconcilers
        )

    @property
    def is_contestable(self) -> bool:
        """Tell whether a load balancer may have a say: traffic is on a Primary that fails."""
        return bool(
            self.setup.witnesses
            and self.traffic is Traffic.PRIMARY
            and self.evidence.page(self.group.primary, Page.STATUS).fails
        )

    def wants_word(self, now: float) -> bool:
        """Tell whether the Secondary's word must be newer than a doubt of the Primary."""
        if self.traffic is not Traffic.PRIMARY:
            return False
        if (self.group.primary, Page.STATUS) in self.overdue:
            return True
        if ev.is_doubtful(self.evidence, self.group, now):
            return True
        return self.decision is not None and self.decision.action is Action.REPROBE

    def world(self, target: str | None, now: float, wall: float) -> World:
        """Return what gates are judged by."""
        words = agents.words(self.group, self.saved, self.heard, now)
        return World(
            group=self.group,
            saved=self.saved,
            evidence=self.evidence,
            adapters=tuple(r.view for r in self.reconcilers),
            target=target,
            now=now,
            agents={gate: word.text for gate, word in words.items() if word.passed},
            doubts={gate: word.text for gate, word in words.items() if not word.passed},
            loss=agents.loss(self.group, str(target), self.heard, now, wall),
        )

    def shown(self, decision: Decision, now: float, wall: float) -> View:
        """Return everything that is shown of the group."""
        wanted = self.saved.assigned
        adapters = [
            AdapterStatus(
                r.publisher.name,
                r.publisher.type,
                wanted,
                r.seen,
                r.has_yielded,
                r.is_in_sync,
                r.detail,
                r.restarts,
            )
            for r in self.reconcilers
        ]
        return View(
            group=self.group,
            saved=self.saved,
            decision=decision,
            evidence=self.evidence,
            adapters=tuple(adapters),
            roles_swapped=self.group.nodes != self.setup.group.nodes,
            now=now,
            timing=self.setup.timing,
            wall=wall,
            objections=tuple(self.objections.values()),
            agents=dict(self.heard),
            interruption=self._interrupted(now),
        )

    def _interrupted(self, now: float) -> str:
        if self.interruption is None or now - self.interruption[1] > INTERRUPTED_S:
            return ""
        why, at = self.interruption
        return f"{why}, {now - at:.0f}s ago: no failure from before counts any more"

    def why(self, now: float, wall: float) -> tuple[str, ...]:
        """Return what speaks for an automatic failover, in words for the record."""
        group = self.group
        status = self.evidence.page(group.primary, Page.STATUS)
        says = self.evidence.page(group.candidate, Page.HASTATUS)
        lines = []
        if status.last and isinstance(status.last.outcome, Failed):
            outcome, row = status.last.outcome, now - status.counted_since
            lines.append(
                f"{group.primary} status: {status.counted} failures in a row over {row:.1f}s,"
                f" last in phase {outcome.phase.value}: {outcome.detail}"
            )
        if says.last:
            age = now - says.last.started_at
            lines.append(f"{group.candidate} hastatus: Mode: Standby, {age:.1f}s old")
        loss = agents.loss(group, group.candidate, self.heard, now, wall)
        return (*lines, loss) if loss else tuple(lines)


def came_to_wait(before: Saved, state: Saved, group: Group) -> bool:
    """Tell whether traffic just came to a node that may need a while to serve.

    Not where it already was: adopted from the load balancers, or in place when roles were swapped.
    """
    is_moved = state.assigned not in (None, group.primary)
    kind = state.last_change.kind if state.last_change else ""
    return is_moved and state.assigned != before.assigned and kind != "adopt"
