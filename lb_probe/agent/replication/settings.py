"""What replication into one node is made of."""

from dataclasses import dataclass
from pathlib import Path

from lb_probe.core.sync_progress import MARKER


@dataclass(frozen=True, slots=True)
class FirstSchedule:
    """The schedule of probes.yaml: it counts until one is saved, and never again.

    Attributes:
        start_s: StartTime, seconds after midnight UTC.
        because: Why Run Every is below 60 minutes; empty where it is not (R10).
    """

    start_s: int
    run_every_s: int
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operator's commands and their times; all in seconds.

    Attributes:
        history: Where runs are kept.
        peer: The node that is copied from.
        addresses: What else an operator may call it.
        sync_command: Copies; says so as `core.sync_progress` has it.
        count_command: Prints a whole number of things, at the source and here (R22).
        salvage_command: Saves what is about to be lost, before it is written over (X12).
        timeout_s: Of a sync.
        initial_timeout_s: Of one that copies everything (R25).
        stop_s: From SIGTERM to SIGKILL for one whose time is over.
        schedule: The first one.
        overdue_s: Data older than this is an alarm; None is twice Run Every.
        inhibits: Keep systemd from a shutdown while a sync runs (R12).
    """

    history: Path
    peer: str
    addresses: tuple[str, ...] = ()
    sync_command: tuple[str, ...]
    count_command: tuple[str, ...] | None = None
    salvage_command: tuple[str, ...] | None = None
    timeout_s: float = 4 * 3600.0
    initial_timeout_s: float = 86_400.0
    stop_s: float = 30.0
    marker: str = MARKER
    schedule: FirstSchedule | None = None
    overdue_s: float | None = None
    inhibits: bool = True
