"""The emulator, asked by F5's own f5-sdk as it comes from the registry.

F5's own functional tests of it are not in the registry; `make test-f5-clients` runs them from a
checkout. What is here is the part of them that our adapters stand on, and errors.
"""

from collections.abc import Callable
from typing import Any

import pytest
from emulator import Emulator, faults
from f5.bigip import ManagementRoot
from f5.bigip.contexts import TransactionContextManager, TransactionSubmitException
from f5.sdk_exception import MemberStateModifyUnsupported
from icontrol.exceptions import iControlUnexpectedHTTPError as Unexpected
from rest_client import ENABLED, OFFLINE, in_thread, trace

OLD, NEW = "192.0.2.10:443", "192.0.2.11:443"

pytestmark = pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated")


async def with_root(
    bigip: Emulator, do: Callable[[ManagementRoot], Any], unit: int = 0, **how: Any
) -> Any:
    def run() -> Any:
        host, _, port = bigip.urls[unit].removeprefix("https://").partition(":")
        who = {"username": bigip.user, "password": bigip.password, "token": True} | how
        root = ManagementRoot(host, port=port, verify=str(bigip.ca_file), **who)
        with root.icrs.session:
            return do(root)

    return await in_thread(run)


def member(root: ManagementRoot, name: str) -> Any:
    pool = root.tm.ltm.pools.pool.load(name="epmm", partition="Common")
    return pool.members_s.members.load(name=name, partition="Common")


def state(root: ManagementRoot, name: str) -> tuple[str, str]:
    seen = member(root, name)
    return seen.session, seen.state


def flip(root: ManagementRoot, *more: Callable[[Any], Any]) -> Any:
    with TransactionContextManager(root.tm.transactions.transaction) as api:
        member(api, OLD).modify(**OFFLINE)
        member(api, NEW).modify(**ENABLED)
        for each in more:
            each(api)
    return [state(root, name) for name in (OLD, NEW)]


async def test_what_it_asks_first(tls_bigip: Emulator) -> None:
    """Facts 10: it learns the version from a link, and deletes no token."""
    assert await with_root(tls_bigip, lambda root: root.tmos_version) == "17.1.2.1"
    assert trace(tls_bigip) == ["POST /mgmt/shared/authn/login", "GET /mgmt/tm/sys/"]
    how = {"token": False, "username": "admin", "password": "secret"}
    await with_root(tls_bigip, lambda root: root, **how)
    assert trace(tls_bigip)[2:] == ["GET /mgmt/tm/sys/"]
    assert len(tls_bigip.unit(0).logins.tokens) == 1


async def test_it_flips_in_a_transaction(tls_bigip: Emulator) -> None:
    after = await with_root(tls_bigip, flip)
    assert after == [("user-disabled", "user-down"), ("monitor-enabled", "checking")]
    commit = [seen for seen in tls_bigip.unit(0).log if seen.method == "PATCH"][-1]
    assert commit.body["state"] == "VALIDATING"


async def test_a_transaction_that_is_refused_changes_nothing(tls_bigip: Emulator) -> None:
    def work(root: ManagementRoot) -> Any:
        def spoil(api: Any) -> None:
            api.tm.ltm.pools.pool.create(name="epmm", partition="Common")

        with pytest.raises(TransactionSubmitException, match="transaction failed:01020066:3:"):
            flip(root, spoil)
        with (
            pytest.raises(TransactionSubmitException, match="there is no command to commit"),
            TransactionContextManager(root.tm.transactions.transaction),
        ):
            pass
        return [state(root, name) for name in (OLD, NEW)]

    seen = await with_root(tls_bigip, work)
    assert seen == [("monitor-enabled", "up"), ("user-disabled", "user-down")]


async def test_it_makes_changes_and_deletes_members(tls_bigip: Emulator) -> None:
    """With a route domain and IPv6, whose names it encodes itself."""

    def work(root: ManagementRoot) -> Any:
        pool = root.tm.ltm.pools.pool.create(name="p", partition="Common", monitor="/Common/http")
        names = ["10.0.0.1%10:80", "2001:db8::1.443"]
        made = [pool.members_s.members.create(name=n, partition="Common") for n in names]
        for each in made:
            each.modify(**OFFLINE)
            each.description = "read, changed and put back"
            each.update()
            each.refresh()
        seen = [(each.address, each.state, each.description[:4]) for each in made]
        with pytest.raises(MemberStateModifyUnsupported):
            made[0].modify(state="up")
        made[0].delete()
        there = [pool.members_s.members.exists(name=n, partition="Common") for n in names]
        pool.delete()
        return seen, there

    seen, there = await with_root(tls_bigip, work)
    assert seen == [
        ("10.0.0.1%10", "user-down", "read"),
        ("2001:db8::1", "user-down", "read"),
    ]
    assert there == [False, True]


async def test_it_knows_who_is_active_and_syncs_and_saves(tls_bigip: Emulator) -> None:
    def status(root: ManagementRoot) -> str:
        answer = root.tm.cm.failover_status
        answer.refresh()
        (entry,) = answer.entries.values()
        return str(entry["nestedStats"]["entries"]["status"]["description"])

    def work(root: ManagementRoot) -> None:
        flip(root)
        root.tm.sys.config.exec_cmd("save")
        root.tm.cm.exec_cmd("run", utilCmdArgs="config-sync to-group dg1")

    assert [await with_root(tls_bigip, status, unit) for unit in (0, 1)] == ["ACTIVE", "STANDBY"]
    await with_root(tls_bigip, work)
    tls_bigip.clock.advance(1)
    assert tls_bigip.unit(0).saves == 1
    peer = await with_root(tls_bigip, lambda root: state(root, OLD), 1)
    assert peer == ("user-disabled", "user-down")
    tls_bigip.unit(0).fail_over()
    assert [await with_root(tls_bigip, status, unit) for unit in (0, 1)] == ["STANDBY", "ACTIVE"]


async def test_it_moves_members_of_dns(tls_bigip: Emulator) -> None:
    tls_bigip.add_dns_pool("/Common/gslb", "dc-a:vs1")

    def work(root: ManagementRoot) -> Any:
        pool = root.tm.gtm.pools.a_s.a.load(name="gslb", partition="Common")
        one = pool.members_s.member.load(name="dc-a:vs1", partition="Common")
        before = one.enabled
        one.modify(disabled=True)
        one.refresh()
        return before, one.disabled, hasattr(one, "enabled"), pool.manualResume

    assert await with_root(tls_bigip, work) == (True, True, False, "disabled")


@pytest.mark.parametrize(
    ("fault", "status"),
    [(faults.busy(), 503), (faults.mcpd_lost(), 500), (faults.spurious_401(), 401)],
    ids=["busy", "mcpd-lost", "spurious-401"],
)
async def test_it_sees_errors(tls_bigip: Emulator, fault: faults.Fault, status: int) -> None:
    def work(root: ManagementRoot) -> int:
        tls_bigip.faults.next(fault)
        with pytest.raises(Unexpected) as seen:
            member(root, OLD)
        return int(seen.value.response.status_code)

    assert await with_root(tls_bigip, work) == status


async def test_a_wrong_password_is_refused(tls_bigip: Emulator) -> None:
    with pytest.raises(Unexpected, match="Authentication failed"):
        await with_root(tls_bigip, lambda root: root, password="wrong")
    assert not tls_bigip.unit(0).logins.tokens


async def test_both_clients_leave_the_same_state(tls_bigip: Emulator) -> None:
    """The same story through bigrest, in test_bigrest.py, ends in these words too."""

    def work(root: ManagementRoot) -> Any:
        flip(root)
        pool = root.tm.ltm.pools.pool.load(name="epmm", partition="Common")
        found = pool.members_s.get_collection()
        return [(m.name, m.session, m.ratio, m.priorityGroup, m.address) for m in found]

    assert await with_root(tls_bigip, work) == [
        (OLD, "user-disabled", 1, 0, "192.0.2.10"),
        (NEW, "monitor-enabled", 1, 0, "192.0.2.11"),
    ]
