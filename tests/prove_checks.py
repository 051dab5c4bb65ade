"""Prove that the checks work: seed bugs, one at a time, and require that a check finds each.

Every file of tests/seeded_bugs/ is a mistake somebody could make, as a patch; its first line says
what it breaks. And every row of the decision table is edited by one word. Each is applied to a
copy of the tree; then random histories are played until one is broken; where none is, tests run.

    python tests/prove_checks.py [--seeds N] [NAME ...]     NAME: part of a bug's name

Exit code 1 when a bug is found by nothing, or a patch no longer applies.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUGS = ROOT / "tests" / "seeded_bugs"
TABLE = Path("lb_probe/core/failover.py")
TREE = ("lb_probe", "tests", "docs", "pyproject.toml", "probes.yaml", "README.md")
TESTS = (
    *("tests/core", "tests/test_scenarios.py", "tests/test_controller.py"),
    *("tests/test_reconcile.py", "tests/store"),
    "tests/test_simulation.py::test_a_history_that_was_kept_breaks_no_rule",
)
# For each word of a row of RULES what it may be mistaken for. To ask once more, or not to, moves
# no traffic: those two edits are for tests/core alone.
WORDS = {
    "A.NONE": ("A.FAIL_OVER",),
    "A.REPROBE": ("A.FAIL_OVER",),
    "A.FAIL_OVER": ("A.NONE",),
    "P.OK": ("P.UNKNOWN", "P.FAIL"),
    "P.FAIL": ("P.OK", "P.UNKNOWN"),
    "P.UNKNOWN": ("P.FAIL", "P.OK"),
    "W.OTHER": ("W.STANDBY",),
    "W.STANDBY": ("W.OTHER",),
    "S.STANDBY": ("S.UNKNOWN_MODE", "S.PRIMARY", "S.STALE", "S.FAIL"),
    "S.PRIMARY": ("S.STANDBY",),
    "S.FAIL": ("S.STANDBY",),
    "S.STALE": ("S.STANDBY",),
    "S.UNKNOWN_MODE": ("S.STANDBY",),
    "V.YES": ("V.NO",),
    "V.NO": ("V.YES",),
    "V.WAITING": ("V.NO",),
    "V.UNKNOWN": ("V.NO",),
    "G.ARMED": ("G.BLOCKED", "G.ISOLATED"),
    "G.BLOCKED": ("G.ARMED",),
    "G.ISOLATED": ("G.ARMED",),
    "ON_P": ("MOVED", "NOWHERE"),
    "MOVED": ("ON_P", "NOWHERE"),
    "NOWHERE": ("ON_P", "MOVED"),
    "AUTO": ("set(G)",),
}


@dataclass(frozen=True)
class Bug:
    """One mistake: the text of a patch, or a whole new decision table."""

    name: str
    breaks: str
    patch: Path | None = None
    table: str = ""


@dataclass(frozen=True)
class Found:
    """What found it; `by` is empty where nothing did."""

    by: str
    says: str


def patches() -> Iterator[Bug]:
    for path in sorted(BUGS.glob("*.patch")):
        yield Bug(path.stem, path.read_text().splitlines()[0].lstrip("# "), path)


def table_edits() -> Iterator[Bug]:
    """Edit each word of each row of RULES."""
    lines = (ROOT / TABLE).read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        row = re.match(r'    Rule\("(\w+)"', line)
        if row is None:
            continue
        for word in re.finditer(r"\b(?:[APWSVG]\.[A-Z_]+|ON_P|MOVED|NOWHERE|AUTO)\b", line):
            for other in WORDS[word.group()]:
                edited = line[: word.start()] + other + line[word.end() :]
                table = "".join([*lines[:number], edited, *lines[number + 1 :]])
                name = f"table-{row.group(1)}-{word.group()}-to-{other}"
                yield Bug(name, "the decision table", table=table)


# ------------------------------------------------------------------ one bug
def copy_of_the_tree(folder: Path) -> Path:
    copy = folder / "tree"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "bench")
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    return copy


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def plant(copy: Path, bug: Bug) -> str:
    """Put the bug into the copy; return why that failed, or nothing."""
    if bug.patch is None:
        (copy / TABLE).write_text(bug.table)
        return ""
    done = subprocess.run(
        ["git", "apply", "-C1", str(bug.patch)],
        cwd=copy,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    touched = re.findall(r"^\+\+\+ b/(\S+)", bug.patch.read_text(), re.MULTILINE)
    same = [name for name in touched if (ROOT / name).read_text() == (copy / name).read_text()]
    if done.returncode or same:
        return f"tests/seeded_bugs/{bug.patch.name} no longer applies: {done.stderr.strip()}"
    return ""


def refused_at_import(bug: Bug) -> str:
    """Return what an edited table says when it is expanded; empty when nothing or no table."""
    try:
        exec(compile(bug.table, str(TABLE), "exec"), {"__name__": "edited"})
    except ValueError as error:
        return str(error)
    return ""


def find(copy: Path, bug: Bug, seeds: int) -> Found:
    """Return what finds the bug of this copy."""
    where = run(copy, "-c", "import lb_probe.controller as c; print(c.__file__)")
    if where.returncode:
        return Found("import", where.stderr.strip().splitlines()[-1])
    if not where.stdout.startswith(str(copy)):
        raise SystemExit(f"the checks would run on {where.stdout.strip()}, not on the copy {copy}")
    is_of_the_store = bug.patch is not None and "+++ b/lb_probe/store/" in bug.patch.read_text()
    if is_of_the_store:  # few histories use the real one, and none has a second writer
        return run_tests(copy, ("tests/store",)) or simulate(copy, seeds) or Found("", "")
    return simulate(copy, seeds) or run_tests(copy) or Found("", "")


def simulate(copy: Path, seeds: int) -> Found | None:
    """Return the first seed that is broken."""
    played = run(copy, "tests/simulation.py", "--no-report", str(seeds))
    if broken := re.search(r"BROKEN seed (\d+): (.*)", played.stdout):
        return Found(f"seed {broken.group(1)}", broken.group(2))
    if played.returncode:
        raise SystemExit(f"the simulation does not run:\n{played.stdout}\n{played.stderr}")
    return None


def run_tests(copy: Path, tests: tuple[str, ...] = TESTS) -> Found | None:
    """Return the first test that fails.

    Raises:
        SystemExit: The tests end without saying which of them failed.
    """
    tested = run(copy, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests)
    if tested.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", tested.stdout, re.MULTILINE)
    if failed is None:
        raise SystemExit(f"the tests do not run:\n{tested.stdout}\n{tested.stderr}")
    return Found("test", failed.group(1))


def fails_anyway(folder: Path, test: str) -> bool:
    """Tell whether this test fails without the bug too."""
    return run(copy_of_the_tree(folder), "-m", "pytest", "-q", test).returncode != 0


# ------------------------------------------------------------------ all of them
def prove(bugs: list[Bug], seeds: int) -> list[str]:
    """Print what finds each; return the complaints."""
    complaints, caught = [], {"import": 0, "simulation": 0, "test": 0}
    refused = [bug for bug in bugs if refused_at_import(bug)]
    caught["import"] = len(refused)
    for bug in refused:
        print(f"{bug.name:<44} import             0.0  {refused_at_import(bug)[:90]}")
    bugs = [bug for bug in bugs if bug not in refused]
    print(f"{'bug':<44} {'found by':<12} {'seconds':>7}  what it says")
    with tempfile.TemporaryDirectory() as folder:
        if broken := simulate(copy_of_the_tree(Path(folder)), 200):
            raise SystemExit(f"without any bug {broken.by}: {broken.says}; mend that first")
        for bug in bugs:
            began = time.perf_counter()
            copy = copy_of_the_tree(Path(folder))
            if fault := plant(copy, bug):
                complaints.append(fault)
                continue
            found = find(copy, bug, seeds)
            seconds = time.perf_counter() - began
            kind = found.by if found.by in caught else "simulation"
            if found.by == "test" and fails_anyway(Path(folder), found.says):
                raise SystemExit(f"without any bug {found.says} fails; mend that first")
            if found.by:
                caught[kind] += 1
            else:
                complaints.append(f"nothing finds {bug.name}: {bug.breaks}")
            print(
                f"{bug.name:<44} {found.by or 'NOTHING':<12} {seconds:7.1f}  {found.says[:90]}",
                flush=True,
            )
    words = ", ".join(f"{count} by {kind}" for kind, count in caught.items())
    print(f"{sum(caught.values())} bugs found: {words}")
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only bugs whose name holds one of these")
    parser.add_argument("--seeds", type=int, default=20_000)
    given = parser.parse_args()
    bugs = [
        bug
        for bug in [*patches(), *table_edits()]
        if not given.names or any(name in bug.name for name in given.names)
    ]
    complaints = prove(bugs, given.seeds)
    print("\n".join(complaints) or "every bug is found")
    return bool(complaints)


if __name__ == "__main__":
    raise SystemExit(main())
