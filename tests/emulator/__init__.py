"""An emulator of F5 BIG-IP: iControl REST of one box or of a pair, for tests.

In a test:

    from emulator import Emulator, faults

    @pytest.fixture
    async def bigip():
        async with Emulator.pair() as emulator:        # bigip-a is active, bigip-b is standby
            emulator.add_pool("/Common/epmm", "192.0.2.10:443", "192.0.2.11:443")
            emulator.force_offline("/Common/epmm", "192.0.2.11:443")
            yield emulator

    async def test_something(bigip):
        bigip.urls                       # ["https://127.0.0.1:40001", "https://127.0.0.1:40002"]
        bigip.ca_file                    # a PEM file with the CA that signed the certificates
        bigip.user, bigip.password       # "lb-probe", "probe-secret", a resource-admin; there are
                                         # admin/secret, and manager, operator and guest with
                                         # manager-secret and so on: `roles.py` has what they may
        a, b = bigip.unit(0), bigip.unit(1)
        a.fail_over()                                              # b is active now
        b.call_s = 0.5                                             # each call to b takes this long
        a.save_s = 2.0                                             # and saving this one
        a.faults.next(faults.cut_after(), method="PATCH", path="/transaction/")
        bigip.faults.next(faults.spurious_401(), times=2)          # on whichever unit is asked
        bigip.world.set("192.0.2.10:443", False)                   # its monitors fail from now on
        bigip.clock.advance(1200)                                  # all tokens have expired
        a.change("PATCH", "ltm/pool/~Common~epmm/members/~Common~192.0.2.10:443",
                 {"session": "user-disabled"})                     # a hand in the web interface
        a.member("/Common/epmm", "/Common/192.0.2.10:443")["state"]   # what GET would show
        a.saves, b.pair.sync_status()                              # 1, "In Sync"
        a.reboot()                                                 # what was not saved is lost
        a.stats.connections["/Common/192.0.2.10:443"] = 5          # still open, whatever its state
        bigip.drop_connections()                                   # what clients keep is stale now
        a.restart_mcpd(); a.condition = Condition.RESTJAVAD_DOWN   # phases: `wire.Condition`
        [(seen.method, seen.raw_path, seen.status) for seen in a.log]

`Emulator.pair(tls=False)` speaks plain HTTP, which no third-party client does; `call_s=0.01` makes
each call take 10 ms; `monitor_s` is how long a monitor says `checking`; `is_still=True` stops the
device's clock, so that a test says when a monitor has looked or a sync has arrived, however slow
the machine is; `Emulator.single()` is one box; `bigip.shared` has what the units share (delays of a
sync, the link between them). Blocking clients run in a thread beside the test's loop, `await
asyncio.to_thread(...)`, or the emulator does: `with emulator_in_thread() as bigip:`. For clients
that are no Python:

    PYTHONPATH=tests python -m emulator --port 8443 --port 8444

Faults are in `emulator.faults`, the device's words in `errors.py`, what may be written in `ltm.py`
and `gtm.py`. What a device refuses is refused here: a value of `state` or `session` that only the
device may write, an unknown property, a monitor or virtual server that is not there, a name whose
`%` is not encoded.

Known, from recordings of devices, F5's code and its functional tests: the shapes of all answers;
tokens, their lifetime and limit; states as they are read back; transactions; failover, save and
load; the texts of most errors. From other people's reports: the phases of restarts, what `ready`
says, that forced offline stops the monitor, that members and monitors are not mixed with states in
a transaction, syncs that do nothing.

Guessed, and to be chosen where there is a name:

* texts: an unknown or read-only property, both flags at once, a lapsed transaction, a token's
  timeout out of bounds, a monitor that is not there, states mixed with members
* enabling a member that already is enabled releases manual resume; the other guess:
  `unit.health.is_latch_strict = True`
* the peer does not save what a sync brought; `shared.is_saved_by_sync = True`
* mixed transactions fail on every version; `unit.transactions.is_mixing_refused = False`
* a manager may save and not sync; an operator may neither: `roles.MAY`
* an encoded slash is not found; users without the role of an administrator need a token
* how long anything takes: `monitor_s`, `shared.sync_s`, `restart_mcpd(...)`, `call_s`
"""

import asyncio
import contextlib
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emulator.certificates import make_certificates, server_context
from emulator.changes import write
from emulator.clock import DeviceClock
from emulator.configuration import placed
from emulator.faults import Faults
from emulator.health import World
from emulator.kinds import BUILT_IN
from emulator.names import segments_of
from emulator.pair import Pair
from emulator.server import Listener
from emulator.unit import Unit
from emulator.wire import Condition

__all__ = ["Condition", "Emulator", "Unit", "emulator_in_thread"]

VERSION = "17.1.2.1"


class Emulator:
    """One box or a pair; an async context manager that listens while it is entered.

    Args:
        names: Host names of the units; the first one is active.
        tls: Speak TLS. False, or the name of a certificate: `good`, `expired`, `other-name`.
        ports: The ports to listen on; 0: any free one.
        call_s: Each call takes at least this long.
        monitor_s: A monitor says `checking` for this long.
        is_still: The device's clock stands still but for `clock.advance`.
    """

    user = "lb-probe"
    password = "probe-secret"

    def __init__(
        self,
        *names: str,
        tls: bool | str = True,
        ports: tuple[int, ...] = (),
        call_s: float = 0.0,
        monitor_s: float = 0.05,
        is_still: bool = False,
        version: str = VERSION,
    ) -> None:
        self.clock = DeviceClock(is_still=is_still)
        self.world = World(self.clock.now, monitor_s)
        self.faults = Faults()
        self._shared = Pair(self.clock)
        for name in names:
            unit = Unit(name, version, self.clock, self.world, self._shared)
            unit.call_s = call_s
            self._shared.units.append(unit)
        self.units = self._shared.units
        self.units[0].is_active = True
        self.urls: list[str] = []
        self._tls = "good" if tls is True else tls
        self._ports = ports or (0,) * len(names)
        self._listeners: list[Listener] = []
        self._stack = contextlib.AsyncExitStack()
        self.ca_file = Path()
        for collection, name, values in BUILT_IN:
            self.configure("POST", collection, {"name": name} | values)

    @classmethod
    def pair(cls, **how: Any) -> "Emulator":
        """Return a pair that shares the device group `dg1`."""
        return cls("bigip-a.example.com", "bigip-b.example.com", **how)

    @classmethod
    def single(cls, **how: Any) -> "Emulator":
        return cls("bigip.example.com", **how)

    def unit(self, which: int) -> Unit:
        return self.units[which]

    @property
    def active(self) -> Unit:
        return next(unit for unit in self.units if unit.is_active)

    @property
    def shared(self) -> Pair:
        """What the units share: sync and its delays."""
        return self._shared

    # ------------------------------------------------------------ run
    async def __aenter__(self) -> "Emulator":
        async with contextlib.AsyncExitStack() as stack:
            context: ssl.SSLContext | None = None
            if self._tls:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="f5-")))
                self.ca_file = make_certificates(folder)
                context = server_context(folder, str(self._tls))
            for unit, port in zip(self.units, self._ports, strict=True):
                listener = Listener(unit, self.faults)
                self._listeners.append(listener)
                bound = await stack.enter_async_context(listener.listening(port, context))
                self.urls.append(f"{'https' if context else 'http'}://127.0.0.1:{bound}")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        if mistakes := [each for listener in self._listeners for each in listener.mistakes]:
            raise ExceptionGroup("the emulator made mistakes", mistakes)

    def drop_connections(self) -> None:
        """Close all connections that clients keep for later, without a word."""
        for listener in self._listeners:
            listener.drop()

    # ------------------------------------------------------------ configure, on all units alike
    def configure(self, method: str, path: str, body: Any = None) -> None:
        """Write to every unit, saved, in sync and long settled; the path is below /mgmt/tm."""
        place, is_collection = placed(segments_of(path))
        for unit in self.units:
            trial = unit.running.copy()
            write(trial, method, place, is_collection, body)
            unit.adopt(trial)
            unit.save()
            unit.saves = 0
        self.clock.advance(self.world.monitor_s)

    def add_pool(self, pool: str, *members: str, monitor: str = "", **values: Any) -> None:
        """Make a pool with members `ADDRESS:PORT`, or `ADDRESS.PORT` for IPv6, enabled."""
        body: dict[str, Any] = {"name": pool} | values
        if monitor:
            body["monitor"] = monitor
        self.configure("POST", "ltm/pool", body)
        for member in members:
            self.configure("POST", f"ltm/pool/{_segment(pool)}/members", {"name": member})

    def add_dns_pool(self, pool: str, *members: str, record: str = "a", **values: Any) -> None:
        """Make a pool of BIG-IP DNS with members `SERVER:VS`, and the servers it needs."""
        for member in members:
            self._add_virtual(*member.split(":", 1))
        self.configure("POST", f"gtm/pool/{record}", {"name": pool} | values)
        for member in members:
            path = f"gtm/pool/{record}/{_segment(pool)}/members"
            self.configure("POST", path, {"name": member})

    def _add_virtual(self, server: str, virtual: str) -> None:
        objects = self.units[0].running.objects
        if ("gtm", "datacenter", "/Common/dc1") not in objects:
            self.configure("POST", "gtm/datacenter", {"name": "dc1"})
        if ("gtm", "server", f"/Common/{server}") not in objects:
            addresses = [{"name": "192.0.2.250", "deviceName": server}]
            body = {"name": server, "datacenter": "/Common/dc1", "addresses": addresses}
            self.configure("POST", "gtm/server", body)
        if ("gtm", "server", f"/Common/{server}", "virtual-servers", virtual) not in objects:
            path = f"gtm/server/~Common~{server}/virtual-servers"
            self.configure("POST", path, {"name": virtual, "destination": "192.0.2.80:443"})

    def force_offline(self, pool: str, member: str) -> None:
        path = f"ltm/pool/{_segment(pool)}/members/{_segment(member)}"
        self.configure("PATCH", path, {"session": "user-disabled", "state": "user-down"})


def _segment(name: str) -> str:
    return name.replace("%", "%25").replace("/", "~")


@contextlib.contextmanager
def emulator_in_thread(emulator: Emulator | None = None) -> Iterator[Emulator]:
    """Run an emulator, a pair by default, on a loop in a thread: for tests that block."""
    running = emulator or Emulator.pair()
    is_up, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with running:
            is_up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert is_up.wait(10)
        yield running
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
