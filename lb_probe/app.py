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
import ssl
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
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
from lb_probe.admin.page import Site
from lb_probe.admin.tokens import Tokens
from lb_probe.advice import findings
from lb_probe.advice.haproxy_config import config_text
from lb_probe.advice.haproxy_discover import probes_yaml
from lb_probe.advice.haproxy_doctor import examine
from lb_probe.advice.surroundings import look_around
from lb_probe.agent import checks as agent_checks
from lb_probe.agent import daemon as agent_daemon
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Address,
    Config,
    ConfigError,
    GroupConfig,
    NodeConfig,
    load,
)
from lb_probe.config.model import (
    Adapter,
    AgentCheckAdapter,
    ApiTls,
    CommandAdapter,
    DnsAdapter,
    HaproxyAdapter,
    Tls,
)
from lb_probe.config.values import parse_haproxy_socket, parse_tsig_key
from lb_probe.controller import Controller, OfflineNote, Setup
from lb_probe.core.model import Event, Gate, Observation, Page
from lb_probe.core.timing import lints
from lb_probe.events import audit
from lb_probe.events.log import Fanout, Log
from lb_probe.events.metrics import CONTENT_TYPE, Metrics, Snapshot
from lb_probe.events.systemd import Systemd
from lb_probe.groups import Groups
from lb_probe.pool import PoolController, PoolSetup, SetPublisher
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


def check(path: Path, as_: str, *, looks_around: bool = False) -> list[str]:
    """Validate the file and everything it points at; return warnings.

    Args:
        looks_around: Ask nodes and load balancers too, each once.

    Raises:
        ConfigError: Every mistake at once.
    """
    config = load(path, as_=as_)
    warnings = []
    if as_ in ("check", "prober") and not config.store_path.exists():
        warnings.append(f"{config.store_path} does not exist yet; make it with `lb-probe init`")
    warnings += [
        f"group {group.name}: node {node.name}: `insecure: true` takes any certificate, an"
        " attacker's too; for a trial only: use ca_file, or fingerprint"
        for group in config.groups
        for node in group.nodes
        if node.tls is not None and node.tls.insecure
    ]
    for group in config.groups:
        found = () if group.is_pool else lints(group.times)  # they are about a failover's times
        warnings += [f"group {group.name}: {lint.text}" for lint in found]
    if looks_around and not as_.startswith("agent:"):
        warnings += _run(_around(config))
    return warnings


async def _around(config: Config) -> list[str]:
    clock = SystemClock().monotonic
    names = Names(clock)
    try:
        ask = partial(http_probe.inspect, clock=clock, names=names)
        return await look_around(config, _targets, ask)
    finally:
        names.close()


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
    if found.is_pool:
        raise Invalid(
            f"group {group} is active-active: no one node has its traffic. Without the prober set"
            " its servers with the load balancer's own tools; the prober takes over what it finds"
        )
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
    pairs = [group for group in config.groups if not group.is_pool]
    names = [(g.name, name) for g in pairs for name in (g.was, g.name) if name]
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
        asked: Listeners that HAProxy asks, by group; each is to be started.
    """

    def __init__(self) -> None:
        self.devices: dict[object, Device] = {}
        self.asked: dict[str, list[AgentCheck]] = {}

    def of(self, group: GroupConfig) -> tuple[Publisher, ...]:
        """Return the adapters of one group."""
        publishers = tuple(self._publisher(group, adapter) for adapter in group.adapters)
        self.asked[group.name] = [p for p in publishers if isinstance(p, AgentCheck)]
        return publishers

    def _publisher(self, group: GroupConfig, adapter: Adapter) -> Publisher:
        if isinstance(adapter, HaproxyAdapter):
            return self._haproxy(adapter)
        if isinstance(adapter, AgentCheckAdapter):
            site = (adapter.listen.host, adapter.listen.port)
            return AgentCheck(adapter.name, site, adapter.nodes)
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


def _pool_setup(group: GroupConfig, balancers: _Balancers) -> PoolSetup:
    """Wire an active-active group; the configuration let only load balancers pass that can."""
    publishers = [p for p in balancers.of(group) if isinstance(p, SetPublisher)]
    return PoolSetup(group.pool, tuple(publishers), group.was)


def audit_file(path: Path) -> Path:
    """Return where the prober of this configuration keeps its audit log.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    return _audit_file(load(path))


def _audit_file(config: Config) -> Path:
    return config.store_path.with_name(f"{config.store_path.name}.audit.jsonl")


def audit_lines(file: Path) -> Iterator[dict[str, object]]:
    """Yield every line of an audit log, checked.

    Raises:
        AuditError: It cannot be read, or its chain is broken; names the line.
    """
    return audit.lines(file)


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
        self._is_config_good = True
        self._has_cycled = False
        self._balancers = _Balancers()
        self._door: Door | None = None
        self._parts: dict[object, asyncio.Task[None]] = {}

    async def run(self, word: Callable[[], Awaitable[str]] | None = None) -> int:
        """Run until told to stop; published state is left as it is.

        Args:
            word: Waits for what is to be done next, `stop` or `reload`; signals say it, as a rule.
        """
        word = word or _Signals().next
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
        self._groups = self._controlled(store)
        self._schedule = self._scheduled()
        stack.push_async_callback(self._close_asked)
        for asked in chain.from_iterable(self._balancers.asked.values()):
            await _start_asked(asked)
        await self._groups.start(_read_notes(config), self._allowed)
        for _, file in _note_files(config):
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
        work |= {key: device.run for key, device in self._balancers.devices.items()}
        for key, part in work.items():
            if key not in self._parts:
                name = key if isinstance(key, str) else "load-balancer"
                self._parts[key] = tasks.create_task(self._supervised(name, part))

    async def _stop_part(self, key: str) -> None:
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
            self._is_config_good = True
            self._events.emit(Event("config.reloaded", fields=told))

    def _not_reloaded(self, why: str) -> None:
        self._is_config_good = False
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
        operators = _operators(config)
        changed = [group for group in config.groups if group.name not in kept]
        fresh, pools = await self._prepared(changed, before.keys() - kept)
        for key in ("schedule", "references"):
            await self._stop_part(key)
        await self._groups.swap(
            list(now),
            list((idle | fresh).values()),
            [pools.get(g.name, PoolSetup(g.pool)) for g in config.groups if g.is_pool],
            kept,
            config.limits.failovers_per_minute,
        )
        self._config = config
        for name in before.keys() - now.keys():
            self._metrics.forget(name)
        self._know(config.groups)
        if self._door is not None:
            self._door.know(operators)
        self._schedule = self._scheduled()
        self._start_parts(tasks)
        return {
            "added": sorted(now.keys() - before.keys()),
            "removed": sorted(before.keys() - now.keys()),
            "changed": sorted((now.keys() & before.keys()) - kept),
            "unchanged": len(kept),
        }

    async def _prepared(
        self, groups: Sequence[GroupConfig], gone: Iterable[str]
    ) -> tuple[dict[str, Setup], dict[str, PoolSetup]]:
        """Wire groups anew and let HAProxy ask their listeners, and those of `gone` no more.

        Raises:
            ListenError: An address is taken; the listeners from before are open again.
        """
        served = self._balancers.asked
        old = {name: served.pop(name, []) for name in gone}
        for asked in chain.from_iterable(old.values()):
            await asked.close()
        pairs = {g.name: _setup(g, self._balancers) for g in groups if not g.is_pool}
        pools = {g.name: _pool_setup(g, self._balancers) for g in groups if g.is_pool}
        new = {group.name: served[group.name] for group in groups}
        try:
            for asked in chain.from_iterable(new.values()):
                await _start_asked(asked)
        except LbProbeError:
            for name in new:
                for asked in served.pop(name):
                    await asked.close()
            served |= old
            for asked in chain.from_iterable(old.values()):
                await _start_asked(asked)
            raise
        return pairs, pools

    # -------------------------------------------------------------- parts
    def _controlled(self, store: SqliteStore) -> Groups:
        """Return the groups of both policies under their controllers."""
        config, balancers = self._config, self._balancers
        pairs = Controller(
            [_setup(group, balancers) for group in config.groups if not group.is_pool],
            store,
            self._clock,
            self._events,
            failovers_per_minute=config.limits.failovers_per_minute,
            quicken=lambda group: self._schedule.quicken(group),
            signature=_signature(store),
            cut_off=lambda: pools.cut_off(),
        )
        pools = PoolController(
            [_pool_setup(group, balancers) for group in config.groups if group.is_pool],
            store,
            self._clock,
            self._events,
            pairs.recorder,
            cut_off=pairs.cut_off,
        )
        return Groups([group.name for group in config.groups], pairs, pools, store)

    def _scheduled(self) -> Schedule:
        """Return a schedule of every page of the present configuration."""
        controller, targets = self._groups, []
        rounds = [g.probe.interval_s + g.probe.timeout_s for g in self._config.groups]
        self._patience_s = max(PROGRESS_S, 3 * min(rounds, default=0.0))
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
            await _serve_on(health.application(), stack, tcp=(site.host, site.port))
        if config.api is None:
            return
        self._door = self._made_door()
        api = Api(self._groups, self._door, self._events.add)
        page = Site(self._groups, self._door, self._events.add, self._clock)
        if config.api.listen is not None:
            site = config.api.listen
            context = _server_context(config.api.tls) if config.api.tls else None
            served = page.join(api.application())
            await _serve_on(served, stack, tcp=(site.host, site.port), tls=context)
        if config.api.socket is not None:
            await _serve_on(page.join(api.application()), stack, unix=config.api.socket)

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
        log = audit.Audit(_audit_file(self._config), self._clock.wall, self._audited)
        log.open()
        self._metrics.audited(log.head.number, log.head.digest)
        operators = _operators(self._config)
        return Door(operators, self._clock.monotonic, tokens=tokens, audit=log)

    def _audited(self, number: int, action: str, digest: str) -> None:
        self._metrics.audited(number, digest)
        self._events.emit(
            Event("audit.written", fields={"seq": number, "action": action, "hash": digest})
        )

    def _snapshot(self) -> Callable[[], bytes]:
        groups = self._groups
        snapshot = Snapshot(
            groups.views(), groups.is_store_writable, is_config_good=self._is_config_good
        )
        return lambda: self._metrics.render(snapshot)

    def _trouble(self) -> str:
        silent = self._clock.monotonic() - self._progress.at
        return f"no probe ended for {silent:.0f}s" if silent > self._patience_s else ""


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


def _server_context(tls: ApiTls) -> ssl.SSLContext:
    """Return what encrypts the API.

    Raises:
        ListenError: A file holds no certificate or key, or they do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password would be asked for on the terminal; an empty one is an error at once.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise ListenError(
            f"api.tls: {tls.cert_file}: {error}; wanted a certificate in PEM and the key that"
            " belongs to it, without a password"
        ) from None
    return context


async def _serve_on(
    app: web.Application,
    stack: AsyncExitStack,
    *,
    tcp: tuple[str, int] | None = None,
    tls: ssl.SSLContext | None = None,
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
            await web.TCPSite(runner, *tcp, ssl_context=tls).start()
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
        setup = agent_daemon.Setup(
            node=node,
            role=role,
            listen=(agent.listen.host, agent.listen.port),
            control=agent.control,
            state=agent.state,
            checks=[_agent_check(c) for c in agent.checks],
            drain_s=agent.drain_s,
            report=(agent.report.listen.host, agent.report.listen.port) if agent.report else None,
        )
        await agent_daemon.run(setup, SystemClock(), stop, log)
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


class _Signals:
    """What the prober is told by signals: to stop, or to read its file again."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._words: asyncio.Queue[str] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._words.put_nowait, "reload")
        self._is_stopped = False

    def _stop(self, number: int) -> None:
        self._is_stopped = True
        self._words.put_nowait("stop")
        self._loop.add_signal_handler(
            number, sys.exit, 128 + number
        )  # a second one ends it at once

    async def next(self) -> str:
        """Return stop or reload; of several reloads asked for meanwhile one is enough."""
        word = await self._words.get()
        while not self._words.empty():
            self._words.get_nowait()
        return "stop" if self._is_stopped else word


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
