"""The agent of one node, wired."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lb_probe.agent import check as agent_checks
from lb_probe.agent import daemon as agent_daemon
from lb_probe.agent.heartbeat import Heartbeat
from lb_probe.agent.node import Node, Part
from lb_probe.agent.peer_pages import PeerPages
from lb_probe.agent.promotion import Commands, Promotion
from lb_probe.agent.replication.part import Replication
from lb_probe.agent.replication.settings import FirstSchedule, Settings
from lb_probe.agent.replication.stop import SafeToStop
from lb_probe.agent.returning import Returning
from lb_probe.app.loop import on_signals, run
from lb_probe.app.parts import targets_of
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Config,
    GroupConfig,
    NodeConfig,
    load,
)
from lb_probe.config.agent import AgentConfig
from lb_probe.config.heartbeat import Heartbeat as HeartbeatConfig
from lb_probe.config.sync import Sync
from lb_probe.core.heartbeat import Controls
from lb_probe.core.model import Gate, Page, Role
from lb_probe.events.log import Fanout, Log
from lb_probe.events.systemd import Systemd
from lb_probe.ports import (
    Invalid,
)
from lb_probe.prober.http_probe import Target
from lb_probe.prober.tcp_probe import connects


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
        await agent_daemon.run(_setup(config, node), SystemClock(), stop, log)
        return 0

    return run(serve())


def agent_control(path: Path, node: str) -> Path:
    """Return the control socket of a node's agent.

    Raises:
        ConfigError: The file cannot be used, or the node has no agent.
    """
    _, found = agent_node(load(path, as_=f"agent:{node}"), node)
    assert found.agent is not None
    return found.agent.control


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
        commands=_commands(agent),
        parts=_parts(config, group, node),
    )


def _commands(agent: AgentConfig) -> Commands:
    given = agent.commands
    return Commands(
        promote=given.promote_command or (),
        demote=given.demote_command or (),
        client_disable=given.client_disable_command or (),
        client_enable=given.client_enable_command or (),
        timeout_s=given.timeout_s,
        verify_s=given.verify_s,
    )


# ------------------------------------------------------------------ its features
LOOK_S = 10.0  # between two looks at the peer, for the status and for a second Primary


def _parts(config: Config, group: GroupConfig, node: NodeConfig) -> list[Callable[[Node], Part]]:
    """Return what makes each feature that this node's file asks for."""
    agent = node.agent
    assert agent is not None
    peer = peer_of(group, node)
    if peer is None:
        return [SafeToStop]
    controls = agent.heartbeat or HeartbeatConfig()
    clock = SystemClock()

    def pages(ports: tuple[int, ...] = ()) -> PeerPages:
        targets = _peer_targets(group, peer, controls.timeout_s, ports)
        return PeerPages(peer.name, targets, clock.monotonic)

    try:
        seen = pages()
    except OSError:  # its authority's file is the prober's, and not read here
        return [SafeToStop]
    makers: list[Callable[[Node], Part]] = [
        lambda one: Returning(one, seen, min(LOOK_S, controls.interval_s))
    ]
    if agent.heartbeat is not None:
        watched = pages(agent.heartbeat.tcp_ports)
        references = [(a.host, a.port) for a in config.reference_targets]
        makers.append(lambda one: _heartbeat(one, watched, controls, agent, references))
    if agent.sync is not None:
        settings = _sync(agent, agent.sync, node, peer)
        makers.append(lambda one: Replication(one, settings))
    return [*makers, SafeToStop]


def _sync(agent: AgentConfig, sync: Sync, node: NodeConfig, peer: NodeConfig) -> Settings:
    first = sync.schedule
    return Settings(
        history=sync.history or agent.state.with_name(f"{node.name}.sync.db"),
        peer=peer.name,
        addresses=(peer.url.host,),
        sync_command=sync.sync_command,
        count_command=sync.count_command,
        salvage_command=sync.salvage_command,
        timeout_s=sync.timeout_s,
        initial_timeout_s=sync.initial_timeout_s,
        stop_s=sync.stop_within_s,
        marker=sync.marker,
        schedule=FirstSchedule(first.start_s, first.run_every_s, first.because or "")
        if first
        else None,
        overdue_s=sync.overdue_s,
        inhibits=sync.inhibit,
    )


def _heartbeat(
    node: Node,
    peer: PeerPages,
    config: HeartbeatConfig,
    agent: AgentConfig,
    references: list[tuple[str, int]],
) -> Heartbeat:
    controls = Controls(config.interval_s, config.failures, config.recheck_s, config.timeout_s)
    if references:
        node.promote_guards.append(lambda: _not_isolated(references, config.timeout_s))
    promotes = config.on_failure == "promote"
    return Heartbeat(node, peer, controls, Promotion(node, _commands(agent)) if promotes else None)


async def _not_isolated(references: list[tuple[str, int]], timeout_s: float) -> Gate:
    """Judge whether anything that should always answer does: all silent means it is us."""
    answers = await asyncio.gather(*(connects(*one, timeout_s) for one in references))
    found = f"{sum(answers)} of {len(answers)} reference_targets answer"
    return Gate("not-isolated", any(answers), found, "one or more: else it is this node's network")


def peer_of(group: GroupConfig, node: NodeConfig) -> NodeConfig | None:
    """Return the partner of a node; None where a group has no other."""
    given = node.agent.peer if node.agent else None
    for other in group.nodes:
        if given is not None:
            is_it = other.name == given
        else:
            is_it = other.candidate if node.role is Role.PRIMARY else other.role is Role.PRIMARY
        if is_it and other.name != node.name:
            return other
    return None


def _peer_targets(
    group: GroupConfig, peer: NodeConfig, timeout_s: float, ports: tuple[int, ...]
) -> tuple[Target, ...]:
    # Not from the prober's source address: that is of another machine.
    pages = [
        replace(target, timeout_s=timeout_s, connection="fresh", source=None)
        for target in targets_of(group)
        if target.node == peer.name
    ]
    host = peer.url.host
    connections = [
        Target(group.name, peer.name, Page.STATUS, "tcp", host, port, "", timeout_s=timeout_s)
        for port in ports
    ]
    return (*pages, *connections)


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
