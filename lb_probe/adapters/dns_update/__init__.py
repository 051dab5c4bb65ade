"""DNS: a name that points at the node with the traffic, moved by signed dynamic updates."""

from lb_probe.adapters.dns_update.adapter import TIMEOUT_S, DnsUpdate
from lb_probe.adapters.dns_update.wire import DNS_PORT, FUDGE_S, Key

__all__ = ["DNS_PORT", "FUDGE_S", "TIMEOUT_S", "DnsUpdate", "Key"]
