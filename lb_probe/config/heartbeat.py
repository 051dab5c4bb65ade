"""How a Secondary watches its peer, and what it does when that is gone (guide lines 332 to 338)."""

from typing import Literal

from lb_probe.config import values as v
from lb_probe.config.frozen import Frozen, key
from lb_probe.core import timing


class Heartbeat(Frozen):
    """The guide's Fail Over Controls; seconds."""

    interval_s: v.Duration = key("between attempts while the last one passed", "60s")
    failures: v.Count = key("failed attempts in a row that count as a dead peer", 3)
    recheck_s: v.Duration = key("after a failed attempt", "10s")
    timeout_s: v.Duration = key("one whole attempt", "5s")
    tcp_ports: tuple[v.Port, ...] = key("ports of the peer that must take a connection too", ())
    on_failure: Literal["keep-in-standby", "promote"] = key(
        "tell only, or become Primary", "keep-in-standby"
    )

    order: Literal["flip-then-promote", "promote-by-itself"] = key(
        "on_failure promote: after the prober moved traffic here, or without waiting for that",
        "flip-then-promote",
    )

    @property
    def times(self) -> timing.Promotion | None:
        """The same as the lints take it; None where promotion follows traffic, and races nothing.

        Source: R57, R65.
        """
        if self.on_failure == "promote" and self.order == "flip-then-promote":
            return None
        return timing.Promotion(
            interval_s=self.interval_s,
            failures=self.failures,
            recheck_s=self.recheck_s,
            timeout_s=self.timeout_s,
            promotes=self.on_failure == "promote",
        )
