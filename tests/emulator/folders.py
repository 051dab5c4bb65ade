"""Partitions and folders: whatever has a name lives in one that exists."""

from typing import TYPE_CHECKING

from emulator.errors import Refusal, refused
from emulator.names import full_path

if TYPE_CHECKING:
    from emulator.configuration import Configuration


def has_folder(config: "Configuration", name: str) -> bool:
    path = full_path(name)
    if path.partition != "Common" and ("auth", "partition", path.partition) not in config.objects:
        return False
    folder = f"/{path.partition}/{path.sub_path}"
    return not path.sub_path or ("sys", "folder", folder) in config.objects


def demand_folder(config: "Configuration", name: str) -> None:
    if not has_folder(config, name):
        raise no_folder(name)


def no_folder(name: str) -> Refusal:
    path = full_path(name)
    folder = "/".join(("", path.partition, *filter(None, (path.sub_path,))))
    return refused(400, f"The requested folder ({folder}) was not found.")
