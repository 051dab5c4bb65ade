"""Map style against servers that talk nonsense, and HAProxys that have no place left."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers
from lb_probe.adapters.haproxy.answers import (
    Stat,
    UnbelievableError,
    map_table,
    rows,
    sections,
    stats,
    workers,
)
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable

NODES = {"epmm-a": "a", "epmm-b": "b"}
PATIENT_S = 20.0
INFO = b"Name: HAProxy\nVersion: 2.8\nPid: 1\nUptime_sec: 9\nStopping: 0\nStart_time_sec: 17\n\n"
ROWS = (
    b"1\n# be_name srv_name srv_op_state srv_admin_state srv_uweight srv_check_status\n"
    b"%s %s 2 0 1 6\n\n"
)
TABLES = ROWS % (b"pool_a", b"a") + ROWS % (b"pool_b", b"b")
GOOD = INFO + TABLES + b"0x1 other b\n0x2 epmm a\n\n"


def edge(address: Any, **changes: Any) -> HaproxyMap:
    wanted: dict[str, Any] = {"keys": "epmm", "timeout_s": PATIENT_S} | changes
    return HaproxyMap("edge-1", address, "/m", nodes=NODES, **wanted)


async def test_answer_in_pieces_is_the_same_answer(serve):
    """What follows a piece may be there already or not yet; both are read on."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for piece in (GOOD[:1], GOOD[1:40], GOOD[40:]):
            writer.write(piece)
            await asyncio.sleep(0.01)  # so that it is alone on the wire

    async with serve(behave) as path:
        seen = await edge(path).read_back()

    assert (seen.node, seen.usable) == ("epmm-a", True)


@contextlib.asynccontextmanager
async def saying(serve: Any, *replies: bytes) -> Any:
    """Serve these answers in turn, the last for ever; yields the path and the lines."""
    lines: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        writer.write(replies[min(len(lines), len(replies)) - 1])
        await writer.drain()

    async with serve(behave) as path:
        yield path, lines


async def test_reading_is_one_connection_and_one_line(serve):
    async with saying(serve, GOOD) as (path, lines):
        seen = await edge(path).read_back()

    assert (seen.node, seen.usable) == ("epmm-a", True)
    assert lines == [b"show info;show servers state pool_a;show servers state pool_b;show map /m\n"]


SERVERS = (INFO + ROWS % (b"epmm", b"a"))[:-1] + b"epmm b 2 1 1 6\n\n"


@pytest.mark.parametrize(("style", "good"), [("map", GOOD), ("server", SERVERS)])
async def test_answer_cut_anywhere_is_never_a_statement(serve, style, good):
    async def read(reply: bytes) -> Seen | PublishError:
        async with saying(serve, reply) as (path, _):
            servers = HaproxyServers("edge", path, "epmm", NODES, timeout_s=PATIENT_S)
            try:
                return await (edge(path) if style == "map" else servers).read_back()
            except PublishError as exc:
                return exc

    told = [await read(good[:at]) for at in range(len(good))]

    assert [t for t in told if isinstance(t, Seen)] == []
    assert (await read(good)).node == "epmm-a"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (INFO + TABLES + b"0x1 epmm\n\n", "wanted the entries of the map"),
        (INFO + TABLES + b"Permission denied\n\n", "'Permission denied'"),
        (INFO + TABLES + b"epmm a b c\n\n", "wanted the entries of the map"),
        (GOOD + b"\n", "5 answers to 4 commands"),
        (GOOD.replace(b"Stopping: 0", b"Stopping: 1"), "is leaving after a reload"),
        (INFO.replace(b"Pid", b"Pod") + TABLES, "wanted the answer of `show info`"),
    ],
)
async def test_nonsense_is_no_statement_about_the_map(serve, reply, words):
    async with saying(serve, reply) as (path, _):
        with pytest.raises(PublishError, match=words) as caught:
            await edge(path).read_back()

    assert not isinstance(caught.value, Unreachable)
    assert str(caught.value).isprintable()


async def test_nonsense_about_a_pool_leaves_the_map_readable(serve):
    reply = INFO + b"Can't find backend.\n\nwhat?\n\n0x2 epmm a\n\n"
    async with saying(serve, reply) as (path, _):
        seen = await edge(path).read_back()

    assert (seen.node, seen.usable) == ("epmm-a", None)
    assert "nothing is known of backend pool_a" in seen.detail


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"Permission denied\n\n", "`level admin`"),
        (b"Done.\n\n", "'Done.'"),
        (b"", "outcome is unknown"),
        (b"entry not found.", "answered"),
        (b"\x1b[2J\n\n", "answered"),
    ],
)
async def test_anything_but_empty_answers_is_a_refused_publication(serve, reply, words):
    async with saying(serve, reply) as (path, lines):
        with pytest.raises(PublishError, match=words) as caught:
            await edge(path).publish("epmm-b")

    assert len(lines) == 1
    assert str(caught.value).isprintable()


async def test_missing_key_is_looked_up_before_it_is_added(serve):
    there = INFO + b"0x2 epmm a\n\n"
    async with saying(serve, b"entry not found.\n\n", there) as (path, lines):
        await edge(path).publish("epmm-b")  # somebody added it meanwhile
    assert lines == [b"set map /m epmm b\n", b"show info;show map /m\n"]

    gone = INFO + b"\n"
    async with saying(serve, b"entry not found.\n\n", gone, b"\n") as (path, lines):
        await edge(path).publish("epmm-b")
    assert lines[2] == b"add map /m epmm b\n"

    async with saying(serve, b"entry not found.\n\n", gone, b"No.\n\n") as (path, lines):
        with pytest.raises(PublishError, match=r"'No\.' to `add map /m epmm b`"):
            await edge(path).publish("epmm-b")

    async with saying(serve, b"entry not found.\n\n", b"what\n\n") as (path, lines):
        with pytest.raises(PublishError, match="wanted the answer of `show info`"):
            await edge(path).publish("epmm-b")
        assert len(lines) == 2


@pytest.mark.parametrize("style", ["server", "map"])
async def test_line_that_would_hang_an_old_haproxy_is_not_sent(serve, style):
    names = [f"service-{i:04}" for i in range(1000)]
    async with saying(serve, b"\n" * 1000) as (path, lines):
        adapter = HaproxyServers("edge", path, names, NODES)
        with pytest.raises(PublishError, match="15000 at most") as caught:
            await (edge(path, keys=names) if style == "map" else adapter).publish("epmm-b")

    assert lines == []
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("style", ["server", "map"])
async def test_line_of_20_kilobytes_is_no_statement(serve, style):
    async with saying(serve, b"x" * 20_000 + b"\n\n") as (path, lines):
        adapter = HaproxyServers("edge", path, "epmm", NODES) if style == "server" else edge(path)
        for ask in (adapter.read_back, lambda: adapter.publish("epmm-b")):
            with pytest.raises(PublishError) as caught:
                await ask()
            assert len(str(caught.value)) < 1000

    assert len(lines) == 2


async def test_socket_that_accepts_and_never_answers_costs_one_deadline(serve):
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serve(say_nothing) as path:
        adapter = edge(path, timeout_s=0.3)
        async with asyncio.timeout(10):
            with pytest.raises(Unreachable, match=r"no whole answer within 0\.3s"):
                await adapter.read_back()
            with pytest.raises(PublishError, match="outcome is unknown"):
                await adapter.publish("epmm-b")


SMALL = """
global
    stats socket {folder}/admin.sock mode 600 level admin
    stats maxconn 3
    stats timeout 60s
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend service
    bind {folder}/service.sock
    use_backend pool_%[str(epmm),map({folder}/active.map,none)]
backend pool_a
    server a 127.0.0.1:9
backend pool_b
    server a 127.0.0.1:9
    server b 127.0.0.1:9
"""


@pytest.mark.parametrize("style", ["server", "map"])
async def test_haproxy_without_a_free_place_is_unreachable_until_one_is_free(make_haproxy, style):
    haproxy = make_haproxy(SMALL)
    await haproxy.start()
    device = Device(haproxy.admin, timeout_s=0.5)
    adapter = (
        HaproxyServers("edge", device, "pool_b", NODES)
        if style == "server"
        else HaproxyMap("edge", device, str(haproxy.map), "epmm", NODES)
    )
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            _, writer = await asyncio.open_unix_connection(str(haproxy.admin))
            stack.callback(writer.close)
        with pytest.raises(Unreachable, match="`stats maxconn` used up"):
            await adapter.read_back()
        with pytest.raises(PublishError, match="`stats maxconn` used up"):
            await adapter.publish("epmm-b")

    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(PublishError):
                await adapter.publish("epmm-b")
                if (await adapter.read_back()).node == "epmm-b":
                    break
            await asyncio.sleep(0.05)


async def test_map_may_be_set_without_admin_level_before_haproxy_3_4(map_haproxy):
    """So a socket that is not `level admin` is not read-only where maps route."""
    device = Device(map_haproxy.operator, timeout_s=PATIENT_S)
    adapter = HaproxyMap("edge", device, str(map_haproxy.map), "epmm", NODES)

    await adapter.publish("epmm-b")

    assert (await adapter.read_back()).node == "epmm-b"


# ------------------------------------------------------------------ any bytes at all
@settings(deadline=None, max_examples=300)
@given(reply=st.binary(max_size=80), count=st.integers(1, 4))
def test_sections_put_together_again_are_the_answer(reply, count):
    try:
        parts = sections(reply, count)
    except UnbelievableError:
        return
    whole = b"".join((part + b"\n" if part else b"") + b"\n" for part in parts if part is not None)
    assert whole == reply
    assert len(parts) == count


@settings(deadline=None, max_examples=300)
@given(entries=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=8))
def test_map_is_read_as_it_is_told(entries):
    told = "\n".join(f"0x{i} {key} {value}" for i, (key, value) in enumerate(entries))

    table = map_table(told.encode())

    for key in "abc":
        values = tuple(v.encode() for k, v in entries if k == key)
        assert table.values.get(key.encode()) == (values[0] if values else None)
        assert table.twice.get(key.encode()) == (values if len(values) > 1 else None)


def test_check_that_runs_this_moment_does_not_make_another_row():
    header = b"# be_name srv_name srv_op_state srv_admin_state srv_uweight srv_check_status"
    told = b"1\n" + header + b" srv_check_health srv_check_state\np a 2 0 1 6 4 "

    assert rows(told + b"7") == rows(told + b"6")
    assert rows(told + b"14") != rows(told + b"6")


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"No such proxy.",
        b"# pxname,svname\na,b",
        b"# pxname,svname,scur,qcur,check_rise,check_fall\npool,a,1",
        b"# pxname,svname,scur,qcur,check_rise,check_fall\npool,a,x,0,2,3",
        b"# pxname,svname,scur,qcur,check_rise,check_fall\npool,a,1,0,2,",
    ],
)
def test_statistics_that_are_none_are_no_statement(table):
    with pytest.raises(UnbelievableError):
        stats(table)


def test_statistics_tell_what_is_in_flight_and_a_full_health_counter():
    table = (
        b"# qcur,pxname,svname,scur,last_chk,check_rise,check_fall,\n"
        b'2,pool,a,3,"one, two",2,3,\n,pool,b,,,,,\n'
    )
    assert stats(table) == {("pool", "a"): Stat(5, 4), ("pool", "b"): Stat(0, None)}


def test_master_tells_reloads_and_who_leaves():
    told = (
        b"#<PID>          <type>          <reloads>       <uptime>        <version>\n"
        b"16596           master          3 [failed: 1]   0d00h00m04s     2.8.25\n"
        b"# workers\n16617           worker          0               0d00h00m02s     2.8.25\n"
        b"# old workers\n16598           worker          1               0d00h00m04s     2.8.25\n"
        b"16501           worker          2               0d00h00m09s     2.8.25\n# programs\n"
    )
    assert workers(told) == (3, (16598, 16501))
    with pytest.raises(UnbelievableError, match="wanted the answer of `show proc`"):
        workers(b"Unknown command")


def test_paths_are_named_as_haproxy_names_them():
    assert edge(Path("/x")).commands("epmm-a") == ["set map /m epmm a"]
