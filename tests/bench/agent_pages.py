"""Pages a second of the agent's listener against a bare aiohttp handler on the same loop.

Keep-alive connections from a client in its own process, in turn, best of three each.

    python tests/bench/agent_pages.py [SECONDS]
"""

import asyncio
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from aiohttp import web

from lb_probe.agent.checks import Checks
from lb_probe.agent.pages import Pages
from lb_probe.agent.state import StateFile
from lb_probe.clock import SystemClock
from lb_probe.core.model import Role

PATH = "/status/status.html"
BODY = "MOBILEIRON-STATUS: OK"
CONNECTIONS = 16


class Asker(asyncio.Protocol):
    """Sends the next request when the answer is whole."""

    request = f"GET {PATH} HTTP/1.1\r\nHost: t\r\n\r\n".encode()

    def __init__(self):
        self.answers = 0
        self.got = b""

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.got += data
        if self.got.endswith(BODY.encode()):
            self.got = b""
            self.answers += 1
            self.transport.write(self.request)


def ask(port, seconds, answers):
    async def main():
        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(Asker, "127.0.0.1", port) for _ in range(CONNECTIONS)]
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        answers.put(sum(a.answers for _, a in made) / (time.perf_counter() - began))
        for transport, _ in made:
            transport.abort()

    uvloop.run(main())


async def measure(port, seconds):
    """Return answers a second and CPU microseconds for each on our side."""
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    client = spawn.Process(target=ask, args=(port, seconds, answers))
    client.start()
    before = time.process_time()
    while client.is_alive():  # noqa: ASYNC110 a process, not an event
        await asyncio.sleep(0.05)
    rate = answers.get()
    return rate, (time.process_time() - before) / (rate * seconds) * 1e6


async def ours(seconds):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.json"
        with StateFile(file, node="a", role=Role.PRIMARY, now_wall=0.0) as state:
            clock = SystemClock()
            pages = Pages(state, Checks([], clock), clock)
            _, port = await pages.start("127.0.0.1", 0)
            async with asyncio.TaskGroup() as tasks:
                preparing = tasks.create_task(pages.run())
                result = await measure(port, seconds)
                preparing.cancel()
            await pages.stop()
            return result


async def bare(seconds):
    async def answer(request):
        headers = {"Cache-Control": "no-store"}
        return web.Response(text=BODY, content_type="text/html", headers=headers)

    app = web.Application()
    app.router.add_get(PATH, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    result = await measure(runner.addresses[0][1], seconds)
    await runner.cleanup()
    return result


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    for name, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
        rounds = [(run(ours(seconds)), run(bare(seconds))) for _ in range(3)]
        mine, theirs = max(r[0] for r in rounds), max(r[1] for r in rounds)
        print(
            f"{name}: agent {mine[0]:.0f} pages/s ({mine[1]:.0f} us CPU each), bare aiohttp"
            f" {theirs[0]:.0f} ({theirs[1]:.0f} us); ratio {mine[0] / theirs[0]:.2f}"
        )


if __name__ == "__main__":
    main()
