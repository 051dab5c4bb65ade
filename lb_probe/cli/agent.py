"""The agent of a node: the daemon, and the verbs that talk to it."""

import click

from lb_probe import agent_peers_view, client, render, sync_view
from lb_probe.cli.top import (
    VerbGroup,
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


def node_option() -> click.Option:
    """Return the option that says which node of the file is meant."""
    return click.Option(["--node"], metavar="NAME", help="The node, as probes.yaml names it.")


@cli.group(
    cls=VerbGroup,
    section="Run",
    example="lb-probe agent --node epmm-a",
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
    from lb_probe import app

    with local_errors():
        control = app.agent_control(config_file(), node)
    return client.ask_agent(control, request, timeout_s)


@agent.command(
    "status",
    params=[node_option(), format_option(), config_option()],
    epilog="Example: lb-probe agent status --node epmm-a -o json",
)
def agent_status(node: str | None, form: str) -> None:
    """Show what the agent of this machine knows."""
    answer = ask(node_of(node), {"command": "status"})
    look = own_look()
    peers = agent_peers_view.status_lines(answer, look)
    syncs = sync_view.status_lines(answer, look)
    show(form, answer, lambda: [*render.agent_block(answer, look), *peers, *syncs])


@agent.group("failover")
def agent_failover() -> None:
    """Change the mode that a node's hastatus page shows."""


@agent_failover.command(
    "mode",
    params=[
        click.Argument(["mode"], type=click.Choice(["primary", "secondary"])),
        node_option(),
        click.Option(["--reason"], default="", metavar="TEXT", help="Why, for the agent's log."),
        config_option(),
    ],
    epilog="Example: lb-probe agent failover mode primary --node epmm-b --reason 'takeover'",
)
def agent_mode(mode: str, node: str | None, reason: str) -> None:
    """Make the node say Primary or Standby; moves no traffic, and may be repeated (R119)."""
    request = {"command": "failover-mode", "mode": mode, "reason": reason}
    answer = ask(node_of(node), request)
    say(render.warning_lines(answer), err=True)
    say(render.agent_block(answer, own_look()))
