"""When a further look at a group cannot find anything new: what keeps a plain probe cheap.

A decision hangs on four things: the evidence, the age of its readings, what is saved, and the
brakes. Of the first two this module says when they cannot have changed the answer, so that nearly
all probes, and nearly all looks at the clock, cost no evaluation. It only ever leaves out a look
that would find the same: where it is not sure, it says so. `tests/core/test_calm.py` compares it
with a look at every step.
"""

import math

from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.model import Action, Decision, Group, Observation, Page, Passed, Traffic

# Sums of floats: a reading may turn stale this much before its sum says so.
MARGIN_S = 0.001


def quiet_until(evidence: Evidence, group: Group, decision: Decision, now: float) -> float:
    """Return up to when (monotonic seconds, exclusive) time alone changes no answer.

    Args:
        decision: What was decided on this evidence at `now`.
        now: Moment of that decision.

    A fresh reading turns stale once; a stale one stays so. The same goes for the deadline of a
    move. An action is asked for again until it is made.
    """
    if decision.action is not Action.NONE:
        return -math.inf
    oldest = now - group.max_age_s
    until = math.inf
    for page in evidence.pages.values():
        for reading in (page.last, page.answered):
            if reading is not None and reading.started_at >= oldest - MARGIN_S:
                until = min(until, reading.started_at + group.max_age_s)
    if evidence.moved_at is not None and now < evidence.moved_at + group.serving_deadline_s:
        until = min(until, evidence.moved_at + group.serving_deadline_s)
    return until - MARGIN_S


def is_plain(
    evidence: Evidence, observation: Observation, group: Group, decision: Decision, now: float
) -> bool:
    """Tell whether this observation says what its page said before, so that no answer changes.

    Args:
        evidence: As it was before this observation.
        decision: What was decided on `evidence`, and would be now.
        now: Monotonic seconds, at or after the end of the observation.
    """
    before = evidence.page(observation.node, observation.page)
    last, said = before.last, observation.outcome
    if (
        last is None
        or not before.good
        or not before.passes
        or not isinstance(said, Passed)
        or evidence.moved_at is not None
    ):
        return False
    if (
        not last.started_at <= observation.started_at <= now
        or not ev.is_fresh(last, now, group.max_age_s)  # else it is news that there is a reading
        or said.mode is not last.outcome.mode  # type: ignore[union-attr]  # passes: it passed
    ):
        return False
    # While the Primary fails, each newer reading of the Secondary may be the one that counts.
    streak = evidence.page(group.primary, Page.STATUS).fails
    return decision.situation.traffic is not Traffic.PRIMARY or not streak


def pages_read(group: Group, assigned: str | None) -> frozenset[tuple[str, Page]]:
    """Return the pages the table looks at; a Standby's status page is none of them."""
    found = {(group.primary, page) for page in Page}
    found.add((ev.watched(group, assigned), Page.HASTATUS))
    if assigned is not None:
        found.add((assigned, Page.STATUS))
    return frozenset(found)
