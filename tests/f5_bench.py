"""Adapters of F5 for an emulated BIG-IP, with what they need closed behind them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator import Emulator

from lb_probe.adapters.f5_gtm import F5Gtm
from lb_probe.adapters.f5_ltm import F5Ltm
from lb_probe.adapters.icontrol import Unit, Units
from lb_probe.clock import SystemClock
from lb_probe.prober.http_probe import make_ssl_context

POOL = "/Common/epmm"
NODES = {"epmm-a": "/Common/192.0.2.10:443", "epmm-b": "/Common/192.0.2.11:443"}
SITES = {"epmm-a": "/Common/dc-a:vs1", "epmm-b": "/Common/dc-b:vs1"}
MEMBERS = ("192.0.2.10:443", "192.0.2.11:443")


class Bench:
    """Makes units and adapters; an async context manager that closes them all."""

    def __init__(self, emulator: Emulator, folder: Path, timeout_s: float = 2.0) -> None:
        self.emulator = emulator
        self.password_file = folder / "f5.pass"
        self.password_file.write_text(emulator.password + "\n")
        self.password_file.chmod(0o600)
        self.timeout_s = timeout_s
        self._made: list[Any] = []

    async def __aenter__(self) -> "Bench":
        return self

    async def __aexit__(self, *_: object) -> None:
        for made in self._made:
            with contextlib.suppress(Exception):
                await made.close()

    def unit(self, which: int, **more: Any) -> Unit:
        values = {"username": self.emulator.user, "password_file": self.password_file}
        values |= {"now": SystemClock().monotonic, "timeout_s": self.timeout_s} | more
        values.setdefault("tls", make_ssl_context(self.emulator.ca_file, "127.0.0.1"))
        made = Unit(self.emulator.urls[which], **values)
        self._made.append(made)
        return made

    def units(self, device_group: str = "", **more: Any) -> Units:
        made = Units([self.unit(at, **more) for at in range(len(self.emulator.urls))], device_group)
        self._made.insert(0, made)
        return made

    def ltm(self, nodes: Mapping[str, str] = NODES, pool: str = POOL, **more: Any) -> F5Ltm:
        group = "dg1" if len(self.emulator.urls) > 1 else ""
        units = more.pop("units", None) or self.units(more.pop("device_group", group), **more)
        return F5Ltm("bigip", units, pool, nodes)

    def gtm(self, nodes: Mapping[str, str] = SITES, pool: str = POOL, **more: Any) -> F5Gtm:
        return F5Gtm("gslb", self.units(**more), pool, nodes)


def segment(name: str) -> str:
    """Return a full path as one segment of an address."""
    return name.replace("%", "%25").replace("/", "~")
