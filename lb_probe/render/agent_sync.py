"""An agent's answers about replication as text for people. Pure: values in, lines out."""

from collections.abc import Sequence

from lb_probe.client import Json
from lb_probe.columns import table
from lb_probe.render.acts import gate_lines
from lb_probe.render.text import Look, plain

_HEAD = ("ID", "STARTED", "TRIGGER", "RESULT", "TOOK", "BYTES", "CHANGED", "DETAIL")
_STEP_HEAD = ("STEP", "RESULT", "TOOK", "DETAIL")
_LEVELS = {"success": "good", "skipped-overlap": "warn", "refused": "warn", "running": "warn"}


def span(seconds: object) -> str:
    """Write a time in its two largest units."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    parts, left = [], int(seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def history_table(runs: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each run, newest first as they come."""
    if not runs:
        return ["no syncs are on record"]
    return table(_HEAD, [_row(run, look) for run in runs], look.width)


def _row(run: Json, look: Look) -> tuple[str, ...]:
    result = plain(run.get("result"), none="running")
    detail = plain(run.get("detail"), none="")
    warnings = run.get("warnings")
    if not detail and isinstance(warnings, list) and warnings:
        detail = plain(warnings[0])
    return (
        plain(run.get("id")),
        look.time(run.get("started")),
        plain(run.get("trigger")),
        look.paint(result, _LEVELS.get(result, "bad")),
        span(run.get("seconds")),
        plain(run.get("bytes")),
        plain(run.get("changed")),
        detail[:100],
    )


def run_block(run: Json, look: Look) -> list[str]:
    """Return everything about one run, its steps with it (R85)."""
    result = plain(run.get("result"), none="running")
    versions = run.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    lines = [
        f"sync {plain(run.get('id'))}: {look.paint(result, _LEVELS.get(result, 'bad'))},"
        f" {plain(run.get('source'))} -> {plain(run.get('target'))}",
        f"  started    {look.time(run.get('started'))} ({plain(run.get('trigger'))},"
        f" by {plain(run.get('by'))}){_because(run)}",
        f"  completed  {look.time(run.get('completed'))}, took {span(run.get('seconds'))}",
        f"  copied     {plain(run.get('bytes'))} bytes, {plain(run.get('changed'))} changed"
        + (", the first copy" if run.get("initial") else ""),
        f"  versions   {plain(versions.get('here'))} here, {plain(versions.get('source'))} there",
    ]
    for key, word in (("slot", "slot"), ("detail", "detail")):
        if run.get(key):
            text = look.time(run.get(key)) if key == "slot" else plain(run.get(key))
            lines.append(f"  {word:<9}  {text}")
    lines += [f"  warning    {plain(text)}" for text in _list(run.get("warnings"))]
    lines += [f"  overridden {plain(text)}" for text in _list(run.get("overridden"))]
    steps = [step for step in _list(run.get("steps")) if isinstance(step, dict)]
    if steps:
        lines += ["", *table(_STEP_HEAD, [_step(step, look) for step in steps], look.width)]
    output = _list(run.get("output"))
    if output:
        lines += ["", "its last lines:", *(f"  {plain(line, none='')}" for line in output)]
    return lines


def _because(run: Json) -> str:
    return f": {plain(run.get('reason'))}" if run.get("reason") else ""


def _step(step: Json, look: Look) -> tuple[str, ...]:
    result = plain(step.get("result"), none="running")
    level = {"done": "good", "running": "warn"}.get(result, "bad")
    name, took = plain(step.get("name")), span(step.get("seconds"))
    return (name, look.paint(result, level), took, plain(step.get("detail"), none=""))


# ------------------------------------------------------------------ while one runs
def line_of(said: Json, look: Look) -> list[str]:
    """Return what one line of a running sync comes to for who watches."""
    if isinstance(begins := said.get("begins"), dict):
        first = ", the first copy" if begins.get("initial") else ""
        way = f"{plain(begins.get('source'))} -> {plain(begins.get('target'))}"
        return [f"sync begins: {way}{first}", *_warned(begins, look)]
    if "line" in said:
        return [f"  | {plain(said.get('line'), none='')}"]
    if isinstance(run := said.get("run"), dict):
        return ["", *run_block(run, look)]
    return []


def _warned(run: Json, look: Look) -> list[str]:
    return [look.paint(f"warning: {plain(text)}", "warn") for text in _list(run.get("warnings"))]


# ------------------------------------------------------------------ the schedule
def schedule_block(answer: Json, look: Look) -> list[str]:
    """Return the schedule, the next slot, and why none is."""
    saved = answer.get("schedule")
    if not isinstance(saved, dict):
        lines = [f"{plain(answer.get('node'))}: no schedule is saved"]
    else:
        lines = [
            f"{plain(answer.get('node'))}: StartTime {plain(saved.get('start'))},"
            f" Run Every {plain(saved.get('run_every'))}",
            f"  first   {look.time(saved.get('first'))}; saved {look.time(saved.get('saved'))}"
            f" by {plain(saved.get('by'))}{_because(saved)}",
        ]
        if saved.get("too_often_because"):
            because = plain(saved.get("too_often_because"))
            lines.append(look.paint(f"  below 60 minutes because: {because}", "warn"))
    lines.append(f"  next    {look.time(answer.get('next'))}")
    if answer.get("waits_for"):
        lines.append(look.paint(f"  waits   {plain(answer.get('waits_for'))}", "warn"))
    if answer.get("advice"):
        lines.append(f"  advice  {plain(answer.get('advice'))}")
    if answer.get("overlap"):
        lines.append(look.paint(f"  overlap {plain(answer.get('overlap'))}", "warn"))
    return lines


def plan_block(answer: Json, look: Look) -> list[str]:
    """Return what a save would come to, with its gates (R19)."""
    found = answer.get("plan")
    plan: Json = dict(found) if isinstance(found, dict) else {}
    lines = [
        f"{plain(answer.get('node'))}: StartTime {plain(plan.get('start'))},"
        f" Run Every {plain(plan.get('run_every'))}; the next sync is at"
        f" {look.time(plan.get('next'))}",
        *gate_lines([g for g in _list(answer.get("gates")) if isinstance(g, dict)], look),
    ]
    if answer.get("overlap"):
        lines.append(look.paint(f"warning: {plain(answer.get('overlap'))}", "warn"))
    return lines


# ------------------------------------------------------------------ in the status of an agent
def status_lines(answer: Json, look: Look) -> list[str]:
    """Return what the status of an agent says of replication; nothing where it has none."""
    found = answer.get("sync")
    if not isinstance(found, dict):
        return []
    sync: Json = dict(found)
    way = f"{plain(sync.get('from'))} -> {plain(sync.get('to'))}"
    lines = ["", f"replication {way}: {_now(sync, look)}"]
    good = sync.get("last_good")
    if isinstance(good, dict):
        lines.append(
            f"  last good sync  {look.time(good.get('started'))} to"
            f" {look.time(good.get('completed'))}, {plain(good.get('result'))}"
        )
    if sync.get("data_until"):
        age = span(sync.get("data_age_s"))
        lines.append(f"  data is as of   {look.time(sync.get('data_until'))}, {age} ago")
    lines.append(f"  next sync       {look.time(sync.get('next'))}")
    if sync.get("waits_for"):
        lines.append(f"  waits           {plain(sync.get('waits_for'))}")
    if sync.get("in_the_way"):
        lines.append(look.paint(f"  in the way      {plain(sync.get('in_the_way'))}", "bad"))
    if sync.get("running") and sync.get("not_inhibited"):
        lines.append(f"  no shutdown lock: {plain(sync.get('not_inhibited'))}")
    alarms = sync.get("alarms")
    if isinstance(alarms, dict):
        told = (f"  !! {plain(name)}: {plain(text)}" for name, text in alarms.items())
        lines += [look.paint(line, "bad") for line in told]
    return lines


def pair_lines(answer: Json, look: Look) -> list[str]:
    """Return what the status of an agent says of its partner (R98)."""
    found = answer.get("partner")
    if not isinstance(found, dict):
        return []
    where = f" ({plain(found.get('address'))})" if found.get("address") else ""
    lines = ["", f"pair: {plain(found.get('name'))}{where}: {plain(found.get('state'))}"]
    if found.get("last_synced"):
        when, age = look.time(found.get("last_synced")), span(found.get("age_s"))
        lines.append(f"  last synced     {when}, {age} ago")
    if found.get("syncing"):
        lines.append(look.paint("  a sync writes to it now: do not stop either node", "warn"))
    if found.get("fault"):
        lines.append(look.paint(f"  not reached     {plain(found.get('fault'))}", "bad"))
    return lines


def _now(sync: Json, look: Look) -> str:
    run = sync.get("running")
    if isinstance(run, dict):
        percent = run.get("percent")
        done = f", {percent}%" if isinstance(percent, int) else ""
        return look.paint(f"sync {plain(run.get('id'))} runs{done}", "warn")
    last = sync.get("last")
    if isinstance(last, dict):
        result = plain(last.get("result"))
        word = look.paint(result, _LEVELS.get(result, "bad"))
        return f"last sync {plain(last.get('id'))}: {word}"
    return "no sync yet"


def stop_block(answer: Json, look: Look) -> list[str]:
    """Return whether a node may be powered down, and why not (R12)."""
    gates = [gate for gate in _list(answer.get("gates")) if isinstance(gate, dict)]
    word = "safe to stop" if answer.get("safe") else "NOT safe to stop"
    level = "good" if answer.get("safe") else "bad"
    return [f"{plain(answer.get('node'))}: {look.paint(word, level)}", *gate_lines(gates, look)]


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
