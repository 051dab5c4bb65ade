"""What two nodes of a pair must have in common, compared as a table of items.

A Standby that is smaller, older or shut off from what the Primary reaches is found out on the day
it is needed. Each agent reports facts of its own machine; each row of `RULES` compares one of them
and names a difference with a severity:

* error    a failover or a sync would go wrong: other software, another configuration, a destination
           that only one of them reaches, or something both share that each needs for itself.
* warning  it would work and not as well: other hardware or system; or a fact that one side does
           not tell, which is never taken as equal.

Source: guide lines 68-71, 90-92, 251, 298; R8, R9, R23, R74, R75, R81.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lb_probe.core.model import Mode

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an agent reports of its own machine; None or nothing where it does not know.

    Attributes:
        machine: SHA-256 of the machine's id, which itself is nobody's business.
        disks: Size in bytes of the file system behind each configured path.
        agent: The release of lb-probe.
        software: The application's release, as its command printed it.
        config: SHA-256 of the group's configuration as the agent runs it.
        config_on_disk: The same of the file as it is now; another one was saved and not applied.
        is_clock_kept: Whether the system says that a time server keeps its clock.
        ssh_host_keys: SHA-256 fingerprints, as `ssh-keygen -l` prints them.
        destinations: Each configured one, and why it was not reached; nothing where it was.
        compared: SHA-256 of what each configured command printed; None where it failed.
        mode: What its own hastatus page says.
    """

    node: str
    hostname: str | None = None
    machine: str | None = None
    os: str | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    disks: Mapping[str, int | None] = field(default_factory=dict)
    agent: str | None = None
    software: str | None = None
    config: str | None = None
    config_on_disk: str | None = None
    is_clock_kept: bool | None = None
    ssh_host_keys: tuple[str, ...] = ()
    destinations: Mapping[str, str] = field(default_factory=dict)
    compared: Mapping[str, str | None] = field(default_factory=dict)
    mode: Mode | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two nodes are not as they should be to each other.

    Attributes:
        item: Its name, for example `memory` or `destination smtp.example.com:25`.
        kind: The rule's name, without what it is about: one of `KINDS`.
        severity: `error` or `warning`.
        ours: What is found here, in words.
        theirs: What the peer reports, in words.
        wanted: What should be, and what to do.
    """

    item: str
    kind: str
    severity: str
    ours: str
    theirs: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One item: which fact, when it is right, how bad it is otherwise, and what to do."""

    kind: str
    fact: str
    severity: str
    is_right: Callable[[object, object], bool]
    show: Callable[[object], str]
    wanted: str


# ------------------------------------------------------------------ what is right, and its words
def _same(ours: object, theirs: object) -> bool:
    return ours == theirs


def _apart(ours: object, theirs: object) -> bool:
    return ours != theirs


def _near(percent: float) -> Callable[[object, object], bool]:
    def near(ours: object, theirs: object) -> bool:
        assert isinstance(ours, int)
        assert isinstance(theirs, int)
        return abs(ours - theirs) * 100 <= percent * max(ours, theirs)

    return near


def _size(value: object) -> str:
    assert isinstance(value, int)
    return f"{value / 2**30:.2f} GiB"


def _short(value: object) -> str:
    """Show the beginning of a digest: enough to tell two of them apart."""
    return str(value)[:16]


# fmt: off
RULES = (
    #    kind            fact            severity  is right     shown as  wanted
    Rule("software",     "software",     ERROR,    _same,       str,      "the same release on both; upgrade one before the next sync"),
    Rule("config",       "config",       ERROR,    _same,       _short,   "one configuration on both; copy it and restart the agent"),
    Rule("hostname",     "hostname",     ERROR,    _apart,      str,      "a hostname for each; rename one"),
    Rule("machine",      "machine",      ERROR,    _apart,      _short,   "a machine id for each; a cloned machine needs `systemd-machine-id-setup`"),
    Rule("cpus",         "cpus",         WARNING,  _same,       str,      "as many processors on both"),
    Rule("memory",       "memory_bytes", WARNING,  _near(2),    _size,    "as much memory on both, within 2%"),
    Rule("os",           "os",           WARNING,  _same,       str,      "the same system on both"),
    Rule("agent",        "agent",        WARNING,  _same,       str,      "the same release of lb-probe on both"),
)
KINDS = (
    *(rule.kind for rule in RULES),
    "config-on-disk", "ssh-host-key", "disk", "destination", "compared", "clock-kept", "clock", "mode",
)
# fmt: on
# Facts that only a configured command tells: without one on either side there is nothing to say.
_OPTIONAL = frozenset({"software"})
_UNKNOWN = "not told"


def compare(ours: Facts, theirs: Facts) -> tuple[Difference, ...]:
    """Return every difference, errors first, in the order of the table."""
    found = [
        *_by_rule(ours, theirs),
        *_staged(ours, theirs),
        *_host_keys(ours, theirs),
        *_disks(ours, theirs),
        *_destinations(ours, theirs),
        *_commands(ours, theirs),
        *_clocks_kept(ours, theirs),
        *_modes(ours, theirs),
    ]
    return in_order(found)


def in_order(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return them with errors first, otherwise as they are."""
    return tuple(sorted(found, key=lambda one: one.severity != ERROR))


def _words(value: object, show: Callable[[object], str] = str) -> str:
    return _UNKNOWN if value is None else show(value)


def _by_rule(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    for rule in RULES:
        here, there = getattr(ours, rule.fact), getattr(theirs, rule.fact)
        if here is None and there is None and rule.fact in _OPTIONAL:
            continue
        is_told = here is not None and there is not None
        if is_told and rule.is_right(here, there):
            continue
        severity = rule.severity if is_told else WARNING
        shown = _words(here, rule.show), _words(there, rule.show)
        yield Difference(rule.kind, rule.kind, severity, *shown, rule.wanted)


def _staged(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    """Saved and applied are two steps, on both (R81)."""
    here, there = (facts.config != facts.config_on_disk for facts in (ours, theirs))
    if here or there:
        words = {True: "a file that changed since it was read", False: "applied"}
        wanted = "the file as it is running; restart the agent, or put the file back"
        shown = words[here], words[there]
        yield Difference("config-on-disk", "config-on-disk", WARNING, *shown, wanted)


def _host_keys(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    shared = sorted(set(ours.ssh_host_keys) & set(theirs.ssh_host_keys))
    if shared:
        wanted = "SSH host keys for each; a cloned machine needs new ones"
        yield Difference("ssh-host-key", "ssh-host-key", ERROR, shared[0], shared[0], wanted)


def _disks(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    near = _near(5)
    for path in sorted({*ours.disks, *theirs.disks}):
        here, there = ours.disks.get(path), theirs.disks.get(path)
        if here is None or there is None or not near(here, there):
            shown = _words(here, _size), _words(there, _size)
            wanted = "as large a file system on both, within 5%"
            yield Difference(f"disk {path}", "disk", WARNING, *shown, wanted)


def _destinations(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    """What the two reach; an unreachable one that both lack is told too, and milder (R8)."""
    for place in sorted({*ours.destinations, *theirs.destinations}):
        here, there = ours.destinations.get(place), theirs.destinations.get(place)
        if here == there == "":
            continue
        shown = (_reached(here), _reached(there))
        is_one_sided = "" in {here, there} and None not in {here, there}
        severity = ERROR if is_one_sided else WARNING
        wanted = "reached from both; open the way, or allow the address there"
        yield Difference(f"destination {place}", "destination", severity, *shown, wanted)


def _reached(failure: str | None) -> str:
    return "not asked" if failure is None else failure or "reached"


def _commands(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    for name in sorted({*ours.compared, *theirs.compared}):
        here, there = ours.compared.get(name), theirs.compared.get(name)
        if here is None or there is None or here != there:
            severity = WARNING if None in {here, there} else ERROR
            shown = _words(here, _short), _words(there, _short)
            wanted = "the same output on both; nothing copies this from one to the other"
            yield Difference(f"compared {name}", "compared", severity, *shown, wanted)


def _clocks_kept(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    """One that nothing keeps will drift away; not to know is common, and no difference (R11)."""
    if ours.is_clock_kept is False or theirs.is_clock_kept is False:
        words = {True: "kept by a time server", False: "kept by nobody", None: _UNKNOWN}
        shown = words[ours.is_clock_kept], words[theirs.is_clock_kept]
        wanted = "a clock that a time server keeps, on both"
        yield Difference("clock-kept", "clock-kept", WARNING, *shown, wanted)


def _modes(ours: Facts, theirs: Facts) -> Iterator[Difference]:
    if ours.mode is Mode.PRIMARY and theirs.mode is Mode.PRIMARY:
        wanted = "one Primary; decide which one survives before anything is synced"
        yield Difference("mode", "mode", ERROR, "Primary", "Primary", wanted)


def mode_lie(reported: Mode | None, page: Mode | None) -> Difference | None:
    """Return the difference between what a peer's agent says and what its page says to anybody.

    Args:
        page: None where the page was not read, UNKNOWN where it says none: nothing contradicts.
    """
    if page is None or page is Mode.UNKNOWN or reported is None or page is reported:
        return None
    wanted = "one word; trust neither until somebody has looked at the node"
    said = f"its agent says {reported.value}", f"its page says {page.value}"
    return Difference("mode", "mode", ERROR, *said, wanted)
