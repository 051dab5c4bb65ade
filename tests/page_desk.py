"""A desk with the operator's page, and a real Chromium before it."""

import contextlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from api_desk import TOKENS, Desk, until
from simulated_world import ModelBalancer, ModelPublisher, Trap, pair

from lb_probe.admin.page import Site
from lb_probe.controller import Setup
from lb_probe.core.model import Failed, Mode, Observation, Page, Passed, Phase

PATIENCE_MS = 30_000
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="needs chromium and playwright: make servers",
)


class PageDesk(Desk):
    """A desk whose listeners serve the page too.

    Args:
        more: Further groups, `g-000` and on, each with a load balancer of its own.
    """

    def __init__(self, folder, more=0, pools=()):
        self.more = [f"g-{number:03}" for number in range(more)]
        self.balancers = [ModelBalancer("edge", {"a"}) for _ in self.more]
        setups = [
            Setup(
                pair(name=name, confirm_s=0.0, max_age_s=120.0),
                (ModelPublisher(balancer, Trap()),),
            )
            for name, balancer in zip(self.more, self.balancers, strict=True)
        ]
        super().__init__(folder, pools, setups)
        self.page = Site(self.groups, self.api._door, self.events.add, self.clock)

    async def _runner(self):
        plain = self.api.application
        self.api.application = lambda: self.page.join(plain())
        try:
            return await super()._runner()
        finally:
            self.api.application = plain

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def observe_in(self, group, node, page, outcome, took_s=0.004):
        now = self.clock.monotonic()
        self.controller.observe(group, Observation(node, page, now - took_s, now, outcome))

    def everything_is_well(self):
        self.all_is_well()
        for name in self.more:
            for _ in range(2):
                self.probe_once(name)

    def probe_once(self, name):
        """One round of probes of a group that is well."""
        self.observe_in(name, "a", Page.STATUS, Passed())
        self.observe_in(name, "a", Page.HASTATUS, Passed(Mode.PRIMARY))
        self.observe_in(name, "b", Page.HASTATUS, Passed(Mode.STANDBY))
        self.observe_in(name, "b", Page.STATUS, Failed(Phase.STATUS, "503 Service Unavailable"))

    async def fail_over_only_decided(self):
        """Let the rule move traffic to `b`, whatever the load balancer makes of it."""

        def is_decided():
            self.primary_fails()
            return self.view.saved.assigned == "b"

        await until(is_decided, "b is assigned")

    async def fail_over(self):
        """Let the rule move traffic to `b`, at whatever generation."""
        self.all_is_well()

        def is_moved():
            self.primary_fails()
            saved = self.view.saved
            return self.balancer.chosen == {"b"} and saved.confirmed == {"edge": saved.generation}

        await until(is_moved, "traffic is on b")

    async def settle_on_b(self):
        """Fail over, and let `b` serve."""
        await self.fail_over()
        for _ in range(2):
            self.observe("b", Page.HASTATUS, Passed(Mode.PRIMARY))
            self.observe("b", Page.STATUS, Passed())

    def primary_returns(self):
        for _ in range(3):
            self.observe("a", Page.STATUS, Passed())
            self.observe("b", Page.STATUS, Passed())
            self.observe("a", Page.HASTATUS, Passed(Mode.STANDBY))
            self.observe("b", Page.HASTATUS, Passed(Mode.PRIMARY))


@contextlib.asynccontextmanager
async def chromium(**more):
    """A browser; what its pages complain of fails the test at the end."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        context = await browser.new_context(viewport={"width": 1280, "height": 900}, **more)
        context.set_default_timeout(PATIENCE_MS)
        try:
            yield context
        finally:
            await context.close()
            await browser.close()


def note(page, said):
    if said.type in ("error", "warning"):
        page.complaints.append(f"{said.type}: {said.text}")


async def log_in(context, desk, who="ops"):
    """Log in as a person does; return the page."""
    page = await context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: note(page, said))
    await page.goto(desk.url)
    await page.get_by_label("Token").fill(TOKENS[who])
    await page.get_by_role("button", name="Log in").click()
    await page.locator("#bar.off").wait_for(state="attached")
    # The first visit was answered 401: that is what it should say.
    page.complaints[:] = [text for text in page.complaints if "401" not in text]
    return page


def axe_source():
    """Return the script of axe-core; empty where its package is not installed."""
    found = find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        return ""
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text()
