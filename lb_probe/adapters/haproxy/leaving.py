"""Workers that leave after a reload, seen and ended through HAProxy's master.

A reload leaves the old worker to its sessions. It hears nothing of what the new one is told: its
servers cannot be changed any more (`Proxy is disabled.`), it runs no checks, and a client that
keeps its connection goes on to the node that traffic was moved away from. Only the master reaches
it. `hard-stop-after` in HAProxy's configuration bounds how long that can last.

Source: HAProxy management guide, section 9.4 (master CLI).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lb_probe.adapters.haproxy import answers
from lb_probe.adapters.haproxy.answers import UnbelievableError
from lb_probe.adapters.haproxy.wire import Address, RuntimeApi, UnfinishedError
from lb_probe.adapters.haproxy.words import quoted
from lb_probe.ports import PublishError

_AT_ONCE = 64  # sessions ended by one line; each names its worker again


@dataclass(frozen=True, slots=True)
class Leaving:
    """What the master says.

    Attributes:
        reloads: Since it started; None where it cannot be asked.
        workers: For each leaving worker's pid the sessions on each (backend, server).
        problem: Why nothing is known; empty where something is.
    """

    reloads: int | None = None
    workers: Mapping[int, Mapping[tuple[str, str], int]] = field(default_factory=dict)
    problem: str = ""


class Master:
    """A master's command socket. One connection carries one line here as well.

    Raises:
        ValueError: An address or a time that cannot be.
    """

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self._api = RuntimeApi(address, timeout_s=timeout_s, half_close=True)
        self._where = self._api.where

    async def look(self) -> Leaving:
        """Ask who leaves, and what each still has. A failure is told in `problem`."""
        try:
            reloads, pids = answers.workers(_one(await self._api.ask("show proc")))
            found = {pid: await self._sessions(pid) for pid in pids}
        except (PublishError, UnfinishedError, UnbelievableError) as exc:
            return Leaving(problem=f"the master at {self._where} cannot be asked: {exc}")
        return Leaving(reloads, {pid: some for pid, some in found.items() if some is not None})

    async def _sessions(self, pid: int) -> Mapping[tuple[str, str], int] | None:
        reply = await self._api.ask(f"@!{pid} show stat -1 4 -1")
        if reply.startswith(b"Can't "):
            return None  # gone meanwhile
        return {
            server: stat.in_flight
            for server, stat in answers.stats(_one(reply)).items()
            if stat.in_flight
        }

    async def end(self, leaving: Leaving, is_theirs: Callable[[str, str], bool]) -> int:
        """End the sessions on servers for which `is_theirs(backend, server)`; tell how many.

        `shutdown sessions server` is refused by a leaving worker: each session is ended by its id.

        Raises:
            PublishError: It cannot be told that they were ended.
        """
        ended = 0
        try:
            for pid, servers in leaving.workers.items():
                if any(is_theirs(*server) for server in servers):
                    ended += await self._end(pid, is_theirs)
        except (PublishError, UnfinishedError) as exc:
            raise PublishError(f"the master at {self._where}: {exc}") from exc
        return ended

    async def _end(self, pid: int, is_theirs: Callable[[str, str], bool]) -> int:
        table = await self._api.ask(f"@!{pid} show sess")
        ids = [name for name, *server in answers.sessions(table) if is_theirs(*server)]
        for at in range(0, len(ids), _AT_ONCE):
            some = ids[at : at + _AT_ONCE]
            reply = await self._api.ask(";".join(f"@!{pid} shutdown session {s}" for s in some))
            # Gone meanwhile, session or worker, is as good as ended.
            told = reply.replace(b"No such session (use 'show sess').", b"").strip(b"\n")
            if told and not told.startswith(b"Can't "):
                raise PublishError(f"answered {quoted(told)}; wanted the sessions ended")
        return len(ids)


def _one(reply: bytes) -> bytes:
    # A master ends some answers with one empty line more.
    return reply.strip(b"\n")
