"""Objects as GET shows them: configuration, and on top of it what the unit knows right now."""

from collections.abc import Mapping
from typing import Any

from emulator.configuration import Configuration, collection_kind, kind_of
from emulator.health import Health, is_member
from emulator.ltm import NODE, POOL, node_place
from emulator.names import Place, link_of, numbers

Json = dict[str, Any]


class Renderer:
    """Makes JSON of the objects of one unit."""

    def __init__(self, version: str) -> None:
        self.version = version

    def one(self, config: Configuration, health: Health, place: Place, *, deep: bool) -> Json:
        """Return one object; `deep` puts the items of its subcollections into it."""
        kind = kind_of(place)
        values = config.get(place)
        path = kind.path_of(place[-1])
        out: Json = {"kind": f"{kind.stem}state", "name": path.name}
        if path.partition:
            out["partition"] = path.partition
        if path.sub_path:
            out["subPath"] = path.sub_path
        out["fullPath"] = place[-1]
        out["generation"] = config.generations[place]
        out["selfLink"] = link_of(place, self.version)
        out |= kind.rendered(values) | _runtime(config, health, place)
        if numbers(self.version) < (13,) and str(out.get("monitor", "")).startswith("/"):
            out["monitor"] = f"{out['monitor'].strip()} "
        for name in kind.subcollections:
            reference: Json = {
                "link": link_of((*place, name), self.version),
                "isSubcollection": True,
            }
            if deep:
                reference |= {"items": self.items(config, health, (*place, name), deep=False)}
            out[_camel(name) + "Reference"] = reference
        return out

    def items(
        self, config: Configuration, health: Health, collection: Place, *, deep: bool
    ) -> list[Json]:
        places = config.children(collection)
        return [self.one(config, health, place, deep=deep) for place in places]

    def collection(
        self, config: Configuration, health: Health, collection: Place, *, deep: bool
    ) -> Json:
        """Return a collection; without objects it has no `items` at all."""
        kind = collection_kind(collection)
        out: Json = {
            "kind": f"{kind.stem}collectionstate",
            "selfLink": link_of(collection, self.version),
        }
        if found := self.items(config, health, collection, deep=deep):
            out["items"] = found
        return out


def _camel(name: str) -> str:
    head, *rest = name.split("-")
    return head + "".join(word.title() for word in rest)


def _runtime(config: Configuration, health: Health, place: Place) -> Json:
    if place[:2] == POOL and is_member(place):
        return ltm_states(
            config.objects[place], health.word(place), is_drained=health.is_drained(place)
        )
    if place[:2] == NODE:
        return ltm_states(config.objects[place], "unchecked")
    return {}


def ltm_states(values: Mapping[str, Any], word: str, *, is_drained: bool = False) -> Json:
    """Return session and state as GET says them: never as they were written."""
    is_down = values["state"] == "user-down"
    session = values["session"]
    if session == "user-enabled" and word != "unchecked":
        session = "monitor-disabled" if is_drained else "monitor-enabled"
    return {"session": session, "state": "user-down" if is_down else word}


def node_state(config: Configuration, member: Place) -> Mapping[str, Any]:
    """Return the node's values that a member depends on."""
    common = (*NODE, "/Common/" + node_place(member)[-1].rpartition("/")[2])
    return config.objects.get(node_place(member)) or config.objects[common]


# ---------------------------------------------------------------- what a query leaves
def selected(item: Json, options: Mapping[str, list[str]]) -> Json:
    """Return what `$select` leaves of an item."""
    if "$select" not in options:
        return item
    wanted = set(options["$select"][0].split(","))
    return {key: value for key, value in item.items() if key in wanted}


def in_partition(item: Json, options: Mapping[str, list[str]]) -> bool:
    words = options.get("$filter", [""])[0].split()
    if words[:2] != ["partition", "eq"]:
        return True
    return bool(item.get("partition") == words[2].strip("'\""))
