"""What two nodes of a pair must have in common of probes.yaml, as one digest (R81)."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lb_probe.config.model import Config, GroupConfig


def digest(config: Config, group: GroupConfig) -> str:
    """Return the SHA-256 of everything the file says of a group, defaults filled in.

    Comments, the order of keys and spelled-out defaults make no difference, and neither does the
    folder that the file is in.
    """
    folder = config.path.parent.absolute()
    plain = _plain(group, folder)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(inner, folder) for name, inner in value}
    if isinstance(value, dict):
        return {str(key): _plain(inner, folder) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, folder) for inner in value]
    if isinstance(value, Path):
        path = value.absolute()
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
