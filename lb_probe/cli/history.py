"""What happened, and what another configuration would have done."""

import os
from pathlib import Path

import click

from lb_probe import __version__, client
from lb_probe.cli.top import (
    connect,
    format_option,
    given_config,
    local_errors,
    own_look,
    register,
    say,
    show,
)
from lb_probe.client import Json
from lb_probe.render.history import history_table
from lb_probe.render.replay import replay_block


def _store_option() -> click.Option:
    return click.Option(
        ["--store", "store"],
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read a store's file or a backup instead of asking the prober.",
    )


@register(
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
    format_option(),
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
        records = connect().history(group, limit, since=since, everything=everything)
    else:
        records = _stored(store, group, limit, since, everything=everything)
    show(form, {"history": records}, lambda: history_table(records, own_look()))


def _whole_history(group: str | None, since: str | None, store: Path | None) -> list[Json]:
    if store is None:
        return connect().whole_history(group, since)
    return _stored(store, group, None, since, everything=True)


def _stored(
    store: Path, group: str | None, limit: int | None, since: str | None, *, everything: bool
) -> list[Json]:
    from lb_probe import app
    from lb_probe import history as room
    from lb_probe.clock import SystemClock
    from lb_probe.ports import Span

    with local_errors():
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
    say([f"wrote {len(records)} records to {target}; lb-probe replay --import {target}"])


@register(
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
    format_option(),
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
    with local_errors():
        since_s = None if since is None else room.seconds_of(since)
        if source is not None:
            records = room.read_file(source)
        elif store is not None:
            records = room.checked(str(store), _stored(store, None, None, None, everything=True))
        else:
            api = client.connect(files[0])
            records = room.checked(str(api.address), api.whole_history(group))
        answer = app.replay_history(records, files, group, since_s)
    show(form, answer, lambda: replay_block(answer, own_look()))


def _configurations(against: Path | None) -> list[Path]:
    """Return the configuration that runs, as far as it is known, and the one given by -c."""
    given, ours = given_config(), os.environ.get("LB_PROBE_CONFIG")
    new = given if given is not None and str(given) != ours else None
    old = client.find_config(against or (Path(ours) if ours else None))
    files = [file for file in (old, new and client.find_config(new)) if file is not None]
    if not files:
        raise client.Unusable("found no configuration; give -c FILE or set LB_PROBE_CONFIG")
    return files[:1] if len(files) == 2 and files[0] == files[1] else files
