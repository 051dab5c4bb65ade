"""Lints of a group's times: does detection beat the Secondary's own promotion, and do they agree?

Every window is in seconds from the fault, the shortest and the longest case. Detection is what
`prober.schedule` and `core.evidence` do together:

* The first failing probe starts within `interval`. Until `fall` failures the page is asked every
  `recheck`, then every `interval` again. A probe that hangs lasts `timeout`; the next ones start
  beside it while the verdict is open, `fall` at most at once, and wait for it after that.
* The verdict falls when a failed probe ends, is at least the `fall`-th, and ends `confirm` or more
  after the first one started. So `confirm` is rounded up to the next probe.
* The Secondary's word must be newer than the first failure. It is asked every `recheck` meanwhile;
  that adds nothing, unless the first failure alone makes the verdict.

A healthy page is taken to answer at once. Publishing comes on top, and plays no part in the race:
a decided failover is carried out whatever the Secondary says next.

Source: guide lines 219-221 and 332-338; R57, R61-R65; DESIGN sections 1 and 5.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

# A probe starts or ends this much late now and then. Where one ends just as `confirm` does, it is
# open whether that one makes the verdict or the next.
_JITTER_S = 0.01
_ROUNDING_S = 1e-9
_LONG_CONFIRM_S = 60.0
_LONG_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class Promotion:
    """How the Secondary promotes itself when its heartbeats fail (guide lines 332-338).

    Attributes:
        interval_s: Seconds between heartbeats while the last one passed.
        failures: Failures in a row that promote; 1 or more.
        recheck_s: Seconds from a failed heartbeat to the next.
        timeout_s: Seconds until a heartbeat that gets no answer has failed.
        promotes: False where it is set to Keep in Standby.
    """

    interval_s: float
    failures: int
    recheck_s: float
    timeout_s: float
    promotes: bool = True


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of one group; all above 0 but `confirm_s`, which may be 0.

    Attributes:
        ttl_s: Longest TTL of its DNS records; None where no adapter moves a name.
        has_adapters: A failover is carried out: the group acts and has load balancers.
    """

    interval_s: float = 1.0
    recheck_s: float = 0.25
    timeout_s: float = 1.0
    fall: int = 3
    rise: int = 2
    max_age_s: float = 3.0
    confirm_s: float = 10.0
    serving_deadline_s: float = 60.0
    promotion: Promotion | None = None
    ttl_s: float | None = None
    has_adapters: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Shortest and longest seconds from the fault; both infinite for never.

    >>> str(Window(10.5, 12.0)), str(Window(math.inf, math.inf))
    ('10.5s to 12s', 'never')
    """

    least_s: float
    most_s: float

    def __str__(self) -> str:
        """Say it in words."""
        if math.isinf(self.least_s):
            return "never"
        return f"{_text(self.least_s)} to {_text(self.most_s)}"


@dataclass(frozen=True, slots=True)
class Lint:
    """One thing about the times that an operator should know.

    Attributes:
        severity: A warning is a failover that may go wrong; a note costs time only.
        text: Both numbers, what comes of them, and the key to change.
    """

    id: str
    severity: Literal["warning", "note"]
    text: str


# ------------------------------------------------------------------ windows
def detection(timing: Timing, hangs: bool) -> Window:
    """Return when the rule holds, counted from the Primary's fault; publishing comes on top.

    Args:
        hangs: The Primary accepts and never answers, or nothing comes back at all; else every
            probe of it fails at once.

    Never, where a hanging probe outlasts `max_age`: it is too old when it ends.

    >>> detection(Timing(), hangs=False)
    Window(least_s=10.5, most_s=11.5)
    >>> detection(Timing(), hangs=True)
    Window(least_s=10.25, most_s=11.25)
    """
    if hangs and _outlasts_age(timing):
        return Window(math.inf, math.inf)
    return _by_schedule(timing, timing.timeout_s if hangs else 0.0)


def promotion_window(promotion: Promotion) -> Window:
    """Return when the Secondary promotes itself, counted from the Primary's fault.

    At the earliest a heartbeat fails at once with the fault; at the latest the last good one was
    just before it, and each of the others waits for its timeout.

    >>> promotion_window(Promotion(interval_s=60, failures=3, recheck_s=10, timeout_s=5))
    Window(least_s=20.0, most_s=95.0)

    Source: R57, R61-R63.
    """
    again = promotion.failures - 1
    first_s = promotion.interval_s + promotion.timeout_s
    rest_s = again * (promotion.recheck_s + promotion.timeout_s)
    return Window(float(again * promotion.recheck_s), float(first_s + rest_s))


def _by_schedule(timing: Timing, took_s: float) -> Window:
    """Return the window where each failing probe lasts `took_s`, as if no reading grew old."""
    confirm_s = timing.confirm_s
    # Probes on a plan come early or late to one another; those that wait for the last only late.
    is_planned = confirm_s > took_s and took_s < max(timing.interval_s, timing.recheck_s)
    later_s = confirm_s + (_JITTER_S if is_planned else 0.0)
    soonest, latest, number = math.inf, 0.0, 0
    for nudge_s in (-_JITTER_S, _JITTER_S):
        # Slower probes need fewer of them to fill `confirm`, and so may be done sooner.
        number, _ = _verdict(timing, took_s + _JITTER_S, nudge_s, confirm_s)
        _, surely_s = _verdict(timing, took_s, nudge_s, confirm_s)
        maybe_s = next(islice(_ends(timing, took_s, nudge_s), number - 1, None))
        soonest = min(soonest, surely_s, maybe_s)
        latest = max(latest, _verdict(timing, took_s, nudge_s, later_s)[1])
    # One failure was enough: the Secondary may have been asked just before, and is asked again.
    is_first = number == 1
    asked_s = max(0.0, timing.recheck_s - took_s) if is_first else 0.0
    return Window(max(soonest, confirm_s), timing.interval_s + max(latest, took_s + asked_s))


def _verdict(timing: Timing, took_s: float, nudge_s: float, confirm_s: float) -> tuple[int, float]:
    """Return the number of the failure that makes the verdict, and when it ends."""
    ends = enumerate(_ends(timing, took_s, nudge_s), 1)
    enough_s = confirm_s - _ROUNDING_S
    return next((n, end) for n, end in ends if n >= timing.fall and end >= enough_s)


def _ends(timing: Timing, took_s: float, nudge_s: float) -> Iterator[float]:
    """Yield when each failure ends, in seconds from the start of the first; as `prober.schedule`.

    Args:
        nudge_s: Where one probe starts just as another ends, above 0 the start comes first.
    """
    recheck_s, fall = timing.recheck_s, timing.fall
    is_overdue = recheck_s < timing.timeout_s <= took_s
    base = last = now = 0.0  # start of the latest probe that was not beside another; of any
    ends, failed = deque([took_s]), 0
    while True:
        may_start = is_overdue and max(failed, len(ends)) < fall
        beside = max(last + recheck_s, now) if may_start else math.inf
        if beside < ends[0] + nudge_s:
            ends.append(beside + took_s)
            last = now = beside
            continue
        now = ends.popleft()
        failed += 1
        yield now
        if not ends:
            now = last = base = max(base + (recheck_s if failed < fall else timing.interval_s), now)
            ends.append(now + took_s)


def _outlasts_age(timing: Timing) -> bool:
    return timing.max_age_s <= timing.timeout_s  # a probe ends a little after its timeout


def _either(timing: Timing) -> Window:
    """Return the window over both kinds of fault; one that is never detected is another lint."""
    both = [w for w in (detection(timing, False), detection(timing, True)) if w.most_s < math.inf]
    return Window(min(w.least_s for w in both), max(w.most_s for w in both))


# ------------------------------------------------------------------ lints
def lints(timing: Timing) -> tuple[Lint, ...]:
    """Return what an operator should know of these times, worst first; empty when all is well.

    >>> epmm = Promotion(interval_s=60, failures=3, recheck_s=10, timeout_s=5)
    >>> lints(Timing(promotion=epmm, serving_deadline_s=90))
    ()
    >>> [lint.id for lint in lints(Timing(promotion=epmm, serving_deadline_s=90, confirm_s=30))]
    ['promotion-race']
    """
    return tuple(lint for judge in _JUDGES if (lint := judge(timing)) is not None)


def _promotion_race(timing: Timing) -> Lint | None:
    promotion = timing.promotion
    if promotion is None or not promotion.promotes:
        return None
    promoted, detected = promotion_window(promotion), _either(timing)
    if detected.most_s < promoted.least_s:
        return None
    always = detected.least_s > promoted.most_s
    wins = "promotion always wins, and" if always else "where promotion wins,"
    return Lint(
        "promotion-race",
        "warning",
        f"the Secondary may promote itself {promoted} after the fault, and detection takes"
        f" {detected}: {wins} traffic stays (`promoted-early`) until an operator takes over;"
        f" {_slower_promotion(promotion, detected)}{_shorter_confirm(timing, promoted)}",
    )


def _slower_promotion(promotion: Promotion, detected: Window) -> str:
    again = max(promotion.failures, 2)
    recheck_s = math.floor(detected.most_s / (again - 1)) + 1
    failures = "" if again == promotion.failures else "its number of failures (1) to 2 and "
    found = _text(promotion.recheck_s)
    return f"raise {failures}the Secondary's re-check ({found}) to {_text(recheck_s)}"


def _shorter_confirm(timing: Timing, promoted: Window) -> str:
    """Return how to win the race by `confirm`; empty where that alone does not do it."""
    if _either(replace(timing, confirm_s=0.0)).most_s >= promoted.least_s:
        return ""
    step_s = max(timing.interval_s, timing.timeout_s)
    enough_s = math.floor(promoted.least_s - timing.interval_s - step_s - _JITTER_S)
    return f", or lower `confirm` ({_text(timing.confirm_s)}) to {_text(max(0, enough_s))}"


def _max_age_short(timing: Timing) -> Lint | None:
    timeout_s, age_s = timing.timeout_s, timing.max_age_s
    oldest_s = max(timing.interval_s, timing.recheck_s, timeout_s) + timeout_s
    if age_s >= oldest_s:
        return None
    if _outlasts_age(timing):
        comes_of_it = "a probe that hangs is too old when it ends, so no failover follows it"
    elif age_s < max(timing.recheck_s, timeout_s) + timeout_s:
        comes_of_it = (
            "the Primary's failure and the Standby's word may never be fresh at the same time,"
            " and a failover may come late or never"
        )
    else:
        comes_of_it = "between two probes what is known lapses, and conditions flicker"
    return Lint(
        "max-age-short",
        "warning",
        f"a reading may be {_text(oldest_s)} old before the next one is in (`interval`"
        f" {_text(timing.interval_s)}, `timeout` {_text(timeout_s)}), and `max_age` is"
        f" {_text(age_s)}: {comes_of_it}; raise `max_age` to {_text(oldest_s)} or more",
    )


def _serving_deadline_short(timing: Timing) -> Lint | None:
    detected, promotion = _either(timing), timing.promotion
    passes_s = max(timing.interval_s, timing.timeout_s) + (timing.rise - 1) * timing.interval_s
    waits_s, why = 0.0, ""
    if promotion is not None and promotion.promotes:
        promoted = promotion_window(promotion)
        waits_s = max(0.0, promoted.most_s - detected.least_s)
        why = f"promotion takes {promoted} after the fault, detection {detected}; "
    needed_s = waits_s + passes_s
    if timing.serving_deadline_s >= needed_s:
        return None
    return Lint(
        "serving-deadline-short",
        "warning",
        f"after a failover it may take {_text(needed_s)} until the Secondary is seen to serve"
        f" ({why}`rise` {timing.rise} takes {_text(passes_s)}), and `serving_deadline` is"
        f" {_text(timing.serving_deadline_s)}: a node that is still coming up is reported as"
        f" `not-serving`; raise `serving_deadline` to {_text(math.ceil(needed_s))}",
    )


def _keep_in_standby(timing: Timing) -> Lint | None:
    promotion = timing.promotion
    if promotion is None or promotion.promotes or not timing.has_adapters:
        return None
    return Lint(
        "keep-in-standby",
        "warning",
        f"traffic moves {_either(timing)} after the fault, and `promotion.on_failure` is"
        " keep-in-standby: nobody promotes the Secondary by itself, and"
        f" {_text(timing.serving_deadline_s)} (`serving_deadline`) later it is `not-serving`;"
        " promote it by hand after a failover, or set the Secondary and `on_failure` to promote",
    )


def _timeout_over_interval(timing: Timing) -> Lint | None:
    if timing.timeout_s <= timing.interval_s:
        return None
    refused, hung = (_by_schedule(timing, took_s) for took_s in (0.0, timing.timeout_s))
    return Lint(
        "timeout-over-interval",
        "note",
        f"`timeout` ({_text(timing.timeout_s)}) is longer than `interval`"
        f" ({_text(timing.interval_s)}): a page that goes on hanging is asked every"
        f" {_text(timing.timeout_s)} only, and detection takes {hung} where it hangs"
        f" and {refused} where it refuses; lower `timeout` to {_text(timing.interval_s)}",
    )


def _confirm_long(timing: Timing) -> Lint | None:
    if timing.confirm_s <= _LONG_CONFIRM_S:
        return None
    return Lint(
        "confirm-long",
        "note",
        f"`confirm` is {_text(timing.confirm_s)}: a dead Primary keeps the traffic for"
        f" {_either(timing)}, and longer where a probe passes now and then;"
        " lower `confirm` unless such an outage costs less than a resync (10s is usual)",
    )


def _ttl_long(timing: Timing) -> Lint | None:
    if timing.ttl_s is None or timing.ttl_s <= _LONG_TTL_S:
        return None
    detected = _either(timing)
    reached = Window(detected.least_s, detected.most_s + timing.ttl_s)
    return Lint(
        "ttl-long",
        "note",
        f"detection takes {detected}, and resolvers keep the old address for `ttl`"
        f" ({_text(timing.ttl_s)}) more: clients follow {reached} after the fault; lower `ttl` to"
        " 30s, well before it is needed, as the old one still rules the next failover",
    )


# Warnings first.
_JUDGES = (
    _promotion_race,
    _max_age_short,
    _serving_deadline_short,
    _keep_in_standby,
    _timeout_over_interval,
    _confirm_long,
    _ttl_long,
)


def _text(seconds: float) -> str:
    """Return a duration as probes.yaml spells it.

    >>> _text(0.25), _text(86400.0), _text(11.50)
    ('0.25s', '86400s', '11.5s')
    """
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
