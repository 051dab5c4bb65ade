"""Observations folded into the columns of the decision table.

`fold` takes one finished probe; `judge` says what the whole of it means now. Both are pure and are
given every time they need: monotonic seconds of one clock.

The heart of this file is what does *not* count. The Primary's failures count only when they
started after the latest of: the watched Secondary's page beginning to answer again, the end of
isolation, of a loop stall, of a clock jump, of a hold, and start (X19). A prober whose own link was
cut sees both nodes fail; when the link comes back the Secondary answers first in half of all cases,
and old failures of the Primary beside a fresh `Mode: Standby` would look exactly like the rule.

Source: guide lines 216-222; REQUIREMENTS X19, X22, R51-R53; DESIGN section 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lb_probe.core.model import (
    NETWORK_PHASES,
    Automation,
    Failed,
    Group,
    Mode,
    Observation,
    Page,
    Passed,
    Phase,
    Primary,
    Says,
    Secondary,
    Serving,
    Situation,
    Traffic,
)


@dataclass(frozen=True, slots=True)
class PageEvidence:
    """What is known of one page of one node.

    Attributes:
        last: The latest observation by start time.
        passes: Passes in a row up to `last`; 0 after a failure.
        fails: Failures in a row up to `last`; 0 after a pass.
        failing_since: Start of the first failure of this row of failures.
        counted: Failures of this row that may support a failover (see the module's text).
        counted_since: Start of the first counted failure.
        good: `rise` passes in a row since the last verdict of failure.
        answered: The latest observation that passed, by start time.
        latest: Starts of the latest failures of this row, in order, at most `fall` of them.
    """

    last: Observation | None = None
    answered: Observation | None = None
    passes: int = 0
    fails: int = 0
    failing_since: float = 0.0
    counted: int = 0
    counted_since: float = 0.0
    good: bool = False
    latest: tuple[float, ...] = ()


_NOTHING = PageEvidence()


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one group.

    Attributes:
        floor: Failures of the Primary that started before this moment do not count.
        moved_at: When traffic last came to a node other than the Primary; None when nobody waits
            for it to serve.
    """

    floor: float
    pages: Mapping[tuple[str, Page], PageEvidence] = field(default_factory=dict)
    moved_at: float | None = None

    def page(self, node: str, page: Page) -> PageEvidence:
        """Return what is known of one page; nothing yet is an empty record."""
        return self.pages.get((node, page), _NOTHING)


def fold(
    evidence: Evidence, observation: Observation, group: Group, watched: str | None
) -> Evidence:
    """Add one observation.

    Args:
        watched: The node whose hastatus page decides: the candidate, or after a move the node
            with the traffic. When its page begins to answer again, the floor rises.

    Probes of one page overlap, and may end in another order than they began. What counts is the
    order of their starts: a pass ends the row of failures that started before it, and no other; a
    failure that started before the latest pass is older news, and so is a pass before that.

    What this machine could not do is no reading of the node, and a row of failures with such a hole
    in it is none: the floor rises (X15).
    """
    if is_own_failure(observation):
        return raise_floor(evidence, observation.ended_at)
    key = (observation.node, observation.page)
    before = evidence.page(*key)
    if before.last is not None and observation.started_at < before.last.started_at:
        late = _late(before, observation, group.fall, evidence.floor)
        return evidence if late is None else replace(evidence, pages={**evidence.pages, key: late})
    if isinstance(observation.outcome, Passed):
        after = _passed(before, observation, group.rise)
    else:
        after = _failed(before, observation, group.fall, evidence.floor)
    evidence = Evidence(evidence.floor, {**evidence.pages, key: after}, evidence.moved_at)
    if key == (watched, Page.HASTATUS) and after.passes == 1:
        # Only from the moment the answer was in hand: a probe can outlast a cut of our own link.
        return raise_floor(evidence, observation.ended_at)
    return evidence


def is_own_failure(observation: Observation) -> bool:
    """Tell whether it was this machine that could not ask."""
    said = observation.outcome
    return isinstance(said, Failed) and said.phase is Phase.LOCAL


def _passed(before: PageEvidence, observation: Observation, rise: int) -> PageEvidence:
    passes = before.passes + 1
    good = before.good or passes >= rise
    return PageEvidence(last=observation, answered=observation, passes=passes, good=good)


def _failed(
    before: PageEvidence, observation: Observation, fall: int, floor: float
) -> PageEvidence:
    """Add a failure to its row; a late one does not become the last."""
    at, fails = observation.started_at, before.fails + 1
    counts = at >= floor
    is_late = before.last is not None and at < before.last.started_at
    return PageEvidence(
        last=before.last if is_late else observation,
        answered=before.answered,
        fails=fails,
        failing_since=min(before.failing_since, at) if before.fails else at,
        counted=before.counted + counts,
        counted_since=_first(before, at) if counts else before.counted_since,
        good=before.good and fails < fall,
        latest=tuple(sorted((*before.latest, at)))[-fall:],
    )


def _first(before: PageEvidence, at: float) -> float:
    return min(before.counted_since, at) if before.counted else at


def _late(
    before: PageEvidence, observation: Observation, fall: int, floor: float
) -> PageEvidence | None:
    """Take what started before the last observation; None where it says nothing new."""
    at, answered = observation.started_at, before.answered
    if answered is not None and at < answered.started_at:
        return None
    if isinstance(observation.outcome, Failed):
        return _failed(before, observation, fall, floor)
    if at < before.failing_since:
        return replace(before, answered=observation)
    # Failures before it are gone. Of those after it more than `fall` are not remembered: fewer may
    # count than could, never more.
    latest = tuple(start for start in before.latest if start > at)
    counted = [start for start in latest if start >= floor]
    return replace(
        before,
        answered=observation,
        fails=len(latest),
        failing_since=latest[0],
        counted=len(counted),
        counted_since=counted[0] if counted else 0.0,
        latest=latest,
    )


def raise_floor(evidence: Evidence, at: float) -> Evidence:
    """Let no failure count that started before `at`; a floor never sinks."""
    if at <= evidence.floor:
        return evidence
    pages = {
        key: page if page.counted == 0 else replace(page, counted=0, counted_since=0.0)
        for key, page in evidence.pages.items()
    }
    return replace(evidence, floor=at, pages=pages)


def traffic(group: Group, assigned: str | None) -> Traffic:
    """Return the table's first column for this assignment."""
    if assigned is None:
        return Traffic.UNASSIGNED
    return Traffic.PRIMARY if assigned == group.primary else Traffic.MOVED


def watched(group: Group, assigned: str | None) -> str:
    """Return the node whose hastatus page matters: candidate, or the node with the traffic."""
    return group.candidate if assigned in (None, group.primary) else str(assigned)


def situation(
    evidence: Evidence,
    group: Group,
    assigned: str | None,
    automation: Automation,
    now: float,
) -> Situation:
    """Return one value for each column of the table."""
    where = traffic(group, assigned)
    health = primary(evidence, group, now)
    # After a move nothing hangs on how the reading lies to the Primary's streak.
    asked = health if where is Traffic.PRIMARY else Primary.OK
    return Situation(
        traffic=where,
        primary=health,
        says=says(evidence, group, now),
        secondary=secondary(evidence, group, watched(group, assigned), asked, now),
        serving=serving(evidence, group, assigned, now),
        automation=automation,
    )


def is_fresh(observation: Observation | None, now: float, max_age_s: float) -> bool:
    """Tell whether this observation may still support a decision.

    Args:
        now: Monotonic seconds, from the clock that stamped the observation.
        max_age_s: Oldest usable age in seconds, counted from its start: what a page says is at
            most that old. Exactly this old is fresh.

    Raises:
        ValueError: The observation lies in the future: two clocks were mixed.

    Source: guide line 221; rule X19.
    """
    if observation is None:
        return False
    if observation.started_at > now:
        raise ValueError(f"observation at {observation.started_at} lies after now, {now}")
    return now - observation.started_at <= max_age_s


def primary(evidence: Evidence, group: Group, now: float) -> Primary:
    """Judge the Primary's status page: OK, FAIL, or no verdict."""
    page = evidence.page(group.primary, Page.STATUS)
    if page.last is None or not is_fresh(page.last, now, group.max_age_s):
        return Primary.UNKNOWN
    if page.passes:
        return Primary.OK if page.good else Primary.UNKNOWN
    if page.counted < group.fall:
        return Primary.UNKNOWN
    # A blip must not cost a resync and a human: failed without a break for all of `confirm`.
    if page.last.ended_at - page.counted_since < group.confirm_s:
        return Primary.UNKNOWN
    return Primary.FAIL


def says(evidence: Evidence, group: Group, now: float) -> Says:
    """Tell whether the Primary's own hastatus page, fresh, says Standby."""
    return Says.STANDBY if mode(evidence, group, group.primary, now) is Mode.STANDBY else Says.OTHER


def mode(evidence: Evidence, group: Group, node: str, now: float) -> Mode:
    """Return what a node's fresh hastatus page says; UNKNOWN where there is no such reading."""
    page = evidence.page(node, Page.HASTATUS)
    if page.last is None or not is_fresh(page.last, now, group.max_age_s):
        return Mode.UNKNOWN
    return _said(page.last)


_SECONDARY = {
    Mode.STANDBY: Secondary.STANDBY,
    Mode.PRIMARY: Secondary.PRIMARY,
    Mode.UNKNOWN: Secondary.UNKNOWN_MODE,
}


def secondary(
    evidence: Evidence, group: Group, node: str, health: Primary, now: float
) -> Secondary:
    """Judge the hastatus page of the node that matters.

    While the Primary is not OK only a reading that started at or after the first failure of its
    streak counts (X19), and only while the latest probe passed: an older Standby may be a Primary
    by now. While it is OK nothing hangs on it, and one lost probe does not change the word.
    """
    page = evidence.page(node, Page.HASTATUS)
    if not is_fresh(page.last, now, group.max_age_s):
        return Secondary.STALE
    if page.fails >= group.fall:
        return Secondary.FAIL
    if page.answered is None or not is_fresh(page.answered, now, group.max_age_s):
        return Secondary.STALE
    if health is not Primary.OK and (
        page.fails or _is_before_streak(page.answered, evidence, group)
    ):
        return Secondary.STALE
    return _SECONDARY[_said(page.answered)]


def _is_before_streak(reading: Observation, evidence: Evidence, group: Group) -> bool:
    streak = evidence.page(group.primary, Page.STATUS)
    since = streak.counted_since if streak.counted else streak.failing_since
    return streak.fails > 0 and reading.started_at < since


def _said(reading: Observation) -> Mode:
    mode = reading.outcome.mode if isinstance(reading.outcome, Passed) else None
    return mode or Mode.UNKNOWN


def serving(evidence: Evidence, group: Group, assigned: str | None, now: float) -> Serving:
    """Judge the status page of the node with the traffic, after a move."""
    if assigned is None or assigned == group.primary:
        return Serving.UNKNOWN
    verdict = served(evidence, group, assigned, now)
    if evidence.moved_at is None:
        return verdict
    answered = evidence.page(assigned, Page.STATUS).answered
    if (
        verdict is Serving.YES
        and answered is not None
        and answered.started_at >= evidence.moved_at  # what it did before the move proves nothing
    ):
        return verdict
    if now - evidence.moved_at < group.serving_deadline_s:
        return Serving.WAITING
    return verdict


def served(evidence: Evidence, group: Group, node: str, now: float) -> Serving:
    """Judge one node's status page by rise, fall and age alone: YES, NO or UNKNOWN."""
    page = evidence.page(node, Page.STATUS)
    if not is_fresh(page.last, now, group.max_age_s):
        return Serving.UNKNOWN
    if page.passes:
        return Serving.YES if page.good else Serving.UNKNOWN
    if page.fails >= group.fall:
        return Serving.NO
    return Serving.YES if page.good else Serving.UNKNOWN


def arrived(evidence: Evidence) -> Evidence:
    """Note that the node with the traffic serves: from now on a failure of it is no waiting."""
    return evidence if evidence.moved_at is None else replace(evidence, moved_at=None)


def is_doubtful(evidence: Evidence, group: Group, now: float) -> bool:
    """Tell whether the Primary's page has begun to fail and there is no verdict yet."""
    page = evidence.page(group.primary, Page.STATUS)
    return page.fails > 0 and primary(evidence, group, now) is Primary.UNKNOWN


def is_cut_off(evidence: Evidence, group: Group) -> bool:
    """Tell whether no target of this group answers at all: every page fails in the network.

    A page that answers the wrong thing was reached; that says something of the node, not of us.
    """
    lasts = [evidence.page(name, page).last for name in group.names for page in Page]
    return all(
        last is not None
        and isinstance(last.outcome, Failed)
        and last.outcome.phase in NETWORK_PHASES
        for last in lasts
    )
