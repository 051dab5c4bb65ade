"""The rule of groups whose nodes all serve at once (policy `active-active`), as a table.

Every healthy node is in; a node that returned comes back by itself. So nothing is latched here and
nobody has to resume. What must never happen is the opposite of a failover: that the prober, which
may be wrong, takes one node after the other out until nobody serves. Hence `floor`: the last node
and a share of all nodes (`panic_threshold`) always stay in, whatever their pages say.

Each node is looked up alone in `RULES`; the group's condition is the gravest of its nodes'. Rows do
not overlap and leave no gap, which `_expand` checks at import. What the columns mean:

* health       the node's status page. FAIL needs `fall` failures in a row that started after the
               last interruption (start, a stall, isolation, a hold); OK needs `rise` passes in a
               row after a FAIL. UNKNOWN: no verdict, or the reading is too old; the node is left
               where it is.
* place        whether the node is IN or OUT by our own word.
* room         ENOUGH: one node more may go out. AT_FLOOR: not even one.
* automation   ARMED; BLOCKED (a brake is on: hold, act: false, store not writable); ISOLATED (the
               prober is cut off).

Source: High Availability guide, lines 174 and 199 (Sentry); REQUIREMENTS R39, R40, R44; DESIGN 4.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.failover import words
from lb_probe.core.model import NETWORK_PHASES, Automation, Failed, Group, Observation, Page, Word


# ------------------------------------------------------------------ columns of the table
class Verdict(Word):
    """What the evidence says of one node's status page."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Place(Word):
    """Whether a node gets traffic by our own word."""

    IN = "in"
    OUT = "out"


class Room(Word):
    """Whether one node more may go out."""

    ENOUGH = "enough"
    AT_FLOOR = "at-floor"


class Action(Word):
    """What a row asks the loop to do."""

    NONE = "none"
    TAKE_OUT = "take-out"
    PUT_IN = "put-in"


@dataclass(frozen=True, slots=True)
class Situation:
    """One node: one value for each column of the table."""

    health: Verdict
    place: Place
    room: Room
    automation: Automation


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the situations it covers and the answer for all of them."""

    id: str
    health: Set[Verdict]
    place: Set[Place]
    room: Set[Room]
    automation: Set[Automation]
    action: Action
    condition: str


V, R, G, A = Verdict, Room, Automation, Action
IN, OUT, BOTH = {Place.IN}, {Place.OUT}, set(Place)
ARMED, BLOCKED, ISOLATED = {G.ARMED}, {G.BLOCKED}, {G.ISOLATED}
AUTO = ARMED | BLOCKED

# fmt: off
RULES = (
    #    id    health               place room          automation action      condition
    Rule("N1", {V.OK},              IN,   set(R),       AUTO,     A.NONE,     "all-in"),
    Rule("N2", {V.UNKNOWN},         IN,   set(R),       AUTO,     A.NONE,     "confirming"),
    Rule("N3", {V.FAIL},            IN,   {R.ENOUGH},   ARMED,    A.TAKE_OUT, "some-out"),
    Rule("N4", {V.FAIL},            IN,   {R.ENOUGH},   BLOCKED,  A.NONE,     "out-blocked"),
    # No way round this row: neither the last node nor one more than the threshold allows.
    Rule("N5", {V.FAIL},            IN,   {R.AT_FLOOR}, AUTO,     A.NONE,     "panic"),

    Rule("N6", {V.OK},              OUT,  set(R),       ARMED,    A.PUT_IN,   "some-out"),
    Rule("N7", {V.OK},              OUT,  set(R),       BLOCKED,  A.NONE,     "in-blocked"),
    # In a panic as well: a node that is known to fail would only be given requests to lose.
    Rule("N8", {V.FAIL, V.UNKNOWN}, OUT,  set(R),       AUTO,     A.NONE,     "some-out"),

    Rule("I1", set(V),              BOTH, set(R),       ISOLATED, A.NONE,     "prober-isolated"),
)
# fmt: on

# Gravest first: the group is shown as the gravest of its nodes.
CONDITIONS = (
    "prober-isolated",
    "panic",
    "out-blocked",
    "in-blocked",
    "some-out",
    "confirming",
    "all-in",
)
COLUMNS: tuple[tuple[str, type[Enum]], ...] = (
    ("health", Verdict),
    ("place", Place),
    ("room", Room),
    ("automation", Automation),
)


def _situations(columns: Iterable[Iterable[Any]]) -> Iterator[Situation]:
    return (Situation(*values) for values in product(*columns))


def _expand(rules: Sequence[Rule], conditions: Sequence[str]) -> Mapping[Situation, Rule]:
    """Turn rows into a flat lookup.

    Raises:
        ValueError: Two rows cover one situation, none does, or a condition has no one rank.
    """
    table: dict[Situation, Rule] = {}
    for rule in rules:
        for situation in _situations(getattr(rule, name) for name, _ in COLUMNS):
            if situation in table:
                raise ValueError(f"rules {table[situation].id} and {rule.id} cover {situation}")
            table[situation] = rule
    missing = set(_situations(kind for _, kind in COLUMNS)) - table.keys()
    if missing:
        raise ValueError(f"no rule covers {len(missing)}, first {min(map(str, missing))}")
    if sorted(conditions) != sorted({rule.condition for rule in rules}):
        raise ValueError(f"the rules' conditions are not those that are ranked: {conditions}")
    return table


_TABLE = _expand(RULES, CONDITIONS)


# ------------------------------------------------------------------ a group and its evidence
@dataclass(frozen=True, slots=True)
class Pool:
    """An active-active group as the core knows it: names and numbers, no addresses.

    Attributes:
        act: False observes: what would be done is shown and recorded, and nothing is published.
        fall: Failures in a row before a node counts as failed.
        rise: Passes in a row before a failed node counts as good.
        max_age_s: Oldest reading, in seconds, that may support a decision.
        panic_percent: Share of the nodes that always stays in, 0 to 100.
        adapters: Names of the load balancers that carry the nodes.
    """

    name: str
    nodes: tuple[str, ...]
    act: bool = True
    fall: int = 3
    rise: int = 2
    max_age_s: float = 3.0
    panic_percent: float = 50
    adapters: tuple[str, ...] = ()

    @property
    def floor(self) -> int:
        """How many nodes stay in whatever their pages say; never less than one.

        >>> [Pool("gw", tuple("abcde"[:n])).floor for n in (1, 2, 3, 4, 5)]
        [1, 1, 2, 2, 3]
        """
        needed = len(self.nodes) * self.panic_percent / 100
        return max(1, int(needed) + (needed > int(needed)))

    @property
    def numbers(self) -> Group:
        """What `core.evidence` and `core.acts` go by; it names no nodes, for they have no roles."""
        return Group(self.name, (), self.act, self.adapters, self.fall, self.rise)


def fold(evidence: Evidence, observation: Observation, pool: Pool) -> Evidence:
    """Add one observation; only status pages count here (R40)."""
    if observation.page is not Page.STATUS:
        return evidence
    return ev.fold(evidence, observation, pool.numbers, None)


def verdict(evidence: Evidence, pool: Pool, node: str, now: float) -> Verdict:
    """Judge one node's status page.

    Args:
        now: Monotonic seconds, from the clock that stamped the observations.
    """
    page = evidence.page(node, Page.STATUS)
    if not ev.is_fresh(page.last, now, pool.max_age_s):
        return Verdict.UNKNOWN
    if page.passes:
        return Verdict.OK if page.good else Verdict.UNKNOWN
    return Verdict.FAIL if page.counted >= pool.fall else Verdict.UNKNOWN


def is_cut_off(evidence: Evidence, pool: Pool) -> bool:
    """Tell whether no node of this group answers at all: every page fails in the network."""
    outcomes = [page.last and page.last.outcome for page in _pages(evidence, pool)]
    return all(isinstance(said, Failed) and said.phase in NETWORK_PHASES for said in outcomes)


def _pages(evidence: Evidence, pool: Pool) -> list[ev.PageEvidence]:
    return [evidence.page(node, Page.STATUS) for node in pool.nodes]


# ------------------------------------------------------------------ the decision
@dataclass(frozen=True, slots=True)
class NodeDecision:
    """One answer of the table for one node."""

    node: str
    situation: Situation
    rule: Rule


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """The answers for all nodes of one group.

    Attributes:
        rule: Id of the row behind `condition`.
        condition: The gravest condition of the nodes.
        nodes: In the order of the file.
        members: The nodes that should be in after this decision.
        wished: The same without the brakes: what would be done.
        blocked: The brakes that are on, by name; empty while armed.
    """

    rule: str
    condition: str
    automation: Automation
    nodes: tuple[NodeDecision, ...]
    members: frozenset[str]
    wished: frozenset[str]
    blocked: tuple[str, ...] = ()


def decide(
    pool: Pool,
    members: Set[str],
    evidence: Evidence,
    automation: Automation,
    now: float,
    blocked: tuple[str, ...] = (),
) -> PoolDecision:
    """Look every node up, one after the other: each answer is the next one's room.

    Nodes that may come in go first, because they make room; then those that fail, the one that
    failed first at the head: where only one may go it is that one.

    Args:
        members: The nodes that are in now.
        now: Monotonic seconds.
        blocked: The brakes that are on; they only travel along, `automation` already knows.
    """
    healths = {node: verdict(evidence, pool, node, now) for node in pool.nodes}
    since = {node: evidence.page(node, Page.STATUS).counted_since for node in pool.nodes}
    order = sorted(pool.nodes, key=lambda n: (healths[n] is V.FAIL, since[n]))
    wished = {node for node in pool.nodes if node in members}
    found: dict[str, NodeDecision] = {}
    for node in order:
        situation = Situation(
            health=healths[node],
            place=Place.IN if node in wished else Place.OUT,
            room=Room.ENOUGH if len(wished) > pool.floor else Room.AT_FLOOR,
            automation=automation,
        )
        found[node] = NodeDecision(node, situation, _TABLE[situation])
        _carry_out(_wish(situation), node, wished)
    nodes = tuple(found[node] for node in pool.nodes)
    gravest = min(nodes, key=lambda d: CONDITIONS.index(d.rule.condition)).rule
    after = wished if automation is G.ARMED else set(members)
    return PoolDecision(
        rule=gravest.id,
        condition=gravest.condition,
        automation=automation,
        nodes=nodes,
        members=frozenset(after),
        wished=frozenset(wished),
        blocked=blocked,
    )


def _wish(situation: Situation) -> Action:
    """Return the action without the brakes; cut off from its nodes a prober has no wishes."""
    if situation.automation is not G.BLOCKED:
        return _TABLE[situation].action
    return _TABLE[Situation(situation.health, situation.place, situation.room, G.ARMED)].action


def _carry_out(action: Action, node: str, members: set[str]) -> None:
    if action is Action.TAKE_OUT:
        members.remove(node)
    elif action is Action.PUT_IN:
        members.add(node)


# ------------------------------------------------------------------ where a group begins
@dataclass(frozen=True, slots=True)
class Adopted:
    """What a starting prober takes over.

    Attributes:
        members: Nodes that any readable load balancer sends traffic to.
        disputed: Those about which they differ: nothing is published until each is judged.
        reason: One sentence for people.
    """

    members: frozenset[str]
    disputed: frozenset[str]
    reason: str


def adopt(pool: Pool, seen: Mapping[str, Set[str] | None]) -> Adopted:
    """Say where this group begins: with what the load balancers do, not with an idea of ours.

    Args:
        seen: For each adapter the nodes it sends traffic to; None where it cannot be read.
    """
    known = frozenset(pool.nodes)
    if not seen:
        return Adopted(known, frozenset(), "no load balancers: every node")
    sets = [known & nodes for nodes in seen.values() if nodes is not None]
    if not sets:
        return Adopted(known, known, "no load balancer can be read: each node is judged first")
    members = frozenset[str]().union(*sets)
    disputed = members - members.intersection(*sets)
    if disputed:
        names = ", ".join(sorted(disputed))
        return Adopted(members, disputed, f"the load balancers differ about {names}")
    return Adopted(members, disputed, "as the load balancers have it")


# ------------------------------------------------------------------ the page
def as_markdown(rules: Iterable[Rule] = RULES) -> str:
    """Render the rows for `docs/active-active.md`, which a test compares."""
    heads = ["rule", *(name for name, _ in COLUMNS), "action", "condition"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for rule in rules:
        cells = [words(getattr(rule, name), kind) for name, kind in COLUMNS]
        lines.append(f"| {' | '.join([rule.id, *cells, rule.action.value, rule.condition])} |")
    return "\n".join(lines) + "\n"
