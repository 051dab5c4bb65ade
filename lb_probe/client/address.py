"""Where the API is and who asks: the environment, the configuration file, the usual places."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lb_probe.client.errors import Json, Unusable, one_line

DEFAULT_SOCKET = Path("/run/lb-probe/api.sock")
DEFAULT_PORT = 8600
CONFIG_PLACES = (Path("probes.yaml"), Path("/etc/lb-probe/probes.yaml"))


@dataclass(frozen=True, slots=True)
class Address:
    """Where the operator API listens.

    Attributes:
        scheme: http, https or unix.
        host: Name or address; empty for unix.
        path: The socket's path for unix; else a prefix for every path, mostly empty.
        source: Who said so, for messages.
    """

    scheme: str
    host: str
    port: int
    path: str
    source: str

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def find_config(given: Path | None) -> Path | None:
    """Return the configuration file to use: the given one, else the first that exists.

    Raises:
        Unusable: The given one is not there.
    """
    if given is None:
        return next((place for place in CONFIG_PLACES if place.is_file()), None)
    if not given.is_file():
        raise Unusable(f"{given}: no such file; give -c FILE or set LB_PROBE_CONFIG")
    return given


def find_addresses(
    config: Path | None, environ: Mapping[str, str] = os.environ
) -> tuple[Address, ...]:
    """Say where the API is: LB_PROBE_URL, else the configuration file, else the usual places.

    LB_PROBE_URL may hold several addresses, with blanks or commas between them: they are asked in
    this order until one answers.

    Args:
        config: The file given by -c or LB_PROBE_CONFIG; None looks in the usual places.
        environ: Names and values of the environment.

    Raises:
        Unusable: The URL or the file cannot be understood.
    """
    if urls := environ.get("LB_PROBE_URL", "").replace(",", " ").split():
        return tuple(parse_url(url, source="LB_PROBE_URL") for url in urls)
    file = find_config(config)
    # An operator may use the socket without being allowed to read the service's file.
    if file is not None and (config is not None or os.access(file, os.R_OK)):
        address = _address_in(file)
        if address is not None:
            return (address,)
    if DEFAULT_SOCKET.exists():
        return (Address("unix", "", 0, str(DEFAULT_SOCKET), "the default"),)
    return (Address("http", "127.0.0.1", DEFAULT_PORT, "", "the default"),)


def parse_url(url: str, source: str) -> Address:
    """Read `http://HOST:PORT`, `https://HOST:PORT` or `unix:///PATH`.

    Raises:
        Unusable: Something else; the message never repeats a password.
    """
    wanted = "use http://127.0.0.1:8600, https://HOST:8600 or unix:///run/lb-probe/api.sock"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Unusable(f"{source} is not a URL; {wanted}") from None
    if not re.fullmatch("[!-~]+", url):
        raise Unusable(f"{source} holds blanks or signs that no URL may hold; {wanted}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Unusable(
            f"{source} carries a user, a query or a fragment; {wanted};"
            " a token goes into LB_PROBE_TOKEN"
        )
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address("unix", "", 0, unquote(parts.path), source)
    if parts.scheme not in ("http", "https") or not host:
        raise Unusable(f"{source} is {url!r}; {wanted}")
    usual = 443 if parts.scheme == "https" else 80
    return Address(
        parts.scheme, host, usual if port is None else port, parts.path.rstrip("/"), source
    )


def read_yaml(file: Path) -> Json:
    """Read a YAML mapping without judging what is in it.

    Raises:
        Unusable: It cannot be read, or is not a mapping.
    """
    import yaml  # 30 ms, and most client verbs never need it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(file.read_text("utf-8"), Loader=loader)  # noqa: S506 (a safe loader)
    except OSError as error:
        raise Unusable(f"{file}: cannot be read: {error.strerror}; give -c FILE") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Unusable(
            f"{file}: is not YAML: {one_line(error)}; see `lb-probe check -c {file}`"
        ) from error
    if not isinstance(content, dict):
        raise Unusable(
            f"{file}: holds no settings; wanted a mapping; see `lb-probe check -c {file}`"
        )
    return content


def _address_in(file: Path) -> Address | None:
    api = read_yaml(file).get("api")
    if api is None:
        return None
    if not isinstance(api, dict):
        raise Unusable(f"{file}: api: found {api!r}; use a mapping with `listen` or `socket`")
    place, listen = api.get("socket"), api.get("listen")
    if isinstance(place, str):
        path = file.absolute().parent / place
        # One that is not there is named all the same where nothing else is: it is what is missing.
        if path.exists() or listen is None:
            return Address("unix", "", 0, str(path), f"api.socket in {file}")
    if listen is None:
        return None
    address = parse_url(f"http://{listen}", source=f"api.listen in {file}")
    # A listener on every address of the machine is asked on loopback.
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    return Address("http", here, address.port, "", address.source)


def find_token(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the bearer token of LB_PROBE_TOKEN, else of the file LB_PROBE_TOKEN_FILE names.

    Raises:
        Unusable: The file cannot be read, or holds no token; the message never shows it.
    """
    if token := environ.get("LB_PROBE_TOKEN", "").strip():
        return _checked(token, "LB_PROBE_TOKEN")
    file = environ.get("LB_PROBE_TOKEN_FILE")
    if not file:
        return None
    try:
        token = Path(file).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise Unusable(
            f"LB_PROBE_TOKEN_FILE: {file}: {why}; name a file that you may read"
        ) from None
    return _checked(token, f"LB_PROBE_TOKEN_FILE: {file}")


def _checked(token: str, source: str) -> str:
    if not token or not all("!" <= sign <= "~" for sign in token):
        raise Unusable(
            f"{source}: is not a token; wanted one line of printable signs without blanks"
        )
    return token
