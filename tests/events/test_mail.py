"""Mail, against a real SMTP server (R93, R95): down, slow, greylisting, refusing, encrypted."""

import asyncio

import pytest
from hand_channel import notice, route
from hand_clock import settled
from mail_server import PASSWORD, USER, mail_server
from raw_server import make_certificates, server_tls

from lb_probe.core.notice import Notice, Stage
from lb_probe.events.mail import Mail, Server, message_of
from lb_probe.events.wire import Trust
from lb_probe.ports import Letter, NotDelivered

WALL = 1_767_225_600.0
ALL = ("ops@example.com", "boss@example.com")
INJECTION = "epmm\r\nBcc: eve@example.com\r\n\r\n<script>alert(1)</script>\x1b[2J"


def mail(port, to=ALL, *, security="none", ca=None, login=False, timeout_s=5.0, password=PASSWORD):
    server = Server(
        "127.0.0.1",
        port,
        security,
        Trust(ca),
        USER if login else None,
        (lambda: password) if login else None,
    )
    return Mail("ops", server, "lb-probe@example.com", to, timeout_s=timeout_s, wall=lambda: WALL)


def letter(*notices, **more):
    found = notices or (notice("k1", "failed-over", stage=Stage.OPEN, alarm="epmm/moved/1"),)
    return Letter(found, found[0].key, "prober on here", **more)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def test_a_message_says_all_in_plain_text_and_in_one_conversation():
    told = Notice(
        "k1",
        "failed-over",
        "epmm: failed over from epmm-a to epmm-b by itself",
        WALL,
        stage=Stage.OPEN,
        alarm="epmm/moved/1",
        group="epmm",
        why="epmm-a status: 12 failures in a row; rule P9",
        now="Traffic is on epmm-b, latched",
        safe="it can wait for daylight",
        do="lb-probe ack epmm --reason '...'",
    )
    async with mail_server() as server:
        await mail(server.port).send(letter(told, links=("https://wiki/runbook#failed-over",)))
        (message,) = server.messages
    assert server.taken[0][:2] == ("lb-probe@example.com", list(ALL))
    assert message["Subject"] == (
        "[lb-probe] CRITICAL epmm: failed over from epmm-a to epmm-b by itself"
    )
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Importance"] == "high"
    assert message["From"] == "lb-probe <lb-probe@example.com>"
    assert message["To"] == "ops@example.com, boss@example.com"
    assert message.get_content_type() == "text/plain"
    assert message.get_content().splitlines() == [
        "CRITICAL epmm: failed over from epmm-a to epmm-b by itself",
        "",
        "When: 2026-01-01 00:00:00 UTC",
        "Why:  epmm-a status: 12 failures in a row; rule P9",
        "Now:  Traffic is on epmm-b, latched",
        "Safe: it can wait for daylight",
        "Do:   lb-probe ack epmm --reason '...'",
        "More: https://wiki/runbook#failed-over",
        "",
        "-- prober on here",
    ]


def test_the_same_letter_has_the_same_id_and_one_alarm_is_one_conversation():
    """Duplicates after a crash: a mail system that sees an id twice shows it once."""
    first, again = (headers(letter()) for _ in range(2))
    over = headers(letter(notice("k2", stage=Stage.OVER, alarm="epmm/moved/1")))
    assert first["Message-ID"] == again["Message-ID"] != over["Message-ID"]
    assert first["References"] == over["References"]


def headers(found):
    raw = message_of(found, "lb-probe@example.com", ALL, WALL).split(b"\r\n\r\n")[0]
    return dict(line.split(": ", 1) for line in raw.decode().split("\r\n") if ": " in line)


async def test_no_name_and_no_reason_becomes_a_header_or_markup():
    """Bad input: header injection through names and reasons; HTML is text."""
    evil = notice("k", why=INJECTION, do=INJECTION, node=INJECTION, alarm=INJECTION)
    evil = Notice(
        **{**{f: getattr(evil, f) for f in evil.__dataclass_fields__}, "title": INJECTION}
    )
    async with mail_server() as server:
        await mail(server.port).send(Letter((evil,), INJECTION, INJECTION))
        (message,) = server.messages
    assert message["Bcc"] is None
    assert server.taken[0][1] == list(ALL)
    assert message.get_content_type() == "text/plain"
    assert "<script>alert(1)</script>" in message.get_content()
    assert "\x1b" not in message.get_content()
    assert not any(line.startswith("Bcc") for line in message.get_content().splitlines())


async def test_starttls_and_a_login(certificates):
    tls = server_tls(certificates, "address")
    async with mail_server(tls, login=True) as server:
        ca = certificates / "ca.pem"
        await mail(server.port, security="starttls", ca=ca, login=True).send(letter())
        assert (len(server.taken), server.encrypted, len(server.logins)) == (1, [True], 1)


async def test_tls_from_the_first_byte(certificates):
    tls = server_tls(certificates, "address")
    async with mail_server(tls, implicit=True) as server:
        await mail(server.port, security="tls", ca=certificates / "ca.pem").send(letter())
        assert len(server.taken) == 1


async def refused(channel, found=None) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        await channel.send(found or letter())
    return caught.value


async def test_nothing_is_sent_where_encryption_is_wanted_and_not_to_be_had(certificates):
    ca = certificates / "ca.pem"
    async with mail_server() as server:  # offers no STARTTLS
        error = await refused(mail(server.port, security="starttls", ca=ca))
        assert (error.is_busy, server.taken) == (True, [])
    async with mail_server(server_tls(certificates, "good")) as server:  # another name
        error = await refused(mail(server.port, security="starttls", ca=ca))
        assert "certificate" in str(error).lower()
        assert (error.is_busy, server.taken) == (True, [])
        other = certificates / "other-ca.pem"
        assert (await refused(mail(server.port, security="starttls", ca=other))).is_busy
        missing = certificates / "missing.pem"
        assert "ca_file" in str(await refused(mail(server.port, security="starttls", ca=missing)))


async def test_a_wrong_password_is_ours_to_mend_and_names_no_secret(certificates):
    async with mail_server(server_tls(certificates, "address"), login=True) as server:
        ca = certificates / "ca.pem"
        wrong = mail(server.port, security="starttls", ca=ca, login=True, password="hunter2")
        error = await refused(wrong)
    assert (error.is_busy, error.is_final) == (True, False)
    assert "password_file" in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("place", "answer", "is_final", "is_busy"),
    [
        ("recipients", "450 4.2.0 greylisted", False, False),
        ("recipients", "550 5.1.1 unknown", True, False),
        ("message", "451 4.3.0 later", False, False),
        ("message", "554 5.7.1 spam", True, False),
        ("sender", "450 4.1.8 no such domain yet", False, True),
        ("sender", "550 5.7.1 not yours", False, True),
    ],
)
async def test_what_is_put_off_is_repeated_and_what_is_refused_is_not(
    place, answer, is_final, is_busy
):
    """Greylisting 4xx against permanent 5xx."""
    async with mail_server() as server:
        channel = mail(server.port)
        if place == "recipients":
            server.refused = dict.fromkeys(ALL, answer)
        elif place == "message":
            server.answer = answer
        else:
            server.sender_answer = answer
        error = await refused(channel)
        assert (error.is_final, error.is_busy) == (is_final, is_busy)
        assert answer[:3] in str(error)
        server.refused, server.answer, server.sender_answer = {}, "", ""
        await channel.send(letter())
        assert len(server.taken) == 1


async def test_who_has_taken_it_does_not_get_it_twice():
    three = ("a@example.com", "b@example.com", "c@example.com")
    async with mail_server() as server:
        channel = mail(server.port, three)
        server.refused = {three[1]: "450 greylisted", three[2]: "550 unknown"}
        assert not (await refused(channel)).is_final
        server.refused = {three[2]: "550 unknown"}
        await channel.send(letter())  # the one that was put off; the unknown one is let go
        assert [to for _, to, _ in server.taken] == [[three[0]], [three[1]]]
        await refused(channel, letter(notice("k2")))  # the next letter is for all again
        assert server.taken[-1][1] == [three[0], three[1]]


async def test_a_server_that_hangs_ends_with_its_time(running, clock, events):
    async with mail_server() as server:
        server.hangs.set()
        channel = mail(server.port, timeout_s=0.2)
        async with running(route(channel)) as box:
            await box.put(notice("a"))
            await settled(clock, lambda: events.named("notify.failed"))
            server.hangs.clear()
            channel.timeout_s = 5.0  # a whole letter may take a busy machine longer than 0.2 s
            await settled(clock, lambda: server.taken)


async def test_a_server_that_is_down_for_ten_minutes_then_takes_each_once(running, clock, events):
    """R95, on a real server: refused connections, then delivered once, in order."""
    async with mail_server() as server:
        port = server.port
    channel = mail(port)
    async with running(route(channel)) as box:
        await box.put(notice("a"), notice("b"))
        await settled(clock, lambda: events.named("notify.failed"))
        for _ in range(60):
            await clock.advance(10.0)
            await asyncio.sleep(0.002)
        assert len(events.named("notify.failing")) >= 5
        async with mail_server(port=port) as server:
            await settled(clock, lambda: len(server.taken) == 2, 180.0)
            await clock.advance(300.0)
            subjects = [message["Subject"] for message in server.messages]
    assert subjects == ["[lb-probe] WARNING epmm: a", "[lb-probe] WARNING epmm: b"]
    assert "is not reached" in events.named("notify.failed")[0]["detail"]


async def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("lb_probe.events.mail.find_spec", lambda name: None)
    error = await refused(mail(1))
    assert "pip install 'lb-probe[mail]'" in str(error)
    assert error.is_busy
