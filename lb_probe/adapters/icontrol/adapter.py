"""What F5's two adapters share: names, errors, transactions, and when a 404 is believed."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from lb_probe.adapters.icontrol.answers import Denied, Json, Missing, entries, word
from lb_probe.adapters.icontrol.follow_up import FollowUp, Step
from lb_probe.adapters.icontrol.unit import Unit
from lb_probe.adapters.icontrol.units import Units
from lb_probe.core.model import Seen
from lb_probe.ports import PublishError, Unreachable

POLL_S = 0.8  # drift is repaired within a second; a management plane is slow and shared
MISSING_S = 10.0  # between two times that something is said not to exist, before it is believed

Change = tuple[tuple[str, ...], Json]  # path of a member and what is written to it


class Doubtful(PublishError):
    """A change was sent, and whether it was carried out is not known."""


class Icontrol:
    """One pool on one device.

    Args:
        pool: Full path, as /Common/epmm.
        nodes: For each node the full path of its member.
        poll_s: Seconds between two readings while all is well.

    Attributes:
        name: The adapter's name in probes.yaml.
        type: Its kind in probes.yaml.

    Raises:
        ValueError: No node.
    """

    type = "f5"

    def __init__(
        self,
        name: str,
        units: Units,
        pool: str,
        nodes: Mapping[str, str],
        *,
        poll_s: float = POLL_S,
    ) -> None:
        if not nodes:
            raise ValueError("nodes is empty; give each node its member")
        self.name = name
        self.poll_s = poll_s
        self._units = units
        self._pool = pool
        self._nodes = dict(nodes)
        self._writing = asyncio.Lock()
        self._follow_up = FollowUp(self._steps(), units.beside)
        self._missing_at: float | None = None

    def _steps(self) -> Sequence[Step]:
        raise NotImplementedError

    # -------------------------------------------------------------- what follows a move
    def settle(self, *, may_write: bool) -> None:
        """Let what follows a move go on, or stop it; returns at once."""
        self._follow_up.go_on(may_write=may_write)

    async def settle_now(self) -> None:
        """Do all that follows a move now.

        Raises:
            PublishError: Names the step that failed; traffic is as asked all the same.
        """
        with self._named():
            await self._follow_up.once()

    # -------------------------------------------------------------- a transaction
    async def _commit(self, unit: Unit, changes: Sequence[Change]) -> None:
        """Carry out all of it or nothing, and nothing else with it.

        Raises:
            Doubtful: It was sent, and no good answer came: reading tells.
            Unreachable, PublishError: Nothing was changed.
        """
        begun = await unit.ask("POST", "tm", "transaction", body={})
        number = begun.get("transId")
        if type(number) is not int:
            raise PublishError(f"{unit.host}: found no transId in a new transaction")
        commit = ("tm", "transaction", str(number))
        is_sent = False
        try:
            for path, body in changes:
                await unit.ask("PATCH", *path, body=body, transaction=number)
            is_sent = True
            ended = await unit.ask("PATCH", *commit, body={"state": "VALIDATING"})
        except PublishError as error:
            # Harmless where it was committed; else nothing of it stays behind.
            self._units.beside.start(unit.ask("DELETE", *commit))
            if is_sent and not isinstance(error, Denied | Missing):
                raise Doubtful(str(error)) from error
            raise
        if (state := ended.get("state")) != "COMPLETED":
            why = ended.get("failureReason") or state
            raise PublishError(f"{unit.host}: the transaction was not carried out: {why!s:.200}")

    # -------------------------------------------------------------- what is missing
    def _found(self) -> None:
        self._missing_at = None

    async def _not_found(self, unit: Unit, error: PublishError) -> NoReturn:
        """Say what a missing object means: a unit that starts says so of all there is.

        Raises:
            Unreachable: Not believed yet.
            PublishError: Said again, ten seconds later at least, by a unit that calls itself ready.
        """
        now = asyncio.get_running_loop().time()
        if self._missing_at is None:
            self._missing_at = now
        if now - self._missing_at < MISSING_S or not await _is_ready(unit):
            raise Unreachable(
                f"{error}; believed when it is said again after {MISSING_S:.0f}s by a unit that is"
                " ready, for one that starts says so of everything"
            ) from error
        raise PublishError(f"{error}; correct `pool` or `nodes` in probes.yaml") from error

    # -------------------------------------------------------------- words
    def _member(self, node: str) -> str:
        if node not in self._nodes:
            known = ", ".join(self._nodes)
            raise PublishError(f"{self.name}: no member is known for {node}; wanted one of {known}")
        return self._nodes[node]

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Begin what went wrong with the adapter's name."""
        try:
            yield
        except Unreachable as error:
            raise Unreachable(f"{self.name}: {error}") from error
        except PublishError as error:
            if str(error).startswith(f"{self.name}: "):
                raise
            raise PublishError(f"{self.name}: {error}") from error

    def _told(self, seen: Seen, remarks: Sequence[str]) -> str:
        """Return everything that an operator should know of this reading."""
        follow_up = self._follow_up
        trouble = follow_up.trouble
        doing = f"{follow_up.doing} is under way" if follow_up.doing and not trouble else ""
        said = (seen.detail, *remarks, self._units.doubt, trouble, doing)
        return "; ".join(dict.fromkeys(text for text in said if text))


async def _is_ready(unit: Unit) -> bool:
    """Tell whether a unit calls all of itself ready; one too old to say so counts as ready."""
    try:
        said = await unit.get("tm", "sys", "ready")
    except Missing:
        return True
    except PublishError:
        return False
    names = ("configReady", "licenseReady", "provisionReady")
    words = [word(values, name) for _, values in entries(said) for name in names]
    return all(text == "yes" for text in words if text)
