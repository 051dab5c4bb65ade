"""How punctual probes start, and what they cost: 100 groups of two nodes, one core, 60 s.

A real prober process, held on one core, probes pages that another process serves on the other.

    python tests/bench/probe_schedule.py [GROUPS] [SECONDS]
"""

import asyncio
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import uvloop

from lb_probe.app import init_store

STATUS = b"MOBILEIRON-STATUS: OK\n"
STANDBY = b"MOBILEIRON-STATUS: OK (Mode: Standby)\n"


class Pages(asyncio.Protocol):
    """Answers both pages at once and closes."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        body = STANDBY if b"hastatus" in data else STATUS
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


def serve(ports, core):
    os.sched_setaffinity(0, {core})

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(2):
            server = await loop.create_server(Pages, "127.0.0.1", 0)
            ports.put(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(main())


def config(groups, a, b, metrics):
    lines = ["version: 1", "store: sqlite:state.db", f"metrics: {{listen: '127.0.0.1:{metrics}'}}"]
    lines.append("groups:")
    for number in range(groups):
        lines += [
            f"  - name: g{number}",
            "    act: true",
            "    nodes:",
            f"      - {{name: a, role: primary, url: 'http://127.0.0.1:{a}'}}",
            f"      - {{name: b, role: secondary, url: 'http://127.0.0.1:{b}'}}",
        ]
    return "\n".join(lines) + "\n"


def scrape(port):
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


def bucket(text, le):
    name = "lb_probe_probe_start_delay_seconds_bucket"
    return float(re.search(rf'^{name}{{le="{re.escape(le)}"}} (\S+)', text, re.M)[1])


def main():
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    cores = sorted(os.sched_getaffinity(0))
    ports = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ports, cores[-1]), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory(prefix="lb-probe-bench-") as folder:
        file, metrics = Path(folder) / "probes.yaml", 29600
        file.write_text(config(groups, ports.get(), ports.get(), metrics))
        init_store(file)
        line = [sys.executable, "-m", "lb_probe", "-c", str(file), "prober"]
        with (Path(folder) / "log").open("wb") as log:
            prober = subprocess.Popen(line, stderr=log, stdout=log)
        os.sched_setaffinity(prober.pid, {cores[0]})
        try:
            time.sleep(5.0)
            first = scrape(metrics)
            time.sleep(seconds)
            last = scrape(metrics)
        finally:
            prober.terminate()
            prober.wait()
    server.terminate()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    probes = bucket(last, "+Inf") - bucket(first, "+Inf")
    print(f"groups: {groups}; {probes / seconds:.0f} probes a second for {seconds:.0f} s, one core")
    for le in ("0.005", "0.01", "0.025", "0.05", "0.1"):
        share = (bucket(last, le) - bucket(first, le)) / probes
        print(f"started less than {float(le) * 1000:g} ms late: {share:.3%}")
    cpu = used.ru_utime + used.ru_stime
    print(f"CPU of the prober: {cpu:.1f} s, {cpu / bucket(last, '+Inf') * 1e6:.0f} us a probe")


if __name__ == "__main__":
    main()
