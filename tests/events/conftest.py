"""An outbox on a file, with time that passes by hand."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from hand_channel import Events
from hand_clock import HandClock

from lb_probe.events.outbox import Outbox


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def running(tmp_path, clock, events):
    """Makes an outbox that runs, on one file; used again it is a process that starts again."""

    @asynccontextmanager
    async def make(*routes, file=tmp_path / "outbox.db", drain=False):
        box = await Outbox.open(file, routes, clock, events, source="prober on test")
        task = asyncio.ensure_future(box.run())
        try:
            yield box
            if drain:
                await box.drain()
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception():
                raise task.exception()
            await box.close()

    return make
