"""probes.yaml, read whole and checked before anything starts; `docs/configuration.md` is its page.

Three passes, so that every mistake is reported at once and at its line: the text becomes plain
data with a place for every value; pydantic judges each value; rules that span several values are
judged on the plain data, because one bad value must not hide a second primary.

ConfigError    probes.yaml cannot be used; lists every fault
"""

import difflib
import hashlib
import ipaddress
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from lb_probe.core.model import Group, Node, Role

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16  # the deepest valid file has nine levels
MAX_VALUES = 100_000  # some 2,500 groups
VERSION = 1
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads seven times faster

Where = tuple[str | int, ...]
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]|([^:\[\]]+)):([0-9]{1,5})")
_DURATION = re.compile(r"(-?[0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ConfigError(Exception):
    """probes.yaml cannot be used.

    Attributes:
        faults: Every mistake, in the order of the file, as
            `FILE:LINE:COL: error: PATH: found X; use Y`.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


# ------------------------------------------------------------------ single values
@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or an address, IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `host:port` or `[v6]:port`.

        Raises:
            ValueError: It is neither; the text says what to use.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or not 1 <= int(match[3]) <= 65535:
            raise ValueError(
                'host:port with a port from 1 to 65535, e.g. "127.0.0.1:8080" or "[::1]:8080"'
            )
        return cls(_host(match[1] or match[2]), int(match[3]))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None where it is a name."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return None
        return getattr(address, "ipv4_mapped", None) or address

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or bool(self.ip and self.ip.is_loopback)


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https address; `target` is path and query, empty for a node's url."""

    scheme: str
    host: str
    port: int
    target: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}{self.target}"

    @property
    def address(self) -> Address:
        """Host and port, whatever the scheme."""
        return Address(self.host, self.port)


def _host(text: str) -> str:
    """Return a host in its one spelling; ValueError says what to use."""
    host = text.lower()
    try:
        if ":" in host:
            return str(ipaddress.IPv6Address(host))
        # A resolver reads 2852039166 and 0xa9fea9fe as addresses; we take four decimals only.
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise ValueError("an IP address such as 192.0.2.10, or a host name") from None
    if not _HOST.fullmatch(host):
        raise ValueError("a host name of letters, digits, dots and hyphens, or an IP address")
    return host


def _url(text: str) -> Url:
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in {"http", "https"}:
        raise ValueError('http:// or https://, e.g. "https://192.0.2.10"')
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    target = rest[len(authority) :]
    if "@" in authority:
        raise ValueError("a url without user and password")
    if not re.fullmatch(r"[!-\"$-~]*", target):
        raise ValueError("a url of printable ASCII characters, without '#'")
    port = "" if re.search(r":[0-9]*$", authority) else ":443" if scheme == "https" else ":80"
    address = Address.parse(authority + port)
    if address.ip is not None and address.ip.is_link_local:
        # A cloud's metadata service lives there; a health probe never does (SSRF).
        raise ValueError("an address outside 169.254.0.0/16 and fe80::/10")
    return Url(scheme, address.host, address.port, target)


def _node_url(text: str) -> Url:
    url = _url(text)
    if url.target:
        use = text[: len(text) - len(url.target)]
        raise ValueError(f'"{use}" alone; paths belong in status_path and hastatus_path')
    return url


def _seconds(value: object, least_s: float = 0.01) -> float:
    """Return a duration such as 250ms in seconds; ValueError says what to use."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'a unit, e.g. "{value if value > 0 else 1}s"')
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a number and a unit (ms, s, m, h or d), e.g. "1s"')
    number = float(match[1])
    seconds = number / 1000 if match[2] == "ms" else number * _SECONDS[match[2]]
    if not least_s <= seconds <= 86400:
        raise ValueError(f"{'10ms' if least_s else '0s'} to 1d")
    return seconds


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("1 to 128 of the characters A-Z a-z 0-9 _ . : -")
    return text


def _path(text: str, folder: Path) -> Path:
    if not text or not text.isprintable() or text.startswith("~"):
        raise ValueError("a path; a relative one starts at this file's folder, ~ is not expanded")
    return folder / text


def _socket_path(text: str, folder: Path) -> Path:
    path = _path(text, folder)
    if len(os.fsencode(path)) > 107:
        raise ValueError("a shorter path: the system allows 107 bytes for a UNIX socket")
    return path


def _store(text: str, folder: Path) -> Path:
    scheme, _, path = text.partition(":")
    if scheme != "sqlite" or not path:
        raise ValueError("sqlite:PATH, e.g. sqlite:/var/lib/lb-probe/state.db")
    return _path(path, folder)


def _haproxy_socket(text: str, folder: Path) -> Path | Address:
    if re.match(r"(unix|abns|ipv4|ipv6|fd|tcp)[@:]", text):
        raise ValueError('the path or host:port alone, e.g. "/run/haproxy/admin.sock"')
    return Address.parse(text) if "/" not in text and ":" in text else _socket_path(text, folder)


def _target(text: str) -> Address:
    if not text.startswith("tcp://"):
        raise ValueError('tcp://host:port, e.g. "tcp://192.0.2.1:443"')
    return Address.parse(text.removeprefix("tcp://"))


def _page_path(text: str) -> str:
    if not re.fullmatch(r"/[!-\"$-~]*", text):
        raise ValueError("a path that starts with / and has no spaces and no '#'")
    return text


def _nonempty(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("text that is not empty")
    return text


def _program(value: object) -> tuple[str, ...]:
    if not isinstance(value, tuple) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError('a list of texts, program first, e.g. ["/usr/bin/systemctl", "is-active"]')
    program = _nonempty(value[0])
    if "/" in program and not program.startswith("/"):
        raise ValueError("an absolute path or a bare name as the program")
    if any("\0" in argument for argument in value):
        raise ValueError("arguments without NUL characters")
    return value


@dataclass(frozen=True, eq=False)
class _Leaf:
    """How pydantic reads one kind of value, and how the JSON schema describes it."""

    parse: Callable[[object, Path], object]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Any:
        return core_schema.with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, core: object, handler: object) -> dict[str, Any]:
        return dict(self.schema)

    def _validate(self, value: object, info: core_schema.ValidationInfo) -> object:
        try:
            return self.parse(value, (info.context or {}).get("folder", Path()))
        except ValueError as error:
            raise PydanticCustomError("use", "{use}", {"use": str(error)}) from None


def _text(parse: Callable[..., object], pattern: str = "", *, folder: bool = False) -> _Leaf:
    def read(value: object, start: Path) -> object:
        if not isinstance(value, str):
            raise ValueError("text; put quotes around it")
        return parse(value, start) if folder else parse(value)

    return _Leaf(read, {"type": "string", **({"pattern": pattern} if pattern else {})})


def _whole(least: int, most: int) -> _Leaf:
    def read(value: object, _: Path) -> object:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return _Leaf(read, {"type": "integer", "minimum": least, "maximum": most})


_TIME = {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h|d)$"}
Duration = Annotated[float, _Leaf(lambda value, _: _seconds(value), _TIME)]
ZeroDuration = Annotated[float, _Leaf(lambda value, _: _seconds(value, 0.0), _TIME)]
Count = Annotated[int, _whole(1, 1000)]
CheckCount = Annotated[int, _whole(1, 100)]
HttpStatus = Annotated[int, _whole(100, 599)]
Name = Annotated[str, _text(_name, r"^[A-Za-z0-9_.:-]{1,128}$")]
Text = Annotated[str, _text(_nonempty)]
Host = Annotated[str, _text(_host)]
PagePath = Annotated[str, _text(_page_path, "^/")]
FilePath = Annotated[Path, _text(_path, folder=True)]
SocketPath = Annotated[Path, _text(_socket_path, folder=True)]
StorePath = Annotated[Path, _text(_store, "^sqlite:.", folder=True)]
HostPort = Annotated[Address, _text(Address.parse, ":[0-9]{1,5}$")]
Target = Annotated[Address, _text(_target, "^tcp://.*:[0-9]{1,5}$")]
NodeUrl = Annotated[Url, _text(_node_url, "^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+$")]
CheckUrl = Annotated[Url, _text(_url, "^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+")]
Argv = Annotated[
    tuple[str, ...],
    _Leaf(
        lambda value, _: _program(value),
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ),
]
Socket = Annotated[Path | Address, _text(_haproxy_socket, folder=True)]
Gate = Literal["primary-serving", "single-primary", "synced", "same-version", "adapters-reachable"]


def _role(text: str) -> Role:
    if text not in {role.value for role in Role}:
        raise ValueError("primary or secondary")
    return Role(text)


NodeRole = Annotated[Role, _Leaf(_text(_role).parse, {"enum": [role.value for role in Role]})]


def _key(about: str, default: Any = ..., *, key: str | None = None, shown: Any = None) -> Any:
    """Return a pydantic field: what it is for, its default, its name in YAML.

    Args:
        about: For the editor's tooltip; for a required key also what a fault tells to use.
        shown: The default as the file would spell it.
    """
    extra = None if shown is None else {"default": shown}
    return Field(default=default, alias=key, description=about, json_schema_extra=extra)


def _wait(key: str, default: str, about: str) -> Any:
    """Return a field that holds seconds and is spelled as a duration."""
    return _key(about, _seconds(default, 0.0), key=key, shown=default)


# ------------------------------------------------------------------ the file, as frozen values
class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Operator(_Frozen):
    """Somebody who may use the operator API over TCP."""

    name: Name = _key("a name, as the history shows it")
    role: Literal["viewer", "operator", "admin"] = _key("viewer, operator or admin")
    token_file: FilePath = _key("a file that holds the token, not readable by others")


class Api(_Frozen):
    """Where the operator API and the web page listen."""

    socket: SocketPath | None = _key("UNIX socket; root and the service's user need no token", None)
    listen: HostPort | None = _key("address on loopback", None)
    operators: tuple[Operator, ...] = _key("who may use it over TCP", (), shown=[])


class Metrics(_Frozen):
    """Where /metrics, /livez and /readyz are served."""

    listen: HostPort = _key('host:port, e.g. "127.0.0.1:9600"')


class Limits(_Frozen):
    """Ceilings over all groups."""

    failovers_per_minute: Count | None = _key("automatic failovers per minute; null is off", None)


class ProbeSettings(_Frozen):
    """How the pages of a group's nodes are probed; seconds."""

    interval_s: Duration = _wait("interval", "1s", "between probes while the last one passed")
    recheck_s: Duration = _wait("recheck", "250ms", "after a failed one, until `fall` or a pass")
    timeout_s: Duration = _wait("timeout", "1s", "the whole attempt: name, connect, TLS, body")
    fall: Count = _key("failures in a row before a page counts as failed", 3)
    rise: Count = _key("passes in a row before a failed page counts as good", 2)
    max_age_s: Duration = _wait("max_age", "3s", "an older reading supports no decision")
    connection: Literal["fresh"] = _key("a new connection for every probe", "fresh")


class Defaults(_Frozen):
    """What groups inherit."""

    probe: ProbeSettings = _key("probe settings of every group", ProbeSettings(), shown={})


class Promotion(_Frozen):
    """How the Secondary promotes itself: EPMM's own settings, for the race lint only; seconds."""

    interval_s: Duration = _key('a duration, e.g. "60s"', key="interval")
    failures: Count = _key("a whole number, e.g. 3")
    recheck_s: Duration = _key('a duration, e.g. "10s"', key="recheck")
    timeout_s: Duration = _key('a duration, e.g. "5s"', key="timeout")
    on_failure: Literal["promote", "keep-in-standby"] = _key("what it then does", "promote")


class Resume(_Frozen):
    """What must hold before an operator may resume traffic."""

    require: tuple[Gate, ...] = _key(
        "gates beyond those that always apply",
        ("primary-serving", "single-primary", "synced"),
        shown=["primary-serving", "single-primary", "synced"],
    )


class Tls(_Frozen):
    """How an https node proves itself."""

    server_name: Host | None = _key("name in the certificate; the url's host when left out", None)
    ca_file: FilePath | None = _key("PEM file; the system's authorities when left out", None)


def _check_age(data: dict[str, Any]) -> float:
    return 3.0 * float(data.get("interval_s", 0.0) + data.get("timeout_s", 0.0))


class _Check(_Frozen):
    name: Name = _key("name in metrics; TYPE-NUMBER when left out", "")
    interval_s: Duration = _wait("interval", "5s", "between runs")
    timeout_s: Duration = _wait("timeout", "2s", "the whole run")
    fall: CheckCount = _key("failures in a row before it counts as failed", 3)
    rise: CheckCount = _key("passes in a row before a failed one counts as good", 2)
    max_age_s: Duration = Field(
        default_factory=_check_age,
        alias="max_age",
        description="an older result is a failure; three times interval and timeout when left out",
    )
    pages: tuple[Literal["status", "hastatus"], ...] = _key(
        "pages it decides", ("status", "hastatus"), shown=["status", "hastatus"]
    )


class HttpCheck(_Check):
    """Passes when a url answers as expected."""

    type: Literal["http"] = _key("http, tcp or command")
    url: CheckUrl = _key('a url, e.g. "http://127.0.0.1:8081/health"')
    expect_status: HttpStatus = _key("HTTP status that passes", 200)
    expect: Text | None = _key("text that must be in the body", None)


class TcpCheck(_Check):
    """Passes when a TCP connection is accepted."""

    type: Literal["tcp"] = _key("http, tcp or command")
    address: HostPort = _key('host:port, e.g. "127.0.0.1:3306"')


class CommandCheck(_Check):
    """Passes when a program ends with 0; no shell reads the line."""

    type: Literal["command"] = _key("http, tcp or command")
    argv: Argv = _key('a list, program first, e.g. ["/usr/bin/systemctl", "is-active", "x"]')


Check = Annotated[HttpCheck | TcpCheck | CommandCheck, Field(discriminator="type")]
CHECKS: dict[str, type[BaseModel]] = {"http": HttpCheck, "tcp": TcpCheck, "command": CommandCheck}


def _state_file(data: dict[str, Any]) -> Path:
    control: Path = data.get("control", Path("agent"))
    return control.with_suffix(".state.json")


class AgentConfig(_Frozen):
    """The agent of a node that lb-probe serves the pages for."""

    listen: HostPort = _key('host:port of the two pages, e.g. "0.0.0.0:8080"')
    control: SocketPath = _key("a path for the UNIX socket of its owner")
    drain_s: ZeroDuration = _wait("drain", "0s", "pages say ERROR this long before a stop")
    state: FilePath = Field(
        default_factory=_state_file,
        description="where the mode is kept; beside `control`, as NAME.state.json, when left out",
    )
    checks: tuple[Check, ...] = _key("what decides the pages", (), shown=[])

    @field_validator("checks")
    @classmethod
    def _named(cls, checks: tuple[Check, ...]) -> tuple[Check, ...]:
        return tuple(
            check.model_copy(update={"name": check.name or f"{check.type}-{number}"})
            for number, check in enumerate(checks, 1)
        )


class NodeConfig(_Frozen):
    """One server that serves the two pages."""

    name: Name = _key("a name that is the only one in its group")
    role: NodeRole = _key("primary or secondary")
    site: Name | None = _key("where it stands; shown only", None)
    url: NodeUrl = _key('scheme, host and port of the pages, e.g. "https://192.0.2.10"')
    tls: Tls | None = _key("for https", None)
    candidate: bool = _key("the one secondary automation may choose; the only one is", False)
    status_path: PagePath = _key("page that tells whether it serves", "/status/status.html")
    hastatus_path: PagePath = _key("page that tells its mode", "/hastatus.html")
    primary_accept_suffix: bool = _key("take status text with more behind OK", False)
    agent: AgentConfig | None = _key("only where lb-probe serves the pages", None)


class HaproxyAdapter(_Frozen):
    """One HAProxy, told over its runtime socket."""

    type: Literal["haproxy"] = _key("haproxy")
    name: Name = _key("a name that is the only one in its group")
    style: Literal["server"] = _key("sets the state of the servers of one backend", "server")
    socket: Socket = _key('a path or host:port, e.g. "/run/haproxy/admin.sock"')
    backend: Name = _key("the backend whose servers are set")
    nodes: dict[str, Name] = _key("a mapping of our node names to HAProxy's server names")

    @property
    def moves(self) -> tuple[str, ...]:
        """What it moves: no two adapters may move the same."""
        return (str(self.socket), self.backend)


# A second type makes this `Annotated[HaproxyAdapter | Other, Field(discriminator="type")]`.
Adapter = HaproxyAdapter
ADAPTERS = ("haproxy",)


class GroupConfig(_Frozen):
    """The nodes that share one service name, and the load balancers in front of them."""

    name: Name = _key("a name that is the only one in the file")
    was: Name | None = _key("its name before it was renamed", None)
    policy: Literal["manual-resume"] = _key("traffic comes back by hand only", "manual-resume")
    act: bool = _key("true to publish, or false to observe only; it has no default")
    confirm_s: Duration = _wait("confirm", "10s", "the Primary must have failed this long")
    serving_deadline_s: Duration = _wait("serving_deadline", "60s", "a node may take to serve")
    probe: ProbeSettings = _key("probe settings of this group", ProbeSettings(), shown={})
    promotion: Promotion | None = _key("how the Secondary promotes itself", None)
    resume: Resume = _key("what resume demands", Resume(), shown={})
    nodes: tuple[NodeConfig, ...] = _key("a list with one primary and at least one secondary")
    adapters: tuple[Adapter, ...] = _key("load balancers that carry the assignment", (), shown=[])

    @field_validator("nodes")
    @classmethod
    def _with_candidate(cls, nodes: tuple[NodeConfig, ...]) -> tuple[NodeConfig, ...]:
        secondaries = [node for node in nodes if node.role is Role.SECONDARY]
        if len(secondaries) != 1:
            return nodes
        return tuple(n.model_copy(update={"candidate": n is secondaries[0]}) for n in nodes)

    @property
    def resume_require(self) -> tuple[str, ...]:
        """Gates of resume beyond those that always apply."""
        return self.resume.require

    @property
    def shape(self) -> Group:
        """The group as the core knows it."""
        return Group(
            name=self.name,
            nodes=tuple(Node(n.name, n.role, n.candidate) for n in self.nodes),
            act=self.act,
            adapters=tuple(adapter.name for adapter in self.adapters),
            fall=self.probe.fall,
            rise=self.probe.rise,
            confirm_s=self.confirm_s,
            max_age_s=self.probe.max_age_s,
            serving_deadline_s=self.serving_deadline_s,
            require=self.resume_require,
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what a saved assignment relies on; the order in the file does not count."""
        nodes = [[n.name, n.role.value, str(n.url.address), n.candidate] for n in self.nodes]
        adapters = [[a.name, a.type, a.moves, sorted(a.nodes.items())] for a in self.adapters]
        text = json.dumps([sorted(nodes), sorted(adapters)], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class Config(_Frozen):
    """Everything probes.yaml says, defaults filled in, paths absolute."""

    version: Literal[1] = _key("1")
    store_path: StorePath = _key(
        "where every group's assignment is kept",
        Path("/var/lib/lb-probe/state.db"),
        key="store",
        shown="sqlite:/var/lib/lb-probe/state.db",
    )
    api: Api | None = _key("operator API and web page", None)
    metrics: Metrics | None = _key("metrics and health of the prober", None)
    reference_targets: tuple[Target, ...] = _key(
        "should always answer: all silent means it is us", (), shown=[]
    )
    limits: Limits = _key("ceilings over all groups", Limits(), shown={})
    defaults: Defaults = _key("what groups inherit", Defaults(), shown={})
    groups: tuple[GroupConfig, ...] = _key("a list of groups, at least one")
    _path: Path = PrivateAttr(default=Path("probes.yaml"))

    @field_validator("groups")
    @classmethod
    def _inherit(
        cls, groups: tuple[GroupConfig, ...], info: ValidationInfo
    ) -> tuple[GroupConfig, ...]:
        defaults: Defaults = info.data.get("defaults", Defaults())
        inherited = _said(defaults.probe)
        return tuple(
            g.model_copy(
                update={"probe": g.probe.model_copy(update={**inherited, **_said(g.probe)})}
            )
            for g in groups
        )

    def model_post_init(self, context: Any, /) -> None:
        """Remember the file's path as it was given."""
        self._path = (context or {}).get("path", self._path)

    @property
    def path(self) -> Path:
        """The file, as it was given to `load`."""
        return self._path


def _said(settings: ProbeSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _keys(models: Iterable[type[BaseModel]], where: tuple[str, ...]) -> Iterator[Any]:
    fields: dict[str, FieldInfo] = {}
    for model in models:
        fields |= {f.alias or name: f for name, f in model.model_fields.items()}
    yield where, fields
    for key, field in fields.items():
        if inner := list(_models(field.annotation)):
            yield from _keys(inner, (*where, key))


# Every mapping of the file, by the keys that lead to it, and the keys it knows.
KEYS: dict[tuple[str, ...], dict[str, FieldInfo]] = dict(_keys([Config], ()))


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 7) of probes.yaml, for editors."""
    schema = Config.model_json_schema(ref_template="#/definitions/{model}")
    schema["definitions"] = schema.pop("$defs")
    plain: dict[str, Any] = _draft7(schema)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **plain, "title": "probes.yaml"}


def _draft7(node: Any) -> Any:
    """Wrap references that have company: draft 7 would ignore the company."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _draft7(value) for key, value in node.items() if key != "discriminator"}
    if "$ref" in plain and len(plain) > 1:
        plain["allOf"] = [{"$ref": plain.pop("$ref")}]
    return plain


# ------------------------------------------------------------------ first pass: text to data
# What some YAML tools (1.1, or 1.2) read as something else than the text that stands there.
_SURPRISES = re.compile(
    r"(?P<bool>(?i:y|yes|on|n|no|off))"
    r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[-+]?0[0-9_]+|[-+]?0o[0-7]+|[-+]?0x[0-9a-fA-F_]+|[-+]?0b[01_]+"
    r"|[-+]?[0-9][0-9.]*_[0-9_.]*"
    r"|[-+]?(\.[0-9]|[0-9])[0-9.]*[eE][-+]?[0-9]+"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"
)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _surprise(text: str) -> str | None:
    """Return what other tools would read where we read text; None where all agree."""
    match = _SURPRISES.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        return None
    try:
        reading = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError):
        reading = text
    if match["bool"]:
        return "true" if text.lower() in {"y", "yes", "on"} else "false"
    if isinstance(reading, int | float):
        return str(reading)
    return "a number" if isinstance(reading, str) else "a date"


def _plain(text: str) -> object:
    """Return the value of a scalar without quotes, by YAML 1.2's rules."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if len(text) < 40 and _FLOAT.fullmatch(text) else text


def _shown(value: object) -> str:
    """Return a value as a fault names it: one line, short, without a url's password."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = re.sub(r"//[^/]*@", "//***@", value)
        text = text if len(text) <= 200 else text[:197] + "..."
        return json.dumps(text, ensure_ascii=not text.isprintable())
    if isinstance(value, tuple):
        return "a list" if value else "an empty list"
    return "a mapping" if isinstance(value, dict) else str(value)


class _Unreadable(Exception):
    """The text ends the reading; its fault is already noted."""


class _Source:
    """The file: its data, the place of every value, and the faults found so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = _folder(path)
        self.data: object = None
        self._marks: dict[Where, tuple[int, int]] = {}
        self._key_marks: dict[Where, tuple[int, int]] = {}
        self._settled: set[Where] = set()
        self._faults: list[tuple[tuple[int, int], Where, str, str]] = []

    @property
    def faults(self) -> tuple[str, ...]:
        """Every fault, in the order of the file."""
        # Names are put in here, when all of them are read.
        lines = {
            (mark, f"{self._named(where)}: found {found}; use {use}")
            for mark, where, found, use in self._faults
        }
        return tuple(f"{self.path}:{n}:{c}: error: {text}" for (n, c), text in sorted(lines))

    def note(self, mark: tuple[int, int], where: Where, found: str, use: str) -> None:
        """Note a fault at a line and column."""
        self._faults.append((mark, where, found, use))

    def settle(self, where: Where) -> None:
        """Say no more of this value and of what it holds."""
        self._settled.add(where)

    def fault(
        self, where: Where, found: str, use: str, *, at_key: bool = False, settle: bool = False
    ) -> None:
        """Note a fault of a value.

        Args:
            at_key: Point at the key, not at its value.
            settle: Nothing more is to be said of this value and what it holds.
        """
        if any(where[:end] in self._settled for end in range(len(where) + 1)):
            return
        if settle:
            self._settled.add(where)
        mark = self._key_marks.get(where) if at_key else None
        self.note(mark or self.mark(where), where, found, use)

    def mark(self, where: Where) -> tuple[int, int]:
        """Return line and column, from 1, of a value or of what should have held it."""
        for end in range(len(where), -1, -1):
            if where[:end] in self._marks:
                return self._marks[where[:end]]
        return (1, 1)

    def _named(self, where: Where) -> str:
        text, value = "", self.data
        for part in where:
            value = _child(value, part)
            name = _child(value, "name")
            if isinstance(part, str):
                step = f".{part if _NAME.fullmatch(part) else _shown(part)}"
            else:
                known = isinstance(name, str) and _NAME.fullmatch(name)
                step = f".{name}" if known else f"[{part}]"
            text += step
        return text.removeprefix(".") or "file"

    def read(self) -> None:
        """Read the file into `data`."""
        text = self._text()
        events = yaml.parse(text, Loader=LOADER)
        try:
            self._document(events)
        except yaml.MarkedYAMLError as error:
            at = error.problem_mark or error.context_mark
            problem = ", ".join(part for part in (error.context, error.problem) if part)
            mark = (at.line + 1, at.column + 1) if at else (1, 1)
            line = "".join(text.splitlines()[mark[0] - 1 : mark[0]])
            is_tab = "\t" in line[: mark[1]]
            use = "spaces, not tabs" if is_tab else "YAML; the line before may be the one"
            self.note(mark, (), f"broken YAML ({problem})", use)
            raise _Unreadable from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            self.note((1, 1), (), f"broken YAML ({type(error).__name__})", "YAML")
            raise _Unreadable from None

    def _text(self) -> str:
        try:
            with self.path.open("rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._end((1, 1), f"no readable file ({why})", "a file that exists and may be read")
        if len(raw) > MAX_BYTES:
            self._end((1, 1), "more than 4 MiB", "a smaller file")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode(errors="replace")
            self._end(_end_of(before), f"byte 0x{raw[error.start]:02x}", "UTF-8")
        # NEL, LS and PS would end a line for YAML 1.1 and not for an editor: refused as well.
        if odd := re.search(
            r"[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]",
            text,
        ):
            code = f"control character U+{ord(odd[0]):04X}"
            self._end(_end_of(text[: odd.start()]), code, "printable text")
        return text

    def _end(self, mark: tuple[int, int], found: str, use: str) -> NoReturn:
        self.note(mark, (), found, use)
        raise _Unreadable

    def _document(self, events: Iterator[Any]) -> None:
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            self._end((1, 1), "an empty file", 'a mapping that starts with "version: 1"')
        self.data = self._value(events, next(events), ())
        next(events)
        if not isinstance(after := next(events), yaml.StreamEndEvent):
            self.note(_mark_of(after), (), "a second document", "one document a file")
        if not isinstance(self.data, dict):
            use = 'a mapping that starts with "version: 1"'
            self.fault((), _shown(self.data), use, settle=True)

    def _value(self, events: Iterator[Any], event: Any, where: Where) -> object:
        """Return the value that `event` starts; its place goes into the marks."""
        self._marks.setdefault(where, _mark_of(event))
        self._bound(event, len(where))
        if isinstance(event, yaml.AliasEvent):
            use = "the value itself, written out"
            self.fault(where, f"alias *{str(event.anchor)[:40]}", use, settle=True)
            return None
        if event.anchor is not None:
            self.fault(where, f"anchor &{str(event.anchor)[:40]}", "the value without an anchor")
        if event.tag is not None:
            self.fault(where, f"tag {_shown(event.tag)}", "the value without a tag", settle=True)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, where)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, where)
        return self._mapping(events, where)

    def _bound(self, event: Any, depth: int) -> None:
        """End the reading of a text that was made to be expensive."""
        if depth > MAX_DEPTH:
            self._end(_mark_of(event), f"more than {MAX_DEPTH} levels", "a flatter file")
        if len(self._marks) > MAX_VALUES:
            self._end(_mark_of(event), f"more than {MAX_VALUES} values", "a smaller file")

    def _scalar(self, event: Any, where: Where) -> object:
        text: str = event.value
        if re.search("[\ud800-\udfff]", text):
            self.fault(where, "half of a surrogate pair", "whole characters", settle=True)
            return None
        if not event.implicit[0]:
            return text
        if reading := _surprise(text):
            use = "true or false, or" if reading in {"true", "false"} else "a decimal number, or"
            found = f"{text}, which other YAML tools read as {reading}"
            self.fault(where, found, f'{use} quotes for text: "{text}"', settle=True)
            return text
        return _plain(text)

    def _sequence(self, events: Iterator[Any], where: Where) -> tuple[object, ...]:
        values: list[object] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._value(events, event, (*where, len(values))))
        return tuple(values)

    def _mapping(self, events: Iterator[Any], where: Where) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(events, event, where)
            at = (*where, key if key is not None else "?")
            if key is not None and key not in values:
                self._key_marks[at] = _mark_of(event)
                values[key] = self._value(events, next(events), at)
                continue
            if key is not None:
                first = self._key_marks[at][0]
                use = "each key once"
                self.note(_mark_of(event), at, f"this key again, first on line {first}", use)
            self._skip(events, next(events))
        return values

    def _key(self, events: Iterator[Any], event: Any, where: Where) -> str | None:
        """Return a mapping's key, or None where it has no text; notes what is wrong with it."""
        use = "a plain word as key"
        if not isinstance(event, yaml.ScalarEvent):
            self._skip(events, event)
            found = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or mapping as key"
        elif event.anchor is not None or event.tag is not None:
            found = "an anchor or tag"
        elif event.implicit[0] and event.value == "<<":
            found, use = "merge key <<", "the keys themselves, written out"
        else:
            if event.implicit[0]:
                self._plain_key(event, where)
            return str(event.value)
        self.note(_mark_of(event), where, found, use)
        return None

    def _plain_key(self, event: Any, where: Where) -> None:
        found = f"{event.value or 'nothing'} as a key"
        if reading := _surprise(event.value):
            found = f"{event.value}, which other YAML tools read as {reading}"
        elif isinstance(_plain(event.value), str):
            return
        self.note(_mark_of(event), where, found, f'quotes: "{event.value}"')
        self.settle((*where, event.value))

    def _skip(self, events: Iterator[Any], event: Any) -> None:
        depth = 0
        while True:
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth == 0:
                return
            self._bound(event, depth)
            event = next(events)


def _folder(path: Path) -> Path:
    try:
        return path.absolute().parent
    except OSError:  # the working directory is gone
        return path.parent


def _mark_of(event: Any) -> tuple[int, int]:
    return (event.start_mark.line + 1, event.start_mark.column + 1)


def _end_of(text: str) -> tuple[int, int]:
    lines = re.split(r"\r\n|\r|\n", text)
    return (len(lines), len(lines[-1]) + 1)


def _child(value: object, key: str | int) -> object:
    """Return what a mapping or list holds; None where it holds no such thing."""
    if isinstance(value, dict) and isinstance(key, str):
        return value.get(key)
    if isinstance(value, tuple) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place of the file that may hold anything, or nothing."""

    value: object
    where: Where

    def at(self, *keys: str) -> "_Spot":
        """Return the place below; its value is None where there is none."""
        value = self.value
        for key in keys:
            value = _child(value, key)
        return _Spot(value, (*self.where, *keys))

    def items(self) -> list["_Spot"]:
        """Return the places in a list, or under the keys of a mapping; none elsewhere."""
        if isinstance(self.value, dict):
            return [_Spot(value, (*self.where, key)) for key, value in self.value.items()]
        values = self.value if isinstance(self.value, tuple) else ()
        return [_Spot(value, (*self.where, index)) for index, value in enumerate(values)]

    @property
    def text(self) -> str | None:
        """The value where it is text."""
        return self.value if isinstance(self.value, str) else None


# ------------------------------------------------------------------ second pass: single values
_WANTED = {
    "bool_type": "true or false",
    "string_type": "text; put quotes around it",
    "tuple_type": "a list",
    "dict_type": "a mapping of names",
    "model_type": "a mapping of keys and values",
}


def _judge_values(source: _Source) -> Config | None:
    """Build the configuration; None, with every fault noted, where that cannot be done."""
    _no_nulls(source, source.data, ())
    root = _Spot(source.data, ())
    for group in root.at("groups").items():
        for adapter in group.at("adapters").items():
            _known_type(source, adapter, ADAPTERS)
        for node in group.at("nodes").items():
            for check in node.at("agent", "checks").items():
                _known_type(source, check, tuple(CHECKS))
    try:
        context = {"folder": source.folder, "path": source.path}
        return Config.model_validate(source.data, context=context)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            _note_pydantic(source, fault)
    return None


def _no_nulls(source: _Source, value: object, where: Where) -> None:
    """A key without a value is a line half written; only a limit says null on purpose."""
    if value is None and where != ("limits", "failovers_per_minute"):
        source.fault(where, "nothing", "a value, or leave the key out", settle=True)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _no_nulls(source, inner, (*where, key))
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            _no_nulls(source, inner, (*where, index))


def _known_type(source: _Source, spot: _Spot, known: Sequence[str]) -> None:
    """Settle an entry whose type is unknown: none of its keys could be judged."""
    kind = spot.at("type")
    if isinstance(spot.value, dict) and kind.value not in known:
        source.fault(kind.where, _shown(kind.value), " or ".join(known))
        source.settle(spot.where)


def _note_pydantic(source: _Source, fault: Any) -> None:
    if fault["type"] == "default_factory_not_called":
        return  # another fault of the same mapping is the cause
    where = _where(fault["loc"])
    pattern = tuple(part for part in where if isinstance(part, str))
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        meant, use = _nearest(pattern[-1], _known_keys(fault["loc"], pattern))
        source.fault(where, f"an unknown key{meant}", use, at_key=True, settle=True)
    elif kind == "missing":
        field = KEYS[pattern[:-1]][pattern[-1]]
        source.fault(where, "nothing", str(field.description), settle=True)
    elif kind == "literal_error":
        source.fault(where, _shown(value), fault["ctx"]["expected"].replace("'", ""), settle=True)
    else:
        use = fault.get("ctx", {}).get("use") or _WANTED.get(kind) or fault["msg"]
        source.fault(where, _shown(value), use, settle=True)


def _known_keys(loc: tuple[str | int, ...], pattern: tuple[str, ...]) -> Iterable[str]:
    """Return the keys of the mapping that holds an unknown one; a check's depend on its type."""
    if pattern[-2:-1] == ("checks",):
        fields = CHECKS[str(loc[-2])].model_fields
        return sorted(field.alias or name for name, field in fields.items())
    return KEYS[pattern[:-1]]


def _where(loc: tuple[str | int, ...]) -> Where:
    """Return a place in the file: pydantic puts the type of a check behind its number."""
    return tuple(
        part
        for i, part in enumerate(loc)
        if not (i >= 2 and loc[i - 2] == "checks" and isinstance(loc[i - 1], int))
    )


def _nearest(word: str, known: Iterable[str]) -> tuple[str, str]:
    """Return the likely word, as a question in brackets or nothing, and the list of all."""
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word, names, 1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return meant, f"one of: {', '.join(names)}" if names else "no key here"


# ------------------------------------------------------------------ third pass: rules across values
def _judge_rules(source: _Source, as_: str) -> None:
    root = _Spot(source.data, ())
    groups = root.at("groups").items()
    if isinstance(root.at("groups").value, tuple) and not groups:
        source.fault(("groups",), "no group", "at least one")
    _unique(source, [group.at("name") for group in groups], "a group name")
    for group in groups:
        _judge_group(source, group)
    _renamed(source, groups)
    adapters = [adapter for group in groups for adapter in group.at("adapters").items()]
    _unique(source, adapters, "a backend", key=lambda spot: _moves(source, spot))
    _unique_agents(source, groups)
    _judge_listeners(source, root, groups)
    _judge_api(source, root.at("api"))
    _judge_reader(source, root, groups, as_)


def _unique(
    source: _Source,
    spots: Iterable[_Spot],
    what: str,
    key: Callable[[_Spot], str | None] = lambda spot: spot.text,
) -> None:
    first: dict[str, _Spot] = {}
    for spot in spots:
        text = key(spot)
        if text is not None and (before := first.setdefault(text, spot)) is not spot:
            line = source.mark(before.where)[0]
            source.fault(
                spot.where, f"{_shown(text)} again, first on line {line}", f"{what} of its own"
            )


def _address_at(spot: _Spot) -> str | None:
    try:
        return str(_url(spot.text or "").address)
    except ValueError:
        return None


def _judge_group(source: _Source, group: _Spot) -> None:
    nodes = group.at("nodes").items()
    _unique(source, [node.at("name") for node in nodes], "a node name")
    _unique(source, [node.at("url") for node in nodes], "an address", key=_address_at)
    for node in nodes:
        if node.at("tls").value is not None and (node.at("url").text or "").startswith("http:"):
            source.fault(node.at("tls").where, "tls with an http url", "https, or leave tls out")
        _judge_checks(source, node.at("agent", "checks").items())
    needed = _judge_roles(source, group, nodes)
    _unique(source, [a.at("name") for a in group.at("adapters").items()], "an adapter name")
    names = [node.at("name").text for node in nodes]
    for adapter in group.at("adapters").items():
        if isinstance(adapter.at("nodes").value, dict):
            _judge_servers(source, adapter.at("nodes"), names, needed)


def _judge_checks(source: _Source, checks: list[_Spot]) -> None:
    def name(check: _Spot) -> str | None:
        default = f"{check.at('type').text}-{int(check.where[-1]) + 1}"
        return default if check.at("name").value is None else check.at("name").text

    _unique(source, checks, "a check name", key=name)


def _judge_roles(source: _Source, group: _Spot, nodes: list[_Spot]) -> list[str]:
    """Judge who is primary and who is candidate; return the names every adapter must know."""
    roles = [node.at("role").text for node in nodes]
    if not isinstance(group.at("nodes").value, tuple) or not {"primary", "secondary"}.issuperset(
        role or "" for role in roles
    ):
        return []
    primaries = [node for node in nodes if node.at("role").text == "primary"]
    secondaries = [node for node in nodes if node.at("role").text == "secondary"]
    where = group.at("nodes").where
    if not primaries:
        source.fault(where, "no primary", "role: primary on one node")
    if not secondaries:
        source.fault(where, "no secondary", "role: secondary on at least one node")
    for extra in primaries[1:]:
        line = source.mark(primaries[0].at("role").where)[0]
        found = f"a second primary, first on line {line}"
        source.fault(extra.at("role").where, found, "one primary a group")
    for node in primaries:
        if node.at("candidate").value is True:
            source.fault(node.at("candidate").where, "true on a primary", "it on a secondary")
    chosen = primaries[:1] + _judge_candidate(source, group, secondaries)
    return [name for node in chosen if (name := node.at("name").text)]


def _judge_candidate(source: _Source, group: _Spot, secondaries: list[_Spot]) -> list[_Spot]:
    if len(secondaries) == 1:
        if secondaries[0].at("candidate").value is False:
            where = secondaries[0].at("candidate").where
            source.fault(where, "false on the only secondary", "true, or leave the key out")
        return secondaries
    marked = [node for node in secondaries if node.at("candidate").value is True]
    if secondaries and not marked:
        found = f"{len(secondaries)} secondaries and no candidate"
        use = "candidate: true on the one that automation may choose"
        source.fault(group.at("nodes").where, found, use)
    for extra in marked[1:]:
        line = source.mark(marked[0].at("candidate").where)[0]
        found = f"a second candidate, first on line {line}"
        source.fault(extra.at("candidate").where, found, "one candidate a group")
    return marked[:1]


def _judge_servers(
    source: _Source, servers: _Spot, names: list[str | None], needed: list[str]
) -> None:
    _unique(source, servers.items(), "a server")
    said = {str(spot.where[-1]): spot for spot in servers.items()}
    if None not in names:
        for name, spot in said.items():
            if name not in names:
                meant, use = _nearest(name, [known for known in names if known])
                source.fault(spot.where, f"no such node in the group{meant}", use, at_key=True)
    for name in needed:
        if name not in said:
            source.fault(servers.where, f"no server for {_shown(name)}", f"{name}: SERVER in it")


def _moves(source: _Source, adapter: _Spot) -> str | None:
    """Return what an adapter moves, however its socket is spelled; None where it cannot be told."""
    socket, backend = adapter.at("socket").text, adapter.at("backend").text
    if adapter.at("type").text not in ADAPTERS or socket is None or backend is None:
        return None
    try:
        place = _haproxy_socket(socket, source.folder)
    except ValueError:
        return None
    device = str(place) if isinstance(place, Address) else os.path.normpath(place)
    return f"backend {backend} on {device}"


def _renamed(source: _Source, groups: list[_Spot]) -> None:
    names = {group.at("name").text for group in groups}
    _unique(source, [group.at("was") for group in groups], "an old name")
    for group in groups:
        was = group.at("was")
        if was.text is not None and was.text in names:
            source.fault(
                was.where, "the name of a group in this file", "the old name, or leave it out"
            )


def _unique_agents(source: _Source, groups: list[_Spot]) -> None:
    """`agent --node NAME` names no group, so the name must be enough."""
    firsts = [{spot.text: spot for spot in reversed(_agents([group]))} for group in groups]
    _unique(source, [spot for names in firsts for spot in names.values()], "a node name")


def _agents(groups: list[_Spot]) -> list[_Spot]:
    nodes = [node for group in groups for node in group.at("nodes").items()]
    return [node.at("name") for node in nodes if node.at("agent").value is not None]


def _judge_listeners(source: _Source, root: _Spot, groups: list[_Spot]) -> None:
    """No address is listened on twice; agents on loopback or on all addresses have own hosts."""
    taken: list[tuple[Address, _Spot]] = []
    ours = [root.at("api", "listen"), root.at("metrics", "listen")]
    nodes = [node for group in groups for node in group.at("nodes").items()]
    for spot in [*ours, *(node.at("agent", "listen") for node in nodes)]:
        address = _listener(spot)
        if address is None or (spot not in ours and (address.is_loopback or _is_any(address))):
            continue
        for other, before in taken:
            if _clash(address, other):
                line = source.mark(before.where)[0]
                found = f"{_shown(spot.text)}, taken by {_shown(before.text)} on line {line}"
                source.fault(spot.where, found, "another port")
        taken.append((address, spot))


def _listener(spot: _Spot) -> Address | None:
    try:
        return Address.parse(spot.text or "")
    except ValueError:
        return None


def _is_any(address: Address) -> bool:
    return bool(address.ip and address.ip.is_unspecified)


def _clash(one: Address, other: Address) -> bool:
    same = one.host == other.host or _is_any(one) or _is_any(other)
    return same and one.port == other.port


def _judge_api(source: _Source, api: _Spot) -> None:
    listen = api.at("listen")
    address = _listener(listen)
    if address is not None and not address.is_loopback:
        use = "a loopback address such as 127.0.0.1:8600 (the API has no TLS yet)"
        source.fault(listen.where, _shown(listen.text), use)
    if isinstance(api.value, dict) and not {"listen", "socket"} & api.value.keys():
        source.fault(api.where, "neither socket nor listen", "one of them, or leave api out")
    _unique(source, [operator.at("name") for operator in api.at("operators").items()], "a name")


def _judge_reader(source: _Source, root: _Spot, groups: list[_Spot], as_: str) -> None:
    """Judge what only the process that reads the file needs: its node, its secrets, its files."""
    if as_.startswith("agent:"):
        _judge_agent(source, groups, as_.removeprefix("agent:"))
    elif as_ in {"prober", "check"}:
        for operator in root.at("api", "operators").items():
            _judge_file(source, operator.at("token_file"), secret=True)
        for group in groups:
            for node in group.at("nodes").items():
                _judge_file(source, node.at("tls", "ca_file"), secret=False)
    elif as_ != "client":
        source.note((1, 1), (), f"--as {_shown(as_)}", "prober, agent:NAME, client or check")


def _judge_agent(source: _Source, groups: list[_Spot], name: str) -> None:
    known = [text for spot in _agents(groups) if (text := spot.text)]
    for group in groups:
        for node in group.at("nodes").items():
            if node.at("name").text == name and name not in known:
                use = "agent: {listen: ..., control: ...} in it"
                source.fault(node.where, "no agent", use)
                return
    if name not in known:
        meant, use = _nearest(name, known)
        use = use if known else "a node with agent: in it"
        source.fault(("groups",), f"no node {_shown(name)}{meant}", use)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES)


def _judge_file(source: _Source, spot: _Spot, *, secret: bool) -> None:
    if spot.text is None:
        return
    try:
        path = _path(spot.text, source.folder)
        status = path.stat()
        raw = _head(path) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        found = f"no readable file {_shown(spot.text)} ({error.strerror})"
        source.fault(spot.where, found, "a file that this user may read")
        return
    except ValueError:
        return  # no path at all: told already
    if raw is None:
        source.fault(spot.where, f"no regular file {_shown(spot.text)}", "a regular file")
    elif not secret:
        if b"-----BEGIN " not in raw:
            source.fault(spot.where, f"no certificate in {_shown(spot.text)}", "a PEM file")
    elif not raw.strip():
        source.fault(spot.where, f"an empty file {_shown(spot.text)}", "a file with the secret")
    elif status.st_mode & 0o007:
        found = f"mode {stat.S_IMODE(status.st_mode):04o}, open to others"
        source.fault(spot.where, found, f"chmod o-rwx {shlex.quote(str(path))}")


# ------------------------------------------------------------------ the way in
def load(path: Path, *, as_: str = "check") -> Config:
    """Read probes.yaml for one process.

    Args:
        path: The file; faults name it as given, and relative paths in it start at its folder.
        as_: Who reads: "prober" and "check" need the prober's secrets and certificates,
            "agent:NAME" needs that node to have an agent, "client" needs nothing more.

    Raises:
        ConfigError: It cannot be used; lists every mistake.
    """
    source = _Source(path)
    config = None
    try:
        source.read()
    except _Unreadable:
        raise ConfigError(source.faults) from None
    if isinstance(source.data, dict):
        version = source.data.get("version")
        if type(version) is int and version > VERSION:
            use = f"{VERSION}, which this program reads, or upgrade lb-probe"
            source.note(source.mark(("version",)), ("version",), str(version), use)
            raise ConfigError(source.faults)
        config = _judge_values(source)
        _judge_rules(source, as_)
    if source.faults or config is None:
        raise ConfigError(source.faults)
    return config


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
