"""The judge: watches every effect from outside and knows the rules from the guide alone.

It is told what was asked, observed, saved, published, read and confirmed, and what really befell
the prober (a stall, a jump of the clock, a link that came back). It imports nouns of the core and
nothing that decides.

Source: guide lines 216-226; REQUIREMENTS X1-X22; DESIGN sections 1 and 4.
"""

from bisect import insort
from typing import TYPE_CHECKING

from simulation_clock import BEGIN
from simulation_plan import A, B

from lb_probe.controller import Ask
from lb_probe.core.model import Event, Failed, Mode, Observation, Page, Passed, Role, Saved, Seen
from lb_probe.ports import Record

if TYPE_CHECKING:
    from simulation_world import Simulation

PATIENCE, WINDOW_S = 3, 60.0
NOTICED_S = 0.3  # a jump of the wall clock is noticed within this time
OVERDUE_S = 5.5  # three hanging probes a second apart, and 1.5 s of `confirm`, rounded up
ROUNDING_S = 1e-6  # a wall time of our days is a float of a quarter of a microsecond
MOVING = ("resume", "failover", "assign", "switchover")
ENDS_LATCH = ("resume", "swap-roles")
BRINGS_HOME = ("resume", "accept", "offline")


class BrokenError(AssertionError):
    """An invariant does not hold; the text says which."""


class Judge:
    """Raises BrokenError at the first effect that breaks a rule, and keeps it in `verdict`."""

    def __init__(self, world: "Simulation") -> None:
        self._world = world
        self.verdict: BrokenError | None = None
        self.automatic = 0
        self._asks: dict[str, Ask] = {}
        self._generations: dict[int, str | None] = {}
        self._before_this_moment: str | None = None
        self._changed_at = 0.0
        self._saved_at = 0.0
        self.hands: dict[str, int] = {}
        self._is_isolated = False
        self._forget()

    def _forget(self) -> None:
        """A prober that starts knows nothing, and nor does what it may rely on."""
        self._pages: dict[tuple[str, Page], list[Observation]] = {
            (node, page): [] for node in (A, B) for page in Page
        }
        self._readings: dict[str, list[tuple[float, Seen | None]]] = {}
        self._agreed: set[str] = set()
        self._touched: set[str] = set()
        self._to_force: set[str] = set()  # an operator said to write, whoever was there
        self._corrected: dict[str, list[float]] = {}
        self._is_isolated = False

    @property
    def _now(self) -> float:
        return self._world.clock.now

    @property
    def _saved(self) -> Saved:
        return self._world.disk.saved.get("g", Saved())

    def broken(self, text: str) -> None:
        self.verdict = self.verdict or BrokenError(f"{self._now - BEGIN:.2f}: {text}")
        raise self.verdict

    def demand(self, holds: bool, text: str) -> None:
        if not holds:
            self.broken(text)

    # -------------------------------------------------------------- what befell the prober
    def prober_started(self) -> None:
        self.floor = self._now
        self._forget()
        for name in [b.name for b in self._world.balancers]:
            self.hands[name] = self.hands.get(name, -1) + 1  # moved while nobody looked, perhaps

    def store_lost(self) -> None:
        self._generations.clear()

    def evidence_was_missed(self) -> None:
        """No failure of the Primary from before this moment counts any more (X19)."""
        self.floor = self._now

    def clock_jumped(self, offset_before: float) -> None:
        jumped_at = self._now

        def noticed() -> None:
            if abs(self._world.clock.offset - offset_before) > 2.0:
                self.floor = max(self.floor, jumped_at)

        self._world.clock.at(jumped_at + NOTICED_S, noticed)

    def references(self, answers: dict[str, bool]) -> None:
        is_isolated = not any(answers.values())
        if self._is_isolated and not is_isolated:
            self.evidence_was_missed()
        self._is_isolated = is_isolated

    def observed(self, seen: Observation) -> None:
        """One finished probe, in its place by start; what began before a pass is old news."""
        known = self._pages[seen.node, seen.page]
        passes = (o.started_at for o in reversed(known) if isinstance(o.outcome, Passed))
        if seen.started_at >= next(passes, 0.0):
            insort(known, seen, key=lambda o: o.started_at)

    # -------------------------------------------------------------- load balancers
    def hand_moved(self, name: str) -> None:
        self.hands[name] = self.hands.get(name, 0) + 1
        if name in self._agreed:
            self._touched.add(name)

    def balancer_restarted(self, name: str) -> None:
        self._touched.discard(name)
        self._agreed.discard(name)

    def read(self, name: str, seen: Seen | None) -> None:
        known = self._readings.setdefault(name, [])
        known[:] = [*known[-2:], (self._now, seen)]
        if seen is not None and seen.node is not None and seen.node == self._saved.assigned:
            self._agreed.add(name)
            self._touched.discard(name)

    def _last_reading(self, name: str) -> tuple[float, Seen | None]:
        known = self._readings.get(name)
        return known[-1] if known else (0.0, None)

    def published(self, name: str, node: str) -> None:
        """A publication sets out."""
        saved, may = self._saved, [self._saved.assigned]
        if self._changed_at == self._now:
            may.append(self._before_this_moment)  # it was on its way
        self.demand(node in may, f"save before publish: {node} published, {may[0]} is saved")
        self.demand(self._world.plan.act, "X10: published under act: false")
        hands_off = saved.hold is not None and saved.hold.hands_off
        self.demand(
            not hands_off or self._saved_at == self._now, "X4: published under a hands-off hold"
        )
        if name in self._touched:
            self._correct(name)

    def _correct(self, name: str) -> None:
        self._touched.discard(name)
        self._agreed.discard(name)
        is_own_change = self._saved.confirmed.get(name, -1) < self._saved.generation
        if is_own_change or name in self._to_force:
            return
        times = self._corrected.setdefault(name, [])
        times.append(self._now)
        often = sum(self._now - at < WINDOW_S for at in times)
        self.demand(often < PATIENCE, f"X21: {name} was taken from another writer a third time")

    def landed(self, name: str) -> None:
        """A publication was carried out."""
        self._to_force.discard(name)

    def confirmed(self, name: str, generation: int) -> None:
        self.demand(generation in self._generations, f"{name} confirms unknown {generation}")
        at, seen = self._last_reading(name)
        found = seen.node if seen else None
        wanted = self._generations.get(generation)
        self.demand(found == wanted, f"X2: {name} reads back {found}, confirmed as {wanted}")
        is_fresh = generation != self._saved.generation or at >= self._saved_at
        self.demand(is_fresh, f"X2: {name} was not read after generation {generation}")

    # -------------------------------------------------------------- operators
    def asked(self, ask: Ask) -> None:
        self._asks[ask.actor] = ask

    def told(self, event: Event) -> None:
        """An event: what an operator took back is written again whatever is there by then."""
        if event.name in ("group.accept", "group.republish"):
            self._corrected.clear()
            self._touched.clear()
            self._agreed.clear()
            self._to_force = {balancer.name for balancer in self._world.balancers}

    # -------------------------------------------------------------- what is saved
    def committing(self, before: Saved, after: Saved, record: Record) -> None:
        """A change sets out to be saved: what it rests on must hold now."""
        self._well_formed(before, after, record)
        self._lawful(before, after, record.kind)
        ask = self._asks.get(after.last_change.actor)
        if ask is not None:
            self._by_operator(before, after, record.kind, ask)
        else:
            self._by_itself(before, after, record.kind)

    def committed(self, before: Saved, after: Saved) -> None:
        """It is durable."""
        self._generations[after.generation] = after.assigned
        self._saved_at = self._now
        moved = before.assigned != after.assigned
        if moved:
            self._before_this_moment, self._changed_at = before.assigned, self._now
        armed_again = before.latched and not after.latched
        if moved or armed_again or before.roles != after.roles or (before.hold and not after.hold):
            self.evidence_was_missed()
        if after.last_change.kind == "failover" and after.last_change.actor == "lb-probe":
            self.automatic += 1

    def _well_formed(self, before: Saved, after: Saved, record: Record) -> None:
        step = f"generation {before.generation} -> {after.generation}"
        is_new = after.generation == before.generation + 1
        self.demand(is_new and after.generation not in self._generations, step)
        change = after.last_change
        told = (record.generation, record.kind, change.source, change.target)
        real = (after.generation, change.kind, before.assigned, after.assigned)
        self.demand(told == real, f"the history says {told}, saved is {real}")

    def _lawful(self, before: Saved, after: Saved, kind: str) -> None:
        """What holds for every change, whoever made it."""
        world, home = self._world, self._world.home(before)
        is_moved = after.assigned not in (None, world.home(after))
        self.demand(after.latched or not is_moved, f"X1: moved by {kind} and not latched")
        kept = after.latched or not before.latched or kind in ENDS_LATCH
        self.demand(kept, f"X1: the latch was dropped by {kind}")
        was_away = before.assigned not in (None, home)
        returns = was_away and after.assigned == home
        self.demand(not returns or kind in BRINGS_HOME, f"X1: back to the Primary by {kind}")
        held = after.hold is not None or before.hold is None or kind in ("release", "hold-lapsed")
        self.demand(held, f"X4: the hold was dropped by {kind}")
        same = before.roles == after.roles or kind == "swap-roles"
        # Dropped because the file agrees: nobody's role is another one afterwards.
        same = same or (after.roles is None and world.home(before) == world.home(after))
        self.demand(same, f"roles were changed by {kind}")

    def _by_itself(self, before: Saved, after: Saved, kind: str) -> None:
        judges = {
            "failover": self._automatic,
            "adopt": self._adopted,
            "offline": self._offline,
            "hold-lapsed": self._lapsed,
            "roles-agreed": self._roles_agreed,
        }
        self.demand(kind in judges, f"{kind} by itself")
        judges[kind](before, after)

    # -------------------------------------------------------------- the rule
    def _automatic(self, before: Saved, after: Saved) -> None:
        home = self._world.home(before)
        other = B if home == A else A
        self.demand(before.assigned == home, f"X16: traffic was on {before.assigned}, not home")
        self.demand(not before.latched, "X16: an automatic failover while latched")
        self.demand(before.hold is None, "X4: an automatic failover under a hold")
        self.demand(self._world.plan.act, "X10: an automatic failover under act: false")
        self.demand(not self._is_isolated, "X15: an automatic failover while cut off")
        self.demand(after.assigned == other, f"R34: moved to {after.assigned}, not {other}")
        row = self._primary_failed(home, self._secondary_answers_since(other))
        self._secondary_stands_by(other, row[0].started_at)

    def _secondary_answers_since(self, other: str) -> float:
        since, did_answer = self.floor, False
        for seen in self._pages[other, Page.HASTATUS]:
            answers = isinstance(seen.outcome, Passed)
            if answers and not did_answer:
                since = max(since, seen.ended_at)
            did_answer = answers
        return since

    def _primary_failed(self, home: str, since: float) -> list[Observation]:
        """Return the row of failures that count (R52, X19)."""
        plan, row = self._world.plan, []
        for seen in reversed(self._pages[home, Page.STATUS]):
            if not isinstance(seen.outcome, Failed) or seen.started_at < since:
                break
            row.insert(0, seen)
        self.demand(
            len(row) >= plan.fall, f"X19: {len(row)} failures count, {plan.fall} are needed"
        )
        failed_s = row[-1].ended_at - row[0].started_at
        self.demand(failed_s >= plan.confirm_s, f"confirm: failed for {failed_s:.2f}s only")
        self.demand(self._is_fresh(row[-1]), "X19: the Primary's last reading is stale")
        return row

    def _secondary_stands_by(self, other: str, since: float) -> None:
        known = self._pages[other, Page.HASTATUS]
        last = known[-1] if known else None
        if last is None or not isinstance(last.outcome, Passed):
            self.broken("X22: the Secondary's last probe failed")
        said = last.outcome.mode
        self.demand(said is Mode.STANDBY, f"X22: the Secondary said {said}")
        is_usable = self._is_fresh(last) and last.started_at >= since
        self.demand(is_usable, "X19: the Secondary's reading is too old")

    def _is_fresh(self, seen: Observation) -> bool:
        return self._now - seen.started_at <= self._world.group.max_age_s

    # -------------------------------------------------------------- at start
    def _adopted(self, before: Saved, after: Saved) -> None:
        """X18: nothing saved and all agree; or confirmed at home, and all readable moved."""
        balancers = self._world.balancers
        seen = [self._last_reading(b.name)[1] for b in balancers]
        nodes = {s.node for s in seen if s is not None}
        self.demand(nodes == {after.assigned}, f"X18: adopted {after.assigned}, seen {nodes}")
        if before.assigned is None:
            self.demand(None not in seen, "X18: adopted though one could not be read")
            return
        home = self._world.home(before)
        self.demand(before.assigned == home, "X1: adopted over a node that was saved")
        behind = [b.name for b in balancers if before.confirmed.get(b.name, -1) < before.generation]
        self.demand(not behind, f"X18: adopted, though {behind} never carried out what is saved")

    def _offline(self, before: Saved, after: Saved) -> None:
        note = self._world.note
        self.demand(note is not None and note.node == after.assigned, "moved by no note")

    def _roles_agreed(self, before: Saved, after: Saved) -> None:
        same = self._world.home(before) == self._world.home(after)
        self.demand(same and before.assigned == after.assigned, "roles changed by themselves")

    def _lapsed(self, before: Saved, after: Saved) -> None:
        """A hold ends by itself only when it is due and all is normal."""
        clock, home = self._world.clock, self._world.home(before)
        due = self._world.due_at(before.hold) - ROUNDING_S
        self.demand(clock.now >= due, "X4: a hold ended too early")
        self.demand(before.assigned == home, "X4: a hold lapsed while traffic is moved")
        self.demand(self._passed_last(home), "X4: a hold lapsed while the Primary fails")
        known = self._pages[B if home == A else A, Page.HASTATUS]
        passed = [seen for seen in known if isinstance(seen.outcome, Passed)][-1:]
        stands_by = [s for s in passed if s.outcome.mode is Mode.STANDBY and self._is_fresh(s)]
        self.demand(bool(stands_by), "X4: a hold lapsed without a standby")

    # -------------------------------------------------------------- by hand
    def _by_operator(self, before: Saved, after: Saved, kind: str, ask: Ask) -> None:
        looked_at = ask.generation
        is_compared = looked_at is None or looked_at == before.generation
        self.demand(is_compared, f"generation {looked_at} was looked at, not {before.generation}")
        if kind in MOVING:
            hold = before.hold
            self.demand(self._world.plan.act, f"X10: {kind} under act: false")
            self.demand(hold is None or not hold.hands_off, f"X4: {kind} under a hands-off hold")
        judges = {
            "resume": self._resumed,
            "failover": self._forced,
            "switchover": self._planned,
            "accept": self._accepted,
        }
        if kind in judges:
            judges[kind](before, after, ask)

    def _resumed(self, before: Saved, after: Saved, ask: Ask) -> None:
        home = self._world.home(before)
        self.demand(after.assigned == home, "resume did not end at the Primary")
        self.demand("synced" in ask.attest, "R55: resumed, and nobody vouched for a sync")
        if ask.override:
            return
        self.demand(self._passed_last(home, 2), "R55: resumed to a Primary that does not serve")
        says = {self._says(A), self._says(B)}
        self.demand(says != {Mode.PRIMARY}, "X3: resumed while both say Primary")
        self._all_reachable("resumed")

    def _forced(self, before: Saved, after: Saved, ask: Ask) -> None:
        node = after.assigned
        is_home = node == self._world.home(before)
        self.demand(not is_home, "X1: a failover to the Primary is a resume without its gates")
        last = self._pages[node, Page.STATUS][-3:]
        serves = any(isinstance(s.outcome, Passed) and self._now - s.started_at < 4 for s in last)
        says = self._says(node)
        self.demand(bool(ask.override) or serves or bool(says), f"R58: {node} is dead")

    def _planned(self, before: Saved, after: Saved, ask: Ask) -> None:
        home = self._world.home(before)
        self.demand(before.assigned == home and not before.latched, "X13: already moved")
        if ask.override:
            return
        self.demand(self._passed_last(home, 2), "X13: switchover from a Primary that is down")
        said = self._says(after.assigned)
        self.demand(said is Mode.STANDBY, f"X13: switchover to a node that says {said}")
        self._all_reachable("switched over")

    def _accepted(self, before: Saved, after: Saved, ask: Ask) -> None:
        for name, known in self._readings.items():
            lately = {seen.node for _, seen in known if seen}  # one may be on its way
            self.demand(after.assigned in lately, f"accepted {after.assigned}, {name}: {lately}")

    def _all_reachable(self, what: str) -> None:
        gone = [name for name in self._readings if self._last_reading(name)[1] is None]
        self.demand(not gone, f"X2: {what}, and {gone} cannot be read")

    def _passed_last(self, node: str, count: int = 1) -> bool:
        last = self._pages[node, Page.STATUS][-count:]
        passed = [isinstance(seen.outcome, Passed) for seen in last]
        return len(last) == count and all(passed) and self._is_fresh(last[-1])

    def _says(self, node: str) -> Mode | None:
        """Return the documented word of a fresh answer; None for all else."""
        for seen in self._pages[node, Page.HASTATUS][-1:]:
            if isinstance(seen.outcome, Passed) and self._is_fresh(seen):
                return None if seen.outcome.mode is Mode.UNKNOWN else seen.outcome.mode
        return None

    # -------------------------------------------------------------- at rest
    def believes(self, believed: Saved) -> None:
        """What the prober runs on is what is saved: nothing is forgotten at a start (X1)."""
        saved = self._saved
        for name in ("assigned", "latched", "hold", "roles", "generation"):
            runs_on, real = getattr(believed, name), getattr(saved, name)
            self.demand(runs_on == real, f"X1: runs on {name} {runs_on}, saved is {real}")

    def at_rest(self) -> None:
        """After the last fault every load balancer equals what is wanted, or has yielded."""
        world, saved = self._world, self._saved
        view = world.controller.view("g")
        self.believes(view.saved)
        records = len(world.disk.records)
        self.demand(records == saved.generation, f"{records} records of {saved.generation} changes")
        hands_off = saved.hold is not None and saved.hold.hands_off
        if saved.assigned is not None and world.plan.act and not hands_off:
            for adapter, balancer in zip(view.adapters, world.balancers, strict=True):
                self._follows(adapter.yielded, balancer.name, balancer.chosen, saved.assigned)
        home = world.home(saved)
        if (saved.assigned, saved.latched, saved.hold) == (home, False, None):
            since = self._secondary_answers_since(B if home == A else A)
            is_overdue = world.is_failing(home) and self._now - since > OVERDUE_S
            self.demand(not is_overdue, "R52: the rule holds, and nobody moved traffic")

    def _follows(self, yields: bool, name: str, chosen: set[str], node: str) -> None:
        if yields:
            often = self.hands.get(name, 0)
            self.demand(often >= PATIENCE, f"X21: {name} yields after {often} foreign writes")
            return
        self.demand(chosen == {node}, f"X3: {name} is on {chosen}, not {node}")


def home_of(saved: Saved, configured: str) -> str:
    """Return the Primary: what swap-roles saved wins over the file (R109)."""
    if not saved.roles:
        return configured
    return next(name for name, role in saved.roles.items() if role is Role.PRIMARY)
