"""Names in URLs: partitions, folders, route domains, IPv6, and what is encoded wrongly."""

import pytest
from emulator import Emulator
from rest_client import OFFLINE, OLD, POOL, Rest


@pytest.fixture
def named(bigip: Emulator) -> Emulator:
    bigip.configure("POST", "auth/partition", {"name": "T"})
    bigip.configure("POST", "sys/folder", {"name": "app", "partition": "T"})
    bigip.add_pool("/T/app/core", "10.0.0.1%10:80", "2001:db8::1.443", "::1.443", "mi1:80")
    return bigip


@pytest.fixture
def bigip(bigip: Emulator) -> Emulator:
    bigip.configure("POST", "ltm/node", {"name": "mi1", "address": "192.0.2.77"})
    return bigip


@pytest.mark.parametrize(
    ("segment", "full_path", "address"),
    [
        ("~T~10.0.0.1%2510:80", "/T/10.0.0.1%10:80", "10.0.0.1%10"),
        ("~T~2001:db8::1.443", "/T/2001:db8::1.443", "2001:db8::1"),
        ("~T~::1.443", "/T/::1.443", "::1"),
        ("~T~mi1:80", "/T/mi1:80", "192.0.2.77"),
    ],
)
@pytest.mark.usefixtures("named")
async def test_a_member_is_found_by_its_encoded_name(
    rest: Rest, segment: str, full_path: str, address: str
) -> None:
    """Facts 2: and its own link leads back to it."""
    path = f"ltm/pool/~T~app~core/members/{segment}"
    member = await rest.patch(path, OFFLINE)
    assert (member["fullPath"], member["address"]) == (full_path, address)
    assert member["selfLink"] == f"https://localhost/mgmt/tm/{path}?ver=17.1.2.1"
    assert (await rest.raw("GET", member["selfLink"].removeprefix("https://localhost"))).body == (
        member
    )
    pool = await rest.get("ltm/pool/~T~app~core?expandSubcollections=true")
    assert (pool["partition"], pool["subPath"], pool["name"]) == ("T", "app", "core")
    assert full_path in [m["fullPath"] for m in pool["membersReference"]["items"]]


@pytest.mark.parametrize(
    ("segment", "status"),
    [
        ("~T~10.0.0.1%10:80", 404),  # %10 is a control character
        ("~T~10.0.0.1%1:80", 400),  # %1: is nothing
        ("%2FT%2F10.0.0.1%2510:80", 404),
        ("~T~2001:db8::1:443", 404),
        ("~T~10.0.0.1%252510:80", 404),  # encoded twice
    ],
)
@pytest.mark.usefixtures("named")
async def test_a_name_that_is_encoded_wrongly_is_not_found(
    rest: Rest, segment: str, status: int
) -> None:
    answer = await rest.ask("GET", f"ltm/pool/~T~app~core/members/{segment}")
    assert answer.status == status


async def test_a_service_is_shown_as_its_number(rest: Rest) -> None:
    made = await rest.ask("POST", f"{POOL}/members", {"name": "192.0.2.12:https"})
    assert made.body["fullPath"] == "/Common/192.0.2.12:443"
    assert (await rest.get(f"{POOL}/members/~Common~192.0.2.12:https"))["name"] == "192.0.2.12:443"


async def test_what_a_name_lacks(rest: Rest) -> None:
    """A member without a port, a partition that is not there, an address that is none."""
    for name, words in {
        "10.0.0.1": "A port number or service name is missing for 10.0.0.1.",
        "2001:db8::1:443": "A port number or service name is missing for 2001:db8::1:443.",
        "/T/10.0.0.1:http": "01070734:3: Configuration error: Can't associate Pool Member "
        "(/Common/epmm /T/10.0.0.1 80) folder does not exist",
        "node-x:80": "01020059:3: IP Address :: is invalid",
    }.items():
        answer = await rest.ask("POST", f"{POOL}/members", {"name": name})
        assert answer.status == 400
        assert answer.message.startswith(words)


async def test_paths_that_are_not_there(rest: Rest) -> None:
    """Facts 5: restjavad's words for them have `?` for `~`, and another shape than icrd's."""
    answer = await rest.ask("GET", "ltm/pol/~Common~epmm")
    assert answer.message == "Public URI path not registered: /tm/ltm/pol"
    assert answer.body["kind"] == ":resterrorresponse"
    assert (await rest.ask("GET", "ltm/pool/epmm/")).body["fullPath"] == "/Common/epmm"


async def test_a_collection_may_be_asked_for_less(rest: Rest) -> None:
    items = (await rest.get(f"{POOL}/members?$select=name,state"))["items"]
    assert items[0] == {"name": "192.0.2.10:443", "state": "up"}
    found = await rest.get("ltm/pool?$filter=partition%20eq%20Nobody")
    assert found["kind"] == "tm:ltm:pool:poolcollectionstate"
    assert found.get("items", []) == []
    assert (await rest.get(OLD))["fullPath"] == "/Common/192.0.2.10:443"
