"""One configuration: objects by their place, and the four verbs on them.

A unit has several: the running one, the saved one, and a copy for each transaction that is being
committed. Nothing here knows of HTTP, of the other unit, or of what monitors found; what a write
means for those is written into `events`, and the unit carries it out when the write has taken.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from emulator.errors import not_registered, refused
from emulator.kinds import KINDS
from emulator.names import Place
from emulator.schema import IGNORED, Kind, Write


@dataclass(frozen=True)
class Happened:
    """Something that runtime state must know of.

    Attributes:
        what: `created`, `readded` (by a list of members), `deleted`, `monitor` (another one),
            `raised` (forced offline no more), `enabled`, or `enabled again` (it was before).
        place: The object it happened to.
    """

    what: str
    place: Place


class Configuration:
    """Objects by place; `generation` grows with every write."""

    def __init__(self) -> None:
        self.objects: dict[Place, dict[str, Any]] = {}
        self.generations: dict[Place, int] = {}
        self.generation = 1
        self.events: list[Happened] = []

    def copy(self) -> "Configuration":
        other = Configuration()
        # No deeper: a write puts new values in the place of the old ones, and never into them.
        other.objects = dict(self.objects)
        other.generations = dict(self.generations)
        other.generation = self.generation
        return other

    # ------------------------------------------------------------ read
    def get(self, place: Place) -> dict[str, Any]:
        """Return the stored values of an object.

        Raises:
            Refusal: It, or its parent, is not there.
        """
        self._demand_parent(place)
        if place not in self.objects:
            raise kind_of(place).missing(place)
        return self.objects[place]

    def demand(self, place: Place, *, whole: bool) -> None:
        """Refuse what is about an object that is not there, or about a collection of one."""
        if whole:
            self._demand_parent((*place, ""))
        else:
            self.get(place)

    def _demand_parent(self, place: Place) -> None:
        parent = place[:-2]
        if len(parent) > 1 and _find(parent[:-1]) and parent not in self.objects:
            raise kind_of(parent).missing(parent)

    def children(self, collection: Place) -> Iterator[Place]:
        """Return the places of a collection's objects, in the order they were made."""
        depth = len(collection) + 1
        for place in list(self.objects):
            if len(place) == depth and place[:-1] == collection:
                yield place

    # ------------------------------------------------------------ write
    def note(self, what: str, place: Place) -> None:
        self.events.append(Happened(what, place))

    def create(self, collection: Place, body: Mapping[str, Any]) -> Place:
        kind = collection_kind(collection)
        self._demand_parent((*collection, ""))
        if not body.get("name"):
            raise refused(400, "one or more properties must be specified")
        place = (*collection, str(kind.path_from(collection, body)))
        if place in self.objects:
            where = kind.path_of(place[-1]).partition
            text = f"The requested {kind.title} ({kind.shown(place)}) already exists"
            raise refused(409, f"01020066:3: {text} in partition {where}.", 3)
        values = kind.defaults() | kind.cleaned(body, Write.CREATE)
        self._put(kind, place, values)
        kind.created(self, place, body)
        kind.check(self, place)
        self.note("created", place)
        return place

    def modify(self, place: Place, body: Mapping[str, Any]) -> None:
        """PATCH: what is not named stays."""
        before = self.get(place)
        if not set(body) - IGNORED:
            raise refused(400, "one or more properties must be specified")
        kind = kind_of(place)
        self._replace(kind, place, before | kind.cleaned(body, Write.ALWAYS), body)

    def replace(self, place: Place, body: Mapping[str, Any]) -> None:
        """PUT: what is not named goes back to its default."""
        before = self.get(place)
        kind = kind_of(place)
        keep = {k: v for k, v in before.items() if kind.fields[k].write is not Write.ALWAYS}
        self._replace(kind, place, kind.defaults() | keep | kind.cleaned(body, Write.ALWAYS), body)

    def _replace(
        self, kind: Kind, place: Place, values: dict[str, Any], body: Mapping[str, Any]
    ) -> None:
        before = self.objects[place]
        self._put(kind, place, values)
        kind.changed(self, place, before, body)
        kind.check(self, place)

    def delete(self, place: Place) -> None:
        self.get(place)
        kind_of(place).deleting(self, place)
        for other in list(self.objects):
            if other[: len(place)] == place:
                del self.objects[other]
                self.note("deleted", other)
        self.generation += 1

    def _put(self, kind: Kind, place: Place, values: dict[str, Any]) -> None:
        self.generation += 1
        self.generations[place] = self.generation
        self.objects[place] = {k: v for k, v in values.items() if not _is_unset(kind, k, v)}


def _is_unset(kind: Kind, key: str, value: Any) -> bool:
    return value in ("none", "") and kind.fields[key].default is None


def _matches(pattern: Place, collection: Place) -> bool:
    pairs = zip(pattern, collection, strict=False)
    return len(pattern) == len(collection) and all(a in ("*", b) for a, b in pairs)


def _find(collection: Place) -> Kind | None:
    return next((kind for kind in KINDS if _matches(kind.pattern, collection)), None)


def collection_kind(collection: Place) -> Kind:
    """Return the kind of a collection.

    Raises:
        Refusal: There is none there.
    """
    kind = _find(collection)
    if kind is None:
        raise not_registered("/tm/" + "/".join(part.replace("/", "~") for part in collection))
    return kind


def kind_of(place: Place) -> Kind:
    return collection_kind(place[:-1])


def placed(segments: Place) -> tuple[Place, bool]:
    """Return the place that segments of a URL name, and whether it is a collection.

    Raises:
        Refusal: There is nothing of the kind.
    """
    place: Place = ()
    for segment in segments:
        kind = _find(place)
        place = (*place, str(kind.path_of(segment)) if kind else segment)
    is_collection = _find(place) is not None
    if not is_collection:
        collection_kind(place[:-1])
    return place, is_collection
