"""Who is told: whether messages arrive, and what still waits."""

import click

from lb_probe import client
from lb_probe.cli.top import (
    Verb,
    VerbGroup,
    cli,
    config_file,
    config_option,
    format_option,
    local_errors,
    own_look,
    show,
)
from lb_probe.client import Json
from lb_probe.render.lists import channel_table, waiting_table


@cli.group(cls=VerbGroup, section="Run", example="lb-probe notify test", params=[config_option()])
def notify() -> None:
    """Try the channels that tell people, and see what waits for them."""


@notify.command(
    "test",
    cls=Verb,
    section="Run",
    example="lb-probe notify test ops",
    params=[
        click.Argument(["channel"], required=False, metavar="[CHANNEL]"),
        format_option(),
        config_option(),
    ],
)
def notify_test(channel: str | None, form: str) -> None:
    """Send a marked message through every channel, from this machine; exit 1 where one fails.

    It needs no prober, and reads the secrets: say it as the service's user, or as root. Say it on
    each node too that tells people by itself.
    """
    from lb_probe import app

    with local_errors():
        tried = app.notify_test(config_file(), channel)
    found: list[Json] = [
        {"channel": t.channel, "type": t.type, "ok": t.ok, "detail": t.detail} for t in tried
    ]
    show(form, {"channels": found}, lambda: channel_table(found, own_look()))
    failed = [t.channel for t in tried if not t.ok]
    if failed:
        raise client.ClientError(f"{', '.join(failed)} took no message")


@notify.command(
    "waiting",
    cls=Verb,
    section="Run",
    example="lb-probe notify waiting",
    params=[format_option(), config_option()],
)
def notify_waiting(form: str) -> None:
    """Show what the prober has yet to tell, oldest first."""
    from lb_probe import app

    with local_errors():
        waiting: list[Json] = [dict(one) for one in app.notify_waiting(config_file())]
    show(form, {"waiting": waiting}, lambda: waiting_table(waiting, own_look()))
