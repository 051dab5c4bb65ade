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
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup

from lb_probe.admin.page.card import (
    Card,
    card,
    history_lines,
    live_texts,
    standing,
    way_back,
)
from lb_probe.admin.page.levels import Headline, Level, Standing, headline
from lb_probe.admin.page.pool_card import pool_card, pool_live_texts, pool_standing
from lb_probe.admin.page.traces import RECORDS, Traces
from lb_probe.core.acts import Plan
from lb_probe.core.model import Event
from lb_probe.core.pool_view import PoolView
from lb_probe.core.view import iso
from lb_probe.groups import AnyView, Groups, max_age_of
from lb_probe.history import CHANGES
from lb_probe.ports import Clock, Span, StoreError

GATHER_S = 0.02  # what happens together is drawn together
PAUSE_S = 0.05  # between two drawings, however much happens
SWEEP_S = 5.0  # what changes without an event is seen by then
RENEW_S = 15.0  # drawings of cards move on
BEAT_S = 1.0
WHOLE_CARDS = 12  # the worst, each with all there is; the others are rows of a table
CALM_CARDS = 3  # so few groups are shown whole even while they are well
RING = 256  # changes kept for those who read on, and their bytes
RING_BYTES = 2_000_000
CHUNK = 20  # groups drawn in one step of the loop
HISTORY = 12  # changes shown
HISTORY_READ = 1000  # records that are looked through for them
HISTORY_PAUSE_S = 1.0
DAY_S = 86_400.0
STALE_S = 5.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One group as it was drawn last."""

    card: Card
    whole: bool
    html: str


class Board:
    """What everybody with one scope sees.

    Attributes:
        readers: How many follow it now.

    Args:
        names: The groups of the scope, in the order of the file.
        alone: One group on a page of its own: whole, whatever its state.
    """

    def __init__(
        self,
        controller: Groups,
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
        self._known = controller.names
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
        self._stands: dict[str, Standing] = {}
        self._swept_at = self._renewed_at = self._drawn_at = self._history_at = -1e9
        self._history_due = True
        self._history = ""
        self._head = ""
        self._line = Headline("", Level.WAIT, "lb-probe")
        self._beat: tuple[float, bytes] = (-1e9, b"")
        self._all: tuple[int, Markup] = (-1, Markup())
        self._snapshot: tuple[int, bytes] = (-1, b"")
        self._limit_s = STALE_S
        self.readers = 0
        self.epoch = secrets.token_hex(4)
        self.sequence = 0
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=RING)

    @property
    def is_current(self) -> bool:
        """Whether no reload has brought other groups since it was made."""
        return self._controller.names == self._known

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
        if self.sequence and not self._is_due():
            return
        async with self._lock:  # who comes during the first drawing waits for it
            if self.sequence and not self._is_due():
                return
            since = self._clock.monotonic() - self._drawn_at
            await asyncio.sleep(max(GATHER_S if self._drawn else 0.0, PAUSE_S - since))
            self._drawn_at = self._clock.monotonic()
            await self._load()
            await self._draw()

    def _is_due(self) -> bool:
        now = self._clock.monotonic()
        return bool(self._dirty) or now - self._swept_at >= SWEEP_S or self._is_history_due(now)

    def _is_history_due(self, now: float) -> bool:
        return self._history_due and now - self._history_at >= HISTORY_PAUSE_S

    async def _load(self) -> None:
        if self._traces.is_loaded:
            return
        day = Span(since=self._clock.wall() - DAY_S, everything=True)
        try:
            # Conditions that lasted for long are found far back; marks of life are many.
            long_ago = await self._controller.history(None, RECORDS, Span())
            lately = await self._controller.history(None, RECORDS, day)
        except StoreError:
            return  # it is tried again; until then the bands begin with the process
        self._traces.load(long_ago, lately, self._controller.names)

    async def _draw(self) -> None:
        dirty, self._dirty = self._dirty, set()
        now = self._clock.monotonic()
        if now - self._swept_at >= SWEEP_S:
            self._swept_at, dirty = now, set(self.names)
        look = self._controller.looked
        looks = {name: look(name) async for name in _at_leisure(sorted(dirty))}
        if len(looks) == len(self.names):
            ages = [max_age_of(view) for view, _ in looks.values()]
            self._limit_s = max(STALE_S, 2 * min(ages, default=0.0))
        for name, (view, plan) in looks.items():
            self._stands[name] = _standing(view, plan)
        before, self._whole = self._whole, self._choose()
        renewed = before ^ self._whole
        if now - self._renewed_at >= RENEW_S:
            self._renewed_at, renewed = now, renewed | self._whole
        looks |= {name: look(name) for name in renewed - looks.keys()}
        changed = [
            (name, drawn)
            async for name in _at_leisure(list(looks))
            if (drawn := self._draw_group(name, *looks[name], is_forced=name in renewed))
        ]
        line = headline(list(self._stands.values()))
        history = await self._draw_history()
        if changed or history is not None or line != self._line:
            self._line = line
            self._head = str(self._parts.head(line))  # type: ignore[attr-defined]
            self._remember(changed, history)

    def _choose(self) -> frozenset[str]:
        """Return the groups that are shown whole: the worst, or all where there are few."""
        if self._alone or len(self.names) <= CALM_CARDS:
            return frozenset(self.names)
        ill = [(-s.level, s.name) for s in self._stands.values() if s.level >= Level.LOOK]
        return frozenset(name for _, name in sorted(ill)[:WHOLE_CARDS])

    def _draw_group(
        self, name: str, view: AnyView, plan: Plan | None, *, is_forced: bool
    ) -> Drawn | None:
        """Return a group as it is now; None where the last drawing still says it."""
        is_whole, level = name in self._whole, self._stands[name].level
        if isinstance(view, PoolView):
            shown = pool_card(view, self._traces, self._clock.wall(), level, whole=is_whole)
        else:
            shown = card(view, self._traces, plan, level, whole=is_whole)
        last = self._drawn.get(name)
        if last is not None and last.card == shown and not is_forced:
            return None
        html = self._group.render(card=shown, whole=is_whole, alone=self._alone)
        return Drawn(shown, is_whole, html)

    async def _draw_history(self) -> str | None:
        """Return the lines of history where they changed."""
        now = self._clock.monotonic()
        if not self._is_history_due(now):
            return None
        self._history_due, self._history_at = False, now
        try:
            name = self.names[0] if len(self.names) == 1 else None
            records = await self._controller.history(name, HISTORY_READ, Span())
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
        told = [(self._drawn[n].card, drawn.card) for n, drawn in changed if n in self._drawn]
        said = [_says(after) for before, after in told if _says(before) != _says(after)]
        rises = [after.level > max(before.level, Level.LOOK) for before, after in told]
        self._drawn.update(changed)
        self.sequence += 1
        content = {
            "groups": [
                {"name": name, "sort": d.card.sort, "whole": d.whole, "html": d.html}
                for name, d in changed
            ],
            "head": self._head,
            "title": self._line.title,
            "level": self._line.level.css,
            "history": history,
            "says": ". ".join(said[:3]),
            "alarm": any(rises),
        }
        self._ring.append((self.sequence, self._event("change", content)))
        while len(self._ring) > 1 and sum(len(data) for _, data in self._ring) > RING_BYTES:
            self._ring.popleft()

    def _event(self, name: str, content: object) -> bytes:
        place = f"{self.epoch}-{self.sequence}"
        return f"id: {place}\nevent: {name}\ndata: {json.dumps(content)}\n\n".encode()

    # -------------------------------------------------------------- reading
    def main(self) -> Markup:
        """Return all that is shown, as drawn last."""
        if self._all[0] != self.sequence:
            self._all = self.sequence, self._put_together()
        return self._all[1]

    def _put_together(self) -> Markup:
        order = sorted(self._drawn.values(), key=lambda drawn: drawn.card.sort)
        # Nothing is escaped here: all of it came out of our own templates, which did.
        text = self._main.render(
            head=Markup(self._head),  # noqa: S704
            whole=[Markup(drawn.html) for drawn in order if drawn.whole],  # noqa: S704
            rows=[Markup(drawn.html) for drawn in order if not drawn.whole],  # noqa: S704
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
        is_number = number.isascii() and number.isdigit() and len(number) < 19
        is_known = epoch == self.epoch and is_number
        if is_known and oldest - 1 <= int(number) <= self.sequence:
            return [data for sequence, data in self._ring if sequence > int(number)]
        if self._snapshot[0] != self.sequence:
            content = {
                "main": self.main(),
                "title": self._line.title,
                "level": self._line.level.css,
            }
            self._snapshot = self.sequence, self._event("snapshot", content)
        return [self._snapshot[1]]

    def beat(self) -> bytes:
        """Return the sign of life of this second: the age of the data, and texts of probes."""
        now = self._clock.monotonic()
        if now - self._beat[0] < BEAT_S * 0.9:
            return self._beat[1]
        texts: dict[str, str] = {}
        for name in self._whole:
            texts |= _live_texts(*self._controller.looked(name))
        age = max(0.0, now - self._traces.probed_at)
        content = {
            "at": iso(self._clock.wall()),
            "age": round(age, 1),
            "stale": age > self._limit_s,
            "texts": texts,
        }
        data = f"event: beat\ndata: {json.dumps(content)}\n\n".encode()
        self._beat = now, data
        return data


async def _at_leisure(names: Sequence[str]) -> AsyncGenerator[str]:
    """Yield names, and let others have the loop now and then: a probe must not wait for a page."""
    for place, name in enumerate(names):
        if place % CHUNK == CHUNK - 1:
            await asyncio.sleep(0)
        yield name


def _standing(view: AnyView, plan: Plan | None) -> Standing:
    if isinstance(view, PoolView):
        return pool_standing(view)
    return standing(view, way_back(plan))


def _live_texts(view: AnyView, plan: Plan | None) -> dict[str, str]:
    if isinstance(view, PoolView):
        return pool_live_texts(view)
    return live_texts(view, plan)


def _says(shown: Card) -> str:
    """Return what a screen reader is told when it changes."""
    return f"{shown.name}: {shown.condition}, traffic on {shown.assigned}"
