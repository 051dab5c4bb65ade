"""Where groups begin: whether the file fits what was saved, and what a start has to save.

Source: DESIGN section 1 (Start); X18.
"""

from collections.abc import Mapping, Sequence

from lb_probe.controller.group import OfflineNote, Runtime, Setup
from lb_probe.core import acts
from lb_probe.core.model import Saved
from lb_probe.core.start import Beginning, points_elsewhere, topology_faults
from lb_probe.ports import Invalid


def refuse_unfit(
    stored: Mapping[str, Saved],
    setups: Sequence[Setup],
    notes: Mapping[str, OfflineNote],
    allowed: frozenset[str],
) -> None:
    """Refuse a file that does not fit what is saved.

    Args:
        stored: By the names that were in force when it was saved.
        allowed: Groups whose changed topology an operator overrode by name.

    Raises:
        Invalid: The file changed what a latched group or the node with the traffic is.
    """
    saved = dict(stored)
    for setup in setups:
        if setup.was in saved and setup.name not in saved:
            saved[setup.name] = saved.pop(setup.was)
    groups = {setup.name: setup.group for setup in setups}
    prints = {setup.name: setup.fingerprints for setup in setups}
    faults = topology_faults(saved, groups, prints, allowed)
    faults += [
        f"group {name}: {note.actor} published {note.node} offline, and no such node is in the"
        " file; put it back, or publish another one offline"
        for name, note in notes.items()
        if name in groups and name not in allowed and note.node not in groups[name].names
    ]
    if faults:
        raise Invalid("; ".join(faults))


def begun(
    runtime: Runtime, start: Beginning, note: OfflineNote | None, wall: float
) -> Saved | None:
    """Return what this start has to save; None where the saved word stands as it is."""
    saved, group = runtime.saved, runtime.group
    if note is not None and note.node in group.names:
        latched = saved.latched or note.node != group.primary
        reason = f"published offline by {note.actor}: {note.reason}"
        return acts.by_itself(saved, "offline", note.node, latched, note.at_wall, reason)
    if start.kind in ("adopt", "assign"):
        return acts.by_itself(saved, start.kind, start.node, start.latched, wall, start.reason)
    if start.node != saved.assigned:  # overridden by name: its node is gone from the file
        return acts.by_itself(saved, "adopt", start.node, start.latched, wall, start.reason)
    place = runtime.setup.fingerprints.get(saved.assigned or "", "")
    if points_elsewhere(saved.fingerprint, place):  # overridden by name: asked only once
        reason = f"{saved.assigned} is now where the file says, as was overridden by name"
        return acts.by_itself(saved, "adopt", saved.assigned, saved.latched, wall, reason)
    return None
