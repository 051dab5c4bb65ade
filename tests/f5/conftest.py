"""A pair of the emulator's: without TLS for the plain client, with TLS for clients of others."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from emulator import Emulator
from rest_client import Rest, configured


@pytest.fixture
async def bigip() -> AsyncIterator[Emulator]:
    """A pair without TLS, for the plain client."""
    async with configured(Emulator.pair(tls=False, is_still=True)) as emulator:
        yield emulator


@pytest.fixture
async def units(bigip: Emulator) -> AsyncIterator[tuple[Rest, Rest]]:
    """A plain client of each unit, logged in."""
    async with aiohttp.ClientSession() as session:
        a, b = (Rest(session, url) for url in bigip.urls)
        await a.login()
        await b.login()
        yield a, b


@pytest.fixture
def rest(units: tuple[Rest, Rest]) -> Rest:
    """A plain client of the first unit, logged in."""
    return units[0]


@pytest.fixture
async def tls_bigip(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    """A pair for clients nobody here wrote: they insist on TLS, and verify it."""
    async with configured(Emulator.pair(is_still=True)) as emulator:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(emulator.ca_file))
        yield emulator
