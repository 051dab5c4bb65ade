"""What a unit's answers mean: JSON, or which kind of no. Pure.

There are three shapes of error: icrd's `{"code", "message", "errorStack", "apiError"}`, restjavad's
with `"kind": ":resterrorresponse"`, and HTML of the web server in front. What passes by itself is
told from what does not, because a unit that starts says of everything that it does not exist.

Source: iControl REST user guide; the device replies collected in docs/f5.md.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from lb_probe.core.status_page import printable
from lb_probe.ports import PublishError, Unreachable

SHOWN = 200
Json = dict[str, Any]


class Busy(Unreachable):
    """The management plane cannot answer now; traffic goes on as it is."""


class Missing(PublishError):
    """The unit says that there is no such object."""


class Denied(PublishError):
    """The unit does not know us; the same again would not help."""


# What passes by itself, whatever its status.
_PASSING = re.compile(
    "active asynchronous task|Configuration Utility restarting|connection to mcpd has been lost"
    "|AsyncContext timeout|01071003|Configuration operation in progress",
    re.IGNORECASE,
)
_UNREGISTERED = re.compile("not registered", re.IGNORECASE)
_NO_RIGHT = "Access Denied: user"
_GATEWAY = (502, 503, 504)


def judge(where: str, username: str, status: int, raw: bytes, location: str = "") -> Json:
    """Return the JSON of a good answer.

    Args:
        where: Unit, method and path, to begin a message with.
        location: Where a redirect leads.

    Raises:
        Busy: Asked a little later it would answer.
        Missing, Denied, PublishError: No, and it says why.
    """
    found, text = parsed(raw)
    said = found.get("code") if found is not None else None
    if type(said) is int and said >= 400 and found is not None and "message" in found:
        status = said  # inside of a 200 as well
    if 200 <= status < 300:
        if found is None:
            raise PublishError(f"{where}: found {status} and {_quoted(text)}; wanted JSON")
        return found
    if 300 <= status < 400:
        to = f" to {printable(location, SHOWN)}" if location else ""
        raise PublishError(
            f"{where}: found a redirect ({status}){to}; wanted JSON: name the unit's own management"
            " address, as https://10.0.0.5"
        )
    raise _refusal(where, username, status, text, is_json=found is not None)


def _refusal(where: str, username: str, status: int, text: str, *, is_json: bool) -> PublishError:
    if status == 404 and _UNREGISTERED.search(text):
        return Busy(
            f"{where}: {_quoted(text)}: the REST service is starting, or the module is not"
            " provisioned; asked again"
        )
    if status in _GATEWAY or _PASSING.search(text):
        return Busy(f"{where}: found {status}: {_quoted(text)}; asked again")
    if status == 401:
        return Denied(f"{where}: not let in as {username} (401): {_quoted(text)}")
    if status == 403 or _NO_RIGHT in text:
        return PublishError(
            f"{where}: {username} may not do this ({status}): {_quoted(text)}; docs/f5.md says"
            " which role it needs"
        )
    if status == 404 and is_json:
        return Missing(f"{where}: {_quoted(text)}")
    return PublishError(f"{where}: found {status}: {_quoted(text)}")


def _quoted(text: str) -> str:
    return f"'{printable(text, SHOWN)}'" if text else "nothing"


def parsed(raw: bytes) -> tuple[Json | None, str]:
    """Return the object, where it is one, and its words: of an error, or of a page.

    >>> parsed(b'{"code": 404, "message": "no"}')
    ({'code': 404, 'message': 'no'}, 'no')
    >>> parsed(b"<html><title>BIG-IP</title></html>")
    (None, 'BIG-IP')
    """
    try:
        found = json.loads(raw) if raw else {}
    except (ValueError, RecursionError):
        text = re.sub(r"<(script|style)\b.*?</\1>", " ", raw[:20_000].decode(errors="replace"),
                      flags=re.DOTALL | re.IGNORECASE)  # fmt: skip
        return None, " ".join(re.sub(r"<[^>]*>", " ", text).split()) or "a page without words"
    if not isinstance(found, dict):
        return None, "JSON that is no object"
    return found, str(found.get("message") or "")


def items_of(answer: object) -> list[Json]:
    """Return the objects of a collection; there may be no `items` where it is empty.

    >>> items_of({"items": [{"name": "a"}, 1]}), items_of({"items": 2}), items_of(None)
    ([{'name': 'a'}], [], [])
    """
    found = answer.get("items") if isinstance(answer, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


# ------------------------------------------------------------------ statistics
def entries(answer: Json) -> Iterator[tuple[str, Json]]:
    """Yield key and values of each entry of a statistics answer; there may be none after a boot."""
    found = answer.get("entries")
    for key, entry in found.items() if isinstance(found, dict) else ():
        nested = entry.get("nestedStats") if isinstance(entry, dict) else None
        values = nested.get("entries") if isinstance(nested, dict) else None
        if isinstance(values, dict):
            yield key, values


def word(values: Json, name: str) -> str:
    """Return the description of one field of an entry; empty where it has none."""
    field = values.get(name)
    return str(field.get("description") or "") if isinstance(field, dict) else ""


def number(values: Json, name: str) -> int:
    """Return the value of one field of an entry; 0 where it has none."""
    field = values.get(name)
    value = field.get("value") if isinstance(field, dict) else 0
    return value if type(value) is int else 0


def status_of(answer: Json) -> str:
    """Return the `status` of `cm/failover-status` or `cm/sync-status`; empty where there is none.

    >>> status_of({})
    ''
    """
    return next((found for _, values in entries(answer) if (found := word(values, "status"))), "")


def member_of(key: str) -> str:
    """Return the full path of the pool member that an entry's key is about.

    >>> member_of("https://localhost/mgmt/tm/ltm/pool/~C~p/members/~Common~10.0.0.1%2510:80/stats")
    '/Common/10.0.0.1%10:80'
    """
    found = re.search(r"/members/([^/?]+)", key)
    return unquote(found[1]).replace("~", "/") if found else ""


def version_of(answer: Json) -> str:
    """Return the version that an answer's own address names; empty where it names none."""
    found = re.search(r"[?&]ver=([0-9.]{1,20})", str(answer.get("selfLink") or ""))
    return found[1] if found else ""
