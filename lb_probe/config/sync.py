"""How a Standby copies from its peer: the operator's own commands, and when they run."""

from lb_probe.config import values as v
from lb_probe.config.frozen import Frozen, key


class Schedule(Frozen):
    """The first schedule: one that is saved with `sync schedule` wins from then on."""

    start_s: v.StartTime = key('StartTime with its zone, e.g. "13:00Z"')
    run_every_s: v.RunEvery = key("from one start to the next, 60m or more")
    because: v.Text | None = key("why `run_every` is below 60m", None)


class Sync(Frozen):
    """Programs that copy and check; no shell reads them."""

    sync_command: v.Argv = key('a list, program first, that copies, e.g. ["/opt/app/sync"]')
    count_command: v.Argv | None = key(
        "a program that prints a whole number, at the source and here", None
    )
    salvage_command: v.Argv | None = key(
        "a program that saves what is about to be written over", None
    )
    marker: v.Text = key("the line that `sync_command` prints when it is done", "sync: complete")
    timeout_s: v.Duration = key("a sync as a whole", "4h")
    initial_timeout_s: v.Duration = key("the first one, which copies everything", "1d")
    stop_within_s: v.ZeroDuration = key("one whose time is over may take to end itself", "30s")
    schedule: Schedule | None = key("when it runs by itself, until another one is saved", None)
    overdue_s: v.RunEvery | None = key("older data is an alarm; twice `run_every`", None)
    history: v.FilePath | None = key(
        "where runs are kept; beside `state`, as NODE.sync.db, when left out", None
    )
    inhibit: bool = key("keep systemd from a shutdown while a sync runs, where it can", True)
