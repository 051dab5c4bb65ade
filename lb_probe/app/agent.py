"""The agent of one node, wired."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lb_probe.agent import check as agent_checks
from lb_probe.agent import daemon as agent_daemon
from lb_probe.agent.node import Node, Part
from lb_probe.agent.replication.pair import Pair
from lb_probe.agent.roles import Grant, Roles
from lb_probe.agent.utc import Utc, UtcSettings
from lb_probe.app import agent_watch
from lb_probe.app.loop import on_signals, run
from lb_probe.app.secret_files import secret_of
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Config,
    GroupConfig,
    NodeConfig,
    load,
)
from lb_probe.config.agent import AgentConfig
from lb_probe.core.clock_offset import Limits
from lb_probe.core.model import Page
from lb_probe.core.rank import rank_of
from lb_probe.events.log import Fanout, Log
from lb_probe.events.systemd import Systemd
from lb_probe.ports import (
    Invalid,
)

SWITCH_S = 0.0005


def run_agent(path: Path, node: str) -> int:
    """Run the agent of one node in the foreground until SIGTERM or SIGINT.

    Raises:
        ConfigError: The file cannot be used, or the node has no agent.
        LbProbeError: Its state, socket or address cannot be used.
    """
    config = load(path, as_=f"agent:{node}")
    agent_node(config, node)

    async def serve() -> int:
        stop = asyncio.Event()
        log = Fanout(Log().emit, Systemd().emit)
        on_signals(stop, log)
        clock, setup = SystemClock(), _setup(config, node)
        if config.notify is not None:
            from lb_probe.app.notify import agent_outbox  # aiohttp: 200 ms that others do not pay

            outbox = partial(agent_outbox, config, setup.state, node, clock)
            setup = replace(setup, open_outbox=outbox)
        await agent_daemon.run(setup, clock, stop, log)
        return 0

    # A check that looks around in a thread must give way to the pages sooner than after 5 ms.
    sys.setswitchinterval(SWITCH_S)
    return run(serve())


def agent_control(path: Path, node: str) -> Path:
    """Return the control socket of a node's agent.

    Raises:
        ConfigError: The file cannot be used, or the node has no agent.
    """
    _, found = agent_node(load(path, as_=f"agent:{node}"), node)
    assert found.agent is not None
    return found.agent.control


def init_trust(path: Path, node: str) -> str:
    """Make the key of a node's agent where there is none; return what its peers need of it.

    Raises:
        ConfigError: The file cannot be used, or the node has no agent.
        Invalid: The agent has no `trust`.
        LbProbeError: The key cannot be made, or the one that is there cannot be used.
    """
    _, found = agent_node(load(path, as_=f"agent:{node}"), node)
    if found.agent is None or found.agent.trust is None:
        raise Invalid(f"node {node} has no `trust:` under `agent:` in {path}")
    from lb_probe.agent.trust.identity import Keys
    from lb_probe.app.agent_peers import trust_folder

    return Keys(trust_folder(found), node).export()


def agent_node(config: Config, name: str) -> tuple[GroupConfig, NodeConfig]:
    """Return a node that we serve the pages for, and its group.

    Raises:
        Invalid: The file has no such node.
    """
    for group in config.groups:
        for node in group.nodes:
            if node.name == name and node.agent is not None:
                return group, node
    raise Invalid(f"node {name} has no `agent:` in {config.path}")


def _setup(config: Config, name: str) -> agent_daemon.Setup:
    group, node = agent_node(config, name)
    agent = node.agent
    assert agent is not None
    role = node.role
    assert role is not None  # groups of equals have no agents: they are refused
    report = agent.report
    return agent_daemon.Setup(
        node=name,
        group=group.name,
        role=role,
        listen=(agent.listen.host, agent.listen.port),
        control=agent.control,
        state=agent.state,
        checks=[_check(check) for check in agent.checks],
        drain_s=agent.drain_s,
        report=(report.listen.host, report.listen.port) if report else None,
        secret=secret_of(report.secret_file) if report and report.secret_file else b"",
        commands=agent_watch.commands_of(agent),
        roles=partial(Roles, grants_of(agent)) if agent.operators else None,
        parts=_parts(config, group, node),
    )


def grants_of(agent: AgentConfig) -> tuple[Grant, ...]:
    """Return who else may use an agent's control socket."""
    return tuple(
        Grant("user" if one.user else "group", one.user or one.group or "", rank_of(one.role))
        for one in agent.operators
    )


# ------------------------------------------------------------------ its features
def _parts(config: Config, group: GroupConfig, node: NodeConfig) -> list[Callable[[Node], Part]]:
    """Return what makes each feature that this node's file asks for, as the status shows them."""
    agent = node.agent
    assert agent is not None
    makers = agent_watch.parts(config, group, node)
    makers.append(lambda one: Utc(one, _utc_settings(agent)))
    if agent.trust is not None:
        from lb_probe.app import agent_peers  # cryptography: 100 ms that others do not pay

        makers += agent_peers.parts(config, group, node)
    peer = group.partner_of(node)
    if agent.sync is not None and peer is not None:
        from lb_probe.app import agent_sync

        makers += agent_sync.parts(group, node, peer)
    # Without a sync too: the partner may copy from here (R12).
    makers.append(lambda one: Pair(one, peer.url.host if peer is not None else ""))
    return makers


def _utc_settings(agent: AgentConfig) -> UtcSettings:
    server, trust = agent.time_server, agent.trust
    return UtcSettings(
        server=(server.host, server.port) if server else None,
        limits=Limits(trust.clock_warn_s, trust.clock_error_s) if trust else Limits(),
    )


# ------------------------------------------------------------------ checks
def _check(check: Any) -> agent_checks.Check:
    pace: dict[str, Any] = {
        "interval_s": check.interval_s,
        "timeout_s": check.timeout_s,
        "fall": check.fall,
        "rise": check.rise,
        "max_age_s": check.max_age_s,
        "pages": frozenset(() if check.informative else map(Page, check.pages)),
        "name": check.name,
    }
    return _CHECKS[check.type](pace, check)


_CHECKS: dict[str, Callable[[dict[str, Any], Any], agent_checks.Check]] = {
    "http": lambda pace, c: agent_checks.HttpCheck(
        **pace, url=str(c.url), expect_status=c.expect_status, expect=c.expect
    ),
    "tcp": lambda pace, c: agent_checks.TcpCheck(**pace, host=c.address.host, port=c.address.port),
    "command": lambda pace, c: agent_checks.CommandCheck(**pace, argv=tuple(c.argv)),
    "systemd": lambda pace, c: agent_checks.SystemdCheck(**pace, unit=c.unit),
    "disk": lambda pace, c: agent_checks.DiskCheck(
        **pace,
        path=str(c.path),
        min_free_percent=c.min_free.percent,
        min_free_bytes=c.min_free.size,
    ),
    "process": lambda pace, c: agent_checks.ProcessCheck(
        **pace, program=c.program, at_least=c.at_least, user=c.user
    ),
}
