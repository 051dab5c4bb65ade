"""Where groups begin: what was saved, judged by the present file, and what a start has to save.

Source: DESIGN section 1 (Start); X18.
"""

from collections.abc import Mapping

from lb_probe.controller.group import OfflineNote, Runtime, Setup
from lb_probe.core import acts
from lb_probe.core.model import (
    Saved,
)
from lb_probe.core.start import Beginning, points_elsewhere, topology_faults
from lb_probe.ports import (
    Invalid,
)


def judged(
    stored: Mapping[str, Saved],
    setups: Mapping[str, Setup],
    notes: Mapping[str, OfflineNote],
    allowed: frozenset[str],
) -> Mapping[str, Saved]:
    """Return what is saved, by the present names; nothing was changed where it raises.

    Args:
        stored: By the names that were in force when it was saved.

    Raises:
        Invalid: The file changed what a latched group or the node with the traffic is.
    """
    saved = dict(stored)
    for name, setup in setups.items():
        if setup.was in saved and name not in saved:
            saved[name] = saved.pop(setup.was)
    groups = {name: setup.group for name, setup in setups.items()}
    prints = {name: setup.fingerprints for name, setup in setups.items()}
    faults = topology_faults(saved, groups, prints, allowed)
    faults += [
        f"group {name}: {note.actor} published {note.node} offline, and no such node is in the"
        " file; put it back, or publish another one offline"
        for name, note in notes.items()
        if name in groups and name not in allowed and note.node not in groups[name].names
    ]
    if faults:
        raise Invalid("; ".join(faults))
    return saved


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
