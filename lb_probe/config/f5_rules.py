"""Rules of adapters that move traffic on a BIG-IP; part of the third pass."""

from lb_probe.config.source import Spot, shown
from lb_probe.config.values import parse_f5_host

KINDS = ("f5-ltm", "f5-gtm")


def judge(adapters: list[Spot]) -> None:
    """Note every fault of adapters of the two types of F5."""
    ours = [adapter for adapter in adapters if adapter.at("type").text in KINDS]
    moved: dict[str, Spot] = {}
    for adapter in ours:
        if adapter.at("hosts").value == ():
            adapter.at("hosts").fault("an empty list", "every unit, e.g. [https://10.0.0.5]")
        hosts: dict[str, Spot] = {}
        for host in _hosts(adapter):
            place = host.parsed(lambda text: str(parse_f5_host(text)))
            if place is None:
                continue
            if hosts.setdefault(place, host) is not host:
                host.fault(f"{shown(host.text)} again", "each unit once")
            what = " ".join(str(adapter.at(key).text) for key in ("type", "pool_type", "pool"))
            other = moved.setdefault(f"{what} {place}", adapter)
            if other is not adapter:
                pool = adapter.at("pool")
                found = f"{shown(pool.text)} again, first on line {other.at('pool').line}"
                pool.fault(found, "a pool of its own")
                break


def _hosts(adapter: Spot) -> list[Spot]:
    hosts = adapter.at("hosts")
    return hosts.items() if isinstance(hosts.value, tuple) else [hosts]
