"""Style map: a map's value names the backend that has the traffic.

    use_backend pool_%[str(epmm),map(/etc/haproxy/maps/active.map,none)]

One command moves everything, no moment has two nodes or none, and with the file written first it
survives every reload. A key that is missing, or `none`, names a backend that does not exist: 503.

Source: HAProxy configuration manual, "use_backend" and "map"; management guide, "set map".
"""

import asyncio
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lb_probe.adapters.haproxy.adapter import TIMEOUT_S, Adapter
from lb_probe.adapters.haproxy.answers import MapTable, Row, Server
from lb_probe.adapters.haproxy.device import Device
from lb_probe.adapters.haproxy.map_file import FileView
from lb_probe.adapters.haproxy.mending import Mending
from lb_probe.adapters.haproxy.reading import READ_ERRORS, Need, Reading
from lb_probe.adapters.haproxy.wire import Address
from lb_probe.adapters.haproxy.words import checked, checked_file, listed, printable
from lb_probe.core.model import Health, Seen
from lb_probe.ports import PublishError

NOBODY = "none"
OWNER_SUFFIX = ":owner"
_NOT_FOUND = re.compile(rb"(\[\d\]: )?entry not found\.\n")
_YOUNG_S = 5  # what a younger process was told by nobody comes from its file


class HaproxyMap(Adapter):
    """Keys of a map whose value names the chosen node's backend.

    Args:
        device: The HAProxy; an address makes one of its own.
        map_file: The map as HAProxy names it: the path in its configuration, see `show map`.
        keys: Services that move together; each is a key of the map.
        nodes: The value that stands for each node.
        local_file: That file as this process reaches it; written before HAProxy is told. None
            where it cannot be reached: then its keys should say `none`, closed until told.
        backend_prefix: What stands before the value in the backend's name.
        nobody: The value that closes the service.
        owner: Left in the map and the file under `KEY:owner`; may be set anew before each
            publication. Empty leaves none.

    Raises:
        ValueError: A name that HAProxy cannot have, no node, no key, an address or a time that
            cannot be.
    """

    def __init__(
        self,
        name: str,
        device: Device | Address,
        map_file: str,
        keys: str | Sequence[str],
        nodes: Mapping[str, str],
        *,
        local_file: Path | None = None,
        backend_prefix: str = "pool_",
        nobody: str = NOBODY,
        owner: str = "",
        timeout_s: float = TIMEOUT_S,
        shutdown_sessions_after_s: float | None = None,
    ) -> None:
        super().__init__(
            name,
            device,
            {node: checked(f"value of {node}", value) for node, value in nodes.items()},
            timeout_s=timeout_s,
            shutdown_sessions_after_s=shutdown_sessions_after_s,
        )
        names = [keys] if isinstance(keys, str) else list(keys)
        self._keys = tuple(checked("key", key) for key in names)
        if not self._keys or len(set(self._keys)) < len(self._keys):
            raise ValueError(f"keys are {names}; name each once, at least one")
        self._map = checked_file(map_file)
        self._nobody = checked("nobody", nobody)
        if nobody in nodes.values():
            raise ValueError(f"the value {nobody} closes the service; give the node another one")
        checked("backend_prefix", backend_prefix + "x")
        self._backends = {node: backend_prefix + value for node, value in self._nodes.items()}
        self._by_value = {value: node for node, value in self._nodes.items()}
        self._file = None if local_file is None else self._device.file(local_file)
        self.owner = owner
        self.need = Need(frozenset(self._backends.values()), frozenset({self._map}))
        self._raw_keys = tuple(key.encode() for key in self._keys)
        self._raw_owner = (self._keys[0] + OWNER_SUFFIX).encode()
        self._born = ""  # the run of HAProxy that was last read
        self._published = False  # since the last reading
        self._from_file = ""
        self._mending = Mending()

    @property
    def owner(self) -> str:
        """Who publishes: the word that the next publication leaves under `KEY:owner`."""
        return self._owner

    @owner.setter
    def owner(self, word: str) -> None:
        self._owner = checked("owner", word) if word else ""

    # -------------------------------------------------------------- publishing
    def commands(self, node: str) -> list[str]:
        """Return what `publish(node)` would do: the file's lines as a comment, then the line.

        Raises:
            PublishError: The node is not mapped to a value.
        """
        entries = self._entries(self._known(node))
        told = ", ".join(f"{key} {value}" for key, value in entries.items())
        first = [] if self._file is None else [f"# first, in {self._file.path}: {told}"]
        return [*first, self._line("set", entries)]

    def _entries(self, value: str) -> dict[str, str]:
        entries = dict.fromkeys(self._keys, value)
        if self._owner:
            entries |= {key + OWNER_SUFFIX: self._owner for key in self._keys}
        return entries

    def _line(self, verb: str, entries: Mapping[str, str]) -> str:
        return ";".join(f"{verb} map {self._map} {key} {v}" for key, v in entries.items())

    async def _carry_out(self, nodes: frozenset[str]) -> None:
        entries = self._entries(self._nodes[min(nodes)] if nodes else self._nobody)
        if self._file is not None:
            # File first: a HAProxy that restarts between the two starts with the new node, in the
            # other order with the one that traffic was just moved away from.
            await self._file.put(entries)
        line = self._line("set", entries)
        reply = await self._send(line)
        rest = _NOT_FOUND.sub(b"", reply)
        self._check(line, rest)
        if rest != reply:
            await self._add_missing(entries)
        self._published = True
        if self._file is not None:
            await self._file.kept()

    async def _add_missing(self, entries: Mapping[str, str]) -> None:
        """Add the keys that `set map` did not find: it changes entries and makes none.

        They are looked up first, because `add map` takes a key a second time without a word.
        """
        try:
            reading = await self._device.read(Need(maps=self.need.maps))
            there = reading.map(self._map).values
        except READ_ERRORS as exc:
            raise self._error(exc) from exc
        missing = {key: value for key, value in entries.items() if key.encode() not in there}
        if missing:
            line = self._line("add", missing)
            self._check(line, await self._send(line))

    def _servers_of(self, node: str) -> Sequence[tuple[str, str | None]]:
        return [(self._backends[node], None)]

    # -------------------------------------------------------------- reading
    @property
    def _what(self) -> str:
        return f"map {self._map}"

    def _state(self, reading: Reading) -> Hashable:
        table = reading.map(self._map)
        return (
            self._published,
            tuple(table.values.get(key) for key in self._raw_keys),
            tuple(table.twice.get(key) for key in self._raw_keys) if table.twice else (),
            table.values.get(self._raw_owner),
            (self._mending.may, self._mending.trouble),
            tuple(reading.backends[backend] for backend in self._backends.values()),
            self._in_file(reading),
        )

    def _judge(self, reading: Reading) -> Seen:
        table = reading.map(self._map)
        self._note_birth(reading, table)
        self._published = False
        values = [self._values(table, key) for key in self._raw_keys]
        found = {value for each in values for value in each}
        chosen = tuple(node for node, value in self._nodes.items() if value in found)
        agreed = all(each == values[0] and len(set(each)) == 1 for each in values)
        only = chosen[0] if len(chosen) == 1 and agreed else None
        said = [self._problem(key, each) for key, each in zip(self._keys, values, strict=True)]
        if not agreed and not any(said):
            told = [f"{k} is {v[0]}" for k, v in zip(self._keys, values, strict=True)]
            said = [f"{listed(told)}: wanted the same for all of them"]
        usable, why = (None, "") if only is None else self._usable(reading, only)
        owner = table.values.get(self._raw_owner, b"").decode("utf-8", "replace")
        wrong = self._file_problems(reading, table)
        seen = self._seen(
            reading,
            chosen,
            only,
            usable,
            [*said, why, *wrong, self._from_file],
            self._healths(reading),
            printable(owner, 200),
        )
        if not wrong or only is None or not self._mending.may:
            return seen
        return replace(seen, unsettled="; ".join(filter(None, (*wrong, self._mending.trouble))))

    def _seen_in(self, reading: Reading) -> Seen:
        seen = super()._seen_in(reading)
        self._mending.differs = bool(seen.unsettled)
        return seen

    def _values(self, table: MapTable, key: bytes) -> tuple[str, ...]:
        found = table.twice.get(key)
        if found is None:
            found = (table.values[key],) if key in table.values else (b"",)
        return tuple(value.decode("utf-8", "replace") for value in found)

    def _problem(self, key: str, values: Sequence[str]) -> str:
        told = listed(printable(value, 80) for value in values)
        if len(values) > 1:
            return (
                f"{key} is {len(values)} times in the map, as {told}: somebody said `add map`; the"
                f" first counts; `set map` changes all of them, `del map {self._map} {key}` and a"
                " publication leave one"
            )
        if values[0] == self._nobody:
            return f"nobody has the traffic: {key} is {self._nobody}"
        if not values[0]:
            return f"{key} is not in the map: HAProxy does as for `{self._nobody}`"
        if values[0] not in self._by_value:
            return f"{key} is {told} in the map; wanted one of {listed(self._by_value)}"
        return ""

    def _usable(self, reading: Reading, node: str) -> tuple[bool | None, str]:
        backend = self._backends[node]
        rows = reading.backends[backend]
        if isinstance(rows, str):
            return None, f"nothing is known of backend {backend} ({rows}); without it users get 503"
        servers = [Server.of(row) for row in rows]
        if any(server.is_ready and not server.obstacle for server in servers):
            return True, ""
        why = [f"{s.name}: {s.obstacle if s.is_ready else s.why_not_ready}" for s in servers]
        told = listed(printable(text, 80) for text in why) if why else "it has none"
        return False, f"{node} is chosen but no server of {backend} takes traffic ({told})"

    def _healths(self, reading: Reading) -> dict[str, Health]:
        found = {}
        for node, backend in self._backends.items():
            rows: tuple[Row, ...] | str = reading.backends[backend]
            servers = [] if isinstance(rows, str) else [Server.of(row) for row in rows]
            health = self._health(reading, servers)
            if health is not None:
                found[node] = health
        return found

    def _are_up(self, ups: Sequence[bool]) -> bool:
        return any(ups)  # one server is enough to serve

    # -------------------------------------------------------------- the file
    def _in_file(self, reading: Reading) -> FileView | None:
        return None if self._file is None else self._file.look(reading.begun)

    def _file_problems(self, reading: Reading, table: MapTable) -> list[str]:
        view = self._in_file(reading)
        if self._file is None or view is None:
            return []
        if view.problem:
            return [f"local file {view.problem}: a restart may forget the assignment"]
        told = []
        for key, raw in zip(self._keys, self._raw_keys, strict=True):
            runs = table.values.get(raw, b"").decode("utf-8", "replace")
            says = view.values.get(key, "")
            if runs != says:
                told.append(
                    f"{key} is {printable(runs, 80) or 'missing'} in HAProxy and"
                    f" {printable(says, 80) or 'missing'} in {self._file.path}: a restart would"
                    " follow the file"
                )
        return told

    # -------------------------------------------------------------- the file follows what runs
    def settle(self, *, may_write: bool) -> None:
        """Let the file be written where it says something else than HAProxy does, or not."""
        self._mending.allow(may=may_write)

    async def settle_now(self) -> None:
        """Make the file say what HAProxy does.

        Raises:
            PublishError: It could not be written, or HAProxy does not tell.
        """
        await self._write_back()

    async def _write_back(self) -> bool:
        """Do so, and return whether there was anything to write."""
        if self._file is None:
            return False
        async with self._writing:
            try:
                reading = await self._device.read(self.need)
                node, table = self._judge(reading).node, reading.map(self._map)
            except READ_ERRORS as exc:
                raise self._error(exc) from exc
            if node is None:
                return False
            differs = bool(self._file_problems(reading, table))
            values = table.values
            names = [name for key in self._keys for name in (key, key + OWNER_SUFFIX)]
            told = {
                name: values.get(name.encode(), b"").decode("utf-8", "replace") for name in names
            }
            await self._file.put({name: value for name, value in told.items() if value})
            await self._file.kept()
            return differs

    def is_due(self) -> bool:
        """Whether sessions are to be ended or the file is to be written."""
        return super().is_due() or self._mending.is_due(asyncio.get_running_loop().time())

    async def tend(self) -> None:
        """Do what is due; what fails is told in `Seen.unsettled` and tried again."""
        if super().is_due():
            await super().tend()
        now = asyncio.get_running_loop().time()
        if not self._mending.is_due(now):
            return
        try:
            # Not again before a reading has heard of it: that would be no other's doing.
            if await self._write_back():
                self._mending.note(now)
            else:  # the feed may have missed that it did; now it judges anew
                self._mending.differs, self._key = False, None
        except PublishError as exc:
            self._mending.note(now, str(exc))

    def _note_birth(self, reading: Reading, table: MapTable) -> None:
        """Notice that HAProxy's own file opens the service before anybody said so."""
        if reading.instance == self._born:
            return
        is_young = self._born != "" and reading.process.uptime_s <= _YOUNG_S
        self._born, self._from_file = reading.instance, ""
        if self._file is not None or not is_young or self._published:
            return
        told = [
            f"{key} {value[0]}"
            for key, value in zip(
                self._keys, (self._values(table, k) for k in self._raw_keys), strict=True
            )
            if value[0] in self._by_value
        ]
        if told:
            self._from_file = (
                f"after its start HAProxy's own file {self._map} said {listed(told)} before it was"
                f" told: write `{self._nobody}` there, so that a restart stays closed"
            )
