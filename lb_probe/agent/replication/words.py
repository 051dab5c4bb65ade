"""Runs, schedules and alarms as JSON: what the control socket answers, version 1."""

from lb_probe.agent.replication.history import Run
from lb_probe.agent.verbs import utc
from lb_probe.core.sync_progress import Step
from lb_probe.core.sync_schedule import Schedule, spell_span, spell_start


def moment(wall: float | None) -> str | None:
    """Return a moment as the answers show it; None stays."""
    return None if wall is None else utc(wall)


def run(one: Run) -> dict[str, object]:
    """Return one run: each key of it is always there (R85, R86)."""
    return {
        "id": one.id,
        "trigger": one.trigger,
        "slot": moment(one.slot_wall),
        "by": one.by,
        "reason": one.reason,
        "source": one.source,
        "target": one.target,
        "started": moment(one.started_wall),
        "completed": moment(one.completed_wall),
        "result": one.result or None,
        "detail": one.detail,
        "initial": one.initial,
        "seconds": one.seconds,
        "bytes": one.copied_bytes,
        "changed": one.changed,
        "versions": {"here": one.version_here, "source": one.version_there},
        "counts": dict(one.counts) or None,
        "steps": [_step(step) for step in one.steps],
        "gates": list(one.gates),
        "overridden": list(one.overridden),
        "warnings": list(one.warnings),
        "output": list(one.output),
    }


def _step(step: Step) -> dict[str, object]:
    return {
        "name": step.name,
        "started": utc(step.started_wall),
        "result": step.result or None,
        "seconds": step.seconds,
        "detail": step.detail,
    }


def schedule(one: Schedule, by: str, reason: str, because: str) -> dict[str, object]:
    """Return a schedule, with who saved it."""
    return {
        "start": spell_start(one.start_s),
        "run_every": spell_span(one.run_every_s).replace(" ", ""),
        "run_every_s": one.run_every_s,
        "first": utc(one.first_wall),
        "saved": utc(one.saved_wall),
        "by": by,
        "reason": reason,
        "too_often_because": because,
    }
