"""HAProxy's adapter against real HAProxys, and against servers that talk nonsense."""

import ast
import asyncio
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import listening

from lb_probe.adapters import haproxy as haproxy_adapter
from lb_probe.adapters.haproxy import MAX_REPLY_BYTES, HaproxyServers
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable

NODES = {"epmm-a": "a", "epmm-b": "b"}
PATIENT_S = 20.0  # for a real HAProxy on a busy machine: its deadline is not under test


def adapter(address: Path | tuple[str, int], **changes: Any) -> HaproxyServers:
    wanted = {"backends": "epmm", "nodes": NODES, "timeout_s": PATIENT_S} | changes
    return HaproxyServers("edge-1", address, **wanted)


# ------------------------------------------------------------------ a real HAProxy
async def test_haproxy_stays_closed_until_it_is_told(haproxy):
    seen = await adapter(haproxy.admin).read_back()

    assert (seen.node, seen.chosen, seen.usable) == (None, (), None)
    assert "neither epmm-a (maintenance) nor epmm-b (maintenance) is ready" in seen.detail
    assert await haproxy.ask_service() == "503"


async def test_published_node_alone_gets_the_traffic(haproxy):
    edge = adapter(haproxy.admin)
    for node, name in (("epmm-a", "a"), ("epmm-b", "b"), ("epmm-b", "b"), ("epmm-a", "a")):
        await edge.publish(node)

        seen = await edge.read_back()
        assert (seen.node, seen.chosen, seen.usable) == (node, (node,), True)
        assert {await haproxy.ask_service() for _ in range(4)} == {name}


async def test_read_back_names_process_version_and_uptime(haproxy):
    seen = await adapter(haproxy.admin).read_back()

    assert seen.instance.startswith(f"{haproxy.pid}@")
    assert seen.version.startswith(("2.", "3."))
    assert seen.uptime_s is not None
    assert 0 <= seen.uptime_s < 600


async def test_no_client_is_refused_while_traffic_moves_to_and_fro(haproxy):
    edge = adapter(haproxy.admin)
    await edge.publish("epmm-a")
    answers: list[str] = []
    is_done = False
    # Of five answers of four clients one was asked for after the wait began.
    answered = asyncio.Semaphore(0)

    async def ask() -> None:
        while not is_done:
            answers.append(await haproxy.ask_service())
            answered.release()

    async with asyncio.TaskGroup() as clients:
        for _ in range(4):
            clients.create_task(ask())
        for i in range(40):
            await edge.publish(("epmm-b", "epmm-a")[i % 2])
            while not answered.locked():
                await answered.acquire()
            for _ in range(5):
                await answered.acquire()
        is_done = True

    assert set(answers) == {"a", "b"}


@pytest.mark.parametrize(
    ("command", "node", "chosen", "words"),
    [
        ("set server epmm/a state drain", None, (), "neither epmm-a (drain) nor epmm-b"),
        ("set server epmm/a state maint", None, (), "neither epmm-a (maintenance) nor epmm-b"),
        (
            "set server epmm/b state ready",
            None,
            ("epmm-a", "epmm-b"),
            "epmm-a and epmm-b are both ready",
        ),
        (
            "set server epmm/spare state ready",
            "epmm-a",
            ("epmm-a",),
            "server spare is ready and not in `nodes`",
        ),
    ],
)
async def test_read_back_sees_what_somebody_changed_by_hand(haproxy, command, node, chosen, words):
    edge = adapter(haproxy.admin)
    await edge.publish("epmm-a")

    haproxy.tell(command)

    seen = await edge.read_back()
    assert (seen.node, seen.chosen) == (node, chosen)
    assert words in seen.detail


async def test_ready_node_of_weight_zero_is_not_usable(haproxy):
    edge = adapter(haproxy.admin)
    await edge.publish("epmm-a")

    haproxy.tell("set server epmm/a weight 0")

    seen = await edge.read_back()
    assert (seen.node, seen.usable) == ("epmm-a", False)
    assert "epmm-a is ready but its weight is 0" in seen.detail


async def test_ready_node_that_haproxys_own_check_holds_down_is_not_usable(checking_haproxy, nodes):
    edge = adapter(checking_haproxy.admin)
    nodes["b"].close()
    await nodes["b"].wait_closed()

    await edge.publish("epmm-b")

    seen = await until(edge, lambda seen: seen.usable is False)
    assert seen.node == "epmm-b"
    assert "epmm-b is ready but HAProxy's own check holds it down (L4CON)" in seen.detail


async def test_restart_changes_the_instance_and_closes_haproxy_again(haproxy):
    edge = adapter(haproxy.admin)
    await edge.publish("epmm-b")
    before = await edge.read_back()

    haproxy.stop()
    await haproxy.start()

    after = await edge.read_back()
    assert before.node == "epmm-b"
    assert after.node is None
    assert after.instance != before.instance


async def test_reload_changes_the_instance_and_closes_haproxy_again(haproxy):
    edge = adapter(haproxy.admin)
    await edge.publish("epmm-b")
    before = await edge.read_back()

    await haproxy.reload()

    after = await edge.read_back()
    assert after.node is None
    assert after.instance != before.instance
    await edge.publish("epmm-b")
    assert (await edge.read_back()).node == "epmm-b"


async def test_worker_that_leaves_after_a_reload_is_not_believed(haproxy, serve):
    """A relay holds connections that the old worker accepted, and hands them to the adapter."""
    await adapter(haproxy.admin).publish("epmm-a")
    kept = [await asyncio.open_unix_connection(str(haproxy.admin)) for _ in range(2)]
    await asyncio.to_thread(haproxy.tell, "show info")  # accepted after them, answered: they are in
    await haproxy.reload()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_worker, to_worker = kept.pop()
        to_worker.write(await reader.readline())
        writer.write(await from_worker.read())
        await writer.drain()
        to_worker.close()
        await to_worker.wait_closed()

    async with serve(relay) as path:
        with pytest.raises(PublishError, match="is leaving after a reload"):
            await adapter(path).read_back()
        with pytest.raises(PublishError, match=r"Proxy is disabled\."):
            await adapter(path).publish("epmm-a")


async def test_haproxy_that_wakes_up_carries_out_what_we_gave_up_on(haproxy):
    edge, hasty = adapter(haproxy.admin), adapter(haproxy.admin, timeout_s=0.5)
    await edge.publish("epmm-a")

    async with haproxy.frozen():
        with pytest.raises(PublishError, match="outcome is unknown"):
            await hasty.publish("epmm-b")
        with pytest.raises(Unreachable, match="does it hang"):
            await hasty.read_back()

    await until(edge, lambda seen: seen.node == "epmm-b")


async def test_stopped_haproxy_is_unreachable(haproxy):
    edge = adapter(haproxy.admin)
    haproxy.stop()

    for ask in (edge.read_back(), edge.publish("epmm-a")):
        with pytest.raises(Unreachable, match="is HAProxy running") as caught:
            await ask
        assert str(haproxy.admin) in str(caught.value)


async def test_socket_without_admin_level_may_read_and_is_told_what_it_lacks(haproxy):
    edge = adapter(haproxy.operator)

    with pytest.raises(PublishError, match=r"'Permission denied.*`level admin`"):
        await edge.publish("epmm-a")

    assert (await edge.read_back()).chosen == ()


async def test_wrong_backend_is_named(haproxy):
    edge = adapter(haproxy.admin, backends="other")

    with pytest.raises(PublishError, match=r"backend other: found 'Can't find backend\.'"):
        await edge.read_back()
    with pytest.raises(PublishError, match=r"No such backend\..*compare `backend`"):
        await edge.publish("epmm-a")


async def test_wrong_server_is_named_with_those_that_exist(haproxy):
    edge = adapter(haproxy.admin, nodes={"epmm-a": "a", "epmm-b": "c"})

    with pytest.raises(PublishError, match=r"has the servers 'a b spare'; wanted each of a and c"):
        await edge.read_back()


@pytest.mark.parametrize("node", ["epmm-a", "epmm-b"])
async def test_half_of_an_assignment_is_an_error(haproxy, node):
    edge = adapter(haproxy.admin, nodes={"epmm-a": "a", "epmm-b": "c"})

    with pytest.raises(PublishError, match=r"'No such server\.'.*may be in force.*`nodes`"):
        await edge.publish(node)


async def test_concurrent_publications_leave_exactly_one_node_chosen(haproxy):
    edge = adapter(haproxy.admin)

    async with asyncio.TaskGroup() as tasks:
        for i in range(200):
            tasks.create_task(edge.publish(("epmm-a", "epmm-b")[i % 2]))

    assert len((await edge.read_back()).chosen) == 1


async def test_publications_of_one_adapter_do_not_cross(serve):
    open_now, most = 0, 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await reader.readline()
        await asyncio.sleep(0.01)  # time enough for another to come in between
        writer.write(b"\n\n")
        open_now -= 1

    async with serve(count) as path:
        edge = adapter(path)
        await asyncio.gather(*(edge.publish(node) for node in ("epmm-a", "epmm-b") * 5))

    assert most == 1


async def test_many_adapters_share_one_haproxy(haproxy):
    edges = [adapter(haproxy.admin) for _ in range(50)]

    async with asyncio.TaskGroup() as tasks:
        for edge in edges:
            tasks.create_task(edge.publish("epmm-b"))
    seen = await asyncio.gather(*(edge.read_back() for edge in edges))

    assert {s.node for s in seen} == {"epmm-b"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tcp_socket_works_like_a_unix_socket(haproxy, host):
    edge = adapter((host, haproxy.tcp[1]))

    await edge.publish("epmm-b")

    assert (await edge.read_back()).node == "epmm-b"


async def test_socket_that_numbers_its_messages_works_too(haproxy):
    edge = adapter(haproxy.numbered)

    await edge.publish("epmm-b")

    assert (await edge.read_back()).node == "epmm-b"
    with pytest.raises(PublishError, match=r"\[3\]: No such server\."):
        await adapter(haproxy.numbered, nodes={"epmm-a": "zz"}).publish("epmm-a")


# ------------------------------------------------------------------ what is sent
def test_commands_are_the_one_line_that_is_sent():
    nodes = {"epmm-a": "a", "epmm-b": "b", "dr": "c"}

    line = (
        "set server epmm/b state ready;set server epmm/a state maint;set server epmm/c state maint"
    )
    assert adapter(Path("/x"), nodes=nodes).commands("epmm-b") == [line]


def test_what_is_dangerous_on_old_versions_is_said_nowhere():
    """Clients of 2.6 forget `set server addr`; `set maxconn` ends it, `prompt` wedges a socket."""
    said = []
    for file in Path(haproxy_adapter.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text())
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        said += [t.value for t in texts if isinstance(t.value, str) and id(t) not in docs]
    assert "set server " in said
    assert [text for text in said if re.search(r"\baddr\b|\bset maxconn\b|\bprompt\b", text)] == []


async def test_publication_is_one_connection_and_one_line(serve):
    async with Script(serve, b"\n\n") as script:
        await adapter(script.path).publish("epmm-a")

    assert script.lines == [
        b"set server epmm/a state ready;set server epmm/b state maint\n",
    ]


def test_node_without_a_server_is_refused():
    with pytest.raises(PublishError, match="no server is known for zz; wanted one of epmm-a and"):
        adapter(Path("/x")).commands("zz")


async def test_node_without_a_server_is_refused_before_anything_is_sent(serve):
    async with Script(serve, b"\n\n") as script:
        with pytest.raises(PublishError, match="no server is known"):
            await adapter(script.path).publish("zz")

    assert script.lines == []


async def test_line_that_would_hang_an_old_haproxy_is_not_sent(serve):
    nodes = {f"n{i}": f"server-{i:04}" for i in range(500)}
    async with Script(serve, b"\n" * 500) as script:
        with pytest.raises(PublishError, match="15000 at most"):
            await adapter(script.path, nodes=nodes).publish("n0")

    assert script.lines == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backends": "ep mm"}, "backend is 'ep mm'"),
        ({"backends": ""}, "backend is ''"),
        ({"nodes": {"epmm-a": "a;shutdown"}}, "server of epmm-a is 'a;shutdown'"),
        ({"nodes": {"epmm-a": "a\n"}}, "server of epmm-a"),
        ({"nodes": {"epmm-a": "ä"}}, "server of epmm-a"),
        ({"nodes": {}}, "at least one"),
        ({"nodes": {"epmm-a": "a", "epmm-b": "a"}}, "its own server"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
    ],
)
def test_what_haproxy_cannot_have_is_refused_at_once(changes, words):
    with pytest.raises(ValueError, match=words):
        adapter(Path("/x"), **changes)


@pytest.mark.parametrize("address", [("127.0.0.1", 0), ("127.0.0.1", 65536), Path("/x\0y")])
def test_impossible_address_is_refused_at_once(address):
    with pytest.raises(ValueError, match=r"port is|NUL"):
        adapter(address)


# ------------------------------------------------------------------ no connection
async def test_missing_socket_is_told_at_once_and_by_name(short_folder):
    path = short_folder / "none.sock"

    with pytest.raises(
        Unreachable, match=r"edge-1: HAProxy at .*there is no such socket"
    ) as caught:
        await adapter(path, timeout_s=60).publish("epmm-a")

    assert f"`stats socket {path} mode 660 level admin`" in str(caught.value)
    assert "nothing was sent" in str(caught.value)


async def test_socket_that_may_not_be_opened_names_the_group(monkeypatch):
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)  # root, who runs tests, may open all

    with pytest.raises(Unreachable, match="join the group of the socket"):
        await adapter(Path("/x")).read_back()


@pytest.mark.parametrize("address", [Path("/tmp"), Path("/tmp/" + "x" * 200), ("x" * 64, 9999)])
async def test_address_that_leads_nowhere_is_unreachable(address):
    with pytest.raises(Unreachable):
        await adapter(address, timeout_s=5).read_back()


async def test_refused_tcp_port_is_unreachable():
    with socket.socket() as bound:  # bound, never listening: nobody else can take the port
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="nobody listens there"):
            await adapter(bound.getsockname()).read_back()


async def test_connecting_is_tried_again_while_haproxy_restarts(short_folder):
    path = short_folder / "late.sock"
    with socket.socket(socket.AF_UNIX) as late:
        late.bind(str(path))  # the file is there, and refuses
        asyncio.get_running_loop().call_later(0.1, late.listen)
        with pytest.raises(Unreachable, match="no whole answer within"):
            await adapter(path, timeout_s=1).read_back()
        late.setblocking(False)
        first, _ = late.accept()
        with first:
            assert first.recv(100) == b"show info;show servers state epmm\n"


async def test_full_queue_is_unreachable_and_not_a_connection(short_folder):
    path = short_folder / "full.sock"
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(str(path))
        full.listen(0)
        first.connect(str(path))
        with pytest.raises(Unreachable, match=r"`stats maxconn` used up.*nothing was sent"):
            await adapter(path, timeout_s=0.3).publish("epmm-a")


# ------------------------------------------------------------------ strange answers
INFO = {
    "Name": "HAProxy",
    "Version": "2.8.25-5cf5d0683",
    "Pid": "123",
    "Uptime_sec": "12",
    "Stopping": "0",
    "Start_time_sec": "1700000000",
}
HEADER = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
    " srv_check_status srv_port"
)


def row(name: str, op: object, admin: object, weight: object = 1, check: object = 6) -> str:
    return f"3 epmm 1 {name} 127.0.0.1 {op} {admin} {weight} 1 {check} 80"


GOOD_ROWS = (row("a", 2, 4), row("b", 0, 5))


def answer(*rows: str, header: str = HEADER, **info: str | None) -> bytes:
    fields = {key: value for key, value in (INFO | info).items() if value is not None}
    told = "".join(f"{key}: {value}\n" for key, value in fields.items())
    return (told + "\n" + "\n".join(("1", header, *rows)) + "\n\n").encode()


GOOD = answer(*GOOD_ROWS)


class Script:
    """A server that gives each connection the same bytes; `lines` is what it was asked."""

    def __init__(self, serve: Any, reply: bytes) -> None:
        self.lines: list[bytes] = []
        self._reply = reply
        self._serving = serve(self._behave)

    async def _behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lines.append(await reader.readline())
        writer.write(self._reply)
        await writer.drain()

    async def __aenter__(self) -> "Script":
        self.path = await self._serving.__aenter__()
        return self

    async def __aexit__(self, *args: object) -> None:
        await self._serving.__aexit__(*args)


async def until(edge: HaproxyServers, is_there: Any) -> Seen:
    async with asyncio.timeout(20):
        while True:
            if is_there(seen := await edge.read_back()):
                return seen
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("rows", "chosen", "usable"),
    [
        (GOOD_ROWS, ("epmm-a",), True),
        ((row("a", 2, 0), row("b", 2, 1)), ("epmm-a",), True),
        ((row("a", 1, 0x40), row("b", 2, 8)), ("epmm-a",), True),
        ((row("a", 2, 16), row("b", 2, 4)), ("epmm-b",), True),
        ((row("a", 2, 12), row("b", 3, 4)), ("epmm-b",), False),
        ((row("a", 2, 32), row("b", 0, 4)), ("epmm-b",), False),
        ((row("a", 2, 2), row("b", 2, 0, 0)), ("epmm-b",), False),
        ((row("a", 0, 0, check=999), row("b", 0, 5)), ("epmm-a",), False),
        ((row("a", 2, 0), row("b", 2, 4)), ("epmm-a", "epmm-b"), None),
        ((row("a", 2, 5), row("b", 2, 5)), (), None),
    ],
)
async def test_state_is_read_as_decimal_bits(serve, rows, chosen, usable):
    async with Script(serve, answer(*rows)) as script:
        seen = await adapter(script.path).read_back()

    assert (seen.chosen, seen.usable) == (chosen, usable)
    assert seen.instance == "123@1700000000"


async def test_columns_are_found_by_name_and_other_backends_are_ignored(serve):
    header = "# srv_name srv_admin_state new srv_uweight srv_op_state srv_check_status be_name"
    rows = ("a 5 x 1 0 6 epmm", "b 4 x 1 2 6 epmm", "a 0 x 1 2 6 other", "b 5 x 1 0 6 other")
    async with Script(serve, answer(*rows, header=header)) as script:
        seen = await adapter(script.path).read_back()

    assert seen.node == "epmm-b"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"\n", "wanted the answer of `show info`"),
        (b"\n\n", "wanted the answer of `show info`"),
        (b"\x00\xff\xfe" * 1000, "cut off"),
        (b"HTTP/1.1 400 Bad request\r\n\r\n<html>\x1b[31m</html>\n\n", "wanted the answer of"),
        (GOOD[:-1], "cut off"),
        (GOOD[:-20], "cut off"),
        (GOOD[: GOOD.index(b"\n\n") + 2], "does it exist"),
        (answer(), r"has the servers ''; wanted each of a and b once"),
        (answer(GOOD_ROWS[0]), r"has the servers 'a'; wanted each of a and b once"),
        (answer(*GOOD_ROWS, GOOD_ROWS[0]), r"has the servers 'a b a'"),
        (answer(*GOOD_ROWS, header="# be_name srv_name"), "wanted the column srv_op_state"),
        (answer(GOOD_ROWS[0] + " x", GOOD_ROWS[1]), "row of 12 cells"),
        (answer(row("a", "up", 0), GOOD_ROWS[1]), "srv_op_state 'up'; wanted a number"),
        (answer(row("a", 2, "0x05"), GOOD_ROWS[1]), "srv_admin_state '0x05'"),
        (answer(row("a", 2, "-1"), GOOD_ROWS[1]), "srv_admin_state '-1'"),
        (answer(row("a", 2, "٤"), GOOD_ROWS[1]), "srv_admin_state"),
        (answer(row("a", 2, "9" * 5000), GOOD_ROWS[1]), "srv_admin_state '9{200}'"),
        (answer(*GOOD_ROWS, Stopping="1"), "process '123' is leaving after a reload"),
        (answer(*GOOD_ROWS, Stopping=None), "found Stopping ''"),
        (answer(*GOOD_ROWS, Pid="x"), "found Pid 'x'"),
        (answer(*GOOD_ROWS, Pid=None), "wanted the answer of `show info`"),
        (answer(*GOOD_ROWS, Start_time_sec=None), "found Start_time_sec ''"),
    ],
)
async def test_nonsense_is_no_statement_about_haproxy(serve, reply, words):
    async with Script(serve, reply) as script:
        with pytest.raises(PublishError, match=words) as caught:
            await adapter(script.path).read_back()

    assert not isinstance(caught.value, Unreachable)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"Permission denied\n\nPermission denied\n\n", "`level admin`"),
        (b"No such server.\n\n\n", "'No such server.'"),
        (b"\nNo such server.\n", "'No such server.'"),
        (b" \n\n", "answered ''"),
        (b"Done.\n\n", "'Done.'"),
        (b"> \n> ", "'> >'"),
        (b"\xff\x00\x1b[2J\n\n", "answered"),
        (b"x" * 5000, "'x{200}'"),
        (b"\n", "answered 1 of 2 commands.*outcome is unknown"),
        (b"", "closed without an answer.*outcome is unknown"),
    ],
)
async def test_anything_but_empty_answers_is_a_refused_publication(serve, reply, words):
    async with Script(serve, reply) as script:
        with pytest.raises(PublishError, match=words) as caught:
            await adapter(script.path).publish("epmm-a")

    assert len(script.lines) == 1
    assert not isinstance(caught.value, Unreachable)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


async def test_answer_of_more_commands_than_sent_is_still_empty(serve):
    async with Script(serve, b"\n\n\n\n") as script:
        await adapter(script.path).publish("epmm-a")

    assert len(script.lines) == 1


async def test_connection_closed_without_a_word_is_unreachable_for_a_question(serve):
    async with Script(serve, b"") as script:
        with pytest.raises(Unreachable, match="closed without an answer"):
            await adapter(script.path).read_back()


async def test_endless_answer_is_cut_before_it_fills_the_memory(serve):
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(MAX_REPLY_BYTES // 65536 * 3):
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with serve(flood) as path:
        with pytest.raises(PublishError, match=f"more than {MAX_REPLY_BYTES} bytes"):
            await adapter(path).read_back()
        with pytest.raises(PublishError, match="outcome is unknown"):
            await adapter(path).publish("epmm-a")

    assert sent < 4 * MAX_REPLY_BYTES  # for both


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in GOOD:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.03)


async def never_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GOOD)
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [(say_nothing, Unreachable), (drip, PublishError), (never_close, PublishError)],
)
async def test_slow_server_costs_one_deadline_and_one_line(serve, behaviour, kind):
    lines: list[bytes] = []

    async def listen_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(await reader.readline())
        await behaviour(reader, writer)

    async with serve(listen_first) as path:
        edge = adapter(path, timeout_s=0.5)
        async with asyncio.timeout(10):
            with pytest.raises(PublishError, match=r"within 0\.5s") as asked:
                await edge.read_back()
            with pytest.raises(PublishError, match="outcome is unknown") as told:
                await edge.publish("epmm-a")

    assert (type(asked.value), type(told.value)) == (kind, PublishError)
    assert len(lines) == 2


async def test_reset_connection_leaves_the_outcome_unknown(serve):
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # the rest stays unread: closing resets the connection

    async with serve(reset) as path:
        with pytest.raises(PublishError, match="outcome is unknown") as caught:
            await adapter(path).publish("epmm-a")

    assert not isinstance(caught.value, Unreachable)


async def test_cancelled_question_closes_its_connection(serve):
    is_asked, is_closed = asyncio.Event(), asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        is_asked.set()
        await reader.read()
        is_closed.set()

    async with serve(watch) as path:
        task = asyncio.create_task(adapter(path).read_back())
        await is_asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            await is_closed.wait()


async def test_publication_after_a_cancelled_one_is_not_blocked_by_it(serve):
    is_asked = asyncio.Event()

    async def hang_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if not is_asked.is_set():
            is_asked.set()
            await asyncio.Event().wait()
        writer.write(b"\n\n")

    async with serve(hang_once) as path:
        edge = adapter(path)
        task = asyncio.create_task(edge.publish("epmm-a"))
        await is_asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await edge.publish("epmm-a")


def test_adapter_works_on_uvloop(serve, short_folder):
    async def main() -> None:
        async with Script(serve, GOOD) as script:
            assert (await adapter(script.path).read_back()).node == "epmm-a"
        async with Script(serve, b"\n\n") as script:
            await adapter(script.path).publish("epmm-a")
        async with serve(say_nothing) as path:
            with pytest.raises(Unreachable, match="no whole answer"):
                await adapter(path, timeout_s=0.2).read_back()
        with pytest.raises(Unreachable, match="no such socket"):
            await adapter(short_folder / "none").read_back()
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(Unreachable, match="nobody listens"):
                await adapter(bound.getsockname()).read_back()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# ------------------------------------------------------------------ any answer at all
cells = st.one_of(st.integers(0, 70).map(str), st.sampled_from(["", "-", "x", "0x4", "1_0", "²"]))
generated_rows = st.lists(
    st.builds(
        row,
        st.sampled_from(["a", "b", "c", "", "a\x0bb"]),
        cells,
        cells,
        cells,
        cells,
    ),
    max_size=4,
)
replies = st.one_of(
    st.binary(max_size=300),
    generated_rows.map(lambda rows: answer(*rows)),
    st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=5), st.integers(0, 5)).map(
        lambda t: GOOD[: t[0]] + t[1] + GOOD[t[0] + t[2] :]
    ),
    st.text(max_size=60).map(lambda text: GOOD.replace(b"\n3 epmm", text.encode() + b"3 epmm", 1)),
)


async def ask_about(reply: bytes) -> Seen | PublishError:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(reply)

    with tempfile.TemporaryDirectory(prefix="hap", dir="/tmp") as folder:
        path = Path(folder) / "s"
        async with listening(behave, path=str(path)):
            try:
                return await adapter(path).read_back()
            except PublishError as exc:
                return exc


def says_ready(reply: bytes, server: str) -> bool:
    """Whether some row, read naively, carries this server without a bit that takes it out."""
    rows = [line.split(b" ") for line in reply.split(b"\n")]
    return any(
        len(cells) == 11 and cells[3] == server.encode() and int(cells[6]) & 0x3B == 0
        for cells in rows
        if len(cells) > 6 and cells[6].isdigit()
    )


@settings(deadline=None, max_examples=300)
@given(reply=replies)
async def test_no_answer_makes_a_server_chosen_whose_row_does_not_say_so(reply):
    result = await ask_about(reply)

    if isinstance(result, Seen):
        for node in result.chosen:
            assert says_ready(reply, NODES[node])
        assert (result.node is not None) == (len(result.chosen) == 1)
        assert result.detail.isprintable()
    else:
        assert str(result).isprintable()


@settings(deadline=None, max_examples=100)
@given(op=st.integers(0, 4), admin=st.integers(0, 127), weight=st.integers(0, 256))
async def test_every_well_formed_row_is_understood(op, admin, weight):
    seen = await ask_about(answer(row("a", op, admin, weight), row("b", 0, 5)))

    assert isinstance(seen, Seen)
    is_chosen = not (admin & 0x23 or admin & 0x18)
    assert seen.chosen == (("epmm-a",) if is_chosen else ())
    assert seen.usable == ((op in (1, 2) and weight > 0) if is_chosen else None)
