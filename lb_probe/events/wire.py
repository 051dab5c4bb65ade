"""How a channel reaches its receiver: names, TLS, one connection, one HTTP request.

A resolver that hangs cannot be stopped, so look-ups have threads of their own, a few at most: no
other part of the process ever waits for one. Redirects are not followed, an environment's proxies
are not used: a message goes where the file says, or nowhere.

Source: docs.aiohttp.org "Client Quickstart"; RFC 9110 section 10.2.3 (Retry-After).
"""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from lb_probe.config import Url
from lb_probe.core.notice import one_line
from lb_probe.ports import NotDelivered

MAX_LOOKUPS = 8
MAX_ANSWER_BYTES = 64 * 1024
_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)

Place = tuple[socket.AddressFamily, tuple[Any, ...]]


async def places(host: str, port: int) -> list[Place]:
    """Return where a name points, in the system's order.

    Raises:
        OSError: It is not known, or too many look-ups hang already.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Place]] = loop.create_future()
    if not _lookups.acquire(blocking=False):
        raise OSError(f"{MAX_LOOKUPS} names are being looked up and none answers")

    def settle(places: list[Place] | None, error: OSError | None) -> None:
        if found.done():
            return
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(places or [])

    def look_up() -> None:
        answer: list[Place] | None = None
        error: OSError | None = None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer = [(info[0], info[4]) for info in infos]
        except (OSError, UnicodeError) as failed:
            error = failed if isinstance(failed, OSError) else OSError(str(failed))
        finally:
            _lookups.release()
        with suppress(RuntimeError):  # nobody waits any more: the loop has ended
            loop.call_soon_threadsafe(settle, answer, error)

    threading.Thread(target=look_up, name="notify-name", daemon=True).start()
    return await found


async def connected(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first place that answers.

    Raises:
        OSError: None does.
    """
    failed: OSError | None = None
    for family, address in await places(host, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failed or OSError(f"{host} has no address")


class _Resolver(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=0, flags=0)
            for kind, address in await places(host, port)
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        pass


class Trust:
    """The authorities that a receiver's certificate must come from; read anew after a failure."""

    def __init__(self, ca_file: Path | None = None) -> None:
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Return what verifies the receiver; reading all authorities takes a while, so a thread.

        Raises:
            NotDelivered: The file of authorities cannot be used.
        """
        if self._context is None:
            try:
                self._context = await asyncio.to_thread(self._make)
            except (OSError, ssl.SSLError) as error:
                raise NotDelivered(
                    f"ca_file {self._ca_file}: {error}; wanted a PEM file", is_busy=True
                ) from None
        return self._context

    def forget(self) -> None:
        """Read the file again next time: it may have been renewed."""
        self._context = None

    def _make(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server said.

    Attributes:
        wait_s: Seconds it asked to be left alone (Retry-After); None where it did not.
        text: The beginning of the body, one printable line.
    """

    status: int
    wait_s: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Way:
    """How HTTP requests go out.

    Attributes:
        proxy: An HTTP proxy that tunnels them; None for none.
        wall: UTC seconds since 1970, for a Retry-After that is a date.
    """

    trust: Trust
    proxy: str | None
    timeout_s: float
    wall: Callable[[], float]


async def request(
    way: Way, method: str, url: str, headers: Mapping[str, str], body: bytes | None
) -> Answer:
    """Send one request and return its answer; nothing of the url is in what is raised.

    Raises:
        NotDelivered: No answer came.
    """
    try:
        is_encrypted = Url.parse(url).scheme == "https"  # of a file, perhaps
    except ValueError as error:
        raise NotDelivered(f"its url cannot be used; wanted {error}", is_busy=True) from None
    timeout = aiohttp.ClientTimeout(total=way.timeout_s)
    context = await way.trust.context() if is_encrypted else True
    connector = aiohttp.TCPConnector(
        resolver=_Resolver(), ssl=context, force_close=True, use_dns_cache=False
    )
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.request(
                method, url, headers=headers, data=body, proxy=way.proxy, allow_redirects=False
            ) as answer,
        ):
            raw = await answer.content.read(MAX_ANSWER_BYTES)
            wait_s = _wait_s(answer.headers.get("Retry-After", ""), way.wall())
            return Answer(answer.status, wait_s, one_line(raw.decode("utf-8", "replace")))
    except aiohttp.ClientSSLError as error:
        way.trust.forget()
        found = one_line(str(getattr(error, "os_error", error)))
        raise NotDelivered(f"TLS: {found}", is_busy=True) from None
    except TimeoutError:
        raise NotDelivered(f"no answer within {way.timeout_s:g}s", is_busy=True) from None
    except (aiohttp.ClientError, OSError) as error:
        found = reason_of(getattr(error, "os_error", error))
        raise NotDelivered(f"no answer: {found}", is_busy=True) from None


def reason_of(error: Exception) -> str:
    """Return what the system says of a failed connection, in one line, without addresses."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return one_line(getattr(error, "strerror", None) or str(error)) or type(error).__name__


def _wait_s(text: str, wall: float) -> float | None:
    """Return the seconds of a Retry-After, a number or a date; None where it is neither."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, at.timestamp() - wall)
