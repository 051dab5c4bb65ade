"""Verbs that run something: the demo, the daemon, and what is made before it runs."""

from itertools import chain
from pathlib import Path
from typing import Any

import click

from lb_probe.cli.top import (
    Verb,
    VerbGroup,
    cli,
    config_file,
    config_option,
    format_option,
    local_errors,
    register,
    say,
    show,
)
from lb_probe.render.text import lines_of


@register(
    "Run",
    "lb-probe demo --script",
    click.Option(["--script"], is_flag=True, help="Play the whole story and check each step."),
)
def demo(script: bool) -> None:
    """Two nodes, a real HAProxy and a prober on this machine."""
    from lb_probe import demo as room

    with local_errors():
        code = room.run(script)
    raise click.exceptions.Exit(code)


@register(
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

    with local_errors():
        if from_haproxy is not None:
            click.echo(app.discover(from_haproxy), nl=False)
            return
        sentence = app.init_store(config_file())
    say([sentence])


@register(
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

    with local_errors():
        code = app.run_prober(config_file(), init=init, allowed=frozenset(override))
    raise click.exceptions.Exit(code)


@register(
    "Run",
    "lb-probe backup /var/backups/lb-probe.db",
    click.Argument(["target"], type=click.Path(path_type=Path), metavar="FILE"),
)
def backup(target: Path) -> None:
    """Copy the store into a new file, also while the prober runs."""
    from lb_probe import app

    with local_errors():
        sentence = app.backup_store(config_file(), target)
    say(sentence.splitlines())


@cli.group(
    cls=VerbGroup, section="Run", example="lb-probe haproxy config epmm", params=[config_option()]
)
def haproxy() -> None:
    """What HAProxy's configuration must look like."""


def _adapter_option() -> click.Option:
    return click.Option(["--adapter"], metavar="NAME", help="Only this HAProxy of the group.")


@haproxy.command(
    "config",
    cls=Verb,
    section="Run",
    example="lb-probe haproxy config epmm",
    params=[
        click.Argument(["group"]),
        _adapter_option(),
        click.Option(
            ["--listen"],
            multiple=True,
            metavar="ADDRESS",
            help="Where clients arrive, e.g. :443 or 192.0.2.1:443; one for each key or backend, or"
            " several for the only one. Else the Primary's port.",
        ),
        click.Option(
            ["--mode"],
            type=click.Choice(["tcp", "http"]),
            help="Else http where the pages are http, else tcp: TLS passes through.",
        ),
        click.Option(
            ["--certificate"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Certificate and key of HAProxy: TLS ends there, and goes on to the nodes anew.",
        ),
        click.Option(
            ["--socket-group"],
            metavar="NAME",
            help="System group, which exists, whose members may open the command socket.",
        ),
        click.Option(
            ["--agents-only"],
            is_flag=True,
            help="Without any prober: HAProxy asks the pages itself. It forgets at a restart.",
        ),
        config_option(),
    ],
)
def haproxy_config(group: str, adapter: str | None, agents_only: bool, **chosen: Any) -> None:
    """Print the configuration to paste: closed until lb-probe says who has the traffic."""
    from lb_probe import app
    from lb_probe.advice.haproxy_lines import Choices

    with local_errors():
        text = app.haproxy_config(
            config_file(), group, adapter, Choices(**chosen), agents_only=agents_only
        )
    click.echo(text, nl=False)


@haproxy.command(
    "doctor",
    cls=Verb,
    section="Run",
    example="lb-probe haproxy doctor epmm --file /etc/haproxy/haproxy.cfg",
    params=[
        click.Argument(["group"]),
        _adapter_option(),
        click.Option(
            ["--file", "files"],
            multiple=True,
            type=click.Path(path_type=Path),
            help="Its configuration, where it can be read from here; may come again.",
        ),
        format_option(),
        config_option(),
    ],
)
def haproxy_doctor(group: str, adapter: str | None, files: tuple[Path, ...], form: str) -> None:
    """Say what a running HAProxy does wrong, and the line that mends it."""
    from lb_probe import app
    from lb_probe.advice import findings

    with local_errors():
        every = app.haproxy_doctor(config_file(), group, files, adapter)
    found = [
        {"adapter": name, "findings": findings.as_dicts(each), "healthy": findings.is_healthy(each)}
        for name, each in every
    ]
    texts = [[f"{name}:", *lines_of(findings.text(each))] for name, each in every]
    show(form, {"group": group, "haproxys": found}, lambda: [*chain.from_iterable(texts)])
    if not all(findings.is_healthy(found) for _, found in every):
        raise click.exceptions.Exit(1)
