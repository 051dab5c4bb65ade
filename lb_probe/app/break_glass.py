"""`publish --offline`: straight to the load balancers, and the note that a prober adopts (X6)."""

import asyncio
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lb_probe.adapters.agent_check import AgentCheck
from lb_probe.app.loop import run
from lb_probe.app.parts import Balancers, group_of
from lb_probe.clock import SystemClock
from lb_probe.config import (
    Config,
    load,
)
from lb_probe.controller import OfflineNote
from lb_probe.core.model import Gate
from lb_probe.ports import (
    Invalid,
    NotFound,
    Publisher,
    PublishError,
    Refused,
    Settling,
    StoreError,
)
from lb_probe.store import sqlite

END_OF_TIME = 253_402_300_800.0  # 10000-01-01, beyond what a date can be written for


def publish_offline(path: Path, group: str, node: str, reason: str) -> list[dict[str, Any]]:
    """Break-glass: publish straight to the load balancers, without daemon or store.

    Leaves a note beside the store, which a starting prober adopts. Returns for each adapter
    whether it reads back as asked, and whether the note could be left where it could not.

    Raises:
        ConfigError: The file cannot be used.
        NotFound: No such group or node.
        Refused: A prober runs on this store.
    """
    config = load(path, as_="client")
    found = group_of(config, group)
    if node not in {n.name for n in found.nodes}:
        names = ", ".join(n.name for n in found.nodes)
        raise NotFound(f"group {group} has no node {node}; its nodes are {names}")
    if found.is_pool:
        raise Invalid(
            f"group {group} is active-active: no one node has its traffic. Without the prober set"
            " its servers with the load balancer's own tools; the prober takes over what it finds"
        )
    _refuse_beside_prober(config, group, node, reason)
    balancers = Balancers()
    publishers = [p for p in balancers.of(found) if not isinstance(p, AgentCheck)]

    async def all_of_them() -> list[dict[str, Any]]:
        try:
            return list(await asyncio.gather(*(told(p) for p in publishers)))
        finally:
            await balancers.close()

    async def told(publisher: Publisher) -> dict[str, Any]:
        if node in found.elsewhere.get(publisher.name, ()):
            detail = f"nothing to do here: another tier brings traffic to {node}"
            return {"name": publisher.name, "commands": [], "ok": True, "detail": detail}
        return await _publish_once(publisher, node)

    results = run(all_of_them())
    try:
        _leave_note(config, group, node, reason)
    except OSError as error:
        file = _note_file(config, group)
        detail = f"cannot write {file} ({error}): say this again before the prober starts"
        results.append({"name": "note", "ok": False, "detail": detail, "commands": []})
    return results


def _refuse_beside_prober(config: Config, group: str, node: str, reason: str) -> None:
    """Refuse while a prober runs on this store: it would undo the publication within a second.

    Raises:
        Refused: With the line that ends that prober first, even one that hangs.
    """
    pid = sqlite.holder(config.store_path)
    if pid is None:
        return
    found = f"a prober runs here (pid {pid}) and would undo this"
    wanted = (
        "no prober on this store; or ask it, with failover, or resume for the way back: this line"
        " passes no gate"
    )
    line = f"lb-probe publish {group} --to {node} --offline --reason {shlex.quote(reason)}"
    gate = Gate("no-prober", False, found, wanted, open_with="")
    raise Refused(f"publish of {group} refused by no-prober", [gate], f"kill -9 {pid}; {line}")


async def _publish_once(publisher: Publisher, node: str) -> dict[str, Any]:
    result: dict[str, Any] = {"name": publisher.name, "commands": publisher.commands(node)}
    try:
        await publisher.publish(node)
        seen = (await publisher.read_back()).told_for(node)
    except PublishError as error:
        return {**result, "ok": False, "detail": str(error)}
    detail = seen.detail if seen.node == node else f"reads back {seen.node}; {seen.detail}"
    if seen.node == node and isinstance(publisher, Settling):
        try:
            await publisher.settle_now()
        except PublishError as error:
            detail = f"traffic is as asked, but {error}"
    return {**result, "ok": seen.node == node, "detail": detail}


def _note_file(config: Config, group: str) -> Path:
    return config.store_path.with_name(f"{config.store_path.name}.offline-{group}.json")


def _leave_note(config: Config, group: str, node: str, reason: str) -> None:
    note = {
        "node": node,
        "actor": f"uid-{os.getuid()}",
        "reason": reason,
        "at_wall": SystemClock().wall(),
    }
    file = _note_file(config, group)
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(json.dumps(note))
    draft.rename(file)


def read_notes(config: Config) -> dict[str, OfflineNote]:
    """Return what break-glass left behind.

    Raises:
        StoreError: A note that cannot be read; nothing is guessed from it.
    """
    notes = {}
    for group, file in note_files(config):
        try:
            notes[group] = _note(json.loads(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError(
                f"{file} cannot be read; `publish --offline` left it. Look where traffic is, then"
                " remove the file, and say accept or republish once the prober runs"
            ) from None
    return notes


def note_files(config: Config) -> list[tuple[str, Path]]:
    """Return the notes there are, by group; one left under a group's former name is its own."""
    pairs = [group for group in config.groups if not group.is_pool]
    names = [(g.name, name) for g in pairs for name in (g.was, g.name) if name]
    files = [(group, _note_file(config, name)) for group, name in names]
    return [(group, file) for group, file in files if file.exists()]


def _note(raw: Mapping[str, Any]) -> OfflineNote:
    at_wall = float(raw["at_wall"])
    if not 0.0 <= at_wall < END_OF_TIME:
        raise ValueError(f"found the time {at_wall}")
    return OfflineNote(str(raw["node"]), str(raw["actor"]), str(raw["reason"]), at_wall)
