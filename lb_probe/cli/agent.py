"""The agent of a node: the daemon, and the verbs that talk to it."""

import json
from pathlib import Path

import click

from lb_probe import client
from lb_probe.cli.top import (
    LateGroup,
    cli,
    config_file,
    config_option,
    format_option,
    local_errors,
    own_look,
    say,
    show,
)
from lb_probe.client import Json
from lb_probe.render import agent_peers, agent_sync
from lb_probe.render.acts import warning_lines
from lb_probe.render.agent import agent_block, heartbeat_line


def node_option() -> click.Option:
    """Return the option that says which node of the file is meant."""
    return click.Option(["--node"], metavar="NAME", help="The node, as probes.yaml names it.")


@cli.group(
    cls=LateGroup,
    section="Run",
    example="lb-probe agent --node epmm-a",
    late=("lb_probe.cli.agent_sync", "lb_probe.cli.agent_trust"),
    invoke_without_command=True,
    params=[node_option(), config_option()],
)
@click.pass_context
def agent(ctx: click.Context, node: str | None) -> None:
    """Serve a node's health pages; the daemon, or a subcommand that talks to it."""
    ctx.obj = node
    if ctx.invoked_subcommand is not None:
        return
    from lb_probe import app

    with local_errors():
        code = app.run_agent(config_file(), node_of(node))
    raise click.exceptions.Exit(code)


def node_of(given: str | None) -> str:
    """Return the node that was meant, here or before the subcommand.

    Raises:
        UsageError: None was.
    """
    node = given or click.get_current_context().find_object(str)
    if not node:
        raise click.UsageError("which node? for example: --node epmm-a")
    return node


def ask(node: str, request: Json, timeout_s: float = client.READ_TIMEOUT_S) -> Json:
    """Send one request to the agent of a node, and return its answer.

    Raises:
        ClientError: The agent does not answer, or says what is wrong.
    """
    return client.ask_agent(control_of(node), request, timeout_s)


def control_of(node: str) -> Path:
    """Return the control socket of a node's agent."""
    from lb_probe import app

    with local_errors():
        return app.agent_control(config_file(), node)


def act(
    node: str | None, command: str, reason: str, override: tuple[str, ...], **more: object
) -> None:
    """Send an act, and show its warnings and how the node is then."""
    said = {key: value for key, value in {"override": list(override), **more}.items() if value}
    request: Json = {"command": command, "reason": reason, **said}
    answer = ask(node_of(node), request, client.AGENT_ACT_TIMEOUT_S)
    say(warning_lines(answer), err=True)
    say(agent_block(answer, own_look()))


def reason_option() -> click.Option:
    """Return the option that says why something is done."""
    return click.Option(["--reason"], default="", metavar="TEXT", help="Why, for the record.")


def override_option() -> click.Option:
    """Return the option that opens a gate by its name."""
    return click.Option(
        ["--override"], multiple=True, metavar="GATE", help="Open a gate that a refusal named."
    )


# ------------------------------------------------------------------ reading
@agent.command(
    "status",
    params=[node_option(), format_option(), config_option()],
    epilog="Example: lb-probe agent status --node epmm-a -o json",
)
def agent_status(node: str | None, form: str) -> None:
    """Show what the agent of this machine knows."""
    answer = ask(node_of(node), {"command": "status"})
    look = own_look()
    peers = agent_peers.status_lines(answer, look)
    syncs = [
        *agent_sync.pair_lines(answer, look),
        *agent_sync.status_lines(answer, look),
    ]
    show(form, answer, lambda: [*agent_block(answer, look), *peers, *syncs])


@agent.group("logs")
def agent_logs() -> None:
    """Read what the agent keeps of its own doings."""


@agent_logs.command(
    "heartbeat",
    params=[
        node_option(),
        click.Option(["--follow", "-f"], is_flag=True, help="Go on with what comes."),
        click.Option(
            ["--lines", "-n"], type=click.IntRange(0, 1000), default=20, show_default=True
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="One JSON object a line."),
        format_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent logs heartbeat --follow --node epmm-b",
)
def agent_logs_heartbeat(
    node: str | None, follow: bool, lines: int, as_json: bool, form: str
) -> None:
    """Show each attempt to reach the peer: result, count, when next (R100).

    With --follow there is no end, so `-o` has no document to print: take --json.
    """
    if follow and form != "table":
        raise click.UsageError(f"--follow has no end, and -o {form} is one document; use --json")
    request: Json = {"command": "logs-heartbeat", "follow": follow, "lines": lines}
    look = own_look()
    silence_s = None if follow else client.READ_TIMEOUT_S
    entries = client.follow_agent(control_of(node_of(node)), request, silence_s)
    if form != "table":
        show(form, {"heartbeat": list(entries)}, list)
        return
    for entry in entries:
        say([json.dumps(entry) if as_json else heartbeat_line(entry, look)])


# ------------------------------------------------------------------ acting
@agent.group("failover")
def agent_failover() -> None:
    """Change what the node is to its pair: the guide's commands of this name."""


@agent_failover.command(
    "mode",
    params=[
        click.Argument(["mode"], type=click.Choice(["primary", "secondary"])),
        node_option(),
        reason_option(),
        override_option(),
        click.Option(
            ["--restart-scheduler"],
            is_flag=True,
            help="With secondary: start the replication schedule as well.",
        ),
        config_option(),
    ],
    epilog="Example: lb-probe agent failover mode primary --node epmm-b --reason 'takeover'",
)
def agent_mode(
    mode: str, node: str | None, reason: str, override: tuple[str, ...], restart_scheduler: bool
) -> None:
    """Make the node say Primary or Standby; moves no traffic, and may be repeated (R119)."""
    more = {"mode": mode, "restart_scheduler": restart_scheduler}
    act(node, "failover-mode", reason, override, **more)


@agent_failover.command(
    "client-connection",
    params=[
        click.Argument(
            ["word"], metavar="disable|enable", type=click.Choice(["disable", "enable"])
        ),
        node_option(),
        reason_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent failover client-connection disable --node epmm-a",
)
def agent_clients(word: str, node: str | None, reason: str) -> None:
    """Turn new clients away, or take them again, by the command in probes.yaml (R123, R124)."""
    act(node, f"client-{word}", reason, ())


@agent.group("ha")
def agent_ha() -> None:
    """Turn this node's heartbeat, promotion and schedule on or off; off until enabled (R68)."""


@agent_ha.command(
    "enable",
    params=[node_option(), reason_option(), config_option()],
    epilog="Example: lb-probe agent ha enable --node epmm-b",
)
def agent_ha_enable(node: str | None, reason: str) -> None:
    """Let the node watch its peer, sync by its schedule, and promote itself where it may."""
    act(node, "ha-enable", reason, ())


@agent_ha.command(
    "disable",
    params=[node_option(), reason_option(), config_option()],
    epilog="Example: lb-probe agent ha disable --node epmm-b --reason 'upgrade'",
)
def agent_ha_disable(node: str | None, reason: str) -> None:
    """Stop all that; a sync that runs goes on to its end (R69)."""
    act(node, "ha-disable", reason, ())
