"""Who would be given a new connection: what all the states are for.

The data plane is not emulated; this says only which members of a pool are eligible on a unit.
"""

from emulator.names import Place
from emulator.stats import is_usable
from emulator.unit import Unit


def eligible(unit: Unit, pool: str, *, persistent_to: str = "") -> list[str]:
    """Return the members that a new connection may go to, in their order.

    A pool without `minActiveMembers` uses all that are usable. With it, priority groups are opened
    from the highest down until so many members are usable: a higher group that comes back takes
    the traffic again by itself, whatever anybody wanted.

    Args:
        persistent_to: The member that the client has a persistence record for. A disabled member
            still gets such connections; one that is forced offline or down does not.
    """
    place: Place = ("ltm", "pool", pool)
    config, health = unit.running, unit.health
    members = list(config.children((*place, "members")))
    if persistent_to and _keeps(unit, (*place, "members", persistent_to)):
        return [persistent_to]
    usable = [member for member in members if is_usable(config, health, member)]
    least = config.get(place)["minActiveMembers"]
    if not least:
        return [member[-1] for member in usable]
    opened: list[Place] = []
    groups = sorted({config.objects[m]["priorityGroup"] for m in usable}, reverse=True)
    for group in groups:
        if len(opened) >= least:
            break
        opened += [m for m in usable if config.objects[m]["priorityGroup"] == group]
    return [member[-1] for member in opened]


def _keeps(unit: Unit, member: Place) -> bool:
    values = unit.running.get(member)
    return values["state"] == "user-up" and unit.health.word(member) != "down"
