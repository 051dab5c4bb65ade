"""What each role may do below /mgmt/tm, and the two ways to be told that it may not.

mcpd refuses with 400 and `01070822:3: Access Denied`; restjavad, where a whole path is closed to a
role, with a 401 that no new login mends.
"""

from collections.abc import Mapping
from typing import Any

from emulator.errors import Refusal, refused, rest_refused
from emulator.logins import User
from emulator.names import numbers

TOGGLES = frozenset(("session", "state", "enabled", "disabled"))
OLD = (13, 1)  # before it, iControl REST was for administrators only

MAY = {
    "admin": frozenset(("toggle", "configure", "save", "sync", "bash")),
    "resource-admin": frozenset(("toggle", "configure", "save", "sync")),
    "manager": frozenset(("toggle", "configure", "save")),
    "operator": frozenset(("toggle",)),
    "guest": frozenset(),
}
"""What F5 says of the roles; that a manager saves and does not sync is a guess."""


def demand_right(user: User, method: str, path: str, body: Any, version: str) -> None:
    """Refuse what the user's role does not cover. Everybody may read, and use transactions.

    Raises:
        Refusal: In mcpd's words or in restjavad's.
    """
    if numbers(version) < OLD and user.role != "admin":
        raise closed(user, method, path)
    if method == "GET" or "/tm/transaction" in path:
        return
    wanted = _act(method, path, body)
    if wanted in MAY[user.role]:
        return
    if wanted == "bash":
        raise closed(user, method, path)
    verb = {"POST": "create", "DELETE": "delete"}.get(method, "modify")
    text = f"user ({user.name}) does not have {verb} access to object ({_object(path)})"
    raise refused(400, f"01070822:3: Access Denied: {text}", 3)


def closed(user: User, method: str, path: str) -> Refusal:
    where = f"resource={path} verb={method} uri:http://localhost:8100{path}"
    return rest_refused(
        401,
        f"Authorization failed: user={user.link} {where} referrer:127.0.0.1 sender:127.0.0.1",
    )


def _act(method: str, path: str, body: Any) -> str:
    if path.endswith("/util/bash"):
        return "bash"
    if path.endswith(("/tm/cm", "/sys/failover")):
        return "sync"
    if "/sys/config" in path:
        return "save"
    toggles = isinstance(body, Mapping) and set(body) <= TOGGLES
    return "toggle" if method == "PATCH" and toggles and _object(path) != "pool" else "configure"


def _object(path: str) -> str:
    if "/members" in path:
        return "pool_member"
    words = [word for word in path.split("/") if word and not word.startswith("~")]
    return words[-1].replace("-", "_")
