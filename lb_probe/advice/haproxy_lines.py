"""The pieces of a haproxy.cfg that every style uses: addresses, ports, TLS words, comments."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lb_probe.config.address import Address
from lb_probe.config.model import GroupConfig, HaproxyAdapter, NodeConfig

# `[::]:443`, `192.0.2.1:443`, `*:443`, `:443` and a path: what follows `bind`.
_BIND = re.compile(r"[!-~]+:([0-9]{1,5})|:([0-9]{1,5})|/[!-~]+")
_FILE = re.compile(r"[A-Za-z0-9_./:@%+-]+")
_WIDTH = 98


@dataclass(frozen=True, slots=True)
class Choices:
    """What the group's own configuration does not say.

    Attributes:
        listen: Where clients arrive, as `bind` takes it, e.g. ":443"; one for each backend or key,
            or several for the only one. Empty: the Primary's port, or 443 where the url is an
            agent's.
        mode: "tcp" or "http"; None is http for nodes with http pages of their own, else tcp.
        certificate: PEM file with certificate and key: TLS ends at HAProxy and a second
            connection, verified, goes to the nodes. None passes TLS through.
        socket_group: System group whose members may open the socket; it must exist.
        cli_folder: Holds `server.pem` and `clients.pem` for a socket on the network.
    """

    listen: tuple[str, ...] = ()
    mode: str | None = None
    certificate: Path | None = None
    socket_group: str | None = None
    cli_folder: Path = Path("/etc/haproxy/lb-probe")


@dataclass(frozen=True, slots=True)
class Front:
    """One frontend and the backends behind it.

    Attributes:
        key: The key in the map (style map) or the backend's name (style server).
        port: Port of the first address; None where it listens on a path.
    """

    name: str
    key: str
    binds: tuple[str, ...]
    port: int | None


def fronts_of(group: GroupConfig, keys: Sequence[str], choices: Choices) -> list[Front]:
    """Return one frontend for each backend or key; several addresses belong to an only one.

    Raises:
        ValueError: As many addresses as backends were wanted, or one is no address.
    """
    first = group.nodes[0]
    listen = choices.listen or (f":{443 if first.agent else first.url.port}",)
    ports = [_port_of(bind) for bind in listen]
    if len(keys) == 1 and len(listen) > 1:
        return [Front(group.name, keys[0], listen, ports[0])]
    if len(keys) != len(listen):
        raise ValueError(
            f"found {len(keys)} backends or keys ({', '.join(keys)}) and {len(listen)} of --listen;"
            f" use one for each, in this order: {' '.join('--listen :PORT' for _ in keys)}"
        )
    names = [group.name, *(f"{group.name}-{number}" for number in range(2, len(keys) + 1))]
    return [Front(*front) for front in zip(names, keys, ((b,) for b in listen), ports, strict=True)]


def _port_of(bind: str) -> int | None:
    match = _BIND.fullmatch(bind)
    digits = match and (match[1] or match[2])
    if match is None or (digits and not 1 <= int(digits) <= 65535):
        raise ValueError(f"listen is {bind!r}; use what `bind` takes, e.g. :443 or 192.0.2.1:443")
    return int(digits) if digits else None


def bind_lines(front: Front, choices: Choices) -> list[str]:
    """Return the `bind` lines of a frontend."""
    tls = (
        f" ssl crt {checked_path(choices.certificate, 'certificate')}"
        if choices.certificate
        else ""
    )
    return [f"    bind {address}{tls}" for address in front.binds]


def own_port(node: NodeConfig, front: Front) -> int:
    """Return the port of the service on a node; the url of an agent's node is the agent's."""
    return front.port or 443 if node.agent else node.url.port


def server_words(
    node: NodeConfig, port: int, choices: Choices, adapter: HaproxyAdapter, *, check_port: int = 0
) -> str:
    """Return address and check of one server; port 0 is the port that the client came to."""
    tls = tls_words(node) if choices.certificate else ""
    where = f" port {check_port}" if check_port else ""
    times = f"inter {duration(adapter.check_interval_s)} fall 3 rise 2"
    return f"{address_of(node, port)}{tls} check{where} {times}"


def address_of(node: NodeConfig, port: int) -> str:
    """Return a server's address, without the port where that is 0."""
    host = f"[{node.url.host}]" if ":" in node.url.host else node.url.host
    return f"{host}:{port}" if port else host


def tls_words(node: NodeConfig) -> str:
    """Return how HAProxy connects to an https node: the certificate is the shared name's.

    Raises:
        ValueError: Only an address is known; HAProxy looks for names in certificates.
    """
    name = node.tls.server_name if node.tls and node.tls.server_name else node.url.host
    if Address(name, 443).ip is not None:
        raise ValueError(
            f"node {node.name} has no name for its certificate; give it"
            " tls: {server_name: NAME} in probes.yaml"
        )
    given = node.tls.ca_file if node.tls else None
    ca_file = checked_path(given, "ca_file") if given else "@system-ca"
    return f" ssl verify required ca-file {ca_file} sni str({name}) check-sni {name}"


def mapped(group: GroupConfig, adapter: HaproxyAdapter) -> list[tuple[NodeConfig, str]]:
    """Return the nodes that this adapter knows, each with its server or map value."""
    return [(node, adapter.nodes[node.name]) for node in group.nodes if node.name in adapter.nodes]


def mode_of(group: GroupConfig, choices: Choices) -> str:
    """Return `tcp` or `http`.

    Raises:
        ValueError: Another word was asked for.
    """
    if choices.mode is not None:
        if choices.mode not in {"tcp", "http"}:
            raise ValueError(f"mode is {choices.mode!r}; use tcp or http")
        return choices.mode
    is_http = all(node.url.scheme == "http" and node.agent is None for node in group.nodes)
    return "http" if is_http or choices.certificate else "tcp"


def check_why(choices: Choices) -> str:
    """Return why the check is what it is, for a comment."""
    kind = "TLS" if choices.certificate else "TCP"
    return (
        f"The check is a plain {kind} connection (`option tcp-check`, whatever `defaults` say). Not"
        " `option httpchk` on a health page: a"
        " standby's status page is not OK by design, so it would be held down until after it got"
        " the traffic, and its hastatus page changes the word when it is promoted."
        " And no `agent-check` and no `backup`: both choose a node by themselves."
    )


def duration(seconds: float) -> str:
    """Return a time as HAProxy and probes.yaml write it."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms"


def bind_of(place: Path | Address) -> str:
    """Return a place as `bind`, `-S` and `stats socket` take it."""
    if isinstance(place, Path):
        return checked_path(place, "socket")
    return f"ipv6@{place}" if ":" in place.host else f"ipv4@{place}"


def checked_path(path: Path | str, what: str) -> str:
    """Return a path that needs no quotes in haproxy.cfg.

    Raises:
        ValueError: It would need them.
    """
    if not _FILE.fullmatch(str(path)):
        raise ValueError(
            f"{what} is {str(path)!r}; HAProxy would need quotes: use letters, digits and _./:@%+-"
        )
    return str(path)


def comment(*paragraphs: str, indent: int = 0) -> list[str]:
    """Return paragraphs as lines of comment; one that begins with a space stays as it is."""
    mark = f"{'':{indent}}# "
    lines: list[str] = []
    for text in paragraphs:
        lines += (
            [f"{mark}{text}"]
            if text.startswith(" ")
            else textwrap.wrap(
                text,
                _WIDTH,
                initial_indent=mark,
                subsequent_indent=mark,
                break_long_words=False,
                break_on_hyphens=False,
            )
            or [mark.rstrip()]
        )
    return lines


def joined(blocks: Iterable[Iterable[str]]) -> str:
    """Return sections with a blank line between them."""
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
