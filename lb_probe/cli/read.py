"""Verbs that read: the file, a page, the state of the groups."""

import math
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from lb_probe import client
from lb_probe.cli.top import (
    WATCH_S,
    Faults,
    Verb,
    VerbGroup,
    cli,
    config_file,
    config_option,
    connect,
    format_option,
    local_errors,
    own_look,
    register,
    say,
    show,
    terminal_size,
)
from lb_probe.client import Json
from lb_probe.columns import wide, wrap
from lb_probe.render.group import group_block, status_table
from lb_probe.render.levels import is_moved, nagios, serving
from lb_probe.render.lists import settings_table
from lb_probe.render.probe import probe_block
from lb_probe.render.text import Look, document, lines_of


@register(
    "Read",
    "lb-probe check --as prober",
    click.Option(
        ["--as", "as_"],
        metavar="prober|agent:NAME",
        help="As that process would read it, with the secrets that it uses.",
    ),
    click.Option(["--offline"], is_flag=True, help="Ask no node and no load balancer."),
    format_option(),
)
def check(as_: str | None, offline: bool, form: str) -> None:
    """Validate probes.yaml and what is around it; exit 2 with every mistake.

    What nodes and load balancers say is a warning: the file may be right and a machine down.
    """
    from lb_probe import app

    if as_ not in (None, "prober") and not re.fullmatch("agent:.+", as_):
        raise click.UsageError(f"--as: found {as_!r}; use prober or agent:NAME")
    file = config_file()
    try:
        with local_errors():
            warnings = [
                str(warning)
                for warning in app.check(file, as_ or "check", looks_around=not offline)
            ]
    except Faults as error:
        if form != "table":
            found = {"file": str(file), "ok": False, "faults": error.faults}
            click.echo(document(found, form))
        raise
    counts = _counts(file)
    answer = {"file": str(file), "ok": True, **counts, "warnings": warnings}
    sentence = ", ".join(_counted(n, words) for words, n in counts.items())
    more = f"; {_counted(len(warnings), 'warnings')} above" if warnings else ""
    show(form, answer, lambda: [*warnings, f"{file}: ok: {sentence}{more}"])


@cli.group(
    cls=VerbGroup,
    section="Read",
    example="lb-probe config show --diff-defaults",
    params=[config_option()],
)
def config() -> None:
    """What probes.yaml comes to."""


@config.command(
    "show",
    cls=Verb,
    section="Read",
    example="lb-probe config show --diff-defaults",
    params=[
        click.Option(["--diff-defaults"], is_flag=True, help="Only what differs from its default."),
        format_option(),
        config_option(),
    ],
)
def config_show(diff_defaults: bool, form: str) -> None:
    """Show every key that is in force, and where it differs from its default."""
    from lb_probe import app

    file = config_file()
    with local_errors():
        found = app.effective(file)
    found = [one for one in found if not (diff_defaults and one["is_default"])]
    show(
        form,
        {"file": str(file), "settings": found},
        lambda: settings_table(found, own_look()),
    )


def _counted(number: int, words: str) -> str:
    words = words.replace("_", " ")
    return f"{number} {words.removesuffix('s') if number == 1 else words}"


def _counts(file: Path) -> dict[str, int]:
    groups = [g for g in client.read_yaml(file).get("groups") or () if isinstance(g, dict)]
    return {
        "groups": len(groups),
        "nodes": sum(len(g.get("nodes") or ()) for g in groups),
        "load_balancers": sum(len(g.get("adapters") or ()) for g in groups),
    }


@register(
    "Read",
    "lb-probe probe epmm/epmm-b",
    click.Argument(["target"]),
    format_option(),
    click.Option(
        ["--capture"],
        is_flag=True,
        help="Write the raw answers into a new file here, for a bug report; secrets are hidden.",
    ),
    click.Option(
        ["--with-addresses"],
        is_flag=True,
        help="Leave addresses and names of machines in that file.",
    ),
)
def probe(target: str, form: str, capture: bool, with_addresses: bool) -> None:
    """Probe GROUP/NODE once, now, from this machine; a failed probe is an answer (exit 0)."""
    from lb_probe import app

    group, _, node = target.partition("/")
    if not group or not node:
        raise click.UsageError(f"found {target!r}; use GROUP/NODE, for example epmm/epmm-b")
    if with_addresses and not capture:
        raise click.UsageError("--with-addresses is about a file; add --capture")
    folder = Path() if capture else None
    with local_errors():
        answer = app.probe_once(config_file(), group, node, folder, with_addresses=with_addresses)
    show(form, answer, lambda: probe_block(answer, own_look()))


@register(
    "Read",
    "lb-probe status -w",
    click.Argument(["group"], required=False),
    format_option(),
    click.Option(
        ["-w", "--watch"],
        is_flag=False,
        flag_value=str(WATCH_S),
        metavar="[SECS]",
        help="Draw again every SECS seconds (2) until Ctrl-C, through outages of the API as well.",
    ),
    click.Option(
        ["--exit-code"],
        is_flag=True,
        help="Leave with 10 when a group is failed over, 11 when one is not served.",
    ),
)
def status(group: str | None, form: str, watch: str | None, exit_code: bool) -> None:
    """Show every group, worst first, or all about one."""
    if watch is not None:
        every_s, group = _watch_arguments(watch, group)
        if form != "table" or exit_code:
            raise click.UsageError("-w draws a table until Ctrl-C; drop -w, -o or --exit-code")
        _watch(_Picture(connect(), group), every_s)
        return
    picture = _Picture(connect(), group)
    groups = picture.fetch()
    show(form, {"groups": groups}, lambda: picture.lines(groups, own_look()))
    if exit_code:
        raise click.exceptions.Exit(_trouble(groups))


def _trouble(groups: list[Json]) -> int:
    if any(serving(group) not in (None, "ok") for group in groups):
        return 11
    return 10 if any(is_moved(group) for group in groups) else 0


@dataclass(frozen=True, slots=True)
class _Picture:
    """What status shows: every group, or one."""

    api: client.Client
    group: str | None

    def fetch(self) -> list[Json]:
        return self.api.groups() if self.group is None else [self.api.group(self.group)]

    def lines(self, groups: list[Json], look: Look) -> list[str]:
        if self.group is None:
            return status_table(groups, look)
        return group_block(groups[0], look)


def _watch_arguments(watch: str, group: str | None) -> tuple[float, str | None]:
    try:
        every_s = float(watch)
    except ValueError:
        # `status -w epmm`: the option took the group for its seconds.
        if group is not None:
            raise click.UsageError(f"-w {watch!r}: use seconds, for example -w 5") from None
        return WATCH_S, watch
    if not math.isfinite(every_s) or not 0.1 <= every_s <= 3600:
        raise click.UsageError(f"-w {watch}: use 0.1 to 3600 seconds")
    return every_s, group


def _watch(picture: _Picture, every_s: float) -> None:
    from lb_probe.clock import SystemClock

    clock = SystemClock()
    seen_at: float | None = None
    lines: list[str] = []
    try:
        while True:
            look = own_look()
            head = f"live from {picture.api.address}"
            try:
                lines = picture.lines(picture.fetch(), look)
                seen_at = clock.monotonic()
            except client.ClientError as error:
                if seen_at is None and error.exit_code in (2, 4):
                    raise
                age = None if seen_at is None else clock.monotonic() - seen_at
                head = _not_live(age, error, look)
            if sys.stdout.isatty():
                click.echo(_screen([head, *lines], *terminal_size()), nl=False)
            else:
                say(["", head, *lines])
            time.sleep(every_s)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(0) from None


def _screen(lines: list[str], width: int, height: int) -> str:
    """Return what draws these lines over what is there, without a blink; the first always show."""
    every = [
        part for line in lines for part in (wrap(line, width) if wide(line) > width else [line])
    ]
    if len(every) >= height:
        left = len(every) - height + 2
        every = [*every[: height - 2], f"... {left} more lines: lb-probe status"]
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in every) + "\x1b[J"


def _not_live(age_s: float | None, error: client.ClientError, look: Look) -> str:
    seen = "nothing seen yet" if age_s is None else f"what follows is {age_s:.0f} s old"
    why = lines_of(str(error))[0]
    return look.paint(f"*** NOT LIVE: {seen}: {why} ***", "bad")


@register("Read", "lb-probe check-nagios epmm", click.Argument(["group"], required=False))
def check_nagios(group: str | None) -> None:
    """One line for Nagios and its kin: 0 ok, 1 warning, 2 critical, 3 unknown."""
    try:
        groups = _Picture(connect(), group).fetch()
    except client.ClientError as error:
        click.echo(f"LB-PROBE UNKNOWN - {lines_of(str(error))[0]}")
        raise click.exceptions.Exit(3) from None
    code, line = nagios(groups)
    click.echo(line)
    raise click.exceptions.Exit(code)


@register(
    "Read",
    "lb-probe completion bash",
    click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"])),
)
def completion(shell: str) -> None:
    """Print what makes a shell complete verbs: eval "$(lb-probe completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "lb-probe", "_LB_PROBE_COMPLETE").source())


@register("Read", "lb-probe explain epmm", click.Argument(["group"]), format_option())
def explain(group: str, form: str) -> None:
    """Say why a group is as it is, and what to do next."""
    answer = connect().explain(group)
    show(form, answer, lambda: lines_of(answer["text"]))
