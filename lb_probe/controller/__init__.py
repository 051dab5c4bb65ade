"""Orders the work: evidence in; decision, save, publish, read back, event out."""

from lb_probe.controller.group import Ask, OfflineNote, Setup
from lb_probe.controller.loop import Controller

__all__ = ["Ask", "Controller", "OfflineNote", "Setup"]
