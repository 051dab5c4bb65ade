"""Where an agent keeps what must outlive a boot, and whether its key and its operators are there.

Both show themselves on the worst day: a node that starts again without its mode says Primary by its
role, and one whose key is gone is trusted by nobody.
"""

import grp
import pwd
from collections.abc import Iterator
from pathlib import Path

from lb_probe.config import Config, NodeConfig
from lb_probe.config.agent import LASTING, ControlOperator
from lb_probe.ports import LbProbeError

# Empty after a boot: the first two are in memory, the third is swept.
_LOST = tuple(map(Path, ("/run", "/var/run", "/tmp", "/dev/shm")))  # noqa: S108 # only named


def agent_files(config: Config, *, as_: str) -> list[str]:
    """Return a sentence for every file of an agent that would be lost, or cannot be used.

    Args:
        as_: Who reads the file: "agent:NAME" has that node's files, others may be elsewhere.
    """
    told = []
    for group in config.groups:
        for node in group.nodes:
            if node.agent is None or as_ not in {"check", f"agent:{node.name}"}:
                continue
            texts = [*_lost(node, config.path), *_key(node, is_here=as_ != "check")]
            if as_ != "check":
                texts += [text for one in node.agent.operators for text in _operator(one)]
            told += [f"group {group.name}: {node.name}: {text}" for text in texts]
    return told


def _lost(node: NodeConfig, file: Path) -> Iterator[str]:
    agent = node.agent
    assert agent is not None
    history, folder = agent.history_of(node.name), agent.trust_folder
    kept = (
        ("agent.state", agent.state, "its mode, and whether HA is enabled"),
        ("agent.sync.history", history, "when it was last synced"),
        ("agent.trust.folder", folder, "its key, and whom it trusts"),
    )
    for key, path, what in kept:
        where = _lost_folder(path) if path is not None else None
        # A file that is itself in such a place is a trial.
        if path is not None and where is not None and _lost_folder(file.absolute()) != where:
            yield (
                f"{key} is {path}, and a boot empties {where}: {what} would be lost; use"
                f" {LASTING / path.name}"
            )


def _lost_folder(path: Path) -> Path | None:
    return next((folder for folder in _LOST if path.is_relative_to(folder)), None)


def _key(node: NodeConfig, *, is_here: bool) -> Iterator[str]:
    """Look at the key that is there; on another machine than the agent's there is none."""
    assert node.agent is not None
    folder = node.agent.trust_folder
    if folder is None:
        return
    from lb_probe.agent.trust.identity import read_key  # cryptography: 100 ms

    try:
        found = read_key(folder / "key.pem", node.name)
    except (LbProbeError, OSError) as error:
        yield f"agent.trust: {error}"
        return
    if found is None and is_here:
        yield (
            f"agent.trust: {folder / 'key.pem'} does not exist yet; the agent makes it when it"
            f" starts, or you do: lb-probe agent trust init --node {node.name}"
        )


def _operator(one: ControlOperator) -> Iterator[str]:
    """Say why somebody who should have a role has none."""
    kind, name = ("user", one.user) if one.user else ("group", one.group or "")
    try:
        known = pwd.getpwnam(name).pw_uid if one.user else grp.getgrnam(name).gr_gid
    except KeyError:
        yield f"agent.operators: this machine has no {kind} {name}: nobody gets {one.role} by it"
        return
    if not _is_mapped(known, Path(f"/proc/self/{kind[0]}id_map")):
        yield (
            f"agent.operators: {kind} {name} cannot be told from others, as this runs with users of"
            " its own: say PrivateUsers=no in the unit of the agent"
        )


def _is_mapped(known: int, table: Path) -> bool:
    """Tell whether our user namespace knows an id (user_namespaces(7))."""
    try:
        spans = [tuple(map(int, line.split())) for line in table.read_text().splitlines()]
    except (OSError, ValueError):
        return True
    return any(first <= known < first + count for first, _, count in spans)
