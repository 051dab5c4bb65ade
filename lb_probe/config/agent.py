"""The agent of a node in probes.yaml; each feature's own keys are in a module of theirs."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from lb_probe.config import values as v
from lb_probe.config.commands import Commands
from lb_probe.config.frozen import Frozen, key
from lb_probe.config.heartbeat import Heartbeat
from lb_probe.config.sync import Sync
from lb_probe.config.trust import Connectivity, Parity, Trust

_TYPE = "http, tcp, command, systemd, disk or process"


class _Check(Frozen):
    name: v.Name = key("name in metrics; TYPE-NUMBER when left out", "", validate_default=False)
    interval_s: v.Duration = key("between runs", "5s")
    timeout_s: v.Duration = key("the whole run", "2s")
    fall: v.CheckCount = key("failures in a row before it counts as failed", 3)
    rise: v.CheckCount = key("passes in a row before a failed one counts as good", 2)
    max_age_s: v.Duration = Field(
        default_factory=lambda data: 3.0 * (data.get("interval_s", 0) + data.get("timeout_s", 0)),
        validate_default=False,
        description="an older result is a failure; three times interval and timeout when left out",
    )
    pages: tuple[Literal["status", "hastatus"], ...] = key(
        "pages it decides", ("status", "hastatus")
    )
    informative: bool = key("true is shown and decides nothing", False)


class HttpCheck(_Check):
    """Passes when a url answers as expected."""

    type: Literal["http"] = key(_TYPE)
    url: v.CheckUrl = key('a url, e.g. "http://127.0.0.1:8081/health"')
    expect_status: v.HttpStatus = key("HTTP status that passes", 200)
    expect: v.Text | None = key("text that must be in the body", None)


class TcpCheck(_Check):
    """Passes when a TCP connection is accepted."""

    type: Literal["tcp"] = key(_TYPE)
    address: v.HostPort = key('host:port, e.g. "127.0.0.1:3306"')


class CommandCheck(_Check):
    """Passes when a program ends with 0; no shell reads the line."""

    type: Literal["command"] = key(_TYPE)
    argv: v.Argv = key('a list, program first, e.g. ["/usr/bin/systemctl", "is-active", "x"]')


class SystemdCheck(_Check):
    """Passes while systemd calls a unit active."""

    type: Literal["systemd"] = key(_TYPE)
    unit: v.Unit = key("a unit of systemd, e.g. postgresql.service")


class DiskCheck(_Check):
    """Passes while a file system has room and takes writes."""

    type: Literal["disk"] = key(_TYPE)
    path: v.FilePath = key("a path on the file system, e.g. /var/lib/app")
    min_free: v.Room = key('least room, as a share or a size, e.g. "10%" or "5GiB"', "5%")


class ProcessCheck(_Check):
    """Passes while processes of a program live."""

    type: Literal["process"] = key(_TYPE)
    program: v.Program = key("a file name without a folder, e.g. postgres")
    at_least: v.Count = key("how many there must be", 1)
    user: v.Name | None = key("whose processes count; everybody's when left out", None)


Check = Annotated[
    HttpCheck | TcpCheck | CommandCheck | SystemdCheck | DiskCheck | ProcessCheck,
    Field(discriminator="type"),
]
CHECKS: dict[str, type[BaseModel]] = {
    "http": HttpCheck,
    "tcp": TcpCheck,
    "command": CommandCheck,
    "systemd": SystemdCheck,
    "disk": DiskCheck,
    "process": ProcessCheck,
}


LASTING = Path("/var/lib/lb-probe")  # the StateDirectory of the units in docs/deploy
_RUNTIME = (Path("/run"), Path("/var/run"))


def _kept(control: Path, suffix: str) -> Path:
    """Return where something that must outlive a boot is kept when nobody says where."""
    beside = control.with_suffix(suffix)
    if any(beside.is_relative_to(folder) for folder in _RUNTIME):
        return LASTING / beside.name
    return beside


class Report(Frozen):
    """A listener beside the pages: what the agent knows, and its metrics."""

    listen: v.HostPort = key('host:port, e.g. "0.0.0.0:8081"')
    secret_file: v.FilePath | None = key("a file with a secret that signs the report", None)


class ControlOperator(Frozen):
    """Somebody on this machine, beside root and the agent's own user, who may use `control`."""

    user: v.Account | None = key("a user of this machine", None)
    group: v.Account | None = key("a group of this machine: everybody in it", None)
    role: Literal["viewer", "operator", "admin"] = key("viewer, operator or admin")


class AgentConfig(Frozen):
    """The agent of a node that lb-probe serves the pages for."""

    listen: v.HostPort = key('host:port of the two pages, e.g. "0.0.0.0:8080"')
    control: v.SocketPath = key("a path for the UNIX socket of its owner")
    operators: tuple[ControlOperator, ...] = key(
        "who else may use `control`; nobody when left out", ()
    )
    drain_s: v.ZeroDuration = key("pages say ERROR this long before a stop", "0s")
    state: v.FilePath = Field(
        default_factory=lambda data: _kept(data.get("control", Path("x")), ".state.json"),
        validate_default=False,
        description="where the mode is kept; NAME.state.json beside `control` when left out, and"
        f" in {LASTING} where that is lost at a boot",
    )
    checks: tuple[Check, ...] = key("what decides the pages", ())
    peer: v.Name | None = key(
        "its partner; the Primary, or the Primary's candidate, when left out", None
    )
    time_server: v.HostPort | None = key(
        'an NTP server that its clock is compared with, e.g. "ntp.example.com:123"', None
    )
    report: Report | None = key("where the prober and Prometheus may read what it knows", None)
    commands: Commands = key("programs that promote, demote, and admit clients", {})
    heartbeat: Heartbeat | None = key("how a Secondary watches its peer", None)
    sync: Sync | None = key("how a Standby copies from its peer", None)
    trust: Trust | None = key("how it talks with its peers", None)
    connectivity: Connectivity | None = key("what nodes must reach of each other", None)
    parity: Parity | None = key("what it and its peer must be alike in", None)

    @property
    def trust_folder(self) -> Path | None:
        """Where its key and its pins are kept; None without `trust`."""
        if self.trust is None:
            return None
        return self.trust.folder or _kept(self.control, ".trust")

    def history_of(self, name: str) -> Path | None:
        """Return where the syncs of this node are kept; None without `sync`."""
        if self.sync is None:
            return None
        return self.sync.history or self.state.with_name(f"{name}.sync.db")

    @field_validator("checks")
    @classmethod
    def _named(cls, checks: tuple[Check, ...]) -> tuple[Check, ...]:
        return tuple(
            check.model_copy(update={"name": check.name or f"{check.type}-{number}"})
            for number, check in enumerate(checks, 1)
        )
