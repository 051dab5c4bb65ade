"""Second pass: every value by itself, as its kind in the models demands."""

from typing import Any

from pydantic import ValidationError

from lb_probe.config.model import TYPES, Config
from lb_probe.config.schema import KEYS, keys_of
from lb_probe.config.source import Source, Spot, Where, nearest, shown

_WANTED = {
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of names",
    "model_type": "a mapping of keys and values",
    "model_attributes_type": "a mapping of keys and values",
}


def judge(source: Source) -> Config | None:
    """Build the configuration; None, with every fault noted, where that cannot be done."""
    _no_nulls(source.at(()))
    try:
        context = {"folder": source.folder, "path": source.path}
        return Config.model_validate(source.data, context=context)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            _note(source, fault)
    return None


def _no_nulls(spot: Spot) -> None:
    """A key without a value is a line half written; only a limit says null on purpose."""
    if spot.value is None and spot.where != ("limits", "failovers_per_minute"):
        spot.fault("nothing", "a value, or leave the key out", settle=True)
    for inner in spot.items():
        _no_nulls(inner)


def _note(source: Source, fault: Any) -> None:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "default_factory_not_called":
        return  # another fault of the same mapping is the cause
    is_tag = kind.startswith("union_tag")  # the type of a check: pydantic names the whole check
    where = (*_where(fault["loc"]), *(("type",) if is_tag else ()))
    spot, keys = source.at(where), tuple(part for part in where if isinstance(part, str))
    if kind == "extra_forbidden":
        meant, use = nearest(keys[-1], _known(fault["loc"], keys[:-1]))
        spot.fault(f"an unknown key{meant}", use, at_key=True, settle=True)
        return
    if kind == "missing" or is_tag:
        use = str(KEYS[keys[:-1]][keys[-1]].description)
    elif kind == "value_error":
        use = str(context["error"])
    elif "expected" in context:
        use = context["expected"].replace("'", "")
    else:
        use = _WANTED.get(kind) or fault["msg"]
    spot.fault(shown(spot.value), use, settle=True)
    if keys[-1:] == ("type",):
        source.settle(where[:-1])  # without its type none of its keys can be judged


def _where(loc: Where) -> Where:
    """Return a place in the file: pydantic puts the type of a check behind its number."""
    return tuple(
        part
        for i, part in enumerate(loc)
        if not (i >= 2 and loc[i - 2] in TYPES and isinstance(loc[i - 1], int))
    )


def _known(loc: Where, where: tuple[str, ...]) -> list[str]:
    """Return the keys of the mapping that holds an unknown one; a check's depend on its type."""
    models = TYPES.get(str(where[-1])) if where else None
    return sorted(keys_of(models[str(loc[-2])])) if models else [*KEYS[where]]
