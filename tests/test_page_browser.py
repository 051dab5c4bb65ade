"""The operator's page in a real Chromium, over a real controller and real HTTP."""

import contextlib
import re

import pytest
from api_desk import TOKENS, until
from page_desk import PageDesk, axe_source, chromium, log_in, needs_chromium

from lb_probe.core.model import Failed, Page, Phase

pytestmark = [needs_chromium, pytest.mark.timeout(120)]
AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SCRIPT = "<img src=x onerror=alert(1)><script>alert(1)</script>"


@contextlib.asynccontextmanager
async def watched(folder, more=0, who="ops", **settings):
    """A desk, all well, and a page of somebody who looks at it."""
    async with PageDesk(folder, more).open() as desk:
        await until(lambda: desk.view.adapters[0].in_sync, "the load balancer was read")
        desk.everything_is_well()
        async with chromium(**settings) as context:
            yield desk, await log_in(context, desk, who)


async def fill_in(page, reason="Primary repaired", name="epmm"):
    await page.get_by_label("Reason").fill(reason)
    await page.get_by_label("Type the group's name").fill(name)


# ------------------------------------------------------------------ watching
async def test_a_failover_is_watched_live(folder):
    async with watched(folder) as (desk, page):
        await page.get_by_text("epmm is well.").wait_for()
        heading = page.get_by_role("heading", level=1)
        await page.evaluate("document.body.dataset.mark = 'the same page'")
        await desk.settle_on_b()
        await page.get_by_text("Traffic is on b, latched: awaiting manual resume.").wait_for()
        await page.get_by_role("article").get_by_text("moved: failed-over").wait_for()
        assert "epmm is off its Primary" in await heading.inner_text()
        assert await page.title() == "(1) lb-probe"
        icon = await page.locator("#icon").get_attribute("href")
        assert icon.endswith("/moved.svg")
        history = page.locator("#history")
        await history.get_by_text("failover", exact=True).wait_for()
        # What rose is the alarm: the first of the two words that was drawn.
        alarm = await page.locator("#alarm").inner_text()
        assert re.search("epmm: fail(ing|ed)-over, traffic on b", alarm)
        assert await page.evaluate("document.body.dataset.mark") == "the same page"
        assert page.complaints == []


async def test_texts_of_probes_are_renewed_without_any_change(folder):
    async with watched(folder) as (desk, page):
        cell = page.locator('[data-live="epmm/a/status"]')
        desk.observe_in("epmm", "a", Page.STATUS, Failed(Phase.TIMEOUT, SCRIPT), took_s=0.5)
        await cell.get_by_text("failed: timeout").wait_for()
        assert SCRIPT in await cell.inner_text()
        assert page.complaints == []


async def test_the_page_says_that_it_is_not_live_when_the_prober_dies_and_recovers(folder):
    async with watched(folder) as (desk, page):
        bar = page.locator("#bar")
        assert not await bar.is_visible()
        port = desk.port
        await desk.close()
        await bar.get_by_text("NOT LIVE").wait_for()
        await bar.get_by_text(re.compile(r"last data \d\d:\d\d ago")).wait_for()
        box = await bar.bounding_box()
        assert box["y"] == 0
        assert box["width"] >= 1200
        assert box["height"] >= 40
        assert (await page.title()).startswith("NOT LIVE - ")
        assert (await page.locator("#icon").get_attribute("href")).endswith("/lost.svg")
        await bar.get_by_text(re.compile(r"00:0[4-9] ago|00:[1-9]\d ago")).wait_for()
        runner = await desk._runner()
        from aiohttp import web

        await web.TCPSite(runner, "127.0.0.1", port).start()
        await bar.wait_for(state="hidden")
        assert not (await page.title()).startswith("NOT LIVE")
        await desk.act("hold", {"reason": "after the break", "for": "1h"})
        await page.get_by_role("article").get_by_text("after the break").first.wait_for()


async def test_a_prober_that_answers_and_does_not_probe_is_not_live(folder):
    async with watched(folder) as (desk, page):
        for board in desk.page._boards.values():
            board._limit_s = -1.0
        await page.get_by_text("the prober does not probe").wait_for()
        assert await page.locator("#bar").is_visible()


async def test_the_bar_comes_by_itself_where_the_module_does_not_run(folder):
    async with PageDesk(folder).open() as desk:
        desk.all_is_well()
        async with chromium(
            extra_http_headers={"Authorization": f"Bearer {TOKENS['ops']}"}
        ) as context:
            await context.route("**/page.js", lambda route: route.abort())
            page = await context.new_page()
            await page.goto(desk.url)
            assert not await page.get_by_text("NOT LIVE").is_visible()
            await page.get_by_text("NOT LIVE").wait_for()


async def test_all_can_be_read_without_javascript(folder):
    async with PageDesk(folder).open() as desk:
        await desk.fail_over()
        async with chromium(java_script_enabled=False) as context:
            page = await context.new_page()
            await page.goto(desk.url)
            await page.get_by_label("Token").fill(TOKENS["ops"])
            await page.get_by_role("button", name="Log in").click()
            await page.locator("p.traffic", has_text="on b, latched").wait_for()
            assert await page.get_by_text("lb-probe resume epmm").is_visible()
            assert await page.get_by_text("Without JavaScript this page is a copy").is_visible()
            assert await page.get_by_role("button", name="Resume").count() == 0
            await page.get_by_role("link", name="epmm").click()
            await page.get_by_role("heading", name="History").wait_for()
            await page.get_by_role("button", name="Log out").click()
            await page.get_by_label("Token").wait_for()


async def test_a_session_that_ended_is_told_and_the_next_page_asks_for_a_token(folder):
    async with watched(folder) as (desk, page):
        desk.api._door._sessions._open.clear()
        await desk.close()
        await desk_again(desk)
        await page.get_by_text("the session is over").wait_for()
        await page.reload()
        await page.get_by_label("Token").wait_for()


async def desk_again(desk):
    from aiohttp import web

    await web.TCPSite(await desk._runner(), "127.0.0.1", desk.port).start()


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
  document.dispatchEvent(new Event("visibilitychange")); }"""
HASTE = """const wait = window.setTimeout;
window.setTimeout = (work, ms, ...more) => wait(work, ms === 60000 ? 50 : ms, ...more);"""


async def test_a_tab_that_nobody_sees_gives_its_connection_back_until_somebody_looks(folder):
    async with PageDesk(folder).open() as desk, chromium() as context:
        desk.all_is_well()
        await context.add_init_script(HASTE)
        page = await log_in(context, desk)
        await page.evaluate(HIDE, True)
        await until(lambda: not desk.page._streams, "the stream was given back")
        await page.locator("#bar.on").wait_for()
        await desk.act("hold", {"reason": "meanwhile", "for": "1h"})
        await page.evaluate(HIDE, False)
        await page.locator("#bar.off").wait_for(state="attached")
        await page.get_by_text("Held by ops").wait_for()


# ------------------------------------------------------------------ acting
async def test_a_resume_is_done_by_clicking(folder):
    async with watched(folder) as (desk, page):
        await desk.fail_over()
        desk.primary_returns()
        await page.get_by_text("moved: primary-returned").wait_for()
        await page.get_by_role("button", name="Resume epmm").click()
        dialog = page.get_by_role("dialog", name="Resume epmm")
        await dialog.get_by_text("Traffic goes from b to a.").wait_for()
        go = dialog.get_by_role("button", name="Resume")
        assert await go.is_disabled()
        await fill_in(page, name="epm")
        assert await go.is_disabled()
        await fill_in(page)
        assert await go.is_disabled()  # nobody has vouched for the sync yet
        await dialog.get_by_label("Your word for it").fill("Completed 10:42Z")
        await go.click()
        await dialog.wait_for(state="hidden")
        desk.all_is_well()
        await page.get_by_role("article").get_by_text("well: normal").wait_for()
        assert desk.balancer.chosen == {"a"}
        change = desk.view.saved.last_change
        assert (change.kind, change.actor, change.reason) == ("resume", "ops", "Primary repaired")
        assert change.notes == {"attest synced": "Completed 10:42Z"}
        assert page.complaints == []


async def test_a_resume_is_done_with_the_keyboard_alone(folder):
    async with watched(folder) as (desk, page):
        await desk.fail_over()
        desk.primary_returns()
        await page.get_by_text("moved: primary-returned").wait_for()
        keys = page.keyboard
        for _ in range(40):
            await keys.press("Tab")
            if await page.evaluate("document.activeElement.dataset.verb") == "resume":
                break
        else:
            pytest.fail("no way to the button with Tab")
        await keys.press("Enter")
        dialog = page.get_by_role("dialog", name="Resume epmm")
        await dialog.wait_for()
        await keys.press("Escape")
        await dialog.wait_for(state="hidden")
        assert await page.evaluate("document.activeElement.dataset.verb") == "resume"
        await keys.press("Space")
        await dialog.wait_for()
        assert await page.evaluate("document.activeElement.dataset.attest") == "synced"
        await keys.type("Completed 10:42Z")
        while await page.evaluate("document.activeElement.name") != "reason":
            await keys.press("Tab")
        await keys.type("repaired")
        await keys.press("Tab")
        await keys.type("epmm")
        await keys.press("Enter")
        await dialog.wait_for(state="hidden")
        desk.all_is_well()
        await page.get_by_role("article").get_by_text("well: normal").wait_for()
        assert desk.view.saved.last_change.kind == "resume"
        assert await page.evaluate("document.activeElement !== document.body")


@pytest.mark.parametrize(
    ("verb", "after"),
    [("failover", "Traffic is on b"), ("hold", "Held by ops until")],
)
async def test_other_acts_are_done_by_clicking(folder, verb, after):
    async with watched(folder) as (desk, page):
        await page.get_by_role("button", name=f"{verb} epmm").click()
        await fill_in(page, reason=SCRIPT)
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("button", name=verb).click()
        await dialog.wait_for(state="hidden")
        card = page.get_by_role("article")
        await card.get_by_text(after).first.wait_for()
        assert desk.view.saved.last_change.kind == verb
        await page.locator("#history").get_by_text(SCRIPT).first.wait_for()  # as text
        assert await page.locator("main img, main script").count() == 0
        assert page.complaints == []


async def test_a_failover_is_acknowledged_and_a_hold_released(folder):
    async with watched(folder) as (desk, page):
        await desk.fail_over()
        for verb, is_done in [
            ("ack", lambda: desk.view.saved.acked == "ops: seen"),
            ("release", lambda: desk.view.saved.last_change.kind == "release"),
        ]:
            await page.get_by_role("button", name=f"{verb} epmm").click()
            await fill_in(page, reason="seen")
            await page.get_by_role("dialog").get_by_role("button", name=verb).click()
            await until(is_done, f"{verb} is done")
            await page.get_by_role("dialog").wait_for(state="hidden")
            await desk.act("hold", {"reason": "works", "for": "1h"})


async def test_what_changed_since_the_plan_refuses_the_act_and_keeps_what_was_typed(folder):
    async with watched(folder) as (desk, page):
        await page.get_by_role("button", name="Failover epmm").click()
        await fill_in(page, reason="my reason")
        await desk.act("hold", {"reason": "meanwhile", "for": "1h"})
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Failover").click()
        await dialog.get_by_text("you looked at 1: it changed since").wait_for()
        assert desk.view.saved.assigned == "a"
        await dialog.get_by_role("button", name="Look again").click()
        await dialog.get_by_text("As seen at generation 2").wait_for()
        assert await page.get_by_label("Reason").input_value() == "my reason"
        await dialog.get_by_role("button", name="Cancel").click()
        await dialog.wait_for(state="hidden")


async def test_a_gate_is_overridden_only_by_name(folder):
    async with watched(folder) as (desk, page):
        await desk.settle_on_b()
        await page.get_by_text("moved: failed-over").wait_for()
        await page.get_by_role("button", name="Resume epmm").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Your word for it").fill("none needed")
        await fill_in(page)
        go = dialog.get_by_role("button", name="Resume")
        assert await go.is_disabled()
        await dialog.get_by_label("Override primary-serving at my own risk").check()
        assert await go.is_disabled()  # both nodes still say Primary
        await dialog.get_by_label("Override single-primary at my own risk").check()
        await go.click()
        await dialog.wait_for(state="hidden")
        notes = desk.view.saved.last_change.notes
        assert notes.keys() == {
            "override primary-serving",
            "override single-primary",
            "attest synced",
        }


async def test_a_closed_gate_that_nothing_opens_keeps_the_act_away(folder):
    async with watched(folder) as (desk, page):
        await desk.act("hold", {"reason": "hands off", "for": "1h", "hands_off": True})
        await page.get_by_role("button", name="Failover epmm").click()
        await fill_in(page)
        dialog = page.get_by_role("dialog")
        await dialog.get_by_text("lb-probe release epmm").wait_for()
        assert await dialog.get_by_role("button", name="Failover").is_disabled()


async def test_a_viewer_sees_all_and_presses_nothing(folder):
    async with watched(folder, who="vic") as (desk, page):
        await desk.fail_over()
        await page.locator("p.traffic", has_text="on b, latched").wait_for()
        assert await page.get_by_role("button", name="Resume").count() == 0


async def test_what_an_operator_is_about_to_press_stays_while_all_changes_around_it(folder):
    async with watched(folder) as (desk, page):
        await desk.fail_over()
        await page.get_by_role("button", name="Hold epmm").focus()
        button = await page.get_by_role("button", name="Hold epmm").element_handle()
        await desk.act("ack", {"reason": "seen"})
        await page.get_by_role("article").get_by_text("ops: seen", exact=True).wait_for()
        desk.primary_returns()
        await page.get_by_text("moved: primary-returned").wait_for()
        assert await button.evaluate("(one) => one.isConnected")
        assert await page.evaluate("document.activeElement.textContent.trim()") == "Hold epmm"


# ------------------------------------------------------------------ many, and for everybody
async def test_five_hundred_groups_can_be_worked_with(folder):
    async with watched(folder, more=500) as (desk, page):
        assert await page.locator("[data-group]").count() == 501
        await page.get_by_role("heading", name="All 501 groups are well.").wait_for()
        # Nobody waits for what is out of sight, and it stays a table for who cannot see.
        drawn = await page.locator("#rows a").evaluate_all(
            "(all) => all.filter((a) => a.checkVisibility({contentVisibilityAuto: true})).length"
        )
        assert 10 < drawn < 150
        assert await page.get_by_role("row", name="g-123 well: normal").count() == 1
        await desk.settle_on_b()
        first = page.locator("#whole [data-group]").first
        await first.get_by_text("moved: failed-over").wait_for()
        assert await first.get_attribute("data-group") == "epmm"
        assert await page.locator("#rows [data-group]").count() == 500
        await page.keyboard.press("/")
        await page.keyboard.type("g-123")
        await page.locator("#rows [data-group]:visible").nth(1).wait_for(state="detached")
        assert await page.locator("[data-group]:visible").count() == 1
        await page.get_by_role("link", name="g-123").click()
        await page.get_by_role("heading", name="g-123 is well.").wait_for()
        assert page.complaints == []


async def test_a_page_of_one_group_draws_its_latencies(folder):
    async with watched(folder) as (desk, page):
        await page.get_by_role("link", name="epmm").click()
        await page.locator("#bar.off").wait_for(state="attached")
        desk.all_is_well()
        await page.locator("#chart canvas").wait_for()
        assert await page.locator("#chart .u-legend").inner_text() != ""
        assert await page.locator("#whole svg.spark path.line").count() == 4
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.wait_for_function("document.querySelector('#chart canvas').offsetWidth < 390")
        await page.set_viewport_size({"width": 1280, "height": 900})
        await desk.fail_over()
        await page.locator("p.traffic", has_text="on b, latched").wait_for()
        assert page.complaints == []


async def axe(page):
    """What axe-core has to say; it runs outside the page's own policy."""
    source = axe_source()
    if not source:
        pytest.skip("needs axe-playwright-python: make test installs it")
    await page.evaluate(source)
    options = {"runOnly": {"type": "tag", "values": AXE_RULES}, "resultTypes": ["violations"]}
    found = await page.evaluate("(options) => axe.run(document, options)", options)
    return [
        f"{fault['id']}: {node['target']} {node['failureSummary']}"
        for fault in found["violations"]
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_no_fault(folder, theme):
    async with watched(folder, more=30, color_scheme=theme) as (desk, page):
        for name, phase in [("g-001", Phase.TIMEOUT), ("g-002", Phase.TLS)]:
            for node, which in [("a", Page.STATUS), ("b", Page.HASTATUS), ("b", Page.STATUS)]:
                for _ in range(4):
                    desk.observe_in(name, node, which, Failed(phase, "no answer"))
        hold = {"reason": "works", "for": "1h"}
        await desk.ask("POST", "/api/v1/groups/g-003/hold", json=hold)
        await page.get_by_text("Held by ops").wait_for()
        assert await axe(page) == []
        await desk.fail_over()
        desk.primary_returns()
        await page.get_by_text("moved: primary-returned").wait_for()
        assert await axe(page) == []
        await page.get_by_role("button", name="Resume epmm").click()
        await page.get_by_role("dialog").get_by_text("Traffic goes from").wait_for()
        assert await axe(page) == []
        await page.keyboard.press("Escape")
        await page.get_by_role("link", name="epmm").click()
        await page.locator("#chart canvas").wait_for()
        assert await axe(page) == []
        await desk.close()
        await page.locator("#bar.on").wait_for()
        assert await axe(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_no_fault_in_the_form(folder, theme):
    async with PageDesk(folder).open() as desk, chromium(color_scheme=theme) as context:
        page = await context.new_page()
        await page.goto(desk.url)
        await page.get_by_label("Token").fill("wrong")
        await page.get_by_role("button", name="Log in").click()
        await page.get_by_text("No such token").wait_for()
        assert await axe(page) == []


async def test_the_theme_is_chosen_and_kept(folder):
    async with watched(folder, color_scheme="light") as (_, page):
        back = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(back)
        await page.get_by_role("button", name="Theme: auto").click()
        await page.get_by_role("button", name="Theme: light").click()
        await page.get_by_role("button", name="Theme: dark").wait_for()
        assert await page.evaluate(back) != light
        await page.reload()
        await page.get_by_role("button", name="Theme: dark").wait_for()
        assert await page.evaluate(back) != light


async def test_states_differ_in_shape_and_words_and_not_in_colour_alone(folder):
    async with watched(folder, more=30, forced_colors="active") as (desk, page):
        await desk.settle_on_b()
        await page.get_by_text("moved: failed-over").wait_for()
        for _ in range(3):
            desk.observe_in("g-001", "b", Page.HASTATUS, Failed(Phase.TIMEOUT, "no answer"))
        await page.get_by_text("see to it: unprotected").wait_for()
        drawn = "one.innerHTML + getComputedStyle(one).maskImage"
        for what in (drawn, "one.parentNode.innerText.split(':')[0]"):
            count = f"(all) => new Set(all.map((one) => {what})).size"
            assert await page.locator("[data-group] .state .shape").evaluate_all(count) == 3
        picture = await page.locator("#rows .shape").first.evaluate(
            "(one) => getComputedStyle(one).maskImage"
        )
        assert (await page.request.get(re.search('"(.*)"', picture)[1])).status == 200


async def test_nothing_moves_sideways_on_a_narrow_screen(folder):
    async with watched(folder, more=5) as (desk, page):
        await desk.fail_over()
        await page.set_viewport_size({"width": 360, "height": 700})
        width = "document.documentElement.scrollWidth"
        assert await page.evaluate(width) <= 360
        await page.set_viewport_size({"width": 390, "height": 844})
        fits = "(all) => all.map((one) => one.scrollWidth <= one.clientWidth)"
        assert all(await page.locator("main .wide").evaluate_all(fits))
        top = await page.locator("body > header").bounding_box()
        assert top["height"] <= 100  # what is fixed leaves room for what is read
        assert await axe(page) == []
