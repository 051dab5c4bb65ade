"""What the prober tells this node of its traffic (R65, R121, R122).

With each question for the report the prober says whether clients are sent here, sealed with
`report.secret_file` over a challenge that the last report brought. A challenge holds for some
seconds and is kept nowhere, so nobody can use them up, and what was said yesterday cannot be told
again. Without a secret nothing is believed, and nothing is known.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lb_probe.agent.node import Node, Part, Reading
from lb_probe.core.holds import Holds, proof
from lb_probe.core.model import Gate, Mode

FRESH_S = 15.0
CHALLENGE_S = 8.0  # it is taken for as long again; the prober asks every two seconds
GATE = "no-traffic"


@dataclass(frozen=True, slots=True)
class Word:
    """What was said last.

    Attributes:
        at: When, monotonic seconds.
    """

    holds: Holds
    at: float

    def is_fresh(self, now: float) -> bool:
        """Tell whether it still stands by itself: the prober has not fallen silent."""
        return now - self.at <= FRESH_S


class Traffic(Part):
    """The ear for the prober's word.

    Attributes:
        word: What it said last; None before its first word.
    """

    name = "traffic"

    def __init__(self, node: Node, secret: bytes) -> None:
        self._node = node
        self._secret = secret
        self._own_key = secrets.token_bytes(32)
        self.word: Word | None = None
        self._was_elsewhere = False
        self._arrived_in: float | None = None  # the beginning of the mode it came to
        node.traffic = self
        node.demote_guards.append(self._no_traffic)

    # -------------------------------------------------------------- hearing
    @property
    def challenge(self) -> str:
        """What the next word must be sealed over."""
        return self._challenge(int(self._node.clock.monotonic() // CHALLENGE_S))

    def _challenge(self, bucket: int) -> str:
        said = f"{self._node.name}\n{bucket}".encode()
        return hmac.new(self._own_key, said, hashlib.sha256).hexdigest()

    def hear(self, said: Mapping[str, str]) -> bool:
        """Take what a question says of the traffic; tell whether it was believed."""
        now = self._node.clock.monotonic()
        bucket = int(now // CHALLENGE_S)
        challenge, given = said.get("challenge", ""), said.get("proof", "")
        try:
            word = Holds(said.get("holds"))
        except ValueError:
            return False
        known = {self._challenge(bucket), self._challenge(bucket - 1)}
        wanted = proof(self._secret, challenge, self._node.name, word)
        if challenge not in known or not hmac.compare_digest(given.encode(), wanted.encode()):
            return False
        before, self.word = self.word, Word(word, now)
        self._note_arrival(word)
        if before is None or before.holds is not word:
            self._node.emit("agent.traffic-told", holds=word.value)
            self._node.wake()
        return True

    def _note_arrival(self, word: Holds) -> None:
        state = self._node.state
        if word is Holds.NO:
            self._was_elsewhere, self._arrived_in = True, None
        elif word is Holds.YES and self._was_elsewhere:
            self._was_elsewhere = False
            if state.mode is Mode.STANDBY and state.ha.is_on:
                self._arrived_in = state.since_wall

    # -------------------------------------------------------------- what follows
    @property
    def is_here(self) -> bool:
        """Whether clients are sent here, by a word that stands."""
        word = self.word
        if word is None or word.holds is not Holds.YES:
            return False
        return word.is_fresh(self._node.clock.monotonic())

    @property
    def has_arrived(self) -> bool:
        """Whether it was sent to a Standby that stands by since then, and was not dealt with."""
        return self.is_here and self._arrived_in == self._node.state.since_wall

    def settle(self) -> None:
        """Forget that it arrived: a promotion was begun for it, whatever came of that."""
        self._arrived_in = None

    @property
    def silent_s(self) -> float | None:
        """Seconds since the prober fell silent; None while it speaks, or never did."""
        now = self._node.clock.monotonic()
        if self.word is None or self.word.is_fresh(now):
            return None
        return now - self.word.at

    async def _no_traffic(self) -> Gate:
        """Judge whether clients would lose the node that serves them (R121)."""
        name, is_open = self._node.name, self._node.state.clients.is_on
        holds = bool(self.report()["holds_traffic"])
        found = f"clients are sent to {name}" if holds else f"no clients are sent to {name}"
        if holds and not is_open:
            found += ", and new ones are turned away"
        wanted = f"no clients at {name}: move them, or `failover client-connection disable`"
        return Gate(GATE, not (holds and is_open), found, wanted)

    # -------------------------------------------------------------- what is shown
    def status(self) -> Mapping[str, object]:
        """Return what was said last, how old that is, and whether the prober fell silent since.

        Nothing before its first word.
        """
        word, now = self.word, self._node.clock.monotonic()
        if word is None:
            return {}
        age_s = round(now - word.at, 3)
        return {"holds": word.holds.value, "age_s": age_s, "is_silent": not word.is_fresh(now)}

    def report(self) -> Mapping[str, object]:
        """Return whether clients are sent here; a silent prober's yes stands, its no does not."""
        word = self.word
        if word is None or word.holds is Holds.UNKNOWN:
            return {"holds_traffic": None}
        if word.holds is Holds.NO:
            is_fresh = word.is_fresh(self._node.clock.monotonic())
            return {"holds_traffic": False if is_fresh else None}
        return {"holds_traffic": True}

    def gauges(self) -> Iterable[Reading]:
        """Return what was said, one line a word; nothing said is unknown."""
        holds = self.word.holds if self.word else Holds.UNKNOWN
        for one in Holds:
            about = "1 for what the prober says of this node's traffic"
            yield Reading("traffic", about, one is holds, {"holds": one.value})
