"""The operator's page over HTTP: who gets in, what it says, what it sends, and its headers."""

import asyncio
import contextlib
import doctest
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from array import array
from pathlib import Path

import aiohttp
import pytest
from api_desk import TOKENS, until
from page_desk import PageDesk

from lb_probe.admin.page import board as board_room
from lb_probe.admin.page import card as card_room
from lb_probe.admin.page import draw as draw_room
from lb_probe.admin.page import levels as levels_room
from lb_probe.admin.page import site as site_room
from lb_probe.admin.page.draw import BAND_WIDTH, band, spark
from lb_probe.admin.page.levels import Level, Standing, headline, level_of
from lb_probe.admin.page.traces import ABSENT, SAMPLES, UNKNOWN, WINDOW_S, Sample, Stretch, Traces
from lb_probe.controller import Setup
from lb_probe.core.active_active import Pool
from lb_probe.core.acts import VERBS
from lb_probe.core.failover import CONDITIONS
from lb_probe.core.model import Event, Failed, Observation, Page, Passed, Phase
from lb_probe.pool import PoolSetup
from lb_probe.ports import Record

ROOT = Path(__file__).parents[1]
STATIC = Path(site_room.__file__).parent / "static"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
async def desk(folder):
    async with PageDesk(folder).open() as desk:
        await until(lambda: desk.view.adapters[0].in_sync, "the load balancer was read")
        yield desk


async def text_of(desk, path="/", **more):
    answer = await desk.get(path, **more)
    assert answer.status == 200, answer.raw
    return answer.raw.decode()


class Following:
    """A stream that is read event by event."""

    def __init__(self, answer):
        self._answer = answer

    async def next(self, *names):
        """The next event of one of these names: its id and its content."""
        async with asyncio.timeout(20):
            while True:
                found = {}
                while line := (await self._answer.content.readline()).decode().rstrip("\n"):
                    key, _, value = line.partition(": ")
                    found[key] = value
                if not found and self._answer.content.at_eof():
                    raise EOFError
                if found.get("event") in names:
                    return found.get("id"), json.loads(found["data"])


def follow(desk, path="/live", who="ops", **headers):
    headers = {"Authorization": f"Bearer {TOKENS[who]}", **headers}
    return desk.session.get(path, headers=headers)


# ------------------------------------------------------------------ who gets in
@pytest.mark.parametrize("path", ["/", "/groups/epmm", "/groups/other"])
async def test_a_stranger_gets_the_form_and_learns_nothing(desk, path):
    answer = await desk.get(path, who=None)
    assert answer.status == 401
    assert 'name="token"' in answer.raw.decode()
    assert "epmm" not in answer.raw.decode().replace("EPMM", "")


async def test_every_route_but_the_form_and_its_files_refuses_a_stranger(desk):
    routes = {(r.method, r.resource.canonical) for r in desk.applications[0].router.routes()}
    assert len(routes) > 20
    public = {"/login", "/static/{digest}/{name}", "/api/v1/session"}
    for method, path in routes:
        if path in public and (path, method) != ("/api/v1/session", "DELETE"):
            continue
        known = path.format(group="epmm", verb="resume", token="x")
        answer = await desk.ask(method, known, who=None)
        assert answer.status == 401, (method, path)
        assert "epmm" not in answer.raw.decode()


async def test_a_form_without_javascript_logs_in_and_out(desk):
    ours = {"Origin": desk.url}
    data = {"token": TOKENS["vic"]}
    come = await desk.ask(
        "POST", "/login", who=None, data=data, headers=ours, allow_redirects=False
    )
    assert (come.status, come.headers["Location"]) == (303, "/")
    cookie = come.headers["Set-Cookie"]
    assert cookie.startswith("__Host-lb-probe=")
    assert {"HttpOnly", "Secure", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    session = {"Cookie": cookie.partition(";")[0]}
    shown = await desk.get("/", who=None, headers=session)
    assert "vic, viewer" in shown.raw.decode()
    elsewhere = await desk.ask("POST", "/logout", who=None, headers=session)
    assert elsewhere.error == (403, "forbidden")
    gone = await desk.ask(
        "POST", "/logout", who=None, headers=session | ours, allow_redirects=False
    )
    assert (gone.status, gone.headers["Location"]) == (303, "/login")
    over = await desk.get("/", who=None, headers=session)
    assert over.status == 401
    assert "That session is over" in over.raw.decode()
    assert "Max-Age=0" in over.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("data", "headers", "status", "says"),
    [
        ({"token": "wrong"}, {}, 401, "No such token"),
        ({"token": ""}, {}, 422, "Found no token"),
        ({"other": "x"}, {}, 422, "Found no token"),
        ({"token": "x" * 5000}, {}, 422, "Found no token"),
        (b"token=%ff%fe", {}, 401, "No such token"),
        ({"token": TOKENS["ops"]}, {"Origin": "http://evil.example"}, 403, "Refused"),
        ({"token": TOKENS["ops"]}, {"Sec-Fetch-Site": "cross-site"}, 403, "Refused"),
    ],
)
async def test_a_login_that_is_refused_says_why_in_the_form(desk, data, headers, status, says):
    headers = {"Origin": desk.url} | headers
    answer = await desk.ask("POST", "/login", who=None, data=data, headers=headers)
    assert answer.status == status
    assert says in answer.raw.decode()
    assert "Set-Cookie" not in answer.headers or "Max-Age=0" in answer.headers["Set-Cookie"]


async def test_who_fails_too_often_waits_and_a_good_session_beside_him_is_kept(desk):
    ours = {"Origin": desk.url}
    come = await desk.ask(
        "POST",
        "/login",
        who=None,
        data={"token": TOKENS["vic"]},
        headers=ours,
        allow_redirects=False,
    )
    session = {"Cookie": come.headers["Set-Cookie"].partition(";")[0]}
    for _ in range(10):
        await desk.ask("POST", "/login", who=None, data={"token": "guess"}, headers=ours)
    for answer in (
        await desk.ask("POST", "/login", who=None, data={"token": TOKENS["ops"]}, headers=ours),
        await desk.get("/", who=None, headers=session),
    ):
        assert answer.status == 429
        assert "Too many failures" in answer.raw.decode()
        assert int(answer.headers["Retry-After"]) > 0
        assert "Set-Cookie" not in answer.headers


async def test_a_token_in_the_query_is_refused(desk):
    answer = await desk.get(f"/?token={TOKENS['ops']}")
    assert answer.error == (422, "invalid")


async def test_a_scope_sees_its_groups_and_no_other(folder):
    async with PageDesk(folder, 3).open() as desk:
        desk.everything_is_well()
        new = {"name": "only", "role": "operator", "groups": ["g-001"]}
        made = await desk.ask("POST", "/api/v1/tokens", who="adm", json=new)
        mine = {"Authorization": f"Bearer {made.json['token']}"}
        text = (await desk.get("/", who=None, headers=mine)).raw.decode()
        assert "g-001" in text
        assert "g-000" not in text
        assert "epmm" not in text
        assert (await desk.get("/groups/epmm", who=None, headers=mine)).status == 404
        assert (await desk.get("/groups/epmm/live", who=None, headers=mine)).status == 404
        assert (await desk.get("/groups/epmm/plan/hold", who=None, headers=mine)).status == 404
        async with desk.session.get("/live", headers=mine) as answer:
            events = Following(answer)
            await events.next("beat")
            await desk.act("hold", {"reason": "x", "for": "1h"})
            other = "/api/v1/groups/g-001/hold"
            await desk.ask("POST", other, json={"reason": "mine", "for": "1h"})
            _, change = await events.next("change")
            assert [group["name"] for group in change["groups"]] == ["g-001"]
            assert "epmm" not in json.dumps(change)


# ------------------------------------------------------------------ what it says
async def test_the_page_without_javascript_tells_all_there_is(desk):
    desk.all_is_well()
    await desk.fail_over()
    desk.primary_returns()
    text = await text_of(desk)
    for words in (
        "epmm is off its Primary. It waits only for your word to be resumed.",
        "moved: primary-returned",
        "Traffic is on b, latched: awaiting manual resume.",
        "b serves; a is back; resume is yours",
        "sync a from b, then resume",
        "no agent vouches for it",
        "lb-probe resume epmm --reason",
        "in sync",
        'failover</td><td>a -&gt; b</td><td class="minor">lb-probe',
        'aria-label="a status: ',
        "Last 6 hours: ",
        "<title>(1) lb-probe</title>",
        '<noscript><meta http-equiv="refresh" content="10"></noscript>',
    ):
        assert words in text, words


async def test_a_load_balancer_that_disagrees_is_shown_beside_what_we_want(desk):
    desk.all_is_well()
    desk.balancer.is_deaf = True
    await desk.fail_over_only_decided()
    text = await text_of(desk)
    row = re.search(r'<th scope="row">edge</th>(.*?)</tr>', text)[1]
    assert row.startswith('<td class="minor">model</td><td>b</td><td>a</td>')
    assert "not in sync" in row


async def test_html_in_reasons_and_answers_is_text(desk):
    desk.all_is_well()
    desk.observe("b", Page.STATUS, Failed(Phase.STATUS, SCRIPT))
    await desk.act("hold", {"reason": SCRIPT, "for": "1h"})
    for path in ("/", "/groups/epmm", "/groups/epmm/plan/hold"):
        text = await text_of(desk, path)
        assert "&lt;script&gt;alert(1)" in text
        assert SCRIPT not in text


async def test_only_what_is_next_stands_out_among_the_buttons(desk):
    def standing_out(text):
        return re.findall(r'data-verb="([a-z]+)"[^>]* class="first"', text)

    desk.all_is_well()
    assert standing_out(await text_of(desk)) == []
    await desk.settle_on_b()
    await until_says(desk, "failed-over")
    assert standing_out(await text_of(desk)) == ["ack"]  # the Primary is down: no resume
    desk.primary_returns()
    await until_says(desk, "primary-returned")
    assert standing_out(await text_of(desk)) == ["resume"]


async def until_says(desk, words):
    async with asyncio.timeout(20):
        while words not in await text_of(desk):  # noqa: ASYNC110 a page, not an event
            await asyncio.sleep(0.05)


async def test_changes_are_found_in_the_history_among_much_else(desk):
    for number in range(100):
        desk.controller.recorder.note("condition", "epmm", 1, to=f"c-{number}")
    await until(lambda: len(desk.store.records) > 100, "all is recorded")
    assert "adopt</td>" in await text_of(desk)


async def test_unknown_groups_and_verbs_are_not_found(desk):
    assert (await desk.get("/groups/other")).error == (404, "not-found")
    assert (await desk.get("/groups/epmm/plan/explode")).error == (404, "not-found")
    assert (await desk.get("/groups/epmm/plan/failover?to=zz")).error == (422, "invalid")
    assert (await desk.get("/groups/%3Cb%3E")).error == (404, "not-found")


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_has_a_plan_to_look_at_that_changes_nothing(desk, verb):
    desk.all_is_well()
    before = desk.state
    text = await text_of(desk, f"/groups/epmm/plan/{verb}")
    assert f'data-verb="{verb}"' in text
    assert 'data-generation="1"' in text
    assert desk.state == before


async def test_a_viewer_gets_no_plan(desk):
    answer = await desk.get("/groups/epmm/plan/resume", who="vic")
    assert answer.error == (403, "forbidden")
    assert 'data-may-act="no"' in await text_of(desk, who="vic")


async def test_latencies_count_back_from_now(desk):
    desk.observe_in("epmm", "a", Page.STATUS, Passed(), took_s=0.02)
    told = json.loads(await text_of(desk, "/groups/epmm/latency"))
    probes = next(s for s in told["series"] if (s["node"], s["page"]) == ("a", "status"))["probes"]
    assert len(probes) == 1
    assert probes[0][0] <= 0
    assert probes[0][1:] == [20.0, True]


# ------------------------------------------------------------------ headers and files
async def test_every_answer_carries_the_security_headers_and_no_server(desk):
    for path in ("/", "/login", "/nothing", "/api/v1/groups", "/groups/epmm/plan/hold"):
        answer = await desk.get(path)
        assert "Server" not in answer.headers
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_the_page_has_no_script_style_or_handler_of_its_own(desk):
    await desk.fail_over()
    for path in ("/", "/groups/epmm", "/login", "/groups/epmm/plan/resume"):
        text = await text_of(desk, path)
        assert not re.search(r"<script(?![^>]* src=)", text)
        assert "<style" not in text
        assert not re.search(r"<[^>]+ (style|on[a-z]+)=", text)


async def test_files_have_an_address_that_changes_with_them(desk):
    links = set(re.findall(r'"(/static/[^"]+\.[a-z]+)"', await text_of(desk, "/groups/epmm")))
    assert len(links) == 6
    for link in links:
        answer = await desk.get(link, who=None)
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
    digest = links.pop().split("/")[2]
    for odd in (
        f"/static/{digest}/../site.py",
        f"/static/{digest}/%2e%2e%2fsite.py",
        "/static/x/y",
    ):
        assert (await desk.get(odd, who=None)).error == (404, "not-found")
    assert (await desk.get("/static/0/page.css", who=None)).error == (404, "not-found")


def test_the_wheel_carries_templates_and_files(folder):
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=50)
    (wheel,) = folder.glob("*.whl")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if "/page/" in name}
    here = STATIC.parent
    wanted = {f"lb_probe/admin/page/{f.relative_to(here)}" for f in here.glob("*/*.*")}
    assert {name for name in wanted if "__pycache__" not in name} <= found


def test_files_of_others_are_as_they_came():
    notes = (STATIC.parent / "VENDORED.md").read_text()
    told = dict(re.findall(r"^\| `static/([^`]+)` \|.*`([0-9a-f]{64})` \|$", notes, re.MULTILINE))
    assert told.keys() == {"uplot.js", "uplot.css", "uplot.LICENSE"}
    for name, digest in told.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest


# ------------------------------------------------------------------ the stream
async def test_who_was_given_the_page_is_told_only_what_changes_after_it(desk):
    desk.all_is_well()
    place = re.search(r'data-place="([^"]+)"', await text_of(desk))[1]
    async with follow(desk, f"/live?after={place}") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        events = Following(answer)
        beat = {}
        while "stale" not in beat:  # a machine that stands still is a change of its own
            _, beat = await events.next("snapshot", "change", "beat")
            assert "main" not in beat
        assert beat["stale"] is False
        assert beat["texts"]["epmm/a/status"].startswith("ok in ")
        await desk.fail_over()
        said = ""
        while "epmm: failed-over" not in said and "epmm: failing-over" not in said:
            ident, change = await events.next("change")  # on a busy machine one comes before
            said = change["says"]
            assert ident.partition("-")[0] == place.partition("-")[0]
            assert [group["name"] for group in change["groups"]] == ["epmm"]


async def test_a_stream_that_broke_goes_on_where_it_was(desk):
    desk.all_is_well()
    async with follow(desk) as answer:
        ident, snapshot = await Following(answer).next("snapshot")
        assert "epmm" in snapshot["main"]
    await desk.act("hold", {"reason": "meanwhile", "for": "1h"})
    async with follow(desk, **{"Last-Event-ID": ident}) as answer:
        _, change = await Following(answer).next("snapshot", "change")
        assert "meanwhile" in change["groups"][0]["html"]


@pytest.mark.parametrize(
    "place", ["", "x", "x-1", "-", "HERE-99999999", "HERE-²", "HERE--1", f"HERE-{'9' * 5000}"]
)
async def test_a_place_that_is_not_known_begins_anew(desk, place):
    desk.all_is_well()
    here = re.search(r'data-place="([^"-]+)-', await text_of(desk))[1]
    async with desk.session.get(
        "/live",
        params={"after": place.replace("HERE", here)},
        headers={"Authorization": f"Bearer {TOKENS['ops']}"},
    ) as answer:
        name, content = await Following(answer).next("snapshot", "change")
        assert "main" in content, name


async def test_what_was_missed_for_too_long_is_shown_anew(desk, monkeypatch):
    desk.all_is_well()
    place = re.search(r'data-place="([^"]+)"', await text_of(desk))[1]
    board = next(iter(desk.page._boards.values()))
    for number in range(board_room.RING + 1):
        board._remember([], None)
        assert board.sequence > number
    assert b"event: snapshot" in board.after(place)[0]
    assert len(board.after(f"{board.epoch}-{board.sequence - 2}")) == 2


async def test_who_comes_while_the_first_page_is_drawn_gets_all_of_it(folder):
    async with PageDesk(folder, 60).open() as desk:
        desk.everything_is_well()
        texts = await asyncio.gather(*(text_of(desk) for _ in range(8)))
        assert {text.count("data-group=") for text in texts} == {61}


async def test_what_is_kept_for_readers_stays_small(desk, monkeypatch):
    monkeypatch.setattr(board_room, "RING_BYTES", 3000)
    await text_of(desk)
    board = next(iter(desk.page._boards.values()))
    for _ in range(50):
        board._remember([], "x" * 400)
    assert sum(len(data) for _, data in board._ring) <= 3000


async def test_streams_end_when_the_listener_closes(desk):
    async with follow(desk) as answer:
        events = Following(answer)
        await events.next("beat")
        async with asyncio.timeout(10):
            await desk.close()
            with pytest.raises(EOFError):
                await events.next("nothing")


async def test_a_stream_ends_with_its_token(desk, monkeypatch):
    monkeypatch.setattr(site_room, "LOOK_AGAIN_S", 0.0)
    new = {"name": "brief", "role": "viewer"}
    made = (await desk.ask("POST", "/api/v1/tokens", who="adm", json=new)).json
    mine = {"Authorization": f"Bearer {made['token']}"}
    async with desk.session.get("/live", headers=mine) as answer:
        events = Following(answer)
        await events.next("beat")
        await desk.ask("DELETE", f"/api/v1/tokens/{made['id']}", who="adm")
        with pytest.raises(EOFError):
            await events.next("nothing")


async def test_a_browser_that_stops_reading_is_cut_off_and_holds_up_nobody(desk, monkeypatch):
    monkeypatch.setattr(site_room, "WRITE_S", 0.2)
    desk.all_is_well()
    reader, writer = await asyncio.open_connection("127.0.0.1", desk.port, limit=1024)
    line = f"GET /live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['ops']}\r\n\r\n"
    writer.write(line.encode())
    await reader.readline()
    board = next(iter(desk.page._boards.values()))
    monkeypatch.setattr(board, "beat", lambda: b": %s\n\n" % (b"x" * 4_000_000))
    monkeypatch.setattr(site_room, "BEAT_S", 0.01)
    await until(lambda: not desk.page._streams, "the stream was given up")
    await until(lambda: not desk.runners[0].server.connections, "its connection is gone")
    assert board.readers == 0
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_streams_beyond_the_limit_are_refused(desk, monkeypatch):
    monkeypatch.setattr(site_room, "MAX_STREAMS", 1)
    async with follow(desk) as first:
        await Following(first).next("beat")
        assert (await desk.get("/live")).error == (503, "failed")


async def test_data_of_a_prober_that_does_not_probe_is_called_stale(desk):
    desk.all_is_well()
    board = desk.page._board(["epmm"], alone=True)
    await board.refresh()
    board._limit_s = -1.0
    assert b'"stale": true' in board.beat()


async def test_boards_that_nobody_reads_make_room(desk, monkeypatch):
    monkeypatch.setattr(site_room, "MAX_BOARDS", 1)
    first = desk.page._board(["epmm"], alone=True)
    first.readers = 1
    desk.page._board(["epmm"], alone=False)
    assert desk.page._board(["epmm"], alone=True) is first
    assert len(desk.page._boards) == 1


async def test_the_worst_come_first_and_the_well_are_rows(folder):
    async with PageDesk(folder, 20).open() as desk:
        desk.everything_is_well()
        for _ in range(3):
            desk.observe_in("g-011", "b", Page.HASTATUS, Failed(Phase.TIMEOUT, "no answer"))
        await desk.fail_over()
        text = await text_of(desk)
        names = re.findall(r'data-group="([^"]+)"', text)
        assert names[:3] == ["epmm", "g-011", "g-000"]
        assert text.count("<article") == 2
        assert "epmm is off its Primary" in text
        assert "g-011 has something to see to." in text


async def test_a_large_page_travels_small_where_the_browser_takes_that(folder):
    async with PageDesk(folder, 100).open() as desk:
        desk.everything_is_well()
        plain = await desk.get("/", headers={"Accept-Encoding": "identity"})
        packed = await desk.get("/", headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert int(packed.headers["Content-Length"]) < 12_000 < 40_000 < len(plain.raw)
        assert b"g-099" in packed.raw  # the client unpacked it


async def test_a_real_prober_serves_the_page_on_both_of_its_listeners(stand):
    demo = await asyncio.to_thread(stand)
    token = demo.client.new_token({"name": "eve", "role": "viewer"})["token"]
    over = aiohttp.UnixConnector(f"{demo.folder}/api.sock")
    async with aiohttp.ClientSession(connector=over) as local, aiohttp.ClientSession() as remote:
        async with local.get("http://unix/") as answer:
            assert "demo is" in await answer.text()
        url = f"http://127.0.0.1:{demo.ports['8600']}/"
        async with remote.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
            assert "eve, viewer" in await answer.text()
        async with remote.get(url) as answer:
            assert answer.status == 401


# ------------------------------------------------------------------ levels, drawings, traces
def test_every_condition_has_a_level_and_only_normal_is_well():
    assert [c for c in CONDITIONS if level_of(c) is Level.WELL] == ["normal"]
    assert level_of("something new") is Level.DOWN


@pytest.mark.parametrize(
    ("found", "says", "title"),
    [
        ([], "No group to show.", "lb-probe"),
        ([Standing("a", Level.WELL)], "a is well.", "lb-probe"),
        ([Standing("a", Level.WELL)] * 3, "All 3 groups are well.", "lb-probe"),
        (
            [Standing("a", Level.WELL), Standing("b", Level.WAIT)],
            "b has no verdict yet.",
            "lb-probe",
        ),
        (
            [Standing(n, Level.DOWN) for n in "abcde"],
            "5 of 5 groups need you now: a, b, c and 2 more.",
            "(5) lb-probe",
        ),
        (
            [Standing(name, Level.MOVED, True, "word") for name in "ab"]
            + [Standing("c", Level.MOVED, True), Standing("d", Level.LOOK)],
            "a, b and c are off their Primary. a and b wait only for your word to be resumed."
            " d has something to see to.",
            "(4) lb-probe",
        ),
    ],
)
def test_the_headline_says_how_everything_stands(found, says, title):
    line = headline(found)
    assert (line.text, line.title) == (says, title)


@pytest.mark.parametrize("room", [card_room, draw_room, levels_room])
def test_the_examples_in_the_sources_are_true(room):
    found = doctest.testmod(room)
    assert found.attempted
    assert not found.failed


def test_a_failed_probe_is_a_cross_and_no_point_of_the_line():
    drawn = spark([Sample(1.0, 0.01, True), Sample(2.0, 1.0, False), Sample(3.0, 0.02, True)])
    assert re.fullmatch(r"M[\d.]+ [\d.]+M[\d.]+ [\d.]+", drawn.line)  # not joined across it
    assert drawn.crosses.count("M") == 1
    assert drawn.words == "3 probes, 1 failed, median 20 ms, slowest 20 ms"
    assert spark([]).words == "not probed yet"


def test_the_band_ends_now_and_shows_when_nobody_watched():
    now = 1_000_000.0
    drawn = band(
        [
            Stretch("normal", now - 2 * WINDOW_S, now - WINDOW_S / 2),
            Stretch(ABSENT, now - WINDOW_S / 2, now - WINDOW_S / 4),
            Stretch("failed-over", now - WINDOW_S / 4, now),
        ],
        now,
    )
    assert [p.css for p in drawn.pieces] == ["well", "absent", "moved"]
    assert [p.x for p in drawn.pieces] == [0.0, BAND_WIDTH / 2, BAND_WIDTH * 0.75]
    assert drawn.pieces[-1].x + drawn.pieces[-1].width == BAND_WIDTH
    assert "nobody watched for 1 h 30 m, then failed-over for 1 h 30 m" in drawn.words


class StillClock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_000_000.0 + self.now


def record(group, kind, at, **details):
    return Record(group, kind, at, 1, details)


def test_a_prober_that_was_killed_is_absent_from_its_last_record_on():
    clock = StillClock()
    traces, now = Traces(clock), clock.wall()
    told = [
        record("g", "condition", now - 900, to="normal"),
        record("", "watching", now - 600),
        record("", "started", now - 300),
        record("g", "condition", now - 299, to="failed-over"),
        record("other", "condition", now - 10, to="normal"),
    ]
    traces.load([], told, ["g"])
    found = traces.stretches("g", "failed-over")
    assert [(s.condition, now - s.since) for s in found] == [
        (UNKNOWN, WINDOW_S),
        ("normal", 900),
        (ABSENT, 600),
        ("failed-over", 299),
    ]
    assert traces.since("g", "failed-over") == now - 299
    assert traces.since("g", "normal") is None


def test_a_stop_in_order_is_absence_too_and_events_go_on_from_the_store():
    clock = StillClock()
    traces, now = Traces(clock), clock.wall()
    traces.take(Event("group.condition", "g", {"condition": "normal"}))
    lately = [record("", "stopped", now - 100), record("", "started", now - 50)]
    traces.load([record("g", "condition", now - 10**6, to="normal")], lately, ["g"])
    clock.now += 7
    told = [s.condition for s in traces.stretches("g", "normal")]
    assert told == ["normal", ABSENT, "normal"]
    assert traces.since("g", "normal") == now


def test_what_the_store_had_not_yet_got_at_first_is_read_once_more():
    clock = StillClock()
    traces = Traces(clock)
    traces.load([], [], ["g"])
    assert not traces.is_loaded
    assert traces.since("g", "normal") is None
    clock.now += 6
    began = clock.wall() - 6
    traces.load([record("g", "condition", began, to="normal")], [], ["g"])
    assert traces.is_loaded
    assert traces.since("g", "normal") == began


def test_only_the_latest_probes_are_kept():
    traces = Traces(StillClock())
    for number in range(5 * SAMPLES):
        outcome = Passed() if number % 2 else Failed(Phase.TIMEOUT, "")
        seen = Observation("a", Page.STATUS, number, number + 0.5, outcome)
        traces.take(Event("probe.done", "g", {"observation": seen}))
    kept = traces.samples("g", "a", Page.STATUS)
    assert len(kept) == SAMPLES
    assert kept[-1] == Sample(5 * SAMPLES - 0.5, 0.5, passed=True)
    assert kept[-2].passed is False
    assert kept[-2].took_s == 0.5
    assert len(traces._samples["g", "a", "status"]) <= 4 * SAMPLES
    assert isinstance(traces._samples["g", "a", "status"], array)


# ------------------------------------------------------------------ groups of equals, and reloads
async def test_a_group_of_equals_is_shown_with_what_means_something_there(folder):
    pool = Pool("gw", ("gw-1", "gw-2", "gw-3"), fall=3, rise=1, max_age_s=60.0)
    desk = PageDesk(folder, pools=[pool])
    async with desk.open():

        def see(node, outcome):
            now = desk.clock.monotonic()
            seen = Observation(node, Page.STATUS, now, now, outcome)
            desk.groups.observe("gw", seen)

        for node in pool.nodes:
            see(node, Passed())
        for _ in range(3):
            see("gw-2", Failed(Phase.CONNECT_REFUSED, "<b>no</b>"))
        await until(lambda: desk.groups.view("gw").condition == "some-out", "gw-2 is out")
        text = await text_of(desk, "/groups/gw")
        assert "Traffic is on gw-1, gw-3." in text
        assert "some-out" in text
        assert "comes back by itself" in text
        assert "&lt;b&gt;no&lt;/b&gt;" in text
        assert 'data-verb="hold"' in text
        assert 'data-verb="resume"' not in text
        assert "hastatus" not in text
        async with follow(desk, "/groups/gw/live") as answer:
            _, beat = await Following(answer).next("beat")
        assert "at least 2 of 3 stay in" in beat["texts"]["gw/outlook"]


async def test_a_page_that_is_open_is_given_the_groups_of_a_reload(desk):
    async with follow(desk) as answer:
        first = Following(answer)
        _, shown = await first.next("snapshot")
        assert "epmm" in shown["main"]
        pool = PoolSetup(Pool("gw", ("gw-1", "gw-2")))
        kept = frozenset({"epmm"})
        setups = [Setup(desk.view.group)]
        await desk.groups.swap(["epmm", "gw"], setups, [pool], kept, None)
        with pytest.raises(EOFError):  # the browser comes again by itself
            await first.next("nothing")
    async with follow(desk) as answer:
        _, shown = await Following(answer).next("snapshot")
    assert 'data-group="gw"' in shown["main"]
