"""Builds the parts from probes.yaml and runs them; the only room that names concrete classes.

Each name is loaded when it is first asked for: an agent has no use for the prober's load balancers
and page, nor a verb for either; that is a third of their start and of their memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lb_probe.app.agent import agent_control, init_trust, run_agent
    from lb_probe.app.break_glass import publish_offline
    from lb_probe.app.listen import ListenError
    from lb_probe.app.notify import notify_test, notify_waiting
    from lb_probe.app.prober import run_prober
    from lb_probe.app.verbs import (
        audit_file,
        audit_lines,
        backup_store,
        check,
        discover,
        effective,
        haproxy_config,
        haproxy_doctor,
        init_store,
        probe_once,
        replay_history,
        stored_history,
    )

__all__ = [
    "ListenError",
    "agent_control",
    "audit_file",
    "audit_lines",
    "backup_store",
    "check",
    "discover",
    "effective",
    "haproxy_config",
    "haproxy_doctor",
    "init_store",
    "init_trust",
    "notify_test",
    "notify_waiting",
    "probe_once",
    "publish_offline",
    "replay_history",
    "run_agent",
    "run_prober",
    "stored_history",
]
_HOMES = {
    "agent": ("agent_control", "init_trust", "run_agent"),
    "break_glass": ("publish_offline",),
    "listen": ("ListenError",),
    "notify": ("notify_test", "notify_waiting"),
    "prober": ("run_prober",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME.get(name, 'verbs')}"), name)
    globals()[name] = found
    return found
