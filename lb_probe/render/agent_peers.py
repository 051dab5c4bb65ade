"""What an agent says of its peers, as text: keys, directions, tests, differences.

Answers of the control socket in, lines out.
"""

from lb_probe.client import Json
from lb_probe.columns import table
from lb_probe.render.text import Look, dicts, mapping, plain

_LEVELS = {"ok": "good", "warning": "warn", "error": "bad", "failed": "bad"}
# What a person wants to see of a port, in this order; the rest is in `-o json`.
_FACTS = ("version", "subject", "notAfter", "banner", "host_key", "offset_s", "bound_s")


def status_lines(answer: Json, look: Look) -> list[str]:
    """Return the sections of `agent status` that are about peers; none where there are none."""
    lines = _trust_lines(mapping(answer.get("trust")), look)
    connection = mapping(answer.get("connection"))
    gate = mapping(connection.get("gate"))
    if gate:
        passed = gate.get("passed") is True
        mark = look.paint("[ok]" if passed else "[no]", "good" if passed else "bad")
        lines.append(f"  {mark} connection: {plain(gate.get('found'))}")
    parity = mapping(answer.get("parity"))
    if parity:
        lines += [f"  {line}" for line in _parity_lines(parity, look)]
    return ["", *lines] if lines else []


def _trust_lines(trust: Json, look: Look) -> list[str]:
    lines = []
    if trust.get("fault"):
        lines.append(look.paint(f"  trust cannot be used: {plain(trust['fault'])}", "bad"))
    for peer in dicts(trust.get("peers")):
        lines += [_way_line(way, look) for way in dicts(peer.get("ways"))]
        clock = mapping(peer.get("clock"))
        word = plain(clock.get("severity"))
        if word not in {"ok", "unknown"}:
            painted = look.paint(f"[{word}]", _LEVELS.get(word, "bad"))
            lines.append(f"  {painted} clock: {plain(clock.get('detail'))}")
    return lines


def _way_line(way: Json, look: Look) -> str:
    found = way.get("open")
    words = {True: ("[ok]", "good"), False: ("[no]", "bad"), None: ("[??]", "warn")}
    mark, level = words[found if isinstance(found, bool) else None]
    name = plain(way.get("way"))
    detail = f": {plain(way['detail']).removeprefix(f'{name}: ')}" if way.get("detail") else ""
    return f"  {look.paint(mark, level)} {name}{detail}"


# ------------------------------------------------------------------ trust
def trust_block(answer: Json, look: Look) -> list[str]:
    """Return our keys, every pin, and how each direction is."""
    lines = [
        f"{plain(answer.get('node'))}: {plain(answer.get('fingerprint'))}",
        *([f"next: {plain(answer['next'])}, not used yet"] if answer.get("next") else []),
    ]
    rows = [
        (
            plain(p.get("name")),
            plain(p.get("fingerprint")),
            look.time(p.get("since")),
            plain(p["by"]),
        )
        for p in dicts(answer.get("pins"))
    ]
    lines += ["", *table(("PEER", "FINGERPRINT", "SINCE", "BY"), rows, look.width)] if rows else []
    missing = answer.get("missing")
    lines += [
        look.paint(
            f"no key of {plain(name)}: lb-probe agent trust add FILE --fingerprint F", "warn"
        )
        for name in (missing if isinstance(missing, list) else [])
    ]
    return [*lines, *_trust_lines({"peers": answer.get("peers")}, look)]


# ------------------------------------------------------------------ the test of the connection
def test_block(answer: Json, look: Look) -> list[str]:
    """Return each direction with everything that was tried on it."""
    lines: list[str] = []
    for direction in dicts(answer.get("directions")):
        passed = direction.get("passed") is True
        word = look.paint("passed" if passed else "FAILED", "good" if passed else "bad")
        lines.append(f"{plain(direction.get('way'))}: {word} at {look.time(direction.get('at'))}")
        lines += [line for item in dicts(direction.get("items")) for line in _item(item, look)]
    if answer.get("detail"):
        lines.append(look.paint(plain(answer["detail"]), "bad"))
    lines.append("Test was successful" if answer.get("passed") is True else "Test FAILED")
    return lines


def _item(item: Json, look: Look) -> list[str]:
    verdict, facts = plain(item.get("verdict")), mapping(item.get("facts"))
    mark = look.paint(f"[{verdict}]", _LEVELS.get(verdict, "bad"))
    kind = f" ({plain(facts['kind'])})" if facts.get("kind") else ""
    told = ", ".join(f"{key} {plain(facts[key])}" for key in _FACTS if facts.get(key))
    first = f"  {mark} {plain(item.get('name'))}{kind}{': ' + told if told else ''}"
    return [first, *([f"       {plain(item['detail'])}"] if item.get("detail") else [])]


# ------------------------------------------------------------------ parity
def parity_block(answer: Json, look: Look) -> list[str]:
    """Return every difference from the peer, the worst first."""
    head = f"{plain(answer.get('node'))} and {plain(answer.get('peer'))}"
    return [head, *_parity_lines(answer, look)]


def _parity_lines(parity: Json, look: Look) -> list[str]:
    differences = dicts(parity.get("differences"))
    lines = []
    if parity.get("detail"):
        lines.append(look.paint(f"not compared: {plain(parity['detail'])}", "warn"))
    elif not differences:
        lines.append("no difference")
    for one in differences:
        severity = plain(one.get("severity"))
        mark = look.paint(f"[{severity}]", _LEVELS.get(severity, "bad"))
        sides = f"{plain(one.get('ours'))} here, {plain(one.get('theirs'))} there"
        lines.append(f"{mark} {plain(one.get('item'))}: {sides}; wanted {plain(one.get('wanted'))}")
    return lines
