"""What a doctor looks at: one adapter of a group, the HAProxy it means, and its files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lb_probe.advice.haproxy_file import ConfigFile, Section
from lb_probe.advice.haproxy_running import Running, Server
from lb_probe.config.model import GroupConfig, HaproxyAdapter, NodeConfig

NONE = "none"
# lb-probe leaves its own name beside a key, as `KEY:owner`.
OWNER = ":owner"


@dataclass(frozen=True, slots=True)
class Case:
    """All that the rules may look at.

    Attributes:
        config: haproxy.cfg; None where it was not given.
        map_lines: Keys and values of the map file on this machine; None where it is not here.
        can_write: Whether this user may replace the map file; None where there is none here.
    """

    running: Running
    adapter: HaproxyAdapter
    group: GroupConfig
    config: ConfigFile | None = None
    map_lines: tuple[tuple[str, str], ...] | None = None
    can_write: bool | None = None

    @property
    def is_map(self) -> bool:
        """Whether the style is map."""
        return self.adapter.style == "map"

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that carry this group's traffic."""
        if not self.is_map:
            return self.adapter.backend
        return tuple(self.adapter.backend_prefix + v for v in self.adapter.nodes.values())

    @property
    def nodes(self) -> list[NodeConfig]:
        """The nodes that this adapter knows."""
        return [node for node in self.group.nodes if node.name in self.adapter.nodes]

    def servers_of(self, node: NodeConfig) -> list[Server]:
        """Return the running servers that stand for a node."""
        name = self.adapter.nodes[node.name]
        if self.is_map:
            return self.running.backend(self.adapter.backend_prefix + name)
        return [
            server
            for backend in self.adapter.backend
            for server in self.running.backend(backend)
            if server.name == name
        ]

    @property
    def servers(self) -> dict[str, list[Server]]:
        """The running servers of each node, by the node's name."""
        return {node.name: self.servers_of(node) for node in self.nodes}

    @property
    def ours(self) -> list[Server]:
        """Every running server in a backend of this group."""
        return [server for name in self.backends for server in self.running.backend(name)]

    @property
    def our_sections(self) -> list[Section]:
        """The backends of this group in haproxy.cfg."""
        found = self.config.proxies("backend") if self.config else ()
        return [section for section in found if section.name in self.backends]

    @property
    def socket_line(self) -> str:
        """The `stats socket` line that the adapter wants."""
        socket = self.adapter.socket
        where = socket if isinstance(socket, Path) else f"ipv4@{socket}"
        mode = " mode 660" if isinstance(socket, Path) else ""
        return f"stats socket {where}{mode} level admin"

    @property
    def entries(self) -> Mapping[str, list[str]]:
        """The values of each key of the running map that is no mark of lb-probe's."""
        found: dict[str, list[str]] = {}
        for key, value in self.running.maps.get(self.adapter.map_file or "") or ():
            found.setdefault(key, []).append(value)
        return found
