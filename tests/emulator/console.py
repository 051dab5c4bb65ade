"""Lines on standard input for an emulator that runs by itself: whoever tries a client by hand.

fail-over                       the other unit becomes active
reboot 0                        unit 0 loses what was not saved
condition 1 off                 unit 1 is off; the words are those of `wire.Condition`
down 192.0.2.10:443             its monitors fail; `up` and `drained` likewise
fault busy PATCH /members/      the next such request meets it; method and path may be left out
advance 1200                    so many seconds pass
show                            members, units and sync, in a line each
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator import faults
from emulator.ltm import POOL
from emulator.wire import Condition

if TYPE_CHECKING:
    from emulator import Emulator

FAULTS: dict[str, Callable[[], faults.Fault]] = {
    make().name: make
    for make in (
        *(faults.busy, faults.restarting, faults.restjavad_down, faults.mcpd_lost),
        *(faults.spurious_401, faults.token_revoked, faults.unregistered, faults.lost_object),
        *(faults.token_limit, faults.provisioning, faults.cut_before, faults.cut_after),
        *(faults.truncated, faults.html_200, faults.garbage, faults.json_list, faults.empty),
        *(faults.login_page, faults.hollow, faults.created_not_found),
    )
}


def obey(emulator: "Emulator", line: str) -> str:
    """Carry out one line and return what to print.

    Raises:
        ValueError: It says nothing that is known here.
    """
    match line.split():
        case ["fail-over"]:
            emulator.active.fail_over()
            return f"active: {emulator.active.name}"
        case ["reboot", unit]:
            emulator.unit(int(unit)).reboot()
            return f"active: {emulator.active.name}"
        case ["condition", unit, word]:
            emulator.unit(int(unit)).condition = Condition(word)
            return f"{emulator.unit(int(unit)).name}: {word}"
        case ["up" | "down" | "drained" as word, service]:
            emulator.world.set(service, word)
            return f"{service}: {word}"
        case ["fault", name, *where] if name in FAULTS:
            emulator.faults.next(FAULTS[name](), method="".join(where[:1]), path="".join(where[1:]))
            return f"next: {name}"
        case ["advance", seconds]:
            emulator.clock.advance(float(seconds))
            return "done"
        case ["show"]:
            return "\n".join(shown(emulator))
        case _:
            raise ValueError(f"found {line.strip()!r}; use one of the lines of emulator/console.py")


def shown(emulator: "Emulator") -> list[str]:
    """Return how everything is, a line for each unit and member."""
    lines = [f"sync: {emulator.shared.sync_status()}"]
    for unit in emulator.units:
        unit.settle()
        lines.append(f"{unit.name}: {unit.failover_state}, {unit.condition.value}")
        for pool in unit.running.children(POOL):
            for place in unit.running.children((*pool, "members")):
                seen = unit.member(pool[-1], place[-1])
                lines.append(f"  {pool[-1]} {place[-1]}: {seen['state']} {seen['session']}")
    return lines
