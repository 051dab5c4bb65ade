"""The verbs. The only room that prints: answers to stdout, everything else to stderr.

Client verbs must start fast on a machine in trouble: `app`, `demo` and all they pull in are
imported inside the functions that need them. Source: DESIGN, section 6; X5, X13, X14.
"""

import math
import os
import re
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from lb_probe import __version__, client, render
from lb_probe.client import Json

EXIT_CODES = (
    (0, "done"),
    (1, "failed"),
    (2, "usage, configuration, unknown group"),
    (3, "the API is unreachable"),
    (4, "denied"),
    (5, "the group changed between the plan and the act"),
    (6, "refused by a gate, or no confirmation"),
    (10, "status --exit-code: a group is failed over"),
    (11, "status --exit-code, wins: a node with the traffic does not serve"),
)
SECTIONS = ("Run", "Read", "Act")
CONFIG_KEY = "lb_probe.config"
WATCH_S = 2.0
DURATION = re.compile(r"0*[1-9]\d*(s|m|h|d)")


# ------------------------------------------------------------------ how verbs look and fail
class Stop(click.ClickException):
    """Ends the command with a message on stderr and the exit code of its cause."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = exit_code  # click declares it for the class

    def show(self, file: Any = None) -> None:
        """Print the message."""
        for line in render.lines_of(self.message):
            click.echo(line, file=file, err=file is None)


class Faults(Stop):
    """The configuration is wrong: every mistake at once."""

    def __init__(self, faults: Iterable[object]) -> None:
        self.faults = [str(fault) for fault in faults]
        super().__init__("\n".join(self.faults), 2)


class Verb(click.Command):
    """A verb with its section of the help page and one line to try."""

    def __init__(self, *args: Any, section: str, example: str, **extra: Any) -> None:
        extra.setdefault("epilog", f"Example: {example}")
        super().__init__(*args, **extra)
        self.section = section
        self.example = example


class VerbGroup(Verb, click.Group):
    """A verb that has subcommands."""


class Top(click.Group):
    """The command itself: verbs in sections, and the errors of the client as exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb.

        Raises:
            Stop: The client refused or failed; carries the exit code.
        """
        try:
            return super().invoke(ctx)
        except client.ClientError as error:
            raise Stop(f"lb-probe: {_message(error)}", error.exit_code) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs by section, each with a line to try."""
        verbs = [v for name in self.list_commands(ctx) if (v := self.get_command(ctx, name))]
        for section in SECTIONS:
            with formatter.section(section):
                for verb in verbs:
                    if isinstance(verb, Verb) and verb.section == section:
                        _write_verb(formatter, verb)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in EXIT_CODES])


def _write_verb(formatter: click.HelpFormatter, verb: Verb) -> None:
    indent = " " * formatter.current_indent
    formatter.write(f"{indent}{verb.name:<12}{verb.get_short_help_str(100)}\n")
    formatter.write(f"{indent}{'':<12}{verb.example}\n")


def _message(error: client.ClientError) -> str:
    if isinstance(error, client.Refused):
        lines = [str(error), *render.gate_lines(error.gates, render.Look())]
        return "\n".join([*lines, *(["to go on:", f"  {error.paste}"] if error.paste else [])])
    return str(error)


def _remember_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    # -c may stand before the verb or after it; the later one is parsed last and wins.
    if value is not None:
        ctx.meta[CONFIG_KEY] = value


def _config_option(envvar: str | None = None) -> click.Option:
    return click.Option(
        ["-c", "--config"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=envvar,
        expose_value=False,
        callback=_remember_config,
        help="probes.yaml (else LB_PROBE_CONFIG, ./probes.yaml, /etc/lb-probe/probes.yaml).",
    )


def _format_option() -> click.Option:
    return click.Option(
        ["-o", "--output", "form"],
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        help="How to print the answer.  [default: table]",
    )


def _verb(
    section: str, example: str, *params: click.Parameter
) -> Callable[[Callable[..., None]], click.Command]:
    """Register a verb of the top command; every verb takes -c."""
    every = [*params, _config_option()]
    return cli.command(cls=Verb, section=section, example=example, params=every)


def _given_config() -> Path | None:
    found = click.get_current_context().meta.get(CONFIG_KEY)
    return found if isinstance(found, Path) else None


def _command() -> list[str]:
    """Return how a line to paste begins: it must mean the same file as this one."""
    given = _given_config()
    said = given is not None and str(given) != os.environ.get("LB_PROBE_CONFIG")
    return ["lb-probe", "-c", str(given)] if said else ["lb-probe"]


def _config_file() -> Path:
    file = client.find_config(_given_config())
    if file is None:
        places = " nor ".join(str(place) for place in client.CONFIG_PLACES)
        raise client.Unusable(f"there is neither {places}; give -c FILE or set LB_PROBE_CONFIG")
    return file


def _connect() -> client.Client:
    return client.connect(_given_config())


def _look() -> render.Look:
    terminal = sys.stdout.isatty()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return render.Look(colour=terminal and not plain, local=terminal)


def _say(lines: list[str], *, err: bool = False) -> None:
    if lines:
        click.echo("\n".join(lines), err=err)


def _answer(form: str, content: Json, lines: Callable[[], list[str]]) -> None:
    if form == "table":
        _say(lines())
    else:
        click.echo(render.document(content, form))


@click.group(
    cls=Top,
    params=[_config_option("LB_PROBE_CONFIG")],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="lb-probe", message="%(prog)s %(version)s")
def cli() -> None:
    """Keeps traffic on a healthy node of an active/standby pair; an operator resumes by hand.

    Reading and acting verbs talk to the prober's API: LB_PROBE_URL (http://, https:// or
    unix:///PATH; of several the first that answers), else what the configuration says.
    LB_PROBE_TOKEN or LB_PROBE_TOKEN_FILE holds the token; root and the service's own user need
    none on the socket.
    """


def main() -> NoReturn:
    """Run the command and leave with its exit code."""
    cli.main(prog_name="lb-probe")


# ------------------------------------------------------------------ Run
@contextmanager
def _local_errors() -> Iterator[None]:
    """Turn what app raises into messages and exit codes."""
    from lb_probe.config import ConfigError
    from lb_probe.history import HistoryError
    from lb_probe.ports import Conflict, Invalid, LbProbeError, NotFound, Refused

    try:
        yield
    except ConfigError as error:
        raise Faults(error.faults) from error
    except HistoryError as error:
        raise Stop(str(error), 1) from error  # begins with the line, as the configuration's do
    except (NotFound, Invalid) as error:
        raise client.Unusable(str(error)) from error
    except Conflict as error:
        raise client.Conflict(str(error), error.generation) from error
    except Refused as error:
        gates = [
            {"id": g.id, "passed": g.passed, "found": g.found, "wanted": g.wanted}
            for g in error.gates
        ]
        raise client.Refused(str(error), gates, error.paste) from error
    except (LbProbeError, OSError) as error:
        raise client.ClientError(str(error)) from error


@_verb(
    "Run",
    "lb-probe demo --script",
    click.Option(["--script"], is_flag=True, help="Play the whole story and check each step."),
)
def demo(script: bool) -> None:
    """Two nodes, a real HAProxy and a prober on this machine."""
    from lb_probe import demo as room

    with _local_errors():
        code = room.run(script)
    raise click.exceptions.Exit(code)


@_verb(
    "Run",
    "lb-probe init -c /etc/lb-probe/probes.yaml",
    click.Option(
        ["--from-haproxy"],
        metavar="SOCKET",
        help="Print a first probes.yaml for a running HAProxy instead.",
    ),
)
def init(from_haproxy: str | None) -> None:
    """Make the store; a prober never makes one by itself."""
    from lb_probe import app

    with _local_errors():
        if from_haproxy is not None:
            click.echo(app.discover(from_haproxy), nl=False)
            return
        sentence = app.init_store(_config_file())
    _say([sentence])


@_verb(
    "Run",
    "lb-probe prober -c /etc/lb-probe/probes.yaml",
    click.Option(["--init", "init"], is_flag=True, help="Make the store first if it is missing."),
    click.Option(
        ["--override"],
        multiple=True,
        metavar="GROUP",
        help="Start although the file moves this group's traffic behind its back.",
    ),
)
def prober(init: bool, override: tuple[str, ...]) -> None:
    """Probe, decide, publish; the daemon, in the foreground."""
    from lb_probe import app

    with _local_errors():
        code = app.run_prober(_config_file(), init=init, allowed=frozenset(override))
    raise click.exceptions.Exit(code)


@_verb(
    "Run",
    "lb-probe backup /var/backups/lb-probe.db",
    click.Argument(["target"], type=click.Path(path_type=Path), metavar="FILE"),
)
def backup(target: Path) -> None:
    """Copy the store into a new file, also while the prober runs."""
    from lb_probe import app

    with _local_errors():
        sentence = app.backup_store(_config_file(), target)
    _say(sentence.splitlines())


@cli.group(
    cls=VerbGroup, section="Run", example="lb-probe haproxy config epmm", params=[_config_option()]
)
def haproxy() -> None:
    """What HAProxy's configuration must look like."""


@haproxy.command(
    "config",
    cls=Verb,
    section="Run",
    example="lb-probe haproxy config epmm",
    params=[click.Argument(["group"]), _config_option()],
)
def haproxy_config(group: str) -> None:
    """Print the configuration to paste: closed until lb-probe says who has the traffic."""
    from lb_probe import app

    with _local_errors():
        text = app.haproxy_config(_config_file(), group)
    click.echo(text, nl=False)


@haproxy.command(
    "doctor",
    cls=Verb,
    section="Run",
    example="lb-probe haproxy doctor epmm --file /etc/haproxy/haproxy.cfg",
    params=[
        click.Argument(["group"]),
        click.Option(
            ["--file", "files"],
            multiple=True,
            type=click.Path(path_type=Path),
            help="Its configuration, where it can be read from here; may come again.",
        ),
        _config_option(),
    ],
)
def haproxy_doctor(group: str, files: tuple[Path, ...]) -> None:
    """Say what a running HAProxy does wrong, and the line that mends it."""
    from lb_probe import app
    from lb_probe.advice import findings

    with _local_errors():
        every = app.haproxy_doctor(_config_file(), group, files)
    for name, found in every:
        _say([f"{name}:", *render.lines_of(findings.text(found))])
    if not all(findings.is_healthy(found) for _, found in every):
        raise click.exceptions.Exit(1)


def _node_option() -> click.Option:
    return click.Option(["--node"], metavar="NAME", help="The node, as probes.yaml names it.")


@cli.group(
    cls=VerbGroup,
    section="Run",
    example="lb-probe agent --node epmm-a",
    invoke_without_command=True,
    params=[_node_option(), _config_option()],
)
@click.pass_context
def agent(ctx: click.Context, node: str | None) -> None:
    """Serve a node's health pages; the daemon, or a subcommand that talks to it."""
    ctx.obj = node
    if ctx.invoked_subcommand is not None:
        return
    from lb_probe import app

    with _local_errors():
        code = app.run_agent(_config_file(), _node(node))
    raise click.exceptions.Exit(code)


def _node(given: str | None) -> str:
    node = given or click.get_current_context().find_object(str)
    if not node:
        raise click.UsageError("which node? for example: --node epmm-a")
    return node


def _ask_agent(node: str, request: Json) -> Json:
    from lb_probe import app

    with _local_errors():
        control = app.agent_control(_config_file(), node)
    return client.ask_agent(control, request)


@agent.command(
    "status",
    params=[_node_option(), _format_option(), _config_option()],
    epilog="Example: lb-probe agent status --node epmm-a -o json",
)
def agent_status(node: str | None, form: str) -> None:
    """Show what the agent of this machine knows."""
    answer = _ask_agent(_node(node), {"command": "status"})
    _answer(form, answer, lambda: render.agent_block(answer, _look()))


@agent.group("failover")
def agent_failover() -> None:
    """Change the mode that a node's hastatus page shows."""


@agent_failover.command(
    "mode",
    params=[
        click.Argument(["mode"], type=click.Choice(["primary", "secondary"])),
        _node_option(),
        click.Option(["--reason"], default="", metavar="TEXT", help="Why, for the agent's log."),
        _config_option(),
    ],
    epilog="Example: lb-probe agent failover mode primary --node epmm-b --reason 'takeover'",
)
def agent_mode(mode: str, node: str | None, reason: str) -> None:
    """Make the node say Primary or Standby; moves no traffic, and may be repeated (R119)."""
    request = {"command": "failover-mode", "mode": mode, "reason": reason}
    answer = _ask_agent(_node(node), request)
    _say(render.warning_lines(answer), err=True)
    _say(render.agent_block(answer, _look()))


@_verb(
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
    line = [*_command(), "publish", group, "--to", to, "--offline", "--reason", reason or "why"]
    if not offline:
        raise click.UsageError(
            "publish asks no prober, checks no gate and saves no state; say so with --offline."
            f" While the prober answers use: lb-probe failover {group} --to {to} --reason 'why'"
        )
    why = _reason(reason, shlex.join(line))
    file = _config_file()
    plan = [f"publish {group}: traffic -> {to}, straight to the load balancers of {file}"]
    _confirm(group, plan, yes=yes, line=line)
    from lb_probe import app

    with _local_errors():
        results = app.publish_offline(file, group, to, why)
    _say(render.offline_block(results, _look()))
    failed = [str(r.get("name")) for r in results if r.get("ok") is not True]
    if failed:
        names = ", ".join(failed)
        raise client.ClientError(f"not done on {names}; give the command again, or act there")


# ------------------------------------------------------------------ Read
@_verb(
    "Read",
    "lb-probe check --as prober",
    click.Option(
        ["--as", "as_"],
        metavar="prober|agent:NAME",
        help="As that process would read it, with the secrets that it uses.",
    ),
    click.Option(["--offline"], is_flag=True, help="Ask no node and no load balancer."),
    _format_option(),
)
def check(as_: str | None, offline: bool, form: str) -> None:
    """Validate probes.yaml and what is around it; exit 2 with every mistake.

    What nodes and load balancers say is a warning: the file may be right and a machine down.
    """
    from lb_probe import app

    if as_ not in (None, "prober") and not re.fullmatch("agent:.+", as_):
        raise click.UsageError(f"--as: found {as_!r}; use prober or agent:NAME")
    file = _config_file()
    try:
        with _local_errors():
            warnings = [
                str(warning)
                for warning in app.check(file, as_ or "check", looks_around=not offline)
            ]
    except Faults as error:
        if form != "table":
            found = {"file": str(file), "ok": False, "faults": error.faults}
            click.echo(render.document(found, form))
        raise
    counts = _counts(file)
    answer = {"file": str(file), "ok": True, **counts, "warnings": warnings}
    sentence = ", ".join(f"{n} {words.replace('_', ' ')}" for words, n in counts.items())
    _answer(form, answer, lambda: [*warnings, f"{file}: ok: {sentence}"])


def _counts(file: Path) -> dict[str, int]:
    groups = [g for g in client.read_yaml(file).get("groups") or () if isinstance(g, dict)]
    return {
        "groups": len(groups),
        "nodes": sum(len(g.get("nodes") or ()) for g in groups),
        "load_balancers": sum(len(g.get("adapters") or ()) for g in groups),
    }


@_verb(
    "Read",
    "lb-probe probe epmm/epmm-b",
    click.Argument(["target"]),
    _format_option(),
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
    with _local_errors():
        answer = app.probe_once(_config_file(), group, node, folder, with_addresses=with_addresses)
    _answer(form, answer, lambda: render.probe_block(answer, _look()))


@_verb(
    "Read",
    "lb-probe status -w",
    click.Argument(["group"], required=False),
    _format_option(),
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
        _watch(_Picture(_connect(), group), every_s)
        return
    picture = _Picture(_connect(), group)
    groups = picture.fetch()
    _answer(form, {"groups": groups}, lambda: picture.lines(groups, _look()))
    if exit_code:
        raise click.exceptions.Exit(_trouble(groups))


def _trouble(groups: list[Json]) -> int:
    if any(render.serving(group) not in (None, "ok") for group in groups):
        return 11
    return 10 if any(render.is_moved(group) for group in groups) else 0


@dataclass(frozen=True, slots=True)
class _Picture:
    """What status shows: every group, or one."""

    api: client.Client
    group: str | None

    def fetch(self) -> list[Json]:
        return self.api.groups() if self.group is None else [self.api.group(self.group)]

    def lines(self, groups: list[Json], look: render.Look) -> list[str]:
        if self.group is None:
            return render.status_table(groups, look)
        return render.group_block(groups[0], look)


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
            look = _look()
            head = f"live from {picture.api.address}"
            try:
                lines = picture.lines(picture.fetch(), look)
                seen_at = clock.monotonic()
            except client.ClientError as error:
                if seen_at is None and error.exit_code in (2, 4):
                    raise
                age = None if seen_at is None else clock.monotonic() - seen_at
                head = _not_live(age, error, look)
            start = ["\x1b[H\x1b[2J" + head] if sys.stdout.isatty() else ["", head]
            _say([*start, *lines])
            time.sleep(every_s)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(0) from None


def _not_live(age_s: float | None, error: client.ClientError, look: render.Look) -> str:
    seen = "nothing seen yet" if age_s is None else f"what follows is {age_s:.0f} s old"
    why = render.lines_of(str(error))[0]
    return look.paint(f"*** NOT LIVE: {seen}: {why} ***", "bad")


@_verb("Read", "lb-probe check-nagios epmm", click.Argument(["group"], required=False))
def check_nagios(group: str | None) -> None:
    """One line for Nagios and its kin: 0 ok, 1 warning, 2 critical, 3 unknown."""
    try:
        groups = _Picture(_connect(), group).fetch()
    except client.ClientError as error:
        click.echo(f"LB-PROBE UNKNOWN - {render.lines_of(str(error))[0]}")
        raise click.exceptions.Exit(3) from None
    code, line = render.nagios(groups)
    click.echo(line)
    raise click.exceptions.Exit(code)


@_verb(
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


@_verb("Read", "lb-probe explain epmm", click.Argument(["group"]), _format_option())
def explain(group: str, form: str) -> None:
    """Say why a group is as it is, and what to do next."""
    answer = _connect().explain(group)
    _answer(form, answer, lambda: render.lines_of(answer["text"]))


def _store_option() -> click.Option:
    return click.Option(
        ["--store", "store"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read a store's file or a backup instead of asking the prober.",
    )


@_verb(
    "Read",
    "lb-probe history epmm --since 7d",
    click.Argument(["group"], required=False),
    click.Option(["--limit"], type=click.IntRange(1, 10_000), default=50, show_default=True),
    click.Option(["--since"], metavar="TIME", help="Nothing older: 7d, 12h, 2026-01-31T08:00Z."),
    click.Option(["--all", "everything"], is_flag=True, help="What was seen of each page as well."),
    click.Option(
        ["--export", "target"],
        metavar="FILE",
        help="Write all of it to a new FILE, or - for stdout, as JSON Lines for replay.",
    ),
    _store_option(),
    _format_option(),
)
def history(
    group: str | None,
    limit: int,
    since: str | None,
    everything: bool,
    target: str | None,
    store: Path | None,
    form: str,
) -> None:
    """Show what happened, newest last."""
    if target is not None:
        _export(_whole_history(group, since, store), target)
        return
    if store is None:
        records = _connect().history(group, limit, since=since, everything=everything)
    else:
        records = _stored(store, group, limit, since, everything=everything)
    _answer(form, {"history": records}, lambda: render.history_table(records, _look()))


def _whole_history(group: str | None, since: str | None, store: Path | None) -> list[Json]:
    if store is None:
        return _connect().whole_history(group, since)
    return _stored(store, group, None, since, everything=True)


def _stored(
    store: Path, group: str | None, limit: int | None, since: str | None, *, everything: bool
) -> list[Json]:
    from lb_probe import app
    from lb_probe import history as room
    from lb_probe.clock import SystemClock
    from lb_probe.ports import Span

    with _local_errors():
        moment = None if since is None else room.since_of(since, SystemClock().wall())
        span = Span(since=moment, everything=everything)
        return [room.as_json(r) for r in app.stored_history(store, group, limit, span)]


def _export(records: list[Json], target: str) -> None:
    from lb_probe import history as room

    lines = room.lines_of(records, __version__)
    if target == "-":
        click.echo("".join(lines), nl=False)
        return
    try:
        with Path(target).open("x", encoding="utf-8") as file:
            file.writelines(lines)
    except FileExistsError:
        raise client.ClientError(f"{target} already exists; name a new file") from None
    except OSError as error:
        raise client.ClientError(f"{target}: cannot be written: {error.strerror}") from None
    _say([f"wrote {len(records)} records to {target}; lb-probe replay --import {target}"])


@_verb(
    "Read",
    "lb-probe replay epmm --since 7d -c new.yaml",
    click.Argument(["group"], required=False),
    click.Option(["--since"], metavar="SPAN", help="Only faults of so long before its end: 7d."),
    click.Option(
        ["--against"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The other configuration (else LB_PROBE_CONFIG, or the one in the usual places).",
    ),
    click.Option(
        ["--import", "source"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read what `history --export` wrote instead of asking the prober.",
    ),
    _store_option(),
    _format_option(),
)
def replay(
    group: str | None,
    since: str | None,
    against: Path | None,
    source: Path | None,
    store: Path | None,
    form: str,
) -> None:
    """Run what was recorded through another configuration; writes nothing.

    Shows for each fault of the Primary whether, and after how long, each configuration would have
    moved traffic, beside what really happened. -c names the new configuration.
    """
    from lb_probe import app
    from lb_probe import history as room

    if source is not None and store is not None:
        raise click.UsageError("--import and --store: give one of them")
    files = _configurations(against)
    with _local_errors():
        since_s = None if since is None else room.seconds_of(since)
        if source is not None:
            records = room.read_file(source)
        elif store is not None:
            records = room.checked(str(store), _stored(store, None, None, None, everything=True))
        else:
            api = client.connect(files[0])
            records = room.checked(str(api.address), api.whole_history(group))
        answer = app.replay_history(records, files, group, since_s)
    _answer(form, answer, lambda: render.replay_block(answer, _look()))


def _configurations(against: Path | None) -> list[Path]:
    """Return the configuration that runs, as far as it is known, and the one given by -c."""
    given, ours = _given_config(), os.environ.get("LB_PROBE_CONFIG")
    new = given if given is not None and str(given) != ours else None
    old = client.find_config(against or (Path(ours) if ours else None))
    files = [file for file in (old, new and client.find_config(new)) if file is not None]
    if not files:
        raise client.Unusable("found no configuration; give -c FILE or set LB_PROBE_CONFIG")
    return files[:1] if len(files) == 2 and files[0] == files[1] else files


# ------------------------------------------------------------------ who may, and who did
@cli.group(cls=VerbGroup, section="Run", example="lb-probe token list", params=[_config_option()])
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
        _format_option(),
        _config_option(),
    ],
)
def token_create(
    name: str, role: str, groups: tuple[str, ...], expires: str | None, form: str
) -> None:
    """Make a token and print it: this once, for it is kept as a hash."""
    order: Json = {"name": name, "role": role, "groups": list(groups), "expires": expires}
    answer = _connect().new_token(order)
    scope = render.plain(", ".join(groups)) if groups else "all groups"
    ends = f"until {_look().time(answer.get('expires'))}" if answer.get("expires") else "for ever"
    _say(
        [
            f"{name}: {role} of {scope}, {ends}; this is the only time that it is shown",
            f"to use it: LB_PROBE_TOKEN_FILE=FILE; to end it: lb-probe token revoke {answer['id']}",
        ],
        err=True,
    )
    _answer(form, answer, lambda: [answer["token"]])


@token.command(
    "list",
    cls=Verb,
    section="Run",
    example="lb-probe token list",
    params=[_format_option(), _config_option()],
)
def token_list(form: str) -> None:
    """Show every token, also those that have ended; never a secret."""
    tokens = _connect().tokens()
    _answer(form, {"tokens": tokens}, lambda: render.token_table(tokens, _look()))


@token.command(
    "revoke",
    cls=Verb,
    section="Run",
    example="lb-probe token revoke dana",
    params=[click.Argument(["which"], metavar="NAME|ID"), _format_option(), _config_option()],
)
def token_revoke(which: str, form: str) -> None:
    """End a token and the sessions that it began, at once."""
    answer = _connect().end_token(which)
    _answer(form, answer, lambda: [f"{render.plain(answer.get('name'))} opens nothing any more"])


def _audit_option() -> click.Option:
    return click.Option(
        ["--file", "file"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The log, or a copy of it; else the one beside the prober's store.",
    )


@cli.group(cls=VerbGroup, section="Read", example="lb-probe audit show", params=[_config_option()])
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
        _format_option(),
        _config_option(),
    ],
)
def audit_show(limit: int, file: Path | None, form: str) -> None:
    """Show the newest lines, newest last; every line before them is checked as well."""
    newest = list(deque(_audit_lines(file), maxlen=limit))
    _answer(form, {"audit": newest}, lambda: render.audit_table(newest, _look()))


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
        _format_option(),
        _config_option(),
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
    _answer(
        form, answer, lambda: [f"{last['seq']} lines, no gap{told}; head {last['hash'] or '-'}"]
    )


def _audit_lines(file: Path | None) -> Iterator[Json]:
    from lb_probe import app

    with _local_errors():
        yield from app.audit_lines(app.audit_file(_config_file()) if file is None else file)


# ------------------------------------------------------------------ Act
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
            _config_option(),
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
    line = [*_command(), verb, given["group"]]
    if to := given.get("to"):
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
    answer = _connect().plan(asked.verb, asked.group, asked.order)
    _say(render.plan_block(answer["plan"], _look()))
    _check_passed(asked, answer)


def _act(asked: _Asked, *, yes: bool) -> None:
    _need_terminal(yes=yes, line=asked.line)
    api = _connect()
    answer = api.plan(asked.verb, asked.group, asked.order)
    plan = answer["plan"]
    _check_passed(asked, answer)
    _confirm(asked.group, render.plan_block(plan, render.Look()), yes=yes, line=asked.line)
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
    _say(render.done_lines(asked.verb, plan, group, _look()))


def _check_passed(asked: _Asked, answer: Json) -> None:
    if answer["passed"]:
        return
    plan = answer["plan"]
    paste = str(answer.get("paste") or plan.get("paste") or "")
    message = f"{asked.verb} {asked.group} is refused; nothing was done"
    raise client.Refused(message, render.gates_of(plan), paste or _own_paste(asked, plan))


def _own_paste(asked: _Asked, plan: Json) -> str:
    closed = [str(g.get("id")) for g in render.gates_of(plan) if g.get("passed") is not True]
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
    _say(plan, err=True)
    if yes:
        return
    try:
        typed = click.prompt(
            f"Type the group's name ({render.plain(group)}) to go ahead",
            default="",
            show_default=False,
            err=True,
        )
    except click.Abort:
        typed = ""
    if typed != group:
        raise client.Refused(f"not confirmed: found {typed!r}, wanted {group!r}; nothing was done")


_add_acts()
