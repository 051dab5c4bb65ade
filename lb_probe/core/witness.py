"""When a load balancer's own check contradicts ours, and is to be believed.

A prober that cannot reach the Primary may be cut off from it alone; an answer such as 403 or an
unknown certificate may be about us and not about the node. A load balancer that checks the Primary
itself, and still sees it up, is a second pair of eyes that costs no machine: then the move waits,
with reason `lb-disagrees`, and an operator decides. An application that answers 500 or the wrong
text is down whatever a shallower check says, unless the file says `witness: all`.

Source: X7; DESIGN section 4, `failover-blocked`; guide lines 216-222.

A check contradicts only what it looks at: one that opens a connection knows nothing of an
application that takes it and never answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lb_probe.core.evidence import Evidence
from lb_probe.core.model import NETWORK_PHASES, Failed, Group, Observation, Page, Phase, Seen

MAX_AGE_S = 3.0  # an older word of a load balancer is nobody's word
# How deep a check must look to know better; what is not here takes an answer.
_LAYERS = {Phase.NAME: 4, Phase.CONNECT_REFUSED: 4, Phase.CONNECT_TIMEOUT: 4, Phase.TLS: 6}
# Answers that may be about the one who asks: a redirect to a login, a door that is closed to us.
_OUR_SIDE = frozenset({401, 403, 404, *range(300, 400)})


@dataclass(frozen=True, slots=True)
class Witness:
    """How far one load balancer may contradict us.

    Attributes:
        doubts: `network`: failures without an answer, or with one that may be about us, where its
            check looks as deep; `all`: every failure; `off`: none.
        interval_s: Seconds between its own checks: one of them has begun this long after.
    """

    adapter: str
    doubts: str = "network"
    interval_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Statement:
    """What a load balancer said last.

    Attributes:
        seen: None where it cannot be read.
        at: Monotonic seconds when it was asked.
    """

    witness: Witness
    seen: Seen | None
    at: float


def objections(
    evidence: Evidence, group: Group, told: Iterable[Statement], now: float
) -> Mapping[str, str]:
    """Return, by adapter, a sentence of each load balancer that sees the Primary up.

    Only where it does so by a check that is newer than the failure.

    Empty while the Primary does not fail. A load balancer does not tell when it checked: one of
    its checks has surely begun since our first failure once its interval has passed, and all of
    its memory must be good.
    """
    page = evidence.page(group.primary, Page.STATUS)
    if page.last is None or not page.fails:
        return {}
    return {
        one.witness.adapter: _sentence(one, group.primary, now)
        for one in told
        if _is_doubted(page.last, one.witness)
        and now - one.at <= MAX_AGE_S
        and one.at >= page.failing_since + one.witness.interval_s
        and _sees_up(one, group.primary, page.last)
    }


def _is_doubted(last: Observation, witness: Witness) -> bool:
    """Tell whether this failure is of the kind the load balancer may contradict."""
    if witness.doubts == "off" or not isinstance(last.outcome, Failed):
        return False
    if witness.doubts == "all" or last.outcome.phase in NETWORK_PHASES:
        return True
    return last.outcome.phase in (Phase.STATUS, Phase.REDIRECT) and last.code in _OUR_SIDE


def _sees_up(one: Statement, node: str, last: Observation) -> bool:
    health = one.seen.health.get(node) if one.seen else None
    if health is None or not health.up or not health.is_sure:
        return False
    assert isinstance(last.outcome, Failed)  # it is doubted
    return one.witness.doubts == "all" or health.layer >= _LAYERS.get(last.outcome.phase, 7)


def _sentence(one: Statement, node: str, now: float) -> str:
    word = one.seen.health[node].detail if one.seen else ""
    return f"{one.witness.adapter} sees {node} up ({word}), asked {now - one.at:.1f}s ago"
