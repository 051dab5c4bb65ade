"""Programs of the operator's own that move traffic and say where it goes.

One is told the node and moves; another prints which server has the traffic. The way to a balancer
that lb-probe does not speak to: NetScaler, a cloud, one that was made at home.
"""

from lb_probe.adapters.command.adapter import EXIT_UNAVAILABLE, POLL_S, TIMEOUT_S, Command
from lb_probe.program import MAX_OUTPUT_BYTES

__all__ = ["EXIT_UNAVAILABLE", "MAX_OUTPUT_BYTES", "POLL_S", "TIMEOUT_S", "Command"]
