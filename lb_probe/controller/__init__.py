"""Orders the work: evidence in; decision, save, publish, read back, event out."""

from lb_probe.controller.group import OfflineNote, Setup
from lb_probe.controller.loop import Controller
from lb_probe.tending import Ask

__all__ = ["Ask", "Controller", "OfflineNote", "Setup"]
