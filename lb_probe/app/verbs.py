"""What verbs do without a daemon."""

import asyncio
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lb_probe import replay
from lb_probe.adapters.haproxy import RuntimeApi
from lb_probe.advice import findings
from lb_probe.advice.agent_files import agent_files
from lb_probe.advice.haproxy_config import config_text
from lb_probe.advice.haproxy_discover import probes_yaml
from lb_probe.advice.haproxy_doctor import examine, unanswered
from lb_probe.advice.haproxy_file import read_files
from lb_probe.advice.haproxy_lines import Choices
from lb_probe.advice.haproxy_pages import pages_text
from lb_probe.advice.surroundings import look_around
from lb_probe.app.loop import run
from lb_probe.app.notify import unheard
from lb_probe.app.parts import (
    Balancers,
    audit_beside,
    group_of,
    place_of,
    runtime_api,
    targets_of,
)
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Config,
    GroupConfig,
    load,
)
from lb_probe.config.model import (
    F5Adapter,
    HaproxyAdapter,
    Tls,
)
from lb_probe.config.settings import settings
from lb_probe.config.values import parse_haproxy_socket
from lb_probe.core.timing import lints
from lb_probe.events import audit
from lb_probe.ports import (
    Invalid,
    LbProbeError,
    NotFound,
    Record,
    Span,
)
from lb_probe.prober import http_probe
from lb_probe.prober.names import Names
from lb_probe.prober.report import capture as capture_text
from lb_probe.prober.report import together
from lb_probe.store import sqlite

ASK_TIMEOUT_S = 2.0


def init_store(path: Path) -> str:
    """Make the store of this file and say where.

    Raises:
        ConfigError: The file cannot be used.
        StoreError: There is one already, or it cannot be made.
    """
    config = load(path, as_="client")
    sqlite.init(config.store_path)
    return f"made {config.store_path}; the first start adopts what the load balancers do"


def backup_store(path: Path, target: Path) -> str:
    """Copy the store of this file, also while a prober uses it; say how to use the copy.

    Raises:
        ConfigError: The file cannot be used.
        StoreError: There is no store, the target exists, or the copy failed.
    """
    store = load(path, as_="client").store_path
    sqlite.backup(store, target)
    size = target.stat().st_size
    return (
        f"copied {store} to {target} ({size} bytes)\n"
        f"to restore it: stop the prober, move {store}, {store.name}-wal and {store.name}-shm away,"
        f" copy {target} to {store} with the same owner, start the prober"
    )


def effective(path: Path) -> list[dict[str, Any]]:
    """Return what every key of this file comes to, beside its default.

    Raises:
        ConfigError: The file cannot be used.
    """
    return [asdict(setting) for setting in settings(path)]


def stored_history(store: Path, group: str | None, limit: int | None, span: Span) -> list[Record]:
    """Read the history from a store's file or a backup, without a prober; changes nothing.

    Raises:
        StoreError: It cannot be read.
    """
    return sqlite.read_history(store, group, 2**62 if limit is None else limit, span)


def replay_history(
    records: Sequence[Record], files: Sequence[Path], group: str | None, since_s: float | None
) -> dict[str, Any]:
    """Put a history to the configurations in these files, side by side.

    Raises:
        ConfigError: A file cannot be used.
        NotFound: A file has no such group.
    """
    configs = [(str(file), load(file, as_="client")) for file in files]
    return replay.replay(records, configs, group=group, since_s=since_s)


def check(path: Path, as_: str, *, looks_around: bool = False) -> list[str]:
    """Validate the file and everything it points at; return warnings.

    Args:
        looks_around: Ask nodes and load balancers too, each once.

    Raises:
        ConfigError: Every mistake at once.
    """
    config = load(path, as_=as_)
    warnings = []
    if as_ in ("check", "prober") and not config.store_path.exists():
        warnings.append(f"{config.store_path} does not exist yet; make it with `lb-probe init`")
    warnings += [
        f"group {group.name}: node {node.name}: `insecure: true` takes any certificate, an"
        " attacker's too; for a trial only: use ca_file, or fingerprint"
        for group in config.groups
        for node in group.nodes
        if node.tls is not None and node.tls.insecure
    ]
    warnings += [
        f"group {group.name}: {adapter.name}: `insecure: true` sends the password to whoever"
        " answers: use ca_file, or fingerprint beside it"
        for group in config.groups
        for adapter in group.adapters
        if isinstance(adapter, F5Adapter) and _is_gullible(adapter.tls)
    ]
    for group in config.groups:
        found = () if group.is_pool else lints(group.times)  # they are about a failover's times
        warnings += [f"group {group.name}: {lint.text}" for lint in found]
    warnings += unheard(config)
    warnings += agent_files(config, as_=as_)
    if looks_around and not as_.startswith("agent:"):
        warnings += run(_around(config))
    return warnings


def _is_gullible(tls: Tls | None) -> bool:
    return tls is not None and tls.insecure and tls.fingerprint is None


async def _around(config: Config) -> list[str]:
    clock = SystemClock().monotonic
    names = Names(clock)
    balancers = Balancers()
    try:
        ask = partial(http_probe.inspect, clock=clock, names=names)
        return await look_around(config, targets_of, ask, balancers.examined)
    finally:
        names.close()
        await balancers.close()


def haproxy_config(
    path: Path,
    group: str,
    adapter: str | None = None,
    choices: Choices | None = None,
    *,
    agents_only: bool = False,
) -> str:
    """Return the configuration to paste for each HAProxy of a group.

    Args:
        adapter: Only this one's.
        choices: What probes.yaml does not say.
        agents_only: For a HAProxy that asks the pages itself, without any prober.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group, or no such adapter.
        Invalid: The group has no HAProxy, or nothing can be printed for it.
    """
    found = group_of(load(path, as_="client"), group)
    try:
        if agents_only:
            return pages_text(found, choices)
        ours = _haproxys(path, found, adapter)
        texts = [config_text(found, one, choices) for one in ours]
    except ValueError as error:
        raise Invalid(str(error)) from None
    if len(ours) == 1:
        return texts[0]
    marked = zip(ours, texts, strict=True)
    return "\n".join(f"{_cut(group, one, len(ours))}{text}" for one, text in marked)


def _cut(group: str, adapter: HaproxyAdapter, count: int) -> str:
    return (
        f"# {'=' * 30} {adapter.name}, one of {count} HAProxys: each has a file of its own\n"
        f"# lb-probe haproxy config {group} --adapter {adapter.name}\n"
    )


def haproxy_doctor(
    path: Path, group: str, files: Sequence[Path], adapter: str | None = None
) -> list[tuple[str, list[findings.Finding]]]:
    """Return for each HAProxy of a group what it does, or would do, wrong.

    One that cannot be asked is a finding: the others are looked at all the same.

    Args:
        files: Its configuration files, where they can be read from here.
        adapter: Only this one.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group, or no such adapter.
        Invalid: The group has no HAProxy, or a file cannot be read.
    """
    found = group_of(load(path, as_="client"), group)
    try:
        read_files(files)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        raise Invalid(f"{what}; give a haproxy.cfg that this user may read") from None

    ours = _haproxys(path, found, adapter)

    async def ask(adapter: HaproxyAdapter) -> tuple[str, list[findings.Finding]]:
        master = None
        if adapter.master is not None:
            master = RuntimeApi(place_of(adapter.master), timeout_s=ASK_TIMEOUT_S)
        try:
            api = runtime_api(adapter, ASK_TIMEOUT_S)
            return adapter.name, await examine(api, adapter, found, files, master=master)
        except (LbProbeError, OSError) as error:
            return adapter.name, unanswered(error, adapter, found, files)

    async def every() -> list[tuple[str, list[findings.Finding]]]:
        return await asyncio.gather(*map(ask, ours))

    return run(every())


def _haproxys(path: Path, group: GroupConfig, only: str | None) -> list[HaproxyAdapter]:
    ours = [a for a in group.adapters if isinstance(a, HaproxyAdapter)]
    if not ours:
        raise Invalid(f"group {group.name} has no adapter of type haproxy; add one to {path}")
    found = [a for a in ours if only in {None, a.name}]
    if not found:
        names = ", ".join(a.name for a in ours)
        raise NotFound(f"group {group.name} has no HAProxy {only}; its HAProxys are {names}")
    return found


def discover(text: str) -> str:
    """Return a first probes.yaml, `act: false`, for what a running HAProxy serves.

    Args:
        text: Its runtime socket, a path or host:port.

    Raises:
        Invalid: That is no place.
        LbProbeError: It cannot be asked, or has no pair of servers.
    """
    try:
        place = parse_haproxy_socket(text, Path.cwd())
    except ValueError as error:
        raise Invalid(f"found {text!r} as socket; use {error}") from None
    return run(probes_yaml(RuntimeApi(place_of(place), timeout_s=ASK_TIMEOUT_S), place))


def probe_once(
    path: Path, group: str, node: str, capture: Path | None = None, *, with_addresses: bool = False
) -> dict[str, Any]:
    """Probe the pages of one node once, from this machine, and tell all that was seen.

    Args:
        capture: Folder to write the raw answers into, for a bug report.
        with_addresses: Leave addresses and names of machines in them.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group or node.
        OSError: The capture cannot be written.
    """
    config = load(path, as_="client")
    found = group_of(config, group)
    targets = [t for t in targets_of(found) if t.node == node]
    if not targets:
        names = ", ".join(n.name for n in found.nodes)
        raise NotFound(f"group {group} has no node {node}; its nodes are {names}")
    clock = SystemClock()

    async def both() -> list[http_probe.Report]:
        names = Names(clock.monotonic)
        ask = partial(http_probe.inspect, clock=clock.monotonic, names=names)
        try:
            return list(await asyncio.gather(*map(ask, targets)))
        finally:
            names.close()

    told = list(zip(targets, run(both()), strict=True))
    answer: dict[str, Any] = {"group": group, "node": node, "pages": together(told)}
    if capture is not None:
        at = datetime.fromtimestamp(clock.wall(), UTC)
        text = capture_text(told, at=at.isoformat(" ", "seconds"), with_addresses=with_addresses)
        answer["capture"] = str(
            _write_new(capture, f"lb-probe-{group}-{node}-{at:%Y%m%dT%H%M%SZ}", text)
        )
    return answer


def _write_new(folder: Path, name: str, content: bytes) -> Path:
    """Write a file of this name, or of the first like it that is free; nothing is overwritten."""
    candidates = (folder / f"{name}{f'-{n}' if n > 1 else ''}.txt" for n in itertools.count(1))
    file = next(file for file in candidates if not os.path.lexists(file))
    # Its owner's alone, until it was read through. One made in between is not overwritten either.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    return file


def audit_file(path: Path) -> Path:
    """Return where the prober of this configuration keeps its audit log.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    return audit_beside(load(path))


def audit_lines(file: Path) -> Iterator[dict[str, object]]:
    """Yield every line of an audit log, checked.

    Raises:
        AuditError: It cannot be read, or its chain is broken; names the line.
    """
    return audit.lines(file)
