"""How long a dead Primary stays on the load balancer, and how long a decision takes to be in force.

Real processes: two agents, a real HAProxy, a prober with interval 1s, recheck 250ms, fall 3 and
confirm 0s. The Primary's application goes on answering: only the load balancer takes it off.

    python tests/bench/failover_time.py [ROUNDS]
"""

import re
import statistics
import sys
import time
from contextlib import ExitStack
from urllib.request import urlopen

from lb_probe.demo import Demo

A, B = "node-a", "node-b"


def one_round() -> tuple[float, float]:
    """Return seconds from kill to the first answer of B, and from decision to read back."""
    with ExitStack() as stack:
        demo = Demo(stack, lambda text: text.replace("confirm: 1s", "confirm: 0s"))
        demo.assign()
        while demo.group()["condition"] != "normal":
            time.sleep(0.02)
        time.sleep(1.0 * time.perf_counter() % 1)  # anywhere in the interval
        demo.kill(A)
        began = time.perf_counter()
        while demo.through_haproxy() != B:
            time.sleep(0.002)
        took = time.perf_counter() - began
        while not demo.group()["adapters"][0]["in_sync"]:
            time.sleep(0.01)
        with urlopen(f"http://127.0.0.1:{demo.ports['9600']}/metrics") as answer:
            text = answer.read().decode()
    # The first publication (failover --to) is in the same histogram: both are decisions.
    total = float(re.search(r"^lb_probe_failover_publish_seconds_sum (\S+)", text, re.M)[1])
    count = float(re.search(r"^lb_probe_failover_publish_seconds_count (\S+)", text, re.M)[1])
    return took, total / count


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    results = [one_round() for _ in range(rounds)]
    off, published = [r[0] for r in results], [r[1] for r in results]
    print(f"rounds: {rounds}; interval 1s, recheck 250ms, fall 3, confirm 0s")
    for name, values, unit in (
        ("killed Primary off the load balancer", off, 1.0),
        ("decision to read back", published, 1000.0),
    ):
        shown = [v * unit for v in values]
        print(
            f"{name}: median {statistics.median(shown):.3f}, min {min(shown):.3f},"
            f" max {max(shown):.3f} {'s' if unit == 1.0 else 'ms'}"
        )


if __name__ == "__main__":
    main()
