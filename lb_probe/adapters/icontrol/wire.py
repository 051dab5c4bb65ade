"""HTTPS to one unit: one request, one deadline, and why there was no answer.

Addresses are built by segment: a route domain (`%10`) must arrive as `%2510`, or it would be a
control character. No redirect is followed, no cookie kept, no proxy of the environment used.
"""

import asyncio
import json
import ssl
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from lb_probe.adapters.icontrol.answers import SHOWN, Json
from lb_probe.core.status_page import printable
from lb_probe.ports import PublishError, Unreachable

LARGEST_ANSWER = 8 << 20
CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, not judged yet.

    Attributes:
        location: Where a redirect leads; empty where it is none.
    """

    status: int
    raw: bytes = field(repr=False)
    location: str


class Wire:
    """The connections to one unit.

    Attributes:
        host: How the unit is called in messages.
        returns: Grows when it answers again after it took no connections.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, server_name: str | None) -> None:
        self._url = URL(url)
        self.host = self._url.authority
        self.returns = 0
        self._is_gone = False
        self._tls = tls
        self._server_name = server_name
        self._session: aiohttp.ClientSession | None = None

    async def exchange(
        self,
        method: str,
        path: tuple[str, ...],
        body: Json | None,
        query: dict[str, str],
        headers: dict[str, str],
        timeout_s: float,
    ) -> Answer:
        """Send one request, once, and return the whole answer.

        Args:
            path: Segments behind /mgmt; a full path as /Common/epmm is one of them.

        Raises:
            Unreachable: No connection, or no whole answer in time.
            PublishError: More than anybody would send.
        """
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._opened().request(
                    method,
                    self._address(path, query),
                    data=None if body is None else json.dumps(body),
                    headers={"Content-Type": "application/json", **headers},
                    allow_redirects=False,
                    server_hostname=self._server_name,
                ) as answer,
            ):
                raw = await self._whole(answer)
        except TimeoutError:
            raise Unreachable(f"{self.host}: no answer within {timeout_s:g}s") from None
        except (aiohttp.ClientError, OSError) as error:
            self._is_gone |= _is_no_connection(error)
            raise Unreachable(f"{self.host}: {_why(error)}") from None
        self.returns += self._is_gone
        self._is_gone = False
        location = answer.headers.get("Location", "").partition("?")[0]
        return Answer(answer.status, raw, location if 300 <= answer.status < 400 else "")

    async def close(self) -> None:
        """End the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _address(self, path: tuple[str, ...], query: dict[str, str]) -> URL:
        url = self._url / "mgmt"
        for segment in path:
            url /= segment.replace("/", "~")
        return url.with_query(query) if query else url

    async def _whole(self, answer: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for piece in answer.content.iter_any():
            raw += piece
            if len(raw) > LARGEST_ANSWER:
                raise PublishError(f"{self.host}: found more than {LARGEST_ANSWER} bytes")
        return bytes(raw)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


def _is_no_connection(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
        error, aiohttp.ClientSSLError
    )


def _why(error: Exception) -> str:
    """Say why there is no answer, in words that name no address twice."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        text = getattr(cause, "verify_message", "") or str(cause)
        return f"certificate not taken: {printable(text, SHOWN)}; compare `tls`"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return printable(str(cause.strerror or cause), SHOWN)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "closed the connection without an answer"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    return printable(str(error) or type(error).__name__, SHOWN)
