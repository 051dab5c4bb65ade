"""The assignment as a DNS record: an update that compares before it sets, and reads back.

An update holds what was read before as its prerequisites, so of two who write at one moment one
wins and the other changes nothing. NOERROR proves little (what stands beside a CNAME is dropped
without a word), so each authoritative server is asked what it says, and only answers with
authority count.

What DNS cannot do: clients keep the old address for the record's TTL and longer, and connections
stay where they are. Nothing can be closed either, so a planned switchover has no gap here.

Source: RFC 2136, RFC 8945; DESIGN section 1; X2 (read back), X21 (who writes).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dns.message import Message

from lb_probe.adapters.dns_update.records import Found, Service
from lb_probe.adapters.dns_update.wire import Key, Server
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable

TIMEOUT_S = 2.0
_SOON_S = 0.2  # more than its usual time: one that hangs delays no reading longer
_USUAL = 3  # times the last answer's time, for a server that is far away
_FOLLOW_S = 1.5  # secondaries are told by NOTIFY and need a moment
_FOLLOW_POLL_S = 0.02

Answer = Found | PublishError


class _Source:
    """One server as readings use it: how long it takes, and whether it hangs."""

    def __init__(self, server: Server, service: Service, timeout_s: float) -> None:
        self.server = server
        self._service = service
        self._timeout_s = self._patience_s = timeout_s
        self._silent: Unreachable | None = None
        self._open: asyncio.Future[Answer] | None = None

    async def read(self, *, is_first: bool) -> Answer:
        """Ask now; a failure is a value.

        A server that was silent is not waited for: it is asked beside, and one of them again as
        soon as it has answered.

        Args:
            is_first: The one that takes updates is waited for, and has its whole time.
        """
        if self._silent is not None and not is_first:
            if self._open is None or self._open.done():
                self._begin()
            return self._silent
        patience_s = self._timeout_s if is_first else self._patience_s
        try:
            async with asyncio.timeout(patience_s):
                answer = await asyncio.shield(self._begin())
        except TimeoutError:
            answer = Unreachable(f"{self.server.where}: no answer within {patience_s:.1f}s")
        self._silent = answer if isinstance(answer, Unreachable) else None
        return answer

    def _begin(self) -> asyncio.Future[Answer]:
        # Outlives this reading where the server hangs. It is held here, ends by its own deadline
        # and raises nothing: no task group would do more for it.
        self._open = asyncio.ensure_future(self._ask())  # noqa: TID251
        return self._open

    async def _ask(self) -> Answer:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            asked = map(self.server.ask, self._service.queries())
            answers = await asyncio.gather(*asked, return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
            found = self._service.found([a for a in answers if isinstance(a, Message)])
        except Unreachable as error:
            return error
        except PublishError as error:
            text = str(error)
            is_named = text.startswith(self.server.where)
            self._silent = None
            return error if is_named else PublishError(f"{self.server.where}: {text}")
        self._patience_s = min(self._timeout_s, _SOON_S + _USUAL * (now() - began))
        self._silent = None
        return found


@dataclass(slots=True)
class _Told:
    """The last publication: which node, and until when a server that lags is no news."""

    node: str
    until: float


class DnsUpdate:
    """One name in one zone, set by RFC 2136 updates.

    Args:
        servers: Every authoritative server, as address and port; the first takes updates.
        zone: The zone that the record is in.
        record: The name that moves.
        values: For each node its addresses (IPv4, IPv6 or both), or, with `alias`, one name.
        key: Reads the TSIG key; called for each update, so that a changed key needs no restart,
            and one that cannot be read stops nothing but that. Raises OSError or ValueError.
        ttl: Seconds.
        alias: The record is a CNAME.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.
        owner: Who publishes; left in the TXT record `_lb-probe.RECORD` by the next publication.

    Raises:
        ValueError: No server, a record outside the zone, or nodes with unlike addresses.
    """

    type = "dns"

    def __init__(
        self,
        name: str,
        servers: Sequence[tuple[str, int]],
        zone: str,
        record: str,
        values: Mapping[str, Sequence[str]],
        key: Callable[[], Key],
        *,
        ttl: int = 30,
        alias: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if not servers:
            raise ValueError("no server; name the zone's primary, and its secondaries after it")
        self.name = name
        self.owner = ""
        self._service = Service(zone, record, values, ttl, alias=alias)
        self._key = key
        places = [Server(address, port, timeout_s) for address, port in servers]
        self._sources = [_Source(server, self._service, timeout_s) for server in places]
        self._writing = asyncio.Lock()
        self._before: Found | None = None  # what the next update compares
        self._told = _Told("", 0.0)

    @property
    def _first(self) -> _Source:
        return self._sources[0]

    # -------------------------------------------------------------- Publisher
    async def publish(self, node: str) -> None:
        """Set the record to this node, unless it is no longer what was read last.

        Raises:
            Unreachable: No connection to the first server; nothing was sent.
            PublishError: Refused; something else is there by now; or the outcome is unknown.
        """
        self._check(node)
        async with self._writing:
            before = self._before or await self._look()
            self._before = None  # whatever comes of it, that was then
            if obstacle := self._service.obstacle(before):
                raise self._error(f"{self._first.server.where}: {obstacle}")
            message = self._service.update(node, before, self.owner, self._read_key())
            try:
                await self._first.server.update(message)
            except Unreachable as error:
                raise self._unreachable(str(error)) from error
            except PublishError as error:
                raise self._error(str(error)) from error
            first = next(
                n for n in self._service.values if n == node or n in self._service.alike(node)
            )
            self._told = _Told(first, asyncio.get_running_loop().time() + _FOLLOW_S)

    async def read_back(self) -> Seen:
        """Ask every server, on fresh connections, what it says with authority.

        Right after a publication it waits a moment for those that lag behind the first. One that
        does not answer is told in `Seen.detail`, and not waited for the next time.

        Raises:
            Unreachable: No server answered in time.
            PublishError: None of them said anything that can be believed.
        """
        while True:
            found = await self._read_all()
            if not self._lags(found):
                return self._seen(found)
            await asyncio.sleep(_FOLLOW_POLL_S)

    def commands(self, node: str) -> list[str]:
        """Return the lines of `nsupdate -k KEYFILE` that would do what `publish(node)` does.

        Raises:
            PublishError: No address is known for it.
        """
        self._check(node)
        return [
            "# what was read before is compared as well, see nsupdate's `prereq`",
            self._first.server.line,
            *self._service.commands(node, self.owner),
        ]

    def _read_key(self) -> Key:
        try:
            return self._key()
        except (OSError, ValueError) as error:
            raise self._error(f"the TSIG key cannot be read: {error}") from error

    def _check(self, node: str) -> None:
        if node not in self._service.values:
            known = ", ".join(self._service.values)
            raise self._error(f"nothing is known for {node}; wanted one of {known}")

    # -------------------------------------------------------------- reading
    async def _look(self) -> Found:
        answer = await self._first.read(is_first=True)
        if isinstance(answer, Unreachable):
            raise self._unreachable(str(answer)) from answer
        if isinstance(answer, PublishError):
            raise self._error(str(answer)) from answer
        return answer

    async def _read_all(self) -> list[Answer]:
        asked = (s.read(is_first=s is self._first) for s in self._sources)
        return await asyncio.gather(*asked)

    def _lags(self, answers: Sequence[Answer]) -> bool:
        """Tell whether it is worth a moment: the first did it, another not yet."""
        if asyncio.get_running_loop().time() >= self._told.until:
            return False
        nodes = [self._service.node(a) for a in answers if isinstance(a, Found)]
        first = answers[0]
        did = isinstance(first, Found) and self._service.node(first) == self._told.node
        return did and set(nodes) != {self._told.node}

    def _seen(self, answers: Sequence[Answer]) -> Seen:
        good = [answer for answer in answers if isinstance(answer, Found)]
        if not good:
            raise self._nothing([a for a in answers if isinstance(a, PublishError)])
        first = answers[0]
        self._before = first if isinstance(first, Found) else None
        nodes = [self._service.node(found) for found in good]
        agreed = nodes[0] if len(set(nodes)) == 1 else None
        named = {node for found in good for node in self._service.chosen(found)}
        return Seen(
            node=agreed,
            chosen=tuple(node for node in self._service.values if node in named),
            detail="; ".join(self._details(answers)),
            owner=good[0].owner,
            also=self._service.alike(agreed),
        )

    def _details(self, answers: Sequence[Answer]) -> list[str]:
        told: list[str] = []
        found = [self._service.node(a) for a in answers if isinstance(a, Found)]
        for source, answer in zip(self._sources, answers, strict=True):
            where = source.server.where
            if isinstance(answer, PublishError):
                told.append(str(answer))
                continue
            said = self._service.oddities(answer)
            if len(set(found)) > 1:
                said.insert(0, f"says {self._service.node(answer) or 'no one node'}")
            told += [f"{where}: {text}" for text in said]
        return list(dict.fromkeys(told))

    def _nothing(self, errors: Sequence[PublishError]) -> PublishError:
        text = "; ".join(dict.fromkeys(map(str, errors)))
        if all(isinstance(error, Unreachable) for error in errors):
            return self._unreachable(text)
        return self._error(text)

    def _error(self, text: str) -> PublishError:
        return PublishError(f"{self.name}: {text}")

    def _unreachable(self, text: str) -> Unreachable:
        return Unreachable(f"{self.name}: {text}")
