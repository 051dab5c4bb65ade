"""Ports for servers that tests start: no other worker of pytest takes them meanwhile.

Nor does a connection: they lie below those that the kernel gives to outgoing ones.
"""

import itertools
import os
import socket

_FIRST, _EACH, _WORKERS = 10_000, 2_000, 10  # the kernel's own begin at 32,768
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_begin = _FIRST + _worker * _EACH
# Another run of pytest beside this one begins elsewhere.
_ports = itertools.cycle(range(_begin, _begin + _EACH))
_ports = itertools.islice(_ports, os.getpid() * 7 % _EACH, None)


def free_port() -> int:
    """Return a port of loopback that is free for TCP and UDP; none is given twice soon."""
    for port in itertools.islice(_ports, _EACH):
        try:
            with (
                socket.create_server(("127.0.0.1", port)),
                socket.socket(type=socket.SOCK_DGRAM) as udp,
            ):
                udp.bind(("127.0.0.1", port))
                return port
        except OSError:
            continue
    raise OSError(f"found no free port from {_begin} to {_begin + _EACH}")
