"""The emulator, asked by bigrest as it comes from the registry."""

from collections.abc import Callable
from typing import Any

import pytest
from bigrest.bigip import BIGIP
from bigrest.common.exceptions import RESTAPIError
from emulator import Emulator, faults
from rest_client import DRAINED, ENABLED, OFFLINE, in_thread, trace

POOL = "/mgmt/tm/ltm/pool/~Common~epmm"
OLD = f"{POOL}/members/~Common~192.0.2.10:443"
NEW = f"{POOL}/members/~Common~192.0.2.11:443"
UP = ("monitor-enabled", "up")
OFF = ("user-disabled", "user-down")


async def with_client(
    bigip: Emulator, do: Callable[[BIGIP], Any], unit: int = 0, **how: Any
) -> Any:
    def run() -> Any:
        host = bigip.urls[unit].removeprefix("https://")
        who = {"username": bigip.user, "password": bigip.password, "request_token": True}
        client = BIGIP(host, **(who | how))
        with client.session:
            return do(client)

    return await in_thread(run)


def states(client: BIGIP) -> list[tuple[str, str]]:
    members = [m.properties for m in client.load(f"{POOL}/members")]
    return [(m["session"], m["state"]) for m in members]


def flip(client: BIGIP) -> Any:
    with client:
        client.modify(OLD, OFFLINE)
        client.modify(NEW, ENABLED)
        queued = states(client)
    return queued, states(client)


@pytest.mark.filterwarnings("ignore:Non-string")  # it sends Basic None:None beside the token
async def test_what_it_asks_first(tls_bigip: Emulator) -> None:
    """Facts 10: the calls at a start, by each of its ways to log in."""
    await with_client(tls_bigip, lambda client: client.load(POOL))
    login = "POST /mgmt/shared/authn/login"
    assert trace(tls_bigip) == [login, f"GET {POOL}"]
    tls_bigip.unit(0).log.clear()
    how = {"request_token": False, "username": "admin", "password": "secret"}
    await with_client(tls_bigip, lambda client: client.load(POOL), **how)
    assert trace(tls_bigip) == ["GET /mgmt/shared/echo-query", f"GET {POOL}"]
    (token,) = tls_bigip.unit(0).logins.tokens  # it deletes none
    how = {"request_token": False, "username": None, "password": None, "token": token}
    await with_client(tls_bigip, lambda client: client.load(POOL), **how)
    assert trace(tls_bigip)[2:] == ["GET /mgmt/shared/echo-query", f"GET {POOL}"]


async def test_a_flip_in_a_transaction_reads_back_in_other_words(tls_bigip: Emulator) -> None:
    """Facts 2 and 4: nothing happens before the commit, and GET never says what was written."""
    queued, after = await with_client(tls_bigip, flip)
    assert queued == [UP, OFF]
    assert after == [OFF, ("monitor-enabled", "checking")]


async def test_it_reads_and_drains_and_shows_statistics(tls_bigip: Emulator) -> None:
    def look(client: BIGIP) -> Any:
        pool = client.load(f"{POOL}?expandSubcollections=true").properties
        items = [m["fullPath"] for m in pool["membersReference"]["items"]]
        drained = client.modify(OLD, DRAINED).properties
        shown = client.show(OLD).properties
        missing = client.exist(f"{POOL}/members/~Common~9.9.9.9:1"), client.exist(POOL)
        return items, drained["state"], shown["status.statusReason"]["description"], missing

    items, state, reason, missing = await with_client(tls_bigip, look)
    assert items == ["/Common/192.0.2.10:443", "/Common/192.0.2.11:443"]
    assert (state, reason) == ("up", "Pool member is available, user disabled")
    assert missing == (False, True)


async def test_it_validates_a_transaction_first(tls_bigip: Emulator) -> None:
    def validate(client: BIGIP) -> Any:
        client.transaction_create()
        client.modify(OLD, OFFLINE)
        client.transaction_validate()
        between = states(client)
        done = client.transaction_commit().properties["state"]
        return between, done, states(client)

    between, done, after = await with_client(tls_bigip, validate)
    assert (between, done, after) == ([UP, OFF], "COMPLETED", [OFF, OFF])


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda c: c.modify(OLD, {"state": "up"}), "invalid property value"),
        (lambda c: c.save(c.load(OLD)), "invalid property value|is read-only|may not be specified"),
        (lambda c: c.load(f"{POOL}x"), r"01020036:3: The requested Pool \(/Common/epmmx\)"),
        (lambda c: c.create("/mgmt/tm/ltm/pool", {"name": "epmm"}), "already exists"),
    ],
    ids=["read-only", "save", "missing", "twice"],
)
async def test_it_sees_what_is_refused(
    tls_bigip: Emulator, do: Callable[[BIGIP], Any], words: str
) -> None:
    with pytest.raises(RESTAPIError, match=words):
        await with_client(tls_bigip, do)
    assert await with_client(tls_bigip, states) == [UP, OFF]


async def test_it_commits_half_a_flip_when_its_block_raises(tls_bigip: Emulator) -> None:
    """Facts 4: why our adapter does not use it so."""

    def half(client: BIGIP) -> None:
        with client:
            client.modify(OLD, OFFLINE)
            raise KeyError("something else went wrong")

    with pytest.raises(KeyError):
        await with_client(tls_bigip, half)
    assert await with_client(tls_bigip, states) == [OFF, OFF]


async def test_it_saves_by_command_and_by_task_and_syncs(tls_bigip: Emulator) -> None:
    def work(client: BIGIP) -> Any:
        flip(client)
        client.command("/mgmt/tm/sys/config", {"command": "save"})
        task = client.task_start("/mgmt/tm/task/sys/config", {"command": "save"})
        client.task_wait(task, interval=0)
        words = {"command": "run", "utilCmdArgs": "config-sync to-group dg1"}
        client.command("/mgmt/tm/cm", words)
        return client.task_completed(task)

    assert await with_client(tls_bigip, work)
    tls_bigip.clock.advance(1)
    assert tls_bigip.unit(0).saves == 2
    await with_client(tls_bigip, states, unit=1)  # the peer took it over just now
    tls_bigip.clock.advance(1)
    assert await with_client(tls_bigip, states, unit=1) == [OFF, UP]


@pytest.mark.parametrize(
    ("fault", "error", "is_flipped"),
    [
        (faults.busy(), RESTAPIError, False),
        (faults.spurious_401(), RESTAPIError, False),
        (faults.cut_before(), OSError, False),
        (faults.cut_after(), OSError, True),
        (faults.truncated(), OSError, True),
        (faults.html_200(), ValueError, True),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_a_commit_goes_wrong_under_it(
    tls_bigip: Emulator, fault: faults.Fault, error: type[Exception], is_flipped: bool
) -> None:
    tls_bigip.faults.next(fault, method="PATCH", path="/transaction/")
    with pytest.raises(error):
        await with_client(tls_bigip, flip)
    seen = (await with_client(tls_bigip, states))[0]
    assert seen == (OFF if is_flipped else UP)


async def test_it_fails_for_ever_once_its_token_is_revoked(tls_bigip: Emulator) -> None:
    """Facts 1."""

    def work(client: BIGIP) -> None:
        tls_bigip.unit(0).logins.tokens.clear()
        for _ in range(2):
            with pytest.raises(RESTAPIError, match="X-F5-Auth-Token does not exist"):
                client.load(POOL)

    await with_client(tls_bigip, work)


async def test_it_moves_members_of_dns(tls_bigip: Emulator) -> None:
    tls_bigip.add_dns_pool("/Common/gslb", "dc-a:vs1", "dc-b:/Common/vs_1")
    path = "/mgmt/tm/gtm/pool/a/~Common~gslb/members"

    def work(client: BIGIP) -> Any:
        with client:
            client.modify(f"{path}/~Common~dc-a:vs1", {"disabled": True})
            client.modify(f"{path}/~Common~dc-b:~Common~vs_1", {"enabled": True})
        return [m.properties for m in client.load(path)]

    a, b = await with_client(tls_bigip, work)
    assert (a["disabled"], b["enabled"]) == (True, True)
