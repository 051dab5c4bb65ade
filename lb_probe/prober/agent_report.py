"""Asks an agent what it knows of its node: one question, one deadline, a report or why not.

As with pages, nothing is tried again: the next question comes soon, and an old report vouches for
nothing. With a secret only a signed answer to this very question is believed.
"""

import asyncio
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lb_probe.core.agents import Heard
from lb_probe.core.peer_report import PATH, SIGNATURE, PeerReport, parse, signature
from lb_probe.ports import Clock

if TYPE_CHECKING:
    from aiohttp import ClientSession

_BODY_CAP = 64 * 1024


@dataclass(frozen=True, slots=True)
class Agent:
    """Where one node's agent reports.

    Attributes:
        secret: What the agent signs with; empty takes what it says as it is.
        timeout_s: For a question as a whole.
    """

    group: str
    node: str
    host: str
    port: int
    secret: bytes = field(default=b"", repr=False)
    timeout_s: float = 2.0


async def ask(agent: Agent, session: "ClientSession", clock: Clock) -> Heard:
    """Ask once; nothing an agent does raises."""
    at = clock.monotonic()
    try:
        async with asyncio.timeout(agent.timeout_s):
            return Heard(await _report(agent, session), at)
    except TimeoutError:
        return Heard(None, at, f"no report within {agent.timeout_s:g}s")
    except Exception as error:  # somebody else's world: whatever it does, it said nothing
        text = f"no report: {type(error).__name__}: {error}"
        return Heard(None, at, "".join(c if c.isprintable() else "?" for c in text)[:200])


async def _report(agent: Agent, session: "ClientSession") -> PeerReport:
    host = f"[{agent.host}]" if ":" in agent.host else agent.host
    nonce = secrets.token_hex(16)
    url = f"http://{host}:{agent.port}{PATH}?nonce={nonce}"
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"found status {response.status}; wanted 200")
        body = await response.content.read(_BODY_CAP)
        while len(body) < _BODY_CAP and (more := await response.content.read(_BODY_CAP)):
            body += more
        signed = response.headers.get(SIGNATURE, "")
    if agent.secret:
        wanted = signature(agent.secret, nonce, body)
        if not hmac.compare_digest(signed.encode(), wanted.encode()):
            raise ValueError("found no signature of the secret; check report.secret_file")
    report = parse(json.loads(body))
    if report.node != agent.node:
        raise ValueError(f"found the report of {report.node!r}; wanted that of {agent.node}")
    return report
