"""The verbs of replication: a sync by hand, what was, when the next one is, may it be stopped."""

import re
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from lb_probe import client
from lb_probe.cli.agent import (
    agent,
    agent_failover,
    ask,
    control_of,
    node_of,
    node_option,
    override_option,
    reason_option,
)
from lb_probe.cli.top import (
    DURATION,
    config_option,
    format_option,
    own_line,
    own_look,
    say,
    show,
)
from lb_probe.client import Json
from lb_probe.render import agent_sync as view
from lb_probe.render.acts import gates_of

_SILENCE_S = 60.0  # the agent gives a mark of life every 5 s once a sync runs
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _acting(*more: click.Parameter) -> list[click.Parameter]:
    return [*more, node_option(), reason_option(), override_option(), config_option()]


@agent.group("sync")
def sync() -> None:
    """Copy the peer's data to this node: now, by a schedule, and what came of it."""


# ------------------------------------------------------------------ by hand
@sync.command(
    "now",
    params=_acting(
        click.Option(["--from", "source"], default="", metavar="HOST", help="The trusted peer.")
    ),
    epilog="Example: lb-probe agent sync now --node epmm-b --reason 'first copy'",
)
def sync_now(source: str, node: str | None, reason: str, override: tuple[str, ...]) -> None:
    """Sync once and show it; Ctrl-C stops the showing, not the sync."""
    _sync(node_of(node), source, reason, override)


@agent_failover.command(
    "sync",
    params=_acting(click.Argument(["host"])),
    epilog="Example: lb-probe agent failover sync epmm-a --node epmm-b --reason 'failed back'",
)
def failover_sync(host: str, node: str | None, reason: str, override: tuple[str, ...]) -> None:
    """Copy from this host now: the same as `sync now --from HOST` (R122)."""
    _sync(node_of(node), host, reason, override)


def _sync(node: str, source: str, reason: str, override: tuple[str, ...]) -> None:
    if override and not reason.strip():
        raise click.UsageError("--reason is required with --override: it goes on record")
    request = {"command": "sync-now", "source": source, "reason": reason}
    look, last = own_look(), None
    for line in _follow(node, request | {"override": list(override)}):
        say(view.line_of(line, look))
        last = line
    run = last.get("run") if last else None
    if not isinstance(run, dict):
        raise client.ClientError(
            f"the agent stopped telling; see: lb-probe agent sync history --node {node}"
        )
    if run.get("result") != "success":
        raise client.ClientError(f"sync {run.get('id')} is not good: {run.get('detail')}")


def _follow(node: str, request: Json) -> Iterator[Json]:
    yield from client.follow_agent(control_of(node), request, _SILENCE_S)


# ------------------------------------------------------------------ what was
@sync.command(
    "history",
    params=[
        click.Argument(["run"], required=False, type=int),
        node_option(),
        click.Option(
            ["-n", "--limit"], default=20, type=click.IntRange(0), help="How many; 0 is all."
        ),
        click.Option(["--since"], metavar="TIME", help="A date, or as long ago as 7d."),
        format_option(),
        config_option(),
    ],
    epilog="Example: lb-probe agent sync history --node epmm-b --limit 0 -o json > syncs.json",
)
def sync_history(
    run: int | None, node: str | None, limit: int, since: str | None, form: str
) -> None:
    """Show past syncs, newest first, or one of them with its steps."""
    request: Json = {"command": "sync-history", "limit": limit}
    if run is not None:
        request |= {"limit": 1, "before": run + 1}
    if since is not None:
        request["since_wall"] = _moment(since)
    lines = _follow(node_of(node), request)
    runs = [found for line in lines if isinstance(found := line.get("run"), dict)]
    look = own_look()
    if run is None:
        content = {"version": 1, "runs": runs}
        show(form, content, lambda: view.history_table(runs, look))
        return
    if not runs or runs[0].get("id") != run:
        raise client.Unusable(f"sync {run} is not on record; see lb-probe agent sync history")
    show(form, {"version": 1, "runs": runs}, lambda: view.run_block(runs[0], look))


def _moment(text: str) -> float:
    if DURATION.fullmatch(text):
        ago = int(re.sub(r"\D", "", text)) * _UNITS_S[text[-1]]
        return max(0.0, _wall() - ago)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"--since: found {text!r}; use 7d, 2026-11-28 or 2026-11-28T13:00Z"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _wall() -> float:
    from lb_probe.clock import SystemClock

    return SystemClock().wall()


@sync.command(
    "ack",
    params=[
        node_option(),
        click.Option(["--reason"], required=True, metavar="TEXT", help="Why; goes on record."),
        config_option(),
    ],
    epilog="Example: lb-probe agent sync ack --node epmm-b --reason 'disk replaced'",
)
def sync_ack(node: str | None, reason: str) -> None:
    """Say that you have seen the last bad sync: its alarm ends, nothing else changes."""
    answer = ask(node_of(node), {"command": "sync-ack", "reason": reason})
    acked = answer.get("acked")
    number = acked.get("id") if isinstance(acked, dict) else None
    say([f"sync {number} is seen" if number else "there is no bad sync that nobody has seen"])


# ------------------------------------------------------------------ the schedule
@sync.command(
    "schedule",
    params=[
        click.Option(["--start"], metavar="TIME", help="StartTime with its zone: 13:00Z."),
        click.Option(["--run-every"], metavar="TIME", help="90m, 2h, 1d; 60m or more."),
        click.Option(
            ["--keep-grid"], is_flag=True, help="Leave the slots where they are; else anew."
        ),
        click.Option(["--dry-run"], is_flag=True, help="Show what it would come to."),
        click.Option(["--yes"], is_flag=True, help="Do not ask about a wide gap."),
        *_acting(format_option()),
    ],
    epilog="Example: lb-probe agent sync schedule --start 13:00Z --run-every 2h --node epmm-b",
)
def sync_schedule(
    start: str | None,
    run_every: str | None,
    keep_grid: bool,
    dry_run: bool,
    yes: bool,
    node: str | None,
    reason: str,
    override: tuple[str, ...],
    form: str,
) -> None:
    """Show when syncs run, or save when: every save sets the next one anew (R20)."""
    name, look = node_of(node), own_look()
    order: Json = {key: text for key, text in (("start", start), ("run_every", run_every)) if text}
    if keep_grid:
        order["keep_grid"] = True
    if not order:
        answer = ask(name, {"command": "sync-schedule"})
        show(form, answer, lambda: view.schedule_block(answer, look))
        return
    order |= {"command": "sync-schedule-save", "reason": reason}
    plan = ask(name, order | {"dry_run": True})
    say(view.plan_block(plan, look), err=form != "table")
    if dry_run:
        return
    given = (("--start", start), ("--run-every", run_every), ("--reason", reason))
    said = [part for key, text in given if text for part in (key, text)]
    said += ["--keep-grid"] if keep_grid else []
    opened = [*override, *_asked(plan, name, override, said, yes=yes)]
    if opened and not reason.strip() and "run-every" in opened:
        raise click.UsageError("--reason is required with --override run-every: it is kept")
    answer = ask(name, order | {"override": opened})
    show(form, answer, lambda: ["saved", *view.schedule_block(answer, look)])
    _offer_sync(name, yes=yes)


def _asked(
    plan: Json, node: str, override: tuple[str, ...], said: list[str], *, yes: bool
) -> list[str]:
    """Ask about a gap that is wide; return the gate where the answer is yes (R19).

    Args:
        said: What was asked for, as options.
    """
    gates = [gate for gate in gates_of(plan) if gate.get("passed") is not True]
    shut = [str(gate.get("id")) for gate in gates if gate.get("id") not in override]
    if shut != ["gap"]:
        return []
    if yes:
        return ["gap"]
    if not sys.stdin.isatty():
        line = [*own_line(), "agent", "sync", "schedule", *said, "--node", node, "--yes"]
        raise client.Refused(
            "the gap is wide, there is no terminal to confirm on, and no --yes; nothing was saved",
            gates,
            shlex.join(line),
        )
    if click.confirm("The gap is wide. Save it all the same?", default=False, err=True):
        return ["gap"]
    raise client.Refused(f"not confirmed; the schedule of {node} is as it was", gates)


def _offer_sync(node: str, *, yes: bool) -> None:
    if yes or not sys.stdin.isatty():
        say([f"to copy at once: lb-probe agent sync now --node {node}"], err=True)
    elif click.confirm("Run a sync now?", default=False, err=True):
        _sync(node, "", "after a change of the schedule", ())


# ------------------------------------------------------------------ may it be stopped
@agent.command(
    "safe-to-stop",
    params=[node_option(), format_option(), config_option()],
    epilog="Example: lb-probe agent safe-to-stop --node epmm-b && systemctl poweroff",
)
def safe_to_stop(node: str | None, form: str) -> None:
    """Tell whether no sync runs at either end; exit code 6 while one does, or may (R12)."""
    answer = ask(node_of(node), {"command": "safe-to-stop"})
    show(form, answer, lambda: view.stop_block(answer, own_look()))
    if answer.get("safe") is not True:
        raise click.exceptions.Exit(6)
