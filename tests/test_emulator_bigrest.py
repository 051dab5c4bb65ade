"""The emulator, asked by bigrest as it comes from the registry."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from bigrest.bigip import BIGIP
from bigrest.common.exceptions import RESTAPIError
from emulator import Emulator, faults

POOL = "/mgmt/tm/ltm/pool/~Common~epmm"
OLD = f"{POOL}/members/~Common~192.0.2.10:443"
NEW = f"{POOL}/members/~Common~192.0.2.11:443"
OFFLINE = {"session": "user-disabled", "state": "user-down"}
ENABLED = {"session": "user-enabled", "state": "user-up"}


@pytest.fixture
async def bigip(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    async with Emulator.pair() as emulator:
        emulator.add_pool("/Common/epmm", "192.0.2.10:443", "192.0.2.11:443", monitor="https")
        emulator.force_offline("/Common/epmm", "192.0.2.11:443")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(emulator.ca_file))
        yield emulator


async def with_client(bigip: Emulator, do: Callable[[BIGIP], Any], unit: int = 0) -> Any:
    def run() -> Any:
        host = bigip.urls[unit].removeprefix("https://")
        client = BIGIP(host, bigip.user, bigip.password, request_token=True)
        with client.session:
            return do(client)

    return await asyncio.to_thread(run)


def states(client: BIGIP) -> list[tuple[str, str]]:
    members = [m.properties for m in client.load(f"{POOL}/members")]
    return [(m["session"], m["state"]) for m in members]


async def test_a_flip_in_a_transaction_reads_back_in_other_words(bigip: Emulator) -> None:
    """Facts 2 and 4: nothing happens before the commit, and GET never says what was written."""

    def flip(client: BIGIP) -> Any:
        before = states(client)
        with client:
            client.modify(OLD, OFFLINE)
            client.modify(NEW, ENABLED)
            queued = states(client)
        return before, queued, states(client)

    before, queued, after = await with_client(bigip, flip)
    assert before == queued == [("monitor-enabled", "up"), ("user-disabled", "user-down")]
    assert after == [("user-disabled", "user-down"), ("monitor-enabled", "checking")]


async def test_what_a_member_says_may_not_be_written_back(bigip: Emulator) -> None:
    def write_back(client: BIGIP) -> None:
        client.modify(OLD, {"state": "up"})

    with pytest.raises(RESTAPIError, match="invalid property value"):
        await with_client(bigip, write_back)


async def test_a_cut_after_the_commit_has_flipped(bigip: Emulator) -> None:
    bigip.faults.next(faults.cut_after(), method="PATCH", path="/transaction/")

    def flip(client: BIGIP) -> None:
        with client:
            client.modify(OLD, OFFLINE)
            client.modify(NEW, ENABLED)

    with pytest.raises(OSError, match="Connection"):
        await with_client(bigip, flip)
    assert (await with_client(bigip, states))[0] == ("user-disabled", "user-down")
