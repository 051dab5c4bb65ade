"""What a doctor says: one finding, and a list of them for people and for programs."""

import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
_WIDTH = 96


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        severity: error: traffic may go to the wrong node, or a move may not happen. warning: it
            may after something else. info: good to know.
        code: Its name, for scripts.
        found: What was found and where.
        why: What comes of it.
        fix: The exact line or command that mends it.
    """

    severity: Severity
    code: str
    found: str
    why: str
    fix: str


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings without repetitions, the gravest first."""
    return sorted(dict.fromkeys(findings), key=lambda finding: _ORDER[finding.severity])


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Tell whether no finding is an error."""
    return all(finding.severity != "error" for finding in findings)


def text(findings: Iterable[Finding]) -> str:
    """Return findings for people, the gravest first, and a line that counts them."""
    found = ordered(findings)
    blocks = [_block(finding) for finding in found]
    counts = ", ".join(
        f"{n} {word}{'' if n == 1 or word == 'info' else 's'}"
        for word in _ORDER
        if (n := sum(finding.severity == word for finding in found))
    )
    return "\n".join([*blocks, counts or "nothing found"]) + "\n"


def _block(finding: Finding) -> str:
    lines = _wrapped(f"{finding.severity}: {finding.found} [{finding.code}]", "")
    lines += _wrapped(f"why: {finding.why}", "  ")
    # Not wrapped: it is there to be copied.
    return "\n".join([*lines, *(f"  fix: {line}" for line in finding.fix.split("\n")), ""])


def _wrapped(told: str, indent: str) -> list[str]:
    return textwrap.wrap(
        told,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent="    ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def as_dicts(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings for `-o json`, the gravest first."""
    return [asdict(finding) for finding in ordered(findings)]
