"""What one agent says of its node to its partner and to the prober, and its JSON.

Every field but the node's name may be unknown: None is no answer, never a good one (X22). The
document carries `version`; a reader ignores keys it does not know, so that two releases of lb-probe
can speak to each other, and refuses values of the wrong kind.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from lb_probe.core.model import Mode

VERSION = 1
PATH = "/agent/v1/report"  # where an agent serves it
SIGNATURE = "Lb-Probe-Signature"  # the header that proves it
CHALLENGE = "challenge"  # beside the report: what the prober seals its next word over
STATES = ("active", "standby", "not_available")
# Every field of the document and its kind.
_KINDS = {
    "node": "text",
    "mode": "mode",
    "state": "state",
    "quarantine": "text",
    "version": "text",
    "config_hash": "text",
    "last_good_sync": "span",
    "data_reign": "moment",
    "data_until": "moment",
    "data_fork": "pair",
    "data_suspect": "text",
    "holds_traffic": "flag",
    "is_syncing": "flag",
    "sync_slots": "pair",
    "sync_lasts_s": "moment",
    "ha_enabled": "flag",
    "takes_clients": "flag",
    "heartbeat": "text",
    "heartbeat_at": "moment",
    "then": "text",
    "promoted_at": "moment",
}


@dataclass(frozen=True, slots=True)
class ClockStamps:
    """The four moments of one exchange, UTC seconds since 1970 by the clock of each side.

    Attributes:
        asked_at: When we sent the question, by our clock.
        heard_at: When the peer had it, by its clock.
        answered_at: When the peer sent its answer, by its clock.
        received_at: When we had that, by our clock.
    """

    asked_at: float
    heard_at: float
    answered_at: float
    received_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerReport:
    """What is known of a node from its agent.

    Attributes:
        state: active, standby or not_available (R2).
        quarantine: Why it keeps its pages at ERROR; empty while it does not.
        version: The application's release, as `version_command` printed it (R74, R92).
        config_hash: SHA-256 of what both sides of the pair must have in common (R81).
        last_good_sync: When the last complete sync into this node began and ended, UTC seconds.
        data_reign: The time as Primary whose writes its data contains last, by its beginning
            (`core.data_lineage`); UTC seconds, as are the next two.
        data_until: Up to when it contains them.
        data_fork: Which one that began from, and up to when it had that one's writes.
        data_suspect: Why its copy of the data cannot be trusted; empty while it can (R24).
        holds_traffic: Whether it believes that clients are sent to it.
        is_syncing: Whether a sync into this node runs now (R12).
        sync_slots: A slot of its schedule, UTC seconds, and the seconds from slot to slot (R38).
        sync_lasts_s: How long 95 of 100 of its syncs last at most.
        ha_enabled: Whether its schedule and its promotion run (R68).
        takes_clients: Whether new clients are let in, as far as its agent was told (R123).
        heartbeat: What it sees of the node it watches: ok, failing or failed (R28).
        heartbeat_at: When it last looked, UTC seconds.
        then: What follows where that node is dead: keep-in-standby, flip-then-promote, or
            promote-by-itself (R64, R65).
        promoted_at: When it became Primary by itself or by a command, UTC seconds.
        clock: The stamps of the exchange that brought this; never part of the document.
    """

    node: str
    mode: Mode | None = None
    state: str | None = None
    quarantine: str | None = None
    version: str | None = None
    config_hash: str | None = None
    last_good_sync: tuple[float, float] | None = None
    data_reign: float | None = None
    data_until: float | None = None
    data_fork: tuple[float, float] | None = None
    data_suspect: str | None = None
    holds_traffic: bool | None = None
    is_syncing: bool | None = None
    sync_slots: tuple[float, float] | None = None
    sync_lasts_s: float | None = None
    ha_enabled: bool | None = None
    takes_clients: bool | None = None
    heartbeat: str | None = None
    heartbeat_at: float | None = None
    then: str | None = None
    promoted_at: float | None = None
    clock: ClockStamps | None = field(default=None, compare=False)

    def document(self) -> dict[str, object]:
        """Return the JSON object; moments are UTC seconds."""
        found: dict[str, object] = {"version_of_report": VERSION}
        for name in _KINDS:
            value = getattr(self, name)
            if isinstance(value, Mode):
                value = value.value
            found[name] = list(value) if isinstance(value, tuple) else value
        return found


def parse(document: object) -> PeerReport:
    """Return the report in a JSON object.

    Raises:
        ValueError: It is none; says what was found and what was wanted.
    """
    if not isinstance(document, Mapping):
        raise ValueError("found no JSON object; wanted an agent's report")
    if document.get("version_of_report") != VERSION:
        found = document.get("version_of_report")
        raise ValueError(f"found version_of_report {found!r}; wanted {VERSION}")
    known: dict[str, object] = {}
    for name, kind in _KINDS.items():
        value = document.get(name)
        if value is not None:
            known[name] = _read(name, kind, value)
    if not known.get("node"):
        raise ValueError("found no node; wanted the name of one")
    return PeerReport(**known)  # type: ignore[arg-type] # each is of its field's kind


def signature(secret: bytes, nonce: str, body: bytes) -> str:
    """Return what shows that a holder of the secret answered this very question."""
    return hmac.new(secret, nonce.encode() + b"\n" + body, hashlib.sha256).hexdigest()


def _read(name: str, kind: str, value: object) -> object:
    """Return a value of one kind; raise ValueError with what was found instead."""
    if kind == "text" and isinstance(value, str) and len(value) <= 1000:
        return "".join(char if char.isprintable() else "?" for char in value)  # it will be shown
    if kind == "flag" and isinstance(value, bool):
        return value
    if kind == "moment" and (moment := _moment(value)) is not None:
        return moment
    if kind in {"span", "pair"} and isinstance(value, list) and len(value) == 2:
        first, second = map(_moment, value)
        if first is not None and second is not None and (kind == "pair" or first <= second):
            return first, second
    if kind == "mode" and value in (Mode.PRIMARY.value, Mode.STANDBY.value):
        return Mode(value)
    if kind == "state" and value in STATES:
        return value
    raise ValueError(f"found {name} {str(value)[:60]!r}; wanted a {kind}")


def _moment(value: object) -> float | None:
    """Return UTC seconds before the year 10000; None where it is no such thing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Nothing compares with a NaN, and a whole number too large for a float compares all the same.
    return float(value) if 0 <= value < 253_402_300_800 else None
