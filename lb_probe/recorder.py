"""Keeps what happened until the store takes it: never in the way of a probe or a decision.

An observation is kept when it differs in kind (good, and in which mode; failed, and in which phase)
from the last one kept of that page, and once a day at least. Between two that are kept a page is
taken to have stayed as it was: what lies between two probes nobody knows.

Source: DESIGN section 1; `docs/history.md`.
"""

from collections import deque
from collections.abc import Sequence

from lb_probe.core.model import Change, Failed, Mode, Observation, Page, Phase, Saved
from lb_probe.history import iso_ms
from lb_probe.ports import Clock, Record

ROOM = 10_000  # records that wait for a store that does not take them
BATCH = 500  # records of one transaction: a change that waits in line behind it waits for no more
DETAIL_CHARS = 200
KEEP_AGAIN_S = 86_400.0
FIRST_MARK_S = 10.0


class Recorder:
    """Takes what happened and hands it out in batches.

    Args:
        room: Records that may wait; the oldest goes first, and that is told.
    """

    def __init__(self, clock: Clock, *, room: int = ROOM) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._run = round(clock.wall() * 1000)
        self._room = room
        self._waiting: deque[Record] = deque()
        self._kept: dict[tuple[str, str, Page], tuple[Phase | Mode | None, float]] = {}
        self._lost = 0
        self._gone: Record | None = None
        self._latest_at = self._since
        self._mark_s = FIRST_MARK_S

    def stamp(self, at: float | None = None) -> dict[str, object]:
        """Return where a moment lies on the prober's own time line, as details of a record.

        Args:
            at: Monotonic seconds; now when left out.
        """
        at = self._clock.monotonic() if at is None else at
        return {"run": self._run, "up": round(max(0.0, at - self._since), 3)}

    def record(self, group: str, change: Change, saved: Saved) -> Record:
        """Return the record of a change, which its maker saves: before any load balancer hears.

        Args:
            saved: The state the change leads to.
        """
        details = {
            "from": change.source,
            "to": change.target,
            "actor": change.actor,
            "reason": change.reason,
            "rule": change.rule,
            "evidence": list(change.evidence),
            "notes": dict(change.notes),
            **state(saved),
            **self.stamp(),
        }
        return Record(group, change.kind, change.at_wall, saved.generation, details)

    def observe(self, group: str, seen: Observation, generation: int) -> None:
        """Take one finished probe; keep it where it says something new."""
        key, now, outcome = (group, seen.node, seen.page), seen.ended_at, seen.outcome
        kind = outcome.phase if isinstance(outcome, Failed) else outcome.mode
        before = self._kept.get(key)
        if before is not None and before[0] is kind and now - before[1] < KEEP_AGAIN_S:
            return
        self._kept[key] = kind, now
        sort = _sort(seen)
        wall = self._clock.wall() - self._clock.monotonic()
        details: dict[str, object] = {
            "node": seen.node,
            "page": seen.page.value,
            "result": sort[0],
            "started": iso_ms(wall + seen.started_at),
            "ended": iso_ms(wall + seen.ended_at),
            **self.stamp(seen.started_at),
        }
        if sort[1]:
            details["phase" if sort[0] == "failed" else "mode"] = sort[1]
        if seen.outcome.detail:
            details["detail"] = seen.outcome.detail[:DETAIL_CHARS]
        self._add(Record(group, "observation", wall + seen.ended_at, generation, details))

    def note(self, kind: str, group: str = "", generation: int = 0, **details: object) -> None:
        """Take anything else that happened, now."""
        plain = {key: value for key, value in details.items() if value is not None or key == "to"}
        self._mark_s = FIRST_MARK_S
        self._add(
            Record(group, kind, self._clock.wall(), generation, {**plain, **self.stamp()}),
        )

    def mark(self) -> None:
        """Leave a mark of life where nothing happened for a while, the rarer the longer.

        A prober that is killed says no goodbye: what it saw is known up to its last record.
        """
        quiet_s = self._clock.monotonic() - self._latest_at
        if quiet_s >= self._mark_s:
            pause_s = min(2 * self._mark_s, KEEP_AGAIN_S)
            self.note("watching")
            self._mark_s = pause_s

    def take(self) -> list[Record]:
        """Hand out the oldest records that wait; empty when none does."""
        if self._gone is not None:
            when = {key: self._gone.details[key] for key in ("run", "up")}
            details: dict[str, object] = {"records": self._lost, **when}
            self._waiting.appendleft(Record("", "lost", self._gone.at_wall, 0, details))
            self._lost, self._gone = 0, None
        return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    def give_back(self, batch: Sequence[Record]) -> None:
        """Take back what the store did not take."""
        self._waiting.extendleft(reversed(batch))
        self._trim()

    def _add(self, record: Record) -> None:
        self._latest_at = self._clock.monotonic()
        self._waiting.append(record)
        self._trim()

    def _trim(self) -> None:
        while len(self._waiting) > self._room:
            gone = self._gone = self._waiting.popleft()
            count = gone.details.get("records")  # of a `lost` that was given back
            self._lost += count if isinstance(count, int) else 1
            self._kept.clear()  # what was dropped is unknown again: the next probes are kept


def state(saved: Saved) -> dict[str, object]:
    """Return what a replay must know of a saved state, as details of a record."""
    found: dict[str, object] = {"latched": saved.latched}
    if saved.roles:
        found["roles"] = {name: role.value for name, role in saved.roles.items()}
    if saved.hold is not None:
        found["hold"] = {
            "by": saved.hold.by,
            "reason": saved.hold.reason,
            "until": iso_ms(saved.hold.until_wall),
            "hands_off": saved.hold.hands_off,
        }
    return found


def _sort(seen: Observation) -> tuple[str, str]:
    """Return what must change for an observation to be kept: result, and phase or mode."""
    outcome = seen.outcome
    if isinstance(outcome, Failed):
        return "failed", outcome.phase.value
    mode = outcome.mode.value if outcome.mode is not None else ""
    return "ok", mode
