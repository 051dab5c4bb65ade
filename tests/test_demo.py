"""What `make demo SCRIPT=1` plays, as a new user would start it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(180)


def test_the_whole_story_is_seen_through_haproxy():
    line = [sys.executable, "-m", "lb_probe", "demo", "--script"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=170)

    assert (done.returncode, done.stderr) == (0, "")
    *steps, last = done.stdout.splitlines()
    assert last == "every step was seen through HAProxy"
    assert [step.split()[1] for step in steps] == ["ok"] * 10
