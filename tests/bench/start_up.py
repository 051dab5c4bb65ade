"""How long `lb-probe status` takes above `python -c pass`: what somebody waits for at a shell.

The two are run in turn, on a terminal's worth of groups, with compiled byte-code. The least CPU
time of each is compared: what else a machine does adds to the clock on the wall. Exits 1 above it.

    python tests/bench/start_up.py [ROUNDS]
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli_desk import PROJECT, group, stub_at

LIMIT_MS = 100.0


def took_ms(url, *words):
    """CPU and wall time of one run."""
    environ = {**os.environ, "LB_PROBE_URL": url, "PYTHONPATH": str(PROJECT)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], env=environ, check=True, capture_output=True)
    wall_s, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s * 1000, wall_s * 1000


def main(rounds):
    with stub_at(("127.0.0.1", 0)) as api:
        api.routes["GET", "/groups"] = (200, {"groups": [group(name=f"g-{n}") for n in range(20)]})
        took_ms(api.url, "-m", "lb_probe", "status")
        bare, status = [], []
        for _ in range(rounds):
            bare.append(took_ms(api.url, "-c", "pass"))
            status.append(took_ms(api.url, "-m", "lb_probe", "status"))
    cpu, wall = (min(s[i] for s in status) - min(b[i] for b in bare) for i in (0, 1))
    print(f"lb-probe status: {cpu:.0f} ms of CPU above python -c pass (limit {LIMIT_MS:.0f} ms)")
    print(f"on the wall {wall:.0f} ms, with what else this machine does; least of {rounds} each")
    return cpu <= LIMIT_MS


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 20) else 1)
