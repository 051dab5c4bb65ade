"""The emulator, asked by Ansible's f5networks.f5_modules as they come from the registry.

    F5_CLIENTS=.venv-f5-clients pytest tests/f5_ansible.py

`make test-f5-clients` makes that environment: it is large, and each play takes seconds, so this is
no part of `make test`. The modules run unmodified, with TLS verified, and phone nobody.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from emulator import Emulator, faults
from rest_client import configured, trace

BIN = Path(os.environ.get("F5_CLIENTS", ".venv-f5-clients")).resolve() / "bin"
OLD, NEW = "/Common/192.0.2.10:443", "/Common/192.0.2.11:443"
PATIENT_S = 150

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not BIN.is_dir(), reason=f"found no {BIN}; make test-f5-clients makes it"),
]


@pytest.fixture
async def bigip() -> AsyncIterator[Emulator]:
    async with configured(Emulator.pair()) as emulator:
        yield emulator


async def play(bigip: Emulator, folder: Path, *tasks: tuple[str, Any], **who: str) -> list[Any]:
    """Play tasks against the first unit, each whatever became of the last; return the results."""
    host, _, port = bigip.urls[0].removeprefix("https://").partition(":")
    provider = {
        "server": host,
        "server_port": int(port),
        "no_f5_teem": True,
        "validate_certs": True,
    }
    provider |= {"user": "admin", "password": "secret"} | who
    steps = [
        {f"f5networks.f5_modules.{name}": {"provider": provider} | how, "ignore_errors": True}
        for name, how in tasks
    ]
    book = folder / "book.json"
    book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": steps}]))
    surroundings = {
        **os.environ,
        "ANSIBLE_HOME": str(folder),
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
        "ANSIBLE_PYTHON_INTERPRETER": str(BIN / "python"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "F5_TELEMETRY_OFF": "yes",
        "SSL_CERT_FILE": str(bigip.ca_file),
    }
    process = await asyncio.create_subprocess_exec(
        *(str(BIN / "ansible-playbook"), str(book)),
        env=surroundings,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENT_S)
    finally:
        if process.returncode is None:
            process.kill()
    try:
        (played,) = json.loads(out[out.index(b"{") :])["plays"]
    except ValueError:
        raise AssertionError(f"{out.decode()}\n{err.decode()}") from None
    return [task["hosts"]["localhost"] for task in played["tasks"]]


def member(address: str, state: str, **more: Any) -> tuple[str, Any]:
    how = {"pool": "epmm", "partition": "Common", "host": address, "port": 443, "state": state}
    return "bigip_pool_member", how | more


def dns_member(state: str, virtual: str = "vs1", server: str = "dc-a") -> tuple[str, Any]:
    how = {"pool": "gslb", "type": "a", "server_name": server, "virtual_server": virtual}
    return "bigip_gtm_pool_member", how | {"state": state}


def changed(results: list[Any]) -> list[bool]:
    assert not [result["msg"] for result in results if result.get("failed")]
    return [result["changed"] for result in results]


def states(bigip: Emulator) -> list[tuple[str, str]]:
    seen = [bigip.unit(0).member("/Common/epmm", name) for name in (OLD, NEW)]
    return [(each["session"], each["state"]) for each in seen]


async def test_it_flips_and_knows_when_there_is_nothing_to_do(
    bigip: Emulator, tmp_path: Path
) -> None:
    """Facts 10: each state is told from what GET says of it, so a second time nothing changes."""
    done = await play(
        bigip,
        tmp_path,
        member("192.0.2.10", "enabled"),
        member("192.0.2.10", "disabled"),
        member("192.0.2.10", "disabled"),
        member("192.0.2.10", "forced_offline"),
        member("192.0.2.10", "forced_offline"),
        member("192.0.2.11", "enabled"),
        member("192.0.2.11", "enabled"),
        member("192.0.2.11", "present"),
    )
    assert changed(done) == [False, True, False, True, False, True, False, False]
    bigip.clock.advance(1)
    assert states(bigip) == [("user-disabled", "user-down"), ("monitor-enabled", "up")]
    assert bigip.unit(0).logins.made == len(done)
    assert not bigip.unit(0).logins.tokens  # it deletes each


async def test_what_it_asks_to_change_one_member(bigip: Emulator, tmp_path: Path) -> None:
    await play(bigip, tmp_path, member("192.0.2.10", "forced_offline"))
    pool = "/mgmt/tm/ltm/pool/~Common~epmm"
    one = f"{pool}/members/~Common~192.0.2.10:443"
    lines = [line for line in trace(bigip) if "/authz/tokens/" not in line]
    assert lines == [
        "POST /mgmt/shared/authn/login",
        "GET /mgmt/tm/sys/",
        f"GET {pool}",
        f"GET {one}",
        f"GET {one}",
        "GET /mgmt/tm/net/tunnels/gre",
        "GET /mgmt/tm/net/tunnels/ipip",
        f"PATCH {one}",
    ]
    written = next(seen.body for seen in bigip.unit(0).log if seen.method == "PATCH")
    assert written == {"session": "user-disabled", "state": "user-down"}


async def test_it_makes_and_removes_members_and_pools(bigip: Emulator, tmp_path: Path) -> None:
    """With a route domain, IPv6 and a name; a member that it creates offline is only disabled."""
    monitor = {"name": "m", "receive": r"STATUS: OK \(Mode", "send": "GET /x\\r\\n"}
    done = await play(
        bigip,
        tmp_path,
        ("bigip_monitor_https", monitor),
        ("bigip_pool", {"name": "new", "monitors": ["/Common/m", "/Common/http"]}),
        member("10.0.0.1%10", "present", pool="new"),
        member("10.0.0.1%10", "present", pool="new"),
        member("2001:db8::1", "present", pool="new"),
        member("192.0.2.30", "forced_offline", pool="new"),
        member("10.0.0.1%10", "forced_offline", pool="new"),
        member("2001:db8::1", "absent", pool="new"),
    )
    assert changed(done) == [True, True, True, False, True, True, True, True]
    unit = bigip.unit(0)
    assert unit.running.get(("ltm", "pool", "/Common/new"))["monitor"] == (
        "/Common/m and /Common/http"
    )
    here = [place[-1] for place in unit.running.children(("ltm", "pool", "/Common/new", "members"))]
    assert here == ["/Common/10.0.0.1%10:443", "/Common/192.0.2.30:443"]
    assert unit.member("/Common/new", here[0])["state"] == "user-down"
    assert unit.member("/Common/new", here[1])["session"] == "user-disabled"
    assert unit.member("/Common/new", here[1])["state"] != "user-down"  # its own mistake, known
    done = await play(bigip, tmp_path, ("bigip_pool", {"name": "new", "state": "absent"}))
    assert changed(done) == [True]


async def test_it_replaces_members_in_a_transaction(bigip: Emulator, tmp_path: Path) -> None:
    how = {
        "pool": "epmm",
        "replace_all_with": True,
        "aggregate": [{"host": "192.0.2.10", "port": 443}],
    }
    done = await play(bigip, tmp_path, ("bigip_pool_member", how))
    assert changed(done) == [True]
    left = list(bigip.unit(0).running.children(("ltm", "pool", "/Common/epmm", "members")))
    assert [place[-1] for place in left] == [OLD]
    commit = next(seen for seen in bigip.unit(0).log if seen.method == "PATCH")
    assert commit.body == {"state": "VALIDATING", "validateOnly": False}


async def test_it_moves_members_of_dns(bigip: Emulator, tmp_path: Path) -> None:
    bigip.add_dns_pool("/Common/gslb", "dc-a:vs1", "dc-b:/Common/vs_1")
    done = await play(
        bigip,
        tmp_path,
        dns_member("enabled"),
        dns_member("disabled"),
        dns_member("disabled"),
        dns_member("disabled", "/Common/vs_1", "dc-b"),
        dns_member("enabled"),
        dns_member("present", "vs9"),
    )
    assert changed(done[:-1]) == [False, True, False, True, True]
    assert "01020036:3:" in done[-1]["msg"]
    place = ("gtm", "pool", "a", "/Common/gslb", "members")
    flags = [bigip.unit(0).running.get((*place, name))["enabled"] for name in
             ("/Common/dc-a:vs1", "/Common/dc-b:/Common/vs_1")]  # fmt: skip
    assert flags == [True, False]
    written = [seen.body for seen in bigip.unit(0).log if seen.method == "PATCH"]
    assert written[0] == {"disabled": True, "enabled": False}


async def test_it_runs_tmsh(bigip: Emulator, tmp_path: Path) -> None:
    words = "192.0.2.10:443 { session user-disabled state user-down }"
    offline = f"modify ltm pool epmm members modify {{ {words} }}"
    commands = ["show sys version", offline, "list ltm pool epmm", "save sys config"]
    done = await play(
        bigip,
        tmp_path,
        ("bigip_command", {"commands": commands}),
        ("bigip_command", {"commands": ["show ltm nothing"]}),
        ("bigip_command", {"commands": ["show cm failover-status"],
                           "wait_for": ["result[0] contains ACTIVE"], "retries": 1}),
        ("bigip_command", {"commands": ["show cm failover-status"], "interval": 1,
                           "wait_for": ["result[0] contains STANDBY"], "retries": 1}),
    )  # fmt: skip
    assert "Version     17.1.2.1" in done[0]["stdout"][0]
    assert "state user-down" in done[0]["stdout"][1]
    assert "Syntax Error" in done[1]["stdout"][0]
    assert [bool(each.get("failed")) for each in done] == [False, False, False, True]
    assert states(bigip)[0] == ("user-disabled", "user-down")
    assert bigip.unit(0).saves == 1


async def test_it_syncs_and_saves(bigip: Emulator, tmp_path: Path) -> None:
    sync = {"device_group": "dg1", "sync_device_to_group": True}
    done = await play(
        bigip,
        tmp_path,
        member("192.0.2.10", "forced_offline"),
        ("bigip_configsync_action", sync),
        ("bigip_config", {"save": True}),
        ("bigip_configsync_action", sync | {"device_group": "dg2"}),
    )
    assert [bool(each.get("failed")) for each in done] == [False, False, False, True]
    assert bigip.shared.sync_status() == "In Sync"
    assert bigip.unit(0).saves == 1
    peer = bigip.unit(1).member("/Common/epmm", OLD)
    assert (peer["session"], peer["state"]) == ("user-disabled", "user-down")


async def test_it_sees_errors(bigip: Emulator, tmp_path: Path) -> None:
    """Each in the device's words, and nothing is changed by any of them."""
    bigip.faults.next(faults.busy(), method="PATCH", path="/members/")
    bigip.faults.next(faults.mcpd_lost(), method="PATCH", path="/members/")
    bigip.faults.next(faults.cut_before(), method="PATCH", path="/members/")
    offline = member("192.0.2.10", "forced_offline")
    done = await play(
        bigip, tmp_path, offline, offline, offline, member("192.0.2.10", "present", pool="none")
    )
    words = [
        "There is an active asynchronous task executing.",
        "The connection to mcpd has been lost, try again.",
        "",
        "The specified pool does not exist",
    ]
    assert all(result["failed"] for result in done)
    assert [word in result["msg"] for word, result in zip(words, done, strict=True)] == [True] * 4
    assert states(bigip)[0] == ("monitor-enabled", "up")
    done = await play(bigip, tmp_path, offline, password="wrong")
    assert "401" in done[0]["msg"] or "Unauthorized" in done[0]["msg"]
    done = await play(bigip, tmp_path, offline, user="operator", password="operator-secret")
    assert changed(done) == [True]
    done = await play(bigip, tmp_path, offline, user="guest", password="guest-secret")
    assert changed(done) == [False]
    done = await play(bigip, tmp_path, member("192.0.2.10", "enabled"), user="guest",
                      password="guest-secret")  # fmt: skip
    assert "01070822:3: Access Denied: user (guest)" in done[0]["msg"]
