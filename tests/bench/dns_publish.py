"""What a decision costs until a DNS name is read back, against a real name server on loopback.

    python tests/bench/dns_publish.py [ROUNDS] [named|knotd]

Wanted: decision to read back under 20 ms. Told apart: the update, the read back, and both through
the reconciler with its own reading before it, as a failover has them.
"""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from name_servers import BOTH, NODES, NameServer, mover, serving_names

from lb_probe.adapters.dns_update import DnsUpdate
from lb_probe.clock import SystemClock
from lb_probe.core.model import Event
from lb_probe.reconcile import Reconciler, Wanted

TURN = ("epmm-b", "epmm-a")


def told(what: str, took: list[float]) -> None:
    took = sorted(1000 * seconds for seconds in took)
    half, p99 = statistics.median(took), took[int(0.99 * (len(took) - 1))]
    print(f"  {what}: median {half:.2f} ms, 99 % {p99:.2f} ms, worst {took[-1]:.2f} ms")


async def plain(edge: DnsUpdate, rounds: int) -> None:
    published, read, both = [], [], []
    await edge.read_back()
    for i in range(rounds):
        began = time.perf_counter()
        await edge.publish(TURN[i % 2])
        between = time.perf_counter()
        seen = await edge.read_back()
        ended = time.perf_counter()
        assert seen.node == TURN[i % 2], seen
        published.append(between - began)
        read.append(ended - between)
        both.append(ended - began)
    told("update", published)
    told("read back", read)
    told("update and read back", both)


class Confirmed:
    """Sets an event when the reconciler says that a generation is carried out."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def emit(self, event: Event) -> None:
        if event.name == "publish.confirmed":
            self.event.set()


async def reconciled(edge: DnsUpdate, rounds: int, changed: Callable[[], None]) -> None:
    took, sink, clock = [], Confirmed(), SystemClock()

    async def confirm(adapter: str, generation: int) -> bool:
        return True

    kept = Reconciler(
        "epmm", edge, clock, sink, confirm=confirm, confirmed=0, changed=changed, signature="bench"
    )
    task = asyncio.create_task(kept.run())
    for i in range(rounds):
        sink.event.clear()
        began = time.perf_counter()
        kept.want(Wanted(TURN[i % 2], i + 1, may_write=True, decided_at=clock.monotonic()))
        await sink.event.wait()
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    told("decision to read back", took)


async def measure(kind: str, rounds: int) -> None:
    async with serving_names(kind) as server:
        print(f"{kind}, one server, A:")
        await plain(mover(server, values=NODES), rounds)
        await reconciled(mover(server, values=NODES), rounds, lambda: None)
        print(f"{kind}, one server, A and AAAA:")
        await plain(mover(server, values=BOTH), rounds)
    second = NameServer("named", primary=1)
    with contextlib.closing(second):
        async with serving_names("named", notify=second.port) as first:
            second.follow(first.port)
            await second.start()
            print("named, and a secondary that copies it:")
            await plain(mover(first, second), min(rounds, 30))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    kind = sys.argv[2] if len(sys.argv) > 2 else "named"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(kind, rounds))


if __name__ == "__main__":
    main()
