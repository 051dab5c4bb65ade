"""How HAProxy's names are checked, and how what it said is shown to people."""

import re
from collections.abc import Iterable

_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
# How HAProxy names a map: the file's path as it is written in its configuration, or `virt@NAME`.
_FILE = re.compile(r"[A-Za-z0-9_.:/@%+,=~-]+")


def checked(what: str, name: str) -> str:
    """Return the name of a backend, a server, a map's key or value.

    A space, `;` or a newline in it would be another command.

    Raises:
        ValueError: HAProxy cannot have such a name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} is {name!r}; use letters, digits, `_`, `.`, `:` and `-`")
    return name


def checked_file(name: str) -> str:
    """Return a map's name, which is a path.

    Raises:
        ValueError: A command line cannot carry it.
    """
    if not _FILE.fullmatch(name):
        raise ValueError(
            f"map_file is {name!r}; use the path that `show map` shows, without spaces, `;` or `\\`"
        )
    return name


def listed(names: Iterable[str]) -> str:
    """Return names as people list them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def printable(text: str, limit: int) -> str:
    """Return at most `limit` characters of a stranger's text without what a terminal obeys."""
    return "".join(c if c.isprintable() else " " for c in text[:limit])


def quoted(text: str | bytes) -> str:
    """Return what a stranger said, safe to print and at most 200 characters of it."""
    told = text[:1000].decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"'{' '.join(printable(told, 200).split())}'"


def reason(exc: BaseException) -> str:
    """Return what an operating system's error says."""
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
