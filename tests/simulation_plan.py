"""What befalls a simulated world: everything that is not the prober's own choice.

A plan is text: a head and one line for each thing that happens. `str(plan)` writes it, `parse`
reads it back, so a failure can be kept as a file under tests/histories/.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, fields

A, B = "a", "b"
PAGES = ("a/status", "a/hastatus", "b/status", "b/hastatus")
FAULTS_FROM_S, FAULTS_TO_S = 2.5, 15.0
QUIET_S = 7.0
INCIDENT_S = 5.0

NODE_STEPS = (
    *("dies", "returns", "hangs", "breaks", "goes-dark", "goes-mute"),
    *("promotes", "stands-by", "says-odd"),
)
VERBS = (
    *("resume", "failover", "switchover", "hold", "release", "swap-roles"),
    *("accept", "republish", "ack"),
)


@dataclass(frozen=True)
class Step:
    """One thing that happens, at seconds after the beginning."""

    at: float
    what: str
    args: tuple[object, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:.3f}  {self.what} {' '.join(str(a) for a in self.args)}".rstrip()


@dataclass(frozen=True)
class Plan:
    """One world and what happens in it.

    Attributes:
        opens: A restarted load balancer sends traffic to `a` until told; else to nobody.
        references: There are reference targets, silent while the link to them is cut.
        sqlite: The store is the real one, on disk.
    """

    seed: int
    confirm_s: float = 0.6
    fall: int = 2
    balancers: int = 1
    opens: bool = False
    act: bool = True
    references: bool = False
    sqlite: bool = False
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        head = " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self)[:-1])
        return "\n".join([head, *(str(step) for step in self.steps)])

    @property
    def heals_at(self) -> float:
        """Seconds until every fault is over."""
        return max([FAULTS_TO_S, *(step.at for step in self.steps)]) + 0.1


def _value(word: str) -> object:
    if word in ("True", "False"):
        return word == "True"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def parse(text: str) -> Plan:
    """Read a plan back; lines that begin with # are comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    head = dict(word.split("=") for word in lines[0].split())
    steps = []
    for line in lines[1:]:
        at, what, *args = line.split()
        steps.append(Step(float(at), what, tuple(_value(arg) for arg in args)))
    return Plan(**{key: _value(value) for key, value in head.items()}, steps=tuple(steps))


# ------------------------------------------------------------------ random plans
def make_plan(seed: int) -> Plan:
    """Return the plan of this seed: two to nine faults, often one upon the other."""
    rng = random.Random(seed)
    steps: list[Step] = []
    for _ in range(rng.randint(2, 9)):
        at = round(rng.uniform(FAULTS_FROM_S, FAULTS_TO_S - 3.0), 3)
        later = round(min(at + rng.uniform(0.1, INCIDENT_S), FAULTS_TO_S), 3)
        fault = rng.choices(list(_FAULTS), list(_FAULTS.values()))[0]
        steps += fault(rng, at, later)
    return Plan(
        seed,
        confirm_s=rng.choice((0.01, 0.6, 1.5)),
        fall=rng.choice((2, 3)),
        balancers=rng.choice((1, 1, 2)),
        opens=rng.random() < 0.2,
        act=rng.random() < 0.95,
        references=rng.random() < 0.3,
        sqlite=seed % 50 == 49,
        steps=tuple(sorted(steps, key=lambda step: step.at)),
    )


def _node(rng: random.Random, at: float, later: float) -> list[Step]:
    return [Step(at, "node", (rng.choice((A, B)), rng.choice(NODE_STEPS)))]


def _primary(rng: random.Random, at: float, later: float) -> list[Step]:
    down = rng.choice(("dies", "hangs", "breaks", "goes-dark"))
    up = [Step(later, "node", (A, "returns"))] if rng.random() < 0.6 else []
    return [Step(at, "node", (A, down)), *up]


def _swapped(rng: random.Random, at: float, later: float) -> list[Step]:
    """Somebody swaps the nodes and tells nobody."""
    return [Step(at, "node", (A, "stands-by")), Step(later, "node", (B, "promotes"))]


def _link(rng: random.Random, at: float, later: float) -> list[Step]:
    """The prober's own link: all of it, or one way; each page may come back in its own time."""
    what = rng.choice((("all",), ("all",), (A,), (B,), ("references",), (rng.choice(PAGES),)))
    how = rng.choice(("cut", "refuse"))
    return [Step(at, "link", (how, *what)), *_back(rng, later, what)]


def _back(rng: random.Random, later: float, what: tuple[str, ...]) -> list[Step]:
    if what != ("all",) or rng.random() < 0.5:
        return [Step(later, "link", ("back", *what))]
    again = [(name, round(later + rng.uniform(0.0, 0.4), 3)) for name in (*PAGES, "references")]
    return [Step(when, "link", ("back", name)) for name, when in again]


def _balancer(rng: random.Random, at: float, later: float) -> list[Step]:
    which = rng.randrange(2)
    does = rng.choice(("restarts", "set", "set", "down", "unknown", "slow", "refuses", "deaf"))
    if does == "set":
        return [Step(at, "lb", (which, does, *rng.choice(((A,), (B,), (), (A, B)))))]
    undo = [] if does == "restarts" else [Step(later, "lb", (which, "up"))]
    return [Step(at, "lb", (which, does)), *undo]


def _foreign(rng: random.Random, at: float, later: float) -> list[Step]:
    """Somebody else writes there, again and again."""
    which, node = rng.randrange(2), rng.choice((A, B))
    pause = rng.uniform(0.5, 1.5)
    return [Step(round(at + n * pause, 3), "lb", (which, "set", node)) for n in range(4)]


def _prober(rng: random.Random, at: float, later: float) -> list[Step]:
    does = rng.choice(("kill", "kill", "die-at", "die-at", "die-at", "lose", "offline"))
    if does == "die-at":  # killed at one of the next effects, whatever it is
        down = [Step(at, "prober", (does, rng.randint(1, 12)))]
    elif does == "offline":  # killed, and an operator breaks the glass
        down = [Step(at, "prober", (does, rng.choice((A, B))))]
    else:  # lose: killed, and what was saved is gone
        down = [Step(at, "prober", (does,))]
    agrees = [Step(later, "prober", ("file-agrees",))] if rng.random() < 0.15 else []
    return [*down, *agrees, Step(later, "prober", ("start",))]


def _start_elsewhere(rng: random.Random, at: float, later: float) -> list[Step]:
    """While the prober is down somebody moves traffic, perhaps not everywhere."""
    both = [0, 1] if rng.random() < 0.7 else [rng.randrange(2)]
    arg = rng.choice(((A,), (B,), (B,), (), (A, B)))
    moved = [Step(at, "lb", (which, "set", *arg)) for which in both]
    down = Step(at, "prober", ("lose" if rng.random() < 0.4 else "kill",))
    return [down, *moved, Step(later, "prober", ("start",))]


def _store(rng: random.Random, at: float, later: float) -> list[Step]:
    return [Step(at, "store", (rng.choice(("full", "slow")),)), Step(later, "store", ("works",))]


def _time(rng: random.Random, at: float, later: float) -> list[Step]:
    if rng.random() < 0.5:
        return [Step(at, "jump", (rng.choice((-3600.0, -5.0, 5.0, 86400.0)),))]
    return [Step(at, "stall", (round(rng.uniform(0.3, 5.0), 3),))]


def _operator(rng: random.Random, at: float, later: float) -> list[Step]:
    return [_act(rng, at, rng.choice(VERBS))]


def _round_trip(rng: random.Random, at: float, later: float) -> list[Step]:
    """Traffic moves, and is brought back or the roles are swapped, at good and bad moments."""
    there = rng.choice(("failover", "switchover"))
    back = rng.choice(("resume", "resume", "swap-roles"))
    return [_act(rng, at, there), _act(rng, later, back)]


def _act(rng: random.Random, at: float, verb: str) -> Step:
    flags = [
        flag
        for flag, share in (("bold", 0.5), ("stale", 0.1), ("unsynced", 0.15), ("hands-off", 0.3))
        if rng.random() < share
    ]
    return Step(at, "operator", (verb, rng.choice((A, B)), *flags))


def _held(rng: random.Random, at: float, later: float) -> list[Step]:
    """A hold while the Primary fails, or while the clock jumps; released or due."""
    steps = [_act(rng, at, "hold")]
    if rng.random() < 0.6:
        down = rng.choice(("dies", "hangs", "goes-dark"))
        steps.append(Step(round(at + 0.2, 3), "node", (A, down)))
    else:
        steps.append(Step(round(at + 0.2, 3), "jump", (rng.choice((-3600.0, 86400.0)),)))
        steps.append(_act(rng, round(at + 0.5, 3), rng.choice(("ack", "failover"))))
    off = [_act(rng, later, "release")] if rng.random() < 0.6 else []
    return [*steps, *off]


def _probe(rng: random.Random, at: float, later: float) -> list[Step]:
    does = rng.choice(("lossy", "late", "late", "stuck", "stuck"))
    if does == "lossy":
        share = round(rng.uniform(0.1, 0.6), 3)
        return [Step(at, "lossy", (share,)), Step(later, "lossy", (0.0,))]
    # The next answer of a page arrives late; the page is probed on (late) or not (stuck).
    return [Step(at, does, (rng.choice(PAGES), round(rng.uniform(0.1, 4.0), 3)))]


_FAULTS: dict[Callable[[random.Random, float, float], list[Step]], int] = {
    _node: 4,
    _primary: 6,
    _swapped: 1,
    _link: 3,
    _balancer: 3,
    _foreign: 1,
    _prober: 3,
    _start_elsewhere: 1,
    _store: 2,
    _time: 1,
    _operator: 3,
    _round_trip: 2,
    _held: 1,
    _probe: 2,
}


# ------------------------------------------------------------------ a link that comes and goes
RETURNS = 50


def make_returns(seed: int) -> Plan:
    """Return a plan with healthy nodes in which the prober's own link returns `RETURNS` times.

    After a cut of a second or more the pages come back in any order within 0.2 s. Between two cuts
    every page is probed once at least: two cuts in one second look like a dead Primary to anybody
    who asks once a second, and `confirm` is there for them.
    """
    rng = random.Random(seed)
    steps, at = [], FAULTS_FROM_S
    for _ in range(RETURNS):
        at += rng.uniform(1.3, 2.2)
        steps.append(Step(round(at, 3), "link", (rng.choice(("cut", "cut", "refuse")), "all")))
        cut_s = rng.choice((rng.uniform(0.05, 1.3), rng.uniform(0.5, 3.5)))
        at += cut_s
        spread_s = rng.choice((0.0, 0.2)) if cut_s > 1.3 else 0.0
        for name in (*PAGES, "references"):
            steps.append(Step(round(at + rng.uniform(0.0, spread_s), 3), "link", ("back", name)))
        at += spread_s
    return Plan(
        seed,
        confirm_s=0.01,
        fall=rng.choice((2, 3)),
        references=rng.random() < 0.2,
        steps=tuple(sorted(steps, key=lambda step: step.at)),
    )
