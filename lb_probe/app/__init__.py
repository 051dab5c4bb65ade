"""Builds the parts from probes.yaml and runs them; the only room that names concrete classes."""

from lb_probe.app.agent import agent_control, run_agent
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
    "haproxy_config",
    "haproxy_doctor",
    "init_store",
    "notify_test",
    "notify_waiting",
    "probe_once",
    "publish_offline",
    "replay_history",
    "run_agent",
    "run_prober",
    "stored_history",
]
