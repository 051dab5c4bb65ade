"""One port tried as far as its kind goes, and what it showed of itself.

`tcp` connects and waits a moment: a firewall may accept and then reset. `tls` shakes hands and
takes the certificate down, whoever signed it; `ssh` talks SSH without a login. What a node's own
agent sees at the port from inside is compared with what is seen from here: whatever sits in between
and speaks for the node shows another certificate, host key or greeting.

Source: guide lines 117, 130, 296; R31, R33, R73, R79.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from lb_probe.agent.connectivity import ssh
from lb_probe.agent.trust.wire import WireError, connect
from lb_probe.core.connectivity import Item
from lb_probe.ports import Clock
from lb_probe.prober import tls

_CLOSE_TO_END_S = 14 * 86400.0
# What must be the same from outside as from inside, and what it means when it is not.
_OWN_MARKS = {
    "fingerprint": "another certificate than the node itself sees there: TLS is inspected",
    "banner": "another greeting than the node itself sees there: SSH is inspected",
    "host_key": "another host key than the node itself sees there: SSH is inspected",
    "offers": "other algorithms than the node itself sees there: SSH is inspected",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """A port that is tried.

    Attributes:
        kind: tcp, tls or ssh.
        server_name: The name asked for in TLS; the host when empty.
    """

    host: str
    port: int
    kind: str
    server_name: str = ""

    @property
    def name(self) -> str:
        """The item's name."""
        return f"port {self.port}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How patiently.

    Attributes:
        timeout_s: For each answer.
        pause_s: Before each further exchange, and for how long a quiet connection must last.
    """

    timeout_s: float = 5.0
    pause_s: float = 1.0


async def attempt(tried: Tried, pace: Pace, clock: Clock) -> Item:
    """Try one port; whatever is wrong there is a value."""
    if tried.kind == "ssh":
        return await _ssh(tried, pace, clock)
    try:
        if tried.kind == "tls":
            return await _tls(tried, pace, clock)
        await _tcp(tried, pace)
    except WireError as error:
        return _failed(tried, error.phase, str(error))
    return Item(name=tried.name, verdict="ok", facts={"kind": tried.kind})


def _failed(tried: Tried, phase: str, detail: str, **facts: str) -> Item:
    return Item(
        name=tried.name,
        verdict="failed",
        phase=phase,
        detail=detail,
        facts={"kind": tried.kind, **facts},
    )


def compared(item: Item, inside: Mapping[str, str] | None) -> Item:
    """Return the item, failed where what was seen is not what the node itself sees there.

    Args:
        inside: The facts of the same port as the node's agent took them down; None for none.
    """
    if item.verdict == "failed" or inside is None:
        return item
    for key, meaning in _OWN_MARKS.items():
        here, there = item.facts.get(key), inside.get(key)
        if here and there and here != there:
            detail = f"found {meaning}; wanted {there}, found {here}"
            return Item(
                name=item.name, verdict="failed", phase="altered", detail=detail, facts=item.facts
            )
    return item


# ------------------------------------------------------------------ the three kinds
async def _tcp(tried: Tried, pace: Pace) -> None:
    """Raise WireError where it is not accepted, or accepted and reset."""
    sock = await connect(tried.host, tried.port, pace.timeout_s)
    with sock, contextlib.suppress(TimeoutError):
        try:
            async with asyncio.timeout(pace.pause_s):
                await asyncio.get_running_loop().sock_recv(sock, 1)
        except ConnectionError as error:
            detail = "found a connection that was accepted and then reset"
            raise WireError("reset", detail) from error


async def _tls(tried: Tried, pace: Pace, clock: Clock) -> Item:
    """Shake hands and take down who is there; raise WireError where that cannot be done."""
    sock = await connect(tried.host, tried.port, pace.timeout_s)
    try:
        async with asyncio.timeout(pace.timeout_s):
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=_any_context(), server_hostname=tried.server_name or tried.host
            )
    except TimeoutError as error:
        raise WireError("tls", f"found no handshake within {pace.timeout_s:g}s") from error
    except OSError as error:
        why = getattr(error, "reason", None) or error.strerror or type(error).__name__
        detail = f"found {str(why).replace('_', ' ').lower()}; wanted a TLS handshake"
        raise WireError("tls", detail) from error
    finally:
        # On success the connection is the writer's; a failure has closed it, or left it to us.
        if "writer" not in locals():
            sock.close()
    try:
        stream = writer.get_extra_info("ssl_object")
        facts = {"kind": "tls", **tls.facts(stream)}
        facts.pop("resumed", None)
        await _lasts(reader, pace.pause_s)
        until = tls.certificate_of(stream.getpeercert(binary_form=True)).until
        return _judged(tried, facts, until, clock.wall())
    finally:
        writer.transport.abort()


def _any_context() -> ssl.SSLContext:
    """Take any certificate: this test looks at it and trusts nothing that comes behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _lasts(reader: asyncio.StreamReader, seconds: float) -> None:
    """Raise WireError where the connection is reset this soon after the handshake."""
    with contextlib.suppress(TimeoutError):
        try:
            async with asyncio.timeout(seconds):
                await reader.read(1)
        except ssl.SSLError:
            pass  # one that wants a certificate of ours says so now: it is there
        except ConnectionError as error:
            raise WireError("reset", "found a reset after the handshake") from error


def _judged(tried: Tried, facts: Mapping[str, str], until: float | None, now: float) -> Item:
    if until is not None and until <= now:
        detail = f"found a certificate that expired at {facts['notAfter']}; renew it"
        return _failed(tried, "certificate", detail, **facts)
    if until is not None and until - now < _CLOSE_TO_END_S:
        detail = f"found a certificate that expires at {facts['notAfter']}; renew it soon"
        return Item(name=tried.name, verdict="warning", detail=detail, facts=facts)
    return Item(name=tried.name, verdict="ok", facts=facts)


async def _ssh(tried: Tried, pace: Pace, clock: Clock) -> Item:
    try:
        found = await ssh.talk(
            tried.host, tried.port, timeout_s=pace.timeout_s, pause_s=pace.pause_s, clock=clock
        )
    except ssh.SshError as error:
        return _failed(tried, error.phase, str(error))
    facts = {
        "kind": "ssh",
        "banner": found.banner,
        "host_key": found.host_key,
        "offers": found.offers,
        "exchanges": str(found.exchanges),
    }
    return Item(name=tried.name, verdict="ok", facts=facts)
