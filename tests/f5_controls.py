"""Prove that tests/f5 would notice a kinder device: edit the emulator, and demand a red test.

    python tests/f5_controls.py [NAME ...]

Each row is a fact that is taken back. An edit that no longer applies is a failure too.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("emulator", "f5", "rest_client.py", "loopback.py", "conftest.py")


@dataclass(frozen=True)
class Control:
    """One edit of one file: `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str


CONTROLS = (
    Control("states-are-echoed", "render.py",
            'return {"session": session, "state": "user-down" if is_down else word}', "return {}"),
    Control("read-only-values-are-taken", "schema.py",
            "if field.allowed is not None and value not in field.allowed:", "if False:"),
    Control("unknown-properties-are-taken", "schema.py",
            "raise refused(400, f'\"{key}\" unknown property')", "continue"),
    Control("post-says-201", "server.py", "status = 200\n", "status = 200 + (asked.method == 'POST')\n"),
    Control("links-have-one-more-sign", "names.py", "?{query}ver={version}", "?{query}x=1&ver={version}"),
    Control("tilde-is-left", "names.py", 'return text.replace("~", "/")', "return text"),
    Control("names-are-decoded-twice", "names.py",
            'text = unquote(part, errors="strict")', "text = unquote(unquote(part))"),
    Control("route-domains-are-cut", "ltm.py", "return wanted\n", 'return wanted.partition("%")[0]\n'),
    Control("header-is-ignored", "unit.py",
            'if number is not None and request.method != "GET":', "if False:"),
    Control("gets-are-queued", "unit.py",
            'if number is not None and request.method != "GET":', "if number is not None:"),
    Control("header-on-the-commit-is-allowed", "unit.py", "            if number is not None:\n",
            "            if False:\n"),
    Control("commits-are-not-whole", "transactions.py", "trial = config.copy()", "trial = config"),
    Control("failed-commits-are-forgotten", "transactions.py",
            'transaction.state = "FAILED"\n', 'transaction.state = "FAILED_"\n'),
    Control("looking-commits", "transactions.py", "if not transaction.validate_only:", "if True:"),
    Control("transactions-live-for-ever", "transactions.py",
            "now >= each.started + each.timeout_s", "False"),
    Control("tokens-live-for-ever", "logins.py", "if now >= token.started + token.timeout_s:", "if False:"),
    Control("tokens-slide", "logins.py", "            return token.user\n",
            "            token.started = self._clock.now()\n            return token.user\n"),
    Control("tokens-have-no-limit", "logins.py", "if len(mine) >= self.limit:", "if False:"),
    Control("basic-beats-the-token", "logins.py", 'if word := headers.get("X-F5-Auth-Token"):',
            'if (word := headers.get("X-F5-Auth-Token")) and "Authorization" not in headers:'),
    Control("everybody-may-everything", "roles.py", "if wanted in MAY[user.role]:", "if True:"),
    Control("resume-is-by-itself", "health.py", "        if verdict.is_latched:\n            return", "        if False:\n            return"),
    Control("enabling-shows-up-at-once", "health.py", 'case "created" | "monitor" | "raised":',
            'case "created" | "monitor":'),
    Control("priority-groups-stay", "traffic.py", "reverse=True", "reverse=False"),
    Control("offline-keeps-its-clients", "traffic.py", 'values["state"] == "user-up" and', ""),
    Control("writes-reach-the-peer", "pair.py", "            self._pending = True\n",
            "            self._copying.append(_Copying(unit, 0, is_dns=False))\n"),
    Control("a-reboot-loses-nothing", "unit.py", "self._load(self.saved.copy())", "self._load(self.running)"),
    Control("a-reboot-keeps-tokens", "unit.py", "        self.logins.tokens.clear()\n", ""),
    Control("a-false-flag-disables", "gtm.py", "wanted = [flag for flag, value in given.items() if value is True]",
            'wanted = [flag for flag, value in given.items() if value] or ["disabled"] * bool(given)'),
    Control("dns-members-need-no-server", "gtm.py", "if virtual not in config.objects:", "if False:"),
    Control("cut-means-not-done", "faults.py", 'Fault("cut-after", cut=True, is_applied=True)',
            'Fault("cut-after", cut=True)'),
    Control("existing-objects-are-found", "unit.py",
            "config = Configuration()  # nothing of what exists is found", "pass"),
    Control("monitors-read-text-not-patterns", "probes.py", "re.search(recv, text)",
            "re.search(re.escape(recv), text)"),
)  # fmt: skip


def tested(control: Control, folder: Path) -> str:
    """Return the first test that an edit turns red; empty where there is none."""
    copy = folder / control.name / "tests"
    copy.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / "tests" / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    shutil.copy(ROOT / "pyproject.toml", copy.parent)
    edited = copy / "emulator" / control.file
    text = edited.read_text()
    if control.old not in text:
        raise SystemExit(f"{control.name}: {control.file} no longer has {control.old!r}")
    edited.write_text(text.replace(control.old, control.new))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "tests/f5",
            "--ignore=tests/f5/test_controls.py",
        ],
        cwd=copy.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(copy.parent)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not lines:
        raise SystemExit(f"{control.name}: the tests do not run:\n{done.stdout}{done.stderr}")
    return lines[0].split()[1]


def main(*names: str) -> int:
    missed = 0
    with tempfile.TemporaryDirectory(prefix="f5-controls-") as folder:
        for control in CONTROLS:
            if names and control.name not in names:
                continue
            found = tested(control, Path(folder))
            missed += not found
            print(f"{control.name:36}{found or 'NOTHING FOUND IT'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
