"""Runs F5's own functional tests of f5-sdk against the emulator, and says how many pass.

    PYTHONPATH=tests python tests/f5_functional.py FOLDER [FILE ...]

The tests are F5's and are not here: FOLDER is a checkout of f5-common-python, which has them; what
the registry has of it does not. The client is the installed f5-sdk, and the plugin of pytest that
comes with it connects to the device. They were written for an old pytest and for `mock`; what they
miss of those is put back here, and nothing of them is changed.
"""

import sys
import unittest.mock
from pathlib import Path

import pytest
from emulator import VERSION, Emulator, emulator_in_thread

FILES = (
    "tm/auth/test/functional/test_partition.py",
    "tm/cm/test/functional/test_failover_status.py",
    "tm/cm/test/functional/test_device.py::TestDevices",
    "tm/cm/test/functional/test_sync_status.py",
    "tm/gtm/test/functional/test_datacenter.py",
    "tm/gtm/test/functional/test_pool.py",
    "tm/gtm/test/functional/test_server.py",
    "tm/gtm/test/functional/test_wideips.py",
    "tm/ltm/test/functional/test_node.py",
    "tm/ltm/test/functional/test_pool.py",
    "tm/sys/test/functional/test_config.py::TestConfig::test_load",
    "tm/sys/test/functional/test_config.py::TestConfig::test_save",
    "tm/sys/test/functional/test_db.py",
    "tm/sys/test/functional/test_failover.py",
    "tm/sys/test/functional/test_version.py",
    *(
        f"tm/util/test/functional/test_bash.py::test_{name}"  # those that need no shell
        for name in (
            "required_params",
            "missing_dash_c_argument",
            "command_not_found",
            "test_unbalanced_quotes_in_command",
        )
    ),
    "tm/transaction/test/functional/test_transaction.py",
)
"""What is about things that this device has."""


class _Config:
    """What tests of that age ask `pytest.config` for, while they are imported."""

    def getoption(self, name: str) -> str:
        return VERSION


class Shim:
    """What an old pytest had."""

    @staticmethod
    def pytest_configure() -> None:
        pytest.config = _Config()  # type: ignore[attr-defined]
        pytest.symbols = None  # type: ignore[attr-defined]
        sys.modules.setdefault("mock", unittest.mock)


def main(folder: Path, *files: str) -> int:
    with emulator_in_thread(Emulator.single()) as device:
        where = ["--bigip", "127.0.0.1", "--port", device.urls[0].rpartition(":")[2]]
        who = ["--username", "admin", "--password", "secret", "--token", "--release", VERSION]
        how = ["-c", "/dev/null", f"--rootdir={folder}", "--noconftest", "-p", "no:cacheprovider"]
        shown = ["-q", "--no-header", "--tb=short", "-W", "ignore", "--import-mode=importlib"]
        paths = [str(folder / "f5/bigip" / file) for file in files or FILES]
        return pytest.main([*how, *shown, *where, *who, *paths], plugins=[Shim()])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
