"""Sockets: each unit listens on its own port, over TLS as a device does, or in the clear."""

import asyncio
import contextlib
import json
import logging
import ssl
import weakref
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from emulator.errors import Refusal
from emulator.faults import Fault, Faults
from emulator.logins import AUTHORIZATION_REQUIRED
from emulator.unit import Unit
from emulator.wire import Condition, Request, Seen

LOGIN_PAGE = "/tmui/login.jsp"
PAGE = "<html><head><title>BIG-IP</title></head><body>Please log in.</body></html>"
TASK_ACCEPTED = 202


class Listener:
    """The web server of one unit."""

    def __init__(self, unit: Unit, common: Faults) -> None:
        self._unit = unit
        self._common = common
        self.mistakes: list[Exception] = []
        self._gone = asyncio.Event()
        self._transports: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()

    @contextlib.asynccontextmanager
    async def listening(self, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        """Serve until the block is left, and give the port."""
        app_log = logging.getLogger("emulator.access")
        runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, logger=app_log),
            shutdown_timeout=0.1,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
            await site.start()
            assert site._server is not None
            yield site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        finally:
            self._gone.set()
            await runner.cleanup()
            # A farewell of TLS would wait for clients that are gone without one.
            self.drop()
            await asyncio.sleep(0)

    def drop(self) -> None:
        """Close every connection that was used and waits for more, as a restart of httpd does."""
        for transport in list(self._transports):
            transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            self._transports.add(request.transport)
        body = await request.read()
        raw_path, _, query = request.raw_path.partition("?")
        asked = Request(request.method, raw_path, query, request.headers, body)
        self._unit.settle()
        if self._unit.condition is Condition.OFF:
            return self._cut(request)
        if self._unit.condition is Condition.HUNG:
            await self._gone.wait()
            return self._cut(request)
        fault = self._unit.faults.take(asked.method, raw_path)
        fault = fault or self._common.take(asked.method, raw_path)
        if not await self._waited(self._unit.call_s + (fault.delay_s if fault else 0)):
            return self._cut(request)
        status, content = self._answer(asked, fault)
        self._unit.log.append(
            Seen(asked.method, raw_path, status, _seen(body), fault.name if fault else "")
        )
        is_save = asked.method == "POST" and raw_path.rstrip("/").endswith("/sys/config")
        reply_s = (fault.reply_s if fault else 0) + (self._unit.save_s if is_save else 0)
        if not await self._waited(reply_s):
            return self._cut(request)
        if fault is not None and fault.cut:
            return self._cut(request)
        return await self._reply(request, status, content, fault.spoil if fault else "")

    async def _waited(self, seconds: float) -> bool:
        """Wait, and tell whether the emulator is still there."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)
        return not self._gone.is_set()

    def _cut(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    def _answer(self, asked: Request, fault: Fault | None) -> tuple[int, Any]:
        if fault is not None and fault.revokes:
            self._unit.logins.tokens.clear()
        elif fault is not None and not fault.is_applied:
            return _of(fault.answer)
        try:
            content: Any = self._unit.answer(asked)
            status = 200
        except Refusal as refusal:
            status, content = _of(refusal)
        except Exception as mistake:
            # The emulator's own: told when it is left, so that it never passes for the device's.
            self.mistakes.append(mistake)
            status, content = 500, "a mistake of the emulator"
        if isinstance(content, dict) and content.get("code") == TASK_ACCEPTED:
            status = TASK_ACCEPTED
        if fault is not None and fault.answer is not None:
            return _of(fault.answer)
        return status, content

    async def _reply(
        self, request: web.BaseRequest, status: int, content: Any, spoil: str
    ) -> web.StreamResponse:
        is_page = isinstance(content, str)
        text = content if is_page else json.dumps(content, separators=(",", ":")) if content else ""
        kind = "text/html" if is_page else "application/json"
        match spoil:
            case "login-page":
                return web.Response(status=302, headers={"Location": LOGIN_PAGE})
            case "html":
                text, kind, status = PAGE, "text/html", 200
            case "garbage":
                text = "{not json"
            case "list":
                text = "[]"
            case "empty":
                text = ""
            case "truncated":
                return await self._half(request, status, text)
            case _:
                pass
        reason = AUTHORIZATION_REQUIRED if status == 401 else None
        headers = {"Server": "Jetty(9.2.22.v20170606)", "Cache-Control": "no-store"}
        return web.Response(
            status=status,
            reason=reason,
            text=text,
            content_type=kind,
            charset="UTF-8",
            headers=headers,
        )

    async def _half(self, request: web.BaseRequest, status: int, text: str) -> web.StreamResponse:
        data = text.encode()
        head = {"Content-Type": "application/json; charset=UTF-8", "Content-Length": str(len(data))}
        response = web.StreamResponse(status=status, headers=head)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        if request.transport is not None:
            request.transport.close()
        return response


def _of(refusal: Refusal | None) -> tuple[int, Any]:
    return (refusal.status, refusal.body) if refusal is not None else (200, "")


def _seen(body: bytes) -> Any:
    """Return a body for the log: read, and without a password."""
    try:
        read = json.loads(body) if body else None
    except ValueError:
        return body
    if isinstance(read, dict):
        read.pop("password", None)
    return read
