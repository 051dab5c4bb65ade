"""Which row of the guide's Table 1 a pair is in (R2 to R6).

| row | scenario | the Primary is | the Secondary is |
|---|---|---|---|
| 1 | Primary server is up | active | standby |
| 2 | Primary server is down | not available | promoted to active |
| 3 | Primary is up again | back, to be synced and made active again by an administrator | active |

Server names are static, states swap: `role` is what the file says and never changes here (R3).
"""

from dataclasses import dataclass

from lb_probe.core.model import Mode, Role

STATES = ("active", "standby", "not_available")


@dataclass(frozen=True, slots=True)
class Standing:
    """One node of the pair, as it was last seen.

    Attributes:
        mode: What it says of itself; None where it does not say.
        serves: Its status page is OK.
        answers: Anything at all answered.
        is_quarantined: It came back as Primary and keeps out.
    """

    name: str
    role: Role
    mode: Mode | None
    serves: bool
    answers: bool
    is_quarantined: bool = False

    @property
    def state(self) -> str:
        """Its state in the guide's words."""
        if self.is_quarantined or self.mode is None:
            return "not_available"
        if self.mode is Mode.STANDBY:
            return "standby"
        return "active" if self.serves else "not_available"


@dataclass(frozen=True, slots=True)
class Scenario:
    """Where a pair is in Table 1.

    Attributes:
        row: 1, 2 or 3; None where the table has no row for it.
        promoted: The Secondary says Primary.
        serving: One node is active.
    """

    row: int | None
    text: str
    promoted: bool
    serving: bool


def scenario(one: Standing, other: Standing) -> Scenario:
    """Return the row of a pair; the order of the two does not matter.

    Raises:
        ValueError: Both have one role.
    """
    if one.role is other.role:
        raise ValueError(f"{one.name} and {other.name} are both {one.role.value}")
    primary, secondary = (one, other) if one.role is Role.PRIMARY else (other, one)
    states = primary.state, secondary.state
    promoted = secondary.mode is Mode.PRIMARY
    row, text = _row(primary, secondary)
    return Scenario(row, text, promoted, "active" in states)


def _row(primary: Standing, secondary: Standing) -> tuple[int | None, str]:
    states = primary.state, secondary.state
    if states == ("active", "standby"):
        return 1, "the Primary is up"
    if states == ("active", "active"):
        return None, "both nodes say Primary and serve: decide whose data is kept"
    if states[1] == "active":
        if primary.is_quarantined or states[0] == "standby":
            return 3, f"the Primary is up again: sync {primary.name} from {secondary.name}"
        return 2, "the Primary is down, the Secondary was promoted and serves"
    if secondary.mode is Mode.PRIMARY:
        return 2, "the Primary is down, the Secondary was promoted and does not serve yet"
    if states[0] == "active":
        return None, f"the Primary is up, and {secondary.name} does not stand by"
    if states[1] == "standby":
        said = "stands by as well" if states[0] == "standby" else "is not available"
        return None, f"{primary.name} {said}: no node serves"
    return None, "no node serves"
