"""Builds the parts from probes.yaml and runs them; the only place that names concrete classes.

Each part runs under a supervisor that restarts and counts it. The controller and the store are the
exception: when they break a promise the process ends, and its next start goes through the Start
rule of DESIGN section 1.
"""

import asyncio
import gc
import itertools
import json
import os
import random
import re
import shlex
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from lb_probe import __version__, replay
from lb_probe.adapters.agent_check import AgentCheck
from lb_probe.adapters.command import Command
from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers, RuntimeApi
from lb_probe.admin.api import Api
from lb_probe.admin.auth import Operator, Rank
from lb_probe.admin.door import Door
from lb_probe.admin.health import Health
from lb_probe.admin.tokens import Tokens
from lb_probe.advice import findings
from lb_probe.advice.haproxy_config import config_text
from lb_probe.advice.haproxy_discover import probes_yaml
from lb_probe.advice.haproxy_doctor import examine
from lb_probe.agent import checks as agent_checks
from lb_probe.agent import daemon as agent_daemon
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Address,
    Config,
    GroupConfig,
    NodeConfig,
    load,
)
from lb_probe.config.model import (
    Adapter,
    AgentCheckAdapter,
    CommandAdapter,
    DnsAdapter,
    HaproxyAdapter,
    Tls,
)
from lb_probe.config.values import parse_haproxy_socket, parse_tsig_key
from lb_probe.controller import Controller, OfflineNote, Setup
from lb_probe.core.model import Event, Gate, Observation, Page
from lb_probe.core.timing import lints
from lb_probe.events.audit import Audit
from lb_probe.events.log import Fanout, Log
from lb_probe.events.metrics import CONTENT_TYPE, Metrics, Snapshot
from lb_probe.events.systemd import Systemd
from lb_probe.ports import (
    EventSink,
    Invalid,
    LbProbeError,
    NotFound,
    Publisher,
    PublishError,
    Record,
    Refused,
    Span,
    StoreError,
)
from lb_probe.prober import http_probe
from lb_probe.prober.http_probe import Target, TlsSettings, make_ssl_context
from lb_probe.prober.names import Names
from lb_probe.prober.report import capture as capture_text
from lb_probe.prober.report import written
from lb_probe.prober.schedule import Pace, Schedule, watch_references
from lb_probe.store import sqlite
from lb_probe.store.sqlite import SqliteStore

T = TypeVar("T")
RESTART_PAUSE_S = 1.0
REFERENCE_INTERVAL_S = 1.0
REFERENCE_TIMEOUT_S = 1.0
SHUTDOWN_S = 2.0
KNOCK_S = 1.0
ASK_TIMEOUT_S = 2.0
PROGRESS_S = 10.0  # a schedule silent for this long, and three rounds, is no longer alive
END_OF_TIME = 253_402_300_800.0  # 10000-01-01, beyond what a date can be written for


class ListenError(LbProbeError):
    """An address of the file cannot be listened on."""


# ------------------------------------------------------------------ verbs without a daemon
def init_store(path: Path) -> str:
    """Make the store of this file and say where.

    Raises:
        ConfigError: The file cannot be used.
        StoreError: There is one already, or it cannot be made.
    """
    config = load(path, as_="client")
    sqlite.init(config.store_path)
    return f"made {config.store_path}; the first start adopts what the load balancers do"


def backup_store(path: Path, target: Path) -> str:
    """Copy the store of this file, also while a prober uses it; say how to use the copy.

    Raises:
        ConfigError: The file cannot be used.
        StoreError: There is no store, the target exists, or the copy failed.
    """
    store = load(path, as_="client").store_path
    sqlite.backup(store, target)
    size = target.stat().st_size
    return (
        f"copied {store} to {target} ({size} bytes)\n"
        f"to restore it: stop the prober, move {store}, {store.name}-wal and {store.name}-shm away,"
        f" copy {target} to {store} with the same owner, start the prober"
    )


def stored_history(store: Path, group: str | None, limit: int | None, span: Span) -> list[Record]:
    """Read the history from a store's file or a backup, without a prober; changes nothing.

    Raises:
        StoreError: It cannot be read.
    """
    return sqlite.read_history(store, group, 2**62 if limit is None else limit, span)


def replay_history(
    records: Sequence[Record], files: Sequence[Path], group: str | None, since_s: float | None
) -> dict[str, Any]:
    """Put a history to the configurations in these files, side by side.

    Raises:
        ConfigError: A file cannot be used.
        NotFound: A file has no such group.
    """
    configs = [(str(file), load(file, as_="client")) for file in files]
    return replay.replay(records, configs, group=group, since_s=since_s)


def check(path: Path, as_: str) -> list[str]:
    """Validate the file and everything it points at; return warnings.

    Raises:
        ConfigError: Every mistake at once.
    """
    config = load(path, as_=as_)
    warnings = []
    if as_ in ("check", "prober") and not config.store_path.exists():
        warnings.append(f"{config.store_path} does not exist yet; make it with `lb-probe init`")
    for group in config.groups:
        warnings += [f"group {group.name}: {lint.text}" for lint in lints(group.times)]
    return warnings


def haproxy_config(path: Path, group: str) -> str:
    """Return the configuration to paste for each HAProxy of a group.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group.
        Invalid: The group has no HAProxy, or nothing can be printed for it.
    """
    found = _group(load(path, as_="client"), group)
    ours = [a for a in found.adapters if isinstance(a, HaproxyAdapter)]
    if not ours:
        raise Invalid(f"group {group} has no adapter of type haproxy; add one to {path}")
    try:
        return "\n".join(config_text(found, adapter) for adapter in ours)
    except ValueError as error:
        raise Invalid(str(error)) from None


def haproxy_doctor(
    path: Path, group: str, files: Sequence[Path]
) -> list[tuple[str, list[findings.Finding]]]:
    """Return for each HAProxy of a group what it does, or would do, wrong.

    Args:
        files: Its configuration files, where they can be read from here.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group.
        PublishError: One cannot be asked.
    """
    found = _group(load(path, as_="client"), group)

    async def ask(adapter: HaproxyAdapter) -> tuple[str, list[findings.Finding]]:
        api = RuntimeApi(_place(adapter.socket), timeout_s=ASK_TIMEOUT_S)
        master = None
        if adapter.master is not None:
            master = RuntimeApi(_place(adapter.master), timeout_s=ASK_TIMEOUT_S)
        return adapter.name, await examine(api, adapter, found, files, master=master)

    async def every() -> list[tuple[str, list[findings.Finding]]]:
        return [await ask(a) for a in found.adapters if isinstance(a, HaproxyAdapter)]

    return _run(every())


def discover(text: str) -> str:
    """Return a first probes.yaml, `act: false`, for what a running HAProxy serves.

    Args:
        text: Its runtime socket, a path or host:port.

    Raises:
        Invalid: That is no place.
        LbProbeError: It cannot be asked, or has no pair of servers.
    """
    try:
        place = parse_haproxy_socket(text, Path.cwd())
    except ValueError as error:
        raise Invalid(f"found {text!r} as socket; use {error}") from None
    return _run(probes_yaml(RuntimeApi(_place(place), timeout_s=ASK_TIMEOUT_S), place))


def agent_control(path: Path, node: str) -> Path:
    """Return the control socket of a node's agent.

    Raises:
        ConfigError: The file cannot be used, or the node has no agent.
    """
    _, found = _agent_node(load(path, as_=f"agent:{node}"), node)
    assert found.agent is not None
    return found.agent.control


def probe_once(
    path: Path, group: str, node: str, capture: Path | None = None, *, with_addresses: bool = False
) -> dict[str, Any]:
    """Probe the pages of one node once, from this machine, and tell all that was seen.

    Args:
        capture: Folder to write the raw answers into, for a bug report.
        with_addresses: Leave addresses and names of machines in them.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group or node.
        OSError: The capture cannot be written.
    """
    config = load(path, as_="client")
    found = _group(config, group)
    targets = [t for t in _targets(found) if t.node == node]
    if not targets:
        names = ", ".join(n.name for n in found.nodes)
        raise NotFound(f"group {group} has no node {node}; its nodes are {names}")
    clock = SystemClock()

    async def both() -> list[http_probe.Report]:
        names = Names(clock.monotonic)
        ask = partial(http_probe.inspect, clock=clock.monotonic, names=names)
        try:
            return list(await asyncio.gather(*map(ask, targets)))
        finally:
            names.close()

    told = list(zip(targets, _run(both()), strict=True))
    answer: dict[str, Any] = {"group": group, "node": node}
    answer["pages"] = {target.page.value: written(target, seen) for target, seen in told}
    if capture is not None:
        at = datetime.fromtimestamp(clock.wall(), UTC)
        text = capture_text(told, at=at.isoformat(" ", "seconds"), with_addresses=with_addresses)
        answer["capture"] = str(
            _write_new(capture, f"lb-probe-{group}-{node}-{at:%Y%m%dT%H%M%SZ}", text)
        )
    return answer


def _write_new(folder: Path, name: str, content: bytes) -> Path:
    """Write a file of this name, or of the first like it that is free; nothing is overwritten."""
    candidates = (folder / f"{name}{f'-{n}' if n > 1 else ''}.txt" for n in itertools.count(1))
    file = next(file for file in candidates if not os.path.lexists(file))
    # Its owner's alone, until it was read through. One made in between is not overwritten either.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    return file


def publish_offline(path: Path, group: str, node: str, reason: str) -> list[dict[str, Any]]:
    """Break-glass: publish straight to the load balancers, without daemon or store.

    Leaves a note beside the store, which a starting prober adopts. Returns for each adapter
    whether it reads back as asked, and whether the note could be left where it could not.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group or node.
        Refused: A prober runs on this store.
    """
    config = load(path, as_="client")
    found = _group(config, group)
    if node not in {n.name for n in found.nodes}:
        names = ", ".join(n.name for n in found.nodes)
        raise NotFound(f"group {group} has no node {node}; its nodes are {names}")
    _refuse_beside_prober(config, group, node, reason)
    publishers = [p for p in _Balancers().of(found) if not isinstance(p, AgentCheck)]

    async def all_of_them() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(_publish_once(p, node) for p in publishers)))

    results = _run(all_of_them())
    try:
        _leave_note(config, group, node, reason)
    except OSError as error:
        file = _note_file(config, group)
        detail = f"cannot write {file} ({error}): say this again before the prober starts"
        results.append({"name": "note", "ok": False, "detail": detail, "commands": []})
    return results


def _refuse_beside_prober(config: Config, group: str, node: str, reason: str) -> None:
    """Refuse while a prober runs on this store: it would undo the publication within a second.

    Raises:
        Refused: With the line that ends that prober first, even one that hangs.
    """
    pid = sqlite.holder(config.store_path)
    if pid is None:
        return
    found = f"a prober runs here (pid {pid}) and would undo this"
    wanted = (
        "no prober on this store; or ask it, with failover, or resume for the way back: this line"
        " passes no gate"
    )
    line = f"lb-probe publish {group} --to {node} --offline --reason {shlex.quote(reason)}"
    gate = Gate("no-prober", False, found, wanted, open_with="")
    raise Refused(f"publish of {group} refused by no-prober", [gate], f"kill -9 {pid}; {line}")


async def _publish_once(publisher: Publisher, node: str) -> dict[str, Any]:
    result: dict[str, Any] = {"name": publisher.name, "commands": publisher.commands(node)}
    try:
        await publisher.publish(node)
        seen = await publisher.read_back()
    except PublishError as error:
        return {**result, "ok": False, "detail": str(error)}
    detail = seen.detail if seen.node == node else f"reads back {seen.node}; {seen.detail}"
    return {**result, "ok": seen.node == node, "detail": detail}


def _note_file(config: Config, group: str) -> Path:
    return config.store_path.with_name(f"{config.store_path.name}.offline-{group}.json")


def _leave_note(config: Config, group: str, node: str, reason: str) -> None:
    note = {
        "node": node,
        "actor": f"uid-{os.getuid()}",
        "reason": reason,
        "at_wall": SystemClock().wall(),
    }
    file = _note_file(config, group)
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(json.dumps(note))
    draft.rename(file)


def _read_notes(config: Config) -> dict[str, OfflineNote]:
    """Return what break-glass left behind.

    Raises:
        StoreError: A note that cannot be read; nothing is guessed from it.
    """
    notes = {}
    for group, file in _note_files(config):
        try:
            notes[group] = _note(json.loads(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError(
                f"{file} cannot be read; `publish --offline` left it. Look where traffic is, then"
                " remove the file, and say accept or republish once the prober runs"
            ) from None
    return notes


def _note_files(config: Config) -> list[tuple[str, Path]]:
    """Return the notes there are, by group; one left under a group's former name is its own."""
    names = [(g.name, name) for g in config.groups for name in (g.was, g.name) if name]
    files = [(group, _note_file(config, name)) for group, name in names]
    return [(group, file) for group, file in files if file.exists()]


def _note(raw: Mapping[str, Any]) -> OfflineNote:
    at_wall = float(raw["at_wall"])
    if not 0.0 <= at_wall < END_OF_TIME:
        raise ValueError(f"found the time {at_wall}")
    return OfflineNote(str(raw["node"]), str(raw["actor"]), str(raw["reason"]), at_wall)


# ------------------------------------------------------------------ from the file to the parts
def _group(config: Config, name: str) -> GroupConfig:
    for group in config.groups:
        if group.name == name:
            return group
    names = ", ".join(g.name for g in config.groups)
    raise NotFound(f"no group {name}; the groups are: {names}")


def _targets(group: GroupConfig) -> Iterator[Target]:
    for node in group.nodes:
        context = None
        server_name = node.tls.server_name if node.tls else None
        if node.url.scheme in ("https", "tls"):
            name = server_name or node.url.host
            context = make_ssl_context(_tls(node.tls, name))
        # A node without pages is well when a connection to it can be made.
        for page in Page if node.url.scheme in ("http", "https") else (Page.STATUS,):
            path = node.status_path if page is Page.STATUS else node.hastatus_path
            yield Target(
                group=group.name,
                node=node.name,
                page=page,
                scheme=node.url.scheme,
                host=node.url.host,
                port=node.url.port,
                path=path,
                host_header=server_name or _host_header(node),
                server_name=server_name,
                ssl_context=context,
                timeout_s=group.probe.timeout_s,
                source=group.probe.source,
                connection=group.probe.connection,
                accept_suffix=node.primary_accept_suffix,
            )


def _host_header(node: NodeConfig) -> str:
    host = f"[{node.url.host}]" if ":" in node.url.host else node.url.host
    is_default = node.url.port == (443 if node.url.scheme == "https" else 80)
    return host if is_default else f"{host}:{node.url.port}"


def _tls(tls: Tls | None, name: str) -> TlsSettings:
    if tls is None:
        return TlsSettings(server_name=name)
    return TlsSettings(
        ca_file=tls.ca_file,
        server_name=name,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        min_version=tls.min_version,
        fingerprint=tls.fingerprint,
        insecure=tls.insecure,
    )


class _Balancers:
    """The load balancers of a file: one device for each process, shared by all groups.

    Attributes:
        devices: Each is to be run, so that it tells its adapters what changed.
        asked: Listeners that HAProxy asks; each is to be started.
    """

    def __init__(self) -> None:
        self.devices: dict[object, Device] = {}
        self.asked: list[AgentCheck] = []

    def of(self, group: GroupConfig) -> tuple[Publisher, ...]:
        """Return the adapters of one group."""
        return tuple(self._publisher(group, adapter) for adapter in group.adapters)

    def _publisher(self, group: GroupConfig, adapter: Adapter) -> Publisher:
        if isinstance(adapter, HaproxyAdapter):
            return self._haproxy(adapter)
        if isinstance(adapter, AgentCheckAdapter):
            site = (adapter.listen.host, adapter.listen.port)
            asked = AgentCheck(adapter.name, site, adapter.nodes)
            self.asked.append(asked)
            return asked
        return _dns(adapter) if isinstance(adapter, DnsAdapter) else _command(group, adapter)

    def _haproxy(self, adapter: HaproxyAdapter) -> Publisher:
        device = self._device(adapter)
        if adapter.style == "map":
            return HaproxyMap(
                adapter.name,
                device,
                str(adapter.map_file),
                adapter.key,
                adapter.nodes,
                local_file=adapter.local_file,
                backend_prefix=adapter.backend_prefix,
                shutdown_sessions_after_s=adapter.shutdown_sessions_s,
            )
        return HaproxyServers(
            adapter.name,
            device,
            adapter.backend,
            adapter.nodes,
            shutdown_sessions_after_s=adapter.shutdown_sessions_s,
        )

    def _device(self, adapter: HaproxyAdapter) -> Device:
        tls = adapter.tls
        key = (str(adapter.socket), str(adapter.master), tls)
        if key not in self.devices:
            place = _place(adapter.socket)
            name = (tls.server_name if tls else None) or (
                place[0] if isinstance(place, tuple) else ""
            )
            self.devices[key] = Device(
                place,
                tls=make_ssl_context(_tls(tls, name)) if tls else None,
                server_name=name if tls else None,
                master=_place(adapter.master) if adapter.master else None,
            )
        return self.devices[key]


def _dns(adapter: DnsAdapter) -> Publisher:
    from lb_probe.adapters.dns_update import DnsUpdate, Key  # 100 ms that others do not pay

    tsig = adapter.tsig

    def key() -> Key:
        return Key(tsig.name, tsig.algorithm, parse_tsig_key(tsig.key_file.read_text()))

    return DnsUpdate(
        adapter.name,
        [(server.host, server.port) for server in adapter.servers],
        adapter.zone,
        adapter.record,
        adapter.nodes,
        key,
        ttl=int(adapter.ttl_s),
        alias=adapter.cname,
    )


def _command(group: GroupConfig, adapter: CommandAdapter) -> Command:
    return Command(
        adapter.name,
        group.name,
        adapter.argv,
        adapter.read,
        adapter.nodes,
        timeout_s=adapter.timeout_s,
        poll_s=adapter.poll_s,
    )


def _place(socket: Path | Address) -> Path | tuple[str, int]:
    return socket if isinstance(socket, Path) else (socket.host, socket.port)


def _setup(group: GroupConfig, balancers: _Balancers) -> Setup:
    publishers = balancers.of(group)
    return Setup(
        group.shape,
        publishers,
        group.fingerprints,
        group.was,
        group.times,
        group.witnesses,
        group.drain_deadline_s,
    )


def audit_file(config: Config) -> Path:
    """Return where the audit log of a prober is."""
    return config.store_path.with_name(f"{config.store_path.name}.audit.jsonl")


def _signature(store: SqliteStore) -> str:
    """Return who writes to the load balancers: this machine, and the store it decides from."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().split(".")[0])[:40]
    return f"{host}-{store.id[:8]}"


def _operators(config: Config) -> list[Operator]:
    if config.api is None:
        return []
    return [
        Operator(o.name, Rank[o.role.upper()], o.token_file.read_text().strip())
        for o in config.api.operators
    ]


# ------------------------------------------------------------------ the prober
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
    return _run(_Prober(config, allowed).run())


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


class _Prober:
    """The prober's parts, wired."""

    def __init__(self, config: Config, allowed: frozenset[str]) -> None:
        self._config = config
        self._allowed = allowed
        self._clock = SystemClock()
        self._metrics = Metrics(self._clock.wall)
        self._systemd = Systemd()
        self._events = Fanout(self._metrics.emit, Log().emit, self._systemd.emit, *_die_at())
        self._progress = _Progress(self._clock.monotonic())
        self._broken: Exception | None = None
        rounds = [g.probe.interval_s + g.probe.timeout_s for g in config.groups]
        self._patience_s = max(PROGRESS_S, 3 * min(rounds, default=0.0))

    async def run(self) -> int:
        """Run until told to stop; published state is left as it is."""
        stop = asyncio.Event()
        _on_signals(stop, self._events)
        store = await SqliteStore.open(self._config.store_path)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            await self._serve(store, stop, stack)
        return 0

    async def _serve(self, store: SqliteStore, stop: asyncio.Event, stack: AsyncExitStack) -> None:
        config, events = self._config, self._events
        balancers = _Balancers()
        engine = http_probe.Engine(self._clock.monotonic)
        stack.callback(engine.close)
        controller = Controller(
            [_setup(group, balancers) for group in config.groups],
            store,
            self._clock,
            events,
            failovers_per_minute=config.limits.failovers_per_minute,
            quicken=lambda group: schedule.quicken(group),
            signature=_signature(store),
        )
        schedule = self._schedule(controller, engine)
        for asked in balancers.asked:
            stack.push_async_callback(asked.close)
            await _start_asked(asked)
        await controller.start(_read_notes(config), self._allowed)
        for _, file in _note_files(config):
            file.unlink(missing_ok=True)
        for group in config.groups:
            shape = group.shape
            self._metrics.know(shape.name, shape.names, shape.adapters)
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked through again
        await self._listen(controller, schedule, stack)
        events.emit(Event("prober.started", fields={"version": __version__, "pid": os.getpid()}))
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(controller.run()),
                tasks.create_task(self._supervised("schedule", schedule.run)),
            ]
            for device in balancers.devices.values():
                parts.append(tasks.create_task(self._supervised("load-balancer", device.run)))
            if config.reference_targets:
                watch = self._reference_watch(controller)
                parts.append(tasks.create_task(self._supervised("references", watch)))
            parts.append(tasks.create_task(self._systemd.watch(self._clock, self._trouble)))
            await stop.wait()
            for part in parts:
                part.cancel()
        await controller.close()
        events.emit(Event("prober.stopped"))

    def _schedule(self, controller: Controller, engine: http_probe.Engine) -> Schedule:
        targets = []
        for group in self._config.groups:
            pace = Pace(group.probe.interval_s, group.probe.recheck_s, group.probe.fall)
            targets += [(target, pace) for target in _targets(group)]

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
            start=engine.start,
            rng=random.Random(),  # noqa: S311 spreads starts; nothing secret hangs on it
        )

    def _reference_watch(self, controller: Controller) -> Callable[[], Awaitable[None]]:
        addresses = {str(a): (a.host, a.port) for a in self._config.reference_targets}

        async def watch() -> None:
            await watch_references(
                addresses, REFERENCE_INTERVAL_S, REFERENCE_TIMEOUT_S, controller.references
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
    async def _listen(
        self, controller: Controller, schedule: Schedule, stack: AsyncExitStack
    ) -> None:
        config = self._config
        if config.metrics is not None:
            health = Health(
                lambda: self._snapshot(controller),
                CONTENT_TYPE,
                trouble=self._trouble,
                unready=lambda: "" if schedule.cycle_done.is_set() else "first cycle not done",
            )
            site = config.metrics.listen
            await _serve_on(health.application(), stack, tcp=(site.host, site.port))
        if config.api is None:
            return
        api = Api(controller, self._door(), self._events.add)
        if config.api.listen is not None:
            site = config.api.listen
            await _serve_on(api.application(), stack, tcp=(site.host, site.port))
        if config.api.socket is not None:
            await _serve_on(api.application(), stack, unix=config.api.socket)

    def _door(self) -> Door:
        """Return the door of the API, with what was written beside the store.

        Raises:
            TokenError, AuditError: A file beside the store cannot be used.
        """
        store = self._config.store_path
        tokens = Tokens(store.with_name(f"{store.name}.tokens.json"), self._clock.wall)
        tokens.open()
        audit = Audit(audit_file(self._config), self._clock.wall, self._audited)
        audit.open()
        self._metrics.audited(audit.head.number, audit.head.digest)
        operators = _operators(self._config)
        return Door(operators, self._clock.monotonic, tokens=tokens, audit=audit)

    def _audited(self, number: int, action: str, digest: str) -> None:
        self._metrics.audited(number, digest)
        self._events.emit(
            Event("audit.written", fields={"seq": number, "action": action, "hash": digest})
        )

    def _snapshot(self, controller: Controller) -> Callable[[], bytes]:
        snapshot = Snapshot(
            controller.views(),
            controller.is_store_writable,
            is_config_good=True,
        )
        return lambda: self._metrics.render(snapshot)

    def _trouble(self) -> str:
        silent = self._clock.monotonic() - self._progress.at
        return f"no probe ended for {silent:.0f}s" if silent > self._patience_s else ""


async def _start_asked(asked: AgentCheck) -> None:
    """Let HAProxy ask one adapter.

    Raises:
        ListenError: The address is taken or not ours.
    """
    try:
        await asked.start()
    except OSError as error:
        raise ListenError(
            f"cannot listen for {asked.name}: {error.strerror or error}; is another prober running?"
        ) from None


async def _serve_on(
    app: web.Application,
    stack: AsyncExitStack,
    *,
    tcp: tuple[str, int] | None = None,
    unix: Path | None = None,
) -> None:
    """Serve an application on one address until the stack is closed.

    Raises:
        ListenError: The address is taken or not ours.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        if tcp is not None:
            await web.TCPSite(runner, *tcp).start()
        elif unix is not None:
            _clear_socket(unix)
            old = os.umask(0o117)  # owner and group, from the first moment on
            try:
                await web.UnixSite(runner, unix).start()
            finally:
                os.umask(old)
            stack.callback(unix.unlink, missing_ok=True)
    except OSError as error:
        where = unix or ":".join(str(part) for part in tcp or ())
        if unix is not None and not unix.parent.is_dir():
            raise ListenError(
                f"cannot listen on {where}: there is no folder {unix.parent}; make it, writable for"
                " the prober's user"
            ) from None
        raise ListenError(
            f"cannot listen on {where}: {error.strerror or error}; is another prober running?"
        ) from None


def _clear_socket(path: Path) -> None:
    """Remove a socket that a killed process left; nothing else is touched.

    Raises:
        ListenError: Somebody answers there, or may; or it is no socket.
    """
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise ListenError(f"cannot listen on {path}: found something that is no socket; move it")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(KNOCK_S)  # one that is stopped takes no connection, and is no less alive
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {path}: {error}; remove it if it is stale"
            ) from None
        else:
            raise ListenError(
                f"cannot listen on {path}: another process answers there; stop it first"
            )


# ------------------------------------------------------------------ the agent
def run_agent(path: Path, node: str) -> int:
    """Run the agent of one node in the foreground until SIGTERM or SIGINT.

    Raises:
        ConfigError: The file cannot be used, or the node has no agent.
        LbProbeError: Its state, socket or address cannot be used.
    """
    config = load(path, as_=f"agent:{node}")
    _, found = _agent_node(config, node)
    agent = found.agent
    assert agent is not None
    role = found.role
    assert role is not None  # groups of equals have no agents: they are refused

    async def serve() -> int:
        stop = asyncio.Event()
        log = Fanout(Log().emit, Systemd().emit)
        _on_signals(stop, log)
        await agent_daemon.run(
            node,
            role,
            (agent.listen.host, agent.listen.port),
            agent.control,
            agent.state,
            [_agent_check(c) for c in agent.checks],
            agent.drain_s,
            SystemClock(),
            stop,
            log,
        )
        return 0

    return _run(serve())


def _agent_node(config: Config, name: str) -> tuple[GroupConfig, NodeConfig]:
    for group in config.groups:
        for node in group.nodes:
            if node.name == name and node.agent is not None:
                return group, node
    raise Invalid(f"node {name} has no `agent:` in {config.path}")


def _agent_check(check: Any) -> agent_checks.Check:
    pace: dict[str, Any] = {
        "interval_s": check.interval_s,
        "timeout_s": check.timeout_s,
        "fall": check.fall,
        "rise": check.rise,
        "max_age_s": check.max_age_s,
        "pages": frozenset(Page(page) for page in check.pages),
        "name": check.name,
    }
    if check.type == "http":
        return agent_checks.HttpCheck(
            **pace, url=str(check.url), expect_status=check.expect_status, expect=check.expect
        )
    if check.type == "tcp":
        return agent_checks.TcpCheck(**pace, host=check.address.host, port=check.address.port)
    return agent_checks.CommandCheck(**pace, argv=tuple(check.argv))


# ------------------------------------------------------------------ the loop
def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine on the fastest loop there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None  # the loop of the standard library: the same, a little slower
    return uvloop.new_event_loop


def _on_signals(stop: asyncio.Event, sink: EventSink) -> None:
    """Let SIGTERM and SIGINT end the process in order; a second one at once."""
    loop = asyncio.get_running_loop()

    def first(number: int) -> None:
        stop.set()
        loop.add_signal_handler(number, sys.exit, 128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first, number)
    # A file is read at start only; a habit from other daemons must not end this one.
    told = Event("config.not-reloaded", fields={"detail": "restart to read the file anew"})
    loop.add_signal_handler(signal.SIGHUP, sink.emit, told)
