"""The prober's own health and metrics, on a listener of their own: /metrics /livez /readyz.

`/livez` says the loop runs and the schedule makes progress; it asks no load balancer and no node,
so that an outage elsewhere never gets the prober restarted. `/readyz` is 200 once every page has
been probed.

Source: DESIGN section 8; kubernetes.io "Liveness, Readiness and Startup Probes".
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

Render = Callable[[], Awaitable[Callable[[], bytes]]]


class Health:
    """The HTTP application of one prober's own health.

    Args:
        take: Takes a snapshot on the loop and returns what renders it in a thread.
        trouble: What keeps the process from being alive; empty when it is.
        unready: What keeps it from being ready; empty when it is.
    """

    def __init__(
        self,
        take: Render,
        content_type: str,
        *,
        trouble: Callable[[], str],
        unready: Callable[[], str],
    ) -> None:
        self._take = take
        self._content_type = content_type
        self._trouble = trouble
        self._unready = unready
        self._rendering = asyncio.Lock()

    def application(self) -> web.Application:
        """Return the aiohttp application; a fresh one for each runner."""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.on_response_prepare.append(_headers)
        return app

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        async with self._rendering:  # one at a time: rendering is the dearest thing we do
            text = await asyncio.to_thread(await self._take())
        return web.Response(body=text, headers={"Content-Type": self._content_type})

    async def _livez(self, request: web.Request) -> web.StreamResponse:
        return _say(self._trouble())

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        return _say(self._trouble() or self._unready())


def _say(trouble: str) -> web.Response:
    return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers.pop("Server", None)
