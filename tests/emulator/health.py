"""What monitors found on one unit: verdicts, and the latch of manual resume.

This is runtime state. It is each unit's own, is synced nowhere, and is gone after a reboot.

A verdict falls due some time after it became possible: `checking` until then. Nothing runs in the
background for it; whoever looks settles what has become due. `World.set` settles first too, so a
failure is never lost between two looks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emulator.ltm import POOL
from emulator.monitors import monitors_of
from emulator.names import Place, full_path, split_member

if TYPE_CHECKING:
    from emulator.configuration import Configuration, Happened


class World:
    """Which services are there: what any monitor finds that looks.

    Attributes:
        monitor_s: Time from the first moment a monitor could know until it says so. A real one
            needs up to `interval` to say up, and `timeout` to say down.
    """

    def __init__(self, now: Callable[[], float], monitor_s: float) -> None:
        self.monitor_s = monitor_s
        self._now = now
        self._services: dict[str, tuple[str, float]] = {}
        self._settlers: list[Callable[[], None]] = []

    def on_change(self, settle: Callable[[], None]) -> None:
        self._settlers.append(settle)

    def set(self, service: str, answers: bool | str) -> None:
        """Say how `ADDRESS:PORT`, or `SERVER:VS` of a DNS pool, answers its monitors.

        Args:
            answers: Whether it does; or `drained`: with the string of `recvDisable`.
        """
        for settle in self._settlers:
            settle()
        word = answers if isinstance(answers, str) else "up" if answers else "down"
        self._services[service] = (word, self._now())

    def get(self, service: str) -> tuple[str, float]:
        """Return how it answers, and since when; one that nobody spoke of always was up."""
        return self._services.get(service, ("up", 0.0))


@dataclass
class Verdict:
    """What one unit knows of one member.

    Attributes:
        word: `checking`, `up`, `down` or `drained`.
        since: When this began, in seconds of the device.
        is_latched: It failed under manual resume, and nobody has enabled it since.
    """

    word: str
    since: float
    is_latched: bool = False


class Health:
    """The verdicts of one unit, for members of LTM and of DNS pools alike."""

    def __init__(self, world: World, now: Callable[[], float], config: "Configuration") -> None:
        self._world = world
        self._now = now
        self._verdicts: dict[Place, Verdict] = {}
        self.config = config
        self.is_latch_strict = False
        world.on_change(self.settle)

    def reset(self, config: "Configuration") -> None:
        """Start anew, as after a reboot: everything is checking, no latch is left."""
        now = self._now()
        self._verdicts = {p: Verdict("checking", now) for p in config.objects if is_member(p)}
        self.config = config

    def handle(self, event: "Happened") -> None:
        """Take in what a write meant."""
        if not is_member(event.place):
            return
        match event.what:
            case "deleted":
                self._verdicts.pop(event.place, None)
            case "created" | "monitor" | "raised":
                self._verdicts[event.place] = Verdict("checking", self._now())
            case "readded":  # it is believed to be up before anybody has looked
                self._verdicts[event.place] = Verdict("up", self._now() + self._world.monitor_s)
            case "enabled" | "enabled again":
                if event.what == "enabled" or not self.is_latch_strict:
                    self._release(event.place)
            case _:
                raise AssertionError(event)

    def _release(self, place: Place) -> None:
        verdict = self._verdict(place)
        if verdict.is_latched:
            self._verdicts[place] = Verdict("checking", self._now())

    def settle(self) -> None:
        """Say what has become due, for every member."""
        for place in self.config.objects:
            if is_member(place):
                self._settle(place)

    def _verdict(self, place: Place) -> Verdict:
        return self._verdicts.setdefault(place, Verdict("checking", self._now()))

    def _settle(self, place: Place) -> Verdict:
        verdict = self._verdict(place)
        values = self.config.objects[place]
        if not self.is_monitored(place) or values.get("state") == "user-down":
            return verdict
        found, since = self._world.get(service_of(self.config, place))
        due = max(verdict.since, since) + self._world.monitor_s
        if found != verdict.word and self._now() >= due:
            verdict.word, verdict.since = found, due
            if found == "down" and self.has_manual_resume(place):
                verdict.is_latched = True
        return verdict

    def word(self, place: Place) -> str:
        """Return what its monitors say of a member: `unchecked`, `checking`, `up` or `down`."""
        if not self.is_monitored(place):
            return "unchecked"
        verdict = self._settle(place)
        if verdict.is_latched:
            return "down"
        return "up" if verdict.word == "drained" else verdict.word

    def is_drained(self, place: Place) -> bool:
        """Tell whether a monitor, by its `recvDisable`, lets no new client in."""
        return self.is_monitored(place) and self._settle(place).word == "drained"

    def is_latched(self, place: Place) -> bool:
        return self._settle(place).is_latched

    # ------------------------------------------------------------ of the configuration
    def is_monitored(self, place: Place) -> bool:
        return self.rule(place) not in ("none", "")

    def rule(self, place: Place) -> str:
        """Return the monitor rule that holds for a member: its own, or its pool's."""
        own = str(self.config.objects[place].get("monitor", "default"))
        pool = str(self.config.objects[place[:-2]].get("monitor", "none"))
        if own != "default":
            return own
        return "none" if pool == "default" else pool

    def has_manual_resume(self, place: Place) -> bool:
        if place[0] == "gtm":
            return bool(self.config.objects[place[:-2]]["manualResume"] == "enabled")
        monitors = monitors_of(self.config, self.rule(place))
        return any(self.config.objects[m].get("manualResume") == "enabled" for m in monitors)


def is_member(place: Place) -> bool:
    return place[-2] == "members"


def service_of(config: "Configuration", place: Place) -> str:
    """Return the service a member stands for: `ADDRESS:PORT`, or `SERVER:VS`."""
    if place[:2] != POOL:
        return place[-1].removeprefix("/Common/")
    address: Any = config.objects[place]["address"]
    return f"{address}:{split_member(full_path(place[-1]).name)[1]}"
