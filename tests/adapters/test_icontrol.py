"""One BIG-IP unit: logins, deadlines, what an answer means. Against the emulator."""

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import f5_bench as f5
import pytest
from emulator import Condition, Emulator, faults

from lb_probe.adapters.icontrol import Busy, Denied, Missing, unit, wire
from lb_probe.adapters.icontrol.answers import judge
from lb_probe.adapters.icontrol.beside import Beside
from lb_probe.ports import PublishError, Unreachable
from lb_probe.prober.http_probe import TlsSettings, make_ssl_context

LOGIN = "/mgmt/shared/authn/login"
STATUS = ("tm", "cm", "failover-status")
POOL = ("tm", "ltm", "pool", f5.POOL)


class Time:
    """Monotonic seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[f5.Bench]:
    async with Emulator.single() as emulator:
        emulator.add_pool(f5.POOL, *f5.MEMBERS)
        async with f5.Bench(emulator, tmp_path) as made:
            yield made


def paths(bench: f5.Bench, method: str = "") -> list[str]:
    log = bench.emulator.unit(0).log
    return [seen.raw_path for seen in log if method in ("", seen.method)]


# ------------------------------------------------------------------ tokens
async def test_one_login_serves_all_and_is_given_back_at_the_end(bench: f5.Bench) -> None:
    made, logins = bench.unit(0), bench.emulator.unit(0).logins
    await asyncio.gather(*(made.get(*STATUS) for _ in range(20)))
    assert (logins.made, len(logins.tokens)) == (1, 1)
    await made.close()
    assert logins.tokens == {}


async def test_a_token_is_renewed_beside_before_it_ends_and_the_old_one_given_back(
    bench: f5.Bench,
) -> None:
    time = Time()
    made, logins = bench.unit(0, now=time), bench.emulator.unit(0).logins
    await made.get(*STATUS)
    time.now = 0.79 * 1200
    await made.get(*STATUS)
    assert logins.made == 1
    time.now = 0.81 * 1200
    bench.emulator.unit(0).faults.next(faults.slow(0.2), path=LOGIN)
    await asyncio.wait_for(made.get(*STATUS), 0.15)  # does not wait for the login
    await until(lambda: logins.made == 2 and len(logins.tokens) == 1)
    await made.get(*STATUS)
    assert logins.made == 2


async def test_a_token_that_has_ended_is_replaced_before_it_is_used(bench: f5.Bench) -> None:
    time = Time()
    made = bench.unit(0, now=time)
    await made.get(*STATUS)
    time.now = 1180.0
    bench.emulator.clock.advance(1300)
    await made.get(*STATUS)
    log = bench.emulator.unit(0).log
    assert [seen.status for seen in log if seen.method != "DELETE"] == [200] * 4


@pytest.mark.parametrize("fault", [faults.spurious_401(), faults.token_revoked()])
async def test_a_401_amid_work_is_answered_by_one_login_and_leaves_no_token_behind(
    bench: f5.Bench, fault: faults.Fault
) -> None:
    made, logins = bench.unit(0), bench.emulator.unit(0).logins
    await made.get(*STATUS)
    bench.emulator.faults.next(fault, path="failover-status")
    assert (await made.get(*STATUS))["kind"]
    await until(lambda: len(logins.tokens) == 1)
    assert logins.made == 2


async def test_401s_without_end_make_no_storm_of_logins(bench: f5.Bench) -> None:
    made = bench.unit(0)
    bench.emulator.faults.next(faults.spurious_401(), path="failover-status", times=1000)
    for _ in range(50):
        with pytest.raises(Busy, match="with a new token neither"):
            await made.get(*STATUS)
        await asyncio.sleep(0.005)
    assert paths(bench).count(LOGIN) <= 6


async def test_a_login_goes_on_when_its_caller_gives_up(bench: f5.Bench) -> None:
    """A reading has a deadline; the token of a login that was broken off would have no owner."""
    made, logins = bench.unit(0), bench.emulator.unit(0).logins
    bench.emulator.faults.next(faults.slow(0.2), path=LOGIN)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.get(*STATUS), 0.02)
    await made.get(*STATUS)
    assert (logins.made, len(logins.tokens)) == (1, 1)


async def test_work_that_is_ended_before_its_first_step_leaves_nothing_behind() -> None:
    """A warning about it would be an error here."""
    held = Beside()
    guess = held.start(asyncio.sleep(0))
    await held.close()
    assert guess.cancelled()
    del guess
    gc.collect()


async def test_a_user_with_the_most_tokens_is_told_and_not_stormed(bench: f5.Bench) -> None:
    made = bench.unit(0)
    bench.emulator.unit(0).logins.limit = 0
    for _ in range(5):
        with pytest.raises(Denied, match="has the most tokens that it may have"):
            await made.get(*STATUS)
    assert paths(bench) == [LOGIN]


# ------------------------------------------------------------------ refused logins
async def test_a_refused_login_is_tried_twice_and_then_not_before_the_file_changes(
    bench: f5.Bench,
) -> None:
    """Issue: no lock-out by retries; stop after the second refusal and say so."""
    time = Time()
    made, logins = bench.unit(0, now=time), bench.emulator.unit(0).logins
    bench.password_file.write_text("wrong\n")
    with pytest.raises(Denied, match="tried once more after 2s"):
        await made.get(*STATUS)
    with pytest.raises(Denied):
        await made.get(*STATUS)
    assert logins.refusals == 1  # not at once
    for time.now in (2.0, 100.0, 10_000.0):
        with pytest.raises(Denied, match="2 times; not tried any more, so that the account is not"):
            await made.get(*STATUS)
    assert logins.refusals == 2
    bench.password_file.write_text("probe-secret\n")
    await made.get(*STATUS)
    assert logins.refusals == 2


async def test_a_file_that_is_touched_is_tried_again(bench: f5.Bench) -> None:
    time = Time()
    made, logins = bench.unit(0, now=time), bench.emulator.unit(0).logins
    user = logins.users["lb-probe"]
    user.is_expired = True
    for time.now in (0.0, 3.0, 6.0):
        with pytest.raises(Denied):
            await made.get(*STATUS)
    user.is_expired = False
    with pytest.raises(Denied):
        await made.get(*STATUS)
    bench.password_file.touch()
    await made.get(*STATUS)


async def test_a_401_of_the_web_server_says_nothing_of_the_password(bench: f5.Bench) -> None:
    """It is what everybody gets while the REST service starts: never a step towards a lock."""
    made, device = bench.unit(0), bench.emulator.unit(0)
    device.condition = Condition.RESTJAVAD_DOWN
    for _ in range(4):
        with pytest.raises(Busy, match="lets nobody in now"):
            await made.get(*STATUS)
        made._busy_until = 0.0
    device.condition = Condition.RUNNING
    await made.get(*STATUS)


async def test_a_password_that_cannot_be_read_is_told(bench: f5.Bench) -> None:
    made = bench.unit(0, password_file=bench.password_file.with_name("none"))
    with pytest.raises(PublishError, match="none cannot be read: No such file"):
        await made.get(*STATUS)
    assert paths(bench) == []


async def test_neither_password_nor_token_is_ever_shown(
    bench: f5.Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made, device = bench.unit(0), bench.emulator.unit(0)
    told: list[str] = []
    for fault in (*ODD, faults.busy(), faults.spurious_401(), faults.cut_after()):
        for path in (LOGIN, "failover-status", "authz/tokens"):
            made._busy_until, made._token = 0.0, ""
            device.faults.next(fault, path=path, times=2)
            try:
                await made.get(*STATUS)
            except PublishError as error:
                told += [str(error), repr(error.__context__), repr(error.__cause__)]
            device.faults.clear()
    bench.password_file.write_text("hunter2\n")
    made._token = ""
    with pytest.raises(Denied) as caught:
        await made.get(*STATUS)
    text = "\n".join([*told, str(caught.value), caplog.text])
    words = ["probe-secret", "hunter2", *device.logins.tokens, made._token or "probe-secret"]
    assert len(told) > 20
    assert [word for word in words if word in text] == []


# ------------------------------------------------------------------ what an answer means
ODD = (
    faults.html_200(),
    faults.garbage(),
    faults.json_list(),
    faults.truncated(),
    faults.login_page(),
    faults.empty(),
)


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (faults.html_200(), PublishError, "found 200 and '.*'; wanted JSON"),
        (faults.garbage(), PublishError, "found 200 and '.*'; wanted JSON"),
        (faults.json_list(), PublishError, "JSON that is no object"),
        (faults.truncated(), Unreachable, "cut off"),
        (faults.login_page(), PublishError, r"redirect \(302\) to /tmui/login.jsp; .*unit's own"),
        (faults.busy(), Busy, "503: 'There is an active asynchronous task executing.'"),
        (faults.restarting(), Busy, "503: '.*Configuration Utility restarting"),
        (faults.mcpd_lost(), Busy, "500: 'The connection to mcpd has been lost"),
        (faults.async_timeout(is_applied=False), Busy, "AsyncContext timeout"),
        (faults.unregistered(), Busy, "the REST service is starting"),
        (faults.provisioning(), Busy, "01071003"),
        (faults.lost_object(), Missing, "was not found"),
        (faults.cut_before(), Unreachable, "without an answer|reset"),
        (faults.slow(5.0), Unreachable, "no answer within 0.3s"),
    ],
)
async def test_every_odd_answer_is_told_for_what_it_is(
    bench: f5.Bench, fault: faults.Fault, kind: type[PublishError], text: str
) -> None:
    """Issue, bad input: pages, wrong JSON, cut bodies, redirects, and the table of what passes."""
    made = bench.unit(0, timeout_s=0.3)
    await made.get(*STATUS)
    bench.emulator.faults.next(fault, path="failover-status", times=2)  # aiohttp repeats a GET once
    with pytest.raises(kind, match=text) as caught:
        await made.get(*STATUS)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(made.host)
    assert "<" not in str(caught.value)
    bench.emulator.faults.clear()
    made._busy_until = 0.0
    assert (await made.get(*STATUS))["kind"]


@pytest.mark.parametrize("fault", ODD)
async def test_an_odd_answer_to_a_login_is_no_refusal(bench: f5.Bench, fault: faults.Fault) -> None:
    made = bench.unit(0)
    bench.emulator.faults.next(fault, path=LOGIN)
    with pytest.raises(PublishError) as caught:
        await made.get(*STATUS)
    assert not isinstance(caught.value, Denied)
    await made.get(*STATUS)


async def test_a_busy_unit_is_left_alone_for_a_while_and_longer_each_time(
    bench: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit.random, "uniform", lambda low, high: high)
    time = Time()
    made = bench.unit(0, now=time)
    await made.get(*STATUS)
    bench.emulator.faults.next(faults.busy(), times=1000)
    asked = []
    for step in range(400):
        time.now = step / 10
        before = len(paths(bench))
        with pytest.raises(Busy, match="asynchronous task"):
            await made.get(*STATUS)
        asked += [time.now] * (len(paths(bench)) - before)
    gaps = [round(later - sooner, 3) for sooner, later in itertools.pairwise(asked)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(10.0, abs=0.2)
    bench.emulator.faults.clear()
    time.now += 10.0
    await made.get(*STATUS)
    assert made._busy_until <= time.now


async def test_what_a_role_may_not_do_is_told_with_the_page_that_helps(bench: f5.Bench) -> None:
    bench.password_file.write_text("guest-secret")
    made = bench.unit(0, username="guest")
    with pytest.raises(PublishError, match=r"guest may not do this \(400\).*docs/f5.md"):
        await made.save()


def test_the_code_inside_of_an_answer_wins_over_its_status() -> None:
    with pytest.raises(Missing, match="gone"):
        judge("x", "me", 200, b'{"code": 404, "message": "gone"}')


async def test_a_lake_of_an_answer_is_refused(
    bench: f5.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.unit(0)
    await made.get(*STATUS)
    monkeypatch.setattr(wire, "LARGEST_ANSWER", 100)
    with pytest.raises(PublishError, match="more than 100 bytes"):
        await made.get(*STATUS)


# ------------------------------------------------------------------ addresses and certificates
@pytest.mark.parametrize("name", ["10.0.0.1%10:80", "2001:db8::1.443", "2001:db8::1%7.443"])
async def test_a_member_of_any_name_is_reached(bench: f5.Bench, name: str) -> None:
    """A route domain arrives as %25, or it would be another member, or a control character."""
    bench.emulator.add_pool("/Common/odd", name)
    full = f"/Common/{name}"
    found = await bench.unit(0).get("tm", "ltm", "pool", "/Common/odd", "members", full)
    assert found["fullPath"] == full
    assert paths(bench)[-1].endswith(name.replace("%", "%25"))


@pytest.mark.parametrize(
    ("certificate", "text"),
    [("expired", "certificate has expired"), ("other-name", "not valid for '127.0.0.1'")],
)
async def test_a_certificate_that_is_not_right_is_told_before_the_password_is_sent(
    tmp_path: Path, certificate: str, text: str
) -> None:
    async with (
        Emulator.single(tls=certificate) as emulator,
        f5.Bench(emulator, tmp_path) as bench,
    ):
        with pytest.raises(Unreachable, match=rf"certificate not taken: .*{text}.*compare `tls`"):
            await bench.unit(0).get(*STATUS)
        assert emulator.unit(0).log == []


async def test_a_certificate_for_another_name_is_taken_where_that_is_said(tmp_path: Path) -> None:
    async with (
        Emulator.single(tls="other-name") as emulator,
        f5.Bench(emulator, tmp_path) as bench,
    ):
        name = "bigip.example.net"
        tls = make_ssl_context(emulator.ca_file, name)
        assert await bench.unit(0, tls=tls, server_name=name).get(*STATUS)


async def test_a_pinned_certificate_is_the_only_one_that_is_taken(bench: f5.Bench) -> None:
    for pin, is_taken in ((await _fingerprint(bench), True), ("0" * 64, False)):
        settings = TlsSettings(server_name="127.0.0.1", fingerprint=pin, insecure=True)
        made = bench.unit(0, tls=make_ssl_context(settings))
        if is_taken:
            await made.get(*STATUS)
            continue
        bench.emulator.unit(0).log.clear()
        with pytest.raises(Unreachable, match=f"wanted {pin}"):
            await made.get(*STATUS)
        assert bench.emulator.unit(0).log == []


async def _fingerprint(bench: f5.Bench) -> str:
    import hashlib
    import ssl

    host, port = bench.emulator.urls[0].removeprefix("https://").split(":")
    pem = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


# ------------------------------------------------------------------ saves
async def test_saves_that_are_asked_for_while_one_runs_share_the_next(bench: f5.Bench) -> None:
    made, device = bench.unit(0), bench.emulator.unit(0)
    bench.emulator.faults.next(faults.slow(0.1), method="POST", path="/sys/config")
    first = asyncio.ensure_future(made.save())
    await until(lambda: len(paths(bench, "POST")) >= 1)
    await asyncio.gather(first, *(made.save() for _ in range(5)))
    assert device.saves == 2


async def until(is_true: Any) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - the emulator's own state
            await asyncio.sleep(0.005)
