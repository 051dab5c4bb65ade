"""Whether this node may be powered down: not while a sync runs at either end (R12)."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lb_probe.agent.control import Caller, Command, Json, Request
from lb_probe.agent.node import Node, Part
from lb_probe.agent.peer import PeerError
from lb_probe.agent.replication.around import REFRESH_S
from lb_probe.core.model import Gate
from lb_probe.ports import LbProbeError


class SafeToStop(Part):
    """The command `safe-to-stop`; every agent has it, for its peer may be copying from here."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def commands(self) -> Sequence[Command[Any]]:
        """Return `safe-to-stop`."""
        return (Command(name="safe-to-stop", request=Request, answer=self._answer),)

    async def _answer(self, request: Request, caller: Caller) -> Json:
        with contextlib.suppress(TimeoutError, LbProbeError):
            async with asyncio.timeout(REFRESH_S):
                await self._node.refresh()
        gates = (self._here(), await self._there())
        return {
            "version": 1,
            "node": self._node.name,
            "safe": all(gate.passed for gate in gates),
            "gates": [asdict(gate) for gate in gates],
        }

    def _here(self) -> Gate:
        name = self._node.name
        is_busy = bool(self._node.report().is_syncing)
        found = f"a sync writes to {name}" if is_busy else f"no sync writes to {name}"
        return Gate("no-sync-here", not is_busy, found, "to wait until it has ended", "", "")

    async def _there(self) -> Gate:
        peer = self._node.peer
        if peer is None:
            return Gate("no-sync-at-peer", True, "no peer copies from here", "", "", "")
        wanted = f"to wait until {peer.name} has ended its sync, or to know that none runs there"
        try:
            is_busy = (await peer.report()).is_syncing
        except PeerError as error:
            return Gate("no-sync-at-peer", False, f"nothing is known: {error}", wanted, "", "")
        found = {
            True: f"a sync from here writes to {peer.name}",
            False: f"no sync writes to {peer.name}",
            None: f"{peer.name} does not say whether it syncs",
        }[is_busy]
        # One that never syncs has no such word: it copies nothing from here.
        return Gate("no-sync-at-peer", not is_busy, found, wanted, "", "")
