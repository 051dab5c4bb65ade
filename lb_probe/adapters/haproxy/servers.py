"""Style server: the nodes are servers of one backend, or of several with the same names.

Source: HAProxy management guide, "set server"; rules X2 (read back) and X3 (exactly one).
"""

from collections.abc import Hashable, Mapping, Sequence

from lb_probe.adapters.haproxy.adapter import TIMEOUT_S, Adapter
from lb_probe.adapters.haproxy.answers import Server, UnbelievableError
from lb_probe.adapters.haproxy.device import Device
from lb_probe.adapters.haproxy.reading import Need, Reading
from lb_probe.adapters.haproxy.wire import Address
from lb_probe.adapters.haproxy.words import checked, listed, printable, quoted
from lb_probe.core.model import Health, Seen
from lb_probe.ports import PublishError

State = dict[str, Server]  # by node, in one backend


class HaproxyServers(Adapter):
    """Backends whose servers are the nodes: one is `ready`, the others are in `maint`.

    Servers that the configuration marks `disabled` keep a restarted HAProxy closed until it is
    told; others are open by default until the next read back repairs them.

    Args:
        device: The HAProxy; an address makes one of its own.
        backends: One backend, or several that move together (443 and 9997), each with a server
            of the same name for each node.
        nodes: The server of each node.
        shutdown_sessions_after_s: Seconds after a publication until the sessions that other nodes
            still have are ended; None leaves them.

    Raises:
        ValueError: A name that HAProxy cannot have, no node, one server for two nodes, an
            address or a time that cannot be.
    """

    def __init__(
        self,
        name: str,
        device: Device | Address,
        backends: str | Sequence[str],
        nodes: Mapping[str, str],
        *,
        timeout_s: float = TIMEOUT_S,
        shutdown_sessions_after_s: float | None = None,
    ) -> None:
        super().__init__(
            name,
            device,
            {node: checked(f"server of {node}", server) for node, server in nodes.items()},
            timeout_s=timeout_s,
            shutdown_sessions_after_s=shutdown_sessions_after_s,
        )
        names = [backends] if isinstance(backends, str) else list(backends)
        self._backends = tuple(checked("backend", backend) for backend in names)
        if not self._backends or len(set(self._backends)) < len(self._backends):
            raise ValueError(f"backends are {names}; name each once, at least one")
        self.need = Need(backends=frozenset(self._backends))

    def commands(self, node: str) -> list[str]:
        """Return the one line that `publish(node)` would send.

        Raises:
            PublishError: The node is not mapped to a server.
        """
        self._known(node)
        return [self._line(frozenset({node}))]

    def _line(self, chosen: frozenset[str]) -> str:
        # Ready first: both serve for a millisecond, where the other order answers 503. `maint`
        # and not `drain`: clients with a cookie or a stick entry go on using a drained server.
        servers = sorted(self._nodes.items(), key=lambda item: item[0] not in chosen)
        states = [(server, "ready" if node in chosen else "maint") for node, server in servers]
        return ";".join(
            f"set server {backend}/{server} state {state}"
            for backend in self._backends
            for server, state in states
        )

    async def publish_all(self, nodes: frozenset[str]) -> None:
        """Make all of these ready and put the others in maintenance (policy active-active).

        Raises:
            Unreachable: No connection; nothing was sent.
            PublishError: Nobody is asked for, refused, or the outcome is unknown.
        """
        if not nodes:
            raise PublishError(f"{self._who}: found no node to publish; wanted one or more")
        await self._publish(nodes)

    def commands_all(self, nodes: frozenset[str]) -> list[str]:
        """Return the one line that `publish_all(nodes)` would send.

        Raises:
            PublishError: A node is not mapped to a server.
        """
        for node in nodes:
            self._known(node)
        return [self._line(nodes)]

    async def _carry_out(self, nodes: frozenset[str]) -> None:
        line = self._line(nodes)
        self._check(line, await self._send(line))

    def _servers_of(self, node: str) -> Sequence[tuple[str, str | None]]:
        return [(backend, self._nodes[node]) for backend in self._backends]

    def _state(self, reading: Reading) -> Hashable:
        return tuple(reading.rows(backend) for backend in self._backends)

    def _judge(self, reading: Reading) -> Seen:
        servers = {b: [Server.of(row) for row in reading.rows(b)] for b in self._backends}
        states = [self._by_node(b, found) for b, found in servers.items()]
        ready = {n: [state[n].is_ready for state in states] for n in self._nodes}
        chosen = tuple(node for node, each in ready.items() if any(each))
        only = chosen[0] if len(chosen) == 1 and all(ready[chosen[0]]) else None
        obstacles = [state[only].obstacle for state in states] if only else []
        said = [text for state in states for text in _problems(state)]
        said += [_stray(s.name) for found in servers.values() for s in found if self._is_stray(s)]
        return self._seen(
            reading,
            chosen,
            only,
            None if only is None else not any(obstacles),
            list(dict.fromkeys(said)),
            self._healths(reading, states),
        )

    def _by_node(self, backend: str, servers: Sequence[Server]) -> State:
        by_name = {server.name: server for server in servers}
        missing = [name for name in self._nodes.values() if name not in by_name]
        if missing or len(by_name) < len(servers):
            raise UnbelievableError(
                f"{backend} has the servers {quoted(' '.join(s.name for s in servers))};"
                f" wanted each of {listed(self._nodes.values())} once;"
                " compare `nodes` in probes.yaml with HAProxy's configuration"
            )
        return {node: by_name[name] for node, name in self._nodes.items()}

    def _is_stray(self, server: Server) -> bool:
        return server.is_ready and server.name not in self._nodes.values()

    def _healths(self, reading: Reading, states: Sequence[State]) -> dict[str, Health]:
        found = {n: self._health(reading, [state[n] for state in states]) for n in self._nodes}
        return {node: health for node, health in found.items() if health is not None}


def _problems(state: State) -> list[str]:
    chosen = [node for node, server in state.items() if server.is_ready]
    if not chosen:
        words = [f"{node} ({server.why_not_ready})" for node, server in state.items()]
        return [f"neither {' nor '.join(words)} is ready"]
    if len(chosen) > 1:
        return [f"{listed(chosen)} are {'both' if len(chosen) == 2 else 'all'} ready"]
    obstacle = state[chosen[0]].obstacle
    return [f"{chosen[0]} is ready but {obstacle}"] if obstacle else []


def _stray(name: str) -> str:
    # The table does not tell backup servers from others, so this is a warning and no verdict.
    return (
        f"server {printable(name, 80)} is ready and not in `nodes`:"
        " unless it is a backup server it gets traffic too"
    )
