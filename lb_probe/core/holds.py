"""Whether a node has the traffic, as its prober tells its agent, and how that is sealed.

Only the prober knows where clients are sent: an agent sees its own node and its peer. What it is
told keeps a sync away from the node that clients write to, and begins a promotion; so it counts
only with a proof of the shared secret over something that the agent itself said a moment ago.

Source: R65, R121, R122; facts/epmm.md 1 (facts 3 and 4).
"""

import hashlib
import hmac
from collections.abc import Iterable
from enum import Enum

from lb_probe.core.model import Saved, Seen


class Holds(Enum):
    """What the prober says of one node.

    SOON is between two things: decided and not seen yet, or decided away and still seen there.
    """

    YES = "yes"
    SOON = "soon"
    NO = "no"
    UNKNOWN = "unknown"


def holds(node: str, saved: Saved, seen: Iterable[Seen | None]) -> Holds:
    """Return whether a node has the traffic.

    Args:
        saved: What is decided for its group.
        seen: What each load balancer says it does; None for one that cannot be read.
    """
    found = tuple(seen)
    is_seen = any(one is not None and one.node == node for one in found)
    is_chosen = any(one is not None and node in (one.node, *one.chosen) for one in found)
    if saved.assigned == node:
        # Without load balancers a decision is saved and shown only, and all there is.
        return Holds.YES if is_seen or not found else Holds.SOON
    if is_chosen:
        return Holds.SOON
    if saved.assigned is None or None in found:
        return Holds.UNKNOWN
    return Holds.NO


def proof(secret: bytes, challenge: str, node: str, word: Holds) -> str:
    """Return what shows that a holder of the secret says this, of this node, now.

    It can be taken for no signature of a report: those end a JSON object.
    """
    said = "\n".join(("lb-probe holds", challenge, node, word.value))
    return hmac.new(secret, said.encode(), hashlib.sha256).hexdigest()
