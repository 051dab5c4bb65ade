"""Asks a node for one page and judges the answer.

`Engine` asks many targets at a time, in callbacks; `probe` is one attempt for a caller that awaits;
`inspect` is one as well, with everything written down for a person. Each attempt has one deadline
for all of it: name, connection, TLS, first byte, body. A failure is a value with the phase it
happened in; `core.status_page` judges.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from lb_probe.core.model import Observation
from lb_probe.prober import tls
from lb_probe.prober.answer import BODY_CAP, HEAD_CAP, WIRE_CAP, Reading
from lb_probe.prober.attempt import Attempt as Handle
from lb_probe.prober.engine import Engine
from lb_probe.prober.link import connect_failed
from lb_probe.prober.names import Endpoint, Names, Resolve, resolve
from lb_probe.prober.target import Target
from lb_probe.prober.tls import TlsSettings, make_ssl_context

__all__ = [
    "BODY_CAP",
    "HEAD_CAP",
    "WIRE_CAP",
    "Engine",
    "Handle",
    "Report",
    "Target",
    "TlsSettings",
    "inspect",
    "make_ssl_context",
    "probe",
]

_RAW_CAP = HEAD_CAP + BODY_CAP


async def probe(
    target: Target, *, clock: Callable[[], float], resolve: Resolve = resolve
) -> Observation:
    """Ask once and return what came of it; nothing a peer does raises.

    Args:
        clock: Monotonic seconds, to stamp the observation.
        resolve: Blocking look-up of a name, run in a thread.
    """
    names = Names(clock, resolve=resolve)
    try:
        return await _once(target, clock, names, None)
    finally:
        names.close()


async def _once(
    target: Target, clock: Callable[[], float], names: Names, trace: "_Trace | None"
) -> Observation:
    try:
        engine = Engine(clock, names=names)
    except OSError as error:  # no descriptor is left
        now = clock()
        return Observation(target.node, target.page, now, now, connect_failed(error))
    ended: asyncio.Future[Observation] = asyncio.get_running_loop().create_future()
    try:
        engine.start(target, partial(_tell, ended), trace)
        return await ended
    finally:
        engine.close()


def _tell(ended: asyncio.Future[Observation], observation: Observation) -> None:
    if not ended.done():  # else the caller was cancelled a moment ago
        ended.set_result(observation)


@dataclass(frozen=True, slots=True)
class Report:
    """One attempt with all that was seen on the way.

    Attributes:
        phases: Seconds each phase took, of name, connect, tls, first-byte and body, as far as
            the attempt came; the last one is where it ended.
        tls: Facts of the connection: version, cipher, resumed, subject, issuer, names, notAfter,
            fingerprint; empty without TLS, or where no handshake was made.
        headers: Of the answer, as they came; unsafe to print as they are.
        raw: The answer as it was received, the first 96 KiB.
        address: Where the connection was made to; empty where none was.
        request: What was sent.
    """

    observation: Observation
    phases: Mapping[str, float]
    tls: Mapping[str, str]
    headers: tuple[tuple[str, str], ...]
    raw: bytes
    address: str
    request: bytes


async def inspect(target: Target, *, clock: Callable[[], float], names: Names) -> Report:
    """Ask once, on a fresh connection, and write down everything; nothing a peer does raises."""
    trace = _Trace(clock())
    observation = await _once(target, clock, names, trace)
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in trace.headers
    )
    return Report(
        observation,
        MappingProxyType(trace.phases),
        MappingProxyType(trace.tls),
        headers,
        bytes(trace.raw),
        trace.address,
        target.request,
    )


@dataclass(slots=True)
class _Trace:
    """What the engine tells of an attempt while it runs."""

    at: float
    phases: dict[str, float] = field(default_factory=dict)
    tls: dict[str, str] = field(default_factory=dict)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    address: str = ""

    def mark(self, phase: str, now: float) -> None:
        self.phases[phase] = now - self.at
        self.at = now

    def connected(self, endpoint: Endpoint) -> None:
        host, port = endpoint[1][:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def encrypted(self, stream: ssl.SSLObject) -> None:
        self.tls.update(tls.facts(stream))

    def received(self, data: bytes) -> None:
        self.raw += data[: _RAW_CAP - len(self.raw)]

    def read(self, reading: Reading) -> None:
        self.headers = reading.lines
