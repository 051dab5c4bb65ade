"""Verbs that act: plan, gates, confirmation, and the line to paste (X5, X13, X14)."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from lb_probe import client
from lb_probe.cli.top import (
    DURATION,
    Verb,
    cli,
    config_file,
    config_option,
    connect,
    local_errors,
    own_line,
    own_look,
    register,
    say,
)
from lb_probe.client import Json
from lb_probe.render.acts import done_lines, gates_of, offline_block, plan_block
from lb_probe.render.text import Look, plain

ACTS = (
    ("resume", "Give traffic back to the Primary; ends the latch.", "'repaired, synced 10:42Z'"),
    ("failover", "Force traffic to another node, now; loss is possible.", "'rack burns'"),
    ("switchover", "Move traffic in a planned way, with both nodes well.", "'kernel update'"),
    ("hold", "No automatic move until a time; repairs go on.", "'upgrade'"),
    ("release", "End a hold; says so when that fails over at once.", "'upgrade done'"),
    ("swap-roles", "Make the node with the traffic the Primary.", "'staying on epmm-b'"),
    ("ack", "Say that you have seen it; changes nothing else.", "'on it'"),
    ("accept", "Take what the load balancers do for the assignment.", "'moved on the F5'"),
    ("republish", "Write our assignment to the load balancers again.", "'undo the other writer'"),
)
EXTRA_OPTIONS: dict[str, Callable[[], list[click.Option]]] = {
    "failover": lambda: [
        click.Option(["--to", "to"], metavar="NODE", help="Another node than the candidate."),
    ],
    "hold": lambda: [
        click.Option(["--for", "for_"], metavar="TIME", help="How long: 90m, 2h; required."),
        click.Option(["--hands-off"], is_flag=True, help="Write nothing at all, repairs included."),
    ],
}
EXTRA_EXAMPLE = {"hold": " --for 2h"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the operator asked for.

    Attributes:
        line: The same as a command line, to paste.
    """

    verb: str
    group: str
    order: Json
    line: list[str]


def _add_acts() -> None:
    for name, text, reason in ACTS:
        example = f"lb-probe {name} epmm{EXTRA_EXAMPLE.get(name, '')} --reason {reason}"
        params: list[click.Parameter] = [
            click.Argument(["group"]),
            *EXTRA_OPTIONS.get(name, list)(),
            *_acting_options(),
            config_option(),
        ]
        cli.add_command(
            Verb(
                name,
                callback=_act_of(name, example),
                params=params,
                help=text,
                section="Act",
                example=example,
            )
        )


def _acting_options() -> list[click.Option]:
    return [
        click.Option(["--reason"], metavar="TEXT", help="Why; required, goes into the history."),
        click.Option(["--yes"], is_flag=True, help="Do not ask; opens no gate."),
        click.Option(["--dry-run"], is_flag=True, help="Show the literal commands, do nothing."),
        click.Option(
            ["--override"], multiple=True, metavar="GATE", help="Open a gate at your own risk."
        ),
        click.Option(
            ["--attest"], multiple=True, metavar="GATE=TEXT", help="Vouch for a gate, in words."
        ),
    ]


def _act_of(verb: str, example: str) -> Callable[..., None]:
    def run(**given: Any) -> None:
        asked = _asked(verb, example, given)
        if given["dry_run"]:
            _dry_run(asked)
        else:
            _act(asked, yes=given["yes"])

    return run


def _reason(given: str | None, example: str) -> str:
    if given is None or not given.strip():
        raise click.UsageError(f"--reason is required: it goes on record. Example: {example}")
    return given.strip()


def _asked(verb: str, example: str, given: Json) -> _Asked:
    order: Json = {"reason": _reason(given["reason"], example)}
    line = [*own_line(), verb, given["group"]]
    to = given.get("to")
    if to == "":  # a script's variable that is not set
        raise click.UsageError(f"--to: found no name; leave it out for the candidate. {example}")
    if to:
        order["to"] = to
        line += ["--to", to]
    if verb == "hold":
        order["for"] = _duration(given["for_"], example)
        order["hands_off"] = given["hands_off"]
        line += ["--for", order["for"], *(["--hands-off"] if given["hands_off"] else [])]
    order["override"] = list(given["override"])
    order["attest"] = dict(_attested(text) for text in given["attest"])
    line += ["--reason", order["reason"]]
    line += [part for gate in given["override"] for part in ("--override", gate)]
    line += [part for text in given["attest"] for part in ("--attest", text)]
    return _Asked(verb, given["group"], order, line)


def _duration(given: str | None, example: str) -> str:
    if given is None or not DURATION.fullmatch(given):
        found = "nothing" if given is None else repr(given)
        raise click.UsageError(f"--for: found {found}; use 90m or 2h. Example: {example}")
    return given


def _attested(text: str) -> tuple[str, str]:
    gate, _, words = text.partition("=")
    if not gate or not words.strip():
        raise click.UsageError(
            f"--attest: found {text!r}; use GATE=TEXT, for example synced='Completed 10:42Z'"
        )
    return gate, words.strip()


def _dry_run(asked: _Asked) -> None:
    answer = connect().plan(asked.verb, asked.group, asked.order)
    say(plan_block(answer["plan"], own_look()))
    _check_passed(asked, answer)


def _act(asked: _Asked, *, yes: bool) -> None:
    _need_terminal(yes=yes, line=asked.line)
    api = connect()
    answer = api.plan(asked.verb, asked.group, asked.order)
    plan = answer["plan"]
    _check_passed(asked, answer)
    _confirm(asked.group, plan_block(plan, Look()), yes=yes, line=asked.line)
    # The generation that was shown is the one that is acted on; another one is exit 5.
    order = {**asked.order, "generation": plan["generation"]}
    try:
        group = api.act(asked.verb, asked.group, order)
    except client.Conflict as error:
        now = "another one" if error.generation is None else str(error.generation)
        raise client.Conflict(
            f"{asked.group} changed after the plan was made: generation {now} is in force,"
            f" the plan was for {plan['generation']}; nothing was done\n"
            f"look again and repeat: lb-probe status {asked.group}; {shlex.join(asked.line)}",
            error.generation,
        ) from error
    say(done_lines(asked.verb, plan, group, own_look()))


def _check_passed(asked: _Asked, answer: Json) -> None:
    if answer["passed"]:
        return
    plan = answer["plan"]
    paste = str(answer.get("paste") or plan.get("paste") or "")
    message = f"{asked.verb} {asked.group} is refused; nothing was done"
    raise client.Refused(message, gates_of(plan), paste or _own_paste(asked, plan))


def _own_paste(asked: _Asked, plan: Json) -> str:
    closed = [str(g.get("id")) for g in gates_of(plan) if g.get("passed") is not True]
    missing = [gate for gate in closed if gate not in asked.order["override"]]
    # A gate that was overridden and is closed all the same opens for nobody.
    if len(missing) < len(closed):
        return ""
    return shlex.join([*asked.line, *(part for g in missing for part in ("--override", g))])


def _need_terminal(*, yes: bool, line: list[str]) -> None:
    """Refuse before anything is asked of anybody: a script must never hang on a question.

    Raises:
        Refused: There is nobody to ask, and no --yes.
    """
    if not yes and not sys.stdin.isatty():
        raise client.Refused(
            "there is no terminal to confirm on, and no --yes; nothing was done",
            paste=shlex.join([*line, "--yes"]),
        )


def _confirm(group: str, plan: list[str], *, yes: bool, line: list[str]) -> None:
    _need_terminal(yes=yes, line=line)
    say(plan, err=True)
    if yes:
        return
    try:
        typed = click.prompt(
            f"Type the group's name ({plain(group)}) to go ahead",
            default="",
            show_default=False,
            err=True,
        )
    except click.Abort:
        typed = ""
    if typed != group:
        raise client.Refused(f"not confirmed: found {typed!r}, wanted {group!r}; nothing was done")


@register(
    "Act",
    "lb-probe publish epmm --to epmm-b --offline --reason 'prober host is down'",
    click.Argument(["group"]),
    click.Option(["--to", "to"], required=True, metavar="NODE", help="Where traffic shall go."),
    click.Option(["--offline"], is_flag=True, help="Say that no prober is asked."),
    click.Option(["--reason"], metavar="TEXT", help="Why; required, goes into the note."),
    click.Option(["--yes"], is_flag=True, help="Do not ask."),
)
def publish(group: str, to: str, offline: bool, reason: str | None, yes: bool) -> None:
    """Break-glass: straight to the load balancers, without prober or store."""
    line = [*own_line(), "publish", group, "--to", to, "--offline", "--reason", reason or "why"]
    if not offline:
        raise click.UsageError(
            "publish asks no prober, checks no gate and saves no state; say so with --offline."
            f" While the prober answers use: lb-probe failover {group} --to {to} --reason 'why'"
        )
    why = _reason(reason, shlex.join(line))
    file = config_file()
    plan = [f"publish {group}: traffic -> {to}, straight to the load balancers of {file}"]
    _confirm(group, plan, yes=yes, line=line)
    from lb_probe import app

    with local_errors():
        results = app.publish_offline(file, group, to, why)
    say(offline_block(results, own_look()))
    failed = [str(r.get("name")) for r in results if r.get("ok") is not True]
    if failed:
        names = ", ".join(failed)
        raise client.ClientError(f"not done on {names}; give the command again, or act there")


_add_acts()
