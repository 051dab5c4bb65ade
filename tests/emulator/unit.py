"""One BIG-IP: what it runs, what it saved, who is logged in, and how it answers a request.

A request comes in as values and leaves as an answer; sockets and delays are the server's.
"""

from typing import Any
from urllib.parse import parse_qs

from emulator.changes import differences, write
from emulator.clock import DeviceClock
from emulator.configuration import Configuration, placed
from emulator.errors import Refusal, not_registered, refused, rest_refused
from emulator.faults import Faults, mcpd_lost, restarting, restjavad_down
from emulator.health import Health, World, service_of
from emulator.logins import Logins
from emulator.names import Place, segments_of
from emulator.pair import Pair
from emulator.render import Renderer, in_partition, selected
from emulator.roles import demand_right
from emulator.stats import Statistics
from emulator.system import System
from emulator.transactions import Command, Transactions
from emulator.wire import TAG, TAGS, Condition, Request, Seen

Json = dict[str, Any]


class Unit:
    """One box of a pair, or one that stands alone.

    Attributes:
        name: Its host name.
        version: Its TMOS.
        condition: How it is; a test sets it.
        is_active: Whether the traffic group is here.
        running: The running configuration.
        log: Every request that was answered, and how.
        faults: What goes wrong on this unit alone.
        call_s: Each call takes at least this long.
        save_s: Saving takes this long, and the answer to it comes only then.
    """

    def __init__(
        self, name: str, version: str, clock: DeviceClock, world: World, pair: Pair
    ) -> None:
        self.name = name
        self.version = version
        self.address = "127.0.0.1"
        self.clock = clock
        self.pair = pair
        self.condition = Condition.RUNNING
        self.is_active = False
        self.is_forced_offline = False
        self.running = Configuration()
        self.saved = Configuration()
        self.health = Health(world, clock.now, self.running)
        self.logins = Logins(clock)
        self.stats = Statistics(version)
        self.transactions = Transactions(clock, version, self._apply)
        self.system = System(self)
        self.faults = Faults()
        self.log: list[Seen] = []
        self.saves = 0
        self.call_s = 0.0
        self.save_s = 0.0
        self._renderer = Renderer(version)
        self._later: list[tuple[float, Condition]] = []

    # ------------------------------------------------------------ control, for tests
    @property
    def is_there(self) -> bool:
        return self.condition not in (Condition.OFF, Condition.HUNG)

    @property
    def failover_state(self) -> str:
        if self.is_forced_offline:
            return "FORCED OFFLINE"  # no recording has this one: `failoverState` is forced-offline
        return "ACTIVE" if self.is_active else "STANDBY"

    def fail_over(self) -> None:
        """Give the traffic group to the other unit, where there is one."""
        if self.is_forced_offline:
            self.is_active = False
        for peer in self.pair.peers(self):
            if peer.is_there and not peer.is_forced_offline:
                self.is_active, peer.is_active = False, True

    def reboot(self, down_s: float = 0.0) -> None:
        """Start from what was saved; what was not is lost. Tokens and transactions are gone too."""
        if self.is_active:
            self.fail_over()
        self._load(self.saved.copy())
        self.logins.tokens.clear()
        self.transactions = Transactions(self.clock, self.version, self._apply)
        if down_s:
            self.condition = Condition.OFF
            self.schedule((Condition.RUNNING, down_s))

    def schedule(self, *phases: tuple[Condition, float]) -> None:
        """Be in these conditions, each after so many seconds from the one before."""
        at = self.clock.now()
        self._later = []
        for condition, after_s in phases:
            at += after_s
            self._later.append((at, condition))

    def restart_mcpd(
        self, lost_s: float = 0.1, page_s: float = 0.1, starting_s: float = 0.1
    ) -> None:
        """Go through a restart: 500, the page with 503, 404 for what exists, running."""
        self.condition = Condition.MCPD_LOST
        self.schedule(
            (Condition.RESTARTING, lost_s),
            (Condition.MCPD_STARTING, page_s),
            (Condition.RUNNING, starting_s),
        )

    def member(self, pool: str, member: str) -> Json:
        """Return a member as GET would show it, whatever the unit's condition."""
        place = ("ltm", "pool", pool, "members", member)
        return self._renderer.one(self.running, self.health, place, deep=False)

    def change(self, method: str, path: str, body: Any = None) -> None:
        """Write as somebody in the web interface does; the path is below /mgmt/tm."""
        place, is_collection = placed(segments_of(path))
        trial = self.running.copy()
        write(trial, method, place, is_collection, body)
        self._take(trial)

    def load(self) -> None:
        """Run what was saved, without a reboot."""
        self.adopt(self.saved.copy())

    def save(self) -> None:
        self.saved = self.running.copy()
        self.saves += 1

    def adopt(self, config: Configuration) -> None:
        """Take a configuration from the peer; monitors look again where it is another."""
        config.events = list(differences(self.running, config))
        self._install(config)

    # ------------------------------------------------------------ configuration
    def _load(self, config: Configuration) -> None:
        self.running = config
        self.health.reset(config)

    def _install(self, config: Configuration) -> None:
        events, config.events = config.events, []
        self.running = config
        self.health.config = config
        for event in events:
            self.health.handle(event)

    def _take(self, trial: Configuration) -> None:
        places = {event.place for event in trial.events}
        places |= {p for p in trial.objects if trial.objects[p] != self.running.objects.get(p)}
        self._install(trial)
        self.pair.wrote(self, places)

    def _apply(self, config: Configuration, command: Command) -> None:
        is_collection = placed(command.place)[1]
        write(config, command.method, command.place, is_collection, command.body)

    # ------------------------------------------------------------ requests
    def settle(self) -> None:
        """Do what has become due: the next condition, syncs, commits in the background."""
        while self._later and self.clock.now() >= self._later[0][0]:
            _, self.condition = self._later.pop(0)
        self.pair.settle()
        self.transactions.work(self.running, self._take)

    def answer(self, request: Request) -> Json:
        """Carry out a request and return the body of its answer, status 200.

        Raises:
            Refusal: Any other answer.
        """
        self.settle()
        if request.raw_path.rstrip("/") == "/mgmt/shared/authn/login":
            self._demand_rest()
            if request.method != "POST":
                raise rest_refused(405, "Method not allowed")
            return self.logins.login(request.json())
        self._demand_rest()
        segments = segments_of(request.raw_path)
        if any(TAG.search(segment) for segment in segments):
            raise refused(400, TAGS)
        user = self.logins.who(request.headers, request.raw_path)
        if self.condition is Condition.RESTJAVAD_STARTING or segments[:1] != ("mgmt",):
            raise not_registered(request.raw_path)
        if segments[1:2] == ("shared",):
            return self._shared(request, segments[2:])
        if segments[1:2] != ("tm",):
            raise not_registered(request.raw_path)
        if self.condition is Condition.MCPD_LOST:
            raise _answer_of(mcpd_lost().answer)
        body = request.json()
        demand_right(user, request.method, request.raw_path.rstrip("/"), body, self.version)
        return self._tm(request, segments[2:], body)

    def _demand_rest(self) -> None:
        if self.condition is Condition.RESTJAVAD_DOWN:
            raise _answer_of(restjavad_down().answer)
        if self.condition is Condition.RESTARTING:
            raise _answer_of(restarting().answer)

    def _shared(self, request: Request, rest: Place) -> Json:
        match rest:
            case ("authz", "tokens"):
                return self.logins.tokens_answer(request.method, None, None)
            case ("authz", "tokens", word):
                return self.logins.tokens_answer(request.method, word, request.json())
            case ("echo-query",) | ("echo", "available"):
                return {"stage": "STARTED", "kind": "shared:echo:echostate"}
            case _:
                raise not_registered(request.raw_path)

    def _tm(self, request: Request, rest: Place, body: Any) -> Json:
        number = request.headers.get("X-F5-REST-Coordination-Id")
        if rest[:1] == ("transaction",):
            if number is not None:
                text = f"Transaction {number} operation .... is not allowed to be added to "
                raise refused(400, text + "transaction.", 1)
            return self._transaction(request.method, rest[1:], body)
        if number is not None and request.method != "GET":
            place, _ = placed(rest)
            return self.transactions.queue(number, request.method, request.raw_path, place, body)
        special = self.system.answer(request.method, rest, body)
        if special is not None:
            return special
        return self._objects(request, rest, body)

    def _transaction(self, method: str, rest: Place, body: Any) -> Json:
        if method == "POST" and not rest:
            return self.transactions.start(body)
        if method == "PATCH" and len(rest) == 1:
            if self.condition is Condition.MCPD_STARTING:
                raise _answer_of(mcpd_lost().answer)
            return self.transactions.commit(rest[0], body, self.running, self._take)
        if method == "PATCH" and not rest:
            raise refused(404, "Missing transaction ID for this call.", 1)
        return self.transactions.answer(method, rest, body)

    def _objects(self, request: Request, rest: Place, body: Any) -> Json:
        is_stats = rest[-1:] == ("stats",)
        place, is_collection = placed(rest[:-1] if is_stats else rest)
        config = self.running
        if self.condition is Condition.MCPD_STARTING:
            config = Configuration()  # nothing of what exists is found
        if is_stats:
            return self.stats.answer(config, self.health, place, whole=is_collection)
        if request.method == "GET":
            return self._shown(config, place, is_collection, request.query)
        trial = config.copy()
        made = write(trial, request.method, place, is_collection, body)
        self._license(place)
        self._take(trial)
        if request.method == "DELETE":
            return {}
        return self._renderer.one(self.running, self.health, made, deep=False)

    def _license(self, place: Place) -> None:
        if self.condition is Condition.UNLICENSED:
            raise refused(400, f"01070356:3: {place[0].upper()} feature not licensed.", 3)

    def _shown(self, config: Configuration, place: Place, is_collection: bool, query: str) -> Json:
        options = parse_qs(query)
        deep = options.get("expandSubcollections") == ["true"]
        if not is_collection:
            return selected(self._renderer.one(config, self.health, place, deep=deep), options)
        config.demand(place, whole=True)
        out = self._renderer.collection(config, self.health, place, deep=deep)
        if "items" in out:
            kept = [i for i in out["items"] if in_partition(i, options)]
            out["items"] = [selected(item, options) for item in kept]
        return out

    def service(self, pool: str, member: str) -> str:
        """Return the service behind a member of LTM, for `World.set`."""
        return service_of(self.running, ("ltm", "pool", pool, "members", member))


def _answer_of(answer: Refusal | None) -> Refusal:
    assert answer is not None
    return answer
