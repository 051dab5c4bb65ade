"""Whether what is seen from here can be trusted: stalls, jumps of the clock, our own link.

Source: DESIGN section 1 (a returning link must not fire the rule); X15, X19, X20.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from lb_probe.ports import Clock
from lb_probe.tending.group import Tended

STALL_S = 1.0  # a loop that was away this long has missed evidence
CLOCK_JUMP_S = 2.0
IMPAIRED_S = 10.0  # for so long after the last probe that we could not make, we are not well
ISOLATION_GROUPS = 3  # without reference targets it takes this many groups to blame ourselves


class Vantage:
    """Notices when what is seen from here cannot be trusted, and lets old failures count no more.

    Args:
        groups: The groups that are served; the same object for as long as the process runs.
        tick_s: Seconds between two looks of a loop that is well.
        note: Takes a record's kind and details, for the history.
        emit: Takes an event's name and fields.
        cut_off: For each group of another policy whether no target of it answers.

    Attributes:
        is_isolated: Nothing answers, the reference targets included: it is us (X15).
    """

    def __init__(
        self,
        groups: Mapping[str, Tended],
        clock: Clock,
        *,
        tick_s: float,
        note: Callable[..., None],
        emit: Callable[..., None],
        cut_off: Callable[[], Sequence[bool]],
    ) -> None:
        self._groups = groups
        self._clock = clock
        self._tick_s = tick_s
        self._note = note
        self._emit = emit
        self._cut_off_elsewhere = cut_off
        self._references: Mapping[str, bool] = {}
        self._acquitted_by: Tended | None = None
        self.is_isolated = False
        self._impairment = ""
        self._impaired_at = -math.inf
        self._ticked_at = clock.monotonic()
        self._wall_offset = clock.wall() - clock.monotonic()

    def begin(self) -> None:
        """Count stalls from now on."""
        self._ticked_at = self._clock.monotonic()

    def regrouped(self) -> None:
        """Take note that groups came or went."""
        self._acquitted_by = None

    def left_s(self, until_wall: float) -> float:
        """Return the seconds until a moment, by the wall clock of our own beginning.

        The wall clock may have jumped while we looked around.
        """
        return until_wall - (self._wall_offset + self._clock.monotonic())

    def references(self, answers: Mapping[str, bool]) -> None:
        """Take what the reference targets answered: all silent means it is us."""
        self._references = answers
        self.notice_isolation()  # now, not at the next tick: the rule may hold before that

    def stalled(self, seconds: float) -> None:
        """Take note that probes started late: evidence was missed."""
        why = f"the loop was away for {seconds:.1f}s"
        self._note("stalled", reason=why, away_s=round(seconds, 3))
        self._discount(why, "prober.stalled")

    def impaired(self, runtime: Tended, why: str) -> None:
        """Take note that this machine could not make a probe; it is told once while it goes on."""
        now = self._clock.monotonic()
        runtime.interruption = why, now
        if not self.impairment:
            self._emit("prober.impaired", reason=why)
        self._impairment, self._impaired_at = why, now

    @property
    def impairment(self) -> str:
        """Why this machine cannot make probes at the moment; empty where it can."""
        is_over = self._clock.monotonic() - self._impaired_at > IMPAIRED_S
        return "" if is_over else self._impairment

    def notice_stall(self) -> float:
        """Return the time, having noticed where much of it went by unseen."""
        now = self._clock.monotonic()
        away, self._ticked_at = now - self._ticked_at, now
        if away > STALL_S + self._tick_s:
            self.stalled(away)
        return now

    def notice_jump(self) -> None:
        """Notice where the wall clock is not where monotonic time would have it."""
        offset = self._clock.wall() - self._clock.monotonic()
        if abs(offset - self._wall_offset) > CLOCK_JUMP_S:
            jumped = offset - self._wall_offset
            self._wall_offset = offset
            why = f"the wall clock jumped by {jumped:+.1f}s"
            self._note("clock-jumped", reason=why)
            self._discount(why, "clock.jumped")

    def notice_isolation(self) -> None:
        """Judge anew whether it is us that nothing answers."""
        if self._references:
            isolated = not any(self._references.values())
        else:
            isolated = self._may_blame_ourselves() and self._is_all_cut_off()
        if self.is_isolated and not isolated:
            why = "the prober reaches the network again"
            self._note("rejoined", reason=why)
            self._discount(why, "prober.rejoined")
        elif isolated and not self.is_isolated:
            self._note("isolated")
            self._emit("prober.isolated")
        self.is_isolated = isolated

    def _is_all_cut_off(self) -> bool:
        last = self._acquitted_by  # a group that was reached is most often reached again
        if last is not None and not last.is_cut_off:
            return False
        reached = (r for r in self._groups.values() if not r.is_cut_off)
        self._acquitted_by = next(reached, None)
        return self._acquitted_by is None

    def _may_blame_ourselves(self) -> bool:
        """Tell whether there are enough groups, and none of the other policy answers."""
        elsewhere = self._cut_off_elsewhere()
        return len(self._groups) + len(elsewhere) >= ISOLATION_GROUPS and all(elsewhere)

    def cut_off(self) -> list[bool]:
        """Tell whether none of our groups is reached; nothing where there is no group."""
        return [self._is_all_cut_off()] * len(self._groups)

    def _discount(self, why: str, event: str) -> None:
        """Let no failure from before this moment count (X19)."""
        now = self._clock.monotonic()
        for runtime in self._groups.values():
            runtime.interrupt(why, now)
        self._emit(event, reason=why)
