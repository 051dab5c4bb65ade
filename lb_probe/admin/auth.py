"""Who may do what: bearer tokens on TCP, the kernel's word on the UNIX socket.

Source: DESIGN section 7; OWASP ASVS 5.0, 11.2.4 (constant-time comparison).
"""

import hmac
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class Rank(IntEnum):
    """What a role may do; a higher one may do all a lower one may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who was recognised."""

    name: str
    rank: Rank


@dataclass(frozen=True, slots=True)
class Operator:
    """One configured operator with the token as read from its file."""

    name: str
    rank: Rank
    token: str


def by_token(operators: Sequence[Operator], header: str | None) -> Actor | None:
    """Return who this Authorization header is from; None for nobody.

    Every token is compared, in constant time, so that the answer's time tells nothing.
    """
    kind, _, token = (header or "").partition(" ")
    given = token.strip().encode(errors="surrogateescape")  # any byte may come in a header
    found: Actor | None = None
    for operator in operators:
        if hmac.compare_digest(given, operator.token.encode()):
            found = Actor(operator.name, operator.rank)
    return found if kind.lower() == "bearer" and given else None


def by_peer(sock: socket.socket) -> Actor | None:
    """Return who is at the other end of a UNIX socket: root and our own user are admins.

    Source: unix(7), SO_PEERCRED.
    """
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid == 0:
        return Actor("root", Rank.ADMIN)
    if uid == os.geteuid():
        return Actor(f"uid-{uid}", Rank.ADMIN)
    return None
