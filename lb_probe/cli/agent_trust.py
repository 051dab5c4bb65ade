"""The verbs of an agent and its peers: whom it trusts, what it reaches, how alike they are."""

from pathlib import Path

import click

from lb_probe.cli.agent import agent, ask, node_of, node_option
from lb_probe.cli.top import config_file, config_option, format_option, local_errors, own_look, say
from lb_probe.cli.top import show as show_answer
from lb_probe.client import Json, Unusable
from lb_probe.render import agent_peers as view
from lb_probe.render.acts import warning_lines

_TEST_S = 120.0  # both ends, each port, several exchanges with pauses
_LARGEST_EXPORT = 32 * 1024


def _reason_option() -> click.Option:
    return click.Option(["--reason"], default="", metavar="TEXT", help="Why, for the record.")


@agent.group("trust")
def trust() -> None:
    """Whose keys this agent takes; nobody's by itself (R77, R78)."""


@trust.command(
    "init",
    params=[node_option(), config_option()],
    epilog="Example: lb-probe agent trust init --node epmm-a > epmm-a.trust.txt",
)
def trust_init(node: str | None) -> None:
    """Make the node's key where there is none, and print what its peers need of it.

    Without a running agent; an agent that starts makes its key itself.
    """
    from lb_probe import app

    with local_errors():
        export = app.init_trust(config_file(), node_of(node))
    say(export.splitlines())


@trust.command(
    "export",
    params=[node_option(), format_option(), config_option()],
    epilog="Example: lb-probe agent trust export --node epmm-a > epmm-a.trust.txt",
)
def trust_export(node: str | None, form: str) -> None:
    """Print what a peer needs to know this node; nothing of it is secret."""
    answer = ask(node_of(node), {"command": "trust-export"})
    show_answer(form, answer, lambda: str(answer.get("export", "")).splitlines())


@trust.command(
    "add",
    params=[
        click.Argument(["file"], type=click.Path(path_type=Path, allow_dash=True)),
        click.Option(
            ["--fingerprint"],
            required=True,
            metavar="SHA256",
            help="As `agent trust list` prints it on the other node: compare, do not copy.",
        ),
        node_option(),
        _reason_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent trust add epmm-b.trust.txt --fingerprint sha256:...",
)
def trust_add(file: Path, fingerprint: str, node: str | None, reason: str) -> None:
    """Take a peer's key from now on; needed on both sides."""
    request: Json = {"command": "trust-add", "fingerprint": fingerprint, "reason": reason}
    answer = ask(node_of(node), request | {"export": _export_in(file)})
    say(view.trust_block(answer, own_look()))


def _export_in(file: Path) -> str:
    try:
        with click.open_file(str(file), encoding="ascii", errors="replace") as stream:
            return str(stream.read(_LARGEST_EXPORT))
    except OSError as error:
        raise Unusable(
            f"{file}: found {error.strerror}; use what `trust export` printed"
        ) from error


@trust.command(
    "revoke",
    params=[
        click.Argument(["peer"]),
        click.Option(["--fingerprint"], default="", metavar="SHA256", help="One key of it only."),
        node_option(),
        _reason_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent trust revoke epmm-b --node epmm-a --reason 'machine lost'",
)
def trust_revoke(peer: str, fingerprint: str, node: str | None, reason: str) -> None:
    """Take a peer's keys no more, at once."""
    request = {"command": "trust-revoke", "peer": peer, "fingerprint": fingerprint}
    answer = ask(node_of(node), request | {"reason": reason})
    say(view.trust_block(answer, own_look()))


@trust.command(
    "list",
    params=[node_option(), format_option(), config_option()],
    epilog="Example: lb-probe agent trust list --node epmm-a",
)
def trust_list(node: str | None, form: str) -> None:
    """Show this node's fingerprint, every key it takes, and each direction."""
    answer = ask(node_of(node), {"command": "trust-list"})
    show_answer(form, answer, lambda: view.trust_block(answer, own_look()))


@trust.command(
    "rotate",
    params=[
        click.Option(["--finish"], is_flag=True, help="Use the next key; peers know it by now."),
        click.Option(["--override"], multiple=True, metavar="GATE", help="Open a gate by name."),
        node_option(),
        _reason_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent trust rotate --node epmm-a",
)
def trust_rotate(finish: bool, override: tuple[str, ...], node: str | None, reason: str) -> None:
    """Make the next key; with --finish, use it. In between every peer adds the new export."""
    request: Json = {"command": "trust-rotate", "finish": finish, "override": list(override)}
    answer = ask(node_of(node), request | {"reason": reason})
    say(warning_lines(answer), err=True)
    say(view.trust_block(answer, own_look()))


@agent.command(
    "test-connection",
    params=[
        click.Option(["--both"], is_flag=True, help="Let the peer test the way back, too."),
        click.Option(["--peer"], default="", metavar="NAME", help="Another than the partner."),
        node_option(),
        format_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent test-connection --node epmm-b --both",
)
def agent_test_connection(both: bool, peer: str, node: str | None, form: str) -> None:
    """Try every port, both clocks and keys; exit 1 where anything failed (R79)."""
    request: Json = {"command": "test-connection", "both": both, "peer": peer}
    answer = ask(node_of(node), request, _TEST_S)
    show_answer(form, answer, lambda: view.test_block(answer, own_look()))
    if answer.get("passed") is not True:
        raise click.exceptions.Exit(1)


@agent.command(
    "parity",
    params=[
        click.Option(["--exit-code"], is_flag=True, help="Exit 1 where a difference is an error."),
        node_option(),
        format_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent parity --node epmm-a",
)
def agent_parity(exit_code: bool, node: str | None, form: str) -> None:
    """Compare this node with its peer: machine, software, configuration, ways out (R9)."""
    answer = ask(node_of(node), {"command": "parity"}, _TEST_S)
    show_answer(form, answer, lambda: view.parity_block(answer, own_look()))
    found = answer.get("differences")
    differences = found if isinstance(found, list) else []
    if exit_code and (answer.get("detail") or any(d["severity"] == "error" for d in differences)):
        raise click.exceptions.Exit(1)
