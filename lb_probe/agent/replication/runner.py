"""One sync from its first step to its record.

The order is: on record, then salvage and count, then `data suspect`, then the copy, then the check
of versions and counts, then the record of success, and only then `data good`. A crash between any
two leaves a copy that is not trusted, never one that is trusted without reason (R24).
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

from lb_probe.agent.node import Node
from lb_probe.agent.peer import PeerError
from lb_probe.agent.replication.history import (
    FAILED,
    GOOD,
    INTERRUPTED,
    History,
    HistoryError,
    Run,
)
from lb_probe.agent.replication.inhibitor import inhibited
from lb_probe.agent.replication.run_lock import RunLock
from lb_probe.agent.replication.settings import Settings
from lb_probe.agent.state import Data, NodeState, StateError
from lb_probe.core import sync_progress
from lb_probe.core.data_lineage import Lineage
from lb_probe.core.sync_progress import Progress, Step
from lb_probe.ports import LbProbeError
from lb_probe.program import Ended, Program, clean_environment

COUNT_TIMEOUT_S = 60.0
SALVAGE_TIMEOUT_S = 3600.0
Tell = Callable[[Mapping[str, object]], None]


class SyncFailed(LbProbeError):
    """A step failed and the sync with it; says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A sync whose gates are open.

    Attributes:
        run: As it begins on record.
        lineage: What the source's data contained when it was asked.
        by_hand: An operator asked for it.
        loses: It writes over something that is in no other place.
    """

    run: Run
    lineage: Lineage
    by_hand: bool
    loses: bool = False


class Runner:
    """Carries out one plan at a time.

    Attributes:
        current: The run under way, as far as it has come.
        unsaved: One that ended and could not be put on record.
        percent: How far the copy is, by its own word.
        not_inhibited: Why systemd was not kept from a shutdown; empty where it was.
    """

    def __init__(self, node: Node, settings: Settings, lock: RunLock, tell: Tell) -> None:
        """Start nothing yet.

        Args:
            tell: Takes what those who watch are shown: lines, steps, numbers.
        """
        self._node = node
        self._settings = settings
        self._lock = lock
        self._tell = tell
        self._programs = {
            "salvage": _program(settings.salvage_command, SALVAGE_TIMEOUT_S),
            "count": _program(settings.count_command, COUNT_TIMEOUT_S),
        }
        self.current: Run | None = None
        self.unsaved: Run | None = None
        self.percent: int | None = None
        self.not_inhibited = ""
        self._copy_began = False

    # -------------------------------------------------------------- from start to record
    async def run(self, plan: Plan, history: History) -> Run:
        """Carry out a plan; whatever happens it ends on record.

        Raises:
            HistoryError: It could not be put on record, at its start (then nothing was run) or at
                its end (then the data stays suspect).
            OSError: There can be no lock (nothing was run).
        """
        fd = await asyncio.to_thread(self._lock.take)
        began = self._node.clock.monotonic()
        try:
            self.current = await asyncio.to_thread(history.begin, plan.run)
            self._copy_began = False
            self.percent = None
            self._node.emit("agent.sync-started", **self._facts())
            result, detail = await self._outcome(plan, history, fd)
        finally:
            os.close(fd)  # the tree of the program may hold the lock on
        left = await asyncio.to_thread(self._lock.held_by)
        if left and result == GOOD:
            result, detail = FAILED, f"{left}: it may still write"
        ended = replace(
            self.current,
            result=result,
            detail=detail,
            completed_wall=self._node.clock.wall(),
            seconds=round(self._node.clock.monotonic() - began, 3),
            output=() if result == GOOD else self.current.output,
        )
        try:
            await asyncio.to_thread(history.save, ended)
        except HistoryError as error:
            # Not on record is not done: the data stays suspect, as it was saved before the copy.
            self.unsaved = replace(ended, result=FAILED, detail=f"{detail or 'good'}, but {error}")
            raise
        finally:
            self.current = None
        await self._judged(plan, ended)
        self._node.emit("agent.sync-done", **self._facts(ended))
        return ended

    async def _outcome(self, plan: Plan, history: History, fd: int) -> tuple[str, str]:
        assert self.current is not None
        why = f"sync {self.current.id} from {self.current.source} writes to this node"
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._settings.inhibits:
                    self.not_inhibited = await stack.enter_async_context(inhibited(why))
                await self._steps(plan, history, fd)
        except asyncio.CancelledError:
            # Whoever cancelled waits for the record; the program is gone by now.
            return INTERRUPTED, "it was ended before it was done"
        except (LbProbeError, OSError) as error:
            return FAILED, sync_progress.printable(str(error), 1000)
        except Exception as error:  # a fault of ours is a failed sync, not one without an end
            self._node.emit("part.crashed", part="sync", detail=f"{type(error).__name__}: {error}")
            return FAILED, f"{type(error).__name__}: {error}"
        return GOOD, ""

    async def _steps(self, plan: Plan, history: History, fd: int) -> None:
        counts: dict[str, int] = {}
        if self._programs["salvage"] is not None and plan.loses:
            async with self._step("salvage", history):
                await self._plain(self._programs["salvage"], {})
        if self._programs["count"] is not None:
            async with self._step("count at the source", history):
                counts["source"] = await self._count("source")
        # Before the first byte: a crash right after this line leaves a copy nobody trusts.
        await self._suspect("has not ended")
        self._copy_began = True
        async with self._step("copy", history):
            await self._copy(plan, fd, history)
        async with self._step("same version afterwards", history):
            await self._same_version()
        if self._programs["count"] is not None:
            async with self._step("count here", history):
                counts["here"] = await self._count("here")
                self._update(counts=counts)
                if counts["here"] != counts["source"]:
                    raise SyncFailed(f"found {counts['here']} here, {counts['source']} at source")

    # -------------------------------------------------------------- the steps
    async def _copy(self, plan: Plan, fd: int, history: History) -> None:
        settings, run = self._settings, plan.run
        timeout_s = settings.initial_timeout_s if run.initial else settings.timeout_s
        said = Progress()

        def heard(line: str) -> None:
            nonlocal said
            before, said = said, sync_progress.heard(said, line, self._wall(), settings.marker)
            self._tell({"line": line})
            if said is not before:
                self._told(said)

        program = Program(settings.sync_command, timeout_s)
        ended = await program.run(
            self._environment(), on_line=heard, joins=True, keep_fds=(fd,), stop_s=settings.stop_s
        )
        fault = sync_progress.fault(said, ended.fault, settings.marker)
        said = sync_progress.closed(said, "failed" if fault else "done", self._wall())
        self._told(said)
        if fault:
            lines = tuple(ended.out.decode("utf-8", "replace").splitlines())
            self._update(output=lines)
            raise SyncFailed(fault)

    def _told(self, said: Progress) -> None:
        """Take over what the program said of itself."""
        assert self.current is not None
        own = tuple(step for step in self.current.steps if not step.name.startswith("copy: "))
        inner = tuple(replace(step, name=f"copy: {step.name}") for step in said.steps)
        self.percent = said.percent
        self._update(steps=(*own, *inner), copied_bytes=said.copied_bytes, changed=said.changed)
        self._tell({"percent": said.percent, "step": inner[-1].name if inner else "copy"})

    async def _same_version(self) -> None:
        """Raise SyncFailed where a version changed while it was copied (R92)."""
        assert self.current is not None
        wanted = self.current.version_here
        await self._node.refresh()
        here = self._node.report().version
        peer = self._node.peer
        assert peer is not None
        try:
            there = (await peer.report()).version
        except PeerError as error:
            # It answered when the copy began. That it is gone by now makes the copy no worse.
            note = f"version at the source not checked again: {error}"
            self._update(warnings=(*self.current.warnings, note))
            there = wanted
        if here != wanted or there != wanted:
            raise SyncFailed(
                f"version-mismatch: began with {wanted} on both; now {here or 'unknown'} here,"
                f" {there or 'unknown'} at the source"
            )

    async def _count(self, side: str) -> int:
        program = self._programs["count"]
        ended = await self._plain(program, {"LB_PROBE_SYNC_COUNT": side})
        said = ended.last_words.strip()
        if not (said.isascii() and said.isdecimal() and len(said) < 20):
            raise SyncFailed(f"found {said[:60]!r}; wanted a whole number from count_command")
        return int(said)

    async def _plain(self, program: Program | None, more: Mapping[str, str]) -> Ended:
        assert program is not None
        ended = await program.run(self._environment() | dict(more))
        if ended.fault:
            words = f": {ended.last_words}" if ended.last_words else ""
            raise SyncFailed(f"{program.argv[0]}: {ended.fault}{words}")
        return ended

    # -------------------------------------------------------------- what is on record
    @contextlib.asynccontextmanager
    async def _step(self, name: str, history: History) -> AsyncIterator[None]:
        """Put one step on record, with how it ended; `SyncFailed` names it."""
        began, at = self._wall(), self._node.clock.monotonic()
        assert self.current is not None
        place = len(self.current.steps)
        self._put(place, Step(name, began))
        self._tell({"step": name})
        result, detail = "failed", ""
        try:
            yield
            result = "done"
        except asyncio.CancelledError:
            detail = "ended before it was done"
            raise
        except (LbProbeError, OSError) as error:
            detail = sync_progress.printable(str(error))
            raise SyncFailed(f"{name}: {error}") from error
        finally:
            took = round(self._node.clock.monotonic() - at, 3)
            self._put(place, Step(name, began, result, took, detail))
            await asyncio.to_thread(history.save, self.current)

    def _put(self, place: int, step: Step) -> None:
        assert self.current is not None
        steps = self.current.steps
        self._update(steps=(*steps[:place], step, *steps[place + 1 :]))

    def _update(self, **changed: object) -> None:
        assert self.current is not None
        self.current = replace(self.current, **changed)  # type: ignore[arg-type] # own fields only

    # -------------------------------------------------------------- whether the data is good
    async def _suspect(self, how: str) -> None:
        assert self.current is not None
        text = f"sync {self.current.id} from {self.current.source} {how}"
        now = self._wall()

        def change(state: NodeState) -> Mapping[str, object]:
            since = state.data.suspect_since_wall if state.data.suspect else now
            told = {"suspect": text, "suspect_since_wall": since}
            return {"data": state.data.model_copy(update=told)}

        await self._node.save(change)

    async def _judged(self, plan: Plan, ended: Run) -> None:
        """Save what the sync made of the data."""
        if not self._copy_began:
            return  # nothing was written
        try:
            if ended.is_good:
                await self._node.save(lambda state: {"data": _good(state.data, plan)})
                return
            self.current = ended
            await self._suspect(f"ended as {ended.result}: {ended.detail}"[:700])
        except StateError as error:
            # What is saved says that it has not ended: the same, only less plain.
            self._node.emit("agent.state-failed", detail=str(error))
        finally:
            self.current = None

    # -------------------------------------------------------------- small things
    def _environment(self) -> dict[str, str]:
        assert self.current is not None
        run = self.current
        return clean_environment() | {
            "LB_PROBE_SYNC_RUN": str(run.id),
            "LB_PROBE_SYNC_SOURCE": run.source,
            "LB_PROBE_SYNC_SOURCE_ADDRESS": next(iter(self._settings.addresses), run.source),
            "LB_PROBE_SYNC_TARGET": run.target,
            "LB_PROBE_SYNC_TRIGGER": run.trigger,
            "LB_PROBE_SYNC_INITIAL": str(int(run.initial)),
        }

    def _facts(self, ended: Run | None = None) -> dict[str, object]:
        run = ended or self.current
        assert run is not None
        facts: dict[str, object] = {"run": run.id, "trigger": run.trigger, "source": run.source}
        if ended is not None:
            facts |= {"result": run.result, "detail": run.detail, "seconds": run.seconds}
        return facts

    def _wall(self) -> float:
        return self._node.clock.wall()


def _program(argv: tuple[str, ...] | None, timeout_s: float) -> Program | None:
    return None if argv is None else Program(argv, timeout_s)


def _good(data: Data, plan: Plan) -> Data:
    told = {"suspect": "", "suspect_since_wall": 0.0, "by_hand": data.by_hand or plan.by_hand}
    return data.with_lineage(plan.lineage).model_copy(update=told)
