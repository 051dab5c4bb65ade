"""Recorded history through another configuration: what would have moved, and after how long.

Each fault of the Primary on record is put to each configuration, beside what really happened. The
same history and configurations give the same answer, to the byte: nothing here reads a clock, and
nothing is left to chance. Nothing is written anywhere.

What it can tell is bounded by what was seen: between two probes nobody knows, and a move that did
not really happen has no aftermath on record. `docs/history.md` says what is taken for granted.
"""

from collections.abc import Sequence
from typing import Any

from lb_probe.config import Config, GroupConfig
from lb_probe.history import iso_ms
from lb_probe.ports import NotFound, Record
from lb_probe.replay.plan import Setting
from lb_probe.replay.run import Run, Verdict
from lb_probe.replay.story import Fault, Story, faults, tell

__all__ = ["Setting", "compare", "replay", "setting_of"]


def setting_of(name: str, group: GroupConfig) -> Setting:
    """Return what a run must know of a group of probes.yaml."""
    probe = group.probe
    return Setting(
        name,
        group.shape,
        probe.interval_s,
        probe.recheck_s,
        probe.timeout_s,
        frozenset(witness.adapter for witness in group.witnesses),
    )


def replay(
    records: Sequence[Record],
    configs: Sequence[tuple[str, Config]],
    *,
    group: str | None = None,
    since_s: float | None = None,
) -> dict[str, Any]:
    """Put a history to one or more configurations.

    Args:
        configs: Each with the name that the result gives it.
        group: Only this one; else every group that all of the configurations have.
        since_s: Only faults of the last so many seconds before the end of the history.

    Raises:
        NotFound: A configuration has no such group, or it is of another policy.
    """
    groups = []
    for name in _names(configs, group):
        settings = [
            setting_of(title, next(g for g in config.groups if g.name == name))
            for title, config in configs
        ]
        groups.append(compare(records, settings, since_s=since_s))
    return {"configurations": [title for title, _ in configs], "groups": groups}


def _names(configs: Sequence[tuple[str, Config]], group: str | None) -> list[str]:
    had = [[g.name for g in config.groups if not g.is_pool] for _, config in configs]
    if group is None:
        return [name for name in had[0] if all(name in names for names in had)]
    for (title, _), names in zip(configs, had, strict=True):
        if group not in names:
            every = ", ".join(names) or "none"
            raise NotFound(f"no group {group} in {title} that can fail over; such are: {every}")
    return [group]


def compare(
    records: Sequence[Record],
    settings: Sequence[Setting],
    *,
    since_s: float | None = None,
    may_skip: bool = True,
) -> dict[str, Any]:
    """Put the history of one group to several configurations of it.

    Args:
        since_s: Only faults of the last so many seconds before the end of the history.
        may_skip: Leave out rounds of probes that cannot change anything; the answer is the same.

    Returns:
        Plain JSON values: the settings that matter, and for each fault what each would have done.
    """
    name = settings[0].group.name
    story = tell(records, name)
    found = faults(story, [setting.group for setting in settings])
    runs = [Run(s, story, may_skip=may_skip).verdicts(found) for s in settings]
    floor = story.end - since_s if since_s is not None else None
    rows = [
        {
            "at": iso_ms(fault.wall),
            "node": fault.node,
            "how": fault.how,
            "lasted_s": None if fault.end is None else round(fault.end - fault.at, 3),
            "ended": fault.until,
            "really": _really(story, found, place),
            "would": [
                _would(run[place], fault, setting)
                for run, setting in zip(runs, settings, strict=True)
            ],
        }
        for place, fault in enumerate(found)
        if floor is None or fault.at >= floor
    ]
    return {
        "name": name,
        "unseen": [_unseen(setting, story) for setting in settings],
        "settings": [_settings(setting) for setting in settings],
        "faults": rows,
    }


def _settings(setting: Setting) -> dict[str, object]:
    group = setting.group
    return {
        "primary": group.primary,
        "candidate": group.candidate,
        "act": group.act,
        "confirm_s": group.confirm_s,
        "fall": group.fall,
        "rise": group.rise,
        "max_age_s": group.max_age_s,
        "serving_deadline_s": group.serving_deadline_s,
        "interval_s": setting.interval_s,
        "recheck_s": setting.recheck_s,
        "timeout_s": setting.timeout_s,
    }


def _unseen(setting: Setting, story: Story) -> list[str]:
    """Return the nodes that matter and of which the history knows no page."""
    return [n for n in (setting.group.primary, setting.group.candidate) if n not in story.nodes]


# ------------------------------------------------------------------ what really happened
def _really(story: Story, found: Sequence[Fault], place: int) -> dict[str, object]:
    """Return the move that was really made of a fault: the rule's, or an operator's meanwhile."""
    fault = found[place]
    later = [f.at for f in found[place + 1 :] if f.at > fault.at]
    until = min(later, default=story.end + 1.0)
    for step in story.steps[fault.step :]:
        if step.at >= until:
            break
        if step.what not in ("failover", "switchover") or step.saved is None:
            continue
        is_open = fault.end is None or step.at <= fault.end
        if not step.by or is_open:
            after_s = round(step.at - fault.at, 3)
            return {"to": step.saved.assigned, "after_s": after_s, "by": step.by or "the rule"}
    saved = story.saved[fault.step]
    elsewhere = saved is not None and saved.assigned not in (None, fault.node)
    why = f"traffic was on {saved.assigned}" if saved is not None and elsewhere else "no move"
    return {"to": None, "after_s": None, "by": None, "why": why}


# ------------------------------------------------------------------ what would have happened
def _would(verdict: Verdict, fault: Fault, setting: Setting) -> dict[str, object]:
    moved = bool(verdict.to)
    return {
        "to": verdict.to or None,
        "after_s": round(verdict.after_s, 3) if moved else None,
        "why": "" if moved else _why(verdict, fault, setting),
        "resume_assumed": verdict.is_resumed,
    }


def _why(verdict: Verdict, fault: Fault, setting: Setting) -> str:
    """Say why a fault would have moved nothing."""
    if verdict.elsewhere == "?":
        return f"{fault.node} is not the Primary there"
    if verdict.elsewhere:
        return f"traffic was on {verdict.elsewhere}"
    if verdict.by_hand:
        return f"{verdict.by_hand} after {verdict.by_hand_s:.1f}s"
    if verdict.reached:
        condition, after_s = list(verdict.reached.items())[-1]
        return f"{condition} after {after_s:.1f}s"
    group = setting.group
    if not verdict.counted:
        return "none of its failures counted: they were too few, or from before a start or a gap"
    short = (
        f"failed {verdict.counted} times over {verdict.span_s:.1f}s;"
        f" wants {group.fall} over {group.confirm_s:g}s"
    )
    return f"{short}; the history ends first" if fault.end is None else short
