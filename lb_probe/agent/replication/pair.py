"""The pair as either node sees it: what its partner is, when that was synced, may one be stopped.

Every agent has it, for its partner may be copying from here (R12, R98).
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lb_probe.agent.control import Caller, Command, Json, Request
from lb_probe.agent.node import Node, Part
from lb_probe.agent.peer import PeerError
from lb_probe.agent.replication.around import REFRESH_S
from lb_probe.agent.replication.words import moment
from lb_probe.core.model import Gate
from lb_probe.core.peer_report import PeerReport
from lb_probe.ports import LbProbeError

LOOK_S = 30.0
AGAIN_S = 3.0  # while it does not answer: a fault that is over must not stay on show


class Pair(Part):
    """The partner on show, and the command `safe-to-stop`.

    Args:
        address: Where the partner is, for people; empty where the file names none.
    """

    name = "partner"

    def __init__(self, node: Node, address: str) -> None:
        self._node = node
        self._address = address
        self._seen: PeerReport | None = None
        self._seen_wall = 0.0
        self._fault = "not asked yet"

    async def run(self) -> None:
        """Ask the partner now and then, for the status."""
        while True:
            if self._node.peer is not None:
                with contextlib.suppress(PeerError):
                    await self._ask()
            await self._node.clock.sleep(AGAIN_S if self._fault else LOOK_S)

    async def _ask(self) -> PeerReport:
        peer = self._node.peer
        assert peer is not None
        try:
            self._seen = await peer.report()
        except PeerError as error:
            self._fault = str(error)
            raise
        self._fault, self._seen_wall = "", self._node.clock.wall()
        return self._seen

    def status(self) -> Mapping[str, object]:
        """Return the partner: its place, what it does, when it was last synced (R98)."""
        peer, seen = self._node.peer, self._seen
        if peer is None:
            return {}
        good = seen.last_good_sync if seen is not None else None
        return {
            "name": peer.name,
            "address": self._address,
            "mode": seen.mode.value if seen is not None and seen.mode is not None else None,
            "state": seen.state if seen is not None else None,
            "syncing": seen.is_syncing if seen is not None else None,
            "last_synced": moment(good[0]) if good else None,
            "age_s": round(max(0.0, self._node.clock.wall() - good[0])) if good else None,
            "asked": moment(self._seen_wall) if seen is not None else None,
            "fault": self._fault,
        }

    def commands(self) -> Sequence[Command[Any]]:
        """Return `safe-to-stop`."""
        return (Command(name="safe-to-stop", request=Request, answer=self._answer),)

    # -------------------------------------------------------------- may it be stopped
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
            is_busy = (await self._ask()).is_syncing
        except PeerError as error:
            return Gate("no-sync-at-peer", False, f"nothing is known: {error}", wanted, "", "")
        found = {
            True: f"a sync from here writes to {peer.name}",
            False: f"no sync writes to {peer.name}",
            None: f"{peer.name} does not say whether it syncs",
        }[is_busy]
        # One that never syncs has no such word: it copies nothing from here.
        return Gate("no-sync-at-peer", not is_busy, found, wanted, "", "")
