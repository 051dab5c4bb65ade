"""What an agent has to do with its peers, wired: trust, connectivity and parity."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lb_probe.agent.connectivity.part import Connectivity, ConnectivitySettings
from lb_probe.agent.connectivity.ports import Pace, Tried
from lb_probe.agent.node import Node, Part
from lb_probe.agent.parity.part import Parity, ParitySettings
from lb_probe.agent.trust.part import Trust, TrustSettings
from lb_probe.agent.trust.verbs import TrustVerbs
from lb_probe.app.agent_watch import peer_pages
from lb_probe.app.targets import targets_of
from lb_probe.clock import SystemClock
from lb_probe.config import Config, ConfigError, GroupConfig, NodeConfig, load
from lb_probe.config import trust as keys
from lb_probe.config.likeness import digest
from lb_probe.core.clock_offset import Limits, Offset
from lb_probe.core.model import Mode, Page, Passed
from lb_probe.ports import Invalid
from lb_probe.prober.http_probe import Target, probe

_PAGE_S = 3.0


def parts(config: Config, group: GroupConfig, node: NodeConfig) -> Sequence[Callable[[Node], Part]]:
    """Return what makes each feature that the node's `trust` calls for; nothing without it."""
    agent = node.agent
    assert agent is not None
    if agent.trust is None:
        return ()
    peers = _Peers(config, group, node, agent.trust)
    made: list[Callable[[Node], Part]] = [peers.trust, peers.verbs]
    if agent.connectivity is not None:
        made.append(peers.connectivity)
    if agent.parity is not None:
        made.append(peers.parity)
    return made


def trust_folder(node: NodeConfig) -> Path:
    """Return where a node's agent keeps its key and its pins.

    Raises:
        ValueError: It has no `trust`.
    """
    folder = node.agent.trust_folder if node.agent is not None else None
    if folder is None:
        raise ValueError(f"node {node.name} has no agent with `trust:`")
    return folder


class _Peers:
    """The features of one agent; each needs the one of trust, which is made first."""

    def __init__(
        self, config: Config, group: GroupConfig, node: NodeConfig, settings: keys.Trust
    ) -> None:
        self._config = config
        self._group = group
        self._node = node
        self._settings = settings
        self._made: Trust | None = None
        self._others = {
            other.name: other
            for other in group.nodes
            if other is not node and other.agent is not None and other.agent.trust is not None
        }

    def trust(self, node: Node) -> Part:
        settings = self._settings
        partner = self._group.partner_of(self._node)
        self._made = Trust(
            node,
            TrustSettings(
                listen=(settings.listen.host, settings.listen.port),
                folder=trust_folder(self._node),
                peers={name: _address(other) for name, other in self._others.items()},
                partner=partner.name if partner and partner.name in self._others else "",
                interval_s=settings.interval_s,
                timeout_s=settings.timeout_s,
                clock=Limits(settings.clock_warn_s, settings.clock_error_s),
                page_clock=self._page_clock,
            ),
        )
        return self._made

    def verbs(self, node: Node) -> Part:
        assert self._made is not None
        return TrustVerbs(self._made)

    def connectivity(self, node: Node) -> Part:
        assert self._made is not None
        assert self._node.agent is not None
        settings = self._node.agent.connectivity
        assert settings is not None
        found = ConnectivitySettings(
            own=_ports(self._node),
            theirs={name: _ports(other) for name, other in self._others.items()},
            interval_s=settings.interval_s,
            max_age_s=settings.max_age_s,
            pace=Pace(settings.timeout_s, settings.pause_s),
        )
        return Connectivity(self._made, found)

    def parity(self, node: Node) -> Part:
        assert self._made is not None
        assert self._node.agent is not None
        settings = self._node.agent.parity
        assert settings is not None
        found = ParitySettings(
            config=digest(self._config, self._group),
            config_on_disk=self._on_disk,
            peer_page=self._peer_page(self._made.settings.partner),
            version_command=settings.version_command or (),
            destinations=[(one.host, one.port) for one in settings.destinations],
            disks=settings.disks,
            commands={one.name: one.argv for one in settings.commands},
            interval_s=settings.interval_s,
            timeout_s=settings.timeout_s,
        )
        return Parity(self._made, found)

    async def _page_clock(self, name: str) -> Offset | None:
        """Ask the page of a peer for its time; None where this machine cannot."""
        try:
            pages = peer_pages(self._group, self._others[name], _PAGE_S)
        except Invalid:
            return None  # an authority's file that only the prober has
        return await pages.clock(SystemClock().wall)

    def _on_disk(self) -> str | None:
        """Return the digest of the file as it is now; None where it cannot be used."""
        try:
            found = load(self._config.path, as_="client")
        except ConfigError:
            return None
        for group in found.groups:
            if any(node.name == self._node.name and node.agent for node in group.nodes):
                return digest(found, group)
        return None

    def _peer_page(self, name: str) -> Callable[[], Awaitable[Mode | None]] | None:
        """Return what reads a peer's own page; None where this machine cannot."""
        target = _page_of(self._group, name)
        if target is None:
            return None
        clock = SystemClock()

        async def read() -> Mode | None:
            seen = await probe(target, clock=clock.monotonic)
            if isinstance(seen.outcome, Passed):
                return seen.outcome.mode
            return None if seen.code is None else Mode.UNKNOWN

        return read


def _page_of(group: GroupConfig, name: str) -> Target | None:
    try:
        for target in targets_of(group):
            if target.node == name and target.page is Page.HASTATUS:
                return replace(target, timeout_s=_PAGE_S, connection="fresh", source=None)
    except Invalid:
        return None  # an authority's file that only the prober has
    return None


def _address(node: NodeConfig) -> tuple[str, int]:
    assert node.agent is not None
    settings = node.agent.trust
    assert settings is not None
    if settings.address is not None:
        return settings.address.host, settings.address.port
    return node.url.host, settings.listen.port


def _ports(node: NodeConfig) -> tuple[Tried, ...]:
    """Return what a node's peers must reach of it."""
    assert node.agent is not None
    if node.agent.connectivity is None:
        return ()
    host, _ = _address(node)
    name = (node.tls.server_name if node.tls else None) or ""
    return tuple(Tried(host, one.port, one.kind, name) for one in node.agent.connectivity.ports)
