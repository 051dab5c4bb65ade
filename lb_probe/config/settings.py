"""What every key of one probes.yaml comes to, and whether that is its default.

The guide recommends the default settings of failover, so a file should show where it left them.

Source: guide line 74; R14.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from lb_probe.config import load_as_spelled

_EMPTY: tuple[object, ...] = (None, "", (), [], {})


@dataclass(frozen=True, slots=True)
class Setting:
    """One key.

    Attributes:
        key: Its place, items of lists by their names: `groups.epmm.probe.fall`.
        value, default: As the file spells them; no default: None.
        source: `file`, `defaults` (what groups inherit) or `default`.
        is_default: It is what it would be if nobody had said anything; so is what has no default.
    """

    key: str
    value: object
    default: object
    source: str
    is_default: bool


def settings(path: Path) -> list[Setting]:
    """Return every key that has a value, in the order of docs/configuration.md.

    Raises:
        ConfigError: The file cannot be used.
    """
    config, source = load_as_spelled(path, as_="client")
    assert isinstance(source.data, dict)
    context = {"folder": source.folder, "path": source.path}
    return [*_Walk(context, source.data).mapping(config, source.data, ())]


class _Walk:
    def __init__(self, context: dict[str, Any], data: Mapping[str, Any]) -> None:
        self._context = context
        self._inherited = data.get("defaults", {}).get("probe", {})

    def mapping(
        self, model: BaseModel, said: Mapping[str, Any], where: tuple[str, ...]
    ) -> Iterator[Setting]:
        """Yield the settings of one mapping of the file."""
        for name, field in type(model).model_fields.items():
            key, value = field.alias or name, getattr(model, name)
            place = (*where, key)
            if isinstance(value, BaseModel):
                yield from self.mapping(value, said.get(key, {}), place)
            elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
                for number, (item, each) in enumerate(zip(value, said.get(key, ()), strict=True)):
                    named = str(getattr(item, "name", number))
                    yield from self.mapping(item, each, (*place, named))
            else:
                is_of_group = where[:1] == ("groups",) and where[2:] == ("probe",)
                inherited = self._inherited if is_of_group else {}
                yield from self._leaf(place, field, value, said, inherited)

    def _leaf(
        self,
        place: tuple[str, ...],
        field: FieldInfo,
        read: object,
        said: Mapping[str, Any],
        inherited: Mapping[str, Any],
    ) -> Iterator[Setting]:
        has_default = not (field.is_required() or field.default_factory)
        key, default = place[-1], field.default if has_default else None
        source = "file" if key in said else "defaults" if key in inherited else "default"
        if source == "default":
            value = default if has_default else read  # it follows from another key
        else:
            value = (said if source == "file" else inherited)[key]
        is_default = source == "default" or not has_default or self._is_same(field, value, default)
        if source != "default" or value not in _EMPTY:
            yield Setting(".".join(place), _plain(value), _plain(default), source, is_default)

    def _is_same(self, field: FieldInfo, value: object, default: object) -> bool:
        """Compare as read: 60s is 1m."""
        if value in _EMPTY or default in _EMPTY:
            return value in _EMPTY and default in _EMPTY
        kind: TypeAdapter[object] = TypeAdapter(field.rebuild_annotation())
        read = [kind.validate_python(each, context=self._context) for each in (value, default)]
        return read[0] == read[1]


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
