"""What every mapping of probes.yaml is made of.

A field is spelled in the file as in its class, without the unit: `interval_s` is `interval`.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def key(about: str, default: Any = ..., **more: Any) -> Any:
    """Return a field: what it is for, and its default as the file would spell it.

    The editor shows `about`; for a required key it is also what a fault tells to use.
    """
    return Field(default, description=about, **more)


class Frozen(BaseModel):
    """A mapping of the file: unknown keys are faults, and nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        alias_generator=lambda name: name.removesuffix("_s"),
    )
