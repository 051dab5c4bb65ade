"""What a history tells of one group, as steps on one time line.

Each prober that ran has its own time line (`run` and `up` of its records); they are put one behind
the other. Between two kept observations of a page it is taken to have stayed as it was; while no
prober ran, and after the last record of one that was killed, nothing is known of any page.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lb_probe.core.model import (
    Failed,
    Group,
    Hold,
    Mode,
    Outcome,
    Page,
    Passed,
    Phase,
    Role,
    Saved,
)
from lb_probe.history import CHANGES, wall_of
from lb_probe.ports import Record

# Change the saved state: the rest of them (ack, republish) moves nothing and holds nothing.
MOVES = frozenset(
    {"resume", "failover", "switchover", "swap-roles", "accept", "adopt", "assign", "offline"}
)
HOLDS = frozenset({"hold", "release", "hold-lapsed"})
GAP_S = 0.001  # so that one prober's last moment is not the next one's first


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page answered, and how many seconds that took."""

    outcome: Outcome
    took_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened, or became known.

    Attributes:
        at: Seconds on the story's time line.
        wall: The same moment as UTC seconds since 1970, for people.
        what: `saw`, `began`, a kind of change, or another kind of record; also `paused`, the
            beginning of what ends with `stalled`, and `died`, where a killed prober was last heard.
        saved: What was saved after it, for `began` and changes.
        by: Who made a change; empty for the rule.
        adapters: With `witness`: which load balancers see the Primary up.
    """

    at: float
    wall: float
    what: str
    node: str = ""
    page: Page = Page.STATUS
    answer: Answer | None = None
    saved: Saved | None = None
    by: str = ""
    adapters: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Story:
    """One group's part of a history.

    Attributes:
        saved: For each step what was really saved after it; None while that is not known.
        first: What was saved before the first step, as far as the first change tells.
        end: The last moment of which anything is known.
        nodes: Every node of which a page was seen.
    """

    group: str
    steps: tuple[Step, ...]
    saved: tuple[Saved | None, ...]
    first: Saved | None
    end: float
    nodes: frozenset[str]


def tell(records: Sequence[Record], group: str) -> Story:
    """Put a history into the order in which it happened, for one group."""
    placed = list(_on_one_line(records))
    end = max((_end_of(at, record) for at, _, record in placed), default=0.0)
    steps = [*_steps(placed, group), *_deaths(placed)]
    steps.sort(key=lambda step: step.at)  # stable: what was noted first comes first
    saved: list[Saved | None] = []
    now = first = _first(records, group)
    ordered = []
    for step in steps:
        if step.what == "began" or step.what in CHANGES:
            now = _with_change(now, step)
            step = replace(step, saved=now)
        ordered.append(step)
        saved.append(now)
    nodes = frozenset(step.node for step in steps if step.what == "saw")
    return Story(group, tuple(ordered), tuple(saved), first, end, nodes)


def _first(records: Iterable[Record], group: str) -> Saved | None:
    """Return where traffic was before all that is on record."""
    for record in records:
        if record.group != group or record.kind not in CHANGES | {"began"}:
            continue
        node = record.details.get("from")
        if not isinstance(node, str):
            return None
        return Saved(node, latched=record.kind in ("resume", "swap-roles"), generation=1)
    return None


# ------------------------------------------------------------------ the time line
def _on_one_line(records: Iterable[Record]) -> Iterator[tuple[float, int, Record]]:
    """Yield for each record its place on the time line, and the number of its prober's run."""
    bases: dict[int, float] = {}
    run, latest = 0, 0.0
    for record in records:
        found, up = record.details.get("run"), record.details.get("up")
        if isinstance(found, int) and isinstance(up, int | float):
            run = found
            # A clock that was set back while no prober ran must not mix two of them.
            base = bases.setdefault(run, max(run / 1000, latest + GAP_S))
            at = base + up
        else:
            at = bases.get(run, 0.0) + record.at_wall - (run / 1000 if run in bases else 0.0)
        latest = max(latest, _end_of(at, record))
        yield at, run, record


def _end_of(at: float, record: Record) -> float:
    return at + (_took(record.details) if record.kind == "observation" else 0.0)


def _took(details: Mapping[str, object]) -> float:
    return max(0.0, wall_of(str(details["ended"])) - wall_of(str(details["started"])))


def _deaths(placed: Sequence[tuple[float, int, Record]]) -> Iterator[Step]:
    """Yield where probers that said no goodbye were last heard of, but for the last one."""
    heard: dict[int, tuple[float, float]] = {}
    ended: set[int] = set()
    for at, run, record in placed:
        end = _end_of(at, record)
        if run not in heard or heard[run][0] < end:
            heard[run] = end, record.at_wall
        if record.kind == "stopped":
            ended.add(run)
    for run in list(heard)[:-1]:
        if run not in ended:
            yield Step(*heard[run], "died")


# ------------------------------------------------------------------ from records to steps
def _steps(placed: Iterable[tuple[float, int, Record]], group: str) -> Iterator[Step]:
    for at, _, record in placed:
        if record.group not in (group, ""):
            continue
        if record.kind == "observation":
            yield _saw(at, record.details)
        elif record.kind == "stalled":
            away = record.details.get("away_s")
            back = float(away) if isinstance(away, int | float) else 0.0
            yield Step(at - back, record.at_wall - back, "paused")
            yield Step(at, record.at_wall, "stalled")
        elif record.kind == "began" or record.kind in CHANGES:
            yield _changed(at, record)
        elif record.kind == "witness":
            found = record.details["adapters"]
            adapters = frozenset(map(str, found)) if isinstance(found, list) else frozenset()
            yield Step(at, record.at_wall, "witness", adapters=adapters)
        else:
            yield Step(at, record.at_wall, record.kind)


def _saw(at: float, details: Mapping[str, object]) -> Step:
    detail = str(details.get("detail", ""))
    outcome: Outcome
    if details["result"] == "failed":
        outcome = Failed(Phase(details["phase"]), detail)
    else:
        outcome = Passed(Mode(details["mode"]) if "mode" in details else None, detail)
    return Step(
        at,
        wall_of(str(details["started"])),
        "saw",
        node=str(details["node"]),
        page=Page(details["page"]),
        answer=Answer(outcome, _took(details)),
    )


def _changed(at: float, record: Record) -> Step:
    details = record.details
    target = details.get("to")
    roles, hold = details.get("roles"), details.get("hold")
    saved = Saved(
        assigned=None if target is None else str(target),
        latched=bool(details.get("latched", record.kind in ("failover", "switchover"))),
        roles={n: Role(r) for n, r in roles.items()} if isinstance(roles, dict) else None,
        hold=_hold(hold) if isinstance(hold, dict) else None,
        generation=record.generation,
    )
    # The rule signs with its row; an operator's failover has none.
    by = "" if details.get("rule") else str(details.get("actor", "lb-probe"))
    return Step(at, record.at_wall, record.kind, saved=saved, by=by)


def _hold(found: Mapping[str, object]) -> Hold:
    return Hold(
        by=str(found["by"]),
        reason=str(found["reason"]),
        until_wall=wall_of(str(found["until"])),
        hands_off=bool(found["hands_off"]),
    )


def _with_change(before: Saved | None, step: Step) -> Saved:
    """Return what was saved after a step; a republish saves nothing."""
    assert step.saved is not None
    return before if before is not None and step.what == "republish" else step.saved


# ------------------------------------------------------------------ faults of the Primary
@dataclass(frozen=True, slots=True)
class Fault:
    """A time without a break in which a Primary's status page failed.

    Attributes:
        step: Number of the step that began it.
        end: When it was over; None where it goes on beyond what is known.
        how: Why it failed, at first.
        until: What ended it, or what is known of it: `good`, `stopped`, `swapped`, `open`.
    """

    node: str
    step: int
    at: float
    wall: float
    end: float | None
    how: str
    until: str


def faults(story: Story, groups: Sequence[Group]) -> list[Fault]:
    """Find every fault of a node that is Primary by one of these configurations."""
    found: list[Fault] = []
    failing: dict[str, str] = {}
    begun: dict[str, Fault] = {}
    for number, step in enumerate(story.steps):
        _follow(failing, step)
        saved = story.saved[number]
        primaries = {g.with_roles(saved.roles if saved else None).primary for g in groups}
        for node in sorted(begun):
            if node not in failing or node not in primaries:
                until = {"saw": "good", "swap-roles": "swapped"}.get(step.what, "stopped")
                found.append(replace(begun.pop(node), end=step.at, until=until))
        for node in sorted(primaries & failing.keys() - begun.keys()):
            begun[node] = Fault(node, number, step.at, step.wall, None, failing[node], "open")
    return sorted([*found, *begun.values()], key=lambda fault: (fault.step, fault.node))


def _follow(failing: dict[str, str], step: Step) -> None:
    """Keep which nodes' status pages fail, and how."""
    if step.what in ("stopped", "died", "began", "lost"):
        failing.clear()
    if step.answer is None or step.page is not Page.STATUS:
        return
    if isinstance(step.answer.outcome, Failed):
        failing.setdefault(step.node, step.answer.outcome.phase.value)
    else:
        failing.pop(step.node, None)
