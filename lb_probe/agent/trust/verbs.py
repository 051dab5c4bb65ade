"""The commands that keep an agent's key and its pins: on the control socket, audited.

Nothing is trusted because it was there first: a person carries an export over and compares its
fingerprint. A key is changed with overlap: `trust-rotate` makes the next one, peers pin it beside
the old one, and only then `trust-rotate` with `finish` begins to use it.

Source: guide lines 285-295, 387; R75, R77, R78.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from lb_probe.agent.control import VERSION, Act, Caller, Command, Json, Request
from lb_probe.agent.node import Part
from lb_probe.agent.trust.identity import Certificate, read_export
from lb_probe.agent.trust.link import LinkError
from lb_probe.agent.trust.part import Trust
from lb_probe.agent.trust.pins import Pin
from lb_probe.agent.verbs import utc
from lb_probe.core.model import Gate
from lb_probe.ports import Invalid, Refused

KNOWN_GATE = "peers-know-next"


class TrustAdd(Act):
    """`trust add FILE`."""

    export: str = Field(
        max_length=32_768, description="what `lb-probe agent trust export` printed there"
    )
    fingerprint: str = Field(description="the fingerprint that was compared, sha256:...")


class TrustRevoke(Act):
    """`trust revoke PEER [--fingerprint F]`."""

    peer: str = Field(max_length=128, description="the name of a pinned peer")
    fingerprint: str = Field("", max_length=80, description="one of its keys; all when left out")


class TrustRotate(Act):
    """`trust rotate [--finish]`."""

    finish: bool = Field(False, description="true to use the next key from now on")


class TrustVerbs(Part):
    """`trust-export`, `trust-list`, `trust-add`, `trust-revoke`, `trust-rotate`."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._node = trust.node

    def commands(self) -> Sequence[Command[Any]]:
        """Return the five commands; who is trusted is an admin's to say."""
        return (
            Command(name="trust-export", request=Request, answer=self._export),
            Command(name="trust-list", request=Request, answer=self._list),
            Command(name="trust-add", request=TrustAdd, answer=self._add, keeps_trust=True),
            Command(
                name="trust-revoke", request=TrustRevoke, answer=self._revoke, keeps_trust=True
            ),
            Command(
                name="trust-rotate", request=TrustRotate, answer=self._rotate, keeps_trust=True
            ),
        )

    async def _export(self, request: Request, caller: Caller) -> Json:
        await self._trust.ring.is_tried.wait()
        keys = self._trust.ring.keys
        return {"version": VERSION, "node": self._node.name, "export": keys.export()}

    async def _list(self, request: Request, caller: Caller) -> Json:
        await self._trust.ring.is_tried.wait()
        return self._view()

    def _view(self) -> dict[str, object]:
        keys, pins = self._trust.ring.keys, self._trust.ring.pins
        pinned = {pin.name for pin in pins.all}
        missing = [name for name in self._trust.links if name not in pinned]
        return {
            "version": VERSION,
            "node": self._node.name,
            "fingerprint": keys.current.fingerprint,
            "next": keys.next.fingerprint if keys.next else None,
            "pins": [_pin_view(pin) for pin in pins.all],
            "missing": missing,
            "peers": self._trust.status()["peers"],
        }

    async def _add(self, request: TrustAdd, caller: Caller) -> Json:
        """Pin the key that was compared.

        Raises:
            Invalid: The export is of nobody we know, or holds no key of this fingerprint.
            TrustError: It cannot be pinned.
        """
        await self._trust.ring.is_tried.wait()
        found = self._compared(read_export(request.export), request.fingerprint)
        if found.node not in self._trust.links and found.node != self._node.name:
            known = ", ".join(self._trust.links) or "nobody"
            raise Invalid(f"found the key of {found.node}; wanted one of: {known} (probes.yaml)")
        pin, is_new = await self._trust.ring.add(
            found, by=caller.by, now_wall=self._node.clock.wall()
        )
        if is_new:
            self._changed("added", pin, caller)
            await self._trust.look(pin.name)
        return self._view() | {"changed": is_new}

    def _compared(self, found: tuple[Certificate, ...], fingerprint: str) -> Certificate:
        for one in found:
            if one.fingerprint == fingerprint.lower():
                return one
        held = ", ".join(one.fingerprint for one in found)
        raise Invalid(
            f"found {held} in the export; wanted {fingerprint[:80]!r}: read the fingerprint from"
            " the other node itself, not from the file that came from it"
        )

    async def _revoke(self, request: TrustRevoke, caller: Caller) -> Json:
        await self._trust.ring.is_tried.wait()
        gone = await self._trust.ring.revoke(request.peer, request.fingerprint.lower())
        for pin in gone:
            self._changed("revoked", pin, caller)
        return self._view() | {"revoked": [_pin_view(pin) for pin in gone], "changed": True}

    def _changed(self, change: str, pin: Pin, caller: Caller) -> None:
        self._node.emit(
            "agent.trust-changed",
            change=change,
            peer=pin.name,
            fingerprint=pin.fingerprint,
            by=caller.by,
        )

    async def _rotate(self, request: TrustRotate, caller: Caller) -> Json:
        """Make the next key, or use it.

        Raises:
            Refused: A pinned peer does not know the next key yet, or cannot be asked.
        """
        ring = self._trust.ring
        await ring.is_tried.wait()
        before = ring.keys.fingerprints
        if request.finish:
            await self._all_know_next(request)
            used = await ring.finish_rotation()
        else:
            used = await ring.begin_rotation()
        changed = ring.keys.fingerprints != before
        if changed:
            change = "rotated" if request.finish else "next-made"
            self._node.emit(
                "agent.trust-changed",
                change=change,
                peer=self._node.name,
                fingerprint=used.fingerprint,
                by=caller.by,
            )
        return self._view() | {"changed": changed, "warnings": _ADVICE[request.finish]}

    async def _all_know_next(self, request: TrustRotate) -> None:
        following = self._trust.ring.keys.next
        if following is None or KNOWN_GATE in request.override:
            return  # the ring refuses what was not begun
        lacking = [
            fault
            for name in self._trust.links
            if self._trust.ring.pins.of(name)
            and (fault := await self._lacks(name, following.fingerprint))
        ]
        if not lacking:
            return
        wanted = "the next key pinned by every peer; add our export there first"
        gate = Gate(KNOWN_GATE, False, "; ".join(lacking), wanted)
        paste = f"lb-probe agent trust rotate --node {self._node.name} --finish"
        raise Refused(
            "a peer would no longer let us in", [gate], f"{paste} --override {KNOWN_GATE}"
        )

    async def _lacks(self, name: str, fingerprint: str) -> str:
        """Say why a peer would not take this key; empty where it would."""
        try:
            answered = await self._trust.links[name].ask("contact")
        except LinkError as error:
            return str(error)
        takes = answered.body.get("takes")
        if isinstance(takes, list) and fingerprint in takes:
            return ""
        return f"{name} does not know {fingerprint}"


_ADVICE = {
    False: (
        "The key in use is still the old one. Add the export to every peer, then say"
        " `lb-probe agent trust rotate --finish`.",
    ),
    True: (
        "The old key is gone here. Revoke it on every peer:"
        " `lb-probe agent trust revoke NODE --fingerprint OLD`.",
    ),
}


def _pin_view(pin: Pin) -> Json:
    since = utc(pin.since_wall)
    return {"name": pin.name, "fingerprint": pin.fingerprint, "since": since, "by": pin.by}
