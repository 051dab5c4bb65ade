"""A desk to sit at: a controller over one model load balancer, and its API on TCP and a socket."""

import asyncio
import contextlib
import json

import aiohttp
from aiohttp import web
from simulated_world import ModelBalancer, ModelPublisher, ModelStore, Trap, pair

from lb_probe.admin.api import Api
from lb_probe.admin.auth import Operator
from lb_probe.admin.door import Door
from lb_probe.admin.tokens import Tokens
from lb_probe.clock import SystemClock
from lb_probe.controller import Controller, Setup
from lb_probe.core.model import Failed, Mode, Observation, Page, Passed, Phase
from lb_probe.core.rank import Rank
from lb_probe.events.audit import Audit
from lb_probe.events.log import Fanout
from lb_probe.groups import Groups
from lb_probe.history import CHANGES
from lb_probe.pool import PoolController, PoolSetup

TOKENS = {"vic": "viewer-0123456789", "ops": "operator-0123456789", "adm": "admin-0123456789"}
OPERATORS = [
    Operator("vic", Rank.VIEWER, TOKENS["vic"]),
    Operator("ops", Rank.OPERATOR, TOKENS["ops"]),
    Operator("adm", Rank.ADMIN, TOKENS["adm"]),
]
GROUP = "/api/v1/groups/epmm"
PATIENCE_S = 20.0


async def until(is_true, what):
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while not is_true():
        assert asyncio.get_running_loop().time() < end, f"waited in vain until {what}"
        await asyncio.sleep(0.01)


class Answer:
    """A status, its headers and the JSON of its body."""

    def __init__(self, status, headers, raw):
        self.status = status
        self.headers = headers
        self.raw = raw

    @property
    def json(self):
        return json.loads(self.raw)

    @property
    def error(self):
        """Status and word of an error that has the documented shape."""
        assert self.headers["Content-Type"] == "application/json; charset=utf-8"
        assert isinstance(self.json["detail"], str)
        assert self.json["detail"]
        return self.status, self.json["error"]


class Desk:
    """Where an operator sits: a controller over one model load balancer, and its API."""

    def __init__(self, folder, pools=(), more=()):
        self.clock = SystemClock()
        self.store = ModelStore()
        self.balancer = ModelBalancer("edge", {"a"})
        self.events = Fanout()
        self.heard = []
        self.events.add(self.heard.append)
        group = pair(confirm_s=0.0, max_age_s=120.0)
        publisher = ModelPublisher(self.balancer, Trap())
        pairs = [Setup(group, (publisher,)), *more]
        self.controller = Controller(pairs, self.store, self.clock, self)
        self.tokens = Tokens(folder / "tokens.json", self.clock.wall)
        self.audit = Audit(folder / "audit.jsonl", self.clock.wall)
        self.audit.open()
        door = Door(OPERATORS, self.clock.monotonic, tokens=self.tokens, audit=self.audit)
        setups = [PoolSetup(pool) for pool in pools]
        recorder = self.controller.recorder
        self.pools = PoolController(setups, self.store, self.clock, self, recorder)
        names = [*self.controller.names, *(pool.name for pool in pools)]
        self.groups = Groups(names, self.controller, self.pools, self.store)
        self.api = Api(self.groups, door, self.events.add)
        self.socket = folder / "api.sock"
        self.applications = []
        self.runners = []

    def emit(self, event):
        self.events.emit(event)

    @contextlib.asynccontextmanager
    async def open(self):
        await self.groups.start({}, frozenset())
        running = asyncio.ensure_future(self.groups.run())
        tcp = await self._runner()
        site = web.TCPSite(tcp, "127.0.0.1", 0)
        await site.start()
        self.port = tcp.addresses[0][1]
        await web.UnixSite(await self._runner(), self.socket).start()
        over = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as self.session,
            aiohttp.ClientSession("http://unix", connector=over) as self.local,
        ):
            try:
                yield self
            finally:
                await self.close()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _runner(self):
        app = self.api.application()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=30.0)
        await runner.setup()
        self.applications.append(app)
        self.runners.append(runner)
        return runner

    async def close(self):
        for runner in self.runners:
            await runner.cleanup()
        self.runners.clear()

    # -------------------------------------------------------------- asking
    async def ask(self, method, path, *, who="ops", session=None, **more):
        headers = {"Authorization": f"Bearer {TOKENS[who]}"} if who else {}
        headers |= more.pop("headers", {})
        asked = (session or self.session).request(method, path, headers=headers, **more)
        async with asked as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path, **more):
        return await self.ask("GET", path, **more)

    async def act(self, verb, body=None, **more):
        body = {"reason": "because"} if body is None else body
        return await self.ask("POST", f"{GROUP}/{verb}", json=body, **more)

    async def raw(self, text):
        """Send these bytes and read what comes until the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(text)
            return await asyncio.wait_for(reader.read(), PATIENCE_S)
        finally:
            writer.close()
            await writer.wait_closed()

    # -------------------------------------------------------------- the world
    def observe(self, node, page, outcome):
        now = self.clock.monotonic()
        self.controller.observe("epmm", Observation(node, page, now, now, outcome))

    def all_is_well(self):
        for _ in range(2):
            self.observe("a", Page.STATUS, Passed())
            self.observe("a", Page.HASTATUS, Passed(Mode.PRIMARY))
            self.observe("b", Page.HASTATUS, Passed(Mode.STANDBY))
            self.observe("b", Page.STATUS, Failed(Phase.STATUS, "503 Service Unavailable"))

    def primary_fails(self):
        self.observe("a", Page.STATUS, Failed(Phase.CONNECT_REFUSED, "connection refused"))
        self.observe("b", Page.HASTATUS, Passed(Mode.STANDBY))

    async def fail_over(self):
        """Let the rule move traffic to `b`."""
        self.all_is_well()

        def is_moved():
            self.primary_fails()
            return self.balancer.chosen == {"b"} and self.view.saved.confirmed == {"edge": 2}

        await until(is_moved, "traffic is on b")

    @property
    def view(self):
        return self.controller.view("epmm")

    @property
    def state(self):
        """All that an act could have changed; what a slow machine leaves is none of it."""
        changes = [record for record in self.store.records if record.kind in CHANGES]
        return self.store.saved["epmm"], len(changes), set(self.balancer.chosen)
