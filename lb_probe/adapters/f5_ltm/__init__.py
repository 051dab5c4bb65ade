"""F5 BIG-IP LTM: the member with the traffic is enabled, all others are forced offline."""

from lb_probe.adapters.f5_ltm.adapter import F5Ltm
from lb_probe.adapters.f5_ltm.monitors import traps

__all__ = ["F5Ltm", "traps"]
