"""What is asked of a node: one page, or only a connection, and how."""

import re
import ssl
from dataclasses import dataclass, field
from typing import Literal

from lb_probe import __version__
from lb_probe.core.model import Page
from lb_probe.core.status_page import Expected

_UNSENDABLE = re.compile(r"[^!-~]")
_USUAL_PORT = {"http": 80, "https": 443}
_SCHEMES = {"http": False, "https": True, "tcp": False, "tls": True}  # and whether it has TLS
_REQUEST = (
    "GET {path} HTTP/1.1\r\n"
    "Host: {host}\r\n"
    f"User-Agent: lb-probe/{__version__}\r\n"
    "Accept: */*\r\n"
    "{connection}"
    "\r\n"
)
_CONNECTION = {"fresh": "Connection: close\r\n", "reuse": ""}


@dataclass(frozen=True, slots=True)
class Target:
    """One page of one node, and how to ask for it.

    Attributes:
        scheme: http or https; tcp or tls for a node without pages, where a connection (and
            handshake) is all that is wanted.
        host: Address to connect to, or a name.
        host_header: Sent as `Host` where no `server_name` is given; empty for host and port.
        server_name: The name in the certificate: SNI, verification and `Host`. Nodes of a pair
            share the certificate of the external name, so this differs from `host`.
        ssl_context: From `make_ssl_context`, for https and tls.
        timeout_s: Seconds for the whole attempt.
        accept_suffix: `primary_accept_suffix` of the configuration.
        expected: What passes instead of the guide's words; None for those.
        source: Address of this machine to connect from; the system chooses when None.
        connection: fresh for one connection each time; reuse to keep one.
        request: What is sent; empty for tcp and tls.

    Raises:
        ValueError: Something cannot be sent in a request, or https comes without a context.
    """

    group: str
    node: str
    page: Page
    scheme: str
    host: str
    port: int
    path: str
    host_header: str = ""
    server_name: str | None = None
    ssl_context: ssl.SSLContext | None = None
    timeout_s: float = 1.0
    accept_suffix: bool = False
    expected: Expected | None = None
    source: str | None = None
    connection: Literal["fresh", "reuse"] = "fresh"
    request: bytes = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if _SCHEMES.get(self.scheme) is not (self.ssl_context is not None):
            raise ValueError(
                f"scheme is {self.scheme}; use http, or https with an ssl_context,"
                " or tcp, or tls with an ssl_context"
            )
        if self.connection not in _CONNECTION:
            raise ValueError(f"connection is {self.connection}; use fresh or reuse")
        request = self._request() if self.scheme in _USUAL_PORT else b""
        object.__setattr__(self, "request", request)
        words = (self.group, self.node, self.page, self.scheme, self.host, self.port, self.path)
        object.__setattr__(self, "_hash", hash(words))

    def __hash__(self) -> int:
        # Computed once: the engine looks a target up for each probe.
        return self._hash

    def _request(self) -> bytes:
        host = self.server_name or self.host_header or self._authority()
        for text in (host, self.path):
            if not text or _UNSENDABLE.search(text):
                raise ValueError(f"found {text!r}; use printable ASCII without spaces")
        if not self.path.startswith("/"):
            raise ValueError(f"path is {self.path!r}; begin it with /")
        connection = _CONNECTION[self.connection]
        return _REQUEST.format(path=self.path, host=host, connection=connection).encode("ascii")

    def _authority(self) -> str:
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _USUAL_PORT[self.scheme] else f"{host}:{self.port}"
