r"""Columns of text that fit their terminal: nothing is cut off, long cells go on in the next line.

Pure: values in, lines out. Colours (ANSI) are no width, and are carried from line to line.

>>> print("\n".join(table(("NODE", "DETAIL"), [("a", "connection refused by peer")], width=20)))
NODE  DETAIL
a     connection
      refused by
      peer
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

GAP = "  "
NARROWEST = 10  # no column is made narrower than this; then rows are told one below the other
_TOKEN = re.compile(r"(\x1b\[[0-9;]*m)|(.)", re.DOTALL)
_RESET = "\x1b[0m"
_BOUND = "\u00a0"  # a blank at which no line ends


def bound(text: str) -> str:
    """Return a text for a cell that stays together; it is shown with plain blanks."""
    return text.replace(" ", _BOUND)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None
) -> list[str]:
    """Line up columns.

    Args:
        width: Of the terminal; None for as wide as the text is.
    """
    every = [list(head), *[list(row) for row in rows]]
    widths = [max(map(wide, column)) for column in zip(*every, strict=True)]
    if width is not None:
        room = width - len(GAP) * (len(head) - 1)
        if sum(widths) > room:
            fitting = _fitted(every, widths, room)
            if fitting is None:
                return [line.replace(_BOUND, " ") for line in _stacked(every, width)]
            widths = fitting
    return [line.replace(_BOUND, " ") for row in every for line in _row(row, widths)]


def wide(text: str) -> int:
    """Return how many places of a terminal a text takes."""
    if text.isascii() and "\x1b" not in text:
        return len(text)
    return sum(_place(sign) for code, sign in _TOKEN.findall(text) if not code)


def _place(sign: str) -> int:
    if sign.isascii():
        return 1
    if unicodedata.combining(sign):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most this width: at blanks, else inside a word.

    >>> wrap("traffic is on epmm-b", 10)
    ['traffic is', 'on epmm-b']
    """
    lines: list[list[tuple[str, str]]] = [[]]
    style = ""
    for code, sign in _TOKEN.findall(text):
        if code:
            style = "" if code in (_RESET, "\x1b[m") else style + code
            continue
        line = lines[-1]
        while _length(line) + _place(sign) > width and sign != " ":
            lines.append(_last_word(line, width))
            line = lines[-1]
        line.append((style, sign))
    return [_written(line) for line in lines]


def _length(line: Sequence[tuple[str, str]]) -> int:
    return sum(_place(sign) for _, sign in line)


def _last_word(line: list[tuple[str, str]], width: int) -> list[tuple[str, str]]:
    """Take the word that a line ends with off it; nothing where it is all one word."""
    blanks = [place for place, (_, sign) in enumerate(line) if sign == " "]
    if not blanks:
        return []
    word = line[blanks[-1] + 1 :]
    del line[blanks[-1] :]
    return word


def _written(line: list[tuple[str, str]]) -> str:
    while line and line[-1][1] == " ":
        line.pop()
    text, now = "", ""
    for style, sign in line:
        if style != now:
            text += (_RESET if now else "") + style
            now = style
        text += sign
    return text + (_RESET if now else "")


def _row(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    broken = [
        [cell] if wide(cell) <= width else wrap(cell, width)
        for cell, width in zip(cells, widths, strict=True)
    ]
    for parts in zip_longest(*broken, fillvalue=""):
        padded = (
            part + " " * (width - wide(part)) for part, width in zip(parts, widths, strict=True)
        )
        yield GAP.join(padded).rstrip()


def _fitted(every: Sequence[Sequence[str]], widths: Sequence[int], room: int) -> list[int] | None:
    """Return narrower widths that fit: the widest give way first, and words stay whole if they can.

    Returns:
        None where no widths fit.
    """
    found = list(widths)
    columns = list(zip(*every, strict=True))
    words = [
        max(wide(word) for cell in column for word in f"{cell} .".split(" ")) for column in columns
    ]
    for least in (words, [min(NARROWEST, width) for width in widths]):
        while sum(found) > room:
            spare = [place for place, width in enumerate(found) if width > least[place]]
            if not spare:
                break
            found[max(spare, key=lambda place: found[place])] -= 1
    return found if sum(found) <= room else None


def _stacked(every: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return one line, or more, for each cell: for a terminal too narrow for columns."""
    head, *rows = every
    left = max(map(len, head))
    lines: list[str] = []
    for row in rows:
        lines += [""] if lines else []
        for name, cell in zip(head, row, strict=True):
            if cell:
                lines += _row((name, cell), (left, max(NARROWEST, width - left - len(GAP))))
    return lines
