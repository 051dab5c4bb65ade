"""The form of every mapping of probes.yaml: strict, frozen, spelled as in the file."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def key(about: str, default: Any = ..., **more: Any) -> Any:
    """Return a field: what it is for, and its default as the file would spell it.

    The editor shows `about`; for a required key it is also what a fault tells to use.
    """
    return Field(default, description=about, **more)


class Frozen(BaseModel):
    """A mapping of the file; a field is spelled there as here, without the unit."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        alias_generator=lambda name: name.removesuffix("_s"),
    )
