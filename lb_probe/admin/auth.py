"""Who may do what: tokens and sessions on TCP, the kernel's word on the UNIX socket.

A browser comes with a session: it logs in with a token once and gets a cookie that no script and
no other site can use. What a session asks to change must come from our own page.

Source: DESIGN section 7; OWASP ASVS 5.0, 3.3, 3.5, 6.3, 7.2 and 11.2.4.
"""

import hmac
import math
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lb_probe.core.rank import Rank

COOKIE = "__Host-lb-probe"
SESSION_S = 12 * 3600.0
IDLE_S = 3600.0
MAX_SESSIONS = 1000
FAILURES = 10  # of one address within a minute; then it waits
WINDOW_S = 60.0
MAX_STRANGERS = 10_000


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who was recognised.

    Attributes:
        groups: The groups he may see and act on; empty for all.
    """

    name: str
    rank: Rank
    groups: frozenset[str] = field(default_factory=frozenset)

    def may_see(self, group: str) -> bool:
        """Tell whether this group is within his scope."""
        return not self.groups or group in self.groups


@dataclass(frozen=True, slots=True)
class Operator:
    """One configured operator with the token as read from its file."""

    name: str
    rank: Rank
    token: str


def bearer(header: str | None) -> str:
    """Return the token of an Authorization header; empty for none (RFC 6750)."""
    kind, _, token = (header or "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def by_token(operators: Sequence[Operator], token: str) -> Actor | None:
    """Return which configured operator comes with this token; None for nobody.

    Every token is compared, in constant time, so that the answer's time tells nothing.
    """
    given = token.encode(errors="surrogateescape")  # any byte may come in a header
    found: Actor | None = None
    for operator in operators:
        if hmac.compare_digest(given, operator.token.encode()):
            found = Actor(operator.name, operator.rank)
    return found if given else None


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


# ------------------------------------------------------------------ browsers
@dataclass(slots=True)
class _Session:
    token: str
    ends_at: float
    idle_at: float


class Sessions:
    """Browsers that logged in; kept in memory, so that a restart ends them.

    A session is only as good as the token it began with: it is looked up anew each time, so that
    a revoked one ends its sessions too.

    Args:
        now: Tells monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._open: dict[str, _Session] = {}

    def begin(self, token: str) -> str:
        """Begin a session for whoever has this token; return the cookie's value."""
        now = self._now()
        gone = [k for k, one in self._open.items() if now >= min(one.ends_at, one.idle_at)]
        for key in gone:
            del self._open[key]
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]  # the oldest
        key = secrets.token_urlsafe(32)
        self._open[key] = _Session(token, now + SESSION_S, now + IDLE_S)
        return key

    def token(self, cookie: str) -> str:
        """Return the token behind a cookie; empty where the session is over."""
        found, now = self._open.get(cookie), self._now()
        if found is None or now >= min(found.ends_at, found.idle_at):
            self.end(cookie)
            return ""
        found.idle_at = now + IDLE_S
        return found.token

    def end(self, cookie: str) -> None:
        """End a session."""
        self._open.pop(cookie, None)


def is_from_our_page(headers: Mapping[str, str]) -> bool:
    """Tell whether a browser says that our own page sent this, and no other site's.

    Source: Fetch Metadata Request Headers, `Sec-Fetch-Site`; OWASP ASVS 5.0, 3.5.1.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("Origin", "")
    return origin.partition("://")[2] == headers.get("Host", "") != ""


# ------------------------------------------------------------------ guessing
class Failures:
    """How often each address failed to come in of late.

    Args:
        now: Tells monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failed: dict[str, deque[float]] = {}

    def wait_s(self, remote: str) -> float:
        """Return the seconds this address has to wait; 0 where it may try."""
        times, now = self._failed.get(remote), self._now()
        while times and now - times[0] >= WINDOW_S:
            times.popleft()
        if not times or len(times) < FAILURES:
            return 0.0
        return math.ceil(times[0] + WINDOW_S - now)

    def note(self, remote: str) -> None:
        """Count one failure."""
        times = self._failed.pop(remote, deque(maxlen=FAILURES))
        times.append(self._now())
        self._failed[remote] = times  # the newest last
        while len(self._failed) > MAX_STRANGERS:
            del self._failed[next(iter(self._failed))]
