"""The commands that every agent has: how it is, which mode it is in, and whether HA is on."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from lb_probe.agent.control import VERSION, Act, Caller, Command, Json, Request
from lb_probe.agent.node import Node, Part
from lb_probe.agent.peer import PeerError
from lb_probe.agent.promotion import Commands
from lb_probe.agent.state import Switch
from lb_probe.core.model import Gate, Mode, Page, Role
from lb_probe.ports import Refused

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
    restart_scheduler: bool = Field(False, description="true or false")


class Verbs(Part):
    """The status of a node with a section of every part, and the change of its mode."""

    def __init__(self, node: Node, parts: Sequence[Part], commands: Commands | None = None) -> None:
        self._node = node
        node.view = self.view
        self._parts = parts
        self._commands = commands or Commands()

    def commands(self) -> Sequence[Command[Any]]:
        """Return `status`, `failover-mode`, `ha-enable` and `ha-disable`."""
        mode = FailoverMode
        return (
            Command(name="status", request=Request, answer=self._status),
            Command(name="failover-mode", request=mode, answer=self._failover_mode, acts=True),
            Command(name="ha-enable", request=Act, answer=self._enable, acts=True),
            Command(name="ha-disable", request=Act, answer=self._disable, acts=True),
        )

    async def _status(self, request: Request, caller: Caller) -> Json:
        return self.view()

    # -------------------------------------------------------------- the mode
    async def _failover_mode(self, request: FailoverMode, caller: Caller) -> Json:
        """Change the mode; `primary` works in every state, `secondary` asks who serves then."""
        async with self._node.deciding:
            before = self._node.state
            if request.mode == "primary":
                await self._promote(request, caller)
            else:
                await self._demote(request, caller)
            after = self._node.state
        changed = (after.mode, after.quarantine) != (before.mode, before.quarantine)
        return self.view() | {"changed": changed, "warnings": self._warnings(request)}

    async def _promote(self, request: FailoverMode, caller: Caller) -> None:
        """Let the application serve, then say Primary (R119)."""
        node = self._node
        is_serving = node.state.mode is Mode.PRIMARY and node.word == "active"
        if not is_serving:
            await node.ready_for_primary()
            await self._run(self._commands.promote, "promote-command", request)
        await node.change_mode(Mode.PRIMARY, cause="operator", by=caller.by, reason=request.reason)

    async def _demote(self, request: FailoverMode, caller: Caller) -> None:
        """Say Standby, then let the application stand by: nobody is sent to one that went first."""
        node = self._node
        state = node.state
        was_primary = state.mode is Mode.PRIMARY
        # Without HA there is no pair that could lose anything (R68).
        if was_primary and state.ha.is_on and state.quarantine is None:
            closed = [
                gate
                for gate in await node.may_demote()
                if not gate.passed and gate.id not in request.override
            ]
            if closed:
                self._refuse(request, closed)
        await node.change_mode(Mode.STANDBY, cause="operator", by=caller.by, reason=request.reason)
        if request.restart_scheduler:
            await self._turn_ha(request, caller, is_on=True)
        if was_primary:
            await self._run(self._commands.demote, "demote-command", request)

    async def _run(self, argv: tuple[str, ...], gate: str, request: FailoverMode) -> None:
        """Run the operator's command; one that fails is a gate that may be opened."""
        told = {"node": self._node.name, "cause": "operator", "reason": request.reason}
        fault = await self._commands.run(argv, told)
        if fault and gate not in request.override:
            self._refuse(request, [Gate(gate, False, fault, "an end with exit status 0")])

    def _refuse(self, request: FailoverMode, closed: Sequence[Gate]) -> None:
        ids = ", ".join(gate.id for gate in closed)
        opened = " ".join(f"--override {gate.id}" for gate in closed)
        raise Refused(
            f"failover mode {request.mode}: refused by {ids}: {closed[0].found}; wanted"
            f" {closed[0].wanted}",
            closed,
            f"lb-probe agent failover mode {request.mode} --node {self._node.name} {opened}",
        )

    def _warnings(self, request: FailoverMode) -> list[str]:
        mode = self._node.state.mode
        first, second = _WARNINGS[mode]
        warnings = [second] if request.restart_scheduler else [first, second]
        if mode is Mode.PRIMARY and self._node.state.data.suspect:
            warnings.append(f"Its data is suspect: {self._node.state.data.suspect}")
        if not self._node.state.clients.is_on:
            warnings.append("It takes no new clients: `failover client-connection enable` ends it.")
        return warnings

    # -------------------------------------------------------------- HA
    async def _enable(self, request: Act, caller: Caller) -> Json:
        changed = await self._turn_ha(request, caller, is_on=True)
        return self.view() | {"changed": changed, "warnings": await self._out_of_order()}

    async def _out_of_order(self) -> list[str]:
        """Say so where the Secondary is enabled before the Primary (R76)."""
        peer = self._node.peer
        if peer is None or self._node.role is Role.PRIMARY:
            return []
        with contextlib.suppress(PeerError):
            if (await peer.report()).ha_enabled is False:
                return [f"HA is not enabled on {peer.name}: enable it on the Primary first (R76)."]
        return []

    async def _disable(self, request: Act, caller: Caller) -> Json:
        """Stop schedule and promotion; a sync that runs goes on (R69)."""
        changed = await self._turn_ha(request, caller, is_on=False)
        warning = "Nothing promotes this node and nothing syncs it until `ha enable`."
        return self.view() | {"changed": changed, "warnings": [warning]}

    async def _turn_ha(self, request: Act, caller: Caller, *, is_on: bool) -> bool:
        """Save it; once more changes nothing, unless the scheduler is started again (R121)."""
        node, anew = self._node, getattr(request, "restart_scheduler", False)
        switch = Switch(
            is_on=is_on, since_wall=node.clock.wall(), by=caller.by, reason=request.reason
        )
        before, after = await node.save(
            lambda now: {"ha": now.ha if now.ha.is_on is is_on and not anew else switch}
        )
        changed = before.ha != after.ha
        if changed:
            said = {"by": caller.by, "reason": request.reason}
            if is_on:
                node.emit("agent.ha-enabled", **said)
            else:
                node.emit("agent.ha-disabled", **said)
        return changed

    # -------------------------------------------------------------- the status
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
            "ha": _switch(state.ha),
            "clients": _switch(state.clients),
            "quarantine": None
            if state.quarantine is None
            else {
                "peer": state.quarantine.peer,
                "reason": state.quarantine.reason,
                "since": utc(state.quarantine.since_wall),
            },
            "data_suspect": state.data.suspect,
            "pages": {page.value: _page(node, page) for page in Page},
            "checks": [_check(verdict) for verdict in node.checks.verdicts(node.clock.monotonic())],
        } | {name: section for name, section in sections.items() if section}


def _switch(switch: Switch) -> Mapping[str, object]:
    since = utc(switch.since_wall) if switch.since_wall else None
    return {
        "enabled": switch.is_on,
        "since": since,
        "by": switch.by,
        "reason": switch.reason,
    }


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
