"""What the doctor looks for in a running HAProxy by style: the map, or the servers of a backend."""

from collections.abc import Iterator
from pathlib import Path

from lb_probe.advice.findings import Finding
from lb_probe.advice.haproxy_case import NONE, Case


# ------------------------------------------------------------------ style server
def server_backends(case: Case) -> Iterator[Finding]:
    """Backends and servers that are missing, too many, or open from the start."""
    if case.is_map:
        return
    for name in case.adapter.backend:
        servers = case.running.backend(name)
        present = {server.name: server for server in servers}
        for node, wanted in case.adapter.nodes.items():
            if wanted not in present:
                yield Finding(
                    "error",
                    "no-server",
                    f"backend {name} has no server {wanted}, which stands for {node}",
                    "nothing can be published to this HAProxy.",
                    f"correct `nodes` of adapter {case.adapter.name} in probes.yaml, or add:"
                    f" server {wanted} ADDRESS:PORT disabled",
                )
        for server in servers:
            if server.name not in case.adapter.nodes.values():
                yield Finding(
                    "error" if server.is_ready else "warning",
                    "stranger",
                    f"{server.full_name} is not in `nodes`"
                    + ("" if server.is_ready else " (in maintenance now)"),
                    "lb-probe does not touch it: whenever it is ready it gets traffic too.",
                    f"add it to `nodes` of adapter {case.adapter.name}, or remove the server",
                )
            elif not server.is_disabled and not case.group.is_pool:
                yield Finding(
                    "error",
                    "not-disabled",
                    f"{server.full_name} is not `disabled` in HAProxy's configuration",
                    "after every start and reload it gets traffic at once, latched or not, until"
                    " lb-probe has spoken.",
                    f"end the line of server {server.name} in backend {name} with: disabled",
                )


def two_ready(case: Case) -> Iterator[Finding]:
    """More than one node with traffic."""
    if case.is_map or case.group.is_pool:
        return
    for name in case.adapter.backend:
        ready = [s.name for s in case.running.backend(name) if s.is_ready and not s.is_backup]
        if len(ready) > 1:
            yield Finding(
                "error" if case.group.act else "warning",
                "two-ready",
                f"{' and '.join(ready)} of backend {name} are ready",
                "both get traffic now."
                + ("" if case.group.act else " With `act: false` lb-probe leaves it so."),
                f"set server {name}/{ready[-1]} state maint",
            )


# ------------------------------------------------------------------ style map
def map_backends(case: Case) -> Iterator[Finding]:
    """A backend for each value, with one server that is never disabled; none for `none`."""
    if not case.is_map:
        return
    prefix = case.adapter.backend_prefix
    for node, value in case.adapter.nodes.items():
        name = prefix + value
        servers = case.running.backend(name)
        if not servers:
            yield Finding(
                "error",
                "no-backend",
                f"there is no backend {name} with a server, which stands for {node}",
                f"a move to {node} sends every client an error.",
                f"add `backend {name}`, as `lb-probe haproxy config {case.group.name}` prints it",
            )
        if len(servers) > 1:
            yield Finding(
                "error",
                "many-servers",
                f"backend {name} has {len(servers)} servers:"
                f" {', '.join(server.name for server in servers)}",
                f"clients of {node} are sent to all of them; style map wants one server there.",
                f"keep one server in backend {name}",
            )
        for server in servers:
            if not server.is_ready:
                yield Finding(
                    "error",
                    "in-maintenance",
                    f"{server.full_name} is in maintenance or drained",
                    "style map never makes a server ready: clients get an error when it is chosen.",
                    f"set server {server.full_name} state ready"
                    + (
                        f"\nand remove `disabled` from the line of server {server.name}"
                        if server.is_disabled
                        else ""
                    ),
                )
    if case.running.backend(prefix + NONE):
        yield Finding(
            "error",
            "backend-none",
            f"there is a backend {prefix}{NONE}",
            "`none` in the map stands for nobody; here it stands for a backend.",
            f"rename backend {prefix}{NONE}, or change `backend_prefix`",
        )


def map_entries(case: Case) -> Iterator[Finding]:
    """The running map and its keys."""
    adapter, maps = case.adapter, case.running.maps
    if not case.is_map or adapter.map_file is None:
        return
    if adapter.map_file not in maps:
        named = [n for n in maps if Path(n).name == Path(adapter.map_file).name] or [*maps]
        yield Finding(
            "error",
            "no-map",
            f"no map {adapter.map_file} is loaded; loaded are: {', '.join(named) or 'none'}",
            "nothing can be published: HAProxy knows a map by the path as haproxy.cfg spells it.",
            f"map_file: {named[0]}"
            if named
            else f"use_backend {adapter.backend_prefix}%[str({adapter.key[0]}),"
            f"map({adapter.map_file},{NONE})]",
        )
        return
    if maps[adapter.map_file] is None:
        return  # may not be read: `socket-level` says it
    entries = case.entries
    for key in adapter.key:
        yield from _judge_key(case, key, entries.get(key, []))
    values = {entries[key][0] for key in adapter.key if key in entries}
    if len(values) > 1:
        yield Finding(
            "error" if case.group.act else "warning",
            "keys-differ",
            f"the keys {', '.join(adapter.key)} have different values: {', '.join(sorted(values))}",
            "services that move together are on different nodes now.",
            f"lb-probe republish {case.group.name}",
        )


def _judge_key(case: Case, key: str, values: list[str]) -> Iterator[Finding]:
    file, known = case.adapter.map_file, {*case.adapter.nodes.values(), NONE}
    if not values:
        yield Finding(
            "warning",
            "no-key",
            f"{file} has no key {key}",
            "nobody is served until lb-probe has added it, and `set map` by hand answers `entry not"
            " found`.",
            f"echo '{key} {NONE}' >> {file}   # and: add map {file} {key} {NONE}",
        )
    elif len(values) > 1:
        yield Finding(
            "error",
            "key-twice",
            f"{file} has the key {key} {len(values)} times: {', '.join(values)}",
            "HAProxy follows the first, and which that is changes with a reload.",
            f"keep one line `{key} ...` in {file}, then reload HAProxy",
        )
    for value in values:
        if value not in known:
            yield Finding(
                "error",
                "unknown-value",
                f"{key} of {file} is {value}, which stands for no node",
                "lb-probe cannot tell who has the traffic, and does not move it before an operator"
                " has said.",
                f"set map {file} {key} {NONE}",
            )


def map_names(case: Case) -> Iterator[Finding]:
    """One file under two spellings is two maps."""
    file = case.adapter.map_file
    if not case.is_map or file is None:
        return
    for other in case.running.maps:
        if other != file and Path(other).name == Path(file).name and file in case.running.maps:
            yield Finding(
                "warning",
                "map-twice",
                f"{other} and {file} are loaded as two maps",
                "if they are one file: what lb-probe sets in one is not seen by lines that name"
                " the other.",
                f"spell the file {file} in every line of haproxy.cfg",
            )


def map_file(case: Case) -> Iterator[Finding]:
    """The file behind the map: what a restarted HAProxy would do."""
    adapter = case.adapter
    if not case.is_map or case.map_lines is None:
        return
    here = adapter.local_file or adapter.map_file
    lines = dict(reversed(case.map_lines))  # the first of a key wins
    if adapter.local_file is not None and case.can_write is False:
        yield Finding(
            "error",
            "file-not-writable",
            f"this user may not replace {here}",
            "a move is not written, and a restarted HAProxy goes back to what the file says.",
            f"chown lb-probe {Path(str(here)).parent} {here}   # or run the doctor as lb-probe",
        )
    for key in adapter.key:
        value = lines.get(key)
        running = case.entries.get(key, [None])[0]
        if value is None:
            yield Finding(
                "warning",
                "file-without-key",
                f"{here} has no line for {key}",
                "after a restart HAProxy knows no such key: nobody is served until lb-probe has"
                " added it.",
                f"echo '{key} {NONE}' >> {here}",
            )
        elif adapter.local_file is None and value != NONE:
            yield Finding(
                "error",
                "file-not-none",
                f"{here} says {key} {value}, and lb-probe does not write this file",
                f"after every restart traffic goes to {value}, latched or not, until lb-probe has"
                " spoken.",
                f"{key} {NONE}",
            )
        elif adapter.local_file is not None and running not in {None, value}:
            yield Finding(
                "warning",
                "file-differs",
                f"{here} says {key} {value}; HAProxy runs with {running}",
                f"after a restart traffic goes to {value} until lb-probe has spoken.",
                f"lb-probe republish {case.group.name}",
            )


RULES = (server_backends, two_ready, map_backends, map_entries, map_names, map_file)
