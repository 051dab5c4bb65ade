"""Runs of HAProxy: each has a name of its own, and several at one address are noticed.

Pid and start time name a run. In a container both may repeat: then only counters that go back
tell. And an address may lead to more than one HAProxy (a balancer or a name with two addresses in
front of the command sockets): what is set in one is read back from another, for ever.

Source: HAProxy management guide, "show info"; rule X2.
"""

from collections import deque
from dataclasses import dataclass

from lb_probe.adapters.haproxy.answers import Process

SEVERAL = "several"
_KNOWN = 64  # names of runs that are remembered
# A reload has two processes behind one socket for a moment: returns to the first that are close
# together are its, and count as one.
_RETURNS = 3
_APART_S = 0.2
_MEMORY_S = 10.0


@dataclass(frozen=True, slots=True)
class _Run:
    """What was last seen of one run; `ended` is the place where that reading ended."""

    name: str
    ended: int
    uptime_s: int
    connections: int


class Runs:
    """The runs that answered at one address."""

    def __init__(self) -> None:
        self._last: _Run | None = None
        self._known: dict[str, None] = {}
        self._repeats: dict[str, int] = {}
        self._returns: deque[float] = deque(maxlen=_RETURNS)
        self._names = ("", "")

    def name(self, process: Process, begun: int, ended: int, now: float) -> str:
        """Return the name of the run that gave a reading.

        Args:
            begun: Place of the reading's beginning; with `ended` it tells which of two is later.
            now: Seconds of the loop's clock.
        """
        name, last = f"{process.pid}@{process.start}", self._last
        run = _Run(name, ended, process.uptime_s, process.connections)
        if last is None or last.name != name:
            if last is not None and begun > last.ended and name in self._known:
                self._note_return(now, last.name, name)
            self._last = run
            self._remember(name)
        elif begun > last.ended:  # of two at the same time neither is the later one
            if process.uptime_s < last.uptime_s or process.connections < last.connections:
                self._repeats[name] = self._repeats.get(name, 1) + 1
                self._note_return(now, name, name)
            self._last = run
        repeat = self._repeats.get(name)
        return f"{name}#{repeat}" if repeat else name

    def _note_return(self, now: float, before: str, name: str) -> None:
        if not self._returns or now >= self._returns[-1] + _APART_S:
            self._returns.append(now)
        self._names = (min(before, name), max(before, name))

    def _remember(self, name: str) -> None:
        self._known[name] = None
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]

    def several(self, now: float) -> str:
        """Say that more than one HAProxy answers, as a sentence; empty where one does."""
        if len(self._returns) < _RETURNS or now > self._returns[0] + _MEMORY_S:
            return ""
        one, other = self._names
        told = "of one pid and start" if one == other else f"({one} and {other})"
        return (
            f"two HAProxys {told} answer in turn at this address: what one is told another is"
            " asked about; give each an adapter with a `socket` of its own"
        )
