"""How an agent copies from its partner, wired."""

import contextlib
from collections.abc import Callable

from lb_probe.agent.node import Node, Part
from lb_probe.agent.peer_pages import PeerPages
from lb_probe.agent.replication.one_word import one_word
from lb_probe.agent.replication.part import Replication
from lb_probe.agent.replication.settings import FirstSchedule, Settings
from lb_probe.app.agent_watch import peer_pages
from lb_probe.config import GroupConfig, NodeConfig
from lb_probe.config.agent import AgentConfig
from lb_probe.config.sync import Sync
from lb_probe.ports import Invalid

_PAGES_S = 5.0  # to ask the partner's pages before a sync


def parts(group: GroupConfig, node: NodeConfig, peer: NodeConfig) -> list[Callable[[Node], Part]]:
    """Return what makes replication from this peer; the file has it."""
    agent = node.agent
    assert agent is not None
    assert agent.sync is not None
    settings = _settings(agent, agent.sync, node, peer)
    pages: PeerPages | None = None
    with contextlib.suppress(Invalid):  # its authority's file is the prober's, and not read here
        pages = peer_pages(group, peer, _PAGES_S)

    def replication(one: Node) -> Replication:
        if pages is not None:
            one.sync_guards.append(one_word(one, pages))
        return Replication(one, settings)

    return [replication]


def _settings(agent: AgentConfig, sync: Sync, node: NodeConfig, peer: NodeConfig) -> Settings:
    first, history = sync.schedule, agent.history_of(node.name)
    assert history is not None
    return Settings(
        history=history,
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
