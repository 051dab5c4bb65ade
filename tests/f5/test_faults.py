"""Everything that goes wrong on the way to a device, each as a client sees it."""

import asyncio
import ssl
from collections.abc import Callable

import aiohttp
import pytest
from emulator import Condition, Emulator, faults
from emulator.faults import Fault
from rest_client import OFFLINE, OLD, POOL, Rest, configured

OFF = ("user-down", "user-disabled")
UP = ("up", "monitor-enabled")


@pytest.mark.parametrize(
    ("fault", "status", "words", "state"),
    [
        (faults.busy(), 503, "There is an active asynchronous task executing.", UP),
        (faults.restarting(), 503, "Configuration Utility restarting...", UP),
        (faults.restjavad_down(), 401, "401 Unauthorized", UP),
        (faults.mcpd_lost(), 500, "The connection to mcpd has been lost, try again.", UP),
        (faults.async_timeout(is_applied=False), 500, "AsyncContext timeout", UP),
        (faults.async_timeout(is_applied=True), 500, "AsyncContext timeout", OFF),
        (faults.spurious_401(), 401, "no user authentication header or token detected", UP),
        (faults.unregistered(), 404, "Public URI path not registered: /tm/ltm/pool/?Common", UP),
        (faults.lost_object(), 404, "01020036:3: The requested Pool (/Common/core) was not", UP),
        (faults.provisioning(), 400, "01071003:3: A previous provisioning operation", UP),
        (faults.token_limit(), 400, "has reached maximum active login tokens", UP),
        (faults.html_200(), 200, "<html>", OFF),
        (faults.garbage(), 200, "{not json", OFF),
        (faults.login_page(), 302, "", UP),
        (faults.hollow(), 200, "generation", UP),
        (faults.created_not_found(), 404, "Object not found - ", OFF),
    ],
    ids=lambda value: value.name + value.is_applied * "+" if isinstance(value, Fault) else "",
)
async def test_a_fault_answers_for_the_device(
    bigip: Emulator, rest: Rest, fault: Fault, status: int, words: str, state: tuple[str, str]
) -> None:
    """Facts 5, in the device's words; and whether the request was carried out."""
    bigip.unit(0).faults.next(fault, method="PATCH", path="/members/")
    answer = await answer_text(rest, "PATCH", OLD, OFFLINE)
    assert answer[0] == status
    assert words in answer[1]
    assert await rest.states(OLD) == state
    assert bigip.unit(0).faults.pending == 0


async def answer_text(rest: Rest, method: str, path: str, body: object) -> tuple[int, str]:
    """Ask as `Rest` does, and read no JSON."""
    url = f"{rest._base}/mgmt/tm/{path}"
    how = {"json": body, "headers": {"X-F5-Auth-Token": rest.token}, "allow_redirects": False}
    async with rest._session.request(method, url, **how) as answer:  # type: ignore[arg-type]
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("fault", "error", "state"),
    [
        (faults.cut_before(), aiohttp.ClientError, UP),
        (faults.cut_after(), aiohttp.ClientError, OFF),
        (faults.truncated(), aiohttp.ClientPayloadError, OFF),
    ],
    ids=["cut-before", "cut-after", "truncated"],
)
async def test_a_connection_ends_in_the_middle(
    bigip: Emulator, rest: Rest, fault: Fault, error: type[Exception], state: tuple[str, str]
) -> None:
    bigip.faults.next(fault, method="PATCH")
    with pytest.raises(error):
        await rest.ask("PATCH", OLD, OFFLINE)
    assert await rest.states(OLD) == state


@pytest.mark.parametrize("make", [faults.slow, faults.late])
async def test_a_write_is_carried_out_though_nobody_waited(
    bigip: Emulator, rest: Rest, make: Callable[[float], Fault]
) -> None:
    """It may even land after the client has given up."""
    bigip.faults.next(make(0.1), method="PATCH")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.03):
            await rest.ask("PATCH", OLD, OFFLINE)
    at_once = bigip.unit(0).member("/Common/epmm", "/Common/192.0.2.10:443")["state"]
    assert at_once == ("user-down" if make is faults.slow else "up")
    async with asyncio.timeout(5):
        while await rest.states(OLD) != OFF:  # noqa: ASYNC110 - it lands when it lands
            await asyncio.sleep(0.02)


async def test_faults_come_in_the_order_and_number_they_were_planned(
    bigip: Emulator, rest: Rest
) -> None:
    bigip.unit(0).faults.next(faults.busy(), method="GET", path="/ltm/pool", skip=1, times=2)
    seen = [(await rest.ask("GET", POOL)).status for _ in range(5)]
    assert seen == [200, 503, 503, 200, 200]
    assert [line.fault for line in bigip.unit(0).log[-5:]] == ["", "busy", "busy", "", ""]


async def test_a_revoked_token_is_unknown_from_then_on(bigip: Emulator, rest: Rest) -> None:
    bigip.faults.next(faults.token_revoked())
    for _ in range(2):
        assert (await rest.ask("GET", POOL)).message == "X-F5-Auth-Token does not exist."
    await rest.login()
    assert (await rest.ask("GET", POOL)).status == 200


async def test_a_restart_of_mcpd_goes_through_all_its_answers(bigip: Emulator, rest: Rest) -> None:
    """Facts 5: what exists is not found for a while, and only `ready` tells."""
    unit = bigip.unit(0)
    unit.restart_mcpd(lost_s=10, page_s=10, starting_s=10)
    assert (await rest.ask("GET", POOL)).body["apiError"] == 32768001
    assert (await rest.ask("GET", "sys/ready")).status == 500
    bigip.clock.advance(10)
    assert (await rest.ask("GET", POOL)).kind == "text/html"
    bigip.clock.advance(10)
    gone = await rest.ask("GET", POOL)
    assert gone.message == "01020036:3: The requested Pool (/Common/epmm) was not found."
    assert (await rest.ask("PATCH", OLD, OFFLINE)).status == 404
    ready = str(await rest.get("sys/ready"))
    assert "'configReady': {'description': 'no'}" in ready
    assert "entries" not in await rest.get("cm/failover-status")
    assert await rest.get("ltm/pool") == {
        "kind": "tm:ltm:pool:poolcollectionstate",
        "selfLink": "https://localhost/mgmt/tm/ltm/pool?ver=17.1.2.1",
    }
    bigip.clock.advance(10)
    assert await rest.states(OLD) == UP
    assert "'no'" not in str(await rest.get("sys/ready"))


@pytest.mark.parametrize(
    ("condition", "status", "words"),
    [
        (Condition.RESTJAVAD_DOWN, 401, "401 Unauthorized"),
        (Condition.RESTJAVAD_STARTING, 404, "Public URI path not registered"),
        (Condition.RESTARTING, 503, "Configuration Utility restarting..."),
        (Condition.UNLICENSED, 400, "01070356:3: LTM feature not licensed."),
    ],
)
async def test_a_unit_is_in_a_condition(
    bigip: Emulator, rest: Rest, condition: Condition, status: int, words: str
) -> None:
    bigip.unit(0).condition = condition
    seen = await answer_text(rest, "PATCH", OLD, OFFLINE)
    assert seen[0] == status
    assert words in seen[1]
    bigip.unit(0).condition = Condition.RUNNING
    assert await rest.states(OLD) == UP


@pytest.mark.parametrize("condition", [Condition.OFF, Condition.HUNG])
async def test_a_unit_that_is_off_resets_and_a_hung_one_is_silent(
    bigip: Emulator, rest: Rest, condition: Condition
) -> None:
    bigip.unit(0).condition = condition
    with pytest.raises(TimeoutError if condition is Condition.HUNG else aiohttp.ClientError):
        async with asyncio.timeout(0.1):
            await rest.ask("GET", POOL)


@pytest.mark.parametrize("kind", ["good", "expired", "other-name"])
async def test_a_certificate_may_be_bad(kind: str) -> None:
    async with configured(Emulator.single(tls=kind)) as emulator, aiohttp.ClientSession() as client:
        trusting = ssl.create_default_context(cafile=str(emulator.ca_file))
        answer = client.get(f"{emulator.urls[0]}/mgmt/tm/sys", ssl=trusting)
        if kind == "good":
            async with answer as response:
                assert response.status == 401
        else:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await answer


async def test_a_slow_unit_is_slow_for_each_call(bigip: Emulator, rest: Rest) -> None:
    bigip.unit(0).call_s = 0.05
    loop = asyncio.get_running_loop()
    began = loop.time()
    await rest.ask("GET", POOL)
    assert loop.time() - began >= 0.05
    bigip.unit(0).call_s, bigip.unit(0).save_s = 0, 0.05
    began = loop.time()
    await rest.ask("POST", "sys/config", {"command": "save"})
    assert loop.time() - began >= 0.05


async def test_connections_that_were_kept_are_stale(bigip: Emulator) -> None:
    """A client that keeps them finds out with its next request."""
    host, _, port = bigip.urls[0].removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /mgmt/tm/sys HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401 ")
    bigip.drop_connections()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(100_000)
    writer.close()
