"""F5 BIG-IP DNS (GTM): the member with the traffic is enabled, all others are disabled."""

from lb_probe.adapters.f5_gtm.adapter import F5Gtm

__all__ = ["F5Gtm"]
