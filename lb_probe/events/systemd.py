"""What systemd is told: ready, reloading, stopping, and that the work goes on.

The watchdog is fed by the work itself and by no timer of its own: a prober that answers and does
not probe is to be restarted. Without `NOTIFY_SOCKET` in the environment nothing is told.

Source: sd_notify(3), systemd.service(5) `WatchdogSec=`; X9.
"""

import os
import socket
from collections.abc import Callable, Mapping

from lb_probe.core.model import Event
from lb_probe.ports import Clock

_LINES = {
    "prober.started": "READY=1",
    "agent.started": "READY=1",
    "prober.stopped": "STOPPING=1",
    "agent.stopped": "STOPPING=1",
}


class Systemd:
    """The notification socket of this service's supervisor."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        is_ours = not pid or pid == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and int(usec) and is_ours else None

    def emit(self, event: Event) -> None:
        """Say when the service is ready, and when it ends."""
        line = _LINES.get(event.name)
        if line is not None:
            self.tell(line)

    def tell(self, *lines: str) -> None:
        """Send these lines, as READY=1; a supervisor that is gone is no error."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.setblocking(False)
            try:
                notify.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return  # the watchdog's next line may arrive; nothing here may fail for this

    async def watch(self, clock: Clock, trouble: Callable[[], str]) -> None:
        """Feed the watchdog for as long as there is no trouble; return where there is none to feed.

        Args:
            trouble: Says why the work does not go on; empty while it does.
        """
        if self.watchdog_s is None:
            return
        while True:
            if not trouble():
                self.tell("WATCHDOG=1")
            await clock.sleep(self.watchdog_s / 4)
