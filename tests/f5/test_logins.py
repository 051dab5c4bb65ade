"""Who may ask: tokens with their lifetime and limit, Basic, roles, and all that is refused."""

import pytest
from emulator import Emulator
from rest_client import ENABLED, OFFLINE, OLD, POOL, Rest, basic

TOKENS = "/mgmt/shared/authz/tokens"
LOGIN = "/mgmt/shared/authn/login"


async def test_a_token_lives_1200_s_however_often_it_is_used(bigip: Emulator, rest: Rest) -> None:
    """Facts 1: its lifetime is absolute."""
    bigip.clock.advance(1199)
    assert (await rest.ask("GET", POOL)).status == 200
    bigip.clock.advance(1)
    answer = await rest.ask("GET", POOL)
    assert (answer.status, answer.reason) == (401, "F5 Authorization Required")
    assert answer.message == "X-F5-Auth-Token does not exist."
    assert answer.body["kind"] == ":resterrorresponse"


@pytest.mark.parametrize("timeout", [36000, "36000"], ids=["number", "text"])
async def test_a_token_may_be_prolonged_to_ten_hours(
    bigip: Emulator, rest: Rest, timeout: object
) -> None:
    first = (await rest.raw("GET", f"{TOKENS}/{rest.token}")).body
    answer = (await rest.raw("PATCH", f"{TOKENS}/{rest.token}", {"timeout": timeout})).body
    assert (answer["timeout"], answer["generation"]) == (36000, first["generation"] + 1)
    assert answer["expirationMicros"] - first["expirationMicros"] == 34800 * 1_000_000
    assert first["expirationMicros"] % 1000 == 0
    bigip.clock.advance(35999)
    assert (await rest.ask("GET", POOL)).status == 200
    too_long = await rest.raw("PATCH", f"{TOKENS}/{rest.token}", {"timeout": 36001})
    assert too_long.status == 400


async def test_a_user_has_a_hundred_tokens_and_deletes_them(bigip: Emulator, rest: Rest) -> None:
    """Facts 1: the limit counts live ones; DELETE gives one back."""
    first = rest.token
    for _ in range(99):
        assert (await rest.login()).status == 200
    answer = await rest.login()
    assert answer.status == 400
    assert answer.message.endswith(" has reached maximum active login tokens")
    assert "lb-probe" not in answer.message
    assert (await rest.raw("DELETE", f"{TOKENS}/{first}")).status == 200
    assert (await rest.raw("GET", f"{TOKENS}/{first}")).status == 404
    assert (await rest.login()).status == 200
    assert (await rest.login("admin")).status == 200
    assert len(bigip.unit(0).logins.tokens) == 101


async def test_a_token_is_good_on_its_own_unit_only(units: tuple[Rest, Rest]) -> None:
    a, b = units
    b.token = a.token
    assert (await b.ask("GET", POOL)).status == 401


async def test_refused_logins_say_so_in_json_and_basic_in_html(rest: Rest) -> None:
    """Facts 1: the table of 401s."""
    answer = await rest.login("lb-probe", "wrong")
    assert (answer.status, answer.message) == (401, "Authentication failed.")
    assert answer.reason == "F5 Authorization Required"
    assert "wrong" not in str(answer.body)
    assert (await rest.login("nobody", "x")).message == "Authentication failed."
    rest.token = ""
    page = await rest.raw("GET", f"/mgmt/tm/{POOL}", headers=basic("admin", "wrong"))
    assert (page.status, page.kind) == (401, "text/html")
    nobody = await rest.ask("GET", POOL)
    assert nobody.message.startswith(
        "Authorization failed: no user authentication header or token detected. "
        "Uri:http://localhost:8100/mgmt/tm/ltm/pool/~Common~epmm"
    )
    odd = {"username": "admin", "password": "secret", "loginProviderName": "nowhere"}
    assert (await rest.raw("POST", LOGIN, odd)).status == 401


async def test_a_token_beats_the_basic_header_beside_it(rest: Rest) -> None:
    """Facts 1: a client that is given a token also sends `Basic None:None`."""
    headers = basic("None", "None") | {"X-F5-Auth-Token": rest.token}
    assert (await rest.raw("GET", "/mgmt/shared/echo-query", headers=headers)).status == 200


async def test_basic_is_for_administrators(rest: Rest) -> None:
    rest.token = ""
    path = "/mgmt/tm/sys/"
    assert (await rest.raw("GET", path, headers=basic("admin", "secret"))).status == 200
    assert (await rest.raw("GET", path, headers=basic("lb-probe", "probe-secret"))).status == 401


async def test_wrong_passwords_lock_out_where_the_device_is_told_to(
    bigip: Emulator, rest: Rest
) -> None:
    bigip.unit(0).logins.lock_after = 3
    for _ in range(2):
        await rest.login("lb-probe", "wrong")
    assert (await rest.login()).status == 200
    for _ in range(3):
        await rest.login("lb-probe", "wrong")
    assert (await rest.login()).message == "Authentication failed."


async def test_an_expired_password_is_told_apart(bigip: Emulator, rest: Rest) -> None:
    bigip.unit(0).logins.users["lb-probe"].is_expired = True
    assert (await rest.login()).message.startswith("Authentication failed: Password expired.")


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("admin", "toggle configure save sync bash"),
        ("lb-probe", "toggle configure save sync"),
        ("manager", "toggle configure save"),
        ("operator", "toggle"),
        ("guest", ""),
    ],
)
async def test_what_the_roles_may(rest: Rest, role: str, may: str) -> None:
    """Facts 5: an operator enables and disables members; what is refused is no 403."""
    await rest.login(role)
    assert (await rest.ask("GET", POOL)).status == 200
    bash = {"command": "run", "utilCmdArgs": '-c "tmsh save sys config"'}
    acts = {
        "toggle": ("PATCH", OLD, OFFLINE),
        "configure": ("PATCH", OLD, ENABLED | {"ratio": 2}),
        "save": ("POST", "sys/config", {"command": "save"}),
        "sync": ("POST", "cm", {"command": "run", "utilCmdArgs": "config-sync to-group dg1"}),
        "bash": ("POST", "util/bash", bash),
    }
    done = {name: await rest.ask(*act) for name, act in acts.items()}
    assert [name for name, answer in done.items() if answer.status == 200] == may.split()
    for name, answer in done.items():
        if answer.status != 200 and name == "bash":  # a 401 that no new login mends
            assert answer.message.startswith("Authorization failed: user=https://localhost/")
        elif answer.status != 200:
            assert answer.status == 400
            assert answer.message.startswith("01070822:3: Access Denied: user (")


async def test_old_versions_let_nobody_but_administrators_in() -> None:
    """Before 13.1; and there was no `ready`."""
    import aiohttp

    async with (
        Emulator.single(tls=False, version="12.1.6") as emulator,
        aiohttp.ClientSession() as session,
    ):
        rest = Rest(session, emulator.urls[0])
        await rest.login()
        assert (await rest.ask("GET", "ltm/pool")).status == 401
        await rest.login("admin")
        assert (await rest.ask("GET", "ltm/pool")).status == 200
        assert (await rest.ask("GET", "sys/ready")).status == 404


@pytest.mark.parametrize("is_leaky", [False, True])
async def test_a_refused_login_may_come_back_with_the_password(
    bigip: Emulator, rest: Rest, is_leaky: bool
) -> None:
    """Facts 1: why nobody may log such an answer."""
    bigip.unit(0).logins.is_leaky = is_leaky
    answer = await rest.login("lb-probe", "hunter2")
    assert ("hunter2" in answer.body["originalRequestBody"]) is is_leaky
    assert "hunter2" not in str(bigip.unit(0).log)
