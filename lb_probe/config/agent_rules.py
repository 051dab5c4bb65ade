"""Rules that span several values of one agent."""

from lb_probe.config.address import Address
from lb_probe.config.source import Spot, nearest, shown
from lb_probe.core.sync_schedule import is_too_often, parse_run_every


def judge(node: Spot, names: list[str | None]) -> None:
    """Note every fault of one node's agent.

    Args:
        names: Of all nodes of its group.
    """
    agent = node.at("agent")
    _judge_peer(agent.at("peer"), node.at("name").text, [name for name in names if name])
    heartbeat = agent.at("heartbeat")
    promotes = heartbeat.at("on_failure").value == "promote"
    if promotes and agent.at("commands", "promote_command").value is None:
        found = "promote without commands.promote_command"
        heartbeat.at("on_failure").fault(
            found, "commands: {promote_command: [PROGRAM, ...]} beside it"
        )
    waits = heartbeat.at("order").value in (None, "flip-then-promote")
    if promotes and waits and agent.at("report", "secret_file").value is None:
        heartbeat.at("on_failure").fault(
            "promote without report.secret_file: the prober could not tell that traffic came",
            "report: {listen: ..., secret_file: ...} of the agent, or order: promote-by-itself",
        )
    _judge_schedule(agent.at("sync", "schedule"))
    _judge_listeners(agent)
    _judge_trust(agent)
    for operator in agent.items("operators"):
        _judge_operator(operator)


def judge_peers(nodes: list[Spot]) -> None:
    """Note an agent that would trust nobody: trust takes two."""
    trusting = [spot for node in nodes if (spot := node.at("agent", "trust")).value is not None]
    if len(trusting) == 1:
        trusting[0].fault("trust on one node of the group", "it on its peer too")


def _judge_operator(operator: Spot) -> None:
    given = [key for key in ("user", "group") if operator.at(key).value is not None]
    if len(given) != 1:
        operator.fault(f"{' and '.join(given) or 'neither user nor group'}", "user or group")


def _judge_trust(agent: Spot) -> None:
    for key in ("connectivity", "parity"):
        if agent.at(key).value is not None and agent.at("trust").value is None:
            agent.at(key).fault(f"{key} without trust", "trust: {listen: ...} beside it")
    trust = agent.at("trust")
    _unique(agent.items("connectivity", "ports"), "port")
    _unique(agent.items("parity", "commands"), "name")
    address = trust.at("address").parsed(Address.parse)
    if address is not None and address.is_any:
        trust.at("address").fault(shown(trust.at("address").text), "an address that peers reach")


def _unique(spots: list[Spot], key: str) -> None:
    seen: set[object] = set()
    for spot in spots:
        value = spot.at(key).value
        if value is not None and value in seen:
            spot.at(key).fault(f"{shown(value)} again", f"each {key} once")
        seen.add(value)


def _judge_peer(peer: Spot, own: str | None, names: list[str]) -> None:
    others = [name for name in names if name != own]
    if peer.text is None or peer.text in others:
        return
    meant, use = nearest(peer.text, others)
    itself = ", the node itself" if peer.text == own else meant
    peer.fault(f"{shown(peer.text)}{itself}", use if len(others) > 1 else others[0])


def _judge_schedule(schedule: Spot) -> None:
    """Refuse a Run Every below the guide's 60 minutes, unless it says why (R10)."""
    every = schedule.at("run_every")
    seconds = every.parsed(parse_run_every)
    if seconds is None or not is_too_often(seconds) or schedule.at("because").text:
        return
    every.fault(shown(every.text), "60m or more, or `because: REASON` beside it")


def _judge_listeners(agent: Spot) -> None:
    """The listeners of one agent are on one host: each needs a port of its own."""
    taken: list[tuple[Address, Spot]] = []
    listeners = (("listen",), ("report", "listen"), ("trust", "listen"))
    for spot in (agent.at(*keys) for keys in listeners):
        address = spot.parsed(Address.parse)
        if address is None:
            continue
        for other, before in taken:
            is_host = address.host == other.host or address.is_any or other.is_any
            if is_host and address.port == other.port and address.port:
                found = f"{shown(spot.text)}, taken by {shown(before.text)} on line {before.line}"
                spot.fault(found, "another port")
        taken.append((address, spot))
