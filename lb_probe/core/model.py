"""The nouns of the service, in the order data passes through them.

Probe -> `Observation` -> `core.evidence` -> `Situation` -> `core.failover` -> `Assignment` saved
-> published -> `Seen` -> the next input. Times called `*_at` are monotonic seconds unless a name
says `wall`; wall times are for people only (UTC, seconds since 1970).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum


class Word(Enum):
    """An Enum whose members are found fast: they are one of a kind, and keys of every table."""

    __hash__ = object.__hash__


# ------------------------------------------------------------------ nodes and their pages
class Role(Word):
    """What a node is by configuration; a failover never changes it (R3)."""

    PRIMARY = "primary"
    SECONDARY = "secondary"


class Page(Word):
    """The two pages a node serves (guide lines 216 and 218)."""

    STATUS = "status"
    HASTATUS = "hastatus"


class Mode(Word):
    """What a node's hastatus page says of itself; any other word is UNKNOWN (R50, X22)."""

    STANDBY = "standby"
    PRIMARY = "primary"
    UNKNOWN = "unknown"


class Phase(Word):
    """Where a probe failed; the label `result` of `lb_probe_probes_total`."""

    NAME = "name"
    CONNECT_REFUSED = "connect-refused"
    CONNECT_TIMEOUT = "connect-timeout"
    TLS = "tls"
    PROTOCOL = "protocol"
    STATUS = "status"
    BODY = "body"
    TOO_LARGE = "too-large"
    REDIRECT = "redirect"
    TIMEOUT = "timeout"
    RESET = "reset"
    LOCAL = "local"  # this machine had no socket, port or right: it says nothing of the node


# A failure in one of these says nothing of the application: no answer came back at all.
NETWORK_PHASES = frozenset(
    {
        Phase.NAME,
        Phase.CONNECT_REFUSED,
        Phase.CONNECT_TIMEOUT,
        Phase.TLS,
        Phase.TIMEOUT,
        Phase.RESET,
    }
)


@dataclass(frozen=True, slots=True)
class Passed:
    """The page gave its documented answer, or (hastatus) a mode that nobody documented.

    Attributes:
        mode: What hastatus said; None for the status page.
        detail: What an operator should know all the same; empty when there is nothing.
    """

    mode: Mode | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The probe failed. A failed probe is a value, never an exception."""

    phase: Phase
    detail: str


Outcome = Passed | Failed


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished probe of one page of one node.

    Attributes:
        started_at: Monotonic seconds when the attempt began.
        ended_at: Monotonic seconds when its verdict was known.
        code: HTTP status, None when no answer came.
        head: First 200 characters of the body, made safe to print.
        body_sha256: Hex digest of the body as read; empty when there was none.
        certificate_until: When the node's certificate expires, UTC seconds since 1970; None where
            there is none, or the handshake did not get that far.
        note: What an operator should know of the way to the answer; empty when it was plain.
    """

    node: str
    page: Page
    started_at: float
    ended_at: float
    outcome: Outcome
    code: int | None = None
    head: str = ""
    body_sha256: str = ""
    certificate_until: float | None = None
    note: str = ""


# ------------------------------------------------------------------ columns of the table
class Traffic(Word):
    """Who has the traffic by our own saved word; see `core.failover`."""

    PRIMARY = "primary"
    MOVED = "moved"
    UNASSIGNED = "unassigned"


class Primary(Word):
    """What the evidence says of the Primary's status page."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Says(Word):
    """Whether the Primary's own hastatus page, fresh, says Standby."""

    STANDBY = "standby"
    OTHER = "other"


class Secondary(Word):
    """What the evidence says of the hastatus page of the node that matters."""

    STANDBY = "standby"
    PRIMARY = "primary"
    FAIL = "fail"
    STALE = "stale"
    UNKNOWN_MODE = "unknown-mode"


class Serving(Word):
    """Whether the node with the traffic serves, after a move."""

    YES = "yes"
    WAITING = "waiting"
    NO = "no"
    UNKNOWN = "unknown"


class Automation(Word):
    """Whether the rule may act by itself."""

    ARMED = "armed"
    BLOCKED = "blocked"
    ISOLATED = "isolated"


class Action(Word):
    """What a row asks the controller to do."""

    NONE = "none"
    REPROBE = "reprobe"
    FAIL_OVER = "fail-over"


@dataclass(frozen=True, slots=True)
class Situation:
    """One value for each column of the decision table; built only by `core.evidence`."""

    traffic: Traffic
    primary: Primary
    says: Says
    secondary: Secondary
    serving: Serving
    automation: Automation


# ------------------------------------------------------------------ what is configured
@dataclass(frozen=True, slots=True)
class Node:
    """One server that serves the two pages."""

    name: str
    role: Role
    candidate: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A group as the core knows it: names, roles and numbers, no addresses.

    Attributes:
        act: False observes: decisions are recorded and nothing is published.
        adapters: Names of the load balancers that carry the assignment.
        fall: Failures in a row before a page counts as failed.
        rise: Passes in a row before a failed page counts as good.
        confirm_s: Seconds the Primary must have failed without a break.
        max_age_s: Oldest reading, in seconds, that may support a decision.
        serving_deadline_s: Seconds a node may take to serve after traffic came to it.
        require: Gates of `resume` beyond those that always apply.
        primary: Name of the configured Primary.
        candidate: Name of the one secondary that automation may choose.
        names: Names of all nodes, in the order of the file.
    """

    name: str
    nodes: tuple[Node, ...]
    act: bool = True
    adapters: tuple[str, ...] = ()
    fall: int = 3
    rise: int = 2
    confirm_s: float = 10.0
    max_age_s: float = 3.0
    serving_deadline_s: float = 60.0
    require: tuple[str, ...] = ("primary-serving", "single-primary", "synced")
    # Asked for with every probe, so found once.
    primary: str = field(init=False, repr=False, compare=False)
    candidate: str = field(init=False, repr=False, compare=False)
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        primary = next((n.name for n in self.nodes if n.role is Role.PRIMARY), "")
        object.__setattr__(self, "primary", primary)
        object.__setattr__(self, "candidate", next((n.name for n in self.nodes if n.candidate), ""))
        object.__setattr__(self, "names", tuple(n.name for n in self.nodes))

    def with_roles(self, roles: Mapping[str, Role] | None) -> "Group":
        """Return the group as it is after `swap-roles` saved `roles`; None changes nothing."""
        if not roles:
            return self
        named = [replace(n, role=roles.get(n.name, n.role)) for n in self.nodes]
        second = [n for n in named if n.role is Role.SECONDARY]
        # The candidate stays one; where it became Primary, the old Primary stands behind it. A DR
        # site never becomes the candidate by a swap.
        kept = [n.name for n in second if n.candidate] or [
            n.name for n in self.nodes if n.role is Role.PRIMARY
        ]
        return replace(self, nodes=tuple(replace(n, candidate=n.name == kept[0]) for n in named))


# ------------------------------------------------------------------ what is saved
@dataclass(frozen=True, slots=True)
class Hold:
    """An operator's switch: no automatic move while it is on.

    Attributes:
        until_wall: When it is due, UTC seconds since 1970; it lapses only in condition `normal`.
        hands_off: Repairs are off as well: nothing at all is written to a load balancer.
    """

    by: str
    reason: str
    until_wall: float
    hands_off: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """The last change of the assignment, latch, hold, roles or ack, and why it was made.

    Attributes:
        kind: failover, resume, switchover, hold, release, hold-lapsed, swap-roles, roles-agreed,
            ack, accept, adopt, assign or offline.
        evidence: Sentences that supported it, for people.
        notes: Overrides and attestations by name, with their text.
    """

    kind: str
    source: str | None
    target: str | None
    at_wall: float
    actor: str
    reason: str
    rule: str = ""
    condition: str = ""
    evidence: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """Everything that must survive a power cut, for one group.

    Attributes:
        assigned: Node with the traffic; None while nobody has said (unassigned).
        latched: Traffic was moved off the Primary; only resume or swap-roles ends it.
        roles: Override saved by swap-roles; wins until the file agrees.
        acked: Who has seen the incident; arms nothing.
        confirmed: For each adapter the generation it was last seen to carry out.
        fingerprint: Topology the assignment was made for; a later one is compared with it.
    """

    assigned: str | None = None
    latched: bool = False
    hold: Hold | None = None
    roles: Mapping[str, Role] | None = None
    acked: str | None = None
    generation: int = 0
    last_change: Change | None = None
    confirmed: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""


# ------------------------------------------------------------------ what load balancers say
@dataclass(frozen=True, slots=True)
class Health:
    """What a load balancer's own check says of one node.

    Attributes:
        up: Whether it would send traffic there by that check; its administrative state aside.
        is_sure: Every check in its memory agrees: not one failed lately while up.
        detail: Its own word for it, as UP or L4CON.
        layer: How deep its last check looked: 4 a connection, 6 TLS, 7 an answer.
    """

    up: bool
    is_sure: bool
    detail: str = ""
    layer: int = 7


@dataclass(frozen=True, slots=True)
class Seen:
    """What one load balancer says it does.

    Attributes:
        node: The one node it sends traffic to; None where that is neither or several.
        chosen: All nodes it would send traffic to by its administrative state.
        usable: Whether it would send traffic there now: its own check may hold the node down.
            None where it cannot tell.
        instance: Names this run of the load balancer; another value means it restarted.
        detail: A sentence for people; empty when all is plain.
        health: For each node that it checks by itself what that says; others are left out.
        owner: Who wrote the assignment last, by the word left there; empty where none is.
        version: Of its software; empty where it does not tell.
        uptime_s: Seconds this run has lasted; None where it does not tell. It always grows, and
            makes no reading another one.
        in_flight: For each node the requests and connections under way; others are left out.
        leaving: One sentence for each process that leaves after a reload and still has sessions.
        also: Other nodes that what it does is right for as well: behind the same server, or
            brought their traffic by another tier.
        unsettled: What should follow a move and failed, as a save; empty where nothing did. The
            traffic is as `node` says all the same.
    """

    node: str | None
    chosen: tuple[str, ...] = ()
    usable: bool | None = None
    instance: str = ""
    detail: str = ""
    health: Mapping[str, Health] = field(default_factory=dict)
    owner: str = ""
    version: str = ""
    uptime_s: float | None = field(default=None, compare=False)
    in_flight: Mapping[str, int] = field(default_factory=dict)
    leaving: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    unsettled: str = ""

    def told_for(self, node: str | None) -> "Seen":
        """Return the same reading, calling what it does by `node` where it is right for that too.

        >>> Seen("a", ("a", "b"), also=("b",)).told_for("b").node
        'b'
        """
        if node is None or node not in self.also:
            return self
        others = [other for other in (self.node, *self.also) if other not in (node, None)]
        return replace(self, node=node, also=tuple(dict.fromkeys(map(str, others))))

    @property
    def word(self) -> str:
        """What it sends traffic to, in a word or two."""
        return self.node or (" and ".join(self.chosen) if self.chosen else "neither")


def agreed(seen: Sequence[Seen]) -> str | None:
    """Return the one node that all of these carry; None where they name none or differ.

    >>> agreed([Seen("main-a", also=("main-b",)), Seen("main-b", also=("dr",))])
    'main-b'
    >>> agreed([Seen("main-a"), Seen("dr")])
    """
    if not seen or any(one.node is None for one in seen):
        return None
    if len({one.node for one in seen}) == 1:
        return seen[0].node
    common = frozenset.intersection(*(frozenset([one.node, *one.also]) for one in seen))
    return next(iter(common)) if len(common) == 1 else None


# ------------------------------------------------------------------ what came of it
# What may keep the rule from acting, in the order in which it is told.
BRAKES = ("hold", "act", "one-shot", "limit", "store-not-writable", "lb-disagrees")


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer of the table for one group.

    Attributes:
        blocked: The brakes that are on, by name; empty while armed.
    """

    rule: str
    action: Action
    condition: str
    situation: Situation
    blocked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition of an operator's command, judged.

    Attributes:
        id: Name an operator gives to `--override` or `--attest`.
        found: What is the case now, a sentence.
        wanted: What would pass, a sentence.
        open_with: How an operator opens it: `override`, `attest`, or `` where neither may.
        instead: The line that does help where neither may; empty where none does.
    """

    id: str
    passed: bool
    found: str
    wanted: str
    open_with: str = "override"
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; the only source of logs and metrics.

    Attributes:
        name: What happened, dotted, from the list in `docs/operations.md`.
        group: Group it concerns; empty for the process as a whole.
        fields: Plain values for people and machines.
    """

    name: str
    group: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
