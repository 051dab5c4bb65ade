"""Who is at the other end of the control socket, and what that user may do there (R125).

The kernel says who it is: user and groups as they were when the connection was made. Root and the
agent's own user may do everything; others have the role that probes.yaml gives their user or one
of their groups, the highest where it gives several. Names are looked up when somebody connects and
kept for a minute: a directory that is down must not keep an agent from starting.
"""

import asyncio
import grp
import math
import pwd
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lb_probe.core.rank import Rank
from lb_probe.ports import Clock

KEPT_S = 60.0
LOOK_UP_S = 5.0
_SO_PEERGROUPS = 59  # Linux 4.13; Python has no name for it
_MAX_BYTES = 1024  # what Python lets getsockopt return: 256 groups
# What the kernel shows in the place of an id that a user namespace does not know.
_NOBODY = 65_534


@dataclass(frozen=True, slots=True)
class Peer:
    """Who connected, as the kernel says.

    Attributes:
        groups: Ids of all groups of the process, its own one included.
    """

    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Grant:
    """A role for one user, or for everybody in one group of this machine."""

    kind: Literal["user", "group"]
    name: str
    rank: Rank

    @property
    def id(self) -> int | None:
        """What the machine calls it; None where it knows none of this name. Blocking."""
        try:
            if self.kind == "user":
                return pwd.getpwnam(self.name).pw_uid
            return grp.getgrnam(self.name).gr_gid
        except KeyError:
            return None


@dataclass(frozen=True, slots=True)
class Known:
    """The roles by ids, as they were looked up."""

    users: Mapping[int, Rank] = field(default_factory=dict)
    groups: Mapping[int, Rank] = field(default_factory=dict)

    def rank(self, peer: Peer) -> Rank:
        """Return the highest role of a peer."""
        if peer.uid == _NOBODY:
            return Rank.NONE  # whoever that is, it cannot be told from others
        found = [self.users.get(peer.uid, Rank.NONE)]
        found += [self.groups.get(one, Rank.NONE) for one in peer.groups - {_NOBODY}]
        return max(found)


class Roles:
    """The roles of one control socket."""

    def __init__(self, grants: Iterable[Grant], clock: Clock) -> None:
        self._grants = tuple(grants)
        self._clock = clock
        self._known = Known()
        self._looked_up_at = -math.inf
        self._look_up: asyncio.Future[Known] | None = None

    async def rank(self, peer: Peer) -> Rank:
        """Return what a peer may do; NONE as well where that cannot be looked up in time."""
        if self._clock.monotonic() - self._looked_up_at > KEPT_S and not await self._looked_up():
            return Rank.NONE
        return self._known.rank(peer)

    async def _looked_up(self) -> bool:
        """Look every name up; one that hangs takes one thread, however many callers wait."""
        look_up = self._look_up
        if look_up is None:
            loop = asyncio.get_running_loop()
            look_up = self._look_up = loop.run_in_executor(None, looked_up, self._grants)
        await asyncio.wait({look_up}, timeout=LOOK_UP_S)
        if not look_up.done():
            return False
        if self._look_up is look_up:  # else another caller was here first
            self._look_up = None
            if look_up.exception() is None:
                self._known, self._looked_up_at = look_up.result(), self._clock.monotonic()
        return look_up.exception() is None


def looked_up(grants: Iterable[Grant]) -> Known:
    """Return the roles by ids; a name that the machine does not know gives none. Blocking."""
    users: dict[int, Rank] = {}
    groups: dict[int, Rank] = {}
    for grant in grants:
        known = users if grant.kind == "user" else groups
        if (found := grant.id) is not None:
            known[found] = max(grant.rank, known.get(found, Rank.NONE))
    return Known(users, groups)


def peer_of(sock: socket.socket) -> Peer:
    """Return who made the connection of a UNIX socket."""
    ucred = struct.Struct("3i")
    said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size)
    _, uid, gid = ucred.unpack(said)
    return Peer(int(uid), frozenset([int(gid), *_groups(sock)]))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the other groups of the peer's process; none where it cannot be told, or too many."""
    try:
        said = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_BYTES)
    except OSError:
        return ()
    return struct.unpack(f"{len(said) // 4}I", said)
