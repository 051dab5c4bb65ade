"""What other settings would have done with the recorded faults, side by side."""

from lb_probe.client import Json
from lb_probe.columns import table
from lb_probe.render.text import Look, dicts, mapping, plain, strings

_SETTINGS = (
    ("primary", ""),
    ("candidate", ""),
    ("act", ""),
    ("confirm_s", "s"),
    ("fall", ""),
    ("rise", ""),
    ("interval_s", "s"),
    ("recheck_s", "s"),
    ("timeout_s", "s"),
    ("max_age_s", "s"),
    ("serving_deadline_s", "s"),
)


def replay_block(answer: Json, look: Look) -> list[str]:
    """Return what each configuration would have done with each fault, side by side."""
    titles = [f"WITH {plain(title)}" for title in strings(answer.get("configurations"))]
    lines: list[str] = []
    for group in dicts(answer.get("groups")):
        lines += ([""] if lines else []) + _replayed_group(group, titles, look)
    return lines or ["no group is in every configuration"]


def _replayed_group(group: Json, titles: list[str], look: Look) -> list[str]:
    faults = dicts(group.get("faults"))
    count = f"{len(faults)} fault{'' if len(faults) == 1 else 's'} of the Primary on record"
    lines = [f"{plain(group.get('name'))}: {count}"]
    for title, unseen in zip(titles, group["unseen"], strict=True):
        if unseen:
            names = ", ".join(map(plain, unseen))
            lines.append(f"warning: {title}: the history knows no page of {names}")
    settings = group["settings"]
    rows = [
        (name.removesuffix("_s"), *(_setting(each.get(name), unit) for each in settings))
        for name, unit in _SETTINGS
        if len(settings) == 1 or settings[0].get(name) != settings[1].get(name)
    ]
    settings_table = table(("SETTING", *titles), rows, look.width)
    lines += ["", *settings_table] if rows else ["", "no setting differs"]
    if not faults:
        return lines
    head = ("FAULT BEGAN", "NODE", "HOW", "LASTED", *titles, "REALLY")
    return [*lines, "", *table(head, [_fault_row(fault, look) for fault in faults], look.width)]


def _setting(value: object, unit: str) -> str:
    return f"{value:g}{unit}" if unit and isinstance(value, int | float) else plain(value)


def _fault_row(fault: Json, look: Look) -> tuple[str, ...]:
    lasted = fault.get("lasted_s")
    ended = fault.get("ended")
    how_long = "goes on" if lasted is None else f"{lasted:.1f}s"
    more = f" ({plain(ended)})" if ended not in ("good", "open") else ""
    return (
        look.time(fault.get("at")),
        plain(fault.get("node")),
        plain(fault.get("how")),
        how_long + more,
        *(_move(would) for would in dicts(fault.get("would"))),
        _move(mapping(fault.get("really"))),
    )


def _move(found: Json) -> str:
    if found.get("to") is None:
        text = f"no move: {plain(found.get('why'))}" if found.get("why") != "no move" else "no move"
    else:
        by = found.get("by")
        who = f" by {plain(by)}" if by not in (None, "the rule") else ""
        text = f"-> {plain(found['to'])} after {found['after_s']:.1f}s{who}"
    return f"{text} (a resume before is assumed)" if found.get("resume_assumed") else text
