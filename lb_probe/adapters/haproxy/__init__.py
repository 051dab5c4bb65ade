"""HAProxy over its Runtime API: one line sets the assignment, one query reads it back.

Two styles: `HaproxyServers` makes one server ready and puts the others in maintenance;
`HaproxyMap` sets the value of a map that names the backend. Adapters of one HAProxy share a
`Device`.
"""

from lb_probe.adapters.haproxy.answers import UnbelievableError
from lb_probe.adapters.haproxy.device import POLL_S, Device
from lb_probe.adapters.haproxy.maps import HaproxyMap
from lb_probe.adapters.haproxy.servers import HaproxyServers
from lb_probe.adapters.haproxy.wire import (
    MAX_LINE_BYTES,
    MAX_REPLY_BYTES,
    Address,
    RuntimeApi,
    UnfinishedError,
)

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_REPLY_BYTES",
    "POLL_S",
    "Address",
    "Device",
    "HaproxyMap",
    "HaproxyServers",
    "RuntimeApi",
    "UnbelievableError",
    "UnfinishedError",
]
