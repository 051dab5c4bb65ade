"""What is wrong around a configuration that is right in itself: sockets, files, certificates.

Everything here is only looked at. A HAProxy is asked for the level of its socket, a node for its
pages, once, as the prober would; a port that should be closed is connected to, and left.

Source: facts of the field that first installations trip over: DESIGN section 5; HAProxy management
guide, "stats socket"; RFC 9525, section 6; guide lines 111 and 113; R32.
"""

import asyncio
import contextlib
import grp
import ipaddress
import itertools
import os
import pwd
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lb_probe.adapters.haproxy import RuntimeApi
from lb_probe.config.model import Adapter, Config, GroupConfig, HaproxyAdapter
from lb_probe.core.clock_offset import Limits, surely_apart
from lb_probe.core.model import Failed, Mode, Page, Phase, Role
from lb_probe.ports import PublishError
from lb_probe.prober.dated import clock_of
from lb_probe.prober.http_probe import Report, Target, TlsSettings, make_ssl_context
from lb_probe.prober.report import why
from lb_probe.prober.tcp_probe import connect_failure, connects

SERVICE = "lb-probe"  # the user of the units in docs/deploy
AT_A_TIME = 50
ENOUGH_S = 10.0
SOCKET_S = 2.0
PORT_S = 2.0  # a firewall that drops lets us wait

Inspect = Callable[[Target], Awaitable[Report]]
Examine = Callable[[Adapter], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class User:
    """Who the prober will be: the service's user where root looks for it, else whoever looks."""

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, path: Path, bits: int) -> bool:
        """Tell whether the modes of a file let this user do it.

        Args:
            bits: Of os.R_OK, os.W_OK and os.X_OK.

        Raises:
            OSError: The file cannot be looked at.
        """
        if self.uid == 0:
            return True
        found = path.stat()
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return (stat.S_IMODE(found.st_mode) >> shift) & bits == bits


def user() -> User:
    """Return who the prober will be."""
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(SERVICE)
        except KeyError:
            return User("root", 0, frozenset())
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        return User(SERVICE, entry.pw_uid, frozenset(groups))
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return User(name, uid, frozenset([os.getegid(), *os.getgroups()]))


async def look_around(
    config: Config,
    targets: Callable[[GroupConfig], Iterable[Target]],
    inspect: Inspect,
    examine: Examine | None = None,
) -> list[str]:
    """Return a sentence for everything that would not work, and what to do about it.

    Args:
        targets: The pages of a group.
        inspect: Probes one page once; nothing a peer does raises.
        examine: Asks one load balancer that can say itself what would not work; nothing is asked
            where it is None.
    """
    found = await _adapters(config, examine)
    gate, told = asyncio.Semaphore(AT_A_TIME), dict[str, list[str]]()

    async def ask(group: GroupConfig) -> None:
        async with gate:
            found = await asyncio.gather(
                _nodes(group, list(targets(group)), inspect),
                _unreached_service_ports(group),
                _reached_closed_ports(group),
            )
            told[group.name] = [text for texts in found for text in texts]

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENOUGH_S), asyncio.TaskGroup() as tasks:
            for group in config.groups:
                tasks.create_task(ask(group))
    found += [text for group in config.groups for text in told.get(group.name, [])]
    if late := len(config.groups) - len(told):
        found.append(f"{late} groups were not asked within {ENOUGH_S:.0f}s")
    return found


async def _adapters(config: Config, examine: Examine | None) -> list[str]:
    who, told = user(), dict[tuple[str, str], list[str]]()

    async def ask(group: GroupConfig, adapter: Adapter) -> None:
        if isinstance(adapter, HaproxyAdapter):
            about = [*_map_folder(adapter, who), *await _socket(adapter, who)]
        else:
            about = await examine(adapter) if examine else []
        told[group.name, adapter.name] = about

    every = [(group, adapter) for group in config.groups for adapter in group.adapters]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ENOUGH_S), asyncio.TaskGroup() as tasks:
            for group, adapter in every:
                tasks.create_task(ask(group, adapter))
    late = [f"not looked at within {ENOUGH_S:.0f}s"]
    return [
        f"group {group.name}: {adapter.name}: {text}"
        for group, adapter in every
        for text in told.get((group.name, adapter.name), late)
    ]


# ------------------------------------------------------------------ HAProxy on this machine
def _map_folder(adapter: HaproxyAdapter, who: User) -> Iterator[str]:
    """The map is replaced by rename: that takes the folder, not the file."""
    file = adapter.local_file
    if file is None:
        return
    folder = file.parent
    if not folder.is_dir():
        yield f"there is no folder {folder} for the map; sudo install -d -o {who.name} {folder}"
    elif not who.may(folder, os.W_OK | os.X_OK):
        yield (
            f"{who.name} cannot write to {folder}, and a map is replaced by rename;"
            f" sudo chown {who.name} {folder}"
        )
    if folder.is_dir() and not file.exists():
        keys = ", ".join(adapter.key)
        yield (
            f"there is no map {file} yet, and HAProxy does not start without it; write a line"
            f" `KEY none` for {keys}"
        )


async def _socket(adapter: HaproxyAdapter, who: User) -> list[str]:
    path = adapter.socket
    if not isinstance(path, Path):
        return []
    try:
        found = path.stat()
    except PermissionError:
        return [f"{who.name} may not look into {path.parent}; sudo chmod o+x {path.parent}"]
    except OSError:
        return [
            f"there is no {path}; is HAProxy running, with `stats socket {path} mode 660 level"
            " admin` in its `global` section?"
        ]
    if not stat.S_ISSOCK(found.st_mode):
        return [f"{path} is no socket; name the one of HAProxy's `stats socket` line"]
    if not who.may(path, os.R_OK | os.W_OK):
        return [_let_in(path, found, who)]
    try:
        said = await RuntimeApi(path, timeout_s=SOCKET_S).ask("show cli level")
    except PublishError as error:
        return [str(error)]
    level = said.decode(errors="replace").strip()
    if level not in ("admin", ""):
        return [f"{path} is `level {level[:40]}`; its line needs `level admin`"]
    return []


def _let_in(path: Path, found: os.stat_result, who: User) -> str:
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    if stat.S_IMODE(found.st_mode) & 0o060 == 0o060 and found.st_gid != 0:
        return (
            f"{who.name} is not in the group {group} of {path};"
            f" sudo usermod -aG {group} {who.name}, and start the prober anew"
        )
    return f"{who.name} may not open {path}; say `group {who.name} mode 660` on its line"


# ------------------------------------------------------------------ nodes
async def _nodes(group: GroupConfig, targets: Sequence[Target], inspect: Inspect) -> list[str]:
    reports = await asyncio.gather(*map(inspect, targets))
    by_page = {(t.node, t.page): r for t, r in zip(targets, reports, strict=True)}
    pages: dict[tuple[str, str], list[str]] = {}  # of each node that say the same
    for target, report in zip(targets, reports, strict=True):
        outcome = report.observation.outcome
        if not isinstance(outcome, Failed):
            continue
        if outcome.phase is Phase.TLS and "wrong name" in outcome.detail:
            text = f"{outcome.detail}; {await _names(target, inspect)}"
        elif target.page is Page.STATUS and _is_standby(by_page.get((target.node, Page.HASTATUS))):
            text = f"fails ({outcome.detail}), as is expected of a Standby: no fault"
        else:
            text = f"{outcome.phase.value}: {outcome.detail}: {why(target, report.observation)}"
        pages.setdefault((target.node, text), []).append(target.page.value)
    return [
        f"group {group.name}: {node} {' and '.join(which)}: {text}"
        for (node, text), which in pages.items()
    ] + _clocks(group, [(t.node, r) for t, r in zip(targets, reports, strict=True)])


def _clocks(group: GroupConfig, answers: Sequence[tuple[str, Report]]) -> list[str]:
    """Compare the clocks of a group's nodes by the dates of their pages (R11).

    Measured by the same clock, so whether that one is right does not matter.
    """
    known = {node: found for node, report in answers if (found := clock_of(report, 0.0))}
    limits = Limits()
    told = []
    for (one, its), (other, others) in itertools.combinations(known.items(), 2):
        apart_s = surely_apart(its, others)
        if apart_s > limits.warn_s:
            told.append(
                f"group {group.name}: the clocks of {one} and {other} are {apart_s:.1f}s apart at"
                " least, by the dates of their pages; the guide wants exactly the same time on both"
            )
    return told


def _is_standby(report: Report | None) -> bool:
    outcome = report.observation.outcome if report else None
    return outcome is not None and not isinstance(outcome, Failed) and outcome.mode is Mode.STANDBY


async def _unreached_service_ports(group: GroupConfig) -> list[str]:
    """Try the ports that clients use beside the pages': a Standby too must be reached there (R72).

    A real Standby may serve none of them, so silence is told, and a refusal is not.
    """
    tried = [(node, port) for node in group.nodes for port in group.service_ports]
    failures = await asyncio.gather(
        *(connect_failure(node.url.host, port, PORT_S) for node, port in tried)
    )
    return [
        f"group {group.name}: {node.name}: port {port} is not reached from here"
        f" ({failed.detail}); open the way to both nodes before a failover needs it"
        for (node, port), failed in zip(tried, failures, strict=True)
        if failed is not None
        and not (failed.phase is Phase.CONNECT_REFUSED and node.role is not Role.PRIMARY)
    ]


async def _reached_closed_ports(group: GroupConfig) -> list[str]:
    """Try the ports that only a node's peer and its administrators should reach (R32).

    A node on this machine is passed over, unless the file names the ports itself: what answers
    there is this machine's own.
    """
    is_asked = "closed_ports" in group.model_fields_set
    tried = [
        (node, port)
        for node in group.nodes
        for port in group.closed_ports
        if port != node.url.port and (is_asked or not _is_loopback(node.url.host))
    ]
    answers = await asyncio.gather(*(connects(node.url.host, port, PORT_S) for node, port in tried))
    return [
        f"group {group.name}: {node.name}: port {port} can be reached from here; the guide wants it"
        " open to the other node and to administrators only: close it in the firewall, or leave it"
        f" out of `closed_ports` of {group.name}"
        for (node, port), answered in zip(tried, answers, strict=True)
        if answered
    ]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _names(target: Target, inspect: Inspect) -> str:
    """Return the names of a certificate that was not taken, and the line that takes it."""
    context = make_ssl_context(TlsSettings(server_name=target.server_name, insecure=True))
    report = await inspect(replace(target, ssl_context=context))
    names = report.tls.get("names", "")
    if not names:
        return "say in `tls: {server_name: NAME}` of this node which name its certificate has"
    first = names.split(", ")[0]
    return f"it is for {names}: say `tls: {{server_name: {first}}}` of this node"
