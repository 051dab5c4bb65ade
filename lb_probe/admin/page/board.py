"""One board for all who may see the same groups: drawn once, sent to each of them.

A board keeps the HTML of every group as it was drawn last, and a ring of what changed since. A
reader is nothing but a number: how far it has read. Readers drive the board, so that nothing is
drawn while nobody looks; the first that wakes draws, the others take what it drew.

Source: DESIGN section 7; HTML Standard, server-sent events.
"""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup

from lb_probe.admin.page.card import (
    Card,
    card,
    history_lines,
    is_off_home,
    live_texts,
    standing,
    way_back,
)
from lb_probe.admin.page.levels import Headline, Level, Standing, headline
from lb_probe.admin.page.traces import RECORDS, Traces
from lb_probe.controller import Controller
from lb_probe.core.acts import Plan
from lb_probe.core.model import Event
from lb_probe.core.view import View, iso
from lb_probe.history import CHANGES
from lb_probe.ports import Clock, Span, StoreError

GATHER_S = 0.02  # what happens together is drawn together
SWEEP_S = 5.0  # what changes without an event is seen by then
RENEW_S = 15.0  # drawings of cards move on
BEAT_S = 1.0
WHOLE_CARDS = 12  # the worst, each with all there is; the others are rows of a table
CALM_CARDS = 3  # so few groups are shown whole even while they are well
RING = 256
CHUNK = 20  # groups drawn in one step of the loop: a probe must not wait for a page
HISTORY = 12
DAY_S = 86_400.0
STALE_S = 5.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One group as it was drawn last."""

    sort: str
    whole: bool
    html: str
    level: Level
    says: str


class Board:
    """What everybody with one scope sees.

    Args:
        names: The groups of the scope, in the order of the file.
        alone: One group on a page of its own: whole, whatever its state.
    """

    def __init__(
        self,
        controller: Controller,
        traces: Traces,
        clock: Clock,
        templates: Environment,
        names: Sequence[str],
        *,
        alone: bool = False,
    ) -> None:
        self.names = tuple(names)
        self._scope = frozenset(names)
        self._alone = alone
        self._controller = controller
        self._traces = traces
        self._clock = clock
        self._group = templates.get_template("group_part.html")
        self._parts = templates.get_template("parts.html").module
        self._main = templates.get_template("main_part.html")
        self._dirty: set[str] = set(names)
        self._drawn: dict[str, Drawn] = {}
        self._whole: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()
        self._bell = asyncio.Event()
        self._swept_at = self._renewed_at = -1e9
        self._history_due = True
        self._history = ""
        self._head = ""
        self._line = Headline("", Level.WAIT, "lb-probe")
        self._beat: tuple[float, bytes] = (-1e9, b"")
        self.epoch = secrets.token_hex(4)
        self.sequence = 0
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=RING)

    # -------------------------------------------------------------- events in
    def take(self, event: Event) -> None:
        """Take note of an event; draws nothing yet."""
        if event.name == "probe.done" or (event.group and event.group not in self._scope):
            return  # a probe alone changes what a beat carries, and no more
        self._dirty.update((event.group,) if event.group else self.names)
        if event.name.removeprefix("group.") in CHANGES:
            self._history_due = True
        self.ring()

    def ring(self) -> None:
        """Wake everybody who waits."""
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    async def wait(self, seconds: float) -> None:
        """Return at the next event, or after so many seconds."""
        bell = self._bell
        if self._dirty:
            return
        try:
            async with asyncio.timeout(seconds):
                await bell.wait()
        except TimeoutError:
            pass

    # -------------------------------------------------------------- drawing
    async def refresh(self) -> None:
        """Draw what changed, and remember it for everybody who reads."""
        if not self._is_due():
            return
        async with self._lock:
            if not self._is_due():
                return
            if self._drawn:
                await asyncio.sleep(GATHER_S)
            await self._load()
            await self._draw()

    def _is_due(self) -> bool:
        return bool(self._dirty) or self._clock.monotonic() - self._swept_at >= SWEEP_S

    async def _load(self) -> None:
        if self._traces.is_loaded:
            return
        since = Span(since=self._clock.wall() - DAY_S, everything=True)
        try:
            records = await self._controller.history(None, RECORDS, since)
        except StoreError:
            return  # it is tried again; until then the bands begin with the process
        self._traces.load(records, self._controller.names)

    async def _draw(self) -> None:
        now = self._clock.monotonic()
        dirty, self._dirty = self._dirty, set()
        if now - self._swept_at >= SWEEP_S:
            self._swept_at, dirty = now, set(self.names)
        views = {view.group.name: view for view in self._controller.views()}
        plans = {n: self._plan(views[n]) for n in self.names}
        stands = [standing(views[n], way_back(plans[n])) for n in self.names]
        whole = self._choose(stands)
        if now - self._renewed_at >= RENEW_S:
            self._renewed_at, dirty = now, dirty | whole
        dirty |= whole ^ self._whole
        self._whole = whole
        changed = await self._draw_groups(sorted(dirty), views, plans)
        line = headline(stands)
        history = await self._draw_history()
        if changed or history is not None or line != self._line:
            self._line = line
            self._head = str(self._parts.head(line))  # type: ignore[attr-defined]
            self._remember(changed, history)

    def _plan(self, view: View) -> Plan | None:
        return self._controller.resume_gates(view.group.name) if is_off_home(view) else None

    def _choose(self, stands: Sequence[Standing]) -> frozenset[str]:
        """Return the groups that are shown whole: the worst, or all where there are few."""
        if self._alone or len(self.names) <= CALM_CARDS:
            return frozenset(self.names)
        ill = [(-s.level, s.name) for s in stands if s.level >= Level.LOOK]
        return frozenset(name for _, name in sorted(ill)[:WHOLE_CARDS])

    async def _draw_groups(
        self, names: Sequence[str], views: Mapping[str, View], plans: Mapping[str, Plan | None]
    ) -> list[tuple[str, Drawn]]:
        changed = []
        for place, name in enumerate(names):
            if place % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
            is_whole = name in self._whole
            shown = card(views[name], self._traces, plans[name], whole=is_whole)
            html = self._group.render(card=shown, whole=is_whole, alone=self._alone)
            drawn = Drawn(shown.sort, is_whole, html, shown.level, _says(shown))
            if drawn != self._drawn.get(name):
                changed.append((name, drawn))
        return changed

    async def _draw_history(self) -> str | None:
        """Return the lines of history where they changed."""
        if not self._history_due:
            return None
        self._history_due = False
        limit = HISTORY if len(self.names) == len(self._controller.names) else 40 * HISTORY
        try:
            name = self.names[0] if len(self.names) == 1 else None
            records = await self._controller.history(name, limit, Span())
        except StoreError as error:
            html = str(self._parts.history([], str(error)))  # type: ignore[attr-defined]
        else:
            ours = [r for r in records if r.group in self.names and r.kind in CHANGES]
            lines = history_lines(ours[-HISTORY:])
            html = str(self._parts.history(lines, ""))  # type: ignore[attr-defined]
        if html == self._history:
            return None
        self._history = html
        return html

    def _remember(self, changed: Sequence[tuple[str, Drawn]], history: str | None) -> None:
        said = [
            drawn.says
            for name, drawn in changed
            if name in self._drawn and self._drawn[name].says != drawn.says
        ]
        self._drawn.update(changed)
        self.sequence += 1
        content = {
            "groups": [
                {"name": name, "sort": drawn.sort, "whole": drawn.whole, "html": drawn.html}
                for name, drawn in changed
            ],
            "head": self._head,
            "title": self._line.title,
            "level": self._line.level.css,
            "history": history,
            "says": ". ".join(said[:3]),
        }
        self._ring.append((self.sequence, self._event("change", content)))

    def _event(self, name: str, content: object) -> bytes:
        place = f"{self.epoch}-{self.sequence}"
        return f"id: {place}\nevent: {name}\ndata: {json.dumps(content)}\n\n".encode()

    # -------------------------------------------------------------- reading
    def main(self) -> Markup:
        """Return all that is shown, as drawn last."""
        order = sorted(self.names, key=lambda name: self._drawn[name].sort)
        whole = [Markup(self._drawn[n].html) for n in order if self._drawn[n].whole]  # noqa: S704 our own templates, escaped there
        rows = [Markup(self._drawn[n].html) for n in order if not self._drawn[n].whole]  # noqa: S704
        text = self._main.render(
            head=Markup(self._head),  # noqa: S704
            whole=whole,
            rows=rows,
            history=Markup(self._history),  # noqa: S704
            alone=self._alone,
        )
        return Markup(text)  # noqa: S704

    @property
    def headline(self) -> Headline:
        """The first sentence, as drawn last."""
        return self._line

    @property
    def place(self) -> str:
        """How far somebody has read who was given `main` just now."""
        return f"{self.epoch}-{self.sequence}"

    def after(self, place: str) -> list[bytes]:
        """Return what somebody who had read so far has missed.

        Args:
            place: As `place` or `Last-Event-ID` said; anything else is given all anew.
        """
        epoch, _, number = place.partition("-")
        oldest = self._ring[0][0] if self._ring else self.sequence + 1
        is_known = epoch == self.epoch and number.isascii() and number.isdigit()
        if is_known and oldest - 1 <= int(number) <= self.sequence:
            return [data for sequence, data in self._ring if sequence > int(number)]
        content = {
            "main": str(self.main()),
            "title": self._line.title,
            "level": self._line.level.css,
        }
        return [self._event("snapshot", content)]

    def beat(self) -> bytes:
        """Return the sign of life of this second: the age of the data, and texts of probes."""
        now = self._clock.monotonic()
        if now - self._beat[0] < BEAT_S * 0.9:
            return self._beat[1]
        texts: dict[str, str] = {}
        limit = STALE_S
        for name in self._whole:
            texts |= live_texts(self._controller.view(name))
        ages = [v.group.max_age_s for v in self._controller.views()[:1]]
        limit = max(limit, *(2 * age for age in ages)) if ages else limit
        age = max(0.0, now - self._traces.probed_at)
        content = {
            "at": iso(self._clock.wall()),
            "age": round(age, 1),
            "stale": age > limit,
            "texts": texts,
        }
        data = f"event: beat\ndata: {json.dumps(content)}\n\n".encode()
        self._beat = now, data
        return data


def _says(shown: Card) -> str:
    """Return what a screen reader is told when it changes."""
    return f"{shown.name}: {shown.condition}, traffic on {shown.assigned}"
