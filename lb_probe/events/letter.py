"""A letter as text and as JSON: the same words in every channel.

Source: R95; STYLE ("a message says what was found, what was wanted, what to do next").
"""

from collections import Counter

from lb_probe.core.notice import Notice, Severity, Stage, lines_of, one_line, said
from lb_probe.history import iso_ms
from lb_probe.ports import Letter

FORMAT = 1
LISTED = 40  # of a letter with many; a person reads no more
_RANK = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


def mark(notice: Notice) -> str:
    """Return the word before a title that tells how grave it is; empty for news."""
    if notice.stage is Stage.OVER:
        return "OVER"
    if notice.stage is Stage.SEEN:
        return "SEEN"
    return "" if notice.gravity is Severity.INFO else notice.gravity.value.upper()


def subject(letter: Letter) -> str:
    """Return one printable line: what happened, the gravest first where there are many."""
    if len(letter.notices) == 1:
        (notice,) = letter.notices
        return one_line(f"{mark(notice)} {notice.title}")
    counts = Counter(n.event_class for n in worst_first(letter))
    groups = {n.group for n in letter.notices if n.group}
    many = f"{len(groups)} groups" if len(groups) > 1 else f"{len(letter.notices)} messages"
    what = ", ".join(f"{count} {name}" for name, count in counts.items())
    return one_line(f"{mark(worst_first(letter)[0])} {many}: {what}")


def worst_first(letter: Letter) -> list[Notice]:
    """Return the notices, the gravest first, else in their order."""
    return sorted(letter.notices, key=lambda notice: _RANK.index(notice.gravity))


def gravest(letter: Letter) -> Severity:
    """Return how grave the gravest of them is."""
    return worst_first(letter)[0].gravity


def body(letter: Letter) -> list[str]:
    """Return the lines under the subject."""
    links = dict(zip((n.key for n in letter.notices), letter.links, strict=False))
    lines: list[str] = []
    if len(letter.notices) == 1:
        (notice,) = letter.notices
        lines += lines_of(notice, links.get(notice.key, ""))
    else:
        lines.append(f"{len(letter.notices)} messages came at once, the gravest first:")
        for notice in worst_first(letter)[:LISTED]:
            head = f"{said(notice.at_wall)[11:19]} {mark(notice)}".strip()
            lines += ["", f"{head} {one_line(notice.title)}"]
            lines += [f"  Do: {one_line(notice.do, 500)}"] if notice.do else []
    if len(letter.notices) > LISTED:
        lines += ["", f"and {len(letter.notices) - LISTED} more; all of it: lb-probe status"]
    if letter.lost:
        lines += ["", f"{letter.lost} more were dropped before this one: too many waited."]
    return [*lines, "", f"-- {one_line(letter.source)}"]


def as_json(letter: Letter) -> dict[str, object]:
    """Return the letter as webhooks and programs are given it; `docs/notifications.md`."""
    links = dict(zip((n.key for n in letter.notices), letter.links, strict=False))
    return {
        "version": FORMAT,
        "key": letter.key,
        "source": one_line(letter.source),
        "subject": subject(letter),
        "lost": letter.lost,
        "notices": [notice_json(notice, links.get(notice.key, "")) for notice in letter.notices],
    }


def notice_json(notice: Notice, link: str = "") -> dict[str, object]:
    """Return one notice as programs are given it."""
    return {
        "key": notice.key,
        "class": notice.event_class,
        "severity": notice.gravity.value,
        "stage": notice.stage.value,
        "alarm": notice.alarm,
        "replaces": notice.replaces,
        "group": notice.group,
        "node": notice.node,
        "at": iso_ms(notice.at_wall),
        "title": one_line(notice.title),
        "why": one_line(notice.why, 2000),
        "now": one_line(notice.now, 2000),
        "safe": one_line(notice.safe, 2000),
        "do": one_line(notice.do, 2000),
        "runbook": link,
    }
