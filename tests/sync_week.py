"""A Standby in virtual time: the timetable, gates, worker and record are real, the copy is not.

The operator's program is played: it lasts as long as a test says. Threads are not started: what the
agent hands to one is done at once, so that no time passes meanwhile.
"""

import asyncio
import itertools

from simulation_clock import Clock
from sync_desk import started

from lb_probe.agent.replication import part, runner, timetable
from lb_probe.core.sync_schedule import moment, spell
from lb_probe.program import Ended


class Time(Clock):
    """Virtual time whose wall can be set."""

    def run_in_executor(self, executor, func, *args):
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def set_wall(self, text):
        self.offset = moment(text) - self.now


class Played:
    """A `sync_command` as a test plays it: seconds and exit status of each run, in turn."""

    def __init__(self, time, lasts=(60.0,), status=0):
        self.time = time
        self.lasts = itertools.cycle(lasts)
        self.status = status
        self.began = []
        self.at_once = 0
        self.most_at_once = 0

    def __call__(self, argv, timeout_s):
        self.timeout_s = timeout_s
        return self

    async def run(self, environment=None, on_line=None, **more):
        self.began.append(spell(self.time.wall()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            took = next(self.lasts)
            await self.time.sleep(min(took, self.timeout_s))
            if took > self.timeout_s:
                return Ended(None, b"", b"", False)
            on_line("sync: complete")
            return Ended(self.status, b"", b"", False)
        finally:
            self.at_once -= 1


class Week:
    """One Standby, its clock and the program it runs."""

    def __init__(
        self, folder, monkeypatch, *, begins="2026-11-27 09:00", lasts=(60.0,), look_s=600.0, **more
    ):
        self.time = Time()
        self.time.set_wall(begins)
        self.played = Played(self.time, lasts)
        monkeypatch.setattr(runner, "Program", self.played)
        # Looks at the clock between slots find nothing here, and cost real time.
        monkeypatch.setattr(timetable, "LOOK_S", look_s)
        monkeypatch.setattr(part, "ALARMS_S", look_s)
        self.folder = folder
        self.more = more
        self._close = None
        self.start()

    # -------------------------------------------------------------- the process
    def start(self):
        context = started(self.folder, clock=self.time, **self.more)
        self.b = self.do(context.__aenter__())
        self._close = context
        self.b.peer.now = self.time.wall

    def stop(self):
        self.do(self._close.__aexit__(None, None, None))

    def do(self, work):
        """Carry out something that takes no virtual time, or as much as it needs."""
        asyncio._set_running_loop(self.time)
        try:
            task = self.time.create_task(work)
        finally:
            asyncio._set_running_loop(None)
        for _ in range(100_000):
            self.time.go_on(self.time.now + (0.0 if task.done() else 1.0))
            if task.done():
                return task.result()
        raise TimeoutError("it takes too long")

    def until(self, text):
        """Let time pass up to a moment of the wall clock."""
        self.time.go_on(self.time.now + moment(text) - self.time.wall())

    # -------------------------------------------------------------- what an operator does
    def ready(self, start="13:00Z", run_every="2h", **said):
        """Enable HA, sync by hand once and save a schedule; then forget the manual run."""
        self.do(self.b.ha())
        self.do(self.b.sync())
        self.save(start=start, run_every=run_every, **said)
        self.played.began.clear()

    def save(self, **said):
        return self.do(self.b.ask("sync-schedule-save", **said))[0]

    def runs(self, *keys):
        """What is on record, oldest first."""
        found = list(reversed(self.do(self.b.runs())))
        return [tuple(run[key] for key in keys) for run in found] if keys else found
