"""A sign of life that somebody else waits for: what tells people that the prober itself is gone.

The url is asked for only while probes really end, so a prober that hangs, one that is cut off from
its loop and one that is dead look alike from outside: silent (X9). Nothing of this machine can tell
that it is down; a service elsewhere, which calls people when the sign stays away, can.
"""

from collections.abc import Callable

from lb_probe.core.model import Event
from lb_probe.events.wire import Way, request
from lb_probe.ports import Clock, EventSink, NotDelivered

NAME = "dead-man"


class DeadMan:
    """Asks for one url, again and again, while the work goes on.

    Args:
        url: Read each time: it is a secret, as a rule.
        trouble: Says why the work does not go on; empty while it does.
    """

    def __init__(
        self,
        url: Callable[[], str],
        way: Way,
        interval_s: float,
        trouble: Callable[[], str],
        clock: Clock,
        events: EventSink,
    ) -> None:
        self._url = url
        self._way = way
        self._interval_s = interval_s
        self._trouble = trouble
        self._clock = clock
        self._events = events
        self._why = ""

    async def run(self) -> None:
        """Give signs of life until cancelled."""
        while True:
            why = self._trouble()
            if why:
                self._failed("not sent", why)
            else:
                await self._try()
            await self._clock.sleep(self._interval_s)

    async def _try(self) -> None:
        try:
            await self.ping()
        except NotDelivered as error:
            self._failed("not taken", str(error))
        else:
            self._why = ""
            self._emit("notify.pinged")

    async def ping(self) -> None:
        """Give one sign of life.

        Raises:
            NotDelivered: It was not taken.
        """
        answer = await request(self._way, "GET", self._url(), {"User-Agent": "lb-probe"}, None)
        if not 200 <= answer.status < 300:
            raise NotDelivered(
                f"{NAME}: it answered {answer.status}: '{answer.text[:200]}'; wanted 2xx"
            )

    def _failed(self, what: str, why: str) -> None:
        detail, is_new = f"{what}: {why}", what != self._why
        self._why = what
        if is_new:
            self._emit("notify.failed", detail)
        else:  # the same again: counted each time, told once
            self._emit("notify.failing", detail)

    def _emit(self, event: str, detail: str | None = None) -> None:
        fields: dict[str, object] = {"channel": NAME, "detail": detail}
        self._events.emit(Event(event, fields=fields))
