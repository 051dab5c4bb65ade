"""Prometheus metrics: counters fed by events, gauges rendered from one immutable snapshot.

A thousand groups are thirty thousand lines, and a thread that builds them takes the interpreter
from the loop for 5 ms at a time, again and again. So the lines of a group are kept until something
they show has changed, numbers that move all the time are one line each, and the thread that puts
it all together rests after every few groups.

Source: DESIGN section 8; prometheus.io "Metric and label naming", "Exposition formats".
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from lb_probe import __version__
from lb_probe.core import active_active
from lb_probe.core.failover import CONDITIONS
from lb_probe.core.model import BRAKES, Event, Failed, Mode, Observation, Page
from lb_probe.core.pool_view import PoolView
from lb_probe.core.view import AdapterStatus, View, mode_word, serving_word
from lb_probe.events.tally import Tallies

T = TypeVar("T")
FAST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# The thread works for about half a millisecond and lets the loop have as much.
SLICE = 50  # groups; a line of a counter is a tenth of one
REST_S = 0.0005

# What is shown of each group, in this order: name, labels after `group`, what it is.
GROUP_GAUGES = (
    ("group_condition", ("condition",), "1 for the present condition"),
    ("group_assigned", ("node",), "1 for the node with the traffic"),
    ("group_latched", (), "Traffic was moved off the Primary"),
    ("group_held", (), "A hold is on"),
    ("group_hold_due_timestamp_seconds", (), "When the hold is due; 0 without one"),
    ("group_blocked", ("reason",), "1 for each brake that is on"),
    ("group_generation", (), "Saved changes so far"),
    ("group_last_change_timestamp_seconds", (), "Last saved change"),
    ("node_serving", ("node", "role"), "The status page is ok"),
    ("node_mode", ("node", "mode"), "1 for what hastatus says"),
    ("publish_in_sync", ("adapter",), "Seen equals wanted"),
    ("publish_usable", ("adapter",), "0 where its own check holds the assigned node down"),
    ("publish_foreign_writer", ("adapter",), "1 where it yielded to somebody else"),
    ("publish_last_success_timestamp_seconds", ("adapter",), "Last good publication"),
    ("publish_unsettled", ("adapter",), "1 where what must follow a move failed"),
)

# The label `result` of each event that tells what became of a message, or of a sign of life.
NOTIFY_RESULTS = {
    "notify.delivered": "delivered",
    "notify.pinged": "delivered",
    "notify.failed": "failed",
    "notify.failing": "failed",
    "notify.rejected": "rejected",
    "notify.dropped": "dropped",
    "notify.expired": "expired",
}

disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the gauges show, taken at one moment."""

    views: Sequence[View | PoolView]
    is_store_writable: bool
    is_config_good: bool


_Adapter = tuple[str, bool, float, bool, bool, bool]


class _Shown(NamedTuple):
    """What the lines of one group say; while it is the same, so are they.

    Attributes:
        nodes: Name and role of each.
        conditions: Every word there is for a group of its policy.
        assigned: The nodes with the traffic.
        serving: ok, fail or unknown, for each node.
        modes: What hastatus says, for each node; nothing where it is not asked.
        hold_due: UTC seconds since 1970, or 0.
        adapters: Name, in sync, last good publication (UTC seconds, or 0), usable, yielded, and
            whether what must follow a move failed.
    """

    name: str
    nodes: tuple[tuple[str, str], ...]
    conditions: tuple[str, ...]
    condition: str
    assigned: frozenset[str | None]
    latched: bool
    held: bool
    hold_due: float
    blocked: tuple[str, ...]
    generation: int
    changed_at: float
    serving: tuple[str, ...]
    modes: tuple[str, ...]
    adapters: tuple[_Adapter, ...]


class _Series:
    """One line: its name and labels as they are written, and its value."""

    __slots__ = ("head", "value")

    def __init__(self, head: str) -> None:
        self.head = head
        self.value = 0.0


class _Family:
    """All lines of one name. The loop writes values while a thread renders them."""

    def __init__(self, kind: str, name: str, text: str, *labels: str) -> None:
        self.series: dict[tuple[str, ...], _Series] = {}
        self._name = name
        self._labels = labels
        self._head = _head(kind, name, text)

    def at(self, *values: str) -> _Series:
        """Return the line with these labels' values; a new one starts at 0."""
        found = self.series.get(values)
        if found is None:
            head = _line_head(self._name, zip(self._labels, values, strict=True))
            found = self.series[values] = _Series(head)
        return found

    def forget(self, first: str) -> None:
        """Drop every line whose first label has this value."""
        for values in [values for values in self.series if values[0] == first]:
            del self.series[values]

    def render(self) -> str:
        # A copy in one step: the loop may add a line meanwhile.
        lines = [self._head]
        for few in _rested(list(self.series.values()), SLICE * 10):
            lines += [f"{one.head}{one.value!r}\n" for one in few]
        return "".join(lines)


class Metrics:
    """EventSink that counts, and the renderer of everything."""

    def __init__(self, now_wall: Callable[[], float]) -> None:
        self._wall = now_wall
        self._registry = registry = CollectorRegistry()
        self._failovers = _Family(
            "counter", "group_failovers_total", "Failovers, automatic and by hand", "group"
        )
        self._resumes = _Family("counter", "group_resumes_total", "Resumes", "group")
        self._probes = _Family(
            "counter",
            "probes_total",
            "Finished probes; result is ok or the phase that failed",
            *("group", "node", "page", "result"),
        )
        self._certificates = _Family(
            "gauge",
            "node_certificate_expiry_timestamp_seconds",
            "When the certificate that the node showed last expires",
            *("group", "node"),
        )
        self._publishes = _Family(
            "counter",
            "publish_attempts_total",
            "Publications to a load balancer",
            *("group", "adapter", "result"),
        )
        self._notifications = _Family(
            "counter",
            "notifications_total",
            "Messages by what became of them; failed counts tries that are repeated",
            *("channel", "result"),
        )
        self._notices_waiting = _Family(
            "gauge", "notifications_waiting", "Messages that a channel has yet to take", "channel"
        )
        self._notices_since = _Family(
            "gauge",
            "notifications_oldest_timestamp_seconds",
            "When the first of the messages that wait came to be; 0 while none waits",
            "channel",
        )
        durations = Tallies(
            "lb_probe_probe_duration_seconds",
            "Time from start to verdict of a probe",
            FAST_BUCKETS,
            "page",
            [page.value for page in Page],
        )
        delays = Tallies(
            "lb_probe_probe_start_delay_seconds", "How late probes start", FAST_BUCKETS
        )
        registry.register(durations)
        registry.register(delays)
        self._durations = {page: durations.at(page.value) for page in Page}
        self.started_late = delays.at().observe  # takes the seconds by which a probe started late
        self._stalls = Counter(
            "lb_probe_loop_stalls",
            "Times the loop was away so long that evidence was missed",
            registry=registry,
        )
        self._crashes = Counter(
            "lb_probe_part_crashes",
            "Parts of the prober that broke and were started again",
            ["part"],
            registry=registry,
        )
        self._publish_seconds = Histogram(
            "lb_probe_failover_publish_seconds",
            "Time from decision to read back",
            buckets=FAST_BUCKETS,
            registry=registry,
        )
        self._latest_at = 0.0
        Gauge(
            "lb_probe_prober_last_probe_timestamp_seconds",
            "When a probe ended last",
            registry=registry,
        ).set_function(lambda: self._latest_at)
        self._audit_lines = Gauge(
            "lb_probe_audit_records", "Lines of the audit log", registry=registry
        )
        self._audit_head = Gauge(
            "lb_probe_audit_head",
            "1 for the hash of the newest line of the audit log",
            ["hash"],
            registry=registry,
        )
        self.audited(0, "0" * 64)
        self._store = Gauge(
            "lb_probe_store_writable", "The store took its last test write", registry=registry
        )
        self._config = Gauge(
            "lb_probe_config_last_reload_successful",
            "The last reading of probes.yaml was good",
            registry=registry,
        )
        build = Gauge(
            "lb_probe_build_info",
            "Version of this program",
            ["version", "python"],
            registry=registry,
        )
        build.labels(__version__, platform.python_version()).set(1.0)
        self._last_success: dict[tuple[str, str], float] = {}
        self._kept: dict[str, tuple[_Shown, tuple[str, ...]]] = {}
        self._takers: Mapping[str, Callable[[Event], None]] = {
            "probe.done": self._probe_done,
            "publish.done": self._published,
            "publish.failed": self._published,
            "publish.failing": self._published,
            "publish.confirmed": self._confirmed,
            "group.failover": self._failed_over,
            "group.resume": self._resumed,
            "prober.stalled": self._stalled,
            "part.crashed": self._crashed,
            "notify.waiting": self._waiting,
            **dict.fromkeys(NOTIFY_RESULTS, self._notified),
        }

    def know(self, group: str, nodes: Iterable[str], adapters: Iterable[str]) -> None:
        """Start every counter of a group at 0, so that the first failover is seen by rate()."""
        self._failovers.at(group)
        self._resumes.at(group)
        for node in nodes:
            for page in Page:
                self._probes.at(group, node, page.value, "ok")
        for adapter in adapters:
            for result in ("ok", "refused", "unreachable"):
                self._publishes.at(group, adapter, result)

    def forget(self, group: str) -> None:
        """Show no line of a group any more: it is gone from the file."""
        for family in self._families():
            family.forget(group)
        self._kept.pop(group, None)
        for key in [key for key in self._last_success if key[0] == group]:
            del self._last_success[key]

    def know_part(self, name: str) -> None:
        """Start the counter of a supervised part at 0."""
        self._crashes.labels(name)

    def know_channels(self, names: Iterable[str]) -> None:
        """Start every counter of these channels at 0, and forget all others."""
        known = frozenset(names)
        for name in {values[0] for values in self._notifications.series} - known:
            self._notifications.forget(name)
            self._notices_waiting.forget(name)
            self._notices_since.forget(name)
        for name in known:
            for result in sorted(set(NOTIFY_RESULTS.values())):
                self._notifications.at(name, result)
            self._notices_waiting.at(name)
            self._notices_since.at(name)

    def emit(self, event: Event) -> None:
        """Count one event."""
        take = self._takers.get(event.name)
        if take is not None:
            take(event)

    def audited(self, lines: int, digest: str) -> None:
        """Show the head of the audit log: kept elsewhere, it proves that no line was cut off."""
        self._audit_lines.set(lines)
        self._audit_head.clear()
        self._audit_head.labels(digest).set(1.0)

    def render(self, snapshot: Snapshot) -> bytes:
        """Return the exposition text; slow and with rests, so call it in a thread, one at a time.

        Source: prometheus.io "Exposition formats": all lines of one metric come together.
        """
        self._store.set(float(snapshot.is_store_writable))
        self._config.set(float(snapshot.is_config_good))
        blocks = [self._group(view) for few in _rested(snapshot.views, SLICE) for view in few]
        messages = self._notifications, self._notices_waiting, self._notices_since
        families = (*self._families(), *messages)
        texts = [family.render().encode() for family in families]
        for place, (name, _, text) in enumerate(GROUP_GAUGES):
            lines = "".join([block[place] for block in blocks])
            texts.append((_head("gauge", name, text) + lines).encode())
        return b"".join([*texts, generate_latest(self._registry)])

    def _families(self) -> tuple[_Family, ...]:
        return self._failovers, self._resumes, self._probes, self._certificates, self._publishes

    def _group(self, view: View | PoolView) -> tuple[str, ...]:
        """Return the lines of one group; those that were kept where they still hold."""
        shown = self._pool(view) if isinstance(view, PoolView) else self._pair(view)
        kept = self._kept.get(shown.name)
        if kept is None or kept[0] != shown:
            kept = self._kept[shown.name] = shown, _group_lines(shown)
        return kept[1]

    def _pair(self, view: View) -> _Shown:
        saved, group = view.saved, view.group
        return _Shown(
            group.name,
            tuple([(node.name, node.role.value) for node in group.nodes]),
            CONDITIONS,
            view.decision.condition,
            frozenset((saved.assigned,)),
            saved.latched,
            saved.hold is not None,
            saved.hold.until_wall if saved.hold else 0.0,
            view.decision.blocked,
            saved.generation,
            saved.last_change.at_wall if saved.last_change else 0.0,
            tuple([serving_word(view, node) for node in group.names]),
            tuple([mode_word(view, node) for node in group.names]),
            self._adapters(group.name, view.adapters),
        )

    def _pool(self, view: PoolView) -> _Shown:
        hold, last = view.hold, view.last_change
        return _Shown(
            view.name,
            tuple([(node, "member") for node in view.pool.nodes]),
            active_active.CONDITIONS,
            view.condition,
            frozenset(view.members),
            False,
            hold is not None,
            hold.until_wall if hold else 0.0,
            view.decision.blocked,
            view.generation,
            last.at_wall if last else 0.0,
            tuple([found.situation.health.value for found in view.decision.nodes]),
            (),
            self._adapters(view.name, view.adapters),
        )

    def _adapters(self, name: str, adapters: Sequence[AdapterStatus]) -> tuple[_Adapter, ...]:
        return tuple(
            [
                (
                    one.name,
                    one.in_sync,
                    self._last_success.get((name, one.name), 0.0),
                    one.seen is None or one.seen.usable is not False,
                    one.yielded,
                    one.seen is not None and bool(one.seen.unsettled),
                )
                for one in adapters
            ]
        )

    # -------------------------------------------------------------- events
    def _probe_done(self, event: Event) -> None:
        seen = event.fields["observation"]
        assert isinstance(seen, Observation)
        page, outcome = seen.page, seen.outcome
        result = outcome.phase.value if isinstance(outcome, Failed) else "ok"
        self._probes.at(event.group, seen.node, page.value, result).value += 1.0
        self._durations[page].observe(seen.ended_at - seen.started_at)
        self._latest_at = self._wall()
        if seen.certificate_until is not None:
            self._certificates.at(event.group, seen.node).value = seen.certificate_until

    def _published(self, event: Event) -> None:
        adapter = str(event.fields["adapter"])
        self._publishes.at(event.group, adapter, str(event.fields["result"])).value += 1.0
        if event.fields["result"] == "ok":
            self._last_success[event.group, adapter] = self._wall()

    def _confirmed(self, event: Event) -> None:
        seconds = event.fields.get("seconds")
        if isinstance(seconds, float):
            self._publish_seconds.observe(seconds)

    def _failed_over(self, event: Event) -> None:
        self._failovers.at(event.group).value += 1.0

    def _resumed(self, event: Event) -> None:
        self._resumes.at(event.group).value += 1.0

    def _stalled(self, event: Event) -> None:
        self._stalls.inc()

    def _crashed(self, event: Event) -> None:
        self._crashes.labels(str(event.fields["part"])).inc()

    def _notified(self, event: Event) -> None:
        channel, result, count = notified(event)
        self._notifications.at(channel, result).value += count

    def _waiting(self, event: Event) -> None:
        channel, count, since_wall = waiting(event)
        self._notices_waiting.at(channel).value = count
        self._notices_since.at(channel).value = since_wall


def notified(event: Event) -> tuple[str, str, float]:
    """Return channel, result and how many messages an event of `NOTIFY_RESULTS` is about."""
    channel, many = str(event.fields["channel"]), event.fields.get("notices")
    result = NOTIFY_RESULTS[event.name]
    count = float(many) if isinstance(many, int) and result != "failed" else 1.0
    return channel, result, count


def waiting(event: Event) -> tuple[str, float, float]:
    """Return of `notify.waiting` the channel, how many wait, and since when (UTC seconds)."""
    count, since_wall = event.fields["waiting"], event.fields["since_wall"]
    assert isinstance(count, int)
    assert isinstance(since_wall, float)
    return str(event.fields["channel"]), float(count), since_wall


def _group_lines(shown: _Shown) -> tuple[str, ...]:
    """Return the lines of one group, for each of `GROUP_GAUGES`."""
    names, words = [name for name, _ in shown.nodes], [mode.value for mode in Mode]
    lines: list[list[tuple[tuple[str, ...], float]]] = [
        [((word,), float(word == shown.condition)) for word in shown.conditions],
        [((node,), float(node in shown.assigned)) for node in names],
        [((), float(shown.latched))],
        [((), float(shown.held))],
        [((), shown.hold_due)],
        [((name,), float(name in shown.blocked)) for name in BRAKES],
        [((), float(shown.generation))],
        [((), shown.changed_at)],
        [
            (node, float(word == "ok"))
            for node, word in zip(shown.nodes, shown.serving, strict=True)
        ],
        [
            ((node, word), float(word == said))
            for node, said in zip(names, shown.modes, strict=bool(shown.modes))
            for word in words
        ],
        [((name,), float(in_sync)) for name, in_sync, *_ in shown.adapters],
        [((name,), float(usable)) for name, _, _, usable, *_ in shown.adapters],
        [((name,), float(yielded)) for name, *_, yielded, _ in shown.adapters],
        [((name,), last) for name, _, last, *_ in shown.adapters],
        [((name,), float(unsettled)) for name, *_, unsettled in shown.adapters],
    ]
    found = []
    for (name, labels, _), values in zip(GROUP_GAUGES, lines, strict=True):
        whose = ("group", *labels)
        heads = (_line_head(name, zip(whose, (shown.name, *v), strict=True)) for v, _ in values)
        written = zip(heads, values, strict=True)
        found.append("".join(f"{head}{value!r}\n" for head, (_, value) in written))
    return tuple(found)


def _rested(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items a few at a time; the interpreter is the loop's between two of them."""
    for start in range(0, len(items), size):
        if start:
            time.sleep(REST_S)
        yield items[start : start + size]


def _head(kind: str, name: str, text: str) -> str:
    return f"# HELP lb_probe_{name} {text}\n# TYPE lb_probe_{name} {kind}\n"


def _line_head(name: str, labels: Iterable[tuple[str, str]]) -> str:
    words = ",".join(f'{label}="{value.translate(_ESCAPED)}"' for label, value in labels)
    return f"lb_probe_{name}{{{words}}} "


_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
