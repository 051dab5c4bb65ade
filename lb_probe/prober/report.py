"""Writes one probe out for a person: all that was seen, why it is judged so, and a capture of it.

A capture goes into a bug report, so it is the raw answer without what nobody else should have:
cookies, credentials and, unless asked for, addresses and names of machines. What is hidden becomes
as many `x`: the lengths that an answer states of itself stay true.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lb_probe import __version__
from lb_probe.core.model import Failed, Mode, Observation, Page, Phase
from lb_probe.core.status_page import TOKEN, printable
from lb_probe.prober.http_probe import Report
from lb_probe.prober.target import Target

HEADER_CHARS = 300
HIDDEN = "(hidden)"

_MEANS = {
    Phase.NAME: "the name has no address, or none in time",
    Phase.CONNECT_REFUSED: "nobody listens there, or no way leads there",
    Phase.CONNECT_TIMEOUT: "nobody answered the connection request in time",
    Phase.TLS: "the certificate or the handshake is wrong",
    Phase.TIMEOUT: "connected, and no complete answer in time",
    Phase.RESET: "the connection was cut before the answer was complete",
    Phase.PROTOCOL: "what came is no HTTP answer",
    Phase.TOO_LARGE: "the answer does not end",
    Phase.REDIRECT: "a redirect is no status page, and is not followed",
    Phase.STATUS: "only 200 counts, whatever the text says",
    Phase.BODY: "the page does not say the documented words",
}
# Before it is promoted its application need not run (guide lines 59 and 358).
_EXCUSE = "expected of a Standby, as its hastatus page says it is: no fault"
_PRIVATE = "[a-z0-9-]*(?:cookie|auth|token|session|secret|csrf|api-?key)[a-z0-9-]*"
_PRIVATE_NAME = re.compile(_PRIVATE, re.IGNORECASE)
# A header, with the lines that fold on; the first name of a cookie tells which product set it.
_PRIVATE_HEADER = re.compile(
    rf"^({_PRIVATE}[ \t]*:[ \t]*)([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.IGNORECASE | re.MULTILINE
)
_PRIVATE_VALUE = re.compile(
    r"(\b(?:jsessionid|session_?id|sid|token|access_token|password|passwd|secret|api_?key)\s*=\s*)"
    r"([^\s&;,\"'<>]+)",
    re.IGNORECASE,
)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*(?![\w:])")
_SHORTEST_NAME = 3  # hiding a shorter one would hide half of the text


# ------------------------------------------------------------------ for a person
def observed(seen: Observation) -> dict[str, Any]:
    """Return one observation as JSON values."""
    outcome = seen.outcome
    is_failed = isinstance(outcome, Failed)
    return {
        "result": "failed" if is_failed else "ok",
        "phase": outcome.phase.value if isinstance(outcome, Failed) else None,
        "mode": None if isinstance(outcome, Failed) or not outcome.mode else outcome.mode.value,
        "detail": outcome.detail,
        "duration_s": round(seen.ended_at - seen.started_at, 6),
        "code": seen.code,
        "head": seen.head,
        "body_sha256": seen.body_sha256,
    }


def written(target: Target, report: Report) -> dict[str, Any]:
    """Return one inspected probe as JSON values, safe to print; secrets in headers are hidden."""
    seen = report.observation
    return {
        **observed(seen),
        "why": why(target, seen),
        "note": seen.note,
        "asked": asked(target),
        "address": report.address,
        "timeout_s": target.timeout_s,
        "phases": {name: round(seconds, 6) for name, seconds in report.phases.items()},
        "tls": {name: printable(value, HEADER_CHARS) for name, value in report.tls.items()},
        "headers": [
            {"name": printable(name), "value": _shown(name, value)}
            for name, value in report.headers
        ],
    }


def together(told: Iterable[tuple[Target, Report]]) -> dict[str, dict[str, Any]]:
    """Return what came of the pages of one node, by page: one may excuse the other."""
    pages = {target.page.value: written(target, report) for target, report in told}
    status, says = (pages.get(page.value, {}) for page in (Page.STATUS, Page.HASTATUS))
    is_standby = says.get("mode") == Mode.STANDBY.value
    if is_standby and status.get("result") == "failed" and status.get("code") is not None:
        status["why"] += f"; {_EXCUSE}"
    return pages


def asked(target: Target) -> str:
    """Return what was asked for, as a url."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.scheme}://{host}:{target.port}{target.path if target.request else ''}"


def why(target: Target, seen: Observation) -> str:
    """Say why the verdict is what it is, in a sentence."""
    outcome = seen.outcome
    if isinstance(outcome, Failed):
        is_judged = outcome.phase in {Phase.REDIRECT, Phase.STATUS, Phase.BODY}
        if is_judged and target.expected is not None:
            return "it is not what `expect_status` and `expect` ask for"
        return _MEANS[outcome.phase]
    if not target.request:
        return "a connection was made, and that is all that is asked of it"
    if target.expected is not None:
        words = f", and {target.expected.text!r} is in the body" if target.expected.text else ""
        return f"{target.expected.code}{words}: that is all that is asked of it"
    if target.page is Page.STATUS:
        return f"200, and the line {TOKEN} says OK"
    if outcome.mode is Mode.UNKNOWN:
        return f"200, and the line {TOKEN} names a mode nobody documented: it supports no move"
    word = outcome.mode.value.capitalize() if outcome.mode else ""
    return f"200, and the line {TOKEN} says OK (Mode: {word})"


def _shown(name: str, value: str) -> str:
    return HIDDEN if _PRIVATE_NAME.fullmatch(name) else printable(_no_secrets(value), HEADER_CHARS)


# ------------------------------------------------------------------ for a bug report
def capture(
    told: Sequence[tuple[Target, Report]], *, at: str, with_addresses: bool = False
) -> bytes:
    """Return the text of a capture file: facts, request and raw answer of each probe.

    Args:
        at: When it was made, in words.
        with_addresses: Leave addresses, and the names the nodes are reached by, as they are.
    """
    names = [] if with_addresses else sorted(_names(told), key=len, reverse=True)
    hidden = "secrets" if with_addresses else "secrets, addresses and names of machines"
    head = (
        f"lb-probe {__version__}, {at}\n"
        f"{hidden} are x, as many as there were signs; read it through before you send it\n"
    )
    parts = [head]
    for target, report in told:
        parts.append(_facts(target, report))
        for what, raw in (("request", report.request), ("answer", report.raw)):
            parts.append(f"--- {what}, {len(raw)} bytes\n{raw.decode('latin-1')}\n")
    text = _no_secrets("\n".join(parts))
    if not with_addresses:
        text = _no_addresses(text, names)
    return text.encode("latin-1", "replace")


def _facts(target: Target, report: Report) -> str:
    seen = report.observation
    outcome = seen.outcome
    verdict = f"failed ({outcome.phase.value})" if isinstance(outcome, Failed) else "ok"
    lines = [
        f"=== {target.group}/{target.node} {target.page.value}: {verdict}",
        f"why: {why(target, seen)}{f'; {outcome.detail}' if outcome.detail else ''}",
        f"asked: {asked(target)} at {report.address or '-'}, timeout {target.timeout_s:g}s",
        "phases: " + ", ".join(f"{n} {s * 1000:.1f} ms" for n, s in report.phases.items()),
        *(f"tls {name}: {printable(value)}" for name, value in report.tls.items()),
    ]
    encoded = [v for n, v in report.headers if n.lower() == "content-encoding"]
    if encoded:
        lines.append(f"the body is encoded ({printable(encoded[0])}): nothing is hidden inside it")
    if seen.note:
        lines.append(f"note: {seen.note}")
    return "\n".join(lines) + "\n"


def _names(told: Iterable[tuple[Target, Report]]) -> set[str]:
    """Return all by which the nodes are reached, and what their certificates tell of it."""
    found: set[str] = set()
    for target, report in told:
        found |= {target.host, target.server_name or "", target.host_header.partition(":")[0]}
        found |= {target.source or "", report.address.rpartition(":")[0].strip("[]")}
        found |= set(re.split(r"[,\s=]+", report.tls.get("names", "")))
        found |= set(re.findall(r"CN=([^,\s]+)", report.tls.get("subject", "")))
    return {name.removeprefix("*.") for name in found if len(name) >= _SHORTEST_NAME}


def _no_secrets(text: str) -> str:
    text = _PRIVATE_HEADER.sub(_hide_header, text)
    return _PRIVATE_VALUE.sub(lambda found: found[1] + _x(found[2]), text)


def _hide_header(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    cookie, equals, rest = value.partition("=")
    if name.lower().startswith("set-cookie") and equals and cookie.strip().isprintable():
        secret, end, attributes = rest.partition(";")
        return name + cookie + equals + _x(secret) + end + attributes
    return name + _x(value)


def _no_addresses(text: str, names: Sequence[str]) -> str:
    for name in names:
        text = re.sub(re.escape(name), lambda found: _x(found[0]), text, flags=re.IGNORECASE)
    text = _IPV4.sub(lambda found: _x(found[0]), text)
    return _IPV6.sub(lambda found: _x(found[0]) if _is_ipv6(found[0]) else found[0], text)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return len(text) > _SHORTEST_NAME


def _x(text: str) -> str:
    """Return as many x, with line ends and blanks as they were."""
    return re.sub(r"\S", "x", text)
