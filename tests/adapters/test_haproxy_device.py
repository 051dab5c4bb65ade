"""One HAProxy shared by many adapters: shared readings, few connections, the feed."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers
from lb_probe.adapters.haproxy import device as device_module
from lb_probe.core.model import Seen
from lb_probe.ports import Closable, PublishError, Signed, Unreachable, Watched

NODES = {"node-a": "a", "node-b": "b"}
PATIENT_S = 20.0
INFO = {"Name": "HAProxy", "Version": "2.8", "Pid": 1, "Uptime_sec": 12, "Stopping": 0}


SERVERS = (
    "1\n# be_name srv_name srv_op_state srv_admin_state srv_uweight srv_check_status\n"
    "epmm a 2 0 1 6\nepmm b 0 1 1 6\n\n"
)


class Fake:
    """A HAProxy that knows one map with one key, and may be held up before it answers."""

    def __init__(self) -> None:
        self.value = "a"
        self.lines: list[str] = []
        self.info: dict[str, Any] = {**INFO, "Start_time_sec": 1700000000}
        self.hold: Callable[[str], bool] = lambda line: False
        self.asked = asyncio.Semaphore(0)
        self.released = asyncio.Event()
        self.open = self.most = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            line = (await reader.readline()).decode().strip()
            self.lines.append(line)
            reply = "".join(self.answer(command) for command in line.split(";"))
            self.asked.release()
            if self.hold(line):
                await self.released.wait()
            writer.write(reply.encode())
            await writer.drain()
        finally:
            self.open -= 1

    def answer(self, command: str) -> str:
        if command == "show info":
            return "".join(f"{k}: {v}\n" for k, v in self.info.items()) + "\n"
        if command.startswith("show servers state epmm"):
            return SERVERS
        if command.startswith("show servers state"):
            return "Can't find backend.\n\n"
        if command.startswith("show map"):
            return f"0x1 epmm {self.value}\n\n"
        self.value = command.split(" ")[-1]
        return "\n"


@contextlib.asynccontextmanager
async def faked(serve: Any, **settings: Any) -> Any:
    fake = Fake()
    async with serve(fake) as path:
        yield fake, Device(path, **({"timeout_s": PATIENT_S} | settings))


def edge(device: Device, name: str = "edge", **changes: Any) -> HaproxyMap:
    return HaproxyMap(name, device, "/m", "epmm", NODES, **changes)


# ------------------------------------------------------------------ readings are shared
async def test_callers_get_a_reading_that_began_after_their_call_and_share_it(serve):
    async with faked(serve) as (fake, device):
        fake.hold = lambda line: len(fake.lines) == 1
        first = asyncio.create_task(edge(device).read_back())
        await fake.asked.acquire()
        fake.value = "b"
        others = [asyncio.create_task(edge(device).read_back()) for _ in range(50)]
        await asyncio.sleep(0)
        fake.released.set()

        assert (await first).node == "node-a"
        assert {(await other).node for other in others} == {"node-b"}
        assert len(fake.lines) == 2


async def test_reading_that_is_late_does_not_hold_up_the_next(serve):
    async with faked(serve) as (fake, device):
        fake.hold = lambda line: len(fake.lines) == 1
        first = asyncio.create_task(edge(device).read_back())
        await fake.asked.acquire()

        assert (await edge(device).read_back()).node == "node-a"
        assert not first.done()
        fake.released.set()
        await first


async def test_caller_who_leaves_does_not_take_the_reading_from_the_others(serve):
    async with faked(serve) as (fake, device):
        fake.hold = lambda line: len(fake.lines) == 2
        await edge(device).read_back()
        leader = asyncio.create_task(edge(device).read_back())
        followers = [asyncio.create_task(edge(device).read_back()) for _ in range(5)]
        await fake.asked.acquire()
        await fake.asked.acquire()

        leader.cancel()

        assert {(await other).node for other in followers} == {"node-a"}
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert len(fake.lines) == 3


async def test_failed_reading_is_told_to_all_who_share_it_by_their_own_names(serve):
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"Name: HAPr")

    async with serve(cut) as path:
        device = Device(path)
        edges = [edge(device, f"edge-{i}") for i in range(3)]
        told = await asyncio.gather(*(e.read_back() for e in edges), return_exceptions=True)

    assert [str(e).partition(":")[0] for e in told] == ["edge-0", "edge-1", "edge-2"]
    assert all(isinstance(e, PublishError) and "cut off" in str(e) for e in told)


@pytest.mark.parametrize("few", [0, 48])
async def test_table_of_all_backends_says_the_same_as_one_by_one(haproxy, monkeypatch, few):
    monkeypatch.setattr(device_module, "_FEW", few)
    device = Device(haproxy.admin, timeout_s=PATIENT_S)
    servers = HaproxyServers("edge", device, "epmm", NODES)
    wrong = HaproxyServers("edge", device, "other", NODES)
    await servers.publish("node-b")

    seen = await servers.read_back()

    assert (seen.node, seen.usable, seen.detail) == ("node-b", True, "")
    with pytest.raises(PublishError, match=r"edge: HAProxy at .*, backend other: found"):
        await wrong.read_back()


# ------------------------------------------------------------------ few connections
async def test_no_more_connections_at_once_than_the_device_may_have(serve):
    async with faked(serve, connections=6) as (fake, device):
        edges = [edge(device) for _ in range(60)]
        await asyncio.gather(*(e.publish("node-b") for e in edges), *(e.read_back() for e in edges))

        assert 2 <= fake.most <= 6


async def test_changes_that_hang_neither_starve_readings_nor_outlast_their_deadline(serve):
    async with faked(serve, timeout_s=1.0) as (fake, device):
        fake.hold = lambda line: line.startswith("set")
        edges = [edge(device) for _ in range(40)]
        publishing = [asyncio.create_task(e.publish("node-b")) for e in edges]
        for _ in range(4):
            await fake.asked.acquire()

        assert (await edges[0].read_back()).node == "node-b"
        async with asyncio.timeout(10):
            told = await asyncio.gather(*publishing, return_exceptions=True)

        unknown = [e for e in told if "outcome is unknown" in str(e)]
        assert len(unknown) == len(fake.lines) - 1 == 4
        rest = [e for e in told if e not in unknown]
        assert all(isinstance(e, Unreachable) and "nothing was sent" in str(e) for e in rest)


async def test_readings_that_hang_do_not_starve_changes(serve):
    async with faked(serve, timeout_s=2.0) as (fake, device):
        fake.hold = lambda line: line.startswith("show")
        reading = [asyncio.create_task(edge(device).read_back()) for _ in range(2)]
        await fake.asked.acquire()
        reading += [asyncio.create_task(edge(device).read_back()) for _ in range(2)]
        await fake.asked.acquire()

        await edge(device).publish("node-b")

        assert not any(task.done() for task in reading)
        fake.released.set()
        await asyncio.gather(*reading)


@pytest.mark.parametrize("changes", [{"connections": 1}, {"poll_s": 0}, {"timeout_s": 0}])
def test_impossible_device_is_refused_at_once(changes):
    with pytest.raises(ValueError, match="use"):
        Device(Path("/x"), **changes)


# ------------------------------------------------------------------ which run it is
@pytest.mark.parametrize("style", ["server", "map"])
@pytest.mark.parametrize(
    ("then", "is_another"),
    [
        ({"Uptime_sec": 12}, False),
        ({"Uptime_sec": 13}, False),
        ({"Uptime_sec": 0}, True),
        ({"CumConns": 500}, False),
        ({"CumConns": 3}, True),
        ({"Pid": 2}, True),
        ({"Start_time_sec": 1700000001}, True),
    ],
)
async def test_restart_with_the_same_pid_and_clock_is_noticed_by_counters(
    serve, style, then, is_another
):
    async with faked(serve) as (fake, device):
        servers = HaproxyServers("edge", device, "epmm", NODES)
        adapter = servers if style == "server" else edge(device)
        fake.info["CumConns"] = 400
        before = await adapter.read_back()
        fake.info |= then
        after = await adapter.read_back()
        again = await adapter.read_back()

    assert (after.instance != before.instance) == is_another
    assert again.instance == after.instance


@pytest.mark.parametrize("style", ["server", "map"])
async def test_uptime_is_told_anew_when_it_is_out_by_more_than_two_seconds(serve, style):
    """People read it; a thousand groups need no new object each time a second has passed."""
    async with faked(serve) as (fake, device):
        servers = HaproxyServers("edge", device, "epmm", NODES)
        adapter = servers if style == "server" else edge(device)
        told = []
        for uptime_s in (100, 101, 102, 103, 104, 3):
            fake.info["Uptime_sec"] = uptime_s
            told.append((await adapter.read_back()).uptime_s)

    assert told == [100, 100, 100, 103, 103, 3]


# ------------------------------------------------------------------ the feed
class Told(list[Seen | PublishError]):
    """What a watcher was told, as words."""

    @property
    def words(self) -> list[str]:
        return [t.word if isinstance(t, Seen) else type(t).__name__ for t in self]


async def test_watcher_is_told_only_what_changed(haproxy):
    device = Device(haproxy.admin, timeout_s=PATIENT_S)
    adapter, told = HaproxyServers("edge", device, "epmm", NODES), Told()
    adapter.watch(told.append)
    for _ in range(3):
        await device.poll()
    assert told.words == ["neither"]

    haproxy.tell("set server epmm/a state ready")
    for _ in range(3):
        await device.poll()
    assert told.words == ["neither", "node-a"]

    haproxy.stop()
    for _ in range(3):
        await device.poll()
    assert told.words == ["neither", "node-a", "Unreachable"]

    await haproxy.start()
    for _ in range(3):
        await device.poll()
    assert told.words == ["neither", "node-a", "Unreachable", "neither"]


async def test_restart_that_changes_nothing_is_told_by_its_instance(haproxy):
    device, told = Device(haproxy.admin, timeout_s=PATIENT_S), Told()
    HaproxyServers("edge", device, "epmm", NODES).watch(told.append)
    await device.poll()

    haproxy.stop()
    await haproxy.start()
    await device.poll()

    assert told.words == ["neither", "neither"]
    assert told[0].instance != told[1].instance


async def test_broken_backend_of_one_adapter_is_told_to_that_one_alone(haproxy):
    device, good, bad = Device(haproxy.admin, timeout_s=PATIENT_S), Told(), Told()
    HaproxyServers("edge-1", device, "epmm", NODES).watch(good.append)
    HaproxyServers("edge-2", device, "other", NODES).watch(bad.append)

    await device.poll()
    await device.poll()

    assert good.words == ["neither"]
    assert bad.words == ["PublishError"]
    assert "edge-2" in str(bad[0])


async def test_reading_that_began_before_a_publication_ended_is_not_told(serve):
    async with faked(serve) as (fake, device):
        adapter, told = edge(device), Told()
        adapter.watch(told.append)
        fake.hold = lambda line: len(fake.lines) == 1
        poll = asyncio.create_task(device.poll())
        await fake.asked.acquire()
        await adapter.publish("node-b")
        fake.released.set()
        await poll
        assert told == []

        await device.poll()

    assert told.words == ["node-b"]


async def test_reading_that_began_before_one_read_back_is_not_told_after_it(serve):
    async with faked(serve) as (fake, device):
        adapter, told = edge(device), Told()
        adapter.watch(told.append)
        fake.hold = lambda line: len(fake.lines) == 1
        poll = asyncio.create_task(device.poll())
        await fake.asked.acquire()
        fake.value = "b"
        assert (await adapter.read_back()).node == "node-b"
        fake.released.set()
        await poll

    assert told == []


async def test_error_of_a_reading_that_began_before_a_publication_ended_is_not_told(serve):
    async with faked(serve) as (fake, device):
        adapter, told = edge(device), Told()
        adapter.watch(told.append)
        fake.hold = lambda line: len(fake.lines) == 1
        fake.info["Stopping"] = 1
        poll = asyncio.create_task(device.poll())
        await fake.asked.acquire()
        fake.info["Stopping"] = 0
        await adapter.publish("node-b")
        fake.released.set()
        await poll

    assert told == []


@pytest.mark.parametrize("style", ["server", "map"])
def test_adapter_tells_of_changes_only_where_somebody_may_run_its_device(style):
    def make(device: Device | Path) -> HaproxyServers | HaproxyMap:
        if style == "map":
            return HaproxyMap("edge", device, "/m", "epmm", NODES)
        return HaproxyServers("edge", device, "epmm", NODES)

    assert isinstance(make(Device(Path("/x"))), Watched)
    assert not isinstance(make(Path("/x")), Watched)
    assert isinstance(make(Path("/x")), Closable)
    assert isinstance(make(Path("/x")), Signed) == (style == "map")


async def test_watcher_that_ends_is_told_nothing_more(serve):
    async with faked(serve) as (fake, device):
        adapter, one, two = edge(device), Told(), Told()
        end = adapter.watch(one.append)
        adapter.watch(two.append)
        await device.poll()
        end()
        fake.value = "b"
        await device.poll()

    assert one.words == ["node-a"]
    assert two.words == ["node-a", "node-b"]


async def test_feed_polls_by_itself_with_one_connection_for_all(serve):
    async with faked(serve, poll_s=0.01) as (fake, device):
        heard = asyncio.Semaphore(0)
        for i in range(20):
            edge(device, f"edge-{i}").watch(lambda _: heard.release())
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(20):
            feed = tasks.create_task(device.run())
            for _ in range(20):
                await heard.acquire()
            fake.value = "b"
            for _ in range(20):
                await heard.acquire()
            feed.cancel()

        assert fake.most == 1
        assert {line.partition(";")[0] for line in fake.lines} == {"show info"}
