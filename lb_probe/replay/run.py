"""A prober that never was: one configuration, driven through what was recorded of the pages.

It decides with the real core (`evidence`, `failover`, `acts`) and probes by the rules of
`prober.schedule`: from start to start, at `recheck` while a verdict is open, beside one that is
overdue, the Secondary hurried while the Primary is doubtful. It differs where the real one hangs on
chance or on the world: a page's first probe is at the first recorded one after a start, no probe
starts late, a probe takes as long as the recorded one did (a timeout: this configuration's), saving
takes no time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lb_probe.core import acts
from lb_probe.core import evidence as ev
from lb_probe.core.evidence import Evidence
from lb_probe.core.failover import decide
from lb_probe.core.model import (
    Action,
    Automation,
    Decision,
    Failed,
    Mode,
    Observation,
    Page,
    Passed,
    Phase,
    Primary,
    Saved,
    Serving,
    Traffic,
)
from lb_probe.replay.plan import Flight, Setting, Slot
from lb_probe.replay.story import HOLDS, MOVES, Answer, Fault, Step, Story

_HANGS = (Phase.TIMEOUT, Phase.CONNECT_TIMEOUT)
LONGEST_ROUNDS = 100
_FLOORS = frozenset({"stalled", "clock-jumped", "rejoined", "lost"})
_BRAKES = frozenset({"witness", "isolated", "rejoined", "store-failed", "store-recovered"})


@dataclass(slots=True)
class Verdict:
    """What became of one fault in one run.

    Attributes:
        to: Where traffic moved; empty where it did not.
        after_s: Seconds from the fault's beginning to the move.
        elsewhere: Where traffic was when the fault began; empty while on the Primary.
        is_resumed: An operator is taken to have resumed before: this run had moved traffic when
            really nothing had.
        by_hand: Who moved traffic or swapped roles before this run moved, in words, and after how
            many seconds.
        counted: Most failures in a row that could support a move.
        span_s: Seconds from the start of the first of them to the end of the last.
        reached: Conditions in which the Primary had failed for good, and brakes, each with the
            seconds after which it was first reached.
    """

    to: str = ""
    after_s: float = 0.0
    elsewhere: str = ""
    is_resumed: bool = False
    by_hand: str = ""
    by_hand_s: float = 0.0
    counted: int = 0
    span_s: float = 0.0
    reached: dict[str, float] = field(default_factory=dict)


class Run:
    """One pass of one configuration through one story."""

    def __init__(self, setting: Setting, story: Story, *, may_skip: bool = True) -> None:
        self._setting = setting
        self._story = story
        self._may_skip = may_skip
        self._group = setting.group
        self._saved = story.first or Saved()
        self._evidence = Evidence(floor=0.0)
        self._decision: Decision | None = None
        self._now = self._stepped_at = 0.0
        self._answers: dict[tuple[str, Page], Answer] = {}
        self._slots: list[Slot] = []
        self._is_paused = self._is_isolated = self._is_store_broken = False
        self._objecting: frozenset[str] = frozenset()
        self._fault: Fault | None = None
        self._verdict = Verdict()

    def verdicts(self, faults: Sequence[Fault]) -> list[Verdict]:
        """Return what becomes of each fault, in their order."""
        begun: dict[int, list[Fault]] = {}
        for fault in faults:
            begun.setdefault(fault.step, []).append(fault)
        found: Mapping[Fault, Verdict] = self._play(begun)
        return [found[fault] for fault in faults]

    def _play(self, begun: Mapping[int, Sequence[Fault]]) -> dict[Fault, Verdict]:
        found: dict[Fault, Verdict] = {}
        for number, step in enumerate(self._story.steps):
            self._until(step.at)
            for fault in begun.get(number, ()):
                found[fault] = Verdict()
                if fault.node == self._group.primary:
                    self._fault, self._verdict = fault, found[fault]
                    self._begin_fault(self._story.saved[number], step.at)
                else:
                    found[fault].elsewhere = "?"
            if step.what == "died":
                self._linger(number)
            self._apply(step)
        self._linger(len(self._story.steps))
        return found

    def _linger(self, number: int) -> None:
        """Let the last word hold for one round: this run's probes come a little later than ours."""
        setting, steps = self._setting, self._story.steps
        end = steps[number].at if number < len(steps) else self._story.end
        end += setting.interval_s + setting.timeout_s
        self._until(min([end, *(step.at for step in steps[number + 1 : number + 2])]))

    def _begin_fault(self, really: Saved | None, at: float) -> None:
        group = self._setting.group.with_roles(really.roles if really else None)
        is_home = really is not None and really.assigned == group.primary and not really.latched
        if really is not None and is_home and self._saved.assigned != group.primary:
            # Nobody resumed what nobody moved: without this, the first move that only this
            # configuration makes would hide all later ones.
            self._take(really, at)
            self._verdict.is_resumed = True
        if ev.traffic(self._group, self._saved.assigned) is not Traffic.PRIMARY:
            self._verdict.elsewhere = self._saved.assigned or "nobody"

    # -------------------------------------------------------------- what happened
    def _apply(self, step: Step) -> None:
        self._now = self._stepped_at = max(self._now, step.at)
        if step.what == "saw":
            self._see(step)
        elif step.what in ("stopped", "died", "began", "lost"):
            self._forget(step)
        elif step.what == "paused":
            self._is_paused = True
        elif step.what == "stalled":
            self._wake(step.at)
        elif step.what in _BRAKES:
            self._brake(step)
        elif step.saved is not None:
            self._change(step, step.saved)
        if step.what in _FLOORS:
            self._evidence = ev.raise_floor(self._evidence, step.at)
        if self._slots:
            self._evaluate()

    def _brake(self, step: Step) -> None:
        if step.what == "witness":
            self._objecting = step.adapters & self._setting.witnesses
        elif step.what in ("isolated", "rejoined"):
            self._is_isolated = step.what == "isolated"
        else:
            self._is_store_broken = step.what == "store-failed"

    def _see(self, step: Step) -> None:
        key = (step.node, step.page)
        if step.answer is None or step.node not in self._group.names:
            return
        if key not in self._answers:
            self._slots.append(Slot(*key, planned=step.at))
            self._slots.sort(key=lambda slot: (slot.node, slot.page.value))
        self._answers[key] = step.answer

    def _forget(self, step: Step) -> None:
        """Nothing is known of any page until it is seen again."""
        self._answers.clear()
        self._slots.clear()
        self._is_paused = False
        if step.what != "began":
            return
        self._evidence = Evidence(floor=step.at)
        self._is_isolated = self._is_store_broken = False
        self._objecting = frozenset()
        if self._saved.generation == 0 and step.saved is not None:
            self._take(step.saved, step.at)

    def _wake(self, at: float) -> None:
        self._is_paused = False
        for slot in self._slots:
            slot.planned = max(slot.planned, at)
            for flight in slot.flights:
                flight.ends = max(flight.ends, at)

    def _change(self, step: Step, saved: Saved) -> None:
        if step.what == "roles-agreed":
            self._take(replace(self._saved, roles=None), step.at)
        elif step.what in HOLDS:
            self._take(replace(self._saved, hold=saved.hold), step.at)
        elif step.what in MOVES and (step.by or self._saved.generation == 0):
            was_home = ev.traffic(self._group, self._saved.assigned) is Traffic.PRIMARY
            self._take(saved, step.at)
            fault = self._fault
            is_meanwhile = fault is not None and (fault.end is None or step.at <= fault.end)
            if fault and is_meanwhile and was_home and saved.assigned != self._group.primary:
                did = "swapped roles" if step.what == "swap-roles" else "moved traffic"
                self._verdict.by_hand = f"{step.by} {did}"
                self._verdict.by_hand_s = step.at - fault.at

    def _take(self, saved: Saved, at: float) -> None:
        """Take a saved state into force, as the controller does."""
        before, self._saved = self._saved, replace(saved, generation=max(saved.generation, 1))
        self._group = self._setting.group.with_roles(saved.roles)
        if saved.assigned != before.assigned or saved.roles != before.roles:
            is_moved = saved.assigned not in (None, self._group.primary)
            waits = at if is_moved and saved.assigned != before.assigned else None
            self._evidence = replace(ev.raise_floor(self._evidence, at), moved_at=waits)
        ends_hold = before.hold is not None and saved.hold is None
        if ends_hold or (before.latched and not saved.latched):
            self._evidence = ev.raise_floor(self._evidence, at)

    # -------------------------------------------------------------- probing
    def _until(self, end: float) -> None:
        while self._slots and not self._is_paused:
            slot = min(self._slots, key=lambda slot: slot.due)
            if slot.due >= end:
                break
            self._now = max(self._now, slot.due)
            if slot.ends <= slot.planned:  # what came is read before it is missed
                self._end(slot, min(slot.flights, key=lambda flight: flight.ends))
                self._skip(end)
            elif slot.is_beside:
                self._overdue(slot)
            else:
                slot.base = slot.planned
                self._start(slot)

    def _overdue(self, slot: Slot) -> None:
        slot.planned = math.inf
        if not slot.failed and not slot.is_doubtful:
            slot.is_doubtful = True
            self._quicken()
        if slot.may_start_beside(self._group.fall):
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        answer = self._answers[slot.node, slot.page]
        slot.started = self._now
        slot.flights.append(Flight(self._now, self._now + self._took(answer), answer))
        slot.planned, slot.is_beside = self._now + slot.overdue_s(self._setting), True

    def _took(self, answer: Answer) -> float:
        if isinstance(answer.outcome, Failed) and answer.outcome.phase in _HANGS:
            return self._setting.timeout_s
        return min(answer.took_s, self._setting.timeout_s)

    def _end(self, slot: Slot, flight: Flight) -> None:
        younger = len(slot.flights) - slot.flights.index(flight) - 1
        slot.flights.remove(flight)
        slot.planned, slot.is_beside, slot.is_doubtful = math.inf, False, False
        if isinstance(flight.answer.outcome, Failed):
            slot.failed = [*slot.failed, flight.started][-self._group.fall :]
        else:
            younger = 0
            slot.passed(flight)
            if (slot.node, slot.page) == (self._group.primary, Page.STATUS):
                self._objecting = frozenset()  # nobody contradicts a Primary that answers
        outcome = flight.answer.outcome
        seen = Observation(slot.node, slot.page, flight.started, self._now, outcome)
        watched = ev.watched(self._group, self._saved.assigned)
        self._evidence = ev.fold(self._evidence, seen, self._group, watched)
        self._evaluate()
        self._plan_next(slot, younger)

    def _plan_next(self, slot: Slot, younger: int) -> None:
        recheck_s, fall = self._setting.recheck_s, self._group.fall
        if younger:
            if slot.may_start_beside(fall):
                slot.planned, slot.is_beside = max(slot.started + recheck_s, self._now), True
            return
        is_urgent = 0 < len(slot.failed) < fall or self._is_hurried(slot)
        due = slot.base + (recheck_s if is_urgent else self._setting.interval_s)
        if slot.started != slot.base:
            due = max(due, slot.started + recheck_s)
        slot.planned = min(slot.planned, max(due, self._now))

    def _is_hurried(self, slot: Slot) -> bool:
        node = ev.watched(self._group, self._saved.assigned)
        if (slot.node, slot.page) != (node, Page.HASTATUS):
            return False
        if ev.traffic(self._group, self._saved.assigned) is not Traffic.PRIMARY:
            return False
        if any(s.is_doubtful for s in self._slots if _is_of(s, self._group.primary)):
            return True
        is_asked = self._decision is not None and self._decision.action is Action.REPROBE
        return is_asked or ev.is_doubtful(self._evidence, self._group, self._now)

    def _quicken(self) -> None:
        for slot in self._slots:
            if not slot.flights and slot.started >= 0 and self._is_hurried(slot):
                soon = max(slot.started + self._setting.recheck_s, self._now)
                slot.planned = min(slot.planned, soon)

    # -------------------------------------------------------------- deciding
    def _brakes(self) -> tuple[str, ...]:
        brakes = {
            "hold": self._saved.hold is not None,
            "act": not self._group.act,
            "one-shot": self._saved.latched,
            "store-not-writable": self._is_store_broken,
            "lb-disagrees": bool(self._objecting),
        }
        return tuple(name for name, is_on in brakes.items() if is_on)

    def _evaluate(self) -> None:
        brakes = self._brakes()
        automation = Automation.BLOCKED if brakes else Automation.ARMED
        if self._is_isolated:
            automation = Automation.ISOLATED
        situation = ev.situation(
            self._evidence, self._group, self._saved.assigned, automation, self._now
        )
        decision = self._decision = decide(situation, brakes)
        if situation.serving is Serving.YES:
            self._evidence = ev.arrived(self._evidence)
        self._note(decision)
        if decision.action is Action.FAIL_OVER:
            self._move(decision)
        elif decision.action is Action.REPROBE or ev.is_doubtful(
            self._evidence, self._group, self._now
        ):
            self._quicken()

    def _move(self, decision: Decision) -> None:
        target = self._group.candidate
        state = acts.fail_over(
            self._saved,
            target,
            at_wall=self._now,
            rule=decision.rule,
            condition=decision.condition,
            why=(),
        )
        self._take(state, self._now)
        if self._fault is not None:
            self._verdict.to, self._verdict.after_s = target, self._now - self._fault.at

    def _note(self, decision: Decision) -> None:
        """Keep how far this fault came, for the reason why it moved nothing."""
        if self._fault is None or decision.situation.traffic is not Traffic.PRIMARY:
            return
        verdict, page = self._verdict, self._evidence.page(self._fault.node, Page.STATUS)
        after_s = self._now - self._fault.at
        if page.counted > verdict.counted and page.last is not None:
            verdict.counted = page.counted
            verdict.span_s = page.last.ended_at - page.counted_since
        if decision.situation.automation is Automation.ISOLATED and page.fails:
            verdict.reached.setdefault(decision.condition, after_s)
        elif decision.situation.primary is Primary.FAIL:
            brakes = f" ({', '.join(decision.blocked)})" if decision.blocked else ""
            verdict.reached.setdefault(f"{decision.condition}{brakes}", after_s)

    # -------------------------------------------------------------- leaving out what repeats
    def _skip(self, end: float) -> None:
        """Leave out rounds of probes that cannot change anything, each page in step with itself."""
        step_s = self._setting.interval_s + self._setting.timeout_s
        target = end - 3 * step_s
        if not self._may_skip or target - self._now < 3 * step_s or not self._is_settled():
            return
        pages = dict(self._evidence.pages)
        for slot in self._slots:
            key = (slot.node, slot.page)
            period = max(self._setting.interval_s, self._took(self._answers[key]))
            seconds = math.floor((target - self._now) / period) * period
            slot.shift(seconds)
            answer = self._answers[key]
            if isinstance(answer.outcome, Passed):
                slot.forget_slowness(self._took(answer), seconds / period)
            pages[key] = _shifted(pages[key], seconds)
        self._evidence = replace(self._evidence, pages=pages)
        self._now = max(self._now, min(slot.due for slot in self._slots))

    def _is_settled(self) -> bool:
        """Tell whether every further probe says what the last ones said, and moves nothing."""
        group, decision, quiet_s = self._group, self._decision, self._now - self._stepped_at
        if decision is None or any(slot.started < 0 for slot in self._slots):
            return False
        # A configuration whose readings are too old before the next ones come never settles.
        round_s = self._setting.interval_s + self._setting.timeout_s
        if quiet_s > group.confirm_s + group.serving_deadline_s + LONGEST_ROUNDS * round_s:
            return True
        moved_at = self._evidence.moved_at
        if moved_at is not None and self._now - moved_at <= group.serving_deadline_s:
            return False
        if not all(map(self._is_steady, self._slots)):
            return False
        return decision.situation.traffic is not Traffic.PRIMARY or self._is_fault_settled(decision)

    def _is_fault_settled(self, decision: Decision) -> bool:
        """Tell whether the Primary is well, or has failed for good and moves nothing."""
        status = self._answers.get((self._group.primary, Page.STATUS))
        if status is None or isinstance(status.outcome, Passed):
            return True
        says = self._answers.get((self._group.candidate, Page.HASTATUS))
        is_standby = says is not None and _mode(says) is Mode.STANDBY
        is_armed = decision.situation.automation is Automation.ARMED
        return decision.situation.primary is Primary.FAIL and not (is_standby and is_armed)

    def _is_steady(self, slot: Slot) -> bool:
        page = self._evidence.page(slot.node, slot.page)
        outcome = self._answers[slot.node, slot.page].outcome
        if page.last is None or page.last.outcome != outcome:
            return False
        if isinstance(outcome, Failed):
            return page.fails > self._group.fall
        return page.passes > self._group.rise


def _is_of(slot: Slot, primary: str) -> bool:
    """Tell whether this is the page that a failover hangs on."""
    return slot.node == primary and slot.page is Page.STATUS


def _mode(answer: Answer) -> Mode | None:
    return answer.outcome.mode if isinstance(answer.outcome, Passed) else None


def _shifted(page: ev.PageEvidence, seconds: float) -> ev.PageEvidence:
    last = page.last
    assert last is not None
    later = replace(last, started_at=last.started_at + seconds, ended_at=last.ended_at + seconds)
    return replace(
        page,
        last=later,
        answered=later if page.answered is last else page.answered,
        latest=tuple(at + seconds for at in page.latest),
    )
