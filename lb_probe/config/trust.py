"""How agents find and trust each other, what they must reach of each other, and be alike in."""

from typing import Any, Literal

from lb_probe.config import values as v
from lb_probe.config.frozen import Frozen, key


class Trust(Frozen):
    """Where an agent talks with its peers, over mutual TLS with pinned keys."""

    listen: v.HostPort = key('host:port for peers, e.g. "0.0.0.0:8445"')
    address: v.HostPort | None = key(
        "where peers find it; the url's host and the port of `listen` when left out", None
    )
    folder: v.FilePath | None = key(
        "where its key and its pins are kept; NAME.trust when left out, as `state` by default",
        None,
    )
    interval_s: v.Duration = key("between two looks at a peer", "30s")
    timeout_s: v.Duration = key("one whole question to a peer", "5s")
    clock_warn_s: v.Duration = key("clocks that are further apart are told", "1s")
    clock_error_s: v.Duration = key("clocks that are further apart refuse a sync", "5s")


class TestedPort(Frozen):
    """A port of this node that its peers must reach."""

    port: v.Port = key("a whole number, e.g. 8443")
    kind: Literal["tcp", "tls", "ssh"] = key("tcp, tls or ssh: how far the test goes", "tcp")


_PORTS: Any = (
    {"port": 8443, "kind": "tls"},
    {"port": 443, "kind": "tls"},
    {"port": 22, "kind": "ssh"},
)


class Connectivity(Frozen):
    """What peers must reach of this node, and how often it tests what it must reach of them."""

    ports: tuple[TestedPort, ...] = key("what peers must reach here", _PORTS)
    interval_s: v.Duration = key("between two tests by itself", "1h")
    max_age_s: v.Duration = key("an older success supports no sync and no promotion", "24h")
    timeout_s: v.Duration = key("each answer in a test", "5s")
    pause_s: v.Duration = key("between two exchanges of SSH in a test", "1s")


class Compared(Frozen):
    """A program whose output must be the same on both nodes."""

    name: v.Name = key("a name for the difference")
    argv: v.Argv = key('a list, program first, e.g. ["/usr/bin/cat", "/etc/resolv.conf"]')


class Parity(Frozen):
    """What this node and its peer must be alike in."""

    version_command: v.Argv | None = key(
        "a program that prints the application's release on its first line", None
    )
    destinations: tuple[v.Target, ...] = key(
        'what both must reach, e.g. ["tcp://smtp.example.com:25"]', ()
    )
    disks: tuple[v.FilePath, ...] = key("paths whose file systems are compared in size", ())
    commands: tuple[Compared, ...] = key("programs that must print the same on both", ())
    interval_s: v.Duration = key("between two comparisons", "60s")
    timeout_s: v.Duration = key("each destination and each program", "10s")
