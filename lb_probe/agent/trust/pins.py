"""The peers that an agent knows: whose key, since when, by whom.

A pin is made by a person who carried the other side's certificate over and compared fingerprints;
nothing is ever trusted because it was there first. Two pins of one name are a rotation under way.

Source: guide lines 285-295, 387; R75, R77, R78.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lb_probe.agent.trust import kept
from lb_probe.agent.trust.identity import Certificate, TrustError, read_export

VERSION = 1
_MOST_A_NAME = 2
_KEYS = {"name", "fingerprint", "certificate", "since_wall", "by"}


@dataclass(frozen=True, slots=True)
class Pin:
    """One key of one peer.

    Attributes:
        since_wall: UTC seconds since 1970.
        by: Who pinned it, for example `uid 0`.
    """

    certificate: Certificate
    since_wall: float
    by: str

    @property
    def name(self) -> str:
        """The peer's name in probes.yaml."""
        return self.certificate.node

    @property
    def fingerprint(self) -> str:
        """Of the peer's public key."""
        return self.certificate.fingerprint


class Pins:
    """All pins of one agent, as they are on disk.

    Blocking: a change waits for the disk.
    """

    def __init__(self, path: Path, node: str) -> None:
        """Read them; no file is no pin.

        Raises:
            TrustError: The file is not one of ours.
            KeptError: It cannot be read.
        """
        self._path = path
        self._node = node
        data = kept.read(path)
        try:
            self._pins = () if data is None else _parse(json.loads(data), node)
        except (ValueError, RecursionError, TrustError) as error:
            raise TrustError(
                f"{path}: found {error}; wanted the pins of {node} as version {VERSION}; put back"
                " a copy, or move the file away and add every peer again"
            ) from error

    @property
    def all(self) -> tuple[Pin, ...]:
        """Every pin, oldest first."""
        return self._pins

    def of(self, name: str) -> tuple[Pin, ...]:
        """Return the pins of one peer."""
        return tuple(pin for pin in self._pins if pin.name == name)

    def who(self, fingerprint: str) -> str:
        """Return whose key this is; empty for nobody's that is pinned."""
        return next((pin.name for pin in self._pins if pin.fingerprint == fingerprint), "")

    def add(
        self, found: Certificate, *, own: tuple[str, ...], by: str, now_wall: float
    ) -> tuple[Pin, bool]:
        """Pin a key, and tell whether it is new; the same key again changes nothing.

        Args:
            own: Our own fingerprints, which are nobody else's.

        Raises:
            TrustError: It is our own key or somebody else's, or the name has two keys already.
            KeptError: Not saved.
        """
        if found.fingerprint in own or found.node == self._node:
            raise TrustError(
                f"found the key of {self._node} itself; wanted that of its peer: each node has a"
                " key of its own (R75)"
            )
        for pin in self._pins:
            if pin.fingerprint == found.fingerprint:
                if pin.name == found.node:
                    return pin, False
                raise TrustError(
                    f"found the key of {pin.name}, now as {found.node}; wanted a key for each node:"
                    " make a new one there (R75)"
                )
        if len(self.of(found.node)) >= _MOST_A_NAME:
            raise TrustError(
                f"found {_MOST_A_NAME} keys of {found.node} already; wanted no more: revoke the"
                " old one first, see `lb-probe agent trust list`"
            )
        pin = Pin(found, now_wall, by)
        self._save((*self._pins, pin))
        return pin, True

    def revoke(self, name: str, fingerprint: str = "") -> tuple[Pin, ...]:
        """Forget a peer's keys, or one of them; return what was forgotten.

        Raises:
            TrustError: Nothing like that is pinned.
            KeptError: Not saved.
        """
        gone = tuple(
            pin for pin in self.of(name) if not fingerprint or pin.fingerprint == fingerprint
        )
        if not gone:
            known = ", ".join(f"{pin.name} {pin.fingerprint}" for pin in self._pins) or "nobody"
            raise TrustError(f"found no such pin of {name}; pinned are: {known}")
        self._save(tuple(pin for pin in self._pins if pin not in gone))
        return gone

    def _save(self, pins: tuple[Pin, ...]) -> None:
        document = {
            "version": VERSION,
            "node": self._node,
            "pins": [
                {
                    "name": pin.name,
                    "fingerprint": pin.fingerprint,
                    "since_wall": pin.since_wall,
                    "by": pin.by,
                    "certificate": pin.certificate.pem,
                }
                for pin in pins
            ],
        }
        kept.replace(self._path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")
        self._pins = pins


def _parse(document: Any, node: str) -> tuple[Pin, ...]:
    """Raise ValueError or TrustError with what was found instead."""
    if not isinstance(document, Mapping) or document.get("version") != VERSION:
        raise ValueError("no pins of this version")
    if document.get("node") != node:
        raise ValueError(f"the pins of {document.get('node')!r}")
    found = document.get("pins")
    if not isinstance(found, list):
        raise ValueError("no list of pins")
    return tuple(_pin(entry) for entry in found)


def _pin(entry: Any) -> Pin:
    if not isinstance(entry, Mapping) or set(entry) != _KEYS:
        raise ValueError("a pin without its five keys")
    since, by, text = entry["since_wall"], entry["by"], entry["certificate"]
    if isinstance(since, bool) or not isinstance(since, int | float) or not since >= 0:
        raise ValueError(f"since_wall {since!r}")
    if not isinstance(by, str) or not isinstance(text, str):
        raise ValueError("a pin with odd values")
    (certificate,) = read_export(text)
    if (entry["name"], entry["fingerprint"]) != (certificate.node, certificate.fingerprint):
        raise ValueError(f"a pin of {entry['name']!r} that is not its certificate's")
    return Pin(certificate, float(since), by)
