"""A store on a real file: new, open, or with a group in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_desk import save

from lb_probe.store.sqlite import SqliteStore, init


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "state.db"
    init(made)
    return made


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(path) as opened:
        yield opened


@pytest.fixture
async def filled(path: Path) -> Path:
    async with await SqliteStore.open(path) as opened:
        await save(opened, 1)
        await opened.confirm("epmm", "edge-1", 1)
    return path
