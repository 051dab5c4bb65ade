"""Rules of adapters that move a DNS name, and of the nodes behind it; part of the third pass."""

from collections.abc import Callable, Iterable

from lb_probe.config.address import Address, Url
from lb_probe.config.source import Spot, shown
from lb_probe.config.values import (
    parse_dns_name,
    parse_dns_server,
    parse_path,
    parse_record_value,
    parse_tsig_key,
)


def judge(adapters: list[Spot], nodes: list[Spot]) -> None:
    """Note every fault of adapters of type dns, and of nodes that are reached by a moved name."""
    ours = [adapter for adapter in adapters if adapter.at("type").text == "dns"]
    for adapter in ours:
        _judge_record(adapter)
        servers, values = adapter.at("servers"), adapter.at("nodes").items()
        if servers.value == ():
            servers.fault("an empty list", "at least one authoritative server, the primary first")
        _judge_values(adapter, values)
        _unique([one for value in _sites(values) for one in _ones(value)], "an address", _value)
    _unique([s for a in ours for s in a.items("servers")], "a record or server", _moves)
    moved = {name: a for a in reversed(ours) if (name := a.at("record").parsed(parse_dns_name))}
    for node in nodes:
        _judge_url(node.at("url"), moved)


def judge_key(file: Spot) -> None:
    """Note a key file that holds no key; one that cannot be read is told elsewhere."""
    path = file.parsed(lambda text: parse_path(text, file.source.folder))
    try:
        text = path.read_text(errors="replace") if path is not None and path.is_file() else ""
    except OSError:
        return
    try:
        if text.strip():
            parse_tsig_key(text)
    except ValueError as error:
        file.fault(f"no key in {shown(file.text)}", str(error))


def _judge_url(url: Spot, moved: dict[str, Spot]) -> None:
    parsed = url.parsed(Url.parse_any)
    if parsed is not None and (adapter := moved.get(parsed.host)) is not None:
        found = f"{shown(url.text)}, the name that adapter {adapter.at('name').text} moves"
        url.fault(found, "the node's own address: by that name whoever has the traffic answers")


def _judge_record(adapter: Spot) -> None:
    record, zone = (adapter.at(key).parsed(parse_dns_name) for key in ("record", "zone"))
    if record is not None and zone is not None and not f".{record}".endswith(f".{zone}"):
        spot = adapter.at("record")
        spot.fault(shown(spot.text), f"a name in zone {zone}")


def _judge_values(adapter: Spot, values: list[Spot]) -> None:
    """All nodes have the same kinds of record: one that a move takes away is missed for long."""
    is_alias, first = adapter.at("cname").value is True, frozenset[str]()
    for value in values:
        kinds, found = _kinds(value), shown(value.value)
        if not kinds:
            continue  # told already
        if is_alias:
            if kinds != {"name"} or len(_ones(value)) > 1:
                value.fault(found, "one host name, as cname is true")
        elif "name" in kinds:
            value.fault(found, "IP addresses, or cname: true")
        elif kinds != (first := first or kinds):
            value.fault(found, f"{' and '.join(sorted(first))}, as the nodes before it have")


def _sites(values: list[Spot]) -> list[Spot]:
    """Return one of those that are the same: nodes of one site share it, where there is another."""
    first = {frozenset(map(_value, _ones(value))): value for value in reversed(values)}
    return list(first.values())[::-1] if len(first) > 1 else values


def _ones(value: Spot) -> list[Spot]:
    return value.items() if isinstance(value.value, tuple) else [value]


def _value(one: Spot) -> str | None:
    return one.parsed(parse_record_value)


def _kinds(value: Spot) -> frozenset[str]:
    """Return what a node's values are: IPv4, IPv6, name; empty where that cannot be told."""
    hosts = [_value(one) for one in _ones(value)]
    addresses = [Address(host, 53).ip for host in hosts if host is not None]
    if len(addresses) < len(hosts):
        return frozenset()
    return frozenset("name" if ip is None else f"IPv{ip.version}" for ip in addresses)


def _moves(server: Spot) -> str | None:
    """Return what is moved there; one name may be moved on several servers, for several views."""
    adapter = server.source.at(server.where[:-2])
    record, place = adapter.at("record").parsed(parse_dns_name), server.parsed(parse_dns_server)
    return None if record is None or place is None else f"{record} at {place}"


def _unique(spots: Iterable[Spot], what: str, key: Callable[[Spot], str | None]) -> None:
    first: dict[str, Spot] = {}
    for spot in spots:
        text = key(spot)
        if text is not None and (before := first.setdefault(text, spot)) is not spot:
            spot.fault(f"{shown(text)} again, first on line {before.line}", f"{what} of its own")
