"""Our key and our pins together, as the connections of the moment are made with.

A change is on disk before it is in force, and in force for the next connection at once.
"""

import asyncio
from pathlib import Path

from lb_probe.agent.trust.identity import Certificate, Keys, TrustError
from lb_probe.agent.trust.pins import Pin, Pins
from lb_probe.agent.trust.wire import Context, WireError, make_context


class Ring:
    """The keys and pins of one agent.

    Attributes:
        fault: Why they cannot be used; empty while they can.
        is_open: Set when they have been read.
        is_tried: Set when it is known whether they can be.
    """

    def __init__(self, folder: Path, node: str) -> None:
        """Read nothing yet: a broken file must not keep the node's pages down."""
        self._folder = folder
        self._node = node
        self._keys: Keys | None = None
        self._pins: Pins | None = None
        self._contexts: dict[str, Context] = {}
        self._one_change = asyncio.Lock()
        self.fault = "not read yet"
        self.is_open = asyncio.Event()
        self.is_tried = asyncio.Event()

    async def open(self) -> None:
        """Read everything; make the first key where there is none.

        Raises:
            TrustError: A file is broken, another node's, or open to others.
            KeptError: A file cannot be read or written.
        """
        try:
            keys = await asyncio.to_thread(Keys, self._folder, self._node)
            pins = await asyncio.to_thread(Pins, self._folder / "pins.json", self._node)
        except Exception as error:
            self.fault = str(error)
            raise
        finally:
            self.is_tried.set()
        self._keys, self._pins, self.fault = keys, pins, ""
        self._contexts.clear()
        self.is_open.set()

    @property
    def keys(self) -> Keys:
        """Our keys.

        Raises:
            TrustError: They could not be read.
        """
        if self._keys is None:
            raise TrustError(self.fault)
        return self._keys

    @property
    def pins(self) -> Pins:
        """Our pins.

        Raises:
            TrustError: They could not be read.
        """
        if self._pins is None:
            raise TrustError(self.fault)
        return self._pins

    # -------------------------------------------------------------- for connections
    def server(self) -> Context:
        """Return what peers are let in with.

        Raises:
            TrustError: Our files could not be read.
        """
        return self._context("", self.pins.all)

    def client(self, peer: str) -> Context:
        """Return what this peer is asked with.

        Raises:
            WireError: It is not pinned.
            TrustError: Our files could not be read.
        """
        pins = self.pins.of(peer)
        if not pins:
            raise WireError("our-trust", f"found no pin of {peer}")
        return self._context(peer, pins)

    def _context(self, peer: str, pins: tuple[Pin, ...]) -> Context:
        found = self._contexts.get(peer)
        if found is None:
            found = make_context(self.keys.path, pins, self.pins.who, is_server=not peer)
            self._contexts[peer] = found
        return found

    # -------------------------------------------------------------- changes
    async def add(self, certificate: Certificate, *, by: str, now_wall: float) -> tuple[Pin, bool]:
        """Pin a key; see `Pins.add`."""
        own = self.keys.fingerprints
        async with self._one_change:
            found = await asyncio.to_thread(
                self.pins.add, certificate, own=own, by=by, now_wall=now_wall
            )
            self._contexts.clear()
        return found

    async def revoke(self, name: str, fingerprint: str) -> tuple[Pin, ...]:
        """Forget keys; see `Pins.revoke`."""
        async with self._one_change:
            gone = await asyncio.to_thread(self.pins.revoke, name, fingerprint)
            self._contexts.clear()
        return gone

    async def begin_rotation(self) -> Certificate:
        """Make the next key; see `Keys.begin_rotation`."""
        async with self._one_change:
            return await asyncio.to_thread(self.keys.begin_rotation)

    async def finish_rotation(self) -> Certificate:
        """Use the next key; see `Keys.finish_rotation`."""
        async with self._one_change:
            found = await asyncio.to_thread(self.keys.finish_rotation)
            self._contexts.clear()
        return found
