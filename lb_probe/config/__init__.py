"""probes.yaml, read whole and checked before anything starts; `docs/configuration.md` is its page.

Three passes, so that every mistake is reported at once and at its line: the text becomes plain
data with a place for every value (`yaml_text`); every value is judged by itself (`fields`); then
the rules that span several (`rules`).
"""

from pathlib import Path

from lb_probe.config import fields, rules, yaml_text
from lb_probe.config.address import Address, Url
from lb_probe.config.model import Config, GroupConfig, NodeConfig
from lb_probe.config.source import ConfigError, Source
from lb_probe.config.token import SENDABLE, is_sendable

__all__ = [
    "SENDABLE",
    "Address",
    "Config",
    "ConfigError",
    "GroupConfig",
    "NodeConfig",
    "Url",
    "is_sendable",
    "load",
    "load_as_spelled",
]
VERSION = 1


def load(path: Path, *, as_: str = "check") -> Config:
    """Read probes.yaml for one process.

    Args:
        path: The file; faults name it as given, and relative paths in it start at its folder.
        as_: Who reads: "prober" and "check" need the prober's secrets and certificates,
            "agent:NAME" needs that node to have an agent, "client" needs nothing more.

    Raises:
        ConfigError: It cannot be used; lists every mistake.
    """
    return load_as_spelled(path, as_=as_)[0]


def load_as_spelled(path: Path, *, as_: str = "check") -> tuple[Config, Source]:
    """Read probes.yaml for one process, and return how it is spelled as well; as `load`."""
    source = Source(path)
    yaml_text.read(source)
    config = None
    if isinstance(source.data, dict):
        version = source.at(("version",))
        if type(version.value) is int and version.value > VERSION:
            use = f"{VERSION}, which this program reads, or upgrade lb-probe"
            source.end(source.mark(version.where), str(version.value), use, version.where)
        config = fields.judge(source)
        rules.judge(source, as_)
    if source.faults or config is None:
        raise ConfigError(source.faults)
    return config, source
