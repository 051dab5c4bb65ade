"""The feature of an agent that keeps its peers known and in sight."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lb_probe.agent.node import Counted, Node, Part, Reading
from lb_probe.agent.pages import ListenError
from lb_probe.agent.trust.door import Door
from lb_probe.agent.trust.identity import TrustError
from lb_probe.agent.trust.kept import KeptError
from lb_probe.agent.trust.link import Answered, Link, LinkError
from lb_probe.agent.trust.ring import Ring
from lb_probe.agent.trust.standing import (
    Clock,
    Standing,
    Way,
    by_page,
    tell_peers_clock,
    told,
    told_offset,
)
from lb_probe.core import clock_offset
from lb_probe.core.clock_offset import ImpossibleClockError, Limits, Offset
from lb_probe.core.model import Gate
from lb_probe.core.status_page import printable

CLOCK_GATE = "clock"
_AGAIN_S = 5.0
_SETUP_S = 3600.0
_NO_TRUST = frozenset({"our-trust", "their-trust"})
_SEVERITIES = ("ok", "warning", "error", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """What `trust` in probes.yaml says.

    Attributes:
        peers: Every other node of the group that has an agent with `trust`: where it listens.
        partner: The one of them that is the node's peer; empty for none.
        page_clock: Asks a peer's page for its time, where its agent does not answer.
    """

    listen: tuple[str, int]
    folder: Path
    peers: Mapping[str, tuple[str, int]]
    partner: str = ""
    interval_s: float = 30.0
    timeout_s: float = 5.0
    clock: Limits = field(default=Limits())
    page_clock: Callable[[str], Awaitable[Offset | None]] | None = None


class Trust(Part):
    """Keys, pins, the door for peers, and a regular look at each of them.

    Attributes:
        ring: Our keys and pins.
        door: Where other features hang the questions they answer.
        links: Every peer by name.
        standings: How things stand with each.
    """

    name = "trust"
    counters: Sequence[Counted] = (
        Counted("peer_refusals", "Strangers at the door, as far as told", "agent.peer-refused"),
        Counted(
            "peer_losses", "A peer that was in sight no longer is", "agent.peer-lost", ("peer",)
        ),
        Counted("trust_changes", "Changes of keys and pins", "agent.trust-changed", ("change",)),
    )

    def __init__(self, node: Node, settings: TrustSettings) -> None:
        """Open nothing yet; become the node's way to its partner."""
        self.node = node
        self.settings = settings
        self.ring = Ring(settings.folder, node.name)
        self.door = Door(
            settings.listen,
            self.ring.server,
            node.clock,
            came=self._came,
            refused=lambda address, why: node.emit(
                "agent.peer-refused", address=address, detail=why
            ),
        )
        self.links = {
            name: Link(node.name, name, address, self.ring.client, node.clock, settings.timeout_s)
            for name, address in settings.peers.items()
        }
        self.standings = {name: Standing() for name in self.links}
        self._met: set[str] = set()
        self._missed: set[str] = set()  # people were told that trust is missing
        self._told_fault = ""
        self.door.answer("report", self._report)
        self.door.answer("clock", self._clock)
        self.door.answer("contact", self._contact)
        node.peer = self.links.get(settings.partner)
        if node.peer is not None:
            node.sync_guards.append(self.clock_gate)

    @property
    def partner(self) -> Link | None:
        """The peer that the node's other features mean."""
        return self.links.get(self.settings.partner)

    # -------------------------------------------------------------- work
    async def run(self) -> None:
        """Let peers in, and look at each of them, until cancelled.

        A file that cannot be read or an address that is taken is told, and tried again: the pages
        of the node do not depend on it.
        """
        clock = self.node.clock
        while True:
            was_well = False
            try:
                await self.ring.open()
                began = clock.monotonic()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.door.run())
                    for name in self.links:
                        tasks.create_task(self._keep_looking(name))
            except (TrustError, KeptError) as error:
                fault = str(error)
            except ExceptionGroup as group:
                known, others = group.split((ListenError, TrustError, KeptError))
                if others is not None:
                    raise others from None
                assert known is not None
                fault = str(known.exceptions[0])
                was_well = clock.monotonic() - began > _AGAIN_S
            self._broken(fault, was_well=was_well)
            await clock.sleep(_AGAIN_S)

    def _broken(self, fault: str, *, was_well: bool) -> None:
        if was_well or fault != self._told_fault:  # the same again is told once
            self.node.emit("agent.trust-failed", detail=fault)
        self._told_fault = self.ring.fault = fault

    async def _keep_looking(self, name: str) -> None:
        while True:
            await self.look(name)
            await self.node.clock.sleep(self.settings.interval_s)

    async def look(self, name: str) -> None:
        """Ask a peer how the way to us is, and what time it is; the answer becomes its standing."""
        standing, wall = self.standings[name], self.node.clock.wall
        try:
            answers = await self.links[name].ask_all(
                [{"ask": "contact"}, {"ask": "clock"}, {"ask": "clock"}]
            )
        except LinkError as error:
            way = Way(False, error.phase, str(error), wall())
            self._went(name, way)
            # A peer that stays away and cannot be asked: nobody knows how it fares.
            standing.inward = self._by_visits(standing)
            self._clock_is(name, await self._by_page(name, str(error)))
            return
        self._went(name, Way(True, at_wall=wall()))
        standing.inward = told(answers[0].body, wall())
        self._judge_clock(name, answers)

    def _went(self, name: str, way: Way) -> None:
        before, self.standings[name].outward = self.standings[name].outward, way
        if way.is_open is before.is_open and way.phase == before.phase:
            return
        if way.is_open:
            self.node.emit("agent.peer-reached", peer=name)
        else:
            self.node.emit("agent.peer-lost", peer=name, phase=way.phase, detail=way.detail)
        if way.phase in _NO_TRUST and name not in self._missed and self._is_settled(name):
            self._missed.add(name)
            self.node.emit("agent.trust-missing", peer=name, detail=way.detail)
        elif way.is_open and name in self._missed:
            self._missed.remove(name)
            self.node.emit("agent.trust-mutual", peer=name)
        if way.is_open:
            self._met.add(name)

    def _is_settled(self, name: str) -> bool:
        """Tell whether trust was there before: while it is being set up, nobody misses it."""
        if name in self._met:
            return True
        pins = () if self.ring.fault else self.ring.pins.of(name)
        return any(self.node.clock.wall() - pin.since_wall > _SETUP_S for pin in pins)

    def _by_visits(self, standing: Standing) -> Way:
        came, now = standing.came_at_wall, self.node.clock.wall()
        if came is None or abs(now - came) > 3 * self.settings.interval_s:
            return Way()
        return Way(True, at_wall=came)

    async def _by_page(self, name: str, why: str) -> Clock:
        """Return what a peer's page tells of its clock, coarse as that is; its agent is silent."""
        asked = self.settings.page_clock
        offset = await asked(name) if asked is not None else None
        if offset is None:
            return Clock(detail=why)
        return by_page(name, offset, self.settings.clock)

    def _judge_clock(self, name: str, answers: Sequence[Answered]) -> None:
        try:
            offset = clock_offset.measure([answered.stamps for answered in answers])
        except ImpossibleClockError as error:
            self._clock_is(name, Clock(None, "error", str(error)))
        else:
            theirs = told_offset(answers[0].body)
            self._clock_is(name, _judged(name, offset, theirs, self.settings.clock))

    def _clock_is(self, name: str, after: Clock) -> None:
        standing = self.standings[name]
        standing.clock = after
        standing.told_clock = tell_peers_clock(self.node, name, standing.told_clock, after)

    async def clock_gate(self) -> Gate:
        """Judge whether the partner's clock is near enough for a sync (R11)."""
        link, limits = self.partner, self.settings.clock
        assert link is not None
        wanted = f"clocks no more than {limits.error_s:g}s apart; set the one that is wrong"
        await self.look(link.name)
        clock = self.standings[link.name].clock
        is_near = clock.offset is not None and clock.severity != "error"
        found = f"the clock of {link.name} is {clock.offset}" if clock.offset else clock.detail
        return Gate(CLOCK_GATE, is_near, found, wanted)

    # -------------------------------------------------------------- what peers ask
    def _came(self, peer: str) -> None:
        if peer in self.standings:
            self.standings[peer].came_at_wall = self.node.clock.wall()

    async def _report(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        """Tell how the node is; a release that cannot be read right now is not told."""
        try:
            async with asyncio.timeout(self.settings.timeout_s / 2):
                await self.node.refresh()
        except TimeoutError:
            return {"report": replace(self.node.report(), version=None).document()}
        return {"report": self.node.report().document()}

    async def _clock(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        return {}

    async def _contact(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        """Tell a peer how the way to it is, and which of its keys we take."""
        standing = self.standings.get(peer, Standing())
        way = standing.outward
        outward = {"is_open": way.is_open, "phase": way.phase, "detail": way.detail}
        return {
            "outward": None if way.is_open is None else outward,
            "clock": standing.clock.view,
            "takes": [pin.fingerprint for pin in self.ring.pins.of(peer)],
        }

    # -------------------------------------------------------------- what is shown
    def status(self) -> Mapping[str, object]:
        """Return our fingerprint, and each peer with both directions and its clock."""
        view: dict[str, object] = {"fault": self.ring.fault, "strangers": self.door.strangers}
        if not self.ring.fault:
            view["fingerprint"] = self.ring.keys.current.fingerprint
        return view | {"peers": [self._peer_view(name) for name in self.links]}

    def _peer_view(self, name: str) -> Mapping[str, object]:
        standing, here = self.standings[name], self.node.name
        return {
            "name": name,
            "ways": [
                _way_view(f"{here} -> {name}", standing.outward),
                _way_view(f"{name} -> {here}", standing.inward),
            ],
            "clock": standing.clock.view,
        }

    def gauges(self) -> Iterable[Reading]:
        """Return reachability by direction, clocks, and whether our own files can be used."""
        yield Reading("trust_usable", "Our key and pins can be used", not self.ring.fault, {})
        for name, standing in self.standings.items():
            labels = {"peer": name}
            ways = (("outward", standing.outward), ("inward", standing.inward))
            for direction, way in ways:
                about = "1 where this direction between the agents works"
                both = labels | {"direction": direction}
                yield Reading("peer_reachable", about, way.is_open is True, both)
            for severity in _SEVERITIES:
                about = "1 for what the peer's clock is"
                is_it = standing.clock.severity == severity
                yield Reading("peer_clock", about, is_it, labels | {"severity": severity})
            if (offset := standing.clock.offset) is not None:
                about = "How far the peer's clock is ahead"
                yield Reading("peer_clock_offset_seconds", about, offset.seconds, labels)
                about = "The offset is known to this"
                yield Reading("peer_clock_bound_seconds", about, offset.bound_s, labels)


def _judged(name: str, offset: Offset, theirs: Offset | None, limits: Limits) -> Clock:
    """Judge our measurement of a peer's clock, beside the peer's of ours where it has one."""
    severity = clock_offset.severity(offset, limits)
    if severity != "ok":
        return Clock(offset, severity, f"the clock of {name} is {offset}")
    odd = clock_offset.contradiction(offset, theirs) if theirs is not None else ""
    return Clock(offset, "warning" if odd else "ok", odd)


def _way_view(name: str, way: Way) -> Mapping[str, object]:
    detail = printable(way.detail, 400)
    return {"way": name, "open": way.is_open, "phase": way.phase, "detail": detail}
