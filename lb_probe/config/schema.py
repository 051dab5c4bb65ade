"""What the models know of probes.yaml as a whole: every key by its place, and the JSON schema."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lb_probe.config.model import Config

Keys = dict[str, FieldInfo]


def keys_of(model: type[BaseModel]) -> Keys:
    """Return the keys that one model knows, as the file spells them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _places(
    models: Iterable[type[BaseModel]], where: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Keys]]:
    keys = {key: field for model in models for key, field in keys_of(model).items()}
    yield where, keys
    for key, field in keys.items():
        if inner := list(_models(field.annotation)):
            yield from _places(inner, (*where, key))


# Every mapping of the file, by the keys that lead to it, and the keys it knows.
KEYS: dict[tuple[str, ...], Keys] = dict(_places([Config], ()))


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 7) of probes.yaml, for editors."""
    schema = Config.model_json_schema(ref_template="#/definitions/{model}")
    schema["definitions"] = schema.pop("$defs")
    plain = json.loads(json.dumps(schema), object_hook=_draft7)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **plain, "title": "probes.yaml"}


def _draft7(node: dict[str, Any]) -> dict[str, Any]:
    """Wrap a reference that has company: draft 7 would ignore the company."""
    node.pop("discriminator", None)
    if "$ref" in node and len(node) > 1:
        node["allOf"] = [{"$ref": node.pop("$ref")}]
    return node
