"""probes.yaml as frozen values: what each key is for, its kind, its default.

A field is spelled in the file as here, without the unit: `interval_s` is `interval`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationInfo, field_validator

from lb_probe.config import values as v
from lb_probe.config.agent import CHECKS, AgentConfig
from lb_probe.config.frozen import Frozen as _Frozen
from lb_probe.config.frozen import key as _key
from lb_probe.config.notify import CHANNELS, Notify
from lb_probe.core import timing
from lb_probe.core.active_active import Pool
from lb_probe.core.model import Group, Node, Role
from lb_probe.core.witness import Witness


class Operator(_Frozen):
    """Somebody who may use the operator API over TCP."""

    name: v.Name = _key("a name, as the history shows it")
    role: Literal["viewer", "operator", "admin"] = _key("viewer, operator or admin")
    token_file: v.FilePath = _key("a file that holds the token, not readable by others")


class ApiTls(_Frozen):
    """How the operator API proves itself, and whom it lets connect."""

    cert_file: v.FilePath = _key("PEM file with our certificate and what leads to its authority")
    key_file: v.FilePath | None = _key("PEM file with its key; in `cert_file` when left out", None)
    client_ca_file: v.FilePath | None = _key(
        "PEM file; who connects must show a certificate of this authority", None
    )


class Api(_Frozen):
    """Where the operator API listens."""

    socket: v.SocketPath | None = _key(
        "UNIX socket; root and the service's user need no token", None
    )
    listen: v.HostPort | None = _key("address; off loopback only with tls", None)
    tls: ApiTls | None = _key("encrypts `listen`", None)
    operators: tuple[Operator, ...] = _key("who may use it over TCP", ())


class Metrics(_Frozen):
    """Where /metrics, /livez and /readyz are served."""

    listen: v.HostPort = _key('host:port, e.g. "127.0.0.1:9600"')


class Limits(_Frozen):
    """Ceilings over all groups."""

    failovers_per_minute: v.Count | None = _key("automatic failovers per minute; null is off", None)


class ProbeSettings(_Frozen):
    """How the pages of a group's nodes are probed; seconds."""

    interval_s: v.Duration = _key("between probes while the last one passed", "1s")
    recheck_s: v.Duration = _key("after a failed one, until `fall` or a pass", "250ms")
    timeout_s: v.Duration = _key("the whole attempt: name, connect, TLS, body", "1s")
    fall: v.Count = _key("failures in a row before a page counts as failed", 3)
    rise: v.Count = _key("passes in a row before a failed page counts as good", 2)
    max_age_s: v.Duration = _key("an older reading supports no decision", "3s")
    connection: Literal["fresh", "reuse"] = _key(
        "a new one for every probe, or a kept one", "fresh"
    )
    source: v.SourceAddress | None = _key("address of this machine to probe from", None)


class Defaults(_Frozen):
    """What groups inherit."""

    probe: ProbeSettings = _key("probe settings of every group", {})


class Promotion(_Frozen):
    """How the Secondary promotes itself: EPMM's own settings, for the race lint only; seconds."""

    interval_s: v.Duration = _key('a duration, e.g. "60s"')
    failures: v.Count = _key("a whole number, e.g. 3")
    recheck_s: v.Duration = _key('a duration, e.g. "10s"')
    timeout_s: v.Duration = _key('a duration, e.g. "5s"')
    on_failure: Literal["promote", "keep-in-standby"] = _key("what it then does", "promote")

    @property
    def times(self) -> timing.Promotion:
        """The same as the lints take it."""
        return timing.Promotion(
            interval_s=self.interval_s,
            failures=self.failures,
            recheck_s=self.recheck_s,
            timeout_s=self.timeout_s,
            promotes=self.on_failure == "promote",
        )


Gate = Literal["primary-serving", "single-primary", "synced", "same-version", "adapters-reachable"]


class Resume(_Frozen):
    """What must hold before an operator may resume traffic."""

    require: tuple[Gate, ...] = _key(
        "gates beyond those that always apply", ("primary-serving", "single-primary", "synced")
    )


class Tls(_Frozen):
    """How an https node proves itself."""

    server_name: v.Host | None = _key("name in the certificate; the url's host when left out", None)
    ca_file: v.FilePath | None = _key("PEM file; the system's authorities when left out", None)
    cert_file: v.FilePath | None = _key(
        "PEM file with our own certificate, for a node that asks", None
    )
    key_file: v.FilePath | None = _key("PEM file with its key, not readable by others", None)
    min_version: Literal["1.2", "1.3"] = _key("oldest TLS version that is spoken", "1.2")
    fingerprint: v.Fingerprint | None = _key("SHA-256 of the one certificate that is taken", None)
    insecure: bool = _key("true takes any certificate; only for a trial", False)


class NodeConfig(_Frozen):
    """One server that serves the two pages."""

    name: v.Name = _key("a name that is the only one in its group")
    role: Annotated[Role, Field(strict=False)] | None = _key(
        "primary or secondary; none in an active-active group", None
    )
    site: v.Name | None = _key("where it stands; shown only", None)
    url: v.NodeUrl = _key('scheme, host and port of the pages, e.g. "https://192.0.2.10"')
    tls: Tls | None = _key("for https", None)
    candidate: bool = _key("the one secondary automation may choose; the only one is", False)
    status_path: v.PagePath = _key("page that tells whether it serves", "/status/status.html")
    hastatus_path: v.PagePath = _key("page that tells its mode", "/hastatus.html")
    primary_accept_suffix: bool = _key("take status text with more behind OK", False)
    expect_status: v.HttpStatus | None = _key(
        "active-active: HTTP status that passes; 200 where only `expect` is given", None
    )
    expect: v.Text | None = _key("active-active: text that must be in the body", None)
    agent: AgentConfig | None = _key("only where lb-probe serves the pages", None)


_TYPE = "haproxy, agent-check, dns, f5-ltm, f5-gtm or command"


def _local(data: dict[str, Any]) -> Path | None:
    """Return the map file where the prober can write it: on the same machine, so to all looks."""
    socket, map_file = data.get("socket"), data.get("map_file")
    is_here = isinstance(socket, Path) and map_file is not None and map_file.startswith("/")
    return Path(map_file) if is_here and map_file else None


class HaproxyAdapter(_Frozen):
    """One HAProxy, told over its runtime socket."""

    type: Literal["haproxy"] = _key(_TYPE)
    name: v.Name = _key("a name that is the only one in its group")
    socket: v.HaproxySocket = _key('a path or host:port, e.g. "/run/haproxy/admin.sock"')
    master: v.HaproxySocket | None = _key("its master socket, to see workers that leave", None)
    tls: Tls | None = _key("for a TCP socket behind a `bind ... ssl`", None)
    map_file: v.MapFile | None = _key("the map, spelled as in HAProxy's configuration", None)
    style: Literal["map", "server"] = Field(
        default_factory=lambda data: "map" if data.get("map_file") else "server",
        validate_default=False,
        description="map where `map_file` is given (recommended), else server",
    )
    key: v.Names = _key(
        "style map: the key or keys whose value is the assignment", (), validate_default=False
    )
    local_file: v.LocalFile = Field(
        default_factory=_local,
        validate_default=False,
        description="where the prober can write the map; none where it cannot;"
        " `map_file` where `socket` is a path",
    )
    backend_prefix: v.Prefix = _key("style map: what stands before the value", "pool_")
    backend: v.Names = _key("the backend whose servers are set", (), validate_default=False)
    nodes: dict[str, v.Name] = _key("a mapping of our node names to HAProxy's server names")
    shutdown_sessions_s: v.After | None = _key("end the old node's sessions after a move", None)
    witness: Literal["off", "network", "all"] = _key(
        "failures of the Primary that HAProxy's own check may contradict", "network"
    )
    check_interval_s: v.Duration = _key("`inter` of HAProxy's own checks, for the witness", "2s")

    @property
    def places(self) -> tuple[str, ...]:
        """What it moves: its device, and each key or backend there."""
        if self.style == "map":
            return tuple(f"{self.socket} {self.map_file}[{key}]" for key in self.key)
        return tuple(f"{self.socket} {backend}" for backend in self.backend)


class AgentCheckAdapter(_Frozen):
    """A listener that HAProxy asks by `agent-check`, where its socket cannot be reached."""

    type: Literal["agent-check"] = _key(_TYPE)
    name: v.Name = _key("a name that is the only one in its group")
    listen: v.HostPort = _key('host:port, e.g. "0.0.0.0:9700"')
    nodes: dict[str, v.Name] = _key("a mapping of our node names to words of `agent-send`")

    @property
    def places(self) -> tuple[str, ...]:
        """Where it is asked."""
        return (f"agent-check {self.listen}",)


class Tsig(_Frozen):
    """The key that updates are signed with."""

    name: v.DnsName = _key("the key's name, as the server knows it")
    algorithm: Literal["hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"] = _key(
        "as the server knows it", "hmac-sha256"
    )
    key_file: v.FilePath = _key("a file that holds the secret, not readable by others")


class DnsAdapter(_Frozen):
    """A name that points at the node with the traffic, set by dynamic updates."""

    type: Literal["dns"] = _key(_TYPE)
    name: v.Name = _key("a name that is the only one in its group")
    servers: tuple[v.DnsServer, ...] = _key(
        'a list of addresses of authoritative servers, the primary first, e.g. ["192.0.2.53"]'
    )
    zone: v.DnsName = _key("the zone, e.g. example.com")
    record: v.DnsName = _key("the name that moves, e.g. epmm.example.com")
    cname: bool = _key("true for a CNAME instead of addresses", False)
    ttl_s: v.Ttl = _key("how long resolvers may keep an answer", "30s")
    nodes: dict[str, v.RecordValues] = _key("a mapping of our node names to their addresses")
    tsig: Tsig = _key("the key, as name, algorithm and key_file")

    @property
    def places(self) -> tuple[str, ...]:
        """What it moves."""
        return (f"dns {self.record} at {self.servers[0]}",)


class CommandAdapter(_Frozen):
    """Programs of the operator's own that move traffic and say where it goes."""

    type: Literal["command"] = _key(_TYPE)
    name: v.Name = _key("a name that is the only one in its group")
    argv: v.Argv = _key('a list, program first, that publishes, e.g. ["/opt/lb", "move"]')
    read: v.Argv = _key(
        'a list, program first, that says what is in force, e.g. ["/opt/lb", "read"]'
    )
    timeout_s: v.Duration = _key("each run as a whole", "5s")
    poll_s: v.Duration = _key("between two readings while all is well", "5s")
    nodes: dict[str, v.Name] = _key("a mapping of our node names to words of the programs")

    @property
    def places(self) -> tuple[str, ...]:
        """What it moves."""
        return (f"command {self.name}",)


class _F5(_Frozen):
    name: v.Name = _key("a name that is the only one in its group")
    hosts: tuple[v.F5Host, ...] = _key(
        'a list with every unit, e.g. ["https://10.0.0.5", "https://10.0.0.6"]'
    )
    tls: Tls | None = _key("how the units prove themselves", None)
    username: v.F5User = _key("an account on the units, for lb-probe alone")
    password_file: v.FilePath = _key("a file that holds its password, not readable by others")
    pool: v.F5Pool = _key("the pool's full path, e.g. /Common/epmm")
    timeout_s: v.Duration = _key("each request; a save and a sync may take longer", "5s")
    poll_s: v.Duration = _key("between two readings while all is well", "800ms")


class F5LtmAdapter(_F5):
    """A pool of BIG-IP LTM: one member enabled, all others forced offline."""

    type: Literal["f5-ltm"] = _key(_TYPE)
    nodes: dict[str, v.LtmMember] = _key("a mapping of our node names to members of the pool")
    device_group: v.DeviceGroup | None = _key(
        "the group that a move is synced to; none where the units sync by themselves", None
    )

    @property
    def places(self) -> tuple[str, ...]:
        """What it moves."""
        return (f"f5-ltm {self.pool} at {self.hosts[0].address}",)


class F5GtmAdapter(_F5):
    """A pool of BIG-IP DNS (GTM): one member enabled, all others disabled."""

    type: Literal["f5-gtm"] = _key(_TYPE)
    pool_type: Literal["a", "aaaa"] = _key("kind of the pool", "a")
    nodes: dict[str, v.GtmMember] = _key(
        "a mapping of our node names to members of the pool; nodes of one site may share one"
    )

    @property
    def places(self) -> tuple[str, ...]:
        """What it moves."""
        return (f"f5-gtm {self.pool_type} {self.pool} at {self.hosts[0].address}",)


F5Adapter = F5LtmAdapter | F5GtmAdapter
Adapter = Annotated[
    HaproxyAdapter | AgentCheckAdapter | DnsAdapter | F5LtmAdapter | F5GtmAdapter | CommandAdapter,
    Field(discriminator="type"),
]
# The models of a list whose items say their type, by the list's key.
TYPES: dict[str, dict[str, type[BaseModel]]] = {
    "checks": CHECKS,
    "adapters": {
        "haproxy": HaproxyAdapter,
        "agent-check": AgentCheckAdapter,
        "dns": DnsAdapter,
        "f5-ltm": F5LtmAdapter,
        "f5-gtm": F5GtmAdapter,
        "command": CommandAdapter,
    },
    "channels": CHANNELS,
}


def _is_global(adapter: Adapter, names: frozenset[str]) -> bool:
    servers = list(adapter.nodes.values())
    return names <= adapter.nodes.keys() and len(set(servers)) < len(servers)


class GroupConfig(_Frozen):
    """The nodes that share one service name, and the load balancers in front of them."""

    name: v.Name = _key("a name that is the only one in the file")
    was: v.Name | None = _key("its name before it was renamed", None)
    policy: Literal["manual-resume", "active-active"] = _key(
        "traffic comes back by hand only, or every healthy node has it", "manual-resume"
    )
    act: bool = _key("true to publish, or false to observe only; it has no default")
    confirm_s: v.ZeroDuration = _key("the Primary must have failed this long", "10s")
    serving_deadline_s: v.Duration = _key("a node may take to serve", "60s")
    drain_deadline_s: v.ZeroDuration = _key(
        "a switchover closes all load balancers this long at most for what is under way", "5s"
    )
    panic_threshold: v.Percent = _key("active-active: this share of the nodes stays in", "50%")
    probe: ProbeSettings = _key("probe settings of this group", {})
    promotion: Promotion | None = _key("how the Secondary promotes itself", None)
    resume: Resume = _key("what resume demands", {})
    service_ports: tuple[v.Port, ...] = _key(
        "more ports of its nodes that clients use, e.g. 9997; `check` tries them", ()
    )
    closed_ports: tuple[v.Port, ...] = _key(
        "ports of its nodes that the prober must not reach; `check` tries them", (8443, 22)
    )
    nodes: tuple[NodeConfig, ...] = _key("a list with one primary and at least one secondary")
    adapters: tuple[Adapter, ...] = _key("load balancers that carry the assignment", ())

    @field_validator("nodes")
    @classmethod
    def _with_candidate(cls, nodes: tuple[NodeConfig, ...]) -> tuple[NodeConfig, ...]:
        secondaries = [node for node in nodes if node.role is Role.SECONDARY]
        if len(secondaries) != 1:
            return nodes
        return tuple(n.model_copy(update={"candidate": n is secondaries[0]}) for n in nodes)

    def partner_of(self, node: NodeConfig) -> NodeConfig | None:
        """Return the peer that a node's agent means: as configured, the Primary, its candidate."""
        given = node.agent.peer if node.agent else None
        for other in self.nodes:
            if given is not None:
                is_it = other.name == given
            elif node.role is Role.PRIMARY:
                is_it = other.candidate
            else:
                is_it = other.role is Role.PRIMARY
            if is_it and other is not node:
                return other
        return None

    @property
    def _own_promotion(self) -> timing.Promotion | None:
        """How the candidate promotes itself, as the file says or as its agent does it."""
        if self.promotion is not None:
            return self.promotion.times
        agents = [node.agent for node in self.nodes if node.candidate and node.agent]
        beats = [agent.heartbeat for agent in agents if agent.heartbeat]
        return beats[0].times if beats else None

    @property
    def times(self) -> timing.Timing:
        """The group's times, for lints and explanations."""
        probe = self.probe
        return timing.Timing(
            interval_s=probe.interval_s,
            recheck_s=probe.recheck_s,
            timeout_s=probe.timeout_s,
            fall=probe.fall,
            rise=probe.rise,
            max_age_s=probe.max_age_s,
            confirm_s=self.confirm_s,
            serving_deadline_s=self.serving_deadline_s,
            promotion=self._own_promotion,
            ttl_s=max((a.ttl_s for a in self.adapters if isinstance(a, DnsAdapter)), default=None),
            has_adapters=self.act and bool(self.adapters),
        )

    @property
    def witnesses(self) -> tuple[Witness, ...]:
        """The load balancers that may contradict a failure of the Primary."""
        return tuple(
            Witness(adapter.name, adapter.witness, adapter.check_interval_s)
            for adapter in self.adapters
            if isinstance(adapter, HaproxyAdapter) and adapter.witness != "off"
        )

    @property
    def shape(self) -> Group:
        """The group as the core knows it."""
        return Group(
            name=self.name,
            nodes=tuple(Node(n.name, n.role, n.candidate) for n in self.nodes if n.role),
            act=self.act,
            adapters=tuple(adapter.name for adapter in self.adapters),
            fall=self.probe.fall,
            rise=self.probe.rise,
            confirm_s=self.confirm_s,
            max_age_s=self.probe.max_age_s,
            serving_deadline_s=self.serving_deadline_s,
            require=self.resume.require,
        )

    @property
    def pool(self) -> Pool:
        """The group as the core knows it where its policy is active-active."""
        return Pool(
            name=self.name,
            nodes=tuple(node.name for node in self.nodes),
            act=self.act,
            fall=self.probe.fall,
            rise=self.probe.rise,
            max_age_s=self.probe.max_age_s,
            panic_percent=self.panic_threshold,
            adapters=tuple(adapter.name for adapter in self.adapters),
        )

    @property
    def elsewhere(self) -> dict[str, frozenset[str]]:
        """For each adapter of a local tier, the nodes that only a global one brings traffic to.

        A global tier is an adapter that knows every node and has one server for several of them:
        a site. Without one, a node that an adapter does not know is its fault, not another's.
        """
        names = frozenset(node.name for node in self.nodes)
        if not any(_is_global(adapter, names) for adapter in self.adapters):
            return {}
        lacking = {adapter.name: names - adapter.nodes.keys() for adapter in self.adapters}
        return {name: nodes for name, nodes in lacking.items() if nodes}

    @property
    def is_pool(self) -> bool:
        """Whether every healthy node of it has traffic."""
        return self.policy == "active-active"

    @property
    def fingerprints(self) -> dict[str, str]:
        """For each node, in lines `place=server`, where traffic for it really goes."""
        prints = {node.name: [f"url={node.url.address}"] for node in self.nodes}
        for adapter in self.adapters:
            for name, server in adapter.nodes.items():
                said = server if isinstance(server, str) else " ".join(server)
                prints[name] += [f"{place}={said}" for place in adapter.places]
        return {name: "\n".join(lines) for name, lines in prints.items()}


class Config(_Frozen):
    """Everything probes.yaml says, defaults filled in, paths absolute."""

    version: Literal[1] = _key("1")
    store_path: v.StorePath = _key(
        "where every group's assignment is kept",
        "sqlite:/var/lib/lb-probe/state.db",
        alias="store",
    )
    api: Api | None = _key("operator API", None)
    metrics: Metrics | None = _key("metrics and health of the prober", None)
    reference_targets: tuple[v.Target, ...] = _key(
        "should always answer: all silent means it is us", ()
    )
    limits: Limits = _key("ceilings over all groups", {})
    notify: Notify | None = _key("who is told what, and how", None)
    defaults: Defaults = _key("what groups inherit", {})
    groups: tuple[GroupConfig, ...] = _key("a list of groups, at least one")
    _path: Path = PrivateAttr(default=Path("probes.yaml"))

    @field_validator("groups")
    @classmethod
    def _inherit(
        cls, groups: tuple[GroupConfig, ...], info: ValidationInfo
    ) -> tuple[GroupConfig, ...]:
        if "defaults" not in info.data:
            return groups  # its fault ends the reading
        defaults: ProbeSettings = info.data["defaults"].probe
        own = [{name: getattr(g.probe, name) for name in g.probe.model_fields_set} for g in groups]
        return tuple(
            group.model_copy(update={"probe": defaults.model_copy(update=said)})
            for group, said in zip(groups, own, strict=True)
        )

    def model_post_init(self, context: Any, /) -> None:
        """Remember the file's path as it was given."""
        self._path = (context or {}).get("path", self._path)

    @property
    def path(self) -> Path:
        """The file, as it was given to `load`."""
        return self._path
