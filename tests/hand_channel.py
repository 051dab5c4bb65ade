"""Channels that are told what to do, and what they are told."""

import asyncio

from lb_probe.core.notice import CLASSES, Notice
from lb_probe.events.outbox import Route
from lb_probe.ports import Letter, NotDelivered


class Hand:
    """A channel that keeps what it takes, and refuses, hangs or breaks while it is told to."""

    def __init__(self, name="ops", *, is_for_alarms=False):
        self.name = name
        self.timeout_s = 5.0
        self.is_for_alarms = is_for_alarms
        self.taken: list[Letter] = []
        self.tries: list[Letter] = []
        self.error: Exception | None = None
        self.refuses = lambda letter: None
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, letter: Letter) -> None:
        self.tries.append(letter)
        await self.gate.wait()
        error = self.error or self.refuses(letter)
        if error is not None:
            raise error
        self.taken.append(letter)

    @property
    def keys(self) -> list[str]:
        return [notice.key for letter in self.taken for notice in letter.notices]


class Events:
    """What was told of the outbox itself."""

    def __init__(self):
        self.seen = []

    def emit(self, event):
        self.seen.append(event)

    def named(self, name):
        return [event.fields for event in self.seen if event.name == name]


def notice(key, event_class="unprotected", group="epmm", **more) -> Notice:
    return Notice(key, event_class, f"{group}: {key}", 1_767_225_600.0, group=group, **more)


def route(channel, **more) -> Route:
    return Route(channel, **{"classes": frozenset(CLASSES), **more})


def busy(text="down", **more) -> NotDelivered:
    return NotDelivered(text, is_busy=True, **more)
