"""Members of pools of BIG-IP DNS: their flags, their names, and manual resume."""

from typing import Any

import pytest
from emulator import Emulator
from rest_client import Rest

POOL = "gtm/pool/a/~Common~gslb"
PLAIN = f"{POOL}/members/~Common~dc-a:vs1"
SLASHED = f"{POOL}/members/~Common~dc-b:~Common~vs_192.0.2.1-443"


@pytest.fixture
def dns(bigip: Emulator) -> Emulator:
    bigip.add_dns_pool(
        "/Common/gslb", "dc-a:vs1", "dc-b:/Common/vs_192.0.2.1-443", monitor="/Common/tcp"
    )
    return bigip


def flags(member: Any) -> dict[str, Any]:
    return {key: member[key] for key in ("enabled", "disabled") if key in member}


@pytest.mark.parametrize(
    ("body", "then"),
    [
        ({"disabled": True}, {"disabled": True}),
        ({"disabled": True, "enabled": False}, {"disabled": True}),
        ({"enabled": False}, {"enabled": True}),  # says nothing at all
        ({"enabled": True}, {"enabled": True}),
    ],
    ids=["disabled", "both-words", "false", "enabled"],
)
@pytest.mark.usefixtures("dns")
async def test_exactly_one_flag_is_shown_and_a_false_one_is_none(
    rest: Rest, body: Any, then: Any
) -> None:
    """Facts 3."""
    assert flags(await rest.get(PLAIN)) == {"enabled": True}
    assert flags(await rest.patch(PLAIN, body)) == then
    assert flags(await rest.get(PLAIN)) == then


@pytest.mark.usefixtures("dns")
async def test_both_flags_at_once_are_refused(rest: Rest) -> None:
    answer = await rest.ask("PATCH", PLAIN, {"enabled": True, "disabled": True})
    assert answer.status == 400


@pytest.mark.usefixtures("dns")
async def test_a_name_with_slashes_has_a_folder_made_of_its_server(rest: Rest) -> None:
    """Facts 3: identify members by their full path only."""
    member = await rest.patch(SLASHED, {"disabled": True})
    assert member["name"] == "vs_192.0.2.1-443"
    assert member["subPath"] == "dc-b:/Common"
    assert member["fullPath"] == "/Common/dc-b:/Common/vs_192.0.2.1-443"
    assert member["selfLink"].startswith(f"https://localhost/mgmt/tm/{SLASHED}?ver=")
    plain = await rest.get(PLAIN)
    assert (plain["name"], plain["partition"], "subPath" in plain) == ("dc-a:vs1", "Common", False)


@pytest.mark.usefixtures("dns")
async def test_what_is_not_there_has_another_error_than_in_ltm(rest: Rest) -> None:
    """Facts 3: members `Object not found` with apiError 1, pools 01020036."""
    member = await rest.ask("GET", f"{POOL}/members/~Common~dc-a:vs9")
    assert member.status == 404
    assert (member.message, member.body["apiError"]) == (
        "Object not found - /Common/dc-a:vs9",
        1,
    )
    pool = await rest.ask("GET", "gtm/pool/a/~Common~none")
    assert pool.message == "01020036:3: The requested Pool (/Common/none) was not found."
    made = await rest.ask("POST", f"{POOL}/members", {"name": "dc-a:vs9"})
    assert made.status == 404
    assert (await rest.ask("GET", "gtm/pool")).status == 404  # its types are below


async def test_manual_resume_holds_a_member_of_its_pool(dns: Emulator, rest: Rest) -> None:
    async def reason(path: str) -> tuple[str, str]:
        words = await rest.status(path)
        return words["status.availabilityState"], words["status.statusReason"]

    await rest.patch(POOL, {"manualResume": "enabled"})
    dns.clock.advance(1)
    assert await reason(PLAIN) == ("available", " ")
    dns.world.set("dc-a:vs1", False)
    dns.clock.advance(1)
    dns.world.set("dc-a:vs1", True)
    dns.clock.advance(1)
    assert (await reason(PLAIN))[0] == "offline"
    await rest.patch(PLAIN, {"enabled": True})
    dns.clock.advance(1)
    assert await reason(PLAIN) == ("available", " ")


@pytest.mark.usefixtures("dns")
async def test_statistics_have_keys_of_their_own(rest: Rest) -> None:
    """Facts 3: the member's key has its virtual server first, the pool's has its type."""
    (member,) = (await rest.get(f"{PLAIN}/stats"))["entries"].items()
    assert member[0].endswith("/gtm/pool/a/~Common~gslb/members/vs1:dc-a/stats")
    words = member[1]["nestedStats"]["entries"]
    assert words["serverName"]["description"] == "/Common/dc-a"
    assert (words["vsName"]["description"], words["poolType"]["description"]) == ("vs1", "A")
    (pool,) = (await rest.get(f"{POOL}/stats"))["entries"].items()
    assert pool[0].endswith("/gtm/pool/a/~Common~gslb/~Common~gslb:A/stats")
    for path in (PLAIN, SLASHED):
        await rest.patch(path, {"disabled": True})
    (pool,) = (await rest.get(f"{POOL}/stats"))["entries"].items()
    reason = pool[1]["nestedStats"]["entries"]["status.statusReason"]["description"]
    assert reason == "No enabled pool members available"


async def test_dns_reaches_the_peer_by_itself(dns: Emulator, units: tuple[Rest, Rest]) -> None:
    """Facts 3: and does not make a change of LTM pending."""
    a, b = units
    dns.shared.dns_sync_s = 5
    await a.patch(PLAIN, {"disabled": True})
    assert flags(await b.get(PLAIN)) == {"enabled": True}
    assert dns.shared.sync_status() == "In Sync"
    dns.clock.advance(5)
    assert flags(await b.get(PLAIN)) == {"disabled": True}


@pytest.mark.usefixtures("dns")
async def test_defaults_of_a_pool(rest: Rest) -> None:
    pool = await rest.get(POOL)
    wanted = {
        "ttl": 30,
        "manualResume": "disabled",
        "loadBalancingMode": "round-robin",
        "alternateMode": "round-robin",
        "fallbackMode": "return-to-dns",
        "verifyMemberAvailability": "enabled",
        "maxAnswersReturned": 1,
        "monitor": "/Common/tcp ",  # with a blank
        "enabled": True,
    }
    assert {key: pool[key] for key in wanted} == wanted
