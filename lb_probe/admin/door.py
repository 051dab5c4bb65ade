"""The door of the API: who comes in, from where, and what is written down of it.

Every route is behind `guarded`; there is no other way to add one. A request that is refused here
was not read any further than its headers.

Source: DESIGN section 7; OWASP ASVS 5.0, 3.5, 6.3, 16.3.
"""

import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import parse_qs

from aiohttp import web

from lb_probe.admin.auth import (
    COOKIE,
    Actor,
    Failures,
    Operator,
    Sessions,
    bearer,
    by_peer,
    by_token,
    is_from_our_page,
)
from lb_probe.admin.tokens import Tokens
from lb_probe.core.rank import Rank
from lb_probe.events.audit import Audit
from lb_probe.ports import Invalid, NotFound

Handler = Callable[[web.Request, Actor], Awaitable[web.StreamResponse]]
LARGEST_LOGIN = 4096
_SAFE = ("GET", "HEAD")


class Door:
    """Recognises who asks, and lets a route's handler see only those it is for.

    Args:
        now: Tells monotonic seconds.
        tokens: Those made by a verb; None knows none but the configured operators.
        audit: Where logins, refusals and acts are written down; None writes nothing.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        now: Callable[[], float],
        *,
        tokens: Tokens | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.tokens = tokens
        self.audit = audit
        self._operators = tuple(operators)
        self._sessions = Sessions(now)
        self._failures = Failures(now)

    def know(self, operators: Sequence[Operator]) -> None:
        """Let these operators in from now on, and no other configured one."""
        self._operators = tuple(operators)

    def guarded(
        self, rank: Rank, handler: Handler, *, everywhere: bool = False
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a handler that lets in who has at least this rank, and the scope for the group.

        Args:
            everywhere: Only for those whose scope is all groups.
        """

        async def guarded(request: web.Request) -> web.StreamResponse:
            remote = _remote(request)
            if wait_s := self._failures.wait_s(remote):
                return _too_often(wait_s)
            actor = self.who(request)
            if actor is None:
                await self._stranger(request, remote)
                return _unauthorized()
            if {"token", "access_token"} & request.query.keys():
                raise Invalid("found a token in the query, where logs keep it; send it as a header")
            refusal = self._refusal(request, actor, rank)
            if everywhere and actor.groups and not refusal:
                refusal = f"{actor.name} is for {', '.join(sorted(actor.groups))} only"
            if refusal:
                await self.note("denied", actor, request, detail=refusal)
                return _error(403, "forbidden", refusal)
            group = request.match_info.get("group")
            if group is not None and not actor.may_see(group):
                raise NotFound(f"no group {group} for {actor.name}")
            return await handler(request, actor)

        return guarded

    def who(self, request: web.Request) -> Actor | None:
        """Return who sent this; None for nobody we know."""
        header = request.headers.get("Authorization")
        if header is not None:
            return self._by_text(bearer(header))
        cookie = request.cookies.get(COOKIE)
        if cookie is not None:
            return self._by_text(self._sessions.token(cookie))
        sock = _socket(request)
        if sock is not None and sock.family == socket.AF_UNIX:
            return by_peer(sock)
        return None

    def _by_text(self, text: str) -> Actor | None:
        found = by_token(self._operators, text)
        return found if found or self.tokens is None else self.tokens.who(text)

    def _refusal(self, request: web.Request, actor: Actor, rank: Rank) -> str:
        is_session = "Authorization" not in request.headers and COOKIE in request.cookies
        if is_session and request.method not in _SAFE and not is_from_our_page(request.headers):
            return "found a request of another site; a session acts from the page only"
        if actor.rank < rank:
            found, wanted = actor.rank.word, rank.word
            return f"{actor.name} is a {found}; this needs {wanted}"
        return ""

    async def _stranger(self, request: web.Request, remote: str) -> None:
        """Count and write down a try; one that brings nothing is only somebody who looks."""
        if "Authorization" in request.headers or COOKIE in request.cookies:
            self._failures.note(remote)
            await self.note("denied", None, request, detail="no valid token")

    # -------------------------------------------------------------- sessions of browsers
    async def login(self, request: web.Request) -> web.StreamResponse:
        """Begin a session: a token in the body, a cookie in the answer.

        Raises:
            Invalid: The body holds no token.
        """
        remote = _remote(request)
        if wait_s := self._failures.wait_s(remote):
            return _too_often(wait_s)
        if not is_from_our_page(request.headers):
            return _error(403, "forbidden", "found a login from another site; use the page")
        token = _login_token(await request.read())
        actor = self._by_text(token)
        if actor is None:
            self._failures.note(remote)
            await self.note("login", None, request, outcome="refused")
            return _unauthorized()
        await self.note("login", actor, request, outcome="done")
        answer = web.json_response({"name": actor.name, "role": actor.rank.word})
        answer.set_cookie(
            COOKIE,
            self._sessions.begin(token),
            path="/",
            secure=True,
            httponly=True,
            samesite="Strict",
        )
        return answer

    async def logout(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        """End the session this request came with."""
        self._sessions.end(request.cookies.get(COOKIE, ""))
        await self.note("logout", actor, request)
        answer = web.json_response({})
        answer.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
        return answer

    # -------------------------------------------------------------- the record
    async def note(
        self, action: str, actor: Actor | None, request: web.Request, **fields: object
    ) -> None:
        """Write a line of the audit log; it is on disk on return.

        Raises:
            AuditError: It could not be written.
        """
        if self.audit is None:
            return
        await self.audit.write(
            action,
            actor=actor.name if actor else None,
            role=actor.rank.word if actor else None,
            remote=_remote(request),
            path=request.path,
            **fields,
        )


def _remote(request: web.Request) -> str:
    sock = _socket(request)
    if sock is not None and sock.family == socket.AF_UNIX:
        return "unix"
    return request.remote or "unknown"


def _socket(request: web.Request) -> socket.socket | None:
    return request.transport.get_extra_info("socket") if request.transport else None


def _login_token(raw: bytes) -> str:
    if len(raw) > LARGEST_LOGIN:
        raise Invalid(f"found a body over {LARGEST_LOGIN} bytes; a login is a token")
    try:
        token = parse_qs(raw.decode())["token"][0] if raw[:6] == b"token=" else _of_json(raw)
    except (ValueError, KeyError, TypeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token:
        raise Invalid('found no token; send {"token": "..."}')
    return token.strip()


def _of_json(raw: bytes) -> object:
    return json.loads(raw)["token"]


def _unauthorized() -> web.Response:
    answer = _error(401, "unauthorized", "found no valid token; send a bearer token")
    answer.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 11.6.1
    return answer


def _too_often(wait_s: float) -> web.Response:
    answer = _error(429, "unauthorized", f"too many failures from here; wait {wait_s:.0f}s")
    answer.headers["Retry-After"] = f"{wait_s:.0f}"
    return answer


def _error(status: int, word: str, detail: str) -> web.Response:
    return web.json_response({"error": word, "detail": detail}, status=status)
