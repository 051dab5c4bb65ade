"""Programs of the operator's that make the application of a node do what its agent says."""

from lb_probe.config import values as v
from lb_probe.config.frozen import Frozen, key


class Commands(Frozen):
    """No shell reads them; each gets `LB_PROBE_NODE`, `LB_PROBE_CAUSE` and `LB_PROBE_REASON`."""

    promote_command: v.Argv | None = key("a program that makes the application serve", None)
    demote_command: v.Argv | None = key("a program that makes it stand by again", None)
    client_disable_command: v.Argv | None = key("a program that refuses new clients", None)
    client_enable_command: v.Argv | None = key("a program that takes them again", None)
    timeout_s: v.Duration = key("each of them, as a whole", "5m")
    verify_s: v.Duration = key("until the node must serve after a promotion", "60s")
