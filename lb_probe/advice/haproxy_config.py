"""`lb-probe haproxy config GROUP`: the HAProxy configuration to paste, complete, with its reasons.

Two things are kept in everything printed here:

* Closed until told. A HAProxy that has just started knows nothing of a failover: a map that says
  `none`, or servers that are `disabled`, send nobody anywhere before lb-probe has spoken.
* One opinion. Nothing here chooses a node by itself (`backup`, stick-tables, `agent-check`), and
  no check asks for more than a connection: the pages are lb-probe's to judge.

Source: HAProxy configuration manual, "use_backend", "map", "disabled"; rules X2, X3, X18.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from lb_probe.advice.haproxy_lines import (
    Choices,
    bind_lines,
    bind_of,
    check_why,
    checked_path,
    comment,
    duration,
    fronts_of,
    joined,
    mapped,
    mode_of,
    own_port,
    server_words,
)
from lb_probe.config.model import GroupConfig, HaproxyAdapter

# Where the UNIX socket stands when probes.yaml names an address on the network in front of it.
LOCAL_SOCKET = Path("/run/haproxy/admin.sock")
_MASTER = Path("/run/haproxy/master.sock")


def config_text(group: GroupConfig, adapter: HaproxyAdapter, choices: Choices | None = None) -> str:
    """Return a haproxy.cfg for one adapter of a group; what is not HAProxy's is in comments.

    Raises:
        ValueError: The group cannot be written down so; says what was found and what to do.
    """
    choices = choices or Choices()
    sections = _map_sections if adapter.style == "map" else _server_sections
    return joined(
        [
            _steps(group, adapter),
            _global(adapter, choices),
            *_remote(adapter, choices),
            *sections(group, adapter, choices),
        ]
    )


def map_text(adapter: HaproxyAdapter) -> str:
    """Return the map file to start with: every key says `none`, so nobody is sent anywhere."""
    return "".join(f"{key} none\n" for key in adapter.key)


# ------------------------------------------------------------------ probes.yaml
def adapter_yaml(adapter: HaproxyAdapter) -> str:
    """Return the entry of `adapters:` in probes.yaml, one key a line."""
    lines = [
        f"- type: {adapter.type}",
        f'name: "{adapter.name}"',
        f"style: {adapter.style}",
        f'socket: "{adapter.socket}"',
    ]
    lines += [f'master: "{adapter.master}"'] if adapter.master else []
    lines += _tls_yaml(adapter) + _style_yaml(adapter)
    if adapter.shutdown_sessions_s is not None:
        lines.append(f"shutdown_sessions: after {duration(adapter.shutdown_sessions_s)}")
    if adapter.witness != "network":
        lines.append(f'witness: "{adapter.witness}"')
    nodes = ", ".join(f'"{node}": "{server}"' for node, server in adapter.nodes.items())
    return "\n  ".join([*lines, f"nodes: {{{nodes}}}"]) + "\n"


def _style_yaml(adapter: HaproxyAdapter) -> list[str]:
    if adapter.style == "server":
        return [f"backend: {_names(adapter.backend)}"]
    local = "none" if adapter.local_file is None else adapter.local_file
    return [
        f'map_file: "{adapter.map_file}"',
        f"key: {_names(adapter.key)}",
        f'backend_prefix: "{adapter.backend_prefix}"',
        f'local_file: "{local}"',
    ]


def _tls_yaml(adapter: HaproxyAdapter) -> list[str]:
    if adapter.tls is None:
        return []
    said = adapter.tls.model_dump(include={"server_name", "ca_file", "cert_file", "key_file"})
    return ["tls:", *(f'  {key}: "{value}"' for key, value in said.items() if value)]


def _names(names: tuple[str, ...]) -> str:
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"


# ------------------------------------------------------------------ comments on top
def _steps(group: GroupConfig, adapter: HaproxyAdapter) -> list[str]:
    entry = adapter_yaml(adapter).rstrip("\n").split("\n")
    place = bind_of(adapter.master or _MASTER)
    says = "" if adapter.master else f' Then say `master: "{_MASTER}"` in probes.yaml.'
    return comment(
        f"Group {group.name}, adapter {adapter.name}, style {adapter.style}."
        " `haproxy -c -f FILE` checks this file. Nobody is sent anywhere before lb-probe says so.",
        *(["", *_map_steps(adapter)] if adapter.style == "map" else []),
        "",
        "The master socket, which shows processes that a reload left behind, is no line here but an"
        f" option of the program.{says}",
        f"  haproxy -W -S {place},mode,660,level,admin -f FILE",
        "",
        "The entry of `adapters:` in probes.yaml:",
        *(f"  {line}" for line in entry),
    )


def _map_steps(adapter: HaproxyAdapter) -> list[str]:
    path = _map_file(adapter)
    folder, name = shlex.quote(str(Path(path).parent)), shlex.quote(path)
    keys = " ".join(shlex.quote(key) for key in adapter.key)
    fill = f"  printf '%s none\\n' {keys} > {name}; chmod 0644 {name}"
    if adapter.local_file is None:
        return [
            "First make the map: HAProxy does not start without it. lb-probe cannot write this file"
            " and it says `none` for ever: a HAProxy that starts is closed until it has been told.",
            f"  install -d -m 0755 {folder}",
            fill,
        ]
    seen_as = "" if str(adapter.local_file) == path else f" as {adapter.local_file}"
    return [
        "First make the map: HAProxy does not start without it. lb-probe writes every move into it"
        f"{seen_as}, so a HAProxy that starts goes on where it was. It renames a new file over the"
        " old one, so the prober's user must own the folder.",
        f"  install -d -o lb-probe -m 0755 {folder}",
        fill,
        f"  chown lb-probe {name}",
    ]


def _map_file(adapter: HaproxyAdapter) -> str:
    if adapter.map_file is None:
        raise ValueError(f"adapter {adapter.name} has no map_file; add it to probes.yaml")
    return checked_path(adapter.map_file, "map_file")


# ------------------------------------------------------------------ the socket
def _global(adapter: HaproxyAdapter, choices: Choices) -> list[str]:
    if not isinstance(adapter.socket, Path) and adapter.socket.is_loopback:
        why = "No password and no TLS: every user of this machine may move the traffic."
        lines = [
            *comment(why, indent=4),
            f"    stats socket {bind_of(adapter.socket)} level admin",
        ]
    else:
        path = adapter.socket if isinstance(adapter.socket, Path) else LOCAL_SOCKET
        lines = _socket_lines(path, choices)
    return [
        "global",
        *lines,
        *comment("10 by default, for all who ask at one time; the 11th just hangs.", indent=4),
        "    stats maxconn 50",
        *comment(
            "A reload leaves the old process with its connections: nobody can move them, only this"
            " ends them.",
            indent=4,
        ),
        "    hard-stop-after 60s",
    ]


def _socket_lines(path: Path, choices: Choices) -> list[str]:
    line = f"    stats socket {checked_path(path, 'socket')} mode 660 level admin"
    if choices.socket_group:
        return [f"{line} group {choices.socket_group}"]
    why = (
        "As it stands only root may open it. When the system group lb-probe exists, end the line"
        " with `group lb-probe`; the prober's user must be a member."
    )
    return [*comment(why, indent=4), line]


def _remote(adapter: HaproxyAdapter, choices: Choices) -> Iterator[list[str]]:
    """Yield the listener in front of the UNIX socket, for a prober on another machine."""
    if isinstance(adapter.socket, Path) or adapter.socket.is_loopback:
        return
    bind = f"    bind {bind_of(adapter.socket)}"
    if adapter.tls is not None:
        server, clients = (choices.cli_folder / f"{name}.pem" for name in ("server", "clients"))
        bind += f" ssl crt {server} ca-file {clients} verify required"
        why = (
            "The runtime socket for a prober on another machine. TLS stands in front, because `ssl`"
            " on a `stats socket` line is ignored without a word. Only a client with a certificate"
            f" of {clients.name} comes in. With `chroot DIR` the path in `server` is looked up"
            " inside DIR: put the socket there."
        )
    else:
        why = (
            "DANGER: plain text and no password. Whoever reaches this port may move the traffic."
            " Give the adapter `tls:` in probes.yaml and print this again, or let a firewall admit"
            " the prober alone."
        )
    yield [
        *comment(why),
        "listen lb-probe-cli",
        "    mode tcp",
        bind,
        "    timeout connect 1s",
        "    timeout client 10s",
        "    timeout server 10s",
        "    maxconn 20",
        f"    server cli unix@{LOCAL_SOCKET}",
    ]


# ------------------------------------------------------------------ style map
def _map_sections(
    group: GroupConfig, adapter: HaproxyAdapter, choices: Choices
) -> Iterator[list[str]]:
    mode, path = mode_of(group, choices), _map_file(adapter)
    fronts = fronts_of(group, adapter.key, choices)
    for front in fronts:
        yield [
            f"frontend {front.name}",
            f"    mode {mode}",
            *bind_lines(front, choices),
            "    timeout client 5m",
            *comment(
                "The map names the backend. `none`, a missing key and an unknown name are no"
                " backend, and the client is refused: so no default_backend and no other"
                " use_backend here.",
                indent=4,
            ),
            f"    use_backend {adapter.backend_prefix}%[str({front.key}),map({path},none)]",
        ]
    # The same backends stand behind every frontend: with several ports a server has none.
    has_many = sum(len(front.binds) for front in fronts) > 1
    for index, (node, value) in enumerate(mapped(group, adapter)):
        own = own_port(node, fronts[0])
        port, check_port = (0, own) if has_many else (own, 0)
        said = server_words(node, port, choices, adapter, check_port=check_port)
        yield [
            *comment(
                f"{node.name} alone: when it is down, clients get an error, never another node.",
                *([] if index else [*_PORTLESS[has_many], check_why(choices)]),
            ),
            f"backend {adapter.backend_prefix}{value}",
            f"    mode {mode}",
            "    option tcp-check",
            "    timeout connect 3s",
            "    timeout server 5m",
            f"    server {value} {said}",
        ]


_PORTLESS = ((), ("A server without a port is asked on the port that the client came to.",))


# ------------------------------------------------------------------ style server
def _server_sections(
    group: GroupConfig, adapter: HaproxyAdapter, choices: Choices
) -> Iterator[list[str]]:
    mode = mode_of(group, choices)
    end = "" if adapter.shutdown_sessions_s is not None else " on-marked-down shutdown-sessions"
    for index, front in enumerate(fronts_of(group, adapter.backend, choices)):
        why = [] if index else _server_backend_why(end, choices, is_pool=group.is_pool)
        servers = []
        for node, server in mapped(group, adapter):
            own = own_port(node, front)
            has_many = len(front.binds) > 1
            # Further backends are further ports of the same nodes: the one clients come to.
            port = 0 if has_many else (index and front.port) or own
            said = server_words(node, port, choices, adapter, check_port=own if has_many else 0)
            closed = "" if group.is_pool else " disabled"
            servers.append(f"    server {server} {said}{closed}{end}")
        yield [
            f"frontend {front.name}",
            f"    mode {mode}",
            *bind_lines(front, choices),
            "    timeout client 5m",
            f"    default_backend {front.key}",
        ]
        yield [
            *why,
            f"backend {front.key}",
            f"    mode {mode}",
            "    option tcp-check",
            "    timeout connect 3s",
            "    timeout server 5m",
            *servers,
        ]


def _server_backend_why(end: str, choices: Choices, *, is_pool: bool) -> list[str]:
    sessions = (
        "`on-marked-down shutdown-sessions` ends the old node's connections on a move."
        if end
        else "lb-probe itself ends the old node's connections (`shutdown_sessions`)."
    )
    closed = (
        "Open from the start: a prober that is not there must not close a pool of equals."
        if is_pool
        else "`disabled`: closed after every start and reload until lb-probe says who has the"
        " traffic. Without that word all nodes get traffic until it has spoken."
    )
    return comment(closed, sessions, check_why(choices))
