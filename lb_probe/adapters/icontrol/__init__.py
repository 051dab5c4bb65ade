"""BIG-IP's iControl REST as its two adapters use it: units, tokens, what follows a move."""

from lb_probe.adapters.icontrol.adapter import Icontrol
from lb_probe.adapters.icontrol.answers import Busy, Denied, Json, Missing
from lb_probe.adapters.icontrol.unit import TIMEOUT_S, Unit
from lb_probe.adapters.icontrol.units import Units

__all__ = [
    "TIMEOUT_S",
    "Busy",
    "Denied",
    "Icontrol",
    "Json",
    "Missing",
    "Unit",
    "Units",
]
