"""What every group is given while the process runs, whatever its policy.

`controller` and `pool` are built on it: each says what its policy decides and saves, and nothing of
how groups come and go, whom they wait for, or what makes evidence worthless.
"""

from lb_probe.tending.desk import Ask
from lb_probe.tending.loop import Loop

__all__ = ["Ask", "Loop"]
