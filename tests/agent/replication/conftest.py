"""A Standby in a folder of its own, for every test of replication."""

from functools import partial

import pytest
from sync_desk import started


@pytest.fixture
def standby(tmp_path, monkeypatch):
    """Return what starts a Standby."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name.upper(), str(tmp_path / name))
    (tmp_path / "source" / "data").write_text("from a")
    return partial(started, tmp_path)
