"""The command itself: how verbs look, fail, find their configuration and answer.

Source: DESIGN, section 6.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from lb_probe import __version__, client
from lb_probe.client import Json
from lb_probe.render.acts import gate_lines
from lb_probe.render.text import Look, document, lines_of

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
NAMES = 14  # width of the verbs' column in the help page
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
        for line in lines_of(self.message):
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


class LateGroup(VerbGroup):
    """A verb of which some subcommands are loaded when it is used: all others start faster.

    Args:
        late: Modules that add theirs.
    """

    _late: tuple[str, ...] = ()

    def __init__(self, *args: Any, late: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self._late = late

    @property
    def commands(self) -> MutableMapping[str, click.Command]:
        """Every subcommand, by its name."""
        names, self._late = self._late, ()
        for name in names:
            import_module(name)
        return self._commands

    @commands.setter
    def commands(self, value: MutableMapping[str, click.Command]) -> None:
        self._commands = value

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a subcommand; loads nothing."""
        late, self._late = self._late, ()
        super().add_command(cmd, name)
        self._late = late


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
    formatter.write(f"{indent}{verb.name:<{NAMES}}{verb.get_short_help_str(100)}\n")
    formatter.write(f"{indent}{'':<{NAMES}}{verb.example}\n")


def _message(error: client.ClientError) -> str:
    if isinstance(error, client.Refused):
        lines = [str(error), *gate_lines(error.gates, Look())]
        return "\n".join([*lines, *(["to go on:", f"  {error.paste}"] if error.paste else [])])
    return str(error)


def _remember_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    # -c may stand before the verb or after it; the later one is parsed last and wins.
    if value is not None:
        ctx.meta[CONFIG_KEY] = value


def config_option(envvar: str | None = None) -> click.Option:
    """Return -c, which every verb takes."""
    return click.Option(
        ["-c", "--config"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=envvar,
        expose_value=False,
        callback=_remember_config,
        help="probes.yaml (else LB_PROBE_CONFIG, ./probes.yaml, /etc/lb-probe/probes.yaml).",
    )


def format_option() -> click.Option:
    """Return -o, which every reading verb takes."""
    return click.Option(
        ["-o", "--output", "form"],
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        help="How to print the answer.  [default: table]",
    )


def register(
    section: str, example: str, *params: click.Parameter
) -> Callable[[Callable[..., None]], click.Command]:
    """Register a verb of the top command; every verb takes -c."""
    every = [*params, config_option()]
    return cli.command(cls=Verb, section=section, example=example, params=every)


def given_config() -> Path | None:
    """Return the file given by -c, or by LB_PROBE_CONFIG."""
    found = click.get_current_context().meta.get(CONFIG_KEY)
    return found if isinstance(found, Path) else None


def own_line() -> list[str]:
    """Return how a line to paste begins: it must mean the same file as this one."""
    given = given_config()
    said = given is not None and str(given) != os.environ.get("LB_PROBE_CONFIG")
    return ["lb-probe", "-c", str(given)] if said else ["lb-probe"]


def config_file() -> Path:
    """Return the configuration that this command is about.

    Raises:
        Unusable: There is none in the usual places.
    """
    file = client.find_config(given_config())
    if file is None:
        places = " nor ".join(str(place) for place in client.CONFIG_PLACES)
        raise client.Unusable(f"there is neither {places}; give -c FILE or set LB_PROBE_CONFIG")
    return file


def connect() -> client.Client:
    """Return the client of the prober that this command is about."""
    return client.connect(given_config())


def own_look() -> Look:
    """Return how text looks where it goes: colours, local time and a width on a terminal only."""
    if not sys.stdout.isatty():
        return Look()
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Look(colour=not plain, local=True, width=terminal_size().columns)


def terminal_size() -> os.terminal_size:
    """Return the size of the terminal; COLUMNS and LINES of the environment win.

    As `shutil` has it, which also loads what packs archives: 4 ms of each start.
    """
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (ValueError, OSError):
        found = os.terminal_size((0, 0))
    said = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    columns, lines = (int(word) if word.isascii() and word.isdigit() else 0 for word in said)
    return os.terminal_size((columns or found.columns or 80, lines or found.lines or 24))


def say(lines: list[str], *, err: bool = False) -> None:
    """Print lines, if there are any."""
    if lines:
        click.echo("\n".join(lines), err=err)


def show(form: str, content: Json, lines: Callable[[], list[str]]) -> None:
    """Print an answer as a document, or as the lines that people read."""
    if form == "table":
        say(lines())
    else:
        click.echo(document(content, form))


@click.group(
    cls=Top,
    params=[config_option("LB_PROBE_CONFIG")],
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


@contextmanager
def local_errors() -> Iterator[None]:
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
