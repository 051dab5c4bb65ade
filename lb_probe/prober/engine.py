"""Drives every probe: sockets, deadlines and kept connections, in callbacks and without tasks.

One epoll instance holds all sockets and is itself one descriptor of the event loop, so that a
probe costs the loop nothing but its wake-ups; one timer serves all deadlines. Events are
edge-triggered: each socket is registered once, and is read until a read comes back short.
"""

import asyncio
import math
import select
from collections.abc import Callable, Iterable, Iterator
from socket import SocketType

from lb_probe.core.model import Observation
from lb_probe.prober.attempt import READABLE, Attempt, Done
from lb_probe.prober.link import Link, Trace, Way
from lb_probe.prober.names import Names
from lb_probe.prober.target import Target

_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_EARLY_S = 0.0005  # timers of a loop are this good
_TIMER_S = 0.001
_ALIGNED = 4  # low bits of every id, all zero: a dict would search long among such numbers
_ROUNDS = 4  # an answer, what is left of it, and its end
_GRACE_S = 0.25


class Engine:
    """Asks targets, any number at a time, in the event loop that `start` is called in.

    Args:
        clock: Monotonic seconds; stamps observations and measures deadlines.
        names: Where names are looked up; one of its own when None.
    """

    def __init__(self, clock: Callable[[], float], *, names: Names | None = None) -> None:
        self.clock = clock
        self._owns_names = names is None
        self.names = Names(clock) if names is None else names
        self._ways: dict[Target, Way] = {}
        # The same by the target that came last: to hash and compare one costs as much as ten calls.
        self._ways_by_id: dict[int, Way] = {}
        self._links: list[Link | None] = []  # by their numbers, which are small
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poll = select.epoll()
        self._is_dispatching = False
        self._is_awaited = False
        self._closing: list[SocketType] = []
        self._again: list[tuple[Link, int]] = []
        # By timeout, in the order of their starts: so in the order of their deadlines.
        self._deadlines: dict[float, dict[Attempt, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self.looks_at = -math.inf  # when a start is to look at the kept connections again

    def start(self, target: Target, done: Done, trace: Trace | None = None) -> Attempt:
        """Ask once; nothing a peer does raises.

        Args:
            done: Called once with what came of it, unless the attempt is cancelled, and never
                before `start` returns.
            trace: Told of each phase.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._poll.fileno(), self._on_ready)
        way = self._ways_by_id.get(id(target) >> _ALIGNED) or self._find_way(target)
        way.count += 1
        attempt = Attempt(self, target, way, done, trace)
        way.running[attempt] = None
        if attempt.started_at + target.timeout_s < self._timer_at:
            self._set_timer(attempt.started_at + target.timeout_s, attempt.started_at)
        attempt.begin()
        attempt.is_begun = True
        if not self._is_awaited:
            self._is_awaited = True
            self._loop.call_soon(self._on_ready)  # much of it is there when all that is due began
        return attempt

    def _find_way(self, target: Target) -> Way:
        """Return what is remembered of a target, or of an equal one: this takes its place."""
        way = self._ways.pop(target, None)
        if way is None:
            running = self._deadlines.setdefault(target.timeout_s, {})
            way = Way(target, running)
        else:
            del self._ways_by_id[id(way.target) >> _ALIGNED]
            way.target = target
        self._ways[target] = self._ways_by_id[id(target) >> _ALIGNED] = way
        return way

    def keep_only(self, targets: Iterable[Target]) -> None:
        """Forget what is remembered of all other targets; running attempts go on."""
        wanted = set(targets)
        for target in [t for t in self._ways if t not in wanted]:
            way = self._ways.pop(target)
            del self._ways_by_id[id(way.target) >> _ALIGNED]
            way.is_reused = False  # what still runs keeps no connection either
            if way.kept is not None:
                self.drop(way.kept)

    def close(self) -> None:
        """Cancel what runs and leave nothing open; once more does nothing."""
        if self._poll.closed:
            return
        for attempts in list(self._deadlines.values()):
            for attempt in list(attempts):
                attempt.cancel()
        for link in self._links:
            if link is not None:
                self.drop(link)
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._poll.fileno())
        self._poll.close()
        if self._owns_names:
            self.names.close()

    # -------------------------------------------------------------- for attempts
    def look(self, now: float) -> None:
        """Close the kept connections that ended, or speak unasked; asked once a millisecond.

        After a stall timers come before what the sockets have to say.
        """
        self.looks_at = now + _TIMER_S
        for fd, events in self._poll.poll(0):
            link = self._links[fd]
            if link is None:
                continue
            if link.attempt is not None:  # not inside somebody's `start`
                self.read_again(link, events)
            elif events & READABLE:
                self.drop(link)

    def hold(self, link: Link) -> None:
        """Watch a new connection, one that was begun: before, epoll calls a socket hung up.

        Raises:
            OSError: The kernel watches no more; the connection is closed.
        """
        try:
            self._poll.register(link.fd, _EVENTS)
        except OSError:
            link.sock.close()
            raise
        links = self._links
        if link.fd >= len(links):
            links += [None] * (link.fd + 1 - len(links))
        links[link.fd] = link

    def drop(self, link: Link) -> None:
        """Close a connection."""
        if self._links[link.fd] is not link:  # dropped before
            return
        self._links[link.fd] = None
        if link.way.kept is link:
            link.way.kept = None
        link.attempt = None
        if self._is_dispatching:
            # Not yet: its number must not come again among the events of this round.
            self._closing.append(link.sock)
        else:
            link.sock.close()

    def read_again(self, link: Link, events: int) -> None:
        """Read on in the next round of the loop, after the others had their turn."""
        assert self._loop is not None
        if not self._again:
            self._loop.call_soon(self._on_again)
        self._again.append((link, events))

    def soon(self, tell: Done, observation: Observation) -> None:
        """Tell of an attempt that ended before `start` returned."""
        assert self._loop is not None
        self._loop.call_soon(tell, observation)

    def raised(self, error: Exception) -> None:
        """Give an error of somebody's `done` to the loop."""
        assert self._loop is not None
        what = "a callback of a probe raised"
        self._loop.call_exception_handler({"message": what, "exception": error})

    # -------------------------------------------------------------- events
    def _on_ready(self) -> None:
        """Take what came, and what came meanwhile: to sleep and wake costs as much as ten probes.

        Only so far: a peer that sends without end must not hold the others up.
        """
        self._is_awaited = False
        for _ in range(_ROUNDS):
            if self._poll.closed:  # by a callback
                return
            came = self._poll.poll(0)
            if not came:
                return
            self._dispatch(came)

    def _on_again(self) -> None:
        self._dispatch(self._take_again())

    def _take_again(self) -> list[tuple[int, int]]:
        """Take what is to be read on; the number of a link that was dropped may be another's."""
        again, self._again = self._again, []
        return [(link.fd, events) for link, events in again if self._links[link.fd] is link]

    def _dispatch(self, came: Iterable[tuple[int, int]]) -> None:
        links = self._links
        self._is_dispatching = True
        try:
            for fd, events in came:
                link = links[fd]
                if link is None:  # dropped, by what came before it
                    continue
                attempt = link.attempt
                if attempt is not None:
                    attempt.on_events(link, events)
                elif events & READABLE:  # nobody asked: closed, or not to be trusted
                    self.drop(link)
        finally:
            self._is_dispatching = False
            for sock in self._closing:
                sock.close()
            self._closing.clear()

    # -------------------------------------------------------------- deadlines
    def _set_timer(self, deadline: float, now: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(deadline - now, _TIMER_S), self._on_timer)
        self._timer_at = deadline

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, math.inf
        until = self.clock() + _EARLY_S
        if self._next_deadline() <= until:
            self._read_what_came()
        for attempt in list(self._overdue(until)):
            attempt.fail_late()
        soonest = self._next_deadline()
        if soonest < self._timer_at:  # a callback may have begun one that has longer
            self._set_timer(soonest, self.clock())

    def _overdue(self, until: float) -> Iterator[Attempt]:
        for timeout_s, attempts in self._deadlines.items():
            for attempt in attempts:
                if attempt.started_at + timeout_s > until:
                    break
                if _deadline_of(attempt, timeout_s) <= until:
                    yield attempt

    def _next_deadline(self) -> float:
        soonest = math.inf
        for timeout_s, attempts in self._deadlines.items():
            for attempt in attempts:
                deadline = _deadline_of(attempt, timeout_s)
                soonest = min(soonest, deadline)
                if deadline == attempt.started_at + timeout_s:
                    break
        return soonest

    def _read_what_came(self) -> None:
        """Read before anything is called late: a loop that was away must not fail an answer.

        Only so far: a peer that sends without end must not hold the deadlines up.
        """
        for _ in range(_ROUNDS):
            if self._poll.closed:  # by a callback
                return
            came = [*self._take_again(), *self._poll.poll(0)]
            if not came:
                return
            self._dispatch(came)


def _deadline_of(attempt: Attempt, timeout_s: float) -> float:
    """Return when an attempt fails for its time.

    One that got on only after its deadline could not before: the loop was away. The node was asked
    a moment ago, and has a moment to answer.
    """
    deadline = attempt.started_at + timeout_s
    return deadline if attempt.moved_at <= deadline else attempt.moved_at + _GRACE_S
