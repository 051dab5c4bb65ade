"""Makes the pictures of docs/page.md: a real controller, a real Chromium, invented nodes.

python tests/screenshots.py [FOLDER]      (docs/images when left out)
"""

import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from page_desk import PageDesk, chromium, log_in

from lb_probe.core.model import Failed, Mode, Page, Passed, Phase

IMAGES = Path(__file__).parents[1] / "docs" / "images"
GROUPS = 14


def probe_for_a_while(desk, name, rounds=60):
    """Latencies as a quiet network has them."""
    luck = random.Random(7)  # the same picture each time
    for _ in range(rounds):
        took = {node: 0.003 + 0.004 * luck.random() for node in "ab"}
        desk.observe_in(name, "a", Page.STATUS, Passed(), took["a"])
        desk.observe_in(name, "a", Page.HASTATUS, Passed(Mode.PRIMARY), took["a"])
        desk.observe_in(name, "b", Page.HASTATUS, Passed(Mode.STANDBY), took["b"])
        refused = Failed(Phase.STATUS, "503 Service Unavailable")
        desk.observe_in(name, "b", Page.STATUS, refused, took["b"])


async def returned(desk, seconds=6.0):
    """`a` is back and `b` serves, for so long."""
    luck = random.Random(11)
    for _ in range(int(seconds * 5)):
        for node, mode in (("a", Mode.STANDBY), ("b", Mode.PRIMARY)):
            took = 0.003 + 0.004 * luck.random()
            desk.observe_in("epmm", node, Page.STATUS, Passed(), took)
            desk.observe_in("epmm", node, Page.HASTATUS, Passed(mode), took)
        await asyncio.sleep(0.2)


async def take(page, folder, name):
    file = folder / f"page-{name}.png"
    await page.screenshot(path=file, animations="disabled")
    print(file)


async def story(folder, theme):
    """One night: all is well, a failover, the dialog of resume, a prober that is gone."""
    work = Path(tempfile.mkdtemp(prefix="pictures"))
    try:
        async with (
            PageDesk(work, GROUPS - 1).open() as desk,
            chromium(color_scheme=theme) as context,
        ):
            desk.everything_is_well()
            probe_for_a_while(desk, "epmm")
            page = await log_in(context, desk)
            desk.everything_is_well()  # fresh, however long the browser took
            await page.get_by_text("the newest probe is 0.").wait_for()
            await take(page, folder, f"well-{theme}")
            for _ in range(3):
                gone = Failed(Phase.TIMEOUT, "no answer in 1s")
                desk.observe_in("g-004", "b", Page.HASTATUS, gone, 1.0)
            await desk.settle_on_b()
            await returned(desk)
            await page.get_by_text("moved: primary-returned").wait_for()
            await page.reload()
            await page.locator("#bar.off").wait_for(state="attached")
            await take(page, folder, f"moved-{theme}")
            await page.set_viewport_size({"width": 390, "height": 844})
            await take(page, folder, f"phone-{theme}")
            await page.set_viewport_size({"width": 1280, "height": 900})
            await page.get_by_role("button", name="Resume epmm").click()
            await page.get_by_label("Your word for it").fill("Completed 10:42Z")
            await page.get_by_label("Reason").fill("epmm-a repaired and synced")
            await take(page, folder, f"resume-{theme}")
            await page.keyboard.press("Escape")
            await page.goto(f"{desk.url}/groups/epmm")
            await returned(desk)
            await page.locator("#chart canvas").wait_for()
            await page.locator(".chart").scroll_into_view_if_needed()
            await take(page, folder, f"group-{theme}")
            await page.goto(desk.url)
            await page.locator("#bar.off").wait_for(state="attached")
            await desk.close()
            await page.locator("#bar.on").wait_for()
            await take(page, folder, f"not-live-{theme}")
    finally:
        shutil.rmtree(work)


async def main(folder):
    folder.mkdir(exist_ok=True)
    for theme in ("light", "dark"):
        await story(folder, theme)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
