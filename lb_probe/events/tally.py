"""A histogram that one thread writes to: one addition for an observation, and no lock.

The one of prometheus-client takes 2 us, and each probe needs two of them.

Source: prometheus.io "Exposition formats"; prometheus-client, custom collectors.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """The observations of one line of labels."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a bound belongs to the bucket below it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return the count up to each bound, the last one infinite, and the sum of all values."""
        bounds = [*map(repr, self._bounds), "+Inf"]
        counts = accumulate(map(float, list(self._counts)))
        return [*zip(bounds, counts, strict=True)], self._sum


class Tallies(Collector):
    """A histogram and its lines, for a registry.

    Args:
        label: The name of its one label; None for a histogram of one line.
        values: The values of that label, each with a line from the start.
    """

    def __init__(
        self,
        name: str,
        text: str,
        bounds: Sequence[float],
        label: str | None = None,
        values: Sequence[str] = (),
    ) -> None:
        self._name, self._text = name, text
        self._labels = [label] if label is not None else []
        self._lines = {value: Tally(bounds) for value in (values if label else ("",))}

    def at(self, value: str = "") -> Tally:
        """Return the line of a label's value."""
        return self._lines[value]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Say what was counted so far."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for value, tally in self._lines.items():
            buckets, total = tally.buckets()
            family.add_metric([value] if self._labels else [], buckets, total)
        yield family
