"""The agent of a node: the daemon, and the verbs that talk to it."""

import click

from lb_probe import client, render
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


def _node_option() -> click.Option:
    return click.Option(["--node"], metavar="NAME", help="The node, as probes.yaml names it.")


@cli.group(
    cls=VerbGroup,
    section="Run",
    example="lb-probe agent --node epmm-a",
    invoke_without_command=True,
    params=[_node_option(), config_option()],
)
@click.pass_context
def agent(ctx: click.Context, node: str | None) -> None:
    """Serve a node's health pages; the daemon, or a subcommand that talks to it."""
    ctx.obj = node
    if ctx.invoked_subcommand is not None:
        return
    from lb_probe import app

    with local_errors():
        code = app.run_agent(config_file(), _node(node))
    raise click.exceptions.Exit(code)


def _node(given: str | None) -> str:
    node = given or click.get_current_context().find_object(str)
    if not node:
        raise click.UsageError("which node? for example: --node epmm-a")
    return node


def _ask_agent(node: str, request: Json) -> Json:
    from lb_probe import app

    with local_errors():
        control = app.agent_control(config_file(), node)
    return client.ask_agent(control, request)


@agent.command(
    "status",
    params=[_node_option(), format_option(), config_option()],
    epilog="Example: lb-probe agent status --node epmm-a -o json",
)
def agent_status(node: str | None, form: str) -> None:
    """Show what the agent of this machine knows."""
    answer = _ask_agent(_node(node), {"command": "status"})
    show(form, answer, lambda: render.agent_block(answer, own_look()))


@agent.group("failover")
def agent_failover() -> None:
    """Change the mode that a node's hastatus page shows."""


@agent_failover.command(
    "mode",
    params=[
        click.Argument(["mode"], type=click.Choice(["primary", "secondary"])),
        _node_option(),
        click.Option(["--reason"], default="", metavar="TEXT", help="Why, for the agent's log."),
        config_option(),
    ],
    epilog="Example: lb-probe agent failover mode primary --node epmm-b --reason 'takeover'",
)
def agent_mode(mode: str, node: str | None, reason: str) -> None:
    """Make the node say Primary or Standby; moves no traffic, and may be repeated (R119)."""
    request = {"command": "failover-mode", "mode": mode, "reason": reason}
    answer = _ask_agent(_node(node), request)
    say(render.warning_lines(answer), err=True)
    say(render.agent_block(answer, own_look()))
