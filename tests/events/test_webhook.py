"""Letters by HTTP: signed, repeated, in the forms of others, and text whatever it says (R95)."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hand_channel import Events, notice, route
from hand_clock import settled, until
from raw_server import make_certificates, server_tls

from lb_probe.core.notice import Severity, Stage
from lb_probe.events import webhook, wire
from lb_probe.events.dead_man import DeadMan
from lb_probe.events.webhook import Webhook, read_secret
from lb_probe.events.wire import Trust, Way
from lb_probe.ports import Letter, NotDelivered

WALL = 1_767_225_600.0
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
MARKUP = "<!channel> *bold* [a](http://evil) <img src=x onerror=alert(1)> & \r\nX: y"


class Receiver:
    """A web server that keeps what it was sent and answers what it is told to."""

    def __init__(self):
        self.requests = []
        self.status, self.headers, self.text = 200, {}, "ok"
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self.statuses = []  # of the next answers, before `status`

    @property
    def bodies(self):
        return [json.loads(body) for _, body in self.requests]

    async def take(self, request):
        self.requests.append((request.headers.copy(), await request.read()))
        await self.gate.wait()
        status = self.statuses.pop(0) if self.statuses else self.status
        return web.Response(status=status, headers=self.headers, text=self.text)


@asynccontextmanager
async def receiver(tls=None, port=0):
    """Serve until the end of the block."""
    found = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", found.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    found.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/hook?key=s3cret"
    try:
        yield found
    finally:
        await runner.cleanup()


def way(**more):
    return Way(**{"trust": Trust(), "proxy": None, "timeout_s": 2.0, "wall": lambda: WALL, **more})


def hook(url, form=webhook.plain, **more):
    kept = {key: more.pop(key) for key in ("trust", "proxy", "timeout_s", "wall") if key in more}
    return Webhook("chat", lambda: url, form, way(**kept), **more)


def letter(*notices, **more):
    found = notices or (notice("k1", "failed-over", stage=Stage.OPEN, alarm="epmm/moved/1"),)
    return Letter(found, found[0].key, "prober on here", **more)


async def refused(channel, found=None) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        await channel.send(found or letter())
    return caught.value


# ------------------------------------------------------------------ our own form
def verify(headers, body, secret, now):
    """What a receiver does, by the text of Standard Webhooks alone."""
    key, at = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(now - int(at)) > 300:
        raise ValueError("too old: somebody plays it again")
    signed = f"{key}.{at}.".encode() + body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256)
    wanted = base64.b64encode(digest.digest()).decode()
    given = [part.split(",", 1)[1] for part in headers["webhook-signature"].split(" ")]
    if not any(hmac.compare_digest(wanted, one) for one in given):
        raise ValueError("not from whom it says")


async def test_a_receiver_can_tell_who_sent_it_when_and_that_it_is_whole():
    async with receiver() as there:
        await hook(there.url, secret=lambda: SECRET, token=lambda: "t0ken").send(letter())
        (headers, body) = there.requests[0]
    verify(headers, body, SECRET, WALL)
    assert headers["Authorization"] == "Bearer t0ken"
    for changed in (body + b" ", body.replace(b"epmm", b"apmm")):
        with pytest.raises(ValueError, match="not from whom"):
            verify(headers, changed, SECRET, WALL)
    with pytest.raises(ValueError, match="not from whom"):
        verify(headers, body, "whsec_" + base64.b64encode(b"x" * 32).decode(), WALL)
    with pytest.raises(ValueError, match="too old"):
        verify(headers, body, SECRET, WALL + 301)


async def test_the_body_has_all_and_a_repetition_has_the_same_key():
    """Duplicates after a crash: an idempotency key."""
    async with receiver() as there:
        for _ in range(2):
            await hook(there.url).send(letter(links=("https://wiki#failed-over",), lost=2))
        await hook(there.url).send(letter(notice("other")))
        keys = [headers["Idempotency-Key"] for headers, _ in there.requests]
        body = there.bodies[0]
    assert keys[0] == keys[1] != keys[2]
    assert "webhook-signature" not in there.requests[0][0]
    assert (body["version"], body["key"], body["lost"]) == (1, "k1", 2)
    (told,) = body["notices"]
    assert told["class"] == "failed-over"
    assert told["severity"] == "critical"
    assert told["stage"] == "open"
    assert told["at"] == "2026-01-01T00:00:00.000Z"
    assert told["runbook"] == "https://wiki#failed-over"


@pytest.mark.parametrize(
    ("status", "is_final", "is_busy", "wait_s"),
    [
        (200, None, None, None),
        (202, None, None, None),
        (302, False, True, None),
        (400, True, False, None),
        (403, False, True, None),
        (404, False, True, None),
        (413, True, False, None),
        (429, False, True, 120.0),
        (500, False, True, None),
        (503, False, True, 120.0),
    ],
)
async def test_what_an_answer_means(status, is_final, is_busy, wait_s):
    async with receiver() as there:
        there.status = status
        there.headers = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
        there.headers |= {"Retry-After": "120"} if wait_s else {}
        if is_final is None:
            await hook(there.url).send(letter())
            return
        error = await refused(hook(there.url))
    assert (error.is_final, error.is_busy, error.wait_s) == (is_final, is_busy, wait_s)
    assert str(status) in str(error)
    assert "s3cret" not in str(error)
    assert len(there.requests) == 1  # a redirect is not followed


def test_a_retry_after_may_be_a_date():
    assert wire._wait_s("Thu, 01 Jan 2026 00:01:00 GMT", WALL) == 60.0
    assert wire._wait_s("Thu, 01 Jan 2026 00:00:00 GMT", WALL + 60.0) == 0.0
    assert wire._wait_s("soon", WALL) is None


async def test_a_receiver_that_hangs_or_is_not_there_names_no_secret():
    async with receiver() as there:
        there.gate.clear()
        error = await refused(hook(there.url, timeout_s=0.1))
        there.gate.set()
        assert (str(error), error.is_busy) == ("chat: no answer within 0.1s", True)
    error = await refused(hook(there.url))
    assert error.is_busy
    assert "s3cret" not in str(error)
    for url in (
        "ftp://127.0.0.1/s3cret",
        "s3cret",
        "http://me:s3cret@127.0.0.1/",
        "http://[s3cret",
    ):
        error = await refused(hook(url))
        assert "its url cannot be used" in str(error)
        assert "s3cret" not in str(error)


async def test_a_receiver_whose_certificate_is_not_good_gets_nothing(tmp_path):
    certificates = make_certificates(tmp_path)
    async with receiver(server_tls(certificates, "address")) as there:
        error = await refused(hook(there.url))  # the system's authorities do not know it
        assert "TLS" in str(error)
        assert there.requests == []
        await hook(there.url, trust=Trust(certificates / "ca.pem")).send(letter())
        assert len(there.requests) == 1
    async with receiver(server_tls(certificates, "good")) as there:  # another name
        await refused(hook(there.url, trust=Trust(certificates / "ca.pem")))
        assert there.requests == []


async def test_it_goes_through_a_proxy_where_the_file_says_so():
    async with receiver() as proxy:
        url = "http://chat.example.com/hook"
        await hook(url, proxy=proxy.url.partition("/hook")[0]).send(letter())
        assert proxy.requests[0][0]["Host"] == "chat.example.com"


async def test_a_resolver_that_hangs_holds_up_nobody(monkeypatch):
    """A hanging channel: name look-ups have threads of their own, a few at most."""
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hanging(*args, **more):
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        raise OSError("given up")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    tries = [refused(hook("http://a.example.com/", timeout_s=0.2)) for _ in range(12)]
    began = time.monotonic()
    errors = await asyncio.gather(*tries)
    took_s = time.monotonic() - began
    free = await asyncio.to_thread(lambda: "free")
    gate.set()
    await until(lambda: wire._lookups._value == wire.MAX_LOOKUPS)
    assert took_s < 5.0  # they would hang for ever
    assert free == "free"
    assert sum("none answers" in str(error) for error in errors) == 12 - wire.MAX_LOOKUPS


async def test_down_then_busy_then_well_over_minutes(running, clock, events):
    async with receiver() as there:
        channel = hook(there.url, wall=clock.wall)
        async with running(route(channel)) as box:
            there.status = 503
            await box.put(notice("a"))
            await settled(clock, lambda: len(there.requests) >= 3, 60.0)
            there.status, there.headers = 429, {"Retry-After": "600"}
            await settled(clock, lambda: "429" in box.troubles()[0].detail, 90.0)
            asked = len(there.requests)
            there.status = 200
            await clock.advance(590.0, step=10.0)
            assert len(there.requests) == asked
            await settled(clock, lambda: box.waiting() == {"chat": 0}, 30.0)
    assert len({headers["Idempotency-Key"] for headers, _ in there.requests}) == 1


# ------------------------------------------------------------------ secrets
async def test_a_secret_is_read_for_each_letter_and_a_bad_one_is_said(tmp_path):
    file = tmp_path / "hook.secret"
    async with receiver() as there:
        channel = hook(there.url, secret=lambda: read_secret(file))
        assert "cannot be read" in str(await refused(channel))
        file.write_text("")
        assert "is empty" in str(await refused(channel))
        file.write_text("short")
        assert "at least 24 bytes" in str(await refused(channel))
        file.write_text("whsec_not base64!")
        error = await refused(channel)
        assert "base64" in str(error)
        assert "not base64!" not in str(error)
        file.write_text(SECRET + "\n")
        await channel.send(letter())
        verify(*there.requests[0], SECRET, WALL)
        file.write_text("a plain text of more than 24 bytes")
        await channel.send(letter())
        assert len(there.requests) == 2


# ------------------------------------------------------------------ other people's forms
async def sent(form, *letters):
    async with receiver() as there:
        channel = hook(there.url, form)
        for one in letters:
            await channel.send(one)
        return there.bodies


def texts_of(value):
    """Every text in a JSON value, with the kind of block around it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "text" and isinstance(inner, str):
                yield value.get("type"), inner
            else:
                yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


async def test_slack_reads_no_markup_in_what_an_operator_wrote():
    evil = notice("k", why=MARKUP, group=MARKUP)
    (body,) = await sent(webhook.slack, letter(evil))
    kinds = {kind for kind, _ in texts_of(body["blocks"])}
    assert kinds == {"plain_text"}
    assert "<" not in body["text"]
    assert "&lt;!channel&gt;" in body["text"]
    header, section = (text for _, text in texts_of(body["blocks"]))
    assert len(header) <= 150
    assert "<!channel> *bold*" in section  # as text


async def test_a_storm_fits_into_slack_and_into_a_card():
    storm = [notice(f"{n}", "failed-over", group=f"g{n}", do="d" * 400) for n in range(300)]
    (slack,) = await sent(webhook.slack, letter(*storm))
    assert max(len(text) for _, text in texts_of(slack)) <= 3000
    (teams,) = await sent(webhook.teams, letter(*storm))
    assert len(json.dumps(teams).encode()) < 28 * 1024
    assert "300 groups: 300 failed-over" in teams["summary"]


async def test_teams_gets_a_card_of_plain_runs():
    (body,) = await sent(webhook.teams, letter(notice("k", "blocked", why=MARKUP)))
    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert {kind for kind, _ in texts_of(card)} == {"TextRun"}
    assert card["body"][0]["inlines"][0]["color"] == "attention"


async def test_pagerduty_follows_an_alarm_from_its_begin_to_its_end():
    alarm = "store/epmm/moved/1"
    opened = notice("a", "failed-over", stage=Stage.OPEN, alarm=alarm, node="epmm-b", why="dead")
    seen = notice("b", "acknowledged", stage=Stage.SEEN, alarm=alarm)
    over = notice("c", "resumed", stage=Stage.OVER, alarm=alarm)
    form = webhook.pagerduty(lambda: "r0uting")
    bodies = await sent(form, letter(opened, links=("https://wiki#x",)), letter(seen), letter(over))
    assert [body["event_action"] for body in bodies] == ["trigger", "acknowledge", "resolve"]
    assert {body["dedup_key"] for body in bodies} == {alarm}
    assert {body["routing_key"] for body in bodies} == {"r0uting"}
    payload = bodies[0]["payload"]
    assert payload["severity"] == "critical"
    assert payload["class"] == "failed-over"
    assert payload["custom_details"] == {"why": "dead"}
    assert bodies[0]["links"] == [{"href": "https://wiki#x", "text": "runbook"}]


async def test_pagerduty_hears_that_it_got_worse_and_what_was_is_no_more():
    worse = notice("b", "not-serving", stage=Stage.OPEN, alarm="new", replaces="old")
    bodies = await sent(webhook.pagerduty(lambda: "r"), letter(worse))
    told = [(body["event_action"], body["dedup_key"]) for body in bodies]
    assert told == [("resolve", "old"), ("trigger", "new")]


async def test_a_storm_wakes_once_and_ends_are_told_one_by_one():
    storm = [
        notice(f"{n}", "failed-over", group=f"g{n}", stage=Stage.OPEN, alarm=f"a{n}")
        for n in range(10)
    ]
    over = notice("o", "resumed", group="z", stage=Stage.OVER, alarm="before")
    bodies = await sent(webhook.pagerduty(lambda: "r"), letter(*storm, over))
    assert [body["event_action"] for body in bodies] == ["trigger", "resolve"]
    assert bodies[0]["payload"]["summary"].startswith("CRITICAL 10 groups: 10 failed-over")
    assert bodies[1]["dedup_key"] == "before"
    assert all(len(body["dedup_key"]) <= 255 for body in bodies)


async def test_what_went_through_of_a_letter_in_parts_is_not_sent_twice():
    worse = notice("b", "not-serving", stage=Stage.OPEN, alarm="new" * 200, replaces="old")
    async with receiver() as there:
        there.statuses = [202, 500, 202]
        channel = hook(there.url, webhook.pagerduty(lambda: "r"))
        await refused(channel, letter(worse))
        await channel.send(letter(worse))
        actions = [body["event_action"] for body in there.bodies]
    assert actions == ["resolve", "trigger", "trigger"]


# ------------------------------------------------------------------ the sign of life
async def test_a_sign_of_life_is_given_only_while_the_work_goes_on(clock):
    """X9: a dead-man alarm when the controller itself is down."""
    events, trouble = Events(), [""]
    async with receiver() as there:
        man = DeadMan(
            lambda: there.url, way(wall=clock.wall), 60.0, lambda: trouble[0], clock, events
        )
        task = asyncio.ensure_future(man.run())
        await until(lambda: len(there.requests) == 1)
        await settled(clock, lambda: len(there.requests) == 3, 130.0)
        trouble[0] = "no probe ended for 12s"
        await clock.advance(600.0, step=10.0)
        assert len(there.requests) == 3
        assert events.named("notify.failed")[0]["detail"] == "not sent: no probe ended for 12s"
        assert len(events.named("notify.failing")) >= 8
        trouble[0], there.status = "", 500
        await settled(clock, lambda: len(there.requests) == 4, 70.0)
        there.status = 200
        await settled(clock, lambda: len(there.requests) == 5, 70.0)
        task.cancel()
    assert len(events.named("notify.pinged")) == 4
    assert "500" in events.named("notify.failed")[1]["detail"]


def test_severities_are_those_of_pagerduty():
    assert {severity.value for severity in Severity} <= {"critical", "error", "warning", "info"}
