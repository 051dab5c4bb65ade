"""What a `sync_command` says while it runs, and whether it succeeded.

It prints lines; those that begin with `sync:` are for us, all others are its own output:

    sync: step NAME             a part of the work begins; the one before it is done
    sync: failed WHY            the part under way failed; the run has failed, whatever follows
    sync: progress 40           of a hundred
    sync: bytes 123456          copied so far
    sync: changed 17            things that were different; 0 is a good run (R91)
    sync: complete              the completion marker, unless another line was configured

A run is good with exit status 0 and the marker, nothing less: a program that was cut off can end
with 0 as well, and one that printed too early can fail after it.

Source: guide lines 93, 318, 353; R24, R85, R91.
"""

import re
from dataclasses import dataclass, replace

MARKER = "sync: complete"
MOST_STEPS = 100
MOST_CHARS = 200
_WORD = re.compile(r"sync: (?P<word>step|failed|progress|bytes|changed) (?P<rest>.+)")
_NUMBERS = {"bytes": 2**62, "changed": 2**62, "progress": 100}


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a run.

    Attributes:
        result: done, failed, or nothing while it is under way.
        seconds: How long it took; None while it is under way.
        detail: What went wrong or should be known; empty when all is plain.
    """

    name: str
    started_wall: float
    result: str = ""
    seconds: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a program has said so far.

    Attributes:
        steps: The last one may be under way. Beyond a hundred the newest ones are not kept.
        percent: Of the whole; None where it does not say.
        is_complete: The completion marker came.
        failure: What it said had failed; empty for nothing.
    """

    steps: tuple[Step, ...] = ()
    percent: int | None = None
    copied_bytes: int | None = None
    changed: int | None = None
    is_complete: bool = False
    failure: str = ""


def printable(text: str, most: int = MOST_CHARS) -> str:
    """Return text that can be shown on one line.

    >>> printable("bell" + chr(7) + " and tail", 8)
    'bell? an'
    """
    return "".join(char if char.isprintable() else "?" for char in text[:most])


def heard(progress: Progress, line: str, now_wall: float, marker: str = MARKER) -> Progress:
    """Fold one line of its output.

    >>> done = heard(Progress(), "sync: step files", 10.0)
    >>> done = heard(heard(done, "sync: bytes 500", 11.0), "sync: complete", 12.0)
    >>> done.steps, done.copied_bytes, done.is_complete
    ((Step(name='files', started_wall=10.0, result='done', seconds=2.0, detail=''),), 500, True)
    """
    line = line.strip()
    if line == marker:
        return replace(closed(progress, "done", now_wall), is_complete=True)
    found = _WORD.fullmatch(line)
    if found is None:
        return progress
    word, rest = found["word"], printable(found["rest"])
    if word == "step":
        return _begun(closed(progress, "done", now_wall), rest, now_wall)
    if word == "failed":
        return replace(closed(progress, "failed", now_wall, rest), failure=rest)
    value = int(rest) if rest.isascii() and rest.isdecimal() and len(rest) < 20 else -1
    if not 0 <= value <= _NUMBERS[word]:
        return progress
    if word == "progress":
        return replace(progress, percent=value)
    return (
        replace(progress, copied_bytes=value)
        if word == "bytes"
        else (replace(progress, changed=value))
    )


def _begun(progress: Progress, name: str, now_wall: float) -> Progress:
    if len(progress.steps) >= MOST_STEPS:
        return progress
    return replace(progress, steps=(*progress.steps, Step(name, now_wall)))


def closed(progress: Progress, result: str, now_wall: float, detail: str = "") -> Progress:
    """End the step that is under way, if one is."""
    if not progress.steps or progress.steps[-1].result:
        return progress
    *before, last = progress.steps
    took = max(0.0, now_wall - last.started_wall)
    return replace(
        progress, steps=(*before, replace(last, result=result, seconds=took, detail=detail))
    )


def fault(progress: Progress, how_it_ended: str, marker: str = MARKER) -> str:
    """Say why a run failed; empty for a good one.

    Args:
        how_it_ended: Why its end was none of status 0; empty for status 0.
    """
    if how_it_ended:
        return f"{how_it_ended}; it said: {progress.failure}" if progress.failure else how_it_ended
    if progress.failure:
        return f"it said: {progress.failure}"
    if not progress.is_complete:
        return f"it ended with status 0 and never printed {marker!r}: the copy may be half done"
    return ""
