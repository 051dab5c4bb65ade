"""An operator's command as it came in, and what is refused of it under any policy.

Source: DESIGN section 6; X5, X14.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lb_probe.core import acts
from lb_probe.ports import Conflict, Invalid, NotFound


@dataclass(frozen=True, slots=True)
class Ask:
    """An operator's command as it came in.

    Attributes:
        hold_s: Seconds a hold lasts.
        generation: Generation the operator looked at; None does not compare.
    """

    verb: str
    actor: str
    reason: str
    to: str | None = None
    hold_s: float | None = None
    hands_off: bool = False
    override: frozenset[str] = frozenset()
    attest: Mapping[str, str] = field(default_factory=dict)
    generation: int | None = None


def refuse_outdated(name: str, ask: Ask, generation: int) -> None:
    """Refuse what was asked by somebody who looked at another generation (X21).

    Raises:
        Conflict: It is not the one that is in force.
    """
    if ask.generation is not None and ask.generation != generation:
        raise Conflict(
            f"group {name} is at generation {generation}, you looked at {ask.generation}:"
            f" it changed since; look again (lb-probe status {name})",
            generation,
        )


def refuse_unclear(ask: Ask, verbs: Sequence[str]) -> None:
    """Refuse a verb that does not exist, and one without a reason.

    Args:
        verbs: Those that the policy offers.

    Raises:
        NotFound: No such verb.
        Invalid: No reason.
    """
    if ask.verb not in acts.VERBS:
        raise NotFound(f"no verb {ask.verb}; use one of {', '.join(verbs)}")
    if not ask.reason.strip():
        raise Invalid("found no reason; say why, it is kept in the history")
