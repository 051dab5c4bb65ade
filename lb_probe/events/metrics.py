"""Prometheus metrics: counters fed by events, gauges rendered from one immutable snapshot.

A scrape of a thousand groups takes a third of a second to render, so it never runs on the event
loop: the loop takes the snapshot, a thread renders it.

Source: DESIGN section 8; prometheus.io "Metric and label naming".
"""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lb_probe import __version__
from lb_probe.core.failover import CONDITIONS
from lb_probe.core.model import Event, Failed, Mode, Observation, Page
from lb_probe.core.view import View, mode_word, serving_word

FAST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the gauges show, taken at one moment."""

    views: Sequence[View]
    is_store_writable: bool
    is_config_good: bool


class Metrics:
    """EventSink that counts, and the renderer of everything."""

    def __init__(self, now_wall: Callable[[], float]) -> None:
        self._wall = now_wall
        self._registry = registry = CollectorRegistry()
        self._failovers = Counter(
            "lb_probe_group_failovers", "Automatic failovers", ["group"], registry=registry
        )
        self._resumes = Counter(
            "lb_probe_group_resumes", "Manual resumes", ["group"], registry=registry
        )
        self._probes = Counter(
            "lb_probe_probes",
            "Finished probes; result is ok or the phase that failed",
            ["group", "node", "page", "result"],
            registry=registry,
        )
        self._durations = Histogram(
            "lb_probe_probe_duration_seconds",
            "Time from start to verdict of a probe",
            ["page"],
            buckets=FAST_BUCKETS,
            registry=registry,
        )
        for page in Page:
            self._durations.labels(page.value)
        self._delays = Histogram(
            "lb_probe_probe_start_delay_seconds",
            "How late probes start",
            buckets=FAST_BUCKETS,
            registry=registry,
        )
        self._publishes = Counter(
            "lb_probe_publish_attempts",
            "Publications to a load balancer",
            ["group", "adapter", "result"],
            registry=registry,
        )
        self._publish_seconds = Histogram(
            "lb_probe_failover_publish_seconds",
            "Time from decision to read back",
            buckets=FAST_BUCKETS,
            registry=registry,
        )
        self._last_success: dict[tuple[str, str], float] = {}
        self._children: dict[tuple[str, str, str, str], Counter] = {}
        self._takers: Mapping[str, Callable[[Event], None]] = {
            "probe.done": self._probe_done,
            "publish.done": self._published,
            "publish.failed": self._published,
            "publish.failing": self._published,
            "publish.confirmed": self._confirmed,
            "group.failover": self._failed_over,
            "group.resume": self._resumed,
        }

    def know(self, group: str, nodes: Iterable[str], adapters: Iterable[str]) -> None:
        """Start every counter of a group at 0, so that the first failover is seen by rate()."""
        self._failovers.labels(group)
        self._resumes.labels(group)
        for node in nodes:
            for page in Page:
                self._probe_counter(group, node, page.value, "ok")
        for adapter in adapters:
            for result in ("ok", "refused", "unreachable"):
                self._publishes.labels(group, adapter, result)

    def emit(self, event: Event) -> None:
        """Count one event."""
        take = self._takers.get(event.name)
        if take is not None:
            take(event)

    def started_late(self, seconds: float) -> None:
        """Note how late a probe started."""
        self._delays.observe(seconds)

    def render(self, snapshot: Snapshot) -> bytes:
        """Return the exposition text; slow, so call it in a thread."""
        registry = CollectorRegistry()
        registry.register(_Gauges(snapshot, dict(self._last_success)))
        return generate_latest(self._registry) + generate_latest(registry)

    def _probe_counter(self, group: str, node: str, page: str, result: str) -> Counter:
        key = (group, node, page, result)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._probes.labels(*key)
        return child

    def _probe_done(self, event: Event) -> None:
        seen = event.fields["observation"]
        assert isinstance(seen, Observation)
        result = seen.outcome.phase.value if isinstance(seen.outcome, Failed) else "ok"
        self._probe_counter(event.group, seen.node, seen.page.value, result).inc()
        self._durations.labels(seen.page.value).observe(seen.ended_at - seen.started_at)

    def _published(self, event: Event) -> None:
        adapter = str(event.fields["adapter"])
        self._publishes.labels(event.group, adapter, str(event.fields["result"])).inc()
        if event.fields["result"] == "ok":
            self._last_success[event.group, adapter] = self._wall()

    def _confirmed(self, event: Event) -> None:
        seconds = event.fields.get("seconds")
        if isinstance(seconds, float):
            self._publish_seconds.observe(seconds)

    def _failed_over(self, event: Event) -> None:
        if event.fields.get("actor") == "lb-probe":  # an operator's failover is none of ours
            self._failovers.labels(event.group).inc()

    def _resumed(self, event: Event) -> None:
        self._resumes.labels(event.group).inc()


class _Gauges(Collector):
    """The gauges of one snapshot."""

    def __init__(self, snapshot: Snapshot, last_success: dict[tuple[str, str], float]) -> None:
        self._snapshot = snapshot
        self._last_success = last_success

    def collect(self) -> Iterable[Metric]:
        """Yield every gauge."""
        yield from self._groups()
        yield from self._nodes()
        yield from self._adapters()
        yield from self._process()

    def _groups(self) -> Iterable[Metric]:
        condition = _gauge("group_condition", "1 for the present condition", "group", "condition")
        assigned = _gauge("group_assigned", "1 for the node with the traffic", "group", "node")
        latched = _gauge("group_latched", "Traffic was moved off the Primary", "group")
        held = _gauge("group_held", "A hold is on", "group")
        generation = _gauge("group_generation", "Saved changes so far", "group")
        changed = _gauge("group_last_change_timestamp_seconds", "Last saved change", "group")
        for view in self._snapshot.views:
            name, saved = view.group.name, view.saved
            for word in CONDITIONS:
                condition.add_metric([name, word], float(word == view.decision.condition))
            for node in view.group.names:
                assigned.add_metric([name, node], float(node == saved.assigned))
            latched.add_metric([name], float(saved.latched))
            held.add_metric([name], float(saved.hold is not None))
            generation.add_metric([name], float(saved.generation))
            at = saved.last_change.at_wall if saved.last_change else 0.0
            changed.add_metric([name], at)
        return [condition, assigned, latched, held, generation, changed]

    def _nodes(self) -> Iterable[Metric]:
        serving = _gauge("node_serving", "The status page is ok", "group", "node", "role")
        mode = _gauge("node_mode", "1 for what hastatus says", "group", "node", "mode")
        for view in self._snapshot.views:
            for node in view.group.nodes:
                ok = float(serving_word(view, node.name) == "ok")
                serving.add_metric([view.group.name, node.name, node.role.value], ok)
                said = mode_word(view, node.name)
                for word in Mode:
                    value = float(word.value == said)
                    mode.add_metric([view.group.name, node.name, word.value], value)
        return [serving, mode]

    def _adapters(self) -> Iterable[Metric]:
        in_sync = _gauge("publish_in_sync", "Seen equals wanted", "group", "adapter")
        last = _gauge(
            "publish_last_success_timestamp_seconds", "Last good publication", "group", "adapter"
        )
        for view in self._snapshot.views:
            for adapter in view.adapters:
                key = (view.group.name, adapter.name)
                in_sync.add_metric(key, float(adapter.in_sync))
                last.add_metric(key, self._last_success.get(key, 0.0))
        return [in_sync, last]

    def _process(self) -> Iterable[Metric]:
        store = _gauge("store_writable", "The store took its last test write")
        store.add_metric([], float(self._snapshot.is_store_writable))
        config = _gauge("config_last_reload_successful", "The last reading of probes.yaml was good")
        config.add_metric([], float(self._snapshot.is_config_good))
        build = _gauge("build_info", "Version of this program", "version", "python")
        build.add_metric([__version__, platform.python_version()], 1.0)
        return [store, config, build]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lb_probe_{name}", text, labels=labels)
