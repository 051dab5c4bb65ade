"""Letters to a program of the operator's own: JSON on standard input, no shell, a time limit.

The way to what lb-probe does not speak: an SMS gateway, a ticket system, a siren. What a letter
says is on standard input only, never an argument: a reason cannot become an option.

Source: `adapters.command` is the sibling; sysexits.h.
"""

import json
import os
from collections.abc import Sequence

from lb_probe.core.notice import one_line
from lb_probe.events import letter as written
from lb_probe.ports import Letter, NotDelivered
from lb_probe.program import Ended, Program

EXIT_DATA = 65  # EX_DATAERR of sysexits.h: it will never take this one


class Command:
    """One program that takes letters.

    Args:
        argv: Program first.
        timeout_s: For a run as a whole; then it is killed with what it started.
    """

    is_for_alarms = False

    def __init__(self, name: str, argv: Sequence[str], timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s + 5.0  # its own limit ends it, and what it started with it
        self._limit_s = timeout_s
        self._program = Program(argv, timeout_s)

    async def send(self, letter: Letter) -> None:
        """Run the program with a letter; it is delivered when it ends with 0.

        Raises:
            NotDelivered: It cannot be run, ended otherwise, or did not end in time.
        """
        # Our own settings may hold a token; the program has no use for them.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LB_PROBE_")}
        given = json.dumps(written.as_json(letter)).encode() + b"\n"
        try:
            ended = await self._program.run(environment, given)
        except OSError as error:
            raise NotDelivered(
                f"{self.name}: {self._program.argv[0]} cannot be run: {error.strerror or error}",
                is_busy=True,
            ) from None
        if ended.status is None:
            raise NotDelivered(
                f"{self.name}: it did not end within {self._limit_s:g}s and was killed"
                f"{_said(ended)}",
                is_busy=True,
            )
        if ended.status != 0:
            how = f"exit status {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
            raise NotDelivered(
                f"{self.name}: it ended with {how}; wanted 0{_said(ended)}",
                is_final=ended.status == EXIT_DATA,
                is_busy=ended.status != EXIT_DATA,
            )


def _said(ended: Ended) -> str:
    lines = (ended.err or ended.out).decode("utf-8", "replace").strip().splitlines()
    return f"; it says: '{one_line(lines[-1])}'" if lines else ""
