"""What a node tells people by itself: the Primary's site may be gone (R15, R95).

Made of the node's own events. Each notice has a key that is the same after a crash, so that what is
put again at the start is told once.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lb_probe.agent.node import Node, Part
from lb_probe.core.model import Event, Mode
from lb_probe.core.notice import Notice, Stage

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Told:
    """How one event is told; `{node}` and the event's fields are filled in.

    Attributes:
        alarm: The alarm it opens or ends, after the node's name; empty for a note. What may be so
            with one peer and not with another names the peer.
    """

    event_class: str
    title: str
    stage: Stage = Stage.NOTE
    alarm: str = ""
    why: str = ""
    now: str = ""
    safe: str = ""
    do: str = ""


_OPEN, _OVER = Stage.OPEN, Stage.OVER
_MOVE = "lb-probe agent failover mode"
# fmt: off
_TOLD: Mapping[str, _Told] = {
    "agent.heartbeat-failed": _Told(
        "heartbeat", "{node}: {peer} failed {failures} heartbeats", _OPEN, "heartbeat",
        why="{detail}", now="on_failure: {then}",
        safe="lb-probe moves traffic by its own probes; this node only watched",
        do="look at {peer}; lb-probe status; lb-probe agent logs heartbeat --node {node}"),
    "agent.heartbeat-recovered": _Told(
        "heartbeat", "{node}: {peer} answers again", _OVER, "heartbeat"),
    "agent.heartbeat-off": _Told(
        "heartbeat", "{node}: does not watch {peer} any more: {reason}", _OVER, "heartbeat"),
    "agent.promotion-refused": _Told(
        "promoted", "{node}: did not become Primary: {gates}", _OPEN, "promotion",
        why="{detail}", now="it stays in Standby",
        do=f"{_MOVE} primary --node {{node}} --reason '...', if it should serve"),
    "agent.promotion-failed": _Told(
        "promoted", "{node}: becoming Primary failed", _OPEN, "promotion",
        why="{detail}", now="promote_command is not run again by itself",
        do=f"look at the application; then {_MOVE} primary --node {{node}} --reason '...'"),
    "agent.not-serving": _Told(
        "promoted", "{node}: is Primary and does not serve", _OPEN, "promotion",
        why="{reasons}", do="look at the application of {node}"),
    "agent.serving": _Told("promoted", "{node}: serves as Primary", _OVER, "promotion"),
    "agent.promotion-over": _Told(
        "promoted", "{node}: stands by; no promotion of it is due any more", _OVER, "promotion"),
    "agent.quarantined": _Told(
        "quarantined", "{node}: came back as Primary and keeps out", _OPEN, "quarantine",
        why="{reason}", now="both its pages say ERROR",
        safe="clients are served by {peer}; nothing has to be done at once",
        do=f"{_MOVE} secondary --node {{node}}, then lb-probe agent failover sync {{peer}}"),
    "agent.quarantine-ended": _Told(
        "quarantined", "{node}: quarantine ended by {by}", _OVER, "quarantine",
        now="mode {mode}"),
    "agent.dual-primary": _Told(
        "dual-primary", "{node}: {peer} says Primary as well", _OPEN, "dual-primary",
        now="one of them has the traffic; data may change on both",
        safe="do not sync either of them before it is decided whose data is kept",
        do="docs/runbook.md, dual-primary"),
    "agent.dual-primary-over": _Told(
        "dual-primary", "{node}: it and {peer} do not both say Primary any more", _OVER,
        "dual-primary"),
    "agent.clients-disabled": _Told(
        "client-connections", "{node}: takes no new clients, by {by}", _OPEN, "clients",
        why="{reason}",
        do="lb-probe agent failover client-connection enable --node {node}, when it is over"),
    "agent.clients-enabled": _Told(
        "client-connections", "{node}: takes new clients again, by {by}", _OVER, "clients"),
    "agent.trust-missing": _Told(
        "trust", "{node}: trust between it and {peer} is missing", _OPEN, "trust/{peer}",
        why="{detail}", now="the two nodes cannot ask each other; no sync starts",
        safe="users are served; do not add a key that nobody compared",
        do="lb-probe agent trust list --node {node}, and on {peer}"),
    "agent.trust-mutual": _Told(
        "trust", "{node}: it and {peer} trust each other again", _OVER, "trust/{peer}"),
    "agent.connection-lapsed": _Told(
        "trust", "{node}: no test of the connection passed for too long", _OPEN, "connection",
        why="{detail}", now="neither a sync nor a promotion of this node would start",
        safe="users are served; the pair is not protected",
        do="lb-probe agent test-connection --node {node} --both"),
    "agent.connection-good": _Told(
        "trust", "{node}: the test of the connection passed again", _OVER, "connection"),
    "agent.clock-apart": _Told(
        "clock", "{node}: its clock and that of {peer} are apart", _OPEN, "clock/{peer}",
        why="{detail}", now="no sync starts into this node",
        do="set the clock that is wrong; timedatectl on both"),
    "agent.clock-near": _Told(
        "clock", "{node}: its clock and that of {peer} agree again", _OVER, "clock/{peer}"),
    "agent.utc-apart": _Told(
        "clock", "{node}: its clock is not right", _OPEN, "utc",
        why="{detail}", now="its logs and its schedule are as wrong",
        do="timedatectl on {node}; see whether its time server is reached"),
    "agent.utc-near": _Told(
        "clock", "{node}: its clock is right again", _OVER, "utc"),
    "agent.nodes-differ": _Told(
        "parity", "{node}: it and {peer} differ in {items}", _OPEN, "parity",
        safe="users are served; the difference shows after a failover",
        do="lb-probe agent parity --node {node}"),
    "agent.nodes-alike": _Told(
        "parity", "{node}: it and {peer} are alike again", _OVER, "parity"),
    "agent.sync-done": _Told(
        "sync-completed", "{node}: copied from {source}: {result}", why="{detail}",
        now="sync {run}, {trigger}, {seconds}s"),
    "agent.sync-alarm/data-suspect": _Told(
        "sync-failed", "{node}: its data cannot be trusted", _OPEN, "data-suspect",
        why="{detail}",
        now="a failover to it may serve half a copy",
        do="lb-probe agent sync now --node {node}, once the cause is gone"),
    "agent.sync-alarm-over/data-suspect": _Told(
        "sync-failed", "{node}: its data can be trusted again", _OVER, "data-suspect"),
    "agent.sync-alarm/sync-overdue": _Told(
        "rpo-exceeded", "{node}: its data is too old", _OPEN, "sync-overdue",
        why="{detail}",
        now="a failover now loses what {peer} had since then",
        do="lb-probe agent sync schedule --node {node}"),
    "agent.sync-alarm-over/sync-overdue": _Told(
        "rpo-exceeded", "{node}: its data is young enough again", _OVER, "sync-overdue"),
    "agent.sync-alarm/version-mismatch": _Told(
        "version", "{node}: no sync between different versions", _OPEN, "version-mismatch",
        why="{detail}",
        now="nothing is copied until both have one version"),
    "agent.sync-alarm-over/version-mismatch": _Told(
        "version", "{node}: syncs run again", _OVER, "version-mismatch"),
    "agent.sync-alarm/sync-failed": _Told(
        "sync-failed", "{node}: a sync failed", _OPEN, "sync-failed",
        why="{detail}",
        do="lb-probe agent sync history --node {node}"),
    "agent.sync-alarm-over/sync-failed": _Told(
        "sync-failed", "{node}: a sync was good again, or this one was seen", _OVER, "sync-failed"),
    "agent.sync-alarm/sync-overlap": _Told(
        "sync-failed", "{node}: syncs take longer than their interval", _OPEN, "sync-overlap",
        why="{detail}",
        do="lb-probe agent sync schedule --run-every ... --node {node}"),
    "agent.sync-alarm-over/sync-overlap": _Told(
        "sync-failed", "{node}: syncs fit again", _OVER, "sync-overlap"),
    "agent.sync-alarm/scheduler-stopped": _Told(
        "sync-failed", "{node}: its schedule does not run", _OPEN, "scheduler-stopped",
        why="{detail}",
        do="lb-probe agent ha enable --node {node}"),
    "agent.sync-alarm-over/scheduler-stopped": _Told(
        "sync-failed", "{node}: its schedule runs again", _OVER, "scheduler-stopped"),
    "agent.sync-alarm/sync-unrecordable": _Told(
        "sync-failed", "{node}: syncs cannot be put on record", _OPEN, "sync-unrecordable",
        why="{detail}",
        now="none is begun until they can"),
    "agent.sync-alarm-over/sync-unrecordable": _Told(
        "sync-failed", "{node}: syncs are on record again", _OVER, "sync-unrecordable"),
}
# fmt: on


class Notices(Part):
    """Turns events of one node into notices.

    Args:
        group: The node's group.
    """

    def __init__(self, node: Node, group: str) -> None:
        self._node = node
        self._group = group
        self._waiting: asyncio.Queue[Notice] = asyncio.Queue()

    def take(self, event: Event) -> None:
        """Take one event of the node; those that nobody needs to be told of are left."""
        at_wall = self._node.clock.wall()
        state = self._node.state
        if event.name == "agent.mode-changed":
            if state.mode is Mode.PRIMARY:
                self._waiting.put_nowait(self._promoted())
        elif event.name == "agent.clients-disabled-still":
            day = int(at_wall // _DAY_S)
            self._put("agent.clients-disabled", event.fields, f"still-{day}", at_wall)
        elif event.name == "agent.sync-done" and event.fields.get("result") != "success":
            return  # the alarm tells it
        elif "alarm" in event.fields and f"{event.name}/{event.fields['alarm']}" in _TOLD:
            name = f"{event.name}/{event.fields['alarm']}"
            stands = str(event.fields.get("since") or f"{at_wall:.3f}")
            self._put(name, event.fields, stands, at_wall)
        elif event.name in _TOLD:
            since = state.quarantine.since_wall if state.quarantine else at_wall
            moment = since if event.name == "agent.quarantined" else at_wall
            self._put(event.name, event.fields, f"{moment:.3f}", at_wall)

    async def run(self) -> None:
        """Put again what an end of the process may have swallowed, then what comes."""
        node, state = self._node, self._node.state
        outbox = node.outbox
        if outbox is None:
            await asyncio.Event().wait()
            return
        if state.mode is Mode.PRIMARY and state.cause != "role":
            await outbox.put(self._promoted())
        if state.quarantine is not None:
            found = {"peer": state.quarantine.peer, "reason": state.quarantine.reason}
            since = state.quarantine.since_wall
            await outbox.put(self._notice("agent.quarantined", found, f"{since:.3f}", since))
        while True:
            await outbox.put(await self._waiting.get())

    def _put(self, name: str, fields: Mapping[str, object], moment: str, at_wall: float) -> None:
        self._waiting.put_nowait(self._notice(name, fields, moment, at_wall))

    def _notice(
        self, name: str, fields: Mapping[str, object], moment: str, at_wall: float
    ) -> Notice:
        told, node = _TOLD[name], self._node.name
        fill = _filler({**fields, "node": node})
        return Notice(
            key=f"{node}/{name.removeprefix('agent.')}/{moment}",
            event_class=told.event_class,
            title=fill(told.title),
            at_wall=at_wall,
            stage=told.stage,
            alarm=f"{node}/{fill(told.alarm)}" if told.alarm else "",
            group=self._group,
            node=node,
            why=fill(told.why),
            now=fill(told.now),
            safe=fill(told.safe),
            do=fill(told.do),
        )

    def _promoted(self) -> Notice:
        state, node = self._node.state, self._node.name
        by = state.by if state.cause == "operator" else "itself"
        return Notice(
            key=f"{node}/promoted/{state.since_wall:.3f}",
            event_class="promoted",
            title=f"{node}: became Primary, by {by}",
            at_wall=state.since_wall,
            group=self._group,
            node=node,
            why=state.reason,
            now="it does not sync any more; what the other node had since the last sync is missing",
            safe="traffic is moved by lb-probe or by you, not by this",
            do=f"lb-probe status; lb-probe agent status --node {node}",
        )


class _Words(dict[str, str]):
    """What an event did not say is a dash: a notice with a gap is better than none."""

    def __missing__(self, key: str) -> str:
        return "-"


def _filler(fields: Mapping[str, object]) -> Callable[[str], str]:
    words = _Words(
        (key, "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
        for key, value in fields.items()
    )
    return lambda text: text.format_map(words)
