"""The operator's page with 500 groups: first paint, a failover until it is seen, 200 open pages.

First paint and failover are seen by a real Chromium; between the pages with 500 groups it opens
pages with 13, a screenful, which tell what browser and machine cost anyway. The open pages are 200
readers of the stream in a process of their own; CPU is that of the prober's side, with probes and a
change every second, less the same without readers. Exits 1 where a limit is passed.

    python tests/bench/page.py [SECONDS]
"""

import asyncio
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import uvloop
from api_desk import TOKENS
from page_desk import CHROMIUM, PageDesk, chromium

GROUPS, FEW = 500, 13
PAGES = 200
ROUNDS = 9
PAINT_MS, SEEN_MS, CPU_SHARE = 300.0, 200.0, 0.20
HEADERS = {"Authorization": f"Bearer {TOKENS['ops']}"}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
WATCH = """() => { window.seen = 0; const look = () => {
  if (!window.seen && document.querySelector('p.traffic')?.textContent.includes('on b'))
    requestAnimationFrame(() => { window.seen = Date.now(); }); };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true,
    characterData: true}); }"""


async def first_paints(desks, context):
    """Milliseconds from asking to the first contentful paint, each in a page of its own."""
    found = [[] for _ in desks]
    for number in range(ROUNDS + 1):
        for desk, kept in zip(desks, found, strict=True):
            page = await context.new_page()
            await page.goto(desk.url)
            await page.wait_for_function(f"() => {PAINT}")
            if number:  # the first one starts the browser
                kept.append(await page.evaluate(PAINT))
            await page.close()
    return found


async def seen_after(desk, context):
    """Milliseconds from the decision until a browser has drawn it."""
    found = []
    decided = []
    remove = desk.events.add(
        lambda event: decided.append(time.time()) if event.name == "group.failover" else None
    )
    for _ in range(ROUNDS):
        page = await context.new_page()
        await page.goto(desk.url)
        await page.locator("#bar.off").wait_for(state="attached")
        await page.evaluate(WATCH)
        await desk.fail_over()
        await page.wait_for_function("() => window.seen")
        found.append(await page.evaluate("window.seen") - decided[-1] * 1000)
        await page.close()
        desk.all_is_well()
        gates = {"attest": {"synced": "bench"}, "override": ["single-primary", "primary-serving"]}
        gone = await desk.act("resume", {"reason": "bench", **gates})
        assert gone.status == 200, gone.raw
        desk.all_is_well()
    remove()
    return found


def read_streams(port, count, ready, stop):
    """Open so many streams and read them until told to stop."""

    async def read():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        line = f"GET /live HTTP/1.1\r\nHost: x\r\nAuthorization: {HEADERS['Authorization']}\r\n\r\n"
        writer.write(line.encode())
        await reader.readuntil(b"event: beat")
        ready.release()
        while await reader.read(1 << 16):
            pass
        writer.close()

    async def main():
        tasks = [asyncio.ensure_future(read()) for _ in range(count)]
        while not stop.is_set():  # noqa: ASYNC110 of another process
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    uvloop.run(main())


async def cpu_share(desk, seconds):
    """CPU seconds a second of this process, while groups are probed and something changes."""
    before, begin = time.process_time(), time.monotonic()
    number = 0
    while time.monotonic() - begin < seconds:
        for name in desk.more[number % 10 :: 10]:
            desk.probe_once(name)
        if number % 10 == 0:
            verb, more = ("hold", {"for": "1h"}) if number % 20 else ("release", {})
            if verb == "hold" or desk.view.saved.hold:
                await desk.act(verb, {"reason": "bench", **more})
        number += 1
        await asyncio.sleep(0.1)
    return (time.process_time() - before) / (time.monotonic() - begin)


async def with_readers(desk, seconds):
    """CPU of the open pages alone."""
    alone = await cpu_share(desk, seconds)
    spawn = multiprocessing.get_context("spawn")
    ready, stop = spawn.Semaphore(0), spawn.Event()
    child = spawn.Process(target=read_streams, args=(desk.port, PAGES, ready, stop))
    child.start()
    for _ in range(PAGES):
        assert await asyncio.to_thread(ready.acquire, True, 30), "a stream did not open"
    await asyncio.sleep(1)
    watched = await cpu_share(desk, seconds)
    assert len(desk.page._streams) == PAGES, "streams broke off"
    stop.set()
    await asyncio.to_thread(child.join, 30)
    return alone, watched


async def main(seconds):
    folder = Path(tempfile.mkdtemp(prefix="pagebench"))
    for name in ("all", "few"):
        (folder / name).mkdir()
    good = True
    try:
        async with (
            PageDesk(folder / "all", GROUPS - 1).open() as desk,
            PageDesk(folder / "few", FEW - 1).open() as few,
        ):
            desk.everything_is_well()
            few.everything_is_well()
            await asyncio.sleep(1)
            if CHROMIUM:
                async with chromium(extra_http_headers=HEADERS) as context:
                    paints, floor = await first_paints((desk, few), context)
                    seen = await seen_after(desk, context)
                for what, found, limit in (
                    ("first paint", paints, PAINT_MS),
                    ("failover seen", seen, SEEN_MS),
                ):
                    middle = statistics.median(found)
                    good &= middle < limit
                    every = ", ".join(f"{one:.0f}" for one in found)
                    print(f"{what}: median {middle:.0f} ms of {every} (limit {limit:.0f} ms)")
                print(f"first paint with {FEW} groups: median {statistics.median(floor):.0f} ms")
            else:
                print("no chromium: first paint and failover are not measured")
            alone, watched = await with_readers(desk, seconds)
            good &= watched - alone < CPU_SHARE
            print(
                f"{PAGES} open pages: {watched - alone:.1%} of a core"
                f" ({alone:.1%} without, {watched:.1%} with; limit {CPU_SHARE:.0%})"
            )
    finally:
        shutil.rmtree(folder)
    return good


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    sys.exit(0 if uvloop.run(main(duration)) else 1)
