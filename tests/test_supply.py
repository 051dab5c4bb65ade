"""What lb-probe is made of: locked with hashes, listed in an SBOM, looked up for faults known."""

import copy
import os
import re
import subprocess
from pathlib import Path

import pytest
from sbom import faults

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "audit.sh"
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
KNOWN = "Found 1 known vulnerability in 1 package\nName Version ID\naiohttp 3.0.0 PYSEC-1"


@pytest.mark.parametrize(
    ("code", "says", "ends", "told"),
    [
        (0, "No known vulnerabilities found", 0, "no known vulnerability in run.txt"),
        (1, KNOWN, 1, "PYSEC-1"),
        (0, "x could not be audited: x (1.0)\ny could not be audited", 0, "knows of 2 packages"),
        (1, "Traceback\nConnectionError: Failed to resolve", 0, "not asked: ConnectionError"),
        (127, "pip-audit: not found", 0, "not asked: pip-audit: not found"),
    ],
)
def test_only_a_vulnerability_that_is_known_fails(tmp_path, code, says, ends, told):
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'.'\n{says}\n.\nexit {code}\n")
    program.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", SCRIPT, "run.txt"], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == ends
    assert told in done.stdout


# ------------------------------------------------------------------ lock and SBOM
@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_a_version_and_hashes_and_no_address(lock):
    entries = re.split(r"\n(?=[a-z])", lock.read_text())
    assert len(entries) > 5
    for entry in entries:
        assert re.match(r"\S+==\S+", entry)
        assert "--hash=sha256:" in entry
        assert "://" not in entry


LOCK = "aiohttp==3.14.5 \\\n    --hash=sha256:0\nuvloop==0.23.0 ; sys_platform != 'win32' \\\n"
SBOM = {
    "metadata": {"component": {"name": "lb-probe", "bom-ref": "root"}},
    "components": [{"name": "aiohttp", "version": "3.14.5"}],
    "dependencies": [{"ref": "root", "dependsOn": ["aiohttp==3.14.5"]}],
}


def test_an_sbom_that_lacks_something_of_the_lock_is_refused():
    assert faults(SBOM, LOCK) == []  # uvloop is not for every machine
    other = copy.deepcopy(SBOM)
    other["components"][0]["version"] = "3.0"
    other["dependencies"] = []
    assert faults(other, LOCK) == [
        "aiohttp 3.14.5 is locked; the SBOM has 3.0",
        "the root is not lb-probe with its dependencies",
    ]
    assert faults({}, LOCK)[0] == "aiohttp 3.14.5 is locked; the SBOM has none"
