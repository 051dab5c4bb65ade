"""A name moved by dynamic updates, against real BIND and Knot on loopback."""

import asyncio
import contextlib
import socket
import time
from collections import Counter

import pytest
from name_servers import (
    ALIASES,
    BOTH,
    KEY,
    MARK,
    NODES,
    RECORD,
    SECRET,
    NameServer,
    mover,
    serving_names,
)

from lb_probe.adapters.dns_update import DnsUpdate, Key
from lb_probe.ports import PublishError, Unreachable

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["named", "knotd"])
async def server(request):
    async with serving_names(request.param) as found:
        yield found


@pytest.fixture
async def bind():
    async with serving_names("named") as found:
        yield found


async def moved(edge, node):
    await edge.publish(node)
    return await edge.read_back()


# ------------------------------------------------------------------ a move
async def test_what_is_published_is_read_back_with_its_owner_and_served(server):
    edge = mover(server)
    edge.owner = "host-1ab2.g7"
    first = await edge.read_back()
    assert (first.node, first.chosen, first.owner) == (None, (), "")
    assert f"{RECORD} does not exist yet" in first.detail

    seen = await moved(edge, "epmm-a")
    assert (seen.node, seen.chosen, seen.owner) == ("epmm-a", ("epmm-a",), "host-1ab2.g7")
    assert (seen.usable, seen.detail) == (None, "")
    assert await server.says() == ["192.0.2.10"]

    edge.owner = "host-1ab2.g8"
    seen = await moved(edge, "epmm-b")
    assert (seen.node, seen.owner) == ("epmm-b", "host-1ab2.g8")
    assert await server.says() == ["192.0.2.11"]
    assert await server.says("TXT", MARK) == ['"lb-probe owner=host-1ab2.g8"']


async def test_ipv4_and_ipv6_move_in_one_step(server):
    edge = mover(server, values=BOTH)
    await moved(edge, "epmm-a")
    before = await server.serial()
    seen = await moved(edge, "epmm-b")
    assert (seen.node, seen.detail) == ("epmm-b", "")
    assert await server.says() + await server.says("AAAA") == ["192.0.2.11", "2001:db8::11"]
    assert await server.serial() == before + 1


async def test_nodes_of_one_site_share_an_address(bind):
    """R43: a name leads to sites; which node of a site has the traffic is not its business."""
    a, b = NODES["epmm-a"], NODES["epmm-b"]
    edge = mover(bind, values={"main-a": a, "main-b": a, "dr": b})
    for node, also in (("main-b", {"main-a"}), ("dr", set()), ("main-a", {"main-b"})):
        await edge.publish(node)
        seen = (await edge.read_back()).told_for(node)
        assert (seen.node, set(seen.also)) == (node, also)


async def test_an_alias_moves_as_well(server):
    edge = mover(server, values=ALIASES, alias=True)
    await moved(edge, "epmm-a")
    seen = await moved(edge, "epmm-b")
    assert (seen.node, seen.detail) == ("epmm-b", "")
    assert await server.says("CNAME") == ["b.example.net."]


async def test_to_publish_the_same_again_changes_nothing(server):
    edge = mover(server)
    await moved(edge, "epmm-a")
    before = await server.serial()
    assert (await moved(edge, "epmm-a")).node == "epmm-a"
    assert await server.serial() == before


async def test_kill_9_right_after_noerror_loses_nothing(server):
    edge = mover(server)
    for node in ("epmm-a", "epmm-b", "epmm-a"):
        edge.owner = f"host.g-{node}"
        await edge.publish(node)
        server.kill()
        with pytest.raises(Unreachable):
            await edge.read_back()
        await server.start()
        seen = await edge.read_back()
        assert (seen.node, seen.owner) == (node, edge.owner)


async def test_commands_are_lines_for_nsupdate(bind):
    edge = mover(bind, values=BOTH)
    edge.owner = "host.g1"
    assert edge.commands("epmm-b")[1:] == [
        f"server 127.0.0.1 {bind.port}",
        "zone example.test",
        f"update delete {RECORD}. A",
        f"update add {RECORD}. 30 A 192.0.2.11",
        f"update delete {RECORD}. AAAA",
        f"update add {RECORD}. 30 AAAA 2001:db8::11",
        f"update delete {MARK}. TXT",
        f'update add {MARK}. 0 TXT "lb-probe owner=host.g1"',
        "send",
    ]
    with pytest.raises(PublishError, match="nothing is known for c; wanted one of epmm-a, epmm-b"):
        edge.commands("c")


# ------------------------------------------------------------------ others who write
async def test_of_twenty_that_write_at_once_one_wins_and_the_others_change_nothing(server):
    await moved(mover(server), "epmm-a")
    racers = [mover(server, name=f"racer-{i}") for i in range(20)]
    for number, racer in enumerate(racers):
        racer.owner = f"host-{number}.g2"
        await racer.read_back()
    before = await server.serial()

    done = await asyncio.gather(*(r.publish("epmm-b") for r in racers), return_exceptions=True)
    assert Counter(type(outcome) for outcome in done) == {type(None): 1, PublishError: 19}
    winner = racers[done.index(None)]
    assert await server.serial() == before + 1
    seen = await racers[0].read_back()
    assert (seen.node, seen.owner) == ("epmm-b", winner.owner)
    lost = next(str(outcome) for outcome in done if outcome is not None)
    assert "no longer what was read before (NXRRSET): somebody else wrote" in lost


async def test_of_two_that_write_the_same_node_at_once_one_is_the_owner(server):
    """Not the addresses tell them apart, only who wrote."""
    await moved(mover(server), "epmm-a")
    pair = [mover(server), mover(server)]
    for number, edge in enumerate(pair):
        edge.owner = f"host-{number}.g2"
        await edge.read_back()
    done = await asyncio.gather(*(e.publish("epmm-a") for e in pair), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in done) == ["NoneType", "PublishError"]
    assert (await pair[0].read_back()).owner == pair[done.index(None)].owner


async def test_publications_without_a_reading_between_follow_each_other(server):
    edge = mover(server)
    await edge.read_back()
    for node in ("epmm-a", "epmm-b", "epmm-a"):
        await edge.publish(node)
    assert await server.says() == ["192.0.2.10"]


async def test_what_somebody_wrote_since_the_last_reading_is_not_overwritten(server):
    edge = mover(server)
    await moved(edge, "epmm-a")
    await server.edit(lambda m: m.replace("epmm", 30, "A", "192.0.2.99"))
    with pytest.raises(PublishError, match="somebody else wrote"):
        await edge.publish("epmm-b")
    assert await server.says() == ["192.0.2.99"]
    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (None, ())
    assert f"{RECORD} is 192.0.2.99, which no node has" in seen.detail
    assert (await moved(edge, "epmm-b")).node == "epmm-b"  # now it was seen


async def test_a_second_address_is_no_one_node(server):
    edge = mover(server)
    await moved(edge, "epmm-a")
    await server.edit(lambda m: m.add("epmm", 30, "A", "192.0.2.11"))
    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (None, ("epmm-a", "epmm-b"))
    assert (await moved(edge, "epmm-b")).node == "epmm-b"


async def test_a_ttl_that_is_not_ours_is_told_until_the_next_publication(server):
    edge = mover(server)
    await moved(edge, "epmm-a")
    await server.edit(lambda m: m.replace("epmm", 3600, "A", "192.0.2.10"))
    seen = await edge.read_back()
    assert seen.node == "epmm-a"
    assert "the record's TTL is 3600s, wanted 30s" in seen.detail
    assert (await moved(edge, "epmm-b")).detail == ""


async def test_ipv6_that_no_node_has_is_told(server):
    edge = mover(server)
    await moved(edge, "epmm-a")
    await server.edit(lambda m: m.add("epmm", 30, "AAAA", "2001:db8::1"))
    seen = await edge.read_back()
    assert seen.node == "epmm-a"
    assert f"{RECORD} also has AAAA 2001:db8::1, which no move changes" in seen.detail


# ------------------------------------------------------------------ what is in the way
@pytest.mark.parametrize("kind", ["named", "knotd"])
async def test_a_cname_in_the_way_is_told_and_nothing_is_sent(kind):
    async with serving_names(kind, records="epmm CNAME else.example.test.") as server:
        edge = mover(server)
        seen = await edge.read_back()
        assert seen.node is None
        wanted = f"{RECORD} has CNAME else.example.test, wanted an address"
        assert wanted in seen.detail
        before = await server.serial()
        with pytest.raises(PublishError, match=wanted):
            await edge.publish("epmm-a")
        assert await server.serial() == before


async def test_a_cname_that_comes_between_reading_and_update_is_no_success(server):
    """Without a prerequisite the server says NOERROR and drops the address."""
    edge = mover(server)
    await edge.read_back()
    await server.edit(lambda m: m.replace("epmm", 30, "CNAME", "else.example.test."))
    with pytest.raises(PublishError, match="YXRRSET"):
        await edge.publish("epmm-a")


async def test_an_address_where_an_alias_should_be_is_told(server):
    await server.edit(lambda m: m.add("epmm", 30, "A", "192.0.2.10"))
    edge = mover(server, values=ALIASES, alias=True)
    with pytest.raises(PublishError, match=r"has A 192.0.2.10, wanted CNAME.*`cname: false`"):
        await edge.publish("epmm-a")


async def test_a_zone_that_is_not_served_is_told_clearly(server):
    edge = mover(server, zone="example.org", record="epmm.example.org")
    with pytest.raises(PublishError, match=r"does not answer for zone example.org \(REFUSED\)"):
        await edge.read_back()
    with pytest.raises(PublishError, match=r"does not answer for zone example.org"):
        await edge.publish("epmm-a")


async def test_a_zone_that_takes_no_updates_is_told_clearly(bind):
    edge = mover(bind, zone="fixed.test", record="epmm.fixed.test")
    assert (await edge.read_back()).node is None
    with pytest.raises(
        PublishError, match=r"refused \(REFUSED\): wanted zone fixed.test here, dyn"
    ):
        await edge.publish("epmm-a")


async def test_a_name_in_a_delegated_zone_is_answered_without_authority():
    records = "epmm NS ns.elsewhere.test."
    async with serving_names("named", records=records) as server:
        with pytest.raises(PublishError, match="without authority: wanted a server of zone"):
            await mover(server).read_back()


# ------------------------------------------------------------------ keys and clocks
WRONG = {
    "secret": Key("lb-probe", "hmac-sha256", "d3Jvbmc="),
    "name": Key("nobody", "hmac-sha256", SECRET),
    "algorithm": Key("lb-probe", "hmac-sha512", SECRET),
    "not granted": Key("other", "hmac-sha256", SECRET),
}
SAID = {
    "secret": r"wrong signature \(BADSIG\); compare `tsig`",
    "name": r"does not know or not grant this key \(BADKEY\); compare `tsig`",
    "algorithm": r"BADKEY|BADSIG",
    "not granted": r"REFUSED\): wanted zone|not grant this key",
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_key_is_told_and_changes_nothing(server, wrong):
    await moved(mover(server), "epmm-a")
    edge = mover(server, key=WRONG[wrong])
    with pytest.raises(PublishError, match=SAID[wrong]):
        await edge.publish("epmm-b")
    assert await server.says() == ["192.0.2.10"]


async def test_a_key_is_read_for_each_update(bind, tmp_path):
    file, keys = tmp_path / "tsig.key", iter([KEY, WRONG["secret"], KEY])

    def read():
        if not file.exists():
            raise FileNotFoundError(2, "No such file", str(file))
        return next(keys)

    edge = mover(bind, key=read)
    with pytest.raises(PublishError, match=r"gslb: the TSIG key cannot be read: .*tsig\.key"):
        await edge.publish("epmm-a")
    file.touch()
    assert (await moved(edge, "epmm-a")).node == "epmm-a"
    with pytest.raises(PublishError, match="BADSIG"):
        await edge.publish("epmm-b")
    assert (await moved(edge, "epmm-b")).node == "epmm-b"


async def test_a_clock_that_is_off_by_more_than_the_fudge_is_told(server, monkeypatch):
    edge = mover(server)
    await edge.read_back()
    real = time.time
    monkeypatch.setattr("dns.message.time.time", lambda: real() - 400)
    with pytest.raises(PublishError, match=r"clock and ours are apart.* by more than 300s"):
        await edge.publish("epmm-a")
    monkeypatch.undo()
    assert await server.says() == []


# ------------------------------------------------------------------ several servers
@contextlib.asynccontextmanager
async def pair(**options):
    """A primary and a secondary that copies it."""
    async with contextlib.AsyncExitStack() as stack:
        second = NameServer("named", primary=1)
        stack.callback(second.close)
        first = await stack.enter_async_context(
            serving_names("named", notify=second.port, **options)
        )
        second.follow(first.port)
        await second.start()
        yield first, second


async def test_published_means_that_every_server_says_so():
    async with pair() as (first, second):
        edge = mover(first, second)
        for node, address in (("epmm-a", "192.0.2.10"), ("epmm-b", "192.0.2.11")):
            seen = await moved(edge, node)
            assert (seen.node, seen.detail) == (node, "")
            assert await second.says() == [address]


async def test_a_secondary_that_stays_behind_is_told_and_is_no_success():
    async with pair() as (first, second):
        edge = mover(first, second)
        await moved(edge, "epmm-a")
        async with asyncio.timeout(20):
            while await second.says() != ["192.0.2.10"]:  # noqa: ASYNC110 - it sends no event
                await asyncio.sleep(0.02)
        second.unfollow()
        second.kill()
        await second.start()
        seen = await moved(edge, "epmm-b")
    assert (seen.node, seen.chosen) == (None, ("epmm-a", "epmm-b"))
    assert f"127.0.0.1:{second.port}: says epmm-a" in seen.detail


async def test_one_of_several_that_hangs_delays_nothing_and_is_told():
    async with pair() as (first, second):
        edge = mover(first, second, timeout_s=30.0)
        assert (await moved(edge, "epmm-a")).detail == ""
        with second.frozen():
            async with asyncio.timeout(15):
                for node in ("epmm-b", "epmm-a", "epmm-b"):
                    seen = await moved(edge, node)
                    assert seen.node == node
                    assert f"127.0.0.1:{second.port}: " in seen.detail
                began = time.monotonic()
                for _ in range(20):
                    await edge.read_back()
                assert time.monotonic() - began < 2.0  # 4 s, were it waited for each time
        async with asyncio.timeout(20):  # it is one of them again
            while (await edge.read_back()).detail:  # noqa: ASYNC110 - it sends no event
                await asyncio.sleep(0.02)


async def test_one_that_never_answered_is_waited_for_once(bind):
    """Its connections are taken by the kernel alone."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        edge = mover(bind, deaf.getsockname(), timeout_s=1.0)
        seen = await edge.read_back()
        assert "no answer within 1.0s" in seen.detail or "no answer within 1s" in seen.detail
        began = time.monotonic()
        for node in ("epmm-a", "epmm-b") * 5:
            assert (await moved(edge, node)).node == node
        assert time.monotonic() - began < 5.0  # 10 s, were it waited for each time
        await asyncio.sleep(1.1)  # until its last question is over


async def test_one_that_is_dead_from_the_start_is_told_and_the_others_count(bind):
    dead = ("127.0.0.1", 9)
    edge = mover(bind, dead)
    seen = await moved(edge, "epmm-a")
    assert seen.node == "epmm-a"
    assert "127.0.0.1:9: " in seen.detail
    with pytest.raises(Unreachable):
        await mover(dead, bind).publish("epmm-a")
    assert (await mover(dead, bind).read_back()).node == "epmm-a"


def test_what_cannot_be_is_refused_at_once():
    places = [("192.0.2.53", 53)]
    cases = {
        "use a name in zone": {"record": "epmm.example.org"},
        "no server": {"servers": []},
        "unlike kinds of address": {"values": {**NODES, "epmm-b": ["2001:db8::11"]}},
        "one address": {"values": {**NODES, "epmm-b": NODES["epmm-a"]}},
    }
    for found, change in cases.items():
        usual = {"servers": places, "zone": "example.test", "record": RECORD, "values": NODES}
        with pytest.raises(ValueError, match=found):
            DnsUpdate("gslb", **{**usual, **change}, key=lambda: KEY)
