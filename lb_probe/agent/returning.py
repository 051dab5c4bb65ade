"""A node that starts as Primary asks its peer first, and makes way for one that was promoted.

Only where HA is enabled: without it an agent serves its pages and nothing else (R68). Until it
knows, both pages say ERROR, for a few seconds at most: a peer that is silent is no reason to stay
away (X22). A quarantine is saved, and ended by an operator only: `failover mode primary`
or `failover mode secondary` (X11, X12). Two Primaries that meet later are told of and not touched:
one of them has the traffic, and from here it cannot be told which.
"""

import asyncio
from collections.abc import Iterable, Mapping

from lb_probe.agent.node import Node, Part, Reading
from lb_probe.agent.peer import PeerError
from lb_probe.agent.peer_pages import Look, PeerPages
from lb_probe.agent.state import Quarantine, StateError
from lb_probe.agent.trust.standing import Clock, by_page, tell_peers_clock
from lb_probe.core.clock_offset import Limits
from lb_probe.core.model import Gate, Mode, Page, Role
from lb_probe.core.returning import Reign, must_yield
from lb_probe.core.scenario import Standing, scenario

ASK_S = 5.0
# A peer that answers and cannot say yet, because its agent starts as well, is waited for longer.
ANSWERING_S = 20.0
AGAIN_S = 0.5
_KEY = "returning"
_OTHER = {Role.PRIMARY: Role.SECONDARY, Role.SECONDARY: Role.PRIMARY}


class Returning(Part):
    """The question to the peer at the start, and the watch for two Primaries after it.

    The peer is this node's other half, whatever its role in a group of three: a node in another
    site takes the Secondary it copies for its Primary (R37).

    Args:
        interval_s: Between two questions after the start.
    """

    name = "pair"

    def __init__(self, node: Node, peer: PeerPages, interval_s: float) -> None:
        self._node = node
        self._peer = peer
        self._interval_s = interval_s
        self._seen = Reign(_OTHER[node.role], None)
        self._look: Look | None = None
        self._peer_kept_out = False
        self._is_dual = False
        self._clock = Clock()
        self._told_clock = self._clock.severity
        node.demote_guards.append(self._another_primary)
        state = node.state
        if state.ha.is_on and state.mode is Mode.PRIMARY and state.quarantine is None:
            # Before a page is served for the first time.
            node.pages.obstacles[_KEY] = f"asking {peer.name} which mode it is in"

    def status(self) -> Mapping[str, object]:
        """Return the row of Table 1 that the pair is in, and both nodes in its words."""
        own, peer = self._standings()
        found = scenario(own, peer)
        look, now = self._look, self._node.clock.monotonic()
        age_s = None if look is None else round(max(0.0, now - look.started_at), 3)
        return {
            "row": found.row,
            "text": found.text,
            "promoted": found.promoted,
            "serving": found.serving,
            "dual_primary": self._is_dual,
            **({} if self._node.peer else {"clock": self._clock.view}),
            "nodes": [_shown(own, 0.0), _shown(peer, age_s)],
        }

    def _standings(self) -> tuple[Standing, Standing]:
        node, look = self._node, self._look
        state = node.state
        serves = node.pages.view(Page.STATUS).code == 200
        own = Standing(node.name, node.role, state.mode, serves, True, state.quarantine is not None)
        peer = Standing(
            self._peer.name,
            _OTHER[node.role],
            self._seen.mode or (look.mode if look else None),
            look.serves if look else False,
            look.is_answering if look else False,
            self._peer_kept_out,
        )
        return own, peer

    def gauges(self) -> Iterable[Reading]:
        """Return whether two Primaries were seen."""
        yield Reading("dual_primary", "Both nodes say Primary", self._is_dual, {})

    async def run(self) -> None:
        """Settle the start, then watch while this node is Primary."""
        node = self._node
        if _KEY in node.pages.obstacles:
            await self._settle()
        while True:
            news = node.news
            await self._watch()
            await node.clock.wait(news, self._interval_s)

    async def ask(self) -> Reign:
        """Ask the peer's agent and its page, and return what is known of it as Primary."""
        look = self._look = await self._peer.look()
        self._seen = await self._with_report(look)
        return self._seen

    # -------------------------------------------------------------- at the start
    async def _settle(self) -> None:
        """Ask until the peer says something, or until it is clear that it does not."""
        node = self._node
        began = node.clock.monotonic()
        while True:
            peer = await self.ask()
            look = self._look
            passed_s = node.clock.monotonic() - began
            if peer.mode is not None:
                break
            if passed_s > (ANSWERING_S if look and look.is_answering else ASK_S):
                node.emit("agent.peer-silent", peer=self._peer.name)
                break
            await node.clock.sleep(AGAIN_S)
        if must_yield(self._own(), peer):
            await self._quarantine()
        node.pages.obstacles.pop(_KEY, None)
        node.pages.refresh()

    async def _quarantine(self) -> None:
        node, name = self._node, self._peer.name
        reason = (
            f"{name} says Primary and was made so later; this node came back with older data:"
            " decide by `failover mode secondary` and a sync, or `failover mode primary`"
        )
        found = Quarantine(peer=name, reason=reason, since_wall=node.clock.wall())
        told = ""
        while True:
            try:
                await node.save(lambda now: {"quarantine": found})
                break
            except StateError as error:
                # Not saved is not forgotten: the pages stay at ERROR until it is.
                if str(error) != told:  # the same again is told once
                    told = str(error)
                    node.emit("agent.state-failed", detail=told)
                await node.clock.sleep(ASK_S)
        node.emit("agent.quarantined", peer=name, reason=reason)

    def _own(self) -> Reign:
        state = self._node.state
        since = 0.0 if state.cause == "role" else state.since_wall
        return Reign(self._node.role, state.mode, since)

    async def _with_report(self, look: Look) -> Reign:
        role = self._seen.role
        self._peer_kept_out = False
        if self._node.peer is not None:
            try:
                report = await self._node.peer.report()
            except PeerError:
                pass  # then its page is all there is
            else:
                self._peer_kept_out = bool(report.quarantine)
                if report.mode is not None and not report.quarantine:
                    return Reign(role, report.mode, report.promoted_at or 0.0)
        return Reign(role, look.mode)

    # -------------------------------------------------------------- afterwards
    async def _look_at_clock(self) -> None:
        """Measure the peer's clock by its page, where the agents do not do better (R11)."""
        node = self._node
        if node.peer is not None:
            return
        offset = await self._peer.clock(node.clock.wall)
        self._clock = by_page(self._peer.name, offset, Limits()) if offset else Clock()
        told = tell_peers_clock(node, self._peer.name, self._told_clock, self._clock)
        self._told_clock = told

    async def _watch(self) -> None:
        peer, _ = await asyncio.gather(self.ask(), self._look_at_clock())
        is_dual = self._judged_dual(peer)
        if is_dual != self._is_dual:
            self._is_dual = is_dual
            if is_dual:
                self._node.emit("agent.dual-primary", peer=self._peer.name)
            else:
                self._node.emit("agent.dual-primary-over", peer=self._peer.name)

    def _judged_dual(self, peer: Reign) -> bool:
        """Tell whether both are Primary; a peer that says nothing may still be one."""
        state, look = self._node.state, self._look
        if state.mode is not Mode.PRIMARY or state.quarantine is not None:
            return False
        if peer.mode is not None:
            return peer.mode is Mode.PRIMARY
        gave_up = look is not None and look.is_answering and not look.serves
        return self._is_dual and not gave_up and not self._peer_kept_out

    async def _another_primary(self) -> Gate:
        """Judge whether somebody else serves when this node stands by (R121, fact 7)."""
        peer = await self.ask()
        said = peer.mode.value if peer.mode else "nothing"
        return Gate(
            "another-primary",
            peer.mode is Mode.PRIMARY,
            f"{self._peer.name} says {said}",
            f"{self._peer.name} in mode primary: it takes the traffic, and has the newest data",
        )


def _shown(standing: Standing, age_s: float | None) -> Mapping[str, object]:
    return {
        "name": standing.name,
        "role": standing.role.value,
        "mode": standing.mode.value if standing.mode else "unknown",
        "state": standing.state,
        "serves": standing.serves,
        "quarantined": standing.is_quarantined,
        "age_s": age_s,
    }
