"""Judges what a node answered: does this page say that the node is well?

The rule (REQUIREMENTS 2.1, guide lines 216 and 218), in the order it is applied:

1. A 3xx answer is a redirect and fails; any other code than 200 fails, whatever the text says.
2. The body is read as UTF-8 with replacement, without a byte order mark. Lines end at CR LF, LF
   or CR and at nothing else.
3. Tags are taken out. One that starts a new line on the screen (`<br>`, `</p>`, `<div>`) ends the
   line; any other leaves nothing behind, so `O<b>K</b>AY` reads OKAY. Comments, declarations,
   scripts, styles and titles are not text, and neither are tags that run over a line end: what
   was around them is not joined. `&nbsp;` becomes a space; no other entity is decoded.
4. `MOBILEIRON-STATUS:` counts at the start of a line only. The value is the rest of that line,
   without spaces and tabs at both ends. All lines that have one must agree.
5. The page fails as well when the words stand anywhere else (in a sentence, a comment, a script,
   an attribute, behind entities) or when the markup cannot be read for certain: an open comment
   or quote, an element that hides or quotes its content. In doubt a page does not say OK.
6. Status page: the value is `OK`. With `accept_suffix` white space and more text may follow, but
   never a mode. hastatus: `OK (Mode: Standby)` or `OK (Mode: Primary)`; `OK` without a mode, or
   with any other word, passes as `Mode.UNKNOWN`, which makes nobody eligible (R50, X22).

Style sheets are not evaluated, `hidden` and an inline `display:none` excepted.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from http import HTTPStatus

from lb_probe.core.model import Failed, Mode, Outcome, Page, Passed, Phase

TOKEN = "MOBILEIRON-STATUS:"  # noqa: S105 - the vendor's words, not a secret
HEAD_CHARS = 200
_QUOTE_CHARS = 60
_CACHED_BODY_BYTES = 4096

# Stands where markup was that does not join its neighbours. Decoded UTF-8 never holds a surrogate,
# so no server can send one.
_SEAM = "\udfff"
_TRIM = " \t" + _SEAM

# `<` opens markup only before one of these; elsewhere it is text ("load < 5"), as in a browser.
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])")
# Quotes count after `=` only, as in a browser; a tag with one elsewhere is not read at all.
_TAG = re.compile(
    r"""<(?P<end>/?)(?P<name>[A-Za-z][^ \t\n\f/<>"'=]*+)
    (?P<attributes>(?:[ \t\n\f]++[^ \t\n\f/<>"'=]++
        (?:[ \t\n\f]*+=[ \t\n\f]*+(?:"[^"]*+"|'[^']*+'|[^ \t\n\f<>"'=`]++))?+
    )*+)[ \t\n\f]*+/?+>""",
    re.VERBOSE,
)
# fmt: off
# Their start tag begins a line on the screen wherever it stands; `table`, `td` and `form` are
# missing because browsers move or ignore them.
_LINE_TAGS = frozenset({
    "address", "article", "aside", "blockquote", "br", "center", "dd", "div", "dl", "dt", "footer",
    "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre",
    "section", "ul",
})
# Their end tag closes exactly what was opened last; without that, browsers ignore it.
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_NESTED = _HEADINGS | {"article", "blockquote", "center", "div", "header", "main", "pre", "section"}
_INLINE_TAGS = frozenset({
    "a", "b", "big", "code", "em", "font", "i", "kbd", "samp", "small", "span", "strong", "tt", "u",
})
_NOT_TEXT = frozenset({"script", "style", "title"})
# What is in these is hidden, struck out, drawn by other rules or not markup.
_UNREADABLE = frozenset({
    "applet", "audio", "button", "canvas", "datalist", "del", "details", "dialog", "embed",
    "frameset", "iframe", "listing", "marquee", "math", "noembed", "noframes", "noscript",
    "object", "option", "picture", "plaintext", "rp", "s", "select", "strike", "svg", "template",
    "textarea", "video", "xmp",
})
# fmt: on
_HIDES = re.compile(r"\shidden\b|display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)

_OK_SOMEHOW = re.compile(r"OK(?: +\(Mode:[^()]*\))?")
_WITH_SUFFIX = re.compile(r"OK[ \t]+(?P<suffix>.*)")
_SAYS_MODE = re.compile(r"\(\s*mode|mode\s*:", re.IGNORECASE)
_MODES = {"OK (Mode: Standby)": Mode.STANDBY, "OK (Mode: Primary)": Mode.PRIMARY}
_WANTED = {
    Page.STATUS: "'OK'",
    Page.HASTATUS: "'OK (Mode: Standby)' or 'OK (Mode: Primary)'",
}
# One line for each connector; a healthy one says so (a public client of this page reads it so).
_CONNECTOR = "theConnectorNameString="
_CONNECTOR_OK = "isHealthytrue"


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer, as it came over the wire.

    Attributes:
        code: HTTP status.
        body: After content decoding.
        location: Where a redirect points; shown, never followed.
    """

    code: int
    body: bytes
    location: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a page of one's own words must be, where the rule above is not meant (R40).

    Attributes:
        code: HTTP status that passes.
        text: What must be in the body, as it came; empty asks for nothing.
    """

    code: int = 200
    text: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer says of the node, with what a person needs to check it.

    Attributes:
        head: First 200 characters of the body, safe to print.
        body_sha256: Hex digest of the body; empty when there was none.
    """

    outcome: Outcome
    head: str
    body_sha256: str


class _UnreadableError(Exception):
    """The markup cannot be read for certain; the text says where it stopped."""


def judge(page: Page, answer: Answer, *, accept_suffix: bool = False) -> Verdict:
    """Apply the rule at the top of this module to one answer; never raises.

    Args:
        accept_suffix: `primary_accept_suffix` of the configuration: on the status page, text may
            follow OK on the same line.

    Source: guide lines 216-218; REQUIREMENTS 2.1 and 2.2; R47-R50.

    >>> judge(Page.STATUS, Answer(200, b"<p>MOBILEIRON-STATUS: OK</p>")).outcome
    Passed(mode=None, detail='')
    >>> judge(Page.STATUS, Answer(200, b"MOBILEIRON-STATUS: OKAY")).outcome.detail
    "found 'OKAY'; wanted 'OK'"
    >>> judge(Page.HASTATUS, Answer(200, b"MOBILEIRON-STATUS: OK (Mode: Standby)")).outcome.mode
    <Mode.STANDBY: 'standby'>
    >>> judge(Page.STATUS, Answer(302, b"", location="/mifs/login")).outcome.detail
    '302 Found to /mifs/login; wanted 200, redirects are not followed'
    """
    if len(answer.body) < _CACHED_BODY_BYTES:
        return _remembered(page, answer, accept_suffix)
    return _judged(page, answer, accept_suffix)


def judge_by(expected: Expected, answer: Answer) -> Verdict:
    """Judge an answer by what was expected of it alone; never raises.

    >>> judge_by(Expected(text="ready"), Answer(200, b"not now")).outcome.detail
    "found no 'ready' in the body"
    >>> judge_by(Expected(204), Answer(204, b"")).outcome
    Passed(mode=None, detail='')
    """
    outcome: Outcome = Passed()
    if answer.code != expected.code:
        phase = Phase.REDIRECT if 300 <= answer.code <= 399 else Phase.STATUS
        outcome = Failed(phase, f"{_named(answer.code)}; wanted {expected.code}")
    elif expected.text not in answer.body.decode("utf-8-sig", "replace"):
        outcome = Failed(Phase.BODY, f"found no {_quoted(expected.text)} in the body")
    return _verdict(outcome, answer.body)


def printable(text: str, limit: int = HEAD_CHARS) -> str:
    r"""Return the first `limit` characters with everything unprintable made visible and harmless.

    Line ends and tabs become spaces; control, format and direction characters become U+FFFD.

    >>> printable("a\r\nb\x1b[31m\u202e")
    'a  b\ufffd[31m\ufffd'
    """
    return "".join(map(_safe, text[:limit]))


def _safe(char: str) -> str:
    if char.isprintable():
        return char
    return " " if char in "\r\n\t" else "\ufffd"


def unjudged(outcome: Failed, body: bytes) -> Verdict:
    """Return a failure that came before the text could be judged, with what there is of it.

    >>> unjudged(Failed(Phase.RESET, "closed too early"), b"MOBILE").head
    'MOBILE'
    """
    return _verdict(outcome, body)


def _judged(page: Page, answer: Answer, accept_suffix: bool) -> Verdict:
    return _verdict(_outcome(page, answer, accept_suffix), answer.body)


def _verdict(outcome: Outcome, body: bytes) -> Verdict:
    # No character takes more than four bytes; the rest is room for a byte order mark.
    head = body[: 4 * HEAD_CHARS + 8].decode("utf-8-sig", "replace")
    return Verdict(outcome, printable(head), sha256(body).hexdigest() if body else "")


# Thousands of probes a second see the same few bodies. The bound keeps it under 4 MiB of bodies.
_remembered = lru_cache(maxsize=1024)(_judged)


def _outcome(page: Page, answer: Answer, accept_suffix: bool) -> Outcome:
    if 300 <= answer.code <= 399:
        where = f" to {printable(answer.location)}" if answer.location else ""
        found = f"{_named(answer.code)}{where}"
        return Failed(Phase.REDIRECT, f"{found}; wanted 200, redirects are not followed")
    if answer.code != 200:
        # R82: the vendor enables HA on request; without it the page is not there.
        hint = " (is HA enabled there?)" if page is Page.HASTATUS and answer.code == 404 else ""
        return Failed(Phase.STATUS, f"{_named(answer.code)}; wanted 200{hint}")
    return _said(page, answer.body.decode("utf-8-sig", "replace"), accept_suffix)


def _named(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _said(page: Page, raw: str, accept_suffix: bool) -> Outcome:
    if not raw.strip():
        return _no(page, "an empty page")
    try:
        lines = _visible_lines(raw)
    except _UnreadableError as where:
        return _no(page, f"markup that cannot be read for certain: {where}")
    values = [line[len(TOKEN) :].strip(_TRIM) for line in lines if line.startswith(TOKEN)]
    # Read both ways: an entity must neither hide a line that disagrees nor make one that agrees.
    if any(text.count(TOKEN) != len(values) for text in (raw, html.unescape(raw))):
        return _no(page, f"{TOKEN} elsewhere than at the start of a line of text")
    if not values:
        return _no(page, f"no line that starts with {TOKEN}")
    if len(set(values)) > 1:
        return _no(page, "conflicting values " + ", ".join(map(_quoted, sorted(set(values))[:4])))
    if page is Page.HASTATUS:
        return _mode_of(values[0])
    if values[0] == "OK" or (accept_suffix and _is_ok_with_suffix(values[0])):
        return Passed(detail=_connectors(lines))
    return _no(page, _quoted(values[0]))


def _no(page: Page, found: str) -> Failed:
    return Failed(Phase.BODY, f"found {found}; wanted {_WANTED[page]}")


def _quoted(text: str) -> str:
    return f"'{printable(text, _QUOTE_CHARS)}'"


def _mode_of(value: str) -> Outcome:
    mode = _MODES.get(value)
    if mode:
        return Passed(mode)
    if not _OK_SOMEHOW.fullmatch(value):
        return _no(Page.HASTATUS, _quoted(value))
    return Passed(Mode.UNKNOWN, f"found {_quoted(value)}; known are {_WANTED[Page.HASTATUS]}")


def _is_ok_with_suffix(value: str) -> bool:
    match = _WITH_SUFFIX.fullmatch(value)
    return match is not None and not _SAYS_MODE.search(match["suffix"].replace(_SEAM, ""))


def _connectors(lines: list[str]) -> str:
    connectors = [line for line in lines if _CONNECTOR in line]
    sick = sum(_CONNECTOR_OK not in line for line in connectors)
    # How many, not which: names of connectors stay out of logs and mails.
    return f"{sick} of {len(connectors)} connectors unhealthy" if sick else ""


def _visible_lines(raw: str) -> list[str]:
    text = raw.replace("\r\n", "\n").replace("\r", "\n")
    return [line.strip(_TRIM) for line in "".join(_Text(text).parts()).split("\n")]


class _Text:
    """Takes the markup out of a page.

    Every character is looked at once and the first piece that cannot be read ends the work, so
    a hostile page costs no more than its length.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._open: list[str] = []

    def parts(self) -> Iterator[str]:
        """Yield the text between markup, and what each piece of markup leaves behind.

        Raises:
            _UnreadableError: A browser might show something else than we would read.
        """
        while found := _MARKUP.search(self._text, self._at):
            yield self._plain(found.start())
            self._at = found.start()
            yield self._markup()
        yield self._plain(len(self._text))

    def _plain(self, end: int) -> str:
        # Before the parts are joined: markup inside an entity must not complete it.
        return self._text[self._at : end].replace("&nbsp;", " ")

    def _markup(self) -> str:
        if self._text.startswith("<!--", self._at):
            return self._comment()
        if self._text.startswith("<?", self._at) or (
            self._text[self._at : self._at + 9].lower() == "<!doctype"
        ):
            self._skip_past(">")
            return _SEAM
        return self._element(self._tag())

    def _comment(self) -> str:
        start = self._at + 4
        self._skip_past("-->", start)
        # Browsers end a comment at these too; nobody writes them in good faith.
        comment = self._text[start : self._at]
        if comment.startswith((">", "->")) or "--!>" in comment:
            raise _UnreadableError("a comment with two ends")
        return _SEAM

    def _tag(self) -> re.Match[str]:
        tag = _TAG.match(self._text, self._at)
        if not tag:
            raise _UnreadableError(_quoted(self._text[self._at : self._at + 20]))
        if tag["name"].lower() in _UNREADABLE or _HIDES.search(tag["attributes"]):
            raise _UnreadableError(_quoted(tag[0]))
        self._at = tag.end()
        return tag

    def _element(self, tag: re.Match[str]) -> str:
        name = tag["name"].lower()
        if name in _INLINE_TAGS:
            return _SEAM if "\n" in tag[0] else ""
        if name in _LINE_TAGS:
            return "\n" if self._ends_line(name, closes=bool(tag["end"])) else _SEAM
        self._open.clear()  # in a table, say, the end tag of an outer element is ignored
        if name in _NOT_TEXT and not tag["end"]:
            self._skip_content(name)
        return _SEAM

    def _ends_line(self, name: str, *, closes: bool) -> bool:
        if not closes:
            if name in _HEADINGS and _HEADINGS.intersection(self._open[-1:]):
                self._open.pop()  # one heading ends another
            if name in _NESTED:
                self._open.append(name)
            return True
        if name in {"br", "p"}:  # browsers make an element of these where none is open
            return True
        if self._open[-1:] != [name]:
            self._open.clear()
            return False
        self._open.pop()
        return True

    def _skip_past(self, end: str, start: int | None = None) -> None:
        found = self._text.find(end, self._at if start is None else start)
        if found < 0:
            raise _UnreadableError(
                f"no {end} after {_quoted(self._text[self._at : self._at + 20])}"
            )
        self._at = found + len(end)

    def _skip_content(self, name: str) -> None:
        start = self._at
        closing = re.compile(rf"</{name}(?=[ \t\n\f/>])", re.IGNORECASE).search(self._text, start)
        if not closing:
            raise _UnreadableError(f"no </{name}>")
        content = self._text[start : closing.start()]
        if "<!--" in content and "<script" in content.lower():
            # Such a script does not end at its first end tag.
            raise _UnreadableError("a script inside a comment inside a script")
        self._at = closing.start()
        self._tag()
