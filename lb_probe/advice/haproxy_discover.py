"""`lb-probe init --from-haproxy SOCKET`: a first probes.yaml, read off a running HAProxy.

Every backend with two servers or more becomes a group with `act: false`, and every key of a map
that names backends becomes one in style map. It loads as it is and changes nothing; what only
people know (who is the primary, the name in the certificate) stands beside it as a comment.
"""

import ipaddress
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lb_probe.advice.haproxy_case import NONE, OWNER
from lb_probe.advice.haproxy_running import Asks, Running, Server, read_running
from lb_probe.config.address import Address
from lb_probe.ports import NotFound

_PREFIX = "pool_"
_TLS_PORTS = frozenset({443, 8443})
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MAP_NAME = re.compile(r"[!-:<-\[\]-~]{1,255}")


@dataclass(frozen=True, slots=True)
class _Group:
    """One group to be.

    Attributes:
        nodes: Name of the node and value or server it stands for, with its running server; the
            presumed primary first.
        lines: The adapter's own keys.
        doubts: What a human must decide, as sentences.
    """

    name: str
    nodes: tuple[tuple[str, Server], ...]
    lines: tuple[str, ...]
    doubts: tuple[str, ...]


async def probes_yaml(api: Asks, place: Path | Address) -> str:
    """Return the text of a first probes.yaml for the HAProxy at one socket.

    Args:
        place: The socket as probes.yaml names it.

    Raises:
        Unreachable: No connection.
        PublishError: An answer that is none of HAProxy's.
        NotFound: It has nothing with two servers.
    """
    running = await read_running(api)
    skipped: list[str] = []
    in_maps = list(_map_groups(running, skipped))
    taken = {server.backend for group in in_maps for _, server in group.nodes}
    groups = _unique([*in_maps, *_server_groups(running, taken, skipped)])
    if not groups:
        raise NotFound(
            f"HAProxy at {api.where} has no backend with two servers that have an address, and no"
            " map that names two backends; `lb-probe haproxy config` prints one to start with"
            + "".join(f"; {reason}" for reason in skipped)
        )
    name = _name(running.info.get("node", ""), "haproxy")
    head = [
        f"# Read from HAProxy {_plain(running.info.get('Version', '?'))} at {place}. Nothing is"
        " changed while `act` is false.",
        "# Go through every `decide`, then: lb-probe check; lb-probe haproxy doctor GROUP.",
        *(f"# left out: {reason}" for reason in skipped),
        "version: 1",
        "groups:",
    ]
    return "\n".join([*head, *(line for g in groups for line in _yaml(g, name, place))]) + "\n"


# ------------------------------------------------------------------ style map
def _map_groups(running: Running, skipped: list[str]) -> Iterator[_Group]:
    """Yield a group for every key of a map whose value leads to backends."""
    for file, entries in running.maps.items():
        values: dict[str, str] = {}
        for key, value in entries or ():
            if not key.endswith(OWNER):
                values.setdefault(key, value)  # HAProxy follows the first line of a key
        leads = {key: _lead(running, value) for key, value in values.items()}
        for key, lead in leads.items():
            if lead is None:
                continue
            rivals = {values[other] for other, its in leads.items() if its == lead}
            group = _map_group(file, key, values[key], lead, is_routed=len(rivals) > 1)
            if isinstance(group, str):
                skipped.append(f"key {_plain(key)} of {_plain(file)}: {group}")
            else:
                yield group


def _map_group(file: str, key: str, value: str, lead: "_Lead", *, is_routed: bool) -> _Group | str:
    """Return the group of one key, or why it is none."""
    prefix, backends = lead
    if is_routed:
        return "other keys lead to others of its backends, so it is no service with one node"
    if not _NAME.fullmatch(key) or not _MAP_NAME.fullmatch(file):
        return "lb-probe cannot write such a key or file name"
    nodes, doubts = _ordered([(name.removeprefix(prefix), s) for name, s in backends], value)
    if (why := _unusable(nodes)) is not None:
        return why
    all_of = f"all backends {prefix}* with one server became nodes: remove what is no node of it"
    return _Group(
        name=_name(key, "service"),
        nodes=nodes,
        lines=(
            "style: map",
            f"map_file: {_quoted(file)}",
            f"key: {_quoted(key)}",
            f"backend_prefix: {_quoted(prefix)}",
        ),
        doubts=(*doubts, all_of),
    )


_Lead = tuple[str, tuple[tuple[str, Server], ...]]


def _lead(running: Running, value: str) -> _Lead | None:
    """Return prefix and backends that a map's value leads to; None where it is less than two."""
    prefix = _prefix(running, value)
    pools = () if prefix is None else tuple(_pools(running, prefix, value))
    return None if prefix is None or len(pools) < 2 else (prefix, pools)


def _prefix(running: Running, value: str) -> str | None:
    """Return what stands before a value in a backend's name; None where it names no backend."""
    if value == NONE:
        return _PREFIX
    found = [name.removesuffix(value) for name in running.backends if name.endswith(value)]
    return min(found, key=len) if found and value else None


def _pools(running: Running, prefix: str, value: str) -> list[tuple[str, Server]]:
    """Return the backends of one server that share a prefix, or without one a stem."""
    stem = prefix or re.sub(r"[^_.:-]*$", "", value)
    return [
        (name, servers[0])
        for name, servers in running.backends.items()
        if len(servers) == 1 and stem and name.startswith(stem) and name != prefix
    ]


# ------------------------------------------------------------------ style server
def _server_groups(running: Running, taken: set[str], skipped: list[str]) -> Iterator[_Group]:
    """Yield a group for every other backend with two servers or more."""
    for backend, servers in running.backends.items():
        if len(servers) < 2 or backend in taken:
            continue
        nodes, doubts = _ordered([(server.name, server) for server in servers], None)
        why = _unusable(nodes)
        if why is not None or not _NAME.fullmatch(backend):
            skipped.append(f"backend {_plain(backend)}: {why or 'its name is too long'}")
            continue
        ready = [server for _, server in nodes if server.is_ready and not server.is_backup]
        if len(ready) > 1:
            doubts += (
                f"{len(ready)} servers get traffic today: if they share the load for good, delete"
                " this group or say `policy: active-active`",
            )
        if any(server.is_backup for server in servers):
            doubts += ("remove `backup` in haproxy.cfg: it goes back by itself",)
        yield _Group(
            name=_name(backend, "service"),
            nodes=nodes,
            lines=("style: server", f"backend: {_quoted(backend)}"),
            doubts=doubts,
        )


# ------------------------------------------------------------------ nodes
def _ordered(
    nodes: Sequence[tuple[str, Server]], current: str | None
) -> tuple[tuple[tuple[str, Server], ...], tuple[str, ...]]:
    """Return the nodes with the presumed primary first, and why it is presumed.

    Args:
        current: The map's value; None without a map.
    """
    regular = [n for n in nodes if not n[1].is_backup]
    ready = [n for n in regular if n[1].is_ready]
    named = [n for n in nodes if n[0] == current]
    if named:
        first, why = named[0], "the map names it now"
    elif len(regular) == 1:
        first, why = regular[0], "all others are backup"
    elif len(ready) == 1:
        first, why = ready[0], "it alone is ready now"
    else:
        first, why = (
            max(nodes, key=lambda n: n[1].sessions),
            "it had the most sessions, or is first",
        )
    rest = [node for node in nodes if node is not first]
    doubts = [f"is {_plain(first[0])} the primary? It is taken for it because {why}"]
    if len(rest) > 1:
        doubts.append(f"is {_plain(rest[0][0])} the one that automation may move to (candidate)?")
    return (first, *rest), tuple(doubts)


def _unusable(nodes: Sequence[tuple[str, Server]]) -> str | None:
    """Return why these cannot be nodes."""
    for name, server in nodes:
        if not _NAME.fullmatch(name):
            return f"the name {_plain(name)} is too long"
        if (why := _no_address(server)) is not None:
            return f"server {name} {why}"
    places = [(server.address, _port(server)) for _, server in nodes]
    return "two servers have one address" if len(set(places)) < len(places) else None


def _no_address(server: Server) -> str | None:
    try:
        address = ipaddress.ip_address(server.address)
    except ValueError:
        return "has no IP address now"
    if address.is_link_local or address.is_unspecified or server.address == "fd00:ec2::254":
        return f"has the address {address}, which is not probed"
    return None


def _port(server: Server) -> int:
    # Port 0: the port that the client came to.
    return server.port if 0 < server.port < 65536 else 443


def _url(server: Server) -> str:
    port = _port(server)
    scheme = "https" if server.uses_tls or port in _TLS_PORTS else "http"
    return f"{scheme}://{Address(server.address, port)}"


# ------------------------------------------------------------------ text
def _yaml(group: _Group, adapter: str, place: Path | Address) -> Iterator[str]:
    yield f"  - name: {_quoted(group.name)}"
    yield "    act: false                # observe only; true when you trust it"
    yield from (f"    # decide: {doubt}" for doubt in group.doubts)
    yield "    # decide: does each url lead to the two pages (scheme and port)? https nodes want"
    yield "    #   tls: {server_name: NAME-IN-THE-CERTIFICATE, ca_file: FILE}"
    yield "    nodes:"
    for index, (name, server) in enumerate(group.nodes):
        role = "secondary" if index else "primary"
        chosen = ", candidate: true" if index == 1 and len(group.nodes) > 2 else ""
        url = _quoted(_url(server))
        yield f"      - {{name: {_quoted(name)}, role: {role}, url: {url}{chosen}}}"
    yield "    adapters:"
    yield "      - type: haproxy"
    yield f"        name: {_quoted(adapter)}"
    yield f"        socket: {_quoted(str(place))}"
    yield from (f"        {line}" for line in group.lines)
    said = ", ".join(f"{_quoted(name)}: {_quoted(name)}" for name, _ in group.nodes)
    yield f"        nodes: {{{said}}}"


def _unique(groups: Sequence[_Group]) -> list[_Group]:
    """Give each group a name of its own."""
    used: dict[str, int] = {}
    found = []
    for group in groups:
        count = used[group.name] = used.get(group.name, 0) + 1
        name = group.name if count == 1 else f"{group.name[:120]}-{count}"
        while count > 1 and name in used:
            count += 1
            name = f"{group.name[:120]}-{count}"
        used.setdefault(name, 1)
        found.append(_Group(name, group.nodes, group.lines, group.doubts))
    return found


def _name(text: str, otherwise: str) -> str:
    """Return text as a name: other characters become `-`."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "-", text)[:128].strip("-") or otherwise


def _quoted(text: str) -> str:
    # JSON's quotes are YAML's, and keep `no`, `on` and numbers the text they are.
    return json.dumps(text)


def _plain(text: str) -> str:
    """Return a stranger's word for a comment."""
    return "".join(char if char.isprintable() else "?" for char in text[:80])
