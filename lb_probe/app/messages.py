"""What a prober tells people: outbox, teller and sign of life, as the file has them now."""

from collections.abc import Awaitable, Callable

from lb_probe.app.notify import (
    Routes,
    dead_man_of,
    open_outbox,
    outbox_file,
    routes_of,
)
from lb_probe.config import Config
from lb_probe.events.dead_man import NAME as DEAD_MAN
from lb_probe.events.dead_man import DeadMan
from lb_probe.events.log import Fanout
from lb_probe.events.metrics import Metrics
from lb_probe.events.outbox import Outbox
from lb_probe.events.teller import Teller
from lb_probe.groups import Groups
from lb_probe.ports import Clock, EventSink
from lb_probe.store.sqlite import SqliteStore


class Messages:
    """What tells people, from one reading of the file to the next.

    Args:
        events: What happens to the groups.
        notified: Takes what becomes of messages.
        trouble: Says why the work does not go on; empty while it does.
    """

    def __init__(
        self,
        clock: Clock,
        events: Fanout,
        notified: EventSink,
        metrics: Metrics,
        trouble: Callable[[], str],
    ) -> None:
        self._clock = clock
        self._events = events
        self._notified = notified
        self._metrics = metrics
        self._trouble = trouble
        self._routes: Routes = {}
        self._outbox: Outbox | None = None
        self._teller: Teller | None = None
        self._dead_man: DeadMan | None = None
        self._made: Callable[[Outbox], Teller] | None = None

    async def open(
        self, config: Config, groups: Groups, store: SqliteStore, config_fault: Callable[[], str]
    ) -> None:
        """Go on where an earlier run was; call it before anything is decided."""

        def made(outbox: Outbox) -> Teller:
            return Teller(
                groups, store, outbox, self._clock, remind_s=None, config_fault=config_fault
            )

        self._made = made
        await self.take(config)

    async def take(self, config: Config) -> None:
        """Tell people what this file says from now on; its parts are not running meanwhile."""
        notify = config.notify
        self._routes = routes_of(config, self._clock, self._routes)
        if self._outbox is None and self._routes:
            routes = self._routes.values()
            self._outbox = await open_outbox(
                config, outbox_file(config), "prober", routes, self._clock, self._notified
            )
            assert self._made is not None
            self._teller = self._made(self._outbox)
            await self._teller.open()
            self._events.add(self._teller.emit)
        elif self._outbox is not None:
            await self._outbox.reroute(list(self._routes.values()))
        if self._teller is not None:
            self._teller.remind_s = notify.remind_s if notify else None
        self._dead_man = None
        if notify is not None and notify.dead_man is not None:
            self._dead_man = dead_man_of(notify.dead_man, self._trouble, self._clock, self._events)
        names = [route.channel.name for route in self._routes.values()]
        self._metrics.know_channels([*names, *([DEAD_MAN] if self._dead_man else [])])

    def parts(self) -> dict[object, Callable[[], Awaitable[None]]]:
        """Return what is to run, by its name."""
        found: dict[object, Callable[[], Awaitable[None]]] = {}
        if self._outbox is not None and self._teller is not None:
            found["outbox"] = self._outbox.run
            found["teller"] = self._teller.run
        if self._dead_man is not None:
            found["dead-man"] = self._dead_man.run
        return found

    async def drain(self) -> None:
        """Tell what is left to tell, for a moment: the next start may be long from now.

        The teller does not run any more.
        """
        if self._outbox is not None and self._teller is not None:
            await self._teller.turn()
            await self._outbox.drain()

    async def close(self) -> None:
        """Let the outbox's file go; after its parts have ended."""
        if self._outbox is not None:
            await self._outbox.close()
