"""What probers make of a name that others write as well, against real BIND and Knot."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from name_servers import MARK, NameServer, mover, serving_names

from lb_probe.clock import SystemClock
from lb_probe.core.model import Event
from lb_probe.reconcile import Reconciler, Wanted

A, B = "epmm-a", "epmm-b"
ON = {A: ["192.0.2.10"], B: ["192.0.2.11"]}
PATIENT_S = 30.0

pytestmark = pytest.mark.timeout(120)


class Prober:
    """One adapter kept at what is wanted; `events` is what it told."""

    def __init__(self, server: NameServer, name: str) -> None:
        self.events: list[Event] = []
        self.generation = 0
        self.confirmed = asyncio.Event()
        self.kept = Reconciler(
            "epmm",
            mover(server),
            SystemClock(),
            self,
            confirm=self._confirm,
            confirmed=0,
            changed=lambda: None,
            signature=name,
        )

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def count(self, name: str) -> int:
        return sum(event.name == name for event in self.events)

    async def _confirm(self, adapter: str, generation: int) -> bool:
        self.confirmed.set()
        return True

    def want(self, node: str) -> None:
        self.generation += 1
        self.kept.want(Wanted(node, self.generation, may_write=True))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Prober"]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.kept.run())
            try:
                yield self
            finally:
                task.cancel()


@pytest.fixture(params=["named", "knotd"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[NameServer]:
    async with serving_names(request.param) as found:
        yield found


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not is_so():  # noqa: ASYNC110 - what is told is a list
            await asyncio.sleep(0.01)


async def test_the_record_says_who_wrote_last_and_for_which_generation(server):
    first = Prober(server, "prober-1")
    async with first.running():
        for number, node in enumerate((A, B), 1):
            first.confirmed.clear()
            first.want(node)
            await first.confirmed.wait()
            assert await server.says() == ON[node]
            assert await server.says("TXT", MARK) == [f'"lb-probe owner=prober-1.g{number}"']


async def test_a_second_prober_by_mistake_moves_once_and_the_first_yields(server):
    first, second = Prober(server, "prober-1"), Prober(server, "prober-2")
    async with first.running():
        first.want(A)
        await first.confirmed.wait()
        second.want(B)
        async with second.running():
            await second.confirmed.wait()
            await until(lambda: first.kept.view.yielded)
    assert await server.says() == ON[B]
    assert not second.kept.view.yielded
    assert (first.count("publish.sent"), second.count("publish.sent")) == (1, 1)
    assert first.count("publish.foreign-writer") >= 1


async def test_what_a_hand_changed_is_put_right_twice_and_then_left_alone(server):
    first = Prober(server, "prober-1")
    async with first.running():
        first.want(A)
        await first.confirmed.wait()
        for _ in range(2):
            before = first.count("publish.done")
            await server.edit(lambda m: m.replace("epmm", 30, "A", "192.0.2.99"))
            await until(lambda b=before: first.count("publish.done") > b)
            assert await server.says() == ON[A]
        await server.edit(lambda m: m.replace("epmm", 30, "A", "192.0.2.99"))
        await until(lambda: first.kept.view.yielded)
    assert await server.says() == ["192.0.2.99"]


async def test_twenty_probers_end_with_one_that_writes(server):
    """Each has a change of its own to carry out; nobody corrects another for ever."""
    probers = [Prober(server, f"prober-{i}") for i in range(20)]
    async with contextlib.AsyncExitStack() as stack:
        for number, prober in enumerate(probers):
            await stack.enter_async_context(prober.running())
            prober.want((A, B)[number % 2])
        for prober in probers:
            await asyncio.wait_for(prober.confirmed.wait(), PATIENT_S)

        def are_settled() -> bool:
            return all(p.kept.view.yielded or p.kept.is_in_sync for p in probers)

        await until(are_settled)
        sent = sum(prober.count("publish.sent") for prober in probers)
        serial = await server.serial()
        await asyncio.sleep(1.5)  # what does not happen has no event
        assert sum(prober.count("publish.sent") for prober in probers) == sent
        assert await server.serial() == serial
    writers = [prober for prober in probers if prober.kept.is_in_sync]
    assert len({prober.kept.wanted.node for prober in writers}) == 1
