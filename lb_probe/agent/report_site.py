"""What an agent knows, for the prober and for Prometheus, on a listener beside the pages.

`GET /agent/v1/report` is the node's `PeerReport` as JSON; `/metrics` and `/livez` are as those of a
prober. The pages' own listener serves nothing but the two pages (DESIGN section 9): whoever may ask
a load balancer's question need not learn when this node was last synced.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from aiohttp import web

from lb_probe.agent.metrics import CONTENT_TYPE
from lb_probe.agent.pages import ListenError
from lb_probe.core.peer_report import PATH, SIGNATURE, signature


def application(
    report: Callable[[], object],
    metrics: Callable[[], bytes],
    secret: bytes = b"",
    hear: Callable[[Mapping[str, str]], object] | None = None,
) -> web.Application:
    """Return the aiohttp application; a fresh one for each runner.

    Args:
        secret: Signs each report with the question's nonce, so that it can be neither made up nor
            told again later; empty signs nothing.
        hear: Takes what a question says of this node's traffic, before it is answered.
    """

    async def report_page(request: web.Request) -> web.StreamResponse:
        if hear is not None and "holds" in request.query:
            hear(request.query)
        body = json.dumps(report()).encode()
        headers = {"Content-Type": "application/json"}
        if secret:
            headers[SIGNATURE] = signature(secret, request.query.get("nonce", ""), body)
        return web.Response(body=body, headers=headers)

    async def metrics_page(request: web.Request) -> web.StreamResponse:
        return web.Response(body=metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def livez(request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    app = web.Application(client_max_size=1024)
    app.router.add_get(PATH, report_page)
    app.router.add_get("/metrics", metrics_page)
    app.router.add_get("/livez", livez)
    app.on_response_prepare.append(_headers)
    return app


async def serve(app: web.Application, host: str, port: int, stack: AsyncExitStack) -> int:
    """Listen until the stack ends; return the port in use.

    Raises:
        ListenError: The address is in use, not ours, or not allowed.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, OverflowError) as error:
        raise ListenError(
            f"{host}:{port}: found {error}; wanted to serve the agent's report there;"
            " free the address or change `report.listen`"
        ) from error
    return int(runner.addresses[0][1])


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers.pop("Server", None)
