"""What installs the servers that other tests need (tests/servers.sh), on make-believe machines."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "servers.sh"
LIST = "# a comment\n\nthere  there-light  what is there\nlacks  lacks-server  tests of lacks\n"
TOOLS = ("sh", "env", "dirname", "tee", "chmod", "rm", "sed", "cat", "true")


@pytest.fixture
def machine(tmp_path):
    """Runs the script on a machine that has these programs and no others, as this user."""
    programs = tmp_path / "bin"
    programs.mkdir()
    policy = tmp_path / "policy-rc.d"
    for name in TOOLS:
        (programs / name).symlink_to(shutil.which(name))

    def add(name, text):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    def run(*, user=0, fails=False, **more):
        (tmp_path / "list").write_text(LIST)
        add("id", f"echo {user}")
        add("there", "")
        add("dpkg", "echo /lib/systemd/system/lacks.service; echo /usr/sbin/lacks")
        add("systemctl", f"echo systemctl $* >> {tmp_path}/calls")
        for name, text in more.items():
            add(name.replace("_", "-"), text)
        environ = {"PATH": str(programs), "POLICY_RC_D": str(policy), "HOME": str(tmp_path)}
        line = [shutil.which("sh"), str(SCRIPT), str(tmp_path / "list")]
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=30, env=environ, check=True
        )
        calls = tmp_path / "calls"
        return done.stdout, calls.read_text().splitlines() if calls.exists() else []

    run.apt = f"echo apt-get $* >> {tmp_path}/calls; cat {policy} >> {tmp_path}/policy-then"
    run.policy = policy
    run.policy_then = tmp_path / "policy-then"
    return run


def test_only_what_is_missing_is_installed_and_not_started(machine):
    told, calls = machine(apt_get=machine.apt)

    assert calls == [
        "apt-get -qq -o DPkg::Lock::Timeout=300 update",
        "apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends lacks-server",
        "systemctl disable lacks.service",
    ]
    assert "installed lacks-server" in told
    assert "there-light" not in told
    assert "exit 101" in machine.policy_then.read_text()
    assert not machine.policy.exists()


def test_policy_that_is_there_is_left_alone(machine):
    machine.policy.write_text("#!/bin/sh\nexit 0\n")

    machine(apt_get=machine.apt)

    assert machine.policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_nothing_is_done_where_nothing_is_missing(machine):
    assert machine(apt_get=machine.apt, lacks="") == ("", [])


def test_package_that_cannot_be_had_fails_nothing(machine):
    told, _ = machine(apt_get=f"{machine.apt}; exit 100")

    assert "lacks-server could not be installed" in told
    assert not machine.policy.exists()


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({}, "this is no Debian"),
        ({"apt_get": "exit 1"}, "sudo apt-get install --no-install-recommends lacks-server"),
        ({"apt_get": "exit 1", "sudo": "exit 1"}, "not root"),
    ],
)
def test_who_may_not_install_is_told_what_skips(machine, programs, words):
    told, _ = machine(user=1000, **programs)

    assert "found no lacks (Debian: lacks-server); without it are skipped: tests of lacks" in told
    assert words in told
    assert not machine.policy.exists()


def test_sudo_without_a_password_is_used(machine):
    told, calls = machine(user=1000, apt_get=machine.apt, sudo='shift; exec "$@"')

    assert len(calls) == 3
    assert "installed lacks-server" in told


def test_every_line_of_the_list_has_a_program_a_package_and_its_tests():
    lines = SCRIPT.with_suffix(".txt").read_text().splitlines()
    rows = [line.split(None, 2) for line in lines if line and not line.startswith("#")]
    assert all(len(row) == 3 for row in rows)
    assert os.access(SCRIPT, os.X_OK)
