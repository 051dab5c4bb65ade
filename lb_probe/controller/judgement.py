"""What the table is asked: the evidence of a group, who else has a say, and the brakes.

Source: DESIGN section 1; X4, X7, X10, X15, X16.
"""

import math
from collections import deque

from lb_probe.controller.group import Look, Runtime
from lb_probe.controller.keeping import Keeping
from lb_probe.core import calm
from lb_probe.core import evidence as ev
from lb_probe.core.failover import decide
from lb_probe.core.model import Automation, Decision, Saved
from lb_probe.core.witness import Statement, objections
from lb_probe.ports import Clock
from lb_probe.recorder import Recorder
from lb_probe.tending.vantage import Vantage

WITNESS_S = 0.5  # while the Primary fails, a load balancer that may contradict is asked so often


class Judgement:
    """Decides for one group after the other.

    Attributes:
        failovers_per_minute: Ceiling on automatic failovers over all groups; None for none.
    """

    def __init__(
        self,
        clock: Clock,
        recorder: Recorder,
        keeping: Keeping,
        vantage: Vantage,
        failovers_per_minute: int | None,
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._keeping = keeping
        self._vantage = vantage
        self._failovers: deque[float] = deque()
        self.failovers_per_minute = failovers_per_minute

    def decide(self, runtime: Runtime) -> Decision:
        """Ask the table what is the case now."""
        self._heed_witnesses(runtime, self._clock.monotonic())
        brakes = self._brakes(runtime)
        automation = Automation.BLOCKED if brakes else Automation.ARMED
        if self._vantage.is_isolated:
            automation = Automation.ISOLATED
        situation = ev.situation(
            runtime.evidence,
            runtime.group,
            runtime.saved.assigned,
            automation,
            self._clock.monotonic(),
        )
        before = runtime.decision
        if before is not None and before.blocked == brakes and before.situation == situation:
            return before
        return decide(situation, brakes)

    def _brakes(self, runtime: Runtime) -> tuple[str, ...]:
        limit = self.failovers_per_minute
        now = self._clock.monotonic() if self._failovers else 0.0
        while self._failovers and now - self._failovers[0] >= 60.0:
            self._failovers.popleft()
        brakes = {
            "hold": runtime.saved.hold is not None,
            "act": not runtime.group.act,
            "one-shot": runtime.saved.latched,
            "limit": limit is not None and len(self._failovers) >= limit,
            "store-not-writable": not self._keeping.is_writable,
            "lb-disagrees": bool(runtime.objections),
        }
        return tuple(name for name, is_on in brakes.items() if is_on)

    # -------------------------------------------------------------- the ceiling
    def count(self, at: float) -> None:
        """Count an automatic failover, before it is saved: no other one slips past meanwhile."""
        self._failovers.append(at)

    def forget(self, at: float) -> None:
        """Count it no more: it was not made."""
        if at in self._failovers:
            self._failovers.remove(at)

    # -------------------------------------------------------------- who else has a say
    def ask_witnesses(self, runtime: Runtime, now: float) -> None:
        """Have the load balancers look that may contradict a failing Primary, often enough."""
        if not runtime.is_contestable:
            return
        names = {witness.adapter for witness in runtime.setup.witnesses}
        for reconciler in runtime.reconcilers:
            if reconciler.publisher.name in names and now - reconciler.seen_at >= WITNESS_S:
                reconciler.look()

    def _heed_witnesses(self, runtime: Runtime, now: float) -> None:
        """Take what the load balancers say of a Primary that fails (X7)."""
        if not runtime.is_contestable:
            runtime.objections = {}  # with the fault they end by themselves, and in a replay too
            return
        looks = {r.publisher.name: (r.seen, r.seen_at) for r in runtime.reconcilers}
        told = [Statement(w, *looks[w.adapter]) for w in runtime.setup.witnesses]
        found = objections(runtime.evidence, runtime.group, told, now)
        if found.keys() != runtime.objections.keys():
            name, generation = runtime.name, runtime.saved.generation
            self._recorder.note("witness", name, generation, adapters=sorted(found))
        runtime.objections = found

    # -------------------------------------------------------------- when to decide again
    def look(self, runtime: Runtime, decision: Decision, now: float) -> Look:
        """Return what this decision went by."""
        return Look(
            runtime.evidence,
            runtime.saved,
            self._vantage.is_isolated,
            self._keeping.is_writable,
            len(self._failovers),
            # An objection ages, and is renewed or not: it is looked at each time.
            -math.inf
            if runtime.objections
            else calm.quiet_until(runtime.evidence, runtime.group, decision, now),
        )

    def is_outdated(self, look: Look, saved: Saved, now: float) -> bool:
        """Tell whether anything but the evidence has changed since a look at a group."""
        return (
            now >= look.until
            or look.saved is not saved
            or look.is_isolated is not self._vantage.is_isolated
            or look.is_store_writable is not self._keeping.is_writable
            # A ceiling that was reached is left again by time alone.
            or (self.failovers_per_minute is not None and bool(self._failovers or look.failovers))
        )
