"""Looks names up in the background and remembers the last answer that was good.

A probe must not fail because a resolver is slow: an address that is known is used at once, and is
looked up again beside that. Only the first look-up of a name is waited for, inside the deadline of
the attempt that waits. Look-ups run in threads of their own, each name in one at most, because the
system's resolver blocks and cannot be stopped: one that hangs holds up nobody else.

Link-local addresses and those of cloud metadata services are never connected to, whoever names
them: a probe sends a request, and there the answer to a request is a secret.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

Endpoint = tuple[socket.AddressFamily, tuple[Any, ...]]
Resolve = Callable[[str, int], Sequence[Endpoint]]

REFRESH_S = 30.0  # an answer this old is looked up again
RETRY_S = 5.0  # after a look-up that failed
STALE_S = 300.0  # an answer this old is still used, and said to be old
MAX_THREADS = 32

_DENIED = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200/32", "fe80::/10", "fd00:ec2::254/128")
)


class NameFailedError(OSError):
    """A host name has no usable address; the text says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a name.

    Attributes:
        endpoints: Where to connect, at most one of each address family; empty after a failure.
        failure: Why there is none; empty where there is one.
        note: What an operator should know of the answer: that it is old, and why.
    """

    endpoints: tuple[Endpoint, ...] = ()
    failure: str = ""
    note: str = ""


Take = Callable[[Found], None]


def literal(host: str, port: int) -> Endpoint | None:
    """Return the endpoint of an IP address in text form, None for a name.

    Raises:
        NameFailedError: An address that is never connected to.

    >>> literal("192.0.2.1", 443)
    (<AddressFamily.AF_INET: 2>, ('192.0.2.1', 443))
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if reason := denied(host):
        raise NameFailedError(reason)
    if address.version == 4:
        return socket.AF_INET, (host, port)
    return socket.AF_INET6, (host.partition("%")[0], port, 0, 0)


def denied(address: str) -> str:
    """Say why this IP address is never connected to; empty where it may be.

    >>> denied("169.254.169.254")
    '169.254.169.254 is a link-local or metadata address; use an address of the node'
    """
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in _DENIED if network.version == ip.version):
        return f"{address} is a link-local or metadata address; use an address of the node"
    return ""


def resolve(host: str, port: int) -> Sequence[Endpoint]:
    """Ask the system's resolver; blocks, for as long as that takes.

    Returns:
        At most one endpoint of each address family, in the resolver's order: a host without IPv6
        is not a host that is down.

    Raises:
        NameFailedError: The name has no address, or is no name.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NameFailedError(f"{host}: {reason_of(error)}") from error
    first: dict[socket.AddressFamily, Endpoint] = {}
    for family, _, _, _, address in answers:
        first.setdefault(family, (family, address))
    return tuple(first.values())


def reason_of(error: OSError | UnicodeError) -> str:
    """Return the system's sentence for an error, without its number."""
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


def _look_up(resolve: Resolve, host: str, port: int) -> Found:
    """Ask, and leave out what is never connected to; never raises."""
    try:
        endpoints = tuple(resolve(host, port))
        refused = [reason for _, (address, *_) in endpoints if (reason := denied(address))]
        allowed = tuple(e for e in endpoints if not denied(e[1][0]))
    except Exception as error:  # a resolver plugged in may raise anything; the name has failed
        return Found(failure=str(error))
    if allowed:
        return Found(allowed)
    return Found(failure=f"{host}: {refused[0]}" if refused else f"{host}: no address")


class _Name:
    """One name: its last good answer, and who waits for the first one."""

    __slots__ = ("found", "good_at", "is_busy", "next_at", "trouble", "waiting")

    def __init__(self) -> None:
        self.found: Found | None = None
        self.good_at = 0.0
        self.next_at = 0.0
        self.is_busy = False
        self.trouble = ""
        self.waiting: list[Take] = []


class Names:
    """Answers from memory, and looks up behind the caller's back.

    Args:
        clock: Monotonic seconds.
        resolve: Blocking look-up of a host and port, run in threads; raises where it fails.
    """

    def __init__(self, clock: Callable[[], float], *, resolve: Resolve = resolve) -> None:
        self._clock = clock
        self._resolve = resolve
        self._names: dict[tuple[str, int], _Name] = {}
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._is_closed = False

    def find(self, host: str, port: int, take: Take) -> Found | None:
        """Return what is known of a name; None where `take` is called later, in this loop.

        A known answer that is old is returned as well, and looked up again meanwhile.
        """
        key = (host, port)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = _Name()
        now = self._clock()
        if not name.is_busy and (name.found is None or now >= name.next_at):
            self._refresh(key, name)
        if name.found is None:
            name.waiting.append(take)
            return None
        age = now - name.good_at
        if age < STALE_S:
            return name.found
        trouble = name.trouble or "the resolver does not answer"
        return Found(name.found.endpoints, note=f"address of {host} is {age:.0f}s old; {trouble}")

    def give_up(self, host: str, port: int, take: Take) -> None:
        """Wait no longer for an answer; the look-up goes on and is remembered."""
        name = self._names.get((host, port))
        if name is not None and take in name.waiting:
            name.waiting.remove(take)

    def close(self) -> None:
        """Let idle threads end; one that hangs ends when the resolver does, and blocks no exit."""
        self._is_closed = True
        for _ in range(self._threads):
            self._jobs.put(None)
        self._names.clear()

    # -------------------------------------------------------------- behind the caller's back
    def _refresh(self, key: tuple[str, int], name: _Name) -> None:
        name.is_busy = True
        loop = asyncio.get_running_loop()

        def job() -> None:
            found = _look_up(self._resolve, *key)
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(self._learn, key, found)

        self._busy += 1
        if self._busy > self._threads and self._threads < MAX_THREADS:
            thread = threading.Thread(target=self._work, name="names", daemon=True)
            try:
                thread.start()
                self._threads += 1
            except RuntimeError as error:  # the system has no more; the others will do the work
                if not self._threads:
                    loop.call_soon(self._learn, key, Found(failure=str(error)))
                    return
        self._jobs.put(job)

    def _work(self) -> None:
        while job := self._jobs.get():
            job()

    def _learn(self, key: tuple[str, int], found: Found) -> None:
        self._busy -= 1
        name = self._names.get(key)
        if name is None or self._is_closed:
            return
        name.is_busy = False
        now = self._clock()
        name.next_at = now + (RETRY_S if found.failure else REFRESH_S)
        name.trouble = found.failure
        if not found.failure:
            name.found, name.good_at = found, now
        waiting, name.waiting = name.waiting, []
        for take in waiting:
            take(found)
