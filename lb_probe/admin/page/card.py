"""One group as the page shows it: every word is chosen here, the templates only place them.

Source: DESIGN sections 3, 4 and 7; `core.explain` has the sentences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lb_probe.admin.page.draw import Band, Spark, band, milliseconds, spark
from lb_probe.admin.page.levels import Level, Standing, level_of
from lb_probe.admin.page.traces import Traces
from lb_probe.core.acts import Plan
from lb_probe.core.explain import headline as first_line
from lb_probe.core.explain import next_step, outlook
from lb_probe.core.model import Change, Gate, Hold, Page
from lb_probe.core.view import (
    AdapterStatus,
    View,
    iso,
    mode_word,
    probe_json,
    reason,
    serving_word,
    warnings,
)
from lb_probe.ports import Record


@dataclass(frozen=True, slots=True)
class PageCell:
    """One of a node's two pages.

    Attributes:
        key: Where the live text goes.
        css: `ok`, `failed` or `unknown`.
    """

    key: str
    page: str
    css: str
    text: str = field(compare=False)
    spark: Spark = field(compare=False)


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node of a group."""

    name: str
    role: str
    has_traffic: bool
    serving: str
    mode: str
    pages: tuple[PageCell, ...]


@dataclass(frozen=True, slots=True)
class BalancerRow:
    """One load balancer: what we want there, and what it says it does."""

    name: str
    type: str
    wanted: str
    seen: str
    state: str
    css: str
    detail: str


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate of resume; `key` is where its live text goes."""

    key: str
    id: str
    passed: bool
    wanted: str
    found: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Card:
    """One group; two cards are equal where only what a beat renews differs.

    Attributes:
        since: ISO-8601 time at which the condition began; empty where nobody saw it.
        tags: Short facts that must not be missed: latched, held, only observed.
        gates: Those of resume, where traffic is off the Primary.
        paste: The line for a shell that resumes.
        verbs: What can be done here.
        offer: The one of them that is made to stand out; empty for none.
    """

    name: str
    level: Level
    condition: str
    rule: str
    since: str
    assigned: str
    traffic: str
    why: str
    next_step: str
    outlook: str = field(compare=False)
    tags: tuple[str, ...]
    hold: str
    acked: str
    warnings: tuple[str, ...]
    generation: int
    nodes: tuple[NodeRow, ...]
    balancers: tuple[BalancerRow, ...]
    gates: tuple[GateRow, ...]
    paste: str
    verbs: tuple[str, ...]
    offer: str
    last_change: str
    band: Band | None = field(compare=False)

    @property
    def sort(self) -> str:
        """The worst first, then by name."""
        return f"{9 - self.level}{self.name}"

    @property
    def in_sync(self) -> str:
        """The load balancers in a few words."""
        if not self.balancers:
            return "none"
        bad = [b.name for b in self.balancers if b.css != "ok"]
        if bad:
            return f"{', '.join(bad)}: not in sync"
        return "in sync" if len(self.balancers) == 1 else f"{len(self.balancers)} in sync"


def standing(view: View, way_back: str) -> Standing:
    """Return what the headline needs to know of a group."""
    return Standing(view.group.name, _level(view), _is_moved(view), way_back)


def _level(view: View) -> Level:
    """Return how grave things are: as the condition, and no calmer than what else is open."""
    found = level_of(view.decision.condition)
    is_open = (
        any(not a.in_sync for a in view.adapters if view.saved.assigned)
        or view.saved.hold is not None
        or view.saved.latched
        or view.roles_swapped
        or "store-not-writable" in view.decision.blocked
        or warnings(view)
    )
    return max(found, Level.LOOK) if is_open else found


def _is_moved(view: View) -> bool:
    return view.saved.assigned not in (None, view.group.primary)


def is_off_home(view: View) -> bool:
    """Tell whether resume means something: traffic was moved, or the group is latched."""
    return view.saved.latched or _is_moved(view)


def way_back(plan: Plan | None) -> str:
    """Return `open` where resume would pass, `word` where only an attestation is missing."""
    if plan is None:
        return ""
    if not plan.closed:
        return "open"
    return "word" if all(gate.open_with == "attest" for gate in plan.closed) else ""


def card(view: View, traces: Traces, plan: Plan | None, level: Level, *, whole: bool) -> Card:
    """Put one group into words.

    Args:
        plan: Of resume, as nobody; None where traffic is at home.
        level: As `standing` has it.
        whole: With drawings and pages; else what a row of the table shows.
    """
    name, condition = view.group.name, view.decision.condition
    since = traces.since(name, condition)
    line = first_line(view).removeprefix(f"{name}: {condition}. ")
    drawn = None
    if whole and view.wall is not None:
        drawn = band(traces.stretches(name, condition), view.wall)
    return Card(
        name=name,
        level=level,
        condition=condition,
        rule=view.decision.rule,
        since="" if since is None else iso(since),
        assigned=view.saved.assigned or "no node",
        traffic=line,
        why=reason(view),
        next_step=next_step(view),
        outlook="; ".join(outlook(view)) if whole else "",
        tags=_tags(view),
        hold=said_hold(view.saved.hold),
        acked=view.saved.acked or "",
        warnings=(*warnings(view), *view.objections),
        generation=view.saved.generation,
        nodes=tuple(_node(view, traces, node) for node in view.group.names) if whole else (),
        balancers=tuple(_balancer(adapter) for adapter in view.adapters),
        gates=tuple(_gate(name, gate) for gate in plan.gates) if plan and whole else (),
        paste=plan.paste if plan else "",
        verbs=_verbs(view),
        offer=_offer(view, plan),
        last_change=said_change(view.saved.last_change),
        band=drawn,
    )


def _tags(view: View) -> tuple[str, ...]:
    saved = view.saved
    tags = {
        "latched": saved.latched,
        "held, hands off": saved.hold is not None and saved.hold.hands_off,
        "held": saved.hold is not None and not saved.hold.hands_off,
        "observed only (act: false)": not view.group.act,
        "roles swapped": view.roles_swapped,
        "acknowledged": saved.acked is not None,
    }
    return tuple(word for word, is_on in tags.items() if is_on)


def utc(wall: float) -> str:
    """Return a time (UTC seconds since 1970) as people read it."""
    return utc_of(iso(wall))


def utc_of(at: str) -> str:
    """Return an ISO-8601 UTC time as people read it.

    >>> utc_of("2026-01-31T08:12:44Z")
    '2026-01-31 08:12:44 UTC'
    """
    return at.replace("T", " ").replace("Z", " UTC")


def said_hold(hold: Hold | None) -> str:
    """Say who holds a group until when, and why; empty for nobody."""
    if hold is None:
        return ""
    hands = ", hands off: nothing is written" if hold.hands_off else ""
    return f"Held by {hold.by} until {utc(hold.until_wall)}{hands}: {hold.reason}"


def _verbs(view: View) -> tuple[str, ...]:
    off_home, saved = is_off_home(view), view.saved
    verbs = {
        "resume": off_home,
        "failover": not off_home,
        "ack": off_home and saved.acked is None,
        "release": saved.hold is not None,
        "hold": True,
        "accept": any(a.yielded for a in view.adapters),
        "republish": any(a.yielded for a in view.adapters),
    }
    return tuple(verb for verb, is_on in verbs.items() if is_on)


# A person decides here, and this is what he decides on.
_FAILOVER = frozenset({"failover-blocked", "promoted-early", "unknown-mode", "unassigned"})


def _offer(view: View, plan: Plan | None) -> str:
    """Return the verb that is next; none is better than one that is not."""
    if is_off_home(view):
        if way_back(plan):
            return "resume"
        return "ack" if view.saved.acked is None else ""
    return "failover" if view.decision.condition in _FAILOVER else ""


def said_change(change: Change | None) -> str:
    """Say what was changed last; empty for nothing."""
    if change is None:
        return ""
    way = f" {change.source or 'none'} -> {change.target or 'none'}" if change.target else ""
    return f"{utc(change.at_wall)} {change.kind}{way} by {change.actor}: {change.reason}"


def _node(view: View, traces: Traces, name: str) -> NodeRow:
    role = next(n.role.value for n in view.group.nodes if n.name == name)
    return NodeRow(
        name=name,
        role=role,
        has_traffic=view.saved.assigned == name,
        serving=serving_word(view, name),
        mode=mode_word(view, name),
        pages=tuple(_cell(view, traces, name, page) for page in Page),
    )


def _cell(view: View, traces: Traces, name: str, page: Page) -> PageCell:
    probe = probe_json(view.evidence.page(name, page), view.now)
    return cell(traces, view.group.name, name, page, probe)


def cell(
    traces: Traces, group: str, name: str, page: Page, probe: Mapping[str, object]
) -> PageCell:
    """Return what is shown of one page of a node."""
    return PageCell(
        key=live_key(group, name, page),
        page=page.value,
        css={"ok": "ok", "failed": "failed"}.get(str(probe.get("result")), "unknown"),
        text=probe_text(probe),
        spark=spark(traces.samples(group, name, page)),
    )


def _gate(group: str, gate: Gate) -> GateRow:
    return GateRow(f"{group}/gate/{gate.id}", gate.id, gate.passed, gate.wanted, gate.found)


def live_key(group: str, node: str, page: Page) -> str:
    """Return the name under which a page's text is renewed every second."""
    return f"{group}/{node}/{page.value}"


def live_texts(view: View, plan: Plan | None) -> dict[str, str]:
    """Return the texts of a whole card that change with every probe, or with time alone."""
    name = view.group.name
    texts = {f"{name}/outlook": "; ".join(outlook(view))}
    for node in view.group.names:
        for page in Page:
            probe = probe_json(view.evidence.page(node, page), view.now)
            texts[live_key(name, node, page)] = probe_text(probe)
    for gate in plan.gates if plan else ():
        texts[f"{name}/gate/{gate.id}"] = gate.found
    return texts


def probe_text(probe: Mapping[str, object]) -> str:
    """Say what a page answered last."""
    if not probe:
        return "not probed yet"
    took, age, row = probe["duration_s"], probe["age_s"], probe["in_a_row"]
    assert isinstance(took, float)
    assert isinstance(age, float)
    when = f"{row} in a row, {age:.1f} s ago"
    if probe["result"] == "ok":
        return f"ok in {milliseconds(took)}; {when}"
    return f"failed: {probe['phase']}, {probe['detail']}; {when}"


def _balancer(adapter: AdapterStatus) -> BalancerRow:
    seen = "cannot be read" if adapter.seen is None else adapter.seen.node or "no one node"
    return balancer_row(adapter, adapter.wanted or "none", seen)


def balancer_row(adapter: AdapterStatus, wanted: str, seen: str) -> BalancerRow:
    """Return what is shown of one load balancer."""
    state, css = ("in sync", "ok") if adapter.in_sync else ("not in sync", "failed")
    if adapter.yielded:
        state, css = "somebody else writes there: accept or republish", "failed"
    elif adapter.wanted is None:
        state, css = "nothing is written", "unknown"
    return BalancerRow(adapter.name, adapter.type, wanted, seen, state, css, adapter.detail)


# ------------------------------------------------------------------ history
@dataclass(frozen=True, slots=True)
class Line:
    """One line of history."""

    at: str
    group: str
    kind: str
    way: str
    actor: str
    reason: str


def history_lines(records: Sequence[Record]) -> list[Line]:
    """Put changes into words, newest first."""
    return [_line(record) for record in reversed(records)]


def _line(record: Record) -> Line:
    said = record.details
    source, target = said.get("from"), said.get("to")
    way = f"{source or 'none'} -> {target or 'none'}" if source != target else str(target or "")
    return Line(
        iso(record.at_wall),
        record.group,
        record.kind,
        way,
        str(said.get("actor", "")),
        str(said.get("reason", "")),
    )
