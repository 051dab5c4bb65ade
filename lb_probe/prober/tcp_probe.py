"""Tells whether something answers at all: a connection is made, and closed.

The same engine as for pages, with targets of scheme `tcp`.
"""

import asyncio

from lb_probe.core.model import Failed, Page
from lb_probe.prober.http_probe import probe
from lb_probe.prober.target import Target


async def connects(host: str, port: int, timeout_s: float) -> bool:
    """Tell whether a TCP connection to this address can be made within `timeout_s` seconds."""
    return await connect_failure(host, port, timeout_s) is None


async def connect_failure(host: str, port: int, timeout_s: float) -> Failed | None:
    """Make one TCP connection and close it; say what went wrong, or None.

    Args:
        timeout_s: Seconds for everything, the look-up of a name included.
    """
    loop = asyncio.get_running_loop()
    target = Target("", host, Page.STATUS, "tcp", host, port, "", timeout_s=timeout_s)
    outcome = (await probe(target, clock=loop.time)).outcome
    return outcome if isinstance(outcome, Failed) else None
