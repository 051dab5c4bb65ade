"""Where something listens: a host and a port, or a url; one spelling for each."""

import ipaddress
import re
from dataclasses import dataclass

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]|([^:\[\]]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or an address, IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `host:port` or `[v6]:port`; ValueError says what to use."""
        match = _ADDRESS.fullmatch(text)
        if match is None or not 1 <= int(match[3]) <= 65535:
            raise ValueError(
                'host:port with a port from 1 to 65535, e.g. "127.0.0.1:8080" or "[::1]:8080"'
            )
        return cls(parse_host(match[1] or match[2]), int(match[3]))

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

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of a machine."""
        return bool(self.ip and self.ip.is_unspecified)


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https address, or tcp or tls for a node without pages.

    Attributes:
        target: Path and query; empty for a node's url.
    """

    scheme: str
    host: str
    port: int
    target: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}{self.target}"

    @classmethod
    def parse(cls, text: str) -> "Url":
        """Read a url without user, password and fragment; ValueError says what to use."""
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
        _refuse_metadata(address)
        return cls(scheme, address.host, address.port, target)

    @classmethod
    def parse_any(cls, text: str) -> "Url":
        """Read a node's url, which may also be tcp or tls with a port; ValueError as `parse`."""
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() not in {"tcp", "tls"}:
            return cls.parse(text)
        address = Address.parse(rest)
        _refuse_metadata(address)
        return cls(scheme.lower(), address.host, address.port)

    @property
    def address(self) -> Address:
        """Host and port, whatever the scheme."""
        return Address(self.host, self.port)


def _refuse_metadata(address: Address) -> None:
    # A cloud's metadata service lives there; a health probe never does (SSRF).
    if address.ip is not None and (address.ip.is_link_local or address.host == "fd00:ec2::254"):
        raise ValueError("an address outside 169.254.0.0/16, fe80::/10 and fd00:ec2::254")


def parse_host(text: str) -> str:
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
