"""Checks an SBOM against the lock file it is of: python tests/sbom.py SBOM LOCK.

Every package that is locked for this machine must be in it, in that version, and the root must lead
to every one of them. Exits 1 and names what is missing.
"""

import json
import re
import sys
from pathlib import Path

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ;.*)?(?: \\)?$", re.MULTILINE)
MARKED = re.compile(r"^\S+==\S+ ;", re.MULTILINE)  # may not be for this machine


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def faults(sbom, lock):
    """Say what the SBOM lacks of the lock."""
    has = {plain(part["name"]): part["version"] for part in sbom.get("components", ())}
    wants = {plain(name): version for name, version in PIN.findall(lock)}
    marked = {plain(line.partition("==")[0]) for line in MARKED.findall(lock)}
    found = [
        f"{name} {version} is locked; the SBOM has {has.get(name, 'none')}"
        for name, version in wants.items()
        if has.get(name) != version and not (name in marked and name not in has)
    ]
    leads = {one["ref"]: one.get("dependsOn", []) for one in sbom.get("dependencies", ())}
    root = sbom.get("metadata", {}).get("component", {})
    if root.get("name") != "lb-probe" or not leads.get(root.get("bom-ref", "")):
        found.append("the root is not lb-probe with its dependencies")
    return found


if __name__ == "__main__":
    wrong = faults(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]).read_text())
    print("\n".join(wrong) or f"{sys.argv[1]}: every package of {sys.argv[2]} is in it")
    sys.exit(bool(wrong))
