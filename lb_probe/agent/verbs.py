"""The commands that every agent has: how it is, and which mode it is in."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from lb_probe.agent.control import VERSION, Act, Caller, Command, Json, Request
from lb_probe.agent.node import Node, Part
from lb_probe.core.model import Mode, Page

_MODES = {"primary": Mode.PRIMARY, "secondary": Mode.STANDBY}
_WARNINGS = {
    Mode.PRIMARY: (
        "This does not move traffic by itself: use `lb-probe failover` for that.",
        "A node in Primary mode does not replicate with any other.",
    ),
    Mode.STANDBY: (
        "This does not restart the replication scheduler: start it, or the data grows old unseen.",
        "Meant for upgrades and troubleshooting (R121). It does not move traffic by itself.",
    ),
}


class FailoverMode(Act):
    """`failover mode primary|secondary`."""

    mode: Literal["primary", "secondary"] = Field(description="primary or secondary")


class Verbs(Part):
    """The status of a node with a section of every part, and the change of its mode."""

    def __init__(self, node: Node, parts: Sequence[Part]) -> None:
        self._node = node
        self._parts = parts

    def commands(self) -> Sequence[Command[Any]]:
        """Return `status` and `failover-mode`."""
        return (
            Command(name="status", request=Request, answer=self._status),
            Command(
                name="failover-mode", request=FailoverMode, answer=self._failover_mode, acts=True
            ),
        )

    async def _status(self, request: Request, caller: Caller) -> Json:
        return self.view()

    async def _failover_mode(self, request: FailoverMode, caller: Caller) -> Json:
        mode = _MODES[request.mode]
        before, after = await self._node.change_mode(
            mode, cause="operator", by=caller.by, reason=request.reason
        )
        warnings = list(_WARNINGS[mode])
        return self.view() | {"changed": after.mode is not before.mode, "warnings": warnings}

    def view(self) -> dict[str, object]:
        """Return the status answer."""
        node, state = self._node, self._node.state
        sections = {part.name: part.status() for part in self._parts if part.name}
        return {
            "version": VERSION,
            "node": node.name,
            "role": node.role.value,
            "mode": state.mode.value,
            "state": node.word,
            "since": utc(state.since_wall),
            "cause": state.cause,
            "by": state.by,
            "reason": state.reason,
            "pages": {page.value: _page(node, page) for page in Page},
            "checks": [_check(verdict) for verdict in node.checks.verdicts(node.clock.monotonic())],
        } | {name: section for name, section in sections.items() if section}


def utc(wall: float) -> str:
    """Return a moment (UTC seconds since 1970) as the answers show it."""
    return datetime.fromtimestamp(int(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _page(node: Node, page: Page) -> Mapping[str, object]:
    view = node.pages.view(page)
    return {"code": view.code, "text": view.text, "reasons": list(view.reasons)}


def _check(verdict: Any) -> Mapping[str, object]:
    return {
        "name": verdict.name,
        "passing": verdict.passing,
        "age_s": None if verdict.age_s is None else round(verdict.age_s, 3),
        "stale": verdict.is_stale,
        "detail": verdict.detail,
        "pages": sorted(page.value for page in verdict.pages),
    }
