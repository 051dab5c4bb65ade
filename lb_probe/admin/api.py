"""The operator's HTTP API: read groups, act on them, follow what happens.

Every path but the ones below answers 404; every path below needs a role, and a request without one
is refused before its body is read. State changes are commands on the controller: the handler only
waits for the result.

Source: DESIGN section 7; X5, R125.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lb_probe import __version__, history
from lb_probe.admin.auth import Actor
from lb_probe.admin.door import Door
from lb_probe.admin.openapi import document
from lb_probe.admin.tokens import Token, Tokens
from lb_probe.controller import Ask
from lb_probe.core import acts
from lb_probe.core.model import Event
from lb_probe.core.rank import Rank, rank_of
from lb_probe.core.view import gate_json, iso
from lb_probe.events.audit import AuditError
from lb_probe.groups import Groups, as_json
from lb_probe.ports import Conflict, Invalid, LbProbeError, NotFound, Refused, Span

MAX_BODY = 64 * 1024
MAX_STREAMS = 200
STREAM_QUEUE = 256
PING_S = 10.0
HSTS = "max-age=31536000"  # a browser that came by TLS comes by nothing else (ASVS 5.0, 3.4.1)
PARTING_S = 0.5  # a reader that has not left by then is cut off: a stop must not wait for it
LONGEST_DAYS = 366
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# What moves a terminal's cursor, ends a log line, or turns the reading direction.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_log = logging.getLogger(__name__)

Subscribe = Callable[[Callable[[Event], None]], Callable[[], None]]


def _one_line(text: str) -> str:
    found = _UNPRINTABLE.search(text)
    if found:
        raise ValueError(f"found the control character {found[0]!r}; use one line of plain text")
    return text


_Line = Annotated[str, Field(max_length=1000), AfterValidator(_one_line)]
_Word = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]


class Body(BaseModel):
    """The body of an act; unknown keys are refused, so that a typing error changes nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: _Line = Field(default="", description="why; kept in the history; never blank")
    to: _Word | None = Field(default=None, description="failover: the node; else the candidate")
    hold_for: str | None = Field(
        default=None, alias="for", max_length=20, description="hold: how long, as 90m or 2h"
    )
    hands_off: bool = Field(default=False, description="hold: write nothing, repairs included")
    override: list[_Word] = Field(
        default_factory=list, max_length=20, description="gates to open at your own risk"
    )
    attest: dict[_Word, _Line] = Field(
        default_factory=dict, max_length=20, description="gates you vouch for, with your words"
    )
    generation: int | None = Field(
        default=None, ge=0, le=2**63 - 1, description="only if this is still the one in force"
    )
    dry_run: bool = Field(default=False, description="change nothing, answer with the plan")


@dataclass(eq=False, slots=True)
class _Reader:
    """Somebody who follows the events.

    Attributes:
        left: Set once nothing more is written to it.
    """

    transport: asyncio.Transport | None
    queue: asyncio.Queue[Event | None] = field(default_factory=lambda: asyncio.Queue(STREAM_QUEUE))
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, event: Event) -> None:
        """Queue an event; a reader that does not read is cut off, and starts anew."""
        if event.name == "probe.done":
            return
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            self.cut()

    def end(self) -> None:
        """Let it end after what is being written now."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)

    def cut(self) -> None:
        """End it at once, though a write may still wait for it."""
        if self.transport is not None:
            self.transport.abort()


class TokenBody(BaseModel):
    """The body that makes a token."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: _Word = Field(description="whose it is; one good token has one name")
    role: str = Field(pattern="^(viewer|operator|admin)$", description="what it may do")
    groups: list[_Word] = Field(
        default_factory=list, max_length=200, description="for these groups only; empty: all"
    )
    expires: str | None = Field(
        default=None, max_length=20, description="how long it is good, as 90d; null: for ever"
    )


class Api:
    """The HTTP application of one prober.

    Args:
        door: Who may come in.
        subscribe: Adds a taker of events; returns what removes it.
    """

    def __init__(self, controlled: Groups, door: Door, subscribe: Subscribe) -> None:
        self._controlled = controlled
        self._door = door
        self._subscribe = subscribe
        self._readers: set[_Reader] = set()

    def application(self) -> web.Application:
        """Return the aiohttp application; a fresh one for each runner."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_plain_errors])
        routes = [
            ("GET", "/api/v1/groups", Rank.VIEWER, self._groups),
            ("GET", "/api/v1/groups/{group}", Rank.VIEWER, self._group),
            ("GET", "/api/v1/groups/{group}/explain", Rank.VIEWER, self._explain),
            ("POST", "/api/v1/groups/{group}/{verb}", Rank.OPERATOR, self._act),
            ("GET", "/api/v1/history", Rank.VIEWER, self._history),
            ("GET", "/api/v1/events", Rank.VIEWER, self._events),
            ("GET", "/api/v1/openapi.json", Rank.VIEWER, self._openapi),
            ("DELETE", "/api/v1/session", Rank.VIEWER, self._door.logout),
        ]
        for method, path, rank, handler in routes:
            app.router.add_route(method, path, self._door.guarded(rank, handler))
        for method, path, handler in [
            ("GET", "/api/v1/tokens", self._tokens),
            ("POST", "/api/v1/tokens", self._new_token),
            ("DELETE", "/api/v1/tokens/{token}", self._end_token),
        ]:
            guarded = self._door.guarded(Rank.ADMIN, handler, everywhere=True)
            app.router.add_route(method, path, guarded)
        # The one route without a guard: here a browser shows its token for the first time.
        app.router.add_post("/api/v1/session", self._door.login)
        app.on_response_prepare.append(_headers)
        app.on_shutdown.append(self._close_streams)
        return app

    # -------------------------------------------------------------- reading
    async def _groups(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        return web.json_response({"groups": self._all(actor)})

    def _all(self, actor: Actor) -> list[dict[str, object]]:
        names = [name for name in self._controlled.names if actor.may_see(name)]
        return [as_json(self._controlled.view(name)) for name in names]

    async def _group(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        return web.json_response(as_json(self._controlled.view(request.match_info["group"])))

    async def _explain(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        name = request.match_info["group"]
        view, plan, text = self._controlled.explained(name)
        return web.json_response(
            {
                "group": name,
                "condition": view.decision.condition,
                "rule": view.decision.rule,
                "blocked": list(view.decision.blocked),
                "gates": [gate_json(gate) for gate in plan.gates] if plan else [],
                "paste": plan.paste if plan else "",
                "text": text,
            }
        )

    async def _history(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        limit = request.query.get("limit", "100")
        if not re.fullmatch("[0-9]{1,5}", limit) or not 1 <= int(limit) <= 10_000:
            raise Invalid(f"found limit {limit[:20]!r}; use a number from 1 to 10000")
        span = _span(request.query, self._controlled.wall)
        group = request.query.get("group")
        if actor.groups and (group is None or not actor.may_see(group)):
            scope = ", ".join(sorted(actor.groups))
            raise Invalid(f"found group {group}; this token is for {scope}: name one of them")
        found = await self._controlled.history(group, int(limit), span)
        # Give `before` back to get the page before this one; null where this one is the first.
        before = found[0].number if len(found) == int(limit) else None
        return web.json_response({"history": [history.as_json(r) for r in found], "before": before})

    async def _openapi(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        return web.json_response(
            document(
                Body.model_json_schema(by_alias=True), TokenBody.model_json_schema(), __version__
            )
        )

    # -------------------------------------------------------------- acting
    async def _act(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        name, verb = request.match_info["group"], request.match_info["verb"]
        if verb not in acts.VERBS:
            raise NotFound(f"no verb {verb}; use one of {', '.join(acts.VERBS)}")
        body = _parse(await request.read())
        ask = _ask(verb, body, actor)
        if body.dry_run:
            return web.json_response(self._plan(name, ask))
        said: dict[str, object] = {
            "verb": verb,
            "group": name,
            "reason": ask.reason,
            "to": ask.to,
            "override": sorted(ask.override),
            "attest": dict(ask.attest),
        }
        # First of all: what is not on record is not done.
        await self._door.note("act", actor, request, outcome="asked", **said)
        try:
            view = await self._controlled.act(name, ask)
        except LbProbeError as error:
            outcome = type(error).__name__.lower()
            await self._door.note("act", actor, request, outcome=outcome, detail=str(error), **said)
            raise
        done = {"assigned": view.saved.assigned, "generation": view.saved.generation}
        try:
            await self._door.note("act", actor, request, outcome="done", **said, **done)
        except AuditError:
            # It is done and in the history; to answer that it failed would be wrong.
            _log.exception("the outcome of %s %s is not on the audit log", verb, name)
        return web.json_response(as_json(view))

    def _plan(self, name: str, ask: Ask) -> dict[str, Any]:
        plan = self._controlled.plan(name, ask)
        moves = plan.source != plan.target or ask.verb == "republish"
        return {
            "dry_run": True,
            "passed": not plan.closed,
            "paste": plan.paste,
            "plan": {
                "verb": ask.verb,
                "group": name,
                "from": plan.source,
                "to": plan.target,
                "generation": self._controlled.view(name).saved.generation,
                "gates": [gate_json(gate) for gate in plan.gates],
                "commands": self._controlled.commands(name, plan.target) if moves else [],
                "warnings": list(plan.warnings),
            },
        }

    # -------------------------------------------------------------- tokens
    async def _tokens(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        book = self._book()
        return web.json_response(
            {"tokens": [_shown(t, self._controlled.wall) for t in book.every()]}
        )

    async def _new_token(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        try:
            body = TokenBody.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            raise _invalid(error) from None
        strange = sorted(set(body.groups) - set(self._controlled.names))
        if strange:
            raise NotFound(f"no group {', '.join(strange)}")
        lasts_s = None if body.expires is None else duration(body.expires)
        said = {"name": body.name, "granted": body.role, "groups": body.groups}
        await self._door.note("token-create", actor, request, **said, expires=body.expires)
        token, text = self._book().create(
            body.name, rank_of(body.role), actor.name, groups=body.groups, lasts_s=lasts_s
        )
        return web.json_response({**_shown(token, self._controlled.wall), "token": text})

    async def _end_token(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        which = request.match_info["token"]
        await self._door.note("token-revoke", actor, request, token=which[:64])
        return web.json_response(_shown(self._book().revoke(which), self._controlled.wall))

    def _book(self) -> Tokens:
        if self._door.tokens is None:
            raise NotFound("this prober keeps no tokens")
        return self._door.tokens

    # -------------------------------------------------------------- following
    async def _events(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        if len(self._readers) >= MAX_STREAMS:
            return _error(503, "failed", f"{MAX_STREAMS} streams are open already; try later")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        reader = _Reader(request.transport)
        self._readers.add(reader)
        remove = self._subscribe(reader.offer)  # before the snapshot, so that nothing is missed
        try:
            await response.prepare(request)
            async with contextlib.aclosing(self._stream(reader.queue, actor, request)) as chunks:
                async for chunk in chunks:
                    await response.write(chunk)
        except ConnectionError:
            pass  # it left, or was cut off
        except Exception:
            _log.exception("a stream of events broke off")  # too late for a status
        finally:
            remove()
            self._readers.discard(reader)
            reader.left.set()
        return response

    async def _stream(
        self, queue: "asyncio.Queue[Event | None]", actor: Actor, request: web.Request
    ) -> AsyncGenerator[bytes]:
        loop = asyncio.get_running_loop()
        yield b"retry: 2000\n\n" + _sse("snapshot", {"groups": self._all(actor)})
        looked_at = loop.time()
        while True:
            if loop.time() - looked_at >= PING_S:
                if self._door.who(request) is None:
                    return  # its token was revoked, or its session is over
                looked_at = loop.time()
            try:
                async with asyncio.timeout(PING_S):
                    event = await queue.get()
            except TimeoutError:
                yield b": ping\n\n"
                continue
            if event is None:
                return
            if event.group and not actor.may_see(event.group):
                continue
            fields = {k: v for k, v in event.fields.items() if _is_plain(v)}
            yield _sse(event.name, {"group": event.group, **fields})
            if event.group in self._controlled.names:
                yield _sse("group", as_json(self._controlled.view(event.group)))

    async def _close_streams(self, app: web.Application) -> None:
        readers = tuple(self._readers)
        for reader in readers:
            reader.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARTING_S):
                for reader in readers:
                    await reader.left.wait()
        for reader in readers:
            if not reader.left.is_set():
                reader.cut()


def duration(text: str) -> float:
    """Return seconds for `90s`, `2h` and the like.

    Raises:
        Invalid: Not a number with one of the units ms, s, m, h, d, or longer than a year.

    >>> duration("2h")
    7200.0
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Invalid(f"found {text!r}; use a number with a unit, as 90s, 30m or 2h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST_DAYS * _UNITS["d"]:
        raise Invalid(f"found {text}; use at most {LONGEST_DAYS}d")
    return seconds


def _parse(raw: bytes) -> Body:
    try:
        return Body.model_validate_json(raw or b"{}")
    except ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: ValidationError) -> Invalid:
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)
    ]
    return Invalid("; ".join(faults))


def _shown(token: Token, wall: float) -> dict[str, object]:
    """Return a token as lists show it: never its secret, nor its hash."""
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "groups": list(token.groups),
        "created": iso(token.created_wall),
        "created_by": token.created_by,
        "expires": None if token.expires_wall is None else iso(token.expires_wall),
        "state": "good" if token.is_good(wall) else "revoked" if token.is_revoked else "expired",
    }


def _ask(verb: str, body: Body, actor: Actor) -> Ask:
    if verb != "hold" and (body.hold_for or body.hands_off):
        raise Invalid(f"{verb} takes no `for` and no `hands_off`; only hold does")
    if verb == "failover" and body.to == "":  # a script's variable that is not set
        raise Invalid("found an empty `to`; name the node, or leave `to` out for the candidate")
    blank = sorted(gate for gate, text in body.attest.items() if not text.strip())
    if blank:
        raise Invalid(f"found no words for {', '.join(blank)}; say what you vouch for")
    return Ask(
        verb=verb,
        actor=actor.name,
        reason=body.reason,
        to=body.to or None,  # one form serves all verbs: what is empty in it was not given
        hold_s=duration(body.hold_for) if body.hold_for else None,
        hands_off=body.hands_off,
        override=frozenset(body.override),
        attest=body.attest,
        generation=body.generation,
    )


def _span(query: Mapping[str, str], now: float) -> Span:
    since, before, everything = query.get("since"), query.get("before"), query.get("all", "0")
    if before is not None and not re.fullmatch("[1-9][0-9]{0,17}", before):
        raise Invalid(f"found before {before[:20]!r}; use the one of the page that you have")
    if everything not in ("0", "1"):
        raise Invalid(f"found all {everything[:20]!r}; use 0 or 1")
    return Span(
        since=None if since is None else history.since_of(since, now),
        before=None if before is None else int(before),
        everything=everything == "1",
    )


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _sse(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


# ------------------------------------------------------------------ errors and headers
def _error(status: int, word: str, detail: str, **more: object) -> web.Response:
    return web.json_response({"error": word, "detail": detail, **more}, status=status)


@web.middleware
async def _plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every error into the shape of DESIGN section 7."""
    try:
        return await handler(request)
    except LbProbeError as error:
        return _told(error)
    except web.HTTPException as error:
        return _not_served(request, error)
    except Exception:
        _log.exception("%s %s broke a promise", request.method, request.path)
        return _error(500, "failed", "a mistake of lb-probe itself; its log tells where")


def _told(error: LbProbeError) -> web.Response:
    match error:
        case Refused():
            gates = [gate_json(gate) for gate in error.gates]
            return _error(409, "refused", str(error), gates=gates, paste=error.paste)
        case Conflict():
            return _error(409, "conflict", str(error), generation=error.generation)
        case NotFound():
            return _error(404, "not-found", str(error))
        case Invalid():
            return _error(422, "invalid", str(error))
        case _:
            return _error(503, "failed", str(error))


def _not_served(request: web.Request, error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPNotFound):
        return _error(404, "not-found", f"no {request.path}; the API starts at /api/v1/groups")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        answer = _error(405, "invalid", f"found {request.method}; use {allowed}")
        answer.headers["Allow"] = allowed
        return answer
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return _error(413, "invalid", f"found a body over {MAX_BODY} bytes; send less")
    return _error(error.status, "invalid", error.reason)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.secure:
        response.headers["Strict-Transport-Security"] = HSTS
    response.headers.pop("Server", None)
