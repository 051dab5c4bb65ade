"""The prober: its parts wired and supervised.

Each part runs under a supervisor that restarts and counts it. The controller and the store are the
exception: when they break a promise the process ends, and its next start goes through the Start
rule of DESIGN section 1.
"""

import asyncio
import gc
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lb_probe import __version__
from lb_probe.adapters.agent_check import AgentCheck
from lb_probe.admin.api import Api
from lb_probe.admin.door import Door
from lb_probe.admin.health import Health
from lb_probe.admin.page import Site
from lb_probe.admin.tokens import Tokens
from lb_probe.app.agents_heard import agents_of
from lb_probe.app.agents_heard import listen as listen_to_agents
from lb_probe.app.break_glass import note_files, read_notes
from lb_probe.app.listen import serve_on, server_context, start_asked
from lb_probe.app.loop import Signals, run, take_descriptors
from lb_probe.app.messages import Messages
from lb_probe.app.parts import (
    Balancers,
    audit_beside,
    operators_of,
    pool_setup_of,
    setup_of,
    signature,
    targets_of,
)
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Config,
    ConfigError,
    GroupConfig,
    load,
)
from lb_probe.controller import Controller, Setup
from lb_probe.core.model import Event, Observation
from lb_probe.events import audit
from lb_probe.events.log import Fanout, Log
from lb_probe.events.metrics import CONTENT_TYPE, Metrics, Snapshot
from lb_probe.events.systemd import Systemd
from lb_probe.groups import Groups
from lb_probe.pool import PoolController, PoolSetup
from lb_probe.ports import (
    Invalid,
    LbProbeError,
    StoreError,
)
from lb_probe.prober import http_probe
from lb_probe.prober.schedule import Pace, Schedule, watch_references
from lb_probe.prober.target import Target
from lb_probe.store import sqlite
from lb_probe.store.sqlite import SqliteStore

Asked = dict[str, list[AgentCheck]]  # listeners that HAProxy asks, by group
RESTART_PAUSE_S = 1.0
REFERENCE_INTERVAL_S = 1.0
REFERENCE_TIMEOUT_S = 1.0
PROGRESS_S = 10.0  # a schedule silent for this long, and three rounds, is no longer alive


def run_prober(path: Path, *, init: bool, allowed: frozenset[str] = frozenset()) -> int:
    """Run the prober in the foreground until SIGTERM or SIGINT.

    Args:
        init: Make the store first where there is none.
        allowed: Groups whose changed topology is taken as it is now.

    Raises:
        ConfigError: The file cannot be used; nothing was touched.
        LbProbeError: The store or an address cannot be used.
    """
    config = load(path, as_="prober")
    if init and not config.store_path.exists():
        sqlite.init(config.store_path)
    take_descriptors()
    return run(Prober(config, allowed).run())


def _die_at() -> list[Callable[[Event], None]]:
    """Return a sink that kills this process at one named event, for tests of crashes.

    LB_PROBE_DEBUG_DIE_AT is an event's name, or NAME:VALUE where a field must have that value.
    """
    name, _, value = os.environ.get("LB_PROBE_DEBUG_DIE_AT", "").partition(":")

    def die(event: Event) -> None:
        if event.name == name and (not value or value in event.fields.values()):
            os.kill(os.getpid(), signal.SIGKILL)

    return [die] if name else []


@dataclass(slots=True)
class _Progress:
    """When the schedule last said something."""

    at: float
    is_started: bool = False


class Prober:
    """The prober's parts, wired."""

    def __init__(self, config: Config, allowed: frozenset[str]) -> None:
        self._config = config
        self._allowed = allowed
        self._clock = SystemClock()
        self._metrics = Metrics(self._clock.wall)
        self._systemd = Systemd()
        sinks = (self._metrics.emit, Log().emit, *_die_at())
        self._events = Fanout(*sinks, self._systemd.emit)
        self._notified = Fanout(*sinks)  # of messages: they are of all groups, and not streamed
        self._progress = _Progress(self._clock.monotonic())
        self._broken: Exception | None = None
        self._config_fault = ""
        self._has_cycled = False
        self._balancers = Balancers()
        self._door: Door | None = None
        self._parts: dict[object, asyncio.Task[None]] = {}

    async def run(self, word: Callable[[], Awaitable[str]] | None = None) -> int:
        """Run until told to stop; published state is left as it is.

        Args:
            word: Waits for what is to be done next, `stop` or `reload`; signals say it, as a rule.
        """
        word = word or Signals().next
        self._engine = http_probe.Engine(self._clock.monotonic)
        store = await SqliteStore.open(self._config.store_path)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            stack.callback(self._engine.close)
            await self._serve(store, word, stack)
        return 0

    async def _serve(
        self, store: SqliteStore, word: Callable[[], Awaitable[str]], stack: AsyncExitStack
    ) -> None:
        config, events = self._config, self._events
        self._agents = agents_of(config.groups)
        self._groups = self._controlled(store)
        self._schedule = self._scheduled(_targets_of(config))
        stack.push_async_callback(self._close_asked)
        stack.push_async_callback(self._balancers.close)
        for asked in chain.from_iterable(self._balancers.asked.values()):
            await start_asked(asked)
        self._messages = Messages(self._clock, events, self._notified, self._metrics, self._trouble)
        stack.push_async_callback(self._messages.close)
        # Before anything is decided: what is saved from here on is told, whenever we are killed.
        await self._messages.open(config, self._groups, store, lambda: self._config_fault)
        await self._groups.start(read_notes(config), self._allowed)
        for _, file in note_files(config):
            file.unlink(missing_ok=True)
        self._know(config.groups)
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked through again
        await self._listen(stack)
        events.emit(Event("prober.started", fields={"version": __version__, "pid": os.getpid()}))
        async with asyncio.TaskGroup() as tasks:
            self._parts["groups"] = tasks.create_task(self._groups.run())
            self._parts["systemd"] = tasks.create_task(
                self._systemd.watch(self._clock, self._trouble)
            )
            self._start_parts(tasks)
            while await word() == "reload":
                await self._reload(tasks)
            await self._stop_part("teller")
            await self._messages.drain()
            for part in self._parts.values():
                part.cancel()
        await self._groups.close()
        events.emit(Event("prober.stopped"))

    def _start_parts(self, tasks: asyncio.TaskGroup) -> None:
        """Start what a reload may have replaced: schedule, reference watch, new load balancers."""
        work: dict[object, Callable[[], Awaitable[None]]] = {"schedule": self._schedule.run}
        if self._config.reference_targets:
            work["references"] = self._reference_watch()
        else:
            self._groups.references({})
        if agents := self._agents:
            work["agents"] = lambda: listen_to_agents(
                agents, self._groups.hear, self._groups.holds, self._clock
            )
        work |= {key: device.run for key, device in self._balancers.devices.items()}
        work |= self._messages.parts()
        for key, part in work.items():
            if key not in self._parts:
                name = key if isinstance(key, str) else "load-balancer"
                self._metrics.know_part(name)
                self._parts[key] = tasks.create_task(self._supervised(name, part))

    async def _stop_part(self, key: object) -> None:
        part = self._parts.pop(key, None)
        if part is not None:
            part.cancel()
            await asyncio.gather(part, return_exceptions=True)

    async def _close_asked(self) -> None:
        for asked in chain.from_iterable(self._balancers.asked.values()):
            await asked.close()

    def _know(self, groups: Iterable[GroupConfig]) -> None:
        for group in groups:
            adapters = [adapter.name for adapter in group.adapters]
            self._metrics.know(group.name, [node.name for node in group.nodes], adapters)

    # -------------------------------------------------------------- SIGHUP
    async def _reload(self, tasks: asyncio.TaskGroup) -> None:
        """Read the file again and serve what it says now; a bad one changes nothing."""
        try:
            config = load(self._config.path, as_="prober")
            _refuse_to_reload(self._config, config)
            told = await self._take(config, tasks)
        except ConfigError as error:
            self._not_reloaded("; ".join(str(fault) for fault in error.faults))
        except LbProbeError as error:
            self._not_reloaded(str(error))
        else:
            self._config_fault = ""
            self._events.emit(Event("config.reloaded", fields=told))

    def _not_reloaded(self, why: str) -> None:
        self._config_fault = why
        self._events.emit(Event("config.reload-failed", fields={"detail": why}))

    async def _take(self, config: Config, tasks: asyncio.TaskGroup) -> dict[str, object]:
        """Serve this configuration from now on; return what is different.

        Raises:
            LbProbeError: It cannot be; nothing was changed.
        """
        before = {group.name: group for group in self._config.groups}
        now = {group.name: group for group in config.groups}
        kept = frozenset(name for name in now if before.get(name) == now[name])
        pairs = [group for group in config.groups if not group.is_pool]
        # Those that stay need no second set of adapters.
        idle = {g.name: Setup(g.shape, (), g.fingerprints, g.was) for g in pairs}
        await self._groups.judge(list(idle.values()))
        operators = operators_of(config)
        agents = agents_of(config.groups)
        targets = _targets_of(config)
        changed = [group for group in config.groups if group.name not in kept]
        fresh, pools, old = await self._prepared(changed, before.keys() - kept)
        for key in ("schedule", "references", "agents", *self._messages.parts()):
            await self._stop_part(key)
        try:
            await self._swap(config, list((idle | fresh).values()), pools, kept)
        except LbProbeError:
            await self._take_back(changed, old)
            self._start_parts(tasks)  # the schedule of before included
            raise
        self._config, self._agents = config, agents
        for name in before.keys() - now.keys():
            self._metrics.forget(name)
        self._know(config.groups)
        if self._door is not None:
            self._door.know(operators)
        await self._messages.take(config)
        self._schedule = self._scheduled(targets)
        self._start_parts(tasks)
        return {
            "added": sorted(now.keys() - before.keys()),
            "removed": sorted(before.keys() - now.keys()),
            "changed": sorted((now.keys() & before.keys()) - kept),
            "unchanged": len(kept),
        }

    async def _swap(
        self,
        config: Config,
        pairs: Sequence[Setup],
        pools: Mapping[str, PoolSetup],
        kept: frozenset[str],
    ) -> None:
        """Serve the groups of this configuration from now on.

        Raises:
            LbProbeError: They cannot be served; nothing was changed.
            RuntimeError: The store failed half way: the process ends, and its next start does all
                of it.
        """
        await self._groups.judge(pairs)  # once more: traffic may have moved meanwhile
        try:
            await self._groups.swap(
                [group.name for group in config.groups],
                pairs,
                [pools.get(g.name, PoolSetup(g.pool)) for g in config.groups if g.is_pool],
                kept,
                config.limits.failovers_per_minute,
            )
        except StoreError as error:
            raise RuntimeError(f"a reload broke off half way, start again: {error}") from error

    async def _prepared(
        self, groups: Sequence[GroupConfig], gone: Iterable[str]
    ) -> tuple[dict[str, Setup], dict[str, PoolSetup], Asked]:
        """Wire groups anew and let HAProxy ask their listeners, and those of `gone` no more.

        Returns:
            The groups, and the listeners that were closed.

        Raises:
            LbProbeError: An address is taken, or a file that was there is no more; the listeners
                from before are open again.
        """
        served = self._balancers.asked
        old = {name: served.pop(name, []) for name in gone}
        for asked in chain.from_iterable(old.values()):
            await asked.close()
        try:
            pairs = {g.name: setup_of(g, self._balancers) for g in groups if not g.is_pool}
            pools = {g.name: pool_setup_of(g, self._balancers) for g in groups if g.is_pool}
            for asked in chain.from_iterable(served[group.name] for group in groups):
                await start_asked(asked)
        except LbProbeError:
            await self._take_back(groups, old)
            raise
        return pairs, pools, old

    async def _take_back(self, groups: Iterable[GroupConfig], old: Asked) -> None:
        """Close the listeners of `groups` and open those again that were closed for them."""
        served = self._balancers.asked
        for group in groups:
            for asked in served.pop(group.name, []):
                await asked.close()
        served |= old
        for asked in chain.from_iterable(old.values()):
            await start_asked(asked)

    # -------------------------------------------------------------- parts
    def _controlled(self, store: SqliteStore) -> Groups:
        """Return the groups of both policies under their controllers."""
        config, balancers = self._config, self._balancers
        pairs = Controller(
            [setup_of(group, balancers) for group in config.groups if not group.is_pool],
            store,
            self._clock,
            self._events,
            failovers_per_minute=config.limits.failovers_per_minute,
            quicken=lambda group: self._schedule.quicken(group),
            signature=signature(store),
            cut_off=lambda: pools.cut_off(),
        )
        pools = PoolController(
            [pool_setup_of(group, balancers) for group in config.groups if group.is_pool],
            store,
            self._clock,
            self._events,
            pairs.recorder,
            cut_off=pairs.cut_off,
        )
        return Groups([group.name for group in config.groups], pairs, pools, store)

    def _scheduled(self, targets: Sequence[tuple[Target, Pace]]) -> Schedule:
        """Return a schedule of every page of the present configuration."""
        controller = self._groups
        rounds = [g.probe.interval_s + g.probe.timeout_s for g in self._config.groups]
        self._patience_s = max(PROGRESS_S, 3 * min(rounds, default=0.0))
        self._engine.keep_only(target for target, _ in targets)

        def report(group: str, seen: Observation) -> None:
            self._progress.at = seen.ended_at
            try:
                controller.observe(group, seen)
            except Exception as error:
                self._broken = error  # not the schedule's fault: this ends the process
                raise

        return Schedule(
            targets,
            report=report,
            hurry=controller.is_hurried,
            doubt=controller.doubt,
            late=self._metrics.started_late,
            stalled=controller.stalled,
            clock=self._clock.monotonic,
            start=self._engine.start,
            rng=random.Random(),  # noqa: S311 spreads starts; nothing secret hangs on it
        )

    def _reference_watch(self) -> Callable[[], Awaitable[None]]:
        addresses = {str(a): (a.host, a.port) for a in self._config.reference_targets}

        async def watch() -> None:
            await watch_references(
                addresses, REFERENCE_INTERVAL_S, REFERENCE_TIMEOUT_S, self._groups.references
            )

        return watch

    async def _supervised(self, part: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a part for ever; one that crashes is started again, told and counted."""
        while True:
            try:
                await work()
            except Exception as error:
                if self._broken is not None:
                    raise self._broken from None
                fields = {"part": part, "detail": f"{type(error).__name__}: {error}"}
                self._events.emit(Event("part.crashed", fields=fields))
            await self._clock.sleep(RESTART_PAUSE_S)

    # -------------------------------------------------------------- listeners
    async def _listen(self, stack: AsyncExitStack) -> None:
        config = self._config
        if config.metrics is not None:
            health = Health(
                self._snapshot,
                CONTENT_TYPE,
                trouble=self._trouble,
                unready=self._unready,
            )
            site = config.metrics.listen
            await serve_on(health.application(), stack, tcp=(site.host, site.port))
        if config.api is None:
            return
        self._door = self._made_door()
        api = Api(self._groups, self._door, self._events.add)
        page = Site(self._groups, self._door, self._events.add, self._clock)
        if config.api.listen is not None:
            site = config.api.listen
            context = server_context(config.api.tls) if config.api.tls else None
            served = page.join(api.application())
            await serve_on(served, stack, tcp=(site.host, site.port), tls=context)
        if config.api.socket is not None:
            await serve_on(page.join(api.application()), stack, unix=config.api.socket)

    def _unready(self) -> str:
        self._has_cycled = self._has_cycled or self._schedule.cycle_done.is_set()
        return "" if self._has_cycled else "first cycle not done"

    def _made_door(self) -> Door:
        """Return the door of the API, with what was written beside the store.

        Raises:
            TokenError, AuditError: A file beside the store cannot be used.
        """
        store = self._config.store_path
        tokens = Tokens(store.with_name(f"{store.name}.tokens.json"), self._clock.wall)
        tokens.open()
        log = audit.Audit(audit_beside(self._config), self._clock.wall, self._audited)
        log.open()
        self._metrics.audited(log.head.number, log.head.digest)
        operators = operators_of(self._config)
        return Door(operators, self._clock.monotonic, tokens=tokens, audit=log)

    def _audited(self, number: int, action: str, digest: str) -> None:
        self._metrics.audited(number, digest)
        self._events.emit(
            Event("audit.written", fields={"seq": number, "action": action, "hash": digest})
        )

    async def _snapshot(self) -> Callable[[], bytes]:
        groups = self._groups
        snapshot = Snapshot(
            await groups.views(), groups.is_store_writable, is_config_good=not self._config_fault
        )
        return lambda: self._metrics.render(snapshot)

    def _trouble(self) -> str:
        silent = self._clock.monotonic() - self._progress.at
        return f"no probe ended for {silent:.0f}s" if silent > self._patience_s else ""


def _targets_of(config: Config) -> list[tuple[Target, Pace]]:
    """Return every page of every node and how often it is asked.

    Raises:
        Invalid: A certificate cannot be read any more.
    """
    targets = []
    for group in config.groups:
        pace = Pace(group.probe.interval_s, group.probe.recheck_s, group.probe.fall)
        targets += [(target, pace) for target in targets_of(group)]
    return targets


def _refuse_to_reload(before: Config, now: Config) -> None:
    """Refuse what only a restart can change.

    Raises:
        Invalid: Names the keys.
    """

    def spots(config: Config) -> dict[str, object]:
        api, metrics = config.api, config.metrics
        return {
            "store": config.store_path,
            "api.listen": api.listen if api else None,
            "api.socket": api.socket if api else None,
            "api.tls": api.tls if api else None,
            "metrics.listen": metrics.listen if metrics else None,
        }

    old, new = spots(before), spots(now)
    changed = [key for key, value in old.items() if new[key] != value]
    if changed:
        raise Invalid(
            f"{' and '.join(changed)} changed, which takes a restart; put it back and reload, or"
            " restart the prober: traffic stays where it is"
        )
