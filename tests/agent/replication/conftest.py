"""A Standby in a folder of its own, for every test of replication."""

from functools import partial

import pytest
from sync_desk import started
from sync_week import Week


@pytest.fixture
def standby(tmp_path, monkeypatch):
    """Return what starts a Standby."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name.upper(), str(tmp_path / name))
    (tmp_path / "source" / "data").write_text("from a")
    return partial(started, tmp_path)


@pytest.fixture
def week(tmp_path, monkeypatch):
    """Return what starts a Standby in virtual time."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir(exist_ok=True)
    weeks = []

    def begin(**more):
        weeks.append(Week(tmp_path, monkeypatch, **more))
        return weeks[-1]

    yield begin
    for one in weeks:
        one.stop()
        one.time.close()
