r"""What is wrong with a monitor that asks for EPMM's pages; pure.

`recv` is a POSIX extended regular expression that is searched for in the whole answer, so the two
strings of the guide are traps: the first is the beginning of the second, and the parentheses of the
second must be escaped. It is tried here against the answers that a node can give.

Source: K5917 (recv is an expression); HA guide, lines 216-218.
"""

import re

from lb_probe.adapters.icontrol import Json

KINDS = ("https", "http", "tcp", "tcp-half-open", "gateway-icmp")
_HEAD = "HTTP/1.1 {status}\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/html;charset=UTF-8\r\n\r\n"  # fmt: skip  # noqa: E501
_GOOD, _BAD = _HEAD.format(status="200 OK"), _HEAD.format(status="503 Service Unavailable")
SERVING = f"{_GOOD}MOBILEIRON-STATUS: OK"
ERROR = f"{_BAD}MOBILEIRON-STATUS: ERROR"
STANDBY = f"{_GOOD}MOBILEIRON-STATUS: OK (Mode: Standby)"
PRIMARY = f"{_GOOD}MOBILEIRON-STATUS: OK (Mode: Primary)"
_CLASSES = {
    "[:digit:]": "0-9",
    "[:alpha:]": "A-Za-z",
    "[:alnum:]": "A-Za-z0-9",
    "[:space:]": r"\s",
    "[:blank:]": r" \t",
    "[:upper:]": "A-Z",
    "[:lower:]": "a-z",
    "[:print:]": " -~",
    "[:punct:]": r"!-/:-@\[-`{-~",
}


def names(rule: str) -> list[str]:
    """Return the monitors of a rule, however it is worded.

    >>> names("min 1 of { /Common/a /Common/b }"), names("/Common/tcp "), names("default")
    (['/Common/a', '/Common/b'], ['/Common/tcp'], [])
    """
    return re.findall(r"/[^\s{}]+", rule)


def traps(monitor: Json) -> list[str]:
    r"""Say what is wrong with the `recv` of a monitor that asks for one of the two pages.

    >>> traps({"send": r"GET /hastatus.html HTTP/1.1\r\n\r\n", "recv": r"OK \(Mode: Standby\)"})
    []
    """
    send, recv = str(monitor.get("send") or ""), str(monitor.get("recv") or "")
    if recv == "none":
        recv = ""
    if "/status/status.html" in send:
        return _judged(recv, good=(SERVING,), use="MOBILEIRON-STATUS: OK")
    if "/hastatus.html" in send:
        use = r"MOBILEIRON-STATUS: OK \(Mode: Standby\)"
        return _judged(recv, good=(STANDBY, PRIMARY), use=use)
    return []


def _judged(recv: str, good: tuple[str, ...], use: str) -> list[str]:
    if not recv:
        return [f"`recv` is empty: any answer counts as up, an ERROR too; wanted {use}"]
    expression = recv
    for name, chars in _CLASSES.items():
        expression = expression.replace(name, chars)
    try:
        found = re.compile(expression)
    except (re.error, OverflowError):
        return []  # what F5 took and we cannot read is not judged
    matched = [answer for answer in good if found.search(answer)]
    if not matched:
        hint = r"; parentheses must be escaped, as \(" if re.search(r"(?<!\\)\(", recv) else ""
        return [f"`recv` {recv!r} can never match{hint}; wanted {use}"]
    if found.search(ERROR):
        return [f"`recv` {recv!r} matches an ERROR page as well; wanted {use}"]
    if len(matched) > 1:
        return [f"`recv` {recv!r} matches a Standby and a Primary alike; wanted {use}"]
    return []
