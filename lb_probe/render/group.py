"""One group or all of them: who has the traffic, its nodes, its load balancers."""

from collections.abc import Sequence

from lb_probe.client import Json
from lb_probe.columns import bound, table
from lb_probe.render.levels import LEVELS, next_step, serving, worst_first
from lb_probe.render.text import Look, joined, mapping, plain, strings, way_of

MARKS = {"bad": "!!", "warn": "! ", "good": "ok"}


def status_table(groups: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each group, worst first, and what waits for an operator."""
    if not groups:
        return ["no groups"]
    head = ("GROUP", "TRAFFIC", "CONDITION", "LAST CHANGE", "LOAD BALANCERS", "HOLD")
    ordered = worst_first(groups)
    rows = [
        (
            plain(g["name"]),
            _traffic(g, look),
            condition_word(g, look, is_cell=True),
            _change(g.get("last_change"), look),
            balancers_word(g, look),
            _hold(g, look),
        )
        for g in ordered
    ]
    steps = [f"{plain(g['name'])}: {step}" for g in ordered if (step := next_step(g))]
    steps += [
        f"{plain(g['name'])}: {plain(w)}" for g in ordered for w in strings(g.get("warnings"))
    ]
    return [*table(head, rows, look.width), *([""] if steps else []), *steps]


def group_block(group: Json, look: Look) -> list[str]:
    """Return everything about one group."""
    hold = group.get("hold")
    held = f": {plain(hold.get('reason'))}" if isinstance(hold, dict) else ""
    swapped = group.get("roles_swapped") is True
    facts = [
        ("condition", condition_word(group, look)),
        ("why", f"{plain(group.get('reason'))} (rule {plain(group.get('rule'))})"),
        ("blocked by", ", ".join(map(plain, strings(group.get("blocked"))))),
        ("traffic", _traffic(group, look)),
        ("latched", "" if "in" in group else "yes" if group.get("latched") else "no"),
        ("hold", _hold(group, look) + held),
        ("roles", "swapped by swap-roles; the file does not agree yet" if swapped else ""),
        ("policy", plain(group.get("policy"))),
        ("generation", plain(group.get("generation"))),
        *_change_facts(group.get("last_change"), look),
        *[("they say", plain(sentence)) for sentence in strings(group.get("objections"))],
        ("next", next_step(group)),
        *[("see to", plain(sentence)) for sentence in strings(group.get("warnings"))],
    ]
    width = max(len(name) for name, _ in facts)
    lines = [plain(group["name"])]
    lines += [f"  {name:{width}}  {text}" for name, text in facts if text]
    lines += ["", *table(_NODE_HEAD, _node_rows(group, look), look.width)]
    if group["adapters"]:
        rows = [_adapter_row(a, look) for a in group["adapters"]]
        lines += ["", *table(_ADAPTER_HEAD, rows, look.width)]
    return lines


def _change_facts(change: object, look: Look) -> list[tuple[str, str]]:
    if not isinstance(change, dict):
        return [("last change", "-")]
    way = way_of(change.get("from"), change.get("to"))
    evidence = change.get("evidence")
    seen = evidence if isinstance(evidence, list) else []
    return [
        ("last change", f"{_change(change, look)}: {way}"),
        *[("evidence", plain(sentence)) for sentence in seen],
    ]


def condition_word(group: Json, look: Look, *, is_cell: bool = False) -> str:
    """Return a group's condition with its mark; in one piece where it is a cell."""
    level = LEVELS.get(group["condition"], "bad")
    text = f"{MARKS[level]} {plain(group['condition'])}"
    text = bound(text) if is_cell else text
    return look.paint(text, level) + ("" if group.get("act", True) else " (observing only)")


def _traffic(group: Json, look: Look) -> str:
    if isinstance(inside := group.get("in"), list):
        level = "good" if len(inside) == len(group["nodes"]) else "warn" if inside else "bad"
        return look.paint(f"{len(inside)} of {len(group['nodes'])} in", level)
    word = serving(group)
    if word is None:
        return look.paint("nobody", "bad")
    level = {"ok": "good", "fail": "bad"}.get(word, "warn")
    return f"{plain(group['assigned'])} ({look.paint(word, level)})"


def balancers_word(group: Json, look: Look) -> str:
    """Return how many load balancers are in sync, and the names of the others."""
    every = group["adapters"]
    if not every:
        return "none"
    late = [plain(a.get("name")) for a in every if not a.get("in_sync")]
    text = f"in sync {len(every) - len(late)}/{len(every)}"
    return look.paint(f"{text}, not: {', '.join(late)}", "bad") if late else text


def _hold(group: Json, look: Look) -> str:
    hold = group.get("hold")
    if not isinstance(hold, dict):
        return "-"
    kind = "hands off, " if hold.get("hands_off") else ""
    return f"{kind}by {plain(hold.get('by'))} until {look.time(hold.get('until'))}"


def _change(change: object, look: Look) -> str:
    if not isinstance(change, dict):
        return "-"
    return f"{look.time(change.get('at'))} {plain(change.get('kind'))}"


_NODE_HEAD = ("NODE", "ROLE", "SERVING", "MODE", "PAGE", "RESULT", "PHASE", "AGE", "DETAIL")
_ADAPTER_HEAD = (
    *("LOAD BALANCER", "TYPE", "WANTED", "SEEN", "USABLE", "IN SYNC"),
    *("VERSION", "UP", "RESTARTS", "DETAIL"),
)


def _node_rows(group: Json, look: Look) -> list[tuple[str, ...]]:
    rows = []
    for node in group["nodes"]:
        first = [plain(node.get(key)) for key in ("name", "role", "serving", "mode")]
        if node.get("name") == group.get("assigned") or node.get("in") is True:
            first[0] = f"{first[0]} (traffic)"
        pages = ("status",) if "in" in node else ("status", "hastatus")
        for page in pages:
            rows.append((*first, page, *_probe_cells(mapping(node.get("probes")).get(page), look)))
            first = [""] * 4
    return rows


def _probe_cells(probe: object, look: Look) -> tuple[str, ...]:
    found = mapping(probe)
    result = plain(found.get("result"))
    level = {"ok": "good", "-": "warn"}.get(result, "bad")
    age = found.get("age_s")
    return (
        look.paint(result, level),
        plain(found.get("phase")),
        f"{age:.1f}s" if isinstance(age, int | float) else "-",
        plain(found.get("detail")),
    )


def _adapter_row(adapter: Json, look: Look) -> tuple[str, ...]:
    in_sync = adapter.get("in_sync") is True
    return (
        plain(adapter.get("name")),
        plain(adapter.get("type")),
        plain(joined(adapter.get("wanted")) or adapter.get("wanted")),
        plain(joined(adapter.get("seen")) or adapter.get("seen")),
        plain(adapter.get("usable"), none="cannot tell"),
        look.paint("ok yes" if in_sync else "!! no", "good" if in_sync else "bad"),
        plain(adapter.get("version")),
        _span(adapter.get("uptime_s")),
        plain(adapter.get("restarts")),
        plain(adapter.get("detail")),
    )


def _span(seconds: object) -> str:
    """Return a time in its largest whole unit: 90 s are 1m."""
    if not isinstance(seconds, int | float):
        return "-"
    units = ((86_400, "d"), (3_600, "h"), (60, "m"))
    return next((f"{seconds // s:.0f}{u}" for s, u in units if seconds >= s), f"{seconds:.0f}s")
