"""What follows a move: it is in force at once, but on one unit and until that restarts.

So it is saved, brought to the peers and looked for there. None of this makes a move less true: a
step that fails is shown and tried again, and the move is not called a failed one.

Source: DESIGN section 1; tmsh reference, "save sys config"; K14106.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from lb_probe.adapters.icontrol.beside import Beside
from lb_probe.ports import PublishError

AGAIN_S = 2.0  # after the first failure; it doubles with each one more
LONGEST_S = 60.0

Step = tuple[str, Callable[[], Awaitable[None]]]


class FollowUp:
    """The steps after a move, in order; a newer move begins them anew.

    Attributes:
        trouble: Which step failed and why; empty where none did.
        doing: The step that runs now; empty where none does.
    """

    def __init__(self, steps: Sequence[Step], beside: Beside) -> None:
        self.trouble = self.doing = ""
        self._steps = tuple(steps)
        self._beside = beside
        self._is_owed = True  # at the start nobody knows what was saved
        self._may = False
        self._moves = 0
        self._failures = 0
        self._again_at = 0.0
        self._running: asyncio.Future[object] | None = None

    def owe(self) -> None:
        """Note a move; to be called before it is made, since its answer may be lost."""
        self._moves += 1
        self._is_owed = True
        self._failures, self._again_at = 0, 0.0

    def go_on(self, *, may_write: bool) -> None:
        """Begin what is owed and due, or stop before the next step; returns at once."""
        self._may = may_write
        is_running = self._running is not None and not self._running.done()
        is_due = asyncio.get_running_loop().time() >= self._again_at
        if may_write and self._is_owed and is_due and not is_running:
            self._running = self._beside.start(self._try())

    async def once(self) -> None:
        """Do all of it now.

        Raises:
            PublishError: Names the step that failed.
        """
        self._may, moves = True, self._moves
        for what, step in self._steps:
            if not self._may or moves != self._moves:
                return
            self.doing = what
            try:
                await step()
            except PublishError as error:
                self.trouble = f"{what} failed: {error}"
                raise PublishError(self.trouble) from error
            finally:
                self.doing = ""
        self._is_owed = False
        self._failures, self.trouble = 0, ""

    async def _try(self) -> None:
        moves = self._moves
        try:
            await self.once()
        except PublishError:
            if moves == self._moves:
                pause_s = min(LONGEST_S, AGAIN_S * 2 ** min(self._failures, 10))
                self._failures += 1
                self._again_at = asyncio.get_running_loop().time() + pause_s
