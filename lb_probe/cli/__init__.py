"""The verbs. The only room that prints: answers to stdout, everything else to stderr.

Client verbs must start fast on a machine in trouble: `app`, `demo` and all they pull in are
imported inside the functions that need them. Source: DESIGN, section 6; X5, X13, X14.
"""

from lb_probe.cli import (  # noqa: F401 each adds its verbs
    access,
    agent,
    history,
    notify,
    read,
    run,
)
from lb_probe.cli.acts import ACTS
from lb_probe.cli.top import EXIT_CODES, SECTIONS, cli, main

__all__ = ["ACTS", "EXIT_CODES", "SECTIONS", "cli", "main"]
