"""How an agent watches its partner, wired: the heartbeat, and who makes way of two Primaries."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from lb_probe.agent.heartbeat import Heartbeat
from lb_probe.agent.node import Node, Part
from lb_probe.agent.peer_pages import PeerPages
from lb_probe.agent.promotion import Commands, Promotion
from lb_probe.agent.returning import Returning
from lb_probe.app.targets import targets_of
from lb_probe.clock import SystemClock
from lb_probe.config import Config, GroupConfig, NodeConfig
from lb_probe.config.agent import AgentConfig
from lb_probe.config.heartbeat import Heartbeat as HeartbeatConfig
from lb_probe.core.heartbeat import Controls
from lb_probe.core.model import Gate, Page
from lb_probe.ports import Invalid
from lb_probe.prober.http_probe import Target
from lb_probe.prober.tcp_probe import connects

_LOOK_S = 10.0  # between two looks at the peer, for the status and for a second Primary


def parts(config: Config, group: GroupConfig, node: NodeConfig) -> list[Callable[[Node], Part]]:
    """Return what makes the watch of a pair, and the heartbeat where the file has one."""
    agent = node.agent
    assert agent is not None
    peer = group.partner_of(node)
    if peer is None:
        return []
    controls = agent.heartbeat or HeartbeatConfig()
    try:
        seen = peer_pages(group, peer, controls.timeout_s)
    except Invalid:  # its authority's file is the prober's, and not read here
        return []
    makers: list[Callable[[Node], Part]] = [
        lambda one: Returning(one, seen, min(_LOOK_S, controls.interval_s))
    ]
    if agent.heartbeat is not None:
        watched = peer_pages(group, peer, controls.timeout_s, agent.heartbeat.tcp_ports)
        references = [(a.host, a.port) for a in config.reference_targets]
        makers.append(lambda one: _heartbeat(one, watched, controls, agent, references))
    return makers


def peer_pages(
    group: GroupConfig, peer: NodeConfig, timeout_s: float, ports: tuple[int, ...] = ()
) -> PeerPages:
    """Return what asks a partner's pages.

    Raises:
        Invalid: A file of its TLS cannot be read.
    """
    targets = _peer_targets(group, peer, timeout_s, ports)
    return PeerPages(peer.name, targets, SystemClock().monotonic)


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
    return Heartbeat(
        node,
        peer,
        controls,
        Promotion(node, commands_of(agent)) if promotes else None,
        waits_for_traffic=config.order == "flip-then-promote",
    )


async def _not_isolated(references: list[tuple[str, int]], timeout_s: float) -> Gate:
    """Judge whether anything that should always answer does: all silent means it is us."""
    answers = await asyncio.gather(*(connects(*one, timeout_s) for one in references))
    found = f"{sum(answers)} of {len(answers)} reference_targets answer"
    return Gate("not-isolated", any(answers), found, "one or more: else it is this node's network")


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


def commands_of(agent: AgentConfig) -> Commands:
    """Return the operator's programs as the agent runs them."""
    given = agent.commands
    return Commands(
        promote=given.promote_command or (),
        demote=given.demote_command or (),
        client_disable=given.client_disable_command or (),
        client_enable=given.client_enable_command or (),
        timeout_s=given.timeout_s,
        verify_s=given.verify_s,
    )
