"""What both styles of the HAProxy adapter share: publish, read back, watch, end old sessions.

A style says what it needs to read, what it sends, and what a reading means; this file keeps the
order of things. A line is sent once, an empty answer is the only success, and what counts is what
a later reading says.

Source: DESIGN section 1; rules X2 (read back) and X3 (exactly one).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from lb_probe.adapters.haproxy import answers
from lb_probe.adapters.haproxy.answers import Server, UnbelievableError
from lb_probe.adapters.haproxy.device import Device
from lb_probe.adapters.haproxy.reading import READ_ERRORS, Need, Reading
from lb_probe.adapters.haproxy.wire import Address, UnfinishedError
from lb_probe.adapters.haproxy.words import listed
from lb_probe.core.model import Health, Seen
from lb_probe.ports import PublishError, Unreachable

Changed = Callable[[Seen | PublishError], None]
TIMEOUT_S = 2.0
_TRY_AGAIN_S = 1.0
_FRESH_S = 0.1  # of what is in flight in workers that leave, while somebody waits for its end
_UPTIME_S = 2.0  # people read it: it may be out by so much


@dataclass(frozen=True, slots=True)
class _Due:
    """Sessions to end after a publication.

    Attributes:
        keep: Nodes whose sessions stay.
        at: Seconds of the loop's clock.
        publication: Number of the publication; a later one makes this void.
    """

    keep: frozenset[str]
    at: float
    publication: int


class Adapter(ABC):
    """One assignment on one HAProxy.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.
        need: What its readings contain.
        watch: Registers a callback with the device's feed, see `_watched`. Only an adapter that
            was given a `Device` has it: nobody runs the feed of one that was made here.
    """

    type = "haproxy"
    need: Need
    watch: Callable[[Changed], Callable[[], None]]

    def __init__(
        self,
        name: str,
        device: Device | Address,
        nodes: Mapping[str, str],
        *,
        timeout_s: float,
        shutdown_sessions_after_s: float | None,
    ) -> None:
        self.name = name
        if isinstance(device, Device):
            self._device, self.watch = device, self._watched
        else:
            self._device = Device(device, timeout_s=timeout_s)
        self._who = f"{name}: HAProxy at {self._device.where}"
        self._nodes = dict(nodes)
        if not self._nodes or len(set(self._nodes.values())) < len(self._nodes):
            raise ValueError(
                f"nodes are {self._nodes}; give each node its own server, at least one"
            )
        if shutdown_sessions_after_s is not None and not shutdown_sessions_after_s >= 0:
            raise ValueError(
                f"shutdown_sessions_after_s is {shutdown_sessions_after_s}; use 0 or more"
            )
        self._after_s = shutdown_sessions_after_s
        # HAProxy may run another connection's command between two of ours: "ready a; ready b;
        # maint b; maint a" out of two crossing lines would leave nobody.
        self._writing = asyncio.Lock()
        self._is_changing = False
        self._publication = 0
        self._newest = 0  # readings that began before this place tell what is no longer so
        self._callbacks: dict[int, Changed] = {}
        self._key: Hashable = None
        self._known_as: tuple[Hashable, Seen] | None = None
        self._told: Seen | str | None = None
        self._due: _Due | None = None
        self._swept: frozenset[str] | None = None
        self._swept_leaving: object = None
        self._trouble = ""

    # -------------------------------------------------------------- what a style says
    @abstractmethod
    def commands(self, node: str) -> list[str]:
        """Return the literal commands that `publish(node)` would send.

        Raises:
            PublishError: The node is not mapped.
        """

    @abstractmethod
    async def _carry_out(self, nodes: frozenset[str]) -> None:
        """Send what puts these nodes in and all others out; judge each answer."""

    @abstractmethod
    def _state(self, reading: Reading) -> Hashable:
        """Return all that `_judge` looks at, cheaply; equal values mean an equal `Seen`."""

    @abstractmethod
    def _judge(self, reading: Reading) -> Seen:
        """Say what a reading means.

        Raises:
            UnbelievableError: It supports no statement.
        """

    @abstractmethod
    def _servers_of(self, node: str) -> Sequence[tuple[str, str | None]]:
        """Return a node's servers as (backend, server); None stands for every server of it."""

    @property
    def device(self) -> Device:
        """The HAProxy it speaks to."""
        return self._device

    # -------------------------------------------------------------- Publisher
    async def publish(self, node: str) -> None:
        """Give the traffic to this node alone, in one line.

        Calls of one adapter wait for each other; each takes the device's `timeout_s` at most for
        each line, and as long for a local file.

        Raises:
            Unreachable: No connection; nothing was sent.
            PublishError: Refused, in whole or in part, or the outcome is unknown.
        """
        await self._publish(frozenset({node}))

    async def publish_nobody(self) -> None:
        """Give the traffic to nobody: users get 503 until a node is published.

        Between this and `publish` of another node the old one has no new request: a planned
        switchover without overlap. Raises as `publish` does.
        """
        await self._publish(frozenset())

    async def read_back(self) -> Seen:
        """Ask what is in force, on a fresh connection, and which process says so.

        `Seen.instance` is "PID@START", START in UTC seconds since 1970, and "#N" after it where
        pid and clock repeat.

        Raises:
            Unreachable: No connection, or not a byte of an answer, in time.
            PublishError: An answer that cannot be believed: nonsense, cut off, from a process
                that is leaving, or without what is ours.
        """
        device = self._device
        try:
            reading = await device.read(self.need)
            if not device.is_fed:
                await device.attend()
            seen = self._seen_in(reading)
            if await device.learn(reading):
                seen = self._seen_in(reading)
        except READ_ERRORS as exc:
            raise self._error(exc) from exc
        self._newest = max(self._newest, reading.begun)
        if self.is_due() and not device.is_fed:
            await self.tend()
        return seen

    async def in_flight(self) -> Mapping[str, int]:
        """Return for each node the requests and connections on its servers and in their queues.

        With a master socket those in workers that leave count too. Nodes whose backend does not
        exist are left out.

        Raises:
            PublishError: HAProxy did not tell.
        """
        asked = sorted(self.need.backends)
        try:
            reply = await self._device.ask(";".join(f"show stat {name} 4 -1" for name in asked))
            parts = answers.sections(reply, len(asked))
            known = [p for p in parts if p is not None and not p.startswith(b"No such proxy")]
            found = [(k, v.in_flight) for part in known for k, v in answers.stats(part).items()]
        except READ_ERRORS as exc:
            raise self._error(exc) from exc
        await self._device.attend(_FRESH_S)
        if (leaving := self._device.leaving) is not None:
            found += [some for servers in leaving.workers.values() for some in servers.items()]
        count: dict[str, int] = {}
        for server, sessions in found:
            if (node := self._node_of(*server)) is not None:
                count[node] = count.get(node, 0) + sessions
        return count

    # -------------------------------------------------------------- the feed
    def _watched(self, changed: Changed) -> Callable[[], None]:
        """Have `changed` called by `Device.run` with each new `Seen`, or with why there is none.

        It is called where something changed: not for the uptime, not for the same error again.
        What began before the end of the last publication or read back is not told.

        Returns:
            What ends it.
        """
        key = max(self._callbacks, default=0) + 1
        self._callbacks[key] = changed
        self._key = self._told = None  # so that the new one hears of the next reading
        unwatch = self._device.watch(self)

        def end() -> None:
            self._callbacks.pop(key, None)
            if not self._callbacks:
                unwatch()

        return end

    def offer(self, reading: Reading) -> None:
        """Take a reading of the feed and tell it where it is new."""
        if self._is_changing or reading.begun < self._newest:
            return
        try:
            key = self._key_of(reading)
            if key == self._key:
                return
            seen = self._seen_in(reading)
        except UnbelievableError as exc:
            self.refuse(exc, reading.begun)
            return
        self._key = key
        if seen != self._told:
            self._told = seen
            self._tell(seen)

    def refuse(self, error: Exception, begun: int) -> None:
        """Take the error of a reading of the feed and tell it where it is new."""
        if self._is_changing or begun < self._newest:
            return
        told = self._error(error)
        self._key = None
        if str(told) != self._told:
            self._told = str(told)
            self._tell(told)

    def _key_of(self, reading: Reading) -> Hashable:
        """Return what a `Seen` is made of, but for the uptime."""
        knows = self._device.knowledge
        return reading.instance, self._state(reading), knows, self._trouble

    def _seen_in(self, reading: Reading) -> Seen:
        """Say what a reading means; judged anew only where something in it is new.

        Raises:
            UnbelievableError: It supports no statement.
        """
        key = self._key_of(reading)
        if self._known_as is None or self._known_as[0] != key:
            self._known_as = key, self._judge(reading)
        seen, uptime_s = self._known_as[1], float(reading.process.uptime_s)
        if seen.uptime_s is None or abs(uptime_s - seen.uptime_s) > _UPTIME_S:
            seen = replace(seen, uptime_s=uptime_s)
            self._known_as = key, seen
        return seen

    def _tell(self, seen: Seen | PublishError) -> None:
        for changed in tuple(self._callbacks.values()):
            changed(seen)

    # -------------------------------------------------------------- sessions that stayed behind
    def is_due(self) -> bool:
        """Whether sessions on the nodes that were published away are to be ended now."""
        if self._due is not None:
            return asyncio.get_running_loop().time() >= self._due.at
        leaving = self._device.leaving
        return (
            self._swept is not None
            and leaving is not None
            and leaving is not self._swept_leaving
            and (bool(leaving.workers) or self._trouble != "")
        )

    async def tend(self) -> None:
        """End the sessions that are due: once here, and for as long as a worker leaves with some.

        A failure is told in `Seen.detail` and tried again a second later.
        """
        due, keep = self._due, self._swept
        self._due = None  # a publication meanwhile sets its own
        try:
            if due is not None:
                keep = due.keep
                await self._end_sessions(keep)
            if keep is not None:
                await self._end_leaving(keep)
        except READ_ERRORS as exc:
            self._trouble = f"sessions of other nodes could not be ended: {exc}"
            if due is not None:
                self._set_due(replace(due, at=asyncio.get_running_loop().time() + _TRY_AGAIN_S))
        else:
            self._trouble = ""
            if due is not None and due.publication == self._publication:
                self._swept = keep

    def _set_due(self, due: _Due) -> None:
        if due.publication == self._publication:
            self._due = due

    async def _end_leaving(self, keep: frozenset[str]) -> None:
        self._swept_leaving = self._device.leaving
        reading = await self._device.read(self.need)
        if frozenset(self._judge(reading).chosen) == keep:
            await self._device.end_leaving(lambda b, s: self._is_theirs(b, s, keep))

    async def _end_sessions(self, keep: frozenset[str]) -> None:
        reading = await self._device.read(self.need)
        if frozenset(self._judge(reading).chosen) != keep:
            return  # somebody else moved traffic since: his sessions are not ours to end
        gone = [
            f"{backend}/{name}"
            for node in self._nodes
            if node not in keep
            for backend, server in self._servers_of(node)
            for name in ([server] if server is not None else _names(reading, backend))
        ]
        if gone:
            line = ";".join(f"shutdown sessions server {server}" for server in gone)
            self._check(line, await self._device.change(line))

    def _node_of(self, backend: str, server: str) -> str | None:
        for node in self._nodes:
            for known, name in self._servers_of(node):
                if known == backend and name in (None, server):
                    return node
        return None

    def _is_theirs(self, backend: str, server: str, keep: frozenset[str]) -> bool:
        node = self._node_of(backend, server)
        return node is not None and node not in keep

    # -------------------------------------------------------------- for the styles
    async def _publish(self, nodes: frozenset[str]) -> None:
        for node in sorted(nodes):
            self._known(node)
        async with self._writing:
            self._is_changing = True
            self._publication += 1
            self._due = self._swept = None
            self._trouble = ""
            try:
                await self._carry_out(nodes)
            finally:
                self._is_changing = False
                self._newest = self._device.next_place()
            if self._after_s is not None:
                at = asyncio.get_running_loop().time() + self._after_s
                self._due = _Due(nodes, at, self._publication)

    def _known(self, node: str) -> str:
        if node not in self._nodes:
            raise PublishError(
                f"{self._who}: no server is known for {node}; wanted one of {listed(self._nodes)}"
            )
        return self._nodes[node]

    async def _send(self, line: str) -> bytes:
        try:
            return await self._device.change(line)
        except Unreachable as exc:
            raise Unreachable(f"{self._who}: {exc}; nothing was sent") from exc
        except UnfinishedError as exc:
            raise PublishError(
                f"{self._who}: {exc}, after `{line[:200]}` was sent: the outcome is unknown;"
                " read back before anything is sent again"
            ) from exc

    def _check(self, line: str, reply: bytes) -> None:
        if why := answers.why_refused(line, reply):
            raise PublishError(f"{self._who} {why}")

    def _error(self, exc: Exception) -> PublishError:
        match exc:
            case Unreachable():
                return Unreachable(f"{self._who}: {exc}")
            case UnfinishedError():
                kind = PublishError if exc.received else Unreachable
                return kind(f"{self._who}: {exc}; nothing is known of what it does")
            case UnbelievableError():
                return PublishError(f"{self._who}, {self._what}: {exc}")
            case _:
                return PublishError(f"{self._who}: {exc}")

    @property
    def _what(self) -> str:
        """What of HAProxy it is about, for messages."""
        return f"backend {listed(sorted(self.need.backends))}"

    def _seen(
        self,
        reading: Reading,
        chosen: tuple[str, ...],
        node: str | None,
        usable: bool | None,
        said: Sequence[str],
        health: Mapping[str, Health],
        owner: str = "",
    ) -> Seen:
        process, leaving = reading.process, self._device.leaving
        if reading.several:
            node = usable = None  # the other one may do something else
        said = [reading.several, *said, self._trouble]
        if leaving is not None:
            said += [leaving.problem, f"reloads: {leaving.reloads}" * bool(leaving.reloads)]
        return Seen(
            node=node,
            chosen=chosen,
            usable=usable,
            instance=reading.instance,
            detail="; ".join(text for text in said if text),
            health=health,
            owner=owner,
            version=process.version,
            uptime_s=float(process.uptime_s),
            leaving=self._leaving(frozenset(chosen)),
        )

    def _leaving(self, chosen: frozenset[str]) -> tuple[str, ...]:
        leaving = self._device.leaving
        if leaving is None:
            return ()
        told = []
        for pid, servers in leaving.workers.items():
            found = {self._node_of(backend, server) for backend, server in servers}
            nodes = {node for node in found if node is not None and node not in chosen}
            if nodes:
                names = listed(sorted(nodes))
                told.append(f"worker {pid} leaves after a reload and still has sessions on {names}")
        return tuple(told)

    def _health(self, reading: Reading, servers: Sequence[Server]) -> Health | None:
        """Return what HAProxy's checks say of these servers together; None without a check."""
        found = [
            (
                f"{s.backend}/{s.name}",
                s.health(self._device.full_health(reading, s.backend, s.name)),
            )
            for s in servers
            if s.is_checked
        ]
        if not found:
            return None
        if len(found) == 1:
            return found[0][1]
        return Health(
            up=self._are_up([health.up for _, health in found]),
            is_sure=all(health.is_sure for _, health in found),
            layer=min(health.layer for _, health in found),
            detail="; ".join(f"{name}: {health.detail}" for name, health in found),
        )

    def _are_up(self, ups: Sequence[bool]) -> bool:
        """Whether several servers of one node make it up."""
        return all(ups)


def _names(reading: Reading, backend: str) -> list[str]:
    found = reading.backends[backend]
    return [] if isinstance(found, str) else [row[1].decode("utf-8", "replace") for row in found]
