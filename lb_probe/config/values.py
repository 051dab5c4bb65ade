"""The kinds of single values: how each is read, what a fault tells to use, and its JSON schema.

A parser takes what stands in the file and raises ValueError with the words that follow `use`.
"""

import base64
import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo

from lb_probe.config.address import Address, Url, parse_host
from lb_probe.core.notice import CLASSES
from lb_probe.core.sync_schedule import parse_run_every, parse_start

NAME = r"[A-Za-z0-9_.:-]{1,128}"
_DURATION = r"[0-9]{1,9}(?:\.[0-9]{1,3})?(?:ms|s|m|h|d)"
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


# ------------------------------------------------------------------ durations and numbers
def _duration(least: str) -> PlainValidator:
    def read(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError(f'a unit, e.g. "{value if value > 0 else 1}s"')
        if not isinstance(value, str) or not re.fullmatch(f"-?{_DURATION}", value):
            raise ValueError('a number and a unit (ms, s, m, h or d), e.g. "1s"')
        if not _seconds(least) <= _seconds(value) <= _seconds("1d"):
            raise ValueError(f"{least} to 1d")
        return _seconds(value)

    return PlainValidator(read, json_schema_input_type=_matched(_DURATION))


def _seconds(text: str) -> float:
    number = text.rstrip("mshd")
    return float(number) * _UNITS_MS[text.removeprefix(number)] / 1000


def _whole(least: int, most: int) -> PlainValidator:
    def read(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return PlainValidator(read, json_schema_input_type=Annotated[int, Field(ge=least, le=most)])


# ------------------------------------------------------------------ texts
def _text(parse: Callable[..., object], schema: Any = str, *, rooted: bool = False) -> Any:
    """Return how a text is read; `rooted` gives the parser the file's folder as well."""

    def read(value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            raise ValueError("text; put quotes around it")
        folder = (info.context or {}).get("folder", Path())
        return parse(value, folder) if rooted else parse(value)

    return PlainValidator(read, json_schema_input_type=schema)


def _matched(pattern: str) -> Any:
    """Return text that matches as a whole, as the schema shows it."""
    return Annotated[str, Field(pattern=f"^{pattern}$")]


def _like(pattern: str, use: str) -> Any:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(use)
        return text

    return _text(parse, _matched(pattern))


def _target(text: str) -> Address:
    if not text.startswith("tcp://"):
        raise ValueError('tcp://host:port, e.g. "tcp://192.0.2.1:443"')
    return Address.parse(text.removeprefix("tcp://"))


def _node_url(text: str) -> Url:
    url = Url.parse_any(text)
    if url.target:
        use = text[: len(text) - len(url.target)]
        raise ValueError(f'"{use}" alone; paths belong in status_path and hastatus_path')
    return url


def _percent(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}%", text) or int(text[:-1]) > 100:
        raise ValueError('a share from 0% to 100%, e.g. "50%"')
    return int(text[:-1])


def _after(text: str) -> float:
    word, _, time = text.partition(" ")
    if word != "after" or not re.fullmatch(_DURATION, time) or _seconds(time) > _seconds("1h"):
        raise ValueError('"after" and a time of up to 1h, e.g. "after 1s"')
    return _seconds(time)


def _fingerprint(text: str) -> str:
    digits = text.lower().removeprefix("sha256:").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(
            "the SHA-256 of the certificate, 64 hexadecimal digits, as `openssl x509 -noout"
            " -fingerprint -sha256` prints it"
        )
    return digits


def _source_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("an IP address of this machine, e.g. 192.0.2.5") from None


def _one_or_more(pattern: str, use: str) -> Any:
    def read(value: object) -> tuple[str, ...]:
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(isinstance(v, str) and re.fullmatch(pattern, v) for v in values):
            raise ValueError(use)
        if len(set(values)) < len(values):
            raise ValueError(f"{use}, each once")
        return values

    one: Any = _matched(pattern)
    schema: Any = one | Annotated[list[one], Field(min_length=1)]
    return PlainValidator(read, json_schema_input_type=schema)


def _program(value: Any) -> Any:
    is_texts = isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    if not is_texts or not value or not value[0]:
        raise ValueError('a list of texts, program first, e.g. ["/usr/bin/systemctl", "is-active"]')
    if "/" in value[0] and not value[0].startswith("/"):
        raise ValueError("an absolute path or a bare name as the program")
    return value


@dataclass(frozen=True, slots=True)
class FreeRoom:
    """Least room on a file system: a share of it, or bytes; the other is 0."""

    percent: float = 0.0
    size: int = 0


_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_ROOM = r"(?:100|[0-9]{1,2}(?:\.[0-9])?)%|[0-9]{1,6}(?:[KMGT]i)?B"


def _room(text: str) -> FreeRoom:
    if not re.fullmatch(_ROOM, text):
        raise ValueError('a share or a size, e.g. "10%" or "5GiB" (B, KiB, MiB, GiB, TiB)')
    if text.endswith("%"):
        return FreeRoom(percent=float(text[:-1]))
    number = text.rstrip("KMGTiB")
    return FreeRoom(size=int(number) * _SIZES[text.removeprefix(number)])


# ------------------------------------------------------------------ notifications
_ADDRESS = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,255}"


def _address(text: str) -> str:
    local, _, host = text.rpartition("@")
    is_plain = re.fullmatch(_ADDRESS, text) and not re.search(r"^\.|\.\.|\.$", local)
    if not is_plain or _host_or_none(host) is None:
        raise ValueError("an e-mail address in plain ASCII, e.g. ops@example.com")
    return text


def _addresses(value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, tuple) else (value,)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("an e-mail address or a list of them, e.g. [ops@example.com]")
    found = tuple(_address(str(text)) for text in texts)
    if len(set(found)) < len(found):
        raise ValueError("each address once")
    return found


_TOLD = tuple(name for name in CLASSES if name != "test")


def _classes(value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, tuple) else ()
    if not texts or not set(texts) <= set(_TOLD) or len(set(texts)) < len(texts):
        raise ValueError(f"a list of these, each once: {', '.join(_TOLD)}")
    return tuple(str(text) for text in texts)


def _remind(text: str) -> float | None:
    if text == "none":
        return None
    if not re.fullmatch(_DURATION, text) or not 60 <= _seconds(text) <= _seconds("30d"):
        raise ValueError('1m to 30d, e.g. "12h", or none')
    return _seconds(text)


# ------------------------------------------------------------------ DNS
def parse_dns_server(text: str) -> Address:
    """Return the place of a name server: an IP address, port 53 unless it says another."""
    try:
        return Address(str(ipaddress.ip_address(text)), 53)
    except ValueError:
        pass
    try:
        address = Address.parse(text)
    except ValueError:
        address = None
    if address is None or address.ip is None:
        raise ValueError("an IP address, e.g. 192.0.2.53, or with a port, e.g. 192.0.2.53:5353")
    return address


def parse_dns_name(text: str) -> str:
    """Return a name in its one spelling, without the dot that ends it."""
    host = _host_or_none(text.removesuffix("."))
    if host is None or Address(host, 53).ip is not None:
        raise ValueError("a DNS name, e.g. example.com")
    return host


def _host_or_none(text: str) -> str | None:
    try:
        return parse_host(text)
    except ValueError:
        return None


def parse_record_value(text: str) -> str:
    """Return what a record may point at, in its one spelling: an IP address or a host name."""
    host = parse_host(text.removesuffix("."))
    address = Address(host, 53).ip
    if address is not None and (address.is_unspecified or address.is_multicast):
        raise ValueError("the address of a node, e.g. 192.0.2.10")
    return host


def _record_values(value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, tuple) else (value,)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("an address, or a list of addresses; or one name with cname: true")
    return tuple(parse_record_value(str(text)) for text in texts)


def _whole_seconds(seconds: float) -> float:
    if seconds != int(seconds):
        raise ValueError('whole seconds, e.g. "30s"')
    return seconds


def parse_tsig_key(text: str) -> str:
    """Return the secret in base64 out of a key file.

    It may hold the secret alone, or a key as `tsig-keygen` (BIND) or `keymgr -t` (Knot) prints it.
    """
    named = re.search(r"""\bsecret:?\s+["']?([A-Za-z0-9+/=]+)""", text)
    secret = named[1] if named else "".join(text.split())
    try:
        raw = base64.b64decode(secret, validate=True)
    except ValueError:
        raw = b""
    if not raw:
        raise ValueError("the secret in base64, or the key as tsig-keygen or keymgr -t prints it")
    return secret


# ------------------------------------------------------------------ F5
_F5_PART = r"[A-Za-z0-9_.%-]{1,128}"


def parse_f5_host(text: str) -> Url:
    """Return the place of a unit's management interface: https, with a port where it is not 443."""
    try:
        url = Url.parse(text)
    except ValueError:
        url = None
    if url is None or url.scheme != "https" or url.target not in ("", "/"):
        raise ValueError('https:// and the management address of a unit, e.g. "https://10.0.0.5"')
    return Url(url.scheme, url.host, url.port)


def _ltm_member(text: str) -> str:
    folder, _, name = text.rpartition("/")
    # A port follows a colon, of an IPv6 address a dot.
    host, _, port = name.rpartition(":" if name.count(":") == 1 else ".")
    is_path = re.fullmatch(rf"(?:/{_F5_PART})+", folder) is not None
    if not (is_path and ":" in name and re.fullmatch(r"[A-Za-z0-9_.:%-]{1,128}", host)
            and re.fullmatch("[0-9]{1,5}", port)):  # fmt: skip
        raise ValueError(
            "the full path of a pool member, e.g. /Common/192.0.2.10:443, or for IPv6"
            " /Common/2001:db8::10.443"
        )
    return text


# ------------------------------------------------------------------ paths
def parse_path(text: str, folder: Path) -> Path:
    """Return a path; a relative one starts at the file's folder."""
    if not text or not text.isprintable() or text.startswith("~"):
        raise ValueError("a path; a relative one starts at this file's folder, ~ is not expanded")
    return folder / text


def _socket_path(text: str, folder: Path) -> Path:
    path = parse_path(text, folder)
    if len(os.fsencode(path)) > 107:
        raise ValueError("a shorter path: the system allows 107 bytes for a UNIX socket")
    return path


def _local_file(text: str, folder: Path) -> Path | None:
    return None if text == "none" else parse_path(text, folder)


def _store(text: str, folder: Path) -> Path:
    scheme, _, path = text.partition(":")
    if scheme != "sqlite" or not path:
        raise ValueError("sqlite:PATH, e.g. sqlite:/var/lib/lb-probe/state.db")
    return parse_path(path, folder)


def parse_haproxy_socket(text: str, folder: Path) -> Path | Address:
    """Return the place of HAProxy's runtime socket: a path, or host:port."""
    if re.match(r"(unix|abns|ipv4|ipv6|fd|tcp)[@:]", text):
        raise ValueError('the path or host:port alone, e.g. "/run/haproxy/admin.sock"')
    return Address.parse(text) if "/" not in text and ":" in text else _socket_path(text, folder)


# ------------------------------------------------------------------ the kinds, for the models
_HTTP = "[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+"
Duration = Annotated[float, _duration("10ms")]
ZeroDuration = Annotated[float, _duration("0s")]
Count = Annotated[int, _whole(1, 1000)]
CheckCount = Annotated[int, _whole(1, 100)]
Room = Annotated[FreeRoom, _text(_room, _matched(f"(?:{_ROOM})"))]
Unit = Annotated[
    str,
    _like(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}", "a unit's name, e.g. postgresql.service"),
]
Program = Annotated[str, _like(r"[^/\s][^/]{0,254}", "a file name without a folder, e.g. postgres")]
Port = Annotated[int, _whole(1, 65535)]
Account = Annotated[
    str, _like(r"[^\s:/,]{1,128}", "a name as `getent passwd` or `getent group` shows it")
]
HttpStatus = Annotated[int, _whole(100, 599)]
Name = Annotated[str, _like(NAME, "1 to 128 of the characters A-Z a-z 0-9 _ . : -")]
Text = Annotated[str, _like(r"[\s\S]+", "text that is not empty")]
Host = Annotated[str, _text(parse_host)]
PagePath = Annotated[
    str, _like(r"/[!-\"$-~]*", "a path that starts with / and has no spaces and no '#'")
]
FilePath = Annotated[Path, _text(parse_path, rooted=True)]
SocketPath = Annotated[Path, _text(_socket_path, rooted=True)]
StorePath = Annotated[Path, _text(_store, _matched("sqlite:.+"), rooted=True)]
HostPort = Annotated[Address, _text(Address.parse, _matched(".+:[0-9]{1,5}"))]
Target = Annotated[Address, _text(_target, _matched("tcp://.+:[0-9]{1,5}"))]
NodeUrl = Annotated[Url, _text(_node_url, _matched("(?:[Hh][Tt][Tt][Pp][Ss]?|tcp|tls)://[^/?#@]+"))]
CheckUrl = Annotated[Url, _text(Url.parse, _matched(f"{_HTTP}.*"))]
Argv = Annotated[
    tuple[str, ...],
    PlainValidator(
        _program, json_schema_input_type=Annotated[tuple[str, ...], Field(min_length=1)]
    ),
]
HaproxySocket = Annotated[Path | Address, _text(parse_haproxy_socket, rooted=True)]
# No space, `;` or backslash: they would need an escape in HAProxy's runtime commands.
_PLAIN_PATH = r"[!-:<-\[\]-~]{1,255}"
MapFile = Annotated[str, _like(_PLAIN_PATH, "the file as HAProxy's configuration spells it")]
LocalFile = Annotated[Path | None, _text(_local_file, rooted=True)]
Names = Annotated[
    tuple[str, ...], _one_or_more(NAME, "a name, or a list of names, of A-Z a-z 0-9 _ . : -")
]
Prefix = Annotated[str, _like(r"[A-Za-z0-9_.:-]{0,64}", "up to 64 of A-Z a-z 0-9 _ . : -")]
After = Annotated[float, _text(_after, _matched(f"after {_DURATION}"))]
Percent = Annotated[int, _text(_percent, _matched("[0-9]{1,3}%"))]
Fingerprint = Annotated[str, _text(_fingerprint)]
SourceAddress = Annotated[str, _text(_source_address)]
DnsServer = Annotated[Address, _text(parse_dns_server)]
DnsName = Annotated[str, _text(parse_dns_name)]
StartTime = Annotated[int, _text(parse_start)]
RunEvery = Annotated[int, _text(parse_run_every)]
Ttl = Annotated[float, _duration("1s"), AfterValidator(_whole_seconds)]
RecordValues = Annotated[
    tuple[str, ...],
    PlainValidator(
        _record_values,
        json_schema_input_type=str | Annotated[list[str], Field(min_length=1)],
    ),
]
MailAddress = Annotated[str, _text(_address)]
MailAddresses = Annotated[
    tuple[str, ...],
    PlainValidator(
        _addresses, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]
    ),
]
EventClasses = Annotated[
    tuple[str, ...],
    PlainValidator(
        _classes,
        json_schema_input_type=Annotated[list[Literal[_TOLD]], Field(min_length=1)],  # type: ignore[valid-type]
    ),
]
Remind = Annotated[float | None, _text(_remind, _matched(f"none|{_DURATION}"))]
F5Host = Annotated[Url, _text(parse_f5_host, _matched("https://[^/?#@]+/?"))]
F5Pool = Annotated[
    str, _like(rf"(?:/{_F5_PART}){{2,}}", "its full path with partition, e.g. /Common/epmm")
]
LtmMember = Annotated[str, _text(_ltm_member, _matched("(?:/[^/]+)+/[^/]+[:.][0-9]{1,5}"))]
GtmMember = Annotated[
    str,
    _like(
        r"/Common/[A-Za-z0-9_.-]{1,128}:[A-Za-z0-9_./%-]{1,255}",
        "the full path of a pool member, e.g. /Common/SERVER:VIRTUAL_SERVER",
    ),
]
F5User = Annotated[str, _like(r"[!-~]{1,128}", "the name of an account on the device")]
DeviceGroup = Annotated[
    str, _like(r"(?:/Common/)?[A-Za-z0-9_.-]{1,128}", "the name of a sync-failover device group")
]
