"""`lb-probe haproxy doctor GROUP`: what a running HAProxy would do wrong, and how to mend it.

It asks the running process, and reads haproxy.cfg where it is given: some things (`stats maxconn`,
`hard-stop-after`, `stick on`) no process tells. Nothing is changed.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from lb_probe.advice import haproxy_rules_file, haproxy_rules_running, haproxy_rules_style
from lb_probe.advice.findings import Finding, ordered
from lb_probe.advice.haproxy_case import Case
from lb_probe.advice.haproxy_file import ConfigFile, read_files
from lb_probe.advice.haproxy_running import Asks, Running, read_running
from lb_probe.config.model import GroupConfig, HaproxyAdapter
from lb_probe.ports import LbProbeError, PublishError


async def examine(
    api: Asks,
    adapter: HaproxyAdapter,
    group: GroupConfig,
    config_files: Sequence[Path] = (),
    *,
    master: Asks | None = None,
) -> list[Finding]:
    """Return all findings about one adapter of a group, the gravest first.

    Args:
        api: HAProxy's runtime socket, as the adapter uses it.
        config_files: haproxy.cfg, in the order of `-f`; a folder stands for its *.cfg. Empty: what
            only the file tells is not looked at, and that is a finding too.
        master: The master's socket.

    Raises:
        PublishError: HAProxy cannot be read, or a file cannot.
    """
    findings: list[Finding] = []
    config = _read(config_files, f"{group.name} --adapter {adapter.name}", findings)
    try:
        running = await read_running(api, master)
    except LbProbeError as exc:
        if master is None:
            raise
        running = await read_running(api)
        findings.append(_no_answer(exc))
    map_lines, can_write = _map_file(adapter)
    case = Case(running, adapter, group, config, map_lines, can_write)
    for rule in (*haproxy_rules_running.RULES, *haproxy_rules_style.RULES):
        findings += rule(case)
    findings += haproxy_rules_file.find(case)
    return ordered(findings)


def unanswered(
    exc: Exception, adapter: HaproxyAdapter, group: GroupConfig, config_files: Sequence[Path]
) -> list[Finding]:
    """Return what can be said of a HAProxy that does not answer: that, and what its files say.

    Args:
        exc: Why it, or its configuration, could not be read.
    """
    findings = [
        Finding(
            "error",
            "unreachable",
            str(exc),
            "nothing is known of what it does, and no move reaches it.",
            "mend what it says, then: lb-probe check",
        )
    ]
    if config_files:
        case = Case(Running({}, ()), adapter, group, read_files(config_files))
        findings += haproxy_rules_file.find(case)
        findings += haproxy_rules_file.backup_words(case)
    return ordered(findings)


def _read(paths: Sequence[Path], whom: str, findings: list[Finding]) -> ConfigFile | None:
    if not paths:
        findings.append(
            Finding(
                "info",
                "no-file",
                "haproxy.cfg was not given",
                "`stats maxconn`, `hard-stop-after`, `stick on`, the map's default and more stand"
                " only there.",
                f"lb-probe haproxy doctor {whom} --file /etc/haproxy/haproxy.cfg",
            )
        )
        return None
    try:
        return read_files(paths)
    except OSError as exc:
        raise PublishError(
            f"{exc.filename}: {exc.strerror}; give a haproxy.cfg that this user may read"
        ) from exc


def _no_answer(exc: LbProbeError) -> Finding:
    return Finding(
        "warning",
        "master-unreachable",
        f"the master socket: {exc}",
        "processes that a reload leaves behind cannot be seen or ended.",
        "haproxy -W -S /run/haproxy/master.sock,mode,660,level,admin",
    )


def _map_file(adapter: HaproxyAdapter) -> tuple[tuple[tuple[str, str], ...] | None, bool | None]:
    """Return the lines of the map file on this machine, and whether it may be replaced."""
    name = adapter.local_file or (Path(adapter.map_file) if adapter.map_file else None)
    if name is None or adapter.style != "map":
        return None, None
    try:
        text = name.read_text("utf-8", "replace")
    except OSError:
        # Another machine's, unless the file is ours to write: then it must be there.
        return ((), False) if adapter.local_file else (None, None)
    rows = (line.split(None, 1) for line in text.split("\n") if not line.lstrip().startswith("#"))
    lines = tuple((row[0], row[1].strip()) for row in rows if len(row) == 2)
    # A new file is renamed over the old one: it is the folder that must be ours.
    return lines, os.access(name.parent, os.W_OK | os.X_OK)
