"""From the file to the parts: what probes.yaml says, as targets, load balancers and operators."""

import asyncio
import re
import socket
from pathlib import Path

from lb_probe.adapters.agent_check import AgentCheck
from lb_probe.adapters.command import Command
from lb_probe.adapters.f5_gtm import F5Gtm
from lb_probe.adapters.f5_ltm import F5Ltm
from lb_probe.adapters.haproxy import Device, HaproxyMap, HaproxyServers, RuntimeApi
from lb_probe.adapters.icontrol import Unit, Units
from lb_probe.admin.auth import Operator
from lb_probe.app.secret_files import token_of
from lb_probe.app.targets import context_of
from lb_probe.app.targets import targets_of as targets_of
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Address,
    Config,
    GroupConfig,
    Url,
)
from lb_probe.config.model import (
    Adapter,
    AgentCheckAdapter,
    CommandAdapter,
    DnsAdapter,
    F5Adapter,
    F5GtmAdapter,
    F5LtmAdapter,
    HaproxyAdapter,
)
from lb_probe.config.values import parse_tsig_key
from lb_probe.controller import Setup
from lb_probe.core.rank import rank_of
from lb_probe.pool import PoolSetup, SetPublisher
from lb_probe.ports import (
    NotFound,
    Publisher,
)
from lb_probe.prober.tls import NodeContext
from lb_probe.store.sqlite import SqliteStore


def group_of(config: Config, name: str) -> GroupConfig:
    """Return a group by its name.

    Raises:
        NotFound: No such group; names those there are.
    """
    for group in config.groups:
        if group.name == name:
            return group
    names = ", ".join(g.name for g in config.groups)
    raise NotFound(f"no group {name}; the groups are: {names}")


class Balancers:
    """The load balancers of a file: one device for each process, shared by all groups.

    Attributes:
        devices: Each is to be run, so that it tells its adapters what changed.
        asked: Listeners that HAProxy asks, by group; each is to be started.
        units: BIG-IP units, each with one login for all that use it; each is to be closed.
    """

    def __init__(self) -> None:
        self.units: dict[object, Unit] = {}
        self._f5s: dict[tuple[tuple[Unit, ...], str], Units] = {}
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
        if isinstance(adapter, F5Adapter):
            return self._f5(adapter)
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

    def _f5(self, adapter: F5Adapter) -> F5Ltm | F5Gtm:
        group = "" if isinstance(adapter, F5GtmAdapter) else adapter.device_group or ""
        units = tuple(self._unit(adapter, host) for host in adapter.hosts)
        if (units, group) not in self._f5s:  # pools share a save, a sync and who is active
            self._f5s[units, group] = Units(units, group)
        device, pace = self._f5s[units, group], adapter.poll_s
        if isinstance(adapter, F5LtmAdapter):
            return F5Ltm(adapter.name, device, adapter.pool, adapter.nodes, poll_s=pace)
        kind = adapter.pool_type
        return F5Gtm(adapter.name, device, adapter.pool, adapter.nodes, kind=kind, poll_s=pace)

    def _unit(self, adapter: F5Adapter, host: Url) -> Unit:
        tls = adapter.tls
        key = (host, adapter.username, adapter.password_file, tls, adapter.timeout_s)
        if key not in self.units:
            name = (tls.server_name if tls else None) or host.host
            self.units[key] = Unit(
                str(host),
                adapter.username,
                adapter.password_file,
                now=SystemClock().monotonic,
                tls=context_of(tls, name),
                server_name=name,
                timeout_s=adapter.timeout_s,
            )
        return self.units[key]

    async def examined(self, adapter: Adapter) -> list[str]:
        """Return what would not work at one load balancer, where it can tell; changes nothing."""
        if not isinstance(adapter, F5Adapter):
            return []
        return await self._f5(adapter).examine()

    async def close(self) -> None:
        """End what runs beside, give tokens back; a unit that does not answer is not waited for."""
        await asyncio.gather(*(device.close() for device in self._f5s.values()))
        await asyncio.gather(*(unit.close() for unit in self.units.values()))

    def _device(self, adapter: HaproxyAdapter) -> Device:
        key = (str(adapter.socket), str(adapter.master), adapter.tls)
        if key not in self.devices:
            context, name = _haproxy_tls(adapter)
            self.devices[key] = Device(
                place_of(adapter.socket),
                tls=context,
                server_name=name,
                master=place_of(adapter.master) if adapter.master else None,
            )
        return self.devices[key]


def runtime_api(adapter: HaproxyAdapter, timeout_s: float) -> RuntimeApi:
    """Return the command socket of one HAProxy, for single questions."""
    context, name = _haproxy_tls(adapter)
    place = place_of(adapter.socket)
    return RuntimeApi(place, timeout_s=timeout_s, tls=context, server_name=name)


def _haproxy_tls(adapter: HaproxyAdapter) -> tuple[NodeContext | None, str | None]:
    """Return what verifies the `bind ... ssl` in front of a command socket, and its name."""
    if adapter.tls is None:
        return None, None
    name = adapter.tls.server_name
    if name is None:
        name = "" if isinstance(adapter.socket, Path) else adapter.socket.host
    return context_of(adapter.tls, name), name


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


def place_of(socket: Path | Address) -> Path | tuple[str, int]:
    """Return a socket of the file as connections take it."""
    return socket if isinstance(socket, Path) else (socket.host, socket.port)


def setup_of(group: GroupConfig, balancers: Balancers) -> Setup:
    """Wire an active/standby group."""
    publishers = balancers.of(group)
    return Setup(
        group.shape,
        publishers,
        group.fingerprints,
        group.was,
        group.times,
        group.witnesses,
        group.drain_deadline_s,
        group.elsewhere,
    )


def pool_setup_of(group: GroupConfig, balancers: Balancers) -> PoolSetup:
    """Wire an active-active group; the configuration let only load balancers pass that can."""
    publishers = [p for p in balancers.of(group) if isinstance(p, SetPublisher)]
    return PoolSetup(group.pool, tuple(publishers), group.was)


def audit_beside(config: Config) -> Path:
    """Return the audit log of a configuration: beside its store."""
    return config.store_path.with_name(f"{config.store_path.name}.audit.jsonl")


def signature(store: SqliteStore) -> str:
    """Return who writes to the load balancers: this machine, and the store it decides from."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().split(".")[0])[:40]
    return f"{host}-{store.id[:8]}"


def operators_of(config: Config) -> list[Operator]:
    """Return who may use the API by the file alone.

    Raises:
        Invalid: A token cannot be read, or sent.
    """
    if config.api is None:
        return []
    return [Operator(o.name, rank_of(o.role), token_of(o.token_file)) for o in config.api.operators]
