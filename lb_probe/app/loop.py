"""The event loop of a process, and the signals that end it."""

import asyncio
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from lb_probe.core.model import Event
from lb_probe.ports import (
    EventSink,
)

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine on the fastest loop there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None  # the loop of the standard library: the same, a little slower
    return uvloop.new_event_loop


def take_descriptors() -> None:
    """Use as many file descriptors as this process may: a page that hangs takes `fall` of them.

    Most systems begin with 1,024, which is for programs with select(2); nothing here uses that.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Signals:
    """What the prober is told by signals: to stop, or to read its file again."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._words: asyncio.Queue[str] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._words.put_nowait, "reload")
        self._is_stopped = False

    def _stop(self, number: int) -> None:
        self._is_stopped = True
        self._words.put_nowait("stop")
        self._loop.add_signal_handler(
            number, sys.exit, 128 + number
        )  # a second one ends it at once

    async def next(self) -> str:
        """Return stop or reload; of several reloads asked for meanwhile one is enough."""
        word = await self._words.get()
        while not self._words.empty():
            self._words.get_nowait()
        return "stop" if self._is_stopped else word


def on_signals(stop: asyncio.Event, sink: EventSink) -> None:
    """Let SIGTERM and SIGINT end the process in order; a second one at once."""
    loop = asyncio.get_running_loop()

    def first(number: int) -> None:
        stop.set()
        loop.add_signal_handler(number, sys.exit, 128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first, number)
    # A file is read at start only; a habit from other daemons must not end this one.
    told = Event("config.not-reloaded", fields={"detail": "restart to read the file anew"})
    loop.add_signal_handler(signal.SIGHUP, sink.emit, told)
