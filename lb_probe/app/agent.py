"""The agent of one node, wired."""

import asyncio
from pathlib import Path
from typing import Any

from lb_probe.agent import checks as agent_checks
from lb_probe.agent import daemon as agent_daemon
from lb_probe.app.loop import on_signals, run
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Config,
    GroupConfig,
    NodeConfig,
    load,
)
from lb_probe.core.model import Page
from lb_probe.events.log import Fanout, Log
from lb_probe.events.systemd import Systemd
from lb_probe.ports import (
    Invalid,
)


def run_agent(path: Path, node: str) -> int:
    """Run the agent of one node in the foreground until SIGTERM or SIGINT.

    Raises:
        ConfigError: The file cannot be used, or the node has no agent.
        LbProbeError: Its state, socket or address cannot be used.
    """
    config = load(path, as_=f"agent:{node}")
    _, found = agent_node(config, node)
    agent = found.agent
    assert agent is not None
    role = found.role
    assert role is not None  # groups of equals have no agents: they are refused

    async def serve() -> int:
        stop = asyncio.Event()
        log = Fanout(Log().emit, Systemd().emit)
        on_signals(stop, log)
        await agent_daemon.run(
            node,
            role,
            (agent.listen.host, agent.listen.port),
            agent.control,
            agent.state,
            [_agent_check(c) for c in agent.checks],
            agent.drain_s,
            SystemClock(),
            stop,
            log,
        )
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


def _agent_check(check: Any) -> agent_checks.Check:
    pace: dict[str, Any] = {
        "interval_s": check.interval_s,
        "timeout_s": check.timeout_s,
        "fall": check.fall,
        "rise": check.rise,
        "max_age_s": check.max_age_s,
        "pages": frozenset(Page(page) for page in check.pages),
        "name": check.name,
    }
    if check.type == "http":
        return agent_checks.HttpCheck(
            **pace, url=str(check.url), expect_status=check.expect_status, expect=check.expect
        )
    if check.type == "tcp":
        return agent_checks.TcpCheck(**pace, host=check.address.host, port=check.address.port)
    return agent_checks.CommandCheck(**pace, argv=tuple(check.argv))
