"""What an act would do, what stands in its way, and what it came to."""

from collections.abc import Iterable

from lb_probe.client import Json
from lb_probe.render.group import balancers_word, condition_word
from lb_probe.render.text import Look, dicts, plain, strings, way_of


def plan_block(plan: Json, look: Look) -> list[str]:
    """Return what an act would do: from and to, the gates, the literal commands."""
    verb, group = plain(plan.get("verb")), plain(plan.get("group"))
    lines = [
        f"{verb} {group} (generation {plain(plan.get('generation'))})",
        f"  traffic: {way_of(plan.get('from'), plan.get('to'))}",
    ]
    lines += warning_lines(plan)
    gates = gates_of(plan)
    lines += ["gates:", *gate_lines(gates, look)] if gates else ["gates: none"]
    commands = strings(plan.get("commands"))
    if not commands:
        return [*lines, "load balancers: nothing is written"]
    return [*lines, "load balancers:", *[f"  {plain(command)}" for command in commands]]


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
    return dicts(plan.get("gates"))


def done_lines(verb: str, plan: Json, group: Json, look: Look) -> list[str]:
    """Return what an act came to: traffic, generation, condition, load balancers."""
    way = way_of(plan.get("from"), group.get("assigned"))
    return [
        f"{verb} {plain(group['name'])}: done: traffic {way},"
        f" generation {plain(group.get('generation'))}",
        f"  condition {condition_word(group, look)}; load balancers: {balancers_word(group, look)}",
    ]


def offline_block(results: Iterable[Json], look: Look) -> list[str]:
    """Return what each load balancer said to a break-glass publication."""
    lines = []
    for result in results:
        ok = result.get("ok") is True
        mark = look.paint("[ok]" if ok else "[no]", "good" if ok else "bad")
        detail = plain(result.get("detail"), none="done" if ok else "failed")
        lines.append(f"  {mark} {plain(result.get('name'))}: {detail}")
        lines += [f"         {plain(command)}" for command in strings(result.get("commands"))]
    return lines


def warning_lines(answer: Json) -> list[str]:
    """Return one line for each warning of an answer."""
    return [f"warning: {plain(text)}" for text in strings(answer.get("warnings"))]
