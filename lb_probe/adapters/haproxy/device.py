"""One HAProxy process, shared by every adapter that addresses it.

* Few connections at once: `stats maxconn` is 10 by default, for all who use the socket, and the
  eleventh hangs. Questions and changes have their own share, so that neither starves the other,
  and waiting for a place counts against the caller's own deadline.
* A reading never begins before the call that asks for it. Who asks while one is under way shares
  the next: a thousand groups cost one answer, not a thousand.
* `run` is the feed: one reading per `poll_s` for all who watch, and they are called only where
  something changed.

Source: HAProxy management guide, "Unix Socket commands"; rule X2.
"""

import asyncio
import itertools
import math
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lb_probe.adapters.haproxy import answers
from lb_probe.adapters.haproxy.answers import MapTable, Row
from lb_probe.adapters.haproxy.leaving import Leaving, Master
from lb_probe.adapters.haproxy.map_file import MapFile
from lb_probe.adapters.haproxy.reading import (
    READ_ERRORS,
    Need,
    Reading,
    Watcher,
    each_backend,
    map_or_why,
)
from lb_probe.adapters.haproxy.runs import SEVERAL, Runs
from lb_probe.adapters.haproxy.wire import Address, RuntimeApi
from lb_probe.ports import Unreachable

POLL_S = 0.4  # noticed within half a second, and a repair has time left of its second
CONNECTIONS = 6

_READINGS = 2  # at once: a second may begin where the first is late
_LATE_S = 0.2
_FEW = 48  # backends asked for one by one; beyond, one table of all of them is cheaper
_FEW_BYTES = 8_000
_GATHER_S = 0.05  # while changes queue, a reading waits this long for more who want it
_CROWD = 100  # who want one at the same moment: more will come, and each answer costs 2 ms
_CROWD_S = 0.02
_PLACE_SHARE = 0.75  # of the deadline, for a place: a line sent in its last moment has no answer
_LEARN_PAUSE_S = 10.0
_ATTEND_S = 1.0
_MASTER_S = 0.5  # for a line to the master
_YIELD_EVERY = 200  # watchers told in one go, before others have their turn


@dataclass(slots=True)
class _Batch:
    """Those who share the next reading; the first one makes it.

    Attributes:
        outcome: None also where who would have made it was cancelled.
    """

    needs: list[Need]
    done: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Reading | Exception | None = None


class Device:
    """One HAProxy process: its command socket and, where there is one, its master's.

    Args:
        timeout_s: For one line: waiting for a place, connecting, sending and reading together.
        tls: For a `listen` with `bind ... ssl` in front of the command socket.
        server_name: Name in its certificate; the address's host by default.
        master: The master's socket (`haproxy -W -S`), to see workers that leave after a reload.
        connections: At most at once to the command socket.
        poll_s: Seconds between two readings of the feed.

    Attributes:
        where: The socket's path or HOST:PORT, for messages.
        leaving: What is known of workers that leave; None before anything is.
        is_fed: Whether `run` looks after sessions and workers that leave.

    Raises:
        ValueError: An address, a time or a number that cannot be.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float = 2.0,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        master: Address | None = None,
        connections: int = CONNECTIONS,
        poll_s: float = POLL_S,
    ) -> None:
        if connections < 2 or not poll_s > 0:
            raise ValueError(
                f"connections is {connections}, poll_s {poll_s}; use 2 or more, and more than 0"
            )
        self._api = RuntimeApi(address, timeout_s=timeout_s, tls=tls, server_name=server_name)
        self.where = self._api.where
        self.leaving: Leaving | None = None
        self._master = Master(master, timeout_s=min(timeout_s, _MASTER_S)) if master else None
        self._timeout_s = timeout_s
        self._poll_s = poll_s
        readings = min(_READINGS, connections - 1)
        self._questions = asyncio.Semaphore(readings)
        self._changes = asyncio.Semaphore(connections - readings)
        self._few_changes = connections - readings
        self._changing = 0
        self._calm = asyncio.Event()
        self._calm.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._reading = 0
        self._batch: _Batch | None = None
        self._count = itertools.count(1)
        self._runs = Runs()
        self._maps: dict[str, tuple[bytes | None, MapTable | str]] = {}
        self._table: tuple[bytes, dict[bytes, tuple[Row, ...]]] = (b"", {})
        self._watchers: dict[Watcher, None] = {}
        self._full: tuple[str, Mapping[tuple[str, str], answers.Stat]] = ("", {})
        self._files: dict[Path, MapFile] = {}
        self._lacks = False
        self._learning = asyncio.Lock()
        self._asked = ("", 0.0)
        self._lessons = 0
        self._attending = asyncio.Lock()
        self._attended_at = -math.inf
        self.is_fed = False

    # -------------------------------------------------------------- lines
    async def change(self, line: str) -> bytes:
        """Send a line that changes something; return the whole answer.

        Raises:
            Unreachable: No place or no connection in time; nothing was sent.
            UnfinishedError: It may have been carried out, but no whole answer came.
            PublishError: The line may not be sent at all.
        """
        self._changing += 1
        if self._changing > self._few_changes:
            self._calm.clear()
        try:
            return await self._through(self._changes, line)
        finally:
            self._changing -= 1
            if self._changing <= self._few_changes:
                self._calm.set()

    async def ask(self, line: str) -> bytes:
        """Send a question; return the whole answer. Raises as `change` does."""
        return await self._through(self._questions, line)

    async def _through(self, places: asyncio.Semaphore, line: str) -> bytes:
        loop = asyncio.get_running_loop()
        began, wait_s = loop.time(), _PLACE_SHARE * self._timeout_s
        try:
            if places.locked():
                async with asyncio.timeout(wait_s):
                    await places.acquire()
            else:
                await places.acquire()  # at once
        except TimeoutError:
            raise Unreachable(
                f"no place among our own connections within {wait_s:g}s: those before it have no"
                " answer; does it hang, or is `stats maxconn` used up?"
            ) from None
        try:
            return await self._api.ask(line, self._timeout_s - (loop.time() - began))
        finally:
            places.release()

    # -------------------------------------------------------------- readings
    async def read(self, need: Need) -> Reading:
        """Return a reading that began after this call and contains what is needed.

        Raises:
            Unreachable: No connection, or no place, in time.
            UnfinishedError: No whole answer came.
            UnbelievableError: Nonsense, or a process that is leaving.
        """
        while True:
            if self._batch is None:
                return await self._lead(need)
            batch = self._batch
            batch.needs.append(need)
            await batch.done.wait()
            if isinstance(batch.outcome, Reading):
                return batch.outcome
            if batch.outcome is not None:
                raise batch.outcome
            # Who would have made it was cancelled: one of us does.

    async def _lead(self, need: Need) -> Reading:
        batch = self._batch = _Batch([need])
        try:
            await self._wait_for_others()
            if len(batch.needs) > _CROWD:
                await asyncio.sleep(_CROWD_S)
            self._batch = None  # who asks from here on wants a later one
            reading = batch.outcome = await self._read(Need.of_all(batch.needs))
        except READ_ERRORS as exc:
            batch.outcome = exc
            raise
        finally:
            if self._batch is batch:
                self._batch = None
            batch.done.set()
        return reading

    async def _wait_for_others(self) -> None:
        await _wait(self._idle, _LATE_S)
        await _wait(self._calm, _GATHER_S)

    async def _read(self, need: Need) -> Reading:
        begun = next(self._count)
        backends, maps = sorted(need.backends), sorted(need.maps)
        is_wide = len(backends) > _FEW or sum(map(len, backends)) > _FEW_BYTES
        tables = [""] if is_wide else [f" {name}" for name in backends]
        asked = ["show info", *(f"show servers state{name}" for name in tables)]
        asked += [f"show map {name}" for name in maps]
        self._reading += 1
        self._idle.clear()
        try:
            reply = await self.ask(";".join(asked))
        finally:
            self._reading -= 1
            if not self._reading:
                self._idle.set()
        info, *parts = answers.sections(reply, len(asked))
        process = answers.process(info or b"")
        found = self._all_rows(parts[0], backends) if is_wide else each_backend(parts, backends)
        now = asyncio.get_running_loop().time()
        name = self._runs.name(process, begun, next(self._count), now)
        several = self._runs.several(now)
        told = {
            file: self._map(file, part)
            for file, part in zip(maps, parts[len(tables) :], strict=True)
        }
        return Reading(begun, SEVERAL if several else name, process, found, told, several)

    def _map(self, name: str, told: bytes | None) -> MapTable | str:
        # A map of ten thousand keys takes 10 ms to read, and hardly ever changes.
        if name not in self._maps or self._maps[name][0] != told:
            self._maps[name] = (told, map_or_why(told))
        return self._maps[name][1]

    def _all_rows(
        self, table: bytes | None, backends: Sequence[str]
    ) -> dict[str, tuple[Row, ...] | str]:
        # The seconds since a server's last change tick in each row: equal tables are rare with a
        # thousand servers, and common with idle polls in the same second.
        if table != self._table[0]:
            self._table = (table or b"", answers.rows(table or b""))
        found = self._table[1]
        none = "found no such backend, or no server in it; wanted the servers of this backend"
        return {name: found.get(name.encode()) or none for name in backends}

    def next_place(self) -> int:
        """Return a place in the order of readings: those that begin later have a higher one."""
        return next(self._count)

    # -------------------------------------------------------------- what checks need
    def full_health(self, reading: Reading, backend: str, server: str) -> int | None:
        """Return a server's health counter after nothing but passed checks; None if unknown yet.

        Only `show stat` tells `rise` and `fall`, in rows five times as long: it is asked once a
        run, by `learn`.
        """
        instance, known = self._full
        if instance != reading.instance or (backend, server) not in known:
            self._lacks = True
            return None
        return known[backend, server].full

    async def learn(self, reading: Reading) -> bool:
        """Ask for what `full_health` lacked; tell whether to judge again."""
        if not self._lacks:
            return False
        async with self._learning:
            if self._may_learn(reading.instance):
                await self._learn(reading.instance)
            return not self._lacks

    def _may_learn(self, instance: str) -> bool:
        last, at = self._asked
        is_early = last == instance and asyncio.get_running_loop().time() < at + _LEARN_PAUSE_S
        return self._lacks and not is_early

    async def _learn(self, instance: str) -> None:
        self._asked = (instance, asyncio.get_running_loop().time())
        try:
            (table,) = answers.sections(await self.ask("show stat -1 4 -1"), 1)
            self._full = (instance, answers.stats(table or b""))
            self._lessons += 1
        except READ_ERRORS:
            return  # not sure of anything, until the next time
        self._lacks = False

    @property
    def knowledge(self) -> object:
        """Changes whenever `learn` or `attend` found something new: judge again."""
        return (self._lessons, self.leaving)

    def file(self, path: Path) -> MapFile:
        """Return the one writer of this map file, shared by all who write it."""
        return self._files.setdefault(path, MapFile(path, timeout_s=self._timeout_s))

    # -------------------------------------------------------------- who leaves
    async def attend(self, max_age_s: float = _ATTEND_S) -> None:
        """Look at the workers that leave, where the last look ended longer ago than that."""
        master = self._master
        now = asyncio.get_running_loop().time
        if master is None or now() < self._attended_at + max_age_s:
            return
        async with self._attending:
            if now() >= self._attended_at + max_age_s:
                self.leaving = await master.look()
                self._attended_at = now()

    async def end_leaving(self, is_theirs: Callable[[str, str], bool]) -> int:
        """End the sessions of leaving workers to servers for which `is_theirs(backend, server)`.

        Raises:
            PublishError: The master did not do it.
        """
        if self._master is None or self.leaving is None:
            return 0
        return await self._master.end(self.leaving, is_theirs)

    # -------------------------------------------------------------- the feed
    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Let the feed tell this one; return what ends it."""
        self._watchers[watcher] = None
        return lambda: self._watchers.pop(watcher, None)

    async def run(self) -> None:
        """Feed those who watch, and look after sessions that stay behind, until cancelled."""
        self.is_fed = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed())
                # Apart, because a master that reloads answers late, and no repair waits for it.
                tasks.create_task(self._tend())
        finally:
            self.is_fed = False

    async def _feed(self) -> None:
        while True:
            await self.poll()
            await asyncio.sleep(self._poll_s)

    async def poll(self) -> None:
        """Read once for all who watch, and tell those for whom something changed."""
        watchers = tuple(self._watchers)
        if not watchers:
            return
        begun = self.next_place()
        try:
            reading = await self.read(Need.of_all(w.need for w in watchers))
        except READ_ERRORS as exc:
            for watcher in watchers:
                watcher.refuse(exc, begun)
            return
        for i, watcher in enumerate(watchers):
            watcher.offer(reading)
            if i % _YIELD_EVERY == _YIELD_EVERY - 1:
                await asyncio.sleep(0)
        await self.learn(reading)

    async def _tend(self) -> None:
        while True:
            await self.attend()
            async with asyncio.TaskGroup() as tasks:
                for watcher in tuple(self._watchers):
                    if watcher.is_due():
                        tasks.create_task(watcher.tend())
            await asyncio.sleep(self._poll_s)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    if event.is_set():
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
