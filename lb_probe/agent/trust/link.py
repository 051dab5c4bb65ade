"""The other agents, as this one asks them; every failure names the direction it is in.

LinkError              a peer did not answer, or not as itself
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lb_probe.agent.peer import PeerError
from lb_probe.agent.trust.identity import TrustError
from lb_probe.agent.trust.kept import KeptError
from lb_probe.agent.trust.wire import Context, Wire, WireError, connect
from lb_probe.core.peer_report import ClockStamps, PeerReport, parse
from lb_probe.core.status_page import printable
from lb_probe.ports import Clock

_EXCHANGES = 4


class LinkError(PeerError):
    """A peer did not answer, or not as itself.

    Attributes:
        phase: That of the `WireError` behind it.
    """

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(message)
        self.phase = phase


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer of a peer.

    Attributes:
        body: What it said.
        stamps: When, by both clocks.
    """

    body: Mapping[str, Any]
    stamps: ClockStamps


class Link:
    """The agent of another node; a `Peer` for the features of ours.

    Attributes:
        name: That node's name in probes.yaml.
    """

    def __init__(
        self,
        here: str,
        name: str,
        address: tuple[str, int],
        context: Callable[[str], Context],
        clock: Clock,
        timeout_s: float,
    ) -> None:
        """Connect nothing yet.

        Args:
            here: Our own node's name.
            context: Returns what a connection to a peer is made with.
            timeout_s: Of a whole question, its connection included.
        """
        self.name = name
        self.address = address
        self._here = here
        self._context = context
        self._clock = clock
        self._timeout_s = timeout_s

    async def report(self) -> PeerReport:
        """Ask how the node is.

        Raises:
            LinkError: No answer, another's answer, or nonsense.
        """
        answered = await self.ask("report")
        try:
            found = parse(answered.body.get("report"))
        except ValueError as error:
            raise self._failed("answer", str(error)) from error
        if found.node != self.name:
            raise self._failed("answer", f"found the report of {found.node!r}")
        return replace(found, clock=answered.stamps)

    async def ask(self, name: str, *, timeout_s: float | None = None, **more: object) -> Answered:
        """Put one question on a connection of its own.

        Raises:
            LinkError: No answer, or a refusal.
        """
        (answered,) = await self.ask_all([{"ask": name, **more}], timeout_s=timeout_s)
        return answered

    async def clock(self) -> Sequence[ClockStamps]:
        """Ask for the time a few times on one connection; the first one also pays for TLS.

        Raises:
            LinkError: No answer.
        """
        answers = await self.ask_all([{"ask": "clock"}] * _EXCHANGES)
        return [answered.stamps for answered in answers]

    async def ask_all(
        self, questions: Sequence[Mapping[str, object]], *, timeout_s: float | None = None
    ) -> list[Answered]:
        """Put questions one after the other on one connection.

        Raises:
            LinkError: One of them had no answer, or a refusal.
        """
        within_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(within_s):
                return await self._ask_all(questions)
        except TimeoutError as error:
            raise self._failed("timeout", f"found no answer within {within_s:g}s") from error
        except WireError as error:
            raise self._failed(error.phase, str(error)) from error
        except (TrustError, KeptError) as error:
            raise LinkError("our-trust", f"{self._here} -> {self.name}: {error}") from error

    async def _ask_all(self, questions: Sequence[Mapping[str, object]]) -> list[Answered]:
        context = self._context(self.name)  # before the connection: a missing pin is known now
        sock = await connect(*self.address, self._timeout_s)
        async with Wire(sock, context, is_server=False) as wire:
            await wire.shake_hands(self._timeout_s)
            if wire.peer != self.name:
                raise WireError("our-trust", f"found the key of {wire.peer}")
            answers = [await self._exchange(wire, question) for question in questions]
            await wire.end()
            return answers

    async def _exchange(self, wire: Wire, question: Mapping[str, object]) -> Answered:
        asked_at, began = self._clock.wall(), self._clock.monotonic()
        await wire.say(question)
        found = await wire.hear()
        # Our own wall clock may be set meanwhile; how long it took it is not asked.
        received_at = asked_at + (self._clock.monotonic() - began)
        if found is None:
            raise WireError("answer", "found the end of the connection; wanted an answer")
        body = found.get("answer")
        if not isinstance(body, dict):
            why = printable(str(found.get("error", "nothing")), 300)
            raise WireError("answer", f"found a refusal: {why}")
        heard_at, answered_at = _moment(found, "heard_at"), _moment(found, "answered_at")
        return Answered(body, ClockStamps(asked_at, heard_at, answered_at, received_at))

    def _failed(self, phase: str, found: str) -> LinkError:
        return LinkError(phase, f"{self._here} -> {self.name}: {found}{self._advice(phase)}")

    def _advice(self, phase: str) -> str:
        here, there = self._here, self.name
        if phase == "our-trust":
            return (
                f"; {here} does not trust {there}: add its export here, `lb-probe agent trust add`"
            )
        if phase == "their-trust":
            return f"; {there} does not trust {here}: add our export there"
        if phase in {"name", "connect", "timeout"}:
            return f"; wanted the agent of {there}: start it, and open the way"
        return ""


def _moment(found: Mapping[str, Any], key: str) -> float:
    """Return a stamp; raise WireError where it is none."""
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError("answer", f"found an answer with {key} {str(value)[:40]!r}")
    if not 0 <= value < 253_402_300_800:  # the year 10000; nan is not in between either
        found_it = str(value)[:40]
        raise WireError("answer", f"found an answer with {key} {found_it}; wanted UTC seconds")
    return float(value)
