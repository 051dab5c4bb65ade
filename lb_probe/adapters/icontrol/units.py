"""The units of one device: which of them is active, and what follows a change on all of them.

Every unit is asked for its own word; what it says of its peer is an opinion. One that hangs delays
nobody: its question stays open beside, and no second one is put to it.

Source: BIG-IP Device Service Clustering; K14106 (config-sync).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from lb_probe.adapters.icontrol.answers import Json, status_of
from lb_probe.adapters.icontrol.beside import Beside, Question
from lb_probe.adapters.icontrol.unit import Unit
from lb_probe.ports import PublishError, Unreachable

ACTIVE = "ACTIVE"
IN_SYNC, PENDING = "In Sync", "Changes Pending"
HOPELESS = {
    "Disconnected": "its peer is not there, so nothing is pushed",
    "Standalone": "it has no device group; leave `device_group` out",
    "Awaiting Initial Sync": "make the first config-sync by hand: it decides whose settings win",
}
SOON_S = 0.3  # for the unit that was active before, where another one says that it is now
SYNC_S = 30.0
SILENT_S = 5.0  # for a sync that did not even begin: some fail without a word
SYNC_POLL_S = 0.5


class Units:
    """One unit, or the units of a pair.

    Args:
        device_group: Synced by us; empty where the units sync by themselves, or there is one.

    Attributes:
        beside: Holds what runs beside the adapters of this device.
        doubt: What is odd about who is active; empty when all is plain.
        last: The unit that was active when that was asked last.
    """

    def __init__(self, units: Sequence[Unit], device_group: str = "") -> None:
        if not units:
            raise ValueError("hosts is empty; name a unit")
        self.all = tuple(units)
        self.device_group = device_group
        self.beside = Beside()
        self.doubt = ""
        self.last = self.all[0]
        self._asked = {
            unit.host: Question(partial(unit.get, "tm", "cm", "failover-status"), self.beside)
            for unit in units
        }
        self._syncing = asyncio.Lock()
        self._synced_from = -1.0

    def peers(self, unit: Unit) -> tuple[Unit, ...]:
        """Return the other units."""
        return tuple(other for other in self.all if other is not unit)

    async def active(self) -> Unit:
        """Return the unit that says it is active; the same as before where several say so.

        Raises:
            Unreachable: None answered.
            PublishError: Those that answered are not active.
        """
        before = [unit.host for unit in self.all if self._asked[unit.host].is_open]
        answers = {unit.host: self._asked[unit.host].put() for unit in self.all}
        waiting = set(answers.values())
        patience = None
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            for host in [h for h in before if answers[h] in done]:
                before.remove(host)
                answer = answers[host].result()
                # One that said it is not may have become so since.
                if not isinstance(answer, PublishError) and not _is_active(answer):
                    answers[host] = self._asked[host].put()
                    waiting.add(answers[host])
            said = {h: a.result() for h, a in answers.items() if a.done()}
            active = [u for u in self.all if _is_active(said.get(u.host))]
            if self.last in active or (active and (self.last.host in said or not done)):
                break
            patience = SOON_S if active else None
        said = {h: a.result() for h, a in answers.items() if a.done()}
        return self._chosen(said)

    def _chosen(self, said: dict[str, Json | PublishError]) -> Unit:
        active = [unit for unit in self.all if _is_active(said.get(unit.host))]
        hosts = ", ".join(unit.host for unit in active)
        self.doubt = (
            f"{hosts} all say ACTIVE: which one has the traffic?" if len(active) > 1 else ""
        )
        if active:
            self.last = self.last if self.last in active else active[0]
            return self.last
        told = [
            str(answer)
            if isinstance(answer, PublishError)
            else f"{host} says {status_of(answer) or 'nothing'}"
            for host, answer in said.items()
        ]
        text = "; ".join(dict.fromkeys(told))
        if all(map(_is_silent, said.values())):
            raise Unreachable(text)
        raise PublishError(f"no unit is active: {text}")

    async def sync(
        self, unit: Unit, agree: Callable[[], Awaitable[bool]], changed_at: float | None = None
    ) -> None:
        """Push the configuration of this unit, the active one, to its group; wait until it is done.

        Args:
            agree: Whether the peers have what is wanted: the status alone may stay behind for
                another group's sake, and a sync can fail silently.
            changed_at: Loop seconds of the change; a sync that began later has it already.

        Raises:
            Unreachable, PublishError: Not done in time; says which status it has.
        """
        now = asyncio.get_running_loop().time
        changed_at = now() if changed_at is None else changed_at
        async with self._syncing:
            if self._synced_from > changed_at:
                return
            begun, status = now(), status_of(await unit.get("tm", "cm", "sync-status"))
            if status == IN_SYNC and len(self.all) == 1:
                return  # and no peer can be asked whether it is so
            if status in HOPELESS:
                raise PublishError(f"{unit.host} says '{status}'; {HOPELESS[status]}")
            line = f"config-sync to-group {self.device_group}"
            body = {"command": "run", "utilCmdArgs": line}
            await unit.ask("POST", "tm", "cm", body=body, timeout_s=SYNC_S)
            await self._synced(unit, agree)
            self._synced_from = begun

    async def _synced(self, unit: Unit, agree: Callable[[], Awaitable[bool]]) -> None:
        now = asyncio.get_running_loop().time
        began = now()
        while True:
            status = status_of(await unit.get("tm", "cm", "sync-status"))
            if status == IN_SYNC or await agree():
                return
            took_s = now() - began
            if took_s >= (SILENT_S if status == PENDING else SYNC_S):
                raise PublishError(
                    f"{unit.host} says '{status}' {took_s:.0f}s after config-sync to-group"
                    f" {self.device_group}; wanted '{IN_SYNC}'"
                )
            await asyncio.sleep(SYNC_POLL_S)

    async def close(self) -> None:
        """End what runs beside; the units are closed by who made them."""
        await self.beside.close()


def _is_silent(answer: Json | PublishError) -> bool:
    """Tell whether nothing is known: no answer, or none yet from one that has just started."""
    if isinstance(answer, PublishError):
        return isinstance(answer, Unreachable)
    return not status_of(answer)


def _is_active(answer: Json | PublishError | None) -> bool:
    return isinstance(answer, dict) and status_of(answer) == ACTIVE
