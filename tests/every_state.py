"""Every reachable state of a small world: two nodes, one load balancer, one prober, one operator.

The search is exhaustive: from nothing saved it takes every event in every state until no new state
appears. Nothing here decides. Evidence is folded and judged by `core`; what is saved is changed by
the controller's own code and what is written by the reconciler's, run by hand, one step at a time,
without an event loop (one start at a time aside). `Story`, `judge_saved` and `Wire` hold it against
rules that they know from the guide alone. The search itself is in `test_every_state.py`.

Time is counted in ticks of two seconds. A probe starts on an even second and ends on the odd one
after it, or (a slow one) started a tick earlier. All else happens on the odd second, now. So no two
moments that the core compares are equal by accident, and `NOW` never moves: times are ages.

Ages are clipped at `OLD` ticks, and no answer changes by that. The core compares
  * the start of a reading with `max_age`: OLD is beyond it, and stays beyond it;
  * the start of the Secondary's answer with the start of the counted failures: only where the
    answer is fresh, so younger than OLD, and then every clipped start is before it;
  * the end of the last failure with the start of the counted ones (`confirm`): only where the last
    is fresh, and from OLD to the end of a fresh one is `confirm` or more;
  * the start of a new probe with the floor: a slow one is one tick old, so a floor of OLD is before
    every new probe;
  * the moment of the move with `serving_deadline`, which is OLD ticks; before it is over its age is
    exact, and an answer that old was given before the move.
Counts are clipped at `fall` and `rise`; the core asks no more than whether they are reached. Of a
generation only matters whether the load balancer is known to carry out the present one.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from lb_probe.controller import Ask, Controller, OfflineNote, Setup
from lb_probe.controller.group import Runtime
from lb_probe.core import drift
from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence, PageEvidence
from lb_probe.core.model import (
    Decision,
    Event,
    Failed,
    Group,
    Hold,
    Mode,
    Node,
    Observation,
    Page,
    Passed,
    Phase,
    Role,
    Saved,
    Seen,
)
from lb_probe.ports import PublishError, Record, Refused, Unreachable
from lb_probe.reconcile import Reconciler, Wanted

A, B = "a", "b"
TICK_S, NOW, OLD = 2, 1001, 2
MAX_AGE_S, DEADLINE_S = 3, OLD * TICK_S  # of this tick and of the last one: fresh
KEYS = ((A, Page.STATUS), (A, Page.HASTATUS), (B, Page.STATUS), (B, Page.HASTATUS))
DOWN = -1  # in place of what a prober knows


class BrokenError(AssertionError):
    """A rule does not hold; the text says which, and the shortest story that leads there."""


@dataclass(frozen=True)
class Bounds:
    """How large one world is.

    `slow` pages may answer a tick late. `shows` limits what a page is seen to answer. With `rounds`
    a tick passes and all pages in turn answer one of these, where that much is enough.
    """

    name: str
    fall: int = 2
    rise: int = 1
    confirm_s: int = 3  # the next tick; 0: at once
    act: bool = True
    swaps: bool = False
    holds: tuple[str, ...] = ()
    links: bool = False  # cut and back, noticed by the reference targets
    balancer: bool = False  # followed step by step; else it may say anything at any time
    opens: frozenset[str] = frozenset()  # what a restarted load balancer does until told
    slow: frozenset[tuple[str, Page]] = frozenset()
    shows: dict[tuple[str, Page], tuple[str, ...]] = field(default_factory=dict, hash=False)
    rounds: tuple[tuple[str, ...], ...] = ()

    @property
    def group(self) -> Group:
        nodes = (Node(A, Role.PRIMARY), Node(B, Role.SECONDARY, candidate=True))
        return Group(
            "g",
            nodes,
            act=self.act,
            adapters=("lb",),
            fall=self.fall,
            rise=self.rise,
            confirm_s=self.confirm_s,
            max_age_s=MAX_AGE_S,
            serving_deadline_s=DEADLINE_S,
        )


class Word(NamedTuple):
    """What is saved; `behind`: the load balancer is not known to carry it out."""

    assigned: str | None
    latched: bool
    hold: str  # "", "hold" or "hands-off"
    swapped: bool
    behind: bool


NO_WORD = Word(None, False, "", False, True)


def home(word: Word) -> str:
    return B if word.swapped else A


def other(node: str) -> str:
    return A if node == B else B


# ------------------------------------------------------------------ evidence, made finite
def _age(at: float, now: int) -> int:
    return min(OLD, int(now - at) // TICK_S)


def _began(age: int) -> int:
    return NOW - 1 - TICK_S * age


def _seen(key: tuple[str, Page], began: int, ended: int, word: str) -> Observation:
    if word == "fail":
        return Observation(*key, began, ended, Failed(Phase.STATUS, "503"))
    return Observation(*key, began, ended, Passed(None if word == "ok" else Mode(word)))


def _reading(key: tuple[str, Page], age: int, word: str) -> Observation:
    return _seen(key, _began(age), _began(age) + 1, word)


class Shape:
    """Turns `Evidence` into a small tuple and back; what nothing reads any more is left out.

    A stale word of the Secondary is kept: nothing but the core's own look at its age may keep it
    from being read.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._made: dict[object, PageEvidence] = {}
        self._known: dict[int, object] = {}  # by id: what is made stays, and is met again

    def tuple_of(self, evidence: Evidence, now: int) -> tuple[object, ...]:
        moved = None if evidence.moved_at is None else _age(evidence.moved_at, now)
        return (
            _age(evidence.floor, now),
            moved,
            *(self._page(key, evidence, now) for key in KEYS),
        )

    def _page(self, key: tuple[str, Page], evidence: Evidence, now: int) -> object:
        page = evidence.page(*key)
        if page.last is None:
            return None
        if now == NOW and id(page) in self._known:
            return self._known[id(page)]
        may_be_home = self._bounds.swaps or key[0] == A
        if key[1] is Page.STATUS:
            return self._status(page, evidence.moved_at, now, may_be_home)
        if key[0] == A and not self._bounds.swaps:  # read for one thing only: a fresh Standby
            is_standby = isinstance(page.last.outcome, Passed) and _mode(page.last) == "standby"
            age = _age(page.last.started_at, now)
            return ("ok", age, "standby") if is_standby and age < OLD else None
        return self._hastatus(page, now)

    def _status(
        self, page: PageEvidence, moved_at: float | None, now: int, may_be_home: bool
    ) -> object:
        assert page.last is not None
        fall, rise = self._bounds.fall, self._bounds.rise
        age = _age(page.last.started_at, now)
        if page.passes:
            return ("ok", age, min(page.passes, rise), page.good)
        answered = None  # asked for one thing: was it after the move?
        if moved_at is not None and page.answered and page.answered.started_at >= moved_at:
            answered = _age(page.answered.started_at, now)
        if answered == OLD:
            answered = None
        row: tuple[int | None, ...] = ()
        if may_be_home:
            since = _age(page.counted_since, now) if page.counted else None
            ended = _age(page.last.ended_at, now) if age < OLD else OLD
            failing = OLD if page.counted else _age(page.failing_since, now)
            row = (min(page.counted, fall), since, failing, ended)
        return ("fail", age, min(page.fails, fall), page.good, answered, row)

    def _hastatus(self, page: PageEvidence, now: int) -> object:
        assert page.last is not None
        age = _age(page.last.started_at, now)
        if page.passes:
            return ("ok", age, _mode(page.last))
        answered = None
        if page.answered is not None and page.fails < self._bounds.fall:
            answered = (_age(page.answered.started_at, now), _mode(page.answered))
        return ("fail", age, min(page.fails, self._bounds.fall), answered)

    def evidence_of(self, shape: tuple[object, ...]) -> Evidence:
        floor, moved, *pages = shape
        made = {k: self._one(k, p) for k, p in zip(KEYS, pages, strict=True) if p is not None}
        return Evidence(
            floor=NOW - TICK_S * floor,
            pages=made,
            moved_at=None if moved is None else NOW - TICK_S * moved,
        )

    def _one(self, key: tuple[str, Page], shape: tuple) -> PageEvidence:
        if (key, shape) not in self._made:
            page = self._made[key, shape] = self._rebuilt(key, shape)
            is_of_a_move = key[1] is Page.STATUS and shape[0] == "fail" and shape[4] is not None
            if not is_of_a_move:  # else its shape depends on more than the page
                self._known[id(page)] = shape
        return self._made[key, shape]

    def _rebuilt(self, key: tuple[str, Page], page: tuple) -> PageEvidence:
        if page[0] == "ok":
            is_status = key[1] is Page.STATUS
            last = _reading(key, page[1], "ok" if is_status else page[2])
            passes, good = (page[2], page[3]) if is_status else (1, True)
            return PageEvidence(last=last, answered=last, passes=passes, good=good)
        age, fails = page[1], page[2]
        last = _reading(key, age, "fail")
        if key[1] is Page.HASTATUS:
            answered = page[3] and _reading(key, *page[3])
            return PageEvidence(last=last, answered=answered, fails=fails)
        answered = None if page[4] is None else _reading(key, page[4], "ok")
        counted, since, failing, ended = page[5] or (0, None, age, age)
        return PageEvidence(
            last=replace(last, ended_at=NOW - TICK_S * ended),
            answered=answered,
            fails=fails,
            failing_since=_began(failing),
            counted=counted,
            counted_since=0.0 if since is None else _began(since),
            good=page[3],
        )


def _mode(reading: Observation) -> str:
    mode = reading.outcome.mode if isinstance(reading.outcome, Passed) else None
    return (mode or Mode.UNKNOWN).value


# ------------------------------------------------------------------ what really happened
class Story(NamedTuple):
    """The judge's own short memory of what was seen, in ages; it never asks the core.

    Attributes:
        floor: Failures of the Primary that started before it count for nothing.
        row: Failures of the Primary without a break since the floor, at most `fall`.
        first: Start of the first of the row. ended: End of the last one. last: Its start.
        said: For A and B: the latest word of hastatus and when it was asked; None before.
    """

    floor: int = 0
    row: int = 0
    first: int = 0
    last: int = 0
    ended: int = 0
    said: tuple[tuple[str, int] | None, tuple[str, int] | None] = (None, None)

    def older(self) -> "Story":
        said = tuple(s and (s[0], min(OLD, s[1] + 1)) for s in self.said)
        ages = (min(OLD, n + 1) for n in (self.first, self.last, self.ended))
        return Story(min(OLD, self.floor + 1), self.row, *ages, said).plain()

    def plain(self) -> "Story":
        """Forget what can no longer matter: the word of a stale answer, the ages of no row."""
        said = tuple(
            s and ("fail" if s[0] == "fail" else "?", OLD) if s and s[1] == OLD else s
            for s in self.said
        )
        if not self.row:
            return self._replace(first=0, last=0, ended=0, said=said)
        return self._replace(said=said)

    def interrupted(self) -> "Story":
        """The link is back, the loop was away, a hold or an incident ended: begin to count anew."""
        return self._replace(floor=0, row=0).plain()

    def saw(self, key: tuple[str, Page], word: str, began: int, primary: str, fall: int) -> "Story":
        """Add one answer; `began` is the age of its start."""
        node, page = key
        if page is Page.HASTATUS:
            i = (A, B).index(node)
            begins = word != "fail" and (self.said[i] is None or self.said[i][0] == "fail")
            said = tuple((word, began) if n == i else s for n, s in enumerate(self.said))
            story = self._replace(said=said)
            # When the Secondary begins to answer, our own link may just have come back (X19).
            return story.interrupted() if begins and node != primary else story.plain()
        if node != primary:
            return self
        if word == "ok":
            return self._replace(row=0).plain()
        if began >= self.floor:  # ages: it began before the floor
            return self
        first = self.first if self.row else began
        return self._replace(row=min(fall, self.row + 1), first=first, last=began, ended=0)

    def forbids(self, word: Word, bounds: Bounds) -> str:
        """Say why traffic must not move by itself; empty where it may."""
        said = self.said[(A, B).index(other(home(word)))]
        lasted = TICK_S * (self.first - self.ended) + 1
        reasons = {
            "X16: moved or latched already": word.latched or word.assigned != home(word),
            "X4: a hold": bool(word.hold),
            "X10: act is false": not bounds.act,
            f"X19: {self.row} failures count": self.row < bounds.fall,
            "confirm: failed for too short a time": lasted < bounds.confirm_s,
            "X19: the Primary's reading is stale": self.last >= OLD,
            "X22: the Secondary does not say Standby": said is None or said[0] != "standby",
            "X19: the Secondary's reading is too old": said is None
            or said[1] >= OLD
            or said[1] > self.first,
        }
        return "; ".join(why for why, is_so in reasons.items() if is_so)


class Knowledge:
    """What one prober knows, as a number: its evidence beside the judge's story of the same."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._shape = Shape(bounds)
        self._numbers: dict[object, int] = {}
        self.evidence: list[Evidence] = []
        self.story: list[Story] = []
        self._groups = {False: bounds.group, True: bounds.group.with_roles(_roles(swapped=True))}
        self._after_probes = cache(self._probed)
        self.older = cache(self._older)
        self.changed = cache(self._changed)

    def number(self, evidence: Evidence, story: Story, now: int = NOW) -> int:
        shape = (self._shape.tuple_of(evidence, now), story)
        if shape not in self._numbers:
            self._numbers[shape] = len(self._numbers)
            self.evidence.append(self._shape.evidence_of(shape[0]))
            self.story.append(story)
        return self._numbers[shape]

    def _older(self, known: int) -> int:
        """A tick passes; nothing was seen."""
        return self.number(self.evidence[known], self.story[known].older(), NOW + TICK_S)

    def _changed(self, known: int, is_floor_raised: bool, moved_at: str) -> int:
        """Return what is known after the controller applied a saved state."""
        evidence = self.evidence[known]
        if is_floor_raised:
            evidence = ev.raise_floor(evidence, NOW)
        if moved_at != "kept":
            evidence = replace(evidence, moved_at=NOW if moved_at == "now" else None)
        return self.number(evidence, self.story[known])

    def told(self, known: int) -> int:
        """Tell the judge alone that what was counted so far counts no more."""
        return self.number(self.evidence[known], self.story[known].interrupted())

    def probed(self, known: int, word: Word) -> list[tuple[str, int]]:
        """Return what may be known after what can be seen now; of a word, two things matter."""
        return self._after_probes(
            known, NO_WORD._replace(assigned=word.assigned, swapped=word.swapped)
        )

    def _probed(self, known: int, word: Word) -> list[tuple[str, int]]:
        """Return what may be known after each probe, or round of probes, that can end now."""
        if self._bounds.rounds:
            return [self._round(known, word, answers) for answers in self._bounds.rounds]
        evidence, story = self.evidence[known], self.story[known]
        after = []
        for key, says, age in self._possible(evidence):
            label = f"{key[0]} {key[1].value}: {says}{', slow' if age else ''}"
            after.append((label, self.number(*self._fold(evidence, story, word, key, says, age))))
        return after

    def _fold(
        self,
        evidence: Evidence,
        story: Story,
        word: Word,
        key: tuple[str, Page],
        says: str,
        age: int = 0,
    ) -> tuple[Evidence, Story]:
        group = self._groups[word.swapped]
        seen = _seen(key, _began(age), NOW, says)
        evidence = ev.fold(evidence, seen, group, ev.watched(group, word.assigned))
        if self._bounds.swaps or key != (A, Page.HASTATUS):
            story = story.saw(key, says, age, home(word), self._bounds.fall)
        return evidence, story

    def _round(self, known: int, word: Word, answers: tuple[str, ...]) -> tuple[str, int]:
        older = self.older(known)
        evidence, story = self.evidence[older], self.story[older]
        for key, says in zip(KEYS, answers, strict=True):
            evidence, story = self._fold(evidence, story, word, key, says)
        return f"round: {', '.join(answers)}", self.number(evidence, story)

    def _possible(self, evidence: Evidence) -> Iterator[tuple[tuple[str, Page], str, int]]:
        for key in KEYS:
            usual = ("ok", "fail") if key[1] is Page.STATUS else MODES
            last = evidence.page(*key).last
            for says in self._bounds.shows.get(key, usual):
                yield key, says, 0
                # One page is asked once at a time: a slow probe began after the last one.
                if key in self._bounds.slow and (last is None or last.started_at < _began(1)):
                    yield key, says, 1


MODES = ("standby", "primary", "unknown", "fail")


def _roles(swapped: bool) -> dict[str, Role] | None:
    return {A: Role.SECONDARY, B: Role.PRIMARY} if swapped else None


# ------------------------------------------------------------------ what is saved
GENERATION = 5


class Now:
    """Clock port at one moment; waiting never helps here."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return NOW + self.passed

    def wall(self) -> float:
        return NOW + self.passed

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.passed += seconds
        return False


class Paper:
    """Store port: one group, and everything that was committed."""

    def __init__(self, saved: dict[str, Saved]) -> None:
        self.saved = saved
        self.committed: list[tuple[int, Saved, Record]] = []

    async def load(self):
        return dict(self.saved)

    async def commit(self, group, saved, *, expect, record):
        self.committed.append((expect, saved, record))

    async def note(self, record):
        pass


class Silent:
    """Publisher and event ports that keep still: only `first_look` is asked."""

    name, type = "lb", "model"

    def __init__(self, chosen: str | None) -> None:
        self.chosen = chosen

    async def read_back(self) -> Seen:
        if self.chosen is None:
            raise Unreachable("no answer")
        return look(self.chosen, "run-1")

    def emit(self, event: Event) -> None:
        pass


def look(chosen: str, run: str) -> Seen:
    return Seen(chosen if len(chosen) == 1 else None, tuple(chosen), None, run)


def by_hand(steps: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end what has nothing to wait for."""
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")


class After(NamedTuple):
    """What came of a step that may save.

    Attributes:
        moved_at: What became of `Evidence.moved_at`: kept, now or none.
        watch: The reconciler's own memory; None where it stayed.
    """

    word: Word
    is_floor_raised: bool
    moved_at: str
    kind: str
    by_itself: bool
    watch: tuple[drift.Watch, bool] | None = None


class Book:
    """The controller's own code, asked what it would save and apply in any state."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.started = cache(self._started)
        self.commanded = cache(self._commanded)
        self.wanted = cache(lambda word: self._at(word)[1].reconcilers[0].wanted)
        self.interruptions = self._interruptions()
        self._moves: dict[tuple[str, Word], After] = {}
        self._deciders: dict[tuple[Word, bool], tuple[Controller, Runtime]] = {}

    def saved(self, word: Word) -> Saved:
        hold = Hold("ops", "work", 1e9, word.hold == "hands-off") if word.hold else None
        return Saved(
            word.assigned,
            word.latched,
            hold,
            _roles(word.swapped),
            generation=0 if word == NO_WORD else GENERATION,
            confirmed={"lb": GENERATION - word.behind},
        )

    def _at(self, word: Word) -> tuple[Controller, Runtime, Paper]:
        """Return a running controller that has saved this word."""
        silent, paper, setup_of = Silent(None), Paper({}), self.bounds.group
        setup = Setup(setup_of, (silent,))
        controller = Controller([setup], paper, Now(), silent)
        runtime = Runtime(setup, Saved(), NOW)
        runtime.reconcilers = [controller._reconciler(runtime, silent)]
        controller._groups["g"] = runtime
        controller._apply(runtime, self.saved(word), 0.0)
        runtime.evidence = Evidence(floor=-1.0, moved_at=-1.0)
        return controller, runtime, paper

    def decision(self, evidence: Evidence, word: Word, isolated: bool) -> Decision:
        if (word, isolated) not in self._deciders:
            controller, runtime, _ = self._at(word)
            controller._vantage.is_isolated = isolated
            self._deciders[word, isolated] = controller, runtime
        controller, runtime = self._deciders[word, isolated]
        runtime.evidence = evidence
        return controller._decide(runtime)

    def by_itself(self, what: str, evidence: Evidence, word: Word) -> After:
        """Let the controller fail over or end a hold, where it has decided to.

        That it may is the decision's; what is saved then is the same for any evidence.
        """
        if (what, word) not in self._moves:
            controller, runtime, paper = self._at(word)
            runtime.evidence = evidence
            work = controller._fail_over if what == "fails over" else controller._lapse
            by_hand(work(runtime))
            self._moves[what, word] = self._after(word, runtime, paper)
        return self._moves[what, word]

    def _commanded(self, word: Word, verb: str, to: str | None, said: str) -> After | None:
        """Carry out what a bold operator asks, every gate opened that can be; None if refused.

        Gates that look at evidence can all be opened. Who is less bold gets the same or nothing.
        """
        controller, runtime, paper = self._at(word)
        reconciler = runtime.reconcilers[0]
        reconciler.seen = look(said, "run-1") if said != "?" else None
        hands_off = to == "hands-off"
        ask = Ask(verb, "ops", "because", to=None if hands_off else to, hands_off=hands_off)
        ask = replace(ask, hold_s=1e6 if verb == "hold" else None)
        gates = controller.plan("g", ask).gates
        ask = replace(
            ask,
            override=frozenset(g.id for g in gates if g.open_with == "override"),
            attest={g.id: "yes" for g in gates if g.open_with == "attest"},
        )
        try:
            by_hand(controller.act("g", ask))
        except Refused:
            return None
        watch = (reconciler._watch, reconciler._force)
        return self._after(word, runtime, paper, watch if reconciler._force else None)

    def _started(self, word: Word, chosen: str | None, note: str | None) -> After:
        """Start a prober that finds this saved and reads `chosen`; None: nothing can be read."""
        paper = Paper({} if word == NO_WORD else {"g": self.saved(word)})
        silent = Silent(chosen)
        setup = Setup(self.bounds.group, (silent,))
        controller = Controller([setup], paper, Now(), silent)
        offline = {"g": OfflineNote(note, "ops", "because", NOW)} if note else {}
        asyncio.run(controller.start(offline))
        runtime = controller._groups["g"]
        reconciler = runtime.reconcilers[0]
        return self._after(word, runtime, paper, (reconciler._watch, reconciler._force))

    def _after(self, word: Word, runtime: Runtime, paper: Paper, watch=None) -> After:
        saved, at = runtime.saved, runtime.evidence.moved_at
        hold = "" if saved.hold is None else "hands-off" if saved.hold.hands_off else "hold"
        swapped = bool(saved.roles) and saved.roles[B] is Role.PRIMARY
        before = self.saved(word)
        behind = saved.confirmed.get("lb", -1) < saved.generation
        then = Word(saved.assigned, saved.latched, hold, swapped, behind)
        judge_saved(word, then, before, paper)
        change = paper.committed[0][1].last_change if paper.committed else None
        return After(
            then,
            runtime.evidence.floor >= NOW,
            "none" if at is None else "now" if at >= NOW else "kept",
            change.kind if change else "",
            change is not None and change.actor == "lb-probe",
            watch,
        )

    def _interruptions(self) -> dict[str, bool]:
        """Which interruptions raise the floor."""
        controller, runtime, _ = self._at(NO_WORD)
        controller.references({"gateway": False})
        controller.tick()
        assert controller._vantage.is_isolated
        was = runtime.evidence.floor
        controller.references({"gateway": True})
        controller.tick()
        assert not controller._vantage.is_isolated
        raised = {"link back": runtime.evidence.floor > was}
        runtime.evidence = Evidence(floor=-1.0)
        controller.stalled(2.0)
        return raised | {"loop stalled": runtime.evidence.floor > -1.0}


def judge_saved(word: Word, then: Word, before: Saved, paper: Paper) -> None:
    """Judge one step that may save: X1, X3, X4, X16, one record for each change."""
    for expect, saved, record in paper.committed:
        grows = expect == before.generation and saved.generation == before.generation + 1
        is_one = len(paper.committed) == 1 and record.generation == saved.generation
        if not (grows and is_one and saved.last_change and record.kind == saved.last_change.kind):
            raise BrokenError(
                f"{word} -> {then}: generation {expect} -> {saved.generation}, or no"
                " record of its own"
            )
    kind, by_itself = "", True
    if paper.committed:
        change = paper.committed[0][1].last_change
        # What `publish --offline` left behind is an operator's word, told by the prober.
        kind, by_itself = change.kind, change.actor == "lb-probe" and change.kind != "offline"
    elif word[:4] != then[:4]:
        raise BrokenError(f"{word} -> {then}: changed and not saved")
    broken = {
        "X3: traffic for no one node": then.assigned is None and word.assigned is not None,
        "X1: moved and not latched": then.assigned not in (None, home(then)) and not then.latched,
    }
    if by_itself:
        moved = word.assigned not in (None, then.assigned)
        is_home = word.assigned == home(word)
        is_armed = is_home and not word.latched and not word.hold
        broken |= {
            "X1: back to the Primary": moved and then.assigned == home(word),
            "X1: the latch was dropped": word.latched and not then.latched,
            "X4: the hold was dropped": word.hold != then.hold and kind != "hold-lapsed",
            "X16: moved though not armed": kind == "failover" and not is_armed,
            "X18: adopted though moved already": moved and kind == "adopt" and not is_home,
            "moved for no reason": moved and kind not in ("failover", "adopt"),
            "adopted against a change not yet confirmed": moved and kind == "adopt" and word.behind,
            "the roles were swapped": word.swapped != then.swapped,
        }
    told = "; ".join(text for text, is_so in broken.items() if is_so)
    if told:
        raise BrokenError(f"{told}: {word} -> {then} by {kind or 'nobody'}")


# ------------------------------------------------------------------ what is written
class Line(NamedTuple):
    """The load balancer, and how far the reconciler's turn is.

    Attributes:
        chosen: "", "a", "b" or "ab": nodes it sends traffic to.
        is_new: It restarted since the reconciler last saw it in sync.
        force, agreed, drifts, yielded: The reconciler's own memory.
        step: What the turn waits for: `idle` (or its first reading), `publish`, `read back`,
            `confirm`.
        node: Node it publishes. is_present: It confirms the present generation.
    """

    chosen: str
    is_up: bool = True
    is_new: bool = False
    force: bool = False
    agreed: bool = False
    drifts: int = 0
    yielded: bool = False
    step: str = "idle"
    node: str = ""
    is_present: bool = False

    def remembering(self, watch: drift.Watch, force: bool) -> "Line":
        run = "run-2" if self.is_new else "run-1"
        return self._replace(
            is_new=watch.instance != run,
            force=force,
            agreed=watch.agreed,
            drifts=0 if watch.yielded else len(watch.drifts),
            yielded=watch.yielded,
        )

    def forgotten(self) -> "Line":
        """The prober is gone; only the load balancer is left."""
        return Line(self.chosen, self.is_up)


class _Await:
    """One moment at which the reconciler waits for the outside, and somebody else may act."""

    def __init__(self, *what: object) -> None:
        self._what = what

    def __await__(self):
        return (yield self._what)


class _Port:
    name, type = "lb", "model"

    async def read_back(self) -> Seen:
        return await _Await("read")

    async def publish(self, node: str) -> None:
        await _Await("publish", node)


class Wire:
    """The reconciler's own turn, from each moment at which it waits to the next."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.steps = cache(self._steps)
        self.elsewhere = cache(self._elsewhere)
        self.memory_after = cache(self._memory_after)

    def _reconciler(self, word: Word, line: Line) -> Reconciler:
        async def confirm(adapter: str, generation: int) -> bool:
            return await _Await("confirm", generation)

        reconciler = Reconciler(
            "g", _Port(), Now(), Silent(None), confirm=confirm, confirmed=-1, changed=lambda: None
        )
        self._remember(reconciler, word, line)
        return reconciler

    def _remember(self, reconciler: Reconciler, word: Word, line: Line) -> None:
        reconciler._wanted = replace(self._book.wanted(word), generation=GENERATION)
        reconciler.confirmed = GENERATION - word.behind
        drifts = (float(NOW),) * line.drifts
        reconciler._watch = drift.Watch("run-1", line.agreed, drifts, line.yielded)
        reconciler._force = line.force

    def _suspended(self, word: Word, line: Line) -> tuple[Reconciler, Coroutine[Any, Any, Any]]:
        """Bring a turn to where `line` says it waits, with everything as it is by now."""
        reconciler = self._reconciler(word, line)
        turn = reconciler._turn()
        if line.step != "idle":
            generation = GENERATION if line.is_present else GENERATION - 1
            reconciler._wanted = Wanted(line.node, generation, may_write=True)
            reconciler.confirmed, reconciler._force = generation - 1, True
            reconciler._watch = drift.Watch("run-1")
        turn.send(None)
        replies = (look("", "run-1"), None, look(line.node, "run-1"))
        for reply in replies[: STEPS.index(line.step)]:
            turn.send(reply)
        self._remember(reconciler, word, line)
        return reconciler, turn

    def _steps(self, word: Word, line: Line) -> list[tuple[str, Word, Line]]:
        """Return what may come of the moment the turn waits for."""
        after = []
        for label, reply, chosen in self._replies(line):
            reconciler, turn = self._suspended(word, line)
            then_word, there = word, line._replace(chosen=chosen, step="idle", node="")
            if line.step == "confirm" and reply is True and line.is_present:
                then_word = word._replace(behind=False)
            try:
                waits = turn.throw(reply) if isinstance(reply, Exception) else turn.send(reply)
                there = self._judged(word, line, there, waits, reply)
            except (StopIteration, PublishError):
                pass
            after.append(
                (label, then_word, there.remembering(reconciler._watch, reconciler._force))
            )
            turn.close()
        return after

    def _replies(self, line: Line) -> Iterator[tuple[str, object, str]]:
        here = line.chosen
        if line.step == "confirm":
            yield "confirmation saved", True, here
            yield "confirmation not saved", False, here
        elif not line.is_up:
            yield f"{line.step}: no answer", Unreachable("no answer"), here
        elif line.step == "publish":
            yield f"publish {line.node}", None, line.node
            yield f"publish {line.node}: outcome unknown", PublishError("?"), line.node
            yield f"publish {line.node}: refused", PublishError("no"), here
        else:
            run = "run-2" if line.is_new else "run-1"
            yield f"read {here or 'neither'}", look(here, run), here

    def _judged(
        self, word: Word, line: Line, there: Line, waits: tuple[Any, ...], reply: object
    ) -> Line:
        if waits[0] == "publish":
            broken = {
                "published what is not saved": waits[1] != word.assigned,
                "written with hands off": word.hold == "hands-off",
                "X10: written though act is false": not self._book.wanted(word).may_write
                or not self._book.bounds.act,
                "written where somebody else writes": line.yielded,
                "X3: written for no one node": waits[1] not in (A, B),
            }
            told = "; ".join(text for text, is_so in broken.items() if is_so)
            if told:
                raise BrokenError(f"{told}: {waits[1]} under {word}")
            return there._replace(step="publish", node=waits[1])
        if waits[0] == "read":
            return there._replace(step="read back", node=line.node)
        is_present = waits[1] == GENERATION
        if is_present and not (isinstance(reply, Seen) and reply.node == word.assigned):
            raise BrokenError(f"confirmed what was not read back: {reply} under {word}")
        return there._replace(step="confirm", node=A, is_present=is_present)

    def taken_back(self, word: Word, line: Line) -> Line:
        memory = line.force, line.agreed, line.drifts, line.yielded
        return line.remembering(*self.memory_after(word, *memory))

    def _memory_after(
        self, word: Word, force: bool, agreed: bool, drifts: int, yielded: bool
    ) -> tuple[drift.Watch, bool]:
        """Take the load balancer back with this in mind; of the line it asks no more."""
        line = Line("", force=force, agreed=agreed, drifts=drifts, yielded=yielded)
        reconciler = self._reconciler(word, line)
        reconciler.take_back()
        return reconciler._watch, reconciler._force

    def _elsewhere(self, line: Line) -> list[tuple[str, Line]]:
        """Return what may happen to the load balancer without us."""
        opens = "".join(sorted(self._book.bounds.opens))
        after = [
            ("load balancer restarts", line._replace(chosen=opens, is_new=True)),
            ("load balancer unreachable", line._replace(is_up=False)),
            ("load balancer reachable", line._replace(is_up=True)),
            ("a minute passes", line._replace(drifts=0)),
        ]
        for chosen in ("", A, B, A + B):
            after.append((f"set to {chosen or 'neither'} by hand", line._replace(chosen=chosen)))
        return after


STEPS = ("idle", "publish", "read back", "confirm")
