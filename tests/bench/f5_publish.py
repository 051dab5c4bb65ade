"""What a decision costs until a BIG-IP is read back, against the emulator with 10 ms for each call.

    python tests/bench/f5_publish.py [ROUNDS]

Wanted: decision to read back under 150 ms; ten devices of which one hangs: the other nine are done
as fast as without it. Told apart: through the reconciler with its own reading before it, as a
failover has it; one pair of LTM, one unit and a sync group of BIG-IP DNS, ten pairs at once.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import f5_bench as f5
from emulator import Condition, Emulator

from lb_probe.clock import SystemClock
from lb_probe.core.model import Event
from lb_probe.reconcile import Reconciler, Wanted

CALL_S = 0.01
DEVICES = 10
TURN = ("epmm-b", "epmm-a")


def told(what: str, took: list[float]) -> None:
    took = sorted(1000 * seconds for seconds in took)
    half, p99 = statistics.median(took), took[int(0.99 * (len(took) - 1))]
    print(f"  {what}: median {half:.1f} ms, 99 % {p99:.1f} ms, worst {took[-1]:.1f} ms")


class Kept:
    """One adapter under a reconciler, and how long it takes to follow."""

    def __init__(self, edge: Any) -> None:
        self._clock, self._confirmed, self._number = SystemClock(), asyncio.Event(), 0
        self._reconciler = Reconciler(
            "epmm",
            edge,
            self._clock,
            self,
            confirm=self._confirm,
            confirmed=0,
            changed=lambda: None,
        )
        self.task = asyncio.create_task(self._reconciler.run())

    async def _confirm(self, adapter: str, generation: int) -> bool:
        return True

    def emit(self, event: Event) -> None:
        if event.name == "publish.confirmed":
            self._confirmed.set()

    async def move(self, node: str) -> float:
        """Return the seconds from the decision until it is read back."""
        self._confirmed.clear()
        self._number += 1
        began = time.perf_counter()
        self._reconciler.want(Wanted(node, self._number, may_write=True))
        await self._confirmed.wait()
        return time.perf_counter() - began


@contextlib.asynccontextmanager
async def device(folder: Path, *, is_pair: bool = True) -> AsyncIterator[f5.Bench]:
    make = Emulator.pair if is_pair else Emulator.single
    async with make(call_s=CALL_S) as emulator, f5.Bench(emulator, folder) as bench:
        emulator.add_pool(f5.POOL, *f5.MEMBERS)
        emulator.add_dns_pool(f5.POOL, "dc-a:vs1", "dc-b:vs1")
        yield bench


async def moves(edge: Any, rounds: int) -> list[float]:
    kept = Kept(edge)
    await kept.move("epmm-a")  # logs in
    took = []
    for i in range(rounds):
        took.append(await kept.move(TURN[i % 2]))
        await asyncio.sleep(0.05)
    kept.task.cancel()
    return took


async def serve() -> None:
    """Serve ten units until standard input ends; `hang` and `go` are about the first of them."""
    async with contextlib.AsyncExitStack() as stack:
        every = []
        for _ in range(DEVICES):
            emulator = await stack.enter_async_context(Emulator.single(call_s=CALL_S))
            emulator.add_pool(f5.POOL, *f5.MEMBERS)
            every.append(emulator)
        print(json.dumps([(str(each.ca_file), each.urls) for each in every]), flush=True)
        while word := await asyncio.to_thread(sys.stdin.readline):
            hangs = word.strip() == "hang"
            every[0].unit(0).condition = Condition.HUNG if hangs else Condition.RUNNING
            print("done", flush=True)


async def ten(folder: Path, rounds: int) -> None:
    """Ten devices in a process of their own: what they cost is not what is measured."""
    line = (sys.executable, __file__, "--serve")
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    served = await asyncio.create_subprocess_exec(*line, **pipes)
    assert served.stdin is not None
    assert served.stdout is not None
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(served.stdin.close)
        every = []
        for ca_file, urls in json.loads(await served.stdout.readline()):
            seen = SimpleNamespace(
                ca_file=Path(ca_file), urls=urls, user=Emulator.user, password=Emulator.password
            )
            bench = await stack.enter_async_context(f5.Bench(seen, folder))
            every.append(Kept(bench.ltm()))
        await asyncio.gather(*(kept.move("epmm-a") for kept in every))
        await asyncio.sleep(1)  # what follows the first move is done
        took: dict[bool, list[float]] = {False: [], True: []}
        for hangs in (False, True) * 4:
            served.stdin.write(b"hang\n" if hangs else b"go\n")
            await served.stdout.readline()
            if not hangs:
                await every[0].move("epmm-a")
            for i in range(rounds):
                async with asyncio.TaskGroup() as tasks:
                    stuck = tasks.create_task(every[0].move(TURN[i % 2]))
                    nine = [tasks.create_task(kept.move(TURN[i % 2])) for kept in every[1:]]
                    took[hangs] += await asyncio.gather(*nine)
                    if hangs:
                        stuck.cancel()
                await asyncio.sleep(0.2)
        for hangs, seconds in took.items():
            told(f"nine of ten, the tenth {'hangs' if hangs else 'does not'}", seconds)
        for kept in every:
            kept.task.cancel()
    await served.wait()


async def measure(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="f5-bench-") as name:
        folder = Path(name)
        print(f"decision to read back, {1000 * CALL_S:.0f} ms for each call:")
        async with device(folder) as bench:
            told("LTM, a pair", await moves(bench.ltm(), rounds))
            told("BIG-IP DNS, two units", await moves(bench.gtm(), rounds))
        async with device(folder, is_pair=False) as bench:
            told("LTM, one unit", await moves(bench.ltm(), rounds))
            told("BIG-IP DNS, one unit", await moves(bench.gtm(), rounds))
        await ten(folder, max(3, rounds // 5))


def main() -> None:
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(serve())
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with asyncio.Runner() as runner:
        runner.run(measure(rounds))


if __name__ == "__main__":
    main()
