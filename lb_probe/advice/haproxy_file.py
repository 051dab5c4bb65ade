"""haproxy.cfg read into sections and lines of words: enough to look for what matters, no more.

Source: HAProxy configuration manual, "Quoting and escaping", "defaults ... from".
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# What begins a section; a word that a newer HAProxy added is taken for a line of the one before.
_SECTIONS = frozenset(
    [
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "peers",
        "resolvers",
        "userlist",
        "mailers",
        "program",
        "cache",
        "http-errors",
        "ring",
        "log-forward",
        "log-profile",
        "fcgi-app",
        "crt-store",
        "traces",
        "acme",
    ]
)
PROXIES = frozenset({"frontend", "backend", "listen"})


@dataclass(frozen=True, slots=True)
class Line:
    """One line that says something.

    Attributes:
        where: FILE:NUMBER.
    """

    where: str
    words: tuple[str, ...]

    def starts(self, *words: str) -> bool:
        """Tell whether it begins with these words."""
        return self.words[: len(words)] == words

    @property
    def text(self) -> str:
        """The line as people read it."""
        return " ".join(self.words)


@dataclass(slots=True)
class Section:
    """One section; `lines` of a proxy begin with those of its defaults."""

    kind: str
    name: str
    where: str
    lines: list[Line] = field(default_factory=list)

    def all(self, *words: str) -> list[Line]:
        """Return the lines that begin with these words, unless a later `no` takes them back."""
        found = [line for line in self.lines if line.starts(*words)]
        refused = [line for line in self.lines if line.starts("no", *words)]
        if found and refused and self.lines.index(refused[-1]) > self.lines.index(found[-1]):
            return []
        return found


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """All files of one HAProxy, in the order of its command line."""

    sections: tuple[Section, ...]

    def proxies(self, *kinds: str) -> Iterator[Section]:
        """Yield the proxies of these kinds; `listen` is both frontend and backend."""
        yield from (s for s in self.sections if s.kind in {*kinds, "listen"})

    def globals(self, *words: str) -> list[Line]:
        """Return the lines of all `global` sections that begin with these words."""
        return [line for s in self.sections if s.kind == "global" for line in s.all(*words)]


def read_files(paths: Iterable[Path]) -> ConfigFile:
    """Read files as HAProxy would with one `-f` each; a folder stands for its *.cfg.

    Raises:
        OSError: One cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.cfg")) if path.is_dir() else [path]
    return parse((str(path), path.read_text("utf-8", "replace")) for path in files)


def parse(texts: Iterable[tuple[str, str]]) -> ConfigFile:
    """Read pairs of a file's name and its text."""
    sections: list[Section] = []
    defaults: dict[str, Section] = {}
    last: Section | None = None
    for name, text in texts:
        for line in _lines(name, text):
            if line.words[0] not in _SECTIONS:
                if sections:
                    sections[-1].lines.append(line)
                continue
            section = _begin(line, defaults, last)
            sections.append(section)
            if section.kind == "defaults":
                defaults[section.name] = last = section
    return ConfigFile(tuple(sections))


def _begin(line: Line, defaults: dict[str, Section], last: Section | None) -> Section:
    words = line.words
    name = words[1] if len(words) > 1 and words[1] != "from" else ""
    section = Section(words[0], name, line.where)
    if words[0] in {*PROXIES, "defaults"}:
        after = words.index("from") + 1 if "from" in words else len(words)
        chosen = defaults.get(words[after]) if after < len(words) else None
        if chosen is None and words[0] != "defaults":
            chosen = last
        if chosen is not None:
            section.lines += chosen.lines
    return section


def _lines(name: str, text: str) -> Iterator[Line]:
    for number, raw in enumerate(text.split("\n"), 1):
        words = tuple(_words(raw))
        # `.if`, `.notice` and so on: both branches are read, which can only find too much.
        if words and not words[0].startswith("."):
            yield Line(f"{name}:{number}", words)


def _words(line: str) -> Iterator[str]:
    """Yield the words of a line: quotes and backslashes taken off, comment left out."""
    word, quote, is_word, at = "", "", False, 0
    while at < len(line):
        char = line[at]
        at += 1
        if char == "\\" and quote != "'" and at < len(line):
            word, is_word, at = word + line[at], True, at + 1
        elif quote:
            word, quote = (word, "") if char == quote else (word + char, quote)
        elif char in "'\"":
            quote, is_word = char, True
        elif char == "#":
            break
        elif not char.isspace():
            word, is_word = word + char, True
        elif is_word:
            yield word
            word, is_word = "", False
    if is_word:
        yield word


def value_after(words: Sequence[str], name: str) -> str | None:
    """Return the word that follows `name`; None where there is none."""
    at = words.index(name) + 1 if name in words else len(words)
    return words[at] if at < len(words) else None
