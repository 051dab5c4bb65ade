"""Names of things: what a URL says, what the device calls it, and the link it gives back.

A segment of a path is percent-decoded once, and then `~` stands for `/`. So the member
`10.0.0.1%10:80` is `~Common~10.0.0.1%2510:80`; a client that forgets to encode `%` asks for
something else, and is told so by a 404.
"""

import ipaddress
from dataclasses import dataclass
from urllib.parse import quote, unquote

from emulator.errors import Refusal, html

Place = tuple[str, ...]
"""Where an object lives: `("ltm", "pool", "/Common/core", "members", "/Common/10.0.0.1:443")`."""


def segments_of(raw_path: str) -> Place:
    """Return the decoded segments of a path as it came over the wire.

    Raises:
        Refusal: A `%` that starts no escape, or an encoded slash: the web server refuses both
            before anybody else reads them.
    """
    parts = [part for part in raw_path.split("/") if part]
    return tuple(_decoded(part) for part in parts)


def _decoded(part: str) -> str:
    for at, letter in enumerate(part):
        if letter == "%" and not _is_escape(part[at + 1 : at + 3]):
            raise _bad_escape()
    if "%2f" in part.lower():
        raise html(404, "404 Not Found", "The requested URL was not found on this server.")
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise _bad_escape() from None
    return text.replace("~", "/")


def _is_escape(text: str) -> bool:
    return len(text) == 2 and all(letter in "0123456789abcdefABCDEF" for letter in text)


def _bad_escape() -> Refusal:
    text = "Your browser sent a request that this server could not understand."
    return html(400, "400 Bad Request", text)


def link_of(place: Place, version: str, query: str = "") -> str:
    """Return the link that the device gives for a place: always to localhost, always with `ver`."""
    path = "/".join(quote(part.replace("/", "~"), safe="~:.,-_*") for part in place)
    return f"https://localhost/mgmt/tm/{path}?{query}ver={version}"


@dataclass(frozen=True)
class FullPath:
    """A name with its partition and folder: `/Common/app/core`."""

    partition: str
    sub_path: str
    name: str

    def __str__(self) -> str:
        if not self.partition:
            return self.name
        return "/".join(("", self.partition, *filter(None, (self.sub_path,)), self.name))


def full_path(segment: str) -> FullPath:
    """Read one segment; what has no slash in front lives in Common."""
    if not segment.startswith("/"):
        return FullPath("Common", "", segment)
    parts = segment.split("/")[1:]
    if len(parts) == 1:
        return FullPath("Common", "", parts[0])
    return FullPath(parts[0], "/".join(parts[1:-1]), parts[-1])


def gtm_member_path(segment: str) -> FullPath:
    """Read `/Common/server:vs`, or `/Common/server:/Common/vs` with the folder `server:/Common`."""
    partition, _, rest = segment.removeprefix("/").partition("/")
    if not segment.startswith("/"):
        partition, rest = "Common", segment
    folder, _, name = rest.rpartition("/")
    return FullPath(partition, folder, name)


def split_member(name: str) -> tuple[str, int]:
    """Return node and port of a member's name: `10.0.0.1:443`, `2001:db8::1.443`, `mi1:443`.

    Raises:
        ValueError: There is no port, or it is none.
    """
    node, mark, port = name.rpartition(":")
    if "." in name and is_ipv6(name.rpartition(".")[0]):
        node, mark, port = name.rpartition(".")
    elif is_ipv6(name):
        raise ValueError(name)
    if not mark or not node:
        raise ValueError(name)
    number = SERVICES.get(port) if not port.isdecimal() else int(port)
    if number is None or not 0 <= number <= 65535:
        raise ValueError(name)
    return node, number


SERVICES = {"any": 0, "*": 0, "http": 80, "https": 443, "ssh": 22, "domain": 53}


def is_ipv6(text: str) -> bool:
    address = text.partition("%")[0]
    try:
        return ipaddress.ip_address(address).version == 6
    except ValueError:
        return False


def is_address(text: str) -> bool:
    """Tell whether this is an address, with or without a route domain."""
    address, mark, domain = text.partition("%")
    if mark and not domain.isdecimal():
        return False
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def numbers(version: str) -> tuple[int, ...]:
    """Return a version of TMOS to compare: `17.1.2.1` is (17, 1, 2, 1)."""
    return tuple(int(part) for part in version.split("."))
