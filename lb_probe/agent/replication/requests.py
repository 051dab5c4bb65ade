"""What the control socket takes for replication, and the schedule that a request asks for."""

from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, Field

from lb_probe.agent.control import Act, Request
from lb_probe.agent.replication.book import Book
from lb_probe.core import sync_schedule
from lb_probe.core.model import Mode
from lb_probe.core.peer_report import PeerReport
from lb_probe.core.sync_advice import Hop, overlaps, proposed_offset, worst_age
from lb_probe.core.sync_schedule import Schedule, spell_span
from lb_probe.ports import Invalid

_RUN_EVERY = 'minutes, hours or days, e.g. "2h"'


def _start(value: str) -> str:
    try:
        sync_schedule.parse_start(value)
    except ValueError as error:
        raise ValueError(f"found start {value[:60]!r}; use {error}") from None
    return value


def _run_every(value: str) -> str:
    try:
        sync_schedule.parse_run_every(value)
    except ValueError as error:
        raise ValueError(f"found run_every {value[:60]!r}; use {error}") from None
    return value


def _named(value: str) -> str:
    if not value.isprintable():
        raise ValueError("found a source with control characters; name the peer")
    return value


class Now(Act):
    """`sync now`, and `failover sync HOST`."""

    source: Annotated[str, AfterValidator(_named)] = Field(
        "", max_length=256, description="the peer, by its name or address"
    )


class Page(Request):
    """`sync history`."""

    limit: int = Field(20, ge=0, le=1_000_000, description="a number of runs; 0 is all")
    before: int | None = Field(None, ge=0, description="the number of a run")
    since_wall: float = Field(0.0, ge=0, allow_inf_nan=False, description="UTC seconds")


class Show(Request):
    """`sync schedule` without anything to save."""


class Save(Act):
    """`sync schedule --start ... --run-every ...`."""

    start: Annotated[str, AfterValidator(_start)] | None = Field(
        None, description='a time of day with its zone, e.g. "13:00Z"'
    )
    run_every: Annotated[str, AfterValidator(_run_every)] | None = Field(
        None, description=_RUN_EVERY
    )
    keep_grid: bool = Field(False, description="true or false")
    dry_run: bool = Field(False, description="true or false")


class Ack(Act):
    """`sync ack`."""


def wanted(request: Save, book: Book, now_wall: float) -> Schedule:
    """Return the schedule that a request asks for; what it leaves out stays as it is.

    Raises:
        Invalid: It leaves out what is nowhere saved, or says two things at once.
    """
    before = book.saved.schedule if book.saved is not None else None
    if request.run_every is not None:
        every = sync_schedule.parse_run_every(request.run_every)
    elif before is not None:
        every = before.run_every_s
    else:
        raise Invalid(f"found no run_every, and none is saved; use {_RUN_EVERY}")
    if request.keep_grid:
        if request.start is not None:
            raise Invalid("found start and keep_grid; a grid that is kept has its own start")
        if before is None:
            raise Invalid("found keep_grid, and no schedule is saved; say start and run_every")
        return sync_schedule.saved_on_grid(before, every, book.handled_wall, now_wall)
    if request.start is not None:
        start_s = sync_schedule.parse_start(request.start)
    elif before is not None:
        start_s = before.start_s
    else:
        raise Invalid('found no start, and none is saved; use a time of day, e.g. "13:00Z"')
    return sync_schedule.saved(start_s, every, now_wall)


def overlap(schedule: Schedule, lasts_s: float, upstream: PeerReport) -> str:
    """Say whether slots here fall into syncs of the node we copy from; empty where none do."""
    if upstream.mode is not Mode.STANDBY or upstream.sync_slots is None:
        return ""
    first, every = map(int, upstream.sync_slots)
    if every <= 0:
        return ""
    there = Hop(first, every, upstream.sync_lasts_s or 0.0)
    here = Hop(schedule.first_wall, schedule.run_every_s, lasts_s)
    if not overlaps(there, here):
        return ""
    offset = proposed_offset(there, here)
    use = (
        "make one Run Every a multiple of the other, or longer"
        if offset is None
        else f"begin {spell_span(offset)} after a slot of {upstream.node}"
    )
    return (
        f"some syncs here fall into syncs of {upstream.node} and are refused then; {use}."
        f" Data here gets up to {spell_span(worst_age(there, replace(here)))} old"
    )
