"""Whether a node that comes back as Primary has to make way for its peer (X11, X12).

A Primary that died comes back with Primary in its file and old data on its disk, while its peer was
promoted meanwhile. Who was made Primary later has the newer data; the other one must not serve.
"""

from dataclasses import dataclass

from lb_probe.core.model import Mode, Role


@dataclass(frozen=True, slots=True)
class Reign:
    """A node as Primary.

    Attributes:
        mode: None where it is not known.
        since_wall: When it was made Primary, UTC seconds since 1970; 0 where nobody ever made it
            so and it only began as one; None where it is not known.
    """

    role: Role
    mode: Mode | None
    since_wall: float | None = None


def must_yield(own: Reign, peer: Reign) -> bool:
    """Tell whether `own` has to keep its pages at ERROR until an operator decides.

    Never both of two: after a power cut of both sites one of them goes on. Where only a page is
    known of the peer, which does not say since when, the node that is the Primary by role yields:
    the other one was promoted.

    >>> promoted = Reign(Role.SECONDARY, Mode.PRIMARY, 1_000.0)
    >>> returned = Reign(Role.PRIMARY, Mode.PRIMARY, 0.0)
    >>> must_yield(returned, promoted), must_yield(promoted, returned)
    (True, False)
    """
    if own.mode is not Mode.PRIMARY or peer.mode is not Mode.PRIMARY:
        return False
    known = own.since_wall is not None and peer.since_wall is not None
    if known and own.since_wall != peer.since_wall:
        return own.since_wall < peer.since_wall  # type: ignore[operator] # both are known
    return own.role is Role.PRIMARY
