"""Plain lists: settings, tokens, the audit log, channels that were tried, messages that wait."""

import json
from collections.abc import Sequence

from lb_probe.client import Json
from lb_probe.columns import table
from lb_probe.render.text import Look, joined, plain


def token_table(tokens: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each token."""
    if not tokens:
        return ["no tokens; make one: lb-probe token create NAME --role viewer"]
    rows = [
        (
            plain(token.get("name")),
            plain(token.get("role")),
            joined(token.get("groups")) or "all",
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


def settings_table(found: Sequence[Json], look: Look) -> list[str]:
    """Return one row for each key of the file, with its default where it has another value."""
    if not found:
        return ["every key that has a default is at it"]
    rows = [
        (
            plain(one.get("key")),
            _spelled(one.get("value")),
            "" if one.get("is_default") else _spelled(one.get("default")),
            {"default": "", "file": "the file"}.get(str(one.get("source")), "`defaults`"),
        )
        for one in found
    ]
    return table(("KEY", "VALUE", "DEFAULT", "SAID BY"), rows, look.width)


def _spelled(value: object) -> str:
    """Return a value as the file would have it."""
    if value is None:
        return "none"
    return plain(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
