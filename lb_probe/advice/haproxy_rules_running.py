"""What the doctor looks for in a running HAProxy, whichever the style; one function, one fault."""

import ipaddress
from collections.abc import Iterator

from lb_probe.advice.findings import Finding
from lb_probe.advice.haproxy_case import Case
from lb_probe.advice.haproxy_running import Server


# ------------------------------------------------------------------ the process and its sockets
def version(case: Case) -> Iterator[Finding]:
    """Versions with faults that matter here."""
    running, said = case.running.version, case.running.info.get("Version", "unknown")
    if running < (2, 4):
        yield Finding(
            "error",
            "old-version",
            f"HAProxy {said}",
            "before 2.4 it does not tell when it started, and a restart cannot be told from a"
            " change by somebody else.",
            "upgrade HAProxy to 2.8 or later",
        )
    elif running < (2, 8):
        yield Finding(
            "info",
            "known-faults",
            f"HAProxy {said}, with faults that later versions do not have",
            "`set server addr` leaves keep-alive clients on the old address for ever; `set maxconn"
            " frontend` under load ends the process; `timeout check` below `inter` is not kept; an"
            " administrator's forgotten `prompt` holds a connection of the socket for ever."
            " lb-probe uses none of them.",
            "upgrade to 2.8 or later when you can, and do not use these commands by hand",
        )


def process(case: Case) -> Iterator[Finding]:
    """Several processes, and processes that leave."""
    info, leaving = case.running.info, case.running.leaving
    if info.get("Stopping", "0") != "0":
        yield Finding(
            "error",
            "leaving",
            f"process {info['Pid']} answers, and it is leaving after a reload",
            "it accepts commands and has no say any more: what was found here is not what is"
            " in force.",
            "run the doctor again",
        )
    if info.get("Nbproc", "1") != "1":
        yield Finding(
            "error",
            "several-processes",
            f"`nbproc {info['Nbproc']}`",
            "each process has servers and maps of its own, and one socket reaches one of them.",
            "remove `nbproc`; threads do its work: nbthread 4",
        )
    if leaving:
        yield Finding(
            "warning",
            "old-workers",
            f"{len(leaving)} process(es) left behind by a reload: {', '.join(map(str, leaving))}",
            "their connections go on to the node they are on, and nothing that is said to the new"
            " process reaches them.",
            "hard-stop-after 60s",
        )
    elif leaving is None and case.adapter.master is None:
        yield Finding(
            "info",
            "no-master",
            "no `master:` in probes.yaml",
            "processes that a reload leaves behind keep their connections to the old node, and"
            " cannot be seen.",
            "haproxy -W -S /run/haproxy/master.sock,mode,660,level,admin -f ...\n"
            f"and in the entry of {case.adapter.name} in probes.yaml:"
            " master: /run/haproxy/master.sock",
        )


def level(case: Case) -> Iterator[Finding]:
    """What our own socket may do."""
    said = case.running.level
    if said in {"user", "operator"}:
        yield Finding(
            "error",
            "socket-level",
            f"the socket is `level {said}`",
            "`set server` and `shutdown sessions` answer `Permission denied`, and from 3.3 on `set"
            " map` too.",
            case.socket_line,
        )


def open_sockets(case: Case) -> Iterator[Finding]:
    """Command sockets that others may reach."""
    for where, granted in case.running.sockets.items():
        scheme, _, address = where.partition("@")
        if scheme not in {"ipv4", "ipv6"}:
            continue
        host = address.rpartition(":")[0].strip("[]")
        is_local = _is_loopback(host)
        yield Finding(
            "info" if is_local else "error",
            "local-socket" if is_local else "open-socket",
            f"a command socket of level {granted} on {address}",
            "it has no password and no TLS (`ssl` on this line is ignored): "
            + ("every user of this machine" if is_local else "whoever reaches the port")
            + " may move the traffic.",
            "stats socket /run/haproxy/admin.sock mode 660 level admin"
            + ("" if is_local else "\nand a `listen` with TLS in front: docs/haproxy.md"),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ------------------------------------------------------------------ servers of ours
def addresses(case: Case) -> Iterator[Finding]:
    """Servers that stand for another node than the file says."""
    owners = {node.url.host: node.name for node in case.nodes}
    for node, servers in case.servers.items():
        for server in servers:
            owner = owners.get(server.address)
            if len(owners) == len(case.nodes) and owner not in {None, node}:
                yield Finding(
                    "error",
                    "swapped",
                    f"{server.full_name} at {server.address} stands for {node}; {owner} has"
                    " that address",
                    f"a move to {node} would send the traffic to {owner}.",
                    f"correct `nodes` of adapter {case.adapter.name} in probes.yaml",
                )


def own_opinion(case: Case) -> Iterator[Finding]:
    """Servers that HAProxy or somebody else moves."""
    for server in case.ours:
        if server.is_backup:
            yield Finding(
                "error",
                "backup",
                f"{server.full_name} is a `backup` server",
                "HAProxy chooses by itself, and goes back to the other once its check passes.",
                f"remove `backup` from the line of server {server.name}",
            )
        if server.agent:
            yield Finding(
                "error",
                "agent-check",
                f"{server.full_name} has an agent-check ({server.agent})",
                "the agent's `ready` and `up` undo what lb-probe has set, within one interval.",
                f"remove `agent-check` from the line of server {server.name}",
            )
        if server.tracks:
            yield Finding(
                "warning",
                "track",
                f"{server.full_name} tracks {server.tracks}",
                "maintenance or a failed check there takes it out here as well.",
                f"remove `track {server.tracks}` from the line of server {server.name}",
            )
        if server.weight == 0:
            yield Finding(
                "error",
                "weight",
                f"{server.full_name} has weight 0",
                "it gets no traffic even when it is chosen: a move to it is an outage.",
                f"set server {server.full_name} weight 100%",
            )


def checks(case: Case) -> Iterator[Finding]:
    """Checks that would hold down the node that lb-probe chooses."""
    for node, servers in case.servers.items():
        for server in servers:
            if server.check.startswith("L7"):
                yield _page_check(node, server)
            elif server.is_ready and not server.is_up:
                yield Finding(
                    "warning",
                    "down",
                    f"HAProxy holds {server.full_name} down ({server.check or 'no check'})",
                    f"clients of {node} get an error while it has the traffic.",
                    f"on HAProxy's machine: nc -zv {server.address} {server.port or 'PORT'}",
                )


def _page_check(node: str, server: Server) -> Finding:
    is_down = server.is_ready and not server.is_up
    return Finding(
        "error" if is_down else "warning",
        "page-check",
        f"{server.full_name} is checked by what a page or a protocol answers ({server.check})"
        + (", and is down" if is_down else ""),
        f"a standby that does not serve yet is held down, so a move to {node} is an outage until"
        " it has been promoted and `rise` checks have passed.",
        f"in backend {server.backend}, after other `option ...chk` lines: option tcp-check",
    )


def other_ways(case: Case) -> Iterator[Finding]:
    """Servers with a node's address in backends that this adapter does not move."""
    hosts = {node.url.host: node.name for node in case.nodes}
    for name, servers in case.running.backends.items():
        strays = [s for s in servers if s.address in hosts and not s.tracks]
        if name in case.backends or not strays or _is_loopback(strays[0].address):
            continue
        yield Finding(
            "warning",
            "other-way",
            f"backend {name} sends to {', '.join(hosts[s.address] for s in strays)} as well",
            "a move of this group does not move it, unless another adapter does.",
            f"add an adapter for backend {name}, or ignore this if it has nothing to do with"
            f" group {case.group.name}",
        )


def tables(case: Case) -> Iterator[Finding]:
    """Stick-tables of our backends, where the file cannot tell what they are for."""
    if case.config is not None:
        return
    for name, size in case.running.tables.items():
        if name in case.backends:
            yield Finding(
                "warning",
                "stick-table",
                f"backend {name} has a stick-table of size {size}",
                "with `stick on` clients stay where they were, whatever lb-probe says; as a counter"
                " it is harmless.",
                f"lb-probe haproxy doctor {case.group.name} --adapter {case.adapter.name} --file"
                " /etc/haproxy/haproxy.cfg   # or remove the `stick` lines",
            )


RULES = (
    version,
    process,
    level,
    open_sockets,
    addresses,
    own_opinion,
    checks,
    other_ways,
    tables,
)
