"""Turns the API's answers into text for people. Pure: values in, lines out; nothing is printed.

What comes from outside is made safe for a terminal (`plain`), and every mark is readable without
colour. Times are local with their offset on a terminal, UTC elsewhere.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from lb_probe.client import Json
from lb_probe.columns import bound, table

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
MARKS = {"bad": "!!", "warn": "! ", "good": "ok"}
COLOURS = {"bad": "red", "warn": "yellow", "good": "green"}


@dataclass(frozen=True, slots=True)
class Look:
    """How to write for this reader.

    Attributes:
        colour: ANSI colours may be used.
        local: Times are local with their offset; else UTC.
        width: Places of a line; None for as many as it takes.
    """

    colour: bool = False
    local: bool = False
    width: int | None = None

    def paint(self, text: str, level: str) -> str:
        """Colour `text` by level (bad, warn, good)."""
        return click.style(text, fg=COLOURS[level], bold=level == "bad") if self.colour else text

    def time(self, value: object) -> str:
        """Write an ISO-8601 time; `-` for none, the text itself where it is not a time."""
        if not isinstance(value, str):
            return "-"
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return plain(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        if self.local:
            return at.astimezone().strftime("%Y-%m-%d %H:%M:%S%z")
        return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(value: object, none: str = "-") -> str:
    """Return one line that is safe on a terminal; `none` for None and the empty string."""
    if value is None or value == "":
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def lines_of(text: str) -> list[str]:
    """Split a text for people into lines that are safe on a terminal."""
    return [plain(line, none="") for line in text.expandtabs().splitlines()]


def document(content: Json, form: str) -> str:
    """Write one versioned document as json or yaml; the keys are sorted, `version` comes first."""
    ordered = {"version": 1, **json.loads(json.dumps(content, sort_keys=True, default=str))}
    if form == "json":
        return json.dumps(ordered, indent=2)
    import yaml  # 30 ms that nobody else should pay

    class Dumper(yaml.SafeDumper):
        """Writes text of several lines as such."""

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    # One value, one line: where a long one is folded would hang on the length of a path in it.
    return str(yaml.dump(ordered, Dumper=Dumper, sort_keys=False, width=2**20)).rstrip("\n")


# ------------------------------------------------------------------ one line for a monitor
_NAGIOS = {"bad": (2, "CRITICAL"), "warn": (1, "WARNING"), "good": (0, "OK")}
_PASSING = frozenset({"confirming", "failing-over"})  # lasts seconds: not worth an alarm yet


def nagios(groups: Sequence[Json]) -> tuple[int, str]:
    """Return exit code and line of a monitoring plugin (Monitoring Plugins Development Guidelines).

    The worst group decides; a load balancer that is not in sync is critical, a hold a warning.
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
    if level == "good" and group.get("hold"):
        return "warn", f"{condition}, on hold"
    return level, condition


# ------------------------------------------------------------------ reading a group
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
        if "store-not-writable" in _strings(group.get("blocked")):
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


def _condition(group: Json, look: Look, *, is_cell: bool = False) -> str:
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


def _balancers(group: Json, look: Look) -> str:
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


def _way(source: object, target: object) -> str:
    if source == target:
        return f"stays on {plain(target, none='nobody')}"
    return f"{plain(source, none='nobody')} -> {plain(target, none='nobody')}"


# ------------------------------------------------------------------ status, explain, history
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
            _condition(g, look, is_cell=True),
            _change(g.get("last_change"), look),
            _balancers(g, look),
            _hold(g, look),
        )
        for g in ordered
    ]
    steps = [f"{plain(g['name'])}: {step}" for g in ordered if (step := next_step(g))]
    steps += [
        f"{plain(g['name'])}: {plain(w)}" for g in ordered for w in _strings(g.get("warnings"))
    ]
    return [*table(head, rows, look.width), *([""] if steps else []), *steps]


def group_block(group: Json, look: Look) -> list[str]:
    """Return everything about one group."""
    hold = group.get("hold")
    held = f": {plain(hold.get('reason'))}" if isinstance(hold, dict) else ""
    swapped = group.get("roles_swapped") is True
    facts = [
        ("condition", _condition(group, look)),
        ("why", f"{plain(group.get('reason'))} (rule {plain(group.get('rule'))})"),
        ("blocked by", ", ".join(map(plain, _strings(group.get("blocked"))))),
        ("traffic", _traffic(group, look)),
        ("latched", "" if "in" in group else "yes" if group.get("latched") else "no"),
        ("hold", _hold(group, look) + held),
        ("roles", "swapped by swap-roles; the file does not agree yet" if swapped else ""),
        ("policy", plain(group.get("policy"))),
        ("generation", plain(group.get("generation"))),
        *_change_facts(group.get("last_change"), look),
        *[("they say", plain(sentence)) for sentence in _strings(group.get("objections"))],
        ("next", next_step(group)),
        *[("see to", plain(sentence)) for sentence in _strings(group.get("warnings"))],
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
    way = _way(change.get("from"), change.get("to"))
    evidence = change.get("evidence")
    seen = evidence if isinstance(evidence, list) else []
    return [
        ("last change", f"{_change(change, look)}: {way}"),
        *[("evidence", plain(sentence)) for sentence in seen],
    ]


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
            rows.append((*first, page, *_probe_cells(_mapping(node.get("probes")).get(page), look)))
            first = [""] * 4
    return rows


def _probe_cells(probe: object, look: Look) -> tuple[str, ...]:
    found = _mapping(probe)
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
        plain(_joined(adapter.get("wanted")) or adapter.get("wanted")),
        plain(_joined(adapter.get("seen")) or adapter.get("seen")),
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


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def history_table(records: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each record, in the order in which it all happened."""
    if not records:
        return ["nothing has happened yet"]
    rows = []
    for record in _in_order(records):
        details = _mapping(record.get("details"))
        rows.append(
            (
                look.time(record.get("at")),
                plain(record.get("group"), none="(prober)"),
                plain(record.get("kind")),
                _what(record, details),
                plain(details.get("actor") or details.get("rule")),
                _told_why(details),
            )
        )
    return table(("AT", "GROUP", "KIND", "WHAT", "BY", "WHY"), rows, look.width)


def token_table(tokens: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each token."""
    if not tokens:
        return ["no tokens; make one: lb-probe token create NAME --role viewer"]
    rows = [
        (
            plain(token.get("name")),
            plain(token.get("role")),
            _joined(token.get("groups")) or "all",
            look.time(token.get("created")),
            plain(token.get("created_by")),
            look.time(token.get("expires")) if token.get("expires") else "never",
            plain(token.get("state")),
            plain(token.get("id")),
        )
        for token in tokens
    ]
    head = ("NAME", "ROLE", "GROUPS", "MADE", "BY", "ENDS", "STATE", "ID")
    return table(head, rows, look.width)


def channel_table(channels: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each channel that was tried."""
    rows = [
        (
            plain(channel.get("channel")),
            plain(channel.get("type")),
            "took it" if channel.get("ok") else "FAILED",
            plain(channel.get("detail")) if channel.get("detail") else "",
        )
        for channel in channels
    ]
    return table(("CHANNEL", "TYPE", "RESULT", "WHY"), rows, look.width)


def waiting_table(waiting: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each message that waits for a channel."""
    if not waiting:
        return ["nothing waits: every channel has taken all of it"]
    rows = [
        (
            look.time(one.get("at")),
            plain(one.get("channel")),
            plain(one.get("class")),
            plain(one.get("title")),
        )
        for one in waiting
    ]
    return table(("AT", "CHANNEL", "CLASS", "WHAT"), rows, look.width)


_AUDIT_COLUMNS = {"seq", "at", "action", "actor", "role", "remote", "path", "prev", "hash"}


def audit_table(lines: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each line of an audit log."""
    if not lines:
        return ["nothing was asked yet"]
    rows = []
    for line in lines:
        said = {key: v for key, v in line.items() if key not in _AUDIT_COLUMNS and v}
        rows.append(
            (
                plain(line.get("seq")),
                look.time(line.get("at")),
                plain(line.get("action")),
                plain(line.get("actor")),
                plain(line.get("remote")),
                " ".join(f"{key}={_audited(v)}" for key, v in said.items()) or "-",
            )
        )
    return table(("NO", "AT", "WHAT", "WHO", "FROM", "MORE"), rows, look.width)


def _audited(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = plain(text)
    return json.dumps(text, ensure_ascii=False) if " " in text else text


def _in_order(records: Sequence[Json]) -> list[Json]:
    """Put records of one prober into its own order: some are saved a second after others."""
    runs: dict[object, int] = {}
    keyed = []
    key = (0, 0.0)
    for record in records:
        details = _mapping(record.get("details"))
        run, up = details.get("run"), details.get("up")
        if isinstance(run, int) and isinstance(up, int | float):
            key = (runs.setdefault(run, len(runs)), float(up))
        keyed.append((key, record))
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]


def _what(record: Json, details: Json) -> str:
    kind = record.get("kind")
    if kind == "observation":
        how = plain(details.get("phase") or details.get("mode"), none="")
        words = [details.get("node"), details.get("page"), details.get("result"), how]
        return " ".join(plain(word) for word in words if word)
    if kind == "condition":
        return f"{plain(details.get('from'), none='(start)')} -> {plain(details.get('to'))}"
    if "to" not in details:
        return "-"
    return _way(details.get("from", details.get("to")), details.get("to"))


_WHY = ("reason", "how", "detail", "notes", "blocked", "evidence", "records")


def _told_why(details: Json) -> str:
    found = [(key, details[key]) for key in _WHY if details.get(key) not in (None, "", [], {})]
    words = [plain(v) if key in _WHY[:3] else f"{key}: {_joined(v)}" for key, v in found]
    return "; ".join(words) or "-"


def _joined(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{plain(k)}: {plain(v)}" for k, v in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list) else plain(value)


# ------------------------------------------------------------------ replay
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
    titles = [f"WITH {plain(title)}" for title in _strings(answer.get("configurations"))]
    lines: list[str] = []
    for group in _dicts(answer.get("groups")):
        lines += ([""] if lines else []) + _replayed_group(group, titles, look)
    return lines or ["no group is in every configuration"]


def _replayed_group(group: Json, titles: list[str], look: Look) -> list[str]:
    faults = _dicts(group.get("faults"))
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
        *(_move(would) for would in _dicts(fault.get("would"))),
        _move(_mapping(fault.get("really"))),
    )


def _move(found: Json) -> str:
    if found.get("to") is None:
        text = f"no move: {plain(found.get('why'))}" if found.get("why") != "no move" else "no move"
    else:
        by = found.get("by")
        who = f" by {plain(by)}" if by not in (None, "the rule") else ""
        text = f"-> {plain(found['to'])} after {found['after_s']:.1f}s{who}"
    return f"{text} (a resume before is assumed)" if found.get("resume_assumed") else text


# ------------------------------------------------------------------ plans, gates, results
def gate_lines(gates: Iterable[Json], look: Look) -> list[str]:
    """Return one line for each gate: its mark, its name, what was found and what is wanted."""
    lines = []
    for gate in gates:
        passed = gate.get("passed") is True
        mark = look.paint("[ok]" if passed else "[no]", "good" if passed else "bad")
        text = f"{plain(gate.get('id'))}: {plain(gate.get('found'))}"
        lines.append(f"  {mark} {text}; wanted: {plain(gate.get('wanted'))}")
    return lines


def gates_of(plan: Json) -> list[Json]:
    """Return the gates of a plan, whatever else is in it."""
    return _dicts(plan.get("gates"))


def _dicts(value: object) -> list[Json]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def plan_block(plan: Json, look: Look) -> list[str]:
    """Return what an act would do: from and to, the gates, the literal commands."""
    verb, group = plain(plan.get("verb")), plain(plan.get("group"))
    lines = [
        f"{verb} {group} (generation {plain(plan.get('generation'))})",
        f"  traffic: {_way(plan.get('from'), plan.get('to'))}",
    ]
    lines += warning_lines(plan)
    gates = gates_of(plan)
    lines += ["gates:", *gate_lines(gates, look)] if gates else ["gates: none"]
    commands = _strings(plan.get("commands"))
    if not commands:
        return [*lines, "load balancers: nothing is written"]
    return [*lines, "load balancers:", *[f"  {plain(command)}" for command in commands]]


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(v) for v in value] if isinstance(value, list | tuple) else []


def done_lines(verb: str, plan: Json, group: Json, look: Look) -> list[str]:
    """Return what an act came to: traffic, generation, condition, load balancers."""
    way = _way(plan.get("from"), group.get("assigned"))
    return [
        f"{verb} {plain(group['name'])}: done: traffic {way},"
        f" generation {plain(group.get('generation'))}",
        f"  condition {_condition(group, look)}; load balancers: {_balancers(group, look)}",
    ]


def probe_block(answer: Json, look: Look) -> list[str]:
    """Return the verdict on each page of one probe."""
    lines = [f"{plain(answer.get('group'))}/{plain(answer.get('node'))}"]
    for page, found in _mapping(answer.get("pages")).items():
        probe = _mapping(found)
        ok = probe.get("result") == "ok"
        took = probe.get("duration_s")
        verdict = look.paint("[ok]" if ok else "[no]", "good" if ok else "bad")
        facts = (
            ("phase", probe.get("phase")),
            ("mode", probe.get("mode")),
            ("HTTP", probe.get("code")),
            ("took", f"{took * 1000:.0f} ms" if isinstance(took, int | float) else None),
        )
        text = ", ".join(f"{name} {plain(value)}" for name, value in facts if value is not None)
        lines.append(f"  {verdict} {plain(page)}: {plain(probe.get('result'))} ({text})")
        lines += [f"       {plain(probe[k])}" for k in ("detail", "head") if probe.get(k)]
        lines += [f"       {name:<9}{text}" for name, text in _seen_on_the_way(probe) if text]
    if answer.get("capture"):
        lines.append(f"wrote {plain(answer['capture'])}; read it through before you send it")
    return lines


def _seen_on_the_way(probe: Json) -> Iterator[tuple[str, str]]:
    """Yield what else one probe met, by name."""
    phases = _mapping(probe.get("phases")).items()
    yield "why", plain(probe.get("why"), none="")
    yield "note", plain(probe.get("note"), none="")
    yield "asked", plain(probe.get("asked"), none="")
    yield "at", plain(probe.get("address"), none="")
    took = (f"{plain(n)} {s * 1000:.1f} ms" for n, s in phases if isinstance(s, int | float))
    yield "phases", ", ".join(took)
    for name, value in _mapping(probe.get("tls")).items():
        yield "tls", f"{plain(name)} {plain(value)}" if value else ""
    for header in _dicts(probe.get("headers")):
        yield "header", f"{plain(header.get('name'))}: {plain(header.get('value'), none='')}"


def offline_block(results: Iterable[Json], look: Look) -> list[str]:
    """Return what each load balancer said to a break-glass publication."""
    lines = []
    for result in results:
        ok = result.get("ok") is True
        mark = look.paint("[ok]" if ok else "[no]", "good" if ok else "bad")
        detail = plain(result.get("detail"), none="done" if ok else "failed")
        lines.append(f"  {mark} {plain(result.get('name'))}: {detail}")
        lines += [f"         {plain(command)}" for command in _strings(result.get("commands"))]
    return lines


def warning_lines(answer: Json) -> list[str]:
    """Return one line for each warning of an answer."""
    return [f"warning: {plain(text)}" for text in _strings(answer.get("warnings"))]
