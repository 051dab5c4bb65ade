"""Structured logs: one line per event, JSON where nobody watches, plain words on a terminal.

Source: DESIGN section 2 (`events/`); R97 for which events are worth waking somebody.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import structlog

from lb_probe.core.model import Event

# Thousands a second, or the same again and again: counted, not logged.
QUIET = frozenset(
    {
        *("agent.heartbeat", "probe.done", "publish.sent", "publish.done", "publish.failing"),
        *("notify.waiting", "notify.failing", "notify.pinged"),
    }
)
LEVELS = {
    "group.failover": "warning",
    "group.condition": "info",
    "publish.failed": "error",
    "publish.unsettled": "error",
    "publish.drift": "warning",
    "publish.foreign-writer": "error",
    "hold.overdue": "warning",
    "store.failed": "error",
    "prober.impaired": "error",
    "prober.isolated": "error",
    "prober.stalled": "warning",
    "clock.jumped": "warning",
    "act.refused": "warning",
    "part.crashed": "error",
    "config.not-reloaded": "warning",
    "agent.trust-failed": "error",
    "agent.peer-lost": "warning",
    "agent.peer-refused": "warning",
    "agent.trust-missing": "error",
    "agent.connection-lapsed": "error",
    "agent.clock-apart": "error",
    "agent.utc-apart": "error",
    "agent.nodes-differ": "warning",
    "agent.heartbeat-failed": "error",
    "agent.promotion-refused": "error",
    "agent.promotion-failed": "error",
    "agent.not-serving": "error",
    "agent.quarantined": "error",
    "agent.dual-primary": "error",
    "agent.state-failed": "error",
    "agent.peer-silent": "warning",
    "agent.clients-disabled": "warning",
    "agent.clients-disabled-still": "warning",
    "agent.ha-disabled": "warning",
    "agent.sync-alarm": "warning",
    "agent.sync-refused": "warning",
    "agent.sync-skipped": "warning",
    "agent.sync-not-recorded": "error",
    "config.reload-failed": "error",
    "notify.failed": "warning",
    "notify.rejected": "error",
    "notify.dropped": "error",
    "notify.expired": "error",
    "outbox.failed": "error",
}


class Log:
    """EventSink that writes log lines to standard error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        out = stream or sys.stderr
        is_terminal = out.isatty()
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer(sort_keys=True)
        if is_terminal:
            renderer = structlog.dev.ConsoleRenderer()
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(out),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                renderer,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )

    def emit(self, event: Event) -> None:
        """Write one line, unless the event is one of thousands a second."""
        if event.name in QUIET:
            return
        fields = {k: v for k, v in event.fields.items() if v is not None}
        if event.group:
            fields["group"] = event.group
        # A full disk or a pipe that nobody reads any more must not stop a failover.
        with suppress(OSError, ValueError):
            getattr(self._log, LEVELS.get(event.name, "info"))(event.name, **fields)


class Fanout:
    """EventSink that hands each event to several others, in order."""

    def __init__(self, *sinks: Callable[[Event], None]) -> None:
        self._sinks = list(sinks)

    def add(self, sink: Callable[[Event], None]) -> Callable[[], None]:
        """Add a sink; returns what removes it again."""
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def emit(self, event: Event) -> None:
        """Hand the event on."""
        for sink in tuple(self._sinks):
            sink(event)
