"""What the page remembers between two looks: how long probes took, and which condition was when.

Latencies live in memory alone and begin with the process. Conditions are read once from the
history of the store, and followed by events from then on.

Source: DESIGN section 8: nothing is counted inside core or prober; all of this is fed by events.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lb_probe.core.model import Event, Failed, Observation, Page
from lb_probe.ports import Clock, Record

SAMPLES = 300  # of each page: five minutes at the default interval
MOMENTS = 400  # changes of condition kept of each group
WINDOW_S = 6 * 3600.0
RECORDS = 10_000  # of the history, read once
SETTLED_S = 5.0  # what began with the process is in the store by then
ABSENT = "no-prober"  # nobody watched, or nothing is on record: never shown as any condition
UNKNOWN = "not-on-record"


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished probe.

    Attributes:
        at: Monotonic seconds of its end.
        took_s: Seconds from start to verdict.
    """

    at: float
    took_s: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """A condition that lasted.

    Attributes:
        since: UTC seconds since 1970; where it began.
        until: The same; now for the last one.
    """

    condition: str
    since: float
    until: float


class Traces:
    """Takes every event, and gives back what a drawing needs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples: dict[tuple[str, str, str], array[float]] = {}
        self._moments: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._stored: dict[str, list[tuple[float, str]]] = {}
        self._began_at = clock.monotonic()
        self.probed_at = clock.monotonic()
        self.is_loaded = False

    def take(self, event: Event) -> None:
        """Take one event; thousands a second are probes."""
        if event.name == "probe.done":
            seen = event.fields["observation"]
            if isinstance(seen, Observation):
                self._sample(event.group, seen)
        elif event.name == "group.condition":
            self._moment(event.group, self._clock.wall(), str(event.fields["condition"]))

    def _sample(self, group: str, seen: Observation) -> None:
        key = group, seen.node, seen.page.value
        row = self._samples.get(key)
        if row is None:
            row = self._samples[key] = array("d")
        elif len(row) >= 4 * SAMPLES:
            del row[: 2 * SAMPLES]  # in halves: cheaper than a step each time
        took_s = max(0.0, seen.ended_at - seen.started_at)
        row.append(seen.ended_at)
        # A failed one is kept as -1 - took: a row of plain numbers is small.
        row.append(-1.0 - took_s if isinstance(seen.outcome, Failed) else took_s)
        self.probed_at = max(self.probed_at, seen.ended_at)

    def samples(self, group: str, node: str, page: Page, most: int = SAMPLES) -> list[Sample]:
        """Return the latest probes of a page, oldest first."""
        row = self._samples.get((group, node, page.value), array("d"))[-2 * most :]
        return [
            Sample(at, took if took >= 0 else -1.0 - took, took >= 0)
            for at, took in zip(row[::2], row[1::2], strict=True)
        ]

    # -------------------------------------------------------------- conditions
    def load(
        self, long_ago: Sequence[Record], lately: Sequence[Record], names: Iterable[str]
    ) -> None:
        """Take what the store knows; once more where the process began only just now.

        Args:
            long_ago: Without marks of life, oldest first, as far back as it goes.
            lately: With them.
            names: Every group: where the prober stopped, it stopped for all of them.
        """
        self.is_loaded = self._clock.monotonic() - self._began_at >= SETTLED_S
        first = lately[0].at_wall if lately else self._clock.wall()
        records = [record for record in long_ago if record.at_wall < first]
        found: dict[str, list[tuple[float, str]]] = {name: [] for name in names}
        for group, at, condition in _told([*records, *lately]):
            for name in (group,) if group else tuple(found):
                if name in found:
                    found[name].append((at, condition))
        self._stored = {name: told[-MOMENTS:] for name, told in found.items()}

    def _merged(self, group: str) -> list[tuple[float, str]]:
        """Return when each condition began, oldest first; what came twice counts once."""
        merged: list[tuple[float, str]] = []
        for at, word in sorted([*self._stored.get(group, ()), *self._moments[group]]):
            if not merged or merged[-1][1] != word:
                merged.append((at, word))
        return merged

    def _moment(self, group: str, at: float, condition: str) -> None:
        self._moments[group].append((at, condition))
        del self._moments[group][:-MOMENTS]

    def stretches(self, group: str, condition: str) -> list[Stretch]:
        """Return what was the case in the last hours, oldest first.

        Args:
            condition: What is the case now; the last stretch says it whatever events said.
        """
        now, merged = self._clock.wall(), self._merged(group)
        if not merged or merged[-1][1] != condition:
            merged.append((now, condition))
        if merged[0][0] > now - WINDOW_S:
            merged.insert(0, (now - WINDOW_S, UNKNOWN))
        ends = [at for at, _ in merged[1:]] + [now]
        whole = [Stretch(word, at, end) for (at, word), end in zip(merged, ends, strict=True)]
        return [one for one in whole if one.until > now - WINDOW_S or one is whole[-1]]

    def since(self, group: str, condition: str) -> float | None:
        """Return when this condition began, UTC seconds since 1970; None where nobody saw it."""
        merged = self._merged(group)
        return merged[-1][0] if merged and merged[-1][1] == condition else None


def _told(records: Iterable[Record]) -> Iterator[tuple[str, float, str]]:
    """Yield group (empty for all), moment and condition.

    A prober that was killed says no goodbye: it was last alive at its last record.
    """
    last: float | None = None
    for record in records:
        if record.kind == "started" and last is not None:
            yield "", last, ABSENT
        elif record.kind == "stopped":
            yield "", record.at_wall, ABSENT
        elif record.kind == "condition":
            yield record.group, record.at_wall, _word(record.details)
        last = record.at_wall


def _word(details: Mapping[str, object]) -> str:
    return str(details.get("to", ABSENT))
