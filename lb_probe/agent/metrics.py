"""An agent's metrics, `lb_probe_agent_*`: counters fed by events, gauges read when asked for.

Source: DESIGN section 8.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lb_probe import __version__
from lb_probe.agent.node import Counted, Node, Part, Reading
from lb_probe.core.model import Event, Mode, Page
from lb_probe.core.peer_report import STATES
from lb_probe.events.metrics import NOTIFY_RESULTS, notified, waiting

PREFIX = "lb_probe_agent_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OWN = (
    Counted("mode_changes", "Changes of the mode", "agent.mode-changed", ("to", "cause")),
    Counted(
        "part_crashes", "Parts of the agent that were started again", "part.crashed", ("part",)
    ),
)


class Metrics:
    """EventSink and exposition of one agent.

    Args:
        messages: What became of the agent's own messages; it took their events from the start.
    """

    def __init__(self, node: Node, parts: Sequence[Part], messages: "Messages") -> None:
        self._registry = CollectorRegistry()
        self._counters: dict[str, list[tuple[Counted, Counter]]] = {}
        for counted in [*_OWN, *(one for part in parts for one in part.counters)]:
            labels = ("node", *counted.labels)
            counter = Counter(PREFIX + counted.name, counted.about, labels, registry=self._registry)
            self._counters.setdefault(counted.event, []).append((counted, counter))
        self._node = node.name
        self._registry.register(
            _Gauges(lambda: [*_own_gauges(node), *messages.gauges(), *_all_gauges(parts)], node)
        )
        self._registry.register(_Results(messages, node))

    def emit(self, event: Event) -> None:
        """Count one event."""
        for counted, counter in self._counters.get(event.name, ()):
            values = [str(event.fields.get(label, "")) for label in counted.labels]
            counter.labels(self._node, *values).inc()

    def render(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self._registry)


class Messages:
    """What became of the messages that this agent tells people, by channel: as a prober's."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], float] = {}
        self._waiting: dict[str, tuple[float, float]] = {}

    def emit(self, event: Event) -> None:
        """Take one event of the outbox; others are left."""
        if event.name in NOTIFY_RESULTS:
            channel, result, count = notified(event)
            self._results[channel, result] = self._results.get((channel, result), 0.0) + count
        elif event.name == "notify.waiting":
            channel, many, since = waiting(event)
            self._waiting[channel] = many, since
            for word in NOTIFY_RESULTS.values():
                self._results.setdefault((channel, word), 0.0)

    def results(self) -> Iterable[tuple[str, str, float]]:
        """Yield channel, result and how many, from 0 on."""
        for (channel, result), count in sorted(self._results.items()):
            yield channel, result, count

    def gauges(self) -> Iterable[Reading]:
        """Yield how many wait for each channel, and since when."""
        for channel, (count, since) in sorted(self._waiting.items()):
            labels = {"channel": channel}
            about = "Messages that a channel has yet to take"
            yield Reading("notifications_waiting", about, count, labels)
            about = "When the first of the messages that wait came to be; 0 while none waits"
            yield Reading("notifications_oldest_timestamp_seconds", about, since, labels)


class _Gauges(Collector):
    def __init__(self, read: Callable[[], Iterable[Reading]], node: Node) -> None:
        self._read = read
        self._node = node

    def describe(self) -> Iterable[Metric]:
        return ()  # what there is depends on the configuration

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for reading in self._read():
            family = families.get(reading.name)
            if family is None:
                labels = ("node", *reading.labels)
                family = GaugeMetricFamily(PREFIX + reading.name, reading.about, labels=labels)
                families[reading.name] = family
            family.add_metric((self._node.name, *reading.labels.values()), reading.value)
        return families.values()


class _Results(Collector):
    def __init__(self, messages: Messages, node: Node) -> None:
        self._messages = messages
        self._node = node

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        about = "Messages by what became of them; failed counts tries that are repeated"
        labels = ("node", "channel", "result")
        family = CounterMetricFamily(PREFIX + "notifications_total", about, labels=labels)
        for channel, result, count in self._messages.results():
            family.add_metric((self._node.name, channel, result), count)
        return (family,)


def _all_gauges(parts: Sequence[Part]) -> Iterable[Reading]:
    return (reading for part in parts for reading in part.gauges())


def _own_gauges(node: Node) -> Iterable[Reading]:
    state = node.state
    yield Reading("build_info", "The version that runs", 1, {"version": __version__})
    for mode in (Mode.PRIMARY, Mode.STANDBY):
        about = "1 for the mode the node is in"
        yield Reading("mode", about, state.mode is mode, {"mode": mode.value})
    word = node.word
    for name in STATES:
        yield Reading("state", "1 for what the node does", name == word, {"state": name})
    yield Reading("ha_enabled", "Schedule and promotion run", state.ha.is_on, {})
    yield Reading("clients_enabled", "New connections are taken", state.clients.is_on, {})
    yield Reading("quarantined", "An operator has to decide", state.quarantine is not None, {})
    yield Reading("data_suspect", "Its data cannot be trusted", bool(state.data.suspect), {})
    about = "When the mode began"
    yield Reading("mode_since_timestamp_seconds", about, state.since_wall, {})
    for page in Page:
        is_ok = node.pages.view(page).code == 200
        yield Reading("page_ok", "What the page says", is_ok, {"page": page.value})
    for verdict in node.checks.verdicts(node.clock.monotonic()):
        passes = bool(verdict.passing) and not verdict.is_stale
        yield Reading(
            "check_passing", "The check passes and is fresh", passes, {"check": verdict.name}
        )
