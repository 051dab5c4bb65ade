"""Writes to a configuration, and what is new between two of them."""

from collections.abc import Mapping
from typing import Any

from emulator.configuration import Configuration, Happened
from emulator.errors import refused
from emulator.ltm import POOL
from emulator.names import Place


def write(
    config: Configuration, method: str, place: Place, is_collection: bool, body: Any
) -> Place:
    """Apply one write to a configuration and return the place it was about.

    Raises:
        Refusal: It is refused; the configuration may be half changed and is to be thrown away.
    """
    given: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    if is_collection:
        if method != "POST":
            raise refused(405, "Operation is not supported on a collection.")
        return config.create(place, given)
    match method:
        case "PATCH":
            config.modify(place, given)
        case "PUT":
            config.replace(place, given)
        case "DELETE":
            config.delete(place)
        case _:
            raise refused(405, f"{method} is not supported.")
    return place


def differences(old: Configuration, new: Configuration) -> list[Happened]:
    """Return what happened to each object between two configurations."""
    events = [Happened("deleted", place) for place in old.objects if place not in new.objects]
    for place, after in new.objects.items():
        before = old.objects.get(place)
        if before is None:
            events.append(Happened("created", place))
        elif before != after:
            events += [Happened(what, place) for what in _changes(before, after)]
            if place[:-1] == POOL and before.get("monitor") != after.get("monitor"):
                members = new.children((*place, "members"))
                events += [Happened("monitor", member) for member in members]
    return events


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    out = []
    if before.get("monitor") != after.get("monitor"):
        out.append("monitor")
    if before.get("state") == "user-down" and after.get("state") == "user-up":
        out.append("raised")
    if before.get("session") != after.get("session") == "user-enabled":
        out.append("enabled")
    return out
