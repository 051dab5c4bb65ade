"""Who may, and who did: tokens and the audit log."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from lb_probe import client
from lb_probe.cli.top import (
    Verb,
    VerbGroup,
    cli,
    config_file,
    config_option,
    connect,
    format_option,
    local_errors,
    own_look,
    say,
    show,
)
from lb_probe.client import Json
from lb_probe.render.lists import audit_table, token_table
from lb_probe.render.text import plain


@cli.group(cls=VerbGroup, section="Run", example="lb-probe token list", params=[config_option()])
def token() -> None:
    """Make, list and end the tokens of people and programs."""


@token.command(
    "create",
    cls=Verb,
    section="Run",
    example="lb-probe token create dana --role operator --group epmm --expires 90d > dana.token",
    params=[
        click.Argument(["name"]),
        click.Option(["--role"], type=click.Choice(["viewer", "operator", "admin"]), required=True),
        click.Option(
            ["--group", "groups"],
            multiple=True,
            metavar="GROUP",
            help="Only this group; repeatable.",
        ),
        click.Option(["--expires"], metavar="SPAN", help="Ends after 90d; never, when left out."),
        format_option(),
        config_option(),
    ],
)
def token_create(
    name: str, role: str, groups: tuple[str, ...], expires: str | None, form: str
) -> None:
    """Make a token and print it: this once, for it is kept as a hash."""
    order: Json = {"name": name, "role": role, "groups": list(groups), "expires": expires}
    answer = connect().new_token(order)
    scope = plain(", ".join(groups)) if groups else "all groups"
    ends = (
        f"until {own_look().time(answer.get('expires'))}" if answer.get("expires") else "for ever"
    )
    say(
        [
            f"{name}: {role} of {scope}, {ends}; this is the only time that it is shown",
            f"to use it: LB_PROBE_TOKEN_FILE=FILE; to end it: lb-probe token revoke {answer['id']}",
        ],
        err=True,
    )
    show(form, answer, lambda: [answer["token"]])


@token.command(
    "list",
    cls=Verb,
    section="Run",
    example="lb-probe token list",
    params=[format_option(), config_option()],
)
def token_list(form: str) -> None:
    """Show every token, also those that have ended; never a secret."""
    tokens = connect().tokens()
    show(form, {"tokens": tokens}, lambda: token_table(tokens, own_look()))


@token.command(
    "revoke",
    cls=Verb,
    section="Run",
    example="lb-probe token revoke dana",
    params=[click.Argument(["which"], metavar="NAME|ID"), format_option(), config_option()],
)
def token_revoke(which: str, form: str) -> None:
    """End a token and the sessions that it began, at once."""
    answer = connect().end_token(which)
    show(form, answer, lambda: [f"{plain(answer.get('name'))} opens nothing any more"])


def _audit_option() -> click.Option:
    return click.Option(
        ["--file", "file"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The log, or a copy of it; else the one beside the prober's store.",
    )


@cli.group(cls=VerbGroup, section="Read", example="lb-probe audit show", params=[config_option()])
def audit() -> None:
    """Read the record of logins, refusals and acts."""


@audit.command(
    "show",
    cls=Verb,
    section="Read",
    example="lb-probe audit show --limit 20",
    params=[
        click.Option(["--limit"], type=click.IntRange(1, 1_000_000), default=50, show_default=True),
        _audit_option(),
        format_option(),
        config_option(),
    ],
)
def audit_show(limit: int, file: Path | None, form: str) -> None:
    """Show the newest lines, newest last; every line before them is checked as well."""
    newest = list(deque(_audit_lines(file), maxlen=limit))
    show(form, {"audit": newest}, lambda: audit_table(newest, own_look()))


@audit.command(
    "verify",
    cls=Verb,
    section="Read",
    example="lb-probe audit verify --head 3f0c...",
    params=[
        click.Option(
            ["--head"],
            metavar="HASH",
            help="One that was kept elsewhere: its line must still be there.",
        ),
        _audit_option(),
        format_option(),
        config_option(),
    ],
)
def audit_verify(head: str | None, file: Path | None, form: str) -> None:
    """Check the chain of hashes; exit 1 where a line was changed or taken out."""
    last: Json = {"seq": 0, "hash": ""}
    found: object = None
    for line in _audit_lines(file):
        last = line
        if head is not None and line["hash"] == head.lower():
            found = line["seq"]
    if head is not None and found is None:
        raise client.ClientError(
            f"no line of {last['seq']} has the hash {head[:64]}: lines were cut off its end, or"
            " this is another log"
        )
    answer: Json = {"lines": last["seq"], "head": last["hash"], "line_of_head": found}
    told = f"; line {found} has the hash you gave" if found else ""
    show(form, answer, lambda: [f"{last['seq']} lines, no gap{told}; head {last['hash'] or '-'}"])


def _audit_lines(file: Path | None) -> Iterator[Json]:
    from lb_probe import app

    with local_errors():
        yield from app.audit_lines(app.audit_file(config_file()) if file is None else file)
