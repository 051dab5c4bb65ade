"""Looks around before a sync: the peer's word, both versions, and what is going on here."""

import asyncio

from lb_probe.agent.node import Node
from lb_probe.agent.peer import PeerError
from lb_probe.agent.replication.settings import Settings
from lb_probe.core.peer_report import PeerReport
from lb_probe.core.sync_gates import SyncWorld
from lb_probe.ports import LbProbeError

REFRESH_S = 15.0


async def look_around(
    node: Node,
    settings: Settings,
    *,
    source: str,
    running: str,
    unrecordable: str,
    stopped: str,
) -> SyncWorld:
    """Return the world that the gates of a sync judge, as it is now.

    Args:
        source: What the operator called the node to copy from.
        running: What is under way already; empty for nothing.
        unrecordable: Why runs cannot be put on record; empty while they can.
        stopped: Why the schedule does not run; empty while it does.
    """
    fault = await _refreshed(node)
    report, why_not = await _peer(node)
    own, state = node.report(), node.state
    return SyncWorld(
        node=node.name,
        peer=settings.peer,
        source=source,
        addresses=settings.addresses,
        mode=state.mode,
        holds_traffic=own.holds_traffic,
        silent_s=node.traffic.silent_s if node.traffic else None,
        lineage=state.lineage(node.clock.wall()),
        running=running,
        unrecordable=unrecordable,
        report=report,
        why_not=why_not,
        version="" if fault else own.version or "",
        version_fault=fault,
        ha_on=state.ha.is_on,
        good_by_hand=state.data.by_hand,
        salvages=settings.salvage_command is not None,
        scheduler_stopped=stopped,
    )


async def _refreshed(node: Node) -> str:
    """Renew what we say of ourselves; return why that failed, or an empty text."""
    try:
        async with asyncio.timeout(REFRESH_S):
            await node.refresh()
    except TimeoutError:
        return f"not known within {REFRESH_S:g}s"
    except LbProbeError as error:
        return str(error)
    return ""


async def _peer(node: Node) -> tuple[PeerReport | None, str]:
    if node.peer is None:
        return None, "no peer is trusted yet: lb-probe agent trust"
    try:
        return await node.peer.report(), ""
    except PeerError as error:
        return None, str(error)
