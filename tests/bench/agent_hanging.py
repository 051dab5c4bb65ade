"""How long a page takes at 5,000 requests a second while every check hangs, beside none at all.

A real agent on one core, a client on the other. Requests are sent at fixed moments, on 32 kept
connections in turn; each is timed from the moment it was due, so that waiting counts. Checks of
every kind that can hang do: an HTTP server and a listener that never answer, a program and a
`systemctl` that sleep; the peer of the heartbeat hangs as well. Then with one more that floods its
output on the same core all the time: how long that holds a page up is the kernel's to say.

    python tests/bench/agent_hanging.py [SECONDS] [RATE] [first]

`first` (as root) lets the agent's loop and the client go before other work of a busy machine, by
SCHED_FIFO; the programs that the agent starts do not inherit it. What is measured is then ours.
"""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

PATHS = ("/status/status.html", "/hastatus.html")
CONNECTIONS = 32
FLOOD = "exec 1>&2; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"

FILE = """\
version: 1
groups:
  - name: g
    act: true
    nodes:
      - name: a
        role: primary
        url: "http://127.0.0.1:{port}"
        agent:
          listen: "127.0.0.1:{port}"
          control: a.sock
          heartbeat: {{interval: 200ms, recheck: 100ms, timeout: 1s}}
          checks: [{checks}]
      - {{name: b, role: secondary, url: "http://127.0.0.1:{hung}"}}
"""
PACE = "interval: 200ms, timeout: 1s, max_age: 1d"
CHECKS = (
    'type: http, url: "http://127.0.0.1:{hung}/"',
    'type: tcp, address: "127.0.0.1:{full}"',
    'type: command, argv: [sleep, "600"]',
    "type: systemd, unit: x.service",
    "type: process, program: no-such-program",
    "type: disk, path: /",
)
FLOODS = ('type: command, argv: [sh, -c, "{flood}"]',)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def hang(server):
    """Take connections and never say a word."""
    kept = []
    while True:
        kept.append(server.accept())
        del kept[:-200]


def latencies(port, seconds, rate, pause_s):
    """Return microseconds from due to whole, for each request; no request waits for another."""
    poll, links, waiting = select.epoll(), [], {}
    for _ in range(CONNECTIONS):
        link = socket.create_connection(("127.0.0.1", port))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setblocking(False)
        poll.register(link.fileno(), select.EPOLLIN)
        links.append(link)
        waiting[link.fileno()] = (link, deque())
    asks = [f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode() for path in PATHS]
    found, number, begin = [], 0, time.perf_counter() + 0.01
    total = int(seconds * rate)
    while len(found) < total:
        due = begin + number / rate
        now = time.perf_counter()
        if number < total and now >= due:
            link = links[number % CONNECTIONS]
            waiting[link.fileno()][1].append(due)
            link.send(asks[number % 2])
            number += 1
            continue
        ready = poll.poll(0)
        if not ready and pause_s:
            time.sleep(pause_s)
        for fd, _ in ready:
            link, dues = waiting[fd]
            now = time.perf_counter()
            for _ in range(link.recv(65536).count(b"MOBILEIRON-STATUS")):
                found.append((now - dues.popleft()) * 1e6)
    for link in links:
        link.close()
    return sorted(found)


def go_first(pid):
    """Let a process run before everything else that wants its core; not its children."""
    os.sched_setscheduler(pid, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(5))


def measure(checks, seconds, rate, is_first):
    with (
        tempfile.TemporaryDirectory() as name,
        socket.create_server(("127.0.0.1", 0)) as hung,
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),
    ):
        threading.Thread(target=hang, args=(hung,), daemon=True).start()
        folder, port = Path(name), free_port()
        (folder / "systemctl").write_text("#!/bin/sh\nsleep 600\n")
        (folder / "systemctl").chmod(0o755)
        ports = {"hung": hung.getsockname()[1], "full": full.getsockname()[1], "flood": FLOOD}
        said = ", ".join("{" + f"{one.format(**ports)}, {PACE}" + "}" for one in checks)
        (folder / "probes.yaml").write_text(FILE.format(port=port, checks=said, **ports))
        agent = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "lb_probe",
                "-c",
                str(folder / "probes.yaml"),
                "agent",
                "--node=a",
            ],
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
            stderr=subprocess.DEVNULL,
        )
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(agent.pid, cores[:1])
        os.sched_setaffinity(0, cores[-1:])
        try:
            until(folder / "a.sock")
            ask(folder / "a.sock", "ha-enable")
            time.sleep(2.0)
            if is_first:
                go_first(agent.pid)
                go_first(0)
            # Whoever goes first and never rests is stopped by the kernel, 50 ms each second.
            return latencies(port, seconds, rate, 20e-6 if is_first else 0.0)
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            os.sched_setaffinity(0, cores)
            agent.terminate()
            agent.wait()


def until(path):
    end = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > end:
            sys.exit(f"waited in vain for {path}: does the agent start?")
        time.sleep(0.05)


def ask(path, command):
    async def main():
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(json.dumps({"command": command}).encode() + b"\n")
        await reader.read()
        writer.close()

    asyncio.run(main())


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 5000.0
    every = (
        ("no check", ()),
        ("every check hangs", CHECKS),
        ("and a program floods", CHECKS + FLOODS),
    )
    for name, checks in every:
        found = measure(checks, seconds, rate, "first" in sys.argv[3:])
        parts = [f"p{q} {found[int(len(found) * q / 100)]:.0f} us" for q in (50, 90, 99)]
        print(f"{name}: {len(found)} pages at {rate:.0f}/s: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
