"""The feature of an agent that tests the way to its peers, and asks them to test the way back.

Source: guide lines 130, 251, 296-302; R31, R33, R45, R73, R79, R80.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from lb_probe.agent.connectivity import results as kept_results
from lb_probe.agent.connectivity.ports import Pace, Tried, attempt, compared
from lb_probe.agent.connectivity.results import IN, IN_GOOD, OUT, OUT_GOOD, Results
from lb_probe.agent.control import VERSION, Act, Caller, Command, Json
from lb_probe.agent.node import Part, Reading
from lb_probe.agent.trust.kept import KeptError
from lb_probe.agent.trust.link import Link, LinkError
from lb_probe.agent.trust.part import Trust
from lb_probe.agent.verbs import utc
from lb_probe.core import clock_offset
from lb_probe.core.clock_offset import ImpossibleClockError
from lb_probe.core.connectivity import Direction, Item, gate
from lb_probe.core.model import Gate
from lb_probe.ports import Invalid

_TEST_S = 60.0  # all of a peer's own test, and the look at its ports from inside
_AGAIN_S = 60.0  # after a failure; and between two looks at what the peer found
_INSIDE_KEPT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectivitySettings:
    """What `connectivity` in probes.yaml says.

    Attributes:
        own: Our ports as we reach them ourselves.
        theirs: For each peer, its ports as it must be reached.
    """

    own: Sequence[Tried]
    theirs: Mapping[str, Sequence[Tried]]
    interval_s: float = 3600.0
    max_age_s: float = 86400.0
    pace: Pace = field(default=Pace())


class TestConnection(Act):
    """`test-connection [--both] [--peer NAME]`."""

    __test__ = False  # no test of pytest's

    both: bool = Field(False, description="true to let the peer test the way back too")
    peer: str = Field("", max_length=128, description="the name of a peer; the partner if left out")


class Connectivity(Part):
    """Tests by itself at a low rate, and at once when an operator says so."""

    name = "connection"

    def __init__(self, trust: Trust, settings: ConnectivitySettings) -> None:
        """Test nothing yet; guard syncs and promotions of the node."""
        self._trust = trust
        self._node = trust.node
        self._settings = settings
        self._results = Results(trust.settings.folder / "connection.json")
        self._one_test = {name: asyncio.Lock() for name in trust.links}
        self._may_promote: bool | None = None
        self._told_fault = ""
        self._inside: tuple[float, Mapping[str, object]] | None = None
        self._one_look = asyncio.Lock()
        self._one_write = asyncio.Lock()
        trust.door.answer("test", self._asked_to_test)
        trust.door.answer("tested", self._told)
        trust.door.answer("last-test", self._last_test)
        trust.door.answer("seen-inside", self._seen_inside)
        if trust.partner is not None:
            self._node.sync_guards.append(self._newest_gate)
            self._node.promote_guards.append(self._success_gate)

    def commands(self) -> Sequence[Command[Any]]:
        """Return `test-connection`."""
        return (
            Command(name="test-connection", request=TestConnection, answer=self._test, acts=True),
        )

    async def run(self) -> None:
        """Test each peer at its interval, and hear what each one found, until cancelled."""
        await self._trust.ring.is_open.wait()
        fault = await asyncio.to_thread(self._results.open)
        if fault:
            self._node.emit("agent.trust-failed", detail=fault)
        async with asyncio.TaskGroup() as tasks:
            for name in self._trust.links:
                tasks.create_task(self._repeat(name))
            await asyncio.Event().wait()

    async def _repeat(self, name: str) -> None:
        clock, interval_s = self._node.clock, self._settings.interval_s
        due = clock.monotonic()
        while True:
            if clock.monotonic() >= due:
                found = await self.test(name)
                due = clock.monotonic() + (interval_s if found.passed else 0.0)
            await self._hear(name)
            if name == self._trust.settings.partner:
                self._watch_lapse()
            await clock.sleep(min(_AGAIN_S, interval_s))

    def _watch_lapse(self) -> None:
        """Tell in time that a promotion would be refused: on the day it is too late."""
        judged = self._judge(OUT_GOOD, IN_GOOD)
        was, self._may_promote = self._may_promote, judged.passed
        if was is True and not judged.passed:
            self._node.emit("agent.connection-lapsed", detail=judged.found, wanted=judged.wanted)
        elif was is False and judged.passed:
            self._node.emit("agent.connection-good")

    # -------------------------------------------------------------- one test
    async def _test(self, request: TestConnection, caller: Caller) -> Json:
        name = request.peer or self._trust.settings.partner
        if name not in self._trust.links:
            known = ", ".join(self._trust.links) or "nobody"
            raise Invalid(f"found peer {name!r}; use one of: {known}")
        await self._trust.ring.is_tried.wait()
        inward: Direction | None = None
        told = ""
        if request.both:
            outward, (inward, told) = await asyncio.gather(self.test(name), self._test_back(name))
        else:
            outward = await self.test(name)
        shown = [_view(outward)] + ([_view(inward)] if inward is not None else [])
        passed = outward.passed and (not request.both or (inward is not None and inward.passed))
        return {
            "version": VERSION,
            "node": self._node.name,
            "peer": name,
            "passed": passed,
            "directions": shown,
            "detail": told,
        }

    async def test(self, name: str) -> Direction:
        """Test the way to a peer, keep the result and return it."""
        async with self._one_test[name]:
            link = self._trust.links[name]
            trust, inside = await self._trust_items(link)
            tried = self._settings.theirs.get(name, ())
            ports = await asyncio.gather(
                *(attempt(one, self._settings.pace, self._node.clock) for one in tried)
            )
            items = [*trust, *(compared(item, _facts(inside, item.name)) for item in ports)]
            found = Direction(
                source=self._node.name,
                target=name,
                at_wall=self._node.clock.wall(),
                items=tuple(items),
            )
            before = self._results.get(OUT, name)
            await self._keep(name, found, is_ours=True)
        if before is None or before.words != found.words:
            result = "passed" if found.passed else "failed"
            self._node.emit("agent.connection-tested", peer=name, result=result, detail=found.words)
        await self._tell(name, found)
        return found

    async def _tell(self, name: str, found: Direction) -> None:
        """Let the peer know at once; one that cannot be told asks later."""
        if any(item.name == "trust" and item.verdict == "ok" for item in found.items):
            told = kept_results.document(found, self._node.clock.wall())
            with contextlib.suppress(LinkError):
                await self._trust.links[name].ask("tested", test=told)

    async def _trust_items(self, link: Link) -> tuple[list[Item], Mapping[str, Any]]:
        """Try the agents' own connection, both clocks and both versions over it.

        Returns:
            What was tried, and the peer's ports as it sees them itself.
        """
        try:
            stamps = await link.clock()
            report = await link.report()
        except LinkError as error:
            return [Item(name="trust", verdict="failed", phase=error.phase, detail=str(error))], {}
        items = [
            Item(name="trust", verdict="ok"),
            self._clock_item(link.name, stamps),
            _version_item(self._node.report().version, report.version),
        ]
        try:
            inside = await link.ask("seen-inside", timeout_s=_TEST_S)
        except LinkError as error:
            item = Item(name="inside", verdict="warning", phase=error.phase, detail=str(error))
            return [*items, item], {}
        return items, inside.body

    def _clock_item(self, name: str, stamps: Sequence[Any]) -> Item:
        limits = self._trust.settings.clock
        try:
            offset = clock_offset.measure(stamps)
        except ImpossibleClockError as error:
            return Item(name="clock", verdict="failed", phase="clock", detail=str(error))
        facts = {"offset_s": f"{offset.seconds:+.6f}", "bound_s": f"{offset.bound_s:.6f}"}
        severity = clock_offset.severity(offset, limits)
        if severity == "ok":
            return Item(name="clock", verdict="ok", facts=facts)
        wanted = f"no more than {limits.warn_s:g}s: set the clock that is wrong"
        detail = f"found the clock of {name} at {offset}; wanted {wanted}"
        if severity == "warning":
            return Item(name="clock", verdict="warning", detail=detail, facts=facts)
        return Item(name="clock", verdict="failed", phase="clock", detail=detail, facts=facts)

    async def _keep(self, name: str, found: Direction, *, is_ours: bool) -> None:
        fault = ""
        async with self._one_write:  # two at a time could leave the older one on disk
            try:
                await asyncio.to_thread(self._results.put, name, found, is_ours=is_ours)
            except KeptError as error:
                fault = str(error)
        before, self._told_fault = self._told_fault, fault
        if fault and fault != before:  # the same again is told once
            self._node.emit("agent.trust-failed", detail=fault)

    # -------------------------------------------------------------- the way back
    async def _test_back(self, name: str) -> tuple[Direction | None, str]:
        """Let the peer test the way to us now; return the result, or why there is none."""
        return await self._hear(name, "test", timeout_s=_TEST_S)

    async def _hear(
        self, name: str, ask: str = "last-test", timeout_s: float | None = None
    ) -> tuple[Direction | None, str]:
        """Ask the peer for its test of us, and keep it."""
        now = self._node.clock.wall
        try:
            answered = await self._trust.links[name].ask(ask, timeout_s=timeout_s)
            told = answered.body.get("test")
            if told is None:
                return None, f"{name} has not tested the way to {self._node.name} yet"
            found = kept_results.from_peer(
                told, source=name, target=self._node.name, now_wall=now()
            )
        except LinkError as error:
            way = f"{name} -> {self._node.name}"
            return None, f"{way}: could not be tested, as {name} cannot be asked ({error})"
        except ValueError as error:
            return None, f"{name} -> {self._node.name}: {error}"
        await self._heard(name, found)
        return found, ""

    async def _heard(self, name: str, found: Direction) -> None:
        """Keep a peer's test of us; the same one again is no news."""
        before = self._results.get(IN, name)
        if before is None or found.items != before.items or found.at_wall > before.at_wall + 1:
            await self._keep(name, found, is_ours=False)

    async def _told(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        """Take a peer's word for what its own test found; it is no better than that anyway."""
        now = self._node.clock.wall()
        try:
            found = kept_results.from_peer(
                question.get("test"), source=peer, target=self._node.name, now_wall=now
            )
        except ValueError as error:
            raise Invalid(str(error)) from error
        if peer in self._trust.links:
            await self._heard(peer, found)
        return {}

    async def _asked_to_test(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        """Test the way to who asks; where that is, our own configuration says, not the asker."""
        if peer not in self._trust.links:
            return {"test": None}
        found = await self.test(peer)
        return {"test": kept_results.document(found, self._node.clock.wall())}

    async def _last_test(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        found = self._results.get(OUT, peer)
        now = self._node.clock.wall()
        return {"test": None if found is None else kept_results.document(found, now)}

    async def _seen_inside(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        """Tell what our own ports show to ourselves, which nothing in between can have altered."""
        async with self._one_look:
            now = self._node.clock.monotonic()
            if self._inside is None or now - self._inside[0] > _INSIDE_KEPT_S:
                clock = self._node.clock
                pace = Pace(self._settings.pace.timeout_s, 0.05)
                items = await asyncio.gather(
                    *(attempt(one, pace, clock) for one in self._settings.own)
                )
                self._inside = (now, {item.name: dict(item.facts) for item in items})
            return self._inside[1]

    # -------------------------------------------------------------- what is refused and shown
    async def _newest_gate(self) -> Gate:
        """Both directions' newest tests must be recent successes (R80)."""
        return self._judge(OUT, IN)

    async def _success_gate(self) -> Gate:
        """Both directions must have passed lately; the Primary may be dying since."""
        return self._judge(OUT_GOOD, IN_GOOD)

    def _judge(self, outward: str, inward: str) -> Gate:
        peer = self._trust.settings.partner
        return gate(
            self._node.name,
            peer,
            self._results.get(outward, peer),
            self._results.get(inward, peer),
            now_wall=self._node.clock.wall(),
            max_age_s=self._settings.max_age_s,
        )

    def status(self) -> Mapping[str, object]:
        """Return the newest test of each direction with each peer."""
        found = [self._results.get(what, name) for name in self._trust.links for what in (OUT, IN)]
        view: dict[str, object] = {"directions": [_view(one) for one in found if one is not None]}
        if self._trust.partner is not None:
            judged = self._judge(OUT, IN)
            view["gate"] = {"passed": judged.passed, "found": judged.found}
        return view

    def gauges(self) -> Iterable[Reading]:
        """Return each item of the newest tests, when each direction last passed, and the gates."""
        if self._trust.partner is not None:
            for act, ways in (("sync", (OUT, IN)), ("promotion", (OUT_GOOD, IN_GOOD))):
                about = "1 where the tests allow it"
                yield Reading("connection_gate", about, self._judge(*ways).passed, {"act": act})
        directions = (("outward", OUT, OUT_GOOD), ("inward", IN, IN_GOOD))
        for name in self._trust.links:
            for direction, newest, good in directions:
                labels = {"peer": name, "direction": direction}
                if (success := self._results.get(good, name)) is not None:
                    about = "When this direction last passed its test"
                    at = success.at_wall
                    yield Reading("connection_last_success_timestamp_seconds", about, at, labels)
                if (last := self._results.get(newest, name)) is not None:
                    yield from _item_gauges(last, labels)


def _item_gauges(last: Direction, labels: Mapping[str, str]) -> Iterable[Reading]:
    about = "1 where the item did not fail in the newest test"
    for item in last.items:
        passed = item.verdict != "failed"
        yield Reading("connection_item_ok", about, passed, {**labels, "item": item.name})


def _version_item(ours: str | None, theirs: str | None) -> Item:
    """A difference is told, and refuses a sync elsewhere (R74, R92)."""
    if ours is None or theirs is None or ours == theirs:
        return Item(name="version", verdict="ok", facts={"version": theirs or ""})
    detail = f"found {theirs} there and {ours} here; wanted the same release on both"
    return Item(name="version", verdict="warning", detail=detail)


def _facts(inside: Mapping[str, Any], name: str) -> Mapping[str, str] | None:
    """Return what a peer sees at one of its ports; None where it says nothing usable."""
    found = inside.get(name)
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        return None
    return found


def _view(found: Direction) -> Json:
    return {
        "way": f"{found.source} -> {found.target}",
        "passed": found.passed,
        "at": utc(found.at_wall),
        "items": [
            {
                "name": item.name,
                "verdict": item.verdict,
                "phase": item.phase,
                "detail": item.detail,
                "facts": dict(item.facts),
            }
            for item in found.items
        ],
    }
