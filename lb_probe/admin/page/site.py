"""The routes of the page, its headers, and the stream that keeps it live.

Everything that shows a group is behind the door; a stranger gets the form to log in. Only the
files that every browser needs for that form are for everybody.

Source: DESIGN section 7; OWASP ASVS 5.0, 3.4 and 3.5; CSP Level 3; HTML Standard, 9.2.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lb_probe.admin.auth import COOKIE, Actor
from lb_probe.admin.door import Door
from lb_probe.admin.page.board import BEAT_S, Board
from lb_probe.admin.page.card import utc_of
from lb_probe.admin.page.traces import SAMPLES, Traces
from lb_probe.controller import Ask
from lb_probe.core.acts import VERBS
from lb_probe.core.model import Event, Page
from lb_probe.core.pool_view import PoolView
from lb_probe.core.rank import Rank
from lb_probe.core.view import iso
from lb_probe.groups import AnyView, Groups, names_of
from lb_probe.ports import Clock, Invalid, NotFound

MAX_STREAMS = 300
MAX_BOARDS = 64  # scopes that somebody looks at; the one unused for longest makes room
LOOK_AGAIN_S = 10.0  # a token that was revoked ends its streams by then
WRITE_S = 10.0  # a browser that takes nothing for so long is cut off
PLAN_HOLD_S = 7200.0
LARGEST = 1 << 24  # bytes of a page that are packed at once, and not in another thread
_TOO_OFTEN = "Too many failures from this address; wait a minute."
_HERE = Path(__file__).parent
_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types lb-probe",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_log = logging.getLogger(__name__)

Subscribe = Callable[[Callable[[Event], None]], Callable[[], None]]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """The page of one prober; joins the applications of its API.

    Args:
        door: Who may come in.
        subscribe: Adds a taker of events; returns what removes it.
    """

    def __init__(self, controller: Groups, door: Door, subscribe: Subscribe, clock: Clock) -> None:
        self._controller = controller
        self._door = door
        self._clock = clock
        self._traces = Traces(clock)
        self._boards: dict[tuple[tuple[str, ...], bool], Board] = {}
        self._files, self._digest = _files(_HERE / "static")
        self._static = f"/static/{self._digest}"
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.filters["utc"] = utc_of
        self._streams: set[asyncio.Event] = set()
        subscribe(self._take)

    def _take(self, event: Event) -> None:
        self._traces.take(event)
        if event.name != "probe.done":
            for board in self._boards.values():
                board.take(event)

    def join(self, app: web.Application) -> web.Application:
        """Add the page to an application of the API; return it."""
        shown = [
            ("/", self._index),
            ("/groups/{group}", self._one),
            ("/groups/{group}/latency", self._latency),
        ]
        for path, handler in shown:
            guarded = self._door.guarded(Rank.VIEWER, handler)
            app.router.add_get(path, self._or_login(guarded))
        for path, handler in [("/live", self._live), ("/groups/{group}/live", self._live)]:
            app.router.add_get(path, self._door.guarded(Rank.VIEWER, handler), allow_head=False)
        plan = self._door.guarded(Rank.OPERATOR, self._plan)
        app.router.add_get("/groups/{group}/plan/{verb}", plan)
        app.router.add_post("/logout", self._door.guarded(Rank.VIEWER, self._logout))
        # For strangers: the form, and what it looks like.
        app.router.add_get("/login", self._form)
        app.router.add_post("/login", self._login)
        app.router.add_get("/static/{digest}/{name}", self._file)
        app.on_response_prepare.append(self._headers)
        app.on_shutdown.append(self._end_streams)
        return app

    # -------------------------------------------------------------- coming in
    def _or_login(self, guarded: Answer) -> Answer:
        """Return a handler that shows a stranger the form in place of an error."""

        async def answer(request: web.Request) -> web.StreamResponse:
            found = await guarded(request)
            if found.status == 429:
                return self._login_page(found, _TOO_OFTEN)
            if found.status != 401:
                return found
            if COOKIE not in request.cookies:
                return self._login_page(found, "")
            page = self._login_page(found, "That session is over; log in again.")
            # A cookie that is worth nothing would count as a failure at every try.
            page.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Strict")
            return page

        return answer

    async def _form(self, request: web.Request) -> web.StreamResponse:
        return self._login_page(web.Response(), "")

    def _login_page(self, like: web.StreamResponse, fault: str) -> web.Response:
        """Return the form, as the page of an answer with this status."""
        text = self._templates.get_template("login.html").render(static=self._static, fault=fault)
        page = web.Response(text=text, content_type="text/html", status=like.status)
        if "Retry-After" in like.headers:
            page.headers["Retry-After"] = like.headers["Retry-After"]
        return page

    async def _login(self, request: web.Request) -> web.StreamResponse:
        try:
            answer = await self._door.login(request)
        except Invalid:
            return self._login_page(web.Response(status=422), "Found no token; type one.")
        if answer.status != 200:
            faults = {401: "No such token, or it is no longer good.", 429: _TOO_OFTEN}
            refused = "Refused: log in from this page only."
            return self._login_page(answer, faults.get(answer.status, refused))
        home = web.Response(status=303, headers={"Location": "/"})
        home.cookies.update(answer.cookies)
        return home

    async def _logout(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        answer = await self._door.logout(request, actor)
        home = web.Response(status=303, headers={"Location": "/login"})
        home.cookies.update(answer.cookies)
        return home

    # -------------------------------------------------------------- showing
    async def _index(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        names = [name for name in self._controller.names if actor.may_see(name)]
        return await self._page(request, actor, self._board(names, alone=False), "")

    async def _one(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        name = self._view(request).name
        return await self._page(request, actor, self._board([name], alone=True), name)

    async def _page(
        self, request: web.Request, actor: Actor, board: Board, alone: str
    ) -> web.Response:
        await board.refresh()
        text = self._templates.get_template("page.html").render(
            static=self._static,
            title=f"{alone} - {board.headline.title}" if alone else board.headline.title,
            icon=board.headline.level.css,
            alone=alone,
            live=f"/groups/{alone}/live" if alone else "/live",
            place=board.place,
            at=iso(self._clock.wall()),
            who=actor.name,
            role=actor.rank.name.lower(),
            may_act=actor.rank >= Rank.OPERATOR,
            has_session=COOKIE in request.cookies,
            main=board.main(),
        )
        # Two milliseconds here, a third of a second less on a thin line. Nothing secret is in it
        # beside what others wrote, so that its length gives nothing away.
        page = web.Response(text=text, content_type="text/html", zlib_executor_size=LARGEST)
        page.enable_compression()
        return page

    def _view(self, request: web.Request) -> AnyView:
        return self._controller.view(request.match_info["group"])

    def _board(self, names: list[str], *, alone: bool) -> Board:
        key = tuple(names), alone
        board = self._boards.pop(key, None)
        if board is None or not board.is_current:
            board = Board(
                self._controller, self._traces, self._clock, self._templates, names, alone=alone
            )
        self._boards[key] = board  # the one used last stands last
        unread = [
            kept for kept, one in self._boards.items() if not one.readers and one is not board
        ]
        for kept in unread[: max(0, len(self._boards) - MAX_BOARDS)]:
            del self._boards[kept]
        return board

    async def _latency(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        """Answer the latest probes of a group's pages; times count back from now, in seconds."""
        view, now = self._view(request), self._clock.monotonic()
        series = [
            {
                "node": node,
                "page": page.value,
                "probes": [
                    [round(s.at - now, 2), round(s.took_s * 1000, 2), s.passed]
                    for s in self._traces.samples(view.name, node, page, SAMPLES)
                ],
            }
            for node in names_of(view)
            for page in ((Page.STATUS,) if isinstance(view, PoolView) else Page)
        ]
        return web.json_response({"series": series})

    async def _plan(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        """Answer the form of an act, with its plan; changes nothing."""
        name, verb = request.match_info["group"], request.match_info["verb"]
        if verb not in VERBS:
            raise NotFound(f"no verb {verb}; use one of {', '.join(VERBS)}")
        to = request.query.get("to") or None
        hold_s = PLAN_HOLD_S if verb == "hold" else None
        view = self._controller.view(name)
        is_new = verb == "failover" and to is None and view.saved.assigned is None
        if is_new and not isinstance(view, PoolView):
            to = view.group.primary  # nobody has the traffic yet: the ordinary place first
        ask = Ask(verb=verb, actor=actor.name, reason="looking", to=to, hold_s=hold_s)
        plan = self._controller.plan(name, ask)
        names = [node for node in names_of(view) if node != view.saved.assigned]
        moves = plan.source != plan.target or verb == "republish"
        text = self._templates.get_template("plan.html").render(
            plan=plan,
            group=name,
            generation=view.saved.generation,
            choices=names if verb == "failover" and len(names) > 1 else [],
            commands=self._controller.commands(name, plan.target) if moves else [],
        )
        return web.Response(text=text, content_type="text/html")

    # -------------------------------------------------------------- keeping it live
    async def _live(self, request: web.Request, actor: Actor) -> web.StreamResponse:
        if len(self._streams) >= MAX_STREAMS:
            detail = f"{MAX_STREAMS} pages are open already; close one"
            return web.json_response({"error": "failed", "detail": detail}, status=503)
        if "group" in request.match_info:
            board = self._board([self._view(request).name], alone=True)
        else:
            names = [name for name in self._controller.names if actor.may_see(name)]
            board = self._board(names, alone=False)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        closing = asyncio.Event()
        self._streams.add(closing)
        board.readers += 1
        try:
            await response.prepare(request)
            await self._write(request, response, b"retry: 1000\n\n")
            await self._follow(request, response, board, closing)
        except ConnectionError:
            pass  # it left, or was cut off
        except Exception:
            _log.exception("a page's stream broke off")  # too late for a status
        finally:
            self._streams.discard(closing)
            board.readers -= 1
        return response

    async def _follow(
        self,
        request: web.Request,
        response: web.StreamResponse,
        board: Board,
        closing: asyncio.Event,
    ) -> None:
        place = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        beat_at = -1e9
        looked_at = self._clock.monotonic()
        # After a reload the browser comes again, and is given all anew.
        while not closing.is_set() and board.is_current:
            await board.refresh()
            news = board.after(place)
            now = self._clock.monotonic()
            if now - beat_at >= BEAT_S:
                beat_at = now
                news = [*news, board.beat()]
            place = board.place
            if news:
                await self._write(request, response, b"".join(news))
            if now - looked_at >= LOOK_AGAIN_S:
                if self._door.who(request) is None:
                    return  # its token was revoked, or its session is over
                looked_at = now
            await board.wait(max(0.01, beat_at + BEAT_S - self._clock.monotonic()))

    async def _write(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_S):
                await response.write(data)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionAbortedError("it stopped reading") from None

    async def _end_streams(self, app: web.Application) -> None:
        for closing in self._streams:
            closing.set()
        for board in self._boards.values():
            board.ring()

    # -------------------------------------------------------------- files and headers
    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        found = self._files.get(name)
        if found is None or request.match_info["digest"] != self._digest:
            raise web.HTTPNotFound
        return web.Response(body=found, content_type=_TYPES[Path(name).suffix], charset="utf-8")

    async def _headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)
        if request.path.startswith("/static/") and response.status == 200:
            # Its address changes with its content.
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"


def _files(folder: Path) -> tuple[dict[str, bytes], str]:
    """Return the files to serve, by name, and one digest over all of them."""
    found = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    whole = hashlib.sha256()
    for name, data in found.items():
        whole.update(name.encode() + b"\0" + data)
    return found, whole.hexdigest()[:16]
