"""What an agent says of its node, as text: mode, pages, checks, its pair, its heartbeat.

Answers of the control socket in, lines out.
"""

from lb_probe.client import Json
from lb_probe.columns import table
from lb_probe.render.text import Look, dicts, mapping, plain, strings


def agent_block(answer: Json, look: Look) -> list[str]:
    """Return what an agent says of its node, its pages, its pair and the checks behind them."""
    lines = [
        f"{plain(answer.get('node'))}: says {plain(answer.get('mode'))},"
        f" is {plain(answer.get('state'))}; {plain(answer.get('role'))} by configuration",
        f"  since {look.time(answer.get('since'))} ({plain(answer.get('cause'))},"
        f" by {plain(answer.get('by'))}): {plain(answer.get('reason'))}",
        *_switch_lines(answer, look),
    ]
    for name, found in mapping(answer.get("pages")).items():
        page = mapping(found)
        mark = _mark(page.get("code") == 200, look)
        lines.append(f"  {mark} {plain(name)}: {plain(page.get('code'))} {plain(page.get('text'))}")
        lines += [f"       {plain(reason)}" for reason in strings(page.get("reasons"))]
    lines += _utc_lines(mapping(answer.get("utc")), look)
    lines += _pair_lines(mapping(answer.get("pair")), look)
    lines += _heartbeat_lines(mapping(answer.get("heartbeat")), look)
    lines += _traffic_lines(mapping(answer.get("traffic")), look)
    rows = [_check_row(c, look) for c in dicts(answer.get("checks"))]
    return [*lines, *(["", *table(_CHECK_HEAD, rows, look.width)] if rows else [])]


def heartbeat_line(entry: Json, look: Look) -> str:
    """Return one attempt of the heartbeat's log."""
    ok = entry.get("result") == "ok"
    word = look.paint(f"{plain(entry.get('result')):6}", "good" if ok else "bad")
    count = f"{plain(entry.get('failures'))} of {plain(entry.get('of'))} failures"
    took = entry.get("took_s")
    took_text = f"{took:.3f}s" if isinstance(took, int | float) else "-"
    detail = f"  {plain(entry.get('detail'))}" if entry.get("detail") else ""
    when, then = look.time(entry.get("at")), look.time(entry.get("next"))
    return f"{when}  {word}  {count}, took {took_text}, next {then}{detail}"


# ------------------------------------------------------------------ parts of the block
def _switch_lines(answer: Json, look: Look) -> list[str]:
    """Return what is on, off or out of order, by somebody's hand."""
    lines = []
    if "ha" in answer:
        ha = mapping(answer["ha"])
        lines.append(
            f"  HA is {'enabled' if ha.get('enabled') is True else 'disabled'}{_by(ha, look)}"
        )
    clients = mapping(answer.get("clients"))
    if clients.get("enabled") is False:
        lines.append(look.paint(f"  NEW CLIENTS ARE TURNED AWAY{_by(clients, look)}", "bad"))
    quarantine = mapping(answer.get("quarantine"))
    if quarantine:
        since = look.time(quarantine.get("since"))
        lines.append(
            look.paint(f"  QUARANTINED since {since}: {plain(quarantine.get('reason'))}", "bad")
        )
    if answer.get("data_suspect"):
        lines.append(look.paint(f"  DATA SUSPECT: {plain(answer.get('data_suspect'))}", "bad"))
    return lines


def _by(switch: Json, look: Look) -> str:
    if not switch.get("since"):
        return ""
    reason = f": {plain(switch.get('reason'))}" if switch.get("reason") else ""
    return f" since {look.time(switch.get('since'))} by {plain(switch.get('by'))}{reason}"


def _utc_lines(utc: Json, look: Look) -> list[str]:
    """Return how far the node's clock is from UTC, and who keeps it."""
    if not utc:
        return []
    kept = {True: "kept by something", False: "KEPT BY NOTHING"}.get(utc.get("kept"), "")  # type: ignore[arg-type]
    within = utc.get("kept_within_s")
    words = [kept + (f", within {within:.3f}s as that says" if _is_number(within) else "")]
    level = "warn" if utc.get("kept") is False else ""
    if _is_number(utc.get("offset_s")) and _is_number(utc.get("bound_s")):
        words.insert(0, f"{utc['offset_s']:+.3f}s from UTC, known to {utc['bound_s']:.3f}s")
        level = {"error": "bad", "warning": "warn"}.get(plain(utc.get("severity")), level)
    elif utc.get("detail"):
        words.insert(0, f"not compared with UTC: {plain(utc['detail'])}")
    text = "  clock: " + "; ".join(word for word in words if word)
    return [look.paint(text, level) if level else text]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pair_lines(pair: Json, look: Look) -> list[str]:
    """Return the row of the guide's Table 1, and both nodes in its words."""
    if not pair:
        return []
    row = pair.get("row")
    where = f"row {row} of Table 1" if isinstance(row, int) else "no row of Table 1"
    level = "good" if row == 1 else "bad" if pair.get("serving") is not True else "warn"
    rows = [
        (
            plain(node.get("name")),
            plain(node.get("role")),
            plain(node.get("mode")),
            plain(node.get("state")),
            "yes" if node.get("serves") is True else "no",
            f"{node['age_s']:.0f}s" if isinstance(node.get("age_s"), int | float) else "not yet",
        )
        for node in dicts(pair.get("nodes"))
    ]
    head = ("NODE", "ROLE", "MODE", "STATE", "SERVES", "SEEN")
    lines = ["", look.paint(f"pair: {plain(pair.get('text'))} ({where})", level)]
    lines += [f"  {line}" for line in table(head, rows)]
    clock = mapping(pair.get("clock"))
    if clock.get("severity") in {"warning", "error"}:
        lines.append(look.paint(f"  clock: {plain(clock.get('detail'))}", "bad"))
    return lines


def _heartbeat_lines(heartbeat: Json, look: Look) -> list[str]:
    if not heartbeat:
        return []
    says = plain(heartbeat.get("says"))
    level = {"ok": "good", "failing": "warn", "failed": "bad"}.get(says, "warn")
    count = f"{plain(heartbeat.get('failures'))} of {plain(heartbeat.get('of'))} failures"
    then = plain(heartbeat.get("order") or heartbeat.get("on_failure"))
    peer = plain(heartbeat.get("peer"))
    lines = ["", f"heartbeat of {peer}: {look.paint(says, level)}, {count}, then {then}"]
    last = mapping(heartbeat.get("last"))
    if last:
        lines.append(f"  {heartbeat_line(last, look)}")
    attempt = mapping(heartbeat.get("promotion"))
    if attempt:
        outcome = plain(attempt.get("outcome"), none="not known")
        lines.append(
            look.paint(f"  promotion begun {plain(attempt.get('began'))}: {outcome}", "bad")
        )
    return lines


_HOLDS = {
    "yes": "clients are sent here",
    "soon": "clients are about to be sent here, or away",
    "no": "clients are sent elsewhere",
    "unknown": "it is not known where clients are sent",
}


def _traffic_lines(traffic: Json, look: Look) -> list[str]:
    """Return what the prober says of the traffic, and whether it still speaks."""
    age_s = traffic.get("age_s")
    if not isinstance(age_s, int | float):
        return []
    text = _HOLDS.get(str(traffic.get("holds")), "odd")
    if traffic.get("is_silent") is True:
        return [look.paint(f"traffic: {text}, as the prober said {age_s:.0f}s ago", "warn")]
    return [f"traffic: {text}, says the prober"]


_CHECK_HEAD = ("CHECK", "PASSING", "AGE", "PAGES", "DETAIL")


def _check_row(check: Json, look: Look) -> tuple[str, ...]:
    passing, age = check.get("passing"), check.get("age_s")
    word = "stale" if check.get("stale") else plain(passing, none="not yet")
    level = "good" if word == "yes" else "bad"
    return (
        plain(check.get("name")),
        look.paint(word, level),
        f"{age:.1f}s" if isinstance(age, int | float) else "-",
        ", ".join(map(plain, strings(check.get("pages")))) or "informative",
        plain(check.get("detail")),
    )


def _mark(is_ok: bool, look: Look) -> str:
    return look.paint("[ok]" if is_ok else "[no]", "good" if is_ok else "bad")
