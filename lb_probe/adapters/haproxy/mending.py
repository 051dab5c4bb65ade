"""When a map file that says something else than what runs is written back.

Whoever puts an old file in its place (a copy of a configuration, a hand) changes nothing for users
now, and would send them to the old node at the next start. So it is mended, as the map itself is:
and as there, somebody who writes it again and again is left to it, and told of.

Source: DESIGN section 1 (drift); X1, X2.
"""

from collections import deque

AGAIN_S = 1.0  # after a failure
PATIENCE = 3  # times within the window
WINDOW_S = 60.0
OFTEN = f"written back {PATIENCE} times within {WINDOW_S:g}s: find who else writes this file"


class Mending:
    """What one adapter knows of its file.

    Attributes:
        may: HAProxy does what is wanted, and writing is allowed.
        differs: The last reading, while it might be written, found it to say something else.
        trouble: Why it still does; empty where nothing was tried.
    """

    def __init__(self) -> None:
        self.may = self.differs = False
        self._is_known = False
        self.trouble = ""
        self._done: deque[float] = deque(maxlen=PATIENCE)
        self._not_before = 0.0

    def allow(self, *, may: bool) -> None:
        """Note whether it may be written; what differed at the last reading was told by now.

        Not before: a file that is mended before anybody heard of it leaves no trace in the log.
        """
        self._is_known = may and self.may and self.differs
        self.may = may

    def is_due(self, now: float) -> bool:
        """Whether to write it now, in seconds of the loop's clock."""
        is_open = now >= self._not_before and not self._is_often(now)
        return self._is_known and self.differs and is_open

    def note(self, now: float, failure: str = "") -> None:
        """Note that it was written, or why it could not be."""
        if failure:
            self.trouble, self._not_before = failure, now + AGAIN_S
            return
        self._done.append(now)
        self.trouble = OFTEN if self._is_often(now) else ""

    def _is_often(self, now: float) -> bool:
        return len(self._done) == PATIENCE and now < self._done[0] + WINDOW_S
