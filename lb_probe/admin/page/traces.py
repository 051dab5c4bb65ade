"""What the page remembers between two looks: how long probes took, and which condition was when.

Latencies live in memory alone and begin with the process. Conditions are read once from the
history of the store, and followed by events from then on.

Source: DESIGN section 8: nothing is counted inside core or prober; all of this is fed by events.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lb_probe.core.model import Event, Failed, Observation, Page
from lb_probe.ports import Clock, Record

SAMPLES = 300  # of each page: five minutes at the default interval
MOMENTS = 400  # changes of condition kept of each group
WINDOW_S = 6 * 3600.0
RECORDS = 10_000  # of the history, read once
ABSENT = "no-prober"  # nobody watched: never shown as any condition


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
    def load(self, records: Iterable[Record], names: Iterable[str]) -> None:
        """Add what the store knows, once.

        Args:
            records: Oldest first.
            names: Every group: where the prober stopped, it stopped for all of them.
        """
        self.is_loaded = True
        found: dict[str, list[tuple[float, str]]] = {name: [] for name in names}
        for group, at, condition in _told(records):
            for name in (group,) if group else tuple(found):
                if name in found:
                    found[name].append((at, condition))
        for name, told in found.items():
            self._moments[name] = sorted(told + self._moments[name], key=lambda one: one[0])
            del self._moments[name][:-MOMENTS]

    def _moment(self, group: str, at: float, condition: str) -> None:
        self._moments[group].append((at, condition))
        del self._moments[group][:-MOMENTS]

    def stretches(self, group: str, condition: str) -> list[Stretch]:
        """Return what was the case in the last hours, oldest first.

        Args:
            condition: What is the case now; the last stretch says it whatever events said.
        """
        now = self._clock.wall()
        merged: list[tuple[float, str]] = []
        for at, word in (*self._moments[group], (now, condition)):
            if not merged or merged[-1][1] != word:
                merged.append((at, word))
        if merged[0][0] > now - WINDOW_S and merged[0][1] != ABSENT:
            merged.insert(0, (now - WINDOW_S, ABSENT))
        ends = [at for at, _ in merged[1:]] + [now]
        whole = [Stretch(word, at, end) for (at, word), end in zip(merged, ends, strict=True)]
        return [one for one in whole if one.until > now - WINDOW_S or one is whole[-1]]

    def since(self, group: str, condition: str) -> float | None:
        """Return when this condition began, UTC seconds since 1970; None where nobody saw it."""
        moments = self._moments[group]
        if not moments or moments[-1][1] != condition:
            return None
        at = moments[-1][0]
        for before, word in reversed(moments):
            if word != condition:
                break
            at = before
        return at


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
