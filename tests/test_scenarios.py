"""Replays tests/scenarios/*.txt: a story an operator could tell.

A block is a comment, a command, `----`, the answer: what happened meanwhile, each line with the
seconds since the story began, and how things stand. `pytest --rewrite` writes the answers anew;
read the diff before committing it.

Commands:
    start [lb=a|b|both|none] [lb-2=a|b|down] [balancers=0|1|2] [lb-config=a] [nodes=3]
          [saved=NODE] [unconfirmed=yes] [server-was=URL] [saved-as=NAME] [was=NAME]
          [act=no] [confirm=S] [deadline=S] [limit=N] [neighbours=N] [references=yes]
          [witness=network|all] [drain=S]
    wait SECONDS
    node NAME dies|returns|hangs|breaks|promotes|stands-by|says-odd
    node NAME stays-dark|serves|serves-always     serves: as soon as it is Primary
    node NAME loses-hastatus|finds-hastatus
    link cut|back             the prober's own
    lb [NAME] restarts|goes-down|comes-up|set NODE|deaf|hears|carries NODE REQUESTS
    lb [NAME] sees NODE up|up-4|failing|down      by its own check; up-4: a plain connection
    store full|works
    store kept|goes-back      a copy is made; the copy takes its place
    clock jumps SECONDS       the wall clock alone
    loop stalls SECONDS       the prober is stopped and goes on
    prober killed|starts|starts-overruled         overruled: with --override epmm
    prober stops-before save|publish|confirm      and hangs there until it is killed
    file primary NODE|moves NODE|acts             probes.yaml, read at the next start
    offline NODE [LB]         break-glass while the prober is down
    operator VERB [--to N] [--for D] [--hands-off] [--override G] [--attest G=TEXT] [--generation N]
"""

import asyncio
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_world import ModelBalancer, World, pair

from lb_probe.admin.api import duration
from lb_probe.controller import Ask, OfflineNote
from lb_probe.core.acts import VERBS
from lb_probe.core.failover import RULES
from lb_probe.core.model import Event, Group, Health, Node, Role, Saved
from lb_probe.core.timing import Timing
from lb_probe.ports import LbProbeError, Refused

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
UNTOLD = {"publish.sent", "publish.failing", "group.started"}
NEIGHBOURS = ("core", "sentry")
NODE_DOES = {
    "dies": ("state", "dead"),
    "returns": ("state", "up"),
    "hangs": ("state", "hung"),
    "breaks": ("state", "broken"),
    "promotes": ("mode", "primary"),
    "stands-by": ("mode", "standby"),
    "says-odd": ("mode", "odd"),
    "stays-dark": ("serves", "never"),
    "cannot-be-asked": ("state", "unasked"),
    "serves": ("serves", "as Primary"),
    "serves-always": ("serves", "always"),
    "loses-hastatus": ("is_hastatus_silent", True),
    "finds-hastatus": ("is_hastatus_silent", False),
}


class Story:
    """One world, driven by the commands of a script."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.told: list[str] = []
        self.began = 0.0
        self.kept: dict[str, Saved] = {}

    async def play(self, commands: str) -> None:
        for line in commands.splitlines():
            if not line.startswith("#"):
                verb, *words = shlex.split(line)
                await getattr(self, verb)(*words)

    def hear(self, event: Event) -> None:
        if event.name in UNTOLD or self.world is None:
            return
        at = self.world.clock.now - self.began
        fields = {k: v for k, v in event.fields.items() if k not in ("seconds", "rule")}
        words = " ".join(f"{k}={v}" for k, v in fields.items() if v not in (None, ""))
        self.told.append(f"{at:7.2f}  {event.name} {words}".rstrip())

    async def start(self, *words: str) -> None:
        given = dict(word.split("=") for word in words)
        balancers = _balancers(given)
        group = pair(
            act=given.get("act") != "no",
            adapters=tuple(balancers),
            confirm_s=float(given.get("confirm", "2")),
            serving_deadline_s=float(given.get("deadline", "10")),
        )
        if given.get("nodes") == "3":
            group = replace(group, nodes=(*group.nodes, Node("dr", Role.SECONDARY)))
        neighbours = NEIGHBOURS[: int(given.get("neighbours", "0"))]
        world = self.world = World(group, balancers, self.hear, neighbours)
        self.began = world.clock.now
        world.timing = Timing(
            confirm_s=group.confirm_s, serving_deadline_s=group.serving_deadline_s
        )
        world.references = True if "references" in given else None
        world.limit = int(given["limit"]) if "limit" in given else None
        world.was = given.get("was")
        world.witness = given.get("witness", "off")
        world.drain_s = float(given.get("drain", "0"))
        if "saved" in given:
            world.store.saved[given.get("saved-as", "epmm")] = _saved(given, group)
        await self.prober("starts")
        await self.wait("3")

    async def wait(self, seconds: str) -> None:
        await self.world.advance(float(seconds.removesuffix("s")))

    async def node(self, name: str, does: str) -> None:
        node = self.world.nodes[name]
        attribute, value = NODE_DOES[does]
        setattr(node, attribute, value)

    async def link(self, word: str) -> None:
        self.world.is_linked = {"cut": False, "back": True}[word]

    async def lb(self, *words: str) -> None:
        names = list(self.world.balancers)
        name = words[0] if words[0] in names else names[0]
        does, *rest = words[1:] if words[0] in names else words
        balancer = self.world.balancers[name]
        if does == "restarts":
            balancer.restart()
        elif does == "sees":
            is_up, is_sure = rest[1] != "down", rest[1] != "failing"
            layer = 4 if rest[1] == "up-4" else 7
            balancer.health[rest[0]] = Health(is_up, is_sure, f"L{layer}OK", layer)
        elif does == "carries":
            balancer.in_flight[rest[0]] = int(rest[1])
        elif does == "set":
            balancer.chosen = set(rest[0].split("+")) - {"none"}
        elif does in ("deaf", "hears"):
            balancer.is_deaf = does == "deaf"
        else:
            balancer.is_up = {"goes-down": False, "comes-up": True}[does]

    async def store(self, word: str) -> None:
        store = self.world.store
        if word == "kept":
            self.kept = dict(store.saved)
        elif word == "goes-back":
            store.saved = dict(self.kept)
        else:
            store.is_full = {"full": True, "works": False}[word]

    async def file(self, word: str, node: str = "") -> None:
        world = self.world
        if word == "moves":
            world.servers[node] = f"another-{node}"
        elif word == "acts":
            world.group = replace(world.group, act=True)
        else:
            roles = {n.name: Role.SECONDARY for n in world.group.nodes} | {node: Role.PRIMARY}
            world.group = world.group.with_roles(roles)

    async def clock(self, word: str, seconds: str) -> None:
        assert word == "jumps"
        self.world.clock.offset += float(seconds)

    async def loop(self, word: str, seconds: str) -> None:
        assert word == "stalls"
        self.world.clock.now += float(seconds)

    async def prober(self, word: str, step: str = "") -> None:
        if word == "killed":
            await self.world.kill_prober()
            return
        if word == "stops-before":
            self.world.store.trap.before = step
            return
        try:
            allowed = frozenset({"epmm"}) if word == "starts-overruled" else frozenset()
            await self.world.start_prober(allowed)
        except LbProbeError as error:
            self.told.append(f"refuses to start: {error}")

    async def offline(self, node: str, reached: str = "") -> None:
        for name, balancer in self.world.balancers.items():
            balancer.chosen = {node} if reached in ("", name) else balancer.chosen
        wall = self.world.clock.wall()
        self.world.notes["epmm"] = OfflineNote(node, "ops", "the prober is gone", wall)

    async def operator(self, verb: str, *words: str) -> None:
        try:
            ask = Ask(verb, "ops", "because", **_options(words))
            plan = self.world.controller.plan("epmm", ask)
            self.told += [f"warning: {warning}" for warning in plan.warnings]
        except LbProbeError as error:
            self.told.append(f"{type(error).__name__}: {error}")
            return
        acting = asyncio.ensure_future(self.world.controller.act("epmm", ask))
        while not acting.done():
            await self.world.advance(0.05)
        try:
            acting.result()
        except Refused as error:
            self.told.append(f"refused: {error}")
            self.told += [f"  no {g.id}: {g.found}" for g in error.gates if not g.passed]
            self.told.append(f"  {error.paste}")
        except LbProbeError as error:
            self.told.append(f"{type(error).__name__}: {error}")

    def standing(self) -> str:
        world = self.world
        lbs = ", ".join(f"{name} {node}" for name, node in world.traffic.items())
        if world.controller is None:
            return f"= prober down; really: {lbs}"
        view = world.controller.view("epmm")
        words = [f"{view.decision.condition} ({view.decision.rule})"]
        words.append(f"traffic {view.saved.assigned}{' latched' if view.saved.latched else ''}")
        words.append(f"generation {view.saved.generation}")
        if view.decision.blocked:
            words.append(f"brakes {','.join(view.decision.blocked)}")
        if view.roles_swapped:
            words.append("roles swapped")
        for adapter in view.adapters:
            if not adapter.in_sync:
                state = "yields to a foreign writer" if adapter.yielded else "not in sync"
                words.append(f"{adapter.name} {state}")
        return f"= {'; '.join(words)}; really: {lbs}"


def _balancers(given: dict[str, str]) -> dict[str, ModelBalancer]:
    configured = frozenset(given.get("lb-config", ""))
    said = given.get("lb", "a")
    balancers = {}
    for name, word in (("edge", said), ("edge-2", given.get("lb-2", said))):
        chosen = {"none": set(), "down": {"a"}, "both": {"a", "b"}}.get(word, {word})
        balancers[name] = ModelBalancer(name, chosen, configured, is_up=word != "down")
    wanted = 2 if "lb-2" in given else int(given.get("balancers", "1"))
    return dict(list(balancers.items())[:wanted])


def _saved(given: dict[str, str], group: Group) -> Saved:
    node = given["saved"]
    confirmed = {} if "unconfirmed" in given else dict.fromkeys(group.adapters, 1)
    return Saved(
        node,
        latched=node != "a",
        generation=1,
        confirmed=confirmed,
        fingerprint=f"url={given['server-was']}" if "server-was" in given else "",
    )


def _options(words: tuple[str, ...]) -> dict[str, object]:
    options: dict[str, object] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--hands-off":
            options["hands_off"] = True
        elif word == "--for":
            options["hold_s"] = duration(rest.pop(0))
        elif word == "--override":
            options["override"] = options.get("override", frozenset()) | {rest.pop(0)}
        elif word == "--attest":
            gate, _, text = rest.pop(0).partition("=")
            options["attest"] = {**options.get("attest", {}), gate: text}
        elif word == "--generation":
            options["generation"] = int(rest.pop(0))
        else:
            assert word == "--to", word
            options["to"] = rest.pop(0)
    return options


async def replay(script: str) -> str:
    random.seed(0)  # the pauses between tries of an unreachable load balancer
    story, blocks = Story(), []
    try:
        for block in script.strip().split("\n\n"):
            command = block.split("\n----")[0]
            await story.play(command)
            told, story.told = story.told, []
            blocks.append("\n".join([command, "----", *told, story.standing()]))
    finally:
        if story.world is not None:
            await story.world.kill_prober()
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
async def test_scenario(path, request):
    actual = await replay(path.read_text())
    if request.config.getoption("--rewrite"):
        path.write_text(actual)
    assert actual == path.read_text()


def test_scenarios_tell_every_row_and_every_verb():
    told = "\n".join(path.read_text() for path in SCENARIOS)
    stood = set(re.findall(r"^= [a-z-]+ \((\w+)\)", told, re.MULTILINE))
    asked = set(re.findall(r"^operator ([a-z-]+)", told, re.MULTILINE))
    assert {rule.id for rule in RULES} - stood == set()
    assert set(VERBS) - asked == set()
