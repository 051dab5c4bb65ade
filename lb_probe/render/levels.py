"""How grave it is: the order of conditions, what waits for a person, the line for a monitor."""

from collections.abc import Sequence

from lb_probe.client import Json
from lb_probe.render.text import plain, strings

# Worst first. A word that is not here is newer than this client and is shown as bad.
CONDITIONS = (
    ("bad", "all-down"),
    ("bad", "panic"),
    ("bad", "not-serving"),
    ("bad", "secondary-down"),
    ("bad", "no-standby"),
    ("bad", "promoted-early"),
    ("bad", "unknown-mode"),
    ("bad", "failover-blocked"),
    ("bad", "failing-over"),
    ("bad", "out-blocked"),
    ("bad", "unassigned"),
    ("bad", "prober-isolated"),
    ("warn", "role-mismatch"),
    ("warn", "dual-primary"),
    ("warn", "failed-over"),
    ("warn", "primary-returned"),
    ("warn", "in-blocked"),
    ("warn", "some-out"),
    ("warn", "unprotected"),
    ("warn", "confirming"),
    ("good", "all-in"),
    ("good", "normal"),
)
RANKS = {word: rank for rank, (_, word) in enumerate(CONDITIONS)}
LEVELS = {word: level for level, word in CONDITIONS}


def is_moved(group: Json) -> bool:
    """Tell whether traffic is off the Primary: latched, or assigned to another node."""
    roles = {node.get("name"): node.get("role") for node in group["nodes"]}
    assigned = group.get("assigned")
    return bool(group.get("latched")) or (
        isinstance(assigned, str) and roles.get(assigned, "primary") != "primary"
    )


def serving(group: Json) -> str | None:
    """Return how the node with the traffic serves (ok, fail, unknown); None while unassigned.

    An active-active group serves while one node that is in does.
    """
    assigned = group.get("assigned")
    if isinstance(inside := group.get("in"), list):
        words = {n.get("serving") for n in group["nodes"] if n.get("name") in inside}
        return next((word for word in ("ok", "unknown") if word in words), "fail")
    if assigned is None:
        return None
    found = (node.get("serving") for node in group["nodes"] if node.get("name") == assigned)
    return plain(next(found, None), none="unknown")


def worst_first(groups: Sequence[Json]) -> list[Json]:
    """Order groups so that the first line is the one to look at."""

    def rank(group: Json) -> tuple[bool, int, bool, str]:
        out_of_sync = any(a.get("in_sync") is False for a in group["adapters"])
        return (
            serving(group) in (None, "ok"),
            RANKS.get(group["condition"], -1),
            not out_of_sync,
            group["name"],
        )

    return sorted(groups, key=rank)


def next_step(group: Json) -> str:
    """Return what an operator would do next; empty when nothing waits for one."""
    name = plain(group["name"])
    if group.get("latched") and group["condition"] not in ("failing-over", "not-serving"):
        return f"awaiting manual resume: lb-probe explain {name}"
    if group["condition"] == "unassigned":
        if not group.get("act", True):
            return _observed_step(group, name)
        return f"nothing is published until: lb-probe failover {name} --to NODE --reason 'why'"
    if group["condition"] in ("normal", "all-in"):
        if "store-not-writable" in strings(group.get("blocked")):
            return f"the store takes no writes, nothing moves by itself: lb-probe explain {name}"
        return ""
    return f"why: lb-probe explain {name}"


def _observed_step(group: Json, name: str) -> str:
    """Return the next step where nobody has said who has the traffic, and we may only look."""
    seen = {adapter.get("seen") for adapter in group["adapters"]}
    if len(seen) == 1 and None not in seen:
        return f"only observed; take what is seen: lb-probe accept {name} --reason 'why'"
    return (
        "only observed, and the load balancers name no one node: send traffic to one there and"
        f" lb-probe accept {name} --reason 'why', or say act: true"
    )


_NAGIOS = {"bad": (2, "CRITICAL"), "warn": (1, "WARNING"), "good": (0, "OK")}
_PASSING = frozenset({"confirming", "failing-over"})  # lasts seconds: not worth an alarm yet


def nagios(groups: Sequence[Json]) -> tuple[int, str]:
    """Return exit code and line of a monitoring plugin (Monitoring Plugins Development Guidelines).

    The worst group decides; a load balancer that is not in sync or a store that takes no writes is
    critical, a hold or what should be seen to a warning.
    """
    found = [(*_worry(group), plain(group["name"])) for group in worst_first(groups)]
    level = next((one for one in ("bad", "warn") if any(f[0] == one for f in found)), "good")
    code, word = _NAGIOS[level]
    told = [f"{name}: {why}" for one, why, name in found if one == level and level != "good"]
    text = "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")
    moved = sum(is_moved(group) for group in groups)
    some = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    text = (text or f"{some}, nothing to see to").replace("|", "/")
    return code, f"LB-PROBE {word} - {text} | groups={len(groups)} failed_over={moved}"


def _worry(group: Json) -> tuple[str, str]:
    condition = plain(group.get("condition"))
    level = "good" if condition in _PASSING else LEVELS.get(condition, "bad")
    apart = [plain(a["name"]) for a in group["adapters"] if a.get("in_sync") is False]
    is_told = group.get("act") is not False and condition != "unassigned"
    if apart and is_told and condition != "failing-over":
        return "bad", f"{condition}, {', '.join(apart)} not in sync"
    if level == "good" and "store-not-writable" in strings(group.get("blocked")):
        return "bad", f"{condition}, the store takes no writes"
    if level == "good" and group.get("hold"):
        return "warn", f"{condition}, on hold"
    warnings = strings(group.get("warnings"))
    if level == "good" and warnings:
        more = f", and {len(warnings) - 1} more to see to" if len(warnings) > 1 else ""
        return "warn", f"{condition}, {plain(warnings[0])}{more}"
    return level, condition
