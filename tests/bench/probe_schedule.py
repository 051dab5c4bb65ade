"""How punctual probes start, and what they cost: 1,000 groups of two nodes, on one core.

Both pages of each node once a second are 4,000 probes a second, over loopback, to one server in a
process of its own on another core: nginx where there is one, else a few lines of asyncio.

    python tests/bench/probe_schedule.py [GROUPS] [SECONDS] [--hangs N] [--engine | --whole]

Measured are the schedule and the probe engine alone (--engine), and a whole `lb-probe prober`,
decisions and metrics included (--whole). With --hangs, the first N nodes accept and never answer
the engine.
"""

import argparse
import asyncio
import contextlib
import gc
import multiprocessing
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import uvloop

from lb_probe.app import init_store
from lb_probe.core.model import Page, Passed
from lb_probe.prober.http_probe import Engine, Target
from lb_probe.prober.schedule import Pace, Schedule

PACE = Pace(interval_s=1.0, recheck_s=0.25, fall=3)
PATHS = {Page.STATUS: "/status/status.html", Page.HASTATUS: "/hastatus.html"}
STATUS = "MOBILEIRON-STATUS: OK"
STANDBY = "MOBILEIRON-STATUS: OK (Mode: Standby)"
NODES = {"a": "127.0.0.1", "b": "127.0.0.2"}  # one server plays all of them
WARM_UP_S = 3.0
ON_TIME_S = 0.02
NGINX = f"""daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp;
  uwsgi_temp_path tmp; scgi_temp_path tmp; default_type text/html;
  server {{ listen {NODES["a"]}:PORT backlog=4096; listen {NODES["b"]}:PORT backlog=4096;
    location = {PATHS[Page.STATUS]} {{ return 200 "{STATUS}\\n"; }}
    location = {PATHS[Page.HASTATUS]} {{ return 200 "{STANDBY}\\n"; }} }}
}}
"""


# ------------------------------------------------------------------ the server
class Pages(asyncio.Protocol):
    """Answers both pages at once and closes."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        body = (STANDBY if b"hastatus" in data else STATUS).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        self.transport.write(head + body)
        self.transport.close()


def serve(listeners):
    async def main():
        loop = asyncio.get_running_loop()
        for listener in listeners:
            await loop.create_server(Pages, sock=listener, backlog=4096)
        await asyncio.Event().wait()

    uvloop.run(main())


@contextlib.contextmanager
def server(folder, core):
    """Run a server of both pages; yields its name and port."""
    first = socket.create_server((NODES["a"], 0))
    port = first.getsockname()[1]
    listeners = [first, socket.create_server((NODES["b"], port))]
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if nginx:
        for listener in listeners:
            listener.close()
        (folder / "nginx.conf").write_text(NGINX.replace("PORT", str(port)))
        line = [nginx, "-p", str(folder), "-c", "nginx.conf"]
        process = subprocess.Popen(line)
    else:
        process = multiprocessing.Process(target=serve, args=(listeners,), daemon=True)
        process.start()
    os.sched_setaffinity(process.pid, {core})
    try:
        wait_for(port)
        yield "nginx" if nginx else "asyncio", port
    finally:
        process.terminate()
        (process.wait if nginx else process.join)()


def wait_for(port):
    until = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection((NODES["a"], port), 1):
            return
        if time.monotonic() > until:
            raise SystemExit(f"nothing listens on port {port}")
        time.sleep(0.05)


# ------------------------------------------------------------------ schedule and engine
def targets(groups, port, silent, hangs):
    nodes = [(f"g{number}", node) for number in range(groups) for node in "ab"]
    for place, (group, node) in enumerate(nodes):
        for page, path in PATHS.items():
            host, to = (NODES["a"], silent) if place < hangs else (NODES[node], port)
            yield Target(group, node, page, "http", host, to, path), PACE


async def probing(groups, seconds, port, hangs):
    silent = socket.create_server((NODES["a"], 0), backlog=4096)  # the kernel accepts, nobody else
    late, counts = [], {"passed": 0, "failed": 0}

    def report(group, observation):
        counts["passed" if isinstance(observation.outcome, Passed) else "failed"] += 1

    engine = Engine(time.monotonic)
    schedule = Schedule(
        list(targets(groups, port, silent.getsockname()[1], hangs)),
        report=report,
        hurry=lambda group, node, page: False,
        clock=time.monotonic,
        rng=random.Random(1),
        start=engine.start,
        late=late.append,
    )
    run = asyncio.ensure_future(schedule.run())
    gc.freeze()
    await asyncio.sleep(WARM_UP_S)
    late.clear()
    counts.update(passed=0, failed=0)
    used = time.process_time()
    await asyncio.sleep(seconds)
    used = time.process_time() - used
    run.cancel()
    await asyncio.wait([run])
    engine.close()
    silent.close()
    tell(groups, len(late), seconds, used)
    for limit_s in (0.005, ON_TIME_S, 0.1):
        share = sum(behind < limit_s for behind in late) / len(late)
        print(f"started less than {limit_s * 1000:g} ms late: {share:.3%}")
    print(f"latest start: {max(late) * 1000:.1f} ms; {counts['failed']} probes failed")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def measure(core, *args):
    os.sched_setaffinity(0, {core})
    uvloop.run(probing(*args))


def tell(groups, probes, seconds, used):
    print(f"groups: {groups}; {probes / seconds:.0f} probes a second for {seconds:.0f} s, one core")
    print(f"CPU: {used / seconds:.0%} of the core, {used / max(probes, 1) * 1e6:.0f} us a probe")


# ------------------------------------------------------------------ a whole prober
def config(groups, port, metrics):
    lines = ["version: 1", "store: sqlite:state.db", f"metrics: {{listen: '127.0.0.1:{metrics}'}}"]
    lines.append("groups:")
    for number in range(groups):
        lines += [f"  - name: g{number}", "    act: true", "    nodes:"]
        lines += [
            f"      - {{name: {node}, role: {role}, url: 'http://{NODES[node]}:{port}'}}"
            for node, role in (("a", "primary"), ("b", "secondary"))
        ]
    return "\n".join(lines) + "\n"


def scrape(port):
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


def bucket(text, le):
    name = "lb_probe_probe_start_delay_seconds_bucket"
    return float(re.search(rf'^{name}{{le="{re.escape(le)}"}} (\S+)', text, re.M)[1])


def cpu_s(pid):
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def whole(folder, core, groups, seconds, port):
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = free.getsockname()[1]
    file = folder / "probes.yaml"
    file.write_text(config(groups, port, metrics))
    init_store(file)
    line = [sys.executable, "-m", "lb_probe", "-c", str(file), "prober"]
    with (folder / "log").open("wb") as log:
        prober = subprocess.Popen(line, stderr=log, stdout=log)
    os.sched_setaffinity(prober.pid, {core})
    try:
        wait_for(metrics)
        time.sleep(WARM_UP_S)
        first, used = scrape(metrics), cpu_s(prober.pid)
        time.sleep(seconds)
        last, used = scrape(metrics), cpu_s(prober.pid) - used
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{prober.pid}/status").read_text())[1]
    finally:
        prober.terminate()
        prober.wait()
    probes = bucket(last, "+Inf") - bucket(first, "+Inf")
    tell(groups, probes, seconds, used)
    for le in ("0.005", "0.025", "0.1"):
        share = (bucket(last, le) - bucket(first, le)) / probes
        print(f"started less than {float(le) * 1000:g} ms late: {share:.3%}")
    print(f"peak memory: {int(peak) / 1024:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="?", type=int, default=1000)
    parser.add_argument("seconds", nargs="?", type=float, default=30.0)
    parser.add_argument("--hangs", type=int, default=0, help="nodes that never answer")
    parser.add_argument("--engine", action="store_true", help="measure schedule and engine only")
    parser.add_argument("--whole", action="store_true", help="measure a whole prober only")
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 65536)), hard))
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(prefix="lb-probe-bench-") as name,
        server(Path(name), cores[-1]) as (kind, port),
    ):
        print(f"server: {kind} on core {cores[-1]}; the probes on core {cores[0]}", flush=True)
        if not given.whole:
            print("schedule and engine alone", flush=True)
            args = (cores[0], given.groups, given.seconds, port, given.hangs)
            process = multiprocessing.get_context("spawn").Process(target=measure, args=args)
            process.start()
            process.join()
        if not given.engine:
            print("a whole prober", flush=True)
            whole(Path(name), cores[0], given.groups, given.seconds, port)


if __name__ == "__main__":
    main()
