"""The groups of policy active-active: every healthy node is in, and nothing is latched."""

from lb_probe.pool.group import PoolSetup, SetPublisher
from lb_probe.pool.loop import PoolController

__all__ = ["PoolController", "PoolSetup", "SetPublisher"]
