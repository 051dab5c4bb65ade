"""Asks an agent what it knows of its node: one question, one deadline, a report or why not.

As with pages, nothing is tried again: the next question comes soon, and an old report vouches for
nothing. With a secret only a signed answer to this very question is believed, and the question says
whether the node has the traffic: nobody else can tell an agent that.
"""

import asyncio
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lb_probe.core.agents import Heard
from lb_probe.core.holds import Holds, proof
from lb_probe.core.peer_report import CHALLENGE, PATH, SIGNATURE, PeerReport, parse, signature
from lb_probe.ports import Clock

if TYPE_CHECKING:
    from aiohttp import ClientSession

_BODY_CAP = 64 * 1024
_CHALLENGE_CAP = 200


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


async def ask(
    agent: Agent,
    session: "ClientSession",
    clock: Clock,
    word: Holds = Holds.UNKNOWN,
    challenge: str = "",
) -> Heard:
    """Ask once; nothing an agent does raises.

    Args:
        word: Whether its node has the traffic: it is told, where there is a secret to seal it with.
        challenge: What its last answer brought; empty tells nothing.
    """
    at = clock.monotonic()
    try:
        async with asyncio.timeout(agent.timeout_s):
            report, following = await _report(agent, session, _told(agent, word, challenge))
            return Heard(report, at, challenge=following)
    except TimeoutError:
        return Heard(None, at, f"no report within {agent.timeout_s:g}s")
    except Exception as error:  # somebody else's world: whatever it does, it said nothing
        text = f"no report: {type(error).__name__}: {error}"
        return Heard(None, at, "".join(c if c.isprintable() else "?" for c in text)[:200])


def _told(agent: Agent, word: Holds, challenge: str) -> dict[str, str]:
    if not agent.secret or not challenge:
        return {}
    sealed = proof(agent.secret, challenge, agent.node, word)
    return {"holds": word.value, "challenge": challenge, "proof": sealed}


async def _report(
    agent: Agent, session: "ClientSession", told: dict[str, str]
) -> tuple[PeerReport, str]:
    host = f"[{agent.host}]" if ":" in agent.host else agent.host
    nonce = secrets.token_hex(16)
    url = f"http://{host}:{agent.port}{PATH}"
    query = {"nonce": nonce} | told
    async with session.get(url, params=query, allow_redirects=False) as response:
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
    document = json.loads(body)
    report = parse(document)
    if report.node != agent.node:
        raise ValueError(f"found the report of {report.node!r}; wanted that of {agent.node}")
    challenge = document.get(CHALLENGE)
    return report, challenge[:_CHALLENGE_CAP] if isinstance(challenge, str) else ""
