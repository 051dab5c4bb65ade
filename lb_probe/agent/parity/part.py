"""The feature of an agent that compares its node with its peer.

Source: guide lines 68-71, 90-92, 251, 298; R8, R9, R11, R23, R74, R75, R81.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lb_probe.agent.control import VERSION, Caller, Command, Json, Request
from lb_probe.agent.node import Part, Reading
from lb_probe.agent.parity import facts
from lb_probe.agent.trust.link import LinkError
from lb_probe.agent.trust.part import Trust
from lb_probe.agent.verbs import utc
from lb_probe.core import parity
from lb_probe.core.model import Mode, Page
from lb_probe.core.parity import KINDS, Difference, Facts
from lb_probe.core.status_page import printable
from lb_probe.program import Program

_FACTS = TypeAdapter(Facts)
_MOST = 200
_CHARS = 300
_KEPT_S = 5.0  # facts are not gathered anew for each question
_VERSION_KEPT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParitySettings:
    """What `parity` in probes.yaml says.

    Attributes:
        config: SHA-256 of the group's configuration as it runs.
        config_on_disk: Reads the file again and returns the same of it; None where it is broken.
        peer_page: Reads the partner's own hastatus page as anybody may: its mode, UNKNOWN where it
            answers and says none, None where it does not answer. None for no usable page.
    """

    config: str
    config_on_disk: Callable[[], str | None]
    peer_page: Callable[[], Awaitable[Mode | None]] | None = None
    version_command: Sequence[str] = ()
    destinations: Sequence[tuple[str, int]] = ()
    disks: Sequence[Path] = ()
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    interval_s: float = 60.0
    timeout_s: float = 10.0


class Parity(Part):
    """Gathers facts, tells them to peers, and compares those of the partner."""

    name = "parity"

    def __init__(self, trust: Trust, settings: ParitySettings) -> None:
        """Gather nothing yet."""
        self._trust = trust
        self._node = trust.node
        self._settings = settings
        self._version = (
            Program(settings.version_command, settings.timeout_s)
            if settings.version_command
            else None
        )
        self._programs = {
            name: Program(argv, settings.timeout_s) for name, argv in settings.commands.items()
        }
        self._software: str | None = None
        self._software_at = -math.inf
        self._one_version = asyncio.Lock()
        self._ours: tuple[float, Facts] | None = None
        self._one_look = asyncio.Lock()
        self._differences: tuple[Difference, ...] | None = None
        self._detail = "not compared yet"
        self._at_wall: float | None = None
        trust.door.answer("facts", self._asked)
        self._node.refreshers.append(self._read_version)

    def commands(self) -> Sequence[Command[Any]]:
        """Return `parity`."""
        return (Command(name="parity", request=Request, answer=self._show),)

    def report(self) -> Mapping[str, object]:
        """Return the application's release and the configuration's hash."""
        return {"version": self._software, "config_hash": self._settings.config}

    async def run(self) -> None:
        """Gather and compare at the interval, until cancelled."""
        await self._trust.ring.is_open.wait()
        while True:
            await self.compare()
            await self._node.clock.sleep(self._settings.interval_s)

    # -------------------------------------------------------------- facts
    async def _read_version(self) -> None:
        """Renew the application's release: a sync right after an upgrade must not see the old."""
        if self._version is None:
            return
        async with self._one_version:
            if self._node.clock.monotonic() - self._software_at < _VERSION_KEPT_S:
                return
            self._software = await facts.first_line(self._version)
            self._software_at = self._node.clock.monotonic()

    async def gather(self, max_age_s: float = _KEPT_S) -> Facts:
        """Return the facts of this node; those of a moment ago where they are fresh enough."""
        async with self._one_look:
            now = self._node.clock.monotonic()
            if self._ours is None or now - self._ours[0] > max_age_s:
                self._ours = (now, await self._gathered())
            return self._ours[1]

    async def _gathered(self) -> Facts:
        settings = self._settings
        machine = await asyncio.to_thread(facts.machine)
        sizes = await asyncio.to_thread(facts.disks, settings.disks)
        on_disk = await asyncio.to_thread(settings.config_on_disk)
        reached = await facts.reached(settings.destinations, settings.timeout_s)
        await self._read_version()
        names = list(self._programs)
        digests = await asyncio.gather(*(facts.digest(self._programs[name]) for name in names))
        says = self._node.state.mode if self._node.pages.view(Page.HASTATUS).code == 200 else None
        known: dict[str, Any] = dict(machine)
        return Facts(
            node=self._node.name,
            **known,
            disks=sizes,
            software=self._software or self._node.report().version,
            config=settings.config,
            config_on_disk=on_disk,
            destinations=reached,
            compared=dict(zip(names, digests, strict=True)),
            mode=says,
        )

    async def _asked(self, peer: str, question: Mapping[str, Any]) -> Mapping[str, object]:
        found = asdict(await self.gather())
        return found | {"mode": found["mode"].value if found["mode"] else None}

    # -------------------------------------------------------------- comparison
    async def compare(self, max_age_s: float = _KEPT_S) -> None:
        """Compare this node with its partner, and keep what was found."""
        ours = await self.gather(max_age_s)
        link = self._trust.partner
        if link is None:
            self._detail = "no peer to compare with"
            return
        try:
            answered = await link.ask("facts", timeout_s=4 * self._settings.timeout_s)
            theirs = read_facts(answered.body, link.name)
        except (LinkError, ValueError) as error:
            # Old differences stay on show: a peer that fell silent has not become equal.
            self._detail = str(error)
            return
        found = [*parity.compare(ours, theirs), *self._clock(link.name)]
        if self._settings.peer_page is not None:
            found += self._lie(theirs.mode, await self._settings.peer_page())
        self._keep(parity.in_order(found))

    def _known(self, kind: str) -> list[Difference]:
        """Return what was found of a kind before: nobody says now that it is otherwise."""
        return [one for one in self._differences or () if one.kind == kind]

    def _lie(self, reported: Mode | None, page: Mode | None) -> list[Difference]:
        """Return the difference between the peer's agent and its page."""
        if page is None:
            return self._known("mode")
        lie = parity.mode_lie(reported, page)
        return [lie] if lie is not None else []

    def _clock(self, peer: str) -> Iterable[Difference]:
        """Return the difference of the clocks, which the agents' connection measures (R11)."""
        clock = self._trust.standings[peer].clock
        if clock.severity == "unknown":
            yield from self._known("clock")
            return
        if clock.severity == "ok":
            return
        theirs = str(clock.offset) if clock.offset is not None else clock.detail
        wanted = "the same time on both; set the clock that is wrong"
        yield Difference("clock", "clock", clock.severity, "0", theirs, wanted)

    def _keep(self, found: tuple[Difference, ...]) -> None:
        before, self._differences = self._differences, found
        self._detail, self._at_wall = "", self._node.clock.wall()
        if before is not None and _named(before) == _named(found):
            return
        self._node.emit(
            "agent.parity-compared",
            errors=sum(one.severity == parity.ERROR for one in found),
            warnings=sum(one.severity == parity.WARNING for one in found),
            items=", ".join(one.item for one in found)[:_CHARS],
        )
        self._tell_errors(_errors(before or ()), _errors(found))

    def _tell_errors(self, before: Sequence[Difference], after: Sequence[Difference]) -> None:
        """Tell when errors begin and end."""
        peer = self._trust.settings.partner
        items = ", ".join(one.item for one in after)[:_CHARS]
        if after and not before:
            self._node.emit("agent.nodes-differ", peer=peer, items=items)
        elif before and not after:
            self._node.emit("agent.nodes-alike", peer=peer)

    # -------------------------------------------------------------- what is shown
    async def _show(self, request: Request, caller: Caller) -> Json:
        await self._trust.ring.is_tried.wait()
        await self.compare(0.0)
        return {
            "version": VERSION,
            "node": self._node.name,
            "peer": self._trust.settings.partner,
            **self.status(),
            "facts": await self._asked("", {}),
        }

    def status(self) -> Mapping[str, object]:
        """Return every difference, when it was looked for, and why it could not be."""
        return {
            "at": None if self._at_wall is None else utc(self._at_wall),
            "detail": self._detail,
            "differences": [asdict(one) for one in self._differences or ()],
        }

    def gauges(self) -> Iterable[Reading]:
        """Return the number of differences by kind and severity, every kind from the start."""
        found = self._differences or ()
        for kind in KINDS:
            for severity in (parity.ERROR, parity.WARNING):
                count = sum(one.kind == kind and one.severity == severity for one in found)
                labels = {"kind": kind, "severity": severity}
                yield Reading("parity_differences", "Differences from the peer", count, labels)
        if self._at_wall is not None:
            about = "When the nodes were last compared"
            yield Reading("parity_last_compared_timestamp_seconds", about, self._at_wall, {})


def _named(found: Sequence[Difference]) -> set[tuple[str, str]]:
    return {(one.item, one.severity) for one in found}


def _errors(found: Sequence[Difference]) -> list[Difference]:
    return [one for one in found if one.severity == parity.ERROR]


def read_facts(body: Mapping[str, Any], peer: str) -> Facts:
    """Return the facts that a peer tells, its words made harmless.

    Raises:
        ValueError: They are none, or somebody else's.
    """
    try:
        found = _FACTS.validate_json(json.dumps(_harmless(body)), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ValueError(f"found facts of {peer} that are none ({where})") from None
    if found.node != peer:
        raise ValueError(f"found the facts of {printable(found.node, 64)}; wanted those of {peer}")
    return found


def _harmless(value: Any) -> Any:
    """Cut what a peer says to what fits on a page."""
    if isinstance(value, str):
        return printable(value, _CHARS)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("found a number that nothing of a machine has")
    if isinstance(value, dict):
        some = [*value.items()][:_MOST]
        return {printable(key, _CHARS): _harmless(inner) for key, inner in some}
    if isinstance(value, list):
        return [_harmless(inner) for inner in value[:_MOST]]
    return value
