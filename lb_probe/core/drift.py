"""What to do when a load balancer does not do what was published to it.

A restart forgets: the assignment is written again, always. A hand that moves traffic, or another
program, is corrected twice; the third time within a minute somebody means it, and two writers that
correct each other are worse than one wrong node. Then the adapter yields until an operator says
`accept` or `republish`.

Source: DESIGN section 1; X2, X21.
"""

from dataclasses import dataclass, replace

WINDOW_S = 60.0
PATIENCE = 3  # the third drift within the window is somebody else writing


@dataclass(frozen=True, slots=True)
class Watch:
    """What one adapter's drift looked like so far.

    Attributes:
        instance: The run of the load balancer that was last seen in sync.
        agreed: The last reading agreed. One that disagrees after it is a new drift; after that it
            is the same one, not yet repaired.
        drifts: When unexplained drift was found, monotonic seconds, within the window.
        yielded: Somebody else writes there; nothing is written until an operator decides.
    """

    instance: str = ""
    agreed: bool = False
    drifts: tuple[float, ...] = ()
    yielded: bool = False


def in_sync(watch: Watch, instance: str) -> Watch:
    """Note a reading that agrees with what was published."""
    if watch.agreed and watch.instance == instance:
        return watch  # as nearly all of them
    return replace(watch, instance=instance, agreed=True)


def drifted(watch: Watch, instance: str, now: float) -> Watch:
    """Note a reading that disagrees.

    >>> watch = Watch()
    >>> for at in (0.0, 10.0, 20.0):
    ...     watch = drifted(in_sync(watch, "run-1"), "run-1", at)
    >>> watch.yielded
    True
    >>> drifted(in_sync(Watch(), "run-1"), "run-2", 30.0).drifts
    ()
    """
    if instance != watch.instance:
        return replace(watch, instance=instance, agreed=False)
    if not watch.agreed:
        return watch  # a repair that did not take is not somebody else writing
    drifts = (*(at for at in watch.drifts if now - at < WINDOW_S), now)
    yielded = watch.yielded or len(drifts) >= PATIENCE
    return replace(watch, agreed=False, drifts=drifts, yielded=yielded)


def yielded(watch: Watch) -> Watch:
    """Note that somebody else signed what is there: yield at once."""
    return replace(watch, yielded=True)
