"""Who is told what: channels, outbox and sign of life built from `notify` of probes.yaml."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lb_probe.app.loop import run
from lb_probe.clock import SystemClock
from lb_probe.config import Config, load
from lb_probe.config.address import Url
from lb_probe.config.notify import (
    Channel as ChannelConfig,
)
from lb_probe.config.notify import (
    ChatChannel,
    CommandChannel,
    DeadManSwitch,
    MailChannel,
    PagerDutyChannel,
    WebhookChannel,
)
from lb_probe.core.model import Event
from lb_probe.core.notice import CLASSES, USUAL, Notice, Severity, Stage, said
from lb_probe.events import webhook
from lb_probe.events.command import Command
from lb_probe.events.dead_man import NAME as DEAD_MAN
from lb_probe.events.dead_man import DeadMan
from lb_probe.events.mail import Mail, Server
from lb_probe.events.outbox import Outbox, Route
from lb_probe.events.outbox_file import read_waiting
from lb_probe.events.webhook import Webhook, read_secret
from lb_probe.events.wire import Trust, Way
from lb_probe.history import iso_ms
from lb_probe.ports import Channel, Clock, EventSink, Invalid, Letter, NotDelivered, NotFound

Routes = dict[ChannelConfig, Route]
RESTART_PAUSE_S = 1.0


# ------------------------------------------------------------------ from the file to the parts
def channel_of(config: ChannelConfig, wall: Callable[[], float]) -> Channel:
    """Return one channel of the file."""
    if isinstance(config, MailChannel):
        return _mail(config, wall)
    if isinstance(config, CommandChannel):
        return Command(config.name, config.argv, config.timeout_s)
    way = _way(config.ca_file, config.proxy, config.timeout_s, wall)
    if isinstance(config, WebhookChannel):
        return Webhook(
            config.name,
            _url(config.url, config.url_file),
            webhook.plain,
            way,
            secret=partial(read_secret, config.secret_file) if config.secret_file else None,
            token=partial(read_secret, config.token_file) if config.token_file else None,
        )
    if isinstance(config, PagerDutyChannel):
        form = webhook.pagerduty(partial(read_secret, config.key_file))
        url = str(config.url) if config.url else webhook.PAGERDUTY_URL
        return Webhook(config.name, lambda: url, form, way, is_for_alarms=True)
    assert isinstance(config, ChatChannel)
    form = webhook.slack if config.type == "slack" else webhook.teams
    return Webhook(config.name, _url(None, config.url_file), form, way)


def _mail(config: MailChannel, wall: Callable[[], float]) -> Mail:
    password = partial(read_secret, config.password_file) if config.password_file else None
    server = Server(
        config.server.host,
        config.server.port,
        config.security,
        Trust(config.ca_file),
        config.username,
        password,
    )
    return Mail(
        config.name, server, config.sender, config.to, timeout_s=config.timeout_s, wall=wall
    )


def _way(
    ca_file: Path | None, proxy: Url | None, timeout_s: float, wall: Callable[[], float]
) -> Way:
    return Way(Trust(ca_file), str(proxy) if proxy else None, timeout_s, wall)


def _url(url: Url | None, file: Path | None) -> Callable[[], str]:
    if file is not None:
        return partial(read_secret, file)
    return lambda: str(url)


def routes_of(config: Config, clock: Clock, known: Routes | None = None) -> Routes:
    """Return every channel of the file with what it is told.

    Args:
        known: Of an earlier reading: a channel that stays as it was is the same object.
    """
    channels = config.notify.channels if config.notify else ()
    return {
        channel: (known or {}).get(channel) or _route(channel, clock.wall) for channel in channels
    }


def _route(config: ChannelConfig, wall: Callable[[], float]) -> Route:
    return Route(
        channel_of(config, wall),
        frozenset(config.classes),
        Severity(config.at_least),
        frozenset(config.groups) or None,
        config.stand_in_s,
    )


def dead_man_of(
    config: DeadManSwitch, trouble: Callable[[], str], clock: Clock, events: EventSink
) -> DeadMan:
    """Return the sign of life of a prober."""
    way = _way(config.ca_file, config.proxy, config.timeout_s, clock.wall)
    url = _url(config.url, config.url_file)
    return DeadMan(url, way, config.interval_s, trouble, clock, events)


def outbox_file(config: Config) -> Path:
    """Return where the prober keeps what waits to be told."""
    return config.store_path.with_name(f"{config.store_path.name}.outbox.db")


def machine() -> str:
    """Return the name of this machine, as messages show it."""
    return socket.gethostname().split(".")[0][:60] or "this machine"


async def open_outbox(
    config: Config, file: Path, who: str, routes: Iterable[Route], clock: Clock, events: EventSink
) -> Outbox:
    """Take over what an earlier run left to be told.

    Args:
        who: `prober`, or `agent NAME`.
    """
    runbook = str(config.notify.runbook) if config.notify and config.notify.runbook else ""
    source = f"{who} on {machine()}"
    return await Outbox.open(file, list(routes), clock, events, source=source, runbook=runbook)


@asynccontextmanager
async def agent_outbox(
    config: Config, state: Path, node: str, clock: Clock, events: EventSink
) -> AsyncIterator[Outbox | None]:
    """Yield what an agent tells people by, running; None where the file tells nobody.

    What is raised inside comes out as it is; what breaks in the outbox ends no agent.

    Args:
        state: The agent's state file; the outbox is beside it.
    """
    routes = routes_of(config, clock)
    if not routes:
        yield None
        return
    file = state.with_name(f"{state.name}.outbox.db")
    box = await open_outbox(config, file, f"agent {node}", routes.values(), clock, events)
    raised: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(_kept_running(box, clock, events))
            try:
                yield box
                await box.drain()
            except Exception as error:
                raised = error
            running.cancel()
    finally:
        await box.close()
    if raised is not None:
        raise raised


async def _kept_running(box: Outbox, clock: Clock, events: EventSink) -> None:
    while True:
        try:
            await box.run()
        except Exception as error:
            fields = {"part": "outbox", "detail": f"{type(error).__name__}: {error}"}
            events.emit(Event("part.crashed", fields=fields))
        await clock.sleep(RESTART_PAUSE_S)


# ------------------------------------------------------------------ who is told nothing
def unheard(config: Config) -> list[str]:
    """Return a warning for what reaches nobody (R15), or has one way only (R95)."""
    if config.notify is None:
        return ["notify: nobody is told anything; docs/notifications.md shows how to be woken"]
    channels = config.notify.channels
    found = []
    for one in config.groups:
        theirs = [c for c in channels if not c.groups or one.name in c.groups]
        has_agents = any(node.agent is not None for node in one.nodes)
        wanted = [n for n in USUAL if has_agents or CLASSES[n].by == "prober"]
        missing = [name for name in wanted if not _hears(theirs, name)]
        if missing:
            found.append((one.name, f"reach nobody: {', '.join(missing)}"))
        elif len([c for c in theirs if "failed-over" in c.classes]) < 2:
            text = "failed-over has one channel only: is it down, nobody is told"
            found.append((one.name, text))
    texts: dict[str, list[str]] = {}
    for group, text in found:
        texts.setdefault(text, []).append(group)
    everybody = len(config.groups)
    return [
        f"notify: {text}" if len(groups) == everybody else f"notify: of {', '.join(groups)} {text}"
        for text, groups in texts.items()
    ]


def _hears(channels: Iterable[ChannelConfig], name: str) -> bool:
    ranks = [severity.value for severity in (Severity.INFO, Severity.WARNING, Severity.CRITICAL)]
    least = ranks.index(CLASSES[name].severity.value)
    return any(name in c.classes and ranks.index(c.at_least) <= least for c in channels)


# ------------------------------------------------------------------ the verbs
@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one test message."""

    channel: str
    type: str
    ok: bool
    detail: str


def notify_test(path: Path, channel: str | None) -> list[Tried]:
    """Send a marked message through every channel of the file, from this machine, by itself.

    Raises:
        ConfigError: The file cannot be used.
        Invalid: It has no channels.
        NotFound: It has no such channel.
    """
    config = load(path, as_="client")  # on a node, too, that has none of the prober's secrets
    clock = SystemClock()
    notify = config.notify
    names = [c.name for c in notify.channels] if notify else []
    if notify is not None and notify.dead_man is not None:
        names.append(DEAD_MAN)
    if not names or notify is None:
        raise Invalid(f"{path} has no channels: nobody is told; see docs/notifications.md")
    if channel is not None and channel not in names:
        raise NotFound(f"no channel {channel}; the channels are: {', '.join(names)}")
    found = [c for c in notify.channels if channel in (None, c.name)]
    letter = _test_letter(clock, "notify test")
    runs = [_try(c, letter, clock) for c in found]
    if notify.dead_man is not None and channel in (None, DEAD_MAN):
        runs.append(_try_dead_man(notify.dead_man, clock))

    async def every() -> list[Tried]:
        return list(await asyncio.gather(*runs))

    return run(every())


def _test_letter(clock: Clock, who: str) -> Letter:
    wall = clock.wall()
    notice = Notice(
        key=f"test/{machine()}/{round(wall * 1000)}",
        event_class="test",
        title=f"TEST from {machine()}: this channel works",
        at_wall=wall,
        stage=Stage.OPEN,
        alarm=f"test/{machine()}",
        why=f"somebody said `lb-probe notify test` at {said(wall)}",
        safe="nothing has happened",
        do="nothing",
    )
    return Letter((notice,), notice.key, f"{who} on {machine()}")


async def _try(config: ChannelConfig, letter: Letter, clock: Clock) -> Tried:
    channel = channel_of(config, clock.wall)
    try:
        async with asyncio.timeout(channel.timeout_s):
            await channel.send(letter)
            if channel.is_for_alarms:  # nobody is to find it open in the morning
                await channel.send(_over(letter))
    except NotDelivered as error:
        return Tried(config.name, config.type, ok=False, detail=str(error))
    except TimeoutError:
        detail = f"{config.name}: no end after {channel.timeout_s:g}s"
        return Tried(config.name, config.type, ok=False, detail=detail)
    return Tried(config.name, config.type, ok=True, detail="")


def _over(letter: Letter) -> Letter:
    (notice,) = letter.notices
    over = Notice(
        key=f"{notice.key}/over",
        event_class="test",
        title=notice.title,
        at_wall=notice.at_wall,
        stage=Stage.OVER,
        alarm=notice.alarm,
    )
    return Letter((over,), over.key, letter.source)


async def _try_dead_man(config: DeadManSwitch, clock: Clock) -> Tried:
    class Nobody:
        def emit(self, event: object) -> None:
            """Take nothing."""

    man = dead_man_of(config, str, clock, Nobody())
    try:
        await man.ping()
    except NotDelivered as error:
        return Tried(DEAD_MAN, DEAD_MAN, ok=False, detail=str(error))
    return Tried(DEAD_MAN, DEAD_MAN, ok=True, detail="")


def notify_waiting(path: Path) -> list[Mapping[str, object]]:
    """Return what waits to be told by the prober of this file, oldest first; changes nothing.

    Raises:
        ConfigError: The file cannot be used.
        Invalid: It has no channels.
        OSError: There is no outbox, or it cannot be read.
    """
    config = load(path, as_="client")
    if config.notify is None or not config.notify.channels:
        raise Invalid(f"{path} has no channels: nobody is told; see docs/notifications.md")
    kept = read_waiting(outbox_file(config))
    return [
        {
            "channel": channel,
            "class": kept.notices[number].event_class,
            "group": kept.notices[number].group,
            "at": iso_ms(kept.notices[number].at_wall),
            "title": kept.notices[number].title,
            "key": kept.notices[number].key,
        }
        for number, channel in kept.waiting
    ]
