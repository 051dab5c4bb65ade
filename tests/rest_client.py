"""A plain client of iControl REST for tests of the emulator, and the pool that they are about."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from emulator import Emulator
from yarl import URL

POOL = "ltm/pool/~Common~epmm"
OLD = f"{POOL}/members/~Common~192.0.2.10:443"
NEW = f"{POOL}/members/~Common~192.0.2.11:443"
OFFLINE = {"session": "user-disabled", "state": "user-down"}
DRAINED = {"session": "user-disabled", "state": "user-up"}
ENABLED = {"session": "user-enabled", "state": "user-up"}


@dataclass(frozen=True)
class Answer:
    """What came back: `body` is what JSON said, or the text where it is none."""

    status: int
    body: Any
    reason: str | None
    kind: str

    @property
    def message(self) -> str:
        return str(self.body["message"])


class Rest:
    """A plain client of one unit; `token` goes with each request where there is one."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base
        self.token = ""

    async def login(self, user: str = "lb-probe", password: str = "") -> Answer:
        """Log in and keep the token."""
        body = {"username": user, "password": password or PASSWORDS[user]}
        answer = await self.raw("POST", "/mgmt/shared/authn/login", body | TMOS)
        if answer.status == 200:
            self.token = answer.body["token"]["token"]
        return answer

    async def raw(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask for a path just as it is written here."""
        sent = dict(headers or {})
        if self.token and "Authorization" not in sent:
            sent.setdefault("X-F5-Auth-Token", self.token)
        url = URL(self._base + path, encoded=True)
        how: dict[str, Any] = {"headers": sent, "allow_redirects": False}
        if body is not None:
            how["json"] = body
        async with self._session.request(method, url, **how) as response:
            text = await response.text()
            kind = response.content_type
            content = await response.json() if kind == "application/json" and text else text
            return Answer(response.status, content, response.reason, kind)

    async def ask(
        self, method: str, path: str, body: Any = None, transaction: object = None
    ) -> Answer:
        """Ask for a path below /mgmt/tm."""
        header = "X-F5-REST-Coordination-Id"
        headers = {header: str(transaction)} if transaction is not None else None
        return await self.raw(method, f"/mgmt/tm/{path}", body, headers)

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.body

    async def patch(self, path: str, body: Any) -> Any:
        answer = await self.ask("PATCH", path, body)
        assert answer.status == 200, answer
        return answer.body

    async def states(self, path: str) -> tuple[str, str]:
        """Return state and session of a member."""
        member = await self.get(path)
        return member["state"], member["session"]

    async def status(self, path: str) -> dict[str, str]:
        """Return the `status` and the monitor's words of a member's statistics."""
        answer = await self.get(f"{path}/stats")
        (entry,) = answer["entries"].values()
        words = entry["nestedStats"]["entries"]
        return {k: v["description"] for k, v in words.items() if "description" in v}


TMOS = {"loginProviderName": "tmos"}
PASSWORDS = {
    "admin": "secret",
    "lb-probe": "probe-secret",
    "manager": "manager-secret",
    "operator": "operator-secret",
    "guest": "guest-secret",
}


def basic(user: str, password: str) -> dict[str, str]:
    word = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {word}"}


def configured(emulator: Emulator) -> Emulator:
    """Give it the pool that most tests are about: the first node has the traffic."""
    emulator.add_pool("/Common/epmm", "192.0.2.10:443", "192.0.2.11:443", monitor="https")
    emulator.force_offline("/Common/epmm", "192.0.2.11:443")
    return emulator


async def in_thread(run: Callable[[], Any]) -> Any:
    """Run a client that blocks beside the emulator's loop."""
    return await asyncio.to_thread(run)


def trace(emulator: Emulator, unit: int = 0) -> list[str]:
    """Return what a unit was asked, one line for each request."""
    return [f"{seen.method} {seen.raw_path}" for seen in emulator.unit(unit).log]
